"""Models of other libraries: every shape of input and output, every refusal, and what a service answers with them."""

import json
from pathlib import Path

import numpy as np
import onnx
import onnx.parser
import onnxruntime as ort
import polars as pl
import pytest
from msgspec.structs import replace
from onnx import external_data_helper, helper
from serving_toys import process, settled
from stores import free_port
from typer.testing import CliRunner

from notebento.core.artifacts import load, save
from notebento.core.config import BoundConfig, Config, EvaluateConfig, ProjectConfig, RegistryConfig, ServeConfig
from notebento.core.errors import GateError, NotebentoError, UserError
from notebento.models.bundle import Graph
from notebento.models.foreign import read_graph
from notebento.models.imported import tried_draft
from notebento.pipeline.imports import import_model
from notebento.registry.card import card
from notebento.registry.registry import Registry
from notebento.serving.deploy import deploy, server
from notebento.serving.service import Deployment, load_version

CONFIG = Config(project=ProjectConfig("toy"), registry=RegistryConfig("toy"))
ROWS = pl.DataFrame({"age": [20.0, 30.5, 70.0], "visits": [3.0, 0.0, 12.0], "plan": ["a", "b", "c"]})
NUMBERS = {"age": {"type": "number"}, "visits": {"type": "number"}}
TEXTS = {"plan": {"type": "string"}}
BINARY = {"task": "binary", "target": "late", "record": NUMBERS}
LOGIT = (ROWS["age"] / 100 - ROWS["visits"] / 10).to_numpy()
YES = 1 / (1 + np.exp(-LOGIT))


@pytest.fixture(autouse=True)
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("NOTEBENTO_RUNS", str(tmp_path / "runs"))
    return tmp_path


def written(folder: Path, inputs: str, output: str, body: str, opset: int = 18) -> Path:
    """The file of a graph whose `body` makes `output` of `inputs`; the logit is age / 100 - visits / 10."""
    constants = "<float[2] weights = {0.01, -0.1}, int64[1] row = {-1}, int64[2] column = {-1, 1}, float one = {1}>"
    head = (
        f'<ir_version: 8, opset_import: ["" : {opset}, "ai.onnx.ml" : 3], producer_name: "toy", producer_version: "7">'
    )
    model = onnx.parser.parse_model(f"{head} g ({inputs}) => ({output}) {constants} {{ {body} }}")
    path = folder / "toy.onnx"
    path.write_bytes(model.SerializeToString())
    return path


def answers(version) -> np.ndarray:
    return Graph.load(Registry.open(CONFIG.registry).bundle(version.version)).predict(ROWS)


SUM = " w = Mul(x, weights) logit = ReduceSum <keepdims = 1> (w, row) "
ONE = SUM + " p = Sigmoid(logit) "
TWO = SUM + " yes = Sigmoid(logit) no = Sub(one, yes) p = Concat <axis = 1> (no, yes) "
COLUMNS = " a = Cast <to = 1> (age) b = Cast <to = 1> (visits) c = Reshape(a, column) d = Reshape(b, column) "
COLUMNS += " x = Concat <axis = 1> (c, d) "
INPUTS = {
    "float matrix": ("float[n, 2] x", ONE),
    "double matrix": ("double[n, 2] m", " x = Cast <to = 1> (m) " + ONE),
    "half matrix": ("float16[n, 2] m", " x = Cast <to = 1> (m) " + ONE),
    "matrix of an unknown size": ("float[] x", ONE),
    "matrix for one row": ("float[1, 2] x", ONE),
    "float and double columns": ("float[n, 1] age, double[n, 1] visits", COLUMNS + ONE),
    "flat columns in another order": ("int32[n] visits, float[n] age", COLUMNS + ONE),
    "a whole number": ("float[n, 1] age, int64[n, 1] visits", COLUMNS + ONE),
    "a name of ours": ("float[n, 2] numeric", " x = Identity(numeric) " + ONE),
}


