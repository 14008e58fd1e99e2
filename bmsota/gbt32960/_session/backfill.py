"""Reports that wait to be sent later, as 0x03 (B.2.8, 5.5).

Bounded in two ways: by age, because the text wants the last three days (2025: seven), and by size, because a terminal's memory
is. The oldest are dropped first, and `shorten` returns what was dropped.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass


@dataclass(slots=True)
class StoredReport:
    """A report that was made: when, and its data unit."""

    collected_ns: int
    data: bytes
    resends: int = 0
    """How often the platform has called it wrong."""


class BackfillStore:
    """A queue of reports, oldest first."""

    __slots__ = ("_reports", "_size_bytes")

    def __init__(self) -> None:
        self._reports: deque[StoredReport] = deque()
        self._size_bytes = 0

    def __len__(self) -> int:
        return len(self._reports)

    def add(self, report: StoredReport) -> None:
        """Put *report* at the end."""
        self._reports.append(report)
        self._size_bytes += len(report.data)

    def put_back(self, report: StoredReport) -> None:
        """Put *report* in front of all others: it was on its way and came back."""
        self._reports.appendleft(report)
        self._size_bytes += len(report.data)

    def take(self) -> StoredReport:
        """Take the oldest report out.

        Raises:
            IndexError: there is none.
        """
        report = self._reports.popleft()
        self._size_bytes -= len(report.data)
        return report

    def shorten(self, oldest_allowed_ns: int, size_bytes_max: int) -> list[StoredReport]:
        """Take out and return what is too old or too much, oldest first."""
        dropped = []
        while self._reports and (
            self._reports[0].collected_ns < oldest_allowed_ns or self._size_bytes > size_bytes_max
        ):
            dropped.append(self.take())
        return dropped
