"""Every route and socket of the platform, from its router, asked by everybody: who gets in, and that nobody sees what is not for him."""

from __future__ import annotations

import pytest
from bmsota_cloud.domain.accounts import Role, Scope, ScopeKind
from bmsota_cloud.wiring import build_app
from fastapi.testclient import TestClient
from starlette.routing import Mount, WebSocketRoute
from starlette.websockets import WebSocketDisconnect

PASSWORD = "correct horse battery"
API = "/api/v1"

# A stranger; viewer, auditor, operator and administrator, who see everything; an operator of the project Harbour and one of the
# project Airport; the customer whose vehicle it is, and another customer.
EVERYBODY = ("", "vera", "alan", "carol", "adam", "olga", "omar", "cleo", "otto")
ELSEWHERE = ("omar", "otto")
"""Those for whom nothing of Harbour exists."""

# What each of them gets, in that order. s: log in first, f: forbidden, -: there is no such thing, +: in, whatever comes of it there.
OPEN = "+++++++++"
LOGGED_IN = "s++++++++"
VEHICLE = "s+++++-+-"
"""A vehicle of Harbour, or what is known of it, by its VIN."""
EMPLOYEES = "s++++++ff"
PROJECT = "s+++++-ff"
MAKERS = "sff++++ff"
PROJECT_MAKERS = "sff+++-ff"
PROJECT_ENDERS = "sf++++-ff"
EXPORTERS = "sff++++++"
NO_EXPORT = "sff------"
"""There is none yet; whose export is whose: test_exports.py."""
ADMINISTRATORS = "sfff+ffff"
UNITS = "sssssssss"

