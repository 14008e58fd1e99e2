"""Blocks on PostgreSQL: a table with a partition for each day of report time, as that of the rows.

    block             `storage/_blocks.py`; times are seconds since 2000-01-01 UTC
    block_20261129    the partition of a day
    sealed_20261129   the rows of a day that is being compacted: nobody adds to it any more

Strategy. A day's partition of rows is renamed and so sealed: who adds to it by its name finds that it is gone, and puts what comes late
into `frame_other`. When all rows of a sealed partition are in blocks, it is dropped: nothing is deleted row by row. Only what is late
is, in one transaction with the block it goes into.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import text

from bmsota_cloud.storage.sql._compacting import ROW_SIZE_BYTES
from bmsota_cloud.storage.sql._packing import TIME_IMPLAUSIBLE
from bmsota_cloud.storage.sql._reading import BLOCKS_LIMIT, HOUR_S, StoredBlock

if TYPE_CHECKING:
    from collections.abc import Sequence

    from sqlalchemy import Connection

    from bmsota_cloud.storage._blocks import FrameRow

__all__ = [
    "EPOCH_2000_S",
    "OTHER",
    "OTHER_IS_DERIVED",
    "ROW_COLUMNS",
    "PostgresqlHourTables",
    "blocks_between",
    "late_hours",
    "next_hours",
]

EPOCH_2000_S: Final = 946_684_800
OTHER: Final = "frame_other"
# The columns of `unpack`.
ROW_COLUMNS: Final = f"reported_s2000::int8 + {EPOCH_2000_S}, arrived_at_ns, form, clear, received, fault"
_PLAUSIBLE: Final = f"form & {TIME_IMPLAUSIBLE} = 0"
_OF_VEHICLE: Final = f"vehicle = :vehicle AND reported_s2000 >= :since AND reported_s2000 < :until AND {_PLAUSIBLE}"
OTHER_IS_DERIVED: Final = (
    "NOT EXISTS (SELECT FROM report_writer LEFT JOIN report_mark ON report_mark.writer = number AND place = 'frame'"
    f" WHERE number = {OTHER}.writer AND {OTHER}.position > coalesce(derived_to, 0))"
)
"""Whether a row of `frame_other` has been derived: before that it must not go into a block."""
_BLOCK: Final = f"since_s2000::int8 + {EPOCH_2000_S}, until_s2000::int8 + {EPOCH_2000_S}, frames"


class PostgresqlHourTables:
    """`_compacting.HourTables`: rows of *table*, which is sealed, or `frame_other`, from which those that are taken go at once."""

    def __init__(self, vin: str, vehicle: int, connection: Connection, table: str) -> None:
        self.vin = vin
        self.newest_arrival_ns = 0
        """Of the rows that were put into blocks."""
        self._vehicle = vehicle
        self._connection = connection
        self._table = table
        self._which = f"{_OF_VEHICLE} AND {OTHER_IS_DERIVED}" if table == OTHER else _OF_VEHICLE
        self._read: list[int] = []

    def weigh(self, since_s: int, until_s: int) -> tuple[int, int]:
        size = f"{ROW_SIZE_BYTES} + length(clear) + length(received) + length(fault)"
        sql = f"SELECT count(*), coalesce(sum({size}), 0) FROM {self._table} WHERE {self._which}"
        count, size_bytes = self._execute(sql, since_s, until_s).one()
        return int(count), int(size_bytes)

    def rows(self, since_s: int, until_s: int) -> list[FrameRow]:
        sql = (
            f"SELECT position, {ROW_COLUMNS} FROM {self._table} WHERE {self._which}"
            " ORDER BY reported_s2000, arrived_at_ns, position"
        )
        found = self._execute(sql, since_s, until_s).all()
        self._read = [row[0] for row in found]
        return [(*row[1:5], row[5] or None, row[6] or None) for row in found]

    def blocks(self, since_s: int, until_s: int) -> list[StoredBlock]:
        sql = (
            f"SELECT {_BLOCK}, data FROM block WHERE vehicle = :vehicle"
            " AND since_s2000 >= :since AND since_s2000 < :until ORDER BY since_s2000"
        )
        return [StoredBlock(*row) for row in self._execute(sql, since_s, until_s)]

    def put(self, block: StoredBlock, newest_arrival_ns: int) -> None:
        self.newest_arrival_ns = max(self.newest_arrival_ns, newest_arrival_ns)
        self._execute(
            "INSERT INTO block (vehicle, since_s2000, until_s2000, frames, data) VALUES (:vehicle, :since, :until, :frames, :data)"
            " ON CONFLICT (vehicle, since_s2000) DO UPDATE"
            " SET until_s2000 = excluded.until_s2000, frames = excluded.frames, data = excluded.data",
            block.since_s,
            block.until_s,
            frames=block.frames,
            data=block.data,
        )

    def drop(self, block: StoredBlock) -> None:
        self._execute("DELETE FROM block WHERE vehicle = :vehicle AND since_s2000 = :since", block.since_s)

    def read_back(self, since_s: int) -> bytes:
        sql = "SELECT data FROM block WHERE vehicle = :vehicle AND since_s2000 = :since"
        return bytes(self._execute(sql, since_s).scalar_one())

    def taken(self, since_s: int, until_s: int) -> None:
        """What has come since the rows were read stays."""
        if self._table == OTHER:
            sql = f"DELETE FROM {OTHER} WHERE {_OF_VEHICLE} AND position = ANY(:read)"
            self._execute(sql, since_s, until_s, read=self._read)

    def left(self, since_s: int, until_s: int) -> None:
        """The sealed partition is going to be dropped."""
        if self._table != OTHER:
            columns = "digest, position, arrived_at_ns, vehicle, reported_s2000, form, received, fault, clear, writer"
            self._execute(
                f"INSERT INTO {OTHER} ({columns}) SELECT {columns} FROM {self._table} WHERE {_OF_VEHICLE}"
                " ON CONFLICT DO NOTHING",
                since_s,
                until_s,
            )

    def _execute(self, sql: str, since_s: int, until_s: int | None = None, **values: Any) -> Any:
        values |= {"vehicle": self._vehicle, "since": since_s - EPOCH_2000_S}
        if until_s is not None:
            values["until"] = until_s - EPOCH_2000_S
        return self._connection.execute(text(sql), values)


def next_hours(connection: Connection, table: str, after: tuple[int, int], limit: int) -> list[tuple[int, int]]:
    """The next *limit* pairs of vehicle and hour (Unix seconds) that have rows: each found by a look at the index."""
    found: list[tuple[int, int]] = []
    vehicle, at_s = after[0], after[1] + HOUR_S
    sql = text(
        f"SELECT vehicle, reported_s2000 FROM {table} WHERE (vehicle, reported_s2000) >= (:vehicle, :at)"
        " ORDER BY vehicle, reported_s2000 LIMIT 1"
    )
    while len(found) < limit:
        row = connection.execute(sql, {"vehicle": vehicle, "at": max(0, at_s - EPOCH_2000_S)}).first()
        if row is None:
            break
        vehicle, hour_s = row[0], row[1] - row[1] % HOUR_S + EPOCH_2000_S
        found.append((vehicle, hour_s))
        at_s = hour_s + HOUR_S
    return found


def late_hours(
    connection: Connection, days: Sequence[int], after: tuple[int, int], limit: int
) -> list[tuple[int, int]]:
    """The same of late reports, in `frame_other`, of *days* since 2000-01-01."""
    rows = connection.execute(
        text(
            f"SELECT DISTINCT vehicle, reported_s2000 - reported_s2000 % {HOUR_S} AS hour FROM {OTHER}"
            f" WHERE {_PLAUSIBLE} AND reported_s2000 / 86400 = ANY(:days)"
            f" AND (vehicle, reported_s2000 - reported_s2000 % {HOUR_S}) > (:vehicle, :hour) ORDER BY vehicle, hour LIMIT :limit"
        ),
        {"days": list(days), "vehicle": after[0], "hour": after[1] - EPOCH_2000_S, "limit": limit},
    ).all()
    return [(vehicle, hour + EPOCH_2000_S) for vehicle, hour in rows]


def blocks_between(
    connection: Connection,
    vin: str,
    since_s: int,
    until_s: int,
    *,
    newest_first: bool = False,
    is_limited: bool,
    has_data: bool = True,
) -> list[StoredBlock]:
    """The blocks that reach into a range; none is longer than an hour."""
    sql = (
        f"SELECT {_BLOCK}{', data' if has_data else ''} FROM block WHERE vehicle = (SELECT number FROM frame_vehicle WHERE vin = :vin)"
        " AND since_s2000 > :since - :hour AND since_s2000 < :until AND until_s2000 > :since"
        f" ORDER BY since_s2000 {'DESC' if newest_first else 'ASC'}{' LIMIT :limit' if is_limited else ''}"
    )
    values = {"vin": vin, "since": since_s - EPOCH_2000_S, "until": until_s - EPOCH_2000_S, "hour": HOUR_S}
    if is_limited:
        values["limit"] = BLOCKS_LIMIT
    return [StoredBlock(*row) for row in connection.execute(text(sql), values)]
