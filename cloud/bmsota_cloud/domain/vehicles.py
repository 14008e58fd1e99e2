"""Vehicles and their nodes.

A vehicle is known by its VIN and registered before its unit may log in: the registration carries the HWID of the
master and the public key its unit signs with (sessions of the device API, post-boot and identity reports).

The nodes and their versions are what the unit's signed documents say. What its identity frame says without a signature
stands in for them until the first signed document, marked as not confirmed; after that both are kept, and the frame changes
nothing of what was confirmed.

A terminal that speaks only GB/T 32960 has no such key. It is registered without one and monitored; nothing it says could
be proved, so it is not upgraded over the air.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "EquipmentData",
    "FleetCount",
    "FleetState",
    "LastLogin",
    "NodeKind",
    "Vehicle",
    "VehicleFilter",
    "VehicleNode",
    "node_name",
]


# "That or more".
_SLOT_SIZE_KIB_MAX = 65535


class NodeKind(StrEnum):
    """The part a node plays in its pack."""

    MASTER = "master"
    SLAVE = "slave"


@dataclass(frozen=True, slots=True, kw_only=True)
class Vehicle:
    """A registered vehicle."""

    vin: str
    series: str
    project: str
    hwid: str
    """The master's hardware id, as registered; may be empty for a vehicle that is only monitored."""
    device_public_key: bytes | None
    """Ed25519, 32 raw bytes; None for a vehicle that is only monitored."""
    registered_at: datetime
    order_sequence: int = 0
    """The sequence of the newest upgrade order made for this vehicle; it only rises."""
    report_counter: int = 0
    """The counter of the newest post-boot report accepted from this vehicle; it only rises."""
    report_sha256: bytes = b""
    """Digest of that report: the same document again is a repetition, another one with that counter is an attack."""
    identified_at: datetime | None = None
    """When the unit last sent its identity frame, which is not signed; None before the first time."""
    identity_counter: int = 0
    """The counter of the newest identity report accepted from this vehicle; it only rises."""
    identity_sha256: bytes = b""
    """Digest of that report, as `report_sha256`."""
    confirmed_at: datetime | None = None
    """When a signed document last listed the nodes; None before the first time."""
    mixed_pack: str = ""
    """How the nodes run images that do not belong together, by the newest signed document; empty if they do."""
    customer: str = ""
    """The name of the customer to whom it belongs; empty if to none."""
    battery_number: str = ""
    frame_number: str = ""
    """As the vehicle's maker or its operator counts frames; often the VIN, and not compared with it."""
    model: str = ""
    """The vehicle's type, as its maker calls it."""
    plate: str = ""
    city: str = ""
    """Where it is at home, in the words of whoever registers it."""

    @property
    def is_upgradable(self) -> bool:
        """Whether it may be part of an OTA task: its unit can prove who it is and what it runs."""
        return self.device_public_key is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class EquipmentData:
    """What people know a vehicle by, beside VIN and HWID. Each may be empty, and need not be unique."""

    battery_number: str = ""
    frame_number: str = ""
    model: str = ""
    plate: str = ""
    city: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleNode:
    """A master or slave in a vehicle."""

    vin: str
    position: int
    """0 is the master, 1..n are the slaves."""
    kind: NodeKind
    hwid: str
    hardware_class: str
    """The class UUID in its text form; empty if not known (a post-boot report does not name it)."""
    version: str
    security_counter: int
    serial: str
    state: str
    """"running", "bootloader" or "absent"."""
    updated_at: datetime
    confirmed_at: datetime | None = None
    """When a signed document last said so; None if only the unsigned identity frame does."""
    image_sha256: str = ""
    """Of the running image, hexadecimal, as in a release; empty if no signed document has said it."""
    slot_size_kib: int = 0
    """Size of the slot an image must fit into, rounded down; 65535: that or more, 0: not known."""

    @property
    def is_confirmed(self) -> bool:
        return self.confirmed_at is not None

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether an image of this size fits its slot, as far as that is known."""
        return self.slot_size_kib in {0, _SLOT_SIZE_KIB_MAX} or size_bytes < (self.slot_size_kib + 1) * 1024

    def differs_from(self, other: VehicleNode) -> bool:
        """Whether the two say different things of the same position. What one of them does not know is no difference."""
        return (
            (self.hwid, self.version, self.security_counter, self.state)
            != (other.hwid, other.version, other.security_counter, other.state)
            or _differ(self.hardware_class, other.hardware_class)
            or _differ(self.serial, other.serial)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class LastLogin:
    """What a vehicle's last login said of itself (GB/T 32960.3, table 6), to compare the next one with."""

    vin: str
    iccid: str
    login_serial: int
    """From 1, rising with each login of a day, at most 65531."""
    login_at: datetime
    """By the terminal's clock."""
    address: str
    """The network address it came from; empty if not known."""
    received_at: datetime
    """By the platform's clock."""


def _differ(one: str, other: str) -> bool:
    return bool(one and other and one != other)


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleFilter:
    """Which vehicles are asked for; an empty value lets all pass."""

    project: str = ""
    series: str = ""
    text: str = ""
    """Looked for in VIN, HWID, series, plate, battery number and frame number, whatever its case."""
    is_online: bool | None = None
    city: str = ""
    customer: str = ""
    master_version: str = ""
    """What the master runs, as far as is known."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCount:
    """How many vehicles pass a filter, whether they are connected or not."""

    online: int
    offline: int


class FleetState(StrEnum):
    """What vehicles of an overview are counted and filtered by; a vehicle may be in several."""

    ONLINE = "online"
    OFFLINE = "offline"
    FAULTS = "faults"
    """Its newest report has an alarm level above 0."""
    UPGRADING = "upgrading"
    """An OTA task that was approved has not ended for it."""


def node_name(position: int) -> str:
    """How a position is called in reasons and on pages."""
    return "master" if position == 0 else f"slave {position}"
