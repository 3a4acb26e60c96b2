"""The registry under what a notebook cannot show: several processes, random histories, two databases, a lost disk."""

import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from notebento.core.config import CardConfig, RegistryConfig
from notebento.core.errors import GateError, NotebentoError, UserError
from notebento.evaluation.metrics import Interval
from notebento.registry.card import card, card_page
from notebento.registry.ledger import Ledger, entry
from notebento.registry.registry import (
    Lineage,
    Registry,
    Version,
    champion_folder,
    content_digest,
    lineage,
    standing,
    version_name,
)

pytestmark = pytest.mark.server

PASSED = {"passed": True, "reasons": []}
CARD = CardConfig("Planning connections.", ("One year only.",), "the flights team")


LATE = {"task": "binary", "target": "late"}


def bundle(folder: Path, graph: str, schema=LATE) -> Path:
    """A bundle whose graph is the text `graph`."""
    made = folder / f"bundle-{graph}"
    made.mkdir(parents=True, exist_ok=True)
    (made / "model.onnx").write_text(graph)
    (made / "schema.json").write_text(json.dumps(schema))
    return made


def register(registry: Registry, folder: Path, graph: str, gate=PASSED) -> Version:
    return registry.register(bundle(folder, graph), "toy", Lineage(), {}, gate)


@pytest.fixture(params=["sqlite", "postgresql"])
def url(request, tmp_path):
    """A database for a ledger."""
    return f"sqlite:///{tmp_path}/ledger.db" if request.param == "sqlite" else request.getfixturevalue("postgresql")


@pytest.fixture
def registry(url, tmp_path):
    """An empty registry."""
    return Registry(tmp_path / "versions", Ledger(url, f"test of {tmp_path}"))


def test_first_becomes_champion_and_later_ones_wait(registry, tmp_path):
    assert registry.champion() == ""
    assert registry.versions() == []
    assert registry.history() == []
    first, second = (register(registry, tmp_path, g).version for g in "ab")
    assert registry.champion() == first
    promoted = registry.promote(second, reason="better", approval="ada")
    assert (promoted.action, promoted.version, promoted.prior, promoted.approval) == ("promote", second, first, "ada")
    assert registry.champion() == second
    back = registry.rollback(reason="worse after all")
    assert (back.action, back.version, back.prior) == ("rollback", first, second)
    assert registry.champion() == first
    assert [e.sequence for e in registry.history()] == [1, 2, 3, 4, 5]
    assert (registry.bundle("champion") / "model.onnx").read_text() == "a"


def test_rows_can_be_neither_changed_nor_removed(registry, tmp_path):
    register(registry, tmp_path, "a")
    before = registry.history()
    for forgery in ["UPDATE ledger SET actor = 'eve'", "DELETE FROM ledger"]:
        with pytest.raises(DBAPIError, match="append-only"), registry.ledger.database.engine.begin() as connection:
            connection.execute(text(forgery))
    assert registry.history() == before


def test_two_ledgers_share_a_database(url, tmp_path):
    one, other = (Registry(tmp_path / n, Ledger(url, f"{n} of {tmp_path}")) for n in ("one", "other"))
    a, b = register(one, tmp_path, "a").version, register(other, tmp_path, "b").version
    assert (one.champion(), other.champion()) == (a, b)


MANY = """
import sys
from pathlib import Path
from notebento.core.errors import UserError
from notebento.registry.registry import Ledger, Lineage, Registry
folder, url, name, graphs = Path(sys.argv[1]), *sys.argv[2:]
registry = Registry(folder / "versions", Ledger(url, name))
for graph in graphs:
    registry.register(folder / f"bundle-{graph}", "toy", Lineage(), {}, {"passed": True})
    try:
        registry.promote(registry.register(folder / f"bundle-{graph}", "toy", Lineage(), {}, {"passed": True}).version)
    except UserError as e:
        assert "champion already" in str(e)
"""


def test_processes_that_register_and_promote_at_once(url, tmp_path):
    name, graphs = f"test of {tmp_path}", "abcdefgh"
    for graph in graphs:
        bundle(tmp_path, graph)
    orders = [graphs, graphs[::-1], graphs[4:] + graphs[:4]]
    command = [sys.executable, "-c", MANY, str(tmp_path), url, name]
    processes = [subprocess.Popen([*command, order], stderr=subprocess.PIPE, text=True) for order in orders]
    for process in processes:
        _, errors = process.communicate(timeout=60)
        assert process.returncode == 0, errors
    registry = Registry(tmp_path / "versions", Ledger(url, name))
    history = registry.history()
    assert sorted(e.version for e in history if e.action == "register") == sorted(
        version_name(content_digest(tmp_path / f"bundle-{g}")) for g in graphs
    )
    assert [e.sequence for e in history] == list(range(1, len(history) + 1))
    champion = ""
    for row in history:  # every decision was made on what was true when it was written
        assert row.prior == champion
        champion = row.version if row.action == "promote" else champion
    assert sorted(p.name for p in registry.store.iterdir()) == sorted(v.version for v in registry.versions())


