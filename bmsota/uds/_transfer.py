"""The tester's main exchange: stage one image on one node.

The order (ISO 14229-1 clause 15; with nodes of our own, "offer" instead of "address and size", and what is there is not sent again)::

    identify -> 10 03, 10 02 -> 27 01, 27 02 -> 31 FF00 offer -> 34 -> 36 ... 36 -> 37 -> 31 0202
        ^                                                                          |
        +---------------- silence, a restart, a dropped transfer ------------------+

Strategy. As in the bootloader's client the node is the one who knows what it has: after any doubt we begin anew and resume from the
offset the node names. A block without an answer is another matter: the node may have stored it. Our own nodes tell how much they
have; other nodes get the very same block again, as ISO 14229-1 clause 14.5.5 asks them to accept.

A message of 4095 bytes is 586 frames, and ISO-TP repeats none: one frame lost and the block is lost. So each loss halves the blocks; a
run of good ones doubles them again where a block lost costs no more than itself, with our own nodes.
"""

from __future__ import annotations

import hashlib
from typing import TYPE_CHECKING

from bmsota.image import parse_image
from bmsota.node import (
    BlockAccepted,
    BlockRepeated,
    ClientEvent,
    ExpectedNode,
    FailureCause,
    ImageVerified,
    TargetConnected,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
)
from bmsota.uds._exchange import AbortError, RestartExchangeError, RetryingExchange, SilentError
from bmsota.uds._identifiers import STAGING_LAYOUT, UDS_PROFILE_VERSION, Did, ImageOffer, Session
from bmsota.uds._services import (
    raw_request,
    read_dids,
    read_one_did,
    request_download,
    request_transfer_exit,
    start_routine,
    transfer_data,
)

if TYPE_CHECKING:
    from bmsota.node import NodeDescription
    from bmsota.uds._access import AccessKey
    from bmsota.uds._addressing import UdsAddress
    from bmsota.uds._dialect import UdsDialect
    from bmsota.uds._exchange import Procedure
    from bmsota.uds._isotp import IsoTpParameters
    from bmsota.uds._timing import UdsTiming


# TransferData: the service's number and the block counter.
_BLOCK_OVERHEAD_BYTES = 2

# addressAndLengthFormatIdentifier: size bytes in the high half, address bytes in the low half.
_OFFSET_BYTES = 4


