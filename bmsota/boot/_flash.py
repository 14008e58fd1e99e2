"""What the boot store needs of a flash, and how it divides it.

A flash here is memory of erase blocks whose cells can be written once after an erase, in whole write units (an STM32
double word with its ECC, for example). Reading is free; erasing and writing take time and can be cut by a power loss.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from bmsota.errors import ConfigurationError, FlashError

ERASED = 0xFF
"""What an erased byte reads as. Flashes that erase to zero exist (STM32L0); none of our devices has one."""


class Flash(Protocol):
    """The seam to a flash: a driver on hardware, `bmsota_sim.devices.flash.FlashModel` elsewhere.

    `write` programs its units in ascending order: a cut leaves whole units, then at most one undefined unit, then
    untouched units. The journal rests on this order, as every flash controller we know keeps it.

    What the flash cannot do is `FlashError`: a read that its ECC refuses, a write or an erase that its controller reports as
    failed. A driver need not check what it has written; the journal and the staging do, by reading it. Any other exception
    passes through, such as that of a simulated power cut.
    """

    @property
    def size_bytes(self) -> int: ...
    @property
    def erase_block_bytes(self) -> int: ...
    @property
    def write_unit_bytes(self) -> int: ...
    @property
    def erase_ns(self) -> int:
        """How long the erase of one block takes; 0 where the driver waits by itself."""
        ...

    @property
    def program_ns(self) -> int:
        """How long programming one write unit takes; 0 where the driver waits by itself."""
        ...

    def read(self, offset: int, size: int) -> bytes: ...
    def write(self, offset: int, data: bytes) -> None: ...
    def erase(self, offset: int) -> None:
        """Erase the one block that starts at *offset*."""
        ...


def read_leniently(flash: Flash, offset: int, size: int) -> bytes:
    """Read whole write units; those that the driver cannot read are zeros, which no CRC and no digest takes for the value."""
    try:
        return flash.read(offset, size)
    except FlashError:
        pass
    data = bytearray(size)
    unit = flash.write_unit_bytes
    for start in range(0, size, unit):
        try:
            data[start : start + unit] = flash.read(offset + start, min(unit, size - start))
        except FlashError:
            continue
    return bytes(data)


@dataclass(frozen=True, slots=True, kw_only=True)
class SlotLayout:
    """Where the two slots and the two journal areas lie. Everything is a multiple of the flash's erase block."""

    slot_offsets: tuple[int, int]
    slot_size_bytes: int
    journal_offsets: tuple[int, int]
    journal_size_bytes: int
    """Size of one of the two areas."""

    @classmethod
    def divide(cls, flash: Flash, *, journal_size_bytes: int | None = None) -> SlotLayout:
        """Give the end of *flash* to the journal and halve the rest between the slots.

        Raises:
            ConfigurationError: the flash is too small for that.
        """
        block = flash.erase_block_bytes
        area = max(block, journal_size_bytes or 0)
        area += -area % block
        slot = (flash.size_bytes - 2 * area) // 2 // block * block
        if slot <= 0:
            raise ConfigurationError(
                f"flash: expected more than {2 * area} bytes for two journal areas and two slots, got {flash.size_bytes}"
            )
        return cls(
            slot_offsets=(0, slot),
            slot_size_bytes=slot,
            journal_offsets=(2 * slot, 2 * slot + area),
            journal_size_bytes=area,
        )

    def check(self, flash: Flash) -> None:
        """Refuse a layout that does not fit *flash*.

        Raises:
            ConfigurationError: a region is unaligned, outside the flash, or overlaps another.
        """
        block = flash.erase_block_bytes
        regions = [
            *(("slot", offset, self.slot_size_bytes) for offset in self.slot_offsets),
            *(("journal area", offset, self.journal_size_bytes) for offset in self.journal_offsets),
        ]
        end = 0
        for what, offset, size in sorted(regions, key=lambda region: region[1]):
            if offset % block or size % block or size <= 0:
                raise ConfigurationError(
                    f"{what}: expected whole erase blocks of {block} bytes, got {size} bytes (offset {offset})"
                )
            if offset < end:
                raise ConfigurationError(f"{what}: expected to start at {end} or later, got {offset}")
            end = offset + size
        if end > flash.size_bytes:
            raise ConfigurationError(f"layout: expected to end by {flash.size_bytes}, got {end}")
