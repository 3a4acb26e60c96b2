"""The service as clients meet it: a real server process and real HTTP, on a free port of this machine."""

import asyncio
import gzip
import json
import os
import pickle
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import httpx
import msgspec
import numpy as np
import onnx.parser
import polars as pl
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_toys import (
    FEATURES,
    NOON,
    SCHEMA,
    SETTINGS,
    at_home,
    expected,
    process,
    records,
    registered,
    settled,
    toy_bundle,
    toy_graph,
    write_package,
)
from stores import free_port

from notebento.core.config import DataConfig, RegistryConfig, ServeConfig, build
from notebento.core.errors import NotebentoError, UserError
from notebento.features.columns import Columns
from notebento.features.examples import examples, spread
from notebento.models.bundle import Graph, Signature, golden, write_bundle
from notebento.registry.registry import Registry
from notebento.serving.deploy import deploy, server
from notebento.serving.request import LARGEST, RecordReader, RequestError, record_table
from notebento.serving.responder import Batcher, Responder, as_requests, check_golden
from notebento.serving.service import Deployment, load_version

pytestmark = pytest.mark.server


@pytest.fixture(scope="module")
def client(registry):
    """A client of the champion."""
    serve = msgspec.structs.replace(SETTINGS, port=free_port())
    folder = deploy(registry, serve)
    with process(*server(folder, serve), folder, serve.port) as (_, client):
        settled(client, "/readyz", 200)
        yield client


@pytest.mark.server
def test_answers_are_those_of_the_graph(client, registry):
    sent = records(100)
    answers = client.post("/predict", json={"records": sent}).raise_for_status().json()
    assert [a["probability"] for a in answers] == expected(sent)
    champion = Registry.open(registry).champion()
    assert {a["version"] for a in answers} == {champion}
    assert {a["variant"] for a in answers} == {"champion"}
    assert all(a["decision"] == (a["probability"] >= a["threshold"]) == a["prediction"] for a in answers)
    assert {a["threshold"] for a in answers} == {0.6}
    assert len({a["prediction_id"] for a in answers}) == 100


def test_what_was_not_said_is_named(client):
    sent = [{"carrier": "B6", "sched_dep": NOON}, {"carrier": "B6", "sched_dep": NOON, "delay": None, "tailnum": None}]
    first, second = client.post("/predict", json={"records": sent}).json()
    assert sorted(first["degraded"]["missing"]) == ["delay", "tailnum"]
    assert "degraded" not in second
    assert first["probability"] == second["probability"]
    given = client.post("/predict", json={"records": [sent[0] | {"hour": 3}]}).json()[0]
    assert given["probability"] != first["probability"]  # a feature that is sent is taken instead of the computed one


@pytest.mark.server
def test_times_of_all_zones_are_the_same_moment(client):
    moments = [NOON, "2013-07-04T12:00:00", "2013-07-04T08:00:00-04:00", "2013-07-04 12:00:00.000+00:00"]
    answers = client.post("/predict", json={"records": [records(1)[0] | {"sched_dep": m} for m in moments]}).json()
    assert len({a["probability"] for a in answers}) == 1


@pytest.mark.server
def test_a_date_is_its_midnight_as_in_a_table(client):
    moments = ["2013-07-04", "2013-07-04T00:00:00Z", "2013-07-04t00:00:00z"]
    answers = client.post("/predict", json={"records": [records(1)[0] | {"sched_dep": m} for m in moments]}).json()
    assert len({a["probability"] for a in answers}) == 1
    described = client.get("/docs.json").json()["components"]["schemas"]["Record"]["properties"]["sched_dep"]
    assert described == {"type": "string", "anyOf": [{"format": "date-time"}, {"format": "date"}]}


def test_predict_with_no_records_returns_an_empty_list(client):
    assert client.post("/predict", json={"records": []}).json() == []


