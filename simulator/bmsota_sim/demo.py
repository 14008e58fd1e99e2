"""The main job, end to end: an embedded cloud beside a fleet. The one file that knows both.

The campaign is played through the platform's REST API in either time. In real time the platform runs with real sockets,
SQLite files and an SMTP server; in virtual time the same platform is driven through functions, its API is called as an
application in this process, and the whole scenario takes seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import signal
import tempfile
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
from bmsota_cloud.domain.accounts import Role
from bmsota_cloud.services import PlatformKeys, PlatformSettings
from bmsota_cloud.wiring import RunningCloud, ServeOptions, build_app, build_cloud, utc_time
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from bmsota.adapters.files import packaged_dbc
from bmsota.errors import ConfigurationError
from bmsota.image import load_public_key
from bmsota.signals import loads
from bmsota_sim.devices.master import UnitKeys
from bmsota_sim.devices.unit import FactoryImages
from bmsota_sim.fleet import Fleet
from bmsota_sim.kernel import MS, SECOND, Kernel
from bmsota_sim.operator import OPEN_STATUSES, Operator, PlatformRefusedError
from bmsota_sim.profiles import PROFILES
from bmsota_sim.realtime import RealTimeDriver, TcpUplink
from bmsota_sim.samples import sample_file, sample_names
from bmsota_sim.scenario import CorruptByte, DownloadCut, SlavePowerCut, SlaveReplaced
from bmsota_sim.streams import stream, stream_bytes
from bmsota_sim.virtual import MemoryUplink, run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota_cloud.gateway import GatewayLink
    from bmsota_cloud.wiring import Cloud

    from bmsota.ota import HttpRequest, HttpResponse
    from bmsota.signals import Database
    from bmsota_sim.devices.unit import Unit
    from bmsota_sim.operator import UpgradeRow
    from bmsota_sim.scenario import Campaign, Fault, Scenario

__all__ = ["DemoResult", "DemoWatcher", "KeptDemo", "VehicleResult", "run_real", "run_virtual_demo"]

# Where virtual time starts: any moment will do, as long as it is the same in every run.
VIRTUAL_START_NS = 1_795_305_600 * SECOND

PASSWORD = "demo demo demo"  # noqa: S105 - the login of a platform that lives for minutes on 127.0.0.1
OPERATOR, AUDITOR, VIEWER = "operator", "auditor", "viewer"
FACTORY_VERSION = "2.0.0"

# How often the task is asked for its state while it runs, and how long the auditor's mail may take.
POLL_S = 0.5
MAIL_TIMEOUT_S = 20.0
# After the last vehicle has ended: time for acknowledgements on their way.
SETTLE_S = 2.0
FOR_EVER_NS = 2**62


class DemoWatcher:
    """Who is told how the run goes. The command line shows it; a test may not care."""

    def said(self, text: str) -> None:
        """Something happened that a person would be told."""

    def started(self, fleet: Fleet) -> None:
        """The fleet exists."""

    def progressed(self, rows: Sequence[UpgradeRow], at_s: float) -> None:
        """The task's newest state."""


@dataclass(frozen=True, slots=True)
class VehicleResult:
    """How one vehicle ended, and what the scenario says about it."""

    name: str
    vin: str
    expected: str
    row: UpgradeRow
    frames: int
    bytes_down: int
    bytes_up: int
    changes: tuple[tuple[int, str, str], ...]
    story: tuple[str, ...]
    """What did not go straight, in the order in which it happened."""
    problems: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class DemoResult:
    """The end of a run."""

    scenario: str
    seed: int
    seconds: float
    """Of the run's own time."""
    is_virtual: bool
    trace_hash: str
    """Over every byte and event; in virtual time the same for the same scenario and seed."""
    vehicles: tuple[VehicleResult, ...]
    wrong_code_refused: bool

    @property
    def problems(self) -> list[str]:
        found = [f"{vehicle.name}: {problem}" for vehicle in self.vehicles for problem in vehicle.problems]
        if not self.wrong_code_refused:
            found.append("the platform took a wrong approval code")
        return found

    @property
    def ok(self) -> bool:
        return not self.problems


