"""How the commands that use a CAN adapter end: one message, what to do next, whether to run again, an exit code.

What is said and with which code is `bmsota.flashing.FAULTS`' business; this file prints it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console

from bmsota.flashing import FAULTS, FaultError

if TYPE_CHECKING:
    from bmsota.flashing import Fault

__all__ = ["error_console", "say", "say_again", "say_fault", "stop", "stop_with"]


def error_console() -> Console:
    """Where everything goes that is not a result."""
    return Console(stderr=True, soft_wrap=True)


def say(text: str, *, style: str | None = None) -> None:
    """Print one line to standard error."""
    error_console().print(text, style=style, markup=False, highlight=False)


def say_fault(fault: Fault, detail: str) -> None:
    """What happened, and what to do next."""
    say(f"bmsota: {fault.value}: {detail}", style="red")
    say(f"  next: {FAULTS[fault].advice}")


def say_again(*, was_changed: bool, is_safe: bool = True) -> None:
    """Whether to run it again: the last line of every message."""
    written = "" if was_changed else "; nothing was written to any node"
    say(f"  safe to run again: {'yes' if is_safe else 'no'}{written}")


def stop(fault: Fault, detail: str) -> NoReturn:
    """Say it and end with the exit code of the fault. Nothing has been written to any node.

    Raises:
        typer.Exit: always.
    """
    say_fault(fault, detail)
    say_again(was_changed=False, is_safe=FAULTS[fault].safe_to_run_again)
    raise typer.Exit(int(FAULTS[fault].exit_code))


def stop_with(error: FaultError) -> NoReturn:
    """As `stop`.

    Raises:
        typer.Exit: always.
    """
    stop(error.fault, error.detail)
