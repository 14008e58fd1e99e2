"""Vehicles and their nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import case, func, or_, select

from bmsota_cloud.domain.paging import Page
from bmsota_cloud.domain.presence import VehicleConnection
from bmsota_cloud.domain.vehicles import FleetCount, Vehicle, VehicleNode
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables, in_lists
from bmsota_cloud.storage.sql.presence import is_online

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.domain.presence import LeaseCheck
    from bmsota_cloud.domain.vehicles import VehicleFilter

__all__ = ["SqlVehicles"]


class SqlVehicles(Tables):
    def add(self, vehicle: Vehicle) -> None:
        self._add(t.vehicle, vehicle)

    def get(self, vin: str, *, lock: bool = False) -> Vehicle | None:
        return self._one(Vehicle, select(t.vehicle).where(t.vehicle.c.vin == vin), lock=lock)

    def by_hwid(self, hwid: str) -> Vehicle | None:
        return self._one(Vehicle, select(t.vehicle).where(t.vehicle.c.hwid == hwid))

    def save(self, vehicle: Vehicle) -> None:
        self._save(t.vehicle, vehicle)

    def page(
        self, request: PageRequest, asked: VehicleFilter, lease_check: LeaseCheck
    ) -> tuple[Page[tuple[Vehicle, VehicleConnection]], FleetCount]:
        v, p = t.vehicle.c, t.presence.c
        online = is_online(lease_check)
        joined = t.vehicle.outerjoin(t.presence, p.vin == v.vin).outerjoin(t.gateway, t.gateway.c.id == p.gateway_id)
        fits = []
        if asked.project:
            fits.append(v.project == asked.project)
        if asked.series:
            fits.append(v.series == asked.series)
        if asked.text:
            fits.append(or_(*(column.icontains(asked.text, autoescape=True) for column in (v.vin, v.hwid, v.series))))
        counted = self._connection.execute(
            select(func.count(), func.coalesce(func.sum(case((online, 1), else_=0)), 0))
            .select_from(joined)
            .where(*fits)
        ).one()
        count = FleetCount(online=int(counted[1]), offline=int(counted[0]) - int(counted[1]))
        total = count.online + count.offline
        if asked.is_online is not None:
            fits.append(online if asked.is_online else ~online)
            total = count.online if asked.is_online else count.offline
        statement = (
            select(*v, online.label("is_online"), p.since, p.left_at, p.login_serial)
            .select_from(joined)
            .where(*fits)
            .order_by(v.vin)
            .limit(request.size)
            .offset(request.offset)
        )
        names = [column.name for column in v]
        items = tuple(
            (
                Vehicle(**{name: row[name] for name in names}),
                VehicleConnection(
                    is_online=bool(row["is_online"]),
                    since=row["since"],
                    left_at=row["left_at"],
                    login_serial=row["login_serial"] or 0,
                ),
            )
            for row in self._connection.execute(statement).mappings()
        )
        return Page(items=items, total=total, number=request.number, size=request.size), count

    def projects(self) -> tuple[str, ...]:
        statement = select(t.vehicle.c.project).distinct().order_by(t.vehicle.c.project)
        return tuple(self._connection.execute(statement).scalars())

    def series(self) -> tuple[str, ...]:
        statement = select(t.vehicle.c.series).distinct().order_by(t.vehicle.c.series)
        return tuple(self._connection.execute(statement).scalars())

    def nodes(self, vins: Sequence[str]) -> Mapping[str, tuple[VehicleNode, ...]]:
        found: dict[str, list[VehicleNode]] = {vin: [] for vin in vins}
        for part in in_lists(vins):
            statement = select(t.node).where(t.node.c.vin.in_(part))
            for item in self._all(VehicleNode, statement.order_by(t.node.c.vin, t.node.c.position)):
                found[item.vin].append(item)
        return {vin: tuple(items) for vin, items in found.items()}

    def save_node(self, node: VehicleNode) -> None:
        self._upsert(t.node, node)
