"""BUSMASTER's log (`.log`), as it and SavvyCAN write it.

    ***BUSMASTER Ver 3.2.2***
    ***START DATE AND TIME 8:8:2014 11:49:7:965***
    ***HEX***
    ***SYSTEM MODE***
    11:49:12:9420 Rx 1 0x023 s 1 40

A type is `s` or `x` (extended id), with `r` behind it for a remote frame. Times are hours, minutes, seconds and units of 100 us
(BUSMASTER: four digits) or milliseconds (SavvyCAN: one to three). In system mode they are the machine's clock, shown with the
date of the session and counted as UTC; a clock that jumps back by hours has passed midnight. In absolute mode they count
from the start of the session, in relative mode from the previous frame.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bmsota.adapters.canlogs._frames import (
    FrameKind,
    LogFrame,
    StrangeLineError,
    checked_id,
    data_of,
)

if TYPE_CHECKING:
    from bmsota.adapters.canlogs._frames import LogNotes

_DATE = re.compile(r"\*\*\*START DATE AND TIME\s+(\d+):(\d+):(\d+)\s", re.ASCII)
_FRAME = re.compile(
    r"(\d{1,4}):(\d{1,2}):(\d{1,2}):(\d{1,4})\s+([RT]x)\s+(\d{1,4})\s+(\S+)\s*(.*)", re.ASCII | re.IGNORECASE
)

_DAY_S = 86_400
_LOCAL_CLOCK = "times are the clock of the machine that logged, counted as UTC"
_BASES = {
    "***ABSOLUTE MODE***": "times are seconds since the start of the session",
    "***RELATIVE MODE***": "times are seconds since the previous frame",
    "***SYSTEM MODE***": "",
}


def recognizes(line: str) -> bool:
    """Whether *line* is a header of BUSMASTER."""
    return line.strip().lstrip("-").startswith("***BUSMASTER")


class BusmasterLines:
    """A `LineFormat`."""

    def __init__(self, notes: LogNotes) -> None:
        self._notes = notes
        self._base = 16
        self._midnight_s: float | None = None
        self._is_clock = True
        self._latest_s = 0.0

    def frame(self, line: str, /) -> LogFrame | None:
        line = line.strip()
        if not line:
            return None
        if line.startswith("***") or recognizes(line):
            self._header(line)
            return None
        found = _FRAME.fullmatch(line)
        if found is None:
            raise StrangeLineError
        time_s, channel, rest = self._time(found), found[6], found[8].split()
        if found[7].upper().startswith("ERR"):
            return LogFrame(time_s, channel, 0, False, b"", FrameKind.ERROR)
        kind = rest[0].lower()
        if kind not in {"s", "x", "sr", "xr"}:
            raise StrangeLineError(f"expected the type s, x, sr or xr, got {rest[0][:8]}")
        digits = found[7].lower()
        number = int(digits, 0) if digits.startswith("0x") else int(digits, self._base)
        can_id = checked_id(number, is_extended_id=kind[0] == "x")
        if kind.endswith("r"):
            return LogFrame(time_s, channel, can_id, kind[0] == "x", b"", FrameKind.REMOTE)
        return LogFrame(time_s, channel, can_id, kind[0] == "x", data_of(rest[2:], int(rest[1]), self._base))

    def _time(self, found: re.Match[str]) -> float:
        fraction_s = int(found[4]) / (10_000 if len(found[4]) == 4 else 1000)
        time_s = int(found[1]) * 3600 + int(found[2]) * 60 + int(found[3]) + fraction_s
        if not self._is_clock:
            return time_s
        if self._midnight_s is None:
            self._notes.time_base = "times are seconds since midnight, by the clock of the machine that logged"
            return time_s
        self._notes.time_base = _LOCAL_CLOCK
        if time_s < self._latest_s - _DAY_S / 2:
            self._midnight_s += _DAY_S
        self._latest_s = time_s
        return self._midnight_s + time_s

    def _header(self, line: str) -> None:
        if line in {"***HEX***", "***DEC***"}:
            self._base = 10 if line == "***DEC***" else 16
        elif line in _BASES:
            self._notes.time_base = _BASES[line]
            self._is_clock = not _BASES[line]
        elif (found := _DATE.match(line)) is not None:
            day, month, year = (int(each) for each in found.groups())
            self._midnight_s = datetime(year, month, day, tzinfo=UTC).timestamp()
            self._latest_s = 0.0
