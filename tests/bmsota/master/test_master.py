"""A whole master between its pack and a platform, without I/O: what goes out for what comes in."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from itertools import groupby

import pytest

from bmsota.canframe import CanFrame
from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    Alarms,
    CellVoltages,
    CloseRequested,
    Command,
    LoggedIn,
    LoggedOut,
    ParameterQuery,
    ProbeTemperatures,
    Sentinel,
    SignedReport,
    TerminalState,
    UnitIdentity,
    UpgradeState,
    UpgradeStateCode,
    VehicleData,
    beijing_time,
)
from bmsota.image import ImageRole, ImageVersion
from bmsota.master import (
    AlarmLimits,
    CommandUnsupported,
    InstructionReceived,
    LocalUpgradeDetected,
    LocalUpgradesAcknowledged,
    LocalUpgradesReported,
    Master,
    SelfTestEnded,
    SlaveChanged,
    UpgradeModeChanged,
)
from bmsota.ota import (
    TRUST_RECORD,
    DocumentKind,
    LogNote,
    Outcome,
    Reset,
    RunSelfTest,
    StartHttp,
    UpdaterState,
    document_kind,
    verify_report,
)

SECOND = 1_000_000_000


@pytest.fixture
def rig(world):
    rig = world.MasterRig()
    rig.until(lambda: rig.master.slave_versions and rig.of(LoggedIn))
    rig.run(0.5)
    return rig


def values_of(report, body):
    return report[body].subsystems[0]


@pytest.mark.slow
def test_it_logs_in_finds_its_slaves_and_says_who_they_are(rig):
    rig.run(1)
    (said,) = [message for message in rig.extensions if isinstance(message, UnitIdentity)]
    assert [(node.position, node.hwid, node.version) for node in said.nodes] == [
        (0, "M-0001", (2, 0, 0, 0)),
        (1, "S-0001", (2, 0, 0, 0)),
        (2, "S-0002", (2, 0, 0, 0)),
    ]
    assert rig.master.slave_versions == ("2.0.0", "2.0.0")
    assert not rig.master.is_upgrading
    assert rig.of(LoggedIn) == [LoggedIn(serial=1)]


@pytest.mark.slow
def test_the_slaves_are_not_asked_before_they_have_booted(world):
    rig = world.MasterRig(slave_boot_ns=2 * SECOND)
    rig.run(1.9)
    assert rig.master.frames_to_send(rig.now_ns) == []
    assert rig.master.slave_versions == ()
    assert [message for message in rig.extensions if isinstance(message, UnitIdentity)] == []
    rig.until(lambda: rig.master.slave_versions)


@pytest.mark.slow
def test_a_report_holds_what_the_slaves_measured(rig):
    rig.measure()
    assert rig.master.send_report(rig.now_ns)
    rig.run(0.1)
    (report,) = rig.reports
    assert values_of(report, CellVoltages).cell_voltages_v == (3.6, 3.61, 3.62, 3.63, 3.7, 3.71, 3.72, 3.73)
    assert values_of(report, ProbeTemperatures).temperatures_c == (21, 22)
    assert report[VehicleData].total_voltage_v == round(sum((3.6, 3.61, 3.62, 3.63, 3.7, 3.71, 3.72, 3.73)), 1)
    assert report[VehicleData].total_current_a == 1.5


def test_a_slave_that_missed_three_rounds_is_no_longer_reported(rig):
    rig.measure()
    rig.pack.slaves[1].is_on = False
    rig.run(2)
    rig.measure()
    rig.run(1.5)
    rig.master.send_report(rig.now_ns)
    rig.run(0.1)
    cells = values_of(rig.reports[-1], CellVoltages).cell_voltages_v
    assert cells == (3.6, 3.61, 3.62, 3.63, *(Sentinel.INVALID,) * 4)


def test_alarm_limits_are_the_series_own(world):
    rig = world.MasterRig(alarm_limits=AlarmLimits(cell_voltage_max_v=(None, None, 3.65)))
    rig.until(lambda: rig.master.link_state is TerminalState.LOGGED_IN)
    for _ in range(4):
        rig.measure()
        rig.run(1)
    rig.master.send_report(rig.now_ns)
    rig.run(0.1)
    assert rig.reports[0][Alarms].level_max == 3


def test_frames_of_others_change_nothing(rig):
    before = len(rig.events)
    rig.tick([CanFrame(0x7FF, b"\x00" * 8), CanFrame(0x100, b"")])
    assert len(rig.events) == before


def test_a_measurement_brings_nothing_to_do(rig):
    (frame, *_) = rig.pack.slaves[0].measurements()
    assert rig.master.receive_frame(frame, rig.now_ns) is False


def test_a_replaced_slave_is_found_by_its_identity_pages(rig):
    rig.pack.slaves[1].hwid = "S-9999"
    rig.pack.slaves[1].boot()
    rig.extensions.clear()
    rig.tick(rig.pack.slaves[1].identity_pages())
    rig.run(3)
    assert rig.of(SlaveChanged) == [SlaveChanged(2, "slave 2 is S-9999 now, was S-0002")]
    said = [message for message in rig.extensions if isinstance(message, UnitIdentity)]
    assert [node.hwid for node in said[-1].nodes] == ["M-0001", "S-0001", "S-9999"]


# -- the platform and the workshop ---------------------------------------------------------------------------------------


def test_an_instruction_opens_a_session_with_the_device_api(rig):
    rig.instruct()
    assert rig.of(InstructionReceived) == [
        InstructionReceived("http://cloud.example/device/v1/order", is_postponed=False)
    ]
    (started,) = rig.of(StartHttp)
    assert started.base_url == "http://cloud.example"
    assert rig.master.is_upgrading
    rig.run(0.5)
    states = [message.state for message in rig.extensions if isinstance(message, UpgradeState)]
    assert states == [UpgradeStateCode.AUTHENTICATING]


def test_a_driving_vehicle_is_not_upgraded_until_it_stands(rig, world):
    rig.readings = replace(world.PARKED, speed_kmh=30.0)
    rig.master.vehicle_changed(rig.now_ns)
    rig.instruct()
    assert rig.of(StartHttp) == []
    assert rig.master.upgrade_state is UpdaterState.WAITING_SAFE_STATE
    rig.readings = world.PARKED
    rig.master.vehicle_changed(rig.now_ns)
    rig.tick()
    assert len(rig.of(StartHttp)) == 1


def test_the_device_api_s_answers_reach_the_updater(rig):
    rig.instruct()
    master = rig.master
    master.http_head(500, {}, rig.now_ns)
    master.http_body(b"{}", rig.now_ns)
    master.http_ended(None, rig.now_ns)
    assert master.upgrade_state is UpdaterState.WAITING_SAFE_STATE
    rig.run(4.9)
    assert len(rig.of(StartHttp)) == 1
    rig.run(5.1)
    assert len(rig.of(StartHttp)) == 2, "tried again after 5 s and this unit's jitter"
    assert master.upgrade_state is UpdaterState.OPENING_SESSION
    master.http_ended("no route", rig.now_ns)
    assert master.upgrade_state is UpdaterState.WAITING_SAFE_STATE


def test_an_instruction_waits_for_the_flasher(rig):
    rig.master.flasher_heard(rig.now_ns)
    rig.instruct()
    assert rig.of(InstructionReceived)[0].is_postponed
    assert rig.of(StartHttp) == []
    rig.run(11)
    assert len(rig.of(StartHttp)) == 1


def test_a_slave_flashed_by_a_technician_is_reported_to_the_platform(rig, world):
    rig.pack.slaves[0] = world.Slave(1, "2.1.0")
    rig.master.flasher_heard(rig.now_ns)
    rig.run(12)
    (detected,) = rig.of(LocalUpgradeDetected)
    assert (detected.upgrade.position, str(detected.upgrade.version_after)) == (1, "2.1.0")
    assert rig.of(LocalUpgradesReported) == [LocalUpgradesReported(1)]
    assert len(rig.of(LocalUpgradesAcknowledged)) == 1
    assert rig.master.slave_versions == ("2.1.0", "2.0.0")


def test_a_master_in_its_bootloader_is_logged_out_until_the_flasher_leaves(rig):
    rig.master.bootloader_entered(rig.now_ns)
    rig.run(1)
    assert rig.master.link_state is TerminalState.ENDED
    assert len(rig.of(LoggedOut)) == 1
    assert not rig.master.send_report(rig.now_ns)
    rig.master.bootloader_entered(rig.now_ns)  # Entered again: it is logged out already.
    rig.master.bootloader_left(rig.now_ns)
    rig.until(lambda: len(rig.of(LoggedIn)) == 2)
    assert rig.of(LoggedIn)[-1] == LoggedIn(serial=2)


def test_a_command_that_it_does_not_carry_out_is_said(rig):
    message = ParameterQuery(time=beijing_time(rig.now_ns), parameter_ids=(1,))
    rig.platform.send_command(Command.QUERY_PARAMETERS, message, rig.now_ns)
    rig.run(0.1)
    assert rig.of(CommandUnsupported) == [CommandUnsupported("ParameterQuery")]


# -- an upgrade over the air ---------------------------------------------------------------------------------------------


def upgrade(rig, *, until):
    """The driver waits for the download, leaves, and comes back; the slaves measure all the time."""
    rig.offer("2.1.0", 2)
    rig.instruct()
    rig.until(lambda: rig.master.upgrade_state is UpdaterState.DOWNLOAD_COMPLETE)
    assert [slave.version for slave in rig.pack.slaves] == ["2.0.0"] * 2
    rig.power_on()
    for _ in range(100):
        rig.measure()
        rig.run(0.2)
        if until():
            return
    raise AssertionError(rig.events[-20:])


def reports_of(rig, world):
    documents = [message.document for message in rig.extensions if isinstance(message, SignedReport)]
    documents = [document for document in documents if document_kind(document) is DocumentKind.REPORT]
    return [verify_report(document, [world.DEVICE_KEY.public_key()]) for document in documents]


def test_it_upgrades_itself_and_its_slaves_and_reports_what_runs(rig, world):
    upgrade(rig, until=lambda: reports_of(rig, world) and not rig.master.is_upgrading)
    (report,) = reports_of(rig, world)
    assert report.outcome is Outcome.SUCCEEDED
    assert [(node.position, str(node.version), node.security_counter) for node in report.nodes] == [
        (0, "2.1.0", 2),
        (1, "2.1.0", 2),
        (2, "2.1.0", 2),
    ]
    assert rig.of(SelfTestEnded) == [SelfTestEnded("")]
    assert rig.master.slave_versions == ("2.1.0", "2.1.0")
    assert rig.master.security_counter == 2
    assert rig.of(LocalUpgradeDetected) == [], "an order did it"
    stages = [message.state for message in rig.extensions if isinstance(message, UpgradeState)]
    assert [code for code, _ in groupby(stages)] == [
        UpgradeStateCode.AUTHENTICATING,
        UpgradeStateCode.DOWNLOADING,
        UpgradeStateCode.DOWNLOAD_COMPLETE,
        UpgradeStateCode.SWITCHING,
        UpgradeStateCode.FLASHING_SLAVES,
        UpgradeStateCode.SWITCHING,
        UpgradeStateCode.SELF_TEST,
    ]
    modes = [(event.in_upgrade_mode, event.must_rest) for event in rig.of(UpgradeModeChanged)]
    assert [mode for mode, _ in groupby(modes)] == [
        (True, False),  # accepted and downloaded
        (True, True),  # from the next power-on: switched, flashed, tested
        (True, False),  # reporting
        (False, False),
    ]


def test_a_failed_self_test_brings_the_old_pack_back(rig, world):
    rig.check = lambda version: "insulation too low" if str(version) == "2.1.0" else ""
    upgrade(rig, until=lambda: reports_of(rig, world) and not rig.master.is_upgrading)
    (report,) = reports_of(rig, world)
    assert (report.outcome, report.reason) == (Outcome.ROLLED_BACK, "insulation too low")
    assert [str(node.version) for node in report.nodes] == ["2.0.0"] * 3
    assert [slave.version for slave in rig.pack.slaves] == ["2.0.0"] * 2
    assert rig.of(Reset) == [Reset("switches to the new image"), Reset("insulation too low")]
    assert rig.of(LocalUpgradeDetected) == []


def test_an_open_order_locks_the_pack_from_the_first_moment_of_the_next_life(rig):
    rig.offer("2.1.0", 2)
    rig.instruct()
    rig.until(lambda: rig.master.upgrade_state is UpdaterState.DOWNLOAD_COMPLETE)
    rig.power_on()
    assert rig.master.upgrade_state is UpdaterState.IDLE
    assert rig.master.is_upgrading


def test_after_a_login_it_asks_again_for_an_image_in_its_test_boot(rig, world):
    """A technician's slave is confirmed while the link is down: no frame of the slave says so."""
    slave = rig.pack.slaves[0]
    staged = world.firmware(ImageRole.SLAVE, "2.1.0", 2)
    slave.store.begin_staging(len(staged), hashlib.sha256(staged).digest())
    slave.store.write_staged(0, staged)
    slave.store.finish_staging()
    slave.store.request_test()
    slave.boot()
    rig.master.flasher_heard(rig.now_ns)
    rig.run(12)
    assert rig.of(LocalUpgradeDetected) == []
    slave.store.confirm()
    rig.platform = None
    rig.master.disconnected(rig.now_ns)
    rig.until(lambda: rig.of(LocalUpgradeDetected))
    assert rig.of(LocalUpgradeDetected)[0].upgrade.position == 1


