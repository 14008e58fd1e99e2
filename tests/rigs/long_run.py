"""What `make test-long` asks of the tests marked `long`: larger counts, and a range of seeds."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Sequence

_Phase = TypeVar("_Phase")

# The exhaustive tests leave nothing out.
LONG = bool(os.environ.get("BMSOTA_LONG"))


def phases_at(index: int, phases: Sequence[_Phase]) -> Sequence[_Phase]:
    """Where an operation is cut: everywhere in the long run, else in one phase, another at each operation.

    Every change of a journal is made twice, and neighbours are alike: what one operation's phase leaves out the next one has.
    """
    return phases if LONG else phases[index % len(phases) : index % len(phases) + 1]


def thinned(numbers: Sequence[int], every: int) -> Sequence[int]:
    """All of *numbers* in the long run, else each so many-th; the last one always."""
    return numbers if LONG else [*numbers[: len(numbers) - 1 : every], *numbers[-1:]]


def seeds() -> range:
    """The seeds of this run: `BMSOTA_LONG_SEEDS=4:8` are 4 to 7; without it, seed 0 alone."""
    first, _, end = os.environ.get("BMSOTA_LONG_SEEDS", "0:1").partition(":")
    return range(int(first), int(end))
