"""The node's side: a UDS server on a `BootStore`, the sibling of the CAN bootloader's target in what it does and how it is driven.

Its states are ISO 14229-1's: the session (default, extended, programming), whether access has been proved in it, and the download under way.
`SERVICES` says which service is answered in which session. Any tester can flash it: the order of ISO 14229-1 clause 15 without our
offer works too; such an image is verified when the transfer ends instead of before it begins, and cannot be resumed.

Strategy. One request is under way at a time. Its answer waits for the flash work it caused; what takes longer than P2 is announced with NRC
0x78, and again before each P2* ends. A block is answered as soon as the flash has finished the block before, so that programming overlaps
the reception of the next one, as in a node with two block buffers.

A request that comes again because its answer was lost must not be done again. A block is recognised by its counter; of routines and the
transfer's exit the last one done is remembered and answered again, until the next request. A reset needs a session, and a restart
ends every session, so that a late duplicate cannot restart the node twice (an image in test would be reverted).

With a boot window (`UdsServerTiming.boot_window_ns`) the application waits so long after a boot; a programming session opened meanwhile
holds the node in its bootloader, otherwise the driver gets `ApplicationStarted`. Until then Confirm is answered with NRC 0x21.

Time. The store writes at once and says how long a real flash would have been busy. A power cut raised by the flash driver passes through:
this object and its store are then worthless, like a node without power.

Left out: uploads, stopping routines, authentication by certificates (0x29), ReadMemoryByAddress. CommunicationControl and
ControlDTCSetting are answered, because testers send them, and change nothing.
"""

from __future__ import annotations

from collections import deque
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from udsoncan import Request, Response, services

from bmsota.boot import BootReason
from bmsota.errors import ConfigurationError
from bmsota.node import (
    IMAGE_SHA256_BYTES,
    AccessDenied,
    AccessGranted,
    ApplicationStarted,
    BlockStored,
    BootloaderEntered,
    BootloaderLeft,
    Capability,
    MessagesLost,
    NodeMode,
    NodeRefusedError,
    NodeStaging,
    RepliesDropped,
    ResetRequested,
    ResultCode,
    count_event,
    running_image_sha256,
)
from bmsota.uds._identifiers import (
    ACCESS_LEVEL,
    BOOT_STATE_LAYOUT,
    NO_SLOT,
    NODE_KIND_LAYOUT,
    NRC_OF_RESULT,
    STAGING_LAYOUT,
    TEXT_BYTES,
    UDS_PROFILE_VERSION,
    Did,
    ImageOffer,
    Nrc,
    Routine,
    Session,
)
from bmsota.uds._isotp import IsoTpLink, IsoTpParameters
from bmsota.uds._timing import UdsServerTiming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from udsoncan.BaseService import BaseService

    from bmsota.boot import BootResult, BootStore
    from bmsota.canframe import CanFrame
    from bmsota.node import TargetEvent, TargetIdentity
    from bmsota.uds._access import AccessCheck
    from bmsota.uds._addressing import UdsAddress


_SEED_BYTES = 32
_BLOCK_OVERHEAD_BYTES = 2
_SINGLE_FRAME = 0
_MS = 1_000_000
# Answers that wait for the bus, or behind one that waits for flow control. A tester that asks faster than it listens gets none beyond.
_ANSWERS_WAITING_MAX = 16
# One response to 0x22 must fit the tester's buffer.
_DIDS_MAX = 16

_ALL = frozenset(Session)
_OPEN = frozenset({Session.EXTENDED, Session.PROGRAMMING})
_PROGRAMMING = frozenset({Session.PROGRAMMING})


@dataclass(frozen=True, slots=True)
class ServiceRule:
    """When a service is answered."""

    sessions: frozenset[Session]
    needs_access: bool = False
    subfunctions: frozenset[int] | None = None
    """None: the service has none."""
    is_functional: bool = False
    """Whether it is answered when it is asked of all nodes."""


