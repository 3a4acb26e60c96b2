"""Old definitions: whose states stay, whose go, and what others see while they go."""

import json
import os
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import morning
import msgspec
import polars as pl
import pytest
from histories import HOUR, START, busy_table, toy_views
from stores import environment, settings_of

from notebento.core.artifacts import save
from notebento.core.config import Config, Node, RegistryConfig
from notebento.core.errors import UserError
from notebento.features.schema import FeatureSet
from notebento.features.views import View
from notebento.online.backends import SqliteStore, StoreError
from notebento.online.layout import definition_of
from notebento.online.store import FeatureStore
from notebento.registry.ledger import Ledger
from notebento.registry.registry import Lineage, Registry
from notebento.registry.retention import definitions, needed

ASKED = [{"who": f"e{i}", "predict_at": START + 9 * HOUR} for i in range(40)]
PASSED = {"passed": True}


def changed_views() -> FeatureSet:
    """The toy's views, one window of each by a minute longer."""
    older = toy_views()
    newer = FeatureSet(older.record)
    for view in older.views:
        newer.add(View(view.events, view.by, dict(view.give), ("8m", *view.windows[1:]), view.expiry, name=view.name))
    return newer


def until(happened: Callable[[], bool], seconds: float = 60) -> None:
    """Wait for something that other threads do."""
    deadline = time.monotonic() + seconds
    while not happened():
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
def test_who_reads_while_a_definition_goes_is_never_told_a_part(backend, tmp_path, redis):
    """The kept one says what it said; the other says everything or that it is not there."""
    config = settings_of(tmp_path) if backend == "sqlite" else redis.store(name="going")
    kept, old, table = toy_views(), changed_views(), busy_table()
    with FeatureStore.open(kept, config) as one, FeatureStore.open(old, config) as other:
        for store in (one, other):
            store.materialize({"t": table}, START + 10 * HOUR)
        before = {store: store.read(ASKED) for store in (one, other)}
        held = one.held()
        assert held.keys() == {one.layout.digest.hex(), other.layout.digest.hex()}
        assert all(each.states > 100 and each.bytes > 10 * each.states for each in held.values())
    seen, stop = {"kept": [], "old": []}, threading.Event()

    def look(name: str, views: FeatureSet) -> None:
        with FeatureStore.open(views, config) as store:
            while not stop.is_set():
                seen[name].append(store.read(ASKED))

    readers = [threading.Thread(target=look, args=args) for args in (("kept", kept), ("old", old))]
    for reader in readers:
        reader.start()
    try:
        until(lambda: all(len(answers) > 3 for answers in seen.values()))
        with FeatureStore.open(kept, config) as store:
            store.clear(other.layout.digest.hex())
            assert store.held() == {one.layout.digest.hex(): held[one.layout.digest.hex()]}
        said = len(seen["kept"])
        until(lambda: len(seen["kept"]) >= said + 3 and "not materialized" in seen["old"][-1].why[0])
    finally:
        stop.set()
        for reader in readers:
            reader.join()
    assert all(looked.rows == before[one].rows for looked in seen["kept"])
    assert all(looked.rows == before[other].rows or [*looked.why[0]] == ["not materialized"] for looked in seen["old"])


@pytest.mark.parametrize("backend", ["sqlite", "redis"])
def test_who_fills_a_store_notices_that_it_was_emptied(backend, tmp_path, redis, monkeypatch):
    config = settings_of(tmp_path) if backend == "sqlite" else redis.store(name="filling")
    table = {"t": busy_table(100)}
    with FeatureStore.open(toy_views(), config) as store:
        write, digest, emptied = store.backend.write, store.layout.digest, []

        def emptying(revision, put, drop=()):
            written = write(revision, put, drop)
            if not emptied and any(key.startswith(digest + b"L") for key, _, _ in put):
                emptied.append(True)
                store.clear(digest.hex())
            return written

        monkeypatch.setattr(store.backend, "write", emptying)
        with pytest.raises(StoreError, match="removed while they were written"):
            store.materialize(table, START + HOUR)
        assert store.clock is None
        assert store.materialize(table, START + HOUR).states > 0
        assert store.clock == START + HOUR


def test_stores_on_one_server_do_not_see_each_other(redis):
    with (
        FeatureStore.open(toy_views(), redis.store(name="a*")) as one,
        FeatureStore.open(toy_views(), redis.store(name="ab")) as two,
    ):
        two.materialize({"t": busy_table(100)}, START + HOUR)
        assert one.held() == {}
        one.clear(two.layout.digest.hex())
        assert two.clock == START + HOUR and len(two.held()) == 1


