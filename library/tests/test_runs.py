"""History, verification, sweeps and cleaning up, on small pipelines with real kernels."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from toys import Toy, here, kill, until

from notebento.core import stage as stage_module
from notebento.core.artifacts import Manifest
from notebento.core.compose import combinations
from notebento.core.errors import UserError
from notebento.core.stage import Stage
from notebento.pipeline.engine import StageError
from notebento.pipeline.history import clean, find_run, history
from notebento.pipeline.runner import run, sweep
from notebento.pipeline.verify import verify

pytestmark = pytest.mark.process

COUNT = ({"outputs": ["n.json"]}, 'stage.write("n.json", {"n": [1, 2, 3]})')
DOUBLE = (
    {"inputs": ["n.json"], "outputs": ["d.json"], "groups": ["trainer"]},
    'stage.write("d.json", {"d": [(stage.config.trainer.epochs or 8) * n for n in stage.read("n.json")["n"]]})',
)


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    with here(Toy(tmp_path).stages(count=COUNT, double=DOUBLE), without_kernels=False) as made:
        yield made


def git(toy: Toy, *arguments: str) -> None:
    name = ["-c", "user.name=toy", "-c", "user.email=toy@example"]
    subprocess.run(["git", *name, *arguments], cwd=toy.home, check=True, capture_output=True)


def test_a_run_is_verified_from_its_commit(toy: Toy) -> None:
    git(toy, "init")
    git(toy, "add", ".")
    git(toy, "commit", "-m", "first")
    first = run([])
    toy.notebook("double", 'stage.write("d.json", {"d": 0})')  # what is there now does not matter
    verdicts, kept = verify(first)
    assert [(v.artifact, v.verdict) for v in verdicts] == [("n.json", "identical"), ("d.json", "identical")]
    assert kept is None
    verdicts, kept = verify(first, here=True)
    assert [v.verdict for v in verdicts] == ["identical", "different"]
    assert "d" in verdicts[1].first and kept and (kept / "artifacts/d.json").exists()


def test_what_differs_every_time_is_found(toy: Toy) -> None:
    toy.stages(count=({"outputs": ["n.json"]}, 'import time\nstage.write("n.json", {"n": [1, time.time_ns()]})'))
    verdicts, _ = verify(run([]), here=True)
    assert [v.verdict for v in verdicts] == ["different"]
    assert "n[1]" in verdicts[0].first or "n.1" in verdicts[0].first


def test_without_a_commit_only_the_working_tree_can_be_verified(toy: Toy) -> None:
    with pytest.raises(UserError, match="not made from a git commit\n.*--here"):
        verify(run([]))


def test_the_command_says_what_differs_and_ends_with_1(toy: Toy) -> None:
    run([])
    toy.notebook("count", 'stage.write("n.json", {"n": [1, 5, 3]})')
    done = toy.start("--here", "--json", command="verify")
    said = done.communicate()[0]
    assert done.returncode == 1, said
    assert "2 of 2 artifacts are not the same" in said


def test_runs_are_listed_and_one_that_was_cut_off_is_said_so(toy: Toy) -> None:
    run([])
    toy.ran()
    toy.stages(slow=({"outputs": ["n.json"]}, "import time\ntime.sleep(60)"))
    process = toy.start()
    until(lambda: toy.ran())
    assert [b.status for b in history(toy.runs)] == ["running", "done"]
    kill(process)
    until(lambda: [b.status for b in history(toy.runs)] == ["interrupted", "done"])
    assert tool(toy, "runs", "list").splitlines()[0].split()[1] == "interrupted"


def test_a_run_is_found_by_the_beginning_of_its_name(toy: Toy) -> None:
    first = run([])
    assert find_run(first.name) == find_run(first.name[:-2]) == find_run("latest") == first
    with pytest.raises(UserError, match="there is no run 'nope'"):
        find_run("nope")
    run([])
    with pytest.raises(UserError, match="'2' begins several runs"):
        find_run("2")


def test_cleaning_up_keeps_what_a_run_refers_to(toy: Toy) -> None:
    first, second = run([]), run(["trainer.epochs=3"])
    assert clean()[0] == []
    run([])
    assert toy.ran() == ["count", "double", "double"]  # nothing of the first two was lost
    gone, files, size = clean(keep=1)
    assert gone == [second.name, first.name] and files and size
    assert toy.ran() == []
    run([])
    assert toy.ran() == []
    run(["trainer.epochs=3"])
    assert toy.ran() == ["double"]


def test_the_runs_of_a_sweep_share_what_they_have_in_common(toy: Toy) -> None:
    folders = sweep(combinations(["trainer.epochs=2,3", "seed=1,2"]), jobs=2)
    assert [Manifest.read(f).overrides for f in folders] == combinations(["trainer.epochs=2,3", "seed=1,2"])
    assert toy.ran() == ["count"] * 2 + ["double"] * 4  # the seed belongs to every key, the epochs to one
    made = [json.loads((f / "artifacts/d.json").read_text())["d"][0] for f in folders]
    assert made == [2, 2, 3, 3]


def test_a_failed_stage_opens_on_its_own_inputs(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    toy.notebook("double", 'raise ValueError("no")')
    with pytest.raises(StageError, match="notebento lab double --run (.*)") as e:
        run(["trainer.epochs=7"])
    monkeypatch.setenv("NOTEBENTO_RUN", str(e.value).rpartition(" ")[2])
    stage = Stage.open("double", [])
    assert stage.config.trainer.epochs == 7 and stage.read("n.json") == {"n": [1, 2, 3]}
    assert stage.out == toy.runs / "lab/artifacts"


def test_a_run_that_failed_or_was_cut_off_can_be_shown(toy: Toy) -> None:
    toy.stages(count=(COUNT[0], "1 / 0"), double=DOUBLE)
    with pytest.raises(StageError):
        run([])
    said = tool(toy, "runs", "show")
    assert re.search("^status +failed$", said, re.M) and "✗ count" in said and re.search("· double +skipped", said)
    toy.stages(count=(COUNT[0], "import time\ntime.sleep(60)"), double=DOUBLE)
    toy.ran()
    process = toy.start()
    until(toy.ran)
    kill(process)
    until(lambda: next(history(toy.runs)).status == "interrupted")
    said = tool(toy, "runs", "show", max(p.parent.name for p in toy.runs.glob("2*/manifest.json")))
    assert re.search("^status +interrupted$", said, re.M) and "! count" in said
    assert [b["status"] for b in json.loads(tool(toy, "runs", "list", "--json"))] == ["interrupted", "failed"]


def test_a_stage_that_was_tried_again_elsewhere_opens_in_the_run_that_failed(toy: Toy) -> None:
    """The folder in which it worked has moved to the run in which it succeeded."""
    code = 'if not (stage.work / "again").exists():\n    (stage.work / "again").touch()\n    1 / 0\n' + DOUBLE[1]
    toy.stages(count=COUNT, double=(DOUBLE[0], code))
    with pytest.raises(StageError):
        run([])
    failed = next(toy.runs / b.run_id for b in history(toy.runs))
    run([])
    assert not (failed / "work/double").exists()
    with here(toy):
        stage = Stage.open("double", [], str(failed))
    assert stage.work.is_dir() and not list(stage.work.iterdir())
    os.close(stage_module._LOCKED.pop(stage.work.resolve()))


def test_a_sweep_is_planned_and_is_the_newest_run(toy: Toy) -> None:
    said = tool(toy, "run", "--plan", "--multirun", "trainer.epochs=2,3")
    assert said.count("count      run") == 2 and "trainer.epochs=3" in said
    folders = sweep(combinations(["trainer.epochs=2,3"]))
    assert (toy.runs / "latest").resolve() == folders[-1]
    refused = toy.start("--multirun", "--into=x", "trainer.epochs=2,3")
    assert "--multirun makes several runs" in refused.communicate()[0] and refused.returncode == 2


def tool(toy: Toy, *arguments: str) -> str:
    command = [sys.executable, "-m", "notebento", *arguments]
    return subprocess.run(command, cwd=toy.home, capture_output=True, text=True, check=True).stdout
