"""What driving takes: right by hand for single speeds, plausible over a cycle, and no energy from nothing."""

from __future__ import annotations

import numpy as np
import pytest
from bmsota_sim.life import Powertrain, driving_cycle

CAR = Powertrain()


def over(cycle, car):
    """Electric power in W in the middle of each second, and the acceleration in m/s2."""
    speed = cycle.speed_kmh
    change = np.diff(speed) / 3.6
    return car.power_w((speed[:-1] + speed[1:]) / 2, change), change


def test_by_hand():
    """100 km/h: rolling 153.7 N, air 288.0 N."""
    speed = 100 / 3.6
    force = 0.0095 * 1650 * 9.80665 + 0.5 * 1.204 * 0.62 * speed**2
    assert CAR.power_w(100.0, 0.0) == pytest.approx(force * speed / 0.87 + 350, rel=1e-12)
    assert CAR.power_w(0.0, 0.0) == 350.0
    braking = (0.0095 * 1650 * 9.80665 + 0.5 * 1.204 * 0.62 * (50 / 3.6) ** 2 - 1650 * 1.05 * 1.5) * 50 / 3.6
    assert CAR.power_w(50.0, -1.5) == pytest.approx(braking * 0.87 + 350, rel=1e-12)


def test_limits():
    assert CAR.power_w(120.0, 3.0) == 100_350.0
    assert CAR.power_w(120.0, -4.0) == -50_000.0 + 350.0


@pytest.mark.parametrize(("name", "least", "most"), [("wltc", 12.0, 16.0), ("nedc", 10.0, 14.0), ("udds", 9.0, 13.0)])
def test_a_compact_car_over_a_standard_cycle(name, least, most):
    """kWh per 100 km out of the pack: charging losses, which certified figures of 14 to 17 include, are not in it."""
    cycle = driving_cycle(name)
    power, _ = over(cycle, CAR)
    assert least < power.sum() / 3.6e6 / cycle.distance_km * 100 < most


@pytest.mark.parametrize("name", ["wltc", "nedc", "udds"])
def test_braking_gives_back_no_more_than_the_vehicle_had(name):
    """Without losses and resistance a trip that ends standing takes what the electronics take; with them it takes more."""
    cycle = driving_cycle(name)
    ideal = Powertrain(
        rolling=1e-12, drag_area_m2=1e-12, efficiency=1.0, recuperation_max_w=1e9, power_max_w=1e9, auxiliary_w=0.0
    )
    assert over(cycle, ideal)[0].sum() == pytest.approx(0.0, abs=1e-3)
    assert over(cycle, CAR)[0].sum() > 0


@pytest.mark.parametrize(
    "wrong",
    [{"mass_kg": 0}, {"efficiency": 0}, {"efficiency": 1.1}, {"auxiliary_w": -1}, {"power_max_w": float("nan")}],
)
def test_a_car_that_cannot_be(wrong):
    with pytest.raises(ValueError, match="powertrain"):
        Powertrain(**wrong)
