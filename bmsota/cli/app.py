"""`bmsota`: its commands, put together.

Exit codes, the same for every command: 0 success, 1 the input or the other side was at fault (one line says how), 2 usage
error. The commands that use a CAN adapter have more (`fault_table.ExitCode`). A user's mistake never shows a traceback.
"""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from importlib import import_module
from typing import Annotated, Any

import typer
from rich.console import Console

from bmsota import __version__
from bmsota.cli import decode, encode, send
from bmsota.cli.extras import extra_error, missing_extra
from bmsota.errors import BmsotaError, MissingExtraError

__all__ = ["app", "run"]

app = typer.Typer(
    name="bmsota",
    help="Update and monitor battery management systems: cloud frames, CAN, firmware images.",
    no_args_is_help=True,
    rich_markup_mode=None,  # Its boxes cut options and texts on 80 columns.
    pretty_exceptions_enable=False,
)


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"bmsota {__version__}")
        raise typer.Exit


@app.callback()
def bmsota(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Update and monitor battery management systems."""


app.command(name="decode")(decode.command)
app.command(name="encode")(encode.command)
app.command(name="send")(send.command)


def _add_can_command(name: str, module: str, function: str) -> None:
    """Add a command that needs the extra `can`; without it, one that says so when it is called."""
    try:
        found: Any = getattr(import_module(f"bmsota.cli.{module}"), function)
        as_command: Any = None if name == "dbc" else import_module("bmsota.cli.bus_options").CanCommand
    except ImportError as error:
        if missing_extra(error) is None:
            raise
        settings = {"allow_extra_args": True, "ignore_unknown_options": True}
        app.command(
            name=name, help="Not installed: needs the extra 'can'.", add_help_option=False, context_settings=settings
        )(_without_extra)
        return
    if as_command is None:
        app.add_typer(found, name=name)
    else:
        app.command(name=name, cls=as_command)(found)


def _without_extra() -> None:
    raise extra_error("can")


for _name, _module, _function in (
    ("dbc", "dbc", "app"),
    ("adapters", "adapters", "command"),
    ("nodes", "nodes", "nodes_command"),
    ("flash", "flash", "command"),
    ("verify", "nodes", "verify_command"),
    ("reset", "nodes", "reset_command"),
):
    _add_can_command(_name, _module, _function)


_OUTPUT_ERRNOS = {errno.EPIPE, errno.ENOSPC, errno.EDQUOT}


def run() -> None:
    """Run the command line and turn the library's refusals, and output that cannot be written, into one line and exit code 1."""
    try:
        try:
            app()
        finally:
            sys.stdout.flush()
    except MissingExtraError:
        raise  # The console script names the extra.
    except BmsotaError as error:
        if (missing := missing_extra(error)) is not None:
            raise missing from error
        _complain(str(error))
        raise SystemExit(1) from error
    except OSError as error:
        if error.errno not in _OUTPUT_ERRNOS:
            raise
        # Python writes the rest of its buffer at its end and would complain; there it goes nowhere.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if error.errno != errno.EPIPE:  # A reader that has seen enough is told nothing, as click does it.
            _complain(f"the output cannot be written: {error.strerror or error}")
        raise SystemExit(1) from error


def _complain(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"bmsota: {text}", style="red", markup=False, highlight=False)
