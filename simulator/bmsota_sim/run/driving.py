"""Carry a run out: in virtual time, or in real time over TCP. The same for a whole run and for a shard of one.

Who carries it out looks between two slices of its time (`Hooks.look`) and says when it is to end (`Hooks.is_stopped`).
"""

from __future__ import annotations

import asyncio
import time
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, Any

import httpx

from bmsota.adapters.tls import client_context
from bmsota_sim.kernel import SECOND, Kernel
from bmsota_sim.realtime import RealTimeDriver, TcpUplink, allow_connections, event_loop, lag_of
from bmsota_sim.run.runner import Run
from bmsota_sim.run.steering import steer_again
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink, run_virtual

if TYPE_CHECKING:
    import ssl
    from collections.abc import Awaitable, Callable, Collection, Sequence

    from bmsota_sim.run.given import Prepared
    from bmsota_sim.run.selection import UnitId

__all__ = ["Generator", "Hooks", "StoppedError", "carry_out", "carry_out_virtual", "verify_context"]

# What the kernel may be behind at the end and still finish the scenario.
GRACE_S = 10.0


class StoppedError(Exception):
    """Stopped before the first unit was switched on."""


@dataclass(frozen=True, slots=True)
class Generator:
    """How late and how busy the simulator was; that of shards adds up."""

    lag_time_ns: tuple[int, ...]
    """The time spent in each power of two of a millisecond behind."""
    lag_max_ns: int
    cpu_s: float
    wall_s: float
    started: int
    ramp_ns: int | None
    event_loop: str
    """Its name and version."""

    @property
    def cpu_share(self) -> float:
        """Of one core; of shards, of as many cores as they had together."""
        return self.cpu_s / max(self.wall_s, 1e-9)

    @classmethod
    def added(cls, parts: Sequence[Generator]) -> Generator:
        """Of all shards at the same time."""
        ramps = [part.ramp_ns for part in parts]
        return cls(
            lag_time_ns=tuple(map(sum, zip(*(part.lag_time_ns for part in parts), strict=True))),
            lag_max_ns=max(part.lag_max_ns for part in parts),
            cpu_s=sum(part.cpu_s for part in parts),
            wall_s=max(part.wall_s for part in parts),
            started=sum(part.started for part in parts),
            event_loop=", ".join(sorted({part.event_loop for part in parts})),
            ramp_ns=None if None in ramps else max(ramp for ramp in ramps if ramp is not None),
        )

    def late_s(self, share: float) -> float:
        """The lateness that was not exceeded for this share of the time."""
        return lag_of(self.lag_time_ns, self.lag_max_ns, share)

    def document(self) -> dict[str, Any]:
        """For `run.json`."""
        return {
            "late_s": {"p50": self.late_s(0.5), "p99": self.late_s(0.99), "max": self.lag_max_ns / SECOND},
            "cpu_share": round(self.cpu_share, 4),
            "boots_per_s": None if not self.ramp_ns else round(self.started * SECOND / self.ramp_ns, 2),
            "event_loop": self.event_loop,
        }


async def _at_once(_run: Run) -> int:
    return 0


async def _nothing(_run: Run, _driver: RealTimeDriver) -> None:
    pass


@dataclass(frozen=True, slots=True, kw_only=True)
class Hooks:
    """Where who carries a run out comes in."""

    is_stopped: Callable[[], bool]
    look: Callable[[Run, float], object]
    """Between two slices: the run, and how late it is in seconds."""
    ended: Callable[[Run], object]
    """Nothing more happens: judge it."""
    planned: Callable[[Run], object] = lambda _run: None
    """In virtual time, when the run has been started: what is to be looked at in its time."""
    moment: Callable[[Run, int], object] = lambda _run, _at_ns: None
    """Of a part of a run: see `Run`."""
    before: Callable[[Run], Awaitable[int]] = _at_once
    """In real time, when the units are built: wait here for the start; gives for how long the run has gone on without these units."""
    after: Callable[[Run, RealTimeDriver], Awaitable[None]] = _nothing
    """In real time, at the end: while the units' links go on."""


def _building(hooks: Hooks) -> Callable[[int], object]:
    def progress(_built: int) -> None:
        if hooks.is_stopped():
            raise StoppedError

    return progress


def _moment(runs: list[Run], hooks: Hooks) -> Callable[[int], object]:
    return lambda at_ns: hooks.moment(runs[0], at_ns)


