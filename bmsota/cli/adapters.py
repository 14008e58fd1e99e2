"""`bmsota adapters`: the CAN adapters of this computer, how to select each, and the bit rate of a bus. Sends nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from bmsota.cli.bus_options import BusChoice, bus_choice
from bmsota.cli.can_session import Interrupt, heard_sentence, open_bus
from bmsota.cli.fault_table import ExitCode, FaultError, FlashFault
from bmsota.cli.faults import end_with_output, say, say_fault, stop, stopping_at_faults
from bmsota.cli.flash_output import columns
from bmsota.cli.options import takes
from bmsota.cli.selection import AsJson
from bmsota.cli.terminal import tell, unfailing_output

if TYPE_CHECKING:
    from bmsota.adapters.canprobe import Adapter, Heard

__all__ = ["command"]

SLCAN = "bmsota_slcan"

# Per bit rate: with nine of them, less than ten seconds in all.
_LISTEN_S = 1.0


@dataclass(frozen=True, slots=True)
class _Probed:
    """An adapter with what it answered."""

    adapter: Adapter
    version: str | None
    problem: str | None


@dataclass(frozen=True, slots=True, kw_only=True)
class AdaptersOptions:
    """The options of `bmsota adapters`."""

    port: Annotated[
        list[str] | None,
        typer.Option(
            "--port",
            metavar="PORT",
            help="Add a serial port that is not listed, such as a pseudo terminal. May be repeated.",
        ),
    ] = None
    probe: Annotated[
        bool, typer.Option("--probe", help="Open each serial port, listen-only, and query the adapter's version.")
    ] = False
    check_bitrate: Annotated[
        bool, typer.Option("--check-bitrate", help="Find the bit rate of the bus selected by -i and -c.")
    ] = False
    listen_s: Annotated[
        float,
        typer.Option("--listen", min=0.01, max=60.0, metavar="SECONDS", help="Listen this long at each bit rate."),
    ] = _LISTEN_S
    as_json: AsJson = False


@takes(AdaptersOptions)
def command(ctx: typer.Context, options: AdaptersOptions) -> None:
    """List the CAN adapters of this computer with the options that select each, or find the bit rate of a bus.

    Nothing is sent: buses are opened listen-only.

    Exit code: 0 success; 1 no adapter, or no bit rate with traffic; 2 usage error; 4 the adapter cannot be used.
    """
    unfailing_output()
    with Interrupt() as interrupt:
        try:
            with stopping_at_faults():
                exit_code = _check_bitrate(ctx, options) if options.check_bitrate else _list(options)
        except KeyboardInterrupt:
            stop(FlashFault.INTERRUPTED, interrupt.reason)
    end_with_output(exit_code)


def _list(options: AdaptersOptions) -> ExitCode:
    import can  # noqa: PLC0415 - takes longer to import than --help to print

    from bmsota.adapters.canprobe import python_can_adapters, serial_adapters, usb_adapters  # noqa: PLC0415

    can.set_logging_level("critical")
    found = [*serial_adapters(options.port or ()), *usb_adapters(), *python_can_adapters()]
    probed = [_probe(adapter) if options.probe else _Probed(adapter, None, None) for adapter in found]
    if options.as_json:
        rows = [
            {
                **asdict(each.adapter),
                "arguments": _row(each)[0],
                "version": each.version,
                "problem": each.problem,
            }
            for each in probed
        ]
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        for line in columns([_row(each) for each in probed]) if probed else []:
            tell(line)
    if not found:
        say_fault(
            FlashFault.NO_SUCH_PORT,
            "no CAN adapter found",
            advice="Plug in the adapter and run it again; `--port PORT` adds a serial port that is not found.",
        )
        say("  without hardware: `bmsota-sim bench` provides a virtual one")
        return ExitCode.FAILED
    return ExitCode.DONE


def _row(probed: _Probed) -> tuple[str, ...]:
    adapter = probed.adapter
    notes = [adapter.name]
    if probed.version is not None:
        notes.append(f"answers: {probed.version or 'no version'}")
    elif probed.problem is not None:
        notes.append(f"does not answer: {probed.problem}")
    elif adapter.note:
        hint = " (--probe checks it)" if adapter.interface == SLCAN else ""
        notes.append(f"{adapter.note}{hint}")
    return f"-i {adapter.interface} -c {adapter.channel}", "; ".join(text for text in notes if text)


def _probe(adapter: Adapter) -> _Probed:
    import can  # noqa: PLC0415 - see `_list`

    from bmsota.adapters.canprobe import probe_slcan  # noqa: PLC0415

    if adapter.interface != SLCAN:
        return _Probed(adapter, None, None)
    try:
        return _Probed(adapter, probe_slcan(adapter.channel), None)
    except (can.CanError, OSError) as error:
        return _Probed(adapter, None, str(error))


def _check_bitrate(ctx: typer.Context, options: AdaptersOptions) -> ExitCode:
    from bmsota.adapters.canprobe import USUAL_BITRATES, listen, listen_only_arguments  # noqa: PLC0415

    choice = bus_choice(ctx)
    arguments = listen_only_arguments(choice.interface)
    if not arguments:
        raise FaultError(
            FlashFault.BAD_OPTION,
            f"--check-bitrate: the bit rate of {choice.interface} cannot be set, or not listen-only",
        )
    heard: dict[int, Heard] = {}
    for bitrate in USUAL_BITRATES:
        try:
            bus = open_bus(choice, **{**arguments, "bitrate": bitrate})
        except FaultError as error:
            if error.fault is FlashFault.ADAPTER_REFUSES or error.fault is FlashFault.BAD_SETTING:
                say(f"{bitrate} bit/s: not supported by this adapter")
                continue
            raise
        try:
            heard[bitrate] = listen(bus, options.listen_s)
        finally:
            bus.shutdown()
        if not options.as_json:
            typer.echo(f"{bitrate:>9} bit/s: {heard_sentence(heard[bitrate])}")
        if heard[bitrate].is_right:
            break
    return _verdict(choice, heard, as_json=options.as_json)


def _verdict(choice: BusChoice, heard: dict[int, Heard], *, as_json: bool) -> ExitCode:
    right = next((bitrate for bitrate, each in heard.items() if each.is_right), None)
    if as_json:
        typer.echo(
            json.dumps({"bitrate_bps": right, "heard": {str(rate): asdict(each) for rate, each in heard.items()}})
        )
    if right is not None:
        if not as_json:
            typer.echo(f"the bus has {right} bit/s: -i {choice.interface} -c {choice.channel} -b {right}")
        return ExitCode.DONE
    if any(each.is_wrong for each in heard.values()):
        say_fault(FlashFault.WRONG_BITRATE, f"errors and no frame at every usual bit rate ({choice.channel})")
        return ExitCode.BUS_UNUSABLE
    say(
        f"bmsota: the bus is silent at every usual bit rate, so its rate cannot be found ({choice.channel})",
        style="red",
    )
    say("  next: Wake the pack, or check the wiring and the termination.")
    return ExitCode.FAILED
