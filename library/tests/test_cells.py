"""The cells of the library's notebooks are short, and what they export is shown."""

import ast
import json
import math
import statistics
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import pytest

NOTEBOOKS = Path(__file__).parents[1] / "nbs"
MAX_LINES = 40
MEDIAN = 10
NINETIETH = 25  # nine in ten
SHOWN = 0.86  # of the public names; the target is 0.9
MAX_IMPORTS = 32  # lines of the exported imports of a notebook; the target is 20, a third of a screen of 60
# The notebook and the first name of the cells that are longer still. No entry may be added.
LONG_CELLS: set[tuple[str, str]] = set()


@cache
def notebooks() -> dict[str, list[str]]:
    """The sources of the code cells of every notebook that exports a module."""
    paths = sorted(p for p in NOTEBOOKS.glob("*/*.ipynb") if not p.parent.name.startswith((".", "_")))
    return {p.relative_to(NOTEBOOKS).as_posix(): _code(p) for p in paths}


def _code(path: Path) -> list[str]:
    cells = json.loads(path.read_text())["cells"]
    return ["".join(c["source"]) for c in cells if c["cell_type"] == "code"]


def is_exported(source: str) -> bool:
    return source.startswith("#| export")


@cache
def body(source: str) -> list[ast.stmt]:
    return ast.parse("\n".join(line for line in source.splitlines() if not line.startswith(("%", "!")))).body


def only_imports(source: str) -> bool:
    return all(isinstance(statement, ast.Import | ast.ImportFrom) for statement in body(source))


def lines(source: str) -> int:
    """The lines of a cell, its directives aside."""
    return len([line for line in source.strip().splitlines() if not line.startswith("#|")])


def defined(source: str) -> list[str]:
    """The names that a cell defines, in order."""
    names = []
    for statement in body(source):
        if isinstance(statement, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.append(statement.name)
        elif isinstance(statement, ast.Assign):
            names += [n.id for t in statement.targets for n in getattr(t, "elts", [t]) if isinstance(n, ast.Name)]
        elif isinstance(statement, ast.AnnAssign) and isinstance(statement.target, ast.Name):
            names.append(statement.target.id)
    return names


def exported() -> Iterator[tuple[str, str]]:
    """The notebook and the source of every exported cell that holds more than imports."""
    for name, cells in notebooks().items():
        yield from ((name, c) for c in cells if is_exported(c) and not only_imports(c))


def public_names() -> Iterator[tuple[str, str, bool]]:
    """Notebook, name, and whether a later cell uses it that is not exported."""
    for notebook, cells in notebooks().items():
        for i, cell in enumerate(cells):
            later = [n for c in cells[i + 1 :] if not is_exported(c) for s in body(c) for n in ast.walk(s)]
            used = {n.id for n in later if isinstance(n, ast.Name)}
            names = [n for n in defined(cell) if is_exported(cell) and not n.startswith("_")]
            yield from ((notebook, name, name in used) for name in names)


def unshown() -> str:
    return "\n".join(f"{notebook}: {name}" for notebook, name, is_shown in public_names() if not is_shown)


def test_no_exported_cell_is_long_but_those_that_always_were() -> None:
    long = {(notebook, (defined(cell) or [""])[0]) for notebook, cell in exported() if lines(cell) > MAX_LINES}
    assert long - LONG_CELLS == set(), f"more than {MAX_LINES} lines: split them, one idea a cell"
    assert LONG_CELLS - long == set(), "these are short now: strike them from LONG_CELLS"


def test_most_exported_cells_are_short() -> None:
    lengths = sorted(lines(cell) for _, cell in exported())
    assert statistics.median(lengths) <= MEDIAN
    assert lengths[math.ceil(0.9 * len(lengths)) - 1] <= NINETIETH


def test_public_names_are_shown_in_an_example() -> None:
    shown = [is_shown for _, _, is_shown in public_names()]
    assert sum(shown) / len(shown) >= SHOWN, f"no later cell uses these:\n{unshown()}"


@pytest.mark.parametrize("notebook", notebooks())
def test_the_imports_of_a_notebook_fit_a_third_of_a_screen(notebook: str) -> None:
    imports = sum(lines(c) for c in notebooks()[notebook] if is_exported(c) and only_imports(c))
    assert imports <= MAX_IMPORTS
