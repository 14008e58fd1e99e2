"""Whether a run did what its scenario expects."""

from __future__ import annotations

from dataclasses import dataclass, field

import pytest
from bmsota_sim.run.expectations import FAILING_MAX, evaluate, moments
from bmsota_sim.run.scenario import parse_scenario
from bmsota_sim.run.selection import UnitId

S = 1_000_000_000
HEAD = """
name: x
duration: 10min
faults_off: 2min
platform: { acknowledges_reports: yes }
groups:
  cars: { profile: F7, count: 200 }
  vans: { profile: E7, count: 4 }
timeline:
  - { at: 1min, do: offline, name: gap, who: cars/1-5, for: 2min }
ota: { release: "2.1.0" }
expect:
"""
END = 600 * S


@dataclass
class Ledger:
    """What a run has counted, as lists of (counter, unit, time)."""

    counted: list[tuple[str, UnitId, int]] = field(default_factory=list)
    online: set[UnitId] = field(default_factory=set)
    statuses: dict[UnitId, list[str]] = field(default_factory=dict)
    events: dict[UnitId, list[str]] = field(default_factory=dict)
    replies_s: list[float] = field(default_factory=list)

    def count(self, counter, units, since_ns=None, until_ns=None):
        return sum(
            name == counter and unit in units and (since_ns or 0) <= at_ns < (until_ns or 10**18)
            for name, unit, at_ns in self.counted
        )

    def reply_seconds(self, units, quantile):
        del units
        return sorted(self.replies_s)[int(quantile * len(self.replies_s))] if self.replies_s else None

    def status(self, unit):
        return self.statuses.get(unit, [None])[-1]

    def statuses_seen(self, unit):
        return self.statuses.get(unit, [])

    def logged_in(self, unit):
        return unit in self.online

    def history(self, unit):
        return self.events.get(unit, [])


def scenario(*expectations):
    return parse_scenario(HEAD + "".join(f"  - {{ {text} }}\n" for text in expectations))


def alarms_of_moment(expectation, ledger, now_ns=END):
    (verdict,) = evaluate(scenario(expectation), ledger, now_ns, seed=1)
    return verdict


CARS = [UnitId("cars", number) for number in range(1, 201)]
VANS = [UnitId("vans", number) for number in range(1, 5)]


def reports(count, counter="sent", at_s=10, unit=CARS[0]):
    return [(counter, unit, at_s * S)] * count


@pytest.mark.parametrize(
    ("limit", "passed"),
    [("is: 7", True), ("is: 8", False), ("at_least: 7", True), ("at_least: 8", False), ("at_most: 7", True), ("at_most: 6", False),
     ("above: 6", True), ("above: 7", False), ("below: 8", True), ("below: 7", False), ("above: 6, below: 8", True), ("above: 6, below: 7", False)],
)  # fmt: skip
def test_a_counter_keeps_its_limits(limit, passed):
    verdict = alarms_of_moment(f"what: sent, {limit}", Ledger(reports(7)))
    assert (verdict.passed, verdict.got) == (passed, "7")


def test_counters_count_whom_and_when():
    ledger = Ledger(
        [*reports(3, at_s=10), *reports(4, at_s=300), *reports(5, at_s=300, unit=VANS[0]), *reports(9, at_s=590)]
    )
    assert alarms_of_moment("what: sent, who: cars, by: 5min after gap, since: gap, at_least: 0", ledger).got == "4"
    assert alarms_of_moment("what: sent, who: all, since: gap, at_least: 0", ledger).got == "18"
    assert alarms_of_moment("what: sent, who: vans, since: 6min, at_least: 0", ledger).got == "0"
    assert alarms_of_moment("what: sent, since: faults_off, at_least: 0", ledger).got == "9"


def test_a_ratio_of_nothing_is_no_success():
    """A run that sent nothing must not be green."""
    verdict = alarms_of_moment("what: acknowledged / sent, at_least: 0%", Ledger())
    assert (verdict.passed, verdict.got) == (False, "0 / 0: nothing was counted as sent")


@pytest.mark.parametrize(("acknowledged", "passed"), [(99, True), (98, False)])
def test_a_ratio(acknowledged, passed):
    ledger = Ledger(reports(100) + reports(acknowledged, "acknowledged"))
    assert alarms_of_moment("what: acknowledged / sent, at_least: 99%", ledger).passed is passed


