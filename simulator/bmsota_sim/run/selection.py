"""Which units are meant by a selection (`who`), with one seed.

A unit is a group and a number from 1. A drawn share depends on seed, group, number and purpose alone: a further unit, group or entry
changes nothing drawn for others.

Strategy: every unit of a group gets a place from 0 to 1, and those below the share are in. The places are a van der Corput sequence
with Owen's scrambling (Owen, "Randomly permuted (t,m,s)-nets", 1995): each is uniform, and the first n of them, for any n, are spread evenly. So 2 % of 1,000 are 20 give or
take one or two, where independent draws would give 12 to 28.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bmsota.errors import ConfigurationError
from bmsota_sim.run.who import problems_of
from bmsota_sim.streams import stream_bytes

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.who import WhoPart

__all__ = ["UnitId", "Units", "drawn_places", "group_units", "resolve", "select"]

# 2^17 is above the largest fleet; finer bits of a place are drawn for the unit alone.
_LEVELS = 17


class UnitId(NamedTuple):
    """Which unit: its group, and its number in the group, from 1."""

    group: str
    number: int

    def __str__(self) -> str:
        return f"{self.group}/{self.number}"


class Units(Collection[UnitId]):
    """A set of units, as sorted numbers of each group; iterates in the order of the groups in the scenario."""

    __slots__ = ("numbers",)

    def __init__(self, numbers: Mapping[str, NDArray[np.int64]]) -> None:
        self.numbers = {group: array for group, array in numbers.items() if len(array)}

    def __len__(self) -> int:
        return sum(map(len, self.numbers.values()))

    def __iter__(self) -> Iterator[UnitId]:
        for group, array in self.numbers.items():
            for number in array.tolist():
                yield UnitId(group, number)

    def __contains__(self, unit: object) -> bool:
        if not isinstance(unit, UnitId) or unit.group not in self.numbers:
            return False
        array = self.numbers[unit.group]
        index = int(np.searchsorted(array, unit.number))
        return index < len(array) and int(array[index]) == unit.number

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Units):
            return NotImplemented
        return self.numbers.keys() == other.numbers.keys() and all(
            np.array_equal(array, other.numbers[group]) for group, array in self.numbers.items()
        )

    __hash__ = None  # type: ignore[assignment]

    def __and__(self, other: Units) -> Units:
        return Units(
            {
                group: np.intersect1d(array, other.numbers[group], assume_unique=True)
                for group, array in self.numbers.items()
                if group in other.numbers
            }
        )

    def __str__(self) -> str:
        """`watched/1-3, watched/7`."""
        texts = []
        for group, array in self.numbers.items():
            for run in np.split(array, np.flatnonzero(np.diff(array) > 1) + 1):
                first, last = int(run[0]), int(run[-1])
                texts.append(f"{group}/{first}" + (f"-{last}" if last > first else ""))
        return ", ".join(texts)


def _mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The finalizer of SplitMix64: a bijection whose output bits all depend on all input bits."""
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _shuffled(index: NDArray[np.uint64], key: np.uint64) -> NDArray[np.uint64]:
    """Another order within each eight, of the eights within each 64, and so on.

    Without it a share below 1/64 would be found at one remainder by 64: all with the same worker, say.
    """
    result = np.zeros(len(index), dtype=np.uint64)
    for shift in range(0, _LEVELS, 3):
        block = index >> np.uint64(shift + 3)
        coin = _mixed(key + _mixed(block + np.uint64((shift + 100) << 32)))
        digit = (index >> np.uint64(shift)) & np.uint64(7)
        # An odd factor: a permutation of 0 to 7.
        digit = (
            (digit ^ (coin & np.uint64(7))) * ((coin >> np.uint64(3)) | np.uint64(1)) + (coin >> np.uint64(32))
        ) & np.uint64(7)
        result |= digit << np.uint64(shift)
    return result | (index >> np.uint64(_LEVELS + 1) << np.uint64(_LEVELS + 1))


def drawn_places(seed: int, group: str, numbers: NDArray[np.int64], purpose: str) -> NDArray[np.float64]:
    """A place from 0 to 1 for each of *numbers*: uniform, evenly spread over any first n, and independent of the other units."""
    key = np.uint64(int.from_bytes(stream_bytes(seed, group, purpose)[:8]))
    index = _shuffled(numbers.astype(np.uint64) - np.uint64(1), key)
    places = np.zeros(len(index), dtype=np.uint64)
    for level in range(_LEVELS):
        # Owen: a bit is turned or not by a coin that all numbers share whose lower bits are the same.
        below = index & np.uint64((1 << level) - 1)
        coin = _mixed(key ^ _mixed(below + np.uint64((level + 1) << 32)))
        bit = (index >> np.uint64(level)) ^ coin
        places |= (bit & np.uint64(1)) << np.uint64(52 - level)
    fine = _mixed(key ^ _mixed(index + np.uint64((_LEVELS + 1) << 32)))
    return np.asarray((places | (fine >> np.uint64(64 - 53 + _LEVELS))) * 2.0**-53, dtype=np.float64)


def group_units(scenario: FleetScenario) -> Units:
    """Every unit."""
    return Units({name: np.arange(1, group.count + 1) for name, group in scenario.groups.items()})


def select(scenario: FleetScenario, seed: int, who: tuple[WhoPart, ...], purpose: str) -> Units:
    """The units that are meant; a share is drawn for *purpose*.

    Raises:
        ConfigurationError: a group, number or entry is not there.
    """
    counts = {name: group.count for name, group in scenario.groups.items()}
    entries = {entry.name: entry for entry in scenario.timeline if entry.name is not None}
    found = problems_of(who, counts, entries)
    if found:
        raise ConfigurationError(f"{scenario.name}: {found[0]}")
    chosen: dict[str, list[Any]] = {name: [] for name in counts}
    for part in who:
        if part.entry is not None:
            entry = entries[part.entry]
            base = select(scenario, seed, entry.who, entry.purpose).numbers
        else:
            names = counts if part.group is None else (part.group,)
            base = {name: np.arange(part.first or 1, (part.last or counts[name]) + 1) for name in names}
        for name, numbers in base.items():
            if part.share is None or part.share == 1:
                chosen[name].append(numbers)
            else:
                chosen[name].append(numbers[drawn_places(seed, name, numbers, purpose) < part.share])
    return Units(
        {
            name: arrays[0] if len(arrays) == 1 else np.unique(np.concatenate(arrays))
            for name, arrays in chosen.items()
            if arrays
        }
    )


def resolve(scenario: FleetScenario, seed: int, who: tuple[WhoPart, ...], purpose: str = "") -> tuple[UnitId, ...]:
    """As `select`, one by one."""
    return tuple(select(scenario, seed, who, purpose))
