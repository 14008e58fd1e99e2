"""The list of OTA tasks, one task, its approval and its end, visited by everybody."""

import csv
import io
import re

import pytest
from bmsota_cloud.domain.ota_tasks import VehicleStatus
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services import task_results

from bmsota.gbt32960 import UpgradeStateCode
from bmsota.ota import Outcome


@pytest.fixture
def task(fleet):
    """Carol's task for vehicles 1 to 3; the code is with alan."""
    fleet.upload()
    made = fleet.create(1, 2, 3)
    fleet.services.outbox.drain(fleet.now, fleet.mails.append)
    return made


def row(page, place):
    """The part of the page that is about one vehicle, as text."""
    found = re.search(rf'<li class="upgrade" id="upgrade-{place}">(.*?)</ol>', page, re.DOTALL)
    assert found is not None
    return re.sub(r"\s+", " ", re.sub(r"<[^>]+>", " ", found[1])).strip()


def tell(world, task, place, state, **options):
    """Vehicle *place* (which is its number) says where it stands."""
    assert world.tell(world.vin(place), state, order_id=f"OTA-{task.id}-{place}", **options)


# -- looking -----------------------------------------------------------------------------------------------------------


def test_the_list_of_tasks(task, visit, words):
    text = words(visit("vera").see("/ota/tasks"))
    assert (
        "OTA-1 Unapproved 2.1.0 Harbour cell balancing fix 3 3 Unapproved 2026-11-22 16:00:00 +08:00 by carol alan"
        in text
    )


def test_the_list_filters_by_project_in_its_address(task, visit):
    vera = visit("vera")
    assert "OTA-1" in vera.see("/ota/tasks?project=Harbour")
    assert "No tasks match." in vera.see("/ota/tasks?project=Hills")
    part = vera.get("/ota/tasks?project=Harbour", headers={"X-Partial": "list"}).text
    assert part.startswith('<section id="list"')


def test_no_task_yet(visit):
    assert "No tasks yet." in visit("vera").see("/ota/tasks")


def test_a_task_that_is_not_there_is_explained(visit):
    vera = visit("vera")
    for path, status_code in (("/ota/tasks/99", 404), ("/ota/tasks/0", 422), ("/ota/tasks/x", 422)):
        assert vera.get(path).status_code == status_code, path


@pytest.mark.slow
def test_a_reason_stays_text(fleet, visit):
    fleet.upload()
    made = fleet.create(1, reason="<script>alert(1)</script>")
    vera = visit("vera")
    for path in ("/ota/tasks", f"/ota/tasks/{made.id}"):
        page = vera.see(path)
        assert "<script>alert" not in page
        assert "&lt;script&gt;alert(1)" in page


@pytest.mark.slow
def test_every_status_in_the_words_of_the_platform(fleet, task, visit, words):
    """One vehicle's way through the statuses, each to the letter; the download as a bar with its percentage."""
    carol, world = visit("carol"), fleet
    path = f"/ota/tasks/{task.id}"
    assert row(carol.see(path), 1).startswith(
        "TESTVEHICLE000001 Online · OTA-1-1 · F7-2.1.0 Unapproved "
        "Master 2.0.0 → 2.1.0 Slaves 2 × 2.0.0 → 2.1.0 as the unit says, not signed Unapproved"
    )
    world.approve(task)
    assert " Approved Master 2.0.0 → … Slaves 2 × 2.0.0 → … Unapproved 16:00:00 Approved 16:00:00" in row(
        carol.see(path), 1
    )
    instruction = world.services.upgrades.pending_instruction(world.vin(1))
    world.services.upgrades.instruction_sent(instruction, world.now)
    assert " To be downloaded Master" in row(carol.see(path), 1)
    tell(world, task, 1, UpgradeStateCode.WAITING_SAFE_STATE, reason="driving")
    assert " To be downloaded waiting for a safe state: driving Master" in row(carol.see(path), 1)
    tell(world, task, 1, UpgradeStateCode.DOWNLOADING, progress_pct=43)
    page = carol.see(path)
    assert '<progress data-k="bar_1" max="100" value="43" aria-label="Downloading, TESTVEHICLE000001">' in page
    assert '<output data-k="progress_1">43 %</output>' in page
    assert " 43 % downloading Master" in row(page, 1)
    world.wait(seconds=90)
    tell(world, task, 1, UpgradeStateCode.DOWNLOAD_COMPLETE)
    tell(world, task, 1, UpgradeStateCode.FLASHING_SLAVES, reason="2 of 2")
    assert " Download Complete flashing slaves: 2 of 2 Master" in row(carol.see(path), 1)
    world.services.upgrades.receive_report(world.vin(1), world.report(1, f"OTA-{task.id}-1"), world.now)
    page = carol.see(path)
    assert " Upgrade succeeded Master 2.0.0 → 2.1.0 Slaves 2 × 2.0.0 → 2 × 2.1.0" in row(page, 1)
    assert row(page, 1).endswith("Downloading 16:00:00 Download Complete 16:01:30 Upgrade succeeded 16:01:30")
    assert "Slave 2 S-000001-2 2.0.0 S-000001-2 2.1.0" in words(page)
    assert "Versions after the upgrade come from the unit's signed report." in page
    assert "3 vehicles 2 Approved 1 Upgrade succeeded" in words(page)


