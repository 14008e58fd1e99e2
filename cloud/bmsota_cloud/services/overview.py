"""The overview: every vehicle that passes a filter, as counts, as a sorted list and on the map.

Strategy: vehicles and their newest states lie in two databases, and a filter, a sort or a count may need both. So all that pass the
filter are read with two columns and put together here, in sets; only the rows of a page are read whole. On the map they are single marks up to
`MARKS_MAX`; above that, cells of a grid that grows with the distance from which one looks.

The scope of the account is in the statement that reads the vehicles; states of others are read and left aside.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from math import floor
from typing import TYPE_CHECKING, NamedTuple

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.domain.paging import Page
from bmsota_cloud.domain.vehicles import FleetState
from bmsota_cloud.services.values import utc_of_ns
from bmsota_cloud.services.views import view_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from collections.abc import Set as AbstractSet
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.domain.telemetry import FleetMark
    from bmsota_cloud.domain.vehicles import Vehicle, VehicleFilter
    from bmsota_cloud.services.context import Context

__all__ = [
    "MARKS_MAX",
    "ZOOM_MAX",
    "FleetCluster",
    "FleetMap",
    "FleetPage",
    "FleetPoint",
    "FleetRow",
    "FleetSort",
    "MapBounds",
    "OverviewService",
]

# A browser draws as many on a canvas in a third of a second; as JSON they are 0.7 MB, a fifth of that compressed.
MARKS_MAX = 10_000
ZOOM_MAX = 18
# So wide is a cell of the grid on the screen. A zoom level of 0 shows the earth on 256 pixels.
_CELL_PX = 64
_WORLD_PX = 256
# Clusters that are read out in a pop-up name their vehicles up to here.
_NAMED_MAX = 20
# How many cells one answer may have: a screen of 4,000 x 2,000 pixels.
_CLUSTERS_MAX = 2000


class FleetSort(StrEnum):
    """What a list is sorted by; alarms and last seen with the highest and newest first, the others from below."""

    VIN = "vin"
    HWID = "hwid"
    PLATE = "plate"
    BATTERY_NUMBER = "battery-number"
    PROJECT = "project"
    CITY = "city"
    SOC = "soc"
    ALARM = "alarm"
    LAST_SEEN = "last-seen"


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetRow:
    """A vehicle in the list of an overview."""

    vin: str
    hwid: str
    series: str
    project: str
    customer: str
    battery_number: str
    frame_number: str
    model: str
    plate: str
    city: str
    is_online: bool
    is_upgrading: bool
    last_seen_at: datetime | None
    soc_pct: float | None
    alarm_level: int | None
    latitude_deg: float | None
    longitude_deg: float | None
    is_position_valid: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetPage:
    """A page of the list, and how many vehicles pass the filter, in all and by state."""

    page: Page[FleetRow]
    total: int
    """What passes the filter but for the state."""
    counts: Mapping[FleetState, int]


# Of thousands at once: tuples.
class FleetPoint(NamedTuple):
    """One vehicle on the map."""

    vin: str
    hwid: str
    latitude_deg: float
    longitude_deg: float
    is_position_valid: bool
    """False: the fix is lost; this is where it was."""
    is_online: bool
    is_upgrading: bool
    alarm_level: int
    soc_pct: float | None


class FleetCluster(NamedTuple):
    """The vehicles of one cell of the grid."""

    latitude_deg: float
    """The middle of its vehicles."""
    longitude_deg: float
    vehicles: int
    online: int
    faults: int
    upgrading: int
    points: tuple[FleetPoint, ...]
    """The first 20 of them, by VIN."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FleetMap:
    """The vehicles that pass a filter on the map: either all as points, or as clusters what is in the bounds."""

    total: int
    """How many pass the filter."""
    placed: int
    """How many of them have a position."""
    points: tuple[FleetPoint, ...] | None
    clusters: tuple[FleetCluster, ...] | None


