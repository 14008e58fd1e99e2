"""The terminal: output that never fails, a question that can be interrupted, and counts in words."""

from __future__ import annotations

import contextlib
import io
import os
import select
import shutil
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import typer

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "confirm",
    "forgiving_output",
    "lost_output",
    "tell",
    "terminal_width",
    "unfailing_output",
    "wrapped",
]

# How long a Ctrl-C that arrives just as we begin to wait may go unnoticed.
LOOK_S = 0.1
_ANSWERS = {"y": True, "yes": True, "n": False, "no": False, "": False}


def confirm(question: str) -> bool:
    """Ask on the terminal; "no" is the default.

    Python's own `input` misses a Ctrl-C between its prompt and its first look at the keyboard, and waits for another.

    Raises:
        typer.Abort: Ctrl-C, or the end of the input.
    """
    while True:
        try:
            typer.echo(f"{question} [y/N]: ", nl=False, err=True)
            answer = _line()
        except KeyboardInterrupt:
            answer = ""
        if not answer:
            typer.echo(err=True)
            raise typer.Abort
        word = answer.strip().lower()
        if word in _ANSWERS:
            return _ANSWERS[word]
        typer.echo("please answer y or n", err=True)


def forgiving_output() -> None:
    """Print a character that the screen's encoding lacks as its escape, instead of failing in the middle of a file."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")


def unfailing_output(on_lost: Callable[[str], None] = lambda _reason: None) -> None:
    """Make output that never fails in the middle of a command; `forgiving_output` is part of it.

    What cannot be written (the reader of a pipe has gone, the disk is full, the terminal was closed) is dropped, and *on_lost* is told the
    reason, once for each stream. For commands that must come to their own end; others rather stop.
    """
    for name in ("stdout", "stderr"):
        stream = getattr(sys, name)
        if isinstance(stream, _Output):
            setattr(sys, name, stream.stream)
    forgiving_output()
    sys.stdout, sys.stderr = _Output(sys.stdout, on_lost), _Output(sys.stderr, on_lost)


def terminal_width() -> int | None:
    """Columns of the terminal that standard output is; None if it is none, and lines may be as long as they are."""
    return shutil.get_terminal_size().columns if sys.stdout.isatty() else None


def wrapped(text: str, width: int | None) -> str:
    """*text* in lines of at most *width* columns, cut between words only; what follows a line is indented behind it."""
    if width is None:
        return text
    lines: list[str] = []
    for line in text.split("\n"):
        indent = " " * (len(line) - len(line.lstrip()))
        lines += (
            textwrap.wrap(
                line.strip(),
                width,
                initial_indent=indent,
                subsequent_indent=f"{indent}  ",
                break_long_words=False,
                break_on_hyphens=False,
            )
            if len(line) > width
            else [line]
        )
    return "\n".join(lines)


def tell(text: str) -> None:
    """Print a result: lines on standard output, wrapped on a terminal."""
    typer.echo(wrapped(text, terminal_width()))


def lost_output() -> OSError | None:
    """Why standard output could not be written, if it could not; what is still buffered is written first."""
    stream = sys.stdout
    if not isinstance(stream, _Output):
        return None
    stream.flush()
    return stream.error


class _Output:
    """A text stream that drops what it cannot write."""

    def __init__(self, stream: Any, on_lost: Callable[[str], None]) -> None:
        self.stream = stream
        self.error: OSError | None = None
        self._on_lost = on_lost

    def write(self, text: str) -> int:
        if self.error is None:
            try:
                self.stream.write(text)
            except OSError as error:
                self._lose(error)
        return len(text)

    def flush(self) -> None:
        if self.error is None:
            try:
                self.stream.flush()
            except OSError as error:
                self._lose(error)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)

    def _lose(self, error: OSError) -> None:
        self.error = error
        # Python writes the rest of its buffer at its end and would complain; there it goes nowhere.
        with contextlib.suppress(OSError, ValueError):
            nowhere = os.open(os.devnull, os.O_WRONLY)
            os.dup2(nowhere, self.stream.fileno())
            os.close(nowhere)
        self._on_lost(f"the output cannot be written ({error.strerror or error})")


def _line() -> str:
    """The typed line, with its line end; empty at the end of the input."""
    if os.name == "nt":
        # Windows can select on sockets only; there the console itself ends a read at Ctrl-C.
        return sys.stdin.readline()
    while not select.select([sys.stdin], [], [], LOOK_S)[0]:
        pass
    # A terminal gives a line at a time. `sys.stdin` would take two, and the second would never be selected.
    return os.read(sys.stdin.fileno(), 4096).decode(errors="replace")