ACTIONS = ["register", "refuse", "promote", "rollback"]


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(ACTIONS), st.sampled_from("abcd")), max_size=14))
def test_random_histories_agree_with_a_simple_model(actions):
    folder = Path(tempfile.mkdtemp(prefix="registry-"))
    try:
        registry = Registry(folder / "versions", Ledger(f"sqlite:///{folder}/ledger.db", "toy"))
        known, champions = [], []
        for action, graph in actions:
            name = version_name(content_digest(bundle(folder, graph)))
            if action == "register":
                assert register(registry, folder, graph).version == name
                known += [name] if name not in known else []
                champions = champions or [name]
            elif action == "refuse":
                with pytest.raises(GateError):
                    register(registry, folder, graph, {"passed": False, "reasons": ["auc"]})
            elif action == "promote" and name in known and champions[-1] != name:
                assert registry.promote(name).prior == champions[-1]
                champions.append(name)
            elif action == "promote":
                why = "champion already" if name in known else "no version|nothing is registered"
                with pytest.raises(UserError, match=why):
                    registry.promote(name)
            elif len(champions) > 1:
                assert registry.rollback().prior == champions.pop()
            else:
                with pytest.raises(UserError, match="nothing to roll back to"):
                    registry.rollback()
            assert registry.champion() == (champions or [""])[-1]
            assert [v.version for v in registry.versions()] == known
    finally:
        shutil.rmtree(folder)


@pytest.mark.parametrize(
    ("changed", "said"),
    [
        ({"target": "churned"}, "its target is 'churned' and not 'late'"),
        ({"task": "regression"}, "its task is 'regression' and not 'binary'"),
        ({"classes": ["no", "yes"]}, "its classes is"),
    ],
)
def test_promote_refuses_a_version_that_predicts_something_else(changed, said, registry, tmp_path):
    first = register(registry, tmp_path, "a").version
    other = registry.register(bundle(tmp_path, "b", LATE | changed), "toy", Lineage(), {}, PASSED).version
    assert registry.champion() == first  # it is registered, and waits
    assert said in standing(registry, other) and "project.name=" in standing(registry, other)
    before = registry.history()
    with pytest.raises(UserError, match=f"{other} cannot follow {first}.*{said}(?s:.*)project.name="):
        registry.promote(other)
    assert registry.history() == before


def test_standing_says_what_would_make_a_version_the_champion(registry, tmp_path):
    first, second = (register(registry, tmp_path, g).version for g in "ab")
    assert standing(registry, first) == f"{first} is the champion"
    sentence = standing(registry, second, "experiment=lab")
    assert sentence.startswith(f"{second} waits for a decision") and f"the champion stays {first}" in sentence
    assert sentence.endswith(f": notebento models promote {second} experiment=lab")
    registry.promote(second)
    assert standing(registry, second) == f"{second} is the champion"
    assert f"the champion stays {second}: notebento models promote {first}" in standing(registry, first[:5])


def test_the_champion_in_a_file_is_read_without_sqlalchemy(tmp_path):
    registry = Registry(tmp_path / "versions", Ledger(f"sqlite:///{tmp_path}/ledger.db", "toy"))
    register(registry, tmp_path, "a")
    second = register(registry, tmp_path, "b").version
    registry.promote(second)
    assert [msgspec.structs.astuple(row) for row in registry.history()] == registry.ledger.database.rows()
    code = f"""import sys
from pathlib import Path
from notebento.registry.registry import Ledger, Registry
registry = Registry(Path({str(tmp_path)!r}) / "versions", Ledger("sqlite:///" + {str(tmp_path / "ledger.db")!r}, "toy"))
print(registry.bundle("champion").parent.name, [m for m in ("sqlalchemy", "numpy", "polars") if m in sys.modules])"""
    said = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert said == f"{second} []\n"


def test_registering_again_keeps_the_first_registration(registry, tmp_path):
    first = registry.register(bundle(tmp_path, "a"), "toy", Lineage(run="one"), {}, PASSED)
    again = registry.register(bundle(tmp_path, "a"), "toy", Lineage(run="two"), {}, PASSED)
    assert again == first
    assert again.lineage.run == "one"


def test_names_are_found_by_their_beginning(registry, tmp_path):
    version = register(registry, tmp_path, "a").version
    assert registry.version(version[:4]).version == registry.version("champion").version == version
    with pytest.raises(UserError, match="there is no version ''"):
        registry.version("")
    with pytest.raises(UserError, match=f"Did you mean '{version}'"):
        registry.version(version[:-1] + "x")


