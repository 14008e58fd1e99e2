"""The compiled codec: equal to cantools, equal to its own reference, and clear about what does not fit."""

from __future__ import annotations

import math
import random

import cantools
import numpy as np
import pytest
from dbc_layouts import layouts, values_for
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmsota.errors import SignalError
from bmsota.signals import loads
from bmsota.signals._codec import decode_reference, encode_reference

pytestmark = pytest.mark.slow

SLOW_IS_FINE = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])


def both(text):
    """(our message, cantools' message) of a text without a fault, except names for numbers the bits cannot hold."""
    database = loads(text)
    assert [fault for fault in database.faults if not fault.reason.startswith("expected a number from")] == []
    ours = database["Message"]
    theirs = cantools.database.load_string(text, database_format="dbc", strict=True).get_message_by_name("Message")
    return ours, theirs


def plain(values):
    """Values that compare: cantools' named values as str, NaN as a word."""
    out = {}
    for name, value in values.items():
        if isinstance(value, int | float):
            out[name] = "NaN" if isinstance(value, float) and math.isnan(value) else value
        else:
            out[name] = str(value)
    return out


def outcome(function, *arguments):
    """What a codec does: its result, or the fact that it refuses (cantools refuses with many exception types)."""
    try:
        return function(*arguments)
    except Exception:  # noqa: BLE001 - see above
        return "refused"


@SLOW_IS_FINE
@given(layout=layouts(), data=st.data())
def test_any_frame_decodes_as_in_cantools(layout, data):
    ours, theirs = both(layout.text)
    frame = data.draw(st.binary(min_size=layout.size_bytes, max_size=layout.size_bytes + 2))
    expected = outcome(theirs.decode, frame)
    if expected == "refused":
        with pytest.raises(SignalError):
            ours.decode(frame)
    else:
        assert plain(ours.decode(frame)) == plain(expected)
        raw = outcome(lambda: theirs.decode(frame, scaling=False, decode_choices=False))
        # Unscaled, cantools looks a multiplexer up by its raw number, and may end in another branch; we do not.
        if raw != "refused" and set(raw) == set(expected):
            assert plain(ours.decode_raw(frame)) == plain(raw)
        assert plain(ours.decode(frame)) == plain(
            decode_reference(ours.layout, frame, size_bytes=ours.length, where="")
        )


@SLOW_IS_FINE
@given(layout=layouts(), data=st.data())
def test_any_values_encode_as_in_cantools_or_are_refused_by_both(layout, data):
    """Not compared: NaN and infinity, where cantools packs or stumbles depending on the signal's neighbours."""
    ours, theirs = both(layout.text)
    values = data.draw(values_for(ours))
    if any(isinstance(value, float) and not math.isfinite(value) for value in values.values()):
        return
    expected = outcome(theirs.encode, values)
    if expected == "refused":
        with pytest.raises(SignalError):
            ours.encode(values)
    else:
        assert ours.encode(values) == expected


@SLOW_IS_FINE
@given(layout=layouts(), data=st.data())
def test_the_compiled_encoder_never_differs_from_the_reference(layout, data):
    ours = loads(layout.text)["Message"]
    values = data.draw(values_for(ours))

    def told(function):
        try:
            return function()
        except SignalError as error:
            return str(error)

    expected = told(lambda: encode_reference(ours.layout, values, size_bytes=ours.length, where="Message"))
    assert told(lambda: ours.encode(values)) == expected


def test_random_frames_of_the_project_decode_and_encode_as_in_cantools(project_dbc):
    ours, theirs = project_dbc
    draw = random.Random(20)
    for message in theirs.messages:
        assert ours[message.name].can_id == message.frame_id
        frames = [draw.randbytes(message.length) for _ in range(20)]
        # Random bytes seldom hit a multiplexer number that is defined: one frame for each.
        for branch in ours[message.name].layout.branches:
            at = branch.multiplexer.start_bit // 8
            for number in branch.nodes:
                frame = draw.randbytes(message.length)
                frames.append(frame[:at] + bytes([number]) + frame[at + 1 :])
        for frame in frames:
            expected = outcome(message.decode, frame)
            assert outcome(ours[message.name].decode, frame) == (expected if expected == "refused" else plain(expected))
            if expected == "refused":
                continue
            values = plain(expected)
            again = outcome(message.encode, values)
            assert outcome(ours[message.name].encode, values) == again


