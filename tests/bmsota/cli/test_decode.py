"""`bmsota decode`: what a person sees, what a program reads, and the exit codes."""

from __future__ import annotations

import json
from uuid import UUID

import pytest

from bmsota.adapters import frame_sources
from bmsota.cli import decode as decode_command
from bmsota.gbt32960 import Frame, Heartbeat, NodeIdentity, RawMessage, UnitIdentity, beijing_time, encode

LOGOUT = "232304fe5445535456494e303030303030303035340100081206161015150046e1"
BROKEN = LOGOUT[:-2] + "e2"


@pytest.fixture
def run(runner):
    return runner(decode_command.command)


def test_a_frame_in_words(run):
    done = run(LOGOUT)
    assert done.exit_code == 0
    assert done.stdout.splitlines() == [
        "frame 1: GB/T 32960.3-2016, VEHICLE_LOGOUT (0x04), COMMAND (0xfe), VIN TESTVIN0000000054, 33 bytes",
        "  VehicleLogout",
        "    time: 2018-06-22 16:21:21+08:00",
        "    serial: 70",
    ]


@pytest.mark.parametrize(
    "arguments",
    [
        ["0x" + LOGOUT.upper()],
        [":".join(LOGOUT[i : i + 2] for i in range(0, len(LOGOUT), 2))],
        [LOGOUT[i : i + 2] for i in range(0, len(LOGOUT), 2)],
        [LOGOUT[:20], LOGOUT[20:]],
        [" ".join(LOGOUT[i : i + 2] for i in range(0, len(LOGOUT), 2))],
    ],
)
def test_hexadecimal_in_the_ways_people_paste_it(run, arguments):
    assert run(*arguments).stdout == run(LOGOUT).stdout


@pytest.mark.slow
def test_every_vector_in_every_form(run, good_vector):
    """No good frame breaks any output; each JSON line is an object."""
    for options in ([], ["--explain"], ["--json"], ["--json", "--explain"]):
        done = run(good_vector["hex"], *options)
        assert done.exit_code == 0, done.output
        if "--json" in options:
            found = json.loads(done.stdout)
            assert found["edition"] == good_vector["version"]


def test_every_bad_vector_is_said_in_one_line(run, bad_vector):
    """Exit code 1 and no traceback, whether a frame was inside or not."""
    done = run(bad_vector["hex"])
    assert done.exit_code == 1
    assert done.stderr.count("\n") == 1
    assert "expected" in done.stderr or "discarded: " in done.stderr


def test_json_for_programs(run):
    found = json.loads(run("--json", LOGOUT).stdout)
    assert found == {
        "place": "frame 1",
        "edition": 2016,
        "command": 4,
        "reply_flag": 254,
        "vin": "TESTVIN0000000054",
        "encryption": 1,
        "message": {"type": "VehicleLogout", "time": "2018-06-22T16:21:21+08:00", "serial": 70},
    }


def test_the_table_of_an_explanation(run):
    lines = run("--explain", LOGOUT).stdout.splitlines()
    assert lines[1].split() == ["offset", "bytes", "field", "raw", "value", "clause"]
    serial = next(line for line in lines if "serial" in line)
    assert serial.split() == ["30", "00", "46", "vehicle", "logout", "/", "serial", "70", "70", "table", "20"]
    assert lines[-1].split() == ["32", "e1", "check", "byte", "225", "0xe1", "table", "2"]


def test_out_of_range_is_marked(run, vectors):
    done = run("--explain", vectors["n36_02_realtime_report_with_wrong_data"]["hex"])
    assert "! outside the text's range" in done.stdout


def test_standard_input_by_lines(run):
    """Good, empty, broken, not hexadecimal, two glued: each line for itself, and exit code 1 in the end."""
    done = run("--json", stdin=f"{LOGOUT}\n\n{BROKEN}\nhello\n{LOGOUT}{LOGOUT}\n")
    assert done.exit_code == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [item["place"] for item in found] == [
        "line 1",
        "line 3",
        "line 4",
        "line 5, offset 0",
        "line 5, offset 33",
    ]
    assert ["error" in item for item in found] == [False, True, True, False, False]
    assert "expected check byte 0xe1, got 0xe2" in found[1]["error"]


def test_a_raw_stream_on_standard_input(run, good_frames):
    """With garbage between: the frames are shown, the garbage is reported."""
    done = run("--json", stdin=b"\x00junk" + b"".join(good_frames))
    assert done.exit_code == 1
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert found[0]["error"] == "5 bytes discarded: no start mark"
    assert len(found) == 1 + len(good_frames)


@pytest.mark.parametrize(
    ("arguments", "stdin"), [(["xyz"], None), ([LOGOUT, LOGOUT[:-1]], None), ([], ""), ([], " \n"), (["--nope"], None)]
)
def test_a_wrong_call_is_exit_code_2(run, arguments, stdin):
    """No digits, half a byte, nothing to read, an unknown option."""
    done = run(*arguments, stdin=stdin)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


def test_a_terminal_is_no_input(run, monkeypatch):
    """Without arguments and with a keyboard there is nothing to wait for."""
    monkeypatch.setattr(frame_sources, "_is_terminal", lambda: True)
    assert run(stdin=LOGOUT).exit_code == 2


def test_an_identity_in_words_and_for_programs(run):
    """UUIDs and versions are shown as people write them."""
    node = NodeIdentity(
        role=0,
        position=0,
        hwid="F7M",
        hardware_class=UUID(int=5),
        version=(2, 1, 0, 5),
        security_counter=3,
        serial="SN",
    )
    data = encode(Frame(command=0xC0, vin="V", message=UnitIdentity(beijing_time(10**18), (node,)))).hex()
    words = run(data).stdout
    assert "hardware_class: 00000000-0000-0000-0000-000000000005" in words
    assert "version: 2 1 0 5 (4)" in words
    found = json.loads(run("--json", data).stdout)["message"]["nodes"][0]
    assert (found["hardware_class"], found["version"]) == ("00000000-0000-0000-0000-000000000005", [2, 1, 0, 5])


def test_encrypted_frames_say_so(run):
    data = encode(Frame(command=2, vin="V", message=RawMessage(b"\x01\x02"), encryption=3))
    assert "encryption: AES (0x03)" in run(data.hex()).stdout
    assert run(encode(Frame(command=7, vin="V", message=Heartbeat())).hex()).exit_code == 0
