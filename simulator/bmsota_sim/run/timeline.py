"""What a run has to do and when: the timeline for one seed, unit by unit; and who gets which outcome of an upgrade."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from bmsota.errors import ConfigurationError
from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.consistency import contradiction, overlap
from bmsota_sim.run.model import OUTCOMES
from bmsota_sim.run.places import dotted
from bmsota_sim.run.selection import UnitId, Units, drawn_places, select

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.places import Path
    from bmsota_sim.run.verbs import Verb

__all__ = ["Meeting", "PlanError", "Planned", "meetings", "outcomes", "plan"]


class PlanError(ConfigurationError):
    """The timeline does not go with this seed; `problems` are (path, text) pairs."""

    def __init__(self, name: str, seed: int, problems: Iterable[tuple[Path, str]]) -> None:
        self.problems = tuple(problems)
        super().__init__("\n".join(f"{name}, seed {seed}: {dotted(path)}: {text}" for path, text in self.problems))


class Meeting(NamedTuple):
    """An entry, and whom it meets."""

    position: int
    """Its place in the timeline."""
    entry: Verb
    units: Units | None
    """None: the platform."""
    at_ns: int
    end_ns: int | None
    """None for what has no length."""


class Planned(NamedTuple):
    """One thing that happens to one unit."""

    at_ns: int
    order: int
    """Among what happens at the same time: by entry, then by unit."""
    entry: Verb
    unit: UnitId | None
    """None: the whole platform."""
    end_ns: int | None


def meetings(scenario: FleetScenario, seed: int) -> tuple[Meeting, ...]:
    """The entries with those they meet, in the order of time; of one time, in the order of the file.

    Raises:
        PlanError: an entry's share draws no unit, or entries that exclude each other meet the same unit.
    """
    found = []
    problems: list[tuple[Path, str]] = []
    for index, entry in enumerate(scenario.timeline):
        units = None
        if entry.do != "platform_outage":
            units = select(scenario, seed, entry.who, entry.purpose)
            if not units:
                who = ", ".join(map(str, entry.who))
                problems.append(
                    (
                        ("timeline", index, "who"),
                        f"{who}: no unit is drawn; name one, such as {next(iter(scenario.groups))}/1",
                    )
                )
        end_ns = None if entry.lasts is None else round(scenario.end_of(entry) * NS_PER_S)
        found.append(Meeting(index, entry, units, entry.at_ns, end_ns))
    problems += _contradictions(scenario, found)
    if problems:
        raise PlanError(scenario.name, seed, problems)
    return tuple(sorted(found, key=lambda meeting: (meeting.at_ns, meeting.position)))


def _contradictions(scenario: FleetScenario, found: list[Meeting]) -> Iterable[tuple[Path, str]]:
    by_key: dict[tuple[object, ...], list[Meeting]] = {}
    for meeting in found:
        for earlier in by_key.setdefault(meeting.entry.key, []):
            if (
                earlier.units is not None
                and meeting.units is not None
                and overlap(scenario, earlier.entry, meeting.entry)
            ):
                shared = earlier.units & meeting.units
                if shared:
                    text = contradiction(earlier.position, earlier.entry, meeting.entry, str(next(iter(shared))))
                    yield ("timeline", meeting.position), text
        by_key[meeting.entry.key].append(meeting)


def plan(scenario: FleetScenario, seed: int) -> tuple[Planned, ...]:
    """Everything that has to happen, sorted by time and order.

    Raises:
        PlanError: as `meetings`.
    """
    planned: list[Planned] = []
    for _, entry, units, at_ns, end_ns in meetings(scenario, seed):
        first = len(planned)
        if units is None:
            planned.append(Planned(at_ns, first, entry, None, end_ns))
        else:
            planned += [Planned(at_ns, first + place, entry, unit, end_ns) for place, unit in enumerate(units)]
    return tuple(planned)


def outcomes(scenario: FleetScenario, seed: int) -> dict[str, Units]:
    """The units that the OTA task is for, by the outcome that is drawn for each; what has no share is left to `succeeds`."""
    if scenario.ota is None:
        return {}
    # The order of the language, not of the file; `succeeds` is the rest and comes last.
    shares = [(name, scenario.ota.outcomes.get(name, 0.0)) for name in OUTCOMES if name != "succeeds"]
    bounds = np.cumsum([share for _, share in shares])
    by_outcome: dict[str, dict[str, np.ndarray[tuple[int], np.dtype[np.int64]]]] = {name: {} for name in OUTCOMES}
    for group, numbers in select(scenario, seed, scenario.ota.who, "ota").numbers.items():
        # Rounded sums: what misses 100 % by less is all.
        places = drawn_places(seed, group, numbers, "ota outcome")
        chosen = np.searchsorted(bounds + 1e-12, places, side="right")
        for index, name in enumerate([*(name for name, _ in shares), "succeeds"]):
            by_outcome[name][group] = numbers[chosen == index]
    return {name: Units(numbers) for name, numbers in by_outcome.items() if any(map(len, numbers.values()))}
