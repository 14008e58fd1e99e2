"""Vehicles and their nodes.

A vehicle is known by its VIN and registered before its unit may log in: the registration carries the HWID of the
master and the public key its unit signs with (sessions of the device API, post-boot reports). The nodes and their
versions are then what the unit reports (UnitIdentity, post-boot report).

A terminal that speaks only GB/T 32960 has no such key. It is registered without one and monitored; nothing it says could
be proved, so it is not upgraded over the air.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["NodeKind", "Vehicle", "VehicleNode", "node_name"]


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
    """The sequence of the newest upgrade order made for this vehicle; it only rises (ota.md S4, S6)."""
    report_counter: int = 0
    """The counter of the newest post-boot report accepted from this vehicle; it only rises (ota.md S32)."""
    report_sha256: bytes = b""
    """Digest of that report: the same document again is a repetition, another one with that counter is an attack."""
    identified_at: datetime | None = None
    """When the unit last sent its identity; None before the first time."""

    @property
    def is_upgradable(self) -> bool:
        """Whether it may be part of an OTA task: its unit can prove who it is and what it runs."""
        return self.device_public_key is not None


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleNode:
    """A master or slave in a vehicle, as last reported."""

    vin: str
    position: int
    """0 is the master, 1..n are the slaves."""
    kind: NodeKind
    hwid: str
    hardware_class: str
    """The class UUID in its text form; empty if only a post-boot report named this node so far."""
    version: str
    security_counter: int
    serial: str
    state: str
    """"running", "bootloader" or "absent"."""
    updated_at: datetime


def node_name(position: int) -> str:
    """How a position is called in reasons and on pages."""
    return "master" if position == 0 else f"slave {position}"
