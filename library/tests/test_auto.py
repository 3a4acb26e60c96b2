"""Every model for every task and size, and several of them as one: planned, held out, weighed, in one graph."""

import hashlib
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import msgspec
import numpy as np
import polars as pl
import pytest
from test_model import Loop, odd, run

from notebento.core.config import TrainerConfig, build
from notebento.core.errors import UserError
from notebento.evaluation.leaderboard import Leaderboard, leaderboard, simpler
from notebento.models.base import HeldOut, Rows, joined, load_fitted
from notebento.models.ensemble import FittedEnsemble
from notebento.training import auto
from notebento.training.auto import Auto
from notebento.training.calibration import calibrate, held_out_answers
from notebento.training.folds import assignments, choose_folds, pairs
from notebento.training.plan import Member, Size, default_budget, make_plan

MEMBERS = {
    "linear": {"_target_": "notebento.models.linear.Linear", "splines": 4},
    "lightgbm": {"_target_": "notebento.models.lightgbm.LightGBM", "num_boost_round": 40},
    "trees": {"_target_": "notebento.models.forest.ExtraTrees", "trees": 20},
    "tabm": {"_target_": "networks.TabM", "k": 2, "width": 16, "bins": 4},
}
TASKS = ("binary", "multiclass", "regression")
FEW_EPOCHS = TrainerConfig(epochs=2, wandb="disabled")


def made_up(task: str, rows: int, seed: int = 0) -> Rows:
    """A table with gaps, a word, and a target that depends on both numbers and the word."""
    rng = np.random.default_rng(seed)
    x, word = rng.normal(size=(rows, 3)), rng.integers(0, 3, rows)
    score = x[:, 0] + np.abs(x[:, 1]) + word - 1.7
    target = {"binary": score > 0, "multiclass": np.array(["a", "b", "c"])[np.digitize(score, (-0.7, 0.7))]}
    frame = pl.DataFrame(x, schema=["x0", "x1", "x2"]).with_columns(
        x2=pl.when(pl.Series(rng.random(rows) < 0.9)).then("x2"),
        word=pl.Series(np.array(["S", "M", "L"])[word]),
        y=pl.Series(target.get(task, 100 + 10 * score)),
    )
    schema = {"task": task, "target": "y", "numeric": ["x0", "x1", "x2"], "categorical": ["word"]}
    return Rows.from_frame(frame, schema | {"classes": ["a", "b", "c"] if task == "multiclass" else None})


def trainer(tmp_path: Path, settings: TrainerConfig = FEW_EPOCHS) -> auto.StepTrainer:
    return auto.StepTrainer(settings, 7, 1, tmp_path)


def loss(rows: Rows, answer: np.ndarray) -> float:
    assert rows.target is not None
    return float(auto.answer_losses(rows.inputs.task, answer, rows.target).mean())


def check_model(node: dict, rows: Rows, tmp_path: Path) -> float:
    """Fit, save, load and export; returns the loss on new rows, as a share of a constant's."""
    cut = len(rows) * 4 // 5
    fitted = build(node).fit(rows[:cut], rows[cut:], trainer(tmp_path))
    fitted, _ = calibrate(fitted, rows[cut:])
    fresh = made_up(rows.inputs.task, 300, seed=1)
    strange = odd(fresh)
    fitted.save(tmp_path)
    expected = fitted.predict(strange)
    assert (load_fitted(tmp_path).predict(strange) == expected).all() and np.isfinite(expected).all()
    scale = np.maximum(1, np.abs(expected))
    assert max((np.abs(run(fitted.to_onnx(), strange, size) - expected) / scale).max() for size in (1, 7, 1024)) < 1e-5
    target = rows.target
    mean = np.bincount(target, minlength=3) / len(rows) if rows.inputs.task == "multiclass" else target.mean()
    return loss(fresh, fitted.predict(fresh)) / loss(fresh, np.broadcast_to(mean, (300, *np.shape(mean))))


@pytest.mark.process
@pytest.mark.parametrize("rows", [30, 300])
@pytest.mark.parametrize("task", TASKS)
@pytest.mark.parametrize("model", ["linear", "lightgbm", "trees"])
def test_every_model_learns_every_task_from_few_rows(model, task, rows, tmp_path):
    share = check_model(MEMBERS[model], made_up(task, rows), tmp_path)
    assert share < (1.5 if rows == 30 else 0.7)  # of thirty rows one must not expect much