SERVICES: Mapping[type[BaseService], ServiceRule] = {
    services.DiagnosticSessionControl: ServiceRule(_ALL, subfunctions=frozenset(Session), is_functional=True),
    services.ECUReset: ServiceRule(_OPEN, subfunctions=frozenset({1, 3})),
    services.ReadDataByIdentifier: ServiceRule(_ALL, is_functional=True),
    services.SecurityAccess: ServiceRule(_OPEN, subfunctions=frozenset({ACCESS_LEVEL, ACCESS_LEVEL + 1})),
    services.CommunicationControl: ServiceRule(_OPEN, subfunctions=frozenset(range(4)), is_functional=True),
    services.RoutineControl: ServiceRule(_OPEN, needs_access=True, subfunctions=frozenset({1})),
    services.RequestDownload: ServiceRule(_PROGRAMMING, needs_access=True),
    services.TransferData: ServiceRule(_PROGRAMMING, needs_access=True),
    services.RequestTransferExit: ServiceRule(_PROGRAMMING, needs_access=True),
    services.TesterPresent: ServiceRule(_ALL, subfunctions=frozenset({0}), is_functional=True),
    services.ControlDTCSetting: ServiceRule(_OPEN, subfunctions=frozenset({1, 2}), is_functional=True),
}
"""What the node answers. Anything else is NRC 0x11; in another session NRC 0x7F; without access NRC 0x33."""

# Refusals that are not sent when all nodes were asked: the question was not meant for this one (ISO 14229-1, 7.5.6).
_SILENT_WHEN_FUNCTIONAL = frozenset(
    {
        Nrc.SERVICE_NOT_SUPPORTED,
        Nrc.SUB_FUNCTION_NOT_SUPPORTED,
        Nrc.REQUEST_OUT_OF_RANGE,
        Nrc.SUB_FUNCTION_NOT_SUPPORTED_IN_SESSION,
        Nrc.SERVICE_NOT_SUPPORTED_IN_SESSION,
    }
)

# Routines only the programming session has: they begin or end a download.
_PROGRAMMING_ROUTINES = frozenset({Routine.ERASE_MEMORY, Routine.CHECK_MEMORY})

_REMEMBERED = (services.RoutineControl, services.RequestTransferExit)


class _RefusedError(Exception):
    """A request cannot be done."""

    def __init__(self, nrc: Nrc, detail: str = "") -> None:
        super().__init__(detail or nrc.name)
        self.nrc = nrc


# What a plain tester, who has made no offer, gets instead of our own codes.
_NRC_OF_PLAIN: Mapping[ResultCode, Nrc] = {
    ResultCode.TEST_PENDING: Nrc.CONDITIONS_NOT_CORRECT,
    ResultCode.TOO_LARGE: Nrc.REQUEST_OUT_OF_RANGE,
    ResultCode.WORN: Nrc.GENERAL_PROGRAMMING_FAILURE,
}


@contextmanager
def _plainly() -> Iterator[None]:
    try:
        yield
    except NodeRefusedError as refusal:
        raise _RefusedError(_NRC_OF_PLAIN.get(refusal.code, NRC_OF_RESULT[refusal.code]), str(refusal)) from refusal


@dataclass(slots=True)
class _Download:
    """Between RequestDownload and RequestTransferExit."""

    counter: int = 0
    """Of the last block taken."""
    blocks: int = 0


@dataclass(slots=True)
class _Waiting:
    """An answer that waits for its time."""

    request: bytes
    service_id: int
    payload: bytes | None
    """None: there is none to give (suppressed)."""
    due_ns: int
    pending_due_ns: int | None
    is_suppressed: bool = False
    """Suppressed unless "response pending" has been said."""


@dataclass(slots=True)
class _Access:
    """What SecurityAccess remembers."""

    is_unlocked: bool = False
    seed: bytes = b""
    failures: int = 0
    blocked_until_ns: int = field(default=0)


