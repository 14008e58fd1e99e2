"""The REST API: the main job from outside, and every route as every role."""

import base64

import pytest
from bmsota_cloud.domain.accounts import Scope
from bmsota_cloud.domain.refusals import RefusalCause

from bmsota.gbt32960 import LocalUpgrade, LocalUpgradeOutcome, beijing_time
from bmsota.gbt32960 import UpgradeStateCode as Code

pytestmark = pytest.mark.slow

API = "/api/v1"


def test_the_main_job_over_rest(world, client, bearer, release_files, base64_key):
    """Register, upload, create, approve with the mailed code, watch, until the signed report."""
    carol, alan, vera = bearer("carol"), bearer("alan"), bearer("vera")
    vin = world.vin(1)
    body = {
        "vin": vin,
        "series": "F7",
        "project": "Harbour",
        "hwid": "M-000001",
        "device_public_key": base64_key(world, vin),
    }
    answer = client.post(f"{API}/vehicles", json=body, headers=carol)
    assert (answer.status_code, answer.json()["vin"]) == (201, vin)
    world.identify(1)

    files = release_files()
    parts = [
        ("manifest", ("m.cose", files.manifest)),
        *(("images", (f"{n}.bin", d)) for n, d in enumerate(files.images)),
    ]
    answer = client.post(f"{API}/releases", files=parts, headers=carol)
    assert (answer.status_code, answer.json()["name"]) == (201, "F7-2.1.0")

    body = {
        "project": "Harbour",
        "reason": "cell balancing fix",
        "software_version": "2.1.0",
        "vins": [vin],
        "auditor": "alan",
        "time_limit_s": 3600,
    }
    answer = client.post(f"{API}/tasks", json=body, headers=carol)
    assert (answer.status_code, answer.json()["status"]) == (201, "Unapproved")
    task = f"{API}/tasks/{answer.json()['id']}"

    code = world.newest_code()
    wrong = f"{(int(code) + 1) % 1_000_000:06d}"
    answer = client.post(f"{task}/approve", json={"code": wrong}, headers=alan)
    assert (answer.status_code, answer.json()["error"]) == (403, "wrong-code")
    answer = client.post(f"{task}/approve", json={"code": code}, headers=carol)
    assert (answer.status_code, answer.json()["error"]) == (403, "not-allowed")
    answer = client.post(f"{task}/approve", json={"code": code}, headers=alan)
    assert (answer.status_code, answer.json()["status"], answer.json()["approver"]) == (200, "Approved", "alan")

    world.tell(vin, Code.DOWNLOADING, progress_pct=37)
    answer = client.get(task, headers=vera)
    (upgrade,) = answer.json()["upgrades"]["items"]
    assert (upgrade["status"], upgrade["progress_pct"]) == ("Downloading", 37)
    world.services.upgrades.receive_report(vin, world.report(1, "OTA-1-1"), world.now)
    answer = client.get(task, headers=vera).json()
    (upgrade,) = answer["upgrades"]["items"]
    assert [step["status"] for step in upgrade["transitions"]] == [
        "Unapproved",
        "Approved",
        "Downloading",
        "Upgrade succeeded",
    ]
    assert [node["version"] for node in upgrade["versions_before"]] == ["2.0.0"] * 3
    assert [node["version"] for node in upgrade["versions_after"]] == ["2.1.0"] * 3
    assert answer["task"]["status"] == "Finished"
    assert code not in client.get(task, headers=carol).text


