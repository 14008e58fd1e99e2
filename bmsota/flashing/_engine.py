"""One operation over several nodes: discover, flash, activate, confirm, revert, restart, leave.

Sans-IO, with the same surface as the machines it runs: `receive_frame`, `frames_to_send`, `next_event`, `next_timeout`,
`handle_timeout`. An operation is a list of steps; a step is one machine of the profile (a transfer, a command) on one
node. When a step fails, the later steps of the same node are left out and those of the others run: one dead slave
must not hide the state of the rest.

What goes over the wire is the profile's business (`_profile`).
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING

from bmsota.errors import LocalProtocolError
from bmsota.image import parse_image
from bmsota.node import (
    BlockAccepted,
    BlockRepeated,
    CommandFailed,
    CommandSucceeded,
    FailureCause,
    ImageVerified,
    NodeCommand,
    NodeEvent,
    NodeFound,
    NodeRefused,
    NodeResult,
    TransferFailed,
    TransferInterrupted,
    TransferStarted,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from bmsota.canframe import CanFrame
    from bmsota.flashing._profile import FlashingProfile
    from bmsota.image import ImageVersion
    from bmsota.node import FinishingCanProtocol, FlashJob, NodeDescription


@dataclass(frozen=True, slots=True)
class TransferBegun:
    """The node wants the image from `offset` on: 0, or more when part of it is already there."""

    position: int
    offset: int
    size_bytes: int
    is_compressed: bool = False
    """Whether what goes over the wire is compressed, and not the image itself."""
    stream: tuple[int, ...] = ()
    """The nodes that get the image with this transfer: this one alone, or all of a broadcast."""


@dataclass(frozen=True, slots=True)
class TransferProgressed:
    """The node has everything before `next_offset`."""

    position: int
    next_offset: int
    size_bytes: int


@dataclass(frozen=True, slots=True)
class FramesRepeated:
    """Frames had to be sent again."""

    position: int
    frames: int


@dataclass(frozen=True, slots=True)
class TransferBroken:
    """A transfer broke off; it is taken up again by itself."""

    position: int
    detail: str


@dataclass(frozen=True, slots=True)
class NodeDone:
    """A step (an operation has one or two a node) is over."""

    result: NodeResult


@dataclass(frozen=True, slots=True)
class NodesDiscovered:
    """Who answered, by rising position."""

    nodes: tuple[NodeDescription, ...]
    refused: tuple[NodeResult, ...] = ()
    """Those that answered and are not counted as nodes, because they said what no node can be: with cause and detail."""


@dataclass(frozen=True, slots=True)
class OperationFinished:
    """Every step is done or left out."""

    operation: str
    results: tuple[NodeResult, ...]


EngineEvent = (
    TransferBegun
    | TransferProgressed
    | FramesRepeated
    | TransferBroken
    | NodeDone
    | NodesDiscovered
    | OperationFinished
)


@dataclass(frozen=True, slots=True)
class _Step:
    positions: tuple[int, ...]
    make: Callable[[], FinishingCanProtocol[object]]
    alone: Callable[[int], FinishingCanProtocol[object]] | None = None
    """Of a step with several nodes: the same for one of them."""


class FlashingEngine:
    """Runs one operation at a time over a bus."""

    def __init__(self, profile: FlashingProfile) -> None:
        self._profile = profile
        self._steps: deque[_Step] = deque()
        self._machine: FinishingCanProtocol[object] | None = None
        self._step: _Step | None = None
        self._pending: set[int] = set()
        """Positions whose result of this step is still to come."""
        self._operation = ""
        self._results: dict[int, NodeResult] = {}
        self._found: dict[int, NodeDescription] = {}
        self._refused: list[NodeResult] = []
        self._events: deque[EngineEvent] = deque()

    @property
    def is_idle(self) -> bool:
        """Whether a new operation may begin."""
        return self._machine is None

    # -- operations ----------------------------------------------------------------------------------------------------

    def discover(self, positions: Iterable[int] = ()) -> None:
        """Find the nodes; *positions* are addressed one by one if they do not answer. Ends in `NodesDiscovered`."""
        expected = tuple(positions)
        self._begin("discover", [_Step((0,), lambda: self._profile.discovery(expected))])

    def flash(self, jobs: Sequence[FlashJob]) -> None:
        """Stage an image on each node; nothing runs it yet. Nodes with the same image get it at once, if the profile can.

        Raises:
            ImageError: one of the jobs has no image. Nothing has begun.
        """
        by_image: dict[bytes, list[int]] = {}
        for job in jobs:
            by_image.setdefault(job.image, []).append(job.position)
        for image in by_image:
            parse_image(image)
        steps: list[_Step] = []
        for image, positions in by_image.items():
            steps += self._transfers(tuple(positions), image)
        self._begin("flash", steps)

    def activate(self, positions: Sequence[int]) -> None:
        """Let each node boot its staged image for a test."""
        self._begin("activate", self._commands(positions, NodeCommand.ACTIVATE_TEST, NodeCommand.RESET))

    def confirm(self, versions: Sequence[tuple[int, ImageVersion]], *, raise_counter: bool) -> None:
        """Make what runs permanent, if it is the version said. Without *raise_counter* `revert` remains possible."""
        self._begin(
            "confirm",
            [
                self._command(position, NodeCommand.CONFIRM, raise_counter=raise_counter, expected_version=version)
                for position, version in versions
            ],
        )

    def revert(self, positions: Sequence[int]) -> None:
        """Revert each node to the image it had, and restart it."""
        self._begin("revert", self._commands(positions, NodeCommand.REVERT, NodeCommand.RESET))

    def restart(self, positions: Sequence[int]) -> None:
        """Restart each node; one that was in its bootloader runs its application again."""
        self._begin("restart", self._commands(positions, NodeCommand.RESET))

    def leave(self, positions: Sequence[int]) -> None:
        """End each node's session without a restart: its application resumes, what is staged stays."""
        self._begin("leave", self._commands(positions, NodeCommand.LEAVE_BOOTLOADER))

    def cancel(self) -> None:
        """Forget the operation under way, as a loss of power does."""
        self._steps.clear()
        self._machine = None
        self._events.clear()

    def _transfers(self, positions: tuple[int, ...], image: bytes) -> list[_Step]:
        if len(positions) > 1 and len(set(positions)) == len(positions):
            machine = self._profile.broadcast(positions, image)
            if machine is not None:
                alone = partial(self._profile.transfer, image=image)
                return [_Step(positions, lambda: machine, alone)]
        return [_Step((position,), partial(self._profile.transfer, position, image)) for position in positions]

    def _commands(self, positions: Sequence[int], *commands: NodeCommand) -> list[_Step]:
        return [self._command(position, command) for position in positions for command in commands]

    def _command(
        self,
        position: int,
        command: NodeCommand,
        *,
        raise_counter: bool = True,
        expected_version: ImageVersion | None = None,
    ) -> _Step:
        return _Step(
            (position,),
            lambda: self._profile.command(
                position, command, raise_counter=raise_counter, expected_version=expected_version
            ),
        )

    # -- the machine surface -------------------------------------------------------------------------------------------

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """A frame was on the bus."""
        if self._machine is not None:
            self._machine.receive_frame(frame, now_ns)
            self._collect()

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        """What to put on the bus now."""
        return [] if self._machine is None else self._machine.frames_to_send(now_ns)

    def next_event(self) -> EngineEvent | None:
        """What happened, oldest first."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> int | None:
        """When `handle_timeout` wants to be called."""
        return None if self._machine is None else self._machine.next_timeout()

    def handle_timeout(self, now_ns: int) -> None:
        """Do what is due; nothing before its time."""
        if self._machine is not None:
            self._machine.handle_timeout(now_ns)
            self._collect()

    # -- inside --------------------------------------------------------------------------------------------------------

    def _begin(self, operation: str, steps: list[_Step]) -> None:
        if self._machine is not None:
            raise LocalProtocolError(f"engine: expected no operation under way, got {self._operation!r}")
        self._operation = operation
        self._results = {}
        self._found = {}
        self._refused = []
        self._steps = deque(steps)
        self._next_step()

    def _next_step(self) -> None:
        self._machine = None
        while self._steps:
            step = self._steps.popleft()
            if any(not result.ok for at in step.positions if (result := self._results.get(at)) is not None):
                continue
            self._step = step
            self._pending = set(step.positions)
            self._machine = step.make()
            return
        if self._operation != "discover":
            results = tuple(self._results[position] for position in sorted(self._results))
            self._events.append(OperationFinished(self._operation, results))

    def _collect(self) -> None:
        """Take what the machine says; when its step is over, start the next."""
        machine = self._machine
        assert machine is not None
        alone = next(iter(self._pending), 0) if len(self._pending) == 1 else 0
        while (event := machine.next_event()) is not None:
            if isinstance(event, NodeEvent):
                self._take(event.position, event.event)
            else:
                self._take(alone, event)
        if self._operation == "discover":
            if machine.finished:
                self._machine = None
                found = tuple(self._found[position] for position in sorted(self._found))
                self._events.append(NodesDiscovered(found, tuple(self._refused)))
        elif not self._pending:
            self._next_step()

    def _take(self, position: int, event: object) -> None:
        match event:
            case NodeFound(node):
                self._found[node.position] = node
            case NodeRefused(refused_position, detail):
                cause = FailureCause.BAD_IDENTITY
                self._refused.append(NodeResult(refused_position, False, f"{cause.value}: {detail}", cause=cause))
            case TransferStarted(offset, size_bytes, is_compressed):
                stream = (position,) if self._step is None else self._step.positions
                self._events.append(TransferBegun(position, offset, size_bytes, is_compressed, stream))
            case BlockAccepted(next_offset, size_bytes):
                self._events.append(TransferProgressed(position, next_offset, size_bytes))
            case BlockRepeated(_, frames):
                self._events.append(FramesRepeated(position, frames))
            case TransferInterrupted(detail):
                self._events.append(TransferBroken(position, detail))
            case ImageVerified() | CommandSucceeded():
                self._end(NodeResult(position, ok=True))
            case TransferFailed(cause=FailureCause.CAPABILITY_MISSING) if self._serve_alone(position):
                pass
            case TransferFailed() | CommandFailed():
                detail = f"{event.cause.value}: {event.detail}"
                self._end(NodeResult(position, False, detail, event.safe_to_run_again, event.cause))
            case _:
                # Connected: of interest to a tool that shows one node, not to an operation.
                pass

    def _end(self, result: NodeResult) -> None:
        """One node of this step is done."""
        self._results[result.position] = result
        self._pending.discard(result.position)
        self._events.append(NodeDone(result))

    def _serve_alone(self, position: int) -> bool:
        """A node that cannot do what the others do together has its turn behind them; false if it is alone already."""
        step = self._step
        assert step is not None
        if step.alone is None:
            return False
        self._pending.discard(position)
        self._steps.appendleft(_Step((position,), partial(step.alone, position)))
        return True
