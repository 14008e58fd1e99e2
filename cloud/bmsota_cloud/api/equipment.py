"""REST: equipment changes."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter

from bmsota_cloud.api.common import ApiOut, By, PageOut, Paging
from bmsota_cloud.domain.equipment import ChangeStatus

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_equipment_routes"]


class EquipmentChangeOut(ApiOut):
    id: int
    vin: str
    position: int
    old_hwid: str
    new_hwid: str
    changed_at: datetime
    status: ChangeStatus
    decided_at: datetime | None


def add_equipment_routes(router: APIRouter, services: "Services") -> None:
    """Add the routes."""

    @router.get("/equipment-changes", response_model=PageOut[EquipmentChangeOut])
    def equipment_changes(by: By, paging: Paging, vin: str = "") -> Any:
        return services.equipment.page(paging, by=by, vin=vin)
