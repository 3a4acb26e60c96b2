"""Metrics against scikit-learn, intervals against the truth, and a gate that says no when it should."""

import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from matplotlib import pyplot as plt
from msgspec.structs import replace as replace_inputs
from sklearn import metrics as sk

from notebento.core.config import BoundConfig, EvaluateConfig
from notebento.core.errors import UserError
from notebento.evaluation.baselines import Resources, compared_in_gate, fit_baselines
from notebento.evaluation.benchmark import (
    benchmark,
    cannot_tell,
    comparable_champion,
    comparison,
    measured_on,
    predictions,
    resamples,
    without_twins,
)
from notebento.evaluation.bootstrap import (
    Binary,
    Regression,
    Resamples,
    Sample,
    answers_of,
    bootstrap,
    day_numbers,
    groups_of_equal_size,
    improvements,
    interval,
    intervals,
    measure,
    too_few,
)
from notebento.evaluation.gate import (
    baseline_checks,
    bound_checks,
    champion_checks,
    champion_obstacle,
    gate_verdict,
    undefined_because,
    unseen_classes,
)
from notebento.evaluation.metrics import METRICS, Improvement, Interval, Metric, directions, headline_names
from notebento.evaluation.plots import reliability_plot
from notebento.evaluation.slices import not_measured, slice_values, slices
from notebento.models.base import Inputs, Rows
from notebento.models.bundle import Signature
from notebento.models.linear import Linear

METRICS_OF_YES_OR_NO = METRICS["binary"]
NAMES = [metric.name for metric in METRICS_OF_YES_OR_NO]


def binary(seed: int, n: int = 400) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    p = rng.beta(1, 3, n).round(2 + seed % 2).clip(0.01, 0.99)  # with ties
    return (rng.random(n) < p).astype(int), p


def naive(task: str, target: np.ndarray, answer: np.ndarray) -> list[float]:
    """The metrics as scikit-learn has them; the calibration error aside."""
    if task == "binary":
        rank = [sk.roc_auc_score(target, answer), sk.average_precision_score(target, answer)]
        return [*rank, sk.log_loss(target, answer), sk.brier_score_loss(target, answer)]
    if task == "multiclass":
        area = sk.roc_auc_score(target, answer, multi_class="ovr")
        return [sk.accuracy_score(target, answer.argmax(1)), area, sk.log_loss(target, answer)]
    error = sk.mean_squared_error(target, answer)
    return [error**0.5, sk.mean_absolute_error(target, answer), sk.r2_score(target, answer)]


