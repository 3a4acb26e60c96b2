"""The search: it goes on where it stopped, prunes, and survives attempts that fail."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import msgspec
import optuna
import pytest
from optuna.trial import TrialState
from test_train import job

from notebento import train, tune
from notebento.core.compose import compose
from notebento.core.config import TuneConfig, convert, plain
from notebento.core.errors import NotebentoError, UserError

SPACE = {"model.lr": {"low": 1e-5, "high": 1e-1, "log": True}, "trainer.batch_size": {"choices": [32, 64]}}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def settings(**changes) -> TuneConfig:
    small = {"trials": 5, "startup": 2, "space": SPACE, "epochs": 3}
    return convert(plain(compose().tune) | small | changes, TuneConfig)


def told(study: optuna.Study) -> list:
    return [(t.params, t.value, t.state) for t in tune.counted(study)]


PROGRAM = """
import sys
from pathlib import Path
import msgspec
from notebento import train, tune
from notebento.core.config import TuneConfig
job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=train.Job)
tune.search(job, msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=TuneConfig), sys.stdout)
"""


def test_a_search_that_was_killed_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = tune.search(job(tmp_path / "whole"), settings())
    killed = job(tmp_path / "killed")
    paths = [tmp_path / "job.json", tmp_path / "tune.json"]
    for path, value in zip(paths, (killed, settings()), strict=True):
        path.write_bytes(msgspec.json.encode(value))
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *paths], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("trial 1"):
                process.kill()
    resumed = tune.search(killed, settings())
    assert told(resumed) == told(whole)
    assert tune.result(resumed) == tune.result(whole)
    assert len(tune.search(killed, settings()).trials) == len(resumed.trials)  # nothing is left to do


def test_the_result_is_what_the_train_stage_would_get(tmp_path):
    description = job(tmp_path, epochs=3)
    found = tune.result(tune.search(description, settings()))
    assert found["trials"] == 5
    assert found["value"] <= found["configured"]
    model, trainer = train.adjusted(description.model, description.trainer, found["overrides"])
    best = train.fit(msgspec.structs.replace(description, model=model, trainer=trainer))
    rows = description.rows()["validation"]
    assert train.log_loss("binary", best.logits(rows), rows.target) == found["value"]
    json.dumps(found)


def test_hopeless_attempts_end_early(tmp_path):
    study = tune.search(job(tmp_path), settings(trials=10, epochs=4))
    pruned = study.get_trials(states=[TrialState.PRUNED])
    assert pruned and all(t.last_step < 4 for t in pruned)
    assert study.best_trial.last_step == 4


def test_a_failed_attempt_is_shown_and_the_search_goes_on(tmp_path, capsys):
    space = {"model.lr": {"choices": [0.01, -1.0, 0.02]}}
    study = tune.search(job(tmp_path), settings(trials=6, space=space), sys.stdout)
    failed = study.get_trials(states=[TrialState.FAIL])
    assert failed and len(failed) < 6
    assert "failed with ValueError: Invalid learning rate" in capsys.readouterr().out
    assert tune.result(study)["overrides"]["model.lr"] > 0
    assert tune.trials_frame(study)["error"].drop_nulls().len() == len(failed)
    for plot in (tune.history_plot, tune.importance_plot):
        plot(study)


def test_a_search_stops_at_its_timeout_and_says_when_that_was_too_soon(tmp_path):
    study = tune.search(job(tmp_path), settings(trials=1000, timeout=0.01))
    assert len(study.trials) == 1
    nothing = optuna.create_study()
    with pytest.raises(NotebentoError, match=r"none of 0 attempts .*\n  fix: raise tune.trials or tune.timeout"):
        tune.result(nothing)


def test_other_data_or_another_space_is_another_study(tmp_path):
    first, second = job(tmp_path / "a"), job(tmp_path / "b", task="regression")
    names = {
        tune.study_name(first, settings()),
        tune.study_name(second, settings()),
        tune.study_name(first, settings(space={"model.lr": {"low": 0.1, "high": 0.2}})),
    }
    assert len(names) == 3
    assert tune.study_name(first, settings(trials=99)) in names  # more of the same
    assert tune.study_name(first, settings(study="mine")) == "mine"


@pytest.mark.parametrize(
    ("key", "wanted", "message"),
    [
        ("model.learning", {"low": 1, "high": 2}, r"neither model nor trainer has 'model.learning'"),
        ("trainer.batchsize", {"low": 1, "high": 2}, r"Did you mean 'trainer.batch_size'"),
        ("model.lr", {"low": 0.2, "high": 0.1}, r"model.lr: low \(0.2\) must be below high \(0.1\)"),
        ("model.lr", {"low": 0.0, "high": 0.1, "log": True}, "starts above 0"),
        ("model.lr", {"low": 0.1}, "low and high are both needed"),
        ("model.lr", {"choices": []}, "give either choices or low and high"),
        ("model.k", {"low": 1.5, "high": 8.0}, "k: expected `int`, got `float`"),
        ("trainer.schedule", {"choices": ["triangle"]}, "schedule: invalid enum value 'triangle'"),
    ],
)
def test_a_space_that_makes_no_sense_is_refused_before_any_training(tmp_path, key, wanted, message):
    with pytest.raises(UserError, match=message):
        tune.search(job(tmp_path), settings(space={key: wanted}))
    assert not list(Path(tmp_path).rglob("study.db"))


def test_the_shipped_space_fits_every_shipped_setting():
    config = compose()
    tune.check_space(config.tune.space, config.model, config.trainer)


def test_storage_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match="cannot be opened"):
        tune.search(job(tmp_path), settings(storage="sqlite:////nowhere/at/all.db"))
    with pytest.raises(UserError, match="cannot be opened"):
        tune.search(job(tmp_path), settings(storage="oracle of delphi"))


def test_the_interrupt_key_ends_the_search(tmp_path):
    description = job(tmp_path)

    class Pressed:
        def write(self, text):
            os.kill(os.getpid(), signal.SIGINT)

        def flush(self):
            pass

    with pytest.raises(KeyboardInterrupt):
        tune.search(description, settings(), Pressed())
    assert len(tune.counted(tune.search(description, settings()))) == 5
