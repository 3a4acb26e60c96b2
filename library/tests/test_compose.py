"""Composition from files and overrides: alike everywhere, nothing but what was asked, and every mistake is named."""

import ast
import json
import os
import re
import shlex
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toys import Toy, here

import notebento
from notebento.core.compose import compose, field_types, quoted
from notebento.core.config import plain
from notebento.core.errors import UserError

MODEL = "{_target_: notebento.models.tabm.TabM, lr: 0.0025, k: 8}"
LINEAR = "{_target_: notebento.models.linear.Linear, iterations: 60}"


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Toy]:
    """A project with a model and an experiment, in which this process works."""
    toy = Toy(tmp_path_factory.mktemp("toy"))
    (toy.home / "conf" / "model" / "tabm.yaml").write_text(MODEL)
    (toy.home / "conf" / "model" / "linear.yaml").write_text(LINEAR)
    with here(toy):
        yield toy


@pytest.mark.process
def test_a_notebook_the_command_line_and_a_test_compose_alike(toy: Toy) -> None:
    overrides = ["model=tabm", "experiment=lab", "seed=7"]
    code = (
        "import json; from notebento.core.compose import compose; from notebento.core.config import plain; "
        f"print(json.dumps(plain(compose({overrides}))))"
    )
    environ = {k: v for k, v in os.environ.items() if k != "NOTEBENTO_HOME"}
    command = [sys.executable, "-c", code]
    elsewhere = subprocess.run(command, cwd=toy.home / "nbs", env=environ, capture_output=True, check=True)
    assert json.loads(elsewhere.stdout) == plain(compose(overrides))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainr.epochs=1", "Did you mean 'trainer.epochs'"),
        ("modle=tabm", "Did you mean 'model'"),
        ("model=tabn", "model has no choice 'tabn'. Did you mean 'tabm'"),
        ("experiment=lba", "Did you mean 'lab'"),
        ("trainer.lr=1", "Did you mean 'model.lr'"),
        ("data.task=classification", "fix: data.task is one of binary, multiclass, regression"),
        ("trainer.precision=64", "fix: trainer.precision is one of auto, 32, bf16"),
        ("data.zone=Europe/Berln", "fix: data.zone=Europe/Berlin"),
        ("project.name=inf", "project.name: expected `str`, got `float`"),
        ("data.key=[x,", "the bracket [ is not closed"),
        ("data.test_months=2", "data.test_months need the column"),
        ("evaluate.gate.auc.min=x", "evaluate.gate.auc.min: expected"),
        ("data.contract.rows.columns.x.type=int", "data.contract.rows.columns.x.type: invalid enum value 'int'"),
        ("data.contract.rows.colums.x.type=string", "no configuration key"),
        ("seed=one", "seed: expected `int`, got `str`"),
        ("data.task=binry", "data.task: invalid enum value 'binry'"),
        ("model.lr=fast", "model.lr: 'fast' is not of the kind of its default"),
        ("model.lr=[1]", "model.lr: "),
        ("seed", "'seed' is not an override"),
        ("seed=1,2", "asks for several values"),
        ("+trainer.epohcs=1", "epohcs"),
        ("data.source=/a/file.csv", "data.source: expected a mapping of settings, got '/a/file.csv'"),
        ("store=redis", "store has settings of its own and cannot be 'redis'"),
        ("data.test_share=1.5", "data.test_share: expected `float` < 1.0, got 1.5"),
        ("data.test_share=0.9", "add up to 1.05, which leaves no rows to train on"),
        ("data.test_share=nan", "data.test_share: nan is not a finite number"),
        ("data.max_rejected=-0.1", "data.max_rejected: expected `float` >= 0.0, got -0.1"),
        ("data.zone=Mars/Phobos", "data.zone: 'Mars/Phobos' is not a time zone"),
        ("evaluate.zone=", "evaluate.zone: '' is not a time zone"),
        ("data.as_of=tomorrow", "data.as_of: 'tomorrow' is not a time"),
        ("data.key=id", "fix: 'data.key=[id]'"),
        ("data.key=[]", "data.key: expected `array` of length >= 1"),
        ("data.key=['']", "data.key[0]: expected `str` of length >= 1"),
        ("data.target=[a]", "data.target: expected `str`, got `array`"),
        ("data.target=2", "fix: 'data.target=\"2\"'"),
        ("data.target=true", "fix: 'data.target=\"true\"'"),
        ("data.time=''", "data.time: expected `str` of length >= 1"),
        ("serve.port=99999", "serve.port: expected `int` <= 65535, got 99999"),
        ("serve.workers=0", "serve.workers: expected `int` >= 1, got 0"),
        ("tune.timeout=-1", "tune.timeout: expected `float` > 0.0, got -1"),
        ("trainer.epochs=0", "trainer.epochs: expected `int` >= 1, got 0"),
        ("store.horizon=2 days", "store.horizon=90m, 4h or 2d"),
        ("model=null", "model has no choice None"),
        ("data.target=Größe (m)", "fix: quote the value: 'data.target=\"Größe (m)\"'"),
        ("data.target=a,b", "for one value with a comma: 'data.target=\"a,b\"'"),
    ],
)
def test_a_mistake_is_named(toy: Toy, override: str, message: str) -> None:
    with pytest.raises(UserError) as e:
        compose([*([] if override == "model=tabn" else ["model=tabm"]), override])
    assert message in str(e.value)


