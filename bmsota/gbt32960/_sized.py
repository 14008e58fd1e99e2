"""Bodies with their length in front (table 7): what the codec, our extension and users' own layouts share."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._bodies import UserDefined
from bmsota.gbt32960._frame import DATA_SIZE_BYTES_MAX
from bmsota.gbt32960._plain import short

if TYPE_CHECKING:
    from bmsota.gbt32960._compile import Encoder


USER_DEFINED: Final = range(0x80, 0xFF)
"""Types of makers' own bodies, which have their length in front (table 7)."""


def user_defined(data: bytes, at: int, end: int) -> tuple[UserDefined, int]:
    """0x80 to 0xFE: a WORD length and as many bytes. *at* is behind the type byte."""
    if end - at < 2:
        raise short("user-defined body", at, 2, end)
    size = (data[at] << 8) | data[at + 1]
    stop = at + 2 + size
    if stop > end:
        raise short(f"user-defined body {data[at - 1]:#04x}", at + 2, size, end)
    return UserDefined(data[at - 1], data[at + 2 : stop]), stop


def sized_encoder(label: str, write: Encoder, mark: bytes = b"") -> Encoder:
    """Put the WORD length of user-defined bodies, and a mark, in front of what *write* makes."""

    def sized(body: Any, out: list[bytes]) -> None:
        inner: list[bytes] = [mark]
        write(body, inner)
        data = b"".join(inner)
        if len(data) > DATA_SIZE_BYTES_MAX:
            msg = f"{label}: expected at most {DATA_SIZE_BYTES_MAX} bytes, got {len(data)}"
            raise LocalProtocolError(msg)
        out.append(len(data).to_bytes(2, "big") + data)

    return sized
