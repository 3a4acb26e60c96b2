"""Two tables of one's own beside each other: each project name has a ledger, a champion and a service of its own."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
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
        assert "column 'column_1' only numbers the rows and is left out; data.include=[column_1]" in done.stdout
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
