"""Driving cycles: the standard ones are what their regulations say, and a user's own is read or refused with its line."""

from __future__ import annotations

import numpy as np
import pytest
from bmsota_sim.life import DrivingCycle, driving_cycle, read_driving_cycle

from bmsota.errors import ConfigurationError

# UN GTR 15, annex 1, class 3b: duration in s, distance in m and top speed in km/h of each phase.
WLTC_PHASES = [(589, 3095, 56.5), (433, 4756, 76.6), (455, 7158, 97.4), (323, 8254, 131.3)]


def test_wltc_is_that_of_the_regulation():
    cycle = driving_cycle("wltc")
    assert cycle.duration_s == 1800
    assert cycle.distance_km == pytest.approx(23.262, abs=0.001)
    begin = 0
    for seconds, meters, top in WLTC_PHASES:
        end = begin + seconds
        assert 1000 * (cycle.driven_at(end) - cycle.driven_at(begin)) == pytest.approx(meters, abs=1)
        assert cycle.speed_kmh[begin : end + 1].max() == top
        begin = end


def test_nedc_is_that_of_the_regulation():
    """UNECE R83: 4 x 195 s in town at 18.35 km/h on average (994 m), 400 s beyond it (6,955 m)."""
    cycle = driving_cycle("nedc")
    assert cycle.duration_s == 1180
    assert cycle.speed_kmh.max() == 120.0
    for number in range(4):
        begin = 195 * number
        assert np.array_equal(cycle.speed_kmh[begin : begin + 195], cycle.speed_kmh[:195])
        assert 1000 * (cycle.driven_at(begin + 195) - cycle.driven_at(begin)) == pytest.approx(994, abs=1)
    assert cycle.speed_kmh[:780].max() == 50.0
    assert 1000 * (cycle.distance_km - cycle.driven_at(780)) == pytest.approx(6955, abs=1)


def test_udds_is_that_of_the_regulation():
    """40 CFR 86, appendix I: 1,369 s, 7.45 miles, at most 56.7 mph; 17 stops behind the start."""
    cycle = driving_cycle("udds")
    assert cycle.duration_s == 1369
    assert cycle.distance_km == pytest.approx(7.45 * 1.609344, abs=0.01)
    assert cycle.speed_kmh.max() == pytest.approx(56.7 * 1.609344)
    tenths = cycle.speed_kmh / 0.1609344
    assert tenths == pytest.approx(tenths.round(), abs=1e-4)
    stands = cycle.speed_kmh == 0
    assert (stands[1:] & ~stands[:-1]).sum() == 17


@pytest.mark.slow
def test_distance_is_the_integral_of_speed():
    cycle = driving_cycle("wltc")
    fine = np.linspace(0, cycle.duration_s, cycle.duration_s * 50 + 1)
    speed = cycle.speed_at(fine)
    summed = np.concatenate(([0.0], np.cumsum((speed[:-1] + speed[1:]) / 2 / 50 / 3600)))
    assert cycle.driven_at(fine) == pytest.approx(summed, abs=1e-9)
    assert cycle.driven_at([-5.0, 99_999.0]) == pytest.approx([0.0, cycle.distance_km])
    assert list(cycle.speed_at([-1.0, 1801.0])) == [0.0, 0.0]


def test_a_cycle_of_ones_own():
    text = "\ufeff# to work\n\ntime_s,speed_kmh,note\n0,0,\n1,36,up\n2,36,\n3,0,\n"
    cycle = read_driving_cycle(text.splitlines(), name="work.csv")
    assert isinstance(cycle, DrivingCycle)
    assert cycle.duration_s == 3
    assert cycle.distance_km == pytest.approx(0.020)
    assert cycle.speed_at(0.5) == 18.0


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "w.csv: the file is empty"),
        ("# nothing\n", "w.csv: the file is empty"),
        ("0,0\n1,5\n", "w.csv:1: expected a head line with speed_kmh, got '0,0'"),
        ("speed_kmh\n0\n", "w.csv: expected at least two seconds, got 1"),
        ("speed_kmh\n0\n\nfast\n0\n", "w.csv:4: expected speed_kmh from 0 to 220, got 'fast'"),
        ("speed_kmh\n0\nnan\n0\n", "w.csv:3: expected speed_kmh from 0 to 220, got 'nan'"),
        ("speed_kmh\n0\n-1\n0\n", "w.csv:3: expected speed_kmh from 0 to 220, got '-1'"),
        ("speed_kmh\n0\n221\n0\n", "w.csv:3: expected speed_kmh from 0 to 220, got '221'"),
        ("speed_kmh\n3\n5\n0\n", "w.csv:2: expected speed_kmh 0 at both ends of a trip, got 3"),
        ("speed_kmh\n0\n5\n", "w.csv:3: expected speed_kmh 0 at both ends of a trip, got 5"),
        ("time_s,speed_kmh\n0,0\n2,5\n3,0\n", "w.csv:3: expected time_s 1, got 2"),
        ("time_s,speed_kmh\n0,0\n1\n3,0\n", "w.csv:3: expected 2 columns, got 1"),
    ],
)
def test_what_is_wrong_is_told_with_its_line(text, message):
    with pytest.raises(ConfigurationError) as told:
        read_driving_cycle(text.splitlines(), name="w.csv")
    assert str(told.value) == message


def test_an_unknown_name_lists_the_known():
    with pytest.raises(ConfigurationError, match=r"no driving cycle 'wltp'; there are nedc, udds, wltc"):
        driving_cycle("wltp")
