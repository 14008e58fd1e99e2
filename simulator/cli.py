"""`bmsota-sim`: virtual fleets.

Exit codes: 0 every vehicle ended as the scenario says; 1 the run could not be played (said in one line); 2 called
wrongly; 3 a vehicle did not end as the scenario says.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.console import Console, Group
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn
from rich.table import Table

from bmsota import __version__
from bmsota.errors import BmsotaError
from simulator.scenario import packaged_scenario, parse_scenario

if TYPE_CHECKING:
    from collections.abc import Sequence

    from simulator.demo import DemoResult, KeptDemo
    from simulator.fleet import Fleet
    from simulator.operator import UpgradeRow
    from simulator.scenario import Scenario

__all__ = ["app", "main"]

EXIT_NOT_AS_PLANNED = 3
DEFAULT_SEED = 1

app = typer.Typer(
    name="bmsota-sim",
    help="Fleets of virtual BMS units that exercise a cloud. Exit codes: 0 as planned, 1 failed, 2 wrong usage, "
    "3 a vehicle did not end as the scenario says.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
)
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


def _print_version(value: bool) -> None:
    if value:
        typer.echo(f"bmsota-sim {__version__}")
        raise typer.Exit


@app.callback()
def bmsota_sim(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Show the version and leave.")
    ] = False,
) -> None:
    """Fleets of virtual BMS units."""


@app.command()
def demo(
    seed: Annotated[
        int, typer.Option(min=0, help="Another seed is another run; the same one replays it.")
    ] = DEFAULT_SEED,
    virtual: Annotated[bool, typer.Option("--virtual", help="In virtual time: seconds, no sockets.")] = False,
    keep: Annotated[bool, typer.Option("--keep", help="Leave everything running; print the URLs and a login.")] = False,
    scenario: Annotated[
        Path | None, typer.Option(exists=True, dir_okay=False, help="Another scenario file with a campaign.")
    ] = None,
    data: Annotated[
        Path | None, typer.Option(file_okay=False, help="Fresh folder for databases and mails; default: temporary.")
    ] = None,
) -> None:
    """The main job, end to end: an embedded cloud, a fleet, an OTA task, every vehicle to its planned end."""
    if keep and virtual:
        raise typer.BadParameter("expected --keep or --virtual, got both: virtual time cannot be kept running")
    if data is not None and data.exists() and any(data.iterdir()):
        raise typer.BadParameter(f"expected an empty or new folder, got {data}, which holds files", param_hint="--data")
    name = "demo" if scenario is None else scenario.name
    text = packaged_scenario("demo") if scenario is None else scenario.read_text(encoding="utf-8")
    plan = parse_scenario(text, name=name)
    # The cloud is needed for this command alone; a fleet against somebody's own cloud does without.
    from simulator.demo import run_real, run_virtual_demo  # noqa: PLC0415

    console = Console()
    console.rule(f"bmsota demo: {plan.name}, seed {seed}")
    console.print(f"[dim]{escape(plan.description)}[/]")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    show = _Show(console, plan, seed)
    with show:
        if virtual:
            result = run_virtual_demo(plan, seed, show.watcher)
        else:
            result = run_real(plan, seed, show.watcher, data_dir=data, keep=show.keep if keep else None)
    if not keep:
        _print_result(console, plan, result)
    if not result.ok:
        raise typer.Exit(EXIT_NOT_AS_PLANNED)


class _Show:
    """The live terminal: a line for each thing said, a bar for each vehicle."""

    def __init__(self, console: Console, scenario: Scenario, seed: int) -> None:
        from simulator.demo import DemoWatcher  # noqa: PLC0415 - see `demo`

        show = self

        class Watcher(DemoWatcher):
            def said(self, text: str) -> None:
                show.live.console.print(f"[bold]>[/] {escape(text)}", highlight=False)

            def started(self, fleet: Fleet) -> None:
                show.start(fleet)

            def progressed(self, rows: Sequence[UpgradeRow], at_s: float) -> None:
                show.update(rows, at_s)

        self.watcher = Watcher()
        self._scenario = scenario
        self._seed = seed
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

    def keep(self, kept: KeptDemo, result: DemoResult) -> None:
        """The run is over and everything goes on."""
        self.live.stop()
        _print_result(self._console, self._scenario, result)
        console = self._console
        console.rule("kept running: Ctrl-C ends it")
        console.print(f"pages    [link]{kept.pages_url}[/]")
        console.print(f"REST API {kept.pages_url}/api/v1   gateway {kept.gateway}")
        console.print(f"log in as {', '.join(kept.logins)} with the password [bold]{kept.password}[/]")


def _print_result(console: Console, scenario: Scenario, result: DemoResult) -> None:
    table = Table(
        title=f"{scenario.name}, seed {result.seed}: {result.seconds:.0f} s", title_justify="left", show_lines=True
    )
    table.add_column("vehicle", no_wrap=True)
    table.add_column("path through the statuses, with seconds since the task was made", ratio=1)
    table.add_column("before", no_wrap=True)
    table.add_column("after", no_wrap=True)
    table.add_column("carried", justify="right", no_wrap=True)
    for vehicle in result.vehicles:
        row = vehicle.row
        style = _STYLES.get(row.status, "default") if not vehicle.problems else "red"
        path = [_path(row)]
        if row.reason:
            path.append(f"[{style}]{escape(row.reason)}[/]")
        path += [f"[dim]slave {position} replaced: {old} by {new}[/]" for position, old, new in vehicle.changes]
        path += [f"[dim]{escape(story)}[/]" for story in vehicle.story]
        table.add_row(
            f"[{style}]{vehicle.name}[/]\n[dim]{vehicle.vin[:4]}..{vehicle.vin[-3:]}[/]",
            "\n".join(path),
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
        mode = " --virtual" if result.is_virtual else ""
        console.print(f"replay: bmsota-sim demo{mode} --seed {result.seed}")


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


def main() -> None:
    """Run the command line; a refusal is one line and exit code 1."""
    try:
        app()
    except (BmsotaError, OSError) as error:
        Console(stderr=True, soft_wrap=True).print(f"bmsota-sim: {error}", style="red", markup=False, highlight=False)
        raise SystemExit(1) from error
    except KeyboardInterrupt:
        raise SystemExit(130) from None


if __name__ == "__main__":
    main()
