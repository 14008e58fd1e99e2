"""Accounts: creating them, logging in, and who a session belongs to.

A session is a random token; only its SHA-256 is stored, so a stolen database logs nobody in, and every session can be
ended. The same sessions serve the pages (cookie) and the REST API (bearer). Passwords are argon2id.
"""

from __future__ import annotations

import re
from base64 import urlsafe_b64encode
from collections import OrderedDict
from dataclasses import dataclass, replace
from datetime import timedelta
from hashlib import sha256
from threading import BoundedSemaphore, Lock
from typing import TYPE_CHECKING

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from bmsota_cloud.domain.accounts import Account, LoginSession, Permission, Role, require
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, LoginError
from bmsota_cloud.domain.paging import PAGE_SIZE_MAX, Page, PageRequest
from bmsota_cloud.services.audit import acting

if TYPE_CHECKING:
    from datetime import datetime

    from bmsota_cloud.services.context import Context

__all__ = ["PASSWORD_LENGTH_MIN", "AccountService", "Login"]

PASSWORD_LENGTH_MIN = 12
# Longer ones would only be a way to keep argon2 busy.
_PASSWORD_LENGTH_MAX = 256
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
# Enough to catch a name typed into the wrong box; whether the address exists, only a mail can show.
_EMAIL = re.compile(r"[^@\s<>,;]{1,64}@[^@\s<>,;]{1,189}", re.ASCII)

# Wrong passwords for one name before it has to wait. Ten is more than a person with a bad day needs.
_FAILURES_MAX = 10
_FAILURES_WINDOW_S = 300
# Names remembered for that; the oldest is forgotten first. Guessing over 10,000 names at once is another attack.
_FAILURES_NAMES_MAX = 10_000

# Each check takes 64 MiB and 0.15 s of a core: more than two at a time would let a login flood stop the platform.
_PASSWORD_CHECKS_MAX = 2

