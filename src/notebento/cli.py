"""The command `notebento`. Each command imports what it needs when it is called, so that `--help` is quick."""

import json
import os
import sys
import time
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.console import Console

from notebento.config import GateError, NotebentoError, compose, project_root

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
    as_json: AsJson = False,
) -> None:
    """Run the notebooks in order: data, features, train, export, evaluate, register, bento.

    Exit status: 0 done, 1 the gate refused the model, 2 the input is wrong, 3 something broke.
    """
    from notebento import pipeline
    from notebento.run import Manifest

    began = time.perf_counter()
    with pipeline.Board(err if as_json else out) as board:
        run_dir = pipeline.run(overrides or [], into, until or [], board)
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
    version: Annotated[str, typer.Option(help="A version instead of the champion.")] = "",
    port: Annotated[int | None, typer.Option(help="Default: serve.port.")] = None,
    host: Annotated[str | None, typer.Option(help="Default: serve.host.")] = None,
) -> None:
    """Answer predictions over HTTP with the champion."""
    from notebento.serve import serve as start

    given = [f"serve.port={port}"] * (port is not None) + [f"serve.host={host}"] * (host is not None)
    start(compose([*(overrides or []), *given]), version)


@app.command()
def lab() -> None:
    """Open JupyterLab on the tour."""
    os.execv(sys.executable, [sys.executable, "-m", "jupyterlab", str(project_root() / "nbs" / "index.ipynb")])


@app.command("train-worker", hidden=True)
def train_worker(run_dir: str) -> None:
    """One process of a training on several devices; torchrun starts it."""
    from notebento.train import worker

    worker(run_dir)


def _shown(path: Path) -> str:
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def _print(rows: Any, as_json: bool) -> None:
    print(json.dumps(rows, indent=1, default=str)) if as_json else out.print(rows)
