"""Frames on SQLite: a file for each partition, beside the telemetry database.

    telemetry.sqlite                 newest states, events, the catalog of partitions
    reports/2026-11-29.sqlite        the frames of one day of report time (UTC), or reports/2026-11-29T08.sqlite of one hour
    reports/other.sqlite             frames whose time is not plausible, or more than a month before their arrival

Strategy. A day is dropped by removing a file, which costs the same for 1,000 and for 30 million frames; nothing is deleted row by
row. A file is complete in itself: it has its own numbers for vehicles and says its layout in `PRAGMA user_version`. The way in is
the standard library's `sqlite3`, because the layers above it cost ten times the insert. Each file is committed for itself (SQLite
promises no more for several files in WAL mode); a call that failed between two of them may be made again, because a frame that is
there with the very same arrival is that frame.

Each row says which process wrote it (`writer`), and each file how far it has the frames of each: what a process has left underived is
found without looking through those of the others.

A frame goes where its hour or its day is already, else into a new partition of the length that the settings name. So the setting
can be changed at any time, and a repetition is still found.
"""

from __future__ import annotations

import heapq
import os
import re
import sqlite3
from collections import OrderedDict
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import lru_cache
from itertools import chain, islice
from operator import itemgetter
from threading import RLock
from typing import TYPE_CHECKING, Any, Final

from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.telemetry import Mark, Unread
from bmsota_cloud.storage.sql._packing import TIME_IMPLAUSIBLE, has_day, pack, unpack
from bmsota_cloud.storage.sql._unavailable import unavailable_from

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence
    from pathlib import Path

    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.domain.telemetry import StoredFrame

__all__ = ["OTHER", "SqliteFrames"]

