"""All checks and tests, from a fresh clone on.

    python3 scripts/test.py                       everything but what takes long
    python3 scripts/test.py --nightly             that too
    python3 scripts/test.py -k calendar tests/    only pytest, with these arguments

The first start makes .venv and installs requirements.lock. scripts/checks.py says what is checked; every check
runs, also when an earlier one failed, and the exit status is 1 when one did. Of the tests two files run at a time,
unless you give arguments. Nothing here changes a file of yours.
"""

import sys

import python_version

python_version.require("scripts/test.py")

import checks
import environment


def main(arguments):
    if arguments in (["-h"], ["--help"]):
        print(__doc__.strip())
        return 0
    environment.ensure("train", "lab", "baselines", "postgres", "redis", "dev")
    if arguments and arguments != ["--nightly"]:
        return environment.become("pytest", *arguments)
    return checks.run_all(arguments)


if __name__ == "__main__":
    sys.exit(environment.guarded(main, sys.argv[1:]))
