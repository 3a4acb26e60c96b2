"""Histories of events to try views on: of every kind of feature, with ties, late news and corrections."""

from datetime import UTC, datetime, timedelta
from functools import cache

import oracle_views as oracle
import polars as pl
from hypothesis import strategies as st

from notebento.features.schema import FeatureSet, Field, seen_before
from notebento.features.views import (
    Events,
    Table,
    Value,
    View,
    count,
    decayed,
    distinct,
    last,
    maximum,
    mean,
    minimum,
    share,
    since,
    total,
)

MINUTE, HOUR = timedelta(minutes=1), timedelta(hours=1)
TIME = pl.Datetime("us", "UTC")
START = datetime(2024, 3, 31, 0, 30, tzinfo=UTC)  # the clocks change in Europe half an hour later
PLAIN = {"id": pl.Int64, "who": pl.String, "at": TIME, "known": TIME, "told": TIME, "v": pl.Int64, "w": pl.Int64}
CORRECTED = PLAIN | {"version": pl.Int64, "there": pl.Boolean}


@cache
def toy_views(corrected: bool = False, everything: bool = False) -> FeatureSet:
    """One view of every kind, on a table whose rows correct each other or not."""
    v, known, told = pl.col("v"), pl.col("known"), pl.col("told")
    if corrected:
        table = Table("t", ("id",), known, versions="version")
        where = pl.col("there")
    else:
        table = Table("t", ("id",), pl.col("at"), later={"v": known, "w": told})
        where = pl.lit(True)
    values = {"v": Value(v), "big": Value(v > 0), "late": Value(pl.col("w"), known=told)}
    events = Events("events", table, pl.col("at"), known, values, where=where)
    added = {"n": count(), "sum": total("v"), "mean": mean("v"), "big": share("big")}
    looked_at = {"least": minimum("v"), "most": maximum("v"), "kinds": distinct("v")}
    lasts = {"last": last("v"), "late": last("late"), "ago": since()}
    features = FeatureSet({"who": Field("string", required=False)})
    by = () if everything else ("who",)
    give = {**added, **looked_at, **lasts}
    features.add(View(events, by, give, ("7m", "30m", "ever"), expiry="20m", name="x"))
    features.add(View(events, by, {"aged": decayed("v")}, ("4m", "20m"), name="y"))
    return features


minute = st.integers(0, 60).map(lambda m: START + m * MINUTE)
late, value = st.integers(0, 40).map(lambda m: m * MINUTE), st.sampled_from([None, -3, 0, 5, 7])
who = st.sampled_from(["a", "b", None])
event = st.tuples(who, minute, late, late, value, value)
question = st.tuples(st.sampled_from(["a", "b", "c", None]), minute)


def plain_table(events) -> pl.DataFrame:
    rows = [(i, name, at, at + lag, at + lag + more, v, w) for i, (name, at, lag, more, v, w) in enumerate(events)]
    return pl.DataFrame(rows, schema=PLAIN, orient="row")


correction = st.tuples(st.integers(0, 4), event, st.booleans())


def corrected_table(events) -> pl.DataFrame:
    """Rows with one id are versions, told apart by their number."""
    rows = [
        (i, name, at, at + lag, at + lag + more, v, w, n, there)
        for n, (i, (name, at, lag, more, v, w), there) in enumerate(events)
    ]
    return pl.DataFrame(rows, schema=CORRECTED, orient="row")


def told_again(n: int, draw) -> list[int]:
    """`n` rows in any order, some of them twice."""
    return draw.sample([*range(n), *range(n // 2)], n + n // 2) if n else []


def expected(table: pl.DataFrame, questions, features: FeatureSet, everything: bool = False):
    names = [name for view in features.views for name in view.columns]
    answers = [oracle.features(table.to_dicts(), name, now, everything) for name, now in questions]
    return [(a and {n: a[n] for n in names}) or dict.fromkeys(names) for a in answers]


def offline(features: FeatureSet, table: pl.DataFrame, questions) -> list[dict]:
    rows = pl.DataFrame(questions, schema={"who": pl.String, "predict_at": TIME}, orient="row")
    names = [name for view in features.views for name in view.columns]
    return seen_before(features, rows, {"t": table}).select(names).to_dicts()


def busy_table(n: int = 3_000) -> pl.DataFrame:
    """Events of 40 entities over ten hours, each told late."""
    events = [
        (
            f"e{i * 7919 % 40}",
            START + (i * 611 % 36_000) * timedelta(seconds=1),
            i % 13 * MINUTE,
            i % 29 * MINUTE,
            i % 11,
            i,
        )
        for i in range(n)
    ]
    return plain_table(events)
