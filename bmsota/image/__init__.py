"""Firmware images in MCUboot's format: build, parse, verify.

Sans-IO: bytes in, bytes out; reading files is `bmsota.adapters.files`. What is signed, and every byte of the layout, is
in docs/trust.md.
"""

from bmsota import _needs_trust  # noqa: F401 - first: it names the extra
from bmsota.image._layout import ImageFlag
from bmsota.image.attack import Attack
from bmsota.image.firmware import (
    IMAGE_SIZE_BYTES_MAX,
    FirmwareImage,
    ImageDependency,
    SignatureKind,
    build_image,
    image_length,
    parse_image,
    verify_image,
    with_low_s,
)
from bmsota.image.identity import HardwareClass, ImageRole
from bmsota.image.keys import PublicKey, SigningKey, key_hash, load_public_key, load_signing_key
from bmsota.image.version import ImageVersion

__all__ = [
    "IMAGE_SIZE_BYTES_MAX",
    "Attack",
    "FirmwareImage",
    "HardwareClass",
    "ImageDependency",
    "ImageFlag",
    "ImageRole",
    "ImageVersion",
    "PublicKey",
    "SignatureKind",
    "SigningKey",
    "build_image",
    "image_length",
    "key_hash",
    "load_public_key",
    "load_signing_key",
    "parse_image",
    "verify_image",
    "with_low_s",
]
