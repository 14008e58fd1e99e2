"""The order of the tests under xdist: every worker begins with some of the longest ones.

`--dist worksteal` gives each worker a run of neighbours, which keeps the fixtures of a module together, and moves what is left from
the end of a long queue to a worker that has nothing. What must not be left is a long test: the others would wait for it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

__all__ = ["LONGEST", "dealt"]

_Item = TypeVar("_Item")

LONGEST = (
    "tests/simulator/test_demo_real.py::test_the_demo_plays_to_its_planned_end_and_keeps_running",
    "tests/simulator/test_power_cuts.py::test_power_may_fail_at_any_flash_operation_of_an_upgrade",
    "tests/simulator/test_campaigns.py::",
    "tests/cloud/storage/test_store_model.py::",
    "tests/simulator/test_power_cuts.py::",
    "tests/simulator/run/test_own_platform.py::test_an_upgrade",
    "tests/simulator/run/test_ready_scenarios.py::test_a_ready_scenario",
    "tests/simulator/run/test_fleet_fidelity.py::test_both",
    "tests/simulator/test_worn_flash.py::",
    "tests/bmsota/ota/test_worn_flash.py::test_",
    "tests/bmsota/boot/test_worn_flash.py::test_",
    "tests/cloud/gateway/test_durability.py::test_kill_9",
    "tests/simulator/test_bench.py::test_",
    "tests/simulator/life/test_days.py::test_no_energy_comes_from_nothing",
)
"""How the names of the longest tests begin, longest first. A test that takes more than some five seconds of a core belongs here."""


def dealt(
    items: Sequence[_Item], workers: int, name: Callable[[_Item], str] = str, longest: Sequence[str] = LONGEST
) -> list[_Item]:
    """*items* in such an order that each of the equal parts in which *workers* get them begins with its share of the longest."""
    rank = {each: place for place, each in enumerate(longest)}
    found: dict[int, list[_Item]] = {place: [] for place in rank.values()}
    rest = []
    for item in items:
        place = next((rank[each] for each in longest if name(item).startswith(each)), None)
        (rest if place is None else found[place]).append(item)
    long = [item for place in sorted(found) for item in found[place]]
    order: list[_Item] = []
    for worker in range(workers):
        size = (len(items) - len(order)) // (workers - worker)
        mine = long[worker::workers]
        others = max(0, size - len(mine))
        order += mine + rest[:others]
        del rest[:others]
    return order + rest
