"""What changes a stage's key, what does not, and how the plan says it."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from toys import Toy, code, here, prose, write_notebook

from notebento.core.errors import UserError
from notebento.pipeline.plan import RunOptions, open_run, plan

ALPHA = "def alpha():\n    return 1"
BETA = 'from toyland.alpha import alpha\n\n\ndef beta():\n    "Twice."\n    return 2 * alpha()'
GAMMA = "class Model:\n    size = 1"
MODULES = {"alpha": ALPHA, "beta": BETA, "gamma": GAMMA}

STAGES = {
    "direct": ({"outputs": ["direct.json"]}, "def f():\n    import toyland.alpha as a\n    return a"),
    "through": ({"outputs": ["through.json"]}, "def f():\n    from toyland.beta import beta\n    return beta"),
    "target": ({"outputs": ["target.json"], "groups": ["model"]}, "size = stage.config.model.get('size')"),
    "tuned": ({"outputs": ["tuned.json"], "groups": ["tune"]}, "trials = stage.config.tune.trials"),
    "reads": ({"outputs": ["reads.json"], "files": ["table.csv"]}, "rows = 1"),
    "last": ({"inputs": ["reads.json"], "outputs": ["last.json"]}, "stage.read('reads.json')"),
}
OVERRIDES = ["model=toy"]


@pytest.fixture
def toy(tmp_path: Path) -> Iterator[Toy]:
    """Stages that import in different ways; all of them ran."""
    made = Toy(tmp_path)
    (made.home / "conf/model/toy.yaml").write_text("_target_: toyland.gamma.Model\nsize: 1\n")
    (made.home / "table.csv").write_text("a\n1\n")
    (made.home / "requirements.lock").write_text("polars==2.1.0\nrich==14.0\n")
    (made.home / "src/toyland").mkdir(parents=True)
    (made.home / "settings.ini").write_text("[DEFAULT]\nlib_path = src/toyland\nnbs_path = nbs\n")
    for name, source in MODULES.items():
        module(made, name, source)
    made.stages(**{n: (d, f'{source}\nstage.write("{n}.json", 1)') for n, (d, source) in STAGES.items()})
    with here(made):
        made.drive(*OVERRIDES)
        made.ran()
        yield made


def module(toy: Toy, name: str, source: str, text: str = "", check: str = "1 + 1", export: bool = True) -> None:
    """A notebook that exports `source`, and the module that nbdev would write."""
    cells = [code(f"#| default_exp {name}"), prose(text or "# Words"), code(f"#| export\n{source}"), code(check)]
    write_notebook(toy.home / f"nbs/00_{name}.ipynb", *cells)
    if export:
        relative = source.replace("from toyland.", "from .")
        (toy.home / f"src/toyland/{name}.py").write_text(f"# %% auto #0\n__all__ = ['{name}']\n\n# %% 1\n{relative}\n")


def changed(toy: Toy, *overrides: str) -> dict[str, list[str]]:
    """The stages that the plan would not take from the cache, and why."""
    run = open_run([*OVERRIDES, *overrides], planning=True)
    return {s.stage: s.why for s in plan(run) if s.does != "cached"}


def edit(toy: Toy, notebook: str, **changes: Any) -> None:
    """Change the last cell of a stage's notebook, or the notebook."""
    path = toy.home / f"nbs/{notebook}.ipynb"
    book = json.loads(path.read_text())
    book["cells"][-1] |= changes
    path.write_text(json.dumps(book))


def last_cell(toy: Toy, name: str) -> str:
    return json.loads((toy.home / f"nbs/{name}.ipynb").read_text())["cells"][-1]["source"]


def test_what_is_no_code_changes_no_key(toy: Toy) -> None:
    source = last_cell(toy, "tuned")
    for changes in (
        {"source": f'"""A docstring."""\n{source}'},
        {"source": f"# a remark\n\n{source}   # another\n"},
        {"source": source.replace("= ", "=  (").replace("trials\n", "trials\n)\n")},
        {"source": source.splitlines(keepends=True)},
        {"outputs": [{"output_type": "stream", "name": "stdout", "text": "hello"}], "execution_count": 7},
        {"metadata": {"tags": ["hide"], "collapsed": True}},
        {"id": "another"},
    ):
        edit(toy, "tuned", **changes)
        assert changed(toy) == {}
    path = toy.home / "nbs/tuned.ipynb"
    book = json.loads(path.read_text())
    book["cells"] = [
        prose("More words."),
        code(""),
        *book["cells"],
        code("# to do"),
        {**prose("x"), "cell_type": "raw"},
    ]
    book["metadata"] |= {"language_info": {"version": "3.13"}, "widgets": {}}
    path.write_text(json.dumps(book, indent=4))
    assert changed(toy) == {}
    module(toy, "alpha", f"# a remark\n{ALPHA}  # another", text="# Other words", check="1 + 2", export=False)
    module(toy, "beta", BETA.replace("Twice.", "Two times."), export=False)
    assert changed(toy) == {}


