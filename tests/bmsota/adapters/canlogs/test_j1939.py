"""J1939 in logs: `bmsota dbc decode` by parameter group, and messages put together from transport packets."""

from __future__ import annotations

import csv

import pytest
from typer.testing import CliRunner

from bmsota.adapters.canlogs import CanLog, decode_log
from bmsota.cli.dbc import app
from bmsota.signals import TransportFault, loads

DBC = """BU_: A
BO_ 2566844926 CCVS: 8 A
 SG_ Speed : 8|16@1+ (0.00390625,0) [0|250.996] "km/h" A
BO_ 2617399028 BRM: 41 A
 SG_ Major : 0|16@1+ (1,0) [0|0] "" A
 SG_ Capacity : 32|16@1+ (0.1,0) [0|1000] "Ah" A
 SG_ LastOfVin : 320|8@1+ (1,0) [0|255] "" A
"""
J1939 = DBC + 'BA_DEF_ "ProtocolType" STRING ;\nBA_DEF_DEF_ "ProtocolType" "J1939";\n'

# The conversation of tests/bmsota/signals/test_j1939.py, recorded from python-can-j1939, with an ordinary frame inside.
LOG = """(1.000) can0 1CEC56F4#1029000604000200
(1.001) can0 1CECF456#110301FFFF000200
(1.003) can0 1CEB56F4#0101010003A00F30
(1.008) can0 1CEB56F4#0211424D534F0100
(1.010) can0 18FEF100#0080160000000000
(1.013) can0 1CEB56F4#030000180B012A01
(1.013) can0 1CECF456#110304FFFF000200
(1.014) can0 1CEB56F4#040001004C544553
(1.018) can0 1CEB56F4#055430303030424D
(1.023) can0 1CEB56F4#06534F54413031FF
(1.024) can0 1CECF456#13290006FF000200
(1.030) can0 100#00
"""

TEXT = """\
(1.010000) can0 18FEF100 CCVS: Speed 22.50000000 km/h
(1.023000) can0 1C0256F4 BRM: Major 257, Capacity 400.0 Ah, LastOfVin 49
"""
SUMMARY = "12 frames; 2 decoded; 1 with ids not in the DBC (100); 10 J1939 packets, put together into 1 message more"

runner = CliRunner()


@pytest.fixture
def files(tmp_path):
    """(log, DBC) as written; the DBC says J1939."""
    (tmp_path / "drive.log").write_text(LOG)
    (tmp_path / "truck.dbc").write_text(J1939)
    return tmp_path / "drive.log", tmp_path / "truck.dbc"


def decode(files, *options):
    log, dbc = files
    result = runner.invoke(app, ["decode", str(log), "--dbc", str(dbc), *options])
    return result.exit_code, result.stdout, result.stderr.replace(f"{log}: ", "")


def test_groups_and_packets_are_decoded_as_the_dbc_declares(files):
    """The id shown is the frame's: who sent it is in its last byte. 12 frames and 1 message are 2 + 1 + 10."""
    assert decode(files) == (0, TEXT, SUMMARY + "\n")


def test_a_dbc_without_attributes_is_decoded_on_demand(files):
    files[1].write_text(DBC)
    code, text, said = decode(files)
    assert (code, text) == (0, "")
    assert "12 frames; 0 decoded; 12 with ids not in the DBC (1CEB56F4, 1CECF456, " in said
    assert decode(files, "--j1939") == (0, TEXT, SUMMARY + "\n")


def test_a_mask_finds_ids_but_puts_nothing_together(files):
    files[1].write_text(DBC)
    code, text, said = decode(files, "--id-mask", "0x3FFFF00")
    assert (code, text) == (0, TEXT.splitlines(keepends=True)[0])
    assert "12 frames; 1 decoded; 11 with ids not in the DBC" in said
    for wrong in ("3FFFFZ", "-1", "0x20000000"):
        code, _, said = decode(files, "--id-mask", wrong)
        assert (code, f"--id-mask: expected up to 29 bits, such as 0x3FFFF00, got {wrong}" in said) == (2, True)


def test_tables_have_the_frame_s_id(files):
    _, text, _ = decode(files, "--csv", "-")
    rows = list(csv.DictReader(text.splitlines()))
    assert [(row["can_id"], row["message"], row["signal"], row["value"]) for row in rows] == [
        ("18FEF100", "CCVS", "Speed", "22.50000000"),
        ("1C0256F4", "BRM", "Major", "257"),
        ("1C0256F4", "BRM", "Capacity", "400.0"),
        ("1C0256F4", "BRM", "LastOfVin", "49"),
    ]


