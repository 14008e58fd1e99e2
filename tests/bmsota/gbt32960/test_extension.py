"""Our extension, byte by byte as docs/protocol.md says, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from uuid import UUID

import pytest

from bmsota.checksums import bcc_xor
from bmsota.errors import FrameError, LocalProtocolError
from bmsota.gbt32960 import (
    BLOCK_SIZE_BYTES_MAX,
    BlockReply,
    BlockRequest,
    EchoReply,
    Edition,
    EmptyReply,
    Frame,
    FrameReader,
    LocalUpgrade,
    LocalUpgradeOutcome,
    LocalUpgrades,
    NodeIdentity,
    NodeRole,
    NodeState,
    RawMessage,
    ReplyFlag,
    Sentinel,
    SignedReport,
    TimeReply,
    UnitIdentity,
    UpgradeState,
    UpgradeStateCode,
    beijing_time,
    decode,
    encode,
    explain,
)

NOW = beijing_time(1_767_225_600 * 10**9)
TIME = bytes((26, 1, 1, 8, 0, 0))
CLASS = UUID("00112233-4455-6677-8899-aabbccddeeff")
MASTER = NodeIdentity(
    role=NodeRole.MASTER,
    position=0,
    hwid="F7M-0001",
    hardware_class=CLASS,
    version=(2, 1, 513, 5),
    security_counter=3,
    serial="SN1",
)
SLAVE = replace(MASTER, role=NodeRole.SLAVE, position=1, hwid="F7S-0001", serial="", state=NodeState.ABSENT)
STATE = UpgradeState(time=NOW, order_id="o-1", state=UpgradeStateCode.DOWNLOADING, progress_pct=42, reason="resumed")
UPGRADE = LocalUpgrade(
    upgraded_at=beijing_time(1_767_222_000 * 10**9),
    position=2,
    hwid="F7S-0002",
    version_before=(2, 0, 0, 0),
    version_after=(2, 1, 513, 5),
    outcome=LocalUpgradeOutcome.SUCCEEDED,
    tool="bmsota",
)
DIGEST = bytes(range(32))
REQUEST = BlockRequest(NOW, DIGEST, 0x01020304, 4096)
BLOCK = BlockReply.to(REQUEST, b"\xd2\x84")


def unit_of(command, message, *, edition=Edition.GBT2016, flag=ReplyFlag.COMMAND):
    frame = Frame(command=command, vin="V", message=message, edition=edition, reply_flag=flag)
    data = encode(frame, strict=True)
    assert decode(data) == frame
    return data[24:-1]


@pytest.mark.parametrize("edition", Edition)
def test_the_bytes_of_each_message(edition):
    """Locked: a change here is another version of the extension."""
    master = b"\x00\x00\x08F7M-0001" + CLASS.bytes + b"\x02\x01\x02\x01\0\0\0\x05\0\0\0\x03\x03SN1\x00"
    slave = b"\x01\x01\x08F7S-0001" + CLASS.bytes + b"\x02\x01\x02\x01\0\0\0\x05\0\0\0\x03\x00\x02"
    identity = UnitIdentity(NOW, (MASTER, SLAVE))
    assert unit_of(0xC0, identity, edition=edition) == TIME + b"\xb5\x01\x02" + master + slave
    assert unit_of(0xC1, STATE, edition=edition) == TIME + b"\xb5\x01\x03o-1\x04\x2a\x07resumed"
    unknown = replace(STATE, order_id="", progress_pct=Sentinel.INVALID, reason="断电")
    assert unit_of(0xC1, unknown, edition=edition) == TIME + b"\xb5\x01\x00\x04\xff\x06" + "断电".encode()
    assert unit_of(0xC2, SignedReport(NOW, b"\xd2\x84"), edition=edition) == TIME + b"\xb5\x01\x00\x02\xd2\x84"
    done = b"\x1a\x01\x01\x07\0\0\x02\x08F7S-0002\x02\0\0\0\0\0\0\0\x02\x01\x02\x01\0\0\0\x05\x01\x06bmsota\0"
    back = replace(UPGRADE, version_after=(0, 0, 0, 0), outcome=LocalUpgradeOutcome.REVERTED, tool="", detail="超时")
    undone = b"\x1a\x01\x01\x07\0\0\x02\x08F7S-0002\x02" + bytes(15) + b"\x03\0\x06" + "超时".encode()
    told = LocalUpgrades(NOW, (UPGRADE, back))
    assert unit_of(0xC3, told, edition=edition) == TIME + b"\xb5\x01\x02" + done + undone
    asked = TIME + b"\xb5\x01" + DIGEST + b"\x01\x02\x03\x04"
    assert unit_of(0xC4, REQUEST, edition=edition) == asked + b"\x10\x00"
    assert unit_of(0xC4, BLOCK, edition=edition, flag=ReplyFlag.SUCCESS) == asked + b"\x00\x02\xd2\x84"


@pytest.mark.parametrize(
    ("command", "message", "named"),
    [
        (0xC1, replace(STATE, order_id="x" * 65), "order_id: expected 0 to 64 bytes, got 65"),
        (0xC1, replace(STATE, reason="断" * 86), "reason: expected 0 to 255 bytes, got 258"),
        (0xC1, replace(STATE, reason=None), "reason: expected text"),
        (0xC1, replace(STATE, reason="\ud800"), "reason: expected text"),
        (0xC1, replace(STATE, progress_pct=101), "progress_pct: expected 0 to 100 %"),
        (0xC2, SignedReport(NOW, b""), "document: expected 1 to 65000 bytes"),
        (0xC2, SignedReport(NOW, "text"), "document: expected bytes"),
        (0xC0, UnitIdentity(NOW, ()), "nodes: expected 1 to 32 items"),
        (0xC0, UnitIdentity(NOW, (MASTER,) * 33), "nodes: expected 1 to 32 items"),
        (0xC0, UnitIdentity(NOW, (STATE,)), "nodes: expected NodeIdentity"),
        (0xC0, UnitIdentity(NOW, (replace(MASTER, hwid=""),)), "hwid: expected 1 to 24 bytes"),
        (0xC0, UnitIdentity(NOW, (replace(MASTER, version=(256, 0, 0, 0)),)), "version_major"),
        (0xC0, UnitIdentity(NOW, (replace(MASTER, security_counter=-1),)), "security_counter"),
        (0xC0, UnitIdentity(NOW, (replace(MASTER, hardware_class=SimpleNamespace(bytes=b"short")),)), "16 bytes, got 5"),
        (0xC1, SignedReport(NOW, b"x"), "frame.command: expected 0xc2 for SignedReport"),
        (0xC3, LocalUpgrades(NOW, ()), "upgrades: expected 1 to 64 items"),
        (0xC3, LocalUpgrades(NOW, (UPGRADE,) * 65), "upgrades: expected 1 to 64 items"),
        (0xC3, LocalUpgrades(NOW, (MASTER,)), "upgrades: expected LocalUpgrade"),
        (0xC3, LocalUpgrades(NOW, (replace(UPGRADE, position=32),)), "position: expected 0 to 31"),
        (0xC3, LocalUpgrades(NOW, (replace(UPGRADE, hwid="x" * 25),)), "hwid: expected 1 to 24 bytes"),
        (0xC3, LocalUpgrades(NOW, (replace(UPGRADE, outcome=0),)), "outcome: expected 1 to 3"),
        (0xC3, LocalUpgrades(NOW, (replace(UPGRADE, tool="x" * 65),)), "tool: expected 0 to 64 bytes"),
        (0xC3, LocalUpgrades(NOW, (replace(UPGRADE, upgraded_at=None),)), "upgraded_at|time: expected an aware datetime"),
        (0xC3, LocalUpgrades(NOW, (replace(UPGRADE, version_after=(0, 0, 0, 1 << 32)),)), "version_after_build"),
        (0xC3, LocalUpgrades(NOW, (replace(UPGRADE, version_before=(1, 0, 0), version_after=(1, 2, 0, 0, 0)),)),
         "expected two versions of 4 numbers"),
        (0xC3, LocalUpgrades(NOW, (replace(UPGRADE, version_before=None),)), "expected two versions of 4 numbers"),
        (0xC4, replace(REQUEST, size=0), "size: expected 1 to 32768"),
        (0xC4, replace(REQUEST, size=BLOCK_SIZE_BYTES_MAX + 1), "size: expected 1 to 32768"),
        (0xC4, replace(REQUEST, offset=1 << 32), "offset: expected 0 to"),
        (0xC4, replace(REQUEST, sha256=b"short"), "sha256: expected 32 bytes, got 5"),
        (0xC4, replace(REQUEST, sha256="00" * 32), "sha256: expected bytes"),
        (0xC4, BLOCK, "frame.reply_flag: BlockReply cannot have the flag"),
        (0xC2, REQUEST, "frame.command: expected 0xc4 for BlockRequest"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused(command, message, named):
    with pytest.raises(LocalProtocolError, match=named):
        encode(Frame(command=command, vin="V", message=message), strict=True)


def test_the_largest_identity_fits_a_frame():
    """A master and 31 slaves with the longest names."""
    node = replace(MASTER, hwid="H" * 24, serial="S" * 32)
    identity = UnitIdentity(NOW, tuple(replace(node, position=position) for position in range(32)))
    assert len(unit_of(0xC0, identity)) == 9 + 32 * 89


@pytest.mark.parametrize(
    ("message", "flag", "named"),
    [
        (replace(BLOCK, data=b""), ReplyFlag.SUCCESS, "data: expected 1 to 32768 bytes, got 0"),
        (replace(BLOCK, data=bytes(BLOCK_SIZE_BYTES_MAX + 1)), ReplyFlag.SUCCESS, "data: expected 1 to 32768 bytes"),
        (replace(BLOCK, data=None), ReplyFlag.SUCCESS, "data: expected bytes"),
        (BLOCK, ReplyFlag.ERROR, "frame.reply_flag: expected 0x01 for BlockReply"),
    ],
)
def test_a_block_that_does_not_fit_is_refused(message, flag, named):
    """Also as a refusal, which carries the time alone."""
    with pytest.raises(LocalProtocolError, match=named):
        encode(Frame(command=0xC4, vin="V", message=message, reply_flag=flag))


def test_the_largest_messages_fit_a_frame():
    """A block of 32 KiB, and 64 local upgrades with the longest texts."""
    block = replace(BLOCK, data=bytes(BLOCK_SIZE_BYTES_MAX))
    assert len(unit_of(0xC4, block, flag=ReplyFlag.SUCCESS)) == 46 + BLOCK_SIZE_BYTES_MAX
    upgrade = replace(UPGRADE, hwid="H" * 24, tool="T" * 64, detail="D" * 255)
    assert len(unit_of(0xC3, LocalUpgrades(NOW, (upgrade,) * 64))) == 9 + 64 * 370


def reply_of(unit, flag=ReplyFlag.SUCCESS):
    """What an answer to 0xC4 with this data unit is taken for; its bytes come back, and are explained without a gap."""
    data = b"##\xc4" + bytes((flag,)) + b"V".ljust(17, b"\0") + b"\1" + len(unit).to_bytes(2, "big") + unit
    data += bytes((bcc_xor(data[2:]),))
    frame = decode(data)
    assert encode(frame) == data
    assert b"".join(field.data for field in explain(data)) == data
    return frame.message


def test_what_is_no_block_stays_what_any_answer_is():
    """Refusals, echoes of platforms that know only the standard, another maker's 0xC4, a later version of ours."""
    unit = TIME + b"\xb5\x01" + DIGEST + b"\0\0\0\0\x00\x02\xd2\x84"
    assert reply_of(unit) == BlockReply(NOW, DIGEST, 0, b"\xd2\x84")
    assert reply_of(b"") == EmptyReply()
    assert reply_of(TIME) == TimeReply(NOW)
    assert reply_of(TIME, ReplyFlag.ERROR) == TimeReply(NOW)
    assert reply_of(unit, ReplyFlag.ERROR) == EchoReply(NOW, unit[6:])
    echo = unit_of(0xC4, REQUEST)
    assert reply_of(echo) == EchoReply(NOW, echo[6:])
    for mark in (b"\xb5\x02", b"\x00\x01", b"\xb4\x01"):
        other = TIME + mark + unit[8:]
        assert reply_of(other) == EchoReply(NOW, other[6:])


