"""`bmsota-sim run`: a scenario against a platform, in real time over TCP or in virtual time against the library's own end."""

from __future__ import annotations

import asyncio
import contextlib
import os
import signal
from dataclasses import replace
from pathlib import Path  # noqa: TC003 - typer reads the annotations
from shlex import quote
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple, Self

import httpx
import typer

from bmsota.errors import BmsotaError, ConfigurationError, MissingExtraError
from bmsota_sim._exit_codes import FAILED, NO_VERDICT, WRONG_USAGE
from bmsota_sim._signals import ending_signals, held_signal
from bmsota_sim.kernel import SECOND
from bmsota_sim.realtime import run_on_links
from bmsota_sim.run.api_access import api_access
from bmsota_sim.run.check import check
from bmsota_sim.run.commands_plan import read_scenario
from bmsota_sim.run.driving import Generator, Hooks, StoppedError, carry_out, carry_out_virtual, verify_context
from bmsota_sim.run.ending import Carried, RunConsole, complain, document_given, locked, tell_result, write_files
from bmsota_sim.run.given import ApiOptions, RunGiven, prepare
from bmsota_sim.run.judged import unstarted
from bmsota_sim.run.outputs.prometheus import metrics_server, metrics_text, split_host_port
from bmsota_sim.run.outputs.run_json import unstarted_document
from bmsota_sim.run.outputs.screen import progress_line
from bmsota_sim.run.outputs.watch import RunProgress, RunWatch
from bmsota_sim.run.scenario_task import ScenarioTask
from bmsota_sim.run.shards.carrying import carry_out_alone
from bmsota_sim.run.shards.cluster import dask_host
from bmsota_sim.run.shards.coordinating import Coordinator
from bmsota_sim.run.shards.files import write_part
from bmsota_sim.run.shards.part import Shard, shard_units
from bmsota_sim.run.shards.processes import ProcessHost
from bmsota_sim.run.steering import SOCKET_NAME, SteeringSocket, load_steered

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rich.console import Console

    from bmsota_sim.realtime import RealTimeDriver
    from bmsota_sim.run.api_access import ApiAccess
    from bmsota_sim.run.given import Prepared
    from bmsota_sim.run.judged import JudgedRun, Result
    from bmsota_sim.run.runner import Run
    from bmsota_sim.run.shards.coordinating import ShardHost
    from bmsota_sim.run.shards.together import ShardedRun

__all__ = ["register"]

DEFAULT_SEED = 1
# The last of a machine's time: beyond this share of one core the kernel cannot catch up.
CPU_SHARE_MAX = 0.97
# One answer of the REST API.
API_TIMEOUT_S = 30.0
STOP_LOOK_S = 0.2
DEFAULT_MAILBOX = "audit@bmsota.example"


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


class _Asked(NamedTuple):
    """What this process is to do with a run, beside what the run is given."""

    report: Path | None
    socket: Path | None
    """Where to listen for `bmsota-sim ctl`; None: in the folder of the report."""
    metrics: tuple[str, int] | None
    """Where to serve figures to Prometheus."""
    api: ApiAccess | None


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

    def poll(self, run: Run | ShardedRun, lag_s: float) -> None:
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


def _in_this_process(prepared: Prepared, stop: _Stop, show: RunWatch, steering: _Steering, asked: _Asked) -> Carried:
    results: list[Result] = []

    def look(run: Run, late_s: float) -> None:
        show.update(run, late_s)
        steering.poll(run, late_s)

    hooks = Hooks(
        is_stopped=lambda: stop.asked or steering.is_stopped,
        look=look,
        ended=lambda run: results.append(run.end()),
        planned=show.sampler.plan,
    )
    generators: tuple[Generator, ...] = ()
    if prepared.target is None:
        run = carry_out_virtual(prepared, hooks)
    else:
        run, generator = run_on_links(_in_real_time(prepared, hooks, show, asked))
        generators = (generator,)
    show.end(run)
    return Carried(run, results[0], generators, show.series, [], reached_ns=(run.at_ns,))


