"""What serves is what was registered: the service of a version, whatever becomes of the notebooks since."""

import json
import os
import shutil
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import onnx.parser
import polars as pl
import pytest
from notebento.core.compose import compose, project_root
from notebento.core.config import RegistryConfig, build
from notebento.core.errors import NotebentoError
from notebento.core.package import load_package, project_package
from notebento.data.snapshot import take
from notebento.features.examples import examples, spread
from notebento.models.bundle import Graph, Signature, golden, reference, write_bundle
from notebento.online.store import FeatureStore
from notebento.registry.registry import Lineage, Registry
from notebento.serving.client import ask, free_port, running_server
from notebento.serving.deploy import deploy
from notebento.serving.responder import as_requests
from notebento.serving.service import Deployment, load_version

from flights.features import flights

NOW = datetime(2013, 2, 15, 17, tzinfo=UTC)
FORMULA = "- 2 * _minutes("  # of leg_slack: out and back
GRAPH = """
<ir_version: 10, opset_import: ["" : 18]>
late (float[n, {numeric}] numeric, string[n, {categorical}] categorical) => (float[n] probability)
<float none = {{0}}, float small = {{0.0005}}, int64[1] ones = {{1}}> {{
    absent = IsNaN(numeric)
    known = Where(absent, none, numeric)
    sum = ReduceSum <keepdims = 0> (known, ones)
    logit = Mul(sum, small)
    probability = Sigmoid(logit)
}}"""


@pytest.fixture(scope="module")
def week():
    """The configuration, and the tables of a week."""
    config = compose(["experiment=lab"])
    tables = dict(take(config.data).tables)
    for name, time in {"flights": "sched_dep", "weather": "time"}.items():
        tables[name] = tables[name].filter(pl.col(time).is_between(NOW - timedelta(days=7), NOW + timedelta(hours=3)))
    return config, tables


@pytest.fixture
def package(tmp_path, monkeypatch):
    """The project's package in another checkout, which the processes started here import."""
    found = project_package(project_root())
    assert found is not None
    shutil.copytree(found, tmp_path / "src" / found.name, ignore=shutil.ignore_patterns("__pycache__"))
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(tmp_path / "src"), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("NOTEBENTO_RUNS", str(tmp_path / "runs"))
    return tmp_path / "src" / found.name


def edit(package: Path) -> None:
    """Another formula: what an edit of 02_features and an export leave in the package."""
    text = (package / "features.py").read_text()
    assert text.count(FORMULA) == 1
    (package / "features.py").write_text(text.replace(FORMULA, "- 3 * _minutes("))


def export(folder: Path, week, package: Path, alias: str) -> tuple[Path, pl.DataFrame]:
    """A bundle whose features are those of `package` as it is now, and their table."""
    config, tables = week
    node = {"_target_": "flights.features.Flights"}
    maker = build(node, {"flights": load_package(package, alias).__name__})
    schema = msgspec.structs.replace(maker.schema(tables, config.data), features=node)
    table = maker.offline(tables, config.data).filter(pl.col("predict_at") <= NOW)
    shape = msgspec.to_builtins(schema) | {"threshold": 0.5}
    text = GRAPH.format(numeric=len(schema.numeric), categorical=len(schema.categorical))
    model = onnx.parser.parse_model(text).SerializeToString()
    graph = Graph(model, msgspec.convert(shape, Signature))
    late = table.tail(500)
    chosen, answers = spread(late), graph.predict(late)
    files = {
        "schema": shape,
        "golden": golden(chosen, graph.predict(chosen), graph.schema, [f"row {i}" for i in range(len(chosen))]),
        "reference": reference(late, answers, graph.schema),
        "examples": examples(schema, chosen, tables, config.data),
    }
    folder.mkdir()
    write_bundle(folder, model, {}, **files)
    return folder, table


def register(bundle: Path, package: Path) -> str:
    registry = Registry.open(RegistryConfig("service"))
    return registry.register(bundle, "flights", Lineage(), {}, {"passed": True}, package).version


def loaded(version: str, config):
    """A version as a service process loads it."""
    registry = Registry.open(RegistryConfig("service"))
    bundle, package = registry.bundle(version), registry.package(version)
    return load_version(Deployment(str(bundle), version, config.serve, package=str(package)))


@pytest.mark.server
def test_an_edit_of_the_features_after_registering_changes_no_answer_of_the_champion(week, package, tmp_path):
    config, tables = week
    bundle, table = export(tmp_path / "bundle", week, package, "flights@first")
    version = register(bundle, package)
    store = msgspec.structs.replace(config.store, url=str(tmp_path / "store.db"))
    with FeatureStore.open(flights, store) as filled:
        filled.materialize(tables, NOW)
    last = table.filter(pl.col("predict_at") > NOW - timedelta(hours=1)).head(40)
    fields = tables["flights"].join(last, on=["sched_dep", "carrier", "flight", "origin"], how="semi")
    fields = fields.sort("sched_dep", *config.data.key).select(
        *flights.record, at=pl.col("sched_dep") - timedelta(hours=2)
    )
    body = msgspec.json.encode({"records": fields.to_dicts()})

    def answers() -> list[dict]:
        serve = msgspec.structs.replace(config.serve, port=free_port())
        home = deploy(RegistryConfig("service"), serve, store=store)
        with running_server(home, serve) as port:
            status, text = ask(port, "/predict", body)
        assert status == 200, text
        return json.loads(text)

    before = answers()
    edit(package)
    after = answers()
    assert [a["probability"] for a in after] == [a["probability"] for a in before]
    assert {a["version"] for a in after} == {version}
    expected = Graph.load(bundle).predict(last.sort("sched_dep", *config.data.key))
    assert [a["probability"] for a in before] == expected.tolist()
    # The edit was one that matters: with these features the same model cannot be served.
    edited = register(bundle, package)
    with pytest.raises(NotebentoError, match=f"{edited} differs from its golden predictions in 'leg_slack'"):
        loaded(edited, config)


def test_two_versions_with_different_features_answer_in_one_process(week, package, tmp_path):
    config, _ = week
    bundle, _ = export(tmp_path / "first", week, package, "flights@first")
    first = register(bundle, package)
    edit(package)
    bundle, _ = export(tmp_path / "second", week, package, "flights@second")
    second = register(bundle, package)
    assert first != second
    slack = {}
    for version in (first, second):
        responder = loaded(version, config)  # checks the golden predictions, each with its own features
        kept = pl.read_parquet(Registry.open(RegistryConfig("service")).bundle(version) / "examples.parquet")
        _, records, online = as_requests(responder, kept)
        numeric, _ = responder.inputs.assemble(records, online)
        slack[version] = numeric[:, responder.schema.numeric.index("leg_slack")]
        assert type(responder.inputs.maker).__module__ == f"flights@{version}.features"
    assert (slack[first] > slack[second]).any()
