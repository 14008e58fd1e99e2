"""The own account: what it may do and see, and its API tokens."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from collections.abc import Mapping
from typing import Annotated

from fastapi import APIRouter, Form, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.errors import CloudError, ConflictError, InvalidInputError
from bmsota_cloud.pages.forms import Text
from bmsota_cloud.pages.session import Visitor, check_form
from bmsota_cloud.pages.site import Site
from bmsota_cloud.services import TOKEN_DAYS_MAX

__all__ = ["add_own_account_pages"]

_HERE = "/account"
_DAYS = "90"
_STATUSES: dict[type[CloudError], int] = {InvalidInputError: 422, ConflictError: 409}


def add_own_account_pages(router: APIRouter, site: Site) -> None:
    """Add what is below /account."""

    @router.get(_HERE, response_class=HTMLResponse)
    def own_account(request: Request) -> HTMLResponse:
        return show(site.visitor(request), {"name": "", "days": _DAYS, "permissions": ()})

    @router.post("/account/tokens", response_class=HTMLResponse)
    def create_token(
        request: Request,
        name: Text = "",
        days: Text = _DAYS,
        permissions: Annotated[list[str] | None, Form()] = None,
        csrf: Text = "",
    ) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        typed = {"name": name.strip(), "days": days.strip(), "permissions": tuple(permissions or ())}
        try:
            made = site.services.tokens.create(
                name=name.strip(),
                permissions=permissions or [],
                days=_number(days.strip()),
                by=visitor.account,
                now=site.now(),
                address=site.address(request),
            )
        except (InvalidInputError, ConflictError) as error:
            return show(visitor, typed, error=error)
        # Not a redirect: the secret is in this answer and nowhere else.
        return show(visitor, {"name": "", "days": _DAYS, "permissions": ()}, secret=made.secret)

    @router.post("/account/tokens/{token_id}/revoke")
    def revoke_token(request: Request, token_id: str, csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        site.services.tokens.revoke(
            visitor.account.name, token_id, by=visitor.account, now=site.now(), address=site.address(request)
        )
        return RedirectResponse(_HERE, 303)

    def show(
        visitor: Visitor, typed: Mapping[str, object], *, error: CloudError | None = None, secret: str = ""
    ) -> HTMLResponse:
        return site.show(
            "accounts/own.html",
            visitor,
            status_code=200 if error is None else _STATUSES[type(error)],
            section="account",
            typed=typed,
            error=error,
            secret=secret,
            tokens=site.services.tokens.tokens(visitor.account.name, by=visitor.account),
            permissions=sorted(map(str, visitor.account.permissions)),
            days_max=TOKEN_DAYS_MAX,
        )


def _number(text: str) -> int:
    """What stands in a field for a number; 0, which no service takes, if it is none."""
    return int(text) if text.isdecimal() and len(text) <= 6 else 0
