"""slcan adapters on python-can: `can.Bus(interface="bmsota_slcan", channel="/dev/ttyACM0", bitrate=500_000)`.

The serial line protocol of LAWICEL's CAN232/CANUSB, with the CAN FD commands of the CANable 2 firmware. python-can has a
back end for it; this one is for buses that are busy. It reads whatever is waiting in one go (python-can 4.6 reads byte by
byte and is overrun by a full 500 kbit/s bus), it listens to the adapter's answers, and it survives split lines and garbage.

The lines are `bmsota.slcan`; here is the port: opening, waiting, answers and resending. Facts about devices that shaped this:

* The adapter never says which command it answers: answers come in the order of the commands, so we keep that order.
* CANable 2 repeats its last command when it gets an empty line, transmissions too: we clear its line with `C`, not with CR.
* CANable 2 has no `L`; it is made silent by `M1` and opened by `O`. On a LAWICEL device `M1` is malformed and refused.
* LAWICEL devices answer BEL to a frame when their transmit buffer is full. Such a frame is sent again for a while.
* Some firmware never answers anything; for it there is `check_answers=False`.
* CANable 2.5 in its feedback mode answers `#`, or `#` with a digit that says why it refuses.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import threading
import time
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bmsota.errors import LocalProtocolError, MissingExtraError

try:
    import can
    import serial
    from can.util import check_or_adjust_timing_clock
except ImportError as error:
    raise MissingExtraError("bmsota.adapters.slcan", "python-can and pyserial", "can") from error

from bmsota.canframe import CanFrame
from bmsota.slcan import BITRATES, CR, DATA_BITRATES, Answer, SlcanHost, StatusFlag, frame_line, remote_line

if TYPE_CHECKING:
    from collections.abc import Iterable

    from can.typechecking import AutoDetectedConfig

__all__ = [
    "AdapterRefusesError",
    "AdapterSilentError",
    "FrameRefusedError",
    "SlcanBus",
]

# What a read may bring: more than a pseudo terminal or a USB driver holds.
CHUNK_SIZE_BYTES = 65_536
# Arduino-like adapters restart when the port is opened and are deaf for up to 2 s; until then they are asked again.
OPEN_TIMEOUT_S = 2.5
OPEN_ASK_S = 0.25
# An answer takes one turn of the USB and of the firmware's main loop: 1 to 20 ms.
ANSWER_TIMEOUT_S = 0.3
# Some adapters do not know V and are silent. One that is only slow must not be heard when the bit rate is set.
VERSION_TIMEOUT_S = 1.0
# An adapter that has answered frames before, and does not now: more likely the machine is busy than the adapter is lost.
LOST_TIMEOUT_S = 3.0
# Frames under way without an answer. Eight hide a 1 ms turnaround at 500 kbit/s and fit every adapter's transmit buffer.
UNANSWERED_MAX = 8
# A full transmit buffer of a healthy adapter has room after a few milliseconds, even on a busy bus; two seconds of
# refusals are a bus without another node, or bus-off, and not a machine with too much to do.
RESEND_S_MAX = 2.0
RESEND_PAUSE_S = 0.001
WRITE_TIMEOUT_S = 5.0
# How long one wait may be: python-can asks again, and a bus that is shut down meanwhile is noticed.
WAIT_S_MAX = 1.0
# Serial ports without a file descriptor are read with their own timeout.
SLICE_S = 0.01

_ERROR_FLAGS = StatusFlag.ERROR_WARNING | StatusFlag.ERROR_PASSIVE | StatusFlag.BUS_ERROR


class AdapterSilentError(can.CanInitializationError):
    """The port opens, but nothing answers."""


class AdapterRefusesError(can.CanInitializationError):
    """The adapter refused a setting."""


class FrameRefusedError(can.CanOperationError):
    """The adapter could not get a frame onto the bus for two seconds."""


@dataclass(frozen=True, slots=True)
class _Sent:
    """A line under way, waiting for its answer."""

    line: str
    is_frame: bool
    since_s: float
    """When it was first written, by the monotonic clock."""


class SlcanBus(can.BusABC):
    """An slcan adapter. See the module for what it does; the arguments are those of python-can's `slcan` where it has them.

    `send` does not wait for the adapter's answer as long as few frames are under way; with a timeout above 0 it does. A frame
    that the adapter refuses is sent again for two seconds (it may then be overtaken by those under way, unless
    `unanswered_max` is 1) and after that raised, by the next `send`, or by `recv` instead of an empty hand.

    One thread may send while another receives.
    """

    def __init__(
        self,
        channel: str,
        *,
        bitrate: int | None = None,
        fd: bool = False,
        data_bitrate: int | None = None,
        timing: can.BitTiming | can.BitTimingFd | None = None,
        listen_only: bool = False,
        timestamps: bool = False,
        tty_baudrate: int = 115_200,
        rtscts: bool = False,
        sleep_after_open: float = 0.0,
        check_answers: bool = True,
        unanswered_max: int = UNANSWERED_MAX,
        **kwargs: Any,
    ) -> None:
        """Open the serial port and the CAN channel.

        Args:
            channel: the serial port or a pyserial URL, with `@baud rate` if need be.
            bitrate: bit/s; None leaves the adapter's own setting.
            fd: CAN FD, as CANable 2 does it; needs *data_bitrate* too (without: 2 Mbit/s).
            data_bitrate: bit/s of the data phase.
            timing: instead of the bit rates; of a `BitTiming` the SJA1000 registers at 8 MHz are sent.
            listen_only: neither send nor acknowledge.
            timestamps: frames carry the adapter's milliseconds instead of the host's time of reading.
            tty_baudrate: of the serial line; USB adapters ignore it.
            rtscts: hardware handshake on the serial line.
            sleep_after_open: seconds to leave the adapter alone; not needed for those that restart, they are asked until
                they answer.
            check_answers: off for adapters that never answer.
            unanswered_max: frames under way without an answer; 1 keeps their order for sure.
            **kwargs: python-can's (`can_filters`).

        Raises:
            ValueError: an argument that no adapter supports.
            CanInitializationError: the port cannot be opened, nothing answers (`AdapterSilentError`), or the adapter refuses a
                setting (`AdapterRefusesError`).
        """
        if not channel:
            raise ValueError("no serial port: name one as channel")
        port, _, baudrate = channel.partition("@")
        commands = _settings(bitrate, data_bitrate or (2_000_000 if fd else None), timing)
        if unanswered_max < 1:
            raise ValueError(f"unanswered_max: expected at least 1, got {unanswered_max}")
        self.version: str | None = None
        """What the adapter says it is."""
        self._host = SlcanHost(use_timestamps=timestamps)
        self._port_name = port
        self._listen_only = listen_only
        self._check_answers = check_answers
        self._unanswered_max = unanswered_max
        self._sent: deque[_Sent] = deque()
        self._refused: deque[_Sent] = deque()
        self._failures: deque[str] = deque()
        self._has_answered_frames = False
        self._expects_answers = check_answers
        self._is_silenced = False
        self._event_fd: int | None = None
        self._poll: Any = None
        self._reading = threading.RLock()
        self._sending = threading.RLock()
        # Of two threads that wait for bytes one reads, the other waits for its next turn to end.
        self._reader = threading.Lock()
        self._turn = threading.Condition()
        self._turns = 0
        is_fd = any(each.startswith("Y") for each in commands)
        self._can_protocol = can.CanProtocol.CAN_FD if is_fd else can.CanProtocol.CAN_20
        self.channel_info = f"slcan adapter on {port}"
        self._port = self._open_port(port, int(baudrate or tty_baudrate), rtscts)
        self._fd = _descriptor(self._port)
        try:
            time.sleep(sleep_after_open)
            self._port.reset_input_buffer()
            self._open(commands, timestamps=timestamps)
        except (can.CanError, OSError) as error:
            self._port.close()
            self._is_shutdown = True
            if isinstance(error, can.CanInitializationError):
                raise
            raise can.CanInitializationError(f"{error}") from error
        super().__init__(channel, **kwargs)

    def _open_port(self, port: str, baudrate: int, rtscts: bool) -> Any:
        try:
            # Two programs that read one adapter steal each other's bytes; where the platform can, the second is refused.
            exclusive = {"exclusive": True} if os.name == "posix" and "://" not in port else {}
            return serial.serial_for_url(
                port, baudrate=baudrate, rtscts=rtscts, timeout=SLICE_S, write_timeout=WRITE_TIMEOUT_S, **exclusive
            )
        except (OSError, ValueError) as error:
            # pyserial's text has the path in it twice, and the system's reason in the middle.
            number = getattr(error, "errno", None)
            reason = error if number is None else os.strerror(number)
            if number == errno.EAGAIN:
                reason = "another program is using it"
            raise can.CanInitializationError(f"cannot open {port}: {reason}") from error

    # --- Opening and closing the channel ------------------------------------------------------------------------------

    def _open(self, commands: Iterable[str], *, timestamps: bool) -> None:
        if not self._check_answers:
            lines = ["C", "C", *commands, *(["Z1"] if timestamps else []), *(["M1"] if self._listen_only else [])]
            for line in [*lines, "L" if self._listen_only else "O"]:
                self._write(line)
            return
        self._greet()
        for line in commands:
            self._require(line)
        if timestamps:
            self._require("Z1")
        if not self._listen_only:
            self._require("O")
        elif self._ask("L") is not Answer.DONE:
            self._require("M1", "listen-only, as LAWICEL (L) or CANable (M1) do it")
            self._is_silenced = True
            self._require("O")

    def _greet(self) -> None:
        """Close the channel, whatever state it was in, and check that an adapter answers."""
        deadline_s = time.monotonic() + OPEN_TIMEOUT_S
        while self._ask("C", OPEN_ASK_S) is None:
            if time.monotonic() > deadline_s:
                other = f", but {self._host.garbage} lines that are not slcan's" if self._host.garbage else ""
                raise AdapterSilentError(
                    f"no answer to C within {OPEN_TIMEOUT_S} s{other} ({self.channel_info}). Check the port and its baud rate; some adapters"
                    " never answer and need check_answers=False"
                )
        # The first C may have completed another program's half line and been refused with it; answers to earlier C may be late.
        self._ask("C")
        while self._wait(OPEN_ASK_S / 10) and self._fetch() and time.monotonic() < deadline_s:
            pass
        self._host.frames.clear()
        self._host.answers.clear()
        self._sent.clear()
        version = self._ask("V", VERSION_TIMEOUT_S)
        self.version = version if isinstance(version, str) else None
        if self.version is not None and "canable" in self.version.lower():
            self._ask("M0")  # It may have been left silent.

    def _ask(self, line: str, timeout_s: float = ANSWER_TIMEOUT_S) -> Answer | str | None:
        """Write a command, wait for the answer; None if there is none in time."""
        self._write(line)
        return self._next_answer(time.monotonic() + timeout_s)

    def _next_answer(self, deadline_s: float) -> Answer | str | None:
        while True:
            with self._reading:
                if self._host.answers:
                    return self._host.answers.popleft()
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                return None
            if self._wait(left_s):
                self._fetch()

    def _require(self, line: str, meaning: str = "") -> None:
        deadline_s = time.monotonic() + OPEN_TIMEOUT_S
        said = ""
        answer = self._ask(line, OPEN_TIMEOUT_S)
        while isinstance(answer, str):  # The answer to V, late: no setting is answered so.
            said = answer
            answer = self._next_answer(deadline_s)
        if answer is not Answer.DONE:
            got = self._refusal() if answer is Answer.REFUSED else said or "no answer"
            meaning = meaning or _MEANINGS.get(line[0], "")
            raise AdapterRefusesError(f"the adapter did not accept {line} ({meaning}): {got} ({self.channel_info})")

    def _refusal(self) -> str:
        """The adapter's last refusal, as it said it."""
        said = self._host.refusal
        return f"{said} ({_FEEDBACK.get(said[1:], 'unknown reason')})" if said else Answer.REFUSED.value

    def shutdown(self) -> None:
        """Close the channel and the port. May be called more than once."""
        if self._is_shutdown:
            return
        super().shutdown()
        with self._sending, self._reading:
            # It may be gone; then there is nothing to close.
            with contextlib.suppress(can.CanError, OSError):
                self._settle(ANSWER_TIMEOUT_S)
            with contextlib.suppress(can.CanError, OSError):
                if self._check_answers:
                    self._ask("C")
                    if self._is_silenced:
                        self._ask("M0")
                else:
                    self._write("C")
            self._port.close()
            if self._event_fd is not None:
                self._poll.close()
                os.close(self._event_fd)
                self._event_fd = None

    # --- The serial line ----------------------------------------------------------------------------------------------

    def _write(self, line: str) -> None:
        try:
            self._port.write(line.encode("ascii") + CR)
        except serial.SerialTimeoutException as error:
            raise can.CanTimeoutError(
                f"cannot send {line}: the serial line has been blocked for {WRITE_TIMEOUT_S} s ({self.channel_info})"
            ) from error
        except (OSError, TypeError) as error:  # pyserial lets a TypeError out when another thread closes the port.
            raise can.CanOperationError(f"cannot send {line}: {error} ({self.channel_info})") from error

    def _wait(self, timeout_s: float) -> bool:
        """Whether bytes are waiting, after at most *timeout_s*."""
        if self._fd is None:
            return True  # `_fetch` waits in the port itself.
        try:
            return bool(select.select([self._fd], [], [], max(timeout_s, 0))[0])
        except (OSError, ValueError) as error:
            raise self._gone(error) from error

    def _fetch(self) -> bool:
        """Read what is waiting and cut it up; whether there was anything."""
        with self._reading:
            if not self._port.is_open:
                self._check_open()
            try:
                if self._fd is None:
                    data = self._port.read(max(1, self._port.in_waiting))
                else:
                    data = os.read(self._fd, CHUNK_SIZE_BYTES)
                    # A tty has nothing to read for the slower of two threads, and always when it is gone.
                    if not data and select.select([self._fd], [], [], 0)[0]:
                        data = os.read(self._fd, CHUNK_SIZE_BYTES)
                        if not data:
                            raise self._gone(EOFError("end of file"))
            except BlockingIOError:
                return False  # The other thread was quicker.
            except (OSError, TypeError) as error:
                raise self._gone(error) from error
            self._host.receive_data(data, time.time_ns())
            if self._event_fd is not None and self._host.frames:
                os.eventfd_write(self._event_fd, 1)
            return bool(data)

    def _gone(self, error: Exception) -> can.CanOperationError:
        return can.CanOperationError(f"the adapter is gone: {error} ({self.channel_info}; unplugged?)")

    def _check_open(self) -> None:
        if self._is_shutdown:
            raise can.CanOperationError(f"the bus has been shut down ({self.channel_info})")

    # --- Receiving ----------------------------------------------------------------------------------------------------

    def _recv_internal(self, timeout: float | None) -> tuple[can.Message | None, bool]:
        frames = self._host.frames
        seen = self._turns
        if not frames:
            self._check_open()
            self._advance(WAIT_S_MAX if timeout is None else timeout, seen)
        try:
            head, data, time_ns = frames.popleft()
        except IndexError:
            if self._failures:
                raise FrameRefusedError(self._failures.popleft()) from None
            return None, False
        if self._event_fd is not None and not frames:
            with self._reading:
                if not frames:
                    with contextlib.suppress(BlockingIOError):
                        os.eventfd_read(self._event_fd)
        message = can.Message(
            time_ns / 1e9, head.can_id, head.is_extended_id, head.is_remote, False, self._port_name, head.length,
            None if head.is_remote else data, head.is_fd, True, head.has_bitrate_switch,
        )  # fmt: skip
        return message, False

    def _advance(self, timeout_s: float, seen: int) -> None:
        """Wait for bytes, read them, look at the answers among them; or wait until the other thread has done so.

        *seen* is `_turns` as it was before the caller found that there is something to wait for.
        """
        if self._refused:
            timeout_s = min(timeout_s, RESEND_PAUSE_S)
        if self._reader.acquire(blocking=False):
            try:
                if self._wait(timeout_s):
                    self._fetch()
                if self._sent or self._host.answers:
                    self._look_at_answers()
            finally:
                self._reader.release()
                with self._turn:
                    self._turns += 1
                    self._turn.notify_all()
        else:
            with self._turn:
                if self._turns == seen:
                    self._turn.wait(timeout_s)
        if self._refused and self._sending.acquire(blocking=False):
            try:
                self._send_again()
            finally:
                self._sending.release()

    def fileno(self) -> int:
        """A descriptor that is readable while frames can be received, for asyncio and python-can's `Notifier`.

        Not the port's own: a read empties the port and may bring a hundred frames, of which the caller fetches one.

        Raises what python-can's own buses raise where there is no such thing (not on Linux): the Notifier then uses a thread.
        """
        if self._fd is None or not hasattr(os, "eventfd") or not hasattr(select, "epoll"):
            return super().fileno()
        with self._reading:
            if self._event_fd is None:
                self._event_fd = os.eventfd(int(bool(self._host.frames)), os.EFD_NONBLOCK | os.EFD_CLOEXEC)
                self._poll = select.epoll()
                self._poll.register(self._fd, select.EPOLLIN)
                self._poll.register(self._event_fd, select.EPOLLIN)
            return int(self._poll.fileno())

    # --- Sending ------------------------------------------------------------------------------------------------------

    def send(self, msg: can.Message, timeout: float | None = None) -> None:
        """Hand a frame to the adapter. With a *timeout* above 0, wait until the adapter has taken it.

        Raises:
            CanOperationError: opened listen-only, not a frame an adapter can send, an earlier frame was refused for half a
                second (`FrameRefusedError`), or the port is gone. The message names the line.
            CanTimeoutError: no answer in time.
        """
        if self._listen_only:
            raise can.CanOperationError(f"cannot send: opened listen-only ({self.channel_info})")
        self._check_open()
        line = _line_of(msg)
        with self._sending:
            self._settle(LOST_TIMEOUT_S if self._has_answered_frames else ANSWER_TIMEOUT_S, room_for=1)
            if self._failures:
                raise FrameRefusedError(self._failures.popleft())
            self._write_frame(_Sent(line, True, time.monotonic()))
            if timeout is not None and timeout > 0:
                self._settle(timeout)
                if self._failures:
                    raise FrameRefusedError(self._failures.popleft())

    def _write_frame(self, sent: _Sent) -> None:
        if self._expects_answers:
            self._sent.append(sent)  # Before the write: the other thread may read the answer at once.
        self._write(sent.line)

    def _settle(self, timeout_s: float, *, room_for: int | None = None) -> None:
        """Wait until every frame has its answer, or until there is room for *room_for* more under way."""
        most = 0 if room_for is None else self._unanswered_max - room_for
        deadline_s = time.monotonic() + timeout_s
        while True:
            seen = self._turns
            before = len(self._sent)
            if self._failures or (before <= most and not self._refused):
                return
            left_s = deadline_s - time.monotonic()
            if left_s <= 0:
                if self._refused:  # Being refused again and again is an answer; `_send_again` ends it.
                    if room_for is None:
                        raise can.CanTimeoutError(
                            f"the adapter refused {self._refused[0].line} for {timeout_s} s ({self.channel_info})"
                        )
                elif not self._has_answered_frames:
                    self._expects_answers = False  # It answers commands but not frames: some firmwares do.
                    self._sent.clear()
                    return
                else:
                    line = self._sent[0].line if self._sent else "the last frame"
                    self._sent.clear()
                    raise can.CanTimeoutError(f"no answer to {line} within {timeout_s} s ({self.channel_info})")
            self._advance(max(left_s, RESEND_PAUSE_S), seen)
            if room_for is not None and len(self._sent) < before:
                deadline_s = time.monotonic() + timeout_s  # There is progress, if slow.

    def _look_at_answers(self) -> None:
        with self._reading:
            answers, sent = self._host.answers, self._sent
            while answers:
                answer = answers.popleft()
                if not sent:
                    continue  # To nothing of ours: a status line, or an answer that came after we had given it up.
                line = sent.popleft()
                self._has_answered_frames = True
                if answer is Answer.REFUSED:
                    self._refused.append(line)

    def _send_again(self) -> None:
        """Write the refused frames once more, one at a time; give up on what has been refused for too long."""
        while self._refused and not self._sent:
            sent = self._refused.popleft()
            if time.monotonic() - sent.since_s > RESEND_S_MAX:
                self._failures.append(
                    f"the adapter could not send {sent.line} for {RESEND_S_MAX} s: {self._refusal()} ({self.channel_info}: no other"
                    " node, wrong bit rate, or bus-off)"
                )
                self._refused.clear()  # Those behind it have no better prospects, and order matters more.
                return
            time.sleep(RESEND_PAUSE_S)
            self._write_frame(sent)

    # --- What python-can asks -----------------------------------------------------------------------------------------

    @property
    def state(self) -> can.BusState:
        """PASSIVE if listen-only. The adapter's own error state is not asked for."""
        return can.BusState.PASSIVE if self._listen_only else can.BusState.ACTIVE

    @state.setter
    def state(self, _new_state: can.BusState) -> None:
        raise can.CanOperationError(f"listen_only can only be set when opening ({self.channel_info})")

    def has_heard_errors(self) -> bool | None:
        """Whether the adapter has seen errors on the bus since it was last asked; None if it cannot say.

        Some report an error by themselves, others answer LAWICEL's `F`.

        Raises:
            CanOperationError: the port is gone.
        """
        reported, self._host.bus_errors = self._host.bus_errors, 0
        if reported:
            return True
        if not self._check_answers:
            return None
        with self._sending, self._reader:
            answer = self._ask("F")
        if not isinstance(answer, str) or not answer.startswith("F"):
            return None
        try:
            return bool(int(answer[1:], 16) & _ERROR_FLAGS)
        except ValueError:
            return None

    @property
    def garbage(self) -> int:
        """Lines of the adapter that made no sense."""
        return self._host.garbage

    @property
    def dropped(self) -> int:
        """Frames dropped because they were not fetched in time."""
        return self._host.dropped

    @staticmethod
    def _detect_available_configs() -> list[AutoDetectedConfig]:
        """The serial ports of USB devices: whether an slcan adapter is behind one is only known by asking it."""
        from serial.tools import list_ports  # noqa: PLC0415 - slow to import on some platforms, and rarely needed

        return [
            {"interface": "bmsota_slcan", "channel": port.device}
            for port in list_ports.comports()
            if port.vid is not None
        ]


