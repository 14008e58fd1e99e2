"""How fast a stream goes: what a bad wire and an overrun receiver do to the pace, and what the pace does about it."""

from __future__ import annotations

from random import Random

import pytest

from bmsota.bootloader import BootloaderClient, BootloaderTiming, BroadcastClient
from bmsota.bootloader._pace import Pace
from bmsota.bootloader._reports import ReportInterval
from bmsota.node import ImageVerified, NodeEvent

pytestmark = pytest.mark.slow

US, MS = 1_000, 1_000_000
FRAME_NS = 230 * US


def pace_of(**timing):
    return Pace(BootloaderTiming(**timing), 24)


def reports(pace, count, loss, *, sent=128):
    """So many reports with this loss; the spacing after each."""
    found = []
    for _ in range(count):
        pace.judge(int(loss * sent), sent, max(FRAME_NS, pace.spacing_ns))
        found.append(pace.spacing_ns)
    return found


def test_the_window_doubles_with_each_report_up_to_what_the_nodes_hold():
    pace = pace_of()
    windows = [pace.window_blocks]
    for _ in range(4):
        pace.judge(0, 128, FRAME_NS)
        windows.append(pace.window_blocks)
    assert windows == [4, 8, 16, 24, 24]
    assert Pace(BootloaderTiming(), 1).window_blocks == 1


def test_a_report_of_nothing_new_says_nothing():
    pace = pace_of()
    pace.judge(0, 0, FRAME_NS)
    assert (pace.window_blocks, pace.spacing_ns, pace.is_lossy) == (4, 0, False)


def test_some_loss_does_not_change_the_pace():
    pace = pace_of()
    assert set(reports(pace, 50, 0.1)) == {0}
    assert pace.is_lossy
    reports(pace, 1, 0.01)
    assert not pace.is_lossy


def test_few_frames_are_no_sample():
    """Three of eight frames are no loss yet, twenty of seventy are one."""
    pace = pace_of()
    assert reports(pace, 15, 0.3, sent=8) == [0] * 15
    assert reports(pace, 1, 0.3, sent=8) == [4 * FRAME_NS]


def test_one_heavy_report_is_chance():
    """Of many nodes one is always unlucky; twice in a row is a reason to try something."""
    pace = pace_of()
    for _ in range(20):
        assert reports(pace, 1, 0.3) + reports(pace, 1, 0.05) == [0, 0]
    assert reports(pace, 2, 0.3) == [0, 4 * FRAME_NS]


def test_an_overrun_receiver_gets_the_pace_it_can_take():
    """The loss goes away at a quarter of the pace; then the pace doubles, until the loss is back, and goes back a step."""
    pace = pace_of()
    assert reports(pace, 2, 0.6) == [0, 4 * FRAME_NS]
    assert pace.is_paced
    assert reports(pace, 1, 0.6) == [4 * FRAME_NS]  # of frames sent before
    assert reports(pace, 2, 0.0) == [4 * FRAME_NS] * 2  # cured
    assert reports(pace, 1, 0.0) == [2 * FRAME_NS]  # faster by half
    assert reports(pace, 2, 0.6) == [2 * FRAME_NS, 4 * FRAME_NS]  # too fast
    spacings = reports(pace, 4, 0.0)
    assert spacings[-1] == 4 * FRAME_NS * 5 // 8  # the next step is smaller


def test_what_is_faster_than_the_wire_is_no_pause():
    pace = pace_of()
    reports(pace, 2, 0.6)
    spacings = reports(pace, 14, 0.0)
    assert spacings[-1] == 0
    assert [spacing for spacing in spacings if 0 < spacing < 100 * US] == []


def test_a_slow_pace_on_a_bad_wire_is_raised_all_the_same():
    """The receiver was overrun, and the wire loses a twelfth besides: that is lost at every pace, so it is no reason to stay."""
    pace = pace_of()
    reports(pace, 2, 0.6)
    assert reports(pace, 20, 0.08)[-1] == 0


def test_a_bad_wire_is_not_cured_by_patience():
    """The loss stays as it was: back to full speed, and the next trial comes after sixteen reports, then after 64."""
    pace = pace_of()
    spacings = reports(pace, 400, 0.2)
    slow = [index for index, spacing in enumerate(spacings) if spacing]
    assert spacings[-1] == 0
    assert slow == [1, 2, 21, 22, 89, 90, 349, 350]


def test_what_helps_by_half_is_driven_further():
    pace = pace_of()
    assert reports(pace, 2, 0.8)[-1] == 4 * FRAME_NS
    assert reports(pace, 2, 0.35)[-1] == 16 * FRAME_NS
    assert reports(pace, 2, 0.3)[-1] == BootloaderTiming().spacing_ns_max
    assert reports(pace, 2, 0.3)[-1] == 0  # no slower than that, and it has not helped enough


