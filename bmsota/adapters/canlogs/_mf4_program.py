"""A program of its own that reads an MF4 by asammdf and writes its frames to standard output; `_mf4` runs it and reads them.

`python -m bmsota.adapters.canlogs._mf4_program LOG`. It must not take the caller with it: asammdf works in C on sizes that
the file names, and a damaged file makes it crash or compute for ever (seen: segmentation faults). The kernel ends it when it has used far
more time than the file is worth.
"""

from __future__ import annotations

import contextlib
import heapq
import sys
from datetime import UTC, datetime
from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmsota.adapters.canlogs._frames import EXTENDED_ID_MAX, FD_LENGTHS, STANDARD_ID_MAX, FrameKind, LogFrame
from bmsota.adapters.canlogs._mf4 import BROKEN, END, FRAME, KINDS, NOTE, OPENED, REFUSED, TEXT

if TYPE_CHECKING:
    from collections.abc import Iterator
    from typing import BinaryIO

_GROUPS = {
    "CAN_DataFrame": FrameKind.DATA,
    "CAN_ErrorFrame": FrameKind.ERROR,
    "CAN_RemoteFrame": FrameKind.REMOTE,
}

# Records asked for at a time.
_CHUNK = 10_000

# A record has at least an id; deflate makes at most 1,032 bytes of one. A count beyond that is damaged.
_RECORDS_PER_BYTE_MAX = 1032

# asammdf reads 10 MB a second or more; a file of nothing takes a second to start.
_CPU_TIME_S_MIN = 60
_CPU_TIME_S_PER_MB = 10


def limit_time(size_bytes: int) -> None:
    """Let the kernel end this process when it has computed for much longer than a file of *size_bytes* takes."""
    with contextlib.suppress(ImportError, ValueError, OSError):  # Windows has no such limit.
        resource: Any = import_module("resource")
        seconds = _CPU_TIME_S_MIN + size_bytes * _CPU_TIME_S_PER_MB // 1_000_000
        resource.setrlimit(resource.RLIMIT_CPU, (seconds, seconds))


class _Output:
    """What is told to the caller."""

    def __init__(self, file: BinaryIO) -> None:
        self._file = file

    def frame(self, frame: LogFrame) -> None:
        channel = int(frame.channel)
        head = FRAME.pack(
            frame.time_s, channel, frame.can_id, frame.is_extended_id, KINDS.index(frame.kind), len(frame.data)
        )
        self._file.write(b"F" + head + frame.data)

    def word(self, kind: bytes, *texts: str) -> None:
        self._file.write(kind)
        for text in texts:
            data = text.encode()
            self._file.write(TEXT.pack(len(data)) + data)
        self._file.flush()


def _group(mdf: Any, number: int, name: str, start_s: float, size_bytes: int, output: _Output) -> Iterator[LogFrame]:
    try:
        records = int(mdf.groups[number].channel_group.cycles_nr)
        most = size_bytes * _RECORDS_PER_BYTE_MAX
        if records > most:
            output.word(NOTE, f"group {number}", f"expected at most {most} records, got {records}")
            return
        for offset in range(0, records, _CHUNK):
            signal = mdf.get(name, number, record_offset=offset, record_count=min(_CHUNK, records - offset), raw=True)
            if not len(signal.samples):
                output.word(BROKEN, f"the log breaks off in group {number} after {offset} of {records} records")
                return
            yield from _frames(signal, name, start_s, f"group {number}, record", offset, output)
    except Exception:  # noqa: BLE001 - asammdf raises whatever it stumbles over in a damaged file
        output.word(BROKEN, f"the log breaks off in group {number}: a damaged block")


def _frames(signal: Any, name: str, start_s: float, place: str, offset: int, output: _Output) -> Iterator[LogFrame]:
    samples = signal.samples
    fields = samples.dtype.names or ()
    times = (signal.timestamps + start_s).tolist()

    def column(field: str, default: int) -> list[int]:
        full = f"{name}.{field}"
        return samples[full].tolist() if full in fields else [default] * len(times)

    ids, extended, lengths, channels = (
        column("ID", 0),
        column("IDE", -1),
        column("DataLength", 0),
        column("BusChannel", 0),
    )
    if f"{name}.DataLength" not in fields:
        lengths = [FD_LENGTHS[dlc & 15] for dlc in column("DLC", 0)]
    kind = _GROUPS[name]
    payloads = samples[f"{name}.DataBytes"] if kind is FrameKind.DATA else None
    for row, time_s in enumerate(times):
        can_id = ids[row] & EXTENDED_ID_MAX
        # Some loggers write no IDE and set bit 31, as a DBC does.
        is_extended_id = bool(extended[row]) if extended[row] >= 0 else ids[row] > STANDARD_ID_MAX
        if not is_extended_id and can_id > STANDARD_ID_MAX:
            output.word(NOTE, f"{place} {offset + row + 1}", f"CAN id {can_id:X} is too large")
            continue
        data = b"" if payloads is None else payloads[row].tobytes()[: lengths[row]]
        if len(data) > 64 or (payloads is not None and len(data) < lengths[row]):
            output.word(NOTE, f"{place} {offset + row + 1}", f"expected {lengths[row]} data bytes, got {len(data)}")
            continue
        if kind is FrameKind.ERROR:
            can_id, is_extended_id = 0, False  # An error frame has no id on the bus.
        yield LogFrame(time_s, str(channels[row]), can_id, is_extended_id, data, kind)


def main(path: Path, file: BinaryIO) -> None:
    """Write the frames of the log at *path* to *file*, in the order of their times."""
    output = _Output(file)
    size_bytes = path.stat().st_size
    limit_time(size_bytes)
    try:
        mdf: Any = import_module("asammdf").MDF(path)
        start: datetime = mdf.header.start_time
        # A time without a zone is the logger's clock, counted as UTC as in the other formats.
        start_s = (start if start.tzinfo is not None else start.replace(tzinfo=UTC)).timestamp()
        groups = [
            (number, name)
            for number, group in enumerate(mdf.groups)
            for name in _GROUPS
            if any(channel.name == name for channel in group.channels)
        ]
    except Exception:  # noqa: BLE001 - as above
        output.word(REFUSED)
        return
    output.word(OPENED)
    for frame in heapq.merge(
        *(_group(mdf, number, name, start_s, size_bytes, output) for number, name in groups),
        key=lambda frame: frame.time_s,
    ):
        output.frame(frame)
    output.word(END)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.stdout.buffer)
