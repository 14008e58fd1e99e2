"""Users' own bodies: read by layouts that are passed in, with a length word, without one, and with a function that says it."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.canframe import CanFrame
from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError, LocalProtocolError, SignalError
from bmsota.gbt32960 import (
    BodyCodec,
    CanMessage,
    CanSignals,
    Edition,
    Engine,
    Frame,
    FrameReader,
    FrameReceived,
    Layouts,
    RawBody,
    RawMessage,
    Report,
    Sentinel,
    UnsizedBody,
    UserDefined,
    beijing_time,
    decode,
    encode,
    explain,
)
from bmsota.gbt32960.rows import Field, FixedBytes, Layout, Repeat, SizedText
from bmsota.signals import loads

NOW = beijing_time(1_767_225_600_000_000_000)
VIN = "LTEST000000000001"


@dataclass(frozen=True, slots=True)
class Heater:
    state: int
    temperature_c: float | Sentinel
    names: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Group:
    number: int
    data: bytes


@dataclass(frozen=True, slots=True)
class Groups:
    groups: tuple[Group, ...]


@dataclass(frozen=True, slots=True)
class Note:
    text: str


HEATER = Layout(
    label="0x85 heater",
    cls=Heater,
    rows=(
        Field(name="state", size_bytes=1, raw_min=0, raw_max=3),
        Field(name="temperature_c", size_bytes=2, raw_min=0, raw_max=2000, divisor=10, raw_offset=400, sentinels=True),
        Repeat(
            name="names",
            item=Field(name="name", size_bytes=1, raw_min=0, raw_max=255),
            count_size_bytes=1,
            count_min=0,
            count_max=9,
        ),
    ),
)
GROUP = Layout(
    label="group",
    cls=Group,
    rows=(Field(name="number", size_bytes=1, raw_min=0, raw_max=255), FixedBytes(name="data", size_bytes=2)),
)
GROUPS = Layout(
    label="0x82 groups",
    cls=Groups,
    rows=(Repeat(name="groups", item=GROUP, count_size_bytes=1, count_min=0, count_max=10),),
)
NOTE = Layout(label="0x0C note", cls=Note, rows=(SizedText(name="text"),))

LAYOUTS = Layouts(
    BodyCodec(type_id=0x85, layout=HEATER),
    BodyCodec(type_id=0x82, layout=GROUPS, has_length=False),
    # The Shanghai way: ten fixed groups, no length word.
    BodyCodec(type_id=0x81, has_length=False, size_of=10 * 4),
    BodyCodec(type_id=0x90, has_length=False, size_of=lambda rest: 1 + rest[0]),
    BodyCodec(type_id=0x0C, layout=NOTE, has_length=False, size_of=lambda rest: 1 + rest[0]),
    BodyCodec(type_id=0x91),
)


def report_of(*bodies, edition=Edition.GBT2016):
    return Frame(command=2, vin=VIN, message=Report(NOW, bodies), edition=edition)


HEATER_BODY = Heater(2, -3.5, (1, 2, 3))
BODIES = (
    HEATER_BODY,
    Groups((Group(1, b"ab"), Group(2, b"cd"))),
    UnsizedBody(0x81, bytes(range(40))),
    UnsizedBody(0x90, b"\x03abc"),
    Note("door"),
    UserDefined(0x91, b"xyz"),
    Engine(1, 900, Sentinel.INVALID),
)


def test_every_kind_of_registered_body_goes_there_and_back():
    """All in one report, between bodies of the standard; every byte is explained."""
    frame = report_of(*BODIES)
    for strict in (False, True):
        data = encode(frame, strict=strict, layouts=LAYOUTS)
        assert decode(data, layouts=LAYOUTS) == frame
    fields = explain(data, layouts=LAYOUTS)
    assert b"".join(field.data for field in fields) == data
    by_name = {field.name: field for field in fields}
    temperature = by_name["0x85 heater / temperature_c"]
    assert (temperature.raw, temperature.value) == (365, -3.5)
    assert by_name["0x81 registered / data"].value == bytes(range(40))


def test_the_bytes_are_where_the_codec_says():
    """With a length word and without."""
    data = encode(report_of(HEATER_BODY), layouts=LAYOUTS)
    assert data[30:-1].hex() == "85" + "0007" + "02" + "016d" + "03010203"
    data = encode(report_of(Note("hi")), layouts=LAYOUTS)
    assert data[30:-1].hex() == "0c" + "026869"


def test_without_the_registry_the_length_word_keeps_the_body_whole():
    """The same frame for a reader that knows nothing: a UserDefined, and bodies behind it are found."""
    data = encode(report_of(HEATER_BODY, Engine(1, 900, 5.0)), layouts=LAYOUTS)
    first, second = decode(data).message.bodies
    assert first == UserDefined(0x85, bytes.fromhex("02016d03010203"))
    assert second == Engine(1, 900, 5.0)


def test_two_registries_read_the_same_type_differently():
    """No global state: one maker's 0x85 is not the other's."""
    other = Layouts(BodyCodec(type_id=0x85, layout=NOTE))
    data = encode(report_of(Note("hi")), layouts=other)
    assert decode(data, layouts=other).message.bodies == (Note("hi"),)
    with pytest.raises(FrameError, match="heater"):
        decode(data, layouts=LAYOUTS)


def test_readers_take_a_registry():
    reader = FrameReader(layouts=LAYOUTS)
    reader.receive_data(encode(report_of(*BODIES), layouts=LAYOUTS))
    event = reader.next_event()
    assert isinstance(event, FrameReceived)
    assert event.frame.message.bodies == BODIES
    assert reader.next_event() is None


def test_a_codec_may_be_for_one_edition():
    """0x30 is free in 2016 and the fuel-cell stacks in 2025."""
    only = Layouts(BodyCodec(type_id=0x30, layout=HEATER, editions=frozenset({Edition.GBT2016})))
    data = encode(report_of(HEATER_BODY), layouts=only)
    assert decode(data, layouts=only).message.bodies == (HEATER_BODY,)
    with pytest.raises(LocalProtocolError, match="GBT2025 edition"):
        encode(report_of(HEATER_BODY, edition=Edition.GBT2025), layouts=only)
    with pytest.raises(LocalProtocolError, match="GBT2025 defines this type itself"):
        Layouts(BodyCodec(type_id=0x30, layout=HEATER))


@pytest.mark.parametrize(
    ("codecs", "named"),
    [
        ([BodyCodec(type_id=0x01, layout=HEATER)], "GBT2016 defines this type itself"),
        ([BodyCodec(type_id=0x100, layout=HEATER)], "0x00 to 0xFF"),
        ([BodyCodec(type_id=0x85, layout=HEATER), BodyCodec(type_id=0x85)], "registered twice for GBT2016"),
        (
            [BodyCodec(type_id=0x85, layout=HEATER), BodyCodec(type_id=0x86, layout=HEATER)],
            "Heater has another type in GBT2016 already",
        ),
        ([BodyCodec(type_id=0x85, size_of=3)], "has a length word; size_of is only for bodies without one"),
        ([BodyCodec(type_id=0x85, has_length=False)], "no length word; give a layout or size_of"),
        ([BodyCodec(type_id=0x85, layout=Layout(label="x", cls=Engine, rows=()))], "class of your own"),
    ],
)
def test_a_registry_that_could_not_work_is_refused(codecs, named):
    with pytest.raises(LocalProtocolError, match=named):
        Layouts(*codecs)


@pytest.mark.parametrize(
    ("unit", "named"),
    [
        ("85 0006 02 016d 03 0102", "heater.names: expected 3 more bytes, got 2"),
        ("85 0008 02 016d 03 010203 00", "heater: expected the end of the body, got 1 more byte"),
        ("85 00", "user-defined"),
        ("81 00", "body 0x81: expected 40 more bytes, got 1"),
        ("90", "bytes that tell the body's size"),
        ("90 05 00", "body 0x90: expected 6 more bytes"),
        ("0c 02 61", "body 0x0c: expected 3 more bytes"),
        ("82 02 01 6162", "group: expected 3 more bytes"),
    ],
)
def test_a_body_that_does_not_fit_is_refused_by_name(unit, named):
    raw = RawMessage(bytes((26, 1, 1, 0, 0, 0)) + bytes.fromhex(unit))
    with pytest.raises(FrameError, match=named):
        decode(encode(Frame(command=2, vin=VIN, message=raw)), layouts=LAYOUTS)


@pytest.mark.parametrize(
    ("body", "named"),
    [
        (UnsizedBody(0x81, b"short"), "expected 40 bytes, got 5"),
        (UnsizedBody(0x92, b""), "registered without a length"),
        (UnsizedBody(0x91, b""), "registered without a length"),
        (RawBody(0x0C, b""), "a RawBody or an InvalidTail only as the last"),
        (Heater(1, 9999.0, ()), "temperature_c"),
    ],
)
def test_what_would_be_read_otherwise_is_not_written(body, named):
    with pytest.raises(LocalProtocolError, match=named):
        encode(report_of(body), layouts=LAYOUTS)


def test_a_size_below_zero_or_another_than_the_layouts_is_refused():
    """A function of the user's may be wrong; that is a named error and no hang."""
    wrong = Layouts(
        BodyCodec(type_id=0x90, has_length=False, size_of=lambda _rest: -1),
        BodyCodec(type_id=0x0C, layout=NOTE, has_length=False, size_of=2),
    )
    for unit, named in (("90 00", "a size of 0 or more"), ("0c 00 00", "expected the end of the body")):
        raw = RawMessage(bytes((26, 1, 1, 0, 0, 0)) + bytes.fromhex(unit))
        with pytest.raises(FrameError, match=named):
            decode(encode(Frame(command=2, vin=VIN, message=raw)), layouts=wrong)
    with pytest.raises(LocalProtocolError, match="expected 2 bytes, got 5"):
        encode(report_of(Note("door")), layouts=wrong)


