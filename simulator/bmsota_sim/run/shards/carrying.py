"""A shard in a process of its own: it carries its units out, tells how far it is, and does what it is told.

What a shard tells and is told are values of a few classes; a `Channel` carries them, whichever way.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, TypeAlias

from bmsota import __version__
from bmsota.errors import ConfigurationError
from bmsota_sim.kernel import SECOND
from bmsota_sim.realtime import run_on_links
from bmsota_sim.run.driving import Hooks, StoppedError, carry_out, carry_out_virtual
from bmsota_sim.run.given import prepare
from bmsota_sim.run.outputs.watch import Sampler
from bmsota_sim.run.shards.part import ShardEnd, ShardPart, part_of, shard_units
from bmsota_sim.run.steering import entry_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from bmsota_sim.realtime import RealTimeDriver
    from bmsota_sim.run.given import Prepared
    from bmsota_sim.run.judged import RunFigures
    from bmsota_sim.run.outputs.series import Sample
    from bmsota_sim.run.runner import Run
    from bmsota_sim.run.shards.part import Shard

__all__ = [
    "Channel",
    "ChannelClosedError",
    "ShardBegun",
    "ShardClose",
    "ShardCommand",
    "ShardDone",
    "ShardGo",
    "ShardKnown",
    "ShardMessage",
    "ShardOver",
    "ShardProgress",
    "ShardReady",
    "ShardSteer",
    "ShardStop",
    "carry_out_alone",
    "carry_out_shard",
]

RECEIVE_S = 0.05
PROGRESS_S = 0.5
# What a shard in real time has counted since is lost with it.
SAVE_S = 5.0
# Links go on so long at the end until the platform has been asked for the last time.
CLOSE_TIMEOUT_S = 60.0


# -- what a shard tells ------------------------------------------------------------------------------------------------


class ShardBegun(NamedTuple):
    """It has been taken up, by this process. A second one of the same shard: the first was lost."""

    where: str
    pid: int


class ShardReady(NamedTuple):
    """Its units are built; in real time it waits for `ShardGo`."""


class ShardProgress(NamedTuple):
    """How far it is."""

    figures: RunFigures
    late_s: float
    cpu_s: float


class ShardKnown(NamedTuple):
    """What it knows at this time. At a moment that matters, or now and then, for the case that it is lost."""

    at_ns: int
    part: ShardPart
    is_moment: bool


class ShardOver(NamedTuple):
    """It is at its end, and keeps its links until `ShardClose`."""


class ShardDone(NamedTuple):
    """Nothing more comes but its end."""


ShardMessage: TypeAlias = ShardBegun | ShardReady | ShardProgress | ShardKnown | ShardOver | ShardDone

# -- what it is told -----------------------------------------------------------------------------------------------------


class ShardGo(NamedTuple):
    """The run begins now, or began so long ago."""

    joins_ns: int


class ShardSteer(NamedTuple):
    """One more entry of the timeline, with its time."""

    values: dict[str, Any]


class ShardStop(NamedTuple):
    """End now, with a part."""


class ShardClose(NamedTuple):
    """The links may go."""


ShardCommand: TypeAlias = ShardGo | ShardSteer | ShardStop | ShardClose


class ChannelClosedError(Exception):
    """Who started the shard is gone."""


class Channel(Protocol):
    """Between a shard and who started it. Neither end waits for the other."""

    def send(self, message: ShardMessage) -> None:
        """Tell it.

        Raises:
            ChannelClosedError: nobody is there.
        """

    def receive(self) -> Sequence[ShardCommand]:
        """What came since the last time.

        Raises:
            ChannelClosedError: nobody is there, and nothing more comes.
        """


class _Carrier:
    """One shard while it goes on."""

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._receive_s = self._progress_s = 0.0
        self._save_s = time.monotonic() + SAVE_S
        self._cpu_s = time.process_time()
        self._is_real = False
        self.is_stopped = False
        self._is_closed = False
        self._go: ShardGo | None = None
        self._steered: list[dict[str, Any]] = []

    def send(self, message: ShardMessage) -> None:
        try:
            self._channel.send(message)
        except ChannelClosedError:
            self.is_stopped = self._is_closed = True

    def receive(self) -> None:
        now_s = time.monotonic()
        if now_s < self._receive_s:
            return
        self._receive_s = now_s + RECEIVE_S
        try:
            commands = self._channel.receive()
        except ChannelClosedError:
            self.is_stopped = self._is_closed = True
            return
        for command in commands:
            match command:
                case ShardGo():
                    self._go = command
                case ShardSteer(values):
                    self._steered.append(values)
                case ShardStop():
                    self.is_stopped = True
                case ShardClose():
                    self._is_closed = True

    def asked(self) -> bool:
        self.receive()
        return self.is_stopped

    def look(self, run: Run, late_s: float) -> None:
        self.receive()
        while self._steered:
            run.steer(entry_of(run, self._steered.pop(0)))
        now_s = time.monotonic()
        if now_s >= self._progress_s:
            self._progress_s = now_s + PROGRESS_S
            run.sample()
            self.send(ShardProgress(run.figures(), late_s, time.process_time() - self._cpu_s))
        if self._is_real and now_s >= self._save_s:
            self._save_s = now_s + SAVE_S
            self.send(ShardKnown(run.at_ns, part_of(run), is_moment=False))

    def moment(self, run: Run, at_ns: int) -> None:
        self.send(ShardKnown(at_ns, part_of(run), is_moment=True))

    async def before(self, _run: Run) -> int:
        self._is_real = True
        self.send(ShardReady())
        while self._go is None:
            if self.asked():
                raise StoppedError
            await asyncio.sleep(RECEIVE_S)
        return self._go.joins_ns

    async def after(self, run: Run, driver: RealTimeDriver) -> None:
        self.send(ShardOver())

        def closed() -> bool:
            self.look(run, driver.lag_ns / SECOND)
            return self._is_closed

        await driver.run(closed, until_ns=driver.wall_ns() + round(CLOSE_TIMEOUT_S * SECOND))


def _units_of(prepared: Prepared, shard: Shard) -> tuple[Any, ...]:
    if shard.given.version != __version__:
        raise ConfigurationError(
            f"{shard}: expected bmsota {shard.given.version}, as where the run was started, got {__version__} on {socket.gethostname()}"
        )
    return shard_units(prepared.scenario, shard.index, shard.count)


def carry_out_shard(shard: Shard, channel: Channel) -> ShardEnd:
    """Carry it out, in this process, for who is at the other end of *channel*.

    Raises:
        BmsotaError: it cannot be, as on the command line.
        OSError: a file that the run was given cannot be read here.
        StoppedError: before its first unit was switched on.
    """
    carrier = _Carrier(channel)
    carrier.send(ShardBegun(socket.gethostname(), os.getpid()))
    prepared = prepare(shard.given)
    ended: list[ShardEnd] = []
    sampler = Sampler(prepared.end_ns, is_virtual=True)

    def end(run: Run) -> None:
        run.settle()
        samples: tuple[Sample, ...] = ()
        if prepared.target is None:
            sampler.end(run)
            samples = sampler.series.samples
        ended.append(ShardEnd(part_of(run), run.hashes(), samples, None, {}))

    hooks = Hooks(
        is_stopped=carrier.asked,
        look=carrier.look,
        ended=end,
        planned=sampler.plan,
        moment=carrier.moment,
        before=carrier.before,
        **({} if shard.given.api is None else {"after": carrier.after}),
    )
    units = _units_of(prepared, shard)
    generator = None
    if prepared.target is None:
        carry_out_virtual(prepared, hooks, only=units)
    else:
        _, generator = run_on_links(carry_out(prepared, hooks, only=units, source_offset=shard.index))
    carrier.send(ShardDone())
    return ended[0]._replace(generator=generator)


def carry_out_alone(
    prepared: Prepared,
    shard: Shard,
    *,
    is_stopped: Callable[[], bool],
    show: Callable[[Run, float], object],
) -> ShardEnd:
    """Carry it out without anybody who coordinates: it begins at once, and all that must be judged is in its end.

    Raises:
        ConfigurationError: there are fewer units than shards.
        StoppedError: before its first unit was switched on.
    """
    ended: list[ShardEnd] = []
    moments: dict[int, ShardPart] = {}
    is_virtual = prepared.target is None
    sampler = Sampler(prepared.end_ns, is_virtual=is_virtual)

    def look(run: Run, late_s: float) -> None:
        sampler.update(run, late_s)
        show(run, late_s)

    def end(run: Run) -> None:
        run.settle()
        sampler.end(run)
        ended.append(ShardEnd(part_of(run), run.hashes(), sampler.series.samples, None, moments))

    hooks = Hooks(
        is_stopped=is_stopped,
        look=look,
        ended=end,
        planned=sampler.plan,
        moment=lambda run, at_ns: moments.setdefault(at_ns, part_of(run)),
    )
    units = _units_of(prepared, shard)
    if is_virtual:
        carry_out_virtual(prepared, hooks, only=units)
        return ended[0]
    _, generator = run_on_links(carry_out(prepared, hooks, only=units, source_offset=shard.index))
    return ended[0]._replace(generator=generator)
