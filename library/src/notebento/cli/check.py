"""`notebento check`: what has to hold before a change is done. Each check is a command that also runs alone."""

import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, NamedTuple, TextIO

import msgspec
import typer

from notebento.cli.agreement import agree
from notebento.cli.options import AsJson, print_json
from notebento.core.errors import GateError, UserError

FREE = {"allow_extra_args": True, "ignore_unknown_options": True}  # pytest's arguments
QUICK = "not process and not server and not nightly"
AGREE = "notebooks and modules agree"
SETTLED = "conflicts of an update are settled"


class Check(NamedTuple):
    """A command that passes or fails."""

    root: Path
    name: str
    command: list[str]  # empty: `agree` or `is_settled`, in this process
    aside: bool = False  # it only reads, and runs beside those that do not


class Result(msgspec.Struct, frozen=True):
    """What became of a check."""

    root: str
    check: str
    passed: bool | None  # None: it did not run
    seconds: float = 0.0


def check(
    context: typer.Context,
    fast: Annotated[bool, typer.Option("--fast", help="Lint, types and the quick tests alone.")] = False,
    nightly: Annotated[bool, typer.Option("--nightly", help="Also the tests that take long.")] = False,
    write: Annotated[bool, typer.Option("--write", help="Make notebooks and modules agree, and nothing else.")] = False,
    root: Annotated[
        list[Path] | None, typer.Option(help="Check this project, not the nearest; may be repeated.", file_okay=False)
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Run every check: lint, types, layers, notebooks, tests; the rest also when one failed.

    With arguments for pytest, such as -k split, it runs pytest alone.

    Exit status: 0 all passed, 1 one failed.
    """
    roots = [nearest_project(folder) for folder in root or [Path.cwd()]]
    if write:
        for folder in roots:
            agree(folder, write=True)
        return
    if context.args:
        checks = [Check(folder, "tests", ["pytest", *(["--nightly"] * nightly), *context.args]) for folder in roots]
    else:
        checks = [one for folder in roots for one in checks_of(folder, fast, nightly)]
    results = run_all(checks, quiet=as_json)
    if as_json:
        print_json(results)
    if failed := [r for r in results if not r.passed]:
        raise GateError(f"{len(failed)} of {len(results)} checks failed")


def nearest_project(folder: Path) -> Path:
    """The nearest folder from `folder` upwards that holds a project: a pyproject.toml."""
    folder = folder.resolve()
    for place in (folder, *folder.parents):
        if (place / "pyproject.toml").is_file():
            return place
    raise UserError(f"{folder} is not inside a project", fix="cd into the folder of a pyproject.toml")


def checks_of(root: Path, fast: bool = False, nightly: bool = False) -> list[Check]:
    """The checks of the project in `root`: only one while conflicts of an update make all others fail."""
    from notebento.pipeline.template import ANSWERS
    from notebento.pipeline.update import conflicts_left

    if (made := (root / ANSWERS).is_file()) and any(conflicts_left(root)):
        return [Check(root, SETTLED, [])]
    tools = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {})
    # A file in one process: its fixtures are made once. The tests' order, with slow files first, is conftest.py's.
    tests = ["pytest", "-n", "2", "--dist", "loadfile", "--no-loadscope-reorder"]
    commands: dict[str, list[str]] = {SETTLED: []} if made else {}
    commands |= {"lint": ["ruff", "check"], "format": ["ruff", "format", "--check", "--quiet"], "types": ["mypy"]}
    if "importlinter" in tools:
        commands["import layers"] = ["lint-imports", "--no-logo"]
    aside = {name for name, command in commands.items() if command}
    commands[AGREE] = []
    if fast:
        tests += ["-m", QUICK]
    else:
        if (root / "conf").is_dir():
            commands["lab run"] = ["notebento", "run", "experiment=lab", "--into=lab", "--no-export"]
        else:
            aside.add("notebook cells")  # no stages, which would work in runs/lab
        commands["notebook cells"] = ["nbdev_test", "--n_workers", "2", "--timing"]
    commands["tests"] = tests + ["--nightly"] * nightly
    return [Check(root, name, command, name in aside) for name, command in commands.items()]


def is_settled(root: Path) -> bool:
    """Print where conflicts of an update are left."""
    from notebento.pipeline.update import conflicts_left

    left = [*conflicts_left(root)]
    print("\n".join([*left, "the other checks run when these are settled"] if left else ["none is left"]))
    return not left


def run_all(checks: list[Check], quiet: bool = False) -> list[Result]:
    """Run `checks` and print a summary; `quiet` sends all output to standard error.

    They run one after the other, in a second row those that go aside, whose output comes when they are done.
    """
    began, done = time.monotonic(), dict[int, Result]()
    stream = sys.stderr if quiet else sys.stdout
    environment = _environment(checks)
    second_row = ThreadPoolExecutor(1)
    try:
        waiting = {n: second_row.submit(_captured, one, environment) for n, one in enumerate(checks) if one.aside}
        for number, one in enumerate(checks):
            if number not in waiting:
                print(_heading(one), file=stream, flush=True)
                done[number] = _live(one, environment, stream)
                _collect(waiting, done, stream)
        _collect(waiting, done, stream, wait=True)
    finally:
        second_row.shutdown(cancel_futures=True)
        results = [done.get(n, Result(str(one.root), one.name, None)) for n, one in enumerate(checks)]
        print(_summary(checks, results, time.monotonic() - began), file=stream, flush=True)
    return results


Aside = Future[tuple[Result, str]]  # what became of a check, and what it printed


def _collect(waiting: dict[int, Aside], done: dict[int, Result], stream: TextIO, wait: bool = False) -> None:
    """Print what the checks of the second row said that are done, or `wait` until all are."""
    for number in [n for n, one in waiting.items() if wait or one.done()]:
        done[number], output = waiting.pop(number).result()
        print(output, file=stream, end="", flush=True)


def _captured(one: Check, environment: Mapping[str, str]) -> tuple[Result, str]:
    began = time.monotonic()
    try:
        ended = subprocess.run(
            one.command, cwd=one.root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        passed, output = ended.returncode == 0, ended.stdout
    except FileNotFoundError as e:
        passed, output = False, f"{e.filename} is not installed\n"
    return _result(one, passed, began), f"{_heading(one)}\n{output}"


def _environment(checks: list[Check]) -> dict[str, str]:
    """What commands run in. mypy analyses packages once for all roots."""
    environment = {k: v for k, v in os.environ.items() if k != "NOTEBENTO_HOME"}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    if len(roots := {one.root for one in checks}) > 1:
        environment.setdefault("MYPY_CACHE_DIR", str(min(roots) / ".mypy_cache"))
    return environment


def _live(one: Check, environment: Mapping[str, str], stream: TextIO) -> Result:
    began = time.monotonic()
    return _result(one, _passes(one, environment, stream), began)


def _passes(one: Check, environment: Mapping[str, str], stream: TextIO) -> bool:
    if not one.command:
        with redirect_stdout(stream):
            return {AGREE: agree, SETTLED: is_settled}[one.name](one.root)
    command = [sys.executable, "-m", "notebento", *one.command[1:]] if one.command[0] == "notebento" else one.command
    try:
        output = sys.stderr if stream is sys.stderr else None
        return subprocess.run(command, cwd=one.root, env=environment, stdout=output).returncode == 0
    except FileNotFoundError as e:
        print(f"{e.filename} is not installed", file=sys.stderr)
        return False


def _result(one: Check, passed: bool, began: float) -> Result:
    return Result(str(one.root), one.name, passed, round(time.monotonic() - began, 3))


def _heading(one: Check) -> str:
    advice = {AGREE: "notebento check --write makes them agree", SETTLED: "take the template's version, or delete it"}
    return f"\n── {_label(one)}: {' '.join(one.command) or advice[one.name]}"


def _label(one: Check) -> str:
    return f"{one.root.name}: {one.name}"


def _summary(checks: list[Check], results: list[Result], seconds: float) -> str:
    words = {True: "ok", False: "FAILED", None: "not run"}
    lines = [f"{words[r.passed]:>7}  {r.seconds:6.1f} s  {_label(c)}" for c, r in zip(checks, results, strict=True)]
    passed = sum(r.passed is True for r in results)
    return "\n".join(["", *lines, f"{passed} of {len(results)} passed in {seconds:.0f} s"])
