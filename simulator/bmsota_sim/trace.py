"""What happened in a run, in order, and a hash over all of it.

Two runs with the same scenario and seed give the same hash; one byte or one nanosecond of difference gives another. Notes
are kept for people (bounded), everything goes into the hash.
"""

from __future__ import annotations

import hashlib
from collections import deque
from dataclasses import dataclass
from typing import ClassVar

__all__ = ["LinkTrace", "Note", "Trace"]

# Enough for the story of a small fleet; a large one keeps its newest.
NOTES_MAX = 20_000


@dataclass(frozen=True, slots=True)
class Note:
    """One thing that happened."""

    at_ns: int
    who: str
    what: str


class Trace:
    """The record of one run."""

    __slots__ = ("_hash", "entries", "notes")

    def __init__(self, *, notes: deque[Note] | None = None) -> None:
        """Empty. *notes*: where they are kept; in a new place if None."""
        self._hash = hashlib.sha256()
        self.notes: deque[Note] = deque(maxlen=NOTES_MAX) if notes is None else notes
        self.entries = 0

    def note(self, at_ns: int, who: str, what: str) -> None:
        """Something a person would want to know."""
        self.notes.append(Note(at_ns, who, what))
        self._add(at_ns, who, what.encode())

    def octets(self, at_ns: int, who: str, data: bytes) -> None:
        """Bytes that crossed a link."""
        self._add(at_ns, who, data)

    def _add(self, at_ns: int, who: str, data: bytes) -> None:
        self.entries += 1
        self._hash.update(f"{at_ns} {who} {len(data)} ".encode())
        self._hash.update(data)

    def digest(self) -> str:
        """Hexadecimal hash over everything so far."""
        return self._hash.hexdigest()


class LinkTrace(Trace):
    """The record of one unit's cloud link: the hash is over bytes and times, whatever happens inside the unit.

    So it is the same whether the unit simulates its internal bus or not.
    """

    __slots__ = ()

    _NONE: ClassVar[deque[Note]] = deque(maxlen=0)

    def __init__(self, *, keeps_notes: bool) -> None:
        super().__init__(notes=None if keeps_notes else self._NONE)  # There are tens of thousands of units.

    def note(self, at_ns: int, who: str, what: str) -> None:
        """Something a person would want to know; no part of the hash."""
        if self.notes is not self._NONE:
            self.notes.append(Note(at_ns, who, what))
