"""Where `bmsota decode` takes frames from: files of every kind, told by their content."""

from __future__ import annotations

import gzip
import json

import pytest

from bmsota.adapters import frame_sources
from bmsota.cli import decode as decode_command

LOGOUT = "232304fe5445535456494e303030303030303035340100081206161015150046e1"
HEARTBEAT = "232307fe4c424d4637455630315230303030303031010000bb"
NOON = "2026-01-01T12:00:00+08:00"


@pytest.fixture
def run(runner):
    return runner(decode_command.command)


@pytest.fixture
def look(run, tmp_path):
    """Decodes a file of that content; returns the objects and the exit code."""

    def decoded(content, *options, name="input.txt"):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        done = run(path, "--json", *options)
        assert "Traceback" not in done.output
        return [json.loads(line) for line in done.stdout.splitlines()], done

    return decoded


def test_a_file_of_lines(look):
    found, done = look(f"{LOGOUT}\n\n0x{HEARTBEAT.upper()}\nnot a frame\n")
    assert [item["place"] for item in found] == ["line 1", "line 3", "line 4"]
    assert done.exit_code == 1


def test_frames_between_the_words_of_a_log(look):
    """As servers log them: a time, a direction, then the digits with blanks."""
    spaced = " ".join(LOGOUT[at : at + 2] for at in range(0, len(LOGOUT), 2))
    found, done = look(f"2026-01-01 12:00:00.123 INFO rx [{spaced}] from 10.0.0.1\n12:00:01 RX:{HEARTBEAT}.\n")
    assert [item["command"] for item in found] == [4, 7]
    assert done.exit_code == 0


def test_a_stream_file(look, good_frames):
    found, done = look(b"".join(good_frames))
    assert len(found) == len(good_frames)
    assert done.exit_code == 0


@pytest.mark.parametrize("content", [LOGOUT.encode(), bytes.fromhex(LOGOUT)])
def test_gzip(look, content):
    found, done = look(gzip.compress(content), name="frames.gz")
    assert found[0]["command"] == 4
    assert done.exit_code == 0


@pytest.mark.slow
def test_a_gzip_file_that_breaks_off(look):
    content = b"".join(bytes.fromhex(LOGOUT) + bytes([at % 251]) * (at % 7) for at in range(20_000))
    _, done = look(gzip.compress(content)[:-500], name="frames.gz")
    assert done.exit_code == 1
    assert "the file cannot be read to its end" in done.output


