"""One exchange with one node: a single outstanding request, timeouts, retries, sessions, access, identity.

Strategy. An exchange is a *procedure*: a generator that yields requests and is resumed with the responses, so that the order of a flash stands
in the code as it stands in ISO 14229-1. The class here drives the procedure: it sends the request, waits P2, waits longer on NRC 0x78, repeats on
0x21 and on silence, keeps the session alive, and knows no service. A procedure never sees time or frames.

Repetition is safe because each request of ours is: reads and sessions change nothing, a block carries its counter, routines are answered
again by a node that has just done them (`UdsServer`), and a reset is never repeated without asking whether it has happened.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import deque
from collections.abc import Generator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Generic, TypeAlias, TypeVar, cast

from udsoncan import Response

from bmsota.boot import BootReason, SlotState
from bmsota.errors import ImageError
from bmsota.image import ImageRole, ImageVersion
from bmsota.node import (
    CAUSE_OF_RESULT,
    Capability,
    FailureCause,
    ImpossibleIdentityError,
    NodeDescription,
    NodeMode,
    identity_class,
    identity_digest,
    identity_enum,
    identity_slot,
    identity_text,
)
from bmsota.uds._dialect import UdsDialect
from bmsota.uds._identifiers import (
    BOOT_STATE_LAYOUT,
    NO_SLOT,
    NODE_KIND_LAYOUT,
    NRC_OF_RESULT,
    UDS_PROFILE_VERSION,
    Did,
    Nrc,
    Session,
    nrc_name,
)
from bmsota.uds._isotp import IsoTpLink
from bmsota.uds._services import (
    TESTER_PRESENT,
    Call,
    read_dids,
    read_one_did,
    request_seed,
    send_key,
    start_session,
    tester_present,
)
from bmsota.uds._timing import UdsTiming

if TYPE_CHECKING:
    from collections.abc import Mapping

    from bmsota.canframe import CanFrame
    from bmsota.uds._access import AccessKey
    from bmsota.uds._addressing import UdsAddress
    from bmsota.uds._isotp import IsoTpError, IsoTpParameters


EventT = TypeVar("EventT")
T = TypeVar("T")

_NEGATIVE = 0x7F


@dataclass(frozen=True, slots=True)
class _Request:
    call: Call[Any]
    tries: int
    timeout_ns: int | None


@dataclass(frozen=True, slots=True)
class _Pause:
    duration_ns: int


@dataclass(frozen=True, slots=True)
class _Positive:
    value: Any


@dataclass(frozen=True, slots=True)
class _Negative:
    nrc: int


@dataclass(frozen=True, slots=True)
class _Silence:
    detail: str


_Reply: TypeAlias = _Positive | _Negative | _Silence | None
Procedure: TypeAlias = Generator[_Request | _Pause, _Reply, T]
"""Yields requests and pauses; returns what it was for. Use `yield from`."""


class SilentError(Exception):
    """The tries are used up, and the node has not answered."""


class RefusedAnswerError(Exception):
    """A negative answer that no repetition changes."""

    def __init__(self, call: Call[Any], nrc: int) -> None:
        super().__init__(f"{call.name}: {nrc_name(nrc)}")
        self.nrc = nrc


class RestartExchangeError(Exception):
    """An interruption that a new start can mend."""


class AbortError(Exception):
    """A failure that ends the exchange."""

    def __init__(self, cause: FailureCause, detail: str) -> None:
        super().__init__(detail)
        self.cause = cause
        self.detail = detail


# Refusals that say "not now", "not in this state": the session has ended, the node has restarted or has dropped the
# transfer. Beginning anew can help; the number of such beginnings is bounded.
_MENDABLE = frozenset(
    {
        Nrc.GENERAL_REJECT,
        Nrc.BUSY_REPEAT_REQUEST,
        Nrc.REQUEST_SEQUENCE_ERROR,
        Nrc.SECURITY_ACCESS_DENIED,
        Nrc.UPLOAD_DOWNLOAD_NOT_ACCEPTED,
        Nrc.TRANSFER_DATA_SUSPENDED,
        Nrc.GENERAL_PROGRAMMING_FAILURE,
        Nrc.WRONG_BLOCK_SEQUENCE_COUNTER,
        Nrc.SUB_FUNCTION_NOT_SUPPORTED_IN_SESSION,
        Nrc.SERVICE_NOT_SUPPORTED_IN_SESSION,
    }
)


# What our own nodes refuse, and why. Other makers' 0xF.. mean other things.
_CAUSES: Mapping[int, FailureCause] = {
    nrc: CAUSE_OF_RESULT[code] for code, nrc in NRC_OF_RESULT.items() if code in CAUSE_OF_RESULT
}
_MENDABLE_BY_PROFILE = frozenset({Nrc.DAMAGED})
# One such refusal may be an accident; the same again, without progress in between, is the node's last word.
FINAL_WHEN_REPEATED = frozenset({Nrc.UPLOAD_DOWNLOAD_NOT_ACCEPTED, Nrc.GENERAL_PROGRAMMING_FAILURE, Nrc.DAMAGED})


def cause_of_refusal(nrc: int, *, has_profile: bool) -> FailureCause | None:
    """Why a negative answer ends the exchange; None: beginning anew can help."""
    if has_profile and nrc in _CAUSES:
        return _CAUSES[nrc]
    if nrc in _MENDABLE or (has_profile and nrc in _MENDABLE_BY_PROFILE):
        return None
    return FailureCause.REFUSED


# Three identifiers fit the single frame of a request. The boot id stands in the first and in the last, so that a node that
# restarts in between is noticed.
_IDENTITY = (
    (Did.BOOT_ID, Did.SERIAL_NUMBER, Did.HARDWARE_ID),
    (Did.HARDWARE_CLASS, Did.SOFTWARE_VERSION, Did.NODE_KIND),
    (Did.SECURITY_COUNTER, Did.BOOT_STATE, Did.BOOT_ID),
)


class UdsExchange(ABC, Generic[EventT]):
    """An exchange with the node at one address. Subclasses are the procedures.

    The driver's loop: hand `frames_to_send` to the bus, wait until `next_timeout`, give what came to `receive_frame`,
    call `handle_timeout`, take the events; until `finished`.
    """

    def __init__(
        self,
        address: UdsAddress,
        *,
        position: int,
        dialect: UdsDialect | None = None,
        access_key: AccessKey | None = None,
        timing: UdsTiming | None = None,
        transport: IsoTpParameters | None = None,
    ) -> None:
        self._position = position
        self._dialect = dialect or UdsDialect()
        self._access_key = access_key
        self._timing = timing or UdsTiming()
        self._link = IsoTpLink.of_tester(address, transport)
        # To every node. Its answers, if any, come on the other link.
        self._functional = IsoTpLink(
            transmit_id=address.functional_id,
            receive_id=address.response_id,
            is_extended_id=address.is_extended_id,
            parameters=transport,
        )
        self.finished = False
        """Whether there is nothing more to do, successfully or not."""
        self.node: NodeDescription | None = None
        """What the node last said of itself."""
        self._events: deque[EventT] = deque()
        self._running: Procedure[None] | None = None
        self._p2_ns = self._timing.p2_ns
        self._p2_star_ns = self._timing.p2_star_ns
        self._is_session_open = False
        self._tester_due_ns = 0
        self._outstanding: _Request | None = None
        self._deadline_ns: int | None = None
        self._wake_ns: int | None = None
        self._tries_left = 0
        self._pending_left = 0
        self._busy_left = 0

    @abstractmethod
    def _procedure(self) -> Procedure[None]:
        """The whole exchange; it ends by calling `_finish`."""

    # ---- the driver's side

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """Take a frame from the bus; anything not from this node is ignored."""
        if not self.finished and self._link.receive_frame(frame, now_ns):
            self._take_in(now_ns)

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        """What to put on the bus now, in this order."""
        if self.finished:
            return []
        if self._running is None:
            self._running = self._procedure()
            self._advance(None, now_ns)
        frames = self._tester_presence(now_ns)
        frames += self._link.frames_to_send(now_ns)
        self._take_in(now_ns)
        self._watch_answer(now_ns)
        return frames

    def next_event(self) -> EventT | None:
        """The oldest event not yet taken."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> int | None:
        """When `frames_to_send` and `handle_timeout` want to be called at the latest; None: only after a frame."""
        if self.finished:
            return None
        if self._running is None:
            return 0
        due = [self._link.next_timeout(), self._functional.next_timeout(), self._deadline_ns, self._wake_ns]
        if self._is_session_open and self._may_tell_presence:
            due.append(self._tester_due_ns)
        return min((time for time in due if time is not None), default=None)

    def handle_timeout(self, now_ns: int) -> None:
        """Act on the time; no effect before `next_timeout`."""
        if self.finished or self._running is None:
            return
        self._link.handle_timeout(now_ns)
        self._take_in(now_ns)
        if self._wake_ns is not None and now_ns >= self._wake_ns:
            self._wake_ns = None
            if self._outstanding is None:
                self._advance(None, now_ns)
            else:
                self._transmit(now_ns)
        elif self._deadline_ns is not None and now_ns >= self._deadline_ns:
            if self._link.is_receiving:
                # The answer has begun; its own timer (N_Cr) ends it if it stops.
                self._deadline_ns = now_ns + self._link.parameters.consecutive_timeout_ns
            else:
                self._try_failed("no answer", now_ns)

    # ---- for procedures

    def _request(self, call: Call[T], *, tries: int | None = None, timeout_ns: int | None = None) -> Procedure[T]:
        """Ask one thing.

        Raises:
            SilentError: no answer within the tries.
            RefusedAnswerError: a negative answer.
        """
        tries = self._timing.request_tries if tries is None else tries
        reply = yield _Request(call, tries, timeout_ns)
        if isinstance(reply, _Negative):
            raise RefusedAnswerError(call, reply.nrc)
        if isinstance(reply, _Silence):
            raise SilentError(f"{call.name}: {reply.detail} in {tries} {'try' if tries == 1 else 'tries'}")
        assert isinstance(reply, _Positive)
        return cast("T", reply.value)

    @staticmethod
    def _pause(duration_ns: int) -> Procedure[None]:
        yield _Pause(duration_ns)

    def _identify(self, *, tries: int | None = None) -> Procedure[NodeDescription]:
        """Find and identify the node; it is `self.node` afterwards.

        Raises:
            SilentError: it does not answer.
            GaveUpError: it does not have our profile, or restarts again and again.
        """
        tries = self._timing.discover_tries if tries is None else tries
        if self._dialect.has_profile:
            self.node = yield from self._identify_by_profile(tries)
        else:
            self.node = yield from self._identify_plainly(tries)
        return self.node

    def _identify_by_profile(self, tries: int) -> Procedure[NodeDescription]:
        timeout_ns = self._timing.discover_timeout_ns
        values: dict[int, bytes] = {}
        looks = 1 + self._timing.interruptions_max
        failure = FailureCause.NO_PROGRESS, ""
        for _ in range(looks):
            first = yield from self._read(_IDENTITY[0], tries=tries, timeout_ns=timeout_ns)
            values = dict((yield from self._read(_IDENTITY[1])))
            if _says_digest(values):
                values |= yield from self._read((Did.IMAGE_DIGEST,))
            for group in _IDENTITY[2:]:
                values |= yield from self._read(group)
            if values[Did.BOOT_ID] != first[Did.BOOT_ID]:
                detail = f"expected one boot id in all answers, got another one {looks} times"
                failure = FailureCause.NO_PROGRESS, detail
                continue
            try:
                return _description(self._position, {**first, **values})
            except ImpossibleIdentityError as error:
                if NODE_KIND_LAYOUT.parse(values[Did.NODE_KIND]).profile_version != UDS_PROFILE_VERSION:
                    raise AbortError(
                        FailureCause.PROTOCOL_VERSION,
                        f"expected values of UDS profile {UDS_PROFILE_VERSION}, got {error}",
                    ) from error
                # One altered frame looks the same.
                failure = FailureCause.BAD_IDENTITY, str(error)
        raise AbortError(failure[0], f"node {self._position}: {failure[1]}")

    def _read(
        self, dids: tuple[Did, ...], *, tries: int | None = None, timeout_ns: int | None = None
    ) -> Procedure[Mapping[int, bytes]]:
        try:
            return (yield from self._request(read_dids(dids), tries=tries, timeout_ns=timeout_ns))
        except RefusedAnswerError as error:
            raise AbortError(
                FailureCause.PROTOCOL_VERSION, f"expected a node with UDS profile {UDS_PROFILE_VERSION}, got {error}"
            ) from error

    def _identify_plainly(self, tries: int) -> Procedure[NodeDescription]:
        """For a node without our profile: what the standard identifiers say; the rest is what the dialect takes it for."""
        yield from self._request(tester_present(), tries=tries, timeout_ns=self._timing.discover_timeout_ns)
        text = yield from self._read_text(self._dialect.version_did)
        try:
            version = ImageVersion.parse(text)
        except ImageError:
            # Makers write versions as they like; 0.0.0 is "not known".
            version = ImageVersion()
        serial = yield from self._read_text(Did.SERIAL_NUMBER)
        return NodeDescription(
            position=self._position,
            role=self._dialect.role,
            hwid="",
            serial=serial,
            class_id=self._dialect.class_id,
            version=version,
            security_counter=0,
            state=NodeMode.APPLICATION,
            boot_reason=BootReason.NORMAL,
            slot_states=(SlotState.EMPTY, SlotState.EMPTY),
            active_slot=None,
            running_slot=None,
            protocol_version=0,
            protocol_version_min=0,
            capabilities=Capability.NONE,
            boot_id=0,
        )

    def _read_text(self, did: int) -> Procedure[str]:
        """A text, empty if the node has none under *did*."""
        try:
            values = yield from self._request(read_one_did(did))
        except RefusedAnswerError:
            return ""
        return _text(values[did])

    def _open(self, session: Session) -> Procedure[None]:
        """Enter *session*, by way of the extended one, and keep it alive from now on.

        A node that is in its programming session stays in it: what needs a session may be done there too, and to leave it starts the
        application, which may be one that hangs.
        """
        sessions = [session]
        if (yield from self._is_programming()):
            sessions = [Session.PROGRAMMING]
        elif session is Session.PROGRAMMING and self._dialect.session_first:
            sessions.insert(0, Session.EXTENDED)
        for each in sessions:
            timing = yield from self._request(start_session(each))
            self._p2_ns = self._timing.p2_ns if timing.p2_ns is None else timing.p2_ns
            self._p2_star_ns = self._timing.p2_star_ns if timing.p2_star_ns is None else timing.p2_star_ns
            self._is_session_open = True

    def _is_programming(self) -> Procedure[bool]:
        """Whether the node has an application that its programming session keeps from running."""
        node = self.node
        if not self._dialect.has_profile or node is None or node.running_slot is None:
            return False
        if node.state not in {NodeMode.BOOTLOADER, NodeMode.RECEIVING}:
            return False
        try:
            values = yield from self._request(read_dids((Did.ACTIVE_SESSION,)))
        except RefusedAnswerError:
            return False
        return values[Did.ACTIVE_SESSION] == bytes([Session.PROGRAMMING])

    def _close(self) -> None:
        """The session is over, or is left to its own end."""
        self._is_session_open = False

    def _unlock(self) -> Procedure[None]:
        """Prove that we may write, if the node wants it proved.

        Raises:
            GaveUpError: no key, a wrong key, or the node never gets ready.
        """
        if not self._dialect.needs_access:
            return
        assert self.node is not None
        wrong_keys = 0
        for _ in range(self._timing.access_tries):
            try:
                seed = yield from self._request(request_seed())
                if not any(seed):
                    return
                if self._access_key is None:
                    raise AbortError(
                        FailureCause.ACCESS_NEEDED, "SecurityAccess: the node is locked and no access key was given"
                    )
                yield from self._request(send_key(self._access_key(seed, self.node.serial)))
            except RefusedAnswerError as error:
                if error.nrc == Nrc.INVALID_KEY:
                    wrong_keys += 1
                    if wrong_keys == 2:
                        # A second seed rules out that an old answer crossed a new question.
                        raise AbortError(FailureCause.ACCESS_DENIED, str(error)) from error
                elif error.nrc in {Nrc.EXCEEDED_NUMBER_OF_ATTEMPTS, Nrc.REQUIRED_TIME_DELAY_NOT_EXPIRED}:
                    yield from self._pause(self._timing.access_pause_ns)
                elif error.nrc != Nrc.REQUEST_SEQUENCE_ERROR:
                    # A sequence error: the answer to the key was lost and the node is unlocked; the next seed shows it.
                    raise
            else:
                return
        raise AbortError(
            FailureCause.ACCESS_DENIED,
            f"SecurityAccess: expected a node that takes keys, got refusals {self._timing.access_tries} times",
        )

    def _finish(self, event: EventT) -> None:
        self._events.append(event)
        self.finished = True
        self._link.abort()
        self._outstanding = None
        self._deadline_ns = self._wake_ns = None

    # ---- one request

    def _advance(self, reply: _Reply, now_ns: int) -> None:
        """Resume the procedure with *reply* and start what it wants next."""
        assert self._running is not None
        self._outstanding = None
        self._deadline_ns = self._wake_ns = None
        try:
            step = self._running.send(reply)
        except StopIteration:
            assert self.finished, "a procedure ended without an event"
            return
        if isinstance(step, _Pause):
            self._wake_ns = now_ns + step.duration_ns
            return
        self._outstanding = step
        self._tries_left = step.tries
        self._pending_left = self._timing.pending_max
        self._busy_left = self._timing.busy_tries
        self._transmit(now_ns)

    def _transmit(self, now_ns: int) -> None:
        assert self._outstanding is not None
        self._deadline_ns = None
        self._link.abort()
        if self._is_session_open and not self._dialect.functional_tester_present and now_ns >= self._tester_due_ns:
            self._tester_due_ns = now_ns + self._timing.tester_present_ns
            self._link.send(TESTER_PRESENT, now_ns)
        self._link.send(self._outstanding.call.payload, now_ns)

    def _watch_answer(self, now_ns: int) -> None:
        """Start waiting for the answer once the whole request has been handed out."""
        request = self._outstanding
        if request is None or self._deadline_ns is not None or self._wake_ns is not None or self._link.is_sending:
            return
        timeout_ns = self._p2_ns + self._timing.margin_ns if request.timeout_ns is None else request.timeout_ns
        frames = self._link.parameters.frames_of(len(request.call.payload))
        self._deadline_ns = now_ns + timeout_ns + frames * self._timing.frame_ns

    def _take_in(self, now_ns: int) -> None:
        while not self.finished and (error := self._link.next_error()) is not None:
            self._link_failed(error, now_ns)
        while not self.finished and (message := self._link.next_message()) is not None:
            self._message_received(message, now_ns)

    def _link_failed(self, error: IsoTpError, now_ns: int) -> None:
        if self._outstanding is None or self._wake_ns is not None:
            return
        if error.is_send_lost or (error.is_receive_lost and self._deadline_ns is not None):
            self._try_failed(error.fault.value, now_ns)

    def _try_failed(self, detail: str, now_ns: int) -> None:
        self._tries_left -= 1
        if self._tries_left > 0:
            self._transmit(now_ns)
        else:
            self._advance(_Silence(detail), now_ns)

    def _message_received(self, message: bytes, now_ns: int) -> None:
        request = self._outstanding
        if request is None or self._link.is_sending or self._wake_ns is not None:
            return  # An answer to something we no longer wait for.
        response = Response.from_payload(message)
        if not response.valid or response.service is not request.call.service:
            return
        if message[0] != _NEGATIVE:
            value = request.call.read(response)
            if value is not None:
                self._advance(_Positive(value), now_ns)
        elif response.code == Nrc.RESPONSE_PENDING:
            if self._pending_left:
                self._pending_left -= 1
                self._deadline_ns = now_ns + self._p2_star_ns + self._timing.margin_ns
        elif response.code == Nrc.BUSY_REPEAT_REQUEST and self._busy_left:
            self._busy_left -= 1
            self._deadline_ns = None
            self._wake_ns = now_ns + self._timing.busy_pause_ns
        else:
            assert response.code is not None
            self._advance(_Negative(response.code), now_ns)

    # ---- the session

    @property
    def _may_tell_presence(self) -> bool:
        """To this node alone only between messages: a frame of our own in between would end either."""
        return self._dialect.functional_tester_present or not (self._link.is_sending or self._link.is_receiving)

    def _tester_presence(self, now_ns: int) -> list[CanFrame]:
        if not self._is_session_open or now_ns < self._tester_due_ns or not self._may_tell_presence:
            return []
        self._tester_due_ns = now_ns + self._timing.tester_present_ns
        link = self._functional if self._dialect.functional_tester_present else self._link
        link.send(TESTER_PRESENT, now_ns)
        return link.frames_to_send(now_ns)


