"""What a unit's ledger remembers of questions that are over: enough to name a second and a late answer, and no more."""

from __future__ import annotations

import pytest
from bmsota_sim.run.ledger import KEPT_MAX, LOST_NS, Ledger
from bmsota_sim.run.scenario import parse_scenario
from bmsota_sim.run.selection import UnitId

from bmsota.checksums import bcc_xor

VIN = "LBM00000000000001"
SCENARIO = """
name: small
duration: 10min
platform: { acknowledges_reports: "yes" }
groups: { f: { profile: E7, count: 1 } }
"""


def report(time, flag=0xFE):
    """The shortest frame that is counted as a report, or its answer: a header and a time."""
    body = bytes((2, flag)) + VIN.encode() + b"\x01" + (6).to_bytes(2, "big") + bytes(time)
    return b"##" + body + bytes((bcc_xor(body),))


def minute(number):
    return (26, 1, 1, 0, number // 60, number % 60)


@pytest.fixture
def unit():
    who = UnitId("f", 1)
    found = Ledger(parse_scenario(SCENARIO), {who: VIN}).units[who]
    found.opened(0)
    return found


def count(unit, counter):
    return unit.ledger.of_unit(unit.unit)[counter]


def ask(unit, number, now_ns=0):
    unit.sent(report(minute(number)), now_ns)


def answer(unit, time, now_ns=0):
    unit.received(report(time, flag=1), now_ns)


def test_a_second_answer_is_known_as_long_as_its_question_is_kept(unit):
    """Of more reports than are kept, the last are known and the first are forgotten: an answer to those is one to nothing."""
    for number in range(KEPT_MAX + 3):
        ask(unit, number)
        answer(unit, minute(number))
    assert (count(unit, "acknowledged"), count(unit, "answered_twice")) == (KEPT_MAX + 3, 0)
    for number in (3, KEPT_MAX + 2):
        answer(unit, minute(number))
    assert (count(unit, "answered_twice"), count(unit, "garbage")) == (2, 0)
    answer(unit, minute(2))
    assert (count(unit, "answered_twice"), count(unit, "garbage")) == (2, 1)


def test_a_late_answer_counts_once(unit):
    ask(unit, 1)
    ask(unit, 2)
    unit.expire(LOST_NS + 1)
    assert count(unit, "unanswered") == 2
    for _ in range(2):
        answer(unit, minute(2), LOST_NS + 2)
    assert (count(unit, "late_answers"), count(unit, "garbage")) == (1, 1)
    answer(unit, minute(1), LOST_NS + 3)
    assert (count(unit, "late_answers"), count(unit, "garbage")) == (2, 1)


def test_a_question_is_not_found_between_two_others(unit):
    """The end of one time and the beginning of the next can look like a third question."""
    for time in ((26, 1, 2, 20, 5, 7), (26, 1, 3, 0, 0, 0)):
        unit.sent(report(time), 0)
        answer(unit, time)
    answer(unit, (20, 5, 7, 2, 26, 1))
    assert (count(unit, "answered_twice"), count(unit, "garbage")) == (0, 1)
