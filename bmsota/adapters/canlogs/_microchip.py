"""The log of Microchip's CAN BUS Analyzer, as it and SavvyCAN write it.

    //---------------------------------
    Microchip Technology Inc.
    CAN BUS Analyzer
    //---------------------------------
    166064;RX;0x0000021A;8;0xFE;0x36;0x12;0xFE;0x69;0x05;0x07;0xAD;

Lines between two lines of `//` are a comment. A time without a point is milliseconds, with one (or a comma) it is seconds, since the start.
There is no channel. An id above 0x7FF, or with an `x` behind it, is an extended one: the log says no more.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bmsota.adapters.canlogs._frames import (
    STANDARD_ID_MAX,
    LogFrame,
    StrangeLineError,
    checked_id,
    data_of,
)
from bmsota.adapters.canlogs._text import seconds_of

if TYPE_CHECKING:
    from bmsota.adapters.canlogs._frames import LogNotes

_FRAME = re.compile(r"(\d{1,12}(?:[.,]\d{1,9})?);[RT]X;0x([0-9A-F]{1,8})(x?);(\d{1,2});(.*)", re.ASCII | re.IGNORECASE)


def recognizes(line: str) -> bool:
    """Whether *line* is of such a log and of no other format."""
    return line.strip() == "Microchip Technology Inc." or _FRAME.fullmatch(line.strip()) is not None


class MicrochipLines:
    """A `LineFormat`."""

    def __init__(self, notes: LogNotes) -> None:
        notes.time_base = "times are seconds since the start of the log"
        self._is_comment = False

    def frame(self, line: str, /) -> LogFrame | None:
        line = line.strip()
        found = _FRAME.fullmatch(line)
        if found is None:
            if line.startswith("//"):
                self._is_comment = not self._is_comment
            elif line and not self._is_comment:
                raise StrangeLineError
            return None
        self._is_comment = False  # The line that ends the comment may be lost.
        tokens = [each.strip().lower().removeprefix("0x") for each in found[5].split(";")]
        number = int(found[2], 16)
        is_extended_id = bool(found[3]) or number > STANDARD_ID_MAX
        return LogFrame(
            seconds_of(found[1], ";") / (1000 if found[1].isdecimal() else 1),
            "",
            checked_id(number, is_extended_id=is_extended_id),
            is_extended_id,
            data_of(tokens, int(found[4])),
        )
