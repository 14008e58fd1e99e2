"""Whatever can be asked for is answered the same on SQLite and on PostgreSQL."""

import re

import pytest
from bmsota_cloud.domain.vehicles import EquipmentData
from bmsota_cloud.services import stored_frame
from postgresql import some_database

from bmsota.gbt32960 import AlarmFlag, Alarms, Command, Frame, Position, Report, VehicleLogin, beijing_time, encode

PASSWORD = "correct horse battery"
STRANGER = "LSTRANGER00000001"
VEHICLE = "TESTVEHICLE000001"
PAGES = (
    *("", "?q=TEST", "?q=%25_", "?online=yes&project=Harbour", "?online=no&series=F7&page=1", "?page=99999", "?q=%00"),
    *("?project=%27%22", f"/{VEHICLE}", f"/{VEHICLE}/upgrades"),
)
TASKS = ("", "?project=x", "/1", "/1?status=Approved", "/1?status=nonsense", "/2", "/99999999999999999999")
PATHS = [
    *(f"/vehicles{rest}" for rest in PAGES),
    *(f"/ota/tasks{rest}" for rest in TASKS),
    *(f"/refusals{rest}" for rest in ("", "?q=%25", "?cause=login-unknown-vin")),
    *(f"/releases{rest}" for rest in ("", "?series=F7", "?page=99")),
    *(
        f"/ota/tasks/new?project=Harbour&version=2.1.0{rest}"
        for rest in ("", "&online=yes&runs=2.0.0", "&q=%25&customer=x")
    ),
    *(
        f"/{rest}"
        for rest in (
            "",
            "?state=faults",
            "?state=upgrading&q=hh",
            "?q=%25_",
            "?q=%00",
            "?city=%E4%B8%8A%E6%B5%B7",
            "?customer=x",
        )
    ),
    *(f"/?sort={sort}" for sort in ("hwid", "plate", "battery-number", "city", "soc", "alarm", "last-seen")),
    *(f"/map/vehicles{rest}" for rest in ("", "?state=offline", "?grouped=yes&zoom=9", "?bounds=x")),
    "/projects",
    "/nothing",
]
ROUTES = [
    *(f"/vehicles/{VEHICLE}{rest}" for rest in ("", "/state", "/upgrade-history", "/refusals")),
    *(f"/vehicles/{VEHICLE}/reports{rest}" for rest in ("", "?since=2026-01-01T00:00:00Z&size=2")),
    f"/vehicles/{VEHICLE}/reports?since=0001-01-01T00:00:00Z&until=9999-12-31T23:59:59Z",
    *(f"/vehicles/{VEHICLE}/events{rest}" for rest in ("", "?kind=alarm")),
    *(
        "/overview",
        "/overview?state=offline&sort=alarm&text=hh-2",
        "/overview/map",
        "/overview/map?clusters_from=1&zoom=5",
    ),
    *("/vehicles", "/vehicles?page=1000000", "/tasks", "/tasks/1", "/releases", "/releases/1", "/refusals"),
    *("/refusals/totals", "/audit", "/accounts", "/projects", "/equipment-changes", "/counters", "/clock", "/me"),
]


def lived(world):
    """Three vehicles, two of which have reported; a running task and one that waits; a stranger."""
    for number in (1, 2, 3):
        world.register(number)
        world.identify(number)
        world.confirm(number)
    for number, city in ((1, "Hamburg"), (2, "上海")):
        data = EquipmentData(plate=f"HH-{number}", battery_number=f"b-{number}", city=city)
        world.services.vehicles.set_equipment(world.vin(number), data, now=world.now)
    world.upload()
    world.approve(world.create(1, 2))
    world.create(3)
    for number in (1, 2):
        for step in range(5):
            world.wait(seconds=30)
            alarms = Alarms(step % 3, AlarmFlag(step % 4), tuple(range(step)), (), (), ())
            place = Position(step != 4, 100.0 + step, 30.0 + number)
            report = Report(beijing_time(world.now_ns), (alarms, place))
            raw = encode(Frame(command=Command.REALTIME_REPORT, vin=world.vin(number), message=report))
            at_s = int(world.now.timestamp())
            world.services.ingest.accept(
                stored_frame(world.vin(number), raw, reported_at_s=at_s, arrived_at_ns=world.now_ns, is_backfill=False)
            )
    link = world.cloud.open_link()
    link.connected(world.now_ns)
    login = VehicleLogin(time=beijing_time(world.now_ns), serial=1, iccid="8" * 20)
    link.receive_data(
        b"#" * 100 + encode(Frame(command=Command.VEHICLE_LOGIN, vin=STRANGER, message=login)), world.now_ns
    )
    link.disconnected(world.now_ns)
    world.services.refusals.flush()
    return world


def asked(client, bearer):
    """Every page of an administrator, and every route for each role: status and text, without what is drawn."""
    found = {}
    client.post("/login", data={"name": "adam", "password": PASSWORD, "next": "/"})
    for path in PATHS:
        answer = client.get(path, headers={"Accept": "text/html"})
        found[path] = answer.status_code, re.sub(r"[A-Za-z0-9_-]{40,}", "", answer.text)
    client.cookies.clear()
    for name in ("carol", "adam", "vera"):
        headers = bearer(name)
        for path in ROUTES:
            answer = client.get(f"/api/v1{path}", headers=headers)
            found[f"{name} {path}"] = answer.status_code, answer.text
    return found


@pytest.mark.slow
def test_pages_and_routes_are_the_same_on_both_databases(new_world, open_client):
    expected = asked(*open_client(lived(new_world())))
    assert sum(status == 200 for status, _ in expected.values()) > 95
    with some_database() as url, some_database() as telemetry_url:
        world = lived(new_world(database_url=url, telemetry_url=telemetry_url))
        found = asked(*open_client(world))
        world.cloud.close()
    assert {path: answer for path, answer in found.items() if answer != expected[path]} == {}
