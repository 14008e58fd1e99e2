"""The DBC and the wire codec: one definition, byte locks, and the data path that goes around the codec."""

from __future__ import annotations

import runpy
from dataclasses import fields
from random import Random
from typing import TYPE_CHECKING

import cantools
import pytest

from bmsota.boot import BootReason, SlotState
from bmsota.bootloader import BLOCK_FRAMES_MAX, BootloaderWire
from bmsota.bootloader._messages import (
    BitmapReply,
    BuildReply,
    CounterReply,
    DigestReply,
    LimitsReply,
    ListReply,
    PartReply,
    PendingReply,
    ReplyKind,
    ReportReply,
    Request,
    ResultReply,
    StatusReply,
    VersionReply,
)
from bmsota.bootloader._wire import _REPLY_CLASSES, _REPLY_SIGNALS, _REQUEST_SIGNALS
from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError
from bmsota.image import ImageRole
from bmsota.node import NodeCommand, NodeMode, ResultCode
from bmsota.signals import loads

if TYPE_CHECKING:
    from enum import IntEnum


@pytest.fixture
def wire(bench_parts):
    return BootloaderWire(bench_parts.database())


MESSAGES = [
    (Request(5, NodeCommand.DISCOVER, 7), 0x700, "05 01 07 00 00 00 00 00"),
    (Request(255, NodeCommand.ENTER_BOOTLOADER, 1, boot_id=9, protocol=2), 0x700, "ff 02 01 02 09 00 00 00"),
    (Request(5, NodeCommand.BEGIN_TRANSFER, 2, frames=9, crc32=0x11223344), 0x700, "05 03 02 09 44 33 22 11"),
    (Request(5, NodeCommand.CHECK_BLOCK, 254, frames=64, crc32=0xCBF43926), 0x700, "05 04 fe 40 26 39 f4 cb"),
    (Request(128, NodeCommand.CHECK_BLOCK, 4, frames=1, crc32=1, report_wanted=1), 0x700, "80 04 04 81 01 00 00 00"),
    (Request(5, NodeCommand.FINISH_TRANSFER, 3), 0x700, "05 05 03 00 00 00 00 00"),
    (Request(5, NodeCommand.ACTIVATE_TEST, 4), 0x700, "05 06 04 00 00 00 00 00"),
    (Request(5, NodeCommand.RESET, 5, boot_id=254), 0x700, "05 07 05 00 fe 00 00 00"),
    (Request(5, NodeCommand.CONFIRM, 6, raise_counter=1, boot_id=3), 0x700, "05 08 06 01 03 00 00 00"),
    (Request(5, NodeCommand.REVERT, 7), 0x700, "05 09 07 00 00 00 00 00"),
    (Request(5, NodeCommand.LEAVE_BOOTLOADER, 8), 0x700, "05 0a 08 00 00 00 00 00"),
    (Request(254, NodeCommand.OPEN_BLOCK, 3, offset=0x01020304), 0x700, "fe 0b 03 00 04 03 02 01"),
    (Request(1, NodeCommand.OPEN_BLOCK, 3, offset=8, repair=1), 0x700, "01 0b 03 01 08 00 00 00"),
    (Request(5, NodeCommand.REQUEST_CHALLENGE, 9, boot_id=2), 0x700, "05 0c 09 00 02 00 00 00"),
    (Request(5, NodeCommand.UNLOCK, 10, frames=8, crc32=0x01020304), 0x700, "05 0d 0a 08 04 03 02 01"),
    (StatusReply(31, 7, 9, 3, 2, 1, 2, 3, 5, 4, 1, 3, 1, 64), 0x73F, "01 07 09 23 69 45 1d 40"),
    (LimitsReply(1, 7, 0x0F, 16, 4, 128), 0x721, "10 07 0f 00 10 04 80 00"),
    (VersionReply(0, 7, 2, 1, 0x0304), 0x720, "02 07 02 01 04 03 00 00"),
    (BuildReply(1, 7, 0x01020304), 0x721, "03 07 04 03 02 01 00 00"),
    (CounterReply(1, 7, 2, 200), 0x721, "04 07 02 00 00 00 c8 00"),
    (PartReply(1, ReplyKind.HWID_3, b"abc\0\0\0\0"), 0x721, "0b 61 62 63 00 00 00 00"),
    (PartReply(1, ReplyKind.CLASS_0, bytes(range(1, 8))), 0x721, "05 01 02 03 04 05 06 07"),
    (PartReply(1, ReplyKind.SERIAL_0, b"\xff" * 7), 0x721, "0c ff ff ff ff ff ff ff"),
    (PartReply(1, ReplyKind.CHALLENGE_2, b"\x01\x02\0\0\0\0\0"), 0x721, "27 01 02 00 00 00 00 00"),
    (ResultReply(1, 2, 3, 0, 1024), 0x721, "20 02 03 00 00 04 00 00"),
    (ReportReply(1, 3, 2, 5, 2048), 0x721, "21 03 02 05 00 08 00 00"),
    (BitmapReply(1, 3, 1, 33, 0x80000001), 0x721, "22 03 01 21 01 00 00 80"),
    (ListReply(1, 9, ((0, 64), (1, 3))), 0x721, "24 09 00 18 06 ff ff ff"),
    (PendingReply(1, 3, 5, 300), 0x721, "23 03 05 2c 01 00 00 00"),
    (DigestReply(1, 7, ReplyKind.DIGEST_0, b"abcdef"), 0x721, "11 07 61 62 63 64 65 66"),
    (DigestReply(1, 255, ReplyKind.DIGEST_5, b"\xfe\xff\0\0\0\0"), 0x721, "16 ff fe ff 00 00 00 00"),
]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("message", "can_id", "data"), MESSAGES, ids=lambda value: getattr(type(value), "__name__", "")
)
def test_a_message_is_these_bytes_and_these_bytes_are_the_message(wire, message, can_id, data):
    frame = wire.serialize(message)
    assert (frame.can_id, frame.data.hex(" ")) == (can_id, data)
    assert wire.parse(frame) == message


