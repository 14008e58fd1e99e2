"""The platform's time: the wall clock in its two forms, and the way from one form to the other.

Services take aware datetimes, the protocol cores nanoseconds since the Unix epoch. Services and cores are given their
time; only what runs a platform in a process reads a clock, and it reads it here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TypeAlias

__all__ = ["Clock", "utc_time", "wall_clock", "wall_clock_ns"]

Clock: TypeAlias = Callable[[], datetime]
"""Gives the platform's time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_last_ns = 0


def wall_clock() -> datetime:
    """The time of a platform that runs in a process of its own."""
    return datetime.now(UTC)  # noqa: TID251 - this is where a clock is read


def wall_clock_ns() -> int:
    """The same in nanoseconds since the Unix epoch; it never goes back, as the cores require."""
    global _last_ns  # noqa: PLW0603 - the clock of the process
    _last_ns = max(_last_ns, time.time_ns())
    return _last_ns


def utc_time(now_ns: int) -> datetime:
    """The time of the services for the time of the cores, exact to the microsecond."""
    return _EPOCH + timedelta(microseconds=now_ns // 1000)
