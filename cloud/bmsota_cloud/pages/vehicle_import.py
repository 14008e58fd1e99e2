"""Registering the vehicles of a CSV file."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from typing import Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, File, Request, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.accounts import Permission, require
from bmsota_cloud.domain.errors import CloudError, ConflictError, InvalidInputError
from bmsota_cloud.pages.forms import Text
from bmsota_cloud.pages.session import Visitor, check_form
from bmsota_cloud.pages.site import Site
from bmsota_cloud.services import VehicleEntry
from bmsota_cloud.vehicle_file import VEHICLES_MAX, parse_vehicles

__all__ = ["add_vehicle_import_pages"]

_HERE = "/manage/vehicles"
_STATUSES: dict[type[CloudError], int] = {InvalidInputError: 422, ConflictError: 409}


def add_vehicle_import_pages(router: APIRouter, site: Site) -> None:
    """Add the form /manage/vehicles."""

    @router.get(_HERE, response_class=HTMLResponse)
    def form(request: Request, registered: int | None = None, present: int = 0, changed: int = 0) -> HTMLResponse:
        return show(site.visitor(request), registered=registered, present=present, changed=changed)

    @router.post(_HERE, response_class=HTMLResponse)
    def register(
        request: Request,
        file: Annotated[UploadFile | None, File()] = None,
        project: Text = "",
        csrf: Text = "",
    ) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        require(visitor.account, Permission.VEHICLE_REGISTER)
        project = project.strip()
        try:
            result = site.services.vehicle_import.run(
                _entries(file, project), by=visitor.account, now=site.now(), address=site.address(request)
            )
        except (InvalidInputError, ConflictError) as error:
            return show(visitor, error=error, project=project)
        counts = {"registered": result.registered, "present": result.present, "changed": result.changed}
        return RedirectResponse(f"{_HERE}?{urlencode(counts)}", 303)

    def show(visitor: Visitor, *, error: CloudError | None = None, **more: Any) -> HTMLResponse:
        require(visitor.account, Permission.VEHICLE_REGISTER)
        return site.show(
            "manage/vehicles.html",
            visitor,
            status_code=200 if error is None else _STATUSES[type(error)],
            section="manage",
            error=error,
            projects=site.services.vehicles.projects(by=visitor.account),
            count_max=VEHICLES_MAX,
            **{"registered": None, "present": 0, "changed": 0, "project": "", **more},
        )


def _entries(file: UploadFile | None, project: str) -> list[VehicleEntry]:
    if file is None or not file.filename:
        raise InvalidInputError("no-file", "no file was chosen")
    return parse_vehicles(
        file.file.read(),
        name=file.filename[:64],
        project=project,
        project_hint="name the project of all in the form",
        count_max=VEHICLES_MAX,
    )
