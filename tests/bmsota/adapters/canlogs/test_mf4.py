"""MF4 logs, read by asammdf: as python-can writes them and reads them; cut, damaged, and without asammdf."""

from __future__ import annotations

import importlib
import io
import os
import random
import signal
import subprocess
import sys
from types import SimpleNamespace

import can
import numpy as np
import pytest
from canlog_rig import shown

from bmsota.adapters.canlogs import CanLog, LogNotes, SkippedPart
from bmsota.adapters.canlogs import _mf4 as mf4
from bmsota.adapters.canlogs import _mf4_program as program
from bmsota.errors import ConfigurationError, MissingExtraError

pytestmark = pytest.mark.slow  # asammdf takes seconds to import.

IS_LONG = "BMSOTA_LONG" in os.environ


def messages(draw, count):
    for number in range(count):
        is_extended_id = draw.random() < 0.5
        kind = draw.choice(["data", "data", "fd", "remote", "error"])
        yield can.Message(
            timestamp=1700000000 + number / 8, arbitration_id=draw.randrange(1 << (29 if is_extended_id else 11)),
            is_extended_id=is_extended_id, data=draw.randbytes(draw.choice([0, 2, 64 if kind == "fd" else 8])) if kind in {"data", "fd"} else b"",
            is_fd=kind == "fd", is_remote_frame=kind == "remote", is_error_frame=kind == "error", channel=number % 3,
        )  # fmt: skip


def write(path, count=200, seed=5):
    with can.MF4Writer(path) as writer:
        for message in messages(random.Random(seed), count):
            writer.on_message_received(message)
    return path


def all_frames(path):
    """Every frame, remote and error frames too."""
    with CanLog(path) as log:
        return [frame for batch in log._batches() for frame in batch], log


@pytest.fixture
def log(tmp_path):
    pytest.importorskip("asammdf")
    return write(tmp_path / "drive.mf4")


def test_an_intact_log_has_the_frames_that_python_can_reads(log):
    with can.MF4Reader(log) as reader:
        expected = [
            (
                str(each.channel), 0 if each.is_error_frame else each.arbitration_id, each.is_extended_id and not each.is_error_frame,
                "error" if each.is_error_frame else "remote" if each.is_remote_frame else each.data.hex(),
            )
            for each in reader
        ]  # fmt: skip
    frames, opened = all_frames(log)
    assert [shown(frame)[1:] for frame in frames] == expected
    assert [frame.time_s for frame in frames] == pytest.approx(
        [1700000000 + number / 8 for number in range(200)], abs=1e-3
    )
    assert (opened.skipped, opened.fault, opened.time_base) == (0, None, "")


