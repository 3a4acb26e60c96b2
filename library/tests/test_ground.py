"""What holds for every notebook and every module: form, agreement, imports, dependencies, the public names."""

import ast
import configparser
import json
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import notebento

ROOT = Path(__file__).resolve().parent.parent
NOTEBOOKS = sorted((ROOT / "nbs").glob("*.ipynb"))
MODULES = sorted(f.stem for f in (ROOT / "src/notebento").glob("*.py") if f.stem not in ("__init__", "_modidx"))
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

PUBLIC = {
    "Config": "config",
    "Events": "views",
    "FeatureSet": "views",
    "FeatureStore": "store",
    "GateError": "config",
    "Graph": "export",
    "Manifest": "run",
    "NotebentoError": "config",
    "Stage": "run",
    "Table": "views",
    "UserError": "config",
    "Value": "views",
    "View": "views",
    "build": "config",
    "compose": "config",
}
# Stages that compute with torch or with a network's fitted parts. Whatever else there is starts quickly, without it.
HEAVY = {"model", "train", "tune", "evaluate"}
# What a bento imports has to do with the base dependencies.
SERVED = ["config", "run", "features", "export", "registry", "serve"]
# Packages that we import and that are another one's interface rather than a dependency of our own.
COMES_WITH = {
    "jupyter-client": "papermill",
    "jupyter-core": "papermill",
    "markdown-it-py": "rich",
    "nbclient": "papermill",
    "nbformat": "papermill",
    "omegaconf": "hydra-core",
    "prometheus-client": "bentoml",
    "psutil": "ipykernel",
    "pygments": "rich",
    "starlette": "bentoml",
    "torchmetrics": "pytorch-lightning",
    "traitlets": "papermill",
}


def code_cells(notebook: Path) -> list[dict]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [c | {"source": "".join(c["source"])} for c in cells if c["cell_type"] == "code"]


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(r).name) for r in requirements}


def imported_by(module: str) -> set[str]:
    """The packages that `import notebento.<module>` loads in a new process."""
    code = f"import json, sys\nbefore = {{*sys.modules}}\nimport notebento.{module}\n"
    code += "print(json.dumps(sorted({m.split('.')[0] for m in {*sys.modules} - before})))"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    return set(json.loads(shown.stdout))


# --- the package


def test_the_public_names_are_these() -> None:
    assert sorted(notebento.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(notebento))
    assert not set(PUBLIC) & set(MODULES), "importing the module would replace what the name stands for"
    with pytest.raises(AttributeError, match="module 'notebento' has no attribute 'stage'"):
        _ = notebento.stage


@pytest.mark.parametrize(("name", "module"), PUBLIC.items())
def test_a_public_name_comes_from_its_module(name: str, module: str) -> None:
    assert getattr(notebento, name).__module__ == f"notebento.{module}"


def test_importing_the_package_imports_no_module_of_it() -> None:
    code = "import sys, notebento; print([m for m in sys.modules if m.startswith('notebento.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


@pytest.mark.parametrize("module", [m for m in MODULES if m not in HEAVY])
def test_a_light_module_imports_neither_torch_nor_papermill(module: str) -> None:
    assert not {"torch", "pytorch_lightning", "papermill", "IPython"} & imported_by(module)


@pytest.mark.parametrize("module", SERVED)
def test_what_is_served_imports_no_extra(module: str) -> None:
    extra = set().union(*(names(r) for e, r in EXTRAS.items() if e != "dev")) - names(PROJECT["dependencies"])
    belongs = {package: {canonicalize_name(d) for d in found} for package, found in packages_distributions().items()}
    assert not {package for package in imported_by(module) if belongs.get(package, set()) & extra}


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_declared_packages(module: str) -> None:
    declared = names(PROJECT["dependencies"]).union(*(names(r) for e, r in EXTRAS.items() if e != "dev"))
    found = set()
    for node in ast.walk(ast.parse((ROOT / f"src/notebento/{module}.py").read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    belongs = packages_distributions()
    for package in found - sys.stdlib_module_names - {"notebento"}:
        assert package in belongs, f"{module} imports {package}, which is not installed"
        distributions = {canonicalize_name(d) for d in belongs[package]}
        assert declared & {COMES_WITH.get(d, d) for d in distributions}, f"{module} imports {package}, not declared"


def test_the_version_is_the_same_everywhere() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    assert notebento.__version__ == PROJECT["version"] == settings["DEFAULT"]["version"]


# --- the lock


def test_the_lock_satisfies_every_requirement() -> None:
    lock = [Requirement(line) for line in (ROOT / "requirements.lock").read_text().splitlines() if line[0] != "#"]
    versions: dict[str, list[str]] = {}
    for pin in lock:
        ((operator, version),) = ((s.operator, s.version) for s in pin.specifier)
        assert operator == "=="
        versions.setdefault(canonicalize_name(pin.name), []).append(version)
    for requirement in chain(PROJECT["dependencies"], *EXTRAS.values()):
        wanted = Requirement(requirement)
        found = versions.get(canonicalize_name(wanted.name), [])
        assert found, f"{requirement} is not in the lock: make it again"
        assert all(v in wanted.specifier for v in found), f"{requirement}, but the lock has {found}"


def test_the_lock_names_no_machine() -> None:
    text = (ROOT / "requirements.lock").read_text()
    assert not re.findall(r"https?://|file:|@ |--(?:index|find|extra|hash)\S*|(?:^|\s)/\S+", text)


# --- the notebooks


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_a_notebook_names_its_kernel(notebook: Path) -> None:
    """Without one papermill stops with "No kernel name found"."""
    kernel = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["kernelspec"]
    assert kernel == {"display_name": "python3", "language": "python", "name": "python3"}


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_parameters_are_single_lines_of_json_types(notebook: Path) -> None:
    """papermill reads them line by line, and silently drops what it cannot read."""
    tagged = [cell["source"] for cell in code_cells(notebook) if "parameters" in cell["metadata"].get("tags", [])]
    assert len(tagged) <= 1
    for statement in ast.parse("\n".join(tagged)).body:
        assert isinstance(statement, ast.Assign)
        assert statement.lineno == statement.end_lineno
        json.dumps(ast.literal_eval(statement.value))


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: n.stem)
def test_every_cell_runs_and_exported_ones_are_plain_python(notebook: Path) -> None:
    for source in (cell["source"] for cell in code_cells(notebook)):
        assert not re.search(r"^#\s*\|\s*eval:\s*false", source, re.M), "papermill runs it all the same"
        if re.match(r"#\s*\|\s*export", source):
            tree = ast.parse(source)  # a magic is not Python
            assert "__main__" not in {n.value for n in ast.walk(tree) if isinstance(n, ast.Constant)}
            for node in ast.walk(tree):
                assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), "names, not stars"
                modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
                modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
                assert not {m.split(".")[0] for m in modules} & {"nbdev", "fastcore", "execnb", "IPython"}


