"""Days of vehicles: trips and charges happen, limits hold, and no energy comes from nothing."""

from __future__ import annotations

import numpy as np
import pytest
from bmsota_sim.life import Activity, DailyLife, Habits, driving_cycle
from bmsota_sim.life.days import DAY_S
from bmsota_sim.physics import LFP, NMC, PackDesign, Packs
from long_run import LONG

WLTC = driving_cycle("wltc")
F7 = PackDesign(cell_count=96, probe_count=32)
SMALL = PackDesign(cell_count=16, probe_count=4, capacity_ah=30.0, chemistry=LFP)
OWNERS = [f"f7/{number}" for number in range(1, 4)]


def a_life(design=F7, habits=None, *, soc=0.6, owners=OWNERS, seed=1):
    packs = Packs(design, [f"VIN{owner}" for owner in owners], seed=seed, soc=soc)
    return DailyLife(packs, owners, habits or Habits(cycle=WLTC), seed=seed)


def run(life, days, *, look=lambda now_s: None, drive_dt_s=2.0, first_day=0):
    now = float(first_day * DAY_S)
    while now < days * DAY_S:
        dt = drive_dt_s if life.is_driving.any() else 30.0
        life.step(now, dt)
        now += dt
        look(now)


@pytest.fixture(scope="module")
def a_day():
    """One day of three F7: what each was seen to do, and the highest and lowest of everything."""
    life = a_life()
    seen = []

    def look(now_s):
        packs = life.packs
        seen.append(
            (now_s, life.activity.copy(), packs.soc.copy(), packs.cell_voltage_v.max(axis=1),
             packs.cell_voltage_v.min(axis=1), packs.current_a.copy(), life.speed_kmh.copy())
        )  # fmt: skip

    run(life, 1, look=look)
    return life, [np.array(column) for column in zip(*seen, strict=True)]


@pytest.mark.slow
def test_two_trips_and_a_charge(a_day):
    life, (_, activity, soc, *_) = a_day
    for row in range(3):
        changes = activity[1:, row][np.diff(activity[:, row]) != 0]
        assert list(changes[:4]) == [Activity.DRIVING, Activity.PARKED, Activity.DRIVING, Activity.PARKED]
        assert list(changes[4:]) in ([Activity.CHARGING], [Activity.CHARGING, Activity.PARKED])
    assert life.odometer_km == pytest.approx([2 * WLTC.distance_km] * 3, rel=1e-9)
    assert (soc[-1] > soc.min(axis=0)).all()


def test_trips_take_what_such_a_car_takes(a_day):
    life, (_, activity, _, _, _, current, _) = a_day
    assert (current[activity == Activity.DRIVING] < 0).any()  # It recuperates.
    assert life.energy_out_j / 3.6e6 / life.odometer_km * 100 == pytest.approx([15.0] * 3, rel=0.25)


def test_days_differ_from_vehicle_to_vehicle_and_not_by_company(a_day):
    _, (_, activity, *_) = a_day
    assert not np.array_equal(activity[:, 0], activity[:, 1])
    alone = a_life(owners=OWNERS[1:2])
    together = a_life(owners=[*OWNERS, "other/1"])
    for each in (alone, together):
        each.step(0.0, 30.0)
    assert np.array_equal(alone._departures_s[0], together._departures_s[1])
    assert alone._charge_from_s[0] == together._charge_from_s[1]


@pytest.mark.slow
def test_a_charge_tapers_at_the_cell_limit():
    life = a_life(habits=Habits(charge_from_s=0, charge_power_w=50_000.0), soc=0.5)
    seen = []
    run(life, 0.2, look=lambda _: seen.append((-life.packs.current_a.copy(), life.packs.cell_voltage_v.max(axis=1))))
    current, highest = (np.array(column) for column in zip(*seen, strict=True))
    assert highest.max() <= 4.2 + 0.005
    assert (life.activity == Activity.PARKED).all()
    for row in range(3):
        charging = current[current[:, row] > 0, row]
        assert charging.max() > 0.8 * 50_000 / (96 * 4.0)
        assert charging[-1] < 0.2 * charging.max()
    assert (life.packs.soc > 0.94).all()  # Of the emptiest cell: without balancing the fullest one ends the charge.


