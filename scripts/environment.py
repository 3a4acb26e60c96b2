"""The virtual environment of run.py and test.py: made once, trusted only when it was finished.

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

ROOT = Path(__file__).resolve().parent.parent
LIBRARY = (
    ROOT / "library"
)  # its sources, in the repository where it is developed; elsewhere a wheel comes with the project
VENV = ROOT / ".venv"
BIN = VENV / ("Scripts" if os.name == "nt" else "bin")
LOG = VENV / "install.log"
# Written when an installation is complete and removed before the next begins: without it nothing is trusted.
STAMP = VENV / "installed.json"


class SetupError(Exception):
    """The environment cannot be made; `fix` says what to type."""

    def __init__(self, message: str, fix: str) -> None:
        super().__init__(f"{message}\n  fix: {fix}")


def ensure(*extras: str) -> None:
    """Make `.venv` hold what requirements.lock says for these extras. Costs milliseconds when it does."""
    wanted, found = _wanted(), _found()
    if found and wanted.items() <= found.items() and set(extras) <= set(found["extras"]):
        return
    everything = sorted({*extras, *found.get("extras", [])})
    STAMP.unlink(missing_ok=True)
    if found.get("path", wanted["path"]) != wanted["path"] or not _usable(wanted["python"]):
        _make()
    _install(everything)
    part = STAMP.with_suffix(".part")
    part.write_text(json.dumps({**wanted, "extras": everything}, indent=1) + "\n")
    part.replace(STAMP)


def become(command: str, *arguments: str) -> int:
    """Go on as a command of `.venv`, so that its exit status, its signals and its terminal are ours."""
    program = [str(BIN / command), *arguments]
    if os.name == "nt":  # exec would return to the prompt while the command still runs
        return subprocess.run(program).returncode
    os.execv(program[0], program)


def inside(*extras: str) -> None:
    """Go on in `.venv` with these extras, when another Python was called."""

    def again(arguments: list[str]) -> int:
        ensure(*extras)
        return become("python", *arguments)

    if Path(sys.prefix) != VENV:
        sys.exit(guarded(again, sys.argv))


def guarded(main: Callable[[list[str]], int], arguments: list[str]) -> int:
    """The exit status of `main`; what a user can mend becomes a message."""
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
        print("\nstopped; the same command goes on from here", file=sys.stderr)
        return 130


def _wanted() -> dict[str, str]:
    """What decides the contents of `.venv`, the extras aside: not the settings of the linters, for example."""
    library = _decides(LIBRARY) if LIBRARY.is_dir() else _wheel().read_bytes()
    text = b"\n".join([_decides(ROOT), library, (ROOT / "requirements.lock").read_bytes()])
    # Console scripts hold absolute paths, so a checkout that moved needs a new environment.
    return {"digest": hashlib.sha256(text).hexdigest(), "python": sys.implementation.cache_tag, "path": str(VENV)}


def _decides(folder: Path) -> bytes:
    """What of a pyproject.toml decides what is installed."""
    project = _pyproject(folder)
    decides = [project["build-system"], project["project"], project["tool"]["setuptools"]]
    return json.dumps(decides, sort_keys=True).encode()


def _pyproject(folder: Path) -> dict:
    return tomllib.loads((folder / "pyproject.toml").read_text(encoding="utf-8"))


def _wheel() -> Path:
    """The wheel of the library that the project asks for, in wheels/."""
    wanted = [re.match(r"notebento *== *([\w.]+)", line) for line in _pyproject(ROOT)["project"]["dependencies"]]
    version = next((found[1] for found in wanted if found), "X.Y.Z")
    wheel = ROOT / "wheels" / f"notebento-{version}-py3-none-any.whl"
    if not wheel.is_file():
        raise SetupError(
            f"{wheel.relative_to(ROOT)} is missing: the library that pyproject.toml asks for",
            fix="put it there (pip wheel --no-deps -w wheels LIBRARY makes it), then the same command again",
        )
    return wheel


def _found() -> dict:
    try:
        found = json.loads(STAMP.read_text())
        return found if (BIN / ("python.exe" if os.name == "nt" else "python")).exists() else {}
    except (OSError, ValueError):
        return {}


def _usable(python: str) -> bool:
    """Whether `.venv` is an environment of this Python with a pip, finished or not."""
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
            f"this Python has no module {e.name}, which makes virtual environments",
            fix=f"apt install python3-venv (Debian, Ubuntu; or python{version}-venv for a second Python),"
            " then the same command again",
        ) from e
    made = subprocess.run(
        [sys.executable, "-m", "venv", "--clear", VENV], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if made.returncode:
        shutil.rmtree(VENV, ignore_errors=True)
        raise _explained("making .venv failed", made.stdout)


def _install(extras: list[str]) -> None:
    print(f"Setting up .venv with {', '.join(extras)}: some minutes, once. Log: {LOG.relative_to(ROOT)}", flush=True)
    begin = time.monotonic()
    command: list[str | Path] = [BIN / "python", "-m", "pip", "install", "--disable-pip-version-check", "--no-input"]
    command += ["--constraint", "requirements.lock", "--editable", f".[{','.join(extras)}]"]
    # The library by its place, never by its name: an index may have something else under it.
    command += ["--editable", LIBRARY] if LIBRARY.is_dir() else [_wheel()]
    with (
        LOG.open("w+", encoding="utf-8") as log,
        subprocess.Popen(
            command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace"
        ) as pip,
    ):
        for line in pip.stdout or ():
            log.write(line)
            _show(line.strip())
        status = pip.wait()
        _show("")
        log.seek(0)
        output = log.read()
    if status:
        raise _explained("installing failed", output)
    print(f"Installed in {time.monotonic() - begin:.0f} s", flush=True)


def _show(line: str) -> None:
    """Keep what pip is doing on one line of the terminal."""
    if sys.stdout.isatty():
        print(f"\r\x1b[2K{line[: shutil.get_terminal_size().columns - 1]}", end="", flush=True)


def _explained(what: str, output: str) -> SetupError:
    """The error for a failed command with this output: its last lines, and what to do about a cause that we know."""
    what = "\n  | ".join([what, *output.strip().splitlines()[-20:]])
    if "No space left on device" in output or "Disk quota exceeded" in output:
        return _disk_full(what)
    if any(sign in output for sign in _UNREACHABLE):
        return SetupError(
            f"{what}\nThe package index could not be reached, or lacks this package.",
            fix="connect this machine, or name a proxy or a mirror (HTTPS_PROXY=…, PIP_INDEX_URL=…);"
            " then the same command again",
        )
    return SetupError(what, fix="mend what these lines say, or remove .venv; then the same command again")


def _disk_full(what: str) -> SetupError:
    folders = dict.fromkeys([str(ROOT), tempfile.gettempdir()])
    free = ", ".join(f"{shutil.disk_usage(folder).free / 1e9:.1f} GB free in {folder}" for folder in folders)
    return SetupError(
        f"{what}\nThe disk is full: {free}.",
        fix="make room for 4 GB, or 10 GB where torch comes with CUDA (TMPDIR=… moves the temporary folder);"
        " then the same command again",
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