FIELDS = "The fields are carrier, sched_dep, tailnum, delay, hour"  # those that are required come first
LIMITS = "between -3.4e38 and 3.4e38"
TIME = "'sched_dep' must be a time like 2013-07-04T12:30:00Z or 2013-07-04"
LIMITED = {"type": "number", "minimum": -LARGEST, "maximum": LARGEST}
BAD = [
    ({"carrier": "UA"}, "sched_dep", "'sched_dep' is missing"),
    ({"carrier": None, "sched_dep": NOON}, "carrier", "'carrier' must be text, not null"),
    ({"carrier": 7, "sched_dep": NOON}, "carrier", "'carrier' must be text, not a number"),
    ({"carrier": float("nan"), "sched_dep": NOON}, "carrier", "'carrier' must be a finite number"),
    ({"carrier": "UA", "sched_dep": "noon"}, "sched_dep", TIME),
    (
        {"carrier": "UA", "sched_dep": 7},
        "sched_dep",
        f"{TIME}, not a number",
    ),
    ({"carrier": "UA", "sched_dep": "0001-01-01T00:00:00+05:00"}, "sched_dep", "'sched_dep' is out of range"),
    ({"carrier": "UA", "sched_dep": NOON, "delay": "7"}, "delay", "'delay' must be a number, not text"),
    ({"carrier": "UA", "sched_dep": NOON, "delay": True}, "delay", "'delay' must be a number, not true or false"),
    ({"carrier": "UA", "sched_dep": NOON, "delay": [7]}, "delay", "'delay' must be a number, not a list"),
    (
        {"carrier": "UA", "sched_dep": NOON, "delay": 1e39},
        "delay",
        "'delay' must be a number between -3.4e38 and 3.4e38",
    ),
    (
        {"carrier": "UA", "sched_dep": NOON, "delay": float("nan")},
        "delay",
        "'delay' must be a finite number; leave it out, or send null",
    ),
    (
        {"carrier": "UA", "sched_dep": NOON, "delay": float("-inf")},
        "delay",
        "'delay' must be a finite number; leave it out, or send null",
    ),
    (
        {"carrier": "UA", "sched_dep": NOON, "dely": 7},
        "dely",
        f"there is no field 'dely'. Did you mean 'delay'? {FIELDS}",
    ),
    ({"carrier": "UA", "sched_dep": NOON, "late": 1}, "late", f"there is no field 'late'. {FIELDS}"),
    (7, None, "a record must be an object, {…}"),
]


@pytest.mark.parametrize(("wrong", "field", "message"), BAD, ids=[m for _, _, m in BAD])
@pytest.mark.server
def test_a_bad_record_is_named(client, wrong, field, message):
    body = json.dumps({"records": [*records(2), wrong, *records(1)]})
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    refused = answer.json()
    assert answer.status_code == 422, refused
    assert refused.pop("error") == f"records[2]: {message}"
    assert refused == {"record": 2} | ({"field": field} if field else {})


@pytest.mark.parametrize(
    ("body", "status", "message"),
    [
        (b"", 400, "not JSON"),
        (b'{"records": [', 400, "not JSON"),
        (b"\xff\xfe", 400, "not JSON"),
        (b'{"records": [{"carrier": "\xff"}]}', 400, "not JSON"),
        (b"[" * 100_000, 422, "the body must be"),
        (b"[]", 422, 'the body must be {"records"'),
        (b'{"carrier": "UA"}', 422, 'the body must be {"records"'),
        (b'{"records": {}}', 422, 'the body must be {"records"'),
        (b'{"records": [], "more": 1}', 422, 'the body must be {"records"'),
        (b'{"records": [' + b" " * 2**21 + b"]}", 413, "more than 2097152 bytes; send fewer records at once"),
    ],
)
@pytest.mark.server
def test_a_bad_body_is_explained(client, body, status, message):
    answer = client.post("/predict", content=body, headers={"content-type": "application/json"})
    assert (answer.status_code, message in answer.json()["error"]) == (status, True), answer.text