ROUTES = [
    # method, path, body, who may (besides, everybody without a login gets 401)
    ("GET", "/me", None, "carol alan vera adam"),
    ("GET", "/accounts", None, "adam"),
    (
        "POST",
        "/accounts",
        {"name": "new", "email": "n@example.org", "role": "viewer", "password": "a long password"},
        "adam",
    ),
    ("POST", "/me/password", {"old": "correct horse battery", "new": "another horse battery"}, "carol alan vera adam"),
    ("GET", "/audit", None, "alan adam"),
    ("GET", "/counters", None, "alan adam"),
    ("GET", "/vehicles", None, "carol alan vera adam"),
    ("POST", "/vehicles", "new vehicle", "carol adam"),
    ("POST", "/vehicles/import", "vehicle file", "carol adam"),
    ("GET", "/vehicles/TESTVEHICLE000001", None, "carol alan vera adam"),
    (
        "PUT",
        "/vehicles/TESTVEHICLE000001/unit",
        {"hwid": "M-ANOTHER-1", "device_public_key": base64.b64encode(b"\x01" + b"\x00" * 31).decode()},
        "carol adam",
    ),
    ("GET", "/vehicles/TESTVEHICLE000001/state", None, "carol alan vera adam"),
    ("GET", "/vehicles/TESTVEHICLE000001/reports", None, "carol alan vera adam"),
    ("GET", "/vehicles/TESTVEHICLE000001/events", None, "carol alan vera adam"),
    ("GET", "/vehicles/TESTVEHICLE000001/runs", None, "carol alan vera adam"),
    ("GET", "/vehicles/TESTVEHICLE000001/faults", None, "carol alan vera adam"),
    ("GET", "/vehicles/TESTVEHICLE000001/track", None, "carol alan vera adam"),
    ("GET", "/vehicles/TESTVEHICLE000001/configuration", None, "carol alan vera adam"),
    ("GET", "/vehicles/TESTVEHICLE000001/configuration/changes", None, "carol alan vera adam"),
    ("GET", "/clock", None, "carol alan vera adam"),
    ("POST", "/clock/accept", None, "carol adam"),
    ("GET", "/vehicles/TESTVEHICLE000001/upgrade-history", None, "carol alan vera adam"),
    ("GET", "/equipment-changes", None, "carol alan vera adam"),
    ("GET", "/releases", None, "carol alan vera adam"),
    ("GET", "/releases/1", None, "carol alan vera adam"),
    ("POST", "/releases", "new release", "carol adam"),
    ("GET", "/projects", None, "carol alan vera adam"),
    ("GET", "/projects/Harbour", None, "carol alan vera adam"),
    ("PUT", "/projects/Harbour", {"audit_mailbox": "audit@example.org"}, "adam"),
    ("GET", "/tasks", None, "carol alan vera adam"),
    ("POST", "/tasks", "new task", "carol adam"),
    (
        "POST",
        "/tasks/preview",
        {"project": "Harbour", "software_version": "2.1.0", "vins": ["TESTVEHICLE000002"]},
        "carol adam",
    ),
    ("GET", "/tasks/1", None, "carol alan vera adam"),
    ("PATCH", "/tasks/1", {"reason": "other words"}, "carol adam"),
    ("POST", "/tasks/1/code", None, "carol alan adam"),
    ("POST", "/tasks/1/approve", "the code", "alan"),
    ("POST", "/tasks/1/cancel", {}, "carol alan adam"),
    ("POST", "/tasks/2/end", {"reason": "stuck", "vins": ["TESTVEHICLE000003"]}, "carol adam"),
    ("POST", "/tasks/2/retry", {"reason": "again", "vins": ["TESTVEHICLE000003"]}, "carol adam"),
    ("GET", "/refusals", None, "carol alan adam"),
    ("GET", "/refusals/totals", None, "carol alan adam"),
    ("GET", "/vehicles/TESTVEHICLE000001/refusals", None, "carol alan vera adam"),
    ("GET", "/accounts/olaf", None, "adam"),
    ("PATCH", "/accounts/olaf", {"scope": {"kind": "projects", "projects": ["Harbour"]}}, "adam"),
    ("POST", "/accounts/olaf/disable", None, "adam"),
    ("POST", "/accounts/olaf/enable", None, "adam"),
    ("POST", "/accounts/olaf/reset", {"password": "another long password"}, "adam"),
    ("GET", "/accounts/olaf/sessions", None, "adam"),
    ("DELETE", "/accounts/olaf/sessions", None, "adam"),
    ("DELETE", "/accounts/olaf/sessions/SESSION", None, "adam"),
    ("GET", "/me/sessions", None, "carol alan vera adam"),
    ("GET", "/customers", None, "adam"),
    ("POST", "/customers", {"name": "Bridges"}, "adam"),
    ("POST", "/customers/Port/vehicles", {"vins": ["TESTVEHICLE000001"]}, "adam"),
    ("PUT", "/vehicles/TESTVEHICLE000001/customer", {"customer": "Port"}, "adam"),
    ("POST", "/logout", None, "carol alan vera adam"),
]


