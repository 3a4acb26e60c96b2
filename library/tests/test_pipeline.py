"""The driver on small pipelines with real kernels: what a run leaves, and what it says when a stage fails."""

import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from toys import CONF, statuses

from notebento.core.artifacts import Manifest, load
from notebento.core.errors import UserError
from notebento.core.stage import Stage
from notebento.pipeline.engine import StageError
from notebento.pipeline.plan import RunOptions
from notebento.pipeline.runner import run

pytestmark = pytest.mark.process

OPEN = 'stage = Stage.open("{name}", overrides, run_dir)\nstage'


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """A project with the given stages; a stage is its declaration and the code of its last cell."""
    home = tmp_path / "project"
    (home / "conf/pipeline").mkdir(parents=True)
    (home / "conf/config.yaml").write_text(CONF)
    (home / "nbs").mkdir()
    monkeypatch.setenv("NOTEBENTO_HOME", str(home))
    monkeypatch.setenv("NOTEBENTO_RUNS", str(tmp_path / "runs"))

    def make(**stages: tuple[dict, str]) -> Path:
        declared = {n: {"notebook": f"{n}.ipynb", "groups": ["project"]} | d for n, (d, _) in stages.items()}
        (home / "conf/pipeline/default.yaml").write_text(yaml.safe_dump({"name": "toy", "stages": declared}))
        for name, (_, code) in stages.items():
            notebook(home / f"nbs/{name}.ipynb", OPEN.format(name=name), code)
        return home

    return make


def notebook(path: Path, *code: str, parameters: str = 'overrides = []\nrun_dir = ""') -> None:
    sources = [(parameters, ["parameters"]), ("from notebento.core.stage import Stage", []), *((c, []) for c in code)]
    cells = [
        {"cell_type": "code", "execution_count": None, "outputs": [], "metadata": {"tags": t}, "source": s}
        for s, t in sources
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "python3", "language": "python"}}
    path.write_text(json.dumps({"cells": cells, "metadata": kernel, "nbformat": 4, "nbformat_minor": 4}))


COUNT = ({"outputs": ["n.json"]}, 'stage.write("n.json", {"n": 3})')
DOUBLE = ({"inputs": ["n.json"], "outputs": ["d.json"]}, 'stage.write("d.json", {"d": 2 * stage.read("n.json")["n"]})')


def test_a_run_leaves_artifacts_notebooks_and_a_manifest(project: Callable[..., Path], tmp_path: Path) -> None:
    project(double=DOUBLE, count=COUNT)
    folder = run([])
    manifest = Manifest.read(folder)
    assert (manifest.status, manifest.pipeline, list(manifest.stages)) == ("done", "toy", ["count", "double"])
    assert load(folder / manifest.artifacts()["d.json"].path) == {"d": 6}
    assert manifest.stages["double"].inputs == {"n.json": manifest.stages["count"].artifacts["n.json"].digest}
    assert sorted(p.name for p in (folder / "notebooks").iterdir()) == ["count.ipynb", "double.ipynb"]
    assert os.readlink(tmp_path / "runs/latest") == folder.name

    # In the executed notebook the stage has shown itself, as part of this run.
    executed = json.loads((folder / "notebooks/double.ipynb").read_text())
    overview = executed["cells"][3]["outputs"][0]["data"]
    html, digest = "".join(overview["text/html"]), manifest.stages["double"].inputs["n.json"]
    assert "<b>running</b>: there is no earlier result" in html
    assert f"n.json <code>{digest[:8]}</code>" in html
    assert '<a href="../report.html">report.html</a>' in html
    assert overview["text/plain"] == [f"stage double in run {folder.name}: n.json {digest[:8]} → d.json"]

    again = Manifest.read(run([]))
    assert again.run_id != manifest.run_id
    assert {n: r.key for n, r in again.stages.items()} == {n: r.key for n, r in manifest.stages.items()}
    assert {n: a.digest for n, a in again.artifacts().items()} == {n: a.digest for n, a in manifest.artifacts().items()}


