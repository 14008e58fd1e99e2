"""From frames to plain values under the same names, ready for JSON: of one report, of a second, of the newest state.

As `bmsota.gbt32960.to_dict` has them, under one name for both editions and without the names of the classes. What a body
without a place of its own says stands under "other". If a kind of body comes twice in a report, the second is
"alarms_2"; lists of motors, stacks, subsystems and packs are joined.

Of several reports, oldest first, the newest that has a kind of body gives it; cells and probes are put together by
subsystem, split subsystems by the library's `SubsystemAssembler`.
"""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from bmsota.errors import FrameError
from bmsota.gbt32960 import (
    HEADER_SIZE_BYTES,
    Alarms,
    Alarms2025,
    BmsConfiguration,
    CanSignals,
    CellVoltages,
    CellVoltages2025,
    DriveMotors,
    DriveMotors2025,
    Engine,
    Engine2025,
    Extremes,
    FaultChanges,
    FuelCell,
    FuelCell2025,
    FuelCellStacks,
    Position,
    Position2025,
    ProbeTemperatures,
    ProbeTemperatures2025,
    RawBody,
    Report,
    Sentinel,
    Signature,
    SubsystemAssembler,
    SubsystemVoltages,
    Supercapacitor,
    SupercapacitorExtremes,
    UnsizedBody,
    UserDefined,
    VehicleData,
    VehicleData2025,
    decode_partial,
    to_dict,
)

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bmsota.gbt32960 import Body, Layouts
    from bmsota_cloud.domain.telemetry import JsonValue, StateRow, VehicleSnapshot

__all__ = ["body_name", "frames_in", "plain_values", "read_report", "snapshot_of", "utc_of_ns", "utc_of_s"]

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
    Signature: "signature",
    CanSignals: "can_signals",
    BmsConfiguration: "bms_configuration",
    FaultChanges: "fault_changes",
}
_JOINED = {"drive_motors": "motors", "fuel_cell_stacks": "stacks"}
"""Bodies that are one list: of two in a report the lists are joined."""
_BY_SUBSYSTEM = frozenset({"cell_voltages", "probe_temperatures"})

# A subsystem of which parts are missing is filled up with "invalid" to the size it says it has, if that is no more than
# this many times the cells that came: nine bytes may say 65,531.
_FILLED_TIMES_MAX = 4

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def utc_of_s(seconds: int) -> datetime:
    """The moment of so many seconds since the Unix epoch."""
    return _EPOCH + timedelta(seconds=seconds)


def body_name(body: Body) -> str:
    """What a kind of body is called: its name in JSON, or "other 0x83" for one that stands under "other"."""
    name = _NAMES.get(type(body))
    if name is not None:
        return name
    if isinstance(body, UserDefined | UnsizedBody | RawBody):
        return f"other {body.type_id:#04x}"
    return f"other {type(body).__name__}"


def read_report(clear: bytes, layouts: Layouts | None = None) -> Report:
    """The report in a frame; of one whose tail is wrong, the bodies before the fault.

    Raises:
        FrameError: it is no report, or not even its time can be read.
    """
    message = decode_partial(clear, layouts=layouts)[0].message
    if not isinstance(message, Report):
        raise FrameError("report", expected="a report in the clear", received=type(message).__name__, offset=2)
    return message


def frames_in(joined: bytes) -> Iterator[bytes]:
    """The frames that stand one behind the other in *joined*; what is behind the last whole one is left out."""
    at = 0
    while at + HEADER_SIZE_BYTES < len(joined):
        stop = at + HEADER_SIZE_BYTES + int.from_bytes(joined[at + 22 : at + 24], "big") + 1
        if stop > len(joined):
            return
        yield joined[at:stop]
        at = stop


def plain_values(reports: Sequence[Report]) -> dict[str, JsonValue]:
    """The values of *reports*, oldest first, by the name of the body."""
    newest: dict[str, tuple[Body, ...]] = {}
    for report in reports:
        here: dict[str, list[Body]] = {}
        for body in report.bodies:
            here.setdefault(body_name(body), []).append(body)
        newest.update((name, tuple(bodies)) for name, bodies in here.items())
    values: dict[str, JsonValue] = {}
    other: list[JsonValue] = []
    for name, bodies in newest.items():
        if name in _BY_SUBSYSTEM:
            _put_subsystems(values, name, reports)
        elif name.startswith("other "):
            other += [_plain(to_dict(body)) for body in bodies]
        else:
            _put_bodies(values, name, bodies)
    if other:
        values["other"] = other
    return values


def snapshot_of(
    presence: VehicleSnapshot, row: StateRow | None, layouts: Layouts | None = None, *, has_values: bool = True
) -> VehicleSnapshot:
    """The newest state for people: who is online, and what *row* says; decoding its frames is left out for a list."""
    if row is None:
        return presence
    reports = []
    for frame in frames_in(row.frames) if has_values else ():
        try:
            reports.append(read_report(frame, layouts))
        except FrameError:
            # Derived by a version that could read it; what the others say still counts.
            continue
    return replace(
        presence,
        last_seen_at=utc_of_ns(row.last_seen_at_ns),
        reported_at=None if row.reported_at_s is None else utc_of_s(row.reported_at_s),
        heard_at=None if row.heard_at_ns is None else utc_of_ns(row.heard_at_ns),
        is_time_plausible=row.is_time_plausible,
        soc_pct=row.soc_pct,
        speed_kmh=row.speed_kmh,
        alarm_level=row.alarm_level,
        latitude_deg=row.latitude_deg,
        longitude_deg=row.longitude_deg,
        is_position_valid=row.is_position_valid,
        values=plain_values(reports),
    )


