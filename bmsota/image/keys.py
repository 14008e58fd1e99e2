"""Keys: which kinds we take, how they are named in an image, how they are read from PEM text.

Ed25519 is the default; ECDSA on P-256 is accepted for images because there are bootloaders with a P-256 accelerator
only. Keys are the objects of `cryptography`; nothing here stores or makes one.
"""

from __future__ import annotations

import hashlib
from typing import TypeAlias

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ec import SECP256R1, EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_private_key,
    load_pem_public_key,
)

from bmsota.errors import ConfigurationError

__all__ = ["PublicKey", "SigningKey", "key_hash", "load_public_key", "load_signing_key"]

PublicKey: TypeAlias = Ed25519PublicKey | EllipticCurvePublicKey
SigningKey: TypeAlias = Ed25519PrivateKey | EllipticCurvePrivateKey


def key_hash(public_key: PublicKey) -> bytes:
    """SHA-256 of the DER SubjectPublicKeyInfo: the value of MCUboot's KEYHASH TLV."""
    der = public_key.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return hashlib.sha256(der).digest()


def load_public_key(pem: bytes) -> PublicKey:
    """Read an Ed25519 or P-256 public key from PEM text.

    Raises:
        ConfigurationError: the text is no such key.
    """
    try:
        key = load_pem_public_key(pem)
    except (ValueError, UnsupportedAlgorithm) as error:
        # A key that is there but cannot be read is damaged, or of no known kind: the library says so.
        reason = error if b"PUBLIC KEY-----" in pem else _pem_kind(pem)
        raise ConfigurationError(f"public key: expected PEM text of a public key, got {reason}") from error
    if isinstance(key, Ed25519PublicKey) or (isinstance(key, EllipticCurvePublicKey) and _is_p256(key)):
        return key
    raise ConfigurationError(f"public key: expected Ed25519 or P-256, got {type(key).__name__}")


def load_signing_key(pem: bytes, *, password: bytes | None = None) -> SigningKey:
    """Read an Ed25519 or P-256 private key from PEM text, encrypted or not.

    Raises:
        ConfigurationError: the text is no such key, or the password is missing, wrong or not needed.
    """
    try:
        key = load_pem_private_key(pem, password)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        # A key that is there but cannot be read wants a password, or another one: the library says so.
        reason = error if b"PRIVATE KEY-----" in pem else _pem_kind(pem)
        raise ConfigurationError(f"signing key: expected PEM text of a private key, got {reason}") from error
    if isinstance(key, Ed25519PrivateKey) or (isinstance(key, EllipticCurvePrivateKey) and _is_p256(key)):
        return key
    raise ConfigurationError(f"signing key: expected Ed25519 or P-256, got {type(key).__name__}")


def _pem_kind(pem: bytes) -> str:
    """What a PEM file holds that is not what was wanted."""
    if b"PRIVATE KEY-----" in pem:
        return "a private key"
    return "a public key" if b"PUBLIC KEY-----" in pem else "no key"


def _is_p256(key: EllipticCurvePrivateKey | EllipticCurvePublicKey) -> bool:
    return isinstance(key.curve, SECP256R1)
