"""Who is connected: a vehicle's link, and the lease of the gateway that has it.

A vehicle is online as long as its newest link is open *and* the gateway of that link lives. A gateway that dies says nothing, so
it does not hold a flag but a lease, which it renews every few seconds; when the lease ends, its vehicles are offline, and no other
process has to write anything for that.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["GatewayLease", "LeaseCheck", "Presence", "VehicleConnection"]


@dataclass(frozen=True, slots=True, kw_only=True)
class GatewayLease:
    """A gateway process."""

    id: str
    """Unique for every start of a process; a name for people in front."""
    started_at: datetime
    lease_until: datetime


@dataclass(frozen=True, slots=True, kw_only=True)
class Presence:
    """The newest link of a vehicle, open or not; one row a vehicle."""

    vin: str
    gateway_id: str
    link_id: int
    """Counts the logins at that gateway: what an older link says about its end is not about this one."""
    since: datetime
    """When the vehicle logged in on this link."""
    login_serial: int
    left_at: datetime | None = None
    """When the link ended; None while it is open."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleConnection:
    """What others want to know of a vehicle's presence."""

    is_online: bool = False
    since: datetime | None = None
    """The login of the newest link; None if the vehicle never had one."""
    left_at: datetime | None = None
    login_serial: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class LeaseCheck:
    """From where leases are judged."""

    gateway_id: str
    """This process: its own lease is not judged, it lives."""
    now: datetime
    """Leases of others that end before are over."""
