"""`notebento check`: what has to hold before a change is done. Each check is a command that also runs alone."""

import os
import subprocess
import sys
import time
import tomllib
from contextlib import redirect_stdout
from pathlib import Path
from typing import Annotated, NamedTuple

import msgspec
import typer

from notebento.cli.agreement import agree
from notebento.cli.options import AsJson, print_json
from notebento.core.errors import GateError, UserError

FREE = {"allow_extra_args": True, "ignore_unknown_options": True}  # pytest's arguments
QUICK = "not process and not server and not nightly"
AGREE = "notebooks and modules agree"


class Check(NamedTuple):
    """A command that passes or fails."""

    root: Path
    name: str
    command: list[str]  # empty: `agree`, in this process


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
    """The checks of the project in `root`."""
    tools = tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8")).get("tool", {})
    tests = ["pytest", "-n", "2", "--dist", "loadfile"]  # a file in one process: its fixtures are made once
    commands = {"lint": ["ruff", "check"], "format": ["ruff", "format", "--check", "--quiet"], "types": ["mypy"]}
    if "importlinter" in tools:
        commands["import layers"] = ["lint-imports", "--no-logo"]
    commands[AGREE] = []
    if fast:
        tests += ["-m", QUICK]
    else:
        if (root / "conf").is_dir():
            commands["lab run"] = ["notebento", "run", "experiment=lab", "--into=lab", "--no-export"]
        commands["notebook cells"] = ["nbdev_test", "--n_workers", "2", "--timing"]
    commands["tests"] = tests + ["--nightly"] * nightly
    return [Check(root, name, command) for name, command in commands.items()]


def run_all(checks: list[Check], quiet: bool = False) -> list[Result]:
    """Run `checks` one after the other and print a summary; `quiet` sends all output to standard error."""
    done: dict[int, Result] = {}
    stream = sys.stderr if quiet else sys.stdout
    try:
        for number, one in enumerate(checks):
            command = " ".join(one.command) or "notebento check --write makes them agree"
            print(f"\n── {_label(one)}: {command}", file=stream, flush=True)
            began = time.monotonic()
            passed = _passes(one, quiet)
            done[number] = Result(str(one.root), one.name, passed, round(time.monotonic() - began, 3))
    finally:
        results = [done.get(n, Result(str(one.root), one.name, None)) for n, one in enumerate(checks)]
        print(_summary(checks, results), file=stream, flush=True)
    return results


def _passes(one: Check, quiet: bool) -> bool:
    if not one.command:
        return _agrees(one.root, quiet)
    beside = f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}"
    environment = {k: v for k, v in os.environ.items() if k != "NOTEBENTO_HOME"} | {"PATH": beside}
    command = [sys.executable, "-m", "notebento", *one.command[1:]] if one.command[0] == "notebento" else one.command
    try:
        output = sys.stderr if quiet else None
        return subprocess.run(command, cwd=one.root, env=environment, stdout=output).returncode == 0
    except FileNotFoundError as e:
        print(f"{e.filename} is not installed", file=sys.stderr)
        return False


def _agrees(root: Path, quiet: bool) -> bool:
    if not quiet:
        return agree(root)
    with redirect_stdout(sys.stderr):
        return agree(root)


def _label(one: Check) -> str:
    return f"{one.root.name}: {one.name}"


def _summary(checks: list[Check], results: list[Result]) -> str:
    words = {True: "ok", False: "FAILED", None: "not run"}
    lines = [f"{words[r.passed]:>7}  {r.seconds:6.1f} s  {_label(c)}" for c, r in zip(checks, results, strict=True)]
    passed, seconds = sum(r.passed is True for r in results), sum(r.seconds for r in results)
    return "\n".join(["", *lines, f"{passed} of {len(results)} passed in {seconds:.0f} s"])
