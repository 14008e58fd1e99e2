"""What was exchanged in a vehicle."""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["ChangeStatus", "EquipmentChange"]


class ChangeStatus(StrEnum):
    """How sure an equipment change is."""

    REPORTED = "reported, not confirmed"
    """Only the unit's identity frame says so, which is not signed."""
    CONFIRMED = "confirmed"
    """A document with the unit's signature says so."""
    REFUTED = "contradicted by the unit's signature"
    """Reported, but a signed document names the hardware that was there before."""
    EARLIER = "recorded before confirmation was required"
    """By an earlier version of the platform."""


@dataclass(frozen=True, slots=True, kw_only=True)
class EquipmentChange:
    """Another piece of hardware answers at a position: a slave (or the master) was replaced."""

    id: int = 0
    vin: str
    position: int
    old_hwid: str
    """Empty if the position was not there before."""
    new_hwid: str
    changed_at: datetime
    """When it was first reported."""
    status: ChangeStatus
    decided_at: datetime | None = None
    """When it was confirmed or refuted."""
