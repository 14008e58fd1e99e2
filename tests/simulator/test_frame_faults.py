"""Frames of a slave that go wrong, through a whole unit: the platform hears of it, and no wrong value reaches a report."""

from __future__ import annotations

from collections import Counter
from random import Random

import pytest
from bmsota_sim import SessionPlatform, parse_scenario, virtual_fleet
from bmsota_sim.devices.frame_faults import FrameFault, FrameFaultKind
from bmsota_sim.scenario import FrameDisturbed

from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import Alarms, CellVoltages, FaultChanges, FaultState, ProbeTemperatures, ReportReceived, Sentinel
from bmsota.master import SlaveFault

SCENARIO = """
name: frames
duration_s: 200
report_period_s: 1
fleet: [{{series: E7, count: 1}}]
{extra}
"""
FAULT = "faults: [{{kind: {kind}, vehicle: 1, slave: 2, at_s: 20, rounds: {rounds}}}]"


def play(extra, seconds=50.0, seed=1):
    """Run one parked E7; its reports, its unit, and the run."""
    reports = []

    def received(event, _now_ns):
        if isinstance(event, ReportReceived):
            reports.append({type(body): body for body in event.report.bodies})

    fleet = virtual_fleet(parse_scenario(SCENARIO.format(extra=extra)), seed, SessionPlatform(received))
    fleet.run(seconds)
    return reports, fleet.units[0], fleet


def values_of(report, body):
    [subsystem] = report[body].subsystems
    return subsystem.cell_voltages_v if body is CellVoltages else subsystem.temperatures_c


def changes(reports):
    return [change for report in reports if FaultChanges in report for change in report[FaultChanges].changes]


@pytest.mark.slow
@pytest.mark.parametrize("seed", [2, 11])
@pytest.mark.parametrize(
    ("kind", "fault", "others"),
    [
        ("frame_corrupted", SlaveFault.CORRUPTED, {SlaveFault.OUT_OF_SEQUENCE}),
        ("frame_frozen", SlaveFault.REPEATED, {SlaveFault.OUT_OF_SEQUENCE}),
        ("frame_replayed", SlaveFault.OUT_OF_SEQUENCE, set()),
    ],
)
def test_each_disturbance_of_a_slave_s_frames_is_reported_with_its_onset_and_its_end(kind, fault, others, seed):
    """Long enough that a group of values grows too old. Before it and behind it nothing is wrong."""
    reports, unit, fleet = play(FAULT.format(kind=kind, rounds=12), seed=seed)
    told = changes(reports)
    position = {change.position for change in told}
    assert position == {2}
    onset, *_ = told
    assert (onset.code, onset.state, onset.level) == (fault.code(2), FaultState.ONSET, 2)
    balance = Counter(change.code for change in told if change.state is FaultState.ONSET)
    balance.subtract(change.code for change in told if change.state is FaultState.CLEARED)
    assert not any(balance.values()), "what has come has gone"
    assert {change.code for change in told} <= {each.code(2) for each in {fault} | others}
    codes = [report[Alarms].ress_faults for report in reports]
    assert codes[0] == codes[-1] == ()
    assert any(fault.code(2) in each for each in codes)
    # What is reported is what the undisturbed pack has, or nothing; and nothing only for some of slave 2.
    missing = 0
    for report, right in zip(reports, play("", seed=seed)[0], strict=True):
        for body in (CellVoltages, ProbeTemperatures):
            found, expected = (values_of(each, body) for each in (report, right))
            for number, (value, known) in enumerate(zip(found, expected, strict=True)):
                if value is Sentinel.INVALID and known is not Sentinel.INVALID:
                    missing += 1
                    assert 3 * number // len(found) == 1, "of three slaves, the second"
                else:
                    assert value == pytest.approx(known, abs=0.0021 if body is CellVoltages else 1)
    assert (missing > 0) is (kind != "frame_replayed"), "beside a replayed frame the right ones go on"
    assert (kind, 2) in unit.figures.faults
    again = play(FAULT.format(kind=kind, rounds=12), seed=seed)[2]
    assert again.trace.digest() == fleet.trace.digest(), "replayed from the seed"
    assert any("slave 2: " in note.what and note.who == unit.name for note in fleet.trace.notes)


