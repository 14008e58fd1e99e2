"""How a run ends on the command line: its report, what is printed, and the exit code. The same whoever carried it out."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sys
from typing import TYPE_CHECKING, Any, NamedTuple

from rich.console import Console

from bmsota import __version__
from bmsota.errors import ConfigurationError
from bmsota_sim._exit_codes import FAILED, NO_VERDICT, NOT_AS_PLANNED
from bmsota_sim.kernel import SECOND
from bmsota_sim.run.driving import Generator
from bmsota_sim.run.outputs.folder import REPORT_FILES, write_report
from bmsota_sim.run.outputs.run_json import run_document
from bmsota_sim.run.outputs.screen import progress_line
from bmsota_sim.run.replay import scenario_sha256
from bmsota_sim.run.steering import SOCKET_NAME

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from bmsota_sim.run.given import Prepared
    from bmsota_sim.run.judged import JudgedRun, Result
    from bmsota_sim.run.outputs.series import Series

__all__ = ["Carried", "RunConsole", "complain", "document_given", "locked", "tell_result", "write_files"]

# The last of a machine's time: beyond this share of one core the kernel cannot catch up.
CPU_SHARE_MAX = 0.97


class RunConsole(Console):
    """A console whose reader may go away: the run goes on, for its report and its exit code."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # Python writes the rest of its buffer at its end and would complain; there it goes nowhere.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class Carried(NamedTuple):
    """A run that has ended."""

    run: JudgedRun
    result: Result
    generators: tuple[Generator, ...]
    """Of each process; none in virtual time."""
    series: Series
    shards: list[dict[str, Any]]
    """How each shard ended; none for a run in this process."""
    losses: tuple[str, ...] = ()
    reached_ns: tuple[int, ...] = ()
    """How far each process came."""


@contextlib.contextmanager
def locked(folder: Path | None) -> Iterator[None]:
    """Hold *folder* for this run: nothing is written before."""
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = sorted(path.name for path in folder.iterdir() if path.name not in REPORT_FILES | {SOCKET_NAME})
        handle = os.open(folder / ".lock", os.O_RDWR | os.O_CREAT, 0o644) if not strangers else -1
    except OSError as error:
        raise ConfigurationError(f"--report {folder}: {error.strerror or error}") from error
    if strangers:
        raise ConfigurationError(
            f"--report {folder}: not the folder of a report, it has {strangers[0]}; give a new one"
        )
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ConfigurationError(f"--report {folder}: another run is writing there; give another folder") from error
        yield
    finally:
        os.close(handle)


def document_given(prepared: Prepared, replay: str) -> dict[str, Any]:
    given = prepared.given
    return {
        "version": __version__,
        "python": sys.version.split()[0],
        "scenario": given.scenario_text,
        "scenario_sha256": scenario_sha256(given.scenario_text),
        "scenario_name": given.scenario_name,
        "seed": given.seed,
        "options": given.options(),
        "replay": replay,
    }


def tell_result(
    prepared: Prepared,
    carried: Carried,
    told: dict[str, Any],
    console: Console,
    report: Path | None,
    *,
    is_stopped: bool = False,
    stopped_code: int = 0,
) -> int:
    """Write the report, print the verdict; the exit code."""
    run, result, no_verdict = carried.run, carried.result, ""
    generator: dict[str, Any] = {}
    if carried.generators:
        generator = {**Generator.added(carried.generators).document(), "limit_s": prepared.given.lateness_limit_s}
        no_verdict = _bottleneck(carried, prepared, stopped=is_stopped)
    elif not is_stopped and min(carried.reached_ns) < min(prepared.end_ns, run.duration_ns):
        no_verdict = carried.losses[-1] if carried.losses else "a shard ended before the scenario did"
    no_verdict = no_verdict or (_nothing_judged(run) if result.ok else "")
    code = stopped_code or (NO_VERDICT if no_verdict else 0 if result.ok else NOT_AS_PLANNED)
    document = run_document(
        run,
        result,
        given=told,
        generator=generator,
        exit_code=code,
        series=carried.series,
        no_verdict=no_verdict,
        shards=carried.shards,
    )
    # Before anything is printed: the reader of our output may be gone.
    is_written = write_files(console, report, document, result, prepared.scenario.name)
    if generator:
        late = generator["late_s"]
        console.print(
            f"simulator: late p50 {late['p50']:.3f} s, p99 {late['p99']:.3f} s, max {late['max']:.3f} s; "
            f"{generator['cpu_share']:.0%} of a core; boots {generator['boots_per_s'] or '-'} units/s; {generator['event_loop']}",
            highlight=False,
            soft_wrap=True,
        )
    for loss in carried.losses:
        console.print(loss, style="yellow", markup=False, highlight=False, soft_wrap=True)
    _print_result(console, result, run, code, no_verdict, told["replay"])
    return code if is_written else FAILED


def _bottleneck(carried: Carried, prepared: Prepared, *, stopped: bool) -> str:
    """Why the run gives no verdict; nothing if it does."""
    run, limit_s = carried.run, prepared.given.lateness_limit_s
    end_ns = min(prepared.end_ns, run.duration_ns)
    if carried.losses and not carried.result.ok:
        return f"{carried.losses[0]}; what failed may be our own doing"
    for generator in carried.generators:
        late_s = generator.late_s(0.99)
        if late_s > limit_s:
            return f"the simulator was late: p99 {late_s:.3f} s, limit {limit_s:g} s"
        if generator.cpu_share > CPU_SHARE_MAX:
            return f"the simulator used {generator.cpu_share:.0%} of a core"
    if not stopped and min(carried.reached_ns) < end_ns:
        return "the simulator did not reach the end of the scenario in time"
    if not stopped and run.started < len(run.ids) and prepared.end_ns >= run.duration_ns:
        return f"the simulator could start only {run.started:,} of {len(run.ids):,} units"
    return ""


def _nothing_judged(run: JudgedRun) -> str:
    """Why a run that ended early gives no verdict although nothing failed; nothing if something was judged, or nothing is expected."""
    if not run.verdicts or any(verdict.passed is not None for verdict in run.verdicts):
        return ""
    return f"the run ended at {run.at_ns / SECOND:g} s, before any of its {len(run.verdicts):,} expectations was due"


def _print_result(console: Console, result: Result, run: JudgedRun, code: int, no_verdict: str, replay: str) -> None:
    def say(text: str, style: str = "") -> None:
        console.print(text, style=style, markup=False, highlight=False, soft_wrap=True)

    say(progress_line(run, 0.0).rpartition(", late")[0])
    for case in result.cases:
        if case.passed is None:
            say(f"not judged  {case.name}: {case.got}", "yellow")
        elif not case.passed:
            say(f"FAILED      {case.name}: {case.got}", "red")
            for failing in case.failing[:3]:
                say(f"            {failing}")
    if no_verdict:
        say(f"NO VERDICT: {no_verdict}", "red")
    good = sum(case.passed is True for case in result.cases)
    say(f"{good} of {len(result.cases)} passed, trace {result.fold[:16]}, exit code {code}")
    if code:
        say(f"replay: {replay}")


def write_files(console: Console, folder: Path | None, document: dict[str, Any], result: Result, name: str) -> bool:
    """Write the report if one is wanted. Return whether there is what was asked for."""
    if folder is None:
        return True
    try:
        missing = write_report(folder, document, result, name=name)
    except OSError as error:
        complain(f"the report is not complete: {error.filename or folder}: {error.strerror or error}")
        return False
    if missing:
        console.print(missing, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return True


def complain(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(text, style="red", markup=False, highlight=False)
