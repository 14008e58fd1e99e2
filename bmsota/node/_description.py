"""What a flashable node is and what it says of itself, whatever protocol it speaks.

Positions, ids and states are numbered as in `dbc/bms_bootloader*.dbc`, whose value tables a test compares with these.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum, IntEnum, IntFlag
from typing import TYPE_CHECKING, TypeVar
from uuid import UUID

from bmsota.boot import SlotState
from bmsota.errors import ConfigurationError, LocalProtocolError, RemoteProtocolError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bmsota.boot import BootReason, BootResult, BootStore
    from bmsota.image import HardwareClass, ImageRole, ImageVersion


EnumT = TypeVar("EnumT", bound=IntEnum)

POSITION_MAX = 31
"""0 is the master, 1 to 31 are slaves: 32 reply ids, one each."""

SLOT_SIZE_KIB_MAX = 0xFFFF
"""A slot of this many KiB or more."""

HWID_BYTES_MAX = 24
"""Hardware ids and serial numbers, as in the cloud link's identity message."""

IMAGE_SHA256_BYTES = 32

_HWID = re.compile(rb"[!-~]{1,24}")
_SERIAL = re.compile(rb"[ -~]{0,24}")
# All cells erased, or never written: what a board without production data says.
_NO_CLASSES = frozenset({UUID(int=0), UUID(int=2**128 - 1)})
_SLOTS = frozenset({None, 0, 1})


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
    IMAGE_DIGEST = 16
    """Says the SHA-256 of the image that runs. Nodes made before do not, and it is not known what bytes they run."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetIdentity:
    """Who a node is, burnt in at production.

    Raises:
        ConfigurationError: the hardware id is not 1 to 24 printable ASCII characters without spaces, or the serial number
            not 1 to 24 printable ASCII characters.
    """

    position: int
    role: ImageRole
    hwid: str
    serial: str
    hardware_class: HardwareClass

    def __post_init__(self) -> None:
        check_position(self.position)
        for name, form in (("hwid", _HWID), ("serial", _SERIAL)):
            value = getattr(self, name)
            if not value or not form.fullmatch(value.encode()):
                raise ConfigurationError(
                    f"{name}: expected 1 to {HWID_BYTES_MAX} printable ASCII characters, got {value!r}"
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
    image_sha256: bytes | None = None
    """Of the whole file of the running image, as in a release manifest; None if none runs, or the node cannot say it."""

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

    def runs(self, version: ImageVersion, image_sha256: bytes) -> bool:
        """Whether the image with this version and digest runs. Of a node that cannot say its digest the version decides."""
        return self.version == version and self.image_sha256 in {None, image_sha256}

    def has_room_for(self, size_bytes: int) -> bool:
        """Whether an image of this size fits its slot, as far as it has said how large that is."""
        return self.slot_size_kib in {0, SLOT_SIZE_KIB_MAX} or size_bytes < (self.slot_size_kib + 1) * 1024


_UNCONFIRMED = frozenset({SlotState.TEST_REQUESTED, SlotState.TEST})


class ImpossibleIdentityError(RemoteProtocolError):
    """A node says of itself what no node can be, such as a hardware id that is no text."""


def identity_text(name: str, data: bytes) -> str:
    """The hardware id ("hwid") or serial number ("serial") of a node, filled with NUL.

    Raises:
        ImpossibleIdentityError: it is no printable ASCII, or, of a hardware id, empty or with spaces.
    """
    text = data.rstrip(b"\0")
    form, expected = (
        (_HWID, "1 to 24 printable ASCII characters without spaces")
        if name == "hwid"
        else (_SERIAL, "at most 24 printable ASCII characters")
    )
    if form.fullmatch(text) is None:
        raise ImpossibleIdentityError(f"{name}: expected {expected}, got {text!r}")
    return text.decode("ascii")


def identity_class(data: bytes) -> UUID:
    """The hardware class of a node.

    Raises:
        ImpossibleIdentityError: it is no UUID, or none was ever written.
    """
    if len(data) != 16 or (found := UUID(bytes=data)) in _NO_CLASSES:
        raise ImpossibleIdentityError(f"hardware class: expected a UUID, got {data.hex()}")
    return found


def identity_slot(name: str, number: int | None) -> int | None:
    """A slot's number; None is none.

    Raises:
        ImpossibleIdentityError: there is no such slot.
    """
    if number not in _SLOTS:
        raise ImpossibleIdentityError(f"{name}: expected slot 0, 1 or none, got {number}")
    return number


def identity_enum(name: str, kind: type[EnumT], number: int) -> EnumT:
    """One of an enumeration's members.

    Raises:
        ImpossibleIdentityError: it has none of this number.
    """
    try:
        return kind(number)
    except ValueError as error:
        raise ImpossibleIdentityError(f"{name}: expected 0 to {max(kind)}, got {number}") from error


def identity_digest(data: bytes) -> bytes | None:
    """The SHA-256 of the running image; None for zeros, as a node says it that runs none.

    Raises:
        ImpossibleIdentityError: it has another size.
    """
    if len(data) != IMAGE_SHA256_BYTES:
        raise ImpossibleIdentityError(f"image digest: expected {IMAGE_SHA256_BYTES} bytes, got {len(data)}")
    return data if any(data) else None


def running_image_sha256(store: BootStore, boot: BootResult) -> bytes | None:
    """The SHA-256 of the whole file of the image that runs, as the boot verified it; None if none runs."""
    return None if boot.slot is None else store.slots[boot.slot].sha256


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
