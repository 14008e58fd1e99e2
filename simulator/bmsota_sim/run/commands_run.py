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
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self
from urllib.parse import urlsplit

import httpx
import typer
from rich.console import Console

from bmsota import __version__
from bmsota.adapters.tls import client_context
from bmsota.errors import BmsotaError, ConfigurationError
from bmsota_sim._exit_codes import FAILED, NO_VERDICT, NOT_AS_PLANNED, WRONG_USAGE
from bmsota_sim._signals import ending_signals, held_signal
from bmsota_sim.kernel import SECOND, Kernel
from bmsota_sim.realtime import RealTimeDriver, TcpUplink, allow_connections, event_loop
from bmsota_sim.recordings.reading import read_recorded
from bmsota_sim.run.api_access import api_access
from bmsota_sim.run.check import check
from bmsota_sim.run.commands_plan import read_scenario
from bmsota_sim.run.keys import load_run_keys
from bmsota_sim.run.outputs.folder import REPORT_FILES, write_report
from bmsota_sim.run.outputs.prometheus import metrics_server, metrics_text, split_host_port
from bmsota_sim.run.outputs.run_json import run_document, unstarted_document
from bmsota_sim.run.outputs.screen import progress_line
from bmsota_sim.run.outputs.watch import RunWatch
from bmsota_sim.run.replay import scenario_sha256
from bmsota_sim.run.runner import Run, unstarted
from bmsota_sim.run.scenario_task import ScenarioTask
from bmsota_sim.run.steering import SOCKET_NAME, SteeringSocket, load_steered, steer_again
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink, run_virtual

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable, Iterator

    from bmsota_sim.recordings.playback import Played
    from bmsota_sim.run.api_access import ApiAccess
    from bmsota_sim.run.keys import RunKeys
    from bmsota_sim.run.model import FleetScenario
    from bmsota_sim.run.runner import Result

__all__ = ["register"]

DEFAULT_SEED = 1
DEFAULT_PORT = 32960
# What the kernel may be behind at the end and still finish the scenario.
GRACE_S = 10.0
# The last of a machine's time: beyond this share of one core the kernel cannot catch up.
CPU_SHARE_MAX = 0.97
# One answer of the REST API.
API_TIMEOUT_S = 30.0
STOP_LOOK_S = 0.2
DEFAULT_MAILBOX = "audit@bmsota.example"


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


class _More(NamedTuple):
    """What a run may be given beside a scenario and a platform."""

    keys: RunKeys
    api: ApiAccess | None
    ca: Path | None
    """Certificates that sign the API's."""
    steered: list[dict[str, Any]]
    """By what an earlier run was steered."""
    socket: Path | None
    """Where to listen for `bmsota-sim ctl`; None: in the folder of the report."""
    metrics: tuple[str, int] | None
    """Where to serve figures to Prometheus."""
    played: Played | None
    """Recorded vehicles, in place of simulated ones."""


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
            "--virtual opens no connection: leave out --speed, --source-address, --tls-..., --api, --prometheus"
        )


