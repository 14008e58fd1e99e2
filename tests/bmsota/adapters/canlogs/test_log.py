"""A log's file: compressed or not, from standard input, without a suffix, damaged, growing."""

from __future__ import annotations

import bz2
import gzip
import io
import lzma
import os
import random
import re
import struct
import subprocess
import sys
from types import SimpleNamespace

import pytest
from canlog_rig import blf as blf_of
from canlog_rig import can_message, container, read, shown

from bmsota.adapters.canlogs import CanLog, FrameKind
from bmsota.adapters.canlogs._formats import format_of
from bmsota.errors import ConfigurationError

IS_LONG = "BMSOTA_LONG" in os.environ

CANDUMP = "(1.000000) can0 100#E80D\n(2.000000) can0 100#E90D\n"
LOGS = {
    "candump": CANDUMP,
    "candump of a screen": "  can0  100   [2]  E8 0D\n",
    "Vector ASCII": "date Fri May 5 06:24:08 PM 2024\nbase hex timestamps absolute\n  0.01 1  100  Rx  d 2 E8 0D\n",
    "Vector ASCII without a header": "  0.01 1  100  Rx  d 2 E8 0D\n",
    "Vector ASCII, FD": "  0.01 CANFD 1 Rx 100 0 0 2 2 E8 0D 0 0 1000\n",
    "PEAK 1.0": "     1)      1841  0001  2  00 01\n",
    "PEAK 2.1": ";$FILEVERSION=2.1\n;$STARTTIME=45251.5\n;$COLUMNS=N,O,T,B,I,d,R,L,D\n  1  1.0 DT 1  0300 Rx -  2  E8 0D\n",
    "SavvyCAN": "Time Stamp,ID,Extended,Dir,Bus,LEN,D1,D2\n1,000005EB,false,Rx,0,2,E8,0D,\n",
    "BUSMASTER": "***BUSMASTER Ver 3.2.2***\n***HEX***\n11:49:12:9420 Rx 1 0x023 s 2 E8 0D\n",
    "CARBUS": "@ TEXT @ 2 @ 64 @ 0 @ 1 @ 1 @ 00:00:01.000 @\r46,016\t1\t0004\t45A\t2\tE8 0D\t0\t\r",
    "Microchip": "//---\nMicrochip Technology Inc.\nCAN BUS Analyzer\n//---\n1;RX;0x21A;2;0xE8;0x0D;\n",
}
LOGS = {name: log.encode() for name, log in LOGS.items()}
LOGS["BLF"] = blf_of(container(can_message(0x100, b"\xe8\x0d")), objects=1)


def frames_of(path, **options):
    with CanLog(path) as log:
        return [frame for block in log.blocks(**options) for frame in block], log


@pytest.mark.parametrize("log", LOGS.values(), ids=LOGS)
@pytest.mark.parametrize("name", ["drive", "drive.txt", "drive.log", "drive.gz"])
def test_the_content_tells_the_format_whatever_the_name(tmp_path, log, name):
    path = tmp_path / name
    path.write_bytes(gzip.compress(log) if name.endswith(".gz") else log)
    frames, opened = frames_of(path)
    assert frames
    assert (opened.skipped, opened.fault) == (0, None)
    assert opened.frames == len(frames)


def test_garbage_before_the_first_frame_hides_no_format():
    assert format_of(b"\0" * 5000 + b"\nterminal$ candump can0\n" + LOGS["candump of a screen"], "") == "candump"


@pytest.mark.parametrize(
    ("name", "found"),
    [("a.log", "candump"), ("a.ASC", "Vector ASCII"), ("a.trc.gz", "PEAK trace"), ("a.csv", "SavvyCAN CSV"), ("a.pcap", None), ("a", None)],
)  # fmt: skip
def test_where_the_content_does_not_tell_the_suffix_does(name, found):
    assert format_of(b"garbage\n", name) == found


def test_what_no_format_has_is_refused_by_name(tmp_path):
    for name, content in (("drive.pcap", b"garbage"), ("drive", b"\n"), ("drive.blf", b"\xff\xfe" * 400)):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ConfigurationError, match=f"^not a CAN log of a known format .*{name}$"):
            CanLog(tmp_path / name)
    with pytest.raises(FileNotFoundError):
        CanLog(tmp_path / "none.log")


@pytest.mark.parametrize(
    ("pack", "said"),
    [
        (lzma.compress, "compressed with xz; unpack it first, or pipe what it holds to `-`"),
        (bz2.compress, "compressed with bzip2; unpack it first, or pipe what it holds to `-`"),
        (lambda log: b"PK\x03\x04" + log, "a zip archive; unpack it first, or pipe what it holds to `-`"),
        (lambda log: b"\xd4\xc3\xb2\xa1" + bytes(20), "a Wireshark capture; record the bus with `candump -l`"),
    ],
)
def test_what_is_passed_for_a_log_is_named_whatever_its_suffix(tmp_path, pack, said):
    path = tmp_path / "drive.log"
    path.write_bytes(pack(LOGS["candump of a screen"]))
    with pytest.raises(ConfigurationError, match=f"^not a CAN log but {re.escape(said)}: .*drive.log$"):
        CanLog(path)


def test_standard_input(monkeypatch):
    for log in LOGS.values():
        monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(log)))
        frames, opened = frames_of("-")
        assert frames
        assert opened.progress == 1
        assert not sys.stdin.buffer.closed
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(gzip.compress(LOGS["candump"]))))
    assert len(frames_of("-")[0]) == 2


