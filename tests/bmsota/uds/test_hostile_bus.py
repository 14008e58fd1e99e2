"""Tester and server against a bus that drops, doubles, reorders, delays and corrupts, with power cuts in between.

The invariant in one sentence: whatever happens, the node boots a genuine image, "verified" is only said when the slot holds the image, and
once the bus is good again the update succeeds.
"""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bmsota.canframe import CanFrame
from bmsota.image import ImageVersion
from bmsota.node import CommandSucceeded, ImageVerified, NodeCommand
from bmsota.uds import UdsDialect, UdsTiming

MS, SECOND = 1_000_000, 1_000_000_000
NEW = ImageVersion(2, 1)
# Ten minutes of simulated time must suffice; a machine that never ends fails.
LIMIT_S = 600


def hostile(rates):
    """A fault function: chances of loss, duplication, delay (reorders) and a flipped bit, per frame."""
    loss, doubling, delay, corruption = rates

    def fault(frame, rng):
        draw = rng.random()
        if draw < loss:
            return ()
        if draw < loss + doubling:
            return (0, rng.randrange(2 * MS))
        if draw < loss + doubling + delay:
            return (rng.randrange(3 * MS),)
        if draw < loss + doubling + delay + corruption and frame.data:
            data = bytearray(frame.data)
            data[rng.randrange(len(data))] ^= 1 << rng.randrange(8)
            object.__setattr__(frame, "data", bytes(data))
        return (0,)

    return fault


def whole_update(bench, image, timing):
    """As an operator does it; true if every step said that it succeeded."""
    node = bench.nodes[0]
    dialect = UdsDialect(block_length_max=0x82)
    if not isinstance(
        bench.run(bench.transfer(image, dialect=dialect, timing=timing), limit_s=LIMIT_S)[-1], ImageVerified
    ):
        return False
    assert node.store.read_slot(node.store.spare_slot) == image
    for command, expected in ((NodeCommand.ACTIVATE_TEST, None), (NodeCommand.RESET, NEW), (NodeCommand.CONFIRM, NEW)):
        if not isinstance(bench.command(1, command, expected_version=expected, timing=timing), CommandSucceeded):
            return False
    return True


def run_against(parts, seed, rates, cuts=()):
    node = parts.Node(factory=parts.OLD(size=500), flash=parts.FlashModel(8 * 1024, erase_block_bytes=512, seed=seed))
    bench = parts.Bench(node, seed=seed)
    image = parts.NEW(size=700)
    timing = UdsTiming(interruptions_max=3)
    bench.fault = hostile(rates)
    for cut in cuts:
        node.flash.cut_at(node.flash.operations + cut, "inside")
    whole_update(bench, image, timing)
    bench.fault = None
    node.flash.clear_cuts()
    bench.run(limit_s=12)  # Sessions and delays run out.
    assert all(boot.facts is not None for boot in node.boots), "a node without an image"
    assert all(str(boot.facts.version) in {"2.0.0", "2.1.0"} for boot in node.boots)
    if node.running_version != "2.1.0" or node.store.is_test_pending or node.store.security_counter != 2:
        if node.store.is_test_pending:
            bench.cut_power(node)
            bench.run(limit_s=2)
        if node.running_version != "2.1.0":
            assert whole_update(bench, image, timing)
        else:
            assert isinstance(bench.command(1, NodeCommand.CONFIRM, expected_version=NEW), CommandSucceeded)
    bench.cut_power(node)
    bench.run(limit_s=2)
    assert node.running_version == "2.1.0"
    assert node.store.security_counter == 2


@pytest.mark.parametrize("seed", range(12))
def test_a_bad_bus(parts, seed):
    """Five percent of everything. Replay: the number is the seed."""
    run_against(parts, f"bad {seed}", (0.05, 0.05, 0.05, 0.0))


@pytest.mark.parametrize("seed", range(6))
def test_an_adapter_that_corrupts(parts, seed):
    """A bit flipped behind the CAN controller's CRC: neither ISO-TP nor UDS sees it, the digest does."""
    run_against(parts, f"corrupt {seed}", (0.01, 0.01, 0.01, 0.02))


RATE = st.sampled_from([0.0, 0.01, 0.03, 0.1])


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    seed=st.integers(0, 2**32),
    rates=st.tuples(RATE, RATE, RATE, RATE),
    cuts=st.lists(st.integers(1, 40), max_size=3),
)
def test_any_bus_and_any_power(parts, seed, rates, cuts):
    run_against(parts, seed, rates, cuts)


FRAMES = st.builds(
    CanFrame,
    can_id=st.sampled_from([0x7DF, 0x7E1, 0x7E9]),
    data=st.one_of(
        st.binary(max_size=8),
        st.builds(
            lambda head, tail: (head + tail)[:8],
            st.sampled_from(
                [
                    b"\x02\x10\x02",
                    b"\x02\x10\x03",
                    b"\x02\x27\x01",
                    b"\x02\x3e\x80",
                    b"\x10\x14\x36\x01",
                    b"\x30\x00\x00",
                    b"\x31\x00\x00",
                    b"\x32\x00\x00",
                    b"\x21",
                    b"\x22",
                    b"\x03\x7f\x36\x78",
                    b"\x03\x7f\x36\x73",
                    b"\x03\x7f\x36\x21",
                    b"\x02\x76\x01",
                    b"\x01\x77",
                    b"\x02\x11\x01",
                    b"\x04\x31\x01\xf0\x12",
                    b"\x01\x37",
                ]
            ),
            st.binary(max_size=5),
        ),
    ),
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(foreign=st.lists(st.tuples(st.integers(0, 250), FRAMES), max_size=8))
def test_frames_of_somebody_who_speaks_uds_too(parts, foreign):
    """A second tester, or a liar, in between: the update may fail, but never lies, and succeeds when he is gone."""
    node = parts.Node(factory=parts.OLD(size=500), flash=parts.FlashModel(8 * 1024, erase_block_bytes=512))
    bench = parts.Bench(node)
    image = parts.NEW(size=700)
    planned = dict(foreign)
    count = iter(range(1_000_000))

    def on_frame(_frame):
        liar = planned.pop(next(count), None)
        if liar is not None:
            bench.inject(liar)

    bench.on_frame = on_frame
    events = bench.run(bench.transfer(image, dialect=UdsDialect(block_length_max=0x82)), limit_s=LIMIT_S)
    if isinstance(events[-1], ImageVerified):
        assert node.store.read_slot(1) == image
    bench.on_frame = None
    bench.run(limit_s=12)
    assert isinstance(bench.flash(image)[-1], ImageVerified)
    assert node.store.read_slot(1) == image
