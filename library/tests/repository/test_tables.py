"""Tables of one's own: every shipped model with every task in a new project, and two projects beside each other."""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib import pyplot as plt
from sklearn import datasets
from sklearn.datasets import load_breast_cancer, load_wine

from notebento.core.artifacts import Manifest, StageRecord, artifact_record
from notebento.core.compose import compose
from notebento.core.config import Config, StageConfig, plain
from notebento.data.inspection import inspect_table
from notebento.data.sources import Table
from notebento.models.bundle import Graph
from notebento.pipeline.project import Order, new_project
from notebento.registry.registry import Registry

pytestmark = pytest.mark.process


def new(folder: Path, name: str, data: Path, target: str, task: str | None = None) -> Path:
    """A new project for the table in `data`."""
    table = Table(name, path=str(data))
    rows = table.read(None)[name]
    new_project(folder / name, Order(name, table, rows, inspect_table(rows, target, task)))
    return folder / name


# -- in this process ---------------------------------------------------------------------------------------------------

STAGES = ("data", "features", "train", "export", "evaluate")
SMALL = ["trainer.wandb=disabled", "trainer.epochs=4", "evaluate.bootstrap=20"]
TARGETS = {"binary": "churned", "multiclass": "plan", "regression": "spent"}


def customers(n: int = 60) -> pl.DataFrame:
    """A table with numbers, gaps, words, a column with one value, and a target for each task."""
    rng = np.random.default_rng(0)
    age, city = rng.integers(18, 80, n), rng.choice(["Bonn", "Kiel", "Ulm"], n)
    spent = age * 10 + 200 * (city == "Ulm") + rng.normal(0, 20, n)
    table = {"age": age, "city": city, "visits": rng.poisson(3, n), "note": [None] * (n - 1) + [1.5]}
    return pl.DataFrame(table).with_columns(
        pl.when(pl.col("visits") > 0).then("visits"),
        churned=pl.Series(spent > np.median(spent)),
        plan=pl.Series(np.array(["free", "home", "work"])[np.digitize(spent, np.quantile(spent, [0.3, 0.7]))]),
        spent=pl.Series(spent.round(2)),
    )


