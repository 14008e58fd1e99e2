"""The native CSV log of SavvyCAN, GVRET and their relatives, in its two versions.

    Time Stamp,ID,Extended,Dir,Bus,LEN,D1,D2,D3,D4,D5,D6,D7,D8
    166064000,0000021A,false,Rx,0,2,FE,36,00,00,00,00,00,00,

The first line names the columns; `Dir` is missing in version 1. A spreadsheet may have put `;` or a tab for the commas. Times are microseconds as the recorder counted them: since it was
switched on or, if it was told to, since the epoch. Buses are the file's, counted from 0 as SavvyCAN shows them.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bmsota.adapters.canlogs._frames import (
    FrameKind,
    LogFrame,
    StrangeLineError,
    checked_id,
    data_of,
)
from bmsota.adapters.canlogs._text import fields_of, separator_of

if TYPE_CHECKING:
    from bmsota.adapters.canlogs._frames import LogNotes

_NEEDED = {"TIME STAMP", "ID", "EXTENDED", "BUS", "LEN", "D1"}
_NUMBER = re.compile(r"\d{1,18}", re.ASCII)

# SavvyCAN marks an error frame as Linux does.
_ERROR_FLAG = 0x2000_0000

# 2001 in microseconds since the epoch: no recorder runs for 30 years.
_EPOCH_FROM_US = 10**15


def recognizes(line: str) -> bool:
    """Whether *line* is the header of such a log."""
    return set(_names(line)) >= _NEEDED


def _names(line: str) -> list[str]:
    return fields_of(line.upper(), separator_of(line))


class GvretLines:
    """A `LineFormat`."""

    def __init__(self, notes: LogNotes) -> None:
        self._notes = notes
        # Until a header says otherwise: a log whose first line is lost is of version 2.
        self._separator = ","
        self._at = {name: at for at, name in enumerate(("TIME STAMP", "ID", "EXTENDED", "DIR", "BUS", "LEN", "D1"))}

    def frame(self, line: str, /) -> LogFrame | None:
        if not line.strip():
            return None
        if recognizes(line):
            self._separator = separator_of(line)
            self._at = {name: at for at, name in enumerate(_names(line))}
            return None
        fields = fields_of(line, self._separator)
        at = self._at
        if _NUMBER.fullmatch(fields[at["TIME STAMP"]]) is None:
            raise StrangeLineError
        microseconds = int(fields[at["TIME STAMP"]])
        if microseconds < _EPOCH_FROM_US:
            self._notes.time_base = "times are seconds as the recorder counted them"
        extended = fields[at["EXTENDED"]].lower()
        if extended not in {"true", "false", "1", "0"}:
            raise StrangeLineError("expected true or false in the column Extended")
        number, bus = int(fields[at["ID"]], 16), fields[at["BUS"]]
        if number & _ERROR_FLAG:
            return LogFrame(microseconds / 1e6, bus, number & 0x1FFF_FFFF, False, b"", FrameKind.ERROR)
        is_extended_id = extended in {"true", "1"}
        data, length = fields[at["D1"] :], int(fields[at["LEN"]])
        # Recorders fill the columns behind the data with zeros.
        if any(each.strip("0") for each in data[max(length, 0) :]):
            raise StrangeLineError(f"expected {length} data bytes, got {len([each for each in data if each])}")
        return LogFrame(
            microseconds / 1e6,
            bus,
            checked_id(number, is_extended_id=is_extended_id),
            is_extended_id,
            data_of(data, length),
        )