@dataclass(frozen=True, slots=True, kw_only=True)
class MapBounds:
    """What a map shows, in degrees; west may be greater than east, over the date line."""

    south: float = -90.0
    west: float = -180.0
    north: float = 90.0
    east: float = 180.0

    @classmethod
    def parse(cls, text: str) -> MapBounds:
        """From "south,west,north,east"; all of the earth from an empty text.

        Raises:
            InvalidInputError: it is not that.
        """
        if not text:
            return cls()
        try:
            south, west, north, east = (float(part) for part in text.split(","))
        except ValueError:
            raise _bad_bounds(text) from None
        if not (-90 <= south <= north <= 90 and -540 <= west <= 540 and -540 <= east <= 540):
            raise _bad_bounds(text)
        if east - west >= 360:
            west, east = -180.0, 180.0
        return cls(south=south, west=_turned(west), north=north, east=_turned(east))

    def has(self, latitude_deg: float, longitude_deg: float) -> bool:
        """Whether the point is on it."""
        if not self.south <= latitude_deg <= self.north:
            return False
        if self.west <= self.east:
            return self.west <= longitude_deg <= self.east
        return longitude_deg >= self.west or longitude_deg <= self.east


def _bad_bounds(text: str) -> InvalidInputError:
    return InvalidInputError("bad-bounds", f"bounds: expected south,west,north,east in degrees, got {text[:80]!r}")


def _turned(longitude_deg: float) -> float:
    """Between -180 and 180."""
    if -180 <= longitude_deg <= 180:
        return longitude_deg
    return (longitude_deg + 180) % 360 - 180


class _Fleet:
    """All that pass a filter, and who of them is in which state: sets, because they are counted at every look."""

    def __init__(
        self,
        vehicles: Sequence[tuple[str, str]],
        online: AbstractSet[str],
        upgrading: AbstractSet[str],
        alarms: Mapping[str, int],
    ) -> None:
        self.vehicles = vehicles
        """VIN and a text, by VIN."""
        self.online = online
        self.upgrading = upgrading
        self.alarms = alarms
        self._vins = {vin for vin, _ in vehicles}

    def count(self, state: FleetState) -> int:
        if state is FleetState.OFFLINE:
            return len(self._vins) - self.count(FleetState.ONLINE)
        return len(self._vins & self._members(state))

    def chosen(self, state: FleetState | None) -> Sequence[tuple[str, str]]:
        """Those in *state*."""
        if state is None:
            return self.vehicles
        if state is FleetState.OFFLINE:
            return [each for each in self.vehicles if each[0] not in self.online]
        members = self._members(state)
        return [each for each in self.vehicles if each[0] in members]

    def _members(self, state: FleetState) -> AbstractSet[str]:
        match state:
            case FleetState.UPGRADING:
                return self.upgrading
            case FleetState.FAULTS:
                return self.alarms.keys()
            case _:
                return self.online


