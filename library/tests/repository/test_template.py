"""What the template makes of the repository's root: a project that runs, without a word about flights."""

import json
import os
import re
import subprocess
import sys
import time
import urllib.request
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import polars as pl
import pytest
import yaml
from lab import Lab, browser, jupyterlab

import notebento
from notebento.cli.agreement import agree
from notebento.core.clock import utc
from notebento.features.schema import FeatureSet, Field, compute
from notebento.pipeline.code import exported
from notebento.pipeline.template import (
    ARCHIVE,
    RELEASES,
    collect,
    history,
    pack_history,
    render,
    template,
    templates,
    unpack_history,
)
from notebento.pipeline.wheel import library_files
from notebento.serving.client import free_port

ANSWERS = {"name": "churn", "description": "Who leaves?", "target": "left"}
FLIGHTS = r"(?i)flight|airport|airline|aircraft|carrier|departure|new york|\b2013\b|weather"


class Project(NamedTuple):
    """A new project, and the processes in it: with the library under test, and its own package."""

    root: Path

    def run(self, *command: str) -> str:
        """What a command printed, which has to succeed."""
        done = subprocess.run(command, cwd=self.root, env=self.environment, capture_output=True, text=True, timeout=900)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout + done.stderr

    @property
    def environment(self) -> dict[str, str]:
        """Both packages on the path; nothing of this repository's runs."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("NOTEBENTO_")}
        paths = [str(self.root / "src"), *os.environ.get("PYTHONPATH", "").split(os.pathsep)]
        return own | {"PYTHONPATH": os.pathsep.join(p for p in paths if "flights" not in p)}


def customers(n: int) -> pl.DataFrame:
    rng = np.random.default_rng(0)
    plan, age = rng.choice(["free", "basic", "pro"], n), rng.integers(18, 90, n)
    left = rng.random(n) < 1 / (1 + np.exp(1.5 - (plan == "free") - 0.03 * (age - 50)))
    columns = {"id": range(1, n + 1), "plan": plan, "age": age, "paid": rng.gamma(2, 10, n).round(2)}
    joined = pl.date(2025, 1, 1) + pl.duration(days=pl.int_range(n) * 200 // n)
    return pl.DataFrame(columns | {"left": np.where(left, "yes", "no")}).with_columns(joined=joined)


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    """Made by the command, of 300 rows."""
    folder = tmp_path_factory.mktemp("new")
    customers(300).write_csv(folder / "customers.csv")
    made = Project(folder / "churn")
    command = [sys.executable, "-m", "notebento", "new", "churn", "--data=customers.csv", "--target=left", "--yes"]
    environment = made.environment | {f"GIT_{n}_NAME": "somebody" for n in ("AUTHOR", "COMMITTER")}
    environment |= {f"GIT_{n}_EMAIL": "somebody@example.com" for n in ("AUTHOR", "COMMITTER")}
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return made


def test_nothing_is_left_of_flights() -> None:
    """Neither in a file nor in a path; «» are the brackets of the template."""
    for path, content in render(template(), ANSWERS).items():
        text = f"{path}\n{content.decode()}"
        assert not (found := re.search(FLIGHTS + "|«|»", text)), (path, found)


def test_a_released_template_never_changes(repository: Path) -> None:
    """When it fails: `python3 library/release.py --next X`, for what changed is in the next version."""
    released, today = unpack_history((repository / RELEASES).read_bytes()), collect(repository)
    kept = released.get(notebento.__version__, today)
    assert {path for path in kept.keys() | today if kept.get(path) != today.get(path)} == set()
    assert released.keys() >= {"0.3.0"}


def test_the_history_is_the_same_to_the_byte_each_time(repository: Path) -> None:
    """The archive in the repository, too: packed again, it is what is committed."""
    assert library_files()[f"notebento/{ARCHIVE}"] == pack_history(history(repository))
    committed = (repository / RELEASES).read_bytes()
    assert pack_history(unpack_history(committed)) == committed


@pytest.mark.process
@pytest.mark.parametrize("version", ["0.3.0", notebento.__version__])
def test_copier_renders_the_same_bytes(version: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """From a repository with a tag, to which the address in the answers leads."""
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.com")
    source = tmp_path / "template"
    for path, content in templates()[version].items():
        (source / path).parent.mkdir(parents=True, exist_ok=True)
        (source / path).write_bytes(content)
    for command in (["init", "-q"], ["add", "--all"], ["commit", "-qm", "template"], ["tag", f"v{version}"]):
        subprocess.run(["git", *command], cwd=source, check=True)
    address = yaml.safe_load(render(template(), ANSWERS)[".copier-answers.yml"])["_src_path"]
    settings = {"COUNT": "1", "KEY_0": f"url.{source}.insteadOf", "VALUE_0": address}
    for name, value in settings.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    monkeypatch.setenv("COPIER_CACHE_DIR", str(tmp_path / "cache"))
    said = [word for name, value in ANSWERS.items() for word in ("--data", f"{name}={value}")]
    command = [sys.executable, "-m", "copier", "copy", "--quiet", "--defaults", f"--vcs-ref=v{version}", *said]
    subprocess.run([*command, address, str(tmp_path / "made")], check=True)
    places = [p for p in (tmp_path / "made").rglob("*") if p.is_file()]
    made = {p.relative_to(tmp_path / "made").as_posix(): p.read_bytes() for p in places}
    assert made == render(templates()[version], ANSWERS, f"v{version}")


@pytest.mark.process
def test_what_the_notebooks_export_is_in_src(tmp_path: Path) -> None:
    """When it fails: render the template, nbdev_export there, and take data.py and features.py over into src/«name»."""
    for path, content in render(template(), ANSWERS).items():
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_bytes(content)
    assert agree(tmp_path)
    named = {one.module.name for one in exported(tmp_path, remember=False)}
    assert named == {p.name for p in (tmp_path / "src/churn").glob("[!_]*.py")}


def test_the_view_that_the_features_notebook_shows_is_one() -> None:
    """What is copied from its prose looks back at a second table, and sees nothing that was known later."""
    cells = json.loads(render(template(), ANSWERS)["nbs/02_features.ipynb"])["cells"]
    (code,) = re.findall(r"```python\n(import polars.*?)```", "".join("".join(c["source"]) for c in cells), re.DOTALL)
    names: dict[str, Any] = {"FeatureSet": FeatureSet}
    exec(code, names)
    features = FeatureSet({"customer": Field("string")})
    names["add_views"](features)
    at = [utc(f"2025-01-0{day}T12:00:00Z") for day in (1, 2, 3)]
    visits = pl.DataFrame({"visit": [1, 2, 3], "customer": ["a", "a", "b"], "visited_at": at, "pages": [2, 4, 9]})
    rows = pl.DataFrame({"customer": ["a", "a", "b"], "predict_at": [at[0], at[2], at[1]]})
    found = compute(features, rows, {"visits": visits})
    assert found["visits_customer_n_30d"].to_list() == [0, 2, 0] or found["visits_customer_n_30d"].to_list() == [
        1,
        2,
        0,
    ]
    assert found["visits_customer_newest"].to_list()[1:] == [4, None]


def test_a_new_project_passes_the_linter(project: Project) -> None:
    project.run(sys.executable, "-m", "ruff", "check", "--no-cache")
    project.run(sys.executable, "-m", "ruff", "format", "--check", "--no-cache")


@pytest.mark.server
def test_its_notebooks_run_in_jupyterlab(project: Project, repository: Path, tmp_path: Path) -> None:
    """Each from top to bottom, first the tour, before anything else has run; saving them leaves nothing to commit."""
    project.run(sys.executable, "-c", "import sys; sys.path += ['scripts']; import clean_notebook as c; c.install('.')")
    tour, *others = ["nbs/index.ipynb", *sorted(f"nbs/{p.name}" for p in (project.root / "nbs").glob("[0-9]*.ipynb"))]
    with jupyterlab(project.root, tmp_path / "jupyter", project.environment) as address:
        assert "/lab/tree/nbs/index.ipynb?token=" in address
        with browser(tmp_path / "profile") as chromium:
            lab = Lab(address, chromium)
            pictures = repository / "build/notebooks/churn"
            assert [*lab.run_each([tour], pictures, save=True), *lab.run_each(others, pictures, save=True)] == []
            assert "✓ register" in str(lab.cells[tour])  # how far its inputs are
    assert project.run("git", "diff", "--name-only", "--", ":!nbs/index.ipynb") == ""
    assert project.run("git", "ls-files", "--others", "--exclude-standard") == ""


@pytest.mark.process
def test_its_pipeline_runs_and_its_tests_pass(project: Project) -> None:
    """The run on the sample is one of its checks, too."""
    project.run(sys.executable, "-m", "notebento", "run", "experiment=lab", "--into=lab", "--no-export")
    project.run(sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider")


@pytest.mark.nightly
@pytest.mark.server
def test_its_two_commands_work_in_a_fresh_clone_and_its_model_answers(project: Project, tmp_path: Path) -> None:
    """Without the library's repository, from the wheel, on a path with a space and an umlaut."""
    clone = tmp_path / "für mich" / "churn"
    clone.parent.mkdir()
    subprocess.run(["git", "clone", "--quiet", str(project.root), str(clone)], check=True)
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("NOTEBENTO_")}
    for script in ("run.py", "test.py"):
        command = [sys.executable, str(clone / "scripts" / script)]
        done = subprocess.run(command, cwd=clone, env=own, capture_output=True, text=True, timeout=3_600)
        assert done.returncode == 0, done.stdout + done.stderr
    port = free_port()
    serve = [str(clone / ".venv/bin/notebento"), "serve", f"--port={port}"]
    server = subprocess.Popen(serve, cwd=clone, env=own)
    try:
        record = {"plan": "free", "age": 70, "paid": 12.5}
        answer = asked(port, {"records": [record]})
    finally:
        server.terminate()
        server.wait(30)
    assert 0 < answer[0]["probability"] < 1 and answer[0]["prediction"] in ("yes", "no")


def asked(port: int, body: dict) -> list[dict]:
    """What the service answers, as soon as it does."""
    request = urllib.request.Request(f"http://127.0.0.1:{port}/predict", json.dumps(body).encode())
    for _ in range(240):
        try:
            with urllib.request.urlopen(request, timeout=30) as response:
                return list(json.load(response))
        except OSError:
            time.sleep(0.5)
    raise AssertionError("the service never answered")