class UdsServer:
    """One node. Make it after `store.boot()`, with what that returned; make a new one after every restart."""

    def __init__(
        self,
        address: UdsAddress,
        *,
        identity: TargetIdentity,
        store: BootStore,
        boot: BootResult,
        random_bytes: Callable[[int], bytes],
        access: AccessCheck | None = None,
        timing: UdsServerTiming | None = None,
        transport: IsoTpParameters | None = None,
        block_length_max: int = 0xFFF,
        is_locked: Callable[[], bool] = lambda: False,
    ) -> None:
        """Take the parts of a node.

        Args:
            address: its CAN ids.
            identity: who the node is.
            store: its slots and journal.
            boot: what `store.boot()` returned.
            random_bytes: gives the requested number of unpredictable bytes, for seeds and the boot id (in a simulation: of the run's
                seed).
            access: checks keys; None: the node is open to everyone on the bus.
            timing: the node's habits.
            transport: its end of ISO-TP.
            block_length_max: of a TransferData request, its two bytes of service and counter included.
            is_locked: while true another upgrade has the store (a master's own updater): whatever would change something is
                answered NRC 0x22. Must stay false while a session is open.

        Raises:
            ConfigurationError: *block_length_max* is out of range.
        """
        transport = transport or IsoTpParameters()
        if not _BLOCK_OVERHEAD_BYTES < block_length_max <= min(transport.message_bytes_max, 0xFFFF):
            raise ConfigurationError(
                f"block length: expected 3 to {min(transport.message_bytes_max, 0xFFFF)} bytes, got {block_length_max}"
            )
        self._identity = identity
        self._store = store
        self._boot = boot
        self._random_bytes = random_bytes
        self._check_access = access
        self._is_locked = is_locked
        self._capabilities = Capability.IMAGE_DIGEST
        if transport.is_fd:
            self._capabilities |= Capability.FD_DATA
        if access is not None:
            self._capabilities |= Capability.SECURITY_ACCESS
        self._timing = timing or UdsServerTiming()
        self._block_length_max = block_length_max
        self._link = IsoTpLink.of_node(address, transport)
        self._functional = IsoTpLink(
            transmit_id=address.response_id,
            receive_id=address.functional_id,
            is_extended_id=address.is_extended_id,
            parameters=transport,
        )
        self._functional_id = address.functional_id
        self._boot_id = random_bytes(4)
        self._can_run = boot.reason is not BootReason.NOTHING
        self._is_in_window = self._can_run and (timing or UdsServerTiming()).boot_window_ns > 0
        self._window_ends_ns: int | None = None
        self.session = Session.DEFAULT
        self._access = _Access()
        self._was_started = False
        self._now_ns = 0
        self._extra_busy_ns = 0
        self._events: deque[TargetEvent] = deque()
        self._staging = NodeStaging(store, identity, self._events.append, write_bytes=store.write_unit_bytes)
        self._is_verified = False
        self._offer: ImageOffer | None = None
        self._download: _Download | None = None
        self._last_done: tuple[bytes, bytes] | None = None
        self._last_heard_ns = 0
        self._busy_until_ns = 0
        self._waiting: _Waiting | None = None
        self._is_resetting = False
        self._restart_due_ns: int | None = None
        self._handlers: Mapping[type[BaseService], Callable[[Request], bytes]] = {
            services.DiagnosticSessionControl: self._control_session,
            services.ECUReset: self._reset,
            services.ReadDataByIdentifier: self._read_identifiers,
            services.SecurityAccess: self._control_access,
            services.CommunicationControl: self._acknowledge,
            services.RoutineControl: self._start_routine,
            services.RequestDownload: self._request_download,
            services.TransferData: self._transfer_data,
            services.RequestTransferExit: self._exit_transfer,
            services.TesterPresent: self._acknowledge,
            services.ControlDTCSetting: self._acknowledge,
        }
        self._routines: Mapping[int, Callable[[bytes], bytes]] = {
            Routine.ERASE_MEMORY: self._erase,
            Routine.CHECK_MEMORY: self._check_memory,
            Routine.CHECK_DEPENDENCIES: self._activate,
            Routine.CONFIRM: self._confirm,
            Routine.REVERT: self._revert,
        }
        self._identifiers: Mapping[int, Callable[[], bytes]] = {
            Did.ACTIVE_SESSION: lambda: bytes([self.session]),
            Did.SOFTWARE_VERSION: lambda: _padded("" if boot.facts is None else str(boot.facts.version)),
            Did.SERIAL_NUMBER: lambda: _padded(identity.serial),
            Did.HARDWARE_CLASS: lambda: identity.hardware_class.class_id.bytes,
            Did.HARDWARE_ID: lambda: _padded(identity.hwid),
            Did.NODE_KIND: self._node_kind,
            Did.SECURITY_COUNTER: lambda: store.security_counter.to_bytes(4, "big"),
            Did.BOOT_STATE: self._boot_state,
            Did.BOOT_ID: lambda: self._boot_id,
            Did.STAGING: self._staging_state,
            Did.IMAGE_DIGEST: lambda: running_image_sha256(store, boot) or bytes(IMAGE_SHA256_BYTES),
        }

    @property
    def state(self) -> NodeMode:
        """What the node is doing."""
        if self._is_resetting:
            return NodeMode.RESTARTING
        if self._download is not None:
            return NodeMode.RECEIVING
        is_application = self._can_run and self.session is not Session.PROGRAMMING and not self._is_in_window
        return NodeMode.APPLICATION if is_application else NodeMode.BOOTLOADER

    # ---- the driver's side

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """Take a frame from the bus; anything not for this node is ignored."""
        if self._is_resetting:
            return
        self._start_clock(now_ns)
        if frame.can_id == self._functional_id and frame.data and frame.data[0] >> 4 != _SINGLE_FRAME:
            # All nodes at once are asked in single frames only (ISO 15765-2, 9.6.4): flow control would collide.
            count_event(self._events, MessagesLost)
            return
        if self._link.receive_frame(frame, now_ns):
            self._last_heard_ns = now_ns
            while (message := self._link.next_message()) is not None:
                self._message_received(message, now_ns, is_functional=False)
            self._count_errors(self._link)
        elif self._functional.receive_frame(frame, now_ns):
            self._last_heard_ns = now_ns
            while (message := self._functional.next_message()) is not None:
                self._message_received(message, now_ns, is_functional=True)
            self._count_errors(self._functional)

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        """What to put on the bus now, in this order."""
        self._start_clock(now_ns)
        self._answer_if_due(now_ns)
        frames = self._link.frames_to_send(now_ns)
        self._count_errors(self._link)
        return frames

    def next_event(self) -> TargetEvent | None:
        """The oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> int | None:
        """When `frames_to_send` and `handle_timeout` want to be called at the latest; None: only after a frame."""
        due = [self._link.next_timeout(), self._restart_due_ns]
        if self._is_in_window:
            due.append(self._window_ends_ns or 0)
        if self._waiting is not None:
            due += [self._waiting.due_ns, self._waiting.pending_due_ns]
        elif self.session is not Session.DEFAULT and not self._is_resetting:
            due.append(self._last_heard_ns + self._timing.s3_ns)
        return min((time for time in due if time is not None), default=None)

    def handle_timeout(self, now_ns: int) -> None:
        """Act on the time; no effect before `next_timeout`."""
        self._start_clock(now_ns)
        self._link.handle_timeout(now_ns)
        self._count_errors(self._link)
        self._answer_if_due(now_ns)
        if self._restart_due_ns is not None and now_ns >= self._restart_due_ns:
            self._restart_due_ns = None
            self._events.append(ResetRequested())
        elif self._is_session_over(now_ns):
            self._enter(Session.DEFAULT)

    @property
    def is_in_boot_window(self) -> bool:
        """Whether the node is listening after its boot and its application has not started yet."""
        return self._is_in_window

    def _start_clock(self, now_ns: int) -> None:
        """The delay before the first seed and the boot window count from the first moment we hear of."""
        if not self._was_started:
            self._was_started = True
            self._access.blocked_until_ns = now_ns + self._timing.access_boot_delay_ns
            self._window_ends_ns = now_ns + self._timing.boot_window_ns
        if self._is_in_window and self._window_ends_ns is not None and now_ns >= self._window_ends_ns:
            self._is_in_window = False
            self._events.append(ApplicationStarted())

    def _is_session_over(self, now_ns: int) -> bool:
        is_open = self.session is not Session.DEFAULT and not self._is_resetting and self._waiting is None
        return is_open and now_ns >= self._last_heard_ns + self._timing.s3_ns

    def _count_errors(self, link: IsoTpLink) -> None:
        """What was not received whole was not received: the tester retries."""
        while link.next_error() is not None:
            count_event(self._events, MessagesLost)

    # ---- requests and answers

    def _message_received(self, message: bytes, now_ns: int, *, is_functional: bool) -> None:
        waiting = self._waiting
        if not message:
            return
        is_presence = message[0] == services.TesterPresent.request_id()
        if self._link.is_sending and waiting is None and not is_functional and not is_presence:
            # The tester asks on: it has given up the answer before, of which a frame was lost. An answer that is not taken
            # would hold up the next one until N_Bs is over.
            self._link.abort_sending()
        if waiting is not None and message != waiting.request:
            if not is_presence:
                self._send(_negative(message[0], Nrc.BUSY_REPEAT_REQUEST), now_ns)
            return
        if waiting is not None:
            # The same again: our "response pending" was lost, or there was no need for one yet.
            self._send(_negative(waiting.service_id, Nrc.RESPONSE_PENDING), now_ns)
            return
        if self._last_done is not None and message == self._last_done[0]:
            self._send(self._last_done[1], now_ns)
            return
        if not is_presence:
            self._last_done = None
        self._handle(message, now_ns, is_functional=is_functional)

    def _handle(self, message: bytes, now_ns: int, *, is_functional: bool) -> None:
        request = Request.from_payload(message)
        self._now_ns = now_ns
        try:
            answer = self._done(request, is_functional=is_functional)
        except (_RefusedError, NodeRefusedError) as refusal:
            nrc = refusal.nrc if isinstance(refusal, _RefusedError) else NRC_OF_RESULT[refusal.code]
            if is_functional and nrc in _SILENT_WHEN_FUNCTIONAL:
                return
            self._reply(message, _negative(message[0], nrc), now_ns, is_suppressed=False)
            return
        assert request.service is not None
        payload = Response(request.service, Response.Code.PositiveResponse, answer).get_payload()
        if request.service in _REMEMBERED and not request.suppress_positive_response:
            self._last_done = (message, payload)
        self._reply(message, payload, now_ns, is_suppressed=request.suppress_positive_response)

    def _done(self, request: Request, *, is_functional: bool) -> bytes:
        """Check *request* in the order of ISO 14229-1 figure 5, and do it; the answer's parameters."""
        service = request.service
        rule = None if service is None else SERVICES.get(service)
        if service is None or rule is None or (is_functional and not rule.is_functional):
            raise _RefusedError(Nrc.SERVICE_NOT_SUPPORTED)
        if self.session not in rule.sessions:
            raise _RefusedError(Nrc.SERVICE_NOT_SUPPORTED_IN_SESSION)
        if rule.subfunctions is not None:
            if request.subfunction is None:
                raise _RefusedError(Nrc.WRONG_LENGTH_OR_FORMAT)
            if request.subfunction not in rule.subfunctions:
                raise _RefusedError(Nrc.SUB_FUNCTION_NOT_SUPPORTED)
        is_programming = service is services.DiagnosticSessionControl and request.subfunction == Session.PROGRAMMING
        if (rule.needs_access or is_programming or service is services.ECUReset) and self._is_locked():
            raise _RefusedError(Nrc.CONDITIONS_NOT_CORRECT)
        if rule.needs_access and not self._is_unlocked:
            raise _RefusedError(Nrc.SECURITY_ACCESS_DENIED)
        return self._handlers[service](request)

    def _reply(self, message: bytes, payload: bytes, now_ns: int, *, is_suppressed: bool) -> None:
        """Answer when the flash work of this request is done; of a block: when that of the block before is."""
        timing = self._timing
        due_ns = max(now_ns, self._busy_until_ns)
        is_block = message[0] == services.TransferData.request_id()
        busy_ns = self._store.take_busy_ns() + self._extra_busy_ns
        self._extra_busy_ns = 0
        if not is_block:
            due_ns += busy_ns
        self._busy_until_ns = due_ns + (busy_ns if is_block else 0)
        pending_due_ns = now_ns + max(timing.p2_ns - timing.pending_margin_ns, 0)
        self._waiting = _Waiting(
            request=message,
            service_id=message[0],
            payload=payload,
            due_ns=due_ns,
            pending_due_ns=pending_due_ns if pending_due_ns < due_ns else None,
            is_suppressed=is_suppressed,
        )
        if self._is_resetting:
            self._restart_due_ns = due_ns + timing.restart_delay_ns
        self._answer_if_due(now_ns)

    def _answer_if_due(self, now_ns: int) -> None:
        waiting = self._waiting
        if waiting is None:
            return
        if now_ns >= waiting.due_ns:
            self._waiting = None
            self._last_heard_ns = max(self._last_heard_ns, now_ns)  # S3 begins anew with the answer.
            if waiting.payload is not None and not waiting.is_suppressed:
                self._send(waiting.payload, now_ns)
        elif waiting.pending_due_ns is not None and now_ns >= waiting.pending_due_ns:
            # A tester that was asked to wait gets the answer, too.
            waiting.is_suppressed = False
            again_ns = now_ns + max(self._timing.p2_star_ns * 7 // 10, _MS)
            waiting.pending_due_ns = again_ns if again_ns < waiting.due_ns else None
            self._send(_negative(waiting.service_id, Nrc.RESPONSE_PENDING), now_ns)

    def _send(self, payload: bytes, now_ns: int) -> None:
        if self._link.messages_waiting >= _ANSWERS_WAITING_MAX:
            count_event(self._events, RepliesDropped)  # The tester retries.
            return
        self._link.send(payload, now_ns)

    # ---- sessions, access, reset

    @property
    def _is_unlocked(self) -> bool:
        return self._check_access is None or self._access.is_unlocked

    def _control_session(self, request: Request) -> bytes:
        assert request.subfunction is not None
        if request.data:
            raise _RefusedError(Nrc.WRONG_LENGTH_OR_FORMAT)
        session = Session(request.subfunction)
        self._enter(session)
        timing = self._timing
        return (
            bytes([session])
            + min(timing.p2_ns // _MS, 0xFFFF).to_bytes(2, "big")
            + min(timing.p2_star_ns // (10 * _MS), 0xFFFF).to_bytes(2, "big")
        )

    def _enter(self, session: Session) -> None:
        """Change the session: access is locked again, a download is forgotten (what is staged stays)."""
        before = self.session
        self.session = session
        self._access.is_unlocked = False
        self._access.seed = b""
        self._end_download()
        self._last_done = None
        if session is Session.PROGRAMMING and before is not Session.PROGRAMMING:
            self._is_in_window = False  # It holds the node in its bootloader.
            self._events.append(BootloaderEntered())
        elif before is Session.PROGRAMMING and session is not Session.PROGRAMMING:
            self._events.append(BootloaderLeft())

    def _control_access(self, request: Request) -> bytes:
        access, timing, now_ns = self._access, self._timing, self._now_ns
        key = request.data or b""
        if request.subfunction == ACCESS_LEVEL:
            if key:
                raise _RefusedError(Nrc.WRONG_LENGTH_OR_FORMAT)
            if self._is_unlocked:
                return bytes([ACCESS_LEVEL]) + bytes(_SEED_BYTES)
            if now_ns < access.blocked_until_ns:
                raise _RefusedError(Nrc.REQUIRED_TIME_DELAY_NOT_EXPIRED)
            # The same seed until it is answered: a repeated question must not make the first answer worthless.
            access.seed = access.seed or self._random_bytes(_SEED_BYTES)
            return bytes([ACCESS_LEVEL]) + access.seed
        if not access.seed:
            raise _RefusedError(Nrc.REQUEST_SEQUENCE_ERROR)
        if not key:
            raise _RefusedError(Nrc.WRONG_LENGTH_OR_FORMAT)
        seed, access.seed = access.seed, b""
        assert self._check_access is not None
        if self._check_access(seed, self._identity.serial, key):
            access.is_unlocked = True
            access.failures = 0
            self._events.append(AccessGranted())
            return bytes([ACCESS_LEVEL + 1])
        self._events.append(AccessDenied())
        access.failures += 1
        if access.failures < timing.access_attempts_max:
            raise _RefusedError(Nrc.INVALID_KEY)
        access.failures = 0
        access.blocked_until_ns = now_ns + timing.access_delay_ns
        raise _RefusedError(Nrc.EXCEEDED_NUMBER_OF_ATTEMPTS)

    def _reset(self, request: Request) -> bytes:
        assert request.subfunction is not None
        if request.data:
            raise _RefusedError(Nrc.WRONG_LENGTH_OR_FORMAT)
        self._is_resetting = True
        self._is_in_window = False
        return bytes([request.subfunction])

    @staticmethod
    def _acknowledge(request: Request) -> bytes:
        assert request.subfunction is not None
        return bytes([request.subfunction])

    # ---- identifiers

    def _read_identifiers(self, request: Request) -> bytes:
        data = request.data or b""
        if not data or len(data) % 2 or len(data) > 2 * _DIDS_MAX:
            raise _RefusedError(Nrc.WRONG_LENGTH_OR_FORMAT)
        numbers = [int.from_bytes(data[at : at + 2], "big") for at in range(0, len(data), 2)]
        # Those a node does not have are left out of the answer (ISO 14229-1, 11.2); none at all is a refusal.
        known = [number for number in numbers if number in self._identifiers]
        if not known:
            raise _RefusedError(Nrc.REQUEST_OUT_OF_RANGE)
        return b"".join(number.to_bytes(2, "big") + self._identifiers[number]() for number in known)

    def _node_kind(self) -> bytes:
        return bytes(
            NODE_KIND_LAYOUT.build(
                {
                    "role": int(self._identity.role),
                    "profile_version": UDS_PROFILE_VERSION,
                    "capabilities": int(self._capabilities),
                    "block_length_max": self._block_length_max,
                    "slot_size_kib": min(self._store.slot_size_bytes // 1024, 0xFFFF),
                }
            )
        )

    def _boot_state(self) -> bytes:
        store, boot = self._store, self._boot
        slot_a, slot_b = store.slots
        return bytes(
            BOOT_STATE_LAYOUT.build(
                {
                    "node_state": int(self.state),
                    "boot_reason": int(boot.reason),
                    "slot_a_state": int(slot_a.state),
                    "slot_b_state": int(slot_b.state),
                    "active_slot": NO_SLOT if store.active_slot is None else store.active_slot,
                    "running_slot": NO_SLOT if boot.slot is None else boot.slot,
                }
            )
        )

    def _staging_state(self) -> bytes:
        slot = self._store.slots[self._store.spare_slot]
        return bytes(
            STAGING_LAYOUT.build(
                {
                    "state": int(slot.state),
                    "size_bytes": slot.size_bytes,
                    "received_bytes": self._store.staging_offset + self._staging.held_bytes,
                    "sha256": slot.sha256,
                }
            )
        )

    # ---- routines

    def _start_routine(self, request: Request) -> bytes:
        data = request.data or b""
        if len(data) < 2:
            raise _RefusedError(Nrc.WRONG_LENGTH_OR_FORMAT)
        number, record = int.from_bytes(data[:2], "big"), data[2:]
        routine = self._routines.get(number)
        if routine is None:
            raise _RefusedError(Nrc.REQUEST_OUT_OF_RANGE)
        if number in _PROGRAMMING_ROUTINES and self.session is not Session.PROGRAMMING:
            raise _RefusedError(Nrc.CONDITIONS_NOT_CORRECT)
        assert request.subfunction is not None
        return bytes([request.subfunction]) + data[:2] + routine(record)

    def _erase(self, record: bytes) -> bytes:
        self._end_download()
        if not ImageOffer.is_offer(record):
            # A plain tester: address and size, or nothing. Blocks are erased as they are written.
            with _plainly():
                self._staging.check_spare_is_free()
            return bytes(4)
        self._offer = self._staging.begin(record, ImageOffer.parse)
        return self._staging.offset.to_bytes(4, "big")

    def _check_memory(self, record: bytes) -> bytes:  # noqa: ARG002  Other testers send a checksum; ours is in the image.
        if not self._is_verified:
            # Only behind an offer whose image is all here; the slot may hold the fallback, which must stay what it is.
            if self._offer is None or self._download is not None:
                raise _RefusedError(Nrc.REQUEST_SEQUENCE_ERROR)
            if self._store.staging_offset != self._offer.size_bytes:
                raise _RefusedError(Nrc.REQUEST_SEQUENCE_ERROR)
            self._verify()
        return b"\0"

    def _verify(self) -> None:
        """Digest, signature, hardware and counter, on the node. Whatever comes out, the download is over."""
        self._end_download()
        self._extra_busy_ns += self._timing.verify_ns
        self._staging.finish()
        self._is_verified = True

    def _end_download(self) -> None:
        """Forget the offer and the download; what is staged stays."""
        self._offer = None
        self._download = None
        self._is_verified = False
        self._staging.drop_held()

    def _activate(self, record: bytes) -> bytes:  # noqa: ARG002  One signature for the table.
        self._staging.request_test()
        return b"\0"

    def _confirm(self, record: bytes) -> bytes:
        if record not in {b"", b"\0", b"\1"}:
            raise _RefusedError(Nrc.WRONG_LENGTH_OR_FORMAT)
        if self._is_in_window:
            # An image that has not run yet has not proved itself. The tester tries again when its application runs.
            raise _RefusedError(Nrc.BUSY_REPEAT_REQUEST)
        self._staging.confirm(raise_counter=record != b"\0")
        return b""

    def _revert(self, record: bytes) -> bytes:  # noqa: ARG002  One signature for the table.
        self._staging.revert()
        return b""

    # ---- the download

    def _request_download(self, request: Request) -> bytes:
        data = request.data or b""
        if len(data) < 2:
            raise _RefusedError(Nrc.WRONG_LENGTH_OR_FORMAT)
        size_bytes, address_bytes = data[1] >> 4, data[1] & 0x0F
        if data[0] or not 1 <= size_bytes <= 4 or not 1 <= address_bytes <= 8:
            raise _RefusedError(Nrc.REQUEST_OUT_OF_RANGE)  # Compressed, encrypted, or in no format of ours.
        if len(data) != 2 + size_bytes + address_bytes:
            raise _RefusedError(Nrc.WRONG_LENGTH_OR_FORMAT)
        address = int.from_bytes(data[2 : 2 + address_bytes], "big")
        size = int.from_bytes(data[2 + address_bytes :], "big")
        self._is_verified = False
        staging, offer = self._staging, self._offer
        if offer is None:
            # Without an offer: a whole image, at whatever address its tester thinks it is written to.
            with _plainly():
                staging.begin_plain(size)
        elif (address, size) != (staging.offset, offer.size_bytes - staging.offset) or not size:
            raise _RefusedError(Nrc.REQUEST_OUT_OF_RANGE)  # Not from where we have not got yet to the end.
        staging.drop_held()
        self._download = _Download()
        return bytes([0x20]) + self._block_length_max.to_bytes(2, "big")

    def _transfer_data(self, request: Request) -> bytes:
        download, data = self._download, request.data or b""
        if download is None:
            raise _RefusedError(Nrc.REQUEST_SEQUENCE_ERROR)
        if len(data) < 2 or len(data) + 1 > self._block_length_max:
            raise _RefusedError(Nrc.WRONG_LENGTH_OR_FORMAT)
        counter, block = data[0], data[1:]
        if download.blocks and counter == download.counter:
            return data[:1]  # It is the block before, whose answer was lost (ISO 14229-1, 14.5.5).
        if counter != (download.counter + 1) % 256:
            raise _RefusedError(Nrc.WRONG_BLOCK_SEQUENCE_COUNTER)
        staging = self._staging
        if staging.received_bytes + len(block) > staging.size_bytes:
            raise _RefusedError(Nrc.REQUEST_OUT_OF_RANGE)
        try:
            staging.write(block)
        except NodeRefusedError as refusal:
            # Another upgrade uses the store: a master's own updater. Or the flash does not keep the block.
            self._download = None
            staging.drop_held()
            is_named = refusal.code is ResultCode.WORN and self._offer is not None
            raise _RefusedError(Nrc.WORN if is_named else Nrc.GENERAL_PROGRAMMING_FAILURE, str(refusal)) from refusal
        download.counter = counter
        download.blocks += 1
        self._events.append(BlockStored(staging.received_bytes, staging.size_bytes))
        return data[:1]

    def _exit_transfer(self, request: Request) -> bytes:
        if self._download is None or self._staging.received_bytes != self._staging.size_bytes:
            raise _RefusedError(Nrc.REQUEST_SEQUENCE_ERROR)
        if request.data:
            raise _RefusedError(Nrc.WRONG_LENGTH_OR_FORMAT)
        self._verify()
        return b""


def _negative(service_id: int, nrc: Nrc) -> bytes:
    return bytes([0x7F, service_id, nrc])


def _padded(text: str) -> bytes:
    return text.encode("ascii").ljust(TEXT_BYTES, b"\0")
