"""Stores for tests: in a file of SQLite, or in a Redis or PostgreSQL server of one's own."""

import importlib.util
import os
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import msgspec
from conftest import absent

from notebento.core.config import Config, StoreConfig


def settings_of(folder: Path, **changes) -> StoreConfig:
    """A store in a file of `folder`."""
    return msgspec.structs.replace(Config().store, url=str(folder / "store.db"), name="toy", **changes)


def environment(**changes: str) -> dict[str, str]:
    """That of a process which imports the tests' modules."""
    path = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path} | changes


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return free.getsockname()[1]


class RedisServer:
    """A Redis server that writes what it is told to the disk before it answers. It can be stopped and started again."""

    def __init__(self, folder: Path) -> None:
        if not (program := shutil.which("redis-server")):
            absent("redis-server")
        self.port, self.log = free_port(), folder / "redis.log"
        self.url = f"redis://127.0.0.1:{self.port}/0"
        self.command = [program, "--port", str(self.port), "--bind", "127.0.0.1", "--dir", str(folder), "--save", ""]
        self.command += ["--appendonly", "yes", "--appendfsync", "always"]
        self.start()

    def start(self) -> None:
        with self.log.open("a") as log:
            self.process = subprocess.Popen(self.command, stdout=log)
        for _ in range(200):
            try:
                socket.create_connection(("127.0.0.1", self.port), 0.2).close()
                return
            except OSError:
                time.sleep(0.05)
        raise AssertionError("redis-server does not listen")

    def stop(self) -> None:
        self.process.kill()
        self.process.wait()

    def store(self, **changes) -> StoreConfig:
        """A store on this server."""
        settings = {"backend": "redis", "url": self.url, "name": "toy", "deadline_ms": 5000} | changes
        return msgspec.structs.replace(Config().store, **settings)


@contextmanager
def redis_server(folder: Path) -> Iterator[RedisServer]:
    """A server that is stopped at the end."""
    server = RedisServer(folder)
    try:
        yield server
    finally:
        server.stop()


@contextmanager
def postgresql_server() -> Iterator[str]:
    """The URL of a PostgreSQL server, which asks `reader` for a password and nobody else."""
    installed = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    if not installed or not importlib.util.find_spec("psycopg"):
        absent("PostgreSQL, or its driver psycopg,")
    data = Path(tempfile.mkdtemp(prefix="notebento-postgresql-", dir="/tmp"))
    port, run = free_port(), dict[str, Any](cwd="/")
    if os.geteuid() == 0:  # PostgreSQL does not run as root
        shutil.chown(data, "postgres")
        run["user"] = "postgres"
    tools = installed[-1]
    create = [tools / "initdb", "-D", data / "db", "-U", "postgres", "-A", "trust"]
    subprocess.run(create, check=True, capture_output=True, **run)
    rules = data / "db" / "pg_hba.conf"
    rules.write_text("host all reader 127.0.0.1/32 scram-sha-256\n" + rules.read_text())
    options = ["-c", "listen_addresses=127.0.0.1", "-p", str(port), "-k", str(data)]
    server = subprocess.Popen([tools / "postgres", "-D", data / "db", *options], stderr=subprocess.DEVNULL, **run)
    try:
        for _ in range(100):
            if subprocess.run([tools / "pg_isready", "-q", "-h", "127.0.0.1", "-p", str(port)]).returncode == 0:
                break
            time.sleep(0.1)
        yield f"postgresql+psycopg://postgres@127.0.0.1:{port}/postgres"
    finally:
        server.terminate()
        server.wait(20)
        shutil.rmtree(data)
