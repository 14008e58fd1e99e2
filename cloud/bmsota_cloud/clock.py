"""The platform's time: clocks, in the two forms of time, and the way from one form to the other.

Services take aware datetimes, the protocol cores nanoseconds since the Unix epoch. Services and cores are given their
time; only what runs a platform in a process reads a clock, and it reads it here.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from bmsota_cloud.domain.clock_guard import ClockGuard

__all__ = ["Clock", "PlatformClock", "utc_time", "wall_clock", "wall_clock_ns"]

Clock: TypeAlias = Callable[[], datetime]
"""Gives the platform's time."""

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


class PlatformClock:
    """The time of a platform that runs in a process of its own: one for pages, services and links, watched by a guard.

    It goes back only when the guard has decided that it was wrong (`bmsota_cloud.domain.clock_guard`).
    """

    def __init__(self, guard: ClockGuard) -> None:
        self._guard = guard

    def now_ns(self) -> int:
        """Nanoseconds since the Unix epoch."""
        return self._guard.read(time.time_ns(), time.monotonic_ns())

    def now(self) -> datetime:
        return utc_time(self.now_ns())


def wall_clock() -> datetime:
    """The time of a command that runs once."""
    return datetime.now(UTC)  # noqa: TID251 - this is where a clock is read


def wall_clock_ns() -> int:
    """The same in nanoseconds since the Unix epoch."""
    return time.time_ns()


def utc_time(now_ns: int) -> datetime:
    """The time of the services for the time of the cores, exact to the microsecond."""
    return _EPOCH + timedelta(microseconds=now_ns // 1000)
