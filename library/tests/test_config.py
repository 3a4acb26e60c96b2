"""What 00_config cannot show about itself: every file in conf/ composes, and every mistake is named."""

import json
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from notebento.core.compose import compose, project_root
from notebento.core.config import build, plain
from notebento.core.errors import UserError

CONF = project_root() / "conf"
CHOICES = sorted(f"{f.parent.name}={f.stem}" for f in CONF.glob("*/*.yaml"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes(choice: str) -> None:
    compose([choice])


def test_a_notebook_the_command_line_and_a_test_compose_alike() -> None:
    code = "import json; from notebento.config import *; print(json.dumps(plain(compose(['experiment=lab']))))"
    elsewhere = subprocess.run(
        [sys.executable, "-c", code], cwd=project_root() / "nbs", capture_output=True, check=True
    )
    assert json.loads(elsewhere.stdout) == plain(compose(["experiment=lab"]))


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("trainr.epochs=1", "Did you mean 'trainer.epochs'"),
        ("modle=tabm", "Did you mean 'model'"),
        ("model=tabn", "model has no choice 'tabn'. Did you mean 'tabm'"),
        ("experiment=lba", "Did you mean 'lab'"),
        ("seed=one", "seed: expected `int`, got `str`"),
        ("data.task=binry", "data.task: invalid enum value 'binry'"),
        ("model.lr=fast", "model.lr: 'fast' is not of the kind of its default"),
        ("model.lr=[1]", "model.lr: "),
        ("seed", "'seed' is not an override"),
        ("seed=1,2", "asks for several values"),
        ("+trainer.epohcs=1", "epohcs"),
    ],
)
def test_a_mistake_is_named(override: str, message: str) -> None:
    with pytest.raises(UserError) as e:
        compose([override])
    assert message in str(e.value)


@settings(max_examples=10, deadline=None)
@given(st.dictionaries(st.sampled_from(["seed", "threads", "trainer.epochs"]), st.integers(1, 99)))
def test_overrides_arrive_and_change_nothing_else(values: dict[str, int]) -> None:
    def set_in(tree: dict, path: str, value: int) -> None:
        *parents, leaf = path.split(".")
        for parent in parents:
            tree = tree[parent]
        tree[leaf] = value

    expected = plain(compose())
    for path, value in values.items():
        set_in(expected, path, value)
    assert plain(compose(f"{k}={v}" for k, v in values.items())) == expected


def test_build_names_a_missing_field_and_a_missing_class() -> None:
    with pytest.raises(UserError, match="name"):
        build({"_target_": "notebento.core.config.ProjectConfig"})
    with pytest.raises(UserError, match="notebento.config.Nothing"):
        build({"_target_": "notebento.config.Nothing"})
