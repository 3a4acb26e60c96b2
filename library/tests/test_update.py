"""`notebento update`: what is yours stays, what is new arrives, and nothing is lost in between."""

import functools
import http.server
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import sysconfig
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import polars as pl
import pytest
from typer.testing import CliRunner

import notebento
from notebento.cli import main
from notebento.cli.agreement import agree
from notebento.cli.check import SETTLED, checks_of, is_settled
from notebento.core.compose import compose
from notebento.pipeline.project import attempt, home
from notebento.pipeline.repository import uncommitted
from notebento.pipeline.template import pack, pack_history, render, templates, unpack, unpack_history
from notebento.pipeline.transaction import Transaction, begin, complete, take_back, unfinished
from notebento.pipeline.update import Update, plan_update, transaction_of
from notebento.pipeline.wheel import record, wheel

OURS = notebento.__version__
NEXT = "9.0.0"
Files = dict[str, bytes]


class Answer(NamedTuple):
    """What a command said."""

    status: int
    printed: str


ANSWERS = {"name": "churn", "description": "Who leaves?", "target": "left"}


class Project:
    """A project that some version of the template made, and the command in it."""

    def __init__(self, root: Path, version: str, name: str = "churn") -> None:
        self.root, self.name = root, name
        for path, content in render(templates()[version], ANSWERS | {"name": name}, f"v{version}").items():
            self.write(path, content)
        self.write(f"wheels/notebento-{version}-py3-none-any.whl", b"a wheel")
        self.write(f"conf/data/{name}.yaml", b"source:\n  path: data/rows.csv  # mine\ntarget: left\n")
        self.git("init", "--quiet", "--initial-branch=main")
        self.commit()

    def write(self, path: str, content: bytes | str) -> None:
        """Write a file, with its folders."""
        place = self.root / path
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_bytes(content.encode() if isinstance(content, str) else content)

    def read(self, path: str) -> str:
        """The text of a file."""
        return (self.root / path).read_text(encoding="utf-8")

    def edit(self, path: str, old: str, new: str) -> None:
        """Replace a text that has to be there."""
        assert old in self.read(path), f"{path} has no {old!r}"
        self.write(path, self.read(path).replace(old, new))

    def cells(self, path: str) -> list[dict]:
        """The cells of a notebook."""
        return list(json.loads(self.read(path))["cells"])

    def add_cell(self, path: str, source: str, at: int) -> None:
        """Insert a code cell."""
        notebook = json.loads(self.read(path))
        cell = {"cell_type": "code", "id": f"mine{at:04}", "metadata": {}, "source": source.splitlines(keepends=True)}
        notebook["cells"].insert(at, cell | {"execution_count": None, "outputs": []})
        self.write(path, json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + "\n")

    def git(self, *arguments: str) -> str:
        """What git says."""
        return subprocess.run(
            ["git", *arguments], cwd=self.root, check=True, capture_output=True, encoding="utf-8"
        ).stdout

    def commit(self) -> None:
        """Commit everything."""
        self.git("add", "--all")
        self.git("commit", "--quiet", "--message=mine")

    def files(self) -> Files:
        """Every file but git's own."""
        places = [p for p in self.root.rglob("*") if p.is_file() and ".git" not in p.relative_to(self.root).parts]
        return {p.relative_to(self.root).as_posix(): p.read_bytes() for p in places}

    def __call__(self, *options: str) -> Answer:
        """`notebento update …` in this process."""
        with home(self.root):
            result = CliRunner().invoke(main.app, ["update", *options])
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return Answer(result.exit_code, " ".join(result.output.split()))

    def process(self, *options: str, fault: str = "") -> Answer:
        """`notebento update …` in a process of its own, after the statements `fault`."""
        code = f"import sys; sys.argv[0] = 'notebento'\n{fault}\nfrom notebento.cli.main import main; main()"
        own = {k: v for k, v in os.environ.items() if not k.startswith("NOTEBENTO_")}
        done = subprocess.run(
            [sys.executable, "-c", code, "update", *options],
            cwd=self.root,
            env=own,
            capture_output=True,
            encoding="utf-8",
            timeout=120,
        )
        assert "Traceback" not in done.stderr, done.stderr
        return Answer(done.returncode, " ".join((done.stdout + done.stderr).split()))

    def planned(self, change: Callable[[Files], object], version: str = OURS) -> Update:
        """The update to a template that `change` makes of that of `version`."""
        newer = dict(templates()[version])
        change(newer)
        name = f"notebento-{NEXT}-py3-none-any.whl"
        return plan_update(self.root, NEXT, (name, b"another"), templates() | {NEXT: newer})

    def updated(self, change: Callable[[Files], object]) -> Update:
        """`planned`, and done."""
        plan = self.planned(change)
        begin(self.root / ".git/update", self.root, plan.changes, transaction_of(plan, self.root))
        complete(self.root / ".git/update", self.root)
        return plan


