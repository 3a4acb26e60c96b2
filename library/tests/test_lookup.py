"""What a service looks up: the same bits as the definition gives, and an honest word about what it did not find."""

import json
import shlex
import time
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import numpy as np
import polars as pl
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from morning import CONTRACTS, DAWN, opened, story, views, write
from morning import settings as store_settings
from serving_toys import MODEL, at_home, process, registered, settled, toy_graph, write_package
from serving_toys import SETTINGS as TOY
from stores import RedisServer, free_port, settings_of

from notebento.core.artifacts import Manifest, StageRecord, artifact_record, save
from notebento.core.clock import prediction_time
from notebento.core.config import DataConfig, Node, RegistryConfig, StoreConfig, TableContract, build, convert, plain
from notebento.core.errors import UserError
from notebento.features.schema import MOMENT, NUMBER, TEXT, FeatureSet, Field, Options, from_records
from notebento.models.bundle import Signature, golden, numbers, strings, write_bundle
from notebento.online.backends import StoreError
from notebento.online.ingest import Follower, follow
from notebento.online.rows import RowError
from notebento.online.sources import Folder
from notebento.online.store import FeatureStore
from notebento.registry.registry import Lineage, Registry
from notebento.serving.deploy import deploy, fill_store, first_request, server
from notebento.serving.inbox import Inbox
from notebento.serving.lookup import Assembly, Lookup, Names, OnlineFeatures, from_examples, store_config
from notebento.serving.responder import Responder
from notebento.serving.service import Deployment, load_version

pytestmark = pytest.mark.server

SERVE = msgspec.structs.replace(TOY, service=Node({"_target_": "toyviews.bento.Service"}))

# The toy: how late a carrier's flights left in the last two hours, and how that changed.
FEATURES = """
from datetime import timedelta
import polars as pl
from notebento.features.schema import MOMENT, TEXT, Field, FeatureSet, Options, from_records
from notebento.features.views import Events, Table, Value, View, mean
departed = pl.col("departed")
table = Table("flights", key=("sched_dep", "flight"), known=pl.col("sched_dep") - timedelta(days=1),
              later={"departed": departed, "delay": departed})
left = Events("departures", table, departed, departed, {"delay": Value(pl.col("delay"), "min")})
toy = FeatureSet({"carrier": TEXT, "sched_dep": MOMENT, "tailnum": Field("string", required=False)})
toy.derive("carrier", pl.col("carrier"), categorical=True)
toy.add(View(left, ("carrier",), {"delay": mean("delay")}, ("2h", "4h"), name="seen"))
toy.derive("worse", pl.col("seen_delay_2h") - pl.col("seen_delay_4h"), "min")
class Seen(Options, frozen=True):
    @property
    def features(self):
        return toy
    def request(self, records, looked=None):
        return from_records(toy, records, looked)
"""
SCHEMA = Signature(
    task="binary",
    target="late",
    numeric=("seen_delay_2h", "worse"),
    categorical=("carrier",),
    record={"carrier": Field("string"), "sched_dep": Field("datetime"), "tailnum": Field("string", required=False)},
    features={"_target_": "toyviews.features.Seen"},
    threshold=0.6,
    time="sched_dep",
    lead_hours=2.0,
)
NOON = datetime(2013, 7, 4, 12, tzinfo=UTC)


@pytest.fixture(scope="module")
def toy(tmp_path_factory):
    """The folder of the toy, and the configuration of a registry in which it is champion."""
    folder = tmp_path_factory.mktemp("lookup")
    package = write_package(folder, "toyviews", FEATURES)
    with at_home(folder):
        yield folder, registered(bundle(folder / "bundle"), "toy", package)