class RetryingExchange(UdsExchange[EventT]):
    """An exchange that starts again after an interruption, as long as that can help. Its procedure is `_attempt`."""

    def __init__(
        self,
        address: UdsAddress,
        *,
        position: int,
        dialect: UdsDialect | None = None,
        access_key: AccessKey | None = None,
        timing: UdsTiming | None = None,
        transport: IsoTpParameters | None = None,
    ) -> None:
        super().__init__(
            address, position=position, dialect=dialect, access_key=access_key, timing=timing, transport=transport
        )
        self._interruptions_left = self._timing.interruptions_max

        self._last_refusal = ""
        """The node's last refusal since it got further than ever before."""

    @abstractmethod
    def _attempt(self) -> Procedure[EventT]:
        """The whole exchange, from finding the node on; the event it ends with."""

    @abstractmethod
    def _fail(self, cause: FailureCause, detail: str) -> None:
        """End the exchange: it cannot be done."""

    def _broke_off(self, detail: str) -> None:
        """It begins anew."""

    def _procedure(self) -> Procedure[None]:
        while not self.finished:
            self._close()
            try:
                self._finish((yield from self._attempt()))
            except (RestartExchangeError, SilentError) as error:
                self._interrupted(str(error))
            except RefusedAnswerError as error:
                self._refused(error)
            except AbortError as error:
                self._fail(error.cause, error.detail)

    def _refused(self, error: RefusedAnswerError) -> None:
        has_profile = self._dialect.has_profile
        cause = cause_of_refusal(error.nrc, has_profile=has_profile)
        detail, before = str(error), self._last_refusal
        self._last_refusal = detail
        if cause is not None:
            self._fail(cause, detail)
        elif detail == before and error.nrc in FINAL_WHEN_REPEATED:
            is_damaged = has_profile and error.nrc == Nrc.DAMAGED
            self._fail(FailureCause.DAMAGED if is_damaged else FailureCause.REFUSED, f"{detail}, twice")
        else:
            # Our own nodes refuse like this when they have restarted; of others only the code is known.
            self._interrupted(detail, FailureCause.NO_PROGRESS if has_profile else FailureCause.REFUSED)

    def _interrupted(self, detail: str, cause: FailureCause = FailureCause.NO_PROGRESS) -> None:
        if not self._interruptions_left:
            self._fail(cause, detail)
            return
        self._interruptions_left -= 1
        self._broke_off(detail)

    def _find(self) -> Procedure[NodeDescription]:
        try:
            return (yield from self._identify())
        except SilentError as error:
            raise AbortError(FailureCause.NODE_SILENT, f"node {self._position}: {error}") from error


