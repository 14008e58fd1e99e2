"""How fast a stream of blocks goes out: how many blocks are under way, and whether there are pauses between the frames.

Strategy. A bad wire loses some frames, whatever the pace; a receiver or an adapter that is overrun loses the fewer the
slower it goes. Both look alike in one report. So when much is missing twice in a row, the pace is not just lowered: it is tried. It is
four times slower, and slower again as long as that helps. If the loss goes down to a third, the pace was the cause, and the
slow pace is kept; if not, it was the wire, and the stream continues at full speed: what is lost is repeated, which is all that
helps. After a trial, the next one comes later and later.

A slow pace is doubled again step by step, as long as the loss does not double; then it goes back by that step, and the next
one is smaller, and comes later.

The window only grows: it begins small and doubles with each report, up to what the nodes hold. Frames sent while the pace
changes say nothing about either pace, so the report after a change is not looked at.
"""

from __future__ import annotations

from enum import Enum, auto
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from bmsota.bootloader._timing import BootloaderTiming


_MS = 1_000_000
# From fewer frames nothing can be said about a loss; to compare two paces takes more.
_SAMPLE_FRAMES, _TRIAL_SAMPLE_FRAMES = 64, 128
# Of many nodes the one that misses most is judged: by so many standard deviations its loss must be above the limit.
_DEVIATIONS = 3
# Reports between two trials, at first; then four times as many. The last figure is some MB: practically never.
_TRIAL_PAUSE_REPORTS = 16
_TRIAL_PAUSE_REPORTS_MAX = 1024
# Good reports before the pace is raised again after it was too fast; it doubles.
_RAISE_PAUSE_REPORTS_MAX = 64
# To so much of the spacing it goes down when the pace is raised: by half at first, by an eighth near the limit.
_RAISE_EIGHTHS_MIN, _RAISE_EIGHTHS_MAX = 4, 7
_RAISE_PAUSE_REPORTS_STUCK = 8
_SLOWER = 4
# What a frame takes if it could not be measured: 8 bytes at 500 kbit/s. What was measured may be much too long.
_PERIOD_NS = _MS // 4
_FIRST_SPACING_NS_MAX = 2 * _MS


class _Trial(Enum):
    """What is being tried out."""

    NOTHING = auto()
    SLOWER = auto()
    FASTER = auto()


