"""A flash memory that behaves like one: erase blocks, write-once cells, power cuts inside an operation, and worn cells.

The model is strict where hardware would be treacherous: writing a unit that was touched since its last erase raises,
even if it still reads as erased, because on real flash with ECC the result would be undefined. A cut leaves partial
results drawn from the seed and the operation's number, so that a run replays exactly. Cells wear out when a test says so
(`wear`), not by themselves: real ones last for some 10,000 erases, and no run has so many.

Strategy. Contents are pages of one erase block each. An erased page does not exist; a page that was given by `load` is shared with every other
flash of the same contents until one of them writes to it (copy on write). So a thousand nodes with one factory image hold it once.

Left out: read disturb, and cells that forget with time.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum
from random import Random
from typing import TYPE_CHECKING, NoReturn

from bmsota.errors import ConfigurationError, FlashError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = [
    "ERASE_NS",
    "PROGRAM_NS",
    "CellFault",
    "CutPhase",
    "FlashContents",
    "FlashMisuseError",
    "FlashModel",
    "PowerCut",
    "share_pages",
]

ERASED = 0xFF

# Typical values of the STM32L4's datasheet: erasing a page, programming a double word.
ERASE_NS = 22_000_000
PROGRAM_NS = 82_000


class PowerCut(Exception):  # noqa: N818  It is an accident, not an error of ours.
    """The supply failed in the middle of a flash operation. The device that ran is gone; its flash stays."""

    def __init__(self, operation: int, phase: CutPhase | None) -> None:
        where = "while off" if phase is None else phase.value
        super().__init__(f"power cut: flash operation {operation}, {where}")
        self.operation = operation
        self.phase = phase


class FlashMisuseError(Exception):
    """Code under test did what this flash forbids: a bug of that code, never a fault to handle."""


class CutPhase(Enum):
    """Where in an operation the power fails."""

    BEFORE = "before"
    INSIDE = "inside"
    AFTER = "after"


class CellFault(Enum):
    """How a cell is worn."""

    NOT_PROGRAMMED = "not programmed"
    """From now on the bit keeps its value when it is written."""
    NOT_ERASED = "not erased"
    """From now on the bit keeps its value when it is erased."""
    UNSTABLE = "unstable"
    """The bit is 0 or 1, each time it is read."""
    UNREADABLE = "unreadable"
    """The driver reports an ECC error (`FlashError`) for every read of the write unit."""


_KNOWN: dict[bytes, bytes] = {}
"""Pages that a flash shares as soon as it has written the same: a copy of an image costs nothing."""


def share_pages(contents: FlashContents) -> None:
    """Let every flash that comes to hold a page of *contents*, wherever, share it."""
    for pages in (contents.cells, contents.touched):
        for page in pages.values():
            _KNOWN.setdefault(page, page)


class _Pages:
    """Bytes in pages: one that is not there is all *fill*; one of `bytes` is shared, one of `bytearray` its own."""

    __slots__ = ("_fill", "_is_borrowed", "_page_size", "_pages", "size_bytes")

    def __init__(self, size_bytes: int, page_size_bytes: int, fill: int) -> None:
        self.size_bytes = size_bytes
        self._page_size = page_size_bytes
        self._fill = fill
        self._pages: Mapping[int, bytes | bytearray] = {}
        self._is_borrowed = True
        """The mapping belongs to another, too."""

    def __getitem__(self, offset: int) -> int:
        page, at = divmod(offset, self._page_size)
        return self._pages[page][at] if page in self._pages else self._fill

    def __setitem__(self, offset: int, value: int) -> None:
        page, at = divmod(offset, self._page_size)
        self._own(page)[at] = value

    def _own_pages(self) -> dict[int, bytes | bytearray]:
        if self._is_borrowed:
            self._pages, self._is_borrowed = dict(self._pages), False
        assert isinstance(self._pages, dict)
        return self._pages

    def _own(self, page: int) -> bytearray:
        found = self._pages.get(page)
        if isinstance(found, bytearray):
            return found
        own = bytearray([self._fill]) * self._page_size if found is None else bytearray(found)
        self._own_pages()[page] = own
        return own

    def _places(self, offset: int, size: int) -> Iterator[tuple[int, int, int]]:
        """Page, and from where to where in it."""
        end = offset + size
        while offset < end:
            page, at = divmod(offset, self._page_size)
            until = min(self._page_size, at + end - offset)
            yield page, at, until
            offset += until - at

    def read(self, offset: int, size: int) -> bytes:
        pages = self._pages
        return b"".join(
            bytes(pages[page][at:until]) if page in pages else bytes([self._fill]) * (until - at)
            for page, at, until in self._places(offset, size)
        )

    def write(self, offset: int, data: bytes) -> None:
        done = 0
        for page, at, until in self._places(offset, len(data)):
            own = self._own(page)
            own[at:until] = data[done : done + until - at]
            done += until - at
            if until == self._page_size and (known := _KNOWN.get(bytes(own))) is not None:
                self._own_pages()[page] = known

    def clear(self, offset: int, size: int) -> None:
        """Fill; whole pages are gone then."""
        for page, at, until in self._places(offset, size):
            if until - at == self._page_size:
                if page in self._pages:
                    del self._own_pages()[page]
            elif page in self._pages:
                self._own(page)[at:until] = bytes([self._fill]) * (until - at)

    def shared(self) -> dict[int, bytes]:
        """All pages, for `share`; those of its own are copied."""
        return {page: bytes(data) for page, data in self._pages.items()}

    def share(self, pages: Mapping[int, bytes]) -> None:
        """Hold *pages*, and nothing else."""
        self._pages, self._is_borrowed = pages, True

    @property
    def own_bytes(self) -> int:
        """In pages that are not shared."""
        return sum(len(data) for data in self._pages.values() if isinstance(data, bytearray))


@dataclass(frozen=True, slots=True)
class FlashContents:
    """What a flash holds, and how many operations brought it there; for `FlashModel.hold`."""

    size_bytes: int
    cells: Mapping[int, bytes]
    touched: Mapping[int, bytes]
    operations: int


class FlashModel:
    """One flash memory; `bmsota.boot.Flash` for the code under test. Its contents outlive power cuts.

    Operations (writes and erases) are numbered from 1. `cut_at` plans a power cut; once it has happened every access
    raises `PowerCut` until `power_on`.
    """

    def __init__(
        self,
        size_bytes: int,
        *,
        erase_block_bytes: int = 2048,
        write_unit_bytes: int = 8,
        erase_ns: int = ERASE_NS,
        program_ns: int = PROGRAM_NS,
        seed: int | str = 0,
        cuts_are_unstable: bool = False,
    ) -> None:
        """Make a flash that is erased.

        Args:
            size_bytes: all of it.
            erase_block_bytes: of one erase.
            write_unit_bytes: cells that can be written once after an erase.
            erase_ns: how long an erase takes.
            program_ns: how long writing a unit takes.
            seed: of what cuts leave and unstable cells read.
            cuts_are_unstable: a unit that a power cut has left in between reads differently each time, until it is erased.

        Raises:
            ConfigurationError: the sizes do not divide.
        """
        if size_bytes % erase_block_bytes or erase_block_bytes % write_unit_bytes:
            raise ConfigurationError(
                f"flash: expected whole blocks of whole units, got {size_bytes} / {erase_block_bytes} / {write_unit_bytes}"
            )
        self.size_bytes = size_bytes
        self.erase_block_bytes = erase_block_bytes
        self.write_unit_bytes = write_unit_bytes
        self.erase_ns = erase_ns
        self.program_ns = program_ns
        self.operations = 0
        """Writes and erases begun so far."""
        self.is_powered = True
        self._seed = seed
        self._cells = _Pages(size_bytes, erase_block_bytes, ERASED)
        # 1: written or undefined since its last erase
        self._touched = _Pages(size_bytes // write_unit_bytes, erase_block_bytes // write_unit_bytes, 0)
        self._cuts: dict[int, CutPhase] = {}
        self.cuts_are_unstable = cuts_are_unstable
        # Bits of worn cells by their byte's offset, and those that cuts have left in between.
        self._not_programmed: dict[int, int] = {}
        self._not_erased: dict[int, int] = {}
        self._unstable: dict[int, int] = {}
        self._torn: dict[int, int] = {}
        self._unreadable: set[int] = set()  # offsets of units
        self._readings: Random | None = None  # Made by the first unstable reading: few flashes have one.

    # ---- faults

    def cut_at(self, operation: int, phase: CutPhase | str) -> None:
        """Let the power fail at operation number *operation*, counted from the flash's first. Several may be planned."""
        if operation <= self.operations:
            raise ConfigurationError(f"cut: expected an operation after {self.operations}, got {operation}")
        self._cuts[operation] = CutPhase(phase)

    def clear_cuts(self) -> None:
        self._cuts.clear()

    def power_off(self) -> None:
        """The supply fails between two operations."""
        self.is_powered = False

    def power_on(self) -> None:
        self.is_powered = True

    def flip_bit(self, offset: int, bit: int) -> None:
        """Damage one bit at rest."""
        self._cells[offset] ^= 1 << bit

    def wear(self, fault: CellFault | str, offset: int, bit: int = 0) -> None:
        """Let a cell be worn from now on. Of an unreadable unit *bit* means nothing."""
        fault = CellFault(fault)
        if fault is CellFault.UNREADABLE:
            self._unreadable.add(offset - offset % self.write_unit_bytes)
            return
        worn = {
            CellFault.NOT_PROGRAMMED: self._not_programmed,
            CellFault.NOT_ERASED: self._not_erased,
            CellFault.UNSTABLE: self._unstable,
        }[fault]
        worn[offset] = worn.get(offset, 0) | 1 << bit

    # ---- between two runs

    def dump(self) -> tuple[bytes, bytes]:
        """(cells, one byte for each write unit: 1 if it was touched since its last erase), for `load`."""
        return self._cells.read(0, self.size_bytes), self._touched.read(0, self._touched.size_bytes)

    def load(self, cells: bytes, touched: bytes) -> None:
        """Hold what another flash of this size held.

        Raises:
            ConfigurationError: the sizes are others.
        """
        if (len(cells), len(touched)) != (self.size_bytes, self._touched.size_bytes):
            raise ConfigurationError(
                f"flash: expected {self.size_bytes} bytes in {self._touched.size_bytes} units, got {len(cells)} in {len(touched)}"
            )
        self._cells.write(0, cells)
        self._touched.write(0, touched)

    def contents(self) -> FlashContents:
        """What it holds, for other flashes to share."""
        return FlashContents(self.size_bytes, self._cells.shared(), self._touched.shared(), self.operations)

    def hold(self, contents: FlashContents) -> None:
        """Hold *contents*, as if the operations that made them had been done here; they are shared until they are written to.

        Raises:
            ConfigurationError: they are of another size.
        """
        if contents.size_bytes != self.size_bytes:
            raise ConfigurationError(
                f"flash: expected contents of {self.size_bytes} bytes, got {contents.size_bytes} bytes"
            )
        self._cells.share(contents.cells)
        self._touched.share(contents.touched)
        self.operations = contents.operations

    @property
    def is_new(self) -> bool:
        """Nothing was done with it, nothing is worn, and nothing is planned."""
        return not (
            self.operations
            or self._cuts
            or self._not_programmed
            or self._not_erased
            or self._unstable
            or self._unreadable
        )

    @property
    def own_bytes(self) -> int:
        """Memory of the pages that it does not share."""
        return self._cells.own_bytes + self._touched.own_bytes

    # ---- the Flash protocol

    def read(self, offset: int, size: int) -> bytes:
        """Raise `FlashError` if one of the units cannot be read."""
        self._check_access("read", offset, size, 1)
        for start in self._unreadable:
            if start < offset + size and offset < start + self.write_unit_bytes:
                raise FlashError(f"flash: ECC error (offset {start})")
        if not self._unstable and not self._torn:
            return self._cells.read(offset, size)
        data = bytearray(self._cells.read(offset, size))
        if self._readings is None:
            self._readings = Random(f"{self._seed}/readings")  # noqa: S311  As below.
        for unstable in (self._unstable, self._torn):
            for place, bits in unstable.items():
                if offset <= place < offset + size:
                    data[place - offset] = data[place - offset] & ~bits | self._readings.randrange(256) & bits
        return bytes(data)

    def write(self, offset: int, data: bytes) -> None:
        """Program whole units in ascending order."""
        self._check_access("write", offset, len(data), self.write_unit_bytes)
        unit = self.write_unit_bytes
        first, count = offset // unit, len(data) // unit
        used = self._touched.read(first, count).find(1)
        if used != -1:
            raise FlashMisuseError(
                f"write: expected erased cells, got a unit already written (offset {(first + used) * unit})"
            )
        phase = self._begin()
        if phase is CutPhase.BEFORE:
            self._fail(phase)
        if phase is CutPhase.INSIDE:
            self._write_partially(offset, data)
            self._fail(phase)
        self._cells.write(offset, data)
        for place, bits in self._worn(self._not_programmed, offset, len(data)):
            self._cells[place] |= bits
        self._touched.write(first, b"\x01" * count)
        if phase is CutPhase.AFTER:
            self._fail(phase)

    def erase(self, offset: int) -> None:
        block = self.erase_block_bytes
        self._check_access("erase", offset, block, block)
        phase = self._begin()
        if phase is CutPhase.BEFORE:
            self._fail(phase)
        if phase is CutPhase.INSIDE:
            self._erase_partially(offset)
            self._fail(phase)
        kept = [
            (place, self._cells[place] | ~bits & 0xFF) for place, bits in self._worn(self._not_erased, offset, block)
        ]
        self._cells.clear(offset, block)
        for place, value in kept:
            self._cells[place] = value
        self._settle(offset, block)
        first, count = offset // self.write_unit_bytes, block // self.write_unit_bytes
        self._touched.clear(first, count)
        if phase is CutPhase.AFTER:
            self._fail(phase)

    # ---- what a cut leaves

    def _write_partially(self, offset: int, data: bytes) -> None:
        """Some whole units, then one undefined unit, then untouched ones."""
        rng = self._rng()
        unit = self.write_unit_bytes
        whole = rng.randrange(len(data) // unit)
        done = whole * unit
        self._cells.write(offset, data[:done])
        torn = data[done : done + unit]
        # One time in eight no bit has moved yet: the unit reads as erased and is spent all the same.
        stuck = rng.randbytes(unit) if rng.randrange(8) else b"\xff" * unit
        between = bytes(~a & b & c for a, b, c in zip(torn, stuck, rng.randbytes(unit), strict=True))
        if self.cuts_are_unstable and rng.randrange(2):
            # All but done: one bit is still in between.
            stuck = bytes(unit)
            place = rng.randrange(unit)
            between = bytes(~torn[place] & 1 << rng.randrange(8) if index == place else 0 for index in range(unit))
        self._cells.write(offset + done, bytes(a | b for a, b in zip(torn, stuck, strict=True)))
        self._leave_torn(offset + done, between)
        first = offset // unit
        self._touched.write(first, b"\x01" * (whole + 1))

    def _erase_partially(self, offset: int) -> None:
        """Each unit keeps its content, is erased, or is somewhere in between; none may be written."""
        rng = self._rng()
        unit = self.write_unit_bytes
        for start in range(offset, offset + self.erase_block_bytes, unit):
            choice = rng.randrange(3)
            old = self._cells.read(start, unit)
            risen = (b"\x00" * unit, b"\xff" * unit, rng.randbytes(unit))[choice]
            self._cells.write(start, bytes(a | b for a, b in zip(old, risen, strict=True)))
            self._settle(start, unit)
            if choice == 2:
                self._leave_torn(start, bytes(~a & 0xFF for a in old))
            self._touched[start // unit] = 1

    @staticmethod
    def _worn(cells: dict[int, int], offset: int, size: int) -> list[tuple[int, int]]:
        if len(cells) > size:
            return [(place, cells[place]) for place in range(offset, offset + size) if place in cells]
        return [(place, bits) for place, bits in cells.items() if offset <= place < offset + size]

    def _settle(self, offset: int, size: int) -> None:
        for place, _ in self._worn(self._torn, offset, size):
            del self._torn[place]

    def _leave_torn(self, offset: int, bits: bytes) -> None:
        """These bits were on their way when the power failed."""
        if self.cuts_are_unstable:
            self._torn |= {offset + index: mask for index, mask in enumerate(bits) if mask}

    def _rng(self) -> Random:
        return Random(f"{self._seed}/{self.operations}")  # noqa: S311  Reproducible accidents, not secrets.

    def _begin(self) -> CutPhase | None:
        self.operations += 1
        return self._cuts.pop(self.operations, None)

    def _fail(self, phase: CutPhase) -> NoReturn:
        self.is_powered = False
        raise PowerCut(self.operations, phase)

    def _check_access(self, what: str, offset: int, size: int, alignment: int) -> None:
        if not self.is_powered:
            raise PowerCut(self.operations, None)
        if offset < 0 or size <= 0 or offset + size > self.size_bytes or offset % alignment or size % alignment:
            raise FlashMisuseError(
                f"{what}: expected a range in {self.size_bytes} bytes aligned to {alignment}, got {size} bytes (offset {offset})"
            )
