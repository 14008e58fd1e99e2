"""Virtual time: a platform in memory behind a delay, and the loop that runs the kernel."""

from __future__ import annotations

import pytest
from bmsota_sim.kernel import MS, SECOND, Kernel
from bmsota_sim.virtual import SLICE_NS, MemoryUplink, run_virtual

from bmsota.ota import HttpRequest, HttpResponse

START = 1000 * SECOND
DELAY = 40 * MS


class Link:
    """The platform's end: echoes in capitals, greets, has a deadline, and closes when it is told so."""

    def __init__(self, platform, wake):
        self.platform = platform
        self.wake = wake
        self.is_closing = False
        self.out = b""
        self.due = None

    def connected(self, now_ns):
        self.platform.say(now_ns, "connected")
        self.out += b"hello"

    def receive_data(self, data, now_ns):
        self.platform.say(now_ns, "data", data)
        self.out += data.upper()
        if data == b"close":
            self.is_closing = True
        if data == b"later":
            self.due = now_ns + SECOND

    def data_to_send(self):
        out, self.out = self.out, b""
        return out

    def next_timeout(self):
        return self.due

    def handle_timeout(self, now_ns):
        if self.due is not None and now_ns >= self.due:
            self.due = None
            self.platform.say(now_ns, "timeout")
            self.out += b"time"

    def disconnected(self, now_ns):
        self.platform.say(now_ns, "disconnected")


