"""Training: to the same bits, through interruptions, and on several processes."""

import copy
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import psutil
import pytest
import torch
from jobs import job, settings

from notebento.core.artifacts import digest
from notebento.core.config import Config, Node, PipelineConfig, StageConfig, build
from notebento.core.errors import NotebentoError, UserError
from notebento.core.stage import Stage
from notebento.models.base import TensorRows, load_fitted
from notebento.training.calibration import calibrate
from notebento.training.callbacks import Batches, one_cycle, seed_of
from notebento.training.job import TrainingJob, facts, fit
from notebento.training.processes import supervise
from notebento.training.trainer import LightningTrainer, loss_curves

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("importable_tests")]


def saved(fitted, folder: Path) -> str:
    """The digest of the fitted model as files."""
    folder.mkdir()
    fitted.save(folder)
    return digest(folder)


def interrupted(description: TrainingJob, epoch: int) -> None:
    """Train until `epoch` is over, then fail before its checkpoint is written."""

    def power_cut(record):
        if record["epoch"] == epoch:
            raise ConnectionAbortedError

    runner = LightningTrainer(description.trainer, description.seed, 1, Path(description.work), on_epoch=power_cut)
    rows = description.rows()
    with pytest.raises(ConnectionAbortedError):
        build(description.model).fit(rows["train"], rows["validation"], runner)


@pytest.mark.parametrize("epoch", [1, 2, 4])
def test_resumed_equals_uninterrupted(tmp_path, epoch):
    whole = fit(job(tmp_path / "whole"))
    other = job(tmp_path / "other")
    interrupted(other, epoch)
    checkpoints = list(Path(other.work).glob("*.ckpt"))
    assert len(checkpoints) == (1 if epoch > 1 else 0)
    resumed = fit(other)
    assert resumed.history == whole.history
    assert saved(resumed, tmp_path / "a") == saved(whole, tmp_path / "b")
    assert not list(Path(other.work).glob("*.ckpt"))


def test_a_checkpoint_serves_only_its_own_training(tmp_path):
    first = job(tmp_path)
    interrupted(first, 3)
    fresh = fit(msgspec.structs.replace(first, trainer=settings(epochs=3)))
    assert [record["epoch"] for record in fresh.history] == [1, 2, 3]
    assert fresh.history == fit(msgspec.structs.replace(first, trainer=settings(epochs=3))).history


def test_another_learning_rate_is_another_training(tmp_path):
    first = job(tmp_path)
    interrupted(first, 3)
    assert list(Path(first.work).glob("*.ckpt"))
    faster = msgspec.structs.replace(first, model=first.model | {"lr": 0.05})
    history = fit(faster).history
    assert len(history) == 4 and history == fit(faster).history


def test_resuming_a_training_that_had_stopped_early_does_not_go_on(tmp_path, monkeypatch):
    model = {"_target_": "networks.TabM", "k": 2, "width": 16, "bins": 4, "blocks": 1, "lr": 0.05}
    description = job(tmp_path, model=model, epochs=40, patience=2, schedule="constant", ema_decay=0.0)
    with monkeypatch.context() as patch:  # as if the process had died after its last checkpoint
        patch.setattr(Path, "unlink", lambda self, **_: None)
        whole = fit(description)
    assert 2 < len(whole.history) < 40
    assert list(Path(description.work).glob("*.ckpt"))
    resumed = fit(description)
    assert resumed.history == whole.history
    assert saved(resumed, tmp_path / "a") == saved(whole, tmp_path / "b")


PROGRAM = """
import sys
from pathlib import Path
import msgspec
from notebento.training.job import TrainingJob, fit
job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=TrainingJob)
fitted = fit(job, sys.stdout)
fitted.save(Path(sys.argv[2]))
"""


