"""What is done to many vehicles goes in slices: it survives a death in the middle, and everybody else gets a turn."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from collections import Counter
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from hashlib import sha256
from pathlib import Path

import pytest
from bmsota_cloud.domain.device import DeviceSession
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from bmsota_cloud.domain.ota_tasks import OPEN_STATUSES, TaskStatus, VehicleStatus, VehicleUpgrade
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.platform import build_cloud
from bmsota_cloud.services import ReportVerdict, task_acts
from bmsota_cloud.services.approval_codes import TaskContent, target_of
from bmsota_cloud.services.task_acts import TaskActs

from bmsota.gbt32960 import UpgradeStateCode as Code
from bmsota.ota import Outcome, device_api, verify_order

V = VehicleStatus


class PowerCutError(BaseException):
    """Nothing catches it, as nothing catches a kill."""


@pytest.fixture
def slices_of(monkeypatch):
    """`slices_of(2)`: that many vehicles in one transaction."""
    return lambda size: monkeypatch.setattr(task_acts, "SLICE_VEHICLES", size)


@pytest.fixture
def crowd(world):
    """`crowd(7)`: a task for that many vehicles, unapproved."""

    def make(count, **options):
        for number in range(1, count + 1):
            world.register(number)
        world.upload()
        return world.create(*range(1, count + 1), **options)

    return make


def upgrades(world, task) -> tuple[VehicleUpgrade, ...]:
    with world.cloud.store.reading() as work:
        return work.ota_tasks.upgrades(task.id)


def steps(world, task):
    """Every transition of the task, by VIN."""
    with world.cloud.store.reading() as work:
        vins = [upgrade.vin for upgrade in work.ota_tasks.upgrades(task.id)]
        found = work.ota_tasks.transitions(task.id, vins)
    return {vin: [str(step.status) for step in found[vin]] for vin in vins}


def refused(kind, call, *arguments, **options) -> str:
    with pytest.raises(kind) as caught:
        call(*arguments, **options)
    return caught.value.code


def audit(world, action):
    lines = world.services.audit.page(PageRequest(1, 500), by=world.people["anna"]).items
    return [(line.who, line.outcome, line.detail) for line in reversed(lines) if line.action == action]


def transactions_end_after(world, monkeypatch, count):
    """The process dies instead of making its transaction *count* + 1."""
    store, left = world.cloud.store, [count]
    real = store.transaction

    def transaction():
        if left[0] == 0:
            raise PowerCutError
        left[0] -= 1
        return real()

    monkeypatch.setattr(store, "transaction", transaction)


# -- a death in the middle ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("done", range(1, 5))
def test_an_approval_that_died_after_any_slice_is_carried_on(world, crowd, slices_of, monkeypatch, sample_keys, done):
    """Seven vehicles in slices of two; the process dies after the approval and 0, 1, 2, 3 slices, a tick carries on."""
    slices_of(2)
    task = crowd(7)
    code = world.newest_code()
    with monkeypatch.context() as patch:
        transactions_end_after(world, patch, done)
        with pytest.raises(PowerCutError):
            world.approve(task, code=code)
    counts = world.detail(task).counts
    assert counts == ({"Unapproved": 7} if done == 1 else {"Unapproved": 9 - 2 * done, "Approved": 2 * (done - 1)})
    detail = world.detail(task)
    assert (str(detail.task.status), detail.act.kind.value, detail.act.count) == ("Approved", "approve", 2 * (done - 1))
    # Nobody can do it again, and the code is used up.
    assert refused(ConflictError, world.approve, task, code=code) == "not-unapproved"
    world.wait(seconds=5)
    assert world.services.ota_tasks.carry_on(world.now) == 1
    assert world.services.ota_tasks.carry_on(world.now) == 0
    assert set(map(tuple, steps(world, task).values())) == {("Unapproved", "Approved")}
    orders = [
        verify_order(u.order_document, [sample_keys.order_signing_key.public_key()]) for u in upgrades(world, task)
    ]
    assert [(order.vin, order.sequence) for order in orders] == [(world.vin(n), 1) for n in range(1, 8)]
    assert world.detail(task).act is None
    assert [line[:2] for line in audit(world, "ota_task.approve")] == [
        ("alan", "done"),
        ("alan", "not-unapproved"),
        ("alan", "finished"),
    ]
    assert audit(world, "ota_task.approve")[-1][2] == "7 vehicles"


def test_two_processes_that_carry_on_the_same_act_give_one_order(world, crowd, slices_of, monkeypatch):
    """Both have prepared the same slice; the second finds the act moved, and writes nothing."""
    slices_of(2)
    task = crowd(5)
    mine, other = (
        world.services.ota_tasks._acts,
        TaskActs(world.services.ota_tasks._context, world.services.ota_tasks._codes),
    )
    real = mine._sign
    interferences = []

    def sign(prepared, now):
        real(prepared, now)
        if len(interferences) < 2:
            interferences.append(other._do_slice(task.id, now))

    monkeypatch.setattr(mine, "_sign", sign)
    world.approve(task)
    assert interferences == [2, 2]
    assert Counter(u.sequence for u in upgrades(world, task)) == {1: 5}
    assert set(map(tuple, steps(world, task).values())) == {("Unapproved", "Approved")}
    assert audit(world, "ota_task.approve")[-1][2] == "5 vehicles"


def test_an_order_that_was_given_meanwhile_makes_the_next_sequence(world, crowd, monkeypatch):
    task = crowd(2)
    acts = world.services.ota_tasks._acts
    real = acts._sign

    def sign(prepared, now):
        real(prepared, now)
        with world.cloud.store.transaction() as work:
            work.vehicles.save_sequences({world.vin(2): 41})

    monkeypatch.setattr(acts, "_sign", sign)
    world.approve(task)
    first, second = upgrades(world, task)
    assert (first.sequence, second.sequence) == (1, 42)
    with world.cloud.store.reading() as work:
        assert work.vehicles.get(world.vin(2)).order_sequence == 42


def test_a_cancellation_takes_the_place_of_an_approval_under_way(world, crowd, slices_of, monkeypatch):
    slices_of(2)
    task = crowd(7)
    code = world.newest_code()
    with monkeypatch.context() as patch:
        transactions_end_after(world, patch, 2)
        with pytest.raises(PowerCutError):
            world.approve(task, code=code)
    assert world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now) == ()
    assert world.services.ota_tasks.carry_on(world.now) == 0
    assert world.detail(task).counts == {"Cancelled": 7}
    assert str(world.detail(task).task.status) == "Cancelled"


@pytest.mark.parametrize("is_approved", [False, True])
def test_a_cancellation_that_died_is_carried_on(world, crowd, slices_of, monkeypatch, is_approved):
    slices_of(2)
    task = crowd(5)
    code = world.newest_code()
    if is_approved:
        world.approve(task, code=code)
    with monkeypatch.context() as patch:
        transactions_end_after(world, patch, 2)
        with pytest.raises(PowerCutError):
            world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now, reason="typo")
    assert world.detail(task).counts["Cancelled"] == 2
    world.services.ota_tasks.carry_on(world.now)
    assert world.detail(task).counts == {"Cancelled": 5}
    assert {u.reason for u in upgrades(world, task)} == {"cancelled by carol: typo"}
    assert str(world.detail(task).task.status) == "Cancelled"
    # Its vehicles are free for another task.
    assert world.create(*range(1, 6)).id == task.id + 1


def test_one_act_at_a_time(world, crowd, slices_of, monkeypatch):
    slices_of(2)
    task = crowd(5)
    code = world.newest_code()
    with monkeypatch.context() as patch:
        transactions_end_after(world, patch, 2)
        with pytest.raises(PowerCutError):
            world.approve(task, code=code)
    carol = world.people["carol"]
    asked = {"by": carol, "now": world.now, "reason": "stuck", "vins": [world.vin(1)]}
    for call in (world.services.ota_tasks.end, world.services.ota_tasks.retry):
        assert refused(ConflictError, call, task.id, **asked) == "act-under-way"


@pytest.mark.slow
def test_a_process_that_is_killed_in_the_middle(world, sample_keys, tmp_path):
    """kill -9 in a real process, on a real file; another process carries on."""
    script = textwrap.dedent(
        """
        import os, signal, sys
        from pathlib import Path
        sys.path.insert(0, sys.argv[1])
        from conftest import make_world
        from bmsota_cloud.services import task_acts
        task_acts.SLICE_VEHICLES = 3
        world = make_world(data_dir=Path(sys.argv[2]))
        for number in range(1, 11):
            world.register(number)
        world.upload()
        task = world.create(*range(1, 11))
        code = world.newest_code()
        acts = world.services.ota_tasks._acts
        real, left = acts._sign, [2]
        def sign(prepared, now):
            real(prepared, now)
            if not left[0]:
                os.kill(os.getpid(), signal.SIGKILL)
            left[0] -= 1
        acts._sign = sign
        world.approve(task, code=code)
        """
    )
    folder = Path(__file__).parent.parent
    ended = subprocess.run(
        [sys.executable, "-c", script, str(folder), str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert ended.returncode == -9, ended.stderr
    cloud = build_cloud(keys=sample_keys, settings=world.cloud.settings, data_dir=tmp_path)
    try:
        with cloud.store.reading() as work:
            assert work.ota_tasks.counts([1])[1] == {"Unapproved": 4, "Approved": 6}
        assert cloud.services.ota_tasks.carry_on(world.now) == 1
        with cloud.store.reading() as work:
            assert work.ota_tasks.counts([1])[1] == {"Approved": 10}
            assert {u.sequence for u in work.ota_tasks.upgrades(1)} == {1}
    finally:
        cloud.close()


# -- cancelled, and no more -----------------------------------------------------------------------------------------------


def test_a_task_whose_vehicles_were_all_cancelled_is_cancelled_and_takes_no_retry(world, crowd):
    """Its approval was taken back with it: another task asks for another code."""
    task = crowd(3)
    world.approve(task)
    carol, service = world.people["carol"], world.services.ota_tasks
    service.cancel(task.id, by=carol, now=world.now)
    detail = world.detail(task)
    assert (str(detail.task.status), detail.counts, detail.task.finished_at) == (
        "Cancelled",
        {"Cancelled": 3},
        world.now,
    )
    assert not world.detail(task, by="carol").may_force
    for vins in ((), (world.vin(1),)):
        asked = {"vins": vins, "reason": "again", "by": carol, "now": world.now}
        assert refused(ConflictError, service.retry, task.id, **asked) == "task-cancelled"
    assert world.detail(task).counts == {"Cancelled": 3}
    assert refused(ConflictError, service.cancel, task.id, by=carol, now=world.now) == "task-ended"


def test_a_cancelled_task_with_another_end_in_it_is_finished_and_can_be_retried(world, crowd):
    task = crowd(2)
    world.approve(task)
    carol, service = world.people["carol"], world.services.ota_tasks
    fail(world, 1, order_id=f"OTA-{task.id}-1")
    service.cancel(task.id, by=carol, now=world.now)
    assert (str(world.detail(task).task.status), world.detail(task).counts) == (
        "Finished",
        {"Upgrade failed": 1, "Cancelled": 1},
    )
    assert service.retry(task.id, reason="again", by=carol, now=world.now) == 1


def test_a_success_that_a_cancelled_task_hears_of_makes_it_finished(world, crowd):
    task = crowd(2)
    world.approve(task)
    world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now)
    run_target(world, 1, order_id=f"OTA-{task.id}-1")
    assert (str(world.detail(task).task.status), world.detail(task).counts) == (
        "Finished",
        {"Upgrade succeeded": 1, "Cancelled": 1},
    )


# -- entering vehicles -----------------------------------------------------------------------------------------------------


def listed(world, task):
    """The vehicles of the task with the order of their places, and how many lists are being entered."""
    with world.cloud.store.reading() as work:
        found = [(u.vin, u.place, str(u.status)) for u in work.ota_tasks.upgrades(task.id)]
        return found, len(work.ota_tasks.listed())


@pytest.mark.parametrize("done", range(1, 5))
def test_a_creation_that_died_after_any_slice_is_carried_on(world, slices_of, monkeypatch, done):
    """Seven vehicles in slices of two: one code, one transition a vehicle, one line in the audit log."""
    slices_of(2)
    for number in range(1, 8):
        world.register(number)
    world.upload()
    with monkeypatch.context() as patch:
        transactions_end_after(world, patch, done)
        with pytest.raises(PowerCutError):
            world.create(*range(7, 0, -1))
    task = world.services.ota_tasks.rows(PageRequest(), by=world.people["vera"]).items[0].task
    detail = world.detail(task)
    assert (detail.act.kind.value, detail.act.count, detail.code) == ("list", 2 * (done - 1), None)
    carol = world.people["carol"]
    service = world.services.ota_tasks
    for call in (
        lambda: service.approve(task.id, code="000000", by=world.people["alan"], now=world.now),
        lambda: service.send_new_code(task.id, by=carol, now=world.now),
        lambda: service.edit(task.id, reason="another", by=carol, now=world.now),
        lambda: service.edit(task.id, vins=[world.vin(1)], by=carol, now=world.now),
    ):
        assert refused(ConflictError, call) == "act-under-way"
    # Its vehicles are taken, those without a row too.
    assert refused(ConflictError, world.create, 1) == "vehicle-busy"
    assert service.carry_on(world.now) == 1
    assert service.carry_on(world.now) == 0
    assert listed(world, task) == ([(world.vin(8 - place), place, "Unapproved") for place in range(1, 8)], 0)
    assert set(map(tuple, steps(world, task).values())) == {("Unapproved",)}
    assert [line[:2] for line in audit(world, "ota_task.create")] == [("carol", "done"), ("carol", "vehicle-busy")]
    world.approve(task)
    assert world.detail(task).counts == {"Approved": 7}


@pytest.mark.parametrize("done", range(1, 7))
def test_an_edit_that_died_after_any_slice_is_carried_on(world, crowd, slices_of, monkeypatch, done):
    """Three vehicles go in two slices, four come in two; the old code is void from the first moment."""
    slices_of(2)
    task = crowd(3)
    old = world.newest_code()
    for number in range(4, 7):
        world.register(number)
    vins = [world.vin(number) for number in (6, 1, 5, 4)]
    with monkeypatch.context() as patch:
        transactions_end_after(world, patch, done)
        if done < 5:
            with pytest.raises(PowerCutError):
                world.services.ota_tasks.edit(task.id, vins=vins, by=world.people["carol"], now=world.now)
            assert world.detail(task).code.is_void
        else:
            world.services.ota_tasks.edit(task.id, vins=vins, by=world.people["carol"], now=world.now)
    assert world.services.ota_tasks.carry_on(world.now) == (1 if done < 5 else 0)
    assert listed(world, task) == ([(vin, place, "Unapproved") for place, vin in enumerate(vins, 1)], 0)
    assert set(map(tuple, steps(world, task).values())) == {("Unapproved",)}
    assert refused(NotAllowedError, world.approve, task, code=old) == "wrong-code"
    world.approve(task)
    assert world.detail(task).counts == {"Approved": 4}


@pytest.mark.parametrize("died", [0, 2])
@pytest.mark.parametrize("done", range(1, 4))
def test_a_cancellation_takes_the_place_of_a_creation(world, slices_of, monkeypatch, done, died):
    """Every vehicle that was asked for is in the cancelled task, whenever it came, and whenever it died itself."""
    slices_of(2)
    for number in range(1, 6):
        world.register(number)
    world.upload()
    with monkeypatch.context() as patch:
        transactions_end_after(world, patch, done)
        with pytest.raises(PowerCutError):
            world.create(*range(1, 6))
    task = world.services.ota_tasks.rows(PageRequest(), by=world.people["vera"]).items[0].task
    cancel_and_die(world, monkeypatch, task, died)
    assert listed(world, task) == ([(world.vin(number), number, "Cancelled") for number in range(1, 6)], 0)
    assert set(map(tuple, steps(world, task).values())) == {("Unapproved", "Cancelled")}
    assert world.detail(task).code is None
    assert audit(world, "ota_task.cancel")[-1] == ("carol", "finished", "5 vehicles: cancelled by carol")
    # All five are free again.
    assert world.create(*range(1, 6)).id == task.id + 1


@pytest.mark.parametrize("died", [0, 2])
@pytest.mark.parametrize("done", range(1, 5))
def test_a_task_that_is_cancelled_while_it_is_edited_has_a_whole_list(world, crowd, slices_of, monkeypatch, done, died):
    """Three vehicles go and four come, in slices of two: the cancelled task has the four, at whichever slice it was met."""
    slices_of(2)
    task = crowd(3)
    for number in range(4, 7):
        world.register(number)
    vins = [world.vin(number) for number in (6, 1, 5, 4)]
    with monkeypatch.context() as patch:
        transactions_end_after(world, patch, done)
        with pytest.raises(PowerCutError):
            world.services.ota_tasks.edit(task.id, vins=vins, by=world.people["carol"], now=world.now)
    mails = len(world.detail(task).mails)
    cancel_and_die(world, monkeypatch, task, died)
    assert listed(world, task) == ([(vin, place, "Cancelled") for place, vin in enumerate(vins, 1)], 0)
    detail = world.detail(task)
    assert (detail.task.status, detail.code.is_void, len(detail.mails)) == (TaskStatus.CANCELLED, True, mails)
    assert world.create(*range(1, 7)).id == task.id + 1


def cancel_and_die(world, monkeypatch, task, died):
    """Cancel the task; with *died*, in a process that dies after so many transactions, and another carries on."""
    cancel = world.services.ota_tasks.cancel
    if not died:
        assert cancel(task.id, by=world.people["carol"], now=world.now) == ()
    else:
        with monkeypatch.context() as patch:
            transactions_end_after(world, patch, died)
            with pytest.raises(PowerCutError):
                cancel(task.id, by=world.people["carol"], now=world.now)
        assert world.services.ota_tasks.carry_on(world.now) == 1
    assert world.services.ota_tasks.carry_on(world.now) == 0


def test_two_processes_that_enter_the_same_list_enter_it_once(world, crowd, slices_of, monkeypatch):
    slices_of(2)
    for number in range(1, 6):
        world.register(number)
    world.upload()
    service = world.services.ota_tasks
    other = TaskActs(service._context, service._codes)
    real, entered = service._acts._enter_slice, []

    def enter(act, *rest):
        if not entered:
            # Behind our back, after we have read the act.
            entered.append(other._do_slice(act.task_id, world.now))
        return real(act, *rest)

    monkeypatch.setattr(service._acts, "_enter_slice", enter)
    task = world.create(*range(1, 6))
    assert entered == [2]
    assert listed(world, task) == ([(world.vin(number), number, "Unapproved") for number in range(1, 6)], 0)
    world.approve(task)


def test_a_project_that_loses_its_mailbox_meanwhile_leaves_a_task_without_code(world, slices_of, monkeypatch):
    """The list is complete all the same; the audit log says why no code was mailed, and a person can request one."""
    slices_of(2)
    for number in range(1, 4):
        world.register(number)
    world.upload()
    codes = world.services.ota_tasks._codes
    refusal = ConflictError("no-audit-mailbox", "project Harbour has no audit mailbox")

    def refuse(*_):
        raise refusal

    with monkeypatch.context() as patch:
        patch.setattr(codes, "issue", refuse)
        task = world.create(1, 2, 3)
    assert world.detail(task).code is None
    assert audit(world, "ota_task.send_code") == [("carol", "no-audit-mailbox", str(refusal))]
    world.services.ota_tasks.send_new_code(task.id, by=world.people["carol"], now=world.now)
    world.approve(task)


def test_what_a_code_stands_for_is_read_again_when_the_code_was_replaced(world, crowd):
    """What was read before an edit is out of date: the new code is compared with the new list, not with the old one."""
    task = crowd(2)
    world.register(3)
    with world.cloud.store.reading() as work:
        before = TaskContent.of(work, task.id)
    service = world.services.ota_tasks
    service.edit(task.id, vins=[world.vin(3)], by=world.people["carol"], now=world.now)
    code = world.newest_code()
    with world.cloud.store.transaction() as work:
        task = work.ota_tasks.get(task.id)
        newest = replace(before, code=work.ota_tasks.code(task.id))
        verdicts = [
            service._codes.check(work, task, target_of(work, task), content, code, world.now)
            for content in (before, newest)
        ]
    assert (verdicts[0], verdicts[1].code) == (None, "code-void")


# -- a turn for everybody ----------------------------------------------------------------------------------------------


def test_orders_are_signed_outside_of_transactions_and_no_slice_is_long(world, crowd, slices_of, monkeypatch):
    """What a link waits for is one transaction: it holds a slice at most, and no signature is made in it."""
    slices_of(3)
    task = crowd(8)
    code = world.newest_code()
    store, events = world.cloud.store, []
    real = store.transaction

    @contextmanager
    def transaction():
        events.append("begin")
        with real() as work:
            save = work.ota_tasks.save_upgrades
            monkeypatch.setattr(work.ota_tasks, "save_upgrades", lambda all_: (events.append(len(all_)), save(all_)))
            yield work
        events.append("commit")

    sign = task_acts.sign_next_order
    monkeypatch.setattr(store, "transaction", transaction)
    monkeypatch.setattr(task_acts, "sign_next_order", lambda *a, **o: (events.append("sign"), sign(*a, **o))[1])
    world.approve(task, code=code)
    written = "begin {} commit"
    assert " ".join(map(str, events)) == " ".join(
        ["begin commit"] + [" ".join(["sign"] * count) + " " + written.format(count) for count in (3, 3, 2)]
    )


def test_online_vehicles_are_hinted_at_slice_by_slice(world, crowd, slices_of):
    slices_of(2)
    task = crowd(5)
    seen = []

    class Link:
        def wake(self):
            seen.append(world.detail(task).counts.get("Approved", 0))

    for number in (1, 5):
        world.cloud.router.register(world.vin(number), Link())
    world.approve(task)
    assert seen == [2, 5]


# -- what runs already -------------------------------------------------------------------------------------------------


def run_target(world, number, *, order_id):
    """The unit's signed report: it runs the target version."""
    assert world.services.upgrades.receive_report(world.vin(number), world.report(number, order_id), world.now)


