"""What the gateway refused."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import Table, delete, func, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from bmsota_cloud.domain.paging import Page
from bmsota_cloud.domain.refusals import Refusal, RefusalCause, RefusalRow
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables, in_lists, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bmsota_cloud.domain.paging import PageRequest

__all__ = ["SqlRefusals"]

_KEY = ("address", "vin", "cause")


class SqlRefusals(Tables):
    def add(self, records: Sequence[Refusal], counts: Mapping[RefusalCause, int]) -> None:
        if records:
            new = self._insert(t.refusal)
            newest = {name: new.excluded[name] for name in ("last_at", "head", "answered", "detail")}
            statement = new.on_conflict_do_update(
                index_elements=list(_KEY), set_={**newest, "count": t.refusal.c["count"] + new.excluded["count"]}
            )
            self._connection.execute(statement, [values_of(record, without=frozenset({"id"})) for record in records])
        if counts:
            more = self._insert(t.refusal_total)
            added = more.on_conflict_do_update(
                index_elements=["cause"], set_={"count": t.refusal_total.c["count"] + more.excluded["count"]}
            )
            self._connection.execute(added, [{"cause": cause, "count": count} for cause, count in counts.items()])

    def _insert(self, table: Table) -> sqlite.Insert | postgresql.Insert:
        is_postgresql = self._connection.dialect.name == "postgresql"
        return postgresql.insert(table) if is_postgresql else sqlite.insert(table)

    def trim(self, addresses: Sequence[str], *, keep: int, keep_of_address: int) -> None:
        c = t.refusal.c
        for part in in_lists(addresses):
            full = (
                select(c.address).where(c.address.in_(part)).group_by(c.address).having(func.count() > keep_of_address)
            )
            for address in self._connection.execute(full).scalars().all():
                oldest = select(c.id).where(c.address == address).order_by(c.last_at.desc(), c.id.desc())
                self._connection.execute(delete(t.refusal).where(c.id.in_(oldest.offset(keep_of_address))))
        if self._connection.execute(select(func.count()).select_from(t.refusal)).scalar_one() > keep:
            oldest = select(c.id).order_by(c.last_at.desc(), c.id.desc())
            self._connection.execute(delete(t.refusal).where(c.id.in_(oldest.offset(keep))))

    def page(
        self, request: PageRequest, *, text: str, cause: RefusalCause | None, is_registered: bool | None
    ) -> Page[RefusalRow]:
        c = t.refusal.c
        known = select(t.vehicle.c.vin).where(t.vehicle.c.vin == c.vin).exists()
        statement = select(t.refusal).order_by(c.last_at.desc(), c.id.desc())
        if text:
            statement = statement.where(
                or_(*(column.icontains(text, autoescape=True) for column in (c.vin, c.address)))
            )
        if cause is not None:
            statement = statement.where(c.cause == cause)
        if is_registered is not None:
            statement = statement.where(known if is_registered else ~known)
        page = self._page(Refusal, statement, request)
        vins = sorted({record.vin for record in page.items})
        registered: set[str] = set()
        for part in in_lists(vins):
            registered.update(
                self._connection.execute(select(t.vehicle.c.vin).where(t.vehicle.c.vin.in_(part))).scalars()
            )
        items = tuple(RefusalRow(refusal=record, is_registered=record.vin in registered) for record in page.items)
        return Page(items=items, total=page.total, number=page.number, size=page.size)

    def of_vehicle(self, vin: str, limit: int) -> tuple[Refusal, ...]:
        c = t.refusal.c
        statement = select(t.refusal).where(c.vin == vin).order_by(c.last_at.desc(), c.id.desc()).limit(limit)
        return self._all(Refusal, statement)

    def totals(self) -> Mapping[RefusalCause, int]:
        statement = select(t.refusal_total.c.cause, t.refusal_total.c["count"])
        return {row[0]: row[1] for row in self._connection.execute(statement)}
