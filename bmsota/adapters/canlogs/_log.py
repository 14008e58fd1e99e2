"""An open log: bytes from a file or standard input, unpacked, into frames by the reader of its format."""

from __future__ import annotations

import stat
import sys
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Self

from bmsota.adapters.canlogs._formats import HEAD_SIZE_BYTES, KNOWN, MF4, format_of, reader_of, what_else
from bmsota.adapters.canlogs._frames import FrameKind, LogNotes
from bmsota.adapters.canlogs._mf4 import Mf4Log
from bmsota.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import TracebackType
    from typing import BinaryIO

    from bmsota.adapters.canlogs._frames import LogFrame, SkippedPart
    from bmsota.adapters.files import FilePath

# Frames decoded together: enough for columns to pay, some 20 MB.
BLOCK_FRAMES = 65_536

STANDARD_INPUT = "-"

_CHUNK_SIZE_BYTES = 65_536

_GZIP_MAGIC = b"\x1f\x8b"
# zlib's number for gzip's header and check value.
_GZIP_WINDOW_BITS = 31


class CanLog:
    """An open CAN log. A context manager; iterate over `blocks` once."""

    def __init__(self, path: FilePath) -> None:
        """Open the log at *path* (`-`: standard input), whatever its format; it may be compressed with gzip.

        Raises:
            OSError: the file cannot be opened.
            ConfigurationError: it is empty, or its format is none that is known.
            MissingExtraError: it is an MF4 and asammdf is not installed.
        """
        self._notes = LogNotes()
        self.frames = 0
        """Data frames read so far."""
        self.remote_frames = 0
        self.error_frames = 0
        self._is_input = str(path) == STANDARD_INPUT
        self._file: BinaryIO = sys.stdin.buffer if self._is_input else Path(path).open("rb")  # noqa: SIM115 - see close()
        self._mf4: Mf4Log | None = None
        try:
            self._begin(path)
        except BaseException:
            self.close()
            raise

    def _begin(self, path: FilePath) -> None:
        self._is_stream = self._is_input or not stat.S_ISREG(Path(path).stat().st_mode)
        self._size_bytes = 1 if self._is_stream else max(Path(path).stat().st_size, 1)
        self._read_size_bytes = 0
        self._is_over = self._is_packed = False
        self._source = self._unpacked()
        head, found = b"", None
        name = "standard input" if self._is_input else str(path)
        # A live stream comes in lines: the first one may tell.
        for chunk in self._source:
            head += chunk
            found = format_of(head, "")
            if found is not None or len(head) >= HEAD_SIZE_BYTES:
                break
        if not head and self._notes.fault is None:
            raise ConfigurationError(f"the log is empty: {name}")
        self._head, self._head_read_size_bytes = head, self._read_size_bytes
        self._read_size_bytes = 0
        if found is None and (other := what_else(head)) is not None:
            raise ConfigurationError(f"not a CAN log but {other}: {name}")
        found = found or format_of(head, Path(name).name)
        if found is None:
            raise ConfigurationError(f"not a CAN log of a known format ({KNOWN}): {name}")
        self.format = found
        """The name of the log's format."""
        if found == MF4:
            if self._is_stream or self._is_packed:
                raise ConfigurationError(f"an MF4 log must be a plain file: {name}")
            self._mf4 = Mf4Log(Path(path), self._notes)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file; standard input stays open."""
        if self._mf4 is not None:
            self._mf4.close()
        if not self._is_input:
            self._file.close()

    @property
    def others(self) -> int:
        """Remote and error frames, which carry no data."""
        return self.remote_frames + self.error_frames

    @property
    def fault(self) -> str | None:
        """Why the log could not be read to its end."""
        return self._notes.fault

    @property
    def skipped(self) -> int:
        """Lines or parts in the middle of the log that could not be read."""
        return self._notes.skipped

    @property
    def skipped_parts(self) -> tuple[SkippedPart, ...]:
        """The first few of them, with place and reason."""
        return tuple(self._notes.parts)

    @property
    def time_base(self) -> str:
        """What the times are, in a sentence, as far as the log has been read; empty for seconds since the Unix epoch."""
        return self._notes.time_base

    @property
    def progress(self) -> float:
        """How much of the file has been read, 0 to 1; of a stream, 0 until its end."""
        if self._is_over:
            return 1.0
        return 0.0 if self._is_stream else min(1.0, self._read_size_bytes / self._size_bytes)

    def blocks(self, frames: int = BLOCK_FRAMES) -> Iterator[list[LogFrame]]:
        """The data frames in the log's order, *frames* at a time; of a stream as many as have come. Raises nothing: see `fault`."""
        block: list[LogFrame] = []
        for batch in self._batches():
            block += self._counted(batch)
            while len(block) >= frames:
                yield self._told(block[:frames])
                block = block[frames:]
            if block and self._is_stream:
                yield self._told(block)
                block = []
        self._is_over = True
        if block:
            yield self._told(block)

    def _told(self, block: list[LogFrame]) -> list[LogFrame]:
        self.frames += len(block)
        return block

    def _counted(self, batch: list[LogFrame]) -> list[LogFrame]:
        data = [frame for frame in batch if frame.kind is FrameKind.DATA]
        if len(data) < len(batch):
            errors = sum(frame.kind is FrameKind.ERROR for frame in batch)
            self.error_frames += errors
            self.remote_frames += len(batch) - len(data) - errors
        return data

    def _batches(self) -> Iterator[list[LogFrame]]:
        if self._mf4 is not None:
            batch: list[LogFrame] = []
            for frame in self._mf4.frames():
                batch.append(frame)
                if len(batch) == _CHUNK_SIZE_BYTES:
                    yield batch
                    batch = []
            yield batch
            return
        reader = reader_of(self.format, self._notes)
        self._read_size_bytes = self._head_read_size_bytes
        yield reader.feed(self._head)
        for chunk in self._source:
            yield reader.feed(chunk)
        yield reader.end()

    def _chunks(self) -> Iterator[bytes]:
        """The file's bytes as they come."""
        read = getattr(self._file, "read1", self._file.read)
        while True:
            try:
                chunk = read(_CHUNK_SIZE_BYTES)
            except OSError as error:
                self._notes.break_off(f"the log cannot be read further: {error.strerror or error}")
                return
            if not chunk:
                return
            self._read_size_bytes += len(chunk)
            yield chunk

    def _unpacked(self) -> Iterator[bytes]:
        """The log's bytes: those of the file, or what gzip has packed into it, member by member."""
        chunks = self._chunks()
        first = next(chunks, b"")
        self._is_packed = first.startswith(_GZIP_MAGIC)
        if not self._is_packed:
            if first:
                yield first
            yield from chunks
            return
        stream, packed = zlib.decompressobj(_GZIP_WINDOW_BITS), first
        try:
            while True:
                if data := stream.decompress(packed, _CHUNK_SIZE_BYTES):
                    yield data
                if stream.eof:
                    # Another member follows, or the zeros with which tools fill a block.
                    packed = stream.unused_data.lstrip(b"\0")
                    while not packed:
                        if not (chunk := next(chunks, b"")):
                            return
                        packed = chunk.lstrip(b"\0")
                    stream = zlib.decompressobj(_GZIP_WINDOW_BITS)
                    continue
                packed = stream.unconsumed_tail or next(chunks, b"")
                if not packed:
                    break
            if data := stream.flush():
                yield data
            if not stream.eof:
                self._notes.break_off("the compressed file breaks off")
        except zlib.error:
            # gzip has one check value, at its end: what came out before it may be wrong.
            self._notes.break_off("the compressed file is damaged; values may be wrong")
