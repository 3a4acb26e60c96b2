"""`notebento check` on a small project: real tools, real notebooks."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from notebento.cli.check import Check, checks_of, nearest_project, run_all
from notebento.core.errors import UserError

pytestmark = pytest.mark.process

PYPROJECT = """
[project]
name = "toy"
[tool.ruff.format]
exclude = ["src/toy/*.py"]
[tool.ruff.lint]
per-file-ignores = {"src/toy/*.py" = ["E402"], "nbs/*.ipynb" = ["B018"]}
[tool.mypy]
files = ["src"]
[tool.pytest.ini_options]
markers = ["process", "server", "nightly"]
pythonpath = ["src"]
"""
SETTINGS = """
[DEFAULT]
lib_name = toy
repo = toy
user = toy
author = toy
author_email = toy@example.org
description = toy
version = 0.1
nbs_path = nbs
lib_path = src/toy
doc_path = _docs
branch = main
license = apache2
min_python = 3.11
allowed_cell_metadata_keys = tags
jupyter_hooks = False
clean_ids = True
recursive = True
put_version_in_init = False
update_pyproject = False
"""
TEST = """
import pytest

from toy.one import one


def test_one() -> None:
    assert one() == 1


@pytest.mark.process
def test_slow() -> None:
    assert one() == 1
"""


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A project of two clean notebooks and no module yet."""
    for folder in ("src/toy/sub", "nbs/sub", "tests"):
        (tmp_path / folder).mkdir(parents=True)
    for package in ("src/toy", "src/toy/sub"):
        (tmp_path / package / "__init__.py").touch()
    (tmp_path / "pyproject.toml").write_text(PYPROJECT)
    (tmp_path / "settings.ini").write_text(SETTINGS)
    (tmp_path / "tests/test_one.py").write_text(TEST.lstrip())
    write(tmp_path / "nbs/one.ipynb", "one", "def one() -> int:\n    return 1", "one()")
    write(
        tmp_path / "nbs/sub/two.ipynb",
        "sub.two",
        "from toy.one import one\n\n\ndef two() -> int:\n    return one() + one()",
        "assert two() == 2",
    )
    return tmp_path


def write(notebook: Path, module: str, exported: str, example: str) -> None:
    """Write a notebook as nbdev_clean leaves it."""
    sources: dict[str, dict[str, list[str]] | None] = {"# Toy": None, f"#| default_exp {module}": {}}
    sources |= {f"#| export\n{exported}": {}, example: {}, 'run_dir = ""': {"tags": ["parameters"]}}
    cells: list[dict[str, object]] = []
    for i, (source, metadata) in enumerate(sources.items()):
        cell = {"cell_type": "markdown", "id": f"c{i}", "metadata": {}, "source": source.splitlines(True)}
        code = {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": []}
        cells.append(cell if metadata is None else cell | code)
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    notebook.write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")


def check(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    """`notebento check` in `folder`, whose package can be imported."""
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("NOTEBENTO_", "PYTEST_"))}
    environment["PYTHONPATH"] = os.pathsep.join([str(folder / "src"), environment.get("PYTHONPATH", "")])
    environment["MYPY_CACHE_DIR"] = str(folder.parent / "mypy")  # the standard library is analysed once
    command = [sys.executable, "-m", "notebento", "check", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_every_check_runs_and_the_rest_also_when_one_failed(toy: Path) -> None:
    check(toy, "--write")
    done = check(toy)
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1].startswith("6 of 6 passed in ")
    (toy / "src/toy/extra.py").write_text("import os\n\ndef f(x): return g(x)\n")
    done = check(toy, "--fast", "--json")
    assert done.returncode == 1
    results = {result["check"]: result["passed"] for result in json.loads(done.stdout)}
    assert [name for name, passed in results.items() if not passed] == ["lint"]
    assert list(results) == ["lint", "format", "types", "notebooks and modules agree", "tests"]
    assert "error: 1 of 5 checks failed" in done.stderr


def test_arguments_go_to_pytest_alone(toy: Path) -> None:
    check(toy, "--write")
    done = check(toy, "-k", "one", "-q")
    assert done.returncode == 0, done.stdout + done.stderr
    assert ": tests: pytest -k one -q\n" in done.stdout
    assert done.stdout.splitlines()[-1].startswith("1 of 1 passed in ")


