"""The trace of CARBUS Analyzer (CAN-Hacker), a `.trc` that is not PEAK's; versions 2 and 3.

    @ TEXT @ 3 @ 64 @ 0 @ 13958 @ 16478 @ 00:00:16.478 @
    # $LocalTime=15:35:15.917
    27,337000<tab>1<tab>00000004<tab>3D8<tab>8<tab>00 00 04 00 00 00 00 00<tab>00000000<tab>text

Lines end in CR alone. A time is seconds of a minute and milliseconds (version 2) or microseconds (version 3); it begins again each
minute, so minutes are counted, and a silence of more than a minute is not seen, by CARBUS Analyzer neither. An id of more than three
digits is an extended one. What the flags mean is not published, so a remote frame is not told from a short data frame.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from bmsota.adapters.canlogs._frames import LogFrame, StrangeLineError, checked_id, data_of

if TYPE_CHECKING:
    from bmsota.adapters.canlogs._frames import LogNotes

_TIME = re.compile(r"(\d{1,2}),(\d{3}|\d{6})", re.ASCII)

_MINUTE_S = 60
# Frames of two channels may stand in the wrong order by so much.
_DISORDER_S = 0.05


def recognizes(line: str) -> bool:
    """Whether *line* is the header of such a trace."""
    return line.startswith("@ TEXT @")


class CarbusLines:
    """A `LineFormat`."""

    def __init__(self, notes: LogNotes) -> None:
        notes.time_base = "times are seconds since the full minute before the start of the trace"
        self._minutes = 0
        self._latest_s = 0.0

    def frame(self, line: str, /) -> LogFrame | None:
        if not line.strip() or line.startswith(("@", "#")):
            return None
        fields = line.split("\t")
        found = _TIME.fullmatch(fields[0].strip())
        if found is None:
            raise StrangeLineError
        digits = fields[3].strip()
        is_extended_id = len(digits) > 3
        data = data_of(fields[5].split(), int(fields[4]))
        can_id = checked_id(int(digits, 16), is_extended_id=is_extended_id)
        # Last, so that a strange line moves no minute.
        second_s = int(found[1]) + int(found[2]) / 10 ** len(found[2])
        if self._minutes and second_s - self._latest_s > _MINUTE_S - _DISORDER_S:
            # A frame of the minute before, behind the first one of this minute.
            return LogFrame((self._minutes - 1) * _MINUTE_S + second_s, fields[1].strip(), can_id, is_extended_id, data)
        if second_s + _DISORDER_S < self._latest_s:
            self._minutes += 1
        self._latest_s = second_s
        return LogFrame(self._minutes * _MINUTE_S + second_s, fields[1].strip(), can_id, is_extended_id, data)
