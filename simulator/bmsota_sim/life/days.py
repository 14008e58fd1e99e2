"""The days of vehicles, in columns: they park, drive their trips, and charge at night; nothing takes what a pack has not.

One row is a vehicle and its pack. `DailyLife.step` decides each row's current from what the vehicle does and what the pack can
bear, and steps the packs. Limits are those of a BMS: near empty or at the lowest cell voltage a pack gives less, so the
vehicle drives slower; at its end the contactors open and the vehicle stands until it is charged. Charging is constant
power up to the highest cell's limit, then constant voltage until the current has tapered.

What a vehicle does on a day is drawn from (seed, owner, day) alone: a row is the same in whatever company.

Strategy. `step` lets time pass for all rows. `advance` lets a second pass, and steps the rows that drive or have something happen to them;
what is parked or charges steadily is stepped once in half a minute, or caught up with as it was when something changes for it. A row's steps
depend on the row alone.

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
        self._was_on = self.is_on.copy()
        """Whether each row was on in its last step."""
        self._lag_s = np.zeros(count)
        """How much time each row is behind: it goes on as in its last step."""
        self._held_w = np.zeros(count)
        """What each row wanted in its last step, unless it drove."""
        self._restless: frozenset[int] = frozenset()
        self._every: npt.NDArray[np.intp] = np.arange(count)
        self._may_change = True
        """Something may begin or end that no clock says."""
        self._next_s = -math.inf
        """When something may begin by the clock."""
        self._driving_rows: npt.NDArray[np.intp] | None = None
        """The rows that drive, as long as nothing has begun or ended since they were found."""
        self._are_on_trips = False
        """All of these are on trips of the habits' cycle, with nothing amiss."""
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
        self._may_change = True

    def inputs_changed(self) -> None:
        """`may_begin`, `is_on` or `parked_w` of a row was set."""
        self._may_change = True

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
        self._begin(now_s)
        self._driving_rows = None
        self._pass(self._every, dt_s, now_s + dt_s)

    def advance(self, now_s: float, dt_s: float, *, steady_s: float) -> npt.NDArray[np.intp]:
        """As `step`, but rows with nothing to decide in this time are stepped once in *steady_s*.

        Args:
            now_s: as of `step`.
            dt_s: always the same.
            steady_s: a multiple of *dt_s*. At each multiple of it, counted from midnight, all rows are there.

        Returns:
            The rows that were stepped, in order.
        """
        restless, end_s = self.packs.restless, now_s + dt_s
        is_whole = end_s // steady_s > now_s // steady_s
        if self._driving_rows is not None and not (restless or self._restless or is_whole or self._decides(now_s)):
            # Nothing has changed for any row since the last time.
            rows = self._driving_rows
            self._lag_s += dt_s
            if not (self._are_on_trips and len(rows) and self._drive(rows, dt_s, end_s)):
                self._pass(rows, dt_s, end_s)
            return rows
        before, was_on = self.activity.copy(), self._was_on
        if now_s // DAY_S != self._day:
            self._catch_up(np.flatnonzero(self._lag_s > 0), now_s, before, was_on)
        self._begin(now_s)
        charging = (self.activity == Activity.CHARGING) & self.is_on
        wanted = np.where(charging, -self._charge_w, np.where(self.is_on, self.parked_w, 0.0))
        changed = (self.activity != before) | (self.is_on != was_on) | (wanted != self._held_w)
        if restless or self._restless:
            changed[list(restless ^ self._restless)] = True
        self._restless = restless
        self._catch_up(np.flatnonzero(changed & (self._lag_s > 0)), now_s, before, was_on)
        self._lag_s += dt_s
        driving = self.activity == Activity.DRIVING
        self._driving_rows = driven = np.flatnonzero(driving)
        self._are_on_trips = bool(
            (self.is_on & self.contactors_closed & ~self._is_cruising)[driven].all() and self.contactors_closed.all()
        )
        if is_whole:
            rows = self._every
        else:
            stepped = changed | driving
            stepped[list(restless)] = True
            rows = np.flatnonzero(stepped)
        lags = self._lag_s[rows]
        for lag_s in _different(lags):
            self._pass(rows[lags == lag_s], lag_s, end_s)
        return rows

    def _catch_up(
        self, rows: npt.NDArray[np.intp], now_s: float, activity: npt.NDArray[np.int8], was_on: npt.NDArray[np.bool_]
    ) -> None:
        """Step *rows* up to now, as they were until now."""
        lags = self._lag_s[rows]
        now, is_on = self.activity, self.is_on
        for lag_s in _different(lags):
            self.activity, self.is_on = activity, was_on
            self._pass(rows[lags == lag_s], lag_s, now_s, wanted_w=self._held_w)
            self.activity, self.is_on = now, is_on

    def _begin(self, now_s: float) -> None:
        """What begins and ends now."""
        if not self._decides(now_s):
            return
        if now_s // DAY_S != self._day:
            self._draw_day(int(now_s // DAY_S), now_s)
        cycle = self.habits.cycle
        self._may_change = False
        self._begin_and_end(now_s)
        self._follow_orders()
        self._next_s = float(self._charge_from_s.min(initial=math.inf))
        trips = self.habits.trips_per_day
        if cycle is not None and trips:
            trip = np.minimum(self._next_trip, trips - 1)
            left = self._departures_s[self._every, trip][self._next_trip < trips]
            self._next_s = min(self._next_s, float(left.min(initial=math.inf)))

    def _decides(self, now_s: float) -> bool:
        """Whether anything may begin or end now."""
        if self._may_change or now_s >= self._next_s or now_s // DAY_S != self._day:
            return True
        cycle = self.habits.cycle
        return cycle is not None and bool((self.is_driving & (self._trip_s >= cycle.duration_s)).any())

    def _steady_w(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.float64]:
        """The power that each row wants while it does not drive."""
        is_on = self.is_on[rows]
        charging = (self.activity[rows] == Activity.CHARGING) & is_on
        wanted: npt.NDArray[np.float64] = np.where(
            charging, -self._charge_w[rows], np.where(is_on, self.parked_w[rows], 0.0)
        )
        return wanted

    def _pass(
        self, rows: npt.NDArray[np.intp], dt_s: float, end_s: float, *, wanted_w: npt.NDArray[np.float64] | None = None
    ) -> None:
        """Step *rows*, which are *dt_s* behind *end_s*; with *wanted_w* what they have wanted so far, and decide nothing."""
        if not len(rows):
            return
        habits, packs = self.habits, self.packs
        is_whole = len(rows) == len(self.owners)
        soc = (packs.cell_soc if is_whole else packs.cell_soc[rows]).min(axis=1).astype(np.float64)
        volts = (packs.cell_voltage_v if is_whole else packs.cell_voltage_v[rows]).sum(axis=1)
        voltage = np.maximum(volts.astype(np.float64), 1.0)
        activity, is_on = self.activity[rows], self.is_on[rows]
        driving = (activity == Activity.DRIVING) & is_on
        self.speed_kmh[rows[~driving]] = 0.0
        if wanted_w is None:
            wanted = self._held_w[rows] = self._steady_w(rows)
            cycle_rows = np.flatnonzero(driving & ~self._is_cruising[rows])
            if len(cycle_rows):
                wanted[cycle_rows] = self._cycle_power_w(rows[cycle_rows], dt_s)
            wanted[driving & self._is_cruising[rows]] = CRUISE_POWER_W
        else:
            wanted = wanted_w[rows]
        capacity = packs.design.capacity_ah
        give_a = np.clip(soc / DERATE_BELOW_SOC, 0.0, 1.0) * habits.discharge_c_rate_max * capacity
        take_a = np.full(len(rows), habits.charge_c_rate_max * capacity)
        busy = np.flatnonzero(activity != Activity.PARKED)
        if len(busy):
            self._limit(rows, busy, wanted / voltage, dt_s, give_a, take_a)
        give_a[~self.contactors_closed[rows]] = 0.0
        # A pack that would be emptied within this step gives only what it has.
        give_a = np.minimum(give_a, np.maximum(soc, 0.0) * 0.98 * capacity * 3600.0 / dt_s)
        share = np.ones(len(rows))
        if driving.any():
            # At r times the speed the power is at most r times as high: rolling grows with r, air and inertia with its cube.
            most = give_a * voltage
            slower = np.where(wanted > most, np.maximum(most, 0.0) / np.maximum(wanted, 1.0), 1.0)
            slower[slower < CRAWL_MIN] = 0.0
            share[driving] = slower[driving]
            slow = driving & (share < 1.0)
            wanted[slow] = np.where(share > 0.0, most, 0.0)[slow]
            self._move(rows, driving, share, dt_s)
        current = np.clip(wanted / voltage, -take_a, give_a)
        bled = self._bled_cells(rows)
        ambient_c = self.ambient_at(end_s - dt_s / 2)
        packs.step(
            current.astype(np.float32),
            dt_s,
            ambient_c=ambient_c,
            balancing=bled,
            rows=None if is_whole else rows,
            has_faults=wanted_w is None,
        )
        self._lag_s[rows] = 0.0
        self._was_on[rows] = is_on
        self._account(rows, dt_s)
        if wanted_w is None:
            self._give_out(rows, share, take_a, voltage)

    def _drive(self, rows: npt.NDArray[np.intp], dt_s: float, end_s: float) -> bool:
        """`_pass` for rows that are all on their trips. Return False, with nothing done, where a pack cannot give what is wanted."""
        habits, packs, cycle = self.habits, self.packs, self.habits.cycle
        assert cycle is not None
        soc = packs.cell_soc[rows].min(axis=1).astype(np.float64)
        voltage = np.maximum(packs.cell_voltage_v[rows].sum(axis=1).astype(np.float64), 1.0)
        at = self._trip_s[rows]
        arrived = at + dt_s
        before, behind = cycle.speed_at(at), cycle.speed_at(arrived)
        wanted = self.powertrain.power_w((before + behind) / 2, (behind - before) / 3.6 / dt_s)
        capacity = packs.design.capacity_ah
        give_a = np.minimum(np.maximum(soc / DERATE_BELOW_SOC, 0.0), 1.0) * habits.discharge_c_rate_max * capacity
        take_a = np.full(len(rows), habits.charge_c_rate_max * capacity)
        wanted_a = wanted / voltage
        self._limit(rows, slice(None), wanted_a, dt_s, give_a, take_a)
        give_a = np.minimum(give_a, np.maximum(soc, 0.0) * 0.98 * capacity * 3600.0 / dt_s)
        if not (wanted <= give_a * voltage).all():
            return False
        self.odometer_km[rows] += cycle.driven_at(arrived) - cycle.driven_at(at)
        self.speed_kmh[rows] = behind
        self._trip_s[rows] = arrived
        current = np.minimum(np.maximum(wanted_a, -take_a), give_a)
        packs.step(current.astype(np.float32), dt_s, ambient_c=self.ambient_at(end_s - dt_s / 2), rows=rows)
        self._lag_s[rows] = 0.0
        self._account(rows, dt_s)
        return True

    def _limit(
        self,
        rows: npt.NDArray[np.intp],
        busy: npt.NDArray[np.intp] | slice,
        wanted_a: npt.NDArray[np.float64],
        dt_s: float,
        give_a: npt.NDArray[np.float64],
        take_a: npt.NDArray[np.float64],
    ) -> None:
        """Lower what the rows at *busy* give and take, by the voltages and the heat of their cells."""
        habits, packs, busy_rows = self.habits, self.packs, rows[busy]
        # What is too hot gives and takes less, and at the end nothing.
        hottest = packs.cell_temperature_c[busy_rows].max(axis=1).astype(np.float64)
        cool = np.minimum(np.maximum((HOT_END_C - hottest) / (HOT_END_C - HOT_BEGIN_C), 0.0), 1.0)
        # The voltages must bear what the heat lets through; nothing of it is cut off by both.
        needed_a = wanted_a[busy] / np.maximum(cool, 1e-9)
        charge_a, discharge_a = packs.current_limits_a(
            habits.cell_v_min, habits.cell_v_max, dt_s, rows=busy_rows, wanted_a=needed_a
        )
        give_a[busy] = np.minimum(give_a[busy], discharge_a) * cool
        # No pack takes more than what fills its fullest cell in this step.
        fullest = packs.cell_soc[busy_rows].max(axis=1).astype(np.float64)
        room_a = np.maximum(1.0 - fullest, 0.0) * packs.design.capacity_ah * 3600.0 / dt_s
        # No limit times no coolness is nothing.
        cooled_a = np.multiply(charge_a, cool, out=np.zeros(len(cool)), where=cool > 0.0)
        take_a[busy] = np.minimum(np.minimum(take_a[busy], cooled_a), room_a)

    def _bled_cells(self, rows: npt.NDArray[np.intp]) -> npt.NDArray[np.bool_] | None:
        charging = (self.activity[rows] == Activity.CHARGING) & self.is_on[rows]
        if not self.habits.balance or not charging.any():
            return None
        volts = self.packs.cell_voltage_v[rows]
        bled: npt.NDArray[np.bool_] = volts > volts.min(axis=1, keepdims=True) + np.float32(BALANCE_BEGIN_V)
        bled &= charging[:, None]
        return bled

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

    def _cycle_power_w(self, rows: npt.NDArray[np.intp], dt_s: float) -> npt.NDArray[np.float64]:
        cycle = self.habits.cycle
        assert cycle is not None
        at = self._trip_s[rows]
        before, behind = cycle.speed_at(at), cycle.speed_at(at + dt_s)
        return self.powertrain.power_w((before + behind) / 2, (behind - before) / 3.6 / dt_s)

    def _move(
        self, rows: npt.NDArray[np.intp], driving: npt.NDArray[np.bool_], slower: npt.NDArray[np.float64], dt_s: float
    ) -> None:
        is_cruising = self._is_cruising[rows]
        cruises = rows[driving & is_cruising]
        self.speed_kmh[cruises] = slower[driving & is_cruising] * CRUISE_SPEED_KMH
        self.odometer_km[cruises] += self.speed_kmh[cruises] * dt_s / 3600.0
        cycle = self.habits.cycle
        rows, slower = rows[driving & ~is_cruising], slower[driving & ~is_cruising]
        if cycle is None or not len(rows):
            return
        at, progress = self._trip_s[rows], slower * dt_s
        self.odometer_km[rows] += cycle.driven_at(at + progress) - cycle.driven_at(at)
        self.speed_kmh[rows] = slower * cycle.speed_at(at + progress)
        self._trip_s[rows] = at + progress

    def _account(self, rows: npt.NDArray[np.intp], dt_s: float) -> None:
        packs = self.packs
        volts = packs.cell_voltage_v if len(rows) == len(self.owners) else packs.cell_voltage_v[rows]
        power_w = packs.current_a[rows].astype(np.float64) * volts.sum(axis=1).astype(np.float64)
        self.power_w[rows] = power_w
        self.energy_out_j[rows] += np.maximum(power_w, 0.0) * dt_s
        self.energy_in_j[rows] += np.maximum(-power_w, 0.0) * dt_s

    def _give_out(
        self,
        rows: npt.NDArray[np.intp],
        share: npt.NDArray[np.float64],
        take_a: npt.NDArray[np.float64],
        voltage: npt.NDArray[np.float64],
    ) -> None:
        """Contactors that open and close again, and charges that are over."""
        packs, habits = self.packs, self.habits
        stops = rows[(self.activity[rows] == Activity.DRIVING) & (share == 0.0)]
        if len(stops):
            self.contactors_closed[stops] = False
            self.activity[stops] = Activity.PARKED
            self.speed_kmh[stops] = 0.0
            self._may_change = True
        if not self.contactors_closed.all():
            opened = rows[~self.contactors_closed[rows]]
            # Not while it is to drive on: it would stop again at once.
            holds = packs.cell_soc[opened].min(axis=1) >= RECONNECT_SOC
            closes = opened[holds & (self._ordered[opened] != Activity.DRIVING)]
            self.contactors_closed[closes] = True
            self._may_change |= len(closes) > 0
        charging = (self.activity[rows] == Activity.CHARGING) & self.is_on[rows]
        if not charging.any():
            return
        charge_w = self._charge_w[rows]
        if habits.taper:
            end_a = np.minimum(TAPER_END * packs.design.capacity_ah, 0.5 * charge_w / voltage)
            is_over = -packs.current_a[rows] <= end_a
        else:
            is_over = take_a * voltage < NO_TAPER_SHARE * charge_w
        soc = (packs.cell_soc if len(rows) == len(self.owners) else packs.cell_soc[rows]).min(axis=1)
        full = rows[charging & (is_over | (soc >= self._charge_to[rows]))]
        self.is_full[full] = True
        self.activity[full] = Activity.PARKED
        self._may_change |= len(full) > 0


def _different(values: npt.NDArray[np.float64]) -> list[float]:
    """Each value once, in order; mostly there is one."""
    if len(values) and (values == values[0]).all():
        return [float(values[0])]
    different: list[float] = np.unique(values).tolist()
    return different
