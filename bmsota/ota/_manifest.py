"""The release manifest: which images make one release, signed by the release key, kept offline.

The manifest answers "is this genuine, and does it belong together"; it does not say who shall install it (see `order`).
Layout: docs/trust.md. Left out so far: deltas, dependency ranges with a maximum, several signers.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final
from uuid import UUID

from bmsota.image import IMAGE_SIZE_BYTES_MAX, HardwareClass, ImageRole, ImageVersion, parse_image
from bmsota.ota import _document
from bmsota.ota._fields import malformed_as_trust_error, parse_role, parse_version, take_fields
from bmsota.ota._rules import (
    DIGEST_SIZE_BYTES,
    expect,
    expect_count,
    expect_integer,
    expect_name,
    expect_octets,
    expect_text,
)

if TYPE_CHECKING:
    from collections.abc import Iterable

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey


# A flash page of the common controllers, and 1.5 s of a bad 2G link: little is lost with a bad block.
BLOCK_SIZE_BYTES_DEFAULT: Final = 4096
BLOCK_SIZE_BYTES_MIN: Final = 256
BLOCK_SIZE_BYTES_MAX: Final = 65536

# What fits into a manifest: 2048 digests are its 64 KiB. 8 MiB of images at the default block size; larger releases take
# larger blocks.
BLOCKS_MAX: Final = 2048

# One master and up to 31 slaves, all of different hardware, and as much again for variants within a series.
IMAGES_MAX: Final = 64

# A master reads the manifest into RAM, whole, before it may believe a byte of it.
MANIFEST_SIZE_BYTES_MAX: Final = 64 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseImage:
    """One image of a release: for whom, which bytes, and the digest of each block of them."""

    role: ImageRole
    hardware_class: HardwareClass
    version: ImageVersion
    security_counter: int
    size_bytes: int
    """Of the whole image file."""
    sha256: bytes
    """Of the whole image file, `FirmwareImage.digest`."""
    block_size_bytes: int
    """Of every block but the last, which may be shorter."""
    block_sha256: tuple[bytes, ...]
    """One digest a block. A block can be checked, kept and fetched again alone."""

    def __post_init__(self) -> None:
        where = "release image"
        expect(isinstance(self.role, ImageRole), where, "an ImageRole", repr(self.role))
        expect(isinstance(self.hardware_class, HardwareClass), where, "a HardwareClass", repr(self.hardware_class))
        expect(isinstance(self.version, ImageVersion), where, "an ImageVersion", repr(self.version))
        expect_integer("security_counter", self.security_counter, maximum=0xFFFF_FFFF)
        expect_integer("size_bytes", self.size_bytes, minimum=1, maximum=IMAGE_SIZE_BYTES_MAX)
        expect_octets("sha256", self.sha256, size_bytes=DIGEST_SIZE_BYTES)
        expect_integer(
            "block_size_bytes", self.block_size_bytes, minimum=BLOCK_SIZE_BYTES_MIN, maximum=BLOCK_SIZE_BYTES_MAX
        )
        expect_count("block_sha256", self.block_sha256, minimum=1, maximum=BLOCKS_MAX)
        blocks = -(-self.size_bytes // self.block_size_bytes)
        expect(len(self.block_sha256) == blocks, "block_sha256", f"{blocks} digests", len(self.block_sha256))
        for digest in self.block_sha256:
            expect_octets("block_sha256", digest, size_bytes=DIGEST_SIZE_BYTES)

    def block_size(self, index: int) -> int:
        """The size of block *index* in bytes."""
        return min(self.block_size_bytes, self.size_bytes - index * self.block_size_bytes)


@dataclass(frozen=True, slots=True, kw_only=True)
class ReleaseManifest:
    """A release: the images that were tested together."""

    release: str
    """The release's own name, such as "F7-2.1.0"."""
    software_version: str
    """What the operator calls the release's software, such as "2.1.0"."""
    series: str
    """The series of units it is for, such as "F7". For people; devices decide by hardware class."""
    images: tuple[ReleaseImage, ...]
    created_s: int
    """Seconds since the Unix epoch, UTC."""
    expires_s: int
    """From this second on no device begins this release."""

    def __post_init__(self) -> None:
        expect_name("release", self.release)
        expect_text("software_version", self.software_version, length_min=1, length_max=64)
        expect_name("series", self.series)
        expect_count("images", self.images, minimum=1, maximum=IMAGES_MAX)
        targets = {(image.role, image.hardware_class) for image in self.images}
        expect(len(targets) == len(self.images), "images", "one image for a role and hardware class", "several")
        expect_integer("created_s", self.created_s)
        expect_integer("expires_s", self.expires_s, minimum=self.created_s + 1)

    def image_for(self, role: ImageRole, hardware_class: HardwareClass) -> ReleaseImage | None:
        """The image for such a node, if the release has one."""
        for image in self.images:
            if image.role is role and image.hardware_class == hardware_class:
                return image
        return None