def _check_recording(scenario: str | None, *, edition: int | None, api: str | None) -> None:
    if scenario is not None:
        raise ConfigurationError(f"give a scenario or --recording, not both ({scenario})")
    if edition is not None or api is not None:
        raise ConfigurationError(
            "--recording: its vehicles have their edition, and no upgrade; leave out --edition, --api"
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


def _building(stop: _Stop) -> Callable[[int], object]:
    def progress(_built: int) -> None:
        if stop.asked:
            raise _StoppedError

    return progress


class _Steering:
    """The socket of a run, if it has one."""

    def __init__(self, socket: SteeringSocket | None) -> None:
        self._socket = socket

    @property
    def is_stopped(self) -> bool:
        return self._socket is not None and self._socket.is_stopped

    @property
    def steered(self) -> list[dict[str, Any]]:
        return [] if self._socket is None else self._socket.steered

    def poll(self, run: Run, lag_s: float) -> None:
        if self._socket is not None:
            self._socket.poll(run, lambda: progress_line(run, lag_s))

    @classmethod
    @contextlib.contextmanager
    def listening(cls, path: Path | None, report: Path | None, console: Console) -> Iterator[Self]:
        """Listen at *path*; without one in *report*, if that goes."""
        socket = None
        if path is not None:
            socket = SteeringSocket(path)
        elif report is not None:
            try:
                socket = SteeringSocket(report / SOCKET_NAME)
            except ConfigurationError as error:
                console.print(
                    f"cannot be steered: {error}; give --ctl PATH",
                    style="yellow",
                    markup=False,
                    highlight=False,
                    soft_wrap=True,
                )
        try:
            yield cls(socket)
        finally:
            if socket is not None:
                socket.close()


def _virtual(
    scenario: FleetScenario,
    seed: int,
    edition: int | None,
    end_ns: int,
    stop: _Stop,
    show: RunWatch,
    more: _More,
    steering: _Steering,
) -> Run:
    kernel, platform = Kernel(VIRTUAL_START_NS), SessionPlatform()
    run = Run(
        scenario,
        seed,
        kernel=kernel,
        uplink=lambda _index: MemoryUplink(kernel, platform, delay_ns=0),
        edition=edition,
        keys=more.keys,
        played=more.played,
        progress=_building(stop),
    )
    steer_again(run, more.steered)
    run.start()

    def tick() -> None:
        show.update(run, 0.0)
        steering.poll(run, 0.0)

    run_virtual(
        kernel, lambda: stop.asked or steering.is_stopped or run.is_over, until_ns=run.start_ns + end_ns, tick=tick
    )
    return run


async def _real(
    scenario: FleetScenario,
    seed: int,
    edition: int | None,
    end_ns: int,
    stop: _Stop,
    show: RunWatch,
    target: _Target,
    sources: list[str],
    speed: float,
    more: _More,
    steering: _Steering,
) -> tuple[Run, Result, dict[str, Any]]:
    allow_connections(scenario.unit_count)
    driver = RealTimeDriver(speed=speed)
    uplinks: list[TcpUplink] = []
    addresses = cycle(sources) if sources else None
    # As many connections as units; what is idle is closed.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    verify = client_context(ca=more.ca) if more.ca is not None else True
    async with httpx.AsyncClient(limits=limits, verify=verify) as client, contextlib.AsyncExitStack() as stack:

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
            keys=more.keys,
            played=more.played,
            origins=() if more.api is None else (more.api.origin,),
            progress=_building(stop),
        )
        steer_again(run, more.steered)
        task = None if more.api is None else await _prepared_task(run, more.api, verify, stop, show, stack)
        driver.kernel.run_until(driver.wall_ns())
        run.start()
        cpu_s, wall_s = time.process_time(), time.monotonic()
        playing = None if task is None else asyncio.create_task(task.carry_out())

        def finished() -> bool:
            show.update(run, driver.lag_ns / SECOND)
            steering.poll(run, driver.lag_ns / SECOND)
            if playing is not None and playing.done():
                playing.result()  # What fails on the platform is told; anything else is a fault of ours.
            is_stopped = stop.asked or steering.is_stopped
            return is_stopped or run.is_over or driver.kernel.now_ns >= run.start_ns + end_ns

        try:
            if more.metrics is not None:
                await stack.enter_async_context(metrics_server(*more.metrics, lambda: metrics_text(run, show.late_s)))
            await driver.run(finished, until_ns=run.start_ns + end_ns + round(GRACE_S * speed * SECOND))
        finally:
            if task is not None and playing is not None:
                playing.cancel()
                await asyncio.wait({playing})
                await _last_look(task, driver)
            generator = {
                "late_s": {"p50": driver.lag_s(0.5), "p99": driver.lag_s(0.99), "max": driver.lag_ns_max / SECOND},
                "cpu_share": round((time.process_time() - cpu_s) / max(time.monotonic() - wall_s, 1e-9), 4),
                "boots_per_s": None if not run.ramp_ns else round(run.started * SECOND / run.ramp_ns, 2),
            }
            # Judged before the links are closed: what closing does is no part of the run.
            result = run.end()
            await asyncio.gather(*(each.close() for each in uplinks), return_exceptions=True)
    return run, result, generator


async def _prepared_task(
    run: Run,
    api: ApiAccess,
    verify: ssl.SSLContext | bool,
    stop: _Stop,
    show: RunWatch,
    stack: contextlib.AsyncExitStack,
) -> ScenarioTask:
    """The run's task, with all that it needs before the first unit is switched on."""
    people = await stack.enter_async_context(httpx.AsyncClient(base_url=api.url, timeout=API_TIMEOUT_S, verify=verify))
    codes = await api.open_codes()
    if codes is not None:
        stack.push_async_callback(codes.close)
    task = ScenarioTask(run, people, api.accounts, codes, say=show.say)
    preparing = asyncio.ensure_future(task.prepare())
    while not preparing.done():
        await asyncio.wait({preparing}, timeout=STOP_LOOK_S)
        if stop.asked and not preparing.done():
            preparing.cancel()
            await asyncio.wait({preparing})
            raise _StoppedError
    preparing.result()
    return task


