"""One exchange with one node: discovery, unlock, a single outstanding request, retries, giving up.

Strategy. There is never more than one request under way. It has a tag, is repeated unchanged until its answer comes or
the tries are used up, and the node does a tag only once. The tag continues from the node's own `LastTag`, so that a client
started anew never meets an answer to another client's request.

What is too long for a request (the offer record, a signature) goes before it as data frames; the node names those that it
misses in a bitmap, and only they are sent again.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar, cast
from zlib import crc32

from bmsota.boot import BootReason, SlotState
from bmsota.bootloader._messages import (
    DIGEST_PARTS,
    OFFER_BLOCK,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    SEGMENT_FRAMES,
    BitmapReply,
    BootloaderDetails,
    BuildReply,
    CounterReply,
    DigestReply,
    LimitsReply,
    PartReply,
    PendingReply,
    Reply,
    ReplyKind,
    Request,
    ResultReply,
    StatusReply,
    VersionReply,
)
from bmsota.image import ImageRole, ImageVersion
from bmsota.node import (
    CAUSE_OF_RESULT,
    CHALLENGE_BYTES,
    IMAGE_SHA256_BYTES,
    Capability,
    FailureCause,
    ImpossibleIdentityError,
    NodeCommand,
    NodeDescription,
    NodeMode,
    ResultCode,
    answer_challenge,
    check_position,
    identity_class,
    identity_digest,
    identity_enum,
    identity_slot,
    identity_text,
)

if TYPE_CHECKING:
    from bmsota.bootloader._timing import BootloaderTiming
    from bmsota.bootloader._wire import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.node import AccessSigner


EventT = TypeVar("EventT")
T = TypeVar("T")

_MS = 1_000_000
_TAG_MAX = 255
_NO_SLOT = 3
# Since version 2 a node also says its limits, and the oldest version it speaks.
_LIMITS_SINCE = _RANGE_SINCE = 2


def shared_protocol(oldest: int, newest: int) -> int | None:
    """The newest protocol version that both we and a node with these speak; None if there is none."""
    version = min(PROTOCOL_VERSION, newest)
    return version if version >= max(PROTOCOL_VERSION_MIN, oldest) else None


def other_protocol(oldest: int, newest: int) -> str:
    """What to say of a node that shares no version with us."""
    ours, its = (
        str(last) if first == last else f"{first} to {last}"
        for first, last in ((PROTOCOL_VERSION_MIN, PROTOCOL_VERSION), (oldest, newest))
    )
    return f"expected protocol {ours}, got {its}"


class IdentityCollector:
    """Puts a node's description together from the 22 replies to Discover.

    They are 16 from a node that does not say the digest of its image, 15 from one of version 1.

    Serial number, hardware id and hardware class do not change while a node stays at its place, so their parts may come
    from different tries. Status, version, counter and limits must come from one. Those of the digest may come from several
    with the same boot id: another image runs only after a boot that changes it.

    What no node can be (`problem`) may be one altered frame: everything is forgotten then, and the next try begins anew.
    """

    def __init__(self, position: int) -> None:
        self._position = position
        self._echo = 0
        self._moving: dict[type, StatusReply | VersionReply | BuildReply | CounterReply | LimitsReply] = {}
        self._digest: dict[ReplyKind, bytes] = {}
        self._digest_boot_id: int | None = None
        self._parts: dict[ReplyKind, bytes] = {}
        self.problem = ""
        """Why what the node has said of itself last is refused; empty if it is not."""
        self.details: BootloaderDetails | None = None
        """Comes with the description."""

    @property
    def has_heard(self) -> bool:
        return bool(self._moving or self._parts or self.problem)

    @property
    def protocol_versions(self) -> tuple[int, int] | None:
        """(oldest, newest) that the node speaks, as soon as it has said that much."""
        status = self._moving.get(StatusReply)
        if not isinstance(status, StatusReply):
            return None
        newest = status.protocol_version
        return newest if newest < _RANGE_SINCE else status.protocol_version_min, newest

    def hold(self) -> Request | None:
        """EnterBootloader, if what has come of the newest try says that the node is in its bootloader: in a boot window it stays there."""
        status, counter = self._moving.get(StatusReply), self._moving.get(CounterReply)
        versions = self.protocol_versions
        if not isinstance(status, StatusReply) or not isinstance(counter, CounterReply) or versions is None:
            return None
        protocol = shared_protocol(*versions)
        if status.node_state != NodeMode.BOOTLOADER or protocol is None:
            return None
        tag = status.last_tag % _TAG_MAX + 1
        return Request(self._position, NodeCommand.ENTER_BOOTLOADER, tag, boot_id=counter.boot_id, protocol=protocol)

    def request(self, node: int | None = None) -> Request:
        """Ask (again); replies to earlier requests count for the unchanging parts only."""
        self._echo = (self._echo + 1) % 256
        self._moving.clear()
        return Request(self._position if node is None else node, NodeCommand.DISCOVER, tag=self._echo)

    def receive(self, reply: Reply) -> NodeDescription | None:
        """Take one reply; the description once it is complete.

        One that cannot be stays incomplete: `problem` says why, or, of a node that speaks another protocol, `protocol_versions`.
        """
        if isinstance(reply, PartReply):
            self._parts[reply.kind] = reply.data
        elif isinstance(reply, DigestReply):
            # The counter goes before it; without that it is not known of which boot this part is.
            if reply.echo != self._echo or CounterReply not in self._moving:
                return None
            self._digest[reply.kind] = reply.data
        elif isinstance(reply, StatusReply | VersionReply | BuildReply | CounterReply | LimitsReply):
            if reply.echo != self._echo:
                return None
            self._moving[type(reply)] = reply
            if isinstance(reply, CounterReply) and reply.boot_id != self._digest_boot_id:
                self._digest_boot_id = reply.boot_id
                self._digest.clear()
        else:
            return None
        status = self._moving.get(StatusReply)
        if not isinstance(status, StatusReply):
            return None
        wanted = {VersionReply, BuildReply, CounterReply}
        if status.protocol_version >= _LIMITS_SINCE:
            wanted.add(LimitsReply)
        if not wanted <= self._moving.keys() or not self._parts.keys() >= _IDENTITY_PARTS:
            return None
        if self._says_digest and len(self._digest) < DIGEST_PARTS:
            return None
        try:
            node = self._description()
        except ImpossibleIdentityError as error:
            versions = self.protocol_versions
            if versions is not None and shared_protocol(*versions) is not None:
                self.problem = str(error)
                self._parts.clear()
                self._moving.clear()
                self._digest.clear()
            return None
        self.problem = ""
        return node

    def is_last(self, reply: Reply) -> bool:
        """Whether this is the last frame of what the node says to the newest try."""
        return isinstance(reply, DigestReply) and reply.echo == self._echo and reply.kind is _LAST_KIND

    @property
    def _says_digest(self) -> bool:
        limits = self._moving.get(LimitsReply)
        return isinstance(limits, LimitsReply) and bool(limits.capabilities & Capability.IMAGE_DIGEST)

    def _description(self) -> NodeDescription:
        assert self.protocol_versions is not None
        oldest, newest = self.protocol_versions
        status, version = self._said(StatusReply), self._said(VersionReply)
        build, counter = self._said(BuildReply), self._said(CounterReply)
        limits = self._said(LimitsReply) if LimitsReply in self._moving else LimitsReply(self._position, 0, 0, 1, 0, 0)
        self.details = BootloaderDetails(
            block_frames_max=status.block_frames_max,
            last_tag=status.last_tag,
            window_blocks=limits.window_blocks,
            window_blocks_fd=limits.window_blocks_fd,
        )
        return NodeDescription(
            position=self._position,
            role=identity_enum("role", ImageRole, status.role),
            hwid=identity_text("hwid", self._joined(ReplyKind.HWID_0, 4)),
            serial=identity_text("serial", self._joined(ReplyKind.SERIAL_0, 4)),
            class_id=identity_class(self._joined(ReplyKind.CLASS_0, 3)[:16]),
            version=ImageVersion(version.major, version.minor, version.revision, build.build),
            security_counter=counter.security_counter,
            state=identity_enum("node state", NodeMode, status.node_state),
            boot_reason=identity_enum("boot reason", BootReason, status.boot_reason),
            slot_states=(
                identity_enum("state of slot A", SlotState, status.slot_a_state),
                identity_enum("state of slot B", SlotState, status.slot_b_state),
            ),
            active_slot=identity_slot("active slot", _slot(status.active_slot)),
            running_slot=identity_slot("running slot", _slot(status.running_slot)),
            protocol_version=newest,
            protocol_version_min=oldest,
            capabilities=Capability(limits.capabilities),
            boot_id=counter.boot_id,
            is_unlocked=bool(status.unlocked),
            slot_size_kib=limits.slot_size_kib,
            image_sha256=self._image_sha256(),
        )

    def _image_sha256(self) -> bytes | None:
        if not self._says_digest:
            return None
        return identity_digest(b"".join(data for _, data in sorted(self._digest.items()))[:IMAGE_SHA256_BYTES])

    def _said(self, kind: type[T]) -> T:
        return cast("T", self._moving[kind])

    def _joined(self, first: ReplyKind, count: int) -> bytes:
        return b"".join(self._parts[ReplyKind(first + part)] for part in range(count))


def _slot(number: int) -> int | None:
    return None if number == _NO_SLOT else number


_IDENTITY_PARTS = frozenset(kind for kind in ReplyKind if kind.name.startswith(("CLASS_", "HWID_", "SERIAL_")))
_LAST_KIND = ReplyKind(ReplyKind.DIGEST_0 + DIGEST_PARTS - 1)
_UNLOCKING = frozenset({NodeCommand.REQUEST_CHALLENGE, NodeCommand.UNLOCK})
_CHALLENGE_PARTS = (ReplyKind.CHALLENGE_0, ReplyKind.CHALLENGE_1, ReplyKind.CHALLENGE_2)


_HURRIES = 3
"""Tries of one request that a broadcast may cut short: a node that is restarting is given the usual time then."""
_USUAL = 4
"""Times what a node needed before, it is waited for its answer in a broadcast."""


class Exchange(ABC, Generic[EventT]):
    """One node, one request at a time. Subclasses decide what to request next.

    The driver's loop: hand `frames_to_send` to the bus, wait until `next_timeout`, give what came to `receive_frame`,
    call `handle_timeout`, take the events; until `finished`.
    """

    _is_in_company = False
    """Whether other nodes of a broadcast wait while this one is waited for."""
    _holds_node = False
    """Whether a node that is in its bootloader is to stay there while it is being described."""

    def __init__(
        self,
        wire: BootloaderWire,
        *,
        position: int,
        timing: BootloaderTiming,
        access_signer: AccessSigner | None = None,
    ) -> None:
        check_position(position)
        self._wire = wire
        self._timing = timing
        self._position = position
        self._reply_id = wire.reply_id + position
        self.finished = False
        """Whether there is nothing more to do, successfully or not."""
        self.node: NodeDescription | None = None
        """What the node last said of itself."""
        self.details: BootloaderDetails | None = None
        """What it said with that, for this protocol alone."""
        self._events: deque[EventT] = deque()
        self._out: deque[CanFrame] = deque()
        self._burst_due_ns = 0
        self._spacing_ns = 0
        """Pause between data frames before a request."""
        self._collector: IdentityCollector | None = None
        self._request: Request | None = None
        self._tag = 0
        self._tries_left = 0
        self._pending_left = 0
        self._hurries_left = 0
        """How many of the next tries need not wait longer than the others of a broadcast."""
        self._hurried_ns: int | None = None
        """When the answer is late because the others' have come."""
        self._handed_out_ns: int | None = None
        """When the request under way was handed out, at its first try and until something is heard."""
        self._first_reply_ns: int | None = None
        """The longest it has taken until something was heard."""
        self._timeout_ns = 0
        self._deadline_ns: int | None = None
        self._sent_frames: list[CanFrame] = []
        """The data frames that went before the request, in case some must be repeated."""
        self._rounds_left = 0
        self._missing: dict[int, int] = {}
        self._access_signer = access_signer
        self._challenge: dict[ReplyKind, bytes] = {}
        self._access_waits_left = 0
        self.is_put_off = False
        """Whether the node wants a pause before it gives a challenge: after wrong answers, or after its boot."""

    # ---- the driver's side

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """Take a frame from the bus; anything not from this node is ignored."""
        if frame.can_id != self._reply_id or self.finished:
            return
        reply = self._wire.parse(frame)
        if reply is None or isinstance(reply, Request):
            return
        if self._handed_out_ns is not None:
            self._first_reply_ns = max(self._first_reply_ns or 0, now_ns - self._handed_out_ns)
            self._handed_out_ns = None
        if self._collector is not None:
            node = self._collector.receive(reply)
            if node is None and self._deadline_ns is not None and self._collector.has_heard:
                # It is telling; with many nodes on a slow bus that takes its time. Behind its last frame there is nothing to wait for.
                is_last = self._collector.is_last(reply)
                self._deadline_ns = now_ns + (self._timing.report_late_ns_min if is_last else self._timeout_ns)
            if node is not None:
                self.node, self.details = node, self._collector.details
                assert self.details is not None
                self._collector = None
                self._deadline_ns = None
                self._out.clear()
                self._tag = self.details.last_tag
                self._identified(node, now_ns)
        elif self._request is None:
            return  # Late: no request is outstanding.
        elif isinstance(reply, PendingReply):
            self._extend(reply, now_ns)
        elif isinstance(reply, BitmapReply) and reply.block == OFFER_BLOCK:
            self._frames_missing(reply, now_ns)
        elif self._request.command in _UNLOCKING:
            self._access_answered(self._request, reply, now_ns)
        else:
            self._answered(reply, now_ns)

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        """What to put on the bus now, in this order."""
        out = self._out
        if not out or now_ns < self._burst_due_ns:
            return []
        count = 1 if self._spacing_ns else min(len(out), self._timing.burst_frames)
        frames = [out.popleft() for _ in range(count)]
        if out:
            self._burst_due_ns = now_ns + max(self._timing.burst_spacing_ns, self._spacing_ns)
        else:
            self._deadline_ns, self._hurried_ns = now_ns + self._timeout_ns, None
            if self._hurries_left == _HURRIES:
                self._handed_out_ns = now_ns
        return frames

    def next_event(self) -> EventT | None:
        """The oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> int | None:
        """When `frames_to_send` and `handle_timeout` want to be called at the latest; None: only after a frame."""
        if self._out:
            return self._burst_due_ns
        return self._due_ns

    def handle_timeout(self, now_ns: int) -> None:
        """Act on the time; no effect before `next_timeout`."""
        due_ns = self._due_ns
        if self._out or due_ns is None or now_ns < due_ns:
            return
        self._deadline_ns = self._hurried_ns = None
        self._tries_left -= 1
        self._hurries_left = max(0, self._hurries_left - 1)
        self._handed_out_ns = None
        # What is there and cannot be understood is not retried as long as a node that may still be booting.
        is_there = self._timing.discover_tries - self._tries_left >= self._timing.reply_tries
        foreign = self._foreign_protocol()
        if foreign is not None and is_there:
            self._refuse(FailureCause.PROTOCOL_VERSION, foreign)
        elif self._collector is not None and self._collector.problem and is_there:
            self._refuse(FailureCause.BAD_IDENTITY, f"node {self._position}: {self._collector.problem}")
        elif self._tries_left <= 0:
            self._unanswered(now_ns)
        elif self._collector is not None:
            if self._holds_node and (hold := self._collector.hold()) is not None:
                # It may be in its boot window, which must not end while the rest of its description is asked for again.
                self._queue(hold)
            self._queue(self._collector.request())
        else:
            self._repeat()

    def hurry(self, due_ns: int) -> None:
        """Others that were sent the same at the same time have answered: an answer that is lost need not be waited for."""
        self._hurried_ns = due_ns if self._hurries_left and not self._out else None

    @property
    def _due_ns(self) -> int | None:
        """When the answer is late."""
        if self._deadline_ns is None or self._hurried_ns is None:
            return self._deadline_ns
        return min(self._deadline_ns, self._hurried_ns)

    def _foreign_protocol(self) -> str | None:
        """What to say of a node that is being looked for, has said which versions it speaks, and shares none with us."""
        versions = None if self._collector is None else self._collector.protocol_versions
        return None if versions is None or shared_protocol(*versions) is not None else other_protocol(*versions)

    # ---- for subclasses

    def _discover(self) -> None:
        """Look for the node; `_identified` is called when it has said everything."""
        self._out.clear()
        self._request = None
        self.is_put_off = False
        self._collector = IdentityCollector(self._position)
        self._tries_left = self._timing.discover_tries
        self._hurries_left = _HURRIES
        self._handed_out_ns = None
        self._timeout_ns = self._timing.discover_timeout_ns
        self._queue(self._collector.request())

    def _send_request(self, request: Request, *, after: list[CanFrame] | None = None) -> None:
        """Send *request*, behind the data frames *after* if given, and wait for its answer.

        What is still queued belongs to the request before, whose late answer has just come: it is stale.
        """
        self._out.clear()
        self._request = request
        self._tries_left = self.reply_tries
        self._pending_left = self._timing.pending_max
        self._hurries_left = _HURRIES
        self._handed_out_ns = None
        self._timeout_ns = self._reply_timeout_ns(after)
        self._deadline_ns = None
        self._spacing_ns = 0
        if after:
            self._out.extend(after)
        self._queue(request)

    def _reply_timeout_ns(self, after: list[CanFrame] | None) -> int:
        """How long the first answer may take: less in a broadcast, where others wait for it, if this node has answered quickly."""
        timing = self._timing
        if not self._is_in_company or self._first_reply_ns is None:
            return timing.reply_timeout_ns
        usual_ns = _USUAL * self._first_reply_ns + timing.frame_timeout_ns * len(after or ())
        return min(timing.reply_timeout_ns, max(timing.report_late_ns, usual_ns))

    def _command(self, command: NodeCommand, *, raise_counter: bool = False) -> Request:
        """A command with the next tag, meant for the boot that was discovered."""
        node = self.node
        assert node is not None
        return Request(
            self._position,
            command,
            self._next_tag(),
            boot_id=node.boot_id,
            raise_counter=int(raise_counter),
            protocol=shared_protocol(node.protocol_version_min, node.protocol_version) or PROTOCOL_VERSION,
        )

    def _next_tag(self) -> int:
        self._tag = self._tag % _TAG_MAX + 1
        return self._tag

    def _queue(self, request: Request) -> None:
        self._out.append(self._wire.serialize(request))

    def _repeat(self) -> None:
        assert self._request is not None
        self._missing.clear()
        if not (self._is_in_company and self._hurries_left):
            longer_ns = max(2 * self._timeout_ns, self._timing.reply_timeout_ns)
            self._timeout_ns = min(longer_ns, self._timing.reply_timeout_ns_max)
        self._queue(self._request)

    @property
    def reply_tries(self) -> int:
        """How often a request is sent: in a broadcast, where the others wait, first a few times quickly, then as often as to one node."""
        return self._timing.reply_tries + (_HURRIES if self._is_in_company else 0)

    @property
    def sends_data(self) -> bool:
        """Whether data frames go before the request under way. They carry no address: no other exchange may send others meanwhile."""
        return self._request is not None and bool(self._request.frames) and not self.finished

    @property
    def has_data_waiting(self) -> bool:
        """Whether some of them are still to be sent."""
        return self.sends_data and len(self._out) > 1

    def _send_request_with_data(self, command: NodeCommand, data: bytes, *, is_there: bool = False) -> None:
        """Send *data* as data frames and *command* behind them; the command alone if *is_there*: they have gone to the node already."""
        frames = self._wire.data_frames(data)
        filled = data + b"\xff" * (-len(data) % self._wire.data_bytes)
        self._sent_frames = frames
        self._rounds_left = self._timing.rounds_max
        self._missing.clear()
        request = Request(self._position, command, self._next_tag(), frames=len(frames), crc32=crc32(filled))
        self._send_request(request, after=None if is_there else frames)

    def _frames_missing(self, reply: BitmapReply, now_ns: int) -> None:
        """Collect the bitmaps of all segments, then send what they name and repeat the request."""
        request = self._request
        # A bitmap that comes while frames are still going out is about an earlier round.
        if request is None or not request.frames or self._out or not reply.total:
            return
        self._missing[reply.segment] = reply.bitmap
        if sum(bitmap.bit_count() for bitmap in self._missing.values()) < reply.total:
            return
        frames = [
            self._sent_frames[index]
            for segment, bitmap in sorted(self._missing.items())
            for bit in range(SEGMENT_FRAMES)
            if bitmap >> bit & 1 and (index := segment * SEGMENT_FRAMES + bit) < len(self._sent_frames)
        ]
        self._missing.clear()
        self._rounds_left -= 1
        if not self._rounds_left:
            self._interrupt(f"{request.command.name}: still incomplete after {self._timing.rounds_max} rounds")
            return
        self._frames_repeated(len(frames))
        self._send_request(request, after=frames)
        rounds = self._timing.rounds_max - self._rounds_left
        if rounds > 1:
            # A node that is still busy with the request when the first frame comes would miss it each time.
            self._spacing_ns = min(self._timing.spacing_ns_min << rounds, self._timing.spacing_ns_max)
            self._burst_due_ns = now_ns + self._spacing_ns

    # ---- security access

    def _needs_access(self) -> bool:
        """Whether the node must be unlocked before it does more."""
        assert self.node is not None
        return Capability.SECURITY_ACCESS in self.node.capabilities and not self.node.is_unlocked

    def _named(self) -> str:
        """The node, so that it is clear for which of several a key is needed."""
        assert self.node is not None
        return f"node {self._position} ({self.node.hwid})"

    def _unlock(self) -> None:
        """Ask for a challenge and answer it; `_unlocked` is called when the node is satisfied."""
        assert self.node is not None
        if self._access_signer is None:
            self._refuse(FailureCause.ACCESS_NEEDED, f"{self._named()} is locked and no access key was given")
            return
        self._access_waits_left = self._timing.access_waits_max
        self._request_challenge()

    def _request_challenge(self) -> None:
        self._challenge.clear()
        self._send_request(self._command(NodeCommand.REQUEST_CHALLENGE))

    def _access_answered(self, request: Request, reply: Reply, now_ns: int) -> None:
        if isinstance(reply, PartReply) and reply.kind in _CHALLENGE_PARTS:
            self._challenge[reply.kind] = reply.data
            return
        if not isinstance(reply, ResultReply) or (reply.tag, reply.command) != (request.tag, request.command):
            return
        self.is_put_off = reply.code == ResultCode.ACCESS_WAIT
        if reply.code == ResultCode.OK and request.command is NodeCommand.UNLOCK:
            self._unlocked()
        elif reply.code == ResultCode.OK and len(self._challenge) == len(_CHALLENGE_PARTS):
            challenge = b"".join(self._challenge[kind] for kind in _CHALLENGE_PARTS)[:CHALLENGE_BYTES]
            assert self.node is not None
            assert self._access_signer is not None
            signature = answer_challenge(self._access_signer, challenge, self.node.hwid)
            self._send_request_with_data(NodeCommand.UNLOCK, signature)
        elif reply.code in {ResultCode.OK, ResultCode.ACCESS_WAIT}:
            self._request_challenge_again(reply, now_ns)
        elif reply.code == ResultCode.ACCESS_DENIED:
            self._refuse(
                FailureCause.ACCESS_DENIED, f"{self._named()}: expected a signature by a key it knows, got another one"
            )
        else:
            self._bad_result(reply)

    def _request_challenge_again(self, reply: ResultReply, now_ns: int) -> None:
        """A part of the challenge was lost, or the node wants us to wait."""
        must_wait = self.is_put_off
        self._access_waits_left -= 1
        if self._access_waits_left:
            self._request_challenge()
            if must_wait:
                self._burst_due_ns = now_ns + min(reply.detail * _MS, self._timing.access_wait_ns_max)
            return
        tries = f"{self._timing.access_waits_max} tries"
        if must_wait:
            detail = f"{self._named()}: no challenge in {tries}, but a pause of {reply.detail} ms more"
            self._refuse(FailureCause.ACCESS_DENIED, detail)
        else:
            self._interrupt(f"{self._named()}: the challenge stayed incomplete in {tries}")

    def _bad_result(self, reply: ResultReply) -> None:
        """A result that is not OK ends the exchange or interrupts it."""
        name = _name(reply.command)
        try:
            code = ResultCode(reply.code)
        except ValueError:
            self._refuse(FailureCause.REFUSED, f"{name}: expected a known result, got {reply.code}")
            return
        cause = CAUSE_OF_RESULT.get(code)
        if cause is FailureCause.ACCESS_NEEDED and self._access_signer is not None:
            cause = None  # It was open when it was found: its lock has closed meanwhile, and we can open it again.
        if cause is None:
            self._interrupt(f"{name}: {code.name}")
        else:
            self._refuse(cause, f"{name}: {code.name}")

    def _extend(self, reply: PendingReply, now_ns: int) -> None:
        request = self._request
        if request is None or (reply.tag, reply.command) != (request.tag, request.command) or not self._pending_left:
            return
        self._pending_left -= 1
        self._hurries_left, self._hurried_ns = 0, None
        if not self._out:
            self._deadline_ns = now_ns + reply.wait_ms * _MS + self._timeout_ns

    def _finish(self, event: EventT) -> None:
        self._events.append(event)
        self.finished = True
        self._out.clear()
        self._deadline_ns = None

    def _frames_repeated(self, frames: int) -> None:
        """This many data frames before a request are sent again."""

    @abstractmethod
    def _refuse(self, cause: FailureCause, detail: str) -> None:
        """The node says no, or we do."""

    @abstractmethod
    def _interrupt(self, detail: str) -> None:
        """The node has lost its place; look for it again, boundedly."""

    @abstractmethod
    def _unlocked(self) -> None:
        """The node has granted security access."""

    @abstractmethod
    def _identified(self, node: NodeDescription, now_ns: int) -> None:
        """The node has said everything of itself."""

    @abstractmethod
    def _answered(self, reply: Reply, now_ns: int) -> None:
        """A reply came while a request is under way; whether it belongs to it is for the subclass to see."""

    @abstractmethod
    def _unanswered(self, now_ns: int) -> None:
        """The tries are used up, of the request or, without one, of the search."""


def _name(command: int) -> str:
    """A command's name, of a reply that may come from a newer node."""
    names: dict[int, str] = {int(known): known.name for known in NodeCommand}
    return names.get(command, str(command))
