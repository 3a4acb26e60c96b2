"""The command `notebento`. Each command imports what it needs when it is called, so that `--help` is quick."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any
from urllib.parse import quote

import typer

import notebento
from notebento.cli import check, doctor, features, models, new, runs, update
from notebento.cli.failures import Commands, report_crash
from notebento.cli.options import AsJson, Overrides, err, out, print_json, shown
from notebento.cli.streams import decoded, discard_output
from notebento.core.compose import combinations, compose, project_root, runs_folder, stage_config
from notebento.core.config import plain
from notebento.core.errors import GateError, UserError

app = typer.Typer(
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From notebook to bento: run the notebooks as a pipeline, keep versions, serve the champion.",
)


def main() -> None:
    """Run the command. Whatever it does not expect is exit status 3, so that nobody takes it for a verdict."""
    sys.argv[1:] = decoded(sys.argv[1:])
    try:
        try:
            app()
        finally:
            if sys.stdout:  # flushed here, where a closed pipe can still be handled
                sys.stdout.flush()
    except BrokenPipeError:
        sys.exit(discard_output())
    except Exception as e:
        sys.exit(report_crash(e))


def _version(wanted: bool) -> None:
    if wanted:
        print(f"notebento {notebento.__version__}")
        raise typer.Exit


@app.callback()
def options(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="Print it.")] = False,
) -> None:
    """Options of the command itself."""


@app.command()
def run(
    overrides: Overrides = None,
    jobs: Annotated[
        int, typer.Option("--jobs", "-j", min=0, help="Stages at once; 0: one for every `threads` cores.")
    ] = 0,
    plan: Annotated[bool, typer.Option("--plan", "--dry-run", help="Only say what would run, and why.")] = False,
    force: Annotated[
        list[str] | None, typer.Option(help="Run this stage although it is cached.", metavar="STAGE")
    ] = None,
    until: Annotated[
        list[str] | None, typer.Option(help="Run only this stage and what it rests on.", metavar="STAGE")
    ] = None,
    multirun: Annotated[bool, typer.Option("--multirun", "-m", help="Run every combination of KEY=A,B,C.")] = False,
    into: Annotated[str, typer.Option(help="Work in runs/NAME instead of a new run.", metavar="NAME")] = "",
    export: Annotated[bool, typer.Option(help="Export notebooks that changed; otherwise that is an error.")] = True,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show what the stages print, and every reason of a plan.")
    ] = False,
    champion: Annotated[Path | None, typer.Option(hidden=True)] = None,
    as_json: AsJson = False,
) -> None:
    """Run the notebooks in order: data, features, train, export, evaluate, register, bento.

    What is cached is not run again, and a run that was cut off is continued by the next one.

    Exit status: 0 done, 1 the gate refused the model, 2 the input is wrong, 3 something broke.
    """
    from notebento.pipeline import plan as planning
    from notebento.pipeline import runner, terminal

    overrides = overrides or []
    options = planning.RunOptions(into, until or [], force or [], export, champion)
    began = time.perf_counter()
    combined = combinations(overrides) if multirun else [overrides]
    if multirun and into:
        raise UserError("--into is one folder, and --multirun makes several runs", fix="leave one of them out")
    if plan:
        plans = [_planned(each, options) for each in combined]
        _show_plans(combined, plans, multirun, as_json, verbose)
        return
    with terminal.Board(err if as_json else out, verbose) as board:
        if multirun:
            folders = runner.sweep(combined, options, jobs, board)
        else:
            folders = [runner.run(overrides, options, jobs, board)]
    if multirun:
        _show_sweep(folders, as_json)
    else:
        _show_run(folders[0], time.perf_counter() - began, as_json)


def _planned(overrides: list[str], options: Any) -> list[Any]:
    """The steps of a run. Raises `UserError` for what can be seen to fail in one of them."""
    from notebento.pipeline.plan import open_run, plan
    from notebento.pipeline.preflight import refuse_visible_mistakes

    run = open_run(overrides, options, planning=True)
    steps = plan(run)
    refuse_visible_mistakes(run, [step.stage for step in steps if step.does != "cached"])
    return steps


def _show_plans(
    combined: list[list[str]], plans: list[list[Any]], multirun: bool, as_json: bool, verbose: bool
) -> None:
    if as_json:
        print_json(plans if multirun else plans[0])
        return
    for chosen, steps in zip(combined, plans, strict=True):
        if multirun:
            out.print(" ".join(chosen), style="bold", markup=False, highlight=False)
        _show_plan(steps, verbose)


def _show_plan(steps: list[Any], verbose: bool) -> None:
    from notebento.pipeline.terminal import first_reasons

    marks = {
        "cached": "[cyan]=[/] {0:<10} cached",
        "run": "[green]▸[/] {0:<10} run",
        "wait": "[dim]? {0:<10} perhaps[/]",
    }
    for step in steps:
        out.print(marks[step.does].format(step.stage), highlight=False)
        if step.does != "cached":
            for reason in step.why if verbose else first_reasons(step.why):
                out.print(f"      {reason}", style="dim", highlight=False, markup=False, soft_wrap=True)
    if all(step.does == "cached" for step in steps):
        out.print("nothing to do")


def _show_sweep(folders: list[Path], as_json: bool) -> None:
    from notebento.pipeline.comparison import sweep_rows, sweep_table, write_sweep

    rows = sweep_rows(folders)
    if as_json:
        print_json(rows)
        return
    out.print(sweep_table(rows))
    out.print(shown(write_sweep(rows, runs_folder() / "sweeps" / f"{folders[0].name}.html")), highlight=False)


def _show_run(run_dir: Path, seconds: float, as_json: bool) -> None:
    from notebento.core.artifacts import Manifest
    from notebento.pipeline import terminal

    manifest = Manifest.read(run_dir)
    if as_json:
        print_json(manifest)
    else:
        terminal.show(run_dir, manifest, out)
        out.print(f"[bold]{manifest.status}[/] in {seconds:.1f} s: {shown(run_dir)}/report.html", highlight=False)
    if manifest.status == "rejected":
        raise GateError(
            "the gate refused this model; nothing was registered", fix=f"see {shown(run_dir)}/artifacts/gate.json"
        )


@app.command()
def config(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Print the configuration that a run with these overrides would have."""
    import msgspec

    composed = plain(compose(overrides or []))
    if as_json:
        print_json(composed)
    else:
        print(msgspec.yaml.encode(composed).decode(), end="")


