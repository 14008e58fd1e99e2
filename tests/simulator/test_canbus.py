"""The virtual bus: a frame takes as long as on a wire, the lowest identifier goes first, and losses replay."""

from __future__ import annotations

import pytest
from bmsota_sim.kernel import MS, SECOND, Kernel
from bmsota_sim.links.canbus import QUEUE_FRAMES_MAX, REORDER_HOLD_NS, BusFaults, CanBus

from bmsota.can_timing import Stuffing, frame_bits
from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError, LocalProtocolError

START = 1_700_000_000 * SECOND


class Log(list):
    """A receiver that keeps (time, frame)."""

    def __call__(self, frame, now_ns):
        self.append((now_ns - START, frame))

    @property
    def ids(self):
        return [frame.can_id for _, frame in self]


def bench(count=2, **options):
    kernel = Kernel(START)
    bus = CanBus(kernel, **options)
    logs = [Log() for _ in range(count)]
    return kernel, bus, logs, [bus.attach(log, name=f"node{index}") for index, log in enumerate(logs)]


@pytest.mark.parametrize(
    ("options", "frame", "bytes_per_s"),
    [
        # Ceilings computed independently, with expected stuffing: classic 500k, FD 500k/2M, FD 1M/5M.
        ({}, CanFrame(0x3A5, bytes(8)), 35_155),
        ({}, CanFrame(0x18FF50E5, bytes(8), is_extended_id=True), 29_467),
        ({"data_bitrate_bps": 2_000_000}, CanFrame(0x3A5, bytes(64), is_fd=True), 187_277),
        (
            {"bitrate_bps": 1_000_000, "data_bitrate_bps": 5_000_000},
            CanFrame(0x18FF50E5, bytes(64), True, True),
            391_447,
        ),
    ],
)
def test_a_full_bus_carries_what_the_arithmetic_says(options, frame, bytes_per_s):
    kernel, bus, logs, ports = bench(**options)
    for _ in range(500):
        ports[0].send(frame)
    kernel.run_until(START + 10 * SECOND)
    assert len(logs[1]) == bus.frames == 500
    assert 500 * len(frame.data) / (logs[1][-1][0] / SECOND) == pytest.approx(bytes_per_s, rel=0.001)
    assert bus.busy_ns == logs[1][-1][0]


@pytest.mark.parametrize(
    "frame",
    [
        CanFrame(0x800, b""),
        CanFrame(-1, b""),
        CanFrame(1 << 29, b"", is_extended_id=True),
        CanFrame(1, bytes(9)),
        CanFrame(1, bytes(9), is_fd=True),
    ],
)
def test_a_frame_that_cannot_exist_is_refused(frame):
    kernel, _, logs, ports = bench(data_bitrate_bps=1_000_000)
    ports[0].send(CanFrame(1, b""))
    with pytest.raises(LocalProtocolError, match="expected"):
        ports[0].send(frame)
    kernel.run_until(START + SECOND)
    assert logs[1].ids == [1]


def test_a_classic_bus_refuses_can_fd():
    _, _, _, ports = bench()
    with pytest.raises(LocalProtocolError, match="classic"):
        ports[0].send(CanFrame(1, bytes(8), is_fd=True))


def test_impossible_options_are_refused():
    with pytest.raises(ConfigurationError, match="bit rate"):
        CanBus(Kernel(0), bitrate_bps=0)
    with pytest.raises(ConfigurationError, match="bit rate"):
        CanBus(Kernel(0), data_bitrate_bps=1000)
    with pytest.raises(ConfigurationError, match="chances"):
        BusFaults(loss=1.5)
    with pytest.raises(ConfigurationError, match="at most 1 in total"):
        BusFaults(loss=0.6, corruption=0.6)
    with pytest.raises(ConfigurationError, match="times"):
        BusFaults(bus_off_ns=0)


# --- The bus ----------------------------------------------------------------------------------------------------------