@pytest.mark.parametrize(("inputs", "body"), INPUTS.values(), ids=INPUTS)
def test_every_form_of_input_is_fed_with_the_fields(tmp_path, inputs, body):
    version = import_model(written(tmp_path, inputs, "float[n, 1] p", body), BINARY, CONFIG)
    tolerance = 1e-3 if "float16" in inputs else 1e-6
    assert np.abs(answers(version) - YES).max() < tolerance


OUTPUTS = {
    "both probabilities": ("float[n, 2] p", TWO),
    "both, beside a label": ("int64[n] label, float[n, 2] p", TWO + " label = ArgMax <axis = 1, keepdims = 0> (p)"),
    "both, in double precision": ("double[n, 2] q", TWO + " q = Cast <to = 11> (p)"),
    "both, in dictionaries": (
        "int64[n] label, seq(map(int64, float)) z",
        TWO + " label = ArgMax <axis = 1, keepdims = 0> (p) z = ai.onnx.ml.ZipMap <classlabels_int64s = [0, 1]> (p)",
    ),
    "one as a column": ("float[n, 1] p", ONE),
    "one, flat": ("float[n] q", ONE + " q = Reshape(p, row)"),
}


@pytest.mark.parametrize(("output", "body"), OUTPUTS.values(), ids=OUTPUTS)
def test_every_form_of_a_probability_is_that_of_yes(tmp_path, output, body):
    version = import_model(written(tmp_path, "float[n, 2] x", output, body), BINARY, CONFIG)
    assert answers(version).shape == (3,)
    assert np.abs(answers(version) - YES).max() < 1e-6


def test_a_regression_answers_with_its_value(tmp_path):
    for output, body in (("float[n, 1] logit", SUM), ("float[n] q", SUM + " q = Reshape(logit, row)")):
        path = written(tmp_path, "float[n, 2] x", output, body)
        version = import_model(path, BINARY | {"task": "regression", "target": "delay"}, CONFIG)
        assert np.abs(answers(version) - LOGIT).max() < 1e-6


def test_many_classes_have_a_probability_each(tmp_path):
    body = SUM + " no = Neg(logit) z = Concat <axis = 1> (logit, no, no) p = Softmax <axis = 1> (z)"
    path = written(tmp_path, "float[n, 2] x", "float[n, 3] p", body)
    version = import_model(path, BINARY | {"task": "multiclass", "classes": ["red", "green", "blue"]}, CONFIG)
    scores = np.exp(np.stack([LOGIT, -LOGIT, -LOGIT], 1))
    assert np.abs(answers(version) - scores / scores.sum(1, keepdims=True)).max() < 1e-6


def test_texts_and_flags_reach_the_graph(tmp_path):
    body = """ word = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_floats = [0.5, -0.5]> (plan)
    sign = Cast <to = 1> (member) x = Concat <axis = 1> (word, sign) """
    path = written(tmp_path, "string[n, 1] plan, bool[n, 1] member", "float[n, 1] p", body + ONE)
    schema = BINARY | {"record": {"member": {"type": "boolean"}, "plan": {"type": "string", "required": False}}}
    version = import_model(path, schema, CONFIG)
    graph = Graph.load(Registry.open(CONFIG.registry).bundle(version.version))
    frame = pl.DataFrame({"member": [True, False, True], "plan": ["a", "b", None]})
    logit = np.array([0.005 - 0.1, -0.005, -0.1])
    assert np.abs(graph.predict(frame) - 1 / (1 + np.exp(-logit))).max() < 1e-6
    cases = load(Registry.open(CONFIG.registry).bundle(version.version) / "golden.json")
    assert {case["record"]["plan"] for case in cases} >= {
        "a",
        "b",
        None,
        "never seen ✈",
    }  # the words are the graph's own


