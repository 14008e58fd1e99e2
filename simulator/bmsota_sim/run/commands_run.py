"""`bmsota-sim run`: a scenario against a platform, in real time over TCP or in virtual time against the library's own end."""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import ipaddress
import os
import signal
import sys
import time
from itertools import cycle
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple
from urllib.parse import urlsplit

import httpx
import typer
from rich.console import Console

from bmsota import __version__
from bmsota.adapters.tls import client_context
from bmsota.errors import ConfigurationError
from bmsota_sim._exit_codes import FAILED, NO_VERDICT, NOT_AS_PLANNED, WRONG_USAGE
from bmsota_sim._signals import ending_signals, held_signal
from bmsota_sim.kernel import SECOND, Kernel
from bmsota_sim.realtime import RealTimeDriver, TcpUplink
from bmsota_sim.run.check import check
from bmsota_sim.run.commands_plan import read_scenario
from bmsota_sim.run.outputs.folder import REPORT_FILES, write_report
from bmsota_sim.run.outputs.prometheus import metrics_server, metrics_text, split_host_port
from bmsota_sim.run.outputs.run_json import run_document, unstarted_document
from bmsota_sim.run.outputs.screen import progress_line
from bmsota_sim.run.outputs.watch import RunWatch
from bmsota_sim.run.runner import Run, not_simulated, unstarted
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink, run_virtual

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from bmsota_sim.run.runner import Result
    from bmsota_sim.run.scenario import Scenario

__all__ = ["register"]

DEFAULT_SEED = 1
DEFAULT_PORT = 32960
# What the kernel may be behind at the end and still finish the scenario.
GRACE_S = 10.0
# The last of a machine's time: beyond this share of one core the kernel cannot catch up.
CPU_SHARE_MAX = 0.97


class _Target(NamedTuple):
    host: str
    port: int
    tls: ssl.SSLContext | None


class _Stop:
    """The signal that asked the run to end, if one did."""

    def __init__(self) -> None:
        self.number = 0

    def __call__(self, number: int, _frame: object) -> None:
        self.number = self.number or number

    @property
    def asked(self) -> bool:
        return self.number != 0

    @property
    def exit_code(self) -> int:
        return 128 + self.number  # As a shell says it.

    @contextlib.contextmanager
    def listening(self) -> Iterator[None]:
        before = {number: signal.signal(number, self) for number in ending_signals()}
        self.number = self.number or held_signal()
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


