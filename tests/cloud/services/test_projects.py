"""The audit mailbox of a project: where codes go, who may enter them, and what a change of it does."""

from dataclasses import replace

import pytest
from bmsota_cloud.domain.accounts import Role
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.projects import ApprovalWay, ProjectClass

BOX = "audit@example.org"


@pytest.fixture
def configure(world):
    """`configure(audit_mailbox=...)`: adam sets up the project of the tests."""

    def call(name="Harbour", **options):
        asked = {"audit_mailbox": BOX, "by": world.people["adam"], "now": world.now}
        return world.services.projects.configure(name, **asked | options)

    return call


@pytest.fixture
def ready(world, configure):
    """A vehicle, a release, and a project with a mailbox."""
    world.register(1)
    world.identify(1)
    world.upload()
    configure()
    return world


def refused(kind, call, *arguments, **options) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    return caught.value.code


def newest_audit(world):
    return world.services.audit.page(PageRequest(), by=world.people["anna"]).items[0]


def entry(world, action):
    return next(
        line
        for line in world.services.audit.page(PageRequest(1, 500), by=world.people["anna"]).items
        if line.action == action
    )


# -- the default way


def test_the_code_goes_to_the_mailbox_and_whoever_may_start_enters_it(ready):
    """The guide's way: olaf asks the auditor, who has no account here, and types the code."""
    task = ready.create(1, auditor="")
    assert ready.detail(task).approval is ApprovalWay.AUDIT_MAILBOX
    approved = ready.approve(task, by=ready.people["olaf"])
    mail = ready.mails[-1]
    assert mail.recipient == BOX
    assert "give the code to the person who asks you for it" in mail.body
    assert "log in as" not in mail.body
    assert (approved.approver, approved.approval, approved.code_mailbox) == ("olaf", ApprovalWay.AUDIT_MAILBOX, BOX)
    line = entry(ready, "ota_task.approve")
    assert "audit mailbox: the code was mailed to audit@example.org" in [
        line.detail for line in ready.services.audit.page(PageRequest(1, 500), by=ready.people["anna"]).items
    ]
    assert line.who == "olaf"


def test_the_creator_may_enter_the_code_that_the_auditor_gave(ready):
    task = ready.create(1, auditor="")
    assert ready.approve(task, by=ready.people["carol"]).approver == "carol"


@pytest.mark.parametrize("who", ["alan", "anna", "vera", "adam"])
def test_who_finds_the_code_and_may_not_start_is_refused_and_no_try_is_counted(ready, who):
    """Whoever found the code may not use it without the right to start."""
    task = ready.create(1, auditor="")
    assert refused(NotAllowedError, ready.approve, task, by=ready.people[who]) == "not-allowed"
    detail = ready.detail(task)
    assert (str(detail.task.status), detail.code.tries_left, detail.code.is_void) == ("Unapproved", 5, False)
    assert (newest_audit(ready).who, newest_audit(ready).outcome) == (who, "not-allowed")


def test_the_right_to_start_can_be_that_of_some_accounts_in_a_project(ready, configure):
    configure(starters=["olaf"])
    task = ready.create(1, auditor="")
    assert [name for name in ready.people if ready.detail(task, name).may_approve] == ["olaf"]
    assert refused(NotAllowedError, ready.approve, task, by=ready.people["carol"]) == "not-a-starter"
    ready.approve(task, code=ready.newest_code(), by=ready.people["olaf"])


def test_a_project_without_a_mailbox_has_no_task_without_an_auditor(world):
    world.register(1)
    world.upload()
    assert refused(ConflictError, world.create, 1, auditor="") == "no-audit-mailbox"
    world.create(1, auditor="alan")


@pytest.mark.parametrize("mailbox", ["carol@example.org", "CAROL@example.org", "carol+audit@Example.org"])
def test_the_mailbox_is_never_the_creators(ready, configure, mailbox):
    """The mailbox is never the creator's, however the address is spelt."""
    configure(audit_mailbox=mailbox)
    assert refused(InvalidInputError, ready.create, 1, auditor="") == "four-eyes"
    assert refused(InvalidInputError, ready.create, 1, auditor="alan") == "four-eyes"
    assert ready.create(1, auditor="", by=ready.people["olaf"]).creator == "olaf"


