"""A toy version with a package of its own, server processes, and clients that wait for them."""

import os
import subprocess
import time
from contextlib import contextmanager
from pathlib import Path

import httpx
import onnx.parser
import polars as pl
import pytest

from notebento.core.config import Node, RegistryConfig, ServeConfig, plain
from notebento.models.bundle import Graph, RecordField, Signature, golden, write_bundle
from notebento.registry.registry import Lineage, Registry

SETTINGS = ServeConfig(
    max_body_mb=2, max_records=20_000, max_latency_ms=1000, service=Node({"_target_": "toyfeatures.bento.Service"})
)

# Late is who has a delay; B6 more than others. `hour` is computed from the record, and the carrier BOOM breaks that.
GRAPH = """
<ir_version: 10, opset_import: ["" : 18, "ai.onnx.ml" : 3]>
late (float[n, 2] numeric, string[n, 1] categorical) => (float[n] probability)
<float ten = {10}, float hundred = {100}, int64[1] row = {-1}, int64[1] ones = {1}> {
    absent = IsNaN(numeric)
    known = Where(absent, ten, numeric)
    sum = ReduceSum <keepdims = 1> (known, ones)
    minutes = Div(sum, hundred)
    carrier = ai.onnx.ml.LabelEncoder <
        keys_strings = ["B6", "UA"], values_floats = [0.5, -0.5], default_float = 0.0
    > (categorical)
    logit = Add(minutes, carrier)
    answer = Sigmoid(logit)
    probability = Reshape(answer, row)
}"""
FEATURES = """
import polars as pl
class Toy:
    def request(self, frame):
        if "BOOM" in frame["carrier"]:
            raise ArithmeticError("boom")
        absent = pl.DataFrame(schema={n: pl.Float32 for n in ("delay", "hour") if n not in frame}).clear(len(frame))
        hour = pl.col("sched_dep").dt.hour().cast(pl.Float32)
        return pl.concat([frame, absent], how="horizontal").with_columns(hour=pl.coalesce("hour", hour))
"""
SERVICE = """
import bentoml
from notebento.serving.service import BENTOML_METRICS, PredictionService, app
@bentoml.service(name="toy", traffic={"timeout": 30}, metrics=BENTOML_METRICS)
@bentoml.asgi_app(app)
class Service(PredictionService):
    pass
"""
SCHEMA = Signature(
    task="binary",
    target="late",
    numeric=("delay", "hour"),
    categorical=("carrier",),
    record={
        "carrier": RecordField("string"),
        "sched_dep": RecordField("datetime"),
        "tailnum": RecordField("string", required=False),
    },
    request=("hour",),
    features={"_target_": "toyfeatures.features.Toy"},
    threshold=0.6,
)
NOON = "2013-07-04T12:00:00Z"
MODEL = onnx.parser.parse_model(GRAPH).SerializeToString()


def toy_graph(schema: Signature = SCHEMA) -> Graph:
    return Graph(MODEL, schema)


def write_package(folder: Path, name: str = "toyfeatures", features: str = FEATURES) -> Path:
    """The toy's package in `folder`, as if it was installed: its metadata lies beside it."""
    package = folder / name
    package.mkdir(parents=True, exist_ok=True)
    for module, text in {"__init__": "", "features": features, "bento": SERVICE}.items():
        (package / f"{module}.py").write_text(text)
    (folder / f"{name}-1.0.dist-info").mkdir(exist_ok=True)
    (folder / f"{name}-1.0.dist-info" / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    return package


def toy_bundle(folder: Path, shift: float = 0.0) -> Path:
    """A bundle whose golden predictions are off by `shift`."""
    frame = pl.DataFrame({"carrier": ["UA", "B6", None], "delay": [None, None, None], "hour": [12.0, 12.0, None]})
    frame = frame.with_columns(pl.col("delay").cast(pl.Float32))
    cases = golden(frame, toy_graph().predict(frame) + shift, SCHEMA, ["a", "b", "all missing"])
    examples = frame[:2].select("carrier", sched_dep=pl.lit(NOON).str.to_datetime(time_zone="UTC"))
    folder.mkdir(parents=True)
    write_bundle(folder, MODEL, {}, schema=plain(SCHEMA), golden=cases, reference={}, examples=examples)
    return folder


@contextmanager
def at_home(folder: Path):
    """A folder whose packages this process and those that it starts can import; `runs/` in it is their state."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PYTHONPATH", os.pathsep.join(filter(None, [str(folder), os.environ.get("PYTHONPATH")])))
        patch.syspath_prepend(folder)
        patch.setenv("NOTEBENTO_RUNS", str(folder / "runs"))
        yield folder


def registered(bundle: Path, ledger: str, package: Path | None) -> RegistryConfig:
    """The configuration of a registry whose champion `bundle` is."""
    config = RegistryConfig(ledger)
    Registry.open(config).register(bundle, "toy", Lineage(), {}, {"passed": True}, package)
    return config


def settled(client: httpx.Client, path: str, wanted: int) -> httpx.Response:
    """The answer of `path` as soon as it has the status `wanted`."""
    for _ in range(300):
        try:
            if (answer := client.get(path)).status_code == wanted:
                return answer
        except httpx.TransportError:
            pass
        time.sleep(0.1)
    raise AssertionError(f"{path} did not answer {wanted}")


@contextmanager
def process(command, environment, folder, port):
    """A server process and a client of it."""
    with (folder / "server.log").open("w") as log:
        started = subprocess.Popen(command, env=environment, cwd=folder, stdout=log, stderr=log)
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=20) as client:
            yield started, client
    finally:
        started.terminate()
        started.wait(30)


def records(n: int, **more) -> list[dict]:
    return [{"carrier": "UA", "sched_dep": NOON, "delay": float(i)} | more for i in range(n)]


def expected(sent: list[dict]) -> list[float]:
    frame = pl.DataFrame(sent).with_columns(hour=pl.lit(12.0))
    return toy_graph().predict(frame.with_columns(delay=pl.col("delay") if "delay" in frame.columns else None)).tolist()
