"""Projects: how their tasks are approved, to look at and, for those who may, to change."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.accounts import Permission
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.domain.projects import ApprovalWay
from bmsota_cloud.pages.forms import Text
from bmsota_cloud.pages.session import Visitor, check_form
from bmsota_cloud.pages.site import Site

__all__ = ["add_project_pages"]


def add_project_pages(router: APIRouter, site: Site) -> None:
    """Add the route /projects."""

    @router.get("/projects", response_class=HTMLResponse)
    def project_list(request: Request, saved: str = "") -> HTMLResponse:
        return show(site.visitor(request), saved=saved)

    @router.post("/projects", response_class=HTMLResponse)
    def configure(
        request: Request,
        name: Text = "",
        audit_mailbox: Text = "",
        approval: Text = "",
        starters: Text = "",
        csrf: Text = "",
    ) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        typed = {"name": name, "audit_mailbox": audit_mailbox, "approval": approval, "starters": starters}
        try:
            site.services.projects.configure(
                name,
                audit_mailbox=audit_mailbox,
                approval=_way(approval),
                starters=[item.strip() for item in starters.split(",") if item.strip()],
                by=visitor.account,
                now=site.now(),
                address=site.address(request),
            )
        except InvalidInputError as error:
            return show(visitor, status_code=422, error=error, typed=typed)
        return RedirectResponse(f"/projects?{urlencode({'saved': name})}", 303)

    def show(visitor: Visitor, *, status_code: int = 200, **more: Any) -> HTMLResponse:
        return site.show(
            "projects/list.html",
            visitor,
            status_code=status_code,
            section="projects",
            projects=site.services.projects.all(by=visitor.account),
            may_manage=visitor.account.may(Permission.PROJECT_MANAGE),
            **{"saved": "", "error": None, "typed": None, **more},
        )


def _way(approval: str) -> ApprovalWay:
    if approval not in set(ApprovalWay):
        ways = " or ".join(repr(str(way)) for way in ApprovalWay)
        raise InvalidInputError("bad-approval", f"approval: expected {ways}, got {approval[:40]!r}")
    return ApprovalWay(approval)
