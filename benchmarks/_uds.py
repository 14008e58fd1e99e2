"""UDS over the paced virtual bus, in simulated seconds: 256 KiB to one `UdsServer`, as `benchmarks/flash.py` does it."""

from __future__ import annotations

import random

from bmsota_sim.kernel import SECOND, Kernel
from bmsota_sim.links.canbus import CanBus

from benchmarks._rig import Pump, image, make_identity, make_store
from bmsota.node import ImageVerified
from bmsota.uds import UDS_11BIT, UdsServer, UdsServerTiming, UdsTransfer

BITRATE_BPS = 500_000
LIMIT_S = 120


def uds_seconds(block_length: int) -> tuple[float, int]:
    """Simulated seconds from the first frame to "verified" with this maxNumberOfBlockLength, and the image's size in bytes."""
    kernel = Kernel(0)
    bus = CanBus(kernel, bitrate_bps=BITRATE_BPS)
    store = make_store()
    address = UDS_11BIT.address(1)
    server = UdsServer(
        address,
        identity=make_identity(1),
        store=store,
        boot=store.boot(),
        random_bytes=random.Random(2).randbytes,
        timing=UdsServerTiming(verify_ns=0),
        block_length_max=block_length,
    )
    tester = Pump(kernel, UdsTransfer(address, position=1, image=image()))
    tester.attach(bus, "tester")
    Pump(kernel, server).attach(bus, "server")
    tester.pump()
    while not tester.machine.finished and kernel.now_ns < LIMIT_S * SECOND:
        kernel.run_until(kernel.next_due())
    assert any(isinstance(event, ImageVerified) for event in tester.events), tester.events[-3:]
    return kernel.now_ns / SECOND, len(image())
