"""What holds for all tests: their order, that no verdict depends on how fast the machine is, and the end of what they share."""

from __future__ import annotations

import gc
import sys

import pytest
from hypothesis import HealthCheck, settings
from order import dealt

# A failure prints what replays it.
settings.register_profile("bmsota", deadline=None, suppress_health_check=[HealthCheck.too_slow], print_blob=True)
settings.load_profile("bmsota")


def pytest_collection_modifyitems(config, items):
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
