"""An open bus: the listen-only check before sending, opening with the reason when it fails, the session, Ctrl-C."""

from __future__ import annotations

import argparse
import contextlib
import errno
import signal
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

from bmsota._words import counted
from bmsota.adapters.clock import steady_clock
from bmsota.cli.fault_table import FaultError, FlashFault
from bmsota.cli.faults import say

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    from bmsota.adapters.canprobe import Heard
    from bmsota.adapters.canrecord import CanRecord, RecordingBus
    from bmsota.cli.bus_options import BusChoice, BusOptions
    from bmsota.errors import TransferError
    from bmsota.flashing import EngineEvent, FlashingEngine

__all__ = ["CanSession", "Interrupt", "errno_of", "fault_of_transfer", "heard_sentence", "open_bus"]

# An adapter that gets no frame onto the bus gives up after half a second (`bmsota.adapters.slcan`).
_SETTLE_S = 0.7


def open_bus(choice: BusChoice, **more: Any) -> Any:
    """Open the chosen bus, with *more* arguments for its back end.

    Raises:
        FaultError: it cannot be opened; the fault says why.
    """
    from can.cli import create_bus_from_namespace  # noqa: PLC0415 - takes longer to import than --help to print

    namespace = argparse.Namespace(**vars(choice.namespace))
    context = vars(namespace).pop("can_context", None)
    try:
        return create_bus_from_namespace(namespace, config_context=context, **more)
    except argparse.ArgumentError as error:
        raise _fault_of_opening(error.__cause__ or error, choice) from error


_FAULT_OF_ERRNO: Mapping[int, FlashFault] = {
    errno.ENOENT: FlashFault.NO_SUCH_PORT,
    errno.ENODEV: FlashFault.NO_SUCH_PORT,
    errno.ENXIO: FlashFault.NO_SUCH_PORT,
    errno.ENOTTY: FlashFault.NO_SUCH_PORT,
    errno.EISDIR: FlashFault.NO_SUCH_PORT,
    errno.EACCES: FlashFault.PORT_FORBIDDEN,
    errno.EPERM: FlashFault.PORT_FORBIDDEN,
    errno.EBUSY: FlashFault.PORT_BUSY,
    errno.EAGAIN: FlashFault.PORT_BUSY,
    errno.EAFNOSUPPORT: FlashFault.DRIVER_MISSING,
    errno.ENETDOWN: FlashFault.INTERFACE_DOWN,
}


_NOT_A_PORT = "Pass the adapter's port with `-c`; `bmsota adapters` lists what is connected."

SOCKETCAN = "socketcan"


def _socketcan_advice(fault: FlashFault, choice: BusChoice) -> str | None:
    """What helps with an interface of Linux: it is set up by `ip`, not by us."""
    channel, rate = choice.channel, choice.bitrate_bps or 500_000
    data = f" dbitrate {choice.data_bitrate_bps} fd on" if choice.data_bitrate_bps else ""
    up = f"`sudo ip link set {channel} up type can bitrate {rate}{data}`"
    if choice.interface != SOCKETCAN:
        return None
    if channel.startswith("vcan"):
        up = f"`sudo ip link set {channel} up`"
    return {
        FlashFault.INTERFACE_DOWN: f"Bring it up: {up}.",
        FlashFault.NO_SUCH_PORT: "Plug in the adapter; `ip link` lists the interfaces. For a virtual one: "
        f"`sudo modprobe vcan`, `sudo ip link add {channel} type vcan`.",
        FlashFault.DRIVER_MISSING: "Load the kernel's CAN sockets: `sudo modprobe can_raw`. In a container or a virtual machine that is done "
        "on the host.",
        FlashFault.ADAPTER_LOST: f"Plug it in again if it is gone, bring it up ({up}) and rerun the command: it continues where the nodes "
        "stopped.",
    }.get(fault)


def _bus_fault(fault: FlashFault, detail: str, choice: BusChoice) -> FaultError:
    return FaultError(fault, detail, advice=_socketcan_advice(fault, choice))


