"""Build, parse and verify firmware images in MCUboot's format.

An image is header, payload, protected TLVs, TLVs. The bytes are those of imgtool 2.5.0 for the same input, so either tool
may sign for the other's bootloader. What imgtool offers and we refuse on both sides: encryption, compression, the boot
record, "pure" signatures, several signatures, RSA.

Strategy: verification is stricter than imgtool's, which takes trailing bytes, foreign TLVs and altered key hashes. We
accept exactly one spelling of an image: what we understood of the bytes is written again and must give the same bytes,
and of the two P-256 signatures with the same meaning the one with low S.
Everything a decision rests on (security counter, dependencies, hardware class, role) must stand in the protected area,
and must be there: an image without a counter is not an image with counter 0.

Two kinds of refusal: `ImageError` for bytes that are not such an image; `TrustError` for a well formed image without a
valid signature of a known key.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, replace
from enum import IntEnum
from typing import TYPE_CHECKING, Any, Final, NoReturn
from uuid import UUID

from construct import ConstructError
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import ECDSA, EllipticCurvePublicKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.asymmetric.utils import Prehashed, decode_dss_signature, encode_dss_signature
from cryptography.hazmat.primitives.hashes import SHA256

from bmsota.errors import ImageError, TrustError
from bmsota.image._layout import (
    COMPRESSED_FLAGS,
    COUNTER_LAYOUT,
    CUSTOM_TLV_MAX,
    CUSTOM_TLV_MIN,
    DEPENDENCY_LAYOUT,
    DIGEST_SIZE_BYTES,
    ED25519_SIGNATURE_SIZE_BYTES,
    ENCRYPTED_FLAGS,
    HEADER_LAYOUT,
    HEADER_SIZE_BYTES,
    IMAGE_MAGIC,
    P256_ORDER,
    PROTECTED_MAGIC,
    TLV_AREA_SIZE_BYTES_MAX,
    TLV_HEADER_SIZE_BYTES,
    TLV_INFO_LAYOUT,
    TLV_INFO_SIZE_BYTES,
    TLV_LAYOUT,
    TRAILER_FLAGS_BYTES,
    TRAILER_MAGIC,
    TRAILER_MAGIC_TAIL,
    UNPROTECTED_MAGIC,
    ImageFlag,
    TlvType,
)
from bmsota.image.attack import Attack
from bmsota.image.identity import HardwareClass, ImageRole
from bmsota.image.keys import PublicKey, SigningKey, key_hash
from bmsota.image.version import ImageVersion

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

__all__ = [
    "IMAGE_SIZE_BYTES_MAX",
    "FirmwareImage",
    "ImageDependency",
    "SignatureKind",
    "build_image",
    "image_length",
    "parse_image",
    "verify_image",
    "with_low_s",
]

# The largest flash bank of the controllers a BMS is built on is 4 MiB; four times that leaves room, and keeps a
# wrong size field from being believed.
IMAGE_SIZE_BYTES_MAX: Final = 16 * 1024 * 1024

# A vector table with an initial stack pointer and a reset vector; anything shorter cannot be started.
PAYLOAD_SIZE_BYTES_MIN: Final = 8

# imgtool --pad-header fills the header's tail with the erased value of the flash; a linker that leaves room for the
# header fills it with zeros. Nothing else has been seen.
_HEADER_FILLS: Final = (0xFF, 0x00)

# One dependency per role exists today; imgtool sets no limit, an area of 64 KiB would hold 4095.
DEPENDENCIES_MAX: Final = 16


class SignatureKind(IntEnum):
    """How an image is signed; the number is the TLV's."""

    ED25519 = TlvType.ED25519
    ECDSA_P256 = TlvType.ECDSA


@dataclass(frozen=True, slots=True, kw_only=True)
class ImageDependency:
    """What else must run in the pack: nodes of *role* at *version_min* or later (MCUboot's DEPENDENCY TLV)."""

    role: ImageRole
    version_min: ImageVersion


