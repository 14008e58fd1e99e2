"""What the real-time page shows of a vehicle: the newest values as texts, colours and marks.

One place formats: the page's template and the live updates both take their words from a `RealtimeView`. Every text that
can change has a key; `difference` tells what an open page has to change. When the make-up of the page itself changes
(another alarm, other cells, online or not), `layout` differs and the page takes whole parts instead.

Values arrive as plain words and numbers (`bmsota_cloud.services.values`), from terminals of any maker: every key may be
missing, and in place of a number there may be "abnormal" or "invalid", which is shown as that word.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bmsota.gbt32960 import AlarmFlag
from bmsota_cloud.domain.vehicles import NodeKind
from bmsota_cloud.pages.times import iso, stamp

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from bmsota_cloud.domain.telemetry import JsonValue, VehicleSnapshot
    from bmsota_cloud.domain.vehicles import VehicleNode

__all__ = ["HEAT_CLASSES", "Figure", "Grid", "GridCell", "GridRow", "RealtimeView", "difference", "realtime_view"]

HEAT_CLASSES = 12
"""Colours of the heat map, 0 the lowest. The style sheet has one rule for each."""

# The colours span at least this much, so that the noise of a well balanced pack does not look like a fault.
_CELL_SPAN_V_MIN = 0.06
_PROBE_SPAN_C_MIN = 12.0

# A report of ours has 96 cells; the standard allows 65,531. More than this is no page for people.
_CELLS_SHOWN_MAX = 1000
_MISSING = "–"
_NO_NUMBER = ("abnormal", "invalid")


def _number(decimals: int, unit: str) -> Callable[[float], str]:
    return lambda value: f"{value:,.{decimals}f} {unit}".replace(",", " ")


def _word(words: Mapping[int, str]) -> Callable[[float], str]:
    return lambda value: words.get(int(value), f"code {int(value)}")


def _gear(value: float) -> str:
    position = int(value) & 0x0F
    return {0: "N", 13: "R", 14: "D", 15: "P"}.get(position, str(position))


def _brake(value: float) -> str:
    # 101 says "pressed, travel unknown" (table B.4).
    return "pressed" if value == 101 else f"{value:.0f} %"


@dataclass(frozen=True, slots=True)
class _Row:
    """Where a figure comes from and how it is written."""

    key: str
    label: str
    body: str
    name: str
    text: Callable[[float], str]


_FIGURES = (
    _Row("soc", "State of charge", "vehicle", "soc_pct", _number(0, "%")),
    _Row("voltage", "Pack voltage", "vehicle", "total_voltage_v", _number(1, "V")),
    _Row("current", "Pack current", "vehicle", "total_current_a", _number(1, "A")),
    _Row("speed", "Speed", "vehicle", "speed_kmh", _number(1, "km/h")),
)

_DETAILS = (
    _Row("vehicle_state", "Vehicle", "vehicle", "vehicle_state", _word({1: "started", 2: "off", 3: "other"})),
    _Row(
        "charging_state",
        "Charging",
        "vehicle",
        "charging_state",
        _word({1: "charging, parked", 2: "charging, driving", 3: "not charging", 4: "charging complete"}),
    ),
    _Row("run_mode", "Run mode", "vehicle", "run_mode", _word({1: "electric", 2: "hybrid", 3: "fuel"})),
    _Row("gear", "Gear", "vehicle", "gear", _gear),
    _Row("odometer", "Odometer", "vehicle", "odometer_km", _number(1, "km")),
    _Row("insulation", "Insulation", "vehicle", "insulation_kohm", _number(0, "kΩ")),
    _Row("dcdc", "DC/DC", "vehicle", "dcdc_state", _word({1: "working", 2: "open"})),
    _Row("accelerator", "Accelerator", "vehicle", "accelerator_pct", _number(0, "%")),
    _Row("brake", "Brake", "vehicle", "brake_pct", _brake),
)

_MOTOR_STATES = _word({1: "consuming", 2: "generating", 3: "off", 4: "ready"})
_MOTOR_FIELDS: tuple[tuple[str, Callable[[float], str]], ...] = (
    ("state", _MOTOR_STATES),
    ("speed_rpm", _number(0, "rpm")),
    ("torque_nm", _number(1, "N·m")),
    ("motor_temperature_c", _number(0, "°C")),
    ("controller_temperature_c", _number(0, "°C")),
)

# The general alarm flags are a DWORD (table 18).
_ALARM_BITS = 32
_ALARM_LEVELS = {0: "No alarm", 1: "Level 1", 2: "Level 2: driving is limited", 3: "Level 3: stop at once"}
_FAULT_LISTS = (
    ("ress_faults", "Energy storage"),
    ("motor_faults", "Drive motor"),
    ("engine_faults", "Engine"),
    ("other_faults", "Other"),
)


@dataclass(frozen=True, slots=True)
class Figure:
    """A label and the key of its text."""

    key: str
    label: str


@dataclass(frozen=True, slots=True)
class GridCell:
    """One cell or probe of a grid."""

    key: str
    name: str
    """As people call it, for the tool tip."""
    number: int


@dataclass(frozen=True, slots=True)
class GridRow:
    """Cells that belong together."""

    label: str
    hwid: str
    """Of the slave that measures them, where that is known."""
    cells: tuple[GridCell, ...]


@dataclass(frozen=True, slots=True)
class Grid:
    """A heat map."""

    rows: tuple[GridRow, ...] = ()
    left_out: int = 0
    """How many are not shown because there are too many."""


@dataclass(slots=True, kw_only=True)
class RealtimeView:
    """Everything the page shows that comes from reports."""

    texts: dict[str, str] = field(default_factory=dict)
    """Key to text."""
    attributes: dict[str, dict[str, str]] = field(default_factory=dict)
    """Key to attributes of the same element; an empty value takes the attribute away."""
    details: tuple[Figure, ...] = ()
    motors: tuple[int, ...] = ()
    cells: Grid = Grid()
    probes: Grid = Grid()
    alarm_level: int | None = None
    alarms: tuple[str, ...] = ()
    faults: tuple[tuple[str, tuple[str, ...]], ...] = ()
    has_position: bool = False
    has_fix: bool = False
    has_values: bool = False
    is_online: bool = False
    is_time_plausible: bool = True
    """False: the vehicle's clock is wrong."""

    @property
    def layout(self) -> tuple[object, ...]:
        """What can't be changed text by text."""
        return (
            self.is_online,
            self.is_time_plausible,
            self.has_values,
            self.details,
            self.motors,
            self.cells,
            self.probes,
            self.alarm_level,
            self.alarms,
            self.faults,
            self.has_position,
            self.has_fix,
        )

    def put(self, key: str, text: str, **attributes: str) -> None:
        self.texts[key] = text
        if attributes:
            self.attributes[key] = {name.replace("_", "-"): value for name, value in attributes.items()}


