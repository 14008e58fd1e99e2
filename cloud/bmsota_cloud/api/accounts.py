"""REST: logging in, the own account, and accounts for administrators."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING, Annotated, Any

from fastapi import APIRouter, Query
from pydantic import Field

from bmsota_cloud.api.common import (
    Address,
    ApiIn,
    ApiOut,
    By,
    CountOut,
    PageOut,
    Paging,
    Token,
    for_strangers,
)
from bmsota_cloud.clock import Clock
from bmsota_cloud.domain.accounts import PROJECTS_MAX, Account, LoginSession, Role, Scope, ScopeKind
from bmsota_cloud.services import TOKEN_DAYS_MAX

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_account_routes"]


class LoginIn(ApiIn):
    name: str = Field(max_length=64)
    password: str = Field(max_length=1024)


class LoginOut(ApiOut):
    token: str
    expires_at: datetime


class ScopeIn(ApiIn):
    """Which vehicles an account sees."""

    kind: ScopeKind
    projects: list[str] = Field(default=[], max_length=PROJECTS_MAX, description='for the kind "projects"')
    customer: str = Field(default="", max_length=64, description='for the kind "customer"')

    def scope(self) -> Scope:
        return Scope(kind=self.kind, projects=tuple(sorted(set(self.projects))), customer=self.customer)


class ScopeOut(ApiOut):
    kind: ScopeKind
    projects: list[str]
    customer: str


class AccountOut(ApiOut):
    name: str
    email: str
    role: Role
    scope: ScopeOut
    permissions: list[str]
    created_at: datetime
    disabled_at: datetime | None


class AccountIn(ApiIn):
    name: str
    email: str
    role: Role
    password: str
    scope: ScopeIn = Field(default=ScopeIn(kind=ScopeKind.EVERYTHING))


class AccountChangeIn(ApiIn):
    role: Role | None = None
    scope: ScopeIn | None = None


class ResetIn(ApiIn):
    password: str = Field(description="the new one")


class SessionOut(ApiOut):
    id: str
    created_at: datetime
    last_seen_at: datetime
    expires_at: datetime
    address: str


class PasswordIn(ApiIn):
    old: str
    new: str


class TokenIn(ApiIn):
    name: str = Field(max_length=64, description="what it is for")
    permissions: list[str] = Field(max_length=100, description="some of your own")
    days: int = Field(default=90, ge=1, le=TOKEN_DAYS_MAX, description="how long it is valid")


class TokenOut(ApiOut):
    id: str
    name: str
    permissions: list[str]
    created_at: datetime
    expires_at: datetime
    last_used_at: datetime | None
    last_address: str


class NewTokenOut(ApiOut):
    secret: str = Field(description="for the header Authorization: Bearer; it is not shown again")
    token: TokenOut


def add_account_routes(router: APIRouter, services: "Services", clock: Clock) -> None:
    """Add the routes."""

    @router.post("/login", response_model=LoginOut)
    @for_strangers
    def log_in(body: LoginIn, address: Address) -> Any:
        return services.accounts.log_in(name=body.name, password=body.password, now=clock(), address=address)

    # An unknown session is as good as ended.
    @router.post("/logout", status_code=204)
    @for_strangers
    def log_out(token: Token) -> None:
        services.accounts.log_out(token)

    @router.get("/me", response_model=AccountOut)
    def me(by: By) -> Any:
        return _out(by)

    @router.post("/me/password", status_code=204)
    def change_password(body: PasswordIn, by: By, address: Address) -> None:
        services.accounts.change_password(account=by, old=body.old, new=body.new, now=clock(), address=address)

    @router.get("/accounts", response_model=PageOut[AccountOut])
    def accounts(
        by: By,
        paging: Paging,
        text: Annotated[str, Query(description="a part of name or mail address")] = "",
        role: Role | None = None,
    ) -> Any:
        page = services.accounts.page(paging, by=by, text=text, role=role)
        items = [_out(account) for account in page.items]
        return {"items": items, "total": page.total, "number": page.number, "size": page.size}

    @router.post("/accounts", response_model=AccountOut, status_code=201)
    def create_account(body: AccountIn, by: By, address: Address) -> Any:
        account = services.accounts.create(
            name=body.name,
            email=body.email,
            role=body.role,
            password=body.password,
            scope=body.scope.scope(),
            now=clock(),
            by=by,
            address=address,
        )
        return _out(account)

    @router.get("/accounts/{name}", response_model=AccountOut)
    def account(name: str, by: By) -> Any:
        return _out(services.accounts.get(name, by=by))

    @router.patch("/accounts/{name}", response_model=AccountOut)
    def change_account(name: str, body: AccountChangeIn, by: By, address: Address) -> Any:
        scope = None if body.scope is None else body.scope.scope()
        return _out(services.accounts.change(name, role=body.role, scope=scope, by=by, now=clock(), address=address))

    @router.post("/accounts/{name}/disable", response_model=AccountOut)
    def disable_account(name: str, by: By, address: Address) -> Any:
        return _out(services.accounts.disable(name, by=by, now=clock(), address=address))

    @router.post("/accounts/{name}/enable", response_model=AccountOut)
    def enable_account(name: str, by: By, address: Address) -> Any:
        return _out(services.accounts.enable(name, by=by, now=clock(), address=address))

    @router.post("/accounts/{name}/reset", status_code=204)
    def reset_password(name: str, body: ResetIn, by: By, address: Address) -> None:
        services.accounts.reset(name, password=body.password, by=by, now=clock(), address=address)

    @router.get("/me/sessions", response_model=list[SessionOut])
    def own_sessions(by: By) -> Any:
        return _sessions(services.accounts.sessions(by.name, by=by, now=clock()))

    @router.delete("/me/sessions/{session_id}", status_code=204)
    def end_own_session(session_id: str, by: By, address: Address) -> None:
        services.accounts.end_sessions(by.name, session_id=session_id, by=by, now=clock(), address=address)

    @router.get("/accounts/{name}/sessions", response_model=list[SessionOut])
    def sessions(name: str, by: By) -> Any:
        return _sessions(services.accounts.sessions(name, by=by, now=clock()))

    @router.delete("/accounts/{name}/sessions", response_model=CountOut)
    def end_sessions(name: str, by: By, address: Address) -> Any:
        return {"count": services.accounts.end_sessions(name, by=by, now=clock(), address=address)}

    @router.delete("/accounts/{name}/sessions/{session_id}", status_code=204)
    def end_session(name: str, session_id: str, by: By, address: Address) -> None:
        services.accounts.end_sessions(name, session_id=session_id, by=by, now=clock(), address=address)

    @router.get("/me/tokens", response_model=list[TokenOut])
    def own_tokens(by: By) -> Any:
        return services.tokens.tokens(by.name, by=by)

    @router.post("/me/tokens", response_model=NewTokenOut, status_code=201)
    def create_token(body: TokenIn, by: By, address: Address) -> Any:
        return services.tokens.create(
            name=body.name, permissions=body.permissions, days=body.days, by=by, now=clock(), address=address
        )

    @router.delete("/me/tokens/{token_id}", status_code=204)
    def revoke_own_token(token_id: str, by: By, address: Address) -> None:
        services.tokens.revoke(by.name, token_id, by=by, now=clock(), address=address)

    @router.get("/accounts/{name}/tokens", response_model=list[TokenOut])
    def tokens(name: str, by: By) -> Any:
        return services.tokens.tokens(name, by=by)

    @router.delete("/accounts/{name}/tokens/{token_id}", status_code=204)
    def revoke_token(name: str, token_id: str, by: By, address: Address) -> None:
        services.tokens.revoke(name, token_id, by=by, now=clock(), address=address)


def _out(account: Account) -> AccountOut:
    return AccountOut(
        name=account.name,
        email=account.email,
        role=account.role,
        scope=ScopeOut(kind=account.sees, projects=list(account.projects), customer=account.customer),
        permissions=sorted(str(item) for item in account.permissions),
        created_at=account.created_at,
        disabled_at=account.disabled_at,
    )


def _sessions(sessions: Sequence[LoginSession]) -> list[SessionOut]:
    return [SessionOut.model_validate(session) for session in sessions]
