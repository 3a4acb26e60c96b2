"""Every command in the README does what it says, here with experiment=lab."""

import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from sklearn.datasets import load_breast_cancer
from sklearn.linear_model import LogisticRegression

from notebento.core.clock import utc
from notebento.core.compose import compose, project_root

pytestmark = pytest.mark.server

README = (project_root() / "README.md").read_text()
BLOCKS = re.findall(r"```bash\n(.*?)```", README, re.S)
LINES = [line.split("  #")[0].strip() for block in BLOCKS for line in block.splitlines() if "curl" not in block]
RUNS = [line for line in LINES if line.startswith(".venv/bin/notebento run ")]
CURL = next(block for block in BLOCKS if "curl" in block)


def test_every_command_of_the_readme_is_run_by_a_test_here() -> None:
    assert LINES[:2] == ["python3 scripts/run.py", "python3 scripts/test.py"]  # see test_scripts.py
    build = "python3 library/docs/build.py"  # see test_docs.py
    others = {line.split()[1] for line in LINES[2:] if line not in (*RUNS, build)}
    commands = {"config", "verify", "runs", "models", "features", "serve", "new", "update"}
    assert RUNS and build in LINES and others == commands


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """State of their own for these commands, so that the first run finds no champion; and what the lab run computed."""
    folder, known = tmp_path_factory.mktemp("runs"), project_root() / "runs/cache"
    if known.is_dir():
        shutil.copytree(known, folder / "cache")
    return folder


@pytest.fixture(scope="module")
def customers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A table as somebody might bring it: an id, a time, a target, thirty measurements."""
    frame = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "churned"})
    frame = frame.sample(frac=1, random_state=0)
    frame["signed_up"] = [f"2024-{1 + i * 12 // len(frame):02d}-{1 + i % 28:02d}" for i in range(len(frame))]
    frame["id"] = range(len(frame))
    path = tmp_path_factory.mktemp("table") / "customers.csv"
    frame.to_csv(path, index=False)
    return path


def tool(line: str, runs: Path, *more: str) -> tuple[list[str], dict[str, str]]:
    """The words of a command line of the README and its environment; for the flights with the lab's configuration."""
    words = shlex.split(line)
    takes = words[1] in ("run", "models", "serve") and not any(w.startswith("experiment=") for w in words)
    lab = ["experiment=lab"] if takes else []
    program = str(Path(sys.executable).with_name(Path(words[0]).name))
    return [program, *words[1:], *lab, *more], {**os.environ, "NOTEBENTO_RUNS": str(runs)}


@pytest.mark.parametrize("line", RUNS)
def test_run(line: str, runs: Path, request: pytest.FixtureRequest) -> None:
    """The lab runs whole; a variant of the training stops after it, but for the nightly tests."""
    whole = "experiment=" in line or "--plan" in line or request.config.getoption("--nightly")
    brief = [] if whole else ["--until=train", "tune.trials=1", "trainer.epochs=1"]
    if brief and "model=" not in line:
        brief.append("model.teacher=null")  # four more fits, which the whole lab run has had
    said = printed(line, runs, *brief)
    if "--plan" in line:
        assert "nothing to do" in said  # the lab has just run
    elif "--multirun" in line:
        assert re.search(r"model.lr .*run .*\n +0.00[12] ", said) and "2 cached" in said
    else:
        assert "done in" in said
    if whole and "--" not in line:
        assert "gate passed" in said
        assert re.search(r"\bv-\w{8} (is the champion|waits)", said)


def test_what_ran_is_listed(runs: Path) -> None:
    said = printed(next(line for line in LINES if line.endswith("runs list")), runs)
    assert re.search(r"^20\d{6}-\d{6}-\w{4}  done .* auc 0\.[67]\d+ .* experiment=lab$", said, re.M)


