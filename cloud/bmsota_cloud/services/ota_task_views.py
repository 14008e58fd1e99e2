"""What the services show of OTA tasks: values made for the REST API and the pages, never written back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_cloud.domain.ota_tasks import NodeVersion, last_message_at, may_cancel
from bmsota_cloud.services.views import view_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from bmsota_cloud.domain.evidence import Source
    from bmsota_cloud.domain.ota_tasks import (
        ActKind,
        ApprovalCode,
        OrderReport,
        OtaTask,
        TaskAct,
        Transition,
        VehicleStatus,
        VehicleUpgrade,
    )
    from bmsota_cloud.domain.outbox import Mail
    from bmsota_cloud.domain.paging import Page
    from bmsota_cloud.domain.projects import ApprovalWay
    from bmsota_cloud.domain.releases import Release, ReleasedImage
    from bmsota_cloud.domain.vehicle_checks import NodeCheck, Remark, RemarkKind, VehicleCheck

__all__ = [
    "ActView",
    "CodeView",
    "MailView",
    "OrderReportView",
    "TaskDetail",
    "TaskRow",
    "UpgradeView",
    "VehiclePreview",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskRow:
    """A task in the list."""

    task: OtaTask
    counts: Mapping[str, int]
    """Vehicles by status (the status's own words, in the order of a task's life)."""

    @property
    def vehicle_count(self) -> int:
        return sum(self.counts.values())


@dataclass(frozen=True, slots=True, kw_only=True)
class VehiclePreview:
    """One vehicle of a task that is not created yet."""

    vin: str
    release_name: str
    fault: str
    """Why it can't be part of the task; empty if it can."""
    check: VehicleCheck

    @property
    def nodes(self) -> tuple[NodeCheck, ...]:
        return self.check.nodes

    @property
    def remarks(self) -> tuple[Remark, ...]:
        return self.check.remarks


@dataclass(frozen=True, slots=True, kw_only=True)
class OrderReportView:
    """A signed report for one order of a vehicle."""

    order_id: str
    received_at: datetime
    outcome: str
    reason: str
    is_late: bool
    """It came after its order had ended."""

    @classmethod
    def of(cls, report: OrderReport) -> OrderReportView:
        return view_of(cls, report)


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeView:
    """One vehicle of a task."""

    vin: str
    place: int
    order_id: str
    release_name: str
    status: VehicleStatus
    source: Source
    stage: str
    reason: str
    progress_pct: int
    is_online: bool
    sequence: int
    instructed_at: datetime | None
    instruction_count: int
    confirmed_at: datetime | None
    fetched_at: datetime | None
    heard_at: datetime | None
    last_message_at: datetime | None
    """When the unit itself was last heard of in this attempt."""
    ended_by_report: bool
    versions_before: tuple[NodeVersion, ...]
    versions_after: tuple[NodeVersion, ...]
    transitions: tuple[Transition, ...]
    can_be_cancelled: bool
    attempt: int
    images: tuple[ReleasedImage, ...]
    """What the release brings."""
    nodes: tuple[NodeCheck, ...]
    """Before the approval: what runs now, and what comes."""
    remarks: tuple[Remark, ...]
    """Before the approval: what speaks against this upgrade, or for leaving it out."""
    reports: tuple[OrderReportView, ...]
    """Every signed report for an order of this vehicle in this task, oldest first."""
    may_end: bool
    """Whether the asking account can end it by force."""
    may_retry: bool
    """Whether the asking account can have another attempt at it."""

    @classmethod
    def of(
        cls,
        upgrade: VehicleUpgrade,
        transitions: tuple[Transition, ...],
        release: Release,
        reports: tuple[OrderReportView, ...],
        check: VehicleCheck,
        *,
        is_online: bool,
        may_end: bool,
        may_retry: bool,
    ) -> UpgradeView:
        return view_of(
            cls,
            upgrade,
            release_name=release.name,
            images=release.images,
            is_online=is_online,
            last_message_at=last_message_at(upgrade, transitions),
            transitions=transitions,
            can_be_cancelled=may_cancel(upgrade),
            nodes=check.nodes,
            remarks=check.remarks,
            reports=reports,
            may_end=may_end,
            may_retry=may_retry,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class MailView:
    """What became of a mail: never its body, which may hold a code."""

    recipient: str
    created_at: datetime
    sent_at: datetime | None
    tries: int
    given_up: bool
    error: str

    @classmethod
    def of(cls, mail: Mail) -> MailView:
        return view_of(cls, mail)


@dataclass(frozen=True, slots=True, kw_only=True)
class CodeView:
    """The state of the approval code, without the code."""

    issued_at: datetime
    expires_at: datetime
    tries_left: int
    is_void: bool

    @classmethod
    def of(cls, code: ApprovalCode, tries_max: int) -> CodeView:
        return view_of(cls, code, tries_left=max(0, tries_max - code.tries))


@dataclass(frozen=True, slots=True, kw_only=True)
class ActView:
    """What is being done to the vehicles of a task at this moment."""

    kind: ActKind
    who: str
    begun_at: datetime
    count: int
    """Vehicles it has changed so far."""

    @classmethod
    def of(cls, act: TaskAct) -> ActView:
        return view_of(cls, act)


@dataclass(frozen=True, slots=True, kw_only=True)
class TaskDetail:
    """A task with one page of its vehicles."""

    task: OtaTask
    approval: ApprovalWay
    """How it was approved, or is to be."""
    counts: Mapping[str, int]
    remarks: Mapping[RemarkKind, int]
    """Before the approval: how many vehicles have a remark of each kind."""
    upgrades: Page[UpgradeView]
    code: CodeView | None
    act: ActView | None
    mails: tuple[MailView, ...]
    """Newest first."""
    may_approve: bool
    """Whether the asking account may enter the code."""
    may_cancel: bool
    may_force: bool
    """Whether the asking account may end and retry vehicles."""
