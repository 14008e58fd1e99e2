"""A CAN bus with a log: every frame that goes out or comes in is written down, in a format others can read.

The writers are python-can's: candump's `.log`, Vector's `.blf` and `.asc`, PEAK's `.trc`. A log that cannot be written any
more (a full disk) does not stop the work: it is closed, and what is missing is counted.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bmsota.errors import ConfigurationError, MissingExtraError

try:
    import can
except ImportError as error:
    raise MissingExtraError("bmsota.adapters.canrecord", "python-can", "can") from error

from bmsota.adapters.canlogs import LOG_SUFFIXES

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import TracebackType

    from bmsota.adapters.files import FilePath

__all__ = ["CanRecord", "RecordingBus"]

_CHUNK_SIZE_BYTES = 1 << 20

# What candump and its relatives take for an interface; a path is none. Its last digits are the channel of the binary formats,
# which have 16 bits for it: a serial port of macOS ends in six.
_NAME = re.compile(r"[A-Za-z_]{1,12}\d{0,3}")
_NUMBER = re.compile(r"\d{1,3}")


class CanRecord:
    """An open log file. A context manager."""

    def __init__(self, path: FilePath) -> None:
        """Create the file at *path*; its format is that of its suffix.

        Raises:
            OSError: it cannot be created.
            ConfigurationError: the suffix is that of no format.
        """
        self.path = Path(path)
        if not self.path.name.lower().endswith(LOG_SUFFIXES):
            raise ConfigurationError(
                f"expected a log with one of the suffixes {', '.join(LOG_SUFFIXES)}, got {self.path.name} ({path})"
            )
        self.frames = 0
        """Frames written."""
        self.missing = 0
        """Frames that could not be written."""
        self.fault: str | None = None
        """Why it broke off."""
        self._writer: Any = can.Logger(self.path)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        self.close()

    def write(self, message: can.Message) -> None:
        """Write one frame; never raises, see `fault`."""
        if self._writer is None:
            self.missing += 1
            return
        try:
            self._writer.on_message_received(message)
            self.frames += 1
        except (OSError, ValueError) as error:
            self.missing += 1
            self._break_off(error)

    def close(self) -> None:
        """End the file; may be called again."""
        if self._writer is not None:
            writer, self._writer = self._writer, None
            try:
                writer.stop()
            except (OSError, ValueError) as error:
                self.fault = self.fault or _reason(error)

    def digest(self) -> str | None:
        """SHA-256 of the closed file; None if it cannot be read, or is no file (a pipe, a device without an end)."""
        sha256 = hashlib.sha256()
        if not self.path.is_file():
            return None
        try:
            with self.path.open("rb") as file:
                while chunk := file.read(_CHUNK_SIZE_BYTES):
                    sha256.update(chunk)
        except OSError:
            return None
        return sha256.hexdigest()

    def _break_off(self, error: Exception) -> None:
        self.fault = _reason(error)
        writer, self._writer = self._writer, None
        # Closing flushes, and fails as writing did.
        with contextlib.suppress(OSError, ValueError):
            writer.stop()


def _reason(error: Exception) -> str:
    return str(error.strerror if isinstance(error, OSError) and error.strerror else error)


class RecordingBus:
    """What `drive` needs of a bus, over another one, writing down what passes.

    Times are *clock*'s (nanoseconds since the epoch), of both directions, so that the log is in one order. One bus has one
    name in the log: *channel* if readers of logs can take it, "can0" otherwise.
    """

    def __init__(
        self, bus: can.BusABC, clock: Callable[[], int], record: CanRecord | None = None, *, channel: str = ""
    ) -> None:
        self._bus = bus
        self._name = channel if _NAME.fullmatch(channel) else f"can{channel}" if _NUMBER.fullmatch(channel) else "can0"
        self._clock = clock
        self._record = record
        self.sent = 0
        self.sent_bytes = 0
        """Data bytes of the frames sent."""
        self.received = 0
        self.channel_info = str(bus.channel_info)

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        """Send a frame; it is written down when the adapter has taken it. Raises what the bus raises."""
        self._bus.send(msg, timeout)
        self.sent += 1
        self.sent_bytes += len(msg.data)
        if self._record is not None:
            msg.timestamp = self._clock() / 1e9
            msg.is_rx = False
            msg.channel = self._name
            self._record.write(msg)

    def recv(self, timeout: float | None = None) -> can.Message | None:
        """Receive a frame. Raises what the bus raises."""
        message = self._bus.recv(timeout)
        if message is not None:
            self.received += 1
            if self._record is not None:
                message.timestamp = self._clock() / 1e9
                message.channel = self._name
                self._record.write(message)
        return message