def realtime_view(state: VehicleSnapshot, nodes: Sequence[VehicleNode]) -> RealtimeView:
    """Format the newest values of a vehicle."""
    values = state.values
    view = RealtimeView(is_online=state.is_online, has_values=bool(values))
    for row in _FIGURES:
        _put_number(view, row.key, _get(values, row.body, row.name), row.text)
    soc = _as_number(_get(values, "vehicle", "soc_pct"))
    view.put("soc_bar", "", value="" if soc is None else f"{min(100.0, max(0.0, soc)):g}")
    view.put("current_word", _current_word(_as_number(_get(values, "vehicle", "total_current_a"))))
    shown = [row for row in _DETAILS if _get(values, row.body, row.name) is not None]
    for row in shown:
        _put_number(view, row.key, _get(values, row.body, row.name), row.text)
    view.details = tuple(Figure(row.key, row.label) for row in shown)
    _put_motors(view, values)
    _put_cells(view, values, nodes)
    _put_probes(view, values, nodes)
    _put_position(view, values)
    _put_alarms(view, values)
    view.is_time_plausible = state.is_time_plausible
    for key, at in (("seen", state.last_seen_at), ("reported", state.reported_at)):
        view.put(key, "never" if at is None else stamp(at), datetime="" if at is None else iso(at))
    # Without a text: the page's script counts on by itself.
    view.put("seen_ago", "", data_since="" if state.last_seen_at is None else iso(state.last_seen_at))
    return view


