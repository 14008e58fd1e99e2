"""The host's end: what an adapter writes, cut into frames and answers.

Facts about devices that shaped this:

* The adapter never says which command it answers: answers come in the order of the commands, so the order is kept.
* BEL ends a line without a CR. Some firmware ends lines with CR LF: line feeds are dropped.
* CANable 2.5 in its feedback mode answers `#` for "done" and `#` with a digit for a refusal; it also reports errors of the bus (`E` and
  eight digits) and writes messages for people (`>`). Behind a frame it may put `S`: the sending node is error passive.
* Timestamps have four digits (milliseconds of a minute), or eight (microseconds, 32 bits): `Z2` of several firmwares.
* A busy bus repeats a few hundred heads (letter, identifier, DLC): each is parsed once and looked up afterwards.

Left out: acceptance masks (`M`, `m` of the SJA1000 are too coarse), auto-poll, UART set-up (`U`).
"""

from __future__ import annotations

from binascii import unhexlify
from collections import deque
from typing import TYPE_CHECKING, Final, TypeAlias

from bmsota.slcan._protocol import (
    BEL,
    CR,
    HEAD_SIZES,
    LF,
    LINE_SIZE_BYTES_MAX,
    LONG_STAMP_US,
    MINUTE_MS,
    Answer,
    is_bus_error_report,
    parse_head,
)

if TYPE_CHECKING:
    from bmsota.slcan._protocol import FrameHead


# A busy bus of standard frames has a few hundred heads; garbage must not collect here.
HEADS_MAX: Final = 8192
# Frames not fetched yet: some seconds of a full bus. Beyond it the oldest are dropped and counted.
FRAMES_MAX: Final = 65_536

_NS_PER_MS: Final = 1_000_000
_NS_PER_US: Final = 1_000
_NS_PER_MINUTE: Final = 60_000_000_000

# A letter behind a frame, before its timestamp: the sender is error passive.
_PASSIVE_FLAGS: Final = (b"S", b"?")
# "#" and one of these: a refusal with its reason.
_REASONS: Final = frozenset(b"123456789:;<")


ReceivedFrame: TypeAlias = "tuple[FrameHead, bytes, int]"
"""Head, data, and the time in nanoseconds since the Unix epoch; `FrameHead.frame(data)` makes the frame.

A plain tuple: a named one costs a third more time per frame.
"""


class _AdapterClock:
    """Turns the adapter's time, which starts again after *period_ns*, into nanoseconds since the epoch.

    The host's clock says which period it is and when the adapter's zero was; the adapter's says when in it a frame came,
    without the jitter of the serial line. The least delay of the last minute is taken for none, so that two clocks that
    drift apart are brought together once a minute.
    """

    def __init__(self, period_ns: int) -> None:
        self.period_ns = period_ns
        self._last_ns = 0
        self._last_host_ns = 0
        self._elapsed_ns: int | None = None
        self._offset_ns = 0
        self._least_ns = 0
        self._anchored_ns = 0

    def time_ns(self, stamp_ns: int, host_ns: int) -> int:
        if self._elapsed_ns is None:
            self._elapsed_ns = stamp_ns
            self._offset_ns = self._least_ns = host_ns - stamp_ns
            self._anchored_ns = stamp_ns
        else:
            step_ns = (stamp_ns - self._last_ns) % self.period_ns
            silent_periods = max(0, round((host_ns - self._last_host_ns - step_ns) / self.period_ns))
            self._elapsed_ns += step_ns + silent_periods * self.period_ns
        self._last_ns, self._last_host_ns = stamp_ns, host_ns
        delay_ns = host_ns - self._elapsed_ns
        self._least_ns = min(self._least_ns, delay_ns)
        if self._elapsed_ns - self._anchored_ns >= _NS_PER_MINUTE:
            self._offset_ns, self._least_ns, self._anchored_ns = self._least_ns, delay_ns, self._elapsed_ns
        self._offset_ns = min(self._offset_ns, delay_ns)
        return self._elapsed_ns + self._offset_ns