def test_a_live_stream_is_told_as_it_comes(monkeypatch):
    """Each line is a block before the next one is read; a first line that tells no format does not hold them up."""
    lines = [b"candump: starting\n", *(b"(%d.0) can0 100#E80D\n" % number for number in range(5)), b""]
    times, told = [], []

    class Terminal:
        def read1(self, _size):
            told.append(len(times))
            return lines[len(told) - 1]

        read = read1

    monkeypatch.setattr(sys, "stdin", SimpleNamespace(buffer=Terminal()))
    with CanLog("-") as log:
        assert log.progress == 0
        for block in log.blocks():
            times += [frame.time_s for frame in block]
            assert log.progress == 0
        assert log.progress == 1
    assert times == [0.0, 1.0, 2.0, 3.0, 4.0]
    assert told == [0, 0, 1, 2, 3, 4, 5]


def test_a_pipe_is_a_stream(tmp_path):
    """Its size says nothing."""
    path = tmp_path / "pipe"
    os.mkfifo(path)
    with subprocess.Popen([sys.executable, "-c", f"open({str(path)!r}, 'w').write({CANDUMP!r})"]), CanLog(path) as log:
        assert log.progress == 0
        assert [len(block) for block in log.blocks()] == [2]
        assert log.progress == 1


@pytest.mark.slow
def test_a_damaged_gzip_file_is_read_up_to_there(tmp_path):
    lines = b"".join(
        b"(%d.0) can0 100#%02X\n" % (number, random.Random(number).randrange(256)) for number in range(20_000)
    )
    packed = gzip.compress(lines)
    path = tmp_path / "drive.log.gz"
    path.write_bytes(packed[: len(packed) // 2])
    frames, opened = frames_of(path)
    assert 5_000 < len(frames) < 15_000
    assert opened.fault == "the compressed file breaks off"
    for broken in (packed[:-5] + bytes(5), packed[:1000] + bytes(100) + packed[1100:], packed + b"garbage"):
        path.write_bytes(broken)
        frames, opened = frames_of(path)
        assert opened.fault == "the compressed file is damaged; values may be wrong"
    # Several members, and the zeros that fill a block of a tape, are no damage.
    path.write_bytes(packed + gzip.compress(CANDUMP.encode()) + bytes(512))
    frames, opened = frames_of(path)
    assert len(frames) == 20_002
    assert opened.fault is None


def test_remote_and_error_frames_are_counted(tmp_path):
    path = tmp_path / "drive.log"
    path.write_text("(1.0) can0 100#R\n(1.1) can0 20000080#00\n(1.2) can0 20000080#00\n")
    frames, opened = frames_of(path)
    assert frames == []
    assert (opened.frames, opened.remote_frames, opened.error_frames, opened.others) == (0, 1, 2, 3)


def test_a_disk_that_cannot_be_read_further_ends_the_log(tmp_path, monkeypatch):
    path = tmp_path / "drive.log"
    path.write_bytes(CANDUMP.encode() * 5000)
    with CanLog(path) as log:

        def broken(_size):
            raise OSError(5, "Input/output error")

        disk = {"read1": staticmethod(broken), "read": staticmethod(broken), "close": log._file.close}
        monkeypatch.setattr(log, "_file", type("Disk", (), disk)())
        log._source = log._chunks()
        frames = [frame for block in log.blocks() for frame in block]
    assert len(frames) > 1000
    assert log.fault == "the log cannot be read further: Input/output error"


# What is put into a log to change it.
PIECES = [
    b"",
    b"\0",
    b"\xff",
    b"#",
    b" ",
    b"\n",
    b"\t",
    b"100",
    b"99999999999",
    b"[",
    b"R",
    b"-",
    b".",
    b"\xef\xbb\xbf",
    "٣".encode(),
]


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4) if IS_LONG else [0], ids="seed{}".format)
def test_reading_ends_whatever_the_bytes_are(seed):
    """Every format: no exception, no more frames than lines, each frame one that CAN has."""
    draw = random.Random(seed)
    for number in range(4000 if IS_LONG else 150):
        name, log = draw.choice(list(LOGS.items()))
        data = bytearray(log * draw.choice([1, 1, 3]))
        for _ in range(draw.choice([1, 1, 2, 5, 30])):
            at = draw.randrange(len(data) + 1)
            data[at : at + draw.choice([0, 0, 1, 3, 20])] = draw.choice([*PIECES, draw.randbytes(draw.randrange(9))])
        if format_of(bytes(data), "") is None:
            continue
        where = f"seed {seed}, run {number}, {name}: {bytes(data)!r}"
        frames, _ = read(bytes(data), pieces=draw.choice([1 << 16, 5]))
        if name != "BLF":
            assert len(frames) <= 1 + sum(data.count(end) for end in b"\r\n"), where
        for frame in frames:
            assert 0 <= frame.can_id <= (0x1FFFFFFF if frame.is_extended_id else 0x7FF), where
            assert len(frame.data) <= 64, where
            assert frame.kind is FrameKind.DATA or not frame.data, where
            assert abs(frame.time_s) < 1e13 or frame.time_s != frame.time_s, where


def test_a_frame_shows_itself():
    (frame,), _ = read(b"(1.0) can0 100#E80D\n")
    assert shown(frame) == (1.0, "can0", 0x100, False, "e80d")
    assert struct.unpack("<H", frame.data) == (3560,)