@pytest.mark.slow
@settings(max_examples=400, deadline=None)
@given(data=st.data())
def test_any_bytes_behind_a_registered_type_give_a_frame_or_a_frame_error(data):
    """With a right check byte, in both editions; what decodes encodes to the same bytes."""
    start = data.draw(st.sampled_from([b"##", b"$$"]))
    type_id = data.draw(st.sampled_from([0x81, 0x82, 0x85, 0x90, 0x0C, 0x91, 0xB0, 0xB1, 0xB2]))
    tail = data.draw(st.binary(max_size=60))
    if type_id >= 0xB0:
        tail = (len(tail) + 2).to_bytes(2, "big") + b"\xb5\x01" + tail
    elif data.draw(st.booleans()):
        tail = len(tail).to_bytes(2, "big") + tail
    unit = bytes((26, 1, 1, 0, 0, 0, type_id)) + tail
    raw = start + b"\x02\xfe" + VIN.encode() + b"\x01" + len(unit).to_bytes(2, "big") + unit
    raw += bytes((bcc_xor(raw[2:]),))
    try:
        frame = decode(raw, layouts=LAYOUTS)
    except FrameError:
        return
    assert encode(frame, layouts=LAYOUTS) == raw
    assert b"".join(field.data for field in explain(raw, layouts=LAYOUTS)) == raw


