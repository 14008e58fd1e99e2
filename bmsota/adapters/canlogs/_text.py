"""Logs that are text: bytes into lines, lines into frames by a format.

Lines end as they like (LF, CR LF, CR), are UTF-8 or, with a byte order mark, UTF-16; bytes that are neither become a mark, so
that a comment in another code page costs nothing. A line that a format does not understand is skipped and counted with its
number. A last line without an end that cannot be understood is where the log breaks off.
"""

from __future__ import annotations

import codecs
import io
from typing import TYPE_CHECKING, Protocol

from bmsota.adapters.canlogs._frames import StrangeLineError, quoted

if TYPE_CHECKING:
    from bmsota.adapters.canlogs._frames import LogFrame, LogNotes

# Nothing that a tool writes in one line is longer: a J1939 transport message of 1,785 bytes has some 6,000 characters. A file
# without line ends must not be held in memory.
LINE_LENGTH_MAX = 16_384

_UTF_16_MARKS = (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)


class LineFormat(Protocol):
    """A format whose frames are lines."""

    def frame(self, line: str, /) -> LogFrame | None:
        """The frame of a line; None if the line is of the format and holds none.

        Raises:
            ValueError: the line is not of the format. The message is a reason for the user, or empty.
        """


def separator_of(line: str) -> str:
    """What separates the columns of a table whose header is *line*: a spreadsheet saves `;` where the comma is the decimal mark."""
    return max(",;\t", key=line.count)


def fields_of(line: str, separator: str) -> list[str]:
    """The columns of a line."""
    return [each.strip() for each in line.split(separator)]


def seconds_of(text: str, separator: str) -> float:
    """A time of a table with this separator, whatever its decimal mark.

    Raises:
        ValueError: it is no number.
    """
    return float(text if separator == "," else text.replace(",", "."))


def encoding_of(head: bytes) -> str:
    """The encoding of a text that begins with *head*."""
    return "utf-16" if head.startswith(_UTF_16_MARKS) else "utf-8-sig"


class TextReader:
    """A `LogReader` of one `LineFormat`."""

    def __init__(self, lines: LineFormat, notes: LogNotes) -> None:
        self._lines = lines
        self._notes = notes
        self._decoder: io.IncrementalNewlineDecoder | None = None
        self._rest = ""
        self._number = 0
        self._is_too_long = False

    def feed(self, data: bytes, /) -> list[LogFrame]:
        if self._decoder is None:
            decoder = codecs.getincrementaldecoder(encoding_of(data))(errors="replace")
            self._decoder = io.IncrementalNewlineDecoder(decoder, translate=True)
        return self._take(self._decoder.decode(data))

    def end(self) -> list[LogFrame]:
        frames = self._take(self._decoder.decode(b"", final=True)) if self._decoder is not None else []
        if self._rest or self._is_too_long:
            self._number += 1
            try:
                if self._is_too_long:
                    raise ValueError  # noqa: TRY301 - the same end as for every other line
                frame = self._lines.frame(self._rest)
            except (ValueError, IndexError, OverflowError):
                self._notes.break_off(f"the log breaks off in line {self._number}")
            else:
                frames += [frame] if frame is not None else []
            self._rest, self._is_too_long = "", False
        return frames

    def _take(self, text: str) -> list[LogFrame]:
        lines = (self._rest + text).split("\n")
        self._rest = lines.pop()
        frames: list[LogFrame] = []
        take = self._lines.frame
        for line in lines:
            self._number += 1
            if self._is_too_long or len(line) > LINE_LENGTH_MAX:
                self._is_too_long = False
                self._notes.skip(f"line {self._number}", f"longer than {LINE_LENGTH_MAX} characters")
                continue
            try:
                frame = take(line)
            except (ValueError, IndexError, OverflowError) as error:
                # Python's own words about int() and bytes.fromhex() help nobody.
                reason = str(error) if isinstance(error, StrangeLineError) else ""
                self._notes.skip(f"line {self._number}", f"{quoted(line)}{reason and ': '}{reason}")
                continue
            if frame is not None:
                frames.append(frame)
        if len(self._rest) > LINE_LENGTH_MAX:
            self._rest, self._is_too_long = "", True
        return frames
