"""A full unit: one vehicle with its master, its slaves, their bus and the modem, switched on and off as one.

The `Unit` (`bmsota_sim.unit`) that simulates every CAN frame and every flash operation.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING

from bmsota.bootloader import BootloaderWire
from bmsota.errors import ConfigurationError
from bmsota.flashing import BootloaderProfile
from bmsota.gbt32960 import Edition, TerminalOptions
from bmsota.image import HardwareClass, ImageRole
from bmsota.master import MasterConfiguration
from bmsota.node import TargetIdentity
from bmsota_sim.devices.bootloader_node import PowerCutPlan
from bmsota_sim.devices.driver import Driver
from bmsota_sim.devices.master import MasterHooks, VirtualMaster
from bmsota_sim.devices.pack_sensor import PackSensor
from bmsota_sim.devices.readings import master_readings
from bmsota_sim.devices.slave import Slave
from bmsota_sim.habits import BehindLogout
from bmsota_sim.links.canbus import CanBus
from bmsota_sim.unit import UnitFigures

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota.image import ImageVersion
    from bmsota.master import MasterReadings, UnitKeys
    from bmsota.signals import Database
    from bmsota_sim.devices.frame_faults import FrameFaultKind
    from bmsota_sim.devices.vehicle import VirtualVehicle
    from bmsota_sim.identity import VirtualUnitIdentity
    from bmsota_sim.kernel import Kernel
    from bmsota_sim.life import Activity
    from bmsota_sim.links.uplink import Modem
    from bmsota_sim.physics import Packs
    from bmsota_sim.profiles import SeriesProfile
    from bmsota_sim.trace import Trace

__all__ = ["BusPackView", "FactoryImages", "FullUnit"]

BITRATE_BPS = 500_000
# A failing cell: a fifth of its capacity and four times its resistance; or a short that empties a large cell in two hours.
WEAK_CELL = (0.2, 4.0)
SHORT_OHM = 0.05


class FactoryImages:
    """What a new master and a new slave of a series run."""

    def __init__(self, master: bytes, slave: bytes) -> None:
        self.master = master
        self.slave = slave


class _SlaveSensors:
    """The cells and probes of one slave: a slice of the pack's row."""

    def __init__(self, packs: Packs, row: int, position: int, profile: SeriesProfile) -> None:
        self._packs = packs
        self._row = row
        cells, probes = profile.cells_per_slave, profile.probes_per_slave
        self._cells = slice((position - 1) * cells, position * cells)
        self._probes = slice((position - 1) * probes, position * probes)
        self.open_cells: set[int] = set()
        """Numbers of cells that cannot be measured."""
        self.broken_probes: dict[int, float] = {}
        """Number of a probe -> what it reads, whatever the temperature."""

    def pack_cell(self, cell: int) -> int:
        """Number of a cell of this slave -> column of the pack."""
        return self._cells.start + cell - 1

    @property
    def pack_cells(self) -> slice:
        return self._cells

    def cell_voltages_v(self) -> Sequence[float]:
        values: list[float] = self._packs.cell_voltage_v[self._row, self._cells].tolist()
        for number in self.open_cells:
            values[number - 1] = math.nan
        return values

    def temperatures_c(self) -> Sequence[float]:
        probe_cells = self._packs.probe_cells[self._probes]
        values: list[float] = self._packs.cell_temperature_c[self._row, probe_cells].tolist()
        for number, value in self.broken_probes.items():
            values[number - 1] = value
        return values


class _MainLine:
    """What flows through the pack: what its sensor measures and counts, and what tells the master whether the pack is at rest."""

    def __init__(self, packs: Packs, row: int) -> None:
        self._packs = packs
        self._row = row

    def current_a(self) -> float:
        return float(self._packs.current_a[self._row])

    def soc_pct(self) -> float:
        # An estimate of the state of charge ends at its scale, however far a cell is driven.
        return min(100.0, max(0.0, float(self._packs.cell_soc[self._row].min()) * 100.0))


class BusPackView:
    """The `PackView` of a full unit: all values as its slaves and its sensor sent them; NaN where nothing is known."""

    def __init__(self, master: VirtualMaster) -> None:
        self._master = master

    def current_a(self) -> float:
        current_a, _ = self._master.pack_sensor
        return math.nan if current_a is None else current_a

    def soc_pct(self) -> float:
        _, soc_pct = self._master.pack_sensor
        return math.nan if soc_pct is None else soc_pct

    def cell_voltages_v(self) -> Sequence[float | None]:
        return self._master.pack_values.cell_voltages_v

    def temperatures_c(self) -> Sequence[float | None]:
        return self._master.pack_values.temperatures_c