def test_nothing_is_created_by_looking(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTEBENTO_RUNS", str(tmp_path / "runs"))
    config = RegistryConfig("lab", None, CARD)
    assert champion_folder(config) is None
    assert Registry.open(config).versions() == []
    with pytest.raises(UserError, match="nothing is registered in the ledger lab yet"):
        Registry.open(config).version("champion")
    assert not (tmp_path / "runs").exists()


def test_a_failed_copy_leaves_nothing(registry, tmp_path):
    with pytest.raises(UserError, match="is not a bundle"):
        registry.register(tmp_path / "absent", "toy", Lineage(), {}, PASSED)
    broken = bundle(tmp_path, "a")
    (broken / "link").symlink_to(tmp_path / "nowhere")  # copying it fails
    with pytest.raises(UserError, match=r"cannot store a version in .*link"):
        register(registry, tmp_path, "a")
    assert list(registry.store.iterdir()) == []
    assert registry.history() == []


def test_files_that_are_gone_are_named_and_can_come_back(registry, tmp_path):
    version = register(registry, tmp_path, "a").version
    shutil.rmtree(registry.store / version)
    with pytest.raises(NotebentoError, match=f"the files of {version}, .* are missing"):
        registry.bundle("champion")
    assert register(registry, tmp_path, "a").version == version
    assert registry.bundle("champion").is_dir()


def test_a_database_that_cannot_be_used_is_named_without_its_password(tmp_path):
    (tmp_path / "ledger.db").write_text("this is not a database, and long enough to look like one" * 20)
    with pytest.raises(NotebentoError, match=r"ledger\.db.*not a database"):
        Ledger(f"sqlite:///{tmp_path}/ledger.db", "toy").entries()
    with pytest.raises(UserError, match=r"registry\.url") as error:
        Ledger("nosuchsql://ada:secret@host/db", "toy").entries()
    assert "secret" not in str(error.value)


def test_lineage_is_what_the_manifest_says(tmp_path):
    artifact = {"path": "artifacts/snapshot", "digest": "d1", "bytes": 1, "compared": True}
    manifest = {
        "run_id": "r1",
        "status": "running",
        "commit": "c0ffee",
        "dirty": False,
        "overrides": ["experiment=lab"],
        "pipeline": "default",
        "config": {"seed": 1},
        "environment": {"python": "3.11"},
        "stages": {"data": {"notebook": "02_data.ipynb", "status": "done", "artifacts": {"snapshot": artifact}}},
    }
    (tmp_path / "manifest.json").write_text(json.dumps(manifest))
    made = lineage(tmp_path)
    assert (made.run, made.commit, made.dirty, made.data) == ("r1", "c0ffee", False, "d1")
    assert made.config == {"seed": 1}
    assert made.overrides == ["experiment=lab"]


def version(**changes) -> Version:
    made = Lineage("r1", "c0ffee" * 6, False, ["experiment=lab"], "d" * 64, {}, {"data": {"table": "flights"}}, {})
    models = [("constant", 0.5), ("notebento", 0.77)]
    metrics = {"test": {model: {"auc": Interval(v, v - 0.01, v + 0.01)} for model, v in models}}
    facts = {"version": "v-1", "digest": "e" * 64, "project": "flights", "registered": "2026-11-20T09:00:00+00:00"}
    return Version(**(facts | {"lineage": made, "metrics": metrics, "gate": PASSED} | changes))


def test_the_card_tells_the_facts():
    schema = {"target": "late", "task": "binary", "numeric": ["a", "b"], "categorical": ["c"]}
    shown = card(version(), CARD, schema)
    for fact in [
        "# flights, v-1",
        "Planning connections.",
        "- One year only.",
        "the flights team",
        "0.7700 (0.7600 to 0.7800)",
        "2 numbers and 1 category",
        "git checkout c0ffee",
        "scripts/run.py experiment=lab",
        "notebento verify r1",
    ]:
        assert fact in shown
    assert shown.index("| notebento |") < shown.index("| constant |")
    dirty = msgspec.structs.replace(version().lineage, dirty=True)
    assert "git checkout" not in card(version(lineage=dirty), CARD, schema)
    sparse = card(version(metrics={}, lineage=Lineage()), CARD, schema)
    assert "It was not measured." in sparse
    assert "The code of the run is in no commit" in sparse


def test_the_page_shows_text_as_text():
    words = CardConfig("<img src=x onerror=alert(1)> & more", (), "a|b")
    html = card_page(card(version(project="<b>"), words, {"target": "late", "task": "binary"}))
    assert "<img" not in html
    assert "&lt;img" in html
    assert "<title>&lt;b&gt;, v-1</title>" in html
    assert "<table>" in html


def test_an_entry_names_somebody(monkeypatch):
    monkeypatch.setattr("getpass.getuser", lambda: (_ for _ in ()).throw(OSError("no name")))
    assert entry("promote", "v-1", "").actor.startswith("uid ")
    assert entry("promote", "v-1", "", actor="ada").actor == "ada"
