"""Whether a report is in `reports/other.sqlite` already: one that came when its time was not plausible, and comes again when it is.

Strategy. Nearly no report of a batch is there, and to ask for each of them would cost as much as a tenth of its insert. So the vehicles
that are there are remembered, each with the range of its report times; only what falls into it is looked for. What has been added since
is read by its positions.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from bmsota_cloud.storage.sql.rows_sqlite import THIS_FRAME

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping

__all__ = ["OtherKeys", "arrival_of"]

# Two steps down the index for each vehicle, however many reports there are.
_ALL: Final = (
    "SELECT vin, (SELECT min(reported_at_s) FROM frame WHERE vehicle = number),"
    " (SELECT max(reported_at_s) FROM frame WHERE vehicle = number) FROM vehicle"
)
_BEHIND: Final = (
    "SELECT vin, min(reported_at_s), max(reported_at_s) FROM frame JOIN vehicle ON number = vehicle WHERE position > ?"
    " GROUP BY vehicle"
)


class OtherKeys:
    """What is in the file, as *connection* sees it, which belongs to this object from now on."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        """Read the ranges.

        Raises:
            sqlite3.Error: the file cannot be read, or has no tables yet.
        """
        self.connection = connection
        self._spans: dict[str, tuple[int, int]] = {}
        self._position = int(connection.execute("SELECT max(position) FROM frame").fetchone()[0] or 0)
        self._widen(_ALL)

    def spans(self) -> Mapping[str, tuple[int, int]]:
        """VIN -> the first and the last report time that the vehicle has there, or had.

        Raises:
            sqlite3.Error: the file cannot be read.
        """
        newest = int(self.connection.execute("SELECT max(position) FROM frame").fetchone()[0] or 0)
        if newest > self._position:
            self._widen(_BEHIND, self._position)
        elif newest < self._position:
            # Reports were deleted; in a file of the first layout, their positions come again.
            self._widen(_ALL)
        self._position = newest
        return self._spans

    def close(self) -> None:
        self.connection.close()

    def _widen(self, sql: str, *values: int) -> None:
        for vin, first, last in self.connection.execute(sql, values):
            if first is not None:
                known = self._spans.get(vin, (first, last))
                self._spans[vin] = (min(first, known[0]), max(last, known[1]))


def arrival_of(connection: sqlite3.Connection, vin: str, at_s: int, digest: int) -> int | None:
    """When the report with this key arrived that is among the rows of a partition; None if it is not."""
    vehicle = connection.execute("SELECT number FROM vehicle WHERE vin = ?", (vin,)).fetchone()
    if vehicle is None:
        return None
    row = connection.execute(f"SELECT arrived_at_ns FROM frame WHERE {THIS_FRAME}", (*vehicle, at_s, digest)).fetchone()
    return None if row is None else int(row[0])
