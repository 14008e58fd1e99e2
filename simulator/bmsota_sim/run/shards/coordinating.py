"""Start the shards of a run together, look at all of them, steer and end them, and begin a lost one again as itself.

A lost shard of a run in virtual time begins again from the start, and the run is as if nothing had happened. In real time the others and
the platform go on: the shard comes back into the running scenario. Its units keep what was counted of them up to a few seconds before the
loss; what it had to do while it was away has failed.
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from bmsota.errors import ConfigurationError
from bmsota_sim.kernel import MS, SECOND
from bmsota_sim.run.driving import StoppedError
from bmsota_sim.run.judged import RunFigures
from bmsota_sim.run.outputs.series import Series
from bmsota_sim.run.shards.carrying import (
    ShardBegun,
    ShardClose,
    ShardDone,
    ShardGo,
    ShardKnown,
    ShardOver,
    ShardProgress,
    ShardReady,
    ShardSteer,
    ShardStop,
)
from bmsota_sim.run.shards.part import Shard, ShardEnd, ShardPart
from bmsota_sim.run.shards.together import ShardedRun
from bmsota_sim.run.steering import steer_again

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from concurrent.futures import Future

    from bmsota_sim.run.given import Prepared
    from bmsota_sim.run.judged import Result
    from bmsota_sim.run.outputs.watch import RunProgress
    from bmsota_sim.run.shards.carrying import ShardCommand, ShardMessage

__all__ = ["Coordinator", "Loss", "ShardHost", "shard_document"]

LOOK_S = 0.05
LOSSES_MAX = 3
"""Of one shard; after that it is not begun again."""
# So far ahead of now is what a run is steered by: each shard hears of it before its time.
STEER_LEAD_NS = 500 * MS


class ShardHost(Protocol):
    """Where shards run, each as a future of an executor."""

    def start(self, shard: Shard) -> None:
        """Begin it, or begin it again."""

    def poll(self) -> list[tuple[int, ShardMessage]]:
        """What shards have told since the last time, by their index."""

    def send(self, index: int, command: ShardCommand) -> None:
        """Tell a shard."""

    def future(self, index: int) -> Future[ShardEnd]:
        """Of the last start."""

    def is_lost(self, error: BaseException) -> str:
        """Why its process is gone, if *error* of a future says so; nothing if the shard itself has failed."""

    def close(self) -> None:
        """Let nothing behind."""


class Loss(NamedTuple):
    """A shard was lost."""

    shard: int
    at_ns: int
    """When that was seen, from the start of the run."""
    reason: str
    is_back: bool

    def text(self, count: int) -> str:
        again = "it begins again" if self.is_back else "it does not begin again"
        return f"shard {self.shard + 1} of {count} was lost at {self.at_ns / SECOND:.1f} s: {self.reason}; {again}"


@dataclass(slots=True)
class _State:
    """What is known of one shard."""

    where: str = ""
    has_begun: bool = False
    is_ready: bool = False
    is_over: bool = False
    is_done: bool = False
    has_ended: bool = False
    known: ShardPart | None = None
    """What it knew last, with what was known before a loss."""
    base: ShardPart | None = None
    """What was known when it was lost."""
    figures: RunFigures | None = None
    base_figures: RunFigures | None = None
    late_s: float = 0.0
    cpu_s: float = 0.0
    lost: int = 0
    end: ShardEnd | None = None


class _CoordinatedRun(ShardedRun):
    """With the clock that all shards have in real time."""

    clock_ns: Callable[[], int] | None = None
    """The time of the run now; None: in virtual time each shard has its own."""

    def now_ns(self) -> int:
        return super().now_ns() if self.clock_ns is None else self.clock_ns()

    def figures(self) -> RunFigures:
        figures = super().figures()
        return figures if self.clock_ns is None else figures._replace(at_ns=min(self.clock_ns(), self.duration_ns))

    @property
    def steered_from_ns(self) -> int:
        if self.clock_ns is None:
            raise ConfigurationError(
                "a run in virtual time over several workers cannot be steered; it can be asked for its status, and stopped"
            )
        return self.clock_ns() + STEER_LEAD_NS


class Coordinator:
    """One run over several shards."""

    def __init__(self, prepared: Prepared, count: int, host: ShardHost, screen: RunProgress) -> None:
        """*host* runs the shards; *screen* shows them.

        Raises:
            ConfigurationError: there are fewer units than shards, or the run cannot be planned.
        """
        given = prepared.given
        self.run = _CoordinatedRun(prepared.scenario, given.seed, count, keys=prepared.keys, played=prepared.played)
        steer_again(self.run, given.steered)
        self.losses: list[Loss] = []
        self.late_s = 0.0
        """How late the latest shard is now."""
        self.ends: list[ShardEnd] = []
        self._series = Series(prepared.end_ns)
        self._prepared = prepared
        self._host = host
        self._screen = screen
        self._states = [_State() for _ in range(count)]
        self._is_real = prepared.target is not None
        self._is_going = not self._is_real
        self._began_s = 0.0
        self._is_stopping = False
        self._steered: list[dict[str, Any]] = []
        if self._is_real:
            self.run.clock_ns = self._clock_ns

    def _clock_ns(self) -> int:
        if not self._is_going:
            return 0
        return round((time.monotonic() - self._began_s) * self._prepared.given.speed * SECOND)

    # -- from the start to the end -----------------------------------------------------------------------------------------

    async def carry_out(
        self,
        *,
        is_stopped: Callable[[], bool],
        look: Callable[[], object],
        before: Callable[[], Awaitable[object]] | None = None,
        beside: Callable[[], Awaitable[object]] | None = None,
        after: Callable[[], Awaitable[object]] | None = None,
    ) -> Result:
        """Carry the run out.

        Args:
            is_stopped: it is to end now.
            look: called again and again.
            before: in real time: what must be done before the first unit is switched on, while units are built.
            beside: in real time: what goes on beside, until it is cancelled.
            after: in real time: at the end, while the links go on.

        Raises:
            BmsotaError: a shard cannot be carried out, as one process could not.
            StoppedError: before the first unit was switched on.
        """
        preparing = None if before is None else asyncio.ensure_future(before())
        playing: asyncio.Future[object] | None = None
        try:
            for index in range(self.run.count):
                self._host.start(self._shard(index))
            while not all(state.has_ended for state in self._states):
                self._pump(is_stopping=is_stopped())
                look()
                if preparing is not None and preparing.done():
                    preparing.result()
                    preparing = None
                if not self._is_going and preparing is None and self._all(lambda state: state.is_ready):
                    self._go()
                    playing = None if beside is None else asyncio.ensure_future(beside())
                if playing is not None and playing.done():
                    playing.result()  # What fails on the platform is told; anything else is a fault of ours.
                if self._is_going and after is not None and self._all(lambda state: state.is_over):
                    await _ended(playing)
                    playing = None
                    await after()
                    self._tell(ShardClose())
                    after = None
                await asyncio.sleep(LOOK_S)
            if not any(state.end for state in self._states):
                raise StoppedError
            return self._result()
        finally:
            await _ended(preparing)
            await _ended(playing)
            self._tell(ShardStop())
            self._host.close()

    def _all(self, holds: Callable[[_State], bool]) -> bool:
        return all(state.has_ended or holds(state) for state in self._states)

    def _shard(self, index: int) -> Shard:
        return Shard(self._prepared.given, index, self.run.count)

    def _go(self) -> None:
        self._is_going, self._began_s = True, time.monotonic()
        self._tell(ShardGo(0))

    def _tell(self, command: ShardCommand) -> None:
        for index, state in enumerate(self._states):
            if not state.has_ended:
                self._host.send(index, command)

    def steer(self, values: dict[str, Any]) -> None:
        """Tell the shards of an entry that `run` has planned."""
        self._steered.append(values)
        self._tell(ShardSteer(values))

    # -- what shards tell ------------------------------------------------------------------------------------------------

    def _pump(self, *, is_stopping: bool) -> None:
        if is_stopping and not self._is_stopping:
            self._is_stopping = True
            self._tell(ShardStop())
        for index, message in self._host.poll():
            self._told(index, self._states[index], message)
        for index, state in enumerate(self._states):
            future = self._host.future(index)
            if state.has_ended or not future.done():
                continue
            if future.cancelled():
                raise ConfigurationError(f"{self._shard(index)} was cancelled: where it ran is gone, or ends")
            error = future.exception()
            if error is None:
                if state.is_done:  # What it has told before is here.
                    state.has_ended, state.end = True, self._with_base(state, future.result())
            elif isinstance(error, StoppedError):
                self._end_without(index, state)
            elif reason := self._host.is_lost(error):
                self._lost(index, reason)
            else:
                raise error
        self._give_up()
        if self._is_real and self._is_going and all(state.figures for state in self._states):
            at_ns = self._clock_ns()
            self._series.late(self.late_s)
            if at_ns >= self._series.next_ns:
                self._series.add_figures(at_ns, self.run.figures(), sum(state.cpu_s for state in self._states))
        self._screen.show(self.run, self.late_s, self._series.rate("sent") if self._is_real else None)

    def _told(self, index: int, state: _State, message: ShardMessage) -> None:
        match message:
            case ShardBegun(where, pid):
                if state.has_begun:
                    self._lost(index, f"its worker is gone ({state.where})", is_started=True)
                state.has_begun, state.where = True, f"{where}, process {pid}"
                if self._is_stopping:  # It was not there when the others were told.
                    self._host.send(index, ShardStop())
            case ShardReady():
                state.is_ready = True
                if self._is_going and not state.has_ended:
                    self._come_back(index, state)
            case ShardProgress(figures, late_s, cpu_s):
                state.late_s, state.cpu_s = late_s, cpu_s
                if state.base_figures is not None:
                    was = state.base_figures._replace(
                        unit_count=0, started=0, connected=0, logged_in=0, at_ns=figures.at_ns
                    )
                    figures = RunFigures.added([figures, was])
                state.figures = figures
                self.run.show(index, figures)
                self.late_s = max(each.late_s for each in self._states)
            case ShardKnown(at_ns, part, is_moment):
                state.known = part if state.base is None else part.after(state.base)
                if is_moment:
                    self.run.know(index, at_ns, state.known)
            case ShardOver():
                state.is_over = True
            case ShardDone():
                state.is_done = True

    def _with_base(self, state: _State, end: ShardEnd) -> ShardEnd:
        return end if state.base is None else end._replace(part=end.part.after(state.base))

    # -- loss ------------------------------------------------------------------------------------------------------------

    def _lost(self, index: int, reason: str, *, is_started: bool = False) -> None:
        """A shard is gone. *is_started*: it has been begun again already."""
        state, run = self._states[index], self.run
        state.lost += 1
        at_ns = self._clock_ns() if self._is_real else 0 if state.figures is None else state.figures.at_ns
        is_back = is_started or (
            state.lost <= LOSSES_MAX
            and not self._is_stopping
            and not (self._is_real and at_ns >= self._prepared.end_ns)
        )
        loss = Loss(index, at_ns, reason, is_back)
        self.losses.append(loss)
        self._screen.say(loss.text(run.count))
        state.is_ready = state.is_over = state.is_done = False
        known = state.known
        if self._is_real:
            state.base, state.base_figures = state.known, state.figures
            if state.figures is not None:
                run.show(index, state.figures._replace(started=0, connected=0, logged_in=0))
        else:
            state.known = state.figures = None
        if is_back:
            if not is_started:
                state.has_begun = False
                self._host.start(self._shard(index))
            return
        state.known = known
        self._end_without(index, state)

    def _end_without(self, index: int, state: _State) -> None:
        """A shard ends with what was known of it last; nothing is, if it was stopped before its first unit was switched on."""
        state.has_ended = True
        known = state.base or state.known
        if known is None and not state.lost:
            return
        at_ns = self._prepared.end_ns
        if self._is_stopping:
            at_ns = min(at_ns, self._clock_ns() if self._is_real else 0 if known is None else known.at_ns)
        part = self.run.without(index, at_ns, known)
        self.run.missed(index, at_ns, part)
        state.end = ShardEnd(part._replace(at_ns=at_ns), {}, (), None, {})

    def _give_up(self) -> None:
        """In real time nothing waits for a lost shard that is not back when the run ends."""
        if not (self._is_real and self._is_going) or self._clock_ns() < self._prepared.end_ns:
            return
        for index, state in enumerate(self._states):
            if state.lost and not state.is_ready and not state.has_ended:
                self._end_without(index, state)

    def _come_back(self, index: int, state: _State) -> None:
        """A shard that was lost in real time is ready again, and comes into the run that goes on."""
        joins_ns = self._clock_ns()
        if joins_ns >= self._prepared.end_ns:
            return
        state.base = self.run.without(index, joins_ns, state.base)
        self.run.missed(index, joins_ns, state.base)
        self._host.send(index, ShardGo(joins_ns))
        for values in self._steered:
            self._host.send(index, ShardSteer(values))

    # -- the end ---------------------------------------------------------------------------------------------------------

    def _result(self) -> Result:
        # One that was stopped before its first unit was switched on knows nothing.
        self.ends = [
            state.end or ShardEnd(self.run.without(index, 0, None), {}, (), None, {})
            for index, state in enumerate(self._states)
        ]
        return self.run.end(self.ends)

    def series(self) -> Series:
        """The samples of all shards, when the run has ended."""
        if not self._is_real:
            return Series.added([end.samples for end in self.ends if end.samples])
        self._series.add_figures(self.run.at_ns, self.run.figures(), sum(state.cpu_s for state in self._states))
        return self._series

    def _loss_document(self, loss: Loss) -> dict[str, Any]:
        return {
            "at_s": loss.at_ns / SECOND,
            "reason": loss.reason,
            "is_back": loss.is_back,
            "text": loss.text(self.run.count),
        }

    def shards(self) -> list[dict[str, Any]]:
        """How each shard ended, for the report."""
        return [
            shard_document(
                index,
                end,
                where=state.where,
                lost=[self._loss_document(loss) for loss in self.losses if loss.shard == index],
            )
            for index, (state, end) in enumerate(zip(self._states, self.ends, strict=True))
        ]


async def _ended(task: asyncio.Future[object] | None) -> None:
    if task is not None:
        task.cancel()
        await asyncio.wait({task})


def shard_document(index: int, end: ShardEnd, *, where: str, lost: Sequence[dict[str, Any]] = ()) -> dict[str, Any]:
    """What `run.json` has of a shard."""
    return {
        "index": index,
        "where": where,
        "units": len(end.part.ledger.counts),
        "started": len(end.part.ledger.counts) - len(end.part.not_started),
        "ran_s": end.part.at_ns / SECOND,
        "generator": None if end.generator is None else end.generator.document(),
        "lost": list(lost),
    }
