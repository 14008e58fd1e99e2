"""Messages of our extension: what a BMS needs to say and the standard has no words for (docs/protocol.md).

Commands 0xC0 to 0xC4, which the standard leaves to the parties. Every data unit begins with the time and a WORD: the high
byte marks the extension, the low byte is its version. A frame whose WORD is another is another maker's use of the same
command and stays a `RawMessage`. A platform that knows only the standard may ignore or refuse these frames; the terminal
goes on without them.

Bodies 0xB0 to 0xB2 inside a report, likewise: behind the WORD length that the standard wants stands our mark, and without it
the body is another maker's and stays a `UserDefined`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bmsota.canframe import CanFrame
from bmsota.gbt32960._enums import (
    FaultState,
    LocalUpgradeOutcome,
    NodeRole,
    NodeState,
    Sentinel,
    UpgradeStateCode,
)
from bmsota.gbt32960._value import Value

if TYPE_CHECKING:
    from collections.abc import Iterable
    from datetime import datetime
    from uuid import UUID

    from bmsota.signals import Database, SignalValue


EXTENSION_VERSION: Final = 0xB501
"""High byte: the mark of this extension, chosen so that it is no plausible count, year or identifier at that place in
the makers' frames we have seen. Low byte: version 1."""

BLOCK_SIZE_BYTES_MAX: Final = 32 * 1024
"""Half of what a data unit can hold. On the slowest link we know (GPRS, 20 kbit/s) such a block takes 13 s: well inside the
reply timeout, so that it is not asked for again while it is coming, and heartbeats and commands behind it do not wait long."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class NodeIdentity(Value):
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


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class UnitIdentity(Value):
    """0xC0: the nodes of the unit. Sent after each login and whenever a node changes."""

    time: datetime
    nodes: tuple[NodeIdentity, ...]
    """The master is first."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class UpgradeState(Value):
    """0xC1: where an upgrade stands. Sent at each change of state, and at progress."""

    time: datetime
    order_id: str
    """Empty while the unit has no order yet."""
    state: UpgradeStateCode | int
    progress_pct: int | Sentinel = Sentinel.INVALID
    """0 to 100 within this state."""
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class SignedReport(Value):
    """0xC2: the signed post-boot report (`bmsota.ota.PostBootReport`), carried as it is."""

    time: datetime
    document: bytes


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class LocalUpgrade(Value):
    """One node that was upgraded over CAN, in `LocalUpgrades`."""

    upgraded_at: datetime
    """When it ended, by the unit's clock; when the unit noticed it, if no tool said so."""
    position: int
    """0 is the master; slaves count from 1."""
    hwid: str
    """1 to 24 ASCII characters, as in `NodeIdentity`."""
    version_before: tuple[int, int, int, int]
    """(major, minor, revision, build); all 0 if there was no valid image."""
    version_after: tuple[int, int, int, int]
    """What the node runs now, whatever the tool wanted; all 0 if there is no valid image."""
    outcome: LocalUpgradeOutcome | int
    tool: str = ""
    """What the tool calls itself."""
    detail: str = ""
    """Why it did not succeed."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class LocalUpgrades(Value):
    """0xC3: upgrades done over CAN, without the platform. Sent after the next login."""

    time: datetime
    upgrades: tuple[LocalUpgrade, ...]
    """In the order in which they ended."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BlockRequest(Value):
    """0xC4, terminal to platform: send me this piece of a file. Answered by a `BlockReply`."""

    time: datetime
    sha256: bytes
    """Digest of the whole file, which is its name."""
    offset: int
    size: int
    """How many bytes, 1 to `BLOCK_SIZE_BYTES_MAX`."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BlockReply(Value):
    """0xC4, platform to terminal, with reply flag 0x01: the piece that a `BlockRequest` asked for."""

    time: datetime
    """Of the request."""
    sha256: bytes
    offset: int
    data: bytes
    """At least one byte. Shorter than asked for at the end of the file, or where the platform wants smaller blocks."""

    @classmethod
    def to(cls, request: BlockRequest, data: bytes) -> BlockReply:
        """Make the answer to *request*, for `PlatformSession.reply(..., message=)`."""
        return cls(request.time, request.sha256, request.offset, data)

    def answers(self, request: BlockRequest) -> bool:
        """Whether this is a piece that *request* asked for. The time alone does not tell: many fit into a second."""
        is_asked = (self.time, self.sha256, self.offset) == (request.time, request.sha256, request.offset)
        return is_asked and len(self.data) <= request.size


# --- bodies ---------------------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CanMessage(Value):
    """One CAN frame in `CanSignals`."""

    can_id: int
    data: bytes
    is_extended_id: bool = False
    bus: int = 0
    """Which of the unit's buses, by the unit's own numbers."""
    offset_ms: int = 0
    """How long after the report's time the frame was on the bus."""

    @classmethod
    def of(cls, frame: CanFrame, *, bus: int = 0, offset_ms: int = 0) -> CanMessage:
        """Make it from a frame as the CAN cores see it."""
        return cls(frame.can_id, frame.data, frame.is_extended_id, bus, offset_ms)

    @property
    def frame(self) -> CanFrame:
        """The frame as the CAN cores see it. More than 8 bytes were CAN FD."""
        return CanFrame(self.can_id, self.data, self.is_extended_id, len(self.data) > 8)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class DecodedSignals(Value):
    """What a `CanMessage` says."""

    message: CanMessage
    name: str | None
    """The message's name in the database; None if the database does not have it."""
    values: dict[str, SignalValue]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class CanSignals(Value):
    """0xB0: signals of the unit's buses, as the messages that carry them. Their meaning is in a DBC file."""

    messages: tuple[CanMessage, ...]

    @classmethod
    def of(cls, frames: Iterable[CanFrame], *, bus: int = 0) -> CanSignals:
        """Make it from frames of one bus, all at the report's time."""
        return cls(tuple(CanMessage.of(frame, bus=bus) for frame in frames))

    def decode(self, database: Database) -> tuple[DecodedSignals, ...]:
        """Decode every message with *database*, in their order.

        Raises:
            SignalError: a message that the database has does not fit its definition there.
        """
        found = []
        for message in self.messages:
            key = message.can_id | 1 << 31 if message.is_extended_id else message.can_id
            definition = database.get(key)
            if definition is None or definition.is_extended_id != message.is_extended_id:
                found.append(DecodedSignals(message, None, {}))
            else:
                found.append(DecodedSignals(message, definition.name, definition.decode(message.data)))
        return tuple(found)


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class ConfigurationItem(Value):
    """One calibration value in `BmsConfiguration`."""

    position: int
    """The node: 0 is the master; slaves count from 1."""
    parameter: int
    """By the numbers of the unit's own calibration list."""
    value: bytes
    """As it stands in the node's memory; the calibration list says what it is."""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class BmsConfiguration(Value):
    """0xB1: calibration values of the unit."""

    revision: int
    """Which calibration list."""
    items: tuple[ConfigurationItem, ...]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FaultChange(Value):
    """One fault that came or went, in `FaultChanges`."""

    time: datetime
    position: int
    """The node: 0 is the master; slaves count from 1."""
    code: int
    """As in the fault lists of the alarm body."""
    state: FaultState | int
    level: int | Sentinel
    """0 to 4, as the alarm level."""
    detail: str = ""


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class FaultChanges(Value):
    """0xB2: faults that came or went since the last report, in their order."""

    changes: tuple[FaultChange, ...]
