"""Scenario files: every mistake is named with its place, what was expected and what was found."""

from __future__ import annotations

import re

import pytest
import yaml
from bmsota_sim.scenario import (
    VEHICLE_COUNT_MAX,
    DownloadCut,
    Interval,
    SelfTestFails,
    SlaveReplaced,
    packaged_scenario,
    parse_scenario,
)

from bmsota.errors import ConfigurationError

GOOD = """
name: small
duration_s: 60
fleet:
  - { series: F7, count: 2, city: Chengdu }
  - { series: E7, count: 3 }
vehicles:
  3: { offline: { from_s: 0, to_s: 25 }, soc_pct: 40 }
faults:
  - { kind: download_cut, vehicle: 1, after_bytes: 20000 }
  - { kind: slave_power_cut, vehicle: 1, slave: 8 }
  - { kind: slave_power_cut, vehicle: 1, slave: 7 }
  - { kind: slave_replaced, vehicle: 5, slave: 3, at_s: 3 }
campaign: { project: p, reason: r, software_version: 2.1.0 }
expect: { 5: Rolled back }
"""


def changed(**changes):
    """GOOD with parts replaced, as text."""
    return yaml.safe_dump({**yaml.safe_load(GOOD), **changes}, allow_unicode=True)


def test_a_good_file_is_read_as_it_stands():
    plan = parse_scenario(GOOD)
    assert plan.vehicle_count == 5
    assert [plan.series_of(number) for number in range(1, 6)] == ["F7", "F7", "E7", "E7", "E7"]
    assert plan.group_of(2).city == "Chengdu"
    assert plan.group_of(3).city == "Shanghai"
    assert plan.vehicles[3].offline == Interval(from_s=0, to_s=25)
    assert plan.vehicles[3].soc_pct == 40
    assert isinstance(plan.faults[0], DownloadCut)
    assert isinstance(plan.faults[3], SlaveReplaced)
    assert plan.faults[3].off_s == 3.0
    assert plan.campaign.software_version == "2.1.0"
    assert [plan.expected_status(number) for number in (4, 5)] == ["Upgrade succeeded", "Rolled back"]


def test_a_scenario_cannot_be_changed():
    plan = parse_scenario(GOOD)
    with pytest.raises(ValueError, match="frozen"):
        plan.duration_s = 1


def test_the_end_of_an_interval_does_not_belong_to_it():
    interval = Interval(from_s=1, to_s=2)
    assert [interval.holds(at) for at in (0.9, 1, 1.9, 2)] == [False, True, True, False]