@dataclass(slots=True)
class _Campaign:
    """The campaign as it is played: what it needs, and what it has come to."""

    fleet: Fleet
    operator: Operator
    auditor: Operator
    newest_code: Callable[[], str | None]
    watcher: DemoWatcher
    task_id: int = 0
    wrong_code_refused: bool = False
    rows: list[UpgradeRow] = field(default_factory=list)

    async def prepare(self) -> None:
        """Log in and register the vehicles, as a maker does before they are delivered."""
        campaign = _plan(self.fleet)
        await self.operator.log_in(OPERATOR, PASSWORD)
        await self.auditor.log_in(AUDITOR, PASSWORD)
        for unit in self.fleet.units:
            await self.operator.register_vehicle(
                vin=unit.identity.vin,
                series=unit.profile.series,
                project=campaign.project,
                hwid=unit.identity.master_hwid,
                device_public_key=_raw(unit.identity.device_key.public_key()),
            )
        self.watcher.said(f"registered {len(self.fleet.units)} vehicles of project {campaign.project!r}")

    async def create(self) -> None:
        """Upload the releases and create the task; the platform mails the auditor a code."""
        campaign = _plan(self.fleet)
        for series in sorted({unit.profile.series for unit in self.fleet.units}):
            manifest, images = _release(series, campaign.software_version)
            name = await self.operator.upload_release(manifest, images)
            self.watcher.said(f"uploaded release {name}: manifest and {len(images)} images, verified by the platform")
        self.task_id = await self.operator.create_task(
            project=campaign.project,
            reason=campaign.reason,
            software_version=campaign.software_version,
            vins=[unit.identity.vin for unit in self.fleet.units],
            auditor=AUDITOR,
        )
        self.watcher.said(f"created task {self.task_id}: {campaign.software_version}, {campaign.reason!r}")

    async def approve(self) -> bool:
        """Try a wrong code, then the mailed one. False while the mail has not come."""
        code = self.newest_code()
        if code is None:
            return False
        wrong = f"{(int(code) + 1) % 1_000_000:06d}"
        try:
            await self.auditor.approve(self.task_id, wrong)
        except PlatformRefusedError as refusal:
            self.wrong_code_refused = refusal.code == "wrong-code"
            self.watcher.said(f"a wrong code is refused: {refusal}")
        await self.auditor.approve(self.task_id, code)
        self.watcher.said("the auditor's mailed code is right: the task starts")
        return True

    async def look(self, at_s: float) -> None:
        """Ask the platform how far everybody is."""
        if self.task_id:
            self.rows = await self.operator.upgrades(self.task_id)
            self.watcher.progressed(self.rows, at_s)

    @property
    def ended(self) -> bool:
        return bool(self.rows) and all(row.status not in OPEN_STATUSES for row in self.rows)

    async def result(self, seconds: float, *, is_virtual: bool) -> DemoResult:
        rows = {row.vin: row for row in self.rows}
        vehicles = []
        for number, unit in enumerate(self.fleet.units, start=1):
            row = rows[unit.identity.vin]
            changes = tuple(await self.operator.equipment_changes(unit.identity.vin))
            sources = await self.operator.upgrade_sources(unit.identity.vin)
            vehicles.append(_vehicle_result(self.fleet, number, unit, row, changes, sources))
        return DemoResult(
            scenario=self.fleet.scenario.name,
            seed=self.fleet.seed,
            seconds=seconds,
            is_virtual=is_virtual,
            trace_hash=self.fleet.trace.digest(),
            vehicles=tuple(vehicles),
            wrong_code_refused=self.wrong_code_refused,
        )


def _plan(fleet: Fleet) -> Campaign:
    campaign = fleet.scenario.campaign
    if campaign is None:
        raise ConfigurationError(f"scenario {fleet.scenario.name}: expected a campaign, got none")
    return campaign


def _vehicle_result(
    fleet: Fleet,
    number: int,
    unit: Unit,
    row: UpgradeRow,
    changes: tuple[tuple[int, str, str], ...],
    sources: Sequence[str],
) -> VehicleResult:
    expected = fleet.scenario.expected_status(number)
    problems = []
    if row.status != expected:
        problems.append(f"expected {expected!r}, got {row.status!r} ({row.reason or 'no reason'})")
    problems += [
        problem
        for fault in fleet.scenario.faults
        if fault.vehicle == number
        for problem in _fault_problems(fault, unit, changes)
    ]
    if expected != "Upgrade succeeded" and row.status == expected and not row.reason:
        problems.append(f"{expected!r} has no reason")
    if list(sources) != ["OTA"]:
        problems.append(f"expected one OTA upgrade in the history, got {', '.join(sources) or 'nothing'}")
    figures = unit.master.figures
    return VehicleResult(
        name=unit.name,
        vin=unit.identity.vin,
        expected=expected,
        row=row,
        frames=unit.bus.frames,
        bytes_down=unit.modem.http_bytes + figures.stream_bytes_received,
        bytes_up=figures.stream_bytes_sent,
        changes=changes,
        story=_story(fleet, number, unit),
        problems=tuple(problems),
    )


