"""The node's side of a stream of blocks: where a data frame belongs, what is complete, what is missing.

A pure collector: it knows frames, blocks and their CRCs, no requests, no flash and no time. `BootloaderTarget` feeds it.

Strategy. A data frame says its index in the block (by its id), not its block. Frames come in order, some may be missing:
the block follows from counting, like the upper digits of a clock of which one sees the minute hand only. A frame belongs
to the place with its index that is nearest to the expected one, so up to half a block may be lost, doubled or out of order.
CheckBlock and OpenBlock name a block and so set the count right whatever was lost before. Counting wrong cannot store a
wrong byte: the block's CRC fails then, and all its frames are missing.

A repair is stricter: its frames fill gaps of one block and nothing else, until the next OpenBlock or CheckBlock.
"""

from __future__ import annotations

from zlib import crc32

from bmsota.bootloader._messages import BLOCK_NUMBERS, CHECK_FRAME

__all__ = ["BlockReceiver"]


class _Block:
    """One block under way."""

    __slots__ = ("count", "crc32", "data", "frames")

    def __init__(self, frames: int) -> None:
        self.frames: list[bytes | None] = [None] * frames
        self.count: int | None = None
        """Frames it has; None until its CheckBlock has come."""
        self.crc32 = 0
        self.data: bytes | None = None
        """All of it, once it is complete and its CRC is right."""

    def complete(self) -> None:
        """Look whether everything is there."""
        if self.data is not None or self.count is None:
            return
        parts = [part for part in self.frames[: self.count] if part is not None]
        if len(parts) < self.count:
            return
        data = b"".join(parts)
        if crc32(data) == self.crc32:
            self.data = data
        else:
            # Which frame is wrong cannot be told, so all are.
            self.frames = [None] * len(self.frames)

    def missing(self) -> list[int]:
        if self.data is not None:
            return []
        count = len(self.frames) if self.count is None else self.count
        missing = [index for index in range(count) if self.frames[index] is None]
        return missing if self.count is not None else [*missing, CHECK_FRAME]


class BlockReceiver:
    """Collects one stream."""

    def __init__(self, *, block_frames: int, window_blocks: int) -> None:
        self._block_frames = block_frames
        self._window_blocks = window_blocks
        self._half = block_frames // 2
        self._blocks: dict[int, _Block] = {}
        self.next_block = 0
        """The first block that has not been taken."""
        # The frame expected next in the stream, and the block before which the stream does not go back.
        self._stream_block = 0
        self._stream_index = 0
        self._floor = 0
        self._repaired: int | None = None

    def open(self, number: int, *, is_repair: bool = False) -> None:
        """The frames that follow belong to this block: they fill its gaps, or the stream goes on with it."""
        block = self._absolute(number)
        if is_repair:
            self._repaired = block
        else:
            self._repaired = None
            self._stream_block, self._stream_index, self._floor = block, 0, block
            # None of it has been sent yet: what is there are frames of a repair whose OpenBlock was lost.
            for ahead in [other for other, kept in self._blocks.items() if other >= block and kept.count is None]:
                del self._blocks[ahead]

    def receive(self, index: int, data: bytes) -> None:
        """A data frame with this index."""
        if self._repaired is not None:
            self._receive_repair(self._repaired, index, data)
            return
        frames = self._block_frames
        if index >= frames:
            return
        ahead = (index - self._stream_index + self._half) % frames - self._half
        at = self._stream_index + ahead
        block = self._stream_block
        if at >= frames:
            block, at = block + 1, at - frames
        elif at < 0:
            block, at = block - 1, at + frames
        if ahead >= 0:
            # Count on: at the end of a block the next one begins, whether or not its CheckBlock comes.
            self._stream_block, self._stream_index = (block, at + 1) if at + 1 < frames else (block + 1, 0)
        if block >= self._floor:
            kept = self._kept(block)
            if kept is not None and kept.data is None:
                kept.frames[at] = data
                # A frame that was lost and comes late by itself.
                if kept.count is not None:
                    kept.complete()

    def _receive_repair(self, block: int, index: int, data: bytes) -> None:
        kept = self._blocks.get(block)
        # A block that is complete here is repaired for another node.
        if kept is not None and kept.data is None and index < len(kept.frames) and kept.frames[index] is None:
            kept.frames[index] = data
            kept.complete()

    def check(self, number: int, frames: int, crc: int) -> None:
        """A block has been sent to its end."""
        block = self._absolute(number)
        self._repaired = None
        if block >= self._stream_block or (block == self._stream_block - 1 and self._stream_index == 0):
            self._stream_block, self._stream_index, self._floor = block + 1, 0, block + 1
        kept = self._kept(block)
        if kept is not None and kept.data is None:
            kept.count, kept.crc32 = frames, crc
            kept.complete()

    def take(self) -> list[bytes]:
        """The next complete blocks in order; they are not kept any longer."""
        taken = []
        while (block := self._blocks.get(self.next_block)) is not None and block.data is not None:
            taken.append(block.data)
            del self._blocks[self.next_block]
            self.next_block += 1
        return taken

    @property
    def next_number(self) -> int:
        return self.next_block % BLOCK_NUMBERS

    def missing(self, number: int) -> list[tuple[int, int]]:
        """What is missing up to this block: (block, frame) by rising block, counted from the stream's beginning."""
        last = self._absolute(number)
        found = []
        for block in range(self.next_block, min(last + 1, self.next_block + self._window_blocks)):
            kept = self._kept(block)
            assert kept is not None
            found += [(block, frame) for frame in kept.missing()]
        return found

    def age(self, number: int, block: int) -> int:
        """How many blocks *block* is before the one with this number."""
        return self._absolute(number) - block

    def _kept(self, block: int) -> _Block | None:
        """Where this block is collected; None if it has been taken or is beyond what can be kept."""
        if not self.next_block <= block < self.next_block + self._window_blocks:
            return None
        kept = self._blocks.get(block)
        if kept is None:
            kept = self._blocks[block] = _Block(self._block_frames)
        return kept

    def _absolute(self, number: int) -> int:
        """The block with this number that is nearest to where the stream stands."""
        ahead = (number - self._stream_block + BLOCK_NUMBERS // 2) % BLOCK_NUMBERS - BLOCK_NUMBERS // 2
        return self._stream_block + ahead
