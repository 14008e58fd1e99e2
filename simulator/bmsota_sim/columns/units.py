"""Units of fleet fidelity: the `Unit` face over columns, for tens of thousands of vehicles on the kernel of a run.

A `FleetUnit` has a vehicle, a modem and a `TerminalSession` of its own; what a full unit does with slaves, a bus and a master, its
`UnitColumns` does for all units of a series together. Both send the same bytes in the same nanoseconds.

Strategy. *Prepare at the latch, send at the instant.* A report at T shows the latch of floor(T - 0.1 s) (docs/decisions/0068-fleet-units.md).
So 100 ms after each second the group makes the frames of all reports that are due before the next latch, in one call. Whatever
happens to a unit in between (trip, power, outage) changes nothing in a prepared frame; only its session decides what becomes of it: it
is sent, stored, or dropped with the power.

*Ahead of it where nothing moves.* Most vehicles stand, and their packs are stepped each half minute. What the next report of such a unit will show is
known as long before, so its frame is made with those of all the others, in one call. At its latch it is taken if pack and vehicle are as they
were, else made anew (docs/decisions/0083-frames-of-what-stands.md).

Left out: the internal bus, flash, orders and downloads. A unit that needs them is a full one (`bmsota_sim.run.fidelity`).
"""

from __future__ import annotations

import math
from collections import deque
from typing import TYPE_CHECKING, Any, Final, NamedTuple, NoReturn

import numpy as np

from bmsota.errors import ConfigurationError, LocalProtocolError
from bmsota.gbt32960 import (
    CloseRequested,
    Command,
    CommandReceived,
    ConnectRequested,
    Edition,
    ExtensionUndelivered,
    LoggedIn,
    ReplyFlag,
    ReplyReceived,
    SignedReport,
    TerminalOptions,
    TerminalSession,
    TerminalState,
    beijing_time,
)
from bmsota.ota import IdentityReporter
from bmsota_sim.columns.alarms import FAST_KMH, PackLimits, UnitAlarms
from bmsota_sim.columns.nodes import SLAVE_BOOT_NS
from bmsota_sim.columns.quantise import MISSING, cells_on_bus, current_on_bus, probes_on_bus, soc_on_bus
from bmsota_sim.columns.reports import ReportColumns, VehicleRows, pack_values_of, report_frame, vehicle_state
from bmsota_sim.devices.driver import Driver
from bmsota_sim.devices.master import BOOT_TIME_NS, SHUTDOWN_LIMIT_NS
from bmsota_sim.devices.phase import LATCH_NS, SENSOR_OFFSET_NS, next_latch, slave_offset_ns
from bmsota_sim.devices.readings import master_readings
from bmsota_sim.devices.slave import BOOT_TIME_NS as SLAVE_BOOT_TIME_NS
from bmsota_sim.habits import BehindLogout
from bmsota_sim.kernel import SECOND
from bmsota_sim.unit import UnitFigures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from bmsota.gbt32960 import TerminalEvent
    from bmsota.image import ImageVersion
    from bmsota_sim.columns.nodes import SeriesNodes
    from bmsota_sim.devices.frame_faults import FrameFaultKind
    from bmsota_sim.devices.vehicle import VirtualVehicle
    from bmsota_sim.identity import VirtualUnitIdentity
    from bmsota_sim.kernel import Kernel
    from bmsota_sim.life import Activity
    from bmsota_sim.links.uplink import Modem
    from bmsota_sim.physics import Packs
    from bmsota_sim.profiles import SeriesProfile
    from bmsota_sim.trace import Trace

    Array = NDArray[Any]

__all__ = ["FleetUnit", "PackRow", "UnitColumns"]

_NEVER: Final = 1 << 62
_STEADY_NS: Final = 30 * SECOND
"""On multiples of it, since the epoch, packs that stand are stepped."""
_AHEAD_MAX: Final = 1_000
"""Frames that are made ahead in one call: in real time no socket waits longer for it than for a second's reports of a large fleet."""
_STEPS_OF_STEADY: Final = 2
_LOGGING_OUT: Final = frozenset({TerminalState.LOGGING_OUT, TerminalState.LEAVING, TerminalState.ENDED})


