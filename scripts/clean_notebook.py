"""A git filter: notebooks are committed without outputs and without what an editor adds to them.

    git config filter.notebento.clean    what run.py and test.py tell git, once per clone

.gitattributes says for which notebooks. The file on disk keeps its outputs, and `git diff`, `git add` and `git status`
see it as nbdev_clean would leave it. The tour, index.ipynb, is committed with its outputs.

Standard library only, and no syntax newer than Python 3.6: git starts the `python3` that it finds.
"""

import json
import os
import re
import subprocess
import sys

TOUR = "index.ipynb"
NOTEBOOK_METADATA = {"kernelspec", "jekyll", "jupytext", "doc"}  # what nbdev_clean keeps, but for the state of widgets
CELL_METADATA = {"hide_input", "tags"}  # papermill finds the parameters by a tag
ADDRESS = re.compile("(<.*?)( at 0x[0-9a-fA-F]+)(>)")
NAME = "filter.notebento.clean"
# A commit that has no such script, and a machine without Python, leave notebooks as they are.
COMMAND = "if test -f '{0}' && command -v python3 >/dev/null; then python3 '{0}' %f; else cat; fi"


def clean(text, keep_outputs):
    """The notebook `text` as it is committed. Any other text, such as a file in conflict, stays as it is."""
    try:
        notebook = json.loads(text)
        for cell in notebook["cells"]:
            clean_cell(cell, keep_outputs)
        metadata = {k: v for k, v in notebook["metadata"].items() if k in NOTEBOOK_METADATA}
        if "name" in metadata.get("kernelspec", {}):
            metadata["kernelspec"]["display_name"] = metadata["kernelspec"]["name"]
        notebook["metadata"] = metadata
    except (ValueError, KeyError, TypeError, AttributeError):
        return text
    return json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + "\n"


def clean_cell(cell, keep_outputs):
    """Remove what running or editing a cell leaves in it."""
    if isinstance(cell["source"], str):
        cell["source"] = cell["source"].splitlines(True)
    if cell["source"] == [""]:
        cell["source"] = []
    cell["metadata"] = {k: v for k, v in cell["metadata"].items() if k in CELL_METADATA}
    if cell["cell_type"] == "code":
        cell["execution_count"] = None
        cell["outputs"] = [clean_output(output) for output in cell["outputs"]] if keep_outputs else []


def clean_output(output):
    """An output without numbers that differ each time."""
    if "execution_count" in output:
        output["execution_count"] = None
    if "text" in output:
        output["text"] = without_addresses(output["text"])
    for kind, value in output.get("data", {}).items():
        if kind.startswith("text"):
            output["data"][kind] = without_addresses(value)
        elif kind.startswith("image") and "svg" not in kind:
            output["data"][kind] = value.rstrip()
    return output


def without_addresses(value):
    """Text or lines without the addresses of objects."""
    return [without_addresses(line) for line in value] if isinstance(value, list) else ADDRESS.sub(r"\1\3", value)


def install(project):
    """Let git use this filter in the repository of `project`. Without git nothing happens."""
    try:
        prefix = git(project, "rev-parse", "--show-prefix")
        script = (prefix + "scripts/clean_notebook.py").replace("'", "'\\''").replace("%", "%%")
        command = COMMAND.format(script)
        known = subprocess.run(["git", "-C", project, "config", "--local", NAME], stdout=subprocess.PIPE)
        if known.stdout.decode().strip() != command:
            git(project, "config", "--local", NAME, command)
            sys.stderr.write("git now leaves the outputs of notebooks out of commits: scripts/clean_notebook.py\n")
    except (OSError, subprocess.CalledProcessError):  # no git, no repository, or one that may not be written
        pass


def git(project, *arguments):
    """What a command of git prints."""
    command = ["git", "-C", project, *arguments]
    return subprocess.check_output(command, stderr=subprocess.DEVNULL, universal_newlines=True).strip()


def main(arguments):
    """Read a notebook from standard input and write it to standard output, as git asks for it."""
    text = sys.stdin.buffer.read()
    try:
        cleaned = clean(text.decode("utf-8"), os.path.basename(arguments[0]) == TOUR).encode("utf-8")
    except UnicodeDecodeError:
        cleaned = text
    sys.stdout.buffer.write(cleaned)


if __name__ == "__main__":
    main(sys.argv[1:])
