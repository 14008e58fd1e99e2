"""`virtual full` as commit 231c49c has it; run with that commit's tree as the working directory and on the path, and nothing of today's.

python .../benchmarks/_fleet_before.py COUNT SECONDS    prints unit-seconds per CPU-second
"""

from __future__ import annotations

import sys
import time

from simulator.demo import _databases, _factory_images, _keys
from simulator.fleet import Fleet
from simulator.kernel import SECOND, Kernel
from simulator.scenario import Scenario
from simulator.virtual import MemoryUplink

from bmsota.gbt32960 import CloseRequested, LoginRequested, PlatformSession

BOOT_S = 5
VIRTUAL_START_NS = 1_795_305_600 * SECOND


class Link:
    """One `PlatformSession` that accepts every login, as the memory uplinks see a link."""

    def __init__(self) -> None:
        self.session = PlatformSession()
        self.is_closing = False
        self.connected = self.session.connected
        self.data_to_send = self.session.data_to_send
        self.next_timeout = self.session.next_timeout
        self.disconnected = self.session.disconnected

    def receive_data(self, data: bytes, now_ns: int) -> None:
        self.session.receive_data(data, now_ns)
        self.take(now_ns)

    def handle_timeout(self, now_ns: int) -> None:
        self.session.handle_timeout(now_ns)
        self.take(now_ns)

    def take(self, now_ns: int) -> None:
        while (event := self.session.next_event()) is not None:
            if isinstance(event, LoginRequested):
                self.session.accept_login(now_ns)
            elif isinstance(event, CloseRequested):
                self.is_closing = True


class Platform:
    def open_link(self, _wake: object) -> Link:
        return Link()

    def respond(self, _request: object) -> object:
        raise LookupError("no device API here: nothing is ordered")


def main(count: int, seconds: int) -> None:
    scenario = Scenario.model_validate(
        {"name": "full", "duration_s": 3600, "fleet": [{"series": "F7", "count": count, "city": "Shanghai"}]}
    )
    kernel = Kernel(VIRTUAL_START_NS)
    fleet = Fleet(
        scenario,
        1,
        kernel=kernel,
        databases=_databases(),
        keys=_keys(1)[1],
        factory_images=_factory_images,
        uplink=lambda _number: MemoryUplink(kernel, Platform(), delay_ns=50_000_000),
    )
    fleet.start()
    kernel.run_until(VIRTUAL_START_NS + BOOT_S * SECOND)
    start = time.process_time()
    kernel.run_until(VIRTUAL_START_NS + (BOOT_S + seconds) * SECOND)
    sys.stdout.write(f"{count * seconds / (time.process_time() - start)}\n")


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]))
