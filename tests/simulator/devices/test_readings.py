"""What a virtual master reads of its vehicle."""

from __future__ import annotations

import pytest
from bmsota_sim.devices.readings import master_readings
from bmsota_sim.devices.vehicle import VirtualVehicle

from bmsota.gbt32960 import DcdcState, GearPosition, MotorState
from bmsota.master import PackValues, report_bodies


@pytest.fixture
def vehicle():
    return VirtualVehicle(longitude_deg=104.0668, latitude_deg=30.5728, heading_rad=0.0, odometer_km=1234.56)


def read(vehicle, *, has_positioning=True):
    return master_readings(vehicle, current_a=1.0, soc_pct=50.0, has_positioning=has_positioning)


def test_a_driving_vehicle(vehicle):
    vehicle.is_driving = True
    readings = read(vehicle)
    assert readings.speed_kmh == vehicle.speed_kmh > 0
    assert readings.gear.position is GearPosition.DRIVE
    assert readings.gear.is_driving
    (motor,) = readings.motors
    assert (motor.state, motor.power_w) == (MotorState.CONSUMING, vehicle.power_w)


def test_a_parked_and_a_switched_off_vehicle(vehicle):
    assert read(vehicle).gear.position is GearPosition.PARK
    assert read(vehicle).motors[0].state is MotorState.READY
    # What the electronics take while parked does not flow through the motor.
    assert read(vehicle).motors[0].power_w == 0
    vehicle.ignition_on = False
    assert read(vehicle).motors[0].state is MotorState.OFF
    assert read(vehicle).dcdc_state is DcdcState.OPEN


def test_a_series_without_positioning_has_no_position(vehicle):
    assert read(vehicle).position == (104.0668, 30.5728)
    assert read(vehicle, has_positioning=False).position is None


def test_all_of_it_makes_a_report(vehicle):
    assert len(report_bodies(PackValues((3.7,), (20.0,)), read(vehicle))) == 7