def difference(old: RealtimeView, new: RealtimeView) -> tuple[dict[str, str], dict[str, dict[str, str]]]:
    """The texts and attributes that an open page showing *old* has to change to show *new*."""
    texts = {key: text for key, text in new.texts.items() if old.texts.get(key) != text}
    attributes = {key: pairs for key, pairs in new.attributes.items() if old.attributes.get(key) != pairs}
    return texts, attributes


# -- reading values, which may be missing or of another kind -----------------------------------------------------------


def _get(values: Mapping[str, JsonValue], body: str, name: str) -> JsonValue:
    found = values.get(body)
    return found.get(name) if isinstance(found, dict) else None


def _items(values: Mapping[str, JsonValue], body: str, name: str) -> list[dict[str, JsonValue]]:
    found = _get(values, body, name)
    return [item for item in found if isinstance(item, dict)] if isinstance(found, list) else []


def _as_number(value: JsonValue) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _as_int(value: JsonValue, default: int) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else default


def _text(value: JsonValue, text: Callable[[float], str]) -> tuple[str, str]:
    """The text, and its quality: "" for a number, else why there is none."""
    number = _as_number(value)
    if number is not None:
        return text(number), ""
    if value in _NO_NUMBER:
        return str(value), str(value)
    return _MISSING, "missing"


def _put_number(view: RealtimeView, key: str, value: JsonValue, text: Callable[[float], str]) -> None:
    written, quality = _text(value, text)
    view.put(key, written, data_quality=quality)


def _current_word(current_a: float | None) -> str:
    if current_a is None:
        return ""
    if abs(current_a) < 0.05:
        return "no current"
    return "discharging" if current_a > 0 else "charging"


# -- the parts ---------------------------------------------------------------------------------------------------------


def _put_motors(view: RealtimeView, values: Mapping[str, JsonValue]) -> None:
    motors = _items(values, "drive_motors", "motors")
    for place, motor in enumerate(motors):
        for name, text in _MOTOR_FIELDS:
            _put_number(view, f"motor_{place}_{name}", motor.get(name), text)
    view.motors = tuple(_as_int(motor.get("number"), place + 1) for place, motor in enumerate(motors))


def _put_cells(view: RealtimeView, values: Mapping[str, JsonValue], nodes: Sequence[VehicleNode]) -> None:
    lists = [
        (_as_int(item.get("number"), place + 1), _as_int(item.get("first_cell"), 1), item.get("cell_voltages_v"))
        for place, item in enumerate(_items(values, "cell_voltages", "subsystems"))
    ]
    view.cells, low, high = _put_grid(view, "cell", lists, nodes, _number(3, "V"), _CELL_SPAN_V_MIN)
    if low is None or high is None:
        # No single cells, but perhaps the terminal tells its extremes.
        low = _extreme(values, "cell_voltage_min", "cell", "v")
        high = _extreme(values, "cell_voltage_max", "cell", "v")
    _put_extremes(view, "cell", low, high, _number(3, "V"))
    spread = "" if low is None or high is None else f"{(high[0] - low[0]) * 1000:.0f} mV"
    view.put("cell_spread", spread or _MISSING, data_quality="" if spread else "missing")


