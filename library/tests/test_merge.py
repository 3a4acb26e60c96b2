"""Merging notebooks by cells: whatever a user and the template did, no cell is lost and the notebook opens."""

import json
import random
import subprocess
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from edits import Editor, Notebook, as_bytes, lost_lines

from notebento.pipeline.merge import Conflict, merge_notebook
from notebento.pipeline.template import render, template

ANSWERS = {"name": "churn", "description": "Who leaves?", "target": "left"}
PAIRS = 1000


class Pair(NamedTuple):
    """What two people made of one notebook."""

    base: Notebook
    ours: Notebook
    theirs: Notebook

    @property
    def files(self) -> tuple[bytes, bytes, bytes]:
        return as_bytes(self.base), as_bytes(self.ours), as_bytes(self.theirs)


@cache
def project_notebooks() -> list[Notebook]:
    """Those of a new project."""
    return [json.loads(file) for path, file in render(template(), ANSWERS).items() if path.endswith(".ipynb")]


def pairs(n: int) -> Iterator[Pair]:
    """The first n of the generated pairs: one to six edits on each side."""
    for seed in range(n):
        draws = random.Random(seed)
        base = draws.choice(project_notebooks())
        ours = Editor("user", draws).edit(base, draws.randint(1, 6))
        yield Pair(base, ours, Editor("template", draws).edit(base, draws.randint(1, 6)))


def conflicting_cells(conflicts: list[Conflict]) -> int:
    return len({(conflict.place, conflict.line) for conflict in conflicts})


def text_merge(pair: Pair, folder: Path) -> bytes:
    """What git makes of the files."""
    paths = [folder / name for name in ("ours", "base", "theirs")]
    for path, content in zip(paths, (pair.files[1], pair.files[0], pair.files[2]), strict=True):
        path.write_bytes(content)
    return subprocess.run(["git", "merge-file", "-p", "--diff3", *paths], capture_output=True).stdout


def text_conflicts(merged: bytes) -> int:
    """The cells that conflict hunks touch, the fewest that it can be: of the three versions in a hunk the one with most cells,
    and two hunks in one cell once."""
    cells, started, counted = 0, 0, False
    sections: list[list[str]] | None = None
    for line in merged.decode().split("\n"):
        if line.startswith("<<<<<<< "):
            sections = [[]]
        elif sections is None:
            counted = counted and '"cell_type":' not in line
        elif line.startswith(("||||||| ", "=======")):
            sections.append([])
        elif line.startswith(">>>>>>> "):
            begun = [_touched(section) for section in sections]
            goes_on = any(section for section, _ in begun)
            new = max(starts for _, starts in begun)
            cells += new + (goes_on and not counted) if new or goes_on else not counted
            counted, sections = True, None
        else:
            sections[-1].append(line)
    return cells


def _touched(section: list[str]) -> tuple[bool, int]:
    """Whether lines of the cell above are in it, and how many cells begin."""
    starts = [i for i, line in enumerate(section) if '"cell_type":' in line]
    head = section[: starts[0]] if starts else section
    return any(line.strip(" {}[],") for line in head), len(starts)


def is_notebook(content: bytes) -> bool:
    """Whether nbformat finds nothing wrong: a schema, and ids that are there once."""
    try:
        notebook = json.loads(content)
        ids = [cell["id"] for cell in notebook["cells"]]
        if len({*ids}) == len(ids):
            nbformat.validate(notebook)
    except (ValueError, nbformat.ValidationError):
        return False
    return len({*ids}) == len(ids)


def measure(n: int, folder: Path) -> Counter[str]:
    """What n generated pairs come to, merged by cells and as text."""
    found: Counter[str] = Counter()
    drawn = list(pairs(n))
    for number, pair in enumerate(drawn):
        (folder / str(number)).mkdir()
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(lambda i: text_merge(drawn[i], folder / str(i)), range(n)))
    for pair, text in zip(drawn, texts, strict=True):
        merged = merge_notebook(*pair.files)
        found["conflicts"] += conflicting_cells(merged.conflicts)
        found["lost"] += len(lost_lines(*pair, json.loads(merged.content)))
        found["invalid"] += not is_notebook(merged.content)
        found["text conflicts"] += text_conflicts(text)
        found["text invalid"] += not is_notebook(text)
    return found


def test_generated_edits_lose_no_cell_and_leave_half_of_the_conflicts_of_text(tmp_path: Path) -> None:
    found = measure(200, tmp_path)
    print(found)
    assert found["lost"] == found["invalid"] == 0
    assert found["conflicts"] <= found["text conflicts"] / 2


@pytest.mark.nightly
def test_a_thousand_generated_edits(tmp_path: Path) -> None:
    found = measure(PAIRS, tmp_path)
    print(found)
    assert found["lost"] == found["invalid"] == 0
    assert found["conflicts"] <= found["text conflicts"] / 2
