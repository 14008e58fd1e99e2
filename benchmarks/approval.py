"""What a link waits for while a task of 5,000 vehicles is looked at, created, approved, retried, ended and cancelled.

The platform runs in a process of its own, on SQLite files that are synced, with its real gateway and its real web server, of
which everything is asked by REST. From here a vehicle that is in no task logs in again and again over loopback TCP.

* `approval stall`: the longest it waited for an answer, in milliseconds; the ratio is to `idle`, the same vehicle while nothing
  else is asked of the platform. On a busy machine both are the machine's.
* `approval hold`: the longest write transaction, in milliseconds of CPU of its own thread: what a link waits for, whatever else
  the machine does.
* `approval loop`: the longest that the event loop was occupied by one callback, in milliseconds of CPU of its thread.
"""

from __future__ import annotations

import argparse
import asyncio
import http.client
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
from urllib.parse import urlsplit

from bmsota_cloud.clock import wall_clock
from bmsota_cloud.domain.accounts import Role
from bmsota_cloud.domain.ota_tasks import OPEN_STATUSES
from bmsota_cloud.domain.telemetry import StoredFrame
from bmsota_cloud.domain.vehicles import NodeKind, Vehicle, VehicleNode
from bmsota_cloud.services import PlatformKeys, PlatformSettings
from bmsota_cloud.wiring import RunningCloud, ServeOptions, tune_collector
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
    with running.cloud.store.reading() as work:
        carol = work.accounts.get("carol")
    assert carol is not None
    services.releases.upload(manifest=manifest, images=images, by=carol, now=now)
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


def _prune(running: RunningCloud, count: int) -> int:
    """Two reports of each vehicle that are too old by a day, deleted; how many vehicles they were of."""
    now = wall_clock()
    old_s = int(now.timestamp()) - running.cloud.settings.report_keep_s - 2 * 86_400
    for number in range(1, count + 1):
        frames = [
            StoredFrame(
                vin=vin(number),
                frame=frame,
                clear=frame,
                reported_at_s=old_s,
                arrived_at_ns=old_s * 1_000_000_000,
                is_backfill=False,
            )
            for frame in (bytes([0]) * 342, bytes([1]) * 342)
        ]
        running.cloud.telemetry.append(frames)
    return running.cloud.services.ingest.prune(now) // 2


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


class Occupations:
    """The longest callback of an event loop since it was last asked for, in seconds of CPU."""

    def __init__(self) -> None:
        self._longest = 0.0
        self._run = asyncio.Handle._run  # noqa: SLF001 - the loop has no hook for it that counts CPU
        asyncio.Handle._run = self._measured  # type: ignore[method-assign]  # noqa: SLF001

    @property
    def _measured(self) -> Callable[[asyncio.Handle], None]:
        def run(handle: asyncio.Handle) -> None:
            start = time.thread_time()
            self._run(handle)
            self._longest = max(self._longest, time.thread_time() - start)

        return run

    def take(self) -> float:
        longest, self._longest = self._longest, 0.0
        return longest


def _newest_code(running: RunningCloud) -> str:
    """Of the newest task; in a thread, because its mail comes a moment later, and an edit's replaces that of the creation."""
    assert running.mail_sink is not None
    while True:
        with running.cloud.store.reading() as work:
            is_sent = not work.outbox.waiting()
        if is_sent:
            break
        time.sleep(0.05)
    return [found[1] for mail in running.mail_sink.mails if (found := re.search(r"code: (\d{6})", mail.text))][-1]


async def _serve(folder: Path, pipe: Connection, count: int) -> None:
    settings = PlatformSettings(password_memory_kib=64, password_passes=1, password_lanes=1)
    occupations = Occupations()
    running = await RunningCloud.start(ServeOptions(keys=_keys(), data_dir=folder, settings=settings))
    tune_collector()
    try:
        await asyncio.to_thread(_fill, running, count)
        holds = Holds(running.cloud.store)
        pipe.send((running.gateway_port, running.http_url))
        while (asked := await asyncio.to_thread(pipe.recv)) != "stop":
            if asked == "code":
                pipe.send(await asyncio.to_thread(_newest_code, running))
            elif asked == "prune":
                pipe.send(await asyncio.to_thread(_prune, running, count))
            else:
                pipe.send((holds.take(), occupations.take()))
    finally:
        await running.stop()


def serve(folder: str, pipe: Connection, count: int) -> None:
    asyncio.run(_serve(Path(folder), pipe, count))


# -- what people do --------------------------------------------------------------------------------------------------------


