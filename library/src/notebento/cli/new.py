"""`notebento new`: a project of one's own, from a file and a column."""

import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import msgspec
import typer

from notebento.cli.options import err, out, shown
from notebento.core.errors import UserError

if TYPE_CHECKING:
    from notebento.data.inspection import Finding, Inspection, Question
    from notebento.data.sources import Table

TASKS = ("binary", "multiclass", "regression")


def new(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Where the project will be; it must not exist yet.")],
    data: Annotated[
        str,
        typer.Option(
            metavar="FILE|FOLDER|URL",
            help="CSV, Parquet or Excel, packed or not; a folder of them; SQLite or DuckDB; or the URL of a database.",
        ),
    ],
    target: Annotated[str, typer.Option(help="The column to predict.", metavar="COLUMN")],
    key: Annotated[list[str] | None, typer.Option(help="Tells rows apart; may be repeated.", metavar="COLUMN")] = None,
    time: Annotated[str, typer.Option(help="When a row happened; none: it has no time.", metavar="COLUMN")] = "",
    group: Annotated[
        list[str] | None, typer.Option(help="Rows with the same value stay together; or none.", metavar="COLUMN")
    ] = None,
    task: Annotated[str, typer.Option(help="binary, multiclass or regression.")] = "",
    event: Annotated[
        str | None, typer.Option(help="Of two classes, the one whose probability is predicted.", metavar="VALUE")
    ] = None,
    name: Annotated[str, typer.Option(help="Its package; the folder's name by default.")] = "",
    query: Annotated[str | None, typer.Option(help="What to ask a database.", metavar="'select …'")] = None,
    table: Annotated[str | None, typer.Option(help="Or all of a table, where it has several.")] = None,
    sheet: Annotated[str | None, typer.Option(help="Of a workbook that has several.")] = None,
    exclude: Annotated[
        list[str] | None, typer.Option(help="A column to leave out; may be repeated.", metavar="COLUMN")
    ] = None,
    separator: Annotated[str | None, typer.Option(help="Of a CSV file, where it is not found.", metavar="CHAR")] = None,
    decimal: Annotated[str | None, typer.Option(help="The decimal point of its numbers.", metavar=". or ,")] = None,
    encoding: Annotated[str | None, typer.Option(help="Such as cp1252; UTF-8 by default.")] = None,
    nulls: Annotated[list[str] | None, typer.Option(help="What stands for a missing value, beside NA.")] = None,
    formats: Annotated[
        list[str] | None, typer.Option("--format", help="How a column writes its times.", metavar="COLUMN=%d/%m/%Y")
    ] = None,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Take what is proposed, and ask nothing.")] = False,
    run: Annotated[bool, typer.Option("--run", help="Go on: run the pipeline, and serve the model.")] = False,
    sample: Annotated[
        bool, typer.Option(help="Put some of the rows into the project, for its tests; otherwise made-up ones.")
    ] = True,
) -> None:
    """Make a project of your own from a table: its notebooks, configuration, tests, and the library as a wheel.

    It says what it concludes from the table, and asks where it is not sure. Of a database:
    --data 'postgresql://me:$PASSWORD@host/db' --query 'select …', in single quotes: the project keeps the name of the password.
    """
    from notebento.data.inspection import inspect_table
    from notebento.pipeline.placement import free_place, project_name
    from notebento.pipeline.project import Order, new_project

    if task and task not in TASKS:
        raise UserError(f"--task={task} is none of {', '.join(TASKS)}", fix="--task=binary")
    place, called = free_place(folder), project_name(folder, name)
    written = dict(_pair(one) for one in formats or [])
    form: dict[str, Any] = {
        "separator": separator,
        "decimal": decimal,
        "encoding": encoding,
        "nulls": ("NA", *(nulls or [])),
        "sheet": sheet,
    }
    with all_or_nothing(), options_in_fixes():
        source, note = _source(called, data, query, table, form)
        rows = source.read(None)[called]
        given: dict[str, Any] = {
            "task": task or None,
            "key": key,
            "time": time or None,
            "group": group,
            "formats": written,
            "exclude": exclude or (),
            "event": event,
        }
        found = inspect_table(rows, target, **given)
        if found.questions and not yes and sys.stdin.isatty():
            given |= {q.option: _asked(q) for q in found.questions}
            found = inspect_table(rows, target, **given)
        found = _with_form(found, source)
        _show(found, source.url or source.path or "", note)
        problem = new_project(place, Order(called, source, rows, found, written, sample))
    _show_next(place, problem, run)
    if run:
        _go_on(place)


def _source(name: str, data: str, query: str | None, table: str | None, form: dict[str, Any]) -> tuple["Table", str]:
    """The table that is meant, and what to say of it."""
    from notebento.data.databases import named_secrets, query_of
    from notebento.data.sources import Table

    file = re.sub("^(sqlite|duckdb):///", "", data)
    if "://" in file or file.startswith("$"):
        url, note = named_secrets(data)
        return Table(name, url=url, query=query or query_of(url, table), **form), note
    source = Table(name, path=str(Path(file).expanduser().resolve()), **form)
    if database := source.database:
        return msgspec.structs.replace(source, query=query or query_of(database, table)), ""
    if query or table:
        raise UserError(f"{'--query' if query else '--table'}: {data} is not a database", fix="leave it out")
    return source, ""


