"""Refusals: gathered in memory, written now and then, bounded whatever a stranger does."""

from datetime import timedelta

import pytest
from bmsota_cloud.domain.errors import NotAllowedError, NotFoundError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.refusals import CAUSES, RefusalCause
from bmsota_cloud.services import network_of
from bmsota_cloud.services import refusals as module

C = RefusalCause
ALL = PageRequest(1, 500)


@pytest.fixture
def say(world):
    def record(cause=C.LOGIN_UNKNOWN_VIN, **fields):
        world.services.refusals.record(cause, **{"address": "192.0.2.1", "now": world.now} | fields)

    return record


@pytest.fixture
def records(world):
    def read(**filters):
        page = world.services.refusals.page(ALL, by=world.people["carol"], **filters)
        return [row.refusal for row in page.items]

    return read


def test_what_repeats_is_one_record_with_a_count(world, say, records):
    say(vin="STRANGER000000001", head=b"first", answered=2, detail="one")
    world.wait(seconds=1)
    say(vin="STRANGER000000001", head=b"second", answered=4, detail="two")
    assert records() == []
    assert world.services.refusals.flush() == 1
    world.wait(minutes=1)
    say(vin="STRANGER000000001", head=b"third" * 100, answered=None, detail="three")
    world.services.refusals.flush()
    (record,) = records()
    assert (record.count, record.head, record.answered, record.detail) == (3, (b"third" * 100)[:64], None, "three")
    assert (record.last_at - record.first_at, record.last_at) == (timedelta(seconds=61), world.now)


def test_address_vin_and_cause_make_a_record(world, say, records):
    say(vin="A" * 17)
    say(vin="A" * 17, address="192.0.2.2")
    say(vin="B" * 17)
    say(C.ENCRYPTED, vin="A" * 17)
    world.services.refusals.flush()
    assert len(records()) == 4
    assert len(records(text="192.0.2.2")) == 1
    assert {record.vin for record in records(text="aaaa")} == {"A" * 17}
    assert [record.cause for record in records(cause=C.ENCRYPTED)] == [C.ENCRYPTED]
    assert records(text="%") == []


def test_the_newest_come_first_and_it_is_said_what_is_registered(world, say, records):
    vin = world.register(1)
    say(vin="A" * 17)
    world.wait(seconds=1)
    say(C.ENCRYPTED, vin=vin)
    world.services.refusals.flush()
    rows = world.services.refusals.page(ALL, by=world.people["alan"]).items
    assert [(row.refusal.vin, row.is_registered) for row in rows] == [(vin, True), ("A" * 17, False)]
    assert [record.vin for record in records(is_registered=True)] == [vin]
    assert [record.vin for record in records(is_registered=False)] == ["A" * 17]
    of_vehicle = world.services.refusals.of_vehicle(vin, by=world.people["vera"])
    assert [record.cause for record in of_vehicle] == [C.ENCRYPTED]


def test_strangers_are_not_for_every_reader(world, say):
    say(vin="A" * 17)
    world.services.refusals.flush()
    vera = world.people["vera"]
    with pytest.raises(NotAllowedError):
        world.services.refusals.page(ALL, by=vera)
    with pytest.raises(NotAllowedError):
        world.services.refusals.totals(by=vera)
    with pytest.raises(NotFoundError):
        world.services.refusals.of_vehicle("A" * 17, by=vera)


def test_one_address_cannot_push_the_others_out(world, say, records, monkeypatch):
    monkeypatch.setattr(module, "REFUSALS_MAX", 60)
    monkeypatch.setattr(module, "REFUSALS_OF_ADDRESS_MAX", 20)
    say(vin="THEINTERESTINGONE", address="192.0.2.7")
    for number in range(300):
        world.wait(seconds=1)
        say(vin=f"STRANGER{number:09d}")
        if number % 50 == 49:
            world.services.refusals.flush()
    assert len(records(text="192.0.2.1")) == 20
    assert [record.vin for record in records(text="192.0.2.7")] == ["THEINTERESTINGONE"]
    # The oldest went.
    assert {record.vin for record in records(text="192.0.2.1")} == {f"STRANGER{n:09d}" for n in range(280, 300)}
    assert world.services.refusals.totals(by=world.people["carol"]) == {C.LOGIN_UNKNOWN_VIN: 301}