def test_a_number_in_one_matrix_and_texts_in_another(tmp_path):
    body = """ word = ai.onnx.ml.LabelEncoder <keys_strings = ["a", "b"], values_floats = [1.0, 2.0]> (words)
    y = Sum(x, word) """
    path = written(tmp_path, "float[n, 1] x, string[n, 1] words", "float[n, 1] y", body)
    schema = {"task": "regression", "target": "y", "record": TEXTS | {"age": {"type": "number"}}}
    assert answers(import_model(path, schema, CONFIG)).tolist() == [21, 32.5, 70]


def test_columns_are_found_by_the_name_that_an_exporter_gave_them(tmp_path):
    path = written(tmp_path, "float[n, 1] visits, float[n, 1] age", "float[n, 1] p", COLUMNS + ONE)
    model = onnx.load(path)
    for node in model.graph.node:
        for i, name in enumerate(node.input):
            node.input[i] = {"age": "serving_default_age:0", "visits": "args_0"}.get(name, name)
    for value, name in zip(model.graph.input, ["args_0", "serving_default_age:0"], strict=True):
        value.name = name
    onnx.save(model, path)
    schema = BINARY | {"record": NUMBERS | {"visits": {"type": "number", "input": "args_0"}}}
    assert np.abs(answers(import_model(path, schema, CONFIG)) - YES).max() < 1e-6
    with pytest.raises(UserError, match="'args_0' .* no field of that name"):
        import_model(path, BINARY, CONFIG)


def test_old_files_name_constants_among_the_inputs(tmp_path):
    path = written(tmp_path, "float[n, 2] x", "float[n, 1] p", ONE, opset=13)
    model = onnx.load(path)
    model.ir_version = 3
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    onnx.save(model, path)
    assert np.abs(answers(import_model(path, BINARY, CONFIG)) - YES).max() < 1e-6
    old = written(tmp_path, "float[n, 1] age, float[n, 1] visits", "float[n, 1] y", "y = Sub(age, visits)", opset=9)
    schema = BINARY | {"task": "regression"}  # `Split` had its sizes as an attribute
    assert np.abs(answers(import_model(old, schema, CONFIG)) - [17, 30.5, 58]).max() < 1e-6


def test_names_inside_a_branch_are_those_outside(tmp_path):
    body = """ w = Mul(x, weights) logit = ReduceSum <keepdims = 1> (w, row)
    s = ReduceSum <keepdims = 0> (one) c = Greater(s, s)
    p = If(c) <then_branch = t () => (float[m, 1] a) { a = Identity(logit) },
               else_branch = e () => (float[m, 1] b) { b = Sigmoid(logit) }>"""
    version = import_model(written(tmp_path, "float[n, 2] x", "float[n, 1] p", body), BINARY, CONFIG)
    assert np.abs(answers(version) - YES).max() < 1e-6


def test_weights_in_a_second_file_become_part_of_the_version(tmp_path):
    path = written(tmp_path, "float[n, 2] x", "float[n, 1] p", ONE)
    model = onnx.load(path)
    tensor = next(t for t in model.graph.initializer if t.name == "weights")
    tensor.raw_data = np.float32([0.01, -0.1]).tobytes()
    tensor.ClearField("float_data")
    external_data_helper.set_external_data(tensor, "toy.weights")
    external_data_helper.save_external_data(tensor, str(tmp_path))
    tensor.ClearField("raw_data")
    path.write_bytes(model.SerializeToString())
    assert np.abs(answers(import_model(path, BINARY, CONFIG)) - YES).max() < 1e-6
    (tmp_path / "toy.weights").unlink()
    with pytest.raises(UserError, match="'toy.weights', that cannot be read beside it"):
        import_model(path, BINARY, CONFIG)


