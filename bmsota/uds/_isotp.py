"""ISO-TP (ISO 15765-2): messages of up to 4095 bytes and more <-> CAN frames. The state machine is can-isotp's.

Strategy. `isotp.protocol.TransportLayerLogic` is the part of can-isotp without threads: a function to fetch frames, one
to hand them out, `process()` in between. It still reads a clock in three places: its timers, its rate limiter, and (once, when its
parameters are checked) a sleep of a millisecond. `_Layer` gives it timers that look at the `now_ns` our caller named, a
limiter that is off, and a wait that does not. So the same machine runs in virtual time. A test holds that no clock is read.

What it hands out at once (with BS = 0 and STmin = 0 the rest of a message) waits in `IsoTpLink` and goes to the driver in bursts, so that
the driver listens in between.

Left out: extended and mixed addressing; FC.WAIT as receiver (we answer NRC 0x78 instead); N_As and N_Ar, which are the
adapter's business.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING

import isotp
import isotp.errors
from isotp.protocol import TransportLayerLogic
from isotp.tools import Timer

from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bmsota.uds._addressing import UdsAddress


_SECOND = 1_000_000_000

_SINGLE_FRAME = 0
_FLOW_CONTROL = 3
# ISO 15765-2, 9.6.5.5: a sender takes a reserved STmin for the longest one.
_STMIN_MAX = 0x7F

FRAME_SIZES = (8, 12, 16, 20, 24, 32, 48, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class IsoTpParameters:
    """How one end behaves.

    Raises:
        ConfigurationError: a value is out of its range.
    """

    block_size: int = 0
    """BS, requested of the sender: consecutive frames between two flow controls; 0: all in one go. A node with little
    buffer asks for less and pays with a round trip each time."""
    stmin: int = 0
    """STmin, requested of the sender: 0x00 to 0x7F in ms, 0xF1 to 0xF9 in 100 us."""
    padding: int | None = 0xCC
    """What fills short frames; None: they stay short. 0xCC costs no stuff bits (ISO 15765-2, 10.4.2)."""
    frame_bytes: int = 8
    """Of the longest frame we send; more than 8 is CAN FD."""
    message_bytes_max: int = 0xFFF
    """The longest message we take; a longer one is answered with FC.OVFLW."""
    flow_control_timeout_ns: int = _SECOND
    """N_Bs: how long a sender waits for flow control."""
    consecutive_timeout_ns: int = _SECOND
    """N_Cr: how long a receiver waits for the next consecutive frame."""
    wait_frames_max: int = 16
    """FC.WAIT in a row before a sender gives up."""
    burst_frames: int = 64
    """Frames handed out at once; lower it for adapters with a short queue."""
    burst_spacing_ns: int = 0
    """Pause between two bursts."""

    def __post_init__(self) -> None:
        is_stmin = 0 <= self.stmin <= 0x7F or 0xF1 <= self.stmin <= 0xF9
        if not is_stmin or not 0 <= self.block_size <= 0xFF or self.frame_bytes not in FRAME_SIZES:
            raise ConfigurationError(
                f"ISO-TP: expected BS 0..255, STmin 0..0x7F or 0xF1..0xF9, frames of {FRAME_SIZES} bytes, got {self}"
            )
        if (self.padding is not None and not 0 <= self.padding <= 0xFF) or self.burst_frames < 1:
            raise ConfigurationError(f"ISO-TP: expected a padding byte and bursts of 1 frame or more, got {self}")

    @property
    def is_fd(self) -> bool:
        return self.frame_bytes > 8

    def frames_of(self, size_bytes: int) -> int:
        """About how many frames a message of *size_bytes* takes, for timeouts."""
        return 1 + size_bytes // (self.frame_bytes - 1)


class IsoTpFault(Enum):
    """What went wrong with a message."""

    NO_FLOW_CONTROL = "no flow control"
    """N_Bs: the receiver said nothing behind our first frame or block."""
    OVERFLOW = "receiver overflow"
    TOO_MANY_WAITS = "too many waits"
    NO_CONSECUTIVE_FRAME = "no consecutive frame"
    """N_Cr: the sender stopped in mid-message."""
    WRONG_SEQUENCE = "wrong sequence number"
    """A frame was lost, doubled or overtaken; the message is gone."""
    INTERRUPTED = "interrupted by another message"
    TOO_LONG = "message too long"
    MALFORMED = "malformed frame"
    UNEXPECTED = "unexpected frame"
    """A consecutive frame or a flow control without a message; ignored."""


_SENDING_FAULTS = frozenset({IsoTpFault.NO_FLOW_CONTROL, IsoTpFault.OVERFLOW, IsoTpFault.TOO_MANY_WAITS})
_RECEIVING_FAULTS = frozenset({IsoTpFault.NO_CONSECUTIVE_FRAME, IsoTpFault.WRONG_SEQUENCE, IsoTpFault.TOO_LONG})

_FAULTS: Mapping[type[isotp.errors.IsoTpError], IsoTpFault] = {
    isotp.errors.FlowControlTimeoutError: IsoTpFault.NO_FLOW_CONTROL,
    isotp.errors.OverflowError: IsoTpFault.OVERFLOW,
    isotp.errors.MaximumWaitFrameReachedError: IsoTpFault.TOO_MANY_WAITS,
    isotp.errors.UnsupportedWaitFrameError: IsoTpFault.TOO_MANY_WAITS,
    isotp.errors.ConsecutiveFrameTimeoutError: IsoTpFault.NO_CONSECUTIVE_FRAME,
    isotp.errors.WrongSequenceNumberError: IsoTpFault.WRONG_SEQUENCE,
    isotp.errors.ReceptionInterruptedWithSingleFrameError: IsoTpFault.INTERRUPTED,
    isotp.errors.ReceptionInterruptedWithFirstFrameError: IsoTpFault.INTERRUPTED,
    isotp.errors.FrameTooLongError: IsoTpFault.TOO_LONG,
    isotp.errors.InvalidCanDataError: IsoTpFault.MALFORMED,
    isotp.errors.MissingEscapeSequenceError: IsoTpFault.MALFORMED,
    isotp.errors.InvalidCanFdFirstFrameRXDL: IsoTpFault.MALFORMED,
    isotp.errors.ChangingInvalidRXDLError: IsoTpFault.MALFORMED,
    isotp.errors.UnexpectedFlowControlError: IsoTpFault.UNEXPECTED,
    isotp.errors.UnexpectedConsecutiveFrameError: IsoTpFault.UNEXPECTED,
}


@dataclass(frozen=True, slots=True)
class IsoTpError:
    """A message that was not sent or not received whole; an event, not an exception."""

    fault: IsoTpFault
    detail: str

    @property
    def is_send_lost(self) -> bool:
        """Whether the message we were sending is given up."""
        return self.fault in _SENDING_FAULTS

    @property
    def is_receive_lost(self) -> bool:
        """Whether a message we were receiving is given up."""
        return self.fault in _RECEIVING_FAULTS


class _Clock:
    """The time our caller last named."""

    __slots__ = ("now_ns",)

    def __init__(self) -> None:
        self.now_ns = 0


class _Timer(Timer):
    """can-isotp's timer on our clock."""

    def __init__(self, clock: _Clock, timeout_ns: int) -> None:
        super().__init__(0.0)
        self._clock = clock
        self.timeout = timeout_ns

    def start(self, timeout: float | None = None) -> None:
        if timeout is not None:
            self.set_timeout(timeout)
        self.start_time = self._clock.now_ns

    def elapsed_ns(self) -> int:
        return 0 if self.start_time is None else self._clock.now_ns - self.start_time

    def elapsed(self) -> float:
        return self.elapsed_ns() / _SECOND

    @property
    def due_ns(self) -> int | None:
        """The first moment at which `is_timed_out` says yes; None while it stands."""
        if self.start_time is None:
            return None
        return self.start_time + self.timeout + (1 if self.timeout else 0)