def test_the_ends_that_nobody_wished_for_have_their_reasons(fleet, task, visit, words):
    world = fleet
    world.approve(task)
    refused = world.report(
        1, f"OTA-{task.id}-1", versions=["2.0.0"] * 3, outcome=Outcome.FAILED, reason="no space in slot B"
    )
    world.services.upgrades.receive_report(world.vin(1), refused, world.now)
    report = world.report(
        2, f"OTA-{task.id}-2", versions=["2.0.0"] * 3, outcome=Outcome.ROLLED_BACK, reason="self-test: cell 17"
    )
    world.services.upgrades.receive_report(world.vin(2), report, world.now)
    world.wait(days=4)
    world.services.upgrades.expire(world.now)
    # Four days are longer than a session.
    page = visit("vera").see(f"/ota/tasks/{task.id}")
    assert " Upgrade failed no space in slot B Master 2.0.0 → 2.0.0" in row(page, 1)
    assert " Rolled back self-test: cell 17 Master 2.0.0 → 2.0.0" in row(page, 2)
    assert " Timed out " in row(page, 3)
    assert 'data-status="finished">Finished<' in page
    # Yesterday's times have their date.
    assert "11-22 16:00:00" in row(page, 1)


def test_the_words_are_those_of_the_manual():
    assert [str(status) for status in VehicleStatus][:6] == [
        "Unapproved",
        "Approved",
        "To be downloaded",
        "Downloading",
        "Download Complete",
        "Upgrade succeeded",
    ]


def test_many_vehicles_come_in_pages(world, visit, words):
    for number in range(1, 61):
        world.register(number)
    world.upload()
    task = world.create(*range(1, 61))
    page = visit("vera").see(f"/ota/tasks/{task.id}?page=2")
    assert page.count('class="upgrade"') == 10
    assert "51–60 of 60 vehicles" in words(page)
    assert f'data-live="/live/ota/tasks/{task.id}?page=2"' in page


# -- approving ---------------------------------------------------------------------------------------------------------


def test_the_auditor_gets_the_form_and_nobody_else(task, visit, words):
    path = f"/ota/tasks/{task.id}"
    assert f'action="{path}/approve"' in visit("alan").see(path)
    for name in ("carol", "anna", "vera", "adam"):
        page = visit(name).see(path)
        assert "/approve" not in page
        assert "Waiting for alan to enter the code here." in words(page)


def test_the_right_code_starts_the_task(fleet, task, visit):
    alan = visit("alan")
    answer = alan.post(f"/ota/tasks/{task.id}/approve", code=fleet.newest_code())
    assert (answer.status_code, answer.headers["location"]) == (303, f"/ota/tasks/{task.id}")
    page = alan.see(f"/ota/tasks/{task.id}")
    assert "2026-11-22 16:00:00 +08:00</time> by alan" in page
    assert "/approve" not in page
    assert fleet.detail(task).task.approver == "alan"


def test_a_wrong_code_is_told_beside_the_form_which_keeps_it(fleet, task, visit, words):
    alan = visit("alan")
    wrong = "000000" if fleet.newest_code() != "000000" else "000001"
    answer = alan.post(f"/ota/tasks/{task.id}/approve", code=wrong)
    assert answer.status_code == 403
    assert "4 tries left" in answer.text
    assert f'value="{wrong}"' in answer.text
    assert "4 tries left." in words(alan.see(f"/ota/tasks/{task.id}"))
    assert str(fleet.detail(task).task.status) == "Unapproved"


