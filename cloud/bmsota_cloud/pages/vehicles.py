"""The vehicle list."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.vehicles import VehicleFilter
from bmsota_cloud.pages.site import Query, Site

__all__ = ["add_vehicle_pages"]

_ROWS_A_PAGE = 50
_ONLINE = {"yes": True, "no": False}


def add_vehicle_pages(router: APIRouter, site: Site) -> None:
    """Add the list."""

    @router.get("/vehicles", response_class=HTMLResponse)
    def vehicle_list(
        request: Request,
        project: str = "",
        series: str = "",
        online: Literal["", "yes", "no"] = "",
        q: str = "",
        page: int = 1,
    ) -> HTMLResponse:
        visitor = site.visitor(request)
        by = visitor.account
        asked = VehicleFilter(project=project, series=series, text=q.strip(), is_online=_ONLINE.get(online))
        listing = site.services.vehicles.listing(PageRequest(page, _ROWS_A_PAGE), asked, by=by)
        known = set(site.services.vehicles.series(by=by))
        return site.show_list(
            request,
            "vehicles/list.html",
            visitor,
            section="vehicles",
            listing=listing,
            projects=site.services.vehicles.projects(by=by),
            all_series=sorted(known | ({series} if series else set())),
            query=Query("/vehicles", {"project": project, "series": series, "online": online, "q": q.strip()}),
        )
