"""The transitions that several use cases share: a vehicle's next status, its signed order, the news for open pages."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import timedelta
from typing import TYPE_CHECKING

from bmsota.ota import UpgradeOrder, sign_order
from bmsota_cloud.domain.errors import ConflictError
from bmsota_cloud.domain.evidence import Source
from bmsota_cloud.domain.ota_tasks import OPEN_STATUSES, TaskStatus, VehicleStatus, advance, task_key

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota_cloud.domain.ota_tasks import OtaTask, Transition, VehicleUpgrade
    from bmsota_cloud.domain.releases import Release
    from bmsota_cloud.domain.vehicles import Vehicle
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.storage.base import Work

__all__ = [
    "STATUSES_OF",
    "SignedOrder",
    "finish_if_done",
    "move",
    "publish_task",
    "publish_upgrade",
    "sign_next_order",
    "step",
]

_V = VehicleStatus

STATUSES_OF: dict[Source, frozenset[VehicleStatus]] = {
    # No end, and nothing that takes a right from an operator: whether a vehicle can still be cancelled in
    # "Download Complete" depends on what the device API has served (`may_cancel`).
    Source.UNSIGNED: frozenset({_V.TO_BE_DOWNLOADED, _V.DOWNLOADING, _V.DOWNLOAD_COMPLETE}),
    Source.DEVICE_API: frozenset({_V.TO_BE_DOWNLOADED, _V.DOWNLOADING, _V.REJECTED}),
    Source.SIGNED: frozenset({_V.SUCCEEDED, _V.ROLLED_BACK, _V.FAILED, _V.REJECTED}),
    Source.OPERATOR: frozenset({_V.UNAPPROVED, _V.APPROVED, _V.CANCELLED, _V.FAILED}),
    Source.PLATFORM: frozenset({_V.TO_BE_DOWNLOADED, _V.TIMED_OUT}),
}
"""Which statuses each source may set (design decision 18): an unsigned word moves a word, never an end."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SignedOrder:
    """The next order of a vehicle, not yet given."""

    sequence: int
    expires_at: datetime
    document: bytes

    def put_into(self, upgrade: VehicleUpgrade) -> VehicleUpgrade:
        return replace(upgrade, sequence=self.sequence, order_expires_at=self.expires_at, order_document=self.document)


def step(
    upgrade: VehicleUpgrade, status: VehicleStatus, *, now: datetime, source: Source, reason: str = ""
) -> tuple[VehicleUpgrade, Transition]:
    """`advance`, if *source* may set *status*. For those who write many at once; the others call `move`.

    Raises:
        ConflictError: the step is not allowed, or *source* is not enough for it.
    """
    if status not in STATUSES_OF[source]:
        raise ConflictError("not-enough", f"{upgrade.order_id} ({upgrade.vin}): {source} cannot set {status!s}")
    return advance(upgrade, status, at=now, reason=reason, by_report=source is Source.SIGNED, source=source)


def move(
    work: Work,
    upgrade: VehicleUpgrade,
    status: VehicleStatus,
    *,
    now: datetime,
    reason: str = "",
    source: Source = Source.OPERATOR,
) -> VehicleUpgrade:
    """Bring *upgrade* into *status*, keep the transition, and finish the task if it was the last.

    Raises:
        ConflictError: as `step`; nothing is changed.
    """
    moved, transition = step(upgrade, status, now=now, source=source, reason=reason)
    work.ota_tasks.save_upgrade(moved)
    work.ota_tasks.add_transition(transition)
    if status not in OPEN_STATUSES:
        finish_if_done(work, upgrade.task_id, now)
    return moved


def finish_if_done(work: Work, task_id: int, now: datetime, *, by_cancelling: bool = False) -> None:
    """Finish an approved task whose vehicles have all come to an end.

    *by_cancelling*: what was done last is that the task was cancelled, or taken over. With no other end it is then Cancelled.
    """
    open_words = {str(status) for status in OPEN_STATUSES}
    counts = work.ota_tasks.counts([task_id])[task_id]
    if any(word in open_words for word in counts):
        return
    task = work.ota_tasks.get(task_id, lock=True)
    if task is None or task.approved_at is None:
        return
    is_cancelled = set(counts) == {str(VehicleStatus.CANCELLED)}
    if task.status is TaskStatus.APPROVED:
        status = TaskStatus.CANCELLED if is_cancelled and by_cancelling else TaskStatus.FINISHED
        work.ota_tasks.save(replace(task, status=status, finished_at=now))
    elif task.status is TaskStatus.CANCELLED and not is_cancelled:
        # A signed report has told that a vehicle was upgraded all the same.
        work.ota_tasks.save(replace(task, status=TaskStatus.FINISHED))


def sign_next_order(
    context: Context, *, task: OtaTask, upgrade: VehicleUpgrade, vehicle: Vehicle, release: Release, now: datetime
) -> SignedOrder:
    """Sign an order with the vehicle's next sequence. Nothing is read or written: it needs no transaction.

    The order's identity stays the same when it is given again: for the unit only the sequence makes it new.

    Raises:
        ConflictError: the task is not approved, or the release has expired.
    """
    if task.approved_at is None:
        raise ConflictError("not-approved", f"{task_key(task.id)} is not approved")
    sequence = vehicle.order_sequence + 1
    expires_at = min(now + timedelta(seconds=context.settings.order_valid_s), release.expires_at)
    if expires_at <= now:
        raise ConflictError("release-expired", f"release {release.name} has expired")
    document = sign_order(
        UpgradeOrder(
            order_id=upgrade.order_id,
            task_id=task_key(task.id),
            vin=vehicle.vin,
            hwid=vehicle.hwid,
            sequence=sequence,
            issued_s=int(now.timestamp()),
            # At least one second: an order that is expired when it is issued can't be made.
            expires_s=max(int(expires_at.timestamp()), int(now.timestamp()) + 1),
            manifest_sha256=bytes.fromhex(release.manifest_sha256),
            software_version=task.software_version,
            approver=task.approver,
            approved_s=min(int(task.approved_at.timestamp()), int(now.timestamp())),
        ),
        context.keys.order_signing_key,
    )
    return SignedOrder(sequence=sequence, expires_at=expires_at, document=document)


def publish_upgrade(context: Context, upgrade: VehicleUpgrade, now: datetime) -> None:
    """Send one vehicle's status to the open pages of its task. Call it after the commit."""
    context.live.publish(
        f"task:{upgrade.task_id}",
        {
            "kind": "upgrade",
            "vin": upgrade.vin,
            "status": str(upgrade.status),
            "stage": upgrade.stage,
            "reason": upgrade.reason,
            "progress_pct": upgrade.progress_pct,
            "source": str(upgrade.source),
            "at": now.isoformat(),
        },
    )


def publish_task(context: Context, task_id: int) -> None:
    """Tell the open pages of a task that it has changed as a whole. Call it after the commit."""
    context.live.publish(f"task:{task_id}", {"kind": "task"})
