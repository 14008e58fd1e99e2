"""The upgrade order: what one vehicle is to do, signed by the platform's order key, which is online.

The order answers "is this meant for me, now, and approved"; it says nothing about whether the software is genuine (see
`manifest`, whose digest it names). Stealing one of the two keys is therefore not enough to install software. Layout:
docs/trust.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bmsota.ota import _document
from bmsota.ota._fields import malformed_as_trust_error, take_fields
from bmsota.ota._rules import (
    DIGEST_SIZE_BYTES,
    expect_hwid,
    expect_integer,
    expect_name,
    expect_octets,
    expect_text,
    expect_vin,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


# All fields at their longest make about 900 bytes.
ORDER_SIZE_BYTES_MAX: Final = 2048

# The order key is online and can be stolen; an order must not outlive the discovery of that by long. A vehicle that
# was away longer is given a fresh order.
ORDER_LIFETIME_S_MAX: Final = 90 * 24 * 3600


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeOrder:
    """One vehicle's order to install one release."""

    order_id: str
    task_id: str
    """The OTA task it belongs to."""
    vin: str
    hwid: str
    """Of the master. A master moved into another vehicle does not obey the old vehicle's orders."""
    sequence: int
    """Rises with every order for this vehicle; a device takes no number twice."""
    issued_s: int
    """Seconds since the Unix epoch, UTC. A device also learns from it that it is at least this late."""
    expires_s: int
    """From this second on the order is not begun."""
    manifest_sha256: bytes
    """Of the whole signed manifest: exactly this release."""
    software_version: str
    """As in the manifest; the operator approved this text."""
    approver: str
    """The account that approved the task."""
    approved_s: int

    def __post_init__(self) -> None:
        expect_name("order_id", self.order_id)
        expect_name("task_id", self.task_id)
        expect_vin("vin", self.vin)
        expect_hwid("hwid", self.hwid)
        expect_integer("sequence", self.sequence, minimum=1)
        expect_integer("issued_s", self.issued_s)
        expect_integer(
            "expires_s", self.expires_s, minimum=self.issued_s + 1, maximum=self.issued_s + ORDER_LIFETIME_S_MAX
        )
        expect_octets("manifest_sha256", self.manifest_sha256, size_bytes=DIGEST_SIZE_BYTES)
        expect_text("software_version", self.software_version, length_min=1, length_max=64)
        expect_text("approver", self.approver, length_min=1, length_max=64)
        # Approved first, ordered then.
        expect_integer("approved_s", self.approved_s, maximum=self.issued_s)


_NAMES: Final = (
    "order_id",
    "task_id",
    "vin",
    "hwid",
    "sequence",
    "issued_s",
    "expires_s",
    "manifest_sha256",
    "software_version",
    "approver",
    "approved_s",
)


def sign_order(order: UpgradeOrder, key: Ed25519PrivateKey) -> bytes:
    """Encode and sign with the order key. The same order gives the same bytes."""
    return _document.sign({name: getattr(order, name) for name in _NAMES}, content_type=_document.ORDER, key=key)


def verify_order(data: bytes, public_keys: Iterable[Ed25519PublicKey]) -> UpgradeOrder:
    """Check signature and form. Whether it is for this vehicle, fresh and new is the device's to judge, see `trusted`.

    Raises:
        TrustError: `endless-data`, `malformed-document`, `wrong-document`, `arbitrary-software` or `newer-document`.
    """
    value = _document.verify(data, content_type=_document.ORDER, keys=public_keys, size_bytes_max=ORDER_SIZE_BYTES_MAX)
    fields = dict(zip(_NAMES, take_fields(value, _NAMES, "order"), strict=True))
    with malformed_as_trust_error("order"):
        return UpgradeOrder(**fields)