def bundle(folder) -> Path:
    """A bundle with two examples."""
    frame = pl.DataFrame({"carrier": ["UA", "B6"], "seen_delay_2h": [0.0, 90.0], "worse": [3.0, None]})
    examples = frame.select("carrier", "seen_delay_2h", seen_delay_4h=pl.Series([-3.0, None]))
    due = {"sched_dep": pl.lit(NOON + timedelta(hours=2)), "predict_at": pl.lit(NOON), "tailnum": pl.lit("N1")}
    cases = golden(frame, toy_graph(SCHEMA).predict(frame), SCHEMA, ["a", "b"])
    folder.mkdir()
    examples = examples.with_columns(**due)
    write_bundle(folder, MODEL, {}, schema=plain(SCHEMA), golden=cases, reference={"rows": 1}, examples=examples)
    return folder


def fill(config) -> None:
    """A store that knows nothing, as of eight in the morning."""
    from toyviews.features import toy

    kinds = {"carrier": pl.String(), "flight": pl.Int64(), "delay": pl.Int64()}
    kinds |= dict.fromkeys(["sched_dep", "departed"], pl.Datetime("us", "UTC"))
    with FeatureStore.open(toy, config) as store:
        store.materialize({"flights": pl.DataFrame(schema=kinds)}, NOON - timedelta(hours=4))


def flight(number: int, clock: int, delay: int | None, carrier: str = "UA") -> dict:
    """A flight scheduled at an hour of the day, which left with a delay or has not left."""
    due = NOON.replace(hour=clock)
    left = None if delay is None else due + timedelta(minutes=delay)
    told = {"carrier": carrier, "flight": number, "sched_dep": due, "departed": left, "delay": delay}
    return json.loads(msgspec.json.encode(told))


def ingest(client, at: datetime, *rows: dict):
    return client.post("/events", json={"table": "flights", "rows": rows, "at": at.isoformat()})


def ask(client, *records: dict, at: datetime = NOON):
    """The answers for flights at two o'clock."""
    told = {
        "carrier": "UA",
        "sched_dep": (NOON + timedelta(hours=2)).isoformat(),
        "tailnum": "N1",
        "at": at.isoformat(),
    }
    answer = client.post("/predict", json={"records": [told | record for record in records or [{}]]})
    return answer.raise_for_status().json()


def expected(delay: float | None, worse: float | None, carrier: str = "UA") -> float:
    types = {"seen_delay_2h": pl.Float32, "worse": pl.Float32, "carrier": pl.String}
    return toy_graph(SCHEMA).predict(pl.DataFrame([(delay, worse, carrier)], schema=types, orient="row")).tolist()[0]


@contextmanager
def service(folder, registry, store, contract=None, **environment):
    """A service that looks features up in `store`."""
    serve = msgspec.structs.replace(SERVE, port=free_port())
    home = deploy(registry, serve, store=store, data=contract)
    command, variables = server(home, serve)
    with process(command, variables | environment, home, serve.port) as (_, client):
        settled(client, "/readyz", 200)
        yield client


def test_the_request_to_try_first_is_answered_with_every_feature(toy, tmp_path):
    from toyviews.features import toy as views

    _, registry = toy
    store = settings_of(tmp_path)
    day_before = NOON - timedelta(days=1)
    left = {"carrier": "UA", "flight": 1, "sched_dep": day_before, "departed": day_before - timedelta(hours=1)}
    with FeatureStore.open(views, store) as online:
        online.materialize({"flights": pl.DataFrame([left | {"delay": 9}])}, NOON - timedelta(hours=4))
    home = deploy(registry, msgspec.structs.replace(SERVE, port=free_port()), store=store)
    command = shlex.split(first_request(home, SERVE))
    assert json.loads(command[-1])["records"][0]["sched_dep"] == "2013-07-03T14:00:00Z"  # the example's, a day earlier
    responder = load_version(Deployment.read(home / "deployment.json"))
    (answer,) = responder.answers(responder.reader(command[-1].encode()))
    assert answer.degraded is msgspec.UNSET and responder.example == json.loads(command[-1])["records"][0]
    responder.inputs.close()


