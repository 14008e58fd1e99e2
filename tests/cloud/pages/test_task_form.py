"""Creating and editing an OTA task on its pages: what is previewed is what is submitted, and once."""

import re

import pytest
from bmsota_cloud.domain.ota_tasks import TaskStatus
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services import task_plans

pytestmark = pytest.mark.slow

TASK = {"project": "Harbour", "version": "2.1.0", "reason": "cell balancing fix", "auditor": "alan"}
HIDDEN = ("token", "digest", "csrf")


@pytest.fixture
def mixed(fleet):
    """1 and 2 online, 3 offline, 5 already there, 6 newer, 7 busy in OTA-1, 8 a plain terminal; 4 belongs to Hills."""
    fleet.upload()
    for number, version in ((5, "2.1.0"), (6, "3.0.0"), (7, "2.0.0")):
        fleet.register(number)
        fleet.identify(number, version=version)
        fleet.confirm(number, version=version)
    fleet.services.vehicles.register(vin=fleet.vin(8), series="F7", project="Harbour", now=fleet.now)
    fleet.create(7)
    return fleet


def hidden(page):
    return {name: re.search(rf'name="{name}" value="([^"]*)"', page)[1] for name in HIDDEN}


def fill(visitor, path="/ota/tasks/new", **fields):
    """The form as it is shown first, filled in and sent for a preview: the page that comes."""
    return visitor.client.post(path, data={**TASK, **hidden(visitor.see(path)), **fields})


def send(visitor, page, path="/ota/tasks/new", **fields):
    return visitor.client.post(path, data={**TASK, **hidden(page), **fields, "act": "submit"})


def outcomes(page):
    """VIN -> outcome of the preview."""
    rows = re.findall(r'<th scope="row" class="code">(\w+)</th>.*?data-status="plan-\w+">([^<]*)<', page, re.DOTALL)
    return {int(vin[-6:]): outcome for vin, outcome in rows}


def tasks(world):
    return [row.task for row in world.services.ota_tasks.rows(PageRequest(), by=world.people["vera"]).items]


def test_each_vehicle_is_told_what_becomes_of_it(mixed, visit, words):
    vins = " ".join(mixed.vin(number) for number in (1, 3, 4, 5, 6, 7, 8, 99))
    page = fill(visit("carol"), way="vins", vins=vins.lower()).text
    assert outcomes(page) == {
        1: "Will be upgraded",
        3: "Offline, will wait",
        4: "Not in this project",
        5: "Already there",
        6: "Downgrade",
        7: "Busy in another task",
        8: "No OTA",
        99: "Not in this project",
    }
    text = words(page)
    assert "2 of 8 vehicles will be in the task, the others are left out." in text
    assert f"{mixed.vin(1)} Will be upgraded 2.0.0 → 2.1.0 2 × 2.0.0 → 2.1.0" in text
    assert "belongs to project Hills" in text
    assert "is part of OTA-1" in text
    assert "3.0.0 is newer than 2.1.0" in text
    assert "is not registered" in text
    assert "Masters run: 3 × 2.0.0 , 1 × 2.1.0 , 1 × 3.0.0 ." in text


def test_a_task_is_submitted_and_stands_on_top(mixed, visit, words):
    carol = visit("carol")
    preview = fill(carol).text
    answer = send(carol, preview, hours="48")
    assert (answer.status_code, answer.headers["location"]) == (303, "/ota/tasks?new=2")
    made = tasks(mixed)[0]
    assert (made.id, made.reason, made.auditor, made.time_limit_s) == (2, "cell balancing fix", "alan", 48 * 3600)
    assert [upgrade.vin for upgrade in mixed.detail(made).upgrades.items] == [mixed.vin(number) for number in (1, 2, 3)]
    page = carol.see("/ota/tasks?new=2")
    assert "OTA-2 was submitted." in words(page)
    assert re.findall(r'<tr class="is-new">\s*<th scope="row"><a href="/ota/tasks/(\d+)"', page) == ["2"]
    assert page.index("/ota/tasks/2") < page.index("/ota/tasks/1")
    mixed.newest_code()
    assert [mail.recipient for mail in mixed.mails] == ["alan@example.org"] * 2


