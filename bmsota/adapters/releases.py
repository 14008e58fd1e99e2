"""Read what is to be flashed from files: a release manifest with its images in the same folder, or one signed image.

An image may also be wrapped as Intel HEX, Motorola S-record or ELF (bincopy unwraps them). The kind of a file is detected from its
content. The images of a release are found by the digests in its manifest, whatever their names.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import TYPE_CHECKING

from bmsota.errors import ConfigurationError, ImageError, MissingExtraError, TrustError

try:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
except ImportError as error:
    raise MissingExtraError("bmsota.adapters.releases", "cryptography", "trust") from error

from bmsota.flashing import Check, FlashSource, SourceError, SourceFault
from bmsota.image import (
    IMAGE_SIZE_BYTES_MAX,
    Attack,
    image_length,
    load_public_key,
    load_signing_key,
    parse_image,
    verify_image,
)
from bmsota.ota import MANIFEST_SIZE_BYTES_MAX, parse_manifest, verify_manifest

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bmsota.adapters.files import FilePath
    from bmsota.image import PublicKey
    from bmsota.ota import ReleaseImage, ReleaseManifest

__all__ = ["load_access_key", "load_image_keys", "load_manifest_keys", "load_source"]

_IMAGE_MAGIC = b"\x3d\xb8\xf3\x96"
_COSE_SIGN1 = b"\xd2"  # CBOR tag 18: what a manifest begins with.
_ELF_MAGIC = b"\x7fELF"
# The text formats take three bytes for one at worst, with short lines.
_FILE_SIZE_BYTES_MAX = 4 * IMAGE_SIZE_BYTES_MAX
# A folder with more is no release's.
_FOLDER_FILES_MAX = 10_000
_ERASED = b"\xff"


def load_source(path: FilePath, manifest_keys: Sequence[Ed25519PublicKey] = ()) -> FlashSource:
    """Read a release (its manifest) or one image. Without *manifest_keys* a manifest's signature is not checked.

    Raises:
        SourceError: FILE_MISSING, FILE_UNREADABLE, NOT_AN_IMAGE, IMAGE_DAMAGED, BAD_MANIFEST, IMAGE_MISSING, or the check MANIFEST_SIGNATURE.
    """
    file = Path(path)
    data = _read(file)
    if data[:1] == _COSE_SIGN1:
        return _release(file, data, manifest_keys)
    return _image(file, data)


def load_image_keys(paths: Iterable[FilePath]) -> tuple[PublicKey, ...]:
    """Public keys that images are signed with, from PEM files.

    Raises:
        SourceError: FILE_MISSING, FILE_UNREADABLE or BAD_KEY.
    """
    return tuple(_key(Path(path)) for path in paths)


def load_manifest_keys(paths: Iterable[FilePath]) -> tuple[Ed25519PublicKey, ...]:
    """Public keys that manifests are signed with, from PEM files.

    Raises:
        SourceError: FILE_MISSING, FILE_UNREADABLE or BAD_KEY.
    """
    keys: list[Ed25519PublicKey] = []
    for path in paths:
        key = _key(Path(path))
        if not isinstance(key, Ed25519PublicKey):
            raise SourceError(SourceFault.BAD_KEY, f"{path}: expected an Ed25519 key, got {type(key).__name__}")
        keys.append(key)
    return tuple(keys)


def load_access_key(path: FilePath) -> Ed25519PrivateKey:
    """The private key that unlocks locked nodes, from a PEM file without a password.

    Raises:
        SourceError: FILE_MISSING, FILE_UNREADABLE or BAD_KEY.
    """
    try:
        key = load_signing_key(_read(Path(path)))
    except ConfigurationError as error:
        raise SourceError(SourceFault.BAD_KEY, f"{path}: {error}") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise SourceError(SourceFault.BAD_KEY, f"{path}: expected an Ed25519 key, got {type(key).__name__}")
    return key


def _key(path: Path) -> PublicKey:
    try:
        return load_public_key(_read(path))
    except ConfigurationError as error:
        raise SourceError(SourceFault.BAD_KEY, f"{path}: {error}") from error


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(_FILE_SIZE_BYTES_MAX + 1)
    except FileNotFoundError as error:
        raise SourceError(SourceFault.FILE_MISSING, f"no such file: {path}") from error
    except IsADirectoryError as error:
        raise SourceError(SourceFault.FILE_UNREADABLE, f"{path} is a folder") from error
    except OSError as error:
        raise SourceError(SourceFault.FILE_UNREADABLE, f"{path}: {error.strerror or error}") from error
    if len(data) > _FILE_SIZE_BYTES_MAX:
        raise SourceError(SourceFault.NOT_AN_IMAGE, f"{path}: larger than {_FILE_SIZE_BYTES_MAX} bytes")
    return data


# ---- one image


def _image(path: Path, data: bytes) -> FlashSource:
    if data[: len(_IMAGE_MAGIC)] != _IMAGE_MAGIC:
        data = _unwrapped(path, data)
    try:
        source = FlashSource.of_image(path.name, data)
    except ImageError as error:
        raise SourceError(SourceFault.NOT_AN_IMAGE, f"{path}: {error}") from error
    try:
        verify_image(data, public_keys=())
    except TrustError as error:
        # Without a key only the digest can be compared; a node would find it wrong after the whole transfer.
        if error.attack == Attack.CORRUPTED_DATA:
            raise SourceError(SourceFault.IMAGE_DAMAGED, f"{path}: the content does not match its digest") from error
    return source


def _unwrapped(path: Path, data: bytes) -> bytes:
    """The signed image inside a HEX, S-record or ELF file."""
    import bincopy  # noqa: PLC0415 - brings an ELF parser; most images come as they are

    binary = bincopy.BinFile()
    try:
        if data[: len(_ELF_MAGIC)] == _ELF_MAGIC:
            binary.add_elf(data)
        else:
            binary.add(data.decode("ascii"))
        start, end = binary.minimum_address or 0, binary.maximum_address or 0
        # Two segments far apart would be filled with gigabytes of nothing.
        content = bytes(binary.as_binary(padding=_ERASED)) if end - start <= IMAGE_SIZE_BYTES_MAX else b""
    except Exception as error:
        # bincopy and its ELF parser raise whatever they stumble over.
        raise SourceError(
            SourceFault.NOT_AN_IMAGE, f"{path} is neither a signed image nor a release manifest"
        ) from error
    if not content:
        raise SourceError(
            SourceFault.NOT_AN_IMAGE,
            f"{path}: expected 1 to {IMAGE_SIZE_BYTES_MAX} bytes of content, got {end - start}",
        )
    try:
        length = image_length(content)
    except ImageError as error:
        raise SourceError(SourceFault.NOT_AN_IMAGE, f"{path} (unwrapped): {error}") from error
    # A slot's rest is erased flash; anything else behind the image is not ours to leave out.
    return content[:length] if not content[length:].strip(_ERASED) else content


# ---- a release


def _release(path: Path, data: bytes, keys: Sequence[Ed25519PublicKey]) -> FlashSource:
    try:
        manifest = verify_manifest(data, keys) if keys else parse_manifest(data)
    except TrustError as error:
        if error.attack == Attack.ARBITRARY_SOFTWARE:
            keys_text = "the given key" if len(keys) == 1 else "any of the given keys"
            raise SourceError(
                Check.MANIFEST_SIGNATURE,
                f"{path}: the signature does not fit {keys_text}: the manifest was changed, or signed with another key",
            ) from error
        raise SourceError(SourceFault.BAD_MANIFEST, f"{path}: {error}") from error
    return FlashSource.of_release(manifest, _images(path, manifest), is_verified=bool(keys))


def _images(path: Path, manifest: ReleaseManifest) -> list[bytes]:
    """The images the manifest names, from the files in its folder."""
    wanted = {entry.sha256: entry for entry in manifest.images}
    sizes = {entry.size_bytes for entry in manifest.images}
    found: dict[bytes, bytes] = {}
    alike: dict[ReleaseImage, Path] = {}
    try:
        files = [
            each for each, _ in zip(sorted(path.resolve().parent.iterdir()), range(_FOLDER_FILES_MAX), strict=False)
        ]
    except OSError as error:
        raise SourceError(SourceFault.FILE_UNREADABLE, f"{path.parent}: {error.strerror or error}") from error
    for file in files:
        if not file.is_file() or file.stat().st_size > MANIFEST_SIZE_BYTES_MAX + IMAGE_SIZE_BYTES_MAX:
            continue
        if file.stat().st_size not in sizes and file.suffix.lower() != ".bin":
            continue
        content = _read(file)
        digest = hashlib.sha256(content).digest()
        if digest in wanted:
            found[digest] = content
        else:
            alike |= {entry: file for entry in manifest.images if _is_alike(content, entry)}
    for entry in manifest.images:
        if entry.sha256 not in found:
            other = f"; {alike[entry].name} looks like it, but its digest differs" if entry in alike else ""
            raise SourceError(
                SourceFault.IMAGE_MISSING,
                f"{path}: the {entry.role.name.lower()} image {entry.version} with SHA-256 {entry.sha256.hex()} is not in "
                f"the manifest's folder{other}",
            )
    return [found[entry.sha256] for entry in manifest.images]


def _is_alike(content: bytes, entry: ReleaseImage) -> bool:
    """Whether it claims to be this image although its digest differs: damaged, or built again."""
    try:
        facts = parse_image(content)
    except ImageError:
        return len(content) == entry.size_bytes and content[: len(_IMAGE_MAGIC)] == _IMAGE_MAGIC
    return (facts.role, facts.hardware_class, facts.version) == (entry.role, entry.hardware_class, entry.version)