def agree(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, ROOT / "scripts/notebooks.py", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_package_is_what_the_notebooks_export() -> None:
    answer = agree(ROOT)
    assert (answer.stdout, answer.returncode) == ("", 0)


@pytest.fixture
def toy(tmp_path: Path) -> Path:
    """A project of one clean notebook and its module, with our settings.ini."""
    shutil.copy(ROOT / "settings.ini", tmp_path)
    (tmp_path / "src/notebento").mkdir(parents=True)
    (tmp_path / "nbs").mkdir()
    sources = {
        "# Toy": None,
        "#| default_exp toy": {},
        "#| export\ndef one() -> int:\n    return 1": {},
        "one()": {},
        'run_dir = ""': {"tags": ["parameters"]},
    }
    cells: list[dict] = []
    for i, (source, metadata) in enumerate(sources.items()):
        cell: dict = {"cell_type": "markdown", "id": f"c{i}", "metadata": {}, "source": source.splitlines(True)}
        code = {"cell_type": "code", "execution_count": None, "metadata": metadata, "outputs": []}
        cells.append(cell if metadata is None else cell | code)
    kernel = {"display_name": "python3", "language": "python", "name": "python3"}
    content = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    (tmp_path / "nbs/00_toy.ipynb").write_text(json.dumps(content, indent=1, sort_keys=True) + "\n")
    return tmp_path


def test_a_clean_notebook_stays_as_it_is_and_keeps_its_parameters(toy: Path) -> None:
    """nbdev_clean removes the tag that papermill needs unless settings.ini says otherwise."""
    before = (toy / "nbs/00_toy.ipynb").read_text()
    assert agree(toy).stdout.splitlines()[0] == "src/notebento/toy.py: is missing; a notebook exports it"
    assert agree(toy, "--write").stdout == "src/notebento/toy.py: written\n"
    assert (toy / "nbs/00_toy.ipynb").read_text() == before
    assert code_cells(toy / "nbs/00_toy.ipynb")[-1]["metadata"] == {"tags": ["parameters"]}
    assert agree(toy).returncode == 0


def test_nbdev_export_writes_modules_and_no_project_of_its_own(toy: Path) -> None:
    """Left to its defaults it writes src/pyproject.toml and a version into `__init__`."""
    subprocess.run([Path(sys.executable).with_name("nbdev_export")], cwd=toy, check=True)
    made = {f.relative_to(toy).as_posix(): f.stat().st_size for f in toy.glob("src/**/*") if f.is_file()}
    assert made.keys() == {f"src/notebento/{name}.py" for name in ("__init__", "_modidx", "toy")}
    assert made["src/notebento/__init__.py"] == 0


def test_what_disagrees_is_named_and_nothing_is_changed(toy: Path) -> None:
    agree(toy, "--write")
    module, notebook = toy / "src/notebento/toy.py", toy / "nbs/00_toy.ipynb"
    module.write_text(module.read_text().replace("return 1", "return 2"))
    (toy / "src/notebento/gone.py").write_text("# AUTOGENERATED! DO NOT EDIT!\n")
    (toy / "src/notebento/cli.py").write_text("# by hand\n")
    content = json.loads(notebook.read_text())
    content["cells"][3]["outputs"] = [{"name": "stdout", "output_type": "stream", "text": ["1"]}]
    notebook.write_text(json.dumps(content))
    before = {f: f.read_bytes() for f in toy.rglob("*") if f.is_file()}

    answer = agree(toy)
    assert answer.returncode == 1
    assert answer.stdout.splitlines() == [
        "nbs/00_toy.ipynb: has outputs, or metadata that nbdev_clean removes",
        "src/notebento/toy.py: is not what its notebook exports",
        "src/notebento/gone.py: has no notebook any more",
        "fix: .venv/bin/python scripts/notebooks.py --write",
    ]
    assert {f: f.read_bytes() for f in toy.rglob("*") if f.is_file()} == before

    assert agree(toy, "--write").returncode == 0
    assert agree(toy).stdout == ""
    assert sorted(f.name for f in (toy / "src/notebento").iterdir()) == ["cli.py", "toy.py"]
