"""The deadlines of one response, and where a redirect leads."""

import pytest

from bmsota.ota import DownloadOptions
from bmsota.ota._transfer import ResponseWatchdog, redirect_target

S = 1_000_000_000
HOME = ("", "/device/v1/order")
OPTIONS = DownloadOptions(origin="https://base.example", redirect_origins=frozenset({"https://cdn.example"}))


def test_n16_no_head():
    watchdog = ResponseWatchdog(DownloadOptions())
    assert (watchdog.deadline_ns, watchdog.judge(99 * S)) == (None, "")
    watchdog.request_sent(10 * S)
    assert watchdog.deadline_ns == 40 * S
    assert watchdog.judge(40 * S - 1) == ""
    assert watchdog.judge(40 * S) == "no response within 30 s"
    watchdog.stop()
    assert (watchdog.deadline_ns, watchdog.judge(99 * S)) == (None, "")


def test_n16_a_body_that_stops():
    watchdog = ResponseWatchdog(DownloadOptions())
    watchdog.request_sent(0)
    watchdog.head_received(5 * S)
    watchdog.bytes_received(2000, 6 * S)
    watchdog.bytes_received(0, 20 * S)
    assert watchdog.deadline_ns == 26 * S
    assert watchdog.judge(26 * S) == "no data for 20 s"
    assert not watchdog.is_slow


def test_n16_a_body_that_drips_and_one_that_is_just_fast_enough():
    for bytes_per_s, problem in ((63, "slow-retrieval: expected 64 bytes/s, got 1890 bytes in 30 s"), (64, "")):
        watchdog = ResponseWatchdog(DownloadOptions())
        watchdog.request_sent(0)
        watchdog.head_received(0)
        for second in range(1, 31):
            assert watchdog.judge(second * S - 1) == ""
            watchdog.bytes_received(bytes_per_s, second * S)
        assert watchdog.judge(30 * S) == problem
        assert watchdog.is_slow is bool(problem)
        assert watchdog.is_steady is not bool(problem)


def test_n13_a_wait_is_the_longer_of_both_within_limits_and_longer_by_the_jitter():
    options = DownloadOptions(retry_jitter=0.5)
    assert options.wait_ns(2 * S) == 3 * S
    assert options.wait_ns(2 * S, 100) == 150 * S
    assert options.wait_ns(2 * S, 0) == 3 * S
    assert options.wait_ns(2 * S, 10**18) == 5400 * S


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("/x?y=1#z", ("", "/x?y=1")),
        ("manifests", ("", "/device/v1/manifests")),
        ("https://base.example/x", ("", "/x")),
        ("https://BASE.example:443", ("", "/")),
        ("https://cdn.example/x", ("https://cdn.example", "/x")),
        ("https://cdn.example:443/x", ("https://cdn.example:443", "/x")),
        ("https://user@cdn.example/x", None),
        ("http://cdn.example/x", None),
        ("https://cdn.example:8443/x", None),
        ("https://cdn.example.evil.example/x", None),
        ("//cdn.example/x", None),
        ("https://cdn.example:port/x", None),
        ("https://[bad/x", None),
        ("javascript:x", None),
        ("/line\nbreak", None),
        ("/" + "x" * 2048, None),
        ("", None),
        (None, None),
    ],
)
def test_s28_a_redirect_leads_home_or_to_the_list_or_nowhere(location, target):
    assert redirect_target(location, came_from=HOME, options=OPTIONS) == target


def test_s28_a_relative_redirect_of_a_cdn_stays_there():
    found = redirect_target("y", came_from=("https://cdn.example", "/a/x"), options=OPTIONS)
    assert found == ("https://cdn.example", "/a/y")
