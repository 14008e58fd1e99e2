"""How the rows of one vehicle and one hour become a block, whatever database they are in.

Strategy. The block is written, read back and compared before any row goes. Doing it again does no harm: a frame that is in the block
already is the same frame. A row that can't go into a block (the block of its hour can't be read, or a second alone has more than a
block holds) stays a row.

What is too large for one block is halved by time until it fits: an hour, half an hour, and so on, down to a second. So the blocks of
an hour are the leaves of one tree, whenever and in whatever order the reports came.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final, Protocol

from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.storage._blocks import (
    BLOCK_FRAMES_MAX,
    BLOCK_SIZE_BYTES_MAX,
    BlockError,
    decode_block,
    encode_block,
)
from bmsota_cloud.storage.sql._packing import digest_of
from bmsota_cloud.storage.sql._reading import HOUR_S, StoredBlock, block_key

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota_cloud.storage._blocks import FrameRow
    from bmsota_cloud.storage.sql._reading import BlockReader

__all__ = ["ROW_SIZE_BYTES", "HourTables", "compact_hour"]

ROW_SIZE_BYTES: Final = 32
"""What a row counts beside its bytes."""


class HourTables(Protocol):
    """The rows and blocks of one vehicle, inside a transaction."""

    vin: str

    def weigh(self, since_s: int, until_s: int) -> tuple[int, int]:
        """How many rows there are, and their bytes with `ROW_SIZE_BYTES` each."""
        ...

    def rows(self, since_s: int, until_s: int) -> list[FrameRow]:
        """By time, arrival and position."""
        ...

    def blocks(self, since_s: int, until_s: int) -> list[StoredBlock]:
        """Those that begin there."""
        ...

    def put(self, block: StoredBlock, newest_arrival_ns: int) -> None: ...
    def drop(self, block: StoredBlock) -> None: ...
    def read_back(self, since_s: int) -> bytes: ...

    def taken(self, since_s: int, until_s: int) -> None:
        """The rows are in blocks now."""
        ...

    def left(self, since_s: int, until_s: int) -> None:
        """The rows stay rows."""
        ...


def compact_hour(tables: HourTables, since_s: int, reader: BlockReader) -> None:
    """Put the rows of the hour that begins at *since_s* into blocks, with what is in blocks already."""
    _compact(tables, since_s, since_s + HOUR_S, reader)


def _compact(tables: HourTables, since_s: int, until_s: int, reader: BlockReader) -> None:
    count, size_bytes = tables.weigh(since_s, until_s)
    if not count:
        return
    blocks = tables.blocks(since_s, until_s)
    whole = next((block for block in blocks if (block.since_s, block.until_s) == (since_s, until_s)), None)
    old: list[FrameRow] = []
    if whole is not None:
        read = reader.rows(tables.vin, whole)
        if read is None:
            tables.left(since_s, until_s)
            return
        old = read
    if (whole is not None or not blocks) and _fits(count, size_bytes):
        rows = _merged(old, tables.rows(since_s, until_s))
        # A second is never divided, and with what was there it is still no more than twice as much.
        if until_s - since_s == 1 or _fits(len(rows), _size(rows)):
            _put(tables, since_s, until_s, rows)
            tables.taken(since_s, until_s)
            return
    if until_s - since_s == 1:
        tables.left(since_s, until_s)
        return
    middle_s = (since_s + until_s) // 2
    if whole is not None:
        tables.drop(whole)
        for begin, end in ((since_s, middle_s), (middle_s, until_s)):
            half = [row for row in old if begin <= row[0] < end]
            if half:
                _put(tables, begin, end, half)
    _compact(tables, since_s, middle_s, reader)
    _compact(tables, middle_s, until_s, reader)


def _fits(count: int, size_bytes: int) -> bool:
    return count <= BLOCK_FRAMES_MAX and size_bytes <= BLOCK_SIZE_BYTES_MAX


def _size(rows: Sequence[FrameRow]) -> int:
    return sum(ROW_SIZE_BYTES + len(row[3]) + len(row[4] or b"") + len(row[5] or "") for row in rows)


def _merged(old: list[FrameRow], new: list[FrameRow]) -> list[FrameRow]:
    """Each frame once: the one that is in the block already, else the first."""
    if not old:
        return new
    there = {(row[0], digest_of(row)) for row in old}
    return sorted(
        [*old, *(row for row in new if (row[0], digest_of(row)) not in there)], key=lambda row: (row[0], row[1])
    )


def _put(tables: HourTables, since_s: int, until_s: int, rows: list[FrameRow]) -> None:
    key = block_key(tables.vin, since_s)
    block = StoredBlock(since_s, until_s, len(rows), encode_block(rows, key))
    tables.put(block, max(row[1] for row in rows))
    try:
        is_same = decode_block(tables.read_back(since_s), key) == rows
    except BlockError:
        is_same = False
    if not is_same:
        raise StorageUnavailableError(
            f"block of {tables.vin}: what was written is not what is read back; the reports stay as they are",
            code="storage-failed",
        )
