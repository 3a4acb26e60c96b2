"""What holds for every notebook and every experiment of the project."""

import ast
import json
from pathlib import Path
from typing import Any

import pytest
from notebento.core.compose import compose, project_root
from notebento.core.stage import order

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
EXPERIMENTS = sorted((ROOT / "conf/experiment").glob("*.yaml"))


def cells(notebook: Path) -> list[dict[str, Any]]:
    """The code cells."""
    found = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [c | {"source": "".join(c["source"])} for c in found if c["cell_type"] == "code"]


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_a_notebook_names_its_kernel(notebook: Path) -> None:
    """Without one papermill stops with "No kernel name found"."""
    kernel = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["kernelspec"]
    assert (kernel["name"], kernel["language"]) == ("python3", "python")  # JupyterLab has its own display_name


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_parameters_are_single_lines_of_json_types(notebook: Path) -> None:
    """papermill reads them line by line, and silently drops what it cannot read."""
    tagged = [cell["source"] for cell in cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) <= 1
    for statement in ast.parse("\n".join(tagged)).body:
        assert isinstance(statement, ast.Assign)
        assert statement.lineno == statement.end_lineno
        json.dumps(ast.literal_eval(statement.value))


def test_every_stage_has_its_notebook() -> None:
    config = compose([])
    assert project_root() == ROOT
    for name in order(config.pipeline.stages):
        notebook = ROOT / "nbs" / config.pipeline.stages[name].notebook
        (tagged,) = [c["source"] for c in cells(notebook) if "parameters" in c["metadata"].get("tags", [])]
        assert "run_dir" in tagged
        assert f'Stage.open("{name}", overrides, run_dir)' in "".join(c["source"] for c in cells(notebook))


@pytest.mark.parametrize("experiment", EXPERIMENTS, ids=lambda e: e.stem)
def test_an_experiment_composes(experiment: Path) -> None:
    assert compose([f"experiment={experiment.stem}"]).pipeline.stages
