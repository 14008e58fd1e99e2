"""The vehicle around a pack: ignition, driving, position. It does not know what a BMS is.

By itself it drives at one speed in one direction, or stands. What it does all day is decided by `bmsota_sim.life`, and comes as its
`Motion` at each step of the physics (`devices.drives`).
"""

from __future__ import annotations

import math
from dataclasses import dataclass

from bmsota_sim.life import CRUISE_POWER_W, CRUISE_SPEED_KMH

__all__ = ["CITIES", "CRUISE_POWER_W", "CRUISE_SPEED_KMH", "Motion", "VirtualVehicle"]

CITIES: dict[str, tuple[float, float]] = {
    "Beijing": (116.4074, 39.9042),
    "Chengdu": (104.0668, 30.5728),
    "Guangzhou": (113.2644, 23.1291),
    "Shanghai": (121.4737, 31.2304),
}
"""Longitude and latitude of the middle of the city, WGS 84 degrees."""

# What the vehicle's electronics take from the pack while it stands switched on.
STANDBY_POWER_W = 350.0
# What the modem and the BMS of a parked vehicle take.
PARKED_POWER_W = 20.0
METERS_PER_DEGREE = 111_320.0


@dataclass(frozen=True, slots=True)
class Motion:
    """How a vehicle moves in a step of the physics, where that is not at its one speed."""

    speed_kmh: float
    power_w: float
    """Taken from the pack; below 0 it recuperates."""
    distance_km: float
    """Of the step."""


@dataclass(slots=True)
class VirtualVehicle:
    """What drives and stands."""

    longitude_deg: float
    latitude_deg: float
    heading_rad: float
    odometer_km: float
    ignition_on: bool = True
    is_driving: bool = False
    is_charging: bool = False
    supply_v: float = 13.8
    """The 12 V supply, held up by the DC/DC converter; a worn battery is a lower one."""
    fault_level: int = 0
    """The highest fault of the vehicle's other controllers, 0 to 3 as in GB/T 32960."""
    motion: Motion | None = None
    """None: at one speed, or not at all."""
    charge_w: float = 0.0
    """What the charger gives the pack."""
    has_life: bool = False
    """It has trips: what is parked is not ready to drive, and takes less than what waits for its driver."""
    is_full: bool = False
    """Its charge is over, and it has not driven since."""

    @property
    def contactors_closed(self) -> bool:
        """The main contactors, to the drive and the charger. What feeds the electronics has a branch of its own."""
        return self.ignition_on and (self.is_driving or self.is_charging)

    @property
    def is_ready(self) -> bool:
        """Started, as a report says it: its driver has switched it on, not only its BMS is awake."""
        return self.ignition_on and (self.is_driving or not (self.has_life or self.is_charging))

    @property
    def speed_kmh(self) -> float:
        if not self.ignition_on or not self.is_driving:
            return 0.0
        return CRUISE_SPEED_KMH if self.motion is None else self.motion.speed_kmh

    @property
    def power_w(self) -> float:
        """Taken from the pack; > 0 discharges it."""
        if not self.ignition_on:
            return 0.0
        if self.is_driving:
            return CRUISE_POWER_W if self.motion is None else self.motion.power_w
        return -self.charge_w if self.is_charging else self.parked_w

    @property
    def parked_w(self) -> float:
        """What its electronics take from the pack while it stands."""
        return 0.0 if not self.ignition_on else PARKED_POWER_W if self.has_life else STANDBY_POWER_W

    def step(self, dt_s: float) -> None:
        """Move for *dt_s*."""
        distance_km = self.speed_kmh * dt_s / 3600.0
        if self.motion is not None:
            distance_km = self.motion.distance_km
        if distance_km == 0.0:
            return
        self.odometer_km += distance_km
        meters = distance_km * 1000.0
        self.latitude_deg += meters * math.cos(self.heading_rad) / METERS_PER_DEGREE
        self.longitude_deg += (
            meters * math.sin(self.heading_rad) / (METERS_PER_DEGREE * math.cos(math.radians(self.latitude_deg)))
        )