ROUTES = {
    # -- the front of it
    "GET /login": OPEN,
    "POST /login": OPEN,
    # Leads to the login, whoever asks.
    "POST /logout": "sssssssss",
    "GET /healthz": OPEN,
    "GET /healthz/live": OPEN,
    "GET /metrics": "s++++ffff",
    "GET /api/v1/openapi.json": OPEN,
    "* /device/v1/{rest:path}": UNITS,
    # -- pages
    "GET /": LOGGED_IN,
    "GET /map/vehicles": LOGGED_IN,
    "SOCKET /live/overview": LOGGED_IN,
    "GET /vehicles": LOGGED_IN,
    "GET /vehicles/register": MAKERS,
    "POST /vehicles/register": PROJECT_MAKERS,
    "GET /vehicles/{vin}": OPEN,
    "GET /vehicles/{vin}/real-time": VEHICLE,
    "GET /vehicles/{vin}/upgrades": VEHICLE,
    "GET /vehicles/{vin}/export": VEHICLE,
    "GET /vehicles/{vin}/basic": VEHICLE,
    "GET /vehicles/{vin}/location": VEHICLE,
    "GET /vehicles/{vin}/configuration": VEHICLE,
    "GET /vehicles/{vin}/runs": VEHICLE,
    "GET /vehicles/{vin}/faults": VEHICLE,
    "GET /vehicles/{vin}/equipment": VEHICLE,
    "SOCKET /live/vehicles/{vin}": VEHICLE,
    "GET /account": LOGGED_IN,
    "POST /account/tokens": LOGGED_IN,
    "POST /account/tokens/{token_id}/revoke": "s--------",
    "GET /exports": EXPORTERS,
    "POST /exports": EXPORTERS,
    "POST /exports/{export_id}/delete": NO_EXPORT,
    "GET /exports/{export_id}/file": NO_EXPORT,
    "GET /ota/tasks": EMPLOYEES,
    "GET /ota/tasks/{task_id}": PROJECT,
    "GET /ota/tasks/{task_id}/result.csv": PROJECT,
    # A project out of scope is no choice of the form.
    "GET /ota/tasks/new": MAKERS,
    "POST /ota/tasks/new": PROJECT_MAKERS,
    "GET /ota/tasks/{task_id}/edit": PROJECT_MAKERS,
    "POST /ota/tasks/{task_id}/edit": PROJECT_MAKERS,
    # A wrong code is a refusal, too.
    "POST /ota/tasks/{task_id}/approve": "sfffff-ff",
    "POST /ota/tasks/{task_id}/new-code": "sf++++-ff",
    "POST /ota/tasks/{task_id}/cancel": PROJECT_ENDERS,
    "POST /ota/tasks/{task_id}/end": PROJECT_MAKERS,
    "POST /ota/tasks/{task_id}/retry": PROJECT_MAKERS,
    "SOCKET /live/ota/tasks/{task_id}": "s+++++---",
    "GET /releases": EMPLOYEES,
    "POST /releases": MAKERS,
    "GET /projects": EMPLOYEES,
    "POST /projects": ADMINISTRATORS,
    "GET /refusals": "sf+++ffff",
    "GET /manage": "sf+++++ff",
    "GET /manage/accounts": ADMINISTRATORS,
    "GET /manage/new-account": ADMINISTRATORS,
    "POST /manage/new-account": ADMINISTRATORS,
    "GET /manage/accounts/{name}": ADMINISTRATORS,
    "POST /manage/accounts/{name}": ADMINISTRATORS,
    "POST /manage/accounts/{name}/disable": ADMINISTRATORS,
    "POST /manage/accounts/{name}/enable": ADMINISTRATORS,
    "POST /manage/accounts/{name}/reset": ADMINISTRATORS,
    "POST /manage/accounts/{name}/end-sessions": ADMINISTRATORS,
    "GET /manage/customers": ADMINISTRATORS,
    "POST /manage/customers": ADMINISTRATORS,
    "POST /manage/customers/vehicles": ADMINISTRATORS,
    # For a project out of scope it is refused, in the words for a project that is not there.
    "GET /manage/vehicles": MAKERS,
    "POST /manage/vehicles": MAKERS,
    "GET /manage/vehicle": MAKERS,
    "GET /manage/vehicles/{vin}": PROJECT_MAKERS,
    "POST /manage/vehicles/{vin}/equipment": PROJECT_MAKERS,
    "POST /manage/vehicles/{vin}/project": PROJECT_MAKERS,
    "POST /manage/vehicles/{vin}/customer": ADMINISTRATORS,
    "POST /manage/vehicles/{vin}/remove": ADMINISTRATORS,
    "GET /manage/audit": "sf+f+ffff",
    # -- the API
    f"POST {API}/login": OPEN,
    f"POST {API}/logout": LOGGED_IN,
    f"GET {API}/me": LOGGED_IN,
    f"POST {API}/me/password": LOGGED_IN,
    f"GET {API}/me/sessions": LOGGED_IN,
    f"DELETE {API}/me/sessions/{{session_id}}": "s--------",
    f"GET {API}/me/tokens": LOGGED_IN,
    f"POST {API}/me/tokens": LOGGED_IN,
    f"DELETE {API}/me/tokens/{{token_id}}": "s--------",
    f"GET {API}/accounts/{{name}}/tokens": ADMINISTRATORS,
    f"DELETE {API}/accounts/{{name}}/tokens/{{token_id}}": "sfff-ffff",
    f"GET {API}/accounts": ADMINISTRATORS,
    f"POST {API}/accounts": ADMINISTRATORS,
    f"GET {API}/accounts/{{name}}": ADMINISTRATORS,
    f"PATCH {API}/accounts/{{name}}": ADMINISTRATORS,
    f"POST {API}/accounts/{{name}}/disable": ADMINISTRATORS,
    f"POST {API}/accounts/{{name}}/enable": ADMINISTRATORS,
    f"POST {API}/accounts/{{name}}/reset": ADMINISTRATORS,
    f"GET {API}/accounts/{{name}}/sessions": ADMINISTRATORS,
    f"DELETE {API}/accounts/{{name}}/sessions": ADMINISTRATORS,
    f"DELETE {API}/accounts/{{name}}/sessions/{{session_id}}": "sfff-ffff",
    f"GET {API}/customers": ADMINISTRATORS,
    f"POST {API}/customers": ADMINISTRATORS,
    f"POST {API}/customers/{{name}}/vehicles": ADMINISTRATORS,
    f"GET {API}/audit": "sf+f+ffff",
    f"GET {API}/counters": "sf+f+ffff",
    f"GET {API}/clock": LOGGED_IN,
    f"POST {API}/clock/accept": "sff++ffff",
    f"GET {API}/vehicles": LOGGED_IN,
    f"GET {API}/overview": LOGGED_IN,
    f"GET {API}/overview/map": LOGGED_IN,
    f"POST {API}/vehicles": PROJECT_MAKERS,
    f"POST {API}/vehicles/import": MAKERS,
    f"GET {API}/vehicles/{{vin}}": VEHICLE,
    f"PUT {API}/vehicles/{{vin}}/unit": PROJECT_MAKERS,
    f"PUT {API}/vehicles/{{vin}}/customer": ADMINISTRATORS,
    f"PUT {API}/vehicles/{{vin}}/equipment": PROJECT_MAKERS,
    f"PUT {API}/vehicles/{{vin}}/project": PROJECT_MAKERS,
    f"DELETE {API}/vehicles/{{vin}}": ADMINISTRATORS,
    f"GET {API}/vehicles/{{vin}}/state": VEHICLE,
    f"GET {API}/vehicles/{{vin}}/reports": VEHICLE,
    f"GET {API}/vehicles/{{vin}}/events": VEHICLE,
    f"GET {API}/vehicles/{{vin}}/records": VEHICLE,
    f"GET {API}/vehicles/{{vin}}/upgrade-history": VEHICLE,
    f"GET {API}/vehicles/{{vin}}/runs": VEHICLE,
    f"GET {API}/vehicles/{{vin}}/faults": VEHICLE,
    f"GET {API}/vehicles/{{vin}}/track": VEHICLE,
    f"GET {API}/vehicles/{{vin}}/configuration": VEHICLE,
    f"GET {API}/vehicles/{{vin}}/configuration/changes": VEHICLE,
    f"GET {API}/vehicles/{{vin}}/refusals": VEHICLE,
    f"GET {API}/equipment-changes": LOGGED_IN,
    f"GET {API}/exports": EXPORTERS,
    f"POST {API}/exports": EXPORTERS,
    f"GET {API}/exports/{{export_id}}": NO_EXPORT,
    f"DELETE {API}/exports/{{export_id}}": NO_EXPORT,
    f"GET {API}/exports/{{export_id}}/file": NO_EXPORT,
    f"GET {API}/releases": EMPLOYEES,
    f"POST {API}/releases": MAKERS,
    f"GET {API}/releases/{{release_id}}": EMPLOYEES,
    f"GET {API}/projects": EMPLOYEES,
    f"GET {API}/projects/{{name}}": PROJECT,
    f"PUT {API}/projects/{{name}}": ADMINISTRATORS,
    f"GET {API}/tasks": EMPLOYEES,
    f"POST {API}/tasks": PROJECT_MAKERS,
    f"POST {API}/tasks/preview": PROJECT_MAKERS,
    f"GET {API}/tasks/{{task_id}}": PROJECT,
    f"GET {API}/tasks/{{task_id}}/result": PROJECT,
    f"PATCH {API}/tasks/{{task_id}}": PROJECT_MAKERS,
    f"POST {API}/tasks/{{task_id}}/code": PROJECT_ENDERS,
    f"POST {API}/tasks/{{task_id}}/approve": "sf+fff-ff",
    f"POST {API}/tasks/{{task_id}}/cancel": PROJECT_ENDERS,
    f"POST {API}/tasks/{{task_id}}/end": PROJECT_MAKERS,
    f"POST {API}/tasks/{{task_id}}/retry": PROJECT_MAKERS,
    f"GET {API}/refusals": "sf+++ffff",
    f"GET {API}/refusals/totals": "sf+++ffff",
}

