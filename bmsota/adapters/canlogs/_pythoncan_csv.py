"""The CSV log of python-can (`can.CSVWriter`).

    timestamp,arbitration_id,extended,remote,error,dlc,data
    1700000000.5,0x100,0,0,0,4,6A0NAQ==

The first line names the columns; the data are Base64. There is no channel. Times are seconds since the epoch. A
spreadsheet may have put `;` or a tab for the commas, and a comma for the point.
"""

from __future__ import annotations

import binascii
import math
from typing import TYPE_CHECKING

from bmsota.adapters.canlogs._frames import FrameKind, LogFrame, StrangeLineError, checked_id
from bmsota.adapters.canlogs._text import fields_of, seconds_of, separator_of

if TYPE_CHECKING:
    from bmsota.adapters.canlogs._frames import LogNotes

_HEADER = ["timestamp", "arbitration_id", "extended", "remote", "error", "dlc", "data"]
_FLAGS = {"0": False, "1": True}


def recognizes(line: str) -> bool:
    """Whether *line* is the header of such a log."""
    return fields_of(line.lower(), separator_of(line)) == _HEADER


class PythonCanCsvLines:
    """A `LineFormat`."""

    def __init__(self, notes: LogNotes) -> None:  # noqa: ARG002 - as every format takes them
        """Take *notes* as every format does; such a log needs none of its own."""
        self._separator = ","

    def frame(self, line: str, /) -> LogFrame | None:
        if not line.strip():
            return None
        if recognizes(line):
            self._separator = separator_of(line)
            return None
        fields = fields_of(line, self._separator)
        if len(fields) != len(_HEADER):
            raise StrangeLineError(f"expected {len(_HEADER)} columns, got {len(fields)}")
        time_s = seconds_of(fields[0], self._separator)
        if not math.isfinite(time_s):
            raise StrangeLineError("the time is not a number")
        if not {*fields[2:5]} <= _FLAGS.keys():
            raise StrangeLineError("expected 0 or 1 in the columns extended, remote and error")
        is_extended_id, is_remote, is_error = (_FLAGS[each] for each in fields[2:5])
        can_id = int(fields[1], 16)
        if is_error:
            return LogFrame(time_s, "", can_id, False, b"", FrameKind.ERROR)
        can_id = checked_id(can_id, is_extended_id=is_extended_id)
        if is_remote:
            return LogFrame(time_s, "", can_id, is_extended_id, b"", FrameKind.REMOTE)
        try:
            data = binascii.a2b_base64(fields[6], strict_mode=True)
        except binascii.Error:
            raise StrangeLineError("the data are not Base64") from None
        length = int(fields[5])
        if length > 64 or len(data) != length:
            raise StrangeLineError(f"expected {min(length, 64)} data bytes, got {len(data)}")
        return LogFrame(time_s, "", can_id, is_extended_id, data)
