"""UDS over the paced virtual bus, in simulated seconds: 256 KiB to one `UdsServer`, as `benchmarks/flash.py` does it."""

from __future__ import annotations

import random

from bmsota.adapters.files import packaged_firmware
from bmsota.boot import BootStore, SlotLayout
from bmsota.bootloader import ImageVerified, TargetIdentity
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, load_signing_key, verify_image
from bmsota.uds import UDS_11BIT, UdsServer, UdsServerTiming, UdsTransfer
from simulator.devices.flash import FlashModel
from simulator.kernel import SECOND, Kernel
from simulator.links.canbus import CanBus

IMAGE_SIZE_BYTES = 256 * 1024
BITRATE_BPS = 500_000
LIMIT_S = 120


def uds_seconds(block_length: int) -> tuple[float, int]:
    """Simulated seconds from the first frame to "verified" with this maxNumberOfBlockLength, and the image's size in bytes."""
    hardware = HardwareClass.named("bmsota.example", "bench-slave")
    key = load_signing_key(packaged_firmware("keys/image.SAMPLE.private.pem"))
    image = build_image(
        random.Random(1).randbytes(IMAGE_SIZE_BYTES),
        version=ImageVersion(1, 0, 0),
        security_counter=1,
        hardware_class=hardware,
        role=ImageRole.SLAVE,
        signing_key=key,
    )
    kernel = Kernel(0)
    bus = CanBus(kernel, bitrate_bps=BITRATE_BPS)
    flash = FlashModel(1024 * 1024, erase_block_bytes=4096, erase_ns=0, program_ns=0)
    store = BootStore(
        flash,
        SlotLayout.divide(flash, journal_size_bytes=16 * 1024),
        verify=lambda data: verify_image(data, public_keys=(key.public_key(),)),
    )
    address = UDS_11BIT.address(1)
    server = UdsServer(
        address,
        identity=TargetIdentity(
            position=1, role=ImageRole.SLAVE, hwid="BENCH", serial="BENCH", hardware_class=hardware
        ),
        store=store,
        boot=store.boot(),
        random_bytes=random.Random(2).randbytes,
        timing=UdsServerTiming(verify_ns=0),
        block_length_max=block_length,
    )
    machines = {"client": UdsTransfer(address, position=1, image=image), "server": server}
    ports = {}
    wakes: dict[str, tuple[int, object]] = {}
    done: list[int] = []

    def pump(name: str) -> None:
        machine = machines[name]
        for frame in machine.frames_to_send(kernel.now_ns):
            ports[name].send(frame)
        while (event := machine.next_event()) is not None:
            if isinstance(event, ImageVerified):
                done.append(kernel.now_ns)
        wake(name)

    def wake(name: str) -> None:
        """One timer a machine: it asks for another deadline after almost every frame."""
        due = machines[name].next_timeout()
        planned = wakes.get(name)
        if due is None or done or (planned is not None and planned[0] <= due):
            return
        if planned is not None:
            planned[1].cancel()
        when = max(due, kernel.now_ns + 1)
        wakes[name] = (when, kernel.call_at(when, timeout, name))

    def timeout(name: str) -> None:
        wakes.pop(name, None)
        machines[name].handle_timeout(kernel.now_ns)
        pump(name)

    def receive(name: str) -> object:
        def on_frame(frame: object, now_ns: int) -> None:
            machines[name].receive_frame(frame, now_ns)
            pump(name)

        return on_frame

    for name in machines:
        ports[name] = bus.attach(receive(name), name=name, drained=lambda _now, name=name: pump(name))
    pump("client")
    while not done and kernel.now_ns < LIMIT_S * SECOND:
        kernel.run_until(kernel.now_ns + SECOND // 100)
    return done[0] / SECOND, len(image)
