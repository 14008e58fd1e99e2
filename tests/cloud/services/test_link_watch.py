"""What is odd about a vehicle's links: noticed, counted, bounded, and nothing is refused because of it."""

from dataclasses import replace
from datetime import timedelta

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.vehicles import LastLogin
from bmsota_cloud.services import Oddity
from bmsota_cloud.services import link_watch as module

from bmsota.ota import device_api


@pytest.fixture
def watch(world):
    world.register(1)
    return world.services.link_watch


def login(world, serial=1, *, number=1, iccid="8986001", off=0.0, address="203.0.113.7:5001"):
    return LastLogin(
        vin=world.vin(number),
        iccid=iccid,
        login_serial=serial,
        login_at=world.now + timedelta(seconds=off),
        address=address,
        received_at=world.now,
    )


def lines(world, number=1):
    """(kind, count) of every line of a vehicle, oldest first."""
    world.services.link_watch.flush()
    found = world.services.audit.page(
        PageRequest(1, 500), by=world.people["anna"], subject=f"vehicle {world.vin(number)}"
    )
    return [(line.outcome, line.count) for line in reversed(found.items) if line.action == module.ACTION]


def test_logins_as_they_should_be_are_no_news(world, watch):
    """Serials rise, start anew with the day of the terminal (Beijing's), and after 65531 comes 1."""
    for serial in (1, 2, 5, 65531, 1, 2):
        watch.logged_in(login(world, serial))
        world.wait(minutes=1)
    # 16:00 in Beijing now; at midnight there it is another day, while in UTC it is the same.
    world.wait(hours=8)
    watch.logged_in(login(world, 1))
    assert lines(world) == []


@pytest.mark.parametrize(
    ("second", "kinds"),
    [
        ({"serial": 3}, ["serial-not-rising"]),
        ({"serial": 2}, ["serial-not-rising"]),
        ({"serial": 1}, ["serial-not-rising"]),
        ({"serial": 4, "iccid": "8986002"}, ["other-iccid"]),
        ({"serial": 4, "iccid": ""}, ["other-iccid"]),
        ({"serial": 4, "off": -90}, ["login-time-back"]),
        ({"serial": 4, "off": 301}, ["login-time-off"]),
        ({"serial": 4, "off": 299}, []),
        ({"serial": 4, "off": -11 * 365 * 86400}, ["login-time-off", "login-time-back"]),
    ],
)
def test_a_login_is_compared_with_the_one_before(world, watch, second, kinds):
    watch.logged_in(login(world, 3))
    world.wait(minutes=1)
    watch.logged_in(login(world, **second))
    assert lines(world) == [(kind, 1) for kind in kinds]


def test_replayed_login_bytes_are_noticed(world, watch):
    """The very same login, an hour later, from elsewhere; and after a restart of the platform, too."""
    first = login(world, 3)
    watch.logged_in(first)
    watch.flush()
    world.wait(hours=1)
    replayed = replace(first, address="198.51.100.1:9", received_at=world.now)
    restarted = module.LinkWatch(watch._context)
    restarted.logged_in(replayed)
    restarted.flush()
    assert lines(world) == [("login-time-off", 1), ("serial-not-rising", 1)]


def test_twenty_take_overs_are_one_line_an_hour(world, watch):
    vin = world.vin(1)
    for number in range(20):
        watch.taken_over(vin, old_address="203.0.113.7:1", new_address=f"198.51.100.{number}:2", now=world.now)
        world.wait(seconds=10)
    assert lines(world) == [("taken-over", 20)]
    (note,) = world.services.vehicles.detail(vin, by=world.people["vera"]).link_notes
    assert (note.count, note.last_at - note.first_at) == (20, timedelta(seconds=190))
    assert note.words == "another link took over the vehicle while the first was open"
    world.wait(hours=1)
    watch.taken_over(vin, old_address="203.0.113.7:1", new_address="198.51.100.9:2", now=world.now)
    assert lines(world) == [("taken-over", 20), ("taken-over", 1)]
    newest = world.services.audit.page(PageRequest(), by=world.people["anna"]).items[0]
    assert (newest.address, newest.detail) == ("198.51.100.9:2", "from 203.0.113.7:1 by 198.51.100.9:2")


