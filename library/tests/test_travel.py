"""What runs is what was keyed: configuration, notebooks, modules and files that are edited while a run goes on."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from toys import Toy, code, here

from notebento.core.artifacts import Manifest, StageRecord, load
from notebento.core.compose import compose
from notebento.core.config import Config
from notebento.core.stage import Stage
from notebento.pipeline import plan as plan_module
from notebento.pipeline.plan import RunOptions, open_run, plan

pytestmark = pytest.mark.process

MODEL = "_target_: notebento.models.lightgbm.LightGBM\nlearning_rate: 0.1\n"
STAGES = {
    "first": ({"outputs": ["first.json"]}, 'stage.write("first.json", 1)'),
    "train": (
        {"groups": ["model"], "inputs": ["first.json"], "outputs": ["rate.json"], "files": ["table.csv"]},
        'stage.write("rate.json", [stage.config.model["learning_rate"], Path("../table.csv").resolve().name])',
    ),
    "last": ({"inputs": ["rate.json"], "outputs": ["last.json"]}, 'stage.write("last.json", stage.read("rate.json"))'),
}


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    """Three stages in a row; the second reads a setting, a module and a file."""
    made = Toy(tmp_path).stages(**STAGES)
    (made.home / "conf/model/toy.yaml").write_text(MODEL)
    (made.home / "table.csv").write_text("a\n1\n")
    (made.home / "nbs/rule_of_travel.py").write_text("LATE = 15\n")
    made.notebook(
        "train", STAGES["train"][1], head=[code("def late():\n    import rule_of_travel\n    return rule_of_travel")]
    )
    with here(made):
        yield made


class When:
    """Acts when `stage` reaches `status`."""

    def __init__(self, stage: str, status: str, act: Callable[[], object]) -> None:
        self.stage, self.status, self.act = stage, status, act

    def changed(self, stage: str, record: StageRecord) -> None:
        if (stage, record.status) == (self.stage, self.status):
            self.act()

    def said(self, stage: str, line: str) -> None:
        pass


def run(toy: Toy, watcher: When | None = None) -> Manifest:
    return Manifest.read(toy.drive("model=toy", watcher=watcher))


def edit_setting(toy: Toy, rate: float) -> None:
    (toy.home / "conf/model/toy.yaml").write_text(MODEL.replace("0.1", str(rate)))


def test_a_setting_that_is_edited_during_a_run_belongs_to_the_next_one(toy: Toy) -> None:
    disturbed = run(toy, When("first", "done", lambda: edit_setting(toy, 0.5)))
    assert load(toy.runs / disturbed.run_id / "artifacts/rate.json")[0] == 0.1
    assert not any(record.changed for record in disturbed.stages.values())
    again = run(toy)
    assert load(toy.runs / again.run_id / "artifacts/rate.json")[0] == 0.5
    assert [name for name, record in again.stages.items() if not record.cached] == ["train", "last"]
    edit_setting(toy, 0.1)
    restored = run(toy)
    assert load(toy.runs / restored.run_id / "artifacts/rate.json")[0] == 0.1
    assert all(record.cached for record in restored.stages.values())


def test_a_setting_that_is_edited_while_it_is_composed_is_not_remembered(
    toy: Toy, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The digest of conf/ must not stand for what was composed from other files, even when they are put back."""

    def disturbed(overrides: list[str]) -> Config:
        edit_setting(toy, 0.5)
        composed = compose(overrides)
        edit_setting(toy, 0.1)
        return composed

    with monkeypatch.context() as patch:
        patch.setattr(plan_module, "compose", disturbed)
        first = run(toy)
    assert load(toy.runs / first.run_id / "artifacts/rate.json")[0] == 0.5 and first.conf == ""
    again = run(toy)
    assert load(toy.runs / again.run_id / "artifacts/rate.json")[0] == 0.1 and again.conf


