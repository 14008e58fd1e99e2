"""Platforms that misbehave in ways a socket is not needed for: in virtual time, a unit for each, all in one run."""

from __future__ import annotations

import re
from functools import reduce

import pytest
from bmsota_sim.trials import FleetTrial

from bmsota.gbt32960 import Acknowledgement, LoginRequested, PlatformOptions, PlatformSession

SECOND = 1_000_000_000
CLOSE = object()


def fixed(frame: bytes) -> bytes:
    """With the right check byte."""
    return frame[:-1] + bytes([reduce(lambda left, right: left ^ right, frame[2:-1])])


def with_data(frame: bytes, data: bytes) -> bytes:
    return fixed(frame[:22] + len(data).to_bytes(2) + data + b"\x00")


def login(frame):
    return frame[2] == 1


def report(frame):
    return frame[2] in (2, 3)


def heartbeat(frame):
    return frame[2] == 7


# Which answers it spoils, what it makes of one (bytes, CLOSE, or seconds to wait, in turn), and the counter that must say so.
MODES = {
    "header_only": (login, lambda f: [f[:24]], "unanswered"),
    "half_a_login_then_gone": (login, lambda f: [f[:12], CLOSE], "drops"),
    "half_a_report_then_gone": (report, lambda f: [f[:20], CLOSE], "drops"),
    "gone_after_login": (login, lambda f: [f, 3.0, CLOSE], "drops"),
    "gone_at_login": (login, lambda f: [f, CLOSE], "drops"),
    "zeros": (report, lambda f: [bytes(len(f))], "garbage"),
    "other_start_mark": (report, lambda f: [b"@@" + f[2:]], "garbage"),
    "start_marks_before": (report, lambda f: [b"##" * 40 + f], "garbage"),
    "largest_length": (report, lambda f: [fixed(f[:22] + b"\xff\xff" + f[24:])], "unanswered"),
    "length_one_short": (
        report,
        lambda f: [f[:22] + (int.from_bytes(f[22:24]) - 1).to_bytes(2) + f[24:]],
        "wrong_check_byte",
    ),
    "length_one_long": (
        report,
        lambda f: [f[:22] + (int.from_bytes(f[22:24]) + 1).to_bytes(2) + f[24:]],
        "wrong_check_byte",
    ),
    "check_byte_zero": (report, lambda f: [f[:-1] + bytes([0 if f[-1] else 1])], "wrong_check_byte"),
    "check_byte_missing": (report, lambda f: [f[:-1]], "wrong_check_byte"),
    "other_command": (heartbeat, lambda f: [fixed(f[:2] + b"\x05" + f[3:])], "garbage"),
    "unknown_flag": (login, lambda f: [fixed(f[:3] + b"\x7f" + f[4:])], "login_refusals"),
    "vin_is_taken": (login, lambda f: [fixed(f[:3] + b"\x03" + f[4:])], "login_refusals"),
    "refuses_heartbeats": (heartbeat, lambda f: [fixed(f[:3] + b"\x02" + f[4:])], "refused"),
    "refuses_reports_as_double": (report, lambda f: [fixed(f[:3] + b"\x03" + f[4:])], "refused"),
    "lower_case_vin": (report, lambda f: [fixed(f[:4] + f[4:21].lower() + f[21:])], "other_vin"),
    "vin_of_zeros": (login, lambda f: [fixed(f[:4] + bytes(17) + f[21:])], "other_vin"),
    "vin_off_by_one": (heartbeat, lambda f: [fixed(f[:20] + bytes([f[20] ^ 1]) + f[21:])], "other_vin"),
    "echoes_the_login": (login, lambda f: [fixed(f[:3] + b"\xfe" + f[4:])], "unanswered"),
    "six_seconds_late": (heartbeat, lambda f: [6.0, f], "late_answers"),
    "late_and_twice": (report, lambda f: [f, 2.0, f], "answered_twice"),
    "a_hundred_times": (heartbeat, lambda f: [f * 100], "answered_twice"),
    "report_time_of_2000": (report, lambda f: [with_data(f, bytes(6))], "garbage"),
    "report_time_missing": (report, lambda f: [with_data(f, b"")], "garbage"),
    "silent_after_login": (lambda f: not login(f), lambda _: [], "unanswered"),
    "error_text": (login, lambda f: [f, b"ERROR: internal error, see log\n"], "garbage"),
    "ssh": (login, lambda f: [b"SSH-2.0-OpenSSH_9.6\r\n", f], "garbage"),
    "tls_alert": (login, lambda f: [bytes.fromhex("15030100020228"), f], "garbage"),
    "redis": (login, lambda f: [b"-ERR unknown command\r\n", f], "garbage"),
    "answers_of_a_time_request": (login, lambda f: [f, fixed(f[:2] + b"\x08\x01" + f[4:])], "garbage"),
    "byte_by_byte": (lambda _: True, lambda f: [part for byte in f for part in (bytes([byte]), 0.01)], None),
    "one_second_late": (lambda _: True, lambda f: [1.0, f], None),
}


