"""What the two ends say to each other, as values. Layouts are the DBC's; see `_wire` for the way in and out.

The numbers of the enumerations are the DBC's value tables; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum, IntFlag
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from uuid import UUID

    from bmsota.boot import BootReason, SlotState
    from bmsota.image import ImageRole, ImageVersion

__all__ = [
    "ALL_NODES",
    "BLOCK_FRAMES_MAX",
    "BLOCK_NUMBERS",
    "DATA_BYTES",
    "HWID_BYTES_MAX",
    "OFFER_BLOCK",
    "POSITION_MAX",
    "PROTOCOL_VERSION",
    "SEGMENT_FRAMES",
    "AcceptedReply",
    "BuildReply",
    "Capability",
    "Command",
    "CounterReply",
    "MissingReply",
    "NodeDescription",
    "NodeState",
    "PartReply",
    "PendingReply",
    "Reply",
    "ReplyKind",
    "Request",
    "ResultCode",
    "ResultReply",
    "StatusReply",
    "VersionReply",
]

PROTOCOL_VERSION = 1
"""What this code speaks. A node that speaks a newer version must also speak this one."""

POSITION_MAX = 31
"""0 is the master, 1 to 31 are slaves: the reply ids 0x720 to 0x73F."""

ALL_NODES = 255
"""The position that addresses every node."""

DATA_BYTES = 8
"""Image bytes in one data frame of classic CAN."""

BLOCK_FRAMES_MAX = 64
"""Data frames in one block. The data ids 0x740 to 0x77F number them, so that within a block no loss, duplicate or change
of order can put a frame in the wrong place."""

SEGMENT_FRAMES = 32
"""Frames one MissingBitmap is about."""

BLOCK_NUMBERS = 255
"""Blocks are numbered 0 to 254, then 0 again."""

OFFER_BLOCK = 255
"""The block number in a MissingReply that is about the offer record."""

HWID_BYTES_MAX = 24
"""Hardware ids and serial numbers, as in the cloud link's identity message."""


class Command(IntEnum):
    """What a node can be asked to do."""

    DISCOVER = 1
    ENTER_BOOTLOADER = 2
    BEGIN_TRANSFER = 3
    CHECK_BLOCK = 4
    FINISH_TRANSFER = 5
    ACTIVATE_TEST = 6
    RESET = 7
    CONFIRM = 8
    REVERT = 9
    LEAVE_BOOTLOADER = 10


class ReplyKind(IntEnum):
    """The multiplexer of the replies."""

    STATUS = 1
    VERSION = 2
    BUILD = 3
    COUNTER = 4
    CLASS_0 = 5
    CLASS_1 = 6
    CLASS_2 = 7
    HWID_0 = 8
    HWID_1 = 9
    HWID_2 = 10
    HWID_3 = 11
    SERIAL_0 = 12
    SERIAL_1 = 13
    SERIAL_2 = 14
    SERIAL_3 = 15
    RESULT = 32
    BLOCK_ACCEPTED = 33
    BLOCK_MISSING = 34
    PENDING = 35


class ResultCode(IntEnum):
    """What became of a command."""

    OK = 0
    WRONG_STATE = 1
    """The node is not in a state for this command; it may have restarted."""
    WRONG_ROLE = 2
    WRONG_HARDWARE = 3
    TOO_LARGE = 4
    COUNTER_TOO_LOW = 5
    TEST_PENDING = 6
    """An image is on trial; its fallback must not be overwritten."""
    BAD_OFFER = 7
    """The offer record cannot be read: another layout."""
    INCOMPLETE = 8
    """Bytes of the image are missing, or a block has an impossible size."""
    BAD_IMAGE = 9
    """The image is malformed."""
    NOT_TRUSTED = 10
    """The image's signature, hardware or counter is refused."""
    NOTHING_TO_DO = 11
    """There is no staged image to test, none on trial to confirm, or none to go back to."""
    DAMAGED = 12
    """The image in the flash is not the one that was offered; sending it again can help."""


class NodeState(IntEnum):
    """What a node is doing."""

    APPLICATION = 0
    BOOTLOADER = 1
    RECEIVING = 2
    RESTARTING = 3


class Capability(IntFlag):
    """What a node can do beside the basic protocol."""

    NONE = 0
    FD_DATA = 1
    BROADCAST = 2
    COMPRESSION = 4
    SECURITY_ACCESS = 8


@dataclass(frozen=True, slots=True)
class Request:
    """A BootRequest frame."""

    node: int
    """A position, or `ALL_NODES`."""
    command: Command
    tag: int = 0
    """The command's number; of DISCOVER the echo, of CHECK_BLOCK the block's number."""
    frames: int = 0
    crc32: int = 0
    raise_counter: int = 0
    boot_id: int = 0
    """Of the boot the command is meant for (not in DISCOVER, BEGIN_TRANSFER, CHECK_BLOCK)."""


@dataclass(frozen=True, slots=True)
class StatusReply:
    position: int
    echo: int
    last_tag: int
    protocol_version: int
    role: int
    node_state: int
    boot_reason: int
    slot_a_state: int
    slot_b_state: int
    active_slot: int
    running_slot: int
    capabilities: int
    block_frames_max: int


@dataclass(frozen=True, slots=True)
class VersionReply:
    position: int
    echo: int
    major: int
    minor: int
    revision: int


@dataclass(frozen=True, slots=True)
class BuildReply:
    position: int
    echo: int
    build: int


@dataclass(frozen=True, slots=True)
class CounterReply:
    position: int
    echo: int
    security_counter: int
    boot_id: int


@dataclass(frozen=True, slots=True)
class PartReply:
    """Seven bytes of the hardware class, the hardware id or the serial number."""

    position: int
    kind: ReplyKind
    data: bytes


@dataclass(frozen=True, slots=True)
class ResultReply:
    position: int
    tag: int
    command: int
    code: int
    detail: int


@dataclass(frozen=True, slots=True)
class AcceptedReply:
    position: int
    block: int
    next_offset: int


@dataclass(frozen=True, slots=True)
class MissingReply:
    position: int
    block: int
    segment: int
    total: int
    bitmap: int


@dataclass(frozen=True, slots=True)
class PendingReply:
    position: int
    tag: int
    command: int
    wait_ms: int


Reply: TypeAlias = (
    StatusReply
    | VersionReply
    | BuildReply
    | CounterReply
    | PartReply
    | ResultReply
    | AcceptedReply
    | MissingReply
    | PendingReply
)


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeDescription:
    """What a node said of itself when it was discovered."""

    position: int
    role: ImageRole
    hwid: str
    serial: str
    class_id: UUID
    """The hardware class (`bmsota.image.HardwareClass.class_id`)."""
    version: ImageVersion
    """Of the running image; 0.0.0 if none runs."""
    security_counter: int
    """The node's: images with a lower one are refused."""
    state: NodeState
    boot_reason: BootReason
    slot_states: tuple[SlotState, SlotState]
    active_slot: int | None
    running_slot: int | None
    protocol_version: int
    capabilities: Capability
    block_frames_max: int
    last_tag: int
    """Number of the newest command it has done since power-up; 0: none."""
    boot_id: int
    """Changes with every boot that changed anything in the node's journal."""
