"""What holds for all tests: their order, and the end of what they share."""

from __future__ import annotations

import sys

from order import dealt


def pytest_collection_modifyitems(config, items):
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = dealt(items, workers, lambda item: item.nodeid)


def pytest_sessionfinish():
    if (servers := sys.modules.get("postgresql")) is not None:
        servers.stop_server_of_the_process()
