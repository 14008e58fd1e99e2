"""The profile for nodes that speak the bootloader of `dbc/bms_bootloader*.dbc`."""

from __future__ import annotations

from typing import TYPE_CHECKING

from bmsota.bootloader import BootloaderClient, BootloaderCommand, BootloaderDiscovery, BroadcastClient

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bmsota.bootloader import BootloaderTiming, BootloaderWire
    from bmsota.image import ImageVersion
    from bmsota.node import AccessSigner, NodeCommand


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
        holds_nodes: bool = False,
    ) -> None:
        """Take what all machines need.

        Args:
            wire: which ids, and classic or FD data frames.
            timing: the flasher's timeouts and retries.
            access_key: signs the challenges of nodes that want security access.
            broadcast: whether several nodes may get one image at once.
            compress: whether the stream may be compressed for nodes that can take it.
            holds_nodes: whether a discovery keeps nodes in their bootloader (`BootloaderDiscovery`).
        """
        self._wire = wire
        self._timing = timing
        self._access_key = access_key
        self._may_broadcast = broadcast
        self._may_compress = compress
        self._holds_nodes = holds_nodes

    def discovery(self, positions: Iterable[int]) -> BootloaderDiscovery:
        return BootloaderDiscovery(self._wire, positions=positions, timing=self._timing, holds_nodes=self._holds_nodes)

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
        command: NodeCommand,
        *,
        raise_counter: bool = True,
        expected_version: ImageVersion | None = None,
    ) -> BootloaderCommand:
        return BootloaderCommand(
            self._wire,
            position=position,
            command=command,
            raise_counter=raise_counter,
            expected_version=expected_version,
            timing=self._timing,
            access_signer=self._access_key,
        )