def test_a_configuration_behind_a_link_counts(toy: Toy, tmp_path: Path) -> None:
    (toy.home / "conf/model").rename(tmp_path / "elsewhere")
    (toy.home / "conf/model").symlink_to(tmp_path / "elsewhere")
    run(toy)
    edit_setting(toy, 0.5)
    assert load(toy.runs / run(toy).run_id / "artifacts/rate.json")[0] == 0.5


def test_a_stage_in_a_run_reads_the_manifest_and_not_the_overrides(toy: Toy) -> None:
    folder = toy.runs / run(toy).run_id
    edit_setting(toy, 0.5)
    assert Stage.open("train", ["model=no_such_model"], str(folder)).config.model["learning_rate"] == 0.1


@pytest.mark.parametrize("restore", [False, True])
@pytest.mark.parametrize(
    ("file", "content", "reason"),
    [
        ("nbs/rule_of_travel.py", "LATE = 20\n", "rule_of_travel.py: LATE = 20"),
        ("table.csv", "a\n2\n", "table.csv changed"),
    ],
)
def test_what_is_written_while_a_stage_runs_is_not_cached(
    toy: Toy, file: str, content: str, reason: str, restore: bool
) -> None:
    before = (toy.home / file).read_text()

    def disturb() -> None:
        (toy.home / file).write_text(content)
        if restore:
            (toy.home / file).write_text(before)

    disturbed = run(toy, When("train", "running", disturb))
    assert disturbed.status == "done"
    assert disturbed.stages["train"].changed == ([f"{file} was written"] if restore else [reason])
    assert {n: r.changed for n, r in disturbed.stages.items() if n != "train"} == {"first": [], "last": []}
    toy.ran()
    run(toy)
    assert toy.ran() == ["train"]  # it came out the same, so the last one need not run
    assert run(toy).stages["train"].cached


def test_a_notebook_that_was_executed_in_another_state_than_keyed_is_not_cached(toy: Toy) -> None:
    def disturb() -> None:
        path = toy.home / "nbs/train.ipynb"
        book = json.loads(path.read_text())
        book["cells"][-1]["source"] = 'stage.write("rate.json", "another")'
        path.write_text(json.dumps(book))

    disturbed = run(toy, When("first", "running", disturb))  # after the keys' code was read, before it runs
    assert disturbed.stages["train"].changed == ['train.ipynb, code cell 6: stage.write("rate.json", "another")']
    assert load(toy.runs / disturbed.run_id / "artifacts/last.json") == "another"
    report = (toy.runs / disturbed.run_id / "report.html").read_text()
    assert "changed while it ran" in report
    steps = plan(open_run(["model=toy"], planning=True))
    assert [step.does for step in steps] == ["cached", "run", "wait"]


def test_an_edit_of_prose_or_of_a_saved_notebook_during_a_run_changes_nothing(toy: Toy) -> None:
    def disturb() -> None:
        path = toy.home / "nbs/train.ipynb"
        book = json.loads(path.read_text())
        saved = path.with_suffix(".saved")  # the engine may read it at this moment
        saved.write_text(json.dumps(book, indent=2))  # as JupyterLab saves
        saved.replace(path)

    assert run(toy, When("train", "running", disturb)).stages["train"].changed == []
    assert run(toy).stages["train"].cached


def test_a_plan_does_not_take_the_first_champion_for_news(toy: Toy) -> None:
    """The model of the newest run became champion; until it is known that another comes out, it is the same model."""
    stages = {
        "train": (
            {"groups": ["model"], "outputs": ["model"]},
            'with stage.folder("model") as f:\n    (f / "m").write_text("1")',
        ),
        "judge": (
            {"inputs": ["model"], "optional": ["champion"], "outputs": ["gate.json"]},
            'stage.write("gate.json", sorted(stage.inputs))',
        ),
    }
    toy.stages(**stages)
    folder = toy.drive("model=toy")
    edit_setting(toy, 0.5)
    champion = folder / "artifacts" / "model"
    steps = plan(open_run(["model=toy"], RunOptions(champion=champion), planning=True))
    assert [(step.stage, step.does) for step in steps] == [("train", "run"), ("judge", "wait")]
