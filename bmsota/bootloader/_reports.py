"""After how many blocks a stream requests the next report.

A report costs a frame of each node, and more for what it misses. With too few of them the stream stands still: the window ends at the
first incomplete block, until the next report says that the block has been repaired.

Strategy. As long as something is missing now and then, a report is requested twice a window: what one report names has been repaired
when the next one comes. Without loss a window holds one interval and a reserve, which is sent while the report is on its way. The reserve
is one block at first, and doubles when the stream stands still all the same; a driver that takes everything at once makes it half
a window, which is what there is with loss.
"""

from __future__ import annotations

# With pauses between the frames everything is slow, and a trial may be a mistake: it is looked at often.
_PACED_BLOCKS = 2
# Reports without a stand-still before the reserve gets smaller again; twice as many after each stand-still.
_HOLD_REPORTS, _HOLD_REPORTS_MAX = 4, 64


class ReportInterval:
    """The interval of one stream."""

    def __init__(self) -> None:
        self._is_clean = False
        """Whether nothing was missing in the last report of any node."""
        self._reserve_blocks = 1
        self._hold = self._hold_left = _HOLD_REPORTS

    def blocks(self, window_blocks: int, *, is_paced: bool) -> int:
        """The number of blocks after which a report is wanted, with so many under way at once."""
        half = max(1, window_blocks // 2)
        if is_paced:
            return min(half, _PACED_BLOCKS)
        return max(half, window_blocks - self._reserve_blocks) if self._is_clean else half

    def judge(self, *, is_clean: bool, has_stalled: bool) -> None:
        """All nodes have reported.

        Args:
            is_clean: whether none of them misses anything.
            has_stalled: whether there was nothing to send while the reports were on their way.
        """
        was_clean, self._is_clean = self._is_clean, is_clean
        if not was_clean:
            return  # It was half a window: that says nothing about the reserve.
        if has_stalled:
            self._reserve_blocks *= 2
            self._hold = self._hold_left = min(2 * self._hold, _HOLD_REPORTS_MAX)
        elif self._hold_left:
            self._hold_left -= 1
        else:
            self._reserve_blocks = max(1, self._reserve_blocks // 2)
            self._hold_left = self._hold