def test_what_already_runs_by_a_signed_report_counts_as_success(world):
    first = world.approved(1, 2)
    run_target(world, 1, order_id="OTA-1-1")
    world.services.ota_tasks.cancel(first.id, by=world.people["carol"], now=world.now)
    world.register(3)
    world.identify(3, version="2.1.0")  # says so, without a signature
    task = world.create(1, 2, 3)
    detail = world.detail(task)
    assert [[remark.kind.value for remark in view.remarks] for view in detail.upgrades.items] == [
        ["already-runs"],
        [],
        ["said-to-run"],
    ]
    assert {kind.value: count for kind, count in detail.remarks.items()} == {"already-runs": 1, "said-to-run": 1}
    world.approve(task)
    done, ordered, said = world.detail(task).upgrades.items
    assert (done.status, done.reason) == (V.SUCCEEDED, "already runs 2.1.0, by its signed report")
    assert world.path(task) == ["Unapproved", "Approved", "Upgrade succeeded"]
    assert [n.version for n in done.versions_after] == ["2.1.0"] * 3
    assert (done.sequence, done.instruction_count) == (0, 0)
    assert world.services.upgrades.pending_instruction(world.vin(1)) is None
    assert [ordered.status, said.status] == [V.APPROVED, V.APPROVED]


