"""Notebooks in git: what JupyterLab leaves in them on disk shows in no diff and in no commit."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from notebento.cli.agreement import differences

Git = Callable[..., str]
KERNEL = {"display_name": "python3", "language": "python", "name": "python3"}


@pytest.fixture
def clean_notebook(repository: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The script."""
    monkeypatch.syspath_prepend(repository / "scripts")
    import clean_notebook

    return clean_notebook


@pytest.fixture
def project(tmp_path: Path, repository: Path) -> Path:
    """A project in a folder of a larger repository that has hooks of its own; both folders have odd names."""
    project = tmp_path / "one repository" / "100% ours, it's"
    shutil.copytree(repository / "scripts", project / "scripts", ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(repository / ".gitattributes", project)
    write(project / "nbs/01_data.ipynb", code("overrides = []\nrun_dir = ''", tags=["parameters"]), *RICH)
    write(project / "nbs/index.ipynb", code("print('the tour')"), code("object()"))
    return project


@pytest.fixture
def git(project: Path) -> Iterator[Git]:
    """Commands of git in the project's repository, in which everything is committed."""

    def run(*arguments: str) -> str:
        me = ["-c", "user.name=me", "-c", "user.email=me@example.org"]
        return subprocess.run(["git", *me, *arguments], cwd=project, capture_output=True, text=True, check=True).stdout

    subprocess.run(["git", "init", "-q", project.parent], check=True)
    run("config", "core.hooksPath", "hooks")
    run("add", ".")
    run("commit", "-qm", "A project")
    return run


def code(source: str, **metadata: Any) -> Any:
    """A code cell."""
    return nbformat.v4.new_code_cell(source, metadata=metadata)


RICH = [
    code("print('some rows')"),
    code("import sys; print('a warning', file=sys.stderr)"),
    code("class Table:\n    def _repr_html_(self): return '<table></table>'\nTable()"),
    code("1 / 0", tags=["raises-exception"]),
    nbformat.v4.new_markdown_cell(""),
]


def write(path: Path, *cells: Any) -> None:
    """Write a notebook as it is committed."""
    notebook = nbformat.v4.new_notebook(cells=[*cells], metadata={"kernelspec": KERNEL})
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(notebook, sort_keys=True, indent=1) + "\n")
    path.write_text(subprocess.run(CLEAN, input=path.read_text(), capture_output=True, text=True, check=True).stdout)


CLEAN = [sys.executable, Path(__file__).parents[3] / "scripts/clean_notebook.py", "any.ipynb"]