@pytest.mark.slow
def test_an_empty_pack_slows_the_vehicle_and_then_stops_it():
    life = a_life(habits=Habits(cycle=WLTC, trips_per_day=6, charge_from_s=None), soc=0.12)
    run(life, 1)
    assert not life.contactors_closed.any()
    assert (life.activity == Activity.PARKED).all()
    assert (life.speed_kmh == 0).all()
    assert (life.odometer_km < 6 * WLTC.distance_km).all()
    assert (life.packs.soc >= 0).all()
    assert (life.packs.cell_voltage_v.min(axis=1) >= 2.5).all()
    driven = life.odometer_km.copy()
    run(life, 2, first_day=1)
    assert np.array_equal(life.odometer_km, driven), "it drove on an empty pack"


@pytest.mark.slow
def test_a_stopped_vehicle_drives_again_when_it_was_charged():
    life = a_life(habits=Habits(cycle=WLTC, trips_per_day=6), soc=0.04)
    life.contactors_closed[:] = False
    run(life, 1)
    driven = life.odometer_km.copy()
    assert (driven == 0).all()
    run(life, 2, first_day=1, drive_dt_s=10.0)
    assert (life.odometer_km > driven).all()


@pytest.mark.long
@pytest.mark.parametrize("design", [F7, SMALL], ids=["F7", "small LFP"])
@pytest.mark.parametrize(
    "habits",
    [
        {"trips_per_day": 2},
        {"trips_per_day": 8, "charge_power_w": 3_000.0, "ambient_c": (-15.0, 2.0)},
        {"trips_per_day": 6, "charge_from_s": None, "parked_w": 40.0},
        {"trips_per_day": 4, "charge_power_w": 120_000.0, "charge_to": 0.8, "ambient_c": (18.0, 41.0)},
    ],
    ids=["home", "busy in the cold", "never charged", "fast"],
)
def test_no_energy_comes_from_nothing(design, habits):
    """What goes out is never more than what was in it and what went in; no cell leaves 0 to 100 %; a day; 30 in `test-long`."""
    volts = (
        {"cell_v_min": 2.8, "cell_v_max": 4.2} if design.chemistry is NMC else {"cell_v_min": 2.5, "cell_v_max": 3.65}
    )
    life = a_life(design, Habits(cycle=WLTC, **volts, **habits), soc=0.7, owners=OWNERS[:2])
    packs = life.packs
    capacity_as = 1 / packs._soc_per_as.astype(np.float64)
    before = packs.cell_soc.copy().astype(np.float64)
    extremes = {"soc min": 1.0, "soc max": 0.0, "v max": 0.0}

    def look(_):
        extremes["soc min"] = min(extremes["soc min"], float(packs.cell_soc.min()))
        extremes["soc max"] = max(extremes["soc max"], float(packs.cell_soc.max()))
        extremes["v max"] = max(extremes["v max"], float(packs.cell_voltage_v.max()))

    run(life, 30 if LONG else 1, look=look, drive_dt_s=5.0)
    assert extremes["soc min"] >= -1e-3
    assert extremes["soc max"] <= 1 + 1e-3
    assert extremes["v max"] <= volts["cell_v_max"] + 0.02
    # The open-circuit energy of a cell between two charges, from its table.
    steps = np.linspace(0, 1, 10_001)
    ocv = np.interp(steps, np.linspace(0, 1, len(design.chemistry.ocv_v)), design.chemistry.ocv_v)
    stored = np.concatenate(([0.0], np.cumsum((ocv[:-1] + ocv[1:]) / 2 * np.diff(steps))))
    given = (np.interp(before, steps, stored) - np.interp(packs.cell_soc, steps, stored)) * capacity_as
    net_out = life.energy_out_j - life.energy_in_j
    lost = given.sum(axis=1) - net_out
    through = life.energy_out_j + life.energy_in_j
    assert (lost > -0.002 * through).all(), f"{-lost / 3.6e6} kWh from nothing"
    assert (lost < 0.25 * through).all()
    assert (through > 0).all()


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"cycle": WLTC, "trips_per_day": 40}, "expected at most 27 trips a day of 1800 s, got 40"),
        ({"charge_to": 0.0}, "charge_to"),
        ({"cell_v_min": 4.3}, "cell_v_min below cell_v_max"),
        ({"parked_w": -1.0}, "0 or more"),
    ],
)
def test_habits_that_cannot_be(wrong, message):
    with pytest.raises(ValueError, match=message):
        Habits(**wrong)


def test_ambient_has_its_hours():
    life = a_life(habits=Habits(ambient_c=(5.0, 25.0)))
    assert life.ambient_at(4 * 3600) == pytest.approx(5.0)
    assert life.ambient_at(16 * 3600) == pytest.approx(25.0)
    assert life.ambient_at(DAY_S + 10 * 3600) == pytest.approx(15.0)
