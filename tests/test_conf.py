"""Every file in conf/ composes."""

import pytest
from notebento.core.compose import compose, project_root

CHOICES = sorted(f"{f.parent.name}={f.stem}" for f in (project_root() / "conf").glob("*/*.yaml"))


@pytest.mark.parametrize("choice", CHOICES)
def test_every_choice_composes(choice: str) -> None:
    assert compose([choice]).project.name
