"""docs/uds.md shows every number and setting, and what it says of speed is measured."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from benchmarks._uds import BITRATE_BPS, uds_seconds
from bmsota.can_timing import frame_bits
from bmsota.canframe import CanFrame
from bmsota.node import CAUSE_OF_RESULT, FailureCause
from bmsota.uds import DIDS, NRCS, ROUTINES, Did, Nrc, Routine, UdsDialect, UdsServerTiming, UdsTiming
from bmsota.uds._exchange import cause_of_refusal
from bmsota.uds._identifiers import NRC_OF_RESULT

pytestmark = pytest.mark.slow

PAGE = Path(__file__).resolve().parents[3] / "docs" / "uds.md"


@pytest.fixture(scope="module")
def text():
    return PAGE.read_text(encoding="utf-8")


def test_the_page_shows_every_number_and_setting(text):
    assert set(DIDS) == set(Did)
    assert set(ROUTINES) == set(Routine)
    assert set(NRCS) == set(Nrc)
    for number in (*Did, *Routine):
        assert f"| {number:04X} |" in text
    for nrc in Nrc:
        assert f"| {nrc.name} (0x{nrc:02X}) |" in text
    for settings in (UdsDialect, UdsTiming, UdsServerTiming):
        for name in settings.__dataclass_fields__:
            assert f"| `{name}` |" in text


def test_what_a_result_is_as_a_refusal_is_what_the_page_says(text):
    """The numbers of the maker's range stand in the page; every result that the staging gives has one."""
    documented = {int(number, 16): name for name, number in re.findall(r"\| (\w+) \(0x(F[0-9A-F])\) \|", text)}
    assert {int(nrc): code.name for code, nrc in NRC_OF_RESULT.items()} == documented
    assert sorted(documented) == [0xF2, 0xF3, 0xF4, 0xF5, 0xF6, 0xF7, 0xF9, 0xFA, 0xFB, 0xFC, 0xFD]


@pytest.mark.parametrize("code", NRC_OF_RESULT)
def test_a_tester_reads_the_same_cause_from_either_protocol(code):
    """DAMAGED has none: sending the image again can help."""
    assert cause_of_refusal(NRC_OF_RESULT[code], has_profile=True) is CAUSE_OF_RESULT.get(code)
    assert cause_of_refusal(NRC_OF_RESULT[code], has_profile=False) is FailureCause.REFUSED


@pytest.mark.parametrize(("block_length", "percent"), [(0xFFF, 87), (0x202, 84), (0x82, 76)])
def test_the_share_of_the_wire_is_what_the_page_says(text, block_length, percent):
    """Simulated seconds on the paced bus: the same on every machine."""
    seconds, size = uds_seconds(block_length)
    ceiling = BITRATE_BPS / frame_bits(CanFrame(0x740, bytes(8)))[0] * 8
    assert round(size / seconds / ceiling * 100) == percent
    assert f"{percent} %" in text