def test_an_exported_line_changes_the_stages_that_import_it(toy: Toy) -> None:
    why = "toyland/alpha.py: def alpha():"
    module(toy, "alpha", ALPHA.replace("1", "2"))
    assert changed(toy) == {"direct": [why], "through": [why]}
    module(toy, "alpha", ALPHA)
    assert changed(toy) == {}
    module(toy, "beta", BETA.replace("2 *", "3 *"))
    assert list(changed(toy)) == ["through"]
    module(toy, "beta", BETA)
    module(toy, "gamma", GAMMA.replace("1", "2"))  # only the configuration names it
    assert list(changed(toy)) == ["target"]


def test_an_import_beside_a_magic_counts(toy: Toy) -> None:
    edit(toy, "tuned", source="%matplotlib inline\nimport toyland.gamma")
    assert "it imports toyland/gamma.py now" in changed(toy)["tuned"]


def test_a_notebook_that_differs_from_its_module_is_refused(toy: Toy) -> None:
    module(toy, "alpha", ALPHA.replace("1", "2"), export=False)
    with pytest.raises(UserError, match="00_alpha.ipynb changed since the package was exported\n.*nbdev_export"):
        open_run(OVERRIDES, RunOptions(export=False))


def test_a_plan_counts_what_would_be_exported_and_writes_nothing(toy: Toy) -> None:
    before = {path: path.stat().st_mtime_ns for path in toy.home.parent.rglob("*")}
    assert changed(toy) == {}
    module(toy, "alpha", ALPHA.replace("1", "2"), export=False)
    before |= {toy.home / "nbs/00_alpha.ipynb": (toy.home / "nbs/00_alpha.ipynb").stat().st_mtime_ns}
    assert list(changed(toy)) == ["direct", "through"]
    assert {path: path.stat().st_mtime_ns for path in toy.home.parent.rglob("*")} == before


def test_only_declared_groups_matter(toy: Toy) -> None:
    assert changed(toy, "trainer.epochs=99", "evaluate.bootstrap=7", "project.name=other") == {
        name: ["it never ran for other"] for name in ("direct", "through", "reads", "last")
    }
    assert changed(toy, "tune.trials=3") == {"tuned": [f"tune.trials is 3, was {open_run([]).config.tune.trials}"]}
    assert changed(toy, "model.size=2") == {"target": ["model.size is 2, was 1"]}
    assert list(changed(toy, "seed=1")) == list(open_run(OVERRIDES).plan)


def test_the_plan_names_the_cell_the_file_the_package_and_the_input(toy: Toy) -> None:
    edit(toy, "tuned", source=last_cell(toy, "tuned").replace("trials =", "# how many\ntries ="))
    assert changed(toy) == {"tuned": ["tuned.ipynb, code cell 5: tries = stage.config.tune.trials"]}
    (toy.home / "table.csv").write_text("a\n2\n")
    found = changed(toy)
    assert found["reads"] == ["table.csv changed"]
    assert found["last"] == ["runs if the result of reads changes"]
    toy.drive(*OVERRIDES)
    assert toy.ran() == ["reads", "tuned"]  # what it made came out the same
    (toy.home / "table.csv").write_text("a\n3\n")
    edit(toy, "reads", source='stage.write("reads.json", 2)')
    toy.drive(*OVERRIDES)
    assert toy.ran() == ["last", "reads"]
    assert toy.last().stages["last"].why == ["the input reads.json changed"]
    assert toy.last().stages["reads"].why == [
        "table.csv changed",
        'reads.ipynb, code cell 5: stage.write("reads.json", 2)',
    ]
    (toy.home / "requirements.lock").write_text("polars==2.2.0\nrich==14.0\n")
    assert changed(toy)["tuned"] == ["the package polars is 2.2.0, was 2.1.0"]
    assert changed(toy, "threads=2")["tuned"][0] == "threads is 2, was 1"


def test_a_file_in_another_folder_of_a_pattern_is_another_file(toy: Toy) -> None:
    """A table in folders such as year=2013 means something else when a folder has another name."""
    (toy.home / "rows/year=2013").mkdir(parents=True)
    (toy.home / "rows/year=2013/part.csv").write_text("a\n1\n")
    stages = {"reads": ({"outputs": ["reads.json"], "files": ["rows/*/part.csv"]}, 'stage.write("reads.json", 1)')}
    toy.stages(**stages)
    toy.drive(*OVERRIDES)
    assert changed(toy) == {}
    (toy.home / "rows/year=2013").rename(toy.home / "rows/year=2014")
    assert changed(toy) == {"reads": ["rows/*/part.csv changed"]}
