"""What a link waits for while a task of 5,000 vehicles is created, approved, retried, ended and cancelled.

The platform runs in a process of its own, on SQLite files that are synced, with its real gateway. From here a vehicle that
is in no task logs in again and again over loopback TCP; `approval stall` is the longest it waited for an answer. `idle` is
the same vehicle while nothing else is asked of the platform: on a busy machine the others are to be read against it.
`approval hold` is the longest write transaction, in milliseconds of its own thread's CPU, whatever else the machine does.
"""

from __future__ import annotations

import argparse
import asyncio
import itertools
import json
import multiprocessing
import re
import socket
import sys
import tempfile
import threading
import time
from contextlib import contextmanager
from dataclasses import asdict
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Self

from bmsota_cloud.clock import wall_clock
from bmsota_cloud.domain.accounts import Role
from bmsota_cloud.domain.ota_tasks import OPEN_STATUSES
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.vehicles import NodeKind, Vehicle, VehicleNode
from bmsota_cloud.services import PlatformKeys, PlatformSettings
from bmsota_cloud.wiring import RunningCloud, ServeOptions
from bmsota_sim.defaults import release_files
from bmsota_sim.samples import sample_key
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from benchmarks._figures import Figure
from bmsota.gbt32960 import Command, Frame, VehicleLogin, beijing_time, encode

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from multiprocessing.connection import Connection

VEHICLES = 5000
QUICK_VEHICLES = 60
SLAVES = 8
IDLE_S = 3.0
# A login a moment: as many as a lively gateway sees, and few enough that the client itself is no load.
PAUSE_S = 0.01
STRANGER = 9_000_000


def vin(number: int) -> str:
    return f"BENCH{number:012d}"


def _keys() -> PlatformKeys:
    return PlatformKeys(
        order_signing_key=Ed25519PrivateKey.from_private_bytes(b"o" * 32),
        manifest_public_keys=(sample_key("manifest").public_key(),),
        image_public_keys=(sample_key("image").public_key(),),
    )


# -- the platform's process ------------------------------------------------------------------------------------------------


def _fill(running: RunningCloud, count: int) -> None:
    """Accounts, a release, *count* vehicles with their nodes, and one that is in no task."""
    services, now = running.cloud.services, wall_clock()
    for name, role in (("carol", Role.OPERATOR), ("alan", Role.AUDITOR)):
        services.accounts.create(name=name, email=f"{name}@example.org", role=role, password="p" * 16, now=now)
    manifest, images = release_files("F7", "2.1.0")
    services.releases.upload(manifest=manifest, images=images, by=_account(running, "carol"), now=now)
    key = Ed25519PrivateKey.from_private_bytes(b"v" * 32).public_key().public_bytes(Encoding.Raw, PublicFormat.Raw)
    with running.cloud.store.transaction() as work:
        for number in [*range(1, count + 1), STRANGER]:
            work.vehicles.add(
                Vehicle(
                    vin=vin(number),
                    series="F7",
                    project="bench",
                    hwid=f"HW-{number}",
                    device_public_key=key,
                    registered_at=now,
                )
            )
            for position in range(SLAVES + 1):
                work.vehicles.save_node(
                    VehicleNode(
                        vin=vin(number),
                        position=position,
                        kind=NodeKind.SLAVE if position else NodeKind.MASTER,
                        hwid=f"N-{number}-{position}",
                        hardware_class="",
                        version="2.0.0",
                        security_counter=1,
                        serial="",
                        state="running",
                        updated_at=now,
                    )
                )


def _account(running: RunningCloud, name: str) -> Any:
    with running.cloud.store.reading() as work:
        account = work.accounts.get(name)
    assert account is not None
    return account


def _act(running: RunningCloud, name: str, count: int) -> int:
    """What an operator does; in a thread, as the routes of the REST API are run. How many vehicles it has changed."""
    tasks, now = running.cloud.services.ota_tasks, wall_clock()
    carol, alan = _account(running, "carol"), _account(running, "alan")
    newest = tasks_made(running)
    if name == "create":
        vins = [vin(number) for number in range(1, count + 1)]
        asked = {"project": "bench", "reason": "bench", "software_version": "2.1.0", "vins": vins, "auditor": "alan"}
        tasks.create(**asked, by=carol, now=now)
        return count
    if name == "approve":
        assert running.mail_sink is not None
        codes: list[str] = []
        while len(codes) < newest:
            time.sleep(0.05)
            codes = [found[1] for mail in running.mail_sink.mails if (found := re.search(r"code: (\d{6})", mail.text))]
        tasks.approve(newest, code=codes[-1], by=alan, now=wall_clock())
    elif name == "retry":
        statuses = sorted(OPEN_STATUSES)
        return tasks.retry(newest, statuses=statuses, reason="bench", by=carol, now=now)
    elif name == "end":
        return tasks.end(newest, statuses=sorted(OPEN_STATUSES), reason="bench", by=carol, now=now)
    elif name == "cancel":
        tasks.cancel(newest, by=carol, now=now)
    with running.cloud.store.reading() as work:
        return len(work.ota_tasks.upgrades(newest))