def test_what_could_not_be_put_together_is_said(files):
    """A packet is missing, and a second conversation has no end: values are lost, as where a log is damaged."""
    lines = LOG.splitlines(keepends=True)
    files[0].write_text("".join(lines[:3] + lines[4:]) + "(2.0) can0 1CECFF10#201E0005FFE3FE00\n")
    code, text, said = decode(files)
    assert (code, text) == (1, TEXT.splitlines(keepends=True)[0])
    assert said.splitlines() == [
        "12 frames; 1 decoded; 1 with ids not in the DBC (100); 10 J1939 packets, put together into 0 messages more",
        "J1939 transport, 1 time: packets missing",
        "J1939 transport, 1 time: not complete at the end",
    ]


def test_packets_of_other_protocols_are_named(files):
    """J1939's extended transport (control C8, data C7) and J1939-22's frames of more than 8 bytes: counted, not put together."""
    extended = ["18C8F456#14D0070000000200", "18C7F456#0101010003A00F30", "18C7F456#0211424D534F0100"]
    fd = ["1C4DFF56##0" + 12 * "00", "1C4EFF56##0" + 64 * "00"]
    short = ["1C4DFF56#0000000000000000"]  # A frame of 8 bytes is an ordinary one of J1939-21.
    files[0].write_text(LOG + "".join(f"(3.0) can0 {frame}\n" for frame in extended + fd + short))
    code, text, said = decode(files)
    assert (code, text) == (0, TEXT)
    (line,) = said.splitlines()
    assert line.startswith("18 frames; 2 decoded; 2 with ids not in the DBC (100, 1C4DFF56); 10 J1939 packets")
    assert line.endswith(
        "; 3 of J1939 extended transport (ETP), not put together; 2 of J1939-22 (CAN FD), not put together"
    )


def test_conversations_on_two_channels_do_not_mix(files):
    """The same addresses on two buses, frame by frame."""
    lines = LOG.splitlines(keepends=True)
    files[0].write_text("".join(line + line.replace("can0", "can1") for line in lines))
    code, text, said = decode(files, "--only", "BRM")
    brm = TEXT.splitlines(keepends=True)[1]
    assert (code, text) == (0, brm + brm.replace("can0", "can1"))
    assert "24 frames; 2 decoded; 2 with ids not in the DBC (100); 2 of other messages; 20 J1939 packets" in said


def test_a_conversation_may_cross_the_blocks_of_a_log(files):
    """Blocks of 4 frames: counts are of each block, the message is in the one where its last packet stands."""
    with CanLog(files[0]) as log:
        whole = log.blocks
        log.blocks = lambda: whole(4)
        blocks = list(decode_log(log, [loads(J1939)]))
    assert [(block.frames, block.packets, block.joined) for block in blocks] == [(4, 4, 0), (4, 3, 0), (4, 3, 1)]
    assert [(each.message.name, each.can_id) for block in blocks for each in block.decoded] == [
        ("CCVS", 0x18FEF100),
        ("BRM", 0x1C0256F4),
    ]
    for block in blocks:
        found = block.complete + sum(block.misfits.values()) + sum(block.unknown.values()) + block.left_out
        assert block.frames + block.joined == found + block.packets


def test_what_is_open_at_the_end_is_a_block_of_its_own(files):
    files[0].write_text("".join(LOG.splitlines(keepends=True)[:3]))
    with CanLog(files[0]) as log:
        first, last = decode_log(log, [loads(J1939)])
    assert (first.frames, first.packets, first.transport_faults) == (3, 3, {})
    assert (last.frames, last.packets, last.transport_faults) == (0, 0, {TransportFault.UNFINISHED: 1})


def test_packets_that_the_dbc_has_as_messages_are_decoded_as_well(files):
    files[1].write_text(J1939 + 'BO_ 2565668862 TPCM: 8 A\n SG_ Control : 0|8@1+ (1,0) [0|0] "" A\n')
    _, text, said = decode(files, "--only", "TPCM", "--only", "BRM")
    assert text.count("TPCM: Control") == 4
    assert "BRM: Major" in text
    assert "12 frames; 5 decoded; 1 with ids not in the DBC (100); 1 of other messages; 6 J1939 packets" in said


def test_a_log_without_times_is_put_together(files):
    """GVRET and console logs may have none; then nothing can time out."""
    lines = []
    for line in LOG.splitlines()[:-1]:
        can_id, data = line.split()[2].split("#")
        lines.append(f"  can0  {can_id}   [8]  {bytes.fromhex(data).hex(' ').upper()}\n")
    files[0].write_text("".join(lines))
    _, text, _ = decode(files)
    assert "BRM: Major 257, Capacity 400.0 Ah, LastOfVin 49" in text
