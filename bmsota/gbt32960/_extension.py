"""Messages of our extension: what a BMS needs to say and the standard has no words for (docs/protocol.md).

Commands 0xC0 to 0xC2, which the standard leaves to the parties. Every data unit begins with the time and a WORD: the high
byte marks the extension, the low byte is its version. A frame whose WORD is another is somebody else's use of the same
command and stays a `RawMessage`. A platform that knows only the standard may ignore or refuse these frames; the terminal
goes on without them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bmsota.gbt32960._enums import NodeRole, NodeState, Sentinel, UpgradeStateCode

if TYPE_CHECKING:
    from datetime import datetime
    from uuid import UUID

__all__ = ["EXTENSION_VERSION", "NodeIdentity", "SignedReport", "UnitIdentity", "UpgradeState"]

EXTENSION_VERSION: Final = 0xB501
"""High byte: the mark of this extension, chosen so that it is no plausible count, year or identifier at that place in
the makers' frames we have seen. Low byte: version 1."""


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeIdentity:
    """One master or slave of a unit, in `UnitIdentity`."""

    role: NodeRole | int
    position: int
    """0 is the master; slaves count from 1."""
    hwid: str
    """1 to 24 ASCII characters, unique over all hardware."""
    hardware_class: UUID
    version: tuple[int, int, int, int]
    """(major, minor, revision, build) of the running image."""
    security_counter: int
    serial: str
    state: NodeState | int = NodeState.RUNNING


@dataclass(frozen=True, slots=True)
class UnitIdentity:
    """0xC0: who the unit consists of. Sent after each login and whenever a node changes."""

    time: datetime
    nodes: tuple[NodeIdentity, ...]
    """The master is first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class UpgradeState:
    """0xC1: where an upgrade stands. Sent at each change of state, and at progress."""

    time: datetime
    order_id: str
    """Empty while the unit has no order yet."""
    state: UpgradeStateCode | int
    progress_pct: int | Sentinel = Sentinel.INVALID
    """0 to 100 within this state."""
    reason: str = ""


@dataclass(frozen=True, slots=True)
class SignedReport:
    """0xC2: the signed post-boot report (`bmsota.ota.report`), carried as it is."""

    time: datetime
    document: bytes
