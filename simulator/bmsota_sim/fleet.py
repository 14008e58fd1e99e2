"""A fleet of virtual units from a scenario and a seed, on one kernel.

`Fleet` builds the units, plans what the scenario says, and steps the physics of all packs. Which platform the units reach
is decided by the uplinks handed in, so the same fleet runs in virtual and in real time, and against any platform.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_sim import defaults
from bmsota_sim.devices.drives import Drives
from bmsota_sim.devices.frame_faults import FrameFaultKind
from bmsota_sim.devices.unit import FullUnit
from bmsota_sim.devices.vehicle import CITIES, VirtualVehicle
from bmsota_sim.identity import slave_hwid, unit_identity
from bmsota_sim.kernel import MS, SECOND, Kernel
from bmsota_sim.life import Habits
from bmsota_sim.links.uplink import Modem
from bmsota_sim.physics import LFP, NMC, PackDesign, Packs
from bmsota_sim.profiles import PROFILES
from bmsota_sim.scenario import CorruptByte, DownloadCut, FrameDisturbed, SelfTestFails, SlavePowerCut, SlaveReplaced
from bmsota_sim.streams import stream
from bmsota_sim.trace import Trace
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota.master import UnitKeys
    from bmsota.signals import Database
    from bmsota_sim.devices.unit import FactoryImages
    from bmsota_sim.links.uplink import Uplink
    from bmsota_sim.profiles import SeriesProfile
    from bmsota_sim.scenario import Fault, Scenario
    from bmsota_sim.unit import Unit
    from bmsota_sim.virtual import MemoryPlatform

__all__ = ["Fleet", "pack_design", "virtual_fleet"]

CHEMISTRIES = {"lfp": LFP, "nmc": NMC}
PHYSICS_STEP_NS = SECOND
# Units are switched on one after another: no fleet starts in the same nanosecond.
START_SPREAD_NS = 2 * SECOND
SOC_MIN, SOC_MAX = 0.35, 0.9


def pack_design(profile: SeriesProfile) -> PackDesign:
    """The packs of a series, as the physics knows them."""
    return PackDesign(
        cell_count=profile.cell_count,
        probe_count=profile.probe_count,
        capacity_ah=profile.capacity_ah,
        chemistry=CHEMISTRIES[profile.chemistry],
    )


class Fleet:
    """All units of one run."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        kernel: Kernel,
        uplink: Callable[[int], Uplink],
        keys: UnitKeys | None = None,
        origins: Sequence[str] = (),
        databases: Callable[[str], Database] = defaults.database,
        factory_images: Callable[[str], FactoryImages] = defaults.factory_images,
    ) -> None:
        """Build the fleet.

        Args:
            scenario: what the fleet is and what happens to it.
            seed: of the run.
            kernel: the clock.
            uplink: vehicle number -> its way to a platform.
            keys: the keys that the units trust; by default those of the sample images and manifests, and none for orders.
            origins: where the platform of the units may be without TLS, as "http://host:port".
            databases: the name of a DBC -> loaded: `bms_internal` (and `bms_internal_unprotected`, if a vehicle has such
                slaves), and `SeriesProfile.bootloader_dbc` of every series.
            factory_images: series -> the images that its new masters and slaves run.
        """
        self.scenario = scenario
        self.seed = seed
        self.kernel = kernel
        self.start_ns = kernel.now_ns
        self.trace = Trace()
        self.units: list[Unit] = []
        self._is_started = False
        self._packs: dict[str, Packs] = {}
        self._drives: list[Drives] = []
        numbers = range(1, scenario.vehicle_count + 1)
        identities = {
            number: unit_identity(
                seed, scenario.series_of(number), number, PROFILES[scenario.series_of(number)].slave_count
            )
            for number in numbers
        }
        for series in sorted({scenario.series_of(number) for number in numbers}):
            members = [number for number in numbers if scenario.series_of(number) == series]
            profile = PROFILES[series]
            self._packs[series] = Packs(
                pack_design(profile),
                [identities[number].vin for number in members],
                seed=seed,
                soc=[self._soc(number) for number in members],
            )
        keys = keys or defaults.unit_keys()
        factory = {series: factory_images(series) for series in self._packs}
        for number in numbers:
            group = scenario.group_of(number)
            identity = identities[number]
            plan = scenario.vehicles.get(number)
            unprotected = () if plan is None else plan.unprotected_slaves
            modem = Modem(kernel, uplink(number), rate_bytes_per_s=scenario.link_rate_bytes_per_s)
            self.units.append(
                FullUnit(
                    kernel=kernel,
                    internal_dbc=databases("bms_internal"),
                    bootloader_dbc=databases(PROFILES[group.series].bootloader_dbc),
                    data_bitrate_bps=PROFILES[group.series].data_bitrate_bps,
                    modem=modem,
                    vehicle=self._vehicle(number, group.city),
                    trace=self.trace,
                    identity=identity,
                    profile=PROFILES[group.series],
                    keys=keys,
                    factory=factory[group.series],
                    packs=self._packs[group.series],
                    seed=seed,
                    report_period_ns=round(scenario.report_period_s * SECOND),
                    heartbeat_period_ns=scenario.heartbeat_period_s * SECOND,
                    measure_period_ns=round(scenario.measure_period_s * SECOND),
                    origins=origins,
                    unprotected_dbc=databases("bms_internal_unprotected") if unprotected else None,
                    unprotected_slaves=unprotected,
                )
            )

        for series, packs in self._packs.items():
            members = [number for number in numbers if scenario.series_of(number) == series]
            chemistry = packs.design.chemistry
            habits = Habits(charge_from_s=None, cell_v_min=chemistry.cell_v_min, cell_v_max=chemistry.cell_v_max)
            units = [self.unit(number) for number in members]
            self._drives.append(Drives(packs, units, [str(number) for number in members], habits, seed=seed))

    def _soc(self, number: int) -> float:
        plan = self.scenario.vehicles.get(number)
        if plan is not None and plan.soc_pct is not None:
            return plan.soc_pct / 100.0
        return stream(self.seed, str(number), "soc").uniform(SOC_MIN, SOC_MAX)

    def _vehicle(self, number: int, city: str) -> VirtualVehicle:
        random = stream(self.seed, str(number), "vehicle")
        longitude, latitude = CITIES.get(city, CITIES["Shanghai"])
        return VirtualVehicle(
            longitude_deg=longitude + random.uniform(-0.15, 0.15),
            latitude_deg=latitude + random.uniform(-0.12, 0.12),
            heading_rad=random.uniform(0.0, 6.283),
            odometer_km=round(random.uniform(200.0, 90_000.0), 1),
            ignition_on=False,
        )

    def unit(self, number: int) -> Unit:
        return self.units[number - 1]

    # -- the run -----------------------------------------------------------------------------------------------------------

    def start(self) -> None:
        """Plan everything the scenario says, and switch the units on. Once."""
        self._is_started = True
        for number, unit in enumerate(self.units, start=1):
            spread = stream(self.seed, str(number), "start").randrange(START_SPREAD_NS)
            self._plan_vehicle(number, unit)
            self.kernel.call_in(spread, unit.switch_on)
        for fault in self.scenario.faults:
            self._plan_fault(fault)
        self.kernel.call_in(PHYSICS_STEP_NS, self._step_physics)

    def run(self, seconds: float) -> None:
        """Let *seconds* of virtual time pass; switches the units on first, if they are not."""
        if not self._is_started:
            self.start()
        self.kernel.run_until(self.kernel.now_ns + round(seconds * SECOND))

    def _at(self, at_s: float, callback: Callable[[], object]) -> None:
        self.kernel.call_at(self.start_ns + round(at_s * SECOND), callback)

    def _plan_vehicle(self, number: int, unit: Unit) -> None:
        cycle = self.scenario.power_cycle
        unit.cycle_power_after_download(round(cycle.after_download_s * SECOND), round(cycle.off_s * SECOND))
        plan = self.scenario.vehicles.get(number)
        if plan is None:
            return
        if plan.offline is not None:
            self._at(plan.offline.from_s, lambda: unit.set_coverage(covered=False))
            self._at(plan.offline.to_s, lambda: unit.set_coverage(covered=True))
        if plan.driving is not None:
            self._at(plan.driving.from_s, lambda: unit.set_driving(is_driving=True))
            self._at(plan.driving.to_s, lambda: unit.set_driving(is_driving=False))

    def _plan_fault(self, fault: Fault) -> None:
        unit = self.unit(fault.vehicle)
        match fault:
            case DownloadCut(after_bytes=after_bytes):
                unit.cut_download(after_bytes)
            case CorruptByte(at_byte=at_byte):
                unit.corrupt_download(at_byte)
            case SlavePowerCut(slave=slave, at_progress=at_progress, off_s=off_s):
                unit.cut_slave_power(slave, at_progress, round(off_s * SECOND))
            case SelfTestFails(reason=reason):
                campaign = self.scenario.campaign
                unit.fail_self_test(campaign.software_version if campaign is not None else "", reason)
            case SlaveReplaced(slave=slave, at_s=at_s, off_s=off_s):
                new = slave_hwid(self.seed, fault.vehicle, slave, generation=1)
                self._at(at_s, lambda: unit.replace_slave(slave, new, round(off_s * SECOND)))
            case FrameDisturbed(kind=kind, slave=slave, at_s=at_s, rounds=rounds):
                self._at(at_s, lambda: unit.disturb_frames(slave, FrameFaultKind(kind), rounds))

    def _step_physics(self) -> None:
        self.kernel.call_in(PHYSICS_STEP_NS, self._step_physics)
        dt_s = PHYSICS_STEP_NS / SECOND
        for drives in self._drives:
            drives.step((self.kernel.now_ns - self.start_ns) / SECOND - dt_s, dt_s)


def virtual_fleet(
    scenario: Scenario,
    seed: int,
    platform: MemoryPlatform,
    *,
    keys: UnitKeys | None = None,
    origins: Sequence[str] = (),
    kernel: Kernel | None = None,
) -> Fleet:
    """A fleet in virtual time whose units reach *platform* in this process: no socket, no waiting, no cloud.

    `Fleet.run` lets time pass. Equal arguments give equal traces (`Fleet.trace`). *kernel* is shared with a platform that
    has work of its own.
    """
    kernel = kernel or Kernel(VIRTUAL_START_NS)
    return Fleet(
        scenario,
        seed,
        kernel=kernel,
        keys=keys,
        origins=origins,
        uplink=lambda _number: MemoryUplink(kernel, platform, delay_ns=scenario.link_delay_ms * MS),
    )