def test_every_multiplexer_page_of_the_project_is_reached(internal):
    """The random frames above would not find page 7 of 256 often enough."""
    message = internal["Slave01_Identity"]
    pages = [message.decode(bytes([page]) + b"\x01ABCDEF") for page in range(8)]
    assert [set(page) - {"Page", "Transmission"} for page in pages] == [
        {"SoftwareMajor", "SoftwareMinor", "SoftwareRevision", "CellCount", "ProbeCount"},
        {"SoftwareBuild"}, {"HardwareClassCode"}, {"SecurityCounter"}, {"Serial_1"}, {"Serial_2"}, {"Serial_3"}, {"Serial_4"},
    ]  # fmt: skip
    assert pages[4]["Serial_1"].to_bytes(6, "big") == b"ABCDEF"
    for page in (0, 1, 2, 3, 5, 6, 7):
        data = bytes([page]) + b"\x01" + bytes(range(1, 7))
        assert message.encode(message.decode(data))[:5] == data[:5]


ONE = "BO_ 1 Message: 8 A\n SG_ {row}\n"


def one(row, extra=""):
    return loads(f"BU_: A\n{ONE.format(row=row)}{extra}")["Message"]


def test_values_that_do_not_fit_are_refused_by_name():
    message = one('Level : 4|4@1+ (0.5,0) [0|5] "V" A', 'VAL_ 1 Level 15 "Invalid" ;\n')
    assert message.encode({"Level": "Invalid"}) == b"\xf0" + bytes(7)
    assert message.encode({"Level": 7.5}) == b"\xf0" + bytes(7)  # Above the limit, but the value table names it.
    for value, said in [
        (5.5, "expected at most 5 V, got 5.5 (Message.Level)"),
        (-1, "expected at least 0 V, got -1 (Message.Level)"),
        ("High", "expected one of ['Invalid'], got 'High' (Message.Level)"),
        (None, "expected a number or a name of the value table, got NoneType (Message.Level)"),
        (math.nan, "expected a finite number, got nan (Message.Level)"),
    ]:
        with pytest.raises(SignalError) as caught:
            message.encode({"Level": value})
        assert str(caught.value) == said


def test_values_beyond_the_bits_are_refused_although_the_dbc_states_no_limit():
    message = one('Count : 0|4@1+ (1,0) [0|0] "" A')
    with pytest.raises(SignalError, match=r"expected 0 to 15 \(4 bits\), got 16 \(Message.Count\)"):
        message.encode({"Count": 16})
    signed = one('Count : 0|16@1- (0.1,0) [0|0] "" A')
    assert signed.decode(signed.encode({"Count": -3276.8}))["Count"] == -3276.8
    with pytest.raises(SignalError, match=r"expected -3276\.8 to 3276\.7"):
        signed.encode({"Count": -3276.9})


def test_missing_unknown_and_short_are_refused():
    message = one('Count : 0|4@1+ (1,0) [0|0] "" A')
    with pytest.raises(SignalError, match=r"no value for Count \(Message\)"):
        message.encode({})
    with pytest.raises(SignalError, match="no such signals in this frame: Cuont"):
        message.encode({"Count": 1, "Cuont": 2})
    with pytest.raises(SignalError, match=r"expected 8 data bytes, got 7 \(Message\)"):
        message.decode(bytes(7))
    assert message.decode(bytes([3]) + bytes(9)) == {"Count": 3}


def test_an_unknown_multiplexer_number_is_refused_both_ways(internal):
    message = internal["Slave02_Identity"]
    with pytest.raises(
        SignalError, match=r"expected multiplexer number 0, 1, 2, 3, 4, 5, 6, 7, got 8 \(Slave02_Identity.Page\)"
    ):
        message.decode(b"\x08" + bytes(7))
    with pytest.raises(SignalError, match="got 9"):
        message.encode({"Page": 9, "Transmission": 0})
    with pytest.raises(SignalError, match=r"expected one of .*'Security'.* got 'Colour'"):
        message.encode({"Page": "Colour", "Transmission": 0})


