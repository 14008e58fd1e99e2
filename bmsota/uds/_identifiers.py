"""Every number of the profile beside the services' own: data identifiers, routines, sessions, refusals, and their layouts.

Data identifiers 0xF1xx are those of ISO 14229-1 annex C.1; 0xFDxx and the routines 0xF0xx lie in the ranges it leaves to suppliers. The
refusals 0xF2 to 0xFC are 0xF0 plus the bootloader's result code: ISO 14229-1 annex A.1 leaves 0xF0 to 0xFE to the maker, and "request
out of range" would not tell a wrong role from a wrong hardware class. docs/uds.md has these tables; a test compares.

Numbers are big endian, as everywhere in UDS; texts are ASCII, filled with NUL.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

from construct import Bytes, Const, Int8ub, Int16ub, Int32ub, Struct

from bmsota.boot import BootReason, SlotState
from bmsota.errors import ImageError
from bmsota.node import IMAGE_SHA256_BYTES, NodeMode, OfferedImage, ResultCode

if TYPE_CHECKING:
    from collections.abc import Mapping


UDS_PROFILE_VERSION = 1
"""Of what the vendor ranges mean here; part of NODE_KIND."""

ACCESS_LEVEL = 1
"""SecurityAccess: 0x27 01 asks for the seed, 0x27 02 brings the key."""

NO_SLOT = 0xFF

TEXT_BYTES = 24


class Session(IntEnum):
    """ISO 14229-1, 10.2.2."""

    DEFAULT = 1
    PROGRAMMING = 2
    EXTENDED = 3


class Did(IntEnum):
    """Data identifiers a node answers."""

    ACTIVE_SESSION = 0xF186
    SOFTWARE_VERSION = 0xF189
    SERIAL_NUMBER = 0xF18C
    HARDWARE_CLASS = 0xF191
    HARDWARE_ID = 0xF192
    NODE_KIND = 0xFD00
    SECURITY_COUNTER = 0xFD01
    BOOT_STATE = 0xFD02
    BOOT_ID = 0xFD03
    STAGING = 0xFD04
    IMAGE_DIGEST = 0xFD05


NODE_KIND_LAYOUT = Struct(
    "role" / Int8ub,
    "profile_version" / Int8ub,
    "capabilities" / Int8ub,
    "block_length_max" / Int16ub,
    "slot_size_kib" / Int16ub,
)
BOOT_STATE_LAYOUT = Struct(
    "node_state" / Int8ub,
    "boot_reason" / Int8ub,
    "slot_a_state" / Int8ub,
    "slot_b_state" / Int8ub,
    "active_slot" / Int8ub,
    "running_slot" / Int8ub,
)
STAGING_LAYOUT = Struct("state" / Int8ub, "size_bytes" / Int32ub, "received_bytes" / Int32ub, "sha256" / Bytes(32))


@dataclass(frozen=True, slots=True)
class DidRow:
    """One row of the table of data identifiers."""

    size_bytes: int
    standard_name: str
    """Of ISO 14229-1; empty in the supplier's range."""
    meaning: str


def _named(numbers: type[IntEnum]) -> str:
    return ", ".join(f"{each.value} {each.name.lower().replace('_', ' ')}" for each in numbers)


DIDS: Mapping[Did, DidRow] = {
    Did.ACTIVE_SESSION: DidRow(1, "ActiveDiagnosticSession", "1 default, 2 programming, 3 extended"),
    Did.SOFTWARE_VERSION: DidRow(
        TEXT_BYTES,
        "vehicleManufacturerECUSoftwareVersionNumber",
        "version of the running image, as 2.1.0+5; empty if none runs",
    ),
    Did.SERIAL_NUMBER: DidRow(TEXT_BYTES, "ECUSerialNumber", "serial number; the access key is bound to it"),
    Did.HARDWARE_CLASS: DidRow(16, "vehicleManufacturerECUHardwareNumber", "hardware class (UUID)"),
    Did.HARDWARE_ID: DidRow(TEXT_BYTES, "systemSupplierECUHardwareNumber", "HWID"),
    Did.NODE_KIND: DidRow(
        NODE_KIND_LAYOUT.sizeof(),
        "",
        "role (0 master, 1 slave), version of this profile, capabilities (as in bootloader.md: 1 CAN FD, 8 security access, 16 image digest), longest block "
        "(2 bytes), size of a slot in KiB (2 bytes)",
    ),
    Did.SECURITY_COUNTER: DidRow(4, "", "security counter: images with a lower one are refused"),
    Did.BOOT_STATE: DidRow(
        BOOT_STATE_LAYOUT.sizeof(),
        "",
        f"node state ({_named(NodeMode)}), boot reason ({_named(BootReason)}), states of slot A and B ({_named(SlotState)}), active slot, "
        "running slot (0 A, 1 B, 0xFF none)",
    ),
    Did.BOOT_ID: DidRow(4, "", "drawn at every boot: another value means a restart"),
    Did.STAGING: DidRow(
        STAGING_LAYOUT.sizeof(),
        "",
        "the slot being staged: its state, size (4), bytes received (4), SHA-256 of the file (0xFF..: not known)",
    ),
    Did.IMAGE_DIGEST: DidRow(
        IMAGE_SHA256_BYTES,
        "",
        "SHA-256 of the file of the running image; zeros if none runs. Nodes without capability 16 do not have it",
    ),
}


