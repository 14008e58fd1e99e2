"""Reports that wait to be sent later, as 0x03 (B.2.8, 5.5).

Bounded in two ways: by age, because the text wants the last three days (2025: seven), and by size, because a terminal's memory
is. The oldest are dropped first, and `shorten` returns what was dropped.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import Final

from bmsota.gbt32960._enums import Command
from bmsota.gbt32960._frame import HEADER_SIZE_BYTES


@dataclass(slots=True)
class StoredReport:
    """A report that was made: when, and its frame as 0x02 in the clear, as it would go out at once."""

    collected_ns: int
    frame: bytes
    resends: int = 0
    """How often the platform has called it wrong."""
    sent_ns: int = 0
    """When it was sent last."""


_BACKFILL: Final = bytes((Command.BACKFILL_REPORT,))


def as_backfill(frame: bytes) -> bytes:
    """Return the frame of a real-time report as that of a backfill report: another command, and its bit in the check byte."""
    return frame[:2] + _BACKFILL + frame[3:-1] + bytes((frame[-1] ^ Command.REALTIME_REPORT ^ Command.BACKFILL_REPORT,))


def _data_size_bytes(report: StoredReport) -> int:
    return len(report.frame) - HEADER_SIZE_BYTES - 1


class BackfillStore:
    """A queue of reports, oldest first."""

    __slots__ = ("_reports", "_size_bytes")

    def __init__(self) -> None:
        self._reports: deque[StoredReport] | None = None
        """None while there is none: of many vehicles nearly all have nothing to fill in, and an empty deque is 0.8 kB."""
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._reports or ())

    def add(self, report: StoredReport) -> None:
        """Put *report* at the end."""
        if self._reports is None:
            self._reports = deque()
        self._reports.append(report)
        self._size_bytes += _data_size_bytes(report)

    def put_back(self, report: StoredReport) -> None:
        """Put *report* in front of all others: it was on its way and came back."""
        if self._reports is None:
            self._reports = deque()
        self._reports.appendleft(report)
        self._size_bytes += _data_size_bytes(report)

    def take(self) -> StoredReport:
        """Take the oldest report out.

        Raises:
            IndexError: there is none.
        """
        if self._reports is None:
            msg = "backfill: no report is stored"
            raise IndexError(msg)
        report = self._reports.popleft()
        if not self._reports:
            self._reports = None
        self._size_bytes -= _data_size_bytes(report)
        return report

    def shorten(self, oldest_allowed_ns: int, size_bytes_max: int) -> list[StoredReport]:
        """Take out and return what is too old or too much, oldest first."""
        dropped = []
        while self._reports and (
            self._reports[0].collected_ns < oldest_allowed_ns or self._size_bytes > size_bytes_max
        ):
            dropped.append(self.take())
        return dropped