class UdsTransfer(RetryingExchange[ClientEvent]):
    """Stages *image* on the node at *address*. Nothing runs it until `UdsCommand` says so.

    *expected* defaults to what the image itself is for. A node without our profile takes any bytes as image.

    Raises:
        ImageError: the node has our profile, and *image* is no image.
    """

    def __init__(
        self,
        address: UdsAddress,
        *,
        position: int,
        image: bytes,
        expected: ExpectedNode | None = None,
        dialect: UdsDialect | None = None,
        access_key: AccessKey | None = None,
        timing: UdsTiming | None = None,
        transport: IsoTpParameters | None = None,
    ) -> None:
        super().__init__(
            address, position=position, dialect=dialect, access_key=access_key, timing=timing, transport=transport
        )
        self._image = image
        self._expected = expected
        self._offer = b""
        if self._dialect.has_profile:
            facts = parse_image(image)
            self._expected = expected or ExpectedNode(hardware_class=facts.hardware_class, role=facts.role)
            self._offer = ImageOffer(
                role=facts.role,
                size_bytes=len(image),
                sha256=hashlib.sha256(image).digest(),
                class_id=facts.hardware_class.class_id,
                version=facts.version,
                security_counter=facts.security_counter,
            ).serialize()
        self._offset = 0
        self._furthest = 0
        self._block_bytes = self._dialect.block_length_max - _BLOCK_OVERHEAD_BYTES

    @property
    def size_bytes(self) -> int:
        return len(self._image)

    @property
    def next_offset(self) -> int:
        """How much of the image the node has confirmed."""
        return self._offset

    # ---- the exchange

    def _attempt(self) -> Procedure[ClientEvent]:
        node = yield from self._find()
        yield from self._check_identity(node)
        self._events.append(TargetConnected(node))
        yield from self._open(Session.PROGRAMMING)
        yield from self._unlock()
        for payload in self._dialect.extra_requests:
            yield from self._request(raw_request(payload))
        self._offset = yield from self._begin()
        self._events.append(TransferStarted(self._offset, len(self._image)))
        if self._offset < len(self._image):
            yield from self._download()
        dialect = self._dialect
        if dialect.check_routine is not None:
            yield from self._request(start_routine(dialect.check_routine, dialect.check_record))
        if dialect.dependencies_routine is not None:
            yield from self._request(start_routine(dialect.dependencies_routine))
        return ImageVerified(node)

    def _check_identity(self, node: NodeDescription) -> Procedure[None]:
        """Everything that can be seen to be wrong before anything is erased."""
        expected = self._expected
        if self._dialect.has_profile and node.protocol_version < UDS_PROFILE_VERSION:
            raise AbortError(
                FailureCause.PROTOCOL_VERSION,
                f"expected UDS profile {UDS_PROFILE_VERSION}, got {node.protocol_version}",
            )
        if self._dialect.has_profile and expected is not None:
            objection = expected.objection(node)
            if objection is not None:
                raise AbortError(*objection)
        for did, value in self._dialect.expected_values.items():
            found = (yield from self._request(read_one_did(did)))[did]
            if found != value:
                raise AbortError(
                    FailureCause.WRONG_HARDWARE, f"identifier 0x{did:04X}: expected {value.hex()}, got {found.hex()}"
                )

    def _begin(self) -> Procedure[int]:
        """Erase, or offer; from which offset the image is wanted."""
        dialect = self._dialect
        if dialect.erase_routine is None:
            return 0
        record = dialect.erase_record
        if record is None:
            record = self._offer or self._place()
        status = yield from self._request(start_routine(dialect.erase_routine, record))
        if not self._offer:
            return 0
        offset = int.from_bytes(status, "big")
        if len(status) != _OFFSET_BYTES or offset > len(self._image):
            raise RestartExchangeError(f"expected an offset of at most {len(self._image)}, got {status.hex()}")
        return offset

    def _place(self) -> bytes:
        dialect = self._dialect
        return (
            bytes([dialect.size_field_bytes << 4 | dialect.address_bytes])
            + dialect.address.to_bytes(dialect.address_bytes, "big")
            + len(self._image).to_bytes(dialect.size_field_bytes, "big")
        )

    # ---- the blocks

    def _download(self) -> Procedure[None]:
        dialect = self._dialect
        call = request_download(
            dialect.address + self._offset,
            len(self._image) - self._offset,
            address_bytes=dialect.address_bytes,
            size_field_bytes=dialect.size_field_bytes,
        )
        limits = yield from self._request(call)
        block_bytes_max = min(limits.block_length_max, dialect.block_length_max) - _BLOCK_OVERHEAD_BYTES
        self._block_bytes = min(self._block_bytes, block_bytes_max)
        counter, good_blocks = 1, 0
        while self._offset < len(self._image):
            if dialect.has_profile and good_blocks >= self._timing.blocks_until_longer:
                good_blocks = 0
                self._block_bytes = min(2 * self._block_bytes, block_bytes_max)
            is_first_try = yield from self._send_block(counter)
            good_blocks = good_blocks + 1 if is_first_try else 0
            counter = (counter + 1) % 256
            self._events.append(BlockAccepted(self._offset, len(self._image)))
        yield from self._request(request_transfer_exit())

    def _send_block(self, counter: int) -> Procedure[bool]:
        """Send the block at `_offset` until the node has it; whether the first try did it."""
        data = self._next_data()
        for attempt in range(self._timing.request_tries):
            try:
                yield from self._request(transfer_data(counter, data), tries=1)
            except SilentError as error:
                self._events.append(BlockRepeated(self._offset, self._link.parameters.frames_of(len(data))))
                detail = str(error)
                if not self._dialect.has_profile:
                    continue  # The same bytes with the same counter: whether it has them or not, this is right.
                received = yield from self._received_bytes()
                if received == self._offset + len(data):
                    self._covered(len(data))  # Only the answer was lost.
                    return False
                if received != self._offset:
                    raise RestartExchangeError(
                        f"expected a node that has {self._offset} bytes, got {received}"
                    ) from error
                self._shorten()
                data = self._next_data()
            else:
                self._covered(len(data))
                return attempt == 0
        self._shorten()
        raise RestartExchangeError(detail)

    def _next_data(self) -> bytes:
        return self._image[self._offset : self._offset + self._block_bytes]

    def _received_bytes(self) -> Procedure[int]:
        values = yield from self._request(read_dids((Did.STAGING,)))
        return int(STAGING_LAYOUT.parse(values[Did.STAGING]).received_bytes)

    def _shorten(self) -> None:
        self._block_bytes = max(self._block_bytes // 2, min(self._block_bytes, self._timing.block_bytes_min))

    def _covered(self, size_bytes: int) -> None:
        self._offset += size_bytes
        if self._offset > self._furthest:
            # Only ground never covered before counts as progress: a node that loses its supply after every few blocks
            # would otherwise keep us busy for ever.
            self._furthest = self._offset
            self._interruptions_left = self._timing.interruptions_max
            self._last_refusal = ""

    # ---- ends

    def _broke_off(self, detail: str) -> None:
        self._events.append(TransferInterrupted(detail))

    def _fail(self, cause: FailureCause, detail: str) -> None:
        self._finish(TransferFailed(cause=cause, detail=detail, node=self.node, next_offset=self._offset))
