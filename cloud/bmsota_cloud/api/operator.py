"""The operators' REST API below /api/v1: what the pages do, for programs (QA automation, the demo).

A bearer token from `POST /login` says who asks; cookies are never looked at, so there is nothing to forge across sites.
Who may do what is decided in the services; here a refusal becomes a status and `{"error": word, "detail": sentence}`.
Times are ISO 8601 with a zone.
"""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

import base64
import binascii
from collections.abc import Callable, Coroutine, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any, Generic, TypeVar

from fastapi import APIRouter, Depends, File, Query, Request, Response, UploadFile
from fastapi.responses import JSONResponse
from fastapi.routing import APIRoute
from fastapi.security import HTTPAuthorizationCredentials, HTTPBearer
from pydantic import BaseModel, ConfigDict, Field

from bmsota.image import IMAGE_SIZE_BYTES_MAX
from bmsota.ota.manifest import MANIFEST_SIZE_BYTES_MAX
from bmsota_cloud.domain.accounts import ROLE_PERMISSIONS, Account, Permission, Role, require
from bmsota_cloud.domain.errors import (
    CloudError,
    ConflictError,
    InvalidInputError,
    LoginError,
    NotAllowedError,
    NotFoundError,
)
from bmsota_cloud.domain.ota_tasks import TaskStatus, VehicleStatus
from bmsota_cloud.domain.paging import PAGE_SIZE_MAX, Page, PageRequest
from bmsota_cloud.domain.upgrade_history import UpgradeSource
from bmsota_cloud.services.ota_tasks import TASK_VEHICLES_MAX, TIME_LIMIT_S_DEFAULT
from bmsota_cloud.services.releases import RELEASE_FILES_MAX

if TYPE_CHECKING:
    from bmsota_cloud.wiring import Cloud

__all__ = ["STATUSES", "build_router"]

STATUSES: Mapping[type[CloudError], int] = {
    LoginError: 401,
    NotAllowedError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    InvalidInputError: 422,
}


class _Route(APIRoute):
    """Turns refusals of the services into answers, for this API only: pages show them in their own way."""

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handler = super().get_route_handler()

        async def refusing(request: Request) -> Response:
            try:
                return await handler(request)
            except CloudError as refusal:
                status = STATUSES[type(refusal)]
                headers = {"WWW-Authenticate": "Bearer"} if status == 401 else None
                return JSONResponse(
                    {"error": refusal.code, "detail": str(refusal)}, status_code=status, headers=headers
                )

        return refusing


# --- what goes in and out ---------------------------------------------------------------------------------------------


class _Out(BaseModel):
    model_config = ConfigDict(from_attributes=True)


class _In(BaseModel):
    # A misspelt field is an error, not a default.
    model_config = ConfigDict(extra="forbid")


class LoginIn(_In):
    name: str = Field(max_length=64)
    password: str = Field(max_length=1024)


class LoginOut(_Out):
    token: str
    expires_at: datetime


class AccountOut(_Out):
    name: str
    email: str
    role: Role
    permissions: list[str]

    @classmethod
    def of(cls, account: Account) -> "AccountOut":
        permissions = sorted(str(item) for item in ROLE_PERMISSIONS[account.role])
        return cls(name=account.name, email=account.email, role=account.role, permissions=permissions)


class AccountIn(_In):
    name: str
    email: str
    role: Role
    password: str


class PasswordIn(_In):
    old: str
    new: str


class VehicleIn(_In):
    vin: str
    series: str
    project: str
    hwid: str
    device_public_key: str = Field(description="Ed25519, 32 raw bytes in base64")


class VehicleRowOut(_Out):
    vin: str
    hwid: str
    series: str
    project: str
    is_online: bool
    last_seen_at: datetime | None
    soc_pct: float | None
    master_version: str
    slave_versions: list[str]
    slave_count: int


class NodeOut(_Out):
    position: int
    kind: str
    hwid: str
    hardware_class: str
    version: str
    security_counter: int
    serial: str
    state: str
    updated_at: datetime


class EquipmentChangeOut(_Out):
    id: int
    vin: str
    position: int
    old_hwid: str
    new_hwid: str
    changed_at: datetime


class VehicleStateOut(_Out):
    is_online: bool
    last_seen_at: datetime | None
    reported_at: datetime | None
    soc_pct: float | None
    speed_kmh: float | None
    values: dict[str, Any]


