"""Signed documents: COSE_Sign1 (RFC 9052, section 4.2) with Ed25519 around a plain CBOR map.

A document is ``18([protected, {}, payload, signature])``. The protected header holds exactly the algorithm (1: -8), the
content type (3: one text per kind of document) and the key id (4: the first 8 bytes of the key's SHA-256). The
unprotected header is empty, so nothing in a document stands outside the signature.

The content type is what keeps an order from being taken for a manifest when both are signed by one key by mistake. It is
compared before the signature is looked at, and it is under the signature.

Left out on purpose: other algorithms, several signers, detached payloads, certificates. A device that cannot read them
cannot be led astray by them.

Strategy: the envelope is bounded and checked by us (see `_cbor`), the signature by the cwt library, the payload is decoded
only after that. Whatever is wrong, `TrustError` comes out.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat
from cwt import COSE, COSEKey
from cwt.exceptions import CWTError

from bmsota.errors import TrustError
from bmsota.image import Attack, key_hash
from bmsota.ota import _cbor

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

__all__ = ["CONTENT_TYPES", "MANIFEST", "ORDER", "REPORT", "peek", "sign", "verify"]

MANIFEST: Final = "application/vnd.bmsota.manifest+cbor"
ORDER: Final = "application/vnd.bmsota.order+cbor"
REPORT: Final = "application/vnd.bmsota.report+cbor"
CONTENT_TYPES: Final = (MANIFEST, ORDER, REPORT)

KEY_ID_SIZE_BYTES: Final = 8
SIGNATURE_SIZE_BYTES: Final = 64

# COSE labels (RFC 9052, tables 2 and 3; RFC 9053, tables 2, 18 and 20).
_ALG, _CONTENT_TYPE, _KID = 1, 3, 4
_EDDSA = -8
_KTY, _KTY_OKP, _KEY_KID, _KEY_ALG, _CRV, _CRV_ED25519, _X, _D = 1, 1, 2, 3, -1, 6, -2, -4

# Writes header parameters in deterministic order. Holds no key and no state of a message, so one is enough.
_COSE: Final = COSE.new(deterministic_header=True)


def sign(payload: dict[str, Any], *, content_type: str, key: Ed25519PrivateKey) -> bytes:
    """Encode and sign. Ed25519 draws no random number: the same input gives the same bytes."""
    key_id = _key_id(key.public_key())
    private = key.private_bytes(Encoding.Raw, PrivateFormat.Raw, NoEncryption())
    return bytes(
        _COSE.encode_and_sign(
            _cbor.encode(payload),
            COSEKey.new(_cose_key(key.public_key(), {_D: private})),
            protected={_ALG: _EDDSA, _CONTENT_TYPE: content_type, _KID: key_id},
            unprotected={},
        )
    )


def verify(data: bytes, *, content_type: str, keys: Iterable[Ed25519PublicKey], size_bytes_max: int) -> dict[str, Any]:
    """Check the envelope and the signature by one of *keys*; return the payload's map.

    Raises:
        TrustError: `endless-data`, `malformed-document`, `wrong-document` or `arbitrary-software`.
    """
    return _read(data, content_type, size_bytes_max, tuple(keys))


def peek(data: bytes, *, content_type: str, size_bytes_max: int) -> dict[str, Any]:
    """The payload's map without a look at the signature: nothing of it may be believed.

    Raises:
        TrustError: `endless-data`, `malformed-document` or `wrong-document`.
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
        key_id, payload = _open(data, content_type)
        if keys is not None:
            _check_signature(data, content_type, key_id, keys)
        value = _cbor.decode(payload)
    except _cbor.CborError as error:
        raise TrustError(Attack.MALFORMED_DOCUMENT, f"{content_type}: {error}") from error
    if not isinstance(value, dict):
        raise TrustError(Attack.MALFORMED_DOCUMENT, f"{content_type}: expected a map, got {type(value).__name__}")
    return value


def _check_signature(data: bytes, content_type: str, key_id: bytes, keys: tuple[Ed25519PublicKey, ...]) -> None:
    key = next((key for key in keys if _key_id(key) == key_id), None)
    if key is None:
        raise TrustError(Attack.ARBITRARY_SOFTWARE, f"expected a known key, got key id {key_id.hex()}")
    try:
        _COSE.decode(data, COSEKey.new(_cose_key(key, {})))
    except (CWTError, ValueError) as error:
        raise TrustError(
            Attack.ARBITRARY_SOFTWARE, f"expected a valid signature of {content_type}, got none"
        ) from error


def _open(data: bytes, content_type: str) -> tuple[bytes, bytes]:
    """Check everything of the envelope but the signature; return key id and payload."""
    parts = _cbor.decode(data, tag=_cbor.COSE_SIGN1_TAG)
    if not (isinstance(parts, list) and len(parts) == 4):
        raise _cbor.CborError("expected an array of 4, got another shape")
    protected, unprotected, payload, signature = parts
    if not (isinstance(protected, bytes) and isinstance(payload, bytes) and isinstance(signature, bytes)):
        raise _cbor.CborError("expected byte strings, got other types")
    if unprotected != {} or len(signature) != SIGNATURE_SIZE_BYTES:
        raise _cbor.CborError("expected an empty unprotected header and a signature of 64 bytes, got others")
    header = _cbor.decode(protected)
    if not (isinstance(header, dict) and set(header) == {_ALG, _CONTENT_TYPE, _KID} and header[_ALG] == _EDDSA):
        raise _cbor.CborError("expected algorithm EdDSA, content type and key id, got another header")
    key_id, found = header[_KID], header[_CONTENT_TYPE]
    if not (isinstance(key_id, bytes) and len(key_id) == KEY_ID_SIZE_BYTES):
        raise _cbor.CborError("expected a key id of 8 bytes, got another")
    if found != content_type:
        attack = Attack.WRONG_DOCUMENT if found in CONTENT_TYPES else Attack.MALFORMED_DOCUMENT
        raise TrustError(attack, f"expected {content_type}, got {str(found)[:60]}")
    return key_id, payload


def _key_id(key: Ed25519PublicKey) -> bytes:
    return key_hash(key)[:KEY_ID_SIZE_BYTES]


def _cose_key(public: Ed25519PublicKey, more: dict[int, Any]) -> dict[int, Any]:
    return {
        _KTY: _KTY_OKP,
        _KEY_KID: _key_id(public),
        _KEY_ALG: _EDDSA,
        _CRV: _CRV_ED25519,
        _X: public.public_bytes(Encoding.Raw, PublicFormat.Raw),
        **more,
    }
