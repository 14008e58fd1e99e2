"""A fleet, or one unit, for a test: in virtual time against an object, or in real time against any gateway.

The pytest fixtures of `pytest_plugin` make these; they can be used without pytest too.

    fleet = FleetTrial("storm", count=4)
    fleet.run()                         # to the end of the scenario, in virtual time
    fleet.check()                       # raises AssertionError if something that must hold did not

    fleet = FleetTrial("storm", count=4)
    await fleet.connect(("127.0.0.1", 32960), speed=10)
    fleet.check()
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING

import httpx

from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import ReportReceived
from bmsota_sim.kernel import SECOND, Kernel
from bmsota_sim.realtime import RealTimeDriver, TcpUplink
from bmsota_sim.recordings.playback import RecordedUnit
from bmsota_sim.run.check import check
from bmsota_sim.run.places import did_you_mean
from bmsota_sim.run.runner import Run
from bmsota_sim.run.scenario import packaged_text
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink, run_virtual

if TYPE_CHECKING:
    import ssl
    from collections.abc import Callable

    from bmsota.gbt32960 import PlatformEvent, Report
    from bmsota_sim.run.judged import Case, Result
    from bmsota_sim.run.ledger import UnitLedger
    from bmsota_sim.run.link import LosableUplink
    from bmsota_sim.unit import Unit
    from bmsota_sim.virtual import MemoryPlatform

__all__ = ["FleetTrial", "UnitTrial"]

# What the simulator may be behind at the end and still finish the scenario.
GRACE_S = 10.0
FAILING_MAX = 5


class FleetTrial:
    """One run of a scenario. It runs once, in virtual or in real time."""

    def __init__(
        self,
        scenario: str | Path,
        *,
        count: int | None = None,
        seed: int = 1,
        edition: int | None = None,
        platform: MemoryPlatform | None = None,
    ) -> None:
        """Read and check the scenario; nothing is built yet.

        Args:
            scenario: the name of a ready scenario, a path, or the YAML itself (a text of several lines).
            count: number of units in all; default: as the scenario says.
            seed: of the run.
            edition: of GB/T 32960.3, 2016 or 2025, in place of the groups'.
            platform: what the units talk to in virtual time; default: a `SessionPlatform`.

        Raises:
            ConfigurationError: with file, line and column where the scenario is wrong.
            OSError: the file cannot be read.
        """
        data, name = _scenario_bytes(scenario)
        self.scenario = check(data, name, seed, count=count).scenario
        self.seed = seed
        self.platform: MemoryPlatform = SessionPlatform() if platform is None else platform
        self.late_s = 0.0
        """How late the simulator was in real time, for 99 % of the time at most: if it was late, nothing is known of the platform."""
        self._edition = edition
        self._name = name
        self._run: Run | None = None
        self._result: Result | None = None
        self._is_real = False

    # -- running ---------------------------------------------------------------------------------------------------------

    def run(self, seconds: float | None = None) -> None:
        """Let virtual time pass: so many seconds more, or up to the end of the scenario.

        Raises:
            ConfigurationError: it was run in real time, or is over.
        """
        run = self._virtual()
        if self._is_real or self._result is not None:
            raise ConfigurationError("this fleet has run already; make another one")
        end_ns = run.start_ns + run.duration_ns
        until_ns = end_ns if seconds is None else min(end_ns, run.kernel.now_ns + round(seconds * SECOND))
        run_virtual(run.kernel, lambda: run.is_over, until_ns=until_ns)

    async def connect(
        self,
        to: tuple[str, int],
        *,
        seconds: float | None = None,
        speed: float = 1.0,
        ssl_context: ssl.SSLContext | None = None,
    ) -> None:
        """Run in real time against the gateway at *to*, inside the running event loop, where the gateway may be too.

        Args:
            to: host and port.
            seconds: of the scenario; default: to its end.
            speed: seconds of the scenario in a real second. An answer that takes 0.1 s counts as 1 s at a speed of 10.
            ssl_context: for TLS.

        Raises:
            ConfigurationError: it has run already.
        """
        if self._run is not None:
            raise ConfigurationError("this fleet has run already; make another one")
        self._is_real = True
        driver = RealTimeDriver(speed=speed)
        uplinks: list[TcpUplink] = []
        async with httpx.AsyncClient() as client:

            def uplink(_index: int) -> TcpUplink:
                uplinks.append(TcpUplink(driver, client, host=to[0], port=to[1], ssl_context=ssl_context))
                return uplinks[-1]

            run = self._build(driver.kernel, uplink, clock_ns=driver.wall_ns, lag_ns=lambda: driver.lag_ns)
            driver.kernel.run_until(driver.wall_ns())
            run.start()
            end_ns = run.start_ns + min(run.duration_ns, round((seconds or self.scenario.duration_s) * SECOND))
            try:
                await driver.run(
                    lambda: run.is_over or driver.kernel.now_ns >= end_ns,
                    until_ns=end_ns + round(GRACE_S * speed * SECOND),
                )
            finally:
                self.late_s = driver.lag_s(0.99)
                self._result = run.end()
                await asyncio.gather(*(each.close() for each in uplinks), return_exceptions=True)

    def _build(
        self,
        kernel: Kernel,
        uplink: Callable[[int], LosableUplink],
        *,
        clock_ns: Callable[[], int] | None = None,
        lag_ns: Callable[[], int] | None = None,
    ) -> Run:
        self._run = Run(
            self.scenario,
            self.seed,
            kernel=kernel,
            uplink=uplink,
            clock_ns=clock_ns,
            lag_ns=lag_ns,
            edition=self._edition,
        )
        return self._run

    def _virtual(self) -> Run:
        if self._run is None:
            kernel = Kernel(VIRTUAL_START_NS)
            self._build(kernel, lambda index: self._uplink(kernel, index)).start()
        assert self._run is not None
        return self._run

    def _uplink(self, kernel: Kernel, _index: int) -> LosableUplink:
        return MemoryUplink(kernel, self.platform, delay_ns=0)

    # -- what became of it ---------------------------------------------------------------------------------------------------

    @property
    def counters(self) -> dict[str, int]:
        """What was counted up to now, all units together: `sent`, `acknowledged`, `refused`, ... (docs/run.md)."""
        run = self._virtual()
        run.sample()
        return run.ledger.totals()

    @property
    def links(self) -> dict[str, UnitLedger]:
        """What was seen on each unit's link, by the unit's name such as `shanghai-f7/1`."""
        return {str(unit): ledger for unit, ledger in self._virtual().ledger.units.items()}

    def unit(self, name: str) -> Unit:
        """A unit, to take its network or its supply away, or to drive it.

        Raises:
            ConfigurationError: no unit has this name.
        """
        units = {
            str(unit): each.unit
            for unit, each in self._virtual().units.items()
            if not isinstance(each.unit, RecordedUnit)
        }
        if name not in units:
            raise ConfigurationError(f"no unit {name!r}{did_you_mean(name, units)}")
        return units[name]

    @property
    def result(self) -> Result:
        """Everything that had to hold and whether it did. In virtual time the scenario is first run to its end."""
        if self._result is None:
            self.run()
            self._result = self._virtual().end()
        return self._result

    def check(self, *, lateness_limit_s: float = 1.0) -> None:
        """Everything that must hold did, as `bmsota-sim run` judges it: expectations, faults of the platform, events.

        Raises:
            AssertionError: something did not, was not judged because the run ended before, or the simulator was late.
        """
        result = self.result
        problems = [line for case in result.cases if not case.passed for line in _told(case)]
        if self.late_s > lateness_limit_s:
            problems.insert(
                0, f"no verdict: the simulator was late: p99 {self.late_s:.3f} s, limit {lateness_limit_s:g} s"
            )
        if problems:
            head = f"{self._name}, seed {self.seed}, {self.scenario.unit_count} units, trace {result.fold[:16]}"
            raise AssertionError("\n".join([head, *problems]))


class UnitTrial(FleetTrial):
    """One unit in virtual time, and every frame that it sends."""

    def __init__(
        self,
        profile: str = "E7",
        *,
        edition: int = 2016,
        report_s: float = 10.0,
        seed: int = 1,
        platform: MemoryPlatform | None = None,
    ) -> None:
        """*profile*: E7, F7, or one of their variants (`bmsota_sim.profiles`); *report_s*: the period of its reports; the rest as for `FleetTrial`.

        Raises:
            ConfigurationError: there is no such series, edition or period.
        """
        self.frames: list[bytes] = []
        """What it has sent, frame by frame, as bytes."""
        self.events: list[PlatformEvent] = []
        """What the library's own platform end made of it; nothing with a *platform* of yours."""
        super().__init__(
            f"name: unit\nduration: 30d\ngroups:\n"
            f"  unit: {{ profile: {profile}, count: 1, fidelity: full, edition: {edition} }}\n"
            f"life: {{ report: {report_s:g}s }}\nnetwork: {{ latency: 0s }}\n",
            seed=seed,
            platform=SessionPlatform(lambda event, _now_ns: self.events.append(event))
            if platform is None
            else platform,
        )

    def _uplink(self, kernel: Kernel, index: int) -> LosableUplink:
        return _RecordingUplink(super()._uplink(kernel, index), self.frames)

    @property
    def device(self) -> Unit:
        """The unit itself."""
        return self.unit("unit/1")

    @property
    def reports(self) -> list[Report]:
        """The reports that the library's own platform end has received, decoded."""
        return [event.report for event in self.events if isinstance(event, ReportReceived)]


class _RecordingUplink:
    """An `Uplink` that keeps what is sent; a unit sends whole frames."""

    def __init__(self, uplink: LosableUplink, frames: list[bytes]) -> None:
        self._frames = frames
        self._uplink = uplink
        self.open_stream = uplink.open_stream
        self.close_stream = uplink.close_stream
        self.abandon_stream = uplink.abandon_stream
        self.start_http = uplink.start_http
        self.abort_http = uplink.abort_http

    def send_stream(self, data: bytes) -> None:
        self._frames.append(data)
        self._uplink.send_stream(data)


def _scenario_bytes(scenario: str | Path) -> tuple[bytes, str]:
    if isinstance(scenario, str) and "\n" in scenario:
        return scenario.encode(), "scenario"
    path = Path(scenario)
    if isinstance(scenario, Path) or path.suffix:
        return path.read_bytes(), str(scenario)
    return packaged_text(scenario).encode(), scenario


def _told(case: Case) -> list[str]:
    word = "not judged" if case.passed is None else "failed"
    return [f"{word}: {case.name}: {case.got}", *(f"    {text}" for text in case.failing[:FAILING_MAX])]
