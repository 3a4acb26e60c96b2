"""Stop with a message instead of a traceback on a Python that cannot run the rest.

This file, run.py and test.py can be parsed by every Python since 2.7.
"""

import os
import subprocess
import sys

OLDEST = (3, 11)
NEWEST = (3, 13)


def require(script):
    """Exit with status 2 unless this Python can run `script`."""
    if OLDEST <= sys.version_info[:2] <= NEWEST:
        return
    names = ["python3.%d" % minor for minor in range(OLDEST[1], NEWEST[1] + 1)]
    here = [name for name in names if _runs(name)]
    sys.stderr.write(
        "notebento needs Python 3.%d to 3.%d, and this is %d.%d (%s)\n  fix: %s\n"
        % (
            OLDEST[1],
            NEWEST[1],
            sys.version_info[0],
            sys.version_info[1],
            sys.executable,
            "%s %s" % (here[0], script)
            if here
            else "apt install python3.11 python3.11-venv, brew install python@3.13, or https://www.python.org/downloads",
        )
    )
    sys.exit(2)


def _runs(name):
    with open(os.devnull, "w") as nowhere:
        try:
            return subprocess.call([name, "-c", ""], stdout=nowhere, stderr=nowhere) == 0
        except OSError:
            return False
