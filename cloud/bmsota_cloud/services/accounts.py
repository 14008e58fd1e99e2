"""Accounts: creating them, logging in, and who a session belongs to.

A session is a random token; only its SHA-256 is stored, so a stolen database logs nobody in, and every session can be
ended. The same sessions serve the pages (cookie) and the REST API (bearer). Passwords are argon2id.

A login also gives a *device token*, which a browser keeps: it says that this browser has logged in as this name before, and
is worth nothing else. With it, or from an address of an earlier login, tries are counted by themselves, so nothing that
strangers do keeps the owner out (`bmsota_cloud.services.limits`).
"""

from __future__ import annotations

import hmac
import re
from base64 import urlsafe_b64decode, urlsafe_b64encode
from binascii import Error as Base64Error
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from typing import TYPE_CHECKING

from bmsota_cloud.domain.accounts import (
    PROJECTS_MAX,
    Account,
    LoginSession,
    Permission,
    Role,
    Scope,
    ScopeKind,
    require,
)
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, LoginError, NotAllowedError, NotFoundError
from bmsota_cloud.domain.outbox import Mail
from bmsota_cloud.domain.paging import PAGE_SIZE_MAX, Page, PageRequest
from bmsota_cloud.domain.projects import check_project_name
from bmsota_cloud.services.audit import acting, note
from bmsota_cloud.services.limits import (
    ALERTED,
    LOGIN_DEVICE,
    LOGIN_NAME,
    TOLD,
    UNDER_ATTACK_FROM,
    Counted,
    RateLimits,
    address_digest,
    login_tries,
    password_tries,
)
from bmsota_cloud.services.passwords import PASSWORD_LENGTH_MAX, PASSWORD_LENGTH_MIN, Passwords
from bmsota_cloud.services.platform_secret import PlatformSecret
from bmsota_cloud.services.tokens import refuse_token

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from bmsota_cloud.services.audit import Act
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.storage.base import Work

__all__ = ["DEVICE_TOKEN_VALID_S", "PASSWORD_LENGTH_MIN", "AccountService", "Login"]

_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,63}", re.ASCII)
# Enough to catch a name typed into the wrong box; whether the address exists, only a mail can show.
_EMAIL = re.compile(r"[^@\s<>,;\x00-\x1f\x7f]{1,64}@[^@\s<>,;\x00-\x1f\x7f]{1,189}", re.ASCII)

# The last sight of a session is written no more often than this, or every page view would be a write.
_SEEN_EVERY_S = 60

# Half a year: who has not logged in for longer is a stranger again, and gets in as one.
DEVICE_TOKEN_VALID_S = 180 * 24 * 3600
_DEVICE_NONCE_SIZE_BYTES, _DEVICE_TIME_SIZE_BYTES, _DEVICE_MAC_SIZE_BYTES = 12, 5, 16
# Addresses remembered of an account: an office, a home, a telephone, and what these were a year ago.
_ADDRESSES_MAX = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """A fresh session. The token is shown once, here."""

    token: str
    csrf_token: str
    device: str
    """Tells the next login from here from a stranger's; see the module."""
    account: Account
    expires_at: datetime


