"""The upgrade history of a vehicle."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.pages.site import Query, Site

__all__ = ["add_history_pages"]

_ROWS_A_PAGE = 50


def add_history_pages(router: APIRouter, site: Site) -> None:
    """Add the upgrade history."""

    @router.get("/vehicles/{vin}/upgrades", response_class=HTMLResponse)
    def upgrades(request: Request, vin: str, page: int = 1) -> HTMLResponse:
        visitor = site.visitor(request)
        return site.show_list(
            request,
            "histories/upgrades.html",
            visitor,
            section="vehicles",
            vin=vin,
            history=site.services.histories.page(vin, PageRequest(page, _ROWS_A_PAGE), by=visitor.account),
            query=Query(f"/vehicles/{vin}/upgrades", {}),
        )
