"""The signals that ask a command to end."""

from __future__ import annotations

import signal


def ending_signals() -> list[signal.Signals]:
    """Ctrl-C, what CI and service managers send, and a terminal that is closed, as far as this system has them.

    SIGINT counts even if it was ignored when we started, as a shell does for what it puts into the background; an ignored
    SIGHUP does not: that is what `nohup` is for.
    """
    numbers = [signal.Signals[name] for name in ("SIGINT", "SIGTERM", "SIGHUP") if name in signal.Signals.__members__]
    return [number for number in numbers if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN]
