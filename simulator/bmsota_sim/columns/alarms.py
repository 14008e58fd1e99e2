"""The alarms of units of fleet fidelity: a master's own surveillance, for the few packs where there is something to see.

Each unit's pack is looked at as often as a full unit's master looks at it. Nearly all packs are far from every limit, which is found out
in columns. For the others the very `Surveillance` of a master is kept, as long as it has something to say.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from bmsota.master import SlaveFaults, Surveillance

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from bmsota.gbt32960 import Edition
    from bmsota.master import AlarmLimits

    Array = NDArray[Any]

__all__ = ["FAST_KMH", "PackLimits", "UnitAlarms"]

# Wider than what a value loses on its way, in volts and degrees.
_SLACK_V = 0.002
_SLACK_C = 0.2
# No report rounds more than this down to a level.
_SLACK_PCT = 0.6
FAST_KMH = 180.0
"""Beyond this speed a motor may turn too fast."""
_CURRENT_A = 590.0


class PackLimits:
    """Which packs must be looked at in detail."""

    def __init__(self, limits: AlarmLimits) -> None:
        self._cell_max = min(_first(limits.cell_voltage_max_v), _first(limits.mean_voltage_max_v)) - _SLACK_V
        self._cell_min = max(_last(limits.cell_voltage_min_v), _last(limits.mean_voltage_min_v)) + _SLACK_V
        self._cell_spread = _first(limits.cell_spread_v) - _SLACK_V
        self._probe_max = min(_first(limits.temperature_max_c), limits.thermal_event_c) - _SLACK_C
        self._probe_spread = _first(limits.temperature_spread_c) - _SLACK_C
        self._soc_min = (_last(limits.soc_min_pct) + _SLACK_PCT) / 100

    def near(self, voltage: Array, temperature: Array, current_a: Array, soc: Array) -> Array:
        """Which packs may have an alarm. *voltage* and *temperature* of all their cells, current and charge, as the last round found them."""
        highest, lowest = voltage.max(axis=1), voltage.min(axis=1)
        hottest, coldest = temperature.max(axis=1), temperature.min(axis=1)
        is_near: Array = (highest > self._cell_max) | (lowest < self._cell_min)
        is_near |= (highest - lowest > self._cell_spread) | (hottest > self._probe_max)
        is_near |= (hottest - coldest > self._probe_spread) | (soc < self._soc_min)
        is_near |= np.abs(current_a) > _CURRENT_A
        return is_near


class _AllHeard:
    """The slaves of a unit of columns: all are heard, and none has a fault."""

    def __init__(self) -> None:
        self.faults = SlaveFaults()

    def silent(self, since_ns: int) -> Iterable[int]:  # noqa: ARG002
        return ()


_SLAVES = _AllHeard()


class UnitAlarms(Surveillance):
    """The surveillance of one unit of columns."""

    def __init__(self, limits: AlarmLimits, *, edition: Edition, period_ns: int) -> None:
        super().__init__(limits, _SLAVES, edition=edition, period_ns=period_ns, silent_after_ns=0)


def _first(levels: tuple[float | None, ...]) -> float:
    return min((level for level in levels if level is not None), default=np.inf)


def _last(levels: tuple[float | None, ...]) -> float:
    return max((level for level in levels if level is not None), default=-np.inf)
