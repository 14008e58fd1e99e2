"""REST: projects, and how their tasks are approved."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import Field

from bmsota_cloud.api.common import Address, ApiIn, ApiOut, By
from bmsota_cloud.clock import Clock
from bmsota_cloud.domain.projects import STARTERS_MAX, ApprovalWay, ProjectClass

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_project_routes"]


class ProjectOut(ApiOut):
    name: str
    audit_mailbox: str
    approval: ApprovalWay
    starters: list[str]
    changed_at: datetime | None
    changed_by: str
    number: str
    classification: ProjectClass
    vehicle_count: int


class ProjectIn(ApiIn):
    audit_mailbox: str = Field(max_length=254, description='where codes go; "": to the auditor whom a task names')
    approval: ApprovalWay = ApprovalWay.AUDIT_MAILBOX
    starters: list[str] = Field(default=[], max_length=STARTERS_MAX)
    number: str | None = Field(
        default=None, max_length=32, description="as the customer orders by it; none given: as it is"
    )
    classification: ProjectClass | None = None


def add_project_routes(router: APIRouter, services: "Services", clock: Clock) -> None:
    """Add the routes."""

    @router.get("/projects", response_model=list[ProjectOut])
    def projects(by: By) -> Any:
        return services.projects.all(by=by)

    @router.get("/projects/{name}", response_model=ProjectOut)
    def project(name: str, by: By) -> Any:
        return services.projects.get(name, by=by)

    @router.put("/projects/{name}", response_model=ProjectOut)
    def configure(name: str, body: ProjectIn, by: By, address: Address) -> Any:
        services.projects.configure(
            name,
            audit_mailbox=body.audit_mailbox,
            approval=body.approval,
            starters=body.starters,
            number=body.number,
            classification=body.classification,
            by=by,
            now=clock(),
            address=address,
        )
        return services.projects.get(name, by=by)
