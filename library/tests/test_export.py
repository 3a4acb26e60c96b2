"""The bundle: graphs that are wrong are found, graphs that are right answer the same in a bare process."""

import json
import subprocess
import sys

import numpy as np
import onnx
import onnx.parser
import polars as pl
import pytest
from onnx import numpy_helper
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine
from sklearn.metrics import f1_score

from notebento.core.artifacts import digest
from notebento.core.errors import NotebentoError, UserError
from notebento.models.base import Rows
from notebento.models.bundle import (
    BATCHES,
    EDGES,
    Graph,
    Signature,
    best_threshold,
    check_parity,
    describe_numbers,
    describe_strings,
    edge_rows,
    golden,
    golden_difference,
    graph_differences,
    graph_facts,
    reference,
    write_bundle,
)
from notebento.models.lightgbm import LightGBM

TEXT = """
<ir_version: 10, opset_import: ["" : 18, "ai.onnx.ml" : 3]>
late (float[{rows}, 1] numeric, string[{rows}, 1] categorical) => (float[{rows}] probability)
<float ten = {{10}}, float hour = {{60}}, int64[1] row = {{-1}}> {{
    absent = IsNaN(numeric)
    delay = Where(absent, ten, numeric)
    minutes = Div(delay, hour)
    carrier = ai.onnx.ml.LabelEncoder
        <keys_strings = ["B6", "UA"], values_floats = [0.5, -0.5], default_float = 0.0> (categorical)
    logit = Add(minutes, carrier)
    answer = Sigmoid(logit)
    probability = Reshape(answer, row)
}}"""
SIGNATURE = Signature(task="binary", target="late", numeric=("delay",), categorical=("carrier",), threshold=0.5)


def toy(rows: str = "n") -> onnx.ModelProto:
    return onnx.parser.parse_model(TEXT.format(rows=rows))


def flights(n: int = 300) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    delay = pl.Series("delay", rng.normal(20, 40, n).astype(np.float32)).to_frame()
    carrier = pl.Series("carrier", rng.choice(["UA", "B6", "ZZ", ""], n))
    missing = pl.Series(rng.random(n) < 0.2)
    return delay.with_columns(carrier).with_columns(
        pl.when(~missing).then("delay"), carrier=pl.when(pl.col("carrier") != "").then("carrier")
    )


def by_hand(frame: pl.DataFrame) -> np.ndarray:
    carrier = frame["carrier"].replace_strict({"B6": 0.5, "UA": -0.5}, default=0.0).fill_null(0.0).to_numpy()
    delay = frame["delay"].fill_null(10).to_numpy().astype(np.float64)
    return 0.5 * (1 + np.tanh((delay / 60 + carrier) / 2))


def bundle(folder, model: onnx.ModelProto):
    rows = edge_rows(flights()[:1], SIGNATURE)
    folder.mkdir()
    cases = golden(rows, by_hand(rows), SIGNATURE, EDGES)
    graph = Graph(model.SerializeToString(deterministic=True), SIGNATURE)
    shape = {"task": "binary", "target": "late", "numeric": ["delay"], "categorical": ["carrier"], "more": "passed on"}
    normal = reference(flights(), graph.predict(flights()), SIGNATURE)
    content = model.SerializeToString(deterministic=True)
    write_bundle(folder, content, graph_facts(model), schema=shape, golden=cases, reference=normal)
    return folder


