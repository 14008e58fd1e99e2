"""Heard but not admitted: what the gateway refused, and from whom."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse

from bmsota_cloud.domain.accounts import Permission
from bmsota_cloud.domain.errors import InvalidInputError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.refusals import CAUSES, RefusalCause
from bmsota_cloud.pages.site import Query, Site
from bmsota_cloud.services import is_vin

__all__ = ["add_refusal_pages"]

_ROWS_A_PAGE = 50
_REGISTERED = {"yes": True, "no": False}


def add_refusal_pages(router: APIRouter, site: Site) -> None:
    """Add the list."""

    @router.get("/refusals", response_class=HTMLResponse)
    def refusals(
        request: Request,
        cause: str = "",
        registered: Literal["", "yes", "no"] = "",
        q: str = "",
        page: int = 1,
    ) -> HTMLResponse:
        visitor = site.visitor(request)
        service = site.services.refusals
        found = service.page(
            PageRequest(page, _ROWS_A_PAGE),
            by=visitor.account,
            text=q.strip(),
            cause=_cause(cause),
            is_registered=_REGISTERED.get(registered),
        )
        return site.show_list(
            request,
            "refusals/list.html",
            visitor,
            section="refusals",
            page=found,
            total=sum(service.totals(by=visitor.account).values()),
            may_register=visitor.account.may(Permission.VEHICLE_REGISTER),
            is_vin=is_vin,
            causes=[(known.value, text.reason) for known, text in CAUSES.items()],
            query=Query("/refusals", {"cause": cause, "registered": registered, "q": q.strip()}),
        )


def _cause(word: str) -> RefusalCause | None:
    if not word:
        return None
    try:
        return RefusalCause(word)
    except ValueError as error:
        raise InvalidInputError("bad-cause", f"no cause {word[:40]!r}") from error
