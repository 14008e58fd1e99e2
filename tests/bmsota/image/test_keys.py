"""Keys from PEM text, and how an image names them."""

import hashlib

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
)

from bmsota.errors import ConfigurationError
from bmsota.image import key_hash, load_public_key, load_signing_key

ED25519 = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
P256 = ec.derive_private_key(77, ec.SECP256R1())
P384 = ec.derive_private_key(77, ec.SECP384R1())
X25519 = X25519PrivateKey.from_private_bytes(bytes(range(32)))


PLAIN = NoEncryption()


def private_pem(key, encryption=PLAIN):
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)


def public_pem(key):
    return key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)


@pytest.mark.parametrize("key", [ED25519, P256])
def test_a_key_is_read_back_from_pem(key):
    """Both kinds, private and public."""
    assert key_hash(load_public_key(public_pem(key))) == key_hash(key.public_key())
    assert key_hash(load_signing_key(private_pem(key)).public_key()) == key_hash(key.public_key())


def test_an_encrypted_key_needs_its_password():
    """With the right one it is read; a wrong or missing one is a configuration error."""
    pem = private_pem(ED25519, BestAvailableEncryption(b"secret"))
    assert key_hash(load_signing_key(pem, password=b"secret").public_key()) == key_hash(ED25519.public_key())
    for password in (None, b"guess"):
        with pytest.raises(ConfigurationError, match="signing key: expected"):
            load_signing_key(pem, password=password)


@pytest.mark.parametrize("key", [P384, X25519])
def test_other_kinds_of_key_are_refused(key):
    """A key that could never verify one of our images is refused when it is loaded."""
    with pytest.raises(ConfigurationError, match="expected Ed25519 or P-256"):
        load_public_key(public_pem(key))
    with pytest.raises(ConfigurationError, match="expected Ed25519 or P-256"):
        load_signing_key(private_pem(key))


def test_other_text_is_refused():
    """Not PEM, or the other half of a pair."""
    for text, got in ((b"", "no key"), (b"hello", "no key"), (private_pem(ED25519), "a private key")):
        with pytest.raises(ConfigurationError, match=f"public key: expected PEM text of a public key, got {got}"):
            load_public_key(text)
    for text, got in ((b"", "no key"), (b"hello", "no key"), (public_pem(ED25519), "a public key")):
        with pytest.raises(ConfigurationError, match=f"signing key: expected PEM text of a private key, got {got}"):
            load_signing_key(text)


def test_the_key_hash_is_that_of_the_der_key():
    """MCUboot's KEYHASH: SHA-256 over the SubjectPublicKeyInfo, here written out (RFC 8410, section 4)."""
    raw = ED25519.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    assert key_hash(ED25519.public_key()) == hashlib.sha256(bytes.fromhex("302a300506032b6570032100") + raw).digest()
