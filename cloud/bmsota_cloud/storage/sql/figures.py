"""How much there is of everything, for monitoring."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import Column, func, select

from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables

if TYPE_CHECKING:
    from collections.abc import Mapping

__all__ = ["SqlFigures"]


class SqlFigures(Tables):
    def tasks(self) -> Mapping[str, int]:
        return self._by(t.ota_task.c.status)

    def upgrades(self) -> Mapping[str, int]:
        return self._by(t.vehicle_upgrade.c.status)

    def vehicles(self) -> int:
        return self._connection.execute(select(func.count()).select_from(t.vehicle)).scalar_one()

    def _by(self, status: Column[Any]) -> Mapping[str, int]:
        statement = select(status, func.count()).group_by(status)
        return {str(name): count for name, count in self._connection.execute(statement)}
