"""Every command on a toy project: what it prints, its `--json`, and its exit status."""

import io
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from rich.console import Console
from typer.testing import CliRunner

import notebento
from notebento.cli import failures, features, main
from notebento.cli.failures import with_arguments
from notebento.core.artifacts import save
from notebento.core.compose import compose, runs_folder
from notebento.core.errors import NotebentoError
from notebento.evaluation.metrics import Interval
from notebento.registry.registry import Lineage, Registry

pytestmark = pytest.mark.process

CONFIG = """
defaults: [notebento, _self_, {data: trams}, {pipeline: default}, {experiment: null}]
project: {name: trams}
model: {_target_: notebento.models.lightgbm.LightGBM}
features: {_target_: trams.Trams, without: []}
store: {horizon: 30d}
"""
DATA = """
source: {_target_: trams.Rides}
table: trips
key: [id]
time: sched
target: late
lead_hours: 1.0
as_of: "2024-03-11T00:00:00Z"
known_after: [departed, delay]
contract:
  trips: {columns: {delay: {type: integer, nullable: true, min: 0, max: 600}}}
"""
STAGES = {
    "data": {"groups": ["data"], "outputs": ["snapshot"]},
    "features": {
        "groups": ["data", "features"],
        "inputs": ["snapshot"],
        "outputs": ["features.parquet", "schema.json", "split.json"],
    },
    "gate": {"groups": ["project"], "inputs": ["split.json"], "outputs": ["gate.json"], "gate": "gate.json"},
}
MODULE = '''
"""Trams that leave late."""
from datetime import datetime, timedelta, UTC
import polars as pl
from notebento.core.config import Frozen
from notebento.features.schema import (
    MOMENT, TEXT, FeatureSet, Options, beside, compute, from_records, kept, make_schema, rows_of)
from notebento.features.views import Events, Table, Value, View, count, mean

DAWN = datetime(2024, 3, 1, tzinfo=UTC)
trips = Table("trips", ("id",), pl.col("sched") - timedelta(days=1),
              later={c: pl.col("departed") for c in ("departed", "delay")})
left = Events("departures", trips, pl.col("departed"), pl.col("departed"), {"delay": Value(pl.col("delay"), "min")})
views = FeatureSet({"station": TEXT, "sched": MOMENT})
views.add(View(left, ("station",), {"n": count(), "delay": mean("delay")}, ("4h",)))
views.derive("hour", pl.col("sched").dt.hour(), "h", "hour of the schedule")


class Rides(Frozen, frozen=True):
    def read(self, as_of):
        n = range(240)
        delays = [(7 * i * i + 3 * i) % 11 for i in n]
        table = pl.DataFrame({
            "id": n,
            "station": [("north", "south", "west")[i % 3] for i in n],
            "sched": [DAWN + timedelta(hours=i) for i in n],
            "departed": [DAWN + timedelta(hours=i, minutes=d) for i, d in zip(n, delays)],
            "delay": delays,
            "late": [d >= 5 for d in delays],
        })
        return {"trips": table}


class Trams(Options, frozen=True):
    @property
    def features(self):
        return views

    def offline(self, tables, data):
        rows = rows_of(tables, data)
        return beside(rows, compute(views, rows, tables).select(kept(views.shown, self.without)), self, data)

    def request(self, records, looked=None):
        return from_records(views, records, looked).select(kept(views.shown, self.without))

    def schema(self, tables, data):
        return make_schema(self, views, tables[data.table], data)
'''
CELLS = {
    "data": """
from notebento.core.artifacts import save
from notebento.data.snapshot import take
with stage.folder("snapshot") as folder:
    for name, table in take(stage.config.data).tables.items():
        save(folder / f"{name}.parquet", table)
""",
    "features": """
import polars as pl
from notebento.core.config import build
from notebento.data.split import split_at
tables = {file.stem: pl.read_parquet(file) for file in sorted(stage.inputs["snapshot"].glob("*.parquet"))}
maker, data = build(stage.config.features), stage.config.data
table = maker.offline(tables, data)
stage.write("features.parquet", table)
stage.write("schema.json", maker.schema(tables, data))
stage.write("split.json", split_at(data, table))
""",
    "gate": 'stage.write("gate.json", {"passed": stage.config.project.name == "trams", "reasons": []})',
}
KERNEL = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
NORTH = ["station=north", "--at", "2024-03-10T12:00Z"]