@dataclass(frozen=True, slots=True, kw_only=True)
class FirmwareImage:
    """A parsed image. `parse_image` says it is well formed, only `verify_image` that it is genuine."""

    version: ImageVersion
    security_counter: int
    """Raised for a release when older images must no longer run; 32 bits."""
    hardware_class: HardwareClass
    role: ImageRole
    dependencies: tuple[ImageDependency, ...]
    custom_tlvs: tuple[tuple[int, bytes], ...]
    """Protected TLVs 0xa1..0xfe, rising by number."""
    load_address: int
    flags: ImageFlag
    header_size_bytes: int
    header_fill: int
    """What stands between the 32 header bytes and the payload: 0xff or 0x00."""
    payload: bytes
    image_digest: bytes
    """SHA-256 of header, payload and protected TLVs: what is signed."""
    key_hash: bytes
    """The key that the image names as its signer, see `key_hash`."""
    signature_kind: SignatureKind
    signature: bytes
    digest: bytes
    """SHA-256 of the whole file, signature included: what a release manifest names."""
    size_bytes: int
    """Of the whole file."""


def build_image(
    payload: bytes,
    *,
    version: ImageVersion,
    security_counter: int,
    hardware_class: HardwareClass,
    role: ImageRole,
    signing_key: SigningKey,
    dependencies: Sequence[ImageDependency] = (),
    custom_tlvs: Sequence[tuple[int, bytes]] = (),
    load_address: int = 0,
    flags: ImageFlag = ImageFlag.NONE,
    header_size_bytes: int = HEADER_SIZE_BYTES,
    header_fill: int = 0xFF,
) -> bytes:
    """Sign *payload* as an image. The same input gives the same bytes, with either kind of key.

    Args:
        payload: the program, without room for a header.
        version: the version the image will report.
        security_counter: what the image's own counter is; a node refuses counters below the one it has confirmed.
        hardware_class: the only hardware the image may run on.
        role: the only kind of node it may run on.
        signing_key: an Ed25519 or P-256 private key.
        dependencies: what the other nodes of the pack must run.
        custom_tlvs: further protected TLVs (number 0xa1..0xfe, value), numbers rising.
        load_address: RAM address with `ImageFlag.RAM_LOAD`, flash address with `ImageFlag.ROM_FIXED`, else 0.
        flags: see `ImageFlag`.
        header_size_bytes: where the payload starts; a vector table may ask for more than 32.
        header_fill: 0xff or 0x00, for the rest of a longer header.

    Raises:
        ImageError: a value does not fit the format; `received` says which.
    """
    image = FirmwareImage(
        version=version,
        security_counter=security_counter,
        hardware_class=hardware_class,
        role=role,
        dependencies=tuple(dependencies),
        custom_tlvs=tuple((number, bytes(value)) for number, value in custom_tlvs),
        load_address=load_address,
        flags=flags,
        header_size_bytes=header_size_bytes,
        header_fill=header_fill,
        payload=bytes(payload),
        image_digest=b"",
        key_hash=key_hash(signing_key.public_key()),
        signature_kind=SignatureKind.ED25519
        if isinstance(signing_key, Ed25519PrivateKey)
        else SignatureKind.ECDSA_P256,
        signature=b"",
        digest=b"",
        size_bytes=0,
    )
    _check_values(image)
    signed = _signed_part(image)
    digest = hashlib.sha256(signed).digest()
    if isinstance(signing_key, Ed25519PrivateKey):
        signature = signing_key.sign(digest)
    else:
        # RFC 6979: no random number, so the library draws none and a build can be repeated.
        signature = _low_s(signing_key.sign(digest, ECDSA(Prehashed(SHA256()), deterministic_signing=True)))
    data = signed + _signature_part(replace(image, image_digest=digest, signature=signature))
    if len(data) > IMAGE_SIZE_BYTES_MAX:
        raise ImageError("image", expected=f"at most {IMAGE_SIZE_BYTES_MAX} bytes", received=f"{len(data)}")
    return data


def image_length(data: bytes) -> int:
    """The length of the image at the start of *data*, which may go on after it (a slot).

    Walks header and TLV areas and checks nothing else: use it to cut the image out of a slot, then `verify_image`.

    Raises:
        ImageError: *data* does not start with an image, or ends inside it.
    """
    return _bounds(data).end


