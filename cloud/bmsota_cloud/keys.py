"""The platform's keys on disk, and the sample keys that it warns of.

The private halves of the sample keys are published with this project, so that tests and demos can sign releases. A
platform that trusts one accepts releases from anyone; therefore they are known here by their digests.
"""

from __future__ import annotations

import os
from contextlib import suppress
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bmsota.errors import ConfigurationError
from bmsota.image import key_hash, load_public_key, load_signing_key
from bmsota_cloud.folders import make_folder
from bmsota_cloud.services import PlatformKeys

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from bmsota.image import PublicKey

__all__ = ["SAMPLE_KEY_HASHES", "load_keys", "sample_key_warning"]

SAMPLE_KEY_HASHES = {
    bytes.fromhex("838f741d27c5ad4fed8089cb6e1cd11c51846e02557fd46a5ee643ae0bd99de8"): "image",
    bytes.fromhex("f10fcb2b845871264498fdda30e2b412a0b1da7df410494e37ec24f6380ffa1d"): "manifest",
}
"""SHA-256 of each sample key's SubjectPublicKeyInfo (`bmsota.image.key_hash`), and what the key signs."""


def load_keys(
    data_dir: Path,
    *,
    manifest_keys: Sequence[Path],
    image_keys: Sequence[Path],
    draw: Callable[[int], bytes] = os.urandom,
) -> PlatformKeys:
    """Read the keys of a platform; its own order key is made at the first start and kept in `data_dir/keys`.

    Raises:
        ConfigurationError: a file is missing, no key, or of the wrong kind; or the folder can't be made.
    """
    folder = data_dir / "keys"
    private_path = folder / "order_private.pem"
    make_folder(folder)
    try:
        if not private_path.exists():
            made = Ed25519PrivateKey.from_private_bytes(draw(32))
            _write_once(private_path, made.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()), mode=0o600)
        order_key = load_signing_key(private_path.read_bytes())
        # Units are provisioned with this one.
        public = order_key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        _write_once(folder / "order_public.pem", public, mode=0o644)
        manifest = [_ed25519(path, _read_public_key(path)) for path in manifest_keys]
        image = [_read_public_key(path) for path in image_keys]
    except FileNotFoundError as error:
        raise ConfigurationError(f"no such key file: {error.filename}") from error
    except OSError as error:
        raise ConfigurationError(f"cannot read or write the key {error.filename}: {error.strerror}") from error
    if not isinstance(order_key, Ed25519PrivateKey):
        raise ConfigurationError(f"{private_path}: expected an Ed25519 key, got P-256")
    return PlatformKeys(
        order_signing_key=order_key, manifest_public_keys=tuple(manifest), image_public_keys=tuple(image)
    )


def _write_once(path: Path, data: bytes, *, mode: int) -> None:
    """Make the file whole and synced, unless it is there: another process may make it now, and this one may die at any moment."""
    if path.exists():
        return
    unfinished = path.with_name(f"{path.name}.{os.urandom(8).hex()}")
    try:
        with os.fdopen(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "wb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        # Unlike a renaming, it never takes the place of what another process has made.
        with suppress(FileExistsError):
            os.link(unfinished, path)
        descriptor = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    finally:
        unfinished.unlink(missing_ok=True)


def sample_key_warning(keys: PlatformKeys) -> str:
    """One sentence if *keys* has a sample's key; empty if it has none."""
    trusted = (keys.order_signing_key.public_key(), *keys.manifest_public_keys, *keys.image_public_keys)
    found = sorted({SAMPLE_KEY_HASHES[digest] for key in trusted if (digest := key_hash(key)) in SAMPLE_KEY_HASHES})
    if not found:
        return ""
    which = "key, whose private half is" if len(found) == 1 else "keys, whose private halves are"
    return (
        f"this platform uses the sample {' and '.join(found)} {which} published: anyone can sign for it; "
        "use sample keys for tests only"
    )


def _read_public_key(path: Path) -> PublicKey:
    try:
        return load_public_key(path.read_bytes())
    except ConfigurationError as error:
        raise ConfigurationError(f"{path}: {error}") from error


def _ed25519(path: Path, key: PublicKey) -> Ed25519PublicKey:
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path}: expected an Ed25519 key, got P-256")
    return key