def test_a_task_for_vehicles_that_all_run_it_is_finished_at_once(world):
    world.approved(1)
    run_target(world, 1, order_id="OTA-1-1")
    task = world.approve(world.create(1))
    assert str(task.status) == "Finished"
    assert world.detail(task).counts == {"Upgrade succeeded": 1}


def test_a_pack_that_was_changed_since_its_report_is_instructed(world):
    world.approved(1)
    run_target(world, 1, order_id="OTA-1-1")
    world.wait(seconds=1)
    world.identify(1)  # somebody says that 2.0.0 runs again
    task = world.approve(world.create(1))
    assert world.detail(task).counts == {"Approved": 1}
    (upgrade,) = upgrades(world, task)
    # What was confirmed is still what ran before.
    assert [(node.version, node.is_signed) for node in upgrade.versions_before] == [("2.1.0", True)] * 3


def test_the_class_that_only_the_identity_frame_names_says_which_image_is_meant(world):
    """A post-boot report names no hardware class."""
    world.register(1)
    world.upload()
    strange = replace(world.facts(1)[1], hardware_class="00000000-0000-4000-8000-000000000001")
    facts = [world.facts(1)[0], strange, world.facts(1)[2]]
    world.services.equipment.identify(world.vin(1), facts, world.now)
    world.approve(world.create(1))
    run_target(world, 1, order_id="OTA-1-1")
    with world.cloud.store.reading() as work:
        assert [node.hardware_class for node in work.vehicles.nodes([world.vin(1)])[world.vin(1)]] == [""] * 3
    view = world.detail(world.create(1)).upgrades.items[0]
    assert [(node.version, node.target_version, node.is_signed) for node in view.nodes] == [
        ("2.1.0", "2.1.0", True),
        ("2.1.0", "", True),
        ("2.1.0", "2.1.0", True),
    ]
    assert [remark.kind.value for remark in view.remarks] == ["wrong-class"]


