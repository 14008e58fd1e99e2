"""A second flash, written from the words of a datasheet and from nothing of the first (`bmsota_sim.devices.flash`).

What an STM32L4's reference manual says of its flash, in short: a page is erased as a whole and reads as ones; a double word can be
programmed once between two erases of its page, and programming turns ones into zeros; a power loss in mid programming leaves the
double word undefined, in mid erase the page. `Cells` is that and no more: it keeps what was programmed since the last erase, by
page.

`TwinFlash` is the flash of a device under test: each operation goes to the first model and to `Cells`, and behind each the
bytes of the first are compared with what the words above allow. Where a power cut leaves cells undefined, the first model
may have drawn anything between the two values; from then on its draw is what the cells hold.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_sim.devices.flash import CutPhase, PowerCut

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota_sim.devices.flash import FlashModel

__all__ = ["Cells", "TwinFlash"]


class Cells:
    """What was programmed since the last erase: page -> place in the page -> the unit's bytes."""

    def __init__(self, page_bytes: int, unit_bytes: int) -> None:
        self.page_bytes = page_bytes
        self.unit_bytes = unit_bytes
        self.pages: dict[int, dict[int, bytes]] = {}

    def page(self, number: int) -> bytes:
        """The whole page as it reads."""
        programmed = self.pages.get(number, {})
        erased = b"\xff" * self.unit_bytes
        return b"".join(programmed.get(place, erased) for place in range(0, self.page_bytes, self.unit_bytes))

    def erase(self, offset: int) -> None:
        self.pages.pop(offset // self.page_bytes, None)

    def program(self, offset: int, unit: bytes) -> None:
        number, place = divmod(offset, self.page_bytes)
        page = self.pages.setdefault(number, {})
        assert place not in page, f"a double word was programmed twice (offset {offset})"
        page[place] = unit

    def settle(self, number: int, data: bytes) -> None:
        """What this page holds behind a power loss."""
        self.pages[number] = {
            place: data[place : place + self.unit_bytes] for place in range(0, self.page_bytes, self.unit_bytes)
        }


class TwinFlash:
    """`bmsota.boot.Flash` for a device under test. What is not of the protocol is the first model's (`cut_at`, `power_on`)."""

    def __init__(self, model: FlashModel) -> None:
        assert not model.cuts_are_unstable, "what reads differently each time has no bytes to compare"
        self._model = model
        self._cells = Cells(model.erase_block_bytes, model.write_unit_bytes)
        self.compared_bytes = 0

    def __getattr__(self, name: str) -> object:
        return getattr(self._model, name)

    def read(self, offset: int, size: int) -> bytes:
        data = self._model.read(offset, size)
        first, end = offset // self._cells.page_bytes, -(-(offset + size) // self._cells.page_bytes)
        pages = b"".join(self._cells.page(number) for number in range(first, end))
        start = offset - first * self._cells.page_bytes
        assert data == pages[start : start + size], f"other bytes are read than were written (offset {offset})"
        self.compared_bytes += size
        return data

    def write(self, offset: int, data: bytes) -> None:
        unit = self._cells.unit_bytes
        units = [(offset + at, data[at : at + unit]) for at in range(0, len(data), unit)]

        def programmed() -> None:
            for place, value in units:
                self._cells.program(place, value)

        self._do(lambda: self._model.write(offset, data), programmed, lambda: self._torn_write(units))
        self._compare(offset, len(data))

    def erase(self, offset: int) -> None:
        self._do(lambda: self._model.erase(offset), lambda: self._cells.erase(offset), lambda: self._torn_erase(offset))
        self._compare(offset, self._cells.page_bytes)

    def compare_all(self) -> None:
        """Every byte of the memory."""
        self._compare(0, self._model.size_bytes)

    def _do(self, act: Callable[[], None], done: Callable[[], None], torn: Callable[[], None]) -> None:
        try:
            act()
        except PowerCut as cut:
            if cut.phase is CutPhase.INSIDE:
                torn()
            elif cut.phase is CutPhase.AFTER:
                done()
            self.compare_all()
            raise
        done()

    def _compare(self, offset: int, size: int) -> None:
        cells, _ = self._model.dump()
        page = self._cells.page_bytes
        for number in range(offset // page, -(-(offset + size) // page)):
            assert cells[number * page : (number + 1) * page] == self._cells.page(number), f"page {number} differs"
        self.compared_bytes += size

    def _torn_write(self, units: list[tuple[int, bytes]]) -> None:
        """Whole units in ascending order, then one whose ones may still stand, then untouched ones."""
        cells, _ = self._model.dump()
        unit, erased = self._cells.unit_bytes, b"\xff" * self._cells.unit_bytes
        found = [cells[place : place + unit] for place, _ in units]
        whole = 0
        while whole < len(units) - 1 and found[whole] == units[whole][1]:
            whole += 1
        assert all(got | want == got for got, want in zip(found[whole], units[whole][1], strict=True)), (
            "a zero too many"
        )
        assert all(value == erased for value in found[whole + 1 :]), "written behind the place where the power failed"
        for place, value in zip((place for place, _ in units[: whole + 1]), found, strict=False):
            self._cells.program(place, value)

    def _torn_erase(self, offset: int) -> None:
        """Each bit is what it was, or a one."""
        cells, _ = self._model.dump()
        number = offset // self._cells.page_bytes
        found, before = cells[offset : offset + self._cells.page_bytes], self._cells.page(number)
        assert all(got | old == got for got, old in zip(found, before, strict=True)), "an erase made a zero"
        self._cells.settle(number, found)
