"""Small trainings, completely described, on real tables."""

import json
from pathlib import Path

import polars as pl
from sklearn.datasets import load_breast_cancer, load_diabetes, load_wine

from notebento.core.config import TrainerConfig, convert, plain
from notebento.training.job import TrainingJob

DATA = {"binary": load_breast_cancer, "multiclass": load_wine, "regression": load_diabetes}


def settings(**changes) -> TrainerConfig:
    small = {"epochs": 4, "batch_size": 64, "ema_decay": 0.9, "patience": 0, "accelerator": "cpu", "wandb": "disabled"}
    return convert(plain(TrainerConfig()) | small | changes, TrainerConfig)


def job(folder: Path, task: str = "binary", model: dict | None = None, **changes) -> TrainingJob:
    """A training on a small real table, its artifacts in `folder`."""
    x, y = DATA[task](return_X_y=True)
    names = [f"x{i}" for i in range(x.shape[1])]
    frame = pl.DataFrame(x, names).cast(pl.Float32).with_columns(row=pl.int_range(pl.len()), y=pl.Series(y))
    frame = frame.with_columns(size=pl.when(pl.col("x0") > pl.col("x0").median()).then(pl.lit("large")))
    schema = {"task": task, "target": "y", "numeric": names, "categorical": ["size"]}
    schema |= {"classes": [0, 1, 2]} if task == "multiclass" else {}
    parts = {"train": [0.0, 0.7], "validation": [0.7, 0.85], "test": [0.85, 1.0]}
    work = folder / "work" / "train"
    work.mkdir(parents=True, exist_ok=True)
    inputs = {name: folder / name for name in ("features.parquet", "schema.json", "split.json")}
    frame.write_parquet(inputs["features.parquet"])
    inputs["schema.json"].write_text(json.dumps(schema))
    inputs["split.json"].write_text(json.dumps({"by": None, "key": ["row"], "target": "y", **parts}))
    node = model or {"_target_": "networks.TabM", "k": 2, "width": 16, "bins": 4, "blocks": 1, "lr": 0.01}
    paths = {name: str(path) for name, path in inputs.items()}
    return TrainingJob(node, settings(**changes), 7, 1, str(folder), str(work), paths)
