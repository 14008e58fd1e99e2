"""What real terminals do, from bytes on a link to what is shown and stored.

The bytes are laid out here by hand from the tables of GB/T 32960.3, so that neither our encoder nor our terminal can hide what
our platform does with them. Each promise is one that an earlier version broke (rows 1 and 3 to 18 of the findings on the link).
"""

import struct
from datetime import datetime, timedelta

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.platform_peers import PlatformPeer
from bmsota_cloud.domain.telemetry import EventKind

from bmsota.checksums import bcc_xor
from bmsota.gbt32960 import BEIJING

LOGIN, REALTIME, BACKFILL, LOGOUT, PLATFORM_LOGIN = 1, 2, 3, 4, 5
SUCCESS, ERROR, VIN_UNKNOWN, DECRYPTION_FAILED = 1, 2, 4, 7
GBT2016, GBT2025 = b"##", b"$$"
ENGINE = b"\4\x09\x60"  # Of 2025, at 2400 r/min.
PLATFORM = "PLATFORM000000001"


def raw(command, vin, data=b"", *, start=GBT2016, encryption=1):
    body = bytes([command, 0xFE]) + vin.encode() + bytes([encryption]) + struct.pack(">H", len(data)) + data
    return start + body + bytes([bcc_xor(body)])


def vehicle(soc_pct, state=1):
    return bytes([1, state, 3, 1]) + struct.pack(">HIHHBBBHBB", 100, 123456, 3650, 9000, soc_pct, 1, 0x0E, 2500, 0, 0)


def cells(number, first, total, millivolts, count):
    head = bytes([8, 1, number]) + struct.pack(">HHHHB", 3650, 10000, total, first, count)
    return head + struct.pack(">H", millivolts) * count


def time_bytes(at):
    at = at.astimezone(BEIJING)
    return bytes([at.year - 2000, at.month, at.day, at.hour, at.minute, at.second])


class Terminal:
    """A vehicle on a link of its own: bytes up, flags down."""

    def __init__(self, world, *, start=GBT2016, is_registered=True):
        self.world, self.start = world, start
        self.vin = world.register(1) if is_registered else "NOSUCHVEHICLE0001"
        self.link = world.cloud.open_link()
        self.link.connected(world.now_ns)
        packs = b"\0" if start == GBT2025 else b"\1\0"
        self.answers = self.send(LOGIN, self.time() + b"\0\1" + b"8" * 20 + packs)

    def time(self, *, later_s=0, at=None):
        return time_bytes((at or self.world.now) + timedelta(seconds=later_s))

    def send(self, command, data, *, encryption=1):
        """Send a frame; (command, flag) of each answer."""
        self.link.receive_data(raw(command, self.vin, data, start=self.start, encryption=encryption), self.world.now_ns)
        return answers_of(self.link)

    def newest(self):
        return self.world.services.telemetry.snapshot(self.vin, by=self.world.people["vera"])

    def history(self):
        page = self.world.services.telemetry.reports(self.vin, PageRequest(1, 100), by=self.world.people["vera"])
        return page.items


def answers_of(link):
    data, found = link.data_to_send(), []
    while data:
        found.append((data[2], data[3]))
        data = data[25 + int.from_bytes(data[22:24], "big") :]
    return found


def cell_counts(values):
    return {item["number"]: len(item["cell_voltages_v"]) for item in values["cell_voltages"]["subsystems"]}


def test_the_last_report_follows_the_logout(world):
    """As real vehicles end each trip: logout, then the state at switch-off with the logout's own second."""
    terminal = Terminal(world)
    terminal.send(REALTIME, terminal.time() + vehicle(98))
    terminal.send(LOGOUT, terminal.time(later_s=6) + b"\0\1")
    terminal.send(REALTIME, terminal.time(later_s=6) + vehicle(100, state=2))
    assert len(terminal.history()) == 2
    assert (terminal.newest().soc_pct, terminal.newest().is_online) == (100, False)


@pytest.mark.parametrize("frames", ["one frame", "two frames of one second"])
def test_three_hundred_cells_of_a_subsystem(world, frames):
    terminal = Terminal(world)
    parts = [cells(1, 1, 300, 3600, 200), cells(1, 201, 300, 3800, 100)]
    for unit in [b"".join(parts)] if frames == "one frame" else parts:
        terminal.send(REALTIME, terminal.time() + unit)
    for values in (terminal.newest().values, terminal.history()[0].values):
        (subsystem,) = values["cell_voltages"]["subsystems"]
        assert (subsystem["first_cell"], subsystem["cell_voltages_v"]) == (1, [3.6] * 200 + [3.8] * 100)


def test_subsystems_in_frames_of_their_own_are_both_in_the_newest_state(world):
    terminal = Terminal(world)
    terminal.send(REALTIME, terminal.time() + cells(1, 1, 4, 3600, 4))
    terminal.send(REALTIME, terminal.time(later_s=1) + cells(2, 1, 6, 3700, 6))
    assert cell_counts(terminal.newest().values) == {1: 4, 2: 6}


