"""docs/bootloader.md shows every row of every state table."""

from __future__ import annotations

from pathlib import Path

from bmsota.boot import SLOT_TRANSITIONS
from bmsota.bootloader import CLIENT_TRANSITIONS, COMMAND_TRANSITIONS, TARGET_TRANSITIONS
from bmsota.node import FAILURES

PAGE = Path(__file__).resolve().parents[3] / "docs" / "bootloader.md"


def test_the_page_shows_every_row_of_every_table():
    text = PAGE.read_text(encoding="utf-8")
    for machine in (CLIENT_TRANSITIONS, COMMAND_TRANSITIONS, TARGET_TRANSITIONS, SLOT_TRANSITIONS):
        for (state, stimulus), after in machine.items():
            assert f"| {state.name} | {stimulus.name} | {after.name} |" in text
    for cause in FAILURES:
        assert f"| {cause.value} |" in text