class OverviewService:
    """Reads only."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def page(
        self,
        request: PageRequest,
        asked: VehicleFilter,
        *,
        by: Account,
        state: FleetState | None = None,
        sort: FleetSort = FleetSort.VIN,
    ) -> FleetPage:
        """A page of the list; what *asked* says of the connection is not looked at, *state* has that."""
        fleet = self._fleet(asked, by, _TEXTS.get(sort, "hwid"))
        chosen = fleet.chosen(state)
        if sort is not FleetSort.VIN:
            # Stable: among equals by VIN.
            chosen = sorted(chosen, key=self._key(sort, fleet))
        vins = [vin for vin, _ in chosen[request.offset : request.offset + request.size]]
        with self._context.store.reading() as work:
            # Asked again with the scope: it may have changed since.
            vehicles = work.vehicles.visible_many(vins, by.scope)
        marks = self._context.telemetry.fleet_marks(vins)
        page = Page(
            items=tuple(_row(vehicles[vin], marks.get(vin), fleet) for vin in vins if vin in vehicles),
            total=len(chosen),
            number=request.number,
            size=request.size,
        )
        return FleetPage(page=page, total=len(fleet.vehicles), counts={each: fleet.count(each) for each in FleetState})

    def map(
        self,
        asked: VehicleFilter,
        *,
        by: Account,
        state: FleetState | None = None,
        bounds: MapBounds | None = None,
        zoom: int = 2,
        clusters_from: int = MARKS_MAX + 1,
    ) -> FleetMap:
        """The same vehicles on the map: points, or from *clusters_from* on clusters of what is in *bounds*, for a *zoom* level (0 to 18)."""
        fleet = self._fleet(asked, by, "hwid")
        chosen = fleet.chosen(state)
        # Few are looked up; of many, it is cheaper to read all.
        few = [vin for vin, _ in chosen] if len(chosen) <= _LOOKED_UP_MAX else None
        marks = self._context.telemetry.fleet_marks(few)
        points = [
            FleetPoint(
                vin,
                hwid,
                mark.latitude_deg,
                mark.longitude_deg,
                bool(mark.is_position_valid),
                vin in fleet.online,
                vin in fleet.upgrading,
                mark.alarm_level or 0,
                mark.soc_pct,
            )
            for vin, hwid in chosen
            if (mark := marks.get(vin)) is not None and mark.latitude_deg is not None and mark.longitude_deg is not None
        ]
        if len(points) < clusters_from:
            return FleetMap(total=len(chosen), placed=len(points), points=tuple(points), clusters=None)
        clusters = _clusters(points, bounds or MapBounds(), zoom)
        return FleetMap(total=len(chosen), placed=len(points), points=None, clusters=clusters)

    def _fleet(self, asked: VehicleFilter, by: Account, column: str) -> _Fleet:
        require(by, Permission.VEHICLE_READ)
        with self._context.store.reading() as work:
            vehicles = work.vehicles.fleet(asked, by.scope, column)
            online = work.presence.online(self._context.presence.lease_check)
            upgrading = work.ota_tasks.upgrading()
        return _Fleet(vehicles, online, upgrading, self._context.telemetry.alarm_levels())

    def _key(
        self, sort: FleetSort, fleet: _Fleet
    ) -> Callable[[tuple[str, str]], tuple[bool, str] | tuple[bool, float]]:
        """What to sort by; vehicles without it come last."""
        if sort in _TEXTS:
            return lambda each: (not each[1], each[1])
        if sort is FleetSort.ALARM:
            return lambda each: (False, -fleet.alarms.get(each[0], 0))
        is_soc = sort is FleetSort.SOC
        values = self._context.telemetry.newest_values("soc_pct" if is_soc else "last_seen_at_ns")
        sign = 1 if is_soc else -1

        def key(each: tuple[str, str]) -> tuple[bool, float]:
            value = values.get(each[0])
            return value is None, sign * (value or 0)

        return key


_LOOKED_UP_MAX = 1000
# Sorts by what stands in the vehicle's own row.
_TEXTS: Mapping[FleetSort, str] = {
    FleetSort.HWID: "hwid",
    FleetSort.PLATE: "plate",
    FleetSort.BATTERY_NUMBER: "battery_number",
    FleetSort.PROJECT: "project",
    FleetSort.CITY: "city",
}


def _row(vehicle: Vehicle, mark: FleetMark | None, fleet: _Fleet) -> FleetRow:
    return view_of(
        FleetRow,
        vehicle,
        is_online=vehicle.vin in fleet.online,
        is_upgrading=vehicle.vin in fleet.upgrading,
        last_seen_at=None if mark is None else utc_of_ns(mark.last_seen_at_ns),
        soc_pct=None if mark is None else mark.soc_pct,
        alarm_level=None if mark is None else mark.alarm_level,
        latitude_deg=None if mark is None else mark.latitude_deg,
        longitude_deg=None if mark is None else mark.longitude_deg,
        is_position_valid=None if mark is None else mark.is_position_valid,
    )


def _clusters(points: Iterable[FleetPoint], bounds: MapBounds, zoom: int) -> tuple[FleetCluster, ...]:
    """Cells of a grid of degrees that stays where it is when the map is moved; the fullest, if there are too many."""
    cell_deg = 360 * _CELL_PX / (_WORLD_PX * 2 ** max(0, min(zoom, ZOOM_MAX)))
    cells: dict[tuple[int, int], list[FleetPoint]] = {}
    for point in points:
        if bounds.has(point.latitude_deg, point.longitude_deg):
            key = (floor(point.latitude_deg / cell_deg), floor(point.longitude_deg / cell_deg))
            cells.setdefault(key, []).append(point)
    fullest: Sequence[list[FleetPoint]] = sorted(cells.values(), key=len, reverse=True)[:_CLUSTERS_MAX]
    return tuple(
        FleetCluster(
            round(sum(point.latitude_deg for point in cell) / len(cell), 6),
            round(sum(point.longitude_deg for point in cell) / len(cell), 6),
            len(cell),
            sum(point.is_online for point in cell),
            sum(point.alarm_level > 0 for point in cell),
            sum(point.is_upgrading for point in cell),
            tuple(cell[:_NAMED_MAX]),
        )
        for cell in fullest
    )