def _put_probes(view: RealtimeView, values: Mapping[str, JsonValue], nodes: Sequence[VehicleNode]) -> None:
    lists = [
        (_as_int(item.get("number"), place + 1), 1, item.get("temperatures_c"))
        for place, item in enumerate(_items(values, "probe_temperatures", "subsystems"))
    ]
    view.probes, low, high = _put_grid(view, "probe", lists, nodes, _number(0, "°C"), _PROBE_SPAN_C_MIN)
    if low is None or high is None:
        low = _extreme(values, "temperature_min", "probe", "c")
        high = _extreme(values, "temperature_max", "probe", "c")
    _put_extremes(view, "probe", low, high, _number(0, "°C"))
    spread = "" if low is None or high is None else f"{high[0] - low[0]:.0f} K"
    view.put("probe_spread", spread or _MISSING, data_quality="" if spread else "missing")


_Extreme = tuple[float, str]
"""A value, and the name of the cell or probe that has it."""


def _put_grid(
    view: RealtimeView,
    kind: str,
    lists: Sequence[tuple[int, int, JsonValue]],
    nodes: Sequence[VehicleNode],
    text: Callable[[float], str],
    span_min: float,
) -> tuple[Grid, _Extreme | None, _Extreme | None]:
    several = len(lists) > 1
    flat: list[tuple[GridCell, JsonValue]] = []
    rows: list[GridRow] = []
    left_out = 0
    for subsystem, first, found in lists:
        items = found if isinstance(found, list) else []
        room = _CELLS_SHOWN_MAX - len(flat)
        left_out += max(0, len(items) - room)
        cells = [
            GridCell(
                f"{kind}_{subsystem}_{first + place}",
                f"subsystem {subsystem}, {kind} {first + place}" if several else f"{kind} {first + place}",
                first + place,
            )
            for place in range(min(len(items), room))
        ]
        flat.extend(zip(cells, items, strict=False))
        rows.extend(_rows(kind, subsystem if several else None, cells, nodes))
    numbers = [(value, cell) for cell, item in flat if (value := _as_number(item)) is not None]
    if not numbers:
        for cell, item in flat:
            _put_grid_cell(view, cell, item, text, heat="", edge="")
        return Grid(tuple(rows), left_out), None, None
    low = min(numbers, key=lambda pair: pair[0])
    high = max(numbers, key=lambda pair: pair[0])
    span = max(high[0] - low[0], span_min)
    floor = (high[0] + low[0] - span) / 2
    for cell, item in flat:
        number = _as_number(item)
        heat = "" if number is None else str(_heat(number, floor, span))
        # Equal cells have no extremes worth a frame.
        edge = "" if high[0] == low[0] else "max" if cell is high[1] else "min" if cell is low[1] else ""
        _put_grid_cell(view, cell, item, text, heat=heat, edge=edge)
    return Grid(tuple(rows), left_out), (low[0], low[1].name), (high[0], high[1].name)


def _put_grid_cell(
    view: RealtimeView, cell: GridCell, value: JsonValue, text: Callable[[float], str], *, heat: str, edge: str
) -> None:
    written, quality = _text(value, text)
    # The unit stands in the heading of the grid.
    short = written.rsplit(" ", 1)[0] if not quality else {"abnormal": "abn.", "invalid": "inv."}.get(quality, written)
    mark = {"max": ", highest", "min": ", lowest"}.get(edge, "")
    view.put(
        cell.key,
        short,
        data_heat=heat,
        data_edge=edge,
        data_quality=quality,
        title=f"{cell.name}: {written}{mark}",
    )


def _heat(number: float, floor: float, span: float) -> int:
    return min(HEAT_CLASSES - 1, max(0, int((number - floor) / span * HEAT_CLASSES)))


