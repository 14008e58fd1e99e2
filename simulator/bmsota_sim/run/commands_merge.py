"""`bmsota-sim merge`: one report and one verdict from the parts of shards that nobody coordinated."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from shlex import quote
from typing import TYPE_CHECKING, Annotated

import typer

from bmsota import __version__
from bmsota.errors import BmsotaError, ConfigurationError
from bmsota_sim._exit_codes import WRONG_USAGE
from bmsota_sim.kernel import SECOND
from bmsota_sim.run.ending import Carried, RunConsole, complain, document_given, locked, tell_result
from bmsota_sim.run.given import prepare
from bmsota_sim.run.outputs.series import Series
from bmsota_sim.run.shards.coordinating import shard_document
from bmsota_sim.run.shards.files import find_parts, load_part
from bmsota_sim.run.shards.together import ShardedRun
from bmsota_sim.run.steering import steer_again

if TYPE_CHECKING:
    from collections.abc import Sequence

    from bmsota_sim.run.given import RunGiven
    from bmsota_sim.run.shards.part import ShardEnd

__all__ = ["register"]


def _all_parts(paths: Sequence[Path]) -> tuple[RunGiven, list[ShardEnd]]:
    """What the run was given, and the end of each shard in their order.

    Raises:
        ConfigurationError: a part cannot be read, is missing, is there twice, or is of another run.
    """
    found: dict[int, tuple[Path, ShardEnd]] = {}
    first: tuple[Path, RunGiven, int] | None = None
    for path in find_parts(paths):
        shard, end = load_part(path)
        if first is None:
            first = path, shard.given, shard.count
        if shard.count != first[2]:
            raise ConfigurationError(
                f"{path}: expected a part of {first[2]} shards, as {first[0]}, got one of {shard.count}"
            )
        if shard.given != first[1]:
            raise ConfigurationError(
                f"{path}: this part is of another run than {first[0]}: it was given {_difference(first[1], shard.given)}"
            )
        if shard.index in found:
            raise ConfigurationError(
                f"{path}: {shard} is there already, in {found[shard.index][0]}; give each part once"
            )
        found[shard.index] = path, end
    assert first is not None
    _, given, count = first
    missing = [str(index) for index in range(count) if index not in found]
    if missing:
        raise ConfigurationError(
            f"the parts of shards {', '.join(missing)} of {count} are missing; give all parts of the run"
        )
    return given, [found[index][1] for index in range(count)]


def _difference(left: RunGiven, right: RunGiven) -> str:
    """Where they differ, in words."""
    for name in left.__slots__:
        if getattr(left, name) != getattr(right, name):
            return f"another {name.replace('_', ' ')}"
    return "something else"


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""

    @app.command()
    def merge(
        parts: Annotated[
            list[Path], typer.Argument(metavar="PART...", help="Parts that 'run --shard' wrote, or folders with them.")
        ],
        report: Annotated[
            Path | None,
            typer.Option(file_okay=False, help="Write report.html, run.json, junit.xml, units.parquet here."),
        ] = None,
    ) -> None:
        """Put the parts of a run's shards together: one report, one verdict.

        Exit codes: as those of 'run'.
        """
        try:
            given, ends = _all_parts(parts)
            if given.version != __version__:
                raise ConfigurationError(
                    f"the parts were written by version {given.version}, this is {__version__}; merge with that one"
                )
            prepared = prepare(given)
            run = ShardedRun(prepared.scenario, given.seed, len(ends), keys=prepared.keys, played=prepared.played)
            steer_again(run, given.steered)
            for units, end in zip(run.units, ends, strict=True):
                if set(end.hashes) != set(map(str, units)):
                    raise ConfigurationError("a part has other units than this version deals out to its shard")
                told_at = [at_ns for at_ns in run.due if at_ns <= end.part.at_ns and at_ns not in end.moments]
                if told_at:
                    raise ConfigurationError(
                        f"a part does not say what was known at {told_at[0] / SECOND:g} s, when something is judged"
                    )
            # What the parts were given alone would be carried out in one process.
            told = document_given(
                prepared._replace(given=replace(given, workers=len(ends))),
                replace(given, workers=len(ends)).command(None if report is None else str(report / "scenario.yaml")),
            )
            if given.steered and report is not None:
                told["steered"] = list(given.steered)
                told["replay"] += f" --steered {quote(str(report / 'run.json'))}"
            with locked(report):
                result = run.end(ends)
                generators = tuple(end.generator for end in ends if end.generator is not None)
                carried = Carried(
                    run,
                    result,
                    generators,
                    Series.added([end.samples for end in ends]),
                    [shard_document(index, end, where="") for index, end in enumerate(ends)],
                    reached_ns=tuple(end.part.at_ns for end in ends),
                )
                code = tell_result(prepared, carried, told, RunConsole(), report)
        except (BmsotaError, OSError, ValueError) as error:
            complain(str(error))
            raise typer.Exit(WRONG_USAGE) from error
        raise typer.Exit(code)
