"""Subsystems of more than 200 cells come in parts, and come out whole or not at all."""

from __future__ import annotations

from datetime import datetime, timedelta
from itertools import permutations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    BEIJING,
    Alarms,
    CellVoltages,
    Frame,
    Report,
    Sentinel,
    SubsystemAssembler,
    SubsystemVoltages,
    encode,
    split_report,
)

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=BEIJING)


def cells(first, count):
    """Voltages that say which cell they are of."""
    return tuple((3000 + number) / 1000 for number in range(first, first + count))


def part(first, count, total, number=1, *, voltage=350.0):
    return SubsystemVoltages(number, voltage, 1.0, total, first, cells(first, count))


def add(assembler, *parts, time=NOW):
    return assembler.add(time, CellVoltages(parts))


def test_parts_are_put_together_in_any_order():
    """500 cells in three parts, all six orders."""
    parts = [part(1, 200, 500), part(201, 200, 500), part(401, 100, 500)]
    for order in permutations(parts):
        assembler = SubsystemAssembler()
        assert add(assembler, order[0]) == add(assembler, order[1]) == ()
        (found,) = add(assembler, order[2])
        assert (found.time, found.is_complete, found.missing) == (NOW, True, ())
        assert found.subsystem == part(1, 500, 500)
        assert assembler.pending_count == 0