# What CANable 2.5 says behind `#`.
_FEEDBACK = {
    "1": "unknown command",
    "2": "invalid parameter",
    "3": "only while open",
    "4": "only while closed",
    "5": "error of the CAN controller",
    "6": "not supported",
    "7": "transmit buffer full",
    "8": "bus-off",
    "9": "listen-only",
    ":": "no bit rate set",
}

_MEANINGS = {
    "S": "bit rate",
    "s": "bit timing",
    "Y": "data bit rate",
    "Z": "timestamps",
    "O": "open",
    "L": "listen-only",
}


def _settings(
    bitrate: int | None, data_bitrate: int | None, timing: can.BitTiming | can.BitTimingFd | None
) -> list[str]:
    """The commands that set the bit rates."""
    if timing is not None and bitrate is not None:
        raise ValueError("give a bit rate or a timing, not both")
    if isinstance(timing, can.BitTiming):
        timing = check_or_adjust_timing_clock(timing, valid_clocks=[8_000_000])
        return [f"s{timing.btr0:02X}{timing.btr1:02X}"]
    if timing is not None:
        bitrate, data_bitrate = timing.nom_bitrate, timing.data_bitrate
    commands = []
    for name, rate, known in (("bit rate", bitrate, BITRATES), ("data bit rate", data_bitrate, DATA_BITRATES)):
        if rate is None:
            continue
        if rate not in known:
            raise ValueError(f"expected a {name} of {', '.join(str(each) for each in sorted(known))}, got {rate}")
        commands.append(known[rate])
    return commands


def _line_of(msg: can.Message) -> str:
    if msg.is_error_frame:
        raise can.CanOperationError("expected a data or remote frame, got an error frame")
    try:
        if msg.is_remote_frame:
            return remote_line(msg.arbitration_id, msg.dlc, is_extended_id=msg.is_extended_id)
        frame = CanFrame(msg.arbitration_id, bytes(msg.data), msg.is_extended_id, msg.is_fd)
        return frame_line(frame, has_bitrate_switch=msg.bitrate_switch)
    except LocalProtocolError as error:
        raise can.CanOperationError(str(error)) from error


def _descriptor(port: Any) -> int | None:
    """The port's file descriptor, if it has one that select() takes."""
    if os.name != "posix":
        return None
    try:
        return int(port.fileno())
    except (AttributeError, OSError):
        return None
