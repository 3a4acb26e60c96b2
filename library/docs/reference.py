"""Two pages made from code: every command with its options, and every key of the configuration."""

import ast
import inspect
import re
import tokenize
from collections.abc import Iterator
from functools import cache
from io import StringIO
from types import ModuleType, NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, Union, get_args, get_origin, get_type_hints

import msgspec
import typer
from msgspec import Meta

from notebento.cli.main import app
from notebento.core import config
from notebento.core.config import Config, Node, imported, plain

# ---- commands


def commands_page() -> str:
    """Every command, as `--help` describes it."""
    root = typer.main.get_command(app)
    context = typer.Context(root, info_name="notebento")
    head = [
        "# Command line",
        "> Every command of `notebento`, with all its options.",
        "",
        "Overrides, `KEY=VALUE`, are explained on the page about the [configuration](configuration.md). The exit",
        "status is 0 for done, 1 if a check or gate refused, 2 for wrong input, and 3 if something broke.",
        "",
    ]
    return "\n".join([*head, *_command(root, context)]) + "\n"


def _command(command: Any, context: Any) -> Iterator[str]:
    if context.parent:
        yield from [f"{'#' * min(1 + context.command_path.count(' '), 3)} {context.command_path}", ""]
        yield from [_paragraphs(command.help or ""), ""]
        usage = " ".join(command.collect_usage_pieces(context))
        yield from ["```text", f"{context.command_path} {usage}", "```", ""]
        yield from _parameters(command, context)
    for name in command.list_commands(context) if hasattr(command, "list_commands") else ():
        inner = command.get_command(context, name)
        if not inner.hidden:
            yield from _command(inner, typer.Context(inner, info_name=name, parent=context))


def _paragraphs(text: str) -> str:
    return inspect.cleandoc(text).replace("\b", "").replace("\f", "").strip()


def _parameters(command: Any, context: Any) -> Iterator[str]:
    rows = []
    for parameter in command.params:
        if getattr(parameter, "hidden", False):
            continue
        names = [*parameter.opts, *parameter.secondary_opts]
        if parameter.param_type_name == "argument":
            names = [parameter.make_metavar(context)]
        elif not parameter.is_flag:
            names[0] += " " + parameter.make_metavar(context).replace("int range", "int")
        default = parameter.get_default(context)
        shown = (
            "" if default in (None, "", False, [], ()) or callable(default) or parameter.required else f"`{default}`"
        )
        cells = (", ".join(f"`{name}`" for name in names), parameter.help or "", "on" if default is True else shown)
        rows.append("| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |")
    if rows:
        yield from ["| argument or option | meaning | default |", "|---|---|---|", *rows, ""]


# ---- configuration

# What a `_target_` of the configuration may name in the library: the place, and the classes.
TARGETS = {
    "data.source": ["notebento.data.sources.Table"],
    "features": ["notebento.features.columns.Columns"],
    "model": ["notebento.models.lightgbm.LightGBM", "notebento.models.linear.Linear"],
    "evaluate.baselines": ["notebento.evaluation.baselines.Constant"],
}
CONFIGURATION = """# Configuration
> Every key of the library, its default, what it may be, and what it means.

A project's `conf/` has a folder for each group and a file for each choice; a key that no file names has the default
below. On the command line `KEY=VALUE` changes a value (`trainer.epochs=3`), `GROUP=FILE` chooses another file
(`model=lightgbm`), and `experiment=NAME` a combination from `conf/experiment/`. `notebento config` prints the whole
configuration of a run. A key that does not exist is an error that proposes the nearest one.

Where a table says *a class*, the configuration names one, `_target_: package.module.Class`, and the other keys of that
place are its fields. The fields of the library's own classes are at [the end](#classes-of-the-library).
"""


class Field(NamedTuple):
    """A field of a class: what the source says about it."""

    name: str
    hint: Any
    default: str
    comment: str


def configuration_page() -> str:
    """Every key of the configuration that the library knows."""
    lines, comments = [CONFIGURATION], _fields(config)
    hints = get_type_hints(Config, include_extras=True)
    own = [f for f in comments["Config"] if not _is_struct(f.hint) or f.hint is Node]
    lines += ["## The run", "", *_table("", own, comments)]
    for name in Config.__struct_fields__:
        if _is_struct(hints[name]):
            lines += [f"## {name}", "", (hints[name].__doc__ or "").strip(), ""]
            lines += _table(f"{name}.", comments[hints[name].__name__], comments)
    lines += ["## Classes of the library", ""]
    for place, classes in TARGETS.items():
        for path in classes:
            lines += _class(place, path)
    return "\n".join(lines) + "\n"


def _table(prefix: str, fields: list[Field], known: dict[str, list[Field]]) -> list[str]:
    rows = [row for f in fields for row in _rows(prefix, f, known)]
    return ["| key | default | may be | meaning |", "|---|---|---|---|", *rows, ""]


