"""Three codecs, one opinion: the construct description, the fast codec and the columns agree on generated frames of every type."""

from __future__ import annotations

from datetime import datetime

import construct
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError
from bmsota.gbt32960 import (
    BEIJING,
    BlockReply,
    Control,
    EchoReply,
    Edition,
    EmptyReply,
    Encryption,
    Frame,
    Heartbeat,
    Parameter,
    ParameterQuery,
    ParameterValues,
    RawBody,
    RawMessage,
    RemoteUpgrade,
    Report,
    Sentinel,
    TimeReply,
    TimeSync,
    decode,
    decode_batch,
    encode,
    encode_batch,
)
from bmsota.gbt32960.description import frame_description

NOW = datetime(2026, 3, 4, 5, 6, 7, tzinfo=BEIJING)


def is_padded_with_zeros(data):
    return b" " not in data[4:21].rstrip(b"\0")[-1:]


def assert_agreed(data):
    """What `decode` accepts, the description reads to the same value, and all three build the same bytes from it."""
    description = frame_description(Edition(data[:2]))
    frame = decode(data)
    assert description.parse(data) == frame
    assert description.build(frame) == data == encode(frame)
    assert encode_batch(decode_batch([data])) == [data]


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_generated_reports_and_messages(reports, messages, data):
    """Every body and every message that has a layout, any counts, with sentinels and limits."""
    for strategy in (*reports().values(), *messages().values()):
        found = data.draw(strategy.filter(is_padded_with_zeros))
        try:
            decode(found)
        except FrameError:
            # What the fast codec refuses, the description refuses too: text that is too long for our extension and the like.
            continue
        assert_agreed(found)


@pytest.mark.slow
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_cut_and_lengthened_reports_are_refused_by_both(reports, data):
    """The data unit ends somewhere else; with lengths and check byte repaired."""
    for strategy in reports().values():
        raw = bytearray(data.draw(strategy.filter(is_padded_with_zeros)))
        keep = data.draw(st.integers(24, len(raw) - 1))
        raw[keep:] = data.draw(st.binary(max_size=9)) + b"\0"
        raw[22:24] = (len(raw) - 25).to_bytes(2, "big")
        raw[-1] = bcc_xor(raw[2:-1])
        found = bytes(raw)
        try:
            decode(found)
        except FrameError:
            with pytest.raises((construct.ConstructError, ValueError)):
                frame_description(Edition(found[:2])).parse(found)
        else:
            assert_agreed(found)


@pytest.mark.parametrize("edition", Edition)
@pytest.mark.parametrize(
    ("command", "flag", "message"),
    [
        (0x07, 0xFE, Heartbeat()),
        (0x08, 0xFE, TimeSync()),
        (0x07, 0x01, EmptyReply()),
        (0x08, 0x01, TimeReply(NOW)),
        (0x01, 0x02, EchoReply(NOW, b"rest")),
        (0x80, 0xFE, ParameterQuery(NOW, (1, 2, 0x80))),
        (0x80, 0xFE, ParameterQuery(NOW, ())),
        (0x80, 0xFE, ParameterQuery(NOW, Sentinel.INVALID)),
        (0x80, 0x01, ParameterValues.build(NOW, {1: 5000, 5: "威.example", 7: "1.0.0", 0x0E: "www", 0x10: 1})),
        (0x81, 0xFE, ParameterValues(NOW, (Parameter(1, Sentinel.ABNORMAL), Parameter(0x42, b"\1\2")), 5)),
        (0x81, 0xFE, ParameterValues(NOW, ())),
        (0x81, 0xFE, ParameterValues(NOW, Sentinel.ABNORMAL)),
        (0x82, 0xFE, Control(NOW, 2)),
        (0x82, 0xFE, Control(NOW, 1, RemoteUpgrade(url="https://example.org/f.bin", port=443))),
        (0x42, 0xFE, RawMessage(b"abc")),
        (0xC1, 0xFE, RawMessage(b"another maker's")),
        (0xC4, 0x01, BlockReply(NOW, bytes(32), 7, b"x")),
        (0xC4, 0x01, EmptyReply()),
        (0xC4, 0x01, TimeReply(NOW)),
        (0xC4, 0x01, EchoReply(NOW, b"\xb5\1" + bytes(38))),
        (0xC4, 0x01, EchoReply(NOW, b"\xb5\2" + bytes(60))),
        (0xC4, 0x02, EchoReply(NOW, b"\xb5\1" + bytes(60))),
    ],
)  # fmt: skip
def test_messages_without_a_layout(edition, command, flag, message):
    """Those that are not laid out by rows: replies, parameters, control, and what stays raw."""
    assert_agreed(encode(Frame(edition=edition, command=command, reply_flag=flag, vin="LTEST", message=message)))


def test_raw_bodies_and_ciphertext():
    """An unknown body takes the rest; an encrypted data unit is bytes."""
    assert_agreed(encode(Frame(command=3, vin="A", message=Report(NOW, (RawBody(0x10, b"abc"),)))))
    for edition in Edition:
        frame = Frame(edition=edition, command=2, vin="A", message=RawMessage(b"x" * 16), encryption=Encryption.AES)
        assert_agreed(encode(frame))


def test_the_vectors(good_frames):
    """Frames from the field."""
    found = [data for data in good_frames if is_padded_with_zeros(data)]
    assert len(found) > 20
    for data in found:
        assert_agreed(data)


def test_a_wrong_check_byte_is_refused():
    data = bytearray(encode(Frame(command=7, vin="A", message=Heartbeat())))
    data[-1] ^= 1
    with pytest.raises(construct.ChecksumError):
        frame_description(Edition.GBT2016).parse(bytes(data))
