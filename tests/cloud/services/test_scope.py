"""What an account sees, how that is changed, and what happens to those who are in at the time."""

from dataclasses import replace

import pytest
from bmsota_cloud.domain.accounts import Role, Scope, ScopeKind
from bmsota_cloud.domain.errors import (
    ConflictError,
    InvalidInputError,
    LoginError,
    NotAllowedError,
    NotFoundError,
)
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.vehicles import VehicleFilter

PASSWORD = "correct horse battery"
HARBOUR = Scope(kind=ScopeKind.PROJECTS, projects=("Harbour",))
PORT = Scope(kind=ScopeKind.CUSTOMER, customer="Port")


def log_in(world, name, password=PASSWORD, address="192.0.2.1"):
    return world.services.accounts.log_in(name=name, password=password, now=world.now, address=address)


def who(world, login):
    return world.services.accounts.who(login.token, world.now)[0]


def person(world, name, role, scope):
    return world.services.accounts.create(
        name=name,
        email=f"{name}@example.org",
        role=role,
        password=PASSWORD,
        scope=scope,
        now=world.now,
        by=world.people["adam"],
    )


def seen(world, by):
    listing = world.services.vehicles.listing(PageRequest(1, 100), VehicleFilter(), by=by)
    assert listing.count.offline == len(listing.page.items) == listing.page.total
    return [row.vin for row in listing.page.items]


@pytest.fixture
def adam(people):
    return people["adam"]


@pytest.fixture
def port(world, adam):
    """The customer Port, whose is vehicle 1 of Harbour; vehicle 2 is Harbour's too, 3 Airport's."""
    for number, project in ((1, "Harbour"), (2, "Harbour"), (3, "Airport")):
        world.register(number, project=project)
    world.services.customers.create("Port", by=adam, now=world.now)
    world.services.customers.assign("Port", [world.vin(1)], by=adam, now=world.now)
    return "Port"


def test_lists_and_filters_end_where_the_scope_does(world, port):
    services, vins = world.services, [world.vin(number) for number in (1, 2, 3)]
    olga, cleo = person(world, "olga", Role.OPERATOR, HARBOUR), person(world, "cleo", Role.CUSTOMER, PORT)
    assert (seen(world, world.people["vera"]), seen(world, olga), seen(world, cleo)) == (vins, vins[:2], vins[:1])
    assert services.vehicles.projects(by=olga) == services.vehicles.projects(by=cleo) == ("Harbour",)
    assert [(view.name, view.vehicle_count) for view in services.projects.all(by=olga)] == [("Harbour", 2)]
    for by, vin in ((olga, vins[2]), (cleo, vins[1])):
        for ask in (
            lambda vin=vin, by=by: services.vehicles.detail(vin, by=by),
            lambda vin=vin, by=by: services.telemetry.snapshots([vins[0], vin], by=by),
            lambda vin=vin, by=by: services.telemetry.reports(vin, PageRequest(), by=by),
            lambda vin=vin, by=by: services.telemetry.events(vin, PageRequest(), by=by),
            lambda vin=vin, by=by: services.histories.page(vin, PageRequest(), by=by),
            lambda vin=vin, by=by: services.refusals.of_vehicle(vin, by=by),
        ):
            with pytest.raises(NotFoundError, match=f"^no vehicle {vin}$"):
                ask()


def test_what_is_not_there_and_what_is_not_for_one_are_answered_alike(world, port):
    omar = person(world, "omar", Role.OPERATOR, replace(HARBOUR, projects=("Airport",)))
    world.upload()
    task = world.create(2)

    def answer(call, word):
        with pytest.raises((NotFoundError, InvalidInputError)) as caught:
            call()
        return str(caught.value).replace(word, "X")

    services, nowhere = world.services, world.vin(77)
    vin = world.vin(1)
    assert answer(lambda: services.vehicles.detail(vin, by=omar), vin) == answer(
        lambda: services.vehicles.detail(nowhere, by=omar), nowhere
    )
    asked = {"by": omar, "now": world.now}
    assert answer(lambda: services.ota_tasks.cancel(task.id, **asked), str(task.id)) == answer(
        lambda: services.ota_tasks.cancel(99, **asked), "99"
    )
    for project in ("Harbour", "Nowhere"):
        with pytest.raises(NotFoundError, match=f"^no project {project}$"):
            world.create(1, project=project, by=omar)
    plan = {"project": "Airport", "software_version": "2.1.0", "by": omar, "now": world.now}
    views = services.ota_tasks.preview(vins=[vin, nowhere, world.vin(3)], **plan)
    assert [view.fault for view in views] == ["is not registered", "is not registered", ""]