MATRIX = "float[n, 2] x"
DROP = " keep = RandomUniformLike(x) y = Mul(x, keep) w = Mul(y, weights) logit = ReduceSum <keepdims = 1> (w, row) "
GAP = {"age": {"type": "number", "required": False}, "visits": {"type": "number"}}
REFUSED = {
    "another number of columns": ("float[n, 3] x", "float[n, 3] p", "p = Sigmoid(x)", {}, "reads 'x' .* has 2 numbers"),
    "a text that no input reads": (MATRIX, "float[n, 1] p", ONE, {"record": NUMBERS | TEXTS}, "record.plan: no input"),
    "a number where a text is read": (
        "string[n, 1] age, float[n, 1] visits",
        "float[n, 1] p",
        "p = Sigmoid(visits)",
        {},
        "record.age: the schema says number, .* reads it as 'age' .string",
    ),
    "a text where a number is read": (
        "float[n, 1] age, float[n, 1] plan",
        "float[n, 1] p",
        "p = Sigmoid(age)",
        {"record": TEXTS | {"age": {"type": "number"}}},
        "record.plan: the schema says string",
    ),
    "an image": ("float[n, 8, 8, 1] x", "float[n, 8, 8, 1] p", "p = Sigmoid(x)", {}, "8 × 8 × 1.*not images"),
    "a field that the graph does not have": (
        "float[n, 1] age, float[n, 1] visit",
        "float[n, 1] p",
        "p = Sigmoid(age)",
        {},
        "'visit' .* no field of that name. Did you mean 'visits'",
    ),
    "columns without names": (
        "float[n, 1] a0, float[n, 1] a1",
        "float[n, 1] p",
        "p = Sigmoid(a0)",
        {},
        "do not say which of them the inputs 'a0'",
    ),
    "no probability": (
        MATRIX,
        "float[n, 1] logit",
        SUM,
        {},
        "answers .*, which is not a probability\n  fix: end the model",
    ),
    "scores of classes": (
        MATRIX,
        "float[n, 3] p",
        ONE.replace("p =", "q =") + " p = Concat <axis = 1> (q, q, q)",
        {"task": "multiclass", "classes": [1, 2, 3]},
        "add up to .* and not to 1",
    ),
    "another number of classes": (
        MATRIX,
        "float[n, 2] p",
        TWO,
        {"task": "multiclass", "classes": [1, 2, 3]},
        "'p' .rows × 2., and the schema says multiclass with 3 classes",
    ),
    "a regression of two values": (MATRIX, "float[n, 2] p", TWO, {"task": "regression"}, "'p' .rows × 2."),
    "labels only": (
        MATRIX,
        "int64[n] label",
        TWO + " label = ArgMax <axis = 1, keepdims = 0> (p)",
        {},
        "(?s)labels only .label.*predict_proba",
    ),
    "classes in another order": (
        MATRIX,
        "string[n] label, float[n, 2] p",
        TWO + " i = ArgMax <axis = 1, keepdims = 0> (p)"
        ' label = ai.onnx.ml.LabelEncoder <keys_int64s = [0, 1], values_strings = ["yes", "no"]> (i)',
        {"classes": ["no", "yes"]},
        "column 0 of toy.onnx is 'yes', and the schema says 'no'",
    ),
    "a list of dictionaries": (
        MATRIX,
        "seq(float[n, 2]) s",
        TWO + " s = SequenceConstruct(p)",
        {},
        '(?s)list of dictionaries.*"zipmap": False',
    ),
    "several answers": (
        MATRIX,
        "float[n, 1] a, float[n, 1] b",
        ONE + " a = Neg(p) b = Neg(p)",
        {},
        "may be the answer: a, b",
    ),
    "an output that is not there": (MATRIX, "float[n, 1] p", ONE, {"output": "q"}, "no output 'q'"),
    "chance": (MATRIX, "float[n, 1] p", DROP + " p = Sigmoid(logit)", {}, "the same rows differently: by"),
    "other rows of the batch": (
        MATRIX,
        "float[n, 1] p",
        ONE.replace("p = Sig", "q = Sig") + " t = ReduceMean <keepdims = 1> (q) p = Sub(q, t) ",
        {"task": "regression"},
        "answers 1 rows at a time differently",
    ),
    "one row at a time": (
        "float[1, 2] x",
        "float[1, 1] p",
        ONE.replace("p =", "q =") + " s = Constant <value = int64[2] {1, 1}> () p = Reshape(q, s)",
        {},
        "fails on ordinary rows|exported for 1 at a time",
    ),
    "a gap that becomes NaN": (
        MATRIX,
        "float[n, 1] p",
        ONE,
        {"record": GAP},
        "record.age may be missing, .* answers NaN",
    ),
    "a gap in whole numbers": (
        "int64[n, 2] m",
        "float[n, 1] p",
        "x = Cast <to = 1> (m) " + ONE,
        {"record": GAP},
        "record.age may be missing, .* where nothing can be missing",
    ),
    "a word that it does not know": (
        "string[n, 1] plan",
        "float[m, 1] p",
        ' y = ai.onnx.ml.OneHotEncoder <cats_strings = ["a", "b"], zeros = 0> (plan)'
        " s = ReduceMax <keepdims = 0> (y, row) p = Reshape(s, column) ",
        {"record": TEXTS},
        "takes only the values of 'plan' that it knows",
    ),
    "old operators": (MATRIX, "float[n, 2] p", "p = Sigmoid(x)", {"opset": 7}, "uses version 7 of the ONNX operators"),
    "an operator of the future": (
        MATRIX,
        "float[n, 1] p",
        "p = Sigmoide(x)",
        {},
        "ONNX Runtime .* cannot run .*Sigmoide",
    ),
    "operators of the future": (
        MATRIX,
        "float[n, 2] p",
        "p = Sigmoid(x)",
        {"opset": 999},
        "cannot run toy.onnx: ONNX Runtime only .* Opset 999",
    ),
    "the target as a field": (MATRIX, "float[n, 1] p", ONE, {"target": "age"}, "record.age is the target"),
    "a datetime": (MATRIX, "float[n, 1] p", ONE, {"record": {"at": {"type": "datetime"}}}, "schema.record.at.type"),
}


