"""What a flashable node is and what it says of itself, whatever protocol it speaks.

Positions, ids and states are numbered as in `dbc/bms_bootloader*.dbc`, whose value tables a test compares with these.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from typing import TYPE_CHECKING

from bmsota.boot import SlotState
from bmsota.errors import ConfigurationError, LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from uuid import UUID

    from bmsota.boot import BootReason
    from bmsota.image import HardwareClass, ImageRole, ImageVersion


POSITION_MAX = 31
"""0 is the master, 1 to 31 are slaves: 32 reply ids, one each."""

SLOT_SIZE_KIB_MAX = 0xFFFF
"""A slot of this many KiB or more."""

HWID_BYTES_MAX = 24
"""Hardware ids and serial numbers, as in the cloud link's identity message."""


def check_position(position: int) -> None:
    """Refuse a position that has no reply id.

    Raises:
        LocalProtocolError: it is not 0 to 31.
    """
    if not 0 <= position <= POSITION_MAX:
        raise LocalProtocolError(f"position: expected 0 to {POSITION_MAX}, got {position}")


class NodeMode(IntEnum):
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


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetIdentity:
    """Who a node is, burnt in at production.

    Raises:
        ConfigurationError: an id is no ASCII of 1 to 24 characters.
    """

    position: int
    role: ImageRole
    hwid: str
    serial: str
    hardware_class: HardwareClass

    def __post_init__(self) -> None:
        check_position(self.position)
        for name in ("hwid", "serial"):
            value = getattr(self, name)
            if not value.isascii() or not 1 <= len(value) <= HWID_BYTES_MAX:
                raise ConfigurationError(f"{name}: expected 1 to {HWID_BYTES_MAX} ASCII characters, got {value!r}")


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
    state: NodeMode
    boot_reason: BootReason
    slot_states: tuple[SlotState, SlotState]
    active_slot: int | None
    running_slot: int | None
    protocol_version: int
    """The newest version it speaks, of the protocol it was found by."""
    protocol_version_min: int
    """The oldest."""
    capabilities: Capability
    boot_id: int
    """Changes with every boot that changed anything in the node's journal."""
    is_unlocked: bool = False
    """Whether security access has been granted since the last restart."""
    slot_size_kib: int = 0
    """Size of the slot an image must fit into, rounded down; 65535: that or more, 0: not said."""

    @property
    def is_spare_running(self) -> bool:
        """Whether the image that runs is in test, or reverted and not restarted since (`BootStore.is_spare_running`).

        The node refuses every image meanwhile, because it would overwrite what runs.
        """
        return SlotState.TEST in self.slot_states or self.running_slot not in {None, self.active_slot}

    @property
    def has_unconfirmed_image(self) -> bool:
        """Whether an image is in test or pending: a restart alone would run another image than the one that runs."""
        return not _UNCONFIRMED.isdisjoint(self.slot_states)


_UNCONFIRMED = frozenset({SlotState.TEST_REQUESTED, SlotState.TEST})


class ImageStatus(Enum):
    """Where an image on a node is in its life, in MCUboot's words. The value is what people read."""

    ABSENT = "absent"
    """There is none, or it was refused."""
    PARTLY_STAGED = "partly staged"
    STAGED = "staged"
    """Complete and verified; no boot tries it."""
    PENDING = "pending"
    """The next boot tries it."""
    TEST = "test"
    """It runs; the next boot reverts it unless it is confirmed before."""
    REVERTED = "reverted"
    """It still runs, but has been reverted: the next boot runs another image."""
    CONFIRMED = "confirmed"
    """It runs for good, or did until another image took its place."""


_STATUS_OF_SLOT: Mapping[SlotState, ImageStatus] = {
    SlotState.EMPTY: ImageStatus.ABSENT,
    SlotState.BAD: ImageStatus.ABSENT,
    SlotState.STAGING: ImageStatus.PARTLY_STAGED,
    SlotState.STAGED: ImageStatus.STAGED,
    SlotState.TEST_REQUESTED: ImageStatus.PENDING,
    SlotState.TEST: ImageStatus.TEST,
    SlotState.CONFIRMED: ImageStatus.CONFIRMED,
}


def image_status(node: NodeDescription) -> ImageStatus:
    """The status of the image that runs: ABSENT (none runs), TEST, REVERTED or CONFIRMED."""
    running = node.running_slot
    if running is None:
        return ImageStatus.ABSENT
    if node.slot_states[running] is SlotState.TEST:
        return ImageStatus.TEST
    return ImageStatus.REVERTED if node.is_spare_running else ImageStatus.CONFIRMED


def spare_image_status(node: NodeDescription) -> ImageStatus:
    """The status of the image in the slot that does not run; ABSENT if none runs."""
    if node.running_slot is None:
        return ImageStatus.ABSENT
    return _STATUS_OF_SLOT[node.slot_states[1 - node.running_slot]]