def _fault_of_opening(error: BaseException, choice: BusChoice) -> FaultError:
    """What a back end means by its exception: each has its own."""
    import can  # noqa: PLC0415 - takes longer to import than --help to print

    from bmsota.adapters.slcan import AdapterRefusesError, AdapterSilentError  # noqa: PLC0415

    detail = f"{error} ({choice})"
    number = errno_of(error)
    if isinstance(error, AdapterSilentError):
        fault = FlashFault.ADAPTER_SILENT
    elif isinstance(error, AdapterRefusesError):
        fault = FlashFault.ADAPTER_REFUSES
    elif number is not None and number in _FAULT_OF_ERRNO:
        fault = _FAULT_OF_ERRNO[number]
    elif isinstance(error, can.CanInterfaceNotImplementedError | NotImplementedError | ImportError | NameError):
        # NameError: kvaser's back end without its library.
        fault = FlashFault.DRIVER_MISSING
    elif isinstance(error, OSError) and number is None:
        fault = FlashFault.DRIVER_MISSING  # pcan's back end without its library.
    elif isinstance(error, TypeError):
        fault = FlashFault.BAD_OPTION
        if "'channel'" in detail:
            detail = f"{choice.interface} needs a channel: pass -c, or set it in can.conf or CAN_CHANNEL"
    elif isinstance(error, ValueError) and not isinstance(error, can.CanError):
        fault = FlashFault.BAD_SETTING
    else:
        fault = FlashFault.ADAPTER_FAILS
    if number in (errno.ENOTTY, errno.EISDIR):
        return FaultError(fault, f"not a serial port: {detail}", advice=_NOT_A_PORT)
    return _bus_fault(fault, detail, choice)


def errno_of(error: BaseException | None) -> int | None:
    """The first error number in the chain: back ends wrap the system's error once or twice."""
    for _ in range(8):
        if error is None:
            return None
        # termios has its own error, whose number is an argument.
        number = error.args[0] if type(error).__module__ == "termios" else getattr(error, "errno", None)
        if isinstance(number, int):
            return number
        error = error.__cause__ or error.__context__
    return None


# ---- listening


def listen_before(choice: BusChoice, seconds: float) -> Heard | None:
    """Listen before anything is sent; None where the adapter has no listen-only mode.

    Raises:
        FaultError: the adapter cannot be opened, or hears errors and no frame.
    """
    import can  # noqa: PLC0415 - takes longer to import than --help to print

    from bmsota.adapters.canprobe import listen, listen_only_arguments  # noqa: PLC0415

    arguments = listen_only_arguments(choice.interface)
    if arguments is None:
        return None
    bus = open_bus(choice, **arguments)
    try:
        heard = listen(bus, seconds)
    except can.CanError as error:
        raise _fault_of_use(error, f"{error} ({choice})", choice) from error
    finally:
        bus.shutdown()
    if heard.is_wrong:
        raise FaultError(FlashFault.WRONG_BITRATE, f"{heard_sentence(heard)} ({choice})")
    return heard


def heard_sentence(heard: Heard | None) -> str:
    """The result of listening, in words."""
    if heard is None:
        return "not checked: this adapter has no listen-only mode"
    errors = counted(heard.errors, "error") if heard.errors else "errors" if heard.has_bus_errors else ""
    if heard.is_right:
        return f"{counted(heard.frames, 'frame')} in {heard.seconds:.1f} s" + (f" and {errors}" if errors else "")
    if heard.is_wrong:
        return f"{errors} and no frame in {heard.seconds:.1f} s"
    return f"silent for {heard.seconds:.1f} s, so the bit rate could not be checked"


# ---- the session


class Interrupt:
    """What asks a command to end: Ctrl-C, SIGTERM, a closed terminal (SIGHUP), output that cannot be written. A context manager.

    Outside of `orderly` a signal raises `KeyboardInterrupt` at once. Inside, the first one requests an orderly end (`is_wanted`), and only
    a Ctrl-C behind it raises: a shell and the system each send a SIGHUP, and neither is impatient. Inside `held` nothing raises.
    """

    def __init__(self) -> None:
        self.is_wanted = False
        self.reason = "stopped with Ctrl-C"
        self._is_orderly = False
        self._is_held = False
        self._is_asking = False
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        for number in _ending_signals():
            with contextlib.suppress(ValueError):  # Not in the main thread, where signals do not arrive.
                self._before[number] = signal.signal(number, self._handle)
        return self

    def __exit__(self, *_error: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)

    def request(self, reason: str) -> None:
        """Ask for an orderly end."""
        if not self.is_wanted:
            self.is_wanted, self.reason = True, reason

    @contextlib.contextmanager
    def orderly(self) -> Iterator[None]:
        """Inside, the first signal is a request; a request that was made before raises `KeyboardInterrupt` now."""
        if self.is_wanted:
            raise KeyboardInterrupt
        self._is_orderly = True
        try:
            yield
        finally:
            self._is_orderly = False

    @contextlib.contextmanager
    def held(self) -> Iterator[None]:
        """Inside, nothing interrupts: the end of a run is told and its report is written."""
        self._is_held = True
        try:
            yield
        finally:
            self._is_held = False

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """While a question is on the screen, the first Ctrl-C raises `KeyboardInterrupt`: it is an answer."""
        self._is_asking = True
        try:
            yield
        finally:
            self._is_asking = False

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what the system hands over
        if self._is_held:
            return
        is_impatient = self.is_wanted and number == signal.SIGINT
        self.request(_REASONS[signal.Signals(number).name])
        if is_impatient or self._is_asking or not self._is_orderly:
            raise KeyboardInterrupt


