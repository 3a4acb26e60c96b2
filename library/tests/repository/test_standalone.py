"""A project without the library's sources: it carries the wheel, and everything works as in the repository."""

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path
from typing import NamedTuple

import pytest
from packaging.requirements import Requirement

import notebento
from notebento.cli.check import QUICK
from notebento.pipeline.template import unpack
from notebento.pipeline.wheel import record, wheel

INFO = f"notebento-{notebento.__version__}.dist-info"
pytestmark = pytest.mark.process

SOURCES = """
import json, sys
from pathlib import Path
from notebento.core.compose import compose
from notebento.pipeline.code import Project, sources
from notebento.pipeline.keys import chosen
config, project = compose(["experiment=lab"]), Project(Path(sys.argv[1]))
stages = config.pipeline.stages.items()
found = {name: sources(stage.notebook, chosen(stage, config), project) for name, stage in stages}
print(json.dumps({name: {m.name: [c.meaning for c in m.cells] for m in f} for name, f in found.items()}))
"""


class Home(NamedTuple):
    """A project and the Python in which it works."""

    root: Path
    python: Path
    environment: dict[str, str]

    def run(self, *arguments: str, timeout: float = 600) -> subprocess.CompletedProcess[str]:
        """`python arguments…` in the project."""
        return subprocess.run(
            [self.python, *arguments],
            cwd=self.root,
            env=self.environment,
            capture_output=True,
            text=True,
            timeout=timeout,
        )


@pytest.fixture(scope="module")
def standalone(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Home:
    """The repository's root without library/, and an environment that holds the wheel and sees our packages."""
    folder = tmp_path_factory.mktemp("standalone")
    root = folder / "project"
    for name in tracked(repository):
        if not name.startswith("library/") and (repository / name).is_file():
            (root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, root / name)
    venv = folder / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    with zipfile.ZipFile(wheel_of(repository, folder)) as wheel:
        wheel.extractall(packages)
    # What lies in the .pth files of a folder that is named in one is not read: the parent's editable packages stay out.
    seen = [str(root / "src"), sysconfig.get_path("purelib"), sysconfig.get_path("platlib")]
    (packages / "project.pth").write_text("\n".join(seen) + "\n")
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("NOTEBENTO_")}
    return Home(root, venv / "bin/python", own | {"NOTEBENTO_RUNS": str(folder / "runs")})


def tracked(repository: Path) -> list[str]:
    """The files that git knows or would know."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    return subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]


def wheel_of(repository: Path, folder: Path) -> Path:
    """The library's wheel, built from a copy: building leaves files behind."""
    for name in tracked(repository):
        if (repository / name).is_file():
            (folder / "checkout" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, folder / "checkout" / name)
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-build-isolation", "--no-index", "-w"]
    library = str(folder / "checkout" / "library")
    subprocess.run([*command, str(folder), library], check=True, capture_output=True, text=True)
    return next(folder.glob("notebento-*.whl"))


def test_the_library_is_the_wheels(standalone: Home) -> None:
    code = "import notebento, flights; print(notebento.__file__); print(flights.__file__)"
    library, project = standalone.run("-c", code).stdout.split()
    assert Path(library).is_relative_to(standalone.python.parents[1])
    assert Path(project).is_relative_to(standalone.root)


def test_the_wheel_carries_the_librarys_notebooks(standalone: Home, root: Path) -> None:
    code = "from notebento.cli.main import library_notebooks as place; print(place())"
    carried = Path(standalone.run("-c", code).stdout.strip())
    assert carried.is_relative_to(standalone.python.parents[1])
    ours = {p.relative_to(root / "nbs"): p.read_bytes() for p in (root / "nbs").rglob("*.ipynb")}
    assert {p.relative_to(carried): p.read_bytes() for p in carried.rglob("*.ipynb")} == ours
    templates = {p.name for p in (carried.parent / "templates").glob("*.*")}
    assert templates == {p.name for p in (root / "src" / "notebento" / "templates").glob("*.*")} != set()


