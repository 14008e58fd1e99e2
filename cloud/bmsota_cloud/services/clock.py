"""What the clock guard says, and an operator's word that the clock is right (`bmsota_cloud.domain.clock_guard`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.services.audit import acting

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.clock_guard import ClockStatus
    from bmsota_cloud.services.context import Context

__all__ = ["ClockService"]


class ClockService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context

    @property
    def is_waiting(self) -> bool:
        """Whether nothing may be deleted and no deadline may fire now."""
        return self._context.clock_guard.is_waiting

    def status(self, *, by: Account) -> ClockStatus:
        """Whether the platform trusts its clock, and for how long it does not."""
        require(by, Permission.VEHICLE_READ)
        return self._context.clock_guard.status()

    def accept(self, *, by: Account, now: datetime) -> ClockStatus:
        """The clock is right: deadlines and deletions go on at once, by the clock as it is."""
        guard = self._context.clock_guard
        with acting(self._context, who=by.name, action="clock.accept", subject="clock", now=now) as act:
            require(by, Permission.CLOCK_ACCEPT)
            before = guard.status()
            act.detail = (
                f"after a {before.doubt}; the clock is {before.jump_s} s ahead of the platform's time"
                if before.doubt
                else "the platform trusted its clock already"
            )
        guard.accept()
        return guard.status()
