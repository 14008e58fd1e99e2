"""Flashing over a paced virtual bus, in simulated seconds: the same figure on every machine.

256 KiB of random bytes, so that compression gains nothing; what a real flash needs to erase, program and verify is not
charged (that is the device's own). Everything else is: search, offer, data, reports, verification. The baseline of one node
is the wire: data frames back to back with the expected number of stuff bits, nothing else on the bus. The baseline of a
broadcast is the time of one node on the same bus. The rows named "computed" are what other protocols could reach on the
same wire at best (`_limits.py`).
"""

from __future__ import annotations

import random
from dataclasses import dataclass
from functools import cache, partial
from typing import TYPE_CHECKING

from benchmarks._figures import Figure, print_figures
from benchmarks._limits import comparison
from benchmarks._uds import uds_seconds
from bmsota.adapters.files import packaged_dbc, packaged_firmware
from bmsota.boot import BootStore, SlotLayout
from bmsota.bootloader import (
    BootloaderClient,
    BootloaderTarget,
    BootloaderWire,
    BroadcastClient,
    ImageVerified,
    NodeEvent,
    TargetIdentity,
    TargetTiming,
)
from bmsota.canbits import ceiling_bytes_per_s
from bmsota.image import HardwareClass, ImageRole, ImageVersion, build_image, load_signing_key, verify_image
from bmsota.signals import loads
from simulator.devices.flash import FlashModel
from simulator.kernel import MS, SECOND, Kernel
from simulator.links.canbus import BusFaults, CanBus

if TYPE_CHECKING:
    from bmsota.canframe import CanFrame
    from simulator.links.canbus import Port

IMAGE_SIZE_BYTES = 256 * 1024
LIMIT_S = 120
HARDWARE = HardwareClass.named("bmsota.example", "bench-slave")


@dataclass(frozen=True)
class Wire:
    """One kind of bus."""

    dbc: str
    bitrate_bps: int
    data_bitrate_bps: int | None = None

    @property
    def extended(self) -> bool:
        return self.dbc.endswith("29bit")

    @property
    def ceiling(self) -> float:
        return ceiling_bytes_per_s(self.bitrate_bps, extended=self.extended, data_bitrate_bps=self.data_bitrate_bps)


CLASSIC = Wire("bms_bootloader", 500_000)
WIRES = {
    "classic 500k 11-bit": CLASSIC,
    "classic 500k 29-bit": Wire("bms_bootloader_29bit", 500_000),
    "fd 500k/2M": Wire("bms_bootloader_fd", 500_000, 2_000_000),
    "fd 1M/5M": Wire("bms_bootloader_fd", 1_000_000, 5_000_000),
}


@cache
def image() -> bytes:
    return build_image(
        random.Random(1).randbytes(IMAGE_SIZE_BYTES),
        version=ImageVersion(1, 0, 0),
        security_counter=1,
        hardware_class=HARDWARE,
        role=ImageRole.SLAVE,
        signing_key=load_signing_key(packaged_firmware("keys/image.SAMPLE.private.pem")),
    )


class Pump:
    """One machine on one port: fed with what it hears, asked for more whenever its port has sent everything."""

    def __init__(self, kernel: Kernel, machine: object, turnaround_ns: int = 0) -> None:
        self.kernel = kernel
        self.machine = machine
        self.turnaround_ns = turnaround_ns
        self.port: Port
        self.events: list[object] = []
        self._timer_ns: int | None = None

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
        due_ns = max(due_ns, now_ns + 1)
        if self._timer_ns is None or due_ns < self._timer_ns or self._timer_ns <= now_ns:
            self._timer_ns = due_ns
            self.kernel.call_at(due_ns, self.timeout)

    def timeout(self) -> None:
        self._timer_ns = None
        self.machine.handle_timeout(self.kernel.now_ns)
        self.pump()


