"""A bento of a toy version, by `bentos/service`: it answers wherever it lies, whatever becomes of both packages."""

import json
import os
import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import msgspec
import numpy as np
import onnx.parser
import psutil
import pytest
from serving_toys import (
    FEATURES,
    SETTINGS,
    expected,
    process,
    records,
    settled,
    write_package,
)
from stores import free_port
from typer.testing import CliRunner

import notebento
from notebento.cli.main import app
from notebento.core.config import ServeConfig
from notebento.registry.registry import Registry
from notebento.serving.bento import build_bento
from notebento.serving.client import ask, running_server
from notebento.serving.deploy import deploy, server
from notebento.serving.service import ENVIRONMENT, Deployment

pytestmark = [pytest.mark.process, pytest.mark.server]
DEPLOYMENT = Deployment("", "", SETTINGS)


@pytest.fixture(scope="module")
def bento(home, registry, repository):
    """A bento of the toy."""
    found = Registry.open(registry)
    folder = home / "bento"
    folder.mkdir()
    version, package = found.version("champion"), found.package("champion")
    tag = build_bento(folder, found.bundle("champion"), package, version, DEPLOYMENT, repository)
    assert tag == f"toy:{found.champion()}"
    return folder


def answers(bento: Path, folder: Path, workers: int = 1, **environment: str) -> list[float]:
    """What a server of `bento` answers that knows by itself what it serves."""
    serve = msgspec.structs.replace(SETTINGS, port=free_port(), workers=workers)
    command, inherited = server(folder, serve, bento)
    inherited.pop(ENVIRONMENT)
    with process(command, inherited | environment, folder, serve.port) as (started, client):
        settled(client, "/readyz", 200)
        told = [client.post("/predict", json={"records": records(50)}).raise_for_status().json() for _ in range(5)]
        running = [p for p in psutil.Process(started.pid).children() if "_bentoml_impl.worker.service" in p.cmdline()]
    assert len(running) == workers
    assert all([a["probability"] for a in t] == [a["probability"] for a in told[0]] for t in told)
    return [a["probability"] for a in told[0]]


def test_a_bento_answers_as_its_graph_does(bento, tmp_path):
    moved = tmp_path / "moved"
    shutil.copytree(bento, moved)
    assert answers(moved, tmp_path, workers=2) == expected(records(50))


def test_a_bento_answers_as_before_when_library_and_project_change(bento, home, tmp_path):
    """Both packages, in other versions, stand before all others on the path of the process."""
    library = Path(notebento.__path__[0])
    shutil.copytree(library, tmp_path / library.name)
    changed = tmp_path / library.name / "serving" / "responder.py"
    text = changed.read_text().replace('"probability": value', '"probability": value / 2')
    assert text != changed.read_text()
    changed.write_text(text)
    write_package(tmp_path, features=FEATURES.replace(".dt.hour()", ".dt.minute()"))
    code = "from notebento.serving.responder import decode_answer; from notebento.models.bundle import Signature as S;"
    code += "print(decode_answer(1.0, S(task='binary', target='t', numeric=(), categorical=()), 0.5)['probability'])"
    environment = {"PYTHONPATH": str(tmp_path)}
    assert subprocess.check_output([sys.executable, "-c", code], env=environment, text=True).strip() == "0.5"
    assert answers(bento, tmp_path, **environment) == expected(records(50))


def test_a_registered_version_follows_the_library_of_the_process(registry, tmp_path):
    """What is registered carries the project's package; the library is the process's, and the golden check decides."""
    library = Path(notebento.__path__[0])
    shutil.copytree(library, tmp_path / library.name)
    changed = tmp_path / library.name / "models" / "bundle.py"
    text = changed.read_text().replace('.fill_null(float("nan"))', ".fill_null(0.0)")
    assert text != changed.read_text()
    changed.write_text(text)
    serve = msgspec.structs.replace(SETTINGS, port=free_port())
    folder = deploy(registry, serve)
    command, environment = server(folder, serve)
    version_first = environment["PYTHONPATH"].split(":")[0]
    environment["PYTHONPATH"] = f"{version_first}:{tmp_path}"
    with process(command, environment, folder, serve.port) as (_, client):
        refused = settled(client, "/readyz", 503)
        for _ in range(100):
            if "golden" in (refused := client.get("/readyz")).text:
                break
            time.sleep(0.1)
        assert "differs from its golden predictions" in refused.text


