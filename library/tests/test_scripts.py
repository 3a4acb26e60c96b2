"""scripts/run.py and scripts/test.py on a small checkout: real Pythons, a real venv and a real pip, no network."""

import ast
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

COMMANDS = ["notebento", "ruff", "mypy", "lint-imports", "nbdev_clean", "nbdev_export", "nbdev_test", "pytest"]
PYPROJECT = """
[build-system]
requires = []
build-backend = "backend"
backend-path = ["."]
[project]
name = "notebento"
version = "0.1"
[tool.setuptools]
[tool.ruff]
line-length = 120
"""
# Builds a wheel whose every command prints its name and arguments, and fails where $FAILING names it.
BACKEND = f"""
import os, zipfile

COMMAND = '''
import os, sys
def main():
    name = os.path.basename(sys.argv[0])
    print(name, *sys.argv[1:], flush=True)
    return 7 if name in os.environ.get("FAILING", "").split() else 0
'''
METADATA = "Metadata-Version: 2.1\\nName: notebento\\nVersion: 0.1\\n" + os.environ.get("REQUIRES", "")
WHEEL = "Wheel-Version: 1.0\\nGenerator: toy\\nRoot-Is-Purelib: true\\nTag: py3-none-any\\n"
SCRIPTS = "[console_scripts]\\n" + "".join(f"{{c}} = toy:main\\n" for c in {COMMANDS})

def build_editable(folder, config_settings=None, metadata_directory=None):
    exec(os.environ.get("FAULT", ""))
    extras = "".join(f"Provides-Extra: {{e}}\\n" for e in ("train", "lab", "baselines", "postgres", "redis", "dev"))
    info = "notebento-0.1.dist-info/"
    files = {{"toy.py": COMMAND, info + "METADATA": METADATA + extras, info + "WHEEL": WHEEL}}
    files |= {{info + "entry_points.txt": SCRIPTS, info + "RECORD": ""}}
    with zipfile.ZipFile(os.path.join(folder, "notebento-0.1-py3-none-any.whl"), "w") as wheel:
        for name, text in files.items():
            wheel.writestr(name, text)
    return "notebento-0.1-py3-none-any.whl"
"""


def fresh(folder: Path, root: Path) -> Path:
    """A checkout on which nothing was run yet."""
    shutil.copytree(root / "scripts", folder / "scripts", ignore=shutil.ignore_patterns("__pycache__", "bench"))
    (folder / "pyproject.toml").write_text(PYPROJECT)
    (folder / "requirements.lock").write_text("")
    (folder / "backend.py").write_text(BACKEND)
    (folder / "settings.ini").write_text("")
    (folder / "src/notebento").mkdir(parents=True)
    return folder


