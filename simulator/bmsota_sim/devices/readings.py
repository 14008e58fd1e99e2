"""What a virtual master reads of its vehicle: the values that are not its slaves', some of them made up."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota.gbt32960 import DcdcState, Gear, GearPosition, MotorState
from bmsota.master import MasterReadings, MotorReadings

if TYPE_CHECKING:
    from bmsota_sim.devices.vehicle import VirtualVehicle

__all__ = ["master_readings"]

INSULATION_KOHM = 5000


def master_readings(
    vehicle: VirtualVehicle, *, current_a: float, soc_pct: float, has_positioning: bool
) -> MasterReadings:
    """*vehicle* as its buses and the master's own sensors show it."""
    driving = vehicle.speed_kmh > 0
    return MasterReadings(
        ignition_on=vehicle.ignition_on,
        speed_kmh=vehicle.speed_kmh,
        is_charging=vehicle.is_charging,
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
        accelerator_pct=20 if driving else 0,
        brake_pct=0,
        motors=(
            MotorReadings(
                state=MotorState.CONSUMING if driving else MotorState.READY if vehicle.ignition_on else MotorState.OFF,
                power_w=vehicle.power_w if driving else 0.0,
                speed_rpm=round(vehicle.speed_kmh * 90),
                torque_nm=15.0 if driving else 0.0,
                controller_temperature_c=41 if driving else 30,
                motor_temperature_c=48 if driving else 31,
            ),
        ),
    )