class Platform:
    def __init__(self):
        self.links = []
        self.log = []
        self.asked = []

    def say(self, now_ns, *what):
        self.log.append(((now_ns - START) // MS, *what))

    def open_link(self, wake):
        self.links.append(Link(self, wake))
        return self.links[-1]

    def respond(self, request):
        self.asked.append(request.path)
        return HttpResponse(200, {"X": "y"}, b"" if request.path == "/empty" else request.path.encode())


class Unit:
    def __init__(self, kernel):
        self._kernel = kernel
        self.log = []

    def _say(self, *what):
        self.log.append(((self._kernel.now_ns - START) // MS, *what))

    def stream_opened(self):
        self._say("opened")

    def stream_received(self, data):
        self._say("received", data)

    def stream_closed(self, reason):
        self._say("closed", reason)

    def http_head(self, status, headers):
        self._say("head", status, headers)

    def http_body(self, data):
        self._say("body", data)

    def http_ended(self, error):
        self._say("ended", error)


@pytest.fixture
def world():
    class World:
        def __init__(self):
            self.kernel = Kernel(START)
            self.platform = Platform()
            self.unit = Unit(self.kernel)
            self.uplink = MemoryUplink(self.kernel, self.platform, delay_ns=DELAY)

        def run(self, milliseconds):
            self.kernel.run_until(self.kernel.now_ns + milliseconds * MS)

    return World()


def test_a_stream_has_its_delay_in_each_direction(world):
    world.uplink.open_stream(world.unit)
    world.run(39)
    assert world.unit.log == []
    world.run(21)
    world.uplink.send_stream(b"up")
    world.run(200)
    assert world.unit.log == [(40, "opened"), (80, "received", b"hello"), (140, "received", b"UP")]
    assert world.platform.log == [(40, "connected"), (100, "data", b"up")]


def test_bytes_arrive_in_order_and_none_is_lost(world):
    world.uplink.open_stream(world.unit)
    world.run(100)
    for number in range(20):
        world.uplink.send_stream(b"%d," % number)
        world.run(number % 3)
    world.run(200)
    assert b"".join(entry[2] for entry in world.platform.log if entry[1] == "data") == b"".join(
        b"%d," % n for n in range(20)
    )


def test_the_platform_learns_of_a_close_a_delay_later_and_behind_the_data(world):
    world.uplink.open_stream(world.unit)
    world.run(100)
    world.uplink.send_stream(b"last words")
    world.uplink.close_stream()
    world.run(200)
    assert world.platform.log[1:] == [(140, "data", b"last words"), (140, "disconnected")]
    assert world.unit.log == [(40, "opened"), (80, "received", b"hello")]  # and not the echo
    world.uplink.send_stream(b"nobody")
    world.run(200)
    assert len(world.platform.log) == 3


def test_a_platform_that_closes_sends_its_last_bytes_first(world):
    world.uplink.open_stream(world.unit)
    world.run(100)
    world.uplink.send_stream(b"close")
    world.run(200)
    assert world.unit.log[2:] == [(180, "received", b"CLOSE"), (180, "closed", "closed by the platform")]
    assert world.platform.log[-1] == (140, "disconnected")
    world.uplink.send_stream(b"late")
    world.uplink.close_stream()
    world.run(200)
    assert [entry[1] for entry in world.platform.log].count("disconnected") == 1
    assert len(world.unit.log) == 4


def test_the_platform_s_deadlines_are_kept(world):
    world.uplink.open_stream(world.unit)
    world.run(100)
    world.uplink.send_stream(b"later")
    world.run(2000)
    assert (1140, "timeout") in world.platform.log
    assert (1180, "received", b"time") in world.unit.log


def test_a_woken_link_speaks_at_once(world):
    world.uplink.open_stream(world.unit)
    world.run(100)
    link = world.platform.links[0]
    link.out += b"news"
    link.wake()
    world.run(40)
    assert world.unit.log[-1] == (140, "received", b"news")


def test_a_closed_link_has_no_deadlines_and_cannot_be_woken(world):
    world.uplink.open_stream(world.unit)
    world.run(100)
    world.uplink.send_stream(b"later")
    world.run(50)
    world.uplink.close_stream()
    world.run(50)
    world.platform.links[0].wake()
    world.run(5000)
    assert "timeout" not in [entry[1] for entry in world.platform.log]


def test_opening_again_closes_the_connection_before(world):
    world.uplink.open_stream(world.unit)
    world.run(100)
    world.uplink.open_stream(world.unit)
    world.run(100)
    assert [entry[1] for entry in world.platform.log] == ["connected", "disconnected", "connected"]
    world.platform.links[0].out += b"from the grave"
    world.platform.links[0].wake()
    world.run(100)
    assert b"from the grave" not in [entry[-1] for entry in world.unit.log]


def test_http_has_its_delay_in_each_direction(world):
    world.uplink.start_http("http://a", HttpRequest("GET", "/x"), world.unit)
    world.run(39)
    assert world.platform.asked == []
    world.run(41)
    assert world.unit.log == [(80, "head", 200, {"X": "y"}), (80, "body", b"/x"), (80, "ended", None)]


def test_an_empty_body_is_no_body(world):
    world.uplink.start_http("http://a", HttpRequest("GET", "/empty"), world.unit)
    world.run(100)
    assert [entry[1] for entry in world.unit.log] == ["head", "ended"]


@pytest.mark.parametrize(("when_ms", "asked"), [(20, []), (60, ["/x"])])
def test_an_aborted_exchange_is_silent(world, when_ms, asked):
    world.uplink.start_http("http://a", HttpRequest("GET", "/x"), world.unit)
    world.run(when_ms)
    world.uplink.abort_http()
    world.run(500)
    assert world.unit.log == []
    assert world.platform.asked == asked


def test_only_the_newest_exchange_is_answered(world):
    world.uplink.start_http("http://a", HttpRequest("GET", "/one"), world.unit)
    world.run(50)
    world.uplink.start_http("http://a", HttpRequest("GET", "/two"), world.unit)
    world.run(500)
    assert [entry[2] for entry in world.unit.log if entry[1] == "body"] == [b"/two"]


# -- the loop


def test_the_loop_ends_when_it_is_finished():
    kernel = Kernel(START)
    ran = []

    def step():
        ran.append(kernel.now_ns)
        kernel.call_in(30 * MS, step)

    kernel.call_soon(step)
    run_virtual(kernel, lambda: len(ran) >= 10, until_ns=START + 100 * SECOND)
    assert 10 <= len(ran) <= 10 + SLICE_NS // (30 * MS)


def test_the_loop_ends_at_its_time():
    kernel = Kernel(START)

    def step():
        kernel.call_in(30 * MS, step)

    kernel.call_soon(step)
    run_virtual(kernel, lambda: False, until_ns=START + SECOND + 1)
    assert kernel.now_ns == START + SECOND + 1


def test_the_loop_jumps_over_empty_time_and_ends_when_nothing_is_left():
    kernel = Kernel(START)
    ticks, ran = [], []
    kernel.call_in(3600 * SECOND, ran.append, "late")
    run_virtual(kernel, lambda: False, until_ns=START + 10**6 * SECOND, tick=lambda: ticks.append(kernel.now_ns))
    assert ran == ["late"]
    assert ticks == [START + 3600 * SECOND]


def test_the_tick_comes_between_slices():
    kernel = Kernel(START)
    ticks = []

    def step():
        kernel.call_in(MS, step)

    kernel.call_soon(step)
    run_virtual(kernel, lambda: False, until_ns=START + SECOND, tick=lambda: ticks.append(kernel.now_ns))
    assert ticks == [START + SLICE_NS * (index + 1) for index in range(10)]