OTHER: Final = "other"
"""The partition of frames that may not begin one: see `has_day`."""
_LAYOUT: Final = 2
"""2: who wrote a frame. The frames of layout 1 are those of writer 0."""
_SECOND_NS: Final = 1_000_000_000
_HOUR_S: Final = 3600
_DAY_S: Final = 24 * _HOUR_S
_NAME: Final = re.compile(r"(\d{4}-\d{2}-\d{2})(?:T(\d{2}))?")
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
CREATE UNIQUE INDEX IF NOT EXISTS frame_key ON frame (vehicle, reported_at_s, digest);
"""
_WRITERS: Final = """
ALTER TABLE frame ADD COLUMN writer INTEGER NOT NULL DEFAULT 0;
CREATE TABLE writer (number INTEGER PRIMARY KEY, newest_position INTEGER NOT NULL);
INSERT INTO writer SELECT 0, max(position) FROM frame HAVING count(*) > 0;
"""
# Many rows in one statement: `sqlite3` lets go of the interpreter's lock once a statement, and while the event loop is busy each
# time costs more than the row.
_INSERT_ROWS: Final = (32, 8, 1)
_COLUMNS: Final = "reported_at_s, arrived_at_ns, form, clear, received, fault"
_OF_VEHICLE: Final = "vehicle = (SELECT number FROM vehicle WHERE vin = ?)"


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


class SqliteFrames:
    """The frames of a telemetry store on SQLite. Every method may be called from any thread."""

    def __init__(self, folder: Path | None, *, is_hourly: bool = False) -> None:
        """Keep partitions in *folder*, which is made if it is missing; in memory if it is None.

        Raises:
            OSError: the folder cannot be made.
        """
        self._folder = folder
        self._is_hourly = is_hourly
        self._lock = RLock()
        self._open: OrderedDict[str, _Partition] = OrderedDict()
        self._names: set[str] = set()
        self.writer = 0
        """The number of this process; frames are of this writer."""
        self._marks: dict[str, int] = {}
        self._inserts: dict[int, str] = {}
        self._catalog: dict[str, _Entry] = {}
        self._written: dict[str, tuple[int, int]] = {}
        self._has_failed = False
        if folder is not None and not folder.is_dir():
            folder.mkdir(parents=True)
            _sync_folder(folder.parent)
        self._find_files()
        self.take_number(0, {})

    # --- the catalog, kept by the owner in the telemetry database --------------------------------------------------------

    def take_catalog(self, rows: Mapping[str, tuple[int, int]]) -> None:
        """Remember what the database says: partition -> (derived to, newest arrival). Files that it lacks count as not derived."""
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
            # In the order of the frames within each partition.
            parts: dict[str, list[int]] = {}
            hours: dict[int, list[int]] = {}
            for place, frame in enumerate(frames):
                at_h = frame.reported_at_s // _HOUR_S
                # Nearly always all of them are of one hour, which has a partition already.
                if not frame.is_time_plausible or (found := hours.get(at_h)) is None:
                    name = self._partition_of(frame)
                    found = parts.setdefault(name, [])
                    if name in self._names and name != OTHER:
                        hours[at_h] = found
                found.append(place)
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
        before = connection.execute("SELECT max(position) FROM frame").fetchone()[0] or 0
        added = _insert(connection, rows, self._inserts)
        if added != len(rows):
            self._find_new(connection, before, rows, places, is_new)
        after = connection.execute("SELECT max(position) FROM frame").fetchone()[0] or 0
        connection.execute(
            "INSERT INTO writer (number, newest_position) VALUES (?, ?) ON CONFLICT (number) DO UPDATE SET"
            " newest_position = excluded.newest_position",
            (self.writer, after),
        )
        connection.execute("COMMIT")
        newest = max(frame.arrived_at_ns for frame in frames)
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
                there = connection.execute(
                    "SELECT arrived_at_ns FROM frame WHERE vehicle = ? AND reported_at_s = ? AND digest = ?", key
                ).fetchone()
                is_new[place] = there[0] == row[3]
            else:
                is_new[place] = False

    def _number(self, partition: _Partition, vin: str) -> int:
        connection = partition.connection
        connection.execute("INSERT INTO vehicle (vin) VALUES (?) ON CONFLICT DO NOTHING", (vin,))
        number = int(connection.execute("SELECT number FROM vehicle WHERE vin = ?", (vin,)).fetchone()[0])
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

    def page(
        self, vin: str, request: PageRequest, since_s: int | None, until_s: int | None
    ) -> tuple[tuple[StoredFrame, ...], int]:
        """Newest first: the frames of the page, and how many there are in all."""
        found: list[Iterator[tuple[tuple[int, int], StoredFrame]]] = []
        total = 0
        for name in self._covering(since_s, until_s):
            count = self._count(name, vin, since_s, until_s)
            total += count
            if count:
                found.append(self._newest_first(name, vin, since_s, until_s))
        merged = heapq.merge(*found, key=itemgetter(0), reverse=True)
        items = tuple(frame for _, frame in islice(merged, request.offset, request.offset + request.size))
        return items, total

    def read(self, vin: str, since_s: int, until_s: int) -> Iterator[StoredFrame]:
        """Oldest first."""
        found = [self._oldest_first(name, vin, since_s, until_s) for name in self._covering(since_s, until_s)]
        for _, frame in heapq.merge(*found, key=itemgetter(0)):
            yield frame

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
                found |= {number for (number,) in self._select(name, "SELECT number FROM writer", ())}
        return found

    def mark(self) -> Mark:
        with self._lock:
            return Mark(tuple((name, *place) for name, place in self._written.items()))

    def _where(self, name: str, vin: str, since_s: int | None, until_s: int | None) -> tuple[str, list[object]]:
        """The condition, and its values. A frame with an implausible time stands at its arrival."""
        at = _at(name)
        condition = _OF_VEHICLE
        values: list[object] = [vin]
        if since_s is not None:
            condition, values = f"{condition} AND {at} >= ?", [*values, since_s]
        if until_s is not None:
            condition, values = f"{condition} AND {at} < ?", [*values, until_s]
        return condition, values

    def _count(self, name: str, vin: str, since_s: int | None, until_s: int | None) -> int:
        condition, values = self._where(name, vin, since_s, until_s)
        rows = self._select(name, f"SELECT count(*) FROM frame WHERE {condition}", values)
        return int(rows[0][0]) if rows else 0

    def _newest_first(
        self, name: str, vin: str, since_s: int | None, until_s: int | None
    ) -> Iterator[tuple[tuple[int, int], StoredFrame]]:
        return self._in_order(name, vin, since_s, until_s, "DESC", "<")

    def _oldest_first(
        self, name: str, vin: str, since_s: int | None, until_s: int | None
    ) -> Iterator[tuple[tuple[int, int], StoredFrame]]:
        return self._in_order(name, vin, since_s, until_s, "ASC", ">")

    def _in_order(
        self, name: str, vin: str, since_s: int | None, until_s: int | None, way: str, beyond: str
    ) -> Iterator[tuple[tuple[int, int], StoredFrame]]:
        """In pieces, each a short transaction: a long one would keep the write-ahead log growing."""
        at = _at(name)
        condition, values = self._where(name, vin, since_s, until_s)
        order = f"ORDER BY {at} {way}, position {way} LIMIT {_CHUNK_ROWS}"
        last: list[object] = []
        while True:
            more = f" AND ({at}, position) {beyond} (?, ?)" if last else ""
            sql = f"SELECT {at}, position, {_COLUMNS} FROM frame WHERE {condition}{more} {order}"
            rows = self._select(name, sql, [*values, *last])
            for row in rows:
                frame = unpack(vin, row[2:])
                yield (row[0], frame.arrived_at_ns), frame
            if len(rows) < _CHUNK_ROWS:
                return
            last = [rows[-1][0], rows[-1][1]]

    def _behind(self, name: str, position: int, writer: int) -> Iterator[tuple[int, str, int, StoredFrame]]:
        if self._has_writers(name):
            newest = self._select(name, "SELECT newest_position FROM writer WHERE number = ?", [writer])
            end = newest[0][0] if newest else 0
        elif writer == 0:
            end = _POSITION_MAX
        else:
            return
        if end <= position:
            return
        sql = (
            f"SELECT position, vin, {_COLUMNS} FROM frame JOIN vehicle ON vehicle.number = frame.vehicle"
            f" WHERE position > ? AND position <= ?{'' if end == _POSITION_MAX else ' AND writer = ?'}"
            f" ORDER BY position LIMIT {_CHUNK_ROWS}"
        )
        while True:
            rows = self._select(name, sql, [position, end, *([] if end == _POSITION_MAX else [writer])])
            for row in rows:
                frame = unpack(row[1], row[2:])
                yield frame.arrived_at_ns, name, row[0], frame
            if len(rows) < _CHUNK_ROWS:
                return
            position = rows[-1][0]

    def _has_writers(self, name: str) -> bool:
        """False for a file of layout 1 that nobody has written to since."""
        found = self._select(name, "SELECT count(*) FROM sqlite_master WHERE type = 'table' AND name = 'writer'", ())
        return bool(found and found[0][0])

    def _select(self, name: str, sql: str, values: Sequence[object]) -> list[tuple[Any, ...]]:
        """The rows; none if the partition has been dropped meanwhile."""
        with _refusals(self._label(name)):
            if self._folder is None:
                with self._lock:
                    partition = self._open.get(name)
                    return [] if partition is None else partition.connection.execute(sql, values).fetchall()
            if not self._path(name).exists():
                return []
            connection = self._connect(name, is_new=False)
            try:
                return connection.execute(sql, values).fetchall()
            finally:
                connection.close()

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
                gone.append(name)
        if OTHER in self._names:
            count += self._delete_others(arrived_before_ns)
        return count, gone

    def _drop_if_older(self, name: str, arrived_before_ns: int) -> int | None:
        """Under the lock: drop a partition, and say how many frames it had; None if something in it is younger."""
        entry = self._catalog.get(name, _Entry())
        if max(entry.newest_arrival_ns, self._written.get(name, (0, 0))[1]) >= arrived_before_ns:
            return None
        if self._folder is not None and not self._path(name).exists():
            self._forget(name)
            self._strike(name)
            return 0
        self._forget(name)
        connection = self._open[name].connection if self._folder is None else self._connect(name, is_new=True)
        try:
            if self._folder is not None:
                # Without a write-ahead log there is only the one file, and nothing of ours can meet that of a successor.
                connection.execute("PRAGMA busy_timeout = 0")
                try:
                    connection.execute("PRAGMA journal_mode = DELETE")
                except sqlite3.OperationalError:
                    # Another process has it open. It lets go of what it does not write to, and the next look drops it.
                    return None
            # What is behind the catalog is looked at, and nobody adds to it while it goes.
            connection.execute("BEGIN EXCLUSIVE")
            newest, count = connection.execute(
                "SELECT (SELECT max(arrived_at_ns) FROM frame WHERE position > ?), (SELECT max(position) FROM frame)",
                (entry.derived_to,),
            ).fetchone()
            if newest is not None and newest >= arrived_before_ns:
                connection.execute("ROLLBACK")
                return None
            if self._folder is not None:
                self._path(name).unlink()
            connection.execute("ROLLBACK")
            if self._folder is None:
                del self._open[name]
                connection.close()
        finally:
            if self._folder is not None:
                connection.close()
        self._strike(name)
        return int(count or 0)

    def _strike(self, name: str) -> None:
        self._names.discard(name)
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

    # --- files ------------------------------------------------------------------------------------------------------------

    def _partition_of(self, frame: StoredFrame) -> str:
        if not frame.is_time_plausible:
            return OTHER
        at_s = frame.reported_at_s
        hour = _hour(at_s - at_s % _HOUR_S)
        day = hour[:10]
        if hour in self._names:
            return hour
        if day in self._names:
            return day
        if not has_day(frame):
            return OTHER
        return hour if self._is_hourly else day

    def _covering(self, since_s: int | None, until_s: int | None) -> list[str]:
        """The partitions that may have frames of this time."""
        if self._folder is not None:
            # Another process may have added some.
            self._find_files()
        with self._lock:
            names = sorted(self._names)
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
            for path in self._folder.glob("*.sqlite"):
                if path.stem == OTHER or _is_name(path.stem):
                    self._names.add(path.stem)

    def _path(self, name: str) -> Path:
        assert self._folder is not None
        return self._folder / f"{name}.sqlite"

    def _label(self, name: str) -> str:
        return "reports in memory" if self._folder is None else f"{self._folder.name}/{name}.sqlite"

    def _connect(self, name: str, *, is_new: bool) -> sqlite3.Connection:
        """Open a partition, and with *is_new* make it if it is missing."""
        connection = sqlite3.connect(
            ":memory:" if self._folder is None else self._path(name),
            timeout=_BUSY_TIMEOUT_S,
            isolation_level=None,
            check_same_thread=False,
        )
        try:
            layout = self._layout_of(name, connection)
            if is_new:
                connection.execute("PRAGMA journal_mode = WAL")
                connection.execute("PRAGMA synchronous = FULL")
                connection.execute(f"PRAGMA cache_size = -{_CACHE_KIB}")
                connection.execute(f"PRAGMA wal_autocheckpoint = {_CHECKPOINT_PAGES}")
                # The pages that a statement of many rows changes are kept until it is done: in a file of their own otherwise.
                connection.execute("PRAGMA temp_store = MEMORY")
                if layout < _LAYOUT:
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
        steps = [_TABLES.format(counting=" AUTOINCREMENT" if name == OTHER else ""), _WRITERS]
        for statement in "".join(steps[layout:]).split(";"):
            connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {_LAYOUT}")
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
        + " ON CONFLICT (vehicle, reported_at_s, digest) DO NOTHING"
    )


def _insert(connection: sqlite3.Connection, rows: Sequence[tuple[Any, ...]], inserts: Mapping[int, str]) -> int:
    """Insert *rows* with *inserts*, statements by their number of rows, the largest first; how many were not there yet."""
    at = added = 0
    for count, sql in inserts.items():
        while len(rows) - at >= count:
            added += connection.execute(sql, list(chain.from_iterable(rows[at : at + count]))).rowcount
            at += count
    return added


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
    return int(begin.timestamp()), int(begin.timestamp()) + _HOUR_S