def parse_image(data: bytes) -> FirmwareImage:
    """Parse a whole image file, with no byte missing or left over.

    No key is needed: the digest is not compared and the signature not verified.

    Raises:
        ImageError: *data* is not an image, or not in the one encoding we accept.
    """
    bounds = _bounds(data)
    if bounds.end != len(data):
        _refuse_rest(data, bounds.end)
    header = bounds.header
    fill = data[HEADER_SIZE_BYTES] if header.header_size_bytes > HEADER_SIZE_BYTES else 0xFF
    protected = _parse_protected(
        _parse_tlvs(data, bounds.payload_end + TLV_INFO_SIZE_BYTES, bounds.protected_end), bounds.payload_end
    )
    signature_kind, digest, name, signature = _parse_unprotected(
        _parse_tlvs(data, bounds.protected_end + TLV_INFO_SIZE_BYTES, bounds.end), bounds.protected_end
    )
    image = FirmwareImage(
        version=_version(header.version),
        security_counter=protected.security_counter,
        hardware_class=protected.hardware_class,
        role=protected.role,
        dependencies=protected.dependencies,
        custom_tlvs=protected.custom_tlvs,
        load_address=header.load_address,
        flags=ImageFlag(header.flags),
        header_size_bytes=header.header_size_bytes,
        header_fill=fill,
        payload=bytes(data[header.header_size_bytes : bounds.payload_end]),
        image_digest=digest,
        key_hash=name,
        signature_kind=signature_kind,
        signature=signature,
        digest=hashlib.sha256(data).digest(),
        size_bytes=len(data),
    )
    _check_values(image)
    # The canonical rule: one image, one spelling. Whatever the checks above forgot to look at is caught here.
    again = _signed_part(image) + _signature_part(image)
    if again != data:
        place = next(i for i, (ours, theirs) in enumerate(zip(again, data, strict=False)) if ours != theirs)
        raise ImageError("image", expected="the canonical encoding", received="another encoding", offset=place)
    return image


def with_low_s(data: bytes) -> bytes:
    """The same image with the one spelling of its signature that is accepted.

    Of a P-256 signature (r, s) also (r, n - s) is one, and imgtool writes either. The verifier takes the lower, as
    `build_image` writes it. The signed bytes stay, so no key is needed; the file's digest, which a manifest names, changes.
    An image with the low one, or with an Ed25519 signature, is returned as it is.

    Raises:
        ImageError: *data* is no image.
    """
    bounds = _bounds(data)
    tlvs = _parse_tlvs(data, bounds.protected_end + TLV_INFO_SIZE_BYTES, bounds.end)
    kind, digest, name, signature = _parse_unprotected(tlvs, bounds.protected_end)
    if kind is SignatureKind.ECDSA_P256:
        try:
            signature = _low_s(signature)
        except ValueError as error:
            raise ImageError("signature", expected="a DER ECDSA signature", received="other bytes") from error
    body = _tlv(TlvType.SHA256, digest) + _tlv(TlvType.KEY_HASH, name) + _tlv(kind, signature)
    written = bytes(data[: bounds.protected_end]) + _area(UNPROTECTED_MAGIC, body) + bytes(data[bounds.end :])
    parse_image(written)
    return written


