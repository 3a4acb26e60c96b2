"""`notebento update`: a project takes over what is new in the template and the library."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NoReturn

import typer
from packaging.version import Version

import notebento
from notebento.cli.options import out, print_facts, print_json
from notebento.core.artifacts import remove
from notebento.core.compose import project_root
from notebento.core.errors import UserError

if TYPE_CHECKING:
    from notebento.pipeline.releases import Release
    from notebento.pipeline.transaction import Transaction


def update(
    check: Annotated[bool, typer.Option("--check", help="Only say whether there is a newer version; for CI.")] = False,
    to: Annotated[str, typer.Option("--to", help="Take this version, not the newest.", metavar="VERSION")] = "",
    source: Annotated[
        str, typer.Option(help="Look here, not where update.source says.", metavar="FOLDER|URL|index")
    ] = "",
    abort: Annotated[bool, typer.Option("--abort", help="Take back an update that was cut off.")] = False,
    install: Annotated[bool, typer.Option(help="Install the new version into this environment, too.")] = True,
    take: Annotated[Path | None, typer.Option(hidden=True)] = None,
    as_json: Annotated[bool, typer.Option("--json", help="With --check: print JSON instead of text.")] = False,
) -> None:
    """Merge what is new in the template and the library into this project; you look at it and commit.

    Notebooks are merged by cells, other files by lines, and what you changed stays. Where both sides changed a cell,
    yours stays code, and the template's follows as a raw cell tagged update-conflict.

    Exit status: 0 done or up to date, 1 conflicts are left or --check found a newer version, 2 refused.
    """
    from notebento.pipeline.repository import git_folder
    from notebento.pipeline.update import origin

    root = project_root()
    made = origin(root)
    if source and source != "index" and "://" not in source:
        source = str(Path(source).expanduser().resolve())  # typed here, and not in the project's configuration
    if check:
        _check(root, Version(made.version), to, source, as_json)
        return
    work = git_folder(root) / "notebento" / str(made.answers["name"])
    if abort:
        _take_back(root, work)
    elif not _completed(root, work, install):
        _refuse_uncommitted(root)
        release = _newer(root, Version(made.version), to, source, take, work)
        if release.version != Version(notebento.__version__):
            _hand_over(release, root, work, install and _is_installed())
        _end(root, work, _written(root, work, release), install)


def _check(root: Path, made: Version, to: str, source: str, as_json: bool) -> None:
    """Say whether there is a newer version; nothing is written into the project."""
    from notebento.pipeline.releases import find_release, named_source, shown_source

    where = source or named_source(root)
    with tempfile.TemporaryDirectory(prefix="notebento-update-") as folder:
        found = find_release(where, root, to, Path(folder)).version
    facts = {"project": str(made), "available": str(found), "source": shown_source(where)}
    if as_json:
        print_json(facts | {"news": found > made})
    else:
        print_facts(facts)
        out.print("an update is available: notebento update" if found > made else "up to date", highlight=False)
    if found > made:
        raise typer.Exit(1)


def _take_back(root: Path, work: Path) -> None:
    from notebento.pipeline.transaction import take_back, unfinished

    record = unfinished(work / "update")
    if record is None:
        raise UserError("no update was cut off", fix="git stash -u puts one aside that is done and not committed")
    take_back(work / "update", root)
    out.print(f"{record.what} is taken back: every file is as it was before", highlight=False)


def _completed(root: Path, work: Path, install: bool) -> bool:
    """Whether there was an update that had been cut off, which is now complete."""
    from notebento.pipeline.transaction import complete, unfinished

    record = unfinished(work / "update")
    if record is None:
        return False
    out.print(f"{record.what} was cut off, and is completed now; --abort would take it back", highlight=False)
    complete(work / "update", root)
    _end(root, work, record, install)
    return True


def _refuse_uncommitted(root: Path) -> None:
    from notebento.pipeline.repository import uncommitted

    if files := uncommitted(root):
        named = ", ".join(files[:6]) + (f" and {len(files) - 6} more" if len(files) > 6 else "")
        raise UserError(
            f"these files are not committed: {named}",
            fix="git add --all && git commit, or git stash -u; then what the update does is a diff of its own",
        )


def _newer(root: Path, made: Version, to: str, source: str, take: Path | None, work: Path) -> "Release":
    """The release to update to; ends the command when the project has it."""
    from notebento.pipeline.releases import Release, as_version, find_release, named_source, running, shown_source

    if take:
        return Release(running().version, take)
    if to and as_version(to) < made:
        raise UserError(f"{to} is older than the project's {made}", fix="git revert takes back what an update did")
    where = source or named_source(root)
    remove(work / "download")
    release = find_release(where, root, to, work / "download")
    if release.version > made:
        return release
    remove(work)
    out.print(f"notebento {made} is up to date: newest in {shown_source(where)} is {release.version}", highlight=False)
    raise typer.Exit


def _is_installed() -> bool:
    """Whether the library of this process was installed from a wheel, which may be replaced."""
    from notebento.pipeline.template import ARCHIVE

    return Path(notebento.__path__[0], ARCHIVE).is_file()


def _hand_over(release: "Release", root: Path, work: Path, install: bool) -> NoReturn:
    """Continue with the library of `release`."""
    from notebento.pipeline.update import unpacked

    remove(work / "library")
    library = unpacked(Path(str(release.wheel)), work / "library")
    paths = os.pathsep.join([str(library), *filter(None, [os.environ.get("PYTHONPATH")])])
    command = [sys.executable, "-P", "-m", "notebento", "update", f"--take={release.wheel}"]
    command.append("--install" if install else "--no-install")
    sys.stdout.flush()
    os.execve(sys.executable, command, os.environ | {"PYTHONPATH": paths, "NOTEBENTO_HOME": str(root)})


def _written(root: Path, work: Path, release: "Release") -> "Transaction":
    """Merge, then change the files: all of them, or none."""
    from notebento.pipeline.template import templates
    from notebento.pipeline.transaction import begin, complete, take_back, unfinished
    from notebento.pipeline.update import plan_update, transaction_of
    from notebento.pipeline.wheel import wheel

    carried = (release.wheel.name, release.wheel.read_bytes()) if release.wheel else wheel()
    plan = plan_update(root, str(release.version), carried, templates())
    state = work / "update"
    record = begin(state, root, plan.changes, transaction_of(plan, root))
    try:
        complete(state, root)
    except BaseException:
        if unfinished(state):
            take_back(state, root)
        raise
    return record


def _end(root: Path, work: Path, record: "Transaction", install: bool) -> None:
    """Say what was done and what is to be done. Ends with 1 where conflicts are left."""
    for line in record.summary:
        out.print(line, highlight=False, markup=False, soft_wrap=True)
    left = record.failed or not install
    try:
        problem = "" if left else _install(root, work)
    finally:
        remove(work)
    if problem:
        out.print(f"not installed here: {problem}; python3 scripts/run.py does it", highlight=False, markup=False)
    steps = ["notebento check lists the conflicts that are left"] if record.failed else []
    tests = "python3 scripts/test.py" + (", which installs the new version first" if left else "")
    steps += ["git status, git diff", tests, "git add --all && git commit"]
    for step in steps:
        out.print(f"next: {step}", highlight=False, markup=False)
    if record.failed:
        raise typer.Exit(1)


def _install(root: Path, work: Path) -> str:
    """Install the new version into this environment; returns why that was not done, or nothing."""
    wheel = next((root / "wheels").glob("notebento-*.whl"))
    own = Path(sys.prefix).resolve() == (root / ".venv").resolve()
    if own and _stamp(root).get("path") == str(root / ".venv"):
        # As run.py does it: with the lock and the extras, and remembered.
        code = "import sys, environment; sys.exit(environment.guarded(lambda _: environment.ensure() or 0, []))"
        command = [sys.executable, "-c", code]
    elif not _is_installed():
        return "this library is a checkout"
    else:
        command = [sys.executable, "-m", "pip", "install", "--disable-pip-version-check", "--no-input", "--quiet"]
        command += ["--constraint=requirements.lock", str(wheel)]
    paths = [p for p in os.environ.get("PYTHONPATH", "").split(os.pathsep) if p and Path(p) != work / "library"]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, str(root / "scripts")])}
    done = subprocess.run(command, cwd=root, env=environment, capture_output=True, text=True)
    lines = [line.strip() for line in (done.stderr or done.stdout).splitlines() if line.strip()]
    return "" if done.returncode == 0 else next((line for line in lines if "ERROR" in line), " ".join(lines[:1]))


def _stamp(root: Path) -> dict:
    """What scripts/environment.py remembers of `.venv`."""
    place = root / ".venv" / "installed.json"
    return dict(json.loads(place.read_text(encoding="utf-8"))) if place.is_file() else {}