def test_new(runs: Path, customers: Path) -> None:
    line = next(line for line in LINES if " new " in line)
    place = customers.parent / "churn"
    said = printed(line.replace("../churn", str(place)).replace("customers.csv", str(customers)), runs, "--yes")
    assert "signed_up: time" in said and (place / "conf/data/churn.yaml").is_file()
    line = next(line for line in LINES if " update " in line)
    words, env = tool(line, runs)
    done = subprocess.run(words, cwd=place, env=env | {"NOTEBENTO_HOME": str(place)}, capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.rstrip().endswith("up to date"), done.stdout + done.stderr


def test_import(runs: Path, customers: Path) -> None:
    """A model of somebody else: its draft of a schema gets the names of the columns, then it is measured."""
    skl2onnx = pytest.importorskip("skl2onnx")
    table = load_breast_cancer(as_frame=True).frame.rename(columns={"target": "churned"}).astype("float32")
    names, folder = ["mean radius", "mean texture"], customers.parent
    model = LogisticRegression().fit(table[names].to_numpy()[:300], table["churned"][:300].astype(int))
    graph = skl2onnx.to_onnx(model, table[names].to_numpy()[:1])
    (folder / "churn.onnx").write_bytes(graph.SerializeToString())
    table[300:].to_csv(folder / "labelled.csv", index=False)
    for line in (line for line in LINES if " import " in line):
        command, _, target = line.partition(" > ")
        for file in ("churn.onnx", "schema.json", "labelled.csv"):
            command = command.replace(file, str(folder / file))
        said = printed(command, runs)
        if target:
            draft = json.loads(said) | {"target": "churned"}
            draft["record"] = dict(zip(names, draft["record"].values(), strict=True))
            (folder / target).write_text(json.dumps(draft))
    assert re.search(r"\bv-\w{8} is the champion", said)


def test_config(runs: Path) -> None:
    said = printed(next(line for line in LINES if " config" in line), runs)
    assert re.search(r"^ *epochs: 2$", said, re.M) and re.search(r"^ *ledger: flights-lab$", said, re.M)


@pytest.mark.nightly
def test_verify(runs: Path) -> None:
    """The lab run again, here from the working tree: its commit may be behind."""
    printed(next(line for line in RUNS if line.endswith(" experiment=lab")), runs)
    listed = printed(".venv/bin/notebento runs list --all", runs)
    lab = next(line.split()[0] for line in listed.splitlines() if line.endswith(" experiment=lab"))
    said = printed(next(line for line in LINES if line.endswith("verify")), runs, lab, "--here")
    assert "identical" in said and "different" not in said and "missing" not in said


def printed(line: str, runs: Path, *more: str) -> str:
    """What a command says that ends well."""
    words, env = tool(line, runs, *more)
    done = subprocess.run(words, cwd=project_root(), env=env, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("line", [line for line in LINES if " features " in line])
def test_features(line: str, runs: Path) -> None:
    words, env = tool(line, runs)
    done = subprocess.run(words, cwd=project_root(), env=env, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stdout, done.stderr


@pytest.fixture
def service(runs: Path) -> Iterator[int]:
    """`notebento serve` on a free port."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    words, env = tool(next(line for line in LINES if line.endswith("serve")), runs, f"--port={port}")
    server = subprocess.Popen(words, cwd=project_root(), env=env, start_new_session=True)
    try:
        for _ in range(600):
            time.sleep(0.1)
            assert server.poll() is None, "the service ended"
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/readyz").close()
                break
            except (urllib.error.URLError, ConnectionError):
                pass
        yield port
    finally:
        os.killpg(server.pid, signal.SIGTERM)
        server.wait(30)


def test_models_and_serve(runs: Path, service: int) -> None:
    words, env = tool(next(line for line in LINES if "models list" in line), runs)
    listed = subprocess.run(words, cwd=project_root(), env=env, capture_output=True, text=True, check=True).stdout
    champion = re.search(r"v-\w+", listed)
    assert champion
    curl = shlex.split(CURL.replace(":3000", f":{service}").replace("2013-12-3", "2013-03-3").replace("\n", " "))
    (answer,) = json.loads(subprocess.run(curl, capture_output=True, check=True).stdout)
    assert answer["version"] == champion[0]
    assert 0 < answer["probability"] < 1
    assert answer["decision"] == (answer["probability"] >= answer["threshold"])
    assert "degraded" not in answer  # the store was filled before the service began


def test_the_flight_of_the_readme_is_one_that_the_full_store_knows() -> None:
    """The lab ends on the first of April, so its test asks for March instead of December."""
    assert compose(["experiment=lab"]).data.as_of == "2013-04-01T04:00:00Z"
    config, (departure,) = compose([]), re.findall(r'"sched_dep": "(.*?)"', CURL)
    assert config.data.as_of is not None
    predicted = utc(departure) - timedelta(hours=config.data.lead_hours)
    assert timedelta() <= utc(config.data.as_of) - predicted <= timedelta(days=2) and config.store.horizon == "2d"
