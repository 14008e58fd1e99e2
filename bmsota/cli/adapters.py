"""`bmsota adapters`: which CAN adapters there are, how to choose them, and which bit rate a bus has. Sends nothing."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from bmsota.cli.canbus import BusChoice, bus_choice, heard_sentence, open_bus
from bmsota.cli.faults import say, say_fault, stop, stop_with
from bmsota.cli.flashtext import columns
from bmsota.cli.screen import forgiving_output
from bmsota.flashing import ExitCode, FaultError, FlashFault

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota.adapters.canprobe import Adapter, Heard

__all__ = ["command"]

# Per bit rate: with nine of them, less than ten seconds in all.
_LISTEN_S = 1.0


@dataclass(frozen=True, slots=True)
class _Probed:
    """An adapter with what asking it has brought."""

    adapter: Adapter
    version: str | None
    problem: str | None


def command(
    ctx: typer.Context,
    port: Annotated[
        list[str] | None,
        typer.Option(
            "--port", metavar="PORT", help="A serial port no list has, such as a pseudo terminal. May be repeated."
        ),
    ] = None,
    probe: Annotated[
        bool, typer.Option("--probe", help="Open each serial port, listen-only, and ask the adapter for its version.")
    ] = False,
    check_bitrate: Annotated[
        bool, typer.Option("--check-bitrate", help="Listen at each usual bit rate to the bus chosen by -i and -c.")
    ] = False,
    listen_s: Annotated[
        float,
        typer.Option("--listen", min=0.01, max=60.0, metavar="SECONDS", help="How long to listen at each bit rate."),
    ] = _LISTEN_S,
    as_json: Annotated[bool, typer.Option("--json", help="As JSON, for tools.")] = False,
) -> None:
    """List the CAN adapters of this machine with the options that choose each, or find the bit rate of a bus.

    Nothing is sent: buses are opened listen-only.

    Exit code: 0 found; 1 no adapter, or no bit rate at which the bus talks; 2 called wrongly; 4 the adapter cannot be used.
    """
    forgiving_output()
    try:
        exit_code = (
            _check_bitrate(ctx, listen_s, as_json=as_json) if check_bitrate else _list(port or (), probe, as_json)
        )
    except FaultError as error:
        stop_with(error)
    except KeyboardInterrupt:
        stop(FlashFault.INTERRUPTED, "stopped by Ctrl-C")
    if exit_code is not ExitCode.DONE:
        raise typer.Exit(int(exit_code))


def _list(ports: Sequence[str], probe: bool, as_json: bool) -> ExitCode:
    import can  # noqa: PLC0415 - takes longer to import than --help to print

    from bmsota.adapters.canprobe import python_can_adapters, serial_adapters, usb_adapters  # noqa: PLC0415

    can.set_logging_level("critical")
    found = [*serial_adapters(ports), *usb_adapters(), *python_can_adapters()]
    probed = [_probe(adapter) if probe else _Probed(adapter, None, None) for adapter in found]
    if as_json:
        rows = [
            {
                **asdict(each.adapter),
                "arguments": each.adapter.arguments,
                "version": each.version,
                "problem": each.problem,
            }
            for each in probed
        ]
        typer.echo(json.dumps(rows, indent=1, ensure_ascii=False))
    else:
        for line in columns([_row(each) for each in probed]) if probed else []:
            typer.echo(line)
    if not found:
        say_fault(FlashFault.NO_SUCH_PORT, "expected a CAN adapter, got none")
        say("  without hardware: `bmsota-sim bench` makes a virtual one")
        return ExitCode.FAILED
    return ExitCode.DONE


def _row(probed: _Probed) -> tuple[str, ...]:
    adapter = probed.adapter
    said = [adapter.name, adapter.note if probed.version is None and probed.problem is None else ""]
    if probed.version is not None:
        said.append(f"answers: {probed.version or 'without a version'}")
    if probed.problem is not None:
        said.append(f"does not answer: {probed.problem}")
    return adapter.arguments, "; ".join(text for text in said if text)


def _probe(adapter: Adapter) -> _Probed:
    import can  # noqa: PLC0415 - see `_list`

    from bmsota.adapters.canprobe import probe_slcan  # noqa: PLC0415

    if adapter.interface != "bmsota_slcan":
        return _Probed(adapter, None, None)
    try:
        return _Probed(adapter, probe_slcan(adapter.channel), None)
    except (can.CanError, OSError) as error:
        return _Probed(adapter, None, str(error))


def _check_bitrate(ctx: typer.Context, seconds: float, *, as_json: bool) -> ExitCode:
    from bmsota.adapters.canprobe import USUAL_BITRATES, listen, listen_only_arguments  # noqa: PLC0415

    choice = bus_choice(ctx)
    arguments = listen_only_arguments(choice.interface)
    if not arguments:
        raise FaultError(
            FlashFault.BAD_OPTION,
            f"expected an adapter whose bit rate is chosen when it is opened listen-only, got {choice.interface}",
        )
    heard: dict[int, Heard] = {}
    for bitrate in USUAL_BITRATES:
        try:
            bus = open_bus(choice, **{**arguments, "bitrate": bitrate})
        except FaultError as error:
            if error.fault is FlashFault.ADAPTER_REFUSES or error.fault is FlashFault.BAD_SETTING:
                say(f"{bitrate} bit/s: this adapter cannot do it")
                continue
            raise
        try:
            heard[bitrate] = listen(bus, seconds)
        finally:
            bus.shutdown()
        if not as_json:
            typer.echo(f"{bitrate:>9} bit/s: {heard_sentence(heard[bitrate])}")
        if heard[bitrate].is_right:
            break
    return _verdict(choice, heard, as_json=as_json)


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
        say_fault(FlashFault.WRONG_BITRATE, f"heard errors and no frame at every usual bit rate ({choice.channel})")
        return ExitCode.BUS_UNUSABLE
    say(
        f"the bus is silent at every usual bit rate: nobody talks, so its rate cannot be told ({choice.channel})",
        style="red",
    )
    say("  next: Wake the pack up, or check the wiring and the termination.")
    return ExitCode.FAILED
