"""The page of projects, seen and changed."""


def test_everybody_sees_the_projects_and_only_an_administrator_changes_them(fleet, visit, words):
    fleet.services.projects.configure("Harbour", audit_mailbox="audit@example.org", by=None, now=fleet.now)
    for name, whole in (("adam", True), ("carol", False), ("alan", False), ("vera", False)):
        page = visit(name).see("/projects")
        assert ("audit@example.org" in page) == whole
        assert ('action="/projects"' in page) == whole
        assert ("a…@example.org" in page) != whole
    assert "Hills 1 vehicle Number none Class Unspecified Audit mailbox none" in words(page)


def test_a_change_by_the_form(fleet, visit, words):
    adam = visit("adam")
    fields = {
        "name": "Harbour",
        "audit_mailbox": "audit@example.org",
        "approval": "named auditor",
        "starters": "olaf, carol",
    }
    answer = adam.post("/projects", **fields)
    assert (answer.status_code, answer.headers["location"]) == (303, "/projects?saved=Harbour")
    text = words(adam.see("/projects?saved=Harbour"))
    assert "Project Harbour was saved." in text
    assert (
        "Audit mailbox audit@example.org Approval by the auditor whom a task names May start tasks olaf, carol" in text
    )
    assert "by adam" in text


def test_what_is_refused_stays_typed(fleet, visit, words):
    adam = visit("adam")
    fields = {"name": "Harbour", "audit_mailbox": "no address", "approval": "audit mailbox", "starters": "vera"}
    answer = adam.post("/projects", **fields)
    assert answer.status_code == 422
    assert "audit mailbox: expected a mail address" in words(answer.text)
    assert 'value="no address"' in answer.text
    assert 'value="vera"' in answer.text
    assert "<details open>" in answer.text
    answer = adam.post("/projects", **fields | {"audit_mailbox": "a@example.org"})
    assert "&#39;vera&#39; is not an account that can start tasks" in answer.text
    answer = adam.post("/projects", **fields | {"approval": "laxer"})
    assert answer.status_code == 422
    assert "approval: expected" in answer.text


def test_who_may_not_change_is_refused(fleet, visit):
    for name in ("carol", "alan", "vera"):
        assert (
            visit(name)
            .post("/projects", name="Harbour", audit_mailbox="x@example.org", approval="audit mailbox")
            .status_code
            == 403
        )
    assert fleet.services.projects.get("Harbour", by=fleet.people["vera"]).audit_mailbox == ""


def test_no_project_yet(visit):
    assert "No projects yet." in visit("adam").see("/projects")


def test_a_new_project_has_number_and_class(fleet, visit, words):
    adam = visit("adam")
    fields = {"is_new": "yes", "name": "Quay", "number": "2026-9", "classification": "bus", "approval": "audit mailbox"}
    assert adam.post("/projects", **fields).status_code == 303
    text = words(adam.see("/projects?saved=Quay"))
    assert "Quay 0 vehicles Number 2026-9 Class Bus" in text
    again = adam.post("/projects", **fields)
    assert (again.status_code, "project Quay exists" in words(again.text)) == (409, True)
    assert 'value="2026-9"' in again.text
    other = adam.post("/projects", **fields | {"name": "Pier"})
    assert (other.status_code, "project Quay has the number 2026-9" in words(other.text)) == (409, True)
    assert adam.post("/projects", **fields | {"name": "Pier", "classification": "boat"}).status_code == 422
    assert "Pier" not in adam.see("/projects")