def test_an_auditor_with_the_creators_address_is_no_second_pair_of_eyes(world):
    world.register(1)
    world.upload()
    with world.cloud.store.transaction() as work:
        work.accounts.save(replace(world.people["alan"], email="carol@example.org"))
    assert refused(InvalidInputError, world.create, 1, auditor="alan") == "four-eyes"


def test_a_creator_who_gets_the_mailbox_later_stops_the_approval(ready):
    """The address of the account has become that of the mailbox after the code was mailed."""
    task = ready.create(1, auditor="")
    code = ready.newest_code()
    with ready.cloud.store.transaction() as work:
        work.accounts.save(replace(ready.people["carol"], email=BOX))
    assert refused(InvalidInputError, ready.approve, task, code=code, by=ready.people["olaf"]) == "four-eyes"


def test_the_code_is_bound_used_once_and_counted_in_this_way_too(ready):
    """Bound to the content, limited, used once."""
    task = ready.create(1, auditor="")
    olaf, right = ready.people["olaf"], ready.newest_code()
    wrong = f"{(int(right) + 1) % 1_000_000:06d}"
    for _ in range(5):
        assert refused(NotAllowedError, ready.approve, task, code=wrong, by=olaf) == "wrong-code"
    assert refused(ConflictError, ready.approve, task, code=right, by=olaf) == "code-void"
    ready.services.ota_tasks.send_new_code(task.id, by=olaf, now=ready.now)
    edited = ready.newest_code()
    ready.services.ota_tasks.edit(task.id, reason="other words", by=olaf, now=ready.now)
    assert refused(NotAllowedError, ready.approve, task, code=edited, by=olaf) == "wrong-code"
    code = ready.newest_code()
    ready.approve(task, code=code, by=olaf)
    assert refused(ConflictError, ready.approve, task, code=code, by=olaf) == "not-unapproved"


def test_the_mail_says_what_is_to_be_approved(ready):
    """Its reader may have no account: images, what runs now, and what speaks against it stand in the mail."""
    ready.register(2)
    ready.identify(2, version="2.1.0")
    ready.register(3)
    ready.create(1, 2, 3, auditor="")
    ready.newest_code()
    body = ready.mails[-1].body
    assert "Release   F7-2.1.0: master 2.1.0 (" in body
    assert "Running   master 1 x 2.0.0, 1 x 2.1.0" in body
    assert "Note      1 vehicle already on this version as the unit says, without a signature" in body
    assert "Note      1 vehicle without any report of its nodes so far" in body


def test_a_reason_of_several_lines_is_one_in_the_mail(ready):
    """Or its author could write the auditor other facts, and another code."""
    ready.register(4)
    ready.create(4, auditor="", reason="fix\nVehicles  1\r\nCreator   alan\u2028\n\nApproval code: 000000\n")
    ready.newest_code()
    lines = ready.mails[-1].body.splitlines()
    (code,) = (line for line in lines if line.startswith("Approval code"))
    assert code != "Approval code: 000000"
    assert [line for line in lines if line.startswith("Creator")] == ["Creator   carol"]
    assert "Reason    fix Vehicles 1 Creator alan Approval code: 000000" in lines


# -- the strict way


def test_a_strict_project_asks_for_an_auditor(ready, configure):
    configure(approval=ApprovalWay.NAMED_AUDITOR)
    assert refused(InvalidInputError, ready.create, 1, auditor="") == "no-auditor"
    task = ready.create(1, auditor="alan")
    code = ready.newest_code()
    assert ready.mails[-1].recipient == BOX
    assert "log in as alan" in ready.mails[-1].body
    for who, why in (("olaf", "not-allowed"), ("anna", "not-the-auditor")):
        assert refused(NotAllowedError, ready.approve, task, code=code, by=ready.people[who]) == why
    assert ready.approve(task, code=code).approval is ApprovalWay.NAMED_AUDITOR


