"""What a flashing profile is: how one protocol finds nodes, puts an image on them and gives them commands.

The engine (`_engine`) knows operations and nodes, a profile knows a protocol. Each method of a profile makes one sans-IO machine
that does one step and is then finished. Their events are those of `bmsota.node`, whatever goes over the wire; a machine for
several nodes names the node of each (`NodeEvent`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bmsota.image import ImageVersion
    from bmsota.node import ClientEvent, CommandEvent, DiscoveryEvent, FinishingCanProtocol, NodeCommand, NodeEvent


class FlashingProfile(Protocol):
    """A protocol to flash nodes with."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def discovery(self, positions: Iterable[int]) -> FinishingCanProtocol[DiscoveryEvent]:
        """Find the nodes on the bus; those at *positions* are addressed one by one if they do not answer."""
        ...

    def transfer(self, position: int, image: bytes) -> FinishingCanProtocol[ClientEvent]:
        """Stage *image* on the node at *position*; nothing runs it yet.

        Raises:
            ImageError: *image* is no image.
            LocalProtocolError: *position* is not on the bus.
        """
        ...

    def broadcast(self, positions: Sequence[int], image: bytes) -> FinishingCanProtocol[NodeEvent] | None:
        """Stage *image* on all nodes at *positions* at once. None: one after another only.

        Raises:
            ImageError: *image* is no image.
            LocalProtocolError: a position is not on the bus, or named twice.
        """
        ...

    def command(
        self,
        position: int,
        command: NodeCommand,
        *,
        raise_counter: bool = True,
        expected_version: ImageVersion | None = None,
    ) -> FinishingCanProtocol[CommandEvent]:
        """Give one command; safe to run again, whatever became of an earlier run.

        Raises:
            LocalProtocolError: *position* is not on the bus, or *command* belongs to a transfer.
        """
        ...
