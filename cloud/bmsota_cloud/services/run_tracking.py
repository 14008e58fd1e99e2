"""Runs and tracks of a vehicle, report by report, for `services.deriving`. Pure: no store, no clock.

*A run* (decision 87): a charging run while table 9 says "charging, parked" (1), or "charging, driving" (2) and the vehicle is not
started; a driving run while the vehicle is started and not charging parked. Parked in between is no run. A run ends at its
last report when a run of the other kind begins, or when more than the gap (5 minutes) passes without a report of its kind; what is
shorter is an interruption. A logout ends nothing: it is no report, and could not be derived again.

*Energy* is the integral of voltage x current by trapezoids from report to report. An interval is left out where one of its ends has no
voltage or current, and where the run was interrupted; it and one of more than `SPARSE_S` count as `gap_s`.

*A track* is thinned: see `TrackTracker`.

Strategy: whole numbers only (0.1 V, 0.1 A, 0.1 km, 1 mV, 0.000001 deg), so that the same reports give the same bytes in whatever batches
they come, and whether they were decoded in columns or one by one.
"""

from __future__ import annotations

import json
import math
from enum import StrEnum
from struct import Struct
from typing import TYPE_CHECKING, NamedTuple

if TYPE_CHECKING:
    from collections.abc import Callable

__all__ = [
    "NO_MEASURES",
    "RUN_GAP_S",
    "SPARSE_S",
    "Measures",
    "RunKind",
    "RunTracker",
    "TrackTracker",
    "VehicleRun",
    "run_kind",
]

RUN_GAP_S = 300
"""A stop at a traffic light with the motor off, a charger that negotiates again: shorter than this."""
SPARSE_S = 60
"""Twice the longest period of the standard (30 s): what lies between reports further apart was not measured."""

_MOVED_M = 20
"""Less is the noise of a receiver that stands still."""
_TRACK_S = 30
_TRACK_M = 200
_STRAIGHT_S = 120
_STRAIGHT_M = 1000
_STRAIGHT_DEG = 10
_UDEG_M = 0.111_319_49
"""Metres of a millionth of a degree of latitude."""


class Measures(NamedTuple):
    """What a report has measured; None where the unit does not know."""

    voltage_dv: int | None = None
    """0.1 V."""
    current_da: int | None = None
    """0.1 A, > 0: discharging."""
    odometer_dkm: int | None = None
    """0.1 km."""
    cell_voltage_mv_max: int | None = None
    cell_voltage_mv_min: int | None = None
    temperature_c_max: int | None = None
    temperature_c_min: int | None = None


NO_MEASURES = Measures()


class RunKind(StrEnum):
    """What a vehicle does in a run."""

    CHARGING = "charging"
    DRIVING = "driving"


_CHARGING, _DRIVING = 1, 2
_KINDS = {_CHARGING: RunKind.CHARGING, _DRIVING: RunKind.DRIVING}


def run_kind(vehicle_state: int, charging_state: int) -> int:
    """Of two codes of table 9 the number of the kind of run; 0 for none."""
    if charging_state == 1:
        return _CHARGING
    if vehicle_state == 1:
        return _DRIVING
    return _CHARGING if charging_state == 2 else 0


