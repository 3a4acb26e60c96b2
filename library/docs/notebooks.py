"""A notebook as a page: its prose, its code, its outputs; once for the site and once as plain Markdown."""

import ast
import json
import re
from collections.abc import Iterator
from html import escape
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from notebento.pipeline.rendering import cleaned, picture, plain_text, prose

HIDDEN = re.compile(r"^#\|\s*(hide|default_exp)\b", re.M)
EXPORTED = re.compile(r"^#\|\s*export\b", re.M)
DIRECTIVE = re.compile(r"^#\|.*\n?", re.M)


class Markup(NamedTuple):
    """A page, or a part of it: for Sphinx, and for who reads Markdown."""

    site: str
    plain: str


def notebook_markup(path: Path, module: str = "") -> Markup:
    """The notebook `path`. What it exports to `module` can be linked to by name."""
    parts = [*_parts(json.loads(path.read_text(encoding="utf-8"))["cells"], module)]
    return Markup(*("\n\n".join(filter(None, kind)) + "\n" for kind in zip(*parts, strict=True)))


def title_and_summary(text: str) -> tuple[str, str]:
    """The first heading of a page, and the quoted line below it."""
    title = re.search(r"^# (.+)$", text, re.M)
    summary = re.search(r"^> (.+)$", text, re.M)
    assert title, f"no title: {text[:80]}"
    return title[1].strip(), summary[1].strip() if summary else ""


def _parts(cells: list[dict[str, Any]], module: str) -> Iterator[Markup]:
    if module:
        yield Markup(f"```{{py:module}} {module}\n```", "")
    for cell in cells:
        source = "".join(cell["source"])
        if cell["cell_type"] == "markdown":
            yield Markup(source, source)
        elif cell["cell_type"] == "code" and not HIDDEN.search(source):
            yield from _code(source, module)
            yield _outputs(cell.get("outputs", []))
    if rows := [*_described(cells)] if module else []:
        links = (f"| {{py:obj}}`~{module}.{name}` | {said} |" for name, said in rows)
        yield Markup("\n".join(["## All names", "", "| name | |", "|---|---|", *links]), "")


def _code(source: str, module: str) -> Iterator[Markup]:
    """A cell of code. Names that it exports get anchors; a list of imports is folded away on the site."""
    exported, source = bool(EXPORTED.search(source)), DIRECTIVE.sub("", source).strip("\n")
    if not source:
        return
    if exported and module:
        yield Markup("\n".join(_anchor(name, kind) for name, kind in public(source)), "")
    plain = fenced(source, "python")
    site = fenced(source, "{code-block} python", ":class: exported\n" if exported else "")
    if _only_imports(source):
        site = f'<details class="imports"><summary>imports</summary>\n\n{site}\n\n</details>'
    yield Markup(site, plain)


def _outputs(outputs: list[dict[str, Any]]) -> Markup:
    shown = [_output(output) for output in _joined(outputs)]
    if not shown:
        return Markup("", "")
    html = re.sub(r"\n\s*\n", "\n \n", "\n".join(s.site for s in shown))  # an empty line ends what the pages take over
    plain = "\n\n".join(filter(None, (s.plain for s in shown)))
    return Markup(fenced(f'<div class="output">\n{html}\n</div>', "{raw} html"), plain)


def _joined(outputs: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What was printed in many small pieces as one output."""
    for printed, group in groupby(outputs, lambda output: output["output_type"] == "stream"):
        if printed:
            yield {"data": {"text/plain": "".join("".join(output["text"]) for output in group)}}
        else:
            yield from group


def _output(output: dict[str, Any]) -> Markup:
    """One output: of its forms a picture, else HTML, else text."""
    data = output.get("data") or {"text/plain": "\n".join(output["traceback"])}
    text = plain_text("".join(data.get("text/plain", "")))
    plain = fenced(text, "text") if text and not re.match(r"<Figure size|<IPython", text) else ""
    if image := picture(data, output.get("metadata", {}).get("caption", "")):
        width = f' width="{image.width}"' if image.width else ""
        caption = f"<figcaption>{escape(image.caption)}</figcaption>" if image.caption else ""
        return Markup(
            f'<figure><img src="{image.source}" alt="{escape(image.caption)}"{width}>{caption}</figure>', plain
        )
    html = (
        prose("".join(data["text/markdown"]))
        if "text/markdown" in data
        else cleaned("".join(data.get("text/html", "")))
    )
    if re.search(r"<img |(^|>)\s*[^<\s]", html):  # something is left of it
        return Markup(f'<div class="scroll">{html}</div>', plain)
    return Markup(f"<pre>{escape(text)}</pre>" if text else "", plain)


def fenced(text: str, kind: str, options: str = "") -> str:
    """A fenced block; the fence is longer than any in `text`."""
    longest = max((len(m) for m in re.findall(r"`{3,}", text)), default=2)
    fence = "`" * (longest + 1)
    return f"{fence}{kind}\n{options}{chr(10) if options else ''}{text}\n{fence}"


def _only_imports(source: str) -> bool:
    try:
        statements = ast.parse(source).body
    except SyntaxError:  # a magic
        return False
    imports = (ast.Import, ast.ImportFrom)
    guarded = [s for s in statements if isinstance(s, ast.If) and all(isinstance(t, imports) for t in s.body)]
    return all(isinstance(s, imports) or s in guarded for s in statements) and source.count("\n") > 1


def public(source: str) -> Iterator[tuple[str, str]]:
    """The public names that code defines at its top, and the kind of each."""
    for node in ast.parse(source).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                names, kind = [name], "function"
            case ast.ClassDef(name=name):
                names, kind = [name], "class"
            case ast.Assign(targets=targets):
                elements = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
                names, kind = [e.id for e in elements if isinstance(e, ast.Name)], "data"
            case ast.AnnAssign(target=ast.Name(id=name)):
                names, kind = [name], "data"
            case _:
                continue
        yield from ((name, kind) for name in names if not name.startswith("_"))


def _described(cells: list[dict[str, Any]]) -> Iterator[tuple[str, str]]:
    """The public functions and classes that a notebook exports, and the first line of what they say of themselves."""
    for source in ("".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"):
        for node in ast.parse(source).body if EXPORTED.search(source) else ():
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and node.name[0] != "_":
                yield node.name, (ast.get_docstring(node) or "").partition("\n")[0].replace("|", "\\|")


def _anchor(name: str, kind: str) -> str:
    """Where a name of the page's module is defined."""
    call = "()" if kind == "function" else ""
    return f"```{{py:{kind}}} {name}{call}\n:no-typesetting:\n```"
