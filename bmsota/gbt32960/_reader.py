"""Cut the cloud link's byte stream into frames.

Clause 6.2. The reader finds where frames begin and end and hands each to `decode`. It does not know who may send what (see
`_session`) and it has no clock.

There is no escaping on this link: "##" may stand inside a data unit, and a start mark inside garbage may look like a frame.

Strategy: find a start mark, wait for the header, see whether it is plausible, wait for the rest, look at the check byte. If
any of these fails, drop one byte and not the whole frame: a false start must not cost the good frame behind it. A frame
whose check byte is right but whose inside is not valid is dropped as a whole, since its borders are certain. What belongs to
no frame is reported as `DiscardedBytes`, and the same events come out however the stream is cut into pieces.

A false start that is plausible up to its length makes the reader wait for up to 64 KiB. Nothing is lost by that, but the
frames behind it come late. A caller with a clock calls `skip_to_frame` when a frame's burst is over, and `skip_start` when it
stays unfinished for too long; the sessions do.

Garbage must not cost more than frames, or a stranger could keep a gateway busy with it. So the next plausible header is found by
one regular expression and not byte by byte; and the check bytes of many overlapping false frames come from one running XOR, so
that none of them is read through by itself.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import Enum
from itertools import accumulate, islice
from operator import xor
from typing import TYPE_CHECKING, Final

from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960._codec import DECIPHERING, UNKNOWN_ENCRYPTION, decode_partial_with_clear, decode_with_clear
from bmsota.gbt32960._frame import DATA_SIZE_BYTES_MAX, HEADER_SIZE_BYTES

if TYPE_CHECKING:
    from bmsota.gbt32960._cipher import DataUnitCipher
    from bmsota.gbt32960._frame import Frame
    from bmsota.gbt32960._registry import Layouts


DISCARDED_SIZE_BYTES_MAX: Final = 1024
"""Garbage is reported in pieces of this size, so that a link which sends nothing else cannot fill the memory."""

UNREAD_SIZE_BYTES_MAX: Final = 4 * 1024 * 1024
"""What may be handed in without asking for events. Sixty-four of the longest frames; a caller who gets there never asks."""

_CUT_OFF: Final = "a frame that was never finished"

_MARK: Final = re.compile(rb"##|\$\$|[#$]\Z")
"""A start mark, or the last byte if that may begin one."""
_HEADER: Final = re.compile(
    rb"""
    (?:\#\#|\$\$)
    [^#$]                    # The command. 0x23 and 0x24 are reserved: in a run of marks the last two are the start.
    [\x00-\xff]              # The reply flag.
    [\x00\x20-\x7e]{17}      # The identifier; what follows its zero bytes is looked at behind.
    [\x00-\x09\xfe\xff]      # The encryption. Table 5 ends at 0x05; a sender that has it wrong shall be told.
    (?!\xff[\xfc-\xff])      # A length of more than 65531.
    [\x00-\xff]{2}
    """,
    re.VERBOSE,
)
"""A header that can be one. The stricter this is, the rarer a false start makes us wait."""
_ENCRYPTIONS: Final = frozenset({*range(0x0A), 0xFE, 0xFF})
_PRINTABLE: Final = bytes(range(0x20, 0x7F))


class RefusalKind(Enum):
    """Why bytes, or a frame, were refused."""

    NOT_A_FRAME = "bytes that begin no frame"
    UNFINISHED = "a frame that was never finished"
    CHECK_BYTE = "a wrong check byte"
    STRUCTURE = "a data unit that is not valid"
    ENCRYPTION = "a data unit that cannot be deciphered: no key, another key, or an unknown encryption"
    SIGNATURE = "a report without the right signature"
    NOT_LOGGED_IN = "a frame of a vehicle that is not logged in"
    OTHER_VIN = "a frame of another vehicle than the one that is logged in"
    SECOND_LOGIN = "a login under another VIN on the link of a vehicle that is logged in"
    UNEXPECTED_REPLY = "a reply to nothing that was asked"
    UNKNOWN_COMMAND = "a command that is reserved"
    WRONG_DIRECTION = "a command that only the other end sends"
    PLATFORM_LINK = "a command of a link between platforms"


FIRST_SIZE_BYTES_MAX: Final = 64
"""How much of what was refused its event keeps as `first_bytes`: the header, and the beginning of the data unit."""


@dataclass(frozen=True, slots=True)
class FrameReceived:
    """A whole frame with a right check byte and a valid data unit."""

    frame: Frame
    raw: bytes
    """The frame as it came."""
    offset: int
    """Where it began, counted in bytes from the start of the stream."""
    clear: bytes
    """The whole frame in the clear; `raw` itself unless it was deciphered."""
    fault: FrameError | None = None
    """With `FrameReader(keep_bodies=True)`: why the report ends before its data unit does."""


@dataclass(frozen=True, slots=True)
class DiscardedBytes:
    """Bytes that belong to no valid frame. Reported whole up to a limit, then in pieces; nothing is dropped silently."""

    offset: int
    """Where they began, counted in bytes from the start of the stream."""
    data: bytes
    reason: str
    error: FrameError | None = None
    """Set when they are one frame with a right check byte and an invalid header or data unit."""
    kind: RefusalKind = RefusalKind.NOT_A_FRAME
    vin: str = ""
    """The identifier in the header, where there is a header."""
    reply_flag: int | None = None
    """With which flag a session has answered; None: not at all."""

    @property
    def first_bytes(self) -> bytes:
        """The beginning of `data`."""
        return self.data[:FIRST_SIZE_BYTES_MAX]


ReaderEvent = FrameReceived | DiscardedBytes
"""What `FrameReader.next_event` returns, until it returns None."""


class FrameReader:
    """Cuts a stream into frames: call `receive_data`, then `next_event` until it returns None."""

    __slots__ = (
        "_at",
        "_bad_at",
        "_bad_kind",
        "_bad_reason",
        "_buffer",
        "_fold",
        "_is_over",
        "_searched",
        "_stream_offset",
        "cipher",
        "keep_bodies",
        "layouts",
    )

    def __init__(
        self, *, cipher: DataUnitCipher | None = None, layouts: Layouts | None = None, keep_bodies: bool = False
    ) -> None:
        self.cipher = cipher
        """For `decode`. May be replaced between two events: it holds for the frames that were not returned yet."""
        self.layouts = layouts
        self.keep_bodies = keep_bodies
        """Return a report whose end is not valid as `FrameReceived` with its `fault`, as `decode_partial` does."""
        self._buffer = b""
        self._at = 0
        """Where in the buffer the next start mark is looked for; everything from `_bad_at` up to here is bad."""
        self._bad_at = 0
        self._bad_reason = ""
        self._bad_kind = RefusalKind.NOT_A_FRAME
        self._stream_offset = 0
        """Where in the stream the buffer begins."""
        self._fold = bytearray(1)
        """The XOR of the buffer's bytes before each place, as far as it was needed: a byte more than it covers."""
        self._is_over = False
        self._searched = False
        """Whether the bytes at `_at` are known to be the beginning of something unfinished."""

    @property
    def unfinished_size_bytes(self) -> int:
        """How many bytes of a frame that has begun are waiting for the rest; 0 between frames."""
        return len(self._buffer) - self._at if self._searched else 0

    @property
    def unfinished_offset(self) -> int:
        """Where in the stream it begins."""
        return self._stream_offset + self._at

    def receive_data(self, data: bytes | bytearray | memoryview) -> None:
        """Take the next bytes of the stream.

        Raises:
            LocalProtocolError: megabytes were handed in without asking for events, or the stream is over. Nothing was taken.
        """
        if self._is_over:
            msg = f"reader: the stream has ended; {len(data)} bytes came after end()"
            raise LocalProtocolError(msg)
        if len(self._buffer) + len(data) > UNREAD_SIZE_BYTES_MAX:
            msg = f"reader: {len(self._buffer) + len(data)} bytes are unread; call next_event until it returns None"
            raise LocalProtocolError(msg)
        keep = self._bad_at
        if keep:
            self._buffer = self._buffer[keep:]
            self._stream_offset += keep
            self._at -= keep
            self._bad_at = 0
            # Two places tell the XOR of what is between them, wherever the count began.
            if keep < len(self._fold):
                del self._fold[:keep]
            elif len(self._fold) > 1:
                self._fold = bytearray(1)
        self._buffer = self._buffer + data if self._buffer else bytes(data)
        self._searched = False

    def next_event(self) -> ReaderEvent | None:
        """Return the next frame or the next bytes that belong to none; None if it takes more bytes to tell."""
        buffer = self._buffer
        size = len(buffer)
        while not self._searched:
            at = self._at
            if at - self._bad_at >= DISCARDED_SIZE_BYTES_MAX:
                return self._discarded(self._bad_at + DISCARDED_SIZE_BYTES_MAX)
            if self._is_over and at == size:
                if self._bad_at < size:
                    return self._discarded(size)
                break
            start = self._next_start(at)
            if start > at:
                self._drop(start, *_why_not(buffer, at))
                continue
            if size - at < HEADER_SIZE_BYTES:
                if self._is_over:
                    self._drop(at + 1, _CUT_OFF, RefusalKind.UNFINISHED)
                    continue
                break
            end = at + HEADER_SIZE_BYTES + ((buffer[at + 22] << 8) | buffer[at + 23]) + 1
            if size < end:
                if self._is_over:
                    self._drop(at + 1, _CUT_OFF, RefusalKind.UNFINISHED)
                    continue
                break
            if at > self._bad_at:
                if self._xor(at, end):
                    self._at = at + 1
                    continue
                # One frame, valid or not. What came before is reported first.
                return self._discarded(at)
            raw = buffer[at:end]
            fault = None
            try:
                if self.keep_bodies:
                    frame, clear, fault = decode_partial_with_clear(raw, self.cipher, self.layouts)
                else:
                    frame, clear = decode_with_clear(raw, self.cipher, self.layouts)
            except FrameError as error:
                if bcc_xor(raw[2:]):
                    self._drop(at + 1, str(error), RefusalKind.CHECK_BYTE)
                    continue
                self._at = end
                return self._discarded(end, str(error), error)
            self._at = self._bad_at = end
            return FrameReceived(frame, raw, self._stream_offset + at, clear, fault)
        self._searched = True
        if self._at == size and self._bad_at == size:
            # Nothing is left: an idle link must not hold the last buffer.
            self._stream_offset += size
            self._buffer = b""
            if len(self._fold) > 1:
                self._fold = bytearray(1)
            self._at = self._bad_at = 0
            self._searched = False
        return None

    @property
    def is_empty(self) -> bool:
        """Whether nothing waits in here."""
        return not self._buffer

    @property
    def unread_size_bytes(self) -> int:
        """How many bytes were taken and not returned yet."""
        return len(self._buffer) - self._bad_at

    def pass_over(self, size_bytes: int) -> None:
        """Count bytes of the stream that the caller has read itself. Only while the reader is empty."""
        assert not self._buffer
        self._stream_offset += size_bytes

    def skip_start(self) -> None:
        """Give up on the frame that has begun and look for another start behind it.

        For a caller with a clock, when a frame has been unfinished for too long. Does nothing between frames.
        """
        if self.unfinished_size_bytes:
            self._drop(self._at + 1, _CUT_OFF, RefusalKind.UNFINISHED)
            self._searched = False

    def skip_to_frame(self) -> bool:
        """Give up on the frame that has begun if a whole valid one stands in what has come of it, and go on with that one.

        For a caller with a clock, when the frame's burst is over: until then the inner one may be what the outer one carries.
        Costs one look at the waiting bytes. Does nothing between frames.

        Returns:
            Whether there was one.
        """
        if not self.unfinished_size_bytes:
            return False
        buffer = self._buffer
        size = len(buffer)
        start = self._next_start(self._at + 1)
        while size - start > HEADER_SIZE_BYTES:
            end = start + HEADER_SIZE_BYTES + ((buffer[start + 22] << 8) | buffer[start + 23]) + 1
            if end <= size and not self._xor(start, end) and self._is_valid(buffer[start:end]):
                self._drop(start, _CUT_OFF, RefusalKind.UNFINISHED)
                self._searched = False
                return True
            start = self._next_start(start + 1)
        return False

    def _is_valid(self, raw: bytes) -> bool:
        try:
            decode_with_clear(raw, self.cipher, self.layouts)
        except FrameError:
            return False
        return True

    def end(self) -> None:
        """The stream is over. `next_event` now gives what is left: frames behind an unfinished one, and discarded bytes."""
        self._is_over = True
        self._searched = False

    def _next_start(self, at: int) -> int:
        """Where the next frame may begin, from *at* on: at a plausible header, or at what may become one with more bytes."""
        buffer = self._buffer
        found = _HEADER.search(buffer, at)
        while found is not None:
            start = found.start()
            if 0 not in buffer[start + 4 : start + 21].rstrip(b"\0"):
                return start
            found = _HEADER.search(buffer, start + 1)
        # What is nearer to the end than a header's size was not looked at.
        mark = _MARK.search(buffer, max(at, len(buffer) - HEADER_SIZE_BYTES + 1))
        return len(buffer) if mark is None else mark.start()

    def _xor(self, at: int, end: int) -> int:
        """The XOR of a false frame's bytes, which is zero for a true one: the two start bytes cancel each other."""
        fold = self._fold
        covered = len(fold) - 1
        if covered < end:
            fold += bytes(islice(accumulate(self._buffer[covered:], xor, initial=fold[-1]), 1, None))
        return fold[end] ^ fold[at]

    def _drop(self, up_to: int, reason: str, kind: RefusalKind = RefusalKind.NOT_A_FRAME) -> None:
        if self._at == self._bad_at:
            self._bad_reason, self._bad_kind = reason, kind
        self._at = up_to

    def _discarded(self, up_to: int, reason: str = "", error: FrameError | None = None) -> DiscardedBytes:
        at, data = self._bad_at, self._buffer[self._bad_at : up_to]
        kind, vin = self._bad_kind, ""
        if error is not None:
            is_cipher = error.where in (DECIPHERING, UNKNOWN_ENCRYPTION)
            kind = RefusalKind.ENCRYPTION if is_cipher else RefusalKind.STRUCTURE
        if kind is not RefusalKind.NOT_A_FRAME and len(data) >= HEADER_SIZE_BYTES:
            vin = data[4:21].rstrip(b"\0 ").decode("ascii", "replace")
        self._bad_at = up_to
        return DiscardedBytes(self._stream_offset + at, data, reason or self._bad_reason, error, kind, vin)


def _why_not(buffer: bytes, at: int) -> tuple[str, RefusalKind]:
    """Why no frame begins at *at*, which has no plausible header."""
    kind = RefusalKind.NOT_A_FRAME
    if buffer[at : at + 2] not in (b"##", b"$$"):
        return "no start mark", kind
    if buffer[at + 2] in b"#$":
        return "a start mark in place of the command", kind
    if (buffer[at + 22] << 8) | buffer[at + 23] > DATA_SIZE_BYTES_MAX:
        return f"a length above {DATA_SIZE_BYTES_MAX}", kind
    if buffer[at + 21] not in _ENCRYPTIONS:
        return "an encryption that is not in table 5", kind
    assert buffer[at + 4 : at + 21].rstrip(b"\0").translate(None, _PRINTABLE)
    return "an identifier that is not printable ASCII", kind
