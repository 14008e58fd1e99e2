"""The pack model: charge and energy are conserved, rest shows the open-circuit voltage, and packs do not disturb each other."""

from __future__ import annotations

import numpy as np
import pytest
from bmsota_sim.physics import LFP, NMC, PackDesign, Packs

F7 = PackDesign(cell_count=96, probe_count=32)
EQUAL = PackDesign(cell_count=4, probe_count=2, capacity_spread=0, resistance_spread=0, cooling_spread=0, soc_spread=0)
VINS = [f"LVIN{number:013d}" for number in range(5)]


@pytest.mark.slow
def test_state_of_charge_falls_by_current_times_time_over_capacity():
    packs = Packs(EQUAL, VINS[:2], seed=1, soc=0.8)
    for _ in range(3600):
        packs.step([15.0, -7.5], 1.0)
    assert packs.soc == pytest.approx([0.8 - 15 / 150, 0.8 + 7.5 / 150], abs=1e-6)
    assert packs.charge_ah == pytest.approx([15, -7.5])


@pytest.mark.slow
def test_a_trickle_is_not_lost():
    """0.02 A over a day is half an ampere hour; a float32 sum of its steps would stand still."""
    packs = Packs(EQUAL, VINS[:1], seed=1, soc=0.8)
    for _ in range(86_400):
        packs.step(0.02, 1.0)
    assert packs.charge_ah == pytest.approx([0.48])
    assert packs.soc == pytest.approx([0.8 - 0.48 / 150], abs=1e-6)


def test_every_cell_of_a_pack_loses_the_same_charge():
    packs = Packs(F7, VINS, seed=1)
    before = packs.cell_soc.copy()
    packs.step([10, 20, 30, 40, 50], 60)
    lost_as = (before - packs.cell_soc) / packs._soc_per_as
    assert lost_as == pytest.approx(np.repeat([[600], [1200], [1800], [2400], [3000]], 96, axis=1), rel=1e-3)


@pytest.mark.parametrize("chemistry", [NMC, LFP], ids=lambda chemistry: chemistry.name)
def test_at_rest_a_cell_shows_its_open_circuit_voltage(chemistry):
    design = PackDesign(cell_count=11, probe_count=1, chemistry=chemistry, capacity_spread=0, soc_spread=0)
    for index, ocv_v in enumerate(chemistry.ocv_v):
        packs = Packs(design, VINS[:1], seed=1, soc=index / 10)
        assert packs.cell_voltage_v == pytest.approx(ocv_v, abs=1e-4)
    packs = Packs(design, VINS[:1], seed=1, soc=0.5)
    packs.step(150.0, 120)
    loaded = packs.cell_voltage_v.copy()
    for _ in range(20):
        packs.step(0.0, 600)  # Twenty time constants of the slow pair.
    assert (packs.cell_voltage_v > loaded).all()
    assert packs.cell_voltage_v == pytest.approx(packs.cell_ocv_v, abs=1e-5)


def test_voltage_drops_at_once_by_r0_and_then_by_r1():
    packs = Packs(EQUAL, VINS[:1], seed=1, soc=0.55, temperature_c=20)
    packs.step(0.0, 1.0)
    rest_v = float(packs.cell_voltage_v[0, 0])
    packs.step(150.0, 0.001)
    assert rest_v - packs.cell_voltage_v[0, 0] == pytest.approx(0.050, abs=3e-4)  # 1 C: ohm times ampere hours.
    packs.step(150.0, 1e-3)
    slope = (packs.cell_ocv_v - packs.cell_voltage_v)[0, 0]
    packs.step(150.0, 30.0)
    grown = (packs.cell_ocv_v - packs.cell_voltage_v)[0, 0] - slope
    # One time constant of the fast pair, and a twentieth of the slow one's.
    assert grown == pytest.approx(0.076 * (1 - np.exp(-1)) + 0.6 * 0.076 * (1 - np.exp(-0.05)), rel=0.02)


