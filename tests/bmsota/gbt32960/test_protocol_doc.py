"""docs/protocol.md is what the tables say."""

from __future__ import annotations

import importlib.util
import re
from pathlib import Path

import pytest

from bmsota.gbt32960 import BadStretch, FrameReader, FrameReceived, decode

ROOT = Path(__file__).resolve().parents[3]
SCRIPT = ROOT / "scripts" / "make_protocol_doc.py"


@pytest.fixture(scope="module")
def script():
    spec = importlib.util.spec_from_file_location("make_protocol_doc", SCRIPT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_up_to_date(script):
    """Run scripts/make_protocol_doc.py after a change of a table."""
    assert script.PAGE.read_text(encoding="utf-8") == script.page()


def test_the_examples_on_the_page_decode(script):
    """The bytes that a reader would copy are valid frames."""
    blocks = re.findall(r"```text\n(.*?)```", script.PAGE.read_text(encoding="utf-8"), re.DOTALL)
    assert len(blocks) == 10
    for block in blocks[:9]:
        pairs = "".join(line[6:58] for line in block.splitlines())
        assert decode(bytes.fromhex(pairs)).command in (0xC0, 0xC1, 0xC2, 0xC3, 0xC4, 0x02)
    reader = FrameReader()
    reader.receive_data(bytes.fromhex(blocks[9]))
    assert isinstance(reader.next_event(), FrameReceived)
    assert not isinstance(reader.next_event(), BadStretch)


def test_check_says_whether_the_page_is_up_to_date(script, monkeypatch, tmp_path, capsys):
    """Both ways, and writing it makes it so."""
    monkeypatch.setattr(script, "PAGE", tmp_path / "protocol.md")
    monkeypatch.setattr("sys.argv", ["make_protocol_doc.py"])
    assert script.main() == 0
    monkeypatch.setattr("sys.argv", ["make_protocol_doc.py", "--check"])
    assert script.main() == 0
    script.PAGE.write_text("old", encoding="utf-8")
    assert script.main() == 1
    assert "run it again" in capsys.readouterr().out
