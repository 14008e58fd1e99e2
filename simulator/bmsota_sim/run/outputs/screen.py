"""What one looks at while a run goes on: the same few lines for any fleet, on any terminal."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.console import Group
from rich.table import Table
from rich.text import Text

from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.ledger import FAULTS

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderResult

    from bmsota_sim.run.ledger import UnitLedger
    from bmsota_sim.run.runner import Run

__all__ = ["ProgressScreen", "progress_line"]

WORST_MAX = 10
# Narrower, and the worst units come below the figures, not beside them.
SIDE_BY_SIDE_WIDTH = 72
FIGURES_WIDTH = 32


def progress_line(run: Run, lag_s: float) -> str:
    """One line, for a log."""
    totals = run.ledger.totals()
    faults = ", ".join(f"{totals[name]:,} {name}" for name in FAULTS if totals[name]) or "no faults"
    at_s = (run.kernel.now_ns - run.start_ns) / NS_PER_S
    return (
        f"{at_s:,.0f} of {run.scenario.duration_s:,.0f} s: {run.started:,} of {len(run.units):,} started, "
        f"{run.ledger.logged_in_count():,} logged in, {totals['sent']:,} sent, {faults}, late {lag_s:.3f} s"
    )


class ProgressScreen:
    """A screen that fits: where there is no room, first the faults that did not happen go, then the less bad units."""

    def __init__(self, run: Run, lag_s: float, reports_per_s: float | None) -> None:
        """*reports_per_s*: sent lately; None: not known yet."""
        ledger, totals, p99 = run.ledger, run.ledger.totals(), run.ledger.quantile(0.99)
        at_s = (run.kernel.now_ns - run.start_ns) / NS_PER_S
        self._title = f"{run.scenario.name}, seed {run.seed}, {at_s:,.0f} of {run.scenario.duration_s:,.0f} s"
        self._figures = [
            ("started", f"{run.started:,} of {len(run.units):,}"),
            ("connected", f"{ledger.connected_count():,}"),
            ("logged in", f"{ledger.logged_in_count():,}"),
            ("reports sent", f"{totals['sent']:,}"),
            ("reports/s", "-" if reports_per_s is None else f"{reports_per_s:,.1f}"),
            ("reply p99", "-" if p99 is None else f"{p99:.3f} s"),
            ("late", f"{lag_s:.3f} s"),
        ]
        self._faults = [(name.replace("_", " "), totals[name]) for name in FAULTS]
        self._worst = [_told(unit, count) for unit, count in ledger.worst(WORST_MAX)]

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """As rich asks for it."""
        width, height = options.max_width, max(console.height - 1, 4)  # A full last line would scroll.
        is_beside = width >= SIDE_BY_SIDE_WIDTH
        room = height - 1 - len(self._figures)
        faults = self._faults
        if len(faults) > room or (not is_beside and len(faults) + 1 + len(self._worst) > room):
            faults = [row for row in faults if row[1]]
        rows = [*self._figures, *((name, f"{count:,}") for name, count in faults)][: height - 1]
        figures = Table.grid(padding=(0, 2), expand=False)
        figures.add_column(no_wrap=True)
        figures.add_column(no_wrap=True, justify="right")
        for name, value in rows:
            is_bad = any(name == fault and count for fault, count in faults)
            figures.add_row(Text(name), Text(value, style="red" if is_bad else ""))
        left = height - 1 if is_beside else height - 1 - len(rows)
        worst = self._worst[: max(0, left - 1)]
        lines = [
            Text("worst units", style="bold", no_wrap=True),
            *(Text(line, no_wrap=True, overflow="crop") for line in worst),
        ]
        yield Text(self._title, style="bold", no_wrap=True, overflow="crop")
        if not worst:
            yield figures
        elif is_beside:
            both = Table.grid(padding=(0, 2))
            both.add_column(width=FIGURES_WIDTH, no_wrap=True)
            both.add_column(no_wrap=True, overflow="crop")
            both.add_row(figures, Group(*lines))
            yield both
        else:
            yield figures
            yield from lines


def _told(unit: UnitLedger, count: int) -> str:
    first = min((name for name in FAULTS if name in unit.firsts), key=lambda name: unit.firsts[name].at_ns)
    return f"{count:>6,} {unit.unit}: {first.replace('_', ' ')} first, at {unit.firsts[first].at_ns / NS_PER_S:.1f} s"
