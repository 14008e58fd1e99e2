"""Vehicles that go: to another project, or away; and what keeps them."""

import pytest
from bmsota_cloud.domain.accounts import Role, Scope, ScopeKind
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from bmsota_cloud.domain.paging import PageRequest


def refused(kind, call, *arguments, **options) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    return caught.value.code


@pytest.fixture
def move(world):
    def call(vin, project, who="carol"):
        return world.services.vehicle_management.move(vin, project, by=world.people[who], now=world.now)

    return call


@pytest.fixture
def remove(world):
    def call(vin, who="adam"):
        return world.services.vehicle_management.remove(vin, by=world.people[who], now=world.now)

    return call


def newest_audit(world):
    return world.services.audit.page(PageRequest(), by=world.people["anna"]).items[0]


def test_a_vehicle_is_moved_and_the_log_says_from_where(world, move):
    vin = world.register(1)
    assert move(vin, "Hills").project == "Hills"
    assert world.services.vehicles.projects(by=world.people["vera"]) == ("Hills",)
    line = newest_audit(world)
    assert (line.action, line.subject, line.detail) == ("vehicle.move", f"vehicle {vin}", "Harbour -> Hills")
    assert move(vin, "Hills").project == "Hills"
    assert newest_audit(world).detail == "it is in Hills already"


def test_a_vehicle_that_a_task_waits_for_stays_in_its_project(world, move):
    vin = world.register(1)
    world.identify(1)
    world.upload()
    task = world.create(1).id
    assert refused(ConflictError, move, vin, "Hills") == "in-a-task"
    assert f"task {task}" in newest_audit(world).detail
    world.services.ota_tasks.cancel(task, by=world.people["carol"], now=world.now)
    assert move(vin, "Hills").project == "Hills"


def test_who_sees_one_project_moves_nothing_out_of_it(world, move):
    vin, other = world.register(1), world.register(2, project="Hills")
    world.people["olga"] = world.services.accounts.create(
        name="olga",
        email="olga@example.org",
        role=Role.OPERATOR,
        password="correct horse battery",
        scope=Scope(kind=ScopeKind.PROJECTS, projects=("Harbour",)),
        now=world.now,
    )
    assert refused(NotFoundError, move, vin, "Hills", "olga") == "no-such-project"
    assert refused(NotFoundError, move, other, "Harbour", "olga") == "no-such-vehicle"
    assert refused(NotAllowedError, move, vin, "Hills", "vera") == "not-allowed"
    assert refused(InvalidInputError, move, vin, "a/b") == "bad-project"


def test_a_removed_vehicle_is_gone_and_its_vin_can_be_registered_again(world, remove):
    vin = world.register(1)
    world.identify(1)
    remove(vin)
    assert refused(NotFoundError, world.services.vehicles.detail, vin, by=world.people["vera"]) == "no-such-vehicle"
    assert newest_audit(world).action == "vehicle.remove"
    assert world.register(1) == vin
    assert world.services.vehicles.detail(vin, by=world.people["vera"]).nodes == ()


def test_a_vehicle_of_a_task_keeps_its_record(world, remove):
    """Also of one that was cancelled: the task's page names its vehicles."""
    vin = world.register(1)
    world.identify(1)
    world.upload()
    task = world.create(1).id
    world.services.ota_tasks.cancel(task, by=world.people["carol"], now=world.now)
    assert refused(ConflictError, remove, vin) == "has-history"
    assert world.services.vehicles.detail(vin, by=world.people["vera"]).nodes


def test_only_an_administrator_removes(world, remove):
    vin = world.register(1)
    for who in ("carol", "alan", "vera"):
        assert refused(NotAllowedError, remove, vin, who) == "not-allowed"
    assert refused(NotFoundError, remove, "TESTVEHICLE000099") == "no-such-vehicle"
