"""From the bodies of a report to plain values under the same names, ready for JSON.

As `bmsota.gbt32960.to_dict` has them, under one name for both editions and without the names of the classes. Cell voltages and probe
temperatures are merged by subsystem, because a subsystem of more than 200 cells comes in several frames. That is done on the newest
values and not by the library's `SubsystemAssembler`: a part replaces the last values of its cells, whatever the time of the others,
and they are in the store, where another process may have put them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from bmsota.gbt32960 import (
    Alarms,
    Alarms2025,
    CellVoltages,
    CellVoltages2025,
    DriveMotors,
    DriveMotors2025,
    Engine,
    Engine2025,
    Extremes,
    FuelCell,
    FuelCell2025,
    FuelCellStacks,
    Position,
    Position2025,
    ProbeTemperatures,
    ProbeTemperatures2025,
    Supercapacitor,
    SupercapacitorExtremes,
    VehicleData,
    VehicleData2025,
    to_dict,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bmsota.gbt32960 import Body
    from bmsota_cloud.domain.telemetry import JsonValue

__all__ = ["merged", "number", "plain_bodies"]

_NAMES: dict[type[Any], str] = {
    VehicleData: "vehicle",
    DriveMotors: "drive_motors",
    FuelCell: "fuel_cell",
    Engine: "engine",
    Position: "position",
    Extremes: "extremes",
    Alarms: "alarms",
    CellVoltages: "cell_voltages",
    ProbeTemperatures: "probe_temperatures",
    # What both editions have stands under one name; a pack of 2025 takes the place of a subsystem of 2016.
    VehicleData2025: "vehicle",
    DriveMotors2025: "drive_motors",
    FuelCell2025: "fuel_cell",
    Engine2025: "engine",
    Position2025: "position",
    Alarms2025: "alarms",
    CellVoltages2025: "cell_voltages",
    ProbeTemperatures2025: "probe_temperatures",
    FuelCellStacks: "fuel_cell_stacks",
    Supercapacitor: "supercapacitor",
    SupercapacitorExtremes: "supercapacitor_extremes",
}


def plain_bodies(bodies: Iterable[Body]) -> dict[str, JsonValue]:
    """The bodies of one report by name. Bodies without a layout of their own stand under "other"."""
    values: dict[str, JsonValue] = {}
    other: list[JsonValue] = []
    for body in bodies:
        name = _NAMES.get(type(body))
        if name is None:
            other.append(_plain(to_dict(body)))
            continue
        value = _plain(to_dict(body))
        if isinstance(body, Alarms | Alarms2025):
            assert isinstance(value, dict)
            value["active"] = [flag.name for flag in body.active]
        if isinstance(body, CellVoltages2025 | ProbeTemperatures2025):
            value = _packs_as_subsystems(value)
        values[name] = value
    if other:
        values["other"] = other
    return values


def merged(old: Mapping[str, JsonValue], new: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The newest values after a report: body by body the new one, of split cell voltages the new cells."""
    result = {**old, **new}
    if "cell_voltages" in new and "cell_voltages" in old:
        result["cell_voltages"] = _merged_cells(old["cell_voltages"], new["cell_voltages"])
    return result


def number(values: Mapping[str, JsonValue], body: str, name: str) -> float | None:
    """A number out of plain values; None where there is none or the unit said so."""
    fields_of_body = values.get(body)
    value = fields_of_body.get(name) if isinstance(fields_of_body, dict) else None
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _plain(value: Any) -> JsonValue:
    """Without the names of classes."""
    if isinstance(value, dict):
        return {name: _plain(item) for name, item in value.items() if name != "type"}
    return [_plain(item) for item in value] if isinstance(value, list) else value


def _packs_as_subsystems(value: JsonValue) -> JsonValue:
    """Packs of the 2025 edition in the form of the 2016 subsystems, so that every reader knows one form."""
    packs = value.get("packs") if isinstance(value, dict) else None
    if not isinstance(packs, list):
        return {"subsystems": packs}
    for pack in packs:
        if isinstance(pack, dict) and isinstance(cells := pack.get("cell_voltages_v"), list):
            pack["cell_count"], pack["first_cell"] = len(cells), 1
    return {"subsystems": packs}


def _merged_cells(old: JsonValue, new: JsonValue) -> JsonValue:
    if not isinstance(old, dict) or not isinstance(new, dict):
        return new
    old_items, new_items = old.get("subsystems"), new.get("subsystems")
    if not isinstance(old_items, list) or not isinstance(new_items, list):
        return new
    known = {item["number"]: item for item in old_items if isinstance(item, dict)}
    items: list[JsonValue] = []
    for item in new_items:
        before = known.get(item["number"]) if isinstance(item, dict) else None
        items.append(_spliced(before, item) if isinstance(before, dict) and isinstance(item, dict) else item)
    return {**new, "subsystems": items}


def _spliced(old: dict[str, JsonValue], new: dict[str, JsonValue]) -> dict[str, JsonValue]:
    first, cells, count = new.get("first_cell"), new.get("cell_voltages_v"), new.get("cell_count")
    old_cells = old.get("cell_voltages_v")
    if not isinstance(first, int) or not isinstance(cells, list) or not isinstance(old_cells, list):
        return new
    if old.get("cell_count") != count or len(cells) == count or not isinstance(count, int):
        return new
    # The part before comes from this very report, or is the last value of those cells.
    start = max(0, first - 1)
    whole = [*old_cells[:start], *["invalid"] * (start - len(old_cells)), *cells, *old_cells[start + len(cells) :]]
    return {**new, "first_cell": 1, "cell_voltages_v": whole[:count]}