def test_the_newest_of_all_are_kept_and_the_rest_is_counted(world, say, records, monkeypatch):
    monkeypatch.setattr(module, "REFUSALS_MAX", 30)
    for number in range(100):
        world.wait(seconds=1)
        say(C.NOT_A_FRAME, address=f"192.0.2.{number}")
    world.services.refusals.flush()
    assert [record.address for record in records()] == [f"192.0.2.{n}" for n in range(99, 69, -1)]
    assert world.services.refusals.totals(by=world.people["carol"]) == {C.NOT_A_FRAME: 100}


def test_a_flood_costs_neither_memory_nor_disk(world, say, records):
    """A hundred thousand frames of one address and as many VINs, between two flushes."""
    service = world.services.refusals
    say(vin="THEINTERESTINGONE", address="192.0.2.7")
    for number in range(100_000):
        service.record(
            C.FOREIGN_VIN, address="198.51.100.1", vin=f"STRANGER{number:09d}", head=b"x" * 500, now=world.now
        )
    assert service.flush() == 129
    assert len(records()) == 129
    assert sum(service.totals(by=world.people["carol"]).values()) == 100_001


def test_many_addresses_cost_neither(world, say, records):
    service = world.services.refusals
    for number in range(20_000):
        service.record(C.NOT_A_FRAME, address=f"2001:db8:{number:x}::/64", now=world.now)
    assert service.flush() == 1024
    assert service.totals(by=world.people["carol"]) == {C.NOT_A_FRAME: 20_000}


def test_nothing_is_lost_while_the_store_is_away(world, say, records, monkeypatch):
    """And what comes meanwhile is added to it."""
    say(vin="A" * 17)
    broken = monkeypatch.context()
    with broken as patch:
        patch.setattr(type(world.cloud.store), "transaction", lambda _: (_ for _ in ()).throw(OSError("no space left")))
        with pytest.raises(OSError, match="no space"):
            world.services.refusals.flush()
    world.wait(seconds=5)
    say(vin="A" * 17)
    say(vin="B" * 17)
    world.services.refusals.flush()
    assert [(record.vin, record.count) for record in sorted(records(), key=lambda r: r.vin)] == [
        ("A" * 17, 2),
        ("B" * 17, 1),
    ]
    assert next(record for record in records(text="AAAA")).first_at == world.now - timedelta(seconds=5)


def test_what_cannot_be_shown_is_not_kept(world, say, records):
    say(vin="A\x00\x1b[31m\ufffd" + "B" * 40, detail="x\n" * 500, address="z" * 200)
    world.services.refusals.flush()
    (record,) = records()
    assert record.vin == "A??[31m\ufffdBBBBBBBBB"
    assert (len(record.detail), len(record.address)) == (200, 64)
    assert "\n" not in record.detail


def test_keys_that_look_alike_in_the_end_are_one_record(world, say, records):
    say(vin="A\x00")
    say(vin="A\x01")
    world.services.refusals.flush()
    (record,) = records()
    assert (record.vin, record.count) == ("A?", 2)


def test_nothing_to_write_writes_nothing(world, monkeypatch):
    monkeypatch.setattr(type(world.cloud.store), "transaction", lambda _: pytest.fail("a transaction"))
    assert world.services.refusals.flush() == 0


@pytest.mark.parametrize(
    ("peer", "network"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("", ""),
        ("/run/socket", "/run/socket"),
    ],
)
def test_addresses_are_counted_by_who_has_them(peer, network):
    assert network_of(peer) == network


def test_every_cause_has_its_words():
    assert set(CAUSES) == set(RefusalCause)
    for text in CAUSES.values():
        assert text.reason.endswith(".")
        assert text.advice.endswith(".")
