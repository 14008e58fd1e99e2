"""The receipt: the platform's signed answer to one signed document of a unit, under the order key.

On the cloud link the platform answers a report with a flag, which anyone in between can set. A flag may therefore end the
waiting, because nothing is lost by it (the outcome stays in the unit's records, and is reported again when the platform still
offers the order); but that a report is *refused* ends nothing. The unit then delivers the report over the device API, and the
answer is this document. It holds the digest of the unit's document, so it answers that one and no other. Layout:
docs/trust.md.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bmsota.ota import _document
from bmsota.ota._fields import malformed_as_trust_error, take_fields
from bmsota.ota._rules import DIGEST_SIZE_BYTES, expect_hwid, expect_integer, expect_octets, expect_text, expect_vin

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


RECEIPT_SIZE_BYTES_MAX: Final = 2048

REASON_LENGTH_MAX: Final = 64
DETAIL_LENGTH_MAX: Final = 256


@dataclass(frozen=True, slots=True, kw_only=True)
class DocumentReceipt:
    """What became of one document at the platform."""

    vin: str
    hwid: str
    """Of the master."""
    document_sha256: bytes
    reason: str
    """Why it was refused, one word: the name of an attack, or "unknown-order". Empty: it was taken."""
    detail: str
    """The same for people."""
    counter: int
    """The highest counter that the platform has taken from this unit, for documents of that kind."""
    time_s: int
    """By the platform's clock, seconds since the Unix epoch, UTC."""

    def __post_init__(self) -> None:
        expect_vin("vin", self.vin)
        expect_hwid("hwid", self.hwid)
        expect_octets("document_sha256", self.document_sha256, size_bytes=DIGEST_SIZE_BYTES)
        expect_text("reason", self.reason, length_max=REASON_LENGTH_MAX)
        expect_text("detail", self.detail, length_max=DETAIL_LENGTH_MAX)
        expect_integer("counter", self.counter)
        expect_integer("time_s", self.time_s)


_NAMES: Final = ("vin", "hwid", "document_sha256", "reason", "detail", "counter", "time_s")


def sign_receipt(receipt: DocumentReceipt, key: Ed25519PrivateKey) -> bytes:
    """Encode and sign with the order key."""
    return _document.sign({name: getattr(receipt, name) for name in _NAMES}, content_type=_document.RECEIPT, key=key)


def verify_receipt(data: bytes, public_keys: Iterable[Ed25519PublicKey]) -> DocumentReceipt:
    """Check signature and form. Whether it answers the unit's own document: `DeviceTrust.check_receipt`.

    Raises:
        TrustError: `endless-data`, `malformed-document`, `wrong-document`, `arbitrary-software` or `newer-document`.
    """
    value = _document.verify(
        data, content_type=_document.RECEIPT, keys=public_keys, size_bytes_max=RECEIPT_SIZE_BYTES_MAX
    )
    fields = dict(zip(_NAMES, take_fields(value, _NAMES, "receipt"), strict=True))
    with malformed_as_trust_error("receipt"):
        return DocumentReceipt(**fields)
