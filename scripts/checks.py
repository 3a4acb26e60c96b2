"""What has to hold before a change is done. Each check is a command that also runs alone, from .venv/bin."""

import subprocess
import sys
import time

from environment import BIN, ROOT

CHECKS = {
    "lint": ["ruff", "check"],
    "format": ["ruff", "format", "--check", "--quiet"],
    "types": ["mypy"],
    "import layers": ["lint-imports", "--no-logo"],
    "notebooks and package agree": ["python", "scripts/notebooks.py"],
    "lab run": ["notebento", "run", "experiment=lab", "--into=lab", "--no-export"],
    "notebook cells": ["nbdev_test", "--n_workers", "2", "--timing"],
    "tests": ["pytest", "-n", "2", "--dist", "loadfile"],  # a file in one process: its fixtures are made once
}


def run_all(pytest_arguments: list[str]) -> int:
    """Run every check, the rest also when one fails. 0 when all passed, else 1."""
    took: dict[str, tuple[bool, float]] = {}
    try:
        for name, (program, *arguments) in CHECKS.items():
            if name == "tests":
                arguments += pytest_arguments
            print(f"\n── {name}: {' '.join([program, *arguments])}", flush=True)
            begin = time.monotonic()
            passed = _run([str(BIN / program), *arguments])
            took[name] = passed, time.monotonic() - begin
    finally:
        _summary(took)
    return 0 if all(passed for passed, _ in took.values()) else 1


def _run(command: list[str]) -> bool:
    try:
        return subprocess.run(command, cwd=ROOT).returncode == 0
    except FileNotFoundError as e:
        print(f"{e.filename} is not installed", file=sys.stderr)
        return False


def _summary(took: dict[str, tuple[bool, float]]) -> None:
    print()
    for name in CHECKS:
        ok, seconds = took.get(name, (None, 0.0))
        print(f"{'not run' if ok is None else 'ok' if ok else 'FAILED':>7}  {seconds:6.1f} s  {name}")
    passed = sum(ok for ok, _ in took.values())
    print(f"{passed} of {len(CHECKS)} passed in {sum(s for _, s in took.values()):.0f} s", flush=True)
