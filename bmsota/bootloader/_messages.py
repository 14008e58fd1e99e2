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
    "CHECK_FRAME",
    "DATA_BYTES",
    "FD_DATA_BYTES",
    "GROUP_MAX",
    "GROUP_MIN",
    "HWID_BYTES_MAX",
    "OFFER_BLOCK",
    "POSITION_MAX",
    "PROTOCOL_VERSION",
    "PROTOCOL_VERSION_MIN",
    "SEGMENT_FRAMES",
    "SLOT_SIZE_KIB_MAX",
    "WINDOW_BLOCKS_MAX",
    "BitmapReply",
    "BuildReply",
    "Capability",
    "Command",
    "CounterReply",
    "LimitsReply",
    "ListReply",
    "NodeDescription",
    "NodeState",
    "PartReply",
    "PendingReply",
    "Reply",
    "ReplyKind",
    "ReportReply",
    "Request",
    "ResultCode",
    "ResultReply",
    "StatusReply",
    "VersionReply",
]

PROTOCOL_VERSION = 2
"""The newest version this code speaks. 1 sent one block after another, to one node at a time."""

PROTOCOL_VERSION_MIN = 2
"""The oldest version it speaks. Both sides name a range and use the highest version they share."""

POSITION_MAX = 31
"""0 is the master, 1 to 31 are slaves: 32 reply ids, one each."""

GROUP_MIN, GROUP_MAX = 128, 254
"""Positions that address the nodes of one broadcast: those whose offer record named the group."""

ALL_NODES = 255
"""The position that addresses every node."""

DATA_BYTES = 8
"""Image bytes in one data frame of classic CAN."""

FD_DATA_BYTES = 64
"""Image bytes in one data frame of CAN FD."""

BLOCK_FRAMES_MAX = 64
"""Data frames in one block. As many data ids number them, so that no loss, duplicate or change of order within half a block
can put a frame in the wrong place."""

CHECK_FRAME = 64
"""In bitmaps and lists of missing frames: the CheckBlock of the block, which is missing too if it was lost."""

SEGMENT_FRAMES = 32
"""Frames one bitmap is about."""

WINDOW_BLOCKS_MAX = 30
"""Blocks under way at once: a list of missing frames counts back from the reported block in five bits, 31 is "no entry"."""

BLOCK_NUMBERS = 255
"""Blocks are numbered 0 to 254, then 0 again."""

OFFER_BLOCK = 255
"""The block number in a bitmap that is about the offer record or the signature."""

SLOT_SIZE_KIB_MAX = 0xFFFF
"""A slot of so many KiB or more."""

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
    OPEN_BLOCK = 11
    """The next data frames belong to this block: of a new stream, of one that is repaired, or of the stream again."""
    REQUEST_CHALLENGE = 12
    UNLOCK = 13
    """The signature over the challenge was sent as data frames."""


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
    LIMITS = 16
    RESULT = 32
    REPORT = 33
    MISSING_BITMAP = 34
    PENDING = 35
    MISSING_LIST = 36
    CHALLENGE_0 = 37
    CHALLENGE_1 = 38
    CHALLENGE_2 = 39


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
    """What runs must not be overwritten: an image is on trial, or has been taken back and the node has not restarted."""
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
    ACCESS_NEEDED = 13
    """The node must be unlocked first."""
    ACCESS_DENIED = 14
    """The signature is not one of a key the node knows, over the challenge it gave."""
    ACCESS_WAIT = 15
    """The node gives no challenge yet; the detail says how many milliseconds to wait."""
    WRONG_PROTOCOL = 16
    """The node does not speak the version named in ENTER_BOOTLOADER."""
    IN_USE = 17
    """Somebody else changes the node's images now, such as a master's own updater."""


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
    """A position, a group, or `ALL_NODES`."""
    command: Command
    tag: int = 0
    """The command's number; of DISCOVER the echo, of CHECK_BLOCK and OPEN_BLOCK the block's number."""
    frames: int = 0
    crc32: int = 0
    raise_counter: int = 0
    boot_id: int = 0
    """Of the boot the command is meant for (not in DISCOVER, CHECK_BLOCK, OPEN_BLOCK and what comes with data frames)."""
    report_wanted: int = 0
    """Of CHECK_BLOCK."""
    offset: int = 0
    """Of OPEN_BLOCK: where in the image the stream's block 0 begins."""
    repair: int = 0
    """Of OPEN_BLOCK: whether its frames only fill gaps, or the stream goes on with it."""
    protocol: int = 0
    """Of ENTER_BOOTLOADER: the version that will be spoken."""


@dataclass(frozen=True, slots=True)
class StatusReply:
    position: int
    echo: int
    last_tag: int
    protocol_version: int
    protocol_version_min: int
    role: int
    node_state: int
    boot_reason: int
    slot_a_state: int
    slot_b_state: int
    active_slot: int
    running_slot: int
    unlocked: int
    block_frames_max: int


@dataclass(frozen=True, slots=True)
class LimitsReply:
    position: int
    echo: int
    capabilities: int
    window_blocks: int
    window_blocks_fd: int
    slot_size_kib: int


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
    """Seven bytes of the hardware class, the hardware id, the serial number or a challenge."""

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
class ReportReply:
    """Ends an answer to CHECK_BLOCK; bitmaps and lists of what is missing go before it."""

    position: int
    block: int
    next_block: int
    missing_total: int
    stored_offset: int


@dataclass(frozen=True, slots=True)
class BitmapReply:
    """Missing frames of one segment of one block."""

    position: int
    block: int
    segment: int
    total: int
    bitmap: int


@dataclass(frozen=True, slots=True)
class ListReply:
    """Up to four missing frames: (blocks before `block`, frame)."""

    position: int
    block: int
    entries: tuple[tuple[int, int], ...]


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
    | LimitsReply
    | ResultReply
    | ReportReply
    | BitmapReply
    | ListReply
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
    protocol_version_min: int = PROTOCOL_VERSION_MIN
    is_unlocked: bool = False
    """Whether security access has been granted since the last restart."""
    window_blocks: int = 1
    """Blocks of 8-byte frames the node holds while one of them is incomplete."""
    window_blocks_fd: int = 0
    """The same for blocks of 64-byte frames; 0: no CAN FD."""
    slot_size_kib: int = 0
    """Size of the slot an image must fit into, rounded down; 65535: that or more, 0: not said."""
