"""The rule of phase: when a unit's parts do what they do, within a second."""

from __future__ import annotations

from dataclasses import replace

import pytest
from bmsota_sim.devices.phase import LATCH_NS, discovery_begins, next_latch, slave_offset_ns
from bmsota_sim.kernel import MS, SECOND
from bmsota_sim.profiles import PROFILES


@pytest.mark.parametrize(
    ("now_ms", "latch_ms"), [(0, 100), (99, 100), (100, 1100), (101, 1100), (999, 1100), (1000, 1100), (1100, 2100)]
)
def test_the_next_latch_is_after_now(now_ms, latch_ms):
    assert next_latch(now_ms * MS) == latch_ms * MS


@pytest.mark.parametrize(
    ("earliest_ms", "begins_ms"), [(0, 100), (99, 100), (100, 100), (500, 500), (850, 850), (851, 1100), (1050, 1100)]
)
def test_a_master_asks_between_two_rounds(earliest_ms, begins_ms):
    assert discovery_begins(earliest_ms * MS) == begins_ms * MS


@pytest.mark.parametrize("slaves", [1, 3, 8, 12, 36])
def test_all_slaves_measure_before_the_latch(slaves):
    profile = replace(PROFILES["E7"], slave_count=slaves, cells_per_slave=1, probes_per_slave=1)
    offsets = [slave_offset_ns(profile, position) for position in range(1, slaves + 1)]
    assert offsets == sorted(set(offsets))
    assert offsets[0] > 0
    assert offsets[-1] <= LATCH_NS - 10 * MS
    assert offsets[0] <= 10 * MS < SECOND
