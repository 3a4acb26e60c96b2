"""A picture never fails a stage: values at the edge of their type, drawn or explained."""

import io

import numpy as np
import polars as pl
import pytest
from matplotlib.figure import Figure

from notebento.core.config import DataConfig
from notebento.data.plots import plot_columns, plot_parts
from notebento.data.split import split_at
from notebento.evaluation.plots import result_plots
from notebento.training.trainer import loss_curves

ODD = {
    "a float step apart": pl.Series("x", [1.0, np.nextafter(1.0, 2.0)] * 20),
    "huge": pl.Series("x", [1e300, -1e300] * 20),
    "infinite": pl.Series("x", [np.inf, -np.inf, 0.0, 1.0] * 10),
    "subnormal": pl.Series("x", [5e-324, 0.0] * 20),
    "not a number": pl.Series("x", [np.nan, 1.0] * 20),
    "the largest integers": pl.Series("x", [2**63 - 1, -(2**63)] * 20),
    "the end of the calendar": pl.Series("x", ["0001-01-01", "9999-12-31"] * 20).str.to_datetime("%Y-%m-%d"),
    "the last day": pl.Series("x", ["9999-12-31"] * 40).str.to_datetime("%Y-%m-%d"),
    "dollars": pl.Series("x", ["$a_{", "\\frac$"] * 20),
}


def shown(figure: Figure) -> bytes:
    """The picture as a page shows it."""
    figure.savefig(page := io.BytesIO(), format="png", bbox_inches="tight")
    return page.getvalue()


@pytest.mark.parametrize("name", ODD)
def test_columns_are_drawn_or_explained(name: str) -> None:
    assert shown(plot_columns(ODD[name].to_frame(), ["x"], "toy"))


@pytest.mark.parametrize("name", ["the end of the calendar", "the last day"])
def test_parts_are_drawn_or_explained(name: str) -> None:
    rows = pl.DataFrame({"row": range(40), "at": ODD[name], "y": [0, 1] * 20})
    split = split_at(DataConfig(target="y", validation_share=0.3, test_share=0.3), rows)
    assert shown(plot_parts(rows, DataConfig(target="y", time="at"), split))


@pytest.mark.parametrize(
    "answer", [np.full(40, 1e300), np.linspace(1, np.nextafter(1.0, 2.0), 40), np.full(40, np.inf)]
)
def test_predicted_numbers_are_drawn_or_explained(answer: np.ndarray) -> None:
    (figure,) = result_plots("regression", np.linspace(-1e300, 1e300, 40), {"notebento": answer}).values()
    assert shown(figure)


def test_an_empty_and_a_constant_history_are_drawn() -> None:
    assert shown(loss_curves([])) and shown(loss_curves([{"epoch": 1, "loss": np.inf, "validation_loss": 1e300}] * 2))


def test_answers_of_one_class_are_drawn() -> None:
    answers = {"notebento": np.full(9, 0.3), "logistic": np.linspace(0, 1, 9)}
    assert all(shown(figure) for figure in result_plots("binary", np.zeros(9, int), answers).values())
    alone = {"notebento": np.full(9, 0.3)}
    assert all(shown(figure) for figure in result_plots("binary", np.zeros(9, int), alone).values())
