"""JupyterLab as `notebento lab` starts it, in a browser that is driven over Chromium's DevTools protocol."""

import base64
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conftest import absent
from stores import free_port
from websocket import WebSocket, create_connection

WIDTH, HEIGHT = 1280, 900
TALLEST = 16_000  # pixels of a picture; Chromium draws no more


class Browser:
    """A headless Chromium with one page."""

    def __init__(self, port: int, page: WebSocket) -> None:
        self.port, self.page, self.sent = port, page, 0
        self.errors = list[str]()  # what scripts of the page raised
        for domain in ("Page", "Runtime"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setFocusEmulationEnabled", enabled=True)  # as if somebody sat in front of it
        self.resize(HEIGHT)

    def call(self, method: str, wait: float = 60, **parameters: Any) -> Any:
        """The result of a DevTools command."""
        self.sent += 1
        self.page.send(json.dumps({"id": self.sent, "method": method, "params": parameters}))
        self.page.settimeout(wait)
        while True:
            message = json.loads(self.page.recv())
            if message.get("method") == "Runtime.exceptionThrown":
                details = message["params"]["exceptionDetails"]
                self.errors.append(details.get("exception", {}).get("description") or details["text"])
            if message.get("id") == self.sent:
                assert "error" not in message, (method, message)
                return message["result"]

    def evaluate(self, script: str, wait: float = 60) -> Any:
        """The value of a script, awaited when it is a promise."""
        options = {"awaitPromise": True, "returnByValue": True, "userGesture": True}
        answer = self.call("Runtime.evaluate", wait, expression=script, **options)
        assert "exceptionDetails" not in answer, (script, answer["exceptionDetails"])
        return answer["result"].get("value")

    def until(self, script: str, wait: float = 60) -> Any:
        """The value of a script as soon as it is truthy."""
        end = time.monotonic() + wait
        while not (value := self.evaluate(script)):
            assert time.monotonic() < end, f"not within {wait} s: {script}"
            time.sleep(0.1)
        return value

    def resize(self, height: int) -> None:
        """Give the window this height."""
        size = {"width": WIDTH, "height": height, "deviceScaleFactor": 1, "mobile": False}
        self.call("Emulation.setDeviceMetricsOverride", **size)

    def picture(self, path: Path) -> None:
        """A picture of the window."""
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", format="png")["data"]))


@contextmanager
def browser(folder: Path) -> Iterator[Browser]:
    """A browser whose profile is in `folder`."""
    if not (chromium := shutil.which("chromium") or shutil.which("google-chrome")):
        absent("chromium")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking"]
    options += ["--disable-dev-shm-usage", "--remote-debugging-port=0", "--remote-allow-origins=*"]
    options += [f"--user-data-dir={folder}", f"--window-size={WIDTH},{HEIGHT}", "about:blank"]
    with started([chromium, *options], folder.with_suffix(".log")):
        address = folder / "DevToolsActivePort"
        wait_for(lambda: address.is_file() and "\n" in address.read_text())
        port = int(address.read_text().split()[0])
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list") as response:
            target = next(page for page in json.load(response) if page["type"] == "page")
        page = create_connection(target["webSocketDebuggerUrl"], timeout=60)
        try:
            yield Browser(port, page)
        finally:
            page.close()


@contextmanager
def started(command: list[str], log: Path, **options: Any) -> Iterator[subprocess.Popen[bytes]]:
    """A process that is ended with all that it started."""
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=output, start_new_session=True, **options)
        try:
            yield process
        finally:
            os.killpg(process.pid, signal.SIGTERM)
            try:
                process.wait(20)
            except subprocess.TimeoutExpired:
                os.killpg(process.pid, signal.SIGKILL)


def wait_for(condition: Any, seconds: float = 60) -> Any:
    """What `condition` returns as soon as it is truthy."""
    end = time.monotonic() + seconds
    while not (value := condition()):
        assert time.monotonic() < end, f"not within {seconds} s"
        time.sleep(0.05)
    return value


