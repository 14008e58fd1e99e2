"""The node's side of the bootloader, on a `BootStore`.

The states in characters; the table below is what runs::

    APPLICATION --ENTER_BOOTLOADER--> BOOTLOADER --BEGIN_TRANSFER--> RECEIVING --CHECK_BLOCK--+
        ^  ^                            |   ^                          |  |  ^                |
        |  +------LEAVE_BOOTLOADER------+   +------FINISH_TRANSFER-----+  |  +----------------+
        +---------LEAVE_BOOTLOADER (or a minute of silence)---------------+
    any of them --RESET--> RESTARTING: the driver gets `ResetRequested` and makes a new store and a new target

Strategy. A command is done once: its tag is remembered, and a repetition gets the same answer without being done again.
A tag older than the newest is a late duplicate and is ignored. A restart forgets the tags; so that a Reset repeated
because its answer was lost does not restart the node again (an image on trial would be reverted), commands carry the
node's boot id, which changes with every boot that changed anything. Blocks are numbered; the block before the current one is
answered again (the answer was lost), any other is ignored.

Data frames are collected by their index; a second frame of the same index replaces the first, and the block's CRC decides
whether the right ones are there: a straggler of the block before costs a repetition, never a wrong byte.

Time. The store writes at once and says how long a real flash would have been busy. A block is accepted as soon as the
flash has finished the block before, so that programming overlaps the reception of the next block, as in a node with two
block buffers; results of commands wait for their own flash work. A power cut raised by the flash driver passes through:
this object and its store are then worthless, like a node without power.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, TypeVar
from zlib import crc32

from bmsota.boot import BootReason
from bmsota.bootloader._conversation import check_position
from bmsota.bootloader._events import (
    BlockStored,
    BootloaderEntered,
    BootloaderLeft,
    ImageConfirmed,
    ImageRefused,
    ImageReverted,
    ImageStaged,
    ResetRequested,
    StagingStarted,
    TargetEvent,
    TestRequested,
)
from bmsota.bootloader._messages import (
    ALL_NODES,
    BLOCK_FRAMES_MAX,
    BLOCK_NUMBERS,
    DATA_BYTES,
    HWID_BYTES_MAX,
    OFFER_BLOCK,
    PROTOCOL_VERSION,
    SEGMENT_FRAMES,
    AcceptedReply,
    BuildReply,
    Command,
    CounterReply,
    MissingReply,
    NodeState,
    PartReply,
    PendingReply,
    Reply,
    ReplyKind,
    Request,
    ResultCode,
    ResultReply,
    StatusReply,
    VersionReply,
)
from bmsota.bootloader._offer import OFFER_BYTES, Offer
from bmsota.bootloader._timing import TargetTiming
from bmsota.errors import ConfigurationError, ImageError, LocalProtocolError, TrustError
from bmsota.image import Attack, ImageVersion

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from bmsota.boot import BootResult, BootStore
    from bmsota.bootloader._wire import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.image import HardwareClass, ImageRole

__all__ = ["TARGET_TRANSITIONS", "BootloaderTarget", "TargetIdentity"]

T = TypeVar("T")

_MS = 1_000_000
_NO_SLOT = 3
_PART_BYTES = 7
_PENDING_MS_MAX = 0xFFFF
_OFFER_FRAMES = -(-OFFER_BYTES // DATA_BYTES)
# Replies waiting for the flash. One request is under way at a time; repetitions of it are not queued twice. A bus gone
# mad must not fill the memory all the same.
_REPLIES_MAX = 64

_S, _C = NodeState, Command

TARGET_TRANSITIONS: Mapping[tuple[NodeState, Command], NodeState] = {
    (_S.APPLICATION, _C.ENTER_BOOTLOADER): _S.BOOTLOADER,
    (_S.APPLICATION, _C.LEAVE_BOOTLOADER): _S.APPLICATION,
    (_S.APPLICATION, _C.ACTIVATE_TEST): _S.APPLICATION,
    (_S.APPLICATION, _C.CONFIRM): _S.APPLICATION,
    (_S.APPLICATION, _C.REVERT): _S.APPLICATION,
    (_S.APPLICATION, _C.RESET): _S.RESTARTING,
    (_S.BOOTLOADER, _C.ENTER_BOOTLOADER): _S.BOOTLOADER,
    (_S.BOOTLOADER, _C.LEAVE_BOOTLOADER): _S.APPLICATION,
    (_S.BOOTLOADER, _C.BEGIN_TRANSFER): _S.RECEIVING,
    (_S.BOOTLOADER, _C.ACTIVATE_TEST): _S.BOOTLOADER,
    (_S.BOOTLOADER, _C.CONFIRM): _S.BOOTLOADER,
    (_S.BOOTLOADER, _C.REVERT): _S.BOOTLOADER,
    (_S.BOOTLOADER, _C.RESET): _S.RESTARTING,
    (_S.RECEIVING, _C.ENTER_BOOTLOADER): _S.BOOTLOADER,
    (_S.RECEIVING, _C.LEAVE_BOOTLOADER): _S.APPLICATION,
    (_S.RECEIVING, _C.BEGIN_TRANSFER): _S.RECEIVING,
    (_S.RECEIVING, _C.CHECK_BLOCK): _S.RECEIVING,
    (_S.RECEIVING, _C.FINISH_TRANSFER): _S.BOOTLOADER,
    (_S.RECEIVING, _C.ACTIVATE_TEST): _S.RECEIVING,
    (_S.RECEIVING, _C.CONFIRM): _S.RECEIVING,
    (_S.RECEIVING, _C.REVERT): _S.RECEIVING,
    (_S.RECEIVING, _C.RESET): _S.RESTARTING,
}
"""(state, command) -> state once the command has succeeded; a command that is refused leaves the state. What is not here
is answered WRONG_STATE. DISCOVER is answered in every state but RESTARTING and changes none. A node without a bootable
image starts in BOOTLOADER and refuses LEAVE_BOOTLOADER."""


@dataclass(frozen=True, slots=True, kw_only=True)
class TargetIdentity:
    """Who a node is, burnt in at production.

    Raises:
        ConfigurationError: an id is no ASCII of 1 to 24 characters.
    """

    position: int
    role: ImageRole
    hwid: str
    serial: str
    hardware_class: HardwareClass

    def __post_init__(self) -> None:
        check_position(self.position)
        for name in ("hwid", "serial"):
            value = getattr(self, name)
            if not value.isascii() or not 1 <= len(value) <= HWID_BYTES_MAX:
                raise ConfigurationError(f"{name}: expected 1 to {HWID_BYTES_MAX} ASCII characters, got {value!r}")


class _RefusedError(Exception):
    """A command cannot be done; `code` is the answer."""

    def __init__(self, code: ResultCode, detail: str = "") -> None:
        super().__init__(detail or code.name)
        self.code = code
        self.detail = detail or code.name


def _guarded(action: Callable[[], T], code: ResultCode = ResultCode.NOTHING_TO_DO) -> T:
    """Do *action*; what the store does not allow now is a refusal with *code*."""
    try:
        return action()
    except LocalProtocolError as error:
        raise _RefusedError(code, str(error)) from error


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
        block_frames_max: int = BLOCK_FRAMES_MAX,
        is_locked: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the parts of a node.

        Args:
            wire: the bootloader's frames.
            identity: who the node is.
            store: its slots and journal.
            boot: what `store.boot()` returned.
            timing: the node's habits.
            block_frames_max: data frames it can buffer.
            is_locked: while true the store is somebody else's (a master's own updater): every command but DISCOVER is
                answered WRONG_STATE. Must stay false while a session is open.

        Raises:
            ConfigurationError: *block_frames_max* is out of range.
        """
        if not 0 < block_frames_max <= BLOCK_FRAMES_MAX:
            raise ConfigurationError(f"block: expected 1 to {BLOCK_FRAMES_MAX} frames, got {block_frames_max}")
        self._wire = wire
        self._identity = identity
        self._store = store
        self._boot = boot
        self._timing = timing or TargetTiming()
        self._block_frames_max = block_frames_max
        self._is_locked = is_locked
        self._boot_id = store.journal_sequence % 256
        self._can_run = boot.reason is not BootReason.NOTHING
        self.state = NodeState.APPLICATION if self._can_run else NodeState.BOOTLOADER
        self._request_id = wire.request_id
        self._data_id = wire.data_id
        self._data_id_end = wire.data_id + BLOCK_FRAMES_MAX
        self._is_listening = not self._can_run  # for data frames
        self._buffer: list[bytes | None] = [None] * BLOCK_FRAMES_MAX
        self._offer: Offer | None = None
        self._offset = 0
        self._block = 0
        self._blocks_done = 0
        self._last_tag = 0
        self._last_result: ResultReply | None = None
        self._last_heard_ns = 0
        self._busy_until_ns = 0
        self._replies: deque[tuple[int, CanFrame]] = deque()
        self._events: deque[TargetEvent] = deque()
        self._restart_due_ns: int | None = None
        self._actions: Mapping[Command, Callable[[Request], int]] = {
            Command.ENTER_BOOTLOADER: self._enter,
            Command.LEAVE_BOOTLOADER: self._leave,
            Command.BEGIN_TRANSFER: self._begin,
            Command.FINISH_TRANSFER: self._finish,
            Command.ACTIVATE_TEST: self._activate_test,
            Command.CONFIRM: self._confirm,
            Command.REVERT: self._revert,
            Command.RESET: self._reset,
        }

    # ---- the driver's side

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """Take a frame from the bus; anything not for this node is ignored."""
        can_id = frame.can_id
        # The data path, millions of times: nothing here but keeping the bytes at their place.
        if self._data_id <= can_id < self._data_id_end:
            if self._is_listening and len(frame.data) == DATA_BYTES and not frame.is_extended_id:
                self._buffer[can_id - self._data_id] = frame.data
                self._last_heard_ns = now_ns
            return
        if can_id != self._request_id or self.state is NodeState.RESTARTING:
            return
        request = self._wire.parse(frame)
        if not isinstance(request, Request) or request.node not in {self._identity.position, ALL_NODES}:
            return
        self._last_heard_ns = now_ns
        if request.command is Command.DISCOVER:
            self._describe(request.tag, now_ns)
        elif request.command is Command.CHECK_BLOCK:
            self._check_block(request, now_ns)
        else:
            self._do_once(request, now_ns)

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
        if self._restart_due_ns is not None:
            due.append(self._restart_due_ns)
        elif self._session_is_open():
            due.append(self._last_heard_ns + self._timing.session_timeout_ns)
        return min(due, default=None)

    def handle_timeout(self, now_ns: int) -> None:
        """Act on the time; no effect before `next_timeout`."""
        if self._restart_due_ns is not None:
            if now_ns >= self._restart_due_ns:
                self._restart_due_ns = None
                self._events.append(ResetRequested())
        elif self._session_is_open() and now_ns >= self._last_heard_ns + self._timing.session_timeout_ns:
            self._leave_session()

    def _session_is_open(self) -> bool:
        return self._can_run and self.state in {NodeState.BOOTLOADER, NodeState.RECEIVING}

    # ---- commands

    def _do_once(self, request: Request, now_ns: int) -> None:
        if request.command is not Command.BEGIN_TRANSFER and request.boot_id != self._boot_id:
            code = ResultCode.WRONG_STATE  # Not done, so its tag is not remembered.
            self._reply(ResultReply(self._identity.position, request.tag, request.command, code, 0), now_ns)
            return
        if request.tag == self._last_tag and self._last_result is not None:
            if request.command == self._last_result.command:
                self._answer_again(self._last_result, now_ns)
            return
        if not request.tag or (self._last_tag and (request.tag - self._last_tag) % 255 > 127):
            return  # A straggler: older than what has been done.
        after = TARGET_TRANSITIONS.get((self.state, request.command))
        detail = 0
        try:
            if after is None or self._is_locked():
                raise _RefusedError(ResultCode.WRONG_STATE)  # noqa: TRY301  One place makes the answer of a refusal.
            if request.command is Command.BEGIN_TRANSFER and self._report_missing(request, OFFER_BLOCK, now_ns):
                return
            detail = self._actions[request.command](request)
            code = ResultCode.OK
            self.state = after
        except _RefusedError as refusal:
            code = refusal.code
            if request.command in {Command.BEGIN_TRANSFER, Command.FINISH_TRANSFER}:
                self._events.append(ImageRefused(code, refusal.detail))
        self._last_tag = request.tag
        self._last_result = ResultReply(self._identity.position, request.tag, request.command, code, detail)
        verify_ns = self._timing.verify_ns if request.command is Command.FINISH_TRANSFER else 0
        due_ns = max(now_ns, self._busy_until_ns) + self._store.take_busy_ns() + verify_ns
        self._busy_until_ns = due_ns
        self._announce(request, due_ns, now_ns)
        self._reply(self._last_result, due_ns)
        if code is ResultCode.OK and request.command is Command.RESET:
            self._restart_due_ns = due_ns + self._timing.restart_delay_ns

    def _enter(self, request: Request) -> int:  # noqa: ARG002  One signature for the table.
        if self.state is NodeState.APPLICATION:
            self._events.append(BootloaderEntered())
        self._is_listening = True
        self._clear_buffer()
        return 0

    def _leave(self, request: Request) -> int:  # noqa: ARG002
        if not self._can_run:
            raise _RefusedError(ResultCode.WRONG_STATE)
        if self.state is not NodeState.APPLICATION:
            self._leave_session()
        return 0

    def _leave_session(self) -> None:
        self.state = NodeState.APPLICATION
        self._is_listening = False
        self._offer = None
        self._events.append(BootloaderLeft())

    def _begin(self, request: Request) -> int:
        # `_report_missing` has found all frames and their CRC right.
        data = self._taken(request.frames)
        try:
            offer = Offer.parse(data)
        except ImageError as error:
            raise _RefusedError(ResultCode.BAD_OFFER, str(error)) from error
        self._check_offer(offer)
        self._offset = _guarded(lambda: self._store.begin_staging(offer.size_bytes, offer.sha256))
        self._offer = offer
        self._block = 0
        self._blocks_done = 0
        self._events.append(StagingStarted(self._offset, offer.size_bytes))
        return self._offset

    def _check_offer(self, offer: Offer) -> None:
        """Everything that can be refused before the first erase."""
        store, identity = self._store, self._identity
        if offer.role != identity.role:
            raise _RefusedError(ResultCode.WRONG_ROLE, f"expected role {int(identity.role)}, got {offer.role}")
        if offer.class_id != identity.hardware_class.class_id:
            raise _RefusedError(
                ResultCode.WRONG_HARDWARE,
                f"expected hardware class {identity.hardware_class.class_id}, got {offer.class_id}",
            )
        if not 0 < offer.size_bytes <= store.slot_size_bytes:
            raise _RefusedError(
                ResultCode.TOO_LARGE, f"expected at most {store.slot_size_bytes} bytes, got {offer.size_bytes}"
            )
        if offer.security_counter < store.security_counter:
            raise _RefusedError(
                ResultCode.COUNTER_TOO_LOW,
                f"expected a security counter of at least {store.security_counter}, got {offer.security_counter}",
            )
        if store.is_test_pending:
            raise _RefusedError(ResultCode.TEST_PENDING)

    def _finish(self, request: Request) -> int:  # noqa: ARG002
        if self._offer is None:
            raise _RefusedError(ResultCode.WRONG_STATE)
        if self._offset != self._offer.size_bytes:
            raise _RefusedError(ResultCode.INCOMPLETE, f"expected {self._offer.size_bytes} bytes, got {self._offset}")
        self._offer = None  # Whatever comes out, this transfer is over.
        try:
            facts = _guarded(self._store.finish_staging, ResultCode.WRONG_STATE)
        except ImageError as error:
            raise _RefusedError(ResultCode.BAD_IMAGE, str(error)) from error
        except TrustError as error:
            damaged = error.attack == Attack.CORRUPTED_DATA
            raise _RefusedError(ResultCode.DAMAGED if damaged else ResultCode.NOT_TRUSTED, str(error)) from error
        self._events.append(ImageStaged(facts))
        return 0

    def _activate_test(self, request: Request) -> int:  # noqa: ARG002
        _guarded(self._store.request_test)
        self._events.append(TestRequested())
        return 0

    def _confirm(self, request: Request) -> int:
        raise_counter = bool(request.raise_counter)
        _guarded(lambda: self._store.confirm(raise_counter=raise_counter))
        self._events.append(ImageConfirmed())
        return 0

    def _revert(self, request: Request) -> int:  # noqa: ARG002
        try:
            _guarded(self._store.revert)
        except TrustError as error:
            raise _RefusedError(ResultCode.COUNTER_TOO_LOW, str(error)) from error
        self._events.append(ImageReverted())
        return 0

    def _reset(self, request: Request) -> int:  # noqa: ARG002
        self._is_listening = False
        return 0

    # ---- blocks

    def _check_block(self, request: Request, now_ns: int) -> None:
        position = self._identity.position
        offer = self._offer
        if (self.state, Command.CHECK_BLOCK) not in TARGET_TRANSITIONS or offer is None:
            code = ResultCode.WRONG_STATE
            self._reply(ResultReply(position, request.tag, request.command, code, 0), now_ns)
            return
        if self._blocks_done and request.tag == (self._block - 1) % BLOCK_NUMBERS:
            self._answer_again(AcceptedReply(position, request.tag, self._offset), now_ns)
            return
        if request.tag != self._block:
            return
        remaining = offer.size_bytes - self._offset
        size = min(request.frames * DATA_BYTES, remaining)
        is_possible = 0 < request.frames <= self._block_frames_max and (request.frames - 1) * DATA_BYTES < remaining
        if not is_possible:
            code = ResultCode.INCOMPLETE
            self._reply(ResultReply(position, request.tag, request.command, code, 0), now_ns)
            return
        if self._report_missing(request, self._block, now_ns):
            return
        data = self._taken(request.frames)[:size]
        try:
            self._store.write_staged(self._offset, data)
        except LocalProtocolError:
            # Somebody else uses the store (a master's own updater), or the block is no whole number of write units.
            self._offer = None
            self._reply(ResultReply(position, request.tag, request.command, ResultCode.WRONG_STATE, 0), now_ns)
            return
        self._offset += size
        accepted = AcceptedReply(position, self._block, self._offset)
        self._block = (self._block + 1) % BLOCK_NUMBERS
        self._blocks_done += 1
        self._events.append(BlockStored(self._offset, offer.size_bytes))
        due_ns = max(now_ns, self._busy_until_ns)
        self._busy_until_ns = due_ns + self._store.take_busy_ns()
        self._announce(request, due_ns, now_ns)
        self._reply(accepted, due_ns)

    def _report_missing(self, request: Request, block: int, now_ns: int) -> bool:
        """Say which of the request's frames are missing; false if all are there and their CRC is right."""
        frames = request.frames
        if block == OFFER_BLOCK and frames != _OFFER_FRAMES:
            raise _RefusedError(ResultCode.BAD_OFFER, f"expected {_OFFER_FRAMES} frames, got {frames}")
        buffer = self._buffer
        missing = [index for index in range(frames) if buffer[index] is None]
        if not missing:
            if crc32(b"".join(part for part in buffer[:frames] if part is not None)) == request.crc32:
                return False
            # Which frame is wrong cannot be told, so all are.
            self._clear_buffer()
            missing = list(range(frames))
        bitmaps: dict[int, int] = {}
        for index in missing:
            segment, bit = divmod(index, SEGMENT_FRAMES)
            bitmaps[segment] = bitmaps.get(segment, 0) | 1 << bit
        for segment, bitmap in bitmaps.items():
            self._reply(MissingReply(self._identity.position, block, segment, len(missing), bitmap), now_ns)
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
                role=int(identity.role),
                node_state=int(self.state),
                boot_reason=int(boot.reason),
                slot_a_state=int(slot_a),
                slot_b_state=int(slot_b),
                active_slot=_NO_SLOT if store.active_slot is None else store.active_slot,
                running_slot=_NO_SLOT if boot.slot is None else boot.slot,
                capabilities=0,
                block_frames_max=self._block_frames_max,
            ),
            now_ns,
        )
        self._reply(VersionReply(position, echo, version.major, version.minor, version.revision), now_ns)
        self._reply(BuildReply(position, echo, version.build), now_ns)
        self._reply(CounterReply(position, echo, store.security_counter, self._boot_id), now_ns)
        for first, count, data in (
            (ReplyKind.CLASS_0, 3, identity.hardware_class.class_id.bytes),
            (ReplyKind.HWID_0, 4, identity.hwid.encode()),
            (ReplyKind.SERIAL_0, 4, identity.serial.encode()),
        ):
            for part in range(count):
                piece = data[part * _PART_BYTES : (part + 1) * _PART_BYTES]
                self._reply(PartReply(position, ReplyKind(first + part), piece), now_ns)

    def _announce(self, request: Request, due_ns: int, now_ns: int) -> None:
        """Tell the client to be patient if the result takes long."""
        if due_ns - now_ns > self._timing.pending_threshold_ns:
            wait_ms = min(-(-(due_ns - now_ns) // _MS), _PENDING_MS_MAX)
            self._reply(PendingReply(self._identity.position, request.tag, request.command, wait_ms), now_ns)

    def _answer_again(self, reply: Reply, now_ns: int) -> None:
        """Repeat an answer that may have been lost, unless the first one is still waiting for the flash."""
        frame = self._wire.serialize(reply)
        if all(frame != waiting for _, waiting in self._replies):
            self._reply(reply, now_ns)

    def _reply(self, reply: Reply, due_ns: int) -> None:
        if len(self._replies) >= _REPLIES_MAX:
            return  # The client asks again.
        entry = (due_ns, self._wire.serialize(reply))
        replies = self._replies
        if replies and replies[-1][0] > due_ns:
            # Rare: an immediate reply overtakes one that waits for the flash.
            ordered = sorted([*replies, entry], key=lambda item: item[0])
            replies.clear()
            replies.extend(ordered)
        else:
            replies.append(entry)