async def _in_real_time(prepared: Prepared, hooks: Hooks, show: RunWatch, asked: _Asked) -> tuple[Run, Generator]:
    async with contextlib.AsyncExitStack() as stack:
        tasks: list[ScenarioTask] = []
        playing: list[asyncio.Task[None]] = []

        async def before(run: Run) -> int:
            if asked.metrics is not None:
                await stack.enter_async_context(metrics_server(*asked.metrics, lambda: metrics_text(run, show.late_s)))
            if asked.api is not None:
                tasks.append(await _opened_task(run, asked.api, prepared, show, stack))
                await _prepare(tasks[0], hooks.is_stopped)
                playing.append(asyncio.create_task(tasks[0].carry_out()))
            return 0

        def look(run: Run, late_s: float) -> None:
            hooks.look(run, late_s)
            for each in playing:
                if each.done():
                    each.result()  # What fails on the platform is told; anything else is a fault of ours.

        async def after(_run: Run, driver: RealTimeDriver) -> None:
            """Ask the platform once more, while the units' links go on."""
            for each in playing:
                each.cancel()
                await asyncio.wait({each})
            for task in tasks:
                looking = asyncio.ensure_future(task.finish())
                await driver.run(looking.done, until_ns=driver.wall_ns() + round(API_TIMEOUT_S * SECOND))
                if not looking.done():
                    looking.cancel()
                await asyncio.wait({looking})

        return await carry_out(prepared, replace(hooks, before=before, look=look, after=after))


async def _opened_task(
    run: JudgedRun, api: ApiAccess, prepared: Prepared, show: RunProgress, stack: contextlib.AsyncExitStack
) -> ScenarioTask:
    """The run's task, with its connection to the platform and where its code comes."""
    verify = verify_context(prepared.given.tls_ca)
    people = await stack.enter_async_context(httpx.AsyncClient(base_url=api.url, timeout=API_TIMEOUT_S, verify=verify))
    codes = await api.open_codes()
    if codes is not None:
        stack.push_async_callback(codes.close)
    return ScenarioTask(run, people, api.accounts, codes, say=show.say)


async def _prepare(task: ScenarioTask, is_stopped: Callable[[], bool]) -> None:
    """All that the task needs before the first unit is switched on."""
    preparing = asyncio.ensure_future(task.prepare())
    while not preparing.done():
        await asyncio.wait({preparing}, timeout=STOP_LOOK_S)
        if is_stopped() and not preparing.done():
            preparing.cancel()
            await asyncio.wait({preparing})
            raise StoppedError
    preparing.result()


def _in_shards(
    prepared: Prepared, count: int, host: ShardHost, stop: _Stop, show: RunProgress, steering: _Steering, asked: _Asked
) -> Carried:
    coordinator = Coordinator(prepared, count, host, show)
    result = asyncio.run(_coordinated(coordinator, prepared, stop, show, steering, asked))
    return Carried(
        coordinator.run,
        result,
        tuple(end.generator for end in coordinator.ends if end.generator is not None),
        coordinator.series(),
        coordinator.shards(),
        tuple(loss.text(count) for loss in coordinator.losses),
        tuple(end.part.at_ns for end in coordinator.ends),
    )


