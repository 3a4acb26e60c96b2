"""Kills, interrupts, full disks, damage and two runs at once: nothing is corrupt, and the next run continues."""

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from conftest import absent
from toys import Toy, digests, here, kill, none_left, processes, statuses, until

from notebento.core.artifacts import Manifest, digest, load
from notebento.core.errors import NotebentoError, UserError
from notebento.pipeline.cache import Cache
from notebento.pipeline.engine import StageError
from notebento.pipeline.history import history

pytestmark = pytest.mark.process

NIGHTLY = pytest.mark.nightly

COUNT = ({"outputs": ["n.json"]}, 'stage.write("n.json", 3)')
DOUBLE = ({"inputs": ["n.json"], "outputs": ["d.json"]}, 'stage.write("d.json", 2 * stage.read("n.json"))')
TRIPLE = ({"inputs": ["n.json"], "outputs": ["t.json"]}, 'stage.write("t.json", 3 * stage.read("n.json"))')


@pytest.fixture
def toy(tmp_path: Path) -> Toy:
    return Toy(tmp_path)


@pytest.fixture
def inside(toy: Toy) -> Iterator[Toy]:
    """A project in which this process works, with threads instead of kernels."""
    with here(toy):
        yield toy


# A run that takes a few seconds, so that a kill hits it anywhere: a folder, a large file, a stage with a state, and
# stages side by side.
FOLDER = """
with stage.folder("many") as folder:
    for n in range(40):
        (folder / str(n)).write_text(str(n) * 1000)
        time.sleep(0.005)
"""
LARGE = """
import numpy
stage.write("large.txt", numpy.random.default_rng(stage.seed).bytes(20_000_000))
"""
STEPS = """
import subprocess
if "get_ipython" in globals():
    subprocess.Popen(["sleep", "600"])
state = stage.work / "state"
for step in range(int(state.read_text()) if state.exists() else 0, 8):
    with open(stage.work / "log", "a") as log:
        print(step, file=log)
    time.sleep(0.1)
    part = stage.work / "part"
    part.write_text(str(step + 1))
    part.replace(state)
stage.write("steps.json", int(state.read_text()))
"""
LAST = """
stage.write("last.json", [stage.read("steps.json"), len(list(stage.inputs["many"].iterdir()))])
"""
LONG = {
    "folder": ({"outputs": ["many"]}, FOLDER),
    "large": ({"inputs": ["many"], "outputs": ["large.txt"]}, LARGE),
    "steps": ({"outputs": ["steps.json"]}, STEPS),
    "last": ({"inputs": ["many", "large.txt", "steps.json"], "outputs": ["last.json"]}, LAST),
}


def check_cache(toy: Toy) -> None:
    """Every blob is what its name says, and every record can be read."""
    for blob in (toy.runs / "cache/blobs").glob("*/[!.]*"):
        assert digest(blob) == blob.name
    for record in (toy.runs / "cache/records").glob("*/[!.]*.record"):
        found = Cache(toy.runs / "cache").find(record.parent.name, record.stem)
        assert found and found.parts.key == record.stem
        assert not any(Cache(toy.runs / "cache").is_damaged(kept) for kept in found.kept().values())


def undisturbed(toy: Toy) -> dict[str, str]:
    """The digests of a run that nobody disturbed; nothing is cached afterwards."""
    with here(toy):
        folder = toy.drive()
    expected = digests(Manifest.read(folder))
    shutil.rmtree(folder)
    forget(toy)
    assert toy.ran() == sorted(LONG)
    return expected


def forget(toy: Toy) -> None:
    """Forget what was made; what the configuration and the code are stays known."""
    (toy.runs / "latest").unlink(missing_ok=True)
    for name in ("blobs", "records", "work", "locks"):
        shutil.rmtree(toy.runs / "cache" / name, ignore_errors=True)