def test_a_taken_hwid_names_its_vehicle_only_to_who_sees_it(world, port):
    omar = person(world, "omar", Role.OPERATOR, replace(HARBOUR, projects=("Airport",)))
    new = {"vin": world.vin(8), "series": "F7", "project": "Airport", "hwid": "M-000001", "now": world.now}
    for by, more in ((omar, ""), (world.people["carol"], f", in {world.vin(1)}")):
        with pytest.raises(ConflictError) as caught:
            world.services.vehicles.register(**new, by=by)
        assert str(caught.value) == f"HWID M-000001 is already registered{more}"


def test_a_change_of_scope_holds_for_open_sessions(world, adam, port):
    person(world, "olga", Role.OPERATOR, HARBOUR)
    login = log_in(world, "olga")
    assert len(seen(world, who(world, login))) == 2
    world.services.accounts.change("olga", scope=replace(HARBOUR, projects=("Airport",)), by=adam, now=world.now)
    assert seen(world, who(world, login)) == [world.vin(3)]
    entry = world.services.audit.page(PageRequest(1, 1), by=adam).items[0]
    assert (entry.action, entry.detail) == (
        "account.change",
        "operator, sees projects Harbour -> operator, sees projects Airport",
    )


def test_a_vehicle_goes_from_one_customer_to_another_at_once(world, adam, port):
    cleo = person(world, "cleo", Role.CUSTOMER, PORT)
    customers = world.services.customers
    customers.create("Rails", by=adam, now=world.now)
    otto = person(world, "otto", Role.CUSTOMER, Scope(kind=ScopeKind.CUSTOMER, customer="Rails"))
    assert customers.assign("Rails", [world.vin(1), world.vin(3)], by=adam, now=world.now) == 2
    assert (seen(world, cleo), seen(world, otto)) == ([], [world.vin(1), world.vin(3)])
    customers.set_customer(world.vin(1), "", by=adam, now=world.now)
    assert seen(world, otto) == [world.vin(3)]
    assert [(view.name, view.vehicle_count) for view in customers.page(PageRequest(), by=adam).items] == [
        ("Port", 0),
        ("Rails", 1),
    ]
    entry = world.services.audit.page(PageRequest(1, 1), by=adam).items[0]
    assert (entry.action, entry.subject, entry.detail) == (
        "vehicle.customer",
        f"vehicle {world.vin(1)}",
        "Rails -> none",
    )


def test_no_vehicle_is_assigned_if_one_is_not_there(world, adam, port):
    with pytest.raises(NotFoundError, match=world.vin(77)):
        world.services.customers.assign("Port", [world.vin(2), world.vin(77)], by=adam, now=world.now)
    with pytest.raises(NotFoundError, match="no customer Nobody"):
        world.services.customers.assign("Nobody", [world.vin(2)], by=adam, now=world.now)
    with pytest.raises(NotFoundError, match="no customer Nobody"):
        world.services.customers.set_customer(world.vin(2), "Nobody", by=adam, now=world.now)
    with pytest.raises(InvalidInputError, match="expected 1 to 5000, got 0"):
        world.services.customers.assign("Port", [], by=adam, now=world.now)
    with pytest.raises(ConflictError, match="there is a customer Port already"):
        world.services.customers.create("Port", by=adam, now=world.now)
    assert world.services.customers.page(PageRequest(), by=adam).items[0].vehicle_count == 1


@pytest.mark.parametrize(
    ("role", "scope", "words"),
    [
        (Role.CUSTOMER, Scope(), "sees the vehicles of one customer, no other does"),
        (Role.VIEWER, PORT, "sees the vehicles of one customer, no other does"),
        (Role.CUSTOMER, Scope(kind=ScopeKind.CUSTOMER, customer="Nobody"), "no customer 'Nobody'; create it first"),
        (Role.ADMINISTRATOR, HARBOUR, "an administrator sees everything"),
        (Role.VIEWER, Scope(projects=("Harbour",)), "projects are not for the scope everything"),
        (Role.VIEWER, Scope(customer="Port"), "a customer is not for the scope everything"),
        (Role.VIEWER, replace(HARBOUR, projects=("a/b",)), "project"),
        (Role.VIEWER, replace(HARBOUR, projects=tuple(f"p{n}" for n in range(501))), "expected at most 500, got 501"),
    ],
)
def test_a_scope_that_can_not_be_is_refused(world, adam, port, role, scope, words):
    with pytest.raises(InvalidInputError, match=words):
        person(world, "new", role, scope)
    with pytest.raises(InvalidInputError, match=words):
        world.services.accounts.change("olaf", role=role, scope=scope, by=adam, now=world.now)


