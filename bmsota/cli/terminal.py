"""The terminal: output that never fails, a question that can be interrupted, and counts in words."""

from __future__ import annotations

import io
import os
import select
import sys

import typer

__all__ = ["confirm", "counted", "forgiving_output"]

# How long a Ctrl-C that arrives just as we begin to wait may go unnoticed.
LOOK_S = 0.1
_ANSWERS = {"y": True, "yes": True, "n": False, "no": False, "": False}


def counted(count: int, noun: str) -> str:
    """As "1 node" or "3 nodes"."""
    return f"{count} {noun}{'' if count == 1 else 's'}"


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


def _line() -> str:
    """The typed line, with its line end; empty at the end of the input."""
    if os.name == "nt":
        # Windows can select on sockets only; there the console itself ends a read at Ctrl-C.
        return sys.stdin.readline()
    while not select.select([sys.stdin], [], [], LOOK_S)[0]:
        pass
    # A terminal gives a line at a time. `sys.stdin` would take two, and the second would never be selected.
    return os.read(sys.stdin.fileno(), 4096).decode(errors="replace")
