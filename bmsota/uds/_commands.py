"""Commands to one node, and discovery.

A command is a short exchange: identify, open a session, prove access if the node wants it, start a routine or reset. How a restart is distinguished
from a lost answer: a node of ours draws a new boot id at every boot. The reset itself is sent once for each look at the boot id, never
repeated blindly: a node restarted twice reverts its image in test.

A node without our profile has no test boot: the last routine of its transfer has made the image valid. ACTIVATE_TEST finds nothing left to do there,
CONFIRM compares the version, REVERT is refused.
"""

from __future__ import annotations

import contextlib
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar

from bmsota.errors import LocalProtocolError
from bmsota.node import (
    CommandEvent,
    CommandFailed,
    CommandSucceeded,
    DiscoveryEvent,
    FailureCause,
    NodeCommand,
    NodeFound,
    NodeMode,
    NodeRefused,
)
from bmsota.uds._dialect import UdsDialect
from bmsota.uds._exchange import AbortError, RefusedAnswerError, RetryingExchange, SilentError, UdsExchange
from bmsota.uds._identifiers import BOOT_STATE_LAYOUT, NO_SLOT, Did, Routine, Session
from bmsota.uds._isotp import IsoTpLink
from bmsota.uds._services import read_dids, reset, start_routine, start_session, tester_present
from bmsota.uds._timing import UdsTiming

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from bmsota.canframe import CanFrame
    from bmsota.image import ImageVersion
    from bmsota.node import NodeDescription
    from bmsota.uds._access import AccessKey
    from bmsota.uds._addressing import UdsAddress, UdsAddressing
    from bmsota.uds._exchange import Procedure
    from bmsota.uds._isotp import IsoTpParameters

_ExchangeT = TypeVar("_ExchangeT", bound=UdsExchange[Any])


class UdsCommand(RetryingExchange[CommandEvent]):
    """Gives one command to the node at *address*. Safe to run again, whatever became of an earlier run.

    DISCOVER only reads what the node says of itself (version, states): it is the event's and this object's `node`.
    With *expected_version* the command fails unless this version runs: behind a RESET, before every other command. Give it
    to CONFIRM: a node that has reverted meanwhile would confirm its old image and say OK.

    Raises:
        LocalProtocolError: *command* belongs to a transfer.
    """

    def __init__(
        self,
        address: UdsAddress,
        *,
        position: int,
        command: NodeCommand,
        raise_counter: bool = True,
        expected_version: ImageVersion | None = None,
        dialect: UdsDialect | None = None,
        access_key: AccessKey | None = None,
        timing: UdsTiming | None = None,
        transport: IsoTpParameters | None = None,
    ) -> None:
        self._acts: Mapping[NodeCommand, Callable[[], Procedure[None]]] = {
            NodeCommand.DISCOVER: self._do_nothing,
            NodeCommand.ENTER_BOOTLOADER: self._enter,
            NodeCommand.LEAVE_BOOTLOADER: self._leave,
            NodeCommand.ACTIVATE_TEST: self._activate,
            NodeCommand.CONFIRM: self._confirm,
            NodeCommand.REVERT: self._revert,
            NodeCommand.RESET: self._reset,
        }
        if command not in self._acts:
            raise LocalProtocolError(f"command: expected one that stands alone, got {command.name}")
        super().__init__(
            address, position=position, dialect=dialect, access_key=access_key, timing=timing, transport=transport
        )
        self.command = command
        self._raise_counter = raise_counter
        self._expected_version = expected_version
        self._boot_id_before: int | None = None

    # ---- the exchange

    def _attempt(self) -> Procedure[CommandEvent]:
        node = yield from self._find()
        is_reset = self.command is NodeCommand.RESET
        if not is_reset:
            self._check_version(node)
        yield from self._acts[self.command]()
        assert self.node is not None
        if is_reset:
            self._check_version(self.node)
        return CommandSucceeded(self.command, self.node)

    def _check_version(self, node: NodeDescription) -> None:
        expected = self._expected_version
        if expected is not None and node.version != expected:
            detail = f"{self.command.name}: expected version {expected}, got {node.version}"
            raise AbortError(FailureCause.WRONG_VERSION, detail)

    # ---- the commands

    def _do_nothing(self) -> Procedure[None]:
        yield from ()

    def _enter(self) -> Procedure[None]:
        yield from self._open(Session.PROGRAMMING)
        yield from self._unlock()

    def _leave(self) -> Procedure[None]:
        yield from self._request(start_session(Session.DEFAULT))

    def _activate(self) -> Procedure[None]:
        if self._dialect.has_profile:
            yield from self._run_routine(Routine.CHECK_DEPENDENCIES)

    def _confirm(self) -> Procedure[None]:
        if self._dialect.has_profile:
            yield from self._run_routine(Routine.CONFIRM, bytes([self._raise_counter]))

    def _revert(self) -> Procedure[None]:
        if not self._dialect.has_profile:
            raise AbortError(FailureCause.REFUSED, "REVERT: a node without our profile has no image to go back to")
        yield from self._run_routine(Routine.REVERT)

    def _run_routine(self, routine: Routine, record: bytes = b"") -> Procedure[None]:
        yield from self._open(Session.EXTENDED)
        yield from self._unlock()
        yield from self._request(start_routine(routine, record))

    def _reset(self) -> Procedure[None]:
        assert self.node is not None
        before = self.node.boot_id
        if self._dialect.has_profile and self._boot_id_before not in {None, before}:
            return  # The reset of an earlier attempt has happened; only its answer was lost.
        self._boot_id_before = before
        yield from self._open(Session.EXTENDED)
        yield from self._request(reset(self._dialect.reset_type), tries=1)
        self._close()
        if not self._dialect.has_profile:
            yield from self._pause(self._timing.restart_wait_ns)
            yield from self._find()
            return
        for _ in range(self._timing.discover_tries):
            yield from self._pause(self._timing.discover_timeout_ns)
            node = yield from self._find()
            if node.boot_id != before:
                return
        raise AbortError(FailureCause.NODE_SILENT, f"node {self._position} did not restart")

    # ---- the end

    def _fail(self, cause: FailureCause, detail: str) -> None:
        self._finish(CommandFailed(command=self.command, cause=cause, detail=detail, node=self.node))


