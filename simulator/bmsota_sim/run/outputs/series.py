"""How a run went over time: a bounded number of samples, whatever its length.

A sample has the counters in sum, the histogram of reply times, and how late and how busy the simulator was. When the samples are full,
every second one goes and the period doubles: what is left is as if it had been sampled so from the start. Pure: the caller says when
it is and how much CPU it has used.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.expectations import COUNTERS
from bmsota_sim.run.ledger import quantile_of

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from bmsota_sim.run.judged import RunFigures
    from bmsota_sim.run.ledger import Ledger

__all__ = ["SAMPLES_MAX", "Sample", "Series"]

SAMPLES_MAX = 600
"""More than a chart has pixels for."""
PERIOD_NS_MIN = NS_PER_S
SHARES = (50, 90, 99)


@dataclass(slots=True)
class Sample:
    """What was known at a moment; counters and reply times from the start."""

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
        self._samples: list[Sample] = []
        self._late_s = 0.0
        self.next_ns = 0
        """When the next sample is due, from the start of the run."""

    def late(self, late_s: float) -> None:
        """The simulator is so late; the next sample has the most of these."""
        self._late_s = max(self._late_s, late_s)

    def add(self, at_ns: int, ledger: Ledger, cpu_s: float = 0.0) -> None:
        """Take a sample. *cpu_s*: CPU time that the simulator has used since the start."""
        counts = ledger.counts.sum(axis=0)
        self._append(at_ns, counts, ledger.reply_buckets(), ledger.connected_count(), ledger.logged_in_count(), cpu_s)

    def add_figures(self, at_ns: int, figures: RunFigures, cpu_s: float) -> None:
        """Take a sample of what is known of a run that others carry out."""
        counts = np.array([figures.totals[name] for name in COUNTERS], np.int64)
        self._append(at_ns, counts, figures.replies, figures.connected, figures.logged_in, cpu_s)

    def _append(
        self,
        at_ns: int,
        counts: NDArray[np.int64],
        replies: NDArray[np.int64],
        connected: int,
        logged_in: int,
        cpu_s: float,
    ) -> None:
        if self._samples and self._samples[-1].at_ns == at_ns:
            self._late_s = max(self._late_s, self._samples.pop().late_s)
        self._samples.append(Sample(at_ns, counts, replies, connected, logged_in, self._late_s, cpu_s))
        self._late_s = 0.0
        if len(self._samples) >= SAMPLES_MAX:
            self._thin()
        self.next_ns = at_ns - at_ns % self._period_ns + self._period_ns

    @property
    def samples(self) -> tuple[Sample, ...]:
        return tuple(self._samples)

    @classmethod
    def added(cls, shards: Sequence[Sequence[Sample]]) -> Series:
        """Of all shards of a run. What one has not sampled at a time is what it had before."""
        series = cls(1)
        times = sorted({sample.at_ns for samples in shards for sample in samples})
        if any([sample.at_ns for sample in samples] != times for samples in shards):
            times = _spread(times)  # In real time each samples a little beside the others.
        seen = [0] * len(shards)
        for at_ns in times:
            found = []
            for shard, samples in enumerate(shards):
                while seen[shard] < len(samples) and samples[seen[shard]].at_ns <= at_ns:
                    seen[shard] += 1
                if seen[shard]:
                    found.append(samples[seen[shard] - 1])
            series._samples.append(_added(at_ns, found))
        return series

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


def _spread(times: Sequence[int]) -> list[int]:
    """At most as many times as a chart has room for, and never two within half a second; the last of those that are near."""
    least_ns = max(PERIOD_NS_MIN // 2, (times[-1] - times[0]) // SAMPLES_MAX)
    kept: list[int] = []
    for at_ns in reversed(times):
        if not kept or kept[-1] - at_ns >= least_ns:
            kept.append(at_ns)
    return kept[::-1]


def _added(at_ns: int, samples: Sequence[Sample]) -> Sample:
    first, *others = samples
    return Sample(
        at_ns,
        sum((each.counts for each in others), first.counts),
        sum((each.replies for each in others), first.replies),
        sum(each.connected for each in samples),
        sum(each.logged_in for each in samples),
        max(each.late_s for each in samples),
        sum(each.cpu_s for each in samples),
    )