def example(task: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng(seed)
    if task == "binary":
        return binary(seed)
    if task == "multiclass":
        p = rng.dirichlet([1, 2, 3], 400)
        return (p.cumsum(1) < rng.random((400, 1))).sum(1), p
    target = rng.normal(5, 3, 400)
    return target, target + rng.normal(0, 2, 400)


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("task", METRICS)
def test_counting_a_row_twice_is_having_it_twice(task, seed):
    target, answer = example(task, seed)
    answers, how = answers_of(task, target, answer), Resamples(3, seed)
    for number in range(3):
        counts = how.draw(len(target), number)
        rows = np.repeat(np.arange(len(target)), counts)
        expected = naive(task, target[rows], answer[rows])
        assert measure(METRICS[task], Sample(answers, counts))[: len(expected)] == pytest.approx(expected)


@pytest.mark.parametrize("seed", range(4))
def test_calibration_error_by_groups(seed):
    target, p = binary(seed)
    group = groups_of_equal_size(p)
    gaps = [abs(target[group == g].mean() - p[group == g].mean()) * (group == g).mean() for g in np.unique(group)]
    values = measure(METRICS_OF_YES_OR_NO, Sample(Binary(target, p), np.ones(len(p), int)))
    assert values[NAMES.index("ece")] == pytest.approx(sum(gaps))


def test_resamples_do_not_depend_on_threads_nor_on_company():
    target, p = binary(0)
    models, metrics = {"a": Binary(target, p), "b": Binary(target, 1 - p)}, METRICS_OF_YES_OR_NO
    alone = bootstrap(metrics, {"a": models["a"]}, Resamples(20, seed=1))["a"]
    together = bootstrap(metrics, models, Resamples(20, seed=1, threads=3))["a"]
    assert (alone == together).all()
    assert (alone[1:] != bootstrap(metrics, models, Resamples(20, seed=2))["a"][1:]).any()
    fewer = bootstrap(metrics[2:3], models, Resamples(20, seed=1))["a"]
    assert (fewer == alone[:, 2:3]).all()  # nor on what else is measured


def covered(truth: float, draw, trials: int, metric: str, mirrored: bool = False) -> float:
    """The share of intervals that hold the truth, over fresh samples."""
    hits = 0
    for trial in range(trials):
        target, p, days = draw(np.random.default_rng([7, trial]))
        measured = METRICS_OF_YES_OR_NO[NAMES.index(metric)]
        values = bootstrap([measured], {"it": Binary(target, p)}, Resamples(100, trial, units=days))["it"]
        found = interval(values[:, 0], mirrored)
        hits += found.low <= truth <= found.high
    return hits / trials


@pytest.mark.process
def test_an_interval_of_95_percent_holds_the_truth_95_times_in_100():
    def draw(rng):
        score = rng.normal(size=300)
        return (rng.random(300) < 1 / (1 + np.exp(-score))).astype(int), 1 / (1 + np.exp(-score)), None

    rng = np.random.default_rng(0)
    score = rng.normal(size=1_000_000)
    late = rng.random(1_000_000) < 1 / (1 + np.exp(-score))
    truth = sk.roc_auc_score(late, score)
    assert 0.90 <= covered(truth, draw, trials=120, metric="auc") <= 0.99


def test_rows_of_a_day_share_their_fate_and_only_whole_days_know_it():
    def draw(rng, days=40, rows=30):
        day = np.repeat(np.arange(days), rows)
        p = np.full(days * rows, 0.25)
        return (rng.random(days * rows) < rng.choice([0.1, 0.4], days)[day]).astype(int), p, day

    truth = -(0.25 * np.log(0.25) + 0.75 * np.log(0.75))
    assert covered(truth, draw, trials=80, metric="log_loss") >= 0.88
    assert covered(truth, lambda rng: (*draw(rng)[:2], None), trials=80, metric="log_loss") < 0.75


def test_the_mirrored_interval_takes_out_the_bias_of_the_calibration_error():
    def draw(rng):
        true = 1 / (1 + np.exp(-rng.normal(-1, 1, 1000)))
        return (rng.random(1000) < true).astype(int), np.clip(true + 0.02, 0, 1), None

    plain, mirrored = (covered(0.02, draw, trials=80, metric="ece", mirrored=m) for m in (False, True))
    assert mirrored >= 0.8 > plain


def test_paired_difference_sees_what_two_intervals_do_not():
    rng = np.random.default_rng(0)
    score = rng.normal(size=3000)
    late = (rng.random(3000) < 1 / (1 + np.exp(-score))).astype(int)
    noisy = 1 / (1 + np.exp(-(score + rng.normal(0, 0.35, 3000))))
    models, metrics = (
        {"good": Binary(late, 1 / (1 + np.exp(-score))), "noisy": Binary(late, noisy)},
        METRICS_OF_YES_OR_NO,
    )
    drawn = bootstrap(metrics, models, Resamples(300, seed=0))
    good, worse = (intervals(metrics, drawn[name])["log_loss"] for name in models)
    assert good.high > worse.low
    gain = improvements(metrics, drawn["good"], drawn["noisy"])
    assert [*gain] == ["auc", "log_loss"]  # the headline metrics
    assert gain["log_loss"].low > 0
    assert gain["log_loss"].value == pytest.approx(worse.value - good.value)
    assert gain["log_loss"].better > 0.97
    back = improvements(metrics, drawn["noisy"], drawn["good"])
    assert back["log_loss"].high == pytest.approx(-gain["log_loss"].low)


def test_one_class_has_no_auc_and_says_so():
    metrics = METRICS_OF_YES_OR_NO
    values = bootstrap(metrics, {"it": Binary(np.ones(50, int), np.full(50, 0.9))}, Resamples(20, 0))["it"]
    assert list(intervals(metrics, values)) == ["average_precision", "log_loss", "brier", "ece"]
    (check,) = bound_checks({"auc": BoundConfig(min=0.5)}, intervals(metrics, values), metrics, "no row is late")
    assert not check["passed"]
    assert check["reason"].startswith("auc is not defined on the test part: no row is late; ")
    assert "'~evaluate.gate.auc'" in check["reason"]


def test_slices_have_their_rows_and_leave_out_the_tiny():
    target, p = binary(0, 500)
    carrier = pl.Series(["UA"] * 300 + ["B6"] * 190 + ["OO"] * 10)
    found = slices(carrier, METRICS_OF_YES_OR_NO, Binary(target, p), Resamples(20, 0, units=np.arange(500) % 25))
    assert [(r["value"], r["rows"]) for r in found] == [("B6", 190), ("UA", 300)]
    assert found[1]["auc"].value == pytest.approx(sk.roc_auc_score(target[:300], p[:300]))
    with pytest.raises(UserError, match="evaluate.slices: 'carier' is not a column. Did you mean 'carrier'"):
        slice_values(carrier.alias("carrier").to_frame(), "carier", None)


def test_whole_days_need_enough_of_them():
    frame = pl.DataFrame({"at": pl.datetime_range(pl.datetime(2013, 1, 1), pl.datetime(2013, 1, 31), "6h", eager=True)})
    assert day_numbers(frame, "at").max() == 30
    assert day_numbers(frame[:40], "at") is None
    assert day_numbers(frame, None) is None
    how = Resamples(1, 0, units=np.arange(100) // 4)
    assert how.of(np.arange(0, 80)).units.max() == 19
    assert how.of(np.arange(0, 79, 20)).units is None
    assert sorted(set(how.of(np.arange(20, 100)).units)) == list(range(20))


def test_gate():
    found = {"auc": Interval(0.72), "log_loss": Interval(0.51)}
    bounds = {"auc": BoundConfig(min=0.70, max=0.99), "log_loss": BoundConfig(max=0.50)}
    said = gate_verdict(bound_checks(bounds, found, METRICS["binary"]))
    assert [c["passed"] for c in said["checks"]] == [True, True, False]
    assert said["passed"] is False
    assert said["reasons"] == ["log_loss 0.5100 is above 0.5"]
    assert gate_verdict(bound_checks({"auc": BoundConfig(min=0.72)}, found, METRICS["binary"]))[
        "passed"
    ]  # the bound itself is enough


def test_gate_and_the_champion():
    unsure, worse = Improvement(-0.001, -0.003, 0.001), Improvement(-0.004, -0.006, -0.002)
    assert gate_verdict(champion_checks({"auc": unsure}, ""))["passed"]
    said = gate_verdict(champion_checks({"auc": unsure, "log_loss": worse}, ""))
    assert said["reasons"] == ["log_loss is worse than the champion by 0.0040 (0.0020 to 0.0060)"]
    (check,) = champion_checks({}, "it needs columns that this run does not make: snow")
    assert check["passed"]
    assert check["reason"] == "not compared: it needs columns that this run does not make: snow"


def test_the_gate_refuses_what_is_significantly_worse_than_a_simple_baseline():
    unsure, worse = Improvement(-0.07, -0.17, 0.0), Improvement(-0.299, -0.419, -0.197)
    found = {"logistic": {"auc": unsure, "log_loss": worse}, "lightgbm": {"log_loss": worse}}
    nodes = {"constant": {"_target_": "notebento.evaluation.baselines.Constant"}}
    nodes["logistic"] = {"_target_": "notebento.models.linear.Linear"}
    nodes["lightgbm"] = {"_target_": "notebento.models.lightgbm.LightGBM"}
    names = {kind: compared_in_gate(nodes, kind) for kind in ("none", "simple", "all")}
    assert names == {"none": [], "simple": ["constant", "logistic"], "all": ["constant", "logistic", "lightgbm"]}
    reasons = {kind: gate_verdict(baseline_checks(found, names[kind]))["reasons"] for kind in names}
    assert reasons["none"] == [] and len(reasons["all"]) == 2
    assert reasons["simple"] == ["log_loss is worse than logistic by 0.2990 (0.1970 to 0.4190)"]


def test_a_class_that_a_part_lacks_is_named():
    inputs = Inputs(task="multiclass", target="kind", classes=("a", "b", "c"), numeric=(), categorical=())
    rows = Rows(inputs, np.empty((9, 0)), np.empty((9, 0)), np.arange(9) % 2)
    assert undefined_because(rows) == "none of its 9 rows is of 'kind' c"
    assert undefined_because(rows[rows.target == 1]) == "its 4 rows all have the same 'kind'"
    numbers = replace(rows, inputs=replace_inputs(inputs, task="regression", classes=None), target=np.ones(9))
    assert undefined_because(numbers) == "its 9 rows all have the same 'kind'"
    assert undefined_because(replace(rows, target=np.arange(9) % 3)) == ""


def test_what_is_better_is_recommended_and_constants_are_told_apart():
    target, p = binary(0)
    answers = {"notebento": 1 - p, "logistic": p, "lightgbm": np.full(len(p), p.mean())}
    own = Metric("mean", "higher", lambda sample: sample.mean(sample.answer), headline=True)
    metrics = [*METRICS["binary"], own]  # a project's metric does not decide
    result = benchmark(metrics, {n: Binary(target, a) for n, a in answers.items()}, Resamples(50, 0))
    found = comparison({"test": result}, {}, "no other version was champion")
    assert found["constant"] == ["lightgbm"]
    assert found["recommended"].model == "logistic"
    assert found["recommended"].reason.startswith("its log_loss 0.5380 is better than notebento's 1.5177 (0.8")
    assert found["recommended"].alike == []
    swapped = {"notebento": p, "logistic": p, "lightgbm": answers["lightgbm"]}
    same = benchmark(METRICS["binary"], {n: Binary(target, a) for n, a in swapped.items()}, Resamples(50, 0))
    assert (same.recommended().model, same.recommended().reason) == (
        "notebento",
        "its log_loss 0.5380 is the same as logistic's",
    )
    assert same.recommended().alike == ["logistic"] and not same.learned_nothing()


def test_a_model_that_is_no_better_than_a_constant_is_told_so():
    target, p = binary(0)
    noise = np.random.default_rng(0).permutation(p)
    models = {"notebento": noise, "constant": np.full(len(p), target.mean())}
    result = benchmark(METRICS["binary"], {n: Binary(target, a) for n, a in models.items()}, Resamples(50, 0))
    said = result.learned_nothing()
    assert (
        "not significantly better than constant's 0.5" in said
        and "did not learn anything that helps; try" in said
        and "model=linear" not in said
    )
    learned = benchmark(METRICS["binary"], result.models | {"notebento": Binary(target, p)}, Resamples(50, 0))
    assert learned.learned_nothing() == ""
    gate = baseline_checks(result.improvements(), ["constant"])
    assert any(check["reason"].startswith("auc is not clearly different from constant: ") for check in gate)
    assert not any("significantly" in check["reason"] for check in gate)


def test_a_baseline_that_is_the_same_model_is_left_out():
    _, p = binary(0)
    rounded = (p + 1e-7).astype(np.float32)
    test = {"notebento": p, "constant": np.full(len(p), 0.2), "lightgbm": rounded, "logistic": p**2, "champion": p}
    kept, skipped = without_twins({"validation": {n: a[:90] for n, a in test.items()}, "test": test})
    assert [*kept["test"]] == [*kept["validation"]] == ["notebento", "constant", "logistic", "champion"]
    assert skipped == {"lightgbm": "it is the same model as ours, with the same answers"}
    assert not without_twins({"validation": test | {"lightgbm": p**2}, "test": test})[1]  # in one part only


def test_a_class_that_training_never_saw_is_named_with_part_and_count():
    inputs = Inputs(task="multiclass", target="kind", classes=("a", "b", "rare"), numeric=(), categorical=())
    rows = Rows(inputs, np.empty((9, 0)), np.empty((9, 0)), np.array([0, 1, 0, 1, 0, 1, 0, 2, 2]))
    parts = {"train": rows[rows.target < 2], "validation": rows[:3], "test": rows[5:]}
    (said,) = unseen_classes(parts)
    assert said.startswith("test: 2 rows have 'kind' 'rare', which training never saw")
    assert "log loss" in said and unseen_classes(parts | {"test": rows[-1:]})[0].startswith("test: 1 row has")
    numbers = replace(rows, inputs=replace_inputs(inputs, task="regression", classes=None), target=np.arange(9.0))
    assert unseen_classes({"train": numbers[:3], "test": numbers}) == []


def test_a_misspelt_metric_of_the_gate_is_named():
    with pytest.raises(UserError, match="metric 'auk' is not measured. Did you mean 'auc'"):
        bound_checks({"auk": BoundConfig(min=0.7)}, {}, METRICS["binary"])
    with pytest.raises(UserError, match=r"(?s)metric 'auc'.*fix: the metrics of this task: rmse, mae, r2"):
        bound_checks({"auc": BoundConfig(min=0.7)}, {}, METRICS["regression"])


def test_champions_that_cannot_be_compared():
    ours = Signature(task="binary", target="late", numeric=("delay",), categorical=("carrier",))
    for theirs, reason in [
        ({"task": "regression"}, "its task is 'regression', ours 'binary'"),
        ({"target": "very_late"}, "its target is 'very_late'"),
        ({"classes": (False, True)}, "its classes is"),
        ({"numeric": ("delay", "snow")}, "columns that this run does not make: snow"),
    ]:
        fields = {f: getattr(ours, f) for f in ("task", "target", "classes", "numeric", "categorical")} | theirs
        assert reason in champion_obstacle(Signature(**fields), ours, ["delay", "carrier", "late"])
    assert champion_obstacle(ours, ours, ["delay", "carrier"]) == ""


def table(task: str, n: int = 400) -> Rows:
    rng = np.random.default_rng(0)
    frame = pl.DataFrame({"x": rng.normal(size=n), "gap": [None] * n, "kind": rng.choice(["a", "b"], n)})
    signal = frame["x"].to_numpy() + (frame["kind"] == "a").to_numpy()
    target = {"binary": (signal > 0.5).astype(int), "multiclass": np.digitize(signal, [0, 1]), "regression": signal}[
        task
    ]
    classes = {"binary": (0, 1), "multiclass": (0, 1, 2), "regression": None}[task]
    frame = frame.with_columns(y=pl.Series(target), x=pl.when(pl.col("x") < 2).then("x"))
    schema = {"task": task, "target": "y", "numeric": ["x", "gap"], "categorical": ["kind"], "classes": classes}
    return Rows.from_frame(frame.with_columns(pl.col("gap").cast(pl.Float32)), schema)


BASELINES = {
    "constant": {"_target_": "notebento.evaluation.baselines.Constant"},
    "logistic": {"_target_": "notebento.models.linear.Linear"},
    "ridge": {"_target_": "notebento.models.linear.Linear"},
    "lightgbm": {"_target_": "notebento.models.lightgbm.LightGBM"},
}


@pytest.mark.parametrize("task", METRICS)
def test_baselines_learn_and_the_constant_is_the_worst(task):
    unfit = "logistic" if task == "regression" else "ridge"
    rows, metric = table(task), METRICS[task][0]
    fitted, skipped = fit_baselines(
        {name: node for name, node in BASELINES.items() if name != unfit}, rows, rows, Resources(0, 1, Path())
    )
    assert not skipped
    once = np.ones(len(rows), int)
    first = {
        name: measure([metric], Sample(answers_of(task, rows.target, f.predict(rows)), once))[0]
        for name, f in fitted.items()
    }
    assert min(first, key=lambda name: metric.sign * first[name]) == "constant"


def test_a_baseline_that_is_not_installed_is_left_out_with_the_reason(monkeypatch):
    monkeypatch.setitem(sys.modules, "lightgbm", None)
    nodes = {name: BASELINES[name] for name in ("lightgbm", "constant")}
    fitted, skipped = fit_baselines(nodes, table("binary"), table("binary"), Resources(0, 1, Path()))
    assert list(fitted) == ["constant"]
    assert skipped == {"lightgbm": "lightgbm is not installed"}


def test_linear_baseline_survives_what_it_never_saw():
    rows = table("regression")
    strange = Rows(rows.inputs, np.array([[np.nan, np.nan], [1e30, 5]], np.float32), np.array([["new"], [""]], object))
    assert np.isfinite(Linear().fit(rows, rows, None).predict(strange)).all()


def test_predictions_have_key_target_and_a_column_for_each_answer():
    frame = pl.DataFrame({"id": [1, 2], "at": [3, 4], "y": ["a", "b"], "x": [0.1, 0.2]})
    schema = {"key": ["id"], "time": "at", "target": "y", "classes": ["a", "b"]}
    wide = predictions(frame, "test", schema, {"notebento": np.array([[0.7, 0.3], [0.2, 0.8]])})
    assert wide.columns == ["id", "at", "y", "split", "notebento_a", "notebento_b"]
    assert predictions(frame, "test", schema, {"notebento": np.array([0.7, 0.2])})["notebento"].dtype == pl.Float32


def test_a_metric_of_a_project_is_one_entry_of_the_list():
    """It has a value and an interval, is compared, and may be a bound of the gate."""
    target, p = binary(0)
    hits = Metric("hits", "higher", lambda s: s.mean((s.answer > 0.5) == (s.target > 0)), headline=True)
    cost = Metric("cost", "lower", lambda s: s.mean(np.where(s.target > 0, 1 - s.answer, s.answer)))
    metrics = [*METRICS["binary"], hits, cost]
    result = benchmark(metrics, {"notebento": Binary(target, p), "other": Binary(target, 1 - p)}, Resamples(50, 0))
    found = result.intervals()["notebento"]
    assert found["hits"].value == pytest.approx(((p > 0.5) == (target > 0)).mean())
    assert found["hits"].low < found["hits"].value < found["hits"].high
    assert {name: i for name, i in found.items() if name not in ("hits", "cost")} == (
        benchmark(METRICS["binary"], result.models, Resamples(50, 0)).intervals()["notebento"]
    )
    assert [*result.improvements()["other"]] == ["auc", "log_loss", "hits"]
    assert result.improvements()["other"]["hits"].low > 0
    (check,) = bound_checks({"hits": BoundConfig(min=0.999)}, found, metrics)
    assert not check["passed"] and check["reason"].startswith("hits 0.")
    told = comparison({"validation": result, "test": result}, {}, "")
    assert told["better"]["hits"] == "higher" and told["better"]["cost"] == "lower"
    assert told["champion"] == "compared" and told["unit"] == "row"
    assert told["by_row"] == told["differences"]["test"]


def test_days_are_drawn_when_the_settings_say_so():
    frame = pl.DataFrame({"at": pl.datetime_range(pl.datetime(2013, 1, 1), pl.datetime(2013, 1, 31), "6h", eager=True)})
    how = resamples(EvaluateConfig(bootstrap=7), frame, "at", seed=3, threads=2)
    assert (how.samples, how.seed, how.threads, how.units.max()) == (7, 3, 2, 30)
    assert resamples(EvaluateConfig(unit="row"), frame, "at", seed=3).units is None
    assert resamples(EvaluateConfig(), frame, None, seed=3).units is None
    rng = np.random.default_rng(0)
    bad = rng.random(len(frame)) < np.where(how.units % 3 == 0, 0.8, 0.1)
    result = benchmark(METRICS["binary"], {"notebento": Binary(bad.astype(int), np.full(len(bad), bad.mean()))}, how)
    assert (result.unit, result.by_row().unit) == ("day", "row")


def test_without_a_champion_the_reason_is_given():
    assert comparable_champion(None, None, []) == (None, "no other version was champion")


def test_intervals_are_written_the_same_everywhere():
    assert str(Interval(0.77312, 0.77004, 0.77621)) == "0.7731 (0.7700 to 0.7762)"
    assert f"{Improvement(-0.004, -0.006, -0.002, 0.0):+}" == "-0.0040 (-0.0060 to -0.0020)"
    assert (str(Interval(-1e-6, -1e-5, 0.1)), f"{Interval(-1e-6):+}") == ("0.0000 (0.0000 to 0.1000)", "+0.0000")
    assert (str(Interval(1234.56, 1200, 1300)), str(Interval(0.5)), str(Interval())) == (
        "1,235 (1,200 to 1,300)",
        "0.5000",
        "–",
    )
    assert (Interval(0.5, 0.4, 0.6).bounds, Interval(0.5).bounds) == ("0.4000 to 0.6000", "")


def test_names_of_metrics_without_their_list():
    """A page that reads metrics.json knows the library's metrics, and takes the first where it knows none."""
    assert headline_names(["accuracy", "auc", "log_loss"]) == ["auc", "log_loss"]
    assert headline_names(["profit", "cost"]) == ["profit"]
    lower = {name for name, better in directions().items() if better == "lower"}
    assert lower == {"log_loss", "brier", "ece", "rmse", "mae"}


@pytest.mark.process
def test_metrics_and_intervals_are_read_without_a_heavy_import():
    code = "import sys, notebento.evaluation.metrics as m; print({'numpy', 'polars', 'torch'} & {*sys.modules}, m.OURS)"
    assert (
        subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
        == "set() notebento\n"
    )


def test_five_rows_show_nothing_for_certain():
    target = np.array([0, 1, 0, 1, 1])
    models = {"notebento": target * 0.8 + 0.1, "constant": np.full(5, 0.6), "champion": 0.9 - target * 0.8}
    result = benchmark(METRICS["binary"], {n: Binary(target, p) for n, p in models.items()}, Resamples(50, 0))
    assert result.too_few == "too few rows to tell: 5 test rows"
    assert str(result.intervals()["notebento"]["auc"]) == "1.0000"  # and no interval
    told = comparison({"test": result}, {}, "")
    assert not any(gain.significant for gains in told["differences"]["test"].values() for gain in gains.values())
    checks = champion_checks(told["differences"]["test"]["champion"], result.too_few)
    checks += baseline_checks(told["differences"]["test"], ["constant"], result.too_few)
    assert gate_verdict(checks)["passed"]
    assert {check["reason"] for check in checks} == {"not compared: too few rows to tell: 5 test rows"}
    bound = bound_checks({"auc": BoundConfig(max=0.9)}, result.intervals()["notebento"], METRICS["binary"])
    assert not gate_verdict(checks + bound)["passed"]  # a bound still counts
    old = champion_checks(told["differences"]["test"]["champion"], "")  # of a notebook that does not say why
    assert all(check["passed"] and check["limit"] is None and "too few rows" in check["reason"] for check in old)
    assert told["measured_on"] == "5 test rows" and result.too_few in cannot_tell(result)


@pytest.mark.parametrize(
    ("rows", "positives", "few"), [(29, 10, True), (30, 10, False), (900, 4, True), (900, 5, False)]
)
def test_how_many_rows_are_enough(rows, positives, few):
    answers = Binary((np.arange(rows) < positives).astype(int), np.linspace(0.9, 0.1, rows))
    assert bool(too_few(answers, Resamples(20, 0))) == few
    assert (len(bootstrap(METRICS["binary"], {"it": answers}, Resamples(20, 0))["it"]) == 1) == few
    assert (too_few(Regression(np.arange(rows), np.ones(rows)), Resamples(20, 0)) == "") == (rows >= 30)


def test_rows_of_a_patient_share_their_fate_and_are_drawn_together():
    frame = pl.DataFrame({"patient": np.arange(800) // 20})
    rng = np.random.default_rng(0)
    sick = (rng.random(800) < rng.choice([0.1, 0.6], 40)[frame["patient"].to_numpy()]).astype(int)
    answers = {"notebento": Binary(sick, np.full(800, 0.3)), "constant": Binary(sick, np.full(800, 0.35))}
    how = {g: resamples(EvaluateConfig(bootstrap=200), frame, None, 0, group=g) for g in ((), ("patient",))}
    by_row, by_patient = (benchmark(METRICS["binary"], answers, h) for h in how.values())
    assert (by_row.unit, by_patient.unit, by_patient.by_row().unit) == ("row", "patient", "row")
    wide, narrow = (b.intervals()["notebento"]["log_loss"] for b in (by_patient, by_row))
    assert wide.high - wide.low > 1.5 * (narrow.high - narrow.low)
    assert measured_on(by_patient) == "800 test rows, 40 groups by patient"
    few = benchmark(METRICS["binary"], answers, replace(by_patient.how, units=np.arange(800) // 40))
    assert few.too_few == "too few groups to tell: 20 test groups by patient"


def test_a_reliability_plot_of_few_rows_has_few_points_and_bars_of_ours_only():
    target, p = binary(0, 150)
    answers = {"notebento": p, "linear": p**2, "lightgbm": np.sqrt(p)}
    drawn = reliability_plot(target, answers).axes[0].containers
    plt.close("all")
    assert [len(line.lines[0].get_xdata()) <= 5 for line in drawn] == [True] * 3
    assert [bool(line.lines[2]) for line in drawn] == [True, False, False]


def test_values_that_are_too_rare_for_a_slice_are_named():
    values = pl.Series(["a"] * 60 + ["b"] * 30 + ["c"] * 9)
    assert not_measured({"kind": values}) == ["kind: 2 of 3 values have fewer than 50 rows: b (30), c (9)"]