# --- CAN signals -----------------------------------------------------------------------------------------------------------

DBC = """VERSION ""
BU_: A
BO_ 384 PackState: 4 A
 SG_ Voltage : 0|16@1+ (0.1,0) [0|0] "V" A
 SG_ Current : 16|16@1- (0.1,0) [0|0] "A" A
BO_ 2147484032 Extended: 1 A
 SG_ Flag : 0|8@1+ (1,0) [0|0] "" A
"""


@pytest.mark.parametrize("edition", Edition)
def test_can_signals_are_carried_by_message_and_read_with_a_dbc(edition):
    """A standard and an extended id of the same number are two; an unknown id is kept and said."""
    database = loads(DBC)
    frame = database["PackState"].frame({"Voltage": 355.5, "Current": -12.5})
    body = CanSignals.of([frame, CanFrame(384, b"\x07", is_extended_id=True), CanFrame(0x123, b"\x01\x02")], bus=1)
    data = encode(report_of(body, Engine(1, 900, 5.0) if edition is Edition.GBT2016 else body, edition=edition))
    found = decode(data).message.bodies[0]
    assert found == body
    assert found.messages[0].frame == frame
    pack, extended, unknown = found.decode(database)
    assert (pack.name, pack.values) == ("PackState", {"Voltage": 355.5, "Current": -12.5})
    assert (extended.name, extended.values) == ("Extended", {"Flag": 7})
    assert (unknown.name, unknown.values, unknown.message.bus) == (None, {}, 1)
    short = CanSignals((CanMessage(384, b"\x01"),))
    with pytest.raises(SignalError):
        short.decode(database)


def test_an_extended_definition_does_not_read_a_standard_frame():
    """A database finds its only message under the plain number, too; the frame's kind decides."""
    database = loads(DBC.replace("BO_ 384 PackState", "BO_ 385 PackState"))
    (found,) = CanSignals((CanMessage(384, b"\x07"),)).decode(database)
    assert (found.name, found.values) == (None, {})


def test_another_makers_use_of_our_body_types_stays_user_defined():
    """0xB0 to 0xB2 without our mark, or with that of a later version."""
    for type_id in (0xB0, 0xB1, 0xB2):
        for data in (b"", b"\xb5", b"\xb5\x02\x00", b"anything"):
            frame = report_of(UserDefined(type_id, data))
            assert decode(encode(frame)) == frame


def test_a_can_id_must_have_31_bits():
    with pytest.raises(LocalProtocolError, match="can_id"):
        encode(report_of(CanSignals((CanMessage(1 << 31, b""),))))
    with pytest.raises(LocalProtocolError, match="0xB0 CAN signals: expected at most 65531 bytes"):
        encode(report_of(CanSignals((CanMessage(1, bytes(64)),) * 1000)))
