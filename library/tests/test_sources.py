"""Where tables come from: packed files, spreadsheets, databases; in a new project and in its runs."""

import bz2
import gzip
import importlib.util
import io
import lzma
import sqlite3
import zipfile
from pathlib import Path

import duckdb
import polars as pl
import pytest
import sqlalchemy
import xlsxwriter
from projects import New, customers

from notebento.core.compose import compose
from notebento.core.config import plain
from notebento.core.errors import UserError
from notebento.data.databases import read_query
from notebento.data.files import CsvFormat, read_files
from notebento.pipeline.plan import open_run
from notebento.pipeline.project import attempt, home


def zipped(text: bytes, name: str = "rows.csv") -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        archive.writestr(name, text)
        archive.writestr("__MACOSX/._" + name, b"what a Mac adds")
    return stream.getvalue()


def zst(text: bytes) -> bytes:
    stream = io.BytesIO()
    pl.read_csv(text).write_csv(stream, compression="zstd")
    return stream.getvalue()


def workbook(file: Path, **sheets: pl.DataFrame) -> Path:
    with xlsxwriter.Workbook(file) as book:
        for name, rows in sheets.items():
            rows.write_excel(book, name)
    return file


# -- files -------------------------------------------------------------------------------------------------------------

PACKED = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zip": zipped, "zst": zst}


@pytest.mark.parametrize("suffix", PACKED)
def test_packed_files_are_read_whatever_their_name_says(suffix: str, tmp_path: Path) -> None:
    rows = customers(50)
    for name in (f"rows.csv.{suffix}", f"rows.{suffix}", "rows.csv"):
        (tmp_path / name).write_bytes(PACKED[suffix](rows.write_csv().encode()))
        assert read_files(str(tmp_path / name)).equals(rows)


def test_an_archive_may_hold_a_workbook_and_a_folder_anything(tmp_path: Path) -> None:
    rows = customers(50)
    book = workbook(tmp_path / "rows.xlsx", rows=rows)
    (tmp_path / "rows.xlsx.zip").write_bytes(zipped(book.read_bytes(), "rows.xlsx"))
    assert read_files(str(tmp_path / "rows.xlsx.zip")).equals(rows)
    folder = tmp_path / "parts"
    folder.mkdir()
    rows[:20].write_parquet(folder / "a.parquet")
    workbook(folder / "b.xlsx", rows=rows[20:30])
    (folder / "c.csv.bz2").write_bytes(bz2.compress(rows[30:].write_csv().encode()))
    assert read_files(str(folder)).sort("id").equals(rows)


def test_a_workbook_is_read_as_its_cells_show(tmp_path: Path) -> None:
    file = tmp_path / "rows.xlsx"
    with xlsxwriter.Workbook(file) as book:
        sheet = book.add_worksheet("loans")
        for place, row in enumerate([["code", "", " paid "], ["01", "x", 2.5], ["02", None, "NA"], [None] * 3]):
            sheet.write_row(place + 2, 1, row)
    rows = read_files(str(file), CsvFormat(texts=("code",)))
    assert rows.to_dict(as_series=False) == {"code": ["01", "02"], "column_2": ["x", None], "paid": [2.5, None]}


def test_of_several_sheets_one_is_named(new: New) -> None:
    file = workbook(new.folder / "rows.xlsx", notes=pl.DataFrame({"x": ["see below"]}), rows=customers(60))
    status, printed = new.on(str(file))
    assert status == 2 and "has 2 sheets: notes, rows" in printed and "--sheet notes or --sheet rows" in printed
    assert new.on(str(file), "--sheet", "row")[1].count("Did you mean 'rows'?") == 1
    status, printed = new.on(str(file), "--sheet", "rows")
    assert status == 0, printed
    assert new.conf()["source"]["sheet"] == "rows" and (new.project / "data/rows.xlsx").is_file()
    assert "notebento[train,lab,baselines,excel]" in (new.project / "pyproject.toml").read_text()
    attempt(new.project, "churn")
    attempt(new.project, "churn", "experiment=lab")


