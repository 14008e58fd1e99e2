"""The bench as people meet it: a process, a pseudo terminal, a CAN tool, and commands while it runs."""

from __future__ import annotations

import contextlib
import functools
import os
import queue
import select
import signal
import socket
import subprocess
import sys
import time

import can
import pytest
from bmsota_sim._signals import ending_signals
from bmsota_sim.bench import Bench, BenchOptions, BenchTopology
from bmsota_sim.cli import main
from bmsota_sim.kernel import SECOND
from bmsota_sim.samples import sample_file
from long_run import LONG

from bmsota.adapters.clock import steady_clock
from bmsota.adapters.files import packaged_database
from bmsota.adapters.pythoncan import drive
from bmsota.bootloader import BootloaderWire
from bmsota.errors import ConfigurationError, TransferError
from bmsota.flashing import BootloaderProfile, FlashingEngine, NodesDiscovered, UdsProfile
from bmsota.image import ImageVersion
from bmsota.node import FlashJob
from bmsota.uds import UDS_11BIT

pytestmark = pytest.mark.slow

NEW = ImageVersion(2, 1, 0)
MASTER, SLAVE = (sample_file(f"E7-{role}-2.1.0.bin") for role in ("master", "slave"))
SMALL = ["--series", "E7", "--slaves", "2"]
# Flash without delay: the tests wait for the wire alone. The figures of real flash are tested in virtual time.
QUICK = ["--flash-erase-ms", "0", "--flash-program-us", "0"]
# Far beyond what anything here takes on a busy machine.
LIMIT_S = 120

if hasattr(os, "openpty"):
    import fcntl
    import termios

needs_pty = pytest.mark.skipif(not hasattr(os, "openpty"), reason="pseudo terminals are POSIX")


@pytest.fixture(scope="module")
def wire():
    return BootloaderWire(packaged_database("bms_bootloader"))


class Output:
    """What a child prints, as it comes."""

    def __init__(self, fd):
        self.fd = fd
        self.seen = b""
        self.found = 0

    def until(self, text):
        """Wait for *text*, after what was found before; what comes between the two.

        A turn of the loop counts as one second at most: that the machine stood still is not the child's fault.
        """
        waited_s = 0.0
        while (at := self.seen.find(text, self.found)) < 0:
            before_s = time.monotonic()
            if select.select([self.fd], [], [], 1.0)[0]:
                self.read(text)
            waited_s += min(1.0, time.monotonic() - before_s)
            assert waited_s < LIMIT_S, f"expected {text!r}, got {self.seen!r}"
        between, self.found = self.seen[self.found : at], at + len(text)
        return between

    def read(self, expected):
        try:
            data = os.read(self.fd, 65_536)
        except OSError:  # What Linux says of a terminal whose other end is closed.
            data = b""
        assert data, f"expected {expected!r}, got the end: {self.seen!r}"
        self.seen += data


