"""The seam between a fleet and its units: `Unit` is all that a fleet, a driver, a scenario or a campaign uses.

Two fidelities stand behind it. *Full* (`devices.unit.FullUnit`): every CAN frame and every flash operation of one vehicle.
*Fleet* (`columns.units.FleetUnit`): columns over all units that are due, for tens of thousands of vehicles. Both send the same
frames; docs/decisions/0033-two-fidelities.md and 0068-fleet-units.md have the rules that make this true. What only a full unit can
do raises `LocalProtocolError` in a fleet unit.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota.image import ImageVersion
    from bmsota_sim.devices.frame_faults import FrameFaultKind
    from bmsota_sim.devices.vehicle import VirtualVehicle
    from bmsota_sim.identity import VirtualUnitIdentity
    from bmsota_sim.life import Activity
    from bmsota_sim.profiles import SeriesProfile

__all__ = ["PackView", "Unit", "UnitFigures"]


class PackView(Protocol):
    """A pack as its unit's next report shows it. The class that implements it decides who fills the values.

    In a full unit they come over the internal bus: `devices.unit.BusPackView`. In a fleet unit they are rows of columns
    that the physics fills. All values are quantised already, by the rule of docs/decisions/0033-two-fidelities.md.
    """

    def cell_voltages_v(self) -> Sequence[float | None]:
        """Every cell of the pack in volts, multiples of 1 mV; None: not measured, or out of the sensor's range."""
        ...

    def temperatures_c(self) -> Sequence[float | None]:
        """Every probe in degrees Celsius, multiples of 0.1; None as above."""
        ...

    def current_a(self) -> float:
        """Amperes; > 0 discharges."""
        ...

    def soc_pct(self) -> float:
        """The state of charge from 0 to 100."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class UnitFigures:
    """What a unit has counted since it was built, over all power cycles."""

    reports: int
    logins: int
    bytes_up: int
    """Sent to the gateway."""
    bytes_down: int
    """Received from the gateway and the device API."""
    can_frames: int
    """On the internal bus; 0 for a unit that simulates none."""
    notes: tuple[str, ...]
    """The newest log notes of its updater, oldest first."""
    faults: frozenset[tuple[str, int]]
    """The planned faults that have happened: the fault's kind as in a scenario, and the slave (0: not of one slave)."""


class Unit(Protocol):
    """One vehicle of a fleet: its BMS, its modem, and the vehicle around them."""

    @property
    def identity(self) -> VirtualUnitIdentity: ...

    @property
    def profile(self) -> SeriesProfile: ...

    @property
    def name(self) -> str:
        """Short and unique in a run, such as V07."""
        ...

    # -- power

    def switch_on(self) -> None:
        """Ignition on: everything boots."""
        ...

    def switch_off(self, then: Callable[[], None] = ...) -> None:
        """Ignition off: the master logs out, then all lose their supply and *then* is called."""
        ...

    def cycle_power(self, off_ns: int, between: Callable[[], None] = ...) -> None:
        """Off, *between*, and on again after *off_ns*."""
        ...

    def cycle_power_after_download(self, after_ns: int, off_ns: int) -> None:
        """When an image has been downloaded, wait *after_ns*, then `cycle_power`; once."""
        ...

    # -- surroundings

    def set_coverage(self, *, covered: bool) -> None:
        """Enter or leave the mobile network."""
        ...

    def set_driving(self, *, is_driving: bool) -> None:
        """Start to drive, or stop."""
        ...

    # -- faults, each of which happens once

    def cut_download(self, after_bytes: int) -> None:
        """Break the mobile link when *after_bytes* of image data have been downloaded."""
        ...

    def corrupt_download(self, at_byte: int) -> None:
        """Deliver one wrong byte of image data."""
        ...

    def cut_slave_power(self, position: int, at_progress: float, off_ns: int) -> None:
        """Cut a slave's supply when this share (0 to 1) of an image is stored, for *off_ns*."""
        ...

    def set_slave_power(self, position: int, *, is_on: bool) -> None:
        """Cut a slave's supply, or bring it back."""
        ...

    def disturb_frames(self, position: int, kind: FrameFaultKind, rounds: int) -> None:
        """Let one frame of a slave go wrong in each of its next *rounds* measurement rounds."""
        ...

    def fail_self_test(self, version: ImageVersion | str, reason: str) -> None:
        """Let the self-test of this version fail."""
        ...

    def replace_slave(self, position: int, hwid: str, off_ns: int) -> None:
        """Replace a slave, now, by another one that boots after *off_ns*."""
        ...

    # -- what is read

    @property
    def figures(self) -> UnitFigures: ...

    @property
    def pack_view(self) -> PackView: ...

    # -- physics, of which `devices.drives` knows more

    @property
    def ordered(self) -> tuple[Activity | None, float | None]:
        """What a timeline lets the vehicle do in place of its habits, and with which power a charger."""
        ...

    @property
    def may_begin(self) -> bool:
        """Whether the vehicle may drive off, or begin to be charged."""
        ...

    @property
    def vehicle(self) -> VirtualVehicle: ...

    def follow(self, activity: Activity) -> None:
        """What the vehicle does from now on, as the physics found."""
        ...

    def watch(self, changed: Callable[[], object]) -> bool:
        """Whether *changed* will be called whenever `ordered`, `may_begin` or the ignition may have changed; else it must be asked."""
        ...