class SlcanHost:
    """Feed it what the adapter writes, then fetch `frames` and `answers`."""

    def __init__(self, *, use_timestamps: bool = False) -> None:
        """With *use_timestamps*, frames that carry the adapter's own time are dated by it."""
        self.frames: deque[ReceivedFrame] = deque(maxlen=FRAMES_MAX)
        """What came, in order."""
        self.answers: deque[Answer | str] = deque()
        """What the adapter answered, in order; a text is the answer to a question (`V`, `N`, `F`)."""
        self.refusal = ""
        """What the adapter said with its last refusal, such as "#3"; empty if it said BEL alone."""
        self.bus_errors = 0
        """Reports of errors on the bus that came by themselves."""
        self.messages = 0
        """Lines for people, which firmware writes on its own."""
        self.garbage = 0
        """Lines that were neither frame nor answer."""
        self.dropped = 0
        """Frames dropped because they were not fetched in time."""
        self._use_timestamps = use_timestamps
        self._clock: _AdapterClock | None = None
        self._rest = b""
        self._heads: dict[bytes, FrameHead] = {}

    def receive_data(self, data: bytes, now_ns: int) -> None:
        """Take what the adapter wrote, cut anywhere. Frames without a timestamp of their own are dated *now_ns*."""
        if LF in data:
            data = data.replace(LF, b"")
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
                stamp = self._stamp(line[end:])
                if stamp is None:
                    self._other(line)
                    continue
                if self._use_timestamps and stamp[1]:
                    time_ns = self._adapter_time(*stamp, now_ns)
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
    def _stamp(tail: bytes) -> tuple[int, int] | None:
        """What stands behind a frame: the adapter's time and after how long it starts again, in ns; 0, 0 without; None: garbage."""
        if not tail:
            return None  # The line ends before its data do.
        if tail[:1] in _PASSIVE_FLAGS:
            tail = tail[1:]
        elif tail[-1:] in _PASSIVE_FLAGS:
            tail = tail[:-1]
        if not tail:
            return 0, 0
        if len(tail) not in (4, 8) or not tail.isalnum():
            return None
        try:
            stamp = int(tail, 16)
        except ValueError:
            return None
        if len(tail) == 8:
            return stamp * _NS_PER_US, LONG_STAMP_US * _NS_PER_US
        return (stamp * _NS_PER_MS, MINUTE_MS * _NS_PER_MS) if stamp < MINUTE_MS else None

    def _adapter_time(self, stamp_ns: int, period_ns: int, now_ns: int) -> int:
        if self._clock is None or self._clock.period_ns != period_ns:
            self._clock = _AdapterClock(period_ns)
        return self._clock.time_ns(stamp_ns, now_ns)

    def _other(self, line: bytes) -> None:
        if line in (b"", b"z", b"Z", b"#"):
            self.answers.append(Answer.DONE)
        elif line.endswith(BEL) or (len(line) == 2 and line[:1] == b"#" and line[1] in _REASONS):
            self.garbage += line != BEL and line[:1] != b"#"
            self.refusal = line.decode("ascii", errors="replace") if line[:1] == b"#" else ""
            self.answers.append(Answer.REFUSED)
        elif line[:1] == b">":
            self.messages += 1
        elif is_bus_error_report(line):
            self.bus_errors += 1
        elif line[:1] in (b"V", b"N", b"F", b"+") or self._is_prose(line):
            self.answers.append(line.decode("ascii", errors="replace"))
        else:
            self.garbage += 1

    @staticmethod
    def _is_prose(line: bytes) -> bool:
        """CANable answers `V` with a version and an address: anything with a blank, a point and no control characters."""
        return b" " in line and b"." in line and line.isascii() and line.decode("ascii").isprintable()
