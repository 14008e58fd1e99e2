"""SecurityAccess with a key that is a secret: an Ed25519 signature over the seed and the node's serial number.

UDS leaves open what a key is. Most nodes compute it from the seed by a rule in their own firmware: one firmware gives it away for
all; give such a rule as an `AccessKey`. Ours is a signature: nodes hold public keys only, and a key made for one node or
one seed opens no other.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, TypeAlias

from bmsota.node import is_signed_by
from bmsota.uds._identifiers import ACCESS_LEVEL

if TYPE_CHECKING:
    from collections.abc import Sequence

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

    from bmsota.node import AccessSigner


AccessKey: TypeAlias = Callable[[bytes, str], bytes]
"""Takes the seed and the node's serial number (empty if it has none); gives the key."""

AccessCheck: TypeAlias = Callable[[bytes, str, bytes], bool]
"""The node's side: takes the seed, its own serial number and the key; says whether it fits."""

# What is signed begins with its purpose, so that no signature made for something else is a key.
_PURPOSE = b"bmsota UDS security access"


def _signed(seed: bytes, serial: str) -> bytes:
    return b"\0".join((_PURPOSE, bytes([ACCESS_LEVEL]), serial.encode("ascii", "replace"), seed))


def signed_access_key(signer: AccessSigner) -> AccessKey:
    """The tester's side. *signer* is the one that opens nodes for the bootloader, too: `signer_from_pem` makes one."""

    def sign(seed: bytes, serial: str) -> bytes:
        return signer(_signed(seed, serial))

    return sign


def ed25519_access_key(private_key: Ed25519PrivateKey) -> AccessKey:
    """The tester's side, with the private key in hand."""
    return signed_access_key(private_key.sign)


def ed25519_access_check(public_keys: Sequence[Ed25519PublicKey]) -> AccessCheck:
    """The node's side: a signature of any of *public_keys*."""
    return lambda seed, serial, key: is_signed_by(public_keys, key, _signed(seed, serial))
