"""A pack passes its self-test when every slave measures, under the new image."""

from __future__ import annotations

import pytest

from bmsota.master import MeasurementTable, SelfTest

SECOND = 1_000_000_000
NOW = 1_790_000_000 * SECOND


class Desk:
    def __init__(self, world):
        self.slaves = [world.Slave(1), world.Slave(2)]
        self.table = MeasurementTable(world.database("bms_internal"), world.LAYOUT)
        self.failure = ""
        self.test = SelfTest(self.table, look_period_ns=SECOND // 2, check=lambda: self.failure)

    def measure(self, now_ns, *positions):
        for slave in self.slaves:
            if slave.position in positions:
                for frame in slave.measurements():
                    self.table.receive(frame, now_ns)


@pytest.fixture
def desk(world):
    return Desk(world)


def test_nothing_is_looked_at_before_it_begins(desk):
    assert desk.test.look(NOW) is None
    assert desk.test.next_timeout() is None


def test_it_passes_when_every_slave_has_sent_since_it_began(desk):
    desk.measure(NOW - 1, 1, 2)
    desk.test.begin(NOW)
    assert desk.test.next_timeout() == NOW + SECOND // 2
    assert desk.test.look(NOW + SECOND) is None, "older values prove nothing"
    assert desk.test.next_timeout() == NOW + SECOND + SECOND // 2
    desk.measure(NOW + SECOND, 1)
    assert desk.test.look(NOW + SECOND) is None
    desk.measure(NOW + SECOND, 2)
    assert desk.test.look(NOW + SECOND) == ""
    assert desk.test.next_timeout() is None
    assert desk.test.look(NOW + 2 * SECOND) is None, "it is over"


def test_a_silent_slave_fails_it_by_name_after_ten_seconds(desk):
    desk.test.begin(NOW)
    desk.measure(NOW + SECOND, 1)
    assert desk.test.look(NOW + 10 * SECOND - 1) is None
    assert desk.test.look(NOW + 10 * SECOND) == "no fresh values from slaves [2]"


def test_a_cell_without_a_valid_voltage_fails_it(desk):
    desk.slaves[1].cells[2] = 7.0
    desk.test.begin(NOW)
    desk.measure(NOW + SECOND, 1, 2)
    assert desk.test.look(NOW + SECOND) is None
    assert desk.test.look(NOW + 10 * SECOND) == "no valid voltage of cells [7]"


def test_a_product_s_own_check_fails_it_at_once(desk):
    desk.failure = "insulation below 500 kohm"
    desk.test.begin(NOW)
    desk.measure(NOW + 1, 1, 2)
    assert desk.test.look(NOW + 1) == "insulation below 500 kohm"