def test_the_same_form_twice_is_one_task(mixed, visit):
    carol = visit("carol")
    preview = fill(carol).text
    first, second = send(carol, preview), send(carol, preview)
    assert first.headers["location"] == second.headers["location"] == "/ota/tasks?new=2"
    assert [task.id for task in tasks(mixed)] == [2, 1]
    # For others the name of a form is worth nothing.
    token = hidden(preview)["token"]
    assert mixed.services.ota_tasks.of_form(token, by=mixed.people["olaf"]) is None


def test_two_at_the_same_moment_are_one_task(mixed, monkeypatch):
    """The second one has looked for the first before it was there."""
    service, carol = mixed.services.ota_tasks, mixed.people["carol"]
    asked = {"form_token": "0" * 32, "by": carol}
    first = mixed.create(1, **asked)
    look = service.of_form
    blind = iter(())
    monkeypatch.setattr(service, "of_form", lambda token, *, by: None if next(blind, False) else look(token, by=by))
    for numbers in ((1,), (2,)):
        blind = iter([True])
        assert mixed.create(*numbers, **asked).id == first.id
    assert len(tasks(mixed)) == 2


def test_what_was_not_seen_is_not_submitted(mixed, visit, words):
    carol = visit("carol")
    form = carol.see("/ota/tasks/new")
    answer = send(carol, form)
    assert answer.status_code == 200
    assert "Other vehicles match now" not in answer.text
    mixed.register(10)
    mixed.identify(10)
    changed = send(carol, answer.text)
    assert changed.status_code == 200
    assert "Nothing was submitted" in words(changed.text)
    assert len(tasks(mixed)) == 1
    assert send(carol, changed.text).status_code == 303


def test_the_filter_is_that_of_the_vehicle_list_and_stands_in_the_address(mixed, visit):
    carol = visit("carol")
    base = "/ota/tasks/new?project=Harbour&version=2.1.0"
    for query, expected in (
        ("", {1, 2, 3, 5, 6, 7, 8}),
        ("&online=yes", {1, 2}),
        ("&online=no", {3, 5, 6, 7, 8}),
        ("&q=vehicle000003", {3}),
        ("&runs=3.0.0", {6}),
        ("&series=E7", set()),
        ("&customer=Nobody", set()),
        (f"&vin={mixed.vin(1)}&vin={mixed.vin(6)}", {1, 6}),
    ):
        answer = carol.get(base + query)
        assert outcomes(answer.text).keys() == expected, query
        assert answer.status_code == (200 if expected else 422), query
    page = carol.see(f"{base}&q=000003")
    assert 'id="q" name="q" value="000003"' in page
    assert '<option value="Harbour" selected>' in page


def test_downgrades_and_those_already_there_are_taken_if_wanted(mixed, visit, words):
    carol = visit("carol")
    for fields, count in (({}, 3), ({"downgrades": "true"}, 4), ({"already": "true"}, 4), ({"supersede": "true"}, 4)):
        assert f"{count} of 7 vehicles will be in the task" in words(fill(carol, **fields).text), fields
    preview = fill(carol, supersede="true").text
    assert send(carol, preview, supersede="true").status_code == 303
    assert tasks(mixed)[0].supersedes


def test_a_preview_is_paged_and_shows_one_outcome(mixed, visit, monkeypatch):
    monkeypatch.setattr("bmsota_cloud.pages.task_form._ROWS_A_PAGE", 3)
    carol = visit("carol")
    assert outcomes(fill(carol).text).keys() == {1, 2, 3}
    assert outcomes(fill(carol, page="3").text).keys() == {8}
    shown = fill(carol, show="Downgrade").text
    assert outcomes(shown).keys() == {6}
    assert hidden(shown)["digest"] == hidden(fill(carol).text)["digest"]
    assert re.search(r'value="Downgrade" aria-pressed="true"', shown)


def test_more_than_a_task_can_have_are_the_next_task(mixed, visit, words, monkeypatch):
    monkeypatch.setattr(task_plans, "TASK_VEHICLES_MAX", 2)
    carol = visit("carol")
    preview = fill(carol).text
    assert "2 of 7 vehicles will be in the task" in words(preview)
    assert "1 more match: create another task" in words(preview)
    assert send(carol, preview).status_code == 303
    assert outcomes(fill(carol).text)[1] == "Busy in another task"
    assert send(carol, fill(carol).text).status_code == 303
    assert [upgrade.vin for upgrade in mixed.detail(tasks(mixed)[0]).upgrades.items] == [mixed.vin(3)]
    monkeypatch.setattr(task_plans, "PREVIEW_VEHICLES_MAX", 3)
    assert "more than 3 vehicles are chosen" in fill(carol).text


