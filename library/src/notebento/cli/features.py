"""`notebento features`: the feature store, offline and online."""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.table import Column, Table

from notebento.cli.options import AsJson, AsPage, DryRun, Overrides, counted, err, out, print_json
from notebento.core.compose import compose
from notebento.core.config import Config, build
from notebento.core.errors import GateError, NotebentoError, UserError
from notebento.core.runs import Subject, elsewhere, newest_artifacts, newest_run, subject_of

app = typer.Typer(no_args_is_help=True, help="The feature store: what a model gets, offline and online.")

AsOf = Annotated[str, typer.Option(help="A time, ISO 8601.", metavar="TIME")]


@app.command("list")
def list_features(overrides: Overrides = None, html: AsPage = None, as_json: AsJson = False) -> None:
    """Every feature: what it says, in which unit, from which table, what is normal, and what it is worth."""
    from notebento.core.artifacts import save_text
    from notebento.evaluation.ablation import ROW_ARTIFACTS
    from notebento.registry import catalogue

    config, subject = compose(overrides or []), _subject(overrides)
    run_dir = newest_run(subject, ROW_ARTIFACTS)
    found = catalogue.gather(config, run_dir)
    if html:
        title = f"Features of {config.project.name}"
        save_text(html, catalogue.features_page(found.entries, title, found.about, found.wrong))
    if as_json:
        print_json(found)
    elif not html:
        if not out.is_terminal:  # whoever reads a pipe searches for whole names
            out.width = max(out.width, 240)
        out.print(feature_table(found.entries))
    if not as_json:
        _print_source(found.about if run_dir else f"{found.about} No run of {subject} has training rows yet.")
        _print_source(elsewhere(subject, "features list", ROW_ARTIFACTS))


def feature_table(entries: Iterable[Any]) -> Table:
    """The catalogue's entries, one a row. On a narrow terminal names and texts wrap, and nothing is cut."""
    name, what = Column("feature", overflow="fold"), Column("what", overflow="fold")
    table = Table(name, what, "unit", "table", "null", "importance ‰")
    for e in entries:
        nulls = "" if e.nulls is None else f"{e.nulls:.1%}"
        importance = f"{e.importance * 1000:+.2f}" if e.importance else ""
        table.add_row(e.feature, e.what, e.unit, e.table, nulls, importance)
    return table


