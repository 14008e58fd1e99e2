"""The trace: one byte or one nanosecond more is another hash."""

from __future__ import annotations

from bmsota_sim import trace as module
from bmsota_sim.trace import Note, Trace


def trace_of(*entries):
    trace = Trace()
    for kind, *entry in entries:
        getattr(trace, kind)(*entry)
    return trace


BASE = (("note", 10, "V01", "boots"), ("octets", 20, "V01>", b"##\x01"), ("note", 30, "V02", "sleeps"))


def test_the_same_entries_have_the_same_hash():
    assert trace_of(*BASE).digest() == trace_of(*BASE).digest()


def test_every_difference_is_another_hash():
    variants = [
        BASE,
        BASE[:2],
        (BASE[1], BASE[0], BASE[2]),
        (("note", 11, "V01", "boots"), *BASE[1:]),
        (("note", 10, "V02", "boots"), *BASE[1:]),
        (("note", 10, "V01", "boot"), *BASE[1:]),
        (BASE[0], ("octets", 20, "V01>", b"##\x02"), BASE[2]),
        (BASE[0], ("octets", 20, "V01<", b"##\x01"), BASE[2]),
        (BASE[0], ("octets", 20, "V01>", b"##"), ("octets", 20, "V01>", b"\x01"), BASE[2]),
    ]
    assert len({trace_of(*variant).digest() for variant in variants}) == len(variants)


def test_the_hash_may_be_asked_for_in_between():
    asked = trace_of(*BASE[:2])
    asked.digest()
    asked.note(30, "V02", "sleeps")
    assert asked.digest() == trace_of(*BASE).digest()
    assert asked.entries == 3


def test_notes_are_kept_for_people_and_octets_are_not():
    assert list(trace_of(*BASE).notes) == [Note(10, "V01", "boots"), Note(30, "V02", "sleeps")]


def test_what_is_kept_is_bounded_and_the_hash_is_over_everything():
    one, other = Trace(), Trace()
    other.note(0, "first", "different")
    one.note(0, "first", "same")
    for number in range(module.NOTES_MAX):
        one.note(number, "V01", "x")
        other.note(number, "V01", "x")
    assert len(one.notes) == module.NOTES_MAX
    assert one.notes == other.notes
    assert one.digest() != other.digest()


def test_text_of_any_script_is_taken():
    assert (
        trace_of(("note", 1, "V01", "绝缘监测无应答")).digest()
        != trace_of(("note", 1, "V01", "绝缘监测无响应")).digest()
    )
