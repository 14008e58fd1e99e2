"""How often strangers and users may try: logins, old passwords, approval codes, code mails, requests of units.

What the limits must do: nobody can guess on, and no stranger can keep anybody else out. So a try is counted several times,
against counters of different width, and each has its own reason:

* by address and name: a person's bad day, and a stranger who guesses one password;
* by address over all names: a stranger who tries one password on many names;
* by name over all addresses: many strangers, or one with many addresses. This one *slows down* first (an address that the
  account has never logged in from gets one try an hour), and only far behind that leaves the account to the browsers and
  addresses that it has logged in from before. Those are counted by themselves alone: what strangers do never touches them.
  (OWASP calls this "device cookies"; that 100 failures are where care begins is NIST SP 800-63B, 5.2.2.)

Strategy: the counters of this process are in memory, because a try is counted *before* it is judged; otherwise many at once
would all pass. Those that make guessing hard are written too, in the transaction that records the failure, and read before a
try passes; so they survive a restart and count over several processes. Their keys are digests: names typed into a login
form are sometimes passwords. All are bounded; the emptiest counter goes first, so that nobody loses his own by filling up
the others.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC
from hashlib import blake2b
from threading import Lock
from typing import TYPE_CHECKING

from bmsota_cloud.domain.clock_guard import ClockGuard
from bmsota_cloud.domain.errors import ConflictError, RateLimitedError
from bmsota_cloud.domain.limits import Level, Rate, address_groups, in_words
from bmsota_cloud.domain.outbox import Mail
from bmsota_cloud.services.audit import note

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from datetime import datetime

    from bmsota_cloud.domain.ota_tasks import OtaTask
    from bmsota_cloud.services.context import Context
    from bmsota_cloud.storage.base import Store, Work

__all__ = [
    "ACCOUNT_LOGINS",
    "PLATFORM_LOGINS",
    "CodeLimits",
    "Counted",
    "Limit",
    "LoginLimits",
    "RateLimits",
    "address_digest",
    "login_tries",
    "password_tries",
]

_HOUR_S, _DAY_S = 3600, 24 * 3600

# Counters remembered of each limit, in memory, and of all together in the database.
_COUNTERS_MAX = 10_000
# How many of the emptiest go at once when there is no room: sorting ten thousand for each new one would be dear.
_EVICTED_AT_ONCE = 1_000


@dataclass(frozen=True, slots=True)
class Limit:
    """A kind of counter."""

    name: str
    rate: Rate
    is_kept: bool = True
    """Whether the database has it too."""


# Ten wrong passwords are more than a person with a bad day needs; after that it is one in six minutes.
LOGIN_PAIR = Limit("login address+name", Rate(10, _HOUR_S))
# The same counter for an address the account does not know while its name is under attack. Never a way to more tries.
LOGIN_PAIR_UNDER_ATTACK = Limit(LOGIN_PAIR.name, Rate(1, _HOUR_S))
# A browser that has logged in as this name before.
LOGIN_DEVICE = Limit("login device", Rate(10, _HOUR_S))
# An office behind one address may have many bad days; who is known does not count here.
LOGIN_ADDRESS = Limit("login address", Rate(20, _HOUR_S))
LOGIN_SITE = Limit("login site", Rate(80, _HOUR_S))
# Guesses a day at one name from all addresses it does not know: at twelve characters and more, nothing.
LOGIN_NAME = Limit("login name", Rate(1000, _DAY_S))
UNDER_ATTACK_FROM = 100


@dataclass(frozen=True, slots=True)
class LoginLimits:
    """What one kind of login counts against."""

    pair: Limit
    pair_under_attack: Limit
    address: Limit
    site: Limit
    name: Limit


ACCOUNT_LOGINS = LoginLimits(LOGIN_PAIR, LOGIN_PAIR_UNDER_ATTACK, LOGIN_ADDRESS, LOGIN_SITE, LOGIN_NAME)

# Another platform on a gateway's link, by its code: a machine that has a wrong password tries it three times and then each half an hour
# (GB/T 32960.3, chapter 5). Counted apart from people, who may sit behind the same address.
PLATFORM_PAIR = Limit("platform login address+code", Rate(10, _HOUR_S))
PLATFORM_LOGINS = LoginLimits(
    PLATFORM_PAIR,
    Limit(PLATFORM_PAIR.name, Rate(1, _HOUR_S)),
    Limit("platform login address", Rate(20, _HOUR_S)),
    Limit("platform login site", Rate(80, _HOUR_S)),
    Limit("platform login code", Rate(1000, _DAY_S)),
)

# Who is logged in and types the old password. By name over all addresses, because a stolen session moves freely.
PASSWORD_PAIR = Limit("old password address+name", Rate(10, _HOUR_S))
PASSWORD_NAME = Limit("old password name", Rate(50, _DAY_S))

# A code has six digits: nine wrong ones in all leave a chance below 1e-5 for the task. Ten years are for ever.
CODE_TASK = Limit("code task", Rate(9, 3653 * _DAY_S))
# Who guesses at one task after the other.
CODE_ACCOUNT = Limit("code account", Rate(18, _DAY_S))
MAIL_TASK = Limit("code mail task", Rate(6, _HOUR_S))
MAIL_ACCOUNT = Limit("code mail account", Rate(60, _HOUR_S))

# Requests without a session at the device API. Many vehicles share one address of a mobile network; a request costs tens of
# microseconds and no write, so this only keeps one address from taking a whole core.
DEVICE_ADDRESS = Limit("device address", Rate(200, 4), is_kept=False)
# Sessions of one unit; its own retries need a few in ten minutes.
DEVICE_SESSIONS = Limit("device sessions", Rate(120, _HOUR_S), is_kept=False)
# Lines in the audit log about failures that cost a stranger nothing.
DEVICE_NOTED = Limit("device noted", Rate(20, _HOUR_S), is_kept=False)
TOLD = Limit("told", Rate(1, _HOUR_S), is_kept=False)
ALERTED = Limit("alerted", Rate(1, _DAY_S))


@dataclass(frozen=True, slots=True)
class Counted:
    """One counter: a limit, and what it counts the tries of."""

    limit: Limit
    of: tuple[str, ...]

    @property
    def key(self) -> bytes:
        digest = blake2b(self.limit.name.encode(), digest_size=16)
        for part in self.of:
            data = part.encode(errors="surrogatepass")
            digest.update(len(data).to_bytes(4, "big") + data)
        return digest.digest()


class RateLimits:
    """All counters of this process. Safe in threads."""

    def __init__(self, store: Store, clock_guard: ClockGuard | None = None) -> None:
        """Without *clock_guard* the clock is believed."""
        self._store = store
        self._clock_guard = ClockGuard.trusting() if clock_guard is None else clock_guard
        self._levels: dict[str, dict[bytes, Level]] = {}
        self._lock = Lock()

    def take(self, counters: Iterable[Counted], now: datetime, work: Work | None = None) -> Counted | None:
        """Count one try against all of them; or, if one is full, against none, and return that one.

        *work* is the transaction under way, if there is one.
        """
        counters, at = tuple(counters), now.timestamp()
        with self._lock:
            if (full := self._full(counters, at)) is not None:
                return full
        # Only who passes here costs a look into the database.
        self._read(counters, work, at)
        with self._lock:
            if (full := self._full(counters, at)) is not None:
                return full
            for counted in counters:
                taken = counted.limit.rate.taken(self._level(counted, at), at)
                assert taken is not None  # none is full
                self._set(counted, taken, at)
        return None

    def give_back(self, counters: Iterable[Counted], now: datetime) -> None:
        """A try that was taken does not count: it was none, or it succeeded."""
        at = now.timestamp()
        with self._lock:
            for counted in counters:
                self._set(counted, self._level(counted, at) - counted.limit.rate.interval_s, at)

    def keep(self, counters: Iterable[Counted], work: Work, now: datetime) -> None:
        """Write what must survive a restart, in the transaction that records the failure."""
        at = now.timestamp()
        # In one order everywhere, or two transactions could wait for each other.
        for counted in sorted(counters, key=lambda counted: counted.key):
            if counted.limit.is_kept:
                rate = counted.limit.rate
                with self._lock:
                    level = rate.bounded(self._level(counted, at), at)
                work.limits.save(
                    counted.key,
                    level,
                    at,
                    nonsense_from=rate.nonsense_from(at),
                    keep=_COUNTERS_MAX,
                    may_forget=not self._clock_guard.is_waiting,
                )

    def forget(self, counted: Counted, work: Work) -> None:
        """Begin again with an empty counter."""
        with self._lock:
            self._levels.get(counted.limit.name, {}).pop(counted.key, None)
        work.limits.delete(counted.key)

    def used(self, counted: Counted, now: datetime, work: Work | None = None) -> int:
        """How many tries count at this time."""
        self._read((counted,), work, now.timestamp())
        with self._lock:
            return counted.limit.rate.used(self._level(counted, now.timestamp()), now.timestamp())

    def wait_s(self, counted: Counted, now: datetime) -> int:
        """In how many seconds the next try is possible."""
        with self._lock:
            return counted.limit.rate.wait_s(self._level(counted, now.timestamp()), now.timestamp())

    def refuse(self, counted: Counted, now: datetime, *, code: str, what: str) -> RateLimitedError:
        """The refusal of a try, with words for when to try again."""
        wait_s = self.wait_s(counted, now)
        return RateLimitedError(code, f"{what}; try again in {in_words(wait_s)}", retry_after_s=wait_s)

    def mend(self, now: datetime) -> None:
        """What this process has counted under a clock that was ahead counts as of now (in the database, `TimesTables.mend` does that)."""
        at = now.timestamp()
        with self._lock:
            for levels in self._levels.values():
                for key, level in levels.items():
                    if (free_at := level.at(at)) != level.free_at:
                        levels[key] = Level(free_at, at)

    # -- inside --------------------------------------------------------------------------------------------------------

    def _level(self, counted: Counted, at: float) -> float:
        known = self._levels.get(counted.limit.name, {}).get(counted.key)
        return 0.0 if known is None else known.at(at)

    def _full(self, counters: Sequence[Counted], at: float) -> Counted | None:
        for counted in counters:
            if counted.limit.rate.taken(self._level(counted, at), at) is None:
                return counted
        return None

    def _set(self, counted: Counted, free_at: float, at: float) -> None:
        levels = self._levels.setdefault(counted.limit.name, {})
        if free_at <= at:
            levels.pop(counted.key, None)
            return
        if counted.key not in levels and len(levels) >= _COUNTERS_MAX:
            emptiest = sorted(levels, key=lambda key: levels[key].free_at)[:_EVICTED_AT_ONCE]
            for key in emptiest:
                del levels[key]
        levels[counted.key] = Level(free_at, at)

    def _read(self, counters: Sequence[Counted], work: Work | None, now: float) -> None:
        kept = [counted for counted in counters if counted.limit.is_kept]
        if not kept:
            return
        keys = [counted.key for counted in kept]
        if work is not None:
            found = work.limits.get(keys)
        else:
            with self._store.reading() as reading:
                found = reading.limits.get(keys)
        with self._lock:
            for counted in kept:
                known = found.get(counted.key)
                level = now if known is None else counted.limit.rate.bounded(known.at(now), now)
                if level > counted.limit.rate.bounded(self._level(counted, now), now):
                    self._set(counted, level, now)


def login_tries(
    limits: RateLimits,
    *,
    name: str,
    address: str,
    is_known: bool,
    now: datetime,
    kinds: LoginLimits | None = None,
) -> tuple[Counted, ...]:
    """What a try to log in counts against, the first one being that of this person at this place. *kinds*: by default of accounts."""
    kinds = kinds or ACCOUNT_LOGINS
    groups = address_groups(address)
    pair = Counted(kinds.pair, (groups[0], name))
    if is_known:
        return (pair,)
    by_name = Counted(kinds.name, (name,))
    if limits.used(by_name, now) >= UNDER_ATTACK_FROM:
        pair = Counted(kinds.pair_under_attack, pair.of)
    by_address = (Counted(limit, (group,)) for limit, group in zip((kinds.address, kinds.site), groups, strict=False))
    return (pair, *by_address, by_name)


def address_digest(address: str) -> bytes:
    """Of the person's own group of addresses: they are compared, never shown."""
    return blake2b(address_groups(address)[0].encode(errors="surrogatepass"), digest_size=16).digest()


