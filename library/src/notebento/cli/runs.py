"""`notebento runs`: what ran before."""

from itertools import islice
from typing import Annotated

import typer
from rich.markup import escape
from rich.table import Table

from notebento.cli.options import AsJson, AsPage, DryRun, RunName, counted, err, out, print_facts, print_json, shown
from notebento.core.compose import runs_folder
from notebento.core.errors import GateError

app = typer.Typer(no_args_is_help=True, help="What ran before: list, look, compare, repeat, clean up.")


@app.command("list")
def list_runs(
    every: Annotated[bool, typer.Option("--all", help="All of them, not the newest twenty.")] = False,
    as_json: AsJson = False,
) -> None:
    """The runs, newest first."""
    from notebento.pipeline.history import headline, history

    folder = runs_folder()
    if as_json:
        print_json(list(history(folder)))
        return
    briefs = list(islice(history(folder), None if every else 21))
    for brief in briefs if every else briefs[:20]:
        metric = headline(folder / brief.run_id)
        result = f"{metric[0]} {metric[1]:.4f}" if metric else " " * 10
        cached = f"{sum(s.cached for s in brief.stages.values())}/{len(brief.stages)} cached"
        commit = f"{brief.commit[:8]}{'+' if brief.dirty else ' '}"
        facts = [f"{brief.run_id:<20}", f"{brief.status:<11}", cached, f"{brief.seconds:7.1f} s", result, commit]
        print("  ".join([*facts, " ".join(brief.overrides)]).rstrip())
    if not briefs:
        print("nothing ran yet: notebento run")
    if len(briefs) > 20 and not every:
        print("… older ones: --all")


@app.command()
def show(
    run: RunName = "latest",
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Every reason why a stage ran.")] = False,
    as_json: AsJson = False,
) -> None:
    """One run: its stages, what they made, its results."""
    from notebento.pipeline import terminal
    from notebento.pipeline.history import find_run, recorded

    run_dir = find_run(run)
    manifest = recorded(run_dir)
    if as_json:
        print_json(manifest)
        return
    changes = " and changes" if manifest.dirty else ""
    facts = {"run": manifest.run_id, "status": manifest.status, "commit": f"{manifest.commit[:12]}{changes}"}
    print_facts(facts | {"overrides": " ".join(manifest.overrides) or "none"})
    for name, record in manifest.stages.items():
        out.print(terminal.stage_lines(name, record), highlight=False, soft_wrap=True)
        for reason in record.why if verbose else terminal.first_reasons(record.why):
            out.print(f"      {reason}", style="dim", highlight=False, markup=False, soft_wrap=True)
    terminal.show(run_dir, manifest, out)
    out.print(f"report: {shown(run_dir)}/report.html", highlight=False, soft_wrap=True)


@app.command()
def diff(
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
        print_json(found)
    else:
        out.print(comparison.renderable(comparison.blocks(found)))
    if html:
        err.print(shown(comparison.write_comparison(found, html)), highlight=False)


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

    Exit status: 0 identical, 1 something differs or is missing, 2 or 3 the run could not be repeated.
    """
    from notebento.core.artifacts import Manifest
    from notebento.pipeline.history import find_run
    from notebento.pipeline.verify import verify as verify_run

    run_dir = find_run(run)
    if Manifest.read(run_dir).dirty and not here:
        err.print("the run's working tree had changes that are not in its commit: --here repeats it with them")
    verdicts, second = verify_run(run_dir, here, keep)
    if as_json:
        print_json(verdicts)
    else:
        table = Table("artifact", "", "where they first differ")
        for v in verdicts:
            color = "green" if v.verdict == "identical" else "red"
            table.add_row(v.artifact, f"[{color}]{v.verdict}[/]", escape(v.first))
        out.print(table)
        if second:
            out.print(f"the second run: {second}", highlight=False, soft_wrap=True)
    if bad := [v for v in verdicts if v.verdict != "identical"]:
        raise GateError(f"{len(bad)} of {len(verdicts)} artifacts are not the same")


@app.command()
def report(
    run: RunName = "latest",
    show: Annotated[bool, typer.Option("--open", help="Open it in the browser.")] = False,
    as_json: AsJson = False,
) -> None:
    """Write the report of a run again, and say where it is."""
    from notebento.pipeline.history import find_run
    from notebento.pipeline.runner import report_on

    run_dir = find_run(run)
    path = report_on(run_dir)
    if as_json:
        print_json({"run": run_dir.name, "report": str(path)})
    else:
        print(shown(path))
    if show:
        typer.launch(path.as_uri())


@app.command()
def gc(
    keep: Annotated[int | None, typer.Option(help="Also remove all runs but the newest N.", metavar="N", min=0)] = None,
    dry_run: DryRun = False,
    as_json: AsJson = False,
) -> None:
    """Remove from the cache what no run refers to any more.

    Runs stay unless --keep says how many. A run that made a registered version stays in any case.
    """
    from notebento.pipeline.history import clean
    from notebento.pipeline.report import size

    removed, files, count = clean(keep, dry_run)
    if as_json:
        print_json({"runs": removed, "files": files, "bytes": count, "dry_run": dry_run})
        return
    for name in removed if dry_run else ():
        print(name)
    what = f"{counted(len(removed), 'run')} and {counted(files, 'file')} of the cache, {size(count)}"
    out.print(f"{'would remove' if dry_run else 'removed'} {what}", highlight=False)
