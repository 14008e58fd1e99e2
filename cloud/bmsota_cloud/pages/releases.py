"""The releases that tasks can bring: what is in each, who runs it, and the upload of another one."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from typing import Annotated
from urllib.parse import urlencode

from fastapi import APIRouter, File, Request, UploadFile
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota.image import IMAGE_SIZE_BYTES_MAX
from bmsota.ota import MANIFEST_SIZE_BYTES_MAX
from bmsota_cloud.domain.accounts import Permission
from bmsota_cloud.domain.errors import CloudError, ConflictError, InvalidInputError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.pages.forms import Text, needs
from bmsota_cloud.pages.session import Visitor, check_form
from bmsota_cloud.pages.site import Query, Site
from bmsota_cloud.services import RELEASE_FILES_MAX

__all__ = ["add_release_pages"]

_HERE = "/releases"
_ROWS_A_PAGE = 20
_STATUSES: dict[type[CloudError], int] = {InvalidInputError: 422, ConflictError: 409}


def add_release_pages(router: APIRouter, site: Site) -> None:
    """Add the route /releases."""

    @router.get(_HERE, response_class=HTMLResponse)
    def releases(request: Request, page: int = 1, uploaded: int = 0, series: str = "") -> HTMLResponse:
        return show(request, site.visitor(request), page=page, uploaded=uploaded, series=series)

    @router.post(_HERE, response_class=HTMLResponse)
    @needs(Permission.RELEASE_UPLOAD)
    def upload(
        request: Request,
        manifest: Annotated[UploadFile | None, File()] = None,
        images: Annotated[list[UploadFile], File(max_length=RELEASE_FILES_MAX)] = [],  # noqa: B006 - FastAPI copies it
        csrf: Text = "",
    ) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        try:
            chosen = [image for image in images if image.filename]
            release = site.services.releases.upload(
                manifest=_read_manifest(manifest),
                images=[_read(image, IMAGE_SIZE_BYTES_MAX) for image in chosen],
                by=visitor.account,
                now=site.now(),
                address=site.address(request),
            )
        except (InvalidInputError, ConflictError) as error:
            return show(request, visitor, error=error)
        return RedirectResponse(f"{_HERE}?{urlencode({'uploaded': release.id})}", 303)

    def show(
        request: Request,
        visitor: Visitor,
        *,
        page: int = 1,
        uploaded: int = 0,
        series: str = "",
        error: CloudError | None = None,
    ) -> HTMLResponse:
        by = visitor.account
        answer = site.show_list(
            request,
            "releases/list.html",
            visitor,
            section="releases",
            rows=site.services.releases.rows(PageRequest(page, _ROWS_A_PAGE), by=by, series=series),
            all_series=site.services.releases.series(by=by),
            query=Query(_HERE, {"series": series}),
            uploaded=uploaded,
            may_upload=by.may(Permission.RELEASE_UPLOAD),
            may_create=by.may(Permission.OTA_CREATE),
            upload_size_bytes_max=site.settings.upload_size_bytes_max,
            error=error,
        )
        answer.status_code = 200 if error is None else _STATUSES[type(error)]
        return answer


def _read_manifest(upload: UploadFile | None) -> bytes:
    if upload is None or not upload.filename:
        raise InvalidInputError("no-file", "no manifest was chosen")
    return _read(upload, MANIFEST_SIZE_BYTES_MAX)


def _read(upload: UploadFile, size_bytes_max: int) -> bytes:
    data = upload.file.read(size_bytes_max + 1)
    if len(data) > size_bytes_max:
        name = (upload.filename or "file")[:64]
        raise InvalidInputError("too-large", f"{name}: larger than {size_bytes_max} bytes")
    return data