@pytest.mark.parametrize(("inputs", "output", "body", "schema", "message"), REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_imported_is_refused_with_the_fix(tmp_path, inputs, output, body, schema, message):
    path = written(tmp_path, inputs, output, body, schema.get("opset", 18))
    schema = BINARY | {key: value for key, value in schema.items() if key != "opset"}
    with pytest.raises(UserError, match=message) as refused:
        import_model(path, schema, CONFIG)
    assert refused.value.fix
    assert not (tmp_path / "runs").exists()  # nothing is left behind


@pytest.mark.parametrize(
    ("name", "content", "fix"),
    [
        ("cut.onnx", None, "write it again"),
        ("empty.onnx", b"", "write it again"),
        ("text.onnx", b"not a graph at all", "write it again"),
        ("model.pkl", b"\x80\x04\x95", "skl2onnx.to_onnx"),
        ("model.keras", b"PK\x03\x04", "model.export"),
        ("model.json", b'{"learner": {}}', "convert_xgboost"),
        ("model.pt", b"PK\x03\x04", "torch.onnx.export"),
    ],
)
def test_a_file_that_is_no_graph_is_reported_as_such(tmp_path, name, content, fix):
    whole = written(tmp_path, MATRIX, "float[n, 1] p", ONE).read_bytes()
    (tmp_path / name).write_bytes(whole[:-30] if content is None else content)
    with pytest.raises(UserError, match=f"{name} is not an ONNX file, or not a whole one.*\n.*{fix}"):
        import_model(tmp_path / name, BINARY, CONFIG)
    with pytest.raises(UserError, match="cannot read .*: Is a directory"):
        import_model(tmp_path, BINARY, CONFIG)


def labelled(n: int = 200) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    rows = pl.DataFrame({"age": rng.uniform(0, 100, n), "visits": rng.integers(0, 12, n)})
    logit = (rows["age"] / 100 - rows["visits"] / 10).to_numpy()
    return rows.with_columns(late=pl.Series((rng.random(n) < 1 / (1 + np.exp(-5 * logit))).astype(int)))


def test_without_rows_it_waits_for_a_person_and_a_reason(tmp_path):
    path, registry = written(tmp_path, MATRIX, "float[n, 1] p", ONE), Registry.open(CONFIG.registry)
    version = import_model(path, BINARY, CONFIG)
    assert registry.champion() == "" and version.gate["reasons"] == [
        "nothing was measured: no labelled rows were given (--rows)"
    ]
    assert not version.gate["passed"]
    with pytest.raises(UserError, match="no version is the champion yet"):
        deploy(CONFIG.registry, ServeConfig())
    with pytest.raises(UserError, match="was never measured.*needs a reason"):
        registry.promote(version.version, reason=" ")
    assert import_model(path, BINARY, CONFIG).version == version.version  # it is its content
    assert [entry.action for entry in registry.history()] == ["register"]
    registry.promote(version.version, reason="measured where it was trained")
    assert registry.champion() == version.version


def test_with_rows_it_passes_the_same_gate(tmp_path):
    path, registry = written(tmp_path, MATRIX, "float[n, 1] p", ONE), Registry.open(CONFIG.registry)
    waiting = import_model(path, BINARY, CONFIG)
    strict = replace(CONFIG, evaluate=EvaluateConfig(gate={"auc": BoundConfig(min=0.99)}))
    with pytest.raises(GateError, match="auc .* is below 0.99"):
        import_model(path, BINARY, strict, labelled())
    version = import_model(path, BINARY, CONFIG, labelled())
    assert registry.champion() == version.version != waiting.version
    assert version.metrics["test"].keys() == {"notebento", "constant"}
    assert version.gate["passed"] and version.comparison["differences"]["test"].keys() == {"constant"}
    other = import_model(path, BINARY | {"threshold": 0.7}, CONFIG, labelled())
    assert registry.champion() == version.version  # a later one waits
    assert other.comparison["differences"]["test"].keys() == {"constant", "champion"}
    reference = load(registry.bundle(version.version) / "reference.json")
    assert reference["rows"] == 200 and reference["numeric"].keys() == {"age", "visits"}
    assert load(registry.bundle(waiting.version) / "reference.json")["rows"] == 0


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"late": None}, "no column 'late', the target"),
        ({"visits": None}, "no column 'visits', a field"),
        ({"age": "old"}, "column 'age' is String, and the schema says number"),
        ({"age": float("nan")}, "column 'age' is required, and 200 of 200 rows"),
        ({"late": 2}, "'late' contains 2, and the classes are 0, 1"),
    ],
)
def test_rows_that_do_not_fit_are_reported_by_column(tmp_path, change, message):
    path, (name, value) = written(tmp_path, MATRIX, "float[n, 1] p", ONE), next(iter(change.items()))
    rows = labelled().drop(name) if value is None else labelled().with_columns(pl.lit(value).alias(name))
    rows.write_csv(tmp_path / "rows.csv")
    with pytest.raises(UserError, match=message):
        import_model(path, BINARY, CONFIG, tmp_path / "rows.csv")


