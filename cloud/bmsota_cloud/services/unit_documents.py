"""What a vehicle's unit has signed: believed only if it is this unit's word about itself, and newer than its last one."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from bmsota.errors import TrustError
from bmsota.ota import SEQUENCE_AHEAD_MAX

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota_cloud.domain.vehicles import Vehicle

__all__ = ["verified_document", "with_sequence"]


class _UnitDocument(Protocol):
    @property
    def vin(self) -> str: ...
    @property
    def hwid(self) -> str: ...
    @property
    def counter(self) -> int: ...


_Document = TypeVar("_Document", bound=_UnitDocument)


def verified_document(
    vehicle: Vehicle,
    document: bytes,
    verify: Callable[[bytes, Sequence[Ed25519PublicKey]], _Document],
    *,
    last_counter: int,
    what: str,
) -> _Document:
    """The document, if it is signed by this vehicle's unit and newer than the last of its kind; *what* it is, for the message.

    Raises:
        TrustError: it is not; `.attack` says what it looks like.
    """
    if vehicle.device_public_key is None:
        raise TrustError("no-device-key", f"{vehicle.vin} is registered without a device key; no {what} can be checked")
    found = verify(document, [Ed25519PublicKey.from_public_bytes(vehicle.device_public_key)])
    if (found.vin, found.hwid) != (vehicle.vin, vehicle.hwid):
        raise TrustError(
            "wrong-vehicle", f"expected the {what} of {vehicle.vin}/{vehicle.hwid}, got one of {found.vin}/{found.hwid}"
        )
    if found.counter <= last_counter:
        raise TrustError("replay", f"expected a counter above {last_counter}, got {found.counter}")
    return found


def with_sequence(vehicle: Vehicle, sequence: int) -> Vehicle:
    """The vehicle, with the next order above *sequence*, the highest that its unit says it has accepted.

    The platform's own number is lower after it was restored from a backup: orders that it signs with it are replays to the
    unit. A number further ahead than a unit accepts at once is none that a unit has honestly seen, and is left aside.
    """
    is_news = vehicle.order_sequence < sequence <= vehicle.order_sequence + SEQUENCE_AHEAD_MAX
    return replace(vehicle, order_sequence=sequence) if is_news else vehicle