def test_without_a_disturbance_no_fault_is_ever_told():
    reports, unit, _ = play("")
    assert changes(reports) == []
    assert {report[Alarms].ress_faults for report in reports} == {()}
    assert unit.figures.faults == frozenset()


def test_a_slave_that_loses_its_power_for_a_moment_is_no_fault():
    """It restarts at count 0, says so by its identity, and counts on."""
    fault = "faults: [{kind: slave_replaced, vehicle: 1, slave: 2, at_s: 20.4, off_s: 0.3}]"
    reports, _, fleet = play(fault)
    assert changes(reports) == []
    assert any("replaced" in note.what for note in fleet.trace.notes)


def test_an_old_slave_behind_a_new_master_is_told_and_measured():
    reports, _, _ = play("vehicles: {1: {unprotected_slaves: [3]}}", seconds=40.0)
    [change] = changes(reports)
    assert (change.position, change.code, change.state, change.level) == (
        3,
        SlaveFault.UNPROTECTED.code(3),
        FaultState.ONSET,
        1,
    )
    last = reports[-1]
    assert last[Alarms].ress_faults == (SlaveFault.UNPROTECTED.code(3),)
    assert Sentinel.INVALID not in last[CellVoltages].subsystems[0].cell_voltages_v


@pytest.mark.slow
def test_a_disturbance_that_did_not_happen_is_a_problem_of_the_run():
    """It is planned for a time that the run does not reach."""
    from bmsota_sim.outcome import _fault_problems

    extra = FAULT.format(kind="frame_frozen", rounds=2).replace("at_s: 20", "at_s: 150")
    _, unit, fleet = play(extra, seconds=30.0)
    [fault] = fleet.scenario.faults
    assert isinstance(fault, FrameDisturbed)
    assert _fault_problems(fault, unit.figures, []) == ["the planned frame_frozen of slave 2 did not happen"]
    happened = play(FAULT.format(kind="frame_frozen", rounds=2), seconds=30.0)[1]
    assert _fault_problems(fault, happened.figures, []) == []


@pytest.mark.parametrize(
    ("extra", "problem"),
    [
        (FAULT.format(kind="frame_frozen", rounds=0), "rounds: expected at least 1, got 0"),
        (FAULT.format(kind="frame_frozen", rounds=1).replace("slave: 2", "slave: 9"), "expected a slave from 1 to 3, got 9"),
        ("vehicles: {1: {unprotected_slaves: [4]}}", "vehicles.1.unprotected_slaves: expected a slave from 1 to 3, got 4"),
    ],
)  # fmt: skip
def test_a_scenario_names_slaves_that_are_there(extra, problem):
    with pytest.raises(ConfigurationError, match=problem):
        parse_scenario(SCENARIO.format(extra=extra))


@pytest.mark.parametrize("kind", FrameFaultKind)
def test_one_frame_of_each_round_is_disturbed_and_then_none(kind):
    """Whatever is drawn: the round has its right frames but for the one that is replaced, or one more."""
    for seed in range(40):
        fault, history = FrameFault(kind, rounds=3, random=Random(seed)), []
        disturbed = []
        for number in range(30):
            frames = [CanFrame(0x100 + each, bytes((number, each, 7))) for each in range(4)]
            sent = fault.disturb(frames, history[-7:])
            history.append(frames)
            if sent != frames:
                wrong = [frame for frame in sent if frame not in frames]
                assert len(wrong) == 1
                assert len(sent) == 4 + (kind is FrameFaultKind.REPLAYED)
                disturbed += wrong
        assert len(disturbed) == 3
        assert len({frame.can_id for frame in disturbed}) == 1
        assert fault.happened
