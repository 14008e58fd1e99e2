"""A restart into a clock that is 40 days ahead, and back: libfaketime under the whole process, real sockets, real files."""

import json
import os
import socket
import subprocess
import sys
from contextlib import contextmanager
from ctypes.util import find_library
from pathlib import Path

import pytest
from bmsota_cloud.clock import wall_clock_ns

from bmsota.gbt32960 import Command, Frame, Report, TerminalSession, beijing_time, decode, encode

# Four starts of a whole platform.
pytestmark = pytest.mark.slow

LIBRARY = next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None) or find_library("faketimeMT")
VINS = [f"LANOTHERTIME{number:05d}" for number in range(3)]
DAYS_S = 40 * 24 * 3600

# A platform as `bmsota-cloud serve` wires it. It answers each line with what it is at, some ticks later; it notes what its ticks do, and does it.
PLATFORM = """
import asyncio, json, sys, time
from pathlib import Path
from bmsota_cloud import wiring
from bmsota_cloud.clock import wall_clock
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.services import PlatformKeys, PlatformSettings
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

def noted(of, name, calls):
    real = getattr(of, name)
    def call(*args):
        calls.append(name)
        return real(*args)
    setattr(of, name, call)

async def main():
    wiring._TICK_S = 0.02
    vins = sys.argv[2:]
    keys = PlatformKeys(order_signing_key=Ed25519PrivateKey.generate(), manifest_public_keys=(), image_public_keys=())
    options = wiring.ServeOptions(keys=keys, data_dir=Path(sys.argv[1]), settings=PlatformSettings(acknowledge_reports=True))
    calls, ticks = [], []
    running = await wiring.RunningCloud.start(options)
    services = running.cloud.services
    noted(services.upgrades, "expire", calls)
    noted(services.ingest, "prune", calls)
    noted(services.link_watch, "flush", ticks)
    for vin in vins:
        if not known(running, vin):
            services.vehicles.register(vin=vin, series="T1", project="P", now=wall_clock())
    loop = asyncio.get_running_loop()
    print(json.dumps({"port": running.gateway_port, "now_s": int(time.time())}), flush=True)
    while await loop.run_in_executor(None, sys.stdin.readline):
        until = len(ticks) + 5
        while len(ticks) < until:
            await asyncio.sleep(0.01)
        reports = [running.cloud.telemetry.frames(vin, PageRequest(1, 1)).total for vin in vins]
        said = {"waits": running.clock_guard.is_waiting, "calls": sorted(set(calls)), "reports": reports}
        print(json.dumps(said), flush=True)
    await running.stop()

def known(running, vin):
    with running.cloud.store.reading() as work:
        return work.vehicles.get(vin) is not None

asyncio.run(main())
"""


class Platform:
    def __init__(self, process):
        self._process = process
        said = self._read()
        self.port, self.now_s = said["port"], said["now_s"]

    def _read(self):
        line = self._process.stdout.readline()
        assert line, "the platform has ended"
        return json.loads(line)

    def after_some_ticks(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        return self._read()

    def hears(self, vin, at_s):
        """A vehicle logs in, and reports; the report is acknowledged, so it is stored."""
        session = TerminalSession(vin=vin, iccid="8" * 20)
        session.handle_timeout(at_s * 10**9)
        session.connected(at_s * 10**9)
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as link:
            link.sendall(session.data_to_send())
            assert decode(link.recv(4096)).reply_flag == 1
            message = Report(time=beijing_time(at_s * 10**9), bodies=())
            link.sendall(encode(Frame(command=Command.REALTIME_REPORT, vin=vin, message=message)))
            assert decode(link.recv(4096)).reply_flag == 1


@contextmanager
def platform(folder, *, days=0):
    environment = dict(os.environ)
    if days:
        environment |= {
            "LD_PRELOAD": str(LIBRARY), "FAKETIME": f"+{days}d", "FAKETIME_DONT_FAKE_MONOTONIC": "1", "NO_FAKE_STAT": "1"
        }  # fmt: skip
    process = subprocess.Popen(
        [sys.executable, "-c", PLATFORM, str(folder), *VINS],
        env=environment, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    try:
        yield Platform(process)
        process.stdin.close()
        assert process.wait(60) == 0
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        process.stdout.close()


@pytest.mark.skipif(LIBRARY is None, reason="libfaketime is not installed (Debian: libfaketime)")
def test_a_restart_into_a_clock_40_days_ahead_deletes_nothing_until_three_vehicles_agree(tmp_path):
    begin_s = wall_clock_ns() // 10**9
    with platform(tmp_path) as right:
        assert abs(right.now_s - begin_s) < DAYS_S // 2
        for vin in VINS:
            right.hears(vin, begin_s)
        assert right.after_some_ticks() == {"waits": False, "calls": ["expire", "prune"], "reports": [1, 1, 1]}
    with platform(tmp_path, days=40) as ahead:
        assert abs(ahead.now_s - begin_s - DAYS_S) < DAYS_S // 2
        assert ahead.after_some_ticks() == {"waits": True, "calls": [], "reports": [1, 1, 1]}
        for vin in VINS:
            # Of the day before, which no other report keeps: by this clock it is too old to begin that day.
            ahead.hears(vin, begin_s - 24 * 3600)
        assert ahead.after_some_ticks() == {"waits": True, "calls": [], "reports": [2, 2, 2]}, "they do not agree"
    with platform(tmp_path) as back:
        assert back.after_some_ticks() == {"waits": True, "calls": [], "reports": [2, 2, 2]}
        for vin in VINS:
            back.hears(vin, begin_s + 2)
        assert back.after_some_ticks() == {"waits": False, "calls": ["expire", "prune"], "reports": [3, 3, 3]}
    # The clock was right after all: what arrived 40 days before is past its time, what arrived under the clock ahead is not.
    with platform(tmp_path, days=40) as later:
        for vin in VINS:
            later.hears(vin, begin_s + DAYS_S)
        assert later.after_some_ticks() == {"waits": False, "calls": ["expire", "prune"], "reports": [2, 2, 2]}
