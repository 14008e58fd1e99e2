"""What a DBC says about one message, in the shape the codecs are compiled from.

A plan is pure data: signals with their place in the frame, and a tree of branches where multiplexer signals choose. The
one-message codec (`_codec`) is generated from it; nothing here knows how, so a columnar codec can be built from the same
plan.

Bit positions. A little-endian signal is cut out of the frame read as one little-endian integer, a big-endian signal out
of the frame read as one big-endian integer; `Signal.shift` is the distance of its least significant bit from that
integer's. With it the two byte orders need no further difference in any codec.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from types import MappingProxyType
from typing import TYPE_CHECKING, Literal, Self, SupportsIndex, TypeAlias, overload

if TYPE_CHECKING:
    from collections.abc import Mapping


SignalValue: TypeAlias = int | float | str
"""A decoded value: a number in the signal's unit, or the name its value table gives to the number (`NamedValue`)."""


class NamedValue(str):
    """The name of a number in a value table: a `str` that keeps the number.

    Value tables give one name to several numbers ("Reserved" is the usual one), and a float that is named has decimals that
    the name does not show. `Message.encode` takes the number from here, so that a decoded frame is encoded as it was.
    """

    __slots__ = ("raw",)

    raw: float
    """The number on the wire, neither scaled nor shifted by the offset."""

    def __new__(cls, name: str, raw: float) -> Self:
        self = super().__new__(cls, name)
        self.raw = raw
        return self

    def __getnewargs__(self) -> tuple[str, float]:  # type: ignore[override]  # str has one argument
        return str(self), self.raw


ByteOrder: TypeAlias = Literal["little", "big"]

_NO_CHOICES: Mapping[int, str] = MappingProxyType({})


@dataclass(frozen=True, slots=True, kw_only=True)
class Signal:
    """One signal of a message, as the DBC defines it."""

    name: str
    start_bit: int
    """The DBC's number: of the least significant bit if little-endian, of the most significant bit if big-endian."""
    length_bits: int
    byte_order: ByteOrder
    shift: int
    """Distance of the least significant bit from that of the frame, read as an integer in `byte_order`."""
    is_signed: bool = False
    is_float: bool = False
    scale: float = 1
    offset: float = 0
    minimum: float | None = None
    maximum: float | None = None
    unit: str = ""
    choices: Mapping[int, str] = field(default_factory=lambda: _NO_CHOICES, hash=False)
    """The value table: raw number -> name."""
    comment: str = ""
    receivers: tuple[str, ...] = ()
    is_multiplexer: bool = False
    multiplexer: str | None = None
    """The name of the multiplexer signal that decides whether this signal is in the frame."""
    multiplexer_ids: tuple[int, ...] = ()

    @property
    def raw_minimum(self) -> int:
        """The smallest integer the bits can hold; without meaning for a float."""
        return -(1 << self.length_bits - 1) if self.is_signed else 0

    @property
    def raw_maximum(self) -> int:
        """The largest integer the bits can hold; without meaning for a float."""
        return (1 << self.length_bits - self.is_signed) - 1


class Signals(tuple[Signal, ...]):
    """The signals of a message: a tuple, also indexed by name: `message.signals["State"]`, `"State" in message.signals`."""

    __slots__ = ()

    @overload
    def __getitem__(self, key: str, /) -> Signal: ...
    @overload
    def __getitem__(self, key: SupportsIndex, /) -> Signal: ...
    @overload
    def __getitem__(self, key: slice, /) -> tuple[Signal, ...]: ...
    def __getitem__(self, key: str | SupportsIndex | slice, /) -> Signal | tuple[Signal, ...]:
        """The signal of that name or at that place.

        Raises:
            KeyError: the message has no signal of that name.
            IndexError: it has fewer signals.
        """
        if not isinstance(key, str):
            return super().__getitem__(key)
        for signal in self:
            if signal.name == key:
                return signal
        raise KeyError(key)

    def __contains__(self, key: object, /) -> bool:
        if isinstance(key, str):
            return any(signal.name == key for signal in self)
        return super().__contains__(key)


@dataclass(frozen=True, slots=True)
class Branch:
    """A multiplexer signal and what each of its numbers brings into the frame."""

    multiplexer: Signal
    nodes: Mapping[int, LayoutNode]


@dataclass(frozen=True, slots=True)
class LayoutNode:
    """The signals that are in the frame at this point of the multiplexer tree, and the branches below."""

    signals: tuple[Signal, ...]
    branches: tuple[Branch, ...] = ()


def shift_of(*, start_bit: int, length_bits: int, byte_order: ByteOrder, size_bytes: int) -> int:
    """Turn the DBC's start bit into `Signal.shift` for a frame of *size_bytes*; negative if the signal does not fit."""
    if byte_order == "little":
        return start_bit
    # The DBC numbers bits 7..0 in byte 0, 15..8 in byte 1; on the wire (most significant bit first) that is 0, 1, 2, ...
    most_significant = 8 * (start_bit // 8) + 7 - start_bit % 8
    return 8 * size_bytes - (most_significant + length_bits)