def test_the_answers_of_the_original_show_a_wrong_conversion(tmp_path):
    path = written(tmp_path, MATRIX, "float[n, 1] p", ONE)
    rows = labelled()
    right = 1 / (1 + np.exp(-(rows["age"] / 100 - rows["visits"] / 10).to_numpy()))
    kept = import_model(path, BINARY, CONFIG, rows.with_columns(own=pl.Series(right)), expected="own")
    assert import_model(path, BINARY, CONFIG, rows, expected=right).version == kept.version
    wrong = right.copy()
    wrong[17] += 1e-4
    with pytest.raises(UserError, match="toy.onnx answers 1 of 200 rows differently .*: row 18 with"):
        import_model(path, BINARY, CONFIG, rows.with_columns(own=pl.Series(wrong)), expected="own")
    with pytest.raises(UserError, match="no column of numbers 'owns', .* Did you mean 'own'"):
        import_model(path, BINARY, CONFIG, rows.with_columns(own=pl.Series(right)), expected="owns")
    with pytest.raises(UserError, match="have the shape .199,., and toy.onnx answers .200,."):
        import_model(path, BINARY, CONFIG, rows, expected=right[1:])


def test_a_model_card_names_where_it_comes_from(tmp_path):
    path = written(tmp_path, MATRIX, "float[n, 1] p", ONE)
    version = import_model(path, BINARY, CONFIG, command="notebento models import toy.onnx")
    schema = load(Registry.open(CONFIG.registry).bundle(version.version) / "schema.json")
    text = card(version, CONFIG.registry.card, schema)
    for fact in (
        "trained elsewhere",
        "`toy.onnx`",
        "`toy 7`",
        version.lineage.imported["sha256"][:16],
        "had nothing to judge",
    ):
        assert fact in text
    assert "    notebento models import toy.onnx\n" in text


