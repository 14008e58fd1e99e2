"""PEAK's trace file (`.trc`), versions 1.0 to 2.1 ("PEAK CAN TRC File Format", 2023).

    ;$FILEVERSION=2.1
    ;$STARTTIME=45251.9259259259
    ;$COLUMNS=N,O,T,B,I,d,R,L,D
          1      0.000 DT 1      0100 Rx -  4    E8 0D 01 00

Channels are the file's; versions before 1.2 have none. Times are start time and offset; the start time is the clock of the
machine, whose time zone is not in the file, counted as UTC. Version 1.0 has no start time in a readable form: its
times are seconds since the start of the trace. Hardware states, error counters and events are left out.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

from bmsota.adapters.canlogs._frames import (
    FD_LENGTHS,
    FrameKind,
    LogFrame,
    StrangeLineError,
    checked_id,
    data_of,
)

if TYPE_CHECKING:
    from bmsota.adapters.canlogs._frames import LogNotes

_RECOGNIZED = re.compile(
    r";\$(?:FILEVERSION|STARTTIME|COLUMNS)=.*|"
    r"\d+\)\s+\d+(?:\.\d+)?\s+(?:\d+\s+)?(?:[RT]x\s+)?[0-9A-F]{4,8}\s.*"
)

# Day 0 of a start time.
_DAY_0 = datetime(1899, 12, 30, tzinfo=UTC)

_SINCE_START = "times are seconds since the start of the trace"
_LOCAL_CLOCK = "times are the clock of the machine that traced, counted as UTC"

# The columns of the versions that do not name them: number, offset, bus, type, id, reserved, length or DLC, data.
_COLUMNS = {
    "1.0": "NOILD",
    "1.1": "NOTILD",
    "1.2": "NOBTILD",
    "1.3": "NOBTIRLD",
}

# What stands in the column of types: data frames (classic; FD; with bit rate switch; with error state; both).
_DATA_TYPES = {"DT", "FD", "FB", "FE", "BI", "Rx", "Tx"}
_EVENT_TYPES = {"ST", "EC", "EV", "Warng"}


def _places(columns: str) -> dict[str, int]:
    return {letter: number for number, letter in enumerate(columns)}


def recognizes(line: str) -> bool:
    """Whether *line* is of a trace file and of no other format."""
    return _RECOGNIZED.fullmatch(line.strip()) is not None


class TrcLines:
    """A `LineFormat`."""

    def __init__(self, notes: LogNotes) -> None:
        self._notes = notes
        self._start_s = 0.0
        self._at = _places(_COLUMNS["1.0"])
        notes.time_base = _SINCE_START

    def frame(self, line: str, /) -> LogFrame | None:
        line = line.strip()
        if not line:
            return None
        if line.startswith(";"):
            self._header(line)
            return None
        at = self._at
        fields = line.split(None, len(at) - 1)
        kind = fields[at["T"]] if "T" in at else "DT"
        time_s = self._time(fields[at["O"]])
        channel = fields[at["B"]].lstrip("0") or "0" if "B" in at else ""
        if kind in _EVENT_TYPES:
            return None
        if kind in {"ER", "Error"}:
            return LogFrame(time_s, channel, 0, False, b"", FrameKind.ERROR)
        if kind != "RR" and kind not in _DATA_TYPES:
            raise StrangeLineError(f"unknown message type {kind[:8]}")
        digits = fields[at["I"]]
        data = fields[at["D"]].split() if len(fields) > at["D"] else []
        if digits == "FFFFFFFF":
            return None  # Version 1.0's warnings of the hardware.
        is_extended_id = len(digits) > 4
        can_id = checked_id(int(digits, 16), is_extended_id=is_extended_id)
        if kind == "RR" or data[:1] == ["RTR"]:
            return LogFrame(time_s, channel, can_id, is_extended_id, b"", FrameKind.REMOTE)
        if data[:1] == ["ERROR"]:
            return LogFrame(time_s, channel, 0, False, b"", FrameKind.ERROR)
        length = self._length(fields, at, is_fd=kind in {"FD", "FB", "FE", "BI"})
        if len(data) > length:
            raise StrangeLineError(f"expected {length} data bytes, got {len(data)}")
        return LogFrame(time_s, channel, can_id, is_extended_id, data_of(data, length))

    @staticmethod
    def _length(fields: list[str], at: dict[str, int], *, is_fd: bool) -> int:
        if "l" in at:
            return int(fields[at["l"]])
        dlc = int(fields[at["L"]])
        if not 0 <= dlc < len(FD_LENGTHS):
            raise StrangeLineError(f"expected a DLC of 0 to 15, got {dlc}")
        return FD_LENGTHS[dlc] if is_fd else min(dlc, 8)

    def _time(self, text: str) -> float:
        milliseconds = float(text)
        if not -1e15 < milliseconds < 1e15:  # Not a number either.
            raise StrangeLineError("the time is not a number")
        return self._start_s + milliseconds / 1000

    def _header(self, line: str) -> None:
        name, _, value = line[1:].partition("=")
        value = value.strip()
        if name == "$FILEVERSION":
            if value in _COLUMNS:
                self._at = _places(_COLUMNS[value])
        elif name == "$STARTTIME":
            self._start_s = (_DAY_0 + timedelta(days=float(value))).timestamp()
            self._notes.time_base = _LOCAL_CLOCK
        elif name == "$COLUMNS":
            columns = value.replace(",", "").replace(" ", "")
            if (
                len(set(columns)) != len(columns)
                or not {"O", "T", "I", "D"} <= set(columns)
                or not {"l", "L"} & set(columns)
            ):
                raise StrangeLineError("expected the columns O, T, I, D and l or L")
            self._at = _places(columns)
