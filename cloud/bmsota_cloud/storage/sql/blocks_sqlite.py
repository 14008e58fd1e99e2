"""Blocks on SQLite: a file beside that of the rows, `reports/2026-11-29.blocks.sqlite`.

    about       newest arrival and number of all frames in blocks
    block       `storage/_blocks.py`
    frame       reports that came when their day stood in blocks already, until they are put into them
    vehicle     numbers of this file's own

The file of the rows is removed when all of them are in blocks, as a file is that is too old: nothing is deleted row by row. Only what is
late is, and here, in one transaction with the block it goes into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bmsota_cloud.storage.sql._compacting import ROW_SIZE_BYTES
from bmsota_cloud.storage.sql._reading import BLOCKS_LIMIT, HOUR_S, StoredBlock
from bmsota_cloud.storage.sql.rows_sqlite import OF_HOUR

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from bmsota_cloud.storage._blocks import FrameRow

__all__ = [
    "BLOCK_TABLES",
    "SqliteHourTables",
    "block_at",
    "block_counts",
    "blocks_between",
    "hours_behind",
]

BLOCK_TABLES: Final = """
CREATE TABLE IF NOT EXISTS about (newest_arrival_ns INTEGER NOT NULL, frames INTEGER NOT NULL);
INSERT INTO about SELECT 0, 0 WHERE NOT EXISTS (SELECT * FROM about);
CREATE TABLE IF NOT EXISTS block (
    number INTEGER PRIMARY KEY,
    vehicle INTEGER NOT NULL,
    since_s INTEGER NOT NULL,
    until_s INTEGER NOT NULL,
    frames INTEGER NOT NULL,
    data BLOB NOT NULL
);
CREATE UNIQUE INDEX IF NOT EXISTS block_key ON block (vehicle, since_s);
"""
_CHUNK_ROWS: Final = 1000


class SqliteHourTables:
    """`_compacting.HourTables`: rows of *source*, blocks of *target*, which may be the same connection."""

    def __init__(
        self, vin: str, source: sqlite3.Connection, source_vehicle: int, target: sqlite3.Connection, target_vehicle: int
    ) -> None:
        self.vin = vin
        self._source = source
        self._source_vehicle = source_vehicle
        self._target = target
        self._vehicle = target_vehicle

    def weigh(self, since_s: int, until_s: int) -> tuple[int, int]:
        size = f"{ROW_SIZE_BYTES} + length(clear) + coalesce(length(received), 0) + coalesce(length(fault), 0)"
        sql = f"SELECT count(*), coalesce(sum({size}), 0) FROM frame WHERE {OF_HOUR}"
        count, size_bytes = self._source.execute(sql, (self._source_vehicle, since_s, until_s)).fetchone()
        return int(count), int(size_bytes)

    def rows(self, since_s: int, until_s: int) -> list[FrameRow]:
        sql = (
            f"SELECT reported_at_s, arrived_at_ns, form, clear, nullif(received, x''), nullif(fault, '') FROM frame"
            f" WHERE {OF_HOUR} ORDER BY reported_at_s, arrived_at_ns, position"
        )
        return self._source.execute(sql, (self._source_vehicle, since_s, until_s)).fetchall()

    def blocks(self, since_s: int, until_s: int) -> list[StoredBlock]:
        sql = "SELECT since_s, until_s, frames, data FROM block WHERE vehicle = ? AND since_s >= ? AND since_s < ? ORDER BY since_s"
        return [StoredBlock(*row) for row in self._target.execute(sql, (self._vehicle, since_s, until_s))]

    def put(self, block: StoredBlock, newest_arrival_ns: int) -> None:
        self._target.execute(
            "UPDATE about SET newest_arrival_ns = max(newest_arrival_ns, ?), frames = frames + ?"
            " - coalesce((SELECT frames FROM block WHERE vehicle = ? AND since_s = ?), 0)",
            (newest_arrival_ns, block.frames, self._vehicle, block.since_s),
        )
        self._target.execute(
            "INSERT INTO block (vehicle, since_s, until_s, frames, data) VALUES (?, ?, ?, ?, ?)"
            " ON CONFLICT (vehicle, since_s) DO UPDATE SET until_s = excluded.until_s, frames = excluded.frames, data = excluded.data",
            (self._vehicle, block.since_s, block.until_s, block.frames, block.data),
        )

    def drop(self, block: StoredBlock) -> None:
        self._target.execute("DELETE FROM block WHERE vehicle = ? AND since_s = ?", (self._vehicle, block.since_s))
        self._target.execute("UPDATE about SET frames = frames - ?", (block.frames,))

    def read_back(self, since_s: int) -> bytes:
        found = self._target.execute(
            "SELECT data FROM block WHERE vehicle = ? AND since_s = ?", (self._vehicle, since_s)
        ).fetchone()
        return bytes(found[0])

    def taken(self, since_s: int, until_s: int) -> None:
        if self._source is self._target:
            self._target.execute(f"DELETE FROM frame WHERE {OF_HOUR}", (self._vehicle, since_s, until_s))

    def left(self, since_s: int, until_s: int) -> None:
        """The source is going to be removed: what can't go into a block goes on as rows beside it.

        As those of writer 0, who has nothing to derive here: the source stays until its own writers have derived them.
        """
        if self._source is self._target:
            return
        found = self._source.execute(
            f"SELECT {self._vehicle}, reported_at_s, digest, arrived_at_ns, form, clear, received, fault FROM frame"
            f" WHERE {OF_HOUR} ORDER BY position",
            (self._source_vehicle, since_s, until_s),
        )
        while rows := found.fetchmany(_CHUNK_ROWS):
            self._target.executemany(
                "INSERT INTO frame (vehicle, reported_at_s, digest, arrived_at_ns, form, clear, received, fault, writer)"
                " VALUES (?, ?, ?, ?, ?, ?, ?, ?, 0) ON CONFLICT DO NOTHING",
                rows,
            )


def hours_behind(connection: sqlite3.Connection, position: int, limit: int) -> tuple[list[tuple[int, int]], int]:
    """Vehicle and hour of the next *limit* rows behind *position*, and the position of the last of these rows."""
    rows = connection.execute(
        "SELECT vehicle, reported_at_s, position FROM frame WHERE position > ? ORDER BY position LIMIT ?",
        (position, limit),
    ).fetchall()
    return sorted({(vehicle, at_s - at_s % HOUR_S) for vehicle, at_s, _ in rows}), rows[-1][2] if rows else position


def block_at(connection: sqlite3.Connection, vin: str, at_s: int) -> StoredBlock | None:
    """The vehicle's block that has, or would have, the reports of this second."""
    row = connection.execute(
        "SELECT since_s, until_s, frames, data FROM block"
        " WHERE vehicle = (SELECT number FROM vehicle WHERE vin = ?) AND since_s <= ? ORDER BY since_s DESC LIMIT 1",
        (vin, at_s),
    ).fetchone()
    return None if row is None or row[1] <= at_s else StoredBlock(*row)