def utc_of_ns(nanoseconds: int) -> datetime:
    return _EPOCH + timedelta(microseconds=nanoseconds // 1000)


# -- bodies that stand for themselves ----------------------------------------------------------------------------------


def _put_bodies(values: dict[str, JsonValue], name: str, bodies: Sequence[Body]) -> None:
    plain = [_plain_body(body) for body in bodies]
    if (items_name := _JOINED.get(name)) is not None and len(plain) > 1:
        lists = [each.get(items_name) for each in plain]
        joined: list[JsonValue] = [item for items in lists if isinstance(items, list) for item in items]
        values[name] = {**plain[0], items_name: joined or lists[0]}
        return
    for count, each in enumerate(plain, 1):
        values[name if count == 1 else f"{name}_{count}"] = each


def _plain_body(body: Body) -> dict[str, JsonValue]:
    value = _plain(to_dict(body))
    assert isinstance(value, dict)
    if isinstance(body, Alarms | Alarms2025):
        value["active"] = [flag.name for flag in body.active]
    return value


def _plain(value: Any) -> JsonValue:
    """Without the names of classes, and without what JSON has no form for."""
    match value:
        case dict():
            return {name: _plain(item) for name, item in value.items() if name != "type"}
        case list():
            return [_plain(item) for item in value]
        case float() if not math.isfinite(value):
            return "invalid"
        case str() if not value.isascii():
            # Bytes that were no text came through decoding as lone surrogates, which no answer can carry.
            return value.encode("utf-8", "backslashreplace").decode("utf-8")
        case _:
            plain: JsonValue = value
            return plain


# -- cells and probes --------------------------------------------------------------------------------------------------


def _put_subsystems(values: dict[str, JsonValue], name: str, reports: Sequence[Report]) -> None:
    items: dict[tuple[int, int], dict[str, JsonValue]] = {}
    assembler = SubsystemAssembler()
    at: datetime | None = None
    unknown: Sentinel | None = None
    is_split = False
    for report in reports:
        seen: dict[int, int] = {}
        for body in report.bodies:
            if body_name(body) != name:
                continue
            found = body.packs if isinstance(body, CellVoltages2025 | ProbeTemperatures2025) else body.subsystems  # type: ignore[union-attr]
            if isinstance(found, Sentinel):
                unknown = found
                continue
            for item in found:
                if isinstance(item, SubsystemVoltages) and _is_part(item):
                    # One time for all parts: of the newest state, a part replaces its cells whatever the time of the others.
                    at = report.time if at is None else at
                    is_split = True
                    for whole in assembler.add(at, CellVoltages((item,))):
                        _put_assembled(items, whole.subsystem, whole.missing)
                    continue
                # One subsystem twice in one report contradicts itself; both are shown.
                seen[item.number] = seen.get(item.number, 0) + 1
                items[item.number, seen[item.number]] = _plain_item(item)
    if is_split:
        for left in assembler.flush():
            _put_assembled(items, left.subsystem, left.missing)
    subsystems: list[JsonValue] = [items[key] for key in sorted(items)]
    values[name] = {"subsystems": subsystems if subsystems or unknown is None else unknown.value}


def _is_part(item: SubsystemVoltages) -> bool:
    return not isinstance(item.cell_count, Sentinel) and item.cell_count != len(item.cell_voltages_v)


def _plain_item(item: Any) -> dict[str, JsonValue]:
    value = _plain(to_dict(item))
    assert isinstance(value, dict)
    cells = value.get("cell_voltages_v")
    if "first_cell" not in value and isinstance(cells, list):
        value["cell_count"], value["first_cell"] = len(cells), 1
    return value


def _put_assembled(
    items: dict[tuple[int, int], dict[str, JsonValue]], subsystem: SubsystemVoltages, missing: Sequence[range]
) -> None:
    """Lay what came of a subsystem over what is known of it."""
    value = _plain_item(subsystem)
    cells = value["cell_voltages_v"]
    assert isinstance(cells, list)
    before = items.get((subsystem.number, 1))
    is_filled = len(cells) == subsystem.cell_count
    if missing and is_filled and before is not None and before.get("cell_count") == len(cells):
        known, start = before.get("cell_voltages_v"), before.get("first_cell")
        if isinstance(known, list) and start == subsystem.first_cell:
            for gap in missing:
                first = gap.start - subsystem.first_cell
                cells[first : first + len(gap)] = known[first : first + len(gap)]
    elif missing and is_filled:
        came = len(cells) - sum(map(len, missing))
        if len(cells) > _FILLED_TIMES_MAX * max(1, came):
            # Only from where the cells begin to the first gap behind them.
            first = missing[0].stop if missing[0].start == subsystem.first_cell else subsystem.first_cell
            stop = next((gap.start for gap in missing if gap.start > first), subsystem.first_cell + len(cells))
            value["cell_voltages_v"] = cells[first - subsystem.first_cell : stop - subsystem.first_cell]
            value["first_cell"] = first
    items[subsystem.number, 1] = value