def test_a_gzip_file_that_is_damaged(look):
    """Garbage behind a good head: what could be read is shown, and the rest is said."""
    packed = bytearray(
        gzip.compress(bytes(range(256)) * 2000 + b"".join(bytes([at % 253, at // 7 % 256]) for at in range(99_999)))
    )
    packed[len(packed) // 2 : len(packed) // 2 + 40] = b"\xff" * 40
    _, done = look(bytes(packed), name="frames.gz")
    assert done.exit_code == 1
    assert "the file cannot be read to its end" in done.output


def test_text_in_another_encoding_than_said(look):
    _, done = look(b"2323\n" * 40_000, "--format", "hex", "--encoding", "utf-16")
    assert done.exit_code in (1, 2)


def test_several_files_say_which(run, tmp_path):
    for name in ("a.txt", "b.txt"):
        (tmp_path / name).write_text(LOGOUT)
    done = run(tmp_path / "a.txt", tmp_path / "b.txt", "--json")
    assert [json.loads(line)["place"] for line in done.stdout.splitlines()] == [
        f"{tmp_path / name}: line 1" for name in ("a.txt", "b.txt")
    ]


def test_a_line_without_end_is_no_line(look, monkeypatch):
    """It is left out with one word, and the next line is read."""
    monkeypatch.setattr(frame_sources, "_LINE_LENGTH_MAX", 100)
    found, _ = look("23" * 500 + "\n" + HEARTBEAT + "\n", "--format", "hex")
    assert "longer than 100 characters" in found[0]["error"]
    assert found[1]["command"] == 7


# --- tables ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("delimiter", [",", ";", "\t", "|"])
def test_a_table_by_its_content(look, delimiter):
    """The column of frames and the column of times are found, whatever they are called."""
    rows = [
        ["id", "received", "vin", "data"],
        ["1", "2026-01-01 12:00:00", "X", LOGOUT],
        ["2", "2026-01-01 12:00:30", "X", HEARTBEAT],
    ]
    found, done = look("\n".join(delimiter.join(row) for row in rows))
    assert [(item["place"], item["time"], item["command"]) for item in found] == [
        ("row 2", NOON, 4),
        ("row 3", "2026-01-01T12:00:30+08:00", 7),
    ]
    assert "frames in column 'data', times in column 'received'" in done.stderr
    assert done.exit_code == 0


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_a_table_of_a_chinese_platform(look, encoding):
    """Its column may be named, in the encodings that spreadsheets write."""
    content = f"车架号,时间,报文\nTESTVIN0000000054,2026/01/01 12:00:00,{LOGOUT}\n".encode(encoding)
    found, done = look(content, "--column", "报文", "--vin-column", "车架号", "--time-column", "时间")
    assert [(item["place"], item["time"], item["vin"]) for item in found] == [
        ("row 2, TESTVIN0000000054", NOON, "TESTVIN0000000054")
    ]
    assert done.exit_code == 0


def test_a_table_without_names(look):
    found, _ = look(f"a,{LOGOUT}\nb,{HEARTBEAT}\n")
    assert [item["place"] for item in found] == ["row 1", "row 2"]


def test_a_column_by_number(look):
    found, _ = look(f"{HEARTBEAT},{LOGOUT}\n", "--column", "2", "--format", "csv")
    assert [item["command"] for item in found] == [4]


@pytest.mark.parametrize("cell", ["1767240000", "1767240000000", "2026-01-01T04:00:00Z", "2026/01/01 12:00:00"])
def test_times_as_exports_have_them(look, cell):
    """Without a zone it is Beijing time; numbers are seconds or milliseconds since 1970."""
    found, _ = look(f"t,f\n{cell},{LOGOUT}\n")
    assert found[0]["time"] == NOON


def test_a_row_of_another_vehicle_is_said(look):
    """The export says one vehicle, the frame another: one of them is wrong."""
    found, done = look(f"vin,f\nOTHER,{LOGOUT}\n", "--vin-column", "vin")
    assert "the row says vehicle OTHER, the frame 'TESTVIN0000000054'" in found[0]["error"]
    assert done.exit_code == 1


def test_rows_that_are_none_are_said(look):
    found, done = look(f"n,f\n1,{LOGOUT}\n2,\n3,nonsense\n\n4,{LOGOUT[:-2]}00\n")
    assert ["error" in item for item in found] == [False, True, True, True]
    assert [item["place"] for item in found[1:]] == ["row 3", "row 4", "row 6"]
    assert done.exit_code == 1


@pytest.mark.parametrize(
    ("content", "options", "said"),
    [
        ("a,b\n1,2\n", ["--format", "csv"], "no column of frames found in a, b; name it (--column)"),
        (f"a,b\n1,{LOGOUT}\n", ["--column", "c"], "expected one of 'a', 'b', got 'c' (--column)"),
        (f"a,b\n1,{LOGOUT}\n", ["--time-column", "3"], "expected one of"),
        (f"a,b\n1,{LOGOUT}\n", ["--encoding", "klingon"], "unknown text encoding"),
        (LOGOUT, ["--encoding", "base64"], "unknown text encoding"),
        (b"a," + LOGOUT.encode() + b"\xff\n", ["--encoding", "idna"], "not text in idna"),
        ("", [], "txt is empty"),
    ],
)
def test_a_wrong_call_is_exit_code_2(look, content, options, said):
    _, done = look(content, *options)
    assert done.exit_code == 2
    assert said in " ".join(done.stderr.replace("│", " ").split())


@pytest.mark.parametrize("arguments", [["no.such.file"], [LOGOUT, "frames.bin"], ["x" * 5000], ["a\0b"], ["."]])
def test_what_is_neither_digits_nor_a_file(run, arguments):
    done = run(*arguments)
    assert done.exit_code == 2
    assert "Traceback" not in done.output


# --- captures: the adapter's own tests are in tests/bmsota/adapters/test_captures.py ------------------------------------


@pytest.fixture
def capture(tmp_path):
    """Writes a capture: a vehicle and its platform, and another conversation of somebody else's."""
    import dpkt

    def packet(ends, sequence, data, flags=dpkt.tcp.TH_ACK):
        (source, sport), (destination, dport) = ends
        segment = dpkt.tcp.TCP(sport=sport, dport=dport, seq=sequence, flags=flags, data=data)
        ip = dpkt.ip.IP(src=bytes([10, 0, 0, source]), dst=bytes([10, 0, 0, destination]), p=6, data=segment)
        return bytes(dpkt.ethernet.Ethernet(src=b"\2" * 6, dst=b"\4" * 6, data=ip))

    path = tmp_path / "talk.pcap"
    up, down, other = ((1, 4000), (2, 32960)), ((2, 32960), (1, 4000)), ((1, 4001), (3, 80))
    login, answer = bytes.fromhex(LOGOUT), bytes.fromhex(LOGOUT.replace("04fe", "0401").replace("e1", "1e"))
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        writer.writepkt(packet(up, 99, b"", dpkt.tcp.TH_SYN), 1767240000.0)
        writer.writepkt(packet(up, 100, login[:10]), 1767240000.0)
        writer.writepkt(packet(other, 5, b"GET / HTTP/1.1\r\n\r\n"), 1767240000.1)
        writer.writepkt(packet(up, 110, login[10:] + login), 1767240001.0)
        writer.writepkt(packet(down, 7, answer), 1767240002.0)
        writer.writepkt(b"no packet", 1767240002.5)
    return path


def test_a_capture(run, capture):
    """Both directions, with their time and link; other people's traffic is counted and not taken apart."""
    done = run(capture, "--json")
    found = [json.loads(line) for line in done.stdout.splitlines()]
    assert [(item["link"], item["time"][-14:-6], item["reply_flag"]) for item in found] == [
        ("10.0.0.1:4000 > 10.0.0.2:32960", "12:00:01", 254),
        ("10.0.0.1:4000 > 10.0.0.2:32960", "12:00:01", 254),
        ("10.0.0.2:32960 > 10.0.0.1:4000", "12:00:02", 1),
    ]
    assert "skipped 1 TCP directions without a frame" in done.stderr
    assert "skipped 1 packets without TCP" in done.stderr
    assert done.exit_code == 0


def test_a_capture_by_port(run, capture):
    """With a port, what comes there is taken apart whatever it is."""
    assert "bytes discarded" in run(capture, "--port", "80").stderr
    done = run(capture, "--port", "32960")
    assert done.exit_code == 0
    assert "without a frame" not in done.stderr


def test_what_came_before_the_first_frame_is_said_after_it(run, tmp_path):
    """A direction that begins with a broken frame speaks the protocol all the same, once a good one follows."""
    import dpkt

    broken = bytes.fromhex(LOGOUT.replace("46e1", "46")[:-2].replace("0008", "0007"))
    broken += bytes([_xor(broken[2:])])
    path = tmp_path / "late.pcap"
    with path.open("wb") as file:
        writer = dpkt.pcap.Writer(file)
        for at, data in ((1, broken), (1 + len(broken), bytes.fromhex(LOGOUT))):
            segment = dpkt.tcp.TCP(sport=1, dport=2, seq=at, flags=dpkt.tcp.TH_ACK, data=data)
            packet = dpkt.ip.IP(src=b"\x0a\0\0\1", dst=b"\x0a\0\0\2", p=6, data=segment)
            writer.writepkt(bytes(dpkt.ethernet.Ethernet(src=b"\2" * 6, dst=b"\4" * 6, data=packet)), at)
    found = [json.loads(line) for line in run(path, "--json").stdout.splitlines()]
    assert ["error" in item for item in found] == [True, False]


def _xor(data):
    check = 0
    for byte in data:
        check ^= byte
    return check


def test_a_capture_with_no_frame(run, capture, tmp_path):
    (tmp_path / "empty.pcap").write_bytes(capture.read_bytes()[:24])
    assert run(tmp_path / "empty.pcap").exit_code == 1


def test_a_capture_on_standard_input(run, capture):
    assert run(stdin=capture.read_bytes()).exit_code == 2
