"""Differences between artifacts and runs: random values, damaged files, a cache that forgot."""

import json
import tempfile
from io import StringIO
from pathlib import Path

import polars as pl
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from notebento.core.artifacts import Manifest, StageRecord, artifact_record, save
from notebento.pipeline.cache import Cache
from notebento.pipeline.compare import compare, first_difference, table_change
from notebento.pipeline.comparison import blocks, renderable

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=3),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=2), inner, max_size=3),
    max_leaves=8,
)


@settings(max_examples=100, deadline=None)
@given(VALUES, VALUES)
def test_json_differs_where_it_differs(one, two):
    with tempfile.TemporaryDirectory() as folder:
        a, b = (save(Path(folder) / n / "x.json", v) for n, v in (("a", one), ("b", two)))
        found = first_difference(a, b)
        assert bool(found) == (json.dumps(one, sort_keys=True) != json.dumps(two, sort_keys=True))
        assert "differently" not in found


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 9), min_size=1, max_size=9), st.data())
def test_a_table_differs_at_the_first_row(values, data):
    row = data.draw(st.integers(0, len(values) - 1))
    changed = [*values[:row], values[row] + 1, *reversed(values[row + 1 :])]
    with tempfile.TemporaryDirectory() as folder:
        tables = [pl.DataFrame({"same": range(len(v)), "x": v}) for v in (values, changed)]
        a, b = (save(Path(folder) / f"{n}" / "x.parquet", t) for n, t in enumerate(tables))
        assert f"column x, row {row}: {values[row]} and {values[row] + 1}" in first_difference(a, b)
        assert first_difference(a, a) == ""


def test_damaged_and_missing_files(tmp_path):
    a = save(tmp_path / "a.parquet", pl.DataFrame({"x": [1]}))
    (b := tmp_path / "b.parquet").write_bytes(a.read_bytes()[:-20])
    assert first_difference(a, b).startswith("byte ")
    assert first_difference(a, tmp_path / "c") == f"{tmp_path / 'c'} is missing"
    one, two = save(tmp_path / "one.json", {"x": 1}), tmp_path / "two.json"
    two.write_text('{\n "x": ')
    assert first_difference(one, two) == "line 2: ' \"x\": 1' and ' \"x\": '"


def run_of(folder: Path, rows: pl.DataFrame, lr: float) -> Path:
    """A run with a snapshot of two tables, of which one is `rows`."""
    save(folder / "artifacts" / "snapshot" / "flights.parquet", rows)
    save(folder / "artifacts" / "snapshot" / "planes.parquet", pl.DataFrame({"id": [1]}))
    made = {"snapshot": artifact_record(folder / "artifacts" / "snapshot", folder, compared=True)}
    stages = {
        "data": {"groups": ["data"], "outputs": ["snapshot"]},
        "train": {"groups": ["model"], "inputs": ["snapshot"]},
    }
    config = {
        "data": {"key": ["id"]},
        "model": {"lr": lr, "k": 4},
        "serve": {"port": lr},
        "pipeline": {"stages": stages},
    }
    records = {
        "data": StageRecord("02_data.ipynb", "done", f"d{lr}", artifacts=made),
        "train": StageRecord("06_train.ipynb", "done", f"t{lr}", inputs={"snapshot": made["snapshot"].digest}),
    }
    Manifest(folder.name, "done", "", True, [f"model.lr={lr}"], "x", config, {}, records).write(folder)
    return folder


def test_two_runs_of_which_the_cache_knows_nothing(tmp_path):
    old = run_of(tmp_path / "old", pl.DataFrame({"id": [1, 2, 3], "delay": [5, None, 7]}), 0.1)
    new = run_of(tmp_path / "new", pl.DataFrame({"id": [3, 2, 4], "delay": [7, 1, 2]}), 0.2)
    why = compare(old, new, Cache(tmp_path / "cache"))
    assert why.stages == {
        "data": ["another key, for a reason that is not recorded"],
        "train": ["model.lr", "input snapshot"],
    }
    assert [(c.name, c.old, c.new, c.stages) for c in why.config] == [("model.lr", 0.1, 0.2, ["train"])]
    (table,) = why.tables  # planes.parquet is the same
    assert (table.table, table.rows, table.added, table.removed) == ("snapshot/flights.parquet", (3, 3), 1, 1)
    assert [(c.column, c.changed) for c in table.columns] == [("delay", 1), ("id", 0)]
    assert why.notes == [f"the cells of data, train in {run} are not in the cache any more" for run in ("old", "new")]
    assert why.artifacts == []


def test_rows_that_cannot_be_matched_by_key_are_matched_by_position(tmp_path):
    a = save(tmp_path / "a.parquet", pl.DataFrame({"id": [1, 1], "x": [1.0, 2.0]}))
    b = save(tmp_path / "b.parquet", pl.DataFrame({"id": [1, 1], "x": ["1", "2"]}))
    found = table_change("t", a, b, ["id"])
    assert (found.added, found.removed, [c.changed for c in found.columns]) == (0, 0, [2])
    assert found.note == "column x is Float64 and String"


def test_long_lists_are_cut(tmp_path):
    wide = {f"c{i}": [i] for i in range(40)}
    old = run_of(tmp_path / "old", pl.DataFrame({"id": [1], **wide}), 0.1)
    new = run_of(tmp_path / "new", pl.DataFrame({"id": [1], **{c: [-1] for c in wide}}), 0.2)
    console = Console(width=100, record=True, file=StringIO())
    console.print(renderable(blocks(compare(old, new, Cache(tmp_path / "cache")))))
    assert "… and 28 more" in console.export_text()