def test_every_command_and_every_reply_has_a_locked_message():
    assert {message.command for message, _, _ in MESSAGES if isinstance(message, Request)} == set(NodeCommand)
    kinds = {type(message) for message, _, _ in MESSAGES}
    assert kinds >= set(_REPLY_CLASSES.values()) | {PartReply, DigestReply, ListReply}


def test_the_tables_name_every_field_and_every_signal(bench_parts):
    database = bench_parts.database()
    reply_signals = {signal for pairs in _REPLY_SIGNALS.values() for _, signal in pairs}
    parts = {
        "HardwareClass0",
        "HardwareClass1",
        "HardwareClass2",
        *(f"{n}{k}" for n in ("Hwid", "Serial") for k in range(4)),
        *(f"Challenge{k}" for k in range(3)),
        *(f"ImageDigest{k}{n}" for n in ("", "Echo") for k in range(6)),
        "ListedBlock",
        *(f"Missing{k}{n}" for n in ("Age", "Frame") for k in range(4)),
    }
    assert {signal.name for signal in database["BootReply00"].signals} == reply_signals | parts | {"Kind"}
    request_signals = {signal for pairs in _REQUEST_SIGNALS.values() for _, signal in pairs}
    assert {signal.name for signal in database["BootRequest"].signals} == request_signals | {"Node", "Command"}
    for kind, reply_class in _REPLY_CLASSES.items():
        assert {field.name for field in fields(reply_class)} == {
            "position",
            *(name for name, _ in _REPLY_SIGNALS[kind]),
        }


def test_the_value_tables_of_the_dbc_are_the_enumerations(bench_parts):
    signals = {
        signal.name: signal
        for name in ("BootRequest", "BootReply00")
        for signal in bench_parts.database()[name].signals
    }

    def check(signal: str, enumeration: type[IntEnum]) -> None:
        names = {number: name.lower() for number, name in signals[signal].choices.items()}
        assert names == {member.value: member.name.replace("_", "").lower() for member in enumeration}

    check("Command", NodeCommand)
    check("ResultCommand", NodeCommand)
    check("PendingCommand", NodeCommand)
    check("Kind", ReplyKind)
    check("ResultCode", ResultCode)
    check("NodeState", NodeMode)
    check("BootReason", BootReason)
    check("SlotAState", SlotState)
    check("SlotBState", SlotState)
    check("Role", ImageRole)


