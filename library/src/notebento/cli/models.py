"""`notebento models`: the registry."""

from typing import Annotated, Any

import typer
from rich.table import Table

from notebento.cli.options import AsJson, Overrides, err, out, print_facts, print_json
from notebento.core.compose import compose
from notebento.core.config import plain

app = typer.Typer(no_args_is_help=True, help="The registry: versions, the champion, and how it came to be.")

Version = Annotated[str, typer.Argument(help="A version, the beginning of its name, or champion.")]
Reason = Annotated[str, typer.Option(help="Why, for the ledger.")]
Approval = Annotated[str, typer.Option(help="Who agreed, for the ledger.")]


@app.command("list")
def list_models(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Every version, and who is champion."""
    from notebento.evaluation.metrics import headline_names
    from notebento.registry.registry import other_ledgers, summaries

    registry = _registry(overrides)
    rows = summaries(registry)
    if as_json:
        print_json(rows)
    elif not rows:
        out.print(f"nothing is registered in the ledger {registry.ledger.name} yet: notebento run", highlight=False)
    else:
        names = headline_names([*dict.fromkeys(name for row in rows for name in row.test)])
        table = Table("", "version", "registered", "run", *names)
        for row in rows:
            metrics = (f"{row.test[m]:.4f}" if m in row.test else "" for m in names)
            table.add_row("*" if row.champion else "", row.version, row.registered[:16], row.run, *metrics)
        out.print(table)
    if not as_json and (others := other_ledgers(registry, "models list")):
        text = f"other ledgers have versions: {others}"
        err.print(text, style="dim", highlight=False, markup=False, soft_wrap=True)


@app.command()
def show(version: Version, overrides: Overrides = None, as_json: AsJson = False) -> None:
    """The facts of one version: where it comes from, and how good it is."""
    from notebento.pipeline.terminal import result_table

    found = _registry(overrides).version(version)
    if as_json:
        print_json(found)
        return
    facts = {"version": found.version, "registered": found.registered, "run": found.lineage.run}
    facts |= {"commit": found.lineage.commit + (" (and changes)" if found.lineage.dirty else "")}
    facts |= {"overrides": " ".join(found.lineage.overrides) or "none", "data": found.lineage.data}
    print_facts(facts | {"graph": found.digest})
    for part, metrics in plain(found.metrics).items():
        out.print(result_table(metrics, part))


@app.command()
def promote(
    version: Version, reason: Reason = "", approval: Approval = "", overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Make a version the champion."""
    entry = _registry(overrides).promote(version, reason, approval)
    if as_json:
        print_json(entry)
    else:
        _say(f"{entry.version} is the champion now; before it was {entry.prior}")


@app.command()
def rollback(
    reason: Reason = "", approval: Approval = "", overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Make the champion before this one the champion again."""
    entry = _registry(overrides).rollback(reason, approval)
    if as_json:
        print_json(entry)
    else:
        _say(f"{entry.version} is the champion again; before it was {entry.prior}")


def _say(decision: str) -> None:
    out.print(decision, highlight=False)
    out.print("a service that runs keeps its version until it is started again", style="dim")


@app.command()
def history(overrides: Overrides = None, as_json: AsJson = False) -> None:
    """Who registered, promoted and rolled back what, when and why."""
    rows = _registry(overrides).history()
    if as_json:
        print_json(rows)
        return
    for row in rows:
        why = row.reason + (f", approved by {row.approval}" if row.approval else "")
        print(f"{row.time[:16]}  {row.action:<8}  {row.version}  {row.actor}  {why}")


def _registry(overrides: list[str] | None) -> Any:
    from notebento.registry.registry import Registry

    return Registry.open(compose(overrides or []).registry)
