"""The node's side of the bootloader, on a `BootStore`.

The states in characters; the table below is what runs::

    APPLICATION --ENTER_BOOTLOADER--> BOOTLOADER --BEGIN_TRANSFER--> RECEIVING --CHECK_BLOCK--+
        ^  ^                            |   ^                          |  |  ^                |
        |  +------LEAVE_BOOTLOADER------+   +------FINISH_TRANSFER-----+  |  +----------------+
        +---------LEAVE_BOOTLOADER (or a minute of silence)---------------+
    any of them --RESET--> RESTARTING: the driver gets `ResetRequested` and makes a new store and a new target

A node with a boot window (`TargetTiming.boot_window_ns`) begins in BOOTLOADER: unless EnterBootloader comes it goes to APPLICATION
when the window is over, and the driver gets `ApplicationStarted`. Until then Confirm is answered with Pending: an image that
has not run yet has not proved itself.

Strategy. A command is done once: its tag is remembered, and a repetition gets the same answer without being done again.
A tag older than the newest is a late duplicate and is ignored. A restart forgets the tags; so that a Reset repeated
because its answer was lost does not restart the node again (an image in test would be reverted), commands carry the
node's boot id, which changes with every boot that changed anything.

Data frames before a command (the offer record, a signature) are collected by their index; those of the image go to a
`TargetStream` from the first OpenBlock on. A block is stored when it and all before it are complete and their CRCs right.

Time. The store writes at once and says how long a real flash would have been busy. A report waits until no more than a few
complete blocks are still to be programmed, so that programming overlaps reception, as in a node with that many more buffers;
results of commands wait for their own flash work. A power cut raised by the flash driver passes through:
this object and its store are then worthless, like a node without power.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING
from zlib import crc32

from bmsota.boot import BootReason
from bmsota.bootloader._messages import (
    ALL_NODES,
    BLOCK_FRAMES_MAX,
    DATA_BYTES,
    DIGEST_PART_BYTES,
    DIGEST_PARTS,
    OFFER_BLOCK,
    PROTOCOL_VERSION,
    PROTOCOL_VERSION_MIN,
    WINDOW_BLOCKS_MAX,
    BitmapReply,
    BuildReply,
    CounterReply,
    DigestReply,
    LimitsReply,
    PartReply,
    PendingReply,
    Reply,
    ReplyKind,
    ReportReply,
    Request,
    ResultReply,
    StatusReply,
    VersionReply,
)
from bmsota.bootloader._offer import OFFER_BYTES, Offer
from bmsota.bootloader._target_stream import MISSING_TOTAL_MAX, TargetStream
from bmsota.bootloader._timing import TargetTiming
from bmsota.compression import LOOKAHEAD_BITS, WINDOW_BITS
from bmsota.errors import ConfigurationError, ImageError
from bmsota.image import ImageVersion
from bmsota.node import (
    IMAGE_SHA256_BYTES,
    SIGNATURE_BYTES,
    SLOT_SIZE_KIB_MAX,
    AccessDenied,
    AccessGranted,
    ApplicationStarted,
    BlockStored,
    BootloaderEntered,
    BootloaderLeft,
    Capability,
    NodeCommand,
    NodeMode,
    NodeRefusedError,
    NodeStaging,
    RepliesDropped,
    ResetRequested,
    ResultCode,
    TargetEvent,
    count_event,
    running_image_sha256,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bmsota.boot import BootResult, BootStore
    from bmsota.bootloader._wire import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.node import AccessGuard, TargetIdentity


_MS = 1_000_000
_NO_SLOT = 3
_PART_BYTES = 7
_PENDING_MS_MAX = 0xFFFF
# Replies waiting for the flash or the bus. One request is under way at a time; repetitions of it are not queued twice. A bus
# gone mad must not fill the memory all the same.
_REPLIES_MAX = 128
# Complete blocks still to be programmed when a report is given: the buffers a node has beside its window.
_BLOCKS_TO_PROGRAM_MAX = 2
# What is written at once is a multiple of this: the largest write unit in use (STM32H7: 32 bytes).
_WRITE_BYTES = 32

_S, _C = NodeMode, NodeCommand

TARGET_TRANSITIONS: Mapping[tuple[NodeMode, NodeCommand], NodeMode] = {
    (_S.APPLICATION, _C.ENTER_BOOTLOADER): _S.BOOTLOADER,
    (_S.APPLICATION, _C.LEAVE_BOOTLOADER): _S.APPLICATION,
    (_S.APPLICATION, _C.ACTIVATE_TEST): _S.APPLICATION,
    (_S.APPLICATION, _C.CONFIRM): _S.APPLICATION,
    (_S.APPLICATION, _C.REVERT): _S.APPLICATION,
    (_S.APPLICATION, _C.RESET): _S.RESTARTING,
    (_S.APPLICATION, _C.REQUEST_CHALLENGE): _S.APPLICATION,
    (_S.APPLICATION, _C.UNLOCK): _S.APPLICATION,
    (_S.BOOTLOADER, _C.ENTER_BOOTLOADER): _S.BOOTLOADER,
    (_S.BOOTLOADER, _C.LEAVE_BOOTLOADER): _S.APPLICATION,
    (_S.BOOTLOADER, _C.BEGIN_TRANSFER): _S.RECEIVING,
    (_S.BOOTLOADER, _C.ACTIVATE_TEST): _S.BOOTLOADER,
    (_S.BOOTLOADER, _C.CONFIRM): _S.BOOTLOADER,
    (_S.BOOTLOADER, _C.REVERT): _S.BOOTLOADER,
    (_S.BOOTLOADER, _C.RESET): _S.RESTARTING,
    (_S.BOOTLOADER, _C.REQUEST_CHALLENGE): _S.BOOTLOADER,
    (_S.BOOTLOADER, _C.UNLOCK): _S.BOOTLOADER,
    (_S.RECEIVING, _C.ENTER_BOOTLOADER): _S.BOOTLOADER,
    (_S.RECEIVING, _C.LEAVE_BOOTLOADER): _S.APPLICATION,
    (_S.RECEIVING, _C.BEGIN_TRANSFER): _S.RECEIVING,
    (_S.RECEIVING, _C.OPEN_BLOCK): _S.RECEIVING,
    (_S.RECEIVING, _C.CHECK_BLOCK): _S.RECEIVING,
    (_S.RECEIVING, _C.FINISH_TRANSFER): _S.BOOTLOADER,
    (_S.RECEIVING, _C.ACTIVATE_TEST): _S.RECEIVING,
    (_S.RECEIVING, _C.CONFIRM): _S.RECEIVING,
    (_S.RECEIVING, _C.REVERT): _S.RECEIVING,
    (_S.RECEIVING, _C.RESET): _S.RESTARTING,
    (_S.RECEIVING, _C.REQUEST_CHALLENGE): _S.RECEIVING,
    (_S.RECEIVING, _C.UNLOCK): _S.RECEIVING,
}
"""(state, command) -> state once the command has succeeded; a command that is refused leaves the state. What is not here
is answered WRONG_STATE. DISCOVER is answered in every state but RESTARTING and changes none. A node without a bootable
image starts in BOOTLOADER and refuses LEAVE_BOOTLOADER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetLimits:
    """What a node can do and hold; RAM, mostly.

    Raises:
        ConfigurationError: a figure is not in its range.
    """

    block_frames_max: int = BLOCK_FRAMES_MAX
    window_blocks: int = 24
    """Blocks of 8-byte frames while one of them is incomplete: 12 KiB."""
    window_blocks_fd: int = 5
    """Blocks of 64-byte frames: 20 KiB, so that four are sent between two reports and one while a report is on its way. Counts if the node's
    wire is one of CAN FD."""
    takes_broadcast: bool = True
    takes_compression: bool = True
    """1 KiB for the window."""
    says_image_digest: bool = True
    """False: as a node made before the digest became part of the discovery."""

    def __post_init__(self) -> None:
        if not 0 < self.block_frames_max <= BLOCK_FRAMES_MAX:
            raise ConfigurationError(f"block: expected 1 to {BLOCK_FRAMES_MAX} frames, got {self.block_frames_max}")
        for name in ("window_blocks", "window_blocks_fd"):
            if not 0 < getattr(self, name) <= WINDOW_BLOCKS_MAX:
                raise ConfigurationError(f"{name}: expected 1 to {WINDOW_BLOCKS_MAX}, got {getattr(self, name)}")