VIN, OTHER_VIN, NEW_VIN = "TESTVEHICLE000001", "TESTVEHICLE000009", "TESTVEHICLE000007"
FIELDS = {
    "/vehicles/register": {"vin": NEW_VIN, "project": "Harbour", "series": "F7", "hwid": ""},
    "/projects": {"name": "Harbour", "audit_mailbox": "audit@example.org", "approval": "audit mailbox"},
    "/manage/new-account": {
        "name": "nora",
        "email": "n@example.org",
        "password": "a long password",
        "role": "viewer",
        "sees": "everything",
    },
    "/manage/accounts/dora": {"role": "viewer", "sees": "everything"},
    "/manage/accounts/dora/reset": {"password": "another long password"},
    "/manage/customers": {"name": "Quays"},
    f"/manage/vehicles/{VIN}/equipment": {"plate": "HH-AB 2"},
    f"/manage/vehicles/{VIN}/project": {"project": "Harbour"},
    f"/manage/vehicles/{VIN}/customer": {"customer": "Port"},
    f"/manage/vehicles/{VIN}/remove": {"typed": "no"},
    "/manage/customers/vehicles": {"customer": "Port", "vins": VIN},
    "/ota/tasks/new": {"project": "Harbour", "version": "2.1.0", "way": "vins", "vins": VIN, "act": "preview"},
    "/ota/tasks/1/edit": {"reason": "r", "auditor": "alan", "way": "keep", "act": "preview"},
    "/ota/tasks/1/approve": {"code": "000000"},
    "/ota/tasks/1/end": {"vin": VIN, "reason": "stuck"},
    "/ota/tasks/1/retry": {"vin": VIN, "reason": "again"},
}
RANGE = {"format": "csv", "since": "2026-11-22T00:00:00Z", "until": "2026-11-23T00:00:00Z"}
BODIES = {
    f"{API}/me/tokens": {"name": "tests", "permissions": ["vehicle.read"]},
    f"{API}/exports": RANGE,
    f"{API}/me/password": {"old": "wrong", "new": "another long password"},
    f"{API}/accounts": {"name": "new", "email": "n@example.org", "role": "viewer", "password": "a long password"},
    f"{API}/accounts/dora": {"role": "viewer"},
    f"{API}/accounts/dora/reset": {"password": "another long password"},
    f"{API}/customers": {"name": "Bridges"},
    f"{API}/customers/Port/vehicles": {"vins": [VIN]},
    f"{API}/vehicles": {"vin": NEW_VIN, "series": "F7", "project": "Harbour"},
    f"{API}/vehicles/{VIN}/unit": {"hwid": "M-000001", "device_public_key": "A" * 43 + "="},
    f"{API}/vehicles/{VIN}/customer": {"customer": "Port"},
    f"{API}/vehicles/{VIN}/equipment": {"plate": "HH-AB 1"},
    f"{API}/vehicles/{VIN}/project": {"project": "Harbour"},
    f"{API}/projects/Harbour": {"audit_mailbox": ""},
    f"{API}/tasks": {
        "project": "Harbour",
        "reason": "r",
        "software_version": "2.1.0",
        "vins": [VIN],
        "auditor": "alan",
    },
    f"{API}/tasks/preview": {"project": "Harbour", "software_version": "2.1.0", "vins": [VIN]},
    f"{API}/tasks/1": {"reason": "other words"},
    f"{API}/tasks/1/approve": {"code": "000000"},
    f"{API}/tasks/1/cancel": {},
    f"{API}/tasks/1/end": {"reason": "stuck", "vins": [VIN]},
    f"{API}/tasks/1/retry": {"reason": "again", "vins": [VIN]},
}


