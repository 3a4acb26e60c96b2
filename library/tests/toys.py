"""Small projects whose stages do next to nothing, an engine without kernels, and ways to see what a run left."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import yaml

from notebento.core import stage as stage_module
from notebento.core.artifacts import Manifest
from notebento.pipeline import runner
from notebento.pipeline.engine import Engine, Job, Local, StageError, where_it_failed
from notebento.pipeline.loop import Watcher
from notebento.pipeline.plan import RunOptions

PARAMETERS = 'overrides = []\nrun_dir = ""'
HEAD = "import os, time\nfrom pathlib import Path\nfrom notebento.core.stage import Stage"
OPEN = 'stage = Stage.open("{name}", overrides, run_dir)'
LOG = 'with open({log!r}, "a") as log:\n    log.write("{name}\\n")'
CONF = """
defaults: [notebento, _self_, {model: null}, {pipeline: default}, {experiment: null}]
project: {name: toy}
"""
LAB = """# @package _global_
registry: {ledger: "${project.name}-lab"}
trainer: {epochs: 2}
"""
KERNEL = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}


def code(source: str, **more: Any) -> dict[str, Any]:
    """A code cell."""
    return {"cell_type": "code", "execution_count": None, "outputs": [], "metadata": {}, "source": source} | more


def prose(source: str) -> dict[str, Any]:
    """A cell of prose."""
    return {"cell_type": "markdown", "metadata": {}, "source": source}


def write_notebook(path: Path, *cells: dict[str, Any]) -> None:
    """Write a notebook of these cells."""
    path.write_text(json.dumps({"cells": list(cells), "metadata": KERNEL, "nbformat": 4, "nbformat_minor": 4}))


class Toy:
    """A project in `folder`. Every stage adds its name to a log outside of the runs when it starts its work."""

    def __init__(self, folder: Path) -> None:
        self.home, self.runs, self.log = folder / "project", folder / "runs", folder / "log"
        (self.home / "conf" / "pipeline").mkdir(parents=True)
        (self.home / "conf" / "experiment").mkdir()
        (self.home / "conf" / "model").mkdir()
        (self.home / "nbs").mkdir()
        (self.home / "conf" / "config.yaml").write_text(CONF)
        (self.home / "conf" / "experiment" / "lab.yaml").write_text(LAB)
        self.declare({})
        self.log.touch()
        self._read = 0  # characters of the log that `ran` has returned
        self.engine: Callable[[int], Engine] = Local
        self.environ = {"NOTEBENTO_HOME": str(self.home), "NOTEBENTO_RUNS": str(self.runs)}

    def stages(self, **stages: tuple[dict[str, Any], str]) -> "Toy":
        """These are the stages now: each its declaration and the code of its last cell."""
        self.declare({name: declared for name, (declared, _) in stages.items()})
        for name, (_, source) in stages.items():
            self.notebook(name, source)
        return self

    def declare(self, stages: dict[str, dict[str, Any]]) -> None:
        """Write conf/pipeline/default.yaml."""
        full = {n: {"notebook": f"{n}.ipynb", "groups": ["project"]} | d for n, d in stages.items()}
        text = yaml.safe_dump({"name": "toy", "stages": full})
        (self.home / "conf/pipeline/default.yaml").write_text(text)

    def notebook(self, name: str, *sources: str, prose_: str = "Words.", head: Iterable[dict[str, Any]] = ()) -> None:
        """Write the notebook of the stage `name`; its last cells are `sources`."""
        first = [code(PARAMETERS, metadata={"tags": ["parameters"]}), code(HEAD), code(OPEN.format(name=name))]
        log = code(LOG.format(log=str(self.log), name=name))
        cells = [prose(prose_), *head, *first, log, *(code(s) for s in sources)]
        write_notebook(self.home / f"nbs/{name}.ipynb", *cells)

    def ran(self) -> list[str]:
        """The stages that ran since this was asked last, sorted."""
        text = self.log.read_text()
        text, self._read = text[self._read :], len(text)  # truncating would lose a line that is written meanwhile
        return sorted(text.split())

    def start(self, *arguments: str, command: str = "run", **environ: str) -> "subprocess.Popen[str]":
        """The command in a process and a session of its own."""
        return subprocess.Popen(
            [sys.executable, "-m", "notebento", command, *arguments],
            cwd=self.home,
            env=os.environ | self.environ | environ,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def run(self, *arguments: str, **environ: str) -> str:
        """Run to the end, well; returns what was printed."""
        with self.start(*arguments, **environ) as process:
            said = process.communicate(timeout=120)[0]
        assert process.returncode == 0, said
        return said

    def drive(self, *overrides: str, jobs: int = 0, watcher: Watcher | None = None, **options: Any) -> Path:
        """Run in this process, see `here`, on the engine of the toy; returns the run's folder."""
        return runner.run([*overrides], RunOptions(**options), jobs, watcher, self.engine)

    def manifests(self) -> list[Manifest]:
        """Those of all runs, oldest first."""
        return [Manifest.read(p.parent) for p in sorted(self.runs.glob("2*/manifest.json"))]

    def last(self) -> Manifest:
        """The manifest of the newest run."""
        return Manifest.read(max(self.runs.glob("2*/manifest.json"), key=lambda p: p.stat().st_mtime_ns).parent)

    def blob(self, artifact: str) -> Path:
        """Where the last run's artifact, a file, is in the cache."""
        digest = self.last().artifacts()[artifact].digest
        return self.runs / "cache/blobs" / digest[:2] / digest


