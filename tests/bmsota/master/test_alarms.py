"""The alarm word: exact bits and levels, alarms that come and go over several looks, reports each second around level 3."""

from __future__ import annotations

import math
from dataclasses import replace
from datetime import timedelta
from itertools import pairwise

import pytest

from bmsota.gbt32960 import AlarmFlag, Alarms, Alarms2025, Edition, MotorState, TerminalOptions, TerminalState
from bmsota.master import (
    LFP_ALARM_LIMITS,
    AlarmLimits,
    AlarmWatch,
    MasterReadings,
    MotorReadings,
    PackValues,
    SlaveFault,
    SlaveFaultChanged,
    report_bodies,
)

MS = 1_000_000
SECOND = 1000 * MS
NMC = AlarmLimits()
PACK = PackValues(cell_voltages_v=(3.7, 3.71, 3.69, 3.7), temperatures_c=(21.0, 22.0, 23.0))
MOTOR = MotorReadings(
    state=MotorState.READY, power_w=0.0, speed_rpm=0, torque_nm=0.0, controller_temperature_c=41, motor_temperature_c=48
)
READINGS = MasterReadings(
    ignition_on=True,
    speed_kmh=0.0,
    is_charging=False,
    current_a=1.0,
    soc_pct=60.0,
    insulation_kohm=5000.0,
    motors=(MOTOR,),
)


def cells(*volts):
    return replace(PACK, cell_voltages_v=volts)


def probes(*degrees):
    return replace(PACK, temperatures_c=degrees)


def motor(**changes):
    return replace(READINGS, motors=(replace(MOTOR, **changes),))


# What is known, the flags as the 32-bit word, and the level of 2016; by the limits of NMC unless it says LFP.
TABLE = [
    ("all is well", PACK, READINGS, 0x000000, 0),
    ("probes 30 K apart", probes(20.0, 50.0), READINGS, 0x000001, 2),
    ("probes 15 K apart are not yet an alarm", probes(20.0, 35.0), READINGS, 0x000000, 0),
    ("probes 15.1 K apart", probes(20.0, 35.1, None), READINGS, 0x000001, 1),
    ("50.1 degrees", probes(50.1, 49.0), READINGS, 0x000002, 1),
    ("55.1 degrees", probes(55.1, 55.0), READINGS, 0x000002, 2),
    ("60.1 degrees", probes(60.1, 60.0), READINGS, 0x000002, 3),
    ("a thermal event has no bit in 2016", probes(80.1, 80.0), READINGS, 0x000002, 3),
    ("every cell a little high", cells(4.225, 4.225), READINGS, 0x000004, 1),
    ("every cell high", cells(4.301, 4.301), READINGS, 0x000024, 3),
    ("every cell low", cells(2.6, 2.6), READINGS, 0x000048, 2),
    ("the sum is not known", cells(2.6, 2.6, None), READINGS, 0x000040, 1),
    ("state of charge 5 %", PACK, replace(READINGS, soc_pct=5.0), 0x000000, 0),
    ("state of charge 4 %", PACK, replace(READINGS, soc_pct=4.0), 0x000010, 1),
    ("state of charge 1 %", PACK, replace(READINGS, soc_pct=1.0), 0x000010, 2),
    ("state of charge 0 %", PACK, replace(READINGS, soc_pct=0.0), 0x000010, 2),
    ("state of charge 103 %", PACK, replace(READINGS, soc_pct=103.0), 0x000080, 1),
    ("state of charge is no number", PACK, replace(READINGS, soc_pct=math.nan), 0x000000, 0),
    ("a cell at 4.25", cells(4.25, 4.1), READINGS, 0x000020, 1),
    ("a cell at 4.251", cells(4.251, 4.1), READINGS, 0x000020, 2),
    ("a cell at 4.301", cells(4.301, 4.1), READINGS, 0x000020, 3),
    ("a cell at 2.7", cells(2.7, 2.95), READINGS, 0x000048, 1),
    ("spread 500 mV", cells(3.5, 4.0), READINGS, 0x000400, 1),
    ("spread 501 mV", cells(3.5, 4.001), READINGS, 0x000400, 2),
    ("spread 300 mV", cells(3.5, 3.8), READINGS, 0x000000, 0),
    ("insulation 0.4 kOhm/V", cells(3.7, 3.7), replace(READINGS, insulation_kohm=2.9), 0x000800, 1),
    ("insulation 0.09 kOhm/V", cells(3.7, 3.7), replace(READINGS, insulation_kohm=0.6), 0x000800, 3),
    ("insulation is not known", PACK, replace(READINGS, insulation_kohm=None), 0x000000, 0),
    ("motor controller 91 degrees", PACK, motor(controller_temperature_c=91), 0x008000, 1),
    ("motor 161 degrees", PACK, motor(motor_temperature_c=161), 0x020000, 3),
    ("over-charge", cells(4.26, 4.2), replace(READINGS, current_a=-20.0), 0x040024, 2),
    ("over-speed has no bit in 2016", PACK, motor(speed_rpm=17_000), 0x000000, 0),
    (
        "brakes and interlock, of other controllers",
        PACK,
        replace(READINGS, vehicle_alarms={AlarmFlag.HIGH_VOLTAGE_INTERLOCK: 3, AlarmFlag.BRAKE_SYSTEM: 1}),
        0x012000,
        3,
    ),
    (
        "DC/DC converter: temperature and state",
        PACK,
        replace(READINGS, vehicle_alarms={AlarmFlag.DCDC_STATE: 1, AlarmFlag.DCDC_TEMPERATURE: 2}),
        0x005000,
        2,
    ),
    ("nothing is known", PackValues((None,) * 4, (None,) * 3), READINGS, 0x000000, 0),
]


