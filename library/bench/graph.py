"""How long the shipped graph takes on one thread, beside what we allow: one record, and a record in a batch of 64.

    python3 library/bench/graph.py [PATH] [--check]

PATH is a model.onnx or a folder that holds one (default: the newest run's bundle). `--check` exits 1 above a limit.
The time is that of `session.run`, strings included: what the service pays inside its batch.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import environment

environment.inside("train")

import argparse
import time

import numpy as np
import onnx
import onnxruntime as ort

from notebento.models.bundle import session

LIMITS = {1: 80.0, 64: 20.0}  # batch size -> µs a record
ROOT = Path(__file__).parents[2]


def find(path: Path) -> Path:
    """The graph at or under `path`."""
    if path.is_file():
        return path
    found = sorted(path.rglob("model.onnx"))
    if not found:
        raise SystemExit(f"{path} holds no model.onnx; name one, or make one: notebento run experiment=lab")
    return found[0]


def some_rows(path: Path, n: int) -> dict[str, np.ndarray]:
    """`n` rows for the graph: normal numbers with a tenth missing, words of its vocabulary with some unknown."""
    graph, rng = onnx.load(path).graph, np.random.default_rng(0)
    words = [k.decode() for node in graph.node for a in node.attribute if a.name == "keys_strings" for k in a.strings]
    feed = {}
    for value in graph.input:
        shape = n, value.type.tensor_type.shape.dim[1].dim_value
        if value.name == "categorical":
            feed[value.name] = rng.choice([*words, "never seen"], shape).astype(object)
        else:
            numbers = rng.standard_normal(shape).astype(np.float32)
            feed[value.name] = np.where(rng.random(shape) < 0.1, np.float32(np.nan), numbers)
    return feed


def measure(graph: ort.InferenceSession, feed: dict[str, np.ndarray], seconds: float) -> np.ndarray:
    """Seconds of each call, over about `seconds` after a warm-up."""
    for _ in range(50):
        graph.run(None, feed)
    times, end = [], time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        graph.run(None, feed)
        times.append(time.perf_counter() - start)
    return np.array(times)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("path", nargs="?", type=Path, default=ROOT / "runs" / "latest")
    parser.add_argument("--seconds", type=float, default=2.0, help="how long to measure each batch size")
    parser.add_argument("--check", action="store_true", help="exit 1 when the median is above its limit")
    arguments = parser.parse_args()
    path = find(arguments.path)
    graph = session(path.read_bytes())
    print(f"{path}: {path.stat().st_size / 1e3:.0f} kB, {len(onnx.load(path).graph.node)} nodes, one thread")
    print(f"{'batch':>6}{'median':>9}{'best 1%':>9}{'limit':>7}{'ratio':>7}   µs a record")
    slow = False
    for n, limit in LIMITS.items():
        times = measure(graph, some_rows(path, n), arguments.seconds) * 1e6 / n
        median, best = np.quantile(times, [0.5, 0.01])
        slow |= bool(median > limit)
        print(f"{n:>6}{median:>9.1f}{best:>9.1f}{limit:>7.0f}{median / limit:>7.2f}")
    return int(arguments.check and slow)


if __name__ == "__main__":
    raise SystemExit(main())
