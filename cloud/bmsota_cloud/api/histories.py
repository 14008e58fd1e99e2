"""REST: the upgrade history of a vehicle."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from bmsota_cloud.api.common import ApiOut, By, PageOut, Paging
from bmsota_cloud.domain.histories import UpgradeSource
from bmsota_cloud.domain.ota_tasks import VehicleStatus

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_history_routes"]


class NodeStepOut(ApiOut):
    position: int
    hwid: str
    version_before: str
    version_after: str
    image_before: str
    image_after: str


class HistoryEntryOut(ApiOut):
    source: UpgradeSource
    at: datetime
    status: VehicleStatus
    reason: str
    nodes: list[NodeStepOut]
    task_id: int | None
    software_version: str
    tool: str
    reported_at: datetime | None
    is_confirmed: bool


def add_history_routes(router: APIRouter, services: "Services") -> None:
    """Add the routes."""

    @router.get("/vehicles/{vin}/upgrade-history", response_model=PageOut[HistoryEntryOut])
    def upgrade_history(vin: str, by: By, paging: Paging) -> Any:
        return services.histories.page(vin, paging, by=by)
