"""What holds for all tests: their order, that no verdict depends on how fast the machine is, and the end of what they share."""

from __future__ import annotations

import gc
import os
import sys
from pathlib import Path

import pytest
from costs import is_dear
from hypothesis import HealthCheck, settings
from order import dealt

# A failure prints what replays it.
settings.register_profile("bmsota", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("bmsota")


_DEAR = Path(__file__).parent / "rigs" / "dear.txt"


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(config, items):
    if not os.environ.get("BMSOTA_COSTS"):
        dear = frozenset(line for line in _DEAR.read_text(encoding="utf-8").splitlines() if not line.startswith("#"))
        for item in items:
            if is_dear(item.nodeid, dear):
                item.add_marker(pytest.mark.slow)
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = dealt(items, workers, lambda item: item.nodeid)


@pytest.hookimpl(wrapper=True)
def pytest_collection(session):
    """Nothing that collection makes is garbage. Looked through again and again, it cost a second of a core each time."""
    gc.disable()
    try:
        return (yield)
    finally:
        gc.collect()
        gc.freeze()
        gc.enable()


def pytest_sessionfinish():
    if (servers := sys.modules.get("postgresql")) is not None:
        servers.stop_server_of_the_process()
