"""What no single value of a scenario shows: names that are not there, times after the end, entries that contradict each other."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota_sim.profiles import PROFILES
from bmsota_sim.run.base import RESERVED_NAMES, UNIT_COUNT_MAX
from bmsota_sim.run.expected import STATUSES
from bmsota_sim.run.places import did_you_mean, shown
from bmsota_sim.run.quantities import duration_text
from bmsota_sim.run.verbs import FOR_ALL, NO_FAULTS
from bmsota_sim.run.who import problems_of

if TYPE_CHECKING:
    from collections.abc import Iterator

    from bmsota_sim.run.expected import Expectation
    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.places import Path
    from bmsota_sim.run.verbs import Verb
    from bmsota_sim.run.who import WhoPart

__all__ = ["contradiction", "groups_meant", "overlap", "problems"]


def problems(scenario: FleetScenario) -> Iterator[tuple[Path, str]]:
    """What no single value shows: names that are not there, times after the end, entries that contradict each other."""
    if scenario.unit_count > UNIT_COUNT_MAX:
        yield ("groups",), f"expected at most {UNIT_COUNT_MAX:,} units in sum, got {scenario.unit_count:,}"
    for name in scenario.groups:
        if name in RESERVED_NAMES:
            yield ("groups", name), f"{name!r} has a meaning of its own; choose another name"
    if scenario.faults_off_s >= scenario.duration_s:
        yield (
            ("faults_off",),
            f"expected less than the duration, {duration_text(scenario.duration_s)}, got {duration_text(scenario.faults_off_s)}",
        )
    if scenario.start is not None and scenario.start.over_s >= scenario.duration_s:
        yield (
            ("start", "over"),
            f"expected less than the duration, {duration_text(scenario.duration_s)}, got {duration_text(scenario.start.over_s)}",
        )
    counts = {name: group.count for name, group in scenario.groups.items()}
    names: dict[str, int] = {}
    for index, entry in enumerate(scenario.timeline):
        yield from (
            (("timeline", index, *path), text) for path, text in _entry_problems(scenario, entry, counts, names)
        )
        if entry.name is not None:
            names.setdefault(entry.name, index)
    yield from _contradictions(scenario)
    if scenario.ota is not None:
        yield from ((("ota", "who"), text) for text in problems_of(scenario.ota.who, counts, names))
        if scenario.ota.at_s >= scenario.duration_s:
            yield ("ota", "at"), _after_the_end(scenario)
    for index, expectation in enumerate(scenario.expect):
        yield from (
            (("expect", index, *path), text)
            for path, text in _expectation_problems(scenario, expectation, counts, names)
        )


def _after_the_end(scenario: FleetScenario) -> str:
    return f"this is not before the end of the run; the duration is {duration_text(scenario.duration_s)}"


def _entry_problems(
    scenario: FleetScenario, entry: Verb, counts: dict[str, int], names: dict[str, int]
) -> Iterator[tuple[Path, str]]:
    if entry.name in RESERVED_NAMES:
        yield ("name",), f"{entry.name!r} has a meaning of its own; choose another name"
    elif entry.name in names:
        yield ("name",), f"timeline[{names[entry.name]}] has this name too"
    has_who = "who" in entry.model_fields_set
    if entry.do == "platform_outage" and has_who:
        yield ("who",), "an outage of the platform meets everybody; use offline for single units"
    if not has_who and entry.do not in FOR_ALL:
        yield (), "the key 'who' is missing; for every unit write `who: all`"
    found = problems_of(entry.who, counts, names, entries_where="above this one")
    yield from ((("who",), text) for text in found)
    if not found:
        yield from _slave_problems(scenario, entry)
    if entry.is_armed and scenario.ota is None:
        yield ("do",), f"{entry.do} waits for an upgrade, and the scenario has no ota"
    is_fault = entry.do not in NO_FAULTS
    limit_s = scenario.faults_end_s if is_fault else scenario.duration_s
    if entry.at_s >= scenario.duration_s:
        yield ("at",), _after_the_end(scenario)
    elif entry.at_s >= limit_s:
        yield ("at",), f"the time without faults (faults_off) begins at {duration_text(limit_s)}"
    elif entry.end_s > limit_s:
        what = "the time without faults (faults_off) begins" if is_fault and scenario.faults_off_s else "the run ends"
        key = "for" if entry.lasts == "for_s" else "off"
        yield (key,), f"it would last until {duration_text(entry.end_s)}, but {what} at {duration_text(limit_s)}"


def groups_meant(scenario: FleetScenario, who: tuple[WhoPart, ...]) -> list[str]:
    """The groups that *who* may draw from, in the order of the scenario."""
    meant: set[str] = set()
    for part in who:
        if part.entry is not None:
            meant.update(
                groups_meant(scenario, next(entry.who for entry in scenario.timeline if entry.name == part.entry))
            )
        else:
            meant.update(scenario.groups if part.group is None else (part.group,))
    return [name for name in scenario.groups if name in meant]


def _slave_problems(scenario: FleetScenario, entry: Verb) -> Iterator[tuple[Path, str]]:
    for name in groups_meant(scenario, entry.who):
        profile = PROFILES[scenario.groups[name].profile]
        limits = (
            ("slave", profile.slave_count),
            ("cell", profile.cells_per_slave),
            ("probe", profile.probes_per_slave),
        )
        for key, limit in limits:
            number = getattr(entry, key, None)
            if number is not None and number > limit:
                yield (key,), f"expected 1 to {limit} in group {name!r} (profile {profile.name}), got {number}"


def _contradictions(scenario: FleetScenario) -> Iterator[tuple[Path, str]]:
    """Entries that exclude each other and certainly meet the same unit; what depends on a draw is found by `timeline.plan`."""
    by_key: dict[tuple[object, ...], list[tuple[int, Verb]]] = {}
    for index, entry in enumerate(scenario.timeline):
        for before, earlier in by_key.setdefault(entry.key, []):
            if overlap(scenario, earlier, entry):
                shared = _shared_unit(scenario, earlier, entry)
                if shared is not None:
                    yield ("timeline", index), contradiction(before, earlier, entry, shared)
        by_key[entry.key].append((index, entry))


def contradiction(before: int, earlier: Verb, entry: Verb, unit: str) -> str:
    """What is wrong with *entry*, which meets *unit* while entry number *before* does."""
    return (
        f"{entry.do} at {duration_text(entry.at_s)} meets {unit}, which timeline[{before}], {earlier.do} at "
        f"{duration_text(earlier.at_s)}, still holds; let that end before, or name other units"
    )


def overlap(scenario: FleetScenario, one: Verb, other: Verb) -> bool:
    """Whether two entries are there at the same time."""
    if one.is_armed:
        return True  # Both wait for the same upgrade.
    if one.at_s == other.at_s:
        return True
    first, second = sorted((one, other), key=lambda entry: entry.at_s)
    return scenario.end_of(first) > second.at_s


def _shared_unit(scenario: FleetScenario, one: Verb, other: Verb) -> str | None:
    if one.do == "platform_outage" or other.do == "platform_outage":
        return "the platform"
    mine, theirs = _fixed_ranges(scenario, one.who), _fixed_ranges(scenario, other.who)
    for name, first, last in mine:
        for other_name, other_first, other_last in theirs:
            if name == other_name and max(first, other_first) <= min(last, other_last):
                return f"{name}/{max(first, other_first)}"
    return None


def _fixed_ranges(scenario: FleetScenario, who: tuple[WhoPart, ...]) -> list[tuple[str, int, int]]:
    """Group, first and last number of what *who* names without a draw."""
    found: list[tuple[str, int, int]] = []
    for part in who:
        if (
            part.share is not None
            or part.entry is not None
            or (part.group is not None and part.group not in scenario.groups)
        ):
            continue
        names = scenario.groups if part.group is None else (part.group,)
        found += [(name, part.first or 1, part.last or scenario.groups[name].count) for name in names]
    return found


# Which keys say what must hold, by kind of expectation.
_LIMIT_KEYS = frozenset({"is", "at_least", "at_most", "above", "below"})
_KEYS_OF_KIND = {
    "counter": _LIMIT_KEYS,
    "ratio": _LIMIT_KEYS,
    "reply": _LIMIT_KEYS - {"is"},
    "logged_in": _LIMIT_KEYS,
    "status": _LIMIT_KEYS,
    "seen_status": _LIMIT_KEYS,
    "history": (_LIMIT_KEYS - {"is"}) | {"contains"},
}


def _expectation_problems(
    scenario: FleetScenario, expectation: Expectation, counts: dict[str, int], names: dict[str, int]
) -> Iterator[tuple[Path, str]]:
    yield from ((("who",), text) for text in problems_of(expectation.who, counts, names))
    kind = expectation.kind
    given = {
        key for key in (*_LIMIT_KEYS, "contains") if getattr(expectation, "is_" if key == "is" else key) is not None
    }
    for key in sorted(given - _KEYS_OF_KIND[kind]):
        yield (key,), f"{key} does not go with {expectation.what}"
    if kind in {"status", "seen_status"}:
        if "is" not in given:
            yield (), "the key 'is' is missing: the status, or a list of statuses, of which one must be"
        else:
            for status in expectation.statuses:
                if status not in STATUSES:
                    yield (
                        ("is",),
                        f"no status {shown(status)}{did_you_mean(status if isinstance(status, str) else '', STATUSES)}",
                    )
        if scenario.ota is None:
            yield ("what",), f"{kind} is that of an upgrade, and the scenario has no ota"
    elif kind == "history":
        if "contains" not in given:
            yield (), "the key 'contains' is missing: a text that the history of each unit contains"
    elif not given & _LIMIT_KEYS:
        yield (), "nothing is expected; give is, at_least, at_most, above or below"
    try:
        list(expectation.limits())
    except ValueError as error:
        key, _, text = str(error).partition("\0")
        yield (key,), text
    yield from _moment_problems(scenario, expectation, names)
    owed = scenario.platform.acknowledges_reports
    if "unanswered" in expectation.what.split(" / ") and owed != "yes":
        yield ("what",), f"nothing can be unanswered: platform.acknowledges_reports is {owed}, so no answer is owed"


def _moment_problems(
    scenario: FleetScenario, expectation: Expectation, names: dict[str, int]
) -> Iterator[tuple[Path, str]]:
    known = {*names, "faults_off", "end"}
    times: dict[str, float] = {"by": scenario.duration_s}
    for key, moment in (("by", expectation.by), ("since", expectation.since)):
        if moment is None:
            continue
        if moment.after is not None and moment.after not in known:
            yield (key,), f"no entry of the timeline is named {shown(moment.after)}{did_you_mean(moment.after, known)}"
            continue
        times[key] = scenario.seconds_of(moment)
        if moment.after == "end" and moment.offset_s:
            yield (key,), "nothing is after the end"
        elif times[key] > scenario.duration_s:
            yield (
                (key,),
                f"this is {duration_text(times[key])}, after the end of the run ({duration_text(scenario.duration_s)})",
            )
    if expectation.since is not None:
        if expectation.kind not in {"counter", "ratio"}:
            yield ("since",), f"since goes with counters, not with {expectation.what}"
        elif times.get("since", 0.0) >= times["by"]:
            yield (
                ("since",),
                f"expected a time before {duration_text(times['by'])}, when it is judged, got {duration_text(times['since'])}",
            )