class FullUnit:
    """Everything of one vehicle."""

    def __init__(
        self,
        *,
        kernel: Kernel,
        internal_dbc: Database,
        bootloader_dbc: Database,
        modem: Modem,
        vehicle: VirtualVehicle,
        trace: Trace,
        identity: VirtualUnitIdentity,
        profile: SeriesProfile,
        keys: UnitKeys,
        factory: FactoryImages,
        packs: Packs,
        seed: int,
        report_period_ns: int,
        heartbeat_period_ns: int,
        measure_period_ns: int,
        data_bitrate_bps: int | None = None,
        diagnosis_bus: CanBus | None = None,
        origins: Sequence[str] = (),
        unprotected_dbc: Database | None = None,
        unprotected_slaves: Sequence[int] = (),
        edition: Edition = Edition.GBT2016,
    ) -> None:
        """Make a unit, switched off.

        *bootloader_dbc* is any of `dbc/bms_bootloader*.dbc`: its ids and data frames are those of the unit. With
        *data_bitrate_bps* the internal bus carries CAN FD. *origins*: where its platform may be without TLS.
        *unprotected_slaves* run software from before message protection: they send the messages of *unprotected_dbc*, and the
        master measures such slaves.

        Raises:
            ConfigurationError: the bootloader's data frames are CAN FD, and no data bit rate is given.
        """
        self.kernel = kernel
        self.modem = modem
        self.vehicle = vehicle
        self.identity = identity
        self.profile = profile
        self._trace = trace
        self._factory = factory
        self._packs = packs
        self._row = packs.row[identity.vin]
        self.bus = CanBus(
            kernel,
            bitrate_bps=BITRATE_BPS,
            data_bitrate_bps=data_bitrate_bps,
            seed=f"{seed}/{identity.vin}",
            name=identity.name,
        )
        wire = BootloaderWire(bootloader_dbc)
        if wire.is_fd and data_bitrate_bps is None:
            raise ConfigurationError(f"{self.bus.name}: CAN FD needs a data bit rate")
        slave_class = HardwareClass.named(profile.vendor, profile.slave_class_name)
        self.power_cycles = 0
        self.is_over = False
        """The upgrade has been reported and acknowledged."""
        self._self_test_failure: tuple[str, str] = ("", "")
        self._has_failed_self_test = False
        self.shown_position: Callable[[tuple[float, float]], tuple[float, float]] = lambda position: position
        """What its receiver makes of the true longitude and latitude."""
        self._power_cycle: tuple[int, int] | None = None
        line = self._line = _MainLine(packs, self._row)
        self.master = VirtualMaster(
            kernel=kernel,
            bus=self.bus,
            wire=wire,
            modem=modem,
            trace=trace,
            name=identity.name,
            configuration=MasterConfiguration(
                vin=identity.vin,
                iccid=identity.iccid,
                identity=TargetIdentity(
                    position=0,
                    role=ImageRole.MASTER,
                    hwid=identity.master_hwid,
                    serial=identity.master_hwid,
                    hardware_class=HardwareClass.named(profile.vendor, profile.master_class_name),
                ),
                device_key=identity.device_key,
                keys=keys,
                layout=profile.layout,
                slave_class=slave_class,
                alarm_limits=profile.alarm_limits,
                database=internal_dbc,
                unprotected=unprotected_dbc,
                profile=BootloaderProfile(wire),
                measure_period_ns=measure_period_ns,
                has_pack_sensor=True,
                origins=tuple(origins),
                seed=f"{seed}/{identity.vin}",
                terminal=TerminalOptions(edition=edition, heartbeat_period_ns=heartbeat_period_ns),
                shape=profile.habits.shaped if profile.habits.shapes else None,
            ),
            behind_logout=BehindLogout() if profile.habits.reports_behind_logout else None,
            factory_image=factory.master,
            report_period_ns=report_period_ns,
            diagnosis_bus=diagnosis_bus,
            hooks=MasterHooks(
                readings=self._readings,
                download_complete=self._download_complete,
                upgrade_over=self._upgrade_over,
                self_test_failure=self._why_self_test_fails,
                rest_changed=self._rest_changed,
            ),
        )
        self._driver = Driver(
            vehicle,
            may_begin=lambda: self.may_begin,
            note=lambda text: trace.note(kernel.now_ns, self.name, text),
            changed=self.master.vehicle_changed,
        )
        self.pack_view = BusPackView(self.master)
        self.pack_sensor = PackSensor(
            kernel=kernel,
            bus=self.bus,
            database=internal_dbc,
            name=f"{identity.name}/sensor",
            line=line,
            period_ns=measure_period_ns,
            seed=f"{seed}/{identity.vin}/sensor",
        )
        self._cell_sensors = [
            _SlaveSensors(packs, self._row, position, profile) for position in profile.layout.positions
        ]
        self.slaves = [
            Slave(
                kernel=kernel,
                bus=self.bus,
                wire=wire,
                database=unprotected_dbc if unprotected_dbc and position in unprotected_slaves else internal_dbc,
                trace=trace,
                name=f"{identity.name}/slave {position}",
                position=position,
                hwid=hwid,
                hardware_class=slave_class,
                profile=profile,
                image_keys=keys.image_keys,
                factory_image=factory.slave,
                sensors=self._cell_sensors[position - 1],
                measure_period_ns=measure_period_ns,
                seed=f"{seed}/{identity.vin}/{position}",
            )
            for position, hwid in enumerate(identity.slave_hwids, start=1)
        ]

    @property
    def name(self) -> str:
        return self.identity.name

    # -- power -----------------------------------------------------------------------------------------------------------

    def switch_on(self) -> None:
        """Ignition on: everything boots."""
        self.vehicle.ignition_on = True
        self._trace.note(self.kernel.now_ns, self.name, "ignition on")
        self.pack_sensor.power_on()
        for slave in self.slaves:
            slave.power_on()
        self.master.power_on()

    def switch_off(self, then: Callable[[], None] = lambda: None) -> None:
        """Ignition off: the master logs out, then the supply of all goes."""
        self.vehicle.ignition_on = False
        self._trace.note(self.kernel.now_ns, self.name, "ignition off")

        def powered_off() -> None:
            self.pack_sensor.power_off()
            for slave in self.slaves:
                slave.power_off()
            then()

        self.master.shut_down(powered_off)

    def cycle_power(self, off_ns: int, between: Callable[[], None] = lambda: None) -> None:
        """Off, *between*, and on again after *off_ns*."""
        self.power_cycles += 1

        def off() -> None:
            between()
            self.kernel.call_in(off_ns, self.switch_on)

        self.switch_off(off)

    # -- the vehicle -----------------------------------------------------------------------------------------------------

    def set_driving(self, *, is_driving: bool) -> None:
        """Start to drive, or stop. While the pack must rest the vehicle stays where it is, and drives off afterwards."""
        self._driver.drive(is_driving=is_driving)

    def set_charging(self, *, is_charging: bool, power_w: float | None = None) -> None:
        """Plug the charger in, or out. While the pack must rest it does not charge, and begins afterwards."""
        self._driver.charge(is_charging=is_charging, power_w=power_w)

    @property
    def may_begin(self) -> bool:
        """Whether the vehicle may drive off or be charged.

        Neither while the pack must rest, nor while the master restarts, whose
        contactors are open.
        """
        return not self.master.must_rest and (self.master.master is not None or not self.vehicle.ignition_on)

    @property
    def ordered(self) -> tuple[Activity | None, float | None]:
        """What a timeline lets the vehicle do in place of its habits, and with which power a charger."""
        return self._driver.ordered

    def follow(self, activity: Activity) -> None:
        """What the vehicle does now, after a step of the physics (`Drives`)."""
        self._driver.follow(activity)

    def watch(self, changed: Callable[[], object]) -> bool:  # noqa: ARG002
        """It must be asked: what its updater does changes whether its pack must rest."""
        return False

    def _rest_changed(self) -> None:
        """The pack must rest now, or need not any more."""
        if self._driver.waits:
            # After the master has done what it is doing.
            self.kernel.call_soon(self._driver.act)

    def set_coverage(self, *, covered: bool) -> None:
        """Enter or leave the mobile network."""
        self._trace.note(self.kernel.now_ns, self.name, "network found" if covered else "network lost")
        self.modem.set_coverage(covered=covered)
        if covered:
            self.master.network_found()

    # -- what a scenario plans ---------------------------------------------------------------------------------------------

    def cycle_power_after_download(self, after_ns: int, off_ns: int) -> None:
        """The driver leaves some time after the download, and comes back."""
        self._power_cycle = (after_ns, off_ns)

    def cut_download(self, after_bytes: int) -> None:
        self.modem.cut_after_image_bytes = after_bytes

    def corrupt_download(self, at_byte: int) -> None:
        self.modem.corrupt_at_image_byte = at_byte

    def cut_slave_power(self, position: int, at_progress: float, off_ns: int) -> None:
        self.slaves[position - 1].power_cut_plan = PowerCutPlan(at_progress, off_ns)

    def set_slave_power(self, position: int, *, is_on: bool) -> None:
        """Cut a slave's supply, or bring it back."""
        slave = self.slaves[position - 1]
        if is_on:
            slave.power_on()
        else:
            slave.power_off()

    def disturb_frames(self, position: int, kind: FrameFaultKind, rounds: int) -> None:
        """Those of the slave at *position*; 0: of the sensor in the main line."""
        (self.slaves[position - 1] if position else self.pack_sensor).disturb_frames(kind, rounds)

    def fail_self_test(self, version: ImageVersion | str, reason: str) -> None:
        """The image of this version does not pass its self-test on this unit."""
        self._self_test_failure = (str(version), reason)

    def replace_slave(self, position: int, hwid: str, off_ns: int) -> None:
        """A workshop unplugs one slave and puts in another; the rest stays on."""
        slave = self.slaves[position - 1]
        slave.power_off()
        slave.replace(hwid, self._factory.slave)
        self.kernel.call_in(off_ns, slave.power_on)

    # -- faults of the pack, begun and ended; slaves, cells and probes are counted from 1

    def fail_cell(self, slave: int, cell: int, mode: str, *, is_failing: bool) -> None:
        """A cell loses most of its capacity (weak), has a short inside (short), or breaks the circuit (open); or is as before."""
        sensors, packs = self._cell_sensors[slave - 1], self._packs
        column = sensors.pack_cell(cell)
        match mode:
            case "weak":
                capacity, resistance = WEAK_CELL if is_failing else (1 / WEAK_CELL[0], 1 / WEAK_CELL[1])
                packs.change_cell(self._row, column, capacity=capacity, resistance=resistance)
            case "short":
                packs.short_cell(self._row, column, SHORT_OHM if is_failing else None)
            case "open":
                packs.open_cell(self._row, column, is_open=is_failing)
                (sensors.open_cells.add if is_failing else sensors.open_cells.discard)(cell)
            case _:
                raise ConfigurationError(f"expected weak, short or open, got {mode!r} (cell)")
        self._note_fault(f"cell {cell} of slave {slave}: {mode}", is_failing)

    def heat_slave(self, slave: int, *, rise_c_per_s: float, to_c: float) -> None:
        """The cells of a slave heat up from within; a rise of 0 ends it."""
        self._packs.heat_cells(self._row, self._cell_sensors[slave - 1].pack_cells, rise_c_per_s, to_c)
        self._note_fault(f"slave {slave}: its cells heat up", bool(rise_c_per_s))

    def break_probe(self, slave: int, probe: int, mode: str, *, is_broken: bool) -> None:
        """A temperature probe is cut (open) or shorted (short), which its slave sees, or keeps its last value (stuck); or is mended."""
        sensors = self._cell_sensors[slave - 1]
        sensors.broken_probes.pop(probe, None)
        if is_broken:
            reads = {"open": -math.inf, "short": math.inf, "stuck": sensors.temperatures_c()[probe - 1]}
            sensors.broken_probes[probe] = reads[mode]
        self._note_fault(f"probe {probe} of slave {slave}: {mode}", is_broken)

    def _note_fault(self, text: str, is_present: bool) -> None:
        self._trace.note(self.kernel.now_ns, self.name, text if is_present else f"{text} no more")

    def _download_complete(self) -> None:
        if self._power_cycle is not None:
            after_ns, off_ns = self._power_cycle
            self._power_cycle = None
            self.kernel.call_in(after_ns, self.cycle_power, off_ns)

    def _upgrade_over(self) -> None:
        self.is_over = True

    def _why_self_test_fails(self, version: ImageVersion) -> str:
        failing, reason = self._self_test_failure
        if not failing or str(version).split("+", 1)[0] != failing:
            return ""
        self._has_failed_self_test = True
        return reason

    def _readings(self) -> MasterReadings:
        readings = master_readings(
            self.vehicle,
            current_a=self._line.current_a(),
            soc_pct=self._line.soc_pct(),
            has_positioning=self.profile.has_positioning,
        )
        if readings.position is None:
            return readings
        return replace(readings, position=self.shown_position(readings.position))

    @property
    def figures(self) -> UnitFigures:
        master = self.master.figures
        cuts = {
            ("slave_power_cut", slave.position)
            for slave in self.slaves
            if slave.power_cut_plan is not None and slave.power_cut_plan.happened
        }
        frames = {(kind, slave.position) for slave in self.slaves for kind in slave.frame_faults}
        frames |= {(kind, 0) for kind in self.pack_sensor.frame_faults}
        tests = {("self_test_fails", 0)} if self._has_failed_self_test else set()
        return UnitFigures(
            reports=master.reports,
            logins=master.logins,
            bytes_up=master.stream_bytes_sent,
            bytes_down=self.modem.http_bytes + master.stream_bytes_received,
            can_frames=self.bus.frames,
            notes=tuple(master.remarks),
            faults=frozenset(
                {(happened.split()[0], 0) for happened in self.modem.faults_happened} | cuts | frames | tests
            ),
        )
