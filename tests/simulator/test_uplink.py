"""The modem: coverage, rate, the planned cut and the planned wrong byte."""

from __future__ import annotations

import pytest
from bmsota_sim.kernel import SECOND, Kernel
from bmsota_sim.links.uplink import CHUNK_SIZE_BYTES, Modem

from bmsota.ota import HttpRequest

START = 1000 * SECOND
IMAGE_HEAD = {"ETag": '"abc"', "Content-Length": "5000"}
DATA = bytes(index % 251 for index in range(5000))
RATE = 1000  # bytes per second


class FakeUplink:
    """The world behind the modem: records what the modem asks for, answers when the test says so."""

    def __init__(self):
        self.log = []
        self.stream = None
        self.exchange = None

    def open_stream(self, listener):
        self.log.append("open")
        self.stream = listener

    def send_stream(self, data):
        self.log.append(data)

    def close_stream(self):
        self.log.append("close")

    def start_http(self, base_url, request, listener):
        self.log.append(f"{request.method} {base_url}{request.path}")
        self.exchange = listener

    def abort_http(self):
        self.log.append("abort")


class Unit:
    """Whoever has the modem: both kinds of listener."""

    def __init__(self, kernel):
        self._kernel = kernel
        self.log = []
        self.body = b""
        self.sizes = []

    def _say(self, *what):
        self.log.append(((self._kernel.now_ns - START) / SECOND, *what))

    def stream_opened(self):
        self._say("opened")

    def stream_received(self, data):
        self._say("received", data)

    def stream_closed(self, reason):
        self._say("closed", reason)

    def http_head(self, status, headers):
        self._say("head", status)

    def http_body(self, data):
        self.body += data
        self.sizes.append(len(data))

    def http_ended(self, error):
        self._say("ended", error)


class Bench:
    def __init__(self):
        self.kernel = Kernel(START)
        self.uplink = FakeUplink()
        self.unit = Unit(self.kernel)
        self.modem = Modem(self.kernel, self.uplink, rate_bytes_per_s=RATE)

    def run(self, seconds):
        self.kernel.run_until(self.kernel.now_ns + int(seconds * SECOND))

    def fetch(self, data=DATA, headers=None, status=200):
        """Start an exchange and let the server answer all at once."""
        self.modem.start_http("http://a", HttpRequest("GET", "/x"), self.unit)
        self.answer(data, headers, status)

    def answer(self, data=DATA, headers=None, status=200):
        self.uplink.exchange.http_head(status, IMAGE_HEAD if headers is None else headers)
        self.uplink.exchange.http_body(data)
        self.uplink.exchange.http_ended(None)


@pytest.fixture
def bench():
    return Bench()


# -- the stream


def test_the_stream_goes_through(bench):
    bench.modem.open_stream(bench.unit)
    bench.uplink.stream.stream_opened()
    bench.modem.send_stream(b"up")
    bench.uplink.stream.stream_received(b"down")
    bench.uplink.stream.stream_closed("bye")
    assert bench.uplink.log == ["open", b"up"]
    assert [entry[1:] for entry in bench.unit.log] == [("opened",), ("received", b"down"), ("closed", "bye")]


def test_without_network_a_stream_is_closed_at_once_and_nothing_is_opened(bench):
    bench.modem.set_coverage(covered=False)
    bench.modem.open_stream(bench.unit)
    assert bench.unit.log == []  # not from inside the call
    bench.run(0)
    assert bench.unit.log == [(0, "closed", "no mobile network")]
    assert bench.uplink.log == []


def test_losing_the_network_breaks_stream_and_exchange_once(bench):
    bench.modem.open_stream(bench.unit)
    bench.uplink.stream.stream_opened()
    bench.fetch()
    bench.run(1.5)
    bench.modem.set_coverage(covered=False)
    assert [entry[1:] for entry in bench.unit.log[-2:]] == [
        ("ended", "no mobile network"),
        ("closed", "no mobile network"),
    ]
    told = list(bench.unit.log)
    received = len(bench.unit.body)
    bench.modem.set_coverage(covered=False)
    bench.uplink.stream.stream_received(b"late")
    bench.uplink.stream.stream_closed("late")
    bench.modem.send_stream(b"late")
    bench.run(60)
    assert bench.unit.log == told
    assert len(bench.unit.body) == received
    assert bench.uplink.log[-2:] == ["abort", "close"]


def test_back_in_the_network_everything_works_again(bench):
    bench.modem.set_coverage(covered=False)
    assert not bench.modem.covered
    bench.modem.set_coverage(covered=True)
    bench.modem.open_stream(bench.unit)
    bench.fetch()
    bench.run(6)
    assert bench.uplink.log[0] == "open"
    assert bench.unit.body == DATA


def test_a_closed_stream_says_nothing_more(bench):
    bench.modem.open_stream(bench.unit)
    bench.modem.close_stream()
    bench.uplink.stream.stream_opened()
    bench.uplink.stream.stream_received(b"late")
    bench.uplink.stream.stream_closed("late")
    assert bench.unit.log == []
    assert bench.uplink.log == ["open", "close"]


def test_without_supply_nobody_is_told(bench):
    bench.modem.open_stream(bench.unit)
    bench.fetch()
    bench.modem.power_off()
    bench.uplink.stream.stream_closed("late")
    bench.run(60)
    assert bench.unit.log == []
    assert bench.unit.body == b""
    assert bench.uplink.log[-2:] == ["close", "abort"]