def killed(toy: Toy, expected: dict[str, str], draw: random.Random, kernels: bool) -> None:
    """Kill a run at some moment, run again, and check everything."""
    begun = draw.randrange(len(LONG) + 1)  # stages that began; then up to half a second
    before = {m.run_id for m in toy.manifests()}
    toy.ran()
    before_it, process = len(toy.log.read_text().split()), toy.start("--jobs=2")
    until(lambda: len(toy.log.read_text().split()) >= before_it + begun)
    time.sleep(draw.random() * (0.5 if begun else 2))
    kill(process)
    assert none_left(toy) == []
    check_cache(toy)
    runs = [m for m in toy.manifests() if m.run_id not in before]  # none yet, if it was killed that early
    finished = [n for m in runs for n, r in m.stages.items() if r.status == "done"]
    toy.ran()
    if kernels:
        toy.run("--jobs=2")
    else:
        with here(toy):
            toy.drive()
    assert digests(toy.last()) == expected
    again = set(toy.ran()) & set(finished)
    assert not again, {name: toy.last().stages[name].why for name in again}
    check_cache(toy)


@pytest.mark.parametrize(("count", "kernels"), [(2, False), pytest.param(30, True, marks=NIGHTLY)])
def test_killed_at_any_moment_a_run_continues(toy: Toy, count: int, kernels: bool) -> None:
    expected = undisturbed(toy.stages(**LONG))
    draw = random.Random(2013)
    for _ in range(count):
        killed(toy, expected, draw, kernels)
        forget(toy)


def test_a_killed_stage_finds_its_state_again(toy: Toy) -> None:
    toy.stages(steps=LONG["steps"])
    process = toy.start()
    until(lambda: [p for p in toy.runs.glob("cache/work/*/state") if int(p.read_text() or 0) >= 3])
    kill(process)
    assert none_left(toy) == []  # what its cells had started neither
    (state,) = toy.runs.glob("cache/work/*/state")
    state.write_text("7")
    with here(toy):
        folder = toy.drive()
        steps = (folder / "work/steps/log").read_text().split()
        assert steps[-1] == "7" and steps.count("0") == 1
        assert load(folder / "artifacts/steps.json") == 8
        assert (folder / "work/steps/state").read_text() == "8"
        assert not list(toy.runs.glob("cache/work/*"))


@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_a_run_leaves_nothing_behind_and_continues(toy: Toy, how: signal.Signals) -> None:
    child = f"""
import subprocess, sys
if not Path({str(toy.log.with_name("go"))!r}).exists():
    subprocess.run(["sleep", "600"])
stage.write("d.json", 2 * stage.read("n.json"))
"""
    toy.stages(count=COUNT, double=(DOUBLE[0], child), other=({"outputs": ["o.json"]}, "time.sleep(1000)"))
    process = toy.start("--jobs=2")
    until(lambda: processes(toy, "sleep 600"))
    process.send_signal(how)
    said = process.communicate(timeout=30)[0]
    assert process.returncode == 128 + how
    assert "interrupted" in said and "Traceback" not in said
    assert none_left(toy, 1) == []
    manifest = toy.last()
    assert manifest.status == "interrupted"
    assert statuses(manifest) == {"count": "done", "double": "interrupted", "other": "interrupted"}
    assert (toy.runs / "latest").resolve().name == manifest.run_id
    toy.ran()
    toy.log.with_name("go").touch()
    with here(toy):
        toy.drive(until=["double"])
    assert toy.ran() == ["double"]


def test_two_runs_at_once_compute_each_stage_once(toy: Toy) -> None:
    slow = {name: (declared, "time.sleep(0.3)\n" + source) for name, (declared, source) in LONG.items()}
    toy.stages(**slow)
    both = [toy.start("--jobs=2") for _ in range(2)]
    said = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0], said
    assert toy.ran() == sorted(LONG)
    one, other = toy.manifests()
    assert digests(one) == digests(other) and len(digests(one)) == len(LONG)
    assert {one.stages[n].cached for n in LONG} | {other.stages[n].cached for n in LONG} == {True, False}
    assert all(one.stages[n].cached != other.stages[n].cached for n in LONG)
    assert none_left(toy) == []


@contextmanager
def disk(folder: Path, size: str) -> Iterator[Callable[[str], None]]:
    """A small disk at `folder`; yields a way to mount it anew with other options."""
    folder.mkdir(parents=True)
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)], capture_output=True
    ).returncode:
        absent("the right to mount a disk")
    try:
        yield lambda options: subprocess.run(["mount", "-o", f"remount,{options}", str(folder)], check=True) and None
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


BIG = 'stage.write("d.json", "x" * 3_000_000)\nstage.read("n.json")'