class Link:
    """A `PlatformSession` whose answers are spoilt on their way out."""

    def __init__(self, mode_of):
        self._session = PlatformSession(options=PlatformOptions(acknowledge_reports=Acknowledgement.AT_ONCE))
        self._mode_of = mode_of
        self._plan = []  # (when, what)
        self._out = bytearray()
        self.is_closing = False

    def connected(self, now_ns):
        self._session.connected(now_ns)

    def disconnected(self, now_ns):
        self._session.disconnected(now_ns)

    def receive_data(self, data, now_ns):
        self._session.receive_data(data, now_ns)
        while (event := self._session.next_event()) is not None:
            if isinstance(event, LoginRequested):
                self._session.accept_login(now_ns)
        frames = self._session.data_to_send()
        while frames:
            size = 25 + int.from_bytes(frames[22:24])
            self._answer(frames[:size], now_ns)
            frames = frames[size:]
        self.handle_timeout(now_ns)

    def _answer(self, frame, now_ns):
        does, spoil, _ = self._mode_of(frame[4:21].decode())
        at_ns = max([now_ns, *(at for at, _ in self._plan)]) if not does(frame) else now_ns
        for part in spoil(frame) if does(frame) else [frame]:
            if isinstance(part, float):
                at_ns += round(part * SECOND)
            else:
                self._plan.append((at_ns, part))

    def handle_timeout(self, now_ns):
        due, self._plan = (
            [row for row in self._plan if row[0] <= now_ns],
            [row for row in self._plan if row[0] > now_ns],
        )
        for _, part in due:
            if part is CLOSE:
                self.is_closing = True
            elif not self.is_closing:
                self._out += part

    def next_timeout(self):
        return min((at for at, _ in self._plan), default=None)

    def data_to_send(self):
        data = bytes(self._out)
        self._out.clear()
        return data


class Platform:
    def __init__(self):
        self.modes = {}

    def open_link(self, _wake):
        return Link(self.modes.__getitem__)

    def respond(self, _request):
        raise AssertionError


SCENARIO = f"""
name: nasty
duration: 60s
start: {{ over: 2s }}
platform: {{ acknowledges_reports: "yes" }}
groups: {{ f: {{ profile: E7, count: {len(MODES)} }} }}
life: {{ report: 4s, heartbeat: 6s, measure: 30s }}
network: {{ latency: 10ms }}
"""


@pytest.fixture(scope="module")
def trial():
    platform = Platform()
    trial = FleetTrial(SCENARIO, platform=platform)
    for link, mode in zip(trial.links.values(), MODES.values(), strict=True):
        platform.modes[link.vin] = mode
    assert trial.result is not None
    return trial


@pytest.mark.parametrize(("number", "name"), list(enumerate(MODES, start=1)), ids=str)
def test_each_fault_is_counted_on_its_own_unit_and_told_with_its_time(number, name, trial):
    """No false green: the fault's counter moved on this unit, and the verdict names it. No false red: the good ones have none."""
    counter = MODES[name][2]
    link = trial.links[f"f/{number}"]
    counters = trial._virtual().ledger.of_unit(link.unit)
    seen = {
        key: count
        for key, count in counters.items()
        if key in link.firsts and key not in {"connects", "logins", "sent", "heartbeats", "acknowledged", "backfilled"}
    }
    if counter is None:
        assert set(seen) <= {"can_frames"}, seen
        assert link.is_logged_in
        return
    assert counters[counter] > 0, seen
    first = link.firsts[counter]
    assert 0 < first.at_ns <= 60 * SECOND
    assert first.data or first.detail


def test_the_verdict_names_every_kind_of_fault(trial):
    failed = {case.name: case for case in trial.result.cases if case.passed is False}
    for counter in {counter for _, _, counter in MODES.values() if counter}:
        case = failed[f"no {counter}"]
        assert re.match(rf"f/\d+ \w{{17}}: first {counter} at \d+\.\d{{3}} s", case.failing[0]), case.failing
    assert "group f" in failed  # Those that were refused.


def test_the_worst_units_are_those_with_most_faults(trial):
    worst = trial._virtual().ledger.worst(3)
    assert str(worst[0][0].unit) == f"f/{list(MODES).index('a_hundred_times') + 1}"
    assert [count for _, count in worst] == sorted((count for _, count in worst), reverse=True)
