"""ASAM MDF 4 (`.mf4`) with bus events, as CSS Electronics' loggers, CANoe and python-can write it. Read by asammdf.

The only format that another library reads, because its structure is a database of its own: channel groups, compressed and
transposed blocks, conversions. asammdf is LGPL and large, hence an extra, and crashes on damaged files, hence a process
of its own (`_mf4_program`, decision 48): where that dies, the log breaks off. It wants the file itself, so an MF4 is read neither
from a pipe nor compressed once more.

Times are the header's start time and an offset. Channels are the log's `BusChannel`. Data, error and remote frames lie in groups of
their own and are merged by time.
"""

from __future__ import annotations

import struct
import subprocess
import sys
from importlib.util import find_spec
from typing import TYPE_CHECKING, Final

from bmsota.adapters.canlogs._frames import FrameKind, LogFrame
from bmsota.errors import ConfigurationError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import IO

    from bmsota.adapters.canlogs._frames import LogNotes

# "MDF     ", or what a logger writes until it has closed the file.
MAGICS = (b"MDF     ", b"UnFinMF ")

# What the program tells: a letter and what belongs to it.
OPENED, REFUSED, NOTE, BROKEN, END = b"O", b"X", b"N", b"B", b"E"
# F: time, channel, id, extended, kind, length, and the data.
FRAME = struct.Struct("<dHLBBB")
TEXT = struct.Struct("<H")
KINDS: Final = (FrameKind.DATA, FrameKind.REMOTE, FrameKind.ERROR)


class Mf4Log:
    """An open MF4; iterate over `frames` once."""

    def __init__(self, path: Path, notes: LogNotes) -> None:
        """Open the log at *path*.

        Raises:
            MissingExtraError: asammdf is not installed.
            ConfigurationError: it is not an MF4 that asammdf can read.
        """
        if find_spec("asammdf") is None:
            raise MissingExtraError("reading MF4 logs", "asammdf", "mf4")
        self._notes = notes
        self._program = subprocess.Popen(  # noqa: S603 - this interpreter, our own module
            [sys.executable, "-m", "bmsota.adapters.canlogs._mf4_program", str(path.resolve())],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )
        assert self._program.stdout is not None
        self._output: IO[bytes] = self._program.stdout
        if self._output.read(1) != OPENED:
            self.close()
            raise ConfigurationError(f"not an MF4 log that asammdf can read: {path}")

    def close(self) -> None:
        """End the program."""
        self._program.kill()
        self._output.close()
        self._program.wait()

    def frames(self) -> Iterator[LogFrame]:
        """All frames in the order of their times. Raises nothing."""
        read = self._output.read
        while True:
            kind = read(1)
            if kind == b"F":
                head = read(FRAME.size)
                if len(head) < FRAME.size:
                    break
                time_s, channel, can_id, is_extended_id, number, length = FRAME.unpack(head)
                data = read(length)
                if len(data) < length:
                    break
                yield LogFrame(time_s, str(channel), can_id, bool(is_extended_id), data, KINDS[number])
            elif kind == NOTE:
                self._notes.skip(self._text(), self._text())
            elif kind == BROKEN:
                self._notes.break_off(self._text())
            elif kind == END:
                return
            else:
                break
        self._notes.break_off("the log breaks off: asammdf failed on a damaged block")

    def _text(self) -> str:
        size = self._output.read(TEXT.size)
        length = TEXT.unpack(size)[0] if len(size) == TEXT.size else 0
        return self._output.read(length).decode(errors="replace")