def registered(folder: Path, name: str, maker: dict, views: str = "", ledger: str = "default") -> tuple[Registry, str]:
    """A version whose features `maker` makes."""
    bundle = folder / name
    save(bundle / "schema.json", {"task": "binary", "target": "late", "features": maker, "name": name})
    place = Path(os.environ["NOTEBENTO_RUNS"]) / "registry" / ledger
    registry = Registry(place / "versions", Ledger(f"sqlite:///{place}/ledger.db", ledger))
    return registry, registry.register(bundle, "toy", Lineage(), {}, PASSED, views=views).version


MINE = {"_target_": "morning.Morning"}
GONE = {"_target_": "morning.Evening"}
CONFIG = Config(features=Node(MINE), registry=RegistryConfig(ledger="default"))


def test_what_is_in_use_is_needed(tmp_path, monkeypatch):
    """The champion's and its predecessor's, as they were and as they are now; of every ledger."""
    monkeypatch.setenv("NOTEBENTO_RUNS", str(tmp_path / "runs"))
    config, mine = CONFIG, definition_of(MINE)
    assert needed(config) == {mine: ["this configuration"]}
    registry, first = registered(tmp_path, "first", GONE, "01" * 8)
    _, second = registered(tmp_path, "second", GONE, "02" * 8)
    _, third = registered(tmp_path, "third", MINE, "03" * 8)
    registered(tmp_path, "fourth", MINE, "04" * 8)
    _, tried = registered(tmp_path, "tried", GONE, "05" * 8, ledger="lab")
    assert [*needed(config)] == [mine, "01" * 8, "05" * 8]
    registry.promote(second)
    registry.promote(third)
    found = needed(config)
    assert found == {
        mine: ["this configuration", f"{third}, champion of default"],
        "03" * 8: [f"{third}, champion of default"],
        "02" * 8: [f"{second}, next after a rollback of default"],
        "05" * 8: [f"{tried}, champion of lab"],
    }
    registry.rollback()
    assert [*needed(config)] == [mine, "02" * 8, "01" * 8, "05" * 8]
    assert needed(config)["01" * 8] == [f"{first}, next after a rollback of default"]
    lab = msgspec.structs.replace(config, registry=RegistryConfig(ledger="lab"))
    assert needed(lab) == needed(config)  # whoever asks


def test_a_version_of_which_nobody_knows_what_it_reads_stops_the_removal(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTEBENTO_RUNS", str(tmp_path / "runs"))
    registered(tmp_path, "first", GONE)
    with pytest.raises(UserError, match="has no attribute 'Evening'"):
        needed(CONFIG)


@pytest.mark.process
def test_the_command_says_what_stays_and_why(tmp_path):
    morning.project(tmp_path / "home")
    messages = {m["row"]["flight"]: m["row"] for m in morning.story(30) if "row" in m}
    pl.DataFrame(list(messages.values()), schema=morning.COLUMNS).write_parquet(tmp_path / "flights.parquet")
    variables = environment(NOTEBENTO_HOME=str(tmp_path / "home"), NOTEBENTO_RUNS=str(tmp_path / "runs"))
    source = f"{{_target_: notebento.data.sources.Table, name: flights, path: {tmp_path}/flights.parquet}}"
    store, mine = SqliteStore(tmp_path / "runs" / "store" / "morning.db"), definition_of(MINE)
    states = [(b"OLDER_" + bytes([n]) + b"\xff" + kind, 0, b"{}") for n in (0, 255) for kind in (b"L\x00x", b"T")]
    assert store.write(0, states)

    def said(*words: str) -> str:
        command = [sys.executable, "-m", "notebento", "features", *words]
        done = subprocess.run(command, env=variables, cwd=tmp_path / "home", capture_output=True, text=True)
        assert done.returncode == 0, done.stderr
        return done.stdout + done.stderr

    def filled() -> str:
        data = [f"+data.source={source}", "data.target=arr_delay", "data.task=regression"]
        return said("materialize", "--as-of", "2013-01-15T12:00Z", *data)

    planned = said("gc", "--dry-run")
    assert f"{mine}  stays             0 states" in planned and "not filled  needed by this configuration" in planned
    assert planned.count("would go          2 states") == 2 and "would remove 2 definitions, 4 states" in planned
    assert len(store.held(8)) == 2
    assert "4 states of 2 other definitions: notebento features gc" in filled()
    found = json.loads(said("gc", "--json"))
    assert [d["needed_by"] for d in found["kept"]] == [["this configuration"]]
    assert [d["states"] for d in found["removed"]] == [2, 2]
    file = str(tmp_path / "runs" / "store" / "morning.db")
    config = msgspec.structs.replace(Config().store, url=file, name="morning")
    with FeatureStore.open(morning.views, config) as filled_store:
        assert [d.digest for d in definitions(filled_store, {})] == [mine]
    assert "removed 0 definitions, 0 states" in said("gc")
    assert "other definition" not in filled()
    store.close()
