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
from edits import Cell, Editor, Notebook, as_bytes, lost_lines, source
from hypothesis import given
from hypothesis import strategies as st

from notebento.core.errors import UserError
from notebento.pipeline.cells import read_notebook, unresolved
from notebento.pipeline.merge import Merged, merge_notebook
from notebento.pipeline.template import render, template

ANSWERS = {"name": "churn", "description": "Who leaves?", "target": "left"}


def is_notebook(content: bytes) -> bool:
    """Whether nbformat finds nothing wrong, and each id is there once."""
    try:
        notebook = json.loads(content)
        ids = [cell["id"] for cell in notebook["cells"]]
        if len({*ids}) == len(ids):
            nbformat.validate(notebook)
    except (ValueError, nbformat.ValidationError):
        return False
    return len({*ids}) == len(ids)


# --- Edits of real notebooks, against git


class Pair(NamedTuple):
    """What two people made of one notebook."""

    base: Notebook
    ours: Notebook
    theirs: Notebook


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


def text_merge(pair: Pair, folder: Path) -> bytes:
    """What git makes of the files."""
    folder.mkdir()
    for name, notebook in pair._asdict().items():
        (folder / name).write_bytes(as_bytes(notebook))
    command = ["git", "merge-file", "-p", "--diff3", "ours", "base", "theirs"]
    return subprocess.run(command, cwd=folder, capture_output=True).stdout


def text_conflicts(merged: bytes) -> int:
    """How many cells the conflicts of a text touch, at least.

    Of the versions in a conflict the one with most cells counts, and a cell with two conflicts once.
    """
    cells, is_counted = 0, False
    sections: list[list[str]] | None = None
    for line in merged.decode().split("\n"):
        if line.startswith("<<<<<<< "):
            sections = [[]]
        elif sections is None:
            is_counted = is_counted and '"cell_type":' not in line
        elif line.startswith(("||||||| ", "=======")):
            sections.append([])
        elif line.startswith(">>>>>>> "):
            begun = max(sum('"cell_type":' in line for line in section) for section in sections)
            goes_on = any(_is_of_the_cell_above(section) for section in sections) or not begun
            cells += begun + (goes_on and not is_counted)
            is_counted, sections = True, None
        else:
            sections[-1].append(line)
    return cells


def _is_of_the_cell_above(section: list[str]) -> bool:
    """Whether it begins with lines of the cell above, other than brackets."""
    said = (line for line in section if line.strip(" {}[],"))
    return '"cell_type":' not in next(said, '"cell_type":')


def measure(n: int, folder: Path) -> Counter[str]:
    """What n generated pairs come to, merged by cells and as text."""
    drawn, found = list(pairs(n)), Counter[str]()
    with ThreadPoolExecutor(2) as pool:
        texts = list(pool.map(text_merge, drawn, (folder / str(i) for i in range(n))))
    for pair, text in zip(drawn, texts, strict=True):
        merged = merge_notebook(*map(as_bytes, pair))
        found["conflicts"] += len({(conflict.place, conflict.line) for conflict in merged.conflicts})
        found["lost"] += len(lost_lines(*pair, json.loads(merged.content)))
        found["invalid"] += not is_notebook(merged.content)
        found["conflicts as text"] += text_conflicts(text)
        found["invalid as text"] += not is_notebook(text)
    print(f"{n} generated pairs: {dict(found)}")
    return found


@pytest.mark.parametrize("n", [200, pytest.param(1000, marks=pytest.mark.nightly)])
def test_generated_edits_lose_no_cell_and_leave_less_than_half_of_the_conflicts_of_text(n: int, tmp_path: Path) -> None:
    found = measure(n, tmp_path)
    assert found["lost"] == found["invalid"] == 0
    assert found["conflicts"] <= found["conflicts as text"] / 2


def test_the_measures_notice_lost_cells_and_conflicts() -> None:
    taken = [lost_lines(*pair, pair.theirs) for pair in pairs(40)]
    assert sum(map(bool, taken)) > 20, "taking the template's notebook loses what the user wrote"
    hunk = '{h}\n    "a"\n||||||| b\n    "b"\n=======\n   "cell_type": 1\n   "cell_type": 2\n>>>>>>> t\n'
    assert text_conflicts(hunk.format(h="<<<<<<< o").encode()) == 3
    twice = '   "cell_type": 1\n' + '<<<<<<< o\n    "a"\n||||||| b\n=======\n>>>>>>> t\n    "c"\n' * 2
    assert text_conflicts(twice.encode()) == 1


# --- Small notebooks of any kind


LINES = ["a = 1", "b = 2", "show(a)", "", "for x in a:", "    b += x", "import c"]


