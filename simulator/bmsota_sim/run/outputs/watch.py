"""What looks at a run while it goes on: samples for the report, a screen on a terminal, a line now and then elsewhere."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Self

from rich.live import Live

from bmsota_sim.run.outputs.screen import ProgressScreen, progress_line
from bmsota_sim.run.outputs.series import Series

if TYPE_CHECKING:
    from rich.console import Console

    from bmsota_sim.run.judged import JudgedRun
    from bmsota_sim.run.runner import Run

__all__ = ["RunProgress", "RunWatch", "Sampler"]

SHOW_S = 0.5
LINE_S = 10.0


class RunProgress:
    """The screen, or the lines. Shown now and then, however often it is asked to."""

    def __init__(self, console: Console) -> None:
        self._console = console
        # A dumb terminal cannot move its cursor.
        has_screen = console.is_terminal and not console.is_dumb_terminal
        self._live = Live(console=console, auto_refresh=False, transient=True) if has_screen else None
        self._next_s = time.monotonic() + (0.0 if has_screen else LINE_S)

    def __enter__(self) -> Self:
        if self._live is not None:
            self._live.start()
        return self

    def __exit__(self, *_exception: object) -> None:
        if self._live is not None:
            self._live.stop()

    def say(self, text: str) -> None:
        """A line that stays."""
        self._console.print(text, markup=False, highlight=False, soft_wrap=True)

    def show(self, run: JudgedRun, late_s: float, reports_per_s: float | None) -> None:
        """Show it, if it is time to. *reports_per_s*: sent lately; None: not known yet."""
        now_s = time.monotonic()
        if now_s < self._next_s:
            return
        self._next_s = now_s + (SHOW_S if self._live is not None else LINE_S)
        if self._live is not None:
            self._live.update(ProgressScreen(run, late_s, reports_per_s), refresh=True)
        else:
            self._console.print(progress_line(run, late_s), markup=False, highlight=False, soft_wrap=True)


class RunWatch(RunProgress):
    """Asked again and again by the driver of a run."""

    def __init__(self, console: Console, duration_ns: int, *, is_virtual: bool) -> None:
        """*is_virtual*: how late and how busy the simulator is says nothing, and the same seed must give the same samples."""
        super().__init__(console)
        self.sampler = Sampler(duration_ns, is_virtual=is_virtual)
        self.late_s = 0.0
        """How late the simulator is now."""

    @property
    def series(self) -> Series:
        return self.sampler.series

    def update(self, run: Run, late_s: float) -> None:
        """Look, if it is time to."""
        self.late_s = late_s
        self.sampler.update(run, late_s)
        self.show(run, late_s, self.series.rate("sent"))

    def end(self, run: Run) -> None:
        """The last sample: what the run ends with."""
        self.sampler.end(run)


class Sampler:
    """Takes the samples of a run while it goes on."""

    def __init__(self, duration_ns: int, *, is_virtual: bool) -> None:
        self.series = Series(duration_ns)
        self._is_virtual = is_virtual
        self._is_planned = False
        self._cpu_s: float | None = None

    def plan(self, run: Run) -> None:
        """In virtual time: sample at whole periods, just before what is due then. So each shard of a run samples at the same times."""
        self._is_planned = True

        def sample() -> None:
            self._sample(run, self.series.next_ns)
            next_ns = run.start_ns + self.series.next_ns - 1
            if next_ns < run.start_ns + run.duration_ns:
                run.kernel.call_at(next_ns, sample)

        sample()

    def update(self, run: Run, late_s: float) -> None:
        """Look, if it is time to."""
        if not self._is_virtual:
            self.series.late(late_s)
        if not self._is_planned and run.at_ns >= self.series.next_ns:
            self._sample(run, run.at_ns)

    def end(self, run: Run) -> None:
        """The last sample: what the run ends with."""
        self._sample(run, run.at_ns)

    def _sample(self, run: Run, at_ns: int) -> None:
        run.sample()
        if self._is_virtual:
            self.series.add(at_ns, run.ledger)
            return
        cpu_s = time.process_time()
        if self._cpu_s is None:
            self._cpu_s = cpu_s
        self.series.add(at_ns, run.ledger, cpu_s - self._cpu_s)
