"""The keys of a run: what its units trust, and what they sign with. By default those of the samples, and keys that the seed draws.

A keys file is TOML; paths in it are relative to it:

    order = ["cloud-data/keys/order_public.pem"]    # who signs upgrade orders: nobody by default
    manifest = ["keys/release.pem"]                 # who signs releases
    image = ["keys/image.pem"]                      # who signs images
    devices = "keys/devices"                        # VIN.pem: a vehicle's own private key
"""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.adapters.releases import load_access_key, load_image_keys, load_manifest_keys
from bmsota.errors import ConfigurationError
from bmsota.master import UnitKeys
from bmsota_sim import defaults
from bmsota_sim.run.places import did_you_mean, shown
from bmsota_sim.streams import stream_bytes

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping
    from pathlib import Path

    from bmsota_sim.identity import VirtualUnitIdentity

__all__ = ["RunKeys", "load_run_keys", "strange_keys"]

_SETTINGS = ("order", "manifest", "image", "devices")
# A folder with more holds something else.
_DEVICES_MAX = 100_000


@dataclass(frozen=True, slots=True)
class RunKeys:
    """Public keys that every unit trusts, and private ones of single vehicles."""

    trusted: UnitKeys = field(default_factory=defaults.unit_keys)
    devices: Mapping[str, Ed25519PrivateKey] = field(default_factory=dict)
    """By VIN; a vehicle that is not in it has the key that the seed draws."""

    def own(self, identity: VirtualUnitIdentity) -> VirtualUnitIdentity:
        """*identity* with its own device key, if it has one."""
        key = self.devices.get(identity.vin)
        return identity if key is None else replace(identity, device_secret=key.private_bytes_raw())

    def check(self, vins: Iterable[str]) -> None:
        """See that the device keys are of this fleet.

        Raises:
            ConfigurationError: there are some, and not one belongs to any of *vins*.
        """
        fleet = list(vins)
        if self.devices and self.devices.keys().isdisjoint(fleet):
            raise ConfigurationError(
                f"keys: {len(self.devices)} device keys, none for a vehicle of the scenario; "
                f"expected files named VIN.pem, such as {fleet[0]}.pem, got {next(iter(self.devices))}.pem"
            )


def strange_keys(keys: UnitKeys, seed: int, unit: str) -> UnitKeys:
    """*keys* with another manifest key: the unit rejects every release."""
    other = Ed25519PrivateKey.from_private_bytes(stream_bytes(seed, unit, "strange manifest key")).public_key()
    return replace(keys, manifest_keys=(other,))


def load_run_keys(file: Path | None, order_key: Path | None = None) -> RunKeys:
    """Read the keys file, and one more key for orders.

    Raises:
        ConfigurationError: a file is missing, no key, or has a setting that there is not.
    """
    settings = {} if file is None else _settings(file)
    folder = None if file is None else file.parent

    def paths(name: str) -> list[Path]:
        value = settings.get(name, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise ConfigurationError(f"{file}: {name}: expected a list of paths, got {shown(value)}")
        assert folder is not None or not value
        return [folder / item for item in value] if folder is not None else []

    base = defaults.unit_keys()
    orders = [*paths("order"), *([] if order_key is None else [order_key])]
    trusted = UnitKeys(
        image_keys=load_image_keys(paths("image")) or base.image_keys,
        manifest_keys=load_manifest_keys(paths("manifest")) or base.manifest_keys,
        order_keys=load_manifest_keys(orders),
    )
    devices: dict[str, Ed25519PrivateKey] = {}
    if "devices" in settings:
        name = settings["devices"]
        if not isinstance(name, str):
            raise ConfigurationError(f"{file}: devices: expected the path of a folder, got {shown(name)}")
        assert folder is not None
        devices = _devices(folder / name)
    return RunKeys(trusted, devices)


def _settings(file: Path) -> dict[str, Any]:
    try:
        settings = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ConfigurationError(f"no such file: {file}") from error
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigurationError(f"{file}: {error}") from error
    for name in settings:
        if name not in _SETTINGS:
            raise ConfigurationError(f"{file}: {name}: no such setting{did_you_mean(name, _SETTINGS)}")
    return settings


def _devices(folder: Path) -> dict[str, Ed25519PrivateKey]:
    if not folder.is_dir():
        raise ConfigurationError(f"no such folder: {folder}")
    files = sorted(folder.glob("*.pem"))
    if not 0 < len(files) <= _DEVICES_MAX:
        raise ConfigurationError(f"{folder}: expected 1 to {_DEVICES_MAX:,} files named VIN.pem, got {len(files):,}")
    return {path.stem: load_access_key(path) for path in files}
