"""Which bus and which protocol a command uses: python-can's own options, files and environment, and ours.

The options are those of `can.cli.add_bus_arguments`, parsed by argparse as in python-can's own programs, and taken out of the command
line before typer sees it: `-i -c -b --fd --data-bitrate --timing --bus-kwargs`. What they leave open, python-can fills in
from its files and its environment variables.
"""

from __future__ import annotations

import argparse
import configparser
import contextlib
import inspect
import re
import sys
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Annotated, Any, NoReturn

import typer
from typer.core import TyperCommand

from bmsota.adapters.files import packaged_database
from bmsota.bootloader import BootloaderTiming, BootloaderWire
from bmsota.can_timing import ceiling_bytes_per_s
from bmsota.cli.fault_table import FaultError, FlashFault
from bmsota.cli.faults import stop
from bmsota.flashing import BootloaderProfile

if TYPE_CHECKING:
    from collections.abc import Mapping

    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

    from bmsota.flashing import FlashingProfile

__all__ = ["BusChoice", "BusOptions", "CanCommand", "bus_choice", "make_profile", "wire_ceiling"]

_META = "bmsota.can"

# Longer than the slowest cyclic message of a pack in operation.
_LISTEN_S = 0.6

# Longer than a node needs to restart and to verify an image.
_TIMEOUT_S = 10.0

PROFILES = ("bootloader", "uds")
"""The protocols of `--profile`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class BusOptions:
    """What every command that exchanges frames with nodes has beside python-can's options."""

    profile: Annotated[
        str, typer.Option("--profile", metavar="bootloader|uds", help="Choose the flashing protocol.")
    ] = "bootloader"
    ids: Annotated[
        int, typer.Option("--ids", metavar="11|29", help="Choose the length of CAN identifiers, in bits.")
    ] = 11
    no_listen: Annotated[bool, typer.Option("--no-listen", help="Skip the listen-only bus check before sending.")] = (
        False
    )
    listen_s: Annotated[
        float,
        typer.Option(
            "--listen",
            min=0.01,
            max=60.0,
            metavar="SECONDS",
            help="Listen this long before sending; --no-listen skips it.",
        ),
    ] = _LISTEN_S
    timeout_s: Annotated[
        float,
        typer.Option(
            "--timeout", min=0.1, metavar="SECONDS", help="Give up on a node after this long without an answer."
        ),
    ] = _TIMEOUT_S


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
            # python-can's actions print what they have parsed.
            with contextlib.redirect_stdout(sys.stderr):
                ctx.meta[_META], args = _parser().parse_known_args(args)
        return list(super().parse_args(ctx, args))

    def format_help(self, ctx: Any, formatter: Any) -> None:
        """The command's help, and behind it python-can's options."""
        # Typer keeps the line ends of every paragraph but the first, whatever the width of the screen.
        self.help = re.sub(r"(?<!\n)\n(?!\n)", " ", inspect.cleandoc(self.help or ""))
        super().format_help(ctx, formatter)
        with formatter.section("CAN bus (python-can; defaults from can.conf and CAN_INTERFACE, ...)"):
            formatter.write_dl([_option_help(action) for action in _parser()._actions])  # noqa: SLF001 - argparse has no other way


def _option_help(action: argparse.Action) -> tuple[str, str]:
    """An option of argparse as click shows one: its names and values, and the first sentence of its help."""
    values = "" if action.nargs == 0 else f" {action.metavar or 'NAME'}"
    text = " ".join((action.help or "").split()).removeprefix("R|")
    return ", ".join(action.option_strings) + values, text.split(". ")[0].rstrip(".") + "."


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
        rate = " at its configured bit rate (no -b)" if self.bitrate_bps is None else f" at {self.bitrate_bps} bit/s"
        data = "" if self.data_bitrate_bps is None else f" / {self.data_bitrate_bps} bit/s"
        return f"{self.interface} {self.channel}{rate}{data}"


def wire_ceiling(choice: BusChoice, ids: int) -> float | None:
    """What the wire can carry, bytes/s; None without a bit rate."""
    if not choice.bitrate_bps:
        return None
    return ceiling_bytes_per_s(choice.bitrate_bps, extended=ids == 29, data_bitrate_bps=choice.data_bitrate_bps)


