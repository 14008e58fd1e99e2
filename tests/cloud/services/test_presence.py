"""Who is connected: links in memory, leases in the store, several gateways on one database."""

from datetime import UTC, datetime, timedelta

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.vehicles import VehicleFilter
from bmsota_cloud.services.presence import LEASE_S, PresenceService, SteadyTime
from bmsota_cloud.storage.sql import SqlStore

NOW = datetime(2026, 11, 22, 8, 0, tzinfo=UTC)
A, B, C = (f"TESTVEHICLE{number:06d}" for number in (1, 2, 3))


@pytest.fixture
def store():
    made = SqlStore()
    yield made
    made.close()


@pytest.fixture
def gateways(store):
    """Two processes on the same data, both running."""
    made = [PresenceService(store, name) for name in ("first", "second")]
    for gateway in made:
        gateway.begin(NOW)
    return made


def online(gateway):
    return "".join(str(number) for number, vin in enumerate((A, B, C), 1) if gateway.is_online([vin])[vin])


def test_a_second_process_marks_nobody_offline(store, gateways):
    first, second = gateways
    first.joined(A, serial=1, now=NOW)
    assert (online(first), online(second)) == ("1", "1")
    third = PresenceService(store, "third")
    third.begin(NOW)
    assert (online(first), online(second), online(third)) == ("1", "1", "1")
    third.end(NOW)
    assert online(first) == "1"


def test_a_process_that_died_keeps_its_vehicles_until_its_lease_ends(gateways):
    first, second = gateways
    first.joined(A, serial=1, now=NOW)
    second.joined(B, serial=1, now=NOW)
    for seconds in range(5, LEASE_S, 5):
        second.renew(NOW + timedelta(seconds=seconds))
        assert online(second) == "12"
    second.renew(NOW + timedelta(seconds=LEASE_S))
    assert online(second) == "2"
    # It was only slow.
    first.renew(NOW + timedelta(seconds=LEASE_S + 1))
    assert online(second) == "12"


def test_a_process_that_stops_leaves_nobody_online(gateways):
    first, second = gateways
    first.joined(A, serial=1, now=NOW)
    first.end(NOW)
    assert (online(first), online(second), len(first)) == ("", "", 0)


def test_an_older_link_s_end_is_not_the_newer_one_s(gateways):
    first, _ = gateways
    old = first.joined(A, serial=1, now=NOW)
    new = first.joined(A, serial=2, now=NOW)
    assert not first.left(A, NOW, link_id=old)
    assert online(first) == "1"
    assert first.left(A, NOW, link_id=new)
    assert not first.left(A, NOW, link_id=new)
    assert (online(first), first.is_here(A)) == ("", False)


def test_a_vehicle_that_goes_to_another_gateway_is_closed_at_the_first_and_stays_online(store, gateways):
    first, second = gateways
    link = first.joined(A, serial=1, now=NOW)
    first.joined(B, serial=1, now=NOW)
    second.joined(A, serial=2, now=NOW)
    assert first.renew(NOW) == (A,)
    with store.reading() as work:
        assert (set(work.presence.open_links("first")), set(work.presence.open_links("second"))) == ({B}, {A})
    # Its link is closed for that, and its end takes nothing from the newer one.
    assert not first.left(A, NOW, link_id=link)
    assert first.renew(NOW) == second.renew(NOW) == ()
    assert (online(first), first.is_here(A), second.is_here(A)) == ("12", False, True)


def test_a_gateway_that_was_taken_for_dead_comes_back_with_its_vehicles(store, gateways):
    """Its lease was over for a week by the clock of another process, which has tidied up."""
    first, second = gateways
    first.joined(A, serial=1, now=NOW)
    PresenceService(store, "third").begin(NOW + timedelta(days=8))
    second.renew(NOW)
    assert online(second) == ""
    assert first.renew(NOW) == ()
    assert online(second) == "1"


def test_what_an_earlier_life_of_the_same_name_has_left_is_over(store):
    PresenceService(store, "local").joined(A, serial=1, now=NOW)
    again = PresenceService(store, "local")
    assert online(again) == "1"
    again.begin(NOW)
    assert online(again) == ""