EVERYBODY = ["carol", "alan", "vera", "adam"]


@pytest.mark.parametrize(("method", "path", "body", "allowed"), ROUTES, ids=[f"{r[0]} {r[1]}" for r in ROUTES])
def test_every_route_as_every_role(new_world, open_client, release_files, method, path, body, allowed):
    """Who may gets 2xx, who may not 403, who is nobody 401; and what was refused has changed nothing."""
    # Those who are refused ask the same platform one after another, so do readers; who changes something has his own.
    shared = _prepared(new_world)
    client, bearer = open_client(shared)
    options = _options(shared, body, release_files)
    before = _everything(shared)
    path = path.replace("SESSION", _session_of_olaf(shared))
    answer = client.request(method, API + path, **options)
    assert (answer.status_code, answer.headers["WWW-Authenticate"]) == (401, "Bearer")
    for who in EVERYBODY:
        if who not in allowed.split():
            answer = client.request(method, API + path, headers=bearer(who), **options)
            assert (answer.status_code, answer.json()["error"]) == (403, "not-allowed"), who
    assert _everything(shared) == before
    for who in allowed.split():
        if method != "GET":
            shared = _prepared(new_world)
            client, bearer = open_client(shared)
            options = _options(shared, body, release_files)
        answer = client.request(method, API + path, headers=bearer(who), **options)
        assert answer.status_code in (200, 201, 204), (who, answer.text)


def _prepared(new_world):
    world = new_world()
    world.register(1)
    world.register(2)
    world.services.customers.create("Port", by=world.people["adam"], now=world.now)
    world.services.accounts.log_in(name="olaf", password="correct horse battery", now=world.now)
    world.upload()
    world.create(1)
    # The second task is under way.
    world.register(3)
    world.approve(world.create(3))
    # The newest code is that of the first task again.
    world.services.ota_tasks.send_new_code(1, by=world.people["carol"], now=world.now)
    return world


def _session_of_olaf(world):
    adam = world.people["adam"]
    return world.services.accounts.sessions("olaf", by=adam, now=world.now)[0].id


def _options(world, body, release_files):
    """What the request holds besides its path."""
    if body == "new vehicle":
        key = base64.b64encode(b"\x01" + b"\x00" * 31).decode()
        vehicle = {"vin": world.vin(4), "series": "F7", "project": "p", "hwid": "M4", "device_public_key": key}
        return {"json": vehicle}
    if body == "vehicle file":
        return {"files": {"file": ("fleet.csv", f"vin,series,project\n{world.vin(4)},F7,p\n")}}
    if body == "new release":
        files = release_files("E7")
        return {"files": [("manifest", files.manifest), *(("images", image) for image in files.images)]}
    if body == "new task":
        task = {"project": "Harbour", "reason": "r", "software_version": "2.1.0", "vins": [world.vin(2)]}
        return {"json": task | {"auditor": "alan"}}
    if body == "the code":
        return {"json": {"code": world.newest_code()}}
    return {} if body is None else {"json": body}


def _everything(world):
    from bmsota_cloud.domain.paging import PageRequest
    from bmsota_cloud.domain.vehicles import VehicleFilter

    every = PageRequest(1, 500)
    with world.cloud.store.reading() as work:
        return (
            work.vehicles.page(every, VehicleFilter(), world.services.presence.lease_check, Scope()),
            work.releases.page(every),
            work.ota_tasks.page(every, Scope()),
            work.ota_tasks.upgrades(1),
            work.ota_tasks.upgrades(2),
            work.ota_tasks.code(1),
            work.projects.all(),
            work.accounts.page(every),
            work.accounts.sessions_of("olaf"),
            work.customers.page(every),
        )


