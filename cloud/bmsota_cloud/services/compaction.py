"""When reports go into compressed blocks. Decides which partition, when, and in slices; how it is done is the store's.

A partition, a day of report time, is compacted when it has been over for `PlatformSettings.report_compact_after_s` and its oldest rows
are there for as long: so what comes late waits for others, and a block is written again once in that time at most. What has not been
derived yet stays.
"""

from __future__ import annotations

from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota_cloud.domain.telemetry import HotPartition
    from bmsota_cloud.services.context import Context

__all__ = ["CompactionService", "is_due"]

SLICE_HOURS = 16
"""Hours of a vehicle a slice: some 40 ms of work, mostly in the database's and zlib's own code."""
LOOK_EVERY_S = 600
"""How often it is looked for partitions that are due."""


def is_due(partition: HotPartition, now_s: int, after_s: int) -> bool:
    """Whether *partition* is to be compacted at *now_s*."""
    is_over = partition.until_s + after_s <= now_s
    return is_over and partition.is_derived and partition.oldest_arrival_ns // 1_000_000_000 + after_s <= now_s


class CompactionService:
    """Called by one thread at a time has an effect; a second one finds nothing to do."""

    def __init__(self, context: Context) -> None:
        self._context = context
        self._lock = Lock()
        self._due: list[str] = []
        self._looked_s: int | None = None
        self._resting: dict[str, int] = {}
        """Partitions that are done, or that failed, and until when they are left alone."""

    def run(self, now: datetime) -> bool:
        """Do one slice, if something is due. Whether there is more to do at once.

        Raises:
            StorageUnavailableError: nothing is half done; the partition is tried again later.
        """
        after_s = self._context.settings.report_compact_after_s
        if not after_s or not self._lock.acquire(blocking=False):
            return False
        try:
            return self._run(int(now.timestamp()), after_s)
        finally:
            self._lock.release()

    def _run(self, now_s: int, after_s: int) -> bool:
        if not self._due:
            if self._looked_s is not None and 0 <= now_s - self._looked_s < LOOK_EVERY_S:
                return False
            self._looked_s = now_s
            # A clock that was put back must not make anything rest for longer.
            self._resting = {name: until_s for name, until_s in self._resting.items() if 0 < until_s - now_s <= after_s}
            self._due = [
                partition.name
                for partition in self._context.telemetry.hot()
                if partition.name not in self._resting and is_due(partition, now_s, after_s)
            ]
            return bool(self._due)
        name = self._due[0]
        try:
            compacted = self._context.telemetry.compact(name, SLICE_HOURS)
        except BaseException:
            # The others go on; this one does not fail every second.
            self._rest(now_s + LOOK_EVERY_S)
            raise
        self._context.counters.add("report_block_written", compacted.hours)
        if compacted.is_done:
            self._rest(now_s + after_s)
        elif not compacted.hours:
            # Somebody reads it, or its last reports are not derived yet.
            self._rest(now_s + LOOK_EVERY_S)
        return bool(self._due)

    def _rest(self, until_s: int) -> None:
        self._resting[self._due.pop(0)] = until_s
