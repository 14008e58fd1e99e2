"""candump (can-utils): its log file (`-l`, `-L`) and what it shows on the screen, with every option for times.

    (1700000000.000000) can0 100#E80D0100              log; ##0 and data for CAN FD, #R for a remote request
    can0  100   [4]  E8 0D 01 00                       screen
    (2024-05-05 06:24:08.927000)  can0  RX - -  100   [4]  E8 0D 01 00   '....'

Both forms may be mixed, as in a terminal's record. Left out: CAN XL (its lines are counted as strange).

Times. `-ta` and the log have seconds since the epoch. `-tA` has the date and time of the machine, without a time zone: they are
counted as if it were UTC, so that they show as candump showed them. `-tz` and `-td` count from the first and from the
previous frame, and look alike; without an option there is no time.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING

from bmsota.adapters.canlogs._frames import (
    NO_TIME,
    FrameKind,
    LogFrame,
    StrangeLineError,
    checked_id,
    data_of,
)

if TYPE_CHECKING:
    from bmsota.adapters.canlogs._frames import LogNotes

_TIME = r"\((?P<time>(?:\d{4}-\d\d-\d\d[ T]\d\d:\d\d:\d\d|\d{1,12})(?:\.\d{1,9})?)\)"
_LOG = re.compile(_TIME + r"\s+(?P<channel>\S+)\s+(?P<id>[0-9A-Fa-f]{1,8})#(?P<data>\S*)(?:\s+[RTrt])?", re.ASCII)
_SCREEN = re.compile(
    rf"(?:{_TIME}\s+)?(?P<channel>\S+)\s+(?:[RT]X\s+[B-]\s+[E-]\s+)?(?P<id>[0-9A-Fa-f]{{3}}|[0-9A-Fa-f]{{8}})"
    r"\s+(?:\[(?P<length>\d{1,2})\]|\{[0-9A-Fa-f]\})\s*(?P<data>.*)",
    re.ASCII,
)
_FD = re.compile(r"#[0-9A-Fa-f](?P<data>[0-9A-Fa-f.]*)")
_REMOTE = re.compile(r"[Rr]\d?(?:_[0-9A-Fa-f])?")
_COLOURS = re.compile("\x1b\\[[0-9;]*m")
_BINARY = re.compile(r"[01]{8}")

# linux/can.h: an error message of the controller, not a frame of the bus.
_ERROR_FLAG = 0x2000_0000

# Seconds since the epoch have ten digits since 2001; candump pads shorter ones to ten. Since a start they have three.
_EPOCH_DIGITS = 10
_SINCE_START = "times are seconds as candump showed them: since the first frame (-tz) or since the previous one (-td)"
_LOCAL_CLOCK = "times are the clock of the machine that ran candump (-tA), counted as UTC"


def recognizes(line: str) -> bool:
    """Whether *line* is candump's and no other tool's."""
    return bool(_LOG.fullmatch(line.strip()) or _SCREEN.fullmatch(_COLOURS.sub("", line).strip()))


class CandumpLines:
    """A `LineFormat`."""

    def __init__(self, notes: LogNotes) -> None:
        self._notes = notes
        self._is_after_error = False

    def frame(self, line: str, /) -> LogFrame | None:
        if (found := _LOG.fullmatch(line.strip())) is not None:
            self._is_after_error = False
            return self._logged(found)
        plain = _COLOURS.sub("", line)
        text = plain.strip()
        if not text or text.startswith(("#", ";", "//")):
            return None
        if (found := _SCREEN.fullmatch(text)) is not None:
            frame = self._shown(found)
            self._is_after_error = frame.kind is FrameKind.ERROR
            return frame
        if self._is_after_error and plain[0] in "\t ":
            return None  # `-e` explains an error frame in indented lines behind it.
        self._is_after_error = False
        raise StrangeLineError

    def _logged(self, found: re.Match[str]) -> LogFrame:
        digits, text = found["id"], found["data"]
        number = int(digits, 16)
        time_s = self._time(found["time"])
        if number & _ERROR_FLAG and len(digits) == 8:
            return LogFrame(time_s, found["channel"], number & 0x1FFF_FFFF, False, b"", FrameKind.ERROR)
        is_extended_id = len(digits) > 3
        kind, data, size_max = FrameKind.DATA, b"", 8
        if _REMOTE.fullmatch(text):
            kind = FrameKind.REMOTE
        else:
            if (fd := _FD.fullmatch(text)) is not None:
                text, size_max = fd["data"], 64
            elif "_" in text:  # A classic frame with a DLC beyond 8.
                text = text[: text.index("_")]
            data = bytes.fromhex(text.replace(".", ""))
            if len(data) > size_max:
                raise StrangeLineError(f"expected at most {size_max} data bytes, got {len(data)}")
        return LogFrame(
            time_s,
            found["channel"],
            checked_id(number, is_extended_id=is_extended_id),
            is_extended_id,
            data,
            kind,
        )

    def _shown(self, found: re.Match[str]) -> LogFrame:
        digits, text = found["id"], found["data"]
        number = int(digits, 16)
        time_s = self._time(found["time"])
        if found["time"] is None:
            self._notes.time_base = "the log has no times"
        elif len(found["time"].partition(".")[0]) < _EPOCH_DIGITS:
            self._notes.time_base = _SINCE_START
        if len(digits) == 8 and number & _ERROR_FLAG:
            return LogFrame(time_s, found["channel"], number & 0x1FFF_FFFF, False, b"", FrameKind.ERROR)
        is_extended_id = len(digits) == 8
        checked_id(number, is_extended_id=is_extended_id)
        if text.startswith("remote request"):
            return LogFrame(time_s, found["channel"], number, is_extended_id, b"", FrameKind.REMOTE)
        length = 8 if found["length"] is None else int(found["length"])
        tokens = text.split()
        if length and tokens and "`" in tokens[0]:  # `-S`: the last byte first.
            tokens = tokens[0].split("`")[::-1]
        is_binary = bool(tokens) and _BINARY.fullmatch(tokens[0]) is not None
        data = data_of(tokens, length, 2 if is_binary else 16)
        return LogFrame(time_s, found["channel"], number, is_extended_id, data)

    def _time(self, text: str | None) -> float:
        if text is None:
            return NO_TIME
        if "-" in text:
            self._notes.time_base = _LOCAL_CLOCK
            whole, _, fraction = text.partition(".")
            seconds = datetime.fromisoformat(whole).replace(tzinfo=UTC).timestamp()
            return seconds + float(f"0.{fraction or 0}")
        return float(text)
