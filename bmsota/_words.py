"""How a message says a number of things."""

from __future__ import annotations

__all__ = ["counted"]


def counted(count: int, noun: str) -> str:
    """A count and its noun, whose plural ends in "s".

    >>> counted(1, "more byte"), counted(0, "node"), counted(3, "node")
    ('1 more byte', '0 nodes', '3 nodes')
    """
    return f"{count} {noun}{'' if count == 1 else 's'}"
