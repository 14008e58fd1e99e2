"""The commands of `bmsota-sim`: the demo, the virtual bench, the samples. `_exit_codes` says how they end."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import sys
from math import isfinite
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any

import typer
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from bmsota import __version__
from bmsota._extras import needs_extra
from bmsota.cli.lazy import LazyGroup
from bmsota.errors import BmsotaError, ConfigurationError, MissingExtraError
from bmsota.image import load_public_key
from bmsota_sim._exit_codes import FAILED, INTERRUPTED, NOT_AS_PLANNED, WRONG_USAGE
from bmsota_sim._signals import ending_signals, is_held
from bmsota_sim.bench import BenchOptions, BenchProtocol, BenchTopology
from bmsota_sim.bench._console import run_bench, send_command
from bmsota_sim.devices.flash import ERASE_NS, PROGRAM_NS
from bmsota_sim.links.canbus import BusFaults
from bmsota_sim.samples import sample_file, sample_names

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota.image import PublicKey
    from bmsota_sim.demo import KeptDemo
    from bmsota_sim.fleet import Fleet
    from bmsota_sim.operator import UpgradeRow
    from bmsota_sim.outcome import CampaignOutcome
    from bmsota_sim.scenario import Scenario


DEFAULT_SEED = 1


def _add_plan_commands(part: typer.Typer) -> None:
    with needs_extra("the simulator", "sim"):
        from bmsota_sim.run import commands_plan  # noqa: PLC0415 - see `LazyGroup`
    commands_plan.register(part)


def _add_run_command(part: typer.Typer) -> None:
    with needs_extra("the simulator", "sim"):
        from bmsota_sim.run import commands_run  # noqa: PLC0415 - see `LazyGroup`
    commands_run.register(part)


def _add_replay_command(part: typer.Typer) -> None:
    with needs_extra("the simulator", "sim"):
        from bmsota_sim.run import commands_replay  # noqa: PLC0415 - see `LazyGroup`
    commands_replay.register(part)


def _add_ctl_command(part: typer.Typer) -> None:
    with needs_extra("the simulator", "sim"):
        from bmsota_sim.run import commands_ctl  # noqa: PLC0415 - see `LazyGroup`
    commands_ctl.register(part)


def _add_merge_command(part: typer.Typer) -> None:
    with needs_extra("the simulator", "sim"):
        from bmsota_sim.run import commands_merge  # noqa: PLC0415 - see `LazyGroup`
    commands_merge.register(part)


class _Group(LazyGroup):
    later = {  # noqa: RUF012 - of the class, as `LazyGroup` says
        "check": _add_plan_commands,
        "vehicles": _add_plan_commands,
        "schema": _add_plan_commands,
        "run": _add_run_command,
        "replay": _add_replay_command,
        "merge": _add_merge_command,
        "ctl": _add_ctl_command,
    }


app = typer.Typer(
    cls=_Group,
    name="bmsota-sim",
    help="Fleets of virtual BMS units that exercise a cloud, and a virtual CAN bench. Exit codes: 0 as planned, 1 failed, "
    "2 usage error, 3 a vehicle did not end as the scenario says.",
    rich_markup_mode=None,  # Its boxes cut options and texts on 80 columns.
    pretty_exceptions_enable=False,
    add_completion=False,
)
# What a wrong call raises. It is click's class, or that of the copy of click inside typer.
_USAGE_ERROR: type[Exception] = next(base for base in typer.BadParameter.__mro__ if base.__name__ == "UsageError")
_STYLES = {
    "Upgrade succeeded": "green",
    "Rolled back": "yellow",
    "Upgrade failed": "red",
    "Rejected": "red",
    "Timed out": "red",
    "Cancelled": "red",
    "Download Complete": "cyan",
    "Downloading": "blue",
}


def _chance(what: str) -> Any:
    """The option of one of the bus's faults."""
    return typer.Option(metavar="CHANCE", help=f"Chance per frame, 0 to 1, that {what}.")


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"bmsota-sim {__version__}")
        raise typer.Exit


