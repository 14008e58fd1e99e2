"""What holds for all tests: their order."""

from __future__ import annotations

from order import dealt


def pytest_collection_modifyitems(config, items):
    workers = getattr(config, "workerinput", {}).get("workercount", 1)
    items[:] = dealt(items, workers, lambda item: item.nodeid)
