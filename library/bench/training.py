"""Lightning's training loop against a plain PyTorch loop: the same model, the same batches, in one run, in turns.

    python3 library/bench/training.py [--rows 16384] [--rounds 8]

The network and the rows have the flights' shape. Lightning's side is what a run uses: schedule, gradient clipping,
moving average and loss records included. The plain side does nothing but forward, backward and step. A step is timed
from one batch's start to the next one's; the lower quartile of all steps counts, since other work on the machine only
ever makes one slower. Exits with 1 when the ratio is below 0.9.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2] / "scripts"))
import environment

environment.inside("train")

import os

os.environ.setdefault("OMP_WAIT_POLICY", "passive")  # before torch: threads that spin would measure each other

import argparse
import copy
import tempfile
import time
from typing import Any

import numpy as np
import torch
from pytorch_lightning import LightningModule
from pytorch_lightning.callbacks import Callback

from notebento.core.config import TrainerConfig
from notebento.models.base import Inputs, Rows, TensorRows
from notebento.training.callbacks import Batches
from notebento.training.trainer import LightningTrainer

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from networks import TabM

NUMERIC, CATEGORIES = 150, (3, 16, 105, 7, 19, 35, 127)
GOAL, THREADS, BATCH = 0.9, 2, 1024


class Capture:
    """A trainer that keeps what it is asked to train."""

    settings = TrainerConfig(epochs=1, batch_size=BATCH, wandb="disabled")
    seed, threads, work = 0, 1, Path()

    def fit(self, module: LightningModule, train: TensorRows, validation: TensorRows) -> list[dict[str, float]]:
        self.module, self.train, self.validation = module, train, validation
        return []


class Clock(Callback):
    """When each batch started."""

    def __init__(self) -> None:
        self.times: list[float] = []

    def on_train_batch_start(self, *_: Any) -> None:
        self.times.append(time.perf_counter())


class Timed(LightningTrainer):
    """The trainer of a run, and a clock."""

    def _callbacks(self, *arguments: Any) -> list[Callback]:
        self.clock = Clock()
        return [*super()._callbacks(*arguments), self.clock]


def flights(rows: int) -> Rows:
    """Random rows of the flights' shape, some of them missing."""
    rng = np.random.default_rng(0)
    numeric = rng.normal(size=(rows, NUMERIC)).astype(np.float32)
    numeric[rng.random(numeric.shape) < 0.02] = np.nan
    words = np.stack([rng.integers(n, size=rows).astype(str).astype(object) for n in CATEGORIES], 1)
    names = tuple(f"x{i}" for i in range(NUMERIC)), tuple(f"c{i}" for i in range(len(CATEGORIES)))
    inputs = Inputs(task="binary", target="late", numeric=names[0], categorical=names[1])
    return Rows(inputs, numeric, words, rng.integers(2, size=rows))


def by_hand(module: LightningModule, batches: Batches) -> list[float]:
    """When each batch of the plain loop's epoch started."""
    optimizer = torch.optim.AdamW(module.parameters(), lr=2.5e-3, weight_decay=1e-2)
    module.train()
    times = []
    for batch in batches:
        times.append(time.perf_counter())
        optimizer.zero_grad()
        loss: Any = module.training_step(batch)
        loss.backward()
        optimizer.step()
    return times


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=16_384)
    parser.add_argument("--rounds", type=int, default=8)
    options = parser.parse_args()
    seen, settings = Capture(), Capture.settings
    TabM().fit(flights(options.rows), flights(1024), seen)
    torch.set_num_threads(THREADS)
    seconds: dict[str, list[float]] = {"lightning": [], "plain": []}
    for _ in range(options.rounds):
        seconds["plain"] += np.diff(by_hand(copy.deepcopy(seen.module), Batches(seen.train, BATCH, 0))).tolist()
        trainer = Timed(settings, 0, THREADS, Path(tempfile.mkdtemp()))
        trainer.fit(copy.deepcopy(seen.module), seen.train, seen.validation)
        seconds["lightning"] += np.diff(trainer.clock.times).tolist()
    rate = {name: BATCH / np.quantile(times, 0.25) for name, times in seconds.items()}
    ratio = rate["lightning"] / rate["plain"]
    print(f"lightning / plain = {ratio:.3f}  ({rate['lightning']:,.0f} / {rate['plain']:,.0f} rows/s; goal {GOAL})")
    sys.exit(int(ratio < GOAL))


if __name__ == "__main__":
    main()
