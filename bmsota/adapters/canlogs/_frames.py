"""What a log holds, whatever its format: frames, and notes about everything that is not one."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Protocol

# CAN FD's data lengths by DLC (ISO 11898-1, table 5). Classic CAN has 8 bytes from DLC 8 on.
FD_LENGTHS = (0, 1, 2, 3, 4, 5, 6, 7, 8, 12, 16, 20, 24, 32, 48, 64)

EXTENDED_ID_MAX = 0x1FFF_FFFF
STANDARD_ID_MAX = 0x7FF

# How a log without times is written down: no number would be true.
NO_TIME = math.nan

# Skipped parts that are kept with their place; the others are counted. A log of garbage has millions.
PLACES_KEPT = 5

# A line may be the whole file.
QUOTE_LENGTH_MAX = 60


class FrameKind(Enum):
    """What kind of CAN frame a log's entry is."""

    DATA = "data"
    REMOTE = "remote"
    ERROR = "error"


class LogFrame(NamedTuple):
    """One CAN frame of a log."""

    time_s: float
    """As the log's own tool shows it (`LogNotes.time_base`); NaN if the log has no times."""
    channel: str
    """As the log's own tool shows it: "can0", "1"; empty if the format has none."""
    can_id: int
    is_extended_id: bool
    data: bytes
    kind: FrameKind = FrameKind.DATA


class SkippedPart(NamedTuple):
    """A part of a log that is not a frame and should be one."""

    place: str
    """"line 7", "offset 4096"."""
    reason: str


@dataclass(slots=True)
class LogNotes:
    """What a reader says about a log besides its frames."""

    skipped: int = 0
    """Lines or parts that could not be read."""
    parts: list[SkippedPart] = field(default_factory=list)
    """The first few of them."""
    fault: str | None = None
    """Why the log could not be read to its end."""
    time_base: str = ""
    """What `LogFrame.time_s` is, in a sentence; empty for seconds since 1970-01-01 UTC."""

    def skip(self, place: str, reason: str) -> None:
        """Count a part that could not be read."""
        self.skipped += 1
        if len(self.parts) < PLACES_KEPT:
            self.parts.append(SkippedPart(place, reason))

    def break_off(self, reason: str) -> None:
        """Say why the log ends early; the first reason counts."""
        if self.fault is None:
            self.fault = reason


class StrangeLineError(ValueError):
    """A line or part that is not what its format has there; the message says why, for the user."""


class LogReader(Protocol):
    """A format: bytes in, frames out."""

    def feed(self, data: bytes, /) -> list[LogFrame]:
        """Take the log's next bytes. Raises nothing."""

    def end(self) -> list[LogFrame]:
        """The log ends here. Raises nothing."""


def quoted(text: str) -> str:
    """A strange line, fit for a message."""
    text = "".join(each if each.isprintable() else "?" for each in text.strip()[: QUOTE_LENGTH_MAX + 1])
    return text if len(text) <= QUOTE_LENGTH_MAX else text[:QUOTE_LENGTH_MAX] + "..."


def checked_id(can_id: int, *, is_extended_id: bool) -> int:
    """*can_id*, if CAN has it.

    Raises:
        StrangeLineError: it is too large.
    """
    if not 0 <= can_id <= (EXTENDED_ID_MAX if is_extended_id else STANDARD_ID_MAX):
        raise StrangeLineError(f"CAN id {can_id:X} is too large")
    return can_id


def data_of(tokens: list[str], length: int, base: int = 16) -> bytes:
    """The first *length* of *tokens* as bytes.

    Raises:
        StrangeLineError: there are fewer, one is not a byte, or CAN has no such length.
    """
    if not 0 <= length <= 64:
        raise StrangeLineError(f"expected at most 64 data bytes, got {length}")
    if len(tokens) < length:
        raise StrangeLineError(f"expected {length} data bytes, got {len(tokens)}")
    digits = "".join(tokens[:length])
    if base == 16 and len(digits) == 2 * length and digits.isalnum():
        try:
            return bytes.fromhex(digits)
        except ValueError:
            raise StrangeLineError("a data byte is not a number of 0 to 255") from None
    # `int` alone takes signs, underscores and digits of other scripts.
    if not all(each.isascii() and each.isalnum() for each in tokens[:length]):
        raise StrangeLineError("a data byte is not a number")
    try:
        return bytes(int(each, base) for each in tokens[:length])
    except ValueError:
        raise StrangeLineError("a data byte is not a number of 0 to 255") from None
