"""REST: OTA tasks, their approval and their vehicles."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query, Response
from fastapi.responses import StreamingResponse
from pydantic import Field

from bmsota_cloud.api.common import Address, ApiIn, ApiOut, By, CountOut, Id, PageOut, Paging
from bmsota_cloud.api.releases import ImageOut
from bmsota_cloud.clock import Clock
from bmsota_cloud.domain.evidence import Source
from bmsota_cloud.domain.ota_tasks import TASK_VEHICLES_MAX, ActKind, TaskStatus, VehicleStatus, task_key
from bmsota_cloud.domain.projects import ApprovalWay
from bmsota_cloud.domain.vehicle_checks import RemarkKind
from bmsota_cloud.services.ota_tasks import TIME_LIMIT_S_DEFAULT
from bmsota_cloud.services.turns import short_turns

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_ota_task_routes"]

_RESULT: dict[int | str, dict[str, Any]] = {200: {"content": {"text/csv": {"schema": {"type": "string"}}}}}


class TaskIn(ApiIn):
    project: str
    reason: str
    software_version: str
    vins: list[str] = Field(max_length=TASK_VEHICLES_MAX)
    auditor: str = Field(default="", description="the only account that may enter the code; a project may require one")
    time_limit_s: int = TIME_LIMIT_S_DEFAULT
    supersede: bool = Field(default=False, description="take vehicles over from older tasks when this one is approved")


class PreviewIn(ApiIn):
    project: str
    software_version: str
    vins: list[str] = Field(max_length=TASK_VEHICLES_MAX)


class TaskEditIn(ApiIn):
    reason: str | None = None
    vins: list[str] | None = Field(default=None, max_length=TASK_VEHICLES_MAX)
    auditor: str | None = None


class CodeIn(ApiIn):
    code: str = Field(max_length=32)


class CancelIn(ApiIn):
    reason: str = ""


class CancelOut(ApiOut):
    too_late: list[str]


class SomeVehiclesIn(ApiIn):
    """Vehicles of a task, by VIN or by status, and why."""

    reason: str
    vins: list[str] = Field(default=[], max_length=TASK_VEHICLES_MAX)
    statuses: list[VehicleStatus] = Field(default=[])


class TaskOut(ApiOut):
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
    approval: ApprovalWay | None
    supersedes: bool


class TaskRowOut(ApiOut):
    task: TaskOut
    counts: dict[str, int]


class NodeVersionOut(ApiOut):
    position: int
    hwid: str
    version: str
    is_signed: bool


class TransitionOut(ApiOut):
    status: VehicleStatus
    at: datetime
    reason: str
    source: Source


class NodeCheckOut(ApiOut):
    position: int
    hwid: str
    version: str
    is_signed: bool
    target_version: str


class RemarkOut(ApiOut):
    kind: RemarkKind
    text: str


class PreviewOut(ApiOut):
    vin: str
    release_name: str
    fault: str
    nodes: list[NodeCheckOut]
    remarks: list[RemarkOut]


class OrderReportOut(ApiOut):
    order_id: str
    received_at: datetime
    outcome: str
    reason: str
    is_late: bool


class UpgradeOut(ApiOut):
    vin: str
    order_id: str
    release_name: str
    status: VehicleStatus
    source: Source
    stage: str
    reason: str
    progress_pct: int
    is_online: bool
    sequence: int
    instructed_at: datetime | None
    instruction_count: int
    confirmed_at: datetime | None
    fetched_at: datetime | None
    heard_at: datetime | None
    last_message_at: datetime | None
    ended_by_report: bool
    can_be_cancelled: bool
    versions_before: list[NodeVersionOut]
    versions_after: list[NodeVersionOut]
    transitions: list[TransitionOut]
    attempt: int
    images: list[ImageOut]
    nodes: list[NodeCheckOut]
    remarks: list[RemarkOut]
    reports: list[OrderReportOut]
    may_end: bool
    may_retry: bool


class CodeOut(ApiOut):
    issued_at: datetime
    expires_at: datetime
    tries_left: int
    is_void: bool


class ActOut(ApiOut):
    kind: ActKind
    who: str
    begun_at: datetime
    count: int


class MailOut(ApiOut):
    recipient: str
    created_at: datetime
    sent_at: datetime | None
    tries: int
    given_up: bool
    error: str


class TaskDetailOut(ApiOut):
    task: TaskOut
    approval: ApprovalWay
    counts: dict[str, int]
    remarks: dict[str, int]
    upgrades: PageOut[UpgradeOut]
    code: CodeOut | None
    act: ActOut | None
    mails: list[MailOut]
    may_approve: bool
    may_cancel: bool
    may_force: bool


def add_ota_task_routes(router: APIRouter, services: "Services", clock: Clock) -> None:
    """Add the routes."""

    @router.get("/tasks", response_model=PageOut[TaskRowOut])
    def tasks(by: By, paging: Paging, project: str = "") -> Any:
        return services.ota_tasks.rows(paging, by=by, project=project)

    @router.post("/tasks", response_model=TaskOut, status_code=201)
    def create(body: TaskIn, by: By, address: Address) -> Any:
        return services.ota_tasks.create(
            project=body.project,
            reason=body.reason,
            software_version=body.software_version,
            vins=body.vins,
            auditor=body.auditor,
            time_limit_s=body.time_limit_s,
            supersede=body.supersede,
            by=by,
            now=clock(),
            address=address,
        )

    @router.post("/tasks/preview", response_model=list[PreviewOut])
    def preview(body: PreviewIn, by: By) -> Any:
        found = services.ota_tasks.preview(
            project=body.project, software_version=body.software_version, vins=body.vins, by=by, now=clock()
        )
        # Megabytes for a fleet: written here, vehicle by vehicle, because FastAPI would do it in one piece in the event loop.
        with short_turns():
            content = f"[{','.join(PreviewOut.model_validate(item).model_dump_json() for item in found)}]"
        return Response(content, media_type="application/json")

    @router.get("/tasks/{task_id}", response_model=TaskDetailOut)
    def task(task_id: Id, by: By, paging: Paging, status: Annotated[list[VehicleStatus], Query()] = []) -> Any:  # noqa: B006 - FastAPI copies it
        return services.ota_tasks.detail(task_id, paging, by=by, statuses=status)

    @router.get("/tasks/{task_id}/result", response_class=StreamingResponse, responses=_RESULT)
    def result(task_id: Id, by: By, address: Address, status: Annotated[list[VehicleStatus], Query()] = []) -> Any:  # noqa: B006 - FastAPI copies it
        """One row a vehicle, as CSV."""
        lines = services.task_results.csv(task_id, statuses=status, by=by, now=clock(), address=address)
        headers = {"Content-Disposition": f'attachment; filename="{task_key(task_id)}.csv"'}
        return StreamingResponse(lines, media_type="text/csv", headers=headers)

    @router.patch("/tasks/{task_id}", response_model=TaskOut)
    def edit(task_id: Id, body: TaskEditIn, by: By, address: Address) -> Any:
        return services.ota_tasks.edit(
            task_id, reason=body.reason, vins=body.vins, auditor=body.auditor, by=by, now=clock(), address=address
        )

    @router.post("/tasks/{task_id}/code", status_code=204)
    def send_new_code(task_id: Id, by: By, address: Address) -> None:
        services.ota_tasks.send_new_code(task_id, by=by, now=clock(), address=address)

    @router.post("/tasks/{task_id}/approve", response_model=TaskOut)
    def approve(task_id: Id, body: CodeIn, by: By, address: Address) -> Any:
        return services.ota_tasks.approve(task_id, code=body.code, by=by, now=clock(), address=address)

    @router.post("/tasks/{task_id}/cancel", response_model=CancelOut)
    def cancel(task_id: Id, body: CancelIn, by: By, address: Address) -> Any:
        too_late = services.ota_tasks.cancel(task_id, reason=body.reason, by=by, now=clock(), address=address)
        return {"too_late": list(too_late)}

    @router.post("/tasks/{task_id}/end", response_model=CountOut)
    def end(task_id: Id, body: SomeVehiclesIn, by: By, address: Address) -> Any:
        count = services.ota_tasks.end(
            task_id,
            reason=body.reason,
            vins=body.vins,
            statuses=body.statuses,
            by=by,
            now=clock(),
            address=address,
        )
        return {"count": count}

    @router.post("/tasks/{task_id}/retry", response_model=CountOut)
    def retry(task_id: Id, body: SomeVehiclesIn, by: By, address: Address) -> Any:
        count = services.ota_tasks.retry(
            task_id,
            reason=body.reason,
            vins=body.vins,
            statuses=body.statuses,
            by=by,
            now=clock(),
            address=address,
        )
        return {"count": count}
