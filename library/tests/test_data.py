"""What 02_data cannot show about itself: hand-checked flights, planted mistakes, properties of the cuts."""

import datetime as dt
import sqlite3
from functools import cache
from pathlib import Path
from typing import Any

import msgspec
import polars as pl
import pytest
from flights.data import Flights, as_known
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris

from notebento.core.artifacts import digest, save
from notebento.core.compose import compose
from notebento.core.config import DataConfig, Node, TableContract, convert
from notebento.core.errors import UserError
from notebento.data.contract import keep
from notebento.data.snapshot import contract_of, profile, take
from notebento.data.sources import Table, read_file, read_query
from notebento.data.split import leaks, place_of, refuse_leaks, split_at, split_of


def clock(text: str) -> dt.datetime:
    """A time without a zone."""
    return dt.datetime.fromisoformat(text)


def utc(text: str) -> dt.datetime:
    return clock(text).replace(tzinfo=dt.UTC)


@cache
def everything() -> dict[str, pl.DataFrame]:
    """All that ever became known."""
    return Flights().read(None)


@pytest.fixture(scope="session")
def known() -> dict[str, pl.DataFrame]:
    return everything()


@pytest.fixture(scope="session")
def year() -> DataConfig:
    return compose().data


@pytest.fixture(scope="session")
def table() -> DataConfig:
    return compose(["data=table"]).data


@pytest.fixture
def own(table: DataConfig, tmp_path: Path) -> Any:
    """Configuration of a table of one's own, from the text of a CSV file or a data frame."""

    def make(rows: str | pl.DataFrame, **changed: Any) -> DataConfig:
        path = tmp_path / "rows.csv"
        if isinstance(rows, str):
            path.write_text(rows)
        else:
            rows.write_parquet(path := path.with_suffix(".parquet"))
        source = Node({"_target_": "notebento.data.sources.Table", "name": "rows", "path": str(path)})
        return msgspec.structs.replace(table, source=source, **{"target": "y", **changed})

    return make


# -- times -------------------------------------------------------------------------------------------------------------

BY_HAND = [
    # carrier, flight, origin, scheduled departure, scheduled arrival, arrival; the clocks that were read
    ("B6", 709, "JFK", "2013-01-05 11:15", "2013-01-05 15:00", "2013-01-05 14:54"),  # SJU 11:00, 10:54, Atlantic
    ("B6", 1503, "JFK", "2013-07-16 03:59", "2013-07-16 07:44", "2013-07-16 08:20"),  # SJU overnight, 3:44, 4:20
    ("UA", 1071, "EWR", "2013-01-06 01:35", "2013-01-06 05:26", "2013-01-06 05:14"),  # BQN after midnight, 1:26, 1:14
    ("UA", 1479, "EWR", "2013-01-05 12:23", "2013-01-05 16:22", "2013-01-05 16:01"),  # STT 12:22, 12:01
    ("HA", 51, "JFK", "2013-01-05 14:00", "2013-01-06 01:30", "2013-01-06 01:19"),  # HNL 15:30, 15:19, Hawaii
    ("HA", 51, "JFK", "2013-07-15 14:00", "2013-07-16 00:30", "2013-07-16 00:11"),  # HNL 14:30, 14:11; no summer time
    ("US", 245, "EWR", "2013-01-05 11:30", "2013-01-05 17:14", "2013-01-05 16:45"),  # PHX 10:14, 9:45, Mountain
    ("US", 71, "EWR", "2013-07-15 10:55", "2013-07-15 16:06", "2013-07-15 15:52"),  # PHX 9:06, 8:52; no summer time
    ("VX", 399, "JFK", "2013-01-05 12:00", "2013-01-05 18:25", "2013-01-05 18:14"),  # LAX 10:25, 10:14, Pacific
    ("UA", 742, "EWR", "2013-07-15 10:19", "2013-07-15 16:04", "2013-07-15 15:26"),  # LAX 9:04, 8:26, summer time
    ("B6", 35, "JFK", "2013-03-10 02:45", "2013-03-10 05:34", "2013-03-10 07:03"),  # PBI 0:34, then 3:03 summer time
    ("B6", 486, "JFK", "2013-11-03 02:45", "2013-11-03 04:03", "2013-11-03 03:41"),  # ROC 0:03, 23:41, before the hour
]


@pytest.mark.parametrize("flight", BY_HAND, ids=lambda f: f"{f[0]}{f[1]} {f[3]}")
def test_a_flight_worked_out_by_hand(known: dict[str, pl.DataFrame], flight: tuple[Any, ...]) -> None:
    carrier, number, origin, sched_dep, sched_arr, arrived = flight
    row = known["flights"].row(
        by_predicate=(pl.col("carrier") == carrier)
        & (pl.col("flight") == number)
        & (pl.col("origin") == origin)
        & (pl.col("sched_dep") == utc(sched_dep)),
        named=True,
    )
    assert (row["sched_arr"], row["arrived"]) == (utc(sched_arr), utc(arrived))