def notebooks(name: str) -> st.SearchStrategy[Notebook]:
    """Cells of few lines, some of which only `name` writes, under few ids."""
    lines = st.sampled_from([*LINES, f"# {name} 1", f"# {name} 2"])
    tags = st.lists(st.sampled_from(["parameters", name]), unique=True)
    cell = st.tuples(
        st.sampled_from(["code", "markdown"]), st.lists(lines, max_size=4), st.sampled_from("0123456789"), tags
    )
    return st.lists(cell, max_size=6, unique_by=lambda drawn: drawn[2]).map(_notebook)


def _notebook(drawn: list[tuple[str, list[str], str, list[str]]]) -> Notebook:
    return {"cells": [_cell(*one) for one in drawn], "metadata": {}, "nbformat": 4, "nbformat_minor": 5}


def _cell(kind: str, lines: list[str], number: str, tags: list[str]) -> Cell:
    text = "\n".join(lines).splitlines(keepends=True)
    cell = {"cell_type": kind, "id": number, "metadata": {"tags": tags} if tags else {}, "source": text}
    return cell | ({"execution_count": None, "outputs": []} if kind == "code" else {})


def marked(notebook: Notebook, **metadata: int) -> bytes:
    """The notebook's file with these metadata: no side is the same to the byte, and nothing is short."""
    return as_bytes(notebook | {"metadata": metadata})


@given(notebooks("user"), notebooks("template"))
def test_what_one_side_did_alone_is_done(base: Notebook, changed: Notebook) -> None:
    assert merge_notebook(as_bytes(base), marked(base, u=1), as_bytes(changed)) == Merged(marked(changed, u=1), [])
    assert merge_notebook(as_bytes(base), as_bytes(changed), marked(base, t=1)) == Merged(marked(changed, t=1), [])


@given(notebooks("user"), notebooks("template"))
def test_what_both_did_is_done_once(base: Notebook, changed: Notebook) -> None:
    merged = merge_notebook(as_bytes(base), marked(changed, u=1), marked(changed, t=1))
    assert merged == Merged(marked(changed, t=1, u=1), [])


@given(notebooks("user"), notebooks("template"))
def test_an_unchanged_side_gives_the_other_to_the_byte(base: Notebook, changed: Notebook) -> None:
    before, now = as_bytes(base), json.dumps(changed).encode()
    assert merge_notebook(before, before, now).content == now
    assert merge_notebook(before, now, before).content == now
    assert merge_notebook(before, now, now).content == now


def contents(content: bytes) -> Counter[tuple[str, str]]:
    return Counter((cell["cell_type"], source(cell)) for cell in json.loads(content)["cells"])


@given(notebooks("both"), notebooks("user"), notebooks("template"))
def test_any_three_notebooks_make_one_with_every_line_of_the_user(
    base: Notebook, ours: Notebook, theirs: Notebook
) -> None:
    merged = merge_notebook(*map(as_bytes, (base, ours, theirs)))
    assert is_notebook(merged.content)
    lines = Counter(
        line for (kind, text), n in contents(merged.content).items() for line in text.split("\n") * n if kind != "raw"
    )
    wanted = Counter(line for cell in ours["cells"] for line in source(cell).split("\n") if line.startswith("# user"))
    assert wanted <= lines
    again = merge_notebook(as_bytes(theirs), merged.content, marked(theirs, t=1))
    assert json.loads(again.content)["cells"] == json.loads(merged.content)["cells"] and again.conflicts == []


@given(notebooks("both"), notebooks("user"), notebooks("template"))
def test_without_conflicts_it_does_not_matter_who_is_who(base: Notebook, ours: Notebook, theirs: Notebook) -> None:
    there = merge_notebook(*map(as_bytes, (base, ours, theirs)))
    back = merge_notebook(*map(as_bytes, (base, theirs, ours)))
    assert bool(there.conflicts) == bool(back.conflicts)
    if not there.conflicts:
        assert contents(there.content) == contents(back.content)


# --- The rules, one by one


def cell(text: str, number: str = "", kind: str = "code", **more: object) -> Cell:
    return _cell(kind, text.split("\n"), number or text[:1], []) | more


def file(*cells: Cell | str, **metadata: object) -> bytes:
    made = [cell(one) if isinstance(one, str) else one for one in cells]
    return as_bytes({"cells": made, "metadata": metadata, "nbformat": 4, "nbformat_minor": 5})


def shown(merged: Merged) -> list[str]:
    """The sources; of a conflict's raw cell, a > and what stands below its first line."""
    cells = read_notebook(merged.content)["cells"]
    return [("> " + c["source"].split("\n", 1)[1]) if c["cell_type"] == "raw" else c["source"] for c in cells]