def test_what_an_identity_report_has_confirmed_counts_without_any_order(world):
    world.register(1)
    world.upload()
    world.confirm(1, version="2.1.0")
    task = world.approve(world.create(1))
    assert str(task.status) == "Finished"
    (step,) = [s for s in world.detail(task).upgrades.items[0].transitions if s.status is V.SUCCEEDED]
    assert step.source.value == "signed"


def test_a_release_that_expires_between_creation_and_approval_ends_its_vehicles(world, release_files):
    world.register(1)
    world.upload(release_files(expires=world.now.replace(hour=20)))
    task = world.create(1)
    code = world.newest_code()
    world.wait(hours=13)
    world.approve(task, code=code)
    view = world.detail(task).upgrades.items[0]
    assert (view.status, view.reason) == (V.FAILED, "release F7-2.1.0 has expired")


# -- before a task is created ------------------------------------------------------------------------------------------


def test_a_preview_says_what_a_task_would_find_vehicle_by_vehicle(world, release_files):
    running = world.approved(1)
    world.register(2)
    world.identify(2, version="3.0.0")
    world.register(3)
    world.register(4, series="E7")
    world.register(5, project="Hills")
    vins = [world.vin(number) for number in (1, 2, 3, 4, 5, 6)]
    found = world.services.ota_tasks.preview(
        project="Harbour", software_version="2.1.0", vins=vins, by=world.people["carol"], now=world.now
    )
    assert [(row.release_name, row.fault, [remark.kind.value for remark in row.remarks]) for row in found] == [
        ("F7-2.1.0", "", ["busy"]),
        ("F7-2.1.0", "", ["downgrade"]),
        ("F7-2.1.0", "", ["never-heard"]),
        ("", "no release 2.1.0 for series E7", []),
        ("", "belongs to project Hills", []),
        ("", "is not registered", []),
    ]
    assert f"is part of OTA-{running.id} (Approved)" in found[0].remarks[0].text
    assert [(node.position, node.version, node.target_version) for node in found[1].nodes] == [
        (0, "3.0.0", "2.1.0"),
        (1, "3.0.0", "2.1.0"),
        (2, "3.0.0", "2.1.0"),
    ]
    with pytest.raises(NotAllowedError):
        world.services.ota_tasks.preview(
            project="Harbour", software_version="2.1.0", vins=vins, by=world.people["vera"], now=world.now
        )


