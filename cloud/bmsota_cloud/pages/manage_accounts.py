"""Accounts, for administrators: who there is, what each may do and see, and the open sessions."""

# No `from __future__ import annotations`: FastAPI reads the annotations of the endpoints at run time.

from collections.abc import Callable
from typing import Any
from urllib.parse import urlencode

from fastapi import APIRouter, Request
from fastapi.responses import HTMLResponse, RedirectResponse, Response

from bmsota_cloud.domain.accounts import Account, Permission, Role, Scope, ScopeKind, require
from bmsota_cloud.domain.errors import CloudError, ConflictError, InvalidInputError, NotAllowedError, OverloadedError
from bmsota_cloud.domain.paging import PAGE_SIZE_MAX, PageRequest
from bmsota_cloud.pages.forms import Text
from bmsota_cloud.pages.manage_sections import manage_sections
from bmsota_cloud.pages.session import Visitor, check_form, with_retry_after
from bmsota_cloud.pages.site import Query, Site
from bmsota_cloud.services import PASSWORD_LENGTH_MIN

__all__ = ["add_manage_account_pages"]

_HERE = "/manage/accounts"
_ROWS_A_PAGE = 50
_STATUSES: dict[type[CloudError], int] = {InvalidInputError: 422, ConflictError: 409, OverloadedError: 503}
_REFUSALS = (InvalidInputError, ConflictError, OverloadedError)
# What an act leads back with, in the address.
_DONE = {
    "created": "was created.",
    "changed": "was changed.",
    "disabled": "was disabled; its sessions have ended.",
    "enabled": "can log in again.",
    "reset": "has another password; its sessions have ended.",
    "ended": "has fewer open sessions now.",
}


