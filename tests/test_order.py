"""`tests/rigs/order.py`: nothing is lost, each worker has its share of the longest tests first, and the list names tests that there are."""

from __future__ import annotations

from pathlib import Path

import pytest
from order import LONGEST, dealt

ROOT = Path(__file__).resolve().parents[1]


def test_every_worker_begins_with_its_share_of_the_longest():
    items = ["a", "long2 x", "b", "c", "long1", "d", "long2 y", "e", "f", "g"]
    order = dealt(items, 3, longest=("long1", "long2"))
    # xdist gives three workers 3, 3 and 4 of ten.
    assert [order[:3], order[3:6], order[6:]] == [
        ["long1", "a", "b"],
        ["long2 x", "c", "d"],
        ["long2 y", "e", "f", "g"],
    ]


@pytest.mark.parametrize("workers", range(1, 6))
@pytest.mark.parametrize("count", [0, 1, 2, 7, 40])
def test_nothing_is_lost_or_doubled(workers, count):
    items = [f"{'long' if number % 3 else 'short'} {number}" for number in range(count)]
    order = dealt(items, workers, longest=("long",))
    assert sorted(order) == sorted(items)
    assert [item for item in order if "short" in item] == [item for item in items if "short" in item]


@pytest.mark.parametrize("name", LONGEST)
def test_the_list_names_tests_that_there_are(name):
    path, _, function = name.partition("::")
    assert f"def {function or 'test_'}" in (ROOT / path).read_text(encoding="utf-8")
