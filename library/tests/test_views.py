"""Views: odd histories against plain Python and DuckDB, tables in parts, daylight saving, one row and many."""

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import duckdb
import polars as pl
import pytest
from histories import (
    START,
    TIME,
    corrected_table,
    correction,
    event,
    expected,
    offline,
    plain_table,
    question,
    told_again,
    toy_views,
)
from hypothesis import given, settings
from hypothesis import strategies as st

from notebento.core.errors import UserError
from notebento.features import asof
from notebento.features.asof import (
    coded,
    distinct_values,
    entity_numbers,
    known_after,
    look_up,
    reached_since,
)
from notebento.features.schema import FeatureSet, Field, compute
from notebento.features.views import (
    Events,
    Moment,
    Table,
    Value,
    View,
    count,
    decayed,
    distinct,
    last,
    microseconds,
    minimum,
    read_events,
    since,
    total,
)

MINUTE, DAY = timedelta(minutes=1), timedelta(days=1)


@pytest.mark.process
@settings(max_examples=100, deadline=None)
@given(st.lists(event, max_size=14), st.lists(question, min_size=1, max_size=5), st.booleans(), st.randoms())
def test_histories_with_ties_late_events_and_duplicates_equal_plain_python(events, questions, everything, draw):
    table = plain_table(events)
    order = told_again(len(table), draw)
    features = toy_views(everything=everything)
    assert offline(features, table[order], questions) == expected(table, questions, features, everything)


@settings(max_examples=100, deadline=None)
@given(st.lists(correction, max_size=14), st.lists(question, min_size=1, max_size=5), st.booleans(), st.randoms())
def test_corrections_replace_what_they_correct_from_when_they_are_known(events, questions, everything, draw):
    """Versions that change the value, the entity, the time, or say that there never was such an event."""
    table = corrected_table(events)
    order = told_again(len(table), draw)
    features = toy_views(corrected=True, everything=everything)
    assert offline(features, table[order], questions) == expected(table, questions, features, everything)


@pytest.fixture(scope="module")
def crowd():
    """20,000 events of 300 entities, with ties, and 3,000 questions."""
    n, m = 20_000, 3_000
    draw = pl.int_range(n, eager=True)
    second = timedelta(seconds=1)
    events = pl.DataFrame(
        {
            "id": draw,
            "who": (draw * 7919 % 300).cast(pl.String),
            "at": pl.Series([START + (i * 104_729 % 90_000) * second for i in range(n)], dtype=TIME),
            "v": draw * 31 % 101 - 50,
        }
    )
    asked = [(str(i * 13 % 310), START + (i * 7_907 % 95_000) * second) for i in range(m)]
    return events, pl.DataFrame(asked, schema={"who": pl.String, "predict_at": TIME}, orient="row")


AT = pl.col("at")
WALKS = Events("walks", Table("walks", ("id",), AT), AT, AT, {"v": Value(pl.col("v"))})
WALKED = {"n": count(), "sum": total("v"), "least": minimum("v"), "kinds": distinct("v"), "last": last("v")}


def looked_up(view, asked, tables):
    values = distinct_values(asked, view.by)
    read = coded(read_events(view.events, tables, view.by), values)
    return look_up([view], coded(asked, values), {view.events: read}, values)


def test_windows_and_last_events_equal_duckdb(crowd, tmp_path):
    events, asked = crowd
    view = View(WALKS, ("who",), WALKED, ("2h",), expiry="2h", name="w")
    found = looked_up(view, asked, {"walks": events})
    db, naive = duckdb.connect(), pl.selectors.datetime().dt.replace_time_zone(None)
    for name, table in {"events": events.rename({"at": "known"}), "rows": asked.with_row_index("row")}.items():
        table.with_columns(naive).write_parquet(tmp_path / f"{name}.parquet")
        db.sql(f"CREATE TABLE {name} AS FROM '{tmp_path}/{name}.parquet'")
    sums = db.sql("""
        SELECT row, count(id)::BIGINT n, coalesce(sum(v), 0)::DOUBLE s, min(v) least, count(DISTINCT v) kinds
        FROM rows LEFT JOIN events
        ON events.who = rows.who AND known <= predict_at AND known > predict_at - INTERVAL 2 HOURS
        GROUP BY row ORDER BY row
    """).fetchall()
    lasts = db.sql("""
        SELECT row, CASE WHEN known > predict_at - INTERVAL 2 HOURS THEN v END
        FROM rows ASOF LEFT JOIN (
            SELECT * FROM events QUALIFY row_number() OVER (PARTITION BY who, known ORDER BY id DESC) = 1
        ) newest ON newest.who = rows.who AND predict_at >= known ORDER BY row
    """).fetchall()
    db.close()
    names = ["w_n_2h", "w_sum_2h", "w_least_2h", "w_kinds_2h"]
    assert found.select(names).rows() == [row[1:] for row in sums]
    assert found["w_last"].to_list() == [row[1] for row in lasts]
    assert sum(row[1] is not None for row in lasts) > 1_000


REPORTED = pl.col("reported")
REPORTS = Table("reports", ("id",), REPORTED, versions="version")
MOVES = Events("moves", REPORTS, AT, REPORTED, {"v": Value(pl.col("v"))})


