"""Half minutes for what is parked or charges, seconds for what drives: nothing is lost in between, and company changes nothing."""

from __future__ import annotations

import numpy as np
import pytest
from bmsota_sim.life import Activity, DailyLife, Habits, driving_cycle
from bmsota_sim.life.powertrain import Powertrain
from bmsota_sim.physics import PackDesign, Packs

WLTC = driving_cycle("wltc")
F7 = PackDesign(cell_count=96, probe_count=32)
DRIVES_FROM_S = 6 * 3600
TRIPS = 25
"""A day: each begins within three minutes and a half from the first moment that it may."""
STEADY_S = 30.0


def a_life(owners, habits=None, *, soc=0.6):
    packs = Packs(F7, [f"VIN{owner}" for owner in owners], seed=1, soc=soc)
    return DailyLife(packs, owners, habits or Habits(cycle=WLTC, trips_per_day=TRIPS, parked_w=20.0), seed=1)


def states(life, row):
    packs = life.packs
    return (
        packs.cell_voltage_v[row].tobytes(), packs.cell_temperature_c[row].tobytes(), float(packs.current_a[row]),
        int(life.activity[row]), float(life.odometer_km[row]), float(life.energy_out_j[row]), int(packs.steps[row]),
    )  # fmt: skip


def test_a_row_is_the_same_in_whatever_company():
    together, alone = a_life(["f7/1", "f7/2", "f7/3"]), a_life(["f7/2"])
    seen = set()
    for second in range(250):
        now_s = float(DRIVES_FROM_S + second)
        together.advance(now_s, 1.0, steady_s=STEADY_S)
        alone.advance(now_s, 1.0, steady_s=STEADY_S)
        seen.add(tuple(together.activity.tolist()))
        assert states(together, 1) == states(alone, 0), second
    assert len(seen) > 2


def test_half_minutes_lead_where_seconds_do():
    """Over a trip, the time after it, and the beginning of a charge."""
    habits = Habits(cycle=WLTC, trips_per_day=TRIPS, charge_from_s=DRIVES_FROM_S - 3500, parked_w=20.0, charge_to=0.61)
    by_load, by_second = a_life(["f7/1"], habits), a_life(["f7/1"], habits)
    activities = set()
    for second in range(2100):
        now_s = float(DRIVES_FROM_S + second)
        by_load.advance(now_s, 1.0, steady_s=STEADY_S)
        by_second.step(now_s, 1.0)
        activities.add(int(by_load.activity[0]))
        if second % 30 == 29:
            assert by_load.activity == by_second.activity
            assert by_load.odometer_km == pytest.approx(by_second.odometer_km, abs=1e-9)
            assert by_load.packs.soc == pytest.approx(by_second.packs.soc, abs=2e-5)
            assert by_load.energy_out_j == pytest.approx(by_second.energy_out_j, rel=1e-3)
    assert activities == {Activity.PARKED, Activity.DRIVING, Activity.CHARGING}
    # It drove 1,800 s or less, and what it did else took a thirtieth of the steps.
    driven = int(by_load.packs.steps[0])
    assert driven < 0.6 * 7200


def test_what_is_switched_off_was_on_until_then():
    life = a_life(["f7/1"], Habits(charge_from_s=None, parked_w=20.0))
    for second in range(47):
        life.advance(float(second), 1.0, steady_s=STEADY_S)
    # Its first second, and the first half minute: what came then is not counted yet.
    assert life.energy_out_j[0] == pytest.approx(20.0 * 30, rel=1e-3)
    life.is_on[0] = False
    life.inputs_changed()
    assert list(life.advance(47.0, 1.0, steady_s=STEADY_S)) == [0]
    assert life.energy_out_j[0] == pytest.approx(20.0 * 47, rel=1e-3)
    assert life.packs.current_a[0] == 0.0


def test_a_short_begins_when_it_begins():
    """The time that its pack was behind passes without it."""
    life, healthy = (a_life(["f7/1", "f7/2"], Habits(charge_from_s=None)) for _ in range(2))
    for second in range(50):
        life.advance(float(second), 1.0, steady_s=STEADY_S)
        healthy.advance(float(second), 1.0, steady_s=STEADY_S)
    life.packs.short_cell(0, 5, 0.5)
    rows = life.advance(50.0, 1.0, steady_s=STEADY_S)
    assert list(rows) == [0]
    healthy.step(50.0, 21.0)
    lost = healthy.packs.cell_soc[0, 5] - life.packs.cell_soc[0, 5]
    # One second of about 7.4 A of 150 Ah, not twenty.
    assert lost == pytest.approx(7.4 / 3600 / 150, rel=0.1)
    assert np.delete(life.packs.cell_soc[0], 5) == pytest.approx(np.delete(healthy.packs.cell_soc[0], 5))
    assert list(life.advance(51.0, 1.0, steady_s=STEADY_S)) == [0]
    life.packs.short_cell(0, 5, None)
    life.advance(52.0, 1.0, steady_s=STEADY_S)
    assert list(life.advance(53.0, 1.0, steady_s=STEADY_S)) == []


@pytest.mark.parametrize("mass_kg", [1700.0, 40_000.0])
def test_the_short_way_of_a_trip_leads_where_the_long_way_does(monkeypatch, mass_kg):
    """Bit for bit, where packs give what is wanted, and where they do not."""
    short, long = a_life(["f7/1", "f7/2", "f7/3"]), a_life(["f7/1", "f7/2", "f7/3"])
    short.powertrain = long.powertrain = Powertrain(mass_kg=mass_kg, power_max_w=1e6)
    monkeypatch.setattr(long, "_drive", lambda *_: False)
    took, drive = [], short._drive
    monkeypatch.setattr(short, "_drive", lambda *args: took.append(drive(*args)) or took[-1])
    for second in range(400):
        now_s = float(DRIVES_FROM_S + second)
        rows = short.advance(now_s, 1.0, steady_s=STEADY_S)
        assert rows.tolist() == long.advance(now_s, 1.0, steady_s=STEADY_S).tolist()
        for row in range(3):
            assert states(short, row) == states(long, row), second
    assert True in took
    assert (False in took) == (mass_kg > 10_000)
