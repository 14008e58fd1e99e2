"""Rates, and which addresses are one."""

import pytest
from bmsota_cloud.domain.limits import Rate, address_groups, in_words
from hypothesis import given
from hypothesis import strategies as st

NOW = 1_800_000_000.0


def tries(rate, times, free_at=0.0):
    """Which tries at *times* pass, and where the counter stands then."""
    passed = []
    for at in times:
        taken = rate.taken(free_at, at)
        passed.append(taken is not None)
        free_at = free_at if taken is None else taken
    return passed, free_at


def test_so_many_at_once_then_one_an_interval():
    rate = Rate(10, 3600)
    passed, free_at = tries(rate, [NOW] * 12)
    assert passed == [True] * 10 + [False] * 2
    assert (rate.used(free_at, NOW), rate.wait_s(free_at, NOW)) == (10, 360)
    assert rate.taken(free_at, NOW + 359) is None
    passed, _ = tries(rate, [NOW + 360] * 2, free_at)
    assert passed == [True, False]
    assert rate.used(free_at, NOW + 3600) == 0


@given(st.integers(1, 30), st.integers(1, 10_000), st.lists(st.floats(0, 100_000), max_size=60))
def test_never_more_than_twice_the_count_in_one_period(count, period_s, offsets):
    """In any window of one period pass at most *count* at once and *count* that have come back meanwhile."""
    rate, times = Rate(count, period_s), sorted(NOW + offset for offset in offsets)
    passed, _ = tries(rate, times)
    took = [at for at, is_passed in zip(times, passed, strict=True) if is_passed]
    for start in took:
        assert sum(start <= at < start + period_s for at in took) <= 2 * count
    assert passed[:count] == [True] * min(count, len(passed))


def test_a_thousand_in_a_day_are_a_thousand():
    """Sums of many intervals are rounded, at times as large as ours."""
    passed, free_at = tries(Rate(1000, 86400), [NOW + 0.1] * 1001)
    assert passed == [True] * 1000 + [False]
    assert Rate(1000, 86400).used(free_at, NOW + 0.1) == 1000


@given(st.integers(1, 30), st.integers(1, 10_000), st.integers(1, 60))
def test_what_it_says_to_wait_is_enough(count, period_s, many):
    rate = Rate(count, period_s)
    _, free_at = tries(rate, [NOW] * many)
    if rate.taken(free_at, NOW) is None:
        wait_s = rate.wait_s(free_at, NOW)
        assert rate.taken(free_at, NOW + wait_s) is not None
        assert wait_s <= period_s + 1


@pytest.mark.parametrize(("ahead_s", "free_after_s"), [(60, 420), (3500, 3860), (3601, 0), (30 * 86400, 0)])
def test_a_clock_that_was_ahead_locks_nothing_for_longer_than_two_periods(ahead_s, free_after_s):
    """A counter that was filled while the clock was ahead; the first try after the clock is right again."""
    rate = Rate(10, 3600)
    _, free_at = tries(rate, [NOW + ahead_s] * 10)
    passes = [offset for offset in range(0, 7200, 10) if rate.taken(free_at, NOW + offset) is not None]
    assert passes[0] == free_after_s
    assert 7190 in passes


@pytest.mark.parametrize(
    ("address", "groups"),
    [
        ("192.0.2.7", ("192.0.2.7",)),
        ("::ffff:192.0.2.7", ("192.0.2.7",)),
        ("2001:db8:1:2:3:4:5:6", ("2001:db8:1:2::/64", "2001:db8:1::/48")),
        ("2001:db8:1:2::1", ("2001:db8:1:2::/64", "2001:db8:1::/48")),
        ("fe80::1%eth0", ("fe80::/64", "fe80::/48")),
        ("", ("",)),
        ("unix:", ("unix:",)),
        ("x" * 100, ("x" * 64,)),
    ],
)
def test_addresses_of_one_person_are_one(address, groups):
    assert address_groups(address) == groups


@pytest.mark.parametrize(
    ("seconds", "words"),
    [
        (1, "1 second"),
        (60, "60 seconds"),
        (61, "2 minutes"),
        (360, "6 minutes"),
        (3600, "60 minutes"),
        (5000, "2 hours"),
        (200_000, "3 days"),
    ],
)
def test_a_wait_in_words(seconds, words):
    assert in_words(seconds) == words
