"""The platform and the workshop never change a pack at the same time."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from bmsota.master import Interlock

SECOND = 1_000_000_000
NOW = 1_790_000_000 * SECOND
URL = "http://cloud.example"


class Desk:
    def __init__(self, *, has_open_order=False):
        self.followed = []
        self.updater = SimpleNamespace(locks_pack=False, instructed=lambda url, _now: self.followed.append(url))
        self.store = SimpleNamespace(is_test_pending=False)
        self.interlock = Interlock(self.updater, self.store, has_open_order=has_open_order)


@pytest.fixture
def desk():
    return Desk()


def test_an_instruction_is_followed_when_nobody_is_at_work(desk):
    assert desk.interlock.instructed(URL, NOW)
    assert desk.followed == [URL]
    assert desk.interlock.next_timeout() is None


def test_an_order_locks_the_nodes_from_power_on_until_it_is_over():
    desk = Desk(has_open_order=True)
    assert desk.interlock.is_upgrading
    desk.updater.locks_pack = True
    desk.interlock.begin()
    assert desk.interlock.is_upgrading
    desk.updater.locks_pack = False
    assert not desk.interlock.is_upgrading


def test_an_instruction_waits_until_the_flasher_has_been_quiet(desk):
    desk.interlock.flasher_heard(NOW)
    assert not desk.interlock.instructed(URL, NOW + SECOND)
    assert desk.interlock.next_timeout() == NOW + 10 * SECOND
    assert not desk.interlock.handle_timeout(NOW + 10 * SECOND - 1)
    assert desk.followed == []
    assert desk.interlock.handle_timeout(NOW + 10 * SECOND), "the flasher has gone"
    assert desk.followed == [URL]
    assert not desk.interlock.handle_timeout(NOW + 11 * SECOND)
    assert desk.interlock.next_timeout() is None


def test_every_request_of_the_flasher_counts_anew(desk):
    desk.interlock.flasher_heard(NOW)
    desk.interlock.flasher_heard(NOW + 9 * SECOND)
    assert not desk.interlock.handle_timeout(NOW + 12 * SECOND)
    assert desk.interlock.is_flasher_at_work(NOW + 12 * SECOND)


def test_the_master_s_own_bootloader_is_a_flasher_at_work_however_long_it_is_silent(desk):
    desk.interlock.flasher_heard(NOW)
    desk.interlock.bootloader_entered()
    assert desk.interlock.is_in_bootloader
    assert not desk.interlock.instructed(URL, NOW + 3600 * SECOND)
    assert not desk.interlock.handle_timeout(NOW + 3600 * SECOND)
    assert desk.interlock.next_timeout() == NOW + 3601 * SECOND, "no timeout is due at once for ever"
    desk.interlock.bootloader_left()
    assert desk.interlock.handle_timeout(NOW + 3601 * SECOND)
    assert desk.followed == [URL]


def test_an_image_in_its_test_boot_postpones_an_instruction_too(desk):
    """What the flasher left may still be reverted."""
    desk.store.is_test_pending = True
    assert not desk.interlock.instructed(URL, NOW)
    assert desk.interlock.next_timeout() == NOW + SECOND
    desk.interlock.handle_timeout(NOW + SECOND)
    assert desk.followed == []
    desk.store.is_test_pending = False
    desk.interlock.handle_timeout(desk.interlock.next_timeout())
    assert desk.followed == [URL]


def test_the_newest_of_several_postponed_instructions_is_followed_once(desk):
    desk.interlock.flasher_heard(NOW)
    desk.interlock.instructed("http://old.example", NOW)
    desk.interlock.instructed(URL, NOW)
    desk.interlock.handle_timeout(NOW + 10 * SECOND)
    desk.interlock.handle_timeout(NOW + 20 * SECOND)
    assert desk.followed == [URL]


def test_a_repeated_instruction_reaches_an_updater_that_has_an_order(desk):
    """Its own test boot is no workshop, and a flasher that is refused anyway changes nothing."""
    desk.updater.locks_pack = True
    desk.store.is_test_pending = True
    desk.interlock.flasher_heard(NOW)
    assert desk.interlock.instructed(URL, NOW)
    assert desk.followed == [URL]
