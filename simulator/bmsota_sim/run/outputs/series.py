"""How a run went over time: a bounded number of samples, whatever its length.

A sample has the counters in sum, the histogram of reply times, and how late and how busy the simulator was. When the samples are full,
every second one goes and the period doubles: what is left is as if it had been sampled so from the start. Pure: the caller says when
it is and how much CPU it has used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.expectations import COUNTERS
from bmsota_sim.run.ledger import quantile_of

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from bmsota_sim.run.ledger import Ledger

__all__ = ["SAMPLES_MAX", "Series"]

SAMPLES_MAX = 600
"""More than a chart has pixels for."""
PERIOD_NS_MIN = NS_PER_S
SHARES = (50, 90, 99)


@dataclass(slots=True)
class _Sample:
    at_ns: int
    counts: NDArray[np.int64]
    replies: NDArray[np.int64]
    connected: int
    logged_in: int
    late_s: float
    cpu_s: float


class Series:
    """The samples of one run."""

    def __init__(self, duration_ns: int) -> None:
        """*duration_ns*: how long the run will be; it sets the first period."""
        self._period_ns = max(PERIOD_NS_MIN, duration_ns // SAMPLES_MAX)
        self._samples: list[_Sample] = []
        self._late_s = 0.0
        self.next_ns = 0
        """When the next sample is due, from the start of the run."""

    def late(self, late_s: float) -> None:
        """The simulator is so late; the next sample has the most of these."""
        self._late_s = max(self._late_s, late_s)

    def add(self, at_ns: int, ledger: Ledger, cpu_s: float = 0.0) -> None:
        """Take a sample. *cpu_s*: CPU time that the simulator has used since the start."""
        self._samples.append(
            _Sample(
                at_ns,
                ledger.counts.sum(axis=0),
                ledger.reply_buckets(),
                ledger.connected_count(),
                ledger.logged_in_count(),
                self._late_s,
                cpu_s,
            )
        )
        self._late_s = 0.0
        if len(self._samples) >= SAMPLES_MAX:
            self._thin()
        self.next_ns = at_ns - at_ns % self._period_ns + self._period_ns

    def _thin(self) -> None:
        kept = self._samples[1::2]  # The later of two: the last sample stays.
        for index, sample in enumerate(kept):
            sample.late_s = max(sample.late_s, self._samples[2 * index].late_s)
        self._samples = kept
        self._period_ns *= 2

    def rate(self, counter: str) -> float | None:
        """What was counted in a second, between the last two samples; None: there are no two."""
        if len(self._samples) < 2:
            return None
        before, last = self._samples[-2:]
        column = COUNTERS.index(counter)
        passed_s = (last.at_ns - before.at_ns) / NS_PER_S
        return float(last.counts[column] - before.counts[column]) / passed_s if passed_s > 0 else None

    def document(self) -> dict[str, Any]:
        """For `run.json`: columns of equal length. Counters are sums from the start, reply times those since the sample before."""
        samples = self._samples
        columns: dict[str, Any] = {
            "at_s": [sample.at_ns / NS_PER_S for sample in samples],
            "connected": [sample.connected for sample in samples],
            "logged_in": [sample.logged_in for sample in samples],
            "late_s": [round(sample.late_s, 6) for sample in samples],
            "cpu_s": [round(sample.cpu_s, 3) for sample in samples],
        }
        replies = [
            sample.replies - samples[index - 1].replies if index else sample.replies
            for index, sample in enumerate(samples)
        ]
        for share in SHARES:
            columns[f"reply_p{share}_s"] = [quantile_of(each, share / 100) for each in replies]
        columns["counters"] = {
            name: [int(sample.counts[index]) for sample in samples]
            for index, name in enumerate(COUNTERS)
            if samples and samples[-1].counts[index]
        }
        return columns