class VehicleOut(_Out):
    vin: str
    hwid: str
    series: str
    project: str
    registered_at: datetime
    identified_at: datetime | None
    state: VehicleStateOut
    nodes: list[NodeOut]
    equipment_changes: list[EquipmentChangeOut]


class NodeStepOut(_Out):
    position: int
    hwid: str
    version_before: str
    version_after: str


class HistoryEntryOut(_Out):
    source: UpgradeSource
    at: datetime
    status: VehicleStatus
    reason: str
    nodes: list[NodeStepOut]
    task_id: int | None
    software_version: str
    tool: str
    told_at: datetime | None


class ReportOut(_Out):
    vin: str
    reported_at: datetime
    received_at: datetime
    is_backfill: bool
    values: dict[str, Any]


class ImageOut(_Out):
    kind: str
    hardware_class: str
    version: str
    security_counter: int
    size_bytes: int
    sha256: str


class ReleaseOut(_Out):
    id: int
    name: str
    software_version: str
    series: str
    manifest_sha256: str
    images: list[ImageOut]
    expires_at: datetime
    uploaded_by: str
    uploaded_at: datetime


class TaskIn(_In):
    project: str
    reason: str
    software_version: str
    vins: list[str] = Field(max_length=TASK_VEHICLES_MAX)
    auditor: str
    time_limit_s: int = TIME_LIMIT_S_DEFAULT


class TaskEditIn(_In):
    reason: str | None = None
    vins: list[str] | None = Field(default=None, max_length=TASK_VEHICLES_MAX)


class CodeIn(_In):
    code: str = Field(max_length=32)


class CancelIn(_In):
    reason: str = ""


class CancelOut(_Out):
    too_late: list[str]


class TaskOut(_Out):
    id: int
    project: str
    reason: str
    software_version: str
    creator: str
    auditor: str
    time_limit_s: int
    status: TaskStatus
    created_at: datetime
    approver: str
    approved_at: datetime | None
    finished_at: datetime | None


class TaskRowOut(_Out):
    task: TaskOut
    counts: dict[str, int]


class NodeVersionOut(_Out):
    position: int
    hwid: str
    version: str


class TransitionOut(_Out):
    status: VehicleStatus
    at: datetime
    reason: str


class UpgradeOut(_Out):
    vin: str
    order_id: str
    release_name: str
    status: VehicleStatus
    stage: str
    reason: str
    progress_pct: int
    is_online: bool
    sequence: int
    instructed_at: datetime | None
    instruction_count: int
    confirmed_at: datetime | None
    heard_at: datetime | None
    ended_by_report: bool
    can_be_cancelled: bool
    versions_before: list[NodeVersionOut]
    versions_after: list[NodeVersionOut]
    transitions: list[TransitionOut]


class CodeOut(_Out):
    issued_at: datetime
    expires_at: datetime
    tries_left: int
    is_void: bool


class MailOut(_Out):
    recipient: str
    created_at: datetime
    sent_at: datetime | None
    tries: int
    given_up: bool
    error: str


class UpgradePageOut(_Out):
    items: list[UpgradeOut]
    total: int
    number: int
    size: int


class TaskDetailOut(_Out):
    task: TaskOut
    counts: dict[str, int]
    upgrades: UpgradePageOut
    code: CodeOut | None
    mails: list[MailOut]
    may_approve: bool
    may_cancel: bool


class AuditOut(_Out):
    id: int
    at: datetime
    who: str
    action: str
    subject: str
    outcome: str
    detail: str
    address: str


Item = TypeVar("Item")


class PageOut(BaseModel, Generic[Item]):
    """One page of a list."""

    items: list[Item]
    total: int
    number: int
    size: int


def _page_of(kind: type[Any], page: Page[Any]) -> dict[str, Any]:
    return {
        "items": [kind.model_validate(item) for item in page.items],
        "total": page.total,
        "number": page.number,
        "size": page.size,
    }


# --- who asks, and which page -----------------------------------------------------------------------------------------

_BEARER = HTTPBearer(auto_error=False)
Credentials = Annotated[HTTPAuthorizationCredentials | None, Depends(_BEARER)]


def _token(credentials: Credentials) -> str:
    if credentials is None:
        raise LoginError("no-session", "expected a bearer token, got none: log in first")
    return credentials.credentials


def _account(request: Request, token: Annotated[str, Depends(_token)]) -> Account:
    cloud: Cloud = request.app.state.cloud
    return cloud.services.accounts.who(token, cloud.now())[0]


