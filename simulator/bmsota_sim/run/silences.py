"""Hours without a sign of life: when the unit of a parked vehicle is off, by the habits of its series (`ReportHabits.silent_h`)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_sim.life import DAY_S
from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.streams import stream

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota_sim.devices.vehicle import VirtualVehicle
    from bmsota_sim.kernel import Kernel
    from bmsota_sim.run.selection import UnitId
    from bmsota_sim.unit import Unit

__all__ = ["Silence", "silences"]

HOUR_S = 3600
# A vehicle that drives or is charged is looked at again after this time.
AGAIN_NS = 60 * NS_PER_S


def silences(
    seed: int, unit: UnitId, silent_h: tuple[float, float], *, begin_s: int, until_s: float
) -> Iterator[tuple[int, int]]:
    """One for each day: when it begins and ends, in nanoseconds from the start of the run. What would outlast *until_s* ends then.

    *begin_s*: the second of its first day at which the run starts.
    """
    for day in range(int((begin_s + until_s) // DAY_S) + 1):
        draw = stream(seed, str(unit), f"silence {day}")
        hours = draw.uniform(*silent_h)
        from_s = day * DAY_S - begin_s + draw.uniform(0.0, DAY_S - hours * HOUR_S)
        to_s = min(from_s + hours * HOUR_S, until_s)
        if 0 < from_s < to_s:
            yield round(from_s * NS_PER_S), round(to_s * NS_PER_S)


class Silence:
    """One unit's, planned."""

    def __init__(self, kernel: Kernel, unit: Unit, vehicle: VirtualVehicle, *, until_ns: int) -> None:
        """*until_ns*: when the unit is switched on again, by the clock of *kernel*."""
        self._kernel, self._unit, self._vehicle, self._until_ns = kernel, unit, vehicle, until_ns

    def begin(self) -> None:
        """Switch the unit off, unless it is off; not before its vehicle is parked and may go anywhere."""
        kernel, unit, vehicle = self._kernel, self._unit, self._vehicle
        if kernel.now_ns >= self._until_ns or not vehicle.ignition_on:
            return
        if vehicle.is_driving or vehicle.is_charging or not unit.may_begin:
            kernel.call_in(AGAIN_NS, self.begin)
        else:
            unit.switch_off(self._off)

    def _off(self) -> None:
        self._kernel.call_at(self._until_ns, self._unit.switch_on)
