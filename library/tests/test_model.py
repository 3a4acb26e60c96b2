"""The seam of `models`: trees and a network, every task, saved, loaded and as a graph."""

import hashlib
import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import lightgbm
import numpy as np
import onnxruntime as ort
import polars as pl
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from networks import TabM
from onnx import TensorProto, helper
from sklearn.datasets import load_breast_cancer, load_diabetes, load_iris, load_wine

from notebento.core.config import TrainerConfig, build
from notebento.core.errors import UserError
from notebento.evaluation.baselines import Resources
from notebento.models.base import Inputs, Rows, check_rows, combine, load_fitted
from notebento.models.distillation import mix_targets, out_of_fold
from notebento.models.forest import ExtraTrees
from notebento.models.lightgbm import LightGBM, parse_trees
from notebento.models.linear import Linear
from notebento.models.network import AnswerModule, TableNetwork
from notebento.models.preparation import fit_scale
from notebento.models.tabm import Embedding, answer_loss, fit_bins, members_loss
from notebento.models.vocabulary import Vocabulary, with_vocabulary

DATA = {"breast_cancer": load_breast_cancer, "iris": load_iris, "wine": load_wine, "diabetes": load_diabetes}
TASK = {"breast_cancer": "binary", "iris": "multiclass", "wine": "multiclass", "diabetes": "regression"}
MODELS = {
    "tabm": TabM(k=3, width=24, bins=6, blocks=2, min_count=3, lr=5e-3),
    "lightgbm": LightGBM(num_boost_round=40, min_data_in_leaf=5, min_count=3, cat_smooth=1.0),
    "trees": ExtraTrees(trees=30, min_count=3),
    "linear": Linear(splines=4, min_count=3),
}


class Loop:
    """A plain training loop."""

    def __init__(self, seed: int = 0, epochs: int = 8) -> None:
        self.settings = TrainerConfig(schedule="constant")
        self.seed, self.threads, self.work, self.epochs = seed, 1, Path(), epochs

    def fit(self, module, train, validation):
        torch.manual_seed(self.seed)
        optimizer, history = module.configure_optimizers(), []
        for epoch in range(self.epochs):
            module.train()
            for index in torch.randperm(len(train)).split(32):
                optimizer.zero_grad()
                module.training_step(train[index]).backward()
                optimizer.step()
            with torch.no_grad():
                loss = module.eval().validation_step(validation[slice(None)])
            history.append({"epoch": float(epoch + 1), "validation_loss": float(loss)})
        return history


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def table(name: str, numeric: bool = True, categorical: bool = True) -> tuple[Rows, Rows]:
    """Training and validation rows of a real data set, with gaps, frequent and rare words."""
    x, y = DATA[name](return_X_y=True)
    rng = np.random.default_rng(0)
    names = [f"x{j}" for j in range(x.shape[1])]
    sizes = np.array(["S", "M", "L", "Ü/東"])[np.searchsorted(np.quantile(x[:, 1], [0.3, 0.6, 0.8]), x[:, 1])]
    frame = pl.DataFrame(x, names).with_columns(
        pl.when(pl.Series(rng.random(len(x)) < 0.8)).then("x0").alias("x0"),
        size=pl.Series(sizes),
        note=pl.Series([None if u < 0.4 else "S" if u < 0.9 else f"rare {u}" for u in rng.random(len(x))]),
        y=pl.Series(y if TASK[name] == "regression" else np.array(["a", "b", "c"])[y]),
    )
    classes = None if TASK[name] == "regression" else sorted(frame["y"].unique())
    schema = {"task": TASK[name], "target": "y", "classes": classes}
    schema |= {"numeric": names if numeric else [], "categorical": ["size", "note"] if categorical else []}
    frame = frame.sample(fraction=1, shuffle=True, seed=1)
    return Rows.from_frame(frame[::2], schema), Rows.from_frame(frame[1::2], schema)


def odd(rows: Rows) -> Rows:
    """`rows`, the first of them spoilt in every way that a caller can think of."""
    numeric, categorical = rows.numeric.copy(), rows.categorical.copy()
    numeric[0], categorical[0] = np.nan, ""
    for i, value in enumerate((np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-40, -0.0), start=1):
        numeric[i] = value
    for i, word in enumerate(("never seen", "", "rare 3", "S", "Ü/東", "s", " S"), start=1):
        categorical[i] = word
    for j in range(numeric.shape[1]):  # one gap in each column, also in those that had none
        numeric[8 + j % 20, j] = np.nan
    return replace(rows, numeric=numeric, categorical=categorical, target=None)


