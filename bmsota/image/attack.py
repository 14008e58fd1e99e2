"""The attacks the library tells apart, by the names a `TrustError` carries in `.attack`.

The names are words of the protocol: they travel to the cloud in the reason of a rejected upgrade. docs/trust.md says
for each what the device saw and which check found it. The list follows Uptane's attack list (deployment considerations)
as far as one master with slaves behind it can meet it.
"""

from __future__ import annotations

from enum import StrEnum

__all__ = ["Attack"]


class Attack(StrEnum):
    """What a refused document or image looks like."""

    ARBITRARY_SOFTWARE = "arbitrary-software"
    """No valid signature of a key we know."""
    CORRUPTED_DATA = "corrupted-data"
    """The bytes do not have the digest that was signed."""
    ENDLESS_DATA = "endless-data"
    """More bytes than the signed size, or than any such document may have."""
    FAST_FORWARD = "fast-forward"
    """A sequence or an issue time so far ahead that, once believed, no honest document would be new again."""
    FREEZE = "freeze"
    """Expired: an attacker may be replaying an old document."""
    MALFORMED_DOCUMENT = "malformed-document"
    """Not one of these documents, or not in their canonical encoding."""
    MIXED_BUNDLE = "mixed-bundle"
    """Parts that are genuine but were never released together."""
    NEWER_DOCUMENT = "newer-document"
    """A document of a later layout, or with a critical field that this version does not know."""
    REPLAY = "replay"
    """An order, or a report, that was used before."""
    ROLLBACK = "rollback"
    """A security counter below the one this node has confirmed."""
    WRONG_DOCUMENT = "wrong-document"
    """A genuine document of another kind, such as a manifest in the place of an order."""
    WRONG_HARDWARE = "wrong-hardware"
    """Made for another hardware class, role or hardware id."""
    WRONG_VEHICLE = "wrong-vehicle"
    """An order for another vehicle."""
