"""Vector's ASCII log (`.asc`), as CANoe, CANalyzer and python-can write it.

    date Fri May 5 06:24:08.927 PM 2024
    base hex  timestamps absolute
       0.010000 1  100             Rx   d 2 E8 0D
       0.020000 CANFD   1 Rx  100  PackState  1 0 8 8 E8 0D 01 00 00 00 00 00 ...

Channels are CANoe's: counted from 1. Times are CANoe's: seconds since the start of the measurement, or since the previous event
if the log says `timestamps relative`. A requested transmission (`TxRq`) was not on the bus yet and is left out, like all
events that are not frames: statistics, chip states, J1939 transport messages, other buses.
"""

from __future__ import annotations

import re
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
    r"(?i:date\s+[^\W\d]\w*\s+\S.*|base\s+(?:hex|dec)\b.*|begin\s+triggerblock\b.*|"
    r"\d+\.\d+\s+(?:\d+\s+(?:[0-9a-f]+x?\s+[rt]x\s+[dr]\b|errorframe\b)|canfd\s).*)"
)
_HEADER = re.compile(r"(?i)date\s|base\s|(?:no\s+)?internal\s+events\s+logged|(?:begin|end)\s+triggerblock|//")
_EVENT = re.compile(r"(-?\d{1,12}\.\d{1,12})\s+(\S.*)", re.ASCII)
_ID = re.compile(r"[0-9A-Fa-f]{1,10}[xX]?")

# Vector's flags of a CANFD line: the frame is a classic remote frame.
_REMOTE_FLAG = 0x10


def recognizes(line: str) -> bool:
    """Whether *line* is of an ASCII log and of no other format."""
    return _RECOGNIZED.fullmatch(line.strip()) is not None


class AscLines:
    """A `LineFormat`."""

    def __init__(self, notes: LogNotes) -> None:
        self._notes = notes
        self._base = 16
        self._is_relative = False
        self._date = ""

    def frame(self, line: str, /) -> LogFrame | None:
        line = line.strip()
        event = _EVENT.fullmatch(line)
        if event is None:
            if line and _HEADER.match(line) is None:
                raise StrangeLineError
            self._header(line)
            return None
        if not self._notes.time_base:
            self._state_times()
        fields = event[2].split()
        if fields[0].upper() == "CANFD":
            return self._fd_frame(float(event[1]), fields)
        # The other events of a channel have a word where a frame has its id: "1 Statistic: ...", "1 J1939TP ...".
        if not fields[0].isdecimal() or len(fields) < 2:
            return None
        if fields[1].lower() == "errorframe":
            return LogFrame(float(event[1]), fields[0], 0, False, b"", FrameKind.ERROR)
        return self._classic_frame(float(event[1]), fields)

    def _classic_frame(self, time_s: float, fields: list[str]) -> LogFrame | None:
        direction = fields[2].lower() if len(fields) > 2 else ""
        if direction not in {"rx", "tx"}:
            if _ID.fullmatch(fields[1]) and direction != "txrq":
                raise StrangeLineError
            return None
        can_id, is_extended_id = self._id(fields[1])
        if fields[3].lower() == "r":
            return LogFrame(time_s, fields[0], can_id, is_extended_id, b"", FrameKind.REMOTE)
        if fields[3].lower() != "d":
            raise StrangeLineError
        length = min(self._number(fields[4]), 8)
        return LogFrame(time_s, fields[0], can_id, is_extended_id, data_of(fields[5:], length, self._base))

    def _fd_frame(self, time_s: float, fields: list[str]) -> LogFrame | None:
        if len(fields) < 4 or not fields[1].isdecimal():
            return None  # "CANFD   Start of measurement"
        channel, direction = fields[1], fields[2].lower()
        if direction == "txrq":
            return None
        if direction not in {"rx", "tx"}:
            raise StrangeLineError
        if fields[3].lower() == "errorframe":
            return LogFrame(time_s, channel, 0, False, b"", FrameKind.ERROR)
        can_id, is_extended_id = self._id(fields[3])
        # A symbolic name may stand before bit rate switch, error state, DLC and length.
        rest = fields[4:] if fields[4] in {"0", "1"} and fields[5] in {"0", "1"} else fields[5:]
        if rest[0] not in {"0", "1"} or rest[1] not in {"0", "1"}:
            raise StrangeLineError
        dlc, length = int(rest[2], 16), int(rest[3])
        if dlc >= len(FD_LENGTHS):
            raise StrangeLineError(f"expected a DLC of at most 15, got {dlc}")
        if not length and (dlc or self._is_remote(rest[4:])):
            return LogFrame(time_s, channel, can_id, is_extended_id, b"", FrameKind.REMOTE)
        return LogFrame(time_s, channel, can_id, is_extended_id, data_of(rest[4:], length, self._base))

    @staticmethod
    def _is_remote(behind_data: list[str]) -> bool:
        """Whether a frame without data is a remote frame: duration, length and flags stand behind the data."""
        return len(behind_data) > 2 and bool(int(behind_data[2], 16) & _REMOTE_FLAG)

    def _id(self, text: str) -> tuple[int, bool]:
        if _ID.fullmatch(text) is None:
            raise StrangeLineError("a symbolic name in place of the CAN id: log with numeric ids")
        is_extended_id = text[-1] in "xX"
        if self._base == 10 and not text.rstrip("xX").isdecimal():
            raise StrangeLineError(f"expected a decimal CAN id (the log says base dec), got {text}")
        return checked_id(
            self._number(text[:-1] if is_extended_id else text), is_extended_id=is_extended_id
        ), is_extended_id

    def _number(self, text: str) -> int:
        return int(text, self._base)

    def _header(self, line: str) -> None:
        words = line.lower().split()
        if words[:1] == ["date"]:
            self._date = line[4:].strip()
        elif words[:1] == ["base"]:
            self._base = 10 if words[1:2] == ["dec"] else 16
            self._is_relative = "relative" in words
        elif words[:2] == ["begin", "triggerblock"] and len(words) > 2 and not self._date:
            self._date = line.split(None, 2)[2]

    def _state_times(self) -> None:
        if self._is_relative:
            began = f"; the measurement began {self._date}" if self._date else ""
            self._notes.time_base = f"times are seconds since the previous event (timestamps relative){began}"
        else:
            began = f", {self._date}" if self._date else ""
            self._notes.time_base = f"times are seconds since the start of the measurement{began}"