# -- power ---------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_shut_down_logs_out_for_good(rig):
    rig.master.shut_down(rig.now_ns)
    rig.run(3)
    assert rig.master.link_state is TerminalState.ENDED
    assert isinstance(rig.events[-1], LoggedOut)
    assert [event for event in rig.events if isinstance(event, CloseRequested)]
    assert not rig.master.send_report(rig.now_ns)
    rig.master.shut_down(rig.now_ns)
    rig.run(60)
    assert rig.master.link_state is TerminalState.ENDED


def test_login_serials_go_on_in_the_next_life(rig):
    rig.last_login = (rig.of(LoggedIn)[0].serial, rig.now_ns)
    rig.power_on()
    rig.until(lambda: len(rig.of(LoggedIn)) == 2)
    assert rig.of(LoggedIn)[-1] == LoggedIn(serial=2)


@pytest.mark.slow
def test_without_a_link_it_tries_again_and_measures_on(world):
    rig = world.MasterRig()
    rig.has_link = False
    rig.until(lambda: rig.master.slave_versions)
    rig.measure()
    rig.master.send_report(rig.now_ns)
    assert rig.master.link_state is TerminalState.WAITING
    rig.has_link = True
    rig.until(lambda: rig.reports, 300)
    assert values_of(rig.reports[0], ProbeTemperatures).temperatures_c == (21, 22)


