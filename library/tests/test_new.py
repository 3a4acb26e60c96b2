"""`notebento new`: odd files end in a project that works, or in a sentence that names the column and the fix."""

import gzip
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
import unicodedata
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import polars as pl
import pytest
from projects import New, customers
from typer.testing import CliRunner

from notebento.cli import main
from notebento.core.config import build
from notebento.core.errors import UserError
from notebento.data.snapshot import take
from notebento.pipeline.placement import project_name
from notebento.pipeline.plan import open_run
from notebento.pipeline.preflight import check_rows, refuse_visible_mistakes
from notebento.pipeline.project import Opened, attempt, home


def csv(rows: pl.DataFrame, **options: str) -> str:
    return rows.write_csv(**options)


def with_commas(rows: pl.DataFrame) -> str:
    return csv(rows.with_columns(pl.col("paid").cast(pl.String).str.replace(".", ",", literal=True)), separator=";")


def named(rows: pl.DataFrame, *names: str) -> pl.DataFrame:
    """The columns before the last under other names."""
    return rows.rename(dict(zip(rows.columns[:-1], names, strict=False)))


def dated(rows: pl.DataFrame, form: str) -> pl.DataFrame:
    start = datetime(2025, 1, 1, tzinfo=UTC)
    return rows.with_columns(joined=pl.Series([(start + timedelta(days=i)).strftime(form) for i in range(len(rows))]))


def spoilt(rows: pl.DataFrame, value: str) -> pl.DataFrame:
    return rows.with_columns(paid=pl.when(pl.col("id") % 150 == 7).then(pl.lit(value)).otherwise("paid"))


def repeated(*texts: str) -> pl.Expr:
    """The texts again and again."""
    return pl.lit(pl.Series(texts)).gather(pl.int_range(pl.len()) % len(texts))


ODD_VALUES = {
    "mixed": repeated("1", "two", "2024-01-01", "1,5"),
    "percent": repeated("12.5%", "7%", "99%"),
    "price": repeated("$1,200.50", "$3.00"),
    "preis": repeated("1.200,50 €", "3,00 €"),
    "ja": repeated("ja", "nein"),
    "flag": repeated("TRUE", "false", ""),
    "huge": pl.format("1000000000000000000000{}", pl.col("id") * 7 % 90),
    "large": pl.lit(2**60) + pl.col("id") * 7919,
    "three forms": repeated("2024-01-30", "25.01.2024", "13 Jan 2024"),
    "zones": repeated("2024-01-01T10:00:00+02:00", "2024-01-02T10:00:00-05:00", "2024-01-03T00:00:00Z"),
    "old": repeated("1899-12-31", "9999-12-31"),
    "gaps": repeated("1.5", "NaN", "2"),
    "excel": repeated("#N/A", "1", "2"),
}
ODD_NAMES = ["class", "def", "import", "row", "key", "part", "prediction", "probability", "version", "unit", "at"]
ODD_NAMES += [
    "time",
    "request_key",
    "LEFT ",
    "Id",
    "größe",
    unicodedata.normalize("NFD", "größe"),
    "年齢",
    "💶",
    "x" * 300,
]
ODD_NAMES += ["target", "data", "self", "schema", "len", "SELECT", "a.b.c", "{}", "%s", "-1", "~", "=", "!x", "&x"]


FILES: dict[str, Callable[[pl.DataFrame], str | bytes]] = {
    "a byte-order mark": lambda rows: b"\xef\xbb\xbf" + csv(rows).encode(),
    "UTF-16": lambda rows: csv(rows).encode("utf-16"),
    "semicolons and decimal commas": with_commas,
    "tabs": lambda rows: csv(rows, separator="\t"),
    "an empty name": lambda rows: csv(named(rows, "")),
    "brackets, quotes, colons": lambda rows: csv(named(rows, "id", "the 'plan' [x]", "age: years #1", "${paid}, {a}*")),
    "names that YAML reads": lambda rows: csv(named(rows, "null", "yes", "1", "2024-01-01")),
    "odd values": lambda rows: csv(spoilt(rows, "?")),
    "infinite values": lambda rows: csv(spoilt(rows[:200], "inf")),
    "a column without values": lambda rows: csv(rows.with_columns(pl.lit(None).alias("fax"))),
    "quoted line breaks": lambda rows: csv(rows.with_columns(plan=pl.format('{}\n"x", y', "plan"))),
    "times": lambda rows: csv(dated(rows, "%d.%m.%Y")),
    "American times": lambda rows: csv(dated(rows, "%m/%d/%Y %I:%M %p")),
    "time zones": lambda rows: csv(dated(rows, "%Y-%m-%dT10:00:00+02:00")),
    "many odd values": lambda rows: csv(rows.with_columns(**ODD_VALUES)),
    "many odd names": lambda rows: csv(rows.with_columns((pl.col("id") % 7).alias(name) for name in ODD_NAMES)),
    "an id in text": lambda rows: csv(rows.with_columns(pl.format("K-{}", "id").alias("id"))),
}  # fmt: skip


