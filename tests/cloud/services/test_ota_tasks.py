"""Tasks: who may do what, what the code protects, what can be stopped."""

from dataclasses import replace

import pytest
from bmsota_cloud.domain.errors import (
    CloudError,
    ConflictError,
    InvalidInputError,
    NotAllowedError,
    NotFoundError,
    RateLimitedError,
)
from bmsota_cloud.domain.paging import PageRequest


@pytest.fixture
def task(world):
    world.register(1)
    world.identify(1)
    world.upload()
    return world.create(1)


def refused(kind, call, **options) -> str:
    with pytest.raises(kind) as caught:
        call(**options)
    return caught.value.code


# --- creating


@pytest.mark.parametrize("who", ["alan", "vera"])
def test_who_does_not_operate_creates_nothing(world, who):
    world.register(1)
    world.upload()
    assert refused(NotAllowedError, lambda: world.create(1, by=world.people[who])) == "not-allowed"
    assert world.services.ota_tasks.rows(PageRequest(), by=world.people["vera"]).total == 0


def test_a_new_task_waits_for_approval_with_all_its_vehicles(world, task):
    detail = world.detail(task)
    assert str(detail.task.status) == "Unapproved"
    assert detail.counts == {"Unapproved": 1}
    assert world.path(task) == ["Unapproved"]
    assert detail.upgrades.items[0].release_name == "F7-2.1.0"


def test_every_vehicle_gets_the_release_of_its_own_series(world, release_files):
    world.register(1)
    world.register(2, series="E7")
    world.upload()
    world.upload(release_files("E7"))
    detail = world.detail(world.create(1, 2))
    assert [view.release_name for view in detail.upgrades.items] == ["F7-2.1.0", "E7-2.1.0"]


def test_c5_a_vehicle_that_comes_after_the_start_is_no_part_of_the_task(world, task):
    world.approve(task)
    world.register(2)
    world.identify(2)
    detail = world.detail(task)
    assert [view.release_name for view in detail.upgrades.items] == ["F7-2.1.0"]
    assert sum(detail.counts.values()) == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"reason": "  "}, "bad-reason"),
        ({"reason": "x" * 1001}, "bad-reason"),
        ({"time_limit_s": 59}, "bad-time-limit"),
        ({"auditor": "nobody"}, "bad-auditor"),
        ({"auditor": "vera"}, "bad-auditor"),
        ({"vins": []}, "bad-vehicles"),
        ({"vins": ["TESTVEHICLE000001", "TESTVEHICLE000001"]}, "bad-vehicles"),
        ({"vins": ["TESTVEHICLE000001", "UNKNOWNVEHICLE001"]}, "bad-vehicles"),
        ({"project": "Another"}, "bad-vehicles"),
        ({"software_version": "9.9.9"}, "bad-vehicles"),
    ],
)
def test_a_task_that_can_not_be_right_is_refused_and_leaves_nothing_but_an_audit_line(world, change, code):
    world.register(1)
    world.upload()
    assert refused(InvalidInputError, lambda: world.create(1, **change)) == code
    assert world.services.ota_tasks.rows(PageRequest(), by=world.people["vera"]).total == 0
    newest = world.services.audit.page(PageRequest(), by=world.people["anna"]).items[0]
    assert (newest.who, newest.action, newest.outcome) == ("carol", "ota_task.create", code)


def test_a_vehicle_has_one_open_task(world, task):
    assert refused(ConflictError, lambda: world.create(1)) == "vehicle-busy"
    world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now)
    assert world.create(1).id == task.id + 1


@pytest.mark.slow
def test_an_expired_release_is_not_offered(world, release_files):
    world.register(1)
    world.upload(release_files(expires=world.now.replace(day=23)))
    world.wait(days=2)
    assert refused(InvalidInputError, lambda: world.create(1)) == "bad-vehicles"


# --- the code


def test_the_code_goes_to_the_auditor_and_starts_the_task(world, task):
    code = world.newest_code()
    assert [mail.recipient for mail in world.mails] == ["alan@example.org"]
    assert world.mails[0].body.count(code) == 1
    assert f"/ota/tasks/{task.id}" in world.mails[0].body
    approved = world.services.ota_tasks.approve(task.id, code=f" {code} ", by=world.people["alan"], now=world.now)
    assert (str(approved.status), approved.approver, approved.approved_at) == ("Approved", "alan", world.now)
    assert world.path(task) == ["Unapproved", "Approved"]