@pytest.mark.server
def test_an_answer_uses_the_ingested_rows(toy, tmp_path):
    folder, registry = toy
    store = settings_of(tmp_path)
    fill(store)
    with service(folder, registry, store) as client:
        (nothing,) = ask(client)
        assert nothing["degraded"] == {"missing": ["*"], "stale": ["*"]}
        assert nothing["probability"] == expected(None, None)
        reply = ingest(client, NOON, flight(1, 9, 10), flight(2, 11, 40), flight(3, 11, None)).raise_for_status().json()
        assert reply == {"table": "flights", "rows_applied": 3, "ignored": 0, "clock": "2013-07-04T12:00:00Z"}
        (answer,) = ask(client)
        assert "degraded" not in answer
        assert "sent" not in answer
        assert answer["probability"] == expected(40, 40 - 25)
        assert ingest(client, NOON, flight(1, 9, 10)).json()["rows_applied"] == 0  # the same again changes nothing
        assert ingest(client, NOON - timedelta(minutes=5), flight(1, 9, 99)).json()["ignored"] == 1
        assert ask(client)[0]["probability"] == answer["probability"]
        # several records, one read; an unknown carrier, a feature that the caller knows better, a request too early
        several = ask(
            client, {}, {"carrier": "ZZ"}, {"seen_delay_2h": 7}, {"at": (NOON - timedelta(hours=1)).isoformat()}
        )
        assert several[0]["probability"] == answer["probability"]
        assert several[1]["degraded"] == {"missing": ["*"]}
        assert several[1]["probability"] == expected(None, None, "ZZ")
        assert several[2]["sent"] == ["seen_delay_2h"]
        assert several[2]["probability"] == expected(7, 7 - 25)
        assert several[3]["degraded"]["early"] == ["*"]
        (later,) = ask(client, at=NOON + timedelta(hours=1))  # features stay as of two hours before
        assert later["probability"] == answer["probability"]
        metrics = client.get("/metrics").text
        assert 'notebento_degraded_total{reason="early"' in metrics
        described = client.get("/docs.json").json()
        assert "at" in described["components"]["schemas"]["Record"]["properties"]
        asked = described["paths"]["/events"]["post"]["requestBody"]["content"]["application/json"]["schema"]
        assert asked == {"$ref": "#/components/schemas/TableRows"}
        assert described["components"]["schemas"]["TableRows"]["properties"]["table"]["enum"] == ["flights"]


WRONG = [
    ({"table": "flights", "rows": [{"carrier": "UA"}]}, {"table": "flights", "row": 0, "column": "sched_dep"}),
    ({"table": "flights", "rows": [flight(1, 9, 1), flight(2, 9, 1) | {"delay": "1"}]}, {"row": 1, "column": "delay"}),
    ({"table": "flights", "rows": [flight(1, 9, 5000)]}, {"row": 0, "column": "delay"}),
    ({"table": "flights", "rows": [flight(1, 9, 1)], "at": "2113-01-01T00:00:00Z"}, {"table": "flights"}),
    ({"table": "flight", "rows": []}, {"table": "flight"}),
    ({"rows": []}, {}),
    ([], {}),
]


def test_a_request_with_a_wrong_row_names_it_and_applies_no_row(toy, tmp_path):
    folder, registry = toy
    store = settings_of(tmp_path)
    fill(store)
    contract = {"flights": {"columns": {"delay": {"type": "integer", "nullable": True, "max": 2880}}}}
    data = DataConfig(table="flights", key=(), time="sched_dep", contract=convert(contract, dict[str, TableContract]))
    with service(folder, registry, store, data) as client:
        before = ask(client)[0]["probability"]
        for body, where in WRONG:
            answer = client.post("/events", json=body)
            assert (answer.status_code, where.items() <= answer.json().items()) == (422, True), answer.text
        assert "is above 2880" in client.post("/events", json=WRONG[2][0]).json()["error"]
        assert client.post("/events", content=b"x", headers={"content-type": "text/csv"}).status_code == 415
        assert ask(client)[0]["probability"] == before


