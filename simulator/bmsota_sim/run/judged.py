"""A run as it is judged: its events, what was counted, and what had to hold. By whom it was carried out does not matter.

A `Run` carries itself out; a run over several processes is put together from the parts of its shards (`bmsota_sim.run.shards`).
Both are judged here, so the verdict is the same. No I/O, no clock.
"""

from __future__ import annotations

import hashlib
from abc import ABC, abstractmethod
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

from bmsota.errors import ConfigurationError
from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.expectations import COUNTERS, evaluate
from bmsota_sim.run.identities import identity
from bmsota_sim.run.keys import RunKeys
from bmsota_sim.run.ledger import FAULTS, Ledger, quantile_of
from bmsota_sim.run.selection import group_units, select
from bmsota_sim.run.timeline import Planned, outcomes, plan
from bmsota_sim.run.upgrade_outcomes import expected_statuses, may_change_outcome

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    import numpy as np
    from numpy.typing import NDArray

    from bmsota_sim.recordings.playback import Played
    from bmsota_sim.run.expectations import ExpectationVerdict
    from bmsota_sim.run.ledger import UnitLedger
    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.selection import UnitId
    from bmsota_sim.run.verbs import Verb

__all__ = ["Case", "Event", "JudgedRun", "Result", "RunFigures", "event_text", "fold", "unstarted"]

FAILING_MAX = 10
WORST_MAX = 10


@dataclass(slots=True)
class Event:
    """A planned event and what became of it."""

    planned: Planned
    outcome: str = "not reached"
    """`happened`, `failed`, or `not reached`: due after the end."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Something that had to hold, and whether it did."""

    name: str
    passed: bool | None
    """None: not judged, because the run ended before."""
    expected: str
    got: str
    failing: tuple[str, ...] = ()
    """Units, VINs and what was seen, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a run."""

    cases: tuple[Case, ...]
    events: tuple[Event, ...]
    hashes: dict[str, str]
    """Trace hash of each unit."""
    fold: str
    """Of all units, in whatever order they are added."""
    ran_ns: int

    @property
    def ok(self) -> bool:
        return all(case.passed is not False for case in self.cases)


class RunFigures(NamedTuple):
    """How far a run is: what one looks at while it goes on. Those of shards add up."""

    at_ns: int
    """From the start of the run."""
    unit_count: int
    started: int
    connected: int
    logged_in: int
    totals: dict[str, int]
    """The sum of each counter."""
    replies: NDArray[np.int64]
    """The histogram of reply times, for `quantile_of`."""
    reply_sum_s: float
    worst: tuple[tuple[int, str], ...]
    """The units with most faults: how many, and which and what in words."""

    @property
    def reply_p99_s(self) -> float | None:
        return quantile_of(self.replies, 0.99)

    @classmethod
    def of(cls, ledger: Ledger, *, at_ns: int, started: int) -> RunFigures:
        return cls(
            at_ns=at_ns,
            unit_count=len(ledger.units),
            started=started,
            connected=ledger.connected_count(),
            logged_in=ledger.logged_in_count(),
            totals=ledger.totals(),
            replies=ledger.reply_buckets(),
            reply_sum_s=ledger.reply_sum_s,
            worst=tuple((count, _worst_told(unit)) for unit, count in ledger.worst(WORST_MAX)),
        )

    @classmethod
    def added(cls, parts: Collection[RunFigures]) -> RunFigures:
        """Of all shards; the time is that of the one that is furthest behind.

        Raises:
            ValueError: there is none.
        """
        totals: Counter[str] = Counter()
        for part in parts:
            totals.update(part.totals)
        worst = sorted((row for part in parts for row in part.worst), key=lambda row: -row[0])
        first, *others = parts
        return cls(
            at_ns=min(part.at_ns for part in parts),
            unit_count=sum(part.unit_count for part in parts),
            started=sum(part.started for part in parts),
            connected=sum(part.connected for part in parts),
            logged_in=sum(part.logged_in for part in parts),
            totals=dict(totals),
            replies=sum((part.replies for part in others), first.replies),
            reply_sum_s=sum(part.reply_sum_s for part in parts),
            worst=tuple(worst[:WORST_MAX]),
        )