def carry_out_virtual(prepared: Prepared, hooks: Hooks, *, only: Collection[UnitId] | None = None) -> Run:
    """A run in virtual time, to its end or until it is stopped.

    Raises:
        StoppedError: while the units were being built.
    """
    given = prepared.given
    kernel, platform = Kernel(VIRTUAL_START_NS), SessionPlatform(decodes_behind=True)
    runs: list[Run] = []
    run = Run(
        prepared.scenario,
        given.seed,
        kernel=kernel,
        uplink=lambda _index: MemoryUplink(kernel, platform, delay_ns=0),
        edition=given.edition,
        keys=prepared.keys,
        played=prepared.played,
        only=only,
        progress=_building(hooks),
        moment=_moment(runs, hooks),
    )
    runs.append(run)
    steer_again(run, given.steered)
    run.start()
    hooks.planned(run)
    run_virtual(
        kernel,
        lambda: hooks.is_stopped() or run.is_over,
        until_ns=run.start_ns + prepared.end_ns,
        tick=lambda: hooks.look(run, 0.0),
    )
    platform.decode()
    hooks.ended(run)
    return run


def verify_context(ca: str | None) -> ssl.SSLContext | bool:
    """How the certificate of an https:// is verified: by *ca*, or as the system does."""
    return client_context(ca=Path(ca)) if ca is not None else True


async def carry_out(
    prepared: Prepared, hooks: Hooks, *, only: Collection[UnitId] | None = None, source_offset: int = 0
) -> tuple[Run, Generator]:
    """A run in real time, to its end or until it is stopped. Its links are closed then.

    Args:
        prepared: what it was given; it has a target.
        hooks: who carries it out.
        only: these units alone.
        source_offset: with which of the source addresses to begin.

    Raises:
        StoppedError: before the first unit was switched on.
    """
    given, target = prepared.given, prepared.target
    assert target is not None
    allow_connections(prepared.scenario.unit_count if only is None else len(only))
    driver = RealTimeDriver(speed=given.speed)
    uplinks: list[TcpUplink] = []
    sources = prepared.sources
    addresses = (
        cycle(sources[source_offset % len(sources) :] + sources[: source_offset % len(sources)]) if sources else None
    )
    # As many connections as units; what is idle is closed.
    limits = httpx.Limits(max_connections=None, max_keepalive_connections=100)
    async with httpx.AsyncClient(limits=limits, verify=verify_context(given.tls_ca)) as client:

        def uplink(_index: int) -> TcpUplink:
            uplinks.append(
                TcpUplink(
                    driver,
                    client,
                    host=target.host,
                    port=target.port,
                    ssl_context=target.tls,
                    source_address=None if addresses is None else next(addresses),
                )
            )
            return uplinks[-1]

        runs: list[Run] = []
        run = Run(
            prepared.scenario,
            given.seed,
            kernel=driver.kernel,
            uplink=uplink,
            clock_ns=driver.wall_ns,
            lag_ns=lambda: driver.lag_ns,
            edition=given.edition,
            keys=prepared.keys,
            played=prepared.played,
            origins=() if given.api is None else (given.api.origin,),
            only=only,
            progress=_building(hooks),
            moment=_moment(runs, hooks),
        )
        runs.append(run)
        steer_again(run, given.steered)
        joins_ns = await hooks.before(run)
        driver.kernel.run_until(driver.wall_ns())
        run.start(joins_ns=joins_ns)
        cpu_s, wall_s = time.process_time(), time.monotonic()
        end_ns = run.start_ns + prepared.end_ns

        def finished() -> bool:
            hooks.look(run, driver.lag_ns / SECOND)
            return hooks.is_stopped() or run.is_over or driver.kernel.now_ns >= end_ns

        try:
            await driver.run(finished, until_ns=end_ns + round(GRACE_S * given.speed * SECOND))
        finally:
            await hooks.after(run, driver)
            generator = Generator(
                lag_time_ns=driver.lag_time_ns,
                lag_max_ns=driver.lag_ns_max,
                cpu_s=time.process_time() - cpu_s,
                wall_s=time.monotonic() - wall_s,
                started=run.started,
                ramp_ns=run.ramp_ns,
                event_loop=event_loop()[0],
            )
            # Before the links are closed: what closing does is no part of the run.
            hooks.ended(run)
            await asyncio.gather(*(each.close() for each in uplinks), return_exceptions=True)
    return run, generator
