"""The audit log, searched by who, action and subject."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.pages.site import Query, Site

__all__ = ["add_audit_pages"]

_HERE = "/manage/audit"
_ROWS_A_PAGE = 50


def add_audit_pages(router: APIRouter, site: Site) -> None:
    """Add the list."""

    @router.get(_HERE, response_class=HTMLResponse)
    def audit(request: Request, who: str = "", action: str = "", q: str = "", page: int = 1) -> HTMLResponse:
        visitor = site.visitor(request)
        asked = {"who": who.strip(), "action": action.strip(), "q": q.strip()}
        found = site.services.audit.page(
            PageRequest(page, _ROWS_A_PAGE),
            by=visitor.account,
            who=asked["who"],
            action=asked["action"],
            text=asked["q"],
        )
        return site.show_list(
            request, "manage/audit.html", visitor, section="manage", page=found, query=Query(_HERE, asked)
        )
