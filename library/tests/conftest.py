"""What every test file may use."""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, NoReturn

import pytest

if TYPE_CHECKING:
    from projects import New
    from stores import RedisServer

    from notebento.core.config import RegistryConfig

# nbformat imports jsonschema, which would parse the grammar of international addresses: a second in each process.
sys.modules.setdefault("rfc3987_syntax", None)

SERVERS = {"redis", "postgresql", "service"}  # fixtures that start one


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--nightly", action="store_true", help="run the tests marked nightly too")


def pytest_configure() -> None:
    # A shell ignores the interrupt key for what it starts in the background, and every child would inherit that.
    signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)  # before -m chooses
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if SERVERS & {*getattr(item, "fixturenames", ())}:
            item.add_marker(pytest.mark.server)
    # Slow files first, so that at the end two processes share many quick ones.
    slow = {item.path for item in items if {"process", "server"} & {*item.keywords}}
    items.sort(key=lambda item: item.path not in slow)
    if config.getoption("--nightly"):
        return
    for item in items:
        if "nightly" in item.keywords:
            item.add_marker(pytest.mark.skip(reason="takes long: scripts/test.py --nightly"))


@pytest.fixture(scope="session")
def root() -> Path:
    """The library under test."""
    return Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def repository(root: Path) -> Path:
    """The repository in which the library is developed."""
    return root.parent


@pytest.fixture
def importable_tests(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Processes that a test starts can import what lies beside the tests, such as `networks`."""
    paths = [str(root / "tests"), *filter(None, [os.environ.get("PYTHONPATH")])]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(paths))


def absent(what: str) -> NoReturn:
    """`what` a test needs is not on this machine: it is skipped here, and fails in CI, where everything has to be."""
    (pytest.fail if os.environ.get("CI") else pytest.skip)(f"{what} is not on this machine")


def after_loading(page: Path) -> str:
    """What is in `page` once a browser has loaded it and run its scripts."""
    if not (chromium := shutil.which("chromium") or shutil.which("google-chrome")):
        absent("chromium")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--allow-file-access-from-files", "--dump-dom"]
    options += ["--disable-background-networking", "--no-first-run"]
    profile = tempfile.mkdtemp(prefix="notebento-chromium-")
    command = [chromium, *options, f"--user-data-dir={profile}", page.as_uri()]
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=120).stdout
    finally:
        shutil.rmtree(profile, ignore_errors=True)


@pytest.fixture(scope="module")
def redis(tmp_path_factory: pytest.TempPathFactory) -> Iterator["RedisServer"]:
    """A Redis server for the tests of a file."""
    from stores import redis_server

    with redis_server(tmp_path_factory.mktemp("redis")) as server:
        yield server


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder with the package of `serving_toys`; its `runs/` is the state of a file's tests."""
    from serving_toys import at_home, write_package

    folder = tmp_path_factory.mktemp("home")
    write_package(folder)
    with at_home(folder):
        yield folder


@pytest.fixture(scope="module")
def registry(home: Path) -> "RegistryConfig":
    """The configuration of a registry whose champion is the toy version."""
    from serving_toys import registered, toy_bundle

    return registered(toy_bundle(home / "bundle"), "toy", home / "toyfeatures")


@pytest.fixture
def new(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> "New":
    """`notebento new`, in a folder of its own."""
    from projects import New

    for name in ("NOTEBENTO_HOME", "NOTEBENTO_RUNS"):
        monkeypatch.delenv(name, raising=False)
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.com")
    monkeypatch.chdir(tmp_path)  # not inside a project
    return New(tmp_path)


@pytest.fixture(scope="module")
def postgresql() -> Iterator[str]:
    """The URL of a PostgreSQL server of our own, on a free port of this machine."""
    from stores import postgresql_server

    with postgresql_server() as url:
        yield url
