"""Logging in and out."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.errors import LoginError
from bmsota_cloud.pages.session import check_form, check_origin, clear_cookie, local_path, set_cookie, token_of
from bmsota_cloud.pages.site import Site

__all__ = ["add_account_pages"]

_TEMPLATE = "accounts/login.html"

# Beside the form, as whole sentences.
_LOGIN_SENTENCES = {
    "wrong-login": "Wrong name or password.",
    "too-many-tries": "Too many wrong passwords for this name. Wait five minutes, then try again.",
}
Text = Annotated[str, Form()]


def add_account_pages(router: APIRouter, site: Site) -> None:
    """Add the front page, the login and the logout."""

    @router.get("/")
    def front() -> RedirectResponse:
        return RedirectResponse("/vehicles", 303)

    @router.get("/login", response_class=HTMLResponse)
    def login_page(request: Request, next: str = "/") -> Response:  # noqa: A002 - the name in the address
        try:
            site.visitor(request)
        except LoginError:
            return site.show(_TEMPLATE, None, next=local_path(next), name="", error="")
        return RedirectResponse(local_path(next), 303)

    @router.post("/login", response_class=HTMLResponse)
    def log_in(request: Request, name: Text = "", password: Text = "", next: Text = "/") -> Response:  # noqa: A002
        check_origin(request)
        try:
            login = site.services.accounts.log_in(
                name=name.strip().lower(), password=password, now=site.now(), address=site.address(request)
            )
        except LoginError as error:
            return site.show(
                _TEMPLATE,
                None,
                status_code=429 if error.code == "too-many-tries" else 401,
                next=local_path(next),
                name=name[:64],
                error=_LOGIN_SENTENCES.get(error.code, str(error)),
            )
        response = RedirectResponse(local_path(next), 303)
        set_cookie(response, login.token, site.settings)
        return response

    @router.post("/logout")
    def log_out(request: Request, csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        site.services.accounts.log_out(token_of(request, site.settings))
        response = RedirectResponse("/login", 303)
        clear_cookie(response, site.settings)
        return response