class Process:
    """`bmsota-sim bench` as a child; its lines as they come."""

    def __init__(self, *arguments):
        self.child = subprocess.Popen(
            [sys.executable, "-m", "bmsota_sim.cli", "bench", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, bufsize=1,
        )  # fmt: skip
        self.output = Output(self.child.stdout.fileno())
        self.lines = []

    def until(self, begin):
        """The first line from now on that begins so."""
        while True:
            self.lines.append(self.output.until(b"\n").decode())
            if self.lines[-1].startswith(begin):
                return self.lines[-1]

    def say(self, command):
        self.child.stdin.write(command + "\n")
        return self.until(("ok", "error"))

    @property
    def adapters(self):
        return [line.split(": ", 1)[1] for line in self.lines if line.startswith("adapter ")]


@pytest.fixture
def start():
    with contextlib.ExitStack() as stack:

        def begin(*arguments):
            process = Process(*arguments)
            stack.callback(process.child.wait, LIMIT_S)
            stack.callback(process.child.kill)
            process.until("ready")
            return process

        yield begin


class Core:
    """The engine as `drive` wants it."""

    def __init__(self, engine):
        self.engine = engine

    def __getattr__(self, name):
        return getattr(self.engine, name)

    @property
    def finished(self):
        return self.engine.is_idle


def do(bus, profile, operation, *arguments, **options):
    """One operation over *bus*: the nodes of a discovery, or the results, by position."""
    engine = FlashingEngine(BootloaderProfile(profile) if isinstance(profile, BootloaderWire) else profile)
    getattr(engine, operation)(*arguments, **options)
    events = list(drive(Core(engine), bus, steady_clock()))
    if isinstance(events[-1], NodesDiscovered):
        return {node.position: node for node in events[-1].nodes}
    return {result.position: result for result in events[-1].results}


def ok(results):
    assert all(result.ok for result in results.values()), results


def install(bus, profile, positions):
    """Everything a flash of these nodes is, with the version read back."""
    found = do(bus, profile, "discover", positions)
    assert {position: str(found[position].version) for position in positions} == dict.fromkeys(positions, "2.0.0")
    ok(do(bus, profile, "flash", [FlashJob(position, SLAVE if position else MASTER) for position in positions]))
    ok(do(bus, profile, "activate", positions))
    found = do(bus, profile, "discover", positions)
    assert {position: found[position].version for position in positions} == dict.fromkeys(positions, NEW)
    ok(do(bus, profile, "confirm", [(position, NEW) for position in positions], raise_counter=True))


# --- A process and its pseudo terminal --------------------------------------------------------------------------------


# Each topology and each interface once; in the long run every pair.
PAIRS = [("gateway", "bmsota_slcan", (1, 2, 0)), ("direct", "slcan", (0,))]
OTHER_PAIRS = [("direct", "bmsota_slcan", (1, 2, 0)), ("gateway", "slcan", (1,))]


@needs_pty
@pytest.mark.long
@pytest.mark.parametrize(("topology", "interface", "positions"), [*PAIRS, *(OTHER_PAIRS if LONG else ())])
def test_any_slcan_program_flashes_master_and_slaves(start, wire, topology, interface, positions):
    process = start(*SMALL, *QUICK, "--topology", topology)
    with can.Bus(interface=interface, channel=process.adapters[0], bitrate=500_000) as bus:
        install(bus, wire, positions)
    assert process.say("status").startswith("ok: 3 nodes")
    versions = [line.split()[5] for line in process.lines if line.startswith("node ")][-3:]
    assert versions == ["2.1.0" if position in positions else "2.0.0" for position in range(3)]
    assert process.say("quit") == "ok: the bench ends"
    process.until("bench: ended")
    assert process.child.wait(LIMIT_S) == 0


@needs_pty
def test_the_same_over_can_fd_with_long_identifiers_and_a_slow_lossy_adapter(start):
    options = ["--data-bitrate", "2000000", "--ids", "29", "--turnaround-ms", "2", "--loss", "0.005", "--echo"]
    process = start(*SMALL, *QUICK, *options, "--topology", "gateway")
    wire = BootloaderWire(packaged_database("bms_bootloader_fd_29bit"))
    where = {"channel": process.adapters[0], "bitrate": 500_000, "fd": True, "data_bitrate": 2_000_000}
    with can.Bus(interface="bmsota_slcan", **where) as bus:
        install(bus, wire, (2, 0))


@needs_pty
def test_uds_over_an_slcan_pty(start):
    process = start(*SMALL, *QUICK, "--protocol", "uds", "--topology", "gateway")
    with can.Bus(interface="bmsota_slcan", channel=process.adapters[0], bitrate=500_000) as bus:
        install(bus, UdsProfile(UDS_11BIT), (1,))


@needs_pty
def test_a_cut_in_mid_flash_and_a_second_run(start, wire):
    process = start(*SMALL, *QUICK, "--no-traffic")
    with can.Bus(interface="bmsota_slcan", channel=process.adapters[0], bitrate=500_000) as bus:
        assert process.say("cut 1 at-progress 0.4 off 300").startswith("ok: slave 1 loses its supply")
        first = do(bus, wire, "flash", [FlashJob(1, SLAVE)])[1]
        assert first.ok or first.safe_to_run_again
        ok(do(bus, wire, "flash", [FlashJob(1, SLAVE)]))
        ok(do(bus, wire, "activate", (1,)))
        assert do(bus, wire, "discover", (1,))[1].version == NEW
    process.say("quit")
    process.until("bench: ended")
    assert len([line for line in process.lines if "slave 1: power cut inside a flash operation" in line]) == 1


@needs_pty
def test_the_flash_file_makes_an_end_a_power_cycle(start, wire, tmp_path):
    keep = ["--flash-file", str(tmp_path / "flash")]
    process = start(*SMALL, *QUICK, *keep)
    assert any("fresh from the factory" in line for line in process.lines)
    with can.Bus(interface="bmsota_slcan", channel=process.adapters[0], bitrate=500_000) as bus:
        install(bus, wire, (1,))
        ok(do(bus, wire, "flash", [FlashJob(2, SLAVE)]))
        ok(do(bus, wire, "activate", (2,)))
        assert do(bus, wire, "discover", (2,))[2].version == NEW
    process.child.send_signal(signal.SIGTERM)
    assert process.child.wait(LIMIT_S) == 0
    process = start(*SMALL, *QUICK, *keep)
    nodes = [line.split()[5] for line in process.lines if line.startswith("node ")]
    assert nodes == ["2.0.0", "2.1.0", "2.0.0"], "confirmed on slave 1; in test, and so reverted, on slave 2"


@needs_pty
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_signal_ends_it_cleanly(start, number):
    # Under nohup the tests ignore SIGHUP, and so would the bench; with its default it is a terminal that is closed.
    before = signal.signal(number, signal.SIG_DFL) if number is signal.SIGHUP else None
    try:
        process = start(*SMALL)
    finally:
        if before is not None:
            signal.signal(number, before)
    process.child.send_signal(number)
    process.until("bench: ended")
    assert process.child.wait(LIMIT_S) == 0
    assert process.child.stderr.read() == ""


@needs_pty
def test_it_ends_by_itself_and_the_end_of_its_input_is_not_its_end(start):
    process = start(*SMALL, "--run-for", "0.5")
    process.child.stdin.close()
    process.until("bench: ended")
    assert process.child.wait(LIMIT_S) == 0


@needs_pty
def test_a_reader_that_goes_away_ends_it(start):
    process = start(*SMALL)
    process.child.stdout.close()
    process.child.stdin.write("status\n")
    process.child.stdin.flush()
    assert process.child.wait(LIMIT_S) == 0


@pytest.mark.skipif(sys.platform != "linux", reason="knows the size of a pipe")
def test_a_reader_that_does_not_read_does_not_keep_it(start):
    """The pipe is full and the bench waits in a write; a signal ends it all the same."""
    process = start(*SMALL)
    pipe = process.child.stdout.fileno()
    for _ in range(200):
        process.child.stdin.write("help\n")
    process.child.stdin.close()
    # A pipe of Linux has 16 pages, in each of which a line may not find room; 180 kB are on their way.
    for _ in range(10 * LIMIT_S):
        if int.from_bytes(fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)), sys.byteorder) > 60_000:
            break
        time.sleep(0.1)
    else:
        pytest.fail("the pipe does not fill")
    process.child.send_signal(signal.SIGTERM)
    assert process.child.wait(LIMIT_S) == 0