@pytest.mark.process
@pytest.mark.parametrize(("task", "rows"), [("binary", 30), ("multiclass", 300), ("regression", 300)])
def test_all_together_learn_every_task(task, rows, tmp_path):
    members = {name: node for name, node in MEMBERS.items() if name != "tabm" or task == "multiclass"}
    node = {"_target_": "notebento.training.auto.Auto", "members": members, "budget": 0.1}
    assert check_model(node, made_up(task, rows), tmp_path) < (1.05 if rows == 30 else 0.6)


@pytest.mark.nightly
@pytest.mark.parametrize("task", TASKS)
def test_a_million_rows(task, tmp_path):
    rows = made_up(task, 1_000_000)
    members = {name: node for name, node in MEMBERS.items() if name != "tabm"}
    assert check_model({"_target_": "notebento.training.auto.Auto", "members": members}, rows, tmp_path) < 0.5


@pytest.mark.process
def test_the_same_plan_twice_gives_the_same_bytes(tmp_path):
    rows, digests = made_up("multiclass", 90), []
    model = Auto(members=MEMBERS, budget=0.08)  # few steps
    for name in ("first", "again"):
        fitted = model.fit(rows[:70], rows[70:], trainer(tmp_path))
        (tmp_path / name).mkdir()
        fitted.save(tmp_path / name)
        files = sorted(p for p in (tmp_path / name).glob("**/*") if p.is_file())
        found = [(p.relative_to(tmp_path / name).as_posix(), p.read_bytes()) for p in files]
        graph = fitted.to_onnx().SerializeToString(deterministic=True)
        digests.append(hashlib.sha256(repr(found).encode() + graph).hexdigest())
    assert digests[0] == digests[1]


def test_a_plan_depends_on_the_table_and_the_budget_only():
    rows = made_up("binary", 200)
    model = Auto(members=MEMBERS)
    plan = model.plan(rows[:160], rows[160:])
    assert msgspec.json.decode(msgspec.json.encode(plan), type=type(plan)) == plan == model.plan(rows[:160], rows[160:])
    assert plan.folds.kind == "shuffled" and plan.folds.repeats == 3 and "200 rows are fewer" in plan.folds.reason
    assert plan.seconds <= plan.budget == 60 * default_budget(200)


@pytest.mark.parametrize("rows", [30, 1_000, 20_000, 1_000_000])
@pytest.mark.parametrize("task", TASKS)
def test_a_plan_stays_in_its_budget_whatever_the_size(task, rows):
    size = Size(task=task, rows=rows, numbers=50, categories=5, words=500, outputs=3 if task == "multiclass" else 1)
    plan = make_plan(MEMBERS, size, choose_folds(rows, False, False), default_budget(rows), 300)
    assert plan.seconds <= plan.budget <= 1800 and len(plan.members) >= 3
    assert 10 + sum(member.microseconds for member in plan.members) <= 300


def test_a_budget_that_nothing_fits_into_is_an_error_and_a_small_one_leaves_models_out():
    size = Size(task="binary", rows=100_000, numbers=50, categories=0, words=0, outputs=1)
    small = make_plan(MEMBERS, size, choose_folds(size.rows, False, False), 0.05, 300)
    assert small.members and small.left_out and not {member.name for member in small.members} & small.left_out.keys()
    with pytest.raises(UserError, match="no model fits into model.budget=1e-05 minutes"):
        make_plan(MEMBERS, size, choose_folds(size.rows, False, False), 1e-5, 300)


def test_what_was_held_out_is_what_a_fit_without_the_row_says(tmp_path):
    rows = made_up("regression", 60)
    node = {"_target_": "notebento.models.linear.Linear"}
    fitted = Auto(members={"linear": node}).fit(rows[:50], rows[50:], trainer(tmp_path))
    folds = choose_folds(60, False, False)
    expected = np.zeros(60)
    for fold in assignments(folds, rows, 10, 7):
        for learned, held in pairs(folds, fold):
            expected[held] += build(node).fit(rows[learned], rows[held], trainer(tmp_path)).predict(rows[held]) / 3
    assert np.allclose(fitted.held_out.answer, expected)
    shown = held_out_answers(fitted, rows[50:]).to_series().to_numpy()
    assert np.allclose(shown, expected[50:]) and not np.allclose(shown, fitted.predict(rows[50:]))


@pytest.mark.parametrize("tie", ["time", "group"])
def test_folds_look_neither_ahead_nor_at_a_rows_own_group(tie):
    rng = np.random.default_rng(0)
    rows = replace(made_up("binary", 200), **{tie: rng.integers(0, 40, 200)})
    folds = choose_folds(200, tie == "time", tie == "group")
    assert folds.kind == tie
    for fold in assignments(folds, rows, 30, seed=0):
        assert sum(1 for _ in pairs(folds, fold)) == 5
        for learned, held in pairs(folds, fold):
            ties = getattr(rows, tie)
            assert ties[learned].max() < ties[held].min() if tie == "time" else not {*ties[learned]} & {*ties[held]}


