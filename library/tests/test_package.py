"""The project's package, carried and imported under other names: never mixed with the one that a process has."""

import sys
from pathlib import Path

import pytest

from notebento.core.config import RegistryConfig, build
from notebento.core.errors import UserError
from notebento.core.package import copy_package, load_package, package_digest, package_files, version_aliases
from notebento.registry.registry import Lineage, Registry

PASSED = {"passed": True}


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A package with a module below another one, which this process imports, too."""
    folder = tmp_path / "src" / "carried"
    (folder / "parts").mkdir(parents=True)
    for name in ("__init__.py", "parts/__init__.py"):
        (folder / name).write_text("")
    (folder / "parts" / "numbers.py").write_text("NUMBER = 1\n")
    (folder / "features.py").write_text(
        "import msgspec\nfrom .parts.numbers import NUMBER\n"
        "class Maker(msgspec.Struct):\n    factor: int = 1\n    inner: dict = {}\n"
        "    def number(self):\n        from .parts import numbers\n"
        "        return self.factor * numbers.NUMBER, NUMBER\n"
    )
    monkeypatch.syspath_prepend(tmp_path / "src")
    yield folder
    for name in [n for n in sys.modules if n.partition(".")[0].partition("@")[0] == "carried"]:
        del sys.modules[name]


def number(aliases: dict[str, str] | None = None) -> tuple[int, int]:
    return build({"_target_": "carried.features.Maker", "factor": 10}, aliases).number()


def test_two_copies_and_the_process_s_own_package_do_not_see_each_other(package, tmp_path):
    copies = []
    for n in (2, 3):
        (package / "parts" / "numbers.py").write_text(f"NUMBER = {n}\n")
        copies.append(version_aliases(copy_package(package, tmp_path / f"v-{n}"), f"v-{n}"))
    (package / "parts" / "numbers.py").write_text("NUMBER = 100\n")
    assert [number(copies[0]), number(copies[1]), number()] == [(20, 2), (30, 3), (1000, 100)]
    assert number(copies[0]) == (20, 2)


def test_nested_targets_get_the_alias_too(package, tmp_path):
    aliases = version_aliases(copy_package(package, tmp_path / "v-1"), "v-1")
    outer = {"_target_": "carried.features.Maker", "inner": {"of": [{"_target_": "carried.features.Maker"}]}}
    assert build(outer, aliases).inner == {"of": [{"_target_": "carried@v-1.features.Maker"}]}
    assert build(outer).inner == {"of": [{"_target_": "carried.features.Maker"}]}


def test_a_copy_of_the_same_name_elsewhere_is_loaded_anew(package, tmp_path):
    load_package(copy_package(package, tmp_path / "here"), "carried@same")
    (package / "parts" / "numbers.py").write_text("NUMBER = 7\n")
    there = copy_package(package, tmp_path / "there")
    assert load_package(there, "carried@same").__path__ == [str(there)]
    assert number({"carried": "carried@same"}) == (70, 7)


def test_only_modules_are_carried(package, tmp_path):
    before = package_digest(package)
    (package / "__pycache__").mkdir()
    for name in ("_modidx.py", "notes.txt", "__pycache__/features.py"):
        (package / name).write_text("d = {}")
    copied = copy_package(package, tmp_path / "copy")
    names = {p.relative_to(copied).as_posix() for p in copied.rglob("*") if p.is_file()}
    assert names == {"__init__.py", "features.py", "parts/__init__.py", "parts/numbers.py"}
    assert package_digest(package) == package_digest(copied) == before
    assert package_files(copied)


IMPORTS = [
    "import carried",
    "import json, carried.parts.numbers as n",
    "from carried.parts import numbers",
    "__import__('carried.parts')",
    "import importlib; importlib.import_module('carried')",
]


@pytest.mark.parametrize("line", IMPORTS)
def test_a_package_that_imports_itself_by_name_is_not_registered(package, tmp_path, monkeypatch, line):
    monkeypatch.setenv("NOTEBENTO_RUNS", str(tmp_path / "runs"))
    (package / "late.py").write_text(f"def late():\n    x = 1\n    {line}\n")
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model.onnx").write_text("graph")
    registry = Registry.open(RegistryConfig("toy"))
    with pytest.raises(UserError, match=r"late\.py, line 3, imports 'carried"):
        registry.register(tmp_path / "model", "toy", Lineage(), {}, PASSED, package)
    assert registry.history() == []
    assert [*Path(registry.store).glob("*")] == []


def test_others_with_a_similar_name_may_be_imported(package, tmp_path):
    (package / "late.py").write_text("import carried_away\nfrom . import features\n")
    assert copy_package(package, tmp_path / "copy").name == "carried"


def test_a_package_that_fails_can_be_loaded_when_it_is_mended(package):
    (package / "__init__.py").write_text("raise RuntimeError('broken')")
    with pytest.raises(RuntimeError, match="broken"):
        load_package(package, "carried@broken")
    (package / "__init__.py").write_text("whole = True  # now")
    assert load_package(package, "carried@broken").whole
