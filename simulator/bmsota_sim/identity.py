"""Who the virtual units are: VIN, hardware ids, device keys, all a function of the seed.

A VIN is 17 characters without I, O and Q; position 9 is the check digit of ISO 3779 as used in North America and China
(GB 16735). The manufacturer part `LBM` is made up.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota.errors import ConfigurationError
from bmsota_sim.streams import stream_bytes

__all__ = ["VirtualUnitIdentity", "device_secret", "slave_hwid", "unit_identity", "vin", "vin_with_check_digit"]

_VALUES = dict(zip("0123456789ABCDEFGHJKLMNPRSTUVWXYZ", [*range(10), *range(1, 9), *range(1, 6), 7, 9, *range(2, 10)], strict=True))  # fmt: skip
_WEIGHTS = (8, 7, 6, 5, 4, 3, 2, 10, 0, 9, 8, 7, 6, 5, 4, 3, 2)


def vin(series: str, number: int) -> str:
    """The VIN of vehicle *number*, with a valid check digit (GB 16735, 6.3).

    Raises:
        ConfigurationError: series and number do not fit.
    """
    body = f"LBM{series:0>2}EV00R0{number:06d}"
    if len(body) != 17 or not set(body) <= set(_VALUES):
        # Cut to length, two vehicles would share a VIN.
        raise ConfigurationError(
            f"VIN: expected a series of at most 2 capitals or digits without I, O, Q and a number below 10^6, "
            f"got {series!r} and {number}"
        )
    return vin_with_check_digit(body)


def vin_with_check_digit(body: str) -> str:
    """17 characters with the right one at position 9 (GB 16735, 6.3), whatever was there."""
    total = sum(_VALUES[character] * weight for character, weight in zip(body, _WEIGHTS, strict=True))
    check = "X" if total % 11 == 10 else str(total % 11)
    return body[:8] + check + body[9:]


@dataclass(frozen=True, slots=True)
class VirtualUnitIdentity:
    """What distinguishes one virtual unit from every other."""

    number: int
    vin: str
    iccid: str
    master_hwid: str
    slave_hwids: tuple[str, ...]
    device_secret: bytes = field(repr=False)
    """Of `device_key`: a key object for each of tens of thousands of units would be six times as large."""

    @property
    def device_key(self) -> Ed25519PrivateKey:
        """The Ed25519 key that the master's secure element would hold."""
        return Ed25519PrivateKey.from_private_bytes(self.device_secret)

    @property
    def name(self) -> str:
        """Its name in a run: V01, V02, ..."""
        return f"V{self.number:02d}"


def device_secret(seed: int, owner: str) -> bytes:
    """32 bytes, of which the Ed25519 key of *owner* is made."""
    return stream_bytes(seed, owner, "device key")


def slave_hwid(seed: int, number: int, position: int, *, generation: int = 0) -> str:
    """16 characters; a replaced slave is the next *generation* at the same position."""
    digest = stream_bytes(seed, f"{number}/{position}", f"slave hwid {generation}")
    return (f"S{number:04d}{position:02d}" + digest.hex()[:9].upper())[:16]


def unit_identity(seed: int, series: str, number: int, slave_count: int) -> VirtualUnitIdentity:
    """The identity of vehicle *number* in the run with *seed*."""
    its_vin = vin(series, number)
    return VirtualUnitIdentity(
        number=number,
        vin=its_vin,
        iccid=f"898600{int.from_bytes(stream_bytes(seed, its_vin, 'iccid')[:5]) % 10**14:014d}",
        master_hwid=f"M{number:04d}{stream_bytes(seed, its_vin, 'master hwid').hex()[:11].upper()}"[:16],
        slave_hwids=tuple(slave_hwid(seed, number, position) for position in range(1, slave_count + 1)),
        device_secret=device_secret(seed, its_vin),
    )