@pytest.mark.slow
def test_after_five_wrong_codes_a_new_one_is_needed(fleet, task, visit, words):
    alan, path = visit("alan"), f"/ota/tasks/{task.id}"
    code = fleet.newest_code()
    for _ in range(5):
        alan.post(f"{path}/approve", code="12345")
    assert alan.post(f"{path}/approve", code=code).status_code == 409
    assert "There is no valid code. alan needs a new one." in words(alan.see(path))
    assert alan.post(f"{path}/new-code").status_code == 303
    assert "The mail to a…@example.org is waiting to be sent." in words(alan.see(path))
    assert alan.post(f"{path}/approve", code=fleet.newest_code()).status_code == 303


def test_the_code_in_other_hands_does_nothing(fleet, task, visit):
    code = fleet.newest_code()
    for name in ("carol", "anna", "vera", "adam"):
        assert visit(name).post(f"/ota/tasks/{task.id}/approve", code=code).status_code == 403, name
        assert str(fleet.detail(task).task.status) == "Unapproved", name


def test_an_approved_task_can_not_be_approved_again(fleet, task, visit):
    code = fleet.newest_code()
    fleet.approve(task, code=code)
    answer = visit("alan").post(f"/ota/tasks/{task.id}/approve", code=code)
    assert answer.status_code == 409
    assert "only an Unapproved task can be edited or approved" in answer.text


def test_an_act_without_the_token_of_the_session_does_nothing(fleet, task, visit):
    alan, code = visit("alan"), fleet.newest_code()
    for act in ("approve", "new-code", "cancel"):
        path = f"/ota/tasks/{task.id}/{act}"
        assert alan.post(path, csrf="", code=code).status_code == 403, act
        fields = {"csrf": alan.csrf(), "code": code}
        answer = alan.client.post(path, data=fields, headers={"Origin": "https://evil.example"})
        assert answer.status_code == 403, act
    assert str(fleet.detail(task).task.status) == "Unapproved"
    assert len(fleet.mails) == 1


def test_what_became_of_the_mail_is_told_without_its_whole_address(fleet, visit, words):
    fleet.upload()
    task = fleet.create(1)
    path, vera = f"/ota/tasks/{task.id}", visit("vera")
    assert "The mail to a…@example.org is waiting to be sent." in words(vera.see(path))
    (mail,) = fleet.services.outbox.take_due(fleet.now)
    fleet.services.outbox.failed(mail, fleet.now, "451 try later")
    assert "failed 1 time (451 try later) and will be retried" in words(vera.see(path))
    fleet.wait(minutes=1)
    (mail,) = fleet.services.outbox.take_due(fleet.now)
    fleet.services.outbox.failed(mail, fleet.now, "550 no such user", is_permanent=True)
    assert "could not be delivered: 550 no such user." in words(vera.see(path))
    fleet.services.ota_tasks.send_new_code(task.id, by=fleet.people["carol"], now=fleet.now)
    fleet.newest_code()
    page = vera.see(path)
    assert "A six-digit code was mailed to a…@example.org at 2026-11-22 16:01:00 +08:00 ." in words(page)
    assert "alan@example.org" not in page


def test_a_new_code_comes_too_late_for_an_approved_task(fleet, task, visit):
    fleet.approve(task)
    assert visit("carol").post(f"/ota/tasks/{task.id}/new-code").status_code == 409


# -- cancelling --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_cancelling_tells_for_how_many_it_is_too_late(fleet, task, visit, words):
    fleet.approve(task)
    tell(fleet, task, 1, UpgradeStateCode.DOWNLOADING, progress_pct=100)
    fleet.fetch(1)
    tell(fleet, task, 1, UpgradeStateCode.DOWNLOAD_COMPLETE)
    carol = visit("carol")
    answer = carol.post(f"/ota/tasks/{task.id}/cancel", reason="wrong release")
    assert answer.headers["location"] == f"/ota/tasks/{task.id}?late=1"
    page = carol.see(answer.headers["location"])
    assert "except for 1 vehicle that has already downloaded the new software" in words(page)
    assert " Cancelled cancelled by carol: wrong release Master" in row(page, 2)
    assert " Download Complete " in row(page, 1)


