"""Nodes whose application hangs: they hear and do nothing once it has started."""

from __future__ import annotations

from typing import Any

from bmsota.node import ApplicationStarted, BootloaderLeft


class Hanging:
    """To be mixed into a `node.Node`: with `hangs` its target is gone as soon as its application runs."""

    hangs = True
    _core: Any = None
    _heard = 0

    @property
    def target(self: Any) -> Any:
        events = self.events[self._heard :]
        started = ApplicationStarted() in events or BootloaderLeft() in events or not self.has_window
        return None if self.hangs and started else self._core

    @target.setter
    def target(self: Any, core: Any) -> None:
        self._core = core
        self._heard = len(getattr(self, "events", ()))

    @property
    def has_window(self: Any) -> bool:
        return self._core is not None and "timing" in self.options and self.options["timing"].boot_window_ns > 0
