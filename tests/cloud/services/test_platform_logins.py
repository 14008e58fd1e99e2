"""Logins of other platforms: nobody can guess on, and nobody can keep the platform itself out."""

import pytest
from bmsota_cloud.domain.platform_peers import PlatformPeer
from bmsota_cloud.services import PlatformLoginVerdict
from bmsota_cloud.services.limits import UNDER_ATTACK_FROM

CODE = "UPPERPLATFORM0001"
PEER = PlatformPeer(code=CODE, user="upper", password="correcthorse", projects=frozenset({"Harbour"}))
RIGHT, WRONG = "correcthorse", "correcthorsf"
OK, NO = PlatformLoginVerdict(is_accepted=True), PlatformLoginVerdict(is_accepted=False)


@pytest.fixture
def log_in(world):
    def call(password=WRONG, *, address="192.0.2.1", code=CODE, peer=PEER):
        service = world.services.platform_logins
        return service.log_in(code, peer, user="upper", password=password, address=address, now=world.now)

    return call


def restart(world):
    """The counters of the process are gone; what the database has stays."""
    world.services.platform_logins._limits.__init__(world.cloud.store)


def test_ten_wrong_ones_then_the_password_is_not_looked_at(world, log_in):
    assert [log_in() for _ in range(10)] == [NO] * 10
    for _ in range(2):
        verdict = log_in(RIGHT)
        assert (verdict.is_accepted, verdict.wait_s) == (False, 360)
        assert verdict.detail == (
            "too many wrong logins, the password was not looked at; the next try is possible in 6 minutes"
        )
        restart(world)
    assert world.services.counters["platform_login_limited"] == 2
    # Another address is another matter, and time heals.
    assert log_in(RIGHT, address="192.0.2.2") == OK
    world.wait(seconds=361)
    assert log_in(RIGHT) == OK
    assert [log_in() for _ in range(10)] == [NO] * 10


def test_codes_that_are_tried_one_after_the_other_count_for_the_address(log_in):
    """Known and unknown ones alike."""
    verdicts = [log_in(code=f"MADEUP{number:03}", peer=None) for number in range(25)]
    assert verdicts[:20] == [NO] * 20
    assert all(verdict.wait_s for verdict in verdicts[20:])
    assert log_in(RIGHT).wait_s


@pytest.mark.slow
def test_a_platform_is_not_kept_out_by_what_others_try_with_its_code(world, log_in):
    """From where it has logged in before it gets in whatever is tried elsewhere; a stranger then has one try an hour."""
    assert log_in(RIGHT, address="198.51.100.7") == OK
    for number in range(UNDER_ATTACK_FROM // 10):
        for _ in range(10):
            assert log_in(address=f"203.0.113.{number}") == NO
    assert log_in(address="192.0.2.9") == NO
    assert log_in(address="192.0.2.9").wait_s > 3500
    for _ in range(3):
        assert log_in(RIGHT, address="198.51.100.7") == OK
        restart(world)
    # Its own mistakes count for it too.
    assert [log_in(address="198.51.100.7") for _ in range(10)] == [NO] * 10
    assert log_in(RIGHT, address="198.51.100.7").wait_s


@pytest.mark.slow
def test_addresses_of_one_network_are_one(log_in):
    """The gateway gives the network of an IPv6 address."""
    for _ in range(10):
        log_in(address="2001:db8::/64")
    assert log_in(RIGHT, address="2001:db8::/64").wait_s
    # 2001:db8::/48 has room for 80.
    for number in range(1, 8):
        for _ in range(10):
            log_in(address=f"2001:db8:0:{number}::/64", code=f"CODE{number}")
    assert log_in(RIGHT, address="2001:db8:0:9::/64").wait_s
    assert log_in(RIGHT, address="2001:db9::/64") == OK