@pytest.mark.server
def test_a_store_that_goes_away_degrades_in_time_and_comes_back(toy, tmp_path):
    folder, registry = toy
    redis = RedisServer(tmp_path)
    store = redis.store(retry_s=1.0, deadline_ms=1000)
    fill(store)
    elsewhere = msgspec.structs.replace(store, url="redis://127.0.0.1:1/0")
    try:
        with service(folder, registry, elsewhere, NOTEBENTO_STORE_URL=redis.url) as client:
            ingest(client, NOON, flight(1, 9, 10), flight(2, 11, 40)).raise_for_status()
            good = ask(client)[0]
            assert "degraded" not in good
            redis.stop()
            took = []
            for _ in range(20):
                began = time.perf_counter()
                (answer,) = ask(client)
                took.append(time.perf_counter() - began)
                assert answer["degraded"] == {"unavailable": ["*"]}
                assert answer["probability"] == expected(None, None)
            assert sorted(took)[10] < 0.1
            assert ingest(client, NOON, flight(3, 11, 0)).status_code == 503
            redis.start()
            for _ in range(50):
                if "degraded" not in (answer := ask(client)[0]):
                    break
                time.sleep(0.1)
            assert answer["probability"] == good["probability"]
    finally:
        redis.stop()


def test_without_a_store_it_still_answers(toy):
    responder = Responder(toy_graph(SCHEMA), "v-1", build(SCHEMA.features))
    body = {"records": [{"carrier": "UA", "sched_dep": NOON}, {"carrier": "UA", "sched_dep": NOON, "worse": 3}]}
    first, second = responder.answers(responder.reader(msgspec.json.encode(body)))
    assert first.degraded == {"missing": ["tailnum", "*"]}
    assert first.probability == expected(None, None)
    assert second.degraded == {"missing": ["tailnum", "seen_delay_2h"]}
    assert second.sent == ["worse"]
    assert second.probability == expected(None, 3)


def test_a_store_is_where_the_environment_says(monkeypatch):
    config = StoreConfig()
    assert store_config(None) is None
    assert store_config(config) is None  # a bento knows nothing of the folder runs/ of another machine
    monkeypatch.setenv("NOTEBENTO_STORE_URL", "redis://somewhere:6379/0")
    assert plain(store_config(config)).items() >= {"backend": "redis", "url": "redis://somewhere:6379/0"}.items()
    monkeypatch.setenv("NOTEBENTO_STORE_URL", "/data/store.db")
    assert plain(store_config(config)).items() >= {"backend": "sqlite", "url": "/data/store.db"}.items()


def test_serve_fills_an_empty_store_from_the_run_of_the_version(toy, tmp_path):
    """What the champion learned from, as of then; whatever the newest run or the source has by now."""
    folder, _ = toy
    run = folder / "runs" / "20130704-run"
    rows = pl.DataFrame([flight(1, 9, 10), flight(2, 11, 40)]).with_columns(
        pl.col("sched_dep", "departed").str.to_datetime(time_zone="UTC")
    )
    save(run / "artifacts" / "snapshot" / "flights.parquet", rows)
    snapshot = artifact_record(run / "artifacts" / "snapshot", run, True)
    taken = StageRecord("01_data.ipynb", "done", artifacts={"snapshot": snapshot})
    Manifest(run.name, "done", "", False, [], "", {}, {}, {"data": taken}).write(run)
    lineage = Lineage(run=run.name, config={"data": {"as_of": NOON.isoformat()}})
    registry = RegistryConfig("filled")
    Registry.open(registry).register(
        bundle(tmp_path / "bundle"), "toy", lineage, {}, {"passed": True}, folder / "toyviews"
    )
    store, other = settings_of(tmp_path), DataConfig(as_of="2020-01-01")
    home = deploy(registry, msgspec.structs.replace(SERVE, port=free_port()), store=store)
    assert not (tmp_path / "store.db").exists()
    done = fill_store(home, registry, other)
    assert done is not None and (done.rows, done.clock) == (2, NOON)
    assert fill_store(home, registry, other) is None  # it is filled already
    gone = msgspec.structs.replace(store, backend="redis", url="redis://127.0.0.1:1/0")
    away = deploy(registry, msgspec.structs.replace(SERVE, port=free_port()), store=gone)
    with pytest.raises(StoreError, match="does not answer"):
        fill_store(away, registry, other)  # the command says so, and serves
    served = load_version(Deployment.read(home / "deployment.json"))
    sent = {"carrier": "UA", "sched_dep": NOON + timedelta(hours=2), "tailnum": "N1", "at": NOON}
    (answer,) = served.answers(served.reader(msgspec.json.encode({"records": [sent]})))
    assert (answer.degraded, answer.probability) == (msgspec.UNSET, expected(40, 40 - 25))
    served.inputs.close()


