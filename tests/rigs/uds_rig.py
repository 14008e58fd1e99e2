"""UDS on `node`'s bench."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import node as rig
from bmsota_sim.devices.flash import FlashModel
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from node import FRAME_NS, KEY, NEW, OLD, SLAVE_CLASS, make_image

from bmsota.uds import (
    UDS_11BIT,
    UdsAddressing,
    UdsCommand,
    UdsDiscovery,
    UdsServer,
    UdsTransfer,
    ed25519_access_check,
    signed_access_key,
)

if TYPE_CHECKING:
    from bmsota.node import NodeCommand

__all__ = ["ACCESS_KEY", "FRAME_NS", "KEY", "NEW", "OLD", "SLAVE_CLASS", "Bench", "FlashModel", "Node", "make_image"]

ACCESS_PRIVATE = Ed25519PrivateKey.from_private_bytes(b"\x09" * 32)
ACCESS_KEY = signed_access_key(ACCESS_PRIVATE.sign)
ACCESS_CHECK = ed25519_access_check([ACCESS_PRIVATE.public_key()])


class Node(rig.Node):
    """A node that speaks UDS, locked unless its option `access` is None."""

    def new_target(self, addressing: UdsAddressing) -> UdsServer:
        return UdsServer(
            addressing.address(self.position),
            identity=self.identity,
            store=self.store,
            boot=self.boot,
            random_bytes=self.random.randbytes,
            **{"access": ACCESS_CHECK, **self.options},
        )


class Bench(rig.Bench):
    """The bench with the testers' machines."""

    LIMIT_S = 240

    def __init__(self, *nodes: Any, addressing: UdsAddressing = UDS_11BIT, **options: Any) -> None:
        super().__init__(addressing, *nodes, **options)
        self.addressing = addressing

    def transfer(self, image: bytes, position: int = 1, **options: Any) -> UdsTransfer:
        options = {"access_key": ACCESS_KEY, **options}
        return UdsTransfer(self.addressing.address(position), position=position, image=image, **options)

    def discovery(self, **options: Any) -> UdsDiscovery:
        return UdsDiscovery(self.addressing, **options)

    def flash(self, image: bytes, position: int = 1, **options: Any) -> list[Any]:
        """Stage *image*; the events."""
        return self.run(self.transfer(image, position, **options))

    def command(self, position: int, command: NodeCommand, **options: Any) -> Any:
        """Give one command; its only event."""
        options = {"access_key": ACCESS_KEY, **options}
        client = UdsCommand(self.addressing.address(position), position=position, command=command, **options)
        return self.run(client)[-1]
