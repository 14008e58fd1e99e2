"""How the commands that use a CAN adapter end: one message, what to do next, whether to run again, an exit code.

What a fault means and its exit code are in `fault_table`; this file prints it.
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

import typer
from rich.console import Console

from bmsota.cli.fault_table import FAULTS, ExitCode, FaultError, FlashFault
from bmsota.cli.terminal import lost_output, wrapped
from bmsota.flashing import SourceError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota.cli.fault_table import Fault

__all__ = [
    "end_with",
    "end_with_output",
    "error_console",
    "say",
    "say_again",
    "say_fault",
    "stop",
    "stopping_at_faults",
]


def error_console() -> Console:
    """Where everything is printed that is not a result."""
    return Console(stderr=True, soft_wrap=True)


def say(text: str, *, style: str | None = None, console: Console | None = None) -> None:
    """Print one line to standard error, wrapped on a terminal."""
    console = console or error_console()
    console.print(
        wrapped(text, console.width if console.is_terminal else None), style=style, markup=False, highlight=False
    )


def say_fault(fault: Fault, detail: str, *, advice: str | None = None) -> None:
    """What happened, and what to do next: *advice*, or what the table says for every command."""
    say(f"bmsota: {fault.value}: {detail}", style="red")
    say(f"  next: {FAULTS[fault].advice if advice is None else advice}")


def say_again(*, was_changed: bool, is_safe: bool = True) -> None:
    """Whether to run it again: the last line of every message."""
    written = "" if was_changed else "; nothing was written to any node"
    say(f"  safe to run again: {'yes' if is_safe else 'no'}{written}")


def stop(fault: Fault, detail: str, *, advice: str | None = None) -> NoReturn:
    """Print the fault and end with its exit code. Nothing has been written to any node.

    Raises:
        typer.Exit: always.
    """
    say_fault(fault, detail, advice=advice)
    say_again(was_changed=False, is_safe=FAULTS[fault].safe_to_run_again)
    raise typer.Exit(int(FAULTS[fault].exit_code))


@contextmanager
def stopping_at_faults() -> Iterator[None]:
    """Inside, `FaultError` and `SourceError` end the command as `stop` does."""
    try:
        yield
    except (FaultError, SourceError) as error:
        stop(error.fault, error.detail, advice=getattr(error, "advice", None))


def end_with_output(exit_code: ExitCode) -> None:
    """End a command whose result is what it printed. A reader of a pipe that has seen enough is no failure.

    Raises:
        typer.Exit: unless it is DONE.
    """
    error = lost_output()
    if error is not None and not isinstance(error, BrokenPipeError) and exit_code is ExitCode.DONE:
        stop(FlashFault.OUTPUT_NOT_WRITTEN, f"standard output: {error.strerror or error}")
    end_with(exit_code)


def end_with(exit_code: ExitCode) -> None:
    """End the command.

    Raises:
        typer.Exit: unless it is DONE.
    """
    if exit_code is not ExitCode.DONE:
        raise typer.Exit(int(exit_code))
