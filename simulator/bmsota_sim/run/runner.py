"""A run: the units of a scenario, its timeline carried out, and what became of it. No I/O: a driver lets the kernel's time pass.

    run = Run(scenario, seed, kernel=kernel, uplink=..., clock_ns=...)
    run.start()
    ...                     # let time pass until `run.is_over`
    result = run.end()

An entry of the timeline that cannot be done is told, and makes the run red: nothing is skipped in silence.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING

from bmsota.gbt32960 import Edition
from bmsota_sim import defaults
from bmsota_sim.columns.nodes import series_nodes
from bmsota_sim.columns.units import FleetUnit, UnitColumns
from bmsota_sim.devices.drives import Drives
from bmsota_sim.devices.frame_faults import FrameFaultKind
from bmsota_sim.devices.unit import FullUnit
from bmsota_sim.devices.vehicle import CITIES, VirtualVehicle
from bmsota_sim.fleet import pack_design
from bmsota_sim.life import DAY_S, Habits, driving_cycle
from bmsota_sim.links.uplink import Modem
from bmsota_sim.physics import Packs
from bmsota_sim.profiles import PROFILES
from bmsota_sim.recordings.playback import RecordedUnit
from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.expectations import COUNTERS, moments
from bmsota_sim.run.fidelity import FLEET_VERBS, full_units
from bmsota_sim.run.identities import slave_hwid
from bmsota_sim.run.judged import JudgedRun
from bmsota_sim.run.link import RunUplink
from bmsota_sim.run.releases import upgrade_versions
from bmsota_sim.run.silences import Silence, silences
from bmsota_sim.run.upgrade_outcomes import prepare_outcome, trusted_keys
from bmsota_sim.run.verb_actions import begin_entry, end_entry, missing_effect
from bmsota_sim.run.verbs import Charging as ChargingEntry
from bmsota_sim.run.verbs import Driving as DrivingEntry
from bmsota_sim.run.verbs import (
    DuplicateFrames,
    FrameCorrupted,
    FrameFrozen,
    FrameReplayed,
    Offline,
    OutOfOrder,
    PlatformOutage,
    Restart,
    SlaveSilent,
    SlaveSwap,
    Storm,
)
from bmsota_sim.streams import stream
from bmsota_sim.trace import LinkTrace

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

    from bmsota_sim.kernel import Kernel
    from bmsota_sim.physics import Chemistry
    from bmsota_sim.recordings.playback import Played
    from bmsota_sim.run.judged import Event, Result
    from bmsota_sim.run.keys import RunKeys
    from bmsota_sim.run.link import LosableUplink
    from bmsota_sim.run.model import FleetScenario, Life
    from bmsota_sim.run.selection import UnitId
    from bmsota_sim.run.timeline import Planned
    from bmsota_sim.run.verbs import Verb

__all__ = ["Run", "RunUnit"]

PHYSICS_STEP_NS = NS_PER_S
# In virtual time, where no ramp-up is said: one unit after another, so that none start in the same nanosecond.
START_STEP_NS = 10_000_000
RAMP_TICK_NS = 20_000_000
# In real time units are switched on while the kernel is less late than this; and, however late it is, one in this time.
RAMP_LAG_NS_MAX = 50_000_000
RAMP_PATIENCE_NS = NS_PER_S // 2
# A tick switches on one unit more after each of these times, and half as many when the kernel was late: what a unit costs shows only
# when it has booted.
RAMP_RISE_NS = NS_PER_S // 4
FAILING_MAX = 10
LOCAL_TIME_S = 8 * 3600
"""Times of the day are those of China, as the times of reports are."""


@dataclass(slots=True)
class RunUnit:
    """A unit of the run, and what is around it."""

    unit: FullUnit | FleetUnit | RecordedUnit
    link: RunUplink
    trace: LinkTrace
    is_on: bool = False
    replacements: dict[int, int] = field(default_factory=dict)


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


class Run(JudgedRun):
    """Everything of one run, or of a part of its units."""

    def __init__(
        self,
        scenario: FleetScenario,
        seed: int,
        *,
        kernel: Kernel,
        uplink: Callable[[int], LosableUplink],
        clock_ns: Callable[[], int] | None = None,
        lag_ns: Callable[[], int] | None = None,
        edition: int | None = None,
        keys: RunKeys | None = None,
        origins: Sequence[str] = (),
        only: Collection[UnitId] | None = None,
        full: Collection[UnitId] = (),
        played: Played | None = None,
        progress: Callable[[int], object] = lambda _built: None,
        moment: Callable[[int], object] = lambda _at_ns: None,
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
            keys: what the units trust and sign with; by default those of the samples.
            origins: where the platform of the units may be without TLS, as "http://host:port".
            only: build these units alone. Each is what it is among the others; what is expected cannot be judged, and is not.
            full: of full fidelity, with every CAN frame, whatever their group says.
            played: recorded vehicles, one for each unit, in place of simulated ones.
            progress: called with the number of units built; may raise to give up.
            moment: with *only*: called when others would be judged, or counters kept, with the time from the start.

        Raises:
            ConfigurationError: the timeline does not go with this seed.
        """
        super().__init__(scenario, seed, keys=keys, only=only, played=played)
        self.kernel = kernel
        self.start_ns = kernel.now_ns
        self._clock_ns = clock_ns or (lambda: kernel.now_ns)
        self._lag_ns = lag_ns
        self._moment = moment
        self._versions = upgrade_versions(scenario)
        identities = self.identities
        ids = [unit for unit in self.ids if self._is_mine(unit)]
        self.units: dict[UnitId, RunUnit] = {}
        self._queue = deque(ids)
        self._last_boot_ns = 0
        self._boots_per_tick = 1
        self._boots_changed_ns = 0
        self.is_over = False
        self._is_started = False
        self._joined_ns = 0
        self._drives: list[Drives] = []
        full = full_units(scenario, seed, [event.planned for event in self.events]) | frozenset(full)
        if played is not None:
            self._play(played, uplink, progress)
            return
        factory = cache(defaults.factory_images)
        for name, group in scenario.groups.items():
            profile, life, network = PROFILES[group.profile], scenario.life_of(name), scenario.network_of(name)
            members = [unit for unit in ids if unit.group == name]
            if not members:
                continue
            packs = Packs(
                pack_design(profile),
                [identities[unit].vin for unit in members],
                seed=seed,
                soc=[self._soc(unit) for unit in members],
                temperature_c=life.ambient_c[0],
            )
            of_group: list[FullUnit | FleetUnit] = []
            fleet: UnitColumns | None = None
            its_edition = Edition.GBT2025 if (edition or group.edition) == 2025 else Edition.GBT2016
            report_ns, heartbeat_ns, measure_ns = (
                round(period_s * NS_PER_S) for period_s in (life.report_s, life.heartbeat_s, life.measure_s)
            )
            if not full.issuperset(members):
                fleet = UnitColumns(
                    kernel=kernel,
                    profile=profile,
                    packs=packs,
                    nodes=series_nodes(group.profile),
                    edition=its_edition,
                    report_period_ns=report_ns,
                    heartbeat_period_ns=heartbeat_ns,
                    measure_period_ns=measure_ns,
                )
            random = partial(stream, seed)
            for unit in members:
                link = RunUplink(
                    kernel,
                    uplink(len(self.units)),
                    network=network,
                    watch=self.ledger.units[unit],
                    clock_ns=self.now_ns,
                    random=random,
                )
                modem = Modem(kernel, link, rate_bytes_per_s=max(1, round(network.rate_bytes_per_s)))
                vehicle = self._vehicle(unit, group.city)
                is_full = unit in full
                trace = LinkTrace(keeps_notes=is_full)
                built: FullUnit | FleetUnit
                if fleet is not None and not is_full:
                    built = FleetUnit(fleet, modem=modem, vehicle=vehicle, trace=trace, identity=identities[unit])
                else:
                    built = FullUnit(
                        kernel=kernel,
                        internal_dbc=defaults.database("bms_internal"),
                        bootloader_dbc=defaults.database(profile.bootloader_dbc),
                        data_bitrate_bps=profile.data_bitrate_bps,
                        modem=modem,
                        vehicle=vehicle,
                        trace=trace,
                        identity=identities[unit],
                        profile=profile,
                        keys=trusted_keys(self.outcomes.get(unit, ""), self.keys.trusted, seed, str(unit)),
                        origins=origins,
                        factory=factory(profile.series),
                        packs=packs,
                        seed=seed,
                        edition=its_edition,
                        report_period_ns=report_ns,
                        heartbeat_period_ns=heartbeat_ns,
                        measure_period_ns=measure_ns,
                    )
                    if unit in self.outcomes:
                        assert scenario.ota is not None
                        version = self._versions[profile.series]
                        prepare_outcome(self.outcomes[unit], built, link, ota=scenario.ota, version=version)
                of_group.append(built)
                self.units[unit] = RunUnit(built, link, trace)
                progress(len(self.units))
            owners = [str(unit) for unit in members]
            self._drives.append(Drives(packs, of_group, owners, habits_of(life, packs.design.chemistry), seed=seed))

    def _play(
        self,
        played: Played,
        uplink: Callable[[int], LosableUplink],
        progress: Callable[[int], object],
    ) -> None:
        """Build units of recorded vehicles."""
        kernel, random = self.kernel, partial(stream, self.seed)
        for unit, vehicle in zip(self.ids, played.vehicles, strict=True):
            if not self._is_mine(unit):
                continue
            life, network = self.scenario.life_of(unit.group), self.scenario.network_of(unit.group)
            link = RunUplink(
                kernel,
                uplink(len(self.units)),
                network=network,
                watch=self.ledger.units[unit],
                clock_ns=self.now_ns,
                random=random,
            )
            trace = LinkTrace(keeps_notes=False)
            built = RecordedUnit(
                vehicle,
                kernel=kernel,
                modem=Modem(kernel, link, rate_bytes_per_s=max(1, round(network.rate_bytes_per_s))),
                trace=trace,
                begins_ns=lambda: self.start_ns + played.lead_s * NS_PER_S,
                heartbeat_period_ns=round(life.heartbeat_s * NS_PER_S),
                loops=played.loops,
                shift=played.shift,
            )
            self.units[unit] = RunUnit(built, link, trace)
            progress(len(self.units))

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
    def at_ns(self) -> int:
        return self.kernel.now_ns - self.start_ns

    def start(self, *, joins_ns: int = 0) -> None:
        """Plan everything from now on. Once.

        *joins_ns*: the run began so long ago, and these units come to it: what is over has happened without them.
        """
        kernel = self.kernel
        self.start_ns = kernel.now_ns - joins_ns
        self._is_started, self._joined_ns = True, joins_ns
        self._ramp()
        for event in self.events:
            planned = event.planned
            # Of what has begun already, only what needs no unit that is on goes on.
            goes_on = isinstance(planned.entry, Offline | PlatformOutage) and (planned.end_ns or 0) > joins_ns
            if planned.at_ns >= joins_ns or goes_on:
                kernel.call_at(self.start_ns + planned.at_ns, self._begin, event)
        marks = {
            round(self.scenario.seconds_of(each.since) * NS_PER_S)
            for each in self.scenario.expect
            if each.since is not None
        }
        for at_ns in sorted(marks):
            if at_ns >= joins_ns:
                kernel.call_at(self.start_ns + at_ns, self._mark, at_ns)
        for at_ns in moments(self.scenario):
            if joins_ns <= at_ns < self.duration_ns:
                kernel.call_at(self.start_ns + at_ns, self._judge, at_ns)
        kernel.call_at(self.start_ns + round(self.scenario.faults_end_s * NS_PER_S), self._faults_end)
        self._plan_silences(joins_ns)
        # On whole seconds, as the rule of phase wants it.
        kernel.call_at(kernel.now_ns // PHYSICS_STEP_NS * PHYSICS_STEP_NS + PHYSICS_STEP_NS, self._step_physics)
        kernel.call_at(self.start_ns + self.duration_ns, self._over)

    def _plan_silences(self, joins_ns: int) -> None:
        for unit_id, each in self.units.items():
            unit = each.unit
            if isinstance(unit, RecordedUnit) or unit.profile.habits.silent_h is None:
                continue
            for from_ns, to_ns in silences(
                self.seed,
                unit_id,
                unit.profile.habits.silent_h,
                begin_s=self._begin_s,
                until_s=self.scenario.faults_end_s,
            ):
                if from_ns < joins_ns:
                    continue
                silence = Silence(self.kernel, unit, unit.vehicle, until_ns=self.start_ns + to_ns)
                self.kernel.call_at(self.start_ns + from_ns, silence.begin)

    @property
    def _begin_s(self) -> int:
        """Second of the day at which the run starts."""
        return (self.start_ns // NS_PER_S + LOCAL_TIME_S) % DAY_S

    def _over(self) -> None:
        self.is_over = True

    def _faults_end(self) -> None:
        for unit in self.units.values():
            unit.link.is_clean = True
            unit.link.clock.correct()

    def _step_physics(self) -> None:
        self.kernel.call_in(PHYSICS_STEP_NS, self._step_physics)
        dt_s = PHYSICS_STEP_NS / NS_PER_S
        # Days are counted from the midnight before the start: what a unit does on its third day is the same whenever that is.
        now_s = self._begin_s + (self.kernel.now_ns - self.start_ns) / NS_PER_S - dt_s
        for drives in self._drives:
            drives.step(now_s, dt_s)

    # -- the ramp-up -----------------------------------------------------------------------------------------------------

    @property
    def not_started(self) -> Collection[UnitId]:
        return self._queue

    def _ramp(self) -> None:
        start = self.scenario.start
        if start is None and self._lag_ns is not None:
            self._pace()
            return
        step_ns = START_STEP_NS if start is None else round(start.over_s * NS_PER_S) // len(self.ids)
        for index, unit in enumerate(self.ids):
            if self._is_mine(unit):
                self.kernel.call_in(index * step_ns, self._switch_on_next)

    def _switch_on_next(self) -> None:
        unit = self.units[self._queue.popleft()]
        unit.is_on = True
        unit.unit.switch_on()
        if not self._queue:
            self.ramp_ns = self.kernel.now_ns - self.start_ns

    def _pace(self) -> None:
        """Switch the next unit on, as fast as this machine boots them."""
        assert self._lag_ns is not None
        now_ns = self.kernel.now_ns
        is_late = self._lag_ns() >= RAMP_LAG_NS_MAX
        if now_ns - self._boots_changed_ns >= (RAMP_PATIENCE_NS if is_late else RAMP_RISE_NS):
            self._boots_changed_ns = now_ns
            self._boots_per_tick = max(1, self._boots_per_tick // 2) if is_late else self._boots_per_tick + 1
        if not is_late or now_ns - self._last_boot_ns >= RAMP_PATIENCE_NS:
            self._last_boot_ns = now_ns
            for _ in range(1 if is_late else min(self._boots_per_tick, len(self._queue))):
                self._switch_on_next()
        if self._queue:
            self.kernel.call_in(RAMP_TICK_NS, self._pace)

    # -- the timeline ----------------------------------------------------------------------------------------------------

    def steer(self, entry: Verb) -> int:
        """Plan one more entry, for now or later; the number of events. It counts as those of the timeline.

        Raises:
            ConfigurationError: its share draws no unit.
        """
        events = self.plan_entry(entry)
        if self._is_started and entry.at_ns >= self._joined_ns:
            for event in events:
                if self._is_mine(event.planned.unit):
                    self.kernel.call_at(self.start_ns + entry.at_ns, self._begin, event)
        return len(events)

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
            case DuplicateFrames(share=share):
                unit.link.send_twice(share)
            case OutOfOrder(share=share):
                unit.link.swap(share)
            case entry if isinstance(full, RecordedUnit):
                return f"a recorded vehicle cannot do {entry.do}"
            case DrivingEntry():
                full.set_driving(is_driving=True)
            case ChargingEntry(power_kw=power_kw):
                full.set_charging(is_charging=True, power_w=power_kw * 1000)
            case entry if isinstance(full, FleetUnit) and not isinstance(entry, FLEET_VERBS):
                return f"{entry.do} needs a unit of full fidelity, and this one was not planned as one"
            case _ if isinstance(full, FullUnit) and begin_entry(
                planned.entry,
                full,
                unit.link,
                version=self._versions.get(full.profile.series, ""),
                random=stream(self.seed, str(unit_id), planned.entry.purpose),
                now_ns=self.kernel.now_ns,
                is_on=unit.is_on,
            ):
                pass
            case _ if not unit.is_on:
                return "it was not switched on yet"
            case Restart(off_s=off_s):
                full.cycle_power(round(off_s * NS_PER_S))
            case SlaveSilent(slave=slave):
                full.set_slave_power(slave, is_on=False)
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
            full = unit.unit
            match planned.entry:
                case PlatformOutage():
                    unit.link.set_outage(is_out=False)
                case Offline():
                    unit.unit.set_coverage(covered=True)
                case DuplicateFrames():
                    unit.link.send_twice(0.0)
                case OutOfOrder():
                    unit.link.swap(0.0)
                case _ if isinstance(full, RecordedUnit):
                    pass  # It can do nothing else.
                case DrivingEntry():
                    full.set_driving(is_driving=False)
                case ChargingEntry():
                    full.set_charging(is_charging=False)
                case SlaveSilent(slave=slave):
                    if full.vehicle.ignition_on:
                        full.set_slave_power(slave, is_on=True)
                case entry:
                    if isinstance(full, FullUnit):  # Others end by themselves.
                        end_entry(entry, full, unit.link, now_ns=self.kernel.now_ns)

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
            case entry:
                return missing_effect(entry, unit.unit, unit.link) if isinstance(unit.unit, FullUnit) else ""

    # -- what is judged --------------------------------------------------------------------------------------------------

    def sample(self) -> None:
        """Bring the counters that the units keep themselves up to date."""
        column = COUNTERS.index("can_frames")
        for row, unit in self._with_bus:
            self.ledger.counts[row, column] = unit.figures.can_frames

    @cached_property
    def _with_bus(self) -> tuple[tuple[int, FullUnit], ...]:
        """The units with an internal bus, and their rows in the ledger."""
        return tuple(
            (self.ledger.units[unit_id].row, unit.unit)
            for unit_id, unit in self.units.items()
            if isinstance(unit.unit, FullUnit)
        )

    def _mark(self, at_ns: int) -> None:
        self.sample()
        if self._only is None:
            self.ledger.mark(at_ns)
        else:
            self._moment(at_ns)

    def _judge(self, at_ns: int) -> None:
        self.sample()
        if self._only is None:
            self.judge(at_ns)
        else:
            self._moment(at_ns)

    def settle(self) -> None:
        """Nothing more comes: count what was not answered, and see which events had no effect. The units are as they were."""
        self.sample()
        self.ledger.ended(self.now_ns())
        for event in self.events:
            if event.outcome == "happened" and (reason := self._without_effect(event)):
                event.outcome, event.reason = "failed", reason

    def hashes(self) -> dict[str, str]:
        """The trace hash of each unit."""
        return {str(unit): each.trace.digest() for unit, each in self.units.items()}

    def end(self) -> Result:
        """Judge what is left. The units are as they were; nothing is switched off."""
        self.settle()
        return self.result(min(self.at_ns, self.duration_ns), self.hashes())