@pytest.mark.process
def test_golden_predictions_in_a_bare_process(tmp_path):
    folder = bundle(tmp_path / "model", toy())
    code = f"""
import json, sys
from pathlib import Path
from notebento.models.bundle import Graph, golden_difference
folder = Path({str(folder)!r})
assert golden_difference(Graph.load(folder), json.loads((folder / "golden.json").read_text())) < 1e-6
heavy = {{"torch", "onnx", "sklearn", "scipy", "matplotlib", "papermill", "dataframely", "lightgbm"}} & set(sys.modules)
assert not heavy, heavy
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 0, done.stderr


def test_bundle_has_the_same_bytes_twice_and_its_own_digests(tmp_path):
    first, second = bundle(tmp_path / "a", toy()), bundle(tmp_path / "b", toy())
    assert digest(first) == digest(second)
    facts = json.loads((first / "export.json").read_text())
    assert {name: file["sha256"] for name, file in facts["files"].items()} == {
        name: digest(first / name) for name in ("model.onnx", "schema.json", "golden.json", "reference.json")
    }
    assert facts["opset"] == {"ai.onnx": 18, "ai.onnx.ml": 3}


def test_doctored_graph_is_found_by_parity_and_by_golden(tmp_path):
    model = toy()
    hour = next(w for w in model.graph.initializer if w.name == "hour")
    hour.CopyFrom(numpy_helper.from_array(np.float32(60.01), "hour"))
    graph = Graph(model.SerializeToString(), SIGNATURE)
    with pytest.raises(NotebentoError, match="graph and fitted model differ by .* at batch size 1, more than .* 1e-05"):
        check_parity(graph_differences(graph, by_hand(flights()), flights()))
    cases = golden(flights(), by_hand(flights()), SIGNATURE, ["row"] * 300)
    assert golden_difference(graph, cases) > 1e-5


def test_graph_of_a_fixed_batch_size_is_found():
    graph = Graph(toy(rows="7").SerializeToString(), SIGNATURE)
    with pytest.raises(NotebentoError, match="the graph fails at batch size 1"):
        graph_differences(graph, by_hand(flights()), flights())


def test_parity_at_every_batch_size_and_at_the_edges():
    rows = pl.concat([flights(2100), edge_rows(flights()[:1], SIGNATURE)])
    found = check_parity(graph_differences(Graph(toy().SerializeToString(), SIGNATURE), by_hand(rows), rows))
    assert list(found) == [str(b) for b in BATCHES]
    assert max(found.values()) < 1e-6


@pytest.mark.parametrize(
    ("data", "task"), [(load_breast_cancer, "binary"), (load_wine, "multiclass"), (load_diabetes, "regression")]
)
def test_graph_answers_as_the_fitted_model(data, task, tmp_path):
    values, target = data(return_X_y=True)
    names = [f"x{i}" for i in range(values.shape[1])]
    frame = pl.DataFrame(values.astype(np.float32), schema=names).with_columns(
        y=pl.Series(target), size=pl.Series(np.where(values[:, 0] > np.median(values[:, 0]), "large", "small"))
    )
    classes = None if task == "regression" else sorted(set(target.tolist()))
    schema = {"task": task, "target": "y", "numeric": names, "categorical": ["size"], "classes": classes}

    class Trainer:
        seed, threads, work = 0, 1, tmp_path

    settings = LightGBM(num_boost_round=20, min_data_in_leaf=5, min_count=1)
    fitted = settings.fit(Rows.from_frame(frame[::2], schema), Rows.from_frame(frame[1::2], schema), Trainer())
    signature = Signature(**{**schema, "classes": tuple(classes) if classes else None})
    graph = Graph(fitted.to_onnx().SerializeToString(), signature)
    rows = pl.concat([frame, edge_rows(frame[:1], signature)]).drop("y")
    expected = fitted.predict(Rows.from_frame(rows, schema))
    check_parity(graph_differences(graph, expected, rows))
    assert graph.predict(rows).shape == expected.shape
    assert graph.predict(rows[:0]).shape == expected[:0].shape


def test_input_that_the_graph_cannot_read():
    graph = Graph(toy().SerializeToString(), SIGNATURE)
    with pytest.raises(UserError, match="a column 'carrier' that is not in the input. Did you mean 'carriers'") as e:
        graph.predict(flights().rename({"carrier": "carriers"}))
    assert e.value.exit_status == 2
    with pytest.raises(UserError, match="reads 'delay' as a number, and the input has String"):
        graph.predict(pl.DataFrame({"delay": ["soon"], "carrier": ["UA"]}))


def test_null_nan_and_the_empty_string_are_missing():
    graph = Graph(toy().SerializeToString(), SIGNATURE)
    absent = pl.DataFrame({"delay": [None, float("nan"), None], "carrier": [None, "", "ZZ"]})
    assert len(set(graph.predict(absent).tolist())) == 1
    numbers = pl.DataFrame({"delay": [30], "carrier": ["UA"]})  # whole numbers are numbers
    assert graph.predict(numbers) == pytest.approx([0.5])


def test_a_large_frame_is_answered_as_its_rows():
    graph, rows = Graph(toy().SerializeToString(), SIGNATURE), flights(3000)
    one_by_one = np.concatenate([graph.predict(rows[i]) for i in range(0, 3000, 100)])
    assert (graph.predict(rows)[::100] == one_by_one).all()


@pytest.mark.parametrize("seed", range(5))
def test_threshold_has_the_best_f1(seed):
    rng = np.random.default_rng(seed)
    score = rng.random(200).round(1 + seed % 2).astype(np.float32)  # with ties
    late = (rng.random(200) < score).astype(int)
    cuts = np.unique(score)
    best = max(f1_score(late, score >= cut) for cut in cuts)
    assert f1_score(late, score >= best_threshold(late, score)) == pytest.approx(best)


def test_reference_counts_every_row():
    rows = flights(1000)
    numbers = describe_numbers(rows["delay"].fill_null(float("nan")).to_numpy())
    assert numbers["nulls"] == rows["delay"].null_count()
    assert numbers["nulls"] + sum(numbers["counts"]) == 1000
    assert max(numbers["counts"]) - min(numbers["counts"]) <= 2
    strings = describe_strings(rows["carrier"], top=2)
    assert strings["nulls"] + sum(strings["counts"].values()) + strings["other"] == 1000
    assert len(strings["counts"]) == 2
