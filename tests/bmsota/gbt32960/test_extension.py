"""Our extension, byte by byte as docs/protocol.md says, and what it refuses."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from uuid import UUID

import pytest

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import (
    Edition,
    Frame,
    NodeIdentity,
    NodeRole,
    NodeState,
    Sentinel,
    SignedReport,
    UnitIdentity,
    UpgradeState,
    UpgradeStateCode,
    beijing_time,
    decode,
    encode,
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


def unit_of(command, message, *, edition=Edition.GBT2016):
    frame = Frame(command=command, vin="V", message=message, edition=edition)
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