def test_two_who_create_a_task_for_the_same_vehicle_at_the_same_moment(world, monkeypatch):
    """Both have found it free; the second that writes finds it taken."""
    world.register(1)
    world.upload()
    service = world.services.ota_tasks
    plan, calls = service._plan, []

    def planned(*asked):
        found = plan(*asked)
        calls.append(found)
        if len(calls) == 1:
            world.create(1)
        return found

    monkeypatch.setattr(service, "_plan", planned)
    assert refused(ConflictError, world.create, 1) == "vehicle-busy"
    assert len(calls) == 2
    assert service.rows(PageRequest(), by=world.people["vera"]).total == 1


# -- ending by force ---------------------------------------------------------------------------------------------------


def bring_to(world, task, status):
    """Vehicle 1 of the approved task, as far as *status*."""
    states = {V.DOWNLOADING: Code.DOWNLOADING, V.DOWNLOAD_COMPLETE: Code.DOWNLOAD_COMPLETE, V.TO_BE_DOWNLOADED: 1}
    if status is not V.APPROVED:
        world.tell(world.vin(1), states[status], order_id=f"OTA-{task.id}-1", progress_pct=100)
    assert world.upgrade(task).status is status


@pytest.mark.parametrize("status", sorted(OPEN_STATUSES - {V.UNAPPROVED}))
def test_a_stuck_vehicle_can_be_ended_at_any_status(world, status):
    task = world.approved(1, 2)
    bring_to(world, task, status)
    count = world.services.ota_tasks.end(
        task.id, vins=[world.vin(1)], reason="scrapped", by=world.people["olaf"], now=world.now
    )
    assert count == 1
    view = world.detail(task).upgrades.items[0]
    assert view.status is V.CANCELLED
    assert view.reason.startswith("ended by olaf: scrapped")
    assert ("may still switch" in view.reason) == (status is V.DOWNLOAD_COMPLETE)
    assert world.upgrade(task, 2).status is V.APPROVED
    assert audit(world, "ota_task.end")[0] == ("olaf", "done", f"{world.vin(1)}: ended by olaf: scrapped")
    # The vehicle is free.
    assert world.create(1).id == task.id + 1