@app.callback(invoke_without_command=True)
def bmsota_sim(
    context: typer.Context,
    version: Annotated[  # noqa: ARG001 - its callback has done it
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Fleets of virtual BMS units."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())
        raise typer.Exit(WRONG_USAGE)


@app.command()
def demo(
    seed: Annotated[int, typer.Option(min=0, help="Seed of the run; the same seed replays it.")] = DEFAULT_SEED,
    virtual: Annotated[
        bool, typer.Option("--virtual", help="Run in virtual time, in seconds and without sockets.")
    ] = False,
    keep: Annotated[
        bool, typer.Option("--keep", help="Keep everything running at the end; print the URLs and a login.")
    ] = False,
    scenario: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Run this scenario file; it must have a campaign.")
    ] = None,
    data: Annotated[
        Path | None,
        typer.Option(file_okay=False, help="Write databases and mails to this new folder (default: a temporary one)."),
    ] = None,
) -> None:
    r"""Run a whole campaign: an embedded cloud, a fleet and an OTA task, until every vehicle has reached its planned end.

    Needs the extra 'cloud' too: pip install 'bmsota\[sim,cloud]'.
    """
    if keep and virtual:
        raise typer.BadParameter("--keep and --virtual exclude each other: a virtual run ends by itself")
    if data is not None and virtual:
        raise typer.BadParameter("--data and --virtual exclude each other: a virtual run writes no files")
    if data is not None and data.exists() and any(data.iterdir()):
        raise typer.BadParameter(f"{data} is not empty: give a new folder", param_hint="--data")
    with needs_extra("the simulator", "sim"):
        from bmsota_sim.scenario import packaged_scenario, parse_scenario  # noqa: PLC0415 - a second, for this command alone

    name = "demo" if scenario is None else scenario.name
    text = packaged_scenario("demo") if scenario is None else _read_text(scenario)
    plan = parse_scenario(text, name=name)
    try:
        # The cloud is needed by this command alone; a fleet against another platform does without.
        from bmsota_sim.demo import run_real, run_virtual_demo  # noqa: PLC0415
    except MissingExtraError as error:
        _complain(str(error))
        raise typer.Exit(WRONG_USAGE) from error

    console = _Console()
    console.rule(f"bmsota demo: {plan.name}, seed {seed}")
    console.print(f"[dim]{escape(plan.description)}[/]")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    show = _Show(console, plan, scenario)
    with show:
        if virtual:
            result = run_virtual_demo(plan, seed, show.watcher)
        else:
            result = run_real(plan, seed, show.watcher, data_dir=data, keep=show.keep if keep else None)
    if not keep:
        _print_result(console, plan, result, scenario)
    if not result.ok:
        raise typer.Exit(NOT_AS_PLANNED)


@app.command()
def bench(
    series: Annotated[
        str, typer.Option(help="Set hardware classes, factory images and number of slaves: F7 or E7.")
    ] = "F7",
    slaves: Annotated[
        int | None, typer.Option(help="Set the number of slaves, 1 to 16; by default that of the series.")
    ] = None,
    topology: Annotated[
        BenchTopology,
        typer.Option(help="Put the adapters on the internal bus, or on a diagnostic bus with the master as gateway."),
    ] = BenchTopology.DIRECT,
    adapters: Annotated[int, typer.Option(help="Number of virtual adapters to open.")] = 1,
    channel: Annotated[
        str,
        typer.Option(help="Open pseudo terminals (pty), or python-can's INTERFACE:CHANNEL, such as socketcan:vcan0."),
    ] = "pty",
    bitrate: Annotated[int, typer.Option("--bitrate", "-b", help="Set the bit rate, in bit/s.")] = 500_000,
    data_bitrate: Annotated[int | None, typer.Option(help="Use CAN FD with this data bit rate.")] = None,
    ids: Annotated[int, typer.Option(metavar="11|29", help="Use CAN identifiers of this many bits for flashing.")] = 11,
    protocol: Annotated[
        BenchProtocol, typer.Option(help="Set the protocol that flashes the nodes.")
    ] = BenchProtocol.BOOTLOADER,
    traffic: Annotated[bool, typer.Option(help="Let the slaves send their measurements.")] = True,
    loss: Annotated[float, _chance("a receiver misses it")] = 0.0,
    duplication: Annotated[float, _chance("a receiver gets it twice")] = 0.0,
    reordering: Annotated[float, _chance("a receiver gets it after the next one")] = 0.0,
    delay: Annotated[float, _chance("a receiver gets it up to 5 ms late")] = 0.0,
    corruption: Annotated[float, _chance("a receiver gets one wrong byte")] = 0.0,
    bus_off: Annotated[float, _chance("an adapter goes bus-off for 200 ms")] = 0.0,
    echo: Annotated[bool, typer.Option("--echo", help="Echo the host's own frames.")] = False,
    turnaround_ms: Annotated[float, typer.Option(help="Delay every frame from the bus to the host.")] = 0.0,
    boot_window_ms: Annotated[
        float, typer.Option(help="Let every node listen this long after a restart before its application starts.")
    ] = 0.0,
    flash_erase_ms: Annotated[float, typer.Option(help="Time to erase a block of 2 KiB.")] = ERASE_NS / 1e6,
    flash_program_us: Annotated[float, typer.Option(help="Time to program 8 bytes.")] = PROGRAM_NS / 1e3,
    slot_kib: Annotated[int, typer.Option(help="Make the image slots of every node at least this large.")] = 0,
    wrong_class: Annotated[
        list[int] | None,
        typer.Option(metavar="POSITION", help="Put a node of another series at this position. Repeatable."),
    ] = None,
    absent: Annotated[
        list[int] | None,
        typer.Option(metavar="POSITION", help="Leave the node at this position without power. Repeatable."),
    ] = None,
    image_key: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PEM", help="Trust images signed with the private key of this public key too. Repeatable."
        ),
    ] = None,
    access_key: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PEM",
            help="Lock the nodes: a flasher needs the private key of this Ed25519 public key. Repeatable.",
        ),
    ] = None,
    flash_file: Annotated[
        Path | None,
        typer.Option(dir_okay=False, help="Keep the flash contents in this file from one run to the next."),
    ] = None,
    control: Annotated[Path | None, typer.Option(help="Accept commands on this Unix socket too.")] = None,
    run_for: Annotated[float | None, typer.Option(min=0.0, metavar="SECONDS", help="End after this time.")] = None,
    seed: Annotated[
        int, typer.Option(min=0, help="Seed of identities and faults; the same seed replays them.")
    ] = DEFAULT_SEED,
) -> None:
    """Open a virtual bench: CAN adapters that any slcan program can use, with a master and its slaves behind them.

    Commands while it runs, one per line: cut, power, loss, busoff, status, quit; help lists them. Ctrl-C, SIGTERM and quit
    end it with exit code 0.
    """
    try:
        options = BenchOptions(
            series=series,
            slaves=slaves,
            topology=topology,
            adapters=adapters,
            bitrate_bps=bitrate,
            data_bitrate_bps=data_bitrate,
            ids=ids,
            protocol=protocol,
            traffic=traffic,
            faults=BusFaults(
                loss=loss,
                duplication=duplication,
                reordering=reordering,
                delay=delay,
                corruption=corruption,
                bus_off=bus_off,
            ),
            echo=echo,
            turnaround_ns=_nanoseconds(turnaround_ms * 1e6),
            boot_window_ns=_nanoseconds(boot_window_ms * 1e6),
            flash_erase_ns=_nanoseconds(flash_erase_ms * 1e6),
            flash_program_ns=_nanoseconds(flash_program_us * 1e3),
            slot_kib=slot_kib,
            wrong_class=frozenset(wrong_class or ()),
            absent=frozenset(absent or ()),
            image_keys=tuple(_public_key(path, "--image-key") for path in image_key or ()),
            access_keys=tuple(_access_key(path) for path in access_key or ()),
            flash_file=flash_file,
            seed=seed,
        )
    except (ConfigurationError, OSError) as error:
        _complain(_reason(error))
        raise typer.Exit(WRONG_USAGE) from error
    run_bench(options, channel=channel, run_for_s=run_for, control=control)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"{path} is not UTF-8 text: {error.reason} (byte {error.start})") from error


