"""OTA tasks, the upgrades of their vehicles, transitions, approval codes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import delete, func, insert, select

from bmsota_cloud.domain.ota_tasks import (
    OPEN_STATUSES,
    ApprovalCode,
    OtaTask,
    Transition,
    VehicleStatus,
    VehicleUpgrade,
)
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables, in_lists, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.paging import Page, PageRequest

__all__ = ["SqlOtaTasks"]

_OPEN = sorted(OPEN_STATUSES)
_UNDER_WAY = sorted(OPEN_STATUSES - {VehicleStatus.UNAPPROVED})


class SqlOtaTasks(Tables):
    def add(self, task: OtaTask) -> OtaTask:
        return replace(task, id=self._add(t.ota_task, task))

    def get(self, task_id: int, *, lock: bool = False) -> OtaTask | None:
        return self._one(OtaTask, select(t.ota_task).where(t.ota_task.c.id == task_id), lock=lock)

    def save(self, task: OtaTask) -> None:
        self._save(t.ota_task, task)

    def page(self, request: PageRequest, *, project: str = "") -> Page[OtaTask]:
        statement = select(t.ota_task).order_by(t.ota_task.c.id.desc())
        if project:
            statement = statement.where(t.ota_task.c.project == project)
        return self._page(OtaTask, statement, request)

    def counts(self, task_ids: Sequence[int]) -> Mapping[int, Mapping[str, int]]:
        c = t.vehicle_upgrade.c
        statement = (
            select(c.task_id, c.status, func.count()).where(c.task_id.in_(task_ids)).group_by(c.task_id, c.status)
        )
        found: dict[int, dict[VehicleStatus, int]] = {task_id: {} for task_id in task_ids}
        for task_id, status, count in self._connection.execute(statement):
            found[task_id][status] = count
        # In the order of the table of statuses, so that a list always reads the same.
        return {
            task_id: {str(status): counts[status] for status in VehicleStatus if status in counts}
            for task_id, counts in found.items()
        }

    def add_upgrade(self, upgrade: VehicleUpgrade) -> None:
        self._add(t.vehicle_upgrade, upgrade)

    def delete_upgrades(self, task_id: int) -> None:
        self._connection.execute(delete(t.transition).where(t.transition.c.task_id == task_id))
        self._connection.execute(delete(t.vehicle_upgrade).where(t.vehicle_upgrade.c.task_id == task_id))

    def upgrade(self, task_id: int, place: int, *, lock: bool = False) -> VehicleUpgrade | None:
        c = t.vehicle_upgrade.c
        statement = select(t.vehicle_upgrade).where(c.task_id == task_id, c.place == place)
        return self._one(VehicleUpgrade, statement, lock=lock)

    def upgrades(self, task_id: int) -> tuple[VehicleUpgrade, ...]:
        c = t.vehicle_upgrade.c
        return self._all(VehicleUpgrade, select(t.vehicle_upgrade).where(c.task_id == task_id).order_by(c.place))

    def upgrades_page(self, task_id: int, request: PageRequest) -> Page[VehicleUpgrade]:
        c = t.vehicle_upgrade.c
        statement = select(t.vehicle_upgrade).where(c.task_id == task_id).order_by(c.place)
        return self._page(VehicleUpgrade, statement, request)

    def open_upgrade(self, vin: str) -> VehicleUpgrade | None:
        c = t.vehicle_upgrade.c
        statement = select(t.vehicle_upgrade).where(c.vin == vin, c.status.in_(_OPEN))
        return self._one(VehicleUpgrade, statement.order_by(c.task_id.desc()))

    def silent_upgrades(self, now: datetime, limit: int) -> tuple[VehicleUpgrade, ...]:
        c = t.vehicle_upgrade.c
        found: list[VehicleUpgrade] = []
        # Limits are few and differ by task; a comparison for each keeps date arithmetic out of the SQL dialects.
        limits = self._connection.execute(
            select(t.ota_task.c.time_limit_s)
            .join(t.vehicle_upgrade, c.task_id == t.ota_task.c.id)
            .where(c.status.in_(_UNDER_WAY))
            .distinct()
            .order_by(t.ota_task.c.time_limit_s)
        ).scalars()
        for time_limit_s in list(limits):
            statement = (
                select(t.vehicle_upgrade)
                .join(t.ota_task, c.task_id == t.ota_task.c.id)
                .where(
                    t.ota_task.c.time_limit_s == time_limit_s,
                    c.status.in_(_UNDER_WAY),
                    c.heard_at < now - timedelta(seconds=time_limit_s),
                )
                .order_by(c.task_id, c.place)
                .limit(limit - len(found))
            )
            found.extend(self._all(VehicleUpgrade, statement))
            if len(found) >= limit:
                break
        return tuple(found)

    def save_upgrade(self, upgrade: VehicleUpgrade) -> None:
        self._save(t.vehicle_upgrade, upgrade)

    def add_transition(self, transition: Transition) -> None:
        self._connection.execute(insert(t.transition).values(**values_of(transition)))

    def transitions(self, task_id: int, vins: Sequence[str]) -> Mapping[str, tuple[Transition, ...]]:
        c = t.transition.c
        columns = [column for column in c if column.name != "id"]
        found: dict[str, list[Transition]] = {vin: [] for vin in vins}
        for part in in_lists(vins):
            statement = select(*columns).where(c.task_id == task_id, c.vin.in_(part))
            for item in self._all(Transition, statement.order_by(c.id)):
                found[item.vin].append(item)
        return {vin: tuple(items) for vin, items in found.items()}

    def code(self, task_id: int) -> ApprovalCode | None:
        return self._one(ApprovalCode, select(t.approval_code).where(t.approval_code.c.task_id == task_id))

    def save_code(self, code: ApprovalCode) -> None:
        self._upsert(t.approval_code, code)
