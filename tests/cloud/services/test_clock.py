"""An operator decides that the clock is right, and the audit log says who."""

import pytest
from bmsota_cloud.domain.clock_guard import ClockGuard
from bmsota_cloud.domain.errors import NotAllowedError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services import stored_frame

from bmsota.gbt32960 import Alarms, Command, Frame, Report, encode


@pytest.fixture
def guard():
    made = ClockGuard()
    made.read(1_795_334_400 * 10**9, 0)
    return made


def test_an_operator_accepts_the_clock(new_world, guard):
    world = new_world(clock_guard=guard)
    clock, people = world.services.clock, world.people
    with pytest.raises(NotAllowedError):
        clock.accept(by=people["vera"], now=world.now)
    assert clock.is_waiting
    assert clock.status(by=people["vera"]).wait_left_s == 600
    assert not clock.accept(by=people["carol"], now=world.now).is_waiting
    lines = world.services.audit.page(PageRequest(), by=people["adam"], subject="clock").items
    assert [(line.who, line.action, line.outcome) for line in lines] == [
        ("carol", "clock.accept", "done"),
        ("vera", "clock.accept", "not-allowed"),
    ]
    assert lines[0].detail == "after a start; the clock is 0 s ahead of the platform's time"


def test_reports_of_three_vehicles_in_real_time_vouch_for_the_clock(new_world, guard):
    """Backfill says what time it was, not what time it is."""
    world = new_world(clock_guard=guard)

    def put(number, command):
        vin = world.vin(number)
        raw = encode(Frame(command=command, vin=vin, message=Report(world.now, (Alarms(0),))))
        world.services.ingest.accept(
            stored_frame(
                vin,
                raw,
                reported_at_s=int(world.now.timestamp()),
                arrived_at_ns=world.now_ns,
                is_backfill=command == Command.BACKFILL_REPORT,
            )
        )

    for number in range(1, 4):
        put(number, Command.BACKFILL_REPORT)
    assert world.services.clock.is_waiting
    for number in (1, 2, 3):
        assert world.services.clock.is_waiting
        world.wait(seconds=25)
        put(number, Command.REALTIME_REPORT)
    assert not world.services.clock.is_waiting
