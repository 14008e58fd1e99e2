"""What deriving needs to know of each report: what it covers, and the few values whose changes are events.

Strategy: reports of one layout are decoded together (`decode_batch`), and of a layout only the columns that matter here
are turned into Python numbers. What has no columns (bodies of our extension, unknown bodies, a broken tail) is decoded by
itself and looked at body by body. Both ways give the same facts; a test holds them against each other.

*Coverage* is what a report says something about, so that a newer report can take an older one's place: the kinds of its
bodies, and of cells and probes the subsystem and the range of cells. It knows no values. Reports of one layout and the
same subsystem numbers share one `Coverage` object, so that the usual question, "the same as before?", is `is`.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from itertools import repeat
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from bmsota.gbt32960 import (
    Alarms,
    Alarms2025,
    BmsConfiguration,
    CellVoltages,
    CellVoltages2025,
    Extremes,
    FaultChanges,
    Position,
    Position2025,
    ProbeTemperatures,
    ProbeTemperatures2025,
    Sentinel,
    Signature,
    VehicleData,
    VehicleData2025,
    decode_batch,
)
from bmsota_cloud.services.run_tracking import NO_MEASURES, Measures
from bmsota_cloud.services.values import body_name, read_report

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from bmsota.gbt32960 import Body, FaultChange, FrameGroup, Layouts, Report

__all__ = ["FAULT_LISTS", "NO_COVERAGE", "Coverage", "Facts", "Part", "ReportReader", "left_of"]

FAULT_LISTS = ("ress", "motor", "engine", "other")
"""The four lists of fault codes in the alarm body, in their order there."""

# Layouts and coverages are kept while they are few. A stranger with 10,000 layouts costs us the work, not the memory.
_LAYOUTS_MAX = 512
# A batch of so few frames costs more to set up than to decode one by one.
_COLUMNS_FROM = 6
_COVERAGES_MAX = 4096


class Part(NamedTuple):
    """Cells or probes of one subsystem."""

    kind: str
    number: int
    size: int | None
    """How many cells the subsystem says it has; None where that is not told apart from those that came."""
    first: int
    stop: int
    """Behind the last cell."""


@dataclass(frozen=True, slots=True, eq=False)
class Coverage:
    """What a report says something about."""

    kinds: frozenset[str]
    parts: tuple[Part, ...] = ()


NO_COVERAGE = Coverage(frozenset())


def left_of(older: Coverage, newer: Sequence[Coverage]) -> bool:
    """Whether *older* says anything that none of *newer* says again."""
    if older.kinds and not older.kinds <= frozenset().union(*(each.kinds for each in newer)):
        return True
    return any(_is_left(part, newer) for part in older.parts)


def _is_left(part: Part, newer: Sequence[Coverage]) -> bool:
    ranges: list[tuple[int, int]] = []
    for coverage in newer:
        for other in coverage.parts:
            if other.kind != part.kind or other.number != part.number:
                continue
            if other.size != part.size:
                # The subsystem has another size now: what was said of the old one is void.
                return False
            ranges.append((other.first, other.stop))
    at = part.first
    for first, stop in sorted(ranges):
        if first > at:
            break
        at = max(at, stop)
    # A part without a single cell still says that the subsystem is there.
    return not ranges or at < part.stop


Place = tuple[float, float, bool]
"""Latitude and longitude in degrees (north and east are positive), and whether the unit calls them valid."""
Faults = tuple["tuple[int, ...] | None", ...]
"""The codes of each of `FAULT_LISTS`, sorted; None where the unit said it does not know."""


class Facts(NamedTuple):
    """Of one report."""

    coverage: Coverage
    has_vehicle: bool = False
    vehicle_state: int | None = None
    charging_state: int | None = None
    soc_pct: float | None = None
    speed_kmh: float | None = None
    has_alarms: bool = False
    alarm_level: int | None = None
    alarm_flags: int = 0
    faults: Faults | None = None
    changes: tuple[FaultChange, ...] = ()
    position: Place | None = None
    """None: the report has no position, or only one without numbers, or off the earth."""
    measures: Measures = NO_MEASURES
    configuration: tuple[BmsConfiguration, ...] = ()


class ReportReader:
    """Gives the facts of frames. Remembers layouts it has seen; nothing else."""

    def __init__(self, layouts: Layouts | None = None) -> None:
        self._layouts = layouts
        self._known: dict[bytes, _Layout] = {}
        self._coverages: dict[object, Coverage] = {}

    def facts(self, frames: Sequence[bytes]) -> list[Facts | Exception]:
        """The facts of each frame in the clear, in the same order; an exception where a frame could not be looked at."""
        # Columns know no bodies but the standard's: one of a maker's without a length would be read as something else.
        if self._layouts is not None or len(frames) < _COLUMNS_FROM:
            return [self.one(frame) for frame in frames]
        found: list[Facts | Exception] = [_NOT_READ] * len(frames)
        try:
            columns = decode_batch(frames)
        except Exception:  # noqa: BLE001 - a fault of ours with one frame must not take the others along
            return [self.one(frame) for frame in frames]
        for group in columns.groups:
            places = group.index.tolist()
            try:
                for place, facts in zip(places, self._of_group(group, frames[places[0]]), strict=True):
                    found[place] = facts
            except Exception:  # noqa: BLE001 - as above
                for place in places:
                    found[place] = self.one(frames[place])
        for place, _ in (*columns.others, *columns.errors):
            found[place] = self.one(frames[place])
        return found

    # -- one by one ----------------------------------------------------------------------------------------------------

    def one(self, clear: bytes) -> Facts | Exception:
        """The facts of one frame."""
        try:
            return self.of_report(read_report(clear, self._layouts))
        except Exception as error:  # noqa: BLE001 - handed to the caller, who counts and logs it
            return error

    def of_report(self, report: Report) -> Facts:
        """The facts of a decoded report."""
        kinds: set[str] = set()
        parts: list[Part] = []
        vehicle: VehicleData | VehicleData2025 | None = None
        position: Position | Position2025 | None = None
        alarms: list[Alarms | Alarms2025] = []
        changes: list[FaultChange] = []
        configuration: list[BmsConfiguration] = []
        for body in report.bodies:
            match body:
                case VehicleData() | VehicleData2025():
                    vehicle = body
                case Alarms() | Alarms2025():
                    alarms.append(body)
                case Position() | Position2025():
                    position = body
                case FaultChanges():
                    changes += body.changes
                case BmsConfiguration():
                    configuration.append(body)
                case Signature():
                    continue
                case _:
                    if (own := _parts_of(body)) is not None:
                        parts += own
                        continue
            kinds.add(body_name(body))
        facts = Facts(
            self._coverage(frozenset(kinds), tuple(parts)),
            changes=tuple(changes),
            measures=_measures_of(report.bodies),
            configuration=tuple(configuration),
        )
        if vehicle is not None:
            facts = facts._replace(
                has_vehicle=True,
                vehicle_state=_known(vehicle.vehicle_state),
                charging_state=_known(vehicle.charging_state),
                soc_pct=_float(vehicle.soc_pct),
                speed_kmh=_float(vehicle.speed_kmh),
            )
        if position is not None:
            place = _place(_float(position.latitude_deg), _float(position.longitude_deg), position.valid)
            facts = facts._replace(position=place)
        if alarms:
            levels = [level for each in alarms if (level := _known(each.level_max)) is not None]
            flags = 0
            for each in alarms:
                flags |= each.flags
            faults = [[_codes(getattr(each, f"{name}_faults")) for each in alarms] for name in FAULT_LISTS]
            facts = facts._replace(
                has_alarms=True,
                alarm_level=max(levels, default=None),
                alarm_flags=flags,
                faults=tuple(_joined(lists) for lists in faults),
            )
        return facts

    def _coverage(self, kinds: frozenset[str], parts: tuple[Part, ...]) -> Coverage:
        key = (kinds, parts)
        found = self._coverages.get(key)
        if found is None:
            if len(self._coverages) >= _COVERAGES_MAX:
                self._coverages.clear()
            found = self._coverages[key] = Coverage(kinds, parts)
        return found

    # -- in columns ----------------------------------------------------------------------------------------------------

    def _of_group(self, group: FrameGroup, example: bytes) -> Iterator[Facts]:
        layout = self._known.get(group.skeleton)
        if layout is None:
            if len(self._known) >= _LAYOUTS_MAX:
                self._known.clear()
            layout = self._known[group.skeleton] = _Layout(read_report(example, None))
        return layout.facts(group, self._coverage)


_NOT_READ = LookupError("this frame was not in the batch")


class _Layout:
    """Which columns of a layout matter."""

    def __init__(self, example: Report) -> None:
        self.kinds: set[str] = set()
        self.vehicle = self.extremes = self.position = ""
        self.alarms: list[tuple[str, tuple[str, ...]]] = []
        """Of each alarm body its name, and the fault lists that have columns (the others said they do not know)."""
        self.parts: list[tuple[str, str]] = []
        """Kind, and the beginning of the names of its columns."""
        seen: dict[str, int] = {}
        for body in example.bodies:
            if isinstance(body, Signature):
                continue
            stem = _column_stem(body)
            seen[stem] = seen.get(stem, 0) + 1
            name = stem if seen[stem] == 1 else f"{stem}_{seen[stem]}"
            items = _items_of(body)
            if items is not None:
                kind = body_name(body)
                self.parts += [(kind, f"{name}.{place}") for place in range(1, len(items) + 1)]
                continue
            self.kinds.add(body_name(body))
            if isinstance(body, VehicleData | VehicleData2025):
                self.vehicle = name
            if isinstance(body, Extremes):
                self.extremes = name
            if isinstance(body, Position | Position2025):
                self.position = name
            if isinstance(body, Alarms | Alarms2025):
                self.alarms.append((name, tuple(f"{name}.{each}_faults" for each in FAULT_LISTS)))
        self.frozen_kinds = frozenset(self.kinds)
        self.fixed: Coverage | None = None

    def facts(self, group: FrameGroup, coverage_of: Any) -> Iterator[Facts]:
        count = len(group)
        values = group.values
        coverages: Iterator[Coverage]
        if self.parts:
            parts = [self._parts(group, kind, stem, count) for kind, stem in self.parts]
            last: tuple[Any, ...] = ()
            coverage = NO_COVERAGE
            found = []
            for each in zip(*parts, strict=True):
                if each != last:
                    last = each
                    made = tuple(Part(kind, *part) for (kind, _), part in zip(self.parts, each, strict=True))
                    coverage = coverage_of(self.frozen_kinds, made)
                found.append(coverage)
            coverages = iter(found)
        else:
            coverages = repeat(coverage_of(self.frozen_kinds, ()), count)
        nothing: Any = [None] * count
        states = charging = socs = speeds = nothing
        if name := self.vehicle:
            states, charging = _integers(values[f"{name}.vehicle_state"]), _integers(values[f"{name}.charging_state"])
            socs = _numbers(values[f"{name}.soc_pct"])
            speeds = list(map(_speed, _numbers(values[f"{name}.speed_kmh"])))
        levels: Any = nothing
        flags: Any = repeat(0, count)
        faults: Any = nothing
        if self.alarms:
            levels, flags, faults = self._alarms(group, count)
        places: Any = nothing
        if name := self.position:
            coordinates = (_numbers(values[f"{name}.{axis}_deg"]) for axis in ("latitude", "longitude"))
            places = map(_place, *coordinates, values[f"{name}.valid"].tolist())
        vehicles, alarms = repeat(bool(self.vehicle), count), repeat(bool(self.alarms), count)
        columns = (
            coverages,
            vehicles,
            states,
            charging,
            socs,
            speeds,
            alarms,
            levels,
            flags,
            faults,
            repeat((), count),
            places,
            self._measures(group, count),
            repeat((), count),
        )
        return map(Facts._make, zip(*columns, strict=True))

    def _measures(self, group: FrameGroup, count: int) -> Iterator[Measures]:
        values = group.values
        nothing: Any = [None] * count
        columns = [nothing] * len(Measures._fields)
        if name := self.vehicle:
            columns[0] = _scaled(values[f"{name}.total_voltage_v"], 10)
            columns[1] = _scaled(values[f"{name}.total_current_a"], 10)
            columns[2] = _scaled(values[f"{name}.odometer_km"], 10)
        if name := self.extremes:
            columns[3] = _scaled(values[f"{name}.cell_voltage_max_v"], 1000)
            columns[4] = _scaled(values[f"{name}.cell_voltage_min_v"], 1000)
            columns[5] = _scaled(values[f"{name}.temperature_max_c"], 1)
            columns[6] = _scaled(values[f"{name}.temperature_min_c"], 1)
        elif self.parts:
            for place, kind, name, scale in (
                (3, "cell_voltages", "cell_voltages_v", 1000),
                (5, "probe_temperatures", "temperatures_c", 1),
            ):
                each = [values.get(f"{stem}.{name}") for own, stem in self.parts if own == kind]
                found = [column for column in each if column is not None and column.shape[1]]
                if found:
                    columns[place] = _scaled(_folded(np.fmax, found), scale)
                    columns[place + 1] = _scaled(_folded(np.fmin, found), scale)
        return map(Measures._make, zip(*columns, strict=True))

    @staticmethod
    def _parts(group: FrameGroup, kind: str, stem: str, count: int) -> Iterator[tuple[int, int | None, int, int]]:
        """Number, count, first and stop of one subsystem, for each frame."""
        values = group.values
        numbers = values[f"{stem}.number"].tolist()
        if kind == "probe_temperatures":
            temperatures = values.get(f"{stem}.temperatures_c")
            size = 0 if temperatures is None else temperatures.shape[1]
            return zip(numbers, repeat(None), repeat(1), repeat(1 + size), strict=False)
        cells = values.get(f"{stem}.cell_voltages_v")
        size = 0 if cells is None else cells.shape[1]
        if f"{stem}.first_cell" not in values:
            return zip(numbers, repeat(size), repeat(1), repeat(1 + size), strict=False)
        firsts = values[f"{stem}.first_cell"].tolist()
        counts = _integers(values[f"{stem}.cell_count"])
        del count
        return zip(numbers, counts, firsts, [first + size for first in firsts], strict=True)

    def _alarms(self, group: FrameGroup, count: int) -> tuple[Any, Any, Any]:
        values = group.values
        levels = [_integers(values[f"{name}.level_max"]) for name, _ in self.alarms]
        flags = [values[f"{name}.flags"].tolist() for name, _ in self.alarms]
        columns = [[values.get(names[place]) for _, names in self.alarms] for place in range(len(FAULT_LISTS))]
        if all(each is not None and not each.shape[1] for row in columns for each in row):
            faults: Any = repeat(_NO_FAULTS, count)
        else:
            lists = [[None if each is None else each.tolist() for each in row] for row in columns]
            faults = [
                tuple(
                    _joined([None if each is None else tuple(sorted(set(each[place]))) for each in row])
                    for row in lists
                )
                for place in range(count)
            ]
        if len(self.alarms) == 1:
            return levels[0], flags[0], faults
        both_levels = [
            max((each for each in row if each is not None), default=None) for row in zip(*levels, strict=True)
        ]
        both_flags = []
        for row in zip(*flags, strict=True):
            joined = 0
            for each in row:
                joined |= each
            both_flags.append(joined)
        return both_levels, both_flags, faults


_NO_FAULTS: Faults = ((), (), (), ())


def _joined(lists: Sequence[tuple[int, ...] | None]) -> tuple[int, ...] | None:
    """The codes of several bodies together; unknown only if all of them do not know."""
    known = [each for each in lists if each is not None]
    if len(known) == 1:
        return known[0]
    return tuple(sorted({code for each in known for code in each})) if known else None


@lru_cache(maxsize=4096)
def _speed(speed_kmh: float | None) -> float | None:
    # To round takes five times as long as to look up, and a fleet has some thousand speeds.
    return None if speed_kmh is None else round(speed_kmh, 1)


def _numbers(column: Any) -> list[Any]:
    """None where the unit does not know: NaN is the one number that is not itself."""
    numbers: list[Any] = column.tolist()
    if (column == column).all():  # noqa: PLR0124
        return numbers
    return [each if each == each else None for each in numbers]  # noqa: PLR0124


def _place(latitude_deg: float | None, longitude_deg: float | None, valid: bool) -> Place | None:
    if latitude_deg is None or longitude_deg is None or abs(latitude_deg) > 90 or abs(longitude_deg) > 180:
        return None
    # The wire has millionths of a degree: a tenth of a metre.
    return round(latitude_deg, 6), round(longitude_deg, 6), bool(valid)


def _integers(column: Any) -> list[int | None]:
    if (column == column).all():  # noqa: PLR0124
        integers: list[int | None] = column.astype("int64").tolist()
        return integers
    return [None if each is None else int(each) for each in _numbers(column)]


def _scaled(column: Any, scale: int) -> list[int | None]:
    return _integers((column * scale).round())


def _folded(fold: Any, columns: Sequence[Any]) -> Any:
    """The highest or lowest of each row, what the unit does not know left out."""
    return fold.reduce([fold.reduce(column, axis=1) for column in columns])


def _measures_of(bodies: Sequence[Body]) -> Measures:
    """As `_Layout._measures`, of one report."""
    numbers: list[int | None] = [None] * len(Measures._fields)
    has_extremes = False
    cells: list[int] = []
    temperatures: list[int] = []
    for body in bodies:
        match body:
            case VehicleData() | VehicleData2025():
                numbers[0] = _whole(body.total_voltage_v, 10)
                numbers[1] = _whole(body.total_current_a, 10)
                numbers[2] = _whole(body.odometer_km, 10)
            case Extremes():
                has_extremes = True
                numbers[3] = _whole(body.cell_voltage_max_v, 1000)
                numbers[4] = _whole(body.cell_voltage_min_v, 1000)
                numbers[5] = _whole(body.temperature_max_c, 1)
                numbers[6] = _whole(body.temperature_min_c, 1)
            case CellVoltages() | CellVoltages2025():
                for item in _items_of(body) or ():
                    cells += _wholes(item.cell_voltages_v, 1000)
            case ProbeTemperatures() | ProbeTemperatures2025():
                for item in _items_of(body) or ():
                    temperatures += _wholes(item.temperatures_c, 1)
            case _:
                pass
    if not has_extremes:
        numbers[3], numbers[4] = max(cells, default=None), min(cells, default=None)
        numbers[5], numbers[6] = max(temperatures, default=None), min(temperatures, default=None)
    return Measures._make(numbers)


def _whole(value: float | Sentinel, scale: int) -> int | None:
    return None if isinstance(value, Sentinel) else round(value * scale)


def _wholes(values: Any, scale: int) -> list[int]:
    if isinstance(values, Sentinel):
        return []
    return [round(value * scale) for value in values if not isinstance(value, Sentinel)]


def _known(value: int | Sentinel) -> int | None:
    return None if isinstance(value, Sentinel) else int(value)


def _float(value: float | Sentinel) -> float | None:
    return None if isinstance(value, Sentinel) else float(value)


def _codes(value: tuple[int, ...] | Sentinel) -> tuple[int, ...] | None:
    return None if isinstance(value, Sentinel) else tuple(sorted(set(value)))


def _items_of(body: Body) -> tuple[Any, ...] | None:
    """The subsystems or packs of a body that has such; None for other bodies, and where the unit does not know them."""
    match body:
        case CellVoltages() | ProbeTemperatures():
            items: Any = body.subsystems
        case CellVoltages2025() | ProbeTemperatures2025():
            items = body.packs
        case _:
            return None
    return None if isinstance(items, Sentinel) or not items else items


def _parts_of(body: Body) -> list[Part] | None:
    items = _items_of(body)
    if items is None:
        return None
    kind = body_name(body)
    parts = []
    for item in items:
        if kind == "probe_temperatures":
            size = 0 if isinstance(item.temperatures_c, Sentinel) else len(item.temperatures_c)
            parts.append(Part(kind, item.number, None, 1, 1 + size))
            continue
        size = 0 if isinstance(item.cell_voltages_v, Sentinel) else len(item.cell_voltages_v)
        if isinstance(body, CellVoltages):
            parts.append(Part(kind, item.number, _known(item.cell_count), item.first_cell, item.first_cell + size))
        else:
            parts.append(Part(kind, item.number, size, 1, 1 + size))
    return parts


def _column_stem(body: Body) -> str:
    """As `decode_batch` names the columns of a body."""
    name = type(body).__name__.removesuffix("2025")
    return "".join(f"_{letter.lower()}" if letter.isupper() else letter for letter in name).lstrip("_")
