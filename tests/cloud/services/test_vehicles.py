"""Registration, lists, one vehicle."""

import pytest
from bmsota_cloud.domain.errors import ConflictError, InvalidInputError, NotAllowedError, NotFoundError
from bmsota_cloud.domain.paging import PageRequest


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
