"""What the simulated flashing benchmarks share: an image of random bytes, a node's flash, and a pump for one machine.

What a real flash needs to erase and program is not charged (that is the device's own).
"""

from __future__ import annotations

import random
from functools import cache, partial
from typing import TYPE_CHECKING

from bmsota_sim.devices.flash import FlashModel
from bmsota_sim.samples import sample_file

from bmsota.boot import BootStore, SlotLayout
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, load_signing_key, verify_image
from bmsota.node import TargetIdentity

if TYPE_CHECKING:
    from bmsota_sim.kernel import Kernel, Timer
    from bmsota_sim.links.canbus import CanBus, Port

    from bmsota.canframe import CanFrame
    from bmsota.node import CanProtocol

IMAGE_SIZE_BYTES = 256 * 1024
HARDWARE = HardwareClass.named("bmsota.example", "bench-slave")


@cache
def image() -> bytes:
    return build_image(
        random.Random(1).randbytes(IMAGE_SIZE_BYTES),
        version=ImageVersion(1, 0, 0),
        security_counter=1,
        hardware_class=HARDWARE,
        role=ImageRole.SLAVE,
        signing_key=load_signing_key(sample_file("keys/image.SAMPLE.private.pem")),
    )


class Pump:
    """One machine on one port: fed with what it hears, asked for more whenever its port has sent everything."""

    def __init__(self, kernel: Kernel, machine: CanProtocol[object], turnaround_ns: int = 0) -> None:
        self.kernel = kernel
        self.machine = machine
        self.turnaround_ns = turnaround_ns
        self.port: Port
        self.events: list[object] = []
        self._timer: Timer | None = None

    def attach(self, bus: CanBus, name: str) -> None:
        self.port = bus.attach(self.receive, name=name, drained=lambda _now_ns: self.pump())

    def receive(self, frame: CanFrame, now_ns: int) -> None:
        if self.turnaround_ns:
            self.kernel.call_at(now_ns + self.turnaround_ns, self.hear, frame)
        else:
            self.hear(frame)

    def hear(self, frame: CanFrame) -> None:
        self.machine.receive_frame(frame, self.kernel.now_ns)
        self.pump()

    def pump(self) -> None:
        machine, now_ns = self.machine, self.kernel.now_ns
        if not self.port.pending:
            for frame in machine.frames_to_send(now_ns):
                self.port.send(frame)
        while (event := machine.next_event()) is not None:
            self.events.append(event)
        due_ns = machine.next_timeout()
        # With frames still to be sent the port calls when it is done.
        if due_ns is None or self.port.pending or getattr(machine, "finished", False):
            return
        # One timer a machine: it asks for another deadline after almost every frame.
        due_ns = max(due_ns, now_ns + 1)
        if self._timer is not None:
            if self._timer.when_ns <= due_ns:
                return
            self._timer.cancel()
        self._timer = self.kernel.call_at(due_ns, self.timeout)

    def timeout(self) -> None:
        self._timer = None
        self.machine.handle_timeout(self.kernel.now_ns)
        self.pump()


def make_store() -> BootStore:
    """An empty store that believes the sample key, on a flash that takes no time."""
    public_key = load_signing_key(sample_file("keys/image.SAMPLE.private.pem")).public_key()
    flash = FlashModel(1024 * 1024, erase_block_bytes=4096, erase_ns=0, program_ns=0)
    return BootStore(
        flash,
        SlotLayout.divide(flash, journal_size_bytes=16 * 1024),
        verify=partial(verify_image, public_keys=(public_key,)),
    )


def make_identity(position: int) -> TargetIdentity:
    name = f"BENCH-{position}"
    return TargetIdentity(position=position, role=ImageRole.SLAVE, hwid=name, serial=name, hardware_class=HARDWARE)