async def _coordinated(
    coordinator: Coordinator, prepared: Prepared, stop: _Stop, show: RunProgress, steering: _Steering, asked: _Asked
) -> Result:
    run, told = coordinator.run, 0

    def is_stopped() -> bool:
        return stop.asked or steering.is_stopped

    def look() -> None:
        nonlocal told
        steering.poll(run, coordinator.late_s)
        for values in steering.steered[told:]:
            coordinator.steer(values)
            told += 1

    async with contextlib.AsyncExitStack() as stack:
        if asked.metrics is not None:
            await stack.enter_async_context(
                metrics_server(*asked.metrics, lambda: metrics_text(run, coordinator.late_s))
            )
        if asked.api is None:
            return await coordinator.carry_out(is_stopped=is_stopped, look=look)
        task = await _opened_task(run, asked.api, prepared, show, stack)

        async def after() -> None:
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(task.finish(), API_TIMEOUT_S)

        return await coordinator.carry_out(
            is_stopped=is_stopped,
            look=look,
            before=lambda: _prepare(task, is_stopped),
            beside=task.carry_out,
            after=after,
        )


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
        workers: Annotated[
            int | None,
            typer.Option(min=1, metavar="N", help="Carry the run out in N processes, each with a share of the units."),
        ] = None,
        dask: Annotated[
            str | None,
            typer.Option(
                metavar="URL", help="Carry it out on the workers of the Dask cluster at tcp://SCHEDULER:8786."
            ),
        ] = None,
        shard: Annotated[
            str | None,
            typer.Option(
                metavar="INDEX/COUNT",
                help="Carry out this shard alone, such as 0/5, and write its part to --report, for 'bmsota-sim merge'.",
            ),
        ] = None,
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
                data, name = b"", "recording"
                if recording:
                    _check_recording(scenario, edition=edition, api=api)
                elif scenario is None:
                    raise ConfigurationError("give a scenario, the name of a ready one, or --recording FILE")
                else:
                    data, name = read_scenario(scenario)
                given = RunGiven(
                    scenario_text=data.decode() if recording else _text(data, name, seed),
                    scenario_name=name,
                    seed=seed,
                    to=to,
                    count=count,
                    edition=edition,
                    speed=speed,
                    run_for_s=run_for,
                    source_address=source_address,
                    tls_ca=_name(tls_ca),
                    tls_cert=_name(tls_cert),
                    tls_key=_name(tls_key),
                    lateness_limit_s=lateness_limit,
                    keys=_name(keys),
                    order_key=_name(order_key),
                    api=None
                    if api is None
                    else ApiOptions(api, api_user, api_admin, api_auditor, audit_mailbox, mail_listen, code_command),
                    recording=tuple(recording or ()),
                    loop=loop,
                    gap_max_s=gap_max,
                    keep_times=keep_times,
                    steered=() if steered is None else tuple(load_steered(steered)),
                    workers=workers,
                    dask=dask,
                )
                _check_workers(given, shard=shard, report=report)
                prepared = prepare(given)
                asked = _Asked(
                    report,
                    ctl,
                    None if prometheus is None else split_host_port(prometheus),
                    api_access(
                        prepared.scenario,
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
                )
                part = None if shard is None else _shard(prepared, shard)
            except (BmsotaError, OSError, ValueError) as error:
                complain(str(error))
                raise typer.Exit(WRONG_USAGE) from error
            console = RunConsole()
            for what, number in prepared.skipped.items():
                console.print(
                    f"not sent: {number:,} {what}", style="yellow", markup=False, highlight=False, soft_wrap=True
                )
            if part is not None:
                assert report is not None
                raise typer.Exit(_carry_out_part(prepared, part, report, stop, console))
            path = scenario if report is None or recording else str(report / "scenario.yaml")
            code = _carry_out(prepared, asked, path, stop, console)
        raise typer.Exit(code)


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)


def _text(data: bytes, name: str, seed: int) -> str:
    """A scenario that is no UTF-8 is told as every other mistake in one."""
    try:
        return data.decode()
    except UnicodeDecodeError:
        check(data, name, seed)
        raise


def _check_workers(given: RunGiven, *, shard: str | None, report: Path | None) -> None:
    if shard is not None:
        if given.workers is not None or given.dask is not None or given.api is not None:
            raise ConfigurationError("--shard carries one shard out alone: leave out --workers, --dask, --api")
        if report is None:
            raise ConfigurationError("--shard: its part of the report must go somewhere: give --report FOLDER")
    if (shard is not None or given.workers is not None or given.dask is not None) and "-" in given.recording:
        raise ConfigurationError("--recording -: every shard reads the recording; give a file")


