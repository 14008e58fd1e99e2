"""Flashing over a paced virtual bus, in simulated seconds: the same figure on every machine.

256 KiB of random bytes, so that compression gains nothing; what a real flash needs to erase, program and verify is not
charged (that is the device's own). Everything else is: search, offer, data, reports, verification. The baseline of one node
is the wire: data frames back to back with the expected number of stuff bits, nothing else on the bus. The baseline of a
broadcast is the time of one node on the same bus. The rows named "computed" are what other protocols could reach on the
same wire at best (`_limits.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from bmsota_sim.kernel import MS, SECOND, Kernel
from bmsota_sim.links.canbus import BusFaults, CanBus

from benchmarks._figures import Figure, print_figures
from benchmarks._limits import comparison
from benchmarks._rig import Pump, image, make_identity, make_store
from benchmarks._uds import uds_seconds
from bmsota.adapters.files import packaged_dbc
from bmsota.bootloader import BootloaderClient, BootloaderTarget, BootloaderWire, BroadcastClient, TargetTiming
from bmsota.can_timing import ceiling_bytes_per_s
from bmsota.node import ImageVerified, NodeEvent
from bmsota.signals import loads

if TYPE_CHECKING:
    from collections.abc import Sequence

LIMIT_S = 120
SEEDS = (1, 2, 3, 4, 5)
"""Of the lost frames; the figure is the worst."""


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


def make_target(wire: BootloaderWire, position: int) -> BootloaderTarget:
    store = make_store()
    return BootloaderTarget(
        wire,
        identity=make_identity(position),
        store=store,
        boot=store.boot(),
        timing=TargetTiming(verify_ns=0),
    )


def flash_seconds(
    kind: Wire = CLASSIC, *, turnaround_ns: int = 0, nodes: int = 1, loss: float = 0.0, seed: int = 1
) -> float:
    """Simulated seconds from the first frame to the last "verified"."""
    kernel = Kernel(0)
    bus = CanBus(
        kernel,
        bitrate_bps=kind.bitrate_bps,
        data_bitrate_bps=kind.data_bitrate_bps,
        seed=seed,
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


def figures(seeds: Sequence[int] = SEEDS) -> list[Figure]:
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
    for name, nodes, loss in (
        ("broadcast 16", 16, 0.0),
        ("broadcast 16 1% loss", 16, 0.01),
        ("broadcast 8 10% loss", 8, 0.1),
    ):
        seconds = max(flash_seconds(nodes=nodes, loss=loss, seed=seed) for seed in (seeds if loss else seeds[:1]))
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
