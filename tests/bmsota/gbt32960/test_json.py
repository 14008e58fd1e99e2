"""Frames as JSON: the same frame comes back, and what describes none is refused with its place."""

from __future__ import annotations

import json
from dataclasses import dataclass, fields, is_dataclass
from datetime import UTC, datetime
from typing import get_args
from uuid import UUID

import pytest

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    BlockReply,
    BlockRequest,
    BodyCodec,
    CipherMode,
    CipherPadding,
    Control,
    Edition,
    Encryption,
    Frame,
    Layouts,
    LocalUpgrade,
    LocalUpgradeOutcome,
    LocalUpgrades,
    NodeIdentity,
    Parameter,
    ParameterValues,
    Position,
    RawBody,
    RawMessage,
    RemoteUpgrade,
    Report,
    Sentinel,
    SymmetricCipher,
    TimeReply,
    UnitIdentity,
    UnsizedBody,
    UserDefined,
    VehicleLogin,
    decode,
    encode,
    from_dict,
    to_dict,
)
from bmsota.gbt32960 import _json as module
from bmsota.gbt32960.rows import Field, Layout, Repeat, SizedText

NOON = datetime(2026, 1, 1, 4, tzinfo=UTC)
LOGOUT = {
    "command": 4,
    "vin": "V",
    "message": {"type": "VehicleLogout", "time": "2026-01-01T12:00:00+08:00", "serial": 7},
}


def there_and_back(frame):
    return from_dict(json.loads(json.dumps(to_dict(frame))))


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
        Report(NOON, (Position(valid=True, longitude_deg=-0.0, latitude_deg=Sentinel.INVALID, reserved_bits=2),)),
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
    frame = from_dict(LOGOUT)
    assert encode(frame).hex().startswith("232304fe56")


def test_every_class_of_a_message_has_annotations_that_can_be_read():
    """A new message needs nothing in the JSON module; this is where it would show."""
    known = set()
    waiting = list(module._MESSAGES)
    while waiting:
        member = waiting.pop()
        if is_dataclass(member) and member not in known:
            known.add(member)
            hints = module._hints(member)
            assert set(hints) == {item.name for item in fields(member)}
            waiting += [inner for members in hints.values() for inner in members]
        else:
            waiting += [inner for each in get_args(member) for inner in module._members(each)]
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
        ({"message": LOGOUT["message"] | {"serial": float("inf")}}, "message.serial: expected a whole number, got inf"),
        ({"message": LOGOUT["message"] | {"serial": float("nan")}}, "message.serial: expected a whole number, got nan"),
        ({"message": LOGOUT["message"] | {"time": "2026-01-01T12:00:00"}}, "expected a time with its zone"),
        ({"message": LOGOUT["message"] | {"time": "noon"}}, "message.time: expected a time, got 'noon'"),
        ({"message": LOGOUT["message"] | {"more": 1}}, "got 'more'"),
        ({"message": {"type": "VehicleLogout", "serial": 1}}, "message: no member 'time' in VehicleLogout"),
        ({"message": {"type": "RawMessage", "data": "0x"}}, "message.data: expected hexadecimal digits, got '0x'"),
        (
            {"message": {"type": "Report", "time": "2026-01-01T12:00:00Z", "bodies": [{"type": "Frame"}]}},
            "bodies[0].type",
        ),
        (
            {"message": {"type": "Report", "time": "2026-01-01T12:00:00Z", "bodies": {"a": 1}}},
            "bodies: expected a list",
        ),
        ({"error": "it was none"}, "it could not be decoded: it was none"),
    ],
)
def test_what_is_no_frame_is_refused_with_its_place(change, said):
    with pytest.raises(LocalProtocolError) as caught:
        from_dict(LOGOUT | change)
    assert said in str(caught.value)


@pytest.mark.parametrize("missing", ["command", "vin", "message"])
def test_what_has_no_default_must_be_there(missing):
    item = {name: value for name, value in LOGOUT.items() if name != missing}
    with pytest.raises(LocalProtocolError, match=f"frame: no member '{missing}'"):
        from_dict(item)


@pytest.mark.parametrize("item", [None, [], "x", 5])
def test_only_an_object_is_a_frame(item):
    with pytest.raises(LocalProtocolError, match="frame: expected an object"):
        from_dict(item)


def test_a_version_has_four_parts():
    item = to_dict(Frame(command=0xC0, vin="V", message=UnitIdentity(NOON, ())))
    node = {"role": 0, "position": 0, "hwid": "h", "hardware_class": str(UUID(int=1)), "version": [1, 2], "security_counter": 0, "serial": ""}  # fmt: skip
    item["message"]["nodes"] = [node]
    with pytest.raises(LocalProtocolError, match=r"nodes\[0\]\.version: expected 4 items"):
        from_dict(item)


# --- bodies of a user's own, encryption ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Heater:
    state: int
    temperature_c: float | Sentinel