@pytest.mark.parametrize("kind", ["application/vnd.bentoml+pickle", "application/octet-stream", "text/csv"])
@pytest.mark.server
def test_only_json_is_read(client, tmp_path, kind):
    class Evil:
        def __reduce__(self):
            return (os.mkdir, (str(tmp_path / "executed"),))

    answer = client.post("/predict", content=pickle.dumps(Evil()), headers={"content-type": kind})
    assert answer.status_code == 415
    assert kind in answer.json()["error"]
    assert not (tmp_path / "executed").exists()


@pytest.mark.server
def test_a_body_compressed_by_gzip_is_read_and_a_bomb_is_not(client):
    body = json.dumps({"records": records(3)}).encode()
    packed = {"content-type": "application/json", "content-encoding": "gzip"}
    answers = client.post("/predict", content=gzip.compress(body), headers=packed).raise_for_status().json()
    assert [a["probability"] for a in answers] == expected(records(3))
    for content, status, why in [
        (gzip.compress(b" " * 2**28), 413, "more than 2097152 bytes"),  # 256 MB in 260 kB
        (body, 400, "is not gzip"),
        (gzip.compress(body)[:-9], 400, "is not gzip: it ends too early"),
    ]:
        refused = client.post("/predict", content=content, headers=packed)
        assert (refused.status_code, why in refused.json()["error"]) == (status, True), refused.text
    refused = client.post("/predict", content=body, headers=packed | {"content-encoding": "br"})
    assert (refused.status_code, refused.json()["error"]) == (
        415,
        "the body is compressed by br; send it uncompressed, or compressed by gzip",
    )


@pytest.mark.server
def test_a_request_within_the_limit_is_answered_whole_however_large(client):
    """20,000 records are 313 batches, each of which may wait a second: together longer than that."""
    sent = records(20_000)
    answers = client.post("/predict", json={"records": sent}).raise_for_status().json()
    assert [a["probability"] for a in answers] == expected(sent)
    refused = client.post("/predict", json={"records": [*sent, *records(1)]})
    assert refused.status_code == 413
    assert refused.json()["error"] == "the request has 20,001 records, and the limit is 20,000; send fewer at once"


def test_curl_without_a_header_is_understood(client):
    body = json.dumps({"records": records(1)}).encode()
    for kind in ["application/x-www-form-urlencoded", "application/json; charset=utf-8", ""]:
        assert client.post("/predict", content=body, headers={"content-type": kind}).status_code == 200


@pytest.mark.server
def test_only_post(client):
    assert client.get("/predict").status_code == 405
    assert client.post("/score", json={"records": []}).status_code == 404


async def crowd(base_url: str, bodies: list[list[dict]]) -> list[httpx.Response]:
    limits = httpx.Limits(max_connections=40)
    async with httpx.AsyncClient(base_url=base_url, timeout=30, limits=limits) as many:
        return await asyncio.gather(*(many.post("/predict", json={"records": body}) for body in bodies))


@pytest.mark.server
def test_many_at_once_get_their_own_answers(client):
    """Good requests of several sizes, among them refused ones, and some that break the features in the batch."""
    bodies = [records(1 + i % 4, delay=float(i)) for i in range(300)]
    bad, broken = set(range(7, 300, 20)), set(range(11, 300, 25))
    bodies = [[{"carrier": "UA"}] if i in bad else body for i, body in enumerate(bodies)]
    bodies = [records(2, carrier="BOOM") if i in broken else body for i, body in enumerate(bodies)]
    answers = asyncio.run(crowd(str(client.base_url), bodies))
    for i, (body, answer) in enumerate(zip(bodies, answers, strict=True)):
        if i in bad:
            assert answer.status_code == 422
            assert "sched_dep" in answer.text
        elif i in broken:
            assert answer.status_code == 500
            assert "boom" not in answer.text
        else:
            assert [a["probability"] for a in answer.json()] == expected(body), i
    metrics = client.get("/metrics").text
    runs, taken = (float(re.search(rf"notebento_batch_records_{n} (\S+)", metrics)[1]) for n in ("count", "sum"))
    assert taken / runs > 1.2  # requests did share batches