@pytest.mark.parametrize(
    ("tail", "named"),
    [
        (b"\x00\x03\xd2\x84", "0xC4 block reply.data: expected 3 more bytes, got 2"),
        (b"\x00\x01\xd2\x84", "0xC4 block reply: expected the end of the data unit, got 1 more byte"),
        (b"\x00\x00\xd2\x84", "a length from 1 to 32768, got 0"),
        (b"\x80\x01" + bytes(32769), "a length from 1 to 32768, got 32769"),
    ],
)
def test_a_block_is_as_long_as_it_says(tail, named):
    with pytest.raises(FrameError, match=named):
        reply_of(TIME + b"\xb5\x01" + DIGEST + b"\0\0\0\0" + tail)


@pytest.mark.parametrize("edition", Edition)
@pytest.mark.parametrize(
    ("command", "flag", "message"),
    [
        (0xC3, ReplyFlag.COMMAND, LocalUpgrades(NOW, (UPGRADE, replace(UPGRADE, detail="why")))),
        (0xC4, ReplyFlag.COMMAND, REQUEST),
        (0xC4, ReplyFlag.SUCCESS, BLOCK),
    ],
)
def test_every_prefix_is_refused_or_waits(command, flag, message, edition):
    """Of the frame; and of the data unit, with length and check byte put right."""
    frame = Frame(command=command, vin="V", message=message, reply_flag=flag, edition=edition)
    data = encode(frame)
    for size in range(1, len(data)):
        with pytest.raises(FrameError):
            decode(data[:size])
        reader = FrameReader()
        reader.receive_data(data[:size])
        assert reader.next_event() is None
    for size in range(len(data) - 25):
        cut = data[:22] + size.to_bytes(2, "big") + data[24 : 24 + size]
        cut += bytes((bcc_xor(cut[2:]),))
        try:
            found = decode(cut).message
        except FrameError:
            continue
        # Too short for the mark, or for a block: kept as it came, and never as our message.
        assert isinstance(found, (RawMessage, EmptyReply, TimeReply, EchoReply))
        assert size < 8 or (flag == ReplyFlag.SUCCESS and size <= 46)
        assert encode(decode(cut)) == cut


def test_a_block_answers_one_question():
    """The time is the same for all of a second: the rest decides."""
    assert BLOCK.answers(REQUEST)
    assert replace(BLOCK, data=bytes(4096)).answers(REQUEST)
    for other in (
        replace(BLOCK, data=bytes(4097)),
        replace(BLOCK, offset=0),
        replace(BLOCK, sha256=bytes(32)),
        replace(BLOCK, time=UPGRADE.upgraded_at),
    ):
        assert not other.answers(REQUEST)
