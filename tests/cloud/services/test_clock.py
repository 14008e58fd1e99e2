"""An operator decides that the clock is right, and the audit log says who."""

from datetime import timedelta
from hashlib import sha256

import pytest
from bmsota_cloud.domain.clock_guard import ClockGuard, ClockStep
from bmsota_cloud.domain.errors import ConflictError, LoginError, NotAllowedError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.presence import GatewayLease
from bmsota_cloud.services import RateLimits, stored_frame
from bmsota_cloud.services.limits import LOGIN_NAME, MAIL_ACCOUNT, Counted

from bmsota.gbt32960 import Alarms, Command, Frame, Report, encode

PASSWORD = "correct horse battery"


@pytest.fixture
def guard():
    made = ClockGuard()
    made.read(1_795_334_400 * 10**9, 0)
    return made


def test_an_operator_accepts_the_clock(new_world, guard):
    world = new_world(clock_guard=guard)
    clock, people = world.services.clock, world.people
    with pytest.raises(NotAllowedError):
        clock.accept(by=people["vera"], now=world.now)
    assert clock.is_waiting
    assert clock.status(by=people["vera"]).wait_left_s == 600
    assert not clock.accept(by=people["carol"], now=world.now).is_waiting
    lines = world.services.audit.page(PageRequest(), by=people["adam"], subject="clock").items
    assert [(line.who, line.action, line.outcome) for line in lines] == [
        ("carol", "clock.accept", "done"),
        ("vera", "clock.accept", "not-allowed"),
    ]
    assert lines[0].detail == "after a start; the clock is 0 s ahead of the platform's time"


def _refuse(mail):
    raise OSError("no route")


@pytest.mark.slow
@pytest.mark.parametrize("ahead", [timedelta(hours=2), timedelta(days=1000)])
def test_a_clock_ahead_leaves_no_trace(world, ahead):
    """What was written under it: silence of an upgrade, sessions of people and units, codes, mails, a gateway's lease."""
    services, store = world.services, world.cloud.store
    right = world.now
    world.clock.now = right + ahead
    first = world.approved(1)
    for number in (2, 3):
        world.register(number)
        world.identify(number)
        world.confirm(number)
    second = world.create(2)
    code = world.newest_code()
    third = world.create(3)
    # Its mail was tried in vain, and another process died with it in its hands.
    services.outbox.drain(world.now, _refuse)
    login = services.accounts.log_in(name="vera", password=PASSWORD, now=world.now)
    world.session_of(1, "token")
    with store.transaction() as work:
        work.presence.renew(
            GatewayLease(id="gone", started_at=world.now, lease_until=world.now + timedelta(seconds=30))
        )
        until = world.now + timedelta(seconds=120)
        assert not work.outbox.take(right, 9, by="gone", until=until)
    world.clock.now = right + timedelta(seconds=5)
    step = ClockStep(int((right + ahead).timestamp()) * 10**9, int((right + ahead).timestamp() + 5) * 10**9)
    mended = services.clock.mend(world.now, [step])
    kinds = {"upgrades", "login sessions", "device sessions", "approval codes", "mails", "gateways", "limits"}
    assert set(mended) >= kinds
    # Of the limits too: a code mailed under it counts as one of now, in this process as in the database.
    mails = services.accounts._limits.used(Counted(MAIL_ACCOUNT, ("carol",)), world.now)
    assert mails == RateLimits(store).used(Counted(MAIL_ACCOUNT, ("carol",)), world.now) == 3
    assert services.clock.mend(world.now, [step]) == {}
    with store.reading() as work:
        session = work.accounts.session(sha256(login.token.encode()).digest())
        assert session.expires_at == world.now + timedelta(hours=24)
        unit = work.device.session(sha256(b"token").digest())
        assert unit.expires_at == world.now + timedelta(hours=1)
        assert work.ota_tasks.code(second.id).expires_at == world.now + timedelta(hours=24)
        assert work.outbox.has_due(world.now)
    # The silence begins now.
    limit = timedelta(seconds=first.time_limit_s)
    assert services.upgrades.expire(world.now + limit) == 0
    services.accounts.who(login.token, world.now)
    assert services.outbox.drain(world.now, world.mails.append) == 1
    assert world.mails[-1].task_id == third.id
    world.approve(second, code=code)
    assert services.upgrades.expire(world.now + limit + timedelta(seconds=1)) == 2
    lines = services.audit.page(PageRequest(), by=world.people["adam"], subject="clock").items
    assert [line.action for line in lines] == ["clock.mend"]