def test_as_of_when():
    lead = timedelta(hours=2)
    assert prediction_time(datetime(1, 1, 1, tzinfo=UTC), lead, NOON) == NOON  # two hours before the calendar begins
    assert prediction_time(None, lead, NOON) == NOON


# ---- what the looked-up values become, for features of every kind

sched_dep, delay = pl.col("sched_dep"), pl.col("departures_origin_delay_1h")
many = FeatureSet(
    {
        "carrier": TEXT,
        "origin": TEXT,
        "seats": NUMBER,
        "sched_dep": MOMENT,
        "tail": Field("string", False),
        "charter": Field("boolean", False),
    }
)
many.derive("carrier", pl.col("carrier"), categorical=True)
many.derive("hour", sched_dep.dt.hour().cast(pl.Int32), categorical=True)
many.derive("seats", pl.col("seats"))
many.derive("charter", pl.col("charter"), categorical=True)
many.derive("is_charter", pl.col("charter"))
many.add(*views.views)
many.derive("worse", delay - pl.col("departures_origin_delay_4h"), "min")
many.derive("each", delay / pl.col("departures_origin_n_1h"), "min")
many.derive("worse_at", pl.when(pl.col("worse") > 0).then(pl.col("origin")), categorical=True)
many.derive("until", (sched_dep - pl.col("predict_at")).dt.total_minutes() - pl.col("departures_origin_last"), "min")
many.derive("late", pl.col("waits_origin_late_4h") > 0.5)


class Many(Options, frozen=True):
    """The maker of these features."""

    features = many

    def request(self, records: pl.DataFrame, looked: pl.DataFrame | None = None) -> pl.DataFrame:
        return from_records(many, records, looked)


@pytest.fixture(scope="module")
def morning(tmp_path_factory):
    """A store after a morning, and what a version reads of it."""
    folder = tmp_path_factory.mktemp("morning")
    write(folder / "in.ndjson", story(80, seed=9))
    (folder / "in").mkdir()
    (folder / "in.ndjson").rename(folder / "in" / "a.ndjson")
    opened(store_settings(folder)).close()
    shown = many.shown
    schema = Signature(
        task="binary",
        target="late",
        numeric=tuple(n for n, a in shown.items() if not a.categorical),
        categorical=tuple(n for n, a in shown.items() if a.categorical),
        record=many.record,
        time="sched_dep",
        lead_hours=2.0,
    )
    with FeatureStore.open(many, store_settings(folder)) as store:
        follow(Follower(store, Folder(folder / "in", folder / "position.json")), lambda: False, once=True)
        yield store, schema


MINUTES = st.integers(-180, 600)
RECORDS = st.fixed_dictionaries(
    {
        "carrier": st.sampled_from(["AA", "DL", "ZZ", ""]),
        "origin": st.sampled_from(["JFK", "EWR", "LGA"]),
        "seats": st.floats(0, 500, allow_nan=False),
        "tail": st.none() | st.just("N1"),
        "charter": st.none() | st.booleans(),
        "sched_dep": MINUTES.map(lambda m: DAWN + timedelta(minutes=m)),
        "predict_at": MINUTES.map(lambda m: DAWN + timedelta(minutes=m)),
    }
)
RECORD = {
    "carrier": "AA",
    "origin": "JFK",
    "seats": 140.0,
    "tail": None,
    "charter": True,
    "sched_dep": DAWN + timedelta(hours=5),
}


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RECORDS, min_size=1, max_size=5))
def test_the_short_way_gives_the_bits_of_the_definition(morning, records):
    """What goes into the graph in the service is what `from_records` says, for any records."""
    store, schema = morning
    looked = store.read(records)
    numeric, categorical = Assembly(many, schema, looked.kinds)(records, [r["predict_at"] for r in records], looked)
    types = {n: f.dtype for n, f in many.record.items()} | {"predict_at": pl.Datetime("us", "UTC")}
    frame = from_records(many, pl.DataFrame(records, schema=types), looked.frame())
    assert numeric.view(np.uint32).tolist() == _bits(numbers(frame, schema.numeric), numeric)
    assert (categorical == strings(frame, schema.categorical)).all()