def test_a_frame_reaches_everyone_but_its_sender_at_its_end():
    kernel, bus, logs, ports = bench(3, stuffing=Stuffing.EXACT)
    frame = CanFrame(0x2AA, b"\xaa" * 8)
    ports[1].send(frame)
    duration_ns = round(frame_bits(frame, Stuffing.EXACT)[0] * 2000)  # 500 kbit/s: 2 us a bit.
    kernel.run_until(START + duration_ns - 1)
    assert logs == [[], [], []]
    kernel.run_until(START + duration_ns)
    assert logs == [[(duration_ns, frame)], [], [(duration_ns, frame)]]
    assert (ports[1].sent, ports[0].received, ports[1].received) == (1, 1, 0)
    assert bus.bits == frame_bits(frame, Stuffing.EXACT)[0]


def test_the_lowest_identifier_goes_first_whoever_came_first():
    """0x300 is on the bus already when the others come; they arbitrate when it ends."""
    kernel, _, logs, ports = bench(5)
    ports[0].send(CanFrame(0x300, b""))
    kernel.call_at(START + 1000, ports[1].send, CanFrame(0x200, b""))
    kernel.call_at(START + 2000, ports[2].send, CanFrame(0x100, b""))
    kernel.call_at(START + 3000, ports[3].send, CanFrame(0x100 << 18, b"", is_extended_id=True))
    kernel.run_until(START + SECOND)
    assert logs[4].ids == [0x300, 0x100, 0x100 << 18, 0x200]


def test_frames_of_the_same_instant_arbitrate_too():
    kernel, _, logs, ports = bench(3)
    kernel.call_soon(ports[0].send, CanFrame(0x300, b""))
    kernel.call_soon(ports[1].send, CanFrame(0x100, b""))
    kernel.run_until(START + SECOND)
    assert logs[2].ids == [0x100, 0x300]


def test_a_port_does_not_overtake_itself():
    """The bootloader's data identifiers count up and start again; order is content there."""
    kernel, _, logs, ports = bench(3)
    for can_id in (0x702, 0x701, 0x700):
        ports[0].send(CanFrame(can_id, b""))
    ports[1].send(CanFrame(0x701, b"x"))
    kernel.run_until(START + SECOND)
    assert logs[2].ids == [0x701, 0x702, 0x701, 0x700]


def test_an_answer_takes_part_in_the_next_arbitration():
    kernel = Kernel(START)
    bus = CanBus(kernel)
    log = Log()
    answering = bus.attach(lambda frame, _: frame.can_id == 0x500 and answering.send(CanFrame(0x010, b"")))
    asking = bus.attach(log)
    asking.send(CanFrame(0x500, b""))
    asking.send(CanFrame(0x501, b""))
    bus.observe(log)
    kernel.run_until(START + SECOND)
    assert log.ids == [0x500, 0x010, 0x010, 0x501]  # 0x010 twice: heard by the asking port, and observed.


def test_an_acceptance_filter_keeps_frames_away():
    kernel, bus, logs, ports = bench(3)
    ports[1].accept(range(0x100, 0x200))
    ports[2].accept(frozenset({0x300, 1 << 31 | 0x100}))
    for can_id, extended in ((0x100, False), (0x300, False), (0x100, True)):
        ports[0].send(CanFrame(can_id, b"", extended))
    kernel.run_until(START + SECOND)
    assert [frame.is_extended_id for _, frame in logs[1]] == [False]
    assert logs[2].ids == [0x300, 0x100]
    ports[1].accept(None)
    late = Log()
    bus.attach(late, accepts={0x300})
    ports[0].send(CanFrame(0x300, b""))
    kernel.run_until(START + 2 * SECOND)
    assert (logs[1].ids[-1], late.ids) == (0x300, [0x300])