def test_a_missing_reader_is_said_with_the_command_that_installs_it(new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    real = importlib.util.find_spec
    absent = ("fastexcel", "duckdb")
    monkeypatch.setattr("importlib.util.find_spec", lambda name, *more: None if name in absent else real(name, *more))
    file = workbook(new.folder / "rows.xlsx", rows=customers(60))
    assert "pip install fastexcel" in new.on(str(file))[1]
    with duckdb.connect(str(new.folder / "rows.duckdb")) as database:
        database.execute("create table rows as select 1 as id")
    assert "pip install duckdb" in new.on(str(new.folder / "rows.duckdb"))[1]
    assert "pip install pymysql" in new.on("mysql+pymysql://me@127.0.0.1/db", "--query", "select 1")[1]


# -- databases ---------------------------------------------------------------------------------------------------------


def fill_sqlite(file: Path) -> None:
    with sqlite3.connect(file) as database:
        database.execute('create table "rows" (id integer, plan text, age integer, paid real, "left" text)')
        database.executemany('insert into "rows" values (?, ?, ?, ?, ?)', customers(80).rows())
    database.close()


def fill_duckdb(file: Path) -> None:
    customers(80).write_parquet(file.with_suffix(".parquet"))
    with duckdb.connect(str(file)) as database:
        database.execute(f"create table rows as select * from '{file.with_suffix('.parquet')}'")


DATABASES = {"sqlite": fill_sqlite, "duckdb": fill_duckdb}


@pytest.mark.parametrize("kind", DATABASES)
def test_a_file_with_a_database_is_a_file(kind: str, new: New) -> None:
    """Copied, read by a query, and read again when it changes, as any other."""
    file = new.folder / f"shop.{kind}"
    DATABASES[kind](file)
    status, printed = new.on(str(file))
    assert status == 0, printed
    conf = new.conf()
    assert conf["source"]["query"] == 'select * from "rows"' and conf["files"] == (f"data/shop.{kind}",)
    assert ("duckdb" in (new.project / "pyproject.toml").read_text()) == (kind == "duckdb")
    attempt(new.project, "churn")
    attempt(new.project, "churn", "experiment=lab")
    assert new.conf("experiment=lab")["files"] == ("tests/data/sample.parquet",)


@pytest.mark.parametrize("kind", DATABASES)
def test_of_several_tables_one_is_named_or_a_query_given(kind: str, new: New) -> None:
    file = new.folder / f"shop.{kind}"
    DATABASES[kind](file)
    connection = sqlite3.connect(file) if kind == "sqlite" else duckdb.connect(str(file))
    connection.execute("create view adults as select * from rows where age > 30")
    connection.commit()
    connection.close()
    status, printed = new.on(f"{kind}:///{file}")
    assert status == 2 and "has 2 tables: adults, rows" in printed and "--query 'select * from \"adults\"'" in printed
    status, printed = new.on(f"{kind}:///{file}", "--table", "nope")
    assert status == 2 and "nope" in printed and "failed" in printed
    assert new.on(str(file), "--table", "adults")[0] == 0
    new.project = new.folder / "second"
    status, printed = new.on(str(file), "--query", "select *, '10:30' as at from rows where plan like '%e%'")
    assert status == 0, printed
    assert "at: constant" in printed


def test_a_file_that_is_no_database_takes_no_query(new: New) -> None:
    status, printed = new.tried(customers(40), "--query", "select 1")
    assert status == 2 and "--query: " in printed and "is not a database" in printed


# -- PostgreSQL --------------------------------------------------------------------------------------------------------

PASSWORD = "p@ss/w:rd %41"


@pytest.fixture(scope="module")
def shop(postgresql: str) -> str:
    """The URL of a database with the customers, for `reader`; with the name of the password."""
    types = "id integer, plan text, age smallint, paid numeric(8, 2), joined timestamptz, who uuid, tags text[]"
    types += ', "left" text'
    engine = sqlalchemy.create_engine(postgresql, poolclass=sqlalchemy.NullPool)
    with engine.begin() as connection:
        connection.exec_driver_sql(f"create table customers ({types})")
        for row in customers(80).rows():
            joined = "timestamptz '2025-01-01 10:00+02' + %s * interval '1 day'"
            values = f"(%s, %s, %s, %s, {joined}, gen_random_uuid(), '{{a}}', %s)"
            connection.exec_driver_sql(f"insert into customers values {values}", (*row[:4], row[0], row[4]))
        connection.exec_driver_sql("create role reader login")
        connection.exec_driver_sql("alter role reader password '" + PASSWORD.replace("%", "%%") + "'")
        connection.exec_driver_sql("grant select on customers to reader")
    engine.dispose()
    return postgresql.replace("postgres@", "reader:$SHOP_PASSWORD@")


def test_a_project_keeps_the_name_of_a_password_and_its_tests_need_none(
    shop: str, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert "names $SHOP_PASSWORD, which is not set" in new.on(shop)[1]
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    status, printed = new.on(shop, "--query", "select * from customers where age::int < 100")
    assert status == 0, printed
    assert "joined: time" in printed and "tags: nested" in printed
    conf = new.conf()
    assert conf["source"]["url"] == shop and conf["files"] == (None,)
    written = (new.project / "conf/data/churn.yaml").read_text()
    assert (
        "${oc.env:SHOP_PASSWORD}" in written
        and "notebento[train,lab,baselines,postgres]" in (new.project / "pyproject.toml").read_text()
    )
    secret = PASSWORD.encode()
    assert not [p for p in new.project.rglob("*") if p.is_file() and secret in p.read_bytes()]
    attempt(new.project, "churn")
    with home(new.project):
        assert (
            None in open_run([], planning=True).declared("data").files
        )  # what changes without telling is read each time
        assert PASSWORD not in str(plain(compose()))  # what every run keeps
    monkeypatch.delenv("SHOP_PASSWORD")
    attempt(new.project, "churn", "experiment=lab")
    with pytest.raises(UserError, match=r"names \$SHOP_PASSWORD, which is not set"):
        attempt(new.project, "churn")


def test_a_password_in_clear_is_moved_to_its_variable_or_refused(
    shop: str, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    clear = shop.replace("$SHOP_PASSWORD", "no-variable-has-this")
    status, printed = new.on(clear)
    assert status == 2 and "has its password in clear" in printed and "no-variable-has-this" not in printed
    assert "'postgresql+psycopg://reader:$DB_PASSWORD@" in printed
    monkeypatch.setenv("DB_PASSWORD", PASSWORD)
    status, printed = new.on(shop.replace("$SHOP_PASSWORD", PASSWORD))  # as a shell replaces it
    assert status == 0 and "kept as $DB_PASSWORD" in printed, printed
    assert PASSWORD not in (new.project / "conf/data/churn.yaml").read_text()


def test_a_wrong_password_or_query_is_one_sentence_without_it(
    shop: str, new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", "wrong")
    status, printed = new.on(shop)
    assert status == 2 and "password authentication failed" in printed and "Traceback" not in printed
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    status, printed = new.on(shop, "--query", "select nope from customers")
    assert status == 2 and 'column "nope" does not exist' in printed and PASSWORD not in printed
    assert "is not the URL of a database" in new.on("not a url://")[1]


def test_what_postgresql_stores_becomes_numbers_times_and_texts(shop: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SHOP_PASSWORD", PASSWORD)
    query = """select 1.5::numeric as n, 'NaN'::numeric as nan, 'infinity'::float8 as f, gen_random_uuid() as u,
        date '2024-01-30' as d, timestamp '2024-01-30 10:00' as t, timestamptz '2024-01-30 10:00+02' as z,
        time '10:00' as c, interval '1 day' as i, true as b, null as empty, 2::bigint ^ 70 as power,
        '{"a": 1}'::jsonb as j, '10:30' as text"""
    kinds = {name: str(kind) for name, kind in read_query(shop, query).schema.items()}
    assert kinds == {
        **dict.fromkeys(["n", "nan", "f", "power"], "Float64"),
        **dict.fromkeys(["u", "c", "i", "empty", "text"], "String"),
        "d": "Date",
        **dict.fromkeys(["t", "z"], "Datetime(time_unit='us', time_zone='UTC')"),
        "b": "Boolean",
        "j": "List(String)",
    }
    assert read_query(shop, "select * from customers where false").height == 0


def test_the_environment_is_resolved_everywhere_but_in_a_source(new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    new(customers(60))
    monkeypatch.setenv("SHOP", "corner")
    with home(new.project):
        config = compose(["project.name=${oc.env:SHOP}", "+data.source.url='${oc.env:SHOP}'"])
        assert config.project.name == "corner" and config.data.source["url"] == "$SHOP"
        assert compose(["project.name=${oc.env:NO_SUCH,toy}"]).project.name == "toy"
        with pytest.raises(UserError, match="NO_SUCH"):
            compose(["project.name=${oc.env:NO_SUCH}"])