@needs_pty
def test_it_says_how_to_use_it(start):
    process = start(*SMALL, "--adapters", "2", "--topology", "gateway")
    assert len(set(process.adapters)) == 2
    assert f"use: bmsota nodes -i bmsota_slcan -c {process.adapters[0]} -b 500000" in process.lines
    assert process.lines[0] == (
        "bench: E7, a master and 2 slaves, adapters on the diagnostic bus, the master as gateway, "
        "classic 500 kbit/s, 11-bit ids, bootloader, seed 1"
    )


@needs_pty
def test_an_adapter_at_another_bit_rate_hears_nothing(start):
    process = start(*SMALL)
    for bitrate, hears in ((500_000, True), (250_000, False)):
        with can.Bus(interface="bmsota_slcan", channel=process.adapters[0], bitrate=bitrate) as bus:
            # Ten rounds of traffic a second; a silent second is no accident.
            assert (bus.recv(LIMIT_S if hears else 1.0) is not None) is hears


@needs_pty
def test_commands_come_through_the_control_socket_too(start, tmp_path, call):
    path = tmp_path / "bench.sock"
    process = start(*SMALL, "--control", str(path))
    say = functools.partial(call, "bench-ctl", str(path))
    assert say("cut", "2", "off", "100") == (0, "ok: slave 2 has lost its supply for 100 ms\n", "")
    code, output, _ = say("cut", "9")
    assert (code, output.startswith("error: expected a position")) == (1, True)
    with socket.socket(socket.AF_UNIX) as line, line.makefile("rw") as stream:
        line.connect(str(path))
        for command in ("loss 0.5", "faults off"):
            stream.write(command + "\n")
            stream.flush()
            assert stream.readline().startswith("ok: ")
    code, _, said = call("bench", *SMALL, "--control", str(path))
    assert (code, f"another bench listens at {path}" in said) == (1, True)
    assert say("quit")[0] == 0
    process.until("bench: ended")
    assert process.child.wait(LIMIT_S) == 0
    assert not path.exists()
    code, _, said = say("status")
    assert (code, said.startswith(f"bmsota-sim: no bench listens at {path}: ")) == (1, True)
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    assert call("bench", *SMALL, "--run-for", "0", "--control", str(path))[0] == 0