def _rows(prefix: str, field: Field, known: dict[str, list[Field]]) -> Iterator[str]:
    """The row of a field; of a group of fields, or of a mapping of such groups, those of the fields."""
    key, inner, comment = prefix + field.name, field.hint, field.comment
    if get_origin(inner) is dict:
        inner = get_args(inner)[1]
        if _is_struct(inner):
            key += ".NAME"
    if _is_struct(inner) and inner is not Node:
        if comment:
            yield f"| `{key}` | | | {comment} |"
        for own in known[inner.__name__]:
            yield from _rows(f"{key}.", own, known)
        return
    yield f"| `{key}` | {f'`{field.default}`' if field.default else ''} | {_words(field.hint)} | {comment} |"


def _is_struct(hint: Any) -> bool:
    return isinstance(hint, type) and issubclass(hint, msgspec.Struct)


def _class(place: str, path: str) -> list[str]:
    """The fields of a class of the library, those that it inherits first."""
    kind = imported(path)
    own = [c for c in reversed(kind.__mro__) if "__annotations__" in vars(c) and c.__module__.startswith("notebento")]
    fields = [field for c in own for field in _fields(inspect.getmodule(c)).get(c.__name__, ())]
    docstring = (kind.__doc__ or "").strip().partition("\n")[0]
    return [f"### {kind.__name__}", "", f"`{place}._target_: {path}`", "", docstring, "", *_table("", fields, {})]


@cache
def _fields(module: ModuleType) -> dict[str, list[Field]]:
    """The fields of the classes in `module`, with what the comments beside them say."""
    text = inspect.getsource(module)
    comments, found = _comments(text), {}
    for node in (n for n in ast.parse(text).body if isinstance(n, ast.ClassDef)):
        kind = getattr(module, node.name)
        if _is_struct(kind):
            hints = get_type_hints(kind, include_extras=True)
            fields = (f for f in _fields_of(node, comments) if f.name in kind.__struct_fields__)
            found[node.name] = [f._replace(hint=hints[f.name]) for f in fields]
    return found


def _fields_of(node: ast.ClassDef, comments: dict[int, tuple[str, bool]]) -> Iterator[Field]:
    for item in node.body:
        if isinstance(item, ast.AnnAssign) and isinstance(item.target, ast.Name):
            assert item.end_lineno
            beside = [comments[n][0] for n in range(item.lineno, item.end_lineno + 1) if n in comments]
            above, line = list[str](), item.lineno - 1
            while line in comments and comments[line][1]:
                above.insert(0, comments[line][0])
                line -= 1
            said = " ".join([*above, *beside]).replace("|", "\\|").replace("<", "&lt;")
            default = "" if item.value is None else _value(item.value)
            yield Field(item.target.id, ast.unparse(item.annotation), default, said)


def _value(node: ast.expr) -> str:
    """A default as one would write it in a file of the configuration."""
    try:
        value = ast.literal_eval(node)
    except ValueError:
        return _node(ast.unparse(node))
    return msgspec.json.encode(value).decode() if value is not None else "null"


def _node(source: str) -> str:
    value = eval(source, {"Node": Node, "msgspec": msgspec, **vars(config)})  # a default in the library's own code
    return msgspec.json.encode(plain(value)).decode() if isinstance(value, Node) else ""


def _comments(text: str) -> dict[int, tuple[str, bool]]:
    """The comments by line, and whether one has its line to itself."""
    tokens = tokenize.generate_tokens(StringIO(text).readline)
    return {
        t.start[0]: (t.string.lstrip("# ").strip(), t.line.lstrip().startswith("#"))
        for t in tokens
        if t.type == tokenize.COMMENT and not t.string.startswith(("# %%", "#|"))
    }


KINDS = {int: "an integer", float: "a number", str: "a text", bool: "true or false", Node: "a class, or a mapping"}


def _words(hint: Any) -> str:
    """What a type allows, in words."""
    origin, inner = get_origin(hint), get_args(hint)
    if origin is Annotated:
        limits = next((m for m in inner[1:] if isinstance(m, Meta)), Meta())
        return _limited(_words(inner[0]), limits)
    if origin in (Union, UnionType):
        kinds = [_words(k) for k in inner if k is not NoneType]
        return " or ".join([*dict.fromkeys(kinds), *(["null"] if NoneType in inner else [])])
    if origin is Literal:
        return ", ".join(f"`{word}`" for word in inner)
    if origin in (tuple, list):
        return "a list: " + _words(inner[0]).removesuffix(" (not empty)")
    if origin is dict:
        return "a mapping, names to " + _words(inner[1]).removesuffix(" (not empty)")
    return KINDS.get(hint) or f"`{getattr(hint, '__name__', hint)}`"


def _limited(kind: str, limits: Meta) -> str:
    if limits.pattern:
        return "a duration: `90m`, `4h`, `2d`" if "mhd" in limits.pattern else f"{kind} like `{limits.pattern}`"
    if limits.min_length:
        return f"{kind} (not empty)"
    bounds = {"≥": limits.ge, ">": limits.gt, "≤": limits.le, "<": limits.lt}
    said = " and ".join(f"{sign} {_number(value)}" for sign, value in bounds.items() if value is not None)
    return f"{kind} {said}".replace("<", "&lt;").replace(">", "&gt;")


def _number(value: float) -> str:
    if value == 2**32:
        return "2³²"
    return re.sub(r"e\+0?", "e", f"{value:g}") if abs(value) >= 1e7 else f"{value:,}"
