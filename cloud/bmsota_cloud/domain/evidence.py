"""Who said it: the sources of what the platform knows of a vehicle.

A link of GB/T 32960 has no key: whoever knows a VIN can log in with it. So what comes over it without a signature is kept
and shown as reported, and confirmed by the unit's signature or by nothing.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Source"]


class Source(StrEnum):
    """Where a statement about a vehicle comes from."""

    UNSIGNED = "unsigned"
    """A frame of the cloud link (UpgradeState, UnitIdentity, LocalUpgrades)."""
    DEVICE_API = "device API"
    """A request with a session that the unit's key has opened."""
    SIGNED = "signed"
    """A document with the unit's signature (post-boot report, identity report)."""
    OPERATOR = "operator"
    """A person with an account, by page or REST."""
    PLATFORM = "platform"
    """The platform itself: its instruction was sent, its time limit is over."""