def verify_image(data: bytes, *, public_keys: Iterable[PublicKey]) -> FirmwareImage:
    """Parse *data* and check its digest and its signature by one of *public_keys*.

    Several keys let a fleet change its key: a node that knows both takes images of both.

    Raises:
        ImageError: *data* is no well formed image.
        TrustError: `corrupted-data` (the digest is another one) or `arbitrary-software` (unknown key, wrong signature).
    """
    image = parse_image(data)
    signed_end = image.header_size_bytes + len(image.payload) + _protected_size_bytes(image)
    if hashlib.sha256(data[:signed_end]).digest() != image.image_digest:
        raise TrustError(
            Attack.CORRUPTED_DATA, f"the image does not have the digest that was signed ({image.image_digest.hex()})"
        )
    key = next((key for key in public_keys if key_hash(key) == image.key_hash), None)
    if key is None:
        raise TrustError(Attack.ARBITRARY_SOFTWARE, f"signed with unknown key {image.key_hash.hex()}")
    try:
        if isinstance(key, Ed25519PublicKey) and image.signature_kind is SignatureKind.ED25519:
            key.verify(image.signature, image.image_digest)
        elif isinstance(key, EllipticCurvePublicKey) and image.signature_kind is SignatureKind.ECDSA_P256:
            key.verify(image.signature, image.image_digest, ECDSA(Prehashed(SHA256())))
        else:
            raise TrustError(
                Attack.ARBITRARY_SOFTWARE,
                f"the signature is {image.signature_kind.name}, the key of another kind",
            )
    except InvalidSignature as error:
        raise TrustError(Attack.ARBITRARY_SOFTWARE, "the image signature is invalid") from error
    return image


# A plain integer: the complement of an IntFlag stops at its highest member, and higher bits would pass.
_FLAGS_KNOWN: Final = int(ImageFlag.NON_BOOTABLE | ImageFlag.RAM_LOAD | ImageFlag.ROM_FIXED)


@dataclass(frozen=True, slots=True)
class _Bounds:
    header: Any  # A construct container; its fields are those of HEADER_LAYOUT.
    payload_end: int
    protected_end: int
    end: int


@dataclass(frozen=True, slots=True)
class _Protected:
    security_counter: int
    hardware_class: HardwareClass
    role: ImageRole
    dependencies: tuple[ImageDependency, ...]
    custom_tlvs: tuple[tuple[int, bytes], ...]


def _bounds(data: bytes) -> _Bounds:
    if len(data) < HEADER_SIZE_BYTES:
        raise ImageError("header", expected=f"{HEADER_SIZE_BYTES} bytes", received=f"{len(data)}", offset=0)
    if data[:4] == IMAGE_MAGIC.to_bytes(4, "big"):
        raise ImageError(
            "header", expected="a little-endian image (imgtool sign -e little)", received="a big-endian one", offset=0
        )
    if data[:4] != IMAGE_MAGIC.to_bytes(4, "little"):
        raise ImageError("header", expected=f"magic {IMAGE_MAGIC:#x}", received=data[:4].hex(), offset=0)
    try:
        header = HEADER_LAYOUT.parse(data[:HEADER_SIZE_BYTES])
    except ConstructError as error:
        # The only constant left is the reserved word.
        raise ImageError("header", expected="reserved word 0", received=data[28:32].hex(), offset=28) from error
    for flags, what in ((ENCRYPTED_FLAGS, "encrypted"), (COMPRESSED_FLAGS, "compressed")):
        if header.flags & flags:
            raise ImageError(
                "header",
                expected=f"an image that is not {what}",
                received=f"flags {header.flags:#x}: {what}",
                offset=16,
            )
    if header.header_size_bytes < HEADER_SIZE_BYTES:
        raise ImageError(
            "header", expected=f"header size >= {HEADER_SIZE_BYTES}", received=f"{header.header_size_bytes}", offset=8
        )
    payload_end = header.header_size_bytes + header.payload_size_bytes
    if payload_end > IMAGE_SIZE_BYTES_MAX:
        raise ImageError(
            "header", expected=f"at most {IMAGE_SIZE_BYTES_MAX} bytes", received=f"{payload_end}", offset=12
        )
    protected_end = payload_end + _area_size(data, payload_end, PROTECTED_MAGIC)
    if header.protected_size_bytes != protected_end - payload_end:
        raise ImageError(
            "header",
            expected=f"protected size {protected_end - payload_end}",
            received=f"{header.protected_size_bytes}",
            offset=10,
        )
    end = protected_end + _area_size(data, protected_end, UNPROTECTED_MAGIC)
    return _Bounds(header, payload_end, protected_end, end)