def _page_request(
    page: Annotated[int, Query(ge=1, le=1_000_000)] = 1,
    size: Annotated[int, Query(ge=1, le=PAGE_SIZE_MAX)] = 50,
) -> PageRequest:
    return PageRequest(page, size)


def _address(request: Request) -> str:
    return "" if request.client is None else request.client.host


Token = Annotated[str, Depends(_token)]
By = Annotated[Account, Depends(_account)]
Paging = Annotated[PageRequest, Depends(_page_request)]
Address = Annotated[str, Depends(_address)]


def build_router(cloud: "Cloud") -> APIRouter:
    """All routes of the REST API."""
    router = APIRouter(prefix="/api/v1", route_class=_Route)
    _add_account_routes(router, cloud)
    _add_vehicle_routes(router, cloud)
    _add_release_routes(router, cloud)
    _add_task_routes(router, cloud)
    return router


def _add_account_routes(router: APIRouter, cloud: "Cloud") -> None:
    services = cloud.services

    @router.post("/login", response_model=LoginOut)
    def log_in(body: LoginIn, address: Address) -> Any:
        return services.accounts.log_in(name=body.name, password=body.password, now=cloud.now(), address=address)

    @router.post("/logout", status_code=204)
    def log_out(token: Token) -> None:
        services.accounts.log_out(token)

    @router.get("/me", response_model=AccountOut)
    def me(by: By) -> Any:
        return AccountOut.of(by)

    @router.post("/me/password", status_code=204)
    def change_password(body: PasswordIn, by: By) -> None:
        services.accounts.change_password(account=by, old=body.old, new=body.new, now=cloud.now())

    @router.get("/accounts", response_model=PageOut[AccountOut])
    def accounts(by: By, paging: Paging) -> Any:
        page = services.accounts.page(paging, by=by)
        items = [AccountOut.of(account) for account in page.items]
        return {"items": items, "total": page.total, "number": page.number, "size": page.size}

    @router.post("/accounts", response_model=AccountOut, status_code=201)
    def create_account(body: AccountIn, by: By) -> Any:
        account = services.accounts.create(
            name=body.name, email=body.email, role=body.role, password=body.password, now=cloud.now(), by=by
        )
        return AccountOut.of(account)

    @router.get("/audit", response_model=PageOut[AuditOut])
    def audit(by: By, paging: Paging, subject: str = "") -> Any:
        return _page_of(AuditOut, services.audit.page(paging, by=by, subject=subject))

    @router.get("/counters")
    def counters(by: By) -> dict[str, int]:
        require(by, Permission.AUDIT_READ)
        return dict(sorted(services.counters.items()))


def _add_vehicle_routes(router: APIRouter, cloud: "Cloud") -> None:
    services = cloud.services

    @router.get("/vehicles", response_model=PageOut[VehicleRowOut])
    def vehicles(by: By, paging: Paging, project: str = "", text: str = "") -> Any:
        return _page_of(VehicleRowOut, services.vehicles.rows(paging, by=by, project=project, text=text))

    @router.post("/vehicles", response_model=VehicleOut, status_code=201)
    def register(body: VehicleIn, by: By) -> Any:
        try:
            key = base64.b64decode(body.device_public_key, validate=True)
        except binascii.Error as error:
            raise InvalidInputError("bad-key", f"expected base64, got {error}") from error
        services.vehicles.register(
            vin=body.vin,
            series=body.series,
            project=body.project,
            hwid=body.hwid,
            device_public_key=key,
            now=cloud.now(),
            by=by,
        )
        return _vehicle(body.vin, by)

    @router.get("/vehicles/{vin}", response_model=VehicleOut)
    def vehicle(vin: str, by: By) -> Any:
        return _vehicle(vin, by)

    def _vehicle(vin: str, by: Account) -> dict[str, Any]:
        detail = services.vehicles.detail(vin, by=by)
        return {
            **{name: getattr(detail.vehicle, name) for name in ("vin", "hwid", "series", "project")},
            "registered_at": detail.vehicle.registered_at,
            "identified_at": detail.vehicle.identified_at,
            "state": detail.state,
            "nodes": detail.nodes,
            "equipment_changes": detail.changes,
        }

    @router.get("/vehicles/{vin}/state", response_model=VehicleStateOut)
    def state(vin: str, by: By) -> Any:
        return services.vehicles.detail(vin, by=by).state

    @router.get("/vehicles/{vin}/reports", response_model=PageOut[ReportOut])
    def reports(vin: str, by: By, paging: Paging, since: datetime | None = None, until: datetime | None = None) -> Any:
        for name, moment in (("since", since), ("until", until)):
            if moment is not None and moment.tzinfo is None:
                raise InvalidInputError("bad-time", f"{name}: expected a time with a zone, got {moment.isoformat()}")
        return _page_of(ReportOut, services.vehicles.reports(vin, paging, by=by, since=since, until=until))

    @router.get("/vehicles/{vin}/upgrade-history", response_model=PageOut[HistoryEntryOut])
    def upgrade_history(vin: str, by: By, paging: Paging) -> Any:
        return _page_of(HistoryEntryOut, services.upgrade_history.page(vin, paging, by=by))

    @router.get("/equipment-changes", response_model=PageOut[EquipmentChangeOut])
    def equipment_changes(by: By, paging: Paging, vin: str = "") -> Any:
        return _page_of(EquipmentChangeOut, services.vehicles.changes(paging, by=by, vin=vin))