def describe_image(data: bytes, block_size_bytes: int = BLOCK_SIZE_BYTES_DEFAULT) -> ReleaseImage:
    """The entry of a manifest for the image file *data*.

    Everything is read from the image itself, so a manifest cannot say something else than the image does. The image's
    signature is not checked here: the maker of a release verifies its images first (`bmsota.image.verify_image`).

    Raises:
        ImageError: *data* is no image.
        LocalProtocolError: the block size is out of range or makes too many blocks.
    """
    image = parse_image(data)
    expect_integer("block_size_bytes", block_size_bytes, minimum=BLOCK_SIZE_BYTES_MIN, maximum=BLOCK_SIZE_BYTES_MAX)
    return ReleaseImage(
        role=image.role,
        hardware_class=image.hardware_class,
        version=image.version,
        security_counter=image.security_counter,
        size_bytes=image.size_bytes,
        sha256=image.digest,
        block_size_bytes=block_size_bytes,
        block_sha256=tuple(
            hashlib.sha256(data[start : start + block_size_bytes]).digest()
            for start in range(0, len(data), block_size_bytes)
        ),
    )


def sign_manifest(manifest: ReleaseManifest, key: Ed25519PrivateKey) -> bytes:
    """Encode and sign with the release key. The same manifest gives the same bytes.

    Raises:
        LocalProtocolError: the manifest is larger than a device reads.
    """
    data = _document.sign(
        {
            "release": manifest.release,
            "software_version": manifest.software_version,
            "series": manifest.series,
            "images": [_image_map(image) for image in manifest.images],
            "created_s": manifest.created_s,
            "expires_s": manifest.expires_s,
        },
        content_type=_document.MANIFEST,
        key=key,
    )
    expect(len(data) <= MANIFEST_SIZE_BYTES_MAX, "manifest", f"at most {MANIFEST_SIZE_BYTES_MAX} bytes", len(data))
    return data


def verify_manifest(data: bytes, public_keys: Iterable[Ed25519PublicKey]) -> ReleaseManifest:
    """Check signature and form. Expiry, hardware and rollback are the device's to judge, see `trusted`.

    Raises:
        TrustError: `endless-data`, `malformed-document`, `wrong-document`, `arbitrary-software` or `newer-document`.
    """
    return _parse(
        _document.verify(
            data, content_type=_document.MANIFEST, keys=public_keys, size_bytes_max=MANIFEST_SIZE_BYTES_MAX
        )
    )


def parse_manifest(data: bytes) -> ReleaseManifest:
    """Read a manifest without a key: its form is checked, nothing it says may be believed.

    For a tool that shows what it was given, or hands images to nodes that verify each of them themselves.

    Raises:
        TrustError: `endless-data`, `malformed-document`, `wrong-document` or `newer-document`.
    """
    return _parse(
        _document.decode_unverified(data, content_type=_document.MANIFEST, size_bytes_max=MANIFEST_SIZE_BYTES_MAX)
    )


def _parse(value: dict[str, Any]) -> ReleaseManifest:
    names = ("release", "software_version", "series", "images", "created_s", "expires_s")
    release, software_version, series, images, created_s, expires_s = take_fields(value, names, "manifest")
    with malformed_as_trust_error("manifest"):
        expect_count("images", images, minimum=1, maximum=IMAGES_MAX)
        return ReleaseManifest(
            release=release,
            software_version=software_version,
            series=series,
            images=tuple(_parse_image_map(image) for image in images),
            created_s=created_s,
            expires_s=expires_s,
        )


_IMAGE_NAMES: Final = (
    "role",
    "vendor_id",
    "class_id",
    "version",
    "security_counter",
    "size_bytes",
    "sha256",
    "block_size_bytes",
    "block_sha256",
)


def _image_map(image: ReleaseImage) -> dict[str, Any]:
    version = image.version
    return {
        "role": int(image.role),
        "vendor_id": image.hardware_class.vendor_id.bytes,
        "class_id": image.hardware_class.class_id.bytes,
        "version": [version.major, version.minor, version.revision, version.build],
        "security_counter": image.security_counter,
        "size_bytes": image.size_bytes,
        "sha256": image.sha256,
        "block_size_bytes": image.block_size_bytes,
        # One string: 32 bytes a block, without an item head for each.
        "block_sha256": b"".join(image.block_sha256),
    }


def _parse_image_map(value: Any) -> ReleaseImage:
    role, vendor_id, class_id, version, counter, size_bytes, sha256, block_size_bytes, digests = take_fields(
        value, _IMAGE_NAMES, "manifest image"
    )
    expect_octets("vendor_id", vendor_id, size_bytes=16)
    expect_octets("class_id", class_id, size_bytes=16)
    expect(
        isinstance(digests, bytes) and len(digests) % DIGEST_SIZE_BYTES == 0, "block_sha256", "digests", "other bytes"
    )
    return ReleaseImage(
        role=parse_role(role),
        hardware_class=HardwareClass(UUID(bytes=vendor_id), UUID(bytes=class_id)),
        version=parse_version(version),
        security_counter=counter,
        size_bytes=size_bytes,
        sha256=sha256,
        block_size_bytes=block_size_bytes,
        block_sha256=tuple(
            digests[start : start + DIGEST_SIZE_BYTES] for start in range(0, len(digests), DIGEST_SIZE_BYTES)
        ),
    )
