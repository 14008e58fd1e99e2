"""What one looks at while a run goes on: the same few lines for any fleet."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.ledger import FAULTS

if TYPE_CHECKING:
    from bmsota_sim.run.runner import Run

__all__ = ["progress_line", "progress_table"]

WORST_MAX = 10


def progress_line(run: Run, lag_s: float) -> str:
    """One line, for a log."""
    totals = run.ledger.totals()
    faults = ", ".join(f"{totals[name]:,} {name}" for name in FAULTS if totals[name]) or "no faults"
    at_s = (run.kernel.now_ns - run.start_ns) / NS_PER_S
    return (
        f"{at_s:,.0f} of {run.scenario.duration_s:,.0f} s: {run.started:,} of {len(run.units):,} started, "
        f"{run.ledger.logged_in_count():,} logged in, {totals['sent']:,} sent, {faults}, late {lag_s:.3f} s"
    )


def progress_table(run: Run, lag_s: float) -> Table:
    """A screen of fixed size."""
    totals, p99 = run.ledger.totals(), run.ledger.quantile(0.99)
    at_s = (run.kernel.now_ns - run.start_ns) / NS_PER_S
    table = Table(title=f"{run.scenario.name}, seed {run.seed}, {at_s:,.0f} of {run.scenario.duration_s:,.0f} s")
    table.add_column("what")
    table.add_column("count", justify="right")
    table.add_column("worst units")
    rows = [
        ("started", f"{run.started:,} of {len(run.units):,}"),
        ("logged in", f"{run.ledger.logged_in_count():,}"),
        ("reports sent", f"{totals['sent']:,}"),
        ("reply p99", "-" if p99 is None else f"{p99:.3f} s"),
        ("late", f"{lag_s:.3f} s"),
        *((name.replace("_", " "), f"{totals[name]:,}") for name in FAULTS),
    ]
    worst = _worst(run)
    for index, (name, count) in enumerate(rows):
        table.add_row(name, count, worst[index] if index < len(worst) else "")
    return table


def _worst(run: Run) -> list[str]:
    ledgers = run.ledger
    counted = [(sum(ledgers.of_unit(unit)[name] for name in FAULTS if name in each.firsts), unit, each)
               for unit, each in ledgers.units.items() if any(name in each.firsts for name in FAULTS)]  # fmt: skip
    counted.sort(key=lambda row: (-row[0], row[1]))
    return [
        f"{unit}: {count:,} ({next(name for name in each.firsts if name in FAULTS)})"
        for count, unit, each in counted[:WORST_MAX]
    ]
