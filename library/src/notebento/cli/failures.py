"""How a command ends that cannot do what it was asked: a message and an exit status.

0 done, 1 a check or a gate said no, 2 the user's input is wrong, 3 something broke, 130 interrupted, 141 nobody reads
its output any more, 143 terminated.
"""

import os
import re
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from typer.core import TyperGroup

from notebento.cli.options import err, shown
from notebento.cli.streams import accept_any_encoding, discard_output
from notebento.core.compose import runs_folder
from notebento.core.errors import NotebentoError
from notebento.core.runs import leading

BROKEN = NotebentoError.exit_status
ADVISED = [f"notebento {c}" for c in ("run", "serve", "models list", "models history", "features materialize")]


class Commands(TyperGroup):
    """Commands whose errors are messages. Typer itself would end without a word when one is interrupted."""

    def main(self, *args: Any, **options: Any) -> Any:
        """Run the command line."""
        accept_any_encoding()
        return super().main(*args, **options)

    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """The command that `args` begin with. A command of a noun is proposed where the noun is missing."""
        of_noun = {name: noun for noun, group in self.commands.items() for name in getattr(group, "commands", ())}
        if args[0] not in self.commands and args[0] in of_noun:
            ctx.fail(f"No such command '{args[0]}'. Did you mean '{of_noun[args[0]]} {args[0]}'?")
        return super().resolve_command(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except NotebentoError as e:
            for message in (e, *getattr(e, "__notes__", ())):
                text = with_arguments(str(message), sys.argv[1:])
                err.print(f"error: {text}", markup=False, highlight=False, soft_wrap=True)
            ctx.exit(e.exit_status)
        except BrokenPipeError:
            ctx.exit(discard_output())
        except KeyboardInterrupt as e:
            err.print("interrupted: what is finished stays, and the same command continues", highlight=False)
            ctx.exit(130 if type(e) is KeyboardInterrupt else 143)  # of the interrupt key, of SIGTERM


def with_arguments(text: str, arguments: list[str]) -> str:
    """`text` whose commands lead to the registry and the store that `arguments` were about."""
    same = " ".join(leading([a for a in arguments if "=" in a and not a.startswith("-")]))
    return re.sub(f"({'|'.join(ADVISED)})(?![ \\w])", rf"\1 {same}", text) if same else text


def report_crash(error: Exception) -> int:
    """Say on standard error what broke, and where its traceback is; returns the exit status."""
    text = "".join(traceback.format_exception(error))
    try:
        place = runs_folder() / "logs" / f"{time.strftime('%Y%m%d-%H%M%S', time.gmtime())}-{os.getpid()}.log"
        place.parent.mkdir(parents=True, exist_ok=True)
        place.write_text(f"{' '.join(sys.argv)}\n{Path.cwd()}\n\n{text}", encoding="utf-8")
    except (NotebentoError, OSError):  # outside of a project, or nowhere to write to
        sys.stderr.write(text)
        return BROKEN
    what = f"{type(error).__name__}: {error}".strip().splitlines()[0]
    err.print(f"error: {what}\n  traceback: {shown(place)}", markup=False, highlight=False, soft_wrap=True)
    return BROKEN