def test_taxiing_takes_its_time_in_every_zone_and_month(known: dict[str, pl.DataFrame]) -> None:
    taxi = (pl.col("arrived") - pl.col("departed")).dt.total_minutes() - pl.col("air_time")
    landed = known["flights"].filter(pl.col("arrived").is_not_null())
    by = landed.group_by("dest", pl.col("sched_dep").dt.month()).agg(taxi.median())
    assert landed.height == 327_346
    assert by["arrived"].is_between(10, 60).all()  # one zone or one summer time off would be an hour off


@given(st.datetimes(clock("2013-01-01"), clock("2014-01-02")), st.timedeltas(dt.timedelta(0), dt.timedelta(60)))
@settings(max_examples=15, deadline=None)
def test_what_was_known_does_not_depend_on_what_came_later(at: dt.datetime, later: dt.timedelta) -> None:
    tables = everything()
    then = at.replace(tzinfo=dt.UTC)
    seen = as_known(tables, then)
    again = as_known(as_known(tables, then + later), then)
    assert all(seen[name].equals(again[name]) for name in tables)
    newest = seen["flights"].select(pl.max("sched_dep", "departed", "arrived")).row(0)
    assert all(moment is None or moment <= then for moment in newest)


# -- contract and rejects ----------------------------------------------------------------------------------------------


def test_the_year_keeps_its_contract(year: DataConfig) -> None:
    snapshot = take(year)
    assert snapshot.counts().rows()[0] == ("flights", 336_776, 0, 336_776)
    assert snapshot.rejects["rules"].to_list() == [["wind_speed|max"]]  # 1,048 miles an hour in Newark
    flights = snapshot.tables["flights"]
    assert flights["late"].null_count() == 9_430 + 66  # 66 were still in the air
    assert flights.select(pl.struct(year.key).is_unique().all()).item()


PLANTED: list[tuple[dict[str, Any], str]] = [
    ({"origin": pl.lit("PHL")}, "origin|check__allowed"),
    ({"carrier": pl.lit("United")}, "carrier|regex"),
    ({"distance": pl.lit(-1)}, "distance|min"),
    ({"dest": pl.lit(None, pl.String)}, "dest|nullability"),
    ({"sched_arr": pl.col("sched_arr") + dt.timedelta(days=1)}, "rule|schedule"),
    ({"sched_arr": pl.col("sched_dep") + dt.timedelta(minutes=21)}, "rule|speed"),
    ({"arrived": pl.col("arrived") - dt.timedelta(hours=4)}, "rule|taxi"),
    ({"dep_delay": pl.lit(None, pl.Int64)}, "rule|departure"),
    ({"late": pl.lit(None, pl.Boolean)}, "rule|arrival"),
    ({"tailnum": pl.lit(None, pl.String)}, "rule|aircraft"),
]


@pytest.mark.parametrize(("change", "rule"), PLANTED, ids=[rule for _, rule in PLANTED])
def test_a_planted_mistake_is_set_aside_under_its_rule(
    known: dict[str, pl.DataFrame], year: DataConfig, change: dict[str, Any], rule: str
) -> None:
    sound = known["flights"].filter(pl.col("arrived").is_not_null()).head(200)
    spoilt = pl.int_range(pl.len()).is_in([3, 77, 150])
    rows = sound.with_columns(
        pl.when(spoilt).then(new).otherwise(pl.col(old)).alias(old) for old, new in change.items()
    )
    good, rejects = keep(rows, contract_of(year, "flights"), "flights")
    assert rejects["row"].to_list() == [3, 77, 150]
    assert all(rule in rules for rules in rejects["rules"])
    assert good.equals(sound.filter(~spoilt))


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


def test_above_the_limit_the_stage_stops_and_shows_five_rows(own: Any) -> None:
    rows = pl.DataFrame({"id": range(100), "age": [-1] * 7 + [40] * 93, "y": [0, 1] * 50})
    contract = convert({"columns": {"age": {"min": 0}}}, TableContract)
    with pytest.raises(UserError) as stopped:
        take(own(rows, key=("id",), contract={"rows": contract}))
    text = str(stopped.value)
    assert "7 of the 100 rows of 'rows' break its contract (7.00%, and data.max_rejected is 1.00%)" in text
    assert "7 × age|min: age is below 0" in text
    assert text.count('{"id":') == 5
    assert take(own(rows, key=("id",), contract={"rows": contract}, max_rejected=0.07)).counts().row(0)[2] == 7


