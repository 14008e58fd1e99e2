"""`bmsota dbc decode`: every log format to text, CSV and Parquet, a summary whose numbers add up, and one line for whatever is wrong."""

from __future__ import annotations

import csv
import gzip
import importlib
import io
import math
import re
import struct
from pathlib import Path

import can
import pytest
from typer.testing import CliRunner

from bmsota.adapters import canlogs
from bmsota.adapters.canlogs import CanLog, Misfit, decode_log
from bmsota.cli.dbc import app
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
    summary, *times = result.stderr.splitlines()
    assert summary == f"{log}: 7 frames; 5 decoded; 2 with ids not in the DBC (7FF, 200)"
    said = {
        ".asc": "start of the measurement, ",
        ".trc": "clock of the machine that traced",
        ".blf": "start of the log",
    }
    assert [said[suffix] in each for each in times] == [True] * (suffix in said)
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


def test_an_integer_that_no_double_holds_is_null_in_parquet(tmp_path):
    """A J1939 message of 200 bytes may be one signal; text and CSV have all its digits."""
    from pyarrow import parquet

    (tmp_path / "wide.dbc").write_text('BO_ 2566844926 M: 200 A\n SG_ Wide : 0|1600@1+ (1,0) [0|0] "" A\n')
    announced = (1.0, 0x1CECFFFE, True, "20c8001dfff1fe00")
    packets = [(1.1 + each / 100, 0x1CEBFFFE, True, f"{each + 1:02x}" + "ff" * 7) for each in range(29)]
    log = write(tmp_path / "drive.log", [announced, *packets], channel="can0")
    result = decode(log, tmp_path / "wide.dbc", "--parquet", str(tmp_path / "out.parquet"))
    assert (result.exit_code, result.exception) == (0, None)
    assert [row["value"] for row in parquet.read_table(tmp_path / "out.parquet").to_pylist()] == [None]
    assert f"M: Wide {2**1600 - 1}" in decode(log, tmp_path / "wide.dbc").stdout


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


def summary_of(result):
    """The summary's counts, which must add up to the frames, and its other lines."""
    first, *lines = result.stderr.splitlines()
    name, _, counts = first.partition(": ")
    parts = [re.match(r"(\d+) (.*)", each).groups() for each in counts.split("; ")]
    frames = int(parts[0][0])
    parts = [(int(count), what) for count, what in parts[1:]]
    assert frames == sum(count for count, what in parts if not re.match("remote|error|line|part", what)), first
    return frames, {what: count for count, what in parts}, [line.removeprefix(f"{name}: ") for line in lines]


def test_a_frame_shorter_than_its_message_gives_the_signals_it_holds(tmp_path, dbc):
    """Those that lie in it wholly; what is in the padding is invented by nobody, least of all a multiplexed signal."""
    frames = [
        (2.0, 0x100, False, "e80d"),  # Voltage without State
        (2.1, 0x100, False, "e8"),  # Half a Voltage
        (2.2, 0x200, True, "01"),  # Page without its cell
        (2.3, 0x200, True, "0189"),  # Half a cell
        (2.4, 0x200, True, ""),
        (2.5, 0x100, False, "e90d01"),
        (2.6, 0x100, False, "e80d"),
    ]
    log = write(tmp_path / "drive.log", frames, channel="can0")
    result = decode(log, dbc)
    assert result.stdout.splitlines() == [
        "(2.000000) can0 100 Pack: Voltage 356.0 V",
        "(2.200000) can0 00000200 Cells: Page 1",
        "(2.300000) can0 00000200 Cells: Page 1",
        "(2.500000) can0 100 Pack: Voltage 356.1 V, State On",
        "(2.600000) can0 100 Pack: Voltage 356.0 V",
    ]
    assert result.exit_code == 1
    assert summary_of(result) == (
        7,
        {"decoded": 0, "decoded in part": 5, "not decoded": 2},
        [
            "100 Pack: 2 frames with 2 of 4 bytes",
            "100 Pack: 1 frame with 1 of 4 bytes",
            "100 Pack: 1 frame with 3 of 4 bytes",
            "00000200 Cells: 1 frame with 1 of 3 bytes",
            "00000200 Cells: 1 frame with 2 of 3 bytes",
            "00000200 Cells: 1 frame with 0 of 3 bytes",
        ],
    )
    from pyarrow import parquet

    decode(log, dbc, "--parquet", str(tmp_path / "out.parquet"))
    rows = parquet.read_table(tmp_path / "out.parquet").to_pylist()
    assert sorted((row["time_s"], row["signal"]) for row in rows) == [
        (2.0, "Voltage"), (2.2, "Page"), (2.3, "Page"), (2.5, "State"), (2.5, "Voltage"), (2.6, "Voltage"),
    ]  # fmt: skip


