"""Cut subsystems of more than 200 cells into reports, and put them together again (2016 table B.6).

Body 0x08 has room for 200 cells of a subsystem. A terminal with more sends parts: each says how many cells the subsystem has and
which is its first. The parts belong together by subsystem and time, may come in any order, twice, and mixed with backfill
of other times. 2025 splits nothing.

Bounded: a limited number of subsystems is unfinished at once. When one more begins, the one with the oldest time is given up, and
comes out with what it has; nothing is dropped silently and no cell is invented. One assembler serves one vehicle.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Final

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960._bodies import CellVoltages, SubsystemVoltages
from bmsota.gbt32960._enums import Sentinel
from bmsota.gbt32960._messages import Report

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota.gbt32960._bodies import Body


CELLS_PER_FRAME_MAX: Final = 200
"""Of one subsystem, in 2016 (table B.6)."""

_PENDING_MAX: Final = 16
"""Four subsystems of four times: backfill goes out oldest first, so more are never mixed by an honest terminal."""


@dataclass(frozen=True, slots=True)
class AssembledSubsystem:
    """One subsystem, whole or as whole as it got."""

    time: datetime
    """That of the reports it came in."""
    subsystem: SubsystemVoltages
    """All cells, from the first on. A cell that did not come is `Sentinel.INVALID`."""
    missing: tuple[range, ...] = ()
    """Numbers of the cells that did not come, counted like `subsystem.first_cell`."""

    @property
    def is_complete(self) -> bool:
        """Whether every cell came."""
        return not self.missing


def split_report(report: Report) -> tuple[Report, ...]:
    """Return *report* as the reports that a 2016 terminal sends: no subsystem with more than 200 cells in one of them.

    The first has everything, with the first 200 cells of each subsystem; those behind it, of the same time, have the next cells of
    the subsystems that go on. A report that fits comes back as it is, alone. What `SubsystemAssembler` makes of them is what came in.
    """
    first: list[Body] = []
    following: dict[int, list[SubsystemVoltages]] = {}
    for body in report.bodies:
        if isinstance(body, CellVoltages) and not isinstance(body.subsystems, Sentinel):
            parts = [_parts(subsystem) for subsystem in body.subsystems]
            for own in parts:
                for place, part in enumerate(own[1:], start=1):
                    following.setdefault(place, []).append(part)
            first.append(CellVoltages(tuple(own[0] for own in parts)))
        else:
            first.append(body)
    if not following:
        return (report,)
    behind = (Report(report.time, (CellVoltages(tuple(parts)),)) for _, parts in sorted(following.items()))
    return (Report(report.time, tuple(first)), *behind)


def _parts(subsystem: SubsystemVoltages) -> list[SubsystemVoltages]:
    cells = subsystem.cell_voltages_v
    return [
        replace(
            subsystem,
            first_cell=subsystem.first_cell + at,
            cell_voltages_v=cells[at : at + CELLS_PER_FRAME_MAX],
        )
        for at in range(0, max(len(cells), 1), CELLS_PER_FRAME_MAX)
    ]


class _Pending:
    """The parts of one subsystem at one time."""

    __slots__ = ("count", "parts")

    def __init__(self, count: int) -> None:
        self.count = count
        self.parts: dict[int, SubsystemVoltages] = {}

    @property
    def first(self) -> int:
        """The text counts cells from 1; some terminals from 0, which shows only in their first part."""
        return 0 if 0 in self.parts else 1

    def missing(self) -> tuple[range, ...]:
        following = self.first
        gaps = []
        for start in sorted(self.parts):
            if start > following:
                gaps.append(range(following, start))
            following = max(following, start + len(self.parts[start].cell_voltages_v))
        end = self.first + self.count
        if following < end:
            gaps.append(range(following, end))
        return tuple(gaps)

    def whole(self) -> SubsystemVoltages:
        first = self.first
        cells: list[float | Sentinel] = [Sentinel.INVALID] * self.count
        for start in sorted(self.parts):
            values = self.parts[start].cell_voltages_v
            cells[start - first : start - first + len(values)] = values
        newest = next(reversed(self.parts.values()))
        return SubsystemVoltages(newest.number, newest.voltage_v, newest.current_a, self.count, first, tuple(cells))


class SubsystemAssembler:
    """Feed with every `CellVoltages` body of one vehicle; it gives subsystems back when they are whole."""

    __slots__ = ("_pending", "pending_max")

    def __init__(self, *, pending_max: int = _PENDING_MAX) -> None:
        """Begin with nothing unfinished.

        Raises:
            LocalProtocolError: *pending_max* is less than 1.
        """
        if pending_max < 1:
            msg = f"assembler.pending_max: expected 1 or more, got {pending_max}"
            raise LocalProtocolError(msg)
        self.pending_max = pending_max
        self._pending: dict[tuple[datetime, int], _Pending] = {}

    @property
    def pending_count(self) -> int:
        """How many subsystems are unfinished."""
        return len(self._pending)

    def add(self, time: datetime, body: CellVoltages) -> tuple[AssembledSubsystem, ...]:
        """Take the body of a report of *time*. Return what is whole now, and what had to be given up for it.

        A part that contradicts its own count, or has none, comes out at once as it is: nothing can be put together from it.
        """
        if isinstance(body.subsystems, Sentinel):
            return ()
        found: list[AssembledSubsystem] = []
        for part in body.subsystems:
            found += self._add(time, part)
        return tuple(found)

    def flush(self) -> tuple[AssembledSubsystem, ...]:
        """Give up everything that is unfinished, oldest first: the link is gone, or the caller has waited long enough."""
        return tuple(self._give_up(key) for key in sorted(self._pending))

    def _add(self, time: datetime, part: SubsystemVoltages) -> list[AssembledSubsystem]:
        count, cells = part.cell_count, len(part.cell_voltages_v)
        key = (time, part.number)
        if isinstance(count, Sentinel) or count == cells:
            # Whole by itself; a terminal that had begun to send it in parts has thought better of it.
            self._pending.pop(key, None)
            return [AssembledSubsystem(time, part)]
        if part.first_cell + cells > count + (part.first_cell != 0) or not cells:
            return [AssembledSubsystem(time, part, _outside(part, count))]
        found = []
        pending = self._pending.get(key)
        if pending is not None and pending.count != count:
            found.append(self._give_up(key))
            pending = None
        if pending is None:
            while len(self._pending) >= self.pending_max:
                found.append(self._give_up(min(self._pending)))
            pending = self._pending[key] = _Pending(count)
        pending.parts.pop(part.first_cell, None)
        pending.parts[part.first_cell] = part
        if not pending.missing():
            found.append(self._give_up(key))
        return found

    def _give_up(self, key: tuple[datetime, int]) -> AssembledSubsystem:
        pending = self._pending.pop(key)
        return AssembledSubsystem(key[0], pending.whole(), pending.missing())


def _outside(part: SubsystemVoltages, count: int) -> tuple[range, ...]:
    """The cells that a contradictory part lacks."""
    first = min(part.first_cell, 1)
    gaps = (
        range(first, min(part.first_cell, first + count)),
        range(part.first_cell + len(part.cell_voltages_v), first + count),
    )
    return tuple(gap for gap in gaps if gap)
