"""`bmsota dbc decode` judges protected frames: counts per message, and an exit code that CI can use."""

from __future__ import annotations

import pytest
from typer.testing import CliRunner

from bmsota.adapters import canlogs
from bmsota.cli.dbc import app
from bmsota.signals import E2EProtector, loads

DBC = """
BO_ 256 Pack: 8 Master
 SG_ Crc : 0|8@1+ (1,0) [0|255] "" Vehicle
 SG_ Alive : 8|4@1+ (1,0) [0|15] "" Vehicle
 SG_ Value : 16|48@1+ (1,0) [0|0] "" Vehicle
BO_ 257 Cells: 8 Master
 SG_ Crc : 0|8@1+ (1,0) [0|255] "" Vehicle
 SG_ Alive : 8|4@1+ (1,0) [0|15] "" Vehicle
 SG_ Value : 16|48@1+ (1,0) [0|0] "" Vehicle
BO_ 258 Plain: 1 Master
 SG_ Value : 0|8@1+ (1,0) [0|0] "" Vehicle
"""
FILE = """
[messages.Pack]
profile = "P01"
crc = "Crc"
counter = "Alive"
data_id = "can_id"

[messages.Cells]
profile = "J1850"
crc = "Crc"
counter = "Alive"
"""
PROTECTED = loads(DBC).with_protection(FILE)
runner = CliRunner()


@pytest.fixture
def files(tmp_path):
    (tmp_path / "pack.dbc").write_text(DBC)
    (tmp_path / "pack.toml").write_text(FILE)
    return tmp_path


def stream(name, numbers, begin=0):
    """Frames of a message, whose counters begin at *begin*."""
    protector = E2EProtector(PROTECTED[name], count=begin)
    return [(PROTECTED[name].can_id, protector.encode({"Value": number})) for number in numbers]


def log_of(files, frames, channels=("can0",)):
    lines = [
        f"(1.{number:06d}) {channel} {can_id:03X}#{data.hex().upper()}"
        for number, (can_id, data) in enumerate(frames)
        for channel in channels
    ]
    (files / "a.log").write_text("\n".join(lines) + "\n")
    return files / "a.log"


def decode(files, log, *options):
    return runner.invoke(app, ["decode", str(log), "--dbc", str(files / "pack.dbc"), *map(str, options)])


def said(result):
    return [line.split("a.log: ", 1)[1] for line in result.stderr.splitlines()]


@pytest.mark.parametrize("block_frames", [3, 65_536])
def test_each_disturbance_is_counted_by_message_and_the_code_is_1(files, monkeypatch, block_frames):
    """Also where a block of the log ends between two frames of a message."""
    monkeypatch.setattr(canlogs.CanLog.blocks, "__defaults__", (block_frames,))
    pack, cells = stream("Pack", range(20)), stream("Cells", range(20))
    pack[3] = pack[2]
    pack[7] = (0x100, pack[7][1][:-1] + b"\x55")
    pack[12] = pack[2]
    del cells[5:7]
    frames = [frame for pair in zip(pack, cells, strict=False) for frame in pair] + [(0x102, b"\x01")]
    result = decode(files, log_of(files, frames), "--protection", files / "pack.toml")
    assert said(result) == [
        "37 frames; 37 decoded",
        "protection: 36 frames of 2 messages: 33 ok, 1 wrong CRC, 1 repeated, 1 jumped counter, 5 lost",
        "protection: Pack: 15 ok, 1 wrong CRC, 1 repeated, 1 jumped counter, 3 lost",
        "protection: Cells: 18 ok, 2 lost",
    ]
    assert result.exit_code == 1
    assert result.stdout.count("\n") == 37, "a frame that fails is decoded like any other"


def test_a_log_in_order_is_0_and_lost_frames_alone_are_too(files):
    frames = stream("Pack", range(40))
    result = decode(files, log_of(files, frames), "--protection", files / "pack.toml")
    assert said(result) == ["40 frames; 40 decoded", "protection: 40 frames of 1 message: 40 ok"]
    assert result.exit_code == 0
    del frames[4]
    result = decode(files, log_of(files, frames), "--protection", files / "pack.toml")
    assert said(result)[1] == "protection: 39 frames of 1 message: 39 ok, 1 lost"
    assert result.exit_code == 0


def test_channels_have_counters_of_their_own(files):
    """A log of a gateway has each frame twice, once a channel: nothing is repeated."""
    result = decode(
        files, log_of(files, stream("Pack", range(9)), ("can0", "can1")), "--protection", files / "pack.toml"
    )
    assert said(result)[1] == "protection: 18 frames of 1 message: 18 ok"
    assert result.exit_code == 0


def test_nothing_is_said_where_nothing_is_protected(files):
    result = decode(files, log_of(files, stream("Pack", [1, 1, 1])[:1] * 3))
    assert said(result) == ["3 frames; 3 decoded"]
    assert result.exit_code == 0


def test_one_file_serves_several_databases(files):
    (files / "other.dbc").write_text('BO_ 300 Other: 1 A\n SG_ Value : 0|8@1+ (1,0) [0|0] "" B\n')
    options = ("--dbc", files / "other.dbc", "--protection", files / "pack.toml")
    result = decode(files, log_of(files, stream("Pack", [1])), *options)
    assert said(result)[1] == "protection: 1 frame of 1 message: 1 ok"


def test_only_the_first_twenty_messages_are_listed(files):
    text = "".join(DBC.split("BO_ 257", maxsplit=1)[0].replace("256 Pack", f"{256 + n} Pack{n}") for n in range(25))
    (files / "pack.dbc").write_text(text)
    (files / "pack.toml").write_text('[messages."Pack*"]\nprofile="P01"\ncrc="Crc"\ncounter="Alive"\ndata_id=1\n')
    frames = [(256 + number, bytes(8)) for number in range(25)]
    result = decode(files, log_of(files, frames), "--protection", files / "pack.toml")
    assert said(result)[1:3] == [
        "protection: 25 frames of 25 messages: 0 ok, 25 wrong CRC",
        "protection: Pack0: 0 ok, 1 wrong CRC",
    ]
    assert said(result)[-1] == "protection: and 5 more messages"
    assert len(said(result)) == 23


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (None, "missing.toml: No such file or directory"),
        (b"\xff\xfe", "missing.toml: not a text file in UTF-8"),
        (b"[messages.Pack", "missing.toml: not valid TOML"),
        (b"[messages.Other]\nprofile='J1850'\ncrc='Crc'\n", "missing.toml: no section names a message of the DBC"),
        (b"[messages.Pack]\nprofile='J1850'\ncrc='Sum'\n", "missing.toml: Sum is not a signal of this message (CRC of Pack)"),
    ],
)  # fmt: skip
def test_a_protection_file_that_cannot_be_used_is_2(files, content, problem):
    if content is not None:
        (files / "missing.toml").write_bytes(content)
    result = decode(files, log_of(files, stream("Pack", [1])), "--protection", files / "missing.toml")
    assert result.exit_code == 2
    assert problem in result.stderr
