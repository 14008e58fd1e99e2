"""What virtual units are made with by default: sample images, keys and DBC files, all of which ship with the product.

`Fleet` takes others as arguments.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota.adapters.files import packaged_database
from bmsota.master import UnitKeys
from bmsota_sim.devices.unit import FactoryImages
from bmsota_sim.samples import sample_file, sample_key, sample_names

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

    from bmsota.signals import Database

__all__ = [
    "FACTORY_VERSION",
    "database",
    "factory_images",
    "release_files",
    "unit_keys",
]

FACTORY_VERSION = "2.0.0"
"""What the units run when they are new."""


def database(name: str) -> Database:
    """A packaged DBC."""
    return packaged_database(name)


def unit_keys(*order_keys: Ed25519PublicKey) -> UnitKeys:
    """The keys that a unit trusts: those of the samples, and *order_keys* for upgrade orders."""
    return UnitKeys(
        image_keys=(sample_key("image").public_key(),),
        manifest_keys=(sample_key("manifest").public_key(),),
        order_keys=order_keys,
    )


def factory_images(series: str) -> FactoryImages:
    """The images that new masters and slaves of *series* run.

    Raises:
        ConfigurationError: there are no samples for this series.
    """
    return FactoryImages(
        sample_file(f"{series}-master-{FACTORY_VERSION}.bin"),
        sample_file(f"{series}-slave-{FACTORY_VERSION}.bin"),
    )


def release_files(series: str, version: str) -> tuple[bytes, list[bytes]]:
    """A sample release: its signed manifest and its images.

    Raises:
        ConfigurationError: there is no such release.
    """
    images = [
        sample_file(name)
        for name in sample_names()
        if name.startswith(f"{series}-") and name.endswith(f"-{version}.bin")
    ]
    return sample_file(f"{series}-{version}.manifest.cose"), images
