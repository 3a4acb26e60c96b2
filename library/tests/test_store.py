"""What the notebook of the store cannot show: any history in any order, killed writers, lost servers, full disks."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import polars as pl
import pytest
from histories import (
    START,
    TIME,
    busy_table,
    corrected_table,
    correction,
    event,
    expected,
    plain_table,
    question,
    told_again,
    toy_views,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from stores import environment, redis_server, settings_of

from notebento.core.errors import UserError
from notebento.features.schema import TEXT, FeatureSet, seen_before
from notebento.features.views import Events, Table, Value, View, count, last
from notebento.online.backends import SqliteStore, StoreError
from notebento.online.materialize import row_history
from notebento.online.parity import check
from notebento.online.store import FeatureStore

MINUTE, HOUR, DAY = timedelta(minutes=1), timedelta(hours=1), timedelta(days=1)
NAMES = {corrected: [n for v in toy_views(corrected).views for n in v.columns] for corrected in (False, True)}


def feed(store: FeatureStore, table: pl.DataFrame, after: datetime, until: datetime, draw, order: list[int]) -> None:
    """Tell the store what became known of the table in (after, until], in any order, some of it twice."""
    told = row_history(store.layout.tables["t"], table.lazy(), after, until).collect()
    order = [i for i in order if i < len(told)] + list(range(len(told)))
    while order:
        some, order = order[: draw.randint(1, 4)], order[4:]
        rows = told[some]
        store.apply("t", rows.drop("_moment"), rows["_moment"].to_list())
    told_all = row_history(store.layout.tables["t"], table.lazy(), after, until).collect().sort("_moment")
    for moment, rows in told_all.partition_by("_moment", as_dict=True).items():
        store.apply("t", rows.drop("_moment"), moment[0])
    store.advance(until)


def replayed(features: FeatureSet, config, table: pl.DataFrame, questions, began: datetime, draw, order) -> list[dict]:
    until = START + 10 * HOUR
    with FeatureStore.open(features, config) as store:
        store.clear()
        store.materialize({"t": table}, began)
        feed(store, table, began, until, draw, order)
        return store.read([{"who": who, "predict_at": now} for who, now in questions]).rows


began = st.integers(0, 60).map(lambda m: START + m * MINUTE)


@pytest.mark.server
@pytest.mark.parametrize("backend", ["sqlite", "redis"])
@pytest.mark.parametrize("corrected", [False, True])
def test_a_store_says_what_the_definitions_say(backend, corrected, tmp_path, redis):
    """Any history, materialized at any time, told in any order: as plain Python, and as the table."""
    config = settings_of(tmp_path) if backend == "sqlite" else redis.store()
    build, one = (corrected_table, correction) if corrected else (plain_table, event)
    features = toy_views(corrected)

    @settings(max_examples=25, deadline=None)
    @given(st.lists(one, max_size=12), st.lists(question, min_size=1, max_size=5), began, st.randoms())
    def agree(events, questions, at, draw):
        table = build(events)
        order = told_again(len(table), draw)
        found = replayed(features, config, table, questions, at, draw, order)
        wanted = expected(table, questions, features)
        assert [{n: row[n] for n in NAMES[corrected]} for row in found] == wanted

    agree()


@pytest.mark.process
def test_who_waits_is_told_how_far_it_is(tmp_path):
    """A check after every step; filling a store after every slice, of which the last ends where it shall."""
    config, table, end = settings_of(tmp_path), busy_table(15_000), START + 5 * HOUR + 10 * MINUTE
    replay, slices = [], []
    questions = pl.DataFrame([{"who": f"e{i}", "predict_at": START + i * 10 * MINUTE} for i in range(40)])
    check(toy_views(), config, questions, {"t": table}, START, end, HOUR, replay.append)
    assert replay == [*(START + i * HOUR for i in range(1, 6)), end]
    with FeatureStore.open(toy_views(), config) as store:
        store.materialize({"t": table}, START, slices.append)
        assert slices == []  # the first filling is one piece
        store.materialize({"t": table}, end, slices.append)
    assert slices == sorted(set(slices)) and len(slices) > 1 and slices[-1] == end


WRITER = """
import sys
import msgspec, polars as pl
from datetime import datetime
from notebento.core.config import StoreConfig
from notebento.core.clock import from_microseconds
from notebento.online.materialize import row_history
from notebento.online.store import FeatureStore
from histories import START, toy_views
config, table = msgspec.json.decode(sys.argv[1], type=StoreConfig), pl.read_parquet(sys.argv[2])
part, parts, size = map(int, sys.argv[3:6])
with FeatureStore.open(toy_views(), config) as store:
    if store.clock is None:
        store.materialize({"t": table}, START)
    told = row_history(store.layout.tables["t"], table.lazy(), START, datetime.max.replace(tzinfo=START.tzinfo))
    told = told.sort("_moment", "id").collect().gather_every(parts, part)
    print("ready", flush=True)
    for i in range(0, len(told), size):
        rows = told[i : i + size]
        store.apply("t", rows.drop("_moment"), rows["_moment"].to_list())
    store.advance(told["_moment"].max())
