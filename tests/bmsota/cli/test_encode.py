"""`bmsota encode`: the inverse of `bmsota decode --json`."""

from __future__ import annotations

import json
from datetime import datetime

import pytest

from bmsota.cli import decode as decode_command
from bmsota.cli import encode as encode_command
from bmsota.gbt32960 import BEIJING, Frame, PlatformLogin, encode

HEARTBEAT = {"command": 7, "vin": "V", "message": {"type": "Heartbeat"}}


@pytest.fixture
def run(runner):
    return runner(encode_command.command)


@pytest.fixture
def run_decode(runner):
    return runner(decode_command.command)


def test_decode_and_encode_are_inverse(run, run_decode, good_frames):
    """All vectors through both commands: the same digits come out."""
    digits = "\n".join(frame.hex() for frame in good_frames) + "\n"
    done = run(stdin=run_decode("--json", stdin=digits).stdout)
    assert done.exit_code == 0, done.output
    assert done.stdout == digits


def test_text_that_is_no_unicode(run, run_decode):
    """Bytes that are no GB 18030 go through JSON as escapes and come back; Chinese text stays readable."""
    login = PlatformLogin(datetime(2026, 1, 1, tzinfo=BEIJING), 1, "\udc80\udcff", "电池")
    digits = encode(Frame(command=5, vin="V", message=login)).hex()
    line = run_decode("--json", digits).stdout
    assert "\\udc80\\udcff" in line
    assert run(stdin=line).stdout.strip() == digits
    readable = encode(Frame(command=5, vin="V", message=PlatformLogin(login.time, 1, "电池", "")))
    assert "电池" in run_decode("--json", readable.hex()).stdout


def test_a_stream_file(run, run_decode, good_frames, tmp_path):
    """Written as raw bytes, the frames can be decoded, and replayed, as a file."""
    lines = run_decode("--json", stdin=b"".join(good_frames)).stdout
    (tmp_path / "frames.json").write_text(lines, encoding="utf-8")
    assert run(tmp_path / "frames.json", "-o", tmp_path / "frames.bin").exit_code == 0
    assert (tmp_path / "frames.bin").read_bytes() == b"".join(good_frames)


def test_what_is_no_frame_is_said_and_the_rest_is_encoded(run):
    wrong = HEARTBEAT | {"command": 999}
    done = run(
        stdin="\n".join([json.dumps(wrong), "{", "[" * 100_000, json.dumps(HEARTBEAT), "", json.dumps({"error": "e"})])
    )
    assert done.exit_code == 1
    assert done.stdout.count("\n") == 1
    said = done.stderr.splitlines()
    assert [line.partition(":")[0] for line in said] == ["line 1", "line 2", "line 3", "line 6"]
    whats = [line.partition(": ")[2].partition(",")[0].partition(":")[0] for line in said]
    assert whats == ["command", "not JSON", "not JSON", "frame"]


def test_what_is_missing_at_the_end_of_a_line_is_missing_in_its_column(run):
    assert run(stdin='{"command": 7\n').stderr == "line 1: not JSON: Expecting ',' delimiter (column 14)\n"


def test_strict_holds_the_text_s_ranges(run, vectors):
    from bmsota.gbt32960 import decode, to_dict

    data = bytes.fromhex(vectors["n36_02_realtime_report_with_wrong_data"]["hex"])
    line = json.dumps(to_dict(decode(data)))
    assert run(stdin=line).stdout.strip() == data.hex()
    assert run("--strict", stdin=line).exit_code == 1


@pytest.mark.parametrize("arguments", [["nowhere.json"], ["--output", "no/such/folder/x"], ["a\0b"]])
def test_files_that_cannot_be_used(run, arguments, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    done = run(*arguments, stdin=json.dumps(HEARTBEAT))
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_nothing_to_encode(run):
    assert run(stdin="\n").exit_code == 2


def test_a_line_without_end_is_refused(run, monkeypatch):
    monkeypatch.setattr(encode_command, "_LINE_LENGTH_MAX", 20)
    assert run(stdin=json.dumps(HEARTBEAT)).exit_code == 2