class _RunConsole(Console):
    """A console whose reader may go away: the run goes on, for its report and its exit code."""

    def on_broken_pipe(self) -> None:
        self.quiet = True
        # Python writes the rest of its buffer at its end and would complain; there it goes nowhere.
        with contextlib.suppress(OSError, ValueError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


class _StoppedError(Exception):
    """Stopped while the units were being built."""


def _target(to: str, ca: Path | None, cert: Path | None, key: Path | None) -> _Target:
    parts = urlsplit(to)
    try:
        port = parts.port or DEFAULT_PORT
    except ValueError as error:
        raise ConfigurationError(f"--to {to}: {error}") from error
    if parts.scheme not in {"tcp", "tls"} or not parts.hostname or parts.path.strip("/"):
        raise ConfigurationError(f"--to: expected tcp://HOST:PORT or tls://HOST:PORT, got {to}")
    if parts.scheme == "tcp" and (ca or cert or key):
        raise ConfigurationError(f"--tls-ca, --tls-cert and --tls-key need --to tls://..., got {to}")
    return _Target(parts.hostname, port, client_context(ca=ca, cert=cert, key=key) if parts.scheme == "tls" else None)


def _check_options(to: str | None, *, virtual: bool, edition: int | None, real: bool) -> None:
    if virtual == (to is not None):
        raise ConfigurationError("give either --to URL or --virtual")
    if edition not in {None, 2016, 2025}:
        raise ConfigurationError(f"--edition: expected 2016 or 2025, got {edition}")
    if virtual and real:
        raise ConfigurationError(
            "--virtual opens no connection: leave out --speed, --source-address, --tls-..., --prometheus"
        )


def _check_scenario(scenario: Scenario, name: str) -> None:
    if scenario.ota is not None:
        raise ConfigurationError(
            f"{name}: has an OTA task, which needs the API of a platform; this version of `run` has no --api"
        )


def _sources(text: str | None) -> list[str]:
    """`127.0.0.2`, or `127.0.0.2-9`: the last number is counted up."""
    if text is None:
        return []
    first, _, last = text.partition("-")
    try:
        start = ipaddress.IPv4Address(first)
        end = int(last) if last else int(start) & 0xFF
    except ValueError:
        end = -1
    else:
        if int(start) & 0xFF <= end <= 255:
            return [str(start + index) for index in range(end - (int(start) & 0xFF) + 1)]
    raise ConfigurationError(f"--source-address: expected an IPv4 address or a range such as 127.0.0.2-9, got {text}")


@contextlib.contextmanager
def _locked(folder: Path | None) -> Iterator[None]:
    """Hold *folder* for this run: nothing is written before."""
    if folder is None:
        yield
        return
    try:
        folder.mkdir(parents=True, exist_ok=True)
        strangers = sorted(path.name for path in folder.iterdir() if path.name not in REPORT_FILES)
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


def _building(stop: _Stop) -> Callable[[int], object]:
    def progress(_built: int) -> None:
        if stop.asked:
            raise _StoppedError

    return progress


def _virtual(scenario: Scenario, seed: int, edition: int | None, end_ns: int, stop: _Stop, show: RunWatch) -> Run:
    kernel, platform = Kernel(VIRTUAL_START_NS), SessionPlatform()
    run = Run(
        scenario,
        seed,
        kernel=kernel,
        uplink=lambda _index: MemoryUplink(kernel, platform, delay_ns=0),
        edition=edition,
        progress=_building(stop),
    )
    run.start()
    run_virtual(
        kernel,
        lambda: stop.asked or run.is_over,
        until_ns=run.start_ns + end_ns,
        tick=lambda: show.update(run, 0.0),
    )
    return run


async def _real(
    scenario: Scenario,
    seed: int,
    edition: int | None,
    end_ns: int,
    stop: _Stop,
    show: RunWatch,
    target: _Target,
    sources: list[str],
    speed: float,
    metrics: tuple[str, int] | None,
) -> tuple[Run, Result, dict[str, Any]]:
    driver = RealTimeDriver(speed=speed)
    uplinks: list[TcpUplink] = []
    addresses = cycle(sources) if sources else None
    async with httpx.AsyncClient() as client:

        def uplink(_index: int) -> TcpUplink:
            uplinks.append(
                TcpUplink(
                    driver,
                    client,
                    host=target.host,
                    port=target.port,
                    ssl_context=target.tls,
                    source_address=None if addresses is None else next(addresses),
                )
            )
            return uplinks[-1]

        run = Run(
            scenario,
            seed,
            kernel=driver.kernel,
            uplink=uplink,
            clock_ns=driver.wall_ns,
            lag_ns=lambda: driver.lag_ns,
            edition=edition,
            progress=_building(stop),
        )
        driver.kernel.run_until(driver.wall_ns())
        run.start()
        cpu_s, wall_s = time.process_time(), time.monotonic()

        def finished() -> bool:
            show.update(run, driver.lag_ns / SECOND)
            return stop.asked or run.is_over or driver.kernel.now_ns >= run.start_ns + end_ns

        try:
            async with contextlib.AsyncExitStack() as stack:
                if metrics is not None:
                    await stack.enter_async_context(metrics_server(*metrics, lambda: metrics_text(run, show.late_s)))
                await driver.run(finished, until_ns=run.start_ns + end_ns + round(GRACE_S * speed * SECOND))
        finally:
            generator = {
                "late_s": {"p50": driver.lag_s(0.5), "p99": driver.lag_s(0.99), "max": driver.lag_ns_max / SECOND},
                "cpu_share": round((time.process_time() - cpu_s) / max(time.monotonic() - wall_s, 1e-9), 4),
                "boots_per_s": None if not run.ramp_ns else round(run.started * SECOND / run.ramp_ns, 2),
            }
            # Judged before the links are closed: what closing does is no part of the run.
            result = run.end()
            await asyncio.gather(*(each.close() for each in uplinks), return_exceptions=True)
    return run, result, generator


def _bottleneck(run: Run, generator: dict[str, Any], limit_s: float, end_ns: int, *, stopped: bool) -> str:
    """Why the run gives no verdict; nothing if it does."""
    late_s = generator["late_s"]["p99"]
    if late_s > limit_s:
        return f"the simulator was late: p99 {late_s:.3f} s, limit {limit_s:g} s"
    if generator["cpu_share"] > CPU_SHARE_MAX:
        return f"the simulator used {generator['cpu_share']:.0%} of a core"
    if not stopped and run.kernel.now_ns < run.start_ns + min(end_ns, run.duration_ns):
        return "the simulator did not reach the end of the scenario in time"
    if not stopped and run.started < len(run.units) and end_ns >= run.duration_ns:
        return f"the simulator could start only {run.started:,} of {len(run.units):,} units"
    return ""


def _print_result(console: Console, result: Result, run: Run, code: int, no_verdict: str, replay: str) -> None:
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


def register(app: typer.Typer) -> None:
    """Add the command to *app*."""

    @app.command(name="run")
    def run_command(
        scenario: Annotated[
            str, typer.Argument(metavar="FILE|NAME", help="A scenario file, or the name of a ready scenario.")
        ],
        to: Annotated[
            str | None, typer.Option(metavar="URL", help="The platform: tcp://HOST:PORT or tls://HOST:PORT.")
        ] = None,
        virtual: Annotated[
            bool, typer.Option("--virtual", help="Run in virtual time against the library's own platform end.")
        ] = False,
        count: Annotated[
            int | None, typer.Option(min=1, help="Number of units in all; the groups keep their proportions.")
        ] = None,
        seed: Annotated[int, typer.Option(min=0, help="Seed of the run.")] = DEFAULT_SEED,
        report: Annotated[
            Path | None,
            typer.Option(file_okay=False, help="Write report.html, run.json, junit.xml, units.parquet here."),
        ] = None,
        edition: Annotated[
            int | None, typer.Option(metavar="2016|2025", help="Edition of GB/T 32960.3 for all groups.")
        ] = None,
        speed: Annotated[
            float, typer.Option(min=0.01, max=1000, help="Seconds of the scenario in a real second.")
        ] = 1.0,
        run_for: Annotated[
            float | None, typer.Option(min=0.001, metavar="SECONDS", help="End after this time of the scenario.")
        ] = None,
        source_address: Annotated[
            str | None, typer.Option(metavar="IP[-LAST]", help="Connect from these addresses, such as 127.0.0.2-9.")
        ] = None,
        tls_ca: Annotated[Path | None, typer.Option(help="Certificates that sign the platform's, PEM.")] = None,
        tls_cert: Annotated[Path | None, typer.Option(help="Our own certificate, PEM.")] = None,
        tls_key: Annotated[Path | None, typer.Option(help="Its private key, PEM.")] = None,
        lateness_limit: Annotated[
            float,
            typer.Option(min=0.001, metavar="SECONDS", help="No verdict if the simulator is later than this (p99)."),
        ] = 1.0,
        prometheus: Annotated[
            str | None, typer.Option(metavar="HOST:PORT", help="Serve the figures at http://HOST:PORT/metrics.")
        ] = None,
    ) -> None:
        """Run a scenario against a GB/T 32960 platform and judge it.

        Exit codes: 0 as expected, 2 wrong input, 3 an expectation failed, 4 the simulator was the bottleneck and there is no
        verdict, 129, 130 and 143 stopped by SIGHUP, Ctrl-C or SIGTERM with the full report.
        """
        stop = _Stop()
        with stop.listening():
            try:
                _check_options(
                    to,
                    virtual=virtual,
                    edition=edition,
                    real=bool(source_address or tls_ca or tls_cert or tls_key or speed != 1.0 or prometheus),
                )
                data, name = read_scenario(scenario)
                checked = check(data, name, seed, count=count).scenario
                _check_scenario(checked, name)
                target = None if to is None else _target(to, tls_ca, tls_cert, tls_key)
                sources = _sources(source_address)
                metrics = None if prometheus is None else split_host_port(prometheus)
            except (ConfigurationError, OSError, ValueError) as error:
                _complain(str(error))
                raise typer.Exit(WRONG_USAGE) from error
            options = [
                *(["--virtual"] if virtual else ["--to", str(to)]),
                *([] if count is None else ["--count", str(count)]),
                *([] if edition is None else ["--edition", str(edition)]),
                *([] if speed == 1.0 else ["--speed", f"{speed:g}"]),
                *([] if run_for is None else ["--run-for", f"{run_for:g}"]),
                *([] if source_address is None else ["--source-address", source_address]),
                *(
                    part
                    for option, path in (("--tls-ca", tls_ca), ("--tls-cert", tls_cert), ("--tls-key", tls_key))
                    if path is not None
                    for part in (option, str(path))
                ),
                *([] if lateness_limit == 1.0 else ["--lateness-limit", f"{lateness_limit:g}"]),
                "--seed",
                str(seed),
            ]
            path = scenario if report is None else str(report / "scenario.yaml")
            replay = " ".join(["bmsota-sim run", quote(path), *map(quote, options)])
            given = {
                "version": __version__,
                "python": sys.version.split()[0],
                "scenario": data.decode(),
                "scenario_name": name,
                "seed": seed,
                "options": options,
                "replay": replay,
            }
            end_ns = round(min(checked.duration_s, run_for or checked.duration_s) * SECOND)
            console = _RunConsole()
            code = _carry_out(
                checked,
                seed,
                edition,
                end_ns,
                stop,
                console,
                target,
                sources,
                speed,
                report,
                given,
                lateness_limit,
                metrics,
            )
        raise typer.Exit(code)


def _carry_out(
    scenario: Scenario,
    seed: int,
    edition: int | None,
    end_ns: int,
    stop: _Stop,
    console: Console,
    target: _Target | None,
    sources: list[str],
    speed: float,
    report: Path | None,
    given: dict[str, Any],
    limit_s: float,
    metrics: tuple[str, int] | None,
) -> int:
    for limit in not_simulated(scenario):
        console.print(f"not simulated: {limit}", style="yellow", markup=False, highlight=False, soft_wrap=True)
    generator: dict[str, Any] = {}
    no_verdict = ""
    watch = RunWatch(console, end_ns, is_virtual=target is None)
    try:
        with _locked(report):
            try:
                with watch as show:
                    if target is None:
                        run = _virtual(scenario, seed, edition, end_ns, stop, show)
                        result = run.end()
                    else:
                        run, result, generator = asyncio.run(
                            _real(scenario, seed, edition, end_ns, stop, show, target, sources, speed, metrics)
                        )
            except _StoppedError:
                console.print("stopped before the first unit was switched on", highlight=False)
                code, result = stop.exit_code, unstarted(scenario)
                document = unstarted_document(result, given=given, exit_code=code, series=watch.series)
                _write_report(console, report, document, result, scenario.name)
                return code
            watch.end(run)
            if generator:
                generator["limit_s"] = limit_s
                no_verdict = _bottleneck(run, generator, limit_s, end_ns, stopped=stop.asked)
            code = stop.exit_code if stop.asked else NO_VERDICT if no_verdict else 0 if result.ok else NOT_AS_PLANNED
            document = run_document(
                run,
                result,
                given=given,
                generator=generator,
                exit_code=code,
                series=watch.series,
                no_verdict=no_verdict,
            )
            # Before anything is printed: the reader of our output may be gone.
            is_written = _write_report(console, report, document, result, scenario.name)
            if generator:
                late = generator["late_s"]
                console.print(
                    f"simulator: late p50 {late['p50']:.3f} s, p99 {late['p99']:.3f} s, max {late['max']:.3f} s; "
                    f"{generator['cpu_share']:.0%} of a core; boots {generator['boots_per_s'] or '-'} units/s",
                    highlight=False,
                    soft_wrap=True,
                )
            _print_result(console, result, run, code, no_verdict, given["replay"])
            return code if is_written else FAILED
    except ConfigurationError as error:
        _complain(str(error))
        return WRONG_USAGE


def _write_report(console: Console, folder: Path | None, document: dict[str, Any], result: Result, name: str) -> bool:
    """Write the report if one is wanted. Return whether there is what was asked for."""
    if folder is None:
        return True
    try:
        missing = write_report(folder, document, result, name=name)
    except OSError as error:
        _complain(f"the report is not complete: {error.filename or folder}: {error.strerror or error}")
        return False
    if missing:
        console.print(missing, style="yellow", markup=False, highlight=False, soft_wrap=True)
    return True


def _complain(text: str) -> None:
    Console(stderr=True, soft_wrap=True).print(text, style="red", markup=False, highlight=False)
