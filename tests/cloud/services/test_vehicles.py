"""Registration, lists, one vehicle."""

from dataclasses import replace

import pytest
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, LoginError, NotAllowedError, NotFoundError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services import ReportVerdict

from bmsota.ota import device_api


@pytest.mark.parametrize(
    ("change", "code"),
    [
        ({"vin": "SHORT"}, "bad-vin"),
        ({"vin": "lowercase00000001"}, "bad-vin"),
        ({"hwid": ""}, "bad-hwid"),
        ({"hwid": "x" * 25}, "bad-hwid"),
        ({"hwid": "with space"}, "bad-hwid"),
        ({"series": ""}, "bad-series"),
        ({"series": "F" * 33}, "bad-series"),
        ({"project": "a\nb"}, "bad-project"),
        ({"device_public_key": b"x" * 31}, "bad-key"),
    ],
)
def test_a_registration_that_can_not_be_used_is_refused(world, change, code):
    asked = {
        "vin": world.vin(1),
        "series": "F7",
        "project": "Harbour",
        "hwid": "M1",
        "device_public_key": b"x" * 32,
        "now": world.now,
    }
    with pytest.raises(InvalidInputError) as caught:
        world.services.vehicles.register(**asked | change)
    assert caught.value.code == code


def test_vin_and_hwid_are_registered_once(world):
    world.register(1)
    asked = {"series": "F7", "project": "p", "device_public_key": b"x" * 32, "now": world.now}
    for vin, hwid in ((world.vin(1), "M-other"), (world.vin(2), "M-000001")):
        with pytest.raises(ConflictError):
            world.services.vehicles.register(vin=vin, hwid=hwid, **asked)


def test_a_viewer_registers_nothing(world):
    with pytest.raises(NotAllowedError):
        world.services.vehicles.register(
            vin=world.vin(1),
            series="F7",
            project="p",
            hwid="M1",
            device_public_key=b"x" * 32,
            now=world.now,
            by=world.people["vera"],
        )


def test_the_list_is_filtered_paged_and_shows_the_newest_state(world):
    for number in range(1, 5):
        world.register(number, series="E7" if number == 4 else "F7", project="Harbour" if number % 2 else "Airport")
    world.identify(1)
    world.services.ingest.log_in(world.vin(1), serial=1, now=world.now)
    vehicles, vera = world.services.vehicles, world.people["vera"]
    page = vehicles.rows(PageRequest(1, 3), by=vera)
    assert ([row.vin for row in page.items], page.total, page.pages) == ([world.vin(n) for n in (1, 2, 3)], 4, 2)
    first = page.items[0]
    assert (first.is_online, first.last_seen_at, first.master_version, first.slave_versions, first.slave_count) == (
        True,
        world.now,
        "2.0.0",
        ("2.0.0",),
        2,
    )
    assert [row.vin for row in vehicles.rows(PageRequest(), by=vera, project="Airport").items] == [
        world.vin(2),
        world.vin(4),
    ]
    for text, numbers in (("e7", [4]), ("m-000002", [2]), ("VEHICLE000003", [3]), ("%", []), ("_", [])):
        assert [row.vin for row in vehicles.rows(PageRequest(), by=vera, text=text).items] == [
            world.vin(n) for n in numbers
        ]
    assert vehicles.projects(by=vera) == ("Airport", "Harbour")


def test_there_is_no_such_vehicle(world):
    with pytest.raises(NotFoundError):
        world.services.vehicles.detail("NOSUCHVEHICLE0001", by=world.people["vera"])


def plain(world, number, **fields):
    return world.services.vehicles.register(
        **{"vin": world.vin(number), "series": "F7", "project": "Harbour", "now": world.now} | fields
    )


def test_plain_terminals_are_registered_without_key_and_hwid(world):
    """Several: nothing that they do not have collides."""
    for number in (1, 2):
        assert not plain(world, number).is_upgradable
    assert not plain(world, 3, hwid="M3").is_upgradable
    world.register(4)
    rows = world.services.vehicles.rows(PageRequest(), by=world.people["vera"]).items
    assert [(row.hwid, row.is_upgradable) for row in rows] == [
        ("", False),
        ("", False),
        ("M3", False),
        ("M-000004", True),
    ]
    detail = world.services.vehicles.detail(world.vin(1), by=world.people["vera"])
    assert (detail.vehicle.hwid, detail.vehicle.device_public_key) == ("", None)
    with world.cloud.store.reading() as work:
        assert work.vehicles.by_hwid("") is None
    with pytest.raises(ConflictError):
        plain(world, 5, hwid="M3")
    with pytest.raises(InvalidInputError):
        plain(world, 5, device_public_key=b"x" * 32)