def _add_release_routes(router: APIRouter, cloud: "Cloud") -> None:
    services = cloud.services

    @router.get("/releases", response_model=PageOut[ReleaseOut])
    def releases(by: By, paging: Paging) -> Any:
        return _page_of(ReleaseOut, services.releases.page(paging, by=by))

    @router.post("/releases", response_model=ReleaseOut, status_code=201)
    def upload(
        by: By,
        address: Address,
        manifest: Annotated[UploadFile, File(description="the signed release manifest")],
        images: Annotated[list[UploadFile], File(description="every image of it", max_length=RELEASE_FILES_MAX)],
    ) -> Any:
        # Asked before hundreds of megabytes are read.
        require(by, Permission.RELEASE_UPLOAD)
        return services.releases.upload(
            manifest=_read(manifest, MANIFEST_SIZE_BYTES_MAX),
            images=[_read(image, IMAGE_SIZE_BYTES_MAX) for image in images],
            by=by,
            now=cloud.now(),
            address=address,
        )

    @router.get("/releases/{release_id}", response_model=ReleaseOut)
    def release(release_id: int, by: By) -> Any:
        return services.releases.get(release_id, by=by)


def _add_task_routes(router: APIRouter, cloud: "Cloud") -> None:
    services = cloud.services

    @router.get("/tasks", response_model=PageOut[TaskRowOut])
    def tasks(by: By, paging: Paging, project: str = "") -> Any:
        return _page_of(TaskRowOut, services.ota_tasks.rows(paging, by=by, project=project))

    @router.post("/tasks", response_model=TaskOut, status_code=201)
    def create(body: TaskIn, by: By, address: Address) -> Any:
        return services.ota_tasks.create(
            project=body.project,
            reason=body.reason,
            software_version=body.software_version,
            vins=body.vins,
            auditor=body.auditor,
            time_limit_s=body.time_limit_s,
            by=by,
            now=cloud.now(),
            address=address,
        )

    @router.get("/tasks/{task_id}", response_model=TaskDetailOut)
    def task(task_id: int, by: By, paging: Paging) -> Any:
        return services.ota_tasks.detail(task_id, paging, by=by)

    @router.patch("/tasks/{task_id}", response_model=TaskOut)
    def edit(task_id: int, body: TaskEditIn, by: By, address: Address) -> Any:
        return services.ota_tasks.edit(
            task_id, reason=body.reason, vins=body.vins, by=by, now=cloud.now(), address=address
        )

    @router.post("/tasks/{task_id}/code", status_code=204)
    def send_new_code(task_id: int, by: By, address: Address) -> None:
        services.ota_tasks.send_new_code(task_id, by=by, now=cloud.now(), address=address)

    @router.post("/tasks/{task_id}/approve", response_model=TaskOut)
    def approve(task_id: int, body: CodeIn, by: By, address: Address) -> Any:
        return services.ota_tasks.approve(task_id, code=body.code, by=by, now=cloud.now(), address=address)

    @router.post("/tasks/{task_id}/cancel", response_model=CancelOut)
    def cancel(task_id: int, body: CancelIn, by: By, address: Address) -> Any:
        too_late = services.ota_tasks.cancel(task_id, reason=body.reason, by=by, now=cloud.now(), address=address)
        return {"too_late": list(too_late)}


def _read(upload: UploadFile, size_bytes_max: int) -> bytes:
    data = upload.file.read(size_bytes_max + 1)
    if len(data) > size_bytes_max:
        raise InvalidInputError("too-large", f"{upload.filename}: expected at most {size_bytes_max} bytes, got more")
    return data