@pytest.mark.parametrize(
    ("error", "status"), [("UserError('no rows', fix='give some')", 2), ("ValueError('no rows')", 3)]
)
def test_a_failing_cell_is_shown_and_what_was_done_stays(
    project: Callable[..., Path], tmp_path: Path, error: str, status: int
) -> None:
    code = f'stage.write("d.json", 1)\nfrom notebento.core.errors import UserError\nraise {error}'
    project(count=COUNT, double=(DOUBLE[0], code))
    with pytest.raises(StageError) as e:
        run([])
    assert e.value.exit_status == status
    for part in (
        f"stage 'double' failed in double.ipynb, code cell 4, line 3: raise {error}",
        "no rows",
        "notebooks/double.ipynb",
    ):
        assert part in str(e.value)
    folder = (tmp_path / "runs/latest").resolve()
    manifest = Manifest.read(folder)
    assert manifest.status == "failed"
    assert statuses(manifest) == {"count": "done", "double": "failed"}
    assert [p.name for p in (folder / "artifacts").iterdir()] == ["n.json"]


def test_a_gate_that_says_no_ends_the_run(project: Callable[..., Path]) -> None:
    gate = (
        {"inputs": ["n.json"], "outputs": ["gate.json"], "gate": "gate.json"},
        'stage.write("gate.json", {"passed": False})',
    )
    after = ({"inputs": ["gate.json"], "outputs": ["x.json"]}, 'stage.write("x.json", 1)')
    project(count=COUNT, gate=gate, after=after)
    manifest = Manifest.read(run([]))
    assert manifest.status == "rejected"
    assert statuses(manifest) == {"count": "done", "gate": "done", "after": "skipped"}


@pytest.mark.parametrize(
    ("stages", "message"),
    [
        ({"count": ({"outputs": ["n.json"]}, "1")}, "declares 'n.json' and did not write it"),
        ({"count": ({"outputs": ["n.json"]}, 'stage.write("m.json", 1)')}, "does not declare the output 'm.json'"),
        ({"count": ({"outputs": []}, "stage.config.model")}, "reads the group 'model' without declaring it"),
        ({"count": ({"groups": ["modle"]}, "1")}, "Did you mean 'model'"),
        ({"count": ({"inputs": ["x"]}, "1")}, "needs 'x', which no stage makes"),
    ],
)
def test_a_stage_that_breaks_its_declaration_is_told_so(
    project: Callable[..., Path], stages: dict, message: str
) -> None:
    project(**stages)
    with pytest.raises(Exception, match=message):
        run([])


def test_parameters_are_checked_before_anything_runs(project: Callable[..., Path], tmp_path: Path) -> None:
    home = project(count=COUNT, double=DOUBLE)
    notebook(home / "nbs/double.ipynb", "1", parameters='overrides = []\nrundir = ""')
    with pytest.raises(UserError, match=r"the parameters of double.ipynb are \['overrides', 'rundir'\]"):
        run([])
    assert [p.name for p in (tmp_path / "runs").iterdir()] == ["cache"]


def test_until_runs_only_what_a_stage_rests_on(project: Callable[..., Path]) -> None:
    project(count=COUNT, double=DOUBLE, other=({"outputs": ["o.json"]}, 'stage.write("o.json", 1)'))
    assert list(Manifest.read(run([], RunOptions(until=["double"]))).stages) == ["count", "double"]
    with pytest.raises(UserError, match="there is no stage 'doubel'. Did you mean 'double'"):
        run([], RunOptions(until=["doubel"]))


def test_a_notebook_opened_by_hand_gets_its_inputs_made_and_says_whether_its_result_is_cached(
    project: Callable[..., Path], tmp_path: Path
) -> None:
    home = project(count=COUNT, double=DOUBLE)
    Stage.open("count", []).write("n.json", {"n": 0})  # by hand, before there is a run
    stage = Stage.open("double", [])
    assert stage.read("n.json") == {"n": 3}
    assert stage.run_dir == tmp_path / "runs/lab"
    assert "<b>new</b>: there is no earlier result" in stage._repr_html_()
    assert not (tmp_path / "runs/latest").exists()

    made, newest = stage.inputs["n.json"].stat().st_mtime_ns, run([])
    stage = Stage.open("double", [])
    assert stage.inputs["n.json"].stat().st_mtime_ns == made  # nothing ran twice
    assert f"<b>cached</b>: as in {newest.name}" in stage._repr_html_()
    assert f"<code>{newest / 'report.html'}</code>" in stage._repr_html_()  # outside of the project: no link

    notebook(home / "nbs/double.ipynb", OPEN.format(name="double"), 'stage.write("d.json", {"d": "<script>"})')
    html = stage._repr_html_()
    assert "<b>stale</b>: double.ipynb, code cell 4: stage.write(&#34;d.json&#34;" in html and "<script>" not in html
    notebook(home / "nbs/double.ipynb", parameters="overrides = []")
    html = stage._repr_html_()
    assert "<b>unknown</b>" in html and "the parameters of double.ipynb" in html