def project(folder: Path) -> Path:
    """Trams, in `folder`: three stages, of which the last is a gate."""
    for name in ("conf/data", "conf/pipeline", "conf/experiment", "nbs", "src"):
        (folder / name).mkdir(parents=True)
    (folder / "conf/config.yaml").write_text(CONFIG)
    (folder / "conf/data/trams.yaml").write_text(DATA)
    (folder / "conf/experiment/refused.yaml").write_text("# @package _global_\nproject: {name: refused}\n")
    stages = {name: {"notebook": f"{name}.ipynb", **declared} for name, declared in STAGES.items()}
    (folder / "conf/pipeline/default.yaml").write_text(yaml.safe_dump({"name": "trams", "stages": stages}))
    (folder / "src/trams.py").write_text(MODULE)
    for name, source in CELLS.items():
        opening = f'from notebento.core.stage import Stage\nstage = Stage.open("{name}", overrides, run_dir)'
        cells = [cell('overrides = []\nrun_dir = ""', ["parameters"]), cell(opening), cell(source)]
        notebook = {"cells": cells, "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 4}
        (folder / f"nbs/{name}.ipynb").write_text(json.dumps(notebook))
    return folder


def cell(source: str, tags: list[str] | None = None) -> dict[str, Any]:
    """A code cell."""
    metadata = {"tags": tags} if tags else {}
    return {"cell_type": "code", "execution_count": None, "outputs": [], "metadata": metadata, "source": source}


class Answer:
    """What a command printed, and how it ended."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err

    @property
    def json(self) -> Any:
        """What it printed, as JSON."""
        assert self.status == 0, self.err
        return json.loads(self.out)


class Trams:
    """A project, and the command in it."""

    def __init__(self, home: Path, runs: Path) -> None:
        self.home, self.runs = home, runs
        paths = [str(home / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
        self.environ = {
            "NOTEBENTO_HOME": str(home),
            "NOTEBENTO_RUNS": str(runs),
            "PYTHONPATH": os.pathsep.join(paths),
            "COLUMNS": "200",
        }

    def __call__(self, *arguments: str) -> Answer:
        """Call the command in this process."""
        result = CliRunner().invoke(main.app, list(arguments), env=self.environ)
        if result.exception and not isinstance(result.exception, SystemExit):
            raise result.exception
        return Answer(result.exit_code, result.stdout, result.stderr)

    def process(self, *arguments: str, **environ: str) -> Answer:
        """Call the command in a process of its own."""
        done = subprocess.run(
            [sys.executable, "-m", "notebento", *arguments],
            cwd=self.home,
            env=os.environ | self.environ | environ,
            capture_output=True,
            text=True,
            timeout=120,
        )
        return Answer(done.returncode, done.stdout, done.stderr)


@pytest.fixture(scope="module")
def trams(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trams]:
    """A project whose pipeline ran once, and which has two versions."""
    folder = tmp_path_factory.mktemp("trams")
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(project(folder / "project") / "src")
        patch.chdir(folder / "project")
        made = Trams(folder / "project", folder / "runs")
        for name in ("NOTEBENTO_HOME", "NOTEBENTO_RUNS"):
            patch.setenv(name, made.environ[name])
        for options in ([], ["--into=lab"]):  # the notebooks that one opens work on the second
            done = made.process("run", "--json", *options)
            assert done.status == 0, done.err
        registry = Registry.open(compose(["registry.ledger=versions"]).registry)
        for weights, auc in (("abc", 0.7), ("xyz", 0.75)):
            metrics = {"test": {"notebento": {"auc": Interval(auc, auc - 0.1, auc + 0.1)}}}
            lineage = Lineage(run="20240311-120000-toys")
            registry.register(bundle(folder / weights, weights), "trams", lineage, metrics, {"passed": True})
        yield made


def bundle(folder: Path, weights: str) -> Path:
    """A bundle whose graph is three bytes long."""
    folder.mkdir()
    (folder / "model.onnx").write_text(weights)
    schema = {"task": "binary", "target": "late", "numeric": ["hour"], "categorical": []}
    save(folder / "schema.json", schema)
    return folder


VERSIONS = "registry.ledger=versions"


# --- the command itself


def test_version_and_help(trams: Trams) -> None:
    assert trams("--version").out == f"notebento {notebento.__version__}\n"
    shown = trams("--help").out
    commands = ["run", "config", "serve", "lab", "verify", "report", "check", "runs", "models", "features"]
    assert all(re.search(rf"^. {name} ", shown, re.M) for name in commands)
    assert "--install-completion" in shown
    assert "train-worker" not in shown


@pytest.mark.parametrize(
    "arguments", [["rnu"], ["run", "--jsno"], ["runs", "gc", "--keep", "many"], ["models", "show"]]
)
def test_a_usage_error_is_wrong_input(trams: Trams, arguments: list[str]) -> None:
    assert trams(*arguments).status == 2


def test_an_error_says_how_to_fix_it(trams: Trams) -> None:
    answer = trams("config", "seeed=1")
    assert answer.status == 2
    assert "Did you mean 'seed'?" in answer.err
    assert "\n  fix: " in answer.err
    assert answer.out == ""


def test_a_crash_is_no_verdict(
    trams: Trams, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def crash(_: list[str]) -> None:
        raise RuntimeError("the disk is on fire")

    monkeypatch.setattr(main, "compose", crash)
    monkeypatch.setattr(sys, "argv", ["notebento", "config"])
    with pytest.raises(SystemExit) as ended:
        main.main()
    assert ended.value.code == 3
    said = capsys.readouterr()
    assert "RuntimeError: the disk is on fire" in said.err
    (log,) = (trams.runs / "logs").glob("*.log")
    assert log.name in said.err
    assert "the disk is on fire" in log.read_text()
    assert "Traceback" in log.read_text()


def test_a_crash_outside_of_a_project_prints_its_traceback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("NOTEBENTO_HOME", raising=False)
    monkeypatch.delenv("NOTEBENTO_RUNS", raising=False)
    assert failures.report_crash(RuntimeError("the disk is on fire")) == 3
    assert "RuntimeError: the disk is on fire" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- run, config


def test_config_prints_what_would_be_composed(trams: Trams) -> None:
    composed = yaml.safe_load(trams("config", "seed=5").out)
    assert composed["seed"] == 5
    assert composed["registry"]["ledger"] == "trams"
    assert trams("config", "seed=5", "--json").json == composed


@pytest.mark.parametrize("option", ["--plan", "--dry-run"])
def test_a_plan_runs_nothing(trams: Trams, option: str) -> None:
    before = sorted(trams.runs.rglob("*"))
    assert "nothing to do" in trams("run", option).out
    steps = trams("run", option, "--json", "data.lead_hours=2.0").json
    assert {step["stage"]: step["does"] for step in steps} == {"data": "run", "features": "run", "gate": "wait"}
    assert sorted(trams.runs.rglob("*")) == before


def test_a_refused_model_is_exit_status_1(trams: Trams) -> None:
    answer = trams.process("run", "experiment=refused", "--json", "--into=refused")
    assert answer.status == 1
    assert json.loads(answer.out)["status"] == "rejected"
    assert "the gate refused this model" in answer.err


def test_a_stage_that_fails_is_exit_status_3(trams: Trams) -> None:
    notebook = trams.home / "nbs/gate.ipynb"
    whole = notebook.read_text()
    notebook.write_text(whole.replace("stage.write", "1 / 0; stage.write"))
    try:
        answer = trams.process("run", "--into=broken", "--no-export")
    finally:
        notebook.write_text(whole)
    assert answer.status == 3
    assert "ZeroDivisionError" in answer.err


@pytest.mark.parametrize(("sent", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interrupted_run_says_so(trams: Trams, sent: signal.Signals, status: int) -> None:
    notebook = trams.home / "nbs/data.ipynb"
    whole = notebook.read_text()
    content = json.loads(whole)
    mark = trams.runs / f"started-{status}"
    content["cells"].insert(2, cell(f"import time\nopen({str(mark)!r}, 'w').close()\ntime.sleep(60)"))
    notebook.write_text(json.dumps(content))
    command = [sys.executable, "-m", "notebento", "run", "--into=cut"]
    try:
        with subprocess.Popen(
            command, cwd=trams.home, env=os.environ | trams.environ, stderr=subprocess.PIPE, text=True
        ) as going:
            end = time.monotonic() + 60
            while not mark.exists() and time.monotonic() < end:
                time.sleep(0.05)
            going.send_signal(sent)
            said = going.communicate(timeout=60)[1]
    finally:
        notebook.write_text(whole)
    assert going.returncode == status
    assert "interrupted: what is finished stays" in said


INTERRUPTED = """
import os, signal, sys

class Finder:
    def find_spec(name, path=None, target=None):
        if name == os.environ["INTERRUPTED"]:
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, Finder)
"""


@pytest.mark.parametrize("module", ["notebento.cli.main", "typer", "notebento.core.compose", "notebento.pipeline.plan"])
def test_an_interrupt_while_the_command_is_loaded_is_no_crash(trams: Trams, tmp_path: Path, module: str) -> None:
    (tmp_path / "sitecustomize.py").write_text(INTERRUPTED)
    paths = os.pathsep.join([str(tmp_path), os.environ.get("PYTHONPATH", "")])
    answer = trams.process("run", "--plan", PYTHONPATH=paths, INTERRUPTED=module)
    assert answer.status == 130, answer.err
    assert answer.err.startswith("interrupted") and "Traceback" not in answer.err


# --- runs


def test_runs_are_listed_shown_and_compared(trams: Trams) -> None:
    (newest,) = [run for run in trams("runs", "list", "--json").json if run["run_id"][:2] == "20"]
    assert newest["status"] == "done"
    name = newest["run_id"]
    assert name in trams("runs", "list").out
    shown = trams("runs", "show", name)
    assert "features" in shown.out
    assert trams("runs", "show", name, "--json").json["run_id"] == name
    assert trams("runs", "diff", name, name).status == 0
    assert isinstance(trams("runs", "diff", name, name, "--json").json, dict)
    answer = trams("runs", "show", "1999")
    assert (answer.status, "there is no run '1999'" in answer.err) == (2, True)


def test_the_report_says_where_it_is(trams: Trams) -> None:
    for command in (["report"], ["runs", "report"]):
        facts = trams(*command, "--json").json
        assert Path(facts["report"]).name == "report.html"
        assert Path(facts["report"]).is_file()
        assert trams(*command).out.strip().endswith("report.html")


def first_run(trams: Trams) -> str:
    """The run that the fixture made."""
    return min(run["run_id"] for run in trams("runs", "list", "--json").json)


def test_verify_repeats_a_run(trams: Trams) -> None:
    verdicts = trams.process("verify", first_run(trams), "--here", "--json").json
    assert {v["verdict"] for v in verdicts} == {"identical"}
    assert {v["artifact"] for v in verdicts} >= {"snapshot", "features.parquet", "gate.json"}


def test_a_repetition_that_breaks_is_no_verdict(trams: Trams) -> None:
    """A second run that ends with 3 or 2 says nothing about the first."""
    notebook = trams.home / "nbs/gate.ipynb"
    whole = notebook.read_text()
    notebook.write_text(whole.replace("stage.write", "1 / 0; stage.write"))
    try:
        broken = trams.process("runs", "verify", first_run(trams), "--here", "--json")
    finally:
        notebook.write_text(whole)
    assert (broken.status, broken.out) == (3, "")
    assert "the second run failed" in broken.err


def test_gc_says_first_what_would_go(trams: Trams) -> None:
    assert trams.process("run", "seed=7").status == 0
    old, new = sorted(r["run_id"] for r in trams("runs", "list", "--json").json if r["run_id"][:2] == "20")
    planned = trams("runs", "gc", "--keep", "1", "--dry-run", "--json").json
    assert planned["runs"] == [old]
    assert planned["dry_run"]
    assert old in trams("runs", "gc", "--keep", "1", "--dry-run").out
    assert (trams.runs / old).is_dir()
    assert trams("runs", "gc", "--keep", "many").status == 2
    done = trams("runs", "gc", "--keep", "1", "--json").json
    assert (done["runs"], done["files"]) == (planned["runs"], planned["files"])
    assert not (trams.runs / old).exists()
    assert (trams.runs / new).is_dir()


# --- models


def test_models_are_listed_and_shown(trams: Trams) -> None:
    first, second = trams("models", "list", VERSIONS, "--json").json
    assert [first["champion"], second["champion"]] == [True, False]
    assert [first["test"], second["test"]] == [{"auc": 0.7}, {"auc": 0.75}]
    listed = trams("models", "list", VERSIONS).out
    assert first["version"] in listed
    assert "0.7500" in listed
    assert trams("models", "show", second["version"], VERSIONS, "--json").json["version"] == second["version"]
    assert "20240311-120000-toys" in trams("models", "show", "champion", VERSIONS).out
    empty = trams("models", "list")
    assert "nothing is registered in the ledger trams yet" in empty.out
    assert "other ledgers have versions: notebento models list registry.ledger=versions" in empty.err
    answer = trams("models", "show", "v-nothing", VERSIONS)
    assert (answer.status, "v-nothing" in answer.err) == (2, True)


def test_promote_and_rollback_are_recorded(trams: Trams) -> None:
    first, second = (row["version"] for row in trams("models", "list", VERSIONS, "--json").json)
    entry = trams("models", "promote", second, "--reason", "better", "--approval", "Ada", VERSIONS, "--json").json
    assert (entry["version"], entry["prior"], entry["reason"], entry["approval"]) == (second, first, "better", "Ada")
    assert trams("models", "promote", second, VERSIONS).status == 2
    assert trams("models", "rollback", VERSIONS, "--json").json["version"] == first
    assert f"{second} is the champion now; before it was {first}" in trams("models", "promote", second, VERSIONS).out
    assert f"{first} is the champion again" in trams("models", "rollback", "--reason", "worse", VERSIONS).out
    actions = [row["action"] for row in trams("models", "history", VERSIONS, "--json").json]
    assert actions == ["register", "promote", "register", "promote", "rollback", "promote", "rollback"]
    assert "approved by Ada" in trams("models", "history", VERSIONS).out


# --- features


def test_features_are_listed_and_validated(trams: Trams) -> None:
    found = trams("features", "list", "--json").json
    names = [entry["feature"] for entry in found["entries"]]
    assert "departures_station_delay_4h" in names
    assert "departures_station_delay_4h" in trams("features", "list").out
    page = trams.home / "features.html"
    assert trams("features", "list", "--html", str(page)).status == 0
    assert "departures_station_delay_4h" in page.read_text()
    checked = trams("features", "validate", "--json").json
    assert checked["rows"] > 100
    assert (checked["wrong"], checked["stale"]) == ([], {})
    assert "all features are as expected" in trams("features", "validate").out


def test_on_a_narrow_terminal_the_list_of_features_wraps() -> None:
    entry = SimpleNamespace(feature="previous_departures_station_delay_4h", what="departures of the same train in time")
    vars(entry).update(unit="minutes", table="departures", nulls=0.01, importance=0.0)
    console = Console(width=80, file=io.StringIO())
    console.print(features.feature_table([entry]))
    printed = console.file.getvalue()
    words = " ".join(line.split("│")[2].strip() for line in printed.splitlines() if "│" in line)
    assert words == entry.what and "…" not in printed


def test_the_features_of_no_record_are_not_looked_up(trams: Trams) -> None:
    answer = trams("features", "get")
    assert answer.status == 2 and "looked up by station" in answer.err and "features get station=…" in answer.err


def test_what_rests_on_a_run_says_which_and_where_others_are(trams: Trams) -> None:
    assert trams.process("run", "--into=lab").status == 0  # the newest now
    assert "training rows of run lab." in trams("features", "list").err
    for command in ("list", "validate", "ablation"):
        answer = trams("features", command, "project.name=other")
        assert "No run of other has training rows yet".lower() in answer.err.lower()
        assert f"there are other runs: notebento features {command}" in answer.err
        assert answer.status == (0 if command == "list" else 2)
    for wrong in (["--workers", "0"], ["--port", "99999"], ["serve.threshold=2.0"]):
        answer = trams("serve", *wrong)
        assert (
            answer.status == 2 and f"serve.{wrong[0].strip('-').removeprefix('serve.').partition('=')[0]}" in answer.err
        )
    answer = trams("serve")
    assert (
        answer.status == 2 and "ledger trams" in answer.err and "notebento serve registry.ledger=versions" in answer.err
    )


def test_features_that_are_not_as_expected_are_exit_status_1(trams: Trams) -> None:
    narrow = ["data.contract.trips.columns.delay.max=7", "data.max_rejected=1.0"]
    answer = trams("features", "validate", *narrow)
    assert answer.status == 1, answer.out + answer.err
    assert "departures_station_delay_4h" in answer.err


def test_materialize_get_and_gc(trams: Trams) -> None:
    store, file = "store.name=own", runs_folder() / "store" / "own.db"
    before = trams("features", "get", *NORTH, store, "--json").json
    assert "not materialized" in before["degraded"]
    assert "notebento features materialize" in trams("features", "get", *NORTH, store).err
    assert trams("features", "gc", store).status == 0
    assert not file.exists()  # whoever only asks makes no store
    done = trams("features", "materialize", "--as-of", "2024-03-10T12:00Z", store, "--json").json
    assert done["rows"] > 0 and file.exists()
    assert (
        "complete up to 2024-03-10 12:00" in trams("features", "materialize", "--as-of", "2024-03-10T12:00Z", store).out
    )
    found = trams("features", "get", *NORTH, store, "--json").json
    assert found["features"]["departures_station_n_4h"] == 1
    assert found["degraded"] == {}
    assert "departures_station_n_4h" in trams("features", "get", store, *NORTH).out
    assert trams("features", "gc", "--dry-run", store, "--json").json["removed"] == []
    assert "removed 0 definitions" in trams("features", "gc", store).out
    assert trams("features", "materialize", "--as-of", "2999-01-01", store).status == 2


def test_get_from_a_server_that_is_gone_says_so(trams: Trams) -> None:
    answer = trams("features", "get", *NORTH, "store.backend=redis", "store.url=redis://127.0.0.1:1/0")
    assert answer.status == 3
    assert "the feature store in Redis does not answer" in answer.err and "see store.url" in answer.err


def test_a_misspelt_field_proposes_the_nearest(trams: Trams) -> None:
    answer = trams("features", "get", "staton=north")
    assert answer.status == 2
    assert "Did you mean 'station'?" in answer.err
    assert trams("features", "get", "sched=noon").status == 2
    assert trams("features", "get", "--station", "north").status == 2


def test_parity_compares_the_store_with_the_table(trams: Trams) -> None:
    period = ["--from", "2024-03-09", "--to", "2024-03-10"]
    found = trams("features", "parity", *period, "--json").json
    assert (found["rows"], found["differences"]) == (24, [])
    assert "24 rows × 2 features" in trams("features", "parity", *period).out
    assert trams("features", "parity", "--from", "2024-03-10", "--to", "2024-03-10").status == 2


def test_ingest_refuses_what_breaks_the_contract(trams: Trams, tmp_path: Path) -> None:
    store, as_of = "store.name=stream", ["--as-of", "2024-03-10T12:00Z"]
    assert trams("features", "materialize", *as_of, store).status == 0
    at = "2024-03-10T13:00:00Z"
    row = {"id": 900, "station": "north", "sched": at, "departed": at, "delay": 4, "late": False}
    good, bad = ({"table": "trips", "at": at, "row": row | changed} for changed in ({}, {"id": 901, "delay": 9999}))
    (tmp_path / "good").mkdir()
    (tmp_path / "good/a.ndjson").write_text(json.dumps(good) + "\n")
    answer = trams.process("features", "ingest", "--from", str(tmp_path / "good"), "--once", store)
    assert (answer.status, "1 messages: 1 rows" in answer.out) == (0, True), answer.err
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad/a.ndjson").write_text(json.dumps(bad) + "\n")
    answer = trams.process("features", "ingest", "--from", str(tmp_path / "bad"), "--once", "--json", store)
    assert answer.status == 1
    assert json.loads(answer.out.splitlines()[-1])["dead"] == 1
    assert "1 message refused" in answer.err
    assert trams("features", "ingest", store).status == 2


def test_ablation_says_what_each_view_adds(trams: Trams) -> None:
    rows = trams("features", "ablation", "--rows", "60", "--json").json
    assert {row["without"] for row in rows} == {"(nothing)", "departures_station"}
    assert "departures_station" in trams("features", "ablation", "--rows", "60").out


# --- serve, lab


def test_serve_needs_a_version(trams: Trams) -> None:
    answer = trams("serve")
    assert answer.status == 2
    assert "notebento run" in answer.err


def test_lab_opens_what_it_is_asked_for(trams: Trams, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[list[str]] = []
    monkeypatch.setattr(os, "execve", lambda _, command, environment: opened.append(command))
    trams("lab")
    trams("lab", "features")
    trams("lab", "--library")
    assert trams("lab", "featurse").status == 2
    assert trams("lab", "features", "--library").status == 2
    root, page = f"--ServerApp.root_dir={trams.home}", "--LabApp.default_url=/lab/tree/nbs/"  # what the browser shows
    assert [c[3:5] for c in opened[:2]] == [[root, f"{page}index.ipynb"], [root, f"{page}features.ipynb"]]
    assert (Path(opened[2][3].partition("=")[2]) / "core/errors.ipynb").is_file()
    assert len(opened) == 3


@pytest.mark.parametrize(("uid", "said"), [(0, "warning: JupyterLab runs as root"), (1000, "")])
def test_lab_opens_as_root_and_warns(trams: Trams, monkeypatch: pytest.MonkeyPatch, uid: int, said: str) -> None:
    opened: list[str] = []
    monkeypatch.setattr(os, "getuid", lambda: uid)
    monkeypatch.setattr(os, "execve", lambda _, command, environment: opened.extend(command))
    assert trams("lab").err.startswith(said) and ("--allow-root" in opened) == (uid == 0)


def test_lab_asks_nobody_about_news(trams: Trams, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """JupyterLab's own settings, with the environment in which it starts and without."""
    from jupyterlab.commands import get_app_dir
    from jupyterlab_server.settings_utils import _get_overrides, get_settings

    def fetch_news() -> str:
        schemas, name = Path(get_app_dir()) / "schemas", "@jupyterlab/apputils-extension:notification"
        settings, _ = get_settings(str(tmp_path), str(schemas), str(tmp_path), name, _get_overrides(str(tmp_path))[0])
        return settings["schema"]["properties"]["fetchNews"]["default"]

    assert fetch_news() == "none"  # it asks
    started: list[dict[str, str]] = []
    monkeypatch.setattr(os, "execve", lambda _, command, environment: started.append(environment))
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", "/one/s/own")
    trams("lab")
    monkeypatch.setenv("JUPYTER_CONFIG_PATH", started[0]["JUPYTER_CONFIG_PATH"])
    assert started[0]["JUPYTER_CONFIG_PATH"].endswith(f"{os.pathsep}/one/s/own")
    assert fetch_news() == "false"


