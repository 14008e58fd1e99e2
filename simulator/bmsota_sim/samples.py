"""The sample images, release manifests and keys that virtual units trust.

They stand in `firmware_images/` at the top of a checkout, beside the recipe that makes them, and are copied into this package
(`bmsota_sim/_data`) when the wheel is built. The private sample keys do not ship: they are derived here from a sentence, so
they are as public as this text. Never trust them outside a test.
"""

from __future__ import annotations

import hashlib
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bmsota.errors import ConfigurationError

if TYPE_CHECKING:
    from importlib.resources.abc import Traversable

__all__ = ["SAMPLE_KEYS", "sample_file", "sample_key", "sample_key_files", "sample_names"]

# What a sample key signs.
SAMPLE_KEYS = ("image", "manifest")


def sample_key(purpose: str) -> Ed25519PrivateKey:
    """The private sample key for "image" or "manifest": worthless, because it can be computed from this source."""
    sentence = f"bmsota SAMPLE {purpose} key. Published on purpose, never trust it outside a test."
    return Ed25519PrivateKey.from_private_bytes(hashlib.sha256(sentence.encode()).digest())


def sample_key_files() -> dict[str, bytes]:
    """Both halves of the sample keys as PEM, by the names they have below `firmware_images/`."""
    files: dict[str, bytes] = {}
    for purpose in SAMPLE_KEYS:
        key = sample_key(purpose)
        notice = f"SAMPLE {purpose} key of the bmsota project. Published on purpose, never trust it outside a test.\n"
        private = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        public = key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        files[f"keys/{purpose}.SAMPLE.private.pem"] = notice.encode() + private
        files[f"keys/{purpose}.SAMPLE.public.pem"] = notice.encode() + public
    return files


def sample_names() -> tuple[str, ...]:
    """The names that `sample_file` knows, sorted; keys as `keys/name`."""
    images = (item.name for item in _folder().iterdir() if item.name.endswith((".bin", ".cose")))
    return tuple(sorted([*images, *sample_key_files()]))


def sample_file(name: str) -> bytes:
    """The bytes of a sample image, manifest or key, by its path below `firmware_images/`.

    Raises:
        ConfigurationError: there is no sample of that name.
    """
    # Compared with the listing, so that a name with ".." in it cannot leave the folder.
    if name not in sample_names():
        raise ConfigurationError(f"no sample file {name!r}; there are {', '.join(sample_names())}")
    keys = sample_key_files()
    return keys[name] if name in keys else _folder().joinpath(name).read_bytes()


def _folder() -> Traversable:
    inside = resources.files("bmsota_sim").joinpath("_data", "firmware_images")
    return inside if inside.is_dir() else Path(__file__).resolve().parents[2] / "firmware_images"  # A checkout.
