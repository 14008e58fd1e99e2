"""A virtual slcan adapter: the firmware of a serial CAN adapter between a host program and a virtual bus.

Two parts. `SlcanAdapter` is the firmware, without I/O: the host's lines in, CAN frames out, and back; time is an argument.
`SlcanPty` is the cable: a pseudo terminal that any slcan program opens like a serial port.

    adapter = SlcanAdapter()
    port = bus.attach(adapter.receive_frame, name="adapter")   # a `CanBus`; or `join(adapter, other)` without a bus
    adapter.transmit = port.send
    cable = SlcanPty(adapter)
    print(cable.path)                                          # /dev/pts/7
    loop.add_reader(cable.fileno(), cable.pump, now_ns)        # and pump after the bus has run

The firmware speaks LAWICEL's commands and the CAN FD ones of CANable 2 (`bmsota.adapters.slcan` has the list). It is strict:
what it cannot use is answered with BEL. Left out: acceptance masks (answered, without effect), auto-poll, UART set-up, the
serial line's own rate. Remote frames are refused: our buses carry none.
"""

from __future__ import annotations

import contextlib
import os
import re
import select
import tty
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from bmsota.can_timing import FD_SIZES
from bmsota.canframe import CanFrame

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

__all__ = ["AdapterOptions", "SlcanAdapter", "SlcanPty", "join", "serve"]

CR, BEL = b"\r", b"\a"

BITRATES = (10_000, 20_000, 50_000, 100_000, 125_000, 250_000, 500_000, 750_000, 1_000_000, 83_300)
DATA_BITRATES = {1: 1_000_000, 2: 2_000_000, 4: 4_000_000, 5: 5_000_000}

# The longest command: an extended FD frame. A host that sends more without a CR is out of step.
LINE_SIZE_BYTES_MAX = 1 + 8 + 1 + 128
# What the adapter keeps for a host that does not read: as real ones, little more than a USB buffer.
OUTPUT_SIZE_BYTES_MAX = 32_768

MINUTE_MS = 60_000
NS_PER_MS = 1_000_000

# Bits of the status flags (`F`), as on LAWICEL's SJA1000 devices.
FLAG_RECEIVE_FULL = 0x01
FLAG_TRANSMIT_FULL = 0x02
FLAG_DATA_OVERRUN = 0x08
FLAG_BUS_ERROR = 0x80