def _public_key(path: Path, option: str) -> PublicKey:
    try:
        return load_public_key(path.read_bytes())
    except ConfigurationError as error:
        raise ConfigurationError(f"{error} ({option} {path})") from error


def _access_key(path: Path) -> Ed25519PublicKey:
    key = _public_key(path, "--access-key")
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"access key: not an Ed25519 key ({path})")
    return key


def _nanoseconds(value: float) -> int:
    """Rounded; -1, which is refused, for what is not a finite number."""
    return round(value) if isfinite(value) else -1


@app.command()
def samples(
    folder: Annotated[Path, typer.Argument(file_okay=False, help="Created if it does not exist.")],
) -> None:
    """Write the sample images, release manifests and keys that the virtual units trust."""
    names = sample_names()
    for name in names:
        path = folder.joinpath(*name.split("/"))
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(sample_file(name))
    typer.echo(f"{len(names)} files in {folder}")


@app.command(name="bench-ctl")
def bench_ctl(
    control: Annotated[
        Path, typer.Argument(metavar="SOCKET", help="Unix socket of the bench, as given to `bench --control`.")
    ],
    words: Annotated[list[str], typer.Argument(metavar="COMMAND", help="The command, such as: cut 3 at-progress 0.4")],
) -> None:
    """Send a command to a running bench. Exit code 1: the bench refused it."""
    answer = send_command(control, words)
    for line in answer:
        typer.echo(line)
    if answer[-1].startswith("error"):
        raise typer.Exit(FAILED)