@pytest.mark.parametrize("file", FILES)
def test_an_odd_file_becomes_a_project_that_works(new: New, file: str) -> None:
    """What `attempt` does is what the first two stages will do, on the data and on the sample."""
    new(FILES[file](customers()))
    attempt(new.project, "churn")
    attempt(new.project, "churn", "experiment=lab")
    assert new.conf()["target"] == "left"


def test_names_survive(new: New) -> None:
    names = ["id", "the 'plan' [x]", "age: years #1", "${paid}, {a}*"]
    new(csv(named(customers(), *names)))
    assert [*new.conf()["contract"]["churn"].columns] == [*names, "left"]


def test_compressed_and_parquet_files_and_folders_are_copied_and_read(new: New) -> None:
    new(gzip.compress(csv(customers()).encode()), name="rows.csv.gz")
    assert (new.project / "data/rows.csv.gz").is_file()
    new.project = new.folder / "second"
    new(customers(), name="rows.parquet")
    parts = new.folder / "parts"
    parts.mkdir()
    for i in range(2):
        customers()[150 * i : 150 * i + 150].write_csv(parts / f"{i}.csv")
    result = CliRunner().invoke(
        main.app, ["new", str(new.folder / "third"), "--data", str(parts), "--target=left", "-y"]
    )
    assert result.exit_code == 0, result.output
    assert len([*(new.folder / "third/data/parts").iterdir()]) == 2


@pytest.mark.parametrize("columns", [100, pytest.param(2_000, marks=pytest.mark.nightly)])
def test_many_columns_are_in_conf_and_not_in_a_cell(new: New, columns: int) -> None:
    rng = np.random.default_rng(0)
    wide = customers(60).hstack(pl.DataFrame({f"x{i}": rng.normal(size=60).round(3) for i in range(columns)}))
    printed = new(wide)
    assert len(new.conf()["contract"]["churn"].columns) == columns + 5
    assert f"x{columns - 1}" not in "".join(p.read_text() for p in (new.project / "nbs").glob("*.ipynb")) + printed


def test_thirty_rows_become_a_project(new: New) -> None:
    rows = customers(30).with_columns(left=pl.Series(["yes", "no"] * 15))
    new(rows)
    attempt(new.project, "churn", "experiment=lab")


