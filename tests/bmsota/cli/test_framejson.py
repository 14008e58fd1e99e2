"""Frames as JSON: the same frame comes back, and what describes none is refused with its place."""

from __future__ import annotations

import json
from dataclasses import fields, is_dataclass
from datetime import UTC, datetime
from typing import get_args
from uuid import UUID

import pytest

from bmsota.cli.framejson import frame_from_json, frame_to_json
from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    BlockReply,
    BlockRequest,
    Control,
    Frame,
    LocalUpgrade,
    LocalUpgradeOutcome,
    LocalUpgrades,
    NodeIdentity,
    Parameter,
    ParameterValues,
    Position,
    RemoteUpgrade,
    Report,
    Sentinel,
    TimeReply,
    UnitIdentity,
    VehicleLogin,
    decode,
    encode,
)

NOON = datetime(2026, 1, 1, 4, tzinfo=UTC)
LOGOUT = {
    "command": 4,
    "vin": "V",
    "message": {"type": "VehicleLogout", "time": "2026-01-01T12:00:00+08:00", "serial": 7},
}


def there_and_back(frame):
    return frame_from_json(json.loads(json.dumps(frame_to_json(frame))))


def test_every_vector_comes_back(good_vector):
    """The same value and the same bytes, through text."""
    data = bytes.fromhex(good_vector["hex"])
    frame = decode(data)
    again = there_and_back(frame)
    assert again == frame
    assert encode(again) == data


@pytest.mark.parametrize(
    "value", ["invalid", "00", "", b"", b"\0\xff", Sentinel.INVALID, Sentinel.ABNORMAL, 7, "\udc80"], ids=repr
)
def test_what_could_be_taken_for_each_other_is_told_apart(value):
    """A parameter may be text, bytes, a number or a sentinel; none of them becomes another."""
    frame = Frame(command=0x81, vin="V", message=ParameterValues(NOON, (Parameter(0x80, value),)))
    again = there_and_back(frame).message.parameters[0].value
    assert (again, type(again)) == (value, type(value))


@pytest.mark.parametrize(
    "message",
    [
        Control(NOON, 1, RemoteUpgrade(url="u", port=21, connect_limit_min="x")),
        Control(NOON, 2, b""),
        TimeReply(NOON),
        Report(NOON, (Position(valid=True, longitude_deg=-0.0, latitude_deg=Sentinel.INVALID, status_bits=2),)),
        UnitIdentity(
            NOON,
            (
                NodeIdentity(
                    role=0,
                    position=0,
                    hwid="h",
                    hardware_class=UUID(int=9),
                    version=(1, 2, 3, 4),
                    security_counter=1,
                    serial="s",
                ),
            ),
        ),
        VehicleLogin(NOON, 1, "i", ("a", "bb")),
        LocalUpgrades(
            NOON,
            (
                LocalUpgrade(
                    upgraded_at=NOON,
                    position=1,
                    hwid="h",
                    version_before=(0, 0, 0, 0),
                    version_after=(1, 2, 3, 4),
                    outcome=LocalUpgradeOutcome.SUCCEEDED,
                    tool="t",
                ),
            ),
        ),
        BlockRequest(NOON, bytes(32), 1, 2),
        BlockReply(NOON, bytes(32), 1, b"\x00\xff"),
    ],
    ids=lambda message: type(message).__name__,
)
def test_a_message_comes_back(message):
    frame = Frame(command=1, vin="V", message=message, vin_padding=" ")
    assert there_and_back(frame) == frame


def test_what_has_a_default_may_be_left_out():
    frame = frame_from_json(LOGOUT)
    assert encode(frame).hex().startswith("232304fe56")


def test_every_class_of_a_message_has_annotations_that_can_be_read():
    """A new message needs nothing in the JSON module; this is where it would show."""
    from bmsota.cli import framejson

    known = set()
    waiting = list(framejson._MESSAGES)
    while waiting:
        member = waiting.pop()
        if is_dataclass(member) and member not in known:
            known.add(member)
            hints = framejson._hints(member)
            assert set(hints) == {item.name for item in fields(member)}
            waiting += [inner for members in hints.values() for inner in members]
        else:
            waiting += [inner for each in get_args(member) for inner in framejson._members(each)]
    assert len(known) > 30


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"command": 256}, "command: expected a number from 0 to 255, got 256"),
        ({"command": True}, "command: expected a number"),
        ({"vin": 5}, "vin: expected text, got 5"),
        ({"edition": 2011}, "edition: expected 2016 or 2025, got 2011"),
        ({"surplus": 1}, "got 'surplus'"),
        ({"message": 5}, "message: expected"),
        ({"message": {"type": "Nonsense"}}, "message.type: expected one of"),
        ({"message": {}}, "message.type: expected one of"),
        ({"message": LOGOUT["message"] | {"serial": "7"}}, "message.serial: expected a whole number, got '7'"),
        ({"message": LOGOUT["message"] | {"serial": 1.5}}, "message.serial: expected a whole number, got 1.5"),
        ({"message": LOGOUT["message"] | {"time": "2026-01-01T12:00:00"}}, "expected a time with its zone"),
        ({"message": LOGOUT["message"] | {"time": "noon"}}, "message.time: expected a time, got 'noon'"),
        ({"message": LOGOUT["message"] | {"more": 1}}, "got 'more'"),
        ({"message": {"type": "VehicleLogout", "serial": 1}}, "expected a member 'time' in VehicleLogout, got none"),
        ({"message": {"type": "RawMessage", "data": "0x"}}, "message.data: expected hexadecimal digits, got '0x'"),
        (
            {"message": {"type": "Report", "time": "2026-01-01T12:00:00Z", "bodies": [{"type": "Frame"}]}},
            "bodies[0].type",
        ),
        (
            {"message": {"type": "Report", "time": "2026-01-01T12:00:00Z", "bodies": {"a": 1}}},
            "bodies: expected a list",
        ),
        ({"error": "it was none"}, "could not be decoded: it was none"),
    ],
)
def test_what_is_no_frame_is_refused_with_its_place(change, said):
    with pytest.raises(LocalProtocolError) as caught:
        frame_from_json(LOGOUT | change)
    assert said in str(caught.value)


@pytest.mark.parametrize("missing", ["command", "vin", "message"])
def test_what_has_no_default_must_be_there(missing):
    item = {name: value for name, value in LOGOUT.items() if name != missing}
    with pytest.raises(LocalProtocolError, match=f"expected a member '{missing}', got none"):
        frame_from_json(item)


@pytest.mark.parametrize("item", [None, [], "x", 5])
def test_only_an_object_is_a_frame(item):
    with pytest.raises(LocalProtocolError, match="frame: expected an object"):
        frame_from_json(item)


def test_a_version_has_four_parts():
    item = frame_to_json(Frame(command=0xC0, vin="V", message=UnitIdentity(NOON, ())))
    node = {"role": 0, "position": 0, "hwid": "h", "hardware_class": str(UUID(int=1)), "version": [1, 2], "security_counter": 0, "serial": ""}  # fmt: skip
    item["message"]["nodes"] = [node]
    with pytest.raises(LocalProtocolError, match=r"nodes\[0\]\.version: expected 4 items"):
        frame_from_json(item)
