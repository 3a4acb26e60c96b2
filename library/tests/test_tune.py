"""The search: it goes on where it stopped, prunes, and survives attempts that fail."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TextIO

import msgspec
import optuna
import pytest
from jobs import job
from optuna.trial import TrialState

from notebento.core.config import RangeConfig, TuneConfig, convert, plain
from notebento.core.errors import NotebentoError, UserError
from notebento.training import tune
from notebento.training.calibration import validation_loss
from notebento.training.job import TrainingJob, adjusted, fit

pytestmark = [pytest.mark.process, pytest.mark.usefixtures("importable_tests")]

SPACE = {"model.lr": {"low": 1e-5, "high": 1e-1, "log": True}, "trainer.batch_size": {"choices": [32, 64]}}


@pytest.fixture(autouse=True)
def quiet():
    optuna.logging.set_verbosity(optuna.logging.WARNING)


def settings(**changes) -> TuneConfig:
    small = {"trials": 5, "startup": 2, "space": SPACE, "epochs": 3}
    return convert(plain(TuneConfig()) | small | changes, TuneConfig)


def searched(description: TrainingJob, tuning: TuneConfig, stream: TextIO | None = None) -> optuna.Study:
    return tune.search(description, tuning, validation_loss, {}, stream)


def told(study: optuna.Study) -> list:
    return [(t.params, t.value, t.state) for t in tune.ended_trials(study)]


PROGRAM = """
import sys
from pathlib import Path
import msgspec
from notebento.core.config import TuneConfig
from notebento.training.calibration import validation_loss
from notebento.training.job import TrainingJob
from notebento.training.tune import search
job = msgspec.json.decode(Path(sys.argv[1]).read_bytes(), type=TrainingJob)
search(job, msgspec.json.decode(Path(sys.argv[2]).read_bytes(), type=TuneConfig), validation_loss, {}, sys.stdout)
"""


def test_a_search_that_was_killed_goes_on_as_if_nothing_had_happened(tmp_path):
    whole = searched(job(tmp_path / "whole"), settings())
    killed = job(tmp_path / "killed")
    paths = [tmp_path / "job.json", tmp_path / "tune.json"]
    for path, value in zip(paths, (killed, settings()), strict=True):
        path.write_bytes(msgspec.json.encode(value))
    with subprocess.Popen([sys.executable, "-c", PROGRAM, *paths], stdout=subprocess.PIPE, text=True) as process:
        for line in process.stdout:
            if line.startswith("trial 1"):
                process.kill()
    resumed = searched(killed, settings())
    assert told(resumed) == told(whole)
    assert tune.result(resumed) == tune.result(whole)
    assert len(searched(killed, settings()).trials) == len(resumed.trials)  # nothing is left to do


def test_the_result_is_what_the_train_stage_would_get(tmp_path):
    description = job(tmp_path, epochs=3)
    found = tune.result(searched(description, settings()))
    assert found["trials"] == 5
    assert found["value"] <= found["configured"]
    model, trainer = adjusted(description.model, description.trainer, found["overrides"])
    best = fit(msgspec.structs.replace(description, model=model, trainer=trainer))
    rows = description.rows()["validation"]
    assert validation_loss(best, rows) == found["value"]
    json.dumps(found)


def test_hopeless_attempts_end_early(tmp_path):
    study = searched(job(tmp_path), settings(trials=10, epochs=4))
    pruned = study.get_trials(states=[TrialState.PRUNED])
    assert pruned and all(t.last_step < 4 for t in pruned)
    assert study.best_trial.last_step == 4


def test_a_failed_attempt_is_shown_and_the_search_goes_on(tmp_path, capsys):
    space = {"model.lr": {"choices": [0.01, -1.0, 0.02]}}
    study = searched(job(tmp_path), settings(trials=6, space=space), sys.stdout)
    failed = study.get_trials(states=[TrialState.FAIL])
    assert failed and len(failed) < 6
    assert "failed with ValueError: Invalid learning rate" in capsys.readouterr().out
    assert tune.result(study)["overrides"]["model.lr"] > 0
    assert tune.trials_frame(study)["error"].drop_nulls().len() == len(failed)
    for plot in (tune.history_plot, tune.importance_plot):
        plot(study)


def test_a_search_stops_at_its_timeout_and_says_when_that_was_too_soon(tmp_path):
    study = searched(job(tmp_path), settings(trials=1000, timeout=0.01))
    assert len(study.trials) == 1
    nothing = optuna.create_study()
    with pytest.raises(NotebentoError, match=r"none of 0 trials .*\n  fix: raise tune.trials or tune.timeout"):
        tune.result(nothing)


def test_other_data_or_another_space_is_another_study(tmp_path):
    first, second = job(tmp_path / "a"), job(tmp_path / "b", task="regression")

    def name(description, space=SPACE, **changes):
        return tune.study_name(description, settings(**changes), validation_loss, space)

    names = {name(first), name(second), name(first, {"model.lr": {"low": 0.1, "high": 0.2}})}
    assert len(names) == 3
    assert name(first, trials=99) in names  # more of the same
    assert name(first, study="mine") == "mine"


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
        searched(job(tmp_path), settings(space={key: wanted}))
    assert not list(Path(tmp_path).rglob("study.db"))


def test_a_configured_space_replaces_the_projects(tmp_path):
    ours = {"model.lr": RangeConfig(low=0.01, high=0.02)}
    theirs = {"model.k": RangeConfig(choices=[1, 2])}
    description = job(tmp_path, epochs=1)
    for space, searched_for in ((None, {"model.lr"}), (theirs, {"model.k"})):
        study = tune.search(description, TuneConfig(trials=1, space=space), validation_loss, ours)
        assert set(study.trials[0].params) == searched_for
    with pytest.raises(UserError, match="tune.space is empty"):
        tune.search(description, TuneConfig(trials=1, space={}), validation_loss, ours)


def test_the_objective_decides_what_is_best(tmp_path):
    def narrowest(fitted, validation):
        return float(fitted.settings.width)

    space = {"model.width": RangeConfig(choices=[8, 16, 32])}
    study = tune.search(job(tmp_path, epochs=1), TuneConfig(trials=6, startup=6), narrowest, space)
    assert (
        study.best_value == study.best_trial.params["model.width"] == min(t.params["model.width"] for t in study.trials)
    )
    other = tune.study_name(job(tmp_path, epochs=1), TuneConfig(), validation_loss, space)
    assert tune.study_name(job(tmp_path, epochs=1), TuneConfig(), narrowest, space) != other


def test_storage_that_cannot_be_opened(tmp_path):
    with pytest.raises(UserError, match="cannot be opened"):
        searched(job(tmp_path), settings(storage="sqlite:////nowhere/at/all.db"))
    with pytest.raises(UserError, match="cannot be opened"):
        searched(job(tmp_path), settings(storage="oracle of delphi"))


def test_the_interrupt_key_ends_the_search(tmp_path):
    description = job(tmp_path)

    class Pressed:
        def write(self, text):
            os.kill(os.getpid(), signal.SIGINT)

        def flush(self):
            pass

    with pytest.raises(KeyboardInterrupt):
        searched(description, settings(), Pressed())
    assert len(tune.ended_trials(searched(description, settings()))) == 5