def _with_form(found: "Inspection", source: "Table") -> "Inspection":
    """What was found, and how the first file is written where that is not the plain way."""
    from notebento.data.files import CSV, CsvFormat, files_at, kind_of_file, peculiarities
    from notebento.data.inspection import Finding

    if source.database or kind_of_file(file := files_at(str(source.path))[1][0]) not in CSV:
        return found
    form = CsvFormat(source.nulls, source.separator, source.decimal, source.encoding, source.texts)
    if not (how := peculiarities(file, form)):
        return found
    action = "read so; --separator, --decimal, --encoding say otherwise"
    said = Finding("", "how it is written", ", ".join(how), action)
    return msgspec.structs.replace(found, findings=(said, *found.findings))


def _pair(text: str) -> tuple[str, str]:
    column, equals, form = text.partition("=")
    if not equals:
        raise UserError(f"--format {text!r} names no column", fix="--format 'signed_up=%d/%m/%Y'")
    return column, form


@contextmanager
def all_or_nothing() -> Iterator[None]:
    """Say of an interrupted command that it left nothing, also where a library made another error of the interruption."""
    received: list[int] = []

    def interrupt(number: int, frame: object) -> None:
        received.append(number)
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGINT, interrupt)
    try:
        yield
    except BaseException as e:
        if not received and not isinstance(e, KeyboardInterrupt | typer.Abort):  # Abort: at a question
            raise
        err.print("interrupted: nothing was made", highlight=False)
        raise typer.Exit(130 if received or type(e) in (KeyboardInterrupt, typer.Abort) else 143) from e
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def options_in_fixes() -> Iterator[None]:
    """Where an error says which configuration to change, say which option of this command does."""
    try:
        yield
    except UserError as e:
        fix = re.sub(r"'(data\.[\w.]+=[^']*)'|\b(data\.[\w.]+=[^\s,;)]+)", _option, e.fix)
        fix = re.sub(r"; or data\.max_rejected=\S+ to go on without these rows", "", fix)  # nothing to go on with, yet
        fix = re.sub(r"data\.source\.(path|url)", "--data", fix)
        fix = re.sub(r"data\.(?:source\.)?(target|key|time|task|event|query|sheet|exclude)", r"--\1", fix)
        raise UserError(e.message, fix) from e


def _option(found: re.Match[str]) -> str:
    """An override of the configuration, as options of this command where it has them."""
    from hydra.core.override_parser.overrides_parser import OverridesParser
    from hydra.errors import HydraException

    try:
        override = OverridesParser.create().parse_override(found[1] or found[2])
    except HydraException:
        return found[0]
    name, value = override.key_or_group.rpartition(".")[2], override.value()
    options = {"formats": "format", "path": "data", "url": "data"}
    if name not in (*options, *_SAME):
        return found[0]
    pairs = [f"{k}={v}" for k, v in value.items()] if isinstance(value, dict) else value
    values = [v for v in (pairs if isinstance(pairs, list) else [pairs]) if v != "NA"]
    return " ".join(f"--{options.get(name, name)} {shlex.quote(str(v))}" for v in values)


_SAME = (
    "target",
    "key",
    "time",
    "task",
    "event",
    "group",
    "exclude",
    "separator",
    "decimal",
    "encoding",
    "nulls",
    "sheet",
    "query",
)


def _asked(question: "Question") -> str | list[str]:
    out.print(f"{question.option}: {question.why}", highlight=False, markup=False)
    # The handler of polars lets a system call go on that the interrupt key ended: Python's own one again.
    signal.signal(signal.SIGINT, signal.getsignal(signal.SIGINT))
    answer = ""
    while answer not in question.choices:  # anything else is asked again
        answer = typer.prompt(f"  one of {', '.join(question.choices)}", default=question.proposal)
    return [answer] if question.option in ("key", "group") else answer


def _show(found: "Inspection", data: str, note: str) -> None:
    from notebento.data.databases import hidden

    place = hidden(data) if "://" in data else shown(Path(data))
    columns = len(found.types) + len(found.exclude)
    out.print(f"{place}: {found.rows:,} rows, {columns} columns", highlight=False, markup=False)
    if note:
        out.print(f"  {note}", highlight=False, markup=False, soft_wrap=True)
    for line in _lines(found.findings):
        out.print(f"  {line}", highlight=False, markup=False, soft_wrap=True)


def _lines(findings: "Sequence[Finding]", most: int = 6) -> list[str]:
    """One line a finding; of a kind that many columns share the first `most`, and how many more."""
    counts: dict[str, int] = {}
    lines = []
    for one in findings:
        counts[one.what] = counts.get(one.what, 0) + 1
        if counts[one.what] <= most:
            lines.append(f"{one.column or 'the table'}: {one.what} ({one.evidence}) → {one.action}")
    more = [f"{what}: {n - most:,} more columns, see conf/data/" for what, n in counts.items() if n > most]
    return [*lines, *more]


def _show_next(place: Path, problem: str, run: bool) -> None:
    out.print(f"[bold]{shown(place)}[/] is a project", highlight=False)
    if problem:
        out.print(f"  it has no first commit: {problem}", highlight=False, markup=False)
    if not run:
        command = f"cd {shown(place)} && python3 scripts/run.py && python3 scripts/test.py"
        out.print(f"  next: {command}", highlight=False, markup=False, soft_wrap=True)


def _go_on(place: Path) -> None:
    """Run the pipeline of the project with the library of this process, then answer predictions until interrupted."""
    paths = [str(place / "src"), *filter(None, [os.environ.get("PYTHONPATH")])]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(paths), "NOTEBENTO_HOME": str(place)}
    command = [sys.executable, "-m", "notebento"]
    if status := subprocess.run([*command, "run"], cwd=place, env=environment).returncode:
        raise typer.Exit(status)
    os.chdir(place)
    os.execve(sys.executable, [*command, "serve"], environment)
