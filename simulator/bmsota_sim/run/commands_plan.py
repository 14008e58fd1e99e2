"""`bmsota-sim check`, `vehicles` and `schema`: what a scenario says, without running it."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bmsota.errors import BmsotaError, ConfigurationError
from bmsota_sim._exit_codes import WRONG_USAGE
from bmsota_sim.run.check import check, json_schema, parameters
from bmsota_sim.run.fidelity import full_by_need
from bmsota_sim.run.identities import identity
from bmsota_sim.run.keys import load_run_keys
from bmsota_sim.run.quantities import duration_text
from bmsota_sim.run.scenario import packaged_text
from bmsota_sim.run.selection import group_units

if TYPE_CHECKING:
    from bmsota_sim.run.check import CheckedScenario
    from bmsota_sim.run.keys import RunKeys
    from bmsota_sim.run.timeline import Meeting

__all__ = ["read_scenario", "register"]

DEFAULT_SEED = 1
# As many units as fit on a line of a terminal.
WHO_LENGTH_MAX = 48

ScenarioArgument = Annotated[
    str, typer.Argument(metavar="FILE|NAME", help="A scenario file, or the name of a ready scenario.")
]
SeedOption = Annotated[int, typer.Option(min=0, help="Seed of the run; it draws the shares.")]
CountOption = Annotated[
    int | None, typer.Option(min=1, help="Number of units in all; the groups keep their proportions.")
]


def read_scenario(scenario: str) -> tuple[bytes, str]:
    """The bytes of a scenario and its name for messages. A bare word is a ready scenario, anything else a path.

    Raises:
        ConfigurationError: there is no such scenario.
        OSError: the file cannot be read.
    """
    path = Path(scenario)
    if path.suffix or "/" in scenario or "\\" in scenario or path.is_file():
        return path.read_bytes(), scenario
    return packaged_text(scenario).encode(), scenario


def _checked(scenario: str, seed: int, count: int | None) -> CheckedScenario:
    try:
        data, name = read_scenario(scenario)
        return check(data, name, seed, count=count)
    except ConfigurationError as error:
        # `file:line:column: ...`, as compilers say it: editors and terminals jump there.
        _complain(str(error))
    except OSError as error:
        _complain(f"{scenario}: {error.strerror or error}")
    except ValueError as error:  # A NUL in a path, say.
        _complain(f"{scenario!r}: {error}")
    raise typer.Exit(WRONG_USAGE)


def _complain(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(text, style="red", markup=False, highlight=False)


def show(checked: CheckedScenario, console: Console) -> None:
    """Print who does what when."""
    scenario = checked.scenario
    console.print(
        f"[bold]{escape(scenario.name)}[/]: {scenario.unit_count:,} units, {duration_text(scenario.duration_s)}, seed {checked.seed}",
        highlight=False,
    )
    if scenario.description:
        console.print(escape(scenario.description), style="dim", highlight=False)
    groups = Table("group", "profile", "units", "fidelity", "edition", "reports every", "trips", box=None)
    for name, group in scenario.groups.items():
        life = scenario.life_of(name)
        groups.add_row(
            escape(name),
            group.profile,
            f"{group.count:,}",
            group.fidelity,
            str(group.edition),
            duration_text(life.report_s),
            life.trips,
        )
    console.print(groups)
    for name, count in full_by_need(scenario, checked.seed).items():
        console.print(
            f"{escape(name)}: {count:,} of {scenario.groups[name].count:,} units are full, for what fleet fidelity cannot do",
            highlight=False,
        )
    if checked.meetings:
        table = Table("at", "until", "what", "units", "who", box=None)
        for meeting in checked.meetings:
            table.add_row(*_row(meeting))
        console.print(table)
    if scenario.ota is not None:
        drawn = ", ".join(f"{units:,} {outcome.replace('_', ' ')}" for outcome, units in checked.outcomes.items())
        validity = "" if scenario.ota.validity_s is None else f", valid for {duration_text(scenario.ota.validity_s)}"
        console.print(
            f"OTA task at {duration_text(scenario.ota.at_s)}: release {escape(scenario.ota.release)}{validity}: {drawn}",
            highlight=False,
        )
    if scenario.faults_off_s:
        console.print(f"no faults from {duration_text(scenario.faults_end_s)} on", highlight=False)
    for expectation in scenario.expect:
        console.print(f"expects {escape(expectation.text)}", highlight=False)


def _row(meeting: Meeting) -> tuple[str, ...]:
    entry = meeting.entry
    told = parameters(entry)
    what = entry.do.replace("_", " ") + (f" ({told})" if told else "")
    until = "" if meeting.end_ns is None else duration_text(meeting.end_ns / 1e9)
    if meeting.units is None:
        return duration_text(entry.at_s), until, what, "", "the platform"
    who = str(meeting.units)
    if len(who) > WHO_LENGTH_MAX:
        who = ", ".join(map(str, entry.who))
    return duration_text(entry.at_s), until, escape(what), f"{len(meeting.units):,}", escape(who)


def register(app: typer.Typer) -> None:
    """Add the commands to *app*."""

    @app.command(name="check")
    def check_command(scenario: ScenarioArgument, seed: SeedOption = DEFAULT_SEED, count: CountOption = None) -> None:
        """Read a scenario and print who does what when. Exit code 2: it cannot run; every place is named."""
        show(_checked(scenario, seed, count), Console())

    @app.command()
    def vehicles(
        scenario: ScenarioArgument,
        csv_: Annotated[bool, typer.Option("--csv", help="Print comma-separated values.")] = False,
        seed: SeedOption = DEFAULT_SEED,
        count: CountOption = None,
        keys: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="The keys file that the run is given; default: the seed's keys."),
        ] = None,
    ) -> None:
        """List the vehicles of a scenario: VIN, ICCID, hardware ids and public keys, to register them before a run.

        VIN and ICCID do not depend on the seed; hardware ids and keys do.
        """
        checked = _checked(scenario, seed, count)
        try:
            own = load_run_keys(keys)
            own.check(row[1] for row in _vehicle(checked, seed, own))
        except BmsotaError as error:
            _complain(str(error))
            raise typer.Exit(WRONG_USAGE) from error
        header = ("unit", "vin", "iccid", "profile", "city", "master_hwid", "slave_hwids", "public_key")
        if csv_:
            writer = csv.writer(sys.stdout, lineterminator="\n")
            writer.writerow(header)
            writer.writerows(_vehicle(checked, seed, own))
            return
        table = Table(*header[:6], box=None)
        for row in _vehicle(checked, seed, own):
            table.add_row(*row[:6])
        Console().print(table)

    @app.command()
    def schema() -> None:
        """Print the JSON Schema of scenario files, for editors."""
        typer.echo(json.dumps(json_schema(), indent=2))


def _vehicle(checked: CheckedScenario, seed: int, keys: RunKeys) -> list[tuple[str, ...]]:
    rows: list[tuple[str, ...]] = []
    for unit in group_units(checked.scenario):
        who = keys.own(identity(checked.scenario, seed, unit))
        group = checked.scenario.groups[unit.group]
        key = who.device_key.public_key().public_bytes(Encoding.Raw, PublicFormat.Raw).hex()
        rows.append(
            (str(unit), who.vin, who.iccid, group.profile, group.city, who.master_hwid, " ".join(who.slave_hwids), key)
        )
    return rows
