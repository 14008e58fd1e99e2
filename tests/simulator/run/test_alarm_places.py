"""What is called free of alarms says so when it is decoded in full."""

from __future__ import annotations

from random import Random

import numpy as np
import pytest
from bmsota_sim.columns.reports import pack_values_of, report_frame
from bmsota_sim.devices.readings import master_readings
from bmsota_sim.devices.vehicle import VirtualVehicle
from bmsota_sim.run.alarm_places import AlarmPlaces
from bmsota_sim.run.ledger import _has_alarm

from bmsota.checksums import bcc_xor
from bmsota.gbt32960 import AlarmFlag, Edition, decode


def a_frame(edition, alarms, cells=12):
    vehicle = VirtualVehicle(longitude_deg=121.0, latitude_deg=31.0, heading_rad=0.0, odometer_km=5.0)
    readings = master_readings(vehicle, current_a=1.0, soc_pct=50.0, has_positioning=True)
    pack = pack_values_of(np.full(cells, 3600, np.int16), np.full(4, 200, np.int16))
    return report_frame(edition, "LBM0F7EV9R0000001", 1_795_305_600_000_000_000, pack, readings, alarms)


@pytest.mark.parametrize("edition", Edition)
def test_alarms_are_seen_wherever_a_layout_has_them(edition):
    places = AlarmPlaces()
    for cells in (12, 24, 12):
        assert places.are_zero(a_frame(edition, {}, cells))
        assert not places.are_zero(a_frame(edition, {AlarmFlag.SOC_LOW: 1}, cells))
        assert _has_alarm(a_frame(edition, {AlarmFlag.CELL_OVER_VOLTAGE: 3}, cells))
        assert not _has_alarm(a_frame(edition, {}, cells))


@pytest.mark.parametrize("edition", Edition)
def test_a_frame_without_zeros_is_never_called_free(edition):
    """One byte of it is changed, any byte; whatever is then called free has a report without an alarm in it, or none."""
    random, places, frame = Random(1), AlarmPlaces(), a_frame(edition, {})
    assert places.are_zero(frame)
    free = 0
    for _ in range(600):
        changed = bytearray(frame)
        changed[random.randrange(30, len(frame) - 1)] = random.randrange(1, 256)
        changed[-1] = bcc_xor(bytes(changed[2:-1]))
        if not places.are_zero(bytes(changed)):
            continue
        free += 1
        try:
            bodies = decode(bytes(changed)).message.bodies
        except ValueError:
            continue
        for body in bodies:
            assert not getattr(body, "flags", 0)
            level = getattr(body, "level_max", 0)
            assert not isinstance(level, int) or level == 0
    assert free > 100
