"""The command `notebento`. Each command imports what it needs when it is called, so that `--help` is quick."""

import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.table import Table

from notebento.config import GateError, NotebentoError, compose, plain, project_root

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="From notebook to bento: run the notebooks as a pipeline, keep versions, serve the champion.",
)
models = typer.Typer(no_args_is_help=True, help="The registry: versions, the champion, and how it came to be.")
app.add_typer(models, name="models")

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Configuration, for example experiment=lab trainer.epochs=3."),
]
Version = Annotated[str, typer.Argument(help="A version, the beginning of its name, or champion.")]
Reason = Annotated[str, typer.Option(help="Why, for the ledger.")]
Approval = Annotated[str, typer.Option(help="Who agreed, for the ledger.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
out, err = Console(), Console(stderr=True)


def main() -> None:
    """Run the command; an error of ours is a message and its exit status, not a traceback."""
    try:
        app()
    except NotebentoError as e:
        err.print(f"error: {e}", markup=False, highlight=False, soft_wrap=True)
        sys.exit(e.exit_status)
    except KeyboardInterrupt:
        sys.exit(130)


@app.command()
def run(
    overrides: Overrides = None,
    into: Annotated[str, typer.Option(help="Work in runs/NAME instead of a new run.", metavar="NAME")] = "",
    until: Annotated[
        list[str] | None, typer.Option(help="Run only this stage and what it rests on.", metavar="STAGE")
    ] = None,
    export: Annotated[bool, typer.Option(help="Export notebooks that changed; otherwise that is an error.")] = True,
    as_json: AsJson = False,
) -> None:
    """Run the notebooks in order: data, features, train, export, evaluate, register, bento.

    Exit status: 0 done, 1 the gate refused the model, 2 the input is wrong, 3 something broke.
    """
    from notebento import pipeline
    from notebento.run import Manifest

    began = time.perf_counter()
    with pipeline.Board(err if as_json else out) as board:
        run_dir = pipeline.run(overrides or [], into, until or [], export, board)
    manifest = Manifest.read(run_dir)
    if as_json:
        out.print_json((run_dir / "manifest.json").read_text())
    else:
        pipeline.show(run_dir, manifest, out)
        out.print(
            f"[bold]{manifest.status}[/] in {time.perf_counter() - began:.0f} s: {_shown(run_dir)}", highlight=False
        )
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
    from notebento.serve import serve_forever

    options = {"host": host or None, "port": port, "workers": workers}
    given = [f"serve.{name}={value}" for name, value in options.items() if value is not None]
    config = compose([*(overrides or []), *given])
    serve_forever(config.registry, config.serve, version)


@app.command()
def lab() -> None:
    """Open JupyterLab on the tour."""
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(project_root() / "nbs" / "index.ipynb")])


@app.command("train-worker", hidden=True)
def train_worker(run_dir: str) -> None:
    """One process of a training on several devices; torchrun starts it."""
    from notebento.train import worker

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
    from notebento.pipeline import result_table

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


@models.command()
def history(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Who registered, promoted and rolled back what, when and why."""
    rows = _registry(overrides).history()
    if as_json:
        _json(rows)
    else:
        for row in rows:
            why = row.reason + (f", approved by {row.approval}" if row.approval else "")
            print(f"{row.time[:16]}  {row.action:<8}  {row.version}  {row.actor}  {why}")


def _registry(overrides: list[str] | None) -> Any:
    from notebento.registry import Registry

    return Registry.open(compose(overrides or []).registry)


def _json(value: Any) -> None:
    print(msgspec.json.format(msgspec.json.encode(value), indent=1).decode())


def _shown(path: Path) -> str:
    """`path` as one would type it from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)
