"""What holds for every notebook and every module of the library: form, imports, dependencies, the public names."""

import ast
import configparser
import json
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from pathlib import Path
from typing import Any

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import notebento

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src/notebento"
NOTEBOOKS = sorted((ROOT / "nbs").rglob("*.ipynb"))
MODULES = sorted(f for f in PACKAGE.glob("*/*.py") if f.name != "__init__.py")
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS: dict[str, list[str]] = PROJECT["optional-dependencies"]

PUBLIC = {
    "Config": "core.config",
    "Events": "features.views",
    "FeatureSet": "features.schema",
    "FeatureStore": "online.store",
    "GateError": "core.errors",
    "Graph": "models.bundle",
    "Manifest": "core.artifacts",
    "NotebentoError": "core.errors",
    "Stage": "core.stage",
    "Table": "features.views",
    "UserError": "core.errors",
    "Value": "features.views",
    "View": "features.views",
    "build": "core.config",
    "compose": "core.compose",
}
# What computes with torch when it is imported. Whatever else there is starts quickly, without it.
HEAVY = ("models.network", "models.preparation", "models.tabm", "models.distillation", "training.")
# What a bento imports has to do with the base dependencies.
SERVED = ["core.stage", "features.schema", "models.bundle", "online.store", "registry.registry", "serving.service"]
# Packages that we import and that are another one's interface rather than a dependency of our own.
COMES_WITH = {
    "jupyter-client": "papermill",
    "jupyter-core": "papermill",
    "nbclient": "papermill",
    "nbformat": "papermill",
    "omegaconf": "hydra-core",
    "psutil": "ipykernel",
    "pygments": "rich",
    "pyyaml": "hydra-core",
    "torchmetrics": "pytorch-lightning",
    "traitlets": "papermill",
}


def dotted(module: Path) -> str:
    """The name of a module below `notebento`."""
    return ".".join(module.relative_to(PACKAGE).with_suffix("").parts)


def code_cells(notebook: Path) -> list[dict[str, Any]]:
    cells = json.loads(notebook.read_text(encoding="utf-8"))["cells"]
    return [c | {"source": "".join(c["source"])} for c in cells if c["cell_type"] == "code"]


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(r).name) for r in requirements}


def imported_by(modules: list[str]) -> dict[str, str]:
    """The packages that a new process loads when it imports these modules: package -> the module that brings it."""
    code = """
import importlib, json, sys
found = dict.fromkeys((name.partition(".")[0] for name in sys.modules), "")
for module in sys.argv[1:]:
    importlib.import_module(f"notebento.{module}")
    found |= {name.partition(".")[0]: module for name in [*sys.modules] if name.partition(".")[0] not in found}
print(json.dumps(found))
"""
    shown = subprocess.run([sys.executable, "-c", code, *modules], capture_output=True, text=True, check=True)
    return {package: module for package, module in json.loads(shown.stdout).items() if module}


# --- the package


def test_the_public_names_are_these() -> None:
    assert sorted(notebento.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(notebento))
    packages = {f.parent.name for f in MODULES}
    assert not set(PUBLIC) & packages, "importing the package would replace what the name stands for"
    with pytest.raises(AttributeError, match="module 'notebento' has no attribute 'stage'"):
        _ = notebento.stage


@pytest.mark.parametrize(("name", "module"), PUBLIC.items())
def test_a_public_name_comes_from_its_module(name: str, module: str) -> None:
    assert getattr(notebento, name).__module__ == f"notebento.{module}"


def test_importing_the_package_imports_no_module_of_it() -> None:
    code = "import sys, notebento; print([m for m in sys.modules if m.startswith('notebento.')])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_packages_hold_nothing_but_modules() -> None:
    """A key is read from the modules' text: what an `__init__` did would not count."""
    assert [f for f in PACKAGE.glob("*/__init__.py") if f.stat().st_size] == []


@pytest.mark.process
def test_a_light_module_imports_neither_torch_nor_papermill() -> None:
    light = [name for name in map(dotted, MODULES) if not name.startswith(HEAVY)]
    found = imported_by(light)
    assert {n: found[n] for n in ("torch", "pytorch_lightning", "papermill", "IPython", "nbdev") if n in found} == {}


@pytest.mark.process
def test_what_is_served_imports_no_extra() -> None:
    extra = set().union(*(names(r) for e, r in EXTRAS.items() if e != "dev")) - names(PROJECT["dependencies"])
    belongs = {package: {canonicalize_name(d) for d in found} for package, found in packages_distributions().items()}
    found = imported_by(SERVED)
    assert {package: by for package, by in found.items() if belongs.get(package, set()) & extra} == {}


@pytest.mark.parametrize("module", MODULES, ids=dotted)
def test_a_module_imports_only_declared_packages(module: Path) -> None:
    declared = names(PROJECT["dependencies"]).union(*(names(r) for e, r in EXTRAS.items() if e != "dev"))
    found = set()
    for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name.split(".")[0] for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            found.add(node.module.split(".")[0])
    belongs = packages_distributions()
    for package in found - sys.stdlib_module_names - {"notebento"}:
        assert package in belongs, f"{module} imports {package}, which is not installed"
        distributions = {canonicalize_name(d) for d in belongs[package]}
        assert declared & {COMES_WITH.get(d, d) for d in distributions}, f"{module} imports {package}, not declared"


@pytest.mark.parametrize("module", MODULES, ids=dotted)
def test_a_module_is_read_in_one_sitting(module: Path) -> None:
    assert len(module.read_text(encoding="utf-8").splitlines()) <= 450


def test_the_version_is_the_same_everywhere() -> None:
    settings = configparser.ConfigParser()
    settings.read(ROOT / "settings.ini", encoding="utf-8")
    assert notebento.__version__ == PROJECT["version"] == settings["DEFAULT"]["version"]


# --- the notebooks


@pytest.mark.parametrize("notebook", NOTEBOOKS, ids=lambda n: f"{n.parent.name}.{n.stem}")
def test_a_notebook_is_plain_and_needs_no_project(notebook: Path) -> None:
    kernel = json.loads(notebook.read_text(encoding="utf-8"))["metadata"]["kernelspec"]
    assert kernel == {"display_name": "python3", "language": "python", "name": "python3"}
    cells = code_cells(notebook)
    assert not [c for c in cells if "parameters" in c["metadata"].get("tags", [])], "a stage belongs to a project"
    for source in (cell["source"] for cell in cells):
        assert not re.search(r"^#\s*\|\s*eval:\s*false", source, re.M), "papermill runs it all the same"
        assert not re.search(r"^\s*(from|import) flights\b", source, re.M), "the library never imports a project"
        if re.match(r"#\s*\|\s*export", source):
            refuse_what_a_module_must_not_hold(source)


def refuse_what_a_module_must_not_hold(source: str) -> None:
    """An exported cell is Python without guard, stars and notebook tools."""
    tree = ast.parse(source)  # a magic is not Python
    guards = [n for n in ast.walk(tree) if isinstance(n, ast.Compare) and ast.unparse(n.left) == "__name__"]
    assert not guards, "in a kernel it is __main__, too"
    for node in ast.walk(tree):
        assert not (isinstance(node, ast.ImportFrom) and node.names[0].name == "*"), "names, not stars"
        modules = [a.name for a in node.names] if isinstance(node, ast.Import) else []
        modules += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
        assert not {m.split(".")[0] for m in modules} & {"nbdev", "fastcore", "execnb", "IPython"}
