"""A scenario file: which fleet, what happens to it, how it must end.

A run is (scenario, seed). The file is YAML; everything in it is checked before anything starts, and an error message
names the place, the rule and the value.

Vehicles are numbered from 1 in the order of the `fleet` groups. Times are seconds from the start of the run.
"""

from __future__ import annotations

from collections.abc import Hashable
from importlib import resources
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from bmsota.errors import ConfigurationError
from bmsota_sim.devices.vehicle import CITIES
from bmsota_sim.profiles import PROFILES, SERIES

if TYPE_CHECKING:
    from pydantic_core import ErrorDetails

__all__ = [
    "Campaign",
    "CorruptByte",
    "DownloadCut",
    "Fault",
    "FleetGroup",
    "FrameDisturbed",
    "Interval",
    "PowerCycle",
    "Scenario",
    "SelfTestFails",
    "SlavePowerCut",
    "SlaveReplaced",
    "VehiclePlan",
    "packaged_scenario",
    "parse_scenario",
]

# A scenario for one process; larger fleets are sharded, and a typing slip must not allocate a million units.
VEHICLE_COUNT_MAX = 100_000


FinalStatus = Literal["Upgrade succeeded", "Upgrade failed", "Rolled back", "Rejected", "Timed out", "Cancelled"]
"""How an upgrade can end, in the platform's own words."""


class _Part(BaseModel):
    # No infinity: every time and rate is rounded to integers.
    model_config = ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class FleetGroup(_Part):
    """A number of vehicles of one series."""

    series: str
    count: Annotated[int, Field(ge=1, le=VEHICLE_COUNT_MAX)]
    city: str = "Shanghai"

    @model_validator(mode="after")
    def _series_is_known(self) -> Self:
        if self.series not in SERIES:
            raise ValueError(f"no series {self.series!r}; there are {', '.join(sorted(SERIES))}")
        if self.city not in CITIES:
            raise ValueError(f"no city {self.city!r}; there are {', '.join(sorted(CITIES))}")
        return self


class Interval(_Part):
    """From `from_s` up to `to_s`, seconds from the start of the run."""

    from_s: Annotated[float, Field(ge=0)] = 0.0
    to_s: Annotated[float, Field(gt=0)]

    @model_validator(mode="after")
    def _is_forward(self) -> Self:
        if self.to_s <= self.from_s:
            raise ValueError(f"expected to_s after from_s, got from_s {self.from_s} and to_s {self.to_s}")
        return self

    def holds(self, at_s: float) -> bool:
        return self.from_s <= at_s < self.to_s


class VehiclePlan(_Part):
    """What one vehicle does, beside the rule for all."""

    offline: Interval | None = None
    """No mobile network in this time."""
    driving: Interval | None = None
    soc_pct: Annotated[float, Field(ge=0, le=100)] | None = None
    unprotected_slaves: tuple[Annotated[int, Field(ge=1)], ...] = ()
    """Slaves whose software is from before message protection, by position."""


class DownloadCut(_Part):
    """The mobile link breaks once, when this many bytes of image data have been downloaded."""

    kind: Literal["download_cut"] = "download_cut"
    vehicle: Annotated[int, Field(ge=1)]
    after_bytes: Annotated[int, Field(ge=1)]


class CorruptByte(_Part):
    """One byte of the image data arrives wrong, once."""

    kind: Literal["corrupt_byte"] = "corrupt_byte"
    vehicle: Annotated[int, Field(ge=1)]
    at_byte: Annotated[int, Field(ge=0)]


class SlavePowerCut(_Part):
    """A slave loses its supply when this share of its new image is programmed, and gets it back."""

    kind: Literal["slave_power_cut"] = "slave_power_cut"
    vehicle: Annotated[int, Field(ge=1)]
    slave: Annotated[int, Field(ge=1)]
    at_progress: Annotated[float, Field(gt=0, lt=1)] = 0.5
    off_s: Annotated[float, Field(gt=0)] = 2.0


class SelfTestFails(_Part):
    """The new image runs on this vehicle but does not pass its self-test."""

    kind: Literal["self_test_fails"] = "self_test_fails"
    vehicle: Annotated[int, Field(ge=1)]
    reason: str = "self-test failed"


