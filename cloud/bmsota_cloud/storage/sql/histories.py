"""Local upgrades, and the history that they and the OTA tasks make together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from sqlalchemy import Select, case, func, literal, select, union_all, update

from bmsota_cloud.domain.errors import ConflictError
from bmsota_cloud.domain.histories import HistoryEntry, LocalUpgradeRow, UpgradeSource
from bmsota_cloud.domain.ota_tasks import VehicleUpgrade
from bmsota_cloud.domain.paging import Page, PageRequest
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["SqlHistories"]


_WHAT_MAKES_IT_THE_SAME = (
    "vin",
    "upgraded_at",
    "position",
    "hwid",
    "version_before",
    "version_after",
    "status",
)


@dataclass(frozen=True, slots=True)
class _HistoryKey:
    """One line of a history, before its rows are read."""

    source: str
    key: int
    at: datetime


class SqlHistories(Tables):
    def add(self, upgrade: LocalUpgradeRow) -> bool:
        try:
            self._add(t.local_upgrade, upgrade)
        except ConflictError:
            return False
        return True

    def add_words(self, upgrade: LocalUpgradeRow) -> bool:
        c = t.local_upgrade.c
        same = [c[name] == getattr(upgrade, name) for name in _WHAT_MAKES_IT_THE_SAME]
        statement = update(t.local_upgrade).where(*same, c.confirmed_at.is_not(None), c.tool == "", c.detail == "")
        words = {"tool": upgrade.tool, "detail": upgrade.detail}
        return any(words.values()) and bool(self._connection.execute(statement.values(**words)).rowcount)

    def confirm(self, upgrade: LocalUpgradeRow) -> bool:
        c = t.local_upgrade.c
        same = [c[name] == getattr(upgrade, name) for name in _WHAT_MAKES_IT_THE_SAME]
        statement = update(t.local_upgrade).where(*same, c.confirmed_at.is_(None))
        known = {name: getattr(upgrade, name) for name in ("confirmed_at", "image_before", "image_after")}
        if self._connection.execute(statement.values(**known)).rowcount:
            return True
        return self.add(upgrade)

    def unconfirmed(self, vin: str) -> int:
        c = t.local_upgrade.c
        statement = select(func.count()).select_from(t.local_upgrade).where(c.vin == vin, c.confirmed_at.is_(None))
        return int(self._connection.execute(statement).scalar_one())

    def page(self, vin: str, request: PageRequest) -> Page[HistoryEntry]:
        # Two kinds of rows in one order: first only which they are, then the rows of this page.
        page = self._page(_HistoryKey, _history_keys(vin), request)
        tasks = self._from_tasks(vin, [item for item in page.items if item.source == UpgradeSource.OTA])
        local = self._from_local([item for item in page.items if item.source == UpgradeSource.CAN])
        items = tuple((tasks if item.source == UpgradeSource.OTA else local)[item.key] for item in page.items)
        return Page(items=items, total=page.total, number=page.number, size=page.size)

    def _from_tasks(self, vin: str, keys: list[_HistoryKey]) -> dict[int, HistoryEntry]:
        c = t.vehicle_upgrade.c
        at = {item.key: item.at for item in keys}
        upgrades = self._all(VehicleUpgrade, select(t.vehicle_upgrade).where(c.vin == vin, c.task_id.in_(list(at))))
        versions = {
            row.id: row.software_version
            for row in self._connection.execute(
                select(t.ota_task.c.id, t.ota_task.c.software_version).where(t.ota_task.c.id.in_(list(at)))
            )
        }
        return {
            upgrade.task_id: HistoryEntry.of_task(
                upgrade, software_version=versions[upgrade.task_id], at=at[upgrade.task_id]
            )
            for upgrade in upgrades
        }

    def _from_local(self, keys: list[_HistoryKey]) -> dict[int, HistoryEntry]:
        # By the names of the row's fields: one column of the database has another.
        columns = (column.label(name) for name, column in t.local_upgrade.c.items())
        statement = select(*columns).where(t.local_upgrade.c.id.in_([item.key for item in keys]))
        return {upgrade.id: HistoryEntry.of_local(upgrade) for upgrade in self._all(LocalUpgradeRow, statement)}


def _history_keys(vin: str) -> Select[Any]:
    u, s, r = t.vehicle_upgrade.c, t.transition.c, t.local_upgrade.c
    by_task = (
        select(
            literal(UpgradeSource.OTA.value).label("source"),
            u.task_id.label("key"),
            # Every step of a vehicle leaves a transition, so the newest is when it came into its status.
            func.max(s.at).label("at"),
        )
        .join(t.transition, (s.task_id == u.task_id) & (s.vin == u.vin))
        .where(u.vin == vin)
        .group_by(u.task_id)
    )
    # As `LocalUpgradeRow.at`.
    at = case((r.upgraded_at > r.reported_at, r.reported_at), else_=r.upgraded_at)
    by_local = select(literal(UpgradeSource.CAN.value), r.id, at).where(r.vin == vin)
    both = union_all(by_task, by_local).subquery()
    return select(both).order_by(both.c.at.desc(), both.c.source, both.c.key.desc())