def tasks_made(running: RunningCloud) -> int:
    with running.cloud.store.reading() as work:
        return work.ota_tasks.page(PageRequest(1, 1)).total


class Holds:
    """The longest write transaction since it was last asked for, in seconds of CPU."""

    def __init__(self, store: Any) -> None:
        self._longest = 0.0
        self._transaction = store.transaction
        store.transaction = self._measured

    @contextmanager
    def _measured(self) -> Iterator[Any]:
        with self._transaction() as work:
            start = time.thread_time()
            yield work
            spent = time.thread_time() - start
        self._longest = max(self._longest, spent)

    def take(self) -> float:
        longest, self._longest = self._longest, 0.0
        return longest


async def _serve(folder: Path, pipe: Connection, count: int) -> None:
    settings = PlatformSettings(password_memory_kib=64, password_passes=1, password_lanes=1)
    running = await RunningCloud.start(ServeOptions(keys=_keys(), data_dir=folder, settings=settings))
    try:
        await asyncio.to_thread(_fill, running, count)
        holds = Holds(running.cloud.store)
        pipe.send(running.gateway_port)
        while (name := await asyncio.to_thread(pipe.recv)) != "stop":
            holds.take()
            changed = await asyncio.to_thread(_act, running, name, count)
            pipe.send((changed, holds.take()))
    finally:
        await running.stop()


def serve(folder: str, pipe: Connection, count: int) -> None:
    asyncio.run(_serve(Path(folder), pipe, count))


# -- the vehicle that waits ------------------------------------------------------------------------------------------------


def _logins() -> Iterator[bytes]:
    at = beijing_time(int(datetime.now(UTC).timestamp()) * 1_000_000_000)  # noqa: TID251 - a benchmark has a clock
    for serial in itertools.cycle(range(1, 65_531)):
        message = VehicleLogin(time=at, serial=serial, iccid="89860" + "0" * 15)
        yield encode(Frame(command=Command.VEHICLE_LOGIN, vin=vin(STRANGER), message=message))


class Waiter:
    """Logs in again and again until it is stopped; `waits` are seconds."""

    def __init__(self, port: int, frames: Iterator[bytes]) -> None:
        self.waits: list[float] = []
        self._port = port
        self._frames = frames
        self._is_over = threading.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._is_over.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._is_over.wait(PAUSE_S):
            start = time.perf_counter()
            with socket.create_connection(("127.0.0.1", self._port), 60) as link:
                link.sendall(next(self._frames))
                assert link.recv(4096), "the platform has closed the link without an answer"
            self.waits.append(time.perf_counter() - start)


def figures(count: int = VEHICLES, idle_s: float = IDLE_S) -> list[Figure]:
    """Measure; milliseconds, the longest wait of the vehicle in each phase, and the seconds that the phase took."""
    found: list[Figure] = []
    near, far = multiprocessing.get_context("spawn").Pipe()
    with tempfile.TemporaryDirectory(prefix="bmsota-approval-") as folder:
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, far, count), daemon=True)
        process.start()
        port, frames = near.recv(), _logins()

        def phase(name: str, work: Callable[[], tuple[int, float]]) -> None:
            start = time.perf_counter()
            with Waiter(port, frames) as waiter:
                changed, hold = work()
            seconds = time.perf_counter() - start
            assert changed == count, f"{name}: expected {count} vehicles, got {changed}"
            longest = round(1000 * max(waiter.waits), 1)
            baseline = "" if name == "idle" else f"approval stall idle; {count} vehicles in {seconds:.1f} s"
            found.append(Figure(f"approval stall {name}", longest, "ms", None, baseline))
            if name != "idle":
                found.append(Figure(f"approval hold {name}", round(1000 * hold, 1), "CPU-ms"))

        def ask(name: str) -> tuple[int, float]:
            near.send(name.removesuffix(" again"))
            changed, hold = near.recv()
            return changed, hold

        def idle() -> tuple[int, float]:
            time.sleep(idle_s)
            return count, 0.0

        phase("idle", idle)
        for name in ("create", "approve", "retry", "end", "create again", "cancel"):
            phase(name, lambda name=name: ask(name))
        near.send("stop")
        process.join(60)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.approval")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_VEHICLES} vehicles instead of {VEHICLES}")
    arguments = parser.parse_args()
    for figure in figures(QUICK_VEHICLES, 0.2) if arguments.quick else figures():
        line = (
            json.dumps(asdict(figure)) if arguments.json else f"{figure.figure:28} {figure.value:>10,.1f} {figure.unit}"
        )
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