def test_reply_times():
    ledger = Ledger(replies_s=[0.1] * 90 + [3.0] * 10)
    assert alarms_of_moment("what: reply_p50, below: 200ms", ledger).passed
    verdict = alarms_of_moment("what: reply_p99, below: 2s", ledger)
    assert (verdict.passed, verdict.got) == (False, "3.000 s")
    verdict = alarms_of_moment("what: reply_p99, below: 2s", Ledger())
    assert (verdict.passed, verdict.got) == (False, "no answer was measured")


def test_a_share_of_units_is_logged_in_and_the_others_are_named():
    ledger = Ledger(online={*CARS[:198], *VANS})
    verdict = alarms_of_moment("what: logged_in, who: cars, at_least: 99%", ledger)
    assert (verdict.passed, verdict.got, verdict.failing) == (True, "198 of 200 units", (CARS[198], CARS[199]))
    assert not alarms_of_moment("what: logged_in, who: cars, above: 99%", ledger).passed
    assert alarms_of_moment("what: logged_in, at_least: 202", ledger).passed
    assert not alarms_of_moment("what: logged_in, at_least: 203", ledger).passed
    assert len(alarms_of_moment("what: logged_in, at_least: 1%", Ledger()).failing) == FAILING_MAX


def test_statuses_open_ones_too():
    ledger = Ledger(
        statuses={van: ["Approved", "Downloading"] for van in VANS[:3]} | {VANS[3]: ["Approved", "Rolled back"]}
    )
    assert not alarms_of_moment("what: status, who: vans, is: Downloading", ledger).passed
    assert alarms_of_moment("what: status, who: vans, is: Downloading, at_least: 75%", ledger).passed
    assert alarms_of_moment("what: status, who: vans, is: [Downloading, Rolled back]", ledger).passed
    assert alarms_of_moment("what: seen_status, who: vans, is: Approved", ledger).passed
    assert not alarms_of_moment("what: seen_status, who: vans, is: Cancelled", ledger).passed
    assert not alarms_of_moment("what: status, who: all, is: Approved, at_least: 1", ledger).passed


def test_histories():
    ledger = Ledger(events={VANS[0]: ["logged in", "slave 2 replaced: A by B"]})
    assert alarms_of_moment("what: history, who: vans/1, contains: slave 2 replaced", ledger).passed
    verdict = alarms_of_moment("what: history, who: vans/1-2, contains: slave 2 replaced", ledger)
    assert (verdict.passed, verdict.failing) == (False, (VANS[1],))


def test_each_expectation_is_judged_once_at_its_time():
    plan = scenario(
        "what: logged_in, by: 2min, at_least: 1",
        "what: logged_in, by: 1min after gap, at_least: 1",
        "what: sent, above: 0",
    )
    assert moments(plan) == (120 * S, 240 * S, END)
    ledger = Ledger(online=set(CARS))
    told = []
    before_ns = None
    for now_ns in moments(plan):
        told.append([verdict.position for verdict in evaluate(plan, ledger, now_ns, seed=1, since_ns=before_ns)])
        before_ns = now_ns
    assert told == [[0], [1], [2]]


def test_what_the_run_did_not_reach_is_told():
    """A run that was stopped has not passed."""
    plan = scenario("what: sent, by: 2min, above: 0", "what: sent, above: 0")
    first, second = evaluate(plan, Ledger(reports(1)), 180 * S, seed=1, ended=True)
    assert first.passed
    assert (second.passed, second.got) == (None, "not judged: the run ended at 3min, before 10min")
    assert len(evaluate(plan, Ledger(), 180 * S, seed=1)) == 1


def test_an_expectation_in_words():
    plan = scenario(
        "what: logged_in, who: [cars, vans/1-2], by: 1min after gap, at_least: 99%",
        "what: acknowledged / sent, since: faults_off, at_least: 100%",
        "what: status, who: those of gap, is: [Rolled back, Rejected]",
        "what: refused, is: 0, since: gap",
    )
    assert [expectation.text for expectation in plan.expect] == [
        "logged_in of cars, vans/1-2: at least 99%, by 1min after gap",
        "acknowledged / sent of all: at least 100%, counted from faults_off, at the end",
        "status of those of gap: is Rolled back or Rejected, at the end",
        "refused of all: exactly 0, counted from the end of gap, at the end",
    ]
