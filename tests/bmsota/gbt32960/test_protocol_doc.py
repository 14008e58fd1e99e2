"""The examples of docs/protocol.md are valid frames."""

from __future__ import annotations

import re
from pathlib import Path

from bmsota.gbt32960 import DiscardedBytes, FrameReader, FrameReceived, decode

PAGE = Path(__file__).resolve().parents[3] / "docs" / "protocol.md"


def test_the_examples_on_the_page_decode():
    """The bytes that a reader would copy are valid frames."""
    blocks = re.findall(r"```text\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 10
    for block in blocks[:9]:
        pairs = "".join(line[6:58] for line in block.splitlines())
        assert decode(bytes.fromhex(pairs)).command in (0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0x02)
    reader = FrameReader()
    reader.receive_data(bytes.fromhex(blocks[9]))
    assert isinstance(reader.next_event(), FrameReceived)
    assert not isinstance(reader.next_event(), DiscardedBytes)