class _Layer(TransportLayerLogic):
    """can-isotp's state machine on our clock, silent, without the rate limiter."""

    timer_tx_stmin: _Timer
    timer_rx_fc: _Timer
    timer_rx_cf: _Timer

    def __init__(self, clock: _Clock, address: isotp.Address, parameters: IsoTpParameters, link: IsoTpLink) -> None:
        self._clock = clock
        self._parameters = parameters
        self._link = link
        super().__init__(
            rxfn=link.fetch,
            txfn=link.hand_out,
            address=address,
            params={
                "blocksize": parameters.block_size,
                "stmin": parameters.stmin,
                "tx_padding": parameters.padding,
                "tx_data_length": parameters.frame_bytes,
                "max_frame_size": parameters.message_bytes_max,
                "wftmax": parameters.wait_frames_max,
                "can_fd": parameters.is_fd,
                "wait_func": _do_not_wait,
            },
        )

    def load_params(self) -> None:
        super().load_params()
        self.rate_limiter.disable()
        self.timer_tx_stmin = _Timer(self._clock, 0)
        self.timer_rx_fc = _Timer(self._clock, self._parameters.flow_control_timeout_ns)
        self.timer_rx_cf = _Timer(self._clock, self._parameters.consecutive_timeout_ns)

    def _start_rx_fc_timer(self) -> None:
        self.timer_rx_fc.start()

    def _start_rx_cf_timer(self) -> None:
        self.timer_rx_cf.start()

    def _trigger_error(self, error: isotp.errors.IsoTpError, inhibit_in_listen_mode: bool = False) -> None:  # noqa: ARG002
        # The original also writes a log line to every handler, on standard error if there is none.
        self._link.note(error)

    def next_due(self) -> int | None:
        timers = [self.timer_rx_fc, self.timer_rx_cf]
        if self.tx_state is self.TxState.TRANSMIT_CF:
            timers.append(self.timer_tx_stmin)
        return min((due for timer in timers if (due := timer.due_ns) is not None), default=None)


