"""From a fresh clone to a trained, evaluated and packaged model.

    python3 scripts/run.py                          everything, on all the data
    python3 scripts/run.py experiment=lab           little data and few epochs: does it all work?
    python3 scripts/run.py trainer.epochs=8 seed=1  any value of conf/, changed for this run

The first time this creates .venv and installs requirements.lock; after that it goes straight to `notebento run`,
which takes the same arguments. `.venv/bin/notebento --help` lists the other commands.
"""

import os
import sys

import python_version

python_version.require("scripts/run.py")

import clean_notebook
import environment


def main(arguments):
    if arguments in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    environment.ensure("train")
    clean_notebook.install(str(environment.ROOT))
    os.environ.setdefault("NOTEBENTO_HOME", str(environment.ROOT))  # this checkout, whatever the working directory
    return environment.become("notebento", "run", *arguments)


if __name__ == "__main__":
    sys.exit(environment.guarded(main, sys.argv[1:]))