class _Show:
    """The live terminal: a line for each message, a bar for each vehicle."""

    def __init__(self, console: Console, scenario: Scenario, path: Path | None) -> None:
        from bmsota_sim.campaign import CampaignWatcher  # noqa: PLC0415 - as in `demo`

        show = self

        class Watcher(CampaignWatcher):
            def said(self, text: str) -> None:
                show.live.console.print(f"[bold]>[/] {escape(text)}", highlight=False)

            def started(self, fleet: Fleet) -> None:
                show.start(fleet)

            def progressed(self, rows: Sequence[UpgradeRow], at_s: float) -> None:
                show.update(rows, at_s)

        self.watcher = Watcher()
        self._scenario = scenario
        self._path = path
        self._progress = Progress(
            TextColumn("{task.fields[name]}"),
            TextColumn("{task.fields[vin]}", style="dim"),
            BarColumn(bar_width=24),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[status]}"),
            TextColumn("{task.fields[stage]}", style="dim"),
            console=console,
        )
        self.live = Live(Group(self._progress), console=console, refresh_per_second=8, transient=True)
        self._bars: dict[str, int] = {}
        self._console = console

    def __enter__(self) -> None:
        self.live.__enter__()

    def __exit__(self, *details: object) -> None:
        self.live.__exit__(None, None, None)

    def start(self, fleet: Fleet) -> None:
        for unit in fleet.units:
            self._bars[unit.identity.vin] = self._progress.add_task(
                "", total=100, name=unit.name, vin=unit.identity.vin, status="", stage=""
            )

    def update(self, rows: Sequence[UpgradeRow], _at_s: float) -> None:
        for row in rows:
            style = _STYLES.get(row.status, "default")
            self._progress.update(
                self._progress.task_ids[list(self._bars).index(row.vin)],
                completed=row.progress_pct,
                status=f"[{style}]{row.status}[/]",
                stage=escape(row.stage or row.reason),
            )

    def keep(self, kept: KeptDemo, result: CampaignOutcome) -> None:
        """The run is over, and everything keeps running."""
        self.live.stop()
        _print_result(self._console, self._scenario, result, self._path)
        console = self._console
        console.rule("kept running: Ctrl-C ends it")
        console.print(f"pages    [link]{kept.pages_url}[/]")
        console.print(f"REST API {kept.pages_url}/api/v1   gateway {kept.gateway}")
        console.print(f"log in as {', '.join(kept.logins)} with the password [bold]{kept.password}[/]")


