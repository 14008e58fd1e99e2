"""What is done to all vehicles of a task: entering, approving, cancelling, ending by force, retrying; slice by slice.

A slice is some dozen vehicles in one transaction of some milliseconds, so that logins and reports, which need the same
database, get their turn in between. Orders are signed, and what a code stands for is encoded, before the transaction begins. What is under way stands in the
database (`TaskAct`): its cursor is moved in the transaction that changes the vehicles, so a process that dies in the
middle leaves whole slices only, and the next tick, of this process or another, carries on. Two that carry on the same
act do no harm: a slice whose act has moved since it was prepared is thrown away.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from threading import Lock
from typing import TYPE_CHECKING

from bmsota_cloud.domain.errors import ConflictError, InvalidInputError
from bmsota_cloud.domain.evidence import Source
from bmsota_cloud.domain.ota_tasks import (
    ActKind,
    NodeVersion,
    TaskAct,
    TaskStatus,
    VehicleStatus,
    encode_vehicles,
    may_cancel,
    may_end,
    may_retry,
    retry,
    task_key,
)
from bmsota_cloud.services.approval_codes import TaskContent
from bmsota_cloud.services.audit import note
from bmsota_cloud.services.equipment import versions_of
from bmsota_cloud.services.transitions import finish_if_done, publish_task, publish_upgrade, sign_next_order, step
from bmsota_cloud.services.turns import short_turns
from bmsota_cloud.services.vehicle_survey import facts_for_mail, pairs_of, survey

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.ota_tasks import OtaTask, Transition, VehicleUpgrade
    from bmsota_cloud.domain.releases import Release
    from bmsota_cloud.domain.vehicle_checks import VehicleCheck
    from bmsota_cloud.domain.vehicles import Vehicle, VehicleNode
    from bmsota_cloud.services.approval_codes import ApprovalCodes
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.transitions import SignedOrder
    from bmsota_cloud.storage.base import Work

__all__ = ["SLICE_VEHICLES", "TaskActs", "check_idle"]

# One transaction of 50 vehicles takes some 10 ms of a core; a link waits for one of them at most.
SLICE_VEHICLES = 50

_V = VehicleStatus

# Acts that find a list to be entered: a cancellation that came while it was.
_ENTERS = frozenset({ActKind.LIST, ActKind.CANCEL})


@dataclass(slots=True)
class _Slice:
    """What a slice has been prepared with, outside of any write transaction."""

    act: TaskAct
    task: OtaTask
    batch: tuple[VehicleUpgrade, ...]
    vehicles: Mapping[str, Vehicle]
    releases: Mapping[int, Release]
    checks: Mapping[str, VehicleCheck]
    nodes: Mapping[str, tuple[VehicleNode, ...]]
    orders: dict[str, SignedOrder | ConflictError] = field(default_factory=dict)


@dataclass(slots=True)
class _Changes:
    """What a slice writes."""

    upgrades: list[VehicleUpgrade] = field(default_factory=list)
    transitions: list[Transition] = field(default_factory=list)
    sequences: dict[str, int] = field(default_factory=dict)
    ordered: list[str] = field(default_factory=list)
    """VINs to be hinted at after the commit."""
    others: set[int] = field(default_factory=set)
    """Older tasks that have lost a vehicle."""

    def count(self, task_id: int) -> int:
        return sum(1 for upgrade in self.upgrades if upgrade.task_id == task_id)

    def keep(self, moved: tuple[VehicleUpgrade, Transition]) -> VehicleUpgrade:
        """Keep a transition; the upgrade is kept when its last step is done."""
        self.transitions.append(moved[1])
        return moved[0]


class TaskActs:
    """Begin an act in the caller's transaction, then carry it on."""

    def __init__(self, context: Context, codes: ApprovalCodes) -> None:
        self._context = context
        self._codes = codes
        self._running: set[int] = set()
        self._lock = Lock()

    @staticmethod
    def begin(work: Work, act: TaskAct) -> None:
        """Write down what is to be done.

        Raises:
            ConflictError: something else is being done to the task ("act-under-way"). Only a cancellation does not
                wait: it takes the place of what is under way. A list that is being entered is entered to its end
                first, so that what is cancelled is a list as a person has asked for it.
        """
        if act.kind is not ActKind.CANCEL:
            check_idle(work, act.task_id)
        elif (current := work.ota_tasks.act(act.task_id, lock=True)) is not None and current.kind is ActKind.LIST:
            act = replace(act, place_done=current.place_done)
        work.ota_tasks.save_act(act)

    @short_turns()
    def carry_on(self, task_id: int, now: datetime) -> int:
        """Do what is left of the task's act, and return when nothing is: how many vehicles were changed here."""
        count = 0
        with self._lock:
            self._running.add(task_id)
        try:
            while (changed := self._do_slice(task_id, now)) is not None:
                count += changed
        finally:
            with self._lock:
                self._running.discard(task_id)
        publish_task(self._context, task_id)
        return count

    def carry_on_all(self, now: datetime) -> int:
        """Carry on what another process, or one that died, has left; how many acts. Call it every few seconds."""
        with self._context.store.reading() as work:
            acts = work.ota_tasks.acts()
        with self._lock:
            left = [act.task_id for act in acts if act.task_id not in self._running]
        for task_id in left:
            self.carry_on(task_id, now)
        return len(left)

    # -- one slice -----------------------------------------------------------------------------------------------------

    def _do_slice(self, task_id: int, now: datetime) -> int | None:
        """Prepare, sign, write, tell: how many vehicles of the task were changed; None if there is nothing to do."""
        with self._context.store.reading() as work:
            act = work.ota_tasks.act(task_id)
            listed = () if act is None or act.kind not in _ENTERS else work.ota_tasks.list_of(task_id)
        if act is not None and listed:
            return self._enter_slice(act, listed, now)
        prepared = self._prepare(task_id)
        if prepared is None:
            return None
        if prepared.act.kind in {ActKind.APPROVE, ActKind.RETRY}:
            self._sign(prepared, now)
        changes = _Changes()
        with self._context.store.transaction() as work:
            # The act as it was, or this slice is not ours any more.
            if work.ota_tasks.act(task_id, lock=True) != prepared.act:
                return 0
            self._change(work, prepared, changes, now)
            work.ota_tasks.save_upgrades(changes.upgrades)
            work.ota_tasks.add_transitions(changes.transitions)
            work.vehicles.save_sequences(changes.sequences)
            self._move_cursor(work, prepared, changes, now)
            for other in sorted(changes.others):
                finish_if_done(work, other, now, by_cancelling=True)
        for upgrade in changes.upgrades:
            publish_upgrade(self._context, upgrade, now)
        for other in sorted(changes.others):
            publish_task(self._context, other)
        for vin in changes.ordered:
            self._context.router.notify(vin)
        return changes.count(task_id)

    def _prepare(self, task_id: int) -> _Slice | None:
        with self._context.store.reading() as work:
            act = work.ota_tasks.act(task_id)
            task = work.ota_tasks.get(task_id)
            if act is None or task is None:
                return None
            batch = self._batch(work, act)
            vins = [upgrade.vin for upgrade in batch]
            vehicles = work.vehicles.many(vins)
            releases = work.releases.many(sorted({upgrade.release_id for upgrade in batch}))
            pairs = [(vehicles[upgrade.vin], releases[upgrade.release_id]) for upgrade in batch]
            is_approval = act.kind is ActKind.APPROVE
            checks = survey(work, pairs, task_id=task_id) if is_approval else {}
            nodes = work.vehicles.nodes(vins) if is_approval else {}
        return _Slice(act=act, task=task, batch=batch, vehicles=vehicles, releases=releases, checks=checks, nodes=nodes)

    @staticmethod
    def _batch(work: Work, act: TaskAct, *, lock: bool = False) -> tuple[VehicleUpgrade, ...]:
        return work.ota_tasks.upgrades_after(
            act.task_id,
            act.place_done,
            SLICE_VEHICLES,
            statuses=[VehicleStatus(status) for status in act.statuses],
            places=act.places,
            lock=lock,
        )

    def _sign(self, prepared: _Slice, now: datetime) -> None:
        for upgrade in prepared.batch:
            check = prepared.checks.get(upgrade.vin)
            if check is None or not check.already_runs:
                vehicle = prepared.vehicles[upgrade.vin]
                prepared.orders[upgrade.vin] = self._order(prepared, upgrade, vehicle, now)

    def _order(
        self, prepared: _Slice, upgrade: VehicleUpgrade, vehicle: Vehicle, now: datetime
    ) -> SignedOrder | ConflictError:
        attempt = upgrade.attempt + (1 if prepared.act.kind is ActKind.RETRY else 0)
        try:
            return sign_next_order(
                self._context,
                task=prepared.task,
                upgrade=replace(upgrade, attempt=attempt),
                vehicle=vehicle,
                release=prepared.releases[upgrade.release_id],
                now=now,
            )
        except ConflictError as refusal:
            return refusal

    def _change(self, work: Work, prepared: _Slice, changes: _Changes, now: datetime) -> None:
        """Bring each vehicle as it stands now to where the act wants it; what has moved meanwhile is left alone."""
        if not prepared.batch:
            return
        vins = [upgrade.vin for upgrade in prepared.batch]
        # Vehicles first, as a signed report locks them.
        vehicles = work.vehicles.many(vins, lock=True) if prepared.orders else {}
        known = {upgrade.place for upgrade in prepared.batch}
        current = [upgrade for upgrade in self._batch(work, prepared.act, lock=True) if upgrade.place in known]
        others = work.ota_tasks.open_upgrades(vins, lock=True) if prepared.orders or prepared.checks else {}
        for upgrade in current:
            rest = [other for other in others.get(upgrade.vin, ()) if other.task_id != upgrade.task_id]
            match prepared.act.kind:
                case ActKind.APPROVE if upgrade.status is _V.UNAPPROVED:
                    self._approve(prepared, changes, upgrade, rest, vehicles, now)
                case ActKind.CANCEL if may_cancel(upgrade):
                    self._end(prepared, changes, upgrade, now)
                case ActKind.END if may_end(upgrade):
                    self._end(prepared, changes, upgrade, now)
                case ActKind.RETRY if may_retry(upgrade) and not rest:
                    again = retry(upgrade, at=now, reason=prepared.act.reason)
                    self._give(prepared, changes, changes.keep(again), vehicles, now)
                case _:
                    pass

    @staticmethod
    def _move_cursor(work: Work, prepared: _Slice, changes: _Changes, now: datetime) -> None:
        """Note how far the act is, in the transaction that brought it there."""
        act = prepared.act
        count = act.count + changes.count(act.task_id)
        task = work.ota_tasks.get(act.task_id, lock=True)
        if act.kind is ActKind.RETRY and changes.ordered and task is not None and task.status is TaskStatus.FINISHED:
            work.ota_tasks.save(replace(task, status=TaskStatus.APPROVED, finished_at=None))
        if len(prepared.batch) == SLICE_VEHICLES:
            work.ota_tasks.save_act(replace(act, place_done=prepared.batch[-1].place, count=count))
            return
        work.ota_tasks.delete_act(act.task_id)
        finish_if_done(work, act.task_id, now, by_cancelling=act.kind in {ActKind.APPROVE, ActKind.CANCEL})
        note(
            work,
            who=act.who,
            action=f"ota_task.{act.kind}",
            subject=f"task {act.task_id}",
            outcome="finished",
            now=now,
            detail=f"{count} {'vehicle' if count == 1 else 'vehicles'}" + (f": {act.reason}" if act.reason else ""),
        )

    # -- entering vehicles ---------------------------------------------------------------------------------------------

    def facts_of(self, task_id: int) -> tuple[tuple[str, ...], TaskContent]:
        """What the mail says of the vehicles of a task, and what its code stands for."""
        with self._context.store.reading() as work:
            pairs = pairs_of(work, work.ota_tasks.vehicles(task_id))
            return facts_for_mail(pairs, survey(work, pairs, task_id=task_id)), TaskContent.of(work, task_id)

    def _enter_slice(self, act: TaskAct, listed: Sequence[tuple[str, int]], now: datetime) -> int:
        """Enter the next vehicles of the task's list; with the last of them, mail the code. How many were entered.

        Of a task that was cancelled meanwhile no code is mailed: its vehicles are cancelled from the first on.
        """
        batch = listed[act.place_done : act.place_done + SLICE_VEHICLES]
        place_done = act.place_done + len(batch)
        is_last = place_done == len(listed)
        is_cancelled = act.kind is ActKind.CANCEL
        mail = self._facts_of_list(act, listed) if is_last and not is_cancelled else None
        with self._context.store.transaction() as work:
            if work.ota_tasks.act(act.task_id, lock=True) != act:
                return 0
            # An edited task: what was in it before goes first.
            if not act.place_done and work.ota_tasks.delete_upgrades(act.task_id, SLICE_VEHICLES):
                return 0
            work.ota_tasks.add_unapproved(act.task_id, batch, act.begun_at, first_place=act.place_done + 1)
            if is_last:
                work.ota_tasks.delete_list(act.task_id)
            if mail is not None:
                work.ota_tasks.delete_act(act.task_id)
                self._issue(work, act, *mail, now)
            elif is_cancelled:
                work.ota_tasks.save_act(replace(act, place_done=0 if is_last else place_done))
            else:
                work.ota_tasks.save_act(replace(act, place_done=place_done, count=place_done))
        return 0 if is_cancelled else len(batch)

    def _facts_of_list(self, act: TaskAct, listed: Sequence[tuple[str, int]]) -> tuple[tuple[str, ...], TaskContent]:
        with self._context.store.reading() as work:
            pairs = pairs_of(work, listed)
            facts = facts_for_mail(pairs, survey(work, pairs, task_id=act.task_id))
            code = work.ota_tasks.code(act.task_id)
        encoded = encode_vehicles((vehicle.vin, vehicle.hwid, release.manifest_sha256) for vehicle, release in pairs)
        return facts, TaskContent(code=code, encoded=encoded, vehicle_count=len(pairs))

    def _issue(self, work: Work, act: TaskAct, facts: Sequence[str], content: TaskContent, now: datetime) -> None:
        """Mail the code. A project that was changed meanwhile may leave it nowhere to go: a person requests it again then."""
        task = work.ota_tasks.get(act.task_id, lock=True)
        if task is None or task.status is not TaskStatus.UNAPPROVED:
            return
        try:
            self._codes.issue(work, task, content, now, facts)
        except (ConflictError, InvalidInputError) as refusal:
            note(
                work,
                who=act.who,
                action="ota_task.send_code",
                subject=f"task {act.task_id}",
                outcome=refusal.code,
                now=now,
                detail=str(refusal),
            )

    # -- one vehicle ---------------------------------------------------------------------------------------------------

    def _approve(
        self,
        prepared: _Slice,
        changes: _Changes,
        upgrade: VehicleUpgrade,
        others: Sequence[VehicleUpgrade],
        vehicles: Mapping[str, Vehicle],
        now: datetime,
    ) -> None:
        task = prepared.task
        stronger = [
            other
            for other in others
            if not task.supersedes or (other.task_id > task.id and other.status is not _V.UNAPPROVED)
        ]
        if stronger:
            reason = f"{task_key(stronger[-1].task_id)} has this vehicle"
            changes.upgrades.append(
                changes.keep(step(upgrade, _V.CANCELLED, now=now, source=Source.OPERATOR, reason=reason))
            )
            return
        for other in others:
            if other.task_id < task.id:
                reason = f"superseded by {task_key(task.id)}, which {task.approver} started"
                changes.upgrades.append(
                    changes.keep(step(other, _V.CANCELLED, now=now, source=Source.OPERATOR, reason=reason))
                )
                changes.others.add(other.task_id)
        check = prepared.checks[upgrade.vin]
        upgrade = replace(upgrade, versions_before=versions_of(prepared.nodes[upgrade.vin]))
        upgrade = changes.keep(step(upgrade, _V.APPROVED, now=now, source=Source.OPERATOR))
        if check.already_runs:
            # The signed report that says so was sent for another order; it is a fact about the pack all the same.
            reason = next(remark.text for remark in check.remarks)
            upgrade = changes.keep(step(upgrade, _V.SUCCEEDED, now=now, source=Source.SIGNED, reason=reason))
            changes.upgrades.append(replace(upgrade, versions_after=_versions(check)))
        else:
            self._give(prepared, changes, upgrade, vehicles, now)

    def _give(
        self,
        prepared: _Slice,
        changes: _Changes,
        upgrade: VehicleUpgrade,
        vehicles: Mapping[str, Vehicle],
        now: datetime,
    ) -> None:
        """Put the signed order into an approved vehicle; without one it ends as failed, with the reason."""
        order = prepared.orders[upgrade.vin]
        vehicle = vehicles[upgrade.vin]
        if vehicle.order_sequence != prepared.vehicles[upgrade.vin].order_sequence:
            # Another order was given in the milliseconds since: too rare to begin again, so it is signed here.
            order = self._order(prepared, replace(upgrade, attempt=_attempt_before(prepared, upgrade)), vehicle, now)
        upgrade = replace(upgrade, heard_at=now)
        if isinstance(order, ConflictError):
            changes.upgrades.append(
                changes.keep(step(upgrade, _V.FAILED, now=now, source=Source.OPERATOR, reason=str(order)))
            )
            return
        changes.sequences[upgrade.vin] = order.sequence
        changes.ordered.append(upgrade.vin)
        changes.upgrades.append(order.put_into(upgrade))

    @staticmethod
    def _end(prepared: _Slice, changes: _Changes, upgrade: VehicleUpgrade, now: datetime) -> None:
        reason = prepared.act.reason
        if prepared.act.kind is ActKind.END and upgrade.status is _V.DOWNLOAD_COMPLETE:
            reason = f"{reason} (at {upgrade.status}: the unit may still switch at its next power-on)"
        changes.upgrades.append(
            changes.keep(step(upgrade, _V.CANCELLED, now=now, source=Source.OPERATOR, reason=reason))
        )


def check_idle(work: Work, task_id: int) -> None:
    """Refuse what has to wait for an act of the task.

    Raises:
        ConflictError: something else is being done to the task ("act-under-way").
    """
    current = work.ota_tasks.act(task_id, lock=True)
    if current is not None:
        raise ConflictError(
            "act-under-way",
            f"{task_key(task_id)}: {current.kind} by {current.who} is under way, {current.count} vehicles so far; "
            "try again when it is done",
        )


def _attempt_before(prepared: _Slice, upgrade: VehicleUpgrade) -> int:
    return upgrade.attempt - (1 if prepared.act.kind is ActKind.RETRY else 0)


def _versions(check: VehicleCheck) -> tuple[NodeVersion, ...]:
    return tuple(
        NodeVersion(position=node.position, hwid=node.hwid, version=node.version, is_signed=node.is_signed)
        for node in check.nodes
    )
