"""What a vehicle has done, as its histories list it: runs, faults, the track, calibration values. All times are the vehicle's own."""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING

from bmsota_cloud.domain.paging import Page
from bmsota_cloud.domain.telemetry import EventKind

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota_cloud.domain.telemetry import VehicleEvent

__all__ = [
    "FAULT_KINDS",
    "CalibrationChange",
    "CalibrationValue",
    "FaultFilter",
    "FaultOrder",
    "FaultPeriod",
    "FaultView",
    "RunPage",
    "RunView",
    "TrackPoint",
]

FAULT_KINDS = (EventKind.ALARM, EventKind.FAULT_CODE, EventKind.FAULT_CHANGE)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunView:
    """A charging or driving run (decision 87)."""

    kind: str
    """"charging" or "driving"."""
    is_open: bool
    """Not ended, as far as is known now."""
    started_at: datetime
    ended_at: datetime
    """Of an open run: the last report."""
    reports: int
    gap_s: int
    """Of its seconds those without reports, or without voltage or current at both ends."""
    energy_out_wh: float
    energy_in_wh: float
    soc_pct_start: float | None
    soc_pct_end: float | None
    odometer_km_start: float | None
    odometer_km_end: float | None
    cell_voltage_v_max: float | None
    cell_voltage_v_min: float | None
    temperature_c_max: float | None
    temperature_c_min: float | None
    current_a_max: float | None
    """> 0: discharging."""
    current_a_min: float | None

    @property
    def duration_s(self) -> int:
        return int((self.ended_at - self.started_at).total_seconds())

    @property
    def distance_km(self) -> float | None:
        if self.odometer_km_start is None or self.odometer_km_end is None:
            return None
        return round(self.odometer_km_end - self.odometer_km_start, 1)


@dataclass(frozen=True, slots=True, kw_only=True)
class RunPage(Page[RunView]):
    """Runs that later reports have ended, and the one that none has."""

    last: RunView | None = None
    """The newest run, if no report has shown its end yet: open, or silent for longer than the gap. Not in `items` and `total`."""


class FaultOrder(StrEnum):
    """How faults are sorted; open ones are always first."""

    TIME = "time"
    """Newest first."""
    TYPE = "type"
    LEVEL = "level"
    """Highest first."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultFilter:
    """Which faults."""

    since_s: int | None = None
    """That were there at this time or later, Unix seconds."""
    until_s: int | None = None
    """That began before."""
    kinds: tuple[EventKind, ...] = FAULT_KINDS
    level_min: int = 0
    is_open: bool | None = None
    order: FaultOrder = FaultOrder.TIME


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultPeriod:
    """As the store pairs events: an onset, and when it was cleared."""

    onset: VehicleEvent
    cleared_s: int | None
    """Report time, Unix seconds; None while it is open."""
    cleared_detail: str


@dataclass(frozen=True, slots=True, kw_only=True)
class FaultView:
    """An alarm or a fault, from its onset to its end."""

    kind: EventKind
    subject: str
    """The flag by its name; list and code; or node and code."""
    level: int | None
    """Of the fault where the unit says so, else the highest of the report that told the onset."""
    began_at: datetime
    """As the unit says; else the own time of the report that told it."""
    cleared_at: datetime | None
    """None while it is open."""
    duration_s: int | None
    detail: str
    """What the unit says about it."""
    values: dict[str, float] = field(default_factory=dict)
    """Of the report that told the onset: soc_pct, voltage_v, current_a, speed_kmh, cell_voltage_mv_max, ..._min, temperature_c_max, ..._min."""

    @property
    def is_open(self) -> bool:
        return self.cleared_at is None


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackPoint:
    """A place of the thinned track (decision 88)."""

    at: datetime
    longitude_deg: float
    """> 0: east."""
    latitude_deg: float
    """> 0: north."""
    speed_kmh: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationValue:
    """What a node has in its memory, as it said last."""

    position: int
    """0: the master."""
    parameter: int
    value: str
    """Hexadecimal digits; the calibration list of this revision says what they are."""
    revision: int
    since: datetime
    """When it was first told."""


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationChange:
    """A value that became another one."""

    at: datetime
    position: int
    parameter: int
    before: str | None
    """None: it was told for the first time."""
    after: str
    revision: int
