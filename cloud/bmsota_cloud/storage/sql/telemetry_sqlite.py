"""Frames on SQLite: a file for each partition, beside the telemetry database.

    telemetry.sqlite                 newest states, events, the catalog of partitions
    reports/2026-11-29.sqlite        the frames of one day of report time (UTC), or reports/2026-11-29T08.sqlite of one hour
    reports/2026-11-29.blocks.sqlite the same, compressed (`blocks_sqlite.py`), when the day is over for long enough
    reports/other.sqlite             frames whose time is not plausible, or more than a month before their arrival

Strategy. A day is dropped by removing a file, which costs the same for 1,000 and for 30 million frames; nothing is deleted row by
row. A file is complete in itself: it has its own numbers for vehicles and says its layout in `PRAGMA user_version`. The way in is
the standard library's `sqlite3`, because the layers above it cost ten times the insert. Each file is committed for itself (SQLite
promises no more for several files in WAL mode); a call that failed between two of them may be made again, because a frame that is
there with the very same arrival is that frame.

Each row says which process wrote it (`writer`), and each file how far it has the frames of each: what a process has left underived is
found without looking through those of the others.

A day that is compacted stands in both files until the last of its rows is in a block and the file of the rows is removed; who reads
takes each frame once (`_reading.py`). From then on, what comes for it goes into the file of the blocks.

A frame goes where its hour or its day is already, else into a new partition of the length that the settings name. So the setting
can be changed at any time, and a repetition is still found. Partitions are begun, and rows that are all in blocks removed, by one
process at a time (`reports/partitions.lock`), which looks first what the others have begun: processes with different settings
agree where a frame belongs.
"""

from __future__ import annotations

