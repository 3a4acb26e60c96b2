"""The flights: times worked out by hand, what was known when, the contract with planted mistakes, the label."""

import datetime as dt
from functools import cache
from pathlib import Path
from typing import Any

import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from notebento.core.artifacts import digest, save
from notebento.core.compose import compose
from notebento.core.config import DataConfig
from notebento.core.errors import UserError
from notebento.data.contract import keep
from notebento.data.snapshot import contract_of, facts_of, take
from notebento.data.split import refuse_leaks, split_at, split_of

from flights.data import Flights, as_known, with_arrival, with_zones


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
def test_times_equal_those_worked_out_by_hand(known: dict[str, pl.DataFrame], flight: tuple[Any, ...]) -> None:
    carrier, number, origin, sched_dep, sched_arr, arrived = flight
    row = known["flights"].row(
        by_predicate=(pl.col("carrier") == carrier)
        & (pl.col("flight") == number)
        & (pl.col("origin") == origin)
        & (pl.col("sched_dep") == utc(sched_dep)),
        named=True,
    )
    assert (row["sched_arr"], row["arrived"]) == (utc(sched_arr), utc(arrived))


def test_taxiing_takes_ten_minutes_to_an_hour_in_every_zone_and_month(known: dict[str, pl.DataFrame]) -> None:
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


@pytest.mark.parametrize(
    ("sched_dep", "sched_arr_time", "zone", "sched_arr"),
    [
        ("2013-03-10 06:00", 230, "America/New_York", None),  # an hour that the clocks skipped
        ("2013-03-10 06:00", 330, "America/New_York", "2013-03-10 07:30"),
        ("2013-11-03 03:00", 130, "America/New_York", "2013-11-03 05:30"),  # an hour that came twice: the first
        ("2013-01-16 04:00", 2400, "America/New_York", "2013-01-16 05:00"),
        ("2013-01-16 04:00", 2300, "America/New_York", "2013-01-17 04:00"),  # the clocks show it now: the next day
    ],
)
def test_an_arrival_is_the_first_time_after_departure_when_the_clock_shows_it(
    sched_dep: str, sched_arr_time: int, zone: str, sched_arr: str | None
) -> None:
    flight = pl.DataFrame({"sched_dep": [utc(sched_dep)], "sched_arr_time": [sched_arr_time], "zone": [zone]})
    assert with_arrival(flight)["sched_arr"].to_list() == [sched_arr and utc(sched_arr)]


def test_every_destination_has_a_zone(known: dict[str, pl.DataFrame]) -> None:
    airports = known["airports"]
    zones = known["flights"].select("dest").unique().join(airports, left_on="dest", right_on="faa", how="left")["zone"]
    assert zones.null_count() == 0
    listed = airports.rename({"zone": "tzone"})
    assert with_zones(listed).equals(airports)  # none is added twice


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


# -- snapshot, parts and leaks -----------------------------------------------------------------------------------------


def test_two_snapshots_of_the_quarter_have_the_same_bytes(tmp_path: Path) -> None:
    data = compose(["experiment=lab"]).data
    for name in ("one", "two"):
        snapshot = take(data)
        for table, rows in snapshot.tables.items():
            save(tmp_path / name / f"{table}.parquet", rows)
        save(tmp_path / name / "profile.json", facts_of(snapshot, data))
    assert digest(tmp_path / "one") == digest(tmp_path / "two")


def test_the_year_is_cut_at_midnight_in_new_york_and_no_flight_is_lost(
    known: dict[str, pl.DataFrame], year: DataConfig
) -> None:
    split = split_at(year, known["flights"])
    labelled, complete = split_of(known["flights"], split), split_of(known["flights"], split, labelled=False)
    assert sum(part.height for part in complete.values()) == 336_776
    assert {name: part.height for name, part in labelled.items()} == split["rows"]
    assert split["validation"] == ["2013-09-01T05:00:00+00:00", "2013-11-01T05:00:00+00:00"]


def test_what_is_known_afterwards_is_declared_and_nothing_else_gives_the_label_away(
    known: dict[str, pl.DataFrame], year: DataConfig
) -> None:
    labelled = known["flights"].filter(pl.col("late").is_not_null())
    with pytest.raises(UserError, match="'late' can be read off a single column: arr_delay"):
        refuse_leaks(labelled, year, ["carrier", "arr_delay", "distance"])
    refuse_leaks(labelled, year, ["carrier", "flight", "tailnum", "origin", "dest", "distance"])
    assert set(year.known_after) < set(labelled.columns)