@pytest.fixture
def call(monkeypatch, capsys):
    """`bmsota-sim` in this process: exit code, output, errors."""

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", ["bmsota-sim", *arguments])
        with pytest.raises(SystemExit) as ended:
            main()
        output = capsys.readouterr()
        return ended.value.code, output.out, output.err

    return run


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--slaves", "99"], 2, "slaves: expected 1 to 16, got 99"),
        (["--series", "X1"], 2, "series: expected one of F7, E7, got 'X1'"),
        (["--topology", "ring"], 2, "'ring' is not one of 'direct', 'gateway'"),
        (["--loss", "1.5"], 2, "expected chances from 0 to 1"),
        (["--boot-window-ms", "10001"], 2, "boot window: expected 0 to 10 s, got 10.001 s"),
        (["--turnaround-ms", "inf"], 2, "turnaround: expected 0 to 10 s"),
        (["--colour"], 2, "No such option: --colour"),
        (["--image-key", "nowhere.pem"], 2, "bmsota-sim: nowhere.pem: No such file or directory\n"),
        (["--bitrate", "7"], 2, "bit rate: expected one of 10000, 20000, "),
        (["--access-key", __file__], 2, f"expected PEM text of a public key, got no key (--access-key {__file__})"),
        (["--channel", "nonsense"], 1, "channel: expected pty or INTERFACE:CHANNEL, got 'nonsense'"),
        (["--channel", "nonsense:0"], 1, "python-can cannot open nonsense:0: "),
        (["--control", "/"], 1, "/ exists and is not a socket: give another path"),
        (
            ["--control", "/nowhere/at/all"],
            1,
            "cannot open the control socket /nowhere/at/all: No such file or directory",
        ),
    ],
)
def test_a_wrong_option_is_one_line(arguments, code, said, call):
    ended, _, errors = call("bench", "--run-for", "0", *arguments)
    assert (ended, errors.count("\n")) == (code, 1), errors
    assert errors.startswith("bmsota-sim: ")
    assert said in errors


