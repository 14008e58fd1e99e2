"""Accounts and their login sessions."""

from __future__ import annotations

from typing import TYPE_CHECKING

from sqlalchemy import delete, func, or_, select

from bmsota_cloud.domain.accounts import Account, LoginSession
from bmsota_cloud.domain.tokens import ApiToken
from bmsota_cloud.storage import schema as t
from bmsota_cloud.storage.sql._tables import Tables, in_lists, upsert

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.accounts import Role
    from bmsota_cloud.domain.paging import Page, PageRequest

__all__ = ["SqlAccounts"]


class SqlAccounts(Tables):
    def add(self, account: Account) -> None:
        self._add(t.account, account)

    def get(self, name: str) -> Account | None:
        return self._one(Account, select(t.account).where(t.account.c.name == name))

    def lock(self, name: str) -> Account | None:
        return self._one(Account, select(t.account).where(t.account.c.name == name), lock=True)

    def save(self, account: Account) -> None:
        self._save(t.account, account)

    def page(self, request: PageRequest, *, text: str = "", role: Role | None = None) -> Page[Account]:
        c = t.account.c
        statement = select(t.account).order_by(c.name)
        if text:
            statement = statement.where(or_(*(column.icontains(text, autoescape=True) for column in (c.name, c.email))))
        if role is not None:
            statement = statement.where(c.role == role)
        return self._page(Account, statement, request)

    def last_logins(self, names: Sequence[str]) -> Mapping[str, datetime]:
        c = t.login_address.c
        found: dict[str, datetime] = {}
        for part in in_lists(names):
            statement = select(c.account_name, func.max(c.last_at)).where(c.account_name.in_(part))
            rows = self._connection.execute(statement.group_by(c.account_name))
            found.update((name, at) for name, at in rows)
        return found

    def add_session(self, session: LoginSession) -> None:
        self._add(t.login_session, session)

    def session(self, token_sha256: bytes) -> LoginSession | None:
        return self._one(LoginSession, select(t.login_session).where(t.login_session.c.token_sha256 == token_sha256))

    def save_session(self, session: LoginSession) -> None:
        self._save(t.login_session, session)

    def delete_session(self, token_sha256: bytes) -> None:
        self._connection.execute(delete(t.login_session).where(t.login_session.c.token_sha256 == token_sha256))

    def delete_sessions_of(self, account_name: str) -> None:
        self._connection.execute(delete(t.login_session).where(t.login_session.c.account_name == account_name))

    def sessions_of(self, account_name: str) -> tuple[LoginSession, ...]:
        c = t.login_session.c
        statement = select(t.login_session).where(c.account_name == account_name)
        return self._all(LoginSession, statement.order_by(c.last_seen_at.desc(), c.token_sha256))

    def delete_sessions_before(self, expired: datetime) -> None:
        self._connection.execute(delete(t.login_session).where(t.login_session.c.expires_at <= expired))

    def add_token(self, token: ApiToken) -> None:
        self._add(t.api_token, token)

    def token(self, token_sha256: bytes) -> ApiToken | None:
        return self._one(ApiToken, select(t.api_token).where(t.api_token.c.token_sha256 == token_sha256))

    def save_token(self, token: ApiToken) -> None:
        self._save(t.api_token, token)

    def delete_token(self, token_sha256: bytes) -> None:
        self._connection.execute(delete(t.api_token).where(t.api_token.c.token_sha256 == token_sha256))

    def delete_tokens_of(self, account_name: str) -> None:
        self._connection.execute(delete(t.api_token).where(t.api_token.c.account_name == account_name))

    def tokens_of(self, account_name: str) -> tuple[ApiToken, ...]:
        c = t.api_token.c
        statement = select(t.api_token).where(c.account_name == account_name)
        return self._all(ApiToken, statement.order_by(c.created_at.desc(), c.name))

    def knows_address(self, account_name: str, address_digest: bytes) -> bool:
        c = t.login_address.c
        statement = select(c.last_at).where(c.account_name == account_name, c.address_digest == address_digest)
        return self._connection.execute(statement).first() is not None

    def save_address(self, account_name: str, address_digest: bytes, last_at: datetime, *, keep: int) -> None:
        c = t.login_address.c
        values = {"account_name": account_name, "address_digest": address_digest, "last_at": last_at}
        upsert(self._connection, t.login_address, values)
        newest = select(c.address_digest).where(c.account_name == account_name)
        newest = newest.order_by(c.last_at.desc(), c.address_digest).limit(keep)
        self._connection.execute(
            delete(t.login_address).where(
                c.account_name == account_name, c.address_digest.not_in(newest.scalar_subquery())
            )
        )
