"""OTA tasks, the upgrades of their vehicles, transitions, approval codes."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import case, delete, func, insert, select, update

from bmsota_cloud.domain.ota_tasks import (
    OPEN_STATUSES,
    ApprovalCode,
    NodeVersion,
    OrderReport,
    OtaTask,
    TaskAct,
    TaskStatus,
    Transition,
    VehicleStatus,
    VehicleUpgrade,
)
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._scope import tasks_in
from bmsota_cloud.storage.sql._tables import Tables, in_lists, upsert, values_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Scope
    from bmsota_cloud.domain.paging import Page, PageRequest

__all__ = ["UNDER_WAY", "SqlOtaTasks"]

_OPEN = sorted(OPEN_STATUSES)
UNDER_WAY = sorted(OPEN_STATUSES - {VehicleStatus.UNAPPROVED})


class SqlOtaTasks(Tables):
    def add(self, task: OtaTask) -> OtaTask:
        return replace(task, id=self._add(t.ota_task, task))

    def get(self, task_id: int, *, lock: bool = False) -> OtaTask | None:
        return self._one(OtaTask, select(t.ota_task).where(t.ota_task.c.id == task_id), lock=lock)

    def visible(self, task_id: int, scope: Scope, *, lock: bool = False) -> OtaTask | None:
        return self._one(OtaTask, select(t.ota_task).where(t.ota_task.c.id == task_id, *tasks_in(scope)), lock=lock)

    def by_form(self, form_token: str) -> OtaTask | None:
        return self._one(OtaTask, select(t.ota_task).where(t.ota_task.c.form_token == form_token))

    def save(self, task: OtaTask) -> None:
        self._save(t.ota_task, task)

    def page(self, request: PageRequest, scope: Scope, *, project: str = "") -> Page[OtaTask]:
        statement = select(t.ota_task).where(*tasks_in(scope)).order_by(t.ota_task.c.id.desc())
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
        self.add_upgrades([upgrade])

    def add_upgrades(self, upgrades: Sequence[VehicleUpgrade]) -> None:
        self._add_all(t.vehicle_upgrade, upgrades)

    def add_unapproved(
        self, task_id: int, vehicles: Sequence[tuple[str, int]], at: datetime, *, first_place: int
    ) -> None:
        self.add_upgrades(
            [
                VehicleUpgrade(task_id=task_id, vin=vin, place=place, release_id=release_id)
                for place, (vin, release_id) in enumerate(vehicles, start=first_place)
            ]
        )
        self.add_transitions(
            [Transition(task_id=task_id, vin=vin, status=VehicleStatus.UNAPPROVED, at=at) for vin, _ in vehicles]
        )

    def delete_upgrades(self, task_id: int, limit: int) -> int:
        c, of_task = t.vehicle_upgrade.c, t.transition.c.task_id == task_id
        found = self._connection.execute(select(c.place, c.vin).where(c.task_id == task_id).limit(limit)).all()
        self._connection.execute(
            delete(t.transition).where(of_task, t.transition.c.vin.in_([row.vin for row in found]))
        )
        places = [row.place for row in found]
        self._connection.execute(delete(t.vehicle_upgrade).where(c.task_id == task_id, c.place.in_(places)))
        return len(found)

    def upgrade(self, task_id: int, place: int, *, lock: bool = False) -> VehicleUpgrade | None:
        c = t.vehicle_upgrade.c
        statement = select(t.vehicle_upgrade).where(c.task_id == task_id, c.place == place)
        return self._one(VehicleUpgrade, statement, lock=lock)

    def upgrades(self, task_id: int) -> tuple[VehicleUpgrade, ...]:
        c = t.vehicle_upgrade.c
        return self._all(VehicleUpgrade, select(t.vehicle_upgrade).where(c.task_id == task_id).order_by(c.place))

    def upgrades_page(
        self, task_id: int, request: PageRequest, *, statuses: Sequence[VehicleStatus] = ()
    ) -> Page[VehicleUpgrade]:
        c = t.vehicle_upgrade.c
        statement = select(t.vehicle_upgrade).where(c.task_id == task_id).order_by(c.place)
        if statuses:
            statement = statement.where(c.status.in_(statuses))
        return self._page(VehicleUpgrade, statement, request)

    def upgrades_after(
        self,
        task_id: int,
        place: int,
        limit: int,
        *,
        statuses: Sequence[VehicleStatus] = (),
        places: Sequence[int] = (),
        lock: bool = False,
    ) -> tuple[VehicleUpgrade, ...]:
        c = t.vehicle_upgrade.c
        statement = select(t.vehicle_upgrade).where(c.task_id == task_id, c.place > place)
        if places:
            # The next ones are enough: however many were asked for, a statement takes no more than a slice.
            statement = statement.where(c.place.in_(sorted(number for number in places if number > place)[:limit]))
        if statuses:
            statement = statement.where(c.status.in_(statuses))
        return self._all(VehicleUpgrade, statement.order_by(c.place).limit(limit), lock=lock)

    def places(self, task_id: int, vins: Sequence[str]) -> Mapping[str, int]:
        c = t.vehicle_upgrade.c
        found: dict[str, int] = {}
        for part in in_lists(vins):
            statement = select(c.vin, c.place).where(c.task_id == task_id, c.vin.in_(part))
            found |= {row.vin: row.place for row in self._connection.execute(statement)}
        return found

    def vehicles(self, task_id: int) -> tuple[tuple[str, int], ...]:
        c = t.vehicle_upgrade.c
        rows = self._connection.execute(select(c.vin, c.release_id).where(c.task_id == task_id).order_by(c.place))
        return tuple((row.vin, row.release_id) for row in rows)

    def vins(self, task_id: int, statuses: Sequence[VehicleStatus]) -> tuple[str, ...]:
        c = t.vehicle_upgrade.c
        statement = select(c.vin).where(c.task_id == task_id, c.status.in_(statuses)).order_by(c.place)
        return tuple(self._connection.execute(statement).scalars())

    def content(self, task_id: int) -> tuple[tuple[str, str, str], ...]:
        c = t.vehicle_upgrade.c
        statement = (
            select(c.vin, t.vehicle.c.hwid, t.release.c.manifest_sha256)
            .join(t.vehicle, t.vehicle.c.vin == c.vin)
            .join(t.release, t.release.c.id == c.release_id)
            .where(c.task_id == task_id)
            .order_by(c.place)
        )
        return tuple((vin, hwid, sha256) for vin, hwid, sha256 in self._connection.execute(statement))

    def newest_task_of(self, vin: str) -> int | None:
        c = t.vehicle_upgrade.c
        found: int | None = self._connection.execute(select(func.max(c.task_id)).where(c.vin == vin)).scalar()
        entered = [task_id for task_id, vins in self.listed().items() if vin in vins]
        return max([*entered, *([] if found is None else [found])], default=None)

    def open_upgrade(self, vin: str) -> VehicleUpgrade | None:
        c = t.vehicle_upgrade.c
        statement = select(t.vehicle_upgrade).where(c.vin == vin, c.status.in_(_OPEN))
        waits = case((c.status == VehicleStatus.UNAPPROVED, 1), else_=0)
        return self._one(VehicleUpgrade, statement.order_by(waits, c.task_id.desc()))

    def open_upgrades(self, vins: Sequence[str], *, lock: bool = False) -> Mapping[str, tuple[VehicleUpgrade, ...]]:
        c = t.vehicle_upgrade.c
        found: dict[str, list[VehicleUpgrade]] = {}
        for part in in_lists(vins):
            statement = select(t.vehicle_upgrade).where(c.vin.in_(part), c.status.in_(_OPEN)).order_by(c.task_id)
            for item in self._all(VehicleUpgrade, statement, lock=lock):
                found.setdefault(item.vin, []).append(item)
        return {vin: tuple(items) for vin, items in found.items()}

    def others_with(self, task_id: int, vins: Sequence[str]) -> Mapping[str, int]:
        c = t.vehicle_upgrade.c
        found: dict[str, int] = {}
        for part in in_lists(vins):
            statement = select(c.vin, func.max(c.task_id)).where(
                c.vin.in_(part), c.status.in_(_OPEN), c.task_id != task_id
            )
            found |= dict(self._connection.execute(statement.group_by(c.vin)).all())
        return found

    def upgrading(self) -> frozenset[str]:
        c = t.vehicle_upgrade.c
        statement = select(c.vin).where(c.status.in_(UNDER_WAY)).distinct()
        return frozenset(self._connection.execute(statement).scalars())

    def silent_upgrades(self, now: datetime, limit: int) -> tuple[VehicleUpgrade, ...]:
        c = t.vehicle_upgrade.c
        found: list[VehicleUpgrade] = []
        # Limits are few and differ by task; a comparison for each keeps date arithmetic out of the SQL dialects.
        limits = self._connection.execute(
            select(t.ota_task.c.time_limit_s)
            .join(t.vehicle_upgrade, c.task_id == t.ota_task.c.id)
            .where(c.status.in_(UNDER_WAY))
            .distinct()
            .order_by(t.ota_task.c.time_limit_s)
        ).scalars()
        for time_limit_s in list(limits):
            statement = (
                select(t.vehicle_upgrade)
                .join(t.ota_task, c.task_id == t.ota_task.c.id)
                .where(
                    t.ota_task.c.time_limit_s == time_limit_s,
                    c.status.in_(UNDER_WAY),
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

    def save_upgrades(self, upgrades: Sequence[VehicleUpgrade]) -> None:
        self._save_all(t.vehicle_upgrade, upgrades)

    def add_transition(self, transition: Transition) -> None:
        self.add_transitions([transition])

    def add_transitions(self, transitions: Sequence[Transition]) -> None:
        if transitions:
            self._connection.execute(insert(t.transition), [values_of(item) for item in transitions])

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

    def void_codes(self, project: str) -> tuple[int, ...]:
        c = t.approval_code.c
        waiting = select(t.ota_task.c.id).where(
            t.ota_task.c.project == project, t.ota_task.c.status == TaskStatus.UNAPPROVED
        )
        valid = select(c.task_id).where(c.task_id.in_(waiting), c.is_void.is_(False)).order_by(c.task_id)
        found = tuple(self._connection.execute(valid).scalars())
        self._connection.execute(update(t.approval_code).where(c.task_id.in_(waiting)).values(is_void=True))
        return found

    def act(self, task_id: int, *, lock: bool = False) -> TaskAct | None:
        return self._one(TaskAct, select(t.task_act).where(t.task_act.c.task_id == task_id), lock=lock)

    def acts(self) -> tuple[TaskAct, ...]:
        return self._all(TaskAct, select(t.task_act).order_by(t.task_act.c.begun_at, t.task_act.c.task_id))

    def save_act(self, act: TaskAct) -> None:
        self._upsert(t.task_act, act)

    def delete_act(self, task_id: int) -> None:
        self._connection.execute(delete(t.task_act).where(t.task_act.c.task_id == task_id))

    def save_list(self, task_id: int, vehicles: Sequence[tuple[str, int]]) -> None:
        vins, release_ids = zip(*vehicles, strict=True)
        upsert(self._connection, t.task_list, {"task_id": task_id, "vins": vins, "release_ids": release_ids})

    def list_of(self, task_id: int) -> tuple[tuple[str, int], ...]:
        row = self._connection.execute(select(t.task_list).where(t.task_list.c.task_id == task_id)).first()
        return () if row is None else tuple(zip(row.vins, row.release_ids, strict=True))

    def listed(self) -> Mapping[int, frozenset[str]]:
        c = t.task_list.c
        rows = self._connection.execute(select(c.task_id, c.vins).order_by(c.task_id))
        return {row.task_id: frozenset(row.vins) for row in rows}

    def delete_list(self, task_id: int) -> None:
        self._connection.execute(delete(t.task_list).where(t.task_list.c.task_id == task_id))

    def add_report(self, report: OrderReport, *, keep: int) -> None:
        self._add(t.order_report, report)
        c = t.order_report.c
        of_vehicle = (c.task_id == report.task_id) & (c.vin == report.vin)
        newest = select(c.id).where(of_vehicle).order_by(c.id.desc()).limit(keep)
        kept = tuple(self._connection.execute(newest).scalars())
        self._connection.execute(delete(t.order_report).where(of_vehicle, c.id < kept[-1]))

    def reports(self, task_id: int, vins: Sequence[str]) -> Mapping[str, tuple[OrderReport, ...]]:
        c = t.order_report.c
        columns = [column for column in c if column.name != "id"]
        found: dict[str, list[OrderReport]] = {vin: [] for vin in vins}
        for part in in_lists(vins):
            statement = select(*columns).where(c.task_id == task_id, c.vin.in_(part)).order_by(c.id)
            for item in self._all(OrderReport, statement):
                found[item.vin].append(item)
        return {vin: tuple(items) for vin, items in found.items()}

    def signed_versions(self, vins: Sequence[str]) -> Mapping[str, tuple[NodeVersion, ...]]:
        c = t.order_report.c
        found: dict[str, tuple[NodeVersion, ...]] = {}
        for part in in_lists(vins):
            # Reports are taken by a counter that only rises, so the newest row is the newest report.
            newest = select(func.max(c.id)).where(c.vin.in_(part)).group_by(c.vin)
            rows = self._connection.execute(select(c.vin, c.versions).where(c.id.in_(newest)))
            found |= {row.vin: row.versions for row in rows}
        return found
