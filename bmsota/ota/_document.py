"""Signed documents: COSE_Sign1 (RFC 9052, section 4.2) with Ed25519 around a plain CBOR map.

A document is ``18([protected, {}, payload, signature])``. The protected header holds exactly the algorithm (1: -8), the
content type (3: one text per kind of document) and the key id (4: the first 8 bytes of the key's SHA-256). The
unprotected header is empty, so nothing in a document stands outside the signature.

The content type is what keeps an order from being taken for a manifest when both are signed by one key by mistake. It is
compared before the signature is looked at, and it is under the signature.

Left out on purpose: other algorithms, several signers, detached payloads, certificates. A device that cannot read them
cannot be led astray by them.

Strategy: envelope, header and payload are bounded and checked to the byte (see `_cbor`); what is signed is the Sig_structure
of RFC 9052, section 4.4, four items that are put together here. The payload is decoded only after the signature. Whatever is
wrong, `TrustError` comes out.

Documents of another version (docs/trust.md): a payload may say its `layout`, a number; without it the layout is 0. It rises
when a field goes or changes its meaning, and a reader refuses a layout it does not know. A field that is only added does not
raise it: readers that do not know the field pass over it, unless the map lists it in `critical`. Such a map is refused
(`newer-document`). A writer writes the lowest layout that says what it has to say, so that units of older versions, which
cannot be asked, can read it.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, Any, Final

from cryptography.exceptions import InvalidSignature

from bmsota.errors import TrustError
from bmsota.image import Attack, key_hash
from bmsota.ota import _cbor
from bmsota.ota._fields import check_layout

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


MANIFEST: Final = "application/vnd.bmsota.manifest+cbor"
ORDER: Final = "application/vnd.bmsota.order+cbor"
REPORT: Final = "application/vnd.bmsota.report+cbor"
IDENTITY: Final = "application/vnd.bmsota.identity+cbor"
RECEIPT: Final = "application/vnd.bmsota.receipt+cbor"
CONTENT_TYPES: Final = (MANIFEST, ORDER, REPORT, IDENTITY, RECEIPT)

LAYOUTS: Final = {MANIFEST: 0, ORDER: 0, REPORT: 0, IDENTITY: 0, RECEIPT: 0}
"""The highest layout of each kind of document that is read, and the one that is written."""

KEY_ID_SIZE_BYTES: Final = 8
SIGNATURE_SIZE_BYTES: Final = 64

# COSE header labels (RFC 9052, table 3) and the algorithm EdDSA (RFC 9053, table 2).
_ALG, _CONTENT_TYPE, _KID = 1, 3, 4
_EDDSA = -8


class DocumentKind(StrEnum):
    """What a signed document is about."""

    MANIFEST = "manifest"
    ORDER = "order"
    REPORT = "report"
    """A post-boot report."""
    IDENTITY = "identity"
    """An identity report."""
    RECEIPT = "receipt"
    """The platform's answer to one of the unit's."""


def document_kind(data: bytes, *, size_bytes_max: int = 64 * 1024) -> DocumentKind:
    """What *data* says it is, for a message that carries several kinds. Nothing is verified: verify it as that kind.

    Raises:
        TrustError: `endless-data`, or `malformed-document`: not a document, or of another content type.
    """
    if len(data) > size_bytes_max:
        raise TrustError(Attack.ENDLESS_DATA, f"expected at most {size_bytes_max} bytes of document, got {len(data)}")
    try:
        protected, _, _ = _open(data)
        header = _cbor.decode(protected)
    except _cbor.CborError as error:
        raise TrustError(Attack.MALFORMED_DOCUMENT, f"document: {error}") from error
    found = header.get(_CONTENT_TYPE) if isinstance(header, dict) else None
    for kind, content_type in zip(DocumentKind, CONTENT_TYPES, strict=True):
        if found == content_type:
            return kind
    raise TrustError(Attack.MALFORMED_DOCUMENT, f"document: unknown content type {str(found)[:60]}")


def sign(payload: dict[str, Any], *, content_type: str, key: Ed25519PrivateKey) -> bytes:
    """Encode and sign. Ed25519 draws no random number: the same input gives the same bytes."""
    layout = LAYOUTS[content_type]
    body = _cbor.encode({**payload, "layout": layout} if layout else payload)
    protected = _cbor.encode({_ALG: _EDDSA, _CONTENT_TYPE: content_type, _KID: _key_id(key.public_key())})
    document = [protected, {}, body, key.sign(_signed_bytes(protected, body))]
    return bytes([0xC0 | _cbor.COSE_SIGN1_TAG]) + _cbor.encode(document)


def verify(data: bytes, *, content_type: str, keys: Iterable[Ed25519PublicKey], size_bytes_max: int) -> dict[str, Any]:
    """Check the envelope and the signature by one of *keys*; return the payload's map.

    Raises:
        TrustError: `endless-data`, `malformed-document`, `wrong-document`, `arbitrary-software` or `newer-document`.
    """
    return _read(data, content_type, size_bytes_max, tuple(keys))


def decode_unverified(data: bytes, *, content_type: str, size_bytes_max: int) -> dict[str, Any]:
    """The payload's map without a look at the signature: nothing of it may be believed.

    Raises:
        TrustError: `endless-data`, `malformed-document`, `wrong-document` or `newer-document`.
    """
    return _read(data, content_type, size_bytes_max, None)


def _read(
    data: bytes, content_type: str, size_bytes_max: int, keys: tuple[Ed25519PublicKey, ...] | None
) -> dict[str, Any]:
    if len(data) > size_bytes_max:
        raise TrustError(
            Attack.ENDLESS_DATA, f"expected at most {size_bytes_max} bytes of {content_type}, got {len(data)}"
        )
    try:
        protected, payload, signature = _open(data)
        key_id = _key_id_of(protected, content_type)
        if keys is not None:
            _check_signature(_signed_bytes(protected, payload), signature, content_type, key_id, keys)
        value = _cbor.decode(payload)
    except _cbor.CborError as error:
        raise TrustError(Attack.MALFORMED_DOCUMENT, f"{content_type}: {error}") from error
    if not isinstance(value, dict):
        raise TrustError(Attack.MALFORMED_DOCUMENT, f"{content_type}: expected a map, got {type(value).__name__}")
    check_layout(value, LAYOUTS[content_type], content_type)
    return value


def _signed_bytes(protected: bytes, payload: bytes) -> bytes:
    """Sig_structure: context, protected header, external data (none), payload."""
    return _cbor.encode(["Signature1", protected, b"", payload])


def _check_signature(
    signed: bytes, signature: bytes, content_type: str, key_id: bytes, keys: tuple[Ed25519PublicKey, ...]
) -> None:
    key = next((key for key in keys if _key_id(key) == key_id), None)
    if key is None:
        raise TrustError(Attack.ARBITRARY_SOFTWARE, f"signed with unknown key {key_id.hex()}")
    try:
        key.verify(signature, signed)
    except InvalidSignature as error:
        raise TrustError(Attack.ARBITRARY_SOFTWARE, f"the signature of {content_type} is not valid") from error


def _open(data: bytes) -> tuple[bytes, bytes, bytes]:
    """Check the envelope; return protected header, payload and signature."""
    parts = _cbor.decode(data, tag=_cbor.COSE_SIGN1_TAG)
    if not (isinstance(parts, list) and len(parts) == 4):
        raise _cbor.CborError("not an array of 4")
    protected, unprotected, payload, signature = parts
    if not (isinstance(protected, bytes) and isinstance(payload, bytes) and isinstance(signature, bytes)):
        raise _cbor.CborError("header, payload or signature is not a byte string")
    if unprotected != {} or len(signature) != SIGNATURE_SIZE_BYTES:
        raise _cbor.CborError("the unprotected header is not empty, or the signature is not 64 bytes")
    return protected, payload, signature


def _key_id_of(protected: bytes, content_type: str) -> bytes:
    """Check the protected header; return the key id."""
    header = _cbor.decode(protected)
    if not (isinstance(header, dict) and set(header) == {_ALG, _CONTENT_TYPE, _KID} and header[_ALG] == _EDDSA):
        raise _cbor.CborError("the header is not exactly algorithm EdDSA, content type and key id")
    key_id, found = header[_KID], header[_CONTENT_TYPE]
    if not (isinstance(key_id, bytes) and len(key_id) == KEY_ID_SIZE_BYTES):
        raise _cbor.CborError("the key id is not 8 bytes")
    if found != content_type:
        attack = Attack.WRONG_DOCUMENT if found in CONTENT_TYPES else Attack.MALFORMED_DOCUMENT
        raise TrustError(attack, f"expected {content_type}, got {str(found)[:60]}")
    return key_id


def _key_id(key: Ed25519PublicKey) -> bytes:
    return key_hash(key)[:KEY_ID_SIZE_BYTES]
