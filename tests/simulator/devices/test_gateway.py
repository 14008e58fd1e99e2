"""The gateway by itself: ids decide, closed is closed, and a full bus is counted."""

from __future__ import annotations

from bmsota_sim.devices.gateway import ANSWER_LIMIT_NS, Gateway
from bmsota_sim.kernel import SECOND, Kernel
from bmsota_sim.links.canbus import EXTENDED_FLAG, QUEUE_FRAMES_MAX, CanBus

from bmsota.canframe import CanFrame

INWARD, OUTWARD = frozenset({0x100, EXTENDED_FLAG | 0x200}), frozenset({0x300})


def parts(*, is_open=True):
    kernel = Kernel(0)
    heard = {}
    ports = {}
    for name in ("inside", "outside"):
        bus = CanBus(kernel, name=name)
        ports[name] = bus.attach(lambda _frame, _now: None)
        frames = heard[name] = []
        bus.attach(lambda frame, _now, frames=frames: frames.append(frame))
    gateway = Gateway(**ports, inward=INWARD, outward=OUTWARD, is_open=lambda: is_open)
    return kernel, gateway, heard


def test_only_what_has_its_id_passes():
    kernel, gateway, heard = parts()
    good = [CanFrame(0x100, b"1"), CanFrame(0x200, b"2", is_extended_id=True)]
    for frame in (*good, CanFrame(0x100, b"", is_extended_id=True), CanFrame(0x200, b""), CanFrame(0x300, b"")):
        gateway.from_outside(frame, 0)
    for frame in (CanFrame(0x300, b"3"), CanFrame(0x100, b""), CanFrame(0x301, b"")):
        gateway.from_inside(frame, 0)
    kernel.run_until(SECOND)
    assert (heard["inside"], heard["outside"]) == (good, [CanFrame(0x300, b"3")])
    assert (gateway.passed, gateway.refused) == (3, 0)


def test_an_answer_passes_as_long_as_somebody_may_wait_for_it():
    kernel, gateway, heard = parts()
    answer = CanFrame(0x300, b"")
    gateway.from_inside(answer, 0)
    gateway.from_outside(CanFrame(0x100, b""), SECOND)
    gateway.from_inside(answer, SECOND + ANSWER_LIMIT_NS - 1)
    gateway.from_inside(answer, SECOND + ANSWER_LIMIT_NS)
    kernel.run_until(SECOND)
    assert heard["outside"] == [answer]


def test_a_closed_gateway_and_a_full_bus_are_counted():
    kernel, gateway, heard = parts(is_open=False)
    gateway.from_outside(CanFrame(0x100, b""), 0)
    gateway.from_inside(CanFrame(0x300, b""), 0)
    kernel.run_until(SECOND)
    assert (heard, gateway.refused) == ({"inside": [], "outside": []}, 2)
    kernel, gateway, heard = parts()
    for _ in range(QUEUE_FRAMES_MAX + 3):
        gateway.from_outside(CanFrame(0x100, b""), 0)
    assert (gateway.passed, gateway.refused) == (QUEUE_FRAMES_MAX, 3)