def test_an_ended_task_can_not_be_cancelled(fleet, task, visit):
    carol = visit("carol")
    assert carol.post(f"/ota/tasks/{task.id}/cancel").headers["location"] == f"/ota/tasks/{task.id}"
    answer = carol.post(f"/ota/tasks/{task.id}/cancel", reason="again")
    assert answer.status_code == 409
    assert "cannot be cancelled" in answer.text


def test_who_only_looks_can_not_cancel(task, visit):
    vera = visit("vera")
    assert "/cancel" not in vera.see(f"/ota/tasks/{task.id}")
    assert vera.post(f"/ota/tasks/{task.id}/cancel").status_code == 403


# -- a project with an audit mailbox -----------------------------------------------------------------------------------


@pytest.fixture
def boxed(fleet):
    """Carol's task for vehicles 1 to 3 of a project with an audit mailbox."""
    fleet.services.projects.configure(
        "Harbour", audit_mailbox="audit@example.org", by=fleet.people["adam"], now=fleet.now
    )
    fleet.upload()
    return fleet.create(1, 2, 3, auditor="")


def test_whoever_may_start_gets_the_form(fleet, boxed, visit, words):
    path = f"/ota/tasks/{boxed.id}"
    for name in ("carol", "olaf"):
        page = visit(name).see(path)
        assert f'action="{path}/approve"' in page
        assert "Code that the auditor received" in page
    for name in ("alan", "vera", "adam"):
        page = visit(name).see(path)
        assert "/approve" not in page
        assert "Waiting for an account that may start tasks in project Harbour to enter the code here." in words(page)
    assert "The mail to a…@example.org is waiting to be sent." in words(page)
    answer = visit("olaf").post(f"{path}/approve", code=fleet.newest_code())
    assert answer.status_code == 303
    page = words(visit("vera").see(path))
    assert "Approval code from the project's audit mailbox" in page
    assert "by olaf" in page


def test_what_speaks_against_an_upgrade_stands_on_the_page_before_the_approval(fleet, visit, words):
    fleet.upload()
    fleet.identify(2, version="2.1.0")
    fleet.identify(3, version="3.0.0")
    task = fleet.create(1, 2, 3)
    page = visit("alan").see(f"/ota/tasks/{task.id}")
    assert (
        "1 vehicle already on this version as the unit says, without a signature; will be instructed "
        "1 vehicle on something newer; the upgrade is a downgrade" in words(page)
    )
    assert "says that it already runs 2.1.0, without a signature; it will be instructed" in row(page, 2)
    assert "master, slave 1, slave 2: 3.0.0 is newer than 2.1.0" in row(page, 3)
    assert "Slave 2 S-000001-2 2.0.0 the unit, not signed 2.1.0" in words(page)
    assert "Release F7-2.1.0: master 2.1.0 (" in words(page)
    fleet.approve(task)
    assert "without a signature" not in visit("alan").see(f"/ota/tasks/{task.id}")


def test_an_approval_under_way_is_told(fleet, task, visit, words):
    from bmsota_cloud.domain.ota_tasks import ActKind, TaskAct

    fleet.approve(task)
    with fleet.cloud.store.transaction() as work:
        work.ota_tasks.save_act(
            TaskAct(task_id=task.id, kind=ActKind.APPROVE, who="alan", reason="", begun_at=fleet.now, count=2)
        )
    text = words(visit("carol").see(f"/ota/tasks/{task.id}"))
    assert (
        "alan has started the upgrade; its orders are being signed since 2026-11-22 16:00:00 +08:00 : 2 vehicles"
        in text
    )
    assert "End or retry" not in text


# -- stuck and failed vehicles -----------------------------------------------------------------------------------------


def failed(world, task, place):
    report = world.report(
        place, f"OTA-{task.id}-{place}", versions=["2.0.0"] * 3, outcome=Outcome.FAILED, reason="slot B"
    )
    world.services.upgrades.receive_report(world.vin(place), report, world.now)


