"""The upgrade history of a vehicle: what the platform ordered, and what was flashed locally over CAN without it.

An OTA entry is one vehicle in one task, with all its nodes. A CAN entry is one node: the unit reports each separately,
and each has an outcome of its own. Both have one of the platform's statuses.

What a unit reports of a local upgrade is unsigned until its identity report, which is signed, names the same upgrade; nothing
is decided by it before. The same content with the same time is the same upgrade: a unit repeats what was not acknowledged.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota_cloud.domain.ota_tasks import VehicleStatus, VehicleUpgrade

__all__ = ["HistoryEntry", "LocalUpgradeRow", "NodeStep", "UpgradeSource"]


class UpgradeSource(StrEnum):
    """Who upgraded."""

    OTA = "OTA"
    """A task of this platform."""
    CAN = "CAN"
    """A technician, over the vehicle's bus."""


@dataclass(frozen=True, slots=True, kw_only=True)
class LocalUpgradeRow:
    """One node that was upgraded over CAN, as its unit reported it."""

    id: int = 0
    vin: str
    upgraded_at: datetime
    """When the unit noticed it, by the unit's clock."""
    reported_at: datetime
    """When the platform received it first."""
    position: int
    hwid: str
    version_before: str
    """Empty if there was no valid image."""
    version_after: str
    """What the node runs since then; empty if it has no valid image."""
    status: VehicleStatus
    """Upgrade succeeded, Upgrade failed or Rolled back."""
    tool: str
    """The name the tool gives itself; empty if unknown."""
    detail: str
    """Why it did not succeed."""
    confirmed_at: datetime | None = None
    """When a signed document named it too; None before."""
    image_before: str = ""
    """SHA-256 of the image, hexadecimal; empty if it is not known. Only a signed document says it."""
    image_after: str = ""
    """Likewise. Another build of a version shows in these two alone."""

    @property
    def at(self) -> datetime:
        """When it was, as far as that can be: a clock that is ahead of ours is wrong."""
        return min(self.upgraded_at, self.reported_at)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeStep:
    """One node before and after."""

    position: int
    hwid: str
    version_before: str
    """Empty if not known, or there was no valid image."""
    version_after: str
    """Empty if not reported (yet), or there is no valid image."""
    image_before: str = ""
    """SHA-256 of the image, hexadecimal; empty if it is not known."""
    image_after: str = ""

    @property
    def is_other_build(self) -> bool:
        """Whether the version is the same and the image is not."""
        return (
            self.version_before == self.version_after
            and "" not in {self.image_before, self.image_after}
            and (self.image_before != self.image_after)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class HistoryEntry:
    """One line of the history."""

    source: UpgradeSource
    at: datetime
    """OTA: when it came into its status. CAN: when the node was upgraded."""
    status: VehicleStatus
    reason: str
    """Why it did not succeed."""
    nodes: tuple[NodeStep, ...]
    """OTA: by position, empty before the unit has reported its nodes. CAN: one."""
    task_id: int | None = None
    """Of an OTA task."""
    software_version: str = ""
    """What that task installs."""
    tool: str = ""
    """The name the tool gives itself; empty if unknown."""
    reported_at: datetime | None = None
    """CAN: when the platform received it first."""
    is_confirmed: bool = False
    """Whether the unit's signature says so: in its post-boot report, or its identity report."""

    @classmethod
    def of_task(cls, upgrade: VehicleUpgrade, *, software_version: str, at: datetime) -> HistoryEntry:
        """One vehicle of a task. Before is known from the approval on, after from the signed report."""
        before = {node.position: node for node in upgrade.versions_before}
        after = {node.position: node for node in upgrade.versions_after}
        return cls(
            source=UpgradeSource.OTA,
            at=at,
            status=upgrade.status,
            reason=upgrade.reason,
            nodes=tuple(
                NodeStep(
                    position=position,
                    hwid=(after.get(position) or before[position]).hwid,
                    version_before=before[position].version if position in before else "",
                    version_after=after[position].version if position in after else "",
                    image_before=before[position].image_sha256 if position in before else "",
                    image_after=after[position].image_sha256 if position in after else "",
                )
                for position in sorted(before.keys() | after.keys())
            ),
            task_id=upgrade.task_id,
            software_version=software_version,
            is_confirmed=upgrade.ended_by_report,
        )

    @classmethod
    def of_local(cls, upgrade: LocalUpgradeRow) -> HistoryEntry:
        """One node that was upgraded over CAN."""
        step = NodeStep(
            position=upgrade.position,
            hwid=upgrade.hwid,
            version_before=upgrade.version_before,
            version_after=upgrade.version_after,
            image_before=upgrade.image_before,
            image_after=upgrade.image_after,
        )
        return cls(
            source=UpgradeSource.CAN,
            at=upgrade.at,
            status=upgrade.status,
            reason=upgrade.detail,
            nodes=(step,),
            tool=upgrade.tool,
            reported_at=upgrade.reported_at,
            is_confirmed=upgrade.confirmed_at is not None,
        )
