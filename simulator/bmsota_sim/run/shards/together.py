"""A run put together from the parts of its shards, and judged as one process would judge it. No I/O.

Verdicts that are due in the middle of a run are made when every shard has told what it knew at that moment; so it does not matter
that shards get there one after another.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.expectations import moments
from bmsota_sim.run.judged import JudgedRun, RunFigures
from bmsota_sim.run.ledger import Ledger
from bmsota_sim.run.shards.part import EventFacts, ShardPart, shard_units

if TYPE_CHECKING:
    from collections.abc import Collection, Sequence

    from bmsota_sim.recordings.playback import Played
    from bmsota_sim.run.judged import Event, Result
    from bmsota_sim.run.keys import RunKeys
    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.selection import UnitId
    from bmsota_sim.run.shards.part import ShardEnd
    from bmsota_sim.run.verbs import Verb

__all__ = ["ShardedRun"]


class ShardedRun(JudgedRun):
    """All units of a run whose shards others carry out."""

    def __init__(
        self,
        scenario: FleetScenario,
        seed: int,
        count: int,
        *,
        keys: RunKeys | None = None,
        played: Played | None = None,
    ) -> None:
        """*count*: of shards; the rest as for `JudgedRun`.

        Raises:
            ConfigurationError: as `JudgedRun`, or there are fewer units than shards.
        """
        super().__init__(scenario, seed, keys=keys, played=played)
        self.count = count
        self.units = tuple(shard_units(scenario, index, count) for index in range(count))
        """Of each shard."""
        self._parts: list[ShardPart | None] = [None] * count
        self._figures: list[RunFigures | None] = [None] * count
        self._marks = {round(scenario.seconds_of(each.since) * NS_PER_S) for each in scenario.expect if each.since}
        self._judged_at = {at_ns for at_ns in moments(scenario) if at_ns < self.duration_ns}
        self._due = sorted(self._marks | self._judged_at)
        self._moments: dict[int, dict[int, ShardPart]] = {at_ns: {} for at_ns in self._due}
        self._platform_events = {event.planned.order for event in self.events if event.planned.unit is None}

    # -- how far it is ---------------------------------------------------------------------------------------------------

    @property
    def at_ns(self) -> int:
        """That of the shard that is furthest behind."""
        ends = [part.at_ns for part in self._parts if part is not None]
        if len(ends) == self.count:
            return min(ends)
        figures = [each for each in self._figures if each is not None]
        return min(each.at_ns for each in figures) if len(figures) == self.count else 0

    @property
    def not_started(self) -> Collection[UnitId]:
        return [
            units[place]
            for units, part in zip(self.units, self._parts, strict=True)
            for place in (range(len(units)) if part is None else part.not_started)
        ]

    def show(self, index: int, figures: RunFigures) -> None:
        """A shard tells how far it is."""
        self._figures[index] = figures

    def figures(self) -> RunFigures:
        """What one looks at, of all shards; the units of one that has told nothing yet are there, and off."""
        known = [each for each in self._figures if each is not None]
        if all(part is not None for part in self._parts) or not known:
            return super().figures()
        missing = [len(units) for units, each in zip(self.units, self._figures, strict=True) if each is None]
        added = RunFigures.added(known)
        return added._replace(unit_count=added.unit_count + sum(missing), at_ns=0 if missing else added.at_ns)

    # -- what it is put together from ------------------------------------------------------------------------------------

    def steer(self, entry: Verb) -> int:
        """Plan one more entry; the number of events. The shards have to be told too.

        Raises:
            ConfigurationError: its share draws no unit.
        """
        events = self.plan_entry(entry)
        self._platform_events |= {event.planned.order for event in events if event.planned.unit is None}
        return len(events)

    def know(self, index: int, at_ns: int, part: ShardPart) -> None:
        """What a shard knew at one of the moments that matter; what is complete is judged.

        A shard that began again from the start tells its moments again; they are the same.
        """
        at_moment = self._moments.get(at_ns)
        if at_moment is None:
            return
        at_moment[index] = part
        while self._due and len(self._moments[self._due[0]]) == self.count:
            due_ns = self._due.pop(0)
            parts = self._moments.pop(due_ns)
            self._take([parts[shard] for shard in range(self.count)])
            if due_ns in self._marks:
                self.ledger.mark(due_ns)
            if due_ns in self._judged_at:
                self.judge(due_ns)

    def missed(self, index: int, until_ns: int, part: ShardPart) -> None:
        """A shard was away up to *until_ns*: what was known last stands for the moments that it has not told."""
        for at_ns in [each for each in self._due if each < until_ns]:
            if at_ns in self._moments and index not in self._moments[at_ns]:
                self.know(index, at_ns, part)

    def without(self, index: int, until_ns: int, part: ShardPart | None) -> ShardPart:
        """What is known of a shard that was lost and is away up to *until_ns*: what it had to do since has failed.

        *part*: what it knew last; None: nothing is known of it.
        """
        units = self.units[index]
        if part is None:
            part = ShardPart(
                0, Ledger(self.scenario, dict.fromkeys(units, "")).part(), {}, tuple(range(len(units))), None
            )
        mine = set(units)
        failed = {
            event.planned.order: EventFacts("failed", f"shard {index + 1} of {self.count} was lost then")
            for event in self.events
            if event.planned.at_ns < until_ns
            and (event.planned.unit is None or event.planned.unit in mine)
            and event.planned.order not in part.events
        }
        return part._replace(events={**part.events, **failed})

    @property
    def due(self) -> tuple[int, ...]:
        """The moments, from the start, at which it still has to know what every shard knows."""
        return tuple(self._due)

    def _take(self, parts: Sequence[ShardPart]) -> None:
        self.ledger.take((units, part.ledger) for units, part in zip(self.units, parts, strict=True))

    def end(self, ends: Sequence[ShardEnd]) -> Result:
        """Judge what is left, from the ends of all shards."""
        for index, end in enumerate(ends):
            for at_ns, part in sorted(end.moments.items()):
                self.know(index, at_ns, part)
        parts = [end.part for end in ends]
        self._parts = list(parts)
        self._take(parts)
        ramps = [part.ramp_ns for part in parts]
        self.ramp_ns = None if None in ramps else max(ramp for ramp in ramps if ramp is not None)
        for event in self.events:
            event.outcome, event.reason = self._became(event, parts)
        hashes = {name: digest for end in ends for name, digest in end.hashes.items()}
        ordered = {str(unit): hashes[str(unit)] for unit in self.ids if str(unit) in hashes}
        ran_ns = min(*(part.at_ns for part in parts), self.duration_ns)
        return self.result(ran_ns, ordered)

    def _became(self, event: Event, parts: Sequence[ShardPart]) -> EventFacts:
        order = event.planned.order
        found = [part.events[order] for part in parts if order in part.events]
        failed = next((facts for facts in found if facts.outcome == "failed"), None)
        if failed is not None:
            return failed
        # What the whole platform does, every shard has to do.
        wanted = self.count if order in self._platform_events else 1
        return found[0] if len(found) == wanted else EventFacts("not reached", "")