BASE = file("a = 1", "b = 2", "c = 3")


def test_a_conflict_keeps_the_users_cell_and_adds_the_templates_as_a_raw_one() -> None:
    merged = merge_notebook(BASE, file("a = 1", "b = 20", "c = 3"), file("a = 1", "b = 21", "c = 3"))
    assert shown(merged) == ["a = 1", "b = 20", "> b = 21", "c = 3"]
    added = read_notebook(merged.content)["cells"][2]
    assert added["cell_type"] == "raw" and added["metadata"] == {"tags": ["update-conflict"]}
    [conflict] = merged.conflicts
    assert str(conflict).startswith("code cell 2 (b = 20): you and the template changed it")
    assert unresolved(merged.content) == ["below code cell 2: the template's version of a cell"]
    assert not unresolved(BASE)


def test_two_insertions_at_one_place_are_kept_the_users_first() -> None:
    merged = merge_notebook(BASE, file("a = 1", "u", "b = 2", "c = 3"), file("a = 1", "t", "s", "b = 2", "c = 3"))
    assert shown(merged) == ["a = 1", "u", "t", "s", "b = 2", "c = 3"] and not merged.conflicts


def test_a_cell_that_one_moved_and_the_other_edited_is_edited_in_its_new_place() -> None:
    moved, edited = file("c = 3", "a = 1", "b = 2"), file("a = 1", "b = 2", "c = 30")
    assert shown(merge_notebook(BASE, moved, edited)) == ["c = 30", "a = 1", "b = 2"]
    assert shown(merge_notebook(BASE, edited, moved)) == ["c = 30", "a = 1", "b = 2"]


def test_edits_in_different_lines_of_a_cell_are_both_taken() -> None:
    base = file("a = 1\nb = 2\nc = 3")
    merged = merge_notebook(base, file("a = 10\nb = 2\nc = 3"), file("a = 1\nb = 2\nc = 30"))
    assert shown(merged) == ["a = 10\nb = 2\nc = 30"] and not merged.conflicts


def test_lines_that_merge_to_no_python_are_a_conflict() -> None:
    base, ours, theirs = (
        f"f(\n{more}\n)"
        for more in ("    a=1,\n    b=2,", "    c=3,\n    a=1,\n    b=2,", "    a=1,\n    b=2,\n    c=3,")
    )
    assert shown(merge_notebook(file(base), file(ours), file(theirs))) == [ours, "> " + theirs]
    prose = merge_notebook(*(file(cell(text, kind="markdown")) for text in (base, ours, theirs)))
    assert not prose.conflicts


def test_deleted_and_edited_cells() -> None:
    without, edited = file("a = 1", "c = 3"), file("a = 1", "b = 20", "c = 3")
    by_template = merge_notebook(BASE, edited, without)
    assert shown(by_template) == ["a = 1", "b = 20", "c = 3"]
    assert [str(c) for c in by_template.conflicts] == [
        "code cell 2 (b = 20): you changed it and the template deleted it: yours stays"
    ]
    by_user = merge_notebook(BASE, without, edited)
    assert shown(by_user) == ["a = 1", "> b = 20", "c = 3"] and "it stays deleted" in by_user.conflicts[0].what
    assert shown(merge_notebook(BASE, without, file("a = 10", "b = 2", "c = 3"))) == ["a = 10", "c = 3"]


@pytest.mark.parametrize("ids", ["ab", "xa", "xy"])
def test_an_edit_goes_into_its_half_of_a_split_cell(ids: str) -> None:
    whole = "import a\nx = a.read(1)\n\ny = x.mean()\nshow(y)"
    halves = [cell("import a\nx = a.read(1)", ids[0]), cell("y = x.mean()\nshow(y)", ids[1])]
    merged = merge_notebook(
        file(whole, "z"), file(*halves, "z"), file(cell(whole.replace("show(y)", "print(y)"), "i"), "z")
    )
    assert shown(merged) == ["import a\nx = a.read(1)", "y = x.mean()\nprint(y)", "z"] and not merged.conflicts


def test_an_edit_goes_into_a_joined_cell() -> None:
    merged = merge_notebook(BASE, file(cell("a = 1\nb = 2", "x"), "c = 3"), file("a = 1", "b = 20", "c = 3"))
    assert shown(merged) == ["a = 1\nb = 20", "c = 3"] and not merged.conflicts