def add_manage_account_pages(router: APIRouter, site: Site) -> None:
    """Add the routes below /manage/accounts, and the front of "Manage Background"."""
    accounts = site.services.accounts

    @router.get("/manage")
    def front(request: Request) -> RedirectResponse:
        sections = manage_sections(site.visitor(request).account)
        if not sections:
            raise NotAllowedError("not-allowed", "there is nothing here that you may manage")
        return RedirectResponse(sections[0][0], 303)

    @router.get(_HERE, response_class=HTMLResponse)
    def account_list(request: Request, q: str = "", role: str = "", page: int = 1) -> HTMLResponse:
        visitor = site.visitor(request)
        by = visitor.account
        found = accounts.page(
            PageRequest(page, _ROWS_A_PAGE), by=by, text=q.strip(), role=_role(role) if role else None
        )
        return site.show_list(
            request,
            "manage/accounts.html",
            visitor,
            section="manage",
            page=found,
            last_logins=accounts.last_logins([account.name for account in found.items], by=by),
            roles=list(Role),
            query=Query(_HERE, {"q": q.strip(), "role": role}),
        )

    @router.get("/manage/new-account", response_class=HTMLResponse)
    def new_account(request: Request) -> HTMLResponse:
        typed = {"name": "", "email": "", "role": "viewer", "sees": "everything", "projects": "", "customer": ""}
        return show_new(site.visitor(request), typed)

    @router.post("/manage/new-account", response_class=HTMLResponse)
    def create(
        request: Request,
        name: Text = "",
        email: Text = "",
        password: Text = "",
        role: Text = "",
        sees: Text = "",
        projects: Text = "",
        customer: Text = "",
        csrf: Text = "",
    ) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        typed = {"name": name.strip().lower(), "email": email.strip()} | _typed(role, sees, projects, customer)
        try:
            account = accounts.create(
                name=typed["name"],
                email=typed["email"],
                role=_role(role),
                password=password,
                scope=_scope(sees, projects, customer),
                by=visitor.account,
                now=site.now(),
                address=site.address(request),
            )
        except _REFUSALS as error:
            return with_retry_after(show_new(visitor, typed, error=error), error)
        return _back(account.name, "created")

    @router.get(_HERE + "/{name}", response_class=HTMLResponse)
    def account_page(request: Request, name: str, done: str = "") -> HTMLResponse:
        return show(site.visitor(request), name, done=_DONE.get(done, ""))

    @router.post(_HERE + "/{name}", response_class=HTMLResponse)
    def change(
        request: Request,
        name: str,
        role: Text = "",
        sees: Text = "",
        projects: Text = "",
        customer: Text = "",
        csrf: Text = "",
    ) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        try:
            accounts.change(
                name,
                role=_role(role),
                scope=_scope(sees, projects, customer),
                by=visitor.account,
                now=site.now(),
                address=site.address(request),
            )
        except _REFUSALS as error:
            return show(visitor, name, error=error, typed=_typed(role, sees, projects, customer))
        return _back(name, "changed")

    def turn(request: Request, name: str, csrf: str, act: Callable[..., object], done: str) -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        try:
            act(name, by=visitor.account, now=site.now(), address=site.address(request))
        except _REFUSALS as error:
            return show(visitor, name, error=error)
        return _back(name, done)

    @router.post(_HERE + "/{name}/disable", response_class=HTMLResponse)
    def disable(request: Request, name: str, csrf: Text = "") -> Response:
        return turn(request, name, csrf, accounts.disable, "disabled")

    @router.post(_HERE + "/{name}/enable", response_class=HTMLResponse)
    def enable(request: Request, name: str, csrf: Text = "") -> Response:
        return turn(request, name, csrf, accounts.enable, "enabled")

    @router.post(_HERE + "/{name}/reset", response_class=HTMLResponse)
    def reset(request: Request, name: str, password: Text = "", csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        try:
            accounts.reset(name, password=password, by=visitor.account, now=site.now(), address=site.address(request))
        except _REFUSALS as error:
            return with_retry_after(show(visitor, name, error=error), error)
        return _back(name, "reset")

    @router.post(_HERE + "/{name}/end-sessions", response_class=HTMLResponse)
    def end_sessions(request: Request, name: str, session: Text = "", csrf: Text = "") -> Response:
        visitor = site.visitor(request)
        check_form(request, visitor, csrf)
        # Not for the own sessions of others than administrators: this is their page.
        require(visitor.account, Permission.ACCOUNT_MANAGE)
        accounts.end_sessions(
            name, session_id=session or None, by=visitor.account, now=site.now(), address=site.address(request)
        )
        return _back(name, "ended")

    def choices(visitor: Visitor) -> dict[str, Any]:
        by = visitor.account
        customers = site.services.customers.page(PageRequest(1, PAGE_SIZE_MAX), by=by).items
        return {
            "section": "manage",
            "roles": list(Role),
            "projects": site.services.vehicles.projects(by=by),
            "customers": [customer.name for customer in customers],
            "password_length_min": PASSWORD_LENGTH_MIN,
        }

    def show_new(visitor: Visitor, typed: dict[str, str], *, error: CloudError | None = None) -> HTMLResponse:
        require(visitor.account, Permission.ACCOUNT_MANAGE)
        return site.show(
            "manage/new_account.html",
            visitor,
            status_code=200 if error is None else _STATUSES[type(error)],
            typed=typed,
            error=error,
            **choices(visitor),
        )

    def show(
        visitor: Visitor,
        name: str,
        *,
        error: CloudError | None = None,
        typed: dict[str, str] | None = None,
        done: str = "",
    ) -> HTMLResponse:
        by = visitor.account
        shown = accounts.get(name, by=by)
        return site.show(
            "manage/account.html",
            visitor,
            status_code=200 if error is None else _STATUSES[type(error)],
            shown=shown,
            is_own=name == by.name,
            typed=typed or _typed_of(shown),
            done=done,
            error=error,
            last_login=accounts.last_logins([name], by=by).get(name),
            sessions=accounts.sessions(name, by=by, now=site.now()),
            **choices(visitor),
        )


def _back(name: str, done: str) -> RedirectResponse:
    return RedirectResponse(f"{_HERE}/{name}?{urlencode({'done': done})}", 303)


def _role(text: str) -> Role:
    if text not in set(Role):
        raise InvalidInputError("bad-role", f"role: expected {', '.join(Role)}, got {text[:40]!r}")
    return Role(text)


def _scope(sees: str, projects: str, customer: str) -> Scope:
    """The scope that the fields say. What stands in a field of another kind is not looked at."""
    if sees not in set(ScopeKind):
        raise InvalidInputError("bad-scope", f"sees: expected {', '.join(ScopeKind)}, got {sees[:40]!r}")
    kind = ScopeKind(sees)
    names = {name.strip() for name in projects.split(",")} - {""}
    return Scope(
        kind=kind,
        projects=tuple(sorted(names)) if kind is ScopeKind.PROJECTS else (),
        customer=customer.strip() if kind is ScopeKind.CUSTOMER else "",
    )


def _typed(role: str, sees: str, projects: str, customer: str) -> dict[str, str]:
    return {"role": role, "sees": sees, "projects": projects, "customer": customer}


def _typed_of(account: Account) -> dict[str, str]:
    return _typed(account.role, account.sees, ", ".join(account.projects), account.customer)
