"""What a task that is being planned would do to each vehicle, in one word.

The remarks of `check_vehicle` are many; a person who chooses vehicles wants one outcome for each. Some leave a vehicle out always,
some unless the planner asks for them, the others are what the task is for.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

from bmsota_cloud.domain.vehicle_checks import RemarkKind

if TYPE_CHECKING:
    from bmsota_cloud.domain.vehicle_checks import VehicleCheck

__all__ = ["Exclusion", "PlanChoices", "PlanOutcome", "objections_of"]


class PlanOutcome(StrEnum):
    """What becomes of one vehicle, in the order in which a preview counts them."""

    UPGRADE = "Will be upgraded"
    WAITS = "Offline, will wait"
    """Upgraded at its next login."""
    DOWNGRADE = "Downgrade"
    ALREADY = "Already there"
    """By its signed report; in a task it counts as succeeded."""
    BUSY = "Busy in another task"
    WRONG_CLASS = "Wrong hardware class"
    NO_RELEASE = "No release for its series"
    NO_OTA = "No OTA"
    """A plain terminal, without a device key."""
    UNKNOWN = "Not in this project"
    """Also: not registered, or not for this account."""


_OBJECTIONS = (
    (RemarkKind.NO_KEY, PlanOutcome.NO_OTA),
    (RemarkKind.WRONG_CLASS, PlanOutcome.WRONG_CLASS),
    (RemarkKind.BUSY, PlanOutcome.BUSY),
    (RemarkKind.ALREADY_RUNS, PlanOutcome.ALREADY),
    (RemarkKind.DOWNGRADE, PlanOutcome.DOWNGRADE),
)
"""The gravest first."""


@dataclass(frozen=True, slots=True)
class Exclusion:
    """Why a vehicle can't be part of a task, whatever it runs."""

    outcome: PlanOutcome
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanChoices:
    """Which vehicles a person wants in the task although they are left out otherwise."""

    downgrades: bool = False
    already_there: bool = False
    supersede: bool = False
    """Take vehicles over from other tasks."""

    def takes(self, outcome: PlanOutcome) -> bool:
        """Whether a vehicle with this outcome goes into the task."""
        match outcome:
            case PlanOutcome.UPGRADE | PlanOutcome.WAITS:
                return True
            case PlanOutcome.DOWNGRADE:
                return self.downgrades
            case PlanOutcome.ALREADY:
                return self.already_there
            case PlanOutcome.BUSY:
                return self.supersede
            case _:
                return False


def objections_of(check: VehicleCheck) -> tuple[PlanOutcome, ...]:
    """What speaks against taking a vehicle that has a release, the gravest first; empty if nothing does."""
    kinds = {remark.kind for remark in check.remarks}
    return tuple(outcome for kind, outcome in _OBJECTIONS if kind in kinds)
