"""Who is meant, and what a seed draws."""

from __future__ import annotations

import numpy as np
import pytest
from bmsota_sim.run.scenario import parse_scenario
from bmsota_sim.run.selection import UnitId, Units, drawn_places, resolve, select
from bmsota_sim.run.who import parse_who

from bmsota.errors import ConfigurationError

HEAD = "name: x\nduration: 10min\ngroups:\n"
CARS = "  cars: { profile: F7, count: 1000 }\n"
VANS = "  vans: { profile: E7, count: 50 }\n"


def scenario(*groups, timeline=()):
    lines = "".join(f"  - {{ {entry} }}\n" for entry in timeline)
    return parse_scenario(HEAD + "".join(groups) + ("timeline:\n" + lines if timeline else ""))


def names(who, *groups, seed=1):
    return [str(unit) for unit in resolve(scenario(*(groups or (CARS, VANS))), seed, parse_who(who))]


@pytest.mark.parametrize(
    ("who", "expected"),
    [
        ("vans/3", ["vans/3"]),
        ("vans/3-5", ["vans/3", "vans/4", "vans/5"]),
        (["vans/3-4", "cars/7", "vans/4-5"], ["cars/7", "vans/3", "vans/4", "vans/5"]),
        ("100% of vans/9-10", ["vans/9", "vans/10"]),
        (" vans/1 ", ["vans/1"]),
    ],
)
def test_units_are_named(who, expected):
    """In the order of the groups and numbers, each once."""
    assert names(who) == expected


def test_all_and_a_group():
    assert len(names("all")) == 1050
    assert names("vans") == [f"vans/{number}" for number in range(1, 51)]


@pytest.mark.parametrize(
    "who",
    [
        "",
        "vans/0",
        "vans/5-3",
        "0% of vans",
        "101%",
        "vans/",
        "/3",
        "5",
        5,
        None,
        [],
        [5],
        "vans vans",
        "those of",
        "80% vans/",
        "vans/9-",
    ],
)
def test_what_is_no_selection_is_refused(who):
    with pytest.raises(ValueError, match="expected"):
        parse_who(who)


@pytest.mark.parametrize(
    ("who", "message"),
    [
        ("van", "no group 'van'; did you mean 'vans'?"),
        ("vans/51", "expected a number from 1 to 50 in group 'vans', got 51"),
        ("those of gap", "no entry of the timeline is named 'gap'"),
    ],
)
def test_what_is_not_there_is_told(who, message):
    with pytest.raises(ConfigurationError) as caught:
        names(who)
    assert str(caught.value) == f"x: {message}"


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("percent", [1, 2, 10, 33, 50, 80, 99])
def test_a_share_is_that_share_of_any_first_units(seed, percent):
    """Within a handful, for 100 units as for 20,000: an even spread, which independent draws would not give."""
    places = drawn_places(seed, "cars", np.arange(1, 20_001), "offline")
    for count in (100, 1_000, 5_000, 20_000):
        assert abs(int((places[:count] < percent / 100).sum()) - count * percent / 100) <= 5


@pytest.mark.parametrize("modulus", [2, 3, 4, 8, 10, 64])
def test_a_small_share_is_not_found_at_one_remainder(modulus):
    """Else a share could all be with one of several workers."""
    numbers = np.arange(1, 100_001)
    chosen = numbers[drawn_places(3, "cars", numbers, "storm") < 0.01]
    counts = np.bincount(chosen % modulus, minlength=modulus)
    # Five standard deviations of independent draws.
    assert np.abs(counts - 1000 / modulus).max() < 5 * (1000 / modulus) ** 0.5


def test_two_purposes_draw_independently():
    """A quarter of the units are in both halves."""
    numbers = np.arange(1, 100_001)
    first, second = (drawn_places(1, "cars", numbers, purpose) < 0.5 for purpose in ("offline 1", "offline 2"))
    assert 0.23 < (first & second).mean() < 0.27


def test_a_further_unit_or_group_changes_nothing_drawn():
    """Of ten groups of growing size, each first part is the same."""
    small = names("30% of cars", "  cars: { profile: F7, count: 100 }\n")
    assert names("30% of cars", "  cars: { profile: F7, count: 1000 }\n")[: len(small)] == small
    assert names("30% of cars", VANS, "  cars: { profile: F7, count: 100 }\n") == small
    assert 25 <= len(small) <= 35
    assert names("30% of cars", "  cars: { profile: F7, count: 100 }\n", seed=2) != small


def test_a_further_entry_changes_nothing_drawn():
    """Neither before it nor after it."""
    entry = "at: 5min, do: offline, name: gap, who: 30%, for: 1min"
    others = ("at: 1min, do: restart, who: 50%", "at: 2min, do: offline, who: 50%, for: 1min")
    alone = scenario(CARS, timeline=[entry])
    among = scenario(CARS, timeline=[others[0], entry, others[1]])
    who = parse_who("those of gap")
    assert resolve(alone, 1, who) == resolve(among, 1, who)
    assert 250 < len(resolve(alone, 1, who)) < 350


def test_a_share_of_those_of_an_entry():
    with_gap = scenario(CARS, timeline=["at: 5min, do: offline, name: gap, who: 30%, for: 1min"])
    gap = select(with_gap, 1, parse_who("those of gap"), "")
    half = select(with_gap, 1, parse_who("50% of those of gap"), "")
    assert all(unit in gap for unit in half)
    assert 0.4 < len(half) / len(gap) < 0.6


def test_a_set_of_units():
    units = Units({"a": np.array([1, 2, 3, 7]), "b": np.array([], dtype=np.int64)})
    assert (len(units), str(units)) == (4, "a/1-3, a/7")
    assert UnitId("a", 7) in units
    assert UnitId("a", 4) not in units
    assert UnitId("b", 1) not in units
    assert "a/7" not in units
    assert list(units & Units({"a": np.array([3, 7, 9])})) == [UnitId("a", 3), UnitId("a", 7)]
    assert units == Units({"a": np.array([1, 2, 3, 7])})
    assert units != Units({"a": np.array([1, 2, 3])})


def test_what_is_drawn_is_locked():
    """A replay needs the same draw from every version, machine and Python."""
    assert names("10% of vans") == ["vans/1", "vans/15", "vans/23", "vans/31", "vans/37", "vans/44"]
