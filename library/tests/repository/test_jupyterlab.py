"""This repository's notebooks in JupyterLab, in a browser; their pictures are in build/notebooks/flights."""

import os
import shutil
from pathlib import Path

import pytest
from lab import Lab, browser, jupyterlab

pytestmark = pytest.mark.server


def faults(notebooks: list[str], repository: Path, folder: Path) -> list[str]:
    """What is wrong with notebooks that were run, from what the lab run computed; nothing is saved."""
    if (known := repository / "runs/cache").is_dir():
        shutil.copytree(known, folder / "runs/cache")
    own = os.environ | {"NOTEBENTO_RUNS": str(folder / "runs"), "NOTEBENTO_HOME": str(repository)}
    with jupyterlab(repository, folder / "jupyter", own) as address, browser(folder / "profile") as chromium:
        return [*Lab(address, chromium).run_each(notebooks, repository / "build/notebooks/flights")]


def test_the_tour_runs_from_top_to_bottom(repository: Path, tmp_path: Path) -> None:
    assert faults(["nbs/index.ipynb"], repository, tmp_path) == []


@pytest.mark.nightly
def test_every_notebook_runs_from_top_to_bottom(repository: Path, tmp_path: Path) -> None:
    stages = sorted(f"nbs/{path.name}" for path in (repository / "nbs").glob("[0-9]*.ipynb"))
    assert faults(stages, repository, tmp_path) == []