REFUSED: dict[str, tuple[Callable[[pl.DataFrame], str | bytes | pl.DataFrame], str]] = {
    "two columns of one name": (lambda rows: "id,a,a,left\n1,2,3,yes\n", r"several columns called 'a'"),
    "one positive": (
        lambda rows: rows.with_columns(left=pl.when(pl.col("id") == 5).then(pl.lit("yes")).otherwise(pl.lit("no"))),
        r"'left' cannot be learned and tested.*the rarest value of 'left' has 1",
    ),
    "a quote in a name": (lambda rows: named(rows, "id", 'the "plan"'), r"""'the "plan"'.*give it another name"""),
    "one class": (lambda rows: rows.with_columns(left=pl.lit("no")), r"about 'left': every row has 'no'"),
    "no label": (lambda rows: rows.with_columns(left=pl.lit(None)), r"about 'left': no row has a value"),
    "no file": (lambda rows: "", r"rows.csv is empty"),
    "names as a target": (lambda rows: rows.with_columns(left=pl.format("n{}", "id")), r"'left' is text with 300"),
    "latin-1": (lambda rows: csv(rows.with_columns(plan=pl.lit("größe"))).encode("latin-1"), r"--encoding cp1252"),
    "doubtful dates": (
        lambda rows: rows.with_columns(joined=pl.Series([f"0{1 + i % 9}/0{1 + i % 8}/2024" for i in range(300)])),
        r"column 'joined' has dates such as 01/01/2024.*--format joined=%d/%m/%Y",
    ),
    "a header and no rows": (lambda rows: "id,plan,left\n", r"the table has no rows, only columns"),
    "a PDF": (lambda rows: b"%PDF-1.7\n", r"rows.csv is not a table: it is a PDF"),
    "a web page": (lambda rows: "\n<html><table>", r"rows.csv is not a table: it is a web page"),
    "a workbook by another name": (lambda rows: b"PK\x03\x04?", r"rows.csv cannot be unpacked"),
    "a name of ours": (lambda rows: named(rows, "id", "predict_at"), r"'predict_at'.*--exclude predict_at"),
    "another name of ours": (lambda rows: named(rows, "id", "|row"), r"""'\|row'.*--exclude '\|row'"""),
    "a time to predict": (lambda rows: dated(rows.drop("left"), "%Y-%m-%d").rename({"joined": "left"}), r"is a time"),
    "dates that contradict": (
        lambda rows: rows.with_columns(joined=repeated("25/01/2024", "01/25/2024")),
        r"column 'joined' has dates in two forms, such as 25/01/2024 and 01/25/2024",
    ),
    "a hundred classes": (lambda rows: rows.with_columns(left=pl.format("c{}", pl.col("id") % 100)), "100 different"),
    "infinite answers": (lambda rows: csv(rows.with_columns(left=repeated("1.5", "inf", "3.25"))), "left is infinite"),
    "thousands or decimals": (lambda rows: rows.with_columns(paid=repeated("1,234", "5,678")), r"--decimal ,"),
    "only the answer": (lambda rows: rows.select("left", same="left"), r"no column that can be a feature"),
}


@pytest.mark.parametrize("file", REFUSED)
def test_a_hopeless_file_is_refused_with_one_sentence_and_nothing_is_left(new: New, file: str) -> None:
    data, message = REFUSED[file]
    status, printed = new.tried(data(customers()))
    assert status == 2 and re.search(message, printed), printed
    assert "Traceback" not in printed and [p.name for p in new.folder.iterdir()] == ["rows.csv"]


def test_what_a_refusal_advises_works(new: New) -> None:
    assert new.tried(REFUSED["another name of ours"][0](customers(60)), "--exclude", "|row")[0] == 0
    assert "|row" not in new.conf()["contract"]["churn"].columns
    new.project = new.folder / "third"
    hundred = pl.concat([customers()] * 6).with_columns(
        id=pl.int_range(1800), left=pl.format("c{}", pl.int_range(1800) % 60)
    )
    assert new.tried(hundred, "--task", "multiclass")[0] == 0
    new.project = new.folder / "first"
    assert new.tried(REFUSED["latin-1"][0](customers()), "--encoding", "cp1252")[0] == 0
    new.project = new.folder / "second"
    assert new.tried(REFUSED["doubtful dates"][0](customers()), "--format", "joined=%d/%m/%Y")[0] == 0
    assert new.conf()["formats"] == {"joined": "%d/%m/%Y"}


def test_a_place_without_a_table_is_said(new: New) -> None:
    (new.folder / "rows").mkdir()
    assert "has no CSV, Parquet or Excel file, only: nothing" in new.on(str(new.folder / "rows"))[1]
    (new.folder / "rows" / "notes.docx").touch()
    assert "only: notes.docx" in new.on(str(new.folder / "rows"))[1]
    assert "there is no file" in new.on(str(new.folder / "row.csv"))[1]


def test_a_file_or_a_place_without_permission_is_said(new: New) -> None:
    with tempfile.TemporaryDirectory(prefix="notebento-") as folder, as_nobody(Path(folder)):
        new = New(Path(folder))
        customers(40).write_csv(new.folder / "rows.csv")
        (new.folder / "closed").mkdir(mode=0o555)
        (new.folder / "rows.csv").chmod(0)
        assert re.search(
            r"rows.csv cannot be read as csv: .*Permission denied", new.on(str(new.folder / "rows.csv"))[1]
        )
        (new.folder / "rows.csv").chmod(0o600)
        new.project = new.folder / "closed" / "churn"
        status, printed = new.on(str(new.folder / "rows.csv"))
        assert status == 2 and "churn cannot be made: Permission denied" in printed
        (new.folder / "closed").chmod(0o755)