class SlaveReplaced(_Part):
    """A workshop replaces a slave by one with another serial number, while the vehicle is off for a moment."""

    kind: Literal["slave_replaced"] = "slave_replaced"
    vehicle: Annotated[int, Field(ge=1)]
    slave: Annotated[int, Field(ge=1)]
    at_s: Annotated[float, Field(ge=0)]
    off_s: Annotated[float, Field(gt=0)] = 3.0


class FrameDisturbed(_Part):
    """One frame of a slave's measurements goes wrong, round after round: a wrong bit, always the same frame, or an old one behind it."""

    kind: Literal["frame_corrupted", "frame_frozen", "frame_replayed"]
    vehicle: Annotated[int, Field(ge=1)]
    slave: Annotated[int, Field(ge=1)]
    at_s: Annotated[float, Field(ge=0)]
    rounds: Annotated[int, Field(ge=1)] = 5


Fault = Annotated[
    DownloadCut | CorruptByte | SlavePowerCut | SelfTestFails | SlaveReplaced | FrameDisturbed,
    Field(discriminator="kind"),
]


class PowerCycle(_Part):
    """After a download is complete the driver switches off and, later, on again."""

    after_download_s: Annotated[float, Field(ge=0)] = 4.0
    off_s: Annotated[float, Field(gt=0)] = 3.0


class Campaign(_Part):
    """What the operator does during the run."""

    project: str
    reason: str
    software_version: str
    create_at_s: Annotated[float, Field(ge=0)] = 0.0


class Scenario(_Part):
    """A whole scenario file."""

    name: str
    description: str = ""
    duration_s: Annotated[float, Field(gt=0)]
    """The run is over by then, finished or not."""
    report_period_s: Annotated[float, Field(ge=1, le=600)] = 30.0
    """Parameter 0x02 of the terminal (GB/T 32960.3 table B.12)."""
    heartbeat_period_s: Annotated[int, Field(ge=1, le=240)] = 60
    """Parameter 0x09 of the terminal."""
    measure_period_s: Annotated[float, Field(ge=0.1, le=60)] = 1.0
    """How often a slave sends its measurements over the internal bus."""
    link_rate_bytes_per_s: Annotated[int, Field(ge=100)] = 50_000
    """What the mobile link carries downwards."""
    link_delay_ms: Annotated[int, Field(ge=0, le=60_000)] = 50
    fleet: Annotated[tuple[FleetGroup, ...], Field(min_length=1)]
    vehicles: dict[Annotated[int, Field(ge=1)], VehiclePlan] = {}
    faults: tuple[Fault, ...] = ()
    power_cycle: PowerCycle = PowerCycle()
    campaign: Campaign | None = None
    expect: dict[Annotated[int, Field(ge=1)], FinalStatus] = {}
    """The final status of single vehicles; every other one must end as `expect_default`."""
    expect_default: FinalStatus = "Upgrade succeeded"

    @model_validator(mode="after")
    def _numbers_fit(self) -> Self:
        count = self.vehicle_count
        if count > VEHICLE_COUNT_MAX:
            raise ValueError(f"fleet: expected at most {VEHICLE_COUNT_MAX} vehicles, got {count}")
        named = [("vehicles", number) for number in self.vehicles]
        named += [("expect", number) for number in self.expect]
        named += [(f"faults[{index}].vehicle", fault.vehicle) for index, fault in enumerate(self.faults)]
        for place, number in named:
            if number > count:
                raise ValueError(f"{place}: expected a vehicle from 1 to {count}, got {number}")
        for index, fault in enumerate(self.faults):
            if isinstance(fault, SlavePowerCut | SlaveReplaced | FrameDisturbed):
                slaves = PROFILES[self.series_of(fault.vehicle)].slave_count
                if fault.slave > slaves:
                    raise ValueError(f"faults[{index}].slave: expected a slave from 1 to {slaves}, got {fault.slave}")
        for number, plan in self.vehicles.items():
            slaves = PROFILES[self.series_of(number)].slave_count
            for slave in plan.unprotected_slaves:
                if slave > slaves:
                    raise ValueError(
                        f"vehicles.{number}.unprotected_slaves: expected a slave from 1 to {slaves}, got {slave}"
                    )
        seen: set[tuple[str, int, int]] = set()
        for index, fault in enumerate(self.faults):
            # A unit has one plan of each kind; the second would silently take the place of the first.
            slave = fault.slave if isinstance(fault, SlavePowerCut | SlaveReplaced | FrameDisturbed) else 0
            key = (fault.kind, fault.vehicle, slave)
            if key in seen:
                what = f"vehicle {fault.vehicle}" + (f", slave {slave}" if slave else "")
                raise ValueError(f"faults[{index}]: a second {fault.kind} for {what}; give at most one")
            seen.add(key)
        if self.campaign is not None and self.campaign.create_at_s >= self.duration_s:
            raise ValueError(
                f"campaign.create_at_s: expected less than duration_s ({self.duration_s:g}), "
                f"got {self.campaign.create_at_s:g}"
            )
        return self

    @property
    def vehicle_count(self) -> int:
        return sum(group.count for group in self.fleet)

    def group_of(self, number: int) -> FleetGroup:
        """The fleet group that vehicle *number* belongs to."""
        last = 0
        for group in self.fleet:
            last += group.count
            if number <= last:
                return group
        raise ConfigurationError(f"vehicle: expected a number from 1 to {last}, got {number}")

    def series_of(self, number: int) -> str:
        return self.group_of(number).series

    def expected_status(self, number: int) -> str:
        return self.expect.get(number, self.expect_default)


