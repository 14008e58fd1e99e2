"""Projects: what they are and how their tasks are approved, to look at and, for those who may, to set up and change."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.accounts import Permission
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError
from bmsota_cloud.domain.projects import ApprovalWay, Project, ProjectClass
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
        number: Text = "",
        classification: Text = "",
        is_new: Text = "",
        csrf: Text = "",
    ) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        typed = {
            "name": name,
            "audit_mailbox": audit_mailbox,
            "approval": approval,
            "starters": starters,
            "number": number,
            "classification": classification,
            "is_new": is_new,
        }
        try:
            if is_new:
                _expect_new(site, name, visitor)
            site.services.projects.configure(
                name,
                audit_mailbox=audit_mailbox,
                approval=_way(approval),
                starters=[item.strip() for item in starters.split(",") if item.strip()],
                number=number,
                classification=_class(classification),
                by=visitor.account,
                now=site.now(),
                address=site.address(request),
            )
        except (ConflictError, InvalidInputError) as error:
            status_code = 409 if isinstance(error, ConflictError) else 422
            return show(visitor, status_code=status_code, error=error, typed=typed)
        return RedirectResponse(f"/projects?{urlencode({'saved': name})}", 303)

    def show(visitor: Visitor, *, status_code: int = 200, **more: Any) -> HTMLResponse:
        return site.show(
            "projects/list.html",
            visitor,
            status_code=status_code,
            section="projects",
            projects=site.services.projects.all(by=visitor.account),
            classes=tuple(ProjectClass),
            nothing=Project(name=""),
            may_manage=visitor.account.may(Permission.PROJECT_MANAGE),
            **{"saved": "", "error": None, "typed": None, **more},
        )


def _expect_new(site: Site, name: str, visitor: Visitor) -> None:
    if any(project.name == name for project in site.services.projects.all(by=visitor.account)):
        raise ConflictError("project-exists", f"project {name} exists; change it in its own card")


def _class(classification: str) -> ProjectClass | None:
    """None where the form has no such field."""
    if not classification:
        return None
    if classification not in set(ProjectClass):
        classes = ", ".join(repr(str(each)) for each in ProjectClass)
        raise InvalidInputError("bad-class", f"class: expected one of {classes}, got {classification[:40]!r}")
    return ProjectClass(classification)


def _way(approval: str) -> ApprovalWay:
    if approval not in set(ApprovalWay):
        ways = " or ".join(repr(str(way)) for way in ApprovalWay)
        raise InvalidInputError("bad-approval", f"approval: expected {ways}, got {approval[:40]!r}")
    return ApprovalWay(approval)