def test_a_disabled_account_is_out_and_stays_out_until_it_is_enabled(world, adam):
    accounts, login = world.services.accounts, log_in(world, "carol")
    accounts.disable("carol", by=adam, now=world.now)
    with pytest.raises(LoginError):
        who(world, login)
    with pytest.raises(LoginError) as caught:
        log_in(world, "carol")
    assert (caught.value.code, str(caught.value)) == (
        "account-disabled",
        "this account is disabled; ask an administrator",
    )
    with pytest.raises(LoginError) as caught:
        log_in(world, "carol", "wrong")
    assert caught.value.code == "wrong-login"
    assert accounts.disable("carol", by=adam, now=world.now).disabled_at == world.now
    accounts.enable("carol", by=adam, now=world.now)
    assert who(world, log_in(world, "carol")).name == "carol"


def test_a_session_that_was_opened_while_its_account_was_disabled_is_none(world, adam):
    """A login and a disabling at the same time: whichever is committed last, the account is out."""
    login = log_in(world, "carol")
    with world.cloud.store.transaction() as work:
        work.accounts.save(replace(work.accounts.get("carol"), disabled_at=world.now))
    with pytest.raises(LoginError):
        who(world, login)


def test_a_disabled_auditor_is_none(world, adam):
    world.register(1)
    world.upload()
    world.services.accounts.disable("alan", by=adam, now=world.now)
    with pytest.raises(InvalidInputError, match="'alan' is not an account that can approve tasks"):
        world.create(1)


def test_an_auditor_and_a_starter_see_the_project(world, adam):
    world.register(1)
    world.upload()
    airport = replace(HARBOUR, projects=("Airport",))
    for name in ("alan", "carol"):
        world.services.accounts.change(name, scope=airport, by=adam, now=world.now)
    with pytest.raises(InvalidInputError, match="auditor: alan does not see project Harbour"):
        world.create(1, by=world.people["olaf"])
    with pytest.raises(InvalidInputError, match="starters: carol does not see project Harbour"):
        world.services.projects.configure(
            "Harbour", audit_mailbox="audit@example.org", starters=["carol"], by=adam, now=world.now
        )


def test_a_reset_password_works_and_ends_what_was_open(world, adam):
    login = log_in(world, "carol")
    with pytest.raises(InvalidInputError, match="password: expected"):
        world.services.accounts.reset("carol", password="short", by=adam, now=world.now)
    world.services.accounts.reset("carol", password="another long password", by=adam, now=world.now)
    with pytest.raises(LoginError):
        who(world, login)
    with pytest.raises(LoginError):
        log_in(world, "carol")
    log_in(world, "carol", "another long password")


def test_nobody_manages_his_own_account_or_one_that_is_not_there(world, adam):
    accounts, asked = world.services.accounts, {"by": adam, "now": world.now}
    for act in (
        lambda name: accounts.disable(name, **asked),
        lambda name: accounts.enable(name, **asked),
        lambda name: accounts.change(name, role=Role.VIEWER, **asked),
        lambda name: accounts.reset(name, password="another long password", **asked),
    ):
        with pytest.raises(ConflictError, match="adam is your own account"):
            act("adam")
        with pytest.raises(NotFoundError, match="no account nobody"):
            act("nobody")


def test_of_two_administrators_who_disable_each_other_one_is_too_late(world, adam):
    """The act looks at the account as it is, not as it was when the request came."""
    accounts = world.services.accounts
    eve = person(world, "eve", Role.ADMINISTRATOR, Scope())
    accounts.disable("adam", by=eve, now=world.now)
    with pytest.raises(NotAllowedError, match="adam may not manage accounts any more"):
        accounts.disable("eve", by=adam, now=world.now)


def test_sessions_are_listed_and_ended_one_by_one_or_all(world, adam, people):
    accounts, carol = world.services.accounts, people["carol"]
    first = log_in(world, "carol", address="192.0.2.7")
    world.wait(minutes=5)
    second, third = log_in(world, "carol"), log_in(world, "carol")
    other = log_in(world, "olaf")
    listed = accounts.sessions("carol", by=carol, now=world.now)
    assert [item.address for item in listed] == ["192.0.2.1", "192.0.2.1", "192.0.2.7"]
    assert listed == accounts.sessions("carol", by=adam, now=world.now)
    assert all(item.id not in first.token for item in listed)
    assert accounts.end_sessions("carol", session_id=listed[2].id, by=carol, now=world.now) == 1
    with pytest.raises(LoginError):
        who(world, first)
    assert who(world, second) == who(world, third)
    with pytest.raises(NotFoundError, match="carol has no session"):
        accounts.end_sessions("carol", session_id=listed[2].id, by=carol, now=world.now)
    for ask in (accounts.sessions, accounts.end_sessions):
        with pytest.raises(NotAllowedError):
            ask("olaf", by=carol, now=world.now)
        with pytest.raises(NotFoundError):
            ask("nobody", by=adam, now=world.now)
    assert accounts.end_sessions("carol", by=adam, now=world.now) == 2
    with pytest.raises(LoginError):
        who(world, third)
    assert who(world, other).name == "olaf"
    world.wait(hours=25)
    assert accounts.sessions("olaf", by=adam, now=world.now) == ()