def _worst_told(unit: UnitLedger) -> str:
    first = min((name for name in FAULTS if name in unit.firsts), key=lambda name: unit.firsts[name].at_ns)
    return f"{unit.unit}: {first.replace('_', ' ')} first, at {unit.firsts[first].at_ns / NS_PER_S:.1f} s"


class JudgedRun(ABC):
    """Plan, ledger and verdicts of a run, or of a part of its units."""

    def __init__(
        self,
        scenario: FleetScenario,
        seed: int,
        *,
        keys: RunKeys | None = None,
        only: Collection[UnitId] | None = None,
        played: Played | None = None,
    ) -> None:
        """Plan it.

        Args:
            scenario: what happens.
            seed: of the run.
            keys: what the units trust and sign with; by default those of the samples.
            only: these units alone.
            played: recorded vehicles, one for each unit, in place of simulated ones.

        Raises:
            ConfigurationError: the timeline does not go with this seed, or the keys with this fleet.
        """
        self.scenario = scenario
        self.seed = seed
        self.keys = keys or RunKeys()
        self._only = None if only is None else frozenset(only)
        all_planned = plan(scenario, seed)
        self._next_order = len(all_planned)
        self.events = [Event(planned) for planned in all_planned if self._is_mine(planned.unit)]
        self.ids = tuple(group_units(scenario))
        """Every unit of the scenario, whichever are built here."""
        mine = [unit for unit in self.ids if self._is_mine(unit)]
        self.identities = {unit: self.keys.own(identity(scenario, seed, unit)) for unit in mine}
        if only is None:
            self.keys.check(each.vin for each in self.identities.values())
        self.outcomes = {unit: name for name, units in outcomes(scenario, seed).items() for unit in units}
        """What each unit is to make of the upgrade, where the scenario has one."""
        for event in self.events:
            # What the timeline does to single units counts more than what was drawn for many.
            if event.planned.unit in self.outcomes and may_change_outcome(event.planned):
                self.outcomes[event.planned.unit] = "succeeds"
        vins = {unit: each.vin for unit, each in self.identities.items()}
        if played is not None:
            pairs = zip(self.ids, played.vehicles, strict=True)
            vins = {unit: vehicle.vin for unit, vehicle in pairs if self._is_mine(unit)}
        self.ledger = Ledger(scenario, vins)
        self.task_case: Case | None = None
        """What became of the OTA task; None: it was not tried."""
        self.approved_ns: int | None = None
        """When the task was approved, from the start of the run."""
        self.ramp_ns: int | None = None
        """How long the ramp-up took; None while it lasts."""
        self.verdicts: list[ExpectationVerdict] = []
        self.steered: list[Verb] = []
        """What was planned beside the timeline, while the run went on."""
        self._judged_ns: int | None = None

    def _is_mine(self, unit: UnitId | None) -> bool:
        return self._only is None or unit is None or unit in self._only

    # -- how far it is: said by who carries it out -----------------------------------------------------------------------

    @property
    @abstractmethod
    def at_ns(self) -> int:
        """How far it is, from its start."""

    def now_ns(self) -> int:
        """From the start of the run, by the ledger's clock."""
        return self.at_ns

    @property
    @abstractmethod
    def not_started(self) -> Collection[UnitId]:
        """The units that were not switched on yet."""

    @property
    def started(self) -> int:
        """How many units were switched on."""
        return len(self.ledger.units) - len(self.not_started)

    @property
    def duration_ns(self) -> int:
        return round(self.scenario.duration_s * NS_PER_S)

    def figures(self) -> RunFigures:
        """What one looks at."""
        return RunFigures.of(self.ledger, at_ns=self.at_ns, started=self.started)

    # -- the plan --------------------------------------------------------------------------------------------------------

    @property
    def steered_from_ns(self) -> int:
        """The first moment that it can still be told of."""
        return self.at_ns

    def plan_entry(self, entry: Verb) -> list[Event]:
        """Plan one more entry, for now or later. It counts as those of the timeline. Give the events of all units, whichever are built here.

        Raises:
            ConfigurationError: its share draws no unit.
        """
        scenario = self.scenario
        units = None if entry.do == "platform_outage" else select(scenario, self.seed, entry.who, entry.purpose)
        if units is not None and not units:
            raise ConfigurationError(f"{', '.join(map(str, entry.who))}: no unit is drawn")
        end_ns = None if entry.lasts is None else round(scenario.end_of(entry) * NS_PER_S)
        events = [
            Event(Planned(entry.at_ns, order, entry, unit, end_ns))
            for order, unit in enumerate([None] if units is None else units, start=self._next_order)
        ]
        self._next_order += len(events)
        self.events += [event for event in events if self._is_mine(event.planned.unit)]
        self.steered.append(entry)
        return events

    # -- what is judged --------------------------------------------------------------------------------------------------

    def judge(self, at_ns: int) -> None:
        """Judge what is due at *at_ns* by what the ledger knows now."""
        self.verdicts += evaluate(self.scenario, self.ledger, at_ns, seed=self.seed, since_ns=self._judged_ns)
        self._judged_ns = at_ns

    def result(self, ran_ns: int, hashes: dict[str, str]) -> Result:
        """Judge what is left, at the end."""
        self.verdicts += evaluate(
            self.scenario, self.ledger, ran_ns, seed=self.seed, since_ns=self._judged_ns, ended=True
        )
        return Result(
            cases=tuple(self._cases()), events=tuple(self.events), hashes=hashes, fold=fold(hashes), ran_ns=ran_ns
        )

    def _cases(self) -> Iterator[Case]:
        named: set[str] = set()
        for verdict in sorted(self.verdicts, key=lambda each: each.position):
            what = verdict.expectation.what
            named.update(part.strip() for part in what.split("/"))
            failing = tuple(self._told(unit) for unit in verdict.failing[:FAILING_MAX])
            if verdict.passed is False and not failing:
                failing = tuple(self._first_told(part.strip()) for part in what.split("/") if part.strip() in COUNTERS)
            yield Case(
                name=verdict.expectation.text,
                passed=verdict.passed,
                expected=verdict.expected,
                got=verdict.got,
                failing=failing,
            )
        totals = self.ledger.totals()
        for counter in FAULTS:
            if counter not in named:
                count = totals[counter]
                told = tuple(filter(None, (self._first_told(counter),))) if count else ()
                yield Case(
                    name=f"no {counter}", passed=not count, expected=f"{counter}: 0", got=f"{count:,}", failing=told
                )
        yield from self._upgrade_cases()
        for group in self.scenario.groups:
            yield self._group_case(group, is_judged="logged_in" not in named)
        bad = [event for event in self.events if event.outcome == "failed"]
        missed = [event for event in self.events if event.outcome == "not reached"]
        done = len(self.events) - len(bad) - len(missed)
        yield Case(
            name="every planned event happened",
            passed=False if bad else None if missed else True,
            expected=f"{len(self.events):,} events",
            got=f"{done:,} happened, {len(bad):,} failed, {len(missed):,} not reached",
            failing=tuple(event_text(event) for event in (bad or missed)[:FAILING_MAX]),
        )

    def _upgrade_cases(self) -> Iterator[Case]:
        """The OTA task, and whether the upgrade of each unit ended as the scenario draws it."""
        ota = self.scenario.ota
        if self.task_case is not None:
            yield self.task_case
        if ota is None:
            return
        changed = {event.planned.unit for event in self.events if may_change_outcome(event.planned)}
        now_ns = min(self.at_ns, self.duration_ns)
        valid_for_s = None
        if ota.validity_s is not None and self.approved_ns is not None:
            valid_for_s = ota.validity_s - (now_ns - self.approved_ns) / NS_PER_S
        for name in dict.fromkeys(self.outcomes.values()):
            units = [unit for unit, outcome in self.outcomes.items() if outcome == name and unit not in changed]
            if not units:
                continue
            wanted = expected_statuses(name, ota, valid_for_s=valid_for_s)
            missed = [unit for unit in units if self.ledger.status(unit) not in wanted]
            # What has come before a run was stopped has come; what has not might have.
            is_judged = now_ns >= self.duration_ns or not missed
            yield Case(
                name=f"upgrade outcome {name}",
                passed=not missed if is_judged else None,
                expected=f"{len(units):,} units: {' or '.join(wanted)}",
                got=f"{len(units) - len(missed):,} units"
                if is_judged
                else "not judged: the run ended before the scenario",
                failing=tuple(self._upgrade_told(unit) for unit in missed[:FAILING_MAX]) if is_judged else (),
            )

    def _upgrade_told(self, unit: UnitId) -> str:
        upgrade = self.ledger.upgrades.get(unit)
        if upgrade is None:
            return f"{unit} {self.ledger.units[unit].vin}: no upgrade"
        return f"{unit} {self.ledger.units[unit].vin}: {upgrade.status}" + (
            f": {upgrade.reason}" if upgrade.reason else ""
        )

    def _group_case(self, group: str, *, is_judged: bool) -> Case:
        """Every unit has logged in, at some time, and is logged in at the end unless an expectation says when."""
        members = [unit for unit in self.ledger.units if unit.group == group]
        column = COUNTERS.index("logins")
        out = [
            unit
            for unit in members
            if not self.ledger.counts[self.ledger.units[unit].row, column]
            or (is_judged and not self.ledger.logged_in(unit))
        ]
        # Stopped before their turn came: nothing is known of them.
        is_early = self.at_ns < self.duration_ns and set(self.not_started).issuperset(out)
        return Case(
            name=f"group {group}",
            passed=None if out and is_early else not out,
            expected=f"{len(members):,} units log in" + (" and stay so" if is_judged else ""),
            got=f"{len(members) - len(out):,} units",
            failing=tuple(self._told(unit) for unit in out[:FAILING_MAX]),
        )

    def _told(self, unit: UnitId) -> str:
        """A unit, and the first of each of its faults."""
        ledger = self.ledger.units[unit]
        firsts = [
            f"{name} at {first.at_ns / NS_PER_S:.3f} s" for name, first in ledger.firsts.items() if name in FAULTS
        ]
        state = (
            "logged in" if ledger.is_logged_in else "not logged in" if unit not in self.not_started else "never started"
        )
        return f"{unit} {ledger.vin}: {', '.join([state, *firsts])}"

    def _first_told(self, counter: str) -> str:
        found = self.ledger.first_of(counter)
        if found is None:
            return ""
        unit, first = found
        text = f"{unit} {self.ledger.units[unit].vin}: first {counter} at {first.at_ns / NS_PER_S:.3f} s"
        detail = f": {first.detail}" if first.detail else ""
        return text + detail + (f" [{first.data.hex(' ')}]" if first.data else "")


def event_text(event: Event) -> str:
    """A planned event in words."""
    planned = event.planned
    who = "the platform" if planned.unit is None else str(planned.unit)
    reason = f": {event.reason}" if event.reason else ""
    return f"{planned.entry.do} of {who} at {planned.at_ns / NS_PER_S:g} s: {event.outcome}{reason}"


def fold(hashes: dict[str, str]) -> str:
    """One hash of the hashes of all units; the sum of those of parts of a fleet, whatever the parts."""
    total = 0
    for unit, digest in hashes.items():
        total += int.from_bytes(hashlib.sha256(f"{unit} {digest}".encode()).digest())
    return f"{total % 2**256:064x}"


def unstarted(scenario: FleetScenario) -> Result:
    """That of a run which was stopped before its first unit was switched on: nothing is judged."""
    got = "not judged: the run was stopped before it started"
    return Result(
        cases=tuple(
            Case(name=expectation.text, passed=None, expected=expectation.text, got=got)
            for expectation in scenario.expect
        ),
        events=(),
        hashes={},
        fold=fold({}),
        ran_ns=0,
    )
