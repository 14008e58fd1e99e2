"""Commands to one node, and discovery.

`BootloaderCommand` finds the node, gives one command, and after RESET waits until the node has come back::

    DISCOVERING --IDENTIFIED--> COMMANDING --DONE--> FINISHED
      ^  |                        ^  |  |
      |  +--LOCKED--> UNLOCKING --+  |  +--RESET_DONE--> RESTARTING --RESTARTED--> FINISHED
      +-----INTERRUPTED--+-----------+
     any of them --REFUSED, GAVE_UP--> FAILED

How a restart is distinguished from a lost answer: a node forgets its `LastTag` when it restarts. A node that reports 0 behind a
reset has restarted; so before RESET we make sure that it has a tag to forget.
"""

from __future__ import annotations

from collections import deque
from enum import Enum, auto
from typing import TYPE_CHECKING

from bmsota.bootloader._exchange import Exchange, IdentityCollector, other_protocol, shared_protocol
from bmsota.bootloader._messages import ALL_NODES, Request, ResultReply
from bmsota.bootloader._timing import BootloaderTiming
from bmsota.errors import LocalProtocolError
from bmsota.node import (
    POSITION_MAX,
    CommandEvent,
    CommandFailed,
    CommandSucceeded,
    DiscoveryEvent,
    FailureCause,
    NodeCommand,
    NodeDescription,
    NodeFound,
    NodeRefused,
    ResultCode,
    check_position,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from bmsota.bootloader._messages import Reply
    from bmsota.bootloader._wire import BootloaderWire
    from bmsota.canframe import CanFrame
    from bmsota.image import ImageVersion
    from bmsota.node import AccessSigner


class CommandState(Enum):
    """Where a command stands."""

    DISCOVERING = auto()
    UNLOCKING = auto()
    COMMANDING = auto()
    RESTARTING = auto()
    FINISHED = auto()
    FAILED = auto()


class CommandStimulus(Enum):
    """What moves it on."""

    IDENTIFIED = auto()
    LOCKED = auto()
    """The node is the right one, and wants security access first."""
    UNLOCKED = auto()
    DONE = auto()
    RESET_DONE = auto()
    """The node is about to restart."""
    RESTARTED = auto()
    INTERRUPTED = auto()
    REFUSED = auto()
    GAVE_UP = auto()


_S, _C = CommandState, CommandStimulus

COMMAND_TRANSITIONS: Mapping[tuple[CommandState, CommandStimulus], CommandState] = {
    (_S.DISCOVERING, _C.IDENTIFIED): _S.COMMANDING,
    (_S.DISCOVERING, _C.LOCKED): _S.UNLOCKING,
    (_S.DISCOVERING, _C.DONE): _S.FINISHED,  # DISCOVER itself, or a reset whose answer was lost
    (_S.DISCOVERING, _C.REFUSED): _S.FAILED,
    (_S.DISCOVERING, _C.GAVE_UP): _S.FAILED,
    (_S.UNLOCKING, _C.UNLOCKED): _S.COMMANDING,
    (_S.UNLOCKING, _C.INTERRUPTED): _S.DISCOVERING,
    (_S.UNLOCKING, _C.REFUSED): _S.FAILED,
    (_S.UNLOCKING, _C.GAVE_UP): _S.FAILED,
    (_S.COMMANDING, _C.DONE): _S.FINISHED,
    (_S.COMMANDING, _C.RESET_DONE): _S.RESTARTING,
    (_S.COMMANDING, _C.INTERRUPTED): _S.DISCOVERING,
    (_S.COMMANDING, _C.REFUSED): _S.FAILED,
    (_S.COMMANDING, _C.GAVE_UP): _S.FAILED,
    (_S.RESTARTING, _C.RESTARTED): _S.FINISHED,
    (_S.RESTARTING, _C.REFUSED): _S.FAILED,  # the wrong version came up
    (_S.RESTARTING, _C.GAVE_UP): _S.FAILED,
}

_COMMANDS = frozenset(
    {
        NodeCommand.DISCOVER,
        NodeCommand.ENTER_BOOTLOADER,
        NodeCommand.ACTIVATE_TEST,
        NodeCommand.RESET,
        NodeCommand.CONFIRM,
        NodeCommand.REVERT,
        NodeCommand.LEAVE_BOOTLOADER,
    }
)

# What changes which image a node runs is for those only who may flash it.
_WANT_ACCESS = frozenset({NodeCommand.ACTIVATE_TEST, NodeCommand.CONFIRM, NodeCommand.REVERT})


class BootloaderCommand(Exchange[CommandEvent]):
    """Gives one command to the node at *position*. Safe to run again, whatever became of an earlier run.

    DISCOVER only reads what the node says of itself (version, states): it is the event's and this object's `node`.
    With *expected_version* the command fails unless this version runs: behind a RESET, before every other command. Give it
    to CONFIRM: a node that has reverted meanwhile would confirm its old image and say OK.

    Raises:
        LocalProtocolError: *position* is not on the bus, or *command* belongs to a transfer.
    """

    def __init__(
        self,
        wire: BootloaderWire,
        *,
        position: int,
        command: NodeCommand,
        raise_counter: bool = True,
        expected_version: ImageVersion | None = None,
        timing: BootloaderTiming | None = None,
        access_signer: AccessSigner | None = None,
    ) -> None:
        if command not in _COMMANDS:
            raise LocalProtocolError(f"command: expected one that stands alone, got {command.name}")
        super().__init__(wire, position=position, timing=timing or BootloaderTiming(), access_signer=access_signer)
        self.command = command
        self.state = CommandState.DISCOVERING
        self._raise_counter = raise_counter
        self._expected_version = expected_version
        self._was_sent = False
        self._interruptions_left = self._timing.interruptions_max
        self._restart_tries_left = 0
        self._discover()

    def _identified(self, node: NodeDescription, now_ns: int) -> None:
        versions = node.protocol_version_min, node.protocol_version
        if self.state is CommandState.RESTARTING:
            if self._has_forgotten:
                self._succeed(CommandStimulus.RESTARTED, node)
            else:
                # Still on its way down. The pause until the next question is one Discover timeout.
                self._wait_for_restart(now_ns)
        elif self.command is NodeCommand.DISCOVER or (
            self.command is NodeCommand.RESET and self._was_sent and self._has_forgotten
        ):
            self._succeed(CommandStimulus.DONE, node)
        elif self.command is not NodeCommand.RESET and not self._is_expected(node):
            self._fail_by_version(node)
        elif shared_protocol(*versions) is None:
            self._refuse(FailureCause.PROTOCOL_VERSION, other_protocol(*versions))
        elif self.command in _WANT_ACCESS and self._needs_access():
            self.state = COMMAND_TRANSITIONS[self.state, CommandStimulus.LOCKED]
            self._unlock()
        else:
            self.state = COMMAND_TRANSITIONS[self.state, CommandStimulus.IDENTIFIED]
            needs_tag = self.command is NodeCommand.RESET and self._has_forgotten
            # Harmless: the reset that follows ends a session anyway.
            self._give(NodeCommand.LEAVE_BOOTLOADER if needs_tag else self.command)

    @property
    def _has_forgotten(self) -> bool:
        """Whether the node has done no command since its boot."""
        return self.details is not None and self.details.last_tag == 0

    def _is_expected(self, node: NodeDescription) -> bool:
        return self._expected_version is None or node.version == self._expected_version

    def _fail_by_version(self, node: NodeDescription) -> None:
        detail = f"{self.command.name}: expected version {self._expected_version}, got {node.version}"
        self._fail(CommandStimulus.REFUSED, FailureCause.WRONG_VERSION, detail)

    def _give(self, command: NodeCommand) -> None:
        self._was_sent = self._was_sent or command is self.command
        self._send_request(self._command(command, raise_counter=self._raise_counter and command is NodeCommand.CONFIRM))

    def _answered(self, reply: Reply, now_ns: int) -> None:
        request = self._request
        assert request is not None
        if not isinstance(reply, ResultReply) or (reply.tag, reply.command) != (request.tag, request.command):
            return
        assert self.node is not None
        if request.command is not self.command:
            self._give(self.command)
        elif reply.code == ResultCode.OK:
            if self.command is NodeCommand.RESET:
                self.state = COMMAND_TRANSITIONS[self.state, CommandStimulus.RESET_DONE]
                self._restart_tries_left = self._timing.discover_tries
                self._wait_for_restart(now_ns)
            else:
                self._succeed(CommandStimulus.DONE, self.node)
        else:
            self._bad_result(reply)

    def _unlocked(self) -> None:
        self.state = COMMAND_TRANSITIONS[self.state, CommandStimulus.UNLOCKED]
        self._give(self.command)

    def _refuse(self, cause: FailureCause, detail: str) -> None:
        self._fail(CommandStimulus.REFUSED, cause, detail)

    def _wait_for_restart(self, now_ns: int) -> None:
        self._restart_tries_left -= 1
        if not self._restart_tries_left:
            self._fail(CommandStimulus.GAVE_UP, FailureCause.NODE_SILENT, f"node {self._position} did not restart")
            return
        self._discover()
        self._burst_due_ns = now_ns + self._timing.discover_timeout_ns

    def _unanswered(self, now_ns: int) -> None:  # noqa: ARG002  The base class gives it.
        if self.state in {CommandState.COMMANDING, CommandState.UNLOCKING}:
            assert self._request is not None
            self._interrupt(f"{self._request.command.name}: no answer in {self._timing.reply_tries} tries")
        else:
            tries = self._timing.discover_tries
            detail = f"node {self._position} did not answer in {tries} tries"
            self._fail(CommandStimulus.GAVE_UP, FailureCause.NODE_SILENT, detail)

    def _interrupt(self, detail: str) -> None:
        if not self._interruptions_left:
            self._fail(CommandStimulus.GAVE_UP, FailureCause.NO_PROGRESS, detail)
            return
        self._interruptions_left -= 1
        self.state = COMMAND_TRANSITIONS[self.state, CommandStimulus.INTERRUPTED]
        self._discover()

    def _succeed(self, stimulus: CommandStimulus, node: NodeDescription) -> None:
        if not self._is_expected(node):
            self._fail_by_version(node)
            return
        self.state = COMMAND_TRANSITIONS[self.state, stimulus]
        self._finish(CommandSucceeded(self.command, node))

    def _fail(self, stimulus: CommandStimulus, cause: FailureCause, detail: str) -> None:
        self.state = COMMAND_TRANSITIONS[self.state, stimulus]
        self._finish(CommandFailed(command=self.command, cause=cause, detail=detail, node=self.node))


class BootloaderDiscovery:
    """Asks who is there: all nodes at once, then those by name that answered only in part or were expected.

    `nodes` is what is known; it is complete when `finished`. A node that says of itself what cannot be is asked again in
    every round, and ends as `NodeRefused`.

    With *holds_nodes* a node that is in its bootloader is told to stay there (EnterBootloader), so that one found in its boot window is
    still there when it has been decided what to do with it. It returns to its application by LeaveBootloader or after 60 s of silence.
    """

    def __init__(
        self,
        wire: BootloaderWire,
        *,
        positions: Iterable[int] = (),
        timing: BootloaderTiming | None = None,
        rounds: int = 4,
        holds_nodes: bool = False,
    ) -> None:
        self._wire = wire
        self._holds_nodes = holds_nodes
        self._held: set[int] = set()
        self._timing = timing or BootloaderTiming()
        self._expected = frozenset(positions)
        for position in self._expected:
            check_position(position)
        self._rounds_left = rounds
        """Four rounds: at 20 % loss, of a node's 22 replies, those that may come from several rounds are complete after three."""
        self._collectors = {position: IdentityCollector(position) for position in range(POSITION_MAX + 1)}
        self._events: deque[DiscoveryEvent] = deque()
        self._out: deque[CanFrame] = deque()
        self._deadline_ns: int | None = None
        self.nodes: dict[int, NodeDescription] = {}
        self.finished = False
        requests = [collector.request(ALL_NODES) for collector in self._collectors.values()]
        self._out.append(wire.serialize(requests[0]))  # All collectors are in step: one frame is the request of each.

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """Take a frame from the bus."""
        position = frame.can_id - self._wire.reply_id
        if self.finished or not 0 <= position <= POSITION_MAX or position in self.nodes:
            return
        reply = self._wire.parse(frame)
        if reply is None or isinstance(reply, Request):
            return
        collector = self._collectors[position]
        node = collector.receive(reply)
        if self._holds_nodes and position not in self._held and (hold := collector.hold()) is not None:
            self._held.add(position)
            self._out.append(self._wire.serialize(hold))
        if node is not None:
            self.nodes[position] = node
            self._events.append(NodeFound(node))
        # The end of the round is silence: as long as replies come, others may be waiting for the bus.
        if self._deadline_ns is not None:
            self._deadline_ns = now_ns + self._timing.discover_timeout_ns

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        if not self._out:
            return []
        frames = list(self._out)
        self._out.clear()
        self._deadline_ns = now_ns + self._timing.discover_timeout_ns
        return frames

    def next_event(self) -> DiscoveryEvent | None:
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> int | None:
        return 0 if self._out else self._deadline_ns

    def handle_timeout(self, now_ns: int) -> None:
        if self._out or self._deadline_ns is None or now_ns < self._deadline_ns:
            return
        self._deadline_ns = None
        self._rounds_left -= 1
        self._held &= self.nodes.keys()  # The others are told again: the first may have been lost.
        heard = {position for position, collector in self._collectors.items() if collector.has_heard}
        wanted = sorted((heard | self._expected) - self.nodes.keys())
        if not self._rounds_left or (not wanted and (heard or self._rounds_left < 2)):
            self.finished = True
            self._events.extend(
                NodeRefused(position, collector.problem)
                for position in sorted(heard - self.nodes.keys())
                if (collector := self._collectors[position]).problem
            )
            return
        if wanted:
            self._out.extend(self._wire.serialize(self._collectors[position].request()) for position in wanted)
        else:
            # No node at all: the one request may have been lost.
            requests = [collector.request(ALL_NODES) for collector in self._collectors.values()]
            self._out.append(self._wire.serialize(requests[0]))
