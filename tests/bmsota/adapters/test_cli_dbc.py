"""`bmsota dbc check`: faults by line, and an exit code a script can use."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from bmsota.adapters.files import load_dbc, packaged_dbc
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
    assert result.output.startswith(f"{path}: 194 messages, ")
    assert result.output.endswith("no faults\n")


@pytest.mark.slow
def test_a_dbc_that_ships_with_bmsota_is_checked_by_name(tmp_path, monkeypatch):
    """A file of that name comes first, as for `decode`."""
    monkeypatch.chdir(tmp_path)
    result = runner.invoke(app, ["check", "bms_internal"])
    assert (result.exit_code, result.output.startswith("bms_internal: 194 messages, ")) == (0, True)
    (tmp_path / "bms_internal").write_text(CLEAN)
    result = runner.invoke(app, ["check", "bms_internal"])
    assert (result.exit_code, result.output) == (0, "bms_internal: 1 message, 1 signal loaded; no faults\n")


def test_every_fault_is_a_line_and_the_code_is_1(tmp_path):
    result, path = check(tmp_path, CLEAN + ' SG_ T : 4|8@1+ (1,0) [0|0] "" A\nBO_ 1 Again: 1 A\nCM_ BO_ 9 "lost";\n')
    assert result.exit_code == 1
    assert result.output.splitlines() == [
        f"{path}:3: error: expected all bits inside 1 byte, got start 4 length 8 (Good.T)",
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


def test_warnings_alone_do_not_fail_with_errors_only(tmp_path):
    """For CI: what is wrong but loaded is neither printed nor a failure; the counts stay."""
    text = CLEAN + ' SG_ T : 4|4@1+ (1,0) [0|0] "" A\n'
    result, path = check(tmp_path, text)
    assert (result.exit_code, result.output.splitlines()[0]) == (1, f"{path}:3: warning: overlaps S (Good.T)")
    result, _ = check(tmp_path, text, "--errors-only")
    assert (result.exit_code, result.output) == (0, f"{path}: 1 message, 2 signals loaded; 0 errors, 1 warning\n")
    result, _ = check(tmp_path, text, "--errors-only", "--json")
    assert (result.exit_code, json.loads(result.output)["faults"]) == (0, [])
    result, _ = check(tmp_path, text + "stray\n", "--errors-only")
    assert (result.exit_code, result.output.splitlines()) == (
        1,
        [
            f"{path}:4: error: not a statement: 'stray'",
            f"{path}: 1 message, 2 signals loaded; 1 error, 1 warning",
        ],
    )


def test_two_messages_of_one_name_both_count(tmp_path):
    """CSS Electronics' GNSS file: 18 messages of 9 names."""
    result, path = check(tmp_path, CLEAN + 'BO_ 2 Good: 1 A\n SG_ T : 0|8@1+ (1,0) [0|0] "" A\n')
    assert result.output.splitlines() == [
        f"{path}:3: warning: duplicate name Good; this message is reachable by its id only",
        f"{path}: 2 messages, 2 signals loaded; 0 errors, 1 warning",
    ]


@pytest.mark.slow
def test_nothing_but_our_own_lines_is_printed(tmp_path):
    """The parser's logger would print to stderr when nothing handles it; in a process of its own nothing does."""
    path = tmp_path / "file.dbc"
    path.write_text(CLEAN + "BO_ 2 Good: 1 A\n")
    code = "from bmsota.cli.dbc import app; app()"
    done = subprocess.run([sys.executable, "-c", code, "check", str(path)], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (1, "")


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-16-be"])
def test_a_utf_16_file_is_read_and_said_to_be_one(tmp_path, encoding):
    """What a Windows editor saves as "Unicode", with its mark and without."""
    path = tmp_path / "file.dbc"
    path.write_bytes(CLEAN.replace('""', '"℃"').encode(encoding))
    result = runner.invoke(app, ["check", str(path)])
    assert (result.exit_code, result.output.splitlines()) == (
        1,
        [
            f"{path}:1: warning: the file is UTF-16, which most DBC tools cannot read; save it as UTF-8",
            f"{path}: 1 message, 1 signal loaded; 0 errors, 1 warning",
        ],
    )
    assert load_dbc(path)["Good"].signals["S"].unit == "℃"