# --- At a terminal ----------------------------------------------------------------------------------------------------


# A login shell makes the terminal the session's own; so does this.
AT_A_TERMINAL = """
import fcntl, os, signal, sys, termios
os.setsid()
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
import bmsota_sim._commands
from bmsota_sim.cli import main
{before}
main()
"""

# As a shell starts what it puts into the background; Python then makes no KeyboardInterrupt of a Ctrl-C.
IGNORING = "signal.signal(signal.SIGINT, signal.SIG_IGN)"

# One Ctrl-C, just as the main thread enters a function of this name for the twelfth time.
STRIKING = """
calls = 0

def profile(frame, event, _argument):
    global calls
    if event == "call" and frame.f_code.co_qualname == {place!r}:
        calls += 1
        if calls == 12:
            sys.setprofile(None)
            signal.raise_signal(signal.SIGINT)

sys.setprofile(profile)
"""


class AtATerminal:
    """`bmsota-sim bench` with a terminal of its own. A context manager."""

    def __init__(self, before=""):
        self.near, self.far = os.openpty()
        self.was = termios.tcgetattr(self.far)
        self.child = subprocess.Popen(
            [sys.executable, "-c", AT_A_TERMINAL.format(before=before), "bench", *SMALL],
            stdin=self.far, stdout=self.far, stderr=self.far,
            env=os.environ | {"TERM": "xterm", "COLUMNS": "140", "LINES": "40"},
        )  # fmt: skip
        self.output = Output(self.near)
        self.until = self.output.until

    def type(self, keys):
        os.write(self.near, keys)

    def has_ended_well(self):
        """It has said so, and the terminal is as it was: with echo, whole lines and a cursor."""
        self.until(b"bench: ended")
        assert self.child.wait(LIMIT_S) == 0
        assert termios.tcgetattr(self.far) == self.was
        assert self.output.seen.rfind(b"\x1b[?25h") > self.output.seen.rfind(b"\x1b[?25l")

    def __enter__(self):
        return self

    def __exit__(self, *_error):
        self.child.kill()
        self.child.wait()
        os.close(self.near)
        os.close(self.far)


@needs_pty
def test_at_a_terminal_there_is_a_table_and_a_line_to_type():
    with AtATerminal() as bench:
        bench.until(b"hardware id")
        bench.type(b"cut 1x\x7f off 100\r")
        bench.until(b"ok: slave 1 has lost its supply for 100 ms")
        bench.type(b"nonsense\r")
        bench.until(b"error: no command 'nonsense'; there are cut")
        bench.type(b"\x03")
        bench.has_ended_well()


@needs_pty
def test_ctrl_c_ends_it_though_interrupts_were_ignored():
    """A shell without job control has SIGINT ignored for what it puts into the background."""
    with AtATerminal(IGNORING) as bench:
        bench.until(b"hardware id")
        bench.type(b"\x03")
        bench.has_ended_well()


@needs_pty
def test_a_hangup_that_is_ignored_stays_so(monkeypatch):
    """As `nohup` starts a program."""
    ignored = {signal.SIGINT, signal.SIGHUP}
    monkeypatch.setattr(signal, "getsignal", lambda number: signal.SIG_IGN if number in ignored else signal.SIG_DFL)
    assert ending_signals() == [signal.SIGINT, signal.SIGTERM]
    ignored.clear()
    assert ending_signals() == [signal.SIGINT, signal.SIGTERM, signal.SIGHUP]


@needs_pty
@pytest.mark.parametrize("place", ["Console.__exit__", "Console._exit_buffer", "Live.refresh", "Bench.rows"])
def test_ctrl_c_ends_it_wherever_it_strikes(place):
    """As an exception it struck between two statements of the screen that belong together: nothing was printed after it."""
    with AtATerminal(STRIKING.format(place=place)) as bench:
        bench.has_ended_well()