def unfinished(folder: Path) -> list[Path]:
    """Files that were being written."""
    return [p for p in folder.rglob("*") if p.name.endswith(".part")]


@pytest.mark.parametrize("kernels", [False, True])
def test_a_full_disk_is_said_and_the_next_run_continues(toy: Toy, kernels: bool) -> None:
    toy.stages(count=COUNT, double=(DOUBLE[0], BIG), triple=TRIPLE)
    with disk(toy.runs, "2m") as again, here(toy, without_kernels=not kernels):
        with pytest.raises(NotebentoError, match="no space left on the disk while writing .*d.json") as e:
            toy.drive(jobs=1)
        assert e.value.exit_status == 2
        manifest = toy.last()
        assert manifest.status == "failed"
        assert statuses(manifest) == {"count": "done", "double": "failed", "triple": "done"}
        assert unfinished(toy.runs) == []
        check_cache(toy)
        again("size=20m")
        toy.ran()
        assert Manifest.read(toy.drive()).status == "done"
        assert toy.ran() == ["double"]
        check_cache(toy)


def test_a_disk_that_fills_up_between_two_writes_is_said(toy: Toy) -> None:
    """So full that not even the manifest can be written."""
    filler = toy.runs / "filler"
    fill = f"""
with open({str(filler)!r}, "wb", buffering=0) as file:
    try:
        while True:
            file.write(bytes(4096))
    except OSError:
        pass
"""
    toy.stages(count=COUNT, double=(DOUBLE[0], DOUBLE[1] + fill))
    with disk(toy.runs, "2m"), here(toy):
        with pytest.raises(UserError, match="no space left on the disk"):
            toy.drive(jobs=1)
        filler.unlink()
        toy.notebook("double", DOUBLE[1])
        toy.ran()
        assert Manifest.read(toy.drive()).status == "done"
        assert toy.ran() == ["double"]
        assert unfinished(toy.runs / "cache") == []
        check_cache(toy)


def test_a_read_only_store_is_said(toy: Toy) -> None:
    toy.stages(count=COUNT)
    with disk(toy.runs, "4m") as again, here(toy):
        toy.drive()
        for name in ("count", "double"):  # all is cached, and something is to do
            again("ro")
            with pytest.raises(UserError, match="cannot be written: Read-only file system.*\n.*NOTEBENTO_RUNS"):
                toy.drive()
            again("rw")
            toy.stages(count=COUNT, double=DOUBLE)
            assert name
        assert Manifest.read(toy.drive()).status == "done"


@pytest.mark.parametrize("how", ["flip", "flip and keep its time", "cut", "remove"])
def test_a_damaged_artifact_is_found_named_and_made_again(inside: Toy, how: str) -> None:
    toy = inside.stages(count=COUNT, double=DOUBLE)
    inside.drive()
    expected = digests(toy.last())
    blob = toy.blob("n.json")
    facts = blob.stat()
    content = blob.read_bytes()
    blob.chmod(0o644)
    if how == "remove":
        blob.unlink()
    else:
        blob.write_bytes(content[:-1] if how == "cut" else bytes([content[0] ^ 1]) + content[1:])
    if how == "flip and keep its time":
        import os

        os.utime(blob, ns=(facts.st_atime_ns, facts.st_mtime_ns))
    toy.notebook("double", DOUBLE[1], "1")  # so that it runs, and reads what is damaged
    toy.ran()
    inside.drive()
    assert toy.ran() == ["count", "double"]
    assert digests(toy.last()) == expected
    assert toy.last().stages["count"].why == ["damaged in the cache: n.json"]
    check_cache(toy)
    inside.drive()
    assert toy.ran() == []


def test_a_damaged_record_is_never_believed(inside: Toy) -> None:
    toy = inside.stages(count=COUNT, double=DOUBLE)
    inside.drive()
    expected = digests(toy.last())
    draw = random.Random(3)
    for record in sorted((toy.runs / "cache/records").glob("*/*.record")):
        content = record.read_bytes()
        for _ in range(25):
            place = draw.randrange(len(content))
            record.write_bytes(
                content[:place] + bytes([content[place] ^ (1 << draw.randrange(8))]) + content[place + 1 :]
            )
            inside.drive()
            assert digests(toy.last()) == expected, content[place - 20 : place + 20]
            record.write_bytes(content)


