"""The gateway's link back to back with the library's own terminal, without sockets."""

from datetime import timedelta

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.gateway.link import utc_time

from bmsota.gbt32960 import (
    CellVoltages2025,
    Command,
    CommandReceived,
    ConnectRequested,
    ControlId,
    Edition,
    Frame,
    LocalUpgrade,
    LocalUpgradeOutcome,
    LocalUpgrades,
    LoggedIn,
    LoginFailed,
    NodeIdentity,
    NodeRole,
    PackTemperatures,
    PackVoltages,
    PlatformLogin,
    ProbeTemperatures2025,
    ReplyFlag,
    ReplyReceived,
    SignedReport,
    TerminalOptions,
    TerminalSession,
    UnitIdentity,
    UpgradeState,
    UpgradeStateCode,
    VehicleData2025,
    beijing_time,
    encode,
)

SECOND = 1_000_000_000


class Wire:
    """A terminal and a link, joined. Every byte is given over as soon as it is there, or one by one."""

    def __init__(self, world, vin, *, piece=1 << 20, edition=Edition.GBT2016):
        self.world = world
        self.piece = piece
        self.woken = 0
        options = TerminalOptions(edition=edition)
        self.terminal = TerminalSession(vin=vin, iccid="89860000000000000001", options=options)
        self.link = world.cloud.open_link(self._wake)
        self.events = []
        self.pump()

    def _wake(self):
        self.woken += 1

    def pump(self):
        """Until nobody has anything to say."""
        now_ns = self.world.now_ns
        while True:
            self.terminal.handle_timeout(now_ns)
            self.link.handle_timeout(now_ns)
            while (event := self.terminal.next_event()) is not None:
                self.events.append(event)
                if isinstance(event, ConnectRequested):
                    self.link.connected(now_ns)
                    self.terminal.connected(now_ns)
                if isinstance(event, CommandReceived):
                    self.terminal.reply_to(event.frame, now_ns, flag=ReplyFlag.SUCCESS)
            up, down = self.terminal.data_to_send(), self.link.data_to_send()
            if not up and not down:
                return
            for start in range(0, len(up), self.piece):
                self.link.receive_data(up[start : start + self.piece], now_ns)
            for start in range(0, len(down), self.piece):
                self.terminal.receive_data(down[start : start + self.piece], now_ns)

    def of(self, kind):
        return [event for event in self.events if isinstance(event, kind)]

    def instructions(self):
        return [event.frame.message for event in self.of(CommandReceived)]

    def flags(self, command):
        return [event.reply_flag for event in self.of(ReplyReceived) if event.command == command]

    def say(self, command, message):
        self.terminal.send_extension(command, message, self.world.now_ns)
        self.pump()

    def cut(self):
        self.terminal.disconnected(self.world.now_ns)
        self.link.disconnected(self.world.now_ns)


@pytest.fixture
def vin(world):
    return world.register(1)


def state(world, vin):
    return world.services.telemetry.snapshot(vin, by=world.people["vera"])


@pytest.mark.parametrize("piece", [1 << 20, 1])
def test_a_registered_vehicle_logs_in(world, vin, piece):
    wire = Wire(world, vin, piece=piece)
    assert wire.of(LoggedIn)
    assert (wire.link.vin, state(world, vin).is_online, len(world.cloud.router)) == (vin, True, 1)


def test_a_stranger_does_not(world):
    wire = Wire(world, "NOSUCHVEHICLE0001")
    assert wire.of(LoginFailed)
    assert (wire.link.vin, len(world.cloud.router)) == ("", 0)
    assert world.services.counters["login_unknown_vin"] == 1


def test_a_platform_login_is_refused(world):
    link = world.cloud.open_link()
    link.connected(world.now_ns)
    login = PlatformLogin(time=beijing_time(world.now_ns), serial=1, user="u", password="p")
    link.receive_data(encode(Frame(command=Command.PLATFORM_LOGIN, vin="P" * 17, message=login)), world.now_ns)
    assert link.data_to_send()[3] == ReplyFlag.ERROR
    assert world.services.counters["frame_refused"] == 1


