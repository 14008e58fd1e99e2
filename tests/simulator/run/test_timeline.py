"""What a run has to do and when."""

from __future__ import annotations

from collections import Counter

import pytest
from bmsota_sim.run.scenario import OUTCOMES, parse_scenario, with_count
from bmsota_sim.run.selection import UnitId
from bmsota_sim.run.timeline import PlanError, meetings, outcomes, plan

HEAD = "name: x\nduration: 20min\nfaults_off: 5min\ngroups:\n  cars: { profile: F7, count: 1000 }\n  vans: { profile: E7, count: 10 }\n"
S = 1_000_000_000


def scenario(*entries, ota=""):
    return parse_scenario(HEAD + "timeline:\n" + "".join(f"  - {{ {entry} }}\n" for entry in entries) + ota)


def test_events_come_by_time_then_by_entry_then_by_unit():
    planned = plan(
        scenario(
            "at: 5min, do: restart, who: [vans/2, cars/3-4], off: 9s",
            "at: 1min, do: platform_outage, for: 30s",
            "at: 5min, do: clock_jump, who: vans/1, by: -1h",
        ),
        1,
    )
    assert [(item.at_ns, item.entry.do, item.unit, item.end_ns) for item in planned] == [
        (60 * S, "platform_outage", None, 90 * S),
        (300 * S, "restart", UnitId("cars", 3), 309 * S),
        (300 * S, "restart", UnitId("cars", 4), 309 * S),
        (300 * S, "restart", UnitId("vans", 2), 309 * S),
        (300 * S, "clock_jump", UnitId("vans", 1), None),
    ]
    assert [item.order for item in planned] == [0, 1, 2, 3, 4]
    assert list(planned) == sorted(planned, key=lambda item: (item.at_ns, item.order))


def test_what_has_no_end_lasts_as_long_as_there_are_faults():
    (planned,) = plan(scenario("at: 1min, do: slave_silent, who: vans/1, slave: 2"), 1)
    assert planned.end_ns == 15 * 60 * S


def test_entries_that_meet_the_same_unit_by_the_draw_are_refused():
    """80 % and 80 % of the same units always share some."""
    drawn = scenario("at: 1min, do: driving, who: 80%, for: 2min", "at: 2min, do: charging, who: 80%, for: 2min")
    with pytest.raises(PlanError) as caught:
        plan(drawn, 1)
    assert [path for path, _ in caught.value.problems] == [("timeline", 1)]
    assert str(caught.value).startswith("x, seed 1: timeline[1]: charging at 2min meets cars/")


def test_one_after_the_other_is_no_contradiction():
    assert plan(
        scenario("at: 1min, do: driving, who: all, for: 2min", "at: 3min, do: charging, who: all, for: 2min"), 1
    )


def test_a_share_that_draws_nobody_is_refused():
    """An event that meets nobody would have happened to nobody, and the run would be green."""
    with pytest.raises(PlanError, match="1% of vans/1-2: no unit is drawn"):
        plan(scenario("at: 1min, do: restart, who: 1% of vans/1-2"), 1)


def test_outcomes_are_disjoint_and_complete():
    ota = 'ota: { release: "2.1.0", outcomes: { rejects: 10%, never_answers: 20%, rolls_back: 5% } }\n'
    drawn = outcomes(scenario("at: 1min, do: storm", ota=ota), 1)
    counted = Counter(unit for units in drawn.values() for unit in units)
    assert len(counted) == 1010
    assert set(counted.values()) == {1}
    assert {name: round(len(units) / 1010, 2) for name, units in drawn.items()} == {
        "rejects": 0.1,
        "never_answers": 0.2,
        "rolls_back": 0.05,
        "succeeds": 0.65,
    }
    assert set(drawn) <= set(OUTCOMES)


def test_shares_of_all_leave_nobody_to_succeed():
    """Seven sevenths are all, whatever their sum is in binary."""
    failing = [name for name in OUTCOMES if name != "succeeds"]
    shares = (
        ", ".join(f"{name}: {100 / 7:.6f}%" for name in failing[:-1])
        + f", {failing[-1]}: {100 - 6 * round(100 / 7, 6):.6f}%"
    )
    drawn = outcomes(scenario("at: 1min, do: storm", ota=f'ota: {{ release: "2.1.0", outcomes: {{ {shares} }} }}\n'), 1)
    assert set(drawn) == set(failing)


def test_the_order_of_the_file_does_not_draw():
    first = 'ota: { release: "2.1.0", outcomes: { rejects: 10%, rolls_back: 5% } }\n'
    second = 'ota: { release: "2.1.0", outcomes: { rolls_back: 5%, rejects: 10% } }\n'
    storm = "at: 1min, do: storm"
    assert outcomes(scenario(storm, ota=first), 3) == outcomes(scenario(storm, ota=second), 3)


def test_without_an_upgrade_there_are_no_outcomes():
    assert outcomes(scenario("at: 1min, do: storm"), 1) == {}


def test_fifty_thousand_units_are_resolved_as_ranges():
    """`meetings` makes no object for a unit."""
    big = with_count(scenario("at: 1min, do: offline, who: 80%, for: 2min"), 50_000)
    (meeting,) = meetings(big, 1)
    assert meeting.units is not None
    assert {array.dtype.kind for array in meeting.units.numbers.values()} == {"i"}
    assert len(plan(big, 1)) == len(meeting.units)
    assert abs(len(meeting.units) - 40_000) <= 10
