"""A lock whose waiters get their turn in the order they came.

`threading.RLock` gives the lock to the quickest thread: one that releases it and takes it again at once, as one that
writes five thousand vehicles slice by slice does, keeps it from a login that waits. Here the release itself hands the lock to
the one who waits longest.
"""

from __future__ import annotations

from collections import deque
from threading import Lock, get_ident
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    from types import TracebackType

__all__ = ["TurnLock"]


class TurnLock:
    """Reentrant, and fair. A context manager."""

    def __init__(self) -> None:
        self._guard = Lock()
        self._owner: int | None = None
        self._depth = 0
        self._waiting: deque[tuple[int, Lock]] = deque()

    def acquire(self, timeout: float = -1) -> bool:
        """Take the lock. False if it is not our turn within *timeout* seconds; a negative one is for ever."""
        me = get_ident()
        with self._guard:
            if self._owner in (None, me):
                self._owner = me
                self._depth += 1
                return True
            gate = Lock()
            gate.acquire()
            self._waiting.append((me, gate))
        try:
            is_ours = gate.acquire(timeout=timeout)  # Until a release has made us the owner.
        except BaseException:
            self._give_up(me, gate)
            raise
        if not is_ours:
            self._give_up(me, gate)
        return is_ours

    def release(self) -> None:
        """Give the lock to the one who waits longest."""
        with self._guard:
            self._depth -= 1
            if self._depth:
                return
            if not self._waiting:
                self._owner = None
                return
            self._owner, gate = self._waiting.popleft()
            self._depth = 1
            gate.release()

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def _give_up(self, me: int, gate: Lock) -> None:
        """An interrupt has come while we waited, or the time is over: leave the queue, or pass the turn on if it was ours already."""
        with self._guard:
            if (me, gate) in self._waiting:
                self._waiting.remove((me, gate))
                return
        self.release()
