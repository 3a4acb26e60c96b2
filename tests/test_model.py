"""The network and how it learns: what the notebooks 03 to 05 decide."""

from pathlib import Path

import numpy as np
import onnxruntime as ort
import pytest
import torch
from notebento.core.compose import compose
from notebento.core.config import TrainerConfig, build
from notebento.models.base import Inputs, Rows, load_fitted
from notebento.models.lightgbm import LightGBM
from notebento.training.callbacks import MovingAverage
from notebento.training.trainer import LightningTrainer
from notebento.training.tune import check_space

from flights.train import Learner, TabM, optimizer, scheduled
from flights.tune import SPACE, objective

SMALL = TrainerConfig(epochs=2, batch_size=64, accelerator="cpu", wandb="disabled")


def rows(n: int, seed: int) -> Rows:
    """Rows whose first number decides, whose second is missing now and then, with an outcome beside the label."""
    rng = np.random.default_rng(seed)
    numeric = rng.normal(size=(n, 3)).astype(np.float32)
    minutes = 20 * numeric[:, :1] + rng.normal(size=(n, 1)).astype(np.float32)
    numeric[rng.random(n) < 0.2, 1] = np.nan
    places = rng.choice(["EWR", "JFK", "LGA"], size=(n, 1)).astype(object)
    columns = {"numeric": ("x", "y", "z"), "categorical": ("place",), "auxiliary": {"minutes": (15.0,)}}
    inputs = Inputs(task="binary", target="late", classes=(False, True), **columns)
    return Rows(inputs, numeric, places, (minutes[:, 0] > 0).astype(np.int64), minutes)


def test_every_shipped_model_is_built() -> None:
    assert isinstance(build(compose(["model=tabm"]).model), TabM)
    assert isinstance(build(compose(["model=lightgbm"]).model), LightGBM)


def test_the_network_learns_and_answers_as_its_graph_does(tmp_path: Path) -> None:
    trainer = LightningTrainer(SMALL, 1, 1, tmp_path)
    fitted = TabM(width=16, blocks=1, lr=0.02).fit(rows(1024, 0), rows(256, 1), trainer)
    asked = rows(256, 2)
    answers = fitted.predict(asked)
    assert np.mean((answers > 0.5) == asked.target) > 0.85
    fitted.save(tmp_path)
    again = load_fitted(tmp_path)
    assert (again.predict(asked) == answers).all()
    session = ort.InferenceSession(again.to_onnx().SerializeToString(), providers=["CPUExecutionProvider"])
    (graph,) = session.run(None, {"numeric": asked.numeric, "categorical": asked.categorical})
    assert np.abs(graph - answers).max() < 1e-5


def test_columns_share_a_table_of_embeddings_and_no_row_of_it() -> None:
    network = TabM(width=8).network(features=0, flags=0, sizes=[3, 5], outputs=1).eval()
    assert network.start.tolist() == [0, 3] and len(network.words.weight) == 8
    codes = torch.tensor([[2, 0], [2, 4]])
    network.words.weight.data[3:7] += 1  # the second column's codes 0 to 3
    before = network(torch.empty(2, 0), torch.empty(2, 0), codes)
    network.words.weight.data[3] += 1
    after = network(torch.empty(2, 0), torch.empty(2, 0), codes)
    assert (before[0] != after[0]).all() and (before[1] == after[1]).all()


def test_biases_do_not_decay() -> None:
    settings = TabM()
    network = settings.network(3, 1, [4], 1)
    decayed, free = optimizer(network, settings.lr, settings.weight_decay).param_groups
    assert decayed["weight_decay"] == settings.weight_decay and free["weight_decay"] == 0
    assert len(decayed["params"]) + len(free["params"]) == len(list(network.parameters()))
    assert {tuple(p.shape) for p in free["params"]} == {(3, 4, 1), (128,), (4, 1)}


def test_schedule_and_average_follow_the_trainers_settings() -> None:
    plain = TrainerConfig(schedule="constant", ema_decay=0.0)
    adamw = torch.optim.AdamW([torch.zeros(1, requires_grad=True)], lr=1.0)
    assert scheduled(adamw, plain, 100) is adamw
    schedule = scheduled(adamw, TrainerConfig(), 100)["lr_scheduler"]["scheduler"]
    assert schedule.get_last_lr() == [pytest.approx(1 / 25, rel=0.1)]  # warming up
    averages = [
        Learner(TabM(), torch.nn.Linear(1, 1), rows(1, 0).inputs, s).configure_callbacks() for s in (plain, SMALL)
    ]
    assert averages[0] == [] and [type(callback) for callback in averages[1]] == [MovingAverage]


def test_the_search_space_fits_the_shipped_model() -> None:
    config = compose()
    assert config.tune.space is None  # the notebook's
    check_space(SPACE, config.model, config.trainer)


def test_the_objective_is_smaller_for_a_model_that_learnt_more(tmp_path: Path) -> None:
    train, validation = rows(1024, 0), rows(256, 1)
    lazy, eager = (
        TabM(width=16, blocks=1, lr=lr).fit(train, validation, LightningTrainer(SMALL, 1, 1, tmp_path))
        for lr in (1e-5, 0.02)
    )
    assert objective(eager, validation) < objective(lazy, validation)