def test_the_upgrade_history_of_a_vehicle(world, client, bearer):
    """OTA and CAN in one list, paged, newest first; every field as programs get it."""
    task = world.approved(1)
    vin = world.vin(1)
    upgrade = LocalUpgrade(
        upgraded_at=beijing_time(world.now_ns + 60 * 10**9),
        position=2,
        hwid="S-000001-2",
        version_before=(2, 0, 0, 0),
        version_after=(2, 0, 0, 0),
        outcome=LocalUpgradeOutcome.REVERTED,
        tool="bmsota 1.0",
        detail="not confirmed",
    )
    world.wait(hours=1)
    world.services.histories.receive(vin, [upgrade], world.now)
    path = f"{API}/vehicles/{vin}/upgrade-history"
    answer = client.get(path, headers=bearer("vera"))
    assert answer.status_code == 200
    body = answer.json()
    assert {name: body[name] for name in ("total", "number", "size")} == {"total": 2, "number": 1, "size": 50}
    can, ota = body["items"]
    assert can == {
        "source": "CAN",
        "at": "2026-11-22T08:01:00Z",
        "status": "Rolled back",
        "reason": "not confirmed",
        "nodes": [
            {
                "position": 2,
                "hwid": "S-000001-2",
                "version_before": "2.0.0",
                "version_after": "2.0.0",
                "image_before": "",
                "image_after": "",
            }
        ],
        "task_id": None,
        "software_version": "",
        "tool": "bmsota 1.0",
        "is_confirmed": False,
        "reported_at": "2026-11-22T09:00:00Z",
    }
    assert (ota["source"], ota["task_id"], ota["status"], ota["software_version"], ota["reported_at"]) == (
        "OTA",
        task.id,
        "Approved",
        "2.1.0",
        None,
    )
    assert [node["version_before"] for node in ota["nodes"]] == ["2.0.0"] * 3
    second = client.get(path, params={"page": 2, "size": 1}, headers=bearer("vera")).json()
    assert (second["items"], second["total"], second["number"]) == ([ota], 2, 2)
    missing = client.get(f"{API}/vehicles/NOSUCHVEHICLE0001/upgrade-history", headers=bearer("vera"))
    assert (missing.status_code, missing.json()["error"]) == (404, "no-such-vehicle")


def test_a_wrong_login_is_401(client):
    answer = client.post(f"{API}/login", json={"name": "carol", "password": "no"})
    assert (answer.status_code, answer.json()["error"]) == (401, "wrong-login")


def test_a_cookie_is_no_login_here(client, bearer):
    token = bearer("carol")["Authorization"].removeprefix("Bearer ")
    for name in ("bmsota", "__Host-bmsota"):
        client.cookies.set(name, token)
    assert client.get(f"{API}/me").status_code == 401


def test_refusals_are_words_and_statuses(world, client, bearer):
    carol = bearer("carol")
    for method, path, body, status, error in (
        ("GET", "/vehicles/NOSUCHVEHICLE0001", None, 404, "no-such-vehicle"),
        ("GET", "/tasks/99", None, 404, "no-such-task"),
        ("GET", "/releases/99", None, 404, "no-such-release"),
        ("POST", "/tasks/99/cancel", {}, 404, "no-such-task"),
    ):
        answer = client.request(method, API + path, headers=carol, json=body)
        assert (answer.status_code, answer.json()["error"]) == (status, error)
    body = {"vin": "SHORT", "series": "F7", "project": "p", "hwid": "M", "device_public_key": "AAAA"}
    assert client.post(f"{API}/vehicles", headers=carol, json=body).json()["error"] == "bad-vin"
    for key in ("!", "\N{LATIN SMALL LETTER E WITH ACUTE}AAA"):
        answer = client.post(f"{API}/vehicles", headers=carol, json=body | {"device_public_key": key})
        assert (answer.status_code, answer.json()["error"]) == (422, "bad-key")
    answer = client.post(f"{API}/vehicles", headers=carol, json=body | {"colour": "red"})
    assert answer.status_code == 422