def test_a_damaged_manifest_is_said(inside: Toy) -> None:
    inside.stages(count=COUNT)
    folder = inside.drive()
    manifest = folder / "manifest.json"
    manifest.write_bytes(manifest.read_bytes().replace(b"done", b"d\xffne"))
    with pytest.raises(UserError, match="is not a manifest"):
        Manifest.read(folder)
    assert [brief.status for brief in history(inside.runs)] == ["damaged"]


CYCLE = {
    "a": ({"inputs": ["y.json"], "outputs": ["x.json"]}, ""),
    "b": ({"inputs": ["x.json"], "outputs": ["y.json"]}, ""),
}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        (CYCLE, "stages wait for each other: a, b"),
        ({"a": ({"inputs": ["a.json"], "outputs": ["a.json"]}, "")}, "stages wait for each other: a"),
        ({"a": ({"inputs": ["n.jsn"]}, ""), "count": COUNT}, "'a' needs 'n.jsn', which no stage makes. .*'n.json'"),
        ({"a": COUNT, "b": COUNT}, "'n.json' is made by two stages: 'a' and 'b'"),
        ({"a": ({"outputs": ["n.json", "n.json"]}, "")}, "'n.json' is made by two stages: 'a' and 'a'"),
        ({"a": ({"outputs": ["n.json"], "recorded": ["n.json"]}, "")}, "'n.json' is made by two stages: 'a' and 'a'"),
        ({"a": (COUNT[0] | {"notebook": "b.ipynb"}, "")}, "there is no notebook nbs/b.ipynb"),
        ({"a": ({"outputs": ["../n.json"]}, "")}, "'../n.json'"),
        ({"a": ({"outputs": ["n", "n/m.json"]}, "")}, "n/m.json"),
    ],
)
def test_a_pipeline_that_cannot_work_is_refused_before_anything_runs(inside: Toy, stages: dict, message: str) -> None:
    inside.stages(**{name: (declared, "1") for name, (declared, _) in stages.items()})
    with pytest.raises(UserError, match=message):
        inside.drive()
    assert inside.ran() == []
    assert list(inside.runs.glob("2*")) == []


def test_a_stage_is_tried_again_as_often_as_configured(inside: Toy) -> None:
    tries = f"""
with open({str(inside.log)!r}) as log:
    if log.read().split().count("flaky") < 3:
        stage.write("other.json", 1)
        raise OSError("not yet")
stage.write("n.json", 3)
"""
    inside.stages(flaky=({"outputs": ["n.json"], "recorded": ["other.json"], "retries": 1}, tries))
    with pytest.raises(StageError, match="not yet"):
        inside.drive()
    assert inside.ran() == ["flaky", "flaky"]
    inside.stages(flaky=({"outputs": ["n.json"], "retries": 2}, tries.replace("other", "n").replace("< 3", "< 5")))
    assert Manifest.read(inside.drive()).status == "done"
    assert inside.ran() == ["flaky"] * 3


def test_what_a_failed_try_wrote_does_not_count(inside: Toy) -> None:
    first = f"""
with open({str(inside.log)!r}) as log:
    if log.read().split().count("flaky") == 1:
        stage.write("n.json", 1)
        raise OSError("not yet")
"""
    inside.stages(flaky=({"outputs": ["n.json"], "retries": 1}, first))
    with pytest.raises(NotebentoError, match="declares 'n.json' and did not write it"):
        inside.drive()


def test_wrong_input_is_not_tried_again(inside: Toy) -> None:
    wrong = 'from notebento.core.errors import UserError\nraise UserError("no rows")'
    inside.stages(wrong=({"retries": 3}, wrong))
    with pytest.raises(StageError, match="no rows") as e:
        inside.drive()
    assert e.value.exit_status == 2
    assert inside.ran() == ["wrong"]