def place(template):
    """The address of something of Harbour."""
    names = {
        "vin": VIN,
        "export_id": "1",
        "task_id": "1",
        "release_id": "1",
        "session_id": "0" * 16,
        "token_id": "0" * 16,
        "rest:path": "order",
    }
    names["name"] = next((b for a, b in (("/accounts", "dora"), ("/customers", "Port")) if a in template), "Harbour")
    for name, value in names.items():
        template = template.replace(f"{{{name}}}", value)
    return template


@pytest.fixture
def harbour(world):
    """A platform with two projects, two customers, a task, and somebody of each kind."""
    services, adam, now = world.services, world.people["adam"], world.now
    for number, project in ((1, "Harbour"), (2, "Harbour"), (9, "Airport")):
        world.register(number, project=project)
        world.identify(number)
    # An equipment change of each.
    for number in (1, 9):
        facts = world.facts(number)
        changed = [*facts[:-1], type(facts[-1])(**{**_values(facts[-1]), "hwid": f"S-NEW-{number}"})]
        services.equipment.identify(world.vin(number), changed, now)
    world.upload()
    world.create(1)
    for customer, number in (("Port", 1), ("Rails", 9)):
        services.customers.create(customer, by=adam, now=now)
        services.customers.assign(customer, [world.vin(number)], by=adam, now=now)
    for name, role, scope in (
        ("olga", Role.OPERATOR, Scope(kind=ScopeKind.PROJECTS, projects=("Harbour",))),
        ("omar", Role.OPERATOR, Scope(kind=ScopeKind.PROJECTS, projects=("Airport",))),
        ("cleo", Role.CUSTOMER, Scope(kind=ScopeKind.CUSTOMER, customer="Port")),
        ("otto", Role.CUSTOMER, Scope(kind=ScopeKind.CUSTOMER, customer="Rails")),
        ("dora", Role.VIEWER, Scope()),
    ):
        services.accounts.create(
            name=name, email=f"{name}@example.org", role=role, password=PASSWORD, scope=scope, now=now, by=adam
        )
    return world