class _Identification(UdsExchange[None]):
    """Asks one node who it is; `node` stays None if it does not say, or says what no node can be (`problem`).

    Whether it is there at all is asked in single frames. One that is there and cannot be understood on a bad bus gets more
    tries: an identity is thirty frames, of which none may be lost.
    """

    problem = ""

    def _procedure(self) -> Procedure[None]:
        timing = self._timing
        try:
            rounds = timing.discover_rounds
            yield from self._request(tester_present(), tries=rounds, timeout_ns=timing.discover_timeout_ns)
            while self.node is None and rounds:
                rounds -= 1
                with contextlib.suppress(SilentError):
                    yield from self._identify(tries=timing.request_tries)
        except (SilentError, RefusedAnswerError):
            self.node = None
        except AbortError as error:
            self.node = None
            if error.cause is FailureCause.BAD_IDENTITY:
                self.problem = error.detail
        self._finish(None)


class _Hold(UdsExchange[None]):
    """Keeps one node in its bootloader if it is in its boot window: it opens the programming session.

    A node that runs its application, has none or holds already is left as it is.
    """

    def _procedure(self) -> Procedure[None]:
        try:
            states = yield from self._request(read_dids((Did.BOOT_STATE,)))
            boot = BOOT_STATE_LAYOUT.parse(states[Did.BOOT_STATE])
            if boot.node_state == NodeMode.BOOTLOADER and boot.running_slot != NO_SLOT:
                sessions = yield from self._request(read_dids((Did.ACTIVE_SESSION,)))
                if sessions[Did.ACTIVE_SESSION] != bytes([Session.PROGRAMMING]):
                    yield from self._request(start_session(Session.PROGRAMMING))
        except (SilentError, RefusedAnswerError, AbortError):
            pass  # It is told by its identification, or by its absence.
        self._finish(None)


