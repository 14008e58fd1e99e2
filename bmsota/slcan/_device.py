"""The adapter's end: the firmware of a serial CAN adapter, between a host program and a bus.

The host's lines in, CAN frames out, and back; time is an argument. It is strict: a line that it cannot use is answered with BEL.
Left out: acceptance masks (answered, without effect), auto-poll, UART set-up, the serial line's own rate. Remote frames are
refused: our buses carry none.
"""

from __future__ import annotations

import re
from binascii import unhexlify
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from bmsota.canframe import CanFrame
from bmsota.slcan._protocol import (
    BEL,
    BITRATES,
    COMMAND_SIZE_BYTES_MAX,
    CR,
    DATA_BITRATES,
    MINUTE_MS,
    StatusFlag,
    frame_line,
    parse_head,
)

if TYPE_CHECKING:
    from collections.abc import Callable


# What the adapter keeps for a host that does not read: as real ones, little more than a USB buffer.
OUTPUT_SIZE_BYTES_MAX: Final = 32_768

_NS_PER_MS: Final = 1_000_000

_RATES: Final = {
    command.encode("ascii"): rate for rates in (BITRATES, DATA_BITRATES) for rate, command in rates.items()
}
_SWITCH: Final = {b"0": False, b"1": True}


@dataclass(frozen=True, slots=True, kw_only=True)
class AdapterOptions:
    """What kind of adapter it is."""

    version: str = "V1013"
    serial_number: str = "NBMS1"
    has_fd: bool = True
    has_listen: bool = True
    """Whether it knows `L`; otherwise it has `M0`/`M1` instead, like CANable 2."""
    answers: bool = True
    """Off: like firmware that never answers a command."""
    answers_frames: bool = True
    """Off: like firmware that answers commands, but not frames."""
    bus_bitrate_bps: int | None = None
    """The bit rate of the bus. With another one the adapter hears nothing and its frames reach no node; None fits all."""


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
        self.flags = StatusFlag(0)
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
        self._input = self._input[-COMMAND_SIZE_BYTES_MAX:]
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
            flags, self.flags = self.flags, StatusFlag(0)
            return b"F%02X\r" % flags
        return CR if self._set(letter, rest) else BEL

    def _set(self, letter: bytes, rest: bytes) -> bool:
        line = letter + rest
        is_on = _SWITCH.get(rest)
        match letter:
            case b"":
                return True  # A bare CR clears the line.
            case b"O" | b"L" if not rest and not self.is_open and (letter == b"O" or self.options.has_listen):
                self.is_open, self.is_silent = True, letter == b"L" or self._must_listen
            case b"C" if not rest:
                self.is_open = False  # Also if it was not open: LAWICEL says BEL then, most others do not.
            case b"S" if line in _RATES and not self.is_open:
                self.bitrate_bps = _RATES[line]
            case b"s" if re.fullmatch(rb"[0-9A-Fa-f]{4}|[0-9A-Fa-f]{6}", rest) and not self.is_open:
                self.bitrate_bps = None  # Registers of a chip this one does not have: believed.
            case b"Y" if line in _RATES and self.options.has_fd and not self.is_open:
                self.data_bitrate_bps = _RATES[line]
            case b"Z" if is_on is not None and not self.is_open:
                self.has_timestamps = is_on
            case b"M" if is_on is not None and not self.options.has_listen and not self.is_open:
                self._must_listen = is_on
            case b"M" | b"m" if re.fullmatch(rb"[0-9A-Fa-f]{8}", rest) and not self.is_open:
                pass
            case _:
                return False
        return True

    def _send_frame(self, line: bytes) -> bytes | None:
        """The answer if the bus took the frame."""
        head = parse_head(line)
        if head is None or head.is_remote or len(line) != head.data_end or (head.is_fd and not self.options.has_fd):
            return None
        if not self.is_open or self.is_silent or self.transmit is None:
            return None
        try:
            data = unhexlify(line[head.data_start :])
        except ValueError:
            return None
        if not self._is_on_bus:
            self.flags |= StatusFlag.BUS_ERROR  # Not acknowledged: the frame stays in the buffer until that is full.
            return None
        if not self.transmit(CanFrame(head.can_id, data, head.is_extended_id, head.is_fd)):
            self.flags |= StatusFlag.TRANSMIT_FULL
            return None
        self.sent += 1
        return b"Z\r" if head.is_extended_id else b"z\r"

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
            self.flags |= StatusFlag.BUS_ERROR
            return
        if self._output_size >= OUTPUT_SIZE_BYTES_MAX:
            self.overruns += 1
            self.flags |= StatusFlag.RECEIVE_FULL | StatusFlag.DATA_OVERRUN
            return
        stamp = f"{now_ns // _NS_PER_MS % MINUTE_MS:04X}" if self.has_timestamps else ""
        line = frame_line(frame, has_bitrate_switch=self.data_bitrate_bps is not None)
        self._put(f"{line}{stamp}\r".encode("ascii"))
        self.received += 1
