"""The CAN bootloader on `node`'s bench and, as `WireBench`, on the simulator's bus with real bit times."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import node as rig
from bmsota_sim.devices.flash import FlashModel
from bmsota_sim.kernel import Kernel
from bmsota_sim.links.canbus import BusFaults, CanBus
from node import FRAME_NS, KEY, MS, NEW, OLD, SECOND, SLAVE_CLASS, make_image

from bmsota.adapters.files import packaged_database
from bmsota.bootloader import (
    BootloaderClient,
    BootloaderCommand,
    BootloaderDiscovery,
    BootloaderTarget,
    BootloaderWire,
    BroadcastClient,
)
from bmsota.image import ImageVersion
from bmsota.node import NodeCommand, ResetRequested
from bmsota.signals import loads

if TYPE_CHECKING:
    from collections.abc import Callable

    from bmsota.canframe import CanFrame

__all__ = [
    "DBC_PATH",
    "FRAME_NS",
    "KEY",
    "MS",
    "NEW",
    "OLD",
    "SECOND",
    "SLAVE_CLASS",
    "Bench",
    "BusFaults",
    "FlashModel",
    "ImageVersion",
    "Node",
    "Station",
    "WireBench",
    "database",
    "loads",
    "make_image",
]

DBC_FOLDER = Path(__file__).resolve().parents[2] / "dbc"
DBC_PATH = DBC_FOLDER / "bms_bootloader.dbc"


def database(name: str = "bms_bootloader") -> Any:
    return packaged_database(name)


class Node(rig.Node):
    """A node that speaks the bootloader; its option `access` makes a guard anew at each boot."""

    def new_target(self, wire: BootloaderWire) -> BootloaderTarget:
        options = {name: value() if name == "access" else value for name, value in self.options.items()}
        return BootloaderTarget(wire, identity=self.identity, store=self.store, boot=self.boot, **options)


class Bench(rig.Bench):
    """The bench with the bootloader's clients."""

    def __init__(self, *nodes: Any, dbc: str = "bms_bootloader", **options: Any) -> None:
        super().__init__(BootloaderWire(database(dbc)), *nodes, **options)

    def transfer(self, image: bytes, *positions: int, **options: Any) -> BootloaderClient | BroadcastClient:
        """To one node, or to several at once."""
        if len(positions) > 1:
            return BroadcastClient(self.wire, positions=positions, image=image, **options)
        (position,) = positions
        return BootloaderClient(self.wire, position=position, image=image, **options)

    def discovery(self, **options: Any) -> BootloaderDiscovery:
        return BootloaderDiscovery(self.wire, **options)

    def command(self, position: int, command: NodeCommand, **options: Any) -> Any:
        """Give one command; its only event."""
        return self.run(BootloaderCommand(self.wire, position=position, command=command, **options))[-1]


class Station:
    """One machine on one port of a `CanBus`: fed with what it hears, asked for more whenever its port has sent everything."""

    def __init__(self, bus: CanBus, name: str, heard: Callable[[Any], None]) -> None:
        self.kernel = bus.kernel
        self.machine: Any = None
        self.port = bus.attach(self._receive, name=name, drained=lambda _now_ns: self.pump())
        self.sent: list[CanFrame] = []
        self._heard = heard
        self._timer: Any = None

    def start(self, machine: Any) -> None:
        self.machine = machine
        self.port.power(on=True)
        self.pump()

    def stop(self) -> None:
        self.machine = None
        self.port.power(on=False)
        if self._timer is not None:
            self._timer.cancel()

    def _receive(self, frame: CanFrame, now_ns: int) -> None:
        if self.machine is not None:
            self.machine.receive_frame(frame, now_ns)
            self.pump()

    def _timeout(self) -> None:
        if self.machine is not None:
            self.machine.handle_timeout(self.kernel.now_ns)
            self.pump()

    def pump(self) -> None:
        machine, now_ns = self.machine, self.kernel.now_ns
        if machine is None:
            return
        while not self.port.pending and (frames := machine.frames_to_send(now_ns)):
            self.sent += frames
            for frame in frames:
                self.port.send(frame)
        while self.machine is machine and (event := machine.next_event()) is not None:
            self._heard(event)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        due_ns = machine.next_timeout()
        # With frames still to be sent the port calls when it is done.
        if self.machine is machine and due_ns is not None and not self.port.pending:
            self._timer = self.kernel.call_at(max(due_ns, now_ns + 1), self._timeout)


class WireBench:
    """The same bench on the simulator's `CanBus`: real bit times, arbitration, and faults of each receiver's own."""

    def __init__(
        self,
        *nodes: Node,
        seed: int | str = 0,
        dbc: str = "bms_bootloader",
        data_bitrate_bps: int | None = None,
        **faults: float,
    ) -> None:
        self.wire = BootloaderWire(database(dbc))
        self.kernel = Kernel(1_000 * SECOND)
        self.bus = CanBus(
            self.kernel, data_bitrate_bps=data_bitrate_bps, seed=seed, faults=BusFaults(**faults), name="bench"
        )
        self.events: list[Any] = []
        self.client = Station(self.bus, "flasher", self.events.append)
        self.stations = {node: Station(self.bus, f"node {node.position}", partial(self._heard, node)) for node in nodes}
        for node in nodes:
            self.stations[node].port.power(on=False)
            self.power_on(node)

    def power_on(self, node: Node) -> None:
        node.power_on(self.wire)
        self.stations[node].start(node.target)

    def power_off(self, node: Node) -> None:
        node.power_off()
        self.stations[node].stop()

    def _heard(self, node: Node, event: Any) -> None:
        node.events.append(event)
        if isinstance(event, ResetRequested):
            self.power_off(node)
            self.kernel.call_in(300 * MS, self.power_on, node)

    def run(self, client: Any, *, limit_s: float = 120) -> list[Any]:
        """Run until *client* is finished; its events. What it sent is in `client.sent`."""
        self.events.clear()
        self.client.sent = []
        end_ns = self.kernel.now_ns + int(limit_s * SECOND)
        self.client.start(client)
        while not client.finished:
            due_ns = self.kernel.next_due()
            assert due_ns is not None, self.events[-3:]
            assert due_ns < end_ns, f"not finished after {limit_s} simulated seconds: {self.events[-3:]}"
            self.kernel.run_until(due_ns)
        self.client.pump()
        self.client.stop()
        return list(self.events)