class CountingStore:
    def __init__(self, store):
        self.store = store
        self.transactions = 0
        self.is_away = False

    def transaction(self):
        if self.is_away:
            raise StorageUnavailableError("away", code="storage-away")
        self.transactions += 1
        return self.store.transaction()

    def reading(self):
        return self.store.reading()


@pytest.mark.slow
def test_a_storm_of_logins_is_one_transaction(store):
    counting = CountingStore(store)
    gateway = PresenceService(counting, "gateway")
    gateway.begin(NOW)
    gateway.is_deferred = True
    counting.transactions = 0
    vins = [f"STORMVEHICLE{number:05d}" for number in range(10_000)]
    for vin in vins:
        gateway.joined(vin, serial=1, now=NOW)
    assert (counting.transactions, gateway.has_changes, len(gateway)) == (0, True, 10_000)
    assert gateway.flush() == 10_000
    assert (counting.transactions, gateway.has_changes) == (1, False)
    assert all(gateway.is_online(vins).values())
    for vin in vins[:5000]:
        gateway.left(vin, NOW)
    assert gateway.flush() == 5000
    assert gateway.flush() == 0
    assert counting.transactions == 2
    with store.reading() as work:
        assert work.presence.count_online(gateway.lease_check) == 5000


def test_a_database_that_is_away_holds_up_nobody_and_loses_nothing(store):
    counting = CountingStore(store)
    gateway = PresenceService(counting, "gateway")
    gateway.begin(NOW)
    gateway.is_deferred = True
    written = gateway.joined(A, serial=1, now=NOW)
    gateway.flush()
    counting.is_away = True
    gateway.left(A, NOW, link_id=written)
    short = gateway.joined(B, serial=1, now=NOW)
    gateway.joined(C, serial=1, now=NOW)
    for _ in range(2):
        with pytest.raises(StorageUnavailableError):
            gateway.flush()
    gateway.left(B, NOW, link_id=short)
    with pytest.raises(StorageUnavailableError):
        gateway.renew(NOW)
    counting.is_away = False
    assert gateway.renew(NOW) == ()
    assert online(gateway) == "3"
    with store.reading() as work:
        assert work.presence.connections([B], gateway.lease_check)[B].left_at == NOW


def test_the_list_and_the_page_show_who_is_online_elsewhere(new_world, tmp_path):
    one, two = (new_world(f"s{n}", data_dir=tmp_path, gateway_id=f"g{n}", people=n == 1) for n in (1, 2))
    for number in (1, 2):
        one.register(number)
    for world in (one, two):
        world.services.presence.begin(world.now)
    one.services.ingest.log_in(A, serial=9, now=one.now)
    vera = one.people["vera"]
    for world in (one, two):
        listing = world.services.vehicles.listing(PageRequest(), VehicleFilter(is_online=True), by=vera)
        assert [row.vin for row in listing.page.items] == [A]
        assert (listing.count.online, listing.count.offline) == (1, 1)
        state = world.services.vehicles.detail(A, by=vera).state
        assert (state.is_online, state.login_serial) == (True, 9)


# -- time ----------------------------------------------------------------------------------------------------------------


def test_a_clock_that_jumps_for_a_moment_is_not_followed_and_one_that_stays_is():
    steady = SteadyTime()
    ahead = timedelta(hours=2)
    assert steady.at(NOW, 100.0) == NOW
    assert steady.at(NOW + timedelta(seconds=5), 105.0) == NOW + timedelta(seconds=5)
    # Two hours ahead for two seconds.
    assert steady.at(NOW + ahead, 106.0) == NOW + timedelta(seconds=6)
    assert steady.at(NOW + ahead, 108.0) == NOW + timedelta(seconds=8)
    assert steady.at(NOW + timedelta(seconds=9), 109.0) == NOW + timedelta(seconds=9)
    # And for good, also back.
    back = timedelta(days=-4)
    for second in range(110, 230, 5):
        assert steady.at(NOW + back + timedelta(seconds=second - 100), float(second)) == NOW + timedelta(
            seconds=second - 100
        )
    assert steady.at(NOW + back + timedelta(seconds=130), 230.0) == NOW + back + timedelta(seconds=130)
    # Small corrections are followed at once.
    assert steady.at(NOW + back + timedelta(seconds=136.5), 235.0) == NOW + back + timedelta(seconds=136.5)
