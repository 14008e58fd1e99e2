"""The days of vehicles, in columns: they park, drive their trips, and charge at night; nothing takes what a pack has not.

One row is a vehicle and its pack. `DailyLife.step` decides each row's current from what the vehicle does and what the pack can
bear, and steps the packs. Limits are those of a BMS: near empty or at the lowest cell voltage a pack gives less, so the
vehicle drives slower; at its end the contactors open and the vehicle stands until it is charged. Charging is constant
power up to the highest cell's limit, then constant voltage until the current has tapered.

What a vehicle does on a day is drawn from (seed, owner, day) alone: a row is the same in whatever company.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import IntEnum
from typing import TYPE_CHECKING

import numpy as np

from bmsota_sim.life.powertrain import Powertrain
from bmsota_sim.streams import stream

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt

    from bmsota_sim.life.cycles import DrivingCycle
    from bmsota_sim.physics import Packs

__all__ = ["DAY_S", "Activity", "DailyLife", "Habits"]

DAY_S = 86_400
# Trips leave between these hours; the last one is over before the night.
FIRST_TRIP_S, LAST_TRIP_S = 6 * 3600, 20 * 3600
CHARGE_SPREAD_S = 3600
# A charge ends when the current has fallen to this share of the capacity per hour.
TAPER_END = 0.05
# Below this charge a pack gives less, down to nothing at 0.
DERATE_BELOW_SOC = 0.10
# A pack whose contactors opened gives nothing until it holds this much.
RECONNECT_SOC = 0.05
# Under this share of the wanted power a vehicle does not crawl on: it stops.
CRAWL_MIN = 0.05


class Activity(IntEnum):
    """What a vehicle does."""

    PARKED = 0
    DRIVING = 1
    CHARGING = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Habits:
    """What a group of vehicles does every day."""

    cycle: DrivingCycle | None = None
    """Each trip is this cycle once; None: they never drive."""
    trips_per_day: int = 2
    charge_from_s: int | None = 22 * 3600
    """Second of the day from which they charge, each up to an hour later; None: they never charge."""
    charge_power_w: float = 7_000.0
    charge_to: float = 1.0
    """State of charge of the emptiest cell at which a charge ends."""
    cell_v_min: float = 2.8
    cell_v_max: float = 4.2
    """Limits of a cell; those of the chemistry and its maker."""
    charge_c_rate_max: float = 1.0
    discharge_c_rate_max: float = 3.0
    ambient_c: tuple[float, float] = (20.0, 20.0)
    """Lowest (at 04:00) and highest temperature (at 16:00) of the day."""
    parked_w: float = 0.0
    """What a parked vehicle takes from its pack."""

    def __post_init__(self) -> None:
        if not self.cell_v_min < self.cell_v_max:
            raise ValueError(
                f"expected cell_v_min below cell_v_max, got {self.cell_v_min} and {self.cell_v_max} (habits)"
            )
        if not 0 < self.charge_to <= 1:
            raise ValueError(f"expected charge_to above 0 and up to 1, got {self.charge_to} (habits)")
        if self.charge_power_w < 0 or self.parked_w < 0 or self.trips_per_day < 0:
            raise ValueError("expected charge_power_w, parked_w and trips_per_day of 0 or more (habits)")
        if self.cycle is not None and self.trips_per_day:
            between = (LAST_TRIP_S - FIRST_TRIP_S) / self.trips_per_day
            if self.cycle.duration_s >= between:
                most = (LAST_TRIP_S - FIRST_TRIP_S) // (self.cycle.duration_s + 1)
                raise ValueError(
                    f"expected at most {most} trips a day of {self.cycle.duration_s} s, got {self.trips_per_day} (habits)"
                )


class DailyLife:
    """The days of all vehicles of one pack design and one habit."""

    def __init__(
        self,
        packs: Packs,
        owners: Sequence[str],
        habits: Habits,
        *,
        seed: int,
        powertrain: Powertrain | None = None,
    ) -> None:
        """Vehicles that stand.

        Args:
            packs: their packs; `step` moves them.
            owners: a name for each row, of which its days are drawn.
            habits: what they do.
            seed: of the run.
            powertrain: what driving takes; by default a compact car's.
        """
        if len(owners) != len(packs.vins):
            raise ValueError(f"expected {len(packs.vins)} owners, got {len(owners)} (life)")
        self.packs, self.habits, self.seed = packs, habits, seed
        self.owners = tuple(owners)
        self.powertrain = powertrain or Powertrain()
        count = len(owners)
        self.activity = np.zeros(count, np.int8)
        """`Activity` of each row."""
        self.speed_kmh = np.zeros(count)
        self.odometer_km = np.zeros(count)
        """Driven since the start."""
        self.power_w = np.zeros(count)
        """Taken from each pack in the last step; below 0 charges it."""
        self.energy_out_j = np.zeros(count)
        self.energy_in_j = np.zeros(count)
        """At the packs' terminals since the start, both 0 or more."""
        self.contactors_closed = np.ones(count, np.bool_)
        """Open: the pack gave out, and gives nothing until it is charged."""
        self._trip_s = np.zeros(count)
        """How much of its cycle a driving row has driven; slower than the clock when the pack gives less."""
        self._day = -1
        self._departures_s = np.full((count, max(habits.trips_per_day, 1)), math.inf)
        self._next_trip = np.zeros(count, np.intp)
        self._charge_from_s = np.full(count, math.inf)

    @property
    def is_driving(self) -> npt.NDArray[np.bool_]:
        rows: npt.NDArray[np.bool_] = self.activity == Activity.DRIVING
        return rows

    @property
    def is_charging(self) -> npt.NDArray[np.bool_]:
        rows: npt.NDArray[np.bool_] = self.activity == Activity.CHARGING
        return rows

    def ambient_at(self, now_s: float) -> float:
        """Degrees Celsius at *now_s*."""
        low, high = self.habits.ambient_c
        return (low + high) / 2 - (high - low) / 2 * math.cos(2 * math.pi * (now_s % DAY_S - 4 * 3600) / DAY_S)

    def step(self, now_s: float, dt_s: float) -> None:
        """Let the time from *now_s* to *now_s* + *dt_s* pass.

        Args:
            now_s: seconds since a local midnight; calls follow one another without gaps.
            dt_s: 1 while somebody drives; up to 30 otherwise.
        """
        if now_s // DAY_S != self._day:
            self._draw_day(int(now_s // DAY_S))
        self._begin_and_end(now_s)
        habits, packs = self.habits, self.packs
        count = len(self.owners)
        charge_a = discharge_a = np.full(count, np.inf, np.float32)
        if self.activity.any():
            charge_a, discharge_a = packs.current_limits_a(habits.cell_v_min, habits.cell_v_max, dt_s)
        capacity = packs.design.capacity_ah
        soc = packs.soc.astype(np.float64)
        derate = np.clip(soc / DERATE_BELOW_SOC, 0.0, 1.0)
        give_a = np.minimum(discharge_a, derate * habits.discharge_c_rate_max * capacity).astype(np.float64)
        give_a[~self.contactors_closed] = 0.0
        # No pack takes more than what fills its fullest cell in this step.
        room_a = np.maximum(1.0 - packs.cell_soc.max(axis=1).astype(np.float64), 0.0) * capacity * 3600.0 / dt_s
        take_a = np.minimum(np.minimum(charge_a, habits.charge_c_rate_max * capacity), room_a).astype(np.float64)
        # A pack that would be emptied within this step gives only what it has.
        give_a = np.minimum(give_a, np.maximum(soc, 0.0) * 0.98 * capacity * 3600.0 / dt_s)

        voltage = np.maximum(packs.pack_voltage_v.astype(np.float64), 1.0)
        wanted_w, share = self._wanted(voltage, give_a, dt_s)
        current = np.clip(wanted_w / voltage, -take_a, give_a)
        packs.step(current.astype(np.float32), dt_s, ambient_c=self.ambient_at(now_s + dt_s / 2))
        self._account(dt_s)
        self._give_out(share)

    # -- what begins and ends

    def _draw_day(self, day: int) -> None:
        habits = self.habits
        self._day = day
        self._next_trip[:] = 0
        for row, owner in enumerate(self.owners):
            draw = stream(self.seed, owner, f"day {day}")
            if habits.cycle is not None and habits.trips_per_day:
                between = (LAST_TRIP_S - FIRST_TRIP_S) / habits.trips_per_day
                for trip in range(habits.trips_per_day):
                    late = draw.uniform(0.0, between - habits.cycle.duration_s - 1)
                    self._departures_s[row, trip] = day * DAY_S + FIRST_TRIP_S + trip * between + math.floor(late)
            if habits.charge_from_s is not None:
                late = draw.randrange(CHARGE_SPREAD_S)
                self._charge_from_s[row] = day * DAY_S + habits.charge_from_s + late

    def _begin_and_end(self, now_s: float) -> None:
        habits = self.habits
        cycle = habits.cycle
        if cycle is not None:
            arrived = self.is_driving & (self._trip_s >= cycle.duration_s)
            self.activity[arrived] = Activity.PARKED
            self.speed_kmh[arrived] = 0.0
        if cycle is not None and habits.trips_per_day:
            trip = np.minimum(self._next_trip, habits.trips_per_day - 1)
            due = (self._next_trip < habits.trips_per_day) & (self._departures_s[np.arange(len(trip)), trip] <= now_s)
            self._next_trip[due] += 1
            leaves = due & ~self.is_driving & self.contactors_closed
            self.activity[leaves] = Activity.DRIVING
            self._trip_s[leaves] = 0.0
        plugs = (self._charge_from_s <= now_s) & (self.activity == Activity.PARKED)
        self._charge_from_s[plugs] = math.inf
        self.activity[plugs] = Activity.CHARGING

    # -- what is wanted, and what comes of it

    def _wanted(
        self, voltage: npt.NDArray[np.float64], give_a: npt.NDArray[np.float64], dt_s: float
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The power each row wants, and the share of its driving power that its pack can give (1: all)."""
        habits, drive = self.habits, self.powertrain
        wanted = np.where(self.is_charging, -habits.charge_power_w, habits.parked_w)
        share = np.ones(len(wanted))
        rows = np.flatnonzero(self.is_driving)
        if habits.cycle is None or not len(rows):
            return wanted, share
        at = self._trip_s[rows]
        before, behind = habits.cycle.speed_at(at), habits.cycle.speed_at(at + dt_s)
        power = drive.power_w((before + behind) / 2, (behind - before) / 3.6 / dt_s)
        # At r times the speed the power is at most r times as high: rolling grows with r, air and inertia with its cube.
        most = give_a[rows] * voltage[rows]
        slower = np.where(power > most, np.maximum(most, 0.0) / np.maximum(power, 1.0), 1.0)
        slower[slower < CRAWL_MIN] = 0.0
        share[rows] = slower
        wanted[rows] = np.where(slower < 1.0, np.where(slower > 0.0, most, 0.0), power)
        progress = slower * dt_s
        driven = habits.cycle.driven_at(at + progress) - habits.cycle.driven_at(at)
        self.odometer_km[rows] += driven
        self.speed_kmh[rows] = slower * habits.cycle.speed_at(at + progress)
        self._trip_s[rows] = at + progress
        return wanted, share

    def _account(self, dt_s: float) -> None:
        packs = self.packs
        self.power_w = packs.current_a.astype(np.float64) * packs.pack_voltage_v.astype(np.float64)
        self.energy_out_j += np.maximum(self.power_w, 0.0) * dt_s
        self.energy_in_j += np.maximum(-self.power_w, 0.0) * dt_s

    def _give_out(self, share: npt.NDArray[np.float64]) -> None:
        """Contactors that open and close again, and charges that are over."""
        packs, habits = self.packs, self.habits
        stops = self.is_driving & (share == 0.0)
        self.contactors_closed[stops] = False
        self.activity[stops] = Activity.PARKED
        self.speed_kmh[stops] = 0.0
        self.contactors_closed |= packs.soc >= RECONNECT_SOC
        tapered = -packs.current_a <= np.minimum(
            TAPER_END * packs.design.capacity_ah, 0.5 * habits.charge_power_w / np.maximum(packs.pack_voltage_v, 1.0)
        )
        full = self.is_charging & (tapered | (packs.soc >= habits.charge_to))
        self.activity[full] = Activity.PARKED
