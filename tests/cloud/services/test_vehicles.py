"""Registration, identity, equipment changes, lists."""

from dataclasses import replace

import pytest
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from bmsota_cloud.domain.paging import PageRequest


def changes(world, vin=""):
    found = world.services.vehicles.changes(PageRequest(1, 100), by=world.people["vera"], vin=vin).items
    return [(c.position, c.old_hwid, c.new_hwid, c.changed_at) for c in found]


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"vin": "SHORT"}, "bad-vin"),
        ({"vin": "lowercase00000001"}, "bad-vin"),
        ({"hwid": ""}, "bad-hwid"),
        ({"hwid": "x" * 25}, "bad-hwid"),
        ({"hwid": "with space"}, "bad-hwid"),
        ({"series": ""}, "bad-series"),
        ({"series": "F" * 33}, "bad-series"),
        ({"project": "a\nb"}, "bad-project"),
        ({"device_public_key": b"x" * 31}, "bad-key"),
    ],
)
def test_a_registration_that_can_not_be_used_is_refused(world, change, code):
    asked = {
        "vin": world.vin(1),
        "series": "F7",
        "project": "Harbour",
        "hwid": "M1",
        "device_public_key": b"x" * 32,
        "now": world.now,
    }
    with pytest.raises(InvalidInputError) as caught:
        world.services.vehicles.register(**asked | change)
    assert caught.value.code == code


def test_vin_and_hwid_are_registered_once(world):
    world.register(1)
    asked = {"series": "F7", "project": "p", "device_public_key": b"x" * 32, "now": world.now}
    for vin, hwid in ((world.vin(1), "M-other"), (world.vin(2), "M-000001")):
        with pytest.raises(ConflictError):
            world.services.vehicles.register(vin=vin, hwid=hwid, **asked)


def test_a_viewer_registers_nothing(world):
    with pytest.raises(NotAllowedError):
        world.services.vehicles.register(
            vin=world.vin(1),
            series="F7",
            project="p",
            hwid="M1",
            device_public_key=b"x" * 32,
            now=world.now,
            by=world.people["vera"],
        )


def test_the_first_identity_sets_the_nodes_and_is_no_change(world):
    vin = world.register(1)
    world.identify(1)
    nodes = world.services.vehicles.detail(vin, by=world.people["vera"]).nodes
    assert [(n.position, str(n.kind), n.hwid, n.version, n.state) for n in nodes] == [
        (0, "master", "M-000001", "2.0.0", "running"),
        (1, "slave", "S-000001-1", "2.0.0", "running"),
        (2, "slave", "S-000001-2", "2.0.0", "running"),
    ]
    assert changes(world) == []


def test_another_slave_at_a_position_is_an_equipment_change(world):
    vin = world.register(1)
    world.identify(1)
    world.wait(hours=3)
    facts = world.facts(1)
    world.services.vehicles.identify(vin, [*facts[:2], replace(facts[2], hwid="S-SPARE")], world.now)
    assert changes(world, vin) == [(2, "S-000001-2", "S-SPARE", world.now)]
    world.wait(hours=3)
    world.services.vehicles.identify(vin, [*facts[:2], replace(facts[2], hwid="S-SPARE")], world.now)
    assert len(changes(world, vin)) == 1


def test_a_new_position_is_a_change_and_a_new_version_is_none(world):
    vin = world.register(1)
    world.identify(1)
    world.identify(1, version="2.1.0", slaves=3)
    assert [(p, old, new) for p, old, new, _ in changes(world)] == [(3, "", "S-000001-3")]
    assert [n.version for n in world.services.vehicles.detail(vin, by=world.people["vera"]).nodes] == ["2.1.0"] * 4


def test_an_absent_slave_keeps_its_name_and_version(world):
    """It does not answer; that is no exchange."""
    vin = world.register(1)
    world.identify(1)
    facts = world.facts(1, version="2.1.0")
    absent = replace(facts[2], hwid="?", version="0.0.0", state="absent")
    world.services.vehicles.identify(vin, [*facts[:2], absent], world.now)
    node = world.services.vehicles.detail(vin, by=world.people["vera"]).nodes[2]
    assert (node.hwid, node.version, node.state) == ("S-000001-2", "2.0.0", "absent")
    assert changes(world) == []


def test_the_list_is_filtered_paged_and_shows_the_newest_state(world):
    for number in range(1, 5):
        world.register(number, series="E7" if number == 4 else "F7", project="Harbour" if number % 2 else "Airport")
    world.identify(1)
    world.services.ingest.log_in(world.vin(1), serial=1, now=world.now)
    vehicles, vera = world.services.vehicles, world.people["vera"]
    page = vehicles.rows(PageRequest(1, 3), by=vera)
    assert ([row.vin for row in page.items], page.total, page.pages) == ([world.vin(n) for n in (1, 2, 3)], 4, 2)
    first = page.items[0]
    assert (first.is_online, first.last_seen_at, first.master_version, first.slave_versions, first.slave_count) == (
        True,
        world.now,
        "2.0.0",
        ("2.0.0",),
        2,
    )
    assert [row.vin for row in vehicles.rows(PageRequest(), by=vera, project="Airport").items] == [
        world.vin(2),
        world.vin(4),
    ]
    for text, numbers in (("e7", [4]), ("m-000002", [2]), ("VEHICLE000003", [3]), ("%", []), ("_", [])):
        assert [row.vin for row in vehicles.rows(PageRequest(), by=vera, text=text).items] == [
            world.vin(n) for n in numbers
        ]
    assert vehicles.projects(by=vera) == ("Airport", "Harbour")


def test_there_is_no_such_vehicle(world):
    with pytest.raises(NotFoundError):
        world.services.vehicles.detail("NOSUCHVEHICLE0001", by=world.people["vera"])
    with pytest.raises(NotFoundError):
        world.services.vehicles.identify("NOSUCHVEHICLE0001", [], world.now)
