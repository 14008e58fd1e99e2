"""Work that keeps a core busy for a second, and threads that must get a word in.

Python gives a thread that waits for the interpreter its turn after 5 ms. A login has some dozens of moments in which it waits for a disk or
another thread, and behind each of them it waits for such a turn: beside a thread that looks at 5,000 vehicles that made 100 to 200 ms,
though nothing was locked and the event loop was free. With turns of half a millisecond it is a tenth. They cost the thread
that works some per cent, so they are as short only while there is such work.
"""

from __future__ import annotations

import sys
from contextlib import contextmanager
from threading import Lock
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterator

__all__ = ["TURN_S", "short_turns"]

TURN_S = 0.0005

_lock = Lock()
_working = 0
_usual_s = 0.0


@contextmanager
def short_turns() -> Iterator[None]:
    """For work of a thread that takes many milliseconds of Python. Also a decorator."""
    global _working, _usual_s  # noqa: PLW0603 - the interpreter has one interval
    with _lock:
        if not _working:
            _usual_s = sys.getswitchinterval()
            sys.setswitchinterval(min(TURN_S, _usual_s))
        _working += 1
    try:
        yield
    finally:
        with _lock:
            _working -= 1
            if not _working:
                sys.setswitchinterval(_usual_s)