def _print_result(console: Console, scenario: Scenario, result: CampaignOutcome, path: Path | None) -> None:
    table = Table(
        title=f"{scenario.name}, seed {result.seed}: {result.seconds:.0f} s", title_justify="left", show_lines=True
    )
    table.add_column("vehicle", no_wrap=True)
    table.add_column("path through the statuses, with seconds since the task was created", ratio=1)
    table.add_column("before", no_wrap=True)
    table.add_column("after", no_wrap=True)
    table.add_column("traffic", justify="right", no_wrap=True)
    for vehicle in result.vehicles:
        row = vehicle.row
        style = _STYLES.get(row.status, "default") if not vehicle.problems else "red"
        lines = [_path(row)]
        if row.reason:
            lines.append(f"[{style}]{escape(row.reason)}[/]")
        lines += [f"[dim]slave {position} replaced: {old} by {new}[/]" for position, old, new in vehicle.changes]
        lines += [f"[dim]{escape(story)}[/]" for story in vehicle.story]
        table.add_row(
            f"[{style}]{vehicle.name}[/]\n[dim]{vehicle.vin[:4]}..{vehicle.vin[-3:]}[/]",
            "\n".join(lines),
            _versions(row.before),
            _versions(row.after),
            f"{vehicle.bytes_down:,} B down\n{vehicle.bytes_up:,} B up\n{vehicle.frames:,} CAN",
        )
    console.print(table)
    if result.is_virtual:
        console.print(f"trace {result.trace_hash}", style="dim", highlight=False)
    if result.ok:
        console.print(f"[green]All {len(result.vehicles)} vehicles ended as the scenario says.[/]")
    else:
        for problem in result.problems:
            console.print(f"[red]{escape(problem)}[/]")
        options = (" --virtual" if result.is_virtual else "") + (
            "" if path is None else f" --scenario {quote(str(path))}"
        )
        console.print(f"replay: bmsota-sim demo{options} --seed {result.seed}", soft_wrap=True, markup=False)


def _path(row: UpgradeRow) -> str:
    from datetime import datetime  # noqa: PLC0415 - only to read the platform's ISO times

    if not row.transitions:
        return row.status
    start = datetime.fromisoformat(row.transitions[0][1])
    steps = []
    for status, at in row.transitions:
        seconds = (datetime.fromisoformat(at) - start).total_seconds()
        steps.append(f"{status} [dim]{seconds:.1f}[/]")
    return " > ".join(steps)


def _versions(nodes: Sequence[tuple[int, str]]) -> str:
    """The master's version, and those of the slaves with how many have each."""
    master = next((version for position, version in nodes if position == 0), "-")
    slaves = [version for position, version in nodes if position > 0]
    counted = [f"{slaves.count(version)} x {version}" for version in sorted(set(slaves))]
    return "\n".join([master, *(f"[dim]{text}[/]" for text in counted)])


def _complain(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(f"bmsota-sim: {text}", style="red", markup=False, highlight=False)


def _reason(error: BmsotaError | OSError) -> str:
    if isinstance(error, OSError) and error.filename is not None and error.strerror:
        return f"{error.filename}: {error.strerror}"
    return str(error)


def run() -> int:
    """Run the command line; its exit code. What is refused is one line; SIGTERM and a closed terminal end it as Ctrl-C does."""
    numbers = [number for number in ending_signals() if number != signal.SIGINT and not is_held(number)]
    before = {number: signal.signal(number, _interrupt) for number in numbers}
    try:
        return _run()
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _interrupt(_number: int, _frame: object) -> None:
    raise KeyboardInterrupt


class _Console(Console):
    """A console whose reader may go away: that ends a run as Ctrl-C does."""

    def on_broken_pipe(self) -> None:
        # Python writes the rest of its buffer at its end and would complain; there it goes nowhere.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise KeyboardInterrupt


def _run() -> int:
    try:
        code = app(standalone_mode=False)
    except _USAGE_ERROR as error:
        _complain(error.format_message())  # type: ignore[attr-defined]  # see above
        return WRONG_USAGE
    except MissingExtraError as error:
        _complain(str(error))
        return WRONG_USAGE
    except (BmsotaError, OSError) as error:
        _complain(_reason(error))
        return FAILED
    except KeyboardInterrupt:
        return INTERRUPTED
    return code if isinstance(code, int) else 0