def test_a_port_without_power_neither_hears_nor_sends():
    kernel, bus, logs, ports = bench(3)
    ports[1].power(False)
    ports[1].power(False)
    assert ports[1].send(CanFrame(1, b"")) is False
    ports[0].send(CanFrame(2, b""))
    kernel.run_until(START + SECOND)
    assert (logs[1], logs[2].ids) == ([], [2])
    ports[1].power(True)
    assert ports[1].send(CanFrame(3, b""))
    kernel.run_until(START + 2 * SECOND)
    assert logs[2].ids == [2, 3]
    assert (bus.frames, ports[1].dropped) == (2, 1)


def test_a_power_cut_destroys_the_frame_on_the_bus_and_drops_the_waiting_ones():
    kernel, bus, logs, ports = bench(3)
    for can_id in (1, 2, 3):
        ports[0].send(CanFrame(can_id, bytes(8)))
    ports[1].send(CanFrame(0x20, b""))
    kernel.call_at(START + 100_000, ports[0].power, False)
    kernel.call_at(START + 110_000, ports[0].power, True)
    kernel.call_at(START + 120_000, ports[0].send, CanFrame(9, b""))
    kernel.run_until(START + SECOND)
    assert logs[2].ids == [9, 0x20]
    assert (ports[0].dropped, ports[0].sent, ports[0].pending, bus.frames) == (3, 1, 0, 2)


def test_a_receiver_that_loses_power_while_a_frame_is_delivered_does_not_get_it():
    kernel = Kernel(START)
    bus = CanBus(kernel, faults=BusFaults(duplication=1.0))
    log = Log()
    sender = bus.attach(Log())
    bus.attach(lambda *_: victim.power(False))

    def receive(frame, now_ns):
        log(frame, now_ns)

    victim = bus.attach(receive)
    once = Log()

    def dies(frame, now_ns):
        once(frame, now_ns)
        mortal.power(False)

    mortal = bus.attach(dies)
    sender.send(CanFrame(1, b""))
    kernel.run_until(START + SECOND)
    assert (log, once.ids) == ([], [1])


def test_the_queue_is_bounded_and_says_so():
    kernel, _, logs, ports = bench()
    results = [ports[0].send(CanFrame(1, b"")) for _ in range(QUEUE_FRAMES_MAX + 5)]
    assert results == [True] * QUEUE_FRAMES_MAX + [False] * 5
    assert (ports[0].pending, ports[0].dropped) == (QUEUE_FRAMES_MAX, 5)
    kernel.run_until(START + SECOND)
    assert (len(logs[1]), ports[0].pending) == (QUEUE_FRAMES_MAX, 0)


def test_drained_is_called_when_the_last_frame_has_left():
    kernel = Kernel(START)
    bus = CanBus(kernel)
    calls = []
    bus.attach(Log())
    port = bus.attach(
        Log(), drained=lambda now_ns: calls.append(now_ns - START) or (len(calls) < 3 and port.send(CanFrame(1, b"")))
    )
    port.send(CanFrame(1, b""))
    port.send(CanFrame(1, b""))
    kernel.run_until(START + SECOND)
    one = round(frame_bits(CanFrame(1, b""))[0] * 2000)
    assert calls == [2 * one, 3 * one, 4 * one]


def lossy(seed, extra=0):
    kernel = Kernel(START)
    bus = CanBus(kernel, seed=seed, faults=BusFaults(loss=0.1, duplication=0.05))
    logs = [Log() for _ in range(3 + extra)]
    ports = [bus.attach(log, name=f"node{index}") for index, log in enumerate(logs)]
    for burst in range(4):
        for index in range(500):
            kernel.call_at(START + burst * SECOND, ports[0].send, CanFrame(burst, index.to_bytes(2, "big")))
    kernel.run_until(START + 10 * SECOND)
    return logs, ports


def test_losses_and_duplicates_come_from_the_seed():
    logs, ports = lossy(1)
    assert lossy(1)[0] == logs
    assert lossy(2)[0] != logs
    assert logs[1] != logs[2]
    frames = [frame for _, frame in logs[1]]
    assert 0.07 < ports[1].lost / 2000 < 0.13
    duplicates = len(frames) - len(set(frames))
    assert 0.03 < duplicates / 2000 < 0.07
    assert len(set(frames)) == 2000 - ports[1].lost
    assert ports[1].received == len(frames)


