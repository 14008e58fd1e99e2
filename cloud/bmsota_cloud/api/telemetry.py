"""REST: newest values and reports of a vehicle."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from bmsota_cloud.api.common import ApiOut, By, PageOut, Paging
from bmsota_cloud.domain.errors import InvalidInputError

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_telemetry_routes"]


class VehicleSnapshotOut(ApiOut):
    is_online: bool
    last_seen_at: datetime | None
    reported_at: datetime | None
    soc_pct: float | None
    speed_kmh: float | None
    values: dict[str, Any]


class ReportOut(ApiOut):
    vin: str
    reported_at: datetime
    received_at: datetime
    is_backfill: bool
    values: dict[str, Any]


def add_telemetry_routes(router: APIRouter, services: "Services") -> None:
    """Add the routes."""

    @router.get("/vehicles/{vin}/state", response_model=VehicleSnapshotOut)
    def state(vin: str, by: By) -> Any:
        return services.vehicles.detail(vin, by=by).state

    @router.get("/vehicles/{vin}/reports", response_model=PageOut[ReportOut])
    def reports(vin: str, by: By, paging: Paging, since: datetime | None = None, until: datetime | None = None) -> Any:
        for name, moment in (("since", since), ("until", until)):
            if moment is not None and moment.tzinfo is None:
                raise InvalidInputError("bad-time", f"{name}: expected a time with a zone, got {moment.isoformat()}")
        return services.telemetry.reports(vin, paging, by=by, since=since, until=until)
