"""How often something happened in this process, counted from any thread, exactly and without a lock.

`counts[name] += 1` is three steps, and two threads that take them at once count one. So each thread counts for itself, and who reads
adds up.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from threading import Lock, Thread, current_thread, local
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["Counters"]


class Counters(Mapping[str, int]):
    """Counts by name, of all threads together; 0 for what never happened."""

    def __init__(self) -> None:
        self._own = local()
        self._lock = Lock()
        self._running: list[tuple[Thread, Counter[str]]] = []
        self._ended: Counter[str] = Counter()

    def add(self, name: str, count: int = 1) -> None:
        """Count *count* more."""
        try:
            own: Counter[str] = self._own.counts
        except AttributeError:
            own = self._own.counts = Counter()
            self._begin(own)
        own[name] += count

    def _begin(self, own: Counter[str]) -> None:
        """The thread's first. Web servers make threads as they need them: what ended ones have counted is kept once."""
        with self._lock:
            running = [(current_thread(), own)]
            for thread, counts in self._running:
                if thread.is_alive():
                    running.append((thread, counts))
                else:
                    self._ended.update(counts)
            self._running = running

    def snapshot(self) -> Counter[str]:
        """All counts as they are now."""
        with self._lock:
            found = self._ended.copy()
            for _, counts in self._running:
                # A copy in one step: its thread counts on.
                found.update(dict(counts))
            return found

    def __getitem__(self, name: str) -> int:
        return self.snapshot()[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self.snapshot())

    def __len__(self) -> int:
        return len(self.snapshot())
