"""Two tables of one's own beside each other: each project name has a ledger, a champion and a service of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn import datasets
from sklearn.datasets import load_breast_cancer, load_wine

from notebento.core.compose import compose, project_root
from notebento.core.errors import UserError
from notebento.registry.registry import Registry

pytestmark = pytest.mark.process

QUICK = ["trainer.epochs=3", "evaluate.bootstrap=20", "evaluate.not_worse_than=none"]
TABLES = {
    "patients": (load_breast_cancer, ["data.target=benign"]),
    "bottles": (load_wine, ["data.target=cultivar"]),
}
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


def notebento(runs: Path, *words: str) -> subprocess.CompletedProcess[str]:
    environment = os.environ | {"NOTEBENTO_RUNS": str(runs)}
    command = [sys.executable, "-m", "notebento", *words]
    return subprocess.run(command, cwd=project_root(), env=environment, capture_output=True, text=True, timeout=600)


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both tables ran, one after the other, in one folder."""
    folder = tmp_path_factory.mktemp("tables")
    for name, (data, options) in TABLES.items():
        frame = data(as_frame=True).frame.rename(columns={"target": options[0].partition("=")[2], **ODD})
        frame.to_csv(folder / f"{name}.csv", sep=";", decimal=",")  # with the index, as a column without a name
        done = notebento(folder / "runs", "run", *overrides(folder, name), *options, *QUICK)
        assert done.returncode == 0, done.stdout + done.stderr
        assert f"notebento serve {' '.join(overrides(folder, name))}" in done.stdout
        assert "column 'column_1' only numbers the rows and is left out; 'data.include=[column_1]'" in done.stdout
    return folder


def overrides(folder: Path, name: str) -> list[str]:
    return ["experiment=table", f"project.name={name}", f"data.source.path={folder / name}.csv"]


def champion(folder: Path, name: str) -> dict[str, object]:
    listed = notebento(folder / "runs", "models", "list", *overrides(folder, name), "--json")
    (version,) = json.loads(listed.stdout)
    assert version["champion"]
    return version


def test_each_table_has_a_champion_that_predicts_its_own_target(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEBENTO_RUNS", str(runs / "runs"))
    targets, tasks, records = {}, {}, {}
    for name in TABLES:
        registry = Registry.open(compose(overrides(runs, name)).registry)
        schema = json.loads((registry.bundle("champion") / "schema.json").read_text())
        targets[name], tasks[name], records[name] = schema["target"], schema["task"], schema["record"]
        assert champion(runs, name)["version"] == registry.champion()
    assert targets == {"patients": "benign", "bottles": "cultivar"}
    assert tasks == {"patients": "binary", "bottles": "multiclass"}
    assert {*ODD.values()} <= records["patients"].keys()
    assert "column_1" not in records["patients"]


def test_a_table_without_a_project_name_is_refused(runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOTEBENTO_RUNS", str(runs / "runs"))
    with pytest.raises(UserError, match=r"project.name is ''"):
        compose(["experiment=table"])


FIRST_GUESSES = {"iris": 0.9, "wine": 0.9, "breast_cancer": 0.98, "digits": 0.98, "diabetes": 0.25}  # AUC, or R2


@pytest.mark.nightly
@pytest.mark.parametrize("name", FIRST_GUESSES)
def test_a_first_guess_is_good_and_the_better_model_is_recommended(name: str, tmp_path: Path) -> None:
    getattr(datasets, f"load_{name}")(as_frame=True).frame.to_csv(tmp_path / f"{name}.csv", index=False)
    done = notebento(tmp_path / "runs", "run", *overrides(tmp_path, name), "data.target=target")
    made = tmp_path / "runs" / "latest" / "artifacts"
    assert done.returncode in (0, 1), done.stdout + done.stderr  # 1: the gate says that a simple baseline is better
    measured = json.loads((made / "metrics.json").read_text())["test"]
    metric = "rmse" if "rmse" in measured["notebento"] else "log_loss"
    best = min(measured, key=lambda model: measured[model][metric]["value"])
    said = json.loads((made / "comparison.json").read_text())["recommended"]
    assert measured[said["model"]][metric]["value"] == pytest.approx(measured[best][metric]["value"], abs=1e-5)
    assert f"recommended: {said['model']}; " in done.stdout
    assert measured[said["model"]]["r2" if metric == "rmse" else "auc"]["value"] > FIRST_GUESSES[name]
    if done.returncode == 1:
        assert said["model"] != "notebento" and "worse than" in done.stdout
