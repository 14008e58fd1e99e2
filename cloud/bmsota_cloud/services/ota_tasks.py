"""OTA tasks as operators and auditors handle them: create, edit, approve with the mailed code, cancel, look at.

The approval (ota.md 8.2): a code of six random digits goes by mail to the auditor named in the task. Stored is its HMAC
together with the digest of everything the task contains, so a database copy gives no code away and an edited task needs
another one. It works once, for 24 hours and five tries, only for that auditor's own account, and never for the
creator.
"""

from __future__ import annotations

import hmac
import re
from collections import Counter
from dataclasses import replace
from datetime import timedelta
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from bmsota_cloud.domain.ota_tasks import (
    APPROVAL_TRIES_MAX,
    OPEN_STATUSES,
    ApprovalCode,
    NodeVersion,
    OtaTask,
    TaskStatus,
    Transition,
    VehicleStatus,
    VehicleUpgrade,
    content_digest,
    may_cancel,
    task_key,
)
from bmsota_cloud.domain.outbox import Mail
from bmsota_cloud.domain.paging import Page
from bmsota_cloud.services.audit import acting
from bmsota_cloud.services.ota_task_views import CodeView, MailView, TaskDetail, TaskRow, UpgradeView
from bmsota_cloud.services.transitions import finish_if_done, give_order, move, publish_task, publish_upgrade

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.domain.releases import Release
    from bmsota_cloud.domain.vehicles import Vehicle
    from bmsota_cloud.services.audit import Act
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.storage.base import Work

__all__ = ["TASK_VEHICLES_MAX", "TIME_LIMIT_S_DEFAULT", "OtaTaskService"]

# An approval signs an order a vehicle, about 1 ms each, in one transaction; a larger fleet is several tasks.
TASK_VEHICLES_MAX = 5000

# Three days: a vehicle parked over a long weekend is not a failed upgrade.
TIME_LIMIT_S_DEFAULT = 3 * 24 * 3600
_TIME_LIMIT_S_MIN = 60
_TIME_LIMIT_S_MAX = 366 * 24 * 3600

_REASON_LENGTH_MAX = 1000
_CODE = re.compile(r"\d{6}", re.ASCII)
_SECRET_NAME = "approval-code-key"  # noqa: S105 - the name of a secret, not the secret
# As many faulty vehicles as a person wants to read in one message.
_NAMED_MAX = 10