SCRIPT = """
window.lab = {
  running: {},
  notebook: path => [...jupyterapp.shell.widgets('main')].find(w => w.context?.path === path),
  status: path => lab.notebook(path)?.sessionContext.session?.kernel?.status,
  open: async path => {
    const notebook = await jupyterapp.commands.execute('docmanager:open', {path, factory: 'Notebook'});
    await notebook.context.ready;
    await notebook.sessionContext.ready;
  },
  save: path => lab.notebook(path).context.save(),
  execute: async (path, command) => {
    jupyterapp.shell.activateById(lab.notebook(path).id);
    return await jupyterapp.commands.execute(command);
  },
  run: path => {
    lab.running[path] = true;
    lab.execute(path, 'notebook:run-all-cells').finally(() => { lab.running[path] = false; });
  },
  cells: path => lab.notebook(path).content.widgets.map(cell => ({
    kind: cell.model.type,
    source: cell.model.sharedModel.getSource(),
    count: cell.model.executionCount ?? null,
    outputs: (cell.model.outputs?.toJSON() ?? []).map(output => ({...output, data: output.data && Object.fromEntries(
      Object.entries(output.data).map(([kind, data]) => [kind, kind.startsWith('image/') ? '' : data]))})),
    images: [...cell.node.querySelectorAll('.jp-OutputArea img')].map(image => image.naturalWidth),
    overflow: Math.max(0, ...[...cell.node.querySelectorAll('.jp-OutputArea-output, .jp-RenderedMarkdown')].map(
      output => output.scrollWidth - output.clientWidth)),
  })),
  shut: async path => {
    const notebook = lab.notebook(path);
    await notebook.sessionContext.shutdown();
    notebook.model.dirty = false;
    notebook.dispose();
  },
  height: path => {  // of a window that shows the whole notebook
    const {node, widgets} = lab.notebook(path).content;
    node.querySelector('.jp-WindowedPanel-outer').scrollTop = 0;
    const [first, last] = [widgets.at(0), widgets.at(-1)].map(cell => cell.node.getBoundingClientRect());
    return Math.ceil(node.getBoundingClientRect().top + last.bottom - first.top + 100);
  },
};
"""


class Lab:
    """JupyterLab in a browser."""

    def __init__(self, address: str, browser: Browser) -> None:
        self.browser = browser
        self.cells = dict[str, list[dict[str, Any]]]()  # of the notebooks that were run
        browser.call("Page.navigate", url=address)
        browser.until("window.jupyterapp ? jupyterapp.restored.then(() => true) : false")
        browser.evaluate(SCRIPT)
        browser.until("[...jupyterapp.shell.widgets('main')].length > 0")  # what the address asks for

    def ask(self, function: str, *arguments: Any, wait: float = 60) -> Any:
        """What a function of `SCRIPT` returns."""
        # A promise that nothing holds may be collected before it is kept.
        return self.browser.evaluate(f"window.promise = lab.{function}(...{json.dumps(arguments)})", wait)

    def open(self, path: str) -> None:
        """Open a notebook and wait for its kernel."""
        self.ask("open", path)
        self.browser.until(f"lab.status({json.dumps(path)}) === 'idle'")

    def run(self, path: str) -> None:
        """Begin to run all cells."""
        self.ask("run", path)

    def is_running(self, path: str) -> bool:
        """Whether it still does."""
        return bool(self.browser.evaluate(f"lab.running[{json.dumps(path)}]"))

    def run_each(self, paths: Iterable[str], pictures: Path, save: bool = False) -> Iterator[str]:
        """Open and run notebooks from top to bottom, two at a time; what is wrong with them."""
        waiting, running = [*paths], list[str]()
        while waiting or running:
            if waiting and len(running) < 2:
                running.append(waiting.pop(0))
                self.open(running[-1])
                self.run(running[-1])
            for path in [path for path in running if not self.is_running(path)]:
                running.remove(path)
                self.picture(path, pictures / Path(path).with_suffix(".png").name)
                yield from self.faults(path)
                if save:
                    self.ask("save", path)
                self.ask("shut", path)
            time.sleep(0.1)

    def shut(self, path: str) -> None:
        """End the kernel and close the notebook, unsaved."""
        self.ask("shut", path)

    def picture(self, path: str, file: Path) -> None:
        """A picture of the whole notebook."""
        self.browser.evaluate(f"jupyterapp.shell.activateById(lab.notebook({json.dumps(path)}).id)")
        height = 0
        while height != (height := min(TALLEST, self.ask("height", path))):
            self.browser.resize(height)
            time.sleep(0.3)
        self.browser.picture(file)
        self.browser.resize(HEIGHT)

    def faults(self, path: str) -> list[str]:
        """What is wrong with a notebook that was run."""
        asked = self.browser.evaluate("[...document.querySelectorAll('.jp-Dialog')].map(dialog => dialog.innerText)")
        faults = [f"a question: {text}" for text in asked] + self.browser.errors
        self.cells[path] = self.ask("cells", path)
        for number, cell in enumerate(self.cells[path]):
            faults += [f"{path}[{number}]: {fault}" for fault in faults_of(cell)]
        return faults