def blocks_between(
    connection: sqlite3.Connection, vin: str, since_s: int, until_s: int, *, newest_first: bool, is_limited: bool
) -> list[StoredBlock]:
    """The blocks that reach into a range; none is longer than an hour."""
    way = "DESC" if newest_first else "ASC"
    sql = (
        "SELECT since_s, until_s, frames, data FROM block WHERE vehicle = (SELECT number FROM vehicle WHERE vin = ?)"
        f" AND since_s > ? AND since_s < ? AND until_s > ? ORDER BY since_s {way} LIMIT ?"
    )
    values: Sequence[Any] = (vin, since_s - HOUR_S, until_s, since_s, BLOCKS_LIMIT if is_limited else -1)
    return [StoredBlock(*row) for row in connection.execute(sql, values)]


def block_counts(connection: sqlite3.Connection, vin: str, since_s: int, until_s: int) -> list[StoredBlock]:
    """The same without their data."""
    sql = (
        "SELECT since_s, until_s, frames FROM block WHERE vehicle = (SELECT number FROM vehicle WHERE vin = ?)"
        " AND since_s > ? AND since_s < ? AND until_s > ? ORDER BY since_s"
    )
    return [StoredBlock(*row) for row in connection.execute(sql, (vin, since_s - HOUR_S, until_s, since_s))]