def _story(fleet: Fleet, number: int, unit: Unit) -> tuple[str, ...]:
    """What the scenario did to this vehicle, and what its units said of it."""
    told: list[str] = []
    plan = fleet.scenario.vehicles.get(number)
    if plan is not None and plan.offline is not None:
        told.append(f"offline from {plan.offline.from_s:g} to {plan.offline.to_s:g} s")
    if plan is not None and plan.driving is not None:
        told.append(f"driving from {plan.driving.from_s:g} to {plan.driving.to_s:g} s")
    told += unit.master.figures.remarks
    told += [
        f"slave {slave.position} lost power inside a flash operation and was resumed"
        for slave in unit.slaves
        if slave.power_cut_plan is not None and slave.power_cut_plan.happened
    ]
    return tuple(told)


def _fault_problems(fault: Fault, unit: Unit, changes: Sequence[tuple[int, str, str]]) -> list[str]:
    """A scenario must also reach its faults: one that did not happen proves nothing."""
    match fault:
        case DownloadCut() | CorruptByte():
            if not any(happened.startswith(fault.kind) for happened in unit.modem.faults_happened):
                return [f"the planned {fault.kind} did not happen"]
        case SlavePowerCut(slave=slave):
            plan = unit.slaves[slave - 1].power_cut_plan
            if plan is None or not plan.happened:
                return [f"the planned power cut of slave {slave} did not happen"]
        case SlaveReplaced(slave=slave):
            if not any(position == slave for position, _, _ in changes):
                return [f"the replacement of slave {slave} was not recorded"]
        case _:
            pass
    return []


# -- what both times share ------------------------------------------------------------------------------------------------


def _raw(key: Ed25519PublicKey) -> bytes:
    return key.public_bytes(Encoding.Raw, PublicFormat.Raw)


def _release(series: str, version: str) -> tuple[bytes, list[bytes]]:
    """A sample release: its manifest and its images."""
    images = [
        sample_file(name)
        for name in sample_names()
        if name.startswith(f"{series}-") and name.endswith(f"-{version}.bin")
    ]
    return sample_file(f"{series}-{version}.manifest.cose"), images


def _factory_images(series: str) -> FactoryImages:
    return FactoryImages(
        sample_file(f"{series}-master-{FACTORY_VERSION}.bin"),
        sample_file(f"{series}-slave-{FACTORY_VERSION}.bin"),
    )


def _keys(seed: int) -> tuple[PlatformKeys, UnitKeys]:
    """The platform's keys and what the units believe: the sample keys, and an order key of this run."""
    order_key = Ed25519PrivateKey.from_private_bytes(stream_bytes(seed, "cloud", "order key"))
    image_key = load_public_key(sample_file("keys/image.SAMPLE.public.pem"))
    manifest_key = load_public_key(sample_file("keys/manifest.SAMPLE.public.pem"))
    assert isinstance(manifest_key, Ed25519PublicKey)
    return (
        PlatformKeys(order_signing_key=order_key, manifest_public_keys=(manifest_key,), image_public_keys=(image_key,)),
        UnitKeys(image_keys=(image_key,), manifest_keys=(manifest_key,), order_keys=(order_key.public_key(),)),
    )


def _create_people(cloud: Cloud) -> None:
    """The accounts of the demo, as `bmsota-cloud create-account` makes them."""
    for name, role in ((OPERATOR, Role.OPERATOR), (AUDITOR, Role.AUDITOR), (VIEWER, Role.VIEWER)):
        cloud.services.accounts.create(
            name=name, email=f"{name}@bmsota.example", role=role, password=PASSWORD, now=cloud.now()
        )


def _code_in(text: str) -> str | None:
    found = re.search(r"Approval code: (\d{6})", text)
    return found.group(1) if found else None


def _databases() -> dict[str, Database]:
    names = {"bms_internal", *(profile.bootloader_dbc for profile in PROFILES.values())}
    return {name: loads(packaged_dbc(name)) for name in sorted(names)}


# -- virtual time ---------------------------------------------------------------------------------------------------------


class _MemoryPlatform:
    """The embedded cloud as the memory uplinks see it."""

    def __init__(self, cloud: Cloud, kernel: Kernel) -> None:
        self._cloud = cloud
        self._kernel = kernel

    def open_link(self, wake: Callable[[], None]) -> GatewayLink:
        return self._cloud.open_link(wake)

    def respond(self, request: HttpRequest) -> HttpResponse:
        return self._cloud.device_respond(request, utc_time(self._kernel.now_ns))


