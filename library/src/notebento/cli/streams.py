"""Output for any terminal and pipe: what it cannot encode is written plainly, and a reader that leaves ends the command."""

import codecs
import errno
import io
import os
import sys
import unicodedata
from typing import NoReturn

from rich.console import Console

UNREAD = 141  # the exit status of a command whose reader left: 128 and SIGPIPE, as in a shell
PLAIN = {
    "▸": ">",
    "✓": "+",
    "✗": "x",
    "·": "-",
    "│": "|",
    "─": "-",
    "–": "-",
    "—": "-",
    "×": "x",
    "→": "->",
    "‰": "/1000",
}


def substitute(error: UnicodeError) -> tuple[str, int]:
    """Plain text for the characters that `error` could not encode: `u` for `ü`, `>` for `▸`, else `?`."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return "".join(map(_plain, error.object[error.start : error.end])), error.end


def _plain(character: str) -> str:
    letters = unicodedata.normalize("NFKD", PLAIN.get(character, character))
    return letters.encode("ascii", "ignore").decode() or "?"


codecs.register_error("notebento", substitute)


def accept_any_encoding() -> None:
    """Let standard output and standard error take every character, whatever their encoding."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="notebento")


def decoded(arguments: list[str]) -> list[str]:
    """`arguments` as UTF-8, whatever the locale: in that of C every other byte comes in as a lone surrogate."""
    return [os.fsencode(argument).decode("utf-8", errors="replace") for argument in arguments]


def is_encodable(text: str) -> bool:
    """Can standard output write `text` as it is?"""
    try:
        text.encode(getattr(sys.stdout, "encoding", None) or "utf-8")
    except UnicodeEncodeError:
        return False
    return True


class Printer(Console):
    """A console that reports a closed pipe; rich would end with 1, as a gate does that says no."""

    def on_broken_pipe(self) -> NoReturn:
        """Whoever read the output left."""
        raise BrokenPipeError(errno.EPIPE, os.strerror(errno.EPIPE))


def discard_output() -> int:
    """Write what is left to nowhere; returns the exit status."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    for stream in (sys.stdout, sys.stderr):
        if stream is not None:
            os.dup2(nowhere, stream.fileno())
    return UNREAD