print("done", flush=True)
"""


def start_writer(config, table: Path, part: int = 0, parts: int = 1, size: int = 20) -> subprocess.Popen:
    command = [sys.executable, "-c", WRITER, msgspec.json.encode(config).decode(), str(table), str(part), str(parts)]
    return subprocess.Popen([*command, str(size)], stdout=subprocess.PIPE, text=True, env=environment())


def answers(config, table: pl.DataFrame) -> list[dict]:
    now = START + 11 * HOUR
    asked = [{"who": f"e{i}", "predict_at": now - i * 7 * MINUTE} for i in range(40)]
    with FeatureStore.open(toy_views(), config) as store:
        return store.read(asked).rows


def wanted(table: pl.DataFrame) -> list[dict]:
    now = START + 11 * HOUR
    return expected(table, [(f"e{i}", now - i * 7 * MINUTE) for i in range(40)], toy_views())


def same(found: list[dict], wanted: list[dict]) -> bool:
    return [{name: row[name] for name in NAMES[False]} for row in found] == wanted


@pytest.fixture
def busy(tmp_path):
    table = busy_table()
    table.write_parquet(tmp_path / "busy.parquet")
    return table, tmp_path / "busy.parquet"


@pytest.mark.process
@pytest.mark.parametrize("backend", ["sqlite", "redis"])
def test_a_killed_writer_leaves_nothing_behind_that_is_wrong(backend, busy, tmp_path, redis):
    """Killed again and again in the middle of writing; what starts after it tells everything from the beginning."""
    table, path = busy
    config = settings_of(tmp_path) if backend == "sqlite" else redis.store(name="killed")
    for pause in (0.05, 0.3, 0.7):
        writer = start_writer(config, path)
        assert writer.stdout.readline() == "ready\n"
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        writer.communicate()
        assert writer.returncode == -signal.SIGKILL
    writer = start_writer(config, path, size=500)
    assert writer.communicate()[0] == "ready\ndone\n" and writer.returncode == 0
    assert same(answers(config, table), wanted(table))


@pytest.mark.process
@pytest.mark.parametrize("backend", ["sqlite", "redis"])
def test_two_writers_lose_nothing(backend, busy, tmp_path, redis):
    table, path = busy
    config = settings_of(tmp_path) if backend == "sqlite" else redis.store(name="two")
    with FeatureStore.open(toy_views(), config) as store:
        store.materialize({"t": table}, START)
    writers = [start_writer(config, path, part, 2, 100) for part in (0, 1)]
    assert [w.communicate()[0] for w in writers] == ["ready\ndone\n"] * 2
    assert same(answers(config, table), wanted(table))


@pytest.mark.server
@pytest.mark.server
def test_a_server_that_goes_away_and_comes_back(busy, tmp_path):
    """Reads say in time that the store does not answer; a write waits, and is there once."""
    table, _ = busy
    with redis_server(tmp_path) as server:
        config = msgspec.structs.replace(server.store(), deadline_ms=100, retry_s=20.0)
        store, reader = FeatureStore.open(toy_views(), config), FeatureStore.open(toy_views(), config)
        store.materialize({"t": table}, START)
        told = row_history(store.layout.tables["t"], table.lazy(), START, START + 11 * HOUR).sort("_moment").collect()
        half = len(told) // 2
        store.apply("t", told[:half].drop("_moment"), told["_moment"][:half].to_list())
        server.stop()
        writer = threading.Thread(
            target=store.apply, args=("t", told[half:].drop("_moment"), told["_moment"][half:].to_list())
        )
        writer.start()
        for _ in range(5):
            began = time.monotonic()
            looked = reader.read([{"who": "e1", "predict_at": START + HOUR}])
            assert time.monotonic() - began < 0.5
            assert list(looked.why[0]) == ["unavailable"] and set(looked.rows[0].values()) == {None}
        assert writer.is_alive()
        server.start()
        writer.join(20)
        assert not writer.is_alive()
        store.advance(START + 11 * HOUR)
        assert same(answers(config, table), wanted(table))
        store.close()
        reader.close()


@pytest.mark.server
@pytest.mark.server
def test_a_server_that_stays_away_is_an_error_in_time(tmp_path):
    with redis_server(tmp_path) as server:
        config = msgspec.structs.replace(server.store(), retry_s=0.5)
        with FeatureStore.open(toy_views(), config) as store:
            store.materialize({"t": busy_table(10)}, START)
            server.stop()
            began = time.monotonic()
            with pytest.raises(StoreError, match="the feature store in Redis does not answer"):
                store.advance(START + HOUR)
            assert time.monotonic() - began < 5
            server.start()
            store.advance(START + HOUR)
            assert store.clock == START + HOUR


def test_a_changed_view_reads_nothing_that_another_wrote(tmp_path):
    config, table = settings_of(tmp_path), busy_table(200)
    older = toy_views()
    changed = FeatureSet(older.record)
    for view in older.views:
        changed.add(View(view.events, view.by, dict(view.give), ("8m", *view.windows[1:]), view.expiry, name=view.name))
    record = {"who": "e1", "predict_at": START + HOUR}
    with FeatureStore.open(older, config) as store, FeatureStore.open(changed, config) as newer:
        store.materialize({"t": table}, START + HOUR)
        before = store.read([record]).rows
        assert newer.clock is None and newer.read([record]).why == [
            {"not materialized": list(newer.read([record]).kinds)}
        ]
        with pytest.raises(UserError, match="not materialized for these views"):
            newer.advance(START + 2 * HOUR)
        newer.materialize({"t": table}, START + HOUR)
        assert store.read([record]).rows == before
        assert newer.read([record]).rows[0]["x_n_30m"] == before[0]["x_n_30m"]


FILLS = """
import resource, sys
import msgspec, polars as pl
from notebento.core.config import StoreConfig
from notebento.online.backends import StoreError
from notebento.online.store import FeatureStore
from histories import START, busy_table, toy_views
from datetime import timedelta
config = msgspec.json.decode(sys.argv[1], type=StoreConfig)
with FeatureStore.open(toy_views(), config) as store:
    store.materialize({"t": busy_table(50)}, START + timedelta(hours=11))
    before = store.read([{"who": "e1", "predict_at": START + timedelta(hours=11)}]).rows
    resource.setrlimit(resource.RLIMIT_FSIZE, (400_000, resource.RLIM_INFINITY))
    rows = busy_table(20_000)
    try:
        store.apply("t", rows, START + timedelta(hours=11))
        sys.exit("the disk did not fill")
    except StoreError as e:
        assert "no space left for the feature store" in str(e), e
    assert store.read([{"who": "e1", "predict_at": START + timedelta(hours=11)}]).rows == before
    resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    store.apply("t", rows, START + timedelta(hours=11))
    assert store.read([{"who": "e1", "predict_at": START + timedelta(hours=11)}]).rows != before
