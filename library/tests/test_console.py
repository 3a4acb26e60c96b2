"""What a run says on the console: notices, plans and errors, without kernels."""

import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console
from toys import Toy, here
from typer.testing import CliRunner

from notebento.cli import main, options, streams
from notebento.core.artifacts import Manifest
from notebento.core.errors import UserError
from notebento.pipeline.engine import StageError
from notebento.pipeline.report import summary
from notebento.pipeline.terminal import Board, show

NOTICE = "2 of 9 rows [early] break the contract"
NOTE = f"stage.notice({NOTICE[:9]!r} + {NOTICE[9:]!r})\n"  # the report also shows the cell


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    with here(Toy(tmp_path)) as toy:
        yield toy


def driven(toy: Toy, *overrides: str) -> tuple[str, Path]:
    """What a run prints, and its folder."""
    printed = Console(file=StringIO(), width=100)
    folder = toy.drive(*overrides, watcher=Board(printed))
    return printed.file.getvalue(), folder


def test_a_notice_is_shown_once_and_comes_back_from_the_cache(toy: Toy) -> None:
    toy.stages(count=({"outputs": ["n.json"]}, f'{NOTE}{NOTE}stage.write("n.json", 3)'))
    for cached in (False, True):
        printed, folder = driven(toy)
        record = Manifest.read(folder).stages["count"]
        assert (record.cached, record.notices) == (cached, [NOTICE]) and printed.count(NOTICE) == 1
        assert (folder / "report.html").read_text().count(NOTICE) == 1 and summary(folder).count("2 of 9 rows") == 1


def test_the_notices_of_a_failed_try_stay_with_it(toy: Toy) -> None:
    toy.stages(count=({"outputs": ["n.json"]}, f"{NOTE}1 / 0"))
    with pytest.raises(StageError):
        driven(toy)
    assert toy.last().stages["count"].notices == [NOTICE]
    toy.notebook("count", 'stage.write("n.json", 3)')
    driven(toy)
    assert toy.last().stages["count"].notices == []


def test_a_stage_that_is_tried_again_notices_anew(toy: Toy) -> None:
    again = "first = not (stage.work / 'again').exists()\n(stage.work / 'again').touch()\nif first:\n    "
    again += f'{NOTE}    1 / 0\nstage.write("n.json", 3)'
    toy.stages(count=({"outputs": ["n.json"], "retries": 1}, again))
    driven(toy)
    assert toy.last().stages["count"].notices == []