_FRAME = re.compile(rb"([tTdDbB])([0-9A-Fa-f]{3}|[0-9A-Fa-f]{8})([0-9A-Fa-f])((?:[0-9A-Fa-f]{2})*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterOptions:
    """Which adapter it is."""

    version: str = "V1013"
    serial_number: str = "NBMS1"
    has_fd: bool = True
    has_listen: bool = True
    """`L`. CANable 2 has `M0`/`M1` instead, whichever this says."""
    answers: bool = True
    """Off: as firmwares that never answer a command."""
    answers_frames: bool = True
    """Off: as firmwares that answer commands, but not frames."""
    bus_bitrate_bps: int | None = None
    """The bit rate of the bus. With another one the adapter hears nothing, and its frames reach nobody; None fits all."""


class SlcanAdapter:
    """The firmware. Feed it, then fetch `data_to_send`."""

    def __init__(
        self,
        transmit: Callable[[CanFrame], bool] | None = None,
        *,
        options: AdapterOptions = AdapterOptions(),
    ) -> None:
        self.transmit = transmit
        """Puts a frame on the bus; False if it cannot take one now (the host gets BEL). `Port.send` fits."""
        self.options = options
        self.is_open = False
        self.is_silent = False
        """Listen-only: sends nothing, acknowledges nothing."""
        self.bitrate_bps: int | None = None
        """None until the host has chosen one; opening without is possible, as on CANable."""
        self.data_bitrate_bps: int | None = None
        self.has_timestamps = False
        self.flags = 0
        """Status flags since the host last asked."""
        self.sent = 0
        """Frames the bus took."""
        self.received = 0
        """Frames written for the host."""
        self.refused = 0
        """Commands answered with BEL."""
        self.overruns = 0
        """Frames dropped because the host did not read."""
        self._input = b""
        self._output: deque[bytes] = deque()
        self._output_size = 0
        self._must_listen = False

    # --- The host's side ----------------------------------------------------------------------------------------------

    def receive_data(self, data: bytes, now_ns: int) -> None:  # noqa: ARG002 - the firmware keeps no deadline yet
        """Take what the host wrote, cut anywhere."""
        *lines, self._input = (self._input + data).split(CR)
        self._input = self._input[-LINE_SIZE_BYTES_MAX:]
        for line in lines:
            # Windows tools end lines with CR LF.
            self._answer(self._command(line.lstrip(b"\n")))

    def data_to_send(self, size_bytes: int = OUTPUT_SIZE_BYTES_MAX) -> bytes:
        """What the host should read next, up to about *size_bytes*, whole lines."""
        parts: list[bytes] = []
        taken = 0
        while self._output and taken < size_bytes:
            parts.append(self._output.popleft())
            taken += len(parts[-1])
        self._output_size -= taken
        return b"".join(parts)

    def give_back(self, data: bytes) -> None:
        """The cable did not take this rest of `data_to_send`; it comes first next time."""
        if data:
            self._output.appendleft(data)
            self._output_size += len(data)

    @property
    def has_output(self) -> bool:
        return bool(self._output)

    def _put(self, data: bytes) -> None:
        self._output.append(data)
        self._output_size += len(data)

    def _answer(self, answer: bytes) -> None:
        if answer == BEL:
            self.refused += 1
        if self.options.answers:
            self._put(answer)

    def _command(self, line: bytes) -> bytes:
        """Do what the line says; the answer."""
        letter, rest = line[:1], line[1:]
        if letter in (b"t", b"T", b"d", b"D", b"b", b"B"):
            answer = self._send_frame(line) or BEL
            return answer if self.options.answers_frames else b""
        if letter in (b"V", b"v") and not rest:
            return self.options.version.encode("ascii") + CR
        if letter == b"N" and not rest:
            return self.options.serial_number.encode("ascii") + CR
        if letter == b"F" and not rest and self.is_open:
            flags, self.flags = self.flags, 0
            return b"F%02X\r" % flags
        return CR if self._set(letter, rest) else BEL

    def _set(self, letter: bytes, rest: bytes) -> bool:
        digit = int(rest) if len(rest) == 1 and rest.isdigit() else None
        match letter:
            case b"":
                return True  # A bare CR clears the line.
            case b"O" | b"L" if not rest and not self.is_open and (letter == b"O" or self.options.has_listen):
                self.is_open, self.is_silent = True, letter == b"L" or self._must_listen
            case b"C" if not rest:
                self.is_open = False  # Also if it was not open: LAWICEL says BEL then, most others do not.
            case b"S" if digit is not None and not self.is_open:
                self.bitrate_bps = BITRATES[digit]
            case b"s" if re.fullmatch(rb"[0-9A-Fa-f]{4}|[0-9A-Fa-f]{6}", rest) and not self.is_open:
                self.bitrate_bps = None  # Registers of a chip this one does not have: believed.
            case b"Y" if digit in DATA_BITRATES and self.options.has_fd and not self.is_open:
                self.data_bitrate_bps = DATA_BITRATES[digit]
            case b"Z" if digit in (0, 1) and not self.is_open:
                self.has_timestamps = digit == 1
            case b"M" if digit in (0, 1) and not self.options.has_listen and not self.is_open:
                self._must_listen = digit == 1
            case b"M" | b"m" if re.fullmatch(rb"[0-9A-Fa-f]{8}", rest) and not self.is_open:
                pass
            case _:
                return False
        return True

    def _send_frame(self, line: bytes) -> bytes | None:
        """The answer if the bus took the frame."""
        match = _FRAME.fullmatch(line)
        if match is None or not self.is_open or self.is_silent or self.transmit is None:
            return None
        letter, digits, data = match[1], match[2], bytes.fromhex(match[4].decode("ascii"))
        is_extended, is_fd = letter.isupper(), letter.lower() != b"t"
        can_id, code = int(digits, 16), int(match[3], 16)
        if len(digits) != (8 if is_extended else 3) or can_id >> (29 if is_extended else 11):
            return None
        if len(data) != FD_SIZES[code] or (code > 8 and not is_fd) or (is_fd and not self.options.has_fd):
            return None
        if not self._is_on_bus:
            self.flags |= FLAG_BUS_ERROR  # Nobody acknowledges: the frame stays in the buffer until that is full.
            return None
        if not self.transmit(CanFrame(can_id, data, is_extended, is_fd)):
            self.flags |= FLAG_TRANSMIT_FULL
            return None
        self.sent += 1
        return b"Z\r" if is_extended else b"z\r"

    @property
    def _is_on_bus(self) -> bool:
        """Whether host and bus agree about the bit rate."""
        rates = (self.bitrate_bps, self.options.bus_bitrate_bps)
        return None in rates or rates[0] == rates[1]

    # --- The bus's side -----------------------------------------------------------------------------------------------

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """Take a frame from the bus."""
        if not self.is_open:
            return
        if not self._is_on_bus:
            self.flags |= FLAG_BUS_ERROR
            return
        if self._output_size >= OUTPUT_SIZE_BYTES_MAX:
            self.overruns += 1
            self.flags |= FLAG_RECEIVE_FULL | FLAG_DATA_OVERRUN
            return
        letter = "t" if not frame.is_fd else "b" if self.data_bitrate_bps else "d"
        head = f"{letter.upper()}{frame.can_id:08X}" if frame.is_extended_id else f"{letter}{frame.can_id:03X}"
        stamp = f"{now_ns // NS_PER_MS % MINUTE_MS:04X}" if self.has_timestamps else ""
        self._put(f"{head}{FD_SIZES.index(len(frame.data)):X}{frame.data.hex().upper()}{stamp}\r".encode("ascii"))
        self.received += 1


def join(*adapters: SlcanAdapter, now_ns: Callable[[], int]) -> None:
    """Connect adapters directly: what one transmits, the others receive at once. A bus without timing."""
    for sender in adapters:
        others = [each for each in adapters if each is not sender]

        def transmit(frame: CanFrame, others: list[SlcanAdapter] = others) -> bool:
            for other in others:
                other.receive_frame(frame, now_ns())
            return True

        sender.transmit = transmit


class SlcanPty:
    """An adapter at one end of a pseudo terminal; the other end, `path`, is the serial port programs open."""

    def __init__(self, adapter: SlcanAdapter) -> None:
        self.adapter = adapter
        self._near, self._far = os.openpty()
        # Our own hold on the far end keeps the line up while no program has it open, and between two.
        tty.setraw(self._far)
        os.set_blocking(self._near, False)
        self.path: str = os.ttyname(self._far)
        self._is_closed = False

    def fileno(self) -> int:
        return self._near

    def pump(self, now_ns: int) -> None:
        """Carry what is waiting, both ways, without waiting."""
        with contextlib.suppress(BlockingIOError):
            while data := os.read(self._near, 65_536):
                self.adapter.receive_data(data, now_ns)
        self.flush()

    def flush(self) -> None:
        """Write what the adapter has to say, as far as the line takes it."""
        while self.adapter.has_output:
            data = self.adapter.data_to_send(4096)
            try:
                taken = os.write(self._near, data)
            except BlockingIOError:
                taken = 0
            if taken < len(data):
                self.adapter.give_back(data[taken:])
                return

    def close(self) -> None:
        if not self._is_closed:
            self._is_closed = True
            os.close(self._near)
            os.close(self._far)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()


def serve(cables: Iterable[SlcanPty], clock: Callable[[], int], *, until: int) -> None:
    """Pump *cables* until the descriptor *until* becomes readable. For a thread or a process of its own."""
    lines = {cable.fileno(): cable for cable in cables}
    while True:
        waiting = [at for at, line in lines.items() if line.adapter.has_output]
        readable, _, _ = select.select([*lines, until], waiting, [])
        if until in readable:
            return
        now_ns = clock()
        for at in readable:
            lines[at].pump(now_ns)
        for line in lines.values():
            line.flush()
