"""Newest states and reports: a store of its own."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, select
from sqlalchemy.dialects import postgresql, sqlite

from bmsota_cloud.domain.telemetry import ReportRow, VehicleSnapshot
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._engine import MEMORY, SqlDatabase
from bmsota_cloud.storage.sql._tables import in_lists, page_of, upsert, values_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.paging import Page, PageRequest

__all__ = ["SqlTelemetryStore"]


class SqlTelemetryStore:
    """`bmsota_cloud.storage.base.TelemetryStore`. The last second of reports may be lost with the power; they come again."""

    def __init__(self, url: str = MEMORY) -> None:
        self._database = SqlDatabase(url, history="telemetry", synchronous="NORMAL")

    def save_state(self, state: VehicleSnapshot) -> None:
        with self._database.writing() as connection:
            upsert(connection, t.vehicle_state, values_of(state))

    def state(self, vin: str) -> VehicleSnapshot | None:
        return self.states([vin]).get(vin)

    def states(self, vins: Sequence[str]) -> Mapping[str, VehicleSnapshot]:
        found: dict[str, VehicleSnapshot] = {}
        with self._database.reading() as connection:
            for part in in_lists(vins):
                statement = select(t.vehicle_state).where(t.vehicle_state.c.vin.in_(part))
                for row in connection.execute(statement).mappings():
                    found[row["vin"]] = VehicleSnapshot(**row)
        return found

    def online_vins(self) -> tuple[str, ...]:
        c = t.vehicle_state.c
        with self._database.reading() as connection:
            return tuple(connection.execute(select(c.vin).where(c.is_online.is_(True)).order_by(c.vin)).scalars())

    def append(self, rows: Iterable[ReportRow]) -> int:
        values = [values_of(row) for row in rows]
        if not values:
            return 0
        count = 0
        with self._database.writing() as connection:
            for row in values:
                if connection.dialect.name == "postgresql":
                    on_postgresql = postgresql.insert(t.report).values(**row)
                    result = connection.execute(on_postgresql.on_conflict_do_nothing())
                else:
                    on_sqlite = sqlite.insert(t.report).values(**row)
                    result = connection.execute(on_sqlite.on_conflict_do_nothing())
                count += max(0, result.rowcount)
        return count

    def reports(
        self, vin: str, request: PageRequest, *, since: datetime | None = None, until: datetime | None = None
    ) -> Page[ReportRow]:
        c = t.report.c
        statement = select(*(column for column in c if column.name != "id")).where(c.vin == vin)
        if since is not None:
            statement = statement.where(c.reported_at >= since)
        if until is not None:
            statement = statement.where(c.reported_at < until)
        with self._database.reading() as connection:
            return page_of(connection, ReportRow, statement.order_by(c.reported_at.desc()), request)

    def prune(self, before: datetime) -> int:
        with self._database.writing() as connection:
            return connection.execute(delete(t.report).where(t.report.c.reported_at < before)).rowcount

    def close(self) -> None:
        self._database.close()