def test_a_float_that_is_too_large_is_refused():
    message = one('F : 0|32@1- (1,0) [0|0] "" A', "SIG_VALTYPE_ 1 F : 1;\n")
    assert message.decode(message.encode({"F": 1.5})) == {"F": 1.5}
    assert math.isnan(message.decode(message.encode({"F": math.nan}))["F"])
    with pytest.raises(SignalError, match="expected a number of 32 float bits"):
        message.encode({"F": 1e39})


def test_signals_that_share_bits_are_decoded_each_and_encoded_only_if_they_agree():
    """Real DBC files lay single flags over a status word; cantools refuses them when strict, and miscounts bits when not."""
    message = one('Word : 0|16@1+ (1,0) [0|0] "" A\n SG_ Flag : 3|1@1+ (1,0) [0|0] "" A')
    assert message.decode(b"\x08\x01" + bytes(6)) == {"Word": 0x108, "Flag": 1}
    assert message.encode({"Word": 0x108, "Flag": 1}) == b"\x08\x01" + bytes(6)
    for word, flag in ((0x100, 1), (0x108, 0)):
        with pytest.raises(SignalError, match="signals that share bits disagree"):
            message.encode({"Word": word, "Flag": flag})


def test_numbers_of_any_kind_are_taken_as_numbers():
    message = one('Count : 4|12@1+ (1,0) [0|0] "" A\n SG_ Wide : 17|40@1+ (1,0) [0|0] "" A')
    import numpy as np

    expected = message.encode({"Count": 7, "Wide": 2**39})
    assert message.encode({"Count": 7.0, "Wide": 2.0**39}) == expected
    assert message.encode({"Count": np.float64(7), "Wide": np.float64(2**39)}) == expected
    assert message.encode({"Count": True, "Wide": 0}) == message.encode({"Count": 1, "Wide": 0})


@pytest.mark.parametrize("scale", ["1,0", "2,1", "0.5,0", "0.5,3"])
@pytest.mark.parametrize("kind", ["", "SIG_VALTYPE_ 1 S : 2;", 'VAL_ 1 S 1 "One" ;'])
def test_a_number_that_no_double_holds_is_refused_by_name(scale, kind):
    """Python's integers have no end; neither has what a caller passes."""
    message = loads(f'BO_ 1 M: 8 A\n SG_ S : 0|64@1+ ({scale}) [0|0] "" A\n{kind}\n')["M"]
    for value in (10**400, -(10**400)):
        for encode in (message.encode, message.encode_raw, message.encode_batch):
            with pytest.raises(SignalError, match="S"):
                encode({"S": value})


def test_limits_beyond_a_double_are_none():
    """DBL_MAX as many tools write it, rounded up to 15 digits: "no limit" is what it means."""
    message = loads('BO_ 1 M: 8 A\n SG_ S : 0|64@1- (1,0) [-1.79769313486232E+308|1.79769313486232E+308] "" A\n')["M"]
    assert (message.signals[0].minimum, message.signals[0].maximum) == (None, None)
    assert message.encode({"S": -2}) == b"\xfe" + b"\xff" * 7
    assert message.encode_batch({"S": [-2]}).tobytes() == b"\xfe" + b"\xff" * 7


def test_an_integer_wider_than_any_double_is_encoded_as_it_was_decoded():
    """J1939 puts together up to 1785 bytes, and a DBC may call all of them one signal."""
    message = loads('BO_ 2566844926 M: 200 A\n SG_ S : 0|1600@1+ (1,0) [0|0] "" A\n')["M"]
    data = b"\xff" * 200
    assert message.encode(message.decode(data)) == data
    columns = message.decode_batch(np.frombuffer(data, dtype=np.uint8).reshape(1, -1))
    assert message.encode_batch(columns).tobytes() == data
