"""The messages of the two ends, as values. Layouts are the DBC's; see `_wire` for the way in and out.

The numbers of the enumerations are the DBC's value tables; a test compares them.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from bmsota.node import NodeCommand


PROTOCOL_VERSION = 2
"""The newest version this code speaks. 1 sent one block after another, to one node at a time."""

PROTOCOL_VERSION_MIN = 2
"""The oldest version it speaks. Both sides name a range and use the highest version they share."""

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

DIGEST_PARTS, DIGEST_PART_BYTES = 6, 6
"""The SHA-256 of the running image is said in six frames, of which the last has two bytes of it."""

OFFER_BLOCK = 255
"""The block number in a bitmap that is about the offer record or the signature."""


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
    DIGEST_0 = 17
    DIGEST_1 = 18
    DIGEST_2 = 19
    DIGEST_3 = 20
    DIGEST_4 = 21
    DIGEST_5 = 22
    RESULT = 32
    REPORT = 33
    MISSING_BITMAP = 34
    PENDING = 35
    MISSING_LIST = 36
    CHALLENGE_0 = 37
    CHALLENGE_1 = 38
    CHALLENGE_2 = 39


@dataclass(frozen=True, slots=True)
class Request:
    """A BootRequest frame."""

    node: int
    """A position, a group, or `ALL_NODES`."""
    command: NodeCommand
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
    """Of OPEN_BLOCK: whether its frames only fill gaps, or the stream continues with it."""
    protocol: int = 0
    """Of ENTER_BOOTLOADER: the version that will be spoken."""


@dataclass(frozen=True, slots=True)
class _FromNode:
    position: int


@dataclass(frozen=True, slots=True)
class _ToDiscover(_FromNode):
    echo: int


@dataclass(frozen=True, slots=True)
class StatusReply(_ToDiscover):
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
class LimitsReply(_ToDiscover):
    capabilities: int
    window_blocks: int
    window_blocks_fd: int
    slot_size_kib: int


@dataclass(frozen=True, slots=True)
class DigestReply(_ToDiscover):
    """Six bytes of the SHA-256 of the running image. Unlike hardware id and class it changes with a restart: so it has the echo."""

    kind: ReplyKind
    data: bytes


@dataclass(frozen=True, slots=True)
class VersionReply(_ToDiscover):
    major: int
    minor: int
    revision: int


@dataclass(frozen=True, slots=True)
class BuildReply(_ToDiscover):
    build: int


@dataclass(frozen=True, slots=True)
class CounterReply(_ToDiscover):
    security_counter: int
    boot_id: int


@dataclass(frozen=True, slots=True)
class PartReply(_FromNode):
    """Seven bytes of the hardware class, the hardware id, the serial number or a challenge."""

    kind: ReplyKind
    data: bytes


@dataclass(frozen=True, slots=True)
class ResultReply(_FromNode):
    tag: int
    command: int
    code: int
    detail: int


@dataclass(frozen=True, slots=True)
class ReportReply(_FromNode):
    """Ends an answer to CHECK_BLOCK; bitmaps and lists of what is missing go before it."""

    block: int
    next_block: int
    missing_total: int
    stored_offset: int


@dataclass(frozen=True, slots=True)
class BitmapReply(_FromNode):
    """Missing frames of one segment of one block."""

    block: int
    segment: int
    total: int
    bitmap: int


@dataclass(frozen=True, slots=True)
class ListReply(_FromNode):
    """Up to four missing frames: (blocks before `block`, frame)."""

    block: int
    entries: tuple[tuple[int, int], ...]


@dataclass(frozen=True, slots=True)
class PendingReply(_FromNode):
    tag: int
    command: int
    wait_ms: int


Reply: TypeAlias = (
    StatusReply
    | VersionReply
    | BuildReply
    | CounterReply
    | PartReply
    | DigestReply
    | LimitsReply
    | ResultReply
    | ReportReply
    | BitmapReply
    | ListReply
    | PendingReply
)


@dataclass(frozen=True, slots=True, kw_only=True)
class BootloaderDetails:
    """What a node said of itself that matters to this protocol alone."""

    block_frames_max: int
    last_tag: int
    """Number of the newest command it has done since power-up; 0: none."""
    window_blocks: int
    """Blocks of 8-byte frames the node holds while one of them is incomplete."""
    window_blocks_fd: int
    """The same for blocks of 64-byte frames; 0: no CAN FD."""