def test_a_report_that_comes_after_the_end_is_kept_and_a_true_success_counts(world):
    task = world.approved(1, 2)
    end = world.services.ota_tasks.end
    end(task.id, vins=[world.vin(1), world.vin(2)], reason="lost", by=world.people["carol"], now=world.now)
    assert str(world.detail(task).task.status) == "Finished"
    world.services.upgrades.receive_report(world.vin(1), world.report(1, "OTA-1-1"), world.now)
    failed = world.report(2, "OTA-1-2", outcome=Outcome.FAILED, reason="slot B", versions=["2.0.0"] * 3)
    world.services.upgrades.receive_report(world.vin(2), failed, world.now)
    first, second = world.detail(task).upgrades.items
    assert (first.status, second.status) == (V.SUCCEEDED, V.CANCELLED)
    assert [(r.outcome, r.reason, r.is_late) for r in second.reports] == [("failed", "slot B", True)]
    assert second.reason.startswith("ended by carol: lost")


def test_what_the_unit_is_answered_after_the_end_and_after_a_retry(world):
    """Nothing to do, no such order, no image; and after a retry the new order under its own name."""
    task = world.approved(1)
    device, token = world.services.device, "t" * 43
    with world.cloud.store.transaction() as work:
        work.device.add_session(
            DeviceSession(
                token_sha256=sha256(token.encode()).digest(),
                vin=world.vin(1),
                hwid="M-000001",
                issued_at=world.now,
                expires_at=world.now + timedelta(hours=1),
            )
        )
    first = device.order(token, world.now)
    digest = world.detail(task).upgrades.items[0].images[0].sha256
    assert device.image(token, digest, world.now)
    asked = {"vins": [world.vin(1)], "reason": "x", "by": world.people["carol"], "now": world.now}
    world.services.ota_tasks.end(task.id, **asked)
    assert device.order(token, world.now) is None
    assert device.image(token, digest, world.now) is None
    confirm = [token, "OTA-1-1", device_api.Decision.ACCEPTED, "", world.now]
    assert refused(ConflictError, device.confirm, *confirm) == "no-such-order"
    assert world.services.upgrades.pending_instruction(world.vin(1)) is None
    world.services.ota_tasks.retry(task.id, **asked)
    assert device.order(token, world.now) not in (None, first)
    assert refused(ConflictError, device.confirm, *confirm) == "no-such-order"
    confirm[1] = "OTA-1-1-2"
    device.confirm(*confirm)
    assert world.upgrade(task).status is V.TO_BE_DOWNLOADED


def test_by_status(world, crowd, slices_of):
    slices_of(2)
    task = crowd(5)
    world.approve(task)
    for number in (1, 3, 5):
        world.tell(world.vin(number), Code.DOWNLOADING, order_id=f"OTA-1-{number}", progress_pct=1)
    end = world.services.ota_tasks.end
    assert end(task.id, statuses=[V.DOWNLOADING], reason="x", by=world.people["carol"], now=world.now) == 3
    assert world.detail(task).counts == {"Approved": 2, "Cancelled": 3}


def test_statuses_in_which_nothing_can_be_ended_end_nothing(world, crowd):
    """They leave no status to look for, which must not mean every status."""
    task = crowd(3)
    world.approve(task)
    asked = {"reason": "x", "by": world.people["carol"], "now": world.now}
    end = world.services.ota_tasks.end
    for more in ({}, {"vins": [world.vin(1)]}):
        assert (
            refused(InvalidInputError, end, task.id, statuses=[V.FAILED, V.CANCELLED], **more, **asked)
            == "bad-vehicles"
        )
    assert world.detail(task).counts == {"Approved": 3}
    assert end(task.id, statuses=[V.FAILED, V.APPROVED], **asked) == 3


