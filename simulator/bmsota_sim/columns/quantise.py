"""Rounding on the way from physics to a report, in columns: the rule of docs/decisions/0033-two-fidelities.md.

Physics is float32; every later step is an integer, and equal to what slave, DBC and master do with one value at a time. A value that
a slave calls "Abnormal" on the bus is `MISSING` here; the master does not know it, and reports it as invalid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    Array = NDArray[Any]

__all__ = [
    "CELL_MV_MAX",
    "MISSING",
    "cells_on_bus",
    "current_on_bus",
    "degrees_in_report",
    "percent_in_report",
    "probes_on_bus",
    "rounded",
    "soc_on_bus",
]

CELL_MV_MAX: Final = 6553
"""The highest value of a cell on the bus."""
PROBE_MIN: Final = -600
PROBE_MAX: Final = 2000
"""Of a probe, in 0.1 degrees Celsius."""
CURRENT_MIN: Final = -32_768
CURRENT_MAX: Final = 32_765
"""Of the pack's current, in 0.1 A."""
SOC_MAX: Final = 1_000
"""Of the state of charge, in 0.1 %."""
MISSING: Final = -32768
_NEAR: Final = 1e-6
"""So close to a tie a product of float64 may be on its wrong side. The largest here, 180 degrees in steps of 1e-6, is exact to 3e-8."""

_DEGREES_LOWEST: Final = -40
_DEGREES_OFFSET: Final = 40
_ABNORMAL: Final = 0xFE
_INVALID: Final = 0xFF
_PERCENT: Final = np.array([*(round(steps * 0.1) for steps in range(SOC_MAX + 1)), _ABNORMAL], np.uint8)


def cells_on_bus(volts: Array) -> Array:
    """Millivolts as int16; `MISSING` beyond the range of the signal. *volts* are float32: their product is exact."""
    return _steps(volts, 1_000.0, 0, CELL_MV_MAX)


def probes_on_bus(degrees_c: Array) -> Array:
    """Steps of 0.1 degrees as int16; `MISSING` beyond the range of the signal. *degrees_c* are float32."""
    return _steps(degrees_c, 10.0, PROBE_MIN, PROBE_MAX)


def current_on_bus(amperes: Array) -> Array:
    """Amperes in whole steps of 0.1 as the sensor in the main line sends them, in steps, as float64; NaN beyond the range of the signal.

    *amperes* are float32: the product is exact.
    """
    return _known_steps(amperes, 10.0, CURRENT_MIN, CURRENT_MAX)


def soc_on_bus(soc: Array) -> Array:
    """The state of charge (1 is full) in steps of 0.1 %, as float64; NaN stays. *soc* is float32; beyond empty or full it ends there."""
    return _known_steps(np.clip(soc, np.float32(0.0), np.float32(1.0)), 1_000.0, 0, SOC_MAX)


def _known_steps(values: Array, per_unit: float, low: int, high: int) -> Array:
    steps = np.multiply(values, per_unit, dtype=np.float64)
    np.rint(steps, out=steps)
    steps[~((steps >= low) & (steps <= high))] = np.nan  # Written so that NaN is unknown.
    return steps


def percent_in_report(soc_steps: Array) -> Array:
    """The byte of a report (table 9: 1 %) for each state of charge of the bus: half to even, as a master rounds."""
    known = np.nan_to_num(soc_steps, nan=SOC_MAX + 1).astype(np.int64)
    return _PERCENT[known]


def _steps(values: Array, per_unit: float, low: int, high: int) -> Array:
    steps = np.multiply(values, per_unit, dtype=np.float64)
    np.rint(steps, out=steps)
    is_good = (steps >= low) & (steps <= high)  # Written so that NaN is missing.
    if is_good.all():
        return steps.astype(np.int16)
    return np.where(is_good, steps, MISSING).astype(np.int16)


def _degrees_table() -> Array:
    table = np.full(PROBE_MAX - PROBE_MIN + 2, _INVALID, np.uint8)
    for steps in range(PROBE_MIN, PROBE_MAX + 1):
        whole = round(steps * 0.1)  # The expression of a master: half to even.
        table[steps - PROBE_MIN] = _ABNORMAL if whole < _DEGREES_LOWEST else whole + _DEGREES_OFFSET
    return table


_DEGREES: Final = _degrees_table()


def degrees_in_report(probes: Array) -> Array:
    """The byte of a report (table 16: 1 degree, offset 40) for each probe of the bus."""
    places = np.subtract(probes, PROBE_MIN, dtype=np.int32)
    return _DEGREES[np.where(probes == MISSING, len(_DEGREES) - 1, places)]


def rounded(values: Array, decimals: int) -> Array:
    """`round(value, decimals)` of Python for each float64, in steps of the last decimal, as int64."""
    scaled = values * 10.0**decimals
    steps = np.rint(scaled).astype(np.int64)
    near = np.abs(np.abs(scaled - steps) - 0.5) < _NEAR
    if near.any():
        for place in np.flatnonzero(near).tolist():
            steps[place] = round(round(float(values[place]), decimals) * 10**decimals)
    return steps