class UnitColumns:
    """The units of one series that share report period, edition and packs."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        profile: SeriesProfile,
        packs: Packs,
        nodes: SeriesNodes,
        report_period_ns: int,
        heartbeat_period_ns: int,
        measure_period_ns: int,
        edition: Edition = Edition.GBT2016,
    ) -> None:
        """Without units; each `FleetUnit` adds itself.

        Args:
            kernel: the clock.
            profile: of the series.
            packs: of all its vehicles, also of full ones; stepped by the caller on whole seconds.
            nodes: what a unit says of its nodes.
            report_period_ns: at least a second.
            heartbeat_period_ns: of the sessions.
            measure_period_ns: of the slaves, in whole seconds.
            edition: of the sessions and reports.

        Raises:
            ConfigurationError: a period that a unit of columns cannot have.
        """
        if measure_period_ns % SECOND or measure_period_ns < SECOND or report_period_ns < SECOND:
            raise ConfigurationError(
                f"fleet fidelity: expected measurements in whole seconds and reports each second at most, "
                f"got {measure_period_ns / SECOND:g} s and {report_period_ns / SECOND:g} s"
            )
        self.kernel = kernel
        self.profile = profile
        self.packs = packs
        self.nodes = nodes
        self.report_period_ns = report_period_ns
        self.measure_period_ns = measure_period_ns
        self.options = TerminalOptions(edition=edition, heartbeat_period_ns=heartbeat_period_ns)
        self._columns = ReportColumns(profile, edition)
        self._offsets = [
            SENSOR_OFFSET_NS,
            *(slave_offset_ns(profile, position) for position in profile.layout.positions),
        ]
        self._units: dict[int, FleetUnit] = {}
        self._due: deque[tuple[int, FleetUnit, int]] = deque()
        """When a unit reports, and of which life: sorted, because the period is one and time only grows."""
        self._prepared: deque[tuple[int, FleetUnit, int, bytes]] = deque()
        self._latch_ns = _NEVER
        """The next latch; never, as long as no unit has booted."""
        self._held: tuple[Array, Array, Array, Array] | None = None
        """Cells, temperatures, current and state of charge of the last round, where that is not each second's."""
        self._limits = PackLimits(profile.alarm_limits)
        self._steps: Array = np.full(len(packs.vins), -1, np.int64)
        """Of each pack, when it was compared with the limits."""
        self._is_near: Array = np.zeros(len(packs.vins), np.bool_)
        self._fast: set[FleetUnit] = set()
        """Units whose motors may turn too fast."""
        self._ahead: dict[int, _Ahead] = {}
        """Frames that were made before their latch, by row."""
        self._ahead_until_ns = 0
        """For reports that are due before it all that can be made ahead was made."""
        self._steps_before: Array = np.full(len(packs.vins), -_NEVER, np.int64)
        """Steps of the packs when the current half minute began, and how many they had taken in the one before."""
        self._steps_taken: Array = np.full(len(packs.vins), _NEVER, np.int64)
        self._watched: dict[FleetUnit, UnitAlarms] = {}
        """Units whose pack is near a limit, or beyond it."""

    def add(self, unit: FleetUnit, row: int) -> None:
        """Take *unit* in, whose pack is *row*."""
        self._units[row] = unit

    # -- reports ---------------------------------------------------------------------------------------------------------

    def booted(self, unit: FleetUnit, life: int) -> None:
        """*unit* runs: its first report is a period away."""
        self._due.append((self.kernel.now_ns + self.report_period_ns, unit, life))
        if self._latch_ns == _NEVER:
            self._latch_ns = next_latch(self.kernel.now_ns)
            self.kernel.call_at(self._latch_ns, self._latch)

    def first_round_ns(self, switched_on_ns: int, booted_ns: int) -> list[int]:
        """For the sensor in the main line and each slave, the round from which on the master has its values."""
        period = self.measure_period_ns
        first = ((switched_on_ns + SLAVE_BOOT_TIME_NS) // period + 1) * period
        return [first if first + offset >= booted_ns else first + period for offset in self._offsets]

    def _latch(self) -> None:
        """Make the frames that are due before the next latch."""
        now_ns = self.kernel.now_ns
        packs = self.packs
        self._latch_ns = now_ns + SECOND
        self.kernel.call_at(self._latch_ns, self._latch)
        second_ns = now_ns - LATCH_NS
        if self.measure_period_ns > SECOND and (self._held is None or second_ns % self.measure_period_ns == 0):
            self._held = (
                packs.cell_voltage_v.copy(),
                packs.cell_temperature_c.copy(),
                packs.current_a.copy(),
                packs.soc,
            )
        self._look_at_packs(now_ns, second_ns)
        self._make_ahead(now_ns, second_ns)
        due = []
        while self._due and self._due[0][0] < self._latch_ns:
            report = self._due.popleft()
            if report[1].life == report[2]:
                due.append(report)
        if not due:
            return
        frames = [self._frame_made_ahead(unit, when) for when, unit, _ in due]
        places = [place for place, frame in enumerate(frames) if frame is None]
        if places:
            rows = self._rows([due[place][1] for place in places], [due[place][0] for place in places], second_ns)
            for place, frame in zip(places, self._columns.frames(rows), strict=True):
                frames[place] = frame
        if not self._prepared:
            self.kernel.call_at(due[0][0], self._send)
        self._prepared += [(*report, frame) for report, frame in zip(due, frames, strict=True) if frame is not None]

    def _make_ahead(self, now_ns: int, second_ns: int) -> None:
        """Make the frames of units that stand, up to the next step of their packs."""
        if self._held is not None:
            return
        steps = self.packs.steps
        if second_ns % _STEADY_NS == 0:
            self._steps_taken, self._steps_before = steps - self._steps_before, steps.copy()
        if self._ahead_until_ns >= self._latch_ns:
            return
        self._ahead.clear()
        until_ns = min(second_ns // _STEADY_NS * _STEADY_NS + _STEADY_NS + LATCH_NS, now_ns + self.report_period_ns)
        units: list[FleetUnit] = []
        due_ns: list[int] = []
        for when_ns, unit, life in self._due:
            if when_ns >= until_ns:
                break
            if len(units) == _AHEAD_MAX:
                until_ns = when_ns
                break
            if (
                unit.life == life
                and unit.heard_ns <= second_ns
                and not unit.vehicle.is_driving
                and unit not in self._watched
                and self._steps_taken[unit.row] <= _STEPS_OF_STEADY
            ):
                units.append(unit)
                due_ns.append(when_ns)
        self._ahead_until_ns = until_ns
        if len(units) < 2:
            return
        rows = self._rows(units, due_ns, second_ns)
        made = zip(units, due_ns, rows.state.tolist(), self._columns.frames(rows), strict=True)
        for unit, when_ns, state, frame in made:
            ahead = _Ahead(when_ns, int(steps[unit.row]), state, unit.vehicle.odometer_km, frame)
            self._ahead[unit.row] = ahead

    def _frame_made_ahead(self, unit: FleetUnit, due_ns: int) -> bytes | None:
        """The frame of a report whose latch is now; None if there is none, or something has changed since it was made."""
        ahead = self._ahead.pop(unit.row, None)
        if (
            ahead is None
            or ahead.due_ns != due_ns
            or ahead.steps != self.packs.steps[unit.row]
            or ahead.odometer_km != unit.vehicle.odometer_km
            or ahead.state != vehicle_state(unit.vehicle)
            or unit.vehicle.is_driving
            or unit in self._watched
        ):
            return None
        return ahead.frame

    def _send(self) -> None:
        """Send what is due now."""
        prepared, now_ns = self._prepared, self.kernel.now_ns
        while prepared and prepared[0][0] <= now_ns:
            due_ns, unit, life, frame = prepared.popleft()
            if unit.life == life:
                self._due.append((due_ns + self.report_period_ns, unit, life))
                unit.report(frame)
                if unit in self._watched:
                    self._watched[unit].reported(now_ns)
        if prepared:
            self.kernel.call_at(prepared[0][0], self._send)

    def _rows(self, units: list[FleetUnit], due_ns: list[int], second_ns: int) -> VehicleRows:
        packs, rows = self.packs, [unit.row for unit in units]
        vehicles = [unit.vehicle for unit in units]
        voltage, temperature, current_a, soc = self._measured(rows)
        cells, probes = cells_on_bus(voltage), probes_on_bus(temperature[:, packs.probe_cells])
        line = np.stack((current_a, soc))
        for place, unit in enumerate(units):
            if unit.heard_ns > second_ns:
                unit.hide_unheard(second_ns, cells[place], probes[place], line[:, place])
        return VehicleRows(
            vin=np.array([unit.identity.vin for unit in units]),
            time_s=np.array(due_ns, np.int64) // SECOND,
            cells=cells,
            probes=probes,
            current_a=line[0],
            soc=line[1],
            state=np.array([vehicle_state(vehicle) for vehicle in vehicles], np.uint8),
            odometer_km=np.array([vehicle.odometer_km for vehicle in vehicles]),
            longitude_deg=np.array([vehicle.longitude_deg for vehicle in vehicles]),
            latitude_deg=np.array([vehicle.latitude_deg for vehicle in vehicles]),
            power_w=np.array([vehicle.power_w if vehicle.speed_kmh > 0 else 0.0 for vehicle in vehicles]),
            speed_kmh=np.array([math.nan if vehicle.motion is None else vehicle.speed_kmh for vehicle in vehicles]),
            alarms={place: self._watched[unit].alarms for place, unit in enumerate(units) if unit in self._watched},
        )

    def _measured(self, rows: Array | list[int] | slice) -> tuple[Array, Array, Array, Array]:
        """Cells, temperatures, current and state of charge of some packs, as the last round before the latest latch found them."""
        packs = self.packs
        if self._held is not None:
            voltage, temperature, current_a, soc = self._held
            return voltage[rows], temperature[rows], current_a[rows], soc[rows]
        soc = packs.cell_soc[rows].min(axis=1)
        return packs.cell_voltage_v[rows], packs.cell_temperature_c[rows], packs.current_a[rows], soc

    # -- alarms ----------------------------------------------------------------------------------------------------------

    def _look_at_packs(self, now_ns: int, second_ns: int) -> None:
        """Judge the alarms of the packs that are near a limit, as a master does at its latch."""
        stepped = np.flatnonzero(self.packs.steps != self._steps)
        if self._held is not None and second_ns % self.measure_period_ns == 0:
            stepped = np.arange(len(self._steps))
        if len(stepped):
            # Without a copy where all of them are.
            rows = stepped if len(stepped) < len(self._steps) else slice(None)
            self._is_near[stepped] = self._limits.near(*self._measured(rows))
            self._steps[stepped] = self.packs.steps[stepped]
        found = np.flatnonzero(self._is_near).tolist()
        if not (found or self._fast or self._watched):
            return
        near = [self._units[row] for row in found if row in self._units]
        near += sorted((unit for unit in self._fast if not self._is_near[unit.row]), key=lambda unit: unit.row)
        for unit in near:
            if unit not in self._watched and unit.is_looked_at(now_ns, self.measure_period_ns):
                self._watched[unit] = UnitAlarms(
                    self.profile.alarm_limits, edition=self.options.edition, period_ns=self.measure_period_ns
                )
                self._watched[unit].look_ns = now_ns
        for unit, alarms in list(self._watched.items()):
            if not unit.has_booted:
                del self._watched[unit]
            elif alarms.look_ns is not None and now_ns >= alarms.look_ns:
                self._look_at(unit, alarms, now_ns, second_ns)
                if alarms.is_quiet and unit not in near:
                    unit.look_ns = alarms.look_ns
                    del self._watched[unit]

    def follows(self, unit: FleetUnit) -> None:
        """*unit* drives as fast as it now does."""
        if unit.vehicle.speed_kmh > FAST_KMH:
            self._fast.add(unit)
        else:
            self._fast.discard(unit)

    def _look_at(self, unit: FleetUnit, alarms: UnitAlarms, now_ns: int, second_ns: int) -> None:
        voltage, temperature, current_a, soc = self._measured([unit.row])
        cells, probes = cells_on_bus(voltage[0]), probes_on_bus(temperature[0, self.packs.probe_cells])
        line = np.concatenate((current_a, soc))
        unit.hide_unheard(second_ns, cells, probes, line)
        pack = pack_values_of(cells, probes)
        readings = master_readings(
            unit.vehicle,
            current_a=float(current_on_bus(line[:1])[0]) * 0.1,
            soc_pct=float(soc_on_bus(line[1:])[0]) * 0.1,
            has_positioning=self.profile.has_positioning,
        )
        alarms.look(pack, readings, now_ns, is_disturbed=unit.is_shutting_down)
        if unit.is_shutting_down:
            return
        edition, vin, habits = self.options.edition, unit.identity.vin, self.profile.habits
        for seen in alarms.take_earlier():
            frame = report_frame(edition, vin, seen.at_ns, seen.pack, seen.readings, seen.alarms, habits)
            unit.keep(frame, seen.at_ns)
        if alarms.wants_report(now_ns):
            unit.report(report_frame(edition, vin, now_ns, pack, readings, alarms.alarms, habits))
            alarms.reported(now_ns)


class _Ahead(NamedTuple):
    """A frame that was made before its latch, and what it depends on."""

    due_ns: int
    steps: int
    """Of its pack: cells, temperatures, current and charge change in a step alone."""
    state: int
    """As `vehicle_state` says; one that drives is never made ahead."""
    odometer_km: float
    """Its place changes with it."""
    frame: bytes


class PackRow:
    """The `PackView` of a unit of columns."""

    def __init__(self, packs: Packs, row: int) -> None:
        self._packs = packs
        self._row = row

    def cell_voltages_v(self) -> Sequence[float | None]:
        cells = cells_on_bus(self._packs.cell_voltage_v[self._row])
        return [None if value == MISSING else value * 0.001 for value in cells.tolist()]

    def temperatures_c(self) -> Sequence[float | None]:
        probes = probes_on_bus(self._packs.cell_temperature_c[self._row, self._packs.probe_cells])
        return [None if value == MISSING else value * 0.1 for value in probes.tolist()]

    def current_a(self) -> float:
        return float(current_on_bus(self._packs.current_a[self._row : self._row + 1])[0]) * 0.1

    def soc_pct(self) -> float:
        return float(soc_on_bus(self._packs.cell_soc[self._row].min(keepdims=True))[0]) * 0.1


class FleetUnit:
    """One vehicle of a `UnitColumns`: a `Unit`, and the `StreamListener` and record store of its sessions."""

    is_spare_running = False

    __slots__ = (
        "_behind_logout",
        "_discovery_ns",
        "_driver",
        "_figures",
        "_filed_ns",
        "_first_round_ns",
        "_group",
        "_has_told",
        "_identities",
        "_is_shutting_down",
        "_is_slave_known",
        "_last_login",
        "_powered_off",
        "_records",
        "_session",
        "_switched_on_ns",
        "_touched",
        "_trace",
        "heard_ns",
        "identity",
        "is_powered",
        "life",
        "look_ns",
        "modem",
        "row",
        "vehicle",
    )

    def __init__(
        self, group: UnitColumns, *, modem: Modem, vehicle: VirtualVehicle, trace: Trace, identity: VirtualUnitIdentity
    ) -> None:
        """Make a unit, switched off."""
        self._group = group
        self.modem = modem
        self.vehicle = vehicle
        self.identity = identity
        self.row = group.packs.row[identity.vin]
        self._behind_logout = BehindLogout() if group.profile.habits.reports_behind_logout else None
        self._trace = trace
        self.is_powered = False
        self.life = 0
        """Counts the power-offs: what was planned in an earlier life does not happen."""
        self.look_ns = _NEVER
        """When its master looks at its pack for the first time in this life, or looked at last."""
        self.heard_ns = 0
        """The round from which on all cells and probes are known."""
        self._first_round_ns: list[int] | None = None
        self._session: TerminalSession | None = None
        """None without power, and while the master boots."""
        self._filed_ns = _NEVER
        """When the kernel's entry for the next deadline is due."""
        self._discovery_ns = _NEVER
        self._switched_on_ns = 0
        self._is_slave_known = False
        """The slaves have said who they are, in this life."""
        self._has_told = False
        """The platform has the identity report of this life's nodes."""
        self._identities: IdentityReporter | None = None
        self._records: dict[str, bytes] | None = None
        self._is_shutting_down = False
        self._powered_off: Callable[[], None] | None = None
        self._last_login: tuple[int, int] | None = None
        self._driver = Driver(vehicle, may_begin=self._asks_may_begin, note=self._note)
        self._touched: Callable[[], object] = lambda: None
        """What its drives must ask it for may have changed."""
        self._figures = [0, 0, 0, 0]
        """Reports, logins, bytes up, bytes down."""
        group.add(self, self.row)

    @property
    def profile(self) -> SeriesProfile:
        return self._group.profile

    @property
    def name(self) -> str:
        return self.identity.name

    def _note(self, text: str) -> None:
        self._trace.note(self._group.kernel.now_ns, self.name, text)

    # -- power -----------------------------------------------------------------------------------------------------------

    def switch_on(self) -> None:
        """Ignition on: the master boots."""
        self.vehicle.ignition_on = True
        self._touched()
        self._note("ignition on")
        if not self.is_powered:
            self.is_powered = True
            self._switched_on_ns = self._group.kernel.now_ns
            self._group.kernel.call_in(BOOT_TIME_NS, self._boot, self.life)

    def _boot(self, life: int) -> None:
        if life != self.life:
            return
        group, now_ns = self._group, self._group.kernel.now_ns
        serial, login_ns = self._last_login or (0, None)
        self._session = TerminalSession(
            vin=self.identity.vin,
            iccid=self.identity.iccid,
            # As a master says it (table 6: n is 1, m is 0).
            subsystem_count=1 if group.options.edition is Edition.GBT2016 else None,
            options=group.options,
            last_serial=serial,
            last_login_ns=login_ns,
        )
        self._touched()
        self._first_round_ns = group.first_round_ns(self._switched_on_ns, now_ns)
        self.heard_ns = max(self._first_round_ns)
        self._discovery_ns = group.nodes.discovered_ns(now_ns)
        self.look_ns = next_latch(now_ns + SLAVE_BOOT_NS + group.measure_period_ns - 1)
        self._is_slave_known = self._has_told = self._is_shutting_down = False
        self._filed_ns = _NEVER
        group.booted(self, life)
        self._run_deadlines()
        if self._driver.waits:
            group.kernel.call_soon(self._act_as_ordered)

    def switch_off(self, then: Callable[[], None] = lambda: None) -> None:
        """Ignition off: the master logs out, then the supply goes and *then* is called."""
        self.vehicle.ignition_on = False
        self._touched()
        self._note("ignition off")
        self._powered_off = then
        session, kernel = self._session, self._group.kernel
        if session is not None and session.state is TerminalState.LOGGED_IN:
            kernel.call_in(SHUTDOWN_LIMIT_NS, self._supply_off, session)
            self._is_shutting_down = True
            session.logout(kernel.now_ns)
            self._serve()
        else:
            kernel.call_soon(self._supply_off, session)

    def _supply_off(self, session: TerminalSession | None) -> None:
        then = self._powered_off
        if self._session is not session or then is None:
            return
        self._powered_off = None
        self.is_powered = False
        self.life += 1
        self.modem.power_off()
        self._session = self._identities = None
        self._touched()
        self._filed_ns = self._discovery_ns = _NEVER
        then()

    def cycle_power(self, off_ns: int, between: Callable[[], None] = lambda: None) -> None:
        """Off, *between*, and on again after *off_ns*."""

        def off() -> None:
            between()
            self._group.kernel.call_in(off_ns, self.switch_on)

        self.switch_off(off)

    def cycle_power_after_download(self, after_ns: int, off_ns: int) -> None:
        """Nothing happens: this unit downloads nothing."""

    # -- surroundings ----------------------------------------------------------------------------------------------------

    def set_coverage(self, *, covered: bool) -> None:
        """Enter or leave the mobile network."""
        self._note("network found" if covered else "network lost")
        self.modem.set_coverage(covered=covered)
        if covered and self._session is not None and self._session.state is TerminalState.WAITING:
            self.modem.open_stream(self)  # Not at the next try's time.

    def set_driving(self, *, is_driving: bool) -> None:
        """Start to drive, or stop; not while the master boots."""
        self._driver.drive(is_driving=is_driving)
        self._touched()

    def set_charging(self, *, is_charging: bool, power_w: float | None = None) -> None:
        """Plug the charger in, or out; not while the master boots."""
        self._driver.charge(is_charging=is_charging, power_w=power_w)
        self._touched()

    def _act_as_ordered(self) -> None:
        self._driver.act()
        self._touched()

    def watch(self, changed: Callable[[], object]) -> bool:
        """*changed* is called when its drives must ask it again."""
        self._touched = changed
        return True

    @property
    def may_begin(self) -> bool:
        """Whether the vehicle may drive off or be charged: not while the master boots, whose contactors are open."""
        return self._session is not None or not self.vehicle.ignition_on

    def _asks_may_begin(self) -> bool:  # A function of its own for each unit would be three times as large.
        return self.may_begin

    @property
    def ordered(self) -> tuple[Activity | None, float | None]:
        """What a timeline lets the vehicle do in place of its habits, and with which power a charger."""
        return self._driver.ordered

    def follow(self, activity: Activity) -> None:
        """What the vehicle does now, after a step of the physics (`Drives`)."""
        self._driver.follow(activity)
        self._group.follows(self)

    # -- what needs a full unit --------------------------------------------------------------------------------------------

    def _needs_full(self, what: str) -> NoReturn:
        raise LocalProtocolError(f"{self.name}: {what} needs a unit of full fidelity")

    def cut_download(self, after_bytes: int) -> None:  # noqa: ARG002
        """Raise `LocalProtocolError`: there is no download."""
        self._needs_full("a download")

    def corrupt_download(self, at_byte: int) -> None:  # noqa: ARG002
        """Raise `LocalProtocolError`: there is no download."""
        self._needs_full("a download")

    def cut_slave_power(self, position: int, at_progress: float, off_ns: int) -> None:  # noqa: ARG002
        """Raise `LocalProtocolError`: there are no slaves."""
        self._needs_full("a slave's power cut")

    def set_slave_power(self, position: int, *, is_on: bool) -> None:  # noqa: ARG002
        """Raise `LocalProtocolError`: there are no slaves."""
        self._needs_full("a slave's power")

    def disturb_frames(self, position: int, kind: FrameFaultKind, rounds: int) -> None:  # noqa: ARG002
        """Raise `LocalProtocolError`: there is no bus."""
        self._needs_full("a frame fault")

    def fail_self_test(self, version: ImageVersion | str, reason: str) -> None:  # noqa: ARG002
        """Raise `LocalProtocolError`: no image runs."""
        self._needs_full("a self-test")

    def replace_slave(self, position: int, hwid: str, off_ns: int) -> None:  # noqa: ARG002
        """Raise `LocalProtocolError`: there are no slaves."""
        self._needs_full("a slave's replacement")

    # -- what is read ----------------------------------------------------------------------------------------------------

    @property
    def figures(self) -> UnitFigures:
        reports, logins, bytes_up, bytes_down = self._figures
        return UnitFigures(
            reports=reports,
            logins=logins,
            bytes_up=bytes_up,
            bytes_down=bytes_down,
            can_frames=0,
            notes=(),
            faults=frozenset(),
        )

    @property
    def pack_view(self) -> PackRow:
        return PackRow(self._group.packs, self.row)

    @property
    def has_booted(self) -> bool:
        """Its master runs."""
        return self._session is not None

    @property
    def is_shutting_down(self) -> bool:
        return self._is_shutting_down

    def is_looked_at(self, now_ns: int, period_ns: int) -> bool:
        """Whether its master looks at its pack now."""
        return self._session is not None and now_ns >= self.look_ns and (now_ns - self.look_ns) % period_ns == 0

    def hide_unheard(self, second_ns: int, cells: Array, probes: Array, line: Array) -> None:
        """In the values of one report, mark those of slaves and sensor that have not sent a round by *second_ns*."""
        per_slave, probes_per_slave = self.profile.cells_per_slave, self.profile.probes_per_slave
        if self._first_round_ns and self._first_round_ns[0] > second_ns:
            line[:] = np.nan
        for place, first_ns in enumerate((self._first_round_ns or ())[1:]):
            if first_ns > second_ns:
                cells[place * per_slave : (place + 1) * per_slave] = MISSING
                probes[place * probes_per_slave : (place + 1) * probes_per_slave] = MISSING

    # -- the session -----------------------------------------------------------------------------------------------------

    def keep(self, frame: bytes, collected_ns: int) -> None:
        """Store a report of a moment that is over."""
        if self._session is not None:
            self._session.store_encoded(frame, collected_ns, self._group.kernel.now_ns)
            self._file()

    def report(self, frame: bytes) -> None:
        """A report is due, and this is its frame 0x02."""
        session, now_ns = self._session, self._group.kernel.now_ns
        if session is None or self._is_shutting_down:
            return
        if self._filed_ns <= now_ns:  # What is due in the same nanosecond comes before the report.
            self._run_deadlines()
        session.send_encoded(frame, now_ns)
        self._figures[0] += 1
        data = session.data_to_send()
        if data:
            self._send(data)
        due_ns = session.next_timeout()
        if due_ns is not None and due_ns < self._filed_ns:
            self._file()

    def _send(self, data: bytes) -> None:
        if self._behind_logout is not None:
            data = self._behind_logout.sent(data, self._group.kernel.now_ns)
        self._figures[2] += len(data)
        self._trace.octets(self._group.kernel.now_ns, f"{self.name}>", data)
        self.modem.send_stream(data)

    def _deadline(self) -> None:
        if self._session is not None and self._filed_ns <= self._group.kernel.now_ns:
            self._run_deadlines()

    def _run_deadlines(self) -> None:
        session, now_ns = self._session, self._group.kernel.now_ns
        assert session is not None
        self._filed_ns = _NEVER
        session.handle_timeout(now_ns)
        if self._discovery_ns <= now_ns:
            self._discovery_ns = _NEVER
            self._slaves_found(session, now_ns)
        self._serve()

    def _file(self) -> None:
        """Let the kernel come back at the next deadline: an entry that comes too early does nothing."""
        if self._session is None:
            return
        due_ns = self._session.next_timeout()
        due_ns = self._discovery_ns if due_ns is None else min(due_ns, self._discovery_ns)
        if due_ns < self._filed_ns:
            self._filed_ns = max(due_ns, self._group.kernel.now_ns)
            self._group.kernel.call_at(due_ns, self._deadline)

    def _serve(self) -> None:
        """Do what the session wants."""
        session, now_ns = self._session, self._group.kernel.now_ns
        if session is None:
            return
        while True:
            while (event := session.next_event()) is not None:
                self._act(session, event, now_ns)
            data = session.data_to_send()
            if not data:
                break
            self._send(data)
        self._file()

    def _act(self, session: TerminalSession, event: TerminalEvent, now_ns: int) -> None:
        match event:
            case ConnectRequested():
                self.modem.open_stream(self)
            case CloseRequested():
                session.disconnected(now_ns)
                self.modem.close_stream()
            case LoggedIn(serial):
                self._figures[1] += 1
                self._last_login = (serial, now_ns)
                if self._is_slave_known:
                    self._tell_nodes(session, now_ns)
                if self._identities is not None:
                    self._identities.logged_in()
                self._tell_identity(session, now_ns)
            case ReplyReceived(Command.SIGNED_REPORT, flag, _):
                if self._identities is not None:
                    self._identity_answered(self._identities, flag)
            case ExtensionUndelivered(Command.SIGNED_REPORT, _):
                if self._identities is not None:
                    self._identities.undelivered()
            case CommandReceived(frame):
                session.reply_to(frame, now_ns)
            case _:
                pass

    # -- who the nodes are -------------------------------------------------------------------------------------------------

    def _slaves_found(self, session: TerminalSession, now_ns: int) -> None:
        self._is_slave_known = True
        self._tell_nodes(session, now_ns)
        self._tell_identity(session, now_ns)

    def _tell_nodes(self, session: TerminalSession, now_ns: int) -> None:
        session.send_extension(Command.UNIT_IDENTITY, self._group.nodes.identity(self.identity, now_ns), now_ns)

    def _tell_identity(self, session: TerminalSession, now_ns: int) -> None:
        """The signed one, if the platform does not have it."""
        if self._has_told or not self._is_slave_known or session.state is not TerminalState.LOGGED_IN:
            return
        if self._identities is None:
            self._identities = IdentityReporter(self, vin=self.identity.vin, device_key=self.identity.device_key)
        document = self._identities.take(self._group.nodes.identified(self.identity), (), now_ns)
        if document is not None:
            session.send_extension(Command.SIGNED_REPORT, SignedReport(beijing_time(now_ns), document), now_ns)
            self._note("sends its identity report")

    def _identity_answered(self, identities: IdentityReporter, flag: int) -> None:
        if flag != ReplyFlag.SUCCESS:
            identities.undelivered(is_refused=True)
            return
        identities.acknowledged()
        self._has_told = True
        self._identities = None  # Its record has all that counts from here on.

    def get_record(self, name: str) -> bytes | None:
        """What outlives the power: see `bmsota.boot.BootStore`."""
        return None if self._records is None else self._records.get(name)

    def put_record(self, name: str, value: bytes) -> None:
        self._records = {**(self._records or {}), name: value}

    def delete_record(self, name: str) -> None:
        if self._records is not None:
            self._records.pop(name, None)

    # -- the cloud link (StreamListener) -------------------------------------------------------------------------------------

    def stream_opened(self) -> None:
        if self._session is not None:
            self._session.connected(self._group.kernel.now_ns)
            self._serve()

    def stream_received(self, data: bytes) -> None:
        session, now_ns = self._session, self._group.kernel.now_ns
        self._figures[3] += len(data)
        self._trace.octets(now_ns, f"{self.name}<", data)
        if session is not None:
            session.receive_data(data, now_ns)
            self._serve()

    def stream_closed(self, reason: str) -> None:
        if self._session is not None:
            self._note(f"link closed: {reason}")
            self._session.disconnected(self._group.kernel.now_ns)
            self._serve()