REPR = re.compile(r"<[\w.]+ object|<Figure size|<Axes|at 0x[0-9a-f]+|PosixPath|shape: \(|[┌╞]|Loading widget")
DIGITS = re.compile(r"\d[.]\d{9,}")  # more than anybody reads


def faults_of(cell: dict[str, Any]) -> Iterator[str]:
    """What is wrong with what a cell shows."""
    if cell["kind"] != "code":
        return
    if cell["count"] is None and cell["source"].strip():
        yield "did not run"
    if cell["overflow"] > 0:
        yield f"{cell['overflow']} pixels more than the column is wide"
    if 0 in cell["images"]:
        yield "a picture without a size"
    for output in cell["outputs"]:
        data = output.get("data", {})
        text = output.get("text") or next(
            (data[f"text/{kind}"] for kind in ("html", "markdown", "plain") if f"text/{kind}" in data), ""
        )
        if output["output_type"] == "error":
            yield f"{output['ename']}: {output['evalue']}"
        elif output.get("name") == "stderr":
            yield f"standard error: {text}"
        elif any(kind.startswith("image/") for kind in data):
            continue
        elif raw := REPR.search(text) or (data and DIGITS.search(text)):
            yield f"shows {raw[0]!r}: {text[:200]}"


@contextmanager
def jupyterlab(project: Path, folder: Path, environment: dict[str, str], *command: str) -> Iterator[str]:
    """The address that `notebento lab` prints in `project`; what belongs to JupyterLab is in `folder`."""
    settings = {"LabApp": {"expose_app_in_browser": True}, "ServerApp": {"open_browser": False}}
    (folder / "settings").mkdir(parents=True)
    (folder / "settings/jupyter_lab_config.json").write_text(json.dumps(settings))
    saved = folder / "settings/@jupyterlab/docmanager-extension/plugin.jupyterlab-settings"
    saved.parent.mkdir(parents=True)
    saved.write_text(json.dumps({"autosave": False}))
    own = {"JUPYTER_PORT": str(free_port()), "JUPYTER_CONFIG_PATH": str(folder / "settings")}
    own |= {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")}
    own |= {f"JUPYTERLAB_{name}_DIR": str(folder / name.lower()) for name in ("SETTINGS", "WORKSPACES")}
    log = folder / "jupyterlab.log"
    with started([sys.executable, "-m", "notebento", "lab", *command], log, cwd=project, env=environment | own):
        yield wait_for(lambda: re.search(r"http://\S+[?]token=\S+", log.read_text()))[0]
