"""The vehicle list.

The service filters by project and text in the database. Until it also filters by series and connection, `list_vehicles`
reads its rows in order and keeps those that fit. That is bounded: a fleet beyond the bound is filtered only as far as it
was read, and the page says so.
"""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from dataclasses import dataclass
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from bmsota_cloud.domain.accounts import Account
from bmsota_cloud.domain.paging import PAGE_SIZE_MAX, Page, PageRequest
from bmsota_cloud.pages.site import Query, Site
from bmsota_cloud.services import VehicleRow, VehicleService

__all__ = ["Listing", "add_vehicle_pages", "list_vehicles"]

_ROWS_A_PAGE = 50
_ONLINE = {"yes": True, "no": False}

# About half a second of reading; a page that takes longer is worse than one that says how far it got.
SCAN_ROWS_MAX = 2000


@dataclass(frozen=True, slots=True, kw_only=True)
class Listing:
    """A page of the list."""

    page: Page[VehicleRow]
    scanned_max: int = 0
    """Not 0: only so many vehicles were looked at, there are more."""


def list_vehicles(
    service: VehicleService,
    request: PageRequest,
    *,
    by: Account,
    project: str,
    text: str,
    series: str,
    is_online: bool | None,
) -> Listing:
    """The vehicles that pass all filters; None as *is_online* lets both pass."""
    if not series and is_online is None:
        return Listing(page=service.rows(request, by=by, project=project, text=text))
    found: list[VehicleRow] = []
    scanned = 0
    number = 1
    total = 1
    while scanned < min(total, SCAN_ROWS_MAX):
        # The service's text also looks at the series, so it narrows the reading where no other text is asked for.
        page = service.rows(PageRequest(number, PAGE_SIZE_MAX), by=by, project=project, text=text or series)
        found.extend(
            row
            for row in page.items
            if (not series or row.series == series) and (is_online is None or row.is_online is is_online)
        )
        scanned += PAGE_SIZE_MAX
        number += 1
        total = page.total
    items = tuple(found[request.offset : request.offset + request.size])
    return Listing(
        page=Page(items=items, total=len(found), number=request.number, size=request.size),
        scanned_max=SCAN_ROWS_MAX if total > SCAN_ROWS_MAX else 0,
    )


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
        listing = list_vehicles(
            site.services.vehicles,
            PageRequest(page, _ROWS_A_PAGE),
            by=by,
            project=project,
            text=q.strip(),
            series=series,
            is_online=_ONLINE.get(online),
        )
        # Series have no list of their own; those that can be updated and those just seen are the ones asked for.
        releases = site.services.releases.page(PageRequest(1, PAGE_SIZE_MAX), by=by)
        known = {release.series for release in releases.items} | {row.series for row in listing.page.items}
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