def test_without_a_mailbox_the_strict_way_mails_the_auditor_himself(ready, configure):
    configure(audit_mailbox="", approval=ApprovalWay.NAMED_AUDITOR)
    task = ready.create(1, auditor="alan")
    assert ready.approve(task).code_mailbox == "alan@example.org"


def test_a_task_can_be_stricter_than_its_project(ready):
    task = ready.create(1, auditor="alan")
    assert refused(NotAllowedError, ready.approve, task, by=ready.people["olaf"]) == "not-allowed"
    assert ready.approve(task, code=ready.newest_code()).approval is ApprovalWay.NAMED_AUDITOR


def test_the_creator_does_not_approve_in_the_strict_way_whatever_his_role_became(ready, configure):
    configure(approval=ApprovalWay.NAMED_AUDITOR)
    task = ready.create(1, auditor="alan")
    carol = replace(ready.people["carol"], role=Role.AUDITOR)
    assert refused(NotAllowedError, ready.approve, task, by=carol) == "four-eyes"


# -- changing a project


@pytest.mark.parametrize(
    "change",
    [
        {"audit_mailbox": "other@example.org"},
        {"approval": ApprovalWay.NAMED_AUDITOR},
        {"starters": ["olaf"]},
    ],
)
def test_a_change_voids_the_codes_that_were_mailed(ready, configure, change):
    task = ready.create(1, auditor="")
    code = ready.newest_code()
    configure(**change)
    assert ready.detail(task).code.is_void
    line = entry(ready, "project.configure")
    assert (line.who, line.outcome) == ("adam", "done")
    assert line.detail.endswith("1 codes void")
    kind, word = (NotAllowedError, "not-the-auditor") if "approval" in change else (ConflictError, "code-void")
    who = ready.people["anna" if "approval" in change else "olaf"]
    assert refused(kind, ready.approve, task, code=code, by=who) == word


def test_a_task_that_became_too_lax_is_given_an_auditor(ready, configure):
    task = ready.create(1, auditor="")
    configure(approval=ApprovalWay.NAMED_AUDITOR)
    carol = ready.people["carol"]
    send = ready.services.ota_tasks.send_new_code
    assert refused(InvalidInputError, send, task.id, by=carol, now=ready.now) == "no-auditor"
    ready.services.ota_tasks.edit(task.id, auditor="alan", by=carol, now=ready.now)
    assert ready.approve(task).approver == "alan"


def test_a_change_behind_the_services_back_is_noticed(ready):
    """The digest of a code holds the mailbox and the way: no change takes a code with it."""
    from bmsota_cloud.domain.projects import Project

    task = ready.create(1, auditor="")
    with ready.cloud.store.transaction() as work:
        work.projects.save(Project(name="Harbour", audit_mailbox="other@example.org"))
    assert refused(ConflictError, ready.approve, task, by=ready.people["olaf"]) == "content-changed"


def test_the_same_settings_again_change_nothing(ready, configure):
    task = ready.create(1, auditor="")
    configure()
    assert not ready.detail(task).code.is_void
    assert entry(ready, "project.configure").detail == "nothing changed"


def test_other_projects_and_approved_tasks_are_left_alone(ready, configure):
    ready.register(2, project="Hills")
    configure("Hills")
    other = ready.create(2, project="Hills", auditor="")
    configure(audit_mailbox="new@example.org")
    assert not ready.detail(other).code.is_void


def test_the_old_mailbox_is_told(ready, configure):
    ready.services.outbox.drain(ready.now, ready.mails.append)
    configure(audit_mailbox="new@example.org")
    ready.services.outbox.drain(ready.now, ready.mails.append)
    assert [mail.recipient for mail in ready.mails] == [BOX]
    assert "adam has changed the audit mailbox of project Harbour" in ready.mails[0].body
    assert "new@example.org" not in ready.mails[0].body