def test_the_command_of_its_readme_imports_a_bento(bento, registry, tmp_path):
    readme = (bento / "src" / "README.md").read_text()
    commands = [line.strip() for line in readme.splitlines() if line.startswith(("    tar ", "    bentoml import "))]
    assert len(commands) == 2
    script = " && ".join(commands).replace("BENTO", str(bento)).replace("bentoml", f"{sys.executable} -m bentoml")
    environment = os.environ | {"BENTOML_HOME": str(tmp_path / "bentoml"), "BENTOML_DO_NOT_TRACK": "True"}
    done = subprocess.run(
        script, shell=True, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr
    imported = tmp_path / "bentoml" / "bentos" / "toy" / Registry.open(registry).champion()
    assert (imported / "src" / "deployment.json").read_bytes() == (bento / "src" / "deployment.json").read_bytes()


def test_a_bento_holds_what_its_containerfile_takes(bento):
    containerfile = (bento / "src" / "Containerfile").read_text()
    for sources in re.findall(r"^COPY (.+) \S+$", containerfile, re.M):
        assert all((bento / source).exists() for source in sources.split())
    assert {p.name for p in (bento / "src" / "model").iterdir()} >= {"model.onnx", "golden.json", "examples.parquet"}
    needed = (bento / "env" / "python" / "requirements.txt").read_text()
    assert "redis" in needed
    assert "torch" not in needed
    assert not list(bento.rglob("*.whl"))


@pytest.mark.nightly
def test_a_bento_serves_where_only_its_requirements_are_installed(bento, tmp_path):
    """A new environment, the requirements, the lock, nothing else."""
    python = tmp_path / "env" / "bin" / "python"
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "env"], check=True)
    source = bento / "src"
    install = [python, "-m", "pip", "install", "--quiet", "--constraint", source / "requirements.lock"]
    subprocess.run([*install, "--requirement", source / "requirements.txt"], check=True, timeout=600)
    code = "import importlib.util as u; names = ('torch', 'papermill', 'sklearn', 'notebento')\n"
    code += "print([m for m in names if u.find_spec(m)])"
    bare = {"PYTHONPATH": ""}
    assert subprocess.check_output([python, "-c", code], env=bare, text=True).strip() == "[]"
    serve = msgspec.structs.replace(SETTINGS, port=free_port())
    command, environment = server(tmp_path, serve, bento)
    with process([str(python), *command[1:]], environment | bare, tmp_path, serve.port) as (_, client):
        settled(client, "/readyz", 200)
        sent = records(10)
        told = client.post("/predict", json={"records": sent}).raise_for_status().json()
        assert [a["probability"] for a in told] == pytest.approx(expected(sent), abs=1e-6)


@pytest.mark.nightly
def test_a_bento_of_an_imported_model_answers_as_the_original(tmp_path, monkeypatch):
    monkeypatch.setenv("NOTEBENTO_RUNS", str(tmp_path / "runs"))
    text = """<ir_version: 8, opset_import: ["" : 18], producer_name: "elsewhere">
    g (double[n, 1] age) => (double[n, 1] p) { p = Sigmoid(age) }"""
    (tmp_path / "toy.onnx").write_bytes(onnx.parser.parse_model(text).SerializeToString())
    schema = {"task": "binary", "target": "late", "record": {"age": {"type": "number"}}}
    (tmp_path / "schema.json").write_text(json.dumps(schema))
    name, place = "project.name=imported", tmp_path / "bento"
    for arguments in (
        ["import", str(tmp_path / "toy.onnx"), "--schema", str(tmp_path / "schema.json"), name],
        ["promote", "v-", "--reason", "a toy", name],
        ["bento", "champion", str(place), name],
    ):
        done = CliRunner().invoke(app, ["models", *arguments], catch_exceptions=False)
        assert done.exit_code == 0, done.output
    with running_server(tmp_path / "served", ServeConfig(port=free_port()), place) as port:
        status, answered = ask(port, "/predict", b'{"records": [{"age": 0}, {"age": 2}]}')
    assert status == 200
    assert np.allclose([a["probability"] for a in json.loads(answered)], [0.5, 1 / (1 + np.exp(-2))])
    refused = CliRunner().invoke(app, ["models", "bento", "champion", str(place), name])
    assert refused.exit_code == 2 and "exists already" in refused.output
