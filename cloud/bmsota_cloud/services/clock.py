"""What the clock guard says, and an operator's word that the clock is right (`bmsota_cloud.domain.clock_guard`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.clock_guard import JUMP_S
from bmsota_cloud.services.audit import acting, note
from bmsota_cloud.services.outbox import MAIL_CLAIM_S, MAIL_RETRY_S_MAX
from bmsota_cloud.services.presence import LEASE_S
from bmsota_cloud.services.values import utc_of_ns
from bmsota_cloud.storage.base import TimesAllowed

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.clock_guard import ClockStatus, ClockStep
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.limits import RateLimits

__all__ = ["ClockService"]


class ClockService:
    """One method per use case."""

    def __init__(self, context: Context, limits: RateLimits) -> None:
        self._context = context
        self._limits = limits

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

    def mend(self, now: datetime, steps: Sequence[ClockStep] = ()) -> Mapping[str, int]:
        """Put right what a wrong clock has written into stored times: deadlines, sessions, codes, mails, counters of tries; how many of what.

        Call it while the clock is trusted: before the first deadlines, with the *steps* that the platform's time has made since, and
        every now and then for what other processes have left.
        """
        settings = self._context.settings
        allowed = TimesAllowed(
            ahead_s=JUMP_S,
            login_session_s=settings.session_valid_s,
            device_session_s=settings.device_session_valid_s,
            code_s=settings.approval_code_valid_s,
            mail_retry_s=MAIL_RETRY_S_MAX,
            mail_claim_s=MAIL_CLAIM_S,
            lease_s=LEASE_S,
        )
        doubted = [(utc_of_ns(step.since_ns), utc_of_ns(step.until_ns)) for step in steps]
        self._limits.mend(now)
        with self._context.store.transaction() as work:
            mended = work.times.mend(now, doubted, allowed)
            if mended:
                detail = "written by a wrong clock: " + ", ".join(f"{count} {what}" for what, count in mended.items())
                note(work, who="platform", action="clock.mend", subject="clock", outcome="done", now=now, detail=detail)
        return mended
