"""The client: stage one image on one node, whatever the bus and the node's supply do meanwhile.

The states in characters; the table below is what runs::

    DISCOVERING --IDENTIFIED--> ENTERING --ENTERED--> OFFERING --OFFER_ACCEPTED--> SENDING --LAST_BLOCK_ACCEPTED--+
         ^                         |                     |  |                       |   |                         |
         |                         |                     |  +----OFFER_COMPLETE-----|---|------> FINISHING <------+
         +-------INTERRUPTED-------+---------------------+--------------------------+---|----------+   |
                                                                                        |              +--VERIFIED--> FINISHED
     any of them --REFUSED, GAVE_UP--> FAILED                        BLOCK_ACCEPTED stays in SENDING

Strategy. The node is the one who knows what it has: after any doubt (silence, an answer that does not fit, a restart) the
client looks for the node again, offers the same image, and goes on from the offset the node names. So there is one path
for a first start, a cut on our side and a cut on the node's side.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from enum import Enum, auto
from typing import TYPE_CHECKING
from zlib import crc32

from bmsota.bootloader._conversation import Conversation
from bmsota.bootloader._events import (
    CAUSE_OF_RESULT,
    FAILURES,
    BlockAccepted,
    BlockRepeated,
    ClientEvent,
    FailureCause,
    ImageVerified,
    TargetConnected,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
)
from bmsota.bootloader._messages import (
    BLOCK_FRAMES_MAX,
    BLOCK_NUMBERS,
    DATA_BYTES,
    OFFER_BLOCK,
    PROTOCOL_VERSION,
    SEGMENT_FRAMES,
    AcceptedReply,
    Command,
    MissingReply,
    Request,
    ResultCode,
    ResultReply,
)
from bmsota.bootloader._offer import Offer
from bmsota.bootloader._timing import BootloaderTiming
from bmsota.image import parse_image

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bmsota.bootloader._messages import NodeDescription, Reply
    from bmsota.bootloader._wire import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.image import HardwareClass, ImageRole

__all__ = ["CLIENT_TRANSITIONS", "BootloaderClient", "ClientState", "ClientStimulus", "ExpectedNode"]


class ClientState(Enum):
    """Where a transfer stands."""

    DISCOVERING = auto()
    ENTERING = auto()
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
    OFFER_ACCEPTED = auto()
    """The node wants the image, from some offset."""
    OFFER_COMPLETE = auto()
    """The node has the whole image already."""
    BLOCK_ACCEPTED = auto()
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
    (_S.ENTERING, _C.INTERRUPTED): _S.DISCOVERING,
    (_S.ENTERING, _C.REFUSED): _S.FAILED,
    (_S.ENTERING, _C.GAVE_UP): _S.FAILED,
    (_S.OFFERING, _C.OFFER_ACCEPTED): _S.SENDING,
    (_S.OFFERING, _C.OFFER_COMPLETE): _S.FINISHING,
    (_S.OFFERING, _C.INTERRUPTED): _S.DISCOVERING,
    (_S.OFFERING, _C.REFUSED): _S.FAILED,
    (_S.OFFERING, _C.GAVE_UP): _S.FAILED,
    (_S.SENDING, _C.BLOCK_ACCEPTED): _S.SENDING,
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
class ExpectedNode:
    """Who must answer before anything is written."""

    hardware_class: HardwareClass
    role: ImageRole
    hwid: str | None = None
    """None: any node of this class and role."""


class BootloaderClient(Conversation[ClientEvent]):
    """Stages *image* (a whole image file) on the node at *position*. Nothing runs it until `NodeCommand` says so.

    *expected* defaults to what the image itself is for.

    Raises:
        LocalProtocolError: *position* is not on the bus.
        ImageError: *image* is no image.
    """

    def __init__(
        self,
        wire: BootloaderWire,
        *,
        position: int,
        image: bytes,
        expected: ExpectedNode | None = None,
        timing: BootloaderTiming | None = None,
    ) -> None:
        super().__init__(wire, position=position, timing=timing or BootloaderTiming())
        facts = parse_image(image)
        self._image = image
        self._expected = expected or ExpectedNode(hardware_class=facts.hardware_class, role=facts.role)
        self._offer = Offer(
            role=facts.role,
            size_bytes=len(image),
            sha256=hashlib.sha256(image).digest(),
            class_id=facts.hardware_class.class_id,
            version=facts.version,
            security_counter=facts.security_counter,
        ).serialize()
        self.state = ClientState.DISCOVERING
        self._offset = 0
        self._furthest = 0
        self._interruptions_left = self._timing.interruptions_max
        self._block = 0
        self._block_bytes = 0
        self._block_frames: list[CanFrame] = []
        self._rounds_left = 0
        self._missing: dict[int, int] = {}
        self._discover()

    @property
    def size_bytes(self) -> int:
        return len(self._image)

    @property
    def next_offset(self) -> int:
        """How much of the image the node has confirmed."""
        return self._offset

    # ---- what comes in

    def _identified(self, node: NodeDescription, now_ns: int) -> None:  # noqa: ARG002  The base class gives the time.
        expected = self._expected
        class_id = expected.hardware_class.class_id
        if node.protocol_version < PROTOCOL_VERSION:
            self._refuse(
                FailureCause.PROTOCOL_VERSION, f"expected protocol {PROTOCOL_VERSION}, got {node.protocol_version}"
            )
        elif node.role is not expected.role:
            self._refuse(FailureCause.WRONG_ROLE, f"expected {expected.role.name}, got {node.role.name}")
        elif node.class_id != class_id:
            self._refuse(FailureCause.WRONG_HARDWARE, f"expected hardware class {class_id}, got {node.class_id}")
        elif expected.hwid is not None and node.hwid != expected.hwid:
            self._refuse(FailureCause.WRONG_NODE, f"expected hardware id {expected.hwid}, got {node.hwid}")
        else:
            self._events.append(TargetConnected(node))
            self._move(ClientStimulus.IDENTIFIED)

    def _answered(self, reply: Reply, now_ns: int) -> None:  # noqa: ARG002  The base class gives the time.
        request = self._request
        assert request is not None
        if isinstance(reply, ResultReply):
            if (reply.tag, reply.command) == (request.tag, request.command):
                self._result_received(reply)
        elif isinstance(reply, AcceptedReply):
            if self.state is ClientState.SENDING and reply.block == request.tag:
                self._block_accepted(reply)
        elif isinstance(reply, MissingReply):
            self._frames_missing(reply)

    def _result_received(self, reply: ResultReply) -> None:
        if reply.code != ResultCode.OK:
            self._bad_result(reply)
        elif self.state is ClientState.ENTERING:
            self._move(ClientStimulus.ENTERED)
        elif self.state is ClientState.OFFERING:
            if reply.detail > len(self._image):
                self._interrupt(f"expected an offset of at most {len(self._image)}, got {reply.detail}")
                return
            self._offset = reply.detail
            self._block = 0
            self._events.append(TransferStarted(self._offset, len(self._image)))
            complete = self._offset == len(self._image)
            self._move(ClientStimulus.OFFER_COMPLETE if complete else ClientStimulus.OFFER_ACCEPTED)
        elif self.state is ClientState.FINISHING:
            self._move(ClientStimulus.VERIFIED)

    def _bad_result(self, reply: ResultReply) -> None:
        try:
            code = ResultCode(reply.code)
        except ValueError:
            self._refuse(FailureCause.REFUSED, f"{_name(reply.command)}: expected a known result, got {reply.code}")
            return
        cause = CAUSE_OF_RESULT.get(code)
        if cause is None:
            self._interrupt(f"{_name(reply.command)}: {code.name}")
        else:
            self._refuse(cause, f"{_name(reply.command)}: {code.name}")

    def _block_accepted(self, reply: AcceptedReply) -> None:
        end = self._offset + self._block_bytes
        if reply.next_offset != end:
            self._interrupt(f"expected block {self._block} to end at {end}, got {reply.next_offset}")
            return
        self._offset = end
        self._block = (self._block + 1) % BLOCK_NUMBERS
        if end > self._furthest:
            # Only ground never covered before counts as progress: a node that loses its supply after every few blocks
            # would otherwise keep us busy for ever.
            self._furthest = end
            self._interruptions_left = self._timing.interruptions_max
        self._events.append(BlockAccepted(end, len(self._image)))
        last = end == len(self._image)
        self._move(ClientStimulus.LAST_BLOCK_ACCEPTED if last else ClientStimulus.BLOCK_ACCEPTED)

    def _frames_missing(self, reply: MissingReply) -> None:
        """Collect the bitmaps of all segments, then send what they name and ask again."""
        sending, offering = self.state is ClientState.SENDING, self.state is ClientState.OFFERING
        number = self._block if sending else OFFER_BLOCK
        # A bitmap that comes while frames are still going out is about an earlier round.
        if not (sending or offering) or reply.block != number or self._out or not reply.total:
            return
        self._missing[reply.segment] = reply.bitmap
        if sum(bitmap.bit_count() for bitmap in self._missing.values()) < reply.total:
            return
        frames = [
            self._block_frames[index]
            for segment, bitmap in sorted(self._missing.items())
            for bit in range(SEGMENT_FRAMES)
            if bitmap >> bit & 1 and (index := segment * SEGMENT_FRAMES + bit) < len(self._block_frames)
        ]
        self._missing.clear()
        self._rounds_left -= 1
        if not self._rounds_left:
            self._interrupt(f"block {number}: still incomplete after {self._timing.rounds_max} rounds")
            return
        self._events.append(BlockRepeated(self._offset, len(frames)))
        assert self._request is not None
        self._ask(self._request, after=frames)

    def _repeat(self) -> None:
        self._missing.clear()
        super()._repeat()

    def _unanswered(self, now_ns: int) -> None:  # noqa: ARG002  The base class gives the time.
        if self.state is ClientState.DISCOVERING:
            heard = "said only a part of what it is" if self._has_heard() else "did not answer"
            tries = self._timing.discover_tries
            self._give_up(FailureCause.NODE_SILENT, f"node {self._position} {heard}, asked {tries} times")
        else:
            assert self._request is not None
            self._interrupt(f"{_name(self._request.command)}: no answer in {self._timing.reply_tries} tries")

    def _has_heard(self) -> bool:
        return self._collector is not None and self._collector.has_heard

    # ---- what follows

    def _move(self, stimulus: ClientStimulus) -> None:
        self.state = CLIENT_TRANSITIONS[self.state, stimulus]
        self._missing.clear()
        state = self.state
        if state is ClientState.DISCOVERING:
            self._discover()
        elif state is ClientState.ENTERING:
            self._ask(self._command(Command.ENTER_BOOTLOADER))
        elif state is ClientState.OFFERING:
            self._send_offer()
        elif state is ClientState.SENDING:
            self._send_block()
        elif state is ClientState.FINISHING:
            self._ask(self._command(Command.FINISH_TRANSFER))
        elif state is ClientState.FINISHED:
            assert self.node is not None
            self._finish(ImageVerified(self.node))

    def _send_offer(self) -> None:
        self._send(Command.BEGIN_TRANSFER, self._next_tag(), self._offer)

    def _send_block(self) -> None:
        assert self.node is not None
        frames = min(BLOCK_FRAMES_MAX, self.node.block_frames_max)
        data = self._image[self._offset : self._offset + frames * DATA_BYTES]
        self._block_bytes = len(data)
        self._send(Command.CHECK_BLOCK, self._block, data)

    def _send(self, command: Command, tag: int, data: bytes) -> None:
        """Send *data* as data frames and *command* behind them."""
        frames = self._wire.data_frames(data)
        filled = data + b"\xff" * (-len(data) % DATA_BYTES)
        self._block_frames = frames
        self._rounds_left = self._timing.rounds_max
        self._ask(Request(self._position, command, tag, frames=len(frames), crc32=crc32(filled)), after=frames)

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
        failure = FAILURES[cause]
        self._finish(
            TransferFailed(
                cause=cause,
                detail=detail,
                node=self.node,
                next_offset=self._offset,
                permanent=failure.permanent,
                safe_to_run_again=failure.safe_to_run_again,
            )
        )


def _name(command: int) -> str:
    return Command(command).name