class AccountService:
    """One method per use case."""

    def __init__(self, context: Context, limits: RateLimits) -> None:
        self._context = context
        self._limits = limits
        self._passwords = Passwords(context)
        self._device_secret = PlatformSecret(context, "login-device-key")

    def create(
        self,
        *,
        name: str,
        email: str,
        role: Role,
        password: str,
        now: datetime,
        scope: Scope | None = None,
        by: Account | None = None,
        address: str = "",
    ) -> Account:
        """Add an account. *by* is None only for the command line, whose user owns the data folder anyway.

        Without *scope* it sees everything.

        Raises:
            InvalidInputError: name, address, password or scope can't be used, or the scope does not go with the role.
            ConflictError: the name is taken.
            NotAllowedError: *by* may not manage accounts.
            OverloadedError: too many passwords are being checked.
        """
        who = "platform" if by is None else by.name
        # Hashed before the transaction begins: 0.15 s of argon2 must not hold up every other writer.
        may_hash = (by is None or by.may(Permission.ACCOUNT_MANAGE)) and _is_usable(password)
        password_hash = self._passwords.hash(password) if may_hash else ""
        scope = scope or Scope()
        with acting(
            self._context, who=who, action="account.create", subject=f"account {name}", now=now, address=address
        ) as act:
            if by is not None:
                require(by, Permission.ACCOUNT_MANAGE)
            if not _NAME.fullmatch(name):
                raise InvalidInputError("bad-name", f"name: expected 1 to 64 of a-z 0-9 . _ -, got {name[:80]!r}")
            if not _EMAIL.fullmatch(email):
                raise InvalidInputError("bad-email", f"email: expected a mail address, got {email[:80]!r}")
            _check_new_password(password)
            if act.work.accounts.get(name) is not None:
                raise ConflictError("name-taken", f"the name {name} is taken")
            _check_scope(act.work, role, scope)
            account = Account(
                name=name,
                email=email,
                role=role,
                password_hash=password_hash,
                created_at=now,
                sees=scope.kind,
                projects=scope.projects,
                customer=scope.customer,
            )
            act.work.accounts.add(account)
            act.detail = f"{role} <{email}>, sees {scope}"
        return account

    def change(
        self,
        name: str,
        *,
        by: Account,
        now: datetime,
        role: Role | None = None,
        scope: Scope | None = None,
        address: str = "",
    ) -> Account:
        """Change what an account may do and see; at once, also in its open sessions.

        Raises:
            NotAllowedError: *by* may not manage accounts.
            NotFoundError: there is no such account.
            InvalidInputError: the scope can't be used, or does not go with the role.
            ConflictError: it is the account of *by*.
        """
        with self._managing(name, "account.change", by, now, address) as (act, account):
            new_role, new_scope = role or account.role, scope or account.scope
            _check_scope(act.work, new_role, new_scope)
            changed = replace(
                account, role=new_role, sees=new_scope.kind, projects=new_scope.projects, customer=new_scope.customer
            )
            act.work.accounts.save(changed)
            before, after = (f"{item.role}, sees {item.scope}" for item in (account, changed))
            act.detail = f"{before} -> {after}"
        return changed

    def disable(self, name: str, *, by: Account | None, now: datetime, address: str = "") -> Account:
        """End all sessions of an account and let it open no other. It stays, because the audit log and tasks name it.

        Raises:
            NotAllowedError, NotFoundError, ConflictError: as `change`.
        """
        with self._managing(name, "account.disable", by, now, address) as (act, account):
            changed = replace(account, disabled_at=account.disabled_at or now)
            act.work.accounts.save(changed)
            act.work.accounts.delete_sessions_of(name)
        return changed

    def enable(self, name: str, *, by: Account | None, now: datetime, address: str = "") -> Account:
        """Let a disabled account log in again, with the password that it had.

        Raises:
            NotAllowedError, NotFoundError, ConflictError: as `change`.
        """
        with self._managing(name, "account.enable", by, now, address) as (act, account):
            changed = replace(account, disabled_at=None)
            act.work.accounts.save(changed)
        return changed

    def reset(self, name: str, *, password: str, by: Account | None, now: datetime, address: str = "") -> None:
        """Give an account another password, and end all its sessions and API tokens.

        Raises:
            NotAllowedError, NotFoundError, ConflictError: as `change`; the own password is changed with the current one.
            InvalidInputError: *password* can't be used.
            OverloadedError: too many passwords are being checked.
        """
        may_hash = (by is None or by.may(Permission.ACCOUNT_MANAGE)) and _is_usable(password)
        password_hash = self._passwords.hash(password) if may_hash else ""
        with self._managing(name, "account.reset", by, now, address) as (act, account):
            _check_new_password(password)
            act.work.accounts.save(replace(account, password_hash=password_hash))
            act.work.accounts.delete_sessions_of(name)
            # Who has the old password may have made tokens with it.
            act.work.accounts.delete_tokens_of(name)

    @contextmanager
    def _managing(
        self, name: str, action: str, by: Account | None, now: datetime, address: str
    ) -> Iterator[tuple[Act, Account]]:
        """*by* is None only for the command line, whose user owns the data folder anyway."""
        who, subject = "platform" if by is None else by.name, f"account {name[:64]}"
        with acting(self._context, who=who, action=action, subject=subject, now=now, address=address) as act:
            if by is None:
                account = act.work.accounts.lock(name)
                if account is None:
                    raise NotFoundError("no-such-account", f"no account {name[:64]}")
                yield act, account
                return
            require(by, Permission.ACCOUNT_MANAGE)
            if name == by.name:
                raise ConflictError("own-account", f"{name} is your own account; have another administrator do it")
            # Both, in one order: of two administrators who disable each other at the same time, one is too late.
            locked = {each: act.work.accounts.lock(each) for each in sorted({name, by.name})}
            own, account = locked[by.name], locked[name]
            if own is None or not own.may(Permission.ACCOUNT_MANAGE):
                raise NotAllowedError("not-allowed", f"{by.name} may not manage accounts any more")
            if account is None:
                raise NotFoundError("no-such-account", f"no account {name[:64]}")
            yield act, account

    def log_in(self, *, name: str, password: str, now: datetime, address: str = "", device: str = "") -> Login:
        """Check the password and open a session.

        Args:
            name: of the account.
            password: in clear.
            now: the platform's time.
            address: where the request comes from.
            device: the token of an earlier login from the same browser, if it has one.

        Raises:
            LoginError: "wrong-login".
            RateLimitedError: "too-many-tries": the password was not looked at.
            OverloadedError: too many passwords are being checked.
        """
        if not _NAME.fullmatch(name):
            # It is nobody's name, whatever it is: often the password. It is not written anywhere.
            name = ""
        with self._context.store.reading() as work:
            found = work.accounts.get(name)
            is_known_place = work.accounts.knows_address(name, address_digest(address))
        nonce = self._device_nonce(device, name, now)
        is_known = is_known_place or nonce is not None
        if nonce is not None:
            tries: tuple[Counted, ...] = (Counted(LOGIN_DEVICE, (nonce.hex(), name)),)
        else:
            tries = login_tries(self._limits, name=name, address=address, is_known=is_known, now=now)
        self._admit(
            tries, action="account.log_in", what="too many wrong passwords", name=name, address=address, now=now
        )
        is_counted = False
        try:
            # Checked before the transaction begins: 0.15 s of argon2 must not hold up every other writer.
            is_right = self._passwords.verify(
                None if found is None else found.password_hash, password, is_known=is_known
            )
            opened = self._new_session(found, now, address) if is_right and found is not None else None
            with acting(
                self._context,
                who=name or "stranger",
                action="account.log_in",
                subject=f"account {name}",
                now=now,
                address=address,
            ) as act:
                account = act.work.accounts.get(name)
                if opened is None or account is None or account.password_hash != opened[0].account.password_hash:
                    is_counted = True
                    self._limits.keep(tries, act.work, now)
                    self._alert(act.work, name, account, now)
                    act.refusal = LoginError("wrong-login", "wrong name or password")
                elif account.disabled_at is not None:
                    # Said only to who knows the password.
                    act.refusal = LoginError("account-disabled", "this account is disabled; ask an administrator")
                else:
                    self._limits.forget(tries[0], act.work)
                    if not self._context.clock_guard.is_waiting:
                        act.work.accounts.delete_sessions_before(now)
                    act.work.accounts.save_address(name, address_digest(address), now, keep=_ADDRESSES_MAX)
                    act.work.accounts.add_session(opened[1])
        finally:
            # Neither a success counts, nor what the platform could not judge.
            if not is_counted:
                self._limits.give_back(tries, now)
        assert opened is not None  # otherwise the refusal was raised
        return opened[0]

    def _new_session(self, account: Account, now: datetime, address: str) -> tuple[Login, LoginSession]:
        token = _text(self._context.draw(32))
        session = LoginSession(
            token_sha256=sha256(token.encode()).digest(),
            account_name=account.name,
            csrf_token=_text(self._context.draw(32)),
            created_at=now,
            last_seen_at=now,
            expires_at=now + timedelta(seconds=self._context.settings.session_valid_s),
            address=address[:64],
        )
        login = Login(
            token=token,
            csrf_token=session.csrf_token,
            device=self._device_token(account.name, now),
            account=account,
            expires_at=session.expires_at,
        )
        return login, session

    def who(self, token: str, now: datetime) -> tuple[Account, LoginSession]:
        """Whose session this is.

        Raises:
            LoginError: there is no such session, or it is over.
        """
        digest = sha256(token.encode()).digest()
        with self._context.store.reading() as work:
            session = work.accounts.session(digest)
            account = None if session is None else work.accounts.get(session.account_name)
        if session is None or account is None or account.disabled_at is not None:
            raise LoginError("no-session", "your session has ended; log in again")
        idle = now - session.last_seen_at
        if not self._is_open(session, now):
            raise LoginError("session-over", "your session has ended; log in again")
        if idle >= timedelta(seconds=_SEEN_EVERY_S) and not self._context.clock_guard.is_waiting:
            session = replace(session, last_seen_at=now)
            with self._context.store.transaction() as work:
                # It may have been closed in between; then there is nothing to save.
                if work.accounts.session(digest) is not None:
                    work.accounts.save_session(session)
        return account, session

    def sessions(self, name: str, *, by: Account, now: datetime) -> tuple[LoginSession, ...]:
        """The open sessions of an account, those seen last first. Everybody may look at his own.

        Raises:
            NotAllowedError: it is another's, and *by* may not manage accounts.
            NotFoundError: there is no such account.
        """
        if name != by.name:
            require(by, Permission.ACCOUNT_MANAGE)
        with self._context.store.reading() as work:
            if work.accounts.get(name) is None:
                raise NotFoundError("no-such-account", f"no account {name[:64]}")
            found = work.accounts.sessions_of(name)
        return tuple(session for session in found if self._is_open(session, now))

    def end_sessions(
        self, name: str, *, by: Account, now: datetime, session_id: str | None = None, address: str = ""
    ) -> int:
        """End one session of an account, or all of them; how many. Everybody may end his own.

        Raises:
            NotAllowedError: it is another's, and *by* may not manage accounts.
            NotFoundError: there is no such account, or no such session.
        """
        subject = f"account {name[:64]}"
        with acting(
            self._context, who=by.name, action="account.end_sessions", subject=subject, now=now, address=address
        ) as act:
            refuse_token(by, "end sessions")
            if name != by.name:
                require(by, Permission.ACCOUNT_MANAGE)
            if act.work.accounts.get(name) is None:
                raise NotFoundError("no-such-account", f"no account {name[:64]}")
            found = [
                session
                for session in act.work.accounts.sessions_of(name)
                if self._is_open(session, now) and session_id in {None, session.id}
            ]
            if session_id is not None and not found:
                raise NotFoundError("no-such-session", f"{name} has no session {session_id[:16]}")
            for session in found:
                act.work.accounts.delete_session(session.token_sha256)
            act.detail = f"{len(found)} ended"
        return len(found)

    def _is_open(self, session: LoginSession, now: datetime) -> bool:
        idle = now - session.last_seen_at
        return now < session.expires_at and idle <= timedelta(seconds=self._context.settings.session_idle_s)

    def log_out(self, token: str) -> None:
        """End the session; an unknown one is ended already."""
        with self._context.store.transaction() as work:
            work.accounts.delete_session(sha256(token.encode()).digest())

    def change_password(self, *, account: Account, old: str, new: str, now: datetime, address: str = "") -> None:
        """Change the password and end all sessions of the account.

        Raises:
            LoginError: *old* is wrong.
            InvalidInputError: *new* can't be used.
            RateLimitedError: "too-many-tries": *old* was not looked at.
            OverloadedError: too many passwords are being checked.
        """
        refuse_token(account, "change a password")
        tries = password_tries(name=account.name, address=address)
        what = "too many wrong passwords"
        self._admit(tries, action="account.password", what=what, name=account.name, address=address, now=now)
        is_counted = False
        try:
            with self._context.store.reading() as work:
                found = work.accounts.get(account.name)
            is_right = self._passwords.verify(None if found is None else found.password_hash, old, is_known=True)
            new_hash = self._passwords.hash(new) if is_right and _is_usable(new) else ""
            with acting(
                self._context,
                who=account.name,
                action="account.password",
                subject=f"account {account.name}",
                now=now,
                address=address,
            ) as act:
                current = act.work.accounts.get(account.name)
                if not is_right or found is None or current is None or current.password_hash != found.password_hash:
                    is_counted = True
                    self._limits.keep(tries, act.work, now)
                    act.refusal = LoginError("wrong-login", "the current password is wrong")
                else:
                    _check_new_password(new)
                    self._limits.forget(tries[0], act.work)
                    act.work.accounts.save(replace(current, password_hash=new_hash))
                    act.work.accounts.delete_sessions_of(account.name)
        finally:
            if not is_counted:
                self._limits.give_back(tries, now)

    def page(self, request: PageRequest, *, by: Account, text: str = "", role: Role | None = None) -> Page[Account]:
        """By name. *text*: a part of name or mail address; empty: all.

        Raises:
            NotAllowedError: *by* may not manage accounts.
        """
        require(by, Permission.ACCOUNT_MANAGE)
        with self._context.store.reading() as work:
            return work.accounts.page(request, text=text, role=role)

    def last_logins(self, names: Sequence[str], *, by: Account) -> Mapping[str, datetime]:
        """When each of *names* has logged in last; without those of whom that is not known.

        Raises:
            NotAllowedError: *by* may not manage accounts.
        """
        require(by, Permission.ACCOUNT_MANAGE)
        with self._context.store.reading() as work:
            return work.accounts.last_logins(names)

    def get(self, name: str, *, by: Account) -> Account:
        """One account.

        Raises:
            NotAllowedError: *by* may not manage accounts.
            NotFoundError: there is no such account.
        """
        require(by, Permission.ACCOUNT_MANAGE)
        with self._context.store.reading() as work:
            account = work.accounts.get(name)
        if account is None:
            raise NotFoundError("no-such-account", f"no account {name[:64]}")
        return account

    def auditors(self, *, by: Account) -> tuple[str, ...]:
        """The names a task of *by* may have as auditor."""
        require(by, Permission.OTA_CREATE)
        with self._context.store.reading() as work:
            accounts = work.accounts.page(PageRequest(1, PAGE_SIZE_MAX)).items
        return tuple(item.name for item in accounts if item.may(Permission.OTA_AUDIT) and item.name != by.name)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _admit(
        self, tries: Sequence[Counted], *, action: str, what: str, name: str, address: str, now: datetime
    ) -> None:
        """Count a try before it is judged; a refusal is in the audit log once an hour, however many there are."""
        full = self._limits.take(tries, now)
        if full is None:
            return
        self._context.counters.add("tries_refused")
        refusal = self._limits.refuse(full, now, code="too-many-tries", what=what)
        if self._limits.take((Counted(TOLD, (full.limit.name, *full.of)),), now) is None:
            with self._context.store.transaction() as work:
                note(
                    work,
                    who=name or "stranger",
                    action=action,
                    subject=f"account {name}",
                    outcome=refusal.code,
                    now=now,
                    detail=f"{refusal} ({full.limit.name}); more of these in the next hour are not in this log",
                    address=address,
                )
        raise refusal

    def _alert(self, work: Work, name: str, account: Account | None, now: datetime) -> None:
        """Tell the owner once a day that strangers try passwords from many addresses, and note it."""
        by_name = Counted(LOGIN_NAME, (name,))
        if self._limits.used(by_name, now, work) < UNDER_ATTACK_FROM:
            return
        alerted = Counted(ALERTED, (name,))
        if self._limits.take((alerted,), now, work) is not None:
            return
        self._limits.keep((alerted,), work, now)
        note(
            work,
            who="platform",
            action="account.attacked",
            subject=f"account {name}",
            outcome="slowed-down",
            now=now,
            detail=f"{UNDER_ATTACK_FROM} wrong passwords within a day; addresses that it does not know get one try an hour",
        )
        if account is not None:
            work.outbox.add(
                Mail(
                    recipient=account.email,
                    subject=f"Many wrong passwords for your account {account.name}",
                    body=(
                        f"More than {UNDER_ATTACK_FROM} wrong passwords were typed for the account {account.name} within "
                        f"a day.\n\nFrom browsers and addresses that you have used before, log in as always. From "
                        f"elsewhere you have one try\nan hour until it stops. Nobody has logged in with them; if you use "
                        f"your password elsewhere too, change it.\n{self._context.settings.pages_url.rstrip('/')}/\n"
                    ),
                    task_id=None,
                    created_at=now,
                    next_try_at=now,
                )
            )

    def _device_token(self, name: str, now: datetime) -> str:
        issued = int(now.timestamp()).to_bytes(_DEVICE_TIME_SIZE_BYTES, "big")
        content = self._context.draw(_DEVICE_NONCE_SIZE_BYTES) + issued
        return _text(content + self._device_mac(content, name))

    def _device_nonce(self, token: str, name: str, now: datetime) -> bytes | None:
        """What tells this browser from others, if its token is ours, for this name, and not too old."""
        try:
            data = urlsafe_b64decode(token + "=" * (-len(token) % 4))
        except (Base64Error, ValueError):
            return None
        content, mac = data[:-_DEVICE_MAC_SIZE_BYTES], data[-_DEVICE_MAC_SIZE_BYTES:]
        if len(content) != _DEVICE_NONCE_SIZE_BYTES + _DEVICE_TIME_SIZE_BYTES:
            return None
        if not hmac.compare_digest(mac, self._device_mac(content, name)):
            return None
        issued_at = datetime.fromtimestamp(int.from_bytes(content[_DEVICE_NONCE_SIZE_BYTES:], "big"), UTC)
        is_fresh = now - issued_at < timedelta(seconds=DEVICE_TOKEN_VALID_S)
        return content[:_DEVICE_NONCE_SIZE_BYTES] if is_fresh else None

    def _device_mac(self, content: bytes, name: str) -> bytes:
        message = b"login-device:" + content + name.encode()
        return hmac.digest(self._device_secret(), message, "sha256")[:_DEVICE_MAC_SIZE_BYTES]