def test_an_online_vehicle_is_told_at_once(world, vin):
    """0x82/0x01 with the device API's address, in the text layout of table B.15."""
    wire = Wire(world, vin)
    world.upload()
    task = world.approve(world.create(1))
    assert wire.woken == 1
    assert wire.link.next_timeout() == 0
    wire.pump()
    (control,) = wire.instructions()
    assert control.control_id == ControlId.REMOTE_UPGRADE
    upgrade = control.parameters
    assert (upgrade.url, upgrade.address, upgrade.port, upgrade.firmware_version, upgrade.connect_limit_min) == (
        "http://cloud.example:8080",
        "cloud.example",
        8080,
        "2.1.0",
        3 * 24 * 60,
    )
    assert world.path(task) == ["Unapproved", "Approved", "To be downloaded"]
    assert world.services.counters["instruction_answered"] == 1
    assert wire.link.next_timeout() != 0


def test_an_offline_vehicle_is_told_at_its_next_login_and_at_every_one_until_the_order_has_ended(world, vin):
    """Also behind its download: a unit that has lost its order takes it up again."""
    world.upload()
    task = world.approve(world.create(1))
    assert world.path(task) == ["Unapproved", "Approved"]
    for count in (1, 2):
        wire = Wire(world, vin)
        assert len(wire.instructions()) == 1
        assert world.detail(task).upgrades.items[0].instruction_count == count
        wire.cut()
        world.wait(minutes=2)
    wire = Wire(world, vin)
    world.fetch(1)
    told = UpgradeState(
        time=beijing_time(world.now_ns), order_id="OTA-1-1", state=UpgradeStateCode.DOWNLOAD_COMPLETE, progress_pct=100
    )
    wire.say(Command.UPGRADE_STATE, told)
    assert wire.flags(Command.UPGRADE_STATE) == [ReplyFlag.SUCCESS]
    wire.cut()
    world.wait(minutes=2)
    wire = Wire(world, vin)
    assert len(wire.instructions()) == 1
    wire.say(Command.SIGNED_REPORT, SignedReport(beijing_time(world.now_ns), world.report(1, "OTA-1-1")))
    wire.cut()
    world.wait(minutes=2)
    assert Wire(world, vin).instructions() == []


def test_each_login_is_compared_with_the_one_before_and_take_overs_are_noticed(world, vin):
    """From another address; the login itself is not refused."""
    for number in (1, 2, 3):
        wire = Wire(world, vin)
        wire.link.address = f"203.0.113.{number}:5000"
        assert wire.of(LoggedIn)
    world.services.link_watch.flush()
    seen = {
        line.outcome: line.count
        for line in world.services.audit.page(PageRequest(), by=world.people["anna"]).items
        if line.action == "link.watch"
    }
    # Each wire is a terminal that begins with serial 1.
    assert seen == {"serial-not-rising": 2, "taken-over": 2}
    with world.cloud.store.reading() as work:
        assert work.vehicles.last_login(vin).iccid == "89860000000000000001"


def test_one_login_is_told_once_however_often_it_is_hinted_at(world, vin):
    wire = Wire(world, vin)
    world.upload()
    world.approve(world.create(1))
    for _ in range(3):
        wire.link.wake()
        wire.pump()
    assert len(wire.instructions()) == 1


def test_a_task_after_the_first_is_told_on_the_same_link(world, vin):
    wire = Wire(world, vin)
    world.upload()
    task = world.approve(world.create(1))
    wire.pump()
    world.services.ota_tasks.cancel(task.id, by=world.people["carol"], now=world.now)
    world.approve(world.create(1))
    wire.pump()
    assert len(wire.instructions()) == 2


def test_who_is_not_logged_in_is_not_told(world, vin):
    wire = Wire(world, vin)
    wire.terminal.logout(world.now_ns)
    wire.pump()
    assert not state(world, vin).is_online
    world.upload()
    world.approve(world.create(1))
    wire.pump()
    assert wire.instructions() == []


def test_the_second_link_of_a_vehicle_closes_the_first(world, vin):
    """B.2: the platform closes the old one; the vehicle stays online."""
    old, new = Wire(world, vin), Wire(world, vin)
    assert old.woken == 1
    old.link.handle_timeout(world.now_ns)
    assert (old.link.is_closing, new.link.is_closing) == (True, False)
    old.cut()
    assert state(world, vin).is_online
    new.cut()
    assert not state(world, vin).is_online
    assert len(world.cloud.router) == 0


def test_a_silent_link_is_closed_and_the_vehicle_is_offline(world, vin):
    wire = Wire(world, vin)
    world.clock.now = utc_time(wire.link.next_timeout() + 10 * 60 * SECOND)
    wire.link.handle_timeout(world.now_ns)
    assert wire.link.is_closing
    wire.cut()
    assert not state(world, vin).is_online