def test_a_cut_log_ends(log):
    data = log.read_bytes()
    for size in range(len(data) // 2, len(data), len(data) // 50) if IS_LONG else [len(data) * 2 // 3]:
        log.write_bytes(data[:size])
        try:
            frames, opened = all_frames(log)
        except ConfigurationError:
            continue
        assert len(frames) == 200 or opened.fault, size


@pytest.mark.long
@pytest.mark.parametrize("seed", range(4) if IS_LONG else [0], ids="seed{}".format)
def test_a_damaged_log_ends(log, seed):
    draw = random.Random(seed)
    data = log.read_bytes()
    for _ in range(100 if IS_LONG else 1):
        broken = bytearray(data)
        for _ in range(draw.choice([1, 3, 20])):
            broken[draw.randrange(64, len(broken))] = draw.choice([0, 1, 0x7F, 0xFF, draw.randrange(256)])
        log.write_bytes(broken)
        try:
            frames, _ = all_frames(log)
        except ConfigurationError:
            continue
        assert all(len(frame.data) <= 64 for frame in frames)


def test_a_count_of_records_that_cannot_be_is_not_believed(log):
    """By asammdf's own reading of an intact log, whose count is changed."""
    for more, said in ((1 << 60, b"expected at most"), (50_000, b"the log breaks off in group 0 after 10000 of")):
        mdf = importlib.import_module("asammdf").MDF(log)
        mdf.groups[0].channel_group.cycles_nr += more
        file = io.BytesIO()
        output = program._Output(file)
        frames = list(program._group(mdf, 0, "CAN_DataFrame", 0.0, log.stat().st_size, output))
        assert len(frames) < 200
        assert said in file.getvalue()


def test_records_of_loggers_that_write_less_or_wrong_things():
    """No length but a DLC, no mark of extended ids; an id or a length that CAN does not have."""
    fields = [("ID", "<u4"), ("DLC", "u1"), ("DataBytes", "(64,)u1")]
    samples = np.zeros(3, dtype=[(f"CAN_DataFrame.{name}", *kind) for name, *kind in fields])
    samples["CAN_DataFrame.ID"] = [0x100, 0x18FEF100, 0x80000100]
    samples["CAN_DataFrame.DLC"] = [2, 9, 0]
    samples["CAN_DataFrame.DataBytes"] = 0xAA
    signal = SimpleNamespace(samples=samples, timestamps=np.array([0.5, 1.5, 2.5]))
    file = io.BytesIO()
    frames = list(program._frames(signal, "CAN_DataFrame", 100.0, "record", 0, program._Output(file)))
    assert [shown(frame) for frame in frames] == [
        (100.5, "0", 0x100, False, "aa" * 2),
        (101.5, "0", 0x18FEF100, True, "aa" * 12),
        (102.5, "0", 0x100, True, ""),
    ]
    fields = [("ID", "<u4"), ("IDE", "u1"), ("DataLength", "u1"), ("DataBytes", "(8,)u1")]
    samples = np.zeros(3, dtype=[(f"CAN_DataFrame.{name}", *kind) for name, *kind in fields])
    samples["CAN_DataFrame.ID"] = [0x900, 0x100, 0x100]
    samples["CAN_DataFrame.DataLength"] = [8, 9, 8]
    signal = SimpleNamespace(samples=samples, timestamps=np.array([0.5, 1.5, 2.5]))
    frames = list(program._frames(signal, "CAN_DataFrame", 100.0, "record", 20, program._Output(file)))
    assert [frame.time_s for frame in frames] == [102.5]
    assert b"record 21" in file.getvalue()
    assert b"CAN id 900 is too large" in file.getvalue()
    assert b"record 22" in file.getvalue()
    assert b"expected 9 data bytes, got 8" in file.getvalue()


def test_where_asammdf_dies_the_log_breaks_off():
    """After a whole frame, inside one, and before the first."""
    whole = b"F" + mf4.FRAME.pack(1.5, 1, 0x100, 0, 0, 2) + b"\xe8\x0d"
    for output, count in ((whole, 1), (whole + whole[:-1], 1), (whole[:5], 0), (b"", 0), (b"?", 0)):
        log = mf4.Mf4Log.__new__(mf4.Mf4Log)
        log._notes = LogNotes()
        log._output = io.BytesIO(output)
        assert [shown(frame) for frame in log.frames()] == [(1.5, "1", 0x100, False, "e80d")] * count
        assert log._notes.fault == "the log breaks off: asammdf failed on a damaged block"
    log._output = io.BytesIO(whole + b"N\5\0group\4\0that" + b"B\4\0this" + b"E")
    log._notes = LogNotes()
    assert len(list(log.frames())) == 1
    assert log._notes.parts == [SkippedPart("group", "that")]
    assert log._notes.fault == "this"


def test_the_program_may_use_so_much_cpu_and_no_more():
    """60 s and 10 s per MB; a loop on a damaged block ends there. One CPU second here, however long that takes."""
    pytest.importorskip("resource")
    code = (
        "import resource, sys\nfrom bmsota.adapters.canlogs import _mf4_program as program\n"
        "if sys.argv[1] == 'look':\n program.limit_time(3_000_000)\n print(resource.getrlimit(resource.RLIMIT_CPU))\n"
        "else:\n used = resource.getrusage(resource.RUSAGE_SELF)\n"
        " program._CPU_TIME_S_MIN = int(used.ru_utime + used.ru_stime) + 1\n program.limit_time(0)\n while True: pass\n"
    )
    done = subprocess.run([sys.executable, "-c", code, "look"], capture_output=True, text=True, check=True)
    assert done.stdout == "(90, 90)\n"
    done = subprocess.run([sys.executable, "-c", code, "loop"], capture_output=True, text=True, check=False)
    assert done.returncode in {-signal.SIGXCPU, -signal.SIGKILL}


def test_what_is_no_mf4_is_refused(tmp_path):
    pytest.importorskip("asammdf")
    path = tmp_path / "drive.mf4"
    path.write_bytes(b"MDF     4.10    " + bytes(2000))
    with pytest.raises(ConfigurationError, match=r"^not an MF4 log that asammdf can read"):
        CanLog(path)


def test_an_mf4_must_be_a_plain_file(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"MDF     4.10    ")))
    with pytest.raises(ConfigurationError, match=r"^an MF4 log must be a plain file: standard input$"):
        CanLog("-")


def test_without_asammdf_one_line_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setattr(mf4, "find_spec", lambda _name: None)
    path = tmp_path / "drive.mf4"
    path.write_bytes(b"MDF     4.10    ")
    with pytest.raises(MissingExtraError, match=r"^reading MF4 logs needs asammdf: pip install 'bmsota\[mf4\]'$"):
        CanLog(path)