def test_the_doctor_says_what_is_wrong(trams: Trams) -> None:
    findings = {f["what"]: f for f in trams("doctor", "--json").json}
    assert set(findings) == {"Python", "project", "packages", "git", "disk"}
    assert "data, features, gate" in findings["project"]["found"]
    lock = trams.home / "requirements.lock"
    lock.write_text("# a lock\npolars==0.0.1 ; python_version > '3'\na-package-that-nobody-has==1\n")
    try:
        answer = trams("doctor")
    finally:
        lock.unlink()
    assert answer.status == 1
    assert "polars" in answer.out and "instead of 0.0.1" in answer.out
    assert "a-package-that-nobody-has" not in answer.out
    assert "something is wrong with packages" in answer.err


def test_the_exit_statuses_are_those_that_are_promised() -> None:
    assert failures.BROKEN == NotebentoError.exit_status == 3


def test_advice_repeats_the_arguments_that_lead_to_the_same_ledger() -> None:
    told = with_arguments(
        "nothing\n  fix: notebento models list", ["serve", "project.name=y", "--port=1", "model.lr=2"]
    )
    assert told == "nothing\n  fix: notebento models list project.name=y"
    assert with_arguments("fix: notebento run", ["serve"]) == "fix: notebento run"
    assert with_arguments("fix: notebento runs list", ["serve", "project.name=y"]) == "fix: notebento runs list"