class OtaTaskService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context

    # -- before the approval -------------------------------------------------------------------------------------------

    def create(
        self,
        *,
        project: str,
        reason: str,
        software_version: str,
        vins: Sequence[str],
        auditor: str,
        by: Account,
        now: datetime,
        time_limit_s: int = TIME_LIMIT_S_DEFAULT,
        address: str = "",
    ) -> OtaTask:
        """Create a task for these vehicles of *project* and mail the code to *auditor*.

        Each vehicle gets the release of its own series with this software version.

        Raises:
            NotAllowedError: *by* may not create tasks.
            InvalidInputError: a text, the auditor, or a vehicle that can't be part of this task.
            ConflictError: a vehicle has an open task already.
        """
        with acting(
            self._context, who=by.name, action="ota_task.create", subject="task (new)", now=now, address=address
        ) as act:
            require(by, Permission.OTA_CREATE)
            if not _TIME_LIMIT_S_MIN <= time_limit_s <= _TIME_LIMIT_S_MAX:
                raise InvalidInputError(
                    "bad-time-limit",
                    f"time limit: expected {_TIME_LIMIT_S_MIN} to {_TIME_LIMIT_S_MAX} s, got {time_limit_s}",
                )
            _check_reason(reason)
            self._check_auditor(act.work, auditor, by.name)
            task = act.work.ota_tasks.add(
                OtaTask(
                    project=project,
                    reason=reason.strip(),
                    software_version=software_version,
                    creator=by.name,
                    auditor=auditor,
                    time_limit_s=time_limit_s,
                    created_at=now,
                )
            )
            self._add_vehicles(act.work, task, vins, now)
            self._issue_code(act.work, task, now)
            act.subject = f"task {task.id}"
            act.detail = f"{software_version} for {len(vins)} vehicles of {project}, auditor {auditor}"
        return task

    def edit(
        self,
        task_id: int,
        *,
        by: Account,
        now: datetime,
        reason: str | None = None,
        vins: Sequence[str] | None = None,
        address: str = "",
    ) -> OtaTask:
        """Change a task that is not approved yet. The mailed code dies with the old content; a new one is mailed.

        Raises:
            NotAllowedError: *by* may not create tasks.
            NotFoundError, ConflictError, InvalidInputError: as `create`; or the task is approved.
        """
        with self._acting_on(task_id, "ota_task.edit", by, now, address) as act:
            require(by, Permission.OTA_CREATE)
            task = _unapproved(act.work, task_id)
            if reason is not None:
                _check_reason(reason)
                task = replace(task, reason=reason.strip())
                act.work.ota_tasks.save(task)
            if vins is not None:
                act.work.ota_tasks.delete_upgrades(task_id)
                self._add_vehicles(act.work, task, vins, now)
            self._issue_code(act.work, task, now)
        publish_task(self._context, task_id)
        return task

    def send_new_code(self, task_id: int, *, by: Account, now: datetime, address: str = "") -> None:
        """Mail the auditor a new code; the previous one becomes void.

        Raises:
            NotAllowedError: *by* may neither create nor approve tasks.
            NotFoundError, ConflictError: there is no such task, or it is approved already.
        """
        with self._acting_on(task_id, "ota_task.send_code", by, now, address) as act:
            if not by.may(Permission.OTA_CREATE):
                require(by, Permission.OTA_APPROVE)
            self._issue_code(act.work, _unapproved(act.work, task_id), now)
        publish_task(self._context, task_id)

    # -- the approval --------------------------------------------------------------------------------------------------

    def approve(self, task_id: int, *, code: str, by: Account, now: datetime, address: str = "") -> OtaTask:
        """Start the task with the code from the auditor's mail.

        Every vehicle gets its signed order; those online are instructed at once, the others at their next login.

        Raises:
            NotAllowedError: *by* may not approve this task ("four-eyes": as its creator; "not-the-auditor": the
                code was mailed to another account), or the code is wrong ("wrong-code"; counted).
            ConflictError: the task is not waiting for approval, or its code is void, expired, or for another content.
            NotFoundError: there is no such task.
        """
        moved: list[VehicleUpgrade] = []
        with self._acting_on(task_id, "ota_task.approve", by, now, address) as act:
            require(by, Permission.OTA_APPROVE)
            task = _unapproved(act.work, task_id)
            if by.name == task.creator:
                raise NotAllowedError("four-eyes", f"{by.name} created this task and cannot approve it")
            if by.name != task.auditor:
                raise NotAllowedError("not-the-auditor", f"only the auditor {task.auditor} can approve this task")
            if (refusal := self._check_code(act.work, task, code, now)) is not None:
                act.refusal = refusal
            else:
                task = replace(task, status=TaskStatus.APPROVED, approver=by.name, approved_at=now)
                act.work.ota_tasks.save(task)
                moved = self._start(act.work, task, now)
                act.detail = f"{len(moved)} orders signed"
        for upgrade in moved:
            publish_upgrade(self._context, upgrade, now)
        publish_task(self._context, task_id)
        for upgrade in moved:
            self._context.router.notify(upgrade.vin)
        return task

    def _check_code(
        self, work: Work, task: OtaTask, code: str, now: datetime
    ) -> ConflictError | NotAllowedError | None:
        known = work.ota_tasks.code(task.id)
        if known is None or known.is_void:
            return ConflictError("code-void", "there is no valid code; request a new one")
        if now >= known.expires_at:
            work.ota_tasks.save_code(replace(known, is_void=True))
            return ConflictError("code-expired", "the code has expired; request a new one")
        if not hmac.compare_digest(known.content_sha256, self._digest(work, task)):
            work.ota_tasks.save_code(replace(known, is_void=True))
            return ConflictError(
                "content-changed", "the task has changed since the code was mailed; request a new code"
            )
        if _CODE.fullmatch(code.strip()) and hmac.compare_digest(
            known.code_hmac, self._hmac(work, task.id, known.content_sha256, code.strip())
        ):
            # Single use, also if the task should ever be unapproved again.
            work.ota_tasks.save_code(replace(known, is_void=True))
            return None
        tries = known.tries + 1
        work.ota_tasks.save_code(replace(known, tries=tries, is_void=tries >= APPROVAL_TRIES_MAX))
        left = APPROVAL_TRIES_MAX - tries
        if left <= 0:
            return NotAllowedError("wrong-code", "wrong code, and no tries are left; request a new code")
        return NotAllowedError("wrong-code", f"wrong code; {left} {'try' if left == 1 else 'tries'} left")

    def _start(self, work: Work, task: OtaTask, now: datetime) -> list[VehicleUpgrade]:
        upgrades = work.ota_tasks.upgrades(task.id)
        nodes = work.vehicles.nodes([upgrade.vin for upgrade in upgrades])
        moved: list[VehicleUpgrade] = []
        for upgrade in upgrades:
            vehicle = work.vehicles.get(upgrade.vin, lock=True)
            release = work.releases.get(upgrade.release_id)
            # Both are referred to by foreign keys and never deleted.
            assert vehicle is not None
            assert release is not None
            ordered = give_order(
                self._context, work, task=task, upgrade=upgrade, vehicle=vehicle, release=release, now=now
            )
            ordered = replace(
                ordered,
                heard_at=now,
                versions_before=tuple(
                    NodeVersion(position=node.position, hwid=node.hwid, version=node.version)
                    for node in nodes[upgrade.vin]
                ),
            )
            moved.append(move(work, ordered, VehicleStatus.APPROVED, now=now))
        return moved

    # -- stopping ------------------------------------------------------------------------------------------------------

    def cancel(
        self, task_id: int, *, by: Account, now: datetime, reason: str = "", address: str = ""
    ) -> tuple[str, ...]:
        """Stop what can be stopped, and return the VINs for which it is too late ("Download Complete" or later).

        Raises:
            NotAllowedError: *by* may not cancel tasks.
            NotFoundError: there is no such task.
            ConflictError: the task has already ended.
        """
        moved: list[VehicleUpgrade] = []
        too_late: list[str] = []
        with self._acting_on(task_id, "ota_task.cancel", by, now, address) as act:
            require(by, Permission.OTA_CANCEL)
            task = _task(act.work, task_id, lock=True)
            if task.status not in {TaskStatus.UNAPPROVED, TaskStatus.APPROVED}:
                raise ConflictError("task-ended", f"{task_key(task.id)} is {task.status!s} and cannot be cancelled")
            text = f"cancelled by {by.name}" + (f": {reason.strip()[:200]}" if reason.strip() else "")
            if task.status is TaskStatus.UNAPPROVED:
                act.work.ota_tasks.save(replace(task, status=TaskStatus.CANCELLED, finished_at=now))
                self._void_code(act.work, task_id)
            for upgrade in act.work.ota_tasks.upgrades(task_id):
                if may_cancel(upgrade):
                    moved.append(move(act.work, upgrade, VehicleStatus.CANCELLED, now=now, reason=text))
                elif upgrade.status in OPEN_STATUSES:
                    too_late.append(upgrade.vin)
            finish_if_done(act.work, task_id, now)
            act.detail = f"{len(moved)} cancelled, {len(too_late)} too late"
        for upgrade in moved:
            publish_upgrade(self._context, upgrade, now)
        publish_task(self._context, task_id)
        return tuple(too_late)

    # -- looking -------------------------------------------------------------------------------------------------------

    def rows(self, request: PageRequest, *, by: Account, project: str = "") -> Page[TaskRow]:
        """The task list, newest first."""
        require(by, Permission.OTA_READ)
        with self._context.store.reading() as work:
            page = work.ota_tasks.page(request, project=project)
            counts = work.ota_tasks.counts([task.id for task in page.items])
        rows = tuple(TaskRow(task=task, counts=counts[task.id]) for task in page.items)
        return Page(items=rows, total=page.total, number=page.number, size=page.size)

    def detail(self, task_id: int, request: PageRequest, *, by: Account) -> TaskDetail:
        """One task with a page of its vehicles, each with all its transitions and versions before and after.

        Raises:
            NotFoundError: there is no such task.
        """
        require(by, Permission.OTA_READ)
        with self._context.store.reading() as work:
            task = _task(work, task_id)
            page = work.ota_tasks.upgrades_page(task_id, request)
            vins = [upgrade.vin for upgrade in page.items]
            transitions = work.ota_tasks.transitions(task_id, vins)
            releases = {
                release_id: work.releases.get(release_id)
                for release_id in sorted({upgrade.release_id for upgrade in page.items})
            }
            code = work.ota_tasks.code(task_id)
            mails = work.outbox.of_task(task_id)
            counts = work.ota_tasks.counts([task_id])[task_id]
        states = self._context.telemetry.states(vins)
        views = tuple(
            UpgradeView.of(
                upgrade,
                transitions[upgrade.vin],
                releases[upgrade.release_id],
                is_online=upgrade.vin in states and states[upgrade.vin].is_online,
            )
            for upgrade in page.items
        )
        is_open = task.status in {TaskStatus.UNAPPROVED, TaskStatus.APPROVED}
        return TaskDetail(
            task=task,
            counts=counts,
            upgrades=Page(items=views, total=page.total, number=page.number, size=page.size),
            code=None if code is None else CodeView.of(code, APPROVAL_TRIES_MAX),
            mails=tuple(MailView.of(mail) for mail in mails),
            may_approve=(
                task.status is TaskStatus.UNAPPROVED
                and by.may(Permission.OTA_APPROVE)
                and by.name == task.auditor
                and by.name != task.creator
            ),
            may_cancel=is_open and by.may(Permission.OTA_CANCEL),
        )

    # -- inside --------------------------------------------------------------------------------------------------------

    def _acting_on(
        self, task_id: int, action: str, by: Account, now: datetime, address: str
    ) -> AbstractContextManager[Act]:
        return acting(self._context, who=by.name, action=action, subject=f"task {task_id}", now=now, address=address)

    def _check_auditor(self, work: Work, auditor: str, creator: str) -> None:
        account = work.accounts.get(auditor)
        if account is None or not account.may(Permission.OTA_APPROVE):
            raise InvalidInputError(
                "bad-auditor", f"auditor: {auditor[:64]!r} is not an account that can approve tasks"
            )
        if auditor == creator:
            raise InvalidInputError("four-eyes", f"auditor: {auditor} creates this task and cannot approve it")

    def _add_vehicles(self, work: Work, task: OtaTask, vins: Sequence[str], now: datetime) -> None:
        if not 1 <= len(vins) <= TASK_VEHICLES_MAX:
            raise InvalidInputError("bad-vehicles", f"vehicles: expected 1 to {TASK_VEHICLES_MAX}, got {len(vins)}")
        if repeated := sorted(vin[:32] for vin, count in Counter(vins).items() if count > 1):
            raise InvalidInputError("bad-vehicles", f"vehicles: listed more than once: {_named(repeated)}")
        faults: list[str] = []
        busy: list[str] = []
        chosen: list[tuple[Vehicle, Release]] = []
        for vin in vins:
            vehicle = work.vehicles.get(vin)
            if vehicle is None:
                faults.append(f"{vin[:32]} is not registered")
            elif vehicle.project != task.project:
                faults.append(f"{vin} belongs to project {vehicle.project}")
            elif not vehicle.is_upgradable:
                faults.append(f"{vin} is registered without a device key and cannot be upgraded over the air")
            elif (other := work.ota_tasks.open_upgrade(vin)) is not None:
                busy.append(f"{vin} is part of {task_key(other.task_id)}")
            else:
                release = work.releases.find(series=vehicle.series, software_version=task.software_version)
                if release is None:
                    faults.append(f"{vin}: no release {task.software_version} for series {vehicle.series}")
                elif release.expires_at <= now:
                    faults.append(f"{vin}: release {release.name} has expired")
                else:
                    chosen.append((vehicle, release))
        if faults:
            raise InvalidInputError("bad-vehicles", f"not possible for every vehicle: {_named(faults)}")
        if busy:
            raise ConflictError("vehicle-busy", f"some vehicles have an open task: {_named(busy)}")
        for place, (vehicle, release) in enumerate(chosen, start=1):
            work.ota_tasks.add_upgrade(
                VehicleUpgrade(task_id=task.id, vin=vehicle.vin, place=place, release_id=release.id)
            )
            work.ota_tasks.add_transition(
                Transition(task_id=task.id, vin=vehicle.vin, status=VehicleStatus.UNAPPROVED, at=now)
            )

    def _issue_code(self, work: Work, task: OtaTask, now: datetime) -> None:
        code = f"{int.from_bytes(self._context.draw(16), 'big') % 1_000_000:06d}"
        digest = self._digest(work, task)
        valid_s = self._context.settings.approval_code_valid_s
        work.ota_tasks.save_code(
            ApprovalCode(
                task_id=task.id,
                code_hmac=self._hmac(work, task.id, digest, code),
                content_sha256=digest,
                issued_at=now,
                expires_at=now + timedelta(seconds=valid_s),
            )
        )
        account = work.accounts.get(task.auditor)
        assert account is not None  # checked when the task was created; accounts are never deleted
        upgrades = work.ota_tasks.upgrades(task.id)
        work.outbox.add(
            Mail(
                recipient=account.email,
                subject=f"{task_key(task.id)}: approval code for {task.software_version} ({task.project})",
                body=(
                    f"Task      {task_key(task.id)}\n"
                    f"Project   {task.project}\n"
                    f"Reason    {task.reason}\n"
                    f"Version   {task.software_version}\n"
                    f"Vehicles  {len(upgrades)}\n"
                    f"Creator   {task.creator}\n"
                    f"\n"
                    f"Approval code: {code}\n"
                    f"\n"
                    f"The code is valid for {valid_s // 3600} hours and for this task as described above. To start the "
                    f"upgrade,\nlog in as {task.auditor} and enter it at\n"
                    f"{self._context.settings.pages_url.rstrip('/')}/ota/tasks/{task.id}\n"
                ),
                task_id=task.id,
                created_at=now,
                next_try_at=now,
            )
        )

    def _void_code(self, work: Work, task_id: int) -> None:
        code = work.ota_tasks.code(task_id)
        if code is not None:
            work.ota_tasks.save_code(replace(code, is_void=True))

    def _digest(self, work: Work, task: OtaTask) -> bytes:
        content = []
        for upgrade in work.ota_tasks.upgrades(task.id):
            vehicle = work.vehicles.get(upgrade.vin)
            release = work.releases.get(upgrade.release_id)
            assert vehicle is not None
            assert release is not None
            content.append((vehicle, release.manifest_sha256))
        return content_digest(task, content)

    def _hmac(self, work: Work, task_id: int, digest: bytes, code: str) -> bytes:
        """What is stored of a code. The key makes trying out a million codes on a stolen row useless without it."""
        key = work.secret(_SECRET_NAME)
        if key is None:
            key = self._context.draw(32)
            work.save_secret(_SECRET_NAME, key)
        return hmac.digest(key, b"approval-code:" + str(task_id).encode() + b":" + digest + code.encode(), "sha256")


def _task(work: Work, task_id: int, *, lock: bool = False) -> OtaTask:
    task = work.ota_tasks.get(task_id, lock=lock)
    if task is None:
        raise NotFoundError("no-such-task", f"no task {task_id}")
    return task


def _unapproved(work: Work, task_id: int) -> OtaTask:
    task = _task(work, task_id, lock=True)
    if task.status is not TaskStatus.UNAPPROVED:
        raise ConflictError(
            "not-unapproved",
            f"{task_key(task.id)} is {task.status!s}; only an Unapproved task can be edited or approved",
        )
    return task


def _check_reason(reason: str) -> None:
    if not 1 <= len(reason.strip()) <= _REASON_LENGTH_MAX:
        raise InvalidInputError(
            "bad-reason", f"reason: expected 1 to {_REASON_LENGTH_MAX} characters, got {len(reason.strip())}"
        )


def _named(items: Sequence[str]) -> str:
    more = f" and {len(items) - _NAMED_MAX} more" if len(items) > _NAMED_MAX else ""
    return "; ".join(items[:_NAMED_MAX]) + more
