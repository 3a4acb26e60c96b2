"""A table of one's own: every shipped model with every task, through the notebooks of this project, in this process."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest
from matplotlib import pyplot as plt
from notebento.core.artifacts import Manifest, StageRecord, artifact_record
from notebento.core.compose import compose, project_root
from notebento.core.config import Config, StageConfig, plain
from notebento.models.bundle import Graph

STAGES = ("data", "features", "train", "export", "evaluate")
SMALL = ["project.name=toy", "trainer.wandb=disabled", "trainer.epochs=4", "evaluate.bootstrap=20", "evaluate.gate={}"]
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


def configured(folder: Path, table: pl.DataFrame, task: str, *overrides: str) -> Config:
    """The configuration of a run on `table`, of whose targets only that of `task` is kept."""
    others = [target for target in TARGETS.values() if target != TARGETS[task]]
    table.drop(others, strict=False).write_csv(folder / "toy.csv")
    about = [f"data.source.path={folder}/toy.csv", f"data.target={TARGETS[task]}"]
    return compose(["experiment=table", *about, *SMALL, *overrides])


def execute(stage: str, declared: StageConfig, run_dir: Path) -> None:
    """The cells of a stage's notebook, as a kernel would run them."""
    notebook = json.loads((project_root() / "nbs" / declared.notebook).read_text(encoding="utf-8"))
    names: dict[str, Any] = {"__name__": stage, "display": lambda *_, **__: None}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            source = "".join(cell["source"])
            tagged = "parameters" in cell["metadata"].get("tags", ())
            exec(f"overrides, run_dir = [], {str(run_dir)!r}" if tagged else source, names)


def run(config: Config, run_dir: Path) -> Path:
    """The stages of the default pipeline up to the evaluation, one after the other; the folder of their artifacts."""
    manifest = Manifest("toy", "running", "", False, [], "default", plain(config), {}, {})
    for name in STAGES:
        manifest.write(run_dir)
        declared = config.pipeline.stages[name]
        execute(name, declared, run_dir)
        made = {a: artifact_record(run_dir / "artifacts" / a, run_dir, True) for a in declared.outputs}
        manifest.stages[name] = StageRecord(declared.notebook, "done", artifacts=made)
    return run_dir / "artifacts"


@pytest.fixture(autouse=True)
def no_windows(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("NOTEBENTO_RUNS", str(tmp_path / "runs"))
    monkeypatch.setattr("matplotlib.pyplot.show", lambda: plt.close("all"))


QUICK = [("lightgbm", "binary"), ("linear", "multiclass")]  # the network: library/tests/repository/test_tables.py
COMBINATIONS = [(model, task) for model in ("table", "tabm", "lightgbm", "linear") for task in TARGETS]


@pytest.mark.parametrize(
    ("model", "task"), [pytest.param(*c, marks=[] if c in QUICK else pytest.mark.nightly) for c in COMBINATIONS]
)
def test_every_model_learns_every_task(model: str, task: str, tmp_path: Path) -> None:
    made = run(configured(tmp_path, customers(), task, f"model={model}"), tmp_path / "run")
    measured = json.loads((made / "metrics.json").read_text())["test"]
    twin = {"lightgbm": "lightgbm", "linear": "linear"}.get(model, "")  # not compared with itself
    assert measured.keys() == {"notebento", "constant", "linear", "lightgbm"} - {twin}
    assert json.loads((made / "comparison.json").read_text())["recommended"]["model"] in measured
    assert Graph.load(made / "model").schema.task == task