def test_what_it_says_about_itself(client, registry):
    assert client.get("/livez").status_code == client.get("/readyz").status_code == 200
    assert 'notebento_request_duration_seconds_bucket{endpoint="/predict"' in client.get("/metrics").text
    told = client.get("/docs.json").json()
    assert told["info"]["version"] == Registry.open(registry).champion()
    schemas = told["components"]["schemas"]
    assert {"threshold", "decision", "degraded"} <= schemas["Answer"]["properties"].keys()
    assert re.match(
        r"How probable it is that \w+ is (True|1);", schemas["Answer"]["properties"]["probability"]["description"]
    )
    assert "/events" not in told["paths"] and "TableRows" not in schemas  # nothing is looked up for this version
    record = schemas["Record"]
    assert record["additionalProperties"] is False
    assert record["properties"]["delay"]["anyOf"] == [LIMITED, {"type": "null"}]
    assert record["required"] == ["carrier", "sched_dep"]
    assert set(record["properties"]) >= {"delay", "hour", "tailnum"}
    shown = client.get("/").text
    assert "googletagmanager" not in shown
    assert "https://" not in shown
    for link in re.findall(r'(?:href|src)="\./(.*?)"', shown):
        assert client.get(f"/{link}").status_code == 200


@pytest.mark.server
def test_it_does_what_its_description_says(client, tmp_path):
    """Requests made from the OpenAPI document: those that fit it are answered, the others refused as described."""
    tool = Path(sys.executable).with_name("schemathesis")
    command = [tool, "run", f"{client.base_url}/docs.json", "--include-path", "/predict", "--max-examples", "60"]
    done = subprocess.run([*command, "--seed", "1"], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout


def test_a_version_that_answers_otherwise_is_never_ready(home, tmp_path):
    bundle = toy_bundle(tmp_path / "bundle", shift=1e-3)
    config = registered(bundle, "wrong", home / "toyfeatures")
    serve = msgspec.structs.replace(SETTINGS, port=free_port())
    folder = deploy(config, serve)
    with process(*server(folder, serve), folder, serve.port) as (_, client):
        settled(client, "/livez", 200)
        for _ in range(50):
            not_ready = client.get("/readyz")
            assert not_ready.status_code == 503
            if "golden predictions" in not_ready.text:
                break
            time.sleep(0.1)
        assert "differs from its golden predictions by 0.001" in not_ready.text
        refused = client.post("/predict", json={"records": records(1)})
        assert refused.status_code == 503
        assert "golden predictions" in refused.json()["error"]
        assert client.get("/docs.json").status_code == 503
        assert client.get("/livez").status_code == 200


def test_deploy_refuses_what_cannot_be_served(registry, home):
    empty = RegistryConfig("empty")
    with pytest.raises(UserError, match="nothing is registered in the ledger empty yet\n  fix: notebento run"):
        deploy(empty, SETTINGS)
    with pytest.raises(UserError, match="there is no version 'v-nothing'"):
        deploy(registry, SETTINGS, "v-nothing")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        serve = msgspec.structs.replace(SETTINGS, port=taken.getsockname()[1])
        with pytest.raises(UserError, match=f"cannot listen on.*\n  fix: another port: serve.port={serve.port + 1}"):
            deploy(registry, serve)
    with pytest.raises(UserError, match="'nowhere at all' is not an address of this machine"):
        deploy(registry, msgspec.structs.replace(SETTINGS, host="nowhere at all", port=free_port()))


@pytest.mark.server
def test_the_name_of_an_address_is_one(registry):
    serve = msgspec.structs.replace(SETTINGS, host="localhost", port=free_port())
    folder = deploy(registry, serve)
    with process(*server(folder, serve), folder, serve.port) as (_, client):
        settled(client, "/readyz", 200)


# ---- without a server


class Fixed:
    """A graph that always answers `answer`."""

    def __init__(self, schema: Signature, answer: np.ndarray) -> None:
        self.schema, self.answer = schema, answer

    def arrays(self, frame: pl.DataFrame) -> tuple[np.ndarray, np.ndarray]:
        return np.zeros((len(frame), 1), np.float32), np.empty((len(frame), 0), object)

    def run(self, numeric: np.ndarray, categorical: np.ndarray) -> np.ndarray:
        return np.repeat(self.answer[None], len(numeric), 0)


def responder(task: str, answer: np.ndarray, classes=None) -> Responder:
    schema = Signature(task=task, target="t", numeric=("x",), categorical=(), classes=classes)
    return Responder(Fixed(schema, answer), "v-1", threshold=0.5)


def test_every_task_has_its_answer():
    schema = Signature(task="regression", target="t", numeric=("x",), categorical=())
    asked = RecordReader(schema)(b'{"records": [{"x": 1}]}')
    regression = responder("regression", np.float32(7.5)).answers(asked)
    said = json.loads(msgspec.json.encode(regression))[0]
    assert said.keys() == {"prediction_id", "prediction", "version", "variant"}
    assert regression[0].prediction == 7.5
    several = responder("multiclass", np.array([0.2, 0.5, 0.3], np.float32), ("a", "b", "c")).answers(asked)[0]
    assert several.prediction == "b"
    assert several.probability == pytest.approx({"a": 0.2, "b": 0.5, "c": 0.3})
    assert several.decision is msgspec.UNSET
    yes = responder("binary", np.float32(0.5), ("no", "yes")).answers(asked)[0]
    assert (yes.prediction, yes.decision, yes.probability) == ("yes", True, 0.5)  # at the threshold is yes
    with pytest.raises(NotebentoError, match="did not answer with a number"):
        responder("regression", np.float32("nan")).answers(asked)


def test_names_may_be_anything():
    names = ("sepal length (cm)", "class", "f0", "é ✈", "a`b")
    reader = RecordReader(Signature(task="regression", target="t", numeric=names, categorical=()))
    body = {"records": [{name: float(i) for i, name in enumerate(names)}]}
    assert record_table(reader(json.dumps(body).encode()), reader.fields).row(0) == (0.0, 1.0, 2.0, 3.0, 4.0)
    with pytest.raises(RequestError) as error:
        reader(json.dumps({"records": [{"sepal length (cm)": "x"}]}).encode())
    assert error.value.field == "sepal length (cm)"


NAMES = st.sampled_from(["carrier", "sched_dep", "delay", "x"]) | st.text()
VALUES = st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.just(NOON)
JSON = st.recursive(VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES, inner), max_leaves=12)


