"""Customers, for administrators: who there is, and giving them vehicles."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

import re
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.errors import CloudError, ConflictError, InvalidInputError, NotFoundError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.pages.forms import Text
from bmsota_cloud.pages.session import Visitor, check_form
from bmsota_cloud.pages.site import Query, Site

__all__ = ["add_customer_pages"]

_HERE = "/manage/customers"
_ROWS_A_PAGE = 50
_STATUSES: dict[type[CloudError], int] = {InvalidInputError: 422, ConflictError: 409, NotFoundError: 404}
_REFUSALS = (InvalidInputError, ConflictError, NotFoundError)


def add_customer_pages(router: APIRouter, site: Site) -> None:
    """Add the routes below /manage/customers."""

    @router.get(_HERE, response_class=HTMLResponse)
    def customer_list(
        request: Request, page: int = 1, created: str = "", given: int | None = None, to: str = ""
    ) -> HTMLResponse:
        return show(request, site.visitor(request), page=page, created=created, given=given, to=to)

    @router.post(_HERE, response_class=HTMLResponse)
    def create(request: Request, name: Text = "", csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        name = name.strip()
        try:
            site.services.customers.create(name, by=visitor.account, now=site.now(), address=site.address(request))
        except _REFUSALS as error:
            return show(request, visitor, error=error, typed={"new": name})
        return RedirectResponse(f"{_HERE}?{urlencode({'created': name})}", 303)

    @router.post(_HERE + "/vehicles", response_class=HTMLResponse)
    def give(request: Request, customer: Text = "", vins: Text = "", csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        customer = customer.strip()
        asked = [vin for vin in re.split(r"[\s,;]+", vins.upper()) if vin]
        try:
            count = site.services.customers.assign(
                customer, asked, by=visitor.account, now=site.now(), address=site.address(request)
            )
        except _REFUSALS as error:
            return show(request, visitor, error=error, typed={"customer": customer, "vins": vins})
        return RedirectResponse(f"{_HERE}?{urlencode({'given': count, 'to': customer})}", 303)

    def show(
        request: Request,
        visitor: Visitor,
        *,
        page: int = 1,
        error: CloudError | None = None,
        typed: dict[str, str] | None = None,
        **more: Any,
    ) -> HTMLResponse:
        answer = site.show_list(
            request,
            "manage/customers.html",
            visitor,
            section="manage",
            page=site.services.customers.page(PageRequest(page, _ROWS_A_PAGE), by=visitor.account),
            error=error,
            typed={"new": "", "customer": "", "vins": "", **(typed or {})},
            query=Query(_HERE, {}),
            **{"created": "", "given": None, "to": "", **more},
        )
        if error is not None:
            answer.status_code = _STATUSES[type(error)]
        return answer