def test_an_alarm_in_a_frame_of_its_own_is_beside_the_values_of_its_second(world):
    terminal = Terminal(world)
    terminal.send(REALTIME, terminal.time() + vehicle(50))
    terminal.send(REALTIME, terminal.time() + bytes([7, 3]) + struct.pack(">I", 1) + bytes(4))
    assert [sorted(row.values) for row in terminal.history()] == [["alarms"], ["vehicle"]]
    newest = terminal.newest()
    assert (newest.alarm_level, newest.soc_pct, newest.values["alarms"]["active"]) == (
        3,
        50,
        ["TEMPERATURE_DIFFERENCE"],
    )


def test_two_alarm_bodies_of_one_frame_both_count(world):
    terminal = Terminal(world)
    alarms = [bytes([7, level]) + struct.pack(">I", 1 << bit) + bytes(4) for level, bit in ((3, 0), (1, 4))]
    terminal.send(REALTIME, terminal.time() + b"".join(alarms))
    for values in (terminal.newest().values, terminal.history()[0].values):
        assert [values[name]["active"] for name in ("alarms", "alarms_2")] == [["TEMPERATURE_DIFFERENCE"], ["SOC_LOW"]]
    assert terminal.newest().alarm_level == 3
    events = world.services.telemetry.events(terminal.vin, PageRequest(1, 50), by=world.people["vera"]).items
    assert {each.subject for each in events if each.kind is EventKind.ALARM} == {"TEMPERATURE_DIFFERENCE", "SOC_LOW"}


def test_one_report_of_the_year_2099_does_not_stop_the_newest_state(world):
    terminal = Terminal(world)
    terminal.send(REALTIME, terminal.time(at=datetime(2099, 1, 1, tzinfo=BEIJING)) + vehicle(99))
    terminal.send(REALTIME, terminal.time() + vehicle(20))
    assert (terminal.newest().soc_pct, terminal.newest().reported_at) == (20, world.now)


@pytest.mark.parametrize("days", [5, 7])
def test_a_backfill_of_days_ago_outlives_the_next_prune(world, days):
    """2025, B.2.8: seven days."""
    terminal = Terminal(world, start=GBT2025)
    terminal.send(BACKFILL, terminal.time(at=world.now - timedelta(days=days)) + ENGINE)
    world.services.ingest.prune(world.now)
    assert [row.reported_at for row in terminal.history()] == [world.now - timedelta(days=days)]


@pytest.mark.parametrize(
    ("start", "encryption", "flag"), [(GBT2016, 3, ERROR), (GBT2025, 5, DECRYPTION_FAILED), (GBT2016, 0, ERROR)]
)
def test_a_report_that_nobody_can_decipher_is_answered(world, start, encryption, flag):
    terminal = Terminal(world, start=start)
    assert terminal.send(REALTIME, bytes(32), encryption=encryption) == [(REALTIME, flag)]


@pytest.mark.parametrize(("start", "flag"), [(GBT2016, ERROR), (GBT2025, VIN_UNKNOWN)])
def test_the_login_of_a_vin_that_nobody_knows(world, start, flag):
    assert Terminal(world, start=start, is_registered=False).answers == [(LOGIN, flag)]


def test_an_alarm_bit_that_the_edition_reserves_has_no_name(world):
    """2016, table 18: bits 19 to 31."""
    terminal = Terminal(world)
    terminal.send(REALTIME, terminal.time() + bytes([7, 1]) + struct.pack(">I", 1 << 19) + bytes(4))
    alarms = terminal.newest().values["alarms"]
    assert (alarms["level_max"], alarms["active"]) == (1, [])


def test_user_bodies_behind_the_signature_cost_no_measured_value(world):
    """As rtm_con builds its frames of 2025; 7.2.1 puts the signature last."""
    terminal = Terminal(world, start=GBT2025)
    signature = b"\xff\x02" + b"\0\4abcd" + b"\0\0"
    terminal.send(REALTIME, terminal.time() + ENGINE + signature + b"\x83\0\1\7")
    (row,) = terminal.history()
    assert row.fault
    assert set(row.values) == set(terminal.newest().values) != set()


def test_another_platform_forwards_its_vehicles_on_one_link(new_world):
    peer = PlatformPeer(
        code=PLATFORM, user="user", password="correcthorse", projects=frozenset({"Harbour"}), vins=frozenset()
    )
    world = new_world(settings={"platform_peers": {PLATFORM: peer}})
    vins = [world.register(number, project="Harbour") for number in (1, 2)]
    time = time_bytes(world.now)
    link = world.cloud.open_link()
    link.connected(world.now_ns)
    login = time + b"\0\1" + b"user".ljust(12, b"\0") + b"correcthorse".ljust(20, b"\0") + b"\1"
    link.receive_data(raw(PLATFORM_LOGIN, PLATFORM, login), world.now_ns)
    assert answers_of(link) == [(PLATFORM_LOGIN, SUCCESS)]
    for soc_pct, vin in enumerate(vins, 40):
        link.receive_data(raw(LOGIN, vin, time + b"\0\1" + b"8" * 20 + b"\1\0"), world.now_ns)
        link.receive_data(raw(REALTIME, vin, time + vehicle(soc_pct)), world.now_ns)
    assert (LOGIN, SUCCESS) in answers_of(link)
    found = [world.services.telemetry.snapshot(vin, by=world.people["vera"]) for vin in vins]
    assert [(each.soc_pct, each.is_online) for each in found] == [(40, True), (41, True)]
