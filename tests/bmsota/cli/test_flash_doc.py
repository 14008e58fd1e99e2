"""docs/flash.md says what the code does: its tables are the code's, its exit codes those of `--help`, its examples are commands."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest
from flash_rig import bmsota

from bmsota.cli.fault_table import EXIT_CODES, FAULTS, ExitCode
from bmsota.flashing import Check

ROOT = Path(__file__).resolve().parents[3]
PAGE = ROOT / "docs" / "flash.md"
COMMANDS = ("adapters", "nodes", "flash", "verify", "reset")


@pytest.fixture(scope="module")
def text():
    return PAGE.read_text(encoding="utf-8")


def test_every_row_is_on_the_page(text):
    for fault, row in FAULTS.items():
        assert f"| `{fault.value}` |" in text
        assert row.advice.replace("|", "\\|") in text
    for check in Check:
        assert f"| `{check.value}` |" in text
    for code, meaning in EXIT_CODES.items():
        assert f"| {int(code)} | {meaning} |" in text
    assert EXIT_CODES.keys() == set(ExitCode)


def test_help_of_flash_names_every_exit_code():
    said = " ".join(bmsota("flash", "--help", env={"COLUMNS": "200"}).out.replace("│", " ").split())
    exits = said.partition("Exit code: ")[2]
    for code in ExitCode:
        assert re.search(rf"(^|; ){int(code)} ", exits), code


@pytest.mark.parametrize("command", COMMANDS)
def test_help_shows_python_cans_options_too(command):
    done = bmsota(command, "--help", env={"COLUMNS": "200"})
    assert done.code == 0
    for option in (
        "-i, --interface",
        "-c, --channel",
        "-b, --bitrate",
        "--fd",
        "--data-bitrate",
        "--timing",
        "--bus-kwargs",
    ):
        assert option in done.out


def test_every_option_the_page_names_is_one(text):
    known = set()
    for command in COMMANDS:
        known |= set(re.findall(r"--[a-z][a-z-]+", bmsota(command, "--help", env={"COLUMNS": "200"}).out))
    known |= {"--dbc"}  # Of `bmsota dbc decode`.
    named = set(re.findall(r"--[a-z][a-z-]+", re.sub(r"<!--.*?-->", "", text)))
    assert named <= known


def test_every_command_of_the_page_is_one(text):
    lines = [line[2:].split("#")[0] for line in text.splitlines() if line.startswith("$ bmsota ")]
    assert len(lines) >= 4
    for line in lines:
        words = shlex.split(line)
        assert words[1] in COMMANDS
