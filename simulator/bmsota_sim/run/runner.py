"""A run: the units of a scenario, its timeline carried out, and what became of it. No I/O: a driver lets the kernel's time pass.

    run = Run(scenario, seed, kernel=kernel, uplink=..., clock_ns=...)
    run.start()
    ...                     # let time pass until `run.is_over`
    result = run.end()

An entry of the timeline that cannot be done is told, and makes the run red: nothing is skipped in silence.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING

from bmsota.gbt32960 import Edition
from bmsota_sim import defaults
from bmsota_sim.devices.drives import Drives
from bmsota_sim.devices.frame_faults import FrameFaultKind
from bmsota_sim.devices.unit import FullUnit
from bmsota_sim.devices.vehicle import CITIES, VirtualVehicle
from bmsota_sim.fleet import pack_design
from bmsota_sim.life import DAY_S, Habits, driving_cycle
from bmsota_sim.links.uplink import Modem
from bmsota_sim.physics import Packs
from bmsota_sim.profiles import PROFILES
from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.expectations import COUNTERS, evaluate, moments
from bmsota_sim.run.identities import identity, slave_hwid
from bmsota_sim.run.ledger import FAULTS, Ledger
from bmsota_sim.run.link import RunUplink
from bmsota_sim.run.selection import UnitId, group_units
from bmsota_sim.run.timeline import plan
from bmsota_sim.run.verbs import (
    CellFailure,
    DuplicateFrames,
    FrameCorrupted,
    FrameFrozen,
    FrameReplayed,
    Offline,
    OutOfOrder,
    PlatformOutage,
    Restart,
    SensorBroken,
    SlaveSilent,
    SlaveSwap,
    Storm,
    ThermalEvent,
)
from bmsota_sim.run.verbs import Charging as ChargingEntry
from bmsota_sim.run.verbs import Driving as DrivingEntry
from bmsota_sim.streams import stream
from bmsota_sim.trace import Trace

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from bmsota_sim.kernel import Kernel
    from bmsota_sim.links.uplink import Uplink
    from bmsota_sim.physics import Chemistry
    from bmsota_sim.run.expectations import Verdict
    from bmsota_sim.run.model import Life
    from bmsota_sim.run.scenario import Scenario
    from bmsota_sim.run.timeline import Planned

__all__ = ["Case", "Event", "Result", "Run", "not_simulated"]

PHYSICS_STEP_NS = NS_PER_S
# In virtual time, where no ramp-up is said: one unit after another, so that none start in the same nanosecond.
START_STEP_NS = 10_000_000
RAMP_TICK_NS = 20_000_000
# In real time a unit is switched on while the kernel is less late than this; and, however late it is, one in this time.
RAMP_LAG_NS_MAX = 50_000_000
RAMP_PATIENCE_NS = NS_PER_S // 2
FAILING_MAX = 10
LOCAL_TIME_S = 8 * 3600
"""Times of the day are those of China, as the times of reports are."""


@dataclass(slots=True)
class RunUnit:
    """A unit of the run, and what is around it."""

    unit: FullUnit
    link: RunUplink
    trace: Trace
    is_on: bool = False
    replacements: dict[int, int] = field(default_factory=dict)


@dataclass(slots=True)
class Event:
    """A planned event and what became of it."""

    planned: Planned
    outcome: str = "not reached"
    """`happened`, `failed`, or `not reached`: due after the end."""
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """Something that had to hold, and whether it did."""

    name: str
    passed: bool | None
    """None: not judged, because the run ended before."""
    expected: str
    got: str
    failing: tuple[str, ...] = ()
    """Units, VINs and what was seen, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What became of a run."""

    cases: tuple[Case, ...]
    events: tuple[Event, ...]
    limits: tuple[str, ...]
    """What the scenario asks for and this version does not simulate."""
    hashes: dict[str, str]
    """Trace hash of each unit."""
    fold: str
    """Of all units, in whatever order they are added."""
    ran_ns: int

    @property
    def ok(self) -> bool:
        return all(case.passed is not False for case in self.cases)


def not_simulated(scenario: Scenario) -> Iterator[str]:
    """What the scenario asks for and this version does not do, in words."""
    for name, group in scenario.groups.items():
        network = scenario.network_of(name)
        if group.fidelity == "fleet":
            yield f"{name}: fidelity fleet is simulated as full, with every CAN frame"
        if network.half_open:
            yield f"{name}: half-open links: the platform is told of every lost link"


def habits_of(life: Life, chemistry: Chemistry) -> Habits:
    """What the vehicles of a group do every day."""
    habits = Habits(
        cycle=None if life.trips == "none" else driving_cycle(life.trips),
        trips_per_day=life.trips_per_day,
        charge_from_s=None,
        cell_v_min=chemistry.cell_v_min,
        cell_v_max=chemistry.cell_v_max,
        ambient_c=life.ambient_c,
    )
    charge = life.charge
    if charge is None:
        return habits
    return replace(
        habits,
        charge_from_s=round(charge.from_s),
        charge_power_w=charge.power_kw * 1000,
        charge_to=charge.to_pct / 100,
        taper=charge.taper,
    )


class Run:
    """Everything of one run."""

    def __init__(
        self,
        scenario: Scenario,
        seed: int,
        *,
        kernel: Kernel,
        uplink: Callable[[int], Uplink],
        clock_ns: Callable[[], int] | None = None,
        lag_ns: Callable[[], int] | None = None,
        edition: int | None = None,
        progress: Callable[[int], object] = lambda _built: None,
    ) -> None:
        """Build the units.

        Args:
            scenario: what happens.
            seed: of the run.
            kernel: the clock of the units.
            uplink: index of a unit -> its way to the platform.
            clock_ns: the clock of the ledger, in the kernel's epoch; by default the kernel.
            lag_ns: how late the kernel is, in real time: starts are paced by it where the scenario has no ramp-up.
            edition: of GB/T 32960.3, in place of the groups'.
            progress: called with the number of units built; may raise to give up.

        Raises:
            ConfigurationError: the timeline does not go with this seed.
        """
        self.scenario = scenario
        self.seed = seed
        self.kernel = kernel
        self.start_ns = kernel.now_ns
        self._clock_ns = clock_ns or (lambda: kernel.now_ns)
        self._lag_ns = lag_ns
        self.events = [Event(planned) for planned in plan(scenario, seed)]
        ids = tuple(group_units(scenario))
        identities = {unit: identity(scenario, seed, unit) for unit in ids}
        self.ledger = Ledger(scenario, {unit: each.vin for unit, each in identities.items()})
        self.units: dict[UnitId, RunUnit] = {}
        self.verdicts: list[Verdict] = []
        self._judged_ns: int | None = None
        self._queue = list(ids)
        self._last_boot_ns = 0
        self.ramp_ns: int | None = None
        """How long the ramp-up took; None while it lasts."""
        self.is_over = False
        self._drives: list[Drives] = []
        factory = cache(defaults.factory_images)
        keys = defaults.unit_keys()
        for name, group in scenario.groups.items():
            profile, life, network = PROFILES[group.profile], scenario.life_of(name), scenario.network_of(name)
            members = [unit for unit in ids if unit.group == name]
            packs = Packs(
                pack_design(profile),
                [identities[unit].vin for unit in members],
                seed=seed,
                soc=[self._soc(unit) for unit in members],
                temperature_c=life.ambient_c[0],
            )
            of_group: list[FullUnit] = []
            for unit in members:
                link = RunUplink(
                    kernel,
                    uplink(len(self.units)),
                    network=network,
                    watch=self.ledger.units[unit],
                    clock_ns=self.now_ns,
                    random=stream(seed, str(unit), "network"),
                )
                trace = Trace()
                full = FullUnit(
                    kernel=kernel,
                    internal_dbc=defaults.database("bms_internal"),
                    bootloader_dbc=defaults.database(profile.bootloader_dbc),
                    data_bitrate_bps=profile.data_bitrate_bps,
                    modem=Modem(kernel, link, rate_bytes_per_s=max(1, round(network.rate_bytes_per_s))),
                    vehicle=self._vehicle(unit, group.city),
                    trace=trace,
                    identity=identities[unit],
                    profile=profile,
                    keys=keys,
                    factory=factory(profile.series),
                    packs=packs,
                    seed=seed,
                    report_period_ns=round(life.report_s * NS_PER_S),
                    heartbeat_period_ns=round(life.heartbeat_s * NS_PER_S),
                    measure_period_ns=round(life.measure_s * NS_PER_S),
                    edition=Edition.GBT2025 if (edition or group.edition) == 2025 else Edition.GBT2016,
                )
                of_group.append(full)
                self.units[unit] = RunUnit(full, link, trace)
                progress(len(self.units))
            owners = [str(unit) for unit in members]
            self._drives.append(Drives(packs, of_group, owners, habits_of(life, packs.design.chemistry), seed=seed))

    def _soc(self, unit: UnitId) -> float:
        group = self.scenario.groups[unit.group]
        spread = group.soc_spread_pct * (2 * stream(self.seed, str(unit), "soc").random() - 1)
        return min(1.0, max(0.0, (group.soc_pct + spread) / 100))

    def _vehicle(self, unit: UnitId, city: str) -> VirtualVehicle:
        random = stream(self.seed, str(unit), "vehicle")
        longitude, latitude = CITIES[city]
        return VirtualVehicle(
            longitude_deg=longitude + random.uniform(-0.15, 0.15),
            latitude_deg=latitude + random.uniform(-0.12, 0.12),
            heading_rad=random.uniform(0.0, 6.283),
            odometer_km=round(random.uniform(200.0, 90_000.0), 1),
            ignition_on=False,
        )

    # -- time ------------------------------------------------------------------------------------------------------------

    def now_ns(self) -> int:
        """From the start of the run, by the ledger's clock."""
        return self._clock_ns() - self.start_ns

    @property
    def duration_ns(self) -> int:
        return round(self.scenario.duration_s * NS_PER_S)

    def start(self) -> None:
        """Plan everything from now on. Once."""
        kernel = self.kernel
        self.start_ns = kernel.now_ns
        self._ramp()
        for event in self.events:
            kernel.call_at(self.start_ns + event.planned.at_ns, self._begin, event)
        marks = {
            round(self.scenario.seconds_of(each.since) * NS_PER_S)
            for each in self.scenario.expect
            if each.since is not None
        }
        for at_ns in sorted(marks):
            kernel.call_at(self.start_ns + at_ns, self._mark, at_ns)
        for at_ns in moments(self.scenario):
            if at_ns < self.duration_ns:
                kernel.call_at(self.start_ns + at_ns, self._judge, at_ns)
        kernel.call_at(self.start_ns + round(self.scenario.faults_end_s * NS_PER_S), self._faults_end)
        kernel.call_in(PHYSICS_STEP_NS, self._step_physics)
        kernel.call_at(self.start_ns + self.duration_ns, self._over)

    def _over(self) -> None:
        self.is_over = True

    def _faults_end(self) -> None:
        for unit in self.units.values():
            unit.link.is_clean = True

    def _step_physics(self) -> None:
        self.kernel.call_in(PHYSICS_STEP_NS, self._step_physics)
        dt_s = PHYSICS_STEP_NS / NS_PER_S
        # Days are counted from the midnight before the start: what a unit does on its third day is the same whenever that is.
        begin_s = (self.start_ns // NS_PER_S + LOCAL_TIME_S) % DAY_S
        now_s = begin_s + (self.kernel.now_ns - self.start_ns) / NS_PER_S - dt_s
        for drives in self._drives:
            drives.step(now_s, dt_s)

    # -- the ramp-up -----------------------------------------------------------------------------------------------------

    @property
    def started(self) -> int:
        """How many units were switched on."""
        return len(self.units) - len(self._queue)

    def _ramp(self) -> None:
        start, count = self.scenario.start, len(self._queue)
        if start is None and self._lag_ns is not None:
            self._pace()
            return
        step_ns = START_STEP_NS if start is None else round(start.over_s * NS_PER_S) // count
        for index in range(count):
            self.kernel.call_in(index * step_ns, self._switch_on_next)

    def _switch_on_next(self) -> None:
        unit = self.units[self._queue.pop(0)]
        unit.is_on = True
        unit.unit.switch_on()
        if not self._queue:
            self.ramp_ns = self.kernel.now_ns - self.start_ns

    def _pace(self) -> None:
        """Switch the next unit on, as fast as this machine boots them."""
        assert self._lag_ns is not None
        waited_ns = self.kernel.now_ns - self._last_boot_ns
        if self._lag_ns() < RAMP_LAG_NS_MAX or waited_ns >= RAMP_PATIENCE_NS:
            self._last_boot_ns = self.kernel.now_ns
            self._switch_on_next()
        if self._queue:
            self.kernel.call_in(RAMP_TICK_NS, self._pace)

    # -- the timeline ----------------------------------------------------------------------------------------------------

    def _begin(self, event: Event) -> None:
        planned = event.planned
        members = self.units if planned.unit is None else {planned.unit: self.units[planned.unit]}
        reasons = [reason for unit_id, unit in members.items() if (reason := self._do(planned, unit_id, unit))]
        event.outcome, event.reason = ("failed", reasons[0]) if reasons else ("happened", "")
        if planned.end_ns is not None and not reasons:
            self.kernel.call_at(self.start_ns + planned.end_ns, self._end, planned, list(members.values()))

    def _do(self, planned: Planned, unit_id: UnitId, unit: RunUnit) -> str:
        """Do it to one unit; the reason why it cannot be done, or nothing."""
        full = unit.unit
        match planned.entry:
            case PlatformOutage():
                unit.link.set_outage(is_out=True)
            case Offline():
                full.set_coverage(covered=False)
            case Storm():
                return "" if unit.link.drop("storm") else "it had no link"
            case DrivingEntry():
                full.set_driving(is_driving=True)
            case DuplicateFrames(share=share):
                unit.link.send_twice(share)
            case OutOfOrder(share=share):
                unit.link.swap(share)
            case ChargingEntry(power_kw=power_kw):
                full.set_charging(is_charging=True, power_w=power_kw * 1000)
            case _ if not unit.is_on:
                return "it was not switched on yet"
            case Restart(off_s=off_s):
                full.cycle_power(round(off_s * NS_PER_S))
            case CellFailure(slave=slave, cell=cell, mode=mode):
                full.fail_cell(slave, cell, mode, is_failing=True)
            case ThermalEvent(slave=slave, rise_c_per_min=rise_c_per_min, to_c=to_c):
                full.heat_slave(slave, rise_c_per_s=rise_c_per_min / 60, to_c=to_c)
            case SensorBroken(slave=slave, probe=probe, mode=mode):
                full.break_probe(slave, probe, mode, is_broken=True)
            case SlaveSilent(slave=slave):
                full.slaves[slave - 1].power_off()
            case SlaveSwap(slave=slave, off_s=off_s):
                unit.replacements[slave] = generation = unit.replacements.get(slave, 0) + 1
                hwid, off_ns = slave_hwid(self.seed, unit_id, slave, generation=generation), round(off_s * NS_PER_S)
                full.cycle_power(off_ns, lambda: full.replace_slave(slave, hwid, off_ns))
            case FrameCorrupted(slave=slave, rounds=rounds, do=kind) | FrameFrozen(slave=slave, rounds=rounds, do=kind):
                full.disturb_frames(slave, FrameFaultKind(kind), rounds)
            case FrameReplayed(slave=slave, rounds=rounds, do=kind):
                full.disturb_frames(slave, FrameFaultKind(kind), rounds)
            case entry:
                return f"the units of this version cannot do {entry.do}"
        return ""

    def _end(self, planned: Planned, members: list[RunUnit]) -> None:
        for unit in members:
            match planned.entry:
                case PlatformOutage():
                    unit.link.set_outage(is_out=False)
                case Offline():
                    unit.unit.set_coverage(covered=True)
                case DrivingEntry():
                    unit.unit.set_driving(is_driving=False)
                case ChargingEntry():
                    unit.unit.set_charging(is_charging=False)
                case DuplicateFrames():
                    unit.link.send_twice(0.0)
                case OutOfOrder():
                    unit.link.swap(0.0)
                case CellFailure(slave=slave, cell=cell, mode=mode):
                    unit.unit.fail_cell(slave, cell, mode, is_failing=False)
                case ThermalEvent(slave=slave):
                    unit.unit.heat_slave(slave, rise_c_per_s=0.0, to_c=0.0)
                case SensorBroken(slave=slave, probe=probe, mode=mode):
                    unit.unit.break_probe(slave, probe, mode, is_broken=False)
                case SlaveSilent(slave=slave):
                    if unit.unit.vehicle.ignition_on:
                        unit.unit.slaves[slave - 1].power_on()
                case _:
                    pass  # It ends by itself.

    def _without_effect(self, event: Event) -> str:
        """Why a thing that was done had no effect; nothing if it had."""
        if event.planned.unit is None:
            return ""
        unit = self.units[event.planned.unit]
        match event.planned.entry:
            case FrameCorrupted(slave=slave, do=kind) | FrameFrozen(slave=slave, do=kind):
                return "" if (kind, slave) in unit.unit.figures.faults else f"slave {slave} sent no frame"
            case FrameReplayed(slave=slave, do=kind):
                return "" if (kind, slave) in unit.unit.figures.faults else f"slave {slave} sent no frame"
            case DuplicateFrames():
                return "" if unit.link.duplicates else "no report was sent in that time"
            case OutOfOrder():
                return "" if unit.link.swaps else "no two reports were sent in that time"
            case _:
                return ""

    # -- what is judged --------------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Bring the counters that the units keep themselves up to date."""
        column = COUNTERS.index("can_frames")
        for unit_id, unit in self.units.items():
            self.ledger.counts[self.ledger.units[unit_id].row, column] = unit.unit.figures.can_frames

    def _mark(self, at_ns: int) -> None:
        self.sample()
        self.ledger.mark(at_ns)

    def _judge(self, at_ns: int) -> None:
        self.sample()
        self.verdicts += evaluate(self.scenario, self.ledger, at_ns, seed=self.seed, since_ns=self._judged_ns)
        self._judged_ns = at_ns

    def end(self) -> Result:
        """Judge what is left. The units are as they were; nothing is switched off."""
        ran_ns = min(self.kernel.now_ns - self.start_ns, self.duration_ns)
        self.sample()
        self.ledger.ended(self.now_ns())
        self.verdicts += evaluate(
            self.scenario, self.ledger, ran_ns, seed=self.seed, since_ns=self._judged_ns, ended=True
        )
        for event in self.events:
            if event.outcome == "happened" and (reason := self._without_effect(event)):
                event.outcome, event.reason = "failed", reason
        hashes = {str(unit): each.trace.digest() for unit, each in self.units.items()}
        return Result(
            cases=tuple(self._cases()),
            events=tuple(self.events),
            limits=tuple(not_simulated(self.scenario)),
            hashes=hashes,
            fold=fold(hashes),
            ran_ns=ran_ns,
        )

    def _cases(self) -> Iterator[Case]:
        named: set[str] = set()
        for verdict in sorted(self.verdicts, key=lambda each: each.position):
            what = verdict.expectation.what
            named.update(part.strip() for part in what.split("/"))
            failing = tuple(self._told(unit) for unit in verdict.failing[:FAILING_MAX])
            if verdict.passed is False and not failing:
                failing = tuple(self._first_told(part.strip()) for part in what.split("/") if part.strip() in COUNTERS)
            yield Case(
                name=verdict.expectation.text,
                passed=verdict.passed,
                expected=verdict.expected,
                got=verdict.got,
                failing=failing,
            )
        totals = self.ledger.totals()
        for counter in FAULTS:
            if counter not in named:
                count = totals[counter]
                told = tuple(filter(None, (self._first_told(counter),))) if count else ()
                yield Case(
                    name=f"no {counter}", passed=not count, expected=f"{counter}: 0", got=f"{count:,}", failing=told
                )
        for group in self.scenario.groups:
            yield self._group_case(group, is_judged="logged_in" not in named)
        bad = [event for event in self.events if event.outcome == "failed"]
        missed = [event for event in self.events if event.outcome == "not reached"]
        done = len(self.events) - len(bad) - len(missed)
        yield Case(
            name="every planned event happened",
            passed=False if bad else None if missed else True,
            expected=f"{len(self.events):,} events",
            got=f"{done:,} happened, {len(bad):,} failed, {len(missed):,} not reached",
            failing=tuple(event_text(event) for event in (bad or missed)[:FAILING_MAX]),
        )

    def _group_case(self, group: str, *, is_judged: bool) -> Case:
        """Every unit has logged in, at some time, and is logged in at the end unless an expectation says when."""
        members = [unit for unit in self.units if unit.group == group]
        column = COUNTERS.index("logins")
        out = [
            unit
            for unit in members
            if not self.ledger.counts[self.ledger.units[unit].row, column]
            or (is_judged and not self.ledger.logged_in(unit))
        ]
        return Case(
            name=f"group {group}",
            passed=not out,
            expected=f"{len(members):,} units log in" + (" and stay so" if is_judged else ""),
            got=f"{len(members) - len(out):,} units",
            failing=tuple(self._told(unit) for unit in out[:FAILING_MAX]),
        )

    def _told(self, unit: UnitId) -> str:
        """A unit, and the first of each of its faults."""
        ledger = self.ledger.units[unit]
        firsts = [
            f"{name} at {first.at_ns / NS_PER_S:.3f} s" for name, first in ledger.firsts.items() if name in FAULTS
        ]
        state = "logged in" if ledger.is_logged_in else "not logged in" if unit not in self._queue else "never started"
        return f"{unit} {ledger.vin}: {', '.join([state, *firsts])}"

    def _first_told(self, counter: str) -> str:
        found = self.ledger.first_of(counter)
        if found is None:
            return ""
        unit, first = found
        text = f"{unit} {self.ledger.units[unit].vin}: first {counter} at {first.at_ns / NS_PER_S:.3f} s"
        detail = f": {first.detail}" if first.detail else ""
        return text + detail + (f" [{first.data.hex(' ')}]" if first.data else "")


def event_text(event: Event) -> str:
    """A planned event in words."""
    planned = event.planned
    who = "the platform" if planned.unit is None else str(planned.unit)
    reason = f": {event.reason}" if event.reason else ""
    return f"{planned.entry.do} of {who} at {planned.at_ns / NS_PER_S:g} s: {event.outcome}{reason}"


def fold(hashes: dict[str, str]) -> str:
    """One hash of the hashes of all units; the sum of those of parts of a fleet, whatever the parts."""
    total = 0
    for unit, digest in hashes.items():
        total += int.from_bytes(hashlib.sha256(f"{unit} {digest}".encode()).digest())
    return f"{total % 2**256:064x}"