_REASONS = {
    "SIGINT": "stopped with Ctrl-C",
    "SIGTERM": "stopped by SIGTERM",
    "SIGHUP": "the terminal was closed (SIGHUP)",
}


def _ending_signals() -> list[signal.Signals]:
    """Those of this system; a SIGHUP that was ignored when we started stays so, which is what `nohup` is for."""
    numbers = [signal.Signals[name] for name in _REASONS if name in signal.Signals.__members__]
    return [number for number in numbers if number.name != "SIGHUP" or signal.getsignal(number) is not signal.SIG_IGN]


@dataclass(slots=True)
class CanSession:
    """An open bus with what is known about it. A context manager."""

    choice: BusChoice
    bus: RecordingBus
    clock: Callable[[], int]
    heard: Heard | None
    _inner: Any = field(repr=False)

    @classmethod
    def open(
        cls, choice: BusChoice, options: BusOptions, make_record: Callable[[], CanRecord | None] = lambda: None
    ) -> CanSession:
        """Listen, unless *options* say otherwise; then open the bus; then *make_record*.

        Raises:
            FaultError: the bus cannot be used.
        """
        from bmsota.adapters.canrecord import RecordingBus  # noqa: PLC0415 - brings python-can

        if choice.interface == "slcan":
            say("slcan: python-can's back end may lose frames on a busy bus; use -i bmsota_slcan instead")
        heard = None
        if not options.no_listen:
            heard = listen_before(choice, options.listen_s)
            say(f"bus: {choice}: {heard_sentence(heard)}")
        inner = open_bus(choice)
        try:
            clock = steady_clock()
            record = make_record()
            bus = RecordingBus(inner, clock, record, channel=choice.channel)
            return cls(choice, bus, clock, heard, inner)
        except BaseException:
            inner.shutdown()
            raise

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_error: object) -> None:
        # An adapter that is gone cannot be closed any more.
        with contextlib.suppress(Exception):
            self._inner.shutdown()

    def run(self, engine: FlashingEngine, interrupt: Interrupt) -> Iterator[EngineEvent]:
        """Run the engine's operation to its end, or until Ctrl-C.

        Raises:
            TransferError: the adapter fails.
        """
        from bmsota.adapters.pythoncan import serve  # noqa: PLC0415 - brings python-can

        def stop() -> None:
            if interrupt.is_wanted:
                engine.cancel()

        events: Iterator[EngineEvent] = serve(engine, self.bus, self.clock, lambda: engine.is_idle, stop=stop)
        yield from events

    def no_answer(self) -> FaultError:
        """Which fault it is that no node has answered. Waits a moment for errors that the adapter reports late."""
        import can  # noqa: PLC0415 - takes longer to import than --help to print

        from bmsota.adapters.slcan import FrameRefusedError  # noqa: PLC0415

        end_ns = self.clock() + int(_SETTLE_S * 1e9)
        try:
            while (left_ns := end_ns - self.clock()) > 0:
                self.bus.recv(left_ns / 1e9)
        except FrameRefusedError as error:
            return FaultError(FlashFault.BUS_NOT_WORKING, f"{error} ({self.choice})")
        except can.CanError as error:
            return _fault_of_use(error, f"{error} ({self.choice})", self.choice)
        detail = f"no node answered ({self.choice})"
        heard = self.heard
        # Traffic during our own requests tells as much as traffic before them.
        if (heard is not None and heard.is_right) or self.bus.received:
            frames = self.bus.received + (heard.frames if heard is not None else 0)
            return FaultError(FlashFault.NO_NODE_BUSY_BUS, f"{detail}; {counted(frames, 'other frame')} received")
        if heard is not None:
            return FaultError(FlashFault.NO_NODE_SILENT_BUS, f"{detail}; the bus is silent")
        return FaultError(FlashFault.NO_NODE, detail)


def fault_of_transfer(error: TransferError, choice: BusChoice, *, was_changed: bool) -> FaultError:
    """What the adapter's failure means: before anything was written, or in the middle."""
    if was_changed:
        return _bus_fault(FlashFault.ADAPTER_LOST, str(error), choice)
    return _fault_of_use(error, str(error), choice)


def _fault_of_use(error: BaseException, detail: str, choice: BusChoice) -> FaultError:
    """What it means that an open adapter fails."""
    from bmsota.adapters.slcan import FrameRefusedError  # noqa: PLC0415 - brings python-can

    number = errno_of(error)
    if isinstance(error.__cause__, FrameRefusedError) or number == errno.ENOBUFS:
        # Of socketcan: its queue does not empty.
        return FaultError(FlashFault.BUS_NOT_WORKING, detail)
    fault = FlashFault.INTERFACE_DOWN if number == errno.ENETDOWN else FlashFault.ADAPTER_FAILS
    return _bus_fault(fault, detail, choice)