def test_a_retry_that_finds_nothing_leaves_a_finished_task_as_it_was(world):
    task = world.approved(1)
    asked = {"reason": "x", "by": world.people["carol"]}
    world.services.ota_tasks.end(task.id, vins=[world.vin(1)], now=world.now, **asked)
    before = world.detail(task).task
    later = world.now + timedelta(hours=1)
    assert world.services.ota_tasks.retry(task.id, statuses=[V.SUCCEEDED], now=later, **asked) == 0
    assert (before.status, world.detail(task).task) == (TaskStatus.FINISHED, before)


@pytest.mark.parametrize("who", ["alan", "vera"])
@pytest.mark.parametrize("act", ["end", "retry"])
def test_who_may_not_force_does_nothing(world, act, who):
    task = world.approved(1)
    call = getattr(world.services.ota_tasks, act)
    asked = {"vins": [world.vin(1)], "reason": "x", "by": world.people[who], "now": world.now}
    assert refused(NotAllowedError, call, task.id, **asked) == "not-allowed"
    assert world.upgrade(task).status is V.APPROVED
    assert audit(world, f"ota_task.{act}") == [
        (who, "not-allowed", f"{who} ({world.people[who].role}) lacks the permission ota.force")
    ]


@pytest.mark.parametrize("act", ["end", "retry"])
@pytest.mark.parametrize(
    ("options", "kind", "code"),
    [
        ({"reason": " "}, InvalidInputError, "bad-reason"),
        ({"reason": "x" * 201}, InvalidInputError, "bad-reason"),
        ({"vins": ["TESTVEHICLE000009"]}, NotFoundError, "no-such-vehicle"),
        ({"vins": ["TESTVEHICLE000001"] * 2}, InvalidInputError, "bad-vehicles"),
        ({"task": 99}, NotFoundError, "no-such-task"),
    ],
)
def test_what_can_not_be_forced_is_refused(world, act, options, kind, code):
    task = world.approved(1)
    asked = {"vins": [world.vin(1)], "reason": "x", "by": world.people["carol"], "now": world.now, **options}
    call = getattr(world.services.ota_tasks, act)
    assert refused(kind, call, asked.pop("task", task.id), **asked) == code
    assert world.upgrade(task).status is V.APPROVED


def test_nothing_is_forced_in_a_task_that_is_not_approved(world, crowd):
    task = crowd(1)
    asked = {"vins": [world.vin(1)], "reason": "x", "by": world.people["carol"], "now": world.now}
    assert refused(ConflictError, world.services.ota_tasks.end, task.id, **asked) == "not-running"
    assert refused(ConflictError, world.services.ota_tasks.retry, task.id, **asked) == "not-approved"
    world.approve(task)
    everyone = {"reason": "x", "by": world.people["carol"], "now": world.now}
    assert refused(InvalidInputError, world.services.ota_tasks.end, task.id, **everyone) == "bad-vehicles"


# -- retrying ----------------------------------------------------------------------------------------------------------


def fail(world, number, *, order_id, outcome=Outcome.FAILED):
    report = world.report(number, order_id, outcome=outcome, reason="slot B", versions=["2.0.0"] * 3)
    assert world.services.upgrades.receive_report(world.vin(number), report, world.now) is ReportVerdict.ACCEPTED


@pytest.mark.slow
def test_all_that_failed_are_retried(world, crowd, slices_of, sample_keys):
    slices_of(2)
    task = crowd(5)
    for number in range(1, 6):
        world.identify(number)
    world.approve(task)
    fail(world, 1, order_id="OTA-1-1")
    fail(world, 2, order_id="OTA-1-2", outcome=Outcome.ROLLED_BACK)
    run_target(world, 3, order_id="OTA-1-3")
    world.services.ota_tasks.end(task.id, vins=[world.vin(4)], reason="x", by=world.people["carol"], now=world.now)
    fail(world, 5, order_id="OTA-1-5", outcome=Outcome.REJECTED)
    assert str(world.detail(task).task.status) == "Finished"
    world.wait(hours=1)
    retry = world.services.ota_tasks.retry
    assert retry(task.id, reason="new modem", by=world.people["carol"], now=world.now) == 3
    detail = world.detail(task)
    assert (str(detail.task.status), detail.task.finished_at) == ("Approved", None)
    assert detail.counts == {"Approved": 3, "Upgrade succeeded": 1, "Cancelled": 1}
    assert world.path(task) == ["Unapproved", "Approved", "Upgrade failed", "Approved"]
    assert detail.upgrades.items[0].transitions[-1].reason == "retried by carol: new modem"
    upgrade = world.upgrade(task, 1)
    order = verify_order(upgrade.order_document, [sample_keys.order_signing_key.public_key()])
    assert (order.order_id, order.sequence, upgrade.attempt) == ("OTA-1-1-2", 2, 2)
    instruction = world.services.upgrades.pending_instruction(world.vin(1))
    assert instruction.order_id == "OTA-1-1-2"
    # And the second attempt comes to its own end.
    world.tell(world.vin(1), Code.DOWNLOADING, order_id="OTA-1-1-2", progress_pct=5)
    run_target(world, 1, order_id="OTA-1-1-2")
    assert world.upgrade(task, 1).status is V.SUCCEEDED


def test_a_stuck_vehicle_is_retried_at_any_open_status(world):
    task = world.approved(1)
    bring_to(world, task, V.DOWNLOAD_COMPLETE)
    asked = {"vins": [world.vin(1)], "reason": "stuck", "by": world.people["carol"], "now": world.now}
    assert world.services.ota_tasks.retry(task.id, **asked) == 1
    assert world.upgrade(task).order_id == "OTA-1-1-2"
    # What the unit still says of its first order moves nothing.
    assert not world.tell(world.vin(1), Code.DOWNLOAD_COMPLETE, order_id="OTA-1-1")
    assert world.upgrade(task).status is V.APPROVED


