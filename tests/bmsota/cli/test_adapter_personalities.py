"""`bmsota flash` through slcan firmware as people have it: each habit is put around the bytes of a virtual adapter on a pty.

What the firmware does to the line is real bytes in both directions; nodes, bus and command line are the usual ones.
"""

from __future__ import annotations

import re

import pytest
from flash_rig import NEW, OLD, Node, PtyPack, SlcanAdapter, bmsota, make_image

pytestmark = pytest.mark.slow

QUICK = ["--listen", "0.05", "--timeout", "2"]
FRAME = re.compile(rb"[tT][0-9A-F]+\r")


class Firmware(SlcanAdapter):
    """A virtual adapter whose output `say` changes, and which may know fewer commands."""

    unknown = b""
    """First letters of commands it refuses."""
    banner = b""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.count = 0
        if self.banner:
            self._put(self.banner)

    def _command(self, line):
        if line[:1] and line[:1] in self.unknown:
            return b"\a"
        return super()._command(line)

    def _put(self, data):
        is_frame = bool(FRAME.fullmatch(data))
        self.count += is_frame
        said = self.frame(data) if is_frame else self.answer(data)
        if said:
            super()._put(said)

    def frame(self, line):
        """A received frame's line, on its way to the host."""
        return line

    def answer(self, line):
        """An answer."""
        return line


class Stamps(Firmware):
    """Timestamps left on by another program: four digits of milliseconds."""

    def frame(self, line):
        return line[:-1] + b"%04X\r" % (self.count * 10 % 60_000)


class Stamps8(Firmware):
    """Timestamps of eight digits, microseconds."""

    def frame(self, line):
        return line[:-1] + b"%08X\r" % (self.count * 10_000 % 2**32)


class Lower(Firmware):
    def frame(self, line):
        return line.lower() if line[:1] == b"t" else line


class CrLf(Firmware):
    """Every line ends in CR LF."""

    def frame(self, line):
        return line + b"\n"

    def answer(self, line):
        return line + b"\n" if line.endswith(b"\r") else line


class CrOnly(Firmware):
    """Frames are answered with a bare CR, not z."""

    def answer(self, line):
        return line.removeprefix(b"z").removeprefix(b"Z")


class Passive(Firmware):
    """Marks frames of nodes that are error passive."""

    def frame(self, line):
        return line[:-1] + b"S\r"


class Unknown(Firmware):
    """Marks frames with a sign of its own."""

    def frame(self, line):
        return line[:-1] + b"?\r"


class Garble(Firmware):
    """One byte in every fortieth frame is no character at all."""

    def frame(self, line):
        return line if self.count % 40 else line[:9] + b"\xff" + line[10:]


class Feedback(Firmware):
    """CANable 2.5 with feedback, error reports and messages on: # is the answer to everything, V included."""

    def frame(self, line):
        return line if self.count % 10 else b"E00000800\r>>> Start recovery from Bus Off\r" + line

    def answer(self, line):
        return b"#5\r" if line == b"\a" else b"#\r"


class Banner(Firmware):
    banner = b"\x00\x00CANable boot v1\r\nready\r\n"


class Bell(Firmware):
    """Its transmit buffer is full for every twentieth frame."""

    def __init__(self, *arguments, **options):
        super().__init__(*arguments, **options)
        self.asked = 0

    def _command(self, line):
        if line[:1] in (b"t", b"T"):
            self.asked += 1
            if self.asked % 20 == 0:
                return b"\a"
        return super()._command(line)


class Echo(Firmware):
    """Gives the host its own frames back."""

    def _command(self, line):
        answer = super()._command(line)
        return answer + line + b"\r" if line[:1] in (b"t", b"T") and answer != b"\a" else answer


class BellOnClose(Firmware):
    """Refuses to close what is not open, as LAWICEL's devices do."""

    def _command(self, line):
        was_open = self.is_open
        answer = super()._command(line)
        return b"\a" if line == b"C" and not was_open else answer


class NoVersion(Firmware):
    unknown = b"VvN"


class LateVersion(Firmware):
    """Answers V when it is asked for the next thing."""

    late = b""

    def _command(self, line):
        answer, late = super()._command(line), self.late
        self.late = b""
        if line == b"V":
            self.late, answer = answer, b""
        return late + answer


class Strict(Firmware):
    """Knows what LAWICEL knew in 2003."""

    unknown = b"ZMmXU"


HABITS = [
    Firmware, Stamps, Stamps8, Lower, CrLf, CrOnly, Passive, Unknown, Garble, Feedback, Banner, Bell, Echo, BellOnClose, NoVersion, LateVersion, Strict,
]  # fmt: skip


def flash(pack, tmp_path):
    path = tmp_path / "slave.bin"
    path.write_bytes(make_image())
    return bmsota("flash", path, "--yes", *pack.arguments, *QUICK, "--no-log", "--report-dir", tmp_path)


@pytest.mark.parametrize("firmware", HABITS, ids=lambda each: each.__name__)
def test_a_slave_is_flashed_through_it(firmware, tmp_path):
    with PtyPack(Node(1), firmware=firmware) as pack:
        done = flash(pack, tmp_path)
        assert done.code == 0, done.text
        assert pack.versions == {1: NEW}
        assert pack.adapter.count > 10  # The habit has been met.


class NoBitrate(Firmware):
    unknown = b"S"


class FeedbackNoBitrate(Feedback):
    """It says why it refuses."""

    unknown = b"S"


class Mute(Firmware):
    def answer(self, line):
        return b""


class Modem(Firmware):
    """Something else that sits on a serial port."""

    def answer(self, line):
        return b"ERROR\r"


REFUSALS = {
    NoBitrate: "setting rejected: the adapter did not accept S6 (bit rate): BEL",
    FeedbackNoBitrate: "setting rejected: the adapter did not accept S6 (bit rate): #5 (error of the CAN controller)",
    Mute: "adapter not responding: no answer to C within 2.5 s (",
    Modem: "adapter not responding: no answer to C within 2.5 s, but 10 lines that are not slcan's (",
}


@pytest.mark.parametrize("firmware", REFUSALS, ids=lambda each: each.__name__)
def test_what_cannot_be_used_is_named(firmware, tmp_path, monkeypatch):
    if firmware in (Mute, Modem):
        monkeypatch.setattr("bmsota.adapters.slcan.OPEN_TIMEOUT_S", 0.5)
        expected = REFUSALS[firmware].replace("2.5 s", "0.5 s").replace("10 lines", "")
    else:
        expected = REFUSALS[firmware]
    with PtyPack(Node(1), firmware=firmware) as pack:
        done = flash(pack, tmp_path)
        assert done.code == 4
        assert pack.versions == {1: OLD}
    text = re.sub(r"but \d+ lines", "but ", done.err)
    assert expected in text
    if firmware is Mute:
        assert "check_answers=False" in done.err
