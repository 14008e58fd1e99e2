"""What the services show of OTA tasks: values made for the REST API and the pages, never written back."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_cloud.domain.ota_tasks import NodeVersion, may_cancel
from bmsota_cloud.services.views import view_of

if TYPE_CHECKING:
    from collections.abc import Mapping
    from datetime import datetime

    from bmsota_cloud.domain.evidence import Source
    from bmsota_cloud.domain.ota_tasks import ApprovalCode, OtaTask, Transition, VehicleStatus, VehicleUpgrade
    from bmsota_cloud.domain.outbox import Mail
    from bmsota_cloud.domain.paging import Page
    from bmsota_cloud.domain.releases import Release

__all__ = ["CodeView", "MailView", "TaskDetail", "TaskRow", "UpgradeView"]


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
    ended_by_report: bool
    versions_before: tuple[NodeVersion, ...]
    versions_after: tuple[NodeVersion, ...]
    transitions: tuple[Transition, ...]
    can_be_cancelled: bool

    @classmethod
    def of(
        cls, upgrade: VehicleUpgrade, transitions: tuple[Transition, ...], release: Release | None, *, is_online: bool
    ) -> UpgradeView:
        return view_of(
            cls,
            upgrade,
            release_name="" if release is None else release.name,
            is_online=is_online,
            transitions=transitions,
            can_be_cancelled=may_cancel(upgrade),
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
class TaskDetail:
    """A task with one page of its vehicles."""

    task: OtaTask
    counts: Mapping[str, int]
    upgrades: Page[UpgradeView]
    code: CodeView | None
    mails: tuple[MailView, ...]
    """Newest first."""
    may_approve: bool
    """Whether the asking account is the one whose code is waited for."""
    may_cancel: bool
