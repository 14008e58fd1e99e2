"""The bars of `python -m benchmarks.flash`: simulated seconds, so the figures are the same on every machine."""

from __future__ import annotations

import pytest

from benchmarks.flash import figures

# One process of the suite computes them for all.
pytestmark = [pytest.mark.slow, pytest.mark.xdist_group("flash figures")]

# Payload over what the wire can carry at most; of broadcasts the time over that of one node.
AT_LEAST = {
    "classic 500k 11-bit": 0.97,
    "classic 500k 29-bit": 0.97,
    "fd 500k/2M": 0.97,
    "fd 1M/5M": 0.97,
    "classic 500k 11-bit 5 ms": 0.90,
    "uds 0xfff": 0.85,
}
AT_MOST = {"broadcast 16": 1.10, "broadcast 16 1% loss": 1.30, "broadcast 8 10% loss": 2.30}


@pytest.fixture(scope="session")
def ratios():
    return {figure.figure: figure.ratio for figure in figures(seeds=[1])}


@pytest.mark.parametrize("name", AT_LEAST)
def test_a_transfer_uses_the_wire(ratios, name):
    """No more than the wire can carry either: then the clock or the ceiling would be wrong."""
    assert AT_LEAST[name] <= ratios[name] <= 1


@pytest.mark.parametrize("name", AT_MOST)
def test_a_broadcast_takes_little_longer_than_one_node(ratios, name):
    assert 1 <= ratios[name] <= AT_MOST[name]


def test_no_computed_protocol_is_faster_on_the_same_wire(ratios):
    for wire in ("classic 500k 11-bit", "fd 500k/2M"):
        computed = [ratio for name, ratio in ratios.items() if name.startswith("computed: ") and name.endswith(wire)]
        assert len(computed) >= 5
        assert max(computed) < ratios[wire]