# --- terminals and pipes


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-8"])
def test_what_a_terminal_cannot_encode_is_written_plainly(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    written = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", written)
    streams.accept_any_encoding()
    print("▸ ✓ ü … 1 × 2 – \udcff 東")
    options.print_json({"name": "Zürich ▸"})
    written.flush()
    line, *rest = written.buffer.getvalue().decode(encoding).splitlines()
    expected = {"ascii": "> + u ... 1 x 2 - ? ?", "latin-1": "> + ü ... 1 × 2 - ? ?", "utf-8": "▸ ✓ ü … 1 × 2 – ? 東"}
    assert line == expected[encoding] and json.loads("".join(rest)) == {"name": "Zürich ▸"}


@pytest.mark.parametrize(
    "arguments", [["runs", "list"], ["runs", "show"], ["models", "list"], ["run", "--plan"], ["--help"]]
)
def test_a_command_prints_to_any_terminal(toy: Toy, arguments: list[str]) -> None:
    toy.stages(count=({"outputs": ["n.json"]}, 'stage.write("n.json", 3)'))
    toy.drive()
    for environ in ({"COLUMNS": "20"}, {"NO_COLOR": "1", "COLUMNS": "1"}, {"TERM": "dumb"}, {"FORCE_COLOR": "1"}):
        done = CliRunner(charset="ascii").invoke(main.app, arguments, env=environ)
        assert done.exit_code == 0 and done.output


@pytest.mark.process
def test_a_reader_that_leaves_is_no_verdict(toy: Toy) -> None:
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    toy.stages(count=({"outputs": ["n.json"]}, ""))
    for output, status in ((subprocess.PIPE, 0), (None, streams.UNREAD)):
        read, write = os.pipe()
        os.close(read)
        command = [sys.executable, "-m", "notebento", "run", "--plan"]
        done = subprocess.run(command, env=plain, stdout=output or write, stderr=subprocess.PIPE, cwd=toy.home)
        os.close(write)
        assert (done.returncode, done.stderr) == (status, b"") and (not output or done.stdout.startswith(b"> count"))


@pytest.mark.process
def test_arguments_are_utf_8_in_any_locale(toy: Toy) -> None:
    toy.stages(count=({"outputs": ["n.json"]}, ""))
    plain = os.environ | {"LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONCOERCECLOCALE": "0"}
    command = [sys.executable, "-m", "notebento", "config", "--json", 'data.target="größ"']
    done = subprocess.run(command, env=plain, capture_output=True, cwd=toy.home)
    assert (done.returncode, done.stderr) == (0, b"") and json.loads(done.stdout)["data"]["target"] == "größ"


@pytest.mark.parametrize(
    ("typed", "meant"), [("rnu", "run"), ("promote", "models promote"), ("runs lst", "list"), ("run --jsno", "--json")]
)
def test_a_mistyped_command_or_option_proposes_the_nearest(typed: str, meant: str) -> None:
    done = CliRunner().invoke(main.app, typed.split())
    assert done.exit_code == 2 and meant in done.output


# --- plans


def planned(*arguments: str) -> str:
    """What the plan of a run prints."""
    done = CliRunner().invoke(main.app, ["run", "--plan", *arguments])
    assert done.exit_code == 0, done.output
    return done.output


COUNT = ({"outputs": ["n.json"], "groups": ["project", "trainer"]}, 'stage.write("n.json", 3)')


def test_a_plan_compares_with_the_newest_run_of_the_same_project_and_experiment(toy: Toy) -> None:
    toy.stages(count=COUNT)
    assert "it never ran\n" in planned()
    toy.drive("trainer.epochs=3")
    toy.drive("trainer.epochs=5", "project.name=other")
    toy.drive("experiment=lab")  # two epochs
    for overrides, why in (
        (["trainer.epochs=4"], "trainer.epochs is 4, was 3"),
        (["project.name=other", "trainer.epochs=6"], "trainer.epochs is 6, was 5"),
        (["experiment=lab", "trainer.epochs=7"], "trainer.epochs is 7, was 2"),
        (["project.name=third"], "it never ran for third"),
        (["experiment=lab", "project.name=third"], "it never ran for third, experiment=lab"),
    ):
        assert f"      {why}\n" in planned(*overrides)
    toy.drive("trainer.epochs=4")
    assert toy.last().stages["count"].why == ["trainer.epochs is 4, was 3"]


def test_a_run_that_takes_over_a_folder_is_compared_with_what_was_there(toy: Toy) -> None:
    toy.stages(count=COUNT)
    for epochs in (3, 4):
        folder = toy.drive(f"trainer.epochs={epochs}", into="lab")
    assert Manifest.read(folder).stages["count"].why == ["trainer.epochs is 4, was 3"]


def test_a_plan_names_the_first_few_changes_and_counts_the_rest(toy: Toy) -> None:
    toy.stages(count=COUNT)
    toy.drive()
    changes = ["epochs=9", "batch_size=7", "patience=8", "ema_decay=0.5", "gradient_clip=3.0", "precision=bf16"]
    changes = [f"trainer.{change}" for change in changes]
    assert planned(*changes).splitlines()[-1].strip() == "and 3 more (--verbose)"
    assert planned(*changes, "--verbose").count("trainer.") == 6


# --- what can be seen before anything runs


@pytest.mark.parametrize(
    ("cells", "said"),
    [
        (["x = 1\ny = (2"], "late.ipynb, code cell 5, line 2, column 5: '(' was never closed: y = (2"),
        (["import polarz"], "late.ipynb, code cell 5, line 1: there is no module 'polarz'. Did you mean 'polars'?"),
        (["from notebento.core.stge import Stage"], "there is no module 'notebento.core.stge'"),
    ],
)
def test_a_mistake_in_the_last_notebook_is_found_before_the_first_stage_runs(
    toy: Toy, cells: list[str], said: str
) -> None:
    toy.stages(count=COUNT, late=({"inputs": ["n.json"]}, ""))
    toy.notebook("late", *cells)
    refused = CliRunner().invoke(main.app, ["run", "--plan"])
    with pytest.raises(UserError) as e:
        toy.drive()
    assert said in str(e.value) and said in refused.output.replace("\n", "") and refused.exit_code == 2
    assert toy.ran() == [] and not [*toy.runs.glob("*/manifest.json")] and not (toy.runs / "latest").is_symlink()


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("data.target=laet", "laet"),
        ("data.key=[idd]", "idd"),
        ("data.source.path=rowz.csv", "there is no file"),
        ("data.source.path=broken.parquet", "cannot be read"),
        ("+model._target_=notebento.models.lightgbm.LightGMB", "Did you mean 'LightGBM'?"),
        ("+model._target_=nowhere.Model", "there is no module 'nowhere'"),
        ("store.url=nope://x", "store.url: 'nope://x' is not a path"),
    ],
)
def test_a_mistake_in_the_configuration_is_found_before_the_first_stage_runs(
    toy: Toy, override: str, said: str
) -> None:
    (toy.home / "rows.csv").write_text("id,late\n1,true\n2,false\n")
    (toy.home / "broken.parquet").write_text("no")
    groups = {"groups": ["data", "model", "store"], "outputs": ["n.json"]}
    toy.stages(count=(groups, 'stage.write("n.json", 3)'))
    source = "+data.source={_target_: notebento.data.sources.Table, name: rows, path: rows.csv}"
    table = [source, "data.table=rows", "data.key=[id]", "data.target=late"]
    key = override.partition("=")[0]
    if key == "data.source.path":
        table[0], override = source.replace("rows.csv", override.partition("=")[2]), ""
    overrides = [*(o for o in table if not o.startswith(f"{key}=")), *filter(None, [override])]
    with pytest.raises(UserError, match=re.escape(said)):
        toy.drive(*overrides)
    assert toy.ran() == []