async def _last_look(task: ScenarioTask, driver: RealTimeDriver) -> None:
    """Ask the platform once more, while the units' links go on."""
    looking = asyncio.ensure_future(task.finish())
    await driver.run(looking.done, until_ns=driver.wall_ns() + round(API_TIMEOUT_S * SECOND))
    if not looking.done():
        looking.cancel()
    await asyncio.wait({looking})


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


def _nothing_judged(run: Run) -> str:
    """Why a run that ended early gives no verdict although nothing failed; nothing if something was judged, or nothing is expected."""
    if not run.verdicts or any(verdict.passed is not None for verdict in run.verdicts):
        return ""
    ran_s = (run.kernel.now_ns - run.start_ns) / SECOND
    return f"the run ended at {ran_s:g} s, before any of its {len(run.verdicts):,} expectations was due"


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
            str | None, typer.Argument(metavar="FILE|NAME", help="A scenario file, or the name of a ready scenario.")
        ] = None,
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
        keys: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Keys that the units trust and sign with, TOML; default: the samples'."),
        ] = None,
        order_key: Annotated[
            Path | None,
            typer.Option(metavar="FILE", help="Let the units trust upgrade orders signed by this public key, PEM."),
        ] = None,
        api: Annotated[
            str | None,
            typer.Option(
                metavar="URL", help="REST API of our platform: register the vehicles, carry out the OTA task."
            ),
        ] = None,
        api_user: Annotated[
            str,
            typer.Option(metavar="NAME", help="Account of an operator; its password is in BMSOTA_SIM_API_PASSWORD."),
        ] = "operator",
        api_admin: Annotated[
            str | None,
            typer.Option(
                metavar="NAME",
                help="Administrator who sets the project's audit mailbox; password in BMSOTA_SIM_API_ADMIN_PASSWORD.",
            ),
        ] = None,
        api_auditor: Annotated[
            str | None,
            typer.Option(
                metavar="NAME",
                help="Auditor whom the task names and who enters the code; password in BMSOTA_SIM_API_AUDITOR_PASSWORD.",
            ),
        ] = None,
        audit_mailbox: Annotated[
            str, typer.Option(metavar="ADDRESS", help="The mailbox that --api-admin sets.")
        ] = DEFAULT_MAILBOX,
        mail_listen: Annotated[
            str | None, typer.Option(metavar="HOST:PORT", help="Receive the mail with the approval code here, by SMTP.")
        ] = None,
        code_command: Annotated[
            str | None,
            typer.Option(metavar="CMD", help="Get the approval code from this command; the task is in BMSOTA_TASK."),
        ] = None,
        ctl: Annotated[
            Path | None,
            typer.Option(metavar="PATH", help="Listen for 'bmsota-sim ctl' at this socket; default: in --report."),
        ] = None,
        steered: Annotated[
            Path | None,
            typer.Option(
                metavar="RUN.JSON", help="Do what the run of this run.json was steered by, at the same times."
            ),
        ] = None,
        recording: Annotated[
            list[str] | None,
            typer.Option(
                metavar="FILE",
                help="In place of a scenario: send what these captures, logs or exports hold, vehicle by vehicle.",
            ),
        ] = None,
        loop: Annotated[int, typer.Option(min=1, metavar="N", help="Send the recording so often.")] = 1,
        gap_max: Annotated[
            float | None,
            typer.Option(min=1, metavar="SECONDS", help="Shorten what is longer than this without a frame."),
        ] = None,
        keep_times: Annotated[
            bool, typer.Option("--keep-times", help="Leave the times in recorded reports as they are.")
        ] = False,
        prometheus: Annotated[
            str | None, typer.Option(metavar="HOST:PORT", help="Serve the figures at http://HOST:PORT/metrics.")
        ] = None,
    ) -> None:
        """Run a scenario against a GB/T 32960 platform and judge it.

        Exit codes: 0 as expected, 2 wrong input, 3 an expectation failed, 4 no verdict: the simulator was the bottleneck, or the run
        ended before anything was judged, 129, 130 and 143 stopped by SIGHUP, Ctrl-C or SIGTERM with the full report.
        """
        stop = _Stop()
        with stop.listening():
            try:
                _check_options(
                    to,
                    virtual=virtual,
                    edition=edition,
                    real=bool(source_address or tls_ca or tls_cert or tls_key or speed != 1.0 or api or prometheus),
                )
                played = None
                if recording:
                    _check_recording(scenario, edition=edition, api=api)
                    found = read_recorded(recording, count=count, seed=seed, loops=loop, gap_max_s=gap_max)
                    played, data, name = found.played(shift=not keep_times), found.scenario_text(), "recording"
                    skipped = found.skipped
                    checked = check(data, name, seed).scenario
                elif scenario is None:
                    raise ConfigurationError("give a scenario, the name of a ready one, or --recording FILE")
                else:
                    data, name = read_scenario(scenario)
                    skipped = {}
                    checked = check(data, name, seed, count=count).scenario
                more = _More(
                    keys=load_run_keys(keys, order_key),
                    api=api_access(
                        checked,
                        name=name,
                        api=api,
                        user=api_user,
                        admin=api_admin,
                        auditor=api_auditor,
                        mailbox=audit_mailbox,
                        mail_listen=mail_listen,
                        code_command=code_command,
                        speed=speed,
                        has_order_key=order_key is not None or keys is not None,
                        environment=os.environ,
                    ),
                    ca=tls_ca,
                    steered=[] if steered is None else load_steered(steered),
                    socket=ctl,
                    metrics=None if prometheus is None else split_host_port(prometheus),
                    played=played,
                )
                target = None if to is None else _target(to, tls_ca, tls_cert, tls_key)
                sources = _sources(source_address)
            except (BmsotaError, OSError, ValueError) as error:
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
                *(
                    part
                    for option, value in (
                        ("--keys", keys),
                        ("--order-key", order_key),
                        ("--api", api),
                        ("--api-user", api and api_user),
                        ("--api-admin", api_admin),
                        ("--api-auditor", api_auditor),
                        ("--audit-mailbox", api_admin and audit_mailbox),
                        ("--mail-listen", mail_listen),
                        ("--code-command", code_command),
                    )
                    if value is not None
                    for part in (option, str(value))
                ),
                *(part for path in recording or () for part in ("--recording", path)),
                *([] if loop == 1 else ["--loop", str(loop)]),
                *([] if gap_max is None else ["--gap-max", f"{gap_max:g}"]),
                *(["--keep-times"] if keep_times else []),
                "--seed",
                str(seed),
            ]
            path = scenario if report is None or recording else str(report / "scenario.yaml")
            replay = " ".join(["bmsota-sim run", *([] if path is None else [quote(path)]), *map(quote, options)])
            given = {
                "version": __version__,
                "python": sys.version.split()[0],
                "scenario": data.decode(),
                "scenario_sha256": scenario_sha256(data.decode()),
                "scenario_name": name,
                "seed": seed,
                "options": options,
                "replay": replay,
            }
            end_ns = round(min(checked.duration_s, run_for or checked.duration_s) * SECOND)
            console = _RunConsole()
            for what, number in skipped.items():
                console.print(
                    f"not sent: {number:,} {what}", style="yellow", markup=False, highlight=False, soft_wrap=True
                )
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
                more,
            )
        raise typer.Exit(code)


