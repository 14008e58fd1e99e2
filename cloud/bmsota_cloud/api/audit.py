"""REST: the audit log, and the counters of what was left aside."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query

from bmsota_cloud.api.common import ApiOut, By, PageOut, Paging
from bmsota_cloud.domain.accounts import Permission, require

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_audit_routes"]


class AuditOut(ApiOut):
    id: int
    at: datetime
    who: str
    action: str
    subject: str
    outcome: str
    detail: str
    address: str
    count: int
    last_at: datetime | None


def add_audit_routes(router: APIRouter, services: "Services") -> None:
    """Add the routes."""

    @router.get("/audit", response_model=PageOut[AuditOut])
    def audit(
        by: By,
        paging: Paging,
        subject: Annotated[str, Query(description='what it was done to, whole: "task 17"')] = "",
        who: Annotated[str, Query(description="the name of an account")] = "",
        action: Annotated[
            str, Query(description='"account.create"; or "account" for all that is done to accounts')
        ] = "",
        text: Annotated[str, Query(description="a part of the subject")] = "",
    ) -> Any:
        return services.audit.page(paging, by=by, subject=subject, who=who, action=action, text=text)

    @router.get("/counters")
    def counters(by: By) -> dict[str, int]:
        require(by, Permission.AUDIT_READ)
        return dict(sorted(services.counters.items()))
