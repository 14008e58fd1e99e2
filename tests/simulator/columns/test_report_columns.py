"""A report made in columns is the report of a full unit's master in the same state, byte for byte.

The other side is the real chain, one value at a time: a slave's messages, their DBC, the master's table, its report, the codec.
"""

from __future__ import annotations

import math
import os
import random

import numpy as np
import pytest
from bmsota_sim.columns import ReportColumns, VehicleRows, cells_on_bus, probes_on_bus
from bmsota_sim.columns.quantise import (
    CELL_MV_MAX,
    MISSING,
    PROBE_MAX,
    PROBE_MIN,
    current_on_bus,
    degrees_in_report,
    percent_in_report,
    rounded,
    soc_on_bus,
)
from bmsota_sim.columns.reports import CHARGING, DRIVING, IGNITION_ON
from bmsota_sim.defaults import database
from bmsota_sim.devices.readings import master_readings
from bmsota_sim.devices.vehicle import VirtualVehicle
from bmsota_sim.identity import vin
from bmsota_sim.profiles import PROFILES

from bmsota.gbt32960 import Command, Edition, Frame, Report, beijing_time, decode, encode
from bmsota.master import MeasurementTable, PackValues, SensorMessages, SlaveMessages, report_bodies

pytestmark = pytest.mark.slow

IS_LONG = "BMSOTA_LONG" in os.environ
START_S = 1_795_305_600


class Chain:
    """The slaves and the master of one vehicle, without a bus between them."""

    def __init__(self, profile):
        self.profile, layout = profile, profile.layout
        self.slaves = [SlaveMessages(database("bms_internal"), position, layout) for position in layout.positions]
        self.sensor = SensorMessages(database("bms_internal"))
        self.table = MeasurementTable(database("bms_internal"), layout, has_pack_sensor=True)
        self.alive = 0

    def measure(self, cells, probes, current_a=0.0, soc_pct=50.0):
        profile = self.profile
        for place, slave in enumerate(self.slaves):
            frames = slave.measurements(
                cells[place * profile.cells_per_slave :][: profile.cells_per_slave],
                probes[place * profile.probes_per_slave :][: profile.probes_per_slave],
                alive=self.alive,
            )
            for frame in frames:
                assert self.table.receive(frame, self.alive + 1)
        assert self.table.receive(self.sensor.measurement(current_a, soc_pct, alive=self.alive), self.alive + 1)
        self.alive += 1
        return PackValues(tuple(self.table.cell_voltages_v), tuple(self.table.temperatures_c))


def random_volts(rng, count, kind):
    base = rng.choice((0.0005, 2.1995, 2.4995, 2.5005, 2.6, 2.9, 3.6, 3.6605, 3.7005, 3.8, 4.2295, 4.2505, 6.5525))
    if kind == "equal":
        return [base] * count
    if kind == "spread":
        return [base] * (count - 1) + [base + rng.choice((0.3, 0.301, 0.5, 0.501))]
    if kind == "ties":
        return [rng.randrange(2 * CELL_MV_MAX) / 2000 for _ in range(count)]
    if kind == "broken":
        return [rng.choice((3.7, 6.6, -1.0, float("nan"), rng.uniform(0, 6.6))) for _ in range(count)]
    if kind == "dead":
        return [7.0] * count
    return [rng.uniform(3.2, 4.1) for _ in range(count)]


def random_degrees(rng, count, kind):
    if kind in ("equal", "dead"):
        return [rng.choice((25.0, -50.0, 50.1, 55.0, 55.06, 60.0, 60.1, 300.0))] * count
    if kind == "spread":
        return [20.0] * (count - 1) + [rng.choice((35.0, 35.1, 45.0, 45.1))]
    if kind == "ties":
        return [rng.randrange(-1200, 4000) / 20 for _ in range(count)]
    if kind == "broken":
        return [rng.choice((20.0, 250.0, -70.0, float("nan"))) for _ in range(count)]
    return [rng.uniform(-30, 60) for _ in range(count)]


def vehicle_of(rng, state):
    return VirtualVehicle(
        longitude_deg=rng.choice((rng.uniform(-180, 180), rng.randrange(10**8) / 10**6 + 5e-7, 0.0)),
        latitude_deg=rng.choice((rng.uniform(-90, 90), rng.randrange(8 * 10**7) / 10**6 + 5e-7)),
        heading_rad=0.0,
        odometer_km=rng.choice((rng.uniform(0, 900_000), rng.randrange(10**6) / 20, 1_000_000.0)),
        ignition_on=bool(state & IGNITION_ON),
        is_driving=bool(state & DRIVING),
        is_charging=bool(state & CHARGING),
    )