def test_a_version_whose_golden_predictions_differ_is_not_served(tmp_path):
    version = import_model(written(tmp_path, MATRIX, "float[n, 1] p", ONE), BINARY, CONFIG)
    bundle = Registry.open(CONFIG.registry).bundle(version.version)
    load_version(Deployment(str(bundle), version.version, ServeConfig()))
    cases = load(bundle / "golden.json")
    save(bundle / "golden.json", [case | {"expected": case["expected"] + 1e-3} for case in cases])
    with pytest.raises(NotebentoError, match="differs from its golden predictions by 0.001"):
        load_version(Deployment(str(bundle), version.version, ServeConfig()))


def frame_of_customers(n: int = 400):
    import pandas as pd

    rng = np.random.default_rng(0)
    table = pd.DataFrame(
        {"age": rng.normal(40, 10, n), "income": rng.normal(3, 1, n), "plan": rng.choice(["a", "b"], n)}
    )
    table = table.astype({"age": "float32", "income": "float32"})
    table.loc[rng.random(n) < 0.2, "income"] = np.nan
    leaves = rng.random(n) < 1 / (1 + np.exp(-(table["age"] - 40) / 5))
    return table, np.where(leaves, "yes", "no")


CHURN = {
    "task": "binary",
    "target": "churned",
    "classes": ["no", "yes"],
    "record": {"age": {"type": "number"}, "income": {"type": "number", "required": False}, "plan": {"type": "string"}},
}


def scikit_learn(folder: Path) -> tuple[Path, pl.DataFrame, np.ndarray]:
    """A pipeline with numbers that have gaps and a text, its file, rows, and what it says of them itself."""
    skl2onnx = pytest.importorskip("skl2onnx")
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    table, churned = frame_of_customers()
    numbers = make_pipeline(SimpleImputer(), StandardScaler())
    columns = [("n", numbers, ["age", "income"]), ("t", OneHotEncoder(handle_unknown="ignore"), ["plan"])]
    model = make_pipeline(ColumnTransformer(columns), LogisticRegression()).fit(table[:200], churned[:200])
    (folder / "churn.onnx").write_bytes(skl2onnx.to_onnx(model, table[:1]).SerializeToString())
    rows = pl.DataFrame({name: table[name].tolist() for name in table}).with_columns(
        churned=pl.Series(churned.tolist())
    )
    return folder / "churn.onnx", rows[200:], model.predict_proba(table[200:])[:, 1]


@pytest.mark.server
def test_a_pipeline_of_scikit_learn_is_served_as_it_predicts(tmp_path):
    file, rows, expected = scikit_learn(tmp_path)
    drafted = tried_draft(read_graph(file))
    assert drafted["classes"] == ["no", "yes"] and not any(field["required"] for field in drafted["record"].values())
    version = import_model(file, CHURN, CONFIG, rows)
    registry = Registry.open(CONFIG.registry)
    assert registry.champion() == version.version and version.lineage.imported["producer"].startswith("skl2onnx")
    clients = rows.drop("churned").with_columns(pl.col("income").fill_nan(None))
    serve = ServeConfig(port=free_port())
    folder = deploy(CONFIG.registry, serve)
    with process(*server(folder, serve), folder, serve.port) as (_, client):
        settled(client, "/readyz", 200)
        answered = client.post("/predict", json={"records": clients.to_dicts()}).json()
        unknown = client.post("/predict", json={"records": [{"age": 40, "plan": "new"}]}).json()[0]
        refused = client.post("/predict", json={"records": [{"income": 3, "plan": "a"}]})
    assert np.abs([a["probability"] for a in answered] - expected).max() < 1e-6
    assert {a["prediction"] for a in answered} == {"no", "yes"}
    assert unknown["degraded"] == {"missing": ["income"]}
    assert refused.status_code == 422 and refused.json()["error"] == "records[0]: 'age' is missing"


