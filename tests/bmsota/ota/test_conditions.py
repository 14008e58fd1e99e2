"""When a pack is at rest, as an upgrade needs it."""

import math

import pytest

from bmsota.ota import PowerConditions, PowerLimits

PARKED = {"ignition_on": True, "speed_kmh": 0.0, "is_charging": False, "soc_pct": 60.0}
WHOLE = PARKED | {"contactors_closed": False, "current_a": 1.0, "supply_v": 13.8, "fault_level": 0}


@pytest.mark.parametrize(
    ("changes", "refusals"),
    [
        ({}, ()),
        ({"ignition_on": False}, ("ignition off",)),
        ({"speed_kmh": 0.1}, ("driving",)),
        ({"speed_kmh": math.nan}, ("driving",)),
        ({"is_charging": True}, ("charging",)),
        ({"contactors_closed": True}, ("contactors closed",)),
        ({"current_a": 15.0}, ()),
        ({"current_a": 15.1}, ("current above 15 A",)),
        ({"current_a": -15.1}, ("current above 15 A",)),
        ({"current_a": math.nan}, ("current above 15 A",)),
        ({"soc_pct": 10.0}, ()),
        ({"soc_pct": 9.9}, ("state of charge below 10 %",)),
        ({"soc_pct": math.nan}, ("state of charge below 10 %",)),
        ({"supply_v": 11.5}, ()),
        ({"supply_v": 11.4}, ("12 V supply below 11.5 V",)),
        ({"supply_v": math.nan}, ("12 V supply below 11.5 V",)),
        ({"fault_level": 2}, ()),
        ({"fault_level": 3}, ("a fault above level 2",)),
        (
            {"speed_kmh": 48.0, "contactors_closed": True, "current_a": 20.0},
            ("driving", "contactors closed", "current above 15 A"),
        ),
    ],
)
def test_p18_p20_each_condition_refuses_by_name(changes, refusals):
    assert PowerConditions(**WHOLE | changes).refusals() == refusals


@pytest.mark.parametrize("name", ["contactors_closed", "current_a", "supply_v", "fault_level"])
def test_what_a_vehicle_has_no_signal_for_is_not_judged(name):
    assert PowerConditions(**WHOLE | {name: None}).refusals() == ()
    assert PowerConditions(**PARKED).refusals() == ()


def test_the_limits_are_settings():
    limits = PowerLimits(soc_pct_min=30.0, current_a_max=2.5, supply_v_min=12.0, fault_level_max=0)
    conditions = PowerConditions(
        ignition_on=True, speed_kmh=0.0, is_charging=False, soc_pct=29.0, current_a=3.0, supply_v=11.9, fault_level=1
    )
    assert conditions.refusals(limits) == (
        "current above 2.5 A",
        "state of charge below 30 %",
        "12 V supply below 12 V",
        "a fault above level 0",
    )