def reference(chemistry, capacity_ah, cooling_w_per_k, profile, *, soc, temperature_c, dt_s=0.01):
    """One cell in float64, by explicit steps of the differential equations: its voltage and temperature after each stretch of *profile*."""
    grid = np.linspace(0, 1, len(chemistry.ocv_v))
    degrees = chemistry.r_temperature_c_min + chemistry.r_temperature_step_c * np.arange(len(chemistry.r0_ohm_ah))
    heat_capacity = chemistry.heat_capacity_j_per_k_ah * capacity_ah
    fast_v = slow_v = 0.0
    found = []
    for current_a, seconds in profile:
        for _ in range(round(seconds / dt_s)):
            factor = np.interp(soc, grid, chemistry.r_over_soc) / capacity_ah
            r0 = factor * np.interp(temperature_c, degrees, chemistry.r0_ohm_ah)
            r1 = factor * np.interp(temperature_c, degrees, chemistry.r1_ohm_ah)
            heat_w = current_a * (current_a * r0 + fast_v + slow_v)
            temperature_c += dt_s * (heat_w - cooling_w_per_k * (temperature_c - 20.0)) / heat_capacity
            fast_v += dt_s * (current_a * r1 - fast_v) / chemistry.tau_s
            slow_v += dt_s * (current_a * r1 * chemistry.slow_share - slow_v) / chemistry.slow_tau_s
            soc -= dt_s * current_a / (3600 * capacity_ah)
        ocv = np.interp(soc, grid, chemistry.ocv_v)
        found.append((ocv - current_a * r0 - fast_v - slow_v, temperature_c))
    return found


