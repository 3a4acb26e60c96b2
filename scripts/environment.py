"""The virtual environment of run.py and test.py: made once, and trusted only if its installation was completed.

Standard library only: on a fresh machine there is nothing else.
"""

import errno
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
import tomllib
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = ROOT / "library"  # the library's sources, where it is developed; other projects come with its wheel
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
LOG = VENV / "install.log"
# Written when an installation is complete and removed before the next begins: without it nothing is trusted.
STAMP = VENV / "installed.json"


class SetupError(Exception):
    """The environment cannot be set up; `fix` says what to do."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}\n  fix: {fix}")


def ensure(*extras: str) -> None:
    """Install into `.venv` what requirements.lock says for these extras; milliseconds if that is done."""
    wanted, installed = _wanted(), _installed()
    if installed and wanted.items() <= installed.items() and set(extras) <= set(installed["extras"]):
        return
    everything = sorted({*extras, *installed.get("extras", [])})
    STAMP.unlink(missing_ok=True)
    if installed.get("path", wanted["path"]) != wanted["path"] or not _usable(wanted["python"]):
        _make()
    _install(everything, replace=installed.get("wheel") != wanted["wheel"])
    part = STAMP.with_suffix(".part")
    part.write_text(json.dumps({**wanted, "extras": everything}, indent=1) + "\n")
    part.replace(STAMP)


def become(command: str, *arguments: str) -> int:
    """Continue as a command of `.venv`, with its exit status, signals and terminal."""
    program = [str(BIN / command), *arguments]
    if os.name == "nt":  # exec would return to the prompt while the command is still running
        return subprocess.run(program).returncode
    os.execv(program[0], program)


def inside(*extras: str) -> None:
    """Continue with the Python of `.venv` and these extras, unless this is it."""

    def again(arguments: list[str]) -> int:
        ensure(*extras)
        return become("python", *arguments)

    if Path(sys.prefix) != VENV:
        sys.exit(guarded(again, sys.argv))


def guarded(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """The exit status of `main`; what the user can fix becomes a message."""
    try:
        return main(arguments)
    except SetupError as e:
        print(e, file=sys.stderr)
        return 2
    except OSError as e:
        if e.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        print(_disk_full("setting up .venv failed"), file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("\nstopped; the same command continues from here", file=sys.stderr)
        return 130


def _wanted() -> dict[str, str]:
    """What determines the contents of `.venv`, apart from the extras: not the linters' settings, for example."""
    library = _requirements(LIBRARY) if LIBRARY.is_dir() else _wheel().read_bytes()
    text = b"\n".join([_requirements(ROOT), library, (ROOT / "requirements.lock").read_bytes()])
    wheel = "" if LIBRARY.is_dir() else hashlib.sha256(library).hexdigest()
    # Console scripts contain absolute paths, so a checkout that was moved needs a new environment.
    python = {"python": sys.implementation.cache_tag, "path": str(VENV)}
    return {"digest": hashlib.sha256(text).hexdigest(), "wheel": wheel, **python}


def _requirements(folder: Path) -> bytes:
    """The tables of a pyproject.toml that determine what is installed."""
    project = _pyproject(folder)
    tables = [project["build-system"], project["project"], project["tool"]["setuptools"]]
    return json.dumps(tables, sort_keys=True).encode()


