"""The demo: a fleet beside an embedded cloud, and the scenario's campaign from its first click to every vehicle's end.

Two drivers. In real time the cloud runs with real sockets, SQLite files and an SMTP server; in virtual time the same
platform is driven through functions, its API is called as an application in this process, and a run takes seconds.
"""

from __future__ import annotations

import asyncio
import contextlib
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from bmsota.errors import ConfigurationError
from bmsota_sim._signals import ending_signals
from bmsota_sim.campaign import ACCOUNTS, PASSWORD, CampaignPlayer, CampaignWatcher, campaign_of
from bmsota_sim.embedded_cloud import EmbeddedCloud, MemoryCloud, unit_keys
from bmsota_sim.fleet import Fleet, virtual_fleet
from bmsota_sim.kernel import MS, SECOND, Kernel
from bmsota_sim.operator import Operator
from bmsota_sim.realtime import RealTimeDriver, TcpUplink
from bmsota_sim.virtual import VIRTUAL_START_NS, run_virtual

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota_sim.outcome import CampaignOutcome
    from bmsota_sim.scenario import Scenario

__all__ = ["KeptDemo", "run_real", "run_virtual_demo"]

# How often the task is asked for its state while it runs, and how long the mail with the code may take.
POLL_S = 0.5
MAIL_TIMEOUT_S = 20.0
# After the last vehicle has ended: time for acknowledgements on their way.
SETTLE_S = 2.0
FOR_EVER_NS = 2**62


# -- virtual time ---------------------------------------------------------------------------------------------------------


def run_virtual_demo(scenario: Scenario, seed: int, watcher: CampaignWatcher | None = None) -> CampaignOutcome:
    """Play *scenario* in virtual time: no sockets, no waiting; the same seed gives the same trace hash.

    Raises:
        ConfigurationError: the scenario has no campaign.
    """
    kernel = Kernel(VIRTUAL_START_NS)
    with contextlib.closing(MemoryCloud(kernel, seed)) as cloud:
        fleet = virtual_fleet(scenario, seed, cloud, keys=unit_keys(seed), origins=[cloud.http_url], kernel=kernel)
        client = cloud.http_client()
        with asyncio.Runner() as runner:
            try:
                player = CampaignPlayer(
                    fleet, Operator(client), Operator(client), cloud.newest_code, watcher or CampaignWatcher()
                )
                return _play_virtual(cloud, player, runner)
            finally:
                runner.run(client.aclose())


def _play_virtual(cloud: MemoryCloud, campaign: CampaignPlayer, runner: asyncio.Runner) -> CampaignOutcome:
    fleet = campaign.fleet
    kernel = fleet.kernel
    campaign.watcher.started(fleet)
    runner.run(campaign.prepare())
    approved = False

    def create() -> None:
        runner.run(campaign.create())

    def tick() -> None:
        nonlocal approved
        cloud.work()
        if campaign.task_id and not approved:
            approved = runner.run(campaign.approve())
        at_ns = kernel.now_ns - fleet.start_ns
        if at_ns // (2 * SECOND) != (at_ns - 100 * MS) // (2 * SECOND):
            runner.run(campaign.look(at_ns / SECOND))

    fleet.start()
    kernel.call_in(round(campaign_of(fleet).create_at_s * SECOND), create)
    until_ns = fleet.start_ns + round(fleet.scenario.duration_s * SECOND)
    run_virtual(kernel, lambda: campaign.ended, until_ns=until_ns, tick=tick)
    kernel.run_until(kernel.now_ns + round(SETTLE_S * SECOND))
    seconds = (kernel.now_ns - fleet.start_ns) / SECOND
    runner.run(campaign.look(seconds))
    return runner.run(campaign.result(seconds, is_virtual=True))


