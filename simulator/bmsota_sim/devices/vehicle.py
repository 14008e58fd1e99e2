"""The vehicle around a pack: ignition, driving, position. It does not know what a BMS is.

Thin on purpose: it drives at one speed in one direction, or stands. Trips, charging and drive cycles come with the
fleet simulation; they change `step` and nothing else.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

__all__ = ["CITIES", "VirtualVehicle"]

CITIES: dict[str, tuple[float, float]] = {
    "Beijing": (116.4074, 39.9042),
    "Chengdu": (104.0668, 30.5728),
    "Guangzhou": (113.2644, 23.1291),
    "Shanghai": (121.4737, 31.2304),
}
"""Longitude and latitude of the middle of the city, WGS 84 degrees."""

CRUISE_SPEED_KMH = 48.0
# A compact electric car takes about 15 kWh per 100 km; at 48 km/h that is 7.2 kW.
CRUISE_POWER_W = 7_200.0
# What the vehicle's electronics take from the pack while it stands switched on.
STANDBY_POWER_W = 350.0
METERS_PER_DEGREE = 111_320.0


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

    @property
    def contactors_closed(self) -> bool:
        """The main contactors, to the drive and the charger. What feeds the electronics has a branch of its own."""
        return self.ignition_on and (self.is_driving or self.is_charging)

    @property
    def speed_kmh(self) -> float:
        return CRUISE_SPEED_KMH if self.ignition_on and self.is_driving else 0.0

    @property
    def power_w(self) -> float:
        """Taken from the pack; > 0 discharges it."""
        if not self.ignition_on:
            return 0.0
        return CRUISE_POWER_W if self.is_driving else STANDBY_POWER_W

    def step(self, dt_s: float) -> None:
        """Move for *dt_s*."""
        distance_km = self.speed_kmh * dt_s / 3600.0
        if distance_km == 0.0:
            return
        self.odometer_km += distance_km
        meters = distance_km * 1000.0
        self.latitude_deg += meters * math.cos(self.heading_rad) / METERS_PER_DEGREE
        self.longitude_deg += (
            meters * math.sin(self.heading_rad) / (METERS_PER_DEGREE * math.cos(math.radians(self.latitude_deg)))
        )