def test_another_node_does_not_change_what_the_others_lose():
    assert lossy(1, extra=1)[0][:3] == lossy(1)[0]


def test_faults_can_be_switched_off_during_a_run():
    kernel, bus, logs, ports = bench(faults=BusFaults(loss=1.0))
    ports[0].send(CanFrame(1, b""))
    kernel.run_until(START + 10 * MS)
    bus.faults = BusFaults()
    ports[0].send(CanFrame(2, b""))
    kernel.run_until(START + 20 * MS)
    assert (logs[1].ids, ports[1].lost) == ([2], 1)


# --- The other faults -------------------------------------------------------------------------------------------------


def run_hostile(seed, faults, *, count=1000, gap_ns=0, size=2, extra=0):
    """One port sends *count* numbered frames; what the others got."""
    kernel, bus, logs, ports = bench(3 + extra, seed=seed, faults=faults)
    for index in range(count):
        kernel.call_at(START + index * max(gap_ns, 200_000), ports[0].send, CanFrame(1, index.to_bytes(size, "big")))
    kernel.run_until(START + 60 * SECOND)
    return logs, ports, bus


def numbers(log):
    return [int.from_bytes(frame.data, "big") for _, frame in log]


@pytest.mark.slow
@pytest.mark.parametrize(
    "faults",
    [
        BusFaults(reordering=0.1),
        BusFaults(delay=0.1),
        BusFaults(corruption=0.1),
        BusFaults(bus_off=0.01),
        BusFaults(loss=0.05, duplication=0.05, reordering=0.05, delay=0.05, corruption=0.05, bus_off=0.002),
    ],
)
def test_every_fault_replays_by_its_seed_and_each_port_has_its_own(faults):
    logs = run_hostile("a", faults)[0]
    assert run_hostile("a", faults)[0] == logs
    assert run_hostile("b", faults)[0] != logs
    assert run_hostile("a", faults, extra=1)[0][:3] == logs
    assert faults.bus_off or logs[1] != logs[2]


def test_neighbours_are_swapped_and_nothing_is_lost():
    logs, _, _ = run_hostile(1, BusFaults(reordering=0.1))
    got = numbers(logs[1])
    assert sorted(got) == list(range(1000))
    moved = [place for place, number in enumerate(got) if number != place]
    assert 100 < len(moved) < 300
    assert all(abs(got[place] - place) == 1 for place in moved)


def test_a_frame_that_nothing_follows_comes_a_little_later():
    kernel, _, logs, ports = bench(faults=BusFaults(reordering=1.0))
    ports[0].send(CanFrame(1, b""))
    kernel.run_until(START + SECOND)
    assert logs[1].ids == [1]
    assert logs[1][0][0] == round(frame_bits(CanFrame(1, b""))[0] * 2000) + REORDER_HOLD_NS


def test_a_frame_that_waits_for_its_neighbour_dies_with_the_power():
    kernel, _, logs, ports = bench(faults=BusFaults(reordering=1.0))
    ports[0].send(CanFrame(1, b""))
    kernel.call_at(START + MS, ports[1].power, False)
    kernel.call_at(START + MS + 1, ports[1].power, True)
    kernel.run_until(START + SECOND)
    assert logs[1] == []


def test_a_delayed_frame_comes_late_but_comes_unless_the_power_goes():
    faults = BusFaults(delay=1.0, delay_max_ns=30 * MS)
    logs, _, _ = run_hostile(1, faults, count=200)
    got = numbers(logs[1])
    assert sorted(got) == list(range(200))
    assert got != sorted(got)
    kernel, _, logs, ports = bench(faults=faults)
    ports[0].send(CanFrame(1, b""))
    kernel.run_until(START + 200_000)
    ports[1].power(False)
    ports[1].power(True)
    kernel.run_until(START + SECOND)
    assert logs[1] == []


