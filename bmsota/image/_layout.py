"""The byte layouts of a MCUboot image, declared once (MCUboot design, "Image Format"; docs/trust.md has the table).

Little endian. This module knows where bytes stand, not what they mean; `firmware` reads and writes them. Not declared,
because we refuse such images: encryption, compression, boot record, the big endian variant, the slot trailer (the
trailer belongs to the slot, see `bmsota.boot`).
"""

# mypy: allow-untyped-calls
# construct publishes no types; outside this module its containers are `Any`.

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Any, Final

from construct import Bytes, Const, Int8ul, Int16ul, Int32ul, Struct, this

IMAGE_MAGIC: Final = 0x96F3B83D
HEADER_SIZE_BYTES: Final = 32
TLV_INFO_SIZE_BYTES: Final = 4
TLV_HEADER_SIZE_BYTES: Final = 4
# The length field of a TLV area is 16 bits wide and counts its own 4 bytes.
TLV_AREA_SIZE_BYTES_MAX: Final = 0xFFFF
PROTECTED_MAGIC: Final = 0x6908
UNPROTECTED_MAGIC: Final = 0x6907

DIGEST_SIZE_BYTES: Final = 32
ED25519_SIGNATURE_SIZE_BYTES: Final = 64


ENCRYPTED_FLAGS: Final = 0x04 | 0x08
"""AES-128 and AES-256."""

COMPRESSED_FLAGS: Final = 0x200 | 0x400 | 0x800
"""LZMA, LZMA2, and the ARM Thumb filter before it."""

TRAILER_MAGIC: Final = bytes.fromhex("77c295f360d2ef7f3552500f2cb67980")
"""The last 16 bytes of a slot that MCUboot swaps (boot_img_magic), written by `imgtool sign --pad`."""

TRAILER_MAGIC_TAIL: Final = bytes.fromhex("2de15d29410b8d77679c110f1f8a")
"""Of the same behind two bytes of alignment, for flashes that are written in more than 8 bytes."""

TRAILER_FLAGS_BYTES: Final = 64
"""The flags before the magic, the confirmed one (image_ok) among them, lie within this: twice the largest alignment."""

P256_ORDER: Final = 0xFFFFFFFF00000000FFFFFFFFFFFFFFFFBCE6FAADA7179E84F3B9CAC2FC632551
"""Of the curve's group (SEC 2): with (r, s) also (r, n - s) is a signature; the low one is ours."""


class ImageFlag(IntFlag):
    """The header flags we accept. Encrypted and compressed images are refused, not ignored."""

    NONE = 0
    NON_BOOTABLE = 0x10
    """Not to be started by itself."""
    RAM_LOAD = 0x20
    """Copied to the load address and run from RAM."""
    ROM_FIXED = 0x100
    """Built for one flash address, the load address."""


class TlvType(IntEnum):
    """The TLV numbers we write and read. imgtool reads the type as one byte; ours stay below 0x100 for that reason."""

    KEY_HASH = 0x01
    SHA256 = 0x10
    ECDSA = 0x22
    ED25519 = 0x24
    DEPENDENCY = 0x40
    SECURITY_COUNTER = 0x50
    VENDOR_ID = 0x74
    CLASS_ID = 0x75
    ROLE = 0xA0
    """Ours, the first number of the vendor range: one byte, see `ImageRole`."""


# The vendor range as far as every reader agrees on it (imgtool masks the type to 8 bits, see above).
CUSTOM_TLV_MIN: Final = 0xA1
CUSTOM_TLV_MAX: Final = 0xFE

VERSION_LAYOUT: Final[Any] = Struct("major" / Int8ul, "minor" / Int8ul, "revision" / Int16ul, "build" / Int32ul)

HEADER_LAYOUT: Final[Any] = Struct(
    "magic" / Const(IMAGE_MAGIC, Int32ul),
    "load_address" / Int32ul,
    "header_size_bytes" / Int16ul,
    "protected_size_bytes" / Int16ul,  # With its 4 byte info header; 0 when there is no protected area.
    "payload_size_bytes" / Int32ul,
    "flags" / Int32ul,
    "version" / VERSION_LAYOUT,
    "reserved" / Const(0, Int32ul),
)

TLV_INFO_LAYOUT: Final[Any] = Struct("magic" / Int16ul, "size_bytes" / Int16ul)

TLV_LAYOUT: Final[Any] = Struct("type" / Int16ul, "length" / Int16ul, "value" / Bytes(this.length))

DEPENDENCY_LAYOUT: Final[Any] = Struct("image_id" / Int8ul, "reserved" / Const(bytes(3)), "version" / VERSION_LAYOUT)

COUNTER_LAYOUT: Final[Any] = Int32ul
