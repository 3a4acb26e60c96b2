"""What a user and the authors of a template do to a notebook, drawn at random."""

import copy
import json
import random
from collections import Counter
from typing import Any

Cell = dict[str, Any]
Notebook = dict[str, Any]


def source(cell: Cell) -> str:
    return "".join(cell["source"])


def as_bytes(notebook: Notebook) -> bytes:
    """A notebook's file, as nbdev_clean writes it."""
    return (json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()


class Editor:
    """Someone who edits notebooks in JupyterLab. Each line that they write bears their name and a number."""

    def __init__(self, name: str, draws: random.Random) -> None:
        self.name, self.draws, self.written = name, draws, 0

    def edit(self, base: Notebook, times: int) -> Notebook:
        """A copy of `base` with `times` edits; one in twenty comes back from a tool that gives every cell a new id."""
        notebook = copy.deepcopy(base)
        for _ in range(times):
            edits = [self.insert, self.delete, self.change, self.change, self.move, self.split, self.join]
            self.draws.choice(edits)(notebook["cells"])
        if self.draws.random() < 0.05:
            for cell in notebook["cells"]:
                cell["id"] = self.new_id()
        return notebook

    def new_id(self) -> str:
        return f"{self.draws.getrandbits(32):08x}"

    def line(self) -> str:
        self.written += 1
        words = " ".join(self.draws.choices(["rows", "model", "score", "split", "table", "rate"], k=3))
        return f"# {self.name} {self.written}: {words}"

    def insert(self, cells: list[Cell]) -> None:
        text = "\n".join(self.line() for _ in range(self.draws.randint(1, 4)))
        cell = {"cell_type": "markdown", "id": self.new_id(), "metadata": {}, "source": text.splitlines(keepends=True)}
        if self.draws.random() < 0.6:
            cell |= {"cell_type": "code", "execution_count": None, "outputs": []}
        cells.insert(self.draws.randint(0, len(cells)), cell)

    def delete(self, cells: list[Cell]) -> None:
        if len(cells) > 1:
            cells.pop(self.draws.randrange(len(cells)))

    def change(self, cells: list[Cell]) -> None:
        """Rewrite a line, add some or delete one."""
        cell = self.draws.choice(cells)
        lines = source(cell).split("\n")
        at = self.draws.randrange(len(lines))
        kind = self.draws.choice(["rewrite", "add", "delete"])
        if kind == "add" or len(lines) == 1:
            lines[at:at] = [self.line() for _ in range(self.draws.randint(1, 3))]
        elif kind == "rewrite":
            lines[at] = self.line()
        else:
            lines.pop(at)
        cell["source"] = "\n".join(lines).splitlines(keepends=True)

    def move(self, cells: list[Cell]) -> None:
        """Carry one or two neighbours elsewhere."""
        at, size = self.draws.randrange(len(cells)), self.draws.randint(1, 2)
        carried, cells[at : at + size] = cells[at : at + size], []
        to = self.draws.randint(0, len(cells))
        cells[to:to] = carried

    def split(self, cells: list[Cell]) -> None:
        """In two at a line; blank lines at the cut go."""
        at = self.draws.randrange(len(cells))
        lines = source(cells[at]).split("\n")
        if len(lines) < 2:
            return
        cut = self.draws.randint(1, len(lines) - 1)
        halves = ["\n".join(half).strip("\n") for half in (lines[:cut], lines[cut:])]
        kept = self.draws.choice([0, 1, None])  # JupyterLab's releases differ in which half keeps the id
        ids = [cells[at]["id"] if n == kept else self.new_id() for n in range(2)]
        sources = [half.splitlines(keepends=True) for half in halves]
        cells[at : at + 1] = [cells[at] | {"id": i, "source": s} for i, s in zip(ids, sources, strict=True)]

    def join(self, cells: list[Cell]) -> None:
        """Two neighbours of one kind, with a blank line between paragraphs."""
        kin = [i for i in range(len(cells) - 1) if cells[i]["cell_type"] == cells[i + 1]["cell_type"]]
        if not kin:
            return
        at = self.draws.choice(kin)
        border = "\n" if cells[at]["cell_type"] == "code" else "\n\n"
        text = source(cells[at]) + border + source(cells[at + 1])
        cell = cells[at] | {"id": self.draws.choice([cells[at]["id"], self.new_id()])}
        cells[at : at + 2] = [cell | {"source": text.splitlines(keepends=True)}]


def lost_lines(base: Notebook, ours: Notebook, theirs: Notebook, merged: Notebook) -> list[str]:
    """Those of the user's cells that are not found again in `merged`.

    A cell is found when it is there verbatim, or when it was the template's and the template changed or deleted it.
    Otherwise the lines that the user wrote have to stand in their order in one cell, or in neighbours (at most three)
    after a split, beside most of those lines of the template that the cell had and the template still has; and none of
    these may be gone.
    """
    kinds = [(cell["cell_type"], source(cell)) for cell in merged["cells"]]
    before, new = ([(cell["cell_type"], source(cell)) for cell in notebook["cells"]] for notebook in (base, theirs))
    known, offered = (Counter(line for _, text in texts for line in text.split("\n")) for texts in (before, new))
    lost = []
    for cell in ours["cells"]:
        kind, text = cell["cell_type"], source(cell)
        if (kind, text) in kinds or ((kind, text) in before and (kind, text) not in new):
            continue
        lines = [line for line in text.split("\n") if line.strip()]
        own = [line for line in lines if line not in known]
        kept = Counter(line for line in lines if line in known and offered[line] >= known[line])
        live = [other.split("\n") for k, other in kinds if k == kind]
        runs = [[line for other in live[i : i + 3] for line in other] for i in range(len(live))]
        found = any(_contains(run, own) and 2 * (kept & Counter(run)).total() >= kept.total() for run in runs)
        if not found or kept - Counter(line for other in live for line in other):
            lost.append(text)
    return lost


def _contains(lines: list[str], own: list[str]) -> bool:
    """Whether `own` are among `lines`, in their order."""
    rest = iter(lines)
    return all(line in rest for line in own)