def run_virtual_demo(scenario: Scenario, seed: int, watcher: DemoWatcher | None = None) -> DemoResult:
    """Play *scenario* in virtual time: no sockets, no waiting; the same seed gives the same trace hash."""
    watcher = watcher or DemoWatcher()
    kernel = Kernel(VIRTUAL_START_NS)
    platform_keys, unit_keys = _keys(seed)
    random = stream(seed, "cloud", "draw")
    cloud = build_cloud(
        keys=platform_keys,
        settings=PlatformSettings(device_url="http://cloud.example", pages_url="http://cloud.example"),
        draw=random.randbytes,
        clock=lambda: utc_time(kernel.now_ns),
    )
    try:
        _create_people(cloud)
        platform = _MemoryPlatform(cloud, kernel)
        fleet = Fleet(
            scenario,
            seed,
            kernel=kernel,
            databases=_databases(),
            keys=unit_keys,
            factory_images=_factory_images,
            uplink=lambda _number: MemoryUplink(kernel, platform, delay_ns=scenario.link_delay_ms * MS),
        )
        watcher.started(fleet)
        transport = httpx.ASGITransport(app=build_app(cloud))
        client = httpx.AsyncClient(transport=transport, base_url="http://cloud.example")
        with asyncio.Runner() as runner:
            try:
                return _play_virtual(cloud, fleet, client, watcher, runner)
            finally:
                runner.run(client.aclose())
    finally:
        cloud.close()


def _play_virtual(
    cloud: Cloud, fleet: Fleet, client: httpx.AsyncClient, watcher: DemoWatcher, runner: asyncio.Runner
) -> DemoResult:
    kernel = fleet.kernel
    mails: list[str] = []
    campaign = _Campaign(
        fleet, Operator(client), Operator(client), lambda: _code_in(mails[-1]) if mails else None, watcher
    )
    runner.run(campaign.prepare())
    approved = False

    def create() -> None:
        runner.run(campaign.create())

    def tick() -> None:
        nonlocal approved
        now = utc_time(kernel.now_ns)
        cloud.services.upgrades.expire(now)
        cloud.outbox.drain(now, lambda mail: mails.append(mail.body))
        if campaign.task_id and not approved:
            approved = runner.run(campaign.approve())
        at_ns = kernel.now_ns - fleet.start_ns
        if at_ns // (2 * SECOND) != (at_ns - 100 * MS) // (2 * SECOND):
            runner.run(campaign.look(at_ns / SECOND))

    fleet.start()
    kernel.call_in(round(_plan(fleet).create_at_s * SECOND), create)
    until_ns = fleet.start_ns + round(fleet.scenario.duration_s * SECOND)
    run_virtual(kernel, lambda: campaign.ended, until_ns=until_ns, tick=tick)
    kernel.run_until(kernel.now_ns + round(SETTLE_S * SECOND))
    seconds = (kernel.now_ns - fleet.start_ns) / SECOND
    runner.run(campaign.look(seconds))
    return runner.run(campaign.result(seconds, is_virtual=True))


# -- real time ------------------------------------------------------------------------------------------------------------


