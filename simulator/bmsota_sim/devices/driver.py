"""Who sits in a vehicle: what a timeline orders, what the vehicle's habits are, and what its pack lets it do.

A unit of either fidelity has one. What it wants happens when the pack need not rest; what became of it comes from the physics
(`devices.drives`), which knows when a pack is empty or full.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_sim.life import Activity

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota_sim.devices.vehicle import VirtualVehicle

__all__ = ["Driver"]


class Driver:
    """The driver of one vehicle."""

    __slots__ = ("_changed", "_has_ended", "_is_by_habit", "_may_begin", "_note", "_power_w", "_vehicle", "_wants")

    def __init__(
        self,
        vehicle: VirtualVehicle,
        *,
        may_begin: Callable[[], bool],
        note: Callable[[str], object],
        changed: Callable[[], object] = lambda: None,
    ) -> None:
        """Want what *vehicle* does.

        Args:
            vehicle: the vehicle.
            may_begin: whether it may drive off, or begin to be charged, now.
            note: told what happens, in words.
            changed: called when the vehicle may have begun or ended something.
        """
        self._vehicle = vehicle
        self._may_begin, self._note, self._changed = may_begin, note, changed
        self._wants = (vehicle.is_driving, vehicle.is_charging)
        self._power_w: float | None = None
        """Of the charger; None: the vehicle's own."""
        self._is_by_habit = False
        """What the vehicle does, nobody has ordered."""
        self._has_ended = False
        """What is ordered has ended: the pack is empty, or full."""

    def drive(self, *, is_driving: bool) -> None:
        """Start to drive, or stop. While the pack must rest the vehicle stays where it is, and drives off afterwards."""
        self._wants = (is_driving, self._wants[1])
        self._has_ended = False
        self.act()

    def charge(self, *, is_charging: bool, power_w: float | None = None) -> None:
        """Plug the charger in, or out. While the pack must rest it does not charge, and begins afterwards."""
        self._wants = (self._wants[0], is_charging)
        self._power_w = power_w
        self._has_ended = False
        self.act()

    @property
    def ordered(self) -> tuple[Activity | None, float | None]:
        """What a timeline lets the vehicle do in place of its habits, and with which power a charger."""
        if self._wants[0]:
            return Activity.DRIVING, None
        return (Activity.CHARGING, self._power_w) if self._wants[1] else (None, None)

    @property
    def waits(self) -> bool:
        """Whether the vehicle does not do what it should."""
        return self._wanted != (self._vehicle.is_driving, self._vehicle.is_charging)

    @property
    def _wanted(self) -> tuple[bool, bool]:
        """Whether the vehicle should drive and be charged, if it may."""
        if self._has_ended:
            return False, False
        if self._is_by_habit and self.ordered[0] is None:
            return self._vehicle.is_driving, self._vehicle.is_charging
        return self._wants

    def act(self) -> None:
        """Let the vehicle do what is wanted, unless the pack must rest."""
        vehicle, wants, may_begin = self._vehicle, self._wanted, self._may_begin()
        is_driving = wants[0] and (vehicle.is_driving or may_begin)
        is_charging = wants[1] and (vehicle.is_charging or may_begin)
        self._does(is_driving, is_charging)
        if (is_driving, is_charging) != wants:
            self._note("stays: the pack must rest")
        self._changed()

    def follow(self, activity: Activity) -> None:
        """What the vehicle does now, after a step of the physics."""
        vehicle, ordered = self._vehicle, self.ordered[0]
        does = (activity is Activity.DRIVING, activity is Activity.CHARGING)
        self._is_by_habit = ordered is None and activity is not Activity.PARKED
        if does == (vehicle.is_driving, vehicle.is_charging):
            return
        self._does(*does)
        if ordered not in {None, activity} and self._may_begin():
            self._has_ended = True
            self._note("its pack takes and gives no more")
        self._changed()

    def _does(self, is_driving: bool, is_charging: bool) -> None:
        vehicle = self._vehicle
        if is_driving != vehicle.is_driving:
            vehicle.is_driving = is_driving
            self._note("drives" if is_driving else "stops")
        if is_charging != vehicle.is_charging:
            vehicle.is_charging = is_charging
            self._note("charges" if is_charging else "stops charging")