def password_tries(*, name: str, address: str) -> tuple[Counted, ...]:
    """What a try of the old password counts against."""
    return (Counted(PASSWORD_PAIR, (address_groups(address)[0], name)), Counted(PASSWORD_NAME, (name,)))


class CodeLimits:
    """What an approval code can bear: wrong tries over all codes of a task, and mails."""

    def __init__(self, limits: RateLimits, context: Context) -> None:
        self._limits = limits
        self._context = context

    def before_try(self, work: Work, task_id: int, who: str, now: datetime) -> None:
        """To be called before a code is compared, in the transaction that compares it.

        Raises:
            ConflictError: "code-locked": too many wrong codes for this task.
            RateLimitedError: "too-many-tries": by this account.
        """
        self._refuse_locked(work, task_id, now)
        by_account = Counted(CODE_ACCOUNT, (who,))
        if self._limits.used(by_account, now, work) >= CODE_ACCOUNT.rate.count:
            raise self._limits.refuse(by_account, now, code="too-many-tries", what=f"too many wrong codes by {who}")

    def wrong(
        self, work: Work, task: OtaTask, *, who: str, now: datetime, mailboxes: Iterable[str], address: str = ""
    ) -> bool:
        """Count a wrong code in the transaction that refuses it; whether the task is locked now.

        The wrong code that locks a task leaves a line in the audit log and a mail to each of *mailboxes*.
        """
        counters = (Counted(CODE_TASK, (str(task.id),)), Counted(CODE_ACCOUNT, (who,)))
        self._limits.take(counters, now, work)
        self._limits.keep(counters, work, now)
        if self._limits.used(counters[0], now, work) < CODE_TASK.rate.count:
            return False
        detail = f"{CODE_TASK.rate.count} wrong codes, the last by {who}; the task takes no more codes"
        note(
            work,
            who="platform",
            action="ota_task.lock",
            subject=f"task {task.id}",
            outcome="locked",
            now=now,
            detail=detail,
            address=address,
        )
        for mailbox in sorted(set(mailboxes)):
            work.outbox.add(
                Mail(
                    recipient=mailbox,
                    subject=f"OTA-{task.id}: locked after {CODE_TASK.rate.count} wrong approval codes",
                    body=(
                        f"Task      OTA-{task.id}\n"
                        f"Project   {task.project}\n"
                        f"Version   {task.software_version}\n"
                        f"Creator   {task.creator}\n"
                        f"\n"
                        f"{CODE_TASK.rate.count} wrong approval codes were typed for this task, the last one by {who}\n"
                        f"at {now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC. Somebody may be guessing. The task takes no more "
                        f"codes;\ncancel it and create a new one. If nobody of you typed them, end the sessions of {who}\n"
                        f"by changing the password.\n"
                        f"{self._context.settings.pages_url.rstrip('/')}/ota/tasks/{task.id}\n"
                    ),
                    task_id=task.id,
                    created_at=now,
                    next_try_at=now,
                )
            )
        return True

    def before_mail(self, work: Work, task_id: int, who: str, now: datetime) -> None:
        """Count a mail with a code, in the transaction that writes it.

        Raises:
            ConflictError: "code-locked": the task takes no more codes.
            RateLimitedError: "too-many-mails": for this task, or by this account.
        """
        self._refuse_locked(work, task_id, now)
        counters = (Counted(MAIL_TASK, (str(task_id),)), Counted(MAIL_ACCOUNT, (who,)))
        full = self._limits.take(counters, now, work)
        if full is not None:
            what = "this task" if full.limit is MAIL_TASK else who
            raise self._limits.refuse(full, now, code="too-many-mails", what=f"too many codes were mailed for {what}")
        self._limits.keep(counters, work, now)

    def _refuse_locked(self, work: Work, task_id: int, now: datetime) -> None:
        by_task = Counted(CODE_TASK, (str(task_id),))
        if self._limits.used(by_task, now, work) >= CODE_TASK.rate.count:
            raise ConflictError(
                "code-locked",
                f"{CODE_TASK.rate.count} wrong codes were typed for this task and it takes no more; "
                "cancel it and create a new one",
            )
