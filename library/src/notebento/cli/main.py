"""The command `notebento`. Each command imports what it needs when it is called, so that `--help` is quick."""

import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.markup import escape
from rich.table import Table
from typer.core import TyperGroup

from notebento.core.compose import combinations, compose, project_root, runs_folder, stage_config
from notebento.core.config import build, plain
from notebento.core.errors import GateError, NotebentoError, UserError


class Interruptible(TyperGroup):
    """The commands; Typer itself would end without a word when one is interrupted."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as e:
            err.print("interrupted: what is finished stays, and the same command continues", highlight=False)
            ctx.exit(130 if type(e) is KeyboardInterrupt else 143)  # of the interrupt key, of SIGTERM


app = typer.Typer(
    cls=Interruptible,
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From notebook to bento: run the notebooks as a pipeline, keep versions, serve the champion.",
)
models = typer.Typer(no_args_is_help=True, help="The registry: versions, the champion, and how it came to be.")
app.add_typer(models, name="models")
history = typer.Typer(no_args_is_help=True, help="What ran before: list, look, compare, clean up.")
app.add_typer(history, name="runs")
features = typer.Typer(no_args_is_help=True, help="The feature store: what a model is told, offline and online.")
app.add_typer(features, name="features")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Configuration, for example experiment=lab trainer.epochs=3."),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run, the beginning of its name, or latest.")]
Version = Annotated[str, typer.Argument(help="A version, the beginning of its name, or champion.")]
Reason = Annotated[str, typer.Option(help="Why, for the ledger.")]
Approval = Annotated[str, typer.Option(help="Who agreed, for the ledger.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
AsPage = Annotated[Path | None, typer.Option("--html", help="Write it as a page.", metavar="FILE", dir_okay=False)]
out, err = Console(), Console(stderr=True)


def main() -> None:
    """Run the command; an error of ours is a message and its exit status, not a traceback."""
    try:
        app()
    except NotebentoError as e:
        for message in (e, *getattr(e, "__notes__", ())):
            err.print(f"error: {message}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(e.exit_status)


@app.command()
def run(
    overrides: Overrides = None,
    jobs: Annotated[int, typer.Option("--jobs", "-j", help="Stages at once; 0: one for every `threads` cores.")] = 0,
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would run, and why.")] = False,
    force: Annotated[
        list[str] | None, typer.Option(help="Run this stage although it is cached.", metavar="STAGE")
    ] = None,
    until: Annotated[
        list[str] | None, typer.Option(help="Run only this stage and what it rests on.", metavar="STAGE")
    ] = None,
    multirun: Annotated[bool, typer.Option("--multirun", "-m", help="Run every combination of KEY=A,B,C.")] = False,
    into: Annotated[str, typer.Option(help="Work in runs/NAME instead of a new run.", metavar="NAME")] = "",
    export: Annotated[bool, typer.Option(help="Export notebooks that changed; otherwise that is an error.")] = True,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show what the stages print.")] = False,
    champion: Annotated[Path | None, typer.Option(hidden=True)] = None,
    as_json: AsJson = False,
) -> None:
    """Run the notebooks in order: data, features, train, export, evaluate, register, bento.

    What is cached is not run again, and a run that was cut off is continued by the next one.

    Exit status: 0 done, 1 the gate refused the model, 2 the input is wrong, 3 something broke.
    """
    from notebento.pipeline import runner, terminal

    given = overrides or []
    options: dict[str, Any] = {"until": until or [], "force": force or [], "export": export}
    began = time.perf_counter()
    runs = combinations(given) if multirun else [given]
    if multirun and into:
        raise UserError("--into is one folder, and --multirun makes several runs", fix="leave one of them out")
    if plan:
        plans = [runner.plan(runner.open_run(chosen, into, **options)) for chosen in runs]
        _show_plans(runs, plans, multirun, as_json)
        return
    with terminal.Board(err if as_json else out, verbose) as board:
        if multirun:
            folders = runner.sweep(runs, jobs, board, **options)
        else:
            folders = [runner.run(given, into, jobs=jobs, champion=champion, watcher=board, **options)]
    if multirun:
        _show_sweep(folders, as_json)
    else:
        _show_run(folders[0], time.perf_counter() - began, as_json)


def _show_plans(runs: list[list[str]], plans: list[list[Any]], multirun: bool, as_json: bool) -> None:
    if as_json:
        _json(plans if multirun else plans[0])
        return
    for chosen, steps in zip(runs, plans, strict=True):
        if multirun:
            out.print(" ".join(chosen), style="bold", markup=False, highlight=False)
        _show_plan(steps)


def _show_plan(steps: list[Any]) -> None:
    marks = {
        "cached": "[cyan]=[/] {0:<10} cached",
        "run": "[green]▸[/] {0:<10} run",
        "wait": "[dim]? {0:<10} perhaps[/]",
    }
    for step in steps:
        out.print(marks[step.does].format(step.stage), highlight=False)
        if step.does != "cached":
            for reason in step.why:
                out.print(f"      {reason}", style="dim", highlight=False, markup=False, soft_wrap=True)
    if all(step.does == "cached" for step in steps):
        out.print("nothing to do")


def _show_sweep(folders: list[Path], as_json: bool) -> None:
    from notebento.pipeline.comparison import sweep_rows, sweep_table, write_sweep

    rows = sweep_rows(folders)
    if as_json:
        _json(rows)
        return
    out.print(sweep_table(rows))
    out.print(_shown(write_sweep(rows, runs_folder() / "sweeps" / f"{folders[0].name}.html")), highlight=False)


def _show_run(run_dir: Path, seconds: float, as_json: bool) -> None:
    from notebento.core.artifacts import Manifest
    from notebento.pipeline import terminal

    manifest = Manifest.read(run_dir)
    if as_json:
        print((run_dir / "manifest.json").read_text())
    else:
        terminal.show(run_dir, manifest, out)
        out.print(f"[bold]{manifest.status}[/] in {seconds:.1f} s: {_shown(run_dir)}/report.html", highlight=False)
    if manifest.status == "rejected":
        raise GateError(
            "the gate refused this model; nothing was registered", fix=f"see {_shown(run_dir)}/artifacts/gate.json"
        )


@app.command()
def serve(
    overrides: Overrides = None,
    version: Annotated[str, typer.Option(help="Serve this version.")] = "champion",
    host: Annotated[str, typer.Option(help="Address to listen on; serve.host by default.")] = "",
    port: Annotated[int | None, typer.Option(help="Port to listen on; serve.port by default.")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of processes; serve.workers by default.")] = None,
) -> None:
    """Answer predictions over HTTP with the champion."""
    from notebento.serving.deploy import serve_forever

    options = {"host": host or None, "port": port, "workers": workers}
    given = [f"serve.{name}={value}" for name, value in options.items() if value is not None]
    config = compose([*(overrides or []), *given])
    serve_forever(config, version)


@app.command()
def lab(
    stage: Annotated[str, typer.Argument(metavar="[STAGE]", help="Open the notebook of this stage.")] = "",
    run: Annotated[str, typer.Option(help="On the parameters and inputs of this run.", metavar="RUN")] = "",
) -> None:
    """Open JupyterLab on the tour, or on a stage, with the parameters and inputs of a run."""
    from notebento.core.artifacts import Manifest
    from notebento.pipeline.history import find_run

    notebook = "index.ipynb"
    if run:
        os.environ["NOTEBENTO_RUN"] = find_run(run).name
    if stage:
        overrides = Manifest.read(find_run(run)).overrides if run else []
        notebook = stage_config(stage, compose(overrides)).notebook
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(project_root() / "nbs" / notebook)])


@app.command()
def verify(
    run: RunName = "latest",
    here: Annotated[
        bool, typer.Option("--here", help="Repeat it from the working tree instead of its commit.")
    ] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Keep the second run also when it is identical.")] = False,
    as_json: AsJson = False,
) -> None:
    """Make a run again in a new clone without the cache, and compare every artifact to the byte.

    Exit status: 0 identical, 1 something differs or is missing.
    """
    from notebento.pipeline import history as runs
    from notebento.core.artifacts import Manifest

    run_dir = runs.find_run(run)
    manifest = Manifest.read(run_dir)
    if manifest.dirty and not here:
        err.print("the run's working tree had changes that are not in its commit: --here repeats it with them")
    verdicts, second = runs.verify(run_dir, here, keep)
    if as_json:
        _json(verdicts)
    else:
        table = Table("artifact", "", "where they first differ")
        for v in verdicts:
            color = "green" if v.verdict == "identical" else "red"
            table.add_row(v.artifact, f"[{color}]{v.verdict}[/]", escape(v.first))
        out.print(table)
        if second:
            out.print(f"the second run: {second}", highlight=False, soft_wrap=True)
    bad = [v for v in verdicts if v.verdict != "identical"]
    if bad:
        raise GateError(f"{len(bad)} of {len(verdicts)} artifacts are not the same")


@app.command()
def report(
    run: RunName = "latest",
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
) -> None:
    """Write the report of a run again, and say where it is."""
    from notebento.pipeline.runner import report_on
    from notebento.pipeline.history import find_run

    path = report_on(find_run(run))
    print(_shown(path))
    if show:
        typer.launch(path.as_uri())


@history.command("list")
def list_runs(
    every: Annotated[bool, typer.Option("--all", help="All of them, not the newest twenty.")] = False,
    as_json: AsJson = False,
) -> None:
    """The runs, newest first."""
    from notebento.pipeline.history import headline, history

    folder = runs_folder()
    if as_json:
        _json(list(history(folder)))
        return
    shown = None
    for shown, run in enumerate(history(folder)):
        if shown == 20 and not every:
            print("… older ones: --all")
            break
        metric = headline(folder / run.run_id)
        cached = sum(s.cached for s in run.stages.values())
        facts = [
            f"{run.run_id:<20}",
            f"{run.status:<11}",
            f"{cached}/{len(run.stages)} cached",
            f"{run.seconds:7.1f} s",
        ]
        facts += [f"{metric[0]} {metric[1]:.4f}" if metric else " " * 10]
        facts += [f"{run.commit[:8]}{'+' if run.dirty else ' '}", " ".join(run.overrides)]
        print("  ".join(facts).rstrip())
    if shown is None:
        print("nothing ran yet: notebento run")


@history.command("show")
def show_run(run: RunName = "latest", as_json: AsJson = False) -> None:
    """One run: its stages, what they made, its results."""
    from notebento.pipeline import terminal
    from notebento.pipeline.history import find_run, recorded

    run_dir = find_run(run)
    manifest = recorded(run_dir)
    if as_json:
        _json(manifest)
        return
    changes = " and changes" if manifest.dirty else ""
    facts = {"run": manifest.run_id, "status": manifest.status, "commit": f"{manifest.commit[:12]}{changes}"}
    for name, value in (facts | {"overrides": " ".join(manifest.overrides) or "none"}).items():
        out.print(f"{name:<11}{value}", highlight=False, markup=False)
    for name, record in manifest.stages.items():
        out.print(terminal.stage_line(name, record), highlight=False, soft_wrap=True)
        for reason in record.why:
            out.print(f"      {reason}", style="dim", highlight=False, markup=False, soft_wrap=True)
    terminal.show(run_dir, manifest, out)
    out.print(f"report: {_shown(run_dir)}/report.html", highlight=False, soft_wrap=True)


@history.command("diff")
def diff_runs(
    a: Annotated[str, typer.Argument(metavar="A", help="A run, the beginning of its name, or latest.")],
    b: Annotated[str, typer.Argument(metavar="B", help="The other one.")] = "latest",
    html: AsPage = None,
    as_json: AsJson = False,
) -> None:
    """Why two runs differ: cells, configuration, data, packages, and the metrics that came of it."""
    from notebento.pipeline import compare, comparison
    from notebento.pipeline.cache import Cache
    from notebento.pipeline.history import find_run

    found = compare.compare(find_run(a), find_run(b), Cache(runs_folder() / "cache"))
    if as_json:
        _json(found)
    else:
        out.print(comparison.shown(comparison.blocks(found)))
    if html:
        err.print(_shown(comparison.write_comparison(found, html)), highlight=False)


@history.command("gc")
def collect(
    keep: Annotated[int | None, typer.Option(help="Also remove all runs but the newest N.", metavar="N")] = None,
    as_json: AsJson = False,
) -> None:
    """Remove from the cache what no run refers to any more.

    Runs stay unless --keep says how many. A run that made a registered version stays in any case.
    """
    from notebento.pipeline.report import size
    from notebento.pipeline.history import clean

    gone, files, count = clean(keep)
    if as_json:
        _json({"runs": gone, "files": files, "bytes": count})
    else:
        out.print(f"removed {len(gone)} runs and {files} files of the cache, {size(count)}", highlight=False)


@app.command("train-worker", hidden=True)
def train_worker(run_dir: str) -> None:
    """One process of a training on several devices; torchrun starts it."""
    from notebento.training.job import worker

    worker(run_dir)


@models.command("list")
def list_models(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Every version, and who is champion."""
    registry = _registry(overrides)
    champion = registry.champion()
    rows = [
        {
            "version": v.version,
            "champion": v.version == champion,
            "registered": v.registered,
            "run": v.lineage.run,
            "test": {name: m.value for name, m in v.metrics.get("test", {}).get("notebento", {}).items()},
        }
        for v in registry.versions()
    ]
    if as_json:
        _json(rows)
    elif not rows:
        out.print("nothing is registered yet; notebento run makes a version")
    else:
        names = [m for m in ("auc", "accuracy", "log_loss", "rmse", "r2") if any(m in row["test"] for row in rows)]
        table = Table("", "version", "registered", "run", *names)
        for row in rows:
            metrics = (f"{row['test'][m]:.4f}" if m in row["test"] else "" for m in names)
            table.add_row("*" if row["champion"] else "", row["version"], row["registered"][:16], row["run"], *metrics)
        out.print(table)


