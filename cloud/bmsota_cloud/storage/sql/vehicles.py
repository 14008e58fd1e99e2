"""Vehicles and their nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, delete, func, or_, select, update

from bmsota_cloud.domain.vehicles import LastLogin, Vehicle, VehicleNode
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables, in_lists

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Table

    from bmsota_cloud.domain.paging import Page, PageRequest

__all__ = ["SqlVehicles"]


class SqlVehicles(Tables):
    def add(self, vehicle: Vehicle) -> None:
        self._add(t.vehicle, vehicle)

    def get(self, vin: str, *, lock: bool = False) -> Vehicle | None:
        return self._one(Vehicle, select(t.vehicle).where(t.vehicle.c.vin == vin), lock=lock)

    def many(self, vins: Sequence[str], *, lock: bool = False) -> Mapping[str, Vehicle]:
        found: dict[str, Vehicle] = {}
        for part in in_lists(sorted(vins)):
            statement = select(t.vehicle).where(t.vehicle.c.vin.in_(part)).order_by(t.vehicle.c.vin)
            found |= {item.vin: item for item in self._all(Vehicle, statement, lock=lock)}
        return found

    def by_hwid(self, hwid: str) -> Vehicle | None:
        return self._one(Vehicle, select(t.vehicle).where(t.vehicle.c.hwid == hwid))

    def save(self, vehicle: Vehicle) -> None:
        self._save(t.vehicle, vehicle)

    def save_sequences(self, sequences: Mapping[str, int]) -> None:
        if sequences:
            statement = (
                update(t.vehicle)
                .where(t.vehicle.c.vin == bindparam("key_vin"))
                .values(order_sequence=bindparam("sequence"))
            )
            self._connection.execute(
                statement, [{"key_vin": vin, "sequence": sequence} for vin, sequence in sorted(sequences.items())]
            )

    def page(self, request: PageRequest, *, project: str = "", text: str = "") -> Page[Vehicle]:
        statement = select(t.vehicle).order_by(t.vehicle.c.vin)
        if project:
            statement = statement.where(t.vehicle.c.project == project)
        if text:
            statement = statement.where(
                or_(
                    *(
                        column.icontains(text, autoescape=True)
                        for column in (t.vehicle.c.vin, t.vehicle.c.hwid, t.vehicle.c.series)
                    )
                )
            )
        return self._page(Vehicle, statement, request)

    def projects(self) -> tuple[str, ...]:
        statement = select(t.vehicle.c.project).distinct().order_by(t.vehicle.c.project)
        return tuple(self._connection.execute(statement).scalars())

    def counts_by_project(self) -> Mapping[str, int]:
        count = func.count().label("vehicles")
        rows = self._connection.execute(select(t.vehicle.c.project, count).group_by(t.vehicle.c.project))
        return {row.project: row.vehicles for row in rows}

    def nodes(self, vins: Sequence[str]) -> Mapping[str, tuple[VehicleNode, ...]]:
        return self._nodes(t.node, vins)

    def save_node(self, node: VehicleNode) -> None:
        self._upsert(t.node, node)

    def delete_node(self, vin: str, position: int) -> None:
        c = t.node.c
        self._connection.execute(delete(t.node).where(c.vin == vin, c.position == position))

    def reported_nodes(self, vins: Sequence[str]) -> Mapping[str, tuple[VehicleNode, ...]]:
        return self._nodes(t.reported_node, vins)

    def save_reported_node(self, node: VehicleNode) -> None:
        self._upsert(t.reported_node, node)

    def last_login(self, vin: str) -> LastLogin | None:
        return self._one(LastLogin, select(t.last_login).where(t.last_login.c.vin == vin))

    def save_last_login(self, login: LastLogin) -> None:
        self._upsert(t.last_login, login)

    def _nodes(self, table: Table, vins: Sequence[str]) -> Mapping[str, tuple[VehicleNode, ...]]:
        found: dict[str, list[VehicleNode]] = {vin: [] for vin in vins}
        for part in in_lists(vins):
            statement = select(table).where(table.c.vin.in_(part))
            for item in self._all(VehicleNode, statement.order_by(table.c.vin, table.c.position)):
                found[item.vin].append(item)
        return {vin: tuple(items) for vin, items in found.items()}