def test_a_unit_that_lost_its_link_and_comes_back_is_no_news_until_it_happens_again_and_again(world, watch):
    for count in range(1, 5):
        watch.taken_over(world.vin(1), old_address="203.0.113.7:1", new_address="203.0.113.7:2", now=world.now)
        assert lines(world) == ([("taken-over", count - 2)] if count > 2 else [])
    world.wait(hours=1)
    watch.taken_over(world.vin(1), old_address="203.0.113.7:1", new_address="203.0.113.7:2", now=world.now)
    assert lines(world) == [("taken-over", 2)]


def test_an_old_session_in_use_beside_a_newer_one_is_noticed(world, watch):
    """A unit that opens a new session, after a break or a restart, has forgotten the old one."""
    old = world.session_of(1, "old")
    world.wait(seconds=30)
    new = world.session_of(1, "new")
    for token, count in ((new, 0), (old, 1), (new, 1), (old, 2)):
        world.cloud.device_respond(device_api.authorised(device_api.order_request(""), token), world.now)
        assert lines(world) == ([("old-session", count)] if count else [])


def test_another_master_than_the_registered_one_is_noticed(world, watch):
    facts = world.facts(1)
    world.services.equipment.identify(world.vin(1), [replace(facts[0], hwid="M-EVIL"), *facts[1:]], world.now)
    assert lines(world) == [("other-hwid", 1)]


def test_lines_are_bounded_and_what_is_left_out_is_counted(world, watch, monkeypatch):
    monkeypatch.setattr(module, "_LINES_MAX", 3)
    for number in range(5):
        watch.note(world.vin(number), Oddity.TAKEN_OVER, "x", world.now)
    watch.note(world.vin(0), Oddity.TAKEN_OVER, "x" * 10_000 + "\n", world.now)
    assert watch.flush() == 3
    assert world.services.counters["link_note_left_out"] == 2
    assert lines(world, 0) == [("taken-over", 2)]


def test_ten_thousand_logins_are_one_write_and_memory_is_bounded(world, watch, monkeypatch):
    """And what is not in memory any more is read again."""
    monkeypatch.setattr(module, "_LOGINS_MAX", 4)
    for number in range(2, 10):
        world.register(number)
    for number in range(1, 10):
        watch.logged_in(login(world, 5, number=number))
        if number == 6:
            watch.flush()
    assert len(watch._logins) <= 7
    watch.flush()
    world.wait(minutes=1)
    for number in range(1, 10):
        watch.logged_in(login(world, 5, number=number))
    assert [lines(world, number) for number in range(1, 10)] == [[("serial-not-rising", 1)]] * 9


def test_a_store_that_is_away_loses_no_line(world, watch, monkeypatch):
    """What was collected is written when it is back, with what came meanwhile."""
    watch.logged_in(login(world, 3))
    watch.note(world.vin(1), Oddity.TAKEN_OVER, "first", world.now)

    class AwayError(Exception):
        pass

    def away():
        raise AwayError

    with monkeypatch.context() as patch:
        patch.setattr(world.cloud.store, "transaction", away)
        with pytest.raises(AwayError):
            watch.flush()
        world.wait(minutes=1)
        watch.note(world.vin(1), Oddity.TAKEN_OVER, "second", world.now)
        with pytest.raises(AwayError):
            watch.flush()
    assert lines(world) == [("taken-over", 2)]
    with world.cloud.store.reading() as work:
        assert work.vehicles.last_login(world.vin(1)).login_serial == 3
    (line,) = [
        line
        for line in world.services.audit.page(PageRequest(), by=world.people["anna"]).items
        if line.action == module.ACTION
    ]
    assert (line.detail, line.last_at) == ("second", world.now)
