"""The reports of one vehicle as a table of their main values, newest first, with the gaps between them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import TYPE_CHECKING, Any, Final

from bmsota.errors import FrameError
from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.domain.paging import PAGE_NUMBER_MAX, Page, PageRequest
from bmsota_cloud.services.scoped import vehicle_for
from bmsota_cloud.services.values import plain_values, read_report, utc_of_ns, utc_of_s

if TYPE_CHECKING:
    from bmsota_cloud.domain.accounts import Account
    from bmsota_cloud.domain.telemetry import JsonValue, StoredFrame
    from bmsota_cloud.services.context import Context

__all__ = ["GAP_PERIODS", "RECORD_PERIOD_S", "RecordPage", "RecordService", "RecordView", "check_range"]

RECORD_PERIOD_S: Final = 30
"""The longest period of real-time reports that the standard allows (2016, 7.2; 2025, 7.2)."""
GAP_PERIODS: Final = 3
"""So many periods without a report are a gap; one report lost on the way is none."""


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordView:
    """One report in the table. A value is a number, "abnormal" or "invalid" as the unit says, or None where it says nothing."""

    vin: str
    reported_at: datetime
    """By the vehicle's clock."""
    received_at: datetime
    """By the platform's clock."""
    is_backfill: bool
    is_time_plausible: bool
    fault: str
    """Why its end could not be read; empty if all of it could."""
    vehicle_state: JsonValue = None
    charging_state: JsonValue = None
    speed_kmh: JsonValue = None
    odometer_km: JsonValue = None
    soc_pct: JsonValue = None
    total_voltage_v: JsonValue = None
    total_current_a: JsonValue = None
    """> 0: discharging."""
    cell_voltage_max_v: JsonValue = None
    cell_voltage_min_v: JsonValue = None
    temperature_max_c: JsonValue = None
    temperature_min_c: JsonValue = None
    alarm_level: JsonValue = None
    gap_s: int | None = None
    """Seconds without a report before this one, if that is a gap; None if it is none, or if nothing came before."""

    @property
    def at(self) -> datetime:
        """Where it stands in the order: its own time, or its arrival if that means nothing."""
        return self.reported_at if self.is_time_plausible else self.received_at


@dataclass(frozen=True, slots=True, kw_only=True)
class RecordPage(Page[RecordView]):
    """A page of the table."""

    unreadable: int = 0
    """As many reports could not be read on the way to this page: counted in `total`, and not listed."""


class RecordService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def page(
        self,
        vin: str,
        request: PageRequest,
        *,
        by: Account,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> RecordPage:
        """The reports of a vehicle, newest first, with the gap before each. *since* is included, *until* is not.

        Raises:
            NotFoundError: there is no such vehicle, or not for *by*.
            InvalidInputError: *until* is not later than *since*.
        """
        require(by, Permission.VEHICLE_READ)
        check_range(since, until)
        with self._context.store.reading() as work:
            vehicle_for(work, vin, by)
        telemetry = self._context.telemetry
        page = telemetry.frames(vin, request, since=since, until=until)
        views = [self._view(frame) for frame in page.items]
        before = views[1:]
        if views and page.number < page.pages and request.offset + request.size < PAGE_NUMBER_MAX:
            # The report before the last one is the first of the next page.
            following = PageRequest(request.offset + request.size + 1, 1)
            before += map(self._view, telemetry.frames(vin, following, since=since, until=until).items)
        gaps = [_gap_s(earlier.at, view.at) for view, earlier in zip(views, before, strict=False)]
        gaps += [None] * (len(views) - len(gaps))
        items = tuple(_with_gap(view, gap) for view, gap in zip(views, gaps, strict=True))
        return RecordPage(items=items, total=page.total, number=page.number, size=page.size, unreadable=page.unreadable)

    def _view(self, frame: StoredFrame) -> RecordView:
        fault = frame.fault
        values: dict[str, JsonValue] = {}
        try:
            values = plain_values([read_report(frame.clear, self._context.settings.layouts)])
        except FrameError as error:
            fault = fault or str(error)
        vehicle, extremes, alarms = (_body(values, name) for name in ("vehicle", "extremes", "alarms"))
        cells, probes = (
            _numbers(values, "cell_voltages", "cell_voltages_v"),
            _numbers(values, "probe_temperatures", "temperatures_c"),
        )
        names = ("vehicle_state", "charging_state", "speed_kmh", "odometer_km", "soc_pct")
        main: dict[str, Any] = {name: vehicle.get(name) for name in (*names, "total_voltage_v", "total_current_a")}
        return RecordView(
            vin=frame.vin,
            reported_at=utc_of_s(frame.reported_at_s),
            received_at=utc_of_ns(frame.arrived_at_ns),
            is_backfill=frame.is_backfill,
            is_time_plausible=frame.is_time_plausible,
            fault=fault,
            **main,
            # 2025 has no extremes; there they are those of the cells.
            cell_voltage_max_v=extremes.get("cell_voltage_max_v", max(cells, default=None)),
            cell_voltage_min_v=extremes.get("cell_voltage_min_v", min(cells, default=None)),
            temperature_max_c=extremes.get("temperature_max_c", max(probes, default=None)),
            temperature_min_c=extremes.get("temperature_min_c", min(probes, default=None)),
            alarm_level=alarms.get("level_max"),
        )


def check_range(since: datetime | None, until: datetime | None) -> None:
    """Refuse a range that is empty.

    Raises:
        InvalidInputError: *until* is not later than *since*.
    """
    if since is not None and until is not None and until <= since:
        raise InvalidInputError("bad-time", "the time range is empty: its end is not later than its beginning")


def _body(values: dict[str, JsonValue], name: str) -> dict[str, JsonValue]:
    found = values.get(name)
    return found if isinstance(found, dict) else {}


def _numbers(values: dict[str, JsonValue], body: str, name: str) -> list[float]:
    subsystems = _body(values, body).get("subsystems")
    lists = [item.get(name) for item in subsystems if isinstance(item, dict)] if isinstance(subsystems, list) else []
    return [each for items in lists if isinstance(items, list) for each in items if isinstance(each, int | float)]


def _gap_s(earlier: datetime, later: datetime) -> int | None:
    span = later - earlier
    return int(span.total_seconds()) if span > timedelta(seconds=GAP_PERIODS * RECORD_PERIOD_S) else None


def _with_gap(view: RecordView, gap_s: int | None) -> RecordView:
    return view if gap_s is None else replace(view, gap_s=gap_s)