def test_the_console_and_the_report_say_how_to_open_what_a_stage_logged(toy: Toy) -> None:
    log = 'log = stage.work / "wandb/offline-run-1"\nlog.mkdir(parents=True)\n(log / "run-1.wandb").touch()\n'
    study = '(stage.work / "study.db").touch()\nstage.write("best.json", {"study": "0af3"})'
    toy.stages(search=({"outputs": ["best.json"]}, log + study))
    first, again = toy.drive(), toy.drive()
    for folder, times in ((first, 1), (again, 0)):
        printed = Console(file=StringIO(), width=300)
        show(folder, Manifest.read(folder), printed)
        report = (folder / "report.html").read_text()
        for command in (
            f"wandb leet {first}/work/search/wandb/offline-run-1",
            "optuna trials --study-name 0af3 --storage",
        ):
            assert printed.file.getvalue().count(command) == times and report.count(command) == 1


@pytest.mark.parametrize(
    ("named", "said"),
    [
        ("{home}/conf/config.yaml", "NOTEBENTO_RUNS is {home}/conf/config.yaml, which is a file"),
        ("/proc/nowhere", "the runs go to /proc/nowhere, and /proc cannot be written"),
        ("outcomes", "the runs go to {home}/outcomes"),
        ("~/outcomes", f"the runs go to {Path('~/outcomes').expanduser()}"),
    ],
)
def test_the_doctor_says_where_runs_go_and_why_they_cannot(
    toy: Toy, monkeypatch: pytest.MonkeyPatch, named: str, said: str
) -> None:
    monkeypatch.setenv("NOTEBENTO_RUNS", named.format(home=toy.home))
    findings = {f["what"]: f for f in json.loads(CliRunner().invoke(main.app, ["doctor", "--json"]).stdout)}
    assert said.format(home=toy.home) in findings["disk"]["found"]