class UdsDiscovery:
    """Asks who is there: all nodes at once, then each that answered or was expected, by name.

    The first question is TesterPresent to the functional id, which every node answers in a single frame; what a node
    is takes longer answers, which need an exchange with each. `nodes` is what is known; it is complete when `finished`.

    With *holds_nodes* a node of ours that is in its boot window is kept in its bootloader by a programming session. It returns to its
    application by DiagnosticSessionControl or 5 s (S3) behind the last TesterPresent; every discovery sends some.

    Raises:
        LocalProtocolError: one of *positions* has no ids.
    """

    def __init__(
        self,
        addressing: UdsAddressing,
        *,
        positions: Iterable[int] = (),
        dialect: UdsDialect | None = None,
        timing: UdsTiming | None = None,
        transport: IsoTpParameters | None = None,
        holds_nodes: bool = False,
    ) -> None:
        self._addressing = addressing
        self._dialect = dialect
        self._timing = timing or UdsTiming()
        self._transport = transport
        self._wanted = set(positions)
        for position in self._wanted:
            addressing.address(position)
        self._functional = IsoTpLink(
            transmit_id=addressing.functional_id,
            receive_id=addressing.response_id,
            is_extended_id=addressing.is_extended_id,
            parameters=transport,
        )
        # The one question, or one of its answers, may be lost: it is asked twice.
        self._rounds_left = 2
        self._is_asking = True
        self._deadline_ns: int | None = None
        self._may_hold = holds_nodes and (dialect or UdsDialect()).has_profile
        self._heard: set[int] = set()
        self._to_hold: deque[int] = deque()
        self._queue: deque[int] = deque()
        self._current: _Identification | _Hold | None = None
        self._position = 0
        self._events: deque[DiscoveryEvent] = deque()
        self.nodes: dict[int, NodeDescription] = {}
        self.finished = False

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """Take a frame from the bus."""
        if self._current is not None:
            self._current.receive_frame(frame, now_ns)
            self._take_in()
            return
        position = self._addressing.position_of(frame)
        if position is None or self.finished:
            return
        self._wanted.add(position)
        if self._may_hold and position not in self._heard:
            self._heard.add(position)
            self._to_hold.append(position)
        # The end of the round is silence: as long as answers come, others may be waiting for the bus.
        if self._deadline_ns is not None:
            self._deadline_ns = now_ns + self._timing.discover_timeout_ns

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        if self._current is not None:
            frames = self._current.frames_to_send(now_ns)
            self._take_in()
            return frames
        if not self._is_asking or self.finished:
            return []
        self._is_asking = False
        self._deadline_ns = now_ns + self._timing.discover_timeout_ns
        self._functional.send(tester_present().payload, now_ns)
        return self._functional.frames_to_send(now_ns)

    def next_event(self) -> DiscoveryEvent | None:
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> int | None:
        if self._current is not None:
            return self._current.next_timeout()
        return 0 if self._is_asking and not self.finished else self._deadline_ns

    def handle_timeout(self, now_ns: int) -> None:
        if self._current is not None:
            self._current.handle_timeout(now_ns)
            self._take_in()
        elif self._deadline_ns is not None and now_ns >= self._deadline_ns:
            self._deadline_ns = None
            self._rounds_left -= 1
            if not self._rounds_left:
                self._queue.extend(sorted(self._wanted))
            self._next_node()

    def _take_in(self) -> None:
        if self._current is not None and self._current.finished:
            if isinstance(self._current, _Hold):
                self._next_node()
                return
            node = self._current.node
            if node is not None:
                self.nodes[self._position] = node
                self._events.append(NodeFound(node))
            elif self._current.problem:
                self._events.append(NodeRefused(self._position, self._current.problem))
            self._next_node()

    def _next_node(self) -> None:
        """Hold who is to be held, at once: a boot window is short. Then ask all again, then each who it is."""
        self._current = None
        if self._to_hold:
            self._current = self._exchange(_Hold, self._to_hold.popleft())
        elif self._rounds_left:
            self._is_asking = True
        elif self._queue:
            self._current = self._exchange(_Identification, self._queue.popleft())
        else:
            self.finished = True

    def _exchange(self, kind: type[_ExchangeT], position: int) -> _ExchangeT:
        self._position = position
        return kind(
            self._addressing.address(position),
            position=position,
            dialect=self._dialect,
            timing=self._timing,
            transport=self._transport,
        )