def _shard(prepared: Prepared, text: str) -> Shard:
    """`2/5`: the third of five."""
    index, slash, count = text.partition("/")
    if (
        not slash
        or not all(each.isascii() and each.isdigit() for each in (index, count))
        or not int(index) < int(count)
    ):
        raise ConfigurationError(f"--shard: expected INDEX/COUNT with an index from 0, such as 0/5, got {text}")
    shard_units(prepared.scenario, int(index), int(count))
    return Shard(prepared.given, int(index), int(count))


def _carry_out(prepared: Prepared, asked: _Asked, path: str | None, stop: _Stop, console: Console) -> int:
    scenario, report = prepared.scenario, asked.report
    watch = RunWatch(console, prepared.end_ns, is_virtual=prepared.target is None)
    try:
        with locked(report):
            count, host = _shards(prepared.given)
            if host is not None:  # A cluster has as many shards as workers, unless it is said.
                prepared = prepared._replace(given=replace(prepared.given, workers=count))
            given = prepared.given
            told = document_given(prepared, given.command(path))
            try:
                with _Steering.listening(asked.socket, report, console) as steering, watch as show:
                    carried = (
                        _in_this_process(prepared, stop, show, steering, asked)
                        if host is None
                        else _in_shards(prepared, count, host, stop, show, steering, asked)
                    )
            except StoppedError:
                console.print("stopped before the first unit was switched on", highlight=False)
                code, result = stop.exit_code if stop.asked else NO_VERDICT, unstarted(scenario)
                document = unstarted_document(result, given=told, exit_code=code, series=watch.series)
                write_files(console, report, document, result, scenario.name)
                return code
            steered = [*given.steered, *steering.steered]
            if steered:
                # It belongs to what the run was given, and to the command that runs it again.
                told["steered"] = steered
                if report is not None:
                    told["replay"] += f" --steered {quote(str(report / 'run.json'))}"
            return tell_result(
                prepared,
                carried,
                told,
                console,
                report,
                is_stopped=stop.asked or steering.is_stopped,
                stopped_code=stop.exit_code if stop.asked else 0,
            )
    except (BmsotaError, OSError) as error:
        if not isinstance(error, ConfigurationError | MissingExtraError | OSError):
            raise
        complain(str(error))
        return WRONG_USAGE


def _shards(given: RunGiven) -> tuple[int, ShardHost | None]:
    """How many shards there are, and where they run; nowhere: this process carries the run out."""
    if given.dask is not None:
        return dask_host(given.dask, given.workers, is_real=not given.is_virtual)
    if given.workers is None:
        return 1, None
    return given.workers, ProcessHost()


def _carry_out_part(prepared: Prepared, shard: Shard, report: Path, stop: _Stop, console: Console) -> int:
    """Carry one shard out alone, and write its part."""
    with RunProgress(console) as show:
        try:
            end = carry_out_alone(
                prepared,
                shard,
                is_stopped=lambda: stop.asked,
                show=lambda run, late_s: show.show(run, late_s, None),
            )
        except StoppedError:
            console.print("stopped before the first unit was switched on", highlight=False)
            return stop.exit_code
        except ConfigurationError as error:
            complain(str(error))
            return WRONG_USAGE
    try:
        path = write_part(report, shard, prepared.given, end)
    except OSError as error:
        complain(f"the part is not complete: {error.filename or report}: {error.strerror or error}")
        return FAILED
    console.print(
        f"{shard}: {len(end.hashes):,} units, {end.part.at_ns / SECOND:g} s; wrote {path}",
        markup=False,
        highlight=False,
        soft_wrap=True,
    )
    return stop.exit_code if stop.asked else 0
