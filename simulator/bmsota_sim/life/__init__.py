"""What vehicles do all day, in columns: driving cycles and what driving takes from a pack, trips and charging by the day. Knows no device and no protocol."""

from __future__ import annotations

from bmsota_sim.life.cycles import DrivingCycle, driving_cycle, read_driving_cycle
from bmsota_sim.life.days import CRUISE_POWER_W, CRUISE_SPEED_KMH, DAY_S, Activity, DailyLife, Habits
from bmsota_sim.life.powertrain import Powertrain

__all__ = [
    "CRUISE_POWER_W",
    "CRUISE_SPEED_KMH",
    "DAY_S",
    "Activity",
    "DailyLife",
    "DrivingCycle",
    "Habits",
    "Powertrain",
    "driving_cycle",
    "read_driving_cycle",
]
