"""Every route of the pages, asked by everybody; and what is true of every page."""

import re
from importlib.resources import files

import pytest
from bmsota_cloud.pages import build_router
from bmsota_cloud.pages.rendering import HEADERS
from bmsota_cloud.wiring import build_app
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from lent_apps import lent_app
from starlette.routing import WebSocketRoute

# What strangers were refused, with their addresses, is for those who can do something about it.
NOT_FOR = {
    *((name, path) for name in ("alan", "vera") for path in ("/ota/tasks/new", "/ota/tasks/{task_id}/edit")),
    ("vera", "/refusals"),
    ("vera", "/vehicles/register"),
    ("alan", "/vehicles/register"),
    ("vera", "/manage"),
}
NOT_FOR |= {(name, "/manage/audit") for name in ("carol", "vera")}
NOT_FOR |= {(name, "/manage/vehicles") for name in ("alan", "vera")}
NOT_FOR |= {
    (name, f"/manage/{page}")
    for page in ("accounts", "accounts/{name}", "new-account", "customers")
    for name in ("carol", "alan", "vera")
}
OPEN_TO_STRANGERS = {("GET", "/login"), ("POST", "/login"), ("GET", "/")}


@pytest.fixture
def routes(world):
    found = [
        route
        for route in build_router(world.services, world.cloud.settings, world.cloud.clock).routes
        if isinstance(route, APIRoute)
    ]
    assert len(found) >= 10
    return [(method, route.path) for route in found for method in sorted(route.methods)]


def filled(path, fleet):
    return path.replace("{vin}", fleet.vin(1)).replace("{task_id}", "1").replace("{name}", "vera")


def test_the_platform_has_the_pages(fleet):
    """With its other doors around them, and one policy, not two."""
    with (
        lent_app(build_app, fleet.cloud) as app,
        TestClient(app, base_url="http://cloud.example:8080") as client,
    ):
        answer = client.post("/login", data={"name": "vera", "password": "correct horse battery"})
        assert answer.url.path == "/vehicles"
        assert fleet.vin(1) in answer.text
        assert answer.headers.get_list("content-security-policy") == [HEADERS["Content-Security-Policy"]]
        assert client.get("/static/app.css").status_code == 200
        # The cookie of the pages opens no door of the API.
        assert client.get("/api/v1/vehicles").status_code == 401


def test_a_stranger_sees_nothing(fleet, stranger, routes):
    for method, path in routes:
        if (method, path) in OPEN_TO_STRANGERS:
            continue
        answer = stranger.client.request(method, filled(path, fleet))
        assert answer.status_code == 303, (method, path)
        if path != "/vehicles/{vin}":  # a mere sign-post
            assert answer.headers["location"].startswith("/login"), (method, path)
        assert answer.text == ""


@pytest.mark.slow
def test_everybody_who_is_logged_in_sees_every_page(fleet, visit, routes):
    fleet.upload()
    fleet.create(1)
    for name in ("carol", "alan", "vera", "adam"):
        visitor = visit(name)
        for method, path in routes:
            if method == "GET":
                expected = {403} if (name, path) in NOT_FOR else {200, 303}
                assert visitor.get(filled(path, fleet)).status_code in expected, (name, path)


def test_every_act_needs_the_token(fleet, visit, routes):
    fleet.upload()
    fleet.create(1)
    visitor = visit("alan")
    acts = [path for method, path in routes if method == "POST" and path != "/login"]
    assert len(acts) == 20
    for path in acts:
        assert visitor.client.post(filled(path, fleet)).status_code == 403, path


def test_every_live_route_is_for_those_who_are_logged_in(world):
    # What each answers to a stranger is in test_live.py; here only: none is forgotten there.
    found = {
        route.path
        for route in build_router(world.services, world.cloud.settings, world.cloud.clock).routes
        if isinstance(route, WebSocketRoute)
    }
    assert found == {"/live/vehicles/{vin}", "/live/ota/tasks/{task_id}"}


PATHS = (
    "/login",
    "/vehicles",
    "/vehicles/TESTVEHICLE000001/real-time",
    "/vehicles/TESTVEHICLE000001/upgrades",
    "/ota/tasks",
    "/ota/tasks/1",
    "/projects",
    "/refusals",
    "/vehicles/register",
    "/manage/accounts",
    "/manage/accounts/carol",
    "/manage/new-account",
    "/manage/customers",
    "/manage/vehicles",
    "/manage/audit",
    "/ota/tasks/2",
)


@pytest.fixture
def reader(visit, stranger):
    """`reader(path)`: somebody who may see the page."""
    names = {"/login": "", "/vehicles/register": "carol"} | {path: "adam" for path in PATHS if "/manage/" in path}
    return lambda path: visit(name) if (name := names.get(path, "alan")) else stranger


@pytest.mark.slow
def test_a_page_needs_nothing_from_elsewhere_and_has_nothing_inline(fleet, reader):
    fleet.upload()
    fleet.create(1)
    for path in PATHS:
        answer = reader(path).get(path)
        policy = answer.headers["content-security-policy"]
        assert "default-src 'self'" in policy
        assert "unsafe" not in policy
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
        page = answer.text
        assert not re.search(r'(?:src|href|action)="(?:https?:)?//', page), path
        assert not re.search(r"<[^>]+\son\w+=", page), path
        assert not re.search(r"<[^>]+\sstyle=", page), path
        assert "<style" not in page
        assert re.findall(r"<script[^>]*>", page) == ['<script type="module" src="/static/app.js">']


