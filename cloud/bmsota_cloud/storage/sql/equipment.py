"""Equipment changes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import select

from bmsota_cloud.domain.equipment import ChangeStatus, EquipmentChange
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._scope import vehicles_in
from bmsota_cloud.storage.sql._tables import Tables

if TYPE_CHECKING:
    from bmsota_cloud.domain.accounts import Scope
    from bmsota_cloud.domain.paging import Page, PageRequest

__all__ = ["SqlEquipment"]


class SqlEquipment(Tables):
    def add(self, change: EquipmentChange) -> None:
        self._add(t.equipment_change, change)

    def reported(self, vin: str) -> tuple[EquipmentChange, ...]:
        c = t.equipment_change.c
        statement = select(t.equipment_change).where(c.vin == vin, c.status == ChangeStatus.REPORTED)
        return self._all(EquipmentChange, statement.order_by(c.id.desc()))

    def save(self, change: EquipmentChange) -> None:
        self._save(t.equipment_change, change)

    def page(self, request: PageRequest, scope: Scope, *, vin: str = "") -> Page[EquipmentChange]:
        statement = select(t.equipment_change).order_by(t.equipment_change.c.id.desc())
        if not scope.is_everything:
            seen = select(t.vehicle.c.vin).where(*vehicles_in(scope))
            statement = statement.where(t.equipment_change.c.vin.in_(seen))
        if vin:
            statement = statement.where(t.equipment_change.c.vin == vin)
        return self._page(EquipmentChange, statement, request)