@pytest.mark.process
def test_a_table_that_does_not_fit_is_read_in_parts_with_the_same_result(crowd, monkeypatch, tmp_path):
    """Also when it is corrected: every third walk turns out, an hour later, to have been somebody else's."""
    events, asked = crowd
    first = events.with_columns(reported="at", version=0)
    moved = first[::3].with_columns(pl.col("who").reverse(), pl.col("reported") + 60 * MINUTE, version=1)
    tables = {"walks": events, "reports": pl.concat([first, moved])}
    for name, table in tables.items():
        table.write_parquet(tmp_path / f"{name}.parquet")
    every = WALKED | {"aged": decayed("v")}
    for kind, rows in ((WALKS, asked), (MOVES, asked[::10])):
        of_one = View(kind, ("who",), every, ("2h",), name="w")
        of_all = View(kind, (), {"n": count()}, ("2h", "ever"), name="all")
        of_late = View(kind, (), every, ("2h",), expiry="3h", name="late")
        for chosen in ([of_one, of_all], [of_late]):
            features = FeatureSet({"who": Field("string")})
            features.add(*chosen)
            whole = compute(features, rows, tables)
            with monkeypatch.context() as small:
                small.setattr(asof, "AT_ONCE", 3_000)
                read = {name: pl.scan_parquet(tmp_path / f"{name}.parquet") for name in tables}
                assert asof.parts_needed(kind, read) > 5
                in_parts = compute(features, rows, read)
            assert in_parts.equals(whole)


def test_one_row_alone_has_the_same_bits_as_among_many(crowd):
    """polars divides by a constant in another way when there is one row only."""
    events, asked = crowd
    features = FeatureSet({"who": Field("string")})
    features.add(View(WALKS, ("who",), {"sum": total("v"), "last": last("v"), "ago": since()}, ("2h",), name="w"))
    features.derive("share", pl.col("w_sum_2h") / 49 + pl.col("w_ago") / 7)
    table = compute(features, asked, {"walks": events})
    alone = [compute(features, asked[i], {"walks": events}) for i in range(40)]
    assert pl.concat(alone).equals(table[:40])


def test_entities_of_many_columns_have_numbers_of_their_own_however_many_there_could_be():
    """A thousand values in each of seven columns: more combinations than an integer has values."""
    n, by = 1_000, [f"c{i}" for i in range(7)]
    rows = pl.DataFrame({name: [(row * (i + 3)) % n for row in range(n)] for i, name in enumerate(by)})
    events = pl.concat(
        [rows[::-1], rows.with_columns(c6=pl.col("c6").shift(1)), rows.with_columns(c0=pl.lit(-1, pl.Int64))]
    )
    values = distinct_values(rows, by)
    numbers = entity_numbers(by, values, [coded(rows, values), coded(events, values)])
    assert numbers[0].n_unique() == n and numbers[0].null_count() == 0
    expected = events.join(rows.with_columns(number=numbers[0]), on=by, how="left", maintain_order="left")["number"]
    assert numbers[1].to_list() == expected.to_list() and 0 < numbers[1].drop_nulls().len() < len(events)


def test_rows_out_of_order_and_without_a_time_keep_their_places(crowd):
    events, asked = crowd
    view = View(WALKS, ("who",), WALKED, ("2h",), name="w")
    some = pl.concat([asked, asked.clear(2)])[::-1]
    assert (
        looked_up(view, some, {"walks": events})[::-1]
        .head(len(asked))
        .equals(looked_up(view, asked, {"walks": events}))
    )


def test_an_entity_of_another_type_than_the_rows_is_named(crowd):
    events, asked = crowd
    features = FeatureSet({"who": Field("string")})
    features.add(View(WALKS, ("who",), WALKED, ("2h",), name="w"))
    with pytest.raises(UserError, match="'who' is String in the rows and Int64 in a table"):
        compute(features, asked, {"walks": events.with_columns(pl.col("who").cast(pl.Int64))})


@pytest.mark.parametrize("kind", [WALKS, MOVES])
def test_the_newest_rows_alone_have_the_features_that_they_have_among_all(crowd, kind):
    """Only the events that their windows reach are read then: from eleven half-lives of two hours before."""
    events, asked = crowd
    tables = {"walks": events, "reports": events.with_columns(reported="at", version=0)}
    features = FeatureSet({"who": Field("string")})
    features.add(View(kind, ("who",), WALKED | {"aged": decayed("v")}, ("2h",), expiry="3h", name="w"))
    features.add(View(kind, (), {"n": count()}, ("1h",), name="all"))
    newest = asked.sort("predict_at").tail(50)
    since = reached_since(features.views, newest)
    assert since == newest["predict_at"].dt.epoch("us").min() - 22 * microseconds("1h")
    assert len(events.filter(known_after(WALKS, since))) < len(events) - 1_000
    assert compute(features, newest, tables).equals(compute(features, asked.sort("predict_at"), tables).tail(50))


