"""`notebento models`: the registry."""

import shlex
from pathlib import Path
from typing import Annotated, Any

import typer
from rich.table import Table

from notebento.cli.options import AsJson, AsPage, Overrides, err, out, print_facts, print_json, shown
from notebento.core.compose import compose, project_root
from notebento.core.config import plain
from notebento.core.errors import UserError
from notebento.core.package import project_package

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
    if origin := found.lineage.imported:
        facts = {"version": found.version, "registered": found.registered, "imported": origin["file"]}
        facts |= {"SHA-256": origin["sha256"], "written by": origin["producer"], "command": origin["command"]}
    else:
        facts |= {"commit": found.lineage.commit + (" (and changes)" if found.lineage.dirty else "")}
        facts |= {"overrides": " ".join(found.lineage.overrides) or "none", "data": found.lineage.data}
    print_facts(facts | {"graph": found.digest})
    for part, metrics in plain(found.metrics).items():
        out.print(result_table(metrics, part))


@app.command("import")
def import_model(
    file: Annotated[Path, typer.Argument(help="A model as ONNX: skl2onnx, onnxmltools, Keras, JAX, PyTorch.")],
    overrides: Overrides = None,
    schema: Annotated[
        Path | None, typer.Option(help="What it reads and answers, as JSON or YAML; --draft shows the form.")
    ] = None,
    rows: Annotated[
        Path | None,
        typer.Option(help="Labelled rows that it has not learned from, CSV or Parquet: what it is measured on."),
    ] = None,
    expected: Annotated[
        str, typer.Option(help="Column of --rows with the original model's own answers, to check the conversion.")
    ] = "",
    draft: Annotated[
        bool, typer.Option("--draft", help="Only print a first schema, made of the graph's inputs.")
    ] = False,
    as_json: AsJson = False,
) -> None:
    """Register a model that was trained elsewhere: in scikit-learn, XGBoost, Keras or JAX.

    The schema says what is predicted (task, target, classes) and which fields a record has, in the order in which the model
    was trained: {"task": "binary", "target": "churned", "classes": ["no", "yes"], "record": {"age": {"type": "number",
    "required": false}, "plan": {"type": "string"}}}. Types are number, string and boolean.

    With --rows the model is measured and has to pass the gate, as every version. Without, it is registered and never
    becomes champion by itself: notebento models promote VERSION --reason '…'. With --expected, a column of the rows, it has
    to answer as the original did: the probability of yes, or a column NAME_CLASS for each class, or the predicted number.
    """
    from notebento.models.foreign import read_graph
    from notebento.models.imported import tried_draft
    from notebento.pipeline import imports
    from notebento.registry.registry import standing

    if draft:
        print_json(tried_draft(read_graph(file)))
        return
    if schema is None:
        fix = f"notebento models import {shlex.quote(str(file))} --draft > schema.json, then --schema schema.json"
        raise UserError("a graph does not say what its columns mean, so an import needs --schema", fix=fix)
    config, chosen = compose(overrides or []), overrides or []
    command = shlex.join(["notebento", "models", "import", str(file), "--schema", str(schema)])
    if expected and rows is None:
        raise UserError("--expected names a column of the rows, and there are none", fix="give them: --rows FILE")
    command += f" --rows {shlex.quote(str(rows))}" if rows else ""
    command += (f" --expected {shlex.quote(expected)}" if expected else "") + "".join(
        f" {shlex.quote(o)}" for o in chosen
    )
    package = project_package(project_root())
    version = imports.import_model(file, schema, config, rows, expected or None, package, chosen, command)
    if as_json:
        print_json(version)
        return
    for part, metrics in plain(version.metrics).items():
        from notebento.pipeline.terminal import result_table

        out.print(result_table(metrics, part))
    out.print(standing(_registry(overrides), version.version, *chosen), highlight=False, soft_wrap=True, markup=False)


@app.command("card")
def model_card(
    version: Version,
    overrides: Overrides = None,
    html: AsPage = None,
) -> None:
    """The model card of one version, as Markdown."""
    from notebento.core.artifacts import load, save_text
    from notebento.registry.card import card, card_page

    registry = _registry(overrides)
    found = registry.version(version)
    text = card(found, compose(overrides or []).registry.card, load(registry.bundle(found.version) / "schema.json"))
    if html:
        save_text(html, card_page(text))
        out.print(shown(html), highlight=False)
    else:
        print(text)


@app.command()
def bento(
    version: Version,
    folder: Annotated[Path, typer.Argument(help="Where to put it; a folder that does not exist yet.")],
    overrides: Overrides = None,
) -> None:
    """Build a bento of one version, imported or from a run: a folder with everything that answers with it."""
    from notebento.core.artifacts import atomic_write
    from notebento.data.snapshot import contracts_of
    from notebento.serving.bento import build_bento
    from notebento.serving.service import Deployment

    config, registry = compose(overrides or []), _registry(overrides)
    found = registry.version(version)
    if folder.exists():
        raise UserError(f"{folder} exists already", fix="name a folder that does not, or remove this one")
    deployment = Deployment("", "", config.serve, config.store, dict(contracts_of(config.data)))
    folder.parent.mkdir(parents=True, exist_ok=True)
    with atomic_write(folder) as aside:
        aside.mkdir()
        bundle, package = registry.bundle(found.version), registry.package(found.version)
        tag = build_bento(aside, bundle, package, found, deployment, project_root())
    out.print(f"{tag} is in {shown(folder)}; serve it: bentoml serve {shown(folder)}", highlight=False, soft_wrap=True)


@app.command()
def promote(
    version: Version, reason: Reason = "", approval: Approval = "", overrides: Overrides = None, as_json: AsJson = False
) -> None:
    """Make a version the champion."""
    entry = _registry(overrides).promote(version, reason, approval)
    if as_json:
        print_json(entry)
    else:
        _say(f"{entry.version} is the champion now; before it was {entry.prior or 'none'}")


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