def test_a_new_project_of_the_installed_library_carries_the_wheel_that_was_built(standalone: Home, root: Path) -> None:
    folder = standalone.root.parent
    (folder / "rows.csv").write_text("a,b,y\n" + "".join(f"{i % 7},{i % 11},{i % 2}\n" for i in range(200)))
    options = ["--data", str(folder / "rows.csv"), "--target", "y", "--yes"]
    done = standalone.run("-m", "notebento", "new", str(folder / "rows"), *options)
    assert done.returncode == 0, done.stdout + done.stderr
    (carried,) = (folder / "rows/wheels").iterdir()
    built = unpack((folder / carried.name).read_bytes())
    again = unpack(carried.read_bytes())
    assert built.keys() - again.keys() <= {f"{INFO}/top_level.txt"}
    assert {name for name in again if built.get(name) != again[name]} <= {f"{INFO}/RECORD", f"{INFO}/WHEEL"}
    assert record({n: c for n, c in again.items() if n != f"{INFO}/RECORD"}, INFO) == again[f"{INFO}/RECORD"]
    checked = standalone._replace(root=folder / "rows").run("-m", "notebento", "update", "--check")
    assert checked.returncode == 0 and "up to date" in checked.stdout, checked.stdout + checked.stderr


def test_a_checkout_makes_the_wheel_that_is_built(standalone: Home) -> None:
    name, content = wheel()
    built, ours = unpack((standalone.root.parent / name).read_bytes()), unpack(content)
    made = {f"{INFO}/{n}" for n in ("RECORD", "WHEEL", "METADATA", "top_level.txt", "licenses/LICENSE")}
    assert {n for n in built.keys() | ours.keys() if built.get(n) != ours.get(n)} <= made | {f"{INFO}/entry_points.txt"}
    assert needs(built) == needs(ours) and len(needs(ours)) > 40
    scripts = [files[f"{INFO}/entry_points.txt"].decode().split() for files in (built, ours)]
    assert scripts[0] == scripts[1]


def needs(files: dict[str, bytes]) -> set[tuple[str, str, str, frozenset[str]]]:
    """What a wheel requires, however it is written."""
    lines = files[f"{INFO}/METADATA"].decode().splitlines()
    found = [Requirement(line.partition(": ")[2]) for line in lines if line.startswith("Requires-Dist")]
    extras = [sorted(set(re.findall(r"extra == \W(\w+)", str(r.marker)))) for r in found]
    return {(r.name, str(r.specifier), str(e), frozenset(r.extras)) for r, e in zip(found, extras, strict=True)}


def test_the_keys_are_those_of_the_repository(standalone: Home, repository: Path, tmp_path: Path) -> None:
    theirs = standalone.run("-c", SOURCES, str(standalone.root))
    assert theirs.returncode == 0, theirs.stderr
    paths = os.pathsep.join(str(folder / "src") for folder in (repository / "library", repository))
    own = os.environ | {"PYTHONPATH": paths, "NOTEBENTO_HOME": str(repository), "NOTEBENTO_RUNS": str(tmp_path)}
    ours = subprocess.run(
        [sys.executable, "-c", SOURCES, str(repository)], env=own, capture_output=True, text=True, check=True
    ).stdout
    assert json.loads(theirs.stdout) == json.loads(ours)
    assert any(file.startswith("notebento/") for file in json.loads(ours)["train"])


def test_the_lab_pipeline_goes_on_where_the_repository_stopped(standalone: Home, repository: Path) -> None:
    """What the repository computed has the same keys here; the first and the last stage run again, in kernels."""
    if (known := repository / "runs/cache").is_dir():
        shutil.copytree(known, Path(standalone.environment["NOTEBENTO_RUNS"]) / "cache", dirs_exist_ok=True)
    lab = ["-m", "notebento", "run", "experiment=lab"]
    done = standalone.run(*lab, "--force=data", "--force=bento")
    assert done.returncode == 0, done.stdout + done.stderr
    again = standalone.run(*lab, "--plan")
    assert "nothing to do" in again.stdout, again.stdout + again.stderr


@pytest.mark.nightly
def test_the_lab_pipeline_runs_from_nothing(standalone: Home, tmp_path: Path) -> None:
    cold = standalone._replace(environment=standalone.environment | {"NOTEBENTO_RUNS": str(tmp_path)})
    done = cold.run("-m", "notebento", "run", "experiment=lab")
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_projects_tests_pass(standalone: Home, request: pytest.FixtureRequest) -> None:
    """Some of the quick ones; the others have just passed in the repository, and pass here with --nightly."""
    nightly = request.config.getoption("--nightly")
    some = ["tests"] if nightly else ["tests/test_conf.py", "tests/test_project.py", "-m", QUICK]
    done = standalone.run("-m", "pytest", "-q", "-p", "no:cacheprovider", *some)
    assert done.returncode == 0, done.stdout + done.stderr
