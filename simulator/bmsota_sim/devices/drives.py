"""What the vehicles of some units do with their packs, step by step: the seam between `life`, in columns, and units, one by one.

`Drives` asks each unit what a timeline orders and whether its pack must rest, lets `DailyLife` decide and step the packs, and tells each
unit what came of it. So what limits a pack limits every vehicle: near empty it slows down, then its contactors open and it stands.

Strategy. Most vehicles stand, and nothing happens to them. A unit that says when its inputs have changed (`watch`) is asked then, and is told
what is new; every other unit is asked and told each step. Packs of vehicles that do not drive are stepped each half minute (`DailyLife.advance`).
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING

import numpy as np

from bmsota_sim.devices.vehicle import Motion
from bmsota_sim.life import CRUISE_SPEED_KMH, Activity, DailyLife, Habits

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    import numpy.typing as npt

    from bmsota_sim.physics import Packs
    from bmsota_sim.unit import Unit

__all__ = ["STEADY_S", "Drives"]

STEADY_S = 30.0
"""How long a step is for a pack of a vehicle that is parked, or charges: what changes in it takes minutes."""

_ACTIVITIES = tuple(Activity)


class Drives:
    """The vehicles of the units that share one `Packs`, in the order of its rows."""

    def __init__(
        self, packs: Packs, units: Sequence[Unit], owners: Sequence[str], habits: Habits, *, seed: int
    ) -> None:
        """Vehicles that stand.

        Args:
            packs: stepped by `step`, and by nobody else.
            units: one for each row.
            owners: of what their days are drawn.
            habits: what they do every day; without a cycle they drive by order alone.
            seed: of the run.
        """
        self.packs = packs
        self.life = DailyLife(packs, owners, habits, seed=seed)
        self._units = tuple(units)
        self._orders: list[tuple[Activity | None, float | None]] = [(None, None)] * len(self._units)
        self._told = self.life.activity.copy(), self.life.is_full.copy()
        self._odometer_km = self.life.odometer_km.copy()
        self._changed = set(range(len(self._units)))
        """Rows to be asked in the next step."""
        self._asked_always = [
            row for row, unit in enumerate(self._units) if not unit.watch(partial(self._changed.add, row))
        ]
        for unit in self._units:
            unit.vehicle.has_life = habits.cycle is not None

    def step(self, now_s: float, dt_s: float) -> None:
        """Let *dt_s* pass from *now_s* on, seconds since a local midnight."""
        asked = sorted(self._changed.union(self._asked_always))
        self._changed.clear()
        self._ask(asked)
        life = self.life
        stepped = life.advance(now_s, dt_s, steady_s=STEADY_S)
        is_new = (life.activity != self._told[0]) | (life.is_full != self._told[1])
        is_new[asked] = True
        is_new[stepped[life.activity[stepped] != Activity.PARKED]] = True
        rows = np.flatnonzero(is_new)
        if len(rows):
            self._tell(rows, dt_s)
            self._told = life.activity.copy(), life.is_full.copy()

    def _ask(self, rows: Iterable[int]) -> None:
        life = self.life
        for row in rows:
            unit = self._units[row]
            is_on, may_begin, ordered = unit.vehicle.ignition_on, unit.may_begin, unit.ordered
            if is_on != life.is_on[row] or may_begin != life.may_begin[row]:
                life.is_on[row], life.may_begin[row] = is_on, may_begin
                life.inputs_changed()
            if life.parked_w[row] != unit.vehicle.parked_w:
                life.parked_w[row] = unit.vehicle.parked_w
                life.inputs_changed()
            if ordered != self._orders[row]:
                self._orders[row] = ordered
                activity, power_w = ordered
                life.order(row, activity, charge_power_w=power_w)

    def _tell(self, rows: npt.NDArray[np.intp], dt_s: float) -> None:
        life, units = self.life, self._units
        odometer_km = life.odometer_km[rows]
        driven_km = odometer_km - self._odometer_km[rows]
        self._odometer_km[rows] = odometer_km
        told = zip(
            rows.tolist(),
            life.activity[rows].tolist(),
            life.speed_kmh[rows].tolist(),
            life.power_w[rows].tolist(),
            driven_km.tolist(),
            life.is_full[rows].tolist(),
            strict=True,
        )
        for row, activity, speed_kmh, power_w, distance_km, is_full in told:
            unit = units[row]
            vehicle = unit.vehicle
            vehicle.is_full = is_full
            vehicle.charge_w = -power_w if activity == Activity.CHARGING else 0.0
            is_usual = activity != Activity.DRIVING or (
                self._orders[row][0] is not None and speed_kmh == CRUISE_SPEED_KMH
            )
            vehicle.motion = None if is_usual else Motion(speed_kmh, power_w, distance_km)
            unit.follow(_ACTIVITIES[activity])
            vehicle.step(dt_s)