def test_signals_of_both_byte_orders_lie_in_a_short_frame_or_not(tmp_path):
    """Every length of every bit position, against a frame filled up with zeros and with ones: what lies in it is the same in both."""
    (database,) = [
        loads("""BU_: A
BO_ 256 Pack: 8 A
 SG_ L1 : 3|10@1+ (1,0) [0|0] "" A
 SG_ L2 : 16|8@1+ (1,0) [0|0] "" A
 SG_ L3 : 25|30@1+ (1,0) [0|0] "" A
BO_ 257 Big: 8 A
 SG_ B1 : 3|10@0+ (1,0) [0|0] "" A
 SG_ B2 : 23|8@0+ (1,0) [0|0] "" A
 SG_ B3 : 30|30@0+ (1,0) [0|0] "" A
""")
    ]
    for message in database.messages:
        for length in range(8):
            start = bytes(range(0x81, 0x81 + length))
            low, high = message.decode(start.ljust(8, b"\0")), message.decode(start.ljust(8, b"\xff"))
            log = tmp_path / "drive.log"
            log.write_text(f"(1.0) can0 {message.can_id:03X}#{start.hex()}\n")
            with CanLog(log) as opened:
                (block,) = decode_log(opened, [database])
            found = {name: each.columns[name].tolist() for each in block.decoded for name in each.columns}
            assert found == {name: [low[name]] for name in low if low[name] == high[name]}
            assert block.misfits == {Misfit(message, f"{length} of 8 bytes", bool(found)): 1}


def test_a_multiplexed_signal_before_its_multiplexer_needs_it(tmp_path):
    """The bytes of the signal are there; whether they are the signal is not."""
    database = loads("""BU_: A
BO_ 256 Late: 4 A
 SG_ Always : 0|8@1+ (1,0) [0|0] "" A
 SG_ Cell_0 m0 : 8|16@1+ (1,0) [0|0] "" A
 SG_ Cell_1 m1 : 8|16@1+ (1,0) [0|0] "" A
 SG_ Page M : 24|8@1+ (1,0) [0|0] "" A
""")
    log = write(tmp_path / "drive.log", [(1.0, 0x100, False, "070102"), (1.1, 0x100, False, "07010201")])
    with CanLog(log) as opened:
        (block,) = decode_log(opened, [database])
    short, whole = block.decoded
    assert list(short.columns) == ["Always"]
    assert (whole.columns["Cell_1"].tolist(), whole.columns["Cell_0"].tolist()) == ([513], [])


def test_an_undefined_multiplexer_value_is_named(tmp_path, dbc):
    log = write(tmp_path / "drive.log", [(2.0, 0x200, True, "018813"), (2.1, 0x200, True, "078813")])
    result = decode(log, dbc)
    assert result.exit_code == 1
    assert result.stdout.splitlines()[-1].endswith("00000200 Cells: Page 7")
    assert summary_of(result) == (
        2,
        {"decoded": 1, "decoded in part": 1},
        ["00000200 Cells: 1 frame with an undefined multiplexer value (Page)"],
    )


