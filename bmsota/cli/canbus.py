"""The bus of a command: python-can's own options, files and environment, the check before the first word, the session.

The options are those of `can.cli.add_bus_arguments`, parsed by argparse as in python-can's own programs, and taken out of the command
line before typer sees it: `-i -c -b --fd --data-bitrate --timing --bus-kwargs`. What they leave open, python-can fills in
from its files and its environment variables.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import errno
import inspect
import re
import shutil
import signal
import sys
import textwrap
from dataclasses import dataclass, field, replace
from functools import cache
from typing import TYPE_CHECKING, Any, NoReturn, Self

import typer
from typer.core import TyperCommand

from bmsota.adapters.files import packaged_dbc
from bmsota.bootloader import BootloaderTiming, BootloaderWire
from bmsota.cli.faults import say, stop
from bmsota.errors import TransferError
from bmsota.flashing import BootloaderProfile, FaultError, FlashFault, FlashingEngine
from bmsota.signals import loads

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping
    from types import FrameType

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from bmsota.adapters.canprobe import Heard
    from bmsota.adapters.canrecord import CanRecord, RecordingBus
    from bmsota.canframe import CanFrame
    from bmsota.flashing import EngineEvent, FlashingProfile

__all__ = [
    "LISTEN_S",
    "PATIENCE_S",
    "BusChoice",
    "CanCommand",
    "CanSession",
    "Interrupt",
    "bus_choice",
    "heard_sentence",
    "make_profile",
]

_META = "bmsota.can"
_HELP_COLUMN = 32

LISTEN_S = 0.6
"""How long the bus is listened to: longer than the slowest cyclic message of a pack at work."""

PATIENCE_S = 10.0
"""How long a node may be silent: longer than it needs to restart and to verify an image."""

# An adapter that gets no frame onto the bus gives up after half a second (`bmsota.adapters.slcan`).
_SETTLE_S = 0.7

PROFILES = ("bootloader", "uds")
"""The protocols of `--profile`."""


class _Parser(argparse.ArgumentParser):
    """python-can's options. Mistakes end the command as ours do."""

    def error(self, message: str) -> NoReturn:
        # argparse names the option first; of an interface that does not exist it lists thirty that do.
        is_interface = "-i/--interface" in message and "invalid choice" in message
        stop(FlashFault.UNKNOWN_ADAPTER if is_interface else FlashFault.BAD_OPTION, message)


def _parser() -> argparse.ArgumentParser:
    from can.cli import add_bus_arguments  # noqa: PLC0415 - python-can takes longer to import than --help to print

    parser = _Parser(add_help=False, allow_abbrev=False)
    add_bus_arguments(parser, group_title="bus")
    parser.add_argument("--can-context", metavar="NAME", help="Section of python-can's configuration file to use.")
    return parser


