"""Thousands of reports at once, as columns of numbers (0x02 and 0x03 of both editions: every body that the text lays out).

`decode_batch` takes frames as they come and groups those that are laid out alike: the same edition, the same bodies in the
same order, the same counts. Each group is a `FrameGroup` of NumPy arrays. Frames that have no columns (logins, replies, bodies
of unknown length, encrypted ones) are in `FrameColumns.others` as `decode` gives them, frames that are no frames in `FrameColumns.errors`;
none is lost and none stops the rest. `encode_batch` is the inverse and gives, frame by frame, what `encode` gives.

What a column is, by its row in `_tables`:

    a number with a unit step, an offset or sentinels      float32 for a BYTE or WORD, float64 for a DWORD; NaN where it is missing
    a list of such numbers (cells, probes)                 float32, one row a frame
    any other number (ordinals, codes, bits, fault codes)  the unsigned type of its size
    bytes of a user-defined body, of a signature           uint8, one row a frame
    position                                               valid is bool, the degrees are signed

NaN does not say why. Where a frame of the group has a sentinel, `FrameGroup.marks` has, under the name of the column, an array
of the same shape: 0 a value, `MARK_ABNORMAL` 1, `MARK_INVALID` 2. So sentinels survive the round trip, and a column without an
entry has none.

Strategy: a plan knows for one layout where each number stands. It is made once by walking one frame with the tables, and kept.
Frames of one length are put into a byte matrix; those that have the plan's type and count bytes are its group. One gather
brings all single numbers into native byte order, a handful of operations turns them into values, and each list is one slice. Frames
of rare layouts are not worth a plan: they are walked side by side and share their conversions (`mixed`). A
frame that the quick checks do not like is given to `decode`, whose word is final: so both paths refuse the same frames, in
the same words.

Left out: messages other than reports, which are rare; bodies of our extension and of registered layouts. They go through
`decode`, without registered layouts.

NumPy (extra `can`) is loaded with the first batch: names and types are here without it.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from bmsota._extras import needs
from bmsota.gbt32960._columns.values import MARK_ABNORMAL, MARK_INVALID, FrameColumns, FrameGroup

if TYPE_CHECKING:
    from collections.abc import Sequence
    from types import ModuleType

__all__ = ["MARK_ABNORMAL", "MARK_INVALID", "FrameColumns", "FrameGroup", "decode_batch", "encode_batch"]


def decode_batch(frames: Sequence[bytes] | bytes | bytearray | memoryview, offsets: Any = None) -> FrameColumns:
    """Decode whole frames, each as `decode` would, into columns. Needs NumPy: extra `can`.

    Args:
        frames: a sequence of frames, or bytes in which the frames stand one behind the other. If they are in one
            buffer anyway, pass that: frames of one size are then decoded without a copy.
        offsets: for bytes: where each frame begins, and as the last number where the last one ends (so n + 1 for n frames).

    Raises:
        LocalProtocolError: *offsets* are missing or do not fit. What is wrong with a frame is in `FrameColumns.errors`.
        MissingExtraError: NumPy is not installed.
    """
    found: FrameColumns = _batch("decode_batch").decode_batch(frames, offsets)
    return found


def encode_batch(columns: FrameColumns, *, strict: bool = False, raw: bool = False) -> list[bytes]:
    """Encode all groups and other frames of *columns*, in the order of their places in the batch. Needs NumPy: extra `can`.

    Places need not be without gaps: frames that were in `errors` are not here any more.

    With *raw* the values of groups are the numbers that the wire carries, as integers: no value is rounded a second time. Missing
    ones are the highest two numbers of a field that has them, and there are no marks. A position has `status`, `longitude_deg` and
    `latitude_deg` as they stand on the wire.

    Raises:
        LocalProtocolError: a column is missing or too many, has another shape, or holds a value that the wire cannot carry
            (*strict*: that the text does not allow). The message names column and row.
        MissingExtraError: NumPy is not installed.
    """
    found: list[bytes] = _batch("encode_batch").encode_batch(columns, strict=strict, raw=raw)
    return found


@cache
def _batch(feature: str) -> ModuleType:
    with needs(feature, "numpy", "can"):
        from bmsota.gbt32960._columns import batch  # noqa: PLC0415 loads NumPy
    return batch