@pytest.mark.slow
def test_cantools_loads_the_dbc_strictly_and_all_replies_have_one_layout(bench_parts):
    database = cantools.database.load_file(bench_parts.DBC_PATH, strict=True)
    assert not bench_parts.database().faults
    replies = [database.get_message_by_name(f"BootReply{position:02d}") for position in range(32)]

    def layout(message):
        return [
            (s.name, s.start, s.length, s.byte_order, s.is_signed, s.scale, s.multiplexer_ids, s.unit, str(s.choices))
            for s in message.signals
        ]

    for position, reply in enumerate(replies):
        assert reply.frame_id == 0x720 + position
        assert layout(reply) == layout(replies[0])
    ids = sorted(message.frame_id for message in database.messages)
    assert ids == [0x700, *range(0x720, 0x780)]
    for message in database.messages:
        assert message.comment
    for name in ("BootRequest", "BootReply00", "BootData00"):
        assert all(signal.comment for signal in database.get_message_by_name(name).signals)


def test_the_committed_dbc_is_what_the_script_makes(bench_parts):
    script = runpy.run_path(str(bench_parts.DBC_PATH.parents[1] / "scripts" / "make_bootloader_dbc.py"))
    names = {path.stem for path in bench_parts.DBC_PATH.parent.glob("bms_bootloader*.dbc")}
    assert names == {variant.name for variant in script["VARIANTS"]}
    for variant in script["VARIANTS"]:
        text = (bench_parts.DBC_PATH.parent / f"{variant.name}.dbc").read_text(encoding="utf-8")
        assert text == script["dbc_text"](variant), f"{variant.name}: run scripts/make_bootloader_dbc.py"


def test_the_data_path_equals_the_dbc_codec(wire, bench_parts):
    database = bench_parts.database()
    block = Random(1).randbytes(BLOCK_FRAMES_MAX * 8)
    frames = wire.data_frames(block)
    assert len(frames) == BLOCK_FRAMES_MAX
    for index, frame in enumerate(frames):
        message = database[f"BootData{index:02d}"]
        assert message.can_id == wire.data_id + index
        word = int.from_bytes(block[8 * index : 8 * index + 8], "little")
        assert frame == message.frame({f"Data{index:02d}": word})
        assert message.decode_raw(frame.data) == {f"Data{index:02d}": word}


def test_the_last_data_frame_is_filled(wire):
    assert [frame.data for frame in wire.data_frames(bytes(11))] == [bytes(8), bytes(3) + b"\xff" * 5]


@pytest.mark.parametrize(
    "frame",
    [
        CanFrame(0x6FF, bytes(8)),
        CanFrame(0x740, bytes(8)),
        CanFrame(0x700, bytes(7)),
        CanFrame(0x700, bytes(64), is_fd=True),
        CanFrame(0x700, bytes([5, 1, 0, 0, 0, 0, 0, 0]), is_extended_id=True),
        CanFrame(0x700, bytes([5, 99, 0, 0, 0, 0, 0, 0])),
        CanFrame(0x721, bytes([99, 0, 0, 0, 0, 0, 0, 0])),
        CanFrame(0x721, b""),
    ],
)
def test_what_is_not_of_this_protocol_is_none(wire, frame):
    assert wire.parse(frame) is None


def test_any_eight_bytes_are_parsed_or_none_and_what_is_parsed_survives(wire):
    rng = Random(2)
    parsed = 0
    for _ in range(3000):
        can_id = rng.choice([0x700, 0x720, 0x73F])
        data = bytes([rng.randrange(40), rng.randrange(40)]) + rng.randbytes(6)
        message = wire.parse(CanFrame(can_id, data))
        if message is not None:
            parsed += 1
            assert wire.parse(wire.serialize(message)) == message
    assert parsed > 500


def test_a_dbc_without_the_bootloader_is_refused():
    with pytest.raises(ConfigurationError, match="BootRequest"):
        BootloaderWire(loads('VERSION ""\n\nBU_: A\n\nBO_ 5 Other: 8 A\n SG_ X : 0|8@1+ (1,0) [0|0] "" A\n'))