@settings(max_examples=300, deadline=None)
@given(JSON | st.fixed_dictionaries({"records": st.lists(JSON, max_size=3)}), st.binary(max_size=20), st.booleans())
def test_no_body_gets_past_or_through(home, value, noise, noisy):
    """Whatever is sent is either refused with a reason, or answered."""
    body = json.dumps(value).encode() + (noise if noisy else b"")
    made = Responder(toy_graph(), "v-1", build(SCHEMA.features))
    refused = None
    try:
        asked = made.reader(body)
    except RequestError as e:
        refused = e
    if refused is None:
        assert len(made.answers(asked)) == len(asked)
    else:
        assert refused.status in (400, 422)
        assert refused.body.error


@settings(max_examples=100, deadline=None)
@given(st.text(), st.datetimes(), st.none() | st.floats(allow_nan=False, allow_infinity=False, width=32))
def test_every_good_record_is_answered(home, carrier, moment, delay):
    try:
        record = {"carrier": carrier, "sched_dep": moment.isoformat(), "delay": delay}
        body = json.dumps({"records": [record]}, ensure_ascii=False).encode()
    except UnicodeEncodeError:  # half a surrogate pair is not text
        return
    made = Responder(toy_graph(), "v-1", build(SCHEMA.features))
    if carrier != "BOOM":
        assert 0 <= made.answers(made.reader(body))[0].probability <= 1


