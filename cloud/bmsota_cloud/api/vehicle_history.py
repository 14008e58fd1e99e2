"""REST: runs, faults, track and configuration of a vehicle."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query

from bmsota_cloud.api.common import ApiOut, By, PageOut, Paging
from bmsota_cloud.api.telemetry import check_times, unix_seconds
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.domain.vehicle_history import FAULT_KINDS, FaultFilter, FaultOrder
from bmsota_cloud.services import RunKind

if TYPE_CHECKING:
    from bmsota_cloud.clock import Clock
    from bmsota_cloud.services import Services

__all__ = ["add_vehicle_history_routes"]


class RunOut(ApiOut):
    kind: str
    is_open: bool
    started_at: datetime
    ended_at: datetime
    duration_s: int
    reports: int
    gap_s: int
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
    current_a_min: float | None


class RunsOut(PageOut[RunOut]):
    last: RunOut | None
    """The newest run, if no report has shown its end yet; not in items and total."""


class FaultOut(ApiOut):
    kind: str
    subject: str
    level: int | None
    is_open: bool
    began_at: datetime
    cleared_at: datetime | None
    duration_s: int | None
    detail: str
    values: dict[str, float]


class TrackPointOut(ApiOut):
    at: datetime
    longitude_deg: float
    latitude_deg: float
    speed_kmh: float | None


class CalibrationValueOut(ApiOut):
    position: int
    parameter: int
    value: str
    revision: int
    since: datetime


class CalibrationChangeOut(ApiOut):
    at: datetime
    position: int
    parameter: int
    before: str | None
    after: str
    revision: int


def add_vehicle_history_routes(router: APIRouter, services: "Services", clock: "Clock") -> None:
    """Add the routes."""
    histories = services.vehicle_histories

    @router.get("/vehicles/{vin}/runs", response_model=RunsOut)
    def runs(
        vin: str,
        by: By,
        paging: Paging,
        since: datetime | None = None,
        until: datetime | None = None,
        kind: RunKind | None = None,
    ) -> Any:
        check_times(since, until)
        return histories.runs(vin, paging, by=by, now=clock(), since=since, until=until, kind=kind)

    @router.get("/vehicles/{vin}/faults", response_model=PageOut[FaultOut])
    def faults(
        vin: str,
        by: By,
        paging: Paging,
        since: datetime | None = None,
        until: datetime | None = None,
        kind: Annotated[list[str] | None, Query()] = None,
        level_min: Annotated[int, Query(ge=0, le=4)] = 0,
        is_open: bool | None = None,
        order: FaultOrder = FaultOrder.TIME,
    ) -> Any:
        check_times(since, until)
        words = kind or [str(each) for each in FAULT_KINDS]
        kinds = tuple(each for each in FAULT_KINDS if str(each) in words)
        for word in words:
            if word not in map(str, FAULT_KINDS):
                raise InvalidInputError("bad-kind", f"kind: expected {', '.join(FAULT_KINDS)}, got {word[:40]!r}")
        asked = FaultFilter(
            since_s=unix_seconds(since),
            until_s=unix_seconds(until),
            kinds=kinds,
            level_min=level_min,
            is_open=is_open,
            order=order,
        )
        return histories.faults(vin, paging, asked, by=by)

    @router.get("/vehicles/{vin}/track", response_model=PageOut[TrackPointOut])
    def track(vin: str, by: By, paging: Paging, since: datetime | None = None, until: datetime | None = None) -> Any:
        check_times(since, until)
        return histories.track(vin, paging, by=by, since=since, until=until)

    @router.get("/vehicles/{vin}/configuration", response_model=list[CalibrationValueOut])
    def configuration(vin: str, by: By) -> Any:
        return histories.configuration(vin, by=by)

    @router.get("/vehicles/{vin}/configuration/changes", response_model=PageOut[CalibrationChangeOut])
    def configuration_changes(vin: str, by: By, paging: Paging) -> Any:
        return histories.configuration_changes(vin, paging, by=by)
