"""A how-to page, followed to the letter: files written, notebooks edited, commands run, what they print compared."""

import json as jsonlib
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import nbformat

BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.M | re.S)
FILE = r"`([\w./]+)`"


class Step(NamedTuple):
    """A block of a page, and the prose before it."""

    prose: str
    kind: str
    text: str


def steps(page: Path) -> list[Step]:
    """The blocks of a page in order."""
    text, end, found = page.read_text(encoding="utf-8"), 0, []
    for block in BLOCK.finditer(text):
        found.append(Step(" ".join(text[end : block.start()].split()), block[1], block[2]))
        end = block.end()
    return found


@dataclass
class Reader:
    """Who follows a page in `folder`. If `brief`, a run is only planned, and nothing is served."""

    folder: Path
    brief: bool = True
    printed: str | None = None  # by the last command; None where that was not run as the page has it
    notebook: Path | None = None  # whose cells are being given
    port: int = 0
    servers: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def follow(self, page: Path) -> None:
        """Do what the page says."""
        try:
            for step in steps(page):
                getattr(self, step.kind)(step)
        finally:
            for server in self.servers:
                os.killpg(server.pid, signal.SIGTERM)
                server.wait(30)

    def bash(self, step: Step) -> None:
        """Run the commands, one a line; a request of curl may have several."""
        self.notebook = None
        for line in [step.text] if step.text.startswith("curl") else step.text.splitlines():
            self.run(shlex.split(line))

    def text(self, step: Step) -> None:
        """Compare what was printed: each line of the page is a line of it, and … stands for anything."""
        if self.printed is None:
            return
        for line in step.text.splitlines():
            pattern = ".*".join(re.escape(part) for part in line.strip().split("…"))
            assert re.search(rf"^\s*{pattern}\s*$", self.printed, re.M), f"no {line!r} in:\n{self.printed}"

    def run(self, words: list[str]) -> None:
        """Run one command, with the programs of this environment."""
        program, *arguments = words
        self.printed, tool = None, [sys.executable, "-m", "notebento"]
        match (program.removeprefix(".venv/bin/"), arguments):
            case ("cd", [folder]):
                self.folder = (self.folder / folder).resolve()
            case ("notebento", ["run", *more]) | ("python3", ["scripts/run.py", *more]) if self.brief:
                self.output([*tool, "run", *more, *{"--plan"}.difference(more)])
            case ("notebento", ["serve"]) | ("curl", _) if self.brief:
                pass
            case ("python3", ["scripts/test.py"]) | ("pip", _):
                pass  # see test_standalone.py; what a page installs is there
            case ("notebento", ["serve"]):
                self.printed = self.serve([*tool, "serve"])
            case ("python3", ["scripts/run.py", *more]):
                self.printed = self.output([*tool, "run", *more])
            case ("notebento", _):
                self.printed = self.output([*tool, *arguments])
            case ("python" | "python3", _):
                self.printed = self.output([sys.executable, *arguments])
            case ("curl", _):
                self.printed = self.output([program, *(word.replace(":3000", f":{self.port}") for word in arguments)])
            case _:
                raise AssertionError(f"nobody knows how to run {words}")

    def output(self, command: list[str]) -> str:
        """What a command prints that ends well."""
        done = subprocess.run(
            command, cwd=self.folder, env=self.environment(), capture_output=True, text=True, timeout=900
        )
        assert done.returncode == 0, f"{command}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def environment(self) -> dict[str, str]:
        """That of the tests, in which the project's package is as good as installed."""
        own = {k: v for k, v in os.environ.items() if not k.startswith("NOTEBENTO_")}
        return own | {"PYTHONPATH": os.pathsep.join([str(self.folder / "src"), own.get("PYTHONPATH", "")])}

    def serve(self, command: list[str]) -> str:
        """Start the service on a free port; what it says up to when it is ready."""
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        log = self.folder / "serve.log"
        with log.open("wb") as out:
            server = subprocess.Popen(
                [*command, f"--port={self.port}"],
                cwd=self.folder,
                env=self.environment(),
                stdout=out,
                stderr=out,
                start_new_session=True,
            )
        self.servers.append(server)
        for _ in range(900):
            assert server.poll() is None, log.read_text()
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/readyz").close()
                break
            except (urllib.error.URLError, ConnectionError):
                time.sleep(0.1)
        return log.read_text().replace(f":{self.port}", ":3000")

    def python(self, step: Step) -> None:
        """A file, or a cell of a notebook."""
        if changed := re.search(rf"In {FILE}, replace the cell that (?:imports|defines) `(\w+)`:$", step.prose):
            self.replace_cell(self.folder / changed[1], changed[2], step.text)
        elif not self.write(step):
            self.cell(step)

    yaml = json = python

    def markdown(self, step: Step) -> None:
        self.cell(step)

    def write(self, step: Step) -> bool:
        """Write the file that the prose names, or a part of it; False where it names none."""
        if named := re.search(rf"(?:Create|Replace the file) {FILE}:$", step.prose):
            (self.folder / named[1]).write_text(step.text, encoding="utf-8")
        elif named := re.search(rf"At the end of {FILE}, add:$", step.prose):
            path = self.folder / named[1]
            path.write_text(path.read_text(encoding="utf-8").rstrip("\n") + "\n" + step.text, encoding="utf-8")
        elif named := re.search(rf"In {FILE}, replace the block `(\w+)`:$", step.prose):
            path = self.folder / named[1]
            before = path.read_text(encoding="utf-8")
            after, count = re.subn(rf"^{named[2]}:.*\n(?:[ ]+.*\n)*", lambda _: step.text, before, flags=re.M)
            assert count == 1, f"{path} has {count} blocks {named[2]}"
            path.write_text(after, encoding="utf-8")
        else:
            return False
        return True

    def cell(self, step: Step) -> None:
        """A cell of the notebook that the prose has begun."""
        if begun := re.search(r"(?:create the notebook|rename the copy to) `(nbs/\w+\.ipynb)`", step.prose):
            self.notebook = self.folder / begun[1]
            kernel = {"kernelspec": {"display_name": "python3", "language": "python", "name": "python3"}}
            self.save(self.notebook, nbformat.v4.new_notebook(metadata=kernel))
        assert self.notebook, f"nothing says what to do with this: {step}"
        notebook, source = nbformat.read(self.notebook, as_version=4), step.text.rstrip("\n")
        if step.kind == "markdown":
            notebook.cells.append(nbformat.v4.new_markdown_cell(source))
        else:
            tags = {"tags": ["parameters"]} if source.startswith("overrides = ") else {}
            notebook.cells.append(nbformat.v4.new_code_cell(source, metadata=tags))
        self.save(self.notebook, notebook)

    def replace_cell(self, path: Path, name: str, source: str) -> None:
        """Give the cell of the notebook that imports or defines `name` another content."""
        notebook = nbformat.read(path, as_version=4)
        defines = re.compile(rf"^(?:class {name}\b|def {name}\b|{name} = |from \S+ import .*\b{name}\b)", re.M)
        chosen = [c for c in notebook.cells if c.cell_type == "code" and defines.search(c.source)]
        assert len(chosen) == 1, f"{len(chosen)} cells of {path} define {name}"
        chosen[0].source = source.rstrip("\n")
        self.save(path, notebook)

    @staticmethod
    def save(path: Path, notebook: Any) -> None:
        path.write_text(jsonlib.dumps(notebook, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")
