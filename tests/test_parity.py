"""The project's features are the same online, to the bit: replayed step by step, and as messages of a stream."""

import os
import shutil
import socket
import subprocess
import time
from datetime import UTC, datetime, timedelta

import msgspec
import polars as pl
import pytest
from notebento.core.compose import compose
from notebento.data.snapshot import contracts_of, take
from notebento.features.schema import rows_of, seen_before
from notebento.online.ingest import Follower, follow
from notebento.online.materialize import row_history
from notebento.online.parity import check
from notebento.online.sources import Folder
from notebento.online.store import FeatureStore

from flights.features import flights

pytestmark = pytest.mark.server

HOUR, DAY = timedelta(hours=1), timedelta(days=1)
BEGIN = datetime(2013, 2, 11, tzinfo=UTC)


@pytest.fixture(scope="module")
def year():
    """The configuration, the snapshot's tables and their rows."""
    config = compose([])
    tables = take(config.data).tables
    return config, tables, rows_of(tables, config.data)


@pytest.fixture(params=["sqlite", "redis"])
def store(request, tmp_path):
    """The configuration of an empty store."""
    if request.param == "sqlite":
        yield msgspec.structs.replace(compose([]).store, url=str(tmp_path / "store.db"))
        return
    if not (program := shutil.which("redis-server")):
        (pytest.fail if os.environ.get("CI") else pytest.skip)("redis-server is not on this machine")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [program, "--port", str(port), "--dir", str(tmp_path), "--save", ""], stdout=subprocess.DEVNULL
    )
    try:
        wait_for(port)
        yield msgspec.structs.replace(
            compose(["store=redis"]).store, url=f"redis://127.0.0.1:{port}/0", deadline_ms=5000
        )
    finally:
        server.kill()
        server.wait()


def wait_for(port: int) -> None:
    for _ in range(200):
        try:
            socket.create_connection(("127.0.0.1", port), 0.2).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError("redis-server does not listen")


def near(tables: dict[str, pl.DataFrame], end: datetime) -> dict[str, pl.DataFrame]:
    """The tables without flights of a later time, which nobody could know of."""
    return {**tables, "flights": tables["flights"].filter(pl.col("sched_dep") < end + 8 * DAY)}


def test_two_days_are_the_same_online_to_the_bit(year, store):
    _, tables, rows = year
    end = BEGIN + 2 * DAY
    found = check(flights, store, rows, near(tables, end), BEGIN, end, 3 * HOUR)
    assert not found.differences
    assert found.rows > 1_500 and found.features > 150 and found.rows_applied > 5_000


@pytest.mark.nightly
def test_a_month_is_the_same_online_to_the_bit(year, store):
    _, tables, rows = year
    end = BEGIN + 28 * DAY
    found = check(flights, store, rows, near(tables, end), BEGIN, end, 3 * HOUR)
    assert not found.differences
    assert found.rows > 24_000 and found.features > 150 and found.rows_applied > 90_000


@pytest.mark.nightly
def test_the_year_is_the_same_online_to_the_bit(year, store):
    _, tables, rows = year
    found = check(flights, store, rows, tables, datetime(2013, 1, 2, tzinfo=UTC), datetime(2014, 1, 1, 5, tzinfo=UTC))
    assert not found.differences and found.rows > 330_000


def test_a_day_as_a_stream_is_the_same_as_the_table(year, tmp_path):
    """Rows of all tables as messages, each held to its contract; then every flight of the day is looked up."""
    config, tables, rows = year
    end = BEGIN + DAY
    settings = msgspec.structs.replace(config.store, url=str(tmp_path / "store.db"))
    (tmp_path / "in").mkdir()
    with FeatureStore.open(flights, settings) as store:
        store.materialize(near(tables, end), BEGIN)
        messages = [{"at": end}]
        for name, table in store.layout.tables.items():
            told = row_history(table, near(tables, end)[name].lazy(), BEGIN, end).collect()
            messages += [{"table": name, "at": row.pop("_moment"), "row": row} for row in told.iter_rows(named=True)]
        messages.sort(key=lambda message: message["at"])
        lines = b"".join(msgspec.json.encode(message) + b"\n" for message in messages)
        (tmp_path / "in" / "day.ndjson").write_bytes(lines)
        source = Folder(tmp_path / "in", tmp_path / "position.json")
        done = follow(Follower(store, source, contracts_of(config.data)), lambda: False, 2_000, once=True)
        assert (done.messages, done.dead, done.clock) == (len(messages), 0, end)
        asked = rows.filter(pl.col("predict_at") > BEGIN, pl.col("predict_at") <= end)
        found = store.read(asked.select(*flights.record, "predict_at").to_dicts()).frame()
    assert len(asked) > 700
    table = seen_before(flights, asked, tables).select(found.columns)
    assert [name for name in found.columns if not found[name].equals(table[name], null_equal=True)] == []