@pytest.mark.parametrize(
    ("who", "code"),
    [
        ("carol", "not-allowed"),  # the creator is an operator
        ("olaf", "not-allowed"),
        ("vera", "not-allowed"),
        ("adam", "not-allowed"),
        ("anna", "not-the-auditor"),  # an auditor with a forwarded mail
    ],
)
def test_nobody_but_the_named_auditor_approves_even_with_the_right_code(world, task, who, code):
    assert refused(NotAllowedError, lambda: world.approve(task, by=world.people[who])) == code
    assert world.path(task) == ["Unapproved"]


def test_the_creator_does_not_approve_whatever_his_role_became(world, task):
    """Carol is made auditor after she created the task for herself to approve: four eyes are not a permission."""
    from bmsota_cloud.domain.accounts import Role

    carol = replace(world.people["carol"], role=Role.AUDITOR)
    with world.cloud.store.transaction() as work:
        work.accounts.save(carol)
        work.ota_tasks.save(replace(task, auditor="carol"))
    assert refused(NotAllowedError, lambda: world.approve(task, by=carol)) == "four-eyes"


@pytest.mark.slow
def test_five_wrong_codes_void_it_and_a_new_one_works(world, task):
    right = world.newest_code()
    wrong = f"{(int(right) + 1) % 1_000_000:06d}"
    for left in (4, 3, 2, 1, 0):
        assert refused(NotAllowedError, lambda: world.approve(task, code=wrong)) == "wrong-code"
        assert world.detail(task).code.tries_left == left
    assert refused(ConflictError, lambda: world.approve(task, code=right)) == "code-void"
    world.services.ota_tasks.send_new_code(task.id, by=world.people["alan"], now=world.now)
    assert refused(NotAllowedError, lambda: world.approve(task, code=right)) == "wrong-code"
    world.approve(task)
    assert world.path(task) == ["Unapproved", "Approved"]


@pytest.mark.parametrize("code", ["", "12345", "1234567", "abcdef", "１２３４５６"])
def test_what_is_no_code_is_a_wrong_code_and_counts(world, task, code):
    assert refused(NotAllowedError, lambda: world.approve(task, code=code)) == "wrong-code"
    assert world.detail(task).code.tries_left == 4


def test_a_code_is_good_for_24_hours(world, task):
    code = world.newest_code()
    world.wait(hours=24)
    assert refused(ConflictError, lambda: world.approve(task, code=code)) == "code-expired"
    assert world.detail(task).code.is_void


def test_a_code_works_once(world, task):
    code = world.newest_code()
    world.approve(task, code=code)
    assert refused(ConflictError, lambda: world.approve(task, code=code)) == "not-unapproved"


def test_the_code_of_one_task_does_not_approve_another(world, task):
    first = world.newest_code()
    world.register(2)
    other = world.create(2)
    assert refused(NotAllowedError, lambda: world.approve(other, code=first)) == "wrong-code"


def test_an_edit_voids_the_code_that_was_mailed(world, task):
    old = world.newest_code()
    world.register(2)
    world.services.ota_tasks.edit(task.id, vins=[world.vin(1), world.vin(2)], by=world.people["carol"], now=world.now)
    assert refused(NotAllowedError, lambda: world.approve(task, code=old)) == "wrong-code"
    world.approve(task)
    assert world.detail(task).counts == {"Approved": 2}


def test_content_changed_behind_the_services_back_is_noticed(world, task):
    """Whatever changes what was approved, the digest tells."""
    with world.cloud.store.transaction() as work:
        work.ota_tasks.save(replace(task, reason="something else"))
    assert refused(ConflictError, lambda: world.approve(task)) == "content-changed"
    assert world.detail(task).code.is_void


def test_neither_code_nor_password_is_kept_readable(world, task):
    """After the mail is delivered the code is nowhere in the database."""
    code = world.newest_code()
    with world.cloud.store.reading() as work:
        assert all(code not in mail.body for mail in work.outbox.of_task(task.id))
        kept = work.ota_tasks.code(task.id)
    assert code.encode() not in kept.code_hmac
    log = world.services.audit.page(PageRequest(1, 500), by=world.people["anna"]).items
    assert all(code not in entry.detail for entry in log)


def test_there_is_no_such_task(world):
    for call in (
        lambda: world.services.ota_tasks.detail(99, PageRequest(), by=world.people["vera"]),
        lambda: world.services.ota_tasks.approve(99, code="000000", by=world.people["alan"], now=world.now),
        lambda: world.services.ota_tasks.cancel(99, by=world.people["carol"], now=world.now),
        lambda: world.services.ota_tasks.send_new_code(99, by=world.people["carol"], now=world.now),
    ):
        assert refused(NotFoundError, call) == "no-such-task"