@pytest.fixture(autouse=True)
def somebody(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.setenv(f"GIT_{name}_NAME", "somebody")
        monkeypatch.setenv(f"GIT_{name}_EMAIL", "somebody@example.com")
    monkeypatch.delenv("NOTEBENTO_HOME", raising=False)


@pytest.fixture
def old(tmp_path: Path) -> Project:
    """Made by the first release that had templates."""
    return Project(tmp_path / "für mich" / "churn", "0.3.0")


@pytest.fixture
def project(tmp_path: Path) -> Project:
    """Made by the library under test."""
    return Project(tmp_path / "für mich" / "churn", OURS)


OF_030 = """
source:
  _target_: "churn.data.Source"
  name: churn
  path: "data/customers.csv"
  distinct: false
  key: ${data.key}
table: churn
formats: {}
key: [id]
time: null
group: []
target: left
task: binary
exclude: []
known_after: []
validation_share: 0.15
test_share: 0.15
slices: [plan]
max_rejected: 0.01
files: ["${data.source.path}"]
contract:
  churn:
    columns:
      id: {type: integer}
      plan: {type: string}
      age: {type: integer}
      left: {type: string}
"""  # as `notebento new` of 0.3.0 wrote conf/data/, without its comments
MIGRATION = '''

@migration("9.0.0")
def _path(files: Files) -> Files:
    """data.source.path is called data.source.file"""
    for path in [path for path in files if path.startswith("conf/data/")]:
        files[path] = rename_key(files[path].decode(), "source.path", "file").encode()
    return files
'''


def news(files: Files) -> None:
    """What the template of the next version has."""
    files["conf/trainer/slow.yaml"] = b"epochs: 900\n"
    files["README.md.jinja"] += b"\nA line of the next version.\n"
    files["pyproject.toml.jinja"] = re.sub(rb"notebento==[\d.]+", b"notebento==9.0.0", files["pyproject.toml.jinja"])
    path = "nbs/02_features.ipynb.jinja"
    notebook = json.loads(files[path])
    source = "#| export\ndef of_the_next_version() -> int:\n    return 9"
    cell = {"cell_type": "code", "execution_count": None, "id": "beef0001", "metadata": {}, "outputs": []}
    notebook["cells"].append(cell | {"source": source.splitlines(keepends=True)})
    files[path] = (json.dumps(notebook, sort_keys=True, indent=1, ensure_ascii=False) + "\n").encode()
    del files["conf/store/redis.yaml"]


@pytest.fixture(scope="module")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the wheels of this version and the next, which has another template and a migration."""
    folder = tmp_path_factory.mktemp("wheels")
    name, content = wheel()
    (folder / name).write_bytes(content)
    files, old, info = unpack(content), f"notebento-{OURS}.dist-info", f"notebento-{NEXT}.dist-info"
    known = unpack_history(files["notebento/templates.zip"])
    newest = dict(known[OURS])
    news(newest)
    files["notebento/templates.zip"] = pack_history(known | {NEXT: newest})
    files["notebento/__init__.py"] = files["notebento/__init__.py"].replace(OURS.encode(), NEXT.encode())
    files["notebento/pipeline/migrations.py"] += MIGRATION.encode()
    files = {path.replace(old, info): text for path, text in files.items() if path != f"{old}/RECORD"}
    files[f"{info}/METADATA"] = files[f"{info}/METADATA"].replace(f"Version: {OURS}".encode(), b"Version: 9.0.0", 1)
    (folder / f"notebento-{NEXT}-py3-none-any.whl").write_bytes(pack(files | {f"{info}/RECORD": record(files, info)}))
    return folder


# --- what arrives, what stays


def test_an_untouched_project_of_the_first_release_becomes_what_this_version_makes(old: Project) -> None:
    answer = old("--no-install")
    assert answer.status == 0 and f"notebento 0.3.0 → {OURS}" in answer.printed, answer.printed
    assert "next: python3 scripts/test.py, which installs the new version first" in answer.printed
    files, right = old.files(), render(templates()[OURS], ANSWERS)
    assert files.items() >= right.items()
    assert files.keys() - right == {f"wheels/{wheel()[0]}", "conf/data/churn.yaml"}
    assert files[f"wheels/{wheel()[0]}"] == wheel()[1]
    with home(old.root):
        assert compose().update.source is None
    old.commit()
    assert old().printed == f"notebento {OURS} is up to date: newest in the library that runs is {OURS}"


def test_what_new_of_the_first_release_wrote_beside_the_template_works_after_an_update(old: Project) -> None:
    rows = [f"{i},{('free', 'pro')[i % 2]},{20 + i * 7 % 50},{('yes', 'no')[i // 3 % 2]}\n" for i in range(90)]
    old.write("data/customers.csv", "id,plan,age,left\n" + "".join(rows))
    pl.read_csv(old.root / "data/customers.csv").write_parquet(old.root / "sample.parquet")
    old.write("tests/data/sample.parquet", (old.root / "sample.parquet").read_bytes())
    old.write("conf/data/churn.yaml", OF_030)
    old.commit()
    assert old("--no-install").status == 0
    attempt(old.root, "churn")
    attempt(old.root, "churn", "experiment=lab")


@pytest.mark.process
def test_a_user_edits_commits_and_updates_twice(old: Project, shelf: Path) -> None:
    """From the first release to this version, by this library; then to the next, by that one."""
    edits: list[Callable[[], None]] = [
        lambda: old.edit("README.md", "# churn\n", "# Who leaves us\n"),
        lambda: old.edit("conf/config.yaml", "seed: 1 ", "seed: 7 "),
        lambda: old.edit("pyproject.toml", '"notebento==0.3.0"]', '"notebento==0.3.0", "requests"]'),
        lambda: old.add_cell("nbs/02_features.ipynb", "#| export\ndef mine() -> str:\n    return 'mine'", 4),
        lambda: old.write("nbs/10_mine.ipynb", old.read("nbs/index.ipynb")),
        lambda: (old.root / "conf/trainer/gpu.yaml").unlink(),
        lambda: old.write("requirements.lock", old.read("requirements.lock") + "zope==1.0\n"),
    ]
    for edit in edits:
        edit()
    assert agree(old.root, write=True)
    old.commit()
    assert old("--no-install").status == 0
    old.commit()
    answer = old.process(f"--source={shelf}")
    assert answer.status == 0 and "note: data.source.path is called data.source.file" in answer.printed, answer.printed
    assert "file: data/rows.csv  # mine" in old.read("conf/data/churn.yaml"), "the next version's own migration"
    assert old.read("README.md").startswith("# Who leaves us\n") and "A line of the next" in old.read("README.md")
    assert "seed: 7 " in old.read("conf/config.yaml") and '"notebento==9.0.0", "requests"]' in old.read(
        "pyproject.toml"
    )
    assert old.read("requirements.lock").endswith("zope==1.0\n") and "_commit: v9.0.0" in old.read(
        ".copier-answers.yml"
    )
    module = old.read("src/churn/features.py")
    assert "def mine() -> str:" in module and "def of_the_next_version() -> int:" in module
    assert "'mine', " in module and agree(old.root)
    assert (old.root / "nbs/10_mine.ipynb").is_file() and (old.root / "conf/trainer/slow.yaml").is_file()
    gone = ["conf/trainer/gpu.yaml", "conf/store/redis.yaml"]
    assert [path for path in gone if (old.root / path).exists()] == []
    assert [p.name for p in (old.root / "wheels").iterdir()] == [f"notebento-{NEXT}-py3-none-any.whl"]
    assert not (old.root / ".git/notebento/churn").exists() and is_settled(old.root)


def test_what_both_changed_is_a_conflict_that_check_finds(project: Project, capsys: pytest.CaptureFixture) -> None:
    """In a text, in a cell, in bytes that are no text, and in a file that both brought along."""

    def theirs(files: Files) -> None:
        files["conf/tune/default.yaml"] = re.sub(rb"(?m)^trials: .*$", b"trials: 90", files["conf/tune/default.yaml"])
        path = "nbs/03_model.ipynb"
        files[path] = files[path].replace(b"#| default_exp model", b"#| default_exp their_model")
        files["logo.png"], files["conf/mine.yaml"] = b"\0theirs", b"a: theirs\n"

    project.write(
        "conf/tune/default.yaml", re.sub("(?m)^trials: .*$", "trials: 80", project.read("conf/tune/default.yaml"))
    )
    project.edit("nbs/03_model.ipynb", "#| default_exp model", "#| default_exp my_model")
    project.write("logo.png", b"\0mine")
    project.write("conf/mine.yaml", "a: mine\n")
    project.commit()
    plan = project.updated(theirs)
    assert [c.path for c in plan.conflicts] == [
        "conf/mine.yaml",
        "conf/tune/default.yaml",
        "logo.png",
        "nbs/03_model.ipynb",
    ]
    text = project.read("conf/tune/default.yaml")
    assert re.search(
        r"<{7} yours\ntrials: 80\n\|{7} notebento .*\n(.*\n)={7}\ntrials: 90\n>{7} notebento 9.0.0", text
    ), text
    cells = [(c["cell_type"], "".join(c["source"])) for c in project.cells("nbs/03_model.ipynb")]
    at = cells.index(("code", "#| default_exp my_model"))
    assert cells[at + 1][0] == "raw" and "their_model" in cells[at + 1][1]
    assert project.files()["logo.png"] == b"\0mine" and project.files()["logo.png.update-conflict"] == b"\0theirs"
    capsys.readouterr()
    assert [check.name for check in checks_of(project.root)] == [SETTLED], "the others would only fail of it, too"
    assert not is_settled(project.root)
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == [
        "logo.png.update-conflict",
        "conf/mine.yaml",
        "conf/tune/default.yaml",
        "nbs/03_model.ipynb",
        "the other checks run when these are settled",
    ]
    project.git("checkout", "--", ".")
    project.git("clean", "--quiet", "--force")
    assert is_settled(project.root)


def test_a_project_of_another_name_in_another_folder_is_updated(tmp_path: Path) -> None:
    """Renamed when it was made, then moved, then its package by hand."""
    made = Project(tmp_path / "first", "0.3.0", name="kunden")
    made.root = made.root.rename(tmp_path / "second")
    made.edit(".copier-answers.yml", "name: kunden", "name: customers")
    (made.root / "src/kunden").rename(made.root / "src/customers")
    for path, content in made.files().items():
        if b"kunden" in content:
            made.write(path, content.replace(b"kunden", b"customers"))
    made.commit()
    answer = made("--no-install")
    assert answer.status == 0 and not (made.root / "src/kunden").exists(), answer.printed
    assert (
        made.files().items()
        >= render(templates()[OURS], {"name": "customers", "description": "Who leaves?", "target": "left"}).items()
    )


def test_a_link_and_a_folder_in_the_way_stay(project: Project) -> None:
    (project.root / "README.md").rename(project.root / "mine.md")
    (project.root / "README.md").symlink_to("mine.md")
    project.write("conf/trainer/slow.yaml/mine.txt", "a folder")
    project.commit()
    plan = project.updated(news)
    assert {c.path for c in plan.conflicts} == {"README.md", "conf/trainer/slow.yaml"}
    assert (project.root / "README.md").is_symlink() and "next version" not in project.read("mine.md")
    assert "next version" in project.read("README.md.update-conflict")
    assert project.read("conf/trainer/slow.yaml.update-conflict") == "epochs: 900\n"


def test_a_removed_file_that_you_changed_is_kept_and_a_notebook_that_is_none_is_not_touched(project: Project) -> None:
    project.write("conf/store/redis.yaml", "mine: 1\n")
    project.write("nbs/02_features.ipynb", "{broken")
    project.commit()
    plan = project.updated(news)
    assert any("conf/store/redis.yaml: the template has it no more" in note for note in plan.notes)
    assert project.read("conf/store/redis.yaml") == "mine: 1\n" and project.read("nbs/02_features.ipynb") == "{broken"
    assert "of_the_next_version" in project.read("nbs/02_features.ipynb.update-conflict")


def test_without_nbdev_a_merged_notebook_is_named_whose_module_is_behind(
    project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.add_cell("nbs/02_features.ipynb", "#| export\ndef mine() -> int:\n    return 1", 4)
    project.commit()
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setenv("PATH", str(Path(str(shutil.which("git"))).parent))
    plan = project.planned(news)
    assert any("src/churn/features.py: not exported (nbdev is not installed)" in note for note in plan.notes)
    assert "src/churn/features.py" not in plan.changes


def test_outputs_on_disk_stay_that_git_does_not_see(project: Project) -> None:
    """As run.py sets it up: the filter takes them out of what is committed."""
    script = "import clean_notebook; clean_notebook.install('.')"
    paths = os.environ | {"PYTHONPATH": str(project.root / "scripts")}
    subprocess.run([sys.executable, "-c", script], env=paths, cwd=project.root, check=True)
    notebook = json.loads(project.read("nbs/02_features.ipynb"))
    shown = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    shown["outputs"], shown["execution_count"] = [{"name": "stdout", "output_type": "stream", "text": ["42"]}], 3
    project.write("nbs/02_features.ipynb", json.dumps(notebook, indent=1, ensure_ascii=False))
    assert uncommitted(project.root) == []
    assert project.updated(news).conflicts == []
    merged = project.cells("nbs/02_features.ipynb")
    assert next(cell for cell in merged if cell["cell_type"] == "code")["outputs"] == shown["outputs"]
    assert "of_the_next_version" in "".join(merged[-1]["source"])


# --- refused


def test_a_tree_that_is_not_committed_is_refused(old: Project) -> None:
    old.edit("README.md", "# churn", "# mine")
    old.write("notes/für mich.txt", "not yet added")
    before = old.files()
    answer = old()
    assert answer.status == 2 and "not committed: README.md, notes/für mich.txt" in answer.printed, answer.printed
    assert "git add --all && git commit" in answer.printed and old.files() == before


def test_a_folder_that_new_did_not_make_is_refused(old: Project) -> None:
    (old.root / ".copier-answers.yml").unlink()
    answer = old()
    assert answer.status == 2 and "was not made by notebento new" in answer.printed
    old.write(".copier-answers.yml", "_commit: main\n")
    assert "does not say which version made the project" in old().printed
    old.write(".copier-answers.yml", "_commit: v0.1.0\nname: churn\n")
    old.commit()
    assert "made by notebento 0.1.0, whose template notebento" in old("--no-install").printed or old().status == 0


def test_without_a_repository_or_git_it_is_refused(old: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    (old.root / ".git").rename(old.root / "no.git")
    answer = old()
    assert answer.status == 2 and "git does not know" in answer.printed and "git init" in answer.printed
    monkeypatch.setenv("PATH", "/nowhere")
    answer = old()
    assert answer.status == 2 and "git is not installed" in answer.printed


def test_an_older_or_unknown_version_is_refused(project: Project, shelf: Path) -> None:
    assert re.search(rf"0.3.0 is older than the project's {OURS}", project("--to=0.3.0").printed)
    answer = project("--to=8.0", f"--source={shelf}")
    assert answer.status == 2 and f"has no notebento 8.0: it has {OURS}, {NEXT}" in answer.printed, answer.printed
    assert "'newest' is not a version" in project("--to=newest").printed
    assert project(f"--to={OURS}", f"--source={shelf}").status == 0


# --- interrupted


class KilledError(BaseException):
    """As if the power had failed."""


def test_killed_at_any_step_the_files_are_old_or_new_or_can_be_made_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "fsync", lambda file: None)  # a thousand of them take seconds
    old = {"a/b/only.txt": b"1", "conf.yaml": b"1", "gone.txt": b"1"}
    new = {"conf.yaml": b"2", "für mich/new.txt": b"2"}
    changes = {path: new.get(path) for path in old.keys() | new}

    seen = set()

    def content(root: Path) -> Files:
        places = [p for p in root.rglob("*") if p.is_file() and "state" not in str(p.relative_to(root))]
        return {p.relative_to(root).as_posix(): p.read_bytes() for p in places if not p.name.endswith(".part")}

    for step in range(100):
        for end, wanted in ((complete, new), (take_back, old)):
            root = tmp_path / f"{step}-{end.__name__}"
            for path, text in old.items():
                (root / path).parent.mkdir(parents=True, exist_ok=True)
                (root / path).write_bytes(text)
            cut_off = killed(step, lambda r=root: written(r, changes))
            seen.add("unfinished" if unfinished(root / "state") else "old" if content(root) == old else "new")
            if unfinished(root / "state"):
                killed(2, lambda e=end, r=root: e(r / "state", r))  # cut off once more
            if unfinished(root / "state"):
                end(root / "state", root)
                assert content(root) == wanted and not [*root.rglob(".*.part")]
            assert content(root) in (old, new)
        if not cut_off:
            break
    assert content(root) == new and seen == {"old", "unfinished", "new"} and step > 20


def written(root: Path, changes: dict[str, bytes | None]) -> None:
    begin(root / "state", root, changes, Transaction("it", ()))
    complete(root / "state", root)


def killed(step: int, work: Callable[[], object]) -> bool:
    """Whether `work` was ended by its file operation number `step`, before that took place."""
    count: list[int] = []
    names = ("rename", "replace", "unlink", "rmdir", "mkdir", "open")
    with pytest.MonkeyPatch.context() as patch:
        for name in names:
            patch.setattr(Path, name, counted(getattr(Path, name), step, count))
        try:
            work()
        except KilledError:
            return True
    return False


def counted(real: Callable, step: int, count: list[int]) -> Callable:
    """The operation `real`, of which all together may happen `step` times."""

    def operation(path: Path, *arguments: object, **options: object) -> object:
        count.append(1)
        if len(count) > step:
            raise KilledError
        return real(path, *arguments, **options)

    return operation


AT_THIRD_FILE = """
import os, pathlib
replace, count = pathlib.Path.replace, []
def third(self, to):
    count.append(self)
    if len(count) == 3:
        os.kill(os.getpid(), {})
    return replace(self, to)
pathlib.Path.replace = third
"""


@pytest.mark.process
def test_killed_it_says_so_and_is_completed_or_taken_back(old: Project) -> None:
    before = old.files()
    for options, said in (
        ((), f"the update to notebento {OURS} was cut off, and is completed now"),
        (("--abort",), f"the update to notebento {OURS} is taken back"),
    ):
        answer = old.process("--no-install", fault=AT_THIRD_FILE.format(int(signal.SIGKILL)))
        assert answer.status == -signal.SIGKILL
        assert before != old.files() and "_commit: v0.3.0" not in old.read(".copier-answers.yml")
        answer = old(*options, "--no-install")
        assert answer.status == 0 and said in answer.printed, answer.printed
        assert not (old.root / ".git/notebento/churn/update").exists()
        if not options:
            assert wheel()[0] in [p.name for p in (old.root / "wheels").iterdir()]
            old.git("checkout", "--", ".")
            old.git("clean", "--quiet", "--force")
        assert old.files() == before


@pytest.mark.process
def test_interrupted_by_the_key_everything_is_as_before(old: Project) -> None:
    before = old.files()
    answer = old.process("--no-install", fault=AT_THIRD_FILE.format(int(signal.SIGINT)))
    assert answer.status == 130 and old.files() == before and old.git("status", "--short") == ""
    assert "no update was cut off" in old("--abort").printed


def test_an_edit_made_after_it_was_cut_off_is_not_overwritten(old: Project) -> None:
    plan = old.planned(news, "0.3.0")
    begin(old.root / ".git/notebento/churn/update", old.root, plan.changes, transaction_of(plan, old.root))
    old.edit("README.md", "# churn", "# mine")
    for options in ((), ("--abort",)):
        answer = old(*options, "--no-install")
        assert answer.status == 2 and "README.md: edited since the update to notebento 9.0.0" in answer.printed
    assert old.read("README.md").startswith("# mine")
    old.edit("README.md", "# mine", "# churn")
    assert old("--abort").status == 0 and old.git("status", "--short") == ""


# --- --check


def test_check_says_up_to_date_or_what_is_new_and_writes_nothing(project: Project, shelf: Path, tmp_path: Path) -> None:
    first = Project(tmp_path / "first", "0.3.0")
    before = first.files()
    answer = first("--check")
    assert answer.status == 1 and f"project 0.3.0 available {OURS}" in answer.printed
    assert project("--check").status == 0 and project("--check").printed.endswith("up to date")
    answer = project("--check", f"--source={shelf}")
    assert answer.status == 1 and f"available {NEXT}" in answer.printed
    assert json.loads(project("--check", "--json", f"--source={shelf}").printed)["news"] is True
    assert project("--check", f"--to={OURS}", f"--source={shelf}").status == 0
    assert first.files() == before and not (first.root / ".git/notebento").exists()


def test_check_reads_the_source_from_the_configuration(project: Project, shelf: Path, tmp_path: Path) -> None:
    shutil.copytree(shelf, project.root.parent / "wheels")
    project.edit("conf/config.yaml", "source: null", "source: ../wheels")
    assert project("--check").status == 1
    project.edit("conf/config.yaml", "../wheels", "../nowhere")
    answer = project("--check")
    assert answer.status == 2 and "there is no" in answer.printed and "nowhere" in answer.printed
    (tmp_path / "empty").mkdir()
    answer = project("--check", f"--source={tmp_path / 'empty'}")
    assert answer.status == 2 and "it has no wheel of notebento" in answer.printed


class Quiet(http.server.SimpleHTTPRequestHandler):
    """Serves a folder without a word."""

    def log_message(self, format: str, *args: object) -> None:
        """Nothing."""


@pytest.fixture
def address(shelf: Path, tmp_path: Path) -> Iterator[str]:
    """Where the wheels are served: as a page of links, and as an index."""
    shutil.copytree(shelf, tmp_path / "served/simple/notebento")
    handler = functools.partial(Quiet, directory=str(tmp_path / "served"))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join()


@pytest.mark.process
def test_check_asks_a_page_and_an_index(project: Project, address: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith("PIP_")]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    for page in ("", f"notebento-{NEXT}-py3-none-any.whl"):
        answer = project("--check", f"--source={address}/simple/notebento/{page}")
        assert answer.status == 1 and f"available {NEXT}" in answer.printed, answer.printed
    answer = project("--check", f"--source={address}/simple", "--to=8.0")
    assert answer.status == 2 and f"has no notebento 8.0: it has {OURS}, {NEXT}" in answer.printed
    answer = project("--check", "--source=http://me:secret@127.0.0.1:9/simple")
    assert answer.status == 2 and "http://127.0.0.1:9/simple cannot be reached" in answer.printed
    assert "secret" not in answer.printed


@pytest.mark.nightly
@pytest.mark.process
def test_the_environment_of_an_updated_project_has_the_new_library(old: Project, shelf: Path) -> None:
    """Without an index: an environment that sees our packages, made as run.py makes it, and updated from inside."""
    venv = old.root / ".venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", venv], check=True)
    packages = Path(sysconfig.get_path("purelib", vars={"base": str(venv)}))
    (packages / "ours.pth").write_text(sysconfig.get_path("purelib") + "\n")
    own = {k: v for k, v in os.environ.items() if k != "PYTHONPATH" and not k.startswith("NOTEBENTO_")}
    own |= {"PIP_NO_INDEX": "1", "PIP_NO_BUILD_ISOLATION": "0"}

    def python(*arguments: str) -> str:
        done = subprocess.run([venv / "bin/python", *arguments], cwd=old.root, env=own, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    version = "import notebento; print(notebento.__version__, notebento.__file__)"
    python("-m", "pip", "install", "--quiet", "--no-deps", str(shelf / wheel()[0]))
    (venv / "installed.json").write_text(
        json.dumps({"extras": ["train"], "path": str(venv), "digest": "", "python": ""})
    )
    said = python("-m", "notebento", "update")
    assert "not installed" not in said, said
    stamp = json.loads((venv / "installed.json").read_text())
    assert stamp["digest"] and python("-c", version).startswith(f"{OURS} {packages}")
    old.commit()
    said = python("-m", "notebento", "update", f"--source={shelf}")
    assert "not installed" not in said, said
    assert python("-c", version).startswith(f"{NEXT} {packages}")
    assert json.loads((venv / "installed.json").read_text())["digest"] != stamp["digest"]
    environment = "import sys; sys.path.insert(0, 'scripts'); import environment as e; "
    python("-c", environment + "assert e._wanted().items() <= e._installed().items()")
