"""What units tell of field upgrades, and the history people read."""

from dataclasses import replace
from datetime import timedelta

import pytest
from bmsota_cloud.domain import accounts
from bmsota_cloud.domain.errors import NotAllowedError, NotFoundError
from bmsota_cloud.domain.paging import PageRequest

from bmsota.gbt32960 import LocalUpgrade, LocalUpgradeOutcome, beijing_time


def told(world, **fields):
    asked = {
        "upgraded_at": beijing_time(world.now_ns - 3600 * 10**9),
        "position": 2,
        "hwid": "S-000001-2",
        "version_before": (2, 0, 0, 0),
        "version_after": (2, 1, 0, 5),
        "outcome": LocalUpgradeOutcome.SUCCEEDED,
        "tool": "bmsota 1.0",
    }
    return LocalUpgrade(**asked | fields)


def history(world, **options):
    asked = {"by": world.people["vera"]} | options
    return world.services.histories.page(world.vin(1), PageRequest(), **asked).items


def lines(world):
    audit = world.services.audit.page(PageRequest(), by=world.people["alan"], subject=f"vehicle {world.vin(1)}")
    return [(line.who, line.outcome, line.detail) for line in audit.items if line.action == "local_upgrade.receive"]


@pytest.mark.slow
def test_a_field_upgrade_is_kept_and_written_down(world):
    vin = world.register(1)
    assert world.services.histories.receive(vin, [told(world)], world.now) == 1
    (entry,) = history(world)
    assert (entry.source, entry.status, entry.reason, entry.tool) == ("CAN", "Upgrade succeeded", "", "bmsota 1.0")
    assert (entry.at, entry.reported_at) == (world.now - timedelta(hours=1), world.now)
    (node,) = entry.nodes
    assert (node.position, node.hwid, node.version_before, node.version_after) == (
        2,
        "S-000001-2",
        "2.0.0",
        "2.1.0+5",
    )
    assert lines(world) == [
        (f"vehicle {vin}", "done", "slave 2 S-000001-2: 2.0.0 -> 2.1.0+5, Upgrade succeeded, by bmsota 1.0")
    ]


def test_a_repetition_is_no_second_entry(world):
    """Neither in the history nor in the log; what is new beside it is."""
    vin = world.register(1)
    first = told(world)
    world.services.histories.receive(vin, [first], world.now)
    world.wait(hours=2)
    assert world.services.histories.receive(vin, [first], world.now) == 0
    assert world.services.histories.receive(vin, [first, replace(first, position=1)], world.now) == 1
    assert (len(history(world)), len(lines(world))) == (2, 2)
    assert world.services.counters["local_upgrade_repeated"] == 2


@pytest.mark.parametrize(
    ("outcome", "status"),
    [
        (LocalUpgradeOutcome.SUCCEEDED, "Upgrade succeeded"),
        (LocalUpgradeOutcome.FAILED, "Upgrade failed"),
        (LocalUpgradeOutcome.REVERTED, "Rolled back"),
    ],
)
def test_every_outcome_has_one_of_the_platforms_words(world, outcome, status):
    vin = world.register(1)
    world.services.histories.receive(vin, [told(world, outcome=outcome, detail="power lost")], world.now)
    (entry,) = history(world)
    assert (entry.status, entry.reason) == (status, "power lost")


def test_a_node_without_an_image_has_no_version(world):
    vin = world.register(1)
    upgrade = told(world, version_before=(0, 0, 0, 0), version_after=(0, 0, 0, 0), tool="")
    world.services.histories.receive(vin, [upgrade], world.now)
    ((node,),) = (entry.nodes for entry in history(world))
    assert (node.version_before, node.version_after) == ("", "")
    assert lines(world)[0][2] == "slave 2 S-000001-2: none -> none, Upgrade succeeded"


@pytest.mark.parametrize(
    "broken", [{"outcome": 9}, {"hwid": ""}, {"hwid": "with blank"}, {"version_after": (300, 0, 0, 0)}]
)
def test_what_nobody_can_read_is_counted_and_the_rest_kept(world, broken):
    vin = world.register(1)
    assert world.services.histories.receive(vin, [told(world, **broken), told(world)], world.now) == 1
    assert len(history(world)) == 1
    assert world.services.counters["local_upgrade_unusable"] == 1


def test_words_from_outside_are_printable(world):
    vin = world.register(1)
    world.services.histories.receive(vin, [told(world, tool="a\0b\n", detail="x\ty")], world.now)
    (entry,) = history(world)
    assert (entry.tool, entry.reason) == ("a b", "x y")


def test_both_kinds_stand_in_one_list_newest_first(world):
    task = world.approved(1)
    world.wait(minutes=10)
    world.services.histories.receive(world.vin(1), [told(world, upgraded_at=beijing_time(world.now_ns))], world.now)
    world.wait(minutes=10)
    world.services.upgrades.receive_report(world.vin(1), world.report(1, f"OTA-{task.id}-1"), world.now)
    world.wait(minutes=10)
    world.create(1)
    entries = history(world)
    assert [(entry.source.value, str(entry.status), entry.task_id) for entry in entries] == [
        ("OTA", "Unapproved", 2),
        ("OTA", "Upgrade succeeded", 1),
        ("CAN", "Upgrade succeeded", None),
    ]
    assert (entries[1].at, entries[1].software_version) == (world.now - timedelta(minutes=10), "2.1.0")
    assert [(node.version_before, node.version_after) for node in entries[1].nodes] == [("2.0.0", "2.1.0")] * 3
    assert entries[0].nodes == ()


def test_other_vehicles_have_their_own(world):
    world.approved(1, 2)
    world.services.histories.receive(world.vin(2), [told(world)], world.now)
    assert [entry.source.value for entry in history(world)] == ["OTA"]


def test_the_open_pages_of_the_vehicle_are_told(world):
    vin = world.register(1)
    with_page = world.services.live.subscribe(f"vehicle:{vin}", wake=lambda: None)
    world.services.histories.receive(vin, [told(world)], world.now)
    assert with_page.take() == {"kind": "upgrade_history", "new": 1}
    world.services.histories.receive(vin, [told(world)], world.now)
    assert with_page.take() is None
    with_page.close()


def test_there_is_no_such_vehicle(world):
    with pytest.raises(NotFoundError):
        world.services.histories.receive("NOSUCHVEHICLE0001", [told(world)], world.now)
    with pytest.raises(NotFoundError):
        world.services.histories.page("NOSUCHVEHICLE0001", PageRequest(), by=world.people["vera"])


def test_who_may_not_see_vehicles_may_not_see_their_history(world, monkeypatch):
    """No role of today is without that permission, so one is taken away."""
    world.register(1)
    monkeypatch.setitem(accounts.ROLE_PERMISSIONS, accounts.Role.VIEWER, frozenset())
    with pytest.raises(NotAllowedError, match=r"vehicle\.read"):
        history(world)