def identity(world, facts):
    from uuid import UUID

    return UnitIdentity(
        time=beijing_time(world.now_ns),
        nodes=tuple(
            NodeIdentity(
                role=NodeRole.SLAVE if fact.position else NodeRole.MASTER,
                position=fact.position,
                hwid=fact.hwid,
                hardware_class=UUID(fact.hardware_class),
                version=(2, 0, 0, 0),
                security_counter=fact.security_counter,
                serial=fact.serial,
            )
            for fact in facts
        ),
    )


def test_identity_comes_up_and_an_exchanged_slave_is_recorded(world, vin):
    from dataclasses import replace

    wire = Wire(world, vin)
    facts = world.facts(1)
    wire.say(Command.UNIT_IDENTITY, identity(world, facts))
    wire.say(Command.UNIT_IDENTITY, identity(world, [*facts[:2], replace(facts[2], hwid="S-SPARE")]))
    detail = world.services.vehicles.detail(vin, by=world.people["vera"])
    assert [(n.hwid, n.version, n.hardware_class) for n in detail.nodes][:2] == [
        (fact.hwid, "2.0.0", fact.hardware_class) for fact in facts[:2]
    ]
    assert [(c.position, c.old_hwid, c.new_hwid) for c in detail.changes] == [(2, "S-000001-2", "S-SPARE")]
    assert wire.flags(Command.UNIT_IDENTITY) == [ReplyFlag.SUCCESS] * 2


def test_the_signed_report_ends_the_upgrade_and_its_repetition_is_answered_the_same(world, vin):
    world.identify(1)
    world.upload()
    task = world.approve(world.create(1))
    wire = Wire(world, vin)
    document = world.report(1, "OTA-1-1")
    for _ in range(2):
        wire.say(Command.SIGNED_REPORT, SignedReport(beijing_time(world.now_ns), document))
    assert wire.flags(Command.SIGNED_REPORT) == [ReplyFlag.SUCCESS] * 2
    assert world.path(task) == ["Unapproved", "Approved", "To be downloaded", "Upgrade succeeded"]


def test_a_report_that_is_not_believed_is_answered_with_an_error(world, vin):
    wire = Wire(world, vin)
    wire.say(Command.SIGNED_REPORT, SignedReport(beijing_time(world.now_ns), b"\x00" * 80))
    assert wire.flags(Command.SIGNED_REPORT) == [ReplyFlag.ERROR]


@pytest.mark.parametrize("piece", [1 << 20, 1])
def test_field_upgrades_come_into_the_history_once(world, vin, piece):
    """The unit repeats what it has not heard our answer to; each time it is answered the same."""
    wire = Wire(world, vin, piece=piece)
    upgrade = LocalUpgrade(
        upgraded_at=beijing_time(world.now_ns),
        position=2,
        hwid="S-000001-2",
        version_before=(2, 0, 0, 0),
        version_after=(2, 1, 0, 0),
        outcome=LocalUpgradeOutcome.SUCCEEDED,
    )
    for _ in range(2):
        wire.say(Command.LOCAL_UPGRADES, LocalUpgrades(beijing_time(world.now_ns), (upgrade,)))
        world.wait(seconds=20)
    assert wire.flags(Command.LOCAL_UPGRADES) == [ReplyFlag.SUCCESS] * 2
    (entry,) = world.services.histories.page(vin, PageRequest(), by=world.people["vera"]).items
    assert [(node.position, node.version_before, node.version_after) for node in entry.nodes] == [(2, "2.0.0", "2.1.0")]
    assert state(world, vin).last_seen_at == world.now - timedelta(seconds=20)


def test_another_makers_use_of_our_commands_is_answered_with_an_error(world, vin):
    wire = Wire(world, vin)
    raw = bytearray(encode(Frame(command=0xC7, vin=vin, message=world_raw(b"\x01\x02\x03"))))
    wire.link.receive_data(bytes(raw), world.now_ns)
    assert wire.link.data_to_send()[2:4] == bytes([0xC7, ReplyFlag.ERROR])
    assert world.services.counters["extension_unknown"] == 1


def world_raw(data):
    from bmsota.gbt32960 import RawMessage

    return RawMessage(data)


