"""The reference cloud embedded beside a fleet. The one file that knows `bmsota_cloud`.

`EmbeddedCloud` runs it in a thread with real sockets, SQLite files and an SMTP server; `MemoryCloud` is the same platform
driven through functions, for virtual time.
"""

from __future__ import annotations

import asyncio
import re
import threading
from typing import TYPE_CHECKING, Self

import httpx
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from bmsota._extras import needs_extra
from bmsota_sim import defaults
from bmsota_sim.campaign import ACCOUNTS, PASSWORD
from bmsota_sim.samples import sample_key
from bmsota_sim.streams import stream, stream_bytes

with needs_extra("the embedded cloud", "cloud"):
    from bmsota_cloud.clock import utc_time
    from bmsota_cloud.domain.accounts import Role
    from bmsota_cloud.platform import build_cloud
    from bmsota_cloud.services import PlatformKeys, PlatformSettings
    from bmsota_cloud.wiring import RunningCloud, ServeOptions, build_app

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable
    from pathlib import Path

    from bmsota_cloud.gateway import GatewayLink
    from bmsota_cloud.platform import Cloud

    from bmsota.master import UnitKeys
    from bmsota.ota import HttpRequest, HttpResponse
    from bmsota_sim.kernel import Kernel

__all__ = ["EmbeddedCloud", "MemoryCloud", "unit_keys"]

# What the thread may take to close its servers and databases.
STOP_TIMEOUT_S = 15.0


def _order_key(seed: int) -> Ed25519PrivateKey:
    """The key that signs the orders of this run."""
    return Ed25519PrivateKey.from_private_bytes(stream_bytes(seed, "cloud", "order key"))


def unit_keys(seed: int) -> UnitKeys:
    """The keys that units trust which are upgraded by this cloud."""
    return defaults.unit_keys(_order_key(seed).public_key())


def _platform_keys(seed: int) -> PlatformKeys:
    return PlatformKeys(
        order_signing_key=_order_key(seed),
        manifest_public_keys=(sample_key("manifest").public_key(),),
        image_public_keys=(sample_key("image").public_key(),),
    )


def _create_accounts(cloud: Cloud) -> None:
    """The accounts of the demo, as `bmsota-cloud create-account` makes them."""
    for name in ACCOUNTS:
        cloud.services.accounts.create(
            name=name, email=f"{name}@bmsota.example", role=Role(name), password=PASSWORD, now=cloud.now()
        )


def _newest_code(mails: Iterable[str]) -> str | None:
    """The code in the last mail that has one."""
    codes = [found.group(1) for mail in mails if (found := re.search(r"Approval code: (\d{6})", mail))]
    return codes[-1] if codes else None


class MemoryCloud:
    """The platform in this process, in the kernel's time: no sockets, databases in memory. A `MemoryPlatform`."""

    http_url = "http://cloud.example"

    def __init__(self, kernel: Kernel, seed: int) -> None:
        self._kernel = kernel
        self._mails: list[str] = []
        self._cloud = build_cloud(
            keys=_platform_keys(seed),
            settings=PlatformSettings(device_url=self.http_url, pages_url=self.http_url),
            draw=stream(seed, "cloud", "draw").randbytes,
            clock=lambda: utc_time(kernel.now_ns),
        )
        try:
            _create_accounts(self._cloud)
        except BaseException:
            self._cloud.close()
            raise

    def open_link(self, wake: Callable[[], None]) -> GatewayLink:
        return self._cloud.open_link(wake)

    def respond(self, request: HttpRequest) -> HttpResponse:
        return self._cloud.device_respond(request, utc_time(self._kernel.now_ns))

    def http_client(self) -> httpx.AsyncClient:
        """A client that calls the platform's API as an application in this process."""
        return httpx.AsyncClient(transport=httpx.ASGITransport(app=build_app(self._cloud)), base_url=self.http_url)

    def work(self) -> None:
        """What the platform does beside answering: end what has expired, carry on what was interrupted, send mails."""
        now = utc_time(self._kernel.now_ns)
        self._cloud.services.upgrades.expire(now)
        self._cloud.services.ota_tasks.carry_on(now)
        self._cloud.services.link_watch.flush()
        self._cloud.services.refusals.flush()
        self._cloud.outbox.drain(now, lambda mail: self._mails.append(mail.body))

    def newest_code(self) -> str | None:
        """The approval code that was mailed last."""
        return _newest_code(self._mails)

    def close(self) -> None:
        self._cloud.close()


class EmbeddedCloud:
    """The platform with all its doors, in a thread and an event loop of its own. A context manager."""

    def __init__(self, folder: Path, seed: int) -> None:
        """*folder* gets the databases and the mails."""
        self._options = ServeOptions(keys=_platform_keys(seed), data_dir=folder, mail_folder=folder / "mails")
        self._ready = threading.Event()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._stop: asyncio.Event | None = None
        self._failure: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="embedded cloud", daemon=True)
        self._running: RunningCloud | None = None

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        if self._failure is not None:
            raise self._failure
        return self

    def __exit__(self, _kind: object, error: BaseException | None, _trace: object) -> None:
        """Stop it. Whatever has failed in it meanwhile is raised, unless another error is on its way.

        Raises:
            TimeoutError: it does not end.
        """
        if self._loop is not None and self._stop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join(timeout=STOP_TIMEOUT_S)
        if error is not None:
            return
        if self._failure is not None:
            raise self._failure
        if self._thread.is_alive():
            raise TimeoutError(f"the embedded cloud did not end within {STOP_TIMEOUT_S:g} s")

    @property
    def running(self) -> RunningCloud:
        """The platform, between enter and exit."""
        assert self._running is not None
        return self._running

    @property
    def http_url(self) -> str:
        return self.running.http_url

    @property
    def gateway(self) -> tuple[str, int]:
        """Host and port of the gateway."""
        return self.running.host, self.running.gateway_port

    def newest_code(self) -> str | None:
        """The approval code that was mailed last."""
        sink = self.running.mail_sink
        assert sink is not None
        return _newest_code(mail.text for mail in sink.mails)

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
            await asyncio.to_thread(_create_accounts, running.cloud)
            self._running = running
            self._ready.set()
            stopping = asyncio.ensure_future(self._stop.wait())
            working = asyncio.ensure_future(running.wait())
            await asyncio.wait((stopping, working), return_when=asyncio.FIRST_COMPLETED)
            is_broken = not stopping.done()
            stopping.cancel()
            working.cancel()
        finally:
            await running.stop()
        if is_broken:
            raise OSError("a part of the embedded cloud ended unexpectedly")
