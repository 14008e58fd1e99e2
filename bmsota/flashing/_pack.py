"""Flash a whole pack through one CAN adapter, all or nothing, with the state of every node at the end.

Sans-IO, the same surface as the engine it drives. The phases::

    DISCOVER -> DECIDE -> LOOK_AGAIN -> [REVERT_FIRST] -> STAGE -> ACTIVATE -> READ_BACK -> CONFIRM -> RAISE_COUNTERS -> LOOK
                  |            |             |           |         |           |            |             |             |
                  |            |             +-----------+---------+-----------+------------+             +-- failed ---+
                  |            |                                   v                                                    |
                  |            |                             LOOK_BACK <-> REVERT                                       |
                  |            |                                   |                                                    v
                  +------------+-----------------------------------+------------------------------------> [RELEASE] -> OVER

Everything is staged and verified on every node before the first one restarts. New images then run in test, are read
back, and are confirmed leaves first, the master last; the security counters rise when the last one has confirmed. Until
then every node can go back, and does when one fails: a pack is left mixed only if a node can no longer be reached.

Strategy. After a failure we do not compute what state the nodes are in, we look (LOOK_BACK, LOOK): the answer that was
lost may have been the good one. A stopped run is taken up by the plan of the next one (`plan.Action`), not by memory of
ours: nothing has to be kept on this side.

An image is not a program's success. What "it works" means beyond running and answering is the pack's own self-test,
which the field tool does not see; docs/flash.md says what to look at.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass, field, replace
from enum import Enum
from typing import TYPE_CHECKING, TypeAlias

from bmsota.errors import LocalProtocolError
from bmsota.flashing._checks import Check, Finding, Verdict
from bmsota.flashing._engine import (
    FramesRepeated,
    NodesDiscovered,
    OperationFinished,
    TransferBegun,
    TransferBroken,
    TransferProgressed,
)
from bmsota.flashing._plan import Action
from bmsota.node import (
    FAILURES,
    FailureCause,
    FlashJob,
    ImageStatus,
    NodeMode,
    NodeResult,
    image_status,
    spare_image_status,
)

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bmsota.canframe import CanFrame
    from bmsota.flashing._engine import EngineEvent, FlashingEngine
    from bmsota.flashing._plan import FlashPlan, NodePlan
    from bmsota.node import NodeDescription


class FlashPhase(Enum):
    """What is being done. The value is what people read."""

    DISCOVER = "discovering nodes"
    DECIDE = "waiting for confirmation"
    LOOK_AGAIN = "checking that the nodes have not changed"
    REVERT_FIRST = "reverting unconfirmed images"
    STAGE = "flashing"
    ACTIVATE = "restarting into the new image"
    READ_BACK = "reading versions back"
    CONFIRM = "confirming"
    RAISE_COUNTERS = "raising security counters"
    LOOK_BACK = "checking the state of the nodes"
    REVERT = "reverting"
    LOOK = "final check"
    RELEASE = "leaving the bootloader"
    OVER = "finished"


_ENDING = frozenset({FlashPhase.LOOK, FlashPhase.RELEASE, FlashPhase.OVER})


class FlashOutcome(Enum):
    """How it ended."""

    DONE = "done"
    NOTHING_TO_DO = "nothing to do"
    REFUSED = "refused by the plan"
    DECLINED = "declined"
    FAILED = "failed"
    """No target runs the new image."""
    MIXED = "some nodes done and some not"
    INTERRUPTED = "interrupted"


class TargetStatus(Enum):
    """Which state a node is in, as far as an upgrade is concerned."""

    NOT_ASKED = "not asked"
    """The run was broken off, by the user or by the adapter, before the nodes were looked at."""
    SILENT = "silent"
    NO_IMAGE = "no image"
    OLD = "old"
    OLD_PARTLY_STAGED = "old, new partly staged"
    OLD_STAGED = "old, new staged"
    OLD_PENDING = "old, new pending"
    NEW_TEST = "new, test"
    NEW_REVERTED = "new, reverted"
    NEW_CONFIRMED = "new, counter not raised"
    NEW = "new"


RUNS_NEW = frozenset({TargetStatus.NEW_TEST, TargetStatus.NEW_REVERTED, TargetStatus.NEW_CONFIRMED, TargetStatus.NEW})
"""What runs at this moment is the new image."""


def target_status(node: NodeDescription | None, plan: NodePlan) -> TargetStatus:
    """The state of a target, from what it says of itself now (None: it does not answer).

    What lies staged in the spare slot is not named by the node; that it is the new image is assumed.
    """
    if node is None:
        return TargetStatus.SILENT
    if node.running_slot is None:
        return TargetStatus.NO_IMAGE
    is_again = plan.from_version == plan.to_version and image_status(plan.node) is not ImageStatus.REVERTED
    if plan.action is Action.FLASH and is_again:
        # The same version once more (forced): only the slot distinguishes old from new.
        runs_new = node.running_slot != plan.node.running_slot
    else:
        runs_new = node.version == plan.to_version
    if not runs_new:
        return _OLD.get(spare_image_status(node), TargetStatus.OLD)
    status = _NEW[image_status(node)]
    is_raised = node.security_counter >= plan.security_counter
    return TargetStatus.NEW if status is TargetStatus.NEW_CONFIRMED and is_raised else status


# By the status of the image that does not run.
_OLD: Mapping[ImageStatus, TargetStatus] = {
    ImageStatus.PARTLY_STAGED: TargetStatus.OLD_PARTLY_STAGED,
    ImageStatus.STAGED: TargetStatus.OLD_STAGED,
    ImageStatus.PENDING: TargetStatus.OLD_PENDING,
}
# By the status of the one that does.
_NEW: Mapping[ImageStatus, TargetStatus] = {
    ImageStatus.TEST: TargetStatus.NEW_TEST,
    ImageStatus.REVERTED: TargetStatus.NEW_REVERTED,
    ImageStatus.CONFIRMED: TargetStatus.NEW_CONFIRMED,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class NodeFlashReport:
    """What became of one target."""

    plan: NodePlan
    node: NodeDescription | None
    """What it last said of itself; older than `status` if that is SILENT or NOT_ASKED."""
    status: TargetStatus
    failure: NodeResult | None
    """The first step that failed."""
    failed_phase: FlashPhase | None
    resumed_from: int
    """Bytes of the image that were stored before the transfer began."""
    sent_bytes: int
    """Bytes of the image that the node has taken in this run."""
    transfer_ns: int
    """From the first to the last of them."""
    stream: tuple[int, ...]
    """The nodes that got the image with this transfer: this one alone, or all of a broadcast; empty without a transfer."""
    stream_ns: int
    """From the first byte to any of them to the last."""
    is_compressed: bool
    """Whether what went over the wire was compressed."""
    frames_repeated: int
    interruptions: int

    @property
    def position(self) -> int:
        return self.plan.position


@dataclass(frozen=True, slots=True)
class PhaseTime:
    """When a phase was, in nanoseconds since the Unix epoch."""

    phase: FlashPhase
    begin_ns: int
    end_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class FlashResult:
    """How a run ended."""

    outcome: FlashOutcome
    plan: FlashPlan | None
    """None if it ended before there was one."""
    nodes: tuple[NodeFlashReport, ...]
    """The targets, in the plan's order. Empty if nothing was begun."""
    failed_phase: FlashPhase | None
    """Where it failed, or where it was stopped."""
    was_changed: bool
    """Whether anything was begun that writes."""
    phases: tuple[PhaseTime, ...]

    @property
    def safe_to_run_again(self) -> bool:
        """Whether running the same thing again does no harm. A transfer writes the spare slot only, so it does none."""
        return all(node.failure is None or node.failure.safe_to_run_again for node in self.nodes)