@pytest.fixture
def guest(harbour):
    with TestClient(build_app(harbour.cloud), base_url="http://cloud.example:8080", follow_redirects=False) as client:
        yield client


def _values(fact):
    return {name: getattr(fact, name) for name in type(fact).__dataclass_fields__}


# What is registered from a file.
FILES = {
    path: {"file": ("fleet.csv", f"vin,series,project,hwid\n{NEW_VIN},F7,Harbour,\n")}
    for path in ("/manage/vehicles", f"{API}/vehicles/import")
}


class Asking:
    """Asks as one person after another; who was logged out logs in again."""

    def __init__(self, world, client):
        self.world = world
        self.client = client
        self.logins = {}

    def login(self, name):
        login = self.logins.get(name)
        if login is None:
            login = self.world.services.accounts.log_in(name=name, password=PASSWORD, now=self.world.now)
            self.logins[name] = login
        return login

    def ask(self, name, method, template):
        """What comes of it, as a letter of the table, and the answer."""
        path = place(template)
        self.client.cookies.clear()
        options = {}
        is_page = not path.startswith(("/api", "/device", "/metrics", "/healthz"))
        if name:
            login = self.login(name)
            if is_page:
                self.client.cookies.set("bmsota", login.token)
            else:
                options["headers"] = {"Authorization": f"Bearer {login.token}"}
        if method == "SOCKET":
            return self.listen(path)
        if method not in ("GET", "DELETE"):
            csrf = {"csrf": self.login(name).csrf_token} if name else {}
            options |= {"data": FIELDS.get(path, {}) | csrf} if is_page else {"json": BODIES.get(path)}
            if path in FILES:
                options = {name: value for name, value in options.items() if name != "json"} | {"files": FILES[path]}
        answer = self.client.request("GET" if method == "*" else method, path, **options)
        if path.endswith("/logout"):
            self.logins.pop(name, None)
        return self.letter(answer, is_page=is_page), answer.text

    @staticmethod
    def letter(answer, *, is_page):
        if is_page:
            to_login = answer.status_code == 303 and answer.headers["location"].startswith("/login")
            letters = {403: "f", 404: "-"}
            return "s" if to_login else letters.get(answer.status_code, "+")
        if answer.headers.get("content-type", "").endswith("cbor"):  # the units' own door
            return "s" if answer.status_code == 401 else "+"
        if answer.status_code in (401, 403, 404):
            error = answer.json().get("error", "no-session") if answer.text else "no-session"
            return {"no-session": "s", "not-allowed": "f"}.get(error, "-" if error.startswith("no-such-") else "+")
        return "+"

    def listen(self, path):
        with self.client.websocket_connect(path) as socket:
            try:
                return "+", socket.receive_text()
            except WebSocketDisconnect as ended:
                return {4401: "s", 4404: "-"}[ended.code], ""


def routes_of(app):
    """Every route as the keys of the table; what is mounted is files."""
    found = set()
    for route in walk(app.routes):
        if isinstance(route, WebSocketRoute) or type(route).__name__ == "APIWebSocketRoute":
            found.add(f"SOCKET {route.path}")
        elif route.path.startswith("/device/"):
            found.add(f"* {route.path}")
        else:
            found |= {f"{method} {route.path}" for method in route.methods - {"HEAD"}}
    return found


def walk(routes):
    for route in routes:
        if isinstance(route, Mount):
            assert route.path == "/static"
        elif (included := getattr(route, "original_router", None)) is not None:
            yield from walk(included.routes)
        else:
            yield route