# -- real time ------------------------------------------------------------------------------------------------------------


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
    watcher: CampaignWatcher | None = None,
    *,
    data_dir: Path | None = None,
    keep: Callable[[KeptDemo, CampaignOutcome], None] | None = None,
) -> CampaignOutcome:
    """Play *scenario* in real time over real sockets.

    Args:
        scenario: what happens.
        seed: of the run.
        watcher: follows the run.
        data_dir: a fresh folder for databases and mails; None: a temporary one.
        keep: called at the end with the addresses; everything keeps running until Ctrl-C or SIGTERM.

    Raises:
        ConfigurationError: the scenario has no campaign, or the approval code was not mailed.
        KeyboardInterrupt: a signal has ended the run; everything is cleared away.
    """
    watcher = watcher or CampaignWatcher()
    with contextlib.ExitStack() as stack:
        folder = data_dir or Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bmsota-demo-")))
        cloud = stack.enter_context(EmbeddedCloud(folder, seed))
        host, port = cloud.gateway
        watcher.said(f"cloud: pages and APIs {cloud.http_url}, gateway tcp://{host}:{port}, SQLite in {folder}")
        try:
            return asyncio.run(_play_real(scenario, seed, watcher, cloud, keep))
        except asyncio.CancelledError:
            raise KeyboardInterrupt from None


async def _play_real(
    scenario: Scenario,
    seed: int,
    watcher: CampaignWatcher,
    cloud: EmbeddedCloud,
    keep: Callable[[KeptDemo, CampaignOutcome], None] | None,
) -> CampaignOutcome:
    task = asyncio.current_task()
    assert task is not None
    _on_signals(task.cancel)
    driver = RealTimeDriver()
    host, port = cloud.gateway
    async with (
        httpx.AsyncClient(base_url=cloud.http_url, timeout=30.0) as people,
        httpx.AsyncClient(timeout=30.0, limits=httpx.Limits(max_keepalive_connections=None)) as device_client,
    ):
        uplinks: list[TcpUplink] = []

        def uplink(_number: int) -> TcpUplink:
            made = TcpUplink(driver, device_client, host=host, port=port)
            uplinks.append(made)
            return made

        fleet = Fleet(
            scenario,
            seed,
            kernel=driver.kernel,
            keys=unit_keys(seed),
            origins=[cloud.http_url],
            uplink=uplink,
        )
        campaign = CampaignPlayer(fleet, Operator(people), Operator(people), cloud.newest_code, watcher)
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
                # Out of time, or a unit has failed: say how far every vehicle came.
                playing.cancel()
                pumping.result()
            elif playing.exception() is not None:
                playing.result()
            await driver.run(lambda: False, until_ns=driver.wall_ns() + round(SETTLE_S * SECOND))
            seconds = (driver.kernel.now_ns - fleet.start_ns) / SECOND
            await campaign.look(seconds)
            result = await campaign.result(seconds, is_virtual=False)
            if keep is not None:
                keep(KeptDemo(cloud.http_url, f"tcp://{host}:{port}", ACCOUNTS, PASSWORD), result)
                await _run_until_interrupted(driver)
            return result
        finally:
            for task in (playing, pumping):
                task.cancel()
            for made in uplinks:
                await made.close()


def _on_signals(end: Callable[[], object]) -> None:
    """Call *end* on Ctrl-C, SIGTERM or SIGHUP, so that servers and temporary folders are cleared away.

    With handlers of our own, so that it also ends when it was started in the background of a script, where a shell has
    SIGINT ignored and Python would not turn it into a KeyboardInterrupt.
    """
    loop = asyncio.get_running_loop()
    for number in ending_signals():
        # Windows has no handlers in its loop; there Ctrl-C cancels us.
        with contextlib.suppress(NotImplementedError, RuntimeError):
            loop.add_signal_handler(number, end)


async def _run_until_interrupted(driver: RealTimeDriver) -> None:
    """Keep everything running until a signal comes."""
    stop = asyncio.Event()
    _on_signals(stop.set)
    with contextlib.suppress(asyncio.CancelledError):
        await driver.run(stop.is_set, until_ns=FOR_EVER_NS)


async def _campaign_in_real_time(campaign: CampaignPlayer, driver: RealTimeDriver) -> None:
    start = time.monotonic()
    await asyncio.sleep(campaign_of(campaign.fleet).create_at_s)
    await campaign.create()
    mail_deadline = time.monotonic() + MAIL_TIMEOUT_S
    while not await campaign.approve():
        if time.monotonic() > mail_deadline:
            raise ConfigurationError(f"no approval code was mailed within {MAIL_TIMEOUT_S:g} s")
        await asyncio.sleep(0.1)
    while not campaign.ended and driver.failure is None:
        await campaign.look(time.monotonic() - start)
        await asyncio.sleep(POLL_S)
