"""REST: logging in, the own account, and accounts for administrators."""

# FastAPI reads the annotations of its endpoints at run time, so this module has no `from __future__ import annotations`.

from datetime import datetime
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter
from pydantic import Field

from bmsota_cloud.api.common import Address, ApiIn, ApiOut, By, PageOut, Paging, Token, for_strangers
from bmsota_cloud.clock import Clock
from bmsota_cloud.domain.accounts import ROLE_PERMISSIONS, Account, Role

if TYPE_CHECKING:
    from bmsota_cloud.services import Services

__all__ = ["add_account_routes"]


class LoginIn(ApiIn):
    name: str = Field(max_length=64)
    password: str = Field(max_length=1024)


class LoginOut(ApiOut):
    token: str
    expires_at: datetime


class AccountOut(ApiOut):
    name: str
    email: str
    role: Role
    permissions: list[str]

    @classmethod
    def of(cls, account: Account) -> "AccountOut":
        permissions = sorted(str(item) for item in ROLE_PERMISSIONS[account.role])
        return cls(name=account.name, email=account.email, role=account.role, permissions=permissions)


class AccountIn(ApiIn):
    name: str
    email: str
    role: Role
    password: str


class PasswordIn(ApiIn):
    old: str
    new: str


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
        return AccountOut.of(by)

    @router.post("/me/password", status_code=204)
    def change_password(body: PasswordIn, by: By, address: Address) -> None:
        services.accounts.change_password(account=by, old=body.old, new=body.new, now=clock(), address=address)

    @router.get("/accounts", response_model=PageOut[AccountOut])
    def accounts(by: By, paging: Paging) -> Any:
        page = services.accounts.page(paging, by=by)
        items = [AccountOut.of(account) for account in page.items]
        return {"items": items, "total": page.total, "number": page.number, "size": page.size}

    @router.post("/accounts", response_model=AccountOut, status_code=201)
    def create_account(body: AccountIn, by: By) -> Any:
        account = services.accounts.create(
            name=body.name, email=body.email, role=body.role, password=body.password, now=clock(), by=by
        )
        return AccountOut.of(account)