def test_lists_are_paged_by_query(world, client, bearer):
    for number in range(1, 6):
        world.register(number)
    vera = bearer("vera")
    page = client.get(f"{API}/vehicles?page=2&size=2", headers=vera).json()
    assert ([row["vin"] for row in page["items"]], page["total"]) == ([world.vin(3), world.vin(4)], 5)
    for query in ("page=0", "size=0", "size=501", "page=x"):
        assert client.get(f"{API}/vehicles?{query}", headers=vera).status_code == 422


def test_a_time_without_a_zone_is_refused(world, client, bearer):
    vin = world.register(1)
    for what in ("reports", "events"):
        answer = client.get(f"{API}/vehicles/{vin}/{what}?since=2026-01-01T00:00:00", headers=bearer("vera"))
        assert (answer.status_code, answer.json()["error"]) == (422, "bad-time")


@pytest.mark.parametrize("word", ["0.5", "2026", "-1", "-1.4e-206", "soon"])
def test_what_is_no_time_is_refused(world, client, bearer, word):
    vin = world.register(1)
    answer = client.get(f"{API}/vehicles/{vin}/events?until={word}", headers=bearer("vera"))
    assert answer.status_code == 422
    assert "query.until: " in answer.json()["detail"]


def test_a_wrong_method_is_told_with_all_the_right_ones(client, bearer):
    vera = bearer("vera")
    for path, methods in (("tasks", "GET, POST"), ("tasks/7", "GET, PATCH"), ("audit", "GET")):
        answer = client.request("DELETE", f"{API}/{path}", headers=vera)
        assert (answer.status_code, answer.headers["allow"]) == (405, methods)


def test_a_kind_of_events_that_there_is_not_is_refused(world, client, bearer):
    vin = world.register(1)
    answer = client.get(f"{API}/vehicles/{vin}/events?kind=checkpoint", headers=bearer("vera"))
    assert (answer.status_code, answer.json()["error"]) == (422, "bad-kind")
    assert (
        "expected vehicle state, charging state, alarm level, alarm, fault code, fault change"
        in answer.json()["detail"]
    )


def test_too_long_is_413_whether_announced_or_not(client, bearer):
    carol = bearer("carol")
    long = b"x" * (1024 * 1024 + 1)
    assert client.post(f"{API}/tasks", headers=carol, content=long).status_code == 413

    def pieces():
        for _ in range(3):
            yield b"x" * 512 * 1024

    assert client.post(f"{API}/tasks", headers=carol, content=pieces()).status_code == 413


def test_an_image_that_is_too_large_is_refused(client, bearer, release_files, monkeypatch):
    from bmsota_cloud.api import releases

    monkeypatch.setattr(releases, "IMAGE_SIZE_BYTES_MAX", 100)
    files = release_files()
    parts = [("manifest", files.manifest), *(("images", image) for image in files.images)]
    answer = client.post(f"{API}/releases", files=parts, headers=bearer("carol"))
    assert (answer.status_code, answer.json()["error"]) == (422, "too-large")


def test_every_answer_has_the_strict_headers(client):
    answer = client.get(f"{API}/me")
    assert "script-src 'self'" in answer.headers["Content-Security-Policy"]
    assert "unsafe" not in answer.headers["Content-Security-Policy"]
    assert answer.headers["X-Content-Type-Options"] == "nosniff"