def _text(value: bytes) -> str:
    # Identity is shown to people and compared; a byte that is no ASCII must not end the exchange.
    return value.rstrip(b"\0 ").decode("ascii", "replace")


def _slot(number: int) -> int | None:
    return None if number == NO_SLOT else number


def _says_digest(values: Mapping[int, bytes]) -> bool:
    return bool(NODE_KIND_LAYOUT.parse(values[Did.NODE_KIND]).capabilities & Capability.IMAGE_DIGEST)


def _description(position: int, values: Mapping[int, bytes]) -> NodeDescription:
    """What the identifiers say.

    Raises:
        ImpossibleIdentityError: what no node can be.
    """
    kind = NODE_KIND_LAYOUT.parse(values[Did.NODE_KIND])
    boot = BOOT_STATE_LAYOUT.parse(values[Did.BOOT_STATE])
    version = _text(values[Did.SOFTWARE_VERSION])
    try:
        parsed = ImageVersion.parse(version) if version else ImageVersion()
    except ImageError as error:
        raise ImpossibleIdentityError(str(error)) from error
    return NodeDescription(
        position=position,
        role=identity_enum("role", ImageRole, kind.role),
        hwid=identity_text("hwid", values[Did.HARDWARE_ID]),
        serial=identity_text("serial", values[Did.SERIAL_NUMBER]),
        class_id=identity_class(values[Did.HARDWARE_CLASS]),
        version=parsed,
        security_counter=int.from_bytes(values[Did.SECURITY_COUNTER], "big"),
        state=identity_enum("node state", NodeMode, boot.node_state),
        boot_reason=identity_enum("boot reason", BootReason, boot.boot_reason),
        slot_states=(
            identity_enum("state of slot A", SlotState, boot.slot_a_state),
            identity_enum("state of slot B", SlotState, boot.slot_b_state),
        ),
        active_slot=identity_slot("active slot", _slot(boot.active_slot)),
        running_slot=identity_slot("running slot", _slot(boot.running_slot)),
        protocol_version=int(kind.profile_version),
        protocol_version_min=int(kind.profile_version),
        capabilities=Capability(kind.capabilities),
        boot_id=int.from_bytes(values[Did.BOOT_ID], "big"),
        slot_size_kib=int(kind.slot_size_kib),
        image_sha256=identity_digest(values[Did.IMAGE_DIGEST]) if Did.IMAGE_DIGEST in values else None,
    )