def test_a_plain_terminal_is_monitored(world):
    vin = plain(world, 1).vin
    assert world.services.ingest.log_in(vin, serial=1, now=world.now)
    detail = world.services.vehicles.detail(vin, by=world.people["vera"])
    assert detail.state.is_online


def test_a_plain_terminal_is_no_part_of_a_task(world):
    """It is said which one and why; the others are not in its way."""
    plain(world, 1)
    world.register(2)
    world.upload()
    with pytest.raises(
        InvalidInputError, match="TESTVEHICLE000001 is registered without a device key: it can be monitored"
    ):
        world.create(1, 2)
    assert world.create(2).id


def test_a_plain_terminal_cannot_open_a_device_session(world):
    plain(world, 1, hwid="M1")
    challenge = world.services.device.challenge("M1", world.now)
    proof = device_api.SessionRequest("M1", challenge.challenge, "http://cloud.example:8080", b"x" * 64)
    # The same words as for a wrong key: a stranger is not told which vehicles have none.
    with pytest.raises(LoginError, match="does not match the registered key"):
        world.services.device.open_session(proof, world.now)


def test_a_signed_report_of_a_plain_terminal_is_refused(world):
    task = world.approved(1)
    with world.cloud.store.transaction() as work:
        work.vehicles.save(replace(work.vehicles.get(world.vin(1)), device_public_key=None))
    document = world.report(1, f"OTA-{task.id}-1")
    assert world.services.upgrades.receive_report(world.vin(1), document, world.now) is ReportVerdict.REFUSED
    assert world.confirm(1) is ReportVerdict.REFUSED


def test_a_plain_terminal_without_a_hwid_calls_its_master_what_it_likes(world):
    plain(world, 1)
    world.register(2)
    for number in (1, 2):
        world.services.equipment.identify(world.vin(number), world.facts(3), world.now)
    world.services.link_watch.flush()
    entries = world.services.audit.page(PageRequest(1, 500), by=world.people["anna"]).items
    assert [entry.subject for entry in entries if "calls its master" in entry.detail] == [f"vehicle {world.vin(2)}"]


def test_a_unit_is_replaced_by_those_who_may_and_with_what_can_be_used(world):
    """Nothing is changed by a refusal; the HWID of another vehicle's unit is none for this one."""
    first, second = world.register(1), world.register(2)
    key = world.device_key(second).public_key().public_bytes_raw()
    good = {"vin": first, "hwid": "M-7", "device_public_key": key, "now": world.now, "by": world.people["carol"]}
    for change, kind in (
        ({"by": world.people["vera"]}, NotAllowedError),
        ({"vin": "NOSUCHVEHICLE0001"}, NotFoundError),
        ({"hwid": "M-000002"}, ConflictError),
        ({"hwid": ""}, InvalidInputError),
        ({"device_public_key": b"short"}, InvalidInputError),
    ):
        with pytest.raises(kind):
            world.services.vehicles.replace_unit(**{**good, **change})
    assert world.services.vehicles.detail(first, by=world.people["vera"]).vehicle.hwid == "M-000001"
    world.services.vehicles.replace_unit(**good)
    vehicle = world.services.vehicles.detail(first, by=world.people["vera"]).vehicle
    assert (vehicle.hwid, vehicle.device_public_key) == ("M-7", key)


def test_a_unit_is_replaced_over_rest(world, client, bearer, base64_key):
    vin = world.register(1)
    body = {"hwid": "M-7", "device_public_key": base64_key(world, world.vin(2))}
    answer = client.put(f"/api/v1/vehicles/{vin}/unit", json=body, headers=bearer("carol"))
    assert (answer.status_code, answer.json()["hwid"]) == (200, "M-7")
    body["device_public_key"] = "!"
    answer = client.put(f"/api/v1/vehicles/{vin}/unit", json=body, headers=bearer("carol"))
    assert (answer.status_code, answer.json()["error"]) == (422, "bad-key")