# The last sight of a session is written no more often than this, or every page view would be a write.
_SEEN_EVERY_S = 60


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A fresh session. The token is shown once, here."""

    token: str
    csrf_token: str
    account: Account
    expires_at: datetime


class AccountService:
    """One method per use case."""

    def __init__(self, context: Context) -> None:
        self._context = context
        settings = context.settings
        self._hasher = PasswordHasher(
            time_cost=settings.password_passes,
            memory_cost=settings.password_memory_kib,
            parallelism=settings.password_lanes,
        )
        self._checks = BoundedSemaphore(_PASSWORD_CHECKS_MAX)
        # Checked when the name is unknown, so that the time of an answer does not reveal which names exist.
        self._dummy_hash = self._hash("no such account")
        self._failures: OrderedDict[str, tuple[int, datetime]] = OrderedDict()
        self._failures_lock = Lock()

    def create(
        self, *, name: str, email: str, role: Role, password: str, now: datetime, by: Account | None = None
    ) -> Account:
        """Add an account. *by* is None only for the command line, whose user owns the data folder anyway.

        Raises:
            InvalidInputError: name, address or password can't be used.
            ConflictError: the name is taken.
            NotAllowedError: *by* may not manage accounts.
        """
        who = "platform" if by is None else by.name
        with acting(self._context, who=who, action="account.create", subject=f"account {name[:64]}", now=now) as act:
            if by is not None:
                require(by, Permission.ACCOUNT_MANAGE)
            if not _NAME.fullmatch(name):
                raise InvalidInputError("bad-name", f"name: expected 1 to 64 of a-z 0-9 . _ -, got {name[:80]!r}")
            if not _EMAIL.fullmatch(email):
                raise InvalidInputError("bad-email", f"email: expected a mail address, got {email[:80]!r}")
            self._check_new_password(password)
            if act.work.accounts.get(name) is not None:
                raise ConflictError("name-taken", f"the name {name} is taken")
            account = Account(name=name, email=email, role=role, password_hash=self._hash(password), created_at=now)
            act.work.accounts.add(account)
            act.detail = f"{role} <{email}>"
        return account

    def log_in(self, *, name: str, password: str, now: datetime, address: str = "") -> Login:
        """Check the password and open a session.

        Raises:
            LoginError: "wrong-login", or "too-many-tries" after ten failures in five minutes.
        """
        # The password is checked before the transaction begins: 0.15 s of argon2 must not hold up every other writer.
        with self._context.store.reading() as work:
            found = work.accounts.get(name)
        is_locked = self._has_too_many_failures(name, now)
        is_right = not is_locked and self._verify(self._dummy_hash if found is None else found.password_hash, password)
        with acting(
            self._context,
            who=name[:64],
            action="account.log_in",
            subject=f"account {name[:64]}",
            now=now,
            address=address,
        ) as act:
            if is_locked:
                raise LoginError(
                    "too-many-tries",
                    f"too many wrong passwords for this name; wait {_FAILURES_WINDOW_S // 60} minutes, then try again",
                )
            account = act.work.accounts.get(name)
            if not is_right or found is None or account is None or account.password_hash != found.password_hash:
                self._count_failure(name, now)
                raise LoginError("wrong-login", "wrong name or password")
            act.work.accounts.delete_sessions_before(now)
            token = _text(self._context.draw(32))
            session = LoginSession(
                token_sha256=sha256(token.encode()).digest(),
                account_name=name,
                csrf_token=_text(self._context.draw(32)),
                created_at=now,
                last_seen_at=now,
                expires_at=now + timedelta(seconds=self._context.settings.session_valid_s),
            )
            act.work.accounts.add_session(session)
        return Login(token=token, csrf_token=session.csrf_token, account=account, expires_at=session.expires_at)

    def who(self, token: str, now: datetime) -> tuple[Account, LoginSession]:
        """Whose session this is.

        Raises:
            LoginError: there is no such session, or it is over.
        """
        digest = sha256(token.encode()).digest()
        with self._context.store.reading() as work:
            session = work.accounts.session(digest)
            account = None if session is None else work.accounts.get(session.account_name)
        if session is None or account is None:
            raise LoginError("no-session", "your session has ended; log in again")
        idle = now - session.last_seen_at
        if now >= session.expires_at or idle > timedelta(seconds=self._context.settings.session_idle_s):
            raise LoginError("session-over", "your session has ended; log in again")
        if idle >= timedelta(seconds=_SEEN_EVERY_S):
            session = replace(session, last_seen_at=now)
            with self._context.store.transaction() as work:
                # It may have been closed in between; then there is nothing to save.
                if work.accounts.session(digest) is not None:
                    work.accounts.save_session(session)
        return account, session

    def log_out(self, token: str) -> None:
        """End the session; an unknown one is ended already."""
        with self._context.store.transaction() as work:
            work.accounts.delete_session(sha256(token.encode()).digest())

    def change_password(self, *, account: Account, old: str, new: str, now: datetime) -> None:
        """Change the password and end all sessions of the account.

        Raises:
            LoginError: *old* is wrong.
            InvalidInputError: *new* can't be used.
        """
        with acting(
            self._context, who=account.name, action="account.password", subject=f"account {account.name}", now=now
        ) as act:
            current = act.work.accounts.get(account.name)
            if current is None or not self._verify(current.password_hash, old):
                raise LoginError("wrong-login", "the current password is wrong")
            self._check_new_password(new)
            act.work.accounts.save(replace(current, password_hash=self._hash(new)))
            act.work.accounts.delete_sessions_of(account.name)

    def page(self, request: PageRequest, *, by: Account) -> Page[Account]:
        require(by, Permission.ACCOUNT_MANAGE)
        with self._context.store.reading() as work:
            return work.accounts.page(request)

    def auditors(self, *, by: Account) -> tuple[str, ...]:
        """The names a task of *by* may have as auditor."""
        require(by, Permission.OTA_CREATE)
        with self._context.store.reading() as work:
            accounts = work.accounts.page(PageRequest(1, PAGE_SIZE_MAX)).items
        return tuple(item.name for item in accounts if item.may(Permission.OTA_AUDIT) and item.name != by.name)

    def _check_new_password(self, password: str) -> None:
        if not PASSWORD_LENGTH_MIN <= len(password) <= _PASSWORD_LENGTH_MAX:
            raise InvalidInputError(
                "bad-password",
                f"password: expected {PASSWORD_LENGTH_MIN} to {_PASSWORD_LENGTH_MAX} characters, got {len(password)}",
            )

    def _hash(self, password: str) -> str:
        with self._checks:
            return self._hasher.hash(password, salt=self._context.draw(16))

    def _verify(self, password_hash: str, password: str) -> bool:
        with self._checks:
            try:
                return self._hasher.verify(password_hash, password[: _PASSWORD_LENGTH_MAX + 1])
            except (VerificationError, InvalidHashError):
                return False

    def _has_too_many_failures(self, name: str, now: datetime) -> bool:
        with self._failures_lock:
            count, since = self._failures.get(name, (0, now))
        return count >= _FAILURES_MAX and now - since < timedelta(seconds=_FAILURES_WINDOW_S)

    def _count_failure(self, name: str, now: datetime) -> None:
        with self._failures_lock:
            count, since = self._failures.pop(name, (0, now))
            if now - since >= timedelta(seconds=_FAILURES_WINDOW_S):
                count, since = 0, now
            self._failures[name] = (count + 1, since)
            while len(self._failures) > _FAILURES_NAMES_MAX:
                self._failures.popitem(last=False)


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
