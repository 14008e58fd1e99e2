"""Who may log in as another platform (GB/T 32960.3, chapter 5), and how often it may be tried.

Limited as the logins of people are (`bmsota_cloud.services.limits`): a stranger cannot guess on, and cannot keep the platform itself
out, because addresses that it has logged in from before are counted by themselves alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_cloud.domain.limits import in_words
from bmsota_cloud.services.limits import PLATFORM_LOGINS, address_digest, login_tries

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota_cloud.domain.platform_peers import PlatformPeer
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.services.limits import RateLimits

__all__ = ["PlatformLoginService", "PlatformLoginVerdict"]

# As many as of an account: a platform has a few.
_ADDRESSES_MAX = 20


@dataclass(frozen=True, slots=True)
class PlatformLoginVerdict:
    """What became of a login."""

    is_accepted: bool
    wait_s: int = 0
    """Above 0: it was tried too often, and the password was not looked at; a try is possible again in so many seconds."""

    @property
    def detail(self) -> str:
        """For the record of the refusal."""
        if not self.wait_s:
            return ""
        return f"too many wrong logins, the password was not looked at; the next try is possible in {in_words(self.wait_s)}"


class PlatformLoginService:
    """Called from the gateway's worker."""

    def __init__(self, context: Context, limits: RateLimits) -> None:
        self._context = context
        self._limits = limits

    def log_in(
        self, code: str, peer: PlatformPeer | None, *, user: str, password: str, address: str, now: datetime
    ) -> PlatformLoginVerdict:
        """Judge a login as *code*; *peer* is the entry of that code, if there is one.

        Raises:
            StorageUnavailableError: not now; nothing was counted.
        """
        digest = address_digest(address)
        with self._context.store.reading() as work:
            is_known = work.limits.knows_platform_address(code, digest)
        limits = self._limits
        tries = login_tries(limits, name=code, address=address, is_known=is_known, now=now, kinds=PLATFORM_LOGINS)
        # Counted before it is judged: many at once get no further than one after the other.
        if (full := limits.take(tries, now)) is not None:
            self._context.counters.add("platform_login_limited")
            return PlatformLoginVerdict(is_accepted=False, wait_s=limits.wait_s(full, now))
        is_counted = False
        try:
            is_accepted = peer is not None and peer.is_proved_by(user, password)
            with self._context.store.transaction() as work:
                if is_accepted:
                    limits.forget(tries[0], work)
                    work.limits.save_platform_address(code, digest, now, keep=_ADDRESSES_MAX)
                else:
                    limits.keep(tries, work, now)
                    is_counted = True
        finally:
            if not is_counted:
                limits.give_back(tries, now)
        return PlatformLoginVerdict(is_accepted=is_accepted)