@pytest.mark.slow
@settings(max_examples=100, deadline=None)
@given(st.lists(st.integers(0, 700), max_size=4), st.booleans())
def test_a_report_is_cut_as_the_table_says_and_put_together_again(sizes, is_first):
    """No frame has more than 200 cells of a subsystem; each can be sent; the assembler gives back what was cut."""
    whole = tuple(part(1, size, size, number) for number, size in enumerate(sizes, start=1) if size)
    alarms = Alarms(0, 0)
    bodies = (CellVoltages(whole), alarms) if is_first else (alarms, CellVoltages(whole))
    report = Report(NOW, bodies)
    reports = split_report(report)
    assert len(reports) == max(1, -(-max(sizes, default=0) // 200))
    assert [type(body) for body in reports[0].bodies] == [type(body) for body in bodies]
    assembler, found = SubsystemAssembler(), []
    for each in reports:
        if whole:
            encode(Frame(command=2, vin="LTEST000000000001", message=each), strict=True)
        assert each.time == NOW
        cut = each.get(CellVoltages)
        assert all(len(subsystem.cell_voltages_v) <= 200 for subsystem in cut.subsystems)
        found += assembler.add(NOW, cut)
    assert sorted((each.subsystem for each in found), key=lambda each: each.number) == list(whole)
    assert all(each.is_complete for each in found)


def test_a_report_that_fits_is_sent_as_it_is():
    for body in (
        CellVoltages((part(1, 200, 200),)),
        CellVoltages(Sentinel.INVALID),
        Alarms(0, 0),
        CellVoltages((part(201, 3, 203),)),
    ):
        report = Report(NOW, (body,))
        assert split_report(report) == (report,)


def test_one_part_missing_is_said_and_not_filled_in():
    assembler = SubsystemAssembler()
    add(assembler, part(1, 100, 400), part(301, 100, 400))
    (found,) = assembler.flush()
    assert not found.is_complete
    assert found.missing == (range(101, 301),)
    assert found.subsystem.cell_voltages_v == cells(1, 100) + (Sentinel.INVALID,) * 200 + cells(301, 100)
    assert assembler.flush() == ()


def test_times_and_subsystems_are_kept_apart():
    """Backfill of another time comes between, and two subsystems in one body."""
    assembler = SubsystemAssembler()
    earlier = NOW - timedelta(seconds=10)
    assert add(assembler, part(1, 200, 300), part(1, 150, 300, 2)) == ()
    assert add(assembler, part(201, 100, 300), time=earlier) == ()
    (second,) = add(assembler, part(151, 150, 300, 2))
    assert (second.subsystem.number, second.time) == (2, NOW)
    (first,) = add(assembler, part(201, 100, 300))
    assert (first.subsystem.number, first.time) == (1, NOW)
    (late,) = add(assembler, part(1, 200, 300), time=earlier)
    assert (late.is_complete, late.time) == (True, earlier)


def test_a_whole_subsystem_passes_through():
    """Also one without a known count, and a body whose count is a sentinel has none."""
    assembler = SubsystemAssembler()
    whole = part(1, 96, 96)
    unknown = SubsystemVoltages(3, 1.0, 1.0, Sentinel.INVALID, 1, (3.3,))
    assert [found.subsystem for found in add(assembler, whole, unknown)] == [whole, unknown]
    assert assembler.add(NOW, CellVoltages(Sentinel.ABNORMAL)) == ()


def test_cells_may_be_counted_from_0():
    """As some terminals do against the text."""
    assembler = SubsystemAssembler()
    add(assembler, part(200, 100, 300))
    (found,) = add(assembler, part(0, 200, 300))
    assert (found.is_complete, found.subsystem.first_cell) == (True, 0)
    assert found.subsystem.cell_voltages_v == cells(0, 300)


def test_a_part_that_comes_twice_counts_once_and_the_later_wins():
    assembler = SubsystemAssembler()
    add(assembler, part(1, 200, 300, voltage=1.0))
    add(assembler, part(1, 200, 300, voltage=2.0))
    (found,) = add(assembler, part(201, 100, 300, voltage=3.0))
    assert (found.is_complete, found.subsystem.voltage_v) == (True, 3.0)


def test_a_part_that_contradicts_itself_comes_out_at_once():
    """More cells than there are, behind the last, or none: nothing could be put together from it."""
    assembler = SubsystemAssembler()
    for wrong, missing in (
        (part(201, 150, 300), (range(1, 201),)),
        (part(1, 301, 300), ()),
        (part(400, 10, 300), (range(1, 301),)),
        (part(1, 0, 300), (range(1, 301),)),
    ):
        (found,) = add(assembler, wrong)
        assert (found.subsystem, found.missing) == (wrong, missing)
    assert assembler.pending_count == 0


def test_another_count_at_the_same_time_begins_anew():
    assembler = SubsystemAssembler()
    add(assembler, part(1, 200, 300))
    (given_up,) = add(assembler, part(1, 200, 400))
    assert (given_up.subsystem.cell_count, given_up.missing) == (300, (range(201, 301),))
    (whole,) = add(assembler, part(201, 200, 400))
    assert whole.is_complete


def test_the_oldest_is_given_up_when_too_many_are_unfinished():
    """Bounded: a terminal that never finishes cannot fill the memory, and nothing goes silently."""
    assembler = SubsystemAssembler(pending_max=3)
    for second in (5, 1, 3):
        assert add(assembler, part(1, 200, 300), time=NOW + timedelta(seconds=second)) == ()
    (given_up,) = add(assembler, part(1, 200, 300), time=NOW + timedelta(seconds=9))
    assert (given_up.time, given_up.missing) == (NOW + timedelta(seconds=1), (range(201, 301),))
    assert assembler.pending_count == 3
    assert [found.time.second for found in assembler.flush()] == [10, 12, 16]
    with pytest.raises(LocalProtocolError, match="pending_max"):
        SubsystemAssembler(pending_max=0)


@pytest.mark.slow
@settings(max_examples=150, deadline=None)
@given(st.data())
def test_any_cut_in_any_order_gives_the_same_whole(data):
    """Parts of any size up to 200, in any order, with repeats before the end."""
    total = data.draw(st.integers(2, 900))
    parts, at = [], 1
    while at <= total:
        size = min(data.draw(st.integers(1, 200)), total + 1 - at, total - 1)
        parts.append(part(at, size, total))
        at += size
    order = data.draw(st.permutations(parts))
    assembler = SubsystemAssembler()
    for item in order[:-1]:
        assert add(assembler, item) == ()
        assert add(assembler, item) == ()
    (found,) = add(assembler, order[-1])
    assert found.is_complete
    assert found.subsystem.cell_voltages_v == cells(1, total)