def test_only_leaves_the_others_out_and_counts_them(tmp_path, dbc):
    log = write(tmp_path / "drive.log")
    result = decode(log, dbc, "--only", "Pack")
    assert result.exit_code == 0
    assert summary_of(result) == (
        7,
        {"decoded": 2, "with ids not in the DBC (7FF, 200)": 2, "of other messages": 3},
        [],
    )


def test_the_summary_fits_a_screen(tmp_path):
    """Many ids, many kinds of misfits: the most frequent ones, and how many more."""
    database = "BU_: A\n" + "".join(
        f'BO_ {number} M{number}: 8 A\n SG_ S : 0|64@1+ (1,0) [0|0] "" A\n' for number in range(40)
    )
    (tmp_path / "many.dbc").write_text(database)
    frames = [(1.0, number, False, "00" * (number % 8)) for number in range(80) for _ in range(1 + (number in {3, 77}))]
    result = decode(write(tmp_path / "drive.log", frames), str(tmp_path / "many.dbc"))
    _, counts, lines = summary_of(result)
    assert counts == {"decoded": 0, "not decoded": 41, "with ids not in the DBC (04D, 028, 029, 02A, 02B, ...)": 41}
    assert len(lines) == 11
    assert lines[0] == "003 M3: 2 frames with 3 of 8 bytes"
    assert lines[-1] == "and 30 more kinds of frames that do not match their message"


def test_a_log_of_remote_and_error_frames_is_a_result(tmp_path, dbc):
    """It is the log of a wiring fault."""
    log = tmp_path / "drive.log"
    log.write_text("(1.000000) can0 100#R\n(1.100000) can0 100#E80D0100\n(1.200000) can0 20000080#0000000000000000\n")
    result = decode(log, dbc)
    assert result.exit_code == 0
    assert result.stderr == f"{log}: 1 frame; 1 decoded; 1 remote frame; 1 error frame\n"
    log.write_text("(1.200000) can0 20000080#0000000000000000\n(1.200000) can0 20000080#0000000000000000\n")
    result = decode(log, dbc)
    assert (result.exit_code, result.stdout) == (0, "")
    assert result.stderr == f"{log}: 0 frames; 0 decoded; 2 error frames\n"


@pytest.mark.parametrize(("lines", "more"), [(6, "1 more line"), (7, "2 more lines")])
def test_strange_lines_are_skipped_counted_and_shown(tmp_path, dbc, lines, more):
    log = tmp_path / "drive.log"
    strange = "write: No buffer space available\n" * lines
    log.write_text(f"(1.0) can0 100#E80D0100\n{strange}(2.0) can0 100#E80D0100\n")
    result = decode(log, dbc)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 2
    assert result.stderr.splitlines() == [
        f"{log}: 2 frames; 2 decoded; {lines} lines skipped",
        *(f"{log}: skipped line {number}: write: No buffer space available" for number in range(2, 7)),
        f"{log}: skipped {more}",
    ]


def test_a_log_without_times_has_none(tmp_path, dbc):
    """Neither a made-up one, nor NaN for a reader of CSV or Parquet to stumble over."""
    from pyarrow import parquet

    log = tmp_path / "screen.log"
    log.write_text("  can0  100   [4]  E8 0D 01 00\n")
    result = decode(log, dbc)
    assert result.stdout == "can0 100 Pack: Voltage 356.0 V, State On\n"
    assert result.stderr == f"{log}: 1 frame; 1 decoded\n{log}: the log has no times\n"
    assert decode(log, dbc, "--csv", "-").stdout.splitlines()[1] == ",can0,100,Pack,Voltage,356.0,,V"
    decode(log, dbc, "--parquet", str(tmp_path / "out.parquet"))
    assert parquet.read_table(tmp_path / "out.parquet")["time_s"].to_pylist() == [None, None]
    with CanLog(log) as opened:
        (block,) = decode_log(opened, [loads(DBC)])
    assert math.isnan(block.decoded[0].times_s[0])


