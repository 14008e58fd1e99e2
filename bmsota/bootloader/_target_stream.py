"""The node's side of one stream: from data frames to image bytes in the staging, and what to report of it.

`BlockReceiver` knows blocks and frames, `Decompressor` the compressed form, `NodeStaging` the flash; here they meet. A stream begins at
some place of the image, which may lie before what this node has: the others of a broadcast may need it from there.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

from bmsota.bootloader._messages import (
    BLOCK_NUMBERS,
    DATA_BYTES,
    FD_DATA_BYTES,
    SEGMENT_FRAMES,
    BitmapReply,
    ListReply,
    Reply,
    ReportReply,
)
from bmsota.bootloader._receiver import BlockReceiver
from bmsota.compression import Decompressor

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota.bootloader._offer import Offer
    from bmsota.node import NodeStaging


MISSING_TOTAL_MAX = 255
# Replies about missing frames in one report; what does not fit is said in the next one. Four frames in a list, 32 in a bitmap.
_MISSING_REPLIES_MAX = 32
_LIST_ENTRIES = 4
# From this many missing frames of a segment on a bitmap is the shorter way to say it.
_BITMAP_FROM = 4
# A byte of a compressed stream gives eight bytes at most (`bmsota.compression`).
_EXPANSION_MAX = 8


class TargetStream:
    """One stream of the image that *staging* has begun with *offer*; *offset* is at most what is stored of it."""

    def __init__(self, offer: Offer, offset: int, *, staging: NodeStaging, window_blocks: int) -> None:
        self._staging = staging
        self._receiver = BlockReceiver(
            block_frames=offer.block_frames, window_blocks=window_blocks, crc_start=offer.stream_crc(offset)
        )
        self.offset = offset
        """Where in the image it begins."""
        self.data_bytes = FD_DATA_BYTES if offer.is_fd else DATA_BYTES
        """Of each of its data frames."""
        self.receive = self._receiver.receive
        self.open = self._receiver.open
        self.check = self._receiver.check
        self._size_bytes = offer.size_bytes - offset
        self._skip_bytes = staging.offset - offset
        """Bytes of it that are stored already."""
        self._decompressor = Decompressor(self._size_bytes) if offer.is_compressed else None
        if self._decompressor is None:
            block_bytes = offer.block_frames * self.data_bytes
            self._receiver.next_block, self._skip_bytes = divmod(self._skip_bytes, block_bytes)

    @property
    def is_proven(self) -> bool:
        """Whether a block of it has come whole: it is no stray request's."""
        return self._receiver.is_proven

    def stored(self) -> Iterator[int]:
        """Store the blocks that are complete, one after the other; how much of the image is stored after each that brought more.

        Raises:
            NodeRefusedError: another upgrade uses the store.
            ImageError: the compressed stream is none of this image.
        """
        staging = self._staging
        for block in self._receiver.take():
            before = staging.offset
            data = self._unpacked(block)
            skipped = min(self._skip_bytes, len(data))
            self._skip_bytes -= skipped
            staging.write(data[skipped:])
            if staging.offset != before:
                yield staging.offset

    def _unpacked(self, block: bytes) -> bytes:
        decompressor = self._decompressor
        if decompressor is None:
            return block
        if self._size_bytes - decompressor.size_bytes > _EXPANSION_MAX * len(block):
            return decompressor.feed(block)
        # The stream may end in this block; what fills its last frame up is not a part of it.
        parts = []
        for index in range(len(block)):
            if decompressor.size_bytes == self._size_bytes:
                break
            parts.append(decompressor.feed(block[index : index + 1]))
        return b"".join(parts)

    def report(self, position: int, number: int) -> tuple[list[Reply], ReportReply]:
        """What is missing up to block *number*, and how far the image is stored."""
        receiver = self._receiver
        missing = receiver.missing(number)
        replies: list[Reply] = []
        by_segment: dict[tuple[int, int], list[int]] = {}
        for block, frame in missing:
            by_segment.setdefault((block, frame // SEGMENT_FRAMES), []).append(frame)
        totals = Counter(block for block, _ in missing)
        listed: list[tuple[int, int]] = []
        for (block, segment), frames in by_segment.items():
            if len(frames) < _BITMAP_FROM:
                listed += [(receiver.age(number, block), frame) for frame in frames]
            else:
                bitmap = sum(1 << frame % SEGMENT_FRAMES for frame in frames)
                replies.append(BitmapReply(position, block % BLOCK_NUMBERS, segment, totals[block], bitmap))
        replies += [
            ListReply(position, number, tuple(listed[start : start + _LIST_ENTRIES]))
            for start in range(0, len(listed), _LIST_ENTRIES)
        ]
        # A node that has more than this stream has sent so far says no more than that.
        reported_next = min(receiver.next_block, receiver.next_block + receiver.age(number, receiver.next_block) + 1)
        total = min(len(missing), MISSING_TOTAL_MAX)
        report = ReportReply(position, number, reported_next % BLOCK_NUMBERS, total, self._staging.offset)
        return replies[:_MISSING_REPLIES_MAX], report