def test_a_project_and_a_task_in_its_way_over_rest(world, client, bearer, base64_key):
    """An administrator sets the mailbox; an operator creates the task without an auditor, and enters the code."""
    carol, adam = bearer("carol"), bearer("adam")
    for number in (1, 2):
        world.register(number)
        world.identify(number, version="2.1.0" if number == 2 else "2.0.0")
    world.upload()
    body = {"project": "Harbour", "reason": "r", "software_version": "2.1.0", "vins": [world.vin(1), world.vin(2)]}
    answer = client.post(f"{API}/tasks", json=body, headers=carol)
    assert (answer.status_code, answer.json()["error"]) == (409, "no-audit-mailbox")
    answer = client.put(f"{API}/projects/Harbour", json={"audit_mailbox": "audit@example.org"}, headers=adam)
    assert answer.json() == {
        "name": "Harbour",
        "audit_mailbox": "audit@example.org",
        "approval": "audit mailbox",
        "starters": [],
        "changed_at": "2026-11-22T08:00:00Z",
        "changed_by": "adam",
        "number": "",
        "classification": "unspecified",
        "vehicle_count": 2,
    }
    strict = {"audit_mailbox": "audit@example.org", "approval": "nonsense"}
    assert client.put(f"{API}/projects/Harbour", json=strict, headers=adam).status_code == 422
    preview = client.post(
        f"{API}/tasks/preview", json={n: body[n] for n in ("project", "software_version", "vins")}, headers=carol
    ).json()
    assert [(row["vin"], row["fault"], [r["kind"] for r in row["remarks"]]) for row in preview] == [
        (world.vin(1), "", []),
        (world.vin(2), "", ["said-to-run"]),
    ]
    assert preview[0]["nodes"][0] == {
        "position": 0,
        "hwid": "M-000001",
        "version": "2.0.0",
        "is_signed": False,
        "target_version": "2.1.0",
    }
    task = f"{API}/tasks/{client.post(f'{API}/tasks', json=body, headers=carol).json()['id']}"
    detail = client.get(task, headers=bearer("vera")).json()
    assert (detail["approval"], detail["remarks"], detail["may_approve"]) == (
        "audit mailbox",
        {"said-to-run": 1},
        False,
    )
    assert [image["version"] for image in detail["upgrades"]["items"][0]["images"]] == ["2.1.0", "2.1.0"]
    answer = client.post(f"{task}/approve", json={"code": world.newest_code()}, headers=carol)
    assert (answer.status_code, answer.json()["approval"], answer.json()["approver"]) == (200, "audit mailbox", "carol")
    end = {"reason": "scrapped", "vins": [world.vin(1)]}
    assert client.post(f"{task}/end", json=end, headers=carol).json() == {"count": 1}
    cancelled = client.get(f"{task}?status=Cancelled", headers=carol).json()["upgrades"]
    assert [row["vin"] for row in cancelled["items"]] == [world.vin(1)]
    assert client.get(f"{task}?status=Nonsense", headers=carol).status_code == 422
    retry = {"reason": "found again", "statuses": ["Cancelled"]}
    assert client.post(f"{task}/retry", json=retry, headers=carol).json() == {"count": 1}
    (row,) = client.get(f"{task}?status=Approved&size=1", headers=carol).json()["upgrades"]["items"]
    assert (row["order_id"], row["attempt"], row["may_end"], row["may_retry"]) == ("OTA-1-1-2", 2, True, True)


def test_a_plain_terminal_is_registered_and_said_to_be_one(world, client, bearer):
    carol = bearer("carol")
    for number in (1, 2):
        body = {"vin": world.vin(number), "series": "F7", "project": "Harbour"}
        answer = client.post(f"{API}/vehicles", json=body, headers=carol)
        assert (answer.status_code, answer.json()["is_upgradable"], answer.json()["hwid"]) == (201, False, "")
    assert [row["is_upgradable"] for row in client.get(f"{API}/vehicles", headers=carol).json()["items"]] == [False] * 2
    world.upload()
    task = {"project": "Harbour", "reason": "r", "software_version": "2.1.0", "vins": [world.vin(1)], "auditor": "alan"}
    answer = client.post(f"{API}/tasks", json=task, headers=carol)
    assert (answer.status_code, "without a device key" in answer.json()["detail"]) == (422, True)