class _StrictLoader(yaml.SafeLoader):
    """YAML, where a duplicate key in a mapping is an error."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[object] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if isinstance(key, Hashable) and key in seen:
                raise yaml.constructor.ConstructorError(None, None, f"duplicate key {key!r}", key_node.start_mark)
            if isinstance(key, Hashable):
                seen.add(key)
        return super().construct_mapping(node, deep=deep)


def parse_scenario(text: str, *, name: str = "scenario") -> Scenario:
    """Read a scenario from YAML text.

    Raises:
        ConfigurationError: not YAML, or something in it is not as expected; the message lists every place.
    """
    try:
        tree = yaml.load(text, Loader=_StrictLoader)  # noqa: S506 - a SafeLoader that allows less
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{name}: not valid YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise ConfigurationError(f"{name}: expected a mapping at the top level, got {type(tree).__name__}")
    try:
        return Scenario.model_validate(tree)
    except ValidationError as error:
        lines = [
            f"{name}: {'.'.join(str(part) for part in item['loc']) or 'scenario'}: {_problem(item)}"
            for item in error.errors()
        ]
        raise ConfigurationError("\n".join(lines)) from error


_EXPECTED = {
    "greater_than": "more than {gt}",
    "greater_than_equal": "at least {ge}",
    "less_than": "less than {lt}",
    "less_than_equal": "at most {le}",
    "too_short": "a list with at least {min_length} in it",
    "finite_number": "a finite number",
    "string_type": "text (in quotes)",
    "int_parsing": "a whole number",
    "int_type": "a whole number",
    "int_from_float": "a whole number",
    "float_parsing": "a number",
    "float_type": "a number",
    "bool_parsing": "true or false",
    "tuple_type": "a list",
    "dict_type": "a mapping",
    "model_type": "a mapping",
    "string_pattern_mismatch": "text that matches {pattern}",
}
"""What a value should have been, by pydantic's name of the error."""


def _problem(item: ErrorDetails) -> str:
    """One of pydantic's errors in our words."""
    match item["type"]:
        case "value_error":
            return str(item["ctx"]["error"])
        case "extra_forbidden":
            return "no such key"
        case "missing":
            return "this key is missing"
        case "literal_error" | "union_tag_invalid" | "enum":
            expected = item["ctx"].get("expected") or item["ctx"].get("expected_tags")
            got = item["ctx"].get("tag", item["input"])
            return f"expected {expected}, got {got!r:.60}"
        case "union_tag_not_found":
            return "its kind is missing"
    expected = _EXPECTED.get(item["type"])
    if expected is None:
        return item["msg"]
    context = {
        name: int(value) if isinstance(value, float) and value.is_integer() else value
        for name, value in item.get("ctx", {}).items()
    }
    got = f"{item['input']!r:.60}"
    return f"expected {expected.format(**context)}, got {got}"


def packaged_scenario(name: str) -> str:
    """The text of a scenario file that ships with the simulator.

    Raises:
        ConfigurationError: there is no scenario of that name; the message lists the names.
    """
    folder = resources.files("bmsota_sim") / "scenarios"
    file = folder / f"{name}.yaml"
    if not file.is_file():
        names = sorted(entry.name.removesuffix(".yaml") for entry in folder.iterdir() if entry.name.endswith(".yaml"))
        raise ConfigurationError(f"no scenario {name!r}; there are {', '.join(names)}")
    return file.read_text(encoding="utf-8")
