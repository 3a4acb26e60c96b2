"""A release: `python3 library/release.py` keeps the template, `--next` begins the next version."""

import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from notebento.pipeline.template import RELEASES, collect, unpack_history

PLACES = ("settings.ini", "pyproject.toml", "library/settings.ini", "library/pyproject.toml")


@pytest.fixture
def checkout(repository: Path, tmp_path: Path) -> Path:
    """A copy of what a release reads and writes."""
    for name in (".github", "bentos", "conf", "nbs", "scripts", "src", "tests", "library/src", "library/template"):
        shutil.copytree(repository / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in (".gitignore", "requirements.lock", "CHANGELOG.md", "library/release.py", RELEASES, *PLACES):
        shutil.copy(repository / name, tmp_path / name)
    return tmp_path


def release(checkout: Path, *arguments: str) -> tuple[int, str]:
    """The exit status, and what was said."""
    command = [sys.executable, "-I", "-B", checkout / "library/release.py", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


@pytest.mark.process
def test_a_template_is_kept_once_and_the_next_version_begins_everywhere(checkout: Path) -> None:
    assert release(checkout, "--next", "9.0.0")[0] == 0
    for name in PLACES:
        text = (checkout / name).read_text()
        versions = re.findall(r"(?m)^version = \"?([\d.]+)|notebento==([\d.]+)", text)
        assert {version for pair in versions for version in pair if version} == {"9.0.0"}, name
    assert '__version__ = "9.0.0"' in (checkout / "library/src/notebento/__init__.py").read_text()
    log = (checkout / "CHANGELOG.md").read_text()
    assert log.startswith("# Changelog\n\n## 9.0.0 (unreleased)\n")
    assert release(checkout)[0] == 0
    kept = (checkout / RELEASES).read_bytes()
    assert unpack_history(kept)["9.0.0"] == collect(checkout) and "0.3.0" in unpack_history(kept)
    assert (checkout / "CHANGELOG.md").read_text() == log.replace(" (unreleased)", "", 1)
    assert release(checkout)[0] == 0 and (checkout / RELEASES).read_bytes() == kept
    with (checkout / "conf/model/linear.yaml").open("a") as edited:
        edited.write("# another\n")
    status, said = release(checkout)
    assert status == 1 and "9.0.0 is released, and its template differs: conf/model/linear.yaml" in said
    assert (checkout / RELEASES).read_bytes() == kept
    assert release(checkout, "--next", "soon")[0] == 1