# --- what the approval does


def test_approval_keeps_the_versions_and_signs_an_order_for_each_vehicle(world, sample_keys):
    from bmsota.ota import verify_order

    task = world.approved(1, 2)
    orders = []
    for place in (1, 2):
        upgrade = world.upgrade(task, place)
        assert [node.version for node in upgrade.versions_before] == ["2.0.0"] * 3
        orders.append(verify_order(upgrade.order_document, [sample_keys.order_signing_key.public_key()]))
    assert [(order.order_id, order.vin, order.hwid, order.sequence) for order in orders] == [
        ("OTA-1-1", world.vin(1), "M-000001", 1),
        ("OTA-1-2", world.vin(2), "M-000002", 1),
    ]
    assert orders[0].approver == "alan"
    assert str(world.detail(task).task.approval) == "named auditor"
    assert orders[0].approved_s == int(world.now.timestamp())
    assert orders[0].expires_s - orders[0].issued_s == 7 * 24 * 3600


@pytest.mark.slow
def test_the_sequence_of_a_vehicle_rises_from_task_to_task(world):
    task = world.approved(1)
    world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now)
    again = world.approve(world.create(1))
    assert world.upgrade(again).sequence == 2


def test_online_vehicles_are_hinted_at_after_the_commit(world):
    seen = []

    class Link:
        def wake(self):
            seen.append(world.path(task))

    world.register(1)
    world.upload()
    world.cloud.router.register(world.vin(1), Link())
    task = world.create(1)
    world.approve(task)
    assert seen == [["Unapproved", "Approved"]]


# --- stopping


def test_cancel_before_the_approval_ends_task_and_code(world, task):
    code = world.newest_code()
    assert world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now, reason="typo") == ()
    detail = world.detail(task)
    assert (str(detail.task.status), detail.counts, detail.code.is_void) == ("Cancelled", {"Cancelled": 1}, True)
    assert detail.upgrades.items[0].reason == "cancelled by carol: typo"
    assert refused(ConflictError, lambda: world.approve(task, code=code)) == "not-unapproved"


def test_cancel_tells_for_which_vehicles_it_is_too_late(world):
    task = world.approved(1, 2)
    world.fetch(2)
    world.tell(world.vin(2), 5)
    assert world.services.ota_tasks.cancel(task.id, by=world.people["alan"], now=world.now) == (world.vin(2),)
    assert world.detail(task).counts == {"Download Complete": 1, "Cancelled": 1}
    assert str(world.detail(task).task.status) == "Approved"
    world.services.upgrades.receive_report(world.vin(2), world.report(2, "OTA-1-2"), world.now)
    assert str(world.detail(task).task.status) == "Finished"
    assert (
        refused(ConflictError, lambda: world.services.ota_tasks.cancel(task.id, by=world.people["alan"], now=world.now))
        == "task-ended"
    )


def test_a_viewer_stops_nothing(world, task):
    call = world.services.ota_tasks.cancel
    assert refused(NotAllowedError, call, task_id=task.id, by=world.people["vera"], now=world.now) == "not-allowed"


# --- looking


def test_the_detail_says_what_the_asking_account_may_do(world, task):
    may = {name: (world.detail(task, name).may_approve, world.detail(task, name).may_cancel) for name in world.people}
    assert may == {
        "carol": (False, True),
        "olaf": (False, True),
        "alan": (True, True),
        "anna": (False, True),
        "vera": (False, False),
        "adam": (False, True),
    }


def test_lists_are_paged(world):
    for number in range(1, 6):
        world.register(number)
    world.upload()
    for number in range(1, 6):
        world.create(number)
    page = world.services.ota_tasks.rows(PageRequest(2, 2), by=world.people["vera"])
    assert ([row.task.id for row in page.items], page.total, page.pages) == ([3, 2], 5, 3)
    assert [row.vehicle_count for row in page.items] == [1, 1]
    with pytest.raises(CloudError):
        PageRequest(0, 10)
    with pytest.raises(CloudError):
        PageRequest(1, 501)


# --- versions before


def test_a_vehicle_never_heard_of_tells_its_versions_before_when_it_comes(world):
    """Approved while offline since ever: its first identity says what it ran, and a later one changes nothing of that."""
    world.register(1)
    world.upload()
    task = world.create(1)
    world.approve(task)
    assert world.upgrade(task).versions_before == ()
    world.identify(1)
    before = world.upgrade(task).versions_before
    assert [(node.position, node.version) for node in before] == [(0, "2.0.0"), (1, "2.0.0"), (2, "2.0.0")]
    world.identify(1, version="2.1.0")
    assert world.upgrade(task).versions_before == before


