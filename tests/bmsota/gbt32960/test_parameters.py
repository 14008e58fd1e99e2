"""Parameter lists: the two traps, the sentinels, the editions."""

from __future__ import annotations

import pytest

from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960 import (
    Edition,
    Frame,
    Parameter,
    ParameterId,
    ParameterQuery,
    ParameterValues,
    RawMessage,
    ReplyFlag,
    Sentinel,
    beijing_time,
    decode,
    encode,
)

NOW = beijing_time(1_767_225_600 * 10**9)
TIME = bytes((26, 1, 1, 8, 0, 0))


def unit_of(message, command=0x81, edition=Edition.GBT2016, *, strict=False):
    return encode(Frame(command=command, vin="V", message=message, edition=edition), strict=strict)[24:-1]


def decoded(unit, command=0x81, flag=ReplyFlag.COMMAND, edition=Edition.GBT2016):
    frame = Frame(command=command, vin="V", message=RawMessage(unit), reply_flag=flag, edition=edition)
    return decode(encode(frame)).message


def test_names_bring_their_lengths():
    """0x05 and 0x0E have none of their own (surprise 7); `build` puts it in front."""
    values = ParameterValues.build(NOW, {ParameterId.PLATFORM_NAME: "a.example", ParameterId.PLATFORM_PORT: 32960})
    assert unit_of(values) == TIME + b"\x03\x04\x09\x05a.example\x06\x80\xc0"
    assert decoded(unit_of(values)) == values


def test_two_parameters_shrink_in_2025():
    """Surprise 6: the same list has other sizes under $$."""
    values = ParameterValues.build(NOW, {2: 10, 3: 1})
    assert unit_of(values) == TIME + b"\x02\x02\x00\x0a\x03\x00\x01"
    assert unit_of(values, edition=Edition.GBT2025) == TIME + b"\x02\x02\x0a\x03\x01"
    assert decoded(TIME + b"\x02\x02\x0a\x03\x01", edition=Edition.GBT2025) == values
    with pytest.raises(FrameError):
        decoded(TIME + b"\x02\x02\x0a\x03\x01")


def test_a_parameter_of_unknown_size_ends_the_list():
    """The rest is kept; the announced count says that more was meant."""
    unit = TIME + b"\x03\x10\x01\x80\x01\x02\x06\x00\x50"
    message = decoded(unit)
    expected = (Parameter(0x10, 1), Parameter(0x80, b"\x01\x02\x06\x00\x50"))
    assert message == ParameterValues(NOW, expected, 3)
    assert unit_of(message) == unit


@pytest.mark.parametrize(("raw", "sentinel"), [(0xFE, Sentinel.ABNORMAL), (0xFF, Sentinel.INVALID)])
def test_counts_may_be_sentinels(raw, sentinel):
    unit = TIME + bytes((raw,))
    assert decoded(unit) == ParameterValues(NOW, sentinel)
    assert decoded(unit, command=0x80) == ParameterQuery(NOW, sentinel)
    assert unit_of(ParameterValues(NOW, sentinel)) == unit
    assert unit_of(ParameterQuery(NOW, sentinel), command=0x80) == unit


def test_values_may_be_sentinels():
    values = ParameterValues.build(NOW, {1: Sentinel.INVALID, 9: Sentinel.ABNORMAL})
    assert unit_of(values) == TIME + b"\x02\x01\xff\xff\x09\xfe"
    assert decoded(unit_of(values)) == values


@pytest.mark.parametrize(
    ("unit", "named"),
    [
        (TIME, "7 bytes|7 more bytes"),
        (TIME + b"\x01", "item 1 of 1: expected 1 more byte"),
        (TIME + b"\x02\x10\x01", "item 2 of 2"),
        (TIME + b"\x01\x01\x00", "parameter 0x01: expected 2 more bytes, got 1"),
        (TIME + b"\x01\x05abc", "its length, parameter 0x04, earlier in the list"),
        (TIME + b"\x02\x04\x05\x05abc", "parameter 0x05: expected 5 more bytes, got 3"),
        (TIME + b"\x01\x10\x01\x00", "expected 1 item, got 1 more byte"),
        (TIME + b"\xff\x00", "1 more byte"),
    ],
)
def test_lists_that_are_wrong_are_refused(unit, named):
    with pytest.raises(FrameError, match=named):
        decoded(unit)


def test_queries_that_are_wrong_are_refused():
    """A query is recognised by its length, because terminals send values under the command flag, too."""
    assert decoded(TIME + b"\x02\x01\x02", command=0x80) == ParameterQuery(NOW, (1, 2))
    assert decoded(TIME + b"\x01\x10\x01", command=0x80) == ParameterValues.build(NOW, {0x10: 1})
    with pytest.raises(FrameError, match="no ids behind a sentinel"):
        decoded(TIME + b"\xff\x01", command=0x80)
    with pytest.raises(FrameError, match="more byte"):
        decoded(TIME + b"\x02\x01\x02\x03", command=0x80)
    for unit in (b"", TIME, TIME + b"\x02\x01"):
        with pytest.raises(FrameError):
            decoded(unit, command=0x80)


@pytest.mark.parametrize(
    ("message", "named"),
    [
        (ParameterValues(NOW, (Parameter(5, "a"),)), "no length; put parameter 0x04 before it"),
        (ParameterValues(NOW, (Parameter(4, 2), Parameter(5, "abc"))), "at most 2 bytes"),
        (ParameterValues(NOW, (Parameter(4, 4), Parameter(5, "abc"))), "expected 4 bytes as announced"),
        (ParameterValues(NOW, (Parameter(0x42, 5),)), "expected bytes, since its size is not known"),
        (ParameterValues(NOW, (Parameter(0x42, b""), Parameter(1, 5))), "follows a parameter of unknown size"),
        (ParameterValues(NOW, (Parameter(256, b""),)), "parameter id"),
        (ParameterValues(NOW, (Parameter(1, 65534),)), "0 to 65533 ms or a Sentinel"),
        (ParameterValues(NOW, (Parameter(7, "1.0.0.0"),)), "at most 5 bytes"),
        (ParameterValues(NOW, (Parameter(1, 5),), 2), "count: expected 1, got 2"),
        (ParameterValues(NOW, (Parameter(1, 5),), 300), "at most 253 items"),
        (ParameterQuery(NOW, (256,)), "numbers from 0 to 255"),
        (ParameterQuery(NOW, (1,) * 254), "at most 253 items"),
    ],
)
def test_what_cannot_be_sent_is_refused(message, named):
    with pytest.raises(LocalProtocolError, match=named):
        unit_of(message, command=0x80)


def test_strict_lists_keep_the_texts_ranges():
    with pytest.raises(LocalProtocolError, match="1 to 240 s"):
        unit_of(ParameterValues.build(NOW, {9: 241}), strict=True)