def _record_steering(given: dict[str, Any], steered: list[dict[str, Any]], report: Path | None) -> None:
    """What was steered belongs to what the run was given, and to the command that runs it again."""
    if steered:
        given["steered"] = steered
        if report is not None:
            given["replay"] += f" --steered {quote(str(report / 'run.json'))}"


def _carry_out(
    scenario: FleetScenario,
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
    more: _More,
) -> int:
    generator: dict[str, Any] = {}
    no_verdict = ""
    watch = RunWatch(console, end_ns, is_virtual=target is None)
    try:
        with _locked(report):
            try:
                with _Steering.listening(more.socket, report, console) as steering, watch as show:
                    if target is None:
                        run = _virtual(scenario, seed, edition, end_ns, stop, show, more, steering)
                        result = run.end()
                    else:
                        loop_name, loop_factory = event_loop()
                        with asyncio.Runner(loop_factory=loop_factory) as runner:
                            run, result, generator = runner.run(
                                _real(
                                    scenario, seed, edition, end_ns, stop, show, target, sources, speed, more, steering
                                )
                            )
                        generator["event_loop"] = loop_name
            except _StoppedError:
                console.print("stopped before the first unit was switched on", highlight=False)
                code, result = stop.exit_code, unstarted(scenario)
                document = unstarted_document(result, given=given, exit_code=code, series=watch.series)
                _write_report(console, report, document, result, scenario.name)
                return code
            watch.end(run)
            _record_steering(given, [*more.steered, *steering.steered], report)
            is_stopped = stop.asked or steering.is_stopped
            if generator:
                generator["limit_s"] = limit_s
                no_verdict = _bottleneck(run, generator, limit_s, end_ns, stopped=is_stopped)
            no_verdict = no_verdict or (_nothing_judged(run) if result.ok else "")
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
                    f"{generator['cpu_share']:.0%} of a core; boots {generator['boots_per_s'] or '-'} units/s; "
                    f"{generator['event_loop']}",
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
