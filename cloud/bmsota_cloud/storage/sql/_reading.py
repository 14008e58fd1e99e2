"""A vehicle's frames in order, from rows and from blocks, while the compactor makes the one into the other.

Strategy. A piece is a range of whole seconds, a thousand frames or so, read from everywhere at once: first where frames are moved
from, then where they are moved to. So what is moved in between is found twice and never missed, and what is found twice is
told by being the same. No transaction is longer than a piece: a long one would keep the write-ahead log growing.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass, field
from datetime import UTC, datetime
from operator import itemgetter
from typing import TYPE_CHECKING, Any, Final, Protocol

from bmsota_cloud.storage._blocks import BlockError, decode_block

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

    from bmsota_cloud.storage._blocks import FrameRow

__all__ = [
    "BLOCKS_LIMIT",
    "HOUR_S",
    "ROWS_LIMIT",
    "BlockReader",
    "Found",
    "FrameCounts",
    "FrameSource",
    "LocatedRow",
    "StoredBlock",
    "block_key",
]

_LOG = logging.getLogger(__name__)

HOUR_S: Final = 3600
ROWS_LIMIT: Final = 1000
BLOCKS_LIMIT: Final = 8
_LOGGED_MAX: Final = 200

LocatedRow = tuple[Any, ...]
"""Where the frame stands in time, then a `FrameRow`. A frame with an implausible time stands at its arrival."""
_AT_AND_ARRIVAL = itemgetter(0, 2)


@dataclass(frozen=True, slots=True)
class StoredBlock:
    """A block where it stands. Those of one vehicle do not overlap."""

    since_s: int
    until_s: int
    """Its frames' report times are in between; the end is not included."""
    frames: int
    data: bytes = b""


@dataclass(frozen=True, slots=True)
class Found:
    """What a source has in a range of seconds, in the order asked for."""

    tables: Sequence[Sequence[LocatedRow]]
    """Of each table of rows, as many as asked for."""
    blocks: Sequence[StoredBlock]
    """The first `BLOCKS_LIMIT`, if there was a limit, that reach into the range."""


@dataclass(frozen=True, slots=True)
class FrameCounts:
    """How many frames a source has in a range of seconds."""

    tables: Sequence[Mapping[int, int]]
    """Of each table of rows, by the first second of the hour."""
    blocks: Sequence[StoredBlock] = field(default=())
    """All that reach into the range, without their data."""


class FrameSource(Protocol):
    """Where one vehicle's frames are. Both methods read what frames are moved from before what they are moved to."""

    def fetch(self, since_s: int, until_s: int, *, newest_first: bool, limit: int | None) -> Found:
        """The first *limit* rows of each table and `BLOCKS_LIMIT` blocks; all of both without a limit."""
        ...

    def counts(self, since_s: int, until_s: int) -> FrameCounts: ...


def block_key(vin: str, since_s: int) -> bytes:
    """What `encode_block` and `decode_block` are given for this vehicle's block that begins at *since_s*."""
    return f"{vin} {since_s}".encode("utf-8", "surrogateescape")