def _do_not_wait(_seconds: float) -> None:
    """can-isotp tries its wait function once, when it checks the parameters."""


def _with_known_stmin(data: bytes) -> bytes:
    """A flow control with a reserved STmin asks for 127 ms; can-isotp would drop it. Everything else as it is."""
    if len(data) < 3 or data[0] >> 4 != _FLOW_CONTROL or data[2] <= _STMIN_MAX or 0xF1 <= data[2] <= 0xF9:
        return data
    return data[:2] + bytes([_STMIN_MAX]) + data[3:]


class IsoTpLink:
    """One end of a connection between a tester and a node.

    `send` a message, `receive_frame` what is on the bus; `frames_to_send`, `next_message`, `next_error` say what came
    of it. The driver's loop is that of all machines here.
    """

    def __init__(
        self,
        *,
        transmit_id: int,
        receive_id: int,
        is_extended_id: bool = False,
        parameters: IsoTpParameters | None = None,
    ) -> None:
        self._parameters = parameters or IsoTpParameters()
        self._transmit_id = transmit_id
        self._receive_id = receive_id
        self._is_extended_id = is_extended_id
        self._clock = _Clock()
        self._in: deque[isotp.CanMessage] = deque()
        self._out: deque[CanFrame] = deque()
        self._burst_due_ns = 0
        self._errors: deque[IsoTpError] = deque()
        mode = isotp.AddressingMode.Normal_29bits if is_extended_id else isotp.AddressingMode.Normal_11bits
        address = isotp.Address(mode, txid=transmit_id, rxid=receive_id)
        self._layer = _Layer(self._clock, address, self._parameters, self)

    @classmethod
    def of_tester(cls, address: UdsAddress, parameters: IsoTpParameters | None = None) -> IsoTpLink:
        """The tester's end of the connection to the node at *address*."""
        return cls(
            transmit_id=address.request_id,
            receive_id=address.response_id,
            is_extended_id=address.is_extended_id,
            parameters=parameters,
        )

    @classmethod
    def of_node(cls, address: UdsAddress, parameters: IsoTpParameters | None = None) -> IsoTpLink:
        """The node's end."""
        return cls(
            transmit_id=address.response_id,
            receive_id=address.request_id,
            is_extended_id=address.is_extended_id,
            parameters=parameters,
        )

    @property
    def parameters(self) -> IsoTpParameters:
        return self._parameters

    @property
    def messages_waiting(self) -> int:
        """Messages that have not begun to go out: behind one that waits for flow control, or not fetched by the driver."""
        return self._layer.tx_queue.qsize() + sum(1 for frame in self._out if frame.data[0] >> 4 == _SINGLE_FRAME)

    @property
    def is_sending(self) -> bool:
        """Whether a message is not yet handed out to its end."""
        return bool(self._out) or self._layer.transmitting()

    @property
    def is_receiving(self) -> bool:
        """Whether a message has begun to come in."""
        return self._layer.is_rx_active()

    def send(self, message: bytes, now_ns: int) -> None:
        """Send *message*, behind those under way."""
        self._clock.now_ns = now_ns
        self._layer.send(message)
        self._layer.process()

    def receive_frame(self, frame: CanFrame, now_ns: int) -> bool:
        """Take a frame from the bus; false if it is not of this connection."""
        if frame.can_id != self._receive_id or frame.is_extended_id is not self._is_extended_id:
            return False
        self._clock.now_ns = now_ns
        self._in.append(
            isotp.CanMessage(
                arbitration_id=frame.can_id,
                dlc=len(frame.data),
                data=_with_known_stmin(frame.data),
                extended_id=frame.is_extended_id,
                is_fd=frame.is_fd,
            )
        )
        self._layer.process()
        return True

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        """What to put on the bus now, in this order."""
        self.handle_timeout(now_ns)
        out = self._out
        if not out or now_ns < self._burst_due_ns:
            return []
        count = min(len(out), self._parameters.burst_frames)
        frames = [out.popleft() for _ in range(count)]
        self._burst_due_ns = now_ns + self._parameters.burst_spacing_ns
        return frames

    def next_message(self) -> bytes | None:
        """The oldest message received whole and not yet taken."""
        message = self._layer.recv()
        return None if message is None else bytes(message)

    def next_error(self) -> IsoTpError | None:
        """The oldest error not yet taken."""
        return self._errors.popleft() if self._errors else None

    def next_timeout(self) -> int | None:
        """When `frames_to_send` or `handle_timeout` want to be called; None: only after a frame or a message."""
        due = self._layer.next_due()
        if self._out:
            return self._burst_due_ns if due is None else min(due, self._burst_due_ns)
        return due

    def handle_timeout(self, now_ns: int) -> None:
        """Act on the time; no effect before its time."""
        due = self._layer.next_due()
        if due is not None and now_ns >= due:
            self._clock.now_ns = now_ns
            self._layer.process()

    def abort_sending(self) -> None:
        """Forget what is being sent, and what waits behind it."""
        self._layer.clear_tx_queue()
        self._layer.stop_sending()
        self._out.clear()

    def abort(self) -> None:
        """Forget what is being sent and received."""
        self._layer.reset()
        self._in.clear()
        self._out.clear()
        self._errors.clear()

    # ---- for the layer

    def fetch(self, _timeout_s: float) -> isotp.CanMessage | None:
        return self._in.popleft() if self._in else None

    def hand_out(self, message: isotp.CanMessage) -> None:
        self._out.append(CanFrame(message.arbitration_id, bytes(message.data), message.is_extended_id, message.is_fd))

    def note(self, error: isotp.errors.IsoTpError) -> None:
        self._errors.append(IsoTpError(_FAULTS.get(type(error), IsoTpFault.MALFORMED), str(error)))