"""


@pytest.mark.process
@pytest.mark.process
def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path):
    command = [sys.executable, "-c", FILLS, msgspec.json.encode(settings_of(tmp_path, retry_s=0.2)).decode()]
    done = subprocess.run(command, env=environment(), capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_who_reads_needs_no_lock(tmp_path):
    path = tmp_path / "store.db"
    first = SqliteStore(path)
    assert first.write(0, [(b"a", 1, b"one")])
    held = sqlite3.connect(path, isolation_level=None)
    held.execute("BEGIN IMMEDIATE")
    reader = SqliteStore(path, wait_s=0.05)
    assert reader.read([(b"a", 2)])[0] == [b"one"] and reader.revision() == 1
    with pytest.raises(StoreError, match="locked"):
        reader.write(1, [(b"a", 2, b"two")])
    held.close()
    assert reader.write(1, [(b"a", 2, b"two")])
    for store in (first, reader):
        store.close()


READS = """
import os, sys
from pathlib import Path
from notebento.online.backends import SqliteStore, StoreError

os.setgroups([]), os.setgid(65534), os.setuid(65534)
store = SqliteStore(Path(sys.argv[1]), 0.1)
print(store.read([(b"a", 2)])[0])
try:
    store.write(1, [])
except StoreError as e:
    print(e)