def test_what_went_wrong_is_named_and_the_rest_is_done(toy: Toy) -> None:
    """With kernels: one stage is too slow, one is killed, one divides by zero."""
    toy.stages(
        count=COUNT,
        slow=({"timeout": 0.5}, "\n# wait\ntime.sleep(1000)"),
        dead=({}, "import os, signal\nos.kill(os.getpid(), signal.SIGKILL)"),
        zero=({"inputs": ["n.json"], "outputs": ["z.json"]}, "# a remark\n\nx = 1 / 0"),
        after=({"inputs": ["z.json"]}, "1"),
        double=DOUBLE,
    )
    with toy.start("--jobs=2") as process:
        said = process.communicate(timeout=60)[0]
    assert process.returncode == 3
    manifest = toy.last()
    assert statuses(manifest) == {
        "count": "done",
        "slow": "failed",
        "dead": "failed",
        "zero": "failed",
        "after": "skipped",
        "double": "done",
    }
    assert manifest.status == "failed"
    for part in (
        "stage 'slow' failed in slow.ipynb: it took longer than its timeout of 0.5 s",
        "stage 'dead' failed in dead.ipynb: its kernel died, killed from outside",
        "stage 'zero' failed in zero.ipynb, code cell 5, line 3: x = 1 / 0\nZeroDivisionError: division by zero",
        f"executed notebook: ../runs/{manifest.run_id}/notebooks/zero.ipynb",
        f"notebento lab zero --run {manifest.run_id}",
    ):
        assert part in said, said
    assert "ZeroDivisionError" in (toy.runs / manifest.run_id / "notebooks/zero.ipynb").read_text()
    assert none_left(toy, 1) == []
    assert (toy.runs / "latest").resolve().name == manifest.run_id


def test_a_kernel_that_does_not_start_takes_no_other_with_it(toy: Toy, monkeypatch: pytest.MonkeyPatch) -> None:
    """No memory for a second kernel: the first stage is done, and nothing is left."""
    from notebento.pipeline import engine

    class Fails(engine.Kernel):
        def __init__(self, folder: Path) -> None:
            if folder.name != "0":
                raise MemoryError("no more kernels")
            super().__init__(folder)

    monkeypatch.setattr(engine, "Kernel", Fails)
    toy.stages(count=COUNT, other=({"outputs": ["o.json"]}, "time.sleep(1)\nstage.write('o.json', 1)"))
    with here(toy, without_kernels=False), pytest.raises(MemoryError, match="no more kernels"):
        toy.drive(jobs=2)
    assert sorted(r.status for r in toy.last().stages.values()) == ["done", "failed"]
    assert none_left(toy, 1) == []


def test_a_run_killed_while_it_starts_a_kernel_leaves_none_where_a_session_adopts_it(toy: Toy) -> None:
    """A desktop's session adopts orphans, so that their parent is not process 1."""
    toy.stages(count=(COUNT[0], "time.sleep(1000)"))
    adopt = (
        "import ctypes, subprocess, sys, time\n"
        "ctypes.CDLL(None).prctl(36, 1, 0, 0, 0)\n"  # PR_SET_CHILD_SUBREAPER
        "p = subprocess.Popen([sys.executable, '-m', 'notebento', 'run'])\n"
        "sys.stdin.read(1)\np.kill()\np.wait()\nsys.stdin.read(1)"
    )
    session = subprocess.Popen(
        [sys.executable, "-c", adopt], cwd=toy.home, env={**os.environ, **toy.environ},
        stdin=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert session.stdin
    until(lambda: processes(toy, "launch_kernel"))
    session.stdin.write("x")
    session.stdin.flush()
    try:
        end = time.monotonic() + 8
        while (left := processes(toy, "launch_kernel")) and time.monotonic() < end:
            time.sleep(0.1)
        assert left == []
    finally:
        session.kill()
        session.wait()
        session.stdin.close()
        for p in processes(toy):
            p.kill()


def test_what_a_killed_process_of_this_number_was_writing_is_no_obstacle(inside: Toy) -> None:
    """In a container every run may have the same process number."""
    inside.stages(count=COUNT, folder=LONG["folder"])
    inside.drive(into="same")
    for path in (p for p in inside.runs.rglob("*") if p.name[0] != "."):
        part = path.with_name(f".{path.name}.{os.getpid()}.part")
        if path.is_dir():
            part.mkdir()
            (part / "x").write_text("x")
        elif "same" in path.parts or "blobs" in path.parts:
            part.write_text("x")
    (inside.runs / f".latest.{os.getpid()}").symlink_to("nowhere")
    for blob in (inside.runs / "cache/blobs").glob("*/[!.]*"):
        blob.unlink()
    assert Manifest.read(inside.drive(into="same")).status == "done"
    assert Manifest.read(inside.drive()).status == "done"
    check_cache(inside)