def test_hours_that_clocks_show_twice_are_two_hours():
    """On 27 October 2024 the clocks of Berlin showed half past two twice."""
    berlin = ZoneInfo("Europe/Berlin")
    twice = [datetime(2024, 10, 27, 2, 30, tzinfo=berlin, fold=fold) for fold in (0, 1)]
    events = pl.DataFrame({"id": [1, 2], "at": [t.astimezone(UTC) for t in twice], "v": [1, 2]})
    asked = pl.DataFrame({"predict_at": [twice[1].astimezone(UTC)]})
    view = View(WALKS, (), {"n": count(), "last": last("v")}, ("1h", "90m"), name="w")
    found = looked_up(view, asked, {"walks": events})
    assert found.row(0, named=True) == {"w_n_1h": 1, "w_n_90m": 2, "w_last": 2}


@pytest.mark.parametrize("second", [START, START + MINUTE, None])
def test_rows_that_contradict_each_other_are_named(second):
    """Also when they are known at two times, or one tells of no event: a store keeps one row for a key."""
    twice = pl.DataFrame({"id": [1, 1], "at": [START, second], "v": [1, 2]})
    with pytest.raises(UserError, match="rows of 'walks' contradict each other: there are two for {'id': '1'}"):
        read_events(WALKS, {"walks": twice})


def test_a_row_that_comes_twice_counts_once():
    same = pl.DataFrame({"id": [1, 1], "at": [START, START], "v": [1, 1]})
    assert len(read_events(WALKS, {"walks": same})) == 1


def test_a_moment_is_the_same_for_a_table_and_for_a_record():
    times = pl.DataFrame({"t": [START + i * 17 * MINUTE for i in range(-5, 50)]}, schema={"t": TIME})
    for moment in (Moment("t"), Moment("t", floor="1h"), Moment("t", floor="1d", plus=-7 * DAY - MINUTE)):
        found = times.select(moment.expr.dt.epoch("us")).to_series().to_list()
        assert found == [moment.of(t) for t in times["t"].dt.epoch("us")]


def test_a_decayed_mean_needs_a_half_life():
    with pytest.raises(UserError, match="a decayed mean of the walks has no half-life"):
        View(WALKS, ("who",), {"v": decayed("v")}, ("ever",))


LARGE = """
import resource, sys
from datetime import UTC, datetime, timedelta
import polars as pl
from notebento.features.schema import FeatureSet, Field, compute
from notebento.features.views import Events, Table, Value, View, count, last, maximum, mean

n, start, at = 50_000_000, datetime(2024, 1, 1, tzinfo=UTC), pl.col("at")
step = pl.duration(microseconds=pl.col("id") * 104_729 % (365 * 86_400_000_000))
events = pl.LazyFrame({"id": pl.int_range(n, eager=True)}).with_columns(
    who=pl.col("id") * 7919 % 100_003, at=pl.lit(start) + step, v=pl.col("id") * 31 % 101 - 50
)
if sys.argv[2] == "write":
    events.sink_parquet(sys.argv[1])
    sys.exit()
walks = Events("walks", Table("walks", ("id",), at), at, at, {"v": Value(pl.col("v"))})
features = FeatureSet({"who": Field("number")})
give = {"n": count(), "mean": mean("v"), "last": last("v"), "most": maximum("v")}
features.add(View(walks, ("who",), give, ("1h", "7d", "30d"), expiry="7d", name="w"))
features.add(View(walks, (), {"n": count(), "last": last("v")}, ("1h", "30d"), expiry="7d", name="all"))
asked = {"who": [i * 7919 % 100_003 for i in range(200_000)]}
asked["predict_at"] = [datetime(2024, 12, 1, tzinfo=UTC) - timedelta(seconds=i) for i in range(200_000)]
kinds = {"who": pl.Int64, "predict_at": pl.Datetime("us", "UTC")}
found = compute(features, pl.DataFrame(asked, schema=kinds), {"walks": pl.scan_parquet(sys.argv[1])})
print(len(found), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
"""


@pytest.mark.process
@pytest.mark.nightly
def test_fifty_million_events_fit_into_four_gigabytes(tmp_path):
    command = [sys.executable, "-c", LARGE, str(tmp_path / "walks.parquet")]
    subprocess.run([*command, "write"], check=True)
    done = subprocess.run([*command, "read"], capture_output=True, text=True, check=True)
    rows, largest = map(int, done.stdout.split())
    assert rows == 200_000 and largest < 4e9


def test_what_a_feature_needs_is_followed_down_to_views_and_record():
    """A feature may have the name of the record's field from which it is computed."""
    features = FeatureSet({"who": Field("string"), "size": Field("number")})
    features.derive("who", pl.col("who"), categorical=True)
    features.add(View(WALKS, ("who",), {"n": count(), "sum": total("v")}, ("2h",), name="w"))
    features.derive("_mean", pl.col("w_sum_2h") / pl.col("w_n_2h"))
    features.derive("ratio", pl.col("_mean") / pl.col("size"))
    assert features.needs(["ratio"]) == {"ratio", "_mean", "w_sum_2h", "w_n_2h", "size"}
    assert features.needs(["who"]) == {"who"}
    assert features.needs([]) == set()
