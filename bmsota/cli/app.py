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
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.console import Console

from bmsota import __version__
from bmsota.cli.extras import extra_error, missing_extra
from bmsota.cli.lazy import LazyGroup
from bmsota.errors import BmsotaError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["app", "run"]


def _from(module: str, name: str) -> Callable[[typer.Typer], None]:
    def add(part: typer.Typer) -> None:
        part.command(name=name)(import_module(f"bmsota.cli.{module}").command)

    return add


def _from_can(name: str, module: str, function: str) -> Callable[[typer.Typer], None]:
    """What adds a command that needs the extra `can`; without it, one that says so when it is called."""

    def add(part: typer.Typer) -> None:
        try:
            found: Any = getattr(import_module(f"bmsota.cli.{module}"), function)
            as_command: Any = None if name == "dbc" else import_module("bmsota.cli.bus_options").CanCommand
        except ImportError as error:
            if missing_extra(error) is None:
                raise
            settings = {"allow_extra_args": True, "ignore_unknown_options": True}
            part.command(
                name=name,
                help="Not installed: needs the extra 'can'.",
                add_help_option=False,
                context_settings=settings,
            )(_without_extra)
            return
        if as_command is None:
            part.add_typer(found, name=name)
        else:
            part.command(name=name, cls=as_command)(found)

    return add


def _without_extra() -> None:
    raise extra_error("can")


class _Group(LazyGroup):
    later = {  # noqa: RUF012 - of the class, as `LazyGroup` says
        "decode": _from("decode", "decode"),
        "encode": _from("encode", "encode"),
        "send": _from("send", "send"),
        "adapters": _from_can("adapters", "adapters", "command"),
        "nodes": _from_can("nodes", "nodes", "nodes_command"),
        "flash": _from_can("flash", "flash", "command"),
        "verify": _from_can("verify", "nodes", "verify_command"),
        "reset": _from_can("reset", "nodes", "reset_command"),
        "dbc": _from_can("dbc", "dbc", "app"),
    }


app = typer.Typer(
    cls=_Group,
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