class People:
    """An operator and an auditor, by REST."""

    def __init__(self, url: str, pipe: Connection, count: int) -> None:
        self._address = urlsplit(url).netloc
        self._pipe = pipe
        self._count = count
        self._tokens: dict[str, str] = {}
        self._tokens = {name: self._ask("POST", "/login", "", _login(name))["token"] for name in ("carol", "alan")}
        self._task = 0

    def do(self, name: str) -> int:
        """What one of them does; how many vehicles it has changed, or shown."""
        vins = [vin(number) for number in range(1, self._count + 1)]
        wanted: dict[str, Any] = {"project": "bench", "software_version": "2.1.0", "vins": vins}
        every = {"statuses": sorted(map(str, OPEN_STATUSES)), "reason": "bench"}
        path = f"/tasks/{self._task}"
        match name.removesuffix(" again"):
            case "preview":
                return len(self._ask("POST", "/tasks/preview", "carol", wanted))
            case "create":
                self._task = self._ask("POST", "/tasks", "carol", wanted | {"reason": "bench", "auditor": "alan"})["id"]
            case "look":
                return sum(self._ask("GET", f"{path}?size=500", "carol")["counts"].values())
            case "edit":
                self._ask("PATCH", path, "carol", {"vins": vins[::-1]})
            case "approve":
                self._pipe.send("code")
                self._ask("POST", f"{path}/approve", "alan", {"code": self._pipe.recv()})
            case "prune":
                self._pipe.send("prune")
                return int(self._pipe.recv())
            case "cancel":
                self._ask("POST", f"{path}/cancel", "carol", {})
            case act:
                return int(self._ask("POST", f"{path}/{act}", "carol", every)["count"])
        return sum(self._ask("GET", f"/tasks/{self._task}?size=1", "carol")["counts"].values())

    def _ask(self, method: str, path: str, who: str, body: Any = None) -> Any:
        link = http.client.HTTPConnection(self._address, timeout=600)
        headers = {"Content-Type": "application/json", "Authorization": f"Bearer {self._tokens.get(who, '')}"}
        link.request(method, f"/api/v1{path}", None if body is None else json.dumps(body), headers)
        answer = link.getresponse()
        text = answer.read()
        link.close()
        assert answer.status < 300, text[:500]
        return json.loads(text)


def _login(name: str) -> dict[str, str]:
    return {"name": name, "password": "p" * 16}


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


PHASES = ("preview", "create", "look", "edit", "approve", "retry", "end", "create again", "cancel", "prune")


def figures(count: int = VEHICLES, idle_s: float = IDLE_S) -> list[Figure]:
    """Measure. Three figures a phase, and the seconds that it took."""
    found: list[Figure] = []
    near, far = multiprocessing.get_context("spawn").Pipe()
    with tempfile.TemporaryDirectory(prefix="bmsota-approval-") as folder:
        process = multiprocessing.get_context("spawn").Process(target=serve, args=(folder, far, count), daemon=True)
        process.start()
        far.close()  # So that the end of the process is the end of the pipe.
        (port, url), frames = near.recv(), _logins()
        people = People(url, near, count)
        idle_ms = 0.0

        def spent() -> tuple[float, float]:
            near.send("spent")
            hold, loop = near.recv()
            return hold, loop

        for name in ("idle", *PHASES):
            spent()
            start = time.perf_counter()
            with Waiter(port, frames) as waiter:
                if name == "idle":
                    time.sleep(idle_s)
                else:
                    changed = people.do(name)
                    assert changed == count, f"{name}: expected {count} vehicles, got {changed}"
            seconds = time.perf_counter() - start
            hold, loop = spent()
            longest_ms = round(1000 * max(waiter.waits), 1)
            idle_ms = idle_ms or longest_ms
            ratio = None if name == "idle" else round(longest_ms / idle_ms, 2)
            baseline = "" if name == "idle" else f"approval stall idle; {count} vehicles in {seconds:.1f} s"
            found.append(Figure(f"approval stall {name}", longest_ms, "ms", ratio, baseline))
            found.append(Figure(f"approval hold {name}", round(1000 * hold, 1), "CPU-ms"))
            found.append(Figure(f"approval loop {name}", round(1000 * loop, 1), "CPU-ms"))
        near.send("stop")
        process.join(60)
    return found


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.approval")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--quick", action="store_true", help=f"{QUICK_VEHICLES} vehicles instead of {VEHICLES}")
    arguments = parser.parse_args()
    for figure in figures(QUICK_VEHICLES, 0.2) if arguments.quick else figures():
        ratio = "" if figure.ratio is None else f"  {figure.ratio:.3g} x {figure.baseline}"
        text = f"{figure.figure:28} {figure.value:>10,.1f} {figure.unit}{ratio}"
        line = json.dumps(asdict(figure)) if arguments.json else text
        sys.stdout.write(line + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
