"""What stands between a unit and the platform at the device API: a challenge, then a session."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["Challenge", "DeviceSession"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Challenge:
    """Bytes a unit has to sign, made by `bmsota_cloud.services.device` and kept nowhere. Works once and not for long."""

    hwid: str
    challenge: bytes
    expires_at: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSession:
    """A unit that has proved its key. The token itself is not kept."""

    token_sha256: bytes
    vin: str
    hwid: str
    issued_at: datetime
    expires_at: datetime