def _check_scope(work: Work, role: Role, scope: Scope) -> None:
    """Refuse a scope that can't be used, or not with this role.

    Raises:
        InvalidInputError: says why.
    """
    if (role is Role.CUSTOMER) != (scope.kind is ScopeKind.CUSTOMER):
        raise InvalidInputError(
            "bad-scope",
            f"scope: an account with the role {Role.CUSTOMER} sees the vehicles of one customer, no other does",
        )
    if role is Role.ADMINISTRATOR and not scope.is_everything:
        raise InvalidInputError("bad-scope", "scope: an administrator sees everything")
    if scope.kind is not ScopeKind.PROJECTS and scope.projects:
        raise InvalidInputError("bad-scope", f"scope: projects are not for the scope {scope.kind}")
    if scope.kind is not ScopeKind.CUSTOMER and scope.customer:
        raise InvalidInputError("bad-scope", f"scope: a customer is not for the scope {scope.kind}")
    if len(scope.projects) > PROJECTS_MAX:
        raise InvalidInputError("bad-scope", f"projects: expected at most {PROJECTS_MAX}, got {len(scope.projects)}")
    for project in scope.projects:
        check_project_name(project)
    if scope.kind is ScopeKind.CUSTOMER and work.customers.get(scope.customer) is None:
        raise InvalidInputError("bad-scope", f"scope: no customer {scope.customer[:64]!r}; create it first")


def _is_usable(password: str) -> bool:
    return PASSWORD_LENGTH_MIN <= len(password) <= PASSWORD_LENGTH_MAX


def _check_new_password(password: str) -> None:
    if not _is_usable(password):
        raise InvalidInputError(
            "bad-password",
            f"password: expected {PASSWORD_LENGTH_MIN} to {PASSWORD_LENGTH_MAX} characters, got {len(password)}",
        )


def _text(data: bytes) -> str:
    return urlsafe_b64encode(data).decode().rstrip("=")
