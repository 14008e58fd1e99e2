"""`bmsota dbc check`: faults by line, and an exit code a script can use."""

from __future__ import annotations

import json

import pytest
from typer.testing import CliRunner

from bmsota.adapters.files import packaged_dbc
from bmsota.cli.dbc import app

CLEAN = 'BO_ 1 Good: 1 A\n SG_ S : 0|8@1+ (1,0) [0|0] "" A\n'
runner = CliRunner()


def check(tmp_path, text, *options):
    path = tmp_path / "file.dbc"
    path.write_text(text)
    return runner.invoke(app, ["check", str(path), *options]), path


@pytest.mark.slow
def test_a_clean_file_is_0(tmp_path):
    result, path = check(tmp_path, packaged_dbc("bms_internal"))
    assert result.exit_code == 0
    assert result.output.startswith(f"{path}: 193 messages, ")
    assert result.output.endswith("no faults\n")


def test_every_fault_is_a_line_and_the_code_is_1(tmp_path):
    result, path = check(tmp_path, CLEAN + ' SG_ T : 4|8@1+ (1,0) [0|0] "" A\nBO_ 1 Again: 1 A\nCM_ BO_ 9 "lost";\n')
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"{path}:3: error: expected all bits inside 1 bytes, got start 4 length 8 (Good.T)",
        f"{path}:4: error: duplicate id 1, already used by Good (Again)",
        f"{path}:5: warning: no message with id 9 (CM_)",
        f"{path}: 1 message, 1 signal loaded; 2 errors, 1 warning",
    ]


def test_json_is_for_tools(tmp_path):
    result, path = check(tmp_path, CLEAN + "stray\n", "--json")
    assert result.exit_code == 1
    assert json.loads(result.output) == {
        "file": str(path), "messages": 1, "signals": 1,
        "faults": [{"line": 3, "severity": "error", "reason": "not a statement: 'stray'"}],
    }  # fmt: skip


@pytest.mark.parametrize("text", ["", "this is a letter\n"])
def test_what_is_no_dbc_is_2(tmp_path, text):
    result, _ = check(tmp_path, text)
    assert result.exit_code == 2
    assert "not a DBC file: it defines no message" in result.output


def test_what_cannot_be_read_is_2_without_a_traceback(tmp_path, monkeypatch):
    result = runner.invoke(app, ["check", str(tmp_path / "none.dbc")])
    assert result.exit_code == 2
    assert ": No such file" in result.output
    monkeypatch.setattr("bmsota.adapters.files.DBC_SIZE_BYTES_MAX", 5)
    result, _ = check(tmp_path, CLEAN)
    assert (result.exit_code, "at most 5 bytes" in result.output) == (2, True)