def test_a_stuck_vehicle_is_ended_and_retried_on_the_page(fleet, task, visit, words):
    fleet.approve(task)
    tell(fleet, task, 1, UpgradeStateCode.DOWNLOADING, progress_pct=100)
    carol, path = visit("carol"), f"/ota/tasks/{task.id}"
    answer = carol.post(f"{path}/end", vin=fleet.vin(1), reason="scrapped")
    assert answer.headers["location"] == f"{path}?did=end&changed=1"
    page = carol.see(answer.headers["location"])
    assert "1 vehicle was ended." in words(page)
    assert " Cancelled ended by carol: scrapped" in row(page, 1)
    answer = carol.post(f"{path}/retry", vin=fleet.vin(1), reason="found again")
    page = carol.see(answer.headers["location"])
    assert "1 vehicle was given a new order." in words(page)
    assert "OTA-1-1-2" in row(page, 1)
    assert carol.post(f"{path}/end", vin=fleet.vin(1), reason=" ").status_code == 422
    assert carol.post(f"{path}/end", vin="NOSUCHVEHICLE0001", reason="x").status_code == 404


def test_all_that_failed_are_retried_by_one_button(fleet, task, visit, words):
    fleet.approve(task)
    carol, path = visit("carol"), f"/ota/tasks/{task.id}"
    assert "that failed" not in carol.see(path)
    failed(fleet, task, 1)
    failed(fleet, task, 2)
    assert "Retry all 2 vehicles that failed" in words(carol.see(path))
    answer = carol.post(f"{path}/retry", reason="new modem")
    assert answer.headers["location"] == f"{path}?did=retry&changed=2"
    assert fleet.detail(task).counts == {"Approved": 3}
    answer = carol.post(f"{path}/retry", reason="again")
    assert "0 vehicles were given a new order." in words(carol.see(answer.headers["location"]))


def test_a_late_report_is_shown(fleet, task, visit, words):
    fleet.approve(task)
    fleet.services.ota_tasks.end(task.id, vins=[fleet.vin(1)], reason="lost", by=fleet.people["carol"], now=fleet.now)
    failed(fleet, task, 1)
    text = words(visit("vera").see(f"/ota/tasks/{task.id}"))
    assert (
        "A signed report for OTA-1-1 came at 2026-11-22 16:00:00 +08:00 , after that order had ended: failed, slot B."
        in text
    )


def test_who_may_not_force_sees_no_button_and_is_refused(fleet, task, visit):
    fleet.approve(task)
    failed(fleet, task, 1)
    for name in ("alan", "vera"):
        visitor = visit(name)
        page = visitor.see(f"/ota/tasks/{task.id}")
        assert "/retry" not in page
        assert "/end" not in page
        for act in ("end", "retry"):
            answer = visitor.post(f"/ota/tasks/{task.id}/{act}", vin=fleet.vin(1), reason="x")
            assert answer.status_code == 403, (name, act)


def test_vehicles_by_status(fleet, task, visit, words):
    fleet.approve(task)
    failed(fleet, task, 2)
    vera, path = visit("vera"), f"/ota/tasks/{task.id}"
    page = vera.see(path)
    assert "All Approved (2) Upgrade failed (1)" in words(page)
    page = vera.see(f"{path}?status=Upgrade%20failed")
    assert (fleet.vin(2) in page, fleet.vin(1) in page) == (True, False)
    assert "3 vehicles 2 Approved" in words(page)
    assert f'data-live="/live/ota/tasks/{task.id}?page=1&amp;status=Upgrade%20failed"' in page
    assert fleet.vin(1) in vera.see(f"{path}?status=nonsense")


def test_a_filter_goes_on_to_the_next_page(world, visit):
    for number in range(1, 61):
        world.register(number)
    world.upload()
    task = world.create(*range(1, 61))
    page = visit("vera").see(f"/ota/tasks/{task.id}?status=Unapproved")
    assert f'href="/ota/tasks/{task.id}?status=Unapproved&amp;page=2"' in page


# -- the result as a file, and the log ---------------------------------------------------------------------------------


def rows_of(text):
    return list(csv.DictReader(io.StringIO(text, newline="")))


