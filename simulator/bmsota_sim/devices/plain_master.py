"""A master BMS without modem and cloud: a node at position 0 and the gateway to its slaves, for benches.

It boots, can be flashed, and passes the bootloader's frames between the diagnostic bus and the internal bus. What a whole
master does besides is in `master.py`; both are made of the same `BootloaderNode` and `Gateway`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota.image import ImageRole
from bmsota.node import POSITION_MAX, TargetIdentity
from bmsota_sim.devices.bootloader_node import (
    BootloaderNode,
    NodeDevice,
    NodeProtocols,
    data_keys,
    reply_keys,
    request_keys,
    uds_request_keys,
    uds_response_keys,
)
from bmsota_sim.devices.flash import ERASE_NS, PROGRAM_NS, FlashModel
from bmsota_sim.devices.gateway import Gateway
from bmsota_sim.devices.master import BOOT_TIME_NS, FLASH_SIZE_BYTES, JOURNAL_SIZE_BYTES

if TYPE_CHECKING:
    from bmsota.boot import BootResult, BootStore
    from bmsota.bootloader import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.image import HardwareClass, PublicKey
    from bmsota_sim.kernel import Kernel
    from bmsota_sim.links.canbus import CanBus, Port
    from bmsota_sim.trace import Trace

__all__ = ["PlainMaster"]


class PlainMaster(NodeDevice):
    """One master on an internal bus and, perhaps, a diagnostic bus."""

    position = 0

    def __init__(
        self,
        *,
        kernel: Kernel,
        bus: CanBus,
        wire: BootloaderWire,
        trace: Trace,
        name: str,
        hwid: str,
        hardware_class: HardwareClass,
        image_keys: tuple[PublicKey, ...],
        factory_image: bytes,
        seed: str,
        diagnosis_bus: CanBus | None = None,
        flash_times_ns: tuple[int, int] = (ERASE_NS, PROGRAM_NS),
        flash_size_bytes: int = FLASH_SIZE_BYTES,
        protocols: NodeProtocols = NodeProtocols(),  # noqa: B008 - frozen
    ) -> None:
        """Make a master without power that runs *factory_image*. *flash_times_ns*: to erase a block, to program a unit."""
        super().__init__(kernel, trace, name)
        self.hwid = hwid
        erase_ns, program_ns = flash_times_ns
        self.node = BootloaderNode(
            kernel=kernel,
            wire=wire,
            owner=self,
            identity=TargetIdentity(
                position=0, role=ImageRole.MASTER, hwid=hwid, serial=hwid, hardware_class=hardware_class
            ),
            flash=FlashModel(flash_size_bytes, erase_ns=erase_ns, program_ns=program_ns, seed=f"{seed}/{hwid}"),
            journal_size_bytes=JOURNAL_SIZE_BYTES,
            image_keys=image_keys,
            boot_time_ns=BOOT_TIME_NS,
            protocols=protocols,
        )
        self.node.install_factory(factory_image)
        self._inside = bus.attach(self._receive_inside, name=name, drained=self.node.drained)
        self._outside: Port | None = None
        self.gateway: Gateway | None = None
        """None without a diagnostic bus."""
        inward = request_keys(wire) | data_keys(wire)
        outward = reply_keys(wire, 1, POSITION_MAX)
        if protocols.uds is not None:
            inward |= uds_request_keys(protocols.uds, 0, POSITION_MAX + 1)
            outward |= uds_response_keys(protocols.uds, 1, POSITION_MAX)
        if diagnosis_bus is None:
            self.node.add_port(self._inside)
            return
        self.node.add_port(self._inside, outward)
        self._outside = diagnosis_bus.attach(self._receive_outside, name=f"{name}/diagnosis", drained=self.node.drained)
        self.node.add_port(self._outside, inward)
        self.gateway = Gateway(
            inside=self._inside, outside=self._outside, inward=inward, outward=outward, is_open=lambda: True
        )

    # -- the node (NodeOwner) --------------------------------------------------------------------------------------------

    def booted(self, store: BootStore, result: BootResult) -> None:
        self._trace.note(self._kernel.now_ns, self.name, f"boots {self.version}: {result.reason.name}")
        for problem in filter(None, (store.journal_problem, store.worn)):
            self._trace.note(self._kernel.now_ns, self.name, problem)

    def bootloader_entered(self) -> None:
        self._trace.note(self._kernel.now_ns, self.name, "in its bootloader")

    def bootloader_left(self) -> None:
        self._trace.note(self._kernel.now_ns, self.name, "left its bootloader")

    # -- the buses -------------------------------------------------------------------------------------------------------

    def _receive_inside(self, frame: CanFrame, now_ns: int) -> None:
        if self.gateway is not None:
            self.gateway.from_inside(frame, now_ns)
        self.node.receive(frame, now_ns, self._inside)

    def _receive_outside(self, frame: CanFrame, now_ns: int) -> None:
        assert self.gateway is not None
        assert self._outside is not None
        self.gateway.from_outside(frame, now_ns)
        self.node.receive(frame, now_ns, self._outside)
