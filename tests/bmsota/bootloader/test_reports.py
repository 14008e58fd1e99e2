"""After how many blocks a report is requested."""

from __future__ import annotations

from bmsota.bootloader._reports import ReportInterval


def alarms_of_moment(interval, *, times=1, is_clean=True, has_stalled=False):
    for _ in range(times):
        interval.judge(is_clean=is_clean, has_stalled=has_stalled)
    return interval.blocks(24, is_paced=False)


def test_a_report_is_wanted_twice_a_window_until_one_has_come_and_after_each_loss():
    interval = ReportInterval()
    assert interval.blocks(24, is_paced=False) == 12
    assert interval.blocks(1, is_paced=False) == 1
    assert alarms_of_moment(interval) == 23
    assert alarms_of_moment(interval, is_clean=False) == 12
    assert alarms_of_moment(interval) == 23


def test_a_slow_pace_is_looked_at_every_other_block():
    interval = ReportInterval()
    alarms_of_moment(interval)
    assert interval.blocks(24, is_paced=True) == 2
    assert interval.blocks(2, is_paced=True) == 1


def test_a_stream_that_stands_still_gets_a_larger_reserve_and_at_most_half_a_window():
    interval = ReportInterval()
    alarms_of_moment(interval)
    assert [alarms_of_moment(interval, has_stalled=True) for _ in range(5)] == [22, 20, 16, 12, 12]


def test_the_reserve_gets_smaller_again_and_each_time_later():
    interval = ReportInterval()
    alarms_of_moment(interval)
    alarms_of_moment(interval, has_stalled=True)
    for hold in (8, 16):
        assert alarms_of_moment(interval, times=hold) == 22
        assert alarms_of_moment(interval) == 23
        assert alarms_of_moment(interval, has_stalled=True) == 22


def test_a_report_behind_a_loss_says_nothing_about_the_reserve():
    """It came after half a window: that the stream stood still then is the loss's doing."""
    interval = ReportInterval()
    alarms_of_moment(interval, is_clean=False)
    assert alarms_of_moment(interval, has_stalled=True) == 23


def test_the_window_of_a_can_fd_node_gives_four_blocks_a_report():
    interval = ReportInterval()
    alarms_of_moment(interval)
    assert interval.blocks(5, is_paced=False) == 4