def test_a_killed_and_resumed_process_agrees_with_this_one_to_the_byte(tmp_path):
    calm = fit(job(tmp_path / "calm", epochs=30))
    description = job(tmp_path / "killed", epochs=30)
    (tmp_path / "job.json").write_bytes(msgspec.json.encode(description))
    (tmp_path / "fitted").mkdir()
    command = [sys.executable, "-c", PROGRAM, tmp_path / "job.json", tmp_path / "fitted"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("epoch 12/"):
                process.kill()
    assert list(Path(description.work).glob("*.ckpt"))
    again = subprocess.run(command, check=True, capture_output=True, text=True)
    assert "epoch 1/" not in again.stdout and "epoch 30/" in again.stdout
    assert digest(tmp_path / "fitted") == saved(calm, tmp_path / "calm" / "fitted")


class Capture:
    """A trainer that only looks at what it is asked to train."""

    settings, seed, threads, work = settings(), 7, 1, Path()

    def fit(self, module, rows, validation):
        self.module, self.rows, self.validation = copy.deepcopy(module), rows, validation
        return [{"epoch": 1, "loss": 0.0, "validation_loss": 0.0}]


def test_lightning_does_what_a_plain_loop_does_to_the_bit(tmp_path):
    """Schedule, clipping, order, dropout and moving average, written out."""
    description = job(tmp_path)
    rows, seen = description.rows(), Capture()
    build(description.model).fit(rows["train"], rows["validation"], seen)
    ours, plain_one = copy.deepcopy(seen.module), copy.deepcopy(seen.module).train()
    assert any(isinstance(part, torch.nn.Dropout) for part in plain_one.modules())
    s = description.trainer
    history = LightningTrainer(s, 7, 1, tmp_path).fit(ours, seen.rows, seen.validation)
    threads, _ = torch.get_num_threads(), torch.set_num_threads(1)
    weights, batches, peak = list(plain_one.parameters()), Batches(seen.rows, s.batch_size, 7), plain_one.settings.lr
    optimizer = torch.optim.AdamW(weights, lr=peak, weight_decay=1e-2)
    average, step, steps = [w.detach().clone() for w in weights], 0, s.epochs * len(batches)
    for batches.epoch in range(s.epochs):
        torch.manual_seed(seed_of(7, batches.epoch, 0))
        for batch in batches:
            optimizer.param_groups[0]["lr"] = peak * one_cycle(step, steps, s.warmup)
            loss = plain_one.training_step(batch)
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(weights, s.gradient_clip)
            optimizer.step()
            step += 1
            with torch.no_grad():
                rate = max(1 - s.ema_decay, 1 / step)
                average = [torch.lerp(a, w, rate) for a, w in zip(average, weights, strict=True)]
    torch.set_num_threads(threads)
    assert min(history, key=lambda r: r["validation_loss"])["epoch"] == s.epochs  # the average of the last step
    for mine, theirs in zip(ours.parameters(), average, strict=True):
        assert torch.equal(mine, theirs)


@pytest.mark.parametrize("task", ["multiclass", "regression"])
def test_other_tasks_train_and_are_calibrated(tmp_path, task):
    description = job(tmp_path, task, epochs=12, batch_size=32)
    fitted = fit(description)
    assert fitted.history[-1]["validation_loss"] < fitted.history[0]["validation_loss"]
    rows = description.rows()
    warmer, calibration = calibrate(fitted, rows["validation"])
    if task == "regression":
        assert calibration == {} and warmer is fitted
    else:
        assert calibration["after"] <= calibration["before"]
        assert warmer.temperature == calibration["temperature"]


def test_lightgbm_goes_through_the_same_stage(tmp_path):
    description = job(tmp_path, model={"_target_": "notebento.models.lightgbm.LightGBM"})
    rows = description.rows()
    fitted, calibration = calibrate(fit(description), rows["validation"])
    assert calibration["after"] < 0.3
    loss_curves(fitted.history)
    json.dumps(facts(description, fitted, rows, calibration))


def test_the_interrupt_key_works_and_goes_on_working(tmp_path):
    def press(record):
        os.kill(os.getpid(), signal.SIGINT)

    description = job(tmp_path)
    rows = description.rows()
    for _ in range(2):
        runner = LightningTrainer(description.trainer, 7, 1, Path(description.work), on_epoch=press)
        with pytest.raises(KeyboardInterrupt):
            build(description.model).fit(rows["train"], rows["validation"], runner)
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert not torch.are_deterministic_algorithms_enabled()


def test_half_precision_and_wandb(tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_ERROR_REPORTING", "false")
    description = job(tmp_path, precision="bf16", wandb="offline", epochs=2)
    fitted = fit(description)
    assert next(fitted.network.parameters()).dtype == torch.float32
    assert list(Path(description.work).glob("wandb/offline-run-*/*.wandb"))
    assert not [p for p in psutil.Process().children(recursive=True) if "wandb" in p.name()]


def test_the_best_of_a_search_replaces_the_configuration(tmp_path):
    description = job(tmp_path)
    best = tmp_path / "best.json"
    best.write_text(json.dumps({"overrides": {"model.lr": 0.5, "trainer.batch_size": 8}, "value": 0.1, "trials": 3}))
    inputs = {name: Path(path) for name, path in description.inputs.items()}
    stage = StageConfig("train.ipynb", ("model", "trainer"))
    config = Config(model=Node(description.model), pipeline=PipelineConfig(stages={"train": stage}))
    tuned = TrainingJob.of(Stage("train", config, tmp_path, inputs | {"best.json": best}))
    assert (tuned.model["lr"], tuned.trainer.batch_size) == (0.5, 8)
    untuned = TrainingJob.of(Stage("train", config, tmp_path, inputs))
    assert untuned.model["lr"] == config.model["lr"]
    assert untuned.trainer == config.trainer


# Several processes. Starting them costs seconds, so there are few of these.


def torchrun(script: Path, *arguments: str) -> list[str]:
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--local-addr=127.0.0.1", "--tee=3"]
    return [*start, "--nproc-per-node=2", f"--log-dir={script.parent / 'logs'}", str(script), *arguments]


def test_two_devices_learn_what_one_learns_and_agree(tmp_path, capsys):
    alone = fit(job(tmp_path / "alone", epochs=8))
    together = job(tmp_path / "together", epochs=8, devices=2)
    fitted = fit(together, sys.stdout)
    assert "epoch 8/8" in capsys.readouterr().out
    assert len(fitted.history) == 8
    losses = [f.history[-1]["validation_loss"] for f in (alone, fitted)]
    assert losses[0] == pytest.approx(losses[1], abs=0.03)
    assert not psutil.Process().children(recursive=True)

    script = tmp_path / "script.py"  # the same training, but every rank saves what it has
    script.write_text(
        "import os, sys, msgspec; from pathlib import Path; from notebento.training.job import TrainingJob, fit_here\n"
        "job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=TrainingJob)\n"
        "folder = Path(sys.argv[2]) / os.environ['RANK']; folder.mkdir()\n"
        "fit_here(job).save(folder)\n"
    )
    (tmp_path / "ranks").mkdir()
    supervise(torchrun(script, str(Path(together.work) / "worker.json"), str(tmp_path / "ranks")), None, 1)
    saved(fitted, tmp_path / "fitted")
    digests = {digest(folder) for folder in (tmp_path / "ranks" / "0", tmp_path / "ranks" / "1", tmp_path / "fitted")}
    assert len(digests) == 1
    assert load_fitted(tmp_path / "fitted").temperature == 1.0


def test_a_process_that_dies_is_named_with_its_last_words(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(
        "import os, sys, time\n"
        "if os.environ['RANK'] == '1':\n"
        "    print('I see a light', flush=True)\n"
        "    sys.exit(2) if sys.argv[1] == 'exit' else os.kill(os.getpid(), 9)\n"
        "time.sleep(60)\n"
    )
    last_words = r"training process 1 of 2 was killed by SIGKILL.*\nI see a light"
    with pytest.raises(NotebentoError, match=last_words) as error:
        supervise(torchrun(script, "kill"), None, 1)
    assert not isinstance(error.value, UserError)
    with pytest.raises(UserError, match=r"training process 1 of 2 ended with status 2.*\nI see a light"):
        supervise(torchrun(script, "exit"), None, 1)


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGKILL])
def test_no_process_survives_the_notebook(tmp_path, how):
    """Interrupted or killed: what it started is gone."""
    script = tmp_path / "script.py"
    script.write_text(
        "import os, time; from notebento.training.processes import end_with_parent\n"
        "end_with_parent()\n"
        "print(os.getpid(), flush=True)\n"
        "time.sleep(60)\n"
    )
    program = (
        "import sys, json; from notebento.training.processes import supervise\n"
        "supervise(json.loads(sys.argv[1]), sys.stdout, 1)"
    )
    command = [sys.executable, "-c", program, json.dumps(torchrun(script))]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as notebook:
        pids = [int(notebook.stdout.readline().split()[-1]) for _ in range(2)]
        agent = psutil.Process(pids[0]).ppid()
        notebook.send_signal(how)
        notebook.wait(timeout=60)
    end = time.monotonic() + 20
    while (alive := [p for p in (*pids, agent) if psutil.pid_exists(p)]) and time.monotonic() < end:
        time.sleep(0.05)
    assert not alive


def test_batches_leave_no_rank_without_rows():
    ten = TensorRows({"x": torch.arange(10)})
    for size, world in ((1, 1), (4, 3), (64, 2), (3, 2)):
        shares = [[b["x"] for b in Batches(ten, size, None, rank, world)] for rank in range(world)]
        if size >= world:
            assert all(len(part) for share in shares for part in share)
        assert sorted(np.concatenate([part for share in shares for part in share])) == list(range(10))


@pytest.mark.nightly
@pytest.mark.filterwarnings("ignore:.*torch.jit.script_method:DeprecationWarning")
def test_compiled_training_learns_the_same_and_leaves_a_plain_module(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "cache"))
    model = job(tmp_path).model | {"dropout": 0.0}  # compiled, dropout draws other masks
    description = job(tmp_path, model=model)
    fitted = fit(msgspec.structs.replace(description, trainer=settings(compile=True)))
    assert fitted.history[-1] == pytest.approx(fit(description).history[-1], rel=1e-3)
    assert fitted.to_onnx().graph.node
    torch._dynamo.reset()
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path / "empty"))
    monkeypatch.setattr("torch._inductor.config.cpp.cxx", ("no-such-compiler",))
    with pytest.raises(UserError, match=r"torch.compile failed: (.|\n)*fix: trainer.compile=false"):
        fit(msgspec.structs.replace(description, trainer=settings(compile=True, epochs=3)))
