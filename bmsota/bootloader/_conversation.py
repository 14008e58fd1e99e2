"""What every talk with one node has in common: find it, ask one thing at a time, repeat, give up.

Strategy. There is never more than one request under way. It has a tag, is repeated unchanged until its answer comes or
the tries are used up, and the node does a tag only once. The tag goes on from the node's own `LastTag`, so that a client
started anew never meets an answer to another client's request.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar
from uuid import UUID

from bmsota.boot import BootReason, SlotState
from bmsota.bootloader._messages import (
    POSITION_MAX,
    BuildReply,
    Capability,
    Command,
    CounterReply,
    NodeDescription,
    NodeState,
    PartReply,
    PendingReply,
    Reply,
    ReplyKind,
    Request,
    StatusReply,
    VersionReply,
)
from bmsota.errors import LocalProtocolError
from bmsota.image import ImageRole, ImageVersion

if TYPE_CHECKING:
    from bmsota.bootloader._timing import BootloaderTiming
    from bmsota.bootloader._wire import BootloaderWire
    from bmsota.canframe import CanFrame

__all__ = ["Conversation", "IdentityCollector", "check_position"]

EventT = TypeVar("EventT")

_MS = 1_000_000
_TAG_MAX = 255
_NO_SLOT = 3


def check_position(position: int) -> None:
    """Refuse a position that has no reply id.

    Raises:
        LocalProtocolError: it is not 0 to 31.
    """
    if not 0 <= position <= POSITION_MAX:
        raise LocalProtocolError(f"position: expected 0 to {POSITION_MAX}, got {position}")


class IdentityCollector:
    """Puts a node's description together from the fifteen replies to Discover.

    Serial number, hardware id and hardware class do not change while a node stays at its place, so their parts may come
    from different tries. Status, version and counter must come from one.
    """

    def __init__(self, position: int) -> None:
        self._position = position
        self._echo = 0
        self._moving: dict[type, StatusReply | VersionReply | BuildReply | CounterReply] = {}
        self._parts: dict[ReplyKind, bytes] = {}

    @property
    def has_heard(self) -> bool:
        return bool(self._moving or self._parts)

    def request(self, node: int | None = None) -> Request:
        """Ask (again); replies to earlier requests count for the unchanging parts only."""
        self._echo = (self._echo + 1) % 256
        self._moving.clear()
        return Request(self._position if node is None else node, Command.DISCOVER, tag=self._echo)

    def receive(self, reply: Reply) -> NodeDescription | None:
        """Take one reply; the description once it is complete.

        A description with a state this code does not know stays incomplete: the node speaks a newer protocol.
        """
        if isinstance(reply, PartReply):
            self._parts[reply.kind] = reply.data
        elif isinstance(reply, StatusReply | VersionReply | BuildReply | CounterReply):
            if reply.echo != self._echo:
                return None
            self._moving[type(reply)] = reply
        else:
            return None
        if len(self._moving) < 4 or len(self._parts) < 11:
            return None
        try:
            return self._description()
        except ValueError:
            return None

    def _description(self) -> NodeDescription:
        status, version = self._moving[StatusReply], self._moving[VersionReply]
        build, counter = self._moving[BuildReply], self._moving[CounterReply]
        assert isinstance(status, StatusReply)
        assert isinstance(version, VersionReply)
        assert isinstance(build, BuildReply)
        assert isinstance(counter, CounterReply)
        return NodeDescription(
            position=self._position,
            role=ImageRole(status.role),
            hwid=self._text(ReplyKind.HWID_0, 4),
            serial=self._text(ReplyKind.SERIAL_0, 4),
            class_id=UUID(bytes=self._joined(ReplyKind.CLASS_0, 3)[:16]),
            version=ImageVersion(version.major, version.minor, version.revision, build.build),
            security_counter=counter.security_counter,
            state=NodeState(status.node_state),
            boot_reason=BootReason(status.boot_reason),
            slot_states=(SlotState(status.slot_a_state), SlotState(status.slot_b_state)),
            active_slot=None if status.active_slot == _NO_SLOT else status.active_slot,
            running_slot=None if status.running_slot == _NO_SLOT else status.running_slot,
            protocol_version=status.protocol_version,
            capabilities=Capability(status.capabilities),
            block_frames_max=status.block_frames_max,
            last_tag=status.last_tag,
            boot_id=counter.boot_id,
        )

    def _joined(self, first: ReplyKind, count: int) -> bytes:
        return b"".join(self._parts[ReplyKind(first + part)] for part in range(count))

    def _text(self, first: ReplyKind, count: int) -> str:
        # Identity is shown to people and compared; a byte that is no ASCII must not end the talk.
        return self._joined(first, count).rstrip(b"\0").decode("ascii", "replace")


class Conversation(ABC, Generic[EventT]):
    """One node, one request at a time. Subclasses decide what to ask next.

    The driver's loop: hand `frames_to_send` to the bus, wait until `next_timeout`, give what came to `receive_frame`,
    call `handle_timeout`, take the events; until `finished`.
    """

    def __init__(self, wire: BootloaderWire, *, position: int, timing: BootloaderTiming) -> None:
        check_position(position)
        self._wire = wire
        self._timing = timing
        self._position = position
        self._reply_id = wire.reply_id + position
        self.finished = False
        """Whether there is nothing more to do, successfully or not."""
        self.node: NodeDescription | None = None
        """What the node last said of itself."""
        self._events: deque[EventT] = deque()
        self._out: deque[CanFrame] = deque()
        self._burst_due_ns = 0
        self._collector: IdentityCollector | None = None
        self._request: Request | None = None
        self._tag = 0
        self._tries_left = 0
        self._pending_left = 0
        self._timeout_ns = 0
        self._deadline_ns: int | None = None

    # ---- the driver's side

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """Take a frame from the bus; anything not from this node is ignored."""
        if frame.can_id != self._reply_id or self.finished:
            return
        reply = self._wire.parse(frame)
        if reply is None or isinstance(reply, Request):
            return
        if self._collector is not None:
            node = self._collector.receive(reply)
            if node is not None:
                self._collector = None
                self._deadline_ns = None
                self._out.clear()
                self.node = node
                self._tag = node.last_tag
                self._identified(node, now_ns)
        elif isinstance(reply, PendingReply):
            self._extend(reply, now_ns)
        else:
            self._answered(reply, now_ns)

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        """What to put on the bus now, in this order."""
        out = self._out
        if not out or now_ns < self._burst_due_ns:
            return []
        count = min(len(out), self._timing.burst_frames)
        frames = [out.popleft() for _ in range(count)]
        if out:
            self._burst_due_ns = now_ns + self._timing.burst_spacing_ns
        else:
            self._deadline_ns = now_ns + self._timeout_ns
        return frames

    def next_event(self) -> EventT | None:
        """The oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> int | None:
        """When `frames_to_send` and `handle_timeout` want to be called at the latest; None: only after a frame."""
        if self._out:
            return self._burst_due_ns
        return self._deadline_ns

    def handle_timeout(self, now_ns: int) -> None:
        """Act on the time; no effect before `next_timeout`."""
        if self._out or self._deadline_ns is None or now_ns < self._deadline_ns:
            return
        self._deadline_ns = None
        self._tries_left -= 1
        if self._tries_left <= 0:
            self._unanswered(now_ns)
        elif self._collector is not None:
            self._queue(self._collector.request())
        else:
            self._repeat()

    # ---- for subclasses

    def _discover(self) -> None:
        """Look for the node; `_identified` is called when it has said everything."""
        self._out.clear()
        self._request = None
        self._collector = IdentityCollector(self._position)
        self._tries_left = self._timing.discover_tries
        self._timeout_ns = self._timing.discover_timeout_ns
        self._queue(self._collector.request())

    def _ask(self, request: Request, *, after: list[CanFrame] | None = None) -> None:
        """Send *request*, behind the data frames *after* if given, and wait for its answer."""
        self._request = request
        self._tries_left = self._timing.reply_tries
        self._pending_left = self._timing.pending_max
        self._timeout_ns = self._timing.reply_timeout_ns
        self._deadline_ns = None
        if after:
            self._out.extend(after)
        self._queue(request)

    def _command(self, command: Command, *, raise_counter: bool = False) -> Request:
        """A command with the next tag, meant for the boot that was discovered."""
        assert self.node is not None
        return Request(
            self._position, command, self._next_tag(), boot_id=self.node.boot_id, raise_counter=int(raise_counter)
        )

    def _next_tag(self) -> int:
        self._tag = self._tag % _TAG_MAX + 1
        return self._tag

    def _queue(self, request: Request) -> None:
        self._out.append(self._wire.serialize(request))

    def _repeat(self) -> None:
        assert self._request is not None
        self._queue(self._request)

    def _extend(self, reply: PendingReply, now_ns: int) -> None:
        request = self._request
        if request is None or (reply.tag, reply.command) != (request.tag, request.command) or not self._pending_left:
            return
        self._pending_left -= 1
        if not self._out:
            self._deadline_ns = now_ns + reply.wait_ms * _MS + self._timeout_ns

    def _finish(self, event: EventT) -> None:
        self._events.append(event)
        self.finished = True
        self._out.clear()
        self._deadline_ns = None

    @abstractmethod
    def _identified(self, node: NodeDescription, now_ns: int) -> None:
        """The node has said everything of itself."""

    @abstractmethod
    def _answered(self, reply: Reply, now_ns: int) -> None:
        """A reply came while a request is under way; whether it belongs to it is for the subclass to see."""

    @abstractmethod
    def _unanswered(self, now_ns: int) -> None:
        """The tries are used up, of the request or, without one, of the search."""
