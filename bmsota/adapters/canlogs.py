"""CAN logs: read by python-can (candump `.log`, Vector `.asc` and `.blf`, PEAK `.trc`, all also as `.gz`), decoded in columns.

    with CanLog("drive.blf") as log:
        for block in decode_log(log, [database]):
            for each in block.decoded:
                each.message.name, each.times_s, each.columns["PackVoltage"]

A log is read in blocks of frames, so that an hour of bus traffic needs no more memory than a minute. What a log holds beside
data frames (remote and error frames) is counted. Logs end where the power went: a reader that stumbles ends the iteration,
and `CanLog.fault` says where and why.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bmsota.errors import ConfigurationError, MissingExtraError

try:
    import can
except ImportError as error:
    raise MissingExtraError("bmsota.adapters.canlogs", "python-can", "can") from error


if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from types import TracebackType

    import numpy as np
    from numpy.typing import NDArray

    from bmsota.adapters.files import FilePath
    from bmsota.signals import Database, Message, SignalColumns

__all__ = ["LOG_SUFFIXES", "CanLog", "DecodedMessage", "LogBlock", "decode_log"]

LOG_SUFFIXES = (".asc", ".blf", ".log", ".trc")

# Frames decoded together: enough for columns to pay, some 30 MB as python-can's messages.
BLOCK_FRAMES = 65_536

# A reader's complaint may quote the whole file.
_REASON_LENGTH_MAX = 160

_EXTENDED_FLAG = 1 << 31


class CanLog:
    """An open CAN log. A context manager; iterate over `blocks` once."""

    def __init__(self, path: FilePath) -> None:
        """Open the log at *path*; its format is that of its suffix.

        Raises:
            OSError: the file cannot be opened.
            ConfigurationError: the suffix is that of no known format, or the beginning is not of that format.
        """
        name = Path(path).name.lower()
        if not name.removesuffix(".gz").endswith(LOG_SUFFIXES):
            known = ", ".join(LOG_SUFFIXES)
            raise ConfigurationError(
                f"expected a log with one of the suffixes {known} (or with .gz), got {name} ({path})"
            )
        self.frames = 0
        """Data frames read so far."""
        self.others = 0
        """Remote and error frames, which carry no data."""
        self.fault: str | None = None
        """Why the log could not be read to its end, and after how many frames."""
        self._size_bytes = max(Path(path).stat().st_size, 1)
        try:
            self._reader: Any = can.LogReader(path)
        except OSError:
            raise
        except Exception as error:
            # python-can's readers raise whatever their parsing stumbles over.
            raise ConfigurationError(f"expected a {Path(name).suffix} log, got: {_reason(error)} ({path})") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the file."""
        self._reader.stop()

    @property
    def progress(self) -> float:
        """How much of the file has been read, 0 to 1."""
        try:
            # Below Python's buffers: text files being iterated do not tell where they are.
            return min(1.0, os.lseek(self._reader.file.fileno(), 0, os.SEEK_CUR) / self._size_bytes)
        except (OSError, ValueError, AttributeError):
            return 1.0  # Closed: some readers do so at their end; a closed gzip file has lost its inner one.

    def blocks(self, frames: int = BLOCK_FRAMES) -> Iterator[list[can.Message]]:
        """The data frames in the log's order, *frames* at a time. Raises nothing: see `fault`."""
        block: list[can.Message] = []
        messages = iter(self._reader)
        while True:
            try:
                message = next(messages)
            except StopIteration:
                break
            except Exception as error:  # noqa: BLE001 - see __init__; the reason is kept in `fault`
                count = self.frames + self.others
                self.fault = f"expected a readable log to its end, got: {_reason(error)} (after {count} frames)"
                break
            if message.is_error_frame or message.is_remote_frame:
                self.others += 1
                continue
            self.frames += 1
            block.append(message)
            if len(block) == frames:
                yield block
                block = []
        if block:
            yield block


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split()) or type(error).__name__
    return text if len(text) <= _REASON_LENGTH_MAX else text[:_REASON_LENGTH_MAX] + "..."


@dataclass(frozen=True, slots=True)
class DecodedMessage:
    """All frames of one message in a block."""

    message: Message
    times_s: NDArray[np.float64]
    """As the log has them: since the epoch, or since its start (`.asc`)."""
    channels: tuple[str, ...]
    positions: NDArray[np.intp]
    """Where in the block each frame stood; rising."""
    columns: SignalColumns
    data: NDArray[np.uint8]
    """The bytes of each frame, one row each, cut to the message's length."""


@dataclass(frozen=True, slots=True)
class LogBlock:
    """One block of a log, decoded."""

    frames: int
    decoded: tuple[DecodedMessage, ...]
    unknown: dict[int, int]
    """CAN id (extended ones with bit 31 set) -> frames, for ids that no database has."""
    refused: int
    """Frames that are shorter than their message, or whose multiplexer number the DBC does not define. The latter are
    decoded as far as they go."""


def decode_log(log: CanLog, databases: Sequence[Database], *, only: frozenset[str] = frozenset()) -> Iterator[LogBlock]:
    """Decode *log* block by block. Where several databases have an id, the first one counts.

    Args:
        log: the open log.
        databases: what the ids mean.
        only: names of messages; if there are any, all others are left out.

    Raises:
        SignalError: NumPy is missing. Never because of the log: see `CanLog.fault`.
    """
    known = _by_id(databases)
    for block in log.blocks():
        groups: dict[int, list[int]] = {}
        for position, frame in enumerate(block):
            key = frame.arbitration_id | _EXTENDED_FLAG if frame.is_extended_id else frame.arbitration_id
            groups.setdefault(key, []).append(position)
        decoded: list[DecodedMessage] = []
        unknown: dict[int, int] = {}
        refused = 0
        for key, positions in groups.items():
            message = known.get(key)
            if message is None:
                unknown[key] = len(positions)
            elif not only or message.name in only:
                whole = [at for at in positions if len(block[at].data) >= message.length]
                found = _decode(message, [block[at] for at in whole], whole)
                refused += len(positions) - len(whole) + len(found.columns.undefined)
                decoded.append(found)
        yield LogBlock(len(block), tuple(decoded), unknown, refused)


def _by_id(databases: Sequence[Database]) -> dict[int, Message]:
    known: dict[int, Message] = {}
    for database in databases:
        for message in database.messages:
            key = message.can_id | _EXTENDED_FLAG if message.is_extended_id else message.can_id
            known.setdefault(key, message)
    return known


def _decode(message: Message, frames: list[can.Message], positions: list[int]) -> DecodedMessage:
    size = message.length
    import numpy as np  # noqa: PLC0415 - writing a log does not need it

    data = np.frombuffer(b"".join(bytes(frame.data[:size]) for frame in frames), dtype=np.uint8)
    data = data.reshape(len(frames), size)
    return DecodedMessage(
        message=message,
        times_s=np.array([frame.timestamp for frame in frames], dtype=np.float64),
        channels=tuple("" if frame.channel is None else str(frame.channel) for frame in frames),
        positions=np.array(positions, dtype=np.intp),
        columns=message.decode_batch(data, strict=False),
        data=data,
    )
