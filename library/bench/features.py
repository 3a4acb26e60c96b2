"""What features cost, side by side in one run: offline, online, updates, parity.

    python3 library/bench/features.py [--only PARTS] [--year] [--install-feast] [--check]

PARTS are some of offline,feast,online,updates,parity. Works on the newest snapshot, or takes one, in its own folder.
`--year` checks parity over the whole year instead of November. `--install-feast` makes runs/bench/feast, Feast in an
environment of its own (440 MB); without it that part is skipped. `--check` exits 1 when a limit is not met.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import environment

environment.inside("train", "dev")

import argparse
import gc
import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any

import msgspec
import numpy as np
import polars as pl
from flights.features import flights

from notebento.core.compose import compose
from notebento.core.config import StoreConfig
from notebento.data.snapshot import newest_tables
from notebento.features.schema import FeatureSet, Field, compute, derive, outputs, rows_of
from notebento.features.views import Events, Table, Value, View, last, read_events
from notebento.online.materialize import row_history
from notebento.online.parity import check
from notebento.online.sources import publish
from notebento.online.store import FeatureStore

ROOT = Path(__file__).parents[2]
MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NOVEMBER = datetime(2013, 11, 1, tzinfo=UTC), datetime(2013, 12, 1, tzinfo=UTC)
Tables = dict[str, pl.DataFrame]
missed: list[str] = []


def say(what: str, value: float, unit: str, limit: float, least: bool = False, behind: str = "") -> None:
    """One figure beside its limit, which it has to stay under, or to reach when that is the `least`."""
    met = value >= limit if least else value <= limit
    if not met:
        missed.append(what)
    bound = f"{'≥' if least else '≤'} {limit:,g}"
    print(f"{what:<52}{value:>11,.4g} {unit:<9}{bound:>10}  {'ok' if met else 'NOT MET'}   {behind}", flush=True)


def seconds(call: Callable[[], Any], times: int) -> np.ndarray:
    """How long each of some calls takes, after one that does not count."""
    call()
    taken = []
    for _ in range(times):
        began = time.perf_counter()
        call()
        taken.append(time.perf_counter() - began)
    return np.array(taken)


# ---- offline: the year by our views, and written by hand


def by_hand(rows: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    """The looked-up columns of the flights as one writes them in polars: cumulative sums and as-of joins."""
    flown, weather = tables["flights"], tables["weather"].with_columns(known=pl.col("time") + HOUR)
    key = ["sched_dep", "carrier", "flight", "origin"]
    asked = rows.select(*flights.record, "predict_at").with_row_index("row")
    parts = [asked]

    def at(events: pl.DataFrame, by: tuple[str, ...], end: pl.Expr, values: list[str]) -> pl.DataFrame:
        """The last of `events` at each row's `end`, in the order of the rows."""
        left = asked.select("row", *by, end=end).drop_nulls(by).sort("end")
        right = events.drop_nulls(by).select("known", *by, *values).sort("known", maintain_order=True)
        found = left.join_asof(
            right, left_on="end", right_on="known", by=list(by) or None, check_sortedness=False, coalesce=False
        )
        return asked.select("row").join(found, on="row", how="left", maintain_order="left")

    def totals(
        events: pl.DataFrame, by: tuple[str, ...], prefix: str, means: dict[str, str], windows: dict[str, timedelta],
        sums: dict[str, str] | None = None, n: bool = False, end: pl.Expr | None = None,
    ) -> None:  # fmt: skip
        """Means, sums and counts of windows, as differences of cumulative sums."""
        end, terms = pl.col("predict_at") if end is None else end, {*means.values(), *(sums or {}).values()}
        cum: dict[str, pl.Expr] = {f"{c}.sum": pl.col(c).cast(pl.Int64).fill_null(0) for c in terms}
        cum |= {f"{c}.n": pl.col(c).is_not_null().cast(pl.Int64) for c in terms} | {"n": pl.lit(1, pl.Int64)}
        ordered = events.sort("known", *(k for k in key if k in events.columns))
        added = ordered.with_columns(**cum).with_columns(
            pl.col(c).cum_sum().over(by) if by else pl.col(c).cum_sum() for c in cum
        )
        now = at(added, by, end, [*cum])
        there = pl.all_horizontal(asked[c].is_not_null() for c in by) if by else pl.lit(True)
        for name, window in windows.items():
            grown = {c: now[c].fill_null(0) for c in cum}
            if window:
                before = at(added, by, end - window, [*cum])
                grown = {c: grown[c] - before[c].fill_null(0) for c in cum}
            frame = pl.DataFrame(grown)
            found = {f"{prefix}_{g}_{name}": pl.col(f"{c}.sum") / 1 for g, c in (sums or {}).items()}
            for give, column in means.items():
                mean = pl.col(f"{column}.sum") / pl.col(f"{column}.n")
                found[f"{prefix}_{give}_{name}"] = pl.when(pl.col(f"{column}.n") > 0).then(mean)
            if n:
                found[f"{prefix}_n_{name}"] = pl.col("n")
            parts.append(frame.select(**{c: pl.when(there).then(e) for c, e in found.items()}))

    spans = {"1h": HOUR, "2h": 2 * HOUR, "3h": 3 * HOUR, "4h": 4 * HOUR, "6h": 6 * HOUR, "8h": 8 * HOUR, "24h": DAY}
    spans |= {"7d": 7 * DAY, "14d": 14 * DAY, "30d": 30 * DAY}

    def these(*names: str) -> dict[str, timedelta]:
        return {name: spans[name] for name in names}

    week = pl.col("sched_dep").dt.truncate("1h") + HOUR - timedelta(microseconds=1) - 7 * DAY
    timetable = flown.with_columns(known=pl.col("sched_dep") - 7 * DAY)
    by: tuple[str, ...]
    for by in (("origin",), ("origin", "carrier")):
        totals(timetable, by, "_".join(["scheduled", *by]), {}, these("1h"), n=True, end=week)
    gone = flown.filter(pl.col("departed").is_not_null()).with_columns(
        known="departed", delay="dep_delay", late=pl.col("dep_delay") >= 15
    )
    landed = flown.filter(pl.col("arrived").is_not_null()).with_columns(
        known="arrived", delay="arr_delay", late=pl.col("arr_delay") >= 15,
        made_up=pl.col("dep_delay") - pl.col("arr_delay"),
    )  # fmt: skip
    leaving = {"delay": "delay", "late": "late"}
    landing = leaving | {"made_up": "made_up"}
    for by in (("origin",), ("origin", "carrier")):
        totals(gone, by, "_".join(["departures", *by]), leaving, these("1h", "2h", "4h", "24h", "7d"))
    for by in (("dest",), ("carrier",), ("origin", "dest")):
        totals(landed, by, "_".join(["arrivals", *by]), landing, these("3h", "6h", "24h", "7d"))
    for by in (("carrier", "flight"), ("origin", "dest", "carrier")):
        totals(landed, by, "_".join(["arrivals", *by]), landing, these("30d"), n=True)
    totals(landed, ("tailnum",), "arrivals_tailnum", landing, these("14d"), n=True)
    quarter = pl.col("sched_dep") + 15 * MINUTE
    checks = flown.with_columns(known=quarter, held=pl.col("departed").is_null() | (pl.col("departed") >= quarter))
    for by in (("origin",), ("origin", "carrier"), ("carrier",)):
        prefix = "_".join(["checks", *by])
        totals(checks, by, prefix, {"held": "held"}, these("1h", "2h", "4h", "8h"), sums={"held_n": "held"})
    several: list[tuple[tuple[str, ...], tuple[str, ...]]] = [
        ((), ("1h", "2h", "4h", "24h")), (("dest",), ("2h", "4h", "8h")), (("origin", "dest"), ("8h",)),
        (("carrier", "dest"), ("24h",)),
    ]  # fmt: skip
    for by, names in several:
        totals(checks, by, "_".join(["checks", *by]), {"held": "held"}, these(*names))
    over = pl.min_horizontal("departed", pl.col("sched_dep") + 5 * HOUR)
    waits = flown.with_columns(over=over, scheduled=pl.col("sched_dep").dt.epoch("s") // 60).filter(over > quarter)
    for by in ((), ("origin",), ("carrier",), ("origin", "carrier"), ("dest",)):
        for kind, known in (("_begun", quarter), ("_ended", pl.col("over"))):
            prefix = "_".join([kind, "waiting", *by])
            moved, ever = waits.with_columns(known=known), {"ever": timedelta()}
            totals(moved, by, prefix, {}, ever, {"scheduled": "scheduled"}, n=True)
    totals(
        weather.with_columns(precip=(pl.col("precip") * 100).round()), ("origin",), "weather", {}, these("6h"),
        sums={"rain": "precip"},
    )  # fmt: skip
    parts[-1] = parts[-1].with_columns(pl.col("weather_rain_6h") / 100)

    def lasts(
        events: pl.DataFrame, by: str, prefix: str, values: list[str], expiry: timedelta, end: pl.Expr
    ) -> pl.DataFrame:
        """The last values, unless they have expired."""
        found = at(events, (by,), end, values)
        fresh = asked.select(end).to_series() - found["known"] < expiry
        return found.select(pl.when(fresh).then(v).alias(f"{prefix}_{v}") for v in values)

    now = pl.col("predict_at")
    touched = landed.sort("known", *key).with_columns(at="known")
    arrived = lasts(touched, "tailnum", "aircraft_arrival", ["delay", "at"], 7 * DAY, now)
    ago = (asked["predict_at"] - arrived["aircraft_arrival_at"]).dt.total_microseconds() / 60_000_000
    parts.append(arrived.select("aircraft_arrival_delay", aircraft_arrival_ago=ago))
    leg = ["sched_dep", "sched_arr", "origin", "distance", "dep_delay", "arr_delay"]
    legs = flown.with_columns(known=pl.col("sched_dep") - 2 * HOUR).sort("known", *key)
    before = pl.col("sched_dep") - 2 * HOUR - timedelta(microseconds=1)
    late = lasts(legs, "tailnum", "_leg", [*leg, "departed", "arrived"], 7 * DAY, before)
    for outcome, moment in (("dep_delay", "departed"), ("arr_delay", "arrived")):
        by_then = pl.col(f"_leg_{moment}") <= asked["predict_at"]
        late = late.with_columns(pl.when(by_then).then(f"_leg_{outcome}").alias(f"_leg_{outcome}")).drop(
            f"_leg_{moment}"
        )
    parts.append(late)
    facts = {"year": "year", "seats": "seats", "maker": "manufacturer", "model": "model"}
    planes = tables["planes"].select("tailnum", **{f"plane_{name}": pl.col(column) for name, column in facts.items()})
    parts.append(asked.select("tailnum").join(planes, on="tailnum", how="left", maintain_order="left").drop("tailnum"))
    wind = pl.col("wind_dir").radians()
    readings = ["temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib"]
    readings += ["wind_sin", "wind_cos"]
    sky = weather.with_columns(wind_sin=wind.sin(), wind_cos=wind.cos())
    parts.append(lasts(sky, "origin", "weather", readings, 3 * HOUR, now))
    parts.append(lasts(sky, "origin", "_earlier", readings, 3 * HOUR, now - 3 * HOUR))
    return pl.concat(parts, how="horizontal").drop("row")


def year_by_hand(rows: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    """All columns: what is derived from the looked-up ones are the same expressions, whoever writes them."""
    return derive(flights.derived, by_hand(rows, tables).lazy(), flights.derived).select(outputs(flights)).collect()


def offline(rows: pl.DataFrame, tables: Tables) -> None:
    """The flights of the year, in turns."""
    ours, hand = list[float](), list[float]()
    for _ in range(3):
        for took, make in ((ours, compute_year), (hand, year_by_hand)):
            began = time.perf_counter()
            table = make(rows, tables)
            took.append(time.perf_counter() - began)
            if make is compute_year:
                mine = table
    columns = mine.columns
    wrong = [c for c in columns if not mine[c].equals(table[c], null_equal=True)]
    if wrong:
        raise SystemExit(f"by hand {len(wrong)} columns come out differently: {', '.join(wrong[:8])}")
    a, b = min(ours), min(hand)
    behind = f"{a:.2f} s / {b:.2f} s"
    say(f"offline: {len(rows):,} flights × {len(columns)}, by hand = 1", a / b, "times", 1.3, behind=behind)


def compute_year(rows: pl.DataFrame, tables: Tables) -> pl.DataFrame:
    """All columns by the views."""
    return compute(flights, rows, tables)


# ---- Feast


FEAST = """
import sys, time, warnings
warnings.filterwarnings("ignore")
from datetime import timedelta
from pathlib import Path
import pandas as pd
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, RepoConfig
from feast.types import Float64
from feast.value_type import ValueType
folder = Path(sys.argv[1])
config = RepoConfig(project="bench", provider="local", registry=str(folder / "registry.db"),
                    entity_key_serialization_version=3, offline_store={"type": "file"},
                    online_store={"type": "sqlite", "path": str(folder / "online.db")})
store = FeatureStore(config=config)
who = Entity(name="who", join_keys=["who"], value_type=ValueType.INT64)
names = [f"f{i}" for i in range(10)]
view = FeatureView(name="v", entities=[who], ttl=timedelta(days=4000),
                   schema=[Field(name=n, dtype=Float64) for n in names],
                   source=FileSource(path=str(folder / "events.parquet"), timestamp_field="known"))
store.apply([who, view])
labels = pd.read_parquet(folder / "labels.parquet")
best = 1e9
for _ in range(2):
    began = time.perf_counter()
    found = store.get_historical_features(entity_df=labels, features=[f"v:{n}" for n in names]).to_df()
    best = min(best, time.perf_counter() - began)
print("seconds", best, len(found))
"""


def feast(folder: Path, install: bool) -> None:
    """100,000 labels × 500,000 rows × 10 features, an as-of join, by our views and by Feast."""
    home = Path(os.environ.get("NOTEBENTO_FEAST", ROOT / "runs" / "bench" / "feast"))
    python = home / "bin" / "python"
    if not python.exists() and install:
        subprocess.run([sys.executable, "-m", "venv", home], check=True)
        subprocess.run([python, "-m", "pip", "install", "-q", "feast"], check=True)
    rng = np.random.default_rng(0)
    begin, names = datetime(2013, 1, 1, tzinfo=UTC), [f"f{i}" for i in range(10)]

    def table(n: int, column: str) -> pl.DataFrame:
        when = pl.Series(column, rng.integers(0, 365 * 86_400, n) * 1_000_000).cast(pl.Duration("us")) + begin
        return pl.DataFrame({"who": rng.integers(0, 5_000, n), column: when})

    events = table(500_000, "known").with_columns(
        pl.lit(rng.standard_normal(500_000)).alias(name) for name in names
    ).unique(["who", "known"], keep="first", maintain_order=True)  # fmt: skip
    labels = table(100_000, "predict_at")
    source = Table("events", key=("who", "known"), known=pl.col("known"))
    stream = Events("events", source, pl.col("known"), pl.col("known"), {n: Value(pl.col(n)) for n in names})
    features = FeatureSet({"who": Field("number")})
    features.add(View(stream, ("who",), {n: last(n) for n in names}, name="v"))
    numbers = events.with_columns(pl.col("who").cast(pl.Float64))
    asked = labels.with_columns(pl.col("who").cast(pl.Float64))
    ours = seconds(lambda: compute(features, asked, {"events": numbers}), 3).min()
    if not python.exists():
        print(f"feast: skipped, {python} is not there; --install-feast makes it (ours: {ours:.2f} s)")
        return
    events.write_parquet(folder / "events.parquet")
    labels.rename({"predict_at": "event_timestamp"}).write_parquet(folder / "labels.parquet")
    done = subprocess.run([python, "-c", FEAST, folder], capture_output=True, text=True)
    if done.returncode:
        print(f"feast: skipped, it failed: {done.stderr.strip().splitlines()[-1]}")
        return
    theirs = float(done.stdout.split("seconds")[1].split()[0])
    say("offline: Feast's time in ours", theirs / ours, "times", 20, True, f"{theirs:.2f} s / {ours:.3f} s")


# ---- online


def settings(folder: Path, backend: str = "sqlite", url: str = "") -> StoreConfig:
    """A store of this run's own."""
    config = compose([f"store={backend}"]).store
    return msgspec.structs.replace(config, url=url or str(folder / "year.db"), name="bench", horizon="2d")


def online(folder: Path, rows: pl.DataFrame, tables: Tables) -> None:
    """Reads from SQLite with the year materialized."""
    end = rows["predict_at"].max()
    assert isinstance(end, datetime)
    with FeatureStore.open(flights, settings(folder)) as store:
        began = time.perf_counter()
        store.materialize(tables, end)
        states = store.backend._db.execute("SELECT count(*) FROM state").fetchone()[0]  # type: ignore[attr-defined]
        print(f"online: the year materialized in {time.perf_counter() - began:.0f} s, {states:,} states")
        recent = rows.filter(pl.col("predict_at") > end - DAY)
        asked = recent.select(*flights.record, "predict_at").sample(min(500, len(recent)), seed=0).to_dicts()
        turn = iter(range(10**9))
        taken = seconds(lambda: store.read([asked[next(turn) % len(asked)]]), 4_000) * 1e6
        names = len(store.read(asked[:1]).rows[0])
        p50, p99 = np.quantile(taken, [0.5, 0.99])
        say(f"online: {names} features of one flight, p50", p50, "µs", 200)
        say("online: p99", p99, "µs", 600)
        noon = (end - DAY).replace(hour=12, minute=0, second=0, microsecond=0)
        for what, batch in {"asked at one moment": asked_at_once(rows, noon), "each at its own": asked[:100]}.items():
            taken = seconds(partial(store.read, batch), 100) * 1e3
            say(f"online: 100 flights, {what}, p50", float(np.median(taken)), "ms", 6, behind=f"best {taken.min():.2f}")
    ten(folder)


def asked_at_once(rows: pl.DataFrame, now: datetime) -> list[dict[str, Any]]:
    """100 flights of the next eight hours, as a service asks: as of now, or two hours before they depart."""
    soon = rows.filter(pl.col("sched_dep").is_between(now, now + 8 * HOUR)).sample(100, seed=0)
    moment = pl.min_horizontal(pl.lit(now), pl.col("sched_dep") - 2 * HOUR)
    return soon.select(*flights.record, predict_at=moment).to_dicts()


def ten(folder: Path) -> None:
    """Ten plain last values of one entity, and one blob by a raw SELECT."""
    n, names = 20_000, [f"f{i}" for i in range(10)]
    begin = datetime(2013, 1, 1, tzinfo=UTC)
    source = Table("events", key=("who",), known=pl.col("known"))
    stream = Events("events", source, pl.col("known"), pl.col("known"), {n: Value(pl.col(n)) for n in names})
    features = FeatureSet({"who": Field("string")})
    features.add(View(stream, ("who",), {n: last(n) for n in names}, name="v"))
    who = [f"user {i}" for i in range(n)]
    rng = np.random.default_rng(0)
    values = {name: rng.standard_normal(n).tolist() for name in names}
    rows = pl.DataFrame({"who": who, "known": [begin] * n, **values})
    config = settings(folder, url=str(folder / "ten.db"))
    with FeatureStore.open(features, config) as store, sqlite3.connect(folder / "raw.db") as raw:
        store.materialize({"events": rows}, begin + DAY)
        raw.execute("PRAGMA journal_mode=WAL")
        raw.execute("CREATE TABLE blob (who BLOB PRIMARY KEY, state BLOB) WITHOUT ROWID")
        blobs = [(w.encode(), msgspec.msgpack.encode([v[i] for v in values.values()])) for i, w in enumerate(who)]
        raw.executemany("INSERT INTO blob VALUES (?, ?)", blobs)
        raw.commit()
        asked = [{"who": w, "predict_at": begin + DAY} for w in who[::7]]
        keys = [(w.encode(),) for w in who[::7]]
        turn = iter(range(10**9))
        ours = seconds(lambda: store.read([asked[next(turn) % len(asked)]]), 5_000)
        decode = msgspec.msgpack.decode
        select = "SELECT state FROM blob WHERE who=?"
        theirs = seconds(lambda: decode(raw.execute(select, keys[next(turn) % len(keys)]).fetchone()[0]), 5_000)
    a, b = np.median(ours) * 1e6, np.median(theirs) * 1e6
    say("online: ten last values, raw SELECT of a blob = 1", a / b, "times", 2, behind=f"{a:.1f} µs / {b:.1f} µs")


# ---- updates


def news(tables: Tables, start: datetime, end: datetime) -> list[tuple[str, pl.DataFrame]]:
    """What became known of the rows of each table in (start, end], a row each time that it tells more."""
    owners = {view.events.table.name: view.events.table for view in flights.views}
    return [
        (name, row_history(table, tables[name].lazy().select(used(name)), start, end).sort("_moment").collect())
        for name, table in owners.items()
    ]


def used(table: str) -> list[str]:
    """The columns of a table that the views use."""
    mine = [view for view in flights.views if view.events.table.name == table]
    return list(dict.fromkeys(name for view in mine for name in [*view.events.columns, *view.by]))


def events_of(tables: Tables, start: datetime, end: datetime) -> int:
    """How many events became known in (start, end]."""
    kinds = {view.events: None for view in flights.views}
    inside = pl.col("_known").is_between(start, end, closed="right")
    return sum(len(read_events(events, tables).filter(inside)) for events in kinds)


def updates(folder: Path, tables: Tables) -> None:
    """Rows per second that one process ingests into SQLite, and how soon one is readable with Redis on loopback."""
    start = datetime(2013, 12, 1, tzinfo=UTC)
    end = start + 7 * DAY
    with FeatureStore.open(flights, settings(folder, url=str(folder / "updates.db"))) as store:
        store.materialize(tables, start)
        rows = [(name, frame) for name, frame in news(tables, start, end) if len(frame)]
        number, began = 0, time.perf_counter()
        for name, frame in rows:
            for part in frame.iter_slices(1_000):
                store.apply(name, part.drop("_moment"), part["_moment"].to_list())
                number += len(part)
        store.advance(end)
        took = time.perf_counter() - began
    events = events_of(tables, start, end)
    behind = f"{events:,} events from {number:,} rows in {took:.1f} s: {number / took:,.0f} rows/s"
    say("updates: events a second, SQLite, one process", events / took, "events/s", 10_000, True, behind)
    latency(folder, tables, start)


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis server of this run's own."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = ["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", str(folder)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    try:
        time.sleep(0.5)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.terminate()
        process.wait()


def latency(folder: Path, tables: Tables, start: datetime) -> None:
    """From a message in a Redis Stream to features that know of it; `notebento features ingest` is another process."""
    if shutil.which("redis-server") is None:
        print("updates: from event to readable is skipped, redis-server is not on this machine")
        return
    recent = {name: frame for name, frame in tables.items() if name != "flights"}
    recent["flights"] = tables["flights"].filter(pl.col("sched_dep") > start - 3 * DAY)
    due = recent["flights"].filter(pl.col("sched_dep") > start, pl.col("departed").is_not_null()).sort("departed")
    with redis_server(folder) as url:
        config = settings(folder, "redis", url)
        with FeatureStore.open(flights, config) as store:
            store.materialize(recent, start)
            command = [sys.executable, "-m", "notebento", "features", "ingest", "--from", f"{url}?stream=bench"]
            overrides = ["store=redis", f"store.url={url}", f"store.name={config.name}", "data.as_of=null"]
            process = subprocess.Popen([*command, *overrides], stdout=subprocess.DEVNULL)
            try:
                took = []
                for row in due.select(used("flights")).head(200).iter_rows(named=True):
                    message = {"table": "flights", "row": row, "at": row["departed"]}
                    record = row | {"predict_at": row["departed"]}
                    before = store.read([record]).rows
                    began = time.perf_counter()
                    publish(url, "bench", [message])
                    while store.read([record]).rows == before and time.perf_counter() - began < 20:
                        time.sleep(0.0005)
                    took.append(time.perf_counter() - began)
            finally:
                process.terminate()
                process.wait()
    taken = np.array(took[5:]) * 1e3  # the first wait for the process to start
    behind = f"p50 {np.median(taken):.1f} ms, {len(taken)} events"
    say("updates: from event to readable, Redis, p99", float(np.quantile(taken, 0.99)), "ms", 50, behind=behind)


# ---- parity


def parity(folder: Path, rows: pl.DataFrame, tables: Tables, year: bool) -> None:
    """Differences between the table and what the store answers, bit by bit, on each backend."""
    start, end = (datetime(2013, 1, 2, tzinfo=UTC), rows["predict_at"].max()) if year else NOVEMBER
    assert isinstance(end, datetime)
    for backend in ("sqlite", "redis"):
        if backend == "redis" and shutil.which("redis-server") is None:
            print("parity: redis is skipped, redis-server is not on this machine")
            continue
        with redis_server(folder) if backend == "redis" else _nothing() as url:
            began = time.perf_counter()
            config = settings(folder, backend, url or str(folder / "parity.db"))
            found = check(flights, config, rows, tables, start, end)
        behind = f"{found.rows:,} flights × {found.features} features, {time.perf_counter() - began:.0f} s"
        what = f"parity: features that differ, {backend}, {start:%b} to {end:%b}"
        say(what, len(found.differences), "", 0, behind=behind)


@contextmanager
def _nothing() -> Iterator[str]:
    yield ""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="offline,feast,online,updates,parity", help="these parts")
    parser.add_argument("--year", action="store_true", help="parity over the whole year")
    parser.add_argument("--install-feast", action="store_true", help="make the environment for Feast")
    parser.add_argument("--check", action="store_true", help="exit 1 when a limit is not met")
    arguments = parser.parse_args()
    parts = arguments.only.split(",")
    config = compose()
    tables = newest_tables(config.data)
    rows = rows_of(tables, config.data)
    versions = f"polars {pl.__version__}, SQLite {sqlite3.sqlite_version}"
    print(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}, {versions}")
    with tempfile.TemporaryDirectory(prefix="notebento-bench-") as name:
        folder = Path(name)
        for part, run in {
            "offline": lambda: offline(rows, tables),
            "feast": lambda: feast(folder, arguments.install_feast),
            "online": lambda: online(folder, rows, tables),
            "updates": lambda: updates(folder, tables),
            "parity": lambda: parity(folder, rows, tables, arguments.year),
        }.items():
            if part in parts:
                gc.collect()
                run()
    print(f"NOT MET: {', '.join(missed)}" if missed else "every limit is met")
    return int(arguments.check and bool(missed))


if __name__ == "__main__":
    raise SystemExit(main())
