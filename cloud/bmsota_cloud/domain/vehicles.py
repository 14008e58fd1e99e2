"""Vehicles and their nodes.

A vehicle is known by its VIN and registered before its unit may log in: the registration carries the HWID of the
master and the public key its unit signs with (sessions of the device API, post-boot reports). The nodes and their
versions are then what the unit reports (UnitIdentity, post-boot report).
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from datetime import datetime

__all__ = ["FleetCount", "NodeKind", "Vehicle", "VehicleFilter", "VehicleNode", "node_name"]


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
    """The master's hardware id, as registered."""
    device_public_key: bytes
    """Ed25519, 32 raw bytes."""
    registered_at: datetime
    order_sequence: int = 0
    """The sequence of the newest upgrade order made for this vehicle; it only rises (ota.md S4, S6)."""
    report_counter: int = 0
    """The counter of the newest post-boot report accepted from this vehicle; it only rises (ota.md S32)."""
    report_sha256: bytes = b""
    """Digest of that report: the same document again is a repetition, another one with that counter is an attack."""
    identified_at: datetime | None = None
    """When the unit last sent its identity; None before the first time."""


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


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleFilter:
    """Which vehicles are asked for; an empty value lets all pass."""

    project: str = ""
    series: str = ""
    text: str = ""
    """Looked for in VIN, HWID and series, whatever its case."""
    is_online: bool | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetCount:
    """How many vehicles pass a filter, whether they are connected or not."""

    online: int
    offline: int


def node_name(position: int) -> str:
    """How a position is called in reasons and on pages."""
    return "master" if position == 0 else f"slave {position}"