import heapq
import os
import re
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain, islice
from operator import attrgetter, itemgetter
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.telemetry import Compacted, FramePage, HotPartition, Mark, Unread
from bmsota_cloud.storage.sql._compacting import compact_hour
from bmsota_cloud.storage.sql._packing import TIME_IMPLAUSIBLE, digest_of, has_day, pack, unpack
from bmsota_cloud.storage.sql._reading import HOUR_S, ROWS_LIMIT, BlockReader, Found, FrameCounts
from bmsota_cloud.storage.sql._unavailable import unavailable_from
from bmsota_cloud.storage.sql._writers import FileLock
from bmsota_cloud.storage.sql.blocks_sqlite import (
    BLOCK_TABLES,
    SqliteHourTables,
    block_at,
    block_counts,
    blocks_between,
    hours_behind,
)
from bmsota_cloud.storage.sql.other_sqlite import OtherKeys, arrival_of
from bmsota_cloud.storage.sql.rows_sqlite import (
    LAYOUT_SLICES,
    ROW_COLUMNS,
    SLICE,
    THIS_FRAME,
    counts_between,
    next_hours,
    rows_between,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.domain.telemetry import StoredFrame
    from bmsota_cloud.storage._blocks import FrameRow
    from bmsota_cloud.storage.sql._reading import LocatedRow

__all__ = ["OTHER", "SqliteFrames"]

OTHER: Final = "other"
"""The partition of frames that may not begin one: see `has_day`."""
_LAYOUT: Final = LAYOUT_SLICES
"""2: who wrote a frame. The frames of layout 1 are those of writer 0; no file of blocks has it. 3: the index of rows in slices of
time (`rows_sqlite`); a file that was begun before keeps its index, and its layout, until it goes."""
_LAYOUT_WRITERS: Final = 2
_SECOND_NS: Final = 1_000_000_000
_DAY_S: Final = 24 * HOUR_S
_BLOCKS: Final = ".blocks"
_PARTITIONS_LOCK: Final = "partitions.lock"
_NAME: Final = re.compile(r"(\d{4}-\d{2}-\d{2})(?:T(\d{2}))?(?:\.blocks)?")
# Today, yesterday, and backfill of a week, with some room.
_OPEN_MAX: Final = 16
_BUSY_TIMEOUT_S: Final = 10.0
# The index of one day of 10,000 vehicles is far larger than any cache; this holds the pages between two checkpoints.
_CACHE_KIB: Final = 16 * 1024
# Between two checkpoints the pages of the index are written again and again; the more of them come together, the fewer are copied.
_CHECKPOINT_PAGES: Final = 4000
_CHUNK_ROWS: Final = 1000
_POSITION_MAX: Final = 2**63 - 1
# A slice of deleting takes some milliseconds; the writer gets its turn between two.
_DELETE_ROWS: Final = 500
# The same for hours that go into blocks under the lock, some 2 ms each.
_LOCKED_HOURS: Final = 8
# When no more than these have come since the look at all of a day, they are compacted while its file is held.
_LAST_HOURS: Final = 8
_LAST_ROWS: Final = 64
# Blocks have some kB: in pages of 1 KiB the file takes 60 bytes a report, in pages of 4 KiB 72, of 16 KiB 77.
_BLOCK_PAGE_BYTES: Final = 1024
# Wider than any time; SQLite compares integers of 64 bits.
_ALWAYS_S: Final = 2**62

_TABLES: Final = """
CREATE TABLE IF NOT EXISTS vehicle (number INTEGER PRIMARY KEY, vin TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS frame (
    position INTEGER PRIMARY KEY{counting},
    vehicle INTEGER NOT NULL,
    reported_at_s INTEGER NOT NULL,
    digest INTEGER NOT NULL,
    arrived_at_ns INTEGER NOT NULL,
    form INTEGER NOT NULL,
    clear BLOB NOT NULL,
    received BLOB,
    fault TEXT
);
CREATE UNIQUE INDEX IF NOT EXISTS frame_key ON frame ({slice}vehicle, reported_at_s, digest);
"""
_WRITERS: Final = """
ALTER TABLE frame ADD COLUMN writer INTEGER NOT NULL DEFAULT 0;
CREATE TABLE writer (number INTEGER PRIMARY KEY, newest_position INTEGER NOT NULL);
INSERT INTO writer SELECT 0, max(position) FROM frame HAVING count(*) > 0;
"""
# Many rows in one statement: `sqlite3` lets go of the interpreter's lock once a statement, and while the event loop is busy each
# time costs more than the row.
_INSERT_ROWS: Final = (128, 64, 32, 16, 8, 4, 2, 1)
_arrival: Final = attrgetter("arrived_at_ns")
_Marks = Callable[[], Mapping[int, Mapping[str, int]]]
"""How far each writer that there is has derived, by partition, now."""


@dataclass(slots=True)
class _Partition:
    """A partition that is open for writing."""

    name: str
    connection: sqlite3.Connection
    inode: int
    numbers: dict[str, int]
    is_idle: bool = False
    """Not written to since the last look for old partitions."""


@dataclass(slots=True)
class _Entry:
    """What the catalog knows of a partition."""

    derived_to: int = 0
    """The last position that has been derived."""
    newest_arrival_ns: int = 0
    """Of the frames up to there."""


@dataclass(slots=True)
class _Progress:
    """How far the compacting of a partition is."""

    last_position: int
    """Of the rows when it was begun."""
    after: tuple[int, int] = (0, 0)
    """The last vehicle and hour that are done."""


class SqliteFrames:
    """The frames of a telemetry store on SQLite. Every method may be called from any thread."""

    def __init__(self, folder: Path | None, reader: BlockReader, *, is_hourly: bool = False) -> None:
        """Keep partitions in *folder*, which is made if it is missing; in memory if it is None.

        Raises:
            OSError: the folder cannot be made.
        """
        self._folder = folder
        self._is_hourly = is_hourly
        self._lock = RLock()
        self._open: OrderedDict[str, _Partition] = OrderedDict()
        self._names: set[str] = set()
        self._paths: dict[str, Path] = {}
        self.writer = 0
        """The number of this process; frames are of this writer."""
        self._marks: dict[str, int] = {}
        self._inserts: dict[int, str] = {}
        self._catalog: dict[str, _Entry] = {}
        self._written: dict[str, tuple[int, int]] = {}
        self._has_failed = False
        self._reader = reader
        self._other: OtherKeys | None = None
        self._compacting: dict[str, _Progress] = {}
        self._partitions_lock: FileLock | None = None
        if folder is not None and not folder.is_dir():
            folder.mkdir(parents=True)
            _sync_folder(folder.parent)
        self._find_files()
        self.take_number(0, {})

    # --- the catalog, kept by the owner in the telemetry database --------------------------------------------------------

    @property
    def names(self) -> frozenset[str]:
        """The partitions that there are."""
        with self._lock:
            return frozenset(self._names)

    def take_catalog(self, rows: Mapping[str, tuple[int, int]]) -> None:
        """Remember what the database says: partition -> (derived to, newest arrival). Files that it lacks count as not derived."""
        # Another process may have made some since.
        self._find_files()
        with self._lock:
            self._catalog = {name: _Entry(*rows.get(name, (0, 0))) for name in self._names}

    def take_number(self, writer: int, marks: Mapping[str, int]) -> None:
        """From now on frames are those of *writer*, who has derived up to *marks* in each partition."""
        with self._lock:
            self.writer = writer
            self._marks = dict(marks)
            self._inserts = {count: _insert_of(count, writer) for count in _INSERT_ROWS}

    def saved(self, mark: Mark) -> None:
        """*mark* is in the database now."""
        with self._lock:
            for name, position, arrival in mark.places:
                entry = self._catalog.setdefault(name, _Entry())
                entry.derived_to = position
                entry.newest_arrival_ns = max(entry.newest_arrival_ns, arrival)
                if mark.writer not in (None, self.writer):
                    continue
                self._marks[name] = position
                if self._written.get(name, (0, 0))[0] <= position:
                    self._written.pop(name, None)

    # --- writing ----------------------------------------------------------------------------------------------------------

    def append(self, frames: Sequence[StoredFrame]) -> list[bool]:
        """See `TelemetryStore.append`."""
        is_new = [True] * len(frames)
        with self._lock:
            parts = self._partitions_for(frames)
            try:
                for name, places in parts.items():
                    with _refusals(self._label(name)):
                        own = frames if len(parts) == 1 else [frames[place] for place in places]
                        self._append_to(name, own, places, is_new)
            except BaseException:
                self._has_failed = True
                for name in parts:
                    self._forget(name)
                raise
            self._has_failed = False
        return is_new

    def _partitions_for(self, frames: Sequence[StoredFrame]) -> dict[str, list[int]]:
        """Partition -> places in *frames*, in their order. In a folder, all of them are there afterwards."""
        parts, has_old = self._parts_of(frames)
        if self._folder is None:
            return parts
        missing = [name for name in parts if not self._path(name).exists()]
        if missing:
            with _refusals(self._folder.name), self._beginning_partitions():
                for name in missing:
                    self._forget(name)
                    self._strike(name)
                self._find_files()
                parts, _ = self._parts_of(frames)
                for name in parts:
                    if not self._path(name).exists():
                        self._open_file(name)
        elif has_old:
            # Another process may have begun their day while they were young enough for it.
            self._find_files()
            parts, _ = self._parts_of(frames)
        return parts

    def _parts_of(self, frames: Sequence[StoredFrame]) -> tuple[dict[str, list[int]], bool]:
        """As far as partitions are known; and whether there are plausible frames that may not begin one."""
        parts: dict[str, list[int]] = {}
        hours: dict[int, list[int]] = {}
        has_old = False
        for place, frame in enumerate(frames):
            at_h = frame.reported_at_s // HOUR_S
            # Nearly always all of them are of one hour, which has a partition already.
            if not frame.is_time_plausible or (found := hours.get(at_h)) is None:
                name = self._partition_of(frame)
                found = parts.setdefault(name, [])
                if name == OTHER:
                    has_old = has_old or frame.is_time_plausible
                elif name in self._names:
                    hours[at_h] = found
            found.append(place)
        return parts, has_old

    @contextmanager
    def _beginning_partitions(self) -> Iterator[None]:
        """Under the lock, in a folder: be the one process that begins partitions."""
        lock = self._lock_of_partitions()
        if not lock.take(timeout_s=_BUSY_TIMEOUT_S):
            raise StorageUnavailableError(
                f"{_PARTITIONS_LOCK}: another process has been beginning a file of reports for {_BUSY_TIMEOUT_S:.0f} s;"
                " try again",
                code="storage-busy",
            )
        try:
            yield
        finally:
            lock.release()

    def _lock_of_partitions(self) -> FileLock:
        assert self._folder is not None
        if self._partitions_lock is None:
            self._partitions_lock = FileLock(self._folder / _PARTITIONS_LOCK)
        return self._partitions_lock

    def _append_to(self, name: str, frames: Sequence[StoredFrame], places: Sequence[int], is_new: list[bool]) -> None:
        partition = self._begin(name)
        connection = partition.connection
        numbers = partition.numbers
        rows: list[tuple[Any, ...]] = []
        for frame in frames:
            number = numbers.get(frame.vin)
            if number is None:
                number = self._number(partition, frame.vin)
            rows.append((number, *pack(frame)))
        # Where numbers are counted (`_bring_up_to_date`), a row that was there already may have used one up.
        before = _newest(connection) if _is_counted(name) else None
        added, after = _insert(connection, rows, self._inserts)
        if added != len(rows):
            before = after - added if before is None else before
            self._find_new(connection, before, rows, places, is_new)
        connection.execute(
            "INSERT INTO writer (number, newest_position) VALUES (?, ?) ON CONFLICT (number) DO UPDATE SET"
            " newest_position = excluded.newest_position",
            (self.writer, after),
        )
        if name == OTHER:
            self._strike_what_has_a_day(connection, frames, places, rows, is_new)
        else:
            if _blocks_of(name) in self._names:
                self._strike_what_is_in_blocks(name, connection, frames, places, rows, is_new)
            self._strike_what_is_in_other(connection, frames, places, rows, is_new)
        connection.execute("COMMIT")
        newest = max(map(_arrival, frames))
        self._written[name] = (after, max(newest, self._written.get(name, (0, 0))[1]))

    def _find_new(
        self,
        connection: sqlite3.Connection,
        before: int,
        rows: Sequence[tuple[Any, ...]],
        places: Sequence[int],
        is_new: list[bool],
    ) -> None:
        """Some were there already. What has been added counts once; the rest is not new, unless it is a call made again."""
        added = set(
            connection.execute(
                "SELECT vehicle, reported_at_s, digest FROM frame WHERE position > ?", (before,)
            ).fetchall()
        )
        for row, place in zip(rows, places, strict=True):
            key = row[:3]
            if key in added:
                added.discard(key)
            elif self._has_failed:
                there = connection.execute(f"SELECT arrived_at_ns FROM frame WHERE {THIS_FRAME}", key).fetchone()
                is_new[place] = there[0] == row[3]
            else:
                is_new[place] = False

    def _strike_what_is_in_other(
        self,
        connection: sqlite3.Connection,
        frames: Sequence[StoredFrame],
        places: Sequence[int],
        rows: Sequence[tuple[Any, ...]],
        is_new: list[bool],
    ) -> None:
        """One that came before, when its time was not plausible, stays where it is."""
        there: list[tuple[int, int]] = []
        try:
            other = self._keys_of_other()
            if other is None or not (spans := other.spans()):
                return
            for at, (frame, row) in enumerate(zip(frames, rows, strict=True)):
                span = spans.get(frame.vin)
                if span is not None and span[0] <= row[1] <= span[1] and is_new[places[at]]:
                    arrival = arrival_of(other.connection, frame.vin, row[1], row[2])
                    if arrival is not None:
                        there.append((at, arrival))
        except sqlite3.DatabaseError:
            # Whoever writes to it or reads a history says so. A report is rather kept twice than refused.
            self._forget_keys_of_other()
        for at, arrival in there:
            connection.execute(f"DELETE FROM frame WHERE {THIS_FRAME}", rows[at][:3])
            is_new[places[at]] = self._has_failed and arrival == rows[at][3]

    def _strike_what_has_a_day(
        self,
        connection: sqlite3.Connection,
        frames: Sequence[StoredFrame],
        places: Sequence[int],
        rows: Sequence[tuple[Any, ...]],
        is_new: list[bool],
    ) -> None:
        """The other way: what is in `other` now, and stood in its day before: the clock has been set back since."""
        asked: dict[str, list[int]] = {}
        for at, place in enumerate(places):
            if is_new[place]:
                # From rows into blocks is how reports move.
                for name in _partitions_at(rows[at][1]):
                    if self._is_there(name):
                        asked.setdefault(name, []).append(at)
        for name, found in asked.items():
            with self.reading(name) as day:
                for at in found:
                    frame, place, row = frames[at], places[at], rows[at]
                    if day is None or not is_new[place]:
                        continue
                    arrival = arrival_of(day, frame.vin, row[1], row[2])
                    if arrival is None and _is_blocks(name):
                        block = block_at(day, frame.vin, row[1])
                        kept = () if block is None else self._reader.rows(frame.vin, block) or ()
                        arrival = next((each[1] for each in kept if (each[0], digest_of(each)) == row[1:3]), None)
                    if arrival is not None:
                        connection.execute(f"DELETE FROM frame WHERE {THIS_FRAME}", row[:3])
                        is_new[place] = self._has_failed and arrival == row[3]

    def _is_there(self, name: str) -> bool:
        return name in self._open if self._folder is None else self._path(name).exists()

    def _keys_of_other(self) -> OtherKeys | None:
        """Under the lock; None while there is no such file."""
        if self._other is None:
            if self._folder is None:
                partition = self._open.get(OTHER)
                if partition is not None:
                    self._other = OtherKeys(partition.connection)
            elif self._path(OTHER).exists():
                connection = self._connect(OTHER, is_new=False)
                try:
                    self._other = OtherKeys(connection)
                except BaseException:
                    connection.close()
                    raise
        return self._other

    def _forget_keys_of_other(self) -> None:
        other, self._other = self._other, None
        if other is not None and self._folder is not None:
            other.close()

    def _strike_what_is_in_blocks(
        self,
        name: str,
        connection: sqlite3.Connection,
        frames: Sequence[StoredFrame],
        places: Sequence[int],
        rows: Sequence[tuple[Any, ...]],
        is_new: list[bool],
    ) -> None:
        """Late reports: one that is in the block of its hour is taken out again."""
        there: dict[tuple[str, int], dict[tuple[int, int], int]] = {}
        with self.reading(_blocks_of(name), connection if _is_blocks(name) else None) as blocks:
            if blocks is None:
                return
            for frame, place, row in zip(frames, places, rows, strict=True):
                if not is_new[place]:
                    continue
                hour = (frame.vin, row[1] - row[1] % HOUR_S)
                block = block_at(blocks, frame.vin, row[1])
                if block is None:
                    continue
                hour = (frame.vin, block.since_s)
                if hour not in there:
                    read = self._reader.rows(frame.vin, block) or ()
                    there[hour] = {(each[0], digest_of(each)): each[1] for each in read}
                arrival = there[hour].get(row[1:3])
                if arrival is not None:
                    connection.execute(f"DELETE FROM frame WHERE {THIS_FRAME}", row[:3])
                    is_new[place] = self._has_failed and arrival == row[3]

    def _number(self, partition: _Partition, vin: str) -> int:
        number = _number_in(partition.connection, vin)
        partition.numbers[vin] = number
        return number

    def _begin(self, name: str) -> _Partition:
        """Begin a transaction in the file that now has the name: another process may have dropped the one we have open."""
        while True:
            partition = self._opened(name)
            partition.connection.execute("BEGIN IMMEDIATE")
            if self._folder is None or _inode(self._path(name)) == partition.inode:
                return partition
            self._forget(name)

    def _opened(self, name: str) -> _Partition:
        partition = self._open.get(name)
        if partition is not None:
            partition.is_idle = False
            self._open.move_to_end(name)
            return partition
        if self._folder is None or name == OTHER:
            return self._open_file(name)
        # Nobody removes it between the look and the opening, which would make it anew.
        with self._beginning_partitions():
            if not self._path(name).exists():
                # It must not begin anew beside its blocks, or beside one of another length.
                self._strike(name)
                raise StorageUnavailableError(
                    f"{self._label(name)}: another process has compacted or dropped it; try again", code="storage-busy"
                )
            return self._open_file(name)

    def _open_file(self, name: str) -> _Partition:
        """Open a partition, and make it if it is missing."""
        while self._folder is not None and len(self._open) >= _OPEN_MAX:
            self._forget(next(iter(self._open)))
        while True:
            before = -1 if self._folder is None else _inode(self._path(name))
            connection = self._connect(name, is_new=True)
            after = -1 if self._folder is None else _inode(self._path(name))
            if before in {-1, after}:
                break
            connection.close()
        try:
            numbers = {vin: number for number, vin in connection.execute("SELECT number, vin FROM vehicle")}
        except BaseException:
            connection.close()
            raise
        partition = _Partition(name, connection, after, numbers)
        self._open[name] = partition
        self._names.add(name)
        return partition

    def _forget(self, name: str) -> None:
        """Close a partition for writing; one in memory is kept, because closing would be the end of it."""
        partition = self._open.get(name)
        if partition is None:
            return
        if self._folder is None:
            if partition.connection.in_transaction:
                partition.connection.execute("ROLLBACK")
            partition.numbers = {
                vin: number for number, vin in partition.connection.execute("SELECT number, vin FROM vehicle")
            }
            return
        del self._open[name]
        with suppress(sqlite3.Error):
            partition.connection.close()

    # --- reading ----------------------------------------------------------------------------------------------------------

    def page(self, vin: str, request: PageRequest, since_s: int | None, until_s: int | None) -> FramePage:
        """Newest first."""
        found: list[Iterator[tuple[tuple[int, int], FrameRow]]] = []
        total = 0
        limit = min(ROWS_LIMIT, request.offset + request.size + 1)
        unreadable: dict[int, int] = {}
        for name in self._covering(since_s, until_s):
            source, begin, end = _Days(self, name, vin), *_bounds(name, since_s, until_s)
            count = self._reader.count(source, vin, begin, end)
            total += count
            if count:
                found.append(
                    self._reader.in_order(
                        source, vin, begin, end, newest_first=True, limit=limit, unreadable=unreadable
                    )
                )
        merged = heapq.merge(*found, key=itemgetter(0), reverse=True)
        rows = islice(merged, request.offset, request.offset + request.size)
        items = tuple(unpack(vin, row) for _, row in rows)
        return FramePage(
            items=items,
            total=total,
            number=request.number,
            size=request.size,
            unreadable=sum(unreadable.values()),
        )

    def read(self, vin: str, since_s: int, until_s: int) -> Iterator[StoredFrame]:
        """Oldest first."""
        found = [
            self._reader.in_order(_Days(self, name, vin), vin, *_bounds(name, since_s, until_s))
            for name in self._covering(since_s, until_s)
        ]
        merged = found[0] if len(found) == 1 else heapq.merge(*found, key=itemgetter(0))
        for _, row in merged:
            yield unpack(vin, row)

    def unread(self, limit: int, writer: int | None = None, marks: Mapping[str, int] | None = None) -> Unread:
        """See `TelemetryStore.unread`; of *writer*, who has derived up to *marks*, or of this process."""
        # Another process may have added some.
        self._find_files()
        with self._lock:
            number = self.writer if writer is None else writer
            marks = self._marks if marks is None else marks
            behind = {name: marks.get(name, 0) for name in self._names}
        streams = [self._behind(name, position, number) for name, position in sorted(behind.items())]
        frames: list[StoredFrame] = []
        places: dict[str, tuple[int, int]] = {}
        for arrival, name, position, frame in islice(heapq.merge(*streams, key=itemgetter(0)), limit):
            frames.append(frame)
            places[name] = (position, max(arrival, places.get(name, (0, 0))[1]))
        return Unread(tuple(frames), Mark(tuple((name, *place) for name, place in places.items()), writer))

    def writers(self) -> set[int]:
        """The numbers of all that have written, as the partitions say."""
        with self._lock:
            names = sorted(self._names)
        found = set()
        for name in names:
            if self._has_writers(name):
                found |= {number for (number,) in self.select(name, "SELECT number FROM writer", ())}
        return found

    def mark(self) -> Mark:
        with self._lock:
            return Mark(tuple((name, *place) for name, place in self._written.items()))

    def _behind(self, name: str, position: int, writer: int) -> Iterator[tuple[int, str, int, StoredFrame]]:
        if self._has_writers(name):
            newest = self.select(name, "SELECT newest_position FROM writer WHERE number = ?", [writer])
            end = newest[0][0] if newest else 0
        elif writer == 0:
            end = _POSITION_MAX
        else:
            return
        if end <= position:
            return
        sql = (
            f"SELECT position, vin, {ROW_COLUMNS} FROM frame JOIN vehicle ON vehicle.number = frame.vehicle"
            f" WHERE position > ? AND position <= ?{'' if end == _POSITION_MAX else ' AND writer = ?'}"
            f" ORDER BY position LIMIT {_CHUNK_ROWS}"
        )
        while True:
            rows = self.select(name, sql, [position, end, *([] if end == _POSITION_MAX else [writer])])
            for row in rows:
                frame = unpack(row[1], row[2:])
                yield frame.arrived_at_ns, name, row[0], frame
            if len(rows) < _CHUNK_ROWS:
                return
            position = rows[-1][0]

    def _has_writers(self, name: str) -> bool:
        """False for a file of layout 1 that nobody has written to since."""
        with self.reading(name) as connection:
            return connection is not None and self._layout_of(name, connection) >= _LAYOUT_WRITERS

    def select(self, name: str, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """The rows; none if the partition has been dropped meanwhile."""
        with self.reading(name) as connection:
            return [] if connection is None else connection.execute(sql, values).fetchall()

    @contextmanager
    def reading(self, name: str, own: sqlite3.Connection | None = None) -> Iterator[sqlite3.Connection | None]:
        """One consistent view of a partition; None if it has been dropped. With *own*, what that sees."""
        if own is not None:
            yield own
            return
        with _refusals(self._label(name)):
            if self._folder is None:
                with self._lock:
                    partition = self._open.get(name)
                    yield None if partition is None else partition.connection
                return
            try:
                connection = self._connect(name, is_new=False)
            except sqlite3.OperationalError:
                if self._path(name).exists():
                    raise
                yield None
                return
            try:
                connection.execute("BEGIN")
                # A file that is being made has no tables yet.
                yield connection if self._layout_of(name, connection) else None
            finally:
                connection.close()

    # --- compacting -------------------------------------------------------------------------------------------------------

    def hot(self, marks: _Marks) -> list[HotPartition]:
        """See `TelemetryStore.hot`."""
        self._find_files()
        with self._lock:
            names = sorted(self._names - {OTHER})
        found = []
        for name in names:
            with self.reading(name) as connection:
                if connection is None:
                    continue
                sql = "SELECT arrived_at_ns FROM frame ORDER BY position LIMIT 1"
                for (arrival,) in connection.execute(sql).fetchall():
                    is_derived = self._is_derived(name, connection, marks)
                    found.append(HotPartition(name, _range_of(name)[1], arrival, is_derived))
        return found

    def _is_derived(self, name: str, connection: sqlite3.Connection, marks: _Marks) -> bool:
        """Whether nobody has left a frame underived that *connection* sees."""
        has_writers = self._layout_of(name, connection) >= _LAYOUT_WRITERS
        sql = (
            "SELECT number, newest_position FROM writer"
            if has_writers
            else "SELECT 0, max(position) FROM frame HAVING count(*) > 0"
        )
        writers = connection.execute(sql).fetchall()
        # Behind the look at the frames: who has written has registered before, and who is struck has left nothing.
        known = marks()
        sql = f"SELECT EXISTS (SELECT 1 FROM frame WHERE position > ? AND position <= ?{' AND writer = ?' if has_writers else ''})"
        for number, newest in writers:
            mark = known[number].get(name, 0) if number in known else newest
            # The newest position may be that of another's frame.
            if newest > mark:
                values = (mark, newest, *([number] if has_writers else []))
                if connection.execute(sql, values).fetchone()[0]:
                    return False
        return True

    def compact(self, name: str, hours: int, marks: _Marks) -> tuple[Compacted, list[str]]:
        """See `TelemetryStore.compact`; beside it the partitions whose rows are all in blocks, and which are gone."""
        if _is_blocks(name):
            return self._compact_late(name, hours, marks), []
        # In memory there is one connection; in a folder nobody but this writes to the blocks while the rows are there.
        with (
            self._lock if self._folder is None else nullcontext(),
            _refusals(self._label(_blocks_of(name))),
            self.reading(name) as source,
        ):
            if source is None:
                self._compacting.pop(name, None)
                return Compacted(0, is_done=True), []
            progress = self._compacting.get(name)
            if progress is None:
                if not self._is_derived(name, source, marks):
                    return Compacted(0, is_done=False), []
                last = source.execute("SELECT max(position) FROM frame").fetchone()[0] or 0
                progress = self._compacting[name] = _Progress(last)
            pairs = next_hours(source, progress.after, hours)
            if pairs:
                self._compact_hours(name, source, pairs)
                progress.after = pairs[-1]
                return Compacted(len(pairs), is_done=False), []
            newest = source.execute("SELECT max(position) FROM frame").fetchone()[0] or 0
            late, last = hours_behind(source, progress.last_position, _LAST_ROWS)
            if len(late) > _LAST_HOURS or last < newest:
                self._compact_hours(name, source, late)
                progress.last_position = last
                return Compacted(len(late), is_done=False), []
        with self._lock, _refusals(self._label(name)):
            is_gone = self._remove_rows(name, progress.last_position, marks)
        if is_gone:
            self._compacting.pop(name, None)
        return Compacted(0, is_done=is_gone), [name] if is_gone else []

    def _compact_hours(self, name: str, source: sqlite3.Connection, pairs: Sequence[tuple[int, int]]) -> None:
        """The rows of these vehicles and hours into blocks, in one transaction."""
        with _refusals(self._label(_blocks_of(name))), self._writing_blocks(name) as target:
            target.execute("BEGIN IMMEDIATE")
            try:
                for vehicle, hour_s in pairs:
                    (vin,) = source.execute("SELECT vin FROM vehicle WHERE number = ?", (vehicle,)).fetchone()
                    tables = SqliteHourTables(vin, source, vehicle, target, _number_in(target, vin))
                    compact_hour(tables, hour_s, self._reader)
                target.execute("COMMIT")
            except BaseException:
                if target.in_transaction:
                    target.execute("ROLLBACK")
                raise

    @contextmanager
    def _writing_blocks(self, name: str) -> Iterator[sqlite3.Connection]:
        blocks = _blocks_of(name)
        with self._lock:
            self._names.add(blocks)
        if self._folder is None:
            yield self._opened(blocks).connection
            return
        connection = self._connect(blocks, is_new=True)
        try:
            yield connection
        finally:
            connection.close()

    def _remove_rows(self, name: str, last_position: int, marks: _Marks) -> bool:
        """Under the lock: the last rows into blocks, then remove the file; False if it has to wait."""
        with self._holding(name) as connection:
            if connection is None:
                return False
            newest = connection.execute("SELECT max(position) FROM frame").fetchone()[0] or 0
            late, last = hours_behind(connection, last_position, _LAST_ROWS)
            if last < newest or not self._is_derived(name, connection, marks):
                return False
            if late:
                self._compact_hours(name, connection, late)
            if self._folder is not None:
                # The blocks are synced; that there is such a file has to be as well.
                _sync_folder(self._folder)
            # Who looks for partitions finds the rows or the blocks.
            if not self._remove_alone(name):
                return False
        self._strike(name)
        return True

    def _compact_late(self, name: str, hours: int, marks: _Marks) -> Compacted:
        """Reports that came when their hour stood in a block: in one transaction out of the rows and into the block."""
        progress = self._compacting.setdefault(name, _Progress(0))
        done = 0
        while done < hours:
            with self._lock, _refusals(self._label(name)):
                if self._folder is not None and not self._path(name).exists():
                    break
                try:
                    connection = self._begin(name).connection
                    if not self._is_derived(name, connection, marks):
                        connection.execute("ROLLBACK")
                        return Compacted(done, is_done=False)
                    pairs = next_hours(connection, progress.after, min(hours - done, _LOCKED_HOURS))
                    for vehicle, hour_s in pairs:
                        (vin,) = connection.execute("SELECT vin FROM vehicle WHERE number = ?", (vehicle,)).fetchone()
                        tables = SqliteHourTables(vin, connection, vehicle, connection, vehicle)
                        compact_hour(tables, hour_s, self._reader)
                    connection.execute("COMMIT")
                except BaseException:
                    self._forget(name)
                    raise
            if not pairs:
                break
            progress.after = pairs[-1]
            done += len(pairs)
        else:
            return Compacted(done, is_done=False)
        self._compacting.pop(name, None)
        return Compacted(done, is_done=True)

    # --- dropping ---------------------------------------------------------------------------------------------------------

    def prune(self, arrived_before_ns: int) -> tuple[int, list[str]]:
        """See `TelemetryStore.prune`: how many frames, and the partitions that are gone."""
        count, gone = 0, []
        with self._lock:
            names = sorted(self._names - {OTHER})
            for partition in list(self._open.values()):
                if partition.is_idle and self._folder is not None:
                    self._forget(partition.name)
                partition.is_idle = True
        for name in names:
            with self._lock, _refusals(self._label(name)):
                dropped = self._drop_if_older(name, arrived_before_ns)
            if dropped is not None:
                count += dropped
                # With blocks go the marks that a process has saved for their rows after those had gone.
                gone += [name, *({_rows_of(name)} - self._names)]
        if OTHER in self._names:
            count += self._delete_others(arrived_before_ns)
        return count, gone

    def _drop_if_older(self, name: str, arrived_before_ns: int) -> int | None:
        """Under the lock: drop a partition, and say how many frames it had; None if something in it is younger."""
        if any(self._has_younger(each, arrived_before_ns) for each in {name, _rows_of(name), _blocks_of(name)}):
            return None
        if self._folder is not None and not self._path(name).exists():
            self._forget(name)
            self._strike(name)
            return 0
        with self._holding(name) as connection:
            # Nobody adds to it now.
            if connection is None or self._has_younger(name, arrived_before_ns, connection):
                return None
            count = self._frame_count(name, connection)
            if not self._remove_alone(name):
                return None
        self._strike(name)
        return count

    def _has_younger(self, name: str, arrived_before_ns: int, own: sqlite3.Connection | None = None) -> bool:
        """Whether a frame of a partition arrived at that time or later; what is behind the catalog is looked at."""
        if name not in self._names:
            return False
        entry = self._catalog.get(name, _Entry())
        if max(entry.newest_arrival_ns, self._written.get(name, (0, 0))[1]) >= arrived_before_ns:
            return True
        with self.reading(name, own) as connection:
            if connection is None:
                return False
            sql = "SELECT coalesce(max(arrived_at_ns), -1) FROM frame WHERE position > ?"
            newest = connection.execute(sql, (entry.derived_to,)).fetchone()[0]
            if _is_blocks(name):
                newest = max(newest, connection.execute("SELECT newest_arrival_ns FROM about").fetchone()[0])
            return bool(newest >= arrived_before_ns)

    def _frame_count(self, name: str, connection: sqlite3.Connection) -> int:
        if not _is_blocks(name):
            return int(connection.execute("SELECT max(position) FROM frame").fetchone()[0] or 0)
        sql = "SELECT (SELECT frames FROM about) + (SELECT count(*) FROM frame)"
        return int(connection.execute(sql).fetchone()[0])

    @contextmanager
    def _holding(self, name: str) -> Iterator[sqlite3.Connection | None]:
        """Under the lock: a partition that nobody else has open or can add to; None if another process has it open."""
        self._forget(name)
        if self._folder is None:
            yield self._opened(name).connection
            return
        connection = self._connect(name, is_new=True)
        try:
            # Without a write-ahead log there is only the one file, and nothing of ours can meet that of a successor.
            connection.execute("PRAGMA busy_timeout = 0")
            try:
                connection.execute("PRAGMA journal_mode = DELETE")
                connection.execute("BEGIN EXCLUSIVE")
            except sqlite3.OperationalError:
                # Someone has it open. A reader is done soon, and another process lets go of what it does not write to.
                yield None
                return
            yield connection
        finally:
            connection.close()

    def _remove_alone(self, name: str) -> bool:
        """Remove a partition; False while another process begins or opens one."""
        if self._folder is None:
            self._open.pop(name).connection.close()
            return True
        lock = self._lock_of_partitions()
        if not lock.take():
            return False
        try:
            self._path(name).unlink()
        finally:
            lock.release()
        return True

    def _strike(self, name: str) -> None:
        self._names.discard(name)
        self._paths.pop(name, None)
        self._catalog.pop(name, None)
        self._written.pop(name, None)
        self._marks.pop(name, None)

    def _delete_others(self, arrived_before_ns: int) -> int:
        count = 0
        while True:
            with self._lock, _refusals(self._label(OTHER)):
                try:
                    connection = self._begin(OTHER).connection
                    deleted = connection.execute(
                        "DELETE FROM frame WHERE position IN"
                        " (SELECT position FROM frame WHERE arrived_at_ns < ? ORDER BY position LIMIT ?)",
                        (arrived_before_ns, _DELETE_ROWS),
                    ).rowcount
                    connection.execute("COMMIT")
                except BaseException:
                    self._forget(OTHER)
                    raise
            count += deleted
            if deleted < _DELETE_ROWS:
                return count

    def close(self) -> None:
        with self._lock:
            for partition in self._open.values():
                partition.connection.close()
            self._open.clear()
            self._forget_keys_of_other()
            if self._partitions_lock is not None:
                self._partitions_lock.close()
                self._partitions_lock = None

    # --- files ------------------------------------------------------------------------------------------------------------

    def _partition_of(self, frame: StoredFrame) -> str:
        if not frame.is_time_plausible:
            return OTHER
        at_s = frame.reported_at_s
        for name in _partitions_at(at_s):
            if name in self._names:
                return name
        if not has_day(frame):
            return OTHER
        hour = _hour(at_s - at_s % HOUR_S)
        return hour if self._is_hourly else hour[:10]

    def _covering(self, since_s: int | None, until_s: int | None) -> list[str]:
        """The partitions that may have frames of this time."""
        if self._folder is not None:
            # Another process may have added some.
            self._find_files()
        with self._lock:
            names = sorted({_rows_of(name) for name in self._names})
        found = []
        for name in names:
            begin, end = _range_of(name)
            if name == OTHER or ((until_s is None or begin < until_s) and (since_s is None or end > since_s)):
                found.append(name)
        return found

    def _find_files(self) -> None:
        if self._folder is None:
            return
        with self._lock:
            found: set[str] | None = None
            while found is None or found:
                # A listing may have a file and lack one that was begun before it; the next one has both.
                names = {path.stem for path in self._folder.glob("*.sqlite")} - self._names
                found = {name for name in names if name == OTHER or _is_name(name)}
                self._names |= found

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        # Each batch asks; to make a path takes longer than to look whether it is there.
        found = self._paths.get(name)
        if found is None:
            found = self._paths[name] = self._folder / f"{name}.sqlite"
        return found

    def _label(self, name: str) -> str:
        return "reports in memory" if self._folder is None else f"{self._folder.name}/{name}.sqlite"

    def _connect(self, name: str, *, is_new: bool) -> sqlite3.Connection:
        """Open a partition, and with *is_new* make it if it is missing."""
        where = ":memory:" if self._folder is None else self._path(name).absolute().as_uri()
        connection = sqlite3.connect(
            # A reader must not bring back what has just been dropped.
            where if is_new or self._folder is None else f"{where}?mode=rw",
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
            uri=self._folder is not None,
        )
        try:
            layout = self._layout_of(name, connection)
            if is_new:
                if not layout and _is_blocks(name):
                    connection.execute(f"PRAGMA page_size = {_BLOCK_PAGE_BYTES}")
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
                # The pages that a statement of many rows changes are kept until it is done: in a file of their own otherwise.
                connection.execute("PRAGMA temp_store = MEMORY")
                if layout < _LAYOUT_WRITERS:
                    self._bring_up_to_date(name, connection)
            else:
                connection.execute("PRAGMA query_only = 1")
        except BaseException:
            connection.close()
            raise
        return connection

    def _bring_up_to_date(self, name: str, connection: sqlite3.Connection) -> None:
        connection.execute("BEGIN IMMEDIATE")
        # Another process may have done it meanwhile.
        layout = self._layout_of(name, connection)
        # Where numbers are counted there are too few rows to need slices.
        is_plain = _is_counted(name)
        tables = _TABLES.format(counting=" AUTOINCREMENT" if is_plain else "", slice="" if is_plain else f"{SLICE}, ")
        steps = [tables + (BLOCK_TABLES if _is_blocks(name) else ""), _WRITERS]
        for statement in "".join(steps[layout:]).split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_LAYOUT_WRITERS if layout or is_plain else LAYOUT_SLICES}")
        connection.execute("COMMIT")

    def _layout_of(self, name: str, connection: sqlite3.Connection) -> int:
        layout = int(connection.execute("PRAGMA user_version").fetchone()[0])
        if layout > _LAYOUT:
            raise StorageUnavailableError(
                f"{self._label(name)}: expected layout {_LAYOUT} or older, got {layout}; a newer bmsota-cloud wrote this file",
                code="storage-failed",
            )
        return layout


@contextmanager
def _refusals(label: str) -> Iterator[None]:
    """What SQLite and the file system refuse, in our words, with the file's name."""
    try:
        yield
    except (sqlite3.DatabaseError, OSError) as error:
        refusal = unavailable_from(error)
        code = "storage-failed" if refusal is None else refusal.code
        raise StorageUnavailableError(f"{label}: {error}", code=code) from error


def _insert_of(count: int, writer: int) -> str:
    return (
        "INSERT INTO frame (vehicle, reported_at_s, digest, arrived_at_ns, form, clear, received, fault, writer) VALUES "
        + ", ".join([f"(?, ?, ?, ?, ?, ?, ?, ?, {writer})"] * count)
        + " ON CONFLICT DO NOTHING"
    )


def _insert(
    connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]], inserts: Mapping[int, str]
) -> tuple[int, int]:
    """Insert *rows* with *inserts*, statements by their number of rows, the largest first; how many were not there yet, and the newest position."""
    at = added = newest = 0
    for count, sql in inserts.items():
        while len(rows) - at >= count:
            cursor = connection.execute(sql, list(chain.from_iterable(rows[at : at + count])))
            if cursor.rowcount:
                added += cursor.rowcount
                newest = cursor.lastrowid or 0
            at += count
    return added, newest if added else _newest(connection)


