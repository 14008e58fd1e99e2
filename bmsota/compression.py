"""Heatshrink (LZSS): an image in fewer frames, for nodes with a kilobyte to spare.

The stream is that of the C library heatshrink with a window of 2**10 bytes and copies of at most 2**3 bytes, first bit first:
`1` and 8 bits are a byte; `0`, 10 bits and 3 bits are a copy of (3 bits + 1) bytes from (10 bits + 1) bytes back. The window
is all zeros at first, and a copy may reach into that. The last byte is filled with zero bits. There is no end mark: who
reads knows the size from elsewhere (the offer record).

The encoder is the library's, by `heatshrink2`, imported when first used: a node never needs it. The decoder is ours, because
the library's silently drops up to 14 bits behind the end, gives bytes for longer rubbish, and cannot say that either
happened; docs/decisions/0024-compression.md has the figures behind the window and the copy length.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota.errors import ConfigurationError, ImageError, MissingExtraError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["LOOKAHEAD_BITS", "WINDOW_BITS", "Decompressor", "compress"]

# The node keeps 2**WINDOW_BITS bytes of what it has given. 2048 bytes gain 0.1 % on MicroPython's images and 0.9 % on ours.
WINDOW_BITS = 10
# Longer copies cost every copy a bit more and pay only when more than an eighth of an image is erased flash.
LOOKAHEAD_BITS = 3

_WINDOW_BYTES = 1 << WINDOW_BITS
_COPY_BYTES_MAX = 1 << LOOKAHEAD_BITS
_LITERAL_BITS = 1 + 8
_COPY_BITS = 1 + WINDOW_BITS + LOOKAHEAD_BITS


def compress(data: bytes) -> bytes:
    """The heatshrink stream of *data*; random bytes become an eighth longer, so the caller compares.

    Raises:
        MissingExtraError: the extra `can` is not installed.
    """
    encode = _encoder()
    return encode(data, window_sz2=WINDOW_BITS, lookahead_sz2=LOOKAHEAD_BITS)


def _encoder() -> Callable[..., bytes]:
    try:
        from heatshrink2.core import encode  # noqa: PLC0415
    except ImportError as error:
        raise MissingExtraError("compressing images", "heatshrink2", "can") from error
    return encode  # type: ignore[no-any-return]


class Decompressor:
    """One stream, fed in pieces of any size.

    It holds the window, 13 bits and, while it works, what a piece gives: at most eight times the piece and never more than
    *size_bytes_max* and a copy, whatever the stream says. After an ImageError it stays broken and raises the same again.

    Raises:
        ConfigurationError: *size_bytes_max* is negative.
    """

    def __init__(self, size_bytes_max: int) -> None:
        if size_bytes_max < 0:
            raise ConfigurationError(f"size_bytes_max: expected 0 or more, got {size_bytes_max}")
        self._size_bytes_max = size_bytes_max
        self._history = bytearray(_WINDOW_BYTES)
        self._bits = 0
        self._bit_count = 0
        self._taken_bytes = 0
        self._fault: ImageError | None = None
        self.size_bytes = 0
        """How many bytes have been given so far."""

    def feed(self, data: bytes) -> bytes:
        """Take the next piece of the stream; the bytes that are complete with it.

        Raises:
            ImageError: the stream gives more than `size_bytes_max` bytes. Nothing of this piece is given.
        """
        if self._fault is not None:
            raise self._fault
        room = self._size_bytes_max - self.size_bytes
        output = self._history
        end_max = _WINDOW_BYTES + room
        bits, bit_count = self._bits, self._bit_count
        for offset, byte in enumerate(data):
            bits = bits << 8 | byte
            bit_count += 8
            # The shortest token has 9 bits, so a byte completes one at most.
            if bits >> (bit_count - 1):
                if bit_count < _LITERAL_BITS:
                    continue
                bit_count -= _LITERAL_BITS
                output.append(bits >> bit_count & 0xFF)
            else:
                if bit_count < _COPY_BITS:
                    continue
                bit_count -= _COPY_BITS
                token = bits >> bit_count
                start = len(output) - 1 - (token >> LOOKAHEAD_BITS)
                length = (token & (_COPY_BYTES_MAX - 1)) + 1
                piece = output[start : start + length]
                while len(piece) < length:  # The copy overlaps itself: its own first bytes come round again.
                    piece += piece[: length - len(piece)]
                output += piece
            bits &= (1 << bit_count) - 1
            if len(output) > end_max:
                self._break(
                    expected=f"at most {self._size_bytes_max} bytes out of it",
                    received="more",
                    offset=self._taken_bytes + offset,
                )
        self._bits, self._bit_count = bits, bit_count
        self._taken_bytes += len(data)
        given = bytes(output[_WINDOW_BYTES:])
        del output[:-_WINDOW_BYTES]
        self.size_bytes += len(given)
        return given

    def finish(self) -> bytes:
        """Say that the stream has ended; what is still to come, which is nothing in this format.

        A stream cut between two copies or bytes looks like a whole one: compare `size_bytes` with what was promised.

        Raises:
            ImageError: it ends within a byte or a copy, or there is something behind the end.
        """
        if self._fault is not None:
            raise self._fault
        # The encoder fills up its last byte with zeros. A whole byte more, or a one, is not its work.
        if self._bit_count >= 8 or self._bits:
            self._break(
                expected="fewer than 8 zero bits behind the last byte or copy",
                received=f"{self._bits:0{self._bit_count}b}",
                offset=self._taken_bytes,
            )
        return b""

    def _break(self, *, expected: str, received: str, offset: int) -> None:
        self._fault = ImageError("compressed image", expected=expected, received=received, offset=offset)
        self._history = bytearray()
        raise self._fault
