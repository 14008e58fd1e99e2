"""Explanations cover every byte once and say what `decode` says."""

from __future__ import annotations

import pytest

from bmsota.errors import FrameError
from bmsota.gbt32960 import Position, Position2025, Report, Sentinel, decode, explain


def test_every_byte_is_explained_once(good_vector):
    """The fields follow each other without a gap or an overlap, up to the check byte."""
    data = bytes.fromhex(good_vector["hex"])
    offset = 0
    for field in explain(data):
        assert field.offset == offset
        assert field.data == data[offset : offset + len(field.data)]
        assert field.data
        offset += len(field.data)
    assert offset == len(data)


def test_an_explanation_says_what_decode_says(good_vector):
    """Every number of every body, found by its name."""
    data = bytes.fromhex(good_vector["hex"])
    message = decode(data).message
    if not isinstance(message, Report):
        return
    named = {}
    for field in explain(data):
        named.setdefault(field.name, []).append(field.value)
    for body in message.bodies:
        if isinstance(body, (Position, Position2025)):
            continue  # Its signs are in the status byte.
        for name in getattr(type(body), "__slots__", ()):
            value = getattr(body, name)
            if isinstance(value, (int, float, Sentinel)):
                found = [values for path, values in named.items() if path.split(" / ")[1:] == [name]]
                assert value in [one for values in found for one in values] or name == "type_id"


def test_what_is_outside_the_texts_range_is_marked(vectors):
    """The frame of a motor with state 0, which the text does not know. It is decoded and not clamped."""
    data = bytes.fromhex(vectors["n36_02_realtime_report_with_wrong_data"]["hex"])
    marked = [field for field in explain(data) if not field.is_in_range]
    assert "0x02 drive motors / motors[0] / state" in [field.name for field in marked]
    state = next(field for field in marked if field.name.endswith("motors[0] / state"))
    assert (state.raw, state.value, state.clause) == (0, 0, "table 11")


def test_a_sentinel_is_in_range(vectors):
    """All fields of this frame say "invalid", which the text allows; only the gear has no such value."""
    data = bytes.fromhex(vectors["rtm_04"]["hex"])
    body = [field for field in explain(data) if field.name.startswith("0x01 vehicle")]
    assert [field.name for field in body if field.value is not Sentinel.INVALID] == ["0x01 vehicle / gear"]
    assert all(field.is_in_range for field in body)


def test_units_and_clauses_are_there(vectors):
    data = bytes.fromhex(vectors["bcd_perf"]["hex"])
    by_name = {field.name: field for field in explain(data)}
    voltage = by_name["0x08 cell voltages / subsystems[0] / cell_voltages_v[0]"]
    assert (voltage.raw, voltage.value, voltage.unit, voltage.clause) == (3867, 3.867, "V", "table B.6")
    current = by_name["0x01 vehicle / total_current_a"]
    assert (current.raw, current.value, current.unit, current.clause) == (9915, -8.5, "A", "table B.4")


def test_a_bad_frame_is_not_explained(bad_vector):
    with pytest.raises(FrameError):
        explain(bytes.fromhex(bad_vector["hex"]))