def _newest(connection: sqlite3.Connection) -> int:
    return int(connection.execute("SELECT max(position) FROM frame").fetchone()[0] or 0)


def _is_counted(name: str) -> bool:
    """Where rows go one by one, a number must not come twice."""
    return name == OTHER or _is_blocks(name)


class _Days:
    """`_reading.FrameSource` of one partition: its rows, then its late rows and blocks, which are one file."""

    def __init__(self, frames: SqliteFrames, name: str, vin: str) -> None:
        self._frames = frames
        self._name = name
        self._vin = vin

    def fetch(self, since_s: int, until_s: int, *, newest_first: bool, limit: int | None) -> Found:
        tables: list[list[LocatedRow]] = []
        for name in (self._name, _blocks_of(self._name)):
            with self._frames.reading(name) as connection:
                if connection is None:
                    continue
                tables.append(
                    rows_between(
                        connection,
                        self._vin,
                        since_s,
                        until_s,
                        newest_first=newest_first,
                        limit=limit,
                        at=_at(self._name),
                    )
                )
                if _is_blocks(name):
                    blocks = blocks_between(
                        connection, self._vin, since_s, until_s, newest_first=newest_first, is_limited=limit is not None
                    )
                    return Found(tables, blocks)
        return Found(tables, ())

    def counts(self, since_s: int, until_s: int) -> FrameCounts:
        tables: list[dict[int, int]] = []
        for name in (self._name, _blocks_of(self._name)):
            with self._frames.reading(name) as connection:
                if connection is None:
                    continue
                tables.append(counts_between(connection, self._vin, since_s, until_s, at=_at(self._name)))
                if _is_blocks(name):
                    return FrameCounts(tables, block_counts(connection, self._vin, since_s, until_s))
        return FrameCounts(tables)