def make_target(wire: BootloaderWire, position: int) -> BootloaderTarget:
    public_key = load_signing_key(packaged_firmware("keys/image.SAMPLE.private.pem")).public_key()
    flash = FlashModel(1024 * 1024, erase_block_bytes=4096, erase_ns=0, program_ns=0)
    store = BootStore(
        flash,
        SlotLayout.divide(flash, journal_size_bytes=16 * 1024),
        verify=partial(verify_image, public_keys=(public_key,)),
    )
    name = f"BENCH-{position}"
    return BootloaderTarget(
        wire,
        identity=TargetIdentity(
            position=position, role=ImageRole.SLAVE, hwid=name, serial=name, hardware_class=HARDWARE
        ),
        store=store,
        boot=store.boot(),
        timing=TargetTiming(verify_ns=0),
    )


def flash_seconds(kind: Wire = CLASSIC, *, turnaround_ns: int = 0, nodes: int = 1, loss: float = 0.0) -> float:
    """Simulated seconds from the first frame to the last "verified"."""
    kernel = Kernel(0)
    bus = CanBus(
        kernel,
        bitrate_bps=kind.bitrate_bps,
        data_bitrate_bps=kind.data_bitrate_bps,
        seed=1,
        faults=BusFaults(loss=loss),
    )
    wire = BootloaderWire(loads(packaged_dbc(kind.dbc)))
    positions = range(1, nodes + 1)
    if nodes == 1:
        client: BootloaderClient | BroadcastClient = BootloaderClient(wire, position=1, image=image())
    else:
        client = BroadcastClient(wire, positions=positions, image=image())
    flasher = Pump(kernel, client, turnaround_ns)
    flasher.attach(bus, "flasher")
    for position in positions:
        Pump(kernel, make_target(wire, position)).attach(bus, f"node {position}")
    flasher.pump()
    while not client.finished and kernel.now_ns < LIMIT_S * SECOND:
        kernel.run_until(kernel.next_due())
    verified = [
        event
        for event in flasher.events
        if isinstance(event.event if isinstance(event, NodeEvent) else event, ImageVerified)
    ]
    assert len(verified) == nodes, flasher.events[-3:]
    return kernel.now_ns / SECOND


def figures() -> list[Figure]:
    found = []
    size = len(image())

    def rate(name: str, seconds: float, kind: Wire) -> None:
        value = size / seconds
        ceiling = kind.ceiling
        found.append(
            Figure(name, round(value, 1), "B/s simulated", round(value / ceiling, 4), f"wire {ceiling:.0f} B/s")
        )

    for name, kind in WIRES.items():
        rate(name, flash_seconds(kind), kind)
    rate("classic 500k 11-bit 5 ms", flash_seconds(turnaround_ns=5 * MS), CLASSIC)
    one = flash_seconds()
    for name, loss in (("broadcast 16", 0.0), ("broadcast 16 1% loss", 0.01)):
        seconds = flash_seconds(nodes=16, loss=loss)
        found.append(Figure(name, round(seconds, 3), "s simulated", round(seconds / one, 4), f"one node {one:.3f} s"))
    seconds, uds_size = uds_seconds(0xFFF)
    value, ceiling = uds_size / seconds, CLASSIC.ceiling
    found.append(
        Figure("uds 0xfff", round(value, 1), "B/s simulated", round(value / ceiling, 4), f"wire {ceiling:.0f} B/s")
    )
    for wire_name in ("classic 500k 11-bit", "fd 500k/2M"):
        kind = WIRES[wire_name]
        for name, value in comparison(kind.bitrate_bps, kind.data_bitrate_bps, kind.extended)[1:]:
            found.append(
                Figure(
                    f"computed: {name}, {wire_name}",
                    round(value, 1),
                    "B/s computed",
                    round(value / kind.ceiling, 4),
                    f"wire {kind.ceiling:.0f} B/s",
                )
            )
    return found


if __name__ == "__main__":
    print_figures("flash", figures)
