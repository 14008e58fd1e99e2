"""The platform's gateway in a process of its own, for `benchmarks.platform`: commands on standard input, answers on standard output.

It is wired as `bmsota_cloud.wiring` does it: real store, real gateway, one writer, states and events once a second, reports acknowledged
after a synced commit. Only the web side is left out.
"""

from __future__ import annotations

import asyncio
import json
import resource
import sys
from pathlib import Path

from bmsota_cloud.clock import PlatformClock
from bmsota_cloud.domain.clock_guard import ClockGuard
from bmsota_cloud.gateway import GatewayServer
from bmsota_cloud.platform import build_cloud
from bmsota_cloud.services import PlatformKeys, PlatformSettings
from bmsota_cloud.wiring import tune_collector
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey


async def main(folder: str, telemetry_url: str) -> None:
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    keys = PlatformKeys(order_signing_key=Ed25519PrivateKey.generate(), manifest_public_keys=(), image_public_keys=())
    guard = ClockGuard()
    clock = PlatformClock(guard)
    cloud = build_cloud(
        keys=keys,
        data_dir=Path(folder),
        telemetry_url=telemetry_url,
        settings=PlatformSettings(acknowledge_reports=True),
        clock=clock.now,
        clock_guard=guard,
    )
    writer = cloud.make_writer()
    server = GatewayServer(cloud.open_link, clock.now_ns, writer=writer)
    port = await server.start("127.0.0.1", 0)
    tune_collector()
    _say({"port": port})
    commands = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(commands), sys.stdin)
    while line := (await commands.readline()).strip():
        if line == b"usage":
            used = resource.getrusage(resource.RUSAGE_SELF)
            _say({"cpu_s": used.ru_utime + used.ru_stime, "peak_bytes": writer.size_bytes_peak})
    await server.stop()
    cloud.close()
    _say(dict(cloud.services.counters))


def _say(what: object) -> None:
    sys.stdout.write(json.dumps(what) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