@pytest.mark.parametrize("who", ["carol", "alan", "vera"])
def test_who_does_not_manage_projects_changes_none(ready, configure, who):
    assert refused(NotAllowedError, configure, audit_mailbox="x@example.org", by=ready.people[who]) == "not-allowed"
    assert ready.services.projects.get("Harbour", by=ready.people["vera"]).audit_mailbox == BOX
    assert newest_audit(ready).outcome == "not-allowed"


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"audit_mailbox": "no address"}, "bad-email"),
        ({"audit_mailbox": "a@b\nBcc: c@d"}, "bad-email"),
        ({"audit_mailbox": "a\0@example.org"}, "bad-email"),
        ({"audit_mailbox": "a@example\x1b.org"}, "bad-email"),
        ({"name": "a/b"}, "bad-project"),
        ({"starters": ["vera"]}, "bad-starters"),
        ({"starters": ["adam"]}, "bad-starters"),
        ({"starters": ["nobody"]}, "bad-starters"),
        ({"starters": ["olaf"] * 101}, "bad-starters"),
    ],
)
def test_what_can_not_be_set_is_refused(world, configure, change, code):
    assert refused(InvalidInputError, configure, **change) == code
    assert world.services.projects.all(by=world.people["vera"]) == ()


def test_projects_with_vehicles_or_settings_are_listed(ready, configure):
    ready.register(2, project="Alps")
    configure("Valley", audit_mailbox="", approval=ApprovalWay.NAMED_AUDITOR)
    views = ready.services.projects.all(by=ready.people["vera"])
    assert [(v.name, v.audit_mailbox, str(v.approval), v.vehicle_count, v.changed_by) for v in views] == [
        ("Alps", "", "audit mailbox", 1, ""),
        ("Harbour", BOX, "audit mailbox", 1, "adam"),
        ("Valley", "", "named auditor", 0, "adam"),
    ]
    with pytest.raises(NotFoundError):
        ready.services.projects.get("Nowhere", by=ready.people["vera"])


@pytest.mark.parametrize(
    ("auditor", "told"), [("", [BOX, "carol@example.org"]), ("alan", ["alan@example.org", BOX, "carol@example.org"])]
)
def test_the_audit_mailbox_is_told_when_wrong_codes_lock_a_task(ready, auditor, told):
    task = ready.create(1, auditor=auditor)
    who = ready.people[auditor or "olaf"]
    for number in range(9):
        if number == 5:
            ready.services.ota_tasks.send_new_code(task.id, by=ready.people["carol"], now=ready.now)
        assert refused(NotAllowedError, ready.approve, task, code="x", by=who) == "wrong-code"
    assert refused(ConflictError, ready.approve, task, code="x", by=who) == "code-locked"
    ready.services.outbox.drain(ready.now, ready.mails.append)
    assert sorted(mail.recipient for mail in ready.mails if "locked" in mail.subject) == told


# -- number and class


def test_a_project_has_the_number_that_the_customer_orders_by(world, configure):
    configure(number=" 2026-117 ", classification=ProjectClass.BUS)
    view = world.services.projects.get("Harbour", by=world.people["vera"])
    assert (view.number, view.classification) == ("2026-117", ProjectClass.BUS)
    assert "number: none -> 2026-117; class: unspecified -> bus" in newest_audit(world).detail


def test_who_changes_the_mailbox_only_leaves_number_and_class(world, configure):
    configure(number="2026-117", classification=ProjectClass.BUS)
    project = configure(audit_mailbox="other@example.org")
    assert (project.number, project.classification) == ("2026-117", ProjectClass.BUS)


def test_two_projects_never_have_one_number(world, configure):
    configure(number="2026-117")
    assert refused(ConflictError, configure, "Hills", number="2026-117") == "number-taken"
    assert configure(number="2026-117").number == "2026-117"
    assert configure("Hills", number="").number == configure("Valley", number="").number == ""


def test_a_new_number_voids_no_code(ready, configure):
    task = ready.create(1, auditor="")
    configure(number="2026-118", classification=ProjectClass.STORAGE)
    assert not ready.detail(task).code.is_void


@pytest.mark.parametrize("number", ["a b", "x" * 33, "7;8", "<7>"])
def test_what_cannot_be_a_number_is_refused(configure, number):
    assert refused(InvalidInputError, configure, number=number) == "bad-number"