def test_trees_of_xgboost_predict_as_they_did(tmp_path):
    xgboost, onnxmltools = pytest.importorskip("xgboost"), pytest.importorskip("onnxmltools")
    from onnxmltools.convert.common.data_types import FloatTensorType

    table, churned = frame_of_customers()
    numbers = table[["age", "income"]].to_numpy()
    model = xgboost.XGBClassifier(n_estimators=15, max_depth=3, n_jobs=1).fit(
        numbers[:200], (churned[:200] == "yes") * 1
    )
    graph = onnxmltools.convert_xgboost(model, initial_types=[("input", FloatTensorType([None, 2]))])
    (tmp_path / "trees.onnx").write_bytes(graph.SerializeToString())
    schema = CHURN | {"record": {name: CHURN["record"][name] for name in ("age", "income")}}
    rows = pl.DataFrame({"age": numbers[200:, 0], "income": numbers[200:, 1], "churned": churned[200:].tolist()})
    version = import_model(tmp_path / "trees.onnx", schema, CONFIG, rows)
    graph = Graph.load(Registry.open(CONFIG.registry).bundle(version.version))
    assert np.abs(graph.predict(rows) - model.predict_proba(numbers[200:])[:, 1]).max() < 1e-6


def test_the_command_imports_shows_and_explains(tmp_path, monkeypatch):
    from notebento.cli.main import app

    (tmp_path / "conf").mkdir()
    (tmp_path / "conf" / "config.yaml").write_text("defaults: [notebento, _self_]\nproject: {name: toy}\n")
    monkeypatch.chdir(tmp_path)
    file = written(tmp_path, MATRIX, "float[n, 1] p", ONE)
    save(tmp_path / "schema.json", BINARY)
    labelled().write_parquet(tmp_path / "rows.parquet")

    def ran(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
        assert result.exit_code == 0, result.output
        return result.output

    assert json.loads(ran("import", file.name, "--draft"))["record"].keys() == {"column_1", "column_2"}
    assert "waits for a decision" in ran("import", file.name, "--schema", "schema.json")
    assert "is the champion" in ran("import", file.name, "--schema", "schema.json", "--rows", "rows.parquet")
    command = "notebento models import toy.onnx --schema schema.json --rows rows.parquet"
    assert command in ran("show", "champion") and "toy 7" in ran("show", "champion")
    assert command in ran("card", "champion")
    assert "nothing was measured" in ran("history").splitlines()[0]
    result = CliRunner().invoke(app, ["models", "import", file.name])
    assert result.exit_code == 2 and "--draft > schema.json" in result.output


def test_nothing_of_the_other_library_is_needed_to_answer(tmp_path):
    version = import_model(written(tmp_path, MATRIX, "double[n, 2] q", TWO + " q = Cast <to = 11> (p)"), BINARY, CONFIG)
    content = (Registry.open(CONFIG.registry).bundle(version.version) / "model.onnx").read_bytes()
    session = ort.InferenceSession(content)
    assert [(i.name, i.type) for i in session.get_inputs()] == [("numeric", "tensor(float)")]
    assert [(o.name, o.type) for o in session.get_outputs()] == [("probability", "tensor(float)")]
    assert onnx.load_model_from_string(content).producer_name == "toy"  # who wrote it is still said
