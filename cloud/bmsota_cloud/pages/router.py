"""All routes of the pages, and how a refusal becomes a page."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

import json
from collections.abc import Callable, Coroutine
from http import HTTPStatus
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Request
from fastapi.concurrency import run_in_threadpool
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, JSONResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from starlette.exceptions import HTTPException
from starlette.routing import BaseRoute, Match
from starlette.staticfiles import StaticFiles

from bmsota_cloud.domain.accounts import require
from bmsota_cloud.domain.errors import (
    CloudError,
    ConflictError,
    InvalidInputError,
    LoginError,
    NotAllowedError,
    NotFoundError,
    OverloadedError,
    RateLimitedError,
    StorageUnavailableError,
)
from bmsota_cloud.domain.texts import check_address
from bmsota_cloud.pages.accounts import add_account_pages
from bmsota_cloud.pages.audit import add_audit_pages
from bmsota_cloud.pages.customers import add_customer_pages
from bmsota_cloud.pages.exports import add_export_pages
from bmsota_cloud.pages.forms import needed_permission
from bmsota_cloud.pages.histories import add_history_pages
from bmsota_cloud.pages.manage_accounts import add_manage_account_pages
from bmsota_cloud.pages.manage_vehicle import add_manage_vehicle_pages
from bmsota_cloud.pages.ota_tasks import add_ota_task_pages
from bmsota_cloud.pages.overview import add_overview_pages
from bmsota_cloud.pages.own_account import add_own_account_pages
from bmsota_cloud.pages.projects import add_project_pages
from bmsota_cloud.pages.records import add_record_pages
from bmsota_cloud.pages.refusals import add_refusal_pages
from bmsota_cloud.pages.releases import add_release_pages
from bmsota_cloud.pages.session import Visitor, with_retry_after
from bmsota_cloud.pages.site import Site
from bmsota_cloud.pages.task_form import add_task_form_pages
from bmsota_cloud.pages.telemetry import add_telemetry_pages
from bmsota_cloud.pages.vehicle_history import add_vehicle_history_pages
from bmsota_cloud.pages.vehicle_import import add_vehicle_import_pages
from bmsota_cloud.pages.vehicles import add_vehicle_pages

if TYPE_CHECKING:
    from os import PathLike

    from starlette.types import Scope

    from bmsota_cloud.clock import Clock
    from bmsota_cloud.services import PlatformSettings, Services

__all__ = ["add_error_pages", "build_router", "mount_static"]

_STATUS: dict[type[CloudError], int] = {
    NotAllowedError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    InvalidInputError: 422,
    RateLimitedError: 429,
    OverloadedError: 503,
    StorageUnavailableError: 503,
}
# The one form that is there for strangers.
_LOGIN_PATH = "/login"
# What is said of an address without a route: title, word for programs, sentence.
_UNROUTED = {
    404: ("Not found", "no-such-address", "There is nothing at {address}."),
    405: ("Not possible", "wrong-method", "{address} cannot be asked with {method}."),
}
_METHODS = ("DELETE", "GET", "HEAD", "OPTIONS", "PATCH", "POST", "PUT")
# Wrong fields that are named in one answer.
_WRONG_NAMED_MAX = 5
_WRONG_LENGTH_MAX = 300
_TITLES = {
    403: "Not allowed",
    404: "Not found",
    409: "Not possible now",
    422: "Invalid request",
    429: "Too many tries",
    503: "Not available now",
}


def build_router(services: "Services", settings: "PlatformSettings", clock: "Clock") -> APIRouter:
    """All page routes and WebSockets; to be included without a prefix."""
    site = Site(services, settings, clock)
    router = APIRouter(route_class=_route_class(site), include_in_schema=False)
    add_account_pages(router, site)
    add_overview_pages(router, site)
    add_vehicle_pages(router, site)
    add_telemetry_pages(router, site)
    add_history_pages(router, site)
    add_export_pages(router, site)
    add_record_pages(router, site)
    add_vehicle_history_pages(router, site)
    # Before the pages of one task: "new" is no number.
    add_task_form_pages(router, site)
    add_ota_task_pages(router, site)
    add_release_pages(router, site)
    add_project_pages(router, site)
    add_refusal_pages(router, site)
    add_own_account_pages(router, site)
    add_manage_account_pages(router, site)
    add_customer_pages(router, site)
    add_audit_pages(router, site)
    add_vehicle_import_pages(router, site)
    add_manage_vehicle_pages(router, site)
    return router


def add_error_pages(app: FastAPI, services: "Services", settings: "PlatformSettings", clock: "Clock") -> None:
    """Answer what no route answers, and what fails inside: with a page for browsers, with JSON for programs."""
    site = Site(services, settings, clock)

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        title, code, text = _UNROUTED.get(error.status_code, ("Refused", "refused", str(error.detail)))
        text = text.format(address=request.url.path[:200], method=request.method)
        headers = dict(error.headers or {})
        if error.status_code == HTTPStatus.METHOD_NOT_ALLOWED:
            headers["Allow"] = ", ".join(_methods(request))
        if not _wants_page(request):
            return JSONResponse({"error": code, "detail": text}, error.status_code, headers=headers)
        page = await run_in_threadpool(_explain, site, request, error.status_code, text, title=title)
        page.headers.update(headers)
        return page

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        del request
        # In ASCII: the name of a field that came may hold half of a surrogate pair.
        content = json.dumps({"error": "invalid-request", "detail": _validation_text(error)})
        return Response(content, 422, media_type="application/json")

    @app.exception_handler(Exception)
    async def failed(request: Request, error: Exception) -> Response:
        # The error itself goes to the log, and nowhere else.
        del error
        text = "The platform failed to answer this request. Its log says why."
        if not _wants_page(request):
            return JSONResponse({"error": "internal", "detail": text}, 500)
        return _show_refusal(site, None, 500, text, title="Internal error")


def _methods(request: Request) -> list[str]:
    """All that the address can be asked with (RFC 9110, section 10.2.1); a route knows only its own method."""
    routes: list[BaseRoute] = request.app.routes

    def is_routed(method: str) -> bool:
        scope = {**request.scope, "method": method}
        return any(route.matches(scope)[0] is Match.FULL for route in routes)

    return [method for method in _METHODS if is_routed(method)]


def _validation_text(error: RequestValidationError) -> str:
    """Which fields of a request are wrong, and why: "body.vins.3: Input should be a valid string"."""
    wrong = error.errors()
    named = [f"{'.'.join(str(part) for part in each['loc'])}: {each['msg']}"[:_WRONG_LENGTH_MAX] for each in wrong]
    more = f" and {len(wrong) - _WRONG_NAMED_MAX} more" if len(wrong) > _WRONG_NAMED_MAX else ""
    return "; ".join(named[:_WRONG_NAMED_MAX]) + more


def _wants_page(request: Request) -> bool:
    is_for_programs = request.url.path.startswith(("/api/", "/device/", "/healthz", "/metrics"))
    return not is_for_programs and "text/html" in request.headers.get("accept", "")


def mount_static(app: FastAPI) -> None:
    """Serve our style sheet and scripts, which lie in this package, below /static."""
    app.mount("/static", _Static(directory=Path(__file__).parent / "static"), name="static")


class _Static(StaticFiles):
    """Files that a browser may keep, but asks about each time: after an update no page mixes old and new ones."""

    def file_response(
        self,
        full_path: "str | PathLike[str]",
        stat_result: Any,
        scope: "Scope",
        status_code: int = 200,
    ) -> Response:
        response = super().file_response(full_path, stat_result, scope, status_code)
        response.headers["Cache-Control"] = "no-cache"
        response.headers["X-Content-Type-Options"] = "nosniff"
        return response


def _route_class(site: Site) -> type[APIRoute]:
    """Routes that answer a refusal with a page, and send a visitor without a session to the login."""

    class PageRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()
            permission = needed_permission(self.endpoint)

            async def handle_or_explain(request: Request) -> Response:
                try:
                    check_address(request.scope["path"], request.scope["query_string"])
                    if request.method == "POST" and request.url.path != _LOGIN_PATH:
                        # Before the form is read: of a stranger nothing is.
                        visitor = await run_in_threadpool(site.visitor, request)
                        if permission is not None:
                            require(visitor.account, permission)
                    return await handle(request)
                except LoginError:
                    return _to_login(request)
                except StorageUnavailableError as error:
                    # Who asks stands in the database as well.
                    answer = _show_refusal(site, None, 503, str(error))
                    answer.headers["Retry-After"] = str(error.retry_after_s)
                    return answer
                except CloudError as error:
                    status_code = _STATUS.get(type(error), 400)
                    answer = await run_in_threadpool(_explain, site, request, status_code, str(error))
                    return with_retry_after(answer, error)
                except RequestValidationError as error:
                    return await run_in_threadpool(_explain, site, request, 422, _validation_text(error))

            return handle_or_explain

    return PageRoute


def _to_login(request: Request) -> Response:
    """The login leads back to the wanted page; not to a form, which must be filled in again."""
    if request.method != "GET":
        return RedirectResponse("/login", 303)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse("/login" + ("" if wanted == "/" else f"?{urlencode({'next': wanted})}"), 303)


def _explain(site: Site, request: Request, status_code: int, text: str, *, title: str = "") -> HTMLResponse:
    try:
        visitor = site.visitor(request)
    except (LoginError, StorageUnavailableError):
        visitor = None
    return _show_refusal(site, visitor, status_code, text, title=title)


def _show_refusal(site: Site, visitor: Visitor | None, status_code: int, text: str, *, title: str = "") -> HTMLResponse:
    return site.show(
        "error.html",
        visitor,
        status_code=status_code,
        title=title or _TITLES.get(status_code, "Refused"),
        text=text,
    )
