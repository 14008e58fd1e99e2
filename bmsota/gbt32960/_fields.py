"""The vocabulary of a layout: one row per field.

A layout is a list of rows. The same rows make the fast codec (`_compile`), the rows of `explain` (`_explain`) and the
tables of docs/protocol.md, so that they cannot disagree. What a row can be:

    Field        a number of 1, 2 or 4 bytes: value = (raw - raw_offset) / divisor, with or without sentinels
    Time         six bytes, Beijing time
    Text         a STRING of fixed size, ended by zero bytes if shorter
    SizedText    a length, then text
    SizedBytes   a length, then bytes
    FixedBytes   bytes of fixed size
    Repeat       a count, then that many items of one row or one layout
    CodeTable    the login's count, code length, and codes
    PackTable    the same of 2025: count, packs of each BMS, and codes

Rows are compared by identity (`eq=False`): they are keys of the codec's caches, and a layout is one thing, not a value.

The division is written as such and not as a multiplication by 0.001, because raw / 1000 is the correctly rounded decimal
(3.712) and raw * 0.001 is not (3.7120000000000002).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from bmsota.gbt32960._enums import Sentinel

if TYPE_CHECKING:
    from collections.abc import Callable
    from enum import IntEnum

    from bmsota.gbt32960._enums import Gear


TIME_SIZE_BYTES: Final = 6


def sentinel_raws(size_bytes: int) -> dict[int, Sentinel]:
    """Return what the two highest raw numbers of that size stand for (2016 section 3: "s1", "s2", "s4")."""
    invalid = (1 << (8 * size_bytes)) - 1
    return {invalid - 1: Sentinel.ABNORMAL, invalid: Sentinel.INVALID}


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Field:
    """A number: value = (raw - raw_offset) / divisor."""

    name: str
    size_bytes: int
    raw_min: int
    """The text's range, in raw numbers. Decoding accepts more; strict encoding does not."""
    raw_max: int
    divisor: int = 1
    """Steps per unit: 10 is a resolution of 0.1."""
    raw_offset: int = 0
    """The raw number that means zero."""
    unit: str = ""
    sentinels: bool = False
    """Whether the two highest raw numbers are "abnormal" and "invalid"."""
    values: type[IntEnum | Gear] | None = None
    """The names of the codes. A code without a name stays an integer."""
    clause: str = ""

    @property
    def raw_limit(self) -> int:
        """The highest raw number that is not a sentinel."""
        return (1 << (8 * self.size_bytes)) - (3 if self.sentinels else 1)

    def value(self, raw: int) -> Any:
        """Return what *raw* means. The plain, slow way; the compiled codec is tested against it."""
        if self.sentinels and raw > self.raw_limit:
            return sentinel_raws(self.size_bytes)[raw]
        if self.values is not None:
            try:
                return self.values(raw)
            except ValueError:
                return raw
        if self.divisor == 1:
            return raw - self.raw_offset
        return (raw - self.raw_offset) / self.divisor


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Time:
    """Six bytes: year - 2000, month, day, hour, minute, second; plain binary, Beijing time (table 8)."""

    name: str = "time"
    clause: str = "table 8"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Text:
    """A STRING of fixed size: ASCII, Chinese in GB 18030, filled up with zero bytes, or with blanks where the text says so."""

    name: str
    size_bytes: int
    padding: bytes = b"\0"
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SizedText:
    """A BYTE length, then that many bytes of UTF-8 text. Only our extension has it."""

    name: str
    size_bytes_max: int = 255
    size_bytes_min: int = 0
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class SizedBytes:
    """A WORD length, then that many bytes."""

    name: str
    size_bytes_min: int = 0
    size_bytes_max: int = 65535
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class FixedBytes:
    """Bytes of fixed size."""

    name: str
    size_bytes: int
    clause: str = ""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Repeat:
    """A count, then that many items. With sentinels, a count of 0xFE or 0xFF says "abnormal" or "invalid": no items."""

    name: str
    item: Field | Layout
    count_size_bytes: int
    count_min: int
    """The text's range of the count. Decoding accepts more; strict encoding does not."""
    count_max: int
    sentinels: bool = False
    clause: str = ""

    @property
    def count_limit(self) -> int:
        """The highest count that is not a sentinel."""
        return (1 << (8 * self.count_size_bytes)) - (3 if self.sentinels else 1)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class CodeTable:
    """The tail of the 2016 login: count n, code length m, and unless m is 0, n codes of m bytes (table 6)."""

    name: str = "subsystem_codes"
    count_max: int = 250
    length_max: int = 50
    clause: str = "table 6"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class PackTable:
    """The tail of the 2025 login: count of BMS, packs of each, and the packs' codes of 24 bytes."""

    name: str = "pack_codes"
    count_max: int = 20
    packs_max: int = 50
    code_size_bytes: int = 24
    clause: str = "2025, vehicle login"


Row = Field | Time | Text | SizedText | SizedBytes | FixedBytes | Repeat | CodeTable | PackTable


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Layout:
    """What stands in a body or a data unit, byte by byte."""

    label: str
    """How errors and explanations call it."""
    cls: type
    """The value class. Its fields have the names of the rows unless *build* and *parts* say otherwise."""
    rows: tuple[Row, ...]
    clause: str = ""
    build: Callable[..., Any] | None = field(default=None, repr=False)
    """Makes the value from the rows' values, where that is more than putting them side by side."""
    parts: Callable[[Any], tuple[Any, ...]] | None = field(default=None, repr=False)
    """The inverse of *build*."""
