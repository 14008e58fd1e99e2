"""The table of a vehicle's reports: its values, its gaps, who may look."""

from datetime import UTC, datetime, timedelta

import pytest
from bmsota_cloud.domain.errors import InvalidInputError, NotFoundError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services import stored_frame

from bmsota.gbt32960 import (
    CellVoltages2025,
    Command,
    Edition,
    Extremes,
    Frame,
    PackVoltages,
    Report,
    Sentinel,
    UserDefined,
    VehicleData,
    encode,
)

T0 = datetime(2026, 11, 22, 7, 0, tzinfo=UTC)
FIRST = Extremes(1, 17, 3.689, 1, 5, 3.611, 1, 7, 29, 1, 1, 24)


def vehicle_data(soc=50):
    return VehicleData(1, 3, 1, 42.5, 12345.6, 350.2, 31.4, soc, 1, 14, 5000, 0, 0)


@pytest.fixture
def send(world):
    """`send(30, bodies)`: vehicle 1 reports at T0 + 30 s."""

    def send(at_s, *bodies, edition=Edition.GBT2016, backfill=False, arrived_s=None):
        command = Command.BACKFILL_REPORT if backfill else Command.REALTIME_REPORT
        message = Report(T0 + timedelta(seconds=at_s), bodies or (vehicle_data(), FIRST))
        raw = encode(Frame(command=command, vin=world.vin(1), message=message, edition=edition))
        at = int(T0.timestamp())
        arrived_ns = (at + (at_s if arrived_s is None else arrived_s)) * 10**9
        world.services.ingest.accept(
            stored_frame(world.vin(1), raw, reported_at_s=at + at_s, arrived_at_ns=arrived_ns, is_backfill=backfill)
        )

    world.register(1)
    return send


def records(world, request=None, by="vera", **options):
    return world.services.records.page(world.vin(1), request or PageRequest(), by=world.people[by], **options)


def test_the_values_of_a_report(world, send):
    send(0, vehicle_data(soc=Sentinel.INVALID), FIRST)
    (row,) = records(world).items
    assert (row.reported_at, row.is_backfill, row.fault) == (T0, False, "")
    assert (row.soc_pct, row.speed_kmh, row.total_voltage_v, row.total_current_a) == ("invalid", 42.5, 350.2, 31.4)
    assert (row.cell_voltage_max_v, row.cell_voltage_min_v) == (3.689, 3.611)
    assert (row.temperature_max_c, row.temperature_min_c, row.alarm_level) == (29, 24, None)


def test_without_extremes_they_are_those_of_the_cells(world, send):
    """The edition of 2025 has none; a cell without a value is none."""
    cells = (3.3, Sentinel.ABNORMAL, 3.4)
    send(0, CellVoltages2025((PackVoltages(1, 10.0, 0.0, cells),)), edition=Edition.GBT2025)
    (row,) = records(world).items
    assert (row.cell_voltage_max_v, row.cell_voltage_min_v, row.temperature_max_c) == (3.4, 3.3, None)


def test_more_than_three_periods_without_a_report_are_a_gap(world, send):
    for at_s in (0, 90, 181, 211):
        send(at_s)
    assert [row.gap_s for row in records(world).items] == [None, 91, None, None]


def test_a_gap_between_two_pages_is_shown_on_the_first(world, send):
    for at_s in (0, 30, 3630, 3660):
        send(at_s)
    first, second = (records(world, PageRequest(number, 2)) for number in (1, 2))
    assert [row.gap_s for row in first.items] == [None, 3600]
    assert [row.gap_s for row in second.items] == [None, None]
    assert first.total == 4


def test_two_reports_of_one_second_on_two_pages_are_no_gap(world, send):
    for at_s, soc in ((0, 1), (600, 2), (600, 3), (630, 4)):
        send(at_s, vehicle_data(soc))
    assert [row.gap_s for row in records(world, PageRequest(1, 2)).items] == [None, None]
    assert [row.gap_s for row in records(world, PageRequest(2, 2)).items] == [600, None]


def test_a_report_with_a_wrong_clock_stands_where_it_arrived_and_makes_no_gap(world, send):
    send(0)
    send(-800_000_000, arrived_s=30)
    send(60)
    rows = records(world).items
    assert [row.is_time_plausible for row in rows] == [True, False, True]
    assert [row.gap_s for row in rows] == [None, None, None]


def test_a_report_without_values_of_the_standard_is_a_row(world, send):
    send(0, UserDefined(0x85, b"abc"))
    assert records(world).items[0].soc_pct is None


def test_a_range_of_time(world, send):
    for at_s in (0, 30, 60):
        send(at_s)
    found = records(world, since=T0 + timedelta(seconds=30), until=T0 + timedelta(seconds=60))
    assert [row.reported_at for row in found.items] == [T0 + timedelta(seconds=30)]
    with pytest.raises(InvalidInputError, match="the time range is empty"):
        records(world, since=T0, until=T0)


def test_a_vehicle_that_is_not_there(world):
    with pytest.raises(NotFoundError, match="no vehicle TESTVEHICLE000001"):
        records(world)


def test_the_api_gives_the_same(world, send, client, bearer):
    send(0)
    send(600)
    answer = client.get(f"/api/v1/vehicles/{world.vin(1)}/records", params={"size": 1}, headers=bearer("vera"))
    assert answer.status_code == 200, answer.text
    (row,) = answer.json()["items"]
    assert (answer.json()["total"], row["soc_pct"], row["gap_s"]) == (2, 50, 600)