@models.command()
def show(version: Version, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """The facts of one version: where it comes from, and how good it is."""
    from notebento.pipeline.terminal import result_table

    found = _registry(overrides).version(version)
    if as_json:
        _json(found)
        return
    facts = {"version": found.version, "registered": found.registered, "run": found.lineage.run}
    facts |= {"commit": found.lineage.commit + (" (and changes)" if found.lineage.dirty else "")}
    facts |= {
        "overrides": " ".join(found.lineage.overrides) or "none",
        "data": found.lineage.data,
        "graph": found.digest,
    }
    for name, value in facts.items():
        out.print(f"{name:<11}{value}", highlight=False, markup=False)
    for part, metrics in plain(found.metrics).items():
        out.print(result_table(metrics, part))


@models.command()
def promote(version: Version, reason: Reason = "", approval: Approval = "", overrides: Overrides = None) -> None:
    """Make a version the champion."""
    entry = _registry(overrides).promote(version, reason, approval)
    out.print(f"{entry.version} is the champion now; before it was {entry.prior}", highlight=False)


@models.command()
def rollback(reason: Reason = "", approval: Approval = "", overrides: Overrides = None) -> None:
    """Make the champion before this one the champion again."""
    entry = _registry(overrides).rollback(reason, approval)
    out.print(f"{entry.version} is the champion again; before it was {entry.prior}", highlight=False)


@models.command("history")
def show_history(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Who registered, promoted and rolled back what, when and why."""
    rows = _registry(overrides).history()
    if as_json:
        _json(rows)
    else:
        for row in rows:
            why = row.reason + (f", approved by {row.approval}" if row.approval else "")
            print(f"{row.time[:16]}  {row.action:<8}  {row.version}  {row.actor}  {why}")


AsOf = Annotated[str, typer.Option(help="A time, ISO 8601.", metavar="TIME")]


@features.command("list")
def list_features(
    overrides: Overrides = None,
    html: AsPage = None,
    check: Annotated[bool, typer.Option("--check", help="Exit with 1 when something is not as expected.")] = False,
    as_json: AsJson = False,
) -> None:
    """Every feature: what it says, in which unit, from which table, what is normal, and what it is worth.

    Exit status: 0 done, 1 with --check something is not as expected in the newest run's training rows.
    """
    from notebento.registry import catalogue
    from notebento.core.artifacts import save_text

    config = compose(overrides or [])
    found = catalogue.gather(config)
    if html:
        title = f"Features of {config.project.name}"
        save_text(html, catalogue.features_page(found.entries, title, found.about, found.wrong))
    if as_json:
        _json(found)
    elif not html:
        _show_entries(found.entries)
    for wrong in found.wrong:
        err.print(
            f"{wrong.feature}: {wrong.what}: {wrong.rows:,} rows, {wrong.share:.2%}", highlight=False, markup=False
        )
    for name, why in found.stale.items():
        err.print(f"{name} is stale: {why}", highlight=False, markup=False)
    if check and not found.rows:
        raise UserError("there is no run whose training rows could be checked", fix="notebento run")
    if check and (found.wrong or found.stale):
        what = f"{len(found.wrong)} features are not as expected, {len(found.stale)} tables are stale"
        raise GateError(what, fix="see the contract of their tables, and when they were read last")


def _show_entries(entries: list[Any]) -> None:
    table = Table("feature", "what", "unit", "table", "null", "importance ‰")
    for e in entries:
        nulls = "" if e.nulls is None else f"{e.nulls:.1%}"
        table.add_row(e.feature, e.what, e.unit, e.table, nulls, f"{e.importance * 1000:+.2f}" if e.importance else "")
    out.print(table)


@features.command()
def worth(
    overrides: Overrides = None,
    rows: Annotated[int, typer.Option(help="Rows to fit on, and to validate on.")] = 20_000,
    as_json: AsJson = False,
) -> None:
    """What each view adds: the AUC that is lost on validation without it, with a 95% interval. Takes minutes."""
    from rich.progress import track

    from notebento.evaluation import ablation

    quiet = as_json or not err.is_terminal
    watch = partial(track, description="without each view in turn", console=err, transient=True, disable=quiet)
    found = ablation.worth_of_views(compose(overrides or []), rows, watch=watch)
    if as_json:
        _json(found.to_dicts())
        return
    table = Table("without", "columns", "AUC", "lost", "95%")
    for name, columns, auc, lost, low, high in found.rows():
        between = "" if low is None else f"{low:+.4f} … {high:+.4f}"
        table.add_row(name, str(columns), f"{auc:.4f}", f"{lost:+.4f}", between)
    out.print(table)


@features.command()
def materialize(
    as_of: AsOf = "",
    fresh: Annotated[bool, typer.Option(help="Fill it anew, whatever is in it.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Fill the online store from the newest snapshot, or bring it on from where it stopped."""
    from notebento.core.clock import utc
    from notebento.online.store import FeatureStore, snapshot, views_of

    config = compose(overrides or [])
    views = views_of(build(config.features))
    now = datetime.now(UTC)
    until = utc(as_of or config.data.as_of or now.isoformat())
    if until > now:
        raise UserError(f"{until:%Y-%m-%d %H:%M} UTC has not come yet", fix="--as-of takes a time until now")
    with FeatureStore.open(views, config.store) as store, _bar(None if fresh else store.clock, until, as_json) as watch:
        began = time.perf_counter()
        done = store.materialize(snapshot(config.data), until, watch, fresh)
        held = {} if as_json else store.store.held(len(store.layout.digest))
    if as_json:
        _json(done)
    else:
        since = f", from {done.began:%Y-%m-%d %H:%M}" if done.began else ""
        what = f"{done.rows:,} rows made {done.states:,} states in {time.perf_counter() - began:.1f} s"
        out.print(
            f"the store is complete up to {done.clock:%Y-%m-%d %H:%M} UTC{since}: {what}",
            highlight=False,
            soft_wrap=True,
        )
    if done.clock > until:
        err.print(f"it was there already, past {until:%Y-%m-%d %H:%M}: --fresh fills it anew", highlight=False)
    if others := [states for digest, (states, _) in held.items() if digest != store.layout.digest]:
        what = f"{sum(others):,} states of {_counted(len(others), 'other definition')}"
        err.print(f"{what}: notebento features gc removes what nobody needs", highlight=False, soft_wrap=True)


@features.command("gc")
def collect_definitions(
    plan: Annotated[bool, typer.Option("--plan", help="Only say what would go, and what stays and why.")] = False,
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Remove from the online store the states of definitions of the views that nobody needs any more.

    Those of this configuration stay, and those of every ledger's champion and of the version to which a rollback leads.
    """
    from notebento.registry.retention import definitions, forget, needed
    from notebento.pipeline.report import size
    from notebento.online.store import FeatureStore, views_of

    config = compose(overrides or [])
    with FeatureStore.open(views_of(build(config.features)), config.store) as store:
        found = definitions(store.store, needed(config))
        gone = [d for d in found if not d.needed_by]
        for definition in [] if plan else gone:
            forget(store.store, definition.digest)
    if as_json:
        _json({"kept": [d for d in found if d.needed_by], "removed": gone, "planned": plan})
        return
    for d in found:
        does = "stays" if d.needed_by else "would go" if plan else "removed"
        until = f"complete until {d.complete:%Y-%m-%d %H:%M}" if d.complete else "not filled"
        facts = f"{d.digest}  {does:<8}  {d.states:>9,} states  {size(d.bytes):>6}  {until}"
        print(f"{facts}  needed by {'; '.join(d.needed_by) or 'nobody'}")
    told = f"{_counted(len(gone), 'definition')}, {sum(d.states for d in gone):,} states, {size(sum(d.bytes for d in gone))}"
    out.print(f"{'would remove' if plan else 'removed'} {told}", highlight=False, soft_wrap=True)


@features.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def get(
    context: typer.Context,
    at: Annotated[str, typer.Option(help="When the prediction is made; now by default.", metavar="TIME")] = "",
    as_json: AsJson = False,
) -> None:
    """The looked-up features of one record, whose fields are options: --origin JFK --carrier DL …"""
    from notebento.core.clock import utc
    from notebento.online.store import FeatureStore, asked_at, views_of

    given, overrides = _fields(context.args)
    config = compose(overrides)
    views = views_of(build(config.features))
    now = utc(at or datetime.now(UTC).isoformat())
    record = {name: _value(views, name, text) for name, text in given.items()}
    lead, time_column = timedelta(hours=config.data.lead_hours), config.data.time
    if time_column and time_column not in record:
        if now > datetime.max.replace(tzinfo=UTC) - lead:
            raise UserError(f"--at {at} is at the end of all times", fix="ask for an earlier one")
        record[time_column] = now + lead
    record["predict_at"] = asked_at(record[time_column] if time_column else None, lead, now)
    with FeatureStore.open(views, config.store) as store:
        looked = store.reader([record])  # `store.read` would say no more than "unavailable"
        clock = store.clock
    why = {name: reason for reason, names in looked.why[0].items() for name in names}
    rows = {name: value for name, value in looked.rows[0].items() if not name.startswith("_")}
    if as_json:
        _json({"features": rows, "degraded": looked.why[0], "as_of": record["predict_at"]})
        return
    table = Table("feature", "value", "unit", "")
    for name, value in rows.items():
        shown = "" if value is None else f"{value:.4g}" if isinstance(value, float) else str(value)
        table.add_row(name, shown, views.about[name].unit, why.get(name, ""))
    out.print(table)
    if clock:
        err.print(f"the store is complete up to {clock:%Y-%m-%d %H:%M} UTC", highlight=False)
    elif "not materialized" in looked.why[0]:
        err.print("nothing is in the store for these views yet: notebento features materialize", highlight=False)


@features.command("check")
def check_features(
    start: Annotated[str, typer.Option("--from", help="Beginning of the period.", metavar="TIME")],
    end: Annotated[str, typer.Option("--to", help="Its end.", metavar="TIME")],
    backend: Annotated[str, typer.Option(help="sqlite or redis; store.backend by default.")] = "",
    step: Annotated[str, typer.Option(help="So much is told before the next questions.")] = "1h",
    overrides: Overrides = None,
    as_json: AsJson = False,
) -> None:
    """Replay a period through the online store and compare every feature with the table, bit by bit.

    Exit status: 0 all are the same, 1 some are not.
    """
    from notebento.core.clock import utc
    from notebento.online.parity import check, require_parity
    from notebento.online.store import snapshot, views_of
    from notebento.features.schema import rows_of
    from notebento.features.views import microseconds

    config = compose([*(overrides or []), *([f"store={backend}"] if backend else [])])
    views, steps = views_of(build(config.features)), timedelta(microseconds=microseconds(step))
    begin, until = utc(start), utc(end)
    with _bar(begin, until, as_json) as watch:
        tables = snapshot(config.data)
        rows = rows_of(tables, config.data)
        found = check(views, config.store, rows, tables, begin, until, steps, watch)
    if as_json:
        _json(found)
    else:
        for wrong in found.differences:
            out.print(
                f"{wrong.feature}: {wrong.rows} rows differ; one is {wrong.offline} in the table and {wrong.online} online"
            )
        what = f"{found.rows:,} rows × {found.features} features after {found.told:,} rows of tables"
        out.print(f"{config.store.backend}: {what}, {len(found.differences)} features differ", highlight=False)
    require_parity(found)


@contextmanager
def _bar(start: datetime | None, end: datetime, quiet: bool) -> Iterator[Callable[[datetime], None]]:
    """A bar over a period, on a terminal: until the first call, and without a `start`, it only says that we work."""
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

    columns = SpinnerColumn(), TextColumn("{task.description}"), BarColumn(), TimeElapsedColumn()
    with Progress(*columns, console=err, transient=True, disable=quiet or not err.is_terminal) as progress:
        task = progress.add_task("reading the tables", total=None)

        def watch(now: datetime) -> None:
            seconds = [(moment - start).total_seconds() for moment in (now, end)] if start else [0.0, None]
            progress.update(task, description=f"{now:%Y-%m-%d %H:%M}", completed=seconds[0], total=seconds[1])

        yield watch


def _counted(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"


def _fields(arguments: list[str]) -> tuple[dict[str, str], list[str]]:
    """`--name value` or `--name=value` as a record, and what else there is as overrides."""
    record, overrides, rest = dict[str, str](), list[str](), iter(arguments)
    for argument in rest:
        if not argument.startswith("--"):
            overrides.append(argument)
            continue
        name, assigned, value = argument[2:].partition("=")
        if not assigned:
            value = next(rest, "")
        if not value or (not assigned and value.startswith("--")):
            raise UserError(f"--{name} has no value", fix=f"--{name} VALUE, or leave it out")
        record[name.replace("-", "_")] = value
    return record, overrides


def _value(views: Any, name: str, text: str) -> Any:
    from notebento.core.errors import nearest
    from notebento.core.clock import utc

    if name not in views.record:
        raise UserError(
            f"a record has no field {name!r}.{nearest(name, views.record)}",
            fix=f"its fields: {', '.join(views.record)}",
        )
    kind = views.record[name].type
    try:
        return utc(text) if kind == "datetime" else float(text) if kind == "number" else text
    except ValueError as e:
        raise UserError(f"--{name} {text!r} is not a {kind}", fix="for example 7, or 2013-11-01T12:00:00Z") from e


@features.command()
def follow(
    overrides: Overrides = None,
    source: Annotated[
        str, typer.Option("--from", help="A folder, or redis://HOST:PORT/DB?stream=NAME.", metavar="SOURCE")
    ] = "",
    batch: Annotated[int, typer.Option(help="Messages that go in together.")] = 500,
    once: Annotated[bool, typer.Option("--once", help="Stop when there is nothing left.")] = False,
    live: Annotated[bool, typer.Option("--live", help="When nothing comes, the store's clock follows ours.")] = False,
    group: Annotated[str, typer.Option(help="Followers of one group share the messages.")] = "notebento",
    claim_after: Annotated[float, typer.Option(help="Seconds until a dead follower's messages are taken over.")] = 10.0,
    metrics_port: Annotated[int | None, typer.Option(help="Answer Prometheus on this port.")] = None,
    as_json: AsJson = False,
) -> None:
    """Tell the feature store what a stream says, until it is stopped (TERM or INT).

    Rows that are told twice count once; what breaks the contract is put aside with the reason. The store has to be
    materialized first.
    """
    from notebento.online import stream
    from notebento.data.snapshot import contracts_of
    from notebento.online.store import FeatureStore, views_of

    config = compose(overrides or [])
    views = views_of(build(config.features))
    source = source or (config.store.backend == "redis" and config.store.url) or ""
    if not source:
        raise UserError("where do the messages come from?", fix="--from FOLDER, or --from redis://127.0.0.1:6379/0")
    coming = stream.open_source(source, config.store.name, group, claim_s=claim_after)
    meter = stream.Meter(metrics_port) if metrics_port is not None else None

    def report(status: stream.Status) -> None:
        if meter:
            meter(status)
        if as_json:
            print(msgspec.json.encode(status).decode(), flush=True)

    with FeatureStore.open(views, config.store) as store, stream.until_stopped() as stopped:
        follower = stream.Follower(store, coming, contracts_of(config.data))
        done = stream.follow(follower, stopped, batch, once, live, report)
    report(done)
    coming.close()
    if meter:
        meter.close()
    if not as_json:
        out.print(
            f"{done.messages} messages: {done.told} rows told, {done.ignored} ignored, {done.dead} refused; "
            f"{done.lag.messages} left; the store is complete until {done.clock}",
            highlight=False,
        )


def _registry(overrides: list[str] | None) -> Any:
    from notebento.registry.registry import Registry

    return Registry.open(compose(overrides or []).registry)


def _json(value: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())


def _shown(path: Path) -> str:
    """`path` as one would type it from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
