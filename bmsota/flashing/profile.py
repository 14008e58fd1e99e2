"""What a flashing profile is: how one protocol finds nodes, puts an image on them and gives them commands.

The engine (`engine.py`) knows operations and nodes, a profile knows a protocol. Each method of a profile makes one *machine*: a
sans-IO object that does one step and is then finished. All machines speak with the words of `bmsota.bootloader`'s events
(`BlockAccepted`, `TransferInterrupted`, `ImageVerified`, `TransferFailed`, `CommandSucceeded`, `CommandFailed`), whatever
goes over the wire; a machine for several nodes says whom each is about (`NodeEvent`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

from bmsota.bootloader import BootloaderClient, BroadcastClient, NodeCommand, NodeDiscovery

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from bmsota.bootloader import AccessSigner, BootloaderTiming, BootloaderWire, Command, NodeDescription
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

    def broadcast(self, positions: Sequence[int], image: bytes) -> Machine | None:
        """Stage *image* on all nodes at *positions* at once; its events are `NodeEvent`s. None: one after another only.

        Raises:
            ImageError: *image* is no image.
            LocalProtocolError: a position is not on the bus, or named twice.
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
    """The bootloader of `dbc/bms_bootloader*.dbc`."""

    name = "bootloader"

    def __init__(
        self,
        wire: BootloaderWire,
        *,
        timing: BootloaderTiming | None = None,
        access_key: AccessSigner | None = None,
        broadcast: bool = True,
        compress: bool = True,
    ) -> None:
        """Take what all machines need.

        Args:
            wire: which ids, and classic or FD data frames.
            timing: the flasher's patience.
            access_key: signs the challenges of nodes that want security access.
            broadcast: whether several nodes may get one image at once.
            compress: whether the stream may be compressed for nodes that can take it.
        """
        self._wire = wire
        self._timing = timing
        self._access_key = access_key
        self._may_broadcast = broadcast
        self._may_compress = compress

    def discovery(self, positions: Iterable[int]) -> NodeDiscovery:
        return NodeDiscovery(self._wire, positions=positions, timing=self._timing)

    def transfer(self, position: int, image: bytes) -> BootloaderClient:
        return BootloaderClient(
            self._wire,
            position=position,
            image=image,
            timing=self._timing,
            access_signer=self._access_key,
            may_compress=self._may_compress,
        )

    def broadcast(self, positions: Sequence[int], image: bytes) -> BroadcastClient | None:
        if not self._may_broadcast:
            return None
        return BroadcastClient(
            self._wire,
            positions=positions,
            image=image,
            timing=self._timing,
            access_signer=self._access_key,
            may_compress=self._may_compress,
        )

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
            access_signer=self._access_key,
        )
