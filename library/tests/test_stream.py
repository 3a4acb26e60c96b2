"""Following a stream: nothing is lost or doubled, whoever is killed. A real Redis server, real processes."""

import json
import random
import signal
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path

import msgspec
import polars as pl
import pytest
from morning import COLUMNS, CONTRACTS, DAWN, TIME, answers, opened, project, settings, story, views, write
from stores import environment, free_port, redis_server

from notebento.core.config import StoreConfig
from notebento.online.ingest import Follower, follow
from notebento.online.sources import Folder, Lag, RedisStream, StreamError, open_source, publish
from notebento.online.store import FeatureStore

pytestmark = pytest.mark.server


@pytest.fixture
def redis(tmp_path):
    """A server of this test's own."""
    with redis_server(tmp_path) as server:
        yield server


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
    with (folder / "follow.log").open("a") as log:
        process = subprocess.Popen([*command, *more, *overrides], env=in_project(folder), stdout=log, stderr=log)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()


def in_project(folder: Path) -> dict[str, str]:
    """The environment of a command in the project of the morning."""
    return environment(NOTEBENTO_HOME=str(project(folder / "project")), NOTEBENTO_RUNS=str(folder / "runs"))


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
    rows = pl.DataFrame([m["row"] | {"at": m["at"]} for m in messages[:-1]], schema=COLUMNS | {"at": TIME})
    rows.write_parquet(tmp_path / "in" / "flights-2013-01-15.parquet")
    write(tmp_path / "in" / "weekend.ndjson", messages[-1:])
    with opened(settings(tmp_path)) as store:
        source = Folder(tmp_path / "in", tmp_path / "position.json")
        assert source.lag() == Lag(len(messages))
        follow(Follower(store, source), lambda: False, 9, once=True)
        assert answers(store) == expected


@pytest.mark.server
def test_what_fails_the_contract_is_put_aside_with_the_reason(tmp_path, redis):
    (good, *_), now = story(1), datetime.now(UTC)
    row = good["row"]
    bad = [
        ({"table": "flights", "row": row | {"origin": "BOS"}, "at": DAWN}, "origin is none of EWR, JFK, LGA"),
        ({"table": "flights", "row": row | {"departed": DAWN}, "at": DAWN}, "departure breaks the rule"),
        ({"table": "flights", "row": {"flight": 1}, "at": DAWN}, "is missing; send null where it is not known yet"),
        ({"table": "flight", "row": row, "at": DAWN}, "there is no table 'flight'. Did you mean 'flights'?"),
        ({"table": "flights", "row": row, "at": now + timedelta(days=1)}, "'at' is in the future"),
        ({"table": "flights", "rows": [row]}, "it is not a message"),
        ({"table": "flights", "row": row | {"carrier": None}, "at": DAWN}, "'carrier' must be text"),
    ]
    publish(redis.url, "s", [message for message, _ in bad] + [good])
    source = RedisStream(redis.url, "s")
    source._members.client.xadd("s", {"what": b"\xff"})  # no message at all
    with opened(settings(tmp_path)) as store:
        done = follow(Follower(store, source, CONTRACTS), lambda: False, once=True)
        assert (done.rows_applied, done.dead, done.lag.messages) == (1, len(bad) + 1, 0)
        assert store.clock == good["at"]
    dead = [fields for _, fields in source._members.client.xrange("s:dead")]
    for (message, reason), fields in zip(bad, dead, strict=False):
        assert reason in fields[b"reason"].decode()
        assert json.loads(fields[b"message"]) == json.loads(msgspec.json.encode(message))
    assert b"it is not a message" in dead[-1][b"reason"]
    source.close()


@pytest.mark.process
def test_a_stream_of_files_is_killed_again_and_again(tmp_path):
    messages = story(80, seed=1)
    expected = undisturbed(tmp_path, messages)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "1.ndjson", messages)
    killed_in_the_middle(tmp_path, str(tmp_path / "in"), expected)


@pytest.mark.server
def test_a_stream_in_redis_is_killed_again_and_again(tmp_path, redis):
    messages = story(80, seed=2)
    expected = undisturbed(tmp_path, messages)
    publish(redis.url, "s", messages)
    killed_in_the_middle(tmp_path, f"{redis.url}?stream=s", expected)