_WITH_DATA = frozenset({NodeCommand.BEGIN_TRANSFER, NodeCommand.UNLOCK})
"""What comes with data frames has no room for a boot id: the frames themselves are gone after a restart."""

_ACCESS_WANTED = frozenset(
    {NodeCommand.BEGIN_TRANSFER, NodeCommand.ACTIVATE_TEST, NodeCommand.CONFIRM, NodeCommand.REVERT}
)
"""What a node with security access does for those only who have it: whatever erases a slot or changes which one runs."""


_RESULT_AT_FINISH: Mapping[ResultCode, ResultCode] = {
    ResultCode.NOTHING_TO_DO: ResultCode.WRONG_STATE,
    ResultCode.WRONG_HARDWARE: ResultCode.NOT_TRUSTED,
    ResultCode.COUNTER_TOO_LOW: ResultCode.NOT_TRUSTED,
}
"""Where FINISH_TRANSFER answers with another code than the staging gives: the offer had the right ones, the image has not."""


class BootloaderTarget:
    """One node. Make it after `store.boot()`, with what that returned; make a new one after every restart."""

    def __init__(
        self,
        wire: BootloaderWire,
        *,
        identity: TargetIdentity,
        store: BootStore,
        boot: BootResult,
        timing: TargetTiming | None = None,
        limits: TargetLimits | None = None,
        access: AccessGuard | None = None,
        is_locked: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the parts of a node.

        Args:
            wire: the bootloader's frames.
            identity: who the node is.
            store: its slots and journal.
            boot: what `store.boot()` returned.
            timing: the node's habits.
            limits: what it can do and hold.
            access: its lock, made anew at every boot; None: the node is open to everyone on the bus.
            is_locked: while true another upgrade has the store (a master's own updater): every command but DISCOVER is
                answered IN_USE. Must stay false while a session is open.
        """
        self._wire = wire
        self._identity = identity
        self._store = store
        self._boot = boot
        self._timing = timing or TargetTiming()
        self._limits = limits or TargetLimits()
        self._access = access
        self._is_locked = is_locked
        self._boot_id = store.journal_sequence % 256
        self._can_run = boot.reason is not BootReason.NOTHING
        self._is_in_window = self._can_run and self._timing.boot_window_ns > 0
        self._window_ends_ns: int | None = None
        starts = self._can_run and not self._is_in_window
        self.state = NodeMode.APPLICATION if starts else NodeMode.BOOTLOADER
        self._request_id = wire.request_id
        self._data_id = wire.data_id
        self._data_id_end = wire.data_id + BLOCK_FRAMES_MAX
        self._is_listening = not self._can_run  # for data frames
        self._is_extended_id = wire.is_extended_id
        self._frame_sizes = {DATA_BYTES, wire.data_bytes}
        self._buffer: list[bytes | None] = [None] * BLOCK_FRAMES_MAX
        self._events: deque[TargetEvent] = deque()
        self._staging = staging = NodeStaging(store, identity, self._events.append, write_bytes=_WRITE_BYTES)
        self._offer: Offer | None = None
        self._ended_by = ResultCode.WRONG_STATE
        """What the blocks of a stream are answered with when there is no offer: why it ended, until the next one begins."""
        self._stream: TargetStream | None = None
        self._programmed_ns: deque[int] = deque(maxlen=_BLOCKS_TO_PROGRAM_MAX + 1)
        self._last_tag = 0
        self._last_result: ResultReply | None = None
        self._last_heard_ns = 0
        self._now_ns = 0  # of the command that is being done
        self._busy_until_ns = 0
        self._replies: deque[tuple[int, CanFrame]] = deque()
        self._restart_due_ns: int | None = None
        self._actions: Mapping[NodeCommand, Callable[[Request], None]] = {
            NodeCommand.ENTER_BOOTLOADER: self._enter,
            NodeCommand.LEAVE_BOOTLOADER: self._leave,
            NodeCommand.BEGIN_TRANSFER: self._begin,
            NodeCommand.FINISH_TRANSFER: self._finish,
            NodeCommand.ACTIVATE_TEST: lambda _request: staging.request_test(),
            NodeCommand.CONFIRM: lambda request: staging.confirm(raise_counter=bool(request.raise_counter)),
            NodeCommand.REVERT: lambda _request: staging.revert(),
            NodeCommand.RESET: self._reset,
            NodeCommand.REQUEST_CHALLENGE: self._give_challenge,
            NodeCommand.UNLOCK: self._unlock,
        }

    # ---- the driver's side

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """Take a frame from the bus; anything not for this node is ignored."""
        can_id = frame.can_id
        # The data path, millions of times: nothing here but keeping the bytes at their place.
        if self._data_id <= can_id < self._data_id_end:
            if self._is_listening and frame.is_extended_id is self._is_extended_id:
                stream = self._stream
                if stream is None:
                    if len(frame.data) in self._frame_sizes:
                        self._buffer[can_id - self._data_id] = frame.data
                elif len(frame.data) == stream.data_bytes:
                    stream.receive(can_id - self._data_id, frame.data)
                self._last_heard_ns = now_ns
            return
        if can_id != self._request_id or self.state is NodeMode.RESTARTING:
            return
        self._watch_window(now_ns)
        request = self._wire.parse(frame)
        if not isinstance(request, Request) or not self._is_addressed(request.node):
            return
        self._last_heard_ns = now_ns
        if request.command is NodeCommand.DISCOVER:
            self._describe(request.tag, now_ns)
        elif request.command is NodeCommand.CHECK_BLOCK:
            self._check_block(request, now_ns)
        elif request.command is NodeCommand.OPEN_BLOCK:
            self._open_block(request)
        else:
            self._do_once(request, now_ns)

    def _is_addressed(self, node: int) -> bool:
        if node in {self._identity.position, ALL_NODES}:
            return True
        return self._offer is not None and node == self._offer.group

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        """The replies that are due, in this order."""
        replies = self._replies
        frames: list[CanFrame] = []
        while replies and replies[0][0] <= now_ns:
            frames.append(replies.popleft()[1])
        return frames

    def next_event(self) -> TargetEvent | None:
        """The oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> int | None:
        """When `frames_to_send` and `handle_timeout` want to be called at the latest; None: only after a frame."""
        due = [self._replies[0][0]] if self._replies else []
        if self._is_in_window:
            due.append(self._window_ends_ns or 0)
        if self._restart_due_ns is not None:
            due.append(self._restart_due_ns)
        elif self._session_is_open():
            due.append(self._last_heard_ns + self._timing.session_timeout_ns)
        return min(due, default=None)

    def handle_timeout(self, now_ns: int) -> None:
        """Act on the time; no effect before `next_timeout`."""
        self._watch_window(now_ns)
        if self._restart_due_ns is not None:
            if now_ns >= self._restart_due_ns:
                self._restart_due_ns = None
                self._events.append(ResetRequested())
        elif self._session_is_open() and now_ns >= self._last_heard_ns + self._timing.session_timeout_ns:
            self._leave_session()

    @property
    def is_in_boot_window(self) -> bool:
        """Whether the node is listening after its boot and its application has not started yet."""
        return self._is_in_window

    def _watch_window(self, now_ns: int) -> None:
        """The boot window counts from the first moment we hear of."""
        if not self._is_in_window:
            return
        if self._window_ends_ns is None:
            self._window_ends_ns = now_ns + self._timing.boot_window_ns
        if now_ns >= self._window_ends_ns:
            self._start_application()

    def _start_application(self) -> None:
        self._is_in_window = False
        self.state = NodeMode.APPLICATION
        self._events.append(ApplicationStarted())

    @property
    def wants_data(self) -> bool:
        """Whether the flasher's data frames matter now; a node's acceptance filter may keep them away when they do not."""
        return self._is_listening

    def _session_is_open(self) -> bool:
        """Whether a flasher that has gone would leave something open: the bootloader, the lock, or an ear for a signature."""
        if self._access is not None and self._access.is_unlocked:
            return True
        if not self._can_run or self._is_in_window:
            return False
        return self._is_listening or self.state in {NodeMode.BOOTLOADER, NodeMode.RECEIVING}

    # ---- commands

    def _do_once(self, request: Request, now_ns: int) -> None:
        if request.command not in _WITH_DATA and request.boot_id != self._boot_id:
            self._refuse(request, ResultCode.WRONG_STATE, now_ns)  # Not done, so its tag is not remembered.
            return
        if request.tag == self._last_tag and self._last_result is not None:
            if request.command == self._last_result.command:
                if request.command is NodeCommand.REQUEST_CHALLENGE and self._last_result.code == ResultCode.OK:
                    self._reply_challenge(now_ns)
                self._answer_again(self._last_result, now_ns)
            return
        if not request.tag or (self._last_tag and (request.tag - self._last_tag) % 255 > 127):
            return  # A straggler: older than what has been done.
        if self._is_in_window and request.command is NodeCommand.CONFIRM:
            # Not done, so its tag is not remembered: it is repeated when the application runs.
            self._announce_until(request, self._window_ends_ns or now_ns, now_ns)
            return
        after = TARGET_TRANSITIONS.get((self.state, request.command))
        self._now_ns = now_ns
        try:
            if self._is_locked():
                raise NodeRefusedError(ResultCode.IN_USE)  # noqa: TRY301  One place makes the answer of a refusal.
            if after is None or (self._is_in_window and request.command is NodeCommand.BEGIN_TRANSFER):
                raise NodeRefusedError(ResultCode.WRONG_STATE)  # noqa: TRY301
            if self._access is not None and request.command in _ACCESS_WANTED and not self._access.is_unlocked:
                raise NodeRefusedError(ResultCode.ACCESS_NEEDED)  # noqa: TRY301
            if request.command in _WITH_DATA:
                if not self._is_listening:
                    # After a restart, most likely: what went before the command was not heard, nor would a repetition be.
                    raise NodeRefusedError(ResultCode.WRONG_STATE)  # noqa: TRY301
                if self._report_missing(request, now_ns):
                    return
            self._actions[request.command](request)
            code, detail = ResultCode.OK, 0
            if request.command is NodeCommand.BEGIN_TRANSFER:
                detail = self._staging.offset
            self.state = after
        except NodeRefusedError as refusal:
            code, detail = refusal.code, refusal.number
        self._last_tag = request.tag
        self._last_result = ResultReply(self._identity.position, request.tag, request.command, code, detail)
        verify_ns = self._timing.verify_ns if request.command is NodeCommand.FINISH_TRANSFER else 0
        due_ns = max(now_ns, self._busy_until_ns) + self._store.take_busy_ns() + verify_ns
        self._busy_until_ns = due_ns
        self._announce(request, due_ns, now_ns)
        self._reply(self._last_result, due_ns)
        if code is ResultCode.OK and request.command is NodeCommand.RESET:
            self._restart_due_ns = due_ns + self._timing.restart_delay_ns

    def _enter(self, request: Request) -> None:
        if not PROTOCOL_VERSION_MIN <= request.protocol <= PROTOCOL_VERSION:
            raise NodeRefusedError(ResultCode.WRONG_PROTOCOL)
        if self.state is NodeMode.APPLICATION or self._is_in_window:
            self._events.append(BootloaderEntered())
        self._is_in_window = False
        self._is_listening = True
        self._offer = None  # Blocks that go to others of its group are none of our business until the next offer.
        self._close_stream()
        self._clear_buffer()

    def _leave(self, request: Request) -> None:  # noqa: ARG002
        if not self._can_run:
            raise NodeRefusedError(ResultCode.WRONG_STATE)
        self._leave_session()

    def _leave_session(self) -> None:
        """The flasher is done or gone: the lock closes, and who can run an application goes back to it."""
        self._offer = None
        self._close_stream()
        if self._access is not None:
            self._access.lock()
        if not self._can_run:
            self.state = NodeMode.BOOTLOADER
            return
        self._is_listening = False
        if self._is_in_window:
            self._start_application()
        elif self.state is not NodeMode.APPLICATION:
            self.state = NodeMode.APPLICATION
            self._events.append(BootloaderLeft())

    def _begin(self, request: Request) -> None:
        # `_report_missing` has found all frames and their CRC right.
        self._ended_by = ResultCode.WRONG_STATE
        self._offer = self._staging.begin(self._taken(request.frames), Offer.parse, self._can_take)
        self._close_stream()

    def _can_take(self, offer: Offer) -> bool:
        """Whether the stream has a form that this node takes."""
        can_decompress = (offer.window_bits, offer.lookahead_bits) in (
            {(0, 0), (WINDOW_BITS, LOOKAHEAD_BITS)} if self._limits.takes_compression else {(0, 0)}
        )
        can_take_frames = offer.block_frames <= self._limits.block_frames_max and (self._wire.is_fd or not offer.is_fd)
        return can_take_frames and can_decompress

    def _finish(self, request: Request) -> None:  # noqa: ARG002
        staging, offer = self._staging, self._offer
        if offer is None:
            raise NodeRefusedError(ResultCode.WRONG_STATE)
        if staging.offset != offer.size_bytes:
            raise NodeRefusedError(ResultCode.INCOMPLETE, f"expected {offer.size_bytes} bytes, got {staging.offset}")
        self._offer = None  # Whatever comes out, this transfer is over.
        self._close_stream()
        try:
            staging.finish()
        except NodeRefusedError as refusal:
            raise NodeRefusedError(_RESULT_AT_FINISH.get(refusal.code, refusal.code), str(refusal)) from refusal

    def _reset(self, request: Request) -> None:  # noqa: ARG002
        self._is_listening = self._is_in_window = False

    # ---- security access

    def _give_challenge(self, request: Request) -> None:  # noqa: ARG002
        if self._access is None:
            raise NodeRefusedError(ResultCode.NOTHING_TO_DO)
        if self._access.challenge(self._now_ns) is None:
            raise NodeRefusedError(ResultCode.ACCESS_WAIT, number=self._access.wait_ms(self._now_ns))
        self._reply_challenge(self._now_ns)
        if not self._is_listening:
            # The signature comes as data frames, also to an application: that is where an image in test is confirmed.
            self._is_listening = True
            self._clear_buffer()

    def _reply_challenge(self, now_ns: int) -> None:
        assert self._access is not None
        challenge = self._access.challenge(now_ns)
        if challenge is not None:
            self._reply_parts(ReplyKind.CHALLENGE_0, 3, challenge, now_ns)

    def _unlock(self, request: Request) -> None:
        signature = self._taken(request.frames)[:SIGNATURE_BYTES]
        self._is_listening = self.state is not NodeMode.APPLICATION
        if self._access is None:
            raise NodeRefusedError(ResultCode.NOTHING_TO_DO)
        if not self._access.verify(signature, self._identity.hwid, self._now_ns):
            self._events.append(AccessDenied())
            raise NodeRefusedError(ResultCode.ACCESS_DENIED)
        self._events.append(AccessGranted())

    # ---- blocks

    def _open_block(self, request: Request) -> None:
        """The data frames that follow are those of a block. There is no answer: what is missed shows at the check."""
        offer = self._offer
        if (self.state, NodeCommand.OPEN_BLOCK) not in TARGET_TRANSITIONS or offer is None:
            return
        stream = self._stream
        if stream is None or request.offset != stream.offset:
            if stream is not None and stream.is_proven:
                return  # A straggler of an earlier stream, or a stray request: blocks of this one are coming in.
            self._begin_stream(offer, request.offset)
        if self._stream is not None:
            self._stream.open(request.tag, is_repair=bool(request.repair))

    def _begin_stream(self, offer: Offer, offset: int) -> None:
        """A stream begins at this place of the image: where this node resumes, or before."""
        self._close_stream()
        if offset > self._staging.offset:
            return  # Not for us: a gap would be left.
        window = self._limits.window_blocks_fd if offer.is_fd else self._limits.window_blocks
        self._stream = TargetStream(offer, offset, staging=self._staging, window_blocks=window)

    def _close_stream(self) -> None:
        self._stream = None
        self._staging.drop_held()

    def _check_block(self, request: Request, now_ns: int) -> None:
        position = self._identity.position
        offer, stream = self._offer, self._stream
        if (self.state, NodeCommand.CHECK_BLOCK) not in TARGET_TRANSITIONS or offer is None:
            self._refuse(request, self._ended_by, now_ns)
            return
        if stream is None:
            # No OpenBlock has come through yet: everything is missing.
            if request.report_wanted:
                self._reply(ReportReply(position, request.tag, 0, MISSING_TOTAL_MAX, self._staging.offset), now_ns)
            return
        if not 0 < request.frames <= offer.block_frames:
            self._refuse(request, ResultCode.INCOMPLETE, now_ns)
            return
        if not stream.check(request.tag, request.frames, request.crc32):
            return  # Not of this stream, as far as is known. Its sender retries.
        try:
            for offset in stream.stored():
                self._events.append(BlockStored(offset, offer.size_bytes))
                self._busy_until_ns = max(now_ns, self._busy_until_ns) + self._store.take_busy_ns()
                self._programmed_ns.append(self._busy_until_ns)
        except NodeRefusedError as refusal:
            # Another upgrade uses the store (a master's own updater), or the flash is worn: this leads nowhere. The flasher may
            # have sent more blocks already, and listens to the answer to the last.
            self._offer = None
            self._ended_by = refusal.code
            self._close_stream()
            self._refuse(request, refusal.code, now_ns)
            return
        except ImageError:
            # The compressed stream is none of this image; its decompressor stays broken until the next offer.
            self._refuse(request, ResultCode.DAMAGED, now_ns)
            return
        if request.report_wanted:
            self._report(request, stream, now_ns)

    def _report(self, request: Request, stream: TargetStream, now_ns: int) -> None:
        # Buffers first: the flasher sends more as soon as it has the report.
        programmed = self._programmed_ns
        due_ns = max(now_ns, programmed[0]) if len(programmed) > _BLOCKS_TO_PROGRAM_MAX else now_ns
        self._announce(request, due_ns, now_ns)
        missing, report = stream.report(self._identity.position, request.tag)
        for reply in missing:
            self._reply(reply, due_ns)
        self._answer_again(report, now_ns, due_ns)

    # ---- what goes before a command as data frames

    def _report_missing(self, request: Request, now_ns: int) -> bool:
        """Say which of the frames before the request are missing; false if all are there and their CRC is right."""
        frames, wire = request.frames, self._wire
        is_offer = request.command is NodeCommand.BEGIN_TRANSFER
        size, code = (OFFER_BYTES, ResultCode.BAD_OFFER) if is_offer else (SIGNATURE_BYTES, ResultCode.ACCESS_DENIED)
        possible = {-(-size // bytes_) for bytes_ in {DATA_BYTES, wire.data_bytes}}
        if frames not in possible:
            raise NodeRefusedError(code, f"expected {sorted(possible)} frames, got {frames}")
        buffer = self._buffer
        missing = [index for index in range(frames) if buffer[index] is None]
        if not missing:
            if crc32(b"".join(part for part in buffer[:frames] if part is not None)) == request.crc32:
                return False
            # Which frame is wrong is not known, so all are repeated.
            self._clear_buffer()
            missing = list(range(frames))
        bitmap = sum(1 << index for index in missing)
        self._reply(BitmapReply(self._identity.position, OFFER_BLOCK, 0, len(missing), bitmap), now_ns)
        return True

    def _taken(self, frames: int) -> bytes:
        data = b"".join(part for part in self._buffer[:frames] if part is not None)
        self._clear_buffer()
        return data

    def _clear_buffer(self) -> None:
        self._buffer[:] = [None] * BLOCK_FRAMES_MAX

    # ---- replies

    def _describe(self, echo: int, now_ns: int) -> None:
        identity, store, boot = self._identity, self._store, self._boot
        position = identity.position
        slot_a, slot_b = (slot.state for slot in store.slots)
        version = boot.facts.version if boot.facts is not None else ImageVersion()
        self._reply(
            StatusReply(
                position=position,
                echo=echo,
                last_tag=self._last_tag,
                protocol_version=PROTOCOL_VERSION,
                protocol_version_min=PROTOCOL_VERSION_MIN,
                role=int(identity.role),
                node_state=int(self.state),
                boot_reason=int(boot.reason),
                slot_a_state=int(slot_a),
                slot_b_state=int(slot_b),
                active_slot=_NO_SLOT if store.active_slot is None else store.active_slot,
                running_slot=_NO_SLOT if boot.slot is None else boot.slot,
                unlocked=int(self._access is not None and self._access.is_unlocked),
                block_frames_max=self._limits.block_frames_max,
            ),
            now_ns,
        )
        self._reply(VersionReply(position, echo, version.major, version.minor, version.revision), now_ns)
        self._reply(BuildReply(position, echo, version.build), now_ns)
        self._reply(CounterReply(position, echo, store.security_counter, self._boot_id), now_ns)
        limits = self._limits
        capabilities = Capability.NONE
        for capability, has in (
            (Capability.FD_DATA, self._wire.is_fd),
            (Capability.BROADCAST, limits.takes_broadcast),
            (Capability.COMPRESSION, limits.takes_compression),
            (Capability.SECURITY_ACCESS, self._access is not None),
            (Capability.IMAGE_DIGEST, limits.says_image_digest),
        ):
            if has:
                capabilities |= capability
        slot_size_kib = min(store.slot_size_bytes // 1024, SLOT_SIZE_KIB_MAX)
        window_fd = limits.window_blocks_fd if self._wire.is_fd else 0
        self._reply(
            LimitsReply(position, echo, int(capabilities), limits.window_blocks, window_fd, slot_size_kib), now_ns
        )
        self._reply_parts(ReplyKind.CLASS_0, 3, identity.hardware_class.class_id.bytes, now_ns)
        self._reply_parts(ReplyKind.HWID_0, 4, identity.hwid.encode(), now_ns)
        self._reply_parts(ReplyKind.SERIAL_0, 4, identity.serial.encode(), now_ns)
        digest = running_image_sha256(store, boot) or bytes(IMAGE_SHA256_BYTES)
        for part in range(DIGEST_PARTS if limits.says_image_digest else 0):
            piece = digest[part * DIGEST_PART_BYTES : (part + 1) * DIGEST_PART_BYTES]
            self._reply(DigestReply(position, echo, ReplyKind(ReplyKind.DIGEST_0 + part), piece), now_ns)

    def _reply_parts(self, first: ReplyKind, count: int, data: bytes, now_ns: int) -> None:
        for part in range(count):
            piece = data[part * _PART_BYTES : (part + 1) * _PART_BYTES]
            self._reply(PartReply(self._identity.position, ReplyKind(first + part), piece), now_ns)

    def _refuse(self, request: Request, code: ResultCode, now_ns: int) -> None:
        self._reply(ResultReply(self._identity.position, request.tag, request.command, code, 0), now_ns)

    def _announce(self, request: Request, due_ns: int, now_ns: int) -> None:
        """Announce to the client that the result takes long."""
        if due_ns - now_ns > self._timing.pending_threshold_ns:
            self._announce_until(request, due_ns, now_ns)

    def _announce_until(self, request: Request, due_ns: int, now_ns: int) -> None:
        wait_ms = min(-(-(due_ns - now_ns) // _MS), _PENDING_MS_MAX)
        self._reply(PendingReply(self._identity.position, request.tag, request.command, wait_ms), now_ns)

    def _answer_again(self, reply: Reply, now_ns: int, due_ns: int | None = None) -> None:
        """Answer, unless the same answer is still waiting for the flash: the request was repeated meanwhile."""
        frame = self._wire.serialize(reply)
        if all(frame != waiting for _, waiting in self._replies):
            self._reply(reply, now_ns if due_ns is None else due_ns)

    def _reply(self, reply: Reply, due_ns: int) -> None:
        if len(self._replies) >= _REPLIES_MAX:
            count_event(self._events, RepliesDropped)  # The client retries.
            return
        entry = (due_ns, self._wire.serialize(reply))
        replies = self._replies
        if replies and replies[-1][0] > due_ns:
            # Rare: an immediate reply overtakes one that waits for the flash.
            ordered = sorted([*replies, entry], key=lambda item: item[0])
            replies.clear()
            replies.extend(ordered)
        else:
            replies.append(entry)
