"""The model of a scenario: which groups of units, what a day is like, what happens when, and what must hold."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from bmsota_sim.devices.vehicle import CITIES
from bmsota_sim.profiles import PROFILES
from bmsota_sim.run.base import EVERYONE, UNIT_COUNT_MAX, Percent, Section, one_of
from bmsota_sim.run.expected import Expectation, Moment
from bmsota_sim.run.quantities import ByteRate, CelsiusRange, Clock, Duration, PositiveDuration, Share
from bmsota_sim.run.verbs import BaseEntry, Entry
from bmsota_sim.run.who import GROUP_NAME, Who

__all__ = ["OUTCOMES", "Charge", "FleetScenario", "Group", "Life", "Network", "Ota", "Platform", "Start"]

ENTRIES_MAX = 1_000
OUTCOMES = (
    "succeeds",
    "rejects",
    "stays_queued",
    "hangs_in_download",
    "fails_verification",
    "times_out",
    "rolls_back",
    "never_answers",
)
"""What a unit makes of an upgrade."""

Profile = Annotated[str, *one_of(tuple(sorted(PROFILES)), "profile")]
City = Annotated[str, *one_of(tuple(sorted(CITIES)), "city")]
Outcome = Annotated[str, *one_of(OUTCOMES, "outcome")]
Trips = Annotated[str, *one_of(("none", "wltc", "nedc", "udds"), "trip cycle")]


class Network(Section):
    """The mobile link of a unit."""

    latency_s: Duration = Field(default=0.05, alias="latency")
    """One way."""
    jitter_s: Duration = Field(default=0.0, alias="jitter")
    """Up to this much is added to the latency of each segment; their order stays."""
    loss: Share = 0.0
    """Share of segments that are lost and arrive after a retransmission, one second later."""
    rate_bytes_per_s: ByteRate = Field(default=50_000, alias="rate")
    split: Share = 0.0
    """Share of segments that arrive in two pieces."""
    half_open: Share = 0.0
    """Share of lost links that the platform is not told about."""


class Charge(Section):
    """The daily charge."""

    from_s: Clock = Field(default=22 * 3600, alias="from")
    power_kw: Annotated[float, Field(gt=0, le=1000)] = 7.0
    to_pct: Percent = 100.0
    taper: bool = True


class Life(Section):
    """What a day of the vehicles is like."""

    trips: Trips = "none"
    """The standard cycle that they drive; `none`: parked."""
    trips_per_day: Annotated[int, Field(ge=0, le=48)] = 2
    charge: Charge | None = None
    ambient_c: CelsiusRange = Field(default=(20.0, 20.0), alias="ambient")
    report_s: Annotated[PositiveDuration, Field(ge=1, le=600)] = Field(default=30.0, alias="report")
    """Period of the reports (GB/T 32960.3 table B.12, parameter 0x02)."""
    heartbeat_s: Annotated[PositiveDuration, Field(ge=1, le=240)] = Field(default=60.0, alias="heartbeat")
    """Parameter 0x09."""
    measure_s: Annotated[PositiveDuration, Field(ge=0.1, le=60)] = Field(default=1.0, alias="measure")
    """Period of the measurements on the internal bus."""


class Group(Section):
    """A number of units that are alike."""

    profile: Profile
    count: Annotated[int, Field(ge=1, le=UNIT_COUNT_MAX)]
    fidelity: Literal["fleet", "full"] = "fleet"
    city: City = "Shanghai"
    edition: Literal[2016, 2025] = 2016
    """Of GB/T 32960.3."""
    soc_pct: Percent = Field(default=80.0, alias="soc")
    soc_spread_pct: Annotated[float, Field(ge=0, le=50)] = Field(default=0.0, alias="soc_spread")
    """Up to this much more or less, drawn for each unit."""
    life: Life | None = None
    """In place of the scenario's."""
    network: Network | None = None
    """In place of the scenario's."""


class Start(Section):
    """The ramp-up."""

    over_s: Duration = Field(alias="over")
    """The units are switched on one after another in this time."""


class Platform(Section):
    """What is known of the tested platform."""

    acknowledges_reports: Literal["yes", "no", "unknown"] = "unknown"
    """Whether it owes an answer to each report; the standard's annex B lets it be silent on a terminal's link."""


def _sum_fits(outcomes: dict[str, float]) -> dict[str, float]:
    total = sum(outcomes.values())
    if total > 1 + 1e-9:
        raise ValueError(f"expected shares of at most 100% in sum, got {total * 100:g}%")
    if "succeeds" in outcomes and total < 1 - 1e-9:
        raise ValueError(f"expected shares of 100% in sum, got {total * 100:g}%; without `succeeds` it is the rest")
    return outcomes


class Ota(Section):
    """One OTA task over the fleet."""

    release: Annotated[str, Field(min_length=1, max_length=255)]
    """A version of the sample releases, or a folder with a release."""
    who: Who = EVERYONE
    at_s: Duration = Field(default=0.0, alias="at")
    """When the operator creates the task."""
    validity_s: PositiveDuration | None = Field(default=None, alias="validity")
    """How long the task is valid."""
    project: Annotated[str, Field(min_length=1, max_length=100)] = "bmsota-sim"
    reason: Annotated[str, Field(min_length=1, max_length=200)] = "run of a scenario"
    outcomes: Annotated[dict[Outcome, Share], AfterValidator(_sum_fits)] = Field(default_factory=dict)
    """Share of the units for each outcome; the others succeed."""
    power_cycle_off_s: PositiveDuration = Field(default=3.0, alias="power_cycle")
    """After a download the driver switches off for so long."""


class FleetScenario(Section):
    """A whole scenario file."""

    name: Annotated[str, Field(min_length=1, max_length=100)]
    description: str = ""
    duration_s: PositiveDuration = Field(alias="duration")
    """The run is over by then."""
    start: Start | None = None
    """The ramp-up; None: as fast as the machine can start units."""
    platform: Platform = Platform()
    groups: Annotated[dict[Annotated[str, Field(pattern=f"^{GROUP_NAME}$")], Group], Field(min_length=1)]
    life: Life = Life()
    network: Network = Network()
    timeline: Annotated[tuple[Entry, ...], Field(max_length=ENTRIES_MAX, strict=False)] = ()
    ota: Ota | None = None
    expect: Annotated[tuple[Expectation, ...], Field(max_length=ENTRIES_MAX, strict=False)] = ()
    faults_off_s: Duration = Field(default=0.0, alias="faults_off")
    """The last part of the run is free of faults, so that the fleet must have recovered at its end."""

    @property
    def unit_count(self) -> int:
        return sum(group.count for group in self.groups.values())

    @property
    def faults_end_s(self) -> float:
        """When the faults of the timeline and of the network are over."""
        return self.duration_s - self.faults_off_s

    def life_of(self, group: str) -> Life:
        return self.groups[group].life or self.life

    def network_of(self, group: str) -> Network:
        return self.groups[group].network or self.network

    def seconds_of(self, moment: Moment | None) -> float:
        """Seconds from the start; None is the end of the run.

        Raises:
            KeyError: no entry has this name.
        """
        if moment is None or moment.after == "end":
            return self.duration_s
        if moment.after is None:
            return moment.offset_s
        if moment.after == "faults_off":
            return self.faults_end_s + moment.offset_s
        return {entry.name: self.end_of(entry) for entry in self.timeline}[moment.after] + moment.offset_s

    def end_of(self, entry: BaseEntry) -> float:
        """When *entry* is over, in seconds: what has no end of its own lasts as long as there are faults."""
        if entry.lasts is not None and entry.end_ns is None:
            return self.faults_end_s
        return entry.end_s
