"""Driving cycles: a speed for each second of a trip.

Three standard cycles ship as data, with source and licence at the head of each file: WLTC class 3b (UN GTR 15), NEDC
(UNECE R83) and UDDS (40 CFR part 86). A user's own cycle is a CSV file of the same form.
"""

from __future__ import annotations

import csv
import math
from dataclasses import dataclass
from functools import cached_property
from importlib import resources
from typing import TYPE_CHECKING

import numpy as np

from bmsota.errors import ConfigurationError

if TYPE_CHECKING:
    from collections.abc import Iterable

    import numpy.typing as npt

__all__ = ["SPEED_MAX_KMH", "DrivingCycle", "driving_cycle", "read_driving_cycle"]

# The report's speed field ends at 220 km/h (GB/T 32960.3, vehicle data).
SPEED_MAX_KMH = 220.0
# A day; a longer trip is a slip of the pen.
SECONDS_MAX = 86_400
SPEED, TIME = "speed_kmh", "time_s"


@dataclass(frozen=True, eq=False)
class DrivingCycle:
    """A trip as speed over time. Between two seconds the speed changes evenly."""

    name: str
    speed_kmh: npt.NDArray[np.float64]
    """At second 0, 1, 2, ...; the first and the last are 0."""

    @property
    def duration_s(self) -> int:
        return len(self.speed_kmh) - 1

    @property
    def distance_km(self) -> float:
        return float(self._driven_km[-1])

    @cached_property
    def _driven_km(self) -> npt.NDArray[np.float64]:
        step = (self.speed_kmh[:-1] + self.speed_kmh[1:]) / 7200.0
        return np.concatenate(([0.0], np.cumsum(step)))

    def speed_at(self, at_s: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Speed in km/h at *at_s* seconds from the start, 0 outside of the cycle."""
        return np.interp(np.asarray(at_s, np.float64), self._seconds, self.speed_kmh, left=0.0, right=0.0)

    @cached_property
    def _seconds(self) -> npt.NDArray[np.float64]:
        return np.arange(len(self.speed_kmh), dtype=np.float64)

    def driven_at(self, at_s: npt.ArrayLike) -> npt.NDArray[np.float64]:
        """Kilometres driven by *at_s* seconds from the start: the exact integral of `speed_at`."""
        at = np.minimum(np.maximum(np.asarray(at_s, np.float64), 0.0), float(self.duration_s))
        second = np.minimum(at.astype(np.intp), self.duration_s - 1)
        rest = at - second
        first, last = self.speed_kmh[second], self.speed_kmh[second + 1]
        driven: npt.NDArray[np.float64] = self._driven_km[second] + rest * (first + rest * (last - first) / 2) / 3600.0
        return driven


def driving_cycle(name: str) -> DrivingCycle:
    """A cycle that ships with the simulator: `wltc`, `nedc` or `udds`.

    Raises:
        ConfigurationError: there is no cycle of that name; the message lists the names.
    """
    folder = resources.files(__name__)
    names = sorted(entry.name.removesuffix(".csv") for entry in folder.iterdir() if entry.name.endswith(".csv"))
    if name not in names:
        raise ConfigurationError(f"no driving cycle {name!r}; there are {', '.join(names)}")
    text = (folder / f"{name}.csv").read_text(encoding="utf-8")
    return read_driving_cycle(text.splitlines(), name=name)


def read_driving_cycle(lines: Iterable[str], *, name: str = "driving cycle") -> DrivingCycle:
    """Read a cycle from CSV: a head line with `speed_kmh` and, if wanted, `time_s`; then one line a second.

    Lines that start with # and empty lines are skipped. Other columns are ignored.

    Raises:
        ConfigurationError: it is no such file, a speed or a time is not as expected, or the vehicle does not stand at
            both ends; the message names the line.
    """
    numbered = enumerate((line.lstrip("\ufeff") for line in lines), start=1)
    rows = [(number, line) for number, line in numbered if line.strip() and not line.startswith("#")]
    if not rows:
        raise ConfigurationError(f"{name}: the file is empty")
    table = list(csv.reader(line for _, line in rows))
    head = [column.strip() for column in table[0]]
    if SPEED not in head:
        raise ConfigurationError(f"{name}:{rows[0][0]}: expected a head line with {SPEED}, got {','.join(head)!r:.80}")
    speeds: list[float] = []
    for (number, _), fields in zip(rows[1:], table[1:], strict=True):
        place = f"{name}:{number}"
        if len(fields) != len(head):
            raise ConfigurationError(f"{place}: expected {len(head)} columns, got {len(fields)}")
        values = dict(zip(head, fields, strict=True))
        if TIME in values and _number(values[TIME], TIME, place, SECONDS_MAX) != len(speeds):
            raise ConfigurationError(f"{place}: expected {TIME} {len(speeds)}, got {values[TIME].strip()}")
        if len(speeds) > SECONDS_MAX:
            raise ConfigurationError(f"{place}: expected at most {SECONDS_MAX} seconds, got more")
        speeds.append(_number(values[SPEED], SPEED, place, SPEED_MAX_KMH))
    if len(speeds) < 2:
        raise ConfigurationError(f"{name}: expected at least two seconds, got {len(speeds)}")
    for number, speed in ((rows[1][0], speeds[0]), (rows[-1][0], speeds[-1])):
        if speed != 0:
            raise ConfigurationError(f"{name}:{number}: expected {SPEED} 0 at both ends of a trip, got {speed:g}")
    return DrivingCycle(name, np.array(speeds))


def _number(text: str, column: str, place: str, most: float) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= most:
        raise ConfigurationError(f"{place}: expected {column} from 0 to {most:g}, got {text.strip()!r:.40}")
    return value
