"""scripts/run.py and scripts/test.py on a small checkout: real Pythons, a real venv and a real pip, no network."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

pytestmark = pytest.mark.process

COMMANDS = ["notebento", "pytest"]
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "{name}"
version = "0.1"
dependencies = {dependencies}
[tool.setuptools]
[tool.ruff]
line-length = 120
"""
# Builds wheels: of the project `flights`, whose extras need the library's, and of the library `notebento`, whose every
# command prints its name and arguments, and fails where $FAILING names it.
BACKEND = f"""
import os, tomllib, zipfile

COMMAND = '''
import os, sys
def main():
    name = os.path.basename(sys.argv[0])
    print(name, *sys.argv[1:], flush=True)
    return 7 if name in os.environ.get("FAILING", "").split() else 0
'''
WHEEL = "Wheel-Version: 1.0\\nGenerator: toy\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
SCRIPTS = "[console_scripts]\\n" + "".join(f"{{c}} = toy:main\\n" for c in {COMMANDS})
NEED = "Provides-Extra: {{0}}\\nRequires-Dist: notebento[{{0}}]; extra == '{{0}}'\\n"

def build_wheel(folder, config_settings=None, metadata_directory=None):
    name = tomllib.load(open("pyproject.toml", "rb"))["project"]["name"]
    info = f"{{name}}-0.1.dist-info/"
    metadata = f"Metadata-Version: 2.1\\nName: {{name}}\\nVersion: 0.1\\n"
    files = {{info + "WHEEL": WHEEL, info + "RECORD": ""}}
    if name == "notebento":
        metadata += "Provides-Extra: train\\nProvides-Extra: dev\\nProvides-Extra: docs\\n"
        files |= {{"toy.py": COMMAND, info + "entry_points.txt": SCRIPTS}}
    else:
        exec(os.environ.get("FAULT", ""))
        metadata += "".join(map(NEED.format, ("train", "dev", "docs"))) + "Requires-Dist: notebento==0.1\\n"
        metadata += os.environ.get("REQUIRES", "")
    files[info + "METADATA"] = metadata
    with zipfile.ZipFile(os.path.join(folder, f"{{name}}-0.1-py3-none-any.whl"), "w") as wheel:
        for path, text in files.items():
            wheel.writestr(path, text)
    return f"{{name}}-0.1-py3-none-any.whl"

build_editable = build_wheel
"""
NO_INDEX = {"PIP_NO_INDEX": "1"}  # the library comes from its place, and never by its name from an index


def fresh(folder: Path, repository: Path) -> Path:
    """A checkout on which nothing was run yet: a project, and the library's sources."""
    shutil.copytree(repository / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "requirements.lock").write_text("")
    part(folder, "flights", ["notebento==0.1"])
    part(folder / "library", "notebento", [])
    return folder


def part(folder: Path, name: str, dependencies: list[str]) -> None:
    """One of the two distributions."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pyproject.toml").write_text(PYPROJECT.format(name=name, dependencies=json.dumps(dependencies)))
    (folder / "backend.py").write_text(BACKEND)


def carrying(folder: Path, repository: Path) -> Path:
    """A checkout without the library's sources, which carries its wheel."""
    checkout = fresh(folder, repository)
    (checkout / "wheels").mkdir()
    command = [sys.executable, "-m", "pip", "wheel", "--no-deps", "--no-index", "-w", "wheels", "./library"]
    subprocess.run(command, cwd=checkout, check=True, capture_output=True)
    shutil.rmtree(checkout / "library")
    return checkout


