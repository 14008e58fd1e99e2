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

    from bmsota_sim.run.judged import JudgedRun

__all__ = ["ProgressScreen", "progress_line"]

# Narrower, and the worst units come below the figures, not beside them.
SIDE_BY_SIDE_WIDTH = 72
FIGURES_WIDTH = 32


def progress_line(run: JudgedRun, lag_s: float) -> str:
    """One line, for a log."""
    figures = run.figures()
    totals = figures.totals
    faults = ", ".join(f"{totals[name]:,} {name}" for name in FAULTS if totals[name]) or "no faults"
    return (
        f"{figures.at_ns / NS_PER_S:,.0f} of {run.scenario.duration_s:,.0f} s: {figures.started:,} of {figures.unit_count:,} started, "
        f"{figures.logged_in:,} logged in, {totals['sent']:,} sent, {faults}, late {lag_s:.3f} s"
    )


class ProgressScreen:
    """A screen that fits: where there is no room, first the faults that did not happen go, then the less bad units."""

    def __init__(self, run: JudgedRun, lag_s: float, reports_per_s: float | None) -> None:
        """*reports_per_s*: sent lately; None: not known yet."""
        figures = run.figures()
        totals, p99 = figures.totals, figures.reply_p99_s
        self._title = (
            f"{run.scenario.name}, seed {run.seed}, {figures.at_ns / NS_PER_S:,.0f} of {run.scenario.duration_s:,.0f} s"
        )
        self._figures = [
            ("started", f"{figures.started:,} of {figures.unit_count:,}"),
            ("connected", f"{figures.connected:,}"),
            ("logged in", f"{figures.logged_in:,}"),
            ("reports sent", f"{totals['sent']:,}"),
            ("reports/s", "-" if reports_per_s is None else f"{reports_per_s:,.1f}"),
            ("reply p99", "-" if p99 is None else f"{p99:.3f} s"),
            ("late", f"{lag_s:.3f} s"),
        ]
        self._faults = [(name.replace("_", " "), totals[name]) for name in FAULTS]
        self._worst = [f"{count:>6,} {told}" for count, told in figures.worst]

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
