"""Every file in conf/ composes, and what a notebook proposes is exactly what it has tried."""

import shlex

import pytest
from notebento.core.compose import choice, compose, project_root
from notebento.core.config import build

CHOICES = sorted(f"{f.parent.name}={f.stem}" for f in (project_root() / "conf").glob("*/*.yaml"))
MEMBERS = compose(["model=auto"]).model["members"]


@pytest.mark.parametrize("chosen", CHOICES)
def test_every_choice_composes(chosen: str) -> None:
    assert compose([chosen]).project.name


@pytest.mark.parametrize("name", MEMBERS)
def test_what_asks_for_a_member_alone_is_that_member(name: str) -> None:
    words = choice("model", MEMBERS[name])
    assert words.startswith("model=") and build(compose(shlex.split(words)).model) == build(MEMBERS[name])
