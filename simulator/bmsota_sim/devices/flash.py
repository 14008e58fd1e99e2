"""A flash memory that behaves like one: erase blocks, write-once cells, power cuts inside an operation, and worn cells.

The model is strict where hardware would be treacherous: writing a unit that was touched since its last erase raises,
even if it still reads as erased, because on real flash with ECC the result would be undefined. A cut leaves partial
results drawn from the seed and the operation's number, so that a run replays exactly. Cells wear out when a test says so
(`wear`), not by themselves: real ones last for some 10,000 erases, and no run has so many.

Left out: read disturb, and cells that forget with time.
"""

from __future__ import annotations

from enum import Enum
from random import Random
from typing import NoReturn

from bmsota.errors import ConfigurationError, FlashError

__all__ = ["ERASE_NS", "PROGRAM_NS", "CellFault", "CutPhase", "FlashMisuseError", "FlashModel", "PowerCut"]

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
        self._cells = bytearray(b"\xff" * size_bytes)
        self._touched = bytearray(size_bytes // write_unit_bytes)  # 1: written or undefined since its last erase
        self._cuts: dict[int, CutPhase] = {}
        self.cuts_are_unstable = cuts_are_unstable
        # Bits of worn cells by their byte's offset, and those that cuts have left in between.
        self._not_programmed: dict[int, int] = {}
        self._not_erased: dict[int, int] = {}
        self._unstable: dict[int, int] = {}
        self._torn: dict[int, int] = {}
        self._unreadable: set[int] = set()  # offsets of units
        self._readings = Random(f"{seed}/readings")  # noqa: S311  As above.

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
        return bytes(self._cells), bytes(self._touched)

    def load(self, cells: bytes, touched: bytes) -> None:
        """Hold what another flash of this size held.

        Raises:
            ConfigurationError: the sizes are others.
        """
        if (len(cells), len(touched)) != (len(self._cells), len(self._touched)):
            raise ConfigurationError(
                f"flash: expected {len(self._cells)} bytes in {len(self._touched)} units, got {len(cells)} in {len(touched)}"
            )
        self._cells[:] = cells
        self._touched[:] = touched

    # ---- the Flash protocol

    def read(self, offset: int, size: int) -> bytes:
        """Raise `FlashError` if one of the units cannot be read."""
        self._check_access("read", offset, size, 1)
        for start in self._unreadable:
            if start < offset + size and offset < start + self.write_unit_bytes:
                raise FlashError(f"flash: ECC error (offset {start})")
        if not self._unstable and not self._torn:
            return bytes(self._cells[offset : offset + size])
        data = self._cells[offset : offset + size]
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
        used = self._touched.find(1, first, first + count)
        if used != -1:
            raise FlashMisuseError(f"write: expected erased cells, got a unit already written (offset {used * unit})")
        phase = self._begin()
        if phase is CutPhase.BEFORE:
            self._fail(phase)
        if phase is CutPhase.INSIDE:
            self._write_partially(offset, data)
            self._fail(phase)
        self._cells[offset : offset + len(data)] = data
        for place, bits in self._worn(self._not_programmed, offset, len(data)):
            self._cells[place] |= bits
        self._touched[first : first + count] = b"\x01" * count
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
        self._cells[offset : offset + block] = b"\xff" * block
        for place, value in kept:
            self._cells[place] = value
        self._settle(offset, block)
        first, count = offset // self.write_unit_bytes, block // self.write_unit_bytes
        self._touched[first : first + count] = bytes(count)
        if phase is CutPhase.AFTER:
            self._fail(phase)

    # ---- what a cut leaves

    def _write_partially(self, offset: int, data: bytes) -> None:
        """Some whole units, then one undefined unit, then untouched ones."""
        rng = self._rng()
        unit = self.write_unit_bytes
        whole = rng.randrange(len(data) // unit)
        done = whole * unit
        self._cells[offset : offset + done] = data[:done]
        torn = data[done : done + unit]
        # One time in eight no bit has moved yet: the unit reads as erased and is spent all the same.
        stuck = rng.randbytes(unit) if rng.randrange(8) else b"\xff" * unit
        between = bytes(~a & b & c for a, b, c in zip(torn, stuck, rng.randbytes(unit), strict=True))
        if self.cuts_are_unstable and rng.randrange(2):
            # All but done: one bit is still in between.
            stuck = bytes(unit)
            place = rng.randrange(unit)
            between = bytes(~torn[place] & 1 << rng.randrange(8) if index == place else 0 for index in range(unit))
        self._cells[offset + done : offset + done + unit] = bytes(a | b for a, b in zip(torn, stuck, strict=True))
        self._leave_torn(offset + done, between)
        first = offset // unit
        self._touched[first : first + whole + 1] = b"\x01" * (whole + 1)

    def _erase_partially(self, offset: int) -> None:
        """Each unit keeps its content, is erased, or is somewhere in between; none may be written."""
        rng = self._rng()
        unit = self.write_unit_bytes
        for start in range(offset, offset + self.erase_block_bytes, unit):
            choice = rng.randrange(3)
            old = self._cells[start : start + unit]
            risen = (b"\x00" * unit, b"\xff" * unit, rng.randbytes(unit))[choice]
            self._cells[start : start + unit] = bytes(a | b for a, b in zip(old, risen, strict=True))
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
