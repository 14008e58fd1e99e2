"""What `bmsota-sim check` finds and shows: a scenario resolved for one seed, before anything runs. No I/O."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bmsota_sim.profiles import PROFILES
from bmsota_sim.run.consistency import groups_meant
from bmsota_sim.run.expectations import purpose
from bmsota_sim.run.identities import check_group_codes
from bmsota_sim.run.model import FleetScenario
from bmsota_sim.run.places import did_you_mean, read_document, shown
from bmsota_sim.run.quantities import duration_text
from bmsota_sim.run.releases import is_folder
from bmsota_sim.run.scenario import parse_scenario, with_count
from bmsota_sim.run.selection import select
from bmsota_sim.run.timeline import PlanError, meetings, outcomes
from bmsota_sim.samples import sample_names

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota_sim.run.places import Path
    from bmsota_sim.run.timeline import Meeting

__all__ = ["CheckedScenario", "check", "json_schema", "parameters"]

_MANIFEST = ".manifest.cose"


@dataclass(frozen=True, slots=True)
class CheckedScenario:
    """A scenario that can run, and what it means with this seed."""

    scenario: FleetScenario
    seed: int
    meetings: tuple[Meeting, ...]
    outcomes: dict[str, int]
    """Units for each outcome of the upgrade; empty without one."""


def check(data: bytes, name: str, seed: int, *, count: int | None = None) -> CheckedScenario:
    """Read a scenario and resolve it with *seed*.

    Args:
        data: the file.
        name: its name, for messages.
        seed: of the run.
        count: units in all, in place of those of the file.

    Raises:
        ConfigurationError: it cannot run; a line `file:line:column: key: problem` for each place.
    """
    scenario = parse_scenario(data, name=name)
    if count is not None:
        scenario = with_count(scenario, count)
    problems = list(_problems(scenario, seed))
    found: tuple[Meeting, ...] = ()
    try:
        found = meetings(scenario, seed)
    except PlanError as error:
        problems += [(path, f"{text} (seed {seed})") for path, text in error.problems]
    if problems:
        raise read_document(data, name).error((path, text, False) for path, text in problems)
    return CheckedScenario(
        scenario, seed, found, {outcome: len(units) for outcome, units in outcomes(scenario, seed).items()}
    )


def _problems(scenario: FleetScenario, seed: int) -> Iterator[tuple[Path, str]]:
    for text in check_group_codes(scenario):
        yield ("groups",), text
    for index, expectation in enumerate(scenario.expect):
        # The very draw of `evaluate` depends on what is judged and when; any draw of so small a share may be empty.
        if not select(scenario, seed, expectation.who, purpose(scenario, expectation)):
            who = ", ".join(map(str, expectation.who))
            yield (
                ("expect", index, "who"),
                f"{who}: no unit is drawn; name one, such as {next(iter(scenario.groups))}/1 (seed {seed})",
            )
    if scenario.ota is not None and not is_folder(scenario.ota.release):
        for group in groups_meant(scenario, scenario.ota.who):
            series = PROFILES[scenario.groups[group].profile].series
            versions = [
                name[len(series) + 1 : -len(_MANIFEST)]
                for name in sample_names()
                if name.startswith(f"{series}-") and name.endswith(_MANIFEST)
            ]
            if scenario.ota.release not in versions:
                yield (
                    ("ota", "release"),
                    f"no sample release {shown(scenario.ota.release)} for profile {scenario.groups[group].profile}{did_you_mean(scenario.ota.release, versions)}; a folder is written with a /",
                )


def parameters(entry: Any) -> str:
    """What an entry says besides who and when: `slave 2, cell 7`."""
    told = []
    for name, field in type(entry).model_fields.items():
        if name in {"do", "at_s", "for_s", "who", "name"}:
            continue
        value = getattr(entry, name)
        if value is not None:
            text = (
                duration_text(value)
                if name.endswith("_s")
                else f"{value:g}"
                if isinstance(value, float)
                else str(value)
            )
            told.append(f"{(field.alias or name).replace('_', ' ')} {text}")
    return ", ".join(told)


def json_schema() -> dict[str, Any]:
    """The JSON Schema (2020-12) of a scenario file."""
    schema = FleetScenario.model_json_schema(by_alias=True)
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "$id": "https://bmsota.github.io/bmsota/scenario.schema.json",
        **schema,
        "title": "bmsota-sim scenario",
    }