def start(checkout: Path, script: str, *arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Start a script as a user does; output and errors come back together."""
    return subprocess.run(
        [sys.executable, checkout / "scripts" / script, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env=os.environ | environment,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory, root: Path) -> Path:
    """A checkout after its first start."""
    checkout = fresh(tmp_path_factory.mktemp("checkout"), root)
    first = start(checkout, "run.py", "experiment=lab", "seed=1")
    assert first.returncode == 0, first.stdout
    assert "Setting up .venv with baselines, lab, train" in first.stdout
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
    assert "baselines, dev, lab, postgres, redis, train" in start(installed, "test.py", "--version").stdout
    with (installed / "requirements.lock").open("a") as lock:
        lock.write("# changed\n")
    assert "Setting up .venv with baselines, dev, lab, postgres, redis, train" in start(installed, "run.py").stdout
    assert start(installed, "test.py", "--version").stdout == "pytest --version\n"


def test_settings_of_a_linter_install_nothing(installed: Path) -> None:
    pyproject = installed / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("120", "100"))
    assert start(installed, "run.py").stdout == "notebento run\n"


def test_a_killed_installation_is_not_trusted(outdated: Path) -> None:
    building = outdated / "building"
    fault = f"import time; open({str(building)!r}, 'w'); time.sleep(60)"
    starting = subprocess.Popen(
        [sys.executable, outdated / "scripts/run.py"],
        env=os.environ | {"FAULT": fault},
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
    assert "\n  fix: make room for 4 GB" in failed.stdout


def test_what_pip_says_is_shown(outdated: Path) -> None:
    failed = start(outdated, "run.py", FAULT="raise ValueError('no compiler')")
    assert failed.returncode == 2
    assert "ValueError: no compiler" in failed.stdout
    assert "\n  fix: mend what these lines say, or remove .venv" in failed.stdout


def test_a_moved_checkout_gets_a_new_environment(installed: Path, tmp_path: Path) -> None:
    moved = shutil.copytree(installed, tmp_path / "moved", symlinks=True)
    assert "Setting up .venv" in start(moved, "run.py").stdout
    assert str(moved) in (moved / ".venv/bin/notebento").read_text()


def test_no_venv_module_says_what_to_install(tmp_path: Path, root: Path) -> None:
    checkout = fresh(tmp_path / "checkout", root)
    (tmp_path / "debian").mkdir()
    (tmp_path / "debian/ensurepip.py").write_text("raise ModuleNotFoundError('No module', name='ensurepip')")
    failed = start(checkout, "run.py", PYTHONPATH=str(tmp_path / "debian"))
    assert failed.returncode == 2
    assert "this Python has no module ensurepip" in failed.stdout
    assert "\n  fix: apt install python3-venv" in failed.stdout
    assert not (checkout / ".venv").exists()


@pytest.mark.parametrize("script", ["run.py", "test.py"])
def test_help_needs_no_environment(script: str, tmp_path: Path, root: Path) -> None:
    checkout = fresh(tmp_path, root)
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
def test_an_old_python_says_which_one_is_needed(script: str, root: Path, old_pythons: list[Path]) -> None:
    for python in old_pythons:
        failed = subprocess.run([python, root / "scripts" / script], capture_output=True, text=True)
        assert failed.returncode == 2
        assert failed.stderr.startswith("notebento needs Python 3.11 to 3.13, and this is ")
        assert "\n  fix: " in failed.stderr


@pytest.mark.parametrize("file", ["python_version.py", "run.py", "test.py"])
def test_the_first_files_have_no_new_syntax(file: str, root: Path) -> None:
    tree = ast.parse((root / "scripts" / file).read_text(encoding="ascii"))
    new = (ast.JoinedStr, ast.AnnAssign, ast.NamedExpr, ast.Nonlocal, ast.AsyncFunctionDef, ast.Match)
    assert not [ast.unparse(node) for node in ast.walk(tree) if isinstance(node, new)]
    functions = [node for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)]
    assert not [f.name for f in functions if f.returns or f.args.kwonlyargs or any(a.annotation for a in f.args.args)]


def test_a_python_that_is_too_new_says_so(
    root: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.syspath_prepend(root / "scripts")
    import python_version

    monkeypatch.setattr(sys, "version_info", (3, 14, 0))
    with pytest.raises(SystemExit, match="2"):
        python_version.require("scripts/run.py")
    assert "needs Python 3.11 to 3.13, and this is 3.14" in capsys.readouterr().err


def test_every_check_runs_also_when_one_failed(installed: Path) -> None:
    result = start(installed, "test.py", FAILING="mypy nbdev_test")
    assert result.returncode == 1
    for line in [
        "ruff check",
        "lint-imports --no-logo",
        "notebento run experiment=lab --into=lab --no-export",
        "pytest -n 2 --dist loadfile",
    ]:
        assert f"\n{line}\n" in result.stdout
    *summary, total = result.stdout.splitlines()[-9:]
    assert {line.split(" s  ")[1] for line in summary if "FAILED" in line} == {"types", "notebook cells"}
    assert total.startswith("6 of 8 passed in ")
    assert start(installed, "test.py").returncode == 0


def test_arguments_go_to_pytest_alone(installed: Path) -> None:
    assert start(installed, "test.py", "-k", "calendar", "--nightly").stdout == "pytest -k calendar --nightly\n"
    nightly = start(installed, "test.py", "--nightly").stdout
    assert "\nruff check\n" in nightly
    assert "\npytest -n 2 --dist loadfile --nightly\n" in nightly


@pytest.mark.nightly
def test_a_fresh_clone_trains_a_model(root: Path, tmp_path: Path) -> None:
    """The promise of the README, installation included."""
    listed = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    for name in subprocess.run(listed, cwd=root, capture_output=True, text=True, check=True).stdout.split("\0"):
        if (root / name).is_file():
            (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(root / name, tmp_path / name)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("NOTEBENTO_")}
    subprocess.run([sys.executable, tmp_path / "scripts/run.py", "experiment=lab"], env=environment, check=True)
    (run,) = (tmp_path / "runs").glob("*/manifest.json")
    stages = json.loads(run.read_text())["stages"]
    assert {"data", "features", "train", "export", "evaluate", "register", "bento"} <= stages.keys()
