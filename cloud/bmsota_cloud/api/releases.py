"""REST: releases and their upload."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, File, UploadFile

from bmsota.image import IMAGE_SIZE_BYTES_MAX
from bmsota.ota import MANIFEST_SIZE_BYTES_MAX
from bmsota_cloud.api.common import Address, ApiOut, By, Id, PageOut, Paging, needs
from bmsota_cloud.clock import Clock
from bmsota_cloud.domain.accounts import Permission
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.services.releases import RELEASE_FILES_MAX

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_release_routes"]


class ImageOut(ApiOut):
    kind: str
    hardware_class: str
    version: str
    security_counter: int
    size_bytes: int
    sha256: str


class ReleaseOut(ApiOut):
    id: int
    name: str
    software_version: str
    series: str
    manifest_sha256: str
    images: list[ImageOut]
    expires_at: datetime
    uploaded_by: str
    uploaded_at: datetime


def add_release_routes(router: APIRouter, services: "Services", clock: Clock) -> None:
    """Add the routes."""

    @router.get("/releases", response_model=PageOut[ReleaseOut])
    def releases(by: By, paging: Paging) -> Any:
        return services.releases.page(paging, by=by)

    @router.post("/releases", response_model=ReleaseOut, status_code=201)
    @needs(Permission.RELEASE_UPLOAD)
    def upload(
        by: By,
        address: Address,
        manifest: Annotated[UploadFile, File(description="the signed release manifest")],
        images: Annotated[list[UploadFile], File(description="every image of it", max_length=RELEASE_FILES_MAX)],
    ) -> Any:
        return services.releases.upload(
            manifest=_read(manifest, MANIFEST_SIZE_BYTES_MAX),
            images=[_read(image, IMAGE_SIZE_BYTES_MAX) for image in images],
            by=by,
            now=clock(),
            address=address,
        )

    @router.get("/releases/{release_id}", response_model=ReleaseOut)
    def release(release_id: Id, by: By) -> Any:
        return services.releases.get(release_id, by=by)


def _read(upload: UploadFile, size_bytes_max: int) -> bytes:
    data = upload.file.read(size_bytes_max + 1)
    if len(data) > size_bytes_max:
        raise InvalidInputError("too-large", f"{upload.filename}: larger than {size_bytes_max} bytes")
    return data
