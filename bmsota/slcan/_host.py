"""The host's end: what an adapter writes, cut into frames and answers.

Facts about devices that shaped this:

* The adapter never says which command it answers: answers come in the order of the commands, so the order is kept.
* BEL ends a line without a CR.
* A busy bus repeats a few hundred heads (letter, identifier, DLC): each is parsed once and looked up afterwards.

Left out: acceptance masks (`M`, `m` of the SJA1000 are too coarse), auto-poll, UART set-up (`U`).
"""

from __future__ import annotations

from binascii import unhexlify
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from bmsota.slcan._protocol import BEL, CR, HEAD_SIZES, LINE_SIZE_BYTES_MAX, MINUTE_MS, Answer, parse_head

if TYPE_CHECKING:
    from bmsota.slcan._protocol import FrameHead


# A busy bus of standard frames has a few hundred heads; garbage must not collect here.
HEADS_MAX: Final = 8192
# Frames not fetched yet: some seconds of a full bus. Beyond it the oldest are dropped and counted.
FRAMES_MAX: Final = 65_536

_NS_PER_MS: Final = 1_000_000


ReceivedFrame: TypeAlias = "tuple[FrameHead, bytes, int]"
"""Head, data, and the time in nanoseconds since the Unix epoch; `FrameHead.frame(data)` makes the frame.

A plain tuple: a named one costs a third more time per frame.
"""


class _AdapterClock:
    """Turns the adapter's milliseconds, which start again every minute, into nanoseconds since the epoch.

    The host's clock says which minute it is and when the adapter's zero was; the adapter's says when in it a frame came,
    without the jitter of the serial line. The least delay of the last minute is taken for none, so that two clocks that
    drift apart are brought together once a minute.
    """

    def __init__(self) -> None:
        self._last_ms = 0
        self._last_host_ns = 0
        self._elapsed_ms: int | None = None
        self._offset_ns = 0
        self._least_ns = 0
        self._anchored_ms = 0

    def time_ns(self, stamp_ms: int, host_ns: int) -> int:
        if self._elapsed_ms is None:
            self._elapsed_ms = stamp_ms
            self._offset_ns = self._least_ns = host_ns - stamp_ms * _NS_PER_MS
            self._anchored_ms = stamp_ms
        else:
            step_ms = (stamp_ms - self._last_ms) % MINUTE_MS
            silent_minutes = max(0, round(((host_ns - self._last_host_ns) / _NS_PER_MS - step_ms) / MINUTE_MS))
            self._elapsed_ms += step_ms + silent_minutes * MINUTE_MS
        self._last_ms, self._last_host_ns = stamp_ms, host_ns
        delay_ns = host_ns - self._elapsed_ms * _NS_PER_MS
        self._least_ns = min(self._least_ns, delay_ns)
        if self._elapsed_ms - self._anchored_ms >= MINUTE_MS:
            self._offset_ns, self._least_ns, self._anchored_ms = self._least_ns, delay_ns, self._elapsed_ms
        self._offset_ns = min(self._offset_ns, delay_ns)
        return self._elapsed_ms * _NS_PER_MS + self._offset_ns


class SlcanHost:
    """Feed it what the adapter writes, then fetch `frames` and `answers`."""

    def __init__(self, *, use_timestamps: bool = False) -> None:
        """With *use_timestamps*, frames that carry the adapter's milliseconds are dated by them."""
        self.frames: deque[ReceivedFrame] = deque(maxlen=FRAMES_MAX)
        """What came, in order."""
        self.answers: deque[Answer | str] = deque()
        """What the adapter answered, in order; a text is the answer to a question (`V`, `N`, `F`)."""
        self.garbage = 0
        """Lines that were neither frame nor answer."""
        self.dropped = 0
        """Frames dropped because they were not fetched in time."""
        self._clock = _AdapterClock() if use_timestamps else None
        self._rest = b""
        self._heads: dict[bytes, FrameHead] = {}

    def receive_data(self, data: bytes, now_ns: int) -> None:
        """Take what the adapter wrote, cut anywhere. Frames without a timestamp of their own are dated *now_ns*."""
        if BEL in data:
            data = data.replace(BEL, BEL + CR)  # BEL ends what is before it, without a CR.
        lines = (self._rest + data).split(CR)
        self._rest = lines.pop()
        if len(self._rest) > LINE_SIZE_BYTES_MAX:
            self.garbage += 1
            self._rest = self._rest[-LINE_SIZE_BYTES_MAX:]
        heads, frames, sizes = self._heads, self.frames, HEAD_SIZES
        for line in lines:
            size = sizes.get(line[0]) if line else None
            if size is None:
                self._other(line)
                continue
            key = line[:size]
            head = heads.get(key) or self._learn(key)
            if head is None:
                self._other(line)
                continue
            end = head.data_end
            try:
                payload = unhexlify(line[size:end])
            except ValueError:
                self._other(line)
                continue
            time_ns = now_ns
            if len(line) != end:
                stamp_ms = self._stamp(line[end:])
                if stamp_ms is None:
                    self._other(line)
                    continue
                if self._clock is not None:
                    time_ns = self._clock.time_ns(stamp_ms, now_ns)
            if len(frames) == FRAMES_MAX:
                self.dropped += 1
            frames.append((head, payload, time_ns))

    def _learn(self, key: bytes) -> FrameHead | None:
        """Parse a head that is new, to be looked up next time."""
        head = parse_head(key)
        if head is not None:
            if len(self._heads) >= HEADS_MAX:
                self._heads.clear()
            self._heads[key] = head
        return head

    @staticmethod
    def _stamp(digits: bytes) -> int | None:
        """The four hex digits behind a frame."""
        if len(digits) != 4 or not digits.isalnum():
            return None
        try:
            stamp_ms = int(digits, 16)
        except ValueError:
            return None
        return stamp_ms if stamp_ms < MINUTE_MS else None

    def _other(self, line: bytes) -> None:
        if line in (b"", b"z", b"Z"):
            self.answers.append(Answer.DONE)
        elif line.endswith(BEL):
            self.garbage += line != BEL
            self.answers.append(Answer.REFUSED)
        elif line[:1] in (b"V", b"N", b"F") or self._is_prose(line):
            self.answers.append(line.decode("ascii", errors="replace"))
        else:
            self.garbage += 1

    @staticmethod
    def _is_prose(line: bytes) -> bool:
        """CANable answers `V` with a version and an address: anything with a blank, a point and no control characters."""
        return b" " in line and b"." in line and line.isascii() and line.decode("ascii").isprintable()