class Routine(IntEnum):
    """Routines a node can start; none is stopped or asked for results."""

    CHECK_MEMORY = 0x0202
    CONFIRM = 0xF011
    REVERT = 0xF012
    ERASE_MEMORY = 0xFF00
    CHECK_DEPENDENCIES = 0xFF01


ROUTINES: Mapping[Routine, tuple[str, str, str]] = {
    Routine.CHECK_MEMORY: (
        "",
        "0: good",
        "verifies digest, signature, hardware and counter of what was received; needed behind a resume that found everything there",
    ),
    Routine.CONFIRM: (
        "empty, or 1: raise the security counter, 0: leave it",
        "",
        "makes the image in test the active one",
    ),
    Routine.REVERT: ("", "", "reverts the image in test, or goes back to the one before; the next boot runs it"),
    Routine.ERASE_MEMORY: (
        "an offer record, or what the tester likes (address and size): ignored",
        "the offset (4 bytes) from which the image is wanted",
        "begins a download. With an offer identity is checked here and an interrupted download resumes; flash is erased as the blocks come",
    ),
    Routine.CHECK_DEPENDENCIES: (
        "",
        "0: good",
        "lets the next boot try the staged image",
    ),
}
"""Routine -> (what goes with the request, what comes with the answer, what it does)."""


class Nrc(IntEnum):
    """Negative response codes (ISO 14229-1 annex A.1) that mean something to us."""

    GENERAL_REJECT = 0x10
    SERVICE_NOT_SUPPORTED = 0x11
    SUB_FUNCTION_NOT_SUPPORTED = 0x12
    WRONG_LENGTH_OR_FORMAT = 0x13
    BUSY_REPEAT_REQUEST = 0x21
    CONDITIONS_NOT_CORRECT = 0x22
    REQUEST_SEQUENCE_ERROR = 0x24
    REQUEST_OUT_OF_RANGE = 0x31
    SECURITY_ACCESS_DENIED = 0x33
    INVALID_KEY = 0x35
    EXCEEDED_NUMBER_OF_ATTEMPTS = 0x36
    REQUIRED_TIME_DELAY_NOT_EXPIRED = 0x37
    UPLOAD_DOWNLOAD_NOT_ACCEPTED = 0x70
    TRANSFER_DATA_SUSPENDED = 0x71
    GENERAL_PROGRAMMING_FAILURE = 0x72
    WRONG_BLOCK_SEQUENCE_COUNTER = 0x73
    RESPONSE_PENDING = 0x78
    SUB_FUNCTION_NOT_SUPPORTED_IN_SESSION = 0x7E
    SERVICE_NOT_SUPPORTED_IN_SESSION = 0x7F
    WRONG_ROLE = 0xF2
    WRONG_HARDWARE = 0xF3
    TOO_LARGE = 0xF4
    COUNTER_TOO_LOW = 0xF5
    TEST_PENDING = 0xF6
    BAD_OFFER = 0xF7
    BAD_IMAGE = 0xF9
    NOT_TRUSTED = 0xFA
    NOTHING_TO_DO = 0xFB
    DAMAGED = 0xFC
    WORN = 0xFD


