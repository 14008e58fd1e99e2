"""What a flashing profile is: how one protocol finds nodes, puts an image on them and gives them commands.

The engine (`engine.py`) knows operations and nodes, a profile knows a protocol. Each method of a profile makes one *machine*: a
sans-IO object that does one step and is then finished. All machines speak with the words of `bmsota.bootloader`'s events
(`BlockAccepted`, `TransferInterrupted`, `ImageVerified`, `TransferFailed`, `CommandSucceeded`, `CommandFailed`), whatever
goes over the wire.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bmsota.bootloader import BootloaderClient, NodeCommand, NodeDiscovery

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bmsota.bootloader import BootloaderTiming, BootloaderWire, Command, NodeDescription
    from bmsota.canframe import CanFrame
    from bmsota.image import ImageVersion

__all__ = ["BootloaderProfile", "DiscoveryMachine", "FlashingProfile", "Machine"]


class Machine(Protocol):
    """One step on its way.

    The driver's loop: `frames_to_send`, wait until `next_timeout`, `receive_frame`, `handle_timeout`, `next_event`; until
    `finished`.
    """

    @property
    def finished(self) -> bool: ...
    def receive_frame(self, frame: CanFrame, now_ns: int) -> None: ...
    def frames_to_send(self, now_ns: int) -> list[CanFrame]: ...
    def next_event(self) -> object: ...
    def next_timeout(self) -> int | None: ...
    def handle_timeout(self, now_ns: int) -> None: ...


class DiscoveryMachine(Machine, Protocol):
    """Finds out who is there."""

    @property
    def nodes(self) -> Mapping[int, NodeDescription]:
        """Who has said everything of itself, by position."""
        ...


class FlashingProfile(Protocol):
    """A protocol to flash nodes with."""

    @property
    def name(self) -> str:
        """What reports call it."""
        ...

    def discovery(self, positions: Iterable[int]) -> DiscoveryMachine:
        """Find the nodes on the bus; those at *positions* are asked by name if they do not answer."""
        ...

    def transfer(self, position: int, image: bytes) -> Machine:
        """Stage *image* on the node at *position*; nothing runs it yet.

        Raises:
            ImageError: *image* is no image.
            LocalProtocolError: *position* is not on the bus.
        """
        ...

    def command(
        self,
        position: int,
        command: Command,
        *,
        raise_counter: bool = True,
        expected_version: ImageVersion | None = None,
    ) -> Machine:
        """Give one command (see `NodeCommand`).

        Raises:
            LocalProtocolError: *position* is not on the bus, or *command* belongs to a transfer.
        """
        ...


class BootloaderProfile:
    """The bootloader of `dbc/bms_bootloader.dbc`."""

    name = "bootloader"

    def __init__(self, wire: BootloaderWire, *, timing: BootloaderTiming | None = None) -> None:
        self._wire = wire
        self._timing = timing

    def discovery(self, positions: Iterable[int]) -> NodeDiscovery:
        return NodeDiscovery(self._wire, positions=positions, timing=self._timing)

    def transfer(self, position: int, image: bytes) -> BootloaderClient:
        return BootloaderClient(self._wire, position=position, image=image, timing=self._timing)

    def command(
        self,
        position: int,
        command: Command,
        *,
        raise_counter: bool = True,
        expected_version: ImageVersion | None = None,
    ) -> NodeCommand:
        return NodeCommand(
            self._wire,
            position=position,
            command=command,
            raise_counter=raise_counter,
            expected_version=expected_version,
            timing=self._timing,
        )
