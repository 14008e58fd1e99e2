"""A scenario, second version: which groups of units, what a day is like, what happens when, and what must hold.

A run is (scenario, seed). Everything is checked when it is read, and an error names line and column. A unit is a group and a number in
it; times are seconds from the start of the run.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from bmsota.errors import ConfigurationError
from bmsota_sim.run.base import UNIT_COUNT_MAX
from bmsota_sim.run.consistency import problems
from bmsota_sim.run.expected import COUNTERS, STATUSES, Expectation, Moment
from bmsota_sim.run.model import OUTCOMES, Charge, FleetScenario, Group, Life, Network, Ota, Platform, Start
from bmsota_sim.run.places import Document, Path, did_you_mean, dotted, read_document, shown
from bmsota_sim.run.verbs import VERBS, Entry

if TYPE_CHECKING:
    from pydantic import BaseModel
    from pydantic_core import ErrorDetails

    from bmsota_sim.run.base import Section

__all__ = [
    "COUNTERS",
    "OUTCOMES",
    "STATUSES",
    "VERBS",
    "Charge",
    "Entry",
    "Expectation",
    "FleetScenario",
    "Group",
    "Life",
    "Moment",
    "Network",
    "Ota",
    "Platform",
    "Start",
    "entry_problem",
    "packaged_names",
    "packaged_text",
    "parse_scenario",
    "with_count",
]


def parse_scenario(data: bytes | str, *, name: str = "scenario") -> FleetScenario:
    """Read a scenario from YAML.

    Args:
        data: the file.
        name: the file's name, for messages.

    Raises:
        ConfigurationError: something in it is not as expected; a line `file:line:column: key: problem` for each place.
    """
    document = read_document(data.encode("utf-8", "surrogatepass") if isinstance(data, str) else data, name)
    try:
        scenario = FleetScenario.model_validate(document.tree)
    except ValidationError as error:
        raise document.error(_problem(document, item) for item in error.errors()) from error
    found = [(path, text, False) for path, text in problems(scenario)]
    if found:
        raise document.error(found)
    return scenario


def with_count(scenario: FleetScenario, count: int) -> FleetScenario:
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
    "too_short": "{min_length} or more entries",
    "too_long": "at most {max_length} entries",
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
        return FleetScenario
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
    return path, _expected_text(item), last == "[key]"


def entry_problem(model: type[BaseModel], item: ErrorDetails) -> str:
    """One of pydantic's errors of a single section, in our words."""
    key = ".".join(map(str, item["loc"]))
    if item["type"] == "extra_forbidden":
        return f"{key}: no such key{did_you_mean(key, keys_of(model))}"
    if item["type"] == "missing":
        return f"the key {key!r} is missing"
    text = str(item["ctx"]["error"]) if item["type"] == "value_error" else _expected_text(item)
    return f"{key}: {text}"


def _expected_text(item: ErrorDetails) -> str:
    kind, value, context = item["type"], item["input"], item.get("ctx", {})
    expected = _EXPECTED.get(kind)
    if expected is None:
        return item["msg"]
    numbers = {
        name: int(limit) if isinstance(limit, float) and limit.is_integer() else limit
        for name, limit in context.items()
    }
    got = f"{len(value):,}" if kind in {"too_short", "too_long"} else shown(value)
    return f"expected {expected.format(**numbers)}, got {got}"


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