def test_refusals_as_programs_get_them(world, client, bearer):
    world.register(1)
    record = {"address": "192.0.2.1", "vin": "STRANGER000000001", "head": b"##\x01", "answered": 2, "detail": "d"}
    for _ in range(2):
        world.services.refusals.record(RefusalCause.LOGIN_UNKNOWN_VIN, now=world.now, **record)
    world.services.refusals.record(RefusalCause.ENCRYPTED, address="192.0.2.2", vin=world.vin(1), now=world.now)
    world.services.refusals.flush()
    carol = bearer("carol")
    page = client.get(f"{API}/refusals?registered=false", headers=carol).json()
    assert page["total"] == 1
    assert page["items"][0].pop("id") > 0
    at = world.now.isoformat().replace("+00:00", "Z")
    assert page["items"] == [
        {
            "address": "192.0.2.1",
            "vin": "STRANGER000000001",
            "cause": "login-unknown-vin",
            "reason": "The vehicle is not registered.",
            "advice": "Register this VIN if the vehicle is yours; it logs in at its next try.",
            "first_at": at,
            "last_at": at,
            "count": 2,
            "head": "232301",
            "answered": 2,
            "detail": "d",
            "is_registered": False,
        }
    ]
    assert client.get(f"{API}/refusals?cause=encrypted", headers=carol).json()["total"] == 1
    assert client.get(f"{API}/refusals?cause=nonsense", headers=carol).status_code == 422
    assert client.get(f"{API}/refusals/totals", headers=carol).json() == {"encrypted": 1, "login-unknown-vin": 2}
    (mine,) = client.get(f"{API}/vehicles/{world.vin(1)}/refusals", headers=bearer("vera")).json()
    assert (mine["cause"], mine["answered"], "is_registered" in mine) == ("encrypted", None, False)
    assert client.get(f"{API}/vehicles/STRANGER000000001/refusals", headers=carol).status_code == 404


@pytest.mark.parametrize(
    ("method", "path", "body"),
    [
        ("GET", "/tasks/2147483648", ""),
        ("GET", "/tasks/99999999999999999999999", ""),
        ("POST", "/tasks/99999999999999999999999/approve", '{"code": "000000"}'),
        ("GET", "/releases/9223372036854775808", ""),
        ("GET", "/tasks?page=9999999999999999999", ""),
        ("GET", "/vehicles/x%00y", ""),
        ("GET", "/vehicles?search=%00", ""),
        ("PUT", "/projects/Harbour", '{"audit_mailbox": "a\\u0000@example.org"}'),
        ("PUT", "/projects/Harbour", '{"audit_mailbox": "a\\ud800@example.org"}'),
        ("PUT", "/projects/Harbour", '{"audit_mailbox": "", "starters": ["a\\u0000"]}'),
        ("PUT", "/projects/Harbour", '{"a\\ud800": 1}'),
    ],
)
def test_what_no_database_and_no_answer_can_hold_is_refused(client, bearer, method, path, body):
    headers = {**bearer("adam"), "Content-Type": "application/json"}
    answer = client.request(method, f"{API}{path}", content=body, headers=headers)
    assert (answer.status_code, answer.headers["content-type"]) == (422, "application/json")
    assert isinstance(answer.json()["detail"], str)
    assert answer.json()["error"] in {"invalid-request", "bad-value", "bad-address"} or path.startswith("/vehicles")


def test_every_refusal_has_one_form(client, bearer):
    """A word for programs and a sentence for people, also where the framework finds the fault; the description says so."""
    carol = bearer("carol")
    wrong = {"project": 1, "vins": ["A", 2], "colour": "red"}
    answer = client.post(f"{API}/tasks", json=wrong, headers=carol)
    assert (answer.status_code, set(answer.json())) == (422, {"error", "detail"})
    assert answer.json()["error"] == "invalid-request"
    assert answer.json()["detail"].startswith(
        "body.project: Input should be a valid string; body.reason: Field required; "
    )
    assert answer.json()["detail"].endswith("; body.colour: Extra inputs are not permitted")
    many = client.post(f"{API}/tasks/preview", json={"vins": list(range(4000))}, headers=carol).json()["detail"]
    assert many.endswith(" and 3997 more")
    for path in ("/vehicles?page=0", "/vehicles/NOBODY", "/nowhere"):
        assert set(client.get(f"{API}{path}", headers=carol).json()) == {"error", "detail"}
    described = client.get(f"{API}/openapi.json").json()
    schemas = {
        response["content"]["application/json"]["schema"]["$ref"]
        for way in described["paths"].values()
        for operation in way.values()
        for code, response in operation["responses"].items()
        if code.startswith("4")
    }
    assert schemas == {"#/components/schemas/ErrorOut"}
