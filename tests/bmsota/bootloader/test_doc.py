"""docs/bootloader.md is made from the code's tables and recorded conversations; it must be up to date."""

from __future__ import annotations

import runpy

import pytest


@pytest.fixture
def script(bench_parts):
    return runpy.run_path(str(bench_parts.DBC_PATH.parents[1] / "scripts" / "make_bootloader_doc.py"))


def test_the_page_is_what_the_script_makes(script):
    assert script["PAGE"].read_text(encoding="utf-8") == script["page"](), "run scripts/make_bootloader_doc.py"


def test_the_page_shows_every_row_of_every_table(script):
    text = script["PAGE"].read_text(encoding="utf-8")
    for name in ("CLIENT_TRANSITIONS", "COMMAND_TRANSITIONS", "TARGET_TRANSITIONS", "SLOT_TRANSITIONS"):
        for (state, stimulus), after in script[name].items():
            assert f"| {state.name} | {stimulus.name} | {after.name} |" in text
    for cause in script["FAILURES"]:
        assert f"| {cause.value} |" in text
