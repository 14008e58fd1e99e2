"""The client for many equal nodes: one image goes over the wire once.

Strategy. A broadcast is passes of four phases, each with all members that are still to be served:

1. PREPARING: every member is found, checked and unlocked, all at the same time; the answers have ids of their own.
2. OFFERING: the offer record goes over the wire once, all hear it, and each is asked from where it wants the image. One that has
   missed a part of the record gets that part again. What is offered (block size, window, compression) is what all can take.
3. STREAMING: one `BlockStream`, from the lowest offset; a node that has more ignores what it has.
4. FINISHING: all verify at the same time.

A member that is late, falls silent, restarts or finds its image damaged is left behind by its phase and served in the next
pass, alone or with others like it; a member that refuses has failed. No member waits for another longer than a phase's own
timeout, and each member has its own number of interruptions, so the passes come to an end.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING

from bmsota.bootloader._client import BootloaderClient, ClientState, ImagePayload, StreamShape
from bmsota.bootloader._messages import GROUP_MAX, GROUP_MIN, Request
from bmsota.bootloader._timing import BootloaderTiming
from bmsota.errors import LocalProtocolError
from bmsota.node import NodeEvent, check_position

if TYPE_CHECKING:
    from collections.abc import Iterable

    from bmsota.bootloader._stream import BlockStream
    from bmsota.bootloader._wire import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.node import AccessSigner


class BroadcastPhase(Enum):
    """What the members of this pass are doing."""

    PREPARING = auto()
    OFFERING = auto()
    STREAMING = auto()
    FINISHING = auto()
    FINISHED = auto()


class BroadcastClient:
    """Stages *image* on the nodes at *positions*, all at once. Its events are `NodeEvent`s.

    Each node ends with `ImageVerified` or `TransferFailed`, whatever becomes of the others.

    Raises:
        LocalProtocolError: no positions, one twice, or one that is not on the bus.
        ImageError: *image* is no image.
    """

    def __init__(
        self,
        wire: BootloaderWire,
        *,
        positions: Iterable[int],
        image: bytes,
        timing: BootloaderTiming | None = None,
        access_signer: AccessSigner | None = None,
        may_compress: bool = True,
    ) -> None:
        ordered = list(positions)
        if not ordered or len(set(ordered)) != len(ordered):
            raise LocalProtocolError(f"positions: expected one or more, each once, got {ordered}")
        for position in ordered:
            check_position(position)
        self._wire = wire
        self._timing = timing or BootloaderTiming()
        self._payload = ImagePayload(image, may_compress=may_compress)
        # From the image alone: a node left in an earlier broadcast of this image may well take part again, one left in a
        # broadcast of another image must not, and of two images one in 127 has the group of the other; then the CRCs of
        # the blocks keep them apart.
        self._group = GROUP_MIN + int.from_bytes(self._payload.sha256[:4], "big") % (GROUP_MAX - GROUP_MIN + 1)
        self._members = {
            position: BootloaderClient(
                wire,
                position=position,
                image=self._payload,
                timing=self._timing,
                access_signer=access_signer,
                is_member=True,
            )
            for position in ordered
        }
        self._events: deque[NodeEvent] = deque()
        self._shape: StreamShape | None = None
        self._stream: BlockStream | None = None
        self._late_ns: int | None = None
        self._active: list[int] = ordered
        """Members of this pass that this phase is about."""
        self.phase = BroadcastPhase.PREPARING

    @property
    def finished(self) -> bool:
        """Whether every node has its image or has failed."""
        return self.phase is BroadcastPhase.FINISHED

    # ---- the driver's side

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """Take a frame from the bus."""
        position = frame.can_id - self._wire.reply_id
        member = self._members.get(position)
        if member is None:
            return
        if self.phase is BroadcastPhase.STREAMING:
            assert self._stream is not None
            reply = self._wire.parse(frame)
            if reply is not None and not isinstance(reply, Request):
                self._stream.receive(reply, now_ns)
        elif position in self._active:
            member.receive_frame(frame, now_ns)
            for other in self._active:
                if other != position:
                    self._members[other].hurry(now_ns + self._timing.report_late_ns)
        self._go_on(now_ns)

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        """What to put on the bus now, in this order; a burst at a time."""
        if self._stream is not None:
            return self._stream.frames_to_send(now_ns)
        frames: list[CanFrame] = []
        for member in self._driven():
            frames += member.frames_to_send(now_ns)
        return frames

    def next_event(self) -> NodeEvent | None:
        """The oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> int | None:
        """When `frames_to_send` and `handle_timeout` want to be called at the latest."""
        if self._stream is not None:
            return self._stream.next_timeout()
        due = [member.next_timeout() for member in self._driven()]
        if self._late_ns is not None:
            due.append(self._late_ns)
        return min((when for when in due if when is not None), default=None)

    def handle_timeout(self, now_ns: int) -> None:
        """Act on the time; no effect before `next_timeout`."""
        if self._stream is not None:
            self._stream.handle_timeout(now_ns)
        else:
            for member in self._driven():
                member.handle_timeout(now_ns)
        self._go_on(now_ns)

    def _driven(self) -> list[BootloaderClient]:
        """Whose turn it is to speak, outside the stream."""
        members = [self._members[position] for position in self._active]
        # Data frames carry no address. Signatures go one after another; the offer is the same for all, and goes before what
        # is asked about it.
        if self.phase is BroadcastPhase.OFFERING:
            first = next((member for member in members if member.has_data_waiting), None)
            return members if first is None else [first]
        first = next((member for member in members if member.sends_data), None)
        return [member for member in members if member is first or not member.sends_data]

    # ---- from phase to phase

    def _go_on(self, now_ns: int) -> None:
        self._collect()
        while self.phase is not BroadcastPhase.FINISHED and self._phase_is_over(now_ns):
            self._next_phase()
            self._collect()

    def _collect(self) -> None:
        while self._stream is not None and (event := self._stream.next_event()) is not None:
            self._members[event.position].take_stream_event(event)
        for position, member in self._members.items():
            while (client_event := member.next_event()) is not None:
                self._events.append(NodeEvent(position, client_event))

    def _states(self) -> list[ClientState]:
        return [self._members[position].state for position in self._active]

    def _phase_is_over(self, now_ns: int) -> bool:
        if self.phase is BroadcastPhase.PREPARING:
            return self._preparing_is_over(now_ns)
        if self.phase is BroadcastPhase.OFFERING:
            # A member that is not in OFFERING any more has answered, or has been interrupted and waits for the next pass.
            self._active = [
                position for position in self._active if self._members[position].state is ClientState.OFFERING
            ]
            return not self._active
        if self.phase is BroadcastPhase.STREAMING:
            assert self._stream is not None
            return self._stream.finished
        self._active = [position for position in self._active if self._members[position].state is ClientState.FINISHING]
        return not self._active

    def _preparing_is_over(self, now_ns: int) -> bool:
        ready = {ClientState.OFFERING, ClientState.FINISHED, ClientState.FAILED}
        states = self._states()
        if all(state in ready for state in states):
            return True
        busy = {ClientState.ENTERING, ClientState.UNLOCKING}
        is_busy = any(
            self._members[position].state in busy and not self._members[position].is_put_off
            for position in self._active
        )
        if ClientState.OFFERING not in states or is_busy:
            self._late_ns = None
            return False
        # Some are there; the others have not been found, or want a pause: they get a moment, then the rest begins without.
        if self._late_ns is None:
            self._late_ns = now_ns + self._timing.late_ns
        return now_ns >= self._late_ns

    def _next_phase(self) -> None:
        members = self._members
        self._late_ns = None
        if self.phase is BroadcastPhase.PREPARING:
            self.phase = BroadcastPhase.OFFERING
            self._begin_offering()
        elif self.phase is BroadcastPhase.OFFERING:
            self.phase = BroadcastPhase.STREAMING
            served = [position for position, member in members.items() if member.state is ClientState.SENDING]
            if served:
                assert self._shape is not None
                first = members[served[0]]
                offset = min(members[position].next_offset for position in served)
                self._stream = first.open_stream(self._shape, served, offset)
            else:
                self.phase = BroadcastPhase.FINISHING
                self._begin_finishing()
        elif self.phase is BroadcastPhase.STREAMING:
            self._stream = None
            self.phase = BroadcastPhase.FINISHING
            self._begin_finishing()
        else:
            self._active = [position for position, member in members.items() if not member.finished]
            self.phase = BroadcastPhase.PREPARING if self._active else BroadcastPhase.FINISHED

    def _begin_offering(self) -> None:
        self._active = [position for position in self._active if self._members[position].state is ClientState.OFFERING]
        members = [self._members[position] for position in self._active]
        details = [member.details for member in members if member.details is not None]
        if not details:
            return
        self._shape = StreamShape.for_nodes(
            details,
            is_fd=self._wire.is_fd,
            is_compressible=all(member.may_compress for member in members),
            group=self._group,
        )
        for member in members:
            member.offer(self._shape, is_there=member is not members[0])

    def _begin_finishing(self) -> None:
        self._active = [position for position, member in self._members.items() if member.state is ClientState.FINISHING]
