"""Browsing the reports of a vehicle, page by page."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from datetime import datetime
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from bmsota_cloud.domain.accounts import Permission
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.pages.site import Query, Site
from bmsota_cloud.pages.times import from_field, offset
from bmsota_cloud.services import GAP_PERIODS, RECORD_PERIOD_S

__all__ = ["add_record_pages", "time_of_field"]

_ROWS_A_PAGE = 50


def add_record_pages(router: APIRouter, site: Site) -> None:
    """Add the table."""

    @router.get("/vehicles/{vin}/export", response_class=HTMLResponse)
    def records(request: Request, vin: str, since: str = "", until: str = "", page: int = 1) -> HTMLResponse:
        visitor = site.visitor(request)
        asked: dict[str, Any] = {
            name: time_of_field(name, text.strip()) for name, text in (("since", since), ("until", until))
        }
        found = site.services.records.page(vin, PageRequest(page, _ROWS_A_PAGE), by=visitor.account, **asked)
        return site.show_list(
            request,
            "telemetry/records.html",
            visitor,
            section="vehicles",
            vin=vin,
            records=found,
            **asked,
            gap_after_s=GAP_PERIODS * RECORD_PERIOD_S,
            may_export=visitor.account.may(Permission.VEHICLE_EXPORT),
            query=Query(f"/vehicles/{vin}/export", {"since": since.strip(), "until": until.strip()}),
        )


def time_of_field(name: str, text: str) -> datetime | None:
    """What stands in a field for date and time.

    Raises:
        InvalidInputError: it is no time.
    """
    try:
        return from_field(text)
    except ValueError as error:
        raise InvalidInputError(
            "bad-time", f"{name}: expected a time as 2026-11-22T08:00 ({offset()}), got {text[:40]!r}"
        ) from error