def _refuse_rest(data: bytes, end: int) -> NoReturn:
    """Say what the bytes behind an image are; imgtool makes images for a slot of MCUboot's, with its trailer."""
    rest = data[end:]
    tail = rest[-len(TRAILER_MAGIC) :]
    has_trailer = tail == TRAILER_MAGIC or tail[2:] == TRAILER_MAGIC_TAIL
    flags = rest[: -len(TRAILER_MAGIC)][-TRAILER_FLAGS_BYTES:] if has_trailer else b""
    if 0x01 in flags:
        raise ImageError(
            "image",
            expected=f"{end} bytes that are not confirmed already (imgtool sign without --confirm and --pad)",
            received=f"{len(data)}: padded, and confirmed in the trailer",
            offset=end,
        )
    if has_trailer or set(rest) in ({0xFF}, {0x00}):
        raise ImageError(
            "image",
            expected=f"{end} bytes without padding (imgtool sign without --pad)",
            received=f"{len(data)}: padded",
            offset=end,
        )
    raise ImageError("image", expected=f"{end} bytes", received=f"{len(data)}", offset=end)


def _area_size(data: bytes, offset: int, magic: int) -> int:
    """The size of the TLV area at *offset*, its info header included."""
    info = data[offset : offset + TLV_INFO_SIZE_BYTES]
    if len(info) < TLV_INFO_SIZE_BYTES:
        raise ImageError("TLV area", expected=f"{TLV_INFO_SIZE_BYTES} bytes", received=f"{len(info)}", offset=offset)
    area = TLV_INFO_LAYOUT.parse(info)
    if area.magic != magic:
        raise ImageError("TLV area", expected=f"magic {magic:#x}", received=f"{area.magic:#x}", offset=offset)
    size = int(area.size_bytes)
    # An area of the info header alone is never written: it would be left out.
    if size <= TLV_INFO_SIZE_BYTES or offset + size > len(data):
        room = len(data) - offset
        raise ImageError("TLV area", expected=f"a size of 5..{room}", received=f"{size}", offset=offset + 2)
    return size


def _parse_tlvs(data: bytes, start: int, end: int) -> list[tuple[int, bytes]]:
    """Cut an area into TLVs that fill it exactly."""
    tlvs: list[tuple[int, bytes]] = []
    offset = start
    while offset < end:  # Moves on by at least the TLV header, so at most 16 K turns.
        try:
            tlv = TLV_LAYOUT.parse(data[offset:end])
        except ConstructError as error:
            raise ImageError("TLV", expected="a TLV inside its area", received="one cut off", offset=offset) from error
        tlvs.append((int(tlv.type), bytes(tlv.value)))
        offset += TLV_HEADER_SIZE_BYTES + tlv.length
    return tlvs


def _parse_protected(tlvs: list[tuple[int, bytes]], offset: int) -> _Protected:
    """Take the protected TLVs in the one order they are written: imgtool's, then ours by rising number."""
    rest = list(tlvs)

    def take(number: TlvType, size_bytes: int, hint: str) -> bytes:
        if not rest or rest[0][0] != number or len(rest[0][1]) != size_bytes:
            found = f"{rest[0][0]:#x} of {len(rest[0][1])} bytes" if rest else "the end of the area"
            raise ImageError(
                "protected TLVs",
                expected=f"{number.name} {number:#x} of {size_bytes} bytes ({hint})",
                received=found,
                offset=offset,
            )
        return rest.pop(0)[1]

    counter = COUNTER_LAYOUT.parse(take(TlvType.SECURITY_COUNTER, 4, "imgtool -s"))
    dependencies: list[ImageDependency] = []
    while rest and rest[0][0] == TlvType.DEPENDENCY:
        if len(dependencies) == DEPENDENCIES_MAX:
            raise ImageError(
                "protected TLVs", expected=f"at most {DEPENDENCIES_MAX} dependencies", received="more", offset=offset
            )
        dependencies.append(
            _parse_dependency(take(TlvType.DEPENDENCY, DEPENDENCY_LAYOUT.sizeof(), "imgtool -d"), offset)
        )
    vendor_id = UUID(bytes=take(TlvType.VENDOR_ID, 16, "imgtool --vid"))
    class_id = UUID(bytes=take(TlvType.CLASS_ID, 16, "imgtool --cid"))
    role = _role(take(TlvType.ROLE, 1, "imgtool --custom-tlv 0xa0")[0], offset)
    return _Protected(counter, HardwareClass(vendor_id, class_id), role, tuple(dependencies), tuple(rest))


