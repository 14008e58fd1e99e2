"""How a figure is measured and printed."""

from __future__ import annotations

import argparse
import json
import random
import statistics
import sys
import time
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

__all__ = ["Figure", "compare", "print_figures"]

ROUNDS = 15
ROUND_S = 0.08


@dataclass(frozen=True, slots=True)
class Figure:
    """One line."""

    figure: str
    value: float
    unit: str
    ratio: float | None = None
    baseline: str = ""


def compare(contenders: Mapping[str, Callable[[], int]], baselines: Mapping[str, str], *, unit: str) -> list[Figure]:
    """Run every contender in shuffled rounds; rate per CPU-second, and the median of the per-round ratios.

    Args:
        contenders: name -> a function that does its work once and says how many pieces it did.
        baselines: name of a figure -> name of the contender it is compared with; a contender that is only a baseline
            for others is printed too.
        unit: of a piece, for example "frames/CPU-s".
    """
    order = list(contenders)
    shuffle = random.Random(1)
    rates: dict[str, list[float]] = {name: [] for name in order}
    for _ in range(ROUNDS):
        shuffle.shuffle(order)
        for name in order:
            work, pieces = contenders[name], 0
            start = time.process_time()
            while (spent := time.process_time() - start) < ROUND_S:
                pieces += work()
            rates[name].append(pieces / spent)
    figures = []
    for name in contenders:
        base = baselines.get(name, "")
        ratio = statistics.median(a / b for a, b in zip(rates[name], rates[base], strict=True)) if base else None
        figures.append(Figure(name, round(statistics.median(rates[name]), 1), unit, ratio and round(ratio, 3), base))
    return figures


def print_figures(name: str, figures: Callable[[], list[Figure]]) -> None:
    """The command line of a benchmark."""
    parser = argparse.ArgumentParser(prog=f"python -m benchmarks.{name}")
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    arguments = parser.parse_args()
    for figure in figures():
        if arguments.json:
            sys.stdout.write(json.dumps(asdict(figure)) + "\n")
        else:
            ratio = "" if figure.ratio is None else f"  {figure.ratio:.3g} x {figure.baseline}"
            sys.stdout.write(f"{figure.figure:28} {figure.value:>14,.1f} {figure.unit}{ratio}\n")
        sys.stdout.flush()
