"""Whether a run did what its scenario expects."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.expected import COUNTERS, STATUSES, Expectation, Moment
from bmsota_sim.run.quantities import duration_text
from bmsota_sim.run.selection import select

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.selection import UnitId, Units

__all__ = [
    "COUNTERS",
    "STATUSES",
    "Expectation",
    "ExpectationVerdict",
    "Moment",
    "RunFacts",
    "evaluate",
    "moments",
    "purpose",
]


class RunFacts(Protocol):
    """What a run knows of its units at a moment. Times are nanoseconds from the start of the run."""

    def count(self, counter: str, units: Units, since_ns: int | None = None, until_ns: int | None = None) -> int:
        """The sum of one of `COUNTERS` over *units*, from `since_ns` up to `until_ns`."""

    def reply_seconds(self, units: Units, quantile: float) -> float | None:
        """How long this share of the answers took at most; None: there was none."""

    def status(self, unit: UnitId) -> str | None:
        """How far its upgrade is, one of `STATUSES`; None: it has none."""

    def statuses_seen(self, unit: UnitId) -> Sequence[str]:
        """Those that its upgrade has had."""

    def logged_in(self, unit: UnitId) -> bool:
        """Whether the platform has accepted its login on the link that it has now."""

    def history(self, unit: UnitId) -> Sequence[str]:
        """What the platform says of it, event by event."""


@dataclass(frozen=True, slots=True)
class ExpectationVerdict:
    """What became of one expectation."""

    position: int
    """Of the expectation in the scenario."""
    expectation: Expectation
    passed: bool | None
    """None: the run ended before it could be judged."""
    expected: str
    got: str
    failing: tuple[UnitId, ...] = ()
    """Some of the units that do not do what is expected, for expectations about single units."""


FAILING_MAX = 100
# A share is compared as a fraction of whole numbers; rounding of the limit must not decide.
_EPSILON = 1e-12


def _when_ns(scenario: FleetScenario, moment: Moment | None) -> int:
    return round(scenario.seconds_of(moment) * NS_PER_S)


def purpose(scenario: FleetScenario, expectation: Expectation) -> str:
    """For what a share in the expectation's `who` is drawn."""
    return f"expect {expectation.what} {_when_ns(scenario, expectation.by)}"


def moments(scenario: FleetScenario) -> tuple[int, ...]:
    """When something has to be judged, in nanoseconds from the start, sorted; the end of the run is the last."""
    return tuple(
        sorted({_when_ns(scenario, expectation.by) for expectation in scenario.expect} | {_when_ns(scenario, None)})
    )


def evaluate(
    scenario: FleetScenario,
    facts: RunFacts,
    now_ns: int,
    *,
    seed: int,
    since_ns: int | None = None,
    ended: bool = False,
) -> list[ExpectationVerdict]:
    """Judge the expectations that are due after `since_ns` and up to `now_ns`, by what is known now.

    Args:
        scenario: its `expect` is judged.
        facts: what is known.
        now_ns: from the start of the run. To judge each expectation at its own time, call at each of `moments`.
        seed: of the run; it draws shares in `who`.
        since_ns: what was due up to then is left out; default: nothing is.
        ended: the run is over; what is due later comes as not judged.
    """
    verdicts = []
    for position, expectation in enumerate(scenario.expect):
        due_ns = _when_ns(scenario, expectation.by)
        if due_ns > now_ns:
            if ended:
                got = f"not judged: the run ended at {duration_text(now_ns / NS_PER_S)}, before {duration_text(due_ns / NS_PER_S)}"
                verdicts.append(ExpectationVerdict(position, expectation, None, expectation.text, got))
        elif since_ns is None or due_ns > since_ns:
            passed, got, failing = _judge(scenario, expectation, facts, due_ns, seed)
            verdicts.append(ExpectationVerdict(position, expectation, passed, expectation.text, got, failing))
    return verdicts


def _judge(
    scenario: FleetScenario, expectation: Expectation, facts: RunFacts, due_ns: int, seed: int
) -> tuple[bool, str, tuple[UnitId, ...]]:
    units = select(scenario, seed, expectation.who, purpose(scenario, expectation))
    if not units:
        return False, "no unit is drawn", ()
    kind = expectation.kind
    limits = list(expectation.limits())
    since_ns = None if expectation.since is None else _when_ns(scenario, expectation.since)
    if kind == "counter":
        count = facts.count(expectation.what, units, since_ns, due_ns)
        return all(_holds(key, count, limit) for key, limit, _ in limits), f"{count:,}", ()
    if kind == "ratio":
        above, below = expectation.what.split(" / ")
        whole = facts.count(below, units, since_ns, due_ns)
        part = facts.count(above, units, since_ns, due_ns)
        if not whole:
            return False, f"{part:,} / 0: nothing was counted as {below}", ()
        got = f"{part:,} / {whole:,} = {part / whole:.4%}"
        return all(_holds(key, part / whole, limit) for key, limit, _ in limits), got, ()
    if kind == "reply":
        seconds = facts.reply_seconds(units, expectation.quantile)
        if seconds is None:
            return False, "no answer was measured", ()
        return all(_holds(key, seconds, limit) for key, limit, _ in limits), f"{seconds:.3f} s", ()
    return _judge_units(expectation, facts, units, limits)


def _judge_units(
    expectation: Expectation, facts: RunFacts, units: Units, limits: list[tuple[str, float, bool]]
) -> tuple[bool, str, tuple[UnitId, ...]]:
    failing: list[UnitId] = []
    count = 0
    for unit in units:
        if _does(expectation, facts, unit):
            count += 1
        elif len(failing) < FAILING_MAX:
            failing.append(unit)
    if not limits:
        limits = [("at_least", 1.0, True)]
    passed = all(_holds(key, count / len(units) if is_share else count, limit) for key, limit, is_share in limits)
    return passed, f"{count:,} of {len(units):,} units", tuple(failing)


def _does(expectation: Expectation, facts: RunFacts, unit: UnitId) -> bool:
    match expectation.kind:
        case "logged_in":
            return facts.logged_in(unit)
        case "status":
            return facts.status(unit) in expectation.statuses
        case "seen_status":
            return not set(expectation.statuses).isdisjoint(facts.statuses_seen(unit))
        case _:
            return any((expectation.contains or "") in text for text in facts.history(unit))


def _holds(key: str, value: float, limit: float) -> bool:
    match key:
        case "is":
            return abs(value - limit) <= _EPSILON
        case "at_least":
            return value >= limit - _EPSILON
        case "at_most":
            return value <= limit + _EPSILON
        case "above":
            return value > limit + _EPSILON
        case _:
            return value < limit - _EPSILON
