"""Logging in and out."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.errors import CloudError, LoginError, OverloadedError, RateLimitedError
from bmsota_cloud.pages.forms import Text
from bmsota_cloud.pages.session import (
    check_form,
    check_origin,
    clear_cookie,
    device_of,
    local_path,
    set_cookies,
    token_of,
    with_retry_after,
)
from bmsota_cloud.pages.site import Site

__all__ = ["add_account_pages"]

_TEMPLATE = "accounts/login.html"

# Beside the form, as whole sentences.
_LOGIN_SENTENCES = {
    "wrong-login": "Wrong name or password.",
}
_LOGIN_STATUSES: dict[type[CloudError], int] = {LoginError: 401, RateLimitedError: 429, OverloadedError: 503}


def add_account_pages(router: APIRouter, site: Site) -> None:
    """Add the login and the logout."""

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
                name=name.strip().lower(),
                password=password,
                now=site.now(),
                address=site.address(request),
                device=device_of(request, site.settings),
            )
        except (LoginError, RateLimitedError, OverloadedError) as error:
            page = site.show(
                _TEMPLATE,
                None,
                status_code=_LOGIN_STATUSES[type(error)],
                next=local_path(next),
                name=name[:64],
                error=_LOGIN_SENTENCES.get(error.code, _sentence(str(error))),
            )
            return with_retry_after(page, error)
        response = RedirectResponse(local_path(next), 303)
        set_cookies(response, login, site.settings)
        return response

    @router.post("/logout")
    def log_out(request: Request, csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        site.services.accounts.log_out(token_of(request, site.settings))
        response = RedirectResponse("/login", 303)
        clear_cookie(response, site.settings)
        return response


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."