@pytest.mark.process
@settings(max_examples=10, deadline=None)
@given(values=st.dictionaries(st.sampled_from(["seed", "threads", "trainer.epochs"]), st.integers(1, 99)))
def test_overrides_arrive_and_change_nothing_else(toy: Toy, values: dict[str, int]) -> None:
    def set_in(tree: dict, path: str, value: int) -> None:
        *parents, leaf = path.split(".")
        for parent in parents:
            tree = tree[parent]
        tree[leaf] = value

    expected = plain(compose())
    for path, value in values.items():
        set_in(expected, path, value)
    assert plain(compose(f"{k}={v}" for k, v in values.items())) == expected


def test_a_file_that_is_not_yaml_is_named_with_its_line(toy: Toy) -> None:
    broken = toy.home / "conf" / "experiment" / "broken.yaml"
    broken.write_text("a: [\n")
    try:
        with pytest.raises(UserError, match=r"conf/ is not YAML: .*broken\.yaml.*line 2"):
            compose(["experiment=broken"])
    finally:
        broken.unlink()


def test_a_field_of_a_class_has_its_limits_and_nothing_heavy_is_imported(toy: Toy) -> None:
    for override in ("model.iterations=0", "model.strength=-1", "model.min_count=0"):
        with pytest.raises(UserError, match=f"{override.partition('=')[0]}: expected"):
            compose(["model=linear", override])
    assert compose(["model=linear", "model.strength=2", "model.min_count=3"]).model["strength"] == 2
    assert {"clip", "teacher"} <= field_types("notebento.models.network.TableNetwork").keys()
    assert field_types("nowhere.Nothing") == {}


def test_every_override_that_the_library_proposes_can_be_pasted(toy: Toy) -> None:
    """Those that are written out in a module; see test_data.py for those that are made of values."""
    from hydra.core.override_parser.overrides_parser import OverridesParser

    said = []
    for module in Path(notebento.__path__[0]).rglob("*.py"):
        for node in ast.walk(ast.parse(module.read_text(encoding="utf-8"))):
            if isinstance(node, ast.keyword) and node.arg == "fix" and isinstance(node.value, ast.Constant):
                said.append(str(node.value.value))
    words = [w.strip("()") for text in said if re.search(r"\w\.\w+=", text) for w in shlex.split(text)]
    pasted = [
        w for w in words if re.match(r"(data|evaluate|model|project|serve|store|trainer|tune)[.=]", w) and "=" in w
    ]
    assert len(pasted) > 15
    for word in pasted:
        if "…" not in word:
            value = OverridesParser.create().parse_override(word).value()
            assert not str(value).endswith((",", ";", ":")), word


def test_a_mapping_takes_new_keys(toy: Toy) -> None:
    assert compose(["data.formats={when: '%d/%m/%Y'}"]).data.formats == {"when": "%d/%m/%Y"}
    assert compose(["data.formats.when=%Y"]).data.formats == {"when": "%Y"}
    contract = {"rows": {"columns": {"a b": {"type": "string"}}}}
    (word,) = shlex.split(quoted("data.contract", contract))
    assert compose([word]).data.contract["rows"].columns["a b"].type == "string"
    assert quoted("data.formats", {"größe": "%Y"}) == 'in conf/: data.formats: {"größe": "%Y"}'
    assert quoted("data.exclude", ["a", "true", "1"]) == '\'data.exclude=[a,"true","1"]\''


@settings(max_examples=60, deadline=None)
@given(value=st.text(st.characters(exclude_characters="\0$", exclude_categories=["Cs"]), min_size=1, max_size=8))
def test_a_quoted_value_arrives_as_it_is(toy: Toy, value: str) -> None:
    from hydra.core.override_parser.overrides_parser import OverridesParser

    (word,) = shlex.split(quoted("data.target", value))
    assert OverridesParser.create().parse_override(word).value() == value
