"""REST: what the gateway refused."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import Field

from bmsota_cloud.api.common import ApiOut, By, PageOut, Paging
from bmsota_cloud.domain.refusals import CAUSES, Refusal, RefusalCause

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_refusal_routes"]


class RefusalOut(ApiOut):
    id: int
    address: str = Field(description="without the port; an IPv6 address as its /64 network")
    vin: str = Field(description="as claimed; empty if none could be read")
    cause: RefusalCause
    reason: str
    advice: str
    first_at: datetime
    last_at: datetime
    count: int
    head: str = Field(description="the first bytes of the newest, in hexadecimal")
    answered: int | None = Field(description="the reply flag of the newest; null: it was not answered")
    detail: str


class ListedRefusalOut(RefusalOut):
    is_registered: bool


def add_refusal_routes(router: APIRouter, services: "Services") -> None:
    """Add the routes."""

    @router.get("/refusals", response_model=PageOut[ListedRefusalOut])
    def refusals(
        by: By,
        paging: Paging,
        text: str = "",
        cause: RefusalCause | None = None,
        registered: bool | None = None,
    ) -> Any:
        page = services.refusals.page(paging, by=by, text=text, cause=cause, is_registered=registered)
        items = [{**_out(row.refusal), "is_registered": row.is_registered} for row in page.items]
        return {"items": items, "total": page.total, "number": page.number, "size": page.size}

    @router.get("/refusals/totals")
    def totals(by: By) -> dict[str, int]:
        return {cause.value: count for cause, count in sorted(services.refusals.totals(by=by).items())}

    @router.get("/vehicles/{vin}/refusals", response_model=list[RefusalOut])
    def refusals_of_vehicle(vin: str, by: By) -> Any:
        return [_out(refusal) for refusal in services.refusals.of_vehicle(vin, by=by)]


def _out(refusal: Refusal) -> dict[str, Any]:
    text = CAUSES[refusal.cause]
    names = ("id", "address", "vin", "cause", "first_at", "last_at", "count", "answered", "detail")
    return {
        **{name: getattr(refusal, name) for name in names},
        "reason": text.reason,
        "advice": text.advice,
        "head": refusal.head.hex(),
    }