MISTAKES = {
    "no mapping": ("- a", "scenario: expected a mapping at the top level, got list"),
    "empty": ("", "scenario: expected a mapping at the top level, got NoneType"),
    "no yaml": ("name: [", r"scenario: not valid YAML: .*line 1"),
    "an object of Python": ("name: !!python/object/apply:os.system ['true']", r"scenario: not valid YAML: .*python/object"),
    "a key twice": (
        GOOD + "name: again\n", r"scenario: not valid YAML: duplicate key 'name'.* line 16",
    ),
    "a vehicle twice": (GOOD.replace("vehicles:", "vehicles:\n  3: {}"), "duplicate key 3"),
    "a campaign after the end": (
        GOOD.replace("software_version: 2.1.0", "software_version: 2.1.0, create_at_s: 60"),
        r"campaign\.create_at_s: expected less than duration_s \(60\), got 60",
    ),
    "a list as a key": ("? [1, 2]\n: 3", "not valid YAML:"),
    "name missing": (GOOD.replace("name: small", ""), "scenario: name: this key is missing"),
    "unknown part": (changed(speed=1), "scenario: speed: no such key"),
    "unknown part deep down": (
        changed(fleet=[{"series": "F7", "count": 1, "colour": "red"}]),
        r"scenario: fleet\.0\.colour: no such key",
    ),
    "no vehicles": (changed(fleet=[]), r"scenario: fleet: expected a list with at least 1 in it, got \[\]"),
    "unknown series": (
        changed(fleet=[{"series": "G7", "count": 9}]),
        r"scenario: fleet\.0: no series 'G7'; there are E7, F7",
    ),
    "unknown city": (
        changed(fleet=[{"series": "F7", "count": 9, "city": "Shangai"}]),
        r"scenario: fleet\.0: no city 'Shangai'; there are Beijing, .*Shanghai",
    ),
    "count of zero": (changed(fleet=[{"series": "F7", "count": 0}]), r"fleet\.0\.count: expected at least 1, got 0"),
    "a count beyond reason": (
        changed(fleet=[{"series": "F7", "count": VEHICLE_COUNT_MAX + 1}]), r"fleet\.0\.count: expected at most",
    ),
    "a count beyond reason in parts": (
        changed(fleet=[{"series": "F7", "count": VEHICLE_COUNT_MAX}, {"series": "E7", "count": 1}]),
        f"fleet: expected at most {VEHICLE_COUNT_MAX} vehicles, got {VEHICLE_COUNT_MAX + 1}",
    ),
    "a version that YAML takes for a number": (
        GOOD.replace("software_version: 2.1.0", "software_version: 2.1"),
        r"scenario: campaign\.software_version: expected text \(in quotes\), got 2\.1",
    ),
    "no time at all": (changed(duration_s=0), "duration_s: expected more than 0, got 0"),
    "endless": (changed(duration_s=float("inf")), "duration_s: expected a finite number, got inf"),
    "not a number": (changed(measure_period_s=float("nan")), "measure_period_s: expected .*, got nan"),
    "reports too seldom": (changed(report_period_s=601), "report_period_s: expected at most 600, got 601"),
    "heartbeats too seldom": (changed(heartbeat_period_s=241), "heartbeat_period_s: expected at most 240, got 241"),
    "no rate": (changed(link_rate_bytes_per_s=0), "link_rate_bytes_per_s: expected at least 100, got 0"),
    "negative delay": (changed(link_delay_ms=-1), "link_delay_ms: expected at least"),
    "an interval backwards": (
        changed(vehicles={3: {"driving": {"from_s": 5, "to_s": 5}}}),
        r"vehicles\.3\.driving: expected to_s after from_s, got from_s 5.0 and to_s 5.0",
    ),
    "charge beyond full": (changed(vehicles={3: {"soc_pct": 101}}), r"vehicles\.3\.soc_pct: expected at most"),
    "vehicle zero": (changed(vehicles={0: {}}), r"vehicles\.0\..*: expected at least 1, got 0"),
    "a vehicle that is not there": (changed(vehicles={6: {}}), "vehicles: expected a vehicle from 1 to 5, got 6"),
    "an end of a vehicle that is not there": (
        changed(expect={6: "Rolled back"}), "expect: expected a vehicle from 1 to 5, got 6",
    ),
    "an end that is none": (changed(expect={5: "Rolled bak"}), r"scenario: expect\.5: expected 'Upgrade succeeded', .*, got 'Rolled bak'"),
    "a default end that is none": (changed(expect_default="fine"), "scenario: expect_default: expected 'Upgrade"),
    "a fault of a vehicle that is not there": (
        changed(faults=[{"kind": "corrupt_byte", "vehicle": 9, "at_byte": 0}]),
        r"faults\[0\]\.vehicle: expected a vehicle from 1 to 5, got 9",
    ),
    "an unknown fault": (changed(faults=[{"kind": "meteor", "vehicle": 1}]), r"faults\.0: expected 'download_cut', .*, got 'meteor'"),
    "a fault without a kind": (changed(faults=[{"vehicle": 1}]), r"faults\.0: its kind is missing"),
    "a fault without its figure": (
        changed(faults=[{"kind": "download_cut", "vehicle": 1}]), r"faults\.0\.download_cut\.after_bytes: this key is missing",
    ),
    "a slave that is not there": (
        changed(faults=[{"kind": "slave_replaced", "vehicle": 4, "slave": 4, "at_s": 1}]),
        r"faults\[0\]\.slave: expected a slave from 1 to 3, got 4",
    ),
    "progress of one": (
        changed(faults=[{"kind": "slave_power_cut", "vehicle": 1, "slave": 1, "at_progress": 1}]), r"faults\.0\.slave_power_cut\.at_progress: ",
    ),
    "two faults of one kind": (
        changed(faults=[{"kind": "download_cut", "vehicle": 1, "after_bytes": number} for number in (1, 2)]),
        r"faults\[1\]: a second download_cut for vehicle 1; give at most one",
    ),
    "two cuts of one slave": (
        changed(faults=[{"kind": "slave_power_cut", "vehicle": 1, "slave": 2}] * 2),
        r"faults\[1\]: a second slave_power_cut for vehicle 1, slave 2; give at most one",
    ),
    "never off": (changed(power_cycle={"off_s": 0}), r"power_cycle\.off_s: expected more than 0, got 0"),
}  # fmt: skip


@pytest.mark.parametrize("mistake", MISTAKES)
def test_a_mistake_is_named_with_its_place(mistake):
    text, message = MISTAKES[mistake]
    with pytest.raises(ConfigurationError) as error:
        parse_scenario(text)
    assert re.search(message, str(error.value), re.DOTALL), str(error.value)


def test_several_mistakes_are_all_named():
    with pytest.raises(ConfigurationError) as error:
        parse_scenario(changed(duration_s=-1, speed=3, vehicles={2: {"soc_pct": "full"}}), name="fleet.yaml")
    lines = str(error.value).splitlines()
    assert len(lines) == 3
    assert all(line.startswith("fleet.yaml: ") for line in lines)


def test_the_number_of_a_vehicle_that_is_not_there_is_refused():
    with pytest.raises(ConfigurationError, match="expected a number from 1 to 5, got 6"):
        parse_scenario(GOOD).group_of(6)


def test_the_demo_is_there_and_good():
    plan = parse_scenario(packaged_scenario("demo"))
    assert plan.vehicle_count == 12
    assert any(isinstance(fault, SelfTestFails) for fault in plan.faults)


def test_a_scenario_that_does_not_ship_is_answered_with_those_that_do():
    with pytest.raises(ConfigurationError, match=r"no scenario 'nothing'; there are .*demo"):
        packaged_scenario("nothing")