class _EmbeddedCloud:
    """The platform with all its doors, in a thread and an event loop of its own."""

    def __init__(self, options: ServeOptions) -> None:
        self._options = options
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="embedded cloud", daemon=True)
        self._running: RunningCloud | None = None

    def __enter__(self) -> RunningCloud:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        assert self._running is not None
        return self._running

    def __exit__(self, *_: object) -> None:
        if self._loop is not None and self._stop is not None:
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=15.0)

    def _run(self) -> None:
        try:
            asyncio.run(self._serve())
        except BaseException as error:  # noqa: BLE001 - handed to the thread that waits for us
            self._failure = error
        finally:
            self._ready.set()

    async def _serve(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._stop = asyncio.Event()
        running = await RunningCloud.start(self._options)
        try:
            await asyncio.to_thread(_create_people, running.cloud)
            self._running = running
            self._ready.set()
            await self._stop.wait()
        finally:
            await running.stop()


@dataclass(frozen=True, slots=True)
class KeptDemo:
    """What a demo that is kept running offers."""

    pages_url: str
    gateway: str
    logins: tuple[str, ...]
    password: str


def run_real(
    scenario: Scenario,
    seed: int,
    watcher: DemoWatcher | None = None,
    *,
    data_dir: Path | None = None,
    keep: Callable[[KeptDemo, DemoResult], None] | None = None,
) -> DemoResult:
    """Play *scenario* in real time over real sockets.

    Args:
        scenario: what happens.
        seed: of the run.
        watcher: is told how it goes.
        data_dir: a fresh folder for databases and mails; None: a temporary one.
        keep: called at the end with the addresses; everything goes on until it is interrupted (KeyboardInterrupt).
    """
    watcher = watcher or DemoWatcher()
    with contextlib.ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bmsota-demo-")))
        platform_keys, unit_keys = _keys(seed)
        options = ServeOptions(keys=platform_keys, data_dir=folder, mail_folder=folder / "mails")
        running = stack.enter_context(_EmbeddedCloud(options))
        watcher.said(
            f"cloud: pages and APIs {running.http_url}, gateway tcp://{running.host}:{running.gateway_port}, "
            f"SQLite in {folder}"
        )
        return asyncio.run(_play_real(scenario, seed, watcher, running, unit_keys, keep))


async def _play_real(
    scenario: Scenario,
    seed: int,
    watcher: DemoWatcher,
    running: RunningCloud,
    unit_keys: UnitKeys,
    keep: Callable[[KeptDemo, DemoResult], None] | None,
) -> DemoResult:
    driver = RealTimeDriver()
    sink = running.mail_sink
    assert sink is not None
    async with (
        httpx.AsyncClient(base_url=running.http_url, timeout=30.0) as people,
        httpx.AsyncClient(timeout=30.0, limits=httpx.Limits(max_keepalive_connections=None)) as device_client,
    ):
        uplinks: list[TcpUplink] = []

        def uplink(_number: int) -> TcpUplink:
            made = TcpUplink(driver, device_client, host=running.host, port=running.gateway_port)
            uplinks.append(made)
            return made

        fleet = Fleet(
            scenario,
            seed,
            kernel=driver.kernel,
            databases=_databases(),
            keys=unit_keys,
            factory_images=_factory_images,
            uplink=uplink,
        )
        campaign = _Campaign(
            fleet,
            Operator(people),
            Operator(people),
            lambda: _code_in(sink.mails[-1].text) if sink.mails else None,
            watcher,
        )
        watcher.started(fleet)
        await campaign.prepare()
        fleet.start_ns = driver.kernel.now_ns = driver.wall_ns()
        fleet.start()
        until_ns = fleet.start_ns + round(scenario.duration_s * SECOND)
        playing = asyncio.create_task(_campaign_in_real_time(campaign, driver))
        pumping = asyncio.create_task(driver.run(playing.done, until_ns=until_ns))
        try:
            await asyncio.wait({playing, pumping}, return_when=asyncio.FIRST_COMPLETED)
            if pumping.done() and not playing.done():
                # Out of time, or a unit has failed: say how far everybody came.
                playing.cancel()
                pumping.result()
            elif playing.exception() is not None:
                playing.result()
            await driver.run(lambda: False, until_ns=driver.wall_ns() + round(SETTLE_S * SECOND))
            seconds = (driver.kernel.now_ns - fleet.start_ns) / SECOND
            await campaign.look(seconds)
            result = await campaign.result(seconds, is_virtual=False)
            if keep is not None:
                keep(
                    KeptDemo(
                        running.http_url,
                        f"tcp://{running.host}:{running.gateway_port}",
                        (OPERATOR, AUDITOR, VIEWER),
                        PASSWORD,
                    ),
                    result,
                )
                await _run_until_interrupted(driver)
            return result
        finally:
            for task in (playing, pumping):
                task.cancel()
            for made in uplinks:
                await made.close()


async def _run_until_interrupted(driver: RealTimeDriver) -> None:
    """Let everything go on until Ctrl-C or SIGTERM.

    With handlers of our own, so that it also ends when it was started in the background of a script, where a shell has
    SIGINT ignored and Python would not turn it into a KeyboardInterrupt.
    """
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        # Windows has no handlers in its loop; there Ctrl-C cancels us.
        with contextlib.suppress(NotImplementedError, RuntimeError):
            loop.add_signal_handler(number, stop.set)
    with contextlib.suppress(asyncio.CancelledError):
        await driver.run(stop.is_set, until_ns=FOR_EVER_NS)


async def _campaign_in_real_time(campaign: _Campaign, driver: RealTimeDriver) -> None:
    start = time.monotonic()
    await asyncio.sleep(_plan(campaign.fleet).create_at_s)
    await campaign.create()
    mail_deadline = time.monotonic() + MAIL_TIMEOUT_S
    while not await campaign.approve():
        if time.monotonic() > mail_deadline:
            raise ConfigurationError(f"mail: expected the auditor's code within {MAIL_TIMEOUT_S:g} s, got none")
        await asyncio.sleep(0.1)
    while not campaign.ended and driver.failure is None:
        await campaign.look(time.monotonic() - start)
        await asyncio.sleep(POLL_S)