def test_without_an_image_there_is_no_master(world):
    store = world.store_on(world.FlashModel(192 * 1024), ImageRole.MASTER)
    with pytest.raises(LocalProtocolError, match="no image runs"):
        Master(
            world.configuration(),
            store=store,
            boot=store.boot(),
            image_flash=world.FlashModel(128 * 1024, erase_block_bytes=4096),
            read=lambda: world.PARKED,
            now_ns=world.START_NS,
        )


def test_what_the_updater_asks_of_the_device_itself(rig):
    """A self-test ends with fresh values; nothing comes behind a reset."""
    master = rig.master
    master._updater._actions.append(RunSelfTest())
    rig.run(0.6)
    assert rig.of(SelfTestEnded) == []
    rig.measure()
    rig.run(1)
    assert rig.of(SelfTestEnded) == [SelfTestEnded("")]
    master._updater._actions += [Reset("a test"), LogNote("never said")]
    rig.tick()
    assert rig.of(Reset) == [Reset("a test")]
    assert rig.master is not master
    assert master.next_event() is None
    assert rig.of(LogNote) == []


def test_a_product_s_check_hears_the_version_and_fails_the_self_test(world):
    rig = world.MasterRig(check=lambda version: f"{version} does not like this insulation")
    rig.until(lambda: rig.master.slave_versions)
    rig.master._updater._actions.append(RunSelfTest())
    rig.run(1)
    assert rig.of(SelfTestEnded) == [SelfTestEnded(f"{ImageVersion(2, 0)} does not like this insulation")]


def test_a_busy_bus_is_not_asked_for_at_once(rig):
    """While the bus has not taken the last frames, the engine's deadline would be due for ever."""
    rig.pack.slaves[0].hwid = "S-9999"
    for frame in rig.pack.slaves[0].identity_pages():
        rig.master.receive_frame(frame, rig.now_ns)
    while rig.master.next_event() is not None:
        pass
    assert rig.master.frames_to_send(rig.now_ns)
    assert rig.master.next_timeout() < rig.master.next_timeout(bus_is_busy=True)


def test_a_record_that_cannot_be_read_is_logged_and_survived(world, rig):
    rig.store.put_record(TRUST_RECORD, b"\xff")
    rig.power_on()
    rig.until(lambda: len(rig.of(LoggedIn)) == 2)
    assert any("trust state" in note.text for note in rig.of(LogNote))
