"""What a fit costs: measures the rates of training/plan, in seconds of one core.

    python3 library/bench/costs.py [--quick]

A plan is made from these rates before anything is fitted, so they are part of the library and not measured by a run.
Time is that of the processor, not of the clock, on one thread, so that other work on the machine counts little. Prints
each fit as planned, as measured, and their ratio; exits with 1 where one is off by more than four.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import environment

environment.inside("train")

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")

import argparse
import time
from dataclasses import dataclass

import msgspec
import numpy as np

from notebento.core.config import TrainerConfig
from notebento.models.base import Inputs, Model, Rows, Task
from notebento.models.forest import ExtraTrees
from notebento.models.lightgbm import LightGBM
from notebento.models.linear import Linear
from notebento.training.auto import StepTrainer
from notebento.training.plan import Size, network_seconds, seconds

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from networks import TabM

TASKS: tuple[Task, ...] = ("binary", "multiclass", "regression")


@dataclass
class Case:
    """A model, and the table on which it is measured."""

    model: Model
    task: Task
    rows: int
    numbers: int
    steps: int | None = None


def table(case: Case) -> Rows:
    """Rows whose target depends a little on each number."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(case.rows, case.numbers)).astype(np.float32)
    score = x.mean(1) * case.numbers**0.5 + rng.normal(size=case.rows)
    names = tuple(f"x{j}" for j in range(case.numbers))
    several = case.task == "multiclass"
    inputs = Inputs(
        task=case.task, target="y", numeric=names, categorical=(), classes=("a", "b", "c") if several else None
    )
    cut = {"binary": (score > 0).astype(np.int64), "multiclass": np.digitize(score, (-0.7, 0.7))}
    return Rows(inputs, x, np.empty((case.rows, 0), object), cut.get(case.task, score))


def measured(case: Case) -> tuple[float, float]:
    """Seconds as planned, and as measured."""
    rows = table(case)
    size = Size.of(rows)
    planned = (
        network_seconds(case.model, size, case.rows, case.steps)
        if isinstance(case.model, TabM) and case.steps
        else seconds(case.model, size, case.rows)
    )
    trainer = StepTrainer(TrainerConfig(wandb="disabled"), 0, 1, Path(), case.steps or 1)
    start = time.process_time()
    case.model.fit(rows, rows[:100], trainer)
    return planned, time.process_time() - start


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="tables of 2,000 rows only")
    quick, off = parser.parse_args().quick, False
    trees = msgspec.structs.replace(LightGBM(), num_boost_round=100, early_stopping_round=0)
    models: list[tuple[Model, int | None]] = [
        (Linear(splines=8), None),
        (Linear(), None),
        (trees, None),
        (ExtraTrees(), None),
        (TabM(k=4, width=128), 200),
    ]
    for rows in (2_000,) if quick else (500, 2_000, 50_000):
        for model, steps in models:
            for task in TASKS:
                case = Case(model, task, rows, 20, steps)
                measured(Case(model, task, 200, 20, 1 if steps else None))  # imports, and what else is done once
                planned, found = measured(case)
                ratio = found / planned
                off |= not 0.25 < ratio < 4 and found > 1
                name = f"{type(model).__name__:10} {task:10} {rows:7,} rows"
                print(f"{name}: planned {planned:7.2f} s, {found:7.2f} s, {ratio:.2f}", flush=True)
    sys.exit(int(off))


if __name__ == "__main__":
    main()
