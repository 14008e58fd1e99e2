"""Plans, nodes and results in words."""

from __future__ import annotations

from uuid import UUID

import pytest

from bmsota.cli.flash_output import counted, findings_text, node_lines, nodes_text, rate_sentence
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


def test_a_rate_beyond_the_wire_says_what_it_counts():
    assert rate_sentence(1000, 1, 35_200) == "1.0 of 35.2 kB/s, 3 %"
    assert rate_sentence(50_000, 1, 35_200) == "50.0 kB/s, unpacked"


def test_nodes_that_can_different_things_have_a_column_for_it(describe):
    same = [describe(position, serial=f"HW-{position}") for position in range(2)]
    assert " ".join(node_lines(same)[0].split()) == "node role hwid version state slot A slot B counter"
    assert node_lines(same)[-2:] == [
        "serial numbers equal the hardware ids",
        "nodes 0, 1: supports broadcast; protocol 2",
    ]
    other = describe(2, serial="SN2", capabilities=Capability.FD_DATA)
    lines = node_lines([*same, other])
    assert lines[0].split()[-2:] == ["supports", "protocol"]
    assert lines[0].split()[3] == "serial"
    assert lines[-1].split()[-3:] == ["fd", "data", "2"]


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
