"""Vehicles and their nodes."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import bindparam, delete, func, or_, select, update

from bmsota_cloud.domain.paging import Page
from bmsota_cloud.domain.presence import VehicleConnection
from bmsota_cloud.domain.vehicles import FleetCount, LastLogin, Vehicle, VehicleNode
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._scope import vehicles_in
from bmsota_cloud.storage.sql._tables import Tables, in_lists
from bmsota_cloud.storage.sql.presence import SqlPresence, is_open

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from sqlalchemy import Column, ColumnElement, Table

    from bmsota_cloud.domain.accounts import Scope
    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.domain.presence import LeaseCheck
    from bmsota_cloud.domain.vehicles import VehicleFilter

__all__ = ["SqlVehicles"]


# What a word of a search may be a part of.
_SEARCHED = ("vin", "hwid", "series", "plate", "battery_number", "frame_number")


def _fits(asked: VehicleFilter, scope: Scope) -> list[ColumnElement[bool]]:
    """The conditions of a filter, but the one for the connection; none where everything passes."""
    c = t.vehicle.c
    fits = list(vehicles_in(scope))
    fits += [c[name] == value for name in ("project", "series", "city", "customer") if (value := getattr(asked, name))]
    if asked.master_version:
        n = t.node.c
        fits.append(select(n.vin).where(n.vin == c.vin, n.position == 0, n.version == asked.master_version).exists())
    if asked.text:
        fits.append(or_(*(c[name].icontains(asked.text, autoescape=True) for name in _SEARCHED)))
    return fits


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

    def visible(self, vin: str, scope: Scope, *, lock: bool = False) -> Vehicle | None:
        return self._one(Vehicle, select(t.vehicle).where(t.vehicle.c.vin == vin, *vehicles_in(scope)), lock=lock)

    def visible_many(self, vins: Sequence[str], scope: Scope) -> Mapping[str, Vehicle]:
        found: dict[str, Vehicle] = {}
        for part in in_lists(sorted(vins)):
            statement = select(t.vehicle).where(t.vehicle.c.vin.in_(part), *vehicles_in(scope))
            found |= {item.vin: item for item in self._all(Vehicle, statement)}
        return found

    def vins_after(self, vin: str, limit: int) -> tuple[str, ...]:
        c = t.vehicle.c
        return tuple(self._connection.execute(select(c.vin).where(c.vin > vin).order_by(c.vin).limit(limit)).scalars())

    def by_hwid(self, hwid: str) -> Vehicle | None:
        return self._one(Vehicle, select(t.vehicle).where(t.vehicle.c.hwid == hwid))

    def save(self, vehicle: Vehicle) -> None:
        self._save(t.vehicle, vehicle)

    def page(
        self, request: PageRequest, asked: VehicleFilter, lease_check: LeaseCheck, scope: Scope
    ) -> tuple[Page[tuple[Vehicle, VehicleConnection]], FleetCount]:
        v, p = t.vehicle.c, t.presence.c
        fits = _fits(asked, scope)
        # Who is online is counted from the links, which are fewer than the vehicles.
        linked = t.presence.outerjoin(t.gateway, t.gateway.c.id == p.gateway_id)
        online = is_open(lease_check)
        of_all = select(func.count()).select_from(t.vehicle).where(*fits)
        # Every link is of a registered vehicle: without a filter the vehicles need not be looked up.
        of_linked = select(func.count()).select_from(linked.join(t.vehicle, v.vin == p.vin) if fits else linked)
        of_linked = of_linked.where(online, *fits)
        total, online_count = (self._connection.execute(statement).scalar_one() for statement in (of_all, of_linked))
        count = FleetCount(online=online_count, offline=total - online_count)
        statement = select(t.vehicle).where(*fits)
        if asked.is_online is True:
            total = count.online
            statement = statement.select_from(linked.join(t.vehicle, v.vin == p.vin)).where(online)
        elif asked.is_online is False:
            total = count.offline
            statement = statement.where(~select(p.vin).select_from(linked).where(online, p.vin == v.vin).exists())
        page = statement.order_by(v.vin).limit(request.size).offset(request.offset)
        vehicles = self._all(Vehicle, page)
        # Read apart: joined, they would be looked up for every vehicle of the pages before.
        connections = SqlPresence(self._connection).connections([vehicle.vin for vehicle in vehicles], lease_check)
        items = tuple((vehicle, connections.get(vehicle.vin, VehicleConnection())) for vehicle in vehicles)
        return Page(items=items, total=total, number=request.number, size=request.size), count

    def matching(self, asked: VehicleFilter, lease_check: LeaseCheck, scope: Scope, limit: int) -> tuple[str, ...]:
        v, p = t.vehicle.c, t.presence.c
        statement = select(v.vin).where(*_fits(asked, scope))
        if asked.is_online is not None:
            linked = t.presence.outerjoin(t.gateway, t.gateway.c.id == p.gateway_id)
            has_link = select(p.vin).select_from(linked).where(is_open(lease_check), p.vin == v.vin).exists()
            statement = statement.where(has_link if asked.is_online else ~has_link)
        return tuple(self._connection.execute(statement.order_by(v.vin).limit(limit)).scalars())

    def running(self, scope: Scope, *, project: str = "") -> tuple[tuple[str, str, str, int], ...]:
        v, n = t.vehicle.c, t.node.c
        joined = t.vehicle.outerjoin(t.node, (n.vin == v.vin) & (n.position == 0))
        count = func.count().label("vehicles")
        version, digest = (func.coalesce(column, "") for column in (n.version, n.image_sha256))
        statement = select(v.series, version, digest, count).select_from(joined).where(*vehicles_in(scope))
        if project:
            statement = statement.where(v.project == project)
        rows = self._connection.execute(statement.group_by(v.series, version, digest).order_by(v.series, count.desc()))
        return tuple((series, runs, image, vehicles) for series, runs, image, vehicles in rows)

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

    def fleet(self, asked: VehicleFilter, scope: Scope, column: str = "hwid") -> Sequence[tuple[str, str]]:
        c = t.vehicle.c
        statement = select(c.vin, func.coalesce(c[column], "")).where(*_fits(asked, scope)).order_by(c.vin)
        return [(vin, value) for vin, value in self._connection.execute(statement)]

    def projects(self, scope: Scope) -> tuple[str, ...]:
        return self._different(t.vehicle.c.project, scope)

    def series(self, scope: Scope) -> tuple[str, ...]:
        return self._different(t.vehicle.c.series, scope)

    def cities(self, scope: Scope) -> tuple[str, ...]:
        return tuple(filter(None, self._different(t.vehicle.c.city, scope)))

    def customers(self, scope: Scope) -> tuple[str, ...]:
        return tuple(filter(None, self._different(t.vehicle.c.customer, scope)))

    def _different(self, column: Column[str], scope: Scope) -> tuple[str, ...]:
        """The values of an indexed column; of everything, each found from the one before: as many steps as values, not as vehicles."""
        if not scope.is_everything:
            some = select(column).where(*vehicles_in(scope)).distinct().order_by(column)
            return tuple(self._connection.execute(some).scalars())
        least = select(func.min(column).label("value")).cte(recursive=True)
        following = select(func.min(column)).where(column > least.c.value).scalar_subquery()
        steps = least.union_all(select(following).where(least.c.value.is_not(None)))
        values = select(steps.c.value).where(steps.c.value.is_not(None)).order_by(steps.c.value)
        return tuple(self._connection.execute(values).scalars())

    def counts_by_project(self, scope: Scope) -> Mapping[str, int]:
        count = func.count().label("vehicles")
        statement = select(t.vehicle.c.project, count).where(*vehicles_in(scope)).group_by(t.vehicle.c.project)
        return {row.project: row.vehicles for row in self._connection.execute(statement)}

    def counts_by_customer(self) -> Mapping[str, int]:
        count, customer = func.count().label("vehicles"), t.vehicle.c.customer
        statement = select(customer, count).where(customer.is_not(None)).group_by(customer)
        return {row.customer: row.vehicles for row in self._connection.execute(statement)}

    def remove(self, vin: str) -> None:
        own = (
            t.node,
            t.reported_node,
            t.last_login,
            t.equipment_change,
            t.local_upgrade,
            t.presence,
            t.device_session,
            t.vehicle,
        )
        for table in own:
            self._connection.execute(delete(table).where(table.c.vin == vin))

    def assign(self, vins: Sequence[str], customer: str) -> int:
        changed = 0
        for part in in_lists(sorted(vins)):
            statement = update(t.vehicle).where(t.vehicle.c.vin.in_(part)).values(customer=customer)
            changed += self._connection.execute(statement).rowcount
        return changed

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