def test_a_corrupted_frame_differs_in_one_byte():
    logs, ports, _ = run_hostile(1, BusFaults(corruption=0.1), size=8)
    wrong = [(place, frame) for place, (_, frame) in enumerate(logs[1]) if frame.data != place.to_bytes(8, "big")]
    assert 60 < len(wrong) == ports[1].corrupted < 140
    for place, frame in wrong:
        assert sum(a != b for a, b in zip(frame.data, place.to_bytes(8, "big"), strict=True)) == 1
    kernel, _, logs, ports = bench(faults=BusFaults(corruption=1.0))
    ports[0].send(CanFrame(1, b""))
    kernel.run_until(START + SECOND)
    assert (logs[1].ids, ports[1].corrupted) == ([1], 0)


def test_a_port_that_echoes_hears_itself_when_the_frame_has_been_sent():
    kernel = Kernel(START)
    bus = CanBus(kernel)
    own, other = Log(), Log()
    port = bus.attach(own, echoes=True)
    bus.attach(other)
    port.send(CanFrame(1, b""))
    kernel.run_until(START + SECOND)
    assert own == other
    assert own.ids == [1]


def test_bus_off_silences_a_port_for_a_while():
    kernel, bus, logs, ports = bench(3)
    ports[0].send(CanFrame(1, b""))
    ports[0].send(CanFrame(2, b""))
    kernel.call_at(START + 10_000, ports[0].bus_off, 100 * MS)
    kernel.call_at(START + 10 * MS, ports[1].send, CanFrame(3, b""))
    kernel.run_until(START + 50 * MS)
    assert (ports[0].is_bus_off, ports[0].send(CanFrame(4, b"")), ports[0].dropped) == (True, False, 3)
    assert (logs[0].ids, logs[2].ids) == ([], [3])
    kernel.run_until(START + 101 * MS)
    assert (ports[0].is_bus_off, ports[0].bus_offs, ports[0].send(CanFrame(5, b""))) == (False, 1, True)
    kernel.run_until(START + SECOND)
    assert (logs[2].ids, bus.frames) == ([3, 5], 2)


def test_bus_off_again_counts_from_the_second_time_and_power_ends_it():
    kernel, _, _, ports = bench()
    ports[0].bus_off(100 * MS)
    kernel.run_until(START + 60 * MS)
    ports[0].bus_off(100 * MS)
    kernel.run_until(START + 120 * MS)
    assert ports[0].is_bus_off
    kernel.run_until(START + 161 * MS)
    assert not ports[0].is_bus_off
    ports[0].bus_off(100 * MS)
    ports[0].power(False)
    ports[0].bus_off(100 * MS)
    assert not ports[0].is_bus_off
    ports[0].power(True)
    assert (ports[0].is_bus_off, ports[0].send(CanFrame(1, b""))) == (False, True)


def test_bus_off_by_chance_loses_the_frame_and_comes_back():
    logs, ports, _ = run_hostile(1, BusFaults(bus_off=0.01, bus_off_ns=5 * MS), gap_ns=MS)
    assert ports[0].bus_offs > 3
    assert len(logs[1]) == 1000 - ports[0].dropped
    assert numbers(logs[1])[-1] > 990


def test_a_port_may_have_faults_of_its_own():
    kernel, bus, logs, ports = bench(3)
    ports[1].faults = BusFaults(loss=1.0)
    ports[0].send(CanFrame(1, b""))
    kernel.run_until(START + SECOND)
    assert (logs[1].ids, logs[2].ids) == ([], [1])
    ports[1].faults = None
    bus.faults = BusFaults(loss=1.0)
    ports[2].faults = BusFaults()
    ports[0].send(CanFrame(2, b""))
    kernel.run_until(START + 2 * SECOND)
    assert (logs[1].ids, logs[2].ids) == ([], [1, 2])
    assert ports[1].faults == bus.faults
