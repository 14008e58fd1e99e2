"""docs/uds.md shows every number and setting, and what it says of speed is measured."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks._uds import BITRATE_BPS, uds_seconds
from bmsota.can_timing import frame_bits
from bmsota.canframe import CanFrame
from bmsota.uds import DIDS, NRCS, ROUTINES, Did, Nrc, Routine, UdsDialect, UdsServerTiming, UdsTiming

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


@pytest.mark.parametrize(("block_length", "percent"), [(0xFFF, 87), (0x202, 84), (0x82, 76)])
def test_the_share_of_the_wire_is_what_the_page_says(text, block_length, percent):
    """Simulated seconds on the paced bus: the same on every machine."""
    seconds, size = uds_seconds(block_length)
    ceiling = BITRATE_BPS / frame_bits(CanFrame(0x740, bytes(8)))[0] * 8
    assert round(size / seconds / ceiling * 100) == percent
    assert f"{percent} %" in text