@app.command()
def serve(
    overrides: Overrides = None,
    version: Annotated[str, typer.Option(help="Serve this version.")] = "champion",
    host: Annotated[str, typer.Option(help="Address to listen on; serve.host by default.")] = "",
    port: Annotated[int | None, typer.Option(help="Port to listen on; serve.port by default.")] = None,
    workers: Annotated[int | None, typer.Option(help="Number of processes; serve.workers by default.")] = None,
    materialize: Annotated[bool, typer.Option(help="Fill the feature store when it is empty.")] = True,
) -> None:
    """Answer predictions over HTTP with the champion.

    A feature store that is empty for this version is filled first, from the snapshot that the version learned from.
    """
    from notebento.serving.deploy import deploy, first_request, serve_forever

    options = {"host": host or None, "port": port, "workers": workers}
    flags = [f"serve.{name}={value}" for name, value in options.items() if value is not None]
    config = compose([*(overrides or []), *flags])
    home = deploy(config.registry, config.serve, version, config.store, config.data)
    if materialize:
        features.fill_for(home, config)
    out.print(f"try: {first_request(home, config.serve)}", highlight=False, markup=False, soft_wrap=True)
    serve_forever(home, config.serve)


@app.command()
def lab(
    stage: Annotated[str, typer.Argument(metavar="[STAGE]", help="Open the notebook of this stage.")] = "",
    run: Annotated[str, typer.Option(help="On the parameters and inputs of this run.", metavar="RUN")] = "",
    library: Annotated[bool, typer.Option("--library", help="Open the library's notebooks instead.")] = False,
) -> None:
    """Open JupyterLab on the tour, or on a stage with the parameters and inputs of a run."""
    from notebento.core.artifacts import Manifest
    from notebento.pipeline.history import find_run

    if library and (stage or run):
        raise UserError("the library's notebooks are not stages of a run", fix="notebento lab --library")
    notebook, environment = "index.ipynb", {"JUPYTER_CONFIG_PATH": _jupyter_settings()}
    if run:
        environment["NOTEBENTO_RUN"] = find_run(run).name
    if stage:
        overrides = Manifest.read(find_run(run)).overrides if run else []
        notebook = stage_config(stage, compose(overrides)).notebook
    # The file browser shows the whole project: notebooks link to pages in runs/ and to files in conf/.
    folder = library_notebooks() if library else project_root()
    # Not as a file to open: the address that JupyterLab prints, for a browser on another machine, would lack it.
    page = "/lab" if library else f"/lab/tree/nbs/{quote(notebook)}"
    options = [f"--ServerApp.root_dir={folder}", f"--LabApp.default_url={page}"]
    if hasattr(os, "getuid") and os.getuid() == 0:  # as in most containers, where JupyterLab would refuse
        err.print("warning: JupyterLab runs as root, and so does every cell that it runs", highlight=False)
        options.append("--allow-root")
    os.execve(sys.executable, [sys.executable, "-m", "jupyterlab", *options], os.environ | environment)


def _jupyter_settings() -> str:
    """Where JupyterLab finds settings: ours, such as no question about news, come before those of the machine."""
    ours = str(Path(__file__).parent / "jupyter")
    return os.pathsep.join([ours, *filter(None, [os.environ.get("JUPYTER_CONFIG_PATH")])])


def library_notebooks() -> Path:
    """The folder of the library's notebooks: inside the installed package, or beside the sources of a checkout."""
    package = Path(notebento.__path__[0])
    return package / "nbs" if (package / "nbs").is_dir() else package.parents[1] / "nbs"


@app.command("train-worker", hidden=True)
def train_worker(run_dir: str) -> None:
    """One process of a training on several devices; torchrun starts it."""
    from notebento.training.job import worker

    worker(run_dir)


# In the order in which `--help` lists them: what one does, then the nouns.
app.command("new")(new.new)
app.command("update")(update.update)
app.command("verify")(runs.verify)
app.command("report")(runs.report)
app.command("check", context_settings=check.FREE)(check.check)
app.command("doctor")(doctor.doctor)
app.add_typer(runs.app, name="runs")
app.add_typer(models.app, name="models")
app.add_typer(features.app, name="features")
