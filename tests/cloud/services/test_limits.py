"""Counters of tries: bounded, kept, and not to be flushed."""

from datetime import timedelta
from threading import Thread

import bmsota_cloud.services.limits as limits_module
import pytest
from bmsota_cloud.domain.limits import Rate
from bmsota_cloud.services.limits import Counted, Limit, RateLimits
from bmsota_cloud.storage import schema
from bmsota_cloud.storage.base import TimesAllowed
from bmsota_cloud.storage.sql._tables import upsert

ALLOWED = TimesAllowed(
    ahead_s=60, login_session_s=1, device_session_s=1, code_s=1, mail_retry_s=1, mail_claim_s=1, lease_s=1
)
TRIES = Limit("tries", Rate(3, 300))
FLEETING = Limit("fleeting", Rate(3, 300), is_kept=False)


def counted(of, limit=TRIES):
    return Counted(limit, (of,))


def fail(limits, world, counters):
    """One try that fails and is kept, as a service does it; whether it was admitted."""
    if limits.take(counters, world.now) is not None:
        return False
    with world.cloud.store.transaction() as work:
        limits.keep(counters, work, world.now)
    return True


@pytest.fixture
def limits(world):
    return RateLimits(world.cloud.store)


def test_one_full_counter_refuses_and_the_others_count_nothing(world, limits):
    wide, narrow = counted("wide", Limit("wide", Rate(100, 300))), counted("narrow")
    assert [limits.take((wide, narrow), world.now) for _ in range(5)] == [None] * 3 + [narrow] * 2
    assert (limits.used(wide, world.now), limits.used(narrow, world.now)) == (3, 3)
    refusal = limits.refuse(narrow, world.now, code="c", what="too often")
    assert (refusal.code, refusal.retry_after_s, str(refusal)) == ("c", 100, "too often; try again in 2 minutes")


def test_what_was_given_back_does_not_count(world, limits):
    counters = (counted("a"), counted("b"))
    for _ in range(10):
        assert limits.take(counters, world.now) is None
        limits.give_back(counters, world.now)
    assert limits.used(counters[0], world.now) == 0


def test_many_at_once_are_no_more_than_one_after_the_other(world, limits):
    """A try is counted before it is judged, so threads that all check at once get no further."""
    admitted = []

    def one():
        if limits.take((counted("a"),), world.now) is None:
            admitted.append(1)

    threads = [Thread(target=one) for _ in range(20)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(admitted) == 3


def test_a_restart_forgets_nothing_that_was_kept(world, limits):
    assert [fail(limits, world, (counted("a"), counted("b", FLEETING))) for _ in range(4)] == [True] * 3 + [False]
    again = RateLimits(world.cloud.store)
    assert again.take((counted("a"),), world.now) == counted("a")
    assert again.used(counted("b", FLEETING), world.now) == 0
    world.wait(seconds=100)
    assert again.take((counted("a"),), world.now) is None


def test_two_processes_count_together(world, limits):
    other = RateLimits(world.cloud.store)
    assert [fail(one, world, (counted("a"),)) for one in (limits, other, limits, other)] == [True] * 3 + [False]


def test_what_is_forgotten_begins_again_everywhere(world, limits):
    for _ in range(3):
        fail(limits, world, (counted("a"),))
    with world.cloud.store.transaction() as work:
        limits.forget(counted("a"), work)
    assert RateLimits(world.cloud.store).used(counted("a"), world.now) == 0
    assert fail(limits, world, (counted("a"),))


@pytest.mark.parametrize("ahead_s", [90, 310, 7200, 3650 * 86400])
@pytest.mark.parametrize("is_mended", [True, False])
def test_a_clock_that_was_ahead_leaves_no_trace(world, limits, ahead_s, is_mended):
    """Two tries at a wrong time count as two tries of now: in this process, in another, and when that time comes at last."""
    wide = counted("a", Limit("wide", Rate(1000, 86400)))
    right = world.clock.now
    world.clock.now = right + timedelta(seconds=ahead_s)
    for _ in range(2):
        assert fail(limits, world, (counted("a"), wide))
    world.clock.now = right
    if is_mended:
        limits.mend(world.now)
        with world.cloud.store.transaction() as work:
            assert work.times.mend(world.now, [], ALLOWED) == {"limits": 2}
    for one in (limits, RateLimits(world.cloud.store)):
        assert (one.used(counted("a"), world.now), one.used(wide, world.now)) == (2, 2)
    assert [fail(limits, world, (counted("a"),)) for _ in range(2)] == [True, False]
    assert RateLimits(world.cloud.store).take((counted("a"),), world.now) == counted("a")
    if is_mended:
        world.clock.now = right + timedelta(seconds=max(ahead_s, 300))
        for one in (limits, RateLimits(world.cloud.store)):
            assert (one.used(counted("a"), world.now), one.used(wide, world.now)) == (0, 0)


def test_what_an_older_version_has_counted_far_ahead_locks_nothing(world, limits):
    """It has not kept when that was."""
    with world.cloud.store.transaction() as work:
        free_at = world.now + timedelta(hours=2)
        upsert(work.limits._connection, schema.rate_limit, {"key": counted("a").key, "free_at": free_at})
    assert limits.used(counted("a"), world.now) == 0
    assert [fail(limits, world, (counted("a"),)) for _ in range(4)] == [True] * 3 + [False]


@pytest.mark.slow
def test_nobody_loses_his_own_counter_by_filling_up_the_others(world, limits, monkeypatch):
    """Memory and table are bounded; who has tried most is remembered longest."""
    monkeypatch.setattr(limits_module, "_COUNTERS_MAX", 50)
    monkeypatch.setattr(limits_module, "_EVICTED_AT_ONCE", 5)
    for _ in range(2):
        assert fail(limits, world, (counted("guesser"), counted("guesser", FLEETING)))
    for number in range(200):
        fail(limits, world, (counted(f"made up {number}"), counted(f"made up {number}", FLEETING)))
    assert limits.used(counted("guesser"), world.now) == 2
    # This one is in memory only.
    assert limits.used(counted("guesser", FLEETING), world.now) == 2
    assert len(limits._levels["fleeting"]) <= 50
    assert RateLimits(world.cloud.store).used(counted("guesser"), world.now) == 2
    assert len(limits._levels["tries"]) <= 50
    keys = [counted(f"made up {number}").key for number in range(200)]
    with world.cloud.store.reading() as work:
        assert len(work.limits.get(keys)) < 50


def test_empty_counters_are_deleted(world, limits):
    fail(limits, world, (counted("a"),))
    world.wait(seconds=101)
    fail(limits, world, (counted("b"),))
    with world.cloud.store.reading() as work:
        assert set(work.limits.get([counted("a").key, counted("b").key])) == {counted("b").key}


def test_keys_do_not_run_into_each_other():
    assert len({Counted(TRIES, of).key for of in (("ab", "c"), ("a", "bc"), ("abc",), ("abc", ""))}) == 4
