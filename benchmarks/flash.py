"""Flashing over a paced virtual bus, in simulated seconds: the same figure on every machine.

256 KiB to one node; what a real flash needs to erase and program is not charged (that is the device's own). The baseline
is the wire: data frames back to back with the expected number of stuff bits, nothing else on the bus.
"""

from __future__ import annotations

import random

from benchmarks._figures import Figure, print_figures
from bmsota.adapters.files import packaged_dbc, packaged_firmware
from bmsota.boot import BootStore, SlotLayout
from bmsota.bootloader import (
    BootloaderClient,
    BootloaderTarget,
    BootloaderWire,
    ImageVerified,
    TargetIdentity,
    TargetTiming,
)
from bmsota.canframe import CanFrame
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, load_signing_key, verify_image
from bmsota.signals import loads
from simulator.devices.flash import FlashModel
from simulator.kernel import SECOND, Kernel
from simulator.links.canbus import CanBus, frame_bits

IMAGE_SIZE_BYTES = 256 * 1024
BITRATE_BPS = 500_000
LIMIT_S = 120


def flash_seconds(turnaround_ns: int = 0) -> tuple[float, int]:
    """Simulated seconds from the first frame to "verified", and the size of the image file."""
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
    wire = BootloaderWire(loads(packaged_dbc("bms_bootloader")))
    flash = FlashModel(1024 * 1024, erase_block_bytes=4096, erase_ns=0, program_ns=0)
    store = BootStore(
        flash,
        SlotLayout.divide(flash, journal_size_bytes=16 * 1024),
        verify=lambda data: verify_image(data, public_keys=(key.public_key(),)),
    )
    target = BootloaderTarget(
        wire,
        identity=TargetIdentity(
            position=1, role=ImageRole.SLAVE, hwid="BENCH", serial="BENCH", hardware_class=hardware
        ),
        store=store,
        boot=store.boot(),
        timing=TargetTiming(verify_ns=0),
    )
    client = BootloaderClient(wire, position=1, image=image)
    done: list[int] = []
    machines = {"client": client, "target": target}
    ports = {}

    def pump(name: str) -> None:
        machine = machines[name]
        for frame in machine.frames_to_send(kernel.now_ns):
            ports[name].send(frame)
        while (event := machine.next_event()) is not None:
            if isinstance(event, ImageVerified):
                done.append(kernel.now_ns)
        due = machine.next_timeout()
        if due is not None and not done:
            kernel.call_at(max(due, kernel.now_ns + 1), timeout, name)

    def timeout(name: str) -> None:
        machines[name].handle_timeout(kernel.now_ns)
        pump(name)

    def hear(name: str, frame: CanFrame, now_ns: int) -> None:
        machines[name].receive_frame(frame, now_ns)
        pump(name)

    def receive(name: str, delay_ns: int) -> object:
        def on_frame(frame: CanFrame, now_ns: int) -> None:
            if delay_ns:
                kernel.call_in(delay_ns, hear, name, frame, now_ns + delay_ns)
            else:
                hear(name, frame, now_ns)

        return on_frame

    for name, delay_ns in (("client", turnaround_ns), ("target", 0)):
        ports[name] = bus.attach(receive(name, delay_ns), name=name, drained=lambda _now, name=name: pump(name))
    pump("client")
    while not done and kernel.now_ns < LIMIT_S * SECOND:
        kernel.run_until(kernel.now_ns + SECOND // 100)
    return done[0] / SECOND, len(image)


def figures() -> list[Figure]:
    bits = frame_bits(CanFrame(0x740, bytes(8)))[0]
    ceiling = BITRATE_BPS / bits * 8
    found = []
    for name, turnaround_ns in (("classic 500k 11-bit", 0), ("classic 500k 11-bit 5 ms", 5_000_000)):
        seconds, size = flash_seconds(turnaround_ns)
        rate = size / seconds
        found.append(Figure(name, round(rate, 1), "B/s simulated", round(rate / ceiling, 4), f"wire {ceiling:.0f} B/s"))
    return found


if __name__ == "__main__":
    print_figures("flash", figures)