def run_all_and_save(path: Path) -> None:
    """What JupyterLab does for *Run All* and save."""
    notebook = nbformat.read(path, as_version=4)
    client = NotebookClient(
        notebook, record_timing=True, store_widget_state=True, resources={"metadata": {"path": "."}}
    )
    client.execute()
    notebook.metadata["widgets"] = {
        "application/vnd.jupyter.widget-state+json": {"state": {"1": {}}, "version_major": 2}
    }
    notebook.metadata["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
    for cell in notebook.cells:
        cell.metadata |= {"editable": True, "slideshow": {"slide_type": ""}, "scrolled": True}
    nbformat.write(notebook, path)


@pytest.mark.process
def test_run_all_and_save_leave_no_diff_but_the_outputs_of_the_tour(
    project: Path, git: Git, clean_notebook: Any
) -> None:
    clean_notebook.install(str(project))
    stage, tour = project / "nbs/01_data.ipynb", project / "nbs/index.ipynb"
    before, as_committed = git("ls-files", "-s"), stage.read_bytes()
    run_all_and_save(stage)
    run_all_and_save(tour)
    saved = json.loads(stage.read_text())
    assert "language_info" in saved["metadata"] and "execution" in saved["cells"][1]["metadata"]
    assert [len(c["outputs"]) for c in saved["cells"][:5]] == [0, 1, 1, 1, 1]

    assert git("diff", "--name-only", "--relative") == "nbs/index.ipynb\n"
    added = [line for line in git("diff", "-U0").splitlines() if line.startswith("+ ")]
    assert any("the tour" in line for line in added)
    assert not [
        line for line in added if any(word in line for word in ("iopub", "language_info", '_count": 1', "scrolled"))
    ]
    git("commit", "-qam", "The tour, run again")
    committed = json.loads(git("show", "HEAD:./nbs/index.ipynb"))
    assert [c["outputs"][0].get("text") for c in committed["cells"]] == [["the tour\n"], None]
    assert committed["cells"][1]["outputs"][0]["data"]["text/plain"] == ["<object>"]
    assert [line for line in git("ls-files", "-s").splitlines() if "01_data" in line] == [
        line for line in before.splitlines() if "01_data" in line
    ]

    right = project.parent / "right"  # what `notebento check` compares with
    (right / "nbs").mkdir(parents=True)
    (right / "nbs/01_data.ipynb").write_bytes(as_committed)
    (project / "settings.ini").write_text("[DEFAULT]\nlib_path = src\n")
    assert [*differences(project, right)] == []
    git("config", "--unset", "filter.notebento.clean")
    assert [d.path.name for d in differences(project, right)] == ["01_data.ipynb"]
    git("add", "--renormalize", "nbs")
    git("commit", "-qm", "With outputs, from a clone without the filter")
    clean_notebook.install(str(project))
    assert [d.path.name for d in differences(project, right)] == ["01_data.ipynb"]


def test_the_hook_is_installed_once_and_leaves_the_repositorys_own_hooks(
    project: Path, git: Git, clean_notebook: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    clean_notebook.install(str(project))
    assert capsys.readouterr().err.startswith("git now leaves the outputs of notebooks out of commits")
    config = (project.parent / ".git/config").read_bytes()
    clean_notebook.install(str(project))
    assert capsys.readouterr() == ("", "")
    assert (project.parent / ".git/config").read_bytes() == config
    assert git("config", "core.hooksPath") == "hooks\n"


def test_without_git_or_a_repository_nothing_happens(
    project: Path, clean_notebook: Any, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(project.parent.parent))
    clean_notebook.install(str(project))
    monkeypatch.setenv("PATH", "")
    clean_notebook.install(str(project))
    assert capfd.readouterr() == ("", "")


def test_a_commit_without_the_script_leaves_notebooks_as_they_are(project: Path, git: Git, clean_notebook: Any) -> None:
    clean_notebook.install(str(project))
    shutil.rmtree(project / "scripts")
    stage = project / "nbs/01_data.ipynb"
    stage.write_text(stage.read_text().replace("some rows", "other rows"))
    assert git("diff", "--stat", "nbs").endswith("1 file changed, 1 insertion(+), 1 deletion(-)\n")


def test_a_notebook_in_conflict_and_other_text_stay_as_they_are(clean_notebook: Any) -> None:
    for text in ("", "<<<<<<< HEAD\n{}", "[1]", '{"cells": [1], "metadata": {}}', '{"cells": [{}]}', '"text"'):
        assert clean_notebook.clean(text, keep_outputs=False) == text


def test_every_committed_notebook_is_what_the_filter_makes_of_it(repository: Path, clean_notebook: Any) -> None:
    """nbdev_clean and the filter agree, whatever JupyterLab has added."""
    command = ["git", "ls-files", "-z", "nbs/*.ipynb", "library/nbs/*.ipynb"]
    names = subprocess.run(command, cwd=repository, capture_output=True, text=True, check=True).stdout.split("\0")[:-1]
    assert len(names) > 50
    for name in names:
        tour, text = os.path.basename(name) == clean_notebook.TOUR, (repository / name).read_text(encoding="utf-8")
        noisy = json.loads(text)
        noisy["metadata"] |= {"language_info": {"name": "python"}, "widgets": {}}
        noisy["metadata"]["kernelspec"]["display_name"] = "Python 3 (ipykernel)"
        for number, cell in enumerate(noisy["cells"]):
            cell["metadata"] |= {"execution": {"iopub.status.busy": "now"}, "scrolled": True}
            if cell["cell_type"] == "code":
                cell["execution_count"] = number
                cell["outputs"] += [] if tour else [{"name": "stdout", "output_type": "stream", "text": ["3\n"]}]
        assert clean_notebook.clean(json.dumps(noisy), tour) == text, name
