"""Fixtures for pytest, there as soon as `bmsota[sim]` is installed: `virtual_unit`, `virtual_fleet`, `virtual_can_bench`.

Every pytest run of everybody who has the package loads this file, so it imports nothing of the simulator until a fixture is used.
docs/pytest.md is the guide.
"""

from __future__ import annotations

from contextlib import ExitStack
from typing import TYPE_CHECKING, Any

import pytest

from bmsota._extras import needs_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from bmsota_sim.bench import Bench
    from bmsota_sim.trials import FleetTrial, UnitTrial

__all__ = ["virtual_can_bench", "virtual_fleet", "virtual_unit"]


@pytest.fixture
def virtual_unit() -> Callable[..., UnitTrial]:
    """Make a unit in virtual time: `virtual_unit("E7", edition=2016, report_s=10)`; see `bmsota_sim.trials.UnitTrial`."""

    def make(profile: str = "E7", **options: Any) -> UnitTrial:
        with needs_extra("virtual_unit", "sim"):
            from bmsota_sim.trials import UnitTrial  # noqa: PLC0415 - see above

        return UnitTrial(profile, **options)

    return make


@pytest.fixture
def virtual_fleet() -> Callable[..., FleetTrial]:
    """Make a fleet from a scenario: `virtual_fleet("storm", count=4, seed=1)`; see `bmsota_sim.trials.FleetTrial`."""

    def make(scenario: str | Path, **options: Any) -> FleetTrial:
        with needs_extra("virtual_fleet", "sim"):
            from bmsota_sim.trials import FleetTrial  # noqa: PLC0415 - see above

        return FleetTrial(scenario, **options)

    return make


@pytest.fixture
def virtual_can_bench(request: pytest.FixtureRequest) -> Iterator[Callable[..., Bench]]:
    """Start a virtual CAN bench: `virtual_can_bench(slaves=2)`, with the options of `bmsota_sim.bench.BenchOptions`.

    Each bench has a python-can `virtual` channel of its own, `bench.paths[0]`, and ends with the test.
    """
    with ExitStack() as stack:
        count = 0

        def start(**options: Any) -> Bench:
            nonlocal count
            with needs_extra("virtual_can_bench", "sim"):
                from bmsota_sim.bench import Bench, BenchOptions  # noqa: PLC0415 - see above

            count += 1
            channel = options.pop("channel", f"virtual:{request.node.nodeid}-{count}")
            return stack.enter_context(Bench(BenchOptions(**options), channel=channel))

        yield start