def test_the_example_of_the_page_is_what_the_command_prints(tmp_path, monkeypatch):
    """`docs/signals.md`: its DBC, its log, its output."""
    page = (Path(__file__).resolve().parents[3] / "docs" / "signals.md").read_text(encoding="utf-8")
    definition = re.search(r'loads\("""\n(.*?)"""', page, re.DOTALL)[1]
    (tmp_path / "pack.dbc").write_text(
        re.sub(r"^\.\.\. ", "", definition.replace("BO_ 300 Again: 8 Master\n", ""), flags=re.MULTILINE)
    )
    log, printed = re.search(
        r"\$ cat screen.log\n(.*?)\$ bmsota dbc decode screen.log --dbc pack.dbc\n(.*?)```", page, re.DOTALL
    ).groups()
    (tmp_path / "screen.log").write_text(log)
    monkeypatch.chdir(tmp_path)
    result = decode("screen.log", "pack.dbc")
    said = [line for line in result.stderr.splitlines() if line.startswith("screen.log")]
    assert [*result.stdout.splitlines(), *said] == printed.splitlines()


def test_standard_input(dbc):
    result = runner.invoke(app, ["decode", "-", "--dbc", dbc], input="(1.0) can0 100#E80D0100\n")
    assert result.exit_code == 0
    assert result.stdout == "(1.000000) can0 100 Pack: Voltage 356.0 V, State On\n"
    assert result.stderr == "standard input: 1 frame; 1 decoded\n"


def test_a_log_that_breaks_off_is_decoded_up_to_there_and_the_code_is_1(tmp_path, dbc):
    log = write(tmp_path / "drive.log")
    log.write_bytes(log.read_bytes()[:-20])
    result = decode(log, dbc, "--csv", str(tmp_path / "out.csv"))
    assert result.exit_code == 1
    assert result.stderr.endswith(f"{log}: the log breaks off in line 7\n")
    with (tmp_path / "out.csv").open(encoding="utf-8", newline="") as file:
        assert len(list(csv.reader(file))) == 1 + len(ROWS)


def test_a_broken_binary_log_ends_and_says_what_is_missing(tmp_path, dbc):
    """python-can issues 1584 and 1581: an object of size 0 was read again and again, 1.77 million lines in 20 seconds."""
    import zlib

    log = write(tmp_path / "drive.blf", [(1.7e9 + number, 0x100, False, "e80d0100") for number in range(50)])
    data = log.read_bytes()
    stream = bytearray(zlib.decompress(data[144 + 32 :]))
    struct.pack_into("<L", stream, 48 * 5 + 8, 0)
    packed = zlib.compress(stream)
    log.write_bytes(
        data[:144] + struct.pack("<4sHHLLH6xL4x", b"LOBJ", 16, 1, 32 + len(packed), 10, 2, len(stream)) + packed
    )
    result = decode(log, dbc)
    assert result.exit_code == 1
    assert len(result.stdout.splitlines()) == 49
    assert result.stderr.splitlines()[:2] == [
        f"{log}: 49 frames; 49 decoded; 1 part skipped",
        f"{log}: skipped object 6: an object of 0 bytes",
    ]
    assert "49 of 50 objects read" in result.stderr
    log.write_bytes(data[:-20])
    result = decode(log, dbc)
    assert result.exit_code == 1
    assert f"the log breaks off after {len(data) - 20} of {len(data)} bytes (" in result.stderr