def run(graph, rows: Rows, size: int = 1024) -> np.ndarray:
    """The graph's answers, in batches of `size`."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = 1
    session = ort.InferenceSession(graph.SerializeToString(), options, providers=["CPUExecutionProvider"])
    known = {i.name for i in session.get_inputs()}
    parts = []
    for i in range(0, len(rows), size):
        feed = {"numeric": rows.numeric[i : i + size], "categorical": rows.categorical[i : i + size]}
        parts.append(session.run(None, {k: v for k, v in feed.items() if k in known})[0])
    return np.concatenate(parts)


def quality(rows: Rows, answer: np.ndarray) -> float:
    if rows.inputs.task == "regression":
        return 1 - np.mean((answer - rows.target) ** 2) / np.var(rows.target)
    return np.mean((answer.argmax(1) if answer.ndim == 2 else answer > 0.5) == rows.target)


CASES = [
    ("breast_cancer", True, True, 0.92),
    ("wine", True, True, 0.85),
    ("iris", True, False, 0.85),
    ("diabetes", True, True, 0.25),
    ("breast_cancer", False, True, 0.6),
]


@pytest.mark.process
@pytest.mark.parametrize("model", MODELS)
@pytest.mark.parametrize(("name", "numeric", "categorical", "least"), CASES)
def test_fit_predict_save_and_graph(name, numeric, categorical, least, model, tmp_path):
    train, validation = table(name, numeric, categorical)
    fitted = MODELS[model].fit(train, validation, Loop(epochs=30)).with_temperature(1.7)
    assert quality(validation, fitted.predict(validation)) > least
    history = [record["validation_loss"] for record in fitted.history]  # of those that learn in rounds
    assert not history or min(history) < history[0] * 1.001

    rows = odd(validation)
    expected = fitted.predict(rows)
    fitted.save(tmp_path)
    assert (load_fitted(tmp_path).predict(rows) == expected).all()
    assert not [f for f in tmp_path.iterdir() if f.suffix not in {".json", ".safetensors", ".txt"}]

    assert np.isfinite(expected).all()
    graph = fitted.to_onnx()
    unit = np.std(train.target) if train.inputs.task == "regression" else 1.0
    for size in (1, 2, 7, 64, 1024):
        assert np.abs(run(graph, rows, size) - expected).max() / unit < 1e-5
    assert [i.name for i in graph.graph.input] == ["numeric"] * numeric + ["categorical"] * categorical
    assert [o.name for o in graph.graph.output] == ["prediction" if name == "diabetes" else "probability"]


@pytest.mark.parametrize("model", MODELS)
def test_answers_sum_to_one_and_ranks_survive_a_temperature(model):
    train, validation = table("iris", categorical=False)
    fitted = MODELS[model].fit(train, validation, Loop(epochs=2))
    assert fitted.predict(validation).shape == (len(validation), 3)
    assert np.allclose(fitted.predict(validation).sum(1), 1)
    assert fitted.temperature == 1 and fitted.with_temperature(3).temperature == 3
    assert fitted.predict(validation).max() > fitted.with_temperature(3).predict(validation).max()
    back = fitted.with_temperature(3).with_temperature(1)
    assert (back.predict(validation) == fitted.predict(validation)).all()


def graph_digests() -> str:
    """A line for each model: the digest of its graph after a short training."""
    train, validation = table("wine")
    graphs = {name: model.fit(train, validation, Loop(epochs=1)).to_onnx() for name, model in MODELS.items()}
    return "".join(f"{n} {hashlib.sha256(g.SerializeToString()).hexdigest()}\n" for n, g in graphs.items())


@pytest.mark.process
def test_another_process_makes_the_same_graph():
    program = (
        "import torch; torch.set_num_threads(1); torch.rand(3); import test_model; print(test_model.graph_digests())"
    )
    command = [sys.executable, "-W", "ignore", "-c", program]
    other = subprocess.run(command, capture_output=True, text=True, check=True, cwd=Path(__file__).parent)
    assert other.stdout.strip() == graph_digests().strip() and len(other.stdout.split()) == 2 * len(MODELS)


@pytest.mark.parametrize("model", MODELS)
def test_the_same_seed_gives_the_same_bytes_and_leaves_the_callers_numbers_alone(model, tmp_path):
    train, validation = table("breast_cancer")
    digests = {}
    for run_, seed in (("first", 1), ("again", 1), ("other", 2)):
        folder = tmp_path / run_
        folder.mkdir()
        MODELS[model].fit(train, validation, Loop(seed, epochs=1)).save(folder)
        digests[run_] = {f.name: hashlib.sha256(f.read_bytes()).hexdigest() for f in sorted(folder.iterdir())}
    assert digests["first"] == digests["again"]
    assert (digests["again"] != digests["other"]) is (model != "linear")  # which draws nothing
    torch.manual_seed(5)
    wanted = torch.rand(3)
    torch.manual_seed(5)
    load_fitted(tmp_path / "first").predict(validation)
    assert torch.equal(torch.rand(3), wanted)


@pytest.mark.process
def test_nothing_in_the_graph_says_where_it_was_made():
    train, validation = table("iris", categorical=False)
    graph = TabM(k=2, width=8, bins=2).fit(train, validation, Loop(epochs=1)).to_onnx()
    content = graph.SerializeToString()
    assert not [trace for trace in (b"site-packages", b"stack_trace", bytes(Path.cwd())) if trace in content]


words = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
pairs = st.tuples(words, words)


@settings(max_examples=25, deadline=None)
@given(st.lists(pairs, min_size=1, max_size=30), st.lists(pairs, min_size=1, max_size=9))
def test_vocabulary_in_the_graph_codes_as_in_python(known, asked):
    vocabulary = Vocabulary.fit(np.array(known, object), min_count=1 + len(known) // 10)
    codes = helper.make_tensor_value_info("codes", TensorProto.INT64, ["n", 2])
    answer = helper.make_tensor_value_info("answer", TensorProto.INT64, ["n", 2])
    body = helper.make_graph([helper.make_node("Identity", ["codes"], ["answer"])], "g", [codes], [answer])
    model = helper.make_model(body, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    rows = np.array([*asked, *known[:5]], object)
    session = ort.InferenceSession(with_vocabulary(model, vocabulary).SerializeToString())
    assert (session.run(None, {"categorical": rows})[0] == vocabulary.encode(rows)).all()
    assert [len(c) for c in vocabulary.columns] == [s - 1 for s in vocabulary.sizes]


def test_a_rare_word_and_a_strange_one_are_the_same():
    vocabulary = Vocabulary.fit(np.array([["a"], ["a"], ["b"]], object), min_count=2)
    assert vocabulary.encode(np.array([["a"], ["b"], ["z"], [""]], object)).tolist() == [[1], [0], [0], [0]]


def test_scale_of_strange_columns():
    n = 400
    columns = np.full((n, 5), np.nan, np.float32)
    columns[:, 1] = 7  # constant
    columns[:, 2] = np.r_[np.zeros(n - 4), [1, 2, 3, np.inf]]  # quartiles agree
    columns[::2, 3] = columns[::2, 4] = 5  # the same gaps twice: one flag
    scale = fit_scale(columns, clip=5.0)
    scaled, flags = scale(torch.from_numpy(columns))
    assert scaled.isfinite().all() and scaled.abs().max() <= 5
    assert scale.flagged.tolist() == [3] and flags[:, 0].tolist() == [0.0, 1.0] * (n // 2)
    assert scaled[:, 0].eq(0).all() and scaled[:, 1].eq(0).all()
    embedding = Embedding(5, bins=4, d=2)
    fit_bins(embedding, scaled.numpy(), np.isfinite(columns), clip=5.0)
    torch.nn.init.normal_(embedding.pieces)
    assert embedding(torch.tensor([[9e9] * 5, [-9e9] * 5]).clamp(-5, 5)).isfinite().all()


def test_a_gap_where_training_saw_none_is_the_median():
    train, validation = table("breast_cancer")
    fitted = MODELS["tabm"].fit(train, validation, Loop(epochs=2))
    rows = replace(validation, numeric=validation.numeric.copy())
    rows.numeric[:, 3] = np.nan
    gap = fitted.predict(rows)
    rows.numeric[:, 3] = fitted.prepare.scale.center[3]
    assert np.abs(fitted.predict(rows) - gap).max() < 1e-6


def test_losses_are_those_of_the_members_and_of_the_answer():
    rng = np.random.default_rng(0)
    z, y = rng.normal(size=(50, 3, 1)), rng.integers(0, 2, 50)
    p = 1 / (1 + np.exp(-z[..., 0]))
    each = -np.where(y[:, None] == 1, np.log(p), np.log(1 - p))
    answer = combine("binary", z[..., 0])
    together = -np.where(y == 1, np.log(answer), np.log(1 - answer))
    logits, target = torch.tensor(z), torch.tensor(y, dtype=torch.float64)
    assert float(members_loss("binary", logits, target)) == pytest.approx(each.mean())
    assert float(answer_loss("binary", logits, target)) == pytest.approx(together.mean())

    z, y = rng.normal(size=(50, 3, 4)), rng.integers(0, 4, 50)
    chosen = np.exp(z)[np.arange(50), :, y] / np.exp(z).sum(2)
    assert float(members_loss("multiclass", torch.tensor(z), torch.tensor(y))) == pytest.approx(-np.log(chosen).mean())
    answer = combine("multiclass", z)[np.arange(50), y]
    assert float(answer_loss("multiclass", torch.tensor(z), torch.tensor(y))) == pytest.approx(-np.log(answer).mean())


def test_combine_does_not_overflow():
    assert combine("binary", np.array([[1e4, 1e4], [-1e4, -1e4]])).tolist() == [1, 0]
    assert combine("multiclass", np.array([[[1e4, -1e4]]])).tolist() == [[1, 0]]
    assert combine("regression", np.array([[1.0, 3.0]]), temperature=9).tolist() == [2]


@pytest.mark.process
def test_auxiliary_outcomes_are_learnt_and_stay_home(tmp_path):
    x, y = load_diabetes(return_X_y=True)
    names = [f"x{j}" for j in range(x.shape[1])]
    grade = pl.Series(np.where(y > 300, np.nan, y)).fill_nan(None)
    frame = pl.DataFrame(x, names).with_columns(sick=pl.Series(y > 150), grade=grade)
    schema = {"task": "binary", "target": "sick", "numeric": names, "categorical": []}
    schema["auxiliary"] = {"grade": [100, 200]}
    rows = Rows.from_frame(frame, schema)
    outcomes = MODELS["tabm"].fit(rows, rows, Loop(epochs=6))
    tensors = outcomes.prepare(rows).tensors["auxiliary"]
    assert tensors.shape == (len(y), 2) and tensors.isnan().all(1).sum() == (y > 300).sum()
    assert tensors[y <= 300].mean(0).numpy() == pytest.approx([(y[y <= 300] >= t).mean() for t in (100, 200)])
    assert outcomes.network.output.weight.shape[2] == 3 and AnswerModule(outcomes).network.output.weight.shape[2] == 1
    with torch.no_grad():
        logits = outcomes.network(*(outcomes.prepare(rows).tensors[n] for n in ("scaled", "flags", "codes")))
    assert np.corrcoef(logits[..., 2].mean(1), y >= 200)[0, 1] > 0.4  # it has learnt the outcome
    blind = Rows.from_frame(frame.drop("sick", "grade"), schema)
    assert np.abs(run(outcomes.to_onnx(), blind) - outcomes.predict(blind)).max() < 1e-5
    outcomes.save(tmp_path)
    assert (load_fitted(tmp_path).predict(blind) == outcomes.predict(rows)).all()


def test_trees_agree_on_and_beside_every_threshold():
    train, validation = table("wine")
    fitted = MODELS["lightgbm"].fit(train, validation, Loop())
    cuts = []
    for tree in parse_trees(fitted.text):
        number = tree["decision_type"].astype(int) & 1 == 0
        cuts += zip(tree["split_feature"][number].astype(int), tree["threshold"][number], strict=True)
    numeric = np.repeat(validation.numeric[:1], 3 * len(cuts), axis=0)
    for i, (feature, cut) in enumerate(cuts):
        for j, step in enumerate((-np.inf, cut, np.inf)):
            numeric[3 * i + j, feature] = np.nextafter(np.float32(cut), np.float32(step))
    rows = Rows(validation.inputs, numeric, np.repeat(validation.categorical[:1], len(numeric), axis=0))
    assert len(cuts) > 50 and np.abs(run(fitted.to_onnx(), rows) - fitted.predict(rows)).max() < 1e-5


def test_trees_with_many_categories_and_trees_without_a_question():
    rng = np.random.default_rng(0)
    n = 4000
    place = rng.integers(0, 90, n)
    late = rng.random(n) < 0.2 + 0.5 * (place % 3 == 0)
    numeric = rng.normal(size=(n, 1)).astype(np.float32)
    inputs = Inputs(task="binary", target="late", numeric=("x",), categorical=("place",))
    words = np.array([[f"place {p}"] for p in place], object)
    rows = Rows(inputs, numeric, words, late.astype(np.int64))
    fitted = LightGBM(num_boost_round=20, min_data_in_leaf=20, min_count=30, cat_smooth=1.0).fit(rows, rows, Loop())
    assert max(len(t.get("cat_threshold", ())) for t in parse_trees(fitted.text)) >= 3  # sets beyond 64 codes
    asked = replace(rows, categorical=np.concatenate([words[:-2], [["nowhere"], [""]]]))
    assert np.abs(run(fitted.to_onnx(), asked) - fitted.predict(asked)).max() < 1e-5

    coin = replace(rows, target=rng.integers(0, 2, n))
    stump = LightGBM(num_boost_round=3, min_data_in_leaf=n).fit(coin, coin, Loop())
    assert all(len(t["leaf_value"]) == 1 for t in parse_trees(stump.text))
    assert np.abs(run(stump.to_onnx(), coin) - stump.predict(coin)).max() < 1e-5


def test_trees_remember_which_side_gaps_take():
    rng = np.random.default_rng(0)
    numeric = rng.normal(size=(3000, 2)).astype(np.float32)
    numeric[rng.random(3000) < 0.3, 0] = np.nan  # the first column has gaps in training, the second only later
    late = np.where(np.isnan(numeric[:, 0]), rng.random(3000) < 0.8, numeric.sum(1) > 0).astype(np.int64)
    inputs = Inputs(task="binary", target="late", numeric=("a", "b"), categorical=())
    rows = Rows(inputs, numeric, np.empty((3000, 0), object), late)
    fitted = LightGBM(num_boost_round=30, min_data_in_leaf=20).fit(rows, rows, Loop())
    asked = np.array([[np.nan, 1], [1, np.nan], [np.nan, np.nan], [0, 0], [-1, -1e-45]], np.float32)
    asked = Rows(inputs, asked, np.empty((5, 0), object))
    booster = lightgbm.Booster(model_str=fitted.text)
    assert run(fitted.to_onnx(), asked) == pytest.approx(booster.predict(asked.numeric), abs=1e-6)


def test_data_that_nothing_can_be_learnt_from():
    train, validation = table("breast_cancer")
    with pytest.raises(UserError, match="no labelled training rows") as e:
        check_rows(replace(train, numeric=train.numeric[:0], target=train.target[:0]), validation)
    assert e.value.exit_status == 2
    for model in MODELS.values():
        with pytest.raises(UserError, match="no labelled validation rows"):
            model.fit(train, replace(validation, target=None), Loop())
        with pytest.raises(UserError, match="have the same 'y'"):
            model.fit(replace(train, target=np.zeros_like(train.target)), validation, Loop())
        with pytest.raises(UserError, match="has no features"):
            model.fit(*table("breast_cancer", numeric=False, categorical=False), Loop())
    with pytest.raises(UserError, match="does not contain a fitted model"):
        load_fitted(Path("nowhere"))


def test_a_saved_network_names_its_settings_and_is_built_from_them(tmp_path):
    train, validation = table("wine")
    MODELS["tabm"].fit(train, validation, Loop(epochs=1)).save(tmp_path)
    facts = json.loads((tmp_path / "model.json").read_text())
    assert (facts["settings"]["_target_"], facts["settings"]["width"]) == ("networks.TabM", 24)
    assert load_fitted(tmp_path).settings == MODELS["tabm"]
    (tmp_path / "model.json").write_text(json.dumps(facts | {"settings": {"_target_": "networks.TabN"}}))
    with pytest.raises(UserError, match=r"_target_ 'networks.TabN': module 'networks' has no attribute 'TabN'"):
        load_fitted(tmp_path)


def test_settings_that_do_not_say_what_the_network_is():
    class Nothing(TableNetwork, frozen=True):
        pass

    with pytest.raises(NotImplementedError, match="Nothing must implement network"):
        Nothing().fit(*table("iris", categorical=False), Loop())


def test_a_network_without_an_output_layer_cannot_be_exported():
    fitted = MODELS["tabm"].fit(*table("iris", categorical=False), Loop(epochs=1))
    del fitted.network.output
    with pytest.raises(UserError, match="Network has no layer `output`"):
        fitted.to_onnx()


def test_a_baseline_cannot_be_a_network(tmp_path):
    with pytest.raises(UserError, match="a baseline cannot be a network"):
        MODELS["tabm"].fit(*table("iris", categorical=False), Resources(0, 1, tmp_path))


def test_a_misspelt_setting_is_named():
    with pytest.raises(UserError, match="no field 'widht'. Did you mean 'width'"):
        build({"_target_": "networks.TabM", "widht": 3})


@pytest.mark.process
def test_the_seam_and_trees_need_no_torch():
    program = """
