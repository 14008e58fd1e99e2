"""API tokens: made by their owner, shown once, and never worth more than the owner.

A token is a prefix and 256 random bits, of which only the SHA-256 is stored. It has a name, an end, and some of its owner's permissions; what
it may do is what both may at the moment of the request, on what the owner sees. It cannot touch passwords, sessions and tokens: who
has found one must not be able to stay.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from typing import TYPE_CHECKING, Final

from bmsota_cloud.domain.accounts import Account, Permission, require
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, LoginError, NotAllowedError, NotFoundError
from bmsota_cloud.domain.tokens import TOKEN_PREFIX, ApiToken
from bmsota_cloud.services.audit import acting

if TYPE_CHECKING:
    from collections.abc import Sequence
    from datetime import datetime

    from bmsota_cloud.services.context import Context

__all__ = ["TOKENS_MAX", "TOKEN_DAYS_MAX", "NewToken", "TokenService", "refuse_token"]

TOKENS_MAX: Final = 20
TOKEN_DAYS_MAX: Final = 366
_NAME = re.compile(r"[\w .+:/-]{1,64}")
_SECRET_SIZE_BYTES: Final = 32
# As a session's last sight: or every request would be a write.
_USED_EVERY: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class NewToken:
    """A fresh token. The secret is shown once, here."""

    secret: str
    token: ApiToken


def refuse_token(by: Account, what: str) -> None:
    """Refuse what only a person who has logged in may do.

    Raises:
        NotAllowedError: *by* is an account by one of its tokens.
    """
    if by.limited_to is not None:
        raise NotAllowedError("not-allowed", f"an API token cannot {what}; log in for that")


class TokenService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context

    def create(
        self, *, name: str, permissions: Sequence[str], days: int, by: Account, now: datetime, address: str = ""
    ) -> NewToken:
        """Make a token of the own account.

        Raises:
            NotAllowedError: *by* lacks one of *permissions*, or is a token itself.
            InvalidInputError: name, permissions or days can't be used.
            ConflictError: there is one of this name, or there are too many.
        """
        subject = f"account {by.name}"
        with acting(
            self._context, who=by.name, action="token.create", subject=subject, now=now, address=address
        ) as act:
            refuse_token(by, "create tokens")
            if not _NAME.fullmatch(name) or name != name.strip():
                raise InvalidInputError(
                    "bad-name", f"name: expected 1 to 64 letters, digits and . _ + : / -, got {name[:80]!r}"
                )
            if not 1 <= days <= TOKEN_DAYS_MAX:
                raise InvalidInputError("bad-days", f"days: expected 1 to {TOKEN_DAYS_MAX}, got {days}")
            if not permissions:
                raise InvalidInputError("no-permissions", "choose at least one permission")
            for word in permissions:
                if word not in list(Permission):
                    raise InvalidInputError("bad-permission", f"permissions: no permission {word[:40]!r}")
                require(by, Permission(word))
            # Locked, so that two requests at once don't both get the last place.
            owner = act.work.accounts.lock(by.name)
            there = act.work.accounts.tokens_of(by.name)
            if owner is None or owner.disabled_at is not None:
                raise NotAllowedError("not-allowed", f"the account {by.name} is disabled")
            if any(token.name == name for token in there):
                raise ConflictError("name-taken", f"you have a token {name} already; revoke it, or choose another name")
            if len(there) >= TOKENS_MAX:
                raise ConflictError("too-many-tokens", f"you have {TOKENS_MAX} tokens; revoke one")
            secret = TOKEN_PREFIX + urlsafe_b64encode(self._context.draw(_SECRET_SIZE_BYTES)).decode().rstrip("=")
            token = ApiToken(
                token_sha256=sha256(secret.encode()).digest(),
                account_name=by.name,
                name=name,
                permissions=tuple(sorted({str(Permission(word)) for word in permissions})),
                created_at=now,
                expires_at=now + timedelta(days=days),
            )
            act.work.accounts.add_token(token)
            act.detail = f"{name} ({token.id}): {', '.join(token.permissions)}; until {token.expires_at.isoformat()}"
        return NewToken(secret=secret, token=token)

    def tokens(self, name: str, *, by: Account) -> tuple[ApiToken, ...]:
        """The tokens of an account, the newest first, those that have expired included. Everybody may look at his own.

        Raises:
            NotAllowedError: it is another's, and *by* may not manage accounts.
            NotFoundError: there is no such account.
        """
        if name != by.name:
            require(by, Permission.ACCOUNT_MANAGE)
        with self._context.store.reading() as work:
            if work.accounts.get(name) is None:
                raise NotFoundError("no-such-account", f"no account {name[:64]}")
            return work.accounts.tokens_of(name)

    def revoke(self, name: str, token_id: str, *, by: Account, now: datetime, address: str = "") -> None:
        """End a token of an account, at once. Everybody may revoke his own.

        Raises:
            NotAllowedError: it is another's, and *by* may not manage accounts; or *by* is a token itself.
            NotFoundError: there is no such account, or no such token.
        """
        subject = f"account {name[:64]}"
        with acting(
            self._context, who=by.name, action="token.revoke", subject=subject, now=now, address=address
        ) as act:
            refuse_token(by, "revoke tokens")
            if name != by.name:
                require(by, Permission.ACCOUNT_MANAGE)
            if act.work.accounts.get(name) is None:
                raise NotFoundError("no-such-account", f"no account {name[:64]}")
            found = next((token for token in act.work.accounts.tokens_of(name) if token.id == token_id), None)
            if found is None:
                raise NotFoundError("no-such-token", f"{name} has no token {token_id[:16]}")
            act.work.accounts.delete_token(found.token_sha256)
            act.detail = f"{found.name} ({found.id})"

    def who(self, secret: str, now: datetime, address: str = "") -> Account:
        """Whose token this is, with no more permissions than the token has.

        Raises:
            LoginError: there is no such token, it has expired, or its owner is disabled.
        """
        digest = sha256(secret.encode()).digest()
        with self._context.store.reading() as work:
            token = work.accounts.token(digest)
            account = None if token is None else work.accounts.get(token.account_name)
        if token is None or account is None or account.disabled_at is not None:
            raise LoginError("no-session", "this API token is not valid; create another one")
        if now >= token.expires_at:
            raise LoginError(
                "session-over", f"this API token expired at {token.expires_at.isoformat()}; create another one"
            )
        is_noted = token.last_used_at is not None and abs(now - token.last_used_at) < _USED_EVERY
        if not is_noted and not self._context.clock_guard.is_waiting:
            with self._context.store.transaction() as work:
                # It may have been revoked in between; then there is nothing to save.
                if work.accounts.token(digest) is not None:
                    work.accounts.save_token(replace(token, last_used_at=now, last_address=address[:64]))
        return replace(account, limited_to=token.permissions)