@pytest.mark.server
def test_redis_is_restarted_in_the_middle(tmp_path, redis):
    """Killed and started again, twice, while a follower reads; nobody starts the follower again."""
    messages = story(200, seed=3)
    expected = undisturbed(tmp_path, messages)
    publish(redis.url, "s", messages[:100])
    config = settings(tmp_path)
    opened(config).close()
    with follower(tmp_path, config, "--from", f"{redis.url}?stream=s") as process:
        until(lambda: '"rows_applied"' in (tmp_path / "follow.log").read_text())
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
    with FeatureStore.open(views, config) as store:
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
    with FeatureStore.open(views, config) as store:
        assert answers(store) == expected
    last = json.loads(done.read_text().splitlines()[-1])
    assert last["lag"]["messages"] == 0


@pytest.mark.server
def test_two_followers_share_a_stream(tmp_path, redis):
    messages = story(100, seed=5)
    expected = undisturbed(tmp_path, messages)
    publish(redis.url, "s", messages)
    config = settings(tmp_path)
    opened(config).close()
    where = f"{redis.url}?stream=s"
    with follower(tmp_path, config, "--from", where) as first, follower(tmp_path, config, "--from", where) as second:
        source = RedisStream(redis.url, "s", consumer="looker-on")
        source._members.join()
        members = source._members.client
        until(lambda: len(members.xinfo_consumers("s", "notebento")) == 2, 60)  # the slower one reads, too
        until(lambda: not source.lag().messages, 60)
        for process in (first, second):
            process.send_signal(signal.SIGTERM)
        assert [first.wait(20), second.wait(20)] == [0, 0]
        assert source._members.client.xinfo_consumers("s", "notebento") == []  # they said good-bye
        source.close()
    with FeatureStore.open(views, config) as store:
        assert answers(store) == expected


@pytest.mark.server
def test_it_says_how_far_behind_it_is(tmp_path, redis):
    messages = story(10)
    publish(redis.url, "flights-test:events", messages)
    config, port = settings(tmp_path, "flights-test"), free_port()
    opened(config).close()
    source = open_source(redis.url, "flights-test")
    source._members.join()
    time.sleep(0.05)
    assert source.lag().messages == len(messages)
    assert 0.05 <= source.lag().seconds < 60
    with follower(tmp_path, config, "--from", redis.url, "--metrics-port", str(port)) as process:
        until(lambda: not source.lag().messages)

        def read():
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
                return dict(line.split() for line in answer.read().decode().splitlines() if line[0] != "#")

        everything = str(float(len(messages)))
        found = until(lambda: (m := read()).get("notebento_ingest_messages_total") == everything and m)
        process.send_signal(signal.SIGTERM)
        assert process.wait(20) == 0
    assert float(found["notebento_ingest_lag_messages"]) == 0
    assert float(found["notebento_ingest_clock_timestamp_seconds"]) == (DAWN + timedelta(hours=6)).timestamp()
    source.close()


def test_a_server_that_is_not_there_is_said(tmp_path):
    source = RedisStream(f"redis://127.0.0.1:{free_port()}/0", "s")
    with pytest.raises(StreamError, match="the stream s cannot be followed: .*onnect"):
        source.take(1, 0.1)
    source.close()


@pytest.mark.process
def test_the_command_says_what_it_lacks(tmp_path):
    command = [sys.executable, "-m", "notebento", "features", "ingest"]
    run = partial(subprocess.run, env=in_project(tmp_path), capture_output=True, text=True)
    done = run(command)
    assert (done.returncode, "where do the messages come from?\n  fix: --from FOLDER" in done.stderr) == (2, True)
    (tmp_path / "in").mkdir()
    done = run([*command, "--from", str(tmp_path / "in")])
    assert (done.returncode, "fix: notebento features materialize" in done.stderr) == (2, True)


def test_a_time_beyond_the_calendar_is_refused_and_the_rest_goes_in(tmp_path):
    (good, *_) = story(1)
    (tmp_path / "in").mkdir()
    write(tmp_path / "in" / "a.ndjson", [good | {"at": 10**18}, {"at": -(10**18)}, good])
    with opened(settings(tmp_path)) as store:
        done = follow(Follower(store, Folder(tmp_path / "in", tmp_path / "at.json")), lambda: False, once=True)
        assert (done.messages, done.dead, done.rows_applied) == (3, 2, 1)