def boolean_version(folder: Path, members: list[bool | None]) -> Path:
    """A version of a table whose column `member` and whose target are true or false."""
    rows = pl.DataFrame({"row": range(len(members)), "age": [30.0] * len(members), "member": members})
    rows = rows.with_columns(left=pl.col("row") % 2 == 0)
    data = DataConfig(table="rows", target="left")
    tables, schema = {"rows": rows}, Columns().schema({"rows": rows}, data)
    shape = msgspec.to_builtins(schema) | {"threshold": 0.5}
    model = onnx.parser.parse_model(MEMBERS).SerializeToString()
    graph = Graph(model, msgspec.convert(shape, Signature))
    few = spread(Columns().offline(tables, data))
    cases = golden(few.drop("left"), graph.predict(few), graph.schema, [str(i) for i in range(16)])
    shown = {"schema": shape, "golden": cases, "reference": {}, "examples": examples(schema, few, tables, data)}
    folder.mkdir()
    write_bundle(folder, model, {}, **shown)
    return folder


MEMBERS = """
<ir_version: 10, opset_import: ["" : 18, "ai.onnx.ml" : 3]>
left (float[n, 1] numeric, string[n, 1] categorical) => (float[n] probability) <int64[1] row = {-1}> {
    member = ai.onnx.ml.LabelEncoder <
        keys_strings = ["true", "false"], values_floats = [0.9, 0.2], default_float = 0.4
    > (categorical)
    probability = Reshape(member, row)
}"""


@pytest.mark.parametrize("nulls", [False, True])
def test_a_boolean_column_and_a_boolean_target_are_served(tmp_path, nulls):
    bundle = boolean_version(tmp_path / "model", [None if nulls and i % 5 == 0 else i % 3 == 0 for i in range(40)])
    served = load_version(Deployment(str(bundle), "v-1", ServeConfig()))  # answers its golden predictions
    body = {"records": [{"age": 30, "member": True}, {"age": 30, "member": False}]}
    yes, no = served.answers(served.reader(json.dumps(body).encode()))
    assert (yes.prediction, yes.probability) == (True, pytest.approx(0.9))
    assert (no.prediction, no.decision) == (False, False)
    with pytest.raises(RequestError, match="'member' must be true or false, not text"):
        served.reader(b'{"records": [{"age": 30, "member": "true"}]}')
    unknown = b'{"records": [{"age": 30}]}'
    if not nulls:
        with pytest.raises(RequestError, match="'member' is missing"):
            served.reader(unknown)
        return
    (absent,) = served.answers(served.reader(unknown))
    assert (absent.probability, absent.degraded) == (pytest.approx(0.4), {"missing": ["member"]})
    (said,) = served.answers(served.reader(b'{"records": [{"age": 30, "member": null}]}'))
    assert (said.probability, said.degraded) == (absent.probability, msgspec.UNSET)


def test_a_boolean_that_training_saw_otherwise_is_refused_before_it_is_registered(tmp_path):
    """The same check as that of a service that starts: registering asks the candidate in the way of a client."""
    bundle = boolean_version(tmp_path / "model", [i % 3 == 0 for i in range(40)])
    cases = json.loads((bundle / "golden.json").read_text())
    for case in cases:
        case["record"]["member"] = {"true": "1", "false": "0"}[case["record"]["member"]]
        case["expected"] = 0.4
    (bundle / "golden.json").write_text(json.dumps(cases))
    with pytest.raises(NotebentoError, match="differs from its golden predictions in 'member': true instead of 1"):
        load_version(Deployment(str(bundle), "this candidate", ServeConfig()))