def start(checkout: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start a script as a user does; output and errors come back together."""
    return subprocess.run(
        [sys.executable, checkout / "scripts" / script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | NO_INDEX | environment,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A checkout after its first start."""
    checkout = fresh(tmp_path_factory.mktemp("checkout"), repository)
    first = start(checkout, "run.py", "experiment=lab", "seed=1")
    assert first.returncode == 0, first.stdout
    assert "Setting up .venv with train" in first.stdout
    assert first.stdout.endswith("notebento run experiment=lab seed=1\n")
    return checkout


@pytest.fixture
def outdated(installed: Path) -> Iterator[Path]:
    """A checkout whose lock changed since the last start."""
    with (installed / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    yield installed
    assert start(installed, "run.py").returncode == 0


def test_the_exit_status_is_that_of_the_command(installed: Path) -> None:
    assert start(installed, "run.py", FAILING="notebento").returncode == 7


def test_a_second_start_costs_less_than_a_second(installed: Path) -> None:
    def fastest(*command: str | Path) -> float:
        times = []
        for _ in range(5):
            begin = time.perf_counter()
            assert subprocess.run(command, capture_output=True, text=True).stdout == "notebento run\n"
            times.append(time.perf_counter() - begin)
        return min(times)

    direct = fastest(installed / ".venv/bin/notebento", "run")
    ours = fastest(sys.executable, installed / "scripts/run.py")
    print(f"notebento run {direct:.3f} s, scripts/run.py {ours:.3f} s, {ours / direct:.1f} times")
    assert ours - direct < 1


def test_a_changed_lock_installs_again_and_keeps_the_extras(installed: Path) -> None:
    assert "Setting up .venv with dev, docs, train" in start(installed, "test.py", "--version").stdout
    with (installed / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert "Setting up .venv with dev, docs, train" in start(installed, "run.py").stdout
    assert start(installed, "test.py", "--version").stdout == "pytest --version\n"


def test_settings_of_a_linter_install_nothing(installed: Path) -> None:
    for pyproject in (installed / "pyproject.toml", installed / "library/pyproject.toml"):
        pyproject.write_text(pyproject.read_text().replace("120", "100"))
    assert start(installed, "run.py").stdout == "notebento run\n"


def test_a_changed_requirement_of_the_library_installs_again(installed: Path) -> None:
    pyproject = installed / "library/pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("dependencies = []", 'dependencies = ["pip"]'))
    assert "Setting up .venv" in start(installed, "run.py").stdout
    assert start(installed, "run.py").stdout == "notebento run\n"


def test_a_killed_installation_is_not_trusted(outdated: Path) -> None:
    building = outdated / "building"
    fault = f"import time; open({str(building)!r}, 'w'); time.sleep(60)"
    starting = subprocess.Popen(
        [sys.executable, outdated / "scripts/run.py"],
        env=os.environ | NO_INDEX | {"FAULT": fault},
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )
    while not building.exists() and starting.poll() is None:
        time.sleep(0.05)
    os.killpg(starting.pid, signal.SIGKILL)
    starting.wait()
    again = start(outdated, "run.py")
    assert "Setting up .venv" in again.stdout
    assert again.stdout.endswith("notebento run\n")


def test_no_network_says_so(outdated: Path) -> None:
    nowhere = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_EXTRA_INDEX_URL": "",
        "PIP_FIND_LINKS": "",
        "PIP_NO_INDEX": "0",
        "PIP_RETRIES": "0",
    }
    failed = start(outdated, "run.py", REQUIRES="Requires-Dist: a-package-that-nobody-has\n", **nowhere)
    assert failed.returncode == 2
    assert (
        "The package index could not be reached, or lacks this package.\n  fix: connect this machine" in failed.stdout
    )
    assert "  | ERROR: No matching distribution found for a-package-that-nobody-has" in failed.stdout
    assert "Traceback" not in failed.stdout


def test_a_full_disk_says_so(outdated: Path) -> None:
    failed = start(outdated, "run.py", FAULT="raise OSError(28, 'No space left on device')")
    assert failed.returncode == 2
    assert "The disk is full: " in failed.stdout
    assert f"GB free in {outdated}" in failed.stdout
    assert "\n  fix: free 4 GB" in failed.stdout


def test_what_pip_says_is_shown(outdated: Path) -> None:
    failed = start(outdated, "run.py", FAULT="raise ValueError('no compiler')")
    assert failed.returncode == 2
    assert "ValueError: no compiler" in failed.stdout
    assert "\n  fix: fix what these lines say, or remove .venv" in failed.stdout


def test_a_moved_checkout_gets_a_new_environment(installed: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(installed, tmp_path / "moved", symlinks=True)
    assert "Setting up .venv" in start(moved, "run.py").stdout
    assert str(moved) in (moved / ".venv/bin/notebento").read_text()


def test_no_venv_module_says_what_to_install(tmp_path: Path, repository: Path) -> None:
    checkout = fresh(tmp_path / "checkout", repository)
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian/ensurepip.py").write_text("raise ModuleNotFoundError('No module', name='ensurepip')")
    failed = start(checkout, "run.py", PYTHONPATH=str(tmp_path / "debian"))
    assert failed.returncode == 2
    assert "has no module ensurepip" in failed.stdout
    assert "\n  fix: apt install python3-venv" in failed.stdout
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("script", ["run.py", "test.py"])
def test_help_needs_no_environment(script: str, tmp_path: Path, repository: Path) -> None:
    checkout = fresh(tmp_path, repository)
    shown = start(checkout, script, "--help")
    assert shown.returncode == 0
    assert f"python3 scripts/{script}" in shown.stdout
    assert not (checkout / ".venv").exists()


@pytest.fixture(scope="module")
def old_pythons() -> list[Path]:
    """The oldest and the youngest Python of this machine that are too old."""
    folders = [*sorted(Path.home().glob(".pyenv/versions/*/bin")), *map(Path, os.environ["PATH"].split(os.pathsep))]
    names = ["python2.7", *(f"python3.{minor}" for minor in range(6, 11))]
    programs = [folder / name for name in names for folder in folders if (folder / name).exists()]
    # A shim of pyenv exists also where it runs nothing.
    found = [p for p in programs if not subprocess.run([p, "-c", ""], capture_output=True).returncode]
    if not found:
        pytest.skip("no Python older than 3.11 on this machine")
    return [found[0], found[-1]]


@pytest.mark.parametrize("script", ["run.py", "test.py"])
def test_an_old_python_says_which_one_is_needed(script: str, repository: Path, old_pythons: list[Path]) -> None:
    for python in old_pythons:
        failed = subprocess.run([python, repository / "scripts" / script], capture_output=True, text=True)
        assert failed.returncode == 2
        assert failed.stderr.startswith("notebento needs Python 3.11 to 3.13, and this is ")
        assert "\n  fix: " in failed.stderr


@pytest.mark.parametrize("file", ["python_version.py", "run.py", "test.py"])
def test_the_first_files_have_no_new_syntax(file: str, repository: Path) -> None:
    tree = ast.parse((repository / "scripts" / file).read_text(encoding="ascii"))
    new = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.AsyncFunctionDef, ast.Match)
    assert not [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, new)]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert not [f.name for f in functions if f.returns or f.args.kwonlyargs or any(a.annotation for a in f.args.args)]


def test_a_python_that_is_too_new_says_so(
    repository: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(repository / "scripts")
    import python_version

    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(SystemExit, match="2"):
        python_version.require("scripts/run.py")
    assert "needs Python 3.11 to 3.13, and this is 3.14" in capsys.readouterr().err


def test_the_checks_are_those_of_the_library_and_of_the_project(installed: Path) -> None:
    assert start(installed, "test.py").stdout.endswith("notebento check --root=. --root=library\n")
    assert start(installed, "test.py", "--fast").stdout == "notebento check --root=. --root=library --fast\n"
    assert start(installed, "test.py", "--nightly").stdout == "notebento check --root=. --root=library --nightly\n"
    assert start(installed, "test.py", FAILING="notebento").returncode == 7


def test_arguments_go_to_pytest_alone(installed: Path) -> None:
    assert start(installed, "test.py", "-k", "calendar", "--nightly").stdout == "pytest -k calendar --nightly\n"
    below = start(installed, "test.py", "library/tests/test_split.py::test_a", "-x")
    assert below.stdout == "pytest tests/test_split.py::test_a -x\n"


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory, repository: Path) -> Path:
    """A project that carries the library's wheel, after its first start."""
    checkout = carrying(tmp_path_factory.mktemp("project"), repository)
    first = start(checkout, "run.py")
    assert first.stdout.endswith("notebento run\n"), first.stdout
    return checkout


def test_a_project_installs_the_wheel_that_it_carries(project: Path) -> None:
    (library,) = project.glob(".venv/lib/*/site-packages/toy.py")
    before = library.stat().st_ino, library.stat().st_mtime_ns
    added = start(project, "test.py").stdout
    assert "Setting up .venv with dev, train" in added and added.endswith("notebento check --root=.\n")
    assert (library.stat().st_ino, library.stat().st_mtime_ns) == before, "a service may be running from it"
    assert start(project, "run.py").stdout == "notebento run\n"


def test_another_wheel_installs_again(project: Path) -> None:
    (wheel,) = project.glob("wheels/*.whl")
    with zipfile.ZipFile(wheel, "a") as content:
        content.writestr("more.py", "")
    assert "Setting up .venv" in start(project, "run.py").stdout
    assert [*project.glob(".venv/lib/*/site-packages/more.py")], "of the same version, and yet another"
    assert start(project, "run.py").stdout == "notebento run\n"


def test_a_missing_wheel_is_named(tmp_path: Path, repository: Path) -> None:
    checkout = carrying(tmp_path, repository)
    next(checkout.glob("wheels/*.whl")).rename(checkout / "wheels/notebento-0.0-py3-none-any.whl")
    failed = start(checkout, "run.py")
    assert failed.returncode == 2
    assert "wheels/notebento-0.1-py3-none-any.whl is missing" in failed.stdout
    assert "\n  fix: put it there" in failed.stdout


@pytest.mark.nightly
def test_a_fresh_clone_trains_a_model(repository: Path, tmp_path: Path) -> None:
    """The promise of the README, installation included."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=repository, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (repository / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(repository / name, tmp_path / name)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NOTEBENTO_")}
    subprocess.run([sys.executable, tmp_path / "scripts/run.py", "experiment=lab"], env=environment, check=True)
    stages = json.loads((tmp_path / "runs/latest/manifest.json").read_text())["stages"]
    assert {"data", "features", "train", "export", "evaluate", "register", "bento"} <= stages.keys()
