"""Plans, nodes and results in words."""

from __future__ import annotations

from types import SimpleNamespace
from uuid import UUID

import pytest

from bmsota.cli.flash_output import counted, findings_text, node_lines, nodes_text, rate_sentence, stream_lines
from bmsota.cli.terminal import wrapped
from bmsota.flashing import Check, Finding, Verdict, node_words
from bmsota.node import Capability


@pytest.mark.parametrize(
    ("positions", "text"),
    [
        ([3], "node 3"),
        ([2, 1], "nodes 1, 2"),
        ([0, 1, 2], "nodes 0-2"),
        ([1, 3, 4, 7, 5, 31], "nodes 1, 3-5, 7, 31"),
    ],
)
def test_nodes_are_written_as_people_do(positions, text):
    assert node_words(positions) == text


def test_what_is_the_same_of_many_nodes_is_said_once():
    details = [(1, "node 1 (HW-1): expected a key, got none"), (2, "expected a key, got none"), (3, "silent")]
    assert nodes_text(details) == "nodes 1, 2: expected a key, got none; node 3: silent"
    findings = [
        Finding(Check.NODE_PRESENT, Verdict.REFUSED, None, "no master answered"),
        *(Finding(Check.NODE_PRESENT, Verdict.REFUSED, position, "did not answer") for position in range(4, 8)),
    ]
    assert findings_text(findings) == "no master answered; nodes 4-7: did not answer"


@pytest.mark.parametrize(("count", "text"), [(0, "0 nodes"), (1, "1 node"), (2, "2 nodes")])
def test_counts(count, text):
    assert counted(count, "node") == text


def test_a_rate_says_what_it_counts():
    """ "compressed" is said where it is, and of nothing else."""
    assert rate_sentence(1000, 1, 35_200) == "1.0 of 35.2 kB/s, 3 %"
    assert rate_sentence(50_000, 1, 35_200, is_compressed=True) == "50.0 kB/s, compressed"
    assert rate_sentence(20_000, 1, 35_200, is_compressed=True) == "20.0 kB/s, compressed"
    assert rate_sentence(50_000, 1, 35_200) == "50.0 kB/s"  # A bus without a real bit rate.
    assert rate_sentence(1000, 1, None) == "1.0 kB/s"
    assert rate_sentence(0, 1, 35_200) == rate_sentence(1, 0, 35_200) == ""


def report_of(position, *, stream, sent_bytes=35_200, seconds=1.0, is_compressed=False):
    return SimpleNamespace(
        position=position,
        stream=stream,
        sent_bytes=sent_bytes,
        stream_ns=int(seconds * 1e9),
        is_compressed=is_compressed,
    )


def test_a_transfer_that_nodes_share_has_one_rate():
    shared = [report_of(position, stream=(1, 2, 3)) for position in (1, 2, 3)]
    shared[1].sent_bytes = 100  # It had the rest.
    alone = report_of(0, stream=(0,))
    assert stream_lines([*shared, alone], 35_200) == [
        "nodes 1-3 together: 35200 bytes in 1.0 s (35.2 of 35.2 kB/s, 100 %)"
    ]
    packed = [report_of(position, stream=(4, 5), is_compressed=True) for position in (4, 5)]
    assert stream_lines(packed, 35_200) == ["nodes 4, 5 together: 35200 bytes in 1.0 s (35.2 kB/s, compressed)"]
    assert stream_lines([alone, report_of(7, stream=())], 35_200) == []


def test_on_a_narrow_screen_lines_are_cut_between_words_and_tables_become_words(describe):
    nodes = [describe(position, serial=f"SERIAL-NUMBER-{position:08}") for position in range(9)]
    names = {UUID(int=1): "F7-slave"}
    wide = node_lines(nodes, names)
    assert max(map(len, wide)) > 80
    narrow = wrapped("\n".join(node_lines(nodes, names, width=80)), 80).split("\n")
    assert max(map(len, narrow)) <= 80
    assert narrow[:2] == [
        "node 0: role slave, hwid HW-0, serial SERIAL-NUMBER-00000000, version 2.0.0,",
        "  state application, slot A confirmed *, slot B empty, counter 1",
    ]
    assert sorted(" ".join(narrow).split()) == sorted(
        " ".join(node_lines(nodes, names, width=80)).split()
    )  # No word is cut or lost.
    assert "hardware class F7-slave (00000000-0000-0000-0000-000000000001): nodes 0-8" in narrow


@pytest.mark.parametrize("width", [None, 80, 20])
def test_what_is_longer_than_the_screen_is_not_cut_inside_a_word(width):
    text = "  next: " + "x" * 30 + " test-pending version-downgrade /dev/serial/by-id/usb-a-long-name and so on"
    lines = wrapped(text, width).split("\n")
    assert " ".join(lines).split() == text.split()
    assert all(len(line) <= (width or 999) or len(line.split()) == 1 for line in lines)
    assert lines[0].startswith("  next:")


def test_locked_nodes_are_said_to_be_locked(describe):
    locked = [describe(position, serial="S", capabilities=Capability.SECURITY_ACCESS) for position in range(3)]
    assert "locked: nodes 0-2; flashing needs the access key of the series (--access-key)" in node_lines(locked)
    assert not any("locked" in line for line in node_lines([describe(0, serial="S")]))


def test_nodes_that_can_different_things_have_a_column_for_it(describe):
    same = [describe(position, serial=f"HW-{position}") for position in range(2)]
    assert " ".join(node_lines(same)[0].split()) == "node role hwid version state slot A slot B counter"
    assert node_lines(same)[3:] == [
        "serial numbers equal the hardware ids",
        "hardware class 00000000-0000-0000-0000-000000000001: nodes 0, 1",
        "nodes 0, 1: supports broadcast; protocol 2",
    ]
    other = describe(2, serial="SN2", capabilities=Capability.FD_DATA)
    lines = node_lines([*same, other])
    assert lines[0].split()[-2:] == ["supports", "protocol"]
    assert lines[0].split()[3] == "serial"
    assert lines[3].split()[-3:] == ["fd", "data", "2"]


@pytest.fixture
def describe():
    from bmsota.boot import BootReason, SlotState
    from bmsota.image import ImageRole, ImageVersion
    from bmsota.node import NodeDescription, NodeMode

    def make(position, *, serial, capabilities=Capability.BROADCAST):
        return NodeDescription(
            position=position,
            role=ImageRole.SLAVE,
            hwid=f"HW-{position}",
            serial=serial,
            class_id=UUID(int=1),
            version=ImageVersion(2),
            security_counter=1,
            state=NodeMode.APPLICATION,
            boot_reason=BootReason.NORMAL,
            slot_states=(SlotState.CONFIRMED, SlotState.EMPTY),
            active_slot=0,
            running_slot=0,
            protocol_version=2,
            protocol_version_min=2,
            capabilities=capabilities,
            boot_id=1,
        )

    return make
