"""What was exchanged in a vehicle."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["EquipmentChange"]


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
