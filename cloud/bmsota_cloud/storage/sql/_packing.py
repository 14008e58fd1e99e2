"""How a stored frame becomes the columns of a row, and comes back byte for byte.

A report is 342 bytes, and there are thousands a second: what the other columns know is left out of the frame. That is its header
(GB/T 32960.3 table 2: start, command, flag, VIN, encryption, length), the six bytes of its time and the check byte, 31 in all. `form`
says what was left out; a frame that would not come back equal is kept whole, so nothing depends on its being well formed.

    form bit 0   it is a backfill
         bit 1   header, time and check byte are left out of `clear`
         bit 2   command 0x03, else 0x02
         bit 3   start "$$" (2025), else "##" (2016)
         bit 4   its time is not plausible

A frame that came enciphered has a second column with its bytes as received. Keys are not kept here.
"""

from __future__ import annotations

from datetime import datetime, timedelta, timezone
from functools import lru_cache
from hashlib import blake2b
from struct import Struct
from typing import TYPE_CHECKING, Any, Final

from bmsota.checksums import bcc_xor
from bmsota_cloud.domain.telemetry import StoredFrame

if TYPE_CHECKING:
    from collections.abc import Sequence

__all__ = ["OLD_S", "TIME_IMPLAUSIBLE", "Row", "digest_of", "has_day", "pack", "unpack"]

_BACKFILL: Final = 1
_CUT: Final = 2
_COMMAND_03: Final = 4
_EDITION_2025: Final = 8
TIME_IMPLAUSIBLE: Final = 16
_OF_START: Final = _CUT | _COMMAND_03 | _EDITION_2025

_HEADER_SIZE_BYTES: Final = 24
_TIME_END: Final = 30
_STARTS: Final = {
    b"##\x02\xfe": _CUT,
    b"##\x03\xfe": _CUT | _COMMAND_03,
    b"$$\x02\xfe": _CUT | _EDITION_2025,
    b"$$\x03\xfe": _CUT | _COMMAND_03 | _EDITION_2025,
}
_START_OF: Final = {form: start for start, form in _STARTS.items()}
_IN_THE_CLEAR: Final = b"\1"  # table 5
_DIGEST: Final = Struct(">q")
_BEIJING: Final = timezone(timedelta(hours=8))
_BEIJING_S: Final = 8 * 3600

Row = tuple[int, int, int, int, bytes, bytes | None, str | None]
"""reported_at_s, digest, arrived_at_ns, form, clear, received, fault."""


OLD_S: Final = 31 * 24 * 3600
"""A report this much older than its arrival begins no partition of its own: the standard's backfill windows are 3 and 7 days, and a
vehicle that dates each report on another day must not make thousands of files or tables."""


def has_day(frame: StoredFrame) -> bool:
    """Whether *frame* may begin the partition of its day; else it goes where frames without a day are."""
    return frame.is_time_plausible and frame.arrived_at_ns // 1_000_000_000 - frame.reported_at_s <= OLD_S


@lru_cache(maxsize=4096)
def _time_bytes(at_s: int) -> bytes:
    """The six bytes of a time on the wire; empty outside of 2000 to 2099."""
    try:
        at = datetime.fromtimestamp(at_s, _BEIJING)
    except (ValueError, OverflowError, OSError):
        return b""
    return bytes((at.year - 2000, at.month, at.day, at.hour, at.minute, at.second)) if 2000 <= at.year <= 2099 else b""


def _vin_bytes(vin: str) -> bytes:
    raw = vin.encode("utf-8", "surrogateescape")
    return raw.ljust(17, b"\0") if len(raw) <= 17 else b""


@lru_cache(maxsize=4096)
def _head(vin: str, form: int, size: int) -> tuple[bytes, int]:
    """The first 24 bytes of a frame, and their part of the check byte, which leaves out the start."""
    head = _START_OF[form] + _vin_bytes(vin) + _IN_THE_CLEAR + size.to_bytes(2, "big")
    return head, bcc_xor(head[2:])


@lru_cache(maxsize=4096)
def _day(day: int) -> tuple[bytes, int]:
    """Year, month and day on the wire of this day since 1970 in Beijing, and their part of the check byte."""
    found = _time_bytes(day * 86_400 - _BEIJING_S)[:3]
    return found, bcc_xor(found)


def pack(frame: StoredFrame) -> Row:
    """The columns of *frame*. Its digest is BLAKE2b of 8 bytes over the data unit in the clear, as a signed integer."""
    clear = frame.clear
    at_s = frame.reported_at_s
    digest = _digest(clear[_HEADER_SIZE_BYTES:-1])
    form = _STARTS.get(clear[:4], 0)
    # Nothing that is looked up by the vehicle: of many vehicles it is never in the processor's cache.
    size = len(clear) - _HEADER_SIZE_BYTES - 1
    if (
        form
        and 0 <= size <= 0xFFFF
        and clear[4:_TIME_END] == _vin_bytes(frame.vin) + _IN_THE_CLEAR + size.to_bytes(2, "big") + _time_bytes(at_s)
        and (frame.is_check_right or not bcc_xor(clear))
    ):
        kept = clear[_TIME_END:-1]
    else:
        form, kept = 0, clear
    received = None if frame.frame is clear or frame.frame == clear else frame.frame
    form |= frame.is_backfill
    if not frame.is_time_plausible:
        form |= TIME_IMPLAUSIBLE
    return (at_s, digest, frame.arrived_at_ns, form, kept, received, frame.fault or None)


def digest_of(row: Sequence[object]) -> int:
    """The digest of a `Row` without it, as `unpack` takes."""
    at_s, _, form, kept, *_ = row
    assert isinstance(at_s, int)
    assert isinstance(form, int)
    assert isinstance(kept, bytes)
    return _digest(_time_bytes(at_s) + kept if form & _CUT else kept[_HEADER_SIZE_BYTES:-1])


def _digest(unit: bytes) -> int:
    (digest,) = _DIGEST.unpack(blake2b(unit, digest_size=8).digest())
    assert isinstance(digest, int)
    return digest


def unpack(vin: str, row: Any) -> StoredFrame:
    """The frame of a `Row` without its digest: reported_at_s, arrived_at_ns, form, clear, received, fault."""
    # A history is thousands of these: nothing is looked at twice.
    at_s, arrived_at_ns, form, kept, received, fault = row
    if form & _CUT:
        head, head_xor = _head(vin, form & _OF_START, len(kept) + _TIME_END - _HEADER_SIZE_BYTES)
        day, second = divmod(at_s + _BEIJING_S, 86_400)
        day_bytes, day_xor = _day(day)
        if day_bytes:
            hour, minute, second = second // 3600, second // 60 % 60, second % 60
            check = head_xor ^ day_xor ^ hour ^ minute ^ second ^ bcc_xor(kept)
            clear = b"%b%b%c%c%c%b%c" % (head, day_bytes, hour, minute, second, kept, check)
        else:
            clear = head + kept + bytes((head_xor ^ bcc_xor(kept),))
    else:
        clear = kept
    return StoredFrame(
        vin=vin,
        frame=received or clear,
        clear=clear,
        reported_at_s=at_s,
        arrived_at_ns=arrived_at_ns,
        is_backfill=bool(form & _BACKFILL),
        fault=fault or "",
        is_time_plausible=not form & TIME_IMPLAUSIBLE,
    )