def _pyproject(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def _wheel() -> Path:
    """The wheel of the library that the project asks for, in wheels/."""
    pins = [re.match(r"notebento *== *([\w.]+)", line) for line in _pyproject(ROOT)["project"]["dependencies"]]
    version = next((pin[1] for pin in pins if pin), "X.Y.Z")
    wheel = ROOT / "wheels" / f"notebento-{version}-py3-none-any.whl"
    if not wheel.is_file():
        raise SetupError(
            f"{wheel.relative_to(ROOT)} is missing: pyproject.toml requires this version of the library",
            fix="put it there (pip wheel --no-deps -w wheels LIBRARY builds it), then repeat the command",
        )
    return wheel


def _installed() -> dict:
    try:
        installed = json.loads(STAMP.read_text())
        return installed if (BIN / ("python.exe" if os.name == "nt" else "python")).exists() else {}
    except (OSError, ValueError):
        return {}


def _usable(python: str) -> bool:
    """Whether `.venv` is an environment of this Python with pip, complete or not."""
    code = "import sys, pip; print(sys.implementation.cache_tag)"
    try:
        answer = subprocess.run([BIN / "python", "-c", code], capture_output=True, text=True)
    except OSError:
        return False
    return answer.returncode == 0 and answer.stdout.strip() == python


def _make() -> None:
    version = "{}.{}".format(*sys.version_info)
    try:
        import ensurepip  # noqa: F401  Debian's python3 comes without it
        import venv  # noqa: F401
    except ImportError as e:
        raise SetupError(
            f"this Python has no module {e.name}, which creates virtual environments",
            fix=f"apt install python3-venv (Debian, Ubuntu; or python{version}-venv for a second Python),"
            " then repeat the command",
        ) from e
    process = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", VENV], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if process.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        raise _explained("creating .venv failed", process.stdout)


def _install(extras: list[str], replace: bool) -> None:
    """Install everything; `replace` the library that may be there by the wheel in wheels/.

    Otherwise it stays as it is: a service may be running from it.
    """
    print(f"Setting up .venv with {', '.join(extras)}: some minutes, once. Log: {LOG.relative_to(ROOT)}", flush=True)
    begin = time.monotonic()
    pip: list[str | Path] = [BIN / "python", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    # The library by path, never by name: an index may have another package of that name.
    library = ["--editable", LIBRARY] if LIBRARY.is_dir() else [_wheel()]
    commands = [[*pip, "--constraint", "requirements.lock", "--editable", f".[{','.join(extras)}]", *library]]
    if replace and not LIBRARY.is_dir():  # pip would keep another wheel of the same version
        commands.insert(0, [*pip, "--no-deps", "--force-reinstall", _wheel()])
    with LOG.open("w+", encoding="utf-8") as log:
        status = next((failed for command in commands if (failed := _run(command, log))), 0)
        log.seek(0)
        output = log.read()
    if status:
        raise _explained("installing failed", output)
    print(f"Installed in {time.monotonic() - begin:.0f} s", flush=True)


def _run(command: list[str | Path], log: TextIO) -> int:
    """The exit status of a command whose output goes to `log`, and line by line to the terminal."""
    with subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
    ) as pip:
        for line in pip.stdout or ():
            log.write(line)
            _show(line.strip())
        status = pip.wait()
    _show("")
    return status


def _show(line: str) -> None:
    """Show what pip is doing, on one line of the terminal."""
    if sys.stdout.isatty():
        print(f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)


def _explained(what: str, output: str) -> SetupError:
    """The error for a failed command with this output: its last lines, and the fix for a known cause."""
    what = "\n  | ".join([what, *output.strip().splitlines()[-20:]])
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return _disk_full(what)
    if any(sign in output for sign in _UNREACHABLE):
        return SetupError(
            f"{what}\nThe package index could not be reached, or lacks this package.",
            fix="connect this machine, or name a proxy or a mirror (HTTPS_PROXY=…, PIP_INDEX_URL=…);"
            " then repeat the command",
        )
    return SetupError(what, fix="fix what these lines say, or remove .venv; then repeat the command")


def _disk_full(what: str) -> SetupError:
    folders = dict.fromkeys([str(ROOT), tempfile.gettempdir()])
    free = ", ".join(f"{shutil.disk_usage(folder).free / 1e9:.1f} GB free in {folder}" for folder in folders)
    return SetupError(
        f"{what}\nThe disk is full: {free}.",
        fix="free 4 GB, or 10 GB if torch comes with CUDA (TMPDIR=… moves the temporary folder);"
        " then repeat the command",
    )


_UNREACHABLE = (
    "Failed to establish a new connection",
    "NewConnectionError",
    "Temporary failure in name resolution",
    "Network is unreachable",
    "ConnectTimeoutError",
    "ReadTimeoutError",
    "ProxyError",
    "SSLError",
    "(from versions: none)",
)
