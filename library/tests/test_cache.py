"""After any sequence of edits, crashes and reruns the artifacts are those of a run from scratch, and no more ran."""

import hashlib
import json
import shutil
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from toys import HEAD, OPEN, PARAMETERS, Toy, code, digests, here, prose, write_notebook

from notebento.core.artifacts import StageRecord
from notebento.core.compose import compose
from notebento.core.config import Config, PipelineConfig, StageConfig
from notebento.pipeline import plan as plan_module
from notebento.pipeline.engine import StageError
from notebento.pipeline.plan import RunOptions, open_run, plan

EXAMPLES = 12
Node = dict[str, Any]  # what a test decides about a stage: inputs, groups, module, file, folder, coarse
NUMBERS = count()  # a module's name is new in every project, because this process keeps what it imports

# The artifact's value depends on everything that a stage may read. A coarse stage often makes the same from other
# inputs, so that what comes after it needs not run.
CODE = """import hashlib, json
constant = {constant}
values = []
for name in sorted(stage.inputs):
    path = stage.inputs[name]
    values.append([name, (path / "v" if path.is_dir() else path).read_text()])
name = stage.config.project.name if {project} else None
extra = Path({file!r}).read_text() if {file!r} else None
shared = {{"shared": None}}
{reading}
found = hashlib.sha256(json.dumps([{stage!r}, constant, values, name, extra, shared["shared"]]).encode()).hexdigest()
if Path({bomb!r}).exists():
    raise RuntimeError("boom")
if {coarse}:
    found = str(int(found[0], 16) // 8)
if {folder}:
    with stage.folder({artifact!r}) as folder:
        (folder / "v").write_text(found)
        (folder / "same").write_text("same")
else:
    stage.write({artifact!r}, found)
"""

# An import makes the module part of the key; what it says is read anew, because this process imports it only once.
READING = """import {module} as module
exec(Path(module.__file__).read_text(), shared)
"""


@st.composite
def graphs(draw: st.DrawFn) -> dict[str, Node]:
    """Stages a, b, c …, each of which reads what some before it make."""
    nodes: dict[str, Node] = {}
    for name in "abcdef"[: draw(st.integers(2, 6))]:
        nodes[name] = {
            "inputs": sorted(draw(st.sets(st.sampled_from(sorted(nodes)), max_size=3))) if nodes else [],
            "project": draw(st.booleans()),
            "file": draw(st.booleans()),
            "module": draw(st.booleans()),
            "folder": draw(st.booleans()),
            "coarse": draw(st.booleans()),
        }
    return nodes


def edits(nodes: dict[str, Node]) -> st.SearchStrategy[tuple[str, Any, Any]]:
    """What may happen between two runs, or to one."""
    one, few = st.sampled_from(sorted(nodes)), st.integers(0, 2)
    disturbances = st.sampled_from(["constant", "module", "file"])
    return st.one_of(
        st.tuples(st.just("constant"), one, few),
        st.tuples(st.sampled_from(["words", "comment", "layout", "traces", "empty"]), one, few),
        st.tuples(st.just("name"), st.none(), few),
        st.tuples(st.just("file"), st.none(), few),
        st.tuples(st.just("module"), st.none(), few),
        st.tuples(st.just("fail"), one, st.none()),
        st.tuples(st.just("interrupt"), st.integers(1, 2 * len(nodes)), st.none()),
        st.tuples(st.just("during"), st.integers(1, 2 * len(nodes)), st.tuples(disturbances, one, few, st.booleans())),
        st.tuples(st.just("force"), one, st.none()),
        st.tuples(st.just("damage"), st.integers(0, 100), st.sampled_from(["flip", "cut", "remove"])),
    )


class Bystander:
    """Does something at the change number `patience`, by default it interrupts; then what it does next."""

    def __init__(self, patience: int = 0, *acts: Callable[[], None]) -> None:
        self.patience, self.acts = patience, list(acts or [interrupt]) if patience else []

    def changed(self, stage: str, record: StageRecord) -> None:
        self.patience -= 1
        if self.patience <= 0 and self.acts:
            self.acts.pop(0)()

    def said(self, stage: str, line: str) -> None:
        pass


