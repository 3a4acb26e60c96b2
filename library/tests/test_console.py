"""What a run says on the console: notices, plans and errors, without kernels."""

import io
import json
import os
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
from notebento.pipeline.engine import StageError
from notebento.pipeline.report import summary
from notebento.pipeline.terminal import Board

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


@pytest.mark.parametrize(
    ("typed", "meant"), [("rnu", "run"), ("promote", "models promote"), ("runs lst", "list"), ("run --jsno", "--json")]
)
def test_a_mistyped_command_or_option_proposes_the_nearest(typed: str, meant: str) -> None:
    done = CliRunner().invoke(main.app, typed.split())
    assert done.exit_code == 2 and meant in done.output
