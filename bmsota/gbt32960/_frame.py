"""The frame: what stands around every data unit (2016 table 2, clause 6).

    offset  size  field
    0       2     start: "##" is the 2016 edition, "$$" the 2025 edition
    2       1     command
    3       1     reply flag
    4       17    identifier: the VIN, or the unique code of a platform
    21      1     encryption of the data unit
    22      2     length L of the data unit, 0 to 65531
    24      L     data unit
    24+L    1     check byte: XOR of bytes 2 to 23+L

This module holds the value; `_codec` turns it into bytes and back.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bmsota.gbt32960._enums import Edition, Encryption, ReplyFlag
from bmsota.gbt32960._value import Value

if TYPE_CHECKING:
    from bmsota.gbt32960._messages import Message


HEADER_SIZE_BYTES: Final = 24
"""Table 2: from the start bytes to the length of the data unit."""
DATA_SIZE_BYTES_MAX: Final = 65531
"""Table 2. Longer lengths would be the sentinels of a WORD."""
FRAME_SIZE_BYTES_MAX: Final = HEADER_SIZE_BYTES + DATA_SIZE_BYTES_MAX + 1
"""The longest frame: header, data unit, check byte (table 2)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Frame(Value):
    """One frame of the cloud link. Compares by value; `encode(decode(data)) == data` for every valid frame."""

    command: int
    """A `Command` where the code has a name."""
    vin: str
    """Up to 17 ASCII characters, without padding."""
    message: Message
    reply_flag: int = ReplyFlag.COMMAND
    """A `ReplyFlag` where the code has a name."""
    edition: Edition = Edition.GBT2016
    encryption: int = Encryption.NONE
    """With anything but `Encryption.NONE` the message is a `RawMessage` that holds the ciphertext, unless a cipher is
    passed to `decode` or `encode`."""
    vin_padding: str = ""
    """What followed a short identifier on the wire, if that was not the usual zero bytes (some pad with spaces)."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False, repr=False)
class Header(Value):
    """The header of a frame, for routing without a look into the data unit."""

    edition: Edition
    command: int
    reply_flag: int
    vin: str
    encryption: int
    data_size_bytes: int