def bus_choice(ctx: typer.Context) -> BusChoice:
    """The bus that command line, files and environment select.

    Raises:
        FaultError: NO_ADAPTER, UNKNOWN_ADAPTER or BAD_OPTION.
    """
    import can  # noqa: PLC0415 - see `_parser`

    can.set_logging_level("critical")  # Its back ends complain about each other.
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
        existing = ", ".join(sorted(can.VALID_INTERFACES))
        detail = (
            f"{error} (choose from {existing})" if named else "pass -i and -c, or set them in can.conf or CAN_INTERFACE"
        )
        raise FaultError(fault, detail) from error
    except (ValueError, OSError, KeyError, TypeError, configparser.Error) as error:
        reason = " ".join(str(error).split())
        raise FaultError(FlashFault.BAD_OPTION, f"can.conf, CAN_CONFIG or bus options: {reason}") from error
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
    """Bits per second. Files and the environment hold text, and python-can passes on what is not a number."""
    try:
        return int(value)
    except (ValueError, TypeError) as error:
        raise FaultError(
            FlashFault.BAD_OPTION, f"expected a {what} in bit/s, got {value!r} (-b, can.conf or CAN_BITRATE)"
        ) from error


def _check_context(name: str) -> None:
    """Without a section of this name python-can would take the default one: another bus than intended."""
    import can  # noqa: PLC0415 - see `_parser`

    if not can.util.load_environment_config(name) and not can.util.load_file_config(section=name):
        raise FaultError(
            FlashFault.BAD_OPTION,
            f"--can-context: no section [{name}] in can.conf, and no CAN_INTERFACE_{name}",
        )


@cache
def _wire(dbc: str) -> BootloaderWire:
    """The codec of a shipped DBC. It takes a second to build, so once a process."""
    return BootloaderWire(packaged_database(dbc))


def make_profile(
    options: BusOptions,
    choice: BusChoice,
    *,
    access_key: str | None = None,
    broadcast: bool = True,
    compress: bool = True,
    holds_nodes: bool = False,
) -> FlashingProfile:
    """The protocol to use, with *access_key* (a PEM file) for locked nodes.

    With *holds_nodes* a discovery keeps nodes that are in their boot window.

    Raises:
        FaultError: BAD_OPTION.
        SourceError: what is wrong with the key file.
    """
    if options.ids not in {11, 29}:
        raise FaultError(FlashFault.BAD_OPTION, f"--ids: expected 11 or 29, got {options.ids}")
    if options.profile not in PROFILES:
        raise FaultError(
            FlashFault.BAD_OPTION, f"--profile: expected one of {', '.join(PROFILES)}, got {options.profile!r}"
        )
    key = None if access_key is None else _access_key(access_key)
    if options.profile == "uds":
        return _uds_profile(options, choice, key, holds_nodes=holds_nodes)
    timing = BootloaderTiming()
    return BootloaderProfile(
        _wire("bms_bootloader" + "_fd" * choice.is_fd + "_29bit" * (options.ids == 29)),
        timing=replace(timing, discover_tries=_tries(options, timing.discover_timeout_ns)),
        access_key=None if key is None else key.sign,
        broadcast=broadcast,
        compress=compress,
        holds_nodes=holds_nodes,
    )


def _uds_profile(
    options: BusOptions, choice: BusChoice, key: Ed25519PrivateKey | None, *, holds_nodes: bool
) -> FlashingProfile:
    from bmsota.flashing import UdsProfile  # noqa: PLC0415 - with can-isotp and udsoncan behind it
    from bmsota.uds import UDS_11BIT, UDS_29BIT, IsoTpParameters, UdsTiming, ed25519_access_key  # noqa: PLC0415

    timing = UdsTiming()
    return UdsProfile(
        UDS_29BIT if options.ids == 29 else UDS_11BIT,
        access_key=None if key is None else ed25519_access_key(key),
        timing=replace(timing, discover_tries=_tries(options, timing.discover_timeout_ns)),
        transport=IsoTpParameters(frame_bytes=64) if choice.is_fd else None,
        holds_nodes=holds_nodes,
    )


def _tries(options: BusOptions, timeout_ns: int) -> int:
    return max(1, round(options.timeout_s * 1e9 / timeout_ns))


def _access_key(path: str) -> Ed25519PrivateKey:
    from bmsota.adapters.releases import load_access_key  # noqa: PLC0415 - reads files

    return load_access_key(path)
