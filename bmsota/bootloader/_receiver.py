"""The node's side of a stream of blocks: where a data frame belongs, what is complete, what is missing.

A pure collector: it knows frames, blocks and their CRCs, no requests, no flash and no time. `BootloaderTarget` feeds it.

Strategy. A data frame says its index in the block (by its id), not its block. Frames come in order, some may be missing:
the block follows from counting, like the upper digits of a clock of which one sees the minute hand only. A frame belongs
to the place with its index that is nearest to the expected one, so less than half a block may be lost, doubled or out of order.
CheckBlock and OpenBlock name a block and so set the count right whatever was lost before. Counting wrong cannot store a
wrong byte: the block's CRC fails then, and all its frames are missing. The CRC begins with what stream it is (`Offer.stream_crc`),
so that a block of another image, or of another place in this one, fails it too.

A repair is stricter: its frames fill gaps of one block and nothing else, until the next OpenBlock or CheckBlock.

Block numbers go round: the block is meant that is nearest to the one named before, not to where counting has got: frames that
come late or twice count on as well. The flasher keeps to the window, so a number far off is wrong (a stray request, a
frame that an adapter has spoilt) and ignored; one that is not so far carries the place from which the next number is judged
no further than a window.
"""

from __future__ import annotations

from zlib import crc32

from bmsota.bootloader._messages import BLOCK_NUMBERS, CHECK_FRAME, WINDOW_BLOCKS_MAX

# Blocks between one number and the next: a window, and another one if the number before was wrong.
_BLOCKS_APART_MAX = 2 * WINDOW_BLOCKS_MAX


class _Block:
    """One block under way."""

    __slots__ = ("count", "crc32", "crc_start", "data", "frames", "is_doubted", "repaired")

    def __init__(self, frames: int, crc_start: int) -> None:
        self.frames: list[bytes | None] = [None] * frames
        self.repaired: set[int] = set()
        """Frames that a repair has brought."""
        self.is_doubted = False
        """Whether its CRC has been wrong and only the repaired frames have been dropped."""
        self.crc_start = crc_start
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
        if crc32(data, self.crc_start) == self.crc32:
            self.data = data
        elif self.repaired and not self.is_doubted:
            # Most likely an OpenBlock was lost, and these frames belong into gaps of another block.
            self.is_doubted = True
            for index in self.repaired:
                self.frames[index] = None
            self.repaired.clear()
        else:
            # Which frame is wrong is not known, so all are, and the CheckBlock as well.
            self.is_doubted = False
            self.frames = [None] * len(self.frames)
            self.repaired.clear()
            self.count = None

    def missing(self) -> list[int]:
        if self.data is not None:
            return []
        count = len(self.frames) if self.count is None else self.count
        missing = [index for index in range(count) if self.frames[index] is None]
        return missing if self.count is not None else [*missing, CHECK_FRAME]


class BlockReceiver:
    """Collects one stream, whose CRCs begin with *crc_start*."""

    def __init__(self, *, block_frames: int, window_blocks: int, crc_start: int = 0) -> None:
        self._block_frames = block_frames
        self._crc_start = crc_start
        self._window_blocks = window_blocks
        self._half = block_frames // 2
        self._blocks: dict[int, _Block] = {}
        self.next_block = 0
        """The first block that has not been taken."""
        self.is_proven = False
        """Whether a block's CRC was right: then this is the stream that is being sent."""
        # The frame expected next in the stream, and the block before which the stream does not go back.
        self._stream_block = 0
        self._stream_index = 0
        self._floor = 0
        self._named = 0
        """The block that was named last, as far as it can be believed."""
        self._repaired: int | None = None

    def open(self, number: int, *, is_repair: bool = False) -> None:
        """The frames that follow belong to this block: they fill its gaps, or the stream continues with it."""
        block = self._absolute(number)
        if not self._is_possible(block):
            return
        self._name(block)
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
                    self._complete(kept)

    def _receive_repair(self, block: int, index: int, data: bytes) -> None:
        kept = self._blocks.get(block)
        # A block that is complete here is repaired for another node.
        if kept is not None and kept.data is None and index < len(kept.frames) and kept.frames[index] is None:
            kept.frames[index] = data
            kept.repaired.add(index)
            self._complete(kept)

    def check(self, number: int, frames: int, crc: int) -> bool:
        """A block has been sent to its end. False, and nothing is done: the stream cannot have got there."""
        block = self._absolute(number)
        if not self._is_possible(block):
            return False
        is_newer = block > self._named
        self._name(block)
        self._repaired = None
        kept = self._kept(block)
        ahead = self._stream_block - block
        # Set the count right. If it is ahead by a block and more this may be a repetition: not if it names a newer block.
        if ahead <= 0 or (ahead == 1 and not self._stream_index) or (ahead > 1 and is_newer):
            self._stream_block, self._stream_index, self._floor = block + 1, 0, block + 1
        if kept is not None and kept.data is None:
            kept.count, kept.crc32 = frames, crc
            self._complete(kept)
        return True

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

    def _complete(self, block: _Block) -> None:
        block.complete()
        self.is_proven = self.is_proven or block.data is not None

    def _kept(self, block: int) -> _Block | None:
        """Where this block is collected; None if it has been taken or is beyond what can be kept."""
        if not self.next_block <= block < self.next_block + self._window_blocks:
            return None
        kept = self._blocks.get(block)
        if kept is None:
            kept = self._blocks[block] = _Block(self._block_frames, self._crc_start)
        return kept

    def _is_possible(self, block: int) -> bool:
        """Whether the flasher can speak of this block now."""
        return abs(block - self._named) <= _BLOCKS_APART_MAX and block < self.next_block + self._window_blocks

    def _name(self, block: int) -> None:
        apart = max(-WINDOW_BLOCKS_MAX, min(WINDOW_BLOCKS_MAX, block - self._named))
        self._named += apart

    def _absolute(self, number: int) -> int:
        """The block with this number that is nearest to the one named before."""
        ahead = (number - self._named + BLOCK_NUMBERS // 2) % BLOCK_NUMBERS - BLOCK_NUMBERS // 2
        return self._named + ahead
