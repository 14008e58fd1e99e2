"""One vehicle, for those who manage it: what people know it by, its project, its customer, and its end."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from collections.abc import Callable
from dataclasses import asdict
from typing import Any
from urllib.parse import quote, urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import CloudError, ConflictError, InvalidInputError, NotFoundError
from bmsota_cloud.domain.paging import PAGE_SIZE_MAX, PageRequest
from bmsota_cloud.domain.vehicles import EquipmentData
from bmsota_cloud.pages.forms import Text
from bmsota_cloud.pages.session import Visitor, check_form
from bmsota_cloud.pages.site import Site

__all__ = ["add_manage_vehicle_pages"]

_HERE = "/manage/vehicles"
_STATUSES: dict[type[CloudError], int] = {InvalidInputError: 422, NotFoundError: 422, ConflictError: 409}
_REFUSALS = tuple(_STATUSES)
_DONE = {
    "equipment": "The equipment data were saved.",
    "project": "It was moved.",
    "customer": "Its customer was changed.",
}


def add_manage_vehicle_pages(router: APIRouter, site: Site) -> None:
    """Add the routes below /manage/vehicles/{vin}, and the form that leads there."""
    services = site.services

    @router.get("/manage/vehicle")
    def find(request: Request, vin: str = "") -> RedirectResponse:
        require(site.visitor(request).account, Permission.VEHICLE_REGISTER)
        return RedirectResponse(f"{_HERE}/{quote(vin.strip().upper(), safe='')}" if vin.strip() else _HERE, 303)

    @router.get(_HERE + "/{vin}", response_class=HTMLResponse)
    def vehicle_page(request: Request, vin: str, done: str = "") -> HTMLResponse:
        return show(site.visitor(request), vin, done=_DONE.get(done, ""))

    @router.post(_HERE + "/{vin}/equipment", response_class=HTMLResponse)
    def equipment(
        request: Request,
        vin: str,
        battery_number: Text = "",
        frame_number: Text = "",
        model: Text = "",
        plate: Text = "",
        city: Text = "",
        csrf: Text = "",
    ) -> Response:
        data = EquipmentData(
            battery_number=battery_number.strip(),
            frame_number=frame_number.strip(),
            model=model.strip(),
            plate=plate.strip(),
            city=city.strip(),
        )
        return do(
            request,
            vin,
            csrf,
            "equipment",
            lambda **who: services.vehicles.set_equipment(vin, data, **who),
            typed=asdict(data),
        )

    @router.post(_HERE + "/{vin}/project", response_class=HTMLResponse)
    def move(request: Request, vin: str, project: Text = "", csrf: Text = "") -> Response:
        name = project.strip()
        return do(
            request,
            vin,
            csrf,
            "project",
            lambda **who: services.vehicle_management.move(vin, name, **who),
            typed={"project": name},
        )

    @router.post(_HERE + "/{vin}/customer", response_class=HTMLResponse)
    def customer(request: Request, vin: str, customer: Text = "", csrf: Text = "") -> Response:
        return do(request, vin, csrf, "customer", lambda **who: services.customers.set_customer(vin, customer, **who))

    @router.post(_HERE + "/{vin}/remove", response_class=HTMLResponse)
    def remove(request: Request, vin: str, typed: Text = "", csrf: Text = "") -> Response:
        def act(**who: Any) -> None:
            require(who["by"], Permission.VEHICLE_REMOVE)
            if typed.strip().upper() != vin:
                raise InvalidInputError(
                    "not-confirmed", f"type the VIN to remove it: expected {vin}, got {typed[:40]!r}"
                )
            services.vehicle_management.remove(vin, **who)

        return do(request, vin, csrf, "removed", act)

    def do(
        request: Request,
        vin: str,
        csrf: str,
        done: str,
        act: Callable[..., object],
        typed: dict[str, str] | None = None,
    ) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        try:
            act(by=visitor.account, now=site.now(), address=site.address(request))
        except _REFUSALS as error:
            # A vehicle that is not there is told by its page.
            return show(visitor, vin, error=error, typed=typed)
        if done == "removed":
            return RedirectResponse(f"{_HERE}?{urlencode({'removed': vin})}", 303)
        return RedirectResponse(f"{_HERE}/{quote(vin, safe='')}?{urlencode({'done': done})}", 303)

    def show(
        visitor: Visitor,
        vin: str,
        *,
        error: CloudError | None = None,
        typed: dict[str, str] | None = None,
        done: str = "",
    ) -> HTMLResponse:
        by = visitor.account
        require(by, Permission.VEHICLE_REGISTER)
        detail = services.vehicles.detail(vin, by=by)
        vehicle = detail.vehicle
        names = ("battery_number", "frame_number", "model", "plate", "city", "project", "customer")
        customers = (
            [item.name for item in services.customers.page(PageRequest(1, PAGE_SIZE_MAX), by=by).items]
            if by.may(Permission.CUSTOMER_MANAGE)
            else []
        )
        return site.show(
            "manage/vehicle.html",
            visitor,
            status_code=200 if error is None else _STATUSES[type(error)],
            section="manage",
            vehicle=vehicle,
            is_online=detail.state.is_online,
            typed={name: getattr(vehicle, name) for name in names} | (typed or {}),
            projects=services.vehicles.projects(by=by),
            customers=customers,
            may_remove=by.may(Permission.VEHICLE_REMOVE),
            may_assign=by.may(Permission.CUSTOMER_MANAGE),
            done=done,
            error=error,
        )