# --- guessing codes


def wrong_code(world, task):
    """The outcome of one guess, by a session of the auditor that somebody has stolen. What is no code is a guess as well."""
    return guess(world, task, "x")


def guess(world, task, code):
    try:
        world.services.ota_tasks.approve(task.id, code=code, by=world.people["alan"], now=world.now)
    except CloudError as error:
        return error.code
    return "approved"


def new_code(world, task, who="carol"):
    world.services.ota_tasks.send_new_code(task.id, by=world.people[who], now=world.now)


@pytest.mark.slow
def test_a_task_takes_nine_wrong_codes_over_all_its_codes_and_is_locked_for_good(world, task):
    """The chance to guess is 9 in 1,000,000 in all. The auditor and the creator are told; the way out is a new task."""
    outcomes = []
    for _ in range(15):
        outcomes.append(wrong_code(world, task))
        if outcomes[-1] == "code-void":
            new_code(world, task)
            outcomes[-1] = wrong_code(world, task)
    assert outcomes == ["wrong-code"] * 9 + ["code-locked"] * 6
    assert refused(ConflictError, lambda: new_code(world, task)) == "code-locked"
    world.services.outbox.drain(world.now, world.mails.append)
    told = [mail for mail in world.mails if "locked" in mail.subject]
    assert sorted(mail.recipient for mail in told) == ["alan@example.org", "carol@example.org"]
    assert "the last one by alan" in told[0].body
    entries = world.services.audit.page(PageRequest(1, 500), by=world.people["anna"]).items
    assert [entry.subject for entry in entries if entry.action == "ota_task.lock"] == [f"task {task.id}"]
    assert [str(entry.outcome) for entry in entries].count("code-locked") == 7
    # Neither time nor a restart nor an edit opens it again, but a new task is a new one.
    world.wait(days=300)
    world.services.ota_tasks._limits._limits.__init__(world.cloud.store)
    edit = {"reason": "again", "by": world.people["carol"], "now": world.now}
    assert refused(ConflictError, lambda: world.services.ota_tasks.edit(task.id, **edit)) == "code-locked"
    world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now)
    assert str(world.approve(world.create(1)).status) == "Approved"


def test_the_ninth_wrong_code_takes_the_right_one_along(world, task):
    for _ in range(5):
        wrong_code(world, task)
    new_code(world, task)
    right = world.newest_code()
    for _ in range(4):
        wrong_code(world, task)
    assert guess(world, task, right) == "code-locked"
    assert str(world.detail(task).task.status) == "Unapproved"


@pytest.mark.slow
def test_who_guesses_at_one_task_after_the_other_must_wait(world):
    """18 wrong codes a day by one account; another account is not kept from its own tasks."""
    world.upload()
    outcomes = []
    for number in range(1, 7):
        world.register(number)
        task = world.create(number)
        outcomes += [wrong_code(world, task) for _ in range(4)]
    code = world.newest_code()
    assert outcomes == ["wrong-code"] * 18 + ["too-many-tries"] * 6
    world.register(9)
    other = world.create(9, auditor="anna")
    assert str(world.approve(other, by=world.people["anna"]).status) == "Approved"
    world.wait(minutes=81)
    assert guess(world, task, code) == "approved"


def test_codes_are_not_mailed_without_end(world, task):
    """Six an hour for one task, the first one and those of edits included, by whomever."""
    edit = {"reason": "again", "by": world.people["olaf"], "now": world.now}
    world.services.ota_tasks.edit(task.id, **edit)
    for who in ("carol", "alan", "olaf", "carol"):
        new_code(world, task, who)
    for call in (lambda: new_code(world, task), lambda: world.services.ota_tasks.edit(task.id, **edit)):
        with pytest.raises(RateLimitedError) as caught:
            call()
        assert (caught.value.code, caught.value.retry_after_s) == ("too-many-mails", 600)
    assert world.detail(task).task.reason == "again"
    world.services.outbox.drain(world.now, world.mails.append)
    assert len(world.mails) == 6
    # The last code is as good as any.
    assert guess(world, task, world.mails[-1].body.partition("Approval code: ")[2][:6]) == "approved"


@pytest.mark.slow
def test_one_account_does_not_flood_the_mailboxes_with_tasks(world):
    world.upload()
    for number in range(61):
        world.register(number)
    for number in range(60):
        world.create(number)
    with pytest.raises(RateLimitedError):
        world.create(60)
    world.create(60, by=world.people["olaf"])