@dataclass(frozen=True, slots=True)
class PhaseBegun:
    """The next phase."""

    phase: FlashPhase


@dataclass(frozen=True, slots=True)
class PlanMade:
    """The plan is made: `proceed` or `decline`. If it is refused or there is nothing to do, the run is over."""

    plan: FlashPlan


@dataclass(frozen=True, slots=True)
class FlashFinished:
    """It is over."""

    result: FlashResult


FlashEvent: TypeAlias = "PhaseBegun | PlanMade | FlashFinished | EngineEvent"
"""The engine's own events pass through."""


@dataclass(slots=True)
class _Figures:
    """What is counted of one node."""

    resumed_from: int = 0
    offset: int = 0
    sent_bytes: int = 0
    begin_ns: int | None = None
    end_ns: int = 0
    stream: tuple[int, ...] = ()
    is_compressed: bool = False
    frames_repeated: int = 0
    interruptions: int = 0
    failure: NodeResult | None = None
    failed_phase: FlashPhase | None = None


@dataclass(slots=True)
class _Clock:
    """The time of the last call, and of the phases."""

    now_ns: int = 0
    begin_ns: int = 0
    phases: list[PhaseTime] = field(default_factory=list)


class PackFlash:
    """One run over *engine*, which must be idle and belongs to this object until it has finished.

    *planner* makes the plan from the nodes that were found (`functools.partial` of `make_plan`). *expected* are positions
    that are addressed one by one if they do not answer.
    """

    def __init__(
        self,
        engine: FlashingEngine,
        planner: Callable[[Sequence[NodeDescription]], FlashPlan],
        *,
        expected: Iterable[int] = (),
    ) -> None:
        self._engine = engine
        self._planner = planner
        self._impossible: tuple[NodeResult, ...] = ()
        """Nodes that said of themselves what none can be, at the last discovery."""
        self._expected = tuple(expected)
        self.phase = FlashPhase.DISCOVER
        self.plan: FlashPlan | None = None
        self.result: FlashResult | None = None
        self._events: deque[FlashEvent] = deque([PhaseBegun(FlashPhase.DISCOVER)])
        self._clock = _Clock()
        self._has_begun = False
        self._was_changed = False
        self._nodes: dict[int, NodeDescription] = {}
        self._answering: frozenset[int] = frozenset()
        self._figures: dict[int, _Figures] = {}
        self._failed_phase: FlashPhase | None = None
        self._is_stopped = False
        self._is_abandoned = False
        self._reverted: set[int] = set()
        engine.discover(self._expected)

    # ---- the machine surface

    @property
    def finished(self) -> bool:
        """Whether it is over; then `result` is there."""
        return self.result is not None

    def receive_frame(self, frame: CanFrame, now_ns: int) -> None:
        """Take a frame from the bus."""
        self._tick(now_ns)
        self._engine.receive_frame(frame, now_ns)
        self._collect()

    def frames_to_send(self, now_ns: int) -> list[CanFrame]:
        """What to put on the bus now."""
        self._tick(now_ns)
        return self._engine.frames_to_send(now_ns)

    def next_event(self) -> FlashEvent | None:
        """What happened, oldest first."""
        return self._events.popleft() if self._events else None

    def next_timeout(self) -> int | None:
        """When `handle_timeout` wants to be called."""
        return self._engine.next_timeout()

    def handle_timeout(self, now_ns: int) -> None:
        """Do what is due; nothing before its time."""
        self._tick(now_ns)
        self._engine.handle_timeout(now_ns)
        self._collect()

    # ---- decisions

    def proceed(self, now_ns: int) -> None:
        """Do what the plan says.

        Raises:
            LocalProtocolError: there is no plan that waits for a decision.
        """
        plan = self._undecided()
        self._tick(now_ns)
        self._figures = {target.position: _Figures() for target in plan.targets}
        # The decision may have taken long, and a node may have been exchanged meanwhile.
        self._go(FlashPhase.LOOK_AGAIN)
        self._collect()

    def decline(self, now_ns: int) -> None:
        """Leave everything as it is.

        Raises:
            LocalProtocolError: there is no plan that waits for a decision.
        """
        self._undecided()
        self._tick(now_ns)
        self._finish(FlashOutcome.DECLINED)

    def stop(self, now_ns: int) -> None:
        """End it here, in a state that the next run resumes from. From now on nodes are only read; see `next_event`."""
        if self.phase in _ENDING or self._is_stopped:
            return
        self._tick(now_ns)
        self._is_stopped = True
        self._failed_phase = self._failed_phase or self.phase
        self._engine.cancel()
        if self._was_changed:
            self._go(FlashPhase.LOOK)
            self._collect()
        else:
            self._finish(FlashOutcome.INTERRUPTED)

    def abandon(self, now_ns: int) -> None:
        """The bus is gone: end it with what is known. How the nodes are now is not."""
        if self.finished:
            return
        self._tick(now_ns)
        self._engine.cancel()
        self._is_abandoned = True
        self._failed_phase = self._failed_phase or self.phase
        self._finish(FlashOutcome.INTERRUPTED if self._is_stopped else FlashOutcome.FAILED)

    def _undecided(self) -> FlashPlan:
        if self.phase is not FlashPhase.DECIDE or self.plan is None:
            raise LocalProtocolError(f"no plan waits for a decision; the phase is {self.phase.name}")
        return self.plan

    # ---- what the engine says

    def _tick(self, now_ns: int) -> None:
        self._clock.now_ns = now_ns
        if not self._has_begun:
            self._has_begun = True
            self._clock.begin_ns = now_ns

    def _collect(self) -> None:
        while not self.finished and (event := self._engine.next_event()) is not None:
            self._events.append(event)
            match event:
                case TransferBegun(position, offset, _, is_compressed, stream):
                    figures = self._of(position)
                    figures.is_compressed, figures.stream = is_compressed, stream
                    if figures.begin_ns is None:
                        figures.begin_ns, figures.resumed_from = self._clock.now_ns, offset
                    figures.offset, figures.end_ns = offset, self._clock.now_ns
                case TransferProgressed(position, next_offset, _):
                    figures = self._of(position)
                    figures.sent_bytes += max(0, next_offset - figures.offset)
                    figures.offset, figures.end_ns = next_offset, self._clock.now_ns
                case FramesRepeated(position, frames):
                    self._of(position).frames_repeated += frames
                case TransferBroken(position, _):
                    self._of(position).interruptions += 1
                case NodesDiscovered(nodes, refused):
                    self._impossible = refused
                    found = {node.position: node for node in nodes}
                    self._answering = frozenset(found)
                    self._nodes |= found
                    self._discovered()
                case OperationFinished(_, results):
                    self._operation_finished(results)
                case _:
                    pass

    def _of(self, position: int) -> _Figures:
        return self._figures.setdefault(position, _Figures())

    def _discovered(self) -> None:
        if self.phase is FlashPhase.DISCOVER:
            self._make_plan()
        elif self.phase is FlashPhase.LOOK_AGAIN:
            self._compare()
        elif self.phase is FlashPhase.READ_BACK:
            self._read_back()
        elif self.phase is FlashPhase.LOOK_BACK:
            self._go_back()
        else:
            self._release()

    def _make_plan(self) -> None:
        plan = self._planner([self._nodes[position] for position in sorted(self._nodes)])
        # Left out, such a node would be forgotten: its pack could be left mixed without a word.
        refused = tuple(
            Finding(Check.NODE_PRESENT, Verdict.REFUSED, result.position, result.detail) for result in self._impossible
        )
        if refused:
            present = [each for each in plan.findings if (each.check, each.position) not in
                       {(each.check, each.position) for each in refused}]  # fmt: skip
            plan = replace(plan, findings=(*present, *refused))
        self.plan = plan
        self._begin_phase(FlashPhase.DECIDE)
        self._events.append(PlanMade(plan))
        if plan.refusals:
            self._finish(FlashOutcome.REFUSED)
        elif plan.is_nothing_to_do:
            self._finish(FlashOutcome.NOTHING_TO_DO)

    def _operation_finished(self, results: Sequence[NodeResult]) -> None:
        phase = self.phase
        failures = [result for result in results if not result.ok]
        if phase is FlashPhase.REVERT:
            # Whatever became of it is seen by looking; what failed first is the reason to tell.
            self._go(FlashPhase.LOOK_BACK)
            return
        if phase is FlashPhase.RELEASE:
            # A node that did not hear it leaves by itself after a minute.
            self._end()
            return
        for failure in failures:
            self._fail(failure)
        if failures:
            # A raised counter stays, and a pack that has confirmed stays: the next run raises the rest.
            self._go(FlashPhase.LOOK if phase is FlashPhase.RAISE_COUNTERS else FlashPhase.LOOK_BACK)
        else:
            self._go(_NEXT[phase])

    def _fail(self, failure: NodeResult) -> None:
        figures = self._of(failure.position)
        if figures.failure is None:
            figures.failure, figures.failed_phase = failure, self.phase
        self._failed_phase = self._failed_phase or self.phase

    # ---- the phases

    def _begin_phase(self, phase: FlashPhase) -> None:
        clock = self._clock
        clock.phases.append(PhaseTime(self.phase, clock.begin_ns, clock.now_ns))
        clock.begin_ns = clock.now_ns
        self.phase = phase
        self._events.append(PhaseBegun(phase))

    def _go(self, phase: FlashPhase) -> None:
        """Begin *phase*, or the first behind it that has something to do."""
        plan = self.plan
        assert plan is not None
        while (start := self._start_of(phase, plan)) is None:
            phase = _NEXT[phase]
        self._begin_phase(phase)
        start()

    def _start_of(self, phase: FlashPhase, plan: FlashPlan) -> Callable[[], None] | None:
        """How *phase* begins; None if it has nothing to do."""
        engine = self._engine
        flashed = plan.with_action(Action.FLASH)
        confirmed = plan.with_action(Action.FLASH, Action.CONFIRM)
        match phase:
            case FlashPhase.REVERT_FIRST:
                positions = tuple(target.position for target in flashed if target.must_revert)
                return (lambda: engine.revert(positions)) if positions else None
            case FlashPhase.STAGE:
                jobs = [FlashJob(target.position, target.image) for target in flashed if target.image is not None]
                return (lambda: engine.flash(jobs)) if jobs else None
            case FlashPhase.ACTIVATE:
                positions = tuple(target.position for target in flashed)
                return (lambda: engine.activate(positions)) if positions else None
            case FlashPhase.CONFIRM:
                return (lambda: self._confirm(confirmed, raise_counter=False)) if confirmed else None
            case FlashPhase.RAISE_COUNTERS:
                raised = plan.with_action(Action.FLASH, Action.CONFIRM, Action.RAISE_COUNTER)
                return (lambda: self._confirm(raised, raise_counter=True)) if raised else None
            case _:
                return lambda: engine.discover(target.position for target in plan.targets)

    def _confirm(self, targets: Sequence[NodePlan], *, raise_counter: bool) -> None:
        versions = [(target.position, target.to_version) for target in targets if target.to_version is not None]
        self._engine.confirm(versions, raise_counter=raise_counter)

    def _compare(self) -> None:
        """Are the nodes those of the plan?"""
        assert self.plan is not None
        for target in self.plan.targets:
            position, before = target.position, target.node
            now = self._nodes[position]
            if position not in self._answering:
                self._fail(_failed(position, FailureCause.NODE_SILENT, f"node {position} does not answer any more"))
            elif now.hwid != before.hwid:
                detail = f"expected hardware id {before.hwid} as in the plan, got {now.hwid}"
                self._fail(_failed(position, FailureCause.WRONG_NODE, detail))
            elif (now.version, now.running_slot) != (before.version, before.running_slot):
                detail = f"expected version {before.version} as in the plan, got {now.version}"
                self._fail(_failed(position, FailureCause.WRONG_VERSION, detail))
        if self._failed_phase is not None:
            self._finish(FlashOutcome.FAILED)
            return
        self._was_changed = True
        self._go(FlashPhase.REVERT_FIRST)

    def _read_back(self) -> None:
        """Does every target run what it should? A node that has reverted answers as well as one that has not."""
        assert self.plan is not None
        for target in self.plan.targets:
            position = target.position
            if position not in self._answering:
                self._fail(_failed(position, FailureCause.NODE_SILENT, f"node {position} did not answer"))
            elif target_status(self._nodes[position], target) not in RUNS_NEW - {TargetStatus.NEW_REVERTED}:
                runs = self._nodes[position].version
                detail = f"expected version {target.to_version} to run, got {runs}"
                self._fail(_failed(position, FailureCause.WRONG_VERSION, detail))
        self._go(FlashPhase.LOOK_BACK if self._failed_phase else FlashPhase.CONFIRM)

    def _go_back(self) -> None:
        """All or nothing: if every target has confirmed all the same, continue; else every node that runs the new image reverts."""
        plan = self.plan
        assert plan is not None
        statuses = self._statuses()
        final = {TargetStatus.NEW, TargetStatus.NEW_CONFIRMED}
        if all(status in final for status in statuses.values()):
            # The answer to the last confirmation was lost, not the confirmation.
            self._forget_failures()
            self._go(FlashPhase.RAISE_COUNTERS)
            return
        begun = plan.with_action(Action.FLASH, Action.CONFIRM)
        if begun:
            # What an earlier run has confirmed belongs to it. Where only counters are missing, the pack has confirmed: it stays.
            begun = plan.with_action(Action.FLASH, Action.CONFIRM, Action.RAISE_COUNTER)
        # Also who looks done: no counter has been raised yet, so with a release of the same counter he has only confirmed.
        back = {TargetStatus.OLD_PENDING, *RUNS_NEW}
        # The master first: its new image may be what keeps the slaves behind it from answering. They are looked at again
        # after it has reverted. No node is reverted twice.
        positions = tuple(
            target.position
            for target in reversed(begun)
            if statuses[target.position] in back and target.position not in self._reverted
        )
        self._reverted.update(positions)
        if positions:
            self._begin_phase(FlashPhase.REVERT)
            self._engine.revert(positions)
        else:
            self._release()

    def _release(self) -> None:
        """End the sessions of nodes that still wait for a flasher: their applications rest meanwhile."""
        assert self.plan is not None
        waiting = tuple(
            target.position
            for target in self.plan.targets
            if target.position in self._answering
            and self._nodes[target.position].running_slot is not None
            and self._nodes[target.position].state in {NodeMode.BOOTLOADER, NodeMode.RECEIVING}
        )
        if waiting:
            self._begin_phase(FlashPhase.RELEASE)
            self._engine.leave(waiting)
        else:
            self._end()

    def _statuses(self) -> dict[int, TargetStatus]:
        assert self.plan is not None
        if self._is_abandoned:
            return dict.fromkeys((target.position for target in self.plan.targets), TargetStatus.NOT_ASKED)
        return {
            target.position: target_status(
                self._nodes.get(target.position) if target.position in self._answering else None, target
            )
            for target in self.plan.targets
        }

    def _end(self) -> None:
        statuses = set(self._statuses().values())
        if self._is_stopped:
            outcome = FlashOutcome.INTERRUPTED
        elif statuses <= {TargetStatus.NEW}:
            # Whatever has failed: only its answer was lost.
            self._forget_failures()
            outcome = FlashOutcome.DONE
        elif statuses & RUNS_NEW:
            outcome = FlashOutcome.MIXED
        else:
            outcome = FlashOutcome.FAILED
        self._finish(outcome)

    def _forget_failures(self) -> None:
        for figures in self._figures.values():
            figures.failure = figures.failed_phase = None
        self._failed_phase = None

    def _finish(self, outcome: FlashOutcome) -> None:
        reports: list[NodeFlashReport] = []
        if self._figures and self.plan is not None:
            statuses = self._statuses()
            reports = [self._report(target, statuses[target.position]) for target in self.plan.targets]
        self._begin_phase(FlashPhase.OVER)
        self.result = FlashResult(
            outcome=outcome,
            plan=self.plan,
            nodes=tuple(reports),
            failed_phase=self._failed_phase,
            was_changed=self._was_changed,
            phases=tuple(self._clock.phases),
        )
        self._events.append(FlashFinished(self.result))

    def _report(self, target: NodePlan, status: TargetStatus) -> NodeFlashReport:
        figures = self._of(target.position)
        return NodeFlashReport(
            plan=target,
            node=self._nodes.get(target.position),
            status=status,
            failure=figures.failure,
            failed_phase=figures.failed_phase,
            resumed_from=figures.resumed_from,
            sent_bytes=figures.sent_bytes,
            transfer_ns=0 if figures.begin_ns is None else figures.end_ns - figures.begin_ns,
            stream=figures.stream,
            stream_ns=self._stream_ns(figures.stream),
            is_compressed=figures.is_compressed,
            frames_repeated=figures.frames_repeated,
            interruptions=figures.interruptions,
        )

    def _stream_ns(self, stream: Sequence[int]) -> int:
        members = [self._of(position) for position in stream]
        begun = [each.begin_ns for each in members if each.begin_ns is not None]
        return max(each.end_ns for each in members) - min(begun) if begun else 0


_NEXT: Mapping[FlashPhase, FlashPhase] = {
    FlashPhase.REVERT_FIRST: FlashPhase.STAGE,
    FlashPhase.STAGE: FlashPhase.ACTIVATE,
    FlashPhase.ACTIVATE: FlashPhase.READ_BACK,
    FlashPhase.CONFIRM: FlashPhase.RAISE_COUNTERS,
    FlashPhase.RAISE_COUNTERS: FlashPhase.LOOK,
}


def _failed(position: int, cause: FailureCause, detail: str) -> NodeResult:
    failure = FAILURES[cause]
    return NodeResult(position, False, f"{cause.value}: {detail}", failure.safe_to_run_again, cause)