@contextmanager
def as_nobody(folder: Path) -> Iterator[None]:
    """As the owner of `folder` whom permissions hold back, unlike root."""
    user = os.geteuid()
    if user == 0:
        os.chown(folder, 65534, 65534)
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)


def test_the_nearest_column_is_proposed(new: New) -> None:
    status, printed = new.tried(customers(), "--target", "lefd")
    assert status == 2 and "Did you mean 'left'?" in printed


@pytest.mark.parametrize("name", ["polars", "random", "class", "2nd"])
def test_a_name_that_is_taken_is_refused(new: New, name: str) -> None:
    status, printed = new.tried(customers(), "--name", name)
    assert status == 2 and repr(name) in printed and not new.project.exists()


def test_a_folder_that_is_not_free_is_refused(new: New) -> None:
    new.project.mkdir()
    (new.project / "mine").touch()
    assert "is not an empty folder" in new.tried(customers())[1]
    (new.folder / ".git").mkdir()
    new.project = new.folder / "inside"
    assert "is inside the repository" in new.tried(customers())[1]


def test_an_empty_folder_is_filled_and_committed(new: New) -> None:
    new.project.mkdir()
    new(customers())
    log = ["git", "-C", str(new.project), "log", "--oneline", "--name-only"]
    committed = subprocess.run(log, capture_output=True, text=True, check=True).stdout.splitlines()
    assert {"data/rows.csv", "tests/data/sample.parquet", "src/churn/data.py", ".copier-answers.yml"} <= {*committed}
    status = ["git", "-C", str(new.project), "status", "--short"]
    assert subprocess.run(status, capture_output=True, text=True, check=True).stdout == ""


