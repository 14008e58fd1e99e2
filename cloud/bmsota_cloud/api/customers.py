"""REST: customers, and which vehicles are theirs."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import Field

from bmsota_cloud.api.common import Address, ApiIn, ApiOut, By, CountOut, PageOut, Paging
from bmsota_cloud.clock import Clock
from bmsota_cloud.services.customers import ASSIGNED_MAX

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_customer_routes"]


class CustomerIn(ApiIn):
    name: str


class CustomerOut(ApiOut):
    name: str
    created_at: datetime
    created_by: str
    vehicle_count: int = 0


class CustomerVehiclesIn(ApiIn):
    vins: list[str] = Field(max_length=ASSIGNED_MAX)


def add_customer_routes(router: APIRouter, services: "Services", clock: Clock) -> None:
    """Add the routes."""

    @router.get("/customers", response_model=PageOut[CustomerOut])
    def customers(by: By, paging: Paging) -> Any:
        return services.customers.page(paging, by=by)

    @router.post("/customers", response_model=CustomerOut, status_code=201)
    def create(body: CustomerIn, by: By, address: Address) -> Any:
        return services.customers.create(body.name, by=by, now=clock(), address=address)

    @router.post("/customers/{name}/vehicles", response_model=CountOut)
    def assign(name: str, body: CustomerVehiclesIn, by: By, address: Address) -> Any:
        return {"count": services.customers.assign(name, body.vins, by=by, now=clock(), address=address)}
