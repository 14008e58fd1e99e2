"""A unit whose clock is wrong: the times in its frames are shifted on their way, and shifted back in the answers.

Only the clock of a unit is wrong, not how fast it works: its periods and timeouts stay. What is signed (documents of the extension)
keeps its time, because its signature would break.
"""

from __future__ import annotations

from collections import OrderedDict
from datetime import datetime, timedelta
from functools import reduce
from operator import xor

from bmsota.gbt32960 import Command

__all__ = ["WrongClock"]

HEADER_SIZE_BYTES = 24
TIME_SIZE_BYTES = 6
# Frames whose data unit begins with the terminal's time.
_STAMPED = frozenset(
    {
        Command.VEHICLE_LOGIN,
        Command.REALTIME_REPORT,
        Command.BACKFILL_REPORT,
        Command.VEHICLE_LOGOUT,
        Command.UNIT_IDENTITY,
        Command.UPGRADE_STATE,
        Command.SIGNED_REPORT,
        Command.LOCAL_UPGRADES,
    }
)
# Answers come within minutes; a platform that gives none must not fill the memory.
_OPEN_MAX = 256
_EPOCH_YEAR = 2000


class WrongClock:
    """How far the clock of one unit is off."""

    __slots__ = ("_jump_ns", "_ppm", "_sent", "_since_ns", "shifted")

    def __init__(self) -> None:
        self._jump_ns = 0
        self._ppm = 0.0
        self._since_ns = 0
        self._sent: OrderedDict[tuple[int, bytes], bytes] | None = None
        """What is open; None until something is shifted, because hardly any clock is wrong."""
        self.shifted = 0
        """Frames that went out with a wrong time."""

    def jump(self, by_ns: int) -> None:
        """It jumps, and stays there until `correct`."""
        self._jump_ns += by_ns

    def skew(self, ppm: float, now_ns: int) -> None:
        """It runs fast from now on, or slow where *ppm* is negative; 0: it is set right, as far as it ran wrong."""
        self._ppm, self._since_ns = ppm, now_ns

    def correct(self) -> None:
        """It is right again."""
        self._jump_ns, self._ppm = 0, 0.0

    def ahead_ns(self, now_ns: int) -> int:
        """How far it is ahead of the right time."""
        return self._jump_ns + round((now_ns - self._since_ns) * self._ppm / 1e6)

    def stamped(self, frame: bytes, now_ns: int) -> bytes:
        """A whole frame of the unit, as it goes out."""
        ahead_s = round(self.ahead_ns(now_ns) / 1e9)
        if not ahead_s or len(frame) <= HEADER_SIZE_BYTES + TIME_SIZE_BYTES or frame[2] not in _STAMPED:
            return frame
        right = frame[HEADER_SIZE_BYTES : HEADER_SIZE_BYTES + TIME_SIZE_BYTES]
        wrong = _shifted(right, ahead_s)
        if wrong == right:
            return frame
        self.shifted += 1
        if self._sent is None:
            self._sent = OrderedDict()
        self._sent[frame[2], wrong] = right
        while len(self._sent) > _OPEN_MAX:
            self._sent.popitem(last=False)
        return _with_time(frame, wrong)

    def restored(self, frame: bytes) -> bytes:
        """A whole frame of the platform: an answer to a shifted one gets the time that the unit knows."""
        if self._sent is None:
            return frame
        right = self._sent.get((frame[2], frame[HEADER_SIZE_BYTES : HEADER_SIZE_BYTES + TIME_SIZE_BYTES]))
        return frame if right is None else _with_time(frame, right)


def _shifted(time: bytes, ahead_s: int) -> bytes:
    """A time of the wire (table 5: year from 2000, month, day, hour, minute, second), later by *ahead_s*; as it is if it is none."""
    year, month, day, hour, minute, second = time
    try:
        at = datetime(_EPOCH_YEAR + year, month, day, hour, minute, second)  # noqa: DTZ001 - the wire has no zone
        at += timedelta(seconds=ahead_s)
    except (ValueError, OverflowError):
        return time
    if not _EPOCH_YEAR <= at.year < _EPOCH_YEAR + 100:
        return time
    return bytes((at.year - _EPOCH_YEAR, at.month, at.day, at.hour, at.minute, at.second))


def _with_time(frame: bytes, time: bytes) -> bytes:
    body = frame[2:HEADER_SIZE_BYTES] + time + frame[HEADER_SIZE_BYTES + TIME_SIZE_BYTES : -1]
    return frame[:2] + body + bytes((reduce(xor, body),))
