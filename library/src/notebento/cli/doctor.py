"""`notebento doctor`: what is wrong with this machine."""

import shutil
import sys
import tempfile
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version

import msgspec

from notebento.cli.options import AsJson, out, print_json
from notebento.core.compose import compose, project_root, runs_folder
from notebento.core.errors import GateError, NotebentoError, UserError

ROOM = 2e9  # bytes that a year's run and its cache take, several times over


class Finding(msgspec.Struct, frozen=True):
    """What was looked at, and what is wrong with it."""

    what: str
    found: str
    fix: str = ""  # empty: nothing is wrong


def doctor(as_json: AsJson = False) -> None:
    """Look at Python, the project, its packages, git and the disk, and say what is wrong.

    Exit status: 0 nothing, 1 something is.
    """
    findings = [_examined(what, look) for what, look in LOOKS.items()]
    if as_json:
        print_json(findings)
    for f in [] if as_json else findings:
        out.print(f"{'[red]✗[/]' if f.fix else '[green]✓[/]'} {f.what:<10}", end=" ", highlight=False)
        out.print(f"{f.found}{f'  fix: {f.fix}' if f.fix else ''}", highlight=False, markup=False, soft_wrap=True)
    if wrong := [f.what for f in findings if f.fix]:
        raise GateError(f"something is wrong with {', '.join(wrong)}")


def _examined(what: str, look: Callable[[], str]) -> Finding:
    try:
        return Finding(what, look())
    except NotebentoError as e:
        return Finding(what, e.message, e.fix or "see the message")


def _python() -> str:
    if not (3, 11) <= sys.version_info[:2] <= (3, 13):
        raise UserError(f"Python {sys.version.split()[0]}", fix="use Python 3.11 to 3.13")
    return f"{sys.version.split()[0]}, {sys.executable}"


def _project() -> str:
    config = compose()
    return f"{config.project.name} in {project_root()}: {', '.join(config.pipeline.stages)}"


def _packages() -> str:
    """The installed versions against requirements.lock; what is not installed belongs to an extra."""
    lock = project_root() / "requirements.lock"
    pins: dict[str, set[str]] = {}  # several versions where they depend on the platform
    for line in lock.read_text(encoding="utf-8").splitlines() if lock.is_file() else []:
        if "==" in line and not line.startswith("#"):
            name, wanted = line.partition(";")[0].strip().split("==")
            pins.setdefault(name, set()).add(wanted)
    if others := list(filter(None, (_other(name, wanted) for name, wanted in pins.items()))):
        several = f"{', '.join(others[:5])}{' …' if len(others) > 5 else ''}"
        raise UserError(f"not the versions of requirements.lock: {several}", fix="python3 scripts/run.py sets them up")
    return f"as in {lock.name}" if pins else "there is no requirements.lock"


def _other(name: str, wanted: set[str]) -> str:
    try:
        found = version(name)
    except PackageNotFoundError:
        return ""
    return "" if found.split("+")[0] in wanted else f"{name} {found} instead of {' or '.join(sorted(wanted))}"


def _git() -> str:
    if not (program := shutil.which("git")):
        raise UserError("git is not installed", fix="install git: runs name their commit, and verify clones it")
    return program


def _disk() -> str:
    runs = runs_folder()
    folder = next(p for p in (runs, *runs.parents) if p.is_dir())
    try:
        tempfile.TemporaryFile(dir=folder).close()
    except OSError as e:
        fix = "change its owner, or set NOTEBENTO_RUNS to another folder"
        raise UserError(f"the runs go to {runs}, and {folder} cannot be written: {e.strerror}", fix=fix) from e
    free = shutil.disk_usage(folder).free
    if free < ROOM:
        raise UserError(f"{free / 1e9:.1f} GB free in {folder}", fix="make room, or notebento runs gc --keep 5")
    return f"{free / 1e9:.0f} GB free; the runs go to {runs}"


LOOKS = {"Python": _python, "project": _project, "packages": _packages, "git": _git, "disk": _disk}