@app.command()
def validate(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Check the newest run's training rows against what the features' contracts expect.

    Exit status: 0 all is as expected, 1 something is not, or a table is stale.
    """
    from notebento.registry import catalogue

    run_dir = _run_with_rows(overrides, "features validate")
    found = catalogue.gather(compose(overrides or []), run_dir)
    if as_json:
        print_json({"rows": found.rows, "wrong": found.wrong, "stale": found.stale})
    for wrong in found.wrong:
        err.print(
            f"{wrong.feature}: {wrong.what}: {wrong.rows:,} rows, {wrong.share:.2%}", highlight=False, markup=False
        )
    for name, why in found.stale.items():
        err.print(f"{name} is stale: {why}", highlight=False, markup=False)
    if found.wrong or found.stale:
        what = f"{counted(len(found.wrong), 'feature')} not as expected, {counted(len(found.stale), 'table')} stale"
        raise GateError(what, fix="see the contract of their tables, and when they were read last")
    if not as_json:
        out.print(f"{counted(found.rows, 'row')} of run {run_dir.name}: all features are as expected", highlight=False)


@app.command()
def ablation(
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(help="Rows to fit on, and to validate on.")] = 20_000,
    as_json: AsJson = False,
) -> None:
    """What each view adds: the AUC that is lost on validation without it, with a 95% interval. Takes minutes."""
    from rich.progress import track

    from notebento.evaluation.ablation import view_ablation

    run_dir = _run_with_rows(overrides, "features ablation")
    quiet = as_json or not err.is_terminal
    watch = partial(track, description="without each view in turn", console=err, transient=True, disable=quiet)
    found = view_ablation(compose(overrides or []), run_dir, rows, watch=watch)
    if as_json:
        print_json(found.to_dicts())
        return
    table = Table("without", "columns", "AUC", "lost", "95%")
    for name, columns, auc, lost, low, high in found.rows():
        between = "" if low is None else f"{low:+z.4f} … {high:+z.4f}"
        table.add_row(name, str(columns), f"{auc:.4f}", f"{lost:+z.4f}", between)
    out.print(table)
    _print_source(f"fitted on rows of run {run_dir.name}")


@app.command()
def materialize(
    as_of: AsOf = "",
    fresh: Annotated[bool, typer.Option("--fresh", help="Fill it anew, whatever is in it.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Fill the online store from the newest snapshot, or bring it on from where it stopped."""
    from notebento.core.clock import utc
    from notebento.data.snapshot import newest_tables
    from notebento.features.schema import views_of
    from notebento.online.store import FeatureStore

    config = compose(overrides or [])
    views = views_of(build(config.features))
    now = datetime.now(UTC)
    until = utc(as_of or config.data.as_of or now)
    if until > now:
        raise UserError(f"{until:%Y-%m-%d %H:%M} UTC has not come yet", fix="--as-of takes a time until now")
    with FeatureStore.open(views, config.store) as store, _bar(None if fresh else store.clock, until, as_json) as watch:
        began = time.perf_counter()
        source = newest_artifacts(["snapshot"], data=config.data)
        done = store.materialize(newest_tables(config.data), until, watch, fresh)
        held = {} if as_json else store.held()
    if as_json:
        print_json(done)
        return
    since = f", from {done.began:%Y-%m-%d %H:%M}" if done.began else ""
    what = f"{done.rows:,} rows made {done.states:,} states in {time.perf_counter() - began:.1f} s"
    until_then = f"the store is complete up to {done.clock:%Y-%m-%d %H:%M} UTC{since}"
    out.print(f"{until_then}: {what}", highlight=False, soft_wrap=True)
    where = (
        f"of run {source['snapshot'].parent.parent.name}" if source else "as they are at the source: no run has them"
    )
    _print_source(f"store {config.store.name}; the tables {where}")
    if done.clock > until:
        err.print(f"it was there already, past {until:%Y-%m-%d %H:%M}: --fresh fills it anew", highlight=False)
    if others := [each.states for definition, each in held.items() if definition != store.layout.digest.hex()]:
        what = f"{sum(others):,} states of {counted(len(others), 'other definition')}"
        err.print(f"{what}: notebento features gc removes what nobody needs", highlight=False, soft_wrap=True)


def fill_for(home: Path, config: Config) -> None:
    """Fill the feature store of the server in `home` when it is empty, and say so. Without it the server still answers."""
    from notebento.serving.deploy import fill_store

    began = time.perf_counter()
    with _bar(None, datetime.now(UTC), quiet=False) as watch:
        try:
            done = fill_store(home, config.registry, config.data, watch)
        except NotebentoError as e:
            err.print(f"the feature store was not filled, answers will be degraded: {e}", markup=False, soft_wrap=True)
            return
    if done:
        what = f"{done.rows:,} rows made {done.states:,} states in {time.perf_counter() - began:.1f} s"
        text = f"the feature store was empty and is filled up to {done.clock:%Y-%m-%d %H:%M} UTC: {what}"
        out.print(text, highlight=False, soft_wrap=True)


@app.command()
def gc(dry_run: DryRun = False, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Remove from the online store the states of definitions of the views that nobody needs any more.

    Those of this configuration stay, and those of every ledger's champion and of the version to which a rollback leads.
    """
    from notebento.features.schema import views_of
    from notebento.online.store import FeatureStore, backend_of
    from notebento.pipeline.report import size
    from notebento.registry.retention import definitions, needed

    config = compose(overrides or [])
    views, backend = views_of(build(config.features)), backend_of(config.store, create=False)
    with FeatureStore(views, config.store, backend) as store:
        found = definitions(store, needed(config))
        removed = [d for d in found if not d.needed_by]
        for definition in [] if dry_run else removed:
            store.clear(definition.digest)
    if as_json:
        print_json({"kept": [d for d in found if d.needed_by], "removed": removed, "dry_run": dry_run})
        return
    for d in found:
        does = "stays" if d.needed_by else "would go" if dry_run else "removed"
        until = f"complete until {d.complete:%Y-%m-%d %H:%M}" if d.complete else "not filled"
        facts = f"{d.digest}  {does:<8}  {d.states:>9,} states  {size(d.bytes):>6}  {until}"
        print(f"{facts}  needed by {'; '.join(d.needed_by) or 'nobody'}")
    states, count = sum(d.states for d in removed), size(sum(d.bytes for d in removed))
    what = f"{counted(len(removed), 'definition')}, {states:,} states, {count}"
    out.print(f"{'would remove' if dry_run else 'removed'} {what}", highlight=False, soft_wrap=True)


@app.command()
def get(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[FIELD=VALUE | KEY=VALUE]...", help="Fields of the record, and configuration."),
    ] = None,
    at: Annotated[str, typer.Option(help="When the prediction is made; now by default.", metavar="TIME")] = "",
    as_json: AsJson = False,
) -> None:
    """The looked-up features of one record: notebento features get origin=JFK carrier=DL --at 2014-01-01T05:00Z.

    A key that is a field of the record is a field; anything else is configuration.
    """
    from notebento.core.clock import utc
    from notebento.online.query import configured, features_of, record_of
    from notebento.online.store import ReadOnlyStore

    fields, config, views = configured(arguments or [])
    if not fields:
        keys = dict.fromkeys(key for view in views.views for key in view.by)
        what = f"the features are looked up by {', '.join(keys)}, and none of the record's fields is given"
        raise UserError(what, fix=f"notebento features get {' '.join(f'{key}=…' for key in keys)}")
    record = record_of(fields, views)
    with ReadOnlyStore.open(views, config.store) as store:
        found = features_of(store, config.data, record, utc(at or datetime.now(UTC)))
    if as_json:
        print_json({"features": found.features, "degraded": found.degraded, "as_of": found.as_of})
        return
    why = {name: reason for reason, names in found.degraded.items() for name in names}
    table = Table(Column("feature", overflow="fold"), Column("value", overflow="fold"), "unit", "")
    for name, value in found.features.items():
        text = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        table.add_row(name, text, views.about[name].unit, why.get(name, ""))
    out.print(table)
    if found.complete:
        err.print(
            f"the store {config.store.name} is complete up to {found.complete:%Y-%m-%d %H:%M} UTC", highlight=False
        )
    elif "not materialized" in found.degraded:
        what = f"nothing is in the store {config.store.name} for these views yet"
        err.print(f"{what}: notebento features materialize", highlight=False, soft_wrap=True)


@app.command()
def parity(
    start: Annotated[str, typer.Option("--from", help="Beginning of the period.", metavar="TIME")],
    end: Annotated[str, typer.Option("--to", help="Its end.", metavar="TIME")],
    step: Annotated[str, typer.Option(help="Length of a step: updates go in, then its records are looked up.")] = "1h",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Replay a period through the online store and compare every feature with the table, bit by bit.

    Exit status: 0 all are the same, 1 some are not.
    """
    from notebento.core.clock import utc
    from notebento.data.snapshot import newest_tables
    from notebento.features.schema import rows_of, views_of
    from notebento.features.views import microseconds
    from notebento.online.parity import check, require_parity

    config = compose(overrides or [])
    views, steps = views_of(build(config.features)), timedelta(microseconds=microseconds(step))
    begin, until = utc(start), utc(end)
    with _bar(begin, until, as_json) as watch:
        tables = newest_tables(config.data)
        found = check(views, config.store, rows_of(tables, config.data), tables, begin, until, steps, watch)
    if as_json:
        print_json(found)
    else:
        for wrong in found.differences:
            example = f"one is {wrong.offline} in the table and {wrong.online} online"
            out.print(f"{wrong.feature}: {wrong.rows} rows differ; {example}")
        what = f"{found.rows:,} rows × {found.features} features after {found.rows_applied:,} rows of tables"
        out.print(f"{config.store.backend}: {what}, {len(found.differences)} features differ", highlight=False)
    require_parity(found)


@app.command()
def ingest(
    overrides: Overrides = None,
    source: Annotated[
        str, typer.Option("--from", help="A folder, or redis://HOST:PORT/DB?stream=NAME.", metavar="SOURCE")
    ] = "",
    batch: Annotated[int, typer.Option(help="Messages that go in together.")] = 500,
    once: Annotated[bool, typer.Option("--once", help="Stop when there is nothing left.")] = False,
    live: Annotated[bool, typer.Option("--live", help="When nothing comes, the store's clock follows ours.")] = False,
    group: Annotated[str, typer.Option(help="Consumers of one group share the messages.")] = "notebento",
    claim_after: Annotated[float, typer.Option(help="Seconds until a dead consumer's messages are taken over.")] = 10.0,
    metrics_port: Annotated[int | None, typer.Option(help="Answer Prometheus on this port.")] = None,
    as_json: AsJson = False,
) -> None:
    """Ingest a stream into the feature store, until it is stopped (TERM or INT).

    A row that comes twice counts once; one that breaks the contract is put aside with the reason. The store has to be
    materialized first. Exit status: 0 done, 1 messages were refused.
    """
    from notebento.data.snapshot import contracts_of
    from notebento.online.ingest import Follower, Meter, Status, follow, until_stopped
    from notebento.online.sources import open_source
    from notebento.features.schema import views_of
    from notebento.online.store import FeatureStore

    config = compose(overrides or [])
    views = views_of(build(config.features))
    source = source or (config.store.backend == "redis" and config.store.url) or ""
    if not source:
        raise UserError("where do the messages come from?", fix="--from FOLDER, or --from redis://127.0.0.1:6379/0")
    coming = open_source(source, config.store.name, group, claim_s=claim_after)
    meter = Meter(metrics_port) if metrics_port is not None else None

    def report(status: Status) -> None:
        if meter:
            meter(status)
        if as_json:
            print(msgspec.json.encode(status).decode(), flush=True)

    with FeatureStore.open(views, config.store) as store, until_stopped() as stopped:
        follower = Follower(store, coming, contracts_of(config.data))
        done = follow(follower, stopped, batch, once, live, report)
    report(done)
    coming.close()
    if meter:
        meter.close()
    if not as_json:
        out.print(
            f"{done.messages} messages: {done.rows_applied} rows applied, {done.ignored} ignored, {done.dead} refused; "
            f"{done.lag.messages} left; the store is complete until {done.clock}",
            highlight=False,
        )
    if done.dead:
        raise GateError(f"{counted(done.dead, 'message')} refused", fix="the reasons are in the dead letters")


@contextmanager
def _bar(start: datetime | None, end: datetime, quiet: bool) -> Iterator[Callable[[datetime], None]]:
    """A bar over a period, on a terminal: until the first call, and without a `start`, it only says that we work."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task("reading the tables", total=None)

        def watch(now: datetime) -> None:
            seconds: list[Any] = [(t - start).total_seconds() for t in (now, end)] if start else [0.0, None]
            progress.update(task, description=f"{now:%Y-%m-%d %H:%M}", completed=seconds[0], total=seconds[1])

        yield watch


def _subject(overrides: list[str] | None) -> Subject:
    return subject_of(compose(overrides or []).project.name, overrides or [])


def _run_with_rows(overrides: list[str] | None, command: str) -> Path:
    """The newest run of the same project and experiment that has training rows."""
    from notebento.evaluation.ablation import ROW_ARTIFACTS

    subject = _subject(overrides)
    if run_dir := newest_run(subject, ROW_ARTIFACTS):
        return run_dir
    fix = "; ".join(filter(None, ["notebento run", elsewhere(subject, command, ROW_ARTIFACTS)]))
    raise UserError(f"no run of {subject} has training rows yet", fix=fix)


def _print_source(text: str) -> None:
    """Say on standard error where a result comes from."""
    if text:
        err.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)