def _parse_dependency(value: bytes, offset: int) -> ImageDependency:
    try:
        fields = DEPENDENCY_LAYOUT.parse(value)
    except ConstructError as error:
        raise ImageError("dependency", expected="3 zero bytes", received=value[1:4].hex(), offset=offset) from error
    return ImageDependency(role=_role(fields.image_id, offset), version_min=_version(fields.version))


def _parse_unprotected(tlvs: list[tuple[int, bytes]], offset: int) -> tuple[SignatureKind, bytes, bytes, bytes]:
    """Exactly digest, key hash, one signature. Nothing here is signed, so nothing more may stand here."""
    found = [number for number, _ in tlvs]
    if len(tlvs) != 3 or found[:2] != [TlvType.SHA256, TlvType.KEY_HASH] or found[2] not in tuple(SignatureKind):
        raise ImageError(
            "TLVs",
            expected="SHA256, KEYHASH and one Ed25519 or ECDSA signature",
            received=" ".join(f"{number:#x}" for number in found[:8]) or "none",
            offset=offset,
        )
    (_, digest), (_, name), (kind, signature) = tlvs
    if len(digest) != DIGEST_SIZE_BYTES or len(name) != DIGEST_SIZE_BYTES:
        raise ImageError("TLVs", expected="digests of 32 bytes", received=f"{len(digest)}, {len(name)}", offset=offset)
    return SignatureKind(kind), digest, name, signature


def _role(number: int, offset: int) -> ImageRole:
    try:
        return ImageRole(number)
    except ValueError as error:
        raise ImageError("role", expected="0 (master) or 1 (slave)", received=str(number), offset=offset) from error


def _version(fields: Any) -> ImageVersion:
    return ImageVersion(fields.major, fields.minor, fields.revision, fields.build)


def _check_values(image: FirmwareImage) -> None:
    """What the format allows, for images we build as for those we are given."""

    def expect(condition: bool, where: str, expected: str, received: object) -> None:
        if not condition:
            raise ImageError(where, expected=expected, received=str(received))

    expect(
        HEADER_SIZE_BYTES <= image.header_size_bytes <= 0xFFFF,
        "header size",
        f"{HEADER_SIZE_BYTES}..65535",
        image.header_size_bytes,
    )
    expect(image.header_fill in _HEADER_FILLS, "header fill", "0xff or 0x00", f"{image.header_fill:#x}")
    expect(
        PAYLOAD_SIZE_BYTES_MIN <= len(image.payload) <= IMAGE_SIZE_BYTES_MAX,
        "payload",
        f"{PAYLOAD_SIZE_BYTES_MIN}..{IMAGE_SIZE_BYTES_MAX} bytes",
        len(image.payload),
    )
    expect(0 <= image.security_counter <= 0xFFFF_FFFF, "security counter", "32 bits", image.security_counter)
    expect(0 <= image.load_address <= 0xFFFF_FFFF, "load address", "32 bits", image.load_address)
    expect(not int(image.flags) & ~_FLAGS_KNOWN, "flags", "known flags", f"{int(image.flags):#x}")
    has_address = image.flags & (ImageFlag.RAM_LOAD | ImageFlag.ROM_FIXED)
    expect(
        has_address != ImageFlag.RAM_LOAD | ImageFlag.ROM_FIXED, "flags", "RAM_LOAD or ROM_FIXED", f"{image.flags!r}"
    )
    expect(
        bool(image.load_address) == bool(has_address),
        "load address",
        "an address with RAM_LOAD or ROM_FIXED, 0 without",
        f"{image.load_address:#x} with {image.flags!r}",
    )
    expect(len(image.dependencies) <= DEPENDENCIES_MAX, "dependencies", f"at most {DEPENDENCIES_MAX}", "more")
    numbers = [number for number, _ in image.custom_tlvs]
    expect(
        all(CUSTOM_TLV_MIN <= number <= CUSTOM_TLV_MAX for number in numbers) and numbers == sorted(set(numbers)),
        "custom TLVs",
        f"rising numbers {CUSTOM_TLV_MIN:#x}..{CUSTOM_TLV_MAX:#x}",
        [hex(number) for number in numbers[:8]],
    )
    size = _protected_size_bytes(image)
    expect(size <= TLV_AREA_SIZE_BYTES_MAX, "protected TLVs", f"at most {TLV_AREA_SIZE_BYTES_MAX} bytes", size)
    if image.signature:
        _check_signature_form(image)


