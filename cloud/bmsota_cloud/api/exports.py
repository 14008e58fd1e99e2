"""REST: exports of the reports of many vehicles."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from fastapi.responses import FileResponse
from pydantic import Field

from bmsota_cloud.api.common import Address, ApiIn, ApiOut, By, Id, PageOut, Paging, Time
from bmsota_cloud.api.telemetry import check_times
from bmsota_cloud.domain.exports import ExportFormat, ExportStatus
from bmsota_cloud.domain.vehicles import VehicleFilter

if TYPE_CHECKING:
    from bmsota_cloud.clock import Clock
    from bmsota_cloud.services import Services

__all__ = ["add_export_routes"]


class ExportIn(ApiIn):
    format: ExportFormat
    since: Time = Field(description="by the vehicles' clocks; included")
    until: Time = Field(description="not included")
    project: str = Field(default="", max_length=64, description="this and what follows: as in GET /vehicles")
    series: str = Field(default="", max_length=32)
    text: str = Field(default="", max_length=64)
    online: bool | None = None


class ExportOut(ApiOut):
    id: int
    owner: str
    created_at: datetime
    format: ExportFormat
    project: str
    series: str
    text: str
    is_online: bool | None
    since: datetime
    until: datetime
    status: ExportStatus
    vehicles: int
    vehicles_done: int
    reports: int
    unreadable: int = Field(description="reports of which nothing could be read; their rows say why")
    size_bytes: int
    reason: str = Field(description="why it failed, or who cancelled or deleted it")
    ended_at: datetime | None


def add_export_routes(router: APIRouter, services: "Services", clock: "Clock") -> None:
    """Add the routes."""

    @router.get("/exports", response_model=PageOut[ExportOut])
    def exports(by: By, paging: Paging) -> Any:
        return services.exports.page(paging, by=by)

    @router.post("/exports", response_model=ExportOut, status_code=202)
    def create(body: ExportIn, by: By, address: Address) -> Any:
        check_times(body.since, body.until)
        return services.exports.create(
            VehicleFilter(project=body.project, series=body.series, text=body.text, is_online=body.online),
            kind=body.format,
            since=body.since,
            until=body.until,
            by=by,
            now=clock(),
            address=address,
        )

    @router.get("/exports/{export_id}", response_model=ExportOut)
    def export(export_id: Id, by: By) -> Any:
        return services.exports.get(export_id, by=by)

    @router.delete("/exports/{export_id}", response_model=ExportOut)
    def delete(export_id: Id, by: By, address: Address) -> Any:
        return services.exports.delete(export_id, by=by, now=clock(), address=address)

    @router.get(
        "/exports/{export_id}/file",
        response_class=FileResponse,
        responses={
            200: {"content": {"application/octet-stream": {}}},
            206: {"description": "a part, for a Range header"},
        },
    )
    def file(export_id: Id, by: By, address: Address) -> FileResponse:
        job, path = services.exports.file(export_id, by=by, now=clock(), address=address)
        return FileResponse(path, media_type="application/octet-stream", filename=job.file_name)