def test_a_late_report_of_the_attempt_before_is_kept_and_ends_nothing_but_success_does(world):
    task = world.approved(1)
    asked = {"vins": [world.vin(1)], "reason": "stuck", "by": world.people["carol"], "now": world.now}
    world.services.ota_tasks.retry(task.id, **asked)
    fail(world, 1, order_id="OTA-1-1", outcome=Outcome.ROLLED_BACK)
    view = world.detail(task).upgrades.items[0]
    assert (view.status, [(r.order_id, r.outcome, r.is_late) for r in view.reports]) == (
        V.APPROVED,
        [("OTA-1-1", "rolled-back", True)],
    )
    world.services.ota_tasks.retry(task.id, **asked)
    # The pack runs the release, whichever order it came by.
    run_target(world, 1, order_id="OTA-1-1-2")
    assert world.upgrade(task).status is V.SUCCEEDED
    assert world.upgrade(task).attempt == 3


def test_a_report_for_an_attempt_that_was_never_made_ends_nothing(world):
    task = world.approved(1)
    for order_id in ("OTA-1-1-2", "OTA-1-1-1", "OTA-1-1-0"):
        report = world.report(1, order_id)
        assert world.services.upgrades.receive_report(world.vin(1), report, world.now) is ReportVerdict.UNKNOWN_ORDER
    assert world.upgrade(task).status is V.APPROVED


def test_a_vehicle_that_another_task_has_by_now_is_not_retried(world):
    first = world.approved(1)
    fail(world, 1, order_id="OTA-1-1")
    world.approve(world.create(1))
    asked = {"reason": "again", "by": world.people["carol"], "now": world.now}
    assert world.services.ota_tasks.retry(first.id, **asked) == 0
    assert world.upgrade(first).status is V.FAILED
    assert str(world.detail(first).task.status) == "Finished"


# -- taking over -------------------------------------------------------------------------------------------------------


def test_a_newer_task_takes_a_vehicle_over_when_it_is_approved(world, release_files):
    old = world.approved(1, 2)
    world.upload(release_files(version="2.2.0"))
    carol = world.people["carol"]
    asked = {"software_version": "2.2.0"}
    assert refused(ConflictError, world.create, 1, **asked) == "vehicle-busy"
    new = world.create(1, supersede=True, **asked)
    assert [remark.text for remark in world.detail(new).upgrades.items[0].remarks] == ["is part of OTA-1 (Approved)"]
    # Until then the older one goes on: it is instructed, and reports.
    assert world.services.upgrades.pending_instruction(world.vin(1)).order_id == "OTA-1-1"
    world.tell(world.vin(1), Code.DOWNLOADING, progress_pct=5)
    assert world.upgrade(old).status is V.DOWNLOADING
    world.approve(new)
    assert (world.upgrade(old).status, world.upgrade(old).reason) == (
        V.CANCELLED,
        "superseded by OTA-2, which alan started",
    )
    assert world.upgrade(old, 2).status is V.APPROVED
    assert world.services.upgrades.pending_instruction(world.vin(1)).order_id == "OTA-2-1"
    assert world.upgrade(new).sequence == 2
    # What the unit says of the older order does not move the newer one.
    fail(world, 1, order_id="OTA-1-1")
    assert (world.upgrade(old).status, world.upgrade(new).status) == (V.CANCELLED, V.APPROVED)
    world.services.ota_tasks.cancel(old.id, by=carol, now=world.now)
    assert str(world.detail(old).task.status) == "Cancelled"


def test_who_may_not_force_takes_nothing_over(world, monkeypatch):
    from bmsota_cloud.domain import accounts

    world.approved(1)
    carol = world.people["carol"]
    fewer = accounts.ROLE_PERMISSIONS[carol.role] - {accounts.Permission.OTA_FORCE}
    monkeypatch.setitem(accounts.ROLE_PERMISSIONS, carol.role, fewer)
    assert refused(NotAllowedError, world.create, 1, supersede=True) == "not-allowed"


def test_the_newest_task_wins_whichever_is_approved_first(world):
    """Two tasks wait to take the vehicle over; the newer is approved first, and the older one no longer gets it."""
    world.approved(1)
    second = world.create(1, supersede=True)
    code = world.newest_code()
    third = world.create(1, supersede=True)
    world.approve(third)
    world.approve(second, code=code)
    assert [world.upgrade(task).status for task in (second, third)] == [V.CANCELLED, V.APPROVED]


def test_a_vehicle_that_came_into_a_running_task_meanwhile_is_left_to_it(world, crowd):
    """Two creations at the same moment on a database that lets both in: the approval of the second gives no order."""
    first = crowd(1)
    with world.cloud.store.transaction() as work:
        work.ota_tasks.save(work.ota_tasks.get(first.id))
        other = work.ota_tasks.add(first)
        work.ota_tasks.add_upgrade(VehicleUpgrade(task_id=other.id, vin=world.vin(1), place=1, release_id=1))
    world.approve(first)
    view = world.detail(first).upgrades.items[0]
    assert (view.status, view.reason) == (V.CANCELLED, "OTA-2 has this vehicle")


# -- a vehicle without a key -------------------------------------------------------------------------------------------


def test_a_plain_terminal_is_no_part_of_a_task(world):
    vin = world.register(1)
    world.upload()
    with world.cloud.store.transaction() as work:
        known = work.vehicles.get(vin)
        work.vehicles.save(replace(known, device_public_key=None))
    with pytest.raises(InvalidInputError, match="registered without a device key: it can be monitored, not upgraded"):
        world.create(1)