@pytest.mark.parametrize("chemistry", [NMC, LFP], ids=lambda chemistry: chemistry.name)
def test_steps_of_30_s_and_of_1_s_are_those_of_a_fine_integration(chemistry):
    """Within 1 mV and 0.02 K of steps of 0.01 s in float64: discharge, rest, charge."""
    design = PackDesign(
        cell_count=1, probe_count=1, chemistry=chemistry, capacity_spread=0, resistance_spread=0, cooling_spread=0, soc_spread=0
    )  # fmt: skip
    profile = [(150.0, 30), (75.0, 30), (0.0, 30), (-100.0, 30)]
    right = reference(chemistry, 150.0, 0.5, profile, soc=0.62, temperature_c=25.0)
    for dt_s in (30, 1):
        packs = Packs(design, VINS[:1], seed=1, soc=0.62, temperature_c=25.0)
        for (current_a, seconds), (volts, degrees) in zip(profile, right, strict=True):
            for _ in range(seconds // dt_s):
                packs.step(current_a, dt_s)
            assert packs.cell_voltage_v[0, 0] == pytest.approx(volts, abs=1e-3)
            assert packs.cell_temperature_c[0, 0] == pytest.approx(degrees, abs=0.02)


def test_empty_and_full_cells_resist_more():
    def drop(soc):
        packs = Packs(EQUAL, VINS[:1], seed=1, soc=soc)
        packs.step(150.0, 0.01)
        return float((packs.cell_ocv_v - packs.cell_voltage_v)[0, 0])

    assert drop(0.02) > 1.5 * drop(0.5)
    assert drop(0.98) > 1.08 * drop(0.5)


def test_packs_age_by_time_heat_and_cycles():
    year_s = 365 * 86_400

    def loss(*, years=1.0, soc=0.5, degrees=25.0, cycles=0):
        packs = Packs(EQUAL, VINS[:1], seed=1, soc=soc, temperature_c=degrees)
        packs.step(0.0, years * year_s, ambient_c=degrees)
        for _ in range(cycles):
            packs.step(150.0, 1800.0, ambient_c=degrees)
            packs.step(-150.0, 1800.0, ambient_c=degrees)
        packs.age()
        return float(packs.capacity_loss[0])

    assert loss() == pytest.approx(0.02, rel=0.01)
    assert loss(years=4) == pytest.approx(0.04, rel=0.01)
    assert loss(degrees=45) > 1.5 * loss()
    assert loss(soc=1.0) > loss() > loss(soc=0.1)
    # 500 times half of it out and in again are 500 half cycles, which is 250.
    assert loss(cycles=500) - loss() == pytest.approx(0.08 * 0.25**0.83, rel=0.1)


def test_an_aged_pack_has_less_in_it_and_resists_more():
    packs = Packs(EQUAL, VINS[:1], seed=1, soc=0.8)
    packs.step(15.0, 3600.0)
    soc = packs.cell_soc.copy()
    packs.step(0.0, 10 * 365 * 86_400)
    packs.age()
    packs.step(0.0, 1.0)
    assert packs.cell_soc == pytest.approx(soc, abs=1e-5), "what is in it is not lost at once"
    assert packs.capacity_loss[0] == pytest.approx(0.06, abs=0.01)
    before = packs.cell_soc.copy()
    packs.step(15.0, 3600.0)
    assert before - packs.cell_soc == pytest.approx(0.1 / (1 - packs.capacity_loss[0]), rel=1e-3)
    new = Packs(EQUAL, VINS[:1], seed=1, soc=float(packs.cell_soc[0, 0]))
    packs.step(0.0, 1e6)
    for each in (packs, new):
        each.step(150.0, 0.01)
    old_drop, new_drop = (float((each.cell_ocv_v - each.cell_voltage_v)[0, 0]) for each in (packs, new))
    assert old_drop == pytest.approx(new_drop * (1 + 2 * packs.capacity_loss[0]), rel=0.02)


def test_blocks_change_no_row():
    """More rows than a block has, and one row alone."""
    from bmsota_sim.physics.packs import BLOCK_ROWS

    small = PackDesign(cell_count=3, probe_count=1)
    vins = [f"VIN{number}" for number in range(BLOCK_ROWS + 5)]
    many, one = Packs(small, vins, seed=1), Packs(small, vins[-1:], seed=1)
    for _ in range(5):
        many.step(np.arange(len(vins)), 1.0)
        one.step(float(len(vins) - 1), 1.0)
    assert np.array_equal(many.cell_voltage_v[-1], one.cell_voltage_v[0])
    assert np.array_equal(many.cell_temperature_c[-1], one.cell_temperature_c[0])


@pytest.mark.parametrize("current_a", [75.0, -75.0])
def test_chemical_energy_becomes_work_and_heat(current_a):
    """No cooling to speak of: what the cells did not deliver must be in their temperature."""
    design = PackDesign(
        cell_count=4, probe_count=1, cooling_w_per_k=1e-3, capacity_spread=0, resistance_spread=0, soc_spread=0
    )
    packs = Packs(design, VINS[:1], seed=1, soc=0.6)
    chemical_j = work_j = 0.0
    ocv_v, voltage_v = packs.cell_ocv_v.copy(), packs.cell_voltage_v.copy()
    for _ in range(600):
        packs.step(current_a, 1.0)
        chemical_j += float((packs.cell_ocv_v + ocv_v).sum() / 2 * current_a)
        work_j += float((packs.cell_voltage_v + voltage_v).sum() / 2 * current_a)
        ocv_v, voltage_v = packs.cell_ocv_v.copy(), packs.cell_voltage_v.copy()
    heat_j = float(((packs.cell_temperature_c - 20) * 19.0 * 150.0).sum())
    assert heat_j > 0
    assert chemical_j - work_j == pytest.approx(heat_j, rel=0.01)


def test_cells_heat_with_current_and_end_where_heating_and_cooling_are_equal():
    packs = Packs(EQUAL, VINS[:3], seed=1, soc=0.9)
    for _ in range(60):
        packs.step([0, 75, 150], 10, ambient_c=20)
    calm, half, full = packs.cell_temperature_c[:, 0]
    assert calm == pytest.approx(20, abs=1e-3)
    assert 20 < half < full
    hot = Packs(EQUAL, VINS[:1], seed=1, temperature_c=60)
    hot.step(0, 1e7, ambient_c=25)
    assert hot.cell_temperature_c == pytest.approx(25, abs=1e-3)


def test_cold_cells_resist_more():
    packs = Packs(EQUAL, VINS[:3], seed=1, soc=0.5, temperature_c=[-20, 20, 40])
    packs.step(150.0, 0.01, ambient_c=[-20, 20, 40])
    cold, mild, warm = packs.cell_voltage_v[:, 0]
    assert cold < mild < warm
    assert packs.cell_ocv_v[0, 0] - cold == pytest.approx(0.185, rel=0.02)


def test_resistance_stays_positive_at_any_temperature():
    packs = Packs(EQUAL, VINS[:2], seed=1, soc=0.5, temperature_c=[-60, 150])
    packs.step(150.0, 0.01, ambient_c=[-60, 150])
    assert (packs.cell_voltage_v < packs.cell_ocv_v).all()


def test_one_long_step_equals_many_short_ones():
    """Stable and exact for any step, as far as resistances do not change with the temperature meanwhile."""
    short, long = (Packs(F7, VINS, seed=3, soc=0.7) for _ in range(2))
    for _ in range(300):
        short.step(20.0, 1.0)
    long.step(20.0, 300.0)
    assert long.cell_soc == pytest.approx(short.cell_soc, abs=1e-6)
    assert long.cell_voltage_v == pytest.approx(short.cell_voltage_v, abs=2e-4)
    assert long.cell_temperature_c == pytest.approx(short.cell_temperature_c, abs=0.02)
    long.step(0.0, 1e9)
    assert np.isfinite(long.cell_voltage_v).all()


def run(vins, seed=1):
    packs = Packs(F7, vins, seed=seed)
    for second in range(20):
        packs.step([10.0 + int(vin[-3:]) + second for vin in vins], 1.0, ambient_c=[int(vin[-3:]) for vin in vins])
    return {
        vin: (packs.cell_voltage_v[row], packs.cell_temperature_c[row], packs.pack_voltage_v[row])
        for vin, row in packs.row.items()
    }


def test_another_pack_changes_nothing_for_the_others():
    """To the last bit, wherever it is put: a run with one more vehicle replays the others."""
    alone = run(VINS[:3])
    for vins in (VINS[:4], [VINS[4], *VINS[:3]], [VINS[2], VINS[1], VINS[0], *VINS[3:]]):
        together = run(vins)
        for vin in VINS[:3]:
            for mine, theirs in zip(alone[vin], together[vin], strict=True):
                assert np.array_equal(mine, theirs)


def test_another_seed_is_another_fleet():
    assert not np.array_equal(run(VINS[:1], seed=1)[VINS[0]][0], run(VINS[:1], seed=2)[VINS[0]][0])
    assert np.array_equal(run(VINS[:1], seed=1)[VINS[0]][0], run(VINS[:1], seed=1)[VINS[0]][0])


def test_cells_differ_as_much_as_the_design_says():
    packs = Packs(PackDesign(cell_count=1000, probe_count=1), VINS, seed=1, soc=0.5)
    assert packs.cell_soc.std(axis=1) == pytest.approx(0.006, rel=0.1)
    assert (1 / packs._soc_per_as).std(axis=1) == pytest.approx(0.01 * 150 * 3600, rel=0.1)
    drawn = Packs(F7, VINS, seed=1)
    assert ((drawn.soc > 0.35) & (drawn.soc < 0.9)).all()
    assert len(set(drawn.soc.tolist())) == len(VINS)


def test_balancing_brings_only_the_chosen_cells_down():
    packs = Packs(EQUAL, VINS[:1], seed=1, soc=0.9)
    balancing = np.array([[False, True, False, False]])
    for _ in range(120):
        packs.step(0.0, 60, balancing=balancing)
    bled_ah = 4.097 / 33 * 2
    assert packs.cell_soc[0, 0] == pytest.approx(0.9, abs=1e-6)
    assert packs.cell_soc[0, 1] == pytest.approx(0.9 - bled_ah / 150, abs=1e-4)
    assert packs.charge_ah == pytest.approx([0])


def test_probes_are_spread_over_the_cells():
    packs = Packs(F7, VINS, seed=1)
    assert packs.probe_temperature_c.shape == (5, 32)
    assert (packs.probe_cells[0], packs.probe_cells[-1]) == (0, 95)
    assert len(set(packs.probe_cells.tolist())) == 32


def test_everything_is_float32():
    packs = Packs(F7, VINS, seed=1)
    packs.step(10.0, 1.0, balancing=np.ones((5, 96), bool))
    for column in (
        packs.cell_voltage_v,
        packs.cell_soc,
        packs.cell_temperature_c,
        packs.pack_voltage_v,
        packs.current_a,
        packs.probe_temperature_c,
    ):
        assert column.dtype == np.float32


@pytest.mark.parametrize(
    ("arguments", "options", "said"),
    [
        ((1.0, 0.0), {}, "above 0 s"),
        ((1.0, float("nan")), {}, "above 0 s"),
        (([1.0, 2.0], 1.0), {}, r"\(current_a\)"),
        ((1.0, 1.0), {"ambient_c": [1, 2]}, r"\(ambient_c\)"),
        ((1.0, 1.0), {"balancing": np.ones((5, 95), bool)}, "shape"),
    ],
)
def test_wrong_inputs_are_refused(arguments, options, said):
    with pytest.raises(ValueError, match=said):
        Packs(F7, VINS, seed=1).step(*arguments, **options)


def test_wrong_designs_are_refused():
    for wrong in (
        {"cell_count": 0, "probe_count": 0},
        {"cell_count": 4, "probe_count": 5},
        {"cell_count": 4, "probe_count": 1, "capacity_ah": 0},
    ):
        with pytest.raises(ValueError, match="pack design"):
            PackDesign(**wrong)
    with pytest.raises(ValueError, match="each VIN once"):
        Packs(F7, [VINS[0], VINS[0]], seed=1)


def test_rows_are_stepped_alone_as_among_all():
    """Bit for bit, whichever rows and however long: a row's steps are its own."""
    names = [f"VIN{number}" for number in range(20)]
    whole, parts = (Packs(PackDesign(cell_count=96, probe_count=32), names, seed=3) for _ in range(2))
    current = np.linspace(-60, 120, 20, dtype=np.float32)
    balancing = whole.cell_voltage_v > whole.cell_voltage_v.mean()
    few = np.array([1, 4, 5, 17])
    rest = np.setdiff1d(np.arange(20), few)
    for dt_s in (1.0, 30.0, 7.0):
        whole.step(current, dt_s, ambient_c=-5.0, balancing=balancing)
        for rows in (few, rest):
            parts.step(current[rows], dt_s, ambient_c=-5.0, balancing=balancing[rows], rows=rows)
    for name in ("cell_voltage_v", "cell_temperature_c", "cell_soc", "current_a", "steps", "charge_ah"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name)), name
    whole.age()
    parts.age()
    assert np.array_equal(whole.capacity_loss, parts.capacity_loss)


