"""Following a stream: nothing is lost or doubled, whoever is killed. A real Redis server, real processes."""

import json
import os
import random
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import polars as pl
import pytest
from conftest import absent
from flights.features import flights

from notebento.core.compose import compose
from notebento.core.config import StoreConfig
from notebento.data.snapshot import contracts_of
from notebento.online.ingest import Follower, follow
from notebento.online.sources import Folder, Lag, RedisStream, StreamError, open_source, publish
from notebento.online.store import FeatureStore

DAWN = datetime(2013, 1, 15, 7, tzinfo=UTC)
TEXT, TIME, WHOLE, REAL = pl.String(), pl.Datetime("us", "UTC"), pl.Int64(), pl.Float64()
SCHEMAS = {
    "flights": dict.fromkeys(["carrier", "origin", "dest", "tailnum"], TEXT)
    | dict.fromkeys(["sched_dep", "sched_arr", "departed", "arrived"], TIME)
    | dict.fromkeys(["flight", "distance", "dep_delay", "arr_delay"], WHOLE),
    "weather": {"origin": TEXT, "time": TIME}
    | dict.fromkeys(["temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib"], REAL)
    | {"wind_dir": WHOLE},
    "planes": {"tailnum": TEXT, "year": WHOLE, "seats": WHOLE, "manufacturer": TEXT, "model": TEXT},
}


def free_port() -> int:
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Server:
    """A Redis server that writes down what it is told before it answers."""

    def __init__(self, folder: Path) -> None:
        if shutil.which("redis-server") is None:
            absent("redis-server")
        self.folder, self.port = folder, free_port()
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.start()

    def start(self) -> None:
        options = ["--port", self.port, "--bind", "127.0.0.1", "--dir", self.folder, "--save", ""]
        options += ["--appendonly", "yes", "--appendfsync", "always"]
        with (self.folder / "redis.log").open("a") as log:
            self.process = subprocess.Popen(["redis-server", *map(str, options)], stdout=log)
        for _ in range(100):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("redis-server does not listen")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def redis(tmp_path):
    """A server of this test's own."""
    server = Server(tmp_path)
    yield server
    server.stop()