def digests(manifest: Manifest) -> dict[str, str]:
    """Those of the artifacts that two runs must agree on."""
    return {name: a.digest for name, a in manifest.artifacts().items() if a.compared}


def statuses(manifest: Manifest) -> dict[str, str]:
    """How each stage ended."""
    return {name: record.status for name, record in manifest.stages.items()}


def processes(toy: Toy, word: str = "") -> list[psutil.Process]:
    """The processes that were started for `toy` and have `word` in their command, this one aside."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):  # it may end while it is asked
            mine = process.pid != os.getpid() and process.environ().get("NOTEBENTO_RUNS") == str(toy.runs)
            if mine and word in " ".join(process.cmdline()):
                found.append(process)
    return found


def none_left(toy: Toy, seconds: float = 5) -> list[str]:
    """The command lines of what still runs for `toy` after `seconds` at most."""
    end = time.monotonic() + seconds
    while (left := processes(toy)) and time.monotonic() < end:
        time.sleep(0.1)
    return [str(p) for p in left]


def until(what: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait until `what` is true."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, "it never came"
        time.sleep(0.01)
    return found


def kill(process: "subprocess.Popen[str]") -> None:
    """`kill -9`."""
    process.send_signal(signal.SIGKILL)
    process.communicate()


class Threads:
    """An engine that executes the notebooks' cells in threads of this process."""

    def __init__(self, slots: int) -> None:
        self.slots = slots
        self.threads = ThreadPoolExecutor(slots)

    def submit(self, job: Job, tell: Callable[[str], None]) -> "Future[None]":
        return self.threads.submit(self._run, job)

    def warm(self) -> None:
        pass

    def stop(self) -> None:
        self.threads.shutdown(cancel_futures=True)

    def _run(self, job: Job) -> None:
        text = Path(job.notebook).read_text()
        names: dict[str, Any] = {}
        try:
            cells = [cell for cell in json.loads(text)["cells"] if cell["cell_type"] == "code"]
            for number, cell in enumerate(cells, 1):
                self._cell(job, number, "".join(cell["source"]), names)
                if "parameters" in cell["metadata"].get("tags", []):
                    names |= {"overrides": job.overrides, "run_dir": job.run_dir}
        finally:
            job.executed.parent.mkdir(parents=True, exist_ok=True)
            job.executed.write_text(text)
            work = (Path(job.run_dir) / "work" / job.stage).resolve()
            if work in stage_module._LOCKED:  # a kernel would have ended now
                os.close(stage_module._LOCKED.pop(work))

    def _cell(self, job: Job, number: int, source: str, names: dict[str, Any]) -> None:
        try:
            exec(compile(source, f"cell {number}", "exec"), names)
        except Exception as e:
            name = type(e).__name__
            lines = [f.lineno for f in traceback.extract_tb(e.__traceback__) if f.filename == f"cell {number}"]
            where = where_it_failed(number, source, f"Cell In[1], line {lines[0]}" if lines else "")
            raise StageError(job, f"{where}\n{name}: {e}", name) from e


@contextmanager
def here(toy: Toy, without_kernels: bool = True) -> Iterator[Toy]:
    """In this block this process works in `toy`."""
    before, engine = dict(os.environ), toy.engine
    toy.engine = Threads if without_kernels else Local
    os.environ.update(toy.environ)
    try:
        yield toy
    finally:
        os.environ.clear()
        os.environ.update(before)
        toy.engine = engine
        assert not [t for t in threading.enumerate() if isinstance(t, threading.Timer)], "a timeout still waits"