def test_what_is_wrong_is_said_and_what_was_typed_stays(mixed, visit, words):
    carol = visit("carol")
    preview = fill(carol).text
    for fields, status_code, says in (
        ({"reason": " "}, 422, "reason: expected 1 to 1000 characters, got 0"),
        ({"hours": "0"}, 422, "time limit: expected 1 to 8784 h, got &#39;0&#39;"),
        ({"hours": "1.5"}, 422, "time limit: expected"),
        ({"auditor": "carol"}, 422, "carol"),
        ({"project": ""}, 422, "choose a project"),
        ({"version": ""}, 422, "choose a software version"),
        ({"project": "Nowhere"}, 422, "no vehicle matches the filter"),
        ({"way": "vins", "vins": " "}, 422, "name at least one vehicle"),
    ):
        answer = send(carol, preview, **fields)
        assert answer.status_code == status_code, fields
        assert says in answer.text, fields
        assert hidden(answer.text)["token"] == hidden(preview)["token"]
    assert len(tasks(mixed)) == 1
    assert carol.client.post("/ota/tasks/new", data=TASK).status_code == 403


def test_only_who_may_create_tasks_sees_the_form(mixed, visit, stranger):
    for name in ("vera", "alan"):
        visitor = visit(name)
        assert visitor.get("/ota/tasks/new").status_code == 403
        assert 'href="/ota/tasks/new"' not in visitor.see("/ota/tasks")
        assert visitor.get("/ota/tasks/1/edit").status_code == 403
    assert 'href="/ota/tasks/new"' in visit("carol").see("/ota/tasks")
    assert stranger.get("/ota/tasks/new").status_code == 303


# -- editing -----------------------------------------------------------------------------------------------------------


def test_a_task_is_edited_until_it_is_approved(mixed, visit, words):
    carol, path = visit("carol"), "/ota/tasks/1/edit"
    old_code = mixed.newest_code()
    form = carol.see(path)
    assert "cell balancing fix</textarea>" in form
    answer = send(carol, form, path, way="keep", reason="other words", auditor="anna")
    assert (answer.status_code, answer.headers["location"]) == (303, "/ota/tasks/1?did=edit")
    assert "The task was changed" in words(carol.see("/ota/tasks/1?did=edit"))
    made = tasks(mixed)[0]
    assert (made.reason, made.auditor) == ("other words", "anna")
    assert [upgrade.vin for upgrade in mixed.detail(made).upgrades.items] == [mixed.vin(7)]
    assert mixed.newest_code() != old_code
    # Other vehicles, after a preview in which its own are not busy.
    fields = {"way": "vins", "vins": f"{mixed.vin(7)},{mixed.vin(1)}"}
    preview = send(carol, carol.see(path), path, **fields)
    assert preview.status_code == 200
    assert outcomes(preview.text) == {7: "Offline, will wait", 1: "Will be upgraded"}
    assert send(carol, preview.text, path, **fields, project="Hills", version="9.9.9").status_code == 303
    assert {upgrade.vin for upgrade in mixed.detail(made).upgrades.items} == {mixed.vin(1), mixed.vin(7)}
    assert tasks(mixed)[0].software_version == "2.1.0"


def test_after_the_approval_it_is_too_late(mixed, visit, words):
    carol, path = visit("carol"), "/ota/tasks/1/edit"
    form = carol.see(path)
    assert f'href="{path}"' in carol.see("/ota/tasks/1")
    mixed.approve(tasks(mixed)[0])
    assert tasks(mixed)[0].status is TaskStatus.APPROVED
    assert f'href="{path}"' not in carol.see("/ota/tasks/1")
    for answer in (carol.get(path), send(carol, form, path, way="keep")):
        assert answer.status_code == 409
        assert "too late: OTA-1 is Approved and cannot be edited; cancelling stops" in words(answer.text)
