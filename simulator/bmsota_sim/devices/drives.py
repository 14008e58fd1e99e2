"""What the vehicles of some units do with their packs, step by step: the seam between `life`, in columns, and units, one by one.

`Drives` asks each unit what a timeline orders and whether its pack must rest, lets `DailyLife` decide and step the packs, and tells each
unit what came of it. So what limits a pack limits every vehicle: near empty it slows down, then its contactors open and it stands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_sim.devices.vehicle import Motion
from bmsota_sim.life import CRUISE_SPEED_KMH, Activity, DailyLife, Habits

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota_sim.physics import Packs
    from bmsota_sim.unit import Unit

__all__ = ["Drives"]


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
        for unit in self._units:
            unit.vehicle.has_life = habits.cycle is not None

    def step(self, now_s: float, dt_s: float) -> None:
        """Let *dt_s* pass from *now_s* on, seconds since a local midnight."""
        life = self.life
        for row, unit in enumerate(self._units):
            life.is_on[row] = unit.vehicle.ignition_on
            life.may_begin[row] = unit.may_begin
            life.parked_w[row] = unit.vehicle.parked_w
            if unit.ordered != self._orders[row]:
                self._orders[row] = unit.ordered
                activity, power_w = unit.ordered
                life.order(row, activity, charge_power_w=power_w)
        driven_km = life.odometer_km.copy()
        life.step(now_s, dt_s)
        driven_km = life.odometer_km - driven_km
        rows = zip(
            self._units,
            life.activity.tolist(),
            life.speed_kmh.tolist(),
            life.power_w.tolist(),
            driven_km.tolist(),
            life.is_full.tolist(),
            strict=True,
        )
        for unit, activity, speed_kmh, power_w, distance_km, is_full in rows:
            vehicle = unit.vehicle
            vehicle.is_full = is_full
            vehicle.charge_w = -power_w if activity == Activity.CHARGING else 0.0
            is_usual = activity != Activity.DRIVING or (unit.ordered[0] is not None and speed_kmh == CRUISE_SPEED_KMH)
            vehicle.motion = None if is_usual else Motion(speed_kmh, power_w, distance_km)
            unit.follow(Activity(activity))
            vehicle.step(dt_s)
