"""Passwords are checked outside of transactions, few at a time."""

from concurrent.futures import ThreadPoolExecutor, as_completed
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import islice
from threading import Event, Lock

import pytest
from bmsota_cloud.domain.accounts import Role
from bmsota_cloud.domain.errors import CloudError, LoginError, OverloadedError
from bmsota_cloud.services import AccountService
from bmsota_cloud.services.limits import LOGIN_PAIR, Counted, RateLimits

PASSWORD = "correct horse battery"
NEW = "another password 1"


@dataclass
class Diary:
    """What happened, in order."""

    lines: list[str] = field(default_factory=list)


class WatchedStore:
    """A store that writes down when its write transactions begin and end."""

    def __init__(self, store, diary):
        self._store = store
        self._diary = diary
        self.reading = store.reading

    @contextmanager
    def transaction(self):
        self._diary.lines.append("begin")
        try:
            with self._store.transaction() as work:
                yield work
        finally:
            self._diary.lines.append("end")


class WatchedHasher:
    """A hasher that writes down its calls, and can be held in the middle of one."""

    def __init__(self, hasher, diary):
        self._hasher = hasher
        self._diary = diary
        self.go_on = Event()
        self.go_on.set()
        self.under_way = 0
        self.under_way_max = 0
        self._lock = Lock()

    def hash(self, password, *, salt):
        self._diary.lines.append("argon2")
        return self._hasher.hash(password, salt=salt)

    def verify(self, password_hash, password):
        self._diary.lines.append("argon2")
        with self._lock:
            self.under_way += 1
            self.under_way_max = max(self.under_way_max, self.under_way)
        assert self.go_on.wait(30)
        with self._lock:
            self.under_way -= 1
        return self._hasher.verify(password_hash, password)


@dataclass
class Watched:
    accounts: AccountService
    hasher: WatchedHasher
    diary: Diary


@pytest.fixture
def watched(world):
    diary = Diary()
    context = world.cloud.services.accounts._context
    object.__setattr__(context, "store", WatchedStore(context.store, diary))
    accounts = AccountService(context, RateLimits(context.store))
    hasher = accounts._passwords._hasher = WatchedHasher(accounts._passwords._hasher, diary)
    diary.lines.clear()
    return Watched(accounts, hasher, diary)


def never_inside(lines):
    depth = 0
    for line in lines:
        depth += {"begin": 1, "end": -1}.get(line, 0)
        assert line != "argon2" or depth == 0, lines


def test_argon2_never_runs_inside_a_write_transaction(world, watched):
    """Log in (right, wrong, unknown), change the password (right, wrong, unusable), create an account."""
    carol, now = world.people["carol"], world.now
    for call, hashes in (
        (lambda: watched.accounts.log_in(name="carol", password=PASSWORD, now=now), 1),
        (lambda: watched.accounts.log_in(name="carol", password="wrong", now=now), 1),
        (lambda: watched.accounts.log_in(name="nobody", password="wrong", now=now), 1),
        (lambda: watched.accounts.change_password(account=carol, old="wrong", new=NEW, now=now), 1),
        (lambda: watched.accounts.change_password(account=carol, old=PASSWORD, new="short", now=now), 1),
        (lambda: watched.accounts.change_password(account=carol, old=PASSWORD, new=NEW, now=now), 2),
        (
            lambda: watched.accounts.create(
                name="new", email="n@example.org", role=Role.VIEWER, password=NEW, now=now, by=world.people["adam"]
            ),
            1,
        ),
        # Who may not create accounts can't make us work for it.
        (
            lambda: watched.accounts.create(
                name="newer", email="n@example.org", role=Role.VIEWER, password=NEW, now=now, by=carol
            ),
            0,
        ),
    ):
        watched.diary.lines.clear()
        with suppress(CloudError):
            call()
        never_inside(watched.diary.lines)
        assert watched.diary.lines.count("argon2") == hashes, watched.diary.lines
        assert "begin" in watched.diary.lines


def test_a_password_that_was_changed_meanwhile_is_not_right_any_more(world, watched):
    """Between the check and the transaction another session changes it."""
    verify = watched.hasher.verify

    def slowly(password_hash, password):
        is_right = verify(password_hash, password)
        watched.hasher.verify = verify
        world.services.accounts.change_password(
            account=world.people["carol"], old=PASSWORD, new=NEW, now=world.now, address="elsewhere"
        )
        return is_right

    watched.hasher.verify = slowly
    with pytest.raises(LoginError):
        watched.accounts.log_in(name="carol", password=PASSWORD, now=world.now)


def test_a_flood_of_logins_is_refused_and_who_is_known_gets_through(world, watched):
    """Two at a time; six strangers at the most; what comes beyond is told to come back and does not count as a try."""
    known = world.services.accounts.log_in(name="carol", password=PASSWORD, now=world.now, address="198.51.100.1")
    watched.hasher.go_on.clear()
    with ThreadPoolExecutor(20) as pool:
        strangers = [
            pool.submit(
                watched.accounts.log_in, name="olaf", password="wrong", now=world.now, address=f"192.0.2.{number}"
            )
            for number in range(16)
        ]
        # Ten are refused at once, while the hasher holds the others.
        for stranger in islice(as_completed(strangers, 30), 10):
            with pytest.raises(OverloadedError) as caught:
                stranger.result()
            assert caught.value.retry_after_s == 2
        owner = pool.submit(
            watched.accounts.log_in,
            name="carol",
            password=PASSWORD,
            now=world.now,
            address="192.0.2.200",
            device=known.device,
        )
        watched.hasher.go_on.set()
        assert owner.result(30).account.name == "carol"
        outcomes = [stranger.exception(30) for stranger in strangers]
    assert watched.hasher.under_way_max == 2
    assert sorted(outcome.code for outcome in outcomes) == ["busy"] * 10 + ["wrong-login"] * 6
    for number, outcome in enumerate(outcomes):
        if outcome.code == "busy":
            # It was not judged, so it left no trace in the counters.
            pair = Counted(LOGIN_PAIR, (f"192.0.2.{number}", "olaf"))
            assert watched.accounts._limits.used(pair, world.now) == 0