class CanCommand(TyperCommand):
    """A command with python-can's options beside its own."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Take the bus options out, leave the rest to typer."""
        if not ctx.resilient_parsing and not {"--help", "-h"} & set(args):
            # python-can's actions print what they have understood.
            with contextlib.redirect_stdout(sys.stderr):
                ctx.meta[_META], args = _parser().parse_known_args(args)
        return list(super().parse_args(ctx, args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The command's help, and behind it python-can's options."""
        # Typer keeps the line ends of every paragraph but the first, whatever the width of the screen.
        self.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(self.help or ""))
        super().format_help(ctx, formatter)
        width = shutil.get_terminal_size().columns
        typer.echo("CAN bus (python-can's options; what they leave open comes from can.conf and CAN_INTERFACE, ...):")
        for action in _parser()._actions:  # noqa: SLF001 - argparse has no other way to its options' texts
            flags = ", ".join(action.option_strings)
            values = "" if action.nargs == 0 else f" {action.metavar or 'NAME'}"
            help_text = " ".join((action.help or "").split()).removeprefix("R|")
            first = help_text.split(". ")[0].rstrip(".")
            head = f"  {flags}{values}".ljust(_HELP_COLUMN - 1)
            typer.echo(textwrap.fill(f"{head} {first}.", width, subsequent_indent=" " * _HELP_COLUMN))
        typer.echo()


@dataclass(frozen=True, slots=True)
class BusChoice:
    """Which bus, as far as python-can's options, files and environment say."""

    namespace: argparse.Namespace
    interface: str
    channel: str
    bitrate_bps: int | None
    data_bitrate_bps: int | None
    is_fd: bool

    def __str__(self) -> str:
        rate = " at the bit rate it had (no -b)" if self.bitrate_bps is None else f" at {self.bitrate_bps} bit/s"
        data = "" if self.data_bitrate_bps is None else f" / {self.data_bitrate_bps} bit/s"
        return f"{self.interface} {self.channel}{rate}{data}"


def bus_choice(ctx: typer.Context) -> BusChoice:
    """What the command line, the files and the environment choose.

    Raises:
        FaultError: NO_ADAPTER, UNKNOWN_ADAPTER or BAD_OPTION.
    """
    import can  # noqa: PLC0415 - see `_parser`

    can.set_logging_level("critical")  # What its back ends have to say about other back ends is not for our users.
    namespace: argparse.Namespace = ctx.meta[_META]
    given: dict[str, Any] = dict(vars(namespace))
    given.update(given.pop("bus_kwargs", {}))
    context = given.pop("can_context", None)
    try:
        if context is not None:
            _check_context(context)
        config: Mapping[str, Any] = can.util.load_config(config=given, context=context)
    except can.CanInterfaceNotImplementedError as error:
        named = "None" not in str(error)
        fault = FlashFault.UNKNOWN_ADAPTER if named else FlashFault.NO_ADAPTER
        detail = str(error) if named else "expected an adapter (-i and -c, can.conf or CAN_INTERFACE), got none"
        raise FaultError(fault, detail) from error
    except (ValueError, OSError, KeyError, TypeError, configparser.Error) as error:
        reason = " ".join(str(error).split())
        raise FaultError(
            FlashFault.BAD_OPTION, f"expected a usable can.conf, CAN_CONFIG and options of the bus, got: {reason}"
        ) from error
    timing = config.get("timing")
    bitrate = getattr(timing, "nom_bitrate", None) or getattr(timing, "bitrate", None) or config.get("bitrate")
    data_bitrate = getattr(timing, "data_bitrate", None) or config.get("data_bitrate")
    is_fd = bool(config.get("fd")) or data_bitrate is not None
    return BusChoice(
        namespace=namespace,
        interface=str(config["interface"]),
        channel=str(config.get("channel")),
        bitrate_bps=None if bitrate is None else _rate(bitrate, "bit rate"),
        data_bitrate_bps=_rate(data_bitrate or 2_000_000, "data bit rate") if is_fd else None,
        is_fd=is_fd,
    )


def _rate(value: Any, what: str) -> int:
    """Bits per second. What comes from a file or from the environment is text, and python-can passes on what is no number."""
    try:
        return int(value)
    except (ValueError, TypeError) as error:
        raise FaultError(
            FlashFault.BAD_OPTION, f"expected a {what} in bit/s, got {value!r} (-b, can.conf or CAN_BITRATE)"
        ) from error


def _check_context(name: str) -> None:
    """python-can takes the default section when there is none of this name: another bus than the one that was meant."""
    import can  # noqa: PLC0415 - see `_parser`

    if not can.util.load_environment_config(name) and not can.util.load_file_config(section=name):
        raise FaultError(
            FlashFault.BAD_OPTION,
            f"expected a section [{name}] in can.conf, or CAN_INTERFACE_{name}, got neither (--can-context)",
        )


def open_bus(choice: BusChoice, **more: Any) -> Any:
    """Open the chosen bus, with *more* arguments for its back end.

    Raises:
        FaultError: it cannot be opened; the fault says why.
    """
    from can.cli import create_bus_from_namespace  # noqa: PLC0415 - see `_parser`

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
    errno.EACCES: FlashFault.PORT_FORBIDDEN,
    errno.EPERM: FlashFault.PORT_FORBIDDEN,
    errno.EBUSY: FlashFault.PORT_BUSY,
    errno.EAGAIN: FlashFault.PORT_BUSY,
    errno.EAFNOSUPPORT: FlashFault.DRIVER_MISSING,
}


def _fault_of_opening(error: BaseException, choice: BusChoice) -> FaultError:
    """What a back end means by its exception. They raise whatever comes to them."""
    import can  # noqa: PLC0415 - see `_parser`

    from bmsota.adapters.slcan import AdapterRefusesError, AdapterSilentError  # noqa: PLC0415

    detail = f"{error} ({choice})"
    number = _errno_of(error)
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
    elif isinstance(error, ValueError) and not isinstance(error, can.CanError):
        fault = FlashFault.BAD_SETTING
    else:
        fault = FlashFault.ADAPTER_FAILS
    return FaultError(fault, detail)


def _errno_of(error: BaseException | None) -> int | None:
    """The first error number in the chain: back ends wrap the system's error once or twice."""
    for _ in range(8):
        if error is None:
            return None
        number = getattr(error, "errno", None)
        if isinstance(number, int):
            return number
        error = error.__cause__ or error.__context__
    return None


# ---- listening


def listen_before(choice: BusChoice, seconds: float) -> Heard | None:
    """Listen, before anything is said; None where the adapter cannot listen only.

    Raises:
        FaultError: the adapter cannot be opened, or hears errors and no frame.
    """
    import can  # noqa: PLC0415 - see `_parser`

    from bmsota.adapters.canprobe import listen, listen_only_arguments  # noqa: PLC0415

    arguments = listen_only_arguments(choice.interface)
    if arguments is None:
        return None
    bus = open_bus(choice, **arguments)
    try:
        heard = listen(bus, seconds)
    except can.CanError as error:
        raise FaultError(FlashFault.ADAPTER_FAILS, f"{error} ({choice})") from error
    finally:
        bus.shutdown()
    if heard.is_wrong:
        raise FaultError(FlashFault.WRONG_BITRATE, f"{heard_sentence(heard)} ({choice})")
    return heard


def heard_sentence(heard: Heard | None) -> str:
    """What listening has brought, in words."""
    if heard is None:
        return "not listened for"
    errors = f"{heard.errors} errors" if heard.errors else "errors" if heard.has_bus_errors else ""
    if heard.is_right:
        return f"{heard.frames} frames in {heard.seconds:.1f} s" + (f" and {errors}" if errors else "")
    if heard.is_wrong:
        return f"expected frames, got {errors} and no frame in {heard.seconds:.1f} s"
    return f"silent for {heard.seconds:.1f} s: nobody talks, so the bit rate could not be checked"


# ---- the session


class Interrupt:
    """Ctrl-C asks for an orderly end; a second one does not ask. A context manager."""

    def __init__(self) -> None:
        self.is_wanted = False
        self._is_asking = False
        self._before: Any = None

    def __enter__(self) -> Self:
        with contextlib.suppress(ValueError):  # Not in the main thread: then nobody can press Ctrl-C at us.
            self._before = signal.signal(signal.SIGINT, self._handle)
        return self

    def __exit__(self, *_error: object) -> None:
        if self._before is not None:
            signal.signal(signal.SIGINT, self._before)

    @contextlib.contextmanager
    def asking(self) -> Iterator[None]:
        """Inside, the user is being asked, and the first Ctrl-C is an answer: it raises `KeyboardInterrupt`."""
        self._is_asking = True
        try:
            yield
        finally:
            self._is_asking = False

    def _handle(self, number: int, frame: FrameType | None) -> None:  # noqa: ARG002 - what the system hands over
        if self.is_wanted or self._is_asking:
            raise KeyboardInterrupt
        self.is_wanted = True


class _OneOperation:
    """An engine that is finished when it is idle, for `drive`; it is cancelled when the user says so."""

    def __init__(self, engine: FlashingEngine, interrupt: Interrupt) -> None:
        self._engine = engine
        self._interrupt = interrupt

    @property
    def finished(self) -> bool:
        return self._engine.is_idle

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        self._engine.receive_frame(frame, now_ns)

    def next_event(self) -> EngineEvent | None:
        return self._engine.next_event()

    def next_timeout(self) -> int | None:
        return self._engine.next_timeout()

    def handle_timeout(self, now_ns: int) -> None:
        self._engine.handle_timeout(now_ns)

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        if self._interrupt.is_wanted:
            self._engine.cancel()
        return self._engine.frames_to_send(now_ns)


@dataclass(slots=True)
class CanSession:
    """An open bus with what is known of it. A context manager."""

    choice: BusChoice
    bus: RecordingBus
    clock: Callable[[], int]
    heard: Heard | None
    has_listened: bool
    _inner: Any = field(repr=False)

    @classmethod
    def open(cls, choice: BusChoice, *, listen_s: float, make_record: Callable[[], CanRecord | None]) -> CanSession:
        """Listen (if *listen_s* is not 0), then open the bus; then *make_record*.

        Raises:
            FaultError: the bus cannot be used.
        """
        from bmsota.adapters.canrecord import RecordingBus  # noqa: PLC0415 - brings python-can
        from bmsota.adapters.clock import steady_clock  # noqa: PLC0415

        if choice.interface == "slcan":
            say("slcan: python-can's own back end may lose frames of a busy bus; -i bmsota_slcan does not")
        heard = listen_before(choice, listen_s) if listen_s else None
        if listen_s:
            say(f"bus: {choice}: {heard_sentence(heard) if heard else 'this adapter cannot listen only: not checked'}")
        inner = open_bus(choice)
        try:
            clock = steady_clock()
            record = make_record()
            return cls(
                choice,
                RecordingBus(inner, clock, record, channel=choice.channel),
                clock,
                heard,
                bool(listen_s and heard),
                inner,
            )
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
        """Run the engine's operation to its end.

        Raises:
            TransferError: the adapter fails.
        """
        from bmsota.adapters.pythoncan import drive  # noqa: PLC0415 - brings python-can

        events: Iterator[EngineEvent] = drive(_OneOperation(engine, interrupt), self.bus, self.clock)
        yield from events

    def nobody(self) -> tuple[FlashFault, str]:
        """Which fault it is that no node has answered. Waits a moment for what the adapter has to say to our question."""
        import can  # noqa: PLC0415 - see `_parser`

        from bmsota.adapters.slcan import FrameRefusedError  # noqa: PLC0415

        end_ns = self.clock() + int(_SETTLE_S * 1e9)
        try:
            while (left_ns := end_ns - self.clock()) > 0:
                self.bus.recv(left_ns / 1e9)
        except FrameRefusedError as error:
            return FlashFault.BUS_NOT_WORKING, f"{error} ({self.choice})"
        except can.CanError as error:
            return FlashFault.ADAPTER_FAILS, f"{error} ({self.choice})"
        detail = f"expected a node to answer, got none ({self.choice})"
        heard = self.heard
        # What was heard beside our own question tells as much as what was heard before it.
        if (heard is not None and heard.is_right) or self.bus.received:
            frames = self.bus.received + (heard.frames if heard is not None else 0)
            return FlashFault.NO_NODE_BUSY_BUS, f"{detail}; the bus carries other frames, {frames} heard"
        if heard is not None:
            return FlashFault.NO_NODE_SILENT_BUS, f"{detail}; the bus is silent"
        return FlashFault.NO_NODE, detail


def fault_of_transfer(error: TransferError, *, was_changed: bool) -> FaultError:
    """What the adapter's failure means: before anything was written, or in the middle."""
    from bmsota.adapters.slcan import FrameRefusedError  # noqa: PLC0415 - brings python-can

    if was_changed:
        return FaultError(FlashFault.ADAPTER_LOST, str(error))
    refused = isinstance(error.__cause__, FrameRefusedError)
    return FaultError(FlashFault.BUS_NOT_WORKING if refused else FlashFault.ADAPTER_FAILS, str(error))


@cache
def _wire(dbc: str) -> BootloaderWire:
    """The codec of a shipped DBC: a second's work, so once a process."""
    return BootloaderWire(loads(packaged_dbc(dbc)))


def make_profile(
    name: str,
    ids: int,
    choice: BusChoice,
    *,
    patience_s: float = PATIENCE_S,
    access_key: str | None = None,
    may_broadcast: bool = True,
    may_compress: bool = True,
) -> FlashingProfile:
    """The protocol to speak, with *patience_s* for a node that is silent and *access_key* (a PEM file) for one that is locked.

    Raises:
        FaultError: BAD_OPTION, or what is wrong with the key file.
    """
    if ids not in {11, 29}:
        raise FaultError(FlashFault.BAD_OPTION, f"expected 11 or 29, got {ids} (--ids)")
    if name not in PROFILES:
        raise FaultError(FlashFault.BAD_OPTION, f"expected one of {', '.join(PROFILES)}, got {name!r} (--profile)")
    key = None if access_key is None else _access_key(access_key)
    if name == "uds":
        return _uds_profile(ids, choice, patience_s=patience_s, key=key)
    timing = BootloaderTiming()
    return BootloaderProfile(
        _wire("bms_bootloader" + "_fd" * choice.is_fd + "_29bit" * (ids == 29)),
        timing=replace(timing, discover_tries=_tries(patience_s, timing.discover_timeout_ns)),
        access_key=None if key is None else key.sign,
        broadcast=may_broadcast,
        compress=may_compress,
    )


def _uds_profile(ids: int, choice: BusChoice, *, patience_s: float, key: Ed25519PrivateKey | None) -> FlashingProfile:
    from bmsota.flashing import UdsProfile  # noqa: PLC0415 - with can-isotp and udsoncan behind it
    from bmsota.uds import UDS_11BIT, UDS_29BIT, IsoTpParameters, UdsTiming, ed25519_access_key  # noqa: PLC0415

    timing = UdsTiming()
    return UdsProfile(
        UDS_29BIT if ids == 29 else UDS_11BIT,
        access_key=None if key is None else ed25519_access_key(key),
        timing=replace(timing, discover_tries=_tries(patience_s, timing.discover_timeout_ns)),
        transport=IsoTpParameters(frame_bytes=64) if choice.is_fd else None,
    )


def _tries(patience_s: float, timeout_ns: int) -> int:
    return max(1, round(patience_s * 1e9 / timeout_ns))


def _access_key(path: str) -> Ed25519PrivateKey:
    from bmsota.adapters.releases import load_access_key  # noqa: PLC0415 - reads files

    return load_access_key(path)
