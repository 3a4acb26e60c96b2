"""All checks and tests, from a fresh clone on: of the project, and of the library if its sources are here.

    python3 scripts/test.py                       everything except the long tests
    python3 scripts/test.py --fast                lint, types and the quick tests
    python3 scripts/test.py --nightly             everything
    python3 scripts/test.py -k calendar tests/    only pytest, with these arguments

The first time this creates .venv and installs requirements.lock. All checks of `notebento check` run, even after one
failed; the exit status is then 1. Paths below library/ are the library's tests. Nothing here changes your files.
"""

import os
import sys

import python_version

python_version.require("scripts/test.py")

import clean_notebook
import environment


def main(arguments):
    if arguments in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    environment.ensure("train", "dev", *(["docs"] if environment.LIBRARY.is_dir() else []))
    clean_notebook.install(str(environment.ROOT))
    os.chdir(environment.ROOT)
    if arguments and arguments not in (["--fast"], ["--nightly"]):
        return pytest(arguments)
    roots = ["--root=" + name for name in (".", "library") if os.path.isfile(os.path.join(name, "pyproject.toml"))]
    return environment.become("notebento", "check", *(roots + arguments))


def pytest(arguments):
    """Each root has a session of its own."""
    if any(argument.startswith("library/") for argument in arguments):
        os.chdir("library")
        arguments = [a[len("library/") :] if a.startswith("library/") else a for a in arguments]
    return environment.become("pytest", *arguments)


if __name__ == "__main__":
    sys.exit(environment.guarded(main, sys.argv[1:]))
