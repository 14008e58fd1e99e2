"""`bmsota dbc`: look at DBC files.

Exit codes of `check`: 0 the file is clean, 1 it has faults, 2 it cannot be read.
"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console

from bmsota.adapters.files import load_dbc
from bmsota.errors import BmsotaError
from bmsota.signals import Severity

if TYPE_CHECKING:
    from bmsota.signals import Database

__all__ = ["app"]

app = typer.Typer(name="dbc", help="Look at DBC files.", no_args_is_help=True)

EXIT_FAULTS = 1
EXIT_UNREADABLE = 2


@app.callback()
def dbc() -> None:
    """Look at DBC files."""


@app.command()
def check(
    file: Annotated[str, typer.Argument(metavar="FILE", help="The DBC file.")],
    as_json: Annotated[bool, typer.Option("--json", help="Print the faults as JSON, for tools.")] = False,
) -> None:
    """Report every fault of FILE with its line, and what could be loaded.

    Exit code: 0 clean, 1 faults, 2 the file cannot be read.
    """
    try:
        database = load_dbc(file)
    except OSError as error:
        _stop(f"{file}: expected a readable file, got: {error.strerror or error}")
    except BmsotaError as error:
        _stop(f"{file}: {error}")
    if not len(database) and not any(fault.severity is Severity.WARNING for fault in database.faults):
        # Not one message: whatever it is, it is not somebody's DBC with slips in it.
        _print(database, file, as_json=as_json)
        _stop(f"{file}: expected a DBC file, got no message")
    _print(database, file, as_json=as_json)
    if database.faults:
        raise typer.Exit(EXIT_FAULTS)


def _print(database: Database, file: str, *, as_json: bool) -> None:
    signals = sum(len(message.signals) for message in database.messages)
    if as_json:
        faults = [
            {"line": each.line, "severity": each.severity.value, "reason": each.reason} for each in database.faults
        ]
        typer.echo(
            json.dumps({"file": file, "messages": len(database), "signals": signals, "faults": faults}, indent=1)
        )
        return
    for fault in database.faults:
        typer.echo(f"{file}:{fault.line}: {fault.severity.value}: {fault.reason}")
    errors = sum(fault.severity is Severity.ERROR for fault in database.faults)
    warnings = len(database.faults) - errors
    found = f"{errors} errors, {warnings} warnings" if database.faults else "no faults"
    typer.echo(f"{file}: {len(database)} messages, {signals} signals loaded; {found}")


def _stop(reason: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"bmsota: {reason}", style="red", markup=False, highlight=False)
    raise typer.Exit(EXIT_UNREADABLE)