import sys, notebento.models.base, notebento.models.lightgbm, notebento.models.bundle, notebento.training.calibration
heavy = {"torch", "pytorch_lightning", "matplotlib"} & set(sys.modules)
assert not heavy, heavy
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", program], check=True)


def test_a_fitted_model_whose_class_is_gone(tmp_path):
    (tmp_path / "model.json").write_text('{"class": "yours.FittedPrior"}')
    with pytest.raises(
        UserError, match=r"written by yours.FittedPrior, which cannot be imported: No module named 'yours'"
    ):
        load_fitted(tmp_path)


def test_columns_that_do_not_fit_the_schema():
    schema = {"task": "binary", "target": "y", "numeric": ["delay"], "categorical": ["carrier"]}
    frame = pl.DataFrame({"delay": [1.0], "carrier": ["UA"], "y": [1]})
    with pytest.raises(UserError, match="'carrier' that is not in the table. Did you mean 'carriers'"):
        Rows.from_frame(frame.rename({"carrier": "carriers"}), schema)
    with pytest.raises(UserError, match=r"'y' contains 2, .* \[0, 1\]"):
        Rows.from_frame(frame.with_columns(y=2), schema)
    rows = Rows.from_frame(frame.drop("y"), schema)
    assert rows.target is None and len(rows) == 1
    assert Rows.from_frame(frame[:0], schema).numeric.shape == (0, 1)


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "diabetes"])
def test_a_teacher_answers_only_for_rows_that_it_did_not_see(name):
    train, validation = table(name)
    classes = train.inputs.outputs
    asked = 0

    class ByHeart:
        def fit(self, train, validation, trainer):
            self.seen = {row.tobytes() for row in train.numeric}
            return self

        def predict(self, rows):
            nonlocal asked
            asked += len(rows)
            assert self.seen.isdisjoint(row.tobytes() for row in rows.numeric)
            return np.zeros((len(rows), classes) if classes > 1 else len(rows))

    distinct = train[np.unique(train.numeric, axis=0, return_index=True)[1]]
    answers = out_of_fold(ByHeart(), distinct, validation, Loop(), folds=3)
    assert asked == len(distinct) == len(answers)
    labels = np.eye(classes)[distinct.target] if classes > 1 else distinct.target
    assert np.allclose(mix_targets(distinct, answers, 0.75).target, labels / 4)


@pytest.mark.parametrize("name", ["breast_cancer", "wine", "diabetes"])
def test_what_a_teacher_says_is_learnt(name):
    """A student of nothing but its teacher agrees with it, also where the labels say otherwise."""
    train, validation = table(name)
    teacher = {"_target_": "notebento.models.lightgbm.LightGBM", "num_boost_round": 40, "min_data_in_leaf": 5}
    student = TabM(k=2, width=24, bins=4, lr=5e-3, min_count=3, teacher=teacher, distillation_weight=1.0).fit(
        train, validation, Loop()
    )
    teacher = build(teacher).fit(train, validation, Loop())
    ours, theirs = (np.ravel(m.predict(validation)) for m in (student, teacher))
    assert np.corrcoef(ours, theirs)[0, 1] > 0.85