def test_a_cure_that_leaves_much_is_improved_or_kept():
    """Down to a fifth of the loss, which is still much: four times slower is tried too; if that is no better, it was enough."""
    pace = pace_of()
    assert reports(pace, 2, 0.8)[-1] == 4 * FRAME_NS
    assert reports(pace, 2, 0.16)[-1] == 16 * FRAME_NS
    assert reports(pace, 2, 0.15)[-1] == 4 * FRAME_NS
    pace = pace_of()
    reports(pace, 2, 0.8)
    reports(pace, 2, 0.16)
    assert reports(pace, 2, 0)[-1] == 16 * FRAME_NS


def test_a_stream_that_is_stuck_becomes_slower_each_time():
    pace = pace_of()
    reports(pace, 1, 0)
    spacings = []
    for _ in range(4):
        pace.slow_down()
        spacings.append(pace.spacing_ns)
    assert spacings == [4 * FRAME_NS, 16 * FRAME_NS, 10 * MS, 10 * MS]
    # It takes a while until more is dared.
    assert reports(pace, 32, 0)[-1] == 10 * MS
    assert reports(pace, 100, 0)[-1] == 0


def test_a_first_report_that_was_late_does_not_make_it_crawl():
    """It took 20 ms a frame because it had to be asked for again."""
    pace = pace_of()
    pace.judge(60, 128, 20 * MS)
    pace.judge(60, 128, None)
    assert pace.spacing_ns == 2 * MS


def test_without_any_measure_a_frame_is_taken_for_a_quarter_of_a_millisecond():
    """Every report so far had to be asked for again."""
    pace = pace_of()
    pace.judge(60, 128, None)
    pace.judge(60, 128, None)
    assert pace.spacing_ns == 1 * MS


@pytest.mark.parametrize("capacity_ns", [300 * US, 500 * US, 1100 * US])
def test_the_pace_settles_near_what_a_receiver_can_take(capacity_ns):
    """It takes one frame in this time; what comes sooner is lost. Within 20 % of that, and little lost meanwhile."""
    pace = pace_of()
    missing = sent = time_ns = 0
    for _ in range(400):
        period_ns = max(FRAME_NS, pace.spacing_ns)
        lost = 0 if period_ns >= capacity_ns else int(128 * (1 - period_ns / capacity_ns))
        missing, sent, time_ns = missing + lost, sent + 128, time_ns + 128 * period_ns
        pace.judge(lost, 128, period_ns)
    assert 0.97 * capacity_ns <= time_ns / sent <= 1.25 * capacity_ns
    assert missing < 0.05 * sent


@pytest.mark.parametrize("seed", range(8))
@pytest.mark.parametrize("loss", [0.05, 0.1, 0.15, 0.25])
def test_random_loss_costs_little_pace(seed, loss):
    """Whatever the dice say, nine frames of ten go out at full speed."""
    rng = Random(f"{seed}/{loss}")
    pace = pace_of()
    fast = slow = 0
    for _ in range(300):
        sent = 64 * ReportInterval().blocks(24, is_paced=pace.is_paced)
        slow, fast = (slow + sent, fast) if pace.spacing_ns else (slow, fast + sent)
        pace.judge(sum(rng.random() < loss for _ in range(sent)), sent, max(FRAME_NS, pace.spacing_ns))
    assert slow < 0.1 * (fast + slow), f"seed {seed}, loss {loss}: {slow} of {fast + slow} frames were slow"


# ---- nodes that cannot take what the wire brings


def slow_ear(gap_ns):
    """A node that is busy for so long after each frame, and misses what comes meanwhile."""
    free_ns = {}

    def ear(listener, frame, now_ns):
        if listener is None:
            return [frame]
        if now_ns < free_ns.get(listener, 0):
            return []
        free_ns[listener] = now_ns + gap_ns
        return [frame]

    return ear


def short_ear(frames, gap_ns):
    """A node that takes so many frames back to back and then none until there has been a gap."""
    row, last_ns = {}, {}

    def ear(listener, frame, now_ns):
        if listener is None:
            return [frame]
        row[listener] = row.get(listener, 0) + 1 if now_ns - last_ns.get(listener, 0) < gap_ns else 1
        last_ns[listener] = now_ns
        return [frame] if row[listener] <= frames else []

    return ear


def full_ear(frames, drain_ns):
    """A node with a queue of so many frames, from which it takes one in this time."""
    level, at_ns = {}, {}

    def ear(listener, frame, now_ns):
        if listener is None:
            return [frame]
        waiting = max(0, level.get(listener, 0) - (now_ns - at_ns.get(listener, 0)) / drain_ns)
        at_ns[listener] = now_ns
        level[listener] = waiting if waiting > frames - 1 else waiting + 1
        return [] if waiting > frames - 1 else [frame]

    return ear