"""


@pytest.mark.process
@pytest.mark.process
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can become somebody else")
def test_who_may_not_write_the_file_can_read_it():
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        first = SqliteStore(Path(folder) / "store.db")
        assert first.write(0, [(b"a", 1, b"one")])
        done = subprocess.run([sys.executable, "-c", READS, f"{folder}/store.db"], capture_output=True, text=True)
        first.close()
    assert done.returncode == 0, done.stderr
    assert "[b'one']" in done.stdout and "attempt to write a readonly database" in done.stdout


def test_an_address_that_is_none_is_an_error(tmp_path):
    (tmp_path / "file").touch()
    config = settings_of(tmp_path / "file" / "deep")
    with pytest.raises(StoreError, match="cannot be used: .*file.*: Not a directory"):
        FeatureStore.open(toy_views(), config)
    for url in ("foo", "redis://127.0.0.1:port/0"):
        with pytest.raises(UserError, match="is not the address of a Redis server"):
            FeatureStore.open(toy_views(), msgspec.structs.replace(config, backend="redis", url=url))


def test_what_is_missing_expired_stale_or_too_old_has_its_reason(tmp_path):
    config, until = settings_of(tmp_path), START + 11 * HOUR
    with FeatureStore.open(toy_views(), config) as store:
        assert set(store.read([{"who": "e1", "predict_at": until}]).why[0]) == {"not materialized"}
        store.materialize({"t": busy_table()}, until)

        def why(who, at):
            return store.read([{"who": who, "predict_at": at}]).why[0]

        assert why("e1", until - HOUR) == {}
        assert {"x_mean_7m", "x_last", "y_aged_4m"} <= set(why("nobody", until)["missing"])
        assert "x_n_7m" not in why("nobody", until)["missing"]  # nothing was counted, and that is known
        assert set(why("e1", until)["expired"]) == {"x_last", "x_late", "x_ago"}
        assert set(why("e1", until + HOUR)) == {"stale", "expired"}
        old = store.read([{"who": "e1", "predict_at": until - 3 * DAY}])
        assert set(old.why[0]) >= {"too old"} and set(old.rows[0].values()) == {None}


def test_a_store_keeps_what_reads_need_and_no_more(tmp_path):
    """Two weeks of events with windows of minutes: states older than the horizon are gone, and answers are right."""
    config = settings_of(tmp_path, horizon="1h")
    rows = [("a", START + i * HOUR, 0 * MINUTE, 0 * MINUTE, i % 7, i) for i in range(14 * 24)]
    table, short = plain_table(rows), FeatureSet(toy_views().record)
    for view in toy_views().views:
        windows = tuple(w for w in view.windows if w != "ever")
        short.add(View(view.events, view.by, dict(view.give), windows, view.expiry, name=view.name))
    with FeatureStore.open(short, config) as store:
        store.materialize({"t": table}, START)
        feeds = row_history(store.layout.tables["t"], table.lazy(), START, START + 14 * DAY).sort("_moment").collect()
        for i in range(0, len(feeds), 24):
            store.apply("t", feeds[i : i + 24].drop("_moment"), feeds["_moment"][i : i + 24].to_list())
        now = START + 14 * DAY - 30 * MINUTE
        store.advance(now)
        found = store.read([{"who": "a", "predict_at": now}]).rows
        kept = store.backend._db.execute("SELECT count(*) FROM state").fetchone()[0]
    assert found == [{name: expected(table, [("a", now)], toy_views())[0][name] for name in found[0]}]
    assert kept < 120  # of 336 events: 24 of each batch may not be dropped before the next


def test_a_view_may_go_by_what_is_derived_from_the_record(tmp_path):
    features, view = FeatureSet(toy_views().record), toy_views().views[0]
    features.derive("whose", pl.col("who").str.slice(0, 2), categorical=True)
    table = busy_table(400).with_columns(whose=pl.col("who").str.slice(0, 2))
    features.add(View(view.events, ("whose",), {"n": count(), "last": last("v")}, ("30m",), name="z"))
    asked = [{"who": f"e{i}", "predict_at": START + 9 * HOUR + i * MINUTE} for i in range(12)]
    with FeatureStore.open(features, settings_of(tmp_path)) as store:
        store.materialize({"t": table}, START + 10 * HOUR)
        found = store.read(asked).frame()
    rows = pl.DataFrame(asked, schema_overrides={"predict_at": TIME})
    assert found["z_n_30m"].sum() > 20
    assert found.equals(seen_before(features, rows, {"t": table}).select(found.columns))


@pytest.mark.process
@pytest.mark.parametrize("corrected", [False, True])
def test_a_store_that_forgets_all_it_may_says_what_the_table_says(corrected, tmp_path):
    build, one = (corrected_table, correction) if corrected else (plain_table, event)
    features, config = toy_views(corrected), settings_of(tmp_path, horizon="3m")
    asked = [{"who": who, "predict_at": START + m * MINUTE} for m in range(0, 180, 7) for who in ("a", "b", None)]
    rows = pl.DataFrame(asked, schema={"who": pl.String, "predict_at": TIME})

    @settings(max_examples=12, deadline=None)
    @given(st.lists(one, max_size=12), st.integers(0, 60))
    def agree(events, m):
        at, end = START + m * MINUTE, START + 3 * HOUR
        assert not check(features, config, rows, {"t": build(events)}, at, end, 3 * MINUTE).differences

    agree()


def same_as_table(store: FeatureStore, table: pl.DataFrame, now: datetime) -> bool:
    """Whether the store says of `a` what the table says."""
    asked = [{"who": "a", "predict_at": now}]
    found = store.read(asked).frame()
    rows = pl.DataFrame(asked, schema={"who": pl.String, "predict_at": TIME})
    return found.equals(seen_before(store.features, rows, {"t": table}).select(found.columns))


def test_a_correction_of_what_is_older_than_all_that_is_kept_counts_once(tmp_path):
    """Of sums that never end the old part has to go when it is taken back."""
    none, now = 0 * MINUTE, START + 10 * DAY + MINUTE
    table = plain_table([("a", START, none, none, 5, 5), ("a", START + 10 * DAY, none, none, 1, 1)])
    first, moved = pl.col("id") == 0, pl.lit(now, TIME)
    for name, change in {"value": {"v": pl.lit(7)}, "time": {"known": moved, "told": moved}}.items():
        corrected = table.with_columns(pl.when(first).then(e).otherwise(n).alias(n) for n, e in change.items())
        with FeatureStore.open(toy_views(), settings_of(tmp_path / name)) as store:
            store.materialize({"t": table}, now)
            store.apply("t", corrected[:1], now)
            assert same_as_table(store, corrected, now)


def test_a_newer_snapshot_brings_what_the_older_one_lacked(tmp_path):
    none, now = 0 * MINUTE, START + 20 * MINUTE
    old = plain_table([("a", START, none, none, 5, 5)])
    new = plain_table([("a", START, none, none, 5, 5), ("a", START + MINUTE, none, none, 7, 5)])
    with FeatureStore.open(toy_views(), settings_of(tmp_path)) as store:
        store.materialize({"t": old}, START + 5 * MINUTE)
        store.materialize({"t": new}, now)
        assert same_as_table(store, new, now)
        again = store.materialize({"t": new}, now)
        assert (again.rows, again.began) == (0, now)


def test_a_snapshot_does_not_undo_what_was_told_since_it_was_taken(tmp_path):
    none, now = 0 * MINUTE, START + 20 * MINUTE
    old, told = (plain_table([("a", START, none, none, v, 5)]) for v in (5, 7))
    with FeatureStore.open(toy_views(), settings_of(tmp_path)) as store:
        store.materialize({"t": old}, START + 5 * MINUTE)
        store.apply("t", told, START + 9 * MINUTE)
        store.advance(START + 15 * MINUTE)
        store.materialize({"t": old}, now)
        assert same_as_table(store, told, now)


def test_a_row_without_a_time_may_come_later(tmp_path):
    always = pl.lit(datetime(1970, 1, 1, tzinfo=UTC))
    facts = Events("facts", Table("t", ("who",), always), always, always, {"v": Value(pl.col("v"))})
    features = FeatureSet({"who": TEXT})
    features.add(View(facts, ("who",), {"last": last("v")}, name="x"))
    table = pl.DataFrame({"who": ["a", "b"], "v": [1, 2]})
    with FeatureStore.open(features, settings_of(tmp_path)) as store:
        store.materialize({"t": table[1:]}, START)
        store.materialize({"t": table}, START + DAY)
        assert store.read([{"who": "a", "predict_at": START + DAY}]).rows == [{"x_last": 1}]


def test_an_older_message_does_not_win_after_a_first_fill(tmp_path):
    """The row told nothing when the store was filled; what it told before must not come back."""
    known = pl.col("at")
    seen = Events("seen", Table("t", ("id",), known), known, known, {"v": Value(pl.col("v"))}, where=pl.col("ok"))
    features = FeatureSet({"who": TEXT})
    features.add(View(seen, ("who",), {"n": count()}, ("30m",), name="x"))
    row = pl.DataFrame({"id": [0], "who": ["a"], "at": [START], "ok": [False], "v": [5]}, schema_overrides={"at": TIME})
    now = START + 5 * MINUTE
    with FeatureStore.open(features, settings_of(tmp_path)) as store:
        store.materialize({"t": row}, now)
        assert store.apply("t", row.with_columns(ok=True), START + MINUTE).ignored == 1
        assert store.read([{"who": "a", "predict_at": now}]).rows == [{"x_n_30m": 0}]


@pytest.mark.server
@pytest.mark.parametrize("backend", ["sqlite", "redis"])
def test_of_two_that_fill_a_store_one_goes_on(backend, busy, tmp_path, redis):
    """The first is stopped in the middle; the second fills the store; the first must not write another byte."""
    table, _ = busy
    config, now = settings_of(tmp_path) if backend == "sqlite" else redis.store(name="filled"), START + 10 * HOUR
    with FeatureStore.open(toy_views(), config) as one, FeatureStore.open(toy_views(), config) as two:
        write, number = one.backend.write, 0

        def interrupted(*arguments):
            nonlocal number
            number += 1
            if number == 4:
                two.materialize({"t": table}, now)
            return write(*arguments)

        one.backend.write = interrupted
        with pytest.raises(StoreError, match="another process fills the store"):
            one.materialize({"t": table}, now)
        asked = [{"who": f"e{i}", "predict_at": now} for i in range(40)]
        rows = pl.DataFrame(asked, schema={"who": pl.String, "predict_at": TIME})
        found = two.read(asked).frame()
        assert found.equals(seen_before(two.features, rows, {"t": table}).select(found.columns))


def test_what_a_table_is_refused_for_the_store_refuses_too(tmp_path):
    table = busy_table(20)
    with FeatureStore.open(toy_views(), settings_of(tmp_path)) as store:
        store.materialize({"t": table.with_columns(pl.col("v").cast(pl.Float64))}, START)
        for value in (2.5, float("nan"), float("inf")):
            with pytest.raises(UserError, match="'v' of the .* cannot be added up in units of 1/1"):
                store.apply("t", table[:1].with_columns(v=pl.lit(value)), START + DAY)
        with pytest.raises(UserError, match="are known before they happened"):
            store.apply("t", table[:1].with_columns(known=pl.col("at") - MINUTE), START + DAY)


def test_types_that_cannot_be_kept_are_named(tmp_path):
    table = busy_table(20)
    with FeatureStore.open(toy_views(), settings_of(tmp_path)) as store:
        with pytest.raises(UserError, match="t.who is Categorical, which an online store cannot keep"):
            store.materialize({"t": table.with_columns(pl.col("who").cast(pl.Categorical))}, START)
        with pytest.raises(UserError, match="t.who identifies entities and is a time"):
            store.materialize({"t": table.with_columns(who="at")}, START)
        local = table.with_columns(pl.col("at").dt.convert_time_zone("America/New_York"))
        with pytest.raises(UserError, match="t.at is Datetime.*America/New_York"):
            store.materialize({"t": local}, START)


def test_a_store_is_filled_anew_when_its_clock_went_wrong(tmp_path):
    table, now = busy_table(200), START + 10 * HOUR
    with FeatureStore.open(toy_views(), settings_of(tmp_path)) as store:
        store.materialize({"t": table}, now + 400 * DAY)
        assert store.materialize({"t": table}, now).clock == now + 400 * DAY
        assert store.materialize({"t": table}, now, fresh=True).began is None
        assert store.clock == now


def test_rows_that_cannot_be_applied_are_named(tmp_path):
    table = busy_table(20)
    with FeatureStore.open(toy_views(), settings_of(tmp_path)) as store:
        store.materialize({"t": table}, START)
        with pytest.raises(UserError, match="no view uses a table 'tt'. Did you mean 't'"):
            store.apply("tt", table, START)
        with pytest.raises(UserError, match="rows of 't' lack the column 'known'"):
            store.apply("t", table.drop("known"), START)
        with pytest.raises(UserError, match="v is String and has to be Int64"):
            store.apply("t", table.with_columns(v=pl.lit("seven")), START)
