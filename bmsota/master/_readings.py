"""What a master knows: its cells and probes by the internal bus, the rest by its own sensors and the vehicle's bus."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bmsota.gbt32960 import DcdcState, Gear, GearPosition, MotorState, Sentinel

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bmsota.gbt32960 import AlarmFlag

BUS_STEPS_PER_V = 10_000
"""Of slaves without message protection; the others' step is ten times as large."""


@dataclass(frozen=True, slots=True)
class PackValues:
    """What the master knows of its cells and probes; None where no slave has said anything lately."""

    cell_voltages_v: Sequence[float | None]
    temperatures_c: Sequence[float | None]

    @property
    def voltage_v(self) -> float | None:
        """The sum of the cells; None unless every one is known."""
        known = [value for value in self.cell_voltages_v if value is not None]
        if not known or len(known) != len(self.cell_voltages_v):
            return None
        # In the finest step of the bus, as integers: a sum of floats depends on the version of Python.
        return sum(round(value * BUS_STEPS_PER_V) for value in known) / BUS_STEPS_PER_V


@dataclass(frozen=True, slots=True, kw_only=True)
class MotorReadings:
    """What one motor controller says. It hangs on the pack: its voltage is the pack's."""

    number: int = 1
    state: MotorState
    power_w: float
    """Taken from the pack; > 0 discharges it."""
    speed_rpm: int
    torque_nm: float
    controller_temperature_c: int
    motor_temperature_c: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MasterReadings:
    """What the master measures itself, and what it hears on the vehicle's bus. None: not known."""

    ignition_on: bool
    speed_kmh: float
    is_charging: bool
    current_a: float
    """> 0: discharging."""
    soc_pct: float
    is_ready: bool | None = None
    """Whether the vehicle is started, as a report says it; None: as *ignition_on*. A parked vehicle's BMS may be awake and say that it is off."""
    is_charge_complete: bool = False
    contactors_closed: bool | None = None
    """The main contactors, to the drive and the charger."""
    supply_v: float | None = None
    """Of the 12 V supply."""
    vehicle_alarms: Mapping[AlarmFlag, int] = field(default_factory=dict)
    """General alarms that other controllers tell, with their levels: brakes, DC/DC converter, interlock. They are reported with the pack's own."""
    fault_level: int = 0
    """The highest fault of the vehicle around the pack, 0 to 3; the pack's own alarms are the master's business."""
    odometer_km: float | None = None
    insulation_kohm: float | None = None
    position: tuple[float, float] | None = None
    """Longitude and latitude in degrees, east and north > 0; None: the vehicle has no positioning."""
    gear: Gear = Gear.of(GearPosition.PARK)  # noqa: RUF009 - an integer
    dcdc_state: DcdcState | Sentinel = Sentinel.INVALID
    accelerator_pct: int | None = None
    brake_pct: int | None = None
    motors: tuple[MotorReadings, ...] = ()
