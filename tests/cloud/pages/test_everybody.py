"""Every route of the pages, asked by everybody; and what is true of every page."""

import re
from importlib.resources import files

import pytest
from bmsota_cloud.pages import build_router
from bmsota_cloud.pages.rendering import HEADERS
from bmsota_cloud.wiring import build_app
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from starlette.routing import WebSocketRoute

# What strangers were refused, with their addresses, is for those who can do something about it.
NOT_FOR = {("vera", "/refusals")}
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
    return path.replace("{vin}", fleet.vin(1)).replace("{task_id}", "1")


def test_the_platform_has_the_pages(fleet):
    """With its other doors around them, and one policy, not two."""
    with TestClient(build_app(fleet.cloud), base_url="http://cloud.example:8080") as client:
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
    assert len(acts) == 7
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
    "/ota/tasks/2",
)


@pytest.mark.slow
def test_a_page_needs_nothing_from_elsewhere_and_has_nothing_inline(fleet, visit, stranger):
    fleet.upload()
    fleet.create(1)
    alan = visit("alan")
    for path in PATHS:
        answer = (stranger if path == "/login" else alan).get(path)
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


def test_ids_are_unique_and_labels_lead_somewhere(fleet, visit, stranger):
    fleet.upload()
    fleet.create(1, 2)
    alan = visit("alan")
    for path in PATHS[:-1]:
        page = (stranger if path == "/login" else alan).see(path)
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
