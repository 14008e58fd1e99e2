"""A slave whose frames fail their protection: an event, a fault code in the reports, its onset and its end."""

from __future__ import annotations

import pytest

from bmsota.canframe import CanFrame
from bmsota.gbt32960 import Alarms, CellVoltages, FaultChanges, FaultState, Sentinel, beijing_time
from bmsota.master import SlaveFault, SlaveFaultChanged
from bmsota.master._slave_faults import CHANGES_MAX, SlaveFaults

SECOND = 1_000_000_000


@pytest.fixture
def rig(world):
    rig = world.MasterRig()
    rig.run(0.5)
    return rig


def send_round(rig, disturb=lambda frames: frames):
    rig.run(1)
    rig.tick([*disturb(rig.pack.slaves[0].measurements()), *rig.pack.slaves[1].measurements()])


def report(rig):
    """The next report's bodies by type, as the platform has them."""
    rig.reports.clear()
    assert rig.master.send_report(rig.now_ns)
    rig.until(lambda: rig.reports)
    return rig.reports[0]


def corrupted(frames):
    bad = bytearray(frames[1].data)
    bad[5] ^= 0x10
    return [frames[0], CanFrame(frames[1].can_id, bytes(bad)), *frames[2:]]


def test_a_corrupted_frame_is_an_event_a_code_in_the_report_and_a_change_with_its_time(rig):
    send_round(rig)
    first = report(rig)
    assert first[Alarms] == Alarms(level_max=0, flags=0)
    assert FaultChanges not in first
    send_round(rig, corrupted)
    at = rig.now_ns
    code = SlaveFault.CORRUPTED.code(1)
    assert code == 0xE2E00101
    detail = "Slave01_Cells_1: wrong CRC"
    assert rig.of(SlaveFaultChanged) == [SlaveFaultChanged(1, SlaveFault.CORRUPTED, True, detail, at)]
    told = report(rig)
    assert told[Alarms] == Alarms(level_max=2, flags=0, ress_faults=(code,))
    [change] = told[FaultChanges].changes
    assert (change.position, change.code, change.state, change.level, change.detail) == (
        1,
        code,
        FaultState.ONSET,
        2,
        detail,
    )
    assert change.time == beijing_time(at).replace(microsecond=0)
    again = report(rig)
    assert FaultChanges not in again, "a change is told once"
    assert again[Alarms].ress_faults == (code,), "what is present is told until it ends"
    for _ in range(3):
        send_round(rig)
    ended = report(rig)
    assert ended[Alarms] == Alarms(level_max=0, flags=0)
    assert [(each.state, each.detail) for each in ended[FaultChanges].changes] == [
        (FaultState.CLEARED, "Slave01_Cells_1: good 3 times")
    ]


def test_values_that_stay_corrupted_become_invalid(rig):
    """The report shows the last good ones until they are three rounds old, and never the corrupted ones."""
    send_round(rig)
    good = report(rig)[CellVoltages].subsystems[0].cell_voltages_v
    for _ in range(2):
        send_round(rig, corrupted)
        assert report(rig)[CellVoltages].subsystems[0].cell_voltages_v == good
    send_round(rig, corrupted)  # The last good round is more than 3 s old in the report behind this one.
    cells = report(rig)[CellVoltages].subsystems[0].cell_voltages_v
    assert cells[:4] == (Sentinel.INVALID,) * 4
    assert cells[4:] == good[4:]


def test_a_change_waits_for_a_report_that_can_be_sent(rig):
    """The link is away: the session keeps the report, and with it the change."""
    send_round(rig)
    rig.has_link = False
    rig.platform = None
    rig.master.disconnected(rig.now_ns)
    send_round(rig, corrupted)
    rig.reports.clear()
    assert rig.master.send_report(rig.now_ns)
    rig.has_link = True
    rig.until(lambda: rig.reports, seconds=300)
    assert [each.code for each in rig.reports[0][FaultChanges].changes] == [SlaveFault.CORRUPTED.code(1)]


def test_a_slave_without_protection_is_level_1_and_upgrades_stay_possible(world):
    """Mixed versions: the newest image is what an old slave needs, so the fault must not stand in its way."""
    rig = world.MasterRig(unprotected=world.database("bms_internal_unprotected"))
    rig.run(0.5)
    old = world.SlaveMessages(world.database("bms_internal_unprotected"), 1, world.LAYOUT)
    for alive in range(3):
        send_round(rig, lambda _frames, alive=alive: old.measurements([3.7] * 4, [21.0], alive=alive))
    told = report(rig)
    assert told[Alarms] == Alarms(level_max=1, flags=0, ress_faults=(0xE2E00401,))
    assert told[CellVoltages].subsystems[0].cell_voltages_v[:4] == (3.7,) * 4
    assert all(fault.level <= rig.configuration.power_limits.fault_level_max for fault in SlaveFault)


def test_a_fault_that_flaps_ten_thousand_times_keeps_the_newest_changes():
    faults = SlaveFaults()
    for number in range(10_000):
        faults.failed(1, SlaveFault.CORRUPTED, "Slave01_Status", "wrong CRC", number)
        for _ in range(3):
            faults.passed(1, "Slave01_Status", number)
    assert len(faults.changes) == CHANGES_MAX
    assert faults.changes[-1] == SlaveFaultChanged(
        1, SlaveFault.CORRUPTED, False, "Slave01_Status: good 3 times", 9_999
    )
    assert faults.present == ()


def test_a_message_that_fails_in_another_way_has_not_recovered_from_the_first():
    """Three good frames in a row end a fault; two, another failure and one do not."""
    faults = SlaveFaults()
    faults.failed(1, SlaveFault.CORRUPTED, "Slave01_Status", "wrong CRC", 1)
    for _ in range(2):
        faults.passed(1, "Slave01_Status", 2)
    faults.failed(1, SlaveFault.REPEATED, "Slave01_Status", "repeated", 3)
    faults.passed(1, "Slave01_Status", 4)
    assert faults.present == ((1, SlaveFault.CORRUPTED), (1, SlaveFault.REPEATED))
    faults.failed(2, SlaveFault.REPEATED, "Slave02_Status", "repeated", 5)
    for _ in range(2):
        faults.passed(1, "Slave01_Status", 6)
    assert faults.present == ((2, SlaveFault.REPEATED),)


def test_a_report_carries_at_most_255_changes_and_the_newest(rig):
    for number in range(300):
        rig.master._measured.faults.failed(1, SlaveFault.CORRUPTED, "Slave01_Status", f"{number}", rig.now_ns)
        rig.master._tell_faults()
        rig.master._measured.faults._present.clear()
    told = report(rig)
    assert [each.detail for each in told[FaultChanges].changes] == [f"Slave01_Status: {n}" for n in range(45, 300)]
