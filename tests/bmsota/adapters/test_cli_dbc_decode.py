"""`bmsota dbc decode`: every log format to text, CSV and Parquet, and one line for whatever is wrong."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
from pathlib import Path

import can
import pytest
from typer.testing import CliRunner

from bmsota.adapters import canlogs
from bmsota.adapters.canlogs import CanLog, decode_log
from bmsota.cli.dbc import app
from bmsota.errors import ConfigurationError
from bmsota.signals import loads

DBC = """BU_: A
BO_ 256 Pack: 4 A
 SG_ Voltage : 0|16@1+ (0.1,0) [0|0] "V" A
 SG_ State : 16|8@1+ (1,0) [0|0] "" A
BO_ 2147484160 Cells: 3 A
 SG_ Page M : 0|8@1+ (1,0) [0|0] "" A
 SG_ Cell_1 m0 : 8|16@1+ (0.001,0) [0|0] "V" A
 SG_ Cell_2 m1 : 8|16@1+ (0.001,0) [0|0] "V" A
BO_ 300 Measured: 4 A
 SG_ Level : 0|32@1- (1,0) [0|0] "" A
VAL_ 256 State 1 "On" 2 "Half, on" ;
SIG_VALTYPE_ 300 Level : 1;
"""

FRAMES = [
    (1.0, 0x100, False, "e80d0100"),
    (1.1, 0x200, True, "008813"),
    (1.2, 0x7FF, False, "00"),
    (1.3, 0x12C, False, "0000803f"),
    (1.4, 0x200, True, "018913"),
    (1.5, 0x100, False, "e90d0200ff"),
    (1.6, 0x200, False, "008813"),  # The DBC knows this number as an extended id only.
]

TEXT = """\
(1.000000) 100 Pack: Voltage 356.0 V, State On
(1.100000) 00000200 Cells: Page 0, Cell_1 5.000 V
(1.300000) 12C Measured: Level 1
(1.400000) 00000200 Cells: Page 1, Cell_2 5.001 V
(1.500000) 100 Pack: Voltage 356.1 V, State Half, on
"""

runner = CliRunner()


def write(path, frames=FRAMES, channel=None):
    with can.Logger(path) as log:
        for time_s, can_id, is_extended, data in frames:
            log(
                can.Message(
                    timestamp=time_s,
                    arbitration_id=can_id,
                    is_extended_id=is_extended,
                    data=bytes.fromhex(data),
                    channel=channel,
                )
            )
    return path


@pytest.fixture
def dbc(tmp_path):
    path = tmp_path / "file.dbc"
    path.write_text(DBC)
    return str(path)


def decode(log, dbc, *options):
    return runner.invoke(app, ["decode", str(log), "--dbc", dbc, *options])


def without_place(text):
    """Lines of text without the time and the channel, which not every format has."""
    return [line.split(") ", 1)[1].split(" ")[-len(line.split(": ")[1].split(" ")) - 2 :] for line in text.splitlines()]


@pytest.mark.parametrize("suffix", [".log", ".asc", ".blf", ".trc"])
def test_every_format_decodes_to_the_same_lines(tmp_path, dbc, suffix):
    log = write(tmp_path / f"drive{suffix}", channel=1 if suffix != ".log" else "can3")
    result = decode(log, dbc)
    assert result.exit_code == 0
    assert without_place(result.stdout) == without_place(TEXT)
    assert result.stderr == f"{log}: 7 frames; 5 decoded; 2 with ids not in the DBC (7FF, 200)\n"
    if suffix == ".log":
        assert result.stdout.splitlines()[0] == "(1.000000) can3 100 Pack: Voltage 356.0 V, State On"


def test_text_without_a_channel_and_compressed(tmp_path, dbc):
    plain = write(tmp_path / "drive.asc").read_bytes()
    (tmp_path / "drive.asc.gz").write_bytes(gzip.compress(plain))
    for name in ("drive.asc", "drive.asc.gz"):
        result = decode(tmp_path / name, dbc)
        assert result.exit_code == 0
        assert without_place(result.stdout) == without_place(TEXT)


ROWS = [
    ["1.000000", "can0", "100", "Pack", "Voltage", "356.0", "", "V"],
    ["1.000000", "can0", "100", "Pack", "State", "1", "On", ""],
    ["1.100000", "can0", "00000200", "Cells", "Page", "0", "", ""],
    ["1.100000", "can0", "00000200", "Cells", "Cell_1", "5.000", "", "V"],
    ["1.300000", "can0", "12C", "Measured", "Level", "1", "", ""],
    ["1.400000", "can0", "00000200", "Cells", "Page", "1", "", ""],
    ["1.400000", "can0", "00000200", "Cells", "Cell_2", "5.001", "", "V"],
    ["1.500000", "can0", "100", "Pack", "Voltage", "356.1", "", "V"],
    ["1.500000", "can0", "100", "Pack", "State", "2", "Half, on", ""],
]


@pytest.mark.parametrize("block_frames", [1, 3, 65536])
def test_csv_has_a_row_per_value_in_the_order_of_the_log(tmp_path, dbc, monkeypatch, block_frames):
    monkeypatch.setattr(canlogs.CanLog.blocks, "__defaults__", (block_frames,))
    log = write(tmp_path / "drive.log", channel="can0")
    result = decode(log, dbc, "--csv", str(tmp_path / "out.csv"))
    assert (result.exit_code, result.stdout) == (0, "")
    header = ["time_s", "channel", "can_id", "message", "signal", "value", "name", "unit"]
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert list(csv.reader(file)) == [header, *ROWS]
    piped = decode(log, dbc, "--csv", "-", "--only", "Pack")
    assert list(csv.reader(io.StringIO(piped.stdout))) == [header, *(row for row in ROWS if row[3] == "Pack")]


def test_parquet_holds_the_same_rows(tmp_path, dbc):
    from pyarrow import parquet

    log = write(tmp_path / "drive.log", channel="can0")
    result = decode(log, dbc, "--parquet", str(tmp_path / "out.parquet"))
    assert (result.exit_code, result.stdout) == (0, "")
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    key = ("time_s", "message", "signal")
    expected = [
        {
            "time_s": float(row[0]), "channel": row[1], "can_id": int(row[2], 16), "is_extended_id": len(row[2]) == 8,
            "message": row[3], "signal": row[4], "value": pytest.approx(float(row[5])), "name": row[6] or None, "unit": row[7],
        }
        for row in ROWS
    ]  # fmt: skip
    assert sorted(rows, key=lambda row: [row[name] for name in key]) == sorted(
        expected, key=lambda row: [row[name] for name in key]
    )


def test_parquet_without_pyarrow_says_what_to_install(tmp_path, dbc, monkeypatch):
    real = importlib.import_module

    def missing(name, *arguments):
        if name.startswith("pyarrow"):
            raise ImportError(name)
        return real(name, *arguments)

    monkeypatch.setattr("bmsota.cli.logtables.import_module", missing)
    result = decode(write(tmp_path / "drive.log"), dbc, "--parquet", str(tmp_path / "out.parquet"))
    assert result.exit_code == 2
    assert result.stderr == "bmsota: Parquet needs pyarrow: pip install 'bmsota[parquet]'\n"


def test_frames_that_do_not_fit_their_message_are_counted_and_the_code_is_1(tmp_path, dbc):
    frames = [*FRAMES, (2.0, 0x100, False, "e80d"), (2.1, 0x200, True, "078813")]
    log = write(tmp_path / "drive.log", frames)
    result = decode(log, dbc)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].endswith("00000200 Cells: Page 7")
    assert "6 decoded" in result.stderr
    assert "2 do not match their message (too short, or an undefined multiplexer value)" in result.stderr


def test_remote_and_error_frames_are_counted(tmp_path, dbc):
    log = tmp_path / "drive.log"
    log.write_text("(1.000000) can0 100#R\n(1.100000) can0 100#E80D0100\n(1.200000) can0 20000080#0000000000000000\n")
    result = decode(log, dbc)
    assert result.exit_code == 0
    assert result.stderr == f"{log}: 1 frame; 1 decoded; 2 remote or error frames skipped\n"


def test_a_log_that_breaks_off_is_decoded_up_to_there_and_the_code_is_1(tmp_path, dbc):
    log = write(tmp_path / "drive.log")
    log.write_bytes(log.read_bytes()[:-20])
    result = decode(log, dbc, "--csv", str(tmp_path / "out.csv"))
    assert result.exit_code == 1
    assert (
        f"{log}: expected a readable log to its end, got: not enough values to unpack (expected 3, got 1) (after 6 frames)\n"
        in result.stderr
    )
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(ROWS)


BAD = {
    "junk_log": ("drive.log", b"\xff\xfe" * 400, "not a CAN log: expected a readable log to its end, got: 'utf-8'"),
    "junk_blf": ("drive.blf", b"\xff\xfe" * 400, "expected a .blf log, got: Unexpected file format"),
    "empty_blf": ("drive.blf", b"", "expected a .blf log, got: unpack requires"),
    "empty_log": ("drive.log", b"", "not a CAN log: it contains no frame"),
    "another_suffix": ("drive.pcap", b"", "expected a log with one of the suffixes .asc, .blf, .log, .trc (or with .gz), got drive.pcap"),
}  # fmt: skip


@pytest.mark.parametrize(("name", "content", "said"), BAD.values(), ids=BAD)
def test_what_is_no_log_is_2_without_a_traceback(tmp_path, dbc, name, content, said):
    (tmp_path / name).write_bytes(content)
    result = decode(tmp_path / name, dbc)
    assert result.exit_code == 2
    assert said in result.stderr
    assert len(result.stderr) < 600
    assert isinstance(result.exception, SystemExit)


def test_what_cannot_be_opened_is_2(tmp_path, dbc):
    log = write(tmp_path / "drive.log")
    for arguments, said in [
        ((tmp_path / "none.log", dbc), "none.log: No such file"),
        ((log, str(tmp_path / "none.dbc")), "none.dbc: No such file"),
        ((log, str(log)), "not a DBC file: it defines no message"),
        (
            (log, dbc, "--csv", str(tmp_path / "no" / "out.csv")),
            "out.csv: No such file",
        ),
        ((log, dbc, "--csv", "a", "--parquet", "b"), "give either --csv or --parquet, not both"),
        ((log, dbc, "--only", "Pack", "--only", "Pakc"), "--only: not in the DBC: Pakc"),
    ]:
        result = decode(*arguments)
        assert result.exit_code == 2
        assert said in result.stderr


def test_a_full_disk_is_2(tmp_path, dbc, monkeypatch):
    log = write(tmp_path / "drive.log")

    def full(*_arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("bmsota.cli.logtables.CsvTable.write", full)
    result = decode(log, dbc, "--csv", str(tmp_path / "out.csv"))
    assert result.exit_code == 2
    assert "out.csv: No space left on device" in result.stderr


def test_a_dbc_with_faults_is_used_and_said(tmp_path, dbc):
    with Path(dbc).open("a") as file:
        file.write("stray\n")
    result = decode(write(tmp_path / "drive.log"), dbc)
    assert result.exit_code == 0
    assert f"{dbc}: 1 error; the affected signals are not decoded (see bmsota dbc check {dbc})" in result.stderr


@pytest.mark.slow
def test_several_databases_and_packaged_ones(tmp_path, dbc):
    frames = [(1.0, 0x100, False, "0000000000000000"), (1.1, 0x401, False, "0400000000000000")]
    result = decode(write(tmp_path / "drive.log", frames), dbc, "--dbc", "bms_internal")
    assert result.exit_code == 0
    assert [line.split(": ")[0].split(" ")[-1] for line in result.stdout.splitlines()] == ["Pack", "Slave01_Cells_1"]


def test_a_log_tells_how_far_it_is(tmp_path):
    log = write(tmp_path / "drive.log", FRAMES * 2000)
    with CanLog(log) as opened:
        assert opened.progress == 0
        seen = [opened.progress for _ in opened.blocks(frames=1000)]
        assert seen == sorted(seen)
        assert 0 < seen[0] < 0.5
        assert opened.progress == 1
        assert opened.frames == 14000
    with pytest.raises(ConfigurationError):
        CanLog(tmp_path / "drive.txt")


def test_the_library_gives_columns(tmp_path):
    with CanLog(write(tmp_path / "drive.log", channel="can0")) as log:
        (block,) = decode_log(log, [loads(DBC)])
    pack = next(each for each in block.decoded if each.message.name == "Pack")
    assert pack.times_s.tolist() == [1.0, 1.5]
    assert pack.channels == ("can0", "can0")
    assert pack.positions.tolist() == [0, 5]
    assert pack.columns["State"].tolist() == [1, 2]
    assert block.unknown == {0x7FF: 1, 0x200: 1}
    assert (block.frames, block.refused) == (7, 0)