def test_reports_and_garbage_between_them(world, vin):
    from bmsota.gbt32960 import Position

    wire = Wire(world, vin)
    wire.terminal.send_report([Position(valid=True, longitude_deg=1.5, latitude_deg=2.5)], world.now_ns)
    wire.link.receive_data(b"garbage" * 10, world.now_ns)
    wire.pump()
    assert state(world, vin).values["position"]["longitude_deg"] == 1.5
    assert world.services.counters["bad_stretch"] >= 1
    page = world.services.telemetry.reports(vin, PageRequest(), by=world.people["vera"])
    assert page.total == 1


def test_a_frame_of_another_vehicle_on_this_link_is_refused(world, vin):
    world.register(2)
    wire = Wire(world, vin)
    frame = Frame(
        command=Command.UPGRADE_STATE,
        vin=world.vin(2),
        message=UpgradeState(time=beijing_time(world.now_ns), order_id="", state=5),
    )
    wire.link.receive_data(encode(frame), world.now_ns)
    assert world.services.counters["frame_refused"] == 1


@pytest.mark.slow
def test_no_login_in_time_closes_the_link(world):
    link = world.cloud.open_link()
    link.connected(world.now_ns)
    link.handle_timeout(link.next_timeout())
    assert link.is_closing
    link.disconnected(world.now_ns)
    assert len(world.cloud.router) == 0


def test_times_are_exact():
    assert utc_time(1_700_000_000_123_456_789).isoformat() == "2023-11-14T22:13:20.123456+00:00"


def test_a_vehicle_of_the_2025_edition_logs_in_and_its_values_stand_in_the_same_places(world, vin):
    """Start bytes `$$`: other bodies on the wire, the same names and the same form for every reader behind."""
    wire = Wire(world, vin, edition=Edition.GBT2025)
    assert wire.of(LoggedIn)
    wire.terminal.send_report(
        (
            VehicleData2025(1, 3, 1, 48.0, 12345.6, 355.2, 20.1, 73, 1, 15, 5000),
            CellVoltages2025((PackVoltages(1, 7.4, 20.1, (3.7, 3.712)),)),
            ProbeTemperatures2025((PackTemperatures(1, (25, 26)),)),
        ),
        world.now_ns,
    )
    wire.pump()
    state = world.services.vehicles.detail(vin, by=world.people["vera"]).state
    assert state.soc_pct == 73
    assert state.values["vehicle"]["total_voltage_v"] == 355.2
    (subsystem,) = state.values["cell_voltages"]["subsystems"]
    assert subsystem["cell_voltages_v"] == [3.7, 3.712]
    assert (subsystem["cell_count"], subsystem["first_cell"]) == (2, 1)
    assert state.values["probe_temperatures"]["subsystems"][0]["temperatures_c"] == [25, 26]


def test_a_report_behind_the_logout_is_the_newest_state_and_the_vehicle_stays_offline(world, vin):
    """Real vehicles end a trip so: logout, then the state at switch-off, with the logout's own second."""
    from bmsota.gbt32960 import Alarms, Report, VehicleLogout

    wire = Wire(world, vin)
    moment = beijing_time(world.now_ns)

    def up(command, message):
        wire.link.receive_data(encode(Frame(command=command, vin=vin, message=message)), world.now_ns)

    up(Command.REALTIME_REPORT, Report(moment, (Alarms(1),)))
    up(Command.VEHICLE_LOGOUT, VehicleLogout(moment, 1))
    world.wait(seconds=1)
    up(Command.REALTIME_REPORT, Report(moment, (Alarms(0),)))
    newest = state(world, vin)
    assert (newest.is_online, newest.alarm_level, newest.last_seen_at) == (False, 0, world.now)
    assert world.services.telemetry.reports(vin, PageRequest(), by=world.people["vera"]).total == 2


def test_the_end_of_a_report_that_is_wrong_costs_only_itself(world, vin):
    from bmsota.checksums import bcc_xor
    from bmsota.gbt32960 import Alarms, Report

    wire = Wire(world, vin)
    whole = encode(
        Frame(command=Command.REALTIME_REPORT, vin=vin, message=Report(beijing_time(world.now_ns), (Alarms(2),)))
    )
    unit = whole[24:-1] + b"\x01\x02"
    raw = whole[:22] + len(unit).to_bytes(2, "big") + unit
    wire.link.receive_data(raw + bytes([bcc_xor(raw[2:])]), world.now_ns)
    (row,) = world.services.telemetry.reports(vin, PageRequest(), by=world.people["vera"]).items
    assert (row.values["alarms"]["level_max"], state(world, vin).alarm_level) == (2, 2)
    assert "more bytes" in row.fault