def _number_in(connection: sqlite3.Connection, vin: str) -> int:
    connection.execute("INSERT INTO vehicle (vin) VALUES (?) ON CONFLICT DO NOTHING", (vin,))
    return int(connection.execute("SELECT number FROM vehicle WHERE vin = ?", (vin,)).fetchone()[0])


def _is_blocks(name: str) -> bool:
    return name.endswith(_BLOCKS)


def _rows_of(name: str) -> str:
    """The partition of the rows that belongs to one of blocks."""
    return name.removesuffix(_BLOCKS)


def _blocks_of(name: str) -> str:
    return name if name.endswith(_BLOCKS) else f"{name}{_BLOCKS}"


def _bounds(name: str, since_s: int | None, until_s: int | None) -> tuple[int, int]:
    """The part of a range that a partition can have."""
    begin, end = (-_ALWAYS_S, _ALWAYS_S) if name == OTHER else _range_of(name)
    return begin if since_s is None else max(begin, since_s), end if until_s is None else min(end, until_s)


def _inode(path: Path) -> int:
    try:
        return path.stat().st_ino
    except FileNotFoundError:
        return -1


def _sync_folder(folder: Path) -> None:
    """A new folder is there after a power cut only when its parent is synced; Windows neither can nor needs to."""
    with suppress(PermissionError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


@lru_cache(maxsize=1024)
def _hour(at_s: int) -> str:
    """The name of the partition of an hour; its first ten characters are that of the day."""
    return datetime.fromtimestamp(at_s, UTC).strftime("%Y-%m-%dT%H")


def _partitions_at(at_s: int) -> tuple[str, str, str, str]:
    """Where a report of this second may be: the first of these that there is."""
    hour = _hour(at_s - at_s % HOUR_S)
    day = hour[:10]
    # An hour is never begun beside its day, but a day may be beside an hour that has gone into blocks since.
    return hour, f"{hour}{_BLOCKS}", day, f"{day}{_BLOCKS}"


def _at(name: str) -> str:
    """Where a frame stands in time: with an implausible time, at its arrival."""
    if name != OTHER:
        return "reported_at_s"
    return f"CASE WHEN form & {TIME_IMPLAUSIBLE} THEN arrived_at_ns / {_SECOND_NS} ELSE reported_at_s END"


def _is_name(name: str) -> bool:
    match = _NAME.fullmatch(name)
    if match is None:
        return False
    with suppress(ValueError):
        _range_of(name)
        return True
    return False


def _range_of(name: str) -> tuple[int, int]:
    """The first second of a partition and the one behind its last."""
    if name == OTHER:
        return 0, 0
    match = _NAME.fullmatch(name)
    assert match is not None
    begin = datetime.fromisoformat(match[1]).replace(tzinfo=UTC)
    if match[2] is None:
        return int(begin.timestamp()), int(begin.timestamp()) + _DAY_S
    begin = begin.replace(hour=int(match[2]))
    return int(begin.timestamp()), int(begin.timestamp()) + HOUR_S