@pytest.mark.parametrize("chemistry", [NMC, LFP])
def test_what_is_said_to_be_borne_is(chemistry):
    """Limits that are not computed, because what is wanted is far from them, are above what is wanted."""
    random = np.random.default_rng(5)
    names = [f"VIN{number}" for number in range(400)]
    packs = Packs(
        PackDesign(cell_count=24, probe_count=8, chemistry=chemistry),
        names,
        seed=3,
        soc=random.uniform(0.0, 1.0, 400),
        temperature_c=random.uniform(-25.0, 58.0, 400),
    )
    low, high = chemistry.cell_v_min, chemistry.cell_v_max
    spared = 0
    for dt_s in (1.0, 30.0):
        packs.step(random.uniform(-40.0, 200.0, 400), dt_s, ambient_c=10.0)
        wanted = random.uniform(-150.0, 450.0, 400)
        charge, discharge = packs.current_limits_a(low, high, dt_s)
        found_charge, found_discharge = packs.current_limits_a(low, high, dt_s, wanted_a=wanted)
        is_spared = np.isinf(found_charge)
        assert np.array_equal(is_spared, np.isinf(found_discharge))
        assert np.array_equal(found_charge[~is_spared], charge[~is_spared])
        assert (wanted[is_spared] < discharge[is_spared]).all()
        assert (-wanted[is_spared] < charge[is_spared]).all()
        spared += int(is_spared.sum())
    assert spared > 100
