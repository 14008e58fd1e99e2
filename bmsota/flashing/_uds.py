"""The profile for nodes that speak UDS.

`bmsota.uds` is imported when a profile is made: can-isotp behind it takes as long as all the rest of a command line.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bmsota.image import ImageVersion
    from bmsota.node import NodeCommand
    from bmsota.uds import (
        AccessKey,
        IsoTpParameters,
        UdsAddressing,
        UdsCommand,
        UdsDialect,
        UdsDiscovery,
        UdsTiming,
        UdsTransfer,
    )


class UdsProfile:
    """UDS on ISO-TP (`bmsota.uds`, docs/uds.md).

    *addressing* gives the positions their CAN ids (None: `UDS_11BIT`); *access_key* answers the nodes' seeds; *dialect* describes nodes that are not
    our own `UdsServer`; *transport* is our end of ISO-TP, for CAN FD among others. With *holds_nodes* a discovery keeps nodes that are in their
    boot window in their bootloader (`UdsDiscovery`).
    """

    name = "uds"

    def __init__(
        self,
        addressing: UdsAddressing | None = None,
        *,
        access_key: AccessKey | None = None,
        dialect: UdsDialect | None = None,
        timing: UdsTiming | None = None,
        transport: IsoTpParameters | None = None,
        holds_nodes: bool = False,
    ) -> None:
        from bmsota.uds import UDS_11BIT  # noqa: PLC0415 - see above

        self._addressing = UDS_11BIT if addressing is None else addressing
        self._access_key = access_key
        self._dialect = dialect
        self._timing = timing
        self._transport = transport
        self._holds_nodes = holds_nodes

    def discovery(self, positions: Iterable[int]) -> UdsDiscovery:
        from bmsota.uds import UdsDiscovery  # noqa: PLC0415 - see above

        return UdsDiscovery(
            self._addressing,
            positions=positions,
            dialect=self._dialect,
            timing=self._timing,
            transport=self._transport,
            holds_nodes=self._holds_nodes,
        )

    def transfer(self, position: int, image: bytes) -> UdsTransfer:
        from bmsota.uds import UdsTransfer  # noqa: PLC0415 - see above

        return UdsTransfer(
            self._addressing.address(position),
            position=position,
            image=image,
            dialect=self._dialect,
            access_key=self._access_key,
            timing=self._timing,
            transport=self._transport,
        )

    def broadcast(self, positions: Sequence[int], image: bytes) -> None:  # noqa: ARG002  The seam's signature.
        """UDS has no answer of many nodes to one block: each gets its own transfer."""
        return

    def command(
        self,
        position: int,
        command: NodeCommand,
        *,
        raise_counter: bool = True,
        expected_version: ImageVersion | None = None,
    ) -> UdsCommand:
        from bmsota.uds import UdsCommand  # noqa: PLC0415 - see above

        return UdsCommand(
            self._addressing.address(position),
            position=position,
            command=command,
            raise_counter=raise_counter,
            expected_version=expected_version,
            dialect=self._dialect,
            access_key=self._access_key,
            timing=self._timing,
            transport=self._transport,
        )
