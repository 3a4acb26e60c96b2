"""What holds for the repository: a project at the top, the library in library/, one lock for both."""

import re
import subprocess
import tomllib
from itertools import chain
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

REPOSITORY = Path(__file__).resolve().parents[3]
PROJECTS = [
    tomllib.loads((REPOSITORY / folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for folder in ("library", ".")
]


def tracked(pattern: str) -> list[str]:
    """The files of the repository that fit."""
    command = ["git", "ls-files", pattern]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout.splitlines()


def test_the_top_is_the_project_and_nothing_else() -> None:
    assert len(tracked("nbs/*.ipynb")) <= 16
    assert {Path(name).parts[1] for name in tracked("src/**")} == {"flights"}
    assert {Path(name).name for name in tracked("scripts/*")} == {
        "clean_notebook.py",
        "environment.py",
        "python_version.py",
        "run.py",
        "test.py",
    }


def test_the_project_asks_for_this_library() -> None:
    library, project = PROJECTS
    assert f"notebento=={library['version']}" in project["dependencies"]


def test_the_lock_satisfies_every_requirement() -> None:
    lines = (REPOSITORY / "requirements.lock").read_text().splitlines()
    versions: dict[str, list[str]] = {}
    for pin in (Requirement(line) for line in lines if line[0] != "#"):
        ((operator, version),) = ((s.operator, s.version) for s in pin.specifier)
        assert operator == "=="
        versions.setdefault(canonicalize_name(pin.name), []).append(version)
    assert not {"notebento", "flights"} & versions.keys(), "the lock is of what both need, and of neither"
    needed = chain(*(chain(p["dependencies"], *p["optional-dependencies"].values()) for p in PROJECTS))
    for wanted in (Requirement(line) for line in needed):
        if wanted.name != "notebento":
            found = versions.get(canonicalize_name(wanted.name), [])
            assert found, f"{wanted} is not in the lock: make it again"
            assert all(v in wanted.specifier for v in found), f"{wanted}, but the lock has {found}"


def test_the_lock_names_no_machine() -> None:
    pins = [line for line in (REPOSITORY / "requirements.lock").read_text().splitlines() if line[0] != "#"]
    assert not re.findall(r"https?://|file:|@ |--\S+|(?:^|\s)/\S+", "\n".join(pins))
