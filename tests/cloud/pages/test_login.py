"""Logging in and out, and what keeps others from doing it for you."""

from dataclasses import replace
from urllib.parse import quote

from bmsota_cloud.domain.errors import OverloadedError
from bmsota_cloud.pages import build_router, mount_static
from bmsota_cloud.services.limits import LOGIN_PAIR, Counted
from fastapi import FastAPI
from fastapi.testclient import TestClient

PASSWORD = "correct horse battery"


def log_in(visitor, name="carol", password=PASSWORD, next_path="/", **headers):
    return visitor.client.post("/login", data={"name": name, "password": password, "next": next_path}, headers=headers)


def test_the_front_page_leads_a_stranger_to_the_login_and_back(stranger):
    assert stranger.get("/").headers["location"] == "/login"
    assert log_in(stranger).headers["location"] == "/"
    assert stranger.get("/").status_code == 200


def test_a_stranger_is_sent_to_the_login_and_from_there_to_where_he_wanted(stranger):
    wanted = "/vehicles?project=A%20B&page=2"
    answer = stranger.get(wanted)
    assert (answer.status_code, answer.headers["location"]) == (303, "/login?next=" + quote(wanted, safe=""))
    page = stranger.see(answer.headers["location"])
    assert 'name="next" value="/vehicles?project=A%20B&amp;page=2"' in page
    assert log_in(stranger, next_path=wanted).headers["location"] == wanted


def test_nobody_is_sent_to_another_site(stranger):
    for elsewhere in ("https://evil.example/", "//evil.example/", "/\\evil.example", "vehicles", "/\n/x", ""):
        assert 'name="next" value="/"' in stranger.see(f"/login?next={quote(elsewhere, safe='')}"), elsewhere
    for elsewhere in ("https://evil.example/", "//evil.example/", "/\\evil.example", "vehicles", "/\n/x", ""):
        assert log_in(stranger, next_path=elsewhere).headers["location"] == "/", elsewhere


def test_the_cookie_is_out_of_reach_of_scripts_and_other_sites(stranger):
    cookie = log_in(stranger).headers.get_list("set-cookie")[0].lower()
    assert cookie.startswith("bmsota=")
    for attribute in ("httponly", "samesite=lax", "path=/", "max-age=86400"):
        assert attribute in cookie
    assert "secure" not in cookie


def test_over_https_the_cookie_is_bound_to_the_host(world):
    app = FastAPI()
    settings = replace(world.cloud.settings, pages_url="https://cloud.example")
    app.include_router(build_router(world.services, settings, world.cloud.clock))
    mount_static(app)
    with TestClient(app, base_url="https://cloud.example", follow_redirects=False) as client:
        answer = client.post("/login", data={"name": "carol", "password": PASSWORD})
        cookies = answer.headers.get_list("set-cookie")
        assert [cookie.partition("=")[0] for cookie in cookies] == ["__Host-bmsota", "__Host-bmsota-device"]
        assert all("; Secure" in cookie for cookie in cookies)
        assert client.get("/vehicles").status_code == 200


def test_a_wrong_password_is_told_beside_the_form_which_keeps_the_name(stranger):
    answer = log_in(stranger, name="carol", password="wrong")
    assert answer.status_code == 401
    assert "Wrong name or password." in answer.text
    assert 'value="carol"' in answer.text
    assert "set-cookie" not in answer.headers


def test_an_unknown_name_reads_the_same(stranger):
    assert log_in(stranger, name="nobody").text == log_in(stranger, name="carol", password="wrong").text.replace(
        "carol", "nobody"
    )


def test_too_many_wrong_passwords_must_wait(stranger):
    for _ in range(10):
        assert log_in(stranger, password="wrong").status_code == 401
    answer = log_in(stranger)
    assert (answer.status_code, answer.headers["retry-after"]) == (429, "360")
    assert "Too many wrong passwords; try again in 6 minutes." in answer.text


def test_a_browser_that_has_logged_in_before_is_not_kept_out_by_others(stranger, visit, world):
    """The cookie outlives the session; scripts and other sites don't get it."""
    cookies = log_in(stranger).headers.get_list("set-cookie")
    device = next(cookie for cookie in cookies if cookie.startswith("bmsota-device="))
    for attribute in ("HttpOnly", "SameSite=lax", "Path=/", "Max-Age=15552000"):
        assert attribute in device
    del stranger.client.cookies["bmsota"]
    for _ in range(12):
        world.services.accounts._limits.take((Counted(LOGIN_PAIR, ("testclient", "carol")),), world.now)
    assert log_in(stranger).status_code == 303
    del stranger.client.cookies["bmsota-device"]
    assert log_in(stranger).status_code == 429


def test_a_busy_platform_is_said_on_the_login_page(stranger, monkeypatch, world):
    def busy(*_, **__):
        raise OverloadedError("busy", "the platform is busy; try again in a moment", retry_after_s=2)

    monkeypatch.setattr(world.services.accounts._passwords, "verify", busy)
    answer = log_in(stranger)
    assert (answer.status_code, answer.headers["retry-after"]) == (503, "2")
    assert "The platform is busy; try again in a moment." in answer.text


def test_who_is_logged_in_is_not_asked_again(visit):
    assert visit("carol").get("/login?next=/ota/tasks").headers["location"] == "/ota/tasks"


def test_another_site_can_not_log_people_in(stranger):
    for headers in (
        {"Origin": "https://evil.example"},
        {"Origin": "null"},
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
    ):
        answer = log_in(stranger, **headers)
        assert answer.status_code == 403, headers
        assert "set-cookie" not in answer.headers


def test_our_own_page_can(stranger):
    answer = log_in(stranger, **{"Origin": "http://cloud.example:8080", "Sec-Fetch-Site": "same-origin"})
    assert answer.status_code == 303


def test_logging_out_ends_the_session_on_the_server(visit):
    carol = visit("carol")
    cookie = carol.client.cookies["bmsota"]
    assert carol.post("/logout").headers["location"] == "/login"
    assert "bmsota" not in carol.client.cookies
    carol.client.cookies["bmsota"] = cookie
    assert carol.get("/vehicles").headers["location"].startswith("/login")


def test_a_form_without_the_token_of_the_session_does_nothing(visit):
    carol = visit("carol")
    for token in ("", "x" * 43, "täuschung"):
        answer = carol.post("/logout", csrf=token)
        assert answer.status_code == 403, token
        assert "Not allowed" in answer.text
    assert carol.get("/vehicles").status_code == 200


def test_the_token_of_somebody_else_does_nothing(visit):
    assert visit("carol").post("/logout", csrf=visit("alan").csrf()).status_code == 403


def test_a_session_that_is_over_leads_to_the_login(world, visit):
    carol = visit("carol")
    world.wait(hours=25)
    assert carol.get("/vehicles").headers["location"] == "/login?next=%2Fvehicles"
    assert carol.client.post("/logout", data={"csrf": "x"}).headers["location"] == "/login"
