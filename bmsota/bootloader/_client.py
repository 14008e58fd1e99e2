"""The client: stage one image on one node, whatever the bus and the node's supply do meanwhile.

The states in characters; the table below is what runs::

    DISCOVERING --IDENTIFIED--> ENTERING --ENTERED--> OFFERING --OFFER_ACCEPTED--> SENDING --LAST_BLOCK_ACCEPTED--+
         ^                       |   |                 ^  |  |                       |                            |
         |                       |   +-LOCKED-> UNLOCKING |  +----OFFER_COMPLETE-----|--------> FINISHING <-------+
         +------INTERRUPTED------+---------------+--------+--------------------------+--------------+   |
                                                                                                        +--VERIFIED--> FINISHED
     any of them --REFUSED, GAVE_UP--> FAILED

Strategy. The node is the one who knows what it has: after any doubt (silence, an answer that does not fit, a restart) the
client looks for the node again, offers the same image, and resumes from the offset the node names. So there is one path
for a first start, a cut on our side and a cut on the node's side. The blocks themselves go through a `BlockStream`.

A member of a broadcast (see `_broadcast`) is the same client with two things taken away: it waits before its offer until all
members can be offered the same, and the stream it gets its blocks from is shared.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING

from bmsota.bootloader._exchange import Exchange, other_protocol, shared_protocol
from bmsota.bootloader._messages import ALL_NODES, BLOCK_FRAMES_MAX, WINDOW_BLOCKS_MAX, Request, ResultReply
from bmsota.bootloader._offer import Offer
from bmsota.bootloader._stream import BlockStream, StreamCompleted, StreamLost, StreamProgressed, StreamRepeated
from bmsota.bootloader._timing import BootloaderTiming
from bmsota.compression import LOOKAHEAD_BITS, WINDOW_BITS, compress
from bmsota.image import parse_image
from bmsota.node import (
    BlockAccepted,
    BlockRepeated,
    Capability,
    ClientEvent,
    ExpectedNode,
    FailureCause,
    ImageVerified,
    NodeCommand,
    ResultCode,
    TargetConnected,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
)

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from bmsota.bootloader._messages import BootloaderDetails, Reply
    from bmsota.bootloader._stream import StreamEvent
    from bmsota.bootloader._wire import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.node import AccessSigner, NodeDescription


# Below this gain the node is spared the work: a stream that is 3 % shorter is lost in the noise of a bus.
_COMPRESSED_PCT_MAX = 97


class ClientState(Enum):
    """Where a transfer stands."""

    DISCOVERING = auto()
    ENTERING = auto()
    UNLOCKING = auto()
    OFFERING = auto()
    SENDING = auto()
    FINISHING = auto()
    FINISHED = auto()
    FAILED = auto()


class ClientStimulus(Enum):
    """What moves it on."""

    IDENTIFIED = auto()
    """The node has said who it is, and it is the one expected."""
    ENTERED = auto()
    LOCKED = auto()
    """The node has entered its bootloader, and wants security access first."""
    UNLOCKED = auto()
    OFFER_ACCEPTED = auto()
    """The node wants the image, from some offset."""
    OFFER_COMPLETE = auto()
    """The node has the whole image already."""
    LAST_BLOCK_ACCEPTED = auto()
    VERIFIED = auto()
    INTERRUPTED = auto()
    """Silence, a restart, or an answer that does not fit."""
    REFUSED = auto()
    """The node, or our own identity check, says no."""
    GAVE_UP = auto()
    """The tries are used up."""


_S, _C = ClientState, ClientStimulus

CLIENT_TRANSITIONS: Mapping[tuple[ClientState, ClientStimulus], ClientState] = {
    (_S.DISCOVERING, _C.IDENTIFIED): _S.ENTERING,
    (_S.DISCOVERING, _C.REFUSED): _S.FAILED,
    (_S.DISCOVERING, _C.GAVE_UP): _S.FAILED,
    (_S.ENTERING, _C.ENTERED): _S.OFFERING,
    (_S.ENTERING, _C.LOCKED): _S.UNLOCKING,
    (_S.ENTERING, _C.INTERRUPTED): _S.DISCOVERING,
    (_S.ENTERING, _C.REFUSED): _S.FAILED,
    (_S.ENTERING, _C.GAVE_UP): _S.FAILED,
    (_S.UNLOCKING, _C.UNLOCKED): _S.OFFERING,
    (_S.UNLOCKING, _C.INTERRUPTED): _S.DISCOVERING,
    (_S.UNLOCKING, _C.REFUSED): _S.FAILED,
    (_S.UNLOCKING, _C.GAVE_UP): _S.FAILED,
    (_S.OFFERING, _C.OFFER_ACCEPTED): _S.SENDING,
    (_S.OFFERING, _C.OFFER_COMPLETE): _S.FINISHING,
    (_S.OFFERING, _C.INTERRUPTED): _S.DISCOVERING,
    (_S.OFFERING, _C.REFUSED): _S.FAILED,
    (_S.OFFERING, _C.GAVE_UP): _S.FAILED,
    (_S.SENDING, _C.LAST_BLOCK_ACCEPTED): _S.FINISHING,
    (_S.SENDING, _C.INTERRUPTED): _S.DISCOVERING,
    (_S.SENDING, _C.REFUSED): _S.FAILED,
    (_S.SENDING, _C.GAVE_UP): _S.FAILED,
    (_S.FINISHING, _C.VERIFIED): _S.FINISHED,
    (_S.FINISHING, _C.INTERRUPTED): _S.DISCOVERING,
    (_S.FINISHING, _C.REFUSED): _S.FAILED,
    (_S.FINISHING, _C.GAVE_UP): _S.FAILED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class StreamShape:
    """How the stream is cut, as the offer record says."""

    block_frames: int
    window_blocks: int
    is_compressed: bool
    group: int = ALL_NODES
    """Position that addresses all nodes of the stream; `ALL_NODES`: there is one node only."""

    @classmethod
    def for_nodes(
        cls, nodes: Sequence[BootloaderDetails], *, is_fd: bool, is_compressible: bool, group: int = ALL_NODES
    ) -> StreamShape:
        """What all of *nodes* can take; *is_compressible*: whether all of them may get a compressed stream."""
        windows = [node.window_blocks_fd if is_fd else node.window_blocks for node in nodes]
        return cls(
            block_frames=max(1, min(BLOCK_FRAMES_MAX, *(node.block_frames_max for node in nodes))),
            window_blocks=max(1, min(WINDOW_BLOCKS_MAX, *windows)),
            is_compressed=is_compressible,
            group=group,
        )


class ImagePayload:
    """An image file and what is said of it; shared by the members of a broadcast.

    Raises:
        ImageError: *image* is no image.
    """

    def __init__(self, image: bytes, *, may_compress: bool) -> None:
        self.facts = parse_image(image)
        self.image = image
        self.sha256 = hashlib.sha256(image).digest()
        self._may_compress = may_compress
        self._compressed: dict[int, bytes] = {}

    @property
    def is_compressible(self) -> bool:
        """Whether compressing it is allowed and worth it."""
        return self._may_compress and len(self._stream(0)) * 100 <= len(self.image) * _COMPRESSED_PCT_MAX

    def stream(self, offset: int, *, is_compressed: bool) -> bytes:
        """What goes over the wire for the image from *offset* on."""
        return self._stream(offset) if is_compressed else self.image[offset:]

    def _stream(self, offset: int) -> bytes:
        # The stream from the start is looked at twice, and by every member; others are made when a transfer resumes.
        if offset not in self._compressed:
            self._compressed = {0: self._compressed[0]} if 0 in self._compressed else {}
            self._compressed[offset] = compress(self.image[offset:])
        return self._compressed[offset]

    def offer(self, shape: StreamShape, *, is_fd: bool) -> Offer:
        facts = self.facts
        return Offer(
            role=facts.role,
            size_bytes=len(self.image),
            sha256=self.sha256,
            class_id=facts.hardware_class.class_id,
            version=facts.version,
            security_counter=facts.security_counter,
            group=shape.group,
            block_frames=shape.block_frames,
            is_fd=is_fd,
            window_bits=WINDOW_BITS if shape.is_compressed else 0,
            lookahead_bits=LOOKAHEAD_BITS if shape.is_compressed else 0,
        )


class BootloaderClient(Exchange[ClientEvent]):
    """Stages *image* (a whole image file) on the node at *position*. Nothing runs it until `BootloaderCommand` says so.

    *expected* defaults to what the image itself is for. *access_signer* opens nodes that want security access. With
    *may_compress* the stream is compressed if the node can take that and it is worth it.

    Raises:
        LocalProtocolError: *position* is not on the bus.
        ImageError: *image* is no image.
    """

    _holds_node = True

    def __init__(
        self,
        wire: BootloaderWire,
        *,
        position: int,
        image: bytes | ImagePayload,
        expected: ExpectedNode | None = None,
        timing: BootloaderTiming | None = None,
        access_signer: AccessSigner | None = None,
        may_compress: bool = True,
        is_member: bool = False,
    ) -> None:
        super().__init__(wire, position=position, timing=timing or BootloaderTiming(), access_signer=access_signer)
        self._payload = image if isinstance(image, ImagePayload) else ImagePayload(image, may_compress=may_compress)
        facts = self._payload.facts
        self._expected = expected or ExpectedNode(hardware_class=facts.hardware_class, role=facts.role)
        self._is_member = self._is_in_company = is_member
        self.state = ClientState.DISCOVERING
        self._offset = 0
        self._furthest = 0
        self._interruptions_left = self._timing.interruptions_max
        self._shape: StreamShape | None = None
        self._stream: BlockStream | None = None
        self._has_objected = False
        """Whether something spoke against the node when it was last identified."""
        self._was_damaged = False
        """Whether the node has already made something else of the image: the next time is the last."""
        self._must_send_plainly = False
        """The node has made something else of what it got: whatever is wrong, it is not tried with compression again."""
        self._discover()

    @property
    def size_bytes(self) -> int:
        return len(self._payload.image)

    @property
    def next_offset(self) -> int:
        """How much of the image the node has confirmed."""
        return self._offset

    # ---- the driver's side: while blocks are sent, the stream is the one to be driven

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """Take a frame from the bus; anything not from this node is ignored."""
        stream = self._stream
        if stream is None:
            super().receive_frame(frame, now_ns)
        elif frame.can_id == self._reply_id and not self.finished:
            reply = self._wire.parse(frame)
            if reply is not None and not isinstance(reply, Request):
                stream.receive(reply, now_ns)
                self._take_stream_events()

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        """What to put on the bus now, in this order; a burst at a time."""
        if self._stream is None or self.finished:
            return super().frames_to_send(now_ns)
        return self._stream.frames_to_send(now_ns)

    def next_timeout(self) -> int | None:
        """When `frames_to_send` and `handle_timeout` want to be called at the latest; None: only after a frame."""
        return super().next_timeout() if self._stream is None else self._stream.next_timeout()

    def handle_timeout(self, now_ns: int) -> None:
        """Act on the time; no effect before `next_timeout`."""
        if self._stream is None:
            super().handle_timeout(now_ns)
        else:
            self._stream.handle_timeout(now_ns)
            self._take_stream_events()

    def _take_stream_events(self) -> None:
        while self._stream is not None and (event := self._stream.next_event()) is not None:
            self.take_stream_event(event)

    # ---- what comes in

    def _identified(self, node: NodeDescription, now_ns: int) -> None:  # noqa: ARG002  The base class gives the time.
        objection = self._objection(node)
        if objection is None:
            self._has_objected = False
            self._events.append(TargetConnected(node))
            self._move(ClientStimulus.IDENTIFIED)
        elif self._has_objected:
            self._refuse(*objection)
        else:
            # It is identified twice: a corrupted frame must not be reported as a wrong image.
            self._has_objected = True
            self._discover()

    def _objection(self, node: NodeDescription) -> tuple[FailureCause, str] | None:
        """Why the image is not sent to this node, of all that can be known before it is touched."""
        versions = node.protocol_version_min, node.protocol_version
        if shared_protocol(*versions) is None:
            return FailureCause.PROTOCOL_VERSION, other_protocol(*versions)
        unexpected = self._expected.objection(node)
        if unexpected is not None:
            return unexpected
        assert self.details is not None
        if self._wire.is_fd and not self.details.window_blocks_fd:
            return FailureCause.CAPABILITY_MISSING, "expected a node with CAN FD, got one without"
        if self._is_member and Capability.BROADCAST not in node.capabilities:
            return FailureCause.CAPABILITY_MISSING, "expected a node that takes broadcasts, got one that does not"
        return None

    def _answered(self, reply: Reply, now_ns: int) -> None:  # noqa: ARG002  The base class gives the time.
        request = self._request
        assert request is not None
        if not isinstance(reply, ResultReply) or (reply.tag, reply.command) != (request.tag, request.command):
            return
        if reply.code == ResultCode.DAMAGED and self.state is ClientState.FINISHING:
            self._damaged(f"{request.command.name}: {ResultCode.DAMAGED.name}")
        elif reply.code != ResultCode.OK:
            self._bad_result(reply)
        elif self.state is ClientState.ENTERING:
            self._move(ClientStimulus.LOCKED if self._needs_access() else ClientStimulus.ENTERED)
        elif self.state is ClientState.OFFERING:
            if reply.detail > self.size_bytes:
                self._interrupt(f"expected an offset of at most {self.size_bytes}, got {reply.detail}")
                return
            self._offset = reply.detail
            is_compressed = self._shape is not None and self._shape.is_compressed
            self._events.append(TransferStarted(self._offset, self.size_bytes, is_compressed))
            complete = self._offset == self.size_bytes
            self._move(ClientStimulus.OFFER_COMPLETE if complete else ClientStimulus.OFFER_ACCEPTED)
        elif self.state is ClientState.FINISHING:
            self._move(ClientStimulus.VERIFIED)

    def _unlocked(self) -> None:
        self._move(ClientStimulus.UNLOCKED)

    def _frames_repeated(self, frames: int) -> None:
        self._events.append(BlockRepeated(self._offset, frames))

    def _unanswered(self, now_ns: int) -> None:  # noqa: ARG002  The base class gives the time.
        if self.state is ClientState.DISCOVERING:
            heard = "said only a part of what it is" if self._has_heard() else "did not answer"
            tries = self._timing.discover_tries
            self._give_up(FailureCause.NODE_SILENT, f"node {self._position} {heard} in {tries} tries")
        else:
            assert self._request is not None
            self._interrupt(f"{self._request.command.name}: no answer in {self.reply_tries} tries")

    def _has_heard(self) -> bool:
        return self._collector is not None and self._collector.has_heard

    def take_stream_event(self, event: StreamEvent) -> None:
        """What the stream that serves this node has to say of it."""
        if self.state is not ClientState.SENDING:
            return  # Of a broadcast's stream, which continues although this node is being looked for again.
        match event:
            case StreamProgressed(_, stored_offset):
                if not self._offset <= stored_offset <= self.size_bytes:
                    self._interrupt(f"expected an offset of {self._offset} or more, got {stored_offset}")
                    return
                self._offset = stored_offset
                if stored_offset > self._furthest:
                    # Only ground never covered before counts as progress: a node that loses its supply after every few
                    # blocks would otherwise keep us busy for ever.
                    self._furthest = stored_offset
                    self._interruptions_left = self._timing.interruptions_max
                self._events.append(BlockAccepted(stored_offset, self.size_bytes))
            case StreamRepeated(_, frames):
                self._events.append(BlockRepeated(self._offset, frames))
            case StreamCompleted():
                if self._offset == self.size_bytes:
                    self._move(ClientStimulus.LAST_BLOCK_ACCEPTED)
                else:
                    self._must_send_plainly = True
                    self._interrupt(f"expected {self.size_bytes} bytes stored, got {self._offset}")
            case StreamLost(_, detail, _, FailureCause() as cause):
                self._refuse(cause, detail)
            case StreamLost(_, detail, is_damaged):
                self._must_send_plainly = self._must_send_plainly or is_damaged
                self._interrupt(detail)

    def _damaged(self, detail: str) -> None:
        """The node has other bytes than the image. It is sent once more, plainly; twice is no accident of the way there."""
        if self._was_damaged:
            self._refuse(FailureCause.DAMAGED, f"{detail}, twice")
            return
        self._was_damaged = self._must_send_plainly = True
        self._interrupt(detail)

    # ---- what follows

    def _move(self, stimulus: ClientStimulus) -> None:
        self.state = CLIENT_TRANSITIONS[self.state, stimulus]
        self._stream = None
        state = self.state
        if state is ClientState.DISCOVERING:
            self._discover()
        elif state is ClientState.ENTERING:
            self._send_request(self._command(NodeCommand.ENTER_BOOTLOADER))
        elif state is ClientState.UNLOCKING:
            self._unlock()
        elif state is ClientState.OFFERING:
            if self._is_member:
                self._rest()
            else:
                assert self.details is not None
                self.offer(
                    StreamShape.for_nodes([self.details], is_fd=self._wire.is_fd, is_compressible=self.may_compress)
                )
        elif state is ClientState.SENDING:
            if self._is_member:
                self._rest()
            else:
                assert self._shape is not None
                self._stream = self.open_stream(self._shape, [self._position], self._offset)
        elif state is ClientState.FINISHING:
            self._send_request(self._command(NodeCommand.FINISH_TRANSFER))
        elif state is ClientState.FINISHED:
            assert self.node is not None
            self._finish(ImageVerified(self.node))

    @property
    def may_compress(self) -> bool:
        """Whether the stream to this node, which has been found, may be a compressed one."""
        able = self.node is not None and Capability.COMPRESSION in self.node.capabilities
        return able and not self._must_send_plainly and self._payload.is_compressible

    def _rest(self) -> None:
        """There is nothing to send until the others are as far."""
        self._out.clear()  # A repetition that the late answer has overtaken.
        self._request = None
        self._deadline_ns = None

    def offer(self, shape: StreamShape, *, is_there: bool = False) -> None:
        """Send the offer record, unless it goes to another member just before (*is_there*); in state OFFERING."""
        self._shape = shape
        self._send_request_with_data(NodeCommand.BEGIN_TRANSFER, self._offer_record(shape), is_there=is_there)

    def _offer_record(self, shape: StreamShape) -> bytes:
        return self._payload.offer(shape, is_fd=self._wire.is_fd).serialize()

    def open_stream(self, shape: StreamShape, positions: list[int], offset: int) -> BlockStream:
        """The stream of the image from *offset* on, to all of *positions*."""
        return BlockStream(
            self._wire,
            node=self._position if shape.group == ALL_NODES else shape.group,
            positions=positions,
            data=self._payload.stream(offset, is_compressed=shape.is_compressed),
            offset=offset,
            block_frames=shape.block_frames,
            window_blocks=shape.window_blocks,
            timing=self._timing,
            crc_start=self._payload.offer(shape, is_fd=self._wire.is_fd).stream_crc(offset),
        )

    def _interrupt(self, detail: str) -> None:
        if not self._interruptions_left:
            self._give_up(FailureCause.NO_PROGRESS, detail)
            return
        self._interruptions_left -= 1
        self._events.append(TransferInterrupted(detail))
        self._move(ClientStimulus.INTERRUPTED)

    def _refuse(self, cause: FailureCause, detail: str) -> None:
        self._fail(ClientStimulus.REFUSED, cause, detail)

    def _give_up(self, cause: FailureCause, detail: str) -> None:
        self._fail(ClientStimulus.GAVE_UP, cause, detail)

    def _fail(self, stimulus: ClientStimulus, cause: FailureCause, detail: str) -> None:
        self.state = CLIENT_TRANSITIONS[self.state, stimulus]
        self._stream = None
        self._finish(TransferFailed(cause=cause, detail=detail, node=self.node, next_offset=self._offset))
