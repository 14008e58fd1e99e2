"""The lines of slcan, as both ends write them.

The serial line protocol of LAWICEL's CAN232 and CANUSB, with the CAN FD commands of the CANable 2 firmware. Lines end with CR.

Host to adapter: `Sn` bit rate, `sxxyy` bit timing registers, `Yn` data bit rate, `O`/`L` open/listen-only, `C` close, `Zn`
timestamps, `V` version, `N` serial number, `F` status flags, and the frames: `t` `T` `r` `R` (classic: standard, extended, remote)
and `d` `D` `b` `B` (FD; `b` with bit rate switch), the identifier in 3 or 8 hex digits, the DLC in one, the data.

Adapter to host: the same frames, each with 4 more hex digits if timestamps are on (milliseconds, starting again every minute), or 8
(microseconds); CR, `z` CR, `Z` CR or `#` CR for "done"; BEL, or `#` with a digit, for "refused"; a text for `V`, `N` and `F`.
"""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass
from enum import Enum, IntFlag
from typing import Final

from bmsota.can_timing import FD_SIZES
from bmsota.canframe import CanFrame
from bmsota.errors import LocalProtocolError

CR: Final = b"\r"
LF: Final = b"\n"
BEL: Final = b"\a"

BITRATES: Final = {
    10_000: "S0", 20_000: "S1", 50_000: "S2", 100_000: "S3", 125_000: "S4", 250_000: "S5", 500_000: "S6", 750_000: "S7",
    1_000_000: "S8", 83_300: "S9",
}  # fmt: skip
"""Bit/s -> the command that sets it."""
DATA_BITRATES: Final = {1_000_000: "Y1", 2_000_000: "Y2", 4_000_000: "Y4", 5_000_000: "Y5"}
"""Bit/s of the data phase of CAN FD -> the command that sets it."""

# The longest line: an extended FD frame of 64 bytes, from the adapter with a timestamp. More without a CR is garbage.
COMMAND_SIZE_BYTES_MAX: Final = 1 + 8 + 1 + 2 * 64
LINE_SIZE_BYTES_MAX: Final = COMMAND_SIZE_BYTES_MAX + 9

# Timestamps count the milliseconds of a minute.
MINUTE_MS: Final = 60_000
# The long ones count microseconds in 32 bits.
LONG_STAMP_US: Final = 1 << 32


class Answer(Enum):
    """What an adapter answers to a command."""

    DONE = "CR"
    REFUSED = "BEL"


class StatusFlag(IntFlag):
    """The answer to `F`, as LAWICEL's SJA1000 devices give it."""

    RECEIVE_FULL = 0x01
    TRANSMIT_FULL = 0x02
    ERROR_WARNING = 0x04
    DATA_OVERRUN = 0x08
    ERROR_PASSIVE = 0x20
    ARBITRATION_LOST = 0x40
    BUS_ERROR = 0x80


@dataclass(frozen=True, slots=True)
class FrameHead:
    """A frame's line up to its data: the letter, the identifier, the DLC."""

    can_id: int
    is_extended_id: bool
    is_remote: bool
    is_fd: bool
    has_bitrate_switch: bool
    length: int
    """Data bytes; of a remote frame those it asks for."""
    data_start: int
    """Where the data begin in the line."""
    data_end: int
    """Where they end; of a remote frame equal to `data_start`."""

    def frame(self, data: bytes) -> CanFrame | None:
        """The frame with this head and *data*; None for a remote frame, which has none."""
        return None if self.is_remote else CanFrame(self.can_id, data, self.is_extended_id, self.is_fd)


# By the letter: letter, identifier and DLC are this long.
HEAD_SIZES: Final = {ord(letter): 5 if letter.islower() else 10 for letter in "tTrRdDbB"}


def parse_head(line: bytes) -> FrameHead | None:
    """Read the head of a frame's line; None if it is not one. The data behind it are not looked at."""
    size = HEAD_SIZES.get(line[0], 0) if line else 0
    key = line[1:size]
    # int() alone would take blanks, signs and underscores.
    if not size or len(key) != size - 1 or not key.isalnum():
        return None
    try:
        can_id, dlc = int(key[:-1], 16), int(key[-1:], 16)
    except ValueError:
        return None
    letter = chr(line[0])
    is_extended, kind = letter.isupper(), letter.lower()
    is_remote, is_fd = kind == "r", kind in "db"
    if can_id >> (29 if is_extended else 11) or (dlc > 8 and not is_fd):
        return None
    length = FD_SIZES[dlc]
    end = size + (0 if is_remote else 2 * length)
    return FrameHead(can_id, is_extended, is_remote, is_fd, kind == "b", length, size, end)


def is_bus_error_report(line: bytes) -> bool:
    """Whether the adapter reports an error of the bus by itself: `E` and eight hex digits (CANable 2.5)."""
    digits = line[1:]
    return line[:1] == b"E" and len(digits) == 8 and digits.isalnum() and not digits.strip(b"0123456789abcdefABCDEF")


def frame_line(frame: CanFrame, *, has_bitrate_switch: bool = True) -> str:
    """The line of a data frame, without its CR. CAN FD data are padded with zeros to the next length that CAN FD has.

    Raises:
        LocalProtocolError: an identifier or a length that no line can carry.
    """
    data = frame.data
    sizes, kind = (FD_SIZES, "CAN FD") if frame.is_fd else (FD_SIZES[:9], "classic")
    if len(data) > sizes[-1]:
        raise LocalProtocolError(f"expected at most {sizes[-1]} data bytes in a {kind} frame, got {len(data)}")
    dlc = bisect_left(sizes, len(data))
    letter = "t" if not frame.is_fd else "b" if has_bitrate_switch else "d"
    head = _head(letter, frame.can_id, dlc, is_extended_id=frame.is_extended_id)
    return head + data.ljust(sizes[dlc], b"\0").hex().upper()


def remote_line(can_id: int, length: int, *, is_extended_id: bool = False) -> str:
    """The line of a remote frame that asks for *length* bytes, without its CR.

    Raises:
        LocalProtocolError: an identifier or a length that no line can carry.
    """
    if not 0 <= length <= 8:
        raise LocalProtocolError(f"expected at most 8 data bytes in a classic frame, got {length}")
    return _head("r", can_id, length, is_extended_id=is_extended_id)


def _head(letter: str, can_id: int, dlc: int, *, is_extended_id: bool) -> str:
    if can_id < 0 or can_id >> (29 if is_extended_id else 11):
        raise LocalProtocolError(f"expected an identifier of {29 if is_extended_id else 11} bits, got {can_id:#x}")
    return f"{letter.upper()}{can_id:08X}{dlc:X}" if is_extended_id else f"{letter}{can_id:03X}{dlc:X}"
