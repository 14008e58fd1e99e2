"""The days of vehicles, in columns: they park, drive their trips, and charge at night; nothing takes what a pack has not.

One row is a vehicle and its pack. `DailyLife.step` decides each row's current from what the vehicle does and what the pack can
bear, and steps the packs. Limits are those of a BMS: near empty or at the lowest cell voltage a pack gives less, so the
vehicle drives slower; at its end the contactors open and the vehicle stands until it is charged. Charging is constant
power up to the highest cell's limit, then constant voltage until the current has tapered.

What a vehicle does on a day is drawn from (seed, owner, day) alone: a row is the same in whatever company.

A caller can order what a row does (`order`), hold it (`may_begin`) and switch it off (`is_on`): so the units of a run stand while they
are upgraded, and do what a timeline says.
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
# Between these temperatures of its hottest cell a pack gives and takes less, down to nothing.
HOT_BEGIN_C, HOT_END_C = 55.0, 60.0
# A pack whose contactors opened gives nothing until it holds this much.
RECONNECT_SOC = 0.05
# Under this share of the wanted power a vehicle does not crawl on: it stops.
CRAWL_MIN = 0.05
# What is driven by order, beside all cycles, is driven at one speed: a compact electric car takes about 15 kWh per 100 km.
CRUISE_SPEED_KMH = 48.0
CRUISE_POWER_W = 7_200.0
# A charge with constant power alone is over when the pack takes this much less.
NO_TAPER_SHARE = 0.98
# Passive balancing: while a vehicle charges, cells that are this far above their pack's lowest are bled.
BALANCE_BEGIN_V = 0.010


_BY_HABIT = -1


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
    taper: bool = True
    """Whether a charge goes on with constant voltage where its power can no longer be held."""
    balance: bool = True
    """Whether high cells are bled while the pack charges."""
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
        self.is_full = np.zeros(count, np.bool_)
        """Its charge is over, and it has not driven since."""
        self.may_begin = np.ones(count, np.bool_)
        """Set by the caller: whether the row may drive off or begin to charge now. A trip that is due waits."""
        self.is_on = np.ones(count, np.bool_)
        """Set by the caller: a row that is switched off stands still and takes nothing, whatever it was doing."""
        self.parked_w = np.full(count, habits.parked_w)
        """What each row takes while it is parked."""
        self._ordered: npt.NDArray[np.int8] = np.full(count, _BY_HABIT, np.int8)
        self._is_cruising = np.zeros(count, np.bool_)
        self._was_ordered_to_charge = np.zeros(count, np.bool_)
        self._charge_w = np.full(count, habits.charge_power_w)
        self._charge_to = np.full(count, habits.charge_to)
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

    def order(self, row: int, activity: Activity | None, *, charge_power_w: float | None = None) -> None:
        """Let a row drive (at one speed), charge or stand from the next step on, whatever its habits; None: its habits again.

        What an empty pack, `may_begin` or a full pack forbids does not happen, order or not.
        """
        self._ordered[row] = _BY_HABIT if activity is None else activity
        if activity is Activity.CHARGING:
            self.is_full[row] = False
        is_given = activity is Activity.CHARGING and charge_power_w is not None
        self._charge_w[row] = charge_power_w if is_given else self.habits.charge_power_w
        self._charge_to[row] = 1.0 if is_given else self.habits.charge_to

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
            self._draw_day(int(now_s // DAY_S), now_s)
        self._begin_and_end(now_s)
        self._follow_orders()
        habits, packs = self.habits, self.packs
        count = len(self.owners)
        charge_a = discharge_a = np.full(count, np.inf, np.float32)
        if self.activity.any():
            charge_a, discharge_a = packs.current_limits_a(habits.cell_v_min, habits.cell_v_max, dt_s)
            discharge_a[self.activity == Activity.PARKED] = np.inf
        capacity = packs.design.capacity_ah
        soc = packs.soc.astype(np.float64)
        derate = np.clip(soc / DERATE_BELOW_SOC, 0.0, 1.0)
        give_a = np.minimum(discharge_a, derate * habits.discharge_c_rate_max * capacity).astype(np.float64)
        if self.activity.any():
            # What is too hot gives and takes less, and at the end nothing.
            hottest = packs.cell_temperature_c.max(axis=1).astype(np.float64)
            cool = np.clip((HOT_END_C - hottest) / (HOT_END_C - HOT_BEGIN_C), 0.0, 1.0)
            # Of those that drive or charge: what others do changes no row.
            is_parked = self.activity == Activity.PARKED
            cool[is_parked] = 1.0
            give_a *= cool
            charge_a = charge_a * cool.astype(np.float32)
        give_a[~self.contactors_closed] = 0.0
        # No pack takes more than what fills its fullest cell in this step.
        room_a = np.maximum(1.0 - packs.cell_soc.max(axis=1).astype(np.float64), 0.0) * capacity * 3600.0 / dt_s
        take_a = np.minimum(np.minimum(charge_a, habits.charge_c_rate_max * capacity), room_a).astype(np.float64)
        # A pack that would be emptied within this step gives only what it has.
        give_a = np.minimum(give_a, np.maximum(soc, 0.0) * 0.98 * capacity * 3600.0 / dt_s)

        voltage = np.maximum(packs.pack_voltage_v.astype(np.float64), 1.0)
        wanted_w, share = self._wanted(voltage, give_a, dt_s)
        current = np.clip(wanted_w / voltage, -take_a, give_a)
        packs.step(
            current.astype(np.float32), dt_s, ambient_c=self.ambient_at(now_s + dt_s / 2), balancing=self._bled_cells()
        )
        self._account(dt_s)
        self._give_out(share, take_a, voltage)

    def _bled_cells(self) -> npt.NDArray[np.bool_] | None:
        rows = self.is_charging & self.is_on
        if not self.habits.balance or not rows.any():
            return None
        volts = self.packs.cell_voltage_v
        bled: npt.NDArray[np.bool_] = volts > volts.min(axis=1, keepdims=True) + np.float32(BALANCE_BEGIN_V)
        return bled & rows[:, None]

    # -- what begins and ends

    def _draw_day(self, day: int, now_s: float) -> None:
        habits = self.habits
        is_first, self._day = self._day < 0, day
        if not is_first:
            self.packs.age()
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
        if is_first and habits.cycle is not None:
            # What would have left before there was anybody has left without.
            self._next_trip[:] = (self._departures_s < now_s).sum(axis=1)

    def _begin_and_end(self, now_s: float) -> None:
        habits = self.habits
        cycle = habits.cycle
        if cycle is not None:
            arrived = self.is_driving & ~self._is_cruising & (self._trip_s >= cycle.duration_s)
            self.activity[arrived] = Activity.PARKED
            self.speed_kmh[arrived] = 0.0
        if cycle is not None and habits.trips_per_day:
            trip = np.minimum(self._next_trip, habits.trips_per_day - 1)
            due = (self._next_trip < habits.trips_per_day) & (self._departures_s[np.arange(len(trip)), trip] <= now_s)
            due &= (self._ordered == _BY_HABIT) & (self.may_begin & self.is_on | self.is_driving)
            self._next_trip[due] += 1
            leaves = due & ~self.is_driving & self.contactors_closed
            self.activity[leaves] = Activity.DRIVING
            self.is_full[leaves] = False
            self._is_cruising[leaves] = False
            self._trip_s[leaves] = 0.0
        plugs = (self._charge_from_s <= now_s) & (self.activity == Activity.PARKED) & self.may_begin & self.is_on
        plugs &= self._ordered == _BY_HABIT
        self._charge_from_s[plugs] = math.inf
        self.activity[plugs] = Activity.CHARGING
        self.is_full[plugs] = False

    def _follow_orders(self) -> None:
        """Begin what is ordered, and end what was."""
        ordered = self._ordered
        ends = self._is_cruising & self.is_driving & (ordered != Activity.DRIVING)
        ends |= self.is_charging & ((ordered == Activity.PARKED) | (ordered == Activity.DRIVING))
        ends |= self._was_ordered_to_charge & self.is_charging & (ordered != Activity.CHARGING)
        ends |= self.is_driving & ((ordered == Activity.PARKED) | (ordered == Activity.CHARGING))
        self.activity[ends] = Activity.PARKED
        self.speed_kmh[ends] = 0.0
        self._was_ordered_to_charge = ordered == Activity.CHARGING
        is_free = self.may_begin & (self.activity == Activity.PARKED)
        drives = is_free & (ordered == Activity.DRIVING) & self.contactors_closed
        self.activity[drives] = Activity.DRIVING
        self._is_cruising[drives] = True
        self.is_full[drives] = False
        charges = is_free & (ordered == Activity.CHARGING) & ~self.is_full
        self.activity[charges] = Activity.CHARGING

    # -- what is wanted, and what comes of it

    def _wanted(
        self, voltage: npt.NDArray[np.float64], give_a: npt.NDArray[np.float64], dt_s: float
    ) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """The power each row wants, and the share of its driving power that its pack can give (1: all)."""
        charging, driving = self.is_charging & self.is_on, self.is_driving & self.is_on
        wanted = np.where(charging, -self._charge_w, np.where(self.is_on, self.parked_w, 0.0))
        share = np.ones(len(wanted))
        self.speed_kmh[~driving] = 0.0
        for rows, is_cruise in (
            (np.flatnonzero(driving & ~self._is_cruising), False),
            (np.flatnonzero(driving & self._is_cruising), True),
        ):
            if not len(rows):
                continue
            power = np.full(len(rows), CRUISE_POWER_W) if is_cruise else self._cycle_power_w(rows, dt_s)
            # At r times the speed the power is at most r times as high: rolling grows with r, air and inertia with its cube.
            most = give_a[rows] * voltage[rows]
            slower = np.where(power > most, np.maximum(most, 0.0) / np.maximum(power, 1.0), 1.0)
            slower[slower < CRAWL_MIN] = 0.0
            share[rows] = slower
            wanted[rows] = np.where(slower < 1.0, np.where(slower > 0.0, most, 0.0), power)
            self._move(rows, slower, dt_s, is_cruise=is_cruise)
        return wanted, share

    def _cycle_power_w(self, rows: npt.NDArray[np.intp], dt_s: float) -> npt.NDArray[np.float64]:
        cycle = self.habits.cycle
        assert cycle is not None
        at = self._trip_s[rows]
        before, behind = cycle.speed_at(at), cycle.speed_at(at + dt_s)
        return self.powertrain.power_w((before + behind) / 2, (behind - before) / 3.6 / dt_s)

    def _move(
        self, rows: npt.NDArray[np.intp], slower: npt.NDArray[np.float64], dt_s: float, *, is_cruise: bool
    ) -> None:
        if is_cruise:
            self.speed_kmh[rows] = slower * CRUISE_SPEED_KMH
            self.odometer_km[rows] += self.speed_kmh[rows] * dt_s / 3600.0
            return
        cycle = self.habits.cycle
        assert cycle is not None
        at, progress = self._trip_s[rows], slower * dt_s
        self.odometer_km[rows] += cycle.driven_at(at + progress) - cycle.driven_at(at)
        self.speed_kmh[rows] = slower * cycle.speed_at(at + progress)
        self._trip_s[rows] = at + progress

    def _account(self, dt_s: float) -> None:
        packs = self.packs
        self.power_w = packs.current_a.astype(np.float64) * packs.pack_voltage_v.astype(np.float64)
        self.energy_out_j += np.maximum(self.power_w, 0.0) * dt_s
        self.energy_in_j += np.maximum(-self.power_w, 0.0) * dt_s

    def _give_out(
        self, share: npt.NDArray[np.float64], take_a: npt.NDArray[np.float64], voltage: npt.NDArray[np.float64]
    ) -> None:
        """Contactors that open and close again, and charges that are over."""
        packs, habits = self.packs, self.habits
        stops = self.is_driving & (share == 0.0)
        self.contactors_closed[stops] = False
        self.activity[stops] = Activity.PARKED
        self.speed_kmh[stops] = 0.0
        # Not while it is to drive on: it would stop again at once.
        self.contactors_closed |= (packs.soc >= RECONNECT_SOC) & (self._ordered != Activity.DRIVING)
        if not self.is_charging.any():
            return
        if habits.taper:
            end_a = np.minimum(TAPER_END * packs.design.capacity_ah, 0.5 * self._charge_w / voltage)
            is_over = -packs.current_a <= end_a
        else:
            is_over = take_a * voltage < NO_TAPER_SHARE * self._charge_w
        full = self.is_charging & self.is_on & (is_over | (packs.soc >= self._charge_to))
        self.is_full |= full
        self.activity[full] = Activity.PARKED