NRCS: Mapping[Nrc, str] = {
    Nrc.GENERAL_REJECT: "",
    Nrc.SERVICE_NOT_SUPPORTED: "a service that is not in the table above",
    Nrc.SUB_FUNCTION_NOT_SUPPORTED: "another session, reset, access level, or anything but starting a routine",
    Nrc.WRONG_LENGTH_OR_FORMAT: "bytes missing or too many; a block that is empty or longer than announced",
    Nrc.BUSY_REPEAT_REQUEST: "another request is still being done; Confirm in the boot window",
    Nrc.CONDITIONS_NOT_CORRECT: "a download outside the programming session, or (without an offer) over the fallback of an image in test; another upgrade, such as a master's own updater's, uses the store",
    Nrc.REQUEST_SEQUENCE_ERROR: "a block or an exit without a download, an exit before the last byte, a key without a seed, a check of nothing",
    Nrc.REQUEST_OUT_OF_RANGE: "an unknown identifier or routine; a download in another format, at another offset than wanted, or too large; more bytes than announced",
    Nrc.SECURITY_ACCESS_DENIED: "access has not been proved in this session",
    Nrc.INVALID_KEY: "the key does not fit the seed and this node",
    Nrc.EXCEEDED_NUMBER_OF_ATTEMPTS: "the third wrong key in a row",
    Nrc.REQUIRED_TIME_DELAY_NOT_EXPIRED: "a seed within the pause behind that",
    Nrc.UPLOAD_DOWNLOAD_NOT_ACCEPTED: "",
    Nrc.TRANSFER_DATA_SUSPENDED: "",
    Nrc.GENERAL_PROGRAMMING_FAILURE: "another upgrade has taken the store, or (without an offer) the flash does not keep a block; the download is over",
    Nrc.WRONG_BLOCK_SEQUENCE_COUNTER: "neither the next block nor the one before again",
    Nrc.RESPONSE_PENDING: "the answer takes longer than P2",
    Nrc.SUB_FUNCTION_NOT_SUPPORTED_IN_SESSION: "",
    Nrc.SERVICE_NOT_SUPPORTED_IN_SESSION: "the service needs another session",
    Nrc.WRONG_ROLE: "offer: the image is for the other kind of node",
    Nrc.WRONG_HARDWARE: "offer, or verification: the image is for another hardware class (or, in verification, role)",
    Nrc.TOO_LARGE: "offer: the image does not fit the slot",
    Nrc.COUNTER_TOO_LOW: "offer, verification or revert: the security counter is lower than the node's",
    Nrc.TEST_PENDING: "offer: what runs is in test, or reverted and not restarted: it must stay",
    Nrc.BAD_OFFER: "offer: another layout",
    Nrc.BAD_IMAGE: "verification: no image",
    Nrc.NOT_TRUSTED: "verification: no valid signature of a known key",
    Nrc.NOTHING_TO_DO: "nothing is staged, in test, or there to go back to",
    Nrc.DAMAGED: "verification: the bytes in the flash do not have the digest; sending them again can help",
    Nrc.WORN: "the flash does not keep what is written to it, or cannot be read; sending it again does not help",
}
"""When our own node gives it; empty: never, but other makers' do."""

NRC_OF_RESULT: Mapping[ResultCode, Nrc] = {
    ResultCode.WRONG_ROLE: Nrc.WRONG_ROLE,
    ResultCode.WRONG_HARDWARE: Nrc.WRONG_HARDWARE,
    ResultCode.TOO_LARGE: Nrc.TOO_LARGE,
    ResultCode.COUNTER_TOO_LOW: Nrc.COUNTER_TOO_LOW,
    ResultCode.TEST_PENDING: Nrc.TEST_PENDING,
    ResultCode.BAD_OFFER: Nrc.BAD_OFFER,
    ResultCode.BAD_IMAGE: Nrc.BAD_IMAGE,
    ResultCode.NOT_TRUSTED: Nrc.NOT_TRUSTED,
    ResultCode.NOTHING_TO_DO: Nrc.NOTHING_TO_DO,
    ResultCode.DAMAGED: Nrc.DAMAGED,
    ResultCode.WORN: Nrc.WORN,
}
"""The refusal that says what a result code says. What else a node can refuse has a code in the standard."""


def nrc_name(nrc: int) -> str:
    """As people write it: "WRONG_ROLE (0xF2)"."""
    try:
        return f"{Nrc(nrc).name} (0x{nrc:02X})"
    except ValueError:
        return f"NRC 0x{nrc:02X}"


# The first byte cannot be an addressAndLengthFormatIdentifier (its size part would be 0), so a record is distinguished from the
# address and size that other testers send with the erase routine.
_OFFER_LAYOUT_VERSION = 0x01

OFFER_LAYOUT = Struct(
    "layout" / Const(_OFFER_LAYOUT_VERSION, Int8ub),
    "role" / Int8ub,
    "size_bytes" / Int32ub,
    "sha256" / Bytes(32),
    "class_id" / Bytes(16),
    "major" / Int8ub,
    "minor" / Int8ub,
    "revision" / Int16ub,
    "build" / Int32ub,
    "security_counter" / Int32ub,
)


class ImageOffer(OfferedImage):
    """The image in short, sent with the erase routine: what does not fit is refused before anything is erased."""

    __slots__ = ()

    @staticmethod
    def is_offer(record: bytes) -> bool:
        """Whether *record* means to be an offer, and not the address and size of a plain tester."""
        return bool(record) and record[0] == _OFFER_LAYOUT_VERSION

    def serialize(self) -> bytes:
        return bytes(OFFER_LAYOUT.build(self.fields()))

    @classmethod
    def parse(cls, record: bytes) -> ImageOffer:
        """Read an offer record.

        Raises:
            ImageError: it has another length or layout.
        """
        if len(record) != OFFER_LAYOUT.sizeof() or not cls.is_offer(record):
            raise ImageError(
                "offer record", expected=f"{OFFER_LAYOUT.sizeof()} bytes of layout 1", received=f"{len(record)} bytes"
            )
        return cls(**cls.values(OFFER_LAYOUT.parse(record)))