# -- HTTP and its rate


def test_an_answer_arrives_in_chunks_at_the_rate_of_the_link(bench):
    bench.fetch()
    bench.run(0)
    assert bench.unit.log == [(0, "head", 200)]
    bench.run(2.5)
    assert len(bench.unit.body) == 2 * CHUNK_SIZE_BYTES
    bench.run(10)
    assert bench.unit.body == DATA
    assert bench.unit.sizes == [1024, 1024, 1024, 1024, 904]
    assert bench.unit.log[-1] == (5.0, "ended", None)
    assert (bench.modem.http_bytes, bench.modem.image_bytes) == (5000, 5000)


def test_the_next_exchange_has_the_whole_rate_again(bench):
    bench.fetch()
    bench.run(10)
    bench.fetch(b"x" * 100)
    bench.run(10)
    assert bench.unit.log[-1] == (10.1, "ended", None)


def test_without_network_an_exchange_ends_at_once(bench):
    bench.modem.set_coverage(covered=False)
    bench.modem.start_http("http://a", HttpRequest("GET", "/x"), bench.unit)
    bench.run(0)
    assert bench.unit.log == [(0, "ended", "no mobile network")]
    assert bench.uplink.log == []


def test_an_aborted_exchange_brings_nothing_more(bench):
    bench.fetch()
    bench.run(1.5)
    bench.modem.abort_http()
    bench.modem.abort_http()
    bench.run(60)
    assert len(bench.unit.body) == CHUNK_SIZE_BYTES
    assert [entry[1] for entry in bench.unit.log] == ["head"]
    assert bench.uplink.log.count("abort") == 1


def test_what_is_left_of_an_aborted_answer_does_not_mix_with_the_next(bench):
    bench.fetch(b"a" * 3000)
    bench.run(1.5)
    bench.modem.abort_http()
    bench.unit.body = b""
    bench.fetch(b"b" * 2000)
    bench.run(60)
    assert bench.unit.body == b"b" * 2000


def test_an_error_of_the_uplink_is_passed_on_behind_what_came_before(bench):
    bench.modem.start_http("http://a", HttpRequest("GET", "/x"), bench.unit)
    bench.uplink.exchange.http_head(200, IMAGE_HEAD)
    bench.uplink.exchange.http_body(b"x" * 1000)
    bench.uplink.exchange.http_ended("reset by peer")
    bench.run(5)
    assert bench.unit.log[-1] == (1.0, "ended", "reset by peer")
    assert bench.unit.body == b"x" * 1000


# -- planned faults


@pytest.mark.parametrize("cut", [1, 1023, 1024, 1025, 4999, 5000])
def test_the_planned_cut_comes_after_exactly_so_many_bytes_and_once(bench, cut):
    bench.modem.open_stream(bench.unit)
    bench.modem.cut_after_image_bytes = cut
    bench.fetch()
    bench.run(60)
    assert bench.unit.body == DATA[:cut]
    assert [entry[1:] for entry in bench.unit.log[-2:]] == [
        ("ended", "mobile link lost"),
        ("closed", "mobile link lost"),
    ]
    assert bench.modem.faults_happened == [f"download_cut after image byte {cut}"]
    assert (bench.modem.image_bytes, bench.modem.http_bytes) == (cut, cut)
    bench.unit.body = b""
    bench.fetch()
    bench.run(60)
    assert bench.unit.body == DATA


@pytest.mark.parametrize("at", [0, 1023, 1024, 4999])
def test_the_planned_wrong_byte_is_that_byte_and_once(bench, at):
    bench.modem.corrupt_at_image_byte = at
    bench.fetch()
    bench.run(60)
    assert [index for index in range(5000) if bench.unit.body[index] != DATA[index]] == [at]
    assert bench.modem.faults_happened == [f"corrupt_byte at image byte {at}"]
    bench.unit.body = b""
    bench.fetch()
    bench.run(60)
    assert bench.unit.body == DATA


def test_image_bytes_are_counted_over_exchanges(bench):
    bench.modem.corrupt_at_image_byte = 5010
    bench.fetch()
    bench.run(60)
    assert bench.unit.body == DATA
    bench.unit.body = b""
    bench.fetch(status=206)
    bench.run(60)
    assert [index for index in range(5000) if bench.unit.body[index] != DATA[index]] == [10]


def test_a_byte_behind_the_cut_cannot_arrive_wrong(bench):
    """It would be ticked off as happened, and the run would prove nothing."""
    bench.modem.cut_after_image_bytes = 100
    bench.modem.corrupt_at_image_byte = 200
    bench.fetch()
    bench.run(60)
    assert bench.modem.faults_happened == ["download_cut after image byte 100"]
    bench.unit.body = b""
    bench.fetch()
    bench.run(60)
    assert bench.modem.faults_happened[1:] == ["corrupt_byte at image byte 200"]
    assert [index for index in range(5000) if bench.unit.body[index] != DATA[index]] == [100]


@pytest.mark.parametrize(("headers", "status"), [({}, 200), (IMAGE_HEAD, 404)])
def test_other_answers_are_not_hit_by_faults_of_the_download(bench, headers, status):
    bench.modem.cut_after_image_bytes = 10
    bench.modem.corrupt_at_image_byte = 5
    bench.fetch(headers=headers, status=status)
    bench.run(60)
    assert bench.unit.body == DATA
    assert bench.modem.faults_happened == []
    assert (bench.modem.image_bytes, bench.modem.http_bytes) == (0, 5000)
