"""The notebooks executed, two at a time; one that ran before, with the same code and modules, is not run again."""

import hashlib
import json
import os
import sys
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

import notebento
from notebento.core.artifacts import atomic_write
from notebento.pipeline.code import Project, Sources, recalled

REPOSITORY = Path(__file__).parents[2]
KERNELS, SECONDS = 2, 900  # at once; the longest that a cell may take


def executed_notebooks(folder: Path) -> dict[str, Path]:
    """The executed copy, in `folder`, of each notebook of library and project, by its path in the repository.

    The tour keeps its own outputs. The project's notebooks run on the lab's configuration, with runs of their own in
    `folder`; each computes what it needs.
    """
    project = Project(REPOSITORY)
    library = sorted((REPOSITORY / "library/nbs").rglob("*.ipynb"))
    stages = sorted((REPOSITORY / "nbs").glob("0*.ipynb"))
    places = {path: folder / f"{path.stem}-{_digest(path, project)}.ipynb" for path in [*library, *stages]}
    with ThreadPoolExecutor(KERNELS) as pool:
        list(pool.map(lambda path: _execute(path, places[path], os.environ), library))
    for path in stages:  # one after the other, in one folder
        _execute(path, places[path], os.environ | {"NOTEBENTO_RUNS": str(folder / "runs")})
    return {path.relative_to(REPOSITORY).as_posix(): place for path, place in places.items()}


def _digest(path: Path, project: Project) -> str:
    """What decides a notebook's outputs: its code, and that of the modules that it imports."""
    code, found = recalled(path), Sources(project)
    found.add(name for cell in code.cells for name in cell.imports)
    parts = [path.read_text(encoding="utf-8"), notebento.__version__]
    parts += [cell.meaning for name in sorted(found.modules) for cell in found.modules[name].cells]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]


def _execute(path: Path, place: Path, environment: Mapping[str, str]) -> None:
    if place.exists():
        return
    notebook: Any = nbformat.read(path, as_version=4)
    folder = {"metadata": {"path": str(path.parent)}}
    client = NotebookClient(notebook, timeout=SECONDS, kernel_name="python3", resources=folder)
    try:
        client.execute(env=dict(environment))
    except Exception as e:
        raise SystemExit(f"{path.relative_to(REPOSITORY)} failed: {e}") from e
    with atomic_write(place) as part:
        part.write_text(nbformat.writes(notebook), encoding="utf-8")
    print(place.name, file=sys.stderr)