class BlockReader:
    """Reads blocks, and says which one cannot be read: in the log once each, and in a counter. The rest goes on."""

    def __init__(self, count: Callable[[str], None] | None = None) -> None:
        self._count = count
        self._logged: set[tuple[str, int]] = set()

    def rows(self, vin: str, block: StoredBlock, unreadable: dict[int, int] | None = None) -> list[FrameRow] | None:
        """Of one block; None if it can't be read: then *unreadable* gets its number of frames, by its beginning."""
        try:
            return decode_block(block.data, block_key(vin, block.since_s))
        except BlockError as error:
            if self._count is not None:
                self._count("report_block_unreadable")
            if (vin, block.since_s) not in self._logged and len(self._logged) < _LOGGED_MAX:
                self._logged.add((vin, block.since_s))
                hour = datetime.fromtimestamp(block.since_s, UTC)
                _LOG.error("block of %s, %s: %s; its %d reports are left out", vin, hour, error, block.frames)
            if unreadable is not None:
                unreadable[block.since_s] = block.frames
            return None

    def in_order(
        self,
        source: FrameSource,
        vin: str,
        since_s: int,
        until_s: int,
        *,
        newest_first: bool = False,
        limit: int = ROWS_LIMIT,
        unreadable: dict[int, int] | None = None,
    ) -> Iterator[tuple[tuple[int, int], FrameRow]]:
        """The rows by time and arrival, each behind both of these; read some *limit* at a time. *unreadable* as in `rows`."""
        while since_s < until_s:
            rows, since_s, until_s = self._piece(
                source, vin, since_s, until_s, newest_first=newest_first, limit=limit, unreadable=unreadable
            )
            yield from rows

    def count(self, source: FrameSource, vin: str, since_s: int, until_s: int) -> int:
        """How many frames `in_order` would give; without reading them, where an hour stands in one place only."""
        found = source.counts(since_s, until_s)
        total = 0
        mixed: set[int] = set()
        for block in found.blocks:
            hour_s = block.since_s - block.since_s % HOUR_S
            is_whole = since_s <= block.since_s and block.until_s <= until_s
            if not is_whole or any(hour_s in table for table in found.tables):
                mixed.add(hour_s)
        total += sum(block.frames for block in found.blocks if block.since_s - block.since_s % HOUR_S not in mixed)
        for hour_s in {hour_s for table in found.tables for hour_s in table} - mixed:
            counts = [table[hour_s] for table in found.tables if hour_s in table]
            if len(counts) > 1:
                mixed.add(hour_s)
            else:
                total += counts[0]
        for hour_s in mixed:
            begin, end = max(hour_s, since_s), min(hour_s + HOUR_S, until_s)
            total += sum(1 for _ in self.in_order(source, vin, begin, end))
        return total

    def _piece(
        self,
        source: FrameSource,
        vin: str,
        since_s: int,
        until_s: int,
        *,
        newest_first: bool,
        limit: int,
        unreadable: dict[int, int] | None,
    ) -> tuple[list[tuple[tuple[int, int], FrameRow]], int, int]:
        """Rows of whole seconds, and the range that is left."""
        found = source.fetch(since_s, until_s, newest_first=newest_first, limit=limit)
        # The second in which a table was cut off may have more.
        cuts = [rows[-1][0] for rows in found.tables if len(rows) >= limit]
        last = found.blocks[-1] if len(found.blocks) >= BLOCKS_LIMIT else None
        if newest_first:
            begin = max([since_s, *(at + 1 for at in cuts), *([last.since_s] if last else [])])
            if begin >= until_s:
                begin = until_s - 1
                found = source.fetch(begin, until_s, newest_first=True, limit=None)
            tables = [rows[::-1] for rows in found.tables]
            rows = self._merged(vin, Found(tables, found.blocks), begin, until_s, unreadable)
            rows.reverse()
            return rows, since_s, begin
        end = min([until_s, *cuts, *([last.until_s] if last else [])])
        if end <= since_s:
            end = since_s + 1
            found = source.fetch(since_s, end, newest_first=False, limit=None)
        return self._merged(vin, found, since_s, end, unreadable), end, until_s

    def _merged(
        self, vin: str, found: Found, since_s: int, until_s: int, unreadable: dict[int, int] | None
    ) -> list[tuple[tuple[int, int], FrameRow]]:
        located: list[LocatedRow] = []
        for block in found.blocks:
            if block.since_s < until_s and block.until_s > since_s:
                located += [(row[0], *row) for row in self.rows(vin, block, unreadable) or ()]
        for rows in found.tables:
            located += rows
        located = [row for row in located if since_s <= row[0] < until_s]
        if not any(found.tables):
            # Blocks of a vehicle don't overlap, and have no frame twice.
            located.sort(key=_AT_AND_ARRIVAL)
            return [((row[0], row[2]), row[1:]) for row in located]
        # Stable: of one arrival, what is in a block came first.
        located.sort(key=_AT_AND_ARRIVAL)
        result: list[tuple[tuple[int, int], FrameRow]] = []
        same: set[tuple[int, bytes]] = set()
        for row in located:
            key = (row[0], row[2])
            if not result or result[-1][0] != key:
                same.clear()
            content = (row[3], row[4])
            if content not in same:
                same.add(content)
                result.append((key, row[1:]))
        return result