def interrupt() -> None:
    raise KeyboardInterrupt


class Model:
    """The toy project, and what must come out of it."""

    def __init__(self, folder: Path, nodes: dict[str, Node]) -> None:
        self.toy, self.nodes = Toy(folder), nodes
        self.file, self.bomb = folder / "file", folder / "bomb"
        self.name = "n0"
        self.file.write_text("f0")
        self.module = self.toy.home / f"nbs/shared_{next(NUMBERS)}.py"
        self.shared = 0
        self.write_module()
        self.constants = dict.fromkeys(nodes, 0)
        self.looks = {name: {"words": 0, "comment": 0, "layout": 0, "traces": 0, "empty": 0} for name in nodes}
        self.known: set[tuple[Any, ...]] = set()  # what is in the cache
        self.trusted = True  # nobody damaged the cache
        self.pipeline = PipelineConfig(name="toy", stages={n: self.declared(n) for n in nodes})
        for name in nodes:
            self.write(name)

    def artifact(self, name: str) -> str:
        return name if self.nodes[name]["folder"] else f"{name}.txt"

    def declared(self, name: str) -> StageConfig:
        node = self.nodes[name]
        return StageConfig(
            notebook=f"{name}.ipynb",
            groups=("project",) if node["project"] else (),
            inputs=tuple(self.artifact(n) for n in node["inputs"]),
            outputs=(self.artifact(name),),
            files=(str(self.file),) if node["file"] else (),
        )

    def write_module(self) -> None:
        self.module.write_text(f"shared = {self.shared}\n")

    def write(self, name: str) -> None:
        node, look = self.nodes[name], self.looks[name]
        facts = {"constant": self.constants[name], "stage": name, "project": node["project"]}
        facts |= {"file": str(self.file) if node["file"] else "", "bomb": str(self.bomb / name)}
        facts |= {"reading": READING.format(module=self.module.stem) if node["module"] else ""}
        facts |= {"coarse": node["coarse"], "folder": node["folder"], "artifact": self.artifact(name)}
        source = CODE.format(**facts)
        if look["comment"]:
            source = source.replace("\n", f"  # remark {look['comment']}\n", 1)
        if look["layout"]:
            source = source.replace(" = ", "  =  ").replace("\n\n", "\n" * (2 + look["layout"]))
        more: dict[str, Any] = {}
        if look["traces"]:
            more = {"execution_count": look["traces"], "metadata": {"scrolled": look["traces"]}, "id": "x"}
            more["outputs"] = [{"output_type": "stream", "name": "stdout", "text": str(look["traces"])}]
        log = f"with open({str(self.toy.log)!r}, 'a') as log:\n    log.write('{name}\\n')"
        cells = [
            prose(f"# Title {look['words']}"),
            code(PARAMETERS, metadata={"tags": ["parameters"]}),
            code(HEAD),
            code(f'"""Words of a docstring {look["words"]}"""\n' + OPEN.format(name=name)),
            code(log),
            code(source, **more),
            *[code("# nothing yet" if look["empty"] > 1 else "")] * look["empty"],
        ]
        write_notebook(self.toy.home / f"nbs/{name}.ipynb", *cells)

    def values(self) -> dict[str, tuple[str, tuple[Any, ...]]]:
        """What each stage must leave, and what decides it."""
        made: dict[str, tuple[str, tuple[Any, ...]]] = {}
        for name, node in self.nodes.items():
            inputs = sorted([self.artifact(n), made[n][0]] for n in node["inputs"])
            extra = self.file.read_text() if node["file"] else None
            facts = [name, self.constants[name], inputs, self.name if node["project"] else None, extra]
            facts += [self.shared if node["module"] else None]
            found = hashlib.sha256(json.dumps(facts).encode()).hexdigest()
            decides = (name, json.dumps(facts))
            made[name] = (str(int(found[0], 16) // 8) if node["coarse"] else found), decides
        return made

    def declare(self) -> None:
        """Write conf/pipeline/default.yaml, for other processes."""
        self.toy.declare({n: msgspec.to_builtins(s) for n, s in self.pipeline.stages.items()})

    def compose(self, overrides: list[str]) -> Config:
        """As `compose`, without half a second of Hydra for a pipeline that never was before."""
        return msgspec.structs.replace(_composed(tuple(overrides)), pipeline=self.pipeline)

    def after(self, names: set[str]) -> set[str]:
        """The stages that rest on `names`."""
        found: set[str] = set()
        for name, node in self.nodes.items():
            if (found | names) & set(node["inputs"]):
                found.add(name)
        return found

    def run(self, fail: str = "", patience: int = 0, force: str = "") -> None:
        """Run once, and compare what happened with what had to happen."""
        values = self.values()
        due = {n for n, (_, decides) in values.items() if decides not in self.known} | ({force} - {""})
        overrides = [f"project.name={self.name}"]
        steps = {s.stage: s.does for s in plan(open_run(overrides, RunOptions(force=[force] if force else [])))}
        if fail:
            self.bomb.mkdir(exist_ok=True)
            (self.bomb / fail).touch()
        error: BaseException | None = None
        try:
            forced = [force] if force else []
            self.toy.drive(*overrides, jobs=2, force=forced, watcher=Bystander(patience))
        except (StageError, KeyboardInterrupt) as e:
            error = e
        if fail:
            (self.bomb / fail).unlink()
        ran, manifest = self.toy.ran(), self.toy.last()
        lost = self.after({fail}) if fail in due else set()
        assert len(ran) == len(set(ran)), "a stage ran twice"
        if self.trusted:
            assert set(ran) <= due - lost
            assert {s for s, does in steps.items() if does == "cached"} <= set(self.nodes) - due
            assert {s for s, does in steps.items() if does == "run"} <= due
        if patience and isinstance(error, KeyboardInterrupt):
            assert manifest.status in ("interrupted", "done")
            assert (manifest.status == "done") == all(r.status == "done" for r in manifest.stages.values())
        elif fail in due:
            assert isinstance(error, StageError)
            if self.trusted:
                assert set(ran) == due - lost
            assert manifest.status == "failed" and {
                n for n, r in manifest.stages.items() if r.status != "done"
            } == self.after({fail}) | {fail}
        elif self.trusted or error is None:
            assert error is None
            assert manifest.status == "done"
            if self.trusted:
                assert set(ran) == due
        for name, record in manifest.stages.items():
            assert record.status in ("done", "failed", "skipped", "interrupted")
            if record.status == "done":
                path = self.toy.runs / manifest.run_id / record.artifacts[self.artifact(name)].path
                assert (path / "v" if path.is_dir() else path).read_text() == values[name][0]
                self.known.add(values[name][1])

    def disturbed(self, patience: int, what: str, where: str, value: int, back: bool) -> None:
        """Run once, while somebody edits a notebook, a module or a file, and perhaps puts it back."""
        before = {"constant": self.constants[where], "module": self.shared, "file": self.file.read_text()[1:]}[what]
        acts = [partial(self.edit, what, where, value), *([partial(self.edit, what, where, before)] if back else [])]
        bystander = Bystander(patience, *acts)
        self.toy.drive(f"project.name={self.name}", jobs=2, watcher=bystander)
        for act in bystander.acts:  # the run was quicker
            act()
        self.toy.ran()
        self.trusted = False  # whether a result was kept depends on when it was read

    def edit(self, what: str, where: Any, value: Any) -> None:
        if what == "constant":
            self.constants[where] = value
            self.write(where)
        elif what == "module":
            self.shared = value
            self.write_module()
        elif what == "file":
            self.file.write_text(f"f{value}")

    def do(self, what: str, where: Any, value: Any) -> None:
        if what == "during":
            self.disturbed(where, *value)
        elif what in ("constant", "module", "file"):
            self.edit(what, where, value)
        elif where in self.looks and what in self.looks[where]:
            self.looks[where][what] = value
            self.write(where)
        elif what == "name":
            self.name = f"n{value}"
        elif what == "damage":
            damage(sorted(self.toy.runs.glob("cache/blobs/*/*")), where, value)
            self.trusted = False
        self.run(
            fail=where if what == "fail" else "",
            patience=where if what == "interrupt" else 0,
            force=where if what == "force" else "",
        )


def damage(blobs: list[Path], which: int, how: str) -> Path:
    """Flip a byte of a blob, cut it off, or remove it."""
    blob = blobs[which % len(blobs)]
    content = blob.read_bytes()
    if how == "remove":
        blob.unlink()
    else:
        blob.chmod(0o644)
        blob.write_bytes(content[:-1] if how == "cut" else bytes([content[0] ^ 1]) + content[1:])
        blob.chmod(0o444)
    return blob


_CONFIGS: dict[tuple[str, ...], Config] = {}


def _composed(overrides: tuple[str, ...]) -> Config:
    if overrides not in _CONFIGS:
        _CONFIGS[overrides] = compose(list(overrides))
    return _CONFIGS[overrides]


@contextmanager
def model(nodes: dict[str, Node], without_kernels: bool = True) -> Iterator[Model]:
    """A project of these stages, in which this process works."""
    with tempfile.TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch:
        made = Model(Path(folder), nodes)
        patch.syspath_prepend(made.module.parent)
        with here(made.toy, without_kernels):
            if without_kernels:
                patch.setattr(plan_module, "compose", made.compose)
            else:
                made.declare()
            yield made


def live(made: Model, happened: list[tuple[str, Any, Any]]) -> None:
    """Run after each of these, then compare with a run from scratch."""
    made.run()
    for event in happened:
        made.do(*event)
    made.run()
    assert made.toy.ran() == []
    if made.trusted:
        made.run()
        assert all(r.cached for r in made.toy.last().stages.values())
    before = digests(made.toy.last())
    shutil.rmtree(made.toy.runs)
    made.known.clear()
    made.trusted = True
    with here(made.toy):
        made.run()
    assert digests(made.toy.last()) == before


def play(data: st.DataObject, at_least: int, at_most: int, without_kernels: bool = True) -> None:
    """Let something drawn happen to a pipeline that is drawn."""
    nodes = data.draw(graphs())
    happened = data.draw(st.lists(edits(nodes), min_size=at_least, max_size=at_most))
    with model(nodes, without_kernels) as made:
        live(made, happened)


def drawn(examples: int) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """So many examples, however long each takes."""
    return settings(
        max_examples=examples, deadline=None, suppress_health_check=list(HealthCheck), phases=[Phase.generate]
    )


@pytest.mark.process  # and more runs than a quick test can have
@drawn(EXAMPLES)
@given(st.data())
def test_after_anything_the_artifacts_are_those_of_a_run_from_scratch(data: st.DataObject) -> None:
    play(data, 1, 8)


@pytest.mark.nightly
@drawn(300)
@given(st.data())
def test_after_very_much_the_artifacts_are_those_of_a_run_from_scratch(data: st.DataObject) -> None:
    play(data, 4, 15)


@pytest.mark.process
@pytest.mark.nightly
@drawn(10)
@given(st.data())
def test_after_anything_kernels_make_the_same(data: st.DataObject) -> None:
    play(data, 1, 4, without_kernels=False)


REAL = {
    "a": {"inputs": [], "project": True, "file": False, "module": True, "folder": False, "coarse": False},
    "b": {"inputs": [], "project": False, "file": True, "module": False, "folder": True, "coarse": True},
    "c": {"inputs": ["a", "b"], "project": False, "file": False, "module": True, "folder": False, "coarse": False},
}
HAPPENED = [("words", "b", 1), ("during", 1, ("module", "a", 2, True)), ("name", None, 1)]


@pytest.mark.process
def test_kernels_make_the_same() -> None:
    with model(REAL, without_kernels=False) as made:
        live(made, HAPPENED)
