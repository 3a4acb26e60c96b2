"""What several commands take, and how all of them print."""

import json
import os
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer

from notebento.cli.streams import Printer, is_encodable

out, err = Printer(), Printer(stderr=True)

Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="[KEY=VALUE]...", help="Configuration, for example experiment=lab trainer.epochs=3."),
]
RunName = Annotated[str, typer.Argument(metavar="RUN", help="A run, the beginning of its name, or latest.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
AsPage = Annotated[Path | None, typer.Option("--html", help="Write it as a page.", metavar="FILE", dir_okay=False)]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Only say what would be removed.")]


def print_json(value: Any) -> None:
    """Print `value` as JSON on standard output; in ASCII, where that cannot encode all of it."""
    text = msgspec.json.format(msgspec.json.encode(value), indent=1).decode()
    print(text if is_encodable(text) else json.dumps(json.loads(text), indent=1))


def shown(path: Path) -> str:
    """`path` as one would type it from here."""
    return os.path.relpath(path) if path.is_relative_to(Path.cwd()) else str(path)


def counted(number: int, what: str) -> str:
    """A number and its noun: `1 run`, `2 runs`."""
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def print_facts(facts: dict[str, Any]) -> None:
    """Print names and values, one a line."""
    for name, value in facts.items():
        out.print(f"{name:<11}{value}", highlight=False, markup=False, soft_wrap=True)