def story(n: int, seed: int = 0) -> list[dict]:
    """Messages about `n` flights of a morning: before they leave, when they left, when they landed; not in order."""
    rng, told = random.Random(seed), []
    for i in range(n):
        due = DAWN + timedelta(minutes=rng.randrange(5, 240))
        left = due + timedelta(minutes=rng.randrange(-5, 60))
        row = {
            "carrier": rng.choice(["AA", "DL"]),
            "flight": i + 1,
            "origin": rng.choice(["JFK", "EWR"]),
            "dest": "BOS",
        }
        row |= {"tailnum": f"N{10000 + i % 7}", "distance": 187, "sched_dep": due}
        row |= {"sched_arr": due + timedelta(minutes=75), "departed": None, "dep_delay": None}
        row |= {"arrived": None, "arr_delay": None}
        gone = {"departed": left, "dep_delay": (left - due) // timedelta(minutes=1)}
        landed = left + timedelta(minutes=70)
        there = {"arrived": landed, "arr_delay": (landed - row["sched_arr"]) // timedelta(minutes=1)}
        moments = [(DAWN, row), (left, row | gone), (landed, row | gone | there)]
        told += [{"table": "flights", "row": r, "at": at} for at, r in moments[: rng.choice([2, 3, 3])]]
    told.sort(key=lambda message: message["at"])
    for _ in range(n // 4):  # some come late, some twice
        i, j = rng.randrange(len(told)), rng.randrange(len(told))
        told.insert(j, told[i])
    return [*told, {"at": DAWN + timedelta(hours=6)}]


def settings(folder: Path, name: str = "store") -> StoreConfig:
    return msgspec.structs.replace(compose().store, url=str(folder / f"{name}.db"), name=name, retry_s=5.0)


def opened(config: StoreConfig) -> FeatureStore:
    """A store that knows nothing yet."""
    store = FeatureStore.open(flights, config)
    store.materialize({name: pl.DataFrame(schema=kinds) for name, kinds in SCHEMAS.items()}, DAWN)
    return store


def answers(store: FeatureStore) -> list[list]:
    """What the store says at several times of the day."""
    records = [
        {"carrier": c, "flight": f, "tailnum": f"N{10000 + f}", "origin": o, "dest": "BOS", "distance": 187}
        | {"sched_dep": at + timedelta(hours=2), "sched_arr": at + timedelta(hours=3), "predict_at": at}
        for c, f, o in [("AA", 1, "JFK"), ("DL", 2, "EWR"), ("DL", 3, "JFK")]
        for at in [DAWN + timedelta(hours=h) for h in (1, 2, 3, 4, 6)]
    ]
    return [list(row.values()) for row in store.read(records).rows]


def undisturbed(folder: Path, messages: list[dict]) -> list[list]:
    """What a store answers that was told every message, one after the other."""
    source = folder / "undisturbed"
    source.mkdir()
    write(source / "all.ndjson", messages)
    with opened(settings(folder, "undisturbed")) as store:
        done = follow(Follower(store, Folder(source, folder / "undisturbed.json")), lambda: False, once=True)
        assert done.lag == Lag()
        assert done.dead == 0
        return answers(store)


def write(file: Path, messages: list[dict]) -> None:
    file.write_bytes(b"".join(msgspec.json.encode(message) + b"\n" for message in messages))


@contextmanager
def follower(folder: Path, config: StoreConfig, *more: str):
    """`notebento features ingest` as a process."""
    command = [
        sys.executable,
        "-m",
        "notebento",
        "features",
        "ingest",
        "--json",
        "--claim-after",
        "0.2",
        "--batch",
        "8",
    ]
    command += ["--claim-after", "0.2", "--batch", "8"]
    overrides = [f"store.url={config.url}", f"store.name={config.name}", f"store.retry_s={config.retry_s}"]
    environment = os.environ | {"NOTEBENTO_RUNS": str(folder / "runs")}
    with (folder / "follow.log").open("a") as log:
        process = subprocess.Popen([*command, *more, *overrides], env=environment, stdout=log, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def until(condition, seconds: float = 30.0):
    """The first true answer of `condition`."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        if found := condition():
            return found
        time.sleep(0.05)
    raise AssertionError("it did not come")


def test_everything_is_told_whatever_the_batches_are(tmp_path):
    messages = story(60)
    expected = undisturbed(tmp_path, messages)
    assert any(value for values in expected for value in values)
    for batch in (7, 1000):
        source = tmp_path / str(batch)
        source.mkdir()
        shuffled = [*random.Random(batch).sample(messages[:-1], len(messages) - 1), messages[-1]]
        write(source / "a.ndjson", shuffled[:50])
        write(source / "b.ndjson", shuffled[50:])
        with opened(settings(tmp_path, f"batch-{batch}")) as store:
            done = follow(Follower(store, Folder(source, tmp_path / f"{batch}.json")), lambda: False, batch, once=True)
            assert done.messages == len(messages)
            assert answers(store) == expected


def test_a_parquet_file_is_read_like_messages(tmp_path):
    messages = story(20)
    expected = undisturbed(tmp_path, messages)
    (tmp_path / "in").mkdir()
    rows = pl.DataFrame([m["row"] | {"at": m["at"]} for m in messages[:-1]], schema=SCHEMAS["flights"] | {"at": TIME})
    rows.write_parquet(tmp_path / "in" / "flights-2013-01-15.parquet")
    write(tmp_path / "in" / "weekend.ndjson", messages[-1:])
    with opened(settings(tmp_path)) as store:
        source = Folder(tmp_path / "in", tmp_path / "position.json")
        assert source.lag() == Lag(len(messages))
        follow(Follower(store, source), lambda: False, 9, once=True)
        assert answers(store) == expected


def test_what_fails_the_contract_is_put_aside_with_the_reason(tmp_path, redis):
    (good, *_), now = story(1), datetime.now(UTC)
    row = good["row"]
    bad = [
        ({"table": "flights", "row": row | {"origin": "BOS"}, "at": DAWN}, "origin is none of EWR, JFK, LGA"),
        ({"table": "flights", "row": row | {"departed": DAWN}, "at": DAWN}, "departure breaks the rule"),
        ({"table": "flights", "row": {"flight": 1}, "at": DAWN}, "is missing; send null where it is not known yet"),
        ({"table": "flight", "row": row, "at": DAWN}, "there is no table 'flight'. Did you mean 'flights'?"),
        ({"table": "flights", "row": row, "at": now + timedelta(days=1)}, "it is from the future"),
        ({"table": "flights", "rows": [row]}, "it is no message"),
        ({"table": "flights", "row": row | {"carrier": None}, "at": DAWN}, "'carrier' has to be text"),
    ]
    publish(redis.url, "s", [message for message, _ in bad] + [good])
    source = RedisStream(redis.url, "s")
    source._redis.xadd("s", {"what": b"\xff"})  # no message at all
    with opened(settings(tmp_path)) as store:
        done = follow(Follower(store, source, contracts_of(compose().data)), lambda: False, once=True)
        assert (done.told, done.dead, done.lag.messages) == (1, len(bad) + 1, 0)
        assert store.clock == good["at"]
    dead = [fields for _, fields in source._redis.xrange("s:dead")]
    for (message, reason), fields in zip(bad, dead, strict=False):
        assert reason in fields[b"reason"].decode()
        assert json.loads(fields[b"message"]) == json.loads(msgspec.json.encode(message))
    assert b"it is no message" in dead[-1][b"reason"]
    source.close()


def test_a_stream_of_files_is_killed_again_and_again(tmp_path):
    messages = story(80, seed=1)
    expected = undisturbed(tmp_path, messages)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "1.ndjson", messages)
    killed_in_the_middle(tmp_path, str(tmp_path / "in"), expected)


def test_a_stream_in_redis_is_killed_again_and_again(tmp_path, redis):
    messages = story(80, seed=2)
    expected = undisturbed(tmp_path, messages)
    publish(redis.url, "s", messages)
    killed_in_the_middle(tmp_path, f"{redis.url}?stream=s", expected)


def test_redis_is_restarted_in_the_middle(tmp_path, redis):
    """Killed and started again, twice, while a follower reads; nobody starts the follower again."""
    messages = story(200, seed=3)
    expected = undisturbed(tmp_path, messages)
    publish(redis.url, "s", messages[:100])
    config = settings(tmp_path)
    opened(config).close()
    with follower(tmp_path, config, "--from", f"{redis.url}?stream=s") as process:
        until(lambda: '"told"' in (tmp_path / "follow.log").read_text())
        redis.stop()
        time.sleep(0.5)
        redis.start()
        publish(redis.url, "s", messages[100:])
        redis.stop()
        redis.start()
        source = RedisStream(redis.url, "s")
        until(lambda: not source.lag().messages, 60)
        assert process.poll() is None
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    source.close()
    with FeatureStore.open(flights, config) as store:
        assert answers(store) == expected


def killed_in_the_middle(folder: Path, source: str, expected: list[list]) -> None:
    """Start followers and kill them at random points until everything is told; then the answers are the same."""
    config, rng, lives = settings(folder), random.Random(4), 0
    opened(config).close()
    done = folder / "follow.log"
    while lives < 3:
        with follower(folder, config, "--from", source) as process:
            size = done.stat().st_size if done.exists() else 0
            until(lambda size=size: done.stat().st_size > size or process.poll() is not None)  # its first batch is in
            time.sleep(rng.random() * 0.3)
            assert process.poll() is None, done.read_text()
            process.kill()
        lives += 1
    time.sleep(0.3)  # what the last one had can be claimed then
    with follower(folder, config, "--from", source, "--once") as process:
        assert process.wait(60) == 0, done.read_text()
    with FeatureStore.open(flights, config) as store:
        assert answers(store) == expected
    last = json.loads(done.read_text().splitlines()[-1])
    assert last["lag"]["messages"] == 0


def test_two_followers_share_a_stream(tmp_path, redis):
    messages = story(100, seed=5)
    expected = undisturbed(tmp_path, messages)
    publish(redis.url, "s", messages)
    config = settings(tmp_path)
    opened(config).close()
    where = f"{redis.url}?stream=s"
    with follower(tmp_path, config, "--from", where) as first, follower(tmp_path, config, "--from", where) as second:
        source = RedisStream(redis.url, "s", consumer="looker-on")
        source._join()
        until(lambda: not source.lag().messages, 60)
        for process in (first, second):
            process.send_signal(signal.SIGTERM)
        assert [first.wait(20), second.wait(20)] == [0, 0]
        assert source._redis.xinfo_consumers("s", "notebento") == []  # they said good-bye
        source.close()
    with FeatureStore.open(flights, config) as store:
        assert answers(store) == expected


def test_it_says_how_far_behind_it_is(tmp_path, redis):
    messages = story(10)
    publish(redis.url, "flights-test:events", messages)
    config, port = settings(tmp_path, "flights-test"), free_port()
    opened(config).close()
    source = open_source(redis.url, "flights-test")
    source._join()
    time.sleep(0.05)
    assert source.lag().messages == len(messages)
    assert 0.05 <= source.lag().seconds < 60
    with follower(tmp_path, config, "--from", redis.url, "--metrics-port", str(port)) as process:
        until(lambda: not source.lag().messages)

        def read():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                return dict(line.split() for line in answer.read().decode().splitlines() if line[0] != "#")

        found = until(lambda: (m := read())["notebento_follow_messages"] == str(float(len(messages))) and m)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert float(found["notebento_follow_lag_messages"]) == 0
    assert float(found["notebento_follow_clock"]) == (DAWN + timedelta(hours=6)).timestamp()
    source.close()


def test_a_server_that_is_not_there_is_said(tmp_path):
    source = RedisStream(f"redis://127.0.0.1:{free_port()}/0", "s")
    with pytest.raises(StreamError, match="the stream s cannot be followed: .*onnect"):
        source.take(1, 0.1)
    source.close()


def test_the_command_says_what_it_lacks(tmp_path):
    environment = os.environ | {"NOTEBENTO_RUNS": str(tmp_path)}
    command = [sys.executable, "-m", "notebento", "features", "ingest"]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert (done.returncode, "where do the messages come from?\n  fix: --from FOLDER" in done.stderr) == (2, True)
    (tmp_path / "in").mkdir()
    done = subprocess.run([*command, "--from", str(tmp_path / "in")], env=environment, capture_output=True, text=True)
    assert (done.returncode, "fix: notebento features materialize" in done.stderr) == (2, True)