def _bits(expected: np.ndarray, got: np.ndarray) -> list[list[int]]:
    """The bits of `expected`; one NaN is as good as another."""
    bits = expected.view(np.uint32).copy()
    both = np.isnan(expected) & np.isnan(got)
    bits[both] = got.view(np.uint32)[both]
    return bits.tolist()


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(RECORDS, min_size=1, max_size=5))
def test_examples_take_the_way_of_what_a_store_finds(morning, records):
    """What a version keeps of a store's answer gives the graph the same bits as the answer itself."""
    store, schema = morning
    lookup, looked = Lookup(many, schema, None), store.read(records)
    types = {n: f.dtype for n, f in many.record.items()} | {"predict_at": pl.Datetime("us", "UTC")}
    kept = pl.DataFrame(records, schema=types).hstack(looked.frame())
    at = [record["predict_at"] for record in records]
    live, replayed = (
        lookup.inputs(records, OnlineFeatures(at, looked, looked.why)),
        lookup.inputs(records, from_examples(many, kept)),
    )
    assert live[0].view(np.uint32).tolist() == _bits(replayed[0], live[0])
    assert (live[1] == replayed[1]).all()


def test_reasons_are_brief_and_complete(morning):
    _, schema = morning
    names = Names(many, schema)
    looked = [name for view in many.views for name in view.columns]
    assert names.brief(names.of(looked)) == ["*"]
    assert names.why({"expired": ["departures_origin_last"]}, set())["expired"] != []
    said = names.why({"missing": [n for n in looked if n.startswith("arrivals_")]}, set())
    assert said == {"missing": ["arrivals_carrier_*"]}
    assert names.every == {c for c in schema.columns if c not in many.immediate}


def test_lookup_reads_once_for_a_batch(morning, monkeypatch):
    store, schema = morning
    lookup, reads = Lookup(many, schema, store.config), []
    lookup([RECORD], [DAWN + timedelta(hours=3)])
    inner = lookup.read.store.backend.read
    monkeypatch.setattr(lookup.read.store.backend, "read", lambda *a: reads.append(a) or inner(*a))
    found = lookup([RECORD] * 20, [DAWN + timedelta(hours=3)] * 20)
    assert len(reads) == 1
    assert lookup.inputs([RECORD] * 20, found)[0].shape == (20, len(schema.numeric))
    lookup.close()


def test_the_makers_request_is_the_definition(morning):
    """What `/predict` computes when features were sent, and what the features' maker says, are one."""
    store, schema = morning
    record = RECORD | {"predict_at": DAWN + timedelta(hours=3)}
    looked = store.read([record])
    frame = Many().request(pl.DataFrame([record]), looked.frame())
    numeric, _ = Assembly(many, schema, looked.kinds)([record], [record["predict_at"]], looked)
    assert np.array_equal(numbers(frame, schema.numeric), numeric, equal_nan=True)


def test_an_inbox_refuses_before_anything_is_materialized(tmp_path):
    inbox = Inbox(many, store_settings(tmp_path), CONTRACTS)
    with pytest.raises(StoreError, match="not materialized"):
        inbox.thread.submit(inbox.ingest, b'{"table": "flights", "rows": []}').result()
    with pytest.raises(RowError, match="the body must be"):
        inbox.thread.submit(inbox.ingest, b"{}").result()
    assert issubclass(RowError, UserError)
    inbox.close()