# --- In one process ---------------------------------------------------------------------------------------------------


def test_without_pseudo_terminals_in_one_process(wire):
    notes = []
    options = BenchOptions(
        series="E7", slaves=2, topology=BenchTopology.GATEWAY, flash_erase_ns=0, flash_program_ns=0, adapters=2
    )
    with (
        Bench(options, channel="virtual:test_bench", noted=notes.append) as bench,
        can.Bus(interface="virtual", channel=bench.paths[0]) as bus,
        can.Bus(interface="virtual", channel=bench.paths[1]) as log,
    ):
        assert bench.paths == ["test_bench", "test_bench2"]
        install(bus, wire, (2,))
        assert [row.version for row in bench.rows()] == ["2.0.0", "2.0.0", "2.1.0"]
        assert bench.command("power 1 off") == ["ok: slave 1 is off"]
        assert log.recv(LIMIT_S) is not None, "the other adapter has heard the flasher"
    assert any(note.who == "slave 2" and "boots 2.1.0" in note.what for note in notes)
    with pytest.raises(ConfigurationError, match="the bench is not running"):
        bench.command("status")
    bench.close()


def test_a_bench_that_stood_still_goes_on_where_it_was():
    """The machine slept for a day: the lost time is not played, which would keep the hosts, and the end, waiting."""
    notes = []
    bench = Bench(BenchOptions(series="E7", slaves=1, traffic=False), channel="virtual:asleep", noted=notes.append)
    with bench:
        before_ns = bench.world.kernel.now_ns
        bench._offset_ns += 86_400 * SECOND
        for _ in range(2):
            bench.rows()
    assert bench.world.kernel.now_ns - before_ns < 3600 * SECOND
    assert [note.what for note in notes if note.who == "bench"] == ["stood still for 86400 s; continues from there"]


def test_a_question_that_comes_too_late_is_refused():
    """The loop has ended, its thread not yet: the caller is not left waiting for an answer."""
    bench = Bench(BenchOptions(series="E7", slaves=1), channel="virtual:late")
    asked = []

    def ask_once_more():
        bench._is_ending = True
        asked.append(queue.SimpleQueue())
        bench._asked.put((list, asked[0]))
        raise LookupError("the loop ends here")

    with pytest.raises(LookupError), bench, pytest.raises(ConfigurationError, match="the bench is not running"):
        bench._in_thread(ask_once_more)
    assert asked[0].get_nowait() is None


def test_a_bench_that_fails_says_so(tmp_path):
    """The flash file cannot be written: the bench's thread ends, and whoever closes the bench learns why."""
    bench = Bench(BenchOptions(flash_file=tmp_path / "nowhere" / "flash"), channel="virtual:lost")
    bench.open()
    end_s = time.monotonic() + LIMIT_S
    while bench.failure is None:
        assert time.monotonic() < end_s
        time.sleep(0.01)
    with pytest.raises(ConfigurationError, match="the bench is not running"):
        bench.command("status")
    with pytest.raises(OSError, match="nowhere"):
        bench.close()
    bench.close()


@needs_pty
def test_a_channel_for_one_adapter_takes_no_second():
    for channel in ("socketcan:vcan0", "pty:7"):
        with pytest.raises(ConfigurationError, match=r"has room for one adapter|cannot open socketcan"):
            Bench(BenchOptions(adapters=2), channel=channel).open()


def test_a_python_can_channel_that_is_gone_ends_the_bench_and_says_so():
    """A bench that hears nobody any more must not look like one that runs."""
    bench = Bench(BenchOptions(series="E7", slaves=1), channel="virtual:gone")
    bench.open()
    bench._endpoints[0]._bus.shutdown()
    bench._thread.join(LIMIT_S)
    with pytest.raises(TransferError, match="python-can can no longer read gone: "):
        bench.close()
    bench.close()
