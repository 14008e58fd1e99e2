"""REST: newest values, reports and events of a vehicle."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from bmsota_cloud.api.common import ApiOut, By, PageOut, Paging, Time
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.domain.telemetry import EventKind

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_telemetry_routes", "check_times", "unix_seconds"]


class VehicleSnapshotOut(ApiOut):
    is_online: bool
    last_seen_at: datetime | None
    reported_at: datetime | None
    heard_at: datetime | None
    is_time_plausible: bool
    soc_pct: float | None
    speed_kmh: float | None
    alarm_level: int | None
    values: dict[str, Any]


class ReportOut(ApiOut):
    vin: str
    reported_at: datetime
    received_at: datetime
    is_backfill: bool
    is_time_plausible: bool
    fault: str
    values: dict[str, Any]
    frame: str


class ReportsOut(PageOut[ReportOut]):
    unreadable: Annotated[
        int,
        Field(description="Reports in damaged blocks, met on the way to this page: part of the total, not listed."),
    ]


class RecordOut(ApiOut):
    vin: str
    reported_at: datetime
    received_at: datetime
    is_backfill: bool
    is_time_plausible: bool
    fault: str
    vehicle_state: int | str | None
    charging_state: int | str | None
    speed_kmh: float | str | None
    odometer_km: float | str | None
    soc_pct: float | str | None
    total_voltage_v: float | str | None
    total_current_a: float | str | None
    cell_voltage_max_v: float | str | None
    cell_voltage_min_v: float | str | None
    temperature_max_c: float | str | None
    temperature_min_c: float | str | None
    alarm_level: int | str | None
    gap_s: Annotated[
        int | None,
        Field(description="Seconds without a report before this one, if that is more than three periods of 30 s."),
    ]


class RecordsOut(PageOut[RecordOut]):
    unreadable: int


class EventOut(ApiOut):
    vin: str
    at: datetime
    sequence: int
    kind: str
    subject: str
    value: str
    happened_at: datetime | None
    level: int | None
    detail: str


def add_telemetry_routes(router: APIRouter, services: "Services") -> None:
    """Add the routes."""

    @router.get("/vehicles/{vin}/state", response_model=VehicleSnapshotOut)
    def state(vin: str, by: By) -> Any:
        return services.vehicles.detail(vin, by=by).state

    @router.get("/vehicles/{vin}/reports", response_model=ReportsOut)
    def reports(vin: str, by: By, paging: Paging, since: Time | None = None, until: Time | None = None) -> Any:
        check_times(since, until)
        return services.telemetry.reports(vin, paging, by=by, since=since, until=until)

    @router.get("/vehicles/{vin}/records", response_model=RecordsOut)
    def records(vin: str, by: By, paging: Paging, since: datetime | None = None, until: datetime | None = None) -> Any:
        check_times(since, until)
        return services.records.page(vin, paging, by=by, since=since, until=until)

    @router.get("/vehicles/{vin}/events", response_model=PageOut[EventOut])
    def events(
        vin: str,
        by: By,
        paging: Paging,
        since: Time | None = None,
        until: Time | None = None,
        kind: Annotated[list[str] | None, Query()] = None,
    ) -> Any:
        check_times(since, until)
        return services.telemetry.events(vin, paging, by=by, since=since, until=until, kinds=_kinds(kind or []))


def check_times(since: datetime | None, until: datetime | None) -> None:
    """Refuse times without a zone.

    Raises:
        InvalidInputError: says which.
    """
    for name, moment in (("since", since), ("until", until)):
        if moment is not None and moment.tzinfo is None:
            raise InvalidInputError("bad-time", f"{name}: expected a time with a zone, got {moment.isoformat()}")


def unix_seconds(at: datetime | None) -> int | None:
    """The first whole second that is not before *at*: reports know whole seconds."""
    return None if at is None else -int(-at.timestamp() // 1)


def _kinds(words: list[str]) -> list[EventKind]:
    known = [str(kind) for kind in EventKind if kind is not EventKind.CHECKPOINT]
    for word in words:
        if word not in known:
            raise InvalidInputError("bad-kind", f"kind: expected {', '.join(known)}, got {word[:40]!r}")
    return [EventKind(word) for word in words]
