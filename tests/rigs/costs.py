"""What each test costs: seconds of a core, those of programs that it starts included.

`scripts/dear_tests.py` runs the tests with this plugin (`-p costs`), and names those that `make check` leaves out in
`tests/rigs/dear.txt`: a fast tier of 8,000 tests has 10 milliseconds for each.
"""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

__all__ = ["dear_of", "is_dear"]

DEAR_S = 0.08
"""A file whose tests cost this much on average is dear, and else a test that does so itself, on average of its cases."""


def dear_of(costs: Mapping[str, float], dear_s: float = DEAR_S) -> list[str]:
    """The files and tests that are dear, by the cost of each case ("tests/a.py::test_b[case]")."""
    files: dict[str, dict[str, list[float]]] = {}
    for name, cost in costs.items():
        files.setdefault(name.split("::")[0], {}).setdefault(name.partition("[")[0], []).append(cost)
    dear = []
    for file, tests in sorted(files.items()):
        every = [cost for cases in tests.values() for cost in cases]
        if sum(every) / len(every) >= dear_s:
            dear.append(file)
        else:
            dear += [test for test, cases in sorted(tests.items()) if sum(cases) / len(cases) >= dear_s]
    return dear


def is_dear(name: str, dear: frozenset[str]) -> bool:
    """Whether this test, or its file, is among them."""
    return name.split("::", maxsplit=1)[0] in dear or name.partition("[")[0] in dear


class _Costs:
    def __init__(self, path: str) -> None:
        self._path = path
        self._costs: Counter[str] = Counter()

    def _measured(self, item: pytest.Item) -> Iterator[None]:
        before = sum(os.times()[:4])
        try:
            return (yield)
        finally:
            self._costs[item.nodeid] += sum(os.times()[:4]) - before

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_setup(self, item: pytest.Item) -> Iterator[None]:
        return (yield from self._measured(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_call(self, item: pytest.Item) -> Iterator[None]:
        return (yield from self._measured(item))

    @pytest.hookimpl(wrapper=True)
    def pytest_runtest_teardown(self, item: pytest.Item) -> Iterator[None]:
        return (yield from self._measured(item))

    def pytest_sessionfinish(self) -> None:
        lines = "".join(f"{cost:.3f}\t{name}\n" for name, cost in self._costs.items())
        worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
        Path(f"{self._path}.{worker}").write_text(lines, encoding="utf-8")


def pytest_configure(config: pytest.Config) -> None:
    if path := os.environ.get("BMSOTA_COSTS"):
        config.pluginmanager.register(_Costs(path))