class VehicleRun(NamedTuple):
    """A run up to its last report. What was never known is None."""

    kind: RunKind
    started_s: int
    """Report time, Unix seconds."""
    ended_s: int
    """Of the last report of its kind."""
    reports: int
    """With vehicle data."""
    gap_s: int
    """Of its seconds those without reports, or without voltage or current at both ends."""
    energy_out_wh: float
    """From the battery."""
    energy_in_wh: float
    """Into the battery: charged, or recovered while driving."""
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

    def to_json(self) -> str:
        """All fields by their names."""
        return json.dumps(self._asdict(), separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> VehicleRun:
        """What `to_json` made, fields of a newer version left out.

        Raises:
            ValueError: it is nothing of the kind.
        """
        try:
            fields = json.loads(text)
            return cls(**{name: fields[name] for name in cls._fields})._replace(kind=RunKind(fields["kind"]))
        except (KeyError, TypeError) as error:
            raise ValueError("expected a run as JSON") from error


# -- one run -----------------------------------------------------------------------------------------------------------

_NONE = -(2**62)
"""A number that is not known: so all of them can be packed as they are."""
_RUN = Struct(">BBqqIIqq11q")
# Twice the integral: (0.1 V x 0.1 A) x 2 s to Wh.
_WH = 1 / (2 * 100 * 3600)


class RunTracker:
    """The run of one vehicle that has not ended, if there is one."""

    __slots__ = (
        "_count",
        "_energy_in",
        "_energy_out",
        "_gap_s",
        "_is_interrupted",
        "_kind",
        "_last_s",
        "_limits",
        "_odometer",
        "_odometer_first",
        "_power",
        "_soc",
        "_soc_first",
        "_start_s",
    )

    def __init__(self) -> None:
        self._kind = 0

    @property
    def is_in_run(self) -> bool:
        return self._kind != 0

    def take(self, at_s: int, kind: int, soc: float | None, measures: Measures, gap_max_s: int) -> VehicleRun | None:
        """Go on to the next report with vehicle data; the run that it ends."""
        ended = None
        if self._kind:
            since_s = at_s - self._last_s
            if since_s <= gap_max_s and kind == self._kind:
                self._go_on(at_s, since_s, soc, measures)
                return None
            if since_s <= gap_max_s and not kind:
                self._is_interrupted = True
                return None
            ended = self.run()
            self._kind = 0
        if kind:
            self._begin(at_s, kind, soc, measures)
        return ended

    def see(self, at_s: int, measures: Measures, gap_max_s: int) -> None:
        """Take the extremes of a report without vehicle data: cells and temperatures may come in frames of their own."""
        if self._kind and not self._is_interrupted and at_s - self._last_s <= gap_max_s:
            self._widen(measures)

    def _begin(self, at_s: int, kind: int, soc: float | None, measures: Measures) -> None:
        self._kind = kind
        self._start_s = self._last_s = at_s
        self._count, self._gap_s = 1, 0
        self._energy_out = self._energy_in = 0
        self._is_interrupted = False
        voltage, current, odometer = measures[:3]
        self._power = _NONE if voltage is None or current is None else voltage * current
        self._soc_first = self._soc = _NONE if soc is None else int(soc)
        self._odometer_first = self._odometer = _NONE if odometer is None else odometer
        limits = (*measures[3:7], current, current)
        self._limits = tuple([_NONE if each is None else each for each in limits])

    def _go_on(self, at_s: int, since_s: int, soc: float | None, measures: Measures) -> None:
        voltage, current, odometer = measures[:3]
        power = _NONE if voltage is None or current is None else voltage * current
        if since_s:
            before = self._power
            if _NONE in (before, power) or self._is_interrupted:
                self._gap_s += since_s
            else:
                if since_s > SPARSE_S:
                    self._gap_s += since_s
                energy = (before + power) * since_s
                if energy > 0:
                    self._energy_out += energy
                else:
                    self._energy_in -= energy
        self._is_interrupted = False
        self._power = power
        self._last_s = at_s
        self._count += 1
        if soc is not None:
            self._soc = int(soc)
            if self._soc_first == _NONE:
                self._soc_first = self._soc
        if odometer is not None:
            self._odometer = odometer
            if self._odometer_first == _NONE:
                self._odometer_first = odometer
        self._widen(measures)

    def _widen(self, measures: Measures) -> None:
        _, current, _, cell_max, cell_min, hot, cold = measures
        limits = self._limits
        # Usually all is known and within what it was: six comparisons, and nothing made.
        try:
            if (
                limits[1] <= cell_min  # type: ignore[operator]
                and cell_max <= limits[0]  # type: ignore[operator]
                and limits[5] <= current <= limits[4]  # type: ignore[operator]
                and limits[3] <= cold  # type: ignore[operator]
                and hot <= limits[2]  # type: ignore[operator]
                and _NONE not in limits
            ):
                return
        except TypeError:  # Something is not known.
            pass
        self._limits = (
            _joined(max, limits[0], cell_max),
            _joined(min, limits[1], cell_min),
            _joined(max, limits[2], hot),
            _joined(min, limits[3], cold),
            _joined(max, limits[4], current),
            _joined(min, limits[5], current),
        )

    def run(self) -> VehicleRun | None:
        """The run so far; None if there is none."""
        if not self._kind:
            return None
        cell_max, cell_min, hot, cold, current_max, current_min = self._limits
        return VehicleRun(
            kind=_KINDS[self._kind],
            started_s=self._start_s,
            ended_s=self._last_s,
            reports=self._count,
            gap_s=self._gap_s,
            energy_out_wh=round(self._energy_out * _WH, 3),
            energy_in_wh=round(self._energy_in * _WH, 3),
            soc_pct_start=_part(self._soc_first),
            soc_pct_end=_part(self._soc),
            odometer_km_start=_part(self._odometer_first, 10),
            odometer_km_end=_part(self._odometer, 10),
            cell_voltage_v_max=_part(cell_max, 1000),
            cell_voltage_v_min=_part(cell_min, 1000),
            temperature_c_max=_part(hot),
            temperature_c_min=_part(cold),
            current_a_max=_part(current_max, 10),
            current_a_min=_part(current_min, 10),
        )

    def to_bytes(self) -> bytes:
        """For `from_bytes`; empty without a run."""
        if not self._kind:
            return b""
        return _RUN.pack(
            self._kind,
            self._is_interrupted,
            self._start_s,
            self._last_s,
            self._count,
            self._gap_s,
            self._energy_out,
            self._energy_in,
            self._soc_first,
            self._soc,
            self._odometer_first,
            self._odometer,
            self._power,
            *self._limits,
        )

    SIZE_BYTES = _RUN.size

    @classmethod
    def from_bytes(cls, data: bytes) -> RunTracker:
        """What `to_bytes` made.

        Raises:
            struct.error: it is shorter.
        """
        tracker = cls()
        if data:
            kind, is_interrupted, start_s, last_s, count, gap_s, out, into, *numbers = _RUN.unpack(data)
            tracker._kind, tracker._is_interrupted = kind, bool(is_interrupted)
            tracker._start_s, tracker._last_s = start_s, last_s
            tracker._count, tracker._gap_s = count, gap_s
            tracker._energy_out, tracker._energy_in = out, into
            tracker._soc_first, tracker._soc, tracker._odometer_first, tracker._odometer, tracker._power = numbers[:5]
            tracker._limits = tuple(numbers[5:])
        return tracker


def _joined(pick: Callable[[int, int], int], known: int, new: int | None) -> int:
    if new is None:
        return known
    return new if known == _NONE else pick(known, new)


def _part(value: int, parts: int = 1) -> float | None:
    return None if value == _NONE else value / parts if parts > 1 else value


# -- the track ---------------------------------------------------------------------------------------------------------

_TRACK = Struct(">qiih")
_NO_BEARING = -1


class TrackTracker:
    """Which positions of a vehicle are kept.

    The first; then one more than 20 m from the last that was kept, if it is 30 s later or 200 m away. On a straight (within 10 degrees of
    the direction before) 120 s or 1 km are enough. So at most one in 30 s or 200 m, and none while a vehicle stands.
    """

    __slots__ = ("_at_s", "_bearing_deg", "_latitude", "_longitude", "_near", "_scale")

    def __init__(self) -> None:
        self._near: tuple[float, float] | None = None
        """A position less than 20 m from the last that was kept: a vehicle that stands says it again and again."""
        self._at_s = 0
        self._longitude = self._latitude = 0
        self._bearing_deg = _NO_BEARING
        self._scale = 0.0

    def take(self, at_s: int, latitude_deg: float, longitude_deg: float) -> tuple[int, int] | None:
        """Go on to the next position; longitude and latitude in 0.000001 deg if it is kept."""
        near = self._near
        if near is not None and near[0] == latitude_deg and near[1] == longitude_deg:
            return None
        longitude, latitude = round(longitude_deg * 1e6), round(latitude_deg * 1e6)
        if near is None:
            return self._keep(at_s, longitude, latitude, _NO_BEARING)
        if not self._scale:
            self._scale = math.cos(math.radians(self._latitude / 1e6)) * _UDEG_M
        east = (longitude - self._longitude) * self._scale
        north = (latitude - self._latitude) * _UDEG_M
        moved_m = math.hypot(east, north)
        since_s = at_s - self._at_s
        if moved_m < _MOVED_M:
            self._near = (latitude_deg, longitude_deg)
            return None
        if since_s < _TRACK_S and moved_m < _TRACK_M:
            return None
        bearing = round(math.degrees(math.atan2(east, north))) % 360
        if self._bearing_deg != _NO_BEARING and since_s < _STRAIGHT_S and moved_m < _STRAIGHT_M:
            turned = abs(bearing - self._bearing_deg)
            if min(turned, 360 - turned) <= _STRAIGHT_DEG:
                return None
        return self._keep(at_s, longitude, latitude, bearing)

    def _keep(self, at_s: int, longitude: int, latitude: int, bearing: int) -> tuple[int, int]:
        self._at_s, self._longitude, self._latitude, self._bearing_deg = at_s, longitude, latitude, bearing
        self._near = (latitude / 1e6, longitude / 1e6)
        self._scale = 0.0
        return longitude, latitude

    def to_bytes(self) -> bytes:
        """For `from_bytes`; empty before the first position."""
        if self._near is None:
            return b""
        return _TRACK.pack(self._at_s, self._longitude, self._latitude, self._bearing_deg)

    SIZE_BYTES = _TRACK.size

    @classmethod
    def from_bytes(cls, data: bytes) -> TrackTracker:
        """What `to_bytes` made.

        Raises:
            struct.error: it is shorter.
        """
        tracker = cls()
        if data:
            tracker._keep(*_TRACK.unpack(data))
        return tracker