def test_fast_leaves_out_what_starts_processes(toy: Path) -> None:
    commands = {one.name: one.command for one in checks_of(toy, fast=True)}
    assert commands["tests"][-2:] == ["-m", "not process and not server and not nightly"]
    assert "notebook cells" not in commands
    (toy / "conf").mkdir()
    assert "lab run" in {one.name for one in checks_of(toy)}
    assert "lab run" not in {one.name for one in checks_of(toy, fast=True)}
    assert checks_of(toy, nightly=True)[-1].command[-1] == "--nightly"


def test_checks_that_only_read_run_beside_the_others(toy: Path) -> None:
    assert [one.name for one in checks_of(toy) if one.aside] == ["lint", "format", "types", "notebook cells"]
    (toy / "conf").mkdir()  # its notebooks are stages, and work where the lab run does
    assert [one.name for one in checks_of(toy) if one.aside] == ["lint", "format", "types"]


def test_what_runs_aside_is_printed_whole_and_counts(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    def python(code: str, aside: bool) -> Check:
        return Check(tmp_path, code, [sys.executable, "-c", code], aside)

    together = [python("print('one'); print('two')", True), python("print('live')", False), python("exit(1)", True)]
    absent = Check(tmp_path, "absent", ["no-such-command"], True)
    results = run_all([*together, absent])
    assert [result.passed for result in results] == [True, True, False, False]
    printed = capfd.readouterr().out
    assert "\none\ntwo\n" in printed and "no-such-command is not installed" in printed
    assert printed.splitlines()[-1].startswith("2 of 4 passed in ")


def test_the_nearest_project_is_checked(toy: Path, tmp_path_factory: pytest.TempPathFactory) -> None:
    assert nearest_project(toy / "nbs/sub") == toy
    with pytest.raises(UserError, match="is not inside a project"):
        nearest_project(Path("/"))


def test_a_clean_notebook_stays_as_it_is_and_keeps_its_parameters(toy: Path) -> None:
    """nbdev_clean removes the tag that papermill needs unless settings.ini says otherwise."""
    before = {f: f.read_bytes() for f in toy.rglob("*.ipynb")}
    assert check(toy, "--write").stdout.splitlines() == ["src/toy/one.py: written", "src/toy/sub/two.py: written"]
    assert {f: f.read_bytes() for f in toy.rglob("*.ipynb")} == before
    assert check(toy, "--write").stdout == ""


def test_nbdev_export_writes_modules_and_no_project_of_its_own(toy: Path) -> None:
    """Left to its defaults it writes src/pyproject.toml and a version into `__init__`."""
    subprocess.run([Path(sys.executable).with_name("nbdev_export")], cwd=toy, check=True)
    made = {f.relative_to(toy / "src/toy").as_posix(): f.stat().st_size for f in toy.glob("src/**/*") if f.is_file()}
    assert made.keys() == {"__init__.py", "_modidx.py", "one.py", "sub/__init__.py", "sub/two.py"}
    assert made["__init__.py"] == made["sub/__init__.py"] == 0


def test_what_disagrees_is_named_and_nothing_is_changed(toy: Path) -> None:
    check(toy, "--write")
    module, notebook = toy / "src/toy/sub/two.py", toy / "nbs/one.ipynb"
    module.write_text(module.read_text().replace("+", "-"))
    (toy / "src/toy/gone.py").write_text("# AUTOGENERATED! DO NOT EDIT!\n")
    (toy / "src/toy/hand.py").write_text("MARK = '# AUTOGENERATED! DO NOT EDIT!'  # by hand\n")
    content = json.loads(notebook.read_text())
    content["cells"][3]["outputs"] = [{"name": "stdout", "output_type": "stream", "text": ["1"]}]
    notebook.write_text(json.dumps(content))
    before = {f: f.read_bytes() for f in toy.glob("*/**/*") if f.is_file() and "cache" not in str(f)}

    answer = check(toy, "--fast", "--json")
    assert answer.returncode == 1
    for line in [
        "nbs/one.ipynb: has outputs, or metadata that nbdev_clean removes",
        "src/toy/sub/two.py: is not what its notebook exports",
        "src/toy/gone.py: has no notebook any more",
        "fix: notebento check --write",
    ]:
        assert line in answer.stderr.splitlines()
    assert {f: f.read_bytes() for f in toy.glob("*/**/*") if f.is_file() and "cache" not in str(f)} == before

    assert check(toy, "--write").returncode == 0
    assert check(toy, "--write").stdout == ""
    assert sorted(f.name for f in (toy / "src/toy").glob("*.py")) == ["__init__.py", "hand.py", "one.py"]
