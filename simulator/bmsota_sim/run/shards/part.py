"""What a shard is, and what it tells of its units. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bmsota.errors import ConfigurationError
from bmsota_sim.run.selection import group_units

if TYPE_CHECKING:
    from bmsota_sim.run.driving import Generator
    from bmsota_sim.run.given import RunGiven
    from bmsota_sim.run.judged import Event
    from bmsota_sim.run.ledger import LedgerPart
    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.outputs.series import Sample
    from bmsota_sim.run.runner import Run
    from bmsota_sim.run.selection import UnitId

__all__ = ["EventFacts", "Shard", "ShardEnd", "ShardPart", "part_of", "shard_units"]


@dataclass(frozen=True, slots=True)
class Shard:
    """Every *count*-th unit of a run, from the one at *index* on."""

    given: RunGiven
    index: int
    count: int

    def __post_init__(self) -> None:
        if not 0 <= self.index < self.count:
            raise ConfigurationError(f"shard: expected an index from 0 to {self.count - 1}, got {self.index}")

    def __str__(self) -> str:
        return f"shard {self.index + 1} of {self.count}"


def shard_units(scenario: FleetScenario, index: int, count: int) -> tuple[UnitId, ...]:
    """The units of a shard: dealt out in turn, so that each has its share of every group.

    Raises:
        ConfigurationError: there are fewer units than shards.
    """
    units = tuple(group_units(scenario))
    if len(units) < count:
        raise ConfigurationError(
            f"{scenario.name}: expected at most {len(units):,} shards, one for each unit, got {count:,}"
        )
    return units[index::count]


class EventFacts(NamedTuple):
    """What became of an event of the plan."""

    outcome: str
    reason: str


class ShardPart(NamedTuple):
    """What a shard knows of its units at a moment, in their order."""

    at_ns: int
    """From the start of the run."""
    ledger: LedgerPart
    events: dict[int, EventFacts]
    """By their order in the plan; those that were not reached are left out."""
    not_started: tuple[int, ...]
    """Which of its units, by their place in it."""
    ramp_ns: int | None

    def after(self, earlier: ShardPart) -> ShardPart:
        """This part of a shard that began again in the middle of a run, with what was known of its units before."""
        return self._replace(ledger=self.ledger.after(earlier.ledger), events={**earlier.events, **self.events})


class ShardEnd(NamedTuple):
    """How a shard ended."""

    part: ShardPart
    hashes: dict[str, str]
    samples: tuple[Sample, ...]
    generator: Generator | None
    """None: in virtual time."""
    moments: dict[int, ShardPart]
    """What was known when something had to be judged, or to be counted from; empty where it was told at once."""


def _facts(event: Event) -> EventFacts:
    return EventFacts(event.outcome, event.reason)


def part_of(run: Run) -> ShardPart:
    """What *run*, which has the units of a shard alone, knows now."""
    place = {unit: index for index, unit in enumerate(run.ledger.units)}
    return ShardPart(
        at_ns=run.at_ns,
        ledger=run.ledger.part(),
        events={event.planned.order: _facts(event) for event in run.events if event.outcome != "not reached"},
        not_started=tuple(place[unit] for unit in run.not_started),
        ramp_ns=run.ramp_ns,
    )
