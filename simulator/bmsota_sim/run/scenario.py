"""A scenario, second version: which groups of units, what a day is like, what happens when, and what must hold.

A run is (scenario, seed). Everything is checked when it is read, and an error names line and column. A unit is a group and a number in
it; times are seconds from the start of the run.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, Field, ValidationError

from bmsota.errors import ConfigurationError
from bmsota_sim.devices.vehicle import CITIES
from bmsota_sim.profiles import PROFILES
from bmsota_sim.run.base import EVERYONE, Percent, Section, one_of
from bmsota_sim.run.consistency import UNIT_COUNT_MAX, problems
from bmsota_sim.run.expectations import COUNTERS, STATUSES, Expectation, Moment
from bmsota_sim.run.places import Document, Path, did_you_mean, dotted, read_document, shown
from bmsota_sim.run.quantities import (
    ByteRate,
    CelsiusRange,
    Clock,
    Duration,
    PositiveDuration,
    Share,
)
from bmsota_sim.run.selection import GROUP_NAME, Who
from bmsota_sim.run.verbs import VERBS, BaseEntry, Entry

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "COUNTERS",
    "OUTCOMES",
    "STATUSES",
    "VERBS",
    "Entry",
    "Expectation",
    "Group",
    "Life",
    "Moment",
    "Network",
    "Ota",
    "Platform",
    "Scenario",
    "Start",
    "packaged_names",
    "packaged_text",
    "parse_scenario",
    "with_count",
]

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


class Scenario(Section):
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


def parse_scenario(data: bytes | str, *, name: str = "scenario") -> Scenario:
    """Read a scenario from YAML.

    Args:
        data: the file.
        name: the file's name, for messages.

    Raises:
        ConfigurationError: something in it is not as expected; a line `file:line:column: key: problem` for each place.
    """
    document = read_document(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data, name)
    try:
        scenario = Scenario.model_validate(document.tree)
    except ValidationError as error:
        raise document.error(_problem(document, item) for item in error.errors()) from error
    found = [(path, text, False) for path, text in problems(scenario)]
    if found:
        raise document.error(found)
    return scenario


def with_count(scenario: Scenario, count: int) -> Scenario:
    """The same with *count* units in all; the groups keep their proportions, and at least one unit.

    Raises:
        ConfigurationError: it does not go, or names a unit that is then not there.
    """
    total = scenario.unit_count
    if not len(scenario.groups) <= count <= UNIT_COUNT_MAX:
        raise ConfigurationError(
            f"count: expected {len(scenario.groups)} to {UNIT_COUNT_MAX:,} units for {scenario.name}, got {count}"
        )
    # Largest remainder over what is left when every group has one.
    exact = {name: group.count * (count - len(scenario.groups)) / total for name, group in scenario.groups.items()}
    counts = {name: 1 + int(value) for name, value in exact.items()}
    rest = sorted(exact, key=lambda name: int(exact[name]) - exact[name])
    for name in rest[: count - sum(counts.values())]:
        counts[name] += 1
    groups = {name: group.model_copy(update={"count": counts[name]}) for name, group in scenario.groups.items()}
    changed = scenario.model_copy(update={"groups": groups})
    for path, text in problems(changed):
        raise ConfigurationError(f"{scenario.name} with {count:,} units: {dotted(path)}: {text}")
    return changed


_EXPECTED = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "at least {min_length} of them",
    "too_long": "at most {max_length} of them",
    "string_too_short": "text",
    "string_too_long": "at most {max_length} characters",
    "finite_number": "a finite number",
    "string_type": "text",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "bool_type": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "model_attributes_type": "a mapping",
    "literal_error": "{expected}",
    "string_pattern_mismatch": "a name of letters, digits, - and _ that starts with a letter and has at most 40",
}
"""What a value should have been, by pydantic's name of the error."""

_SECTIONS: dict[str, type[Section]] = {
    "start": Start,
    "platform": Platform,
    "life": Life,
    "charge": Charge,
    "network": Network,
    "ota": Ota,
}


def _model_at(tree: Any, path: Path) -> type[Section] | None:
    """The model of the mapping at *path*."""
    if not path:
        return Scenario
    if path[0] == "groups" and len(path) == 2:
        return Group
    if path[0] == "expect":
        return Expectation
    if path[0] == "timeline":
        return VERBS.get(tree["timeline"][path[1]].get("do"))
    return _SECTIONS.get(str(path[-1]))


def keys_of(model: type[BaseModel]) -> list[str]:
    """The keys that a mapping of this model has in a file."""
    return [field.alias or name for name, field in model.model_fields.items()]


def _problem(document: Document, item: ErrorDetails) -> tuple[Path, str, bool]:
    """One of pydantic's errors: where it is in the file, in our words, and whether the key is meant."""
    at: Any = document.tree
    path: Path = ()
    for part in item["loc"]:
        # What pydantic adds for itself, the verb of an entry for one, is no key of the file.
        is_there = part in at if isinstance(at, dict) else isinstance(at, list) and isinstance(part, int)
        if is_there:
            path, at = (*path, part), at[part]
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    last = item["loc"][-1] if item["loc"] else ""
    if kind == "extra_forbidden":
        model = _model_at(document.tree, path[:-1])
        known = (
            [] if model is None else [key for key in keys_of(model) if key not in document_keys(document, path[:-1])]
        )
        return path, f"no such key{did_you_mean(str(last), known)}", True
    if kind == "missing":
        return path, f"the key {last!r} is missing", False
    if kind == "union_tag_not_found":
        return path, f"the key 'do' is missing{did_you_mean('', VERBS)}", False
    if kind == "union_tag_invalid":
        return (*path, "do"), f"no verb {shown(context['tag'])}{did_you_mean(str(context['tag']), VERBS)}", False
    if kind == "value_error":
        return path, str(context["error"]), last == "[key]"
    if kind == "string_type" and isinstance(value, int | float):
        text = document.place(path).text
        return path, f'expected text, got {text} without quotes; write it in quotes: "{text}"', False
    expected = _EXPECTED.get(kind)
    if expected is None:
        return path, item["msg"], last == "[key]"
    numbers = {
        name: int(limit) if isinstance(limit, float) and limit.is_integer() else limit
        for name, limit in context.items()
    }
    got = f"{len(value):,}" if kind in {"too_short", "too_long"} else shown(value)
    return path, f"expected {expected.format(**numbers)}, got {got}", last == "[key]"


def document_keys(document: Document, path: Path) -> set[str]:
    """The keys that the mapping at *path* has."""
    at: Any = document.tree
    for part in path:
        at = at[part]
    return set(at) if isinstance(at, dict) else set()


def _folder() -> Any:
    return resources.files("bmsota_sim") / "run" / "packaged"


def packaged_names() -> tuple[str, ...]:
    """The names of the ready scenarios, sorted."""
    return tuple(sorted(file.name.removesuffix(".yaml") for file in _folder().iterdir() if file.name.endswith(".yaml")))


def packaged_text(name: str) -> str:
    """The text of a ready scenario.

    Raises:
        ConfigurationError: there is none of this name; the message lists them.
    """
    names = packaged_names()
    if name not in names:
        raise ConfigurationError(f"no scenario {shown(name)}{did_you_mean(name, names)}")
    return str((_folder() / f"{name}.yaml").read_text(encoding="utf-8"))