def body(pack, readings, edition=Edition.GBT2016, **options):
    bodies = report_bodies(pack, readings, edition=edition, **options)
    return next(each for each in bodies if isinstance(each, Alarms | Alarms2025))


@pytest.mark.parametrize(
    ("pack", "readings", "flags", "level"), [row[1:] for row in TABLE], ids=[row[0] for row in TABLE]
)
def test_the_word_of_2016(pack, readings, flags, level):
    alarms = body(pack, readings)
    assert (hex(alarms.flags), alarms.level_max) == (hex(flags), level)


@pytest.mark.parametrize(
    ("pack", "readings", "flags", "levels"),
    [
        (probes(80.1, 80.0), READINGS, 0x800002, {1: 3, 23: 4}),
        (PACK, motor(speed_rpm=17_000), 0x080000, {19: 1}),
        (PACK, replace(motor(power_w=250_000.0), current_a=701.0), 0x100000, {20: 2}),
        (cells(3.5, 4.001), replace(READINGS, soc_pct=1.0), 0x000410, {4: 2, 10: 2}),
        (PACK, READINGS, 0, {}),
    ],
    ids=["thermal event", "over-speed", "over-current", "two of level 2", "none"],
)
def test_the_word_of_2025_and_its_levels(pack, readings, flags, levels):
    alarms = body(pack, readings, Edition.GBT2025)
    assert alarms.flags == flags
    assert {each.bit: each.level for each in alarms.general_levels} == levels
    assert alarms.level_max == max(levels.values(), default=0)


def test_a_cell_of_iron_phosphate_is_full_much_earlier():
    pack = cells(3.9, 3.75)
    assert (body(pack, READINGS).flags, body(pack, READINGS).level_max) == (0, 0)
    alarms = body(pack, READINGS, alarm_limits=LFP_ALARM_LIMITS)
    assert (alarms.flags, alarms.level_max) == (0x24, 3)
    assert body(cells(3.65, 3.65), READINGS, alarm_limits=LFP_ALARM_LIMITS).flags == 0
    assert body(cells(2.7, 2.7), READINGS, alarm_limits=LFP_ALARM_LIMITS).flags == 0


# -- over time


def levels_of(watch, packs, *, readings=READINGS, period_s=1):
    """The levels after each look, as {bit: level}."""
    found = []
    for number, pack in enumerate(packs):
        each, of_look = pack if isinstance(pack, tuple) else (pack, readings)
        watch.look(each, of_look, number * period_s * SECOND)
        found.append({flag.bit_length() - 1: level for flag, level in watch.levels.items()})
    return found


HIGH, HIGHER = cells(4.24, 4.1), cells(4.31, 4.1)


def test_an_alarm_comes_and_goes_when_looks_agree():
    said = levels_of(AlarmWatch(NMC), [HIGH] * 3 + [PACK] * 5)
    assert said == [{}, {}, {5: 1}, {5: 1}, {5: 1}, {5: 1}, {5: 1}, {}]


def test_a_single_wrong_sample_is_no_alarm_and_ends_none():
    assert levels_of(AlarmWatch(NMC), [HIGH, HIGH, PACK] * 5) == [{}] * 15
    said = levels_of(AlarmWatch(NMC), [HIGH] * 3 + [PACK, PACK, HIGH] * 4)
    assert said[2:] == [{5: 1}] * 13


def test_a_level_rises_and_falls_like_an_alarm():
    said = levels_of(AlarmWatch(NMC), [HIGH] * 3 + [HIGHER] * 3 + [HIGH] * 5)
    assert said[2:6] == [{5: 1}] * 3 + [{5: 3}]
    assert said[-2:] == [{5: 3}, {5: 1}]


def test_each_diagnosis_has_its_own_patience():
    low = replace(READINGS, soc_pct=1.0)
    assert levels_of(AlarmWatch(NMC), [(PACK, low)] * 5)[3:] == [{}, {4: 2}]
    interlock = replace(READINGS, vehicle_alarms={AlarmFlag.HIGH_VOLTAGE_INTERLOCK: 3})
    assert levels_of(AlarmWatch(NMC), [(PACK, interlock)]) == [{16: 3}]