def test_ids_that_a_tool_counted_from_the_top_do_not_mislead() -> None:
    base, ours = (
        [cell(s, f"cell-{i}") for i, s in enumerate("abc")],
        [cell(s, f"cell-{i}") for i, s in enumerate("uabc")],
    )
    merged = merge_notebook(file(*base), file(*ours), file(*base[:2], cell("c = 1", "cell-2")))
    assert shown(merged) == ["u", "a", "b", "c = 1"] and not merged.conflicts and is_notebook(merged.content)


def test_a_notebook_without_ids_and_one_with_a_copied_cell_end_with_ids_of_their_own() -> None:
    old = json.loads(BASE) | {"nbformat_minor": 4}
    for one in old["cells"]:
        del one["id"]
    merged = merge_notebook(BASE, as_bytes(old), file("a = 1", "b = 20", "c = 3"))
    assert shown(merged) == ["a = 1", "b = 20", "c = 3"] and is_notebook(merged.content)
    assert is_notebook(
        merge_notebook(BASE, file("a = 1", "a = 5", "b = 2", "c = 3"), file("a = 2", "b = 2", "c = 3")).content
    )


def test_tags_and_metadata_of_both_survive() -> None:
    plain, parameters = cell("a = 1"), cell("a = 1", metadata={"tags": ["parameters"]})
    hidden = cell("a = 1", metadata={"tags": ["hide"], "name": "mine"})
    merged = merge_notebook(
        file(plain, k={"x": 1, "y": 1}), file(hidden, k={"x": 2, "y": 1}), file(parameters, k={"x": 3, "y": 3})
    )
    notebook = json.loads(merged.content)
    assert notebook["cells"][0]["metadata"] == {"tags": ["hide", "parameters"], "name": "mine"}
    assert notebook["metadata"] == {"k": {"x": 2, "y": 3}}
    assert [conflict.place for conflict in merged.conflicts] == ["metadata.k.x"]


def test_outputs_go_with_their_source() -> None:
    output = [{"name": "stdout", "output_type": "stream", "text": ["1\n"]}]
    ran = cell("a = 1", outputs=output, execution_count=3)
    kept = merge_notebook(file("a = 1", "b = 2"), file(ran, "b = 2"), file("a = 1", "b = 20"))
    assert json.loads(kept.content)["cells"][0] == ran
    changed = merge_notebook(file("a = 1", "b = 2"), file(ran, "b = 2"), file("a = 11", "b = 2"))
    assert json.loads(changed.content)["cells"][0]["outputs"] == []


def test_what_both_moved_apart_stays_where_the_user_put_it() -> None:
    base = file(*"abcdef")
    merged = merge_notebook(base, file(*"bcdefa"), file(*"bcadef"))
    assert shown(merged) == [*"bcdefa"] and "moved it" in merged.conflicts[0].what


def test_an_update_after_an_unresolved_one_leaves_its_cells_alone() -> None:
    theirs = file("a = 1", "b = 21", "c = 3")
    first = merge_notebook(BASE, file("a = 1", "b = 20", "c = 3"), theirs)
    second = merge_notebook(theirs, first.content, file("a = 10", "b = 21", "c = 3"))
    assert shown(second) == ["a = 10", "b = 20", "> b = 21", "c = 3"] and not second.conflicts


def test_a_file_that_both_added_and_one_that_is_no_notebook() -> None:
    merged = merge_notebook(b"", file("a = 1", "u"), file("a = 1", "t"))
    assert shown(merged) == ["a = 1", "u", "t"]
    with pytest.raises(UserError, match="nbs/x.ipynb is not a notebook"):
        merge_notebook(BASE, b"<<<<<<< ours\n", file("t"), "nbs/x.ipynb")


def test_a_tag_reaches_the_half_of_a_split_cell_that_has_most_of_it() -> None:
    whole, halves = "run_dir = 1\nseed = 2\nshow(run_dir)", ["run_dir = 1\nseed = 2", "show(run_dir)"]
    tagged = cell(whole, "i", metadata={"tags": ["parameters"]})
    merged = merge_notebook(file(cell(whole, "i")), file(*(cell(half, half[0]) for half in halves)), file(tagged))
    cells = read_notebook(merged.content)["cells"]
    assert [one["source"] for one in cells] == halves
    assert [one["metadata"] for one in cells] == [{"tags": ["parameters"]}, {}]


@pytest.mark.parametrize("damage", [{"metadata": None}, {"metadata": {"tags": "x"}}, {"id": 5}, {"outputs": None}])
def test_what_a_tool_left_out_of_a_cell_is_no_traceback(damage: dict[str, object]) -> None:
    merged = merge_notebook(BASE, file(cell("a = 1", **damage), "b = 2", "c = 3"), file("a = 1", "b = 20", "c = 3"))
    assert shown(merged) == ["a = 1", "b = 20", "c = 3"]
    assert is_notebook(merged.content)
