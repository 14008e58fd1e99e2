"""What all values of the cloud link share: comparing, hashing and showing.

A dataclass would write these three methods for each class anew, and compiling them was a fifth of the import's time; there are
some eighty classes. Here they stand once, and say the same. A value equals another of the very same class whose fields are
equal.
"""

from __future__ import annotations


class Value:
    """Base of frozen dataclasses with slots, made with `eq=False, repr=False`."""

    __slots__: tuple[str, ...] = ()

    def _fields(self) -> tuple[object, ...]:
        return tuple([getattr(self, name) for name in self.__slots__])

    def __eq__(self, other: object) -> bool:
        if other.__class__ is not self.__class__:
            return NotImplemented
        assert isinstance(other, Value)
        return self._fields() == other._fields()

    def __hash__(self) -> int:
        return hash(self._fields())

    def __repr__(self) -> str:
        shown = ", ".join(f"{name}={getattr(self, name)!r}" for name in self.__slots__)
        return f"{type(self).__qualname__}({shown})"