def _rows(kind: str, subsystem: int | None, cells: Sequence[GridCell], nodes: Sequence[VehicleNode]) -> list[GridRow]:
    """Rows of one subsystem: a row a slave if the slaves are known and the cells divide evenly among them.

    The standard numbers cells through the pack and does not know slaves; our units number them slave by slave. An
    uneven pack stays one row: no label is better than a wrong one.
    """
    slaves = [node for node in nodes if node.kind is NodeKind.SLAVE]
    if subsystem is None and slaves and cells and len(cells) % len(slaves) == 0:
        size = len(cells) // len(slaves)
        return [
            GridRow(f"Slave {slave.position}", slave.hwid, tuple(cells[place * size : (place + 1) * size]))
            for place, slave in enumerate(slaves)
        ]
    label = "" if subsystem is None else f"Subsystem {subsystem}"
    return [GridRow(label or f"All {kind}s", "", tuple(cells))] if cells else []


def _extreme(values: Mapping[str, JsonValue], name: str, unit: str, suffix: str) -> _Extreme | None:
    number = _as_number(_get(values, "extremes", f"{name}_{suffix}"))
    if number is None:
        return None
    place = _get(values, "extremes", f"{name}_{unit}")
    return number, f"{unit} {place if _as_number(place) is not None else 'unknown'}"


def _put_extremes(
    view: RealtimeView, kind: str, low: _Extreme | None, high: _Extreme | None, text: Callable[[float], str]
) -> None:
    for key, extreme in ((f"{kind}_min", low), (f"{kind}_max", high)):
        view.put(
            key, _MISSING if extreme is None else text(extreme[0]), data_quality="missing" if extreme is None else ""
        )
        view.put(f"{key}_at", "" if extreme is None else extreme[1])


def _put_position(view: RealtimeView, values: Mapping[str, JsonValue]) -> None:
    view.has_position = isinstance(values.get("position"), dict)
    view.has_fix = _get(values, "position", "valid") is True
    for key, letters in (("latitude", "NS"), ("longitude", "EW")):
        _put_number(view, key, _get(values, "position", f"{key}_deg"), _coordinate(letters))


def _coordinate(letters: str) -> Callable[[float], str]:
    return lambda value: f"{abs(value):.6f}° {letters[value < 0]}"


def _alarm_words(values: Mapping[str, JsonValue], body: str) -> list[str]:
    """The alarms of one body. What the edition of this report has no name for may be a maker's own: shown, under no other's name."""
    active = _get(values, body, "active")
    if not isinstance(active, list):
        return []
    named = [str(name) for name in active]
    rest = _as_int(_get(values, body, "flags"), 0)
    for name in named:
        rest &= ~int(AlarmFlag.__members__.get(name, 0))
    words = [name.replace("_", " ").capitalize().replace("Soc", "SOC") for name in named]
    return words + [f"Reserved bit {bit}" for bit in range(_ALARM_BITS) if rest >> bit & 1]


def _put_alarms(view: RealtimeView, values: Mapping[str, JsonValue]) -> None:
    """Of all alarm bodies: a terminal may send one for each of its systems."""
    bodies = [name for name in values if name == "alarms" or re.fullmatch(r"alarms_\d+", name)]
    levels = [_get(values, body, "level_max") for body in bodies]
    numbers = [number for level in levels if (number := _as_number(level)) is not None]
    highest: JsonValue = max(numbers) if numbers else next(iter(levels), None)
    view.alarm_level = int(max(numbers)) if numbers else None
    view.put("alarm_level", _text(highest, lambda value: _ALARM_LEVELS.get(int(value), f"Level {int(value)}"))[0])
    view.alarms = tuple(dict.fromkeys(word for body in bodies for word in _alarm_words(values, body)))
    faults: list[tuple[str, tuple[str, ...]]] = []
    for name, label in _FAULT_LISTS:
        found = [_get(values, body, name) for body in bodies]
        codes = dict.fromkeys(_as_int(code, 0) for each in found if isinstance(each, list) for code in each)
        if codes:
            faults.append((label, tuple(f"0x{code:08X}" for code in codes)))
    view.faults = tuple(faults)
