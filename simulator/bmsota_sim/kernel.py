"""The simulation kernel: one heap of (time, sequence), and nothing else.

Everything virtual (units, buses, links) schedules its work here. Two drivers pump the same heap: `bmsota_sim.virtual`
jumps from one entry to the next, `bmsota_sim.realtime` waits for the wall clock in between. Ties are broken by the
sequence in which entries were made, never by chance, so that a run is a function of (scenario, seed) alone.

Time is integer nanoseconds since the Unix epoch (`now_ns`), the same clock that every sans-IO core takes.
"""

from __future__ import annotations

from heapq import heappop, heappush
from typing import TYPE_CHECKING, Any

from bmsota.errors import LocalProtocolError

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = ["MS", "SECOND", "US", "Kernel", "Timer"]

US = 1_000
MS = 1_000_000
SECOND = 1_000_000_000


# This many callbacks without one nanosecond of progress are no burst: two machines call each other for ever. The busiest
# honest moment is a fleet of ten thousand that starts as one.
STANDSTILL_CALLBACKS_MAX = 1_000_000


class Timer:
    """One entry of the heap. `cancel()` makes it do nothing when its time comes."""

    __slots__ = ("args", "callback", "when_ns")

    def __init__(self, when_ns: int, callback: Callable[..., object], args: tuple[Any, ...]) -> None:
        self.when_ns = when_ns
        self.callback: Callable[..., object] | None = callback
        self.args = args

    def cancel(self) -> None:
        self.callback = None
        self.args = ()


class Kernel:
    """The virtual clock and its heap."""

    __slots__ = ("_heap", "_sequence", "executed", "now_ns")

    def __init__(self, start_ns: int) -> None:
        self.now_ns = start_ns
        """The current time; while a callback runs, the time it was scheduled for."""
        self.executed = 0
        """How many callbacks have run, for progress and figures."""
        self._heap: list[tuple[int, int, Timer]] = []
        self._sequence = 0

    def call_at(self, when_ns: int, callback: Callable[..., object], *args: Any) -> Timer:
        """Run *callback* at *when_ns*; a time in the past means now, after what is already due."""
        timer = Timer(max(when_ns, self.now_ns), callback, args)
        self._sequence += 1
        heappush(self._heap, (timer.when_ns, self._sequence, timer))
        return timer

    def call_in(self, delay_ns: int, callback: Callable[..., object], *args: Any) -> Timer:
        """Run *callback* after *delay_ns*."""
        return self.call_at(self.now_ns + delay_ns, callback, *args)

    def call_soon(self, callback: Callable[..., object], *args: Any) -> Timer:
        """Run *callback* at the current time, after what is already due."""
        return self.call_at(self.now_ns, callback, *args)

    def next_due(self) -> int | None:
        """When the earliest live entry is due; None if there is none."""
        heap = self._heap
        while heap and heap[0][2].callback is None:
            heappop(heap)
        return heap[0][0] if heap else None

    def run_until(self, when_ns: int) -> None:
        """Run everything due up to and including *when_ns*, then stand at *when_ns*.

        Raises:
            LocalProtocolError: the callbacks of one moment schedule each other without end.
        """
        heap = self._heap
        standstill = 0
        while heap and heap[0][0] <= when_ns:
            when, _, timer = heappop(heap)
            callback = timer.callback
            if callback is None:
                continue
            standstill = standstill + 1 if when == self.now_ns else 0
            if standstill > STANDSTILL_CALLBACKS_MAX:
                raise LocalProtocolError(
                    f"kernel: time stands still: {standstill} callbacks at {when} ns, now {callback!r}"
                )
            self.now_ns = when
            self.executed += 1
            callback(*timer.args)
        self.now_ns = max(self.now_ns, when_ns)