def test_ids_are_unique_and_labels_lead_somewhere(fleet, reader):
    fleet.upload()
    fleet.create(1, 2)
    for path in PATHS[:-1]:
        page = reader(path).see(path)
        ids = re.findall(r'\sid="([^"]+)"', page)
        assert len(set(ids)) == len(ids), path
        assert set(re.findall(r'<label for="([^"]+)"', page)) <= set(ids), path
        assert page.count("<h1") == 1, path


def test_the_files_come_with_the_package(stranger):
    """In the wheel there is no checkout: templates and static files must be found beside the code."""
    for folder, names in (
        ("templates", ["_layout.html", "ota_tasks/task.html"]),
        ("static", ["app.css", "app.js", "live.js"]),
    ):
        for name in names:
            assert files("bmsota_cloud.pages").joinpath(folder, name).is_file()
    for name, kind in (
        ("app.css", "text/css"),
        ("app.js", "text/javascript"),
        ("live.js", "text/javascript"),
        ("favicon.svg", "image/svg+xml"),
    ):
        answer = stranger.get(f"/static/{name}")
        assert answer.status_code == 200
        assert answer.headers["content-type"].startswith(kind)
        assert answer.headers["cache-control"] == "no-cache"
    assert stranger.get("/static/../router.py").status_code == 404


def test_every_script_that_is_imported_is_there():
    static = files("bmsota_cloud.pages").joinpath("static")
    for script in static.iterdir():
        if script.name.endswith(".js"):
            for name in re.findall(r'from "\./([\w.]+)"', script.read_text(encoding="utf-8")):
                assert static.joinpath(name).is_file()


# -- addresses that nothing answers ------------------------------------------------------------------------------------

BROWSER = {"Accept": "text/html,application/xhtml+xml"}


def test_an_unknown_address_is_a_page_for_a_browser_and_json_for_a_program(client):
    for is_logged_in in (False, True):
        if is_logged_in:
            client.post("/login", data={"name": "vera", "password": "correct horse battery", "next": "/"})
        page = client.get("/nothing/here", headers=BROWSER)
        assert (page.status_code, page.headers["content-type"]) == (404, "text/html; charset=utf-8")
        assert "There is nothing at /nothing/here." in page.text
        assert "<h1>Not found</h1>" in page.text
        assert page.headers["content-security-policy"].startswith("default-src 'self'")
        assert ("Log out" in page.text) is is_logged_in
    for address, headers in (("/nothing", {}), ("/api/v1/nothing", BROWSER)):
        answer = client.get(address, headers=headers)
        assert answer.status_code == 404
        assert answer.json() == {"error": "no-such-address", "detail": f"There is nothing at {address}."}


def test_the_address_on_the_page_is_text_and_short(client):
    page = client.get("/%3Cscript%3Ealert(1)%3C/script%3E" + "x" * 5000, headers=BROWSER)
    assert page.status_code == 404
    assert "<script>alert" not in page.text
    assert "x" * 201 not in page.text


@pytest.mark.parametrize(
    "path",
    [
        "/ota/tasks/99999999999999999999",
        "/ota/tasks?page=99999999999999999999",
        "/ota/tasks/1?page=99999999999999999999",
        "/vehicles?page=99999999999999999999",
        "/vehicles?search=%00",
        "/vehicles/x%00y/real-time",
        "/vehicles/x/upgrades?page=99999999999999999999",
        "/refusals?page=99999999999999999999",
        "/manage/accounts?page=99999999999999999999",
        "/manage/accounts?role=nonsense",
        "/manage/customers?page=99999999999999999999",
        "/manage/audit?page=99999999999999999999",
        "/manage/audit?q=%00",
    ],
)
def test_numbers_and_texts_that_no_database_holds_are_refused_on_a_page(client, path):
    client.post("/login", data={"name": "adam", "password": "correct horse battery", "next": "/"})
    page = client.get(path, headers=BROWSER)
    assert (page.status_code, page.headers["content-type"]) == (422, "text/html; charset=utf-8")
    assert "<h1>Invalid request</h1>" in page.text


def test_a_form_with_a_nul_is_refused(client):
    page = client.post("/login", data={"name": "adam\0", "password": "correct horse battery"}, headers=BROWSER)
    assert page.status_code == 422
    assert "expected text without NUL characters" in page.text


def test_a_wrong_method_is_told_with_the_right_ones(client):
    page = client.delete("/vehicles", headers=BROWSER)
    assert (page.status_code, page.headers["allow"]) == (405, "GET")
    assert "/vehicles cannot be asked with DELETE." in page.text
    assert client.delete("/vehicles").json()["error"] == "wrong-method"


def test_a_fault_of_ours_is_said_without_its_words(world, monkeypatch):
    def fails(*arguments, **options):
        raise RuntimeError("secret words")

    monkeypatch.setattr(world.services.vehicles, "projects", fails)
    with TestClient(build_app(world.cloud), raise_server_exceptions=False) as client:
        client.post("/login", data={"name": "vera", "password": "correct horse battery", "next": "/"})
        page = client.get("/vehicles", headers=BROWSER)
        assert page.status_code == 500
        assert "<h1>Internal error</h1>" in page.text
        assert "secret words" not in page.text
        assert client.get("/vehicles").json()["error"] == "internal"