def test_a_feature_that_is_computed_otherwise_is_refused_by_its_name(home):
    cases, examples = golden_of_the_toy()
    check_golden(Responder(toy_graph(), "v-1", build(SCHEMA.features)), cases, examples)
    later = type("Later", (), {"request": lambda self, f: build(SCHEMA.features).request(f).with_columns(hour=13.0)})
    with pytest.raises(
        NotebentoError, match="v-1 differs from its golden predictions in 'hour': 13.0 instead of 12.0 for 'a'"
    ):
        check_golden(Responder(toy_graph(), "v-1", later()), cases, examples)


def test_an_example_that_no_client_could_send_is_left_out(home):
    cases, examples = golden_of_the_toy()
    made = Responder(toy_graph(), "v-1", build(SCHEMA.features))
    rows, kept, _ = as_requests(made, examples.with_columns(carrier=pl.Series([None, "B6"])))
    assert (rows, [record.fields["carrier"] for record in kept]) == ([1], ["B6"])
    assert as_requests(made, examples.drop("carrier"))[0] == []
    check_golden(made, cases, examples.drop("carrier"))


def golden_of_the_toy() -> tuple[list[dict], pl.DataFrame]:
    frame = pl.DataFrame({"carrier": ["UA", "B6"], "delay": [None, None], "hour": [12.0, 12.0]})
    frame = frame.with_columns(pl.col("delay").cast(pl.Float32))
    cases = golden(frame, toy_graph().predict(frame), SCHEMA, ["a", "b"])
    return cases, frame.select("carrier", sched_dep=pl.lit(NOON).str.to_datetime(time_zone="UTC"))


def test_a_slow_batch_does_not_keep_others_from_being_answered():
    """The event loop goes on while a batch waits for its store; batches come one at a time, in order."""
    order, gate = [], threading.Event()

    def slow(records):
        order.append(records)
        assert gate.wait(10)
        return records

    async def both():
        batcher = Batcher(slow, 64, 10_000)
        first = asyncio.create_task(batcher([1]))
        while not order:
            await asyncio.sleep(0.001)
        second = asyncio.create_task(batcher([2]))
        await asyncio.sleep(0.05)  # the loop runs, the second batch waits
        waiting = [*order]
        gate.set()
        answers = [await first, await second]
        batcher.close()
        return waiting, answers

    assert asyncio.run(both()) == ([[1]], [[1], [2]])
    assert order == [[1], [2]]


@pytest.mark.server
def test_an_edit_of_the_package_reaches_no_registered_version(home, tmp_path):
    """The class of the service and the features are those of the version, wherever the server is started."""
    package = write_package(tmp_path / "project")
    config = registered(toy_bundle(tmp_path / "bundle"), "edited", package)
    with at_home(tmp_path / "project"):
        again = registered(tmp_path / "bundle", "edited", package)
        assert len(Registry.open(again).versions()) == 1  # the same bundle and package are the same version
        answers = []
        for _ in range(2):
            serve = msgspec.structs.replace(SETTINGS, port=free_port())
            folder = deploy(config, serve)
            with process(*server(folder, serve), folder, serve.port) as (_, client):
                settled(client, "/readyz", 200)
                answers.append([a["probability"] for a in client.post("/predict", json={"records": records(5)}).json()])
            write_package(tmp_path / "project", features=FEATURES.replace(".dt.hour()", ".dt.minute()"))
            (package / "bento.py").write_text("raise ImportError('edited')")
    assert answers[0] == answers[1] == expected(records(5))
    registered(tmp_path / "bundle", "edited", write_package(tmp_path / "project", features=FEATURES + "# edited"))
    assert len(Registry.open(config).versions()) == 2


def test_serving_needs_no_torch():
    code = "import sys, notebento.serving.service; print({'torch', 'papermill', 'sklearn', 'onnx'} & set(sys.modules))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True).strip() == "set()"