@pytest.mark.slow
def test_the_result_is_one_row_a_vehicle(fleet, task, visit, client, bearer):
    fleet.approve(task)
    for number in (1, 2):
        fleet.confirm(number)
    fleet.services.upgrades.receive_report(fleet.vin(1), fleet.report(1, f"OTA-{task.id}-1"), fleet.now)
    broken = fleet.report(2, f"OTA-{task.id}-2", outcome=Outcome.FAILED, reason='=HYPERLINK("http://x","y"), bad')
    fleet.services.upgrades.receive_report(fleet.vin(2), broken, fleet.now)
    answer = visit("vera").get(f"/ota/tasks/{task.id}/result.csv")
    assert answer.headers["content-type"] == "text/csv; charset=utf-8"
    assert answer.headers["content-disposition"] == f'attachment; filename="OTA-{task.id}.csv"'
    assert answer.content.startswith(b"\xef\xbb\xbftask,project,vin,")
    good, bad, waiting = rows_of(answer.content.decode("utf-8-sig"))
    assert (good["vin"], good["upgrade_status"], good["set_by"]) == (fleet.vin(1), "Upgrade succeeded", "signed")
    assert (good["master_before"], good["master_after"], good["slaves_after"]) == ("2.0.0", "2.1.0", "2 x 2.1.0")
    assert good["nodes"].startswith("master 2.0.0 -> 2.1.0; slave 1 ")
    assert good["ended_at"] == fleet.now.isoformat()
    assert (bad["upgrade_status"], bad["reason"]) == ("Upgrade failed", '\'=HYPERLINK("http://x","y"), bad')
    assert (waiting["upgrade_status"], waiting["ended_at"]) == ("Approved", "")
    only = visit("vera").get(f"/ota/tasks/{task.id}/result.csv?status=Upgrade%20failed").content.decode("utf-8-sig")
    assert [row["vin"] for row in rows_of(only)] == [fleet.vin(2)]
    newest = fleet.services.audit.page(PageRequest(), by=fleet.people["adam"]).items[0]
    assert (newest.who, newest.action, newest.subject, newest.detail) == (
        "vera",
        "ota_task.export",
        f"task {task.id}",
        "Upgrade failed",
    )
    by_api = client.get(f"/api/v1/tasks/{task.id}/result", headers=bearer("vera"))
    assert rows_of(by_api.text) == [good, bad, waiting]


def test_the_result_is_written_slice_by_slice(fleet, task, monkeypatch):
    monkeypatch.setattr(task_results, "_SLICE_VEHICLES", 2)
    fleet.approve(task)
    lines = fleet.services.task_results.csv(task.id, by=fleet.people["vera"], now=fleet.now)
    assert next(lines).startswith("task,")
    assert "Approved" in next(lines)
    # What happens meanwhile to a vehicle that is not written yet is in it.
    tell(fleet, task, 3, UpgradeStateCode.DOWNLOADING, progress_pct=7)
    assert f"{fleet.vin(3)},OTA-{task.id}-3,1,F7-2.1.0,Downloading," in next(lines)
    assert list(lines) == []


@pytest.mark.parametrize("start", ["=1+1", "+1", "-1", "@x", "\tx", "\rx"])
def test_no_cell_begins_like_a_formula(start):
    assert next(csv.reader(io.StringIO(task_results._line([start, "fine"]), newline=""))) == [f"'{start}", "fine"]


@pytest.mark.slow
def test_the_log_says_who_said_what(fleet, task, visit, words):
    fleet.approve(task)
    # The time limit counts from the approval; that is no message.
    assert words(visit("vera").see(f"/ota/tasks/{task.id}")).count("Attempt 1 · no message yet") == 3
    fleet.wait(minutes=2)
    tell(fleet, task, 1, UpgradeStateCode.DOWNLOADING, progress_pct=7)
    fleet.confirm(1)
    fleet.services.upgrades.receive_report(fleet.vin(1), fleet.report(1, f"OTA-{task.id}-1"), fleet.now)
    text = words(visit("vera").see(f"/ota/tasks/{task.id}"))
    log = text[text.index(f"Log of {fleet.vin(1)}") : text.index(f"Log of {fleet.vin(2)}")]
    assert re.search(r"Unapproved a person .* Approved a person .* Downloading the unit, not signed", log)
    assert re.search(r"Upgrade succeeded a signed report .* signed report OTA-1-1 succeeded", log)
    assert "Attempt 1 · last message 16:02:00" in text
    assert text.count("no message yet") == 2
    heard = [upgrade.last_message_at for upgrade in fleet.detail(task).upgrades.items]
    assert heard == [fleet.now, None, None]
