"""The signals that ask a command to end."""

from __future__ import annotations

import os
import signal
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["ending_signals", "held_signal", "holding_signals", "is_held"]

_held: list[int] = []


def ending_signals() -> list[signal.Signals]:
    """Ctrl-C, what CI and service managers send, and a terminal that is closed, as far as this system has them.

    SIGINT counts even if it was ignored when we started, as a shell does for what it puts into the background; an ignored
    SIGHUP does not: that is what `nohup` is for.
    """
    numbers = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__]
    return [number for number in numbers if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN]


def _hold(number: int, _frame: object) -> None:
    _held.append(number)


@contextmanager
def holding_signals(*, for_later: bool) -> Iterator[None]:
    """While the program is being loaded: a signal that asks it to end comes when that is done.

    With *for_later* it is held until the command asks `held_signal` for it, so that the command can end in its own way.
    """
    before = {number: signal.signal(number, _hold) for number in ending_signals()}
    try:
        yield
    finally:
        if not for_later:
            for number, handler in before.items():
                signal.signal(number, handler)
            if held := held_signal():
                os.kill(os.getpid(), held)


def is_held(number: signal.Signals) -> bool:
    """Whether a command will ask `held_signal` for this one."""
    return signal.getsignal(number) is _hold


def held_signal() -> int:
    """The first signal that was held; 0: none was. It is told once."""
    held = _held[0] if _held else 0
    _held.clear()
    return held
