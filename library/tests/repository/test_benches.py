"""The benches of models run from a checkout, and measure."""

import subprocess
import sys
from pathlib import Path

import onnx.parser
import pytest

pytestmark = pytest.mark.process

TWO_INPUTS = """
<ir_version: 10, opset_import: ["" : 18, "ai.onnx.ml" : 3]>
late (float[n, 1] numeric, string[n, 1] categorical) => (float[n, 1] probability) {
    carrier = ai.onnx.ml.LabelEncoder
        <keys_strings = ["B6", "UA"], values_floats = [0.5, -0.5], default_float = 0.0> (categorical)
    logit = Add(numeric, carrier)
    probability = Sigmoid(logit)
}"""


def measured(repository: Path, bench: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, repository / "library" / "bench" / bench, *arguments]
    return subprocess.run(command, capture_output=True, text=True)


def test_graph_bench_prints_a_line_for_each_batch_size(repository: Path, tmp_path: Path) -> None:
    (tmp_path / "model.onnx").write_bytes(onnx.parser.parse_model(TWO_INPUTS).SerializeToString())
    done = measured(repository, "graph.py", tmp_path, "--seconds", "0.1")
    assert done.returncode == 0, done.stderr
    assert "µs a record" in done.stdout and done.stdout.count("\n") == 4


def test_training_bench_prints_a_ratio_and_both_rates(repository: Path) -> None:
    done = measured(repository, "training.py", "--rows", "4096", "--rounds", "1")
    assert "lightning / plain = " in done.stdout and "rows/s; goal 0.9" in done.stdout, done.stderr