def test_many_rows_are_held_out_once():
    rows = made_up("binary", 30)
    folds = choose_folds(20_001, True, False)
    ((learned, held),) = pairs(folds, assignments(folds, rows, 6, seed=0)[0])
    assert held.tolist() == list(range(24, 30)) and learned.tolist() == list(range(24))


def test_a_clock_that_runs_out_stops_the_training_and_says_so(tmp_path):
    rows, members = made_up("binary", 60), dict.fromkeys(("linear", "again"), MEMBERS["linear"])
    fitted = Auto(members=members, patience=1e-9).fit(rows[:50], rows[50:], trainer(tmp_path))
    assert fitted.stopped.startswith("the clock stopped the training") and list(fitted.members) == ["linear"]
    assert not Auto(members=members).fit(rows[:50], rows[50:], trainer(tmp_path)).stopped


def test_several_devices_are_refused(tmp_path):
    rows = made_up("binary", 60)
    settings = msgspec.structs.replace(FEW_EPOCHS, devices=2)
    with pytest.raises(UserError, match="one process"):
        Auto(members=MEMBERS).fit(rows[:50], rows[50:], trainer(tmp_path, settings))


def test_rows_of_both_parts_in_their_order():
    rows = made_up("binary", 10)
    both = joined(rows[:6], rows[6:])
    assert (both.numeric[:, 0] == rows.numeric[:, 0]).all() and (both.target == rows.target).all() and both.time is None


def test_a_graph_of_two_models_has_one_vocabulary():
    rows = made_up("binary", 100)
    fits = {name: [build(MEMBERS[name]).fit(rows, rows, Loop())] for name in ("linear", "trees")}
    graph = FittedEnsemble(rows.inputs, fits, {"linear": 0.5, "trees": 0.5}).to_onnx()
    assert [node.op_type for node in graph.graph.node].count("LabelEncoder") == 1
    assert [i.name for i in graph.graph.input] == ["numeric", "categorical"]


def board_of(answers: dict[str, np.ndarray], weights: dict[str, float]) -> Leaderboard:
    rows = made_up("regression", 400)
    answer = sum(weight * answers[name] for name, weight in weights.items())
    held = HeldOut(np.arange(400), rows.target, answers, answer)
    fitted = SimpleNamespace(held_out=held, shares=weights)
    return leaderboard(fitted, {"train": rows[:300], "validation": rows[300:]}, seed=0)


def test_the_simplest_model_that_is_hardly_worse_is_proposed_as_it_was_tried():
    target, rng = made_up("regression", 400).target, np.random.default_rng(0)
    noise = rng.normal(size=400)
    answers = {"linear": target + noise, "straight": target - noise, "trees": target + noise}
    straight = {"_target_": MEMBERS["linear"]["_target_"], "strength": 3.0}
    members = [Member(name=name, settings=MEMBERS[name]) for name in ("linear", "trees")]
    members.append(Member(name="straight", settings=straight))
    said = simpler(board_of(answers, {"linear": 0.5, "trees": 0.5}), members, repr)
    assert said.startswith("straight alone") and said.endswith(repr(straight))
    alone = board_of(answers, {"linear": 1.0})
    assert simpler(alone, members, repr).startswith("one model answers: linear. straight alone")
    assert "all together" not in alone.table()["model"] and len(alone.table()) == 3
    assert simpler(board_of(answers, {"straight": 1.0}), members, repr) == "one model answers: straight."
    far = answers | {"linear": target + 3 * noise, "straight": target + 1.2 * noise}
    assert simpler(board_of(far, {"trees": 1.0}), members, repr) == "one model answers: trees."


def test_a_network_that_learns_briefly_learns_something(tmp_path):
    rows = made_up("regression", 100)
    settings = TrainerConfig(epochs=1, batch_size=1024, wandb="disabled")  # the plan says how long
    size = Size(task="regression", rows=100, numbers=3, categories=1, words=3, outputs=1)
    (member,) = make_plan({"tabm": MEMBERS["tabm"]}, size, choose_folds(100, False, False), 1, 300).members
    fitted = build(member.settings).fit(rows, rows[:10], auto.trainer_of(trainer(tmp_path, settings), member, 0, True))
    fresh = made_up("regression", 300, seed=1)
    assert loss(fresh, fitted.predict(fresh)) < 0.3 * fresh.target.var()