def test_a_jump_of_the_state_of_charge_stays_a_minute():
    jumped = replace(READINGS, soc_pct=66.0)
    said = levels_of(AlarmWatch(NMC), [(PACK, READINGS)] + [(PACK, jumped)] * 61)
    assert said[0] == {}
    assert said[1:-1] == [{8: 1}] * 60
    assert said[-1] == {}
    slowly = [(PACK, replace(READINGS, soc_pct=60.0 + 4.9 * number)) for number in range(5)]
    assert levels_of(AlarmWatch(NMC), slowly) == [{}] * 5
    # As seldom as this a fast charge may bring as much.
    assert levels_of(AlarmWatch(NMC), [(PACK, READINGS), (PACK, jumped)], period_s=60) == [{}] * 2


def test_a_probe_that_rises_fast_and_is_hot_is_a_thermal_event_that_stays():
    rising = [probes(20.0, 58.0 + 1.1 * number) for number in range(8)]
    said = levels_of(AlarmWatch(NMC), rising + [PACK] * 20)
    first = next(number for number, levels in enumerate(said) if 23 in levels)
    assert rising[first].temperatures_c[1] < 80
    assert first == 3
    assert said[-1] == {23: 4}
    slow = [probes(20.0, 61.0 + 0.5 * number) for number in range(8)]
    assert all(23 not in levels for levels in levels_of(AlarmWatch(NMC), slow))


# -- a whole master


def live(rig, seconds, *, volts=None):
    """Let the slaves measure each second; nothing else happens, so time goes in large steps."""
    for _ in range(seconds):
        if volts is not None:
            rig.pack.slaves[0].cells[0] = volts
        rig.measure()
        rig.pack.now_ns += SECOND - 10 * MS
        for _ in range(4):
            rig.tick()


@pytest.fixture(params=Edition)
def rig(request, world):
    made = world.MasterRig(terminal=TerminalOptions(edition=request.param))
    made.until(lambda: made.master.link_state is TerminalState.LOGGED_IN)
    live(made, 40)
    made.master.send_report(made.now_ns)
    live(made, 1)
    assert len(made.reports) == 1
    return made


def alarms_in(report):
    return next(each for kind, each in report.items() if kind in (Alarms, Alarms2025))


def test_the_seconds_around_an_alarm_of_level_3_are_reported(rig):
    """The 30 seconds before as backfill, without the one that was reported; those after it: 30, or in 2025 until it is over and 30."""
    edition = rig.configuration.terminal.edition
    live(rig, 50, volts=4.35)
    live(rig, 60, volts=3.61)
    onset = next(number for number, (_, is_backfill) in enumerate(rig.times[1:], start=1) if not is_backfill)
    after = [
        (time, alarms_in(report)) for (time, late), report in zip(rig.times, rig.reports, strict=True) if not late
    ][1:]
    before = [(time, alarms_in(report)) for (time, late), report in zip(rig.times, rig.reports, strict=True) if late]
    assert onset > 0
    assert before[0][0] >= after[0][0] - timedelta(seconds=30)
    assert [alarms.level_max for _, alarms in before] == [0] * len(before)
    assert len(before) >= 28
    assert after[0][1].level_max == 3
    assert after[0][1].flags & AlarmFlag.CELL_OVER_VOLTAGE
    for times in ([time for time, _ in before], [time for time, _ in after]):
        gaps = {(later - earlier).total_seconds() for earlier, later in pairwise(times)}
        # One second is missing among those before: it had been reported already.
        assert gaps <= ({1.0, 2.0} if times[0] < after[0][0] else {1.0})
    assert len({time for time, _ in rig.times}) == len(rig.times), "a second was reported twice"
    assert len(after) == (31 if edition is Edition.GBT2016 else 53)


def test_no_alarm_of_level_2_is_reported_each_second(rig):
    live(rig, 40, volts=4.26)
    assert len(rig.reports) == 1
    rig.master.send_report(rig.now_ns)
    live(rig, 1)
    assert alarms_in(rig.reports[-1]).level_max == 2


def test_a_silent_slave_is_a_fault_until_it_is_heard_again(rig):
    slave = rig.pack.slaves[1]
    slave.is_on = False
    live(rig, 6)
    rig.master.send_report(rig.now_ns)
    live(rig, 1)
    told = alarms_in(rig.reports[-1])
    assert (told.level_max, told.ress_faults) == (2, (0xE2E00502,))
    slave.is_on = True
    live(rig, 3)
    rig.master.send_report(rig.now_ns)
    live(rig, 1)
    assert (alarms_in(rig.reports[-1]).level_max, alarms_in(rig.reports[-1]).ress_faults) == (0, ())
    changes = [
        (each.position, each.fault, each.is_present) for each in rig.events if isinstance(each, SlaveFaultChanged)
    ]
    assert changes == [(2, SlaveFault.SILENT, True), (2, SlaveFault.SILENT, False)]


def test_a_slave_that_never_says_anything_is_silent_too(world):
    rig = world.MasterRig()
    rig.pack.slaves[1].is_on = False
    rig.until(lambda: rig.master.link_state is TerminalState.LOGGED_IN)
    live(rig, 8)
    rig.master.send_report(rig.now_ns)
    live(rig, 1)
    assert alarms_in(rig.reports[-1]).ress_faults == (0xE2E00502,)