@pytest.mark.slow
def test_every_route_as_everybody(harbour, guest):
    """Who may gets in; for the others it is forbidden or not there; and nobody is shown a vehicle or project that is not for him."""
    asking = Asking(harbour, guest)
    assert routes_of(asking.client.app) == ROUTES.keys()
    wrong, shown = [], []
    # A task that is cancelled refuses everybody in the same words.
    for key, expected in sorted(ROUTES.items(), key=lambda item: "cancel" in item[0]):
        method, template = key.split()
        # Those who are let in change things; who is not is asked before.
        for name in sorted(EVERYBODY, key=lambda each: expected[EVERYBODY.index(each)] == "+"):
            letter, text = asking.ask(name, method, template)
            if letter != expected[EVERYBODY.index(name)]:
                wrong.append(
                    f"{key} as {name or 'stranger'}: expected {expected[EVERYBODY.index(name)]}, got {letter}: {text[:200]}"
                )
            if letter == "+" and method in ("GET", "SOCKET") and "{" not in template:
                hidden = (
                    (VIN, "Harbour")
                    if name in ELSEWHERE
                    else (OTHER_VIN, "Airport")
                    if name in ("olga", "cleo")
                    else ()
                )
                shown += [f"{key} shows {word} to {name}" for word in hidden if word in text]
    assert not wrong + shown, "\n".join(wrong + shown)


# A token of the administrator that may only read vehicles, and one that may do all of it.
TOKEN_KEEPS_OUT = {
    "POST /logout",
    "POST /me/password",
    "DELETE /me/sessions/{session_id}",
    "POST /me/tokens",
    "DELETE /me/tokens/{token_id}",
    "DELETE /accounts/{name}/sessions",
    "DELETE /accounts/{name}/sessions/{session_id}",
    "DELETE /accounts/{name}/tokens/{token_id}",
}
READS_VEHICLES = {
    "GET /me",
    "GET /me/sessions",
    "GET /me/tokens",
    "GET /clock",
    "GET /vehicles",
    "GET /vehicles/{vin}",
    "GET /vehicles/{vin}/state",
    "GET /vehicles/{vin}/reports",
    "GET /vehicles/{vin}/records",
    "GET /vehicles/{vin}/events",
    "GET /vehicles/{vin}/upgrade-history",
    "GET /vehicles/{vin}/refusals",
    "GET /equipment-changes",
    "GET /overview",
    "GET /overview/map",
    "GET /vehicles/{vin}/runs",
    "GET /vehicles/{vin}/faults",
    "GET /vehicles/{vin}/track",
    "GET /vehicles/{vin}/configuration",
    "GET /vehicles/{vin}/configuration/changes",
}


@pytest.mark.slow
def test_every_route_of_the_api_by_a_token(harbour, guest):
    """A token opens what both it and its owner may, never what keeps an intruder in, and no page."""
    adam, now = harbour.people["adam"], harbour.now
    create = harbour.services.tokens.create
    tokens = {
        "small": create(name="small", permissions=["vehicle.read"], days=1, by=adam, now=now).secret,
        "large": create(name="large", permissions=sorted(adam.permissions), days=1, by=adam, now=now).secret,
    }
    asking = Asking(harbour, guest)
    wrong = []
    for key, letters in sorted(ROUTES.items(), key=lambda item: "cancel" in item[0]):
        method, template = key.split()
        if method == "SOCKET":
            continue
        path = place(template)
        if not path.startswith(API):
            if letters != OPEN and not path.startswith(("/device", "/metrics", "/logout")):
                guest.cookies.clear()
                guest.cookies.set("bmsota", tokens["large"])
                answer = guest.request(method, path)
                if asking.letter(answer, is_page=True) != "s":
                    wrong.append(f"{key} takes a token as a cookie: {answer.status_code}")
            continue
        if letters == OPEN:
            continue
        guest.cookies.clear()
        name = f"{method} {template.removeprefix(API)}"
        as_adam = letters[EVERYBODY.index("adam")]
        for size, secret in tokens.items():
            options = {"headers": {"Authorization": f"Bearer {secret}"}}
            if method not in ("GET", "DELETE"):
                options |= {"files": FILES[path]} if path in FILES else {"json": BODIES.get(path)}
            answer = guest.request(method, path, **options)
            letter = asking.letter(answer, is_page=False)
            if name == "POST /logout":
                expected = "+"
            elif name in TOKEN_KEEPS_OUT:
                expected = "f"
            elif size == "small":
                expected = "+" if name in READS_VEHICLES else "f"
            else:
                expected = as_adam
            if letter != expected:
                wrong.append(f"{key} by the {size} token: expected {expected}, got {letter}: {answer.text[:150]}")
    assert not wrong, "\n".join(wrong)
