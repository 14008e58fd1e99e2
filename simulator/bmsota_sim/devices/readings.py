"""What a virtual master reads of its vehicle: the values that are not its slaves', some of them made up."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from bmsota.gbt32960 import DcdcState, Gear, GearPosition, MotorState
from bmsota.master import MasterReadings, MotorReadings

if TYPE_CHECKING:
    from bmsota_sim.devices.vehicle import VirtualVehicle

__all__ = ["master_readings"]

INSULATION_KOHM = 5000
RPM_PER_KMH = 90
TORQUE_MAX_NM = 400.0
PEDAL_W = 1_000.0
"""Of one per cent of a pedal."""


def master_readings(
    vehicle: VirtualVehicle, *, current_a: float, soc_pct: float, has_positioning: bool
) -> MasterReadings:
    """*vehicle* as its buses and the master's own sensors show it."""
    driving = vehicle.speed_kmh > 0
    power_w = vehicle.power_w if driving else 0.0
    state = MotorState.READY if vehicle.is_ready else MotorState.OFF
    torque_nm, accelerator_pct, brake_pct = (15.0, 20, 0) if driving else (0.0, 0, 0)
    if driving and vehicle.motion is not None:
        # Of the wheel's power; a pedal at its end is what the car's data sheet gives at most.
        torque_nm = round(power_w / (vehicle.speed_kmh * RPM_PER_KMH * math.tau / 60), 1)
        torque_nm = min(max(torque_nm, -TORQUE_MAX_NM), TORQUE_MAX_NM)
        accelerator_pct = min(100, max(0, round(power_w / PEDAL_W)))
        brake_pct = min(100, max(0, round(-power_w / PEDAL_W)))
    return MasterReadings(
        ignition_on=vehicle.ignition_on,
        speed_kmh=vehicle.speed_kmh,
        is_ready=vehicle.is_ready,
        is_charging=vehicle.is_charging,
        is_charge_complete=vehicle.is_full and not vehicle.is_charging,
        current_a=current_a,
        soc_pct=soc_pct,
        contactors_closed=vehicle.contactors_closed,
        supply_v=vehicle.supply_v,
        fault_level=vehicle.fault_level,
        odometer_km=vehicle.odometer_km,
        insulation_kohm=INSULATION_KOHM,
        position=(vehicle.longitude_deg, vehicle.latitude_deg) if has_positioning else None,
        gear=Gear.of(GearPosition.DRIVE if driving else GearPosition.PARK, is_driving=driving),
        dcdc_state=DcdcState.WORKING if vehicle.ignition_on else DcdcState.OPEN,
        accelerator_pct=accelerator_pct,
        brake_pct=brake_pct,
        motors=(
            MotorReadings(
                state=state if not driving else MotorState.GENERATING if power_w < 0 else MotorState.CONSUMING,
                power_w=power_w,
                speed_rpm=round(vehicle.speed_kmh * RPM_PER_KMH),
                torque_nm=torque_nm,
                controller_temperature_c=41 if driving else 30,
                motor_temperature_c=48 if driving else 31,
            ),
        ),
    )