def test_a_clock_behind_lets_no_deadline_fire_when_it_is_put_right(world):
    """A restored snapshot says last week; upgrades that were heard of under it are not silent for a week."""
    right = world.now
    world.clock.now = right - timedelta(days=7)
    task = world.approved(1)
    since_ns, until_ns = world.now_ns, world.now_ns + 600 * 10**9
    world.clock.now = right
    assert world.services.clock.mend(right, [ClockStep(since_ns, until_ns)])["upgrades"] == 1
    assert world.services.upgrades.expire(right) == 0
    # One that was silent before stays so.
    assert world.services.clock.mend(right + timedelta(days=1), [ClockStep(since_ns, until_ns)]) == {}
    world.wait(seconds=task.time_limit_s + 1)
    assert world.services.upgrades.expire(world.now) == 1


def test_nothing_is_deleted_while_the_clock_is_not_trusted(new_world, guard):
    world = new_world(clock_guard=guard)
    accounts = world.services.accounts
    login = accounts.log_in(name="vera", password=PASSWORD, now=world.now)
    world.register(1)
    world.identify(1)
    world.upload()
    task = world.create(1)
    code = world.newest_code()
    tries = (Counted(LOGIN_NAME, ("x",)),)
    limits = RateLimits(world.cloud.store, guard)
    limits.take(tries, world.now)
    with world.cloud.store.transaction() as work:
        limits.keep(tries, work, world.now)
    later = world.now + timedelta(days=40)
    assert guard.is_waiting
    accounts.log_in(name="carol", password=PASSWORD, now=later)
    with pytest.raises(LoginError):
        accounts.who(login.token, later)
    with pytest.raises(ConflictError, match="expired"):
        world.approve(task, code=code, now=later)
    with world.cloud.store.transaction() as work:
        limits.keep((Counted(LOGIN_NAME, ("y",)),), work, later)
        assert work.limits.get([tries[0].key])
    # The clock is put right: session, code and counter are what they were.
    accounts.who(login.token, world.now + timedelta(hours=1))
    with world.cloud.store.reading() as work:
        assert work.accounts.session(sha256(login.token.encode()).digest()).last_seen_at == world.now
    world.approve(task, code=code)
    # Trusted, what is over goes.
    guard.accept()
    accounts.log_in(name="carol", password=PASSWORD, now=later)
    with pytest.raises(LoginError):
        accounts.who(login.token, world.now)


def test_reports_of_three_vehicles_in_real_time_vouch_for_the_clock(new_world, guard):
    """Backfill says what time it was, not what time it is."""
    world = new_world(clock_guard=guard)

    def put(number, command):
        vin = world.vin(number)
        raw = encode(Frame(command=command, vin=vin, message=Report(world.now, (Alarms(0),))))
        world.services.ingest.accept(
            stored_frame(
                vin,
                raw,
                reported_at_s=int(world.now.timestamp()),
                arrived_at_ns=world.now_ns,
                is_backfill=command == Command.BACKFILL_REPORT,
            )
        )

    for number in range(1, 4):
        put(number, Command.BACKFILL_REPORT)
    assert world.services.clock.is_waiting
    for number in (1, 2, 3):
        assert world.services.clock.is_waiting
        world.wait(seconds=25)
        put(number, Command.REALTIME_REPORT)
    assert not world.services.clock.is_waiting