def execute(stage: str, notebook: Path, run_dir: Path) -> None:
    """The cells of a stage's notebook, as a kernel would run them."""
    names: dict[str, Any] = {"__name__": stage, "display": lambda *_, **__: None}
    for cell in json.loads(notebook.read_text(encoding="utf-8"))["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            tagged = "parameters" in cell["metadata"].get("tags", ())
            exec(f"overrides, run_dir = [], {str(run_dir)!r}" if tagged else source, names)


def run(project: Path, config: Config, run_dir: Path) -> Path:
    """The stages of the default pipeline up to the evaluation, one after the other; the folder of their artifacts."""
    manifest = Manifest("toy", "running", "", False, [], "default", plain(config), {}, {})
    for name in STAGES:
        manifest.write(run_dir)
        declared: StageConfig = config.pipeline.stages[name]
        execute(name, project / "nbs" / declared.notebook, run_dir)
        made = {a: artifact_record(run_dir / "artifacts" / a, run_dir, True) for a in declared.outputs}
        manifest.stages[name] = StageRecord(declared.notebook, "done", artifacts=made)
    return run_dir / "artifacts"


QUICK = [("lightgbm", "binary"), ("linear", "multiclass")]  # the network: below
COMBINATIONS = [(model, task) for model in ("tabm", "lightgbm", "linear") for task in TARGETS]


@pytest.mark.parametrize(
    ("model", "task"), [pytest.param(*c, marks=[] if c in QUICK else pytest.mark.nightly) for c in COMBINATIONS]
)
def test_every_model_learns_every_task(model: str, task: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    others = [target for target in TARGETS.values() if target != TARGETS[task]]
    customers().drop(others).write_csv(tmp_path / "toy.csv")
    project = new(tmp_path, f"toy_{model}_{task}", tmp_path / "toy.csv", TARGETS[task])
    monkeypatch.setenv("NOTEBENTO_HOME", str(project))
    monkeypatch.delenv("NOTEBENTO_RUNS", raising=False)
    monkeypatch.syspath_prepend(str(project / "src"))
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: plt.close("all"))
    importlib.invalidate_caches()
    made = run(project, compose([f"model={model}", *SMALL]), tmp_path / "run")
    measured = json.loads((made / "metrics.json").read_text())["test"]
    twin = {"lightgbm": "lightgbm", "linear": "linear"}.get(model, "")  # not compared with itself
    assert measured.keys() == {"notebento", "constant", "linear", "lightgbm"} - {twin}
    assert json.loads((made / "comparison.json").read_text())["recommended"]["model"] in measured
    assert Graph.load(made / "model").schema.task == task


# -- with the commands -------------------------------------------------------------------------------------------------

BRIEF = ["trainer.epochs=3", "evaluate.bootstrap=20", "evaluate.not_worse_than=none"]
TABLES = {"patients": (load_breast_cancer, "benign"), "bottles": (load_wine, "cultivar")}
ODD = {
    "mean radius": "a.b",
    "mean texture": "Größe (µm)",
    "mean perimeter": "c=d, [e] {f}",
    "mean area": "self",
    "mean smoothness": "$^$",
    "mean concavity": "it's 100%",
    "worst radius": "x" * 150,
    "worst area": "version",
}


def notebento(project: Path, runs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    path = os.pathsep.join([str(project / "src"), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"NOTEBENTO_RUNS": str(runs), "PYTHONPATH": path}
    command = [sys.executable, "-m", "notebento", *words]
    return subprocess.run(command, cwd=project, env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def beside(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tables ran, each in its project, with one folder of runs."""
    folder = tmp_path_factory.mktemp("tables")
    for name, (data, target) in TABLES.items():
        frame = data(as_frame=True).frame.rename(columns={"target": target, **ODD})
        frame.to_csv(folder / f"{name}.csv", sep=";", decimal=",")  # with the index, as a column without a name
        project = new(folder, name, folder / f"{name}.csv", target, "multiclass" if name == "bottles" else None)
        done = notebento(project, folder / "runs", "run", *BRIEF)
        assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_each_table_has_a_champion_that_predicts_its_own_target(beside: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEBENTO_RUNS", str(beside / "runs"))
    targets, tasks, records = {}, {}, {}
    for name in TABLES:
        monkeypatch.setenv("NOTEBENTO_HOME", str(beside / name))
        registry = Registry.open(compose([]).registry)
        schema = json.loads((registry.bundle("champion") / "schema.json").read_text())
        targets[name], tasks[name], records[name] = schema["target"], schema["task"], schema["record"]
        listed = notebento(beside / name, beside / "runs", "models", "list", "--json")
        (version,) = json.loads(listed.stdout)
        assert version["champion"] and version["version"] == registry.champion()
    assert targets == {"patients": "benign", "bottles": "cultivar"}
    assert tasks == {"patients": "binary", "bottles": "multiclass"}
    assert {*ODD.values()} <= records["patients"].keys()
    assert "column_1" not in records["patients"]  # it only numbers the rows


FIRST_GUESSES = {"iris": 0.9, "wine": 0.9, "breast_cancer": 0.98, "digits": 0.98, "diabetes": 0.25}  # AUC, or R2


@pytest.mark.nightly
@pytest.mark.parametrize("name", FIRST_GUESSES)
def test_a_first_guess_is_good_and_the_better_model_is_recommended(name: str, tmp_path: Path) -> None:
    getattr(datasets, f"load_{name}")(as_frame=True).frame.to_csv(tmp_path / f"{name}.csv", index=False)
    project = new(tmp_path, f"first_{name}", tmp_path / f"{name}.csv", "target")
    done = notebento(project, tmp_path / "runs", "run")
    made = tmp_path / "runs" / "latest" / "artifacts"
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: the gate says that a simple baseline is better
    measured = json.loads((made / "metrics.json").read_text())["test"]
    metric = "rmse" if "rmse" in measured["notebento"] else "log_loss"
    best = min(measured, key=lambda model: measured[model][metric]["value"])
    said = json.loads((made / "comparison.json").read_text())["recommended"]
    assert measured[said["model"]][metric]["value"] == pytest.approx(measured[best][metric]["value"], abs=1e-5)
    good = [said["model"], *said["alike"]]  # the simplest of these is recommended
    assert any(f"recommended: {model}; " in done.stdout for model in good)
    assert measured[said["model"]]["r2" if metric == "rmse" else "auc"]["value"] > FIRST_GUESSES[name]
    if done.returncode == 1:
        assert said["model"] != "notebento" and "worse than" in done.stdout
