"""`bmsota-sim replay`: a run again from its `run.json`."""

from __future__ import annotations

import contextlib
from functools import partial
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from typing import TYPE_CHECKING, Annotated, TextIO

import typer
from rich.console import Console

from bmsota.errors import BmsotaError, ConfigurationError
from bmsota_sim._exit_codes import NOT_AS_PLANNED, WRONG_USAGE
from bmsota_sim.devices.unit import FullUnit
from bmsota_sim.run.replay import RecordedRun, candump_line
from bmsota_sim.virtual import run_virtual

if TYPE_CHECKING:
    from bmsota.canframe import CanFrame
    from bmsota_sim.run.runner import Run
    from bmsota_sim.run.selection import UnitId

__all__ = ["register"]

DIFFERENCES_MAX = 10
FAILING_MAX = 3


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""

    @app.command()
    def replay(
        run_json: Annotated[Path, typer.Argument(metavar="RUN.JSON", help="The run.json of a report.")],
        unit: Annotated[
            str | None, typer.Option(metavar="NAME", help="Replay this unit alone, such as watched/3.")
        ] = None,
        full: Annotated[
            bool, typer.Option("--full", help="Print every CAN frame of the unit, as candump -l does.")
        ] = False,
        output: Annotated[
            Path | None, typer.Option(dir_okay=False, help="Write the CAN frames to this file (.log).")
        ] = None,
    ) -> None:
        """Run a scenario again, in virtual time, from the run.json of its run.

        Exit codes: 0 the same traces, or none to compare with; 2 wrong input; 3 another trace.
        """
        errors = Console(stderr=True, soft_wrap=True)
        try:
            if (full or output) and unit is None:
                raise ConfigurationError("--full and --output show the CAN frames of one unit: give --unit NAME")
            recorded = RecordedRun.load(run_json)
            for note in recorded.notes:
                errors.print(note, style="yellow", markup=False, highlight=False)
            chosen = None if unit is None else recorded.unit(unit)
            runs = []
            with contextlib.ExitStack() as stack:
                for only, ran_ns in recorded.pieces(chosen):
                    run = recorded.build(only, full=full or output is not None)
                    if chosen is not None and (full or output):
                        # Standard output is not ours to close.
                        file = None if output is None else stack.enter_context(output.open("w", encoding="ascii"))
                        _write_frames(run, chosen, file)
                    run.start()
                    run_virtual(run.kernel, partial(getattr, run, "is_over"), until_ns=run.start_ns + ran_ns)
                    runs.append(run)
        except (BmsotaError, OSError) as error:
            errors.print(str(error), style="red", markup=False, highlight=False)
            raise typer.Exit(WRONG_USAGE) from error
        code = _tell(recorded, runs, errors if full and output is None else Console(soft_wrap=True))
        raise typer.Exit(code)


def _write_frames(run: Run, unit: UnitId, file: TextIO | None) -> None:
    def heard(frame: CanFrame, now_ns: int) -> None:
        typer.echo(candump_line(frame, now_ns), file=file)

    full = run.units[unit].unit
    assert isinstance(full, FullUnit)
    full.bus.observe(heard)


def _tell(recorded: RecordedRun, runs: list[Run], console: Console) -> int:
    hashes = {unit: digest for run in runs for unit, digest in run.hashes().items()}
    what = f"{len(hashes):,} units" if len(hashes) > 1 else next(iter(hashes))
    seconds = max(run.at_ns for run in runs) / 1e9
    if recorded.is_virtual and len(runs) == 1 and len(hashes) == len(recorded.hashes):
        for case in runs[0].end().cases:
            if case.passed is False:
                console.print(f"FAILED  {case.name}: {case.got}", style="red", markup=False, highlight=False)
                for failing in case.failing[:FAILING_MAX]:
                    console.print(f"        {failing}", markup=False, highlight=False)
    if not recorded.is_virtual:
        console.print(f"replayed {what}, {seconds:,.3f} s", markup=False, highlight=False)
        return 0
    different = list(recorded.differences(hashes))
    for unit in different[:DIFFERENCES_MAX]:
        got = hashes[unit]
        console.print(
            f"{unit}: expected trace {recorded.hashes.get(unit, 'none')[:16]}, got {got[:16]}",
            style="red",
            markup=False,
            highlight=False,
        )
    verdict = (
        f"{len(different):,} other traces" if different else "the same trace" if len(hashes) == 1 else "the same traces"
    )
    console.print(f"replayed {what}, {seconds:,.3f} s: {verdict}", markup=False, highlight=False)
    return NOT_AS_PLANNED if different else 0