@dataclass(frozen=True, slots=True)
class Heaters:
    heaters: tuple[Heater, ...]
    text: str


HEATER = Layout(
    label="heater",
    cls=Heater,
    rows=(
        Field(name="state", size_bytes=1, raw_min=0, raw_max=3),
        Field(name="temperature_c", size_bytes=2, raw_min=0, raw_max=2000, divisor=10, raw_offset=400, sentinels=True),
    ),
)
LAYOUTS = Layouts(
    BodyCodec(
        type_id=0x85,
        layout=Layout(
            label="0x85 heaters",
            cls=Heaters,
            rows=(
                Repeat(name="heaters", item=HEATER, count_size_bytes=1, count_min=0, count_max=9),
                SizedText(name="text"),
            ),
        ),
    ),
    BodyCodec(type_id=0x81, has_length=False, size_of=3),
)
OWN = (
    Heaters((Heater(1, 21.5), Heater(2, Sentinel.ABNORMAL)), "invalid"),
    UnsizedBody(0x81, b"abc"),
    UserDefined(0x90, b"\1"),
    RawBody(0x70, b"rest"),
)


@pytest.mark.parametrize("edition", Edition)
def test_bodies_of_a_users_own_come_back(edition):
    """By the registry that reads them; nested ones too, and beside those whose layout nobody knows."""
    frame = Frame(edition=edition, command=2, vin="V", message=Report(NOON, OWN))
    data = encode(frame, layouts=LAYOUTS)
    item = json.loads(json.dumps(to_dict(decode(data, layouts=LAYOUTS))))
    assert item["message"]["bodies"][0] == {
        "type": "Heaters",
        "heaters": [
            {"type": "Heater", "state": 1, "temperature_c": 21.5},
            {"type": "Heater", "state": 2, "temperature_c": "abnormal"},
        ],
        "text": "invalid",
    }
    assert from_dict(item, layouts=LAYOUTS) == frame
    assert encode(from_dict(item, layouts=LAYOUTS), layouts=LAYOUTS) == data
    with pytest.raises(LocalProtocolError, match=r"message\.bodies\[0\]\.type: expected one of .*, got 'Heaters'"):
        from_dict(item)
    del item["message"]["bodies"][0]["heaters"][1]["state"]
    with pytest.raises(LocalProtocolError, match=r"message\.bodies\[0\]\.heaters\[1\]: no member 'state' in Heater"):
        from_dict(item, layouts=LAYOUTS)


def test_an_enciphered_unit_comes_back_deciphered_or_not():
    cipher = SymmetricCipher(
        Encryption.AES, key=bytes(16), mode=CipherMode.CBC, padding=CipherPadding.PKCS7, iv=bytes(16)
    )
    frame = Frame(command=2, vin="V", message=Report(NOON, OWN[3:]), encryption=Encryption.AES)
    data = encode(frame, cipher=cipher)
    for known in (cipher, None):
        again = there_and_back(decode(data, cipher=known))
        assert again == decode(data, cipher=known)
        assert encode(again, cipher=cipher) == data
    plain = Frame(command=0x42, vin="V", message=RawMessage(b"x", is_plain=True), encryption=Encryption.AES)
    assert there_and_back(plain) == plain


def test_a_value_that_is_no_frame_names_its_class():
    assert to_dict(Position(valid=True, longitude_deg=1.5, latitude_deg=Sentinel.INVALID)) == {
        "type": "Position",
        "valid": True,
        "longitude_deg": 1.5,
        "latitude_deg": "invalid",
        "reserved_bits": 0,
    }


class NoDataclass:
    pass


@dataclass
class Typed:
    type: int


@dataclass
class Unknown:
    value: Somewhere  # noqa: F821 what is tested


@dataclass(frozen=True, slots=True)
class Engine:
    state: int


@pytest.mark.parametrize(
    ("value", "said"),
    [
        (NoDataclass(), "NoDataclass: no dataclass"),
        (Typed(1), "Typed: a field called 'type'"),
        (Unknown(1), "Unknown: annotations cannot be looked up: name 'Somewhere' is not defined"),
    ],
    ids=lambda value: type(value).__name__,
)
def test_a_body_that_cannot_be_told_is_refused(value, said):
    with pytest.raises(LocalProtocolError, match=said):
        to_dict(value)


def test_two_classes_of_one_name_are_refused():
    rows = (Field(name="state", size_bytes=1, raw_min=0, raw_max=3),)
    layouts = Layouts(BodyCodec(type_id=0x85, layout=Layout(label="engine", cls=Engine, rows=rows)))
    item = to_dict(Frame(command=2, vin="V", message=Report(NOON, (Engine(1),))))
    with pytest.raises(LocalProtocolError, match=r"message\.bodies\[0\]: two classes of one name"):
        from_dict(item, layouts=layouts)
