"""Rows on SQLite: how those of one vehicle are found in a partition.

Strategy. The unique index of a file of rows begins with the time, in slices of five minutes, then the vehicle. Reports come from all
vehicles in turn: an index that began with the vehicle would have a page of its own for nearly every row of a batch, and all of them
would be written again and again (18 kB a row where this takes 1.4, and twice the CPU). Five minutes of 10,000 vehicles are some
MB, which stay in the cache. A vehicle's day is 288 looks at the index, a millisecond.

Files that were begun with layout 2, that of late rows beside blocks, and that of frames without a day, have an index that begins with
the vehicle. Which of the two it is, the file says itself (`PRAGMA user_version`), and every query here works on both.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bmsota_cloud.storage.sql._reading import HOUR_S

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Sequence

    from bmsota_cloud.storage.sql._reading import LocatedRow

__all__ = [
    "LAYOUT_SLICES",
    "OF_HOUR",
    "ROW_COLUMNS",
    "SLICE",
    "THIS_FRAME",
    "counts_between",
    "next_hours",
    "rows_between",
]

LAYOUT_SLICES: Final = 3
"""From this layout on, the index of a file begins with the slice."""
ROW_COLUMNS: Final = "reported_at_s, arrived_at_ns, form, clear, received, fault"
_SLICE_S: Final = 300
SLICE: Final = f"reported_at_s / {_SLICE_S}"
"""The slice of a row. SQLite uses the index only where it is spelled like this."""
# Not "reported_at_s = ?2": SQLite would put the value into the expression of the slice as well, and find no index for it.
THIS_FRAME: Final = f"vehicle = ?1 AND reported_at_s BETWEEN ?2 AND ?2 AND digest = ?3 AND {SLICE} = ?2 / {_SLICE_S}"
"""The row with a key: vehicle, report time, digest."""
_OF_RANGE: Final = "vehicle = ?1 AND reported_at_s >= ?2 AND reported_at_s < ?3"
_SLICES_OF_HOUR: Final = ", ".join(f"?2 / {_SLICE_S} + {place}" for place in range(HOUR_S // _SLICE_S))
OF_HOUR: Final = f"{_OF_RANGE} AND {SLICE} IN ({_SLICES_OF_HOUR})"
"""The rows of a vehicle in a range: number, first second, the second behind the last. The range is an hour, or a part of one."""
_NEXT_OF_HOUR: Final = (
    "SELECT min(vehicle) FROM (SELECT (SELECT vehicle FROM frame WHERE "
    f"{SLICE} = slice.column1 AND vehicle > ?1 ORDER BY vehicle LIMIT 1) AS vehicle FROM (VALUES "
    + ", ".join(f"(?2 / {_SLICE_S} + {place})" for place in range(HOUR_S // _SLICE_S))
    + ") AS slice)"
)


def rows_between(
    connection: sqlite3.Connection,
    vin: str,
    since_s: int,
    until_s: int,
    *,
    newest_first: bool,
    limit: int | None,
    at: str,
) -> list[LocatedRow]:
    """The first *limit* rows of a vehicle in a range of seconds, each behind its time, which is the expression *at*."""
    number = _number_of(connection, vin)
    if number is None:
        return []
    way = "DESC" if newest_first else "ASC"
    rest = -1 if limit is None else limit
    if not _has_slices(connection):
        sql = (
            f"SELECT {at}, {ROW_COLUMNS} FROM frame WHERE vehicle = ? AND {at} >= ? AND {at} < ?"
            f" ORDER BY {at} {way}, arrived_at_ns {way}, position {way} LIMIT ?"
        )
        return connection.execute(sql, (number, since_s, until_s, rest)).fetchall()
    sql = (
        f"SELECT {at}, {ROW_COLUMNS} FROM frame WHERE {_OF_RANGE} AND {SLICE} = ?4"
        f" ORDER BY {at} {way}, arrived_at_ns {way}, position {way} LIMIT ?5"
    )
    found: list[LocatedRow] = []
    slices = _slices(since_s, until_s)
    for each in reversed(slices) if newest_first else slices:
        found += connection.execute(sql, (number, since_s, until_s, each, rest)).fetchall()
        if limit is not None:
            rest = limit - len(found)
            if not rest:
                break
    return found


def counts_between(connection: sqlite3.Connection, vin: str, since_s: int, until_s: int, *, at: str) -> dict[int, int]:
    """How many rows a vehicle has in a range of seconds, by the first second of the hour."""
    number = _number_of(connection, vin)
    if number is None:
        return {}
    if not _has_slices(connection):
        sql = (
            f"SELECT {at} - {at} % {HOUR_S} AS hour_s, count(*) FROM frame WHERE vehicle = ? AND {at} >= ? AND {at} < ?"
            " GROUP BY hour_s"
        )
        return dict(connection.execute(sql, (number, since_s, until_s)).fetchall())
    sql = f"SELECT count(*) FROM frame WHERE {_OF_RANGE} AND {SLICE} = ?4"
    counts: dict[int, int] = {}
    for each in _slices(since_s, until_s):
        count = connection.execute(sql, (number, since_s, until_s, each)).fetchone()[0]
        if count:
            hour_s = each * _SLICE_S // HOUR_S * HOUR_S
            counts[hour_s] = counts.get(hour_s, 0) + count
    return counts


def next_hours(connection: sqlite3.Connection, after: tuple[int, int], limit: int) -> list[tuple[int, int]]:
    """The next *limit* pairs of vehicle and hour that have rows, behind *after*, (0, 0) to begin with: in the order of the index."""
    return (_next_by_hour if _has_slices(connection) else _next_by_vehicle)(connection, after, limit)


def _next_by_vehicle(connection: sqlite3.Connection, after: tuple[int, int], limit: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    vehicle, at_s = after[0], after[1] + HOUR_S
    while len(found) < limit:
        row = connection.execute(
            "SELECT vehicle, reported_at_s FROM frame WHERE (vehicle, reported_at_s) >= (?, ?)"
            " ORDER BY vehicle, reported_at_s LIMIT 1",
            (vehicle, at_s),
        ).fetchone()
        if row is None:
            break
        vehicle, hour_s = row[0], row[1] - row[1] % HOUR_S
        found.append((vehicle, hour_s))
        at_s = hour_s + HOUR_S
    return found


def _next_by_hour(connection: sqlite3.Connection, after: tuple[int, int], limit: int) -> list[tuple[int, int]]:
    found: list[tuple[int, int]] = []
    vehicle, hour_s = after
    while len(found) < limit:
        following = connection.execute(_NEXT_OF_HOUR, (vehicle, hour_s)).fetchone()[0]
        if following is not None:
            vehicle = following
            found.append((vehicle, hour_s))
            continue
        row = connection.execute(
            f"SELECT reported_at_s FROM frame WHERE {SLICE} >= ? ORDER BY {SLICE} LIMIT 1",
            ((hour_s + HOUR_S) // _SLICE_S,),
        ).fetchone()
        if row is None:
            break
        vehicle, hour_s = 0, row[0] - row[0] % HOUR_S
    return found


def _has_slices(connection: sqlite3.Connection) -> bool:
    return bool(connection.execute("PRAGMA user_version").fetchone()[0] >= LAYOUT_SLICES)


def _number_of(connection: sqlite3.Connection, vin: str) -> int | None:
    row: Sequence[Any] | None = connection.execute("SELECT number FROM vehicle WHERE vin = ?", (vin,)).fetchone()
    return None if row is None else int(row[0])


def _slices(since_s: int, until_s: int) -> range:
    return range(since_s // _SLICE_S, (until_s - 1) // _SLICE_S + 1)
