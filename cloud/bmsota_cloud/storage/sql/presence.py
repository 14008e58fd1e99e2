"""Gateways' leases and vehicles' links."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from sqlalchemy import ColumnElement, and_, bindparam, delete, func, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from bmsota_cloud.domain.presence import GatewayLease, Presence, VehicleConnection
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables, in_lists, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.presence import LeaseCheck

__all__ = ["SqlPresence", "is_open"]


def is_open(lease_check: LeaseCheck) -> ColumnElement[bool]:
    """For a query of `presence` that has joined `gateway` (outer): the link is open, and its gateway lives."""
    lives = or_(t.presence.c.gateway_id == lease_check.gateway_id, t.gateway.c.lease_until > lease_check.now)
    return and_(t.presence.c.left_at.is_(None), lives)


class SqlPresence(Tables):
    def renew(self, lease: GatewayLease) -> None:
        self._upsert(t.gateway, lease)

    def save(self, opened: Sequence[Presence], closed: Sequence[Presence]) -> None:
        if opened:
            insert: Any = postgresql.insert if self._connection.dialect.name == "postgresql" else sqlite.insert
            statement = insert(t.presence)
            changed = {column.name: statement.excluded[column.name] for column in t.presence.c if column.name != "vin"}
            # By VIN, so that two gateways that save the same vehicles do not wait for each other in a circle.
            rows = [values_of(presence) for presence in sorted(opened, key=lambda presence: presence.vin)]
            self._connection.execute(statement.on_conflict_do_update(index_elements=["vin"], set_=changed), rows)
        c = t.presence.c
        if closed:
            mine = (c.vin == bindparam("of"), c.gateway_id == bindparam("at"), c.link_id == bindparam("link"))
            self._connection.execute(
                update(t.presence).where(*mine).values(left_at=bindparam("left")),
                [
                    {"of": presence.vin, "at": presence.gateway_id, "link": presence.link_id, "left": presence.left_at}
                    for presence in sorted(closed, key=lambda presence: presence.vin)
                ],
            )

    def close_all(self, gateway_id: str, at: datetime) -> None:
        c = t.presence.c
        self._connection.execute(
            update(t.presence).where(c.gateway_id == gateway_id, c.left_at.is_(None)).values(left_at=at)
        )

    def open_links(self, gateway_id: str) -> Mapping[str, int]:
        c = t.presence.c
        statement = select(c.vin, c.link_id).where(c.gateway_id == gateway_id, c.left_at.is_(None))
        return {row.vin: row.link_id for row in self._connection.execute(statement)}

    def connections(self, vins: Sequence[str], lease_check: LeaseCheck) -> Mapping[str, VehicleConnection]:
        c = t.presence.c
        found: dict[str, VehicleConnection] = {}
        columns = (c.vin, is_open(lease_check).label("is_online"), c.since, c.left_at, c.login_serial)
        statement = select(*columns).select_from(t.presence.outerjoin(t.gateway, t.gateway.c.id == c.gateway_id))
        for part in in_lists(vins):
            for row in self._connection.execute(statement.where(c.vin.in_(part))):
                found[row.vin] = VehicleConnection(
                    is_online=bool(row.is_online), since=row.since, left_at=row.left_at, login_serial=row.login_serial
                )
        return found

    def online(self, lease_check: LeaseCheck) -> frozenset[str]:
        joined = t.presence.outerjoin(t.gateway, t.gateway.c.id == t.presence.c.gateway_id)
        statement = select(t.presence.c.vin).select_from(joined).where(is_open(lease_check))
        return frozenset(self._connection.execute(statement).scalars())

    def count_online(self, lease_check: LeaseCheck) -> int:
        joined = t.presence.outerjoin(t.gateway, t.gateway.c.id == t.presence.c.gateway_id)
        statement = select(func.count()).select_from(joined).where(is_open(lease_check))
        return self._connection.execute(statement).scalar_one()

    def forget(self, ended_before: datetime) -> int:
        c, g = t.presence.c, t.gateway.c
        over = tuple(self._connection.execute(select(g.id, g.lease_until).where(g.lease_until < ended_before)))
        for gateway_id, lease_until in over:
            self._connection.execute(
                update(t.presence).where(c.gateway_id == gateway_id, c.left_at.is_(None)).values(left_at=lease_until)
            )
            self._connection.execute(delete(t.gateway).where(g.id == gateway_id))
        return len(over)