def _check_signature_form(image: FirmwareImage) -> None:
    if image.signature_kind is SignatureKind.ED25519:
        if len(image.signature) != ED25519_SIGNATURE_SIZE_BYTES:
            raise ImageError("signature", expected="64 bytes", received=str(len(image.signature)))
        return
    try:
        _, s = decode_dss_signature(image.signature)  # Takes strict DER only: one encoding for two numbers.
    except ValueError as error:
        raise ImageError("signature", expected="a DER ECDSA signature", received="other bytes") from error
    if s > P256_ORDER // 2:
        # n - s verifies as well: two files of one image would have two digests.
        raise ImageError(
            "signature",
            expected="an ECDSA signature with low S (bmsota.image.with_low_s makes it so, without the key)",
            received="one with high S",
        )


def _low_s(signature: bytes) -> bytes:
    r, s = decode_dss_signature(signature)
    return encode_dss_signature(r, min(s, P256_ORDER - s))


def _tlv(number: int, value: bytes) -> bytes:
    built: bytes = TLV_LAYOUT.build({"type": number, "length": len(value), "value": value})
    return built


def _area(magic: int, body: bytes) -> bytes:
    info: bytes = TLV_INFO_LAYOUT.build({"magic": magic, "size_bytes": TLV_INFO_SIZE_BYTES + len(body)})
    return info + body


def _version_fields(version: ImageVersion) -> dict[str, int]:
    return {"major": version.major, "minor": version.minor, "revision": version.revision, "build": version.build}


def _protected_size_bytes(image: FirmwareImage) -> int:
    values = [4, 16, 16, 1]  # Counter, vendor, class, role.
    values += [DEPENDENCY_LAYOUT.sizeof()] * len(image.dependencies)
    values += [len(value) for _, value in image.custom_tlvs]
    return TLV_INFO_SIZE_BYTES + sum(TLV_HEADER_SIZE_BYTES + size for size in values)


def _signed_part(image: FirmwareImage) -> bytes:
    """Header, payload and protected area: everything the digest covers."""
    header: bytes = HEADER_LAYOUT.build(
        {
            "load_address": image.load_address,
            "header_size_bytes": image.header_size_bytes,
            "protected_size_bytes": _protected_size_bytes(image),
            "payload_size_bytes": len(image.payload),
            "flags": int(image.flags),
            "version": _version_fields(image.version),
        }
    )
    tlvs = [(TlvType.SECURITY_COUNTER, COUNTER_LAYOUT.build(image.security_counter))]
    tlvs += [
        (
            TlvType.DEPENDENCY,
            DEPENDENCY_LAYOUT.build(
                {"image_id": int(dependency.role), "version": _version_fields(dependency.version_min)}
            ),
        )
        for dependency in image.dependencies
    ]
    tlvs += [
        (TlvType.VENDOR_ID, image.hardware_class.vendor_id.bytes),
        (TlvType.CLASS_ID, image.hardware_class.class_id.bytes),
        (TlvType.ROLE, bytes([image.role])),
    ]
    body = b"".join(_tlv(number, value) for number, value in [*tlvs, *image.custom_tlvs])
    fill = bytes([image.header_fill]) * (image.header_size_bytes - HEADER_SIZE_BYTES)
    return header + fill + image.payload + _area(PROTECTED_MAGIC, body)


def _signature_part(image: FirmwareImage) -> bytes:
    return _area(
        UNPROTECTED_MAGIC,
        _tlv(TlvType.SHA256, image.image_digest)
        + _tlv(TlvType.KEY_HASH, image.key_hash)
        + _tlv(image.signature_kind, image.signature),
    )