EARS = {
    "one frame in 500 us": (lambda: slow_ear(500 * US), 5),
    "one frame in 1 ms": (lambda: slow_ear(1000 * US), 7),
    "eight frames back to back": (lambda: short_ear(8, 290 * US), 5),
    "eight frames in a queue, 400 us each": (lambda: full_ear(8, 400 * US), 4.5),
}


@pytest.mark.parametrize("name", EARS)
def test_a_node_that_is_overrun_still_gets_its_image(bench_parts, name):
    """32 KiB, in a time that has to do with what the node can take, not with how often a frame can be repeated."""
    ear, times = EARS[name]
    image = bench_parts.make_image(size=32 * 1024)
    flash = bench_parts.FlashModel(128 * 1024, erase_block_bytes=2048, erase_ns=0, program_ns=0)
    node = bench_parts.Node(factory=bench_parts.OLD(), flash=flash)
    bench = bench_parts.Bench(node)
    bench.ear = ear()
    begun_ns = bench.now_ns
    events = bench.run(BootloaderClient(bench.wire, position=1, image=image))
    assert isinstance(events[-1], ImageVerified), events[-2:]
    assert node.flash.read(node.layout.slot_offsets[1], len(image)) == image
    whole_ns = len(image) // 8 * bench_parts.FRAME_NS
    assert bench.now_ns - begun_ns < times * whole_ns


@pytest.mark.parametrize("name", EARS)
def test_a_broadcast_goes_at_the_pace_of_the_slowest(bench_parts, name):
    ear, _ = EARS[name]
    image = bench_parts.make_image(size=9000)
    nodes = [
        bench_parts.Node(
            position,
            factory=bench_parts.OLD(),
            flash=bench_parts.FlashModel(64 * 1024, erase_block_bytes=2048, seed=position),
        )
        for position in (1, 2, 3)
    ]
    bench = bench_parts.Bench(*nodes)
    overrun = ear()
    bench.ear = lambda listener, frame, now_ns: overrun(listener, frame, now_ns) if listener is nodes[1] else [frame]
    events = bench.run(BroadcastClient(bench.wire, positions=[1, 2, 3], image=image))
    ends = {event.position: event.event for event in events if isinstance(event, NodeEvent)}
    assert all(isinstance(end, ImageVerified) for end in ends.values()), ends
    assert [node.flash.read(node.layout.slot_offsets[1], len(image)) for node in nodes] == [image] * 3


# ---- how much a bad wire costs


def seconds(bench_parts, nodes, loss, seed):
    """Simulated seconds for 32 KiB to so many nodes on the simulator's bus, each receiver losing frames of its own."""
    image = bench_parts.make_image(size=32 * 1024)
    found = [
        bench_parts.Node(
            position,
            factory=bench_parts.OLD(),
            flash=bench_parts.FlashModel(128 * 1024, erase_block_bytes=2048, erase_ns=0, program_ns=0, seed=position),
        )
        for position in range(1, nodes + 1)
    ]
    bench = bench_parts.WireBench(*found, seed=seed, loss=loss)
    begun_ns = bench.kernel.now_ns
    options = {"image": image, "may_compress": False}
    if nodes == 1:
        client = BootloaderClient(bench.wire, position=1, **options)
    else:
        client = BroadcastClient(bench.wire, positions=range(1, nodes + 1), **options)
    events = [getattr(event, "event", event) for event in bench.run(client, limit_s=600)]
    assert sum(isinstance(event, ImageVerified) for event in events) == nodes, f"seed {seed}: {events[-2:]}"
    return (bench.kernel.now_ns - begun_ns) / 1e9


@pytest.mark.parametrize(
    ("nodes", "loss", "times"),
    [(1, 0.02, 1.2), (1, 0.05, 1.5), (1, 0.1, 2.5), (1, 0.2, 4), (8, 0.02, 1.7), (8, 0.05, 2.5), (8, 0.1, 5)],
)
def test_a_bad_wire_costs_what_must_be_repeated_and_little_more(bench_parts, nodes, loss, times):
    """Against no loss, three seeds on average; a protocol that takes loss for its own haste needs forty times as long."""
    base = seconds(bench_parts, nodes, 0, 1)
    relative = sum(seconds(bench_parts, nodes, loss, seed) for seed in range(3)) / 3 / base
    assert relative < times, relative


def test_the_unluckiest_of_many_nodes_is_no_reason_to_slow_down():
    """11 of 64 are much for one node; of eight nodes that lose a tenth, one misses as many in every second report."""
    alone, together = (Pace(BootloaderTiming(), 24, nodes=nodes) for nodes in (1, 8))
    for pace in (alone, together):
        pace.judge(11, 64, None)
        pace.judge(11, 64, None)
    assert (alone.is_paced, together.is_paced) == (True, False)
    together.judge(32, 64, None)
    together.judge(32, 64, None)
    assert together.is_paced
