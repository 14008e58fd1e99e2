"""Keys and a plain image for the tests of `bmsota.image`, and a second writer of images, made of struct alone.

The second writer knows no rule, so it can write every wrong image; what it writes right must equal the library's bytes.
"""

import hashlib
import struct
from collections.abc import Callable, Sequence
from types import SimpleNamespace

import pytest
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image

KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(32)))
OTHER_KEY = Ed25519PrivateKey.from_private_bytes(bytes(range(1, 33)))
P256_KEY = ec.derive_private_key(0x1234_5678_9ABC_DEF0, ec.SECP256R1())
HARDWARE = HardwareClass.named("bmsota.example", "F7-master")
PAYLOAD = bytes(index * 7 % 256 for index in range(96))

PROTECTED = (
    (0x50, struct.pack("<I", 7)),
    (0x40, struct.pack("<B3xBBHI", 1, 2, 0, 0, 0)),
    (0x74, HARDWARE.vendor_id.bytes),
    (0x75, HARDWARE.class_id.bytes),
    (0xA0, b"\x00"),
    (0xA1, b"\x01"),
)


def raw_image(
    *,
    payload: bytes = PAYLOAD,
    protected: Sequence[tuple[int, bytes]] = PROTECTED,
    header: Callable[[list], list] = lambda fields: fields,
    unprotected: Callable[[bytes], Sequence[tuple[int, bytes]]] | None = None,
    key: Ed25519PrivateKey = KEY,
) -> bytes:
    """An image with whatever TLVs and header fields one wants, signed with *key* over what is there."""
    area = _area(0x6908, protected) if protected else b""
    # magic, load address, header size, protected size, payload size, flags, version (4 fields), reserved
    fields = [0x96F3B83D, 0, 32, len(area), len(payload), 0, 2, 1, 0, 5, 0]
    signed = struct.pack("<IIHHIIBBHII", *header(fields)) + payload + area
    digest = hashlib.sha256(signed).digest()
    tlvs = unprotected(digest) if unprotected else signature_tlvs(digest, key)
    return signed + _area(0x6907, tlvs)


def signature_tlvs(digest: bytes, key: Ed25519PrivateKey = KEY) -> list[tuple[int, bytes]]:
    public = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    return [(0x10, digest), (0x01, hashlib.sha256(public).digest()), (0x24, key.sign(digest))]


def _area(magic: int, tlvs: Sequence[tuple[int, bytes]]) -> bytes:
    body = b"".join(struct.pack("<HH", number, len(value)) + value for number, value in tlvs)
    return struct.pack("<HH", magic, (4 + len(body)) & 0xFFFF) + body


@pytest.fixture(scope="session")
def forge() -> SimpleNamespace:
    """What is above, for tests: test modules cannot import each other."""
    return SimpleNamespace(
        KEY=KEY,
        OTHER_KEY=OTHER_KEY,
        P256_KEY=P256_KEY,
        HARDWARE=HARDWARE,
        PAYLOAD=PAYLOAD,
        PROTECTED=PROTECTED,
        raw_image=raw_image,
        signature_tlvs=signature_tlvs,
    )


@pytest.fixture(scope="session")
def image() -> bytes:
    """A small good image."""
    return build_image(
        PAYLOAD,
        version=ImageVersion(2, 1, 0, 5),
        security_counter=7,
        hardware_class=HARDWARE,
        role=ImageRole.MASTER,
        signing_key=KEY,
    )
