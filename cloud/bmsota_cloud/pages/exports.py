"""Exports: the list, the form, and the files."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Path, Request
from fastapi.responses import FileResponse, HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import CloudError, ConflictError, InvalidInputError
from bmsota_cloud.domain.exports import ExportFormat
from bmsota_cloud.domain.paging import ID_MAX, PageRequest
from bmsota_cloud.domain.vehicles import VehicleFilter
from bmsota_cloud.pages.forms import Text
from bmsota_cloud.pages.records import time_of_field
from bmsota_cloud.pages.session import Visitor, check_form
from bmsota_cloud.pages.site import Query, Site
from bmsota_cloud.pages.times import to_field
from bmsota_cloud.services import XLSX_REPORTS_MAX, XLSX_VEHICLES_MAX

__all__ = ["add_export_pages"]

_HERE = "/exports"
_ROWS_A_PAGE = 50
_ONLINE = {"yes": True, "no": False}
_STATUSES: dict[type[CloudError], int] = {InvalidInputError: 422, ConflictError: 409}
Id = Annotated[int, Path(ge=1, le=ID_MAX)]


def check_typed(typed: Mapping[str, str]) -> None:
    """Refuse a form that lacks something.

    Raises:
        InvalidInputError: says what.
    """
    if not typed["since"].strip() or not typed["until"].strip():
        raise InvalidInputError("bad-time", "enter both times of the range")
    if typed["format"] not in list(ExportFormat):
        raise InvalidInputError(
            "bad-format", f"format: expected {', '.join(ExportFormat)}, got {typed['format'][:20]!r}"
        )


def add_export_pages(router: APIRouter, site: Site) -> None:
    """Add what is below /exports."""

    @router.get(_HERE, response_class=HTMLResponse)
    def exports(
        request: Request,
        project: str = "",
        series: str = "",
        online: Literal["", "yes", "no"] = "",
        q: str = "",
        page: int = 1,
    ) -> HTMLResponse:
        visitor = site.visitor(request)
        now = site.now()
        typed = {
            "project": project,
            "series": series,
            "online": online,
            "q": q.strip(),
            "format": str(ExportFormat.CSV),
            "since": to_field(now - timedelta(days=1))[:16],
            "until": to_field(now)[:16],
        }
        return show(request, visitor, typed, page=page)

    @router.post(_HERE, response_class=HTMLResponse)
    def create(
        request: Request,
        project: Text = "",
        series: Text = "",
        online: Text = "",
        q: Text = "",
        format: Text = "",  # noqa: A002 - the name of the field
        since: Text = "",
        until: Text = "",
        csrf: Text = "",
    ) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        require(visitor.account, Permission.VEHICLE_EXPORT)
        typed = {
            "project": project.strip(),
            "series": series.strip(),
            "online": online,
            "q": q.strip(),
            "format": format,
            "since": since.strip(),
            "until": until.strip(),
        }
        try:
            check_typed(typed)
            times = {name: time_of_field(name, typed[name]) for name in ("since", "until")}
            begin, end = times["since"], times["until"]
            assert begin is not None  # checked above
            assert end is not None
            site.services.exports.create(
                VehicleFilter(
                    project=typed["project"],
                    series=typed["series"],
                    text=typed["q"],
                    is_online=_ONLINE.get(online),
                ),
                kind=ExportFormat(format),
                since=begin,
                until=end,
                by=visitor.account,
                now=site.now(),
                address=site.address(request),
            )
        except (InvalidInputError, ConflictError) as error:
            return show(request, visitor, typed, error=error)
        return RedirectResponse(_HERE, 303)

    @router.post("/exports/{export_id}/delete")
    def delete(request: Request, export_id: Id, csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        site.services.exports.delete(export_id, by=visitor.account, now=site.now(), address=site.address(request))
        return RedirectResponse(_HERE, 303)

    @router.get("/exports/{export_id}/file", response_class=FileResponse)
    def file(request: Request, export_id: Id) -> FileResponse:
        visitor = site.visitor(request)
        job, path = site.services.exports.file(
            export_id, by=visitor.account, now=site.now(), address=site.address(request)
        )
        return FileResponse(
            path,
            media_type="application/octet-stream",
            filename=job.file_name,
            headers={"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff"},
        )

    def show(
        request: Request,
        visitor: Visitor,
        typed: dict[str, str],
        *,
        page: int = 1,
        error: CloudError | None = None,
    ) -> HTMLResponse:
        by = visitor.account
        found = site.services.exports.page(PageRequest(page, _ROWS_A_PAGE), by=by)
        series = set(site.services.vehicles.series(by=by)) | ({typed["series"]} if typed["series"] else set())
        more: dict[str, Any] = {
            "section": "exports",
            "exports": found,
            "typed": typed,
            "error": error,
            "projects": site.services.vehicles.projects(by=by),
            "all_series": sorted(series),
            "matching": site.services.vehicles.listing(
                PageRequest(1, 1),
                VehicleFilter(
                    project=typed["project"],
                    series=typed["series"],
                    text=typed["q"],
                    is_online=_ONLINE.get(typed["online"]),
                ),
                by=by,
            ).page.total,
            "xlsx_reports_max": XLSX_REPORTS_MAX,
            "xlsx_vehicles_max": XLSX_VEHICLES_MAX,
            "keep_days": site.settings.export_keep_s / 86_400,
            "is_working": any(job.is_unfinished for job in found.items),
            "query": Query(_HERE, {}),
        }
        if error is not None:
            return site.show("exports.html", visitor, status_code=_STATUSES[type(error)], **more)
        return site.show_list(request, "exports.html", visitor, **more)