def check(series, seed, count, edition=Edition.GBT2016):
    profile, rng = PROFILES[series], random.Random(seed)
    chain = Chain(profile)
    expected, made = [], []
    for number in range(1, count + 1):
        kind = rng.choice(("usual", "usual", "ties", "equal", "spread", "broken", "dead"))
        cells = np.array(random_volts(rng, profile.cell_count, kind), np.float32)
        probes = np.array(random_degrees(rng, profile.probe_count, kind), np.float32)
        state = rng.randrange(8)
        vehicle = vehicle_of(rng, state)
        current = np.float32(
            rng.choice((rng.uniform(-400, 400), rng.randrange(-4000, 4000) / 20, 1500.0, -1000.0, 4000.0))
        )
        soc = np.float32(
            rng.choice(
                (rng.uniform(-0.1, 1.1), rng.randrange(200) / 200, rng.randrange(2000) / 2000, 0.01, 0.02, 0.045, 0.05)
            )
        )
        at_ns = (START_S + rng.randrange(10**6)) * 10**9
        pack = chain.measure(cells.tolist(), probes.tolist(), float(current), min(100.0, max(0.0, float(soc) * 100.0)))
        amperes, percent = (math.nan if value is None else value for value in chain.table.pack_sensor)
        readings = master_readings(vehicle, current_a=amperes, soc_pct=percent, has_positioning=profile.has_positioning)
        bodies = report_bodies(pack, readings, alarm_limits=profile.alarm_limits, edition=edition)
        bodies = profile.habits.shaped(bodies)
        frame = Frame(
            command=Command.REALTIME_REPORT,
            vin=vin(profile.series, number),
            message=Report(beijing_time(at_ns), bodies),
            edition=edition,
        )
        expected.append(encode(frame))
        power_w = vehicle.power_w if vehicle.speed_kmh > 0 else 0.0
        made.append((cells, probes, current, soc, state, vehicle, power_w, at_ns // 10**9, vin(profile.series, number)))
    cells, probes, current, soc, state, vehicles, power_w, time_s, vins = zip(*made, strict=True)
    rows = VehicleRows(
        vin=np.array(vins),
        time_s=np.array(time_s, np.int64),
        cells=cells_on_bus(np.array(cells)),
        probes=probes_on_bus(np.array(probes)),
        current_a=np.array(current),
        soc=np.array(soc),
        state=np.array(state, np.uint8),
        odometer_km=np.array([vehicle.odometer_km for vehicle in vehicles]),
        longitude_deg=np.array([vehicle.longitude_deg for vehicle in vehicles]),
        latitude_deg=np.array([vehicle.latitude_deg for vehicle in vehicles]),
        power_w=np.array(power_w),
    )
    for got, right in zip(ReportColumns(profile, edition).frames(rows), expected, strict=True):
        assert got == right, (seed, decode(got), decode(right))


@pytest.mark.parametrize("edition", Edition, ids=lambda edition: edition.name)
@pytest.mark.parametrize("series", sorted(PROFILES))
def test_columns_send_what_a_master_sends(series, edition):
    """Usual states, ties, broken and missing sensors, values out of range, in every state of the vehicle."""
    for seed in range(4):
        check(series, seed, 40, edition)


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4) if IS_LONG else [0], ids="seed{}".format)
def test_columns_send_what_a_master_sends_for_long(seed):
    for number in range(50 if IS_LONG else 1):
        for series in sorted(PROFILES):
            check(series, 1000 * (seed + 1) + number, 40)


def test_every_cell_and_every_probe_of_the_bus():
    """All numbers that a signal can carry, through the DBC and the master's expressions."""
    profile = PROFILES["F7"]
    chain = Chain(profile)
    step = profile.cell_count
    for first in range(0, CELL_MV_MAX + 1, step):
        millivolts = [min(first + place, CELL_MV_MAX) for place in range(step)]
        known = chain.measure([value / 1000 for value in millivolts], [20.0] * profile.probe_count).cell_voltages_v
        assert [round(round(value, 3) * 1000) for value in known] == millivolts
        assert cells_on_bus(np.array(known, np.float32)).tolist() == millivolts
        assert [round(value * 1000) for value in known] == millivolts
    step = profile.probe_count
    for first in range(PROBE_MIN, PROBE_MAX + 1, step):
        tenths = [min(first + place, PROBE_MAX) for place in range(step)]
        known = chain.measure([3.5] * profile.cell_count, [value / 10 for value in tenths]).temperatures_c
        whole = [round(value) for value in known]
        assert degrees_in_report(np.array(tenths)).tolist() == [254 if value < -40 else value + 40 for value in whole]
        assert [round(value * 10) for value in known] == tenths
    assert degrees_in_report(np.array([MISSING])).tolist() == [255]


def test_every_current_and_every_state_of_charge_of_the_bus():
    """All steps of the sensor's signals, and the ties between them, through the DBC and the master's expressions."""
    chain = Chain(PROFILES["E7"])
    ties = np.arange(-32_770, 32_770, 13, dtype=np.float32) / np.float32(20)
    for amperes in ties:
        chain.measure([3.3] * 36, [20.0] * 12, float(amperes))
        (known, _), steps = chain.table.pack_sensor, current_on_bus(np.array([amperes]))[0]
        assert math.isnan(steps) if known is None else known == steps * 0.1
    for part in range(-2, 2004):
        soc = np.float32(part / 2000)
        chain.measure([3.3] * 36, [20.0] * 12, 0.0, min(100.0, max(0.0, float(soc) * 100.0)))
        known, steps = chain.table.pack_sensor[1], soc_on_bus(np.array([soc]))
        assert known == steps[0] * 0.1
        assert percent_in_report(steps)[0] == round(known)
    assert percent_in_report(np.array([math.nan]))[0] == 0xFE


def test_rounding_in_columns_is_that_of_python():
    """On ties, beside them, and anywhere."""
    rng = random.Random(1)
    for decimals in (1, 3, 6):
        values = [(rng.randrange(-(10**8), 10**8) + 0.5) / 10**decimals for _ in range(3000)]
        values += [value for tie in values[:1000] for value in (np.nextafter(tie, 1e9), np.nextafter(tie, -1e9))]
        values += [rng.uniform(-180, 180) for _ in range(3000)]
        expected = [round(round(float(value), decimals) * 10**decimals) for value in values]
        assert rounded(np.array(values), decimals).tolist() == expected
