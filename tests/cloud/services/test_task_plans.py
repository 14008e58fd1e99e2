"""The plan of a task: one outcome a vehicle, and nothing of another project."""

import pytest
from bmsota_cloud.domain.accounts import Role, Scope, ScopeKind
from bmsota_cloud.domain.errors import InvalidInputError, NotAllowedError, NotFoundError
from bmsota_cloud.domain.ota_tasks import ActKind, TaskAct
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.task_plans import PlanChoices, PlanOutcome, objections_of
from bmsota_cloud.domain.vehicle_checks import Remark, RemarkKind, VehicleCheck
from bmsota_cloud.domain.vehicles import VehicleFilter


def plan(world, *numbers, by="carol", **options):
    asked = {"project": "Harbour", "software_version": "2.1.0", "by": world.people[by], "now": world.now} | options
    if numbers:
        asked["vins"] = [world.vin(number) for number in numbers]
    return world.services.task_plans.preview(PageRequest(), **asked)


@pytest.fixture
def harbour(world):
    for number in (1, 2, 3):
        world.register(number)
        world.identify(number)
    world.register(9, project="Airport")
    world.upload()
    for name, projects in (("olga", ("Harbour",)), ("omar", ("Airport",))):
        world.people[name] = world.services.accounts.create(
            name=name,
            email=f"{name}@example.org",
            role=Role.OPERATOR,
            password="correct horse battery",
            scope=Scope(kind=ScopeKind.PROJECTS, projects=projects),
            now=world.now,
            by=world.people["adam"],
        )
    return world


def check_with(*kinds):
    return VehicleCheck(remarks=tuple(Remark(kind=kind, text="") for kind in kinds))


def test_every_objection_must_be_accepted():
    """A vehicle that is busy *and* newer is not downgraded because someone wants to take busy vehicles over."""
    both = objections_of(check_with(RemarkKind.DOWNGRADE, RemarkKind.BUSY, RemarkKind.MIXED_PACK))
    assert both == (PlanOutcome.BUSY, PlanOutcome.DOWNGRADE)
    takes = PlanChoices(supersede=True).takes
    assert [takes(objection) for objection in both] == [True, False]
    assert objections_of(check_with(RemarkKind.SAID_TO_RUN, RemarkKind.NEVER_HEARD, RemarkKind.TOO_LARGE)) == ()
    for outcome in (PlanOutcome.WRONG_CLASS, PlanOutcome.NO_OTA, PlanOutcome.UNKNOWN, PlanOutcome.NO_RELEASE):
        assert not PlanChoices(downgrades=True, already_there=True, supersede=True).takes(outcome)


def test_a_busy_vehicle_that_is_newer_too_stays_out(harbour):
    harbour.identify(3, version="3.0.0")
    harbour.create(3)
    assert plan(harbour, 3, choices=PlanChoices(supersede=True)).vins == ()
    assert plan(harbour, 3, choices=PlanChoices(supersede=True, downgrades=True)).vins == (harbour.vin(3),)


def test_a_vehicle_of_a_list_that_is_being_entered_is_busy(harbour):
    task = harbour.create(1)
    with harbour.cloud.store.transaction() as work:
        work.ota_tasks.save_act(
            TaskAct(task_id=task.id, kind=ActKind.LIST, who="carol", reason="", begun_at=harbour.now)
        )
        work.ota_tasks.save_list(task.id, [(harbour.vin(2), 1)])
    found = plan(harbour, 1, 2, 3)
    assert [row.outcome for row in found.page.items] == [PlanOutcome.BUSY, PlanOutcome.BUSY, PlanOutcome.WAITS]
    assert found.page.items[1].notes[-1] == f"is part of OTA-{task.id}, which is being entered"
    # For the edit of that very task they are its own.
    assert plan(harbour, 1, 2, 3, task_id=task.id).counts == {PlanOutcome.WAITS: 3}


def test_the_digest_names_vehicles_and_releases(harbour, release_files):
    first = plan(harbour, 1, 2)
    assert first.digest == plan(harbour, 1, 2, shown=PlanOutcome.BUSY).digest
    assert first.digest != plan(harbour, 1, 3).digest
    harbour.upload(release_files(version="2.2.0"))
    assert first.digest != plan(harbour, 1, 2, software_version="2.2.0").digest


def test_nothing_of_another_project_is_seen(harbour):
    everything = VehicleFilter()
    assert plan(harbour, by="olga", asked=everything).counts == {PlanOutcome.WAITS: 3}
    hidden = plan(harbour, 9, by="olga").page.items[0]
    unknown = plan(harbour, 999, by="olga").page.items[0]
    assert (
        (hidden.outcome, hidden.notes)
        == (unknown.outcome, unknown.notes)
        == (PlanOutcome.UNKNOWN, ("is not registered",))
    )
    with pytest.raises(NotFoundError):
        plan(harbour, 1, by="omar")
    task = harbour.create(1)
    with pytest.raises(NotFoundError):
        harbour.services.task_plans.editable(task.id, by=harbour.people["omar"])
    for name, tasks, running in (("olga", (task.id,), ()), ("omar", (), ())):
        row = harbour.services.releases.rows(PageRequest(), by=harbour.people[name]).items[0]
        assert (row.task_ids, row.running) == (tasks, len(running)), name
    assert [
        choice.software_version
        for choice in harbour.services.task_plans.versions(by=harbour.people["olga"], now=harbour.now)
    ] == ["2.1.0"]
    for call in (
        lambda by: plan(harbour, 1, by=by),
        lambda by: harbour.services.task_plans.editable(1, by=harbour.people[by]),
    ):
        for name in ("vera", "alan"):
            with pytest.raises(NotAllowedError):
                call(name)


def test_a_release_that_has_expired_is_no_choice(harbour):
    versions = harbour.services.task_plans.versions
    assert len(versions(by=harbour.people["carol"], now=harbour.now, project="Harbour")) == 1
    harbour.wait(days=3650)
    assert versions(by=harbour.people["carol"], now=harbour.now, project="Harbour") == ()
    found = plan(harbour, 1).page.items[0]
    assert (found.outcome, found.notes) == (PlanOutcome.NO_RELEASE, ("release F7-2.1.0 has expired",))


def test_no_vehicle_is_said_in_the_words_of_the_choice(harbour):
    for options, says in (
        ({"vins": []}, "name at least one vehicle"),
        ({"asked": VehicleFilter(text="nothing")}, "no vehicle matches"),
    ):
        with pytest.raises(InvalidInputError, match=says):
            plan(harbour, **options)
