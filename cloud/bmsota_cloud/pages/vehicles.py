"""The vehicle list, and the registration of a terminal that is only monitored."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from dataclasses import asdict, fields
from typing import Any, Literal
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import CloudError, ConflictError, InvalidInputError, NotFoundError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.vehicles import EquipmentData, VehicleFilter
from bmsota_cloud.pages.forms import Text
from bmsota_cloud.pages.session import Visitor, check_form
from bmsota_cloud.pages.site import Query, Site

__all__ = ["add_vehicle_pages"]

_ROWS_A_PAGE = 50
_STATUSES: dict[type[CloudError], int] = {InvalidInputError: 422, ConflictError: 409, NotFoundError: 404}
_EMPTY = dict.fromkeys(("vin", "project", "series", "hwid", *(each.name for each in fields(EquipmentData))), "")
_ONLINE = {"yes": True, "no": False}


def add_vehicle_pages(router: APIRouter, site: Site) -> None:
    """Add the list, and the form below /vehicles/register."""

    @router.get("/vehicles", response_class=HTMLResponse)
    def vehicle_list(
        request: Request,
        project: str = "",
        series: str = "",
        online: Literal["", "yes", "no"] = "",
        q: str = "",
        page: int = 1,
        registered: str = "",
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
            registered=registered,
            may_register=by.may(Permission.VEHICLE_REGISTER),
            all_series=sorted(known | ({series} if series else set())),
            query=Query("/vehicles", {"project": project, "series": series, "online": online, "q": q.strip()}),
        )

    @router.get("/vehicles/register", response_class=HTMLResponse)
    def registration(request: Request, vin: str = "") -> HTMLResponse:
        return show_form(site.visitor(request), {**_EMPTY, "vin": vin[:17]})

    @router.post("/vehicles/register", response_class=HTMLResponse)
    def register(
        request: Request,
        vin: Text = "",
        project: Text = "",
        series: Text = "",
        hwid: Text = "",
        battery_number: Text = "",
        frame_number: Text = "",
        model: Text = "",
        plate: Text = "",
        city: Text = "",
        csrf: Text = "",
    ) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        equipment = EquipmentData(
            battery_number=battery_number.strip(),
            frame_number=frame_number.strip(),
            model=model.strip(),
            plate=plate.strip(),
            city=city.strip(),
        )
        typed = {
            "vin": vin.strip().upper(),
            "project": project.strip(),
            "series": series.strip(),
            "hwid": hwid.strip(),
            **asdict(equipment),
        }
        try:
            site.services.vehicles.register(
                vin=typed["vin"],
                project=typed["project"],
                series=typed["series"],
                hwid=typed["hwid"],
                equipment=equipment,
                by=visitor.account,
                now=site.now(),
            )
        except (InvalidInputError, ConflictError, NotFoundError) as error:
            return show_form(visitor, typed, status_code=_STATUSES[type(error)], error=error)
        return RedirectResponse(f"/vehicles?{urlencode({'q': typed['vin'], 'registered': typed['vin']})}", 303)

    def show_form(
        visitor: Visitor, typed: dict[str, str], *, status_code: int = 200, error: Any = None
    ) -> HTMLResponse:
        require(visitor.account, Permission.VEHICLE_REGISTER)
        return site.show(
            "vehicles/register.html",
            visitor,
            status_code=status_code,
            section="vehicles",
            typed=typed,
            error=error,
            projects=site.services.vehicles.projects(by=visitor.account),
            all_series=site.services.vehicles.series(by=visitor.account),
        )
