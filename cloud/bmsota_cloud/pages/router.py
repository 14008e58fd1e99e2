"""All routes of the pages, and how a refusal becomes a page."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any
from urllib.parse import urlencode

from fastapi import APIRouter, FastAPI, Form, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import HTMLResponse, RedirectResponse, Response
from fastapi.routing import APIRoute
from starlette.staticfiles import StaticFiles

from bmsota_cloud.domain.errors import (
    CloudError,
    ConflictError,
    InvalidInputError,
    LoginError,
    NotAllowedError,
    NotFoundError,
)
from bmsota_cloud.pages.session import (
    check_form,
    check_origin,
    clear_cookie,
    local_path,
    set_cookie,
    token_of,
    visitor_of,
)
from bmsota_cloud.pages.site import Site
from bmsota_cloud.pages.tasks import add_task_pages
from bmsota_cloud.pages.vehicles import add_vehicle_pages

if TYPE_CHECKING:
    from os import PathLike

    from starlette.types import Scope

    from bmsota_cloud.wiring import Cloud

__all__ = ["build_router", "mount_static"]

_STATUS: dict[type[CloudError], int] = {
    NotAllowedError: 403,
    NotFoundError: 404,
    ConflictError: 409,
    InvalidInputError: 422,
}
_TITLES = {403: "Not allowed", 404: "Not found", 409: "Not possible now", 422: "Not understood"}

# The words of the services are for everybody; a person who mistyped wants fewer.
_LOGIN_SENTENCES = {
    "wrong-login": "Name and password do not belong together.",
    "too-many-tries": "Too many wrong passwords for this name. Wait five minutes, then try again.",
}

Text = Annotated[str, Form()]


def build_router(cloud: "Cloud") -> APIRouter:
    """All page routes and WebSockets; to be included without a prefix."""
    site = Site(cloud)
    router = APIRouter(route_class=_route_class(site), include_in_schema=False)
    _add_login(router, site)
    add_vehicle_pages(router, site)
    add_task_pages(router, site)
    return router


def mount_static(app: FastAPI) -> None:
    """Serve our style sheet and scripts, which lie in this package, below /static."""
    app.mount("/static", _Static(directory=Path(__file__).parent / "static"), name="static")


class _Static(StaticFiles):
    """Files that a browser may keep, but asks about each time: after an update nobody sees a mixture."""

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
    """Routes that answer a refusal with a page, and a stranger with the way to the login."""

    class PageRoute(APIRoute):
        def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
            handle = super().get_route_handler()

            async def handle_or_explain(request: Request) -> Response:
                try:
                    return await handle(request)
                except LoginError:
                    return _to_login(request)
                except CloudError as error:
                    return _explain(site, request, _STATUS.get(type(error), 400), str(error))
                except RequestValidationError as error:
                    first = error.errors()[0]
                    text = f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}"
                    return _explain(site, request, 422, text)

            return handle_or_explain

    return PageRoute


def _to_login(request: Request) -> Response:
    """After the login people are where they wanted to be; not after a form, which must be filled in again."""
    if request.method != "GET":
        return RedirectResponse("/login", 303)
    wanted = request.url.path + (f"?{request.url.query}" if request.url.query else "")
    return RedirectResponse("/login" + ("" if wanted == "/" else f"?{urlencode({'next': wanted})}"), 303)


def _explain(site: Site, request: Request, status_code: int, text: str) -> HTMLResponse:
    try:
        visitor = visitor_of(request, site.cloud)
    except LoginError:
        visitor = None
    return site.show(
        "error.html",
        visitor,
        status_code=status_code,
        title=_TITLES.get(status_code, "Refused"),
        text=text,
    )


def _add_login(router: APIRouter, site: Site) -> None:
    @router.get("/")
    def front() -> RedirectResponse:
        return RedirectResponse("/vehicles", 303)

    @router.get("/login", response_class=HTMLResponse)
    def login_page(request: Request, next: str = "/") -> Response:  # noqa: A002 - the name in the address
        try:
            site.visitor(request)
        except LoginError:
            return site.show("login.html", None, next=local_path(next), name="", error="")
        return RedirectResponse(local_path(next), 303)

    @router.post("/login", response_class=HTMLResponse)
    def log_in(request: Request, name: Text = "", password: Text = "", next: Text = "/") -> Response:  # noqa: A002
        check_origin(request)
        try:
            login = site.services.accounts.log_in(
                name=name.strip().lower(), password=password, now=site.cloud.now(), address=site.address(request)
            )
        except LoginError as error:
            return site.show(
                "login.html",
                None,
                status_code=429 if error.code == "too-many-tries" else 401,
                next=local_path(next),
                name=name[:64],
                error=_LOGIN_SENTENCES.get(error.code, str(error)),
            )
        response = RedirectResponse(local_path(next), 303)
        set_cookie(response, login.token, site.cloud.settings)
        return response

    @router.post("/logout")
    def log_out(request: Request, csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        site.services.accounts.log_out(token_of(request, site.cloud.settings))
        response = RedirectResponse("/login", 303)
        clear_cookie(response, site.cloud.settings)
        return response
