"""OTA tasks as operators and auditors handle them: create, edit, approve with the mailed code, cancel, end, retry, look at.

To whom the code goes and who may enter it: `bmsota_cloud.services.approval_codes`. What an act does to the vehicles of a
task goes in slices: `bmsota_cloud.services.task_acts`.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotFoundError
from bmsota_cloud.domain.ota_tasks import (
    APPROVAL_TRIES_MAX,
    FAILED_STATUSES,
    OPEN_STATUSES,
    TASK_VEHICLES_MAX,
    ActKind,
    OtaTask,
    TaskAct,
    TaskStatus,
    VehicleStatus,
    may_retry,
    task_key,
)
from bmsota_cloud.domain.paging import Page
from bmsota_cloud.domain.vehicle_checks import VehicleCheck
from bmsota_cloud.services.approval_codes import (
    ApprovalCodes,
    TaskContent,
    check_may_enter,
    may_enter,
    project_of,
    target_of,
)
from bmsota_cloud.services.audit import acting, refusals_audited
from bmsota_cloud.services.ota_task_views import (
    ActView,
    CodeView,
    MailView,
    OrderReportView,
    TaskDetail,
    TaskRow,
    UpgradeView,
    VehiclePreview,
)
from bmsota_cloud.services.scoped import check_project, task_for
from bmsota_cloud.services.task_acts import TaskActs, check_idle
from bmsota_cloud.services.task_plans import match_releases
from bmsota_cloud.services.transitions import publish_task
from bmsota_cloud.services.turns import short_turns
from bmsota_cloud.services.vehicle_survey import count_remarks, pairs_of, survey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from contextlib import AbstractContextManager
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.services.approval_codes import CodeTarget
    from bmsota_cloud.services.audit import Act
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.limits import CodeLimits
    from bmsota_cloud.storage.base import Work

__all__ = ["TIME_LIMIT_S_DEFAULT", "OtaTaskService"]

# Three days: a vehicle parked over a long weekend is not a failed upgrade.
TIME_LIMIT_S_DEFAULT = 3 * 24 * 3600
_TIME_LIMIT_S_MIN = 60
_TIME_LIMIT_S_MAX = 366 * 24 * 3600

_REASON_LENGTH_MAX = 1000
_ACT_REASON_LENGTH_MAX = 200
# As many faulty vehicles as a person wants to read in one message.
_NAMED_MAX = 10


class OtaTaskService:
    """One method per use case."""

    def __init__(self, context: Context, limits: CodeLimits) -> None:
        self._context = context
        self._codes = ApprovalCodes(context, limits)
        self._limits = limits
        self._acts = TaskActs(context, self._codes)

    # -- before the approval -------------------------------------------------------------------------------------------

    @short_turns()
    def preview(
        self, *, project: str, software_version: str, vins: Sequence[str], by: Account, now: datetime
    ) -> tuple[VehiclePreview, ...]:
        """What a task for these vehicles would find, vehicle by vehicle, in the order given. Nothing is changed.

        Raises:
            NotAllowedError: *by* may not create tasks.
            NotFoundError: *project* is not in the scope of *by*.
            InvalidInputError: too many vehicles, or one twice.
        """
        require(by, Permission.OTA_CREATE)
        check_project(project, by)
        _check_list(vins)
        with self._context.store.reading() as work:
            found, excluded = match_releases(work, project, software_version, vins, by, now)
            checks = survey(work, found)
        releases = {vehicle.vin: release for vehicle, release in found}
        return tuple(
            VehiclePreview(
                vin=vin[:32],
                release_name=releases[vin].name if vin in releases else "",
                fault=excluded[vin].text if vin in excluded else "",
                check=checks.get(vin, VehicleCheck()),
            )
            for vin in vins
        )

    @short_turns()
    def create(
        self,
        *,
        project: str,
        reason: str,
        software_version: str,
        vins: Sequence[str],
        by: Account,
        now: datetime,
        auditor: str = "",
        time_limit_s: int = TIME_LIMIT_S_DEFAULT,
        supersede: bool = False,
        form_token: str = "",
        address: str = "",
    ) -> OtaTask:
        """Create a task for these vehicles of *project* and mail its code.

        Each vehicle gets the release of its own series with this software version. With *auditor*, only that account can
        enter the code; a project may require one. With *supersede*, the approval takes vehicles over from older tasks. A form
        (*form_token*) makes one task, however often it is sent: later ones return the task that is there.

        Raises:
            NotAllowedError: *by* may not create tasks, or not take vehicles over.
            InvalidInputError: a text, the auditor, the mailbox, or a vehicle that can't be part of this task.
            ConflictError: a vehicle has an open task already, or the project has no audit mailbox.
            NotFoundError: *project* is not in the scope of *by*.
            RateLimitedError: too many codes were mailed for *by*.
        """
        asked = {"who": by.name, "action": "ota_task.create", "subject": "task (new)", "address": address}
        task = OtaTask(
            project=project,
            reason=reason.strip(),
            software_version=software_version,
            creator=by.name,
            auditor=auditor,
            time_limit_s=time_limit_s,
            created_at=now,
            supersedes=supersede,
            form_token=form_token,
        )
        if (known := self.of_form(form_token, by=by)) is not None:
            return known
        try:
            return self._create(task, vins, by, now, asked)
        except ConflictError:
            # The same form, sent twice at the same moment: the other one was faster.
            if (known := self.of_form(form_token, by=by)) is not None:
                return known
            raise

    def of_form(self, form_token: str, *, by: Account) -> OtaTask | None:
        """The task that *by* has created with this form; None if there is none."""
        if not (form_token and by.may(Permission.OTA_CREATE)):
            return None
        with self._context.store.reading() as work:
            task = work.ota_tasks.by_form(form_token)
        return task if task is not None and task.creator == by.name and by.scope.has_project(task.project) else None

    def _create(
        self, task: OtaTask, vins: Sequence[str], by: Account, now: datetime, asked: Mapping[str, str]
    ) -> OtaTask:
        with refusals_audited(self._context, now=now, **asked):
            require(by, Permission.OTA_CREATE)
            if task.supersedes:
                require(by, Permission.OTA_FORCE)
            if not _TIME_LIMIT_S_MIN <= task.time_limit_s <= _TIME_LIMIT_S_MAX:
                raise InvalidInputError(
                    "bad-time-limit",
                    f"time limit: expected {_TIME_LIMIT_S_MIN} to {_TIME_LIMIT_S_MAX} s, got {task.time_limit_s}",
                )
            _check_reason(task.reason)
            vehicles = self._plan(task, vins, by, now)
        with acting(self._context, now=now, **asked) as act:
            task = act.work.ota_tasks.add(task)
            target = self._codes.admit(act.work, task, by, now)
            self._begin_list(act.work, task, vehicles, by, now)
            act.subject = f"task {task.id}"
            act.detail = f"{task.software_version} for {len(vins)} vehicles of {task.project}, {target.way}" + (
                f" {task.auditor}" if task.auditor else ""
            )
        return self._carried_on(task.id, by, now)

    @short_turns()
    def edit(
        self,
        task_id: int,
        *,
        by: Account,
        now: datetime,
        reason: str | None = None,
        vins: Sequence[str] | None = None,
        auditor: str | None = None,
        address: str = "",
    ) -> OtaTask:
        """Change a task that is not approved yet. The mailed code dies with the old content; a new one is mailed.

        Raises:
            NotAllowedError: *by* may not create tasks.
            NotFoundError, ConflictError, InvalidInputError: as `create`; or the task is approved.
            RateLimitedError: too many codes were mailed for this task, or for *by*.
        """
        with self._refusals_on(task_id, "ota_task.edit", by, now, address):
            require(by, Permission.OTA_CREATE)
            if reason is not None:
                _check_reason(reason)
            with self._context.store.reading() as work:
                task = task_for(work, task_id, by)
            if vins is None:
                facts, content = self._acts.facts_of(task_id)
            else:
                vehicles = self._plan(_changed(task, auditor=auditor), vins, by, now)
        with self._acting_on(task_id, "ota_task.edit", by, now, address) as act:
            task = _changed(_unapproved(act.work, task_id, by), reason=reason, auditor=auditor)
            act.work.ota_tasks.save(task)
            self._codes.admit(act.work, task, by, now)
            if vins is None:
                self._codes.issue(act.work, task, content, now, facts)
            else:
                self._codes.void(act.work, task_id)
                self._begin_list(act.work, task, vehicles, by, now)
        return self._carried_on(task_id, by, now)

    @short_turns()
    def send_new_code(self, task_id: int, *, by: Account, now: datetime, address: str = "") -> None:
        """Mail a new code; the previous one becomes void.

        Raises:
            NotAllowedError: *by* may neither create nor approve tasks.
            NotFoundError, ConflictError, InvalidInputError: there is no such task, it is approved already, locked, or its
                code can't be mailed (see `create`).
            RateLimitedError: too many codes were mailed for this task, or for *by*.
        """
        with self._refusals_on(task_id, "ota_task.send_code", by, now, address):
            if not by.may(Permission.OTA_CREATE):
                require(by, Permission.OTA_AUDIT)
            with self._context.store.reading() as work:
                task_for(work, task_id, by)
            facts, content = self._acts.facts_of(task_id)
        with self._acting_on(task_id, "ota_task.send_code", by, now, address) as act:
            task = _unapproved(act.work, task_id, by)
            self._codes.admit(act.work, task, by, now)
            self._codes.issue(act.work, task, content, now, facts)
        publish_task(self._context, task_id)

    # -- the approval --------------------------------------------------------------------------------------------------

    @short_turns()
    def approve(self, task_id: int, *, code: str, by: Account, now: datetime, address: str = "") -> OtaTask:
        """Start the upgrade with the mailed code.

        Every vehicle gets its signed order, slice by slice; those online are instructed at once, the others at their next
        login. One that already runs the release, by its signed report, counts as succeeded.

        Raises:
            NotAllowedError: *by* may not enter the code of this task (`check_may_enter`), or it is wrong ("wrong-code";
                counted).
            ConflictError: the task is not waiting for approval, its code is void, expired, or for another content, or
                it is locked after too many wrong codes.
            RateLimitedError: *by* has typed too many wrong codes.
            InvalidInputError: the project has changed so that its code has nowhere to go (`target_of`).
            NotFoundError: there is no such task.
        """
        with self._context.store.reading() as work:
            content = TaskContent.of(work, task_id)
        with self._acting_on(task_id, "ota_task.approve", by, now, address) as act:
            if not by.may(Permission.OTA_START):
                require(by, Permission.OTA_AUDIT)
            task = _unapproved(act.work, task_id, by)
            check_may_enter(task, project_of(act.work, task.project), by)
            target = target_of(act.work, task)
            self._limits.before_try(act.work, task_id, by.name, now)
            if (refusal := self._codes.check(act.work, task, target, content, code, now)) is not None:
                act.refusal = refusal
                if refusal.code == "wrong-code":
                    self._count_wrong_code(act.work, task, target, by, now, address)
            else:
                task = replace(
                    task,
                    status=TaskStatus.APPROVED,
                    approver=by.name,
                    approved_at=now,
                    approval=target.way,
                    code_mailbox=target.mailbox,
                )
                act.work.ota_tasks.save(task)
                self._acts.begin(
                    act.work,
                    _act(task_id, ActKind.APPROVE, by, "", now, statuses=(VehicleStatus.UNAPPROVED,)),
                )
                act.detail = f"{target.way}: the code was mailed to {target.mailbox}"
        return self._carried_on(task_id, by, now)

    def carry_on(self, now: datetime) -> int:
        """Carry on the acts that a process has left unfinished; how many. Call it every few seconds."""
        return self._acts.carry_on_all(now)

    def _count_wrong_code(
        self, work: Work, task: OtaTask, target: CodeTarget, by: Account, now: datetime, address: str
    ) -> None:
        people = (work.accounts.get(name) for name in (task.auditor, task.creator))
        mailboxes = [target.mailbox, *(person.email for person in people if person is not None)]
        if self._limits.wrong(work, task, who=by.name, now=now, mailboxes=mailboxes, address=address):
            self._codes.void(work, task.id)

    # -- stopping and retrying -----------------------------------------------------------------------------------------

    def cancel(
        self, task_id: int, *, by: Account, now: datetime, reason: str = "", address: str = ""
    ) -> tuple[str, ...]:
        """Stop what can be stopped, and return the VINs for which it is too late ("Download Complete" or later).

        Raises:
            NotAllowedError: *by* may not cancel tasks.
            NotFoundError: there is no such task.
            ConflictError: the task has already ended.
        """
        with self._acting_on(task_id, "ota_task.cancel", by, now, address) as act:
            require(by, Permission.OTA_CANCEL)
            task = task_for(act.work, task_id, by, lock=True)
            if task.status not in {TaskStatus.UNAPPROVED, TaskStatus.APPROVED}:
                raise ConflictError("task-ended", f"{task_key(task.id)} is {task.status!s} and cannot be cancelled")
            text = f"cancelled by {by.name}" + (
                f": {reason.strip()[:_ACT_REASON_LENGTH_MAX]}" if reason.strip() else ""
            )
            if task.status is TaskStatus.UNAPPROVED:
                act.work.ota_tasks.save(replace(task, status=TaskStatus.CANCELLED, finished_at=now))
                self._codes.void(act.work, task_id)
            self._acts.begin(act.work, _act(task_id, ActKind.CANCEL, by, text, now, statuses=_words(OPEN_STATUSES)))
        self._acts.carry_on(task_id, now)
        with self._context.store.reading() as work:
            return work.ota_tasks.vins(task_id, sorted(OPEN_STATUSES))

    def end(
        self,
        task_id: int,
        *,
        reason: str,
        by: Account,
        now: datetime,
        vins: Sequence[str] = (),
        statuses: Sequence[VehicleStatus] = (),
        address: str = "",
    ) -> int:
        """End vehicles of a running task by force, at any open status, as "Cancelled"; how many.

        The unit is answered from then on that there is nothing to do; its report, if one still comes, is kept, and a true
        success is a success. Either *vins* or *statuses* must say which vehicles.

        Raises:
            NotAllowedError: *by* may not end vehicles.
            NotFoundError: there is no such task, or a vehicle is not in it.
            ConflictError: the task is not running, or something else is being done to it.
            InvalidInputError: there is no reason, or no vehicle is named.
        """
        with self._acting_on(task_id, "ota_task.end", by, now, address) as act:
            require(by, Permission.OTA_FORCE)
            text = f"ended by {by.name}: {_act_reason(reason)}"
            task = task_for(act.work, task_id, by, lock=True)
            if task.status is not TaskStatus.APPROVED:
                way_out = "; cancel or edit it" if task.status is TaskStatus.UNAPPROVED else ""
                raise ConflictError("not-running", f"{task_key(task.id)} is {task.status!s}, not running{way_out}")
            if not vins and not statuses:
                raise InvalidInputError("bad-vehicles", "name the vehicles to end, or their statuses")
            wanted = [status for status in statuses or sorted(OPEN_STATUSES) if status in OPEN_STATUSES]
            if not wanted:
                raise InvalidInputError(
                    "bad-vehicles", f"statuses: expected an open one, got {', '.join(sorted(set(statuses)))}"
                )
            act.detail = self._begin_some(act.work, task, ActKind.END, by, text, now, vins, wanted)
        return self._counted(task_id, now)

    def retry(
        self,
        task_id: int,
        *,
        reason: str,
        by: Account,
        now: datetime,
        vins: Sequence[str] = (),
        statuses: Sequence[VehicleStatus] = (),
        address: str = "",
    ) -> int:
        """Give vehicles a new order within the task, with a higher sequence and an order id of its own; how many.

        Without *vins* and *statuses*: those that failed, were rolled back, rejected or timed out. By name also one that
        was cancelled or is stuck at an open status, whose order is replaced. What succeeded is left alone, and so is a
        vehicle that another task has by now.

        Raises:
            NotAllowedError: *by* may not retry vehicles.
            NotFoundError: there is no such task, or a vehicle is not in it.
            ConflictError: the task was never approved, or was cancelled; or something else is being done to it.
            InvalidInputError: there is no reason.
        """
        with self._acting_on(task_id, "ota_task.retry", by, now, address) as act:
            require(by, Permission.OTA_FORCE)
            text = f"retried by {by.name}: {_act_reason(reason)}"
            task = task_for(act.work, task_id, by, lock=True)
            if task.approved_at is None:
                raise ConflictError("not-approved", f"{task_key(task.id)} is {task.status!s}: nothing to retry")
            if task.status is TaskStatus.CANCELLED:
                raise ConflictError("task-cancelled", f"{task_key(task.id)} was cancelled; create a new task")
            wanted = list(statuses) or (list(VehicleStatus) if vins else sorted(FAILED_STATUSES))
            act.detail = self._begin_some(act.work, task, ActKind.RETRY, by, text, now, vins, wanted)
        return self._counted(task_id, now)

    # -- looking -------------------------------------------------------------------------------------------------------

    def rows(self, request: PageRequest, *, by: Account, project: str = "") -> Page[TaskRow]:
        """The task list, newest first."""
        require(by, Permission.OTA_READ)
        with self._context.store.reading() as work:
            page = work.ota_tasks.page(request, by.scope, project=project)
            counts = work.ota_tasks.counts([task.id for task in page.items])
        rows = tuple(TaskRow(task=task, counts=counts[task.id]) for task in page.items)
        return Page(items=rows, total=page.total, number=page.number, size=page.size)

    @short_turns()
    def detail(
        self, task_id: int, request: PageRequest, *, by: Account, statuses: Sequence[VehicleStatus] = ()
    ) -> TaskDetail:
        """One task with a page of its vehicles, each with all its transitions and versions before and after.

        Before the approval each vehicle has what runs on it now and what speaks against the upgrade. With *statuses*, only
        the vehicles in one of them.

        Raises:
            NotFoundError: there is no such task.
        """
        require(by, Permission.OTA_READ)
        with self._context.store.reading() as work:
            task = task_for(work, task_id, by)
            page = work.ota_tasks.upgrades_page(task_id, request, statuses=statuses)
            vins = [upgrade.vin for upgrade in page.items]
            transitions = work.ota_tasks.transitions(task_id, vins)
            reports = work.ota_tasks.reports(task_id, vins)
            releases = work.releases.many(sorted({upgrade.release_id for upgrade in page.items}))
            code = work.ota_tasks.code(task_id)
            act = work.ota_tasks.act(task_id)
            mails = work.outbox.of_task(task_id)
            counts = work.ota_tasks.counts([task_id])[task_id]
            project = project_of(work, task.project)
            checks: Mapping[str, VehicleCheck] = {}
            if task.status is TaskStatus.UNAPPROVED:
                # Of every vehicle, for the counts; one page of it is shown.
                checks = survey(work, pairs_of(work, work.ota_tasks.vehicles(task_id)), task_id=task_id)
        online = self._context.presence.is_online(vins)
        is_cancelled = task.status is TaskStatus.CANCELLED
        force = by.may(Permission.OTA_FORCE) and task.approved_at is not None and not is_cancelled
        views = tuple(
            UpgradeView.of(
                upgrade,
                transitions[upgrade.vin],
                releases[upgrade.release_id],
                tuple(OrderReportView.of(report) for report in reports[upgrade.vin]),
                checks.get(upgrade.vin, VehicleCheck()),
                is_online=online[upgrade.vin],
                may_end=force and task.status is TaskStatus.APPROVED and upgrade.status in OPEN_STATUSES,
                may_retry=force and may_retry(upgrade),
            )
            for upgrade in page.items
        )
        is_open = task.status in {TaskStatus.UNAPPROVED, TaskStatus.APPROVED}
        return TaskDetail(
            task=task,
            approval=task.approval or project.way_of(task.auditor),
            counts=counts,
            remarks=count_remarks(checks.values()),
            upgrades=Page(items=views, total=page.total, number=page.number, size=page.size),
            code=None if code is None else CodeView.of(code, APPROVAL_TRIES_MAX),
            act=None if act is None else ActView.of(act),
            mails=tuple(MailView.of(mail) for mail in mails),
            may_approve=task.status is TaskStatus.UNAPPROVED and may_enter(task, project, by),
            may_cancel=is_open and by.may(Permission.OTA_CANCEL),
            may_force=force,
        )

    # -- inside --------------------------------------------------------------------------------------------------------

    def _acting_on(
        self, task_id: int, action: str, by: Account, now: datetime, address: str
    ) -> AbstractContextManager[Act]:
        return acting(self._context, who=by.name, action=action, subject=f"task {task_id}", now=now, address=address)

    def _refusals_on(
        self, task_id: int, action: str, by: Account, now: datetime, address: str
    ) -> AbstractContextManager[None]:
        return refusals_audited(
            self._context, who=by.name, action=action, subject=f"task {task_id}", now=now, address=address
        )

    def _carried_on(self, task_id: int, by: Account, now: datetime) -> OtaTask:
        self._acts.carry_on(task_id, now)
        with self._context.store.reading() as work:
            return task_for(work, task_id, by)

    def _begin_some(
        self,
        work: Work,
        task: OtaTask,
        kind: ActKind,
        by: Account,
        text: str,
        now: datetime,
        vins: Sequence[str],
        statuses: Sequence[VehicleStatus],
    ) -> str:
        """Begin an act for some vehicles; what the audit log says of it."""
        if vins:
            _check_list(vins)
        places = work.ota_tasks.places(task.id, vins)
        if missing := [vin[:32] for vin in vins if vin not in places]:
            raise NotFoundError("no-such-vehicle", f"not in {task_key(task.id)}: {_named(missing)}")
        chosen = tuple(sorted(places.values()))
        self._acts.begin(work, _act(task.id, kind, by, text, now, statuses=_words(statuses), places=chosen))
        return f"{_named(list(vins)) if vins else ', '.join(statuses)}: {text}"

    # -- planning ------------------------------------------------------------------------------------------------------

    def _plan(self, task: OtaTask, vins: Sequence[str], by: Account, now: datetime) -> list[tuple[str, int]]:
        """The vehicles of a task that is created or edited, as (VIN, release).

        Raises:
            InvalidInputError, ConflictError: see `create`.
        """
        check_project(task.project, by)
        with self._context.store.reading() as work:
            target_of(work, task)
            _check_list(vins)
            found, excluded = match_releases(work, task.project, task.software_version, vins, by, now)
            if excluded:
                named = [f"{vin[:32]} {exclusion.text}" for vin, exclusion in excluded.items()]
                raise InvalidInputError("bad-vehicles", f"not possible for every vehicle: {_named(named)}")
            _check_free(work, task, vins)
        return [(vehicle.vin, release.id) for vehicle, release in found]

    def _begin_list(
        self, work: Work, task: OtaTask, vehicles: Sequence[tuple[str, int]], by: Account, now: datetime
    ) -> None:
        """Begin to enter the vehicles; the code is mailed when all of them are."""
        # Again, because another task may have been created since.
        _check_free(work, task, [vin for vin, _ in vehicles])
        self._acts.begin(work, _act(task.id, ActKind.LIST, by, "", now))
        work.ota_tasks.save_list(task.id, vehicles)

    def _counted(self, task_id: int, now: datetime) -> int:
        """Carry the act on; how many vehicles it has changed."""
        return self._acts.carry_on(task_id, now)


def _act(
    task_id: int,
    kind: ActKind,
    by: Account,
    reason: str,
    now: datetime,
    *,
    statuses: Sequence[str] = (),
    places: tuple[int, ...] = (),
) -> TaskAct:
    return TaskAct(
        task_id=task_id,
        kind=kind,
        who=by.name,
        reason=reason,
        begun_at=now,
        statuses=tuple(statuses),
        places=places,
    )


def _words(statuses: Sequence[VehicleStatus] | frozenset[VehicleStatus]) -> tuple[str, ...]:
    return tuple(str(status) for status in sorted(statuses))


def _changed(task: OtaTask, *, reason: str | None = None, auditor: str | None = None) -> OtaTask:
    if reason is not None:
        task = replace(task, reason=reason.strip())
    return task if auditor is None else replace(task, auditor=auditor)


def _check_list(vins: Sequence[str]) -> None:
    if not 1 <= len(vins) <= TASK_VEHICLES_MAX:
        raise InvalidInputError("bad-vehicles", f"vehicles: expected 1 to {TASK_VEHICLES_MAX}, got {len(vins)}")
    if repeated := sorted(vin[:32] for vin, count in Counter(vins).items() if count > 1):
        raise InvalidInputError("bad-vehicles", f"vehicles: listed more than once: {_named(repeated)}")


def _check_free(work: Work, task: OtaTask, vins: Sequence[str]) -> None:
    """Refuse vehicles that another task has, unless this one is to take them over."""
    if task.supersedes:
        return
    others = dict(work.ota_tasks.others_with(task.id, vins))
    # Those whose list is being entered have vehicles without a row yet.
    for other, listed in work.ota_tasks.listed().items():
        if other != task.id:
            others |= dict.fromkeys(listed.intersection(vins), other)
    if others:
        busy = [f"{vin} is part of {task_key(other)}" for vin, other in sorted(others.items())]
        raise ConflictError("vehicle-busy", f"some vehicles have an open task: {_named(busy)}")


def _unapproved(work: Work, task_id: int, by: Account) -> OtaTask:
    """The task, if it can be edited and approved: its list is complete and it waits for its code."""
    task = task_for(work, task_id, by, lock=True)
    if task.status is not TaskStatus.UNAPPROVED:
        raise ConflictError(
            "not-unapproved",
            f"{task_key(task.id)} is {task.status!s}; only an Unapproved task can be edited or approved",
        )
    check_idle(work, task_id)
    return task


def _check_reason(reason: str) -> None:
    if not 1 <= len(reason.strip()) <= _REASON_LENGTH_MAX:
        raise InvalidInputError(
            "bad-reason", f"reason: expected 1 to {_REASON_LENGTH_MAX} characters, got {len(reason.strip())}"
        )


def _act_reason(reason: str) -> str:
    text = reason.strip()
    if not 1 <= len(text) <= _ACT_REASON_LENGTH_MAX:
        raise InvalidInputError(
            "bad-reason", f"reason: expected 1 to {_ACT_REASON_LENGTH_MAX} characters, got {len(text)}"
        )
    return text


def _named(items: Sequence[str]) -> str:
    more = f" and {len(items) - _NAMED_MAX} more" if len(items) > _NAMED_MAX else ""
    return "; ".join(items[:_NAMED_MAX]) + more
