"""What a master reports to the device around it, beside what its cloud link, its updater and its flashing engine say.

`MasterEvent` is all of it. Some of these want something done (`Master` says which); everything else is news for a log.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota.flashing import EngineEvent
from bmsota.gbt32960 import TerminalEvent
from bmsota.master._slave_faults import SlaveFaultChanged
from bmsota.ota import Action

if TYPE_CHECKING:
    from bmsota.ota import NodeUpgrade


@dataclass(frozen=True, slots=True)
class SendData:
    """Send these bytes on the cloud link."""

    data: bytes


@dataclass(frozen=True, slots=True)
class InstructionReceived:
    """The platform has asked for an upgrade."""

    url: str
    is_postponed: bool
    """A flasher is at work: the instruction is followed when it has finished."""


@dataclass(frozen=True, slots=True)
class CommandUnsupported:
    """The platform sent a command that this master does not carry out."""

    name: str


@dataclass(frozen=True, slots=True)
class SlaveChanged:
    """The slave at a position is another one, or runs another version, than at the last discovery."""

    position: int
    detail: str


@dataclass(frozen=True, slots=True)
class SelfTestEnded:
    """The pack has passed its self-test under a new image, or failed it."""

    failure: str
    """Empty: passed."""


@dataclass(frozen=True, slots=True)
class LocalUpgradeDetected:
    """A node was flashed without an order."""

    upgrade: NodeUpgrade


@dataclass(frozen=True, slots=True)
class LocalUpgradesReported:
    """A frame with local upgrades was sent to the platform."""

    count: int


@dataclass(frozen=True, slots=True)
class LocalUpgradesAcknowledged:
    """The platform has acknowledged the local upgrades it was sent."""


@dataclass(frozen=True, slots=True)
class ReportAcknowledged:
    """The platform has the signed post-boot report: the upgrade is over."""

    document: bytes


@dataclass(frozen=True, slots=True)
class ReportRefused:
    """The platform has refused the signed post-boot report on the cloud link, or has not answered: the updater asks why."""

    document: bytes


@dataclass(frozen=True, slots=True)
class UpgradeModeChanged:
    """Show it to the driver, and keep the pack at rest if it must."""

    in_upgrade_mode: bool
    """An order is accepted and not yet reported; it forbids nothing."""
    must_rest: bool
    """Nodes are flashed, switched or tested: neither drive nor charge."""


@dataclass(frozen=True, slots=True)
class IdentityReported:
    """The signed identity report was sent: something in it has changed since the platform acknowledged one."""

    document: bytes


@dataclass(frozen=True, slots=True)
class IdentityAcknowledged:
    """The platform has the signed identity report."""


@dataclass(frozen=True, slots=True)
class LocalUpgradesDropped:
    """There were more local upgrades than are kept; the oldest will not be reported."""

    count: int


MasterEvent = (
    TerminalEvent
    | Action
    | EngineEvent
    | SendData
    | InstructionReceived
    | CommandUnsupported
    | SlaveChanged
    | SlaveFaultChanged
    | SelfTestEnded
    | LocalUpgradeDetected
    | LocalUpgradesReported
    | LocalUpgradesAcknowledged
    | LocalUpgradesDropped
    | ReportAcknowledged
    | ReportRefused
    | UpgradeModeChanged
    | IdentityReported
    | IdentityAcknowledged
)
