"""What a report costs the platform: the real gateway over loopback TCP, from another process, with real vehicles' load.

10,000 vehicles, each on a link of its own, 3,333 reports of 342 bytes a second between them, one in a read; 600,000 rows are there
already, and each vehicle has a newest state; every report is acknowledged after a synced commit; newest states, events and indexes are
on. Afterwards every frame is read back and compared.

    ingest ...            reports per CPU-second of our process (all threads, system time included)
    ingest small load     the same with 333 reports a second, on SQLite
    ... backend           what PostgreSQL's own process for us uses beside, in us a report
    bytes per report ...  rows and their one unique index, as a multiple of the frame
    commit lag ...        from sending a report to its acknowledgement, 99th percentile

What a figure is compared with is measured in the same minute: a program of one thread that decodes a frame, writes its values as JSON and
commits, one by one, synced, on the same database (`OneByOne`). It has no sockets, no states, no events and no index.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import resource
import select
import shutil
import socket
import sqlite3
import subprocess
import sys
import tempfile
import time
import uuid
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bmsota_cloud.domain.telemetry import StoredFrame
from bmsota_cloud.domain.vehicles import Vehicle
from bmsota_cloud.services import PlatformSettings
from bmsota_cloud.services.counters import Counters
from bmsota_cloud.services.derivation import Derivation
from bmsota_cloud.storage.sql import SqlStore, SqlTelemetryStore

from benchmarks._figures import Figure
from benchmarks.codec import report_frame
from bmsota.checksums import bcc_xor
from bmsota.gbt32960 import CellVoltages, Command, Frame, Heartbeat, Report, TerminalSession, decode, encode, to_dict

if TYPE_CHECKING:
    from collections.abc import Iterator

FRAME_SIZE_BYTES = 342
POSTGRESQL = "127.0.0.1:5432"
_ACKNOWLEDGED = 1
_BATCH = 1000


@dataclass(frozen=True, slots=True)
class Load:
    """How many, how fast, how long."""

    vehicles: int = 10_000
    rows_before: int = 600_000
    rate_hz: float = 3333.0
    warm_s: float = 6.0
    measured_s: float = 20.0
    one_by_one: int = 500
    """Reports of the comparison, before and again after."""


QUICK = Load(vehicles=40, rows_before=2000, rate_hz=400.0, warm_s=0.5, measured_s=1.5, one_by_one=30)


class Frames:
    """Frames of 342 bytes, of a pack of 96 cells and 32 probes with 1 mV of noise; each differs from the one before."""

    def __init__(self, seed: int) -> None:
        draw = random.Random(seed)
        frame = report_frame()
        assert isinstance(frame.message, Report)
        (subsystem,) = next(body for body in frame.message.bodies if isinstance(body, CellVoltages)).subsystems
        flat = CellVoltages((replace(subsystem, cell_voltages_v=(3.7,) * 96),))
        bodies = tuple(flat if isinstance(body, CellVoltages) else body for body in frame.message.bodies)
        template = encode(replace(frame, message=replace(frame.message, bodies=bodies)))
        assert len(template) == FRAME_SIZE_BYTES, len(template)
        at = template.index((3700).to_bytes(2, "big") * 96)
        self._head, self._middle = template[:4], template[21:24]
        self._before, self._after = template[30:at], template[at + 192 : -1]
        self._cells = [
            b"".join(round(3700 + draw.gauss(0, 1)).to_bytes(2, "big") for _ in range(96)) for _ in range(997)
        ]
        self._count = 0

    def next(self, vin: str, at_s: int) -> bytes:
        self._count += 1
        at = datetime.fromtimestamp(at_s, UTC) + timedelta(hours=8)
        when = bytes((at.year - 2000, at.month, at.day, at.hour, at.minute, at.second))
        cells = self._cells[self._count % len(self._cells)]
        raw = self._head + vin.encode() + self._middle + when + self._before + cells + self._after
        return raw + bytes((bcc_xor(raw[2:]),))


def vin_of(number: int) -> str:
    return f"LBENCH{number:011d}"


# --- before -------------------------------------------------------------------------------------------------------------


def prepare(folder: Path, telemetry_url: str, load: Load, frames: Frames, now_s: int) -> None:
    """Register the vehicles, and put the rows that are there before, in the order in which they would have come."""
    store = SqlStore(f"sqlite:///{folder / 'platform.sqlite'}")
    with store.transaction() as work:
        for number in range(load.vehicles):
            work.vehicles.add(
                Vehicle(
                    vin=vin_of(number),
                    series="F7",
                    project="bench",
                    hwid=f"H{number}",
                    device_public_key=bytes(32),
                    registered_at=datetime.fromtimestamp(now_s, UTC),
                )
            )
    store.close()
    telemetry = SqlTelemetryStore(telemetry_url or f"sqlite:///{folder / 'telemetry.sqlite'}")
    period_s = 30
    begin_s = now_s - 600 - period_s * (load.rows_before // load.vehicles + 1)
    batch: list[StoredFrame] = []
    newest: dict[int, StoredFrame] = {}
    for count in range(load.rows_before):
        turn, number = divmod(count, load.vehicles)
        at_s = begin_s + turn * period_s + number * period_s // load.vehicles
        frame = newest[number] = stored(vin_of(number), frames.next(vin_of(number), at_s), at_s)
        batch.append(frame)
        if len(batch) == _BATCH:
            telemetry.append(batch)
            batch = []
    telemetry.append(batch)
    # Who has sent before has a newest state.
    derivation = Derivation(telemetry, Counters(), keep_s=PlatformSettings().report_keep_s)
    for begin in range(0, len(newest), _BATCH):
        derivation.take(list(newest.values())[begin : begin + _BATCH])
    telemetry.close()


def stored(vin: str, raw: bytes, at_s: int) -> StoredFrame:
    return StoredFrame(vin=vin, frame=raw, clear=raw, reported_at_s=at_s, arrived_at_ns=at_s * 10**9, is_backfill=False)


class OneByOne:
    """The plain way: each frame decoded, its values written as JSON in a transaction of its own."""

    _INSERT = "INSERT INTO one_by_one (vin, at_s, frame, report) VALUES (?, ?, ?, ?)"
    _TABLE = "CREATE TABLE one_by_one (vin TEXT NOT NULL, at_s BIGINT NOT NULL, frame {bytes} NOT NULL, report TEXT NOT NULL)"

    def __init__(self, folder: Path, telemetry_url: str, frames: Frames) -> None:
        self._frames = frames
        self._insert = self._INSERT
        self._connection: Any
        if telemetry_url:
            import psycopg  # noqa: PLC0415

            self._connection = psycopg.connect(telemetry_url, autocommit=True)
            self._insert = self._insert.replace("?", "%s")
            self._connection.execute(self._TABLE.format(bytes="BYTEA"))
        else:
            self._connection = sqlite3.connect(folder / "one_by_one.sqlite", isolation_level=None)
            self._connection.execute("PRAGMA journal_mode = WAL")
            self._connection.execute("PRAGMA synchronous = FULL")
            self._connection.execute(self._TABLE.format(bytes="BLOB"))
        self.count = 0
        self.cpu_s = 0.0
        self.times_s: list[float] = []

    def run(self, count: int) -> None:
        for _ in range(count):
            vin = vin_of(self.count % 1000)
            raw = self._frames.next(vin, time.time_ns() // 10**9)
            begin_s, cpu_s = time.monotonic(), time.process_time()
            report = decode(raw).message
            assert isinstance(report, Report)
            values = (vin, int(report.time.timestamp()), raw, json.dumps(to_dict(report)))
            self._connection.execute(self._insert, values)
            self.cpu_s += time.process_time() - cpu_s
            self.times_s.append(time.monotonic() - begin_s)
            self.count += 1

    def close(self) -> None:
        self._connection.execute("DROP TABLE one_by_one")
        self._connection.close()


# --- the vehicles -------------------------------------------------------------------------------------------------------


@dataclass
class Sent:
    """What the vehicles have sent, and how long the answers took."""

    frames: dict[str, list[tuple[int, bytes]]] = field(default_factory=dict)
    lags_s: list[float] = field(default_factory=list)
    count: int = 0


class Vehicles:
    """Links of all vehicles, by plain sockets in one thread."""

    def __init__(self, port: int, load: Load, frames: Frames) -> None:
        self._frames = frames
        self._sockets: list[socket.socket] = []
        self._poll = select.epoll()
        self._number_of: dict[int, int] = {}
        self._waiting: dict[int, list[float]] = {}
        self._reported_s = [0] * load.vehicles
        self._rest = [b""] * load.vehicles
        self.sent = Sent()
        for number in range(load.vehicles):
            # From one address to one port, a system hands out some 14,000 ports quickly.
            near = socket.socket()
            near.bind((f"127.0.0.{1 + number // 8000}", 0))
            near.connect(("127.0.0.1", port))
            near.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            session = TerminalSession(vin=vin_of(number), iccid="8" * 20)
            session.handle_timeout(time.time_ns())
            session.connected(time.time_ns())
            near.sendall(session.data_to_send())
            answer = near.recv(4096)
            assert answer[3] == _ACKNOWLEDGED, answer.hex()
            self._sockets.append(near)
            if number % 500 == 499:
                self._beat()
        self._beat()
        for number, near in enumerate(self._sockets):
            near.setblocking(False)
            self._number_of[near.fileno()] = number
            self._poll.register(near, select.EPOLLIN)

    def _beat(self) -> None:
        """A link that is silent is closed, and on a busy machine 10,000 logins take longer than that."""
        for number, near in enumerate(self._sockets):
            near.sendall(encode(Frame(command=Command.HEARTBEAT, vin=vin_of(number), message=Heartbeat())))
        for near in self._sockets:
            assert near.recv(4096)[2] == Command.HEARTBEAT

    def run(self, seconds: float, rate_hz: float) -> Sent:
        """Send at the rate, receive answers; then wait for the last of them."""
        sent = self.sent = Sent()
        begin_s = time.monotonic()
        total = round(seconds * rate_hz)
        number = 0
        while sent.count < total:
            due = min(total, int((time.monotonic() - begin_s) * rate_hz) + 1)
            while sent.count < due:
                self._send(number % len(self._sockets))
                number += 1
            self._receive(0.001)
        while self._waiting:
            before = len(sent.lags_s)
            self._receive(60.0)
            assert len(sent.lags_s) > before, f"{sum(map(len, self._waiting.values()))} reports were not acknowledged"
        return sent

    def _send(self, number: int) -> None:
        vin = vin_of(number)
        at_s = max(self._reported_s[number] + 1, time.time_ns() // 10**9)
        self._reported_s[number] = at_s
        raw = self._frames.next(vin, at_s)
        self.sent.frames.setdefault(vin, []).append((at_s, raw))
        self._waiting.setdefault(number, []).append(time.monotonic())
        assert self._sockets[number].send(raw) == len(raw)
        self.sent.count += 1

    def _receive(self, timeout_s: float) -> None:
        for descriptor, _ in self._poll.poll(timeout_s):
            number = self._number_of[descriptor]
            data = self._rest[number] + self._sockets[number].recv(65536)
            now_s = time.monotonic()
            while len(data) >= 25 and len(data) >= (size := 25 + int.from_bytes(data[22:24], "big")):
                assert (data[2], data[3]) == (Command.REALTIME_REPORT, _ACKNOWLEDGED), data[:size].hex()
                waiting = self._waiting[number]
                self.sent.lags_s.append(now_s - waiting.pop(0))
                if not waiting:
                    del self._waiting[number]
                data = data[size:]
            self._rest[number] = data

    def close(self) -> None:
        for near in self._sockets:
            near.close()
        self._poll.close()


class Server:
    """The process of `_platform_server`."""

    def __init__(self, folder: Path, telemetry_url: str) -> None:
        self._process = subprocess.Popen(  # noqa: S603 - our own module
            [sys.executable, "-m", "benchmarks._platform_server", str(folder), telemetry_url],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )  # fmt: skip
        self.port = self._read()["port"]

    def usage(self) -> dict[str, float]:
        assert self._process.stdin is not None
        self._process.stdin.write("usage\n")
        self._process.stdin.flush()
        return self._read()

    def stop(self) -> dict[str, int]:
        assert self._process.stdin is not None
        self._process.stdin.close()
        counters = self._read()
        self._process.wait(60)
        return counters

    def kill(self) -> None:
        if self._process.poll() is None:
            self._process.kill()
            self._process.wait()

    def _read(self) -> dict:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, "the platform's process has ended; see its messages above"
        return json.loads(line)


# --- PostgreSQL ---------------------------------------------------------------------------------------------------------


@contextmanager
def database(address: str) -> Iterator[str]:
    """The URL of a fresh database on the server at *address*."""
    import psycopg  # noqa: PLC0415 - only where there is a server

    name = f"bmsota_bench_{uuid.uuid4().hex[:12]}"
    host, port = address.split(":")
    options = {"host": host, "port": int(port), "user": "postgres", "dbname": "postgres", "autocommit": True}
    with psycopg.connect(**options) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    try:
        yield f"postgresql://postgres@{address}/{name}"
    finally:
        with psycopg.connect(**options) as connection:
            connection.execute(f"DROP DATABASE IF EXISTS {name} WITH (FORCE)")


def backend_cpu_s(url: str) -> float:
    """CPU of the server's processes that work for this database."""
    import psycopg  # noqa: PLC0415

    with psycopg.connect(url) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        ).fetchall()
    total = 0.0
    for (pid,) in rows:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except OSError:
            continue
        total += (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
    return total


# --- figures ------------------------------------------------------------------------------------------------------------


def measure(name: str, load: Load, telemetry_url: str = "", *, with_sizes: bool = True) -> list[Figure]:
    """Figures of one database, "sqlite" or "postgresql"; *name* is that or "small load"."""
    folder = Path(tempfile.mkdtemp(prefix="bmsota-bench-"))
    with ExitStack() as stack:
        stack.callback(shutil.rmtree, folder, ignore_errors=True)
        frames = Frames(seed=1)
        prepare(folder, telemetry_url, load, frames, time.time_ns() // 10**9)
        server = Server(folder, telemetry_url)
        stack.callback(server.kill)
        vehicles = Vehicles(server.port, load, frames)
        stack.callback(vehicles.close)
        plain = OneByOne(folder, telemetry_url, frames)
        stack.callback(plain.close)
        warm = vehicles.run(load.warm_s, load.rate_hz)
        plain.run(load.one_by_one)
        before, backend_before = server.usage(), backend_cpu_s(telemetry_url) if telemetry_url else 0.0
        sent = vehicles.run(load.measured_s, load.rate_hz)
        after, backend_after = server.usage(), backend_cpu_s(telemetry_url) if telemetry_url else 0.0
        plain.run(load.one_by_one)
        vehicles.close()
        server.stop()
        cpu_s = after["cpu_s"] - before["cpu_s"]
        lags = sorted(sent.lags_s)
        ratio = sent.count / cpu_s * plain.cpu_s / plain.count
        figures = [
            Figure(
                f"ingest {name}",
                round(sent.count / cpu_s, 1),
                "reports/CPU-s",
                round(ratio, 3),
                "one by one, in one thread",
            )
        ]
        if telemetry_url:
            used_us = (backend_after - backend_before) / sent.count * 1e6
            ratio = used_us * sent.count / cpu_s / 1e6
            figures.append(
                Figure(
                    f"ingest {name} backend",
                    round(used_us, 1),
                    "us CPU/report",
                    round(ratio, 3),
                    "our own CPU a report",
                )
            )
        lag_s = lags[int(len(lags) * 0.99)]
        ratio = lag_s / sorted(plain.times_s)[int(plain.count * 0.99)]
        figures.append(
            Figure(f"commit lag {name}", round(lag_s * 1000, 1), "ms p99", round(ratio, 3), "one by one, p99")
        )
        check(folder, telemetry_url, [warm, sent])
        if with_sizes:
            rows = load.rows_before + warm.count + sent.count
            figures += sizes(name, folder, telemetry_url, rows, load.vehicles)
        return figures


def check(folder: Path, telemetry_url: str, runs: list[Sent]) -> None:
    """Every frame is read back equal."""
    telemetry = SqlTelemetryStore(telemetry_url or f"sqlite:///{folder / 'telemetry.sqlite'}")
    for vin in set().union(*(run.frames for run in runs)):
        expected = [item for run in runs for item in run.frames.get(vin, ())]
        found = telemetry.read(vin, expected[0][0], expected[-1][0] + 1)
        assert [(frame.reported_at_s, frame.frame) for frame in found] == expected, vin
    assert telemetry.unread(1).frames == ()
    assert len(telemetry.newest([vin_of(0)])) == 1
    telemetry.close()


def sizes(name: str, folder: Path, telemetry_url: str, rows: int, vehicles: int) -> list[Figure]:
    if telemetry_url:
        import psycopg  # noqa: PLC0415

        with psycopg.connect(telemetry_url) as connection:
            connection.execute("VACUUM") if connection.autocommit else None
            reports, states = connection.execute(
                "SELECT (SELECT sum(pg_total_relation_size(inhrelid)) FROM pg_inherits WHERE inhparent = 'frame'::regclass),"
                " pg_total_relation_size('newest_state') + pg_total_relation_size('vehicle_event')"
            ).fetchone() or (0, 0)
    else:
        reports = sum(path.stat().st_size for path in (folder / "reports").glob("*.sqlite"))
        with sqlite3.connect(folder / "telemetry.sqlite") as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
        states = (folder / "telemetry.sqlite").stat().st_size
    per_frame, per_vehicle = float(reports) / rows / FRAME_SIZE_BYTES, float(states) / vehicles
    return [
        Figure(f"bytes per report {name}", round(per_frame, 3), "x frame", round(per_frame, 3), "the frame"),
        Figure(
            f"state and events {name}",
            round(per_vehicle, 1),
            "bytes/vehicle",
            round(per_vehicle / FRAME_SIZE_BYTES, 3),
            "the frame",
        ),
    ]


def figures(*, quick: bool, only: str = "", postgresql: str = POSTGRESQL) -> Iterator[Figure]:
    load = QUICK if quick else Load()
    if only in {"", "sqlite"}:
        yield from measure("sqlite", load)
    if only in {"", "postgresql"}:
        if _answers(postgresql):
            with database(postgresql) as url:
                yield from measure("postgresql", load, url)
        else:
            sys.stderr.write(f"no PostgreSQL at {postgresql}: its figures are left out\n")
    if only in {"", "small"}:
        small = replace(load, rate_hz=load.rate_hz / 10)
        yield from measure("small load", small, with_sizes=False)


def _answers(address: str) -> bool:
    try:
        socket.create_connection(address.split(":"), timeout=2).close()  # type: ignore[arg-type]
    except OSError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.platform")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.add_argument("--quick", action="store_true", help="few vehicles for a second: whether it runs, not how fast")
    parser.add_argument("--only", default="", help="the figures of one database: sqlite, postgresql or small")
    parser.add_argument(
        "--postgresql", default=POSTGRESQL, metavar="HOST:PORT", help=f"the server (default {POSTGRESQL})"
    )
    arguments = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    for figure in figures(quick=arguments.quick, only=arguments.only, postgresql=arguments.postgresql):
        if arguments.json:
            sys.stdout.write(json.dumps(asdict(figure)) + "\n")
        else:
            sys.stdout.write(
                f"{figure.figure:28} {figure.value:>14,.3f} {figure.unit}  {figure.ratio:.3g} x {figure.baseline}\n"
            )
        sys.stdout.flush()


if __name__ == "__main__":
    main()