class Pace:
    """The pace of one stream."""

    def __init__(self, timing: BootloaderTiming, window_blocks: int, *, nodes: int = 1) -> None:
        self._timing = timing
        self._deviations = _DEVIATIONS if nodes > 1 else 0
        self._window_max = window_blocks
        self.window_blocks = min(window_blocks, timing.window_blocks_min)
        """Blocks under way at once, now."""
        self.spacing_ns = 0
        """Time from one frame to the next, now; 0: as fast as they go."""
        self.is_lossy = False
        """Whether so much was missing lately that it is worth it to say important things once more."""
        self._trial = _Trial.NOTHING
        self._is_settling = False
        self._heavy_before: int | None = None
        """Loss of the sample before, if it was heavy."""
        self._sample_missing = self._sample_sent = 0
        self._period_ns: int | None = None
        """What a frame takes without pauses."""
        self._trial_pause = _TRIAL_PAUSE_REPORTS
        self._trial_in = 0
        self._raise_eighths = _RAISE_EIGHTHS_MIN
        self._raise_pause = 1
        self._raise_in = 0
        # What there was before a trial.
        self._base_spacing_ns = 0
        self._base_loss = 0
        self._slow_loss = 0
        """What is lost at the pace that has been kept."""

    @property
    def is_paced(self) -> bool:
        """Whether there are pauses between the frames, or another pace is tried."""
        return bool(self.spacing_ns) or self._trial is not _Trial.NOTHING

    def judge(self, missing: int, sent: int, frame_ns: int | None) -> None:
        """A report: this many of the *sent* frames are missing; from one frame to the next it took *frame_ns*, if that is known."""
        if not sent:
            return
        self.window_blocks = min(self._window_max, 2 * self.window_blocks)
        if not self.spacing_ns and frame_ns is not None:
            self._period_ns = frame_ns if self._period_ns is None else min(self._period_ns, frame_ns)
        if self._is_settling:
            self._is_settling = False
            return
        self._sample_missing += min(missing, sent)
        self._sample_sent += sent
        if self._sample_sent < (_SAMPLE_FRAMES if self._trial is _Trial.NOTHING else _TRIAL_SAMPLE_FRAMES):
            return
        missing, sent = self._sample_missing, self._sample_sent
        self._sample_missing = self._sample_sent = 0
        loss = 1000 * missing // sent
        is_heavy = self._is_heavy(missing, sent)
        self.is_lossy = loss > 10 * self._timing.loss_pct_low
        if self._trial is _Trial.SLOWER:
            self._judge_slower(loss, is_heavy=is_heavy)
        elif self._trial is _Trial.FASTER and loss > 2 * self._slow_loss + 10 * self._timing.loss_pct_low:
            self._raise_eighths = min(self._raise_eighths + 1, _RAISE_EIGHTHS_MAX)
            self._raise_pause = min(2 * self._raise_pause, _RAISE_PAUSE_REPORTS_MAX)
            self._raise_in = self._raise_pause
            self._change(_Trial.NOTHING, self._base_spacing_ns)
        elif is_heavy and not self._trial_in and self._heavy_before is not None:
            self._base_spacing_ns, self._base_loss = self.spacing_ns, (loss + self._heavy_before) // 2
            self._change(_Trial.SLOWER, self._slower_ns())
        else:
            # Once is chance: of many nodes one is always unlucky.
            self._heavy_before = loss if is_heavy else None
            if self._trial is _Trial.NOTHING:
                self._slow_loss = (self._slow_loss + loss) // 2
            self._trial = _Trial.NOTHING
            self._trial_in = max(0, self._trial_in - 1)
            self._raise_in = max(0, self._raise_in - 1)
            if self.spacing_ns and not self._raise_in:
                self._base_spacing_ns = self.spacing_ns
                faster_ns = self.spacing_ns * self._raise_eighths // 8
                self._change(_Trial.FASTER, faster_ns if faster_ns >= self._timing.spacing_ns_min else 0)

    def _is_heavy(self, missing: int, sent: int) -> bool:
        """Whether this is too much, and, of the unluckiest of many nodes, more than chance makes of what is just not too much."""
        limit = self._timing.loss_pct_high
        excess = 100 * missing - limit * sent
        return excess > 0 and excess * excess > self._deviations**2 * limit * (100 - limit) * sent

    def slow_down(self) -> None:
        """A node does not get any further at this pace, for whatever reason."""
        self._raise_pause = min(max(_RAISE_PAUSE_REPORTS_STUCK, 2 * self._raise_pause), _RAISE_PAUSE_REPORTS_MAX)
        self._raise_in = self._raise_pause
        self._change(_Trial.NOTHING, self._slower_ns())

    def _judge_slower(self, loss: int, *, is_heavy: bool) -> None:
        is_cured = 3 * loss <= self._base_loss
        if self.spacing_ns < self._timing.spacing_ns_max and (is_heavy if is_cured else 2 * loss <= self._base_loss):
            if is_cured:
                self._base_spacing_ns, self._base_loss = self.spacing_ns, loss
            self._change(_Trial.SLOWER, self._slower_ns())
        else:
            self._slow_loss = loss if is_cured else self._base_loss
            self._end_trial(self.spacing_ns if is_cured else self._base_spacing_ns)

    def _end_trial(self, spacing_ns: int) -> None:
        self._change(_Trial.NOTHING, spacing_ns)
        self._trial_in = self._trial_pause
        self._trial_pause = min(4 * self._trial_pause, _TRIAL_PAUSE_REPORTS_MAX)

    def _change(self, trial: _Trial, spacing_ns: int) -> None:
        self._trial = trial
        self.spacing_ns = spacing_ns
        self._is_settling = True
        self._heavy_before = None
        self._sample_missing = self._sample_sent = 0

    def _slower_ns(self) -> int:
        period_ns = max(self._timing.spacing_ns_min, self._period_ns or _PERIOD_NS)
        longer_ns = _SLOWER * self.spacing_ns or min(_SLOWER * period_ns, _FIRST_SPACING_NS_MAX)
        return min(longer_ns, self._timing.spacing_ns_max)