BAD = {
    "junk_log": ("drive.log", b"\xff\xfe" * 400, "the log contains no frame (read as candump; the log breaks off in line 1)"),
    "junk_blf": ("drive.blf", b"\xff\xfe" * 400, "not a CAN log of a known format"),
    "empty_blf": ("drive.blf", b"", "the log is empty"),
    "unclosed_blf": ("drive.blf", b"LOGG\x90" + bytes(139), "the log contains no frame (read as Vector BLF)"),
    "blank_log": ("drive.log", b"\n", "the log contains no frame (read as candump)"),
    "another_suffix": ("drive.pcap", b"\n", "not a CAN log of a known format (candump, Vector .asc and .blf, "),
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
        (
            (log, dbc, "--parquet", str(tmp_path / "no" / "out.parquet")),
            "out.parquet: No such file or directory\n",
        ),
        ((log, dbc, "--csv", "a", "--parquet", "b"), "give either --csv or --parquet, not both"),
        ((log, dbc, "--only", "Pack", "--only", "Pakc"), "--only: not in the DBC: Pakc (similar: Pack)\n"),
        ((log, dbc, "--only", "PACK"), "--only: not in the DBC: PACK (similar: Pack)\n"),
        ((log, dbc, "--only", "Zzz"), "--only: not in the DBC: Zzz\n"),
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


@pytest.mark.slow
def test_a_log_tells_how_far_it_is(tmp_path):
    log = write(tmp_path / "drive.log", FRAMES * 2000)
    with CanLog(log) as opened:
        assert opened.progress == 0
        seen = [opened.progress for _ in opened.blocks(frames=1000)]
        assert seen == sorted(seen)
        assert 0 < seen[0] < 0.5
        assert opened.progress == 1
        assert opened.frames == 14000


def test_the_library_gives_columns(tmp_path):
    with CanLog(write(tmp_path / "drive.log", channel="can0")) as log:
        (block,) = decode_log(log, [loads(DBC)])
    pack = next(each for each in block.decoded if each.message.name == "Pack")
    assert pack.times_s.tolist() == [1.0, 1.5]
    assert pack.channels == ("can0", "can0")
    assert pack.positions.tolist() == [0, 5]
    assert pack.columns["State"].tolist() == [1, 2]
    assert block.unknown == {0x7FF: 1, 0x200: 1}
    assert (block.frames, block.complete, block.misfits, block.left_out) == (7, 5, {}, 0)


def test_numbers_keep_the_digits_that_their_signals_have(tmp_path):
    """A double all of its own, a scale of any size its first fifteen; a scale of hundredths two."""
    text = """BU_: A
BO_ 256 Tiny: 8 A
 SG_ Charge : 0|32@1+ (1E-020,0) [0|0] "C" A
 SG_ Level : 32|16@1+ (0.01,0) [0|0] "" A
BO_ 257 Exact: 8 A
 SG_ Angle : 0|64@1- (1,0) [0|0] "" A
SIG_VALTYPE_ 257 Angle : 2;
"""
    (tmp_path / "tiny.dbc").write_text(text)
    frames = [(1.0, 0x100, False, "ffffffff03000000"), (2.0, 0x101, False, struct.pack("<d", 47.123456789012).hex())]
    log = write(tmp_path / "tiny.log", frames)
    done = runner.invoke(app, ["decode", str(log), "--dbc", str(tmp_path / "tiny.dbc")])
    assert done.exit_code == 0, done.output
    assert "Charge 4.294967295e-11 C, Level 0.03" in done.stdout
    assert "Angle 47.123456789012\n" in done.stdout


def test_a_table_for_standard_output_is_csv(tmp_path, dbc):
    """Parquet needs a file that can be looked back at; a file named "-" is nobody's wish."""
    done = runner.invoke(app, ["decode", str(write(tmp_path / "a.log")), "--dbc", str(dbc), "--parquet", "-"])
    assert done.exit_code == 2
    assert "--parquet: a Parquet file cannot be written to standard output; give a path" in done.stderr
    assert not Path("-").exists()


@pytest.mark.parametrize("name", ["drive.log", "drive", "drive.blf", "drive.mf4", "drive.log.gz"])
def test_an_empty_log_is_called_empty(tmp_path, name):
    log, dbc = tmp_path / name, tmp_path / "pack.dbc"
    log.write_bytes(gzip.compress(b"") if name.endswith(".gz") else b"")
    dbc.write_text(DBC)
    result = runner.invoke(app, ["decode", str(log), "--dbc", str(dbc)])
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr == f"bmsota: the log is empty: {log}\n"