def test_without_git_or_an_identity_there_is_the_folder_and_it_is_said(
    new: New, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("AUTHOR", "COMMITTER"):
        monkeypatch.delenv(f"GIT_{name}_NAME")
        monkeypatch.delenv(f"GIT_{name}_EMAIL")
    asked = {
        "COUNT": "1",
        "KEY_0": "user.useConfigOnly",
        "VALUE_0": "true",
    }  # git makes none up from the machine's name
    for name, value in {"GLOBAL": "/dev/null", "SYSTEM": "/dev/null", **asked}.items():
        monkeypatch.setenv(f"GIT_CONFIG_{name}", value)
    assert "no first commit: git does not know who you are" in new(customers(60))
    assert (new.project / "conf/config.yaml").is_file()
    new.project = new.folder / "second"
    monkeypatch.setenv("PATH", str(new.folder))
    assert "no first commit: git is not installed" in new(customers(60))
    assert (new.project / "conf/config.yaml").is_file()


def test_the_split_keeps_a_group_together(new: New) -> None:
    rows = customers().with_columns(household_id=pl.int_range(pl.len()) // 3 + 7)
    new(rows)
    conf = new.conf()
    assert conf["group"] == ("household_id",) and conf["key"] == ("id",)


def test_without_a_sample_no_row_leaves_the_house(new: New) -> None:
    rows = customers().with_columns(who=pl.format("person {}", "id"), paid=pl.col("paid") + 1_000)
    new(rows, "--no-sample")
    made = pl.read_parquet(new.project / "tests/data/sample.parquet")
    assert not {*made["who"]} & {*rows["who"]} and not {*made["paid"]} & {*rows["paid"]}
    assert {*made["left"]} == {"yes", "no"}
    attempt(new.project, "churn", "experiment=lab")


def test_a_large_file_stays_where_it_is(new: New, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("notebento.pipeline.project._COPIED_MB", 0.001)
    new(customers())
    assert new.conf()["source"]["path"] == str(new.folder / "rows.csv") and not (new.project / "data").exists()


def test_copies_of_rows_are_read_once(new: New) -> None:
    rows = customers()
    new(pl.concat([rows, rows.sample(60, seed=0)]).drop("id"))
    assert new.conf()["source"]["distinct"] is True
    attempt(new.project, "churn")


@pytest.mark.process
def test_interrupted_nothing_is_left(new: New) -> None:
    """In the middle of writing: at the first commit, which a git of ours makes slow."""
    customers().write_csv(new.folder / "rows.csv")
    tools = new.folder / "tools"
    tools.mkdir()
    (tools / "git").write_text(f"#!/bin/sh\ntouch {new.folder}/started\nexec sleep 30\n")
    (tools / "git").chmod(0o755)
    command = [sys.executable, "-m", "notebento", "new", "churn", "--data=rows.csv", "--target=left", "--yes"]
    environment = os.environ | {"PATH": f"{tools}{os.pathsep}{os.environ['PATH']}"}
    started = subprocess.Popen(command, cwd=new.folder, env=environment, stderr=subprocess.PIPE, text=True)
    try:
        deadline = time.monotonic() + 60
        while not (new.folder / "started").exists() and time.monotonic() < deadline and started.poll() is None:
            time.sleep(0.05)
        started.send_signal(signal.SIGINT)
        _, printed = started.communicate(timeout=30)
    finally:
        started.kill()
    assert started.returncode == 130, printed
    assert sorted(p.name for p in new.folder.iterdir()) == ["rows.csv", "started", "tools"]


COMMAND = ["-m", "notebento", "new", "churn", "--data=rows.csv", "--target=left"]


@pytest.mark.process
def test_on_a_terminal_it_asks_until_an_answer_is_one(new: New) -> None:
    pexpect = pytest.importorskip("pexpect")
    rows = customers(120).with_columns(
        left=pl.col("id") % 5, visited=repeated("2024-01-30", "2024-03-01", "2024-02-11")
    )
    rows.with_columns(paid_at=pl.col("visited")).write_csv(new.folder / "rows.csv")
    terminal = pexpect.spawn(sys.executable, COMMAND, cwd=str(new.folder), encoding="utf-8", timeout=60)
    terminal.expect("task: ")
    terminal.expect("one of multiclass, regression")
    terminal.sendline("perhaps")
    terminal.expect("one of multiclass, regression")  # again
    terminal.sendline("regression")
    terminal.expect("time: when did a row happen")
    terminal.sendline("")  # as proposed
    terminal.expect("is a project")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 0
    assert (new.conf()["task"], new.conf()["time"]) == ("regression", "paid_at")


@pytest.mark.process
def test_interrupted_at_a_question_nothing_is_left(new: New) -> None:
    pexpect = pytest.importorskip("pexpect")
    customers(120).with_columns(left=pl.col("id") % 5).write_csv(new.folder / "rows.csv")
    terminal = pexpect.spawn(sys.executable, COMMAND, cwd=str(new.folder), encoding="utf-8", timeout=60)
    terminal.expect("one of multiclass, regression")
    terminal.sendintr()
    terminal.expect("interrupted: nothing was made")
    terminal.expect(pexpect.EOF)
    terminal.close()
    assert terminal.exitstatus == 130 and [p.name for p in new.folder.iterdir()] == ["rows.csv"]


@pytest.mark.nightly
@pytest.mark.process
def test_interrupted_at_any_moment_there_is_a_project_or_nothing(new: New) -> None:
    customers().write_csv(new.folder / "rows.csv")
    scratch = new.folder / "tmp"
    scratch.mkdir()
    began = time.monotonic()
    command = [sys.executable, *COMMAND, "--yes"]
    environment = os.environ | {"TMPDIR": str(scratch)}
    subprocess.run(command, cwd=new.folder, env=environment, check=True, capture_output=True)
    takes, finished = time.monotonic() - began, 0
    for moment in np.random.default_rng(0).uniform(0.3, 1.1, 20) * takes:
        shutil.rmtree(new.project, ignore_errors=True)
        started = subprocess.Popen(
            command, cwd=new.folder, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
        )
        try:
            started.wait(moment)
        except subprocess.TimeoutExpired:
            started.send_signal(signal.SIGINT)
        _, printed = started.communicate(timeout=60)
        left = sorted(p.name for p in new.folder.iterdir())
        if started.returncode == 0 or "churn" in left:
            finished += 1
            log = subprocess.run(
                ["git", "log", "--oneline"], cwd=new.project, capture_output=True, text=True, check=True
            )
            assert log.stdout.endswith("A new project\n") and left == ["churn", "rows.csv", "tmp"]
        else:
            assert left == ["rows.csv", "tmp"] and b"interrupt" in printed.lower(), (left, printed)
        assert not [*scratch.iterdir()]
    assert finished < 20


def test_what_was_concluded_is_said_and_written_down(new: New) -> None:
    rows = customers().with_columns(cancelled=pl.when(pl.col("left") == "yes").then(pl.lit("2025-01-01")))
    printed = new(rows)
    assert "cancelled: missingness" in printed
    text = (new.project / "conf/data/churn.yaml").read_text()
    assert "#   cancelled: missingness" in text and new.conf()["known_after"] == ("cancelled",)


def test_a_mistake_in_the_configuration_is_found_before_the_first_kernel_starts(new: New) -> None:
    new(customers())
    for override, message in {
        "data.target=lefd": "'lefd' that is not there. Did you mean 'left'",
        "data.source.path=data/row.csv": r"there is no file .*row\.csv\. Did you mean 'rows\.csv'",
        "data.slices=[nope]": "data.slices: 'nope' is not a column",
        "evaluate.slices=[nope]": "evaluate.slices: 'nope' is not a column",
    }.items():
        with home(new.project):
            run = open_run([override], planning=True)
            with pytest.raises(UserError, match=message):
                refuse_visible_mistakes(run, ["data"])
    with home(new.project):
        refuse_visible_mistakes(open_run(["evaluate.slices=[plan]"], planning=True), ["data"])


def test_what_its_own_code_raises_is_for_the_stage_to_say(new: New) -> None:
    new(customers())
    code = new.project / "src/churn/data.py"
    code.write_text(code.read_text().replace("    return rows\n", "    return rows / 0\n"))
    with home(new.project):
        check_rows(open_run([], planning=True))


def test_every_path_of_the_template_is_plain(new: New) -> None:
    new(customers())
    for path in (p for p in new.project.rglob("*") if p.is_file() and ".git" not in p.parts):
        assert path.suffix in (".whl", ".parquet", ".csv", ".pyc") or "«" not in path.read_text() + path.name, path
    json.loads((new.project / "nbs/01_data.ipynb").read_text())


def test_the_event_goes_from_the_option_to_the_schema(new: New) -> None:
    rows = customers(120).with_columns(left=pl.col("left").replace({"yes": "ja", "no": "nein"}))
    assert "left: the event is 'ja'" in new(rows) and new.conf()["event"] == "ja"
    for event, classes in (("nein", ("ja", "nein")), ("ja", ("nein", "ja"))):
        data = Opened.of(new.project, "churn", f"data.event={event}")
        with home(new.project):
            tables = take(data.data).tables
        assert build(data.config.features, data.aliases).schema(tables, data.data).classes == classes
    new.project = new.folder / "other"
    status, printed = new.tried(rows, "--event", "maybe")
    assert status == 2 and "is not a value of 'left', which has 'ja', 'nein'" in printed and "--event ja" in printed
    assert new.tried(rows, "--event", "NEIN")[0] == 0 and new.conf()["event"] == "nein"


def test_how_a_file_is_written_is_said(new: New) -> None:
    rows = customers(120)
    printed = new(with_commas(rows).encode("utf-16"))
    assert "the table: how it is written (separated by ;, decimal commas, UTF-16)" in printed
    text = (new.project / "conf/data/churn.yaml").read_text()
    assert "#   the table: how it is written" in text
    new.project = new.folder / "other"
    status, printed = new.tried(csv(rows, separator=";"), "--separator", ",")
    assert status == 2 and "--separator ';'" in printed and "correct the file" not in printed
    rows = rows.rename({"paid": "paid, in all"}).with_columns(plan=pl.lit("a,b,c,d"))
    status, printed = new.tried(csv(rows, separator=";", quote_style="never"), "--separator", ",")
    assert status == 2 and "--separator ';', or correct the file" in printed


def test_comments_show_times_in_order_and_texts_as_far_as_they_go(new: New) -> None:
    rows = dated(customers(120), "%d.%m.%Y").with_columns(plan=pl.col("plan") + " with a very long name")
    printed = new(rows)
    assert "day first (%d.%m.%Y)" in printed
    text = (new.project / "conf/data/churn.yaml").read_text()
    assert "# 2025-01-01 00:00:00+00:00 … 2025-04-30" in text and "# basic with a ve…, free" in text


@pytest.mark.parametrize(("name", "proposal"), [("1abc", "my_1abc"), ("Über", "uber"), ("class", "my_class")])
def test_a_name_is_made_of_the_wanted_one(name: str, proposal: str) -> None:
    with pytest.raises(UserError) as refused:
        project_name(Path("anything"), name)
    assert refused.value.fix == f"--name={proposal}" and project_name(Path("anything"), proposal) == proposal