def test_columns_with_names_of_dataframely_s_own(own: Any) -> None:
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


def test_files_that_cannot_be_read(tmp_path: Path) -> None:
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


def test_a_source_that_is_not_configured(tmp_path: Path) -> None:
    for fields in ({}, {"path": "a.csv", "url": "sqlite://"}, {"url": "sqlite://"}):
        with pytest.raises(UserError, match="needs either a path or a url with a query"):
            Table(name="rows", **fields).read(None)


def test_sql(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_the_time_of_a_table_may_be_written_in_many_ways(own: Any) -> None:
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


def test_two_snapshots_are_the_same_bytes(tmp_path: Path) -> None:
    data = compose(["experiment=lab"]).data
    for name in ("one", "two"):
        snapshot = take(data)
        for table, rows in snapshot.tables.items():
            save(tmp_path / name / f"{table}.parquet", rows)
        save(tmp_path / name / "profile.json", {t: profile(rows) for t, rows in snapshot.tables.items()})
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


@given(order=st.permutations(range(30)))
@settings(max_examples=20, deadline=None)
def test_the_order_of_the_source_does_not_matter(order: list[int]) -> None:
    rows = pl.DataFrame({"id": range(30), "x": [i % 7 for i in range(30)], "y": [i % 2 for i in range(30)]})
    data = msgspec.structs.replace(
        TABLE, key=("id",), target="y", table="rows", source=Node({"_target_": f"{__name__}.Given"})
    )
    Given.rows = rows[order]
    assert take(data).tables["rows"].equals(rows)


class Given(msgspec.Struct):
    """A source for tests that says what it was given."""

    def read(self, as_of: dt.datetime | None) -> dict[str, pl.DataFrame]:
        return {"rows": type(self).__dict__["rows"]}


TABLE = compose(["data=table"]).data


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
    data = msgspec.structs.replace(
        TABLE,
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
def test_by_hash_a_row_stays_where_it_is(keys: set[str], draw: st.DataObject) -> None:
    data = msgspec.structs.replace(
        TABLE, target="y", task="regression", key=("id",), test_share=0.3, validation_share=0.3
    )
    rows = pl.DataFrame({"id": sorted(keys), "y": 1.0})
    split = split_at(data, rows)
    fewer = rows.filter(pl.Series(draw.draw(st.lists(st.booleans(), min_size=len(keys), max_size=len(keys)))))
    for name, part in split_of(rows, split).items():
        assert split_of(fewer, split)[name].equals(part.join(fewer, on="id", how="semi", maintain_order="left"))


def test_the_hash_is_the_same_for_ever() -> None:
    rows = pl.DataFrame({"a": ["x", "y", None], "b": [1, 2, 3]})
    assert [round(p, 9) for p in place_of(rows, ["a", "b"])] == [0.869204053, 0.781781038, 0.237108537]
    assert place_of(pl.DataFrame({"i": range(20_000)}), ["i"]).mean() == pytest.approx(0.5, abs=0.01)


def test_an_unlabelled_row_belongs_to_its_part_when_asked_for(known: dict[str, pl.DataFrame], year: DataConfig) -> None:
    split = split_at(year, known["flights"])
    labelled, all_rows = split_of(known["flights"], split), split_of(known["flights"], split, labelled=False)
    assert sum(p.height for p in all_rows.values()) == 336_776
    assert {name: p.height for name, p in labelled.items()} == split["rows"]
    assert split["validation"] == ["2013-09-01T05:00:00+00:00", "2013-11-01T05:00:00+00:00"]


def test_an_empty_part_and_a_part_of_one_class_are_named() -> None:
    data = msgspec.structs.replace(TABLE, time="at", target="y", validation_months=1, test_months=1, as_of="2024-04-01")
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


def test_leaks_in_flights(known: dict[str, pl.DataFrame], year: DataConfig) -> None:
    labelled = known["flights"].filter(pl.col("late").is_not_null())
    with pytest.raises(UserError, match="'late' can be read off a single column: arr_delay"):
        refuse_leaks(labelled, year, ["carrier", "arr_delay", "distance"])
    refuse_leaks(labelled, year, ["carrier", "flight", "tailnum", "origin", "dest", "distance"])
    assert set(year.known_after) < set(labelled.columns)


def test_a_rare_class_alone_does_not_look_like_a_leak() -> None:
    rows = pl.DataFrame(
        {"x": [i % 10 for i in range(5000)], "y": [2 if i % 500 == 1 else i % 2 * 0 for i in range(5000)]}
    )
    assert leaks(rows, "y", ["x"], "multiclass") == []
