"""Identity and equipment changes."""

from dataclasses import replace

import pytest
from bmsota_cloud.domain.errors import NotFoundError
from bmsota_cloud.domain.paging import PageRequest


def changes(world, vin=""):
    found = world.services.equipment.page(PageRequest(1, 100), by=world.people["vera"], vin=vin).items
    return [(c.position, c.old_hwid, c.new_hwid, c.changed_at) for c in found]


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
    world.services.equipment.identify(vin, [*facts[:2], replace(facts[2], hwid="S-SPARE")], world.now)
    assert changes(world, vin) == [(2, "S-000001-2", "S-SPARE", world.now)]
    world.wait(hours=3)
    world.services.equipment.identify(vin, [*facts[:2], replace(facts[2], hwid="S-SPARE")], world.now)
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
    world.services.equipment.identify(vin, [*facts[:2], absent], world.now)
    node = world.services.vehicles.detail(vin, by=world.people["vera"]).nodes[2]
    assert (node.hwid, node.version, node.state) == ("S-000001-2", "2.0.0", "absent")
    assert changes(world) == []


def test_there_is_no_such_vehicle(world):
    with pytest.raises(NotFoundError):
        world.services.equipment.identify("NOSUCHVEHICLE0001", [], world.now)
