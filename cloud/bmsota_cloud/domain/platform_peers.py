"""Other platforms that may log in here and send for many vehicles on one link (GB/T 32960.3, chapter 5)."""

from __future__ import annotations

import hmac
from dataclasses import dataclass

__all__ = ["PlatformPeer"]


@dataclass(frozen=True, slots=True, kw_only=True, repr=False)
class PlatformPeer:
    """A platform that is known here, and for which vehicles it may speak."""

    code: str
    """Its unique code, which stands in the place of a VIN in its login (17 characters)."""
    user: str
    password: str
    projects: frozenset[str] = frozenset()
    """It may send for every vehicle of these."""
    vins: frozenset[str] = frozenset()
    """And for these."""

    def is_proved_by(self, user: str, password: str) -> bool:
        """Whether a login has the right user name and password. Takes as long for a wrong one, wherever it differs."""
        is_user = hmac.compare_digest(user.encode(), self.user.encode())
        is_password = hmac.compare_digest(password.encode(), self.password.encode())
        return is_user and is_password

    def may_send_for(self, vin: str, project: str) -> bool:
        """Whether a vehicle, registered in *project*, is one of its."""
        return vin in self.vins or project in self.projects
