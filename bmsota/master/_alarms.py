"""The alarms of a pack: GB/T 32960.3 names them and has three levels; where each begins is the maker's word (2016, tables 17 and 18).

`alarms_of_moment` compares what is known in one moment. `AlarmWatch` looks again and again, and lets an alarm come and go only when several looks
agree, as a diagnosis of a BMS does: one wrong sample is no alarm, and a value at its limit does not flicker. A level is 1 (told), 2 (driving
is limited) or 3 (stop at once); the edition of 2025 has 4 for a thermal event.

Values are compared in the steps of the internal bus, as integers, so that the limit itself is no alarm.
"""

from __future__ import annotations

import math
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from bmsota.gbt32960 import AlarmFlag, AlarmLevel, Alarms, Alarms2025, Edition

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bmsota.master._readings import MasterReadings, PackValues
    from bmsota.master._slave_faults import SlaveFault

Levels = tuple[float | None, float | None, float | None]
"""Where level 1, 2 and 3 begin, each further out than the one before; None: there is no such level."""

SECOND = 1_000_000_000
THERMAL_EVENT_LEVEL = 4
"""Of 2025 (table 0x06, bit 23). 2016 has neither the level nor the bit."""
LEVEL_MAX_2016 = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class AlarmLimits:
    """Beyond which value an alarm has which level. The defaults are those of NMC cells; `LFP_ALARM_LIMITS` has the others."""

    cell_voltage_max_v: Levels = (4.23, 4.25, 4.30)
    cell_voltage_min_v: Levels = (2.75, 2.50, 2.20)
    mean_voltage_max_v: Levels = (4.22, 4.24, 4.28)
    """Of the whole pack, by cell; judged when every cell is known."""
    mean_voltage_min_v: Levels = (2.90, 2.70, 2.50)
    cell_spread_v: Levels = (0.3, 0.5, None)
    """Between the highest and the lowest cell."""
    temperature_max_c: Levels = (50.0, 55.0, 60.0)
    temperature_spread_c: Levels = (15.0, 25.0, None)
    """Between the hottest and the coldest probe."""
    soc_min_pct: Levels = (5.0, 2.0, None)
    soc_max_pct: Levels = (100.0, None, None)
    soc_jump_pct: Levels = (5.0, None, None)
    """Between two looks that are at most ten seconds apart."""
    insulation_min_kohm_per_v: Levels = (0.5, 0.2, 0.1)
    """By volt of the pack: GB 18384 asks for 0.1, and 0.5 where alternating current is."""
    motor_controller_temperature_max_c: Levels = (90.0, 100.0, 110.0)
    motor_temperature_max_c: Levels = (130.0, 145.0, 160.0)
    motor_speed_max_rpm: Levels = (16_500.0, 18_000.0, None)
    motor_current_max_a: Levels = (600.0, 700.0, None)
    thermal_event_c: float = 80.0
    """A probe above this is a thermal event. So is one above level 3 of `temperature_max_c` that rises as fast as the next."""
    thermal_rise_c_per_s: float = 1.0
    """For three seconds (GB 38031, annex C)."""


LFP_ALARM_LIMITS = AlarmLimits(
    cell_voltage_max_v=(3.68, 3.70, 3.80),
    cell_voltage_min_v=(2.45, 2.20, 2.00),
    mean_voltage_max_v=(3.66, 3.68, 3.75),
    mean_voltage_min_v=(2.60, 2.50, 2.30),
)
"""Of lithium iron phosphate cells, which are full at 3.65 V."""

# How many looks in a row must agree before an alarm comes, or rises; the others need three.
_LOOKS_TO_COME = {
    AlarmFlag.TEMPERATURE_DIFFERENCE: 5,
    AlarmFlag.SOC_LOW: 5,
    AlarmFlag.SOC_HIGH: 5,
    AlarmFlag.CELL_CONSISTENCY_POOR: 5,
    AlarmFlag.INSULATION: 5,
    AlarmFlag.SOC_JUMP: 1,
    AlarmFlag.HIGH_VOLTAGE_INTERLOCK: 1,
    AlarmFlag.THERMAL_EVENT: 1,
}
_LOOKS_USUAL = 3
# Before it goes, or falls. What was there for a moment stays for a report each minute; a thermal event stays.
_LOOKS_TO_GO = {AlarmFlag.SOC_JUMP: 60}
_LOOKS_TO_GO_USUAL = 5
_STAYS = frozenset({AlarmFlag.THERMAL_EVENT})
_JUMP_GAP_NS = 10 * SECOND
_RISE_NS = 3 * SECOND
_RISE_LOOKS = 8
_MV, _TENTHS = 1000, 10


def _above(value: float, limits: Levels, steps: int = 1) -> int:
    """The level of a value that must not be above *limits*; both are compared in *steps* of their unit."""
    scaled, level = round(value * steps), 0
    for number, limit in enumerate(limits, start=1):
        if limit is None:
            continue
        if scaled <= round(limit * steps):
            break
        level = number
    return level


def _below(value: float, limits: Levels, steps: int = 1) -> int:
    low, middle, high = (None if limit is None else -limit for limit in limits)
    return _above(-value, (low, middle, high), steps)


def alarms_of_moment(pack: PackValues, readings: MasterReadings, limits: AlarmLimits) -> dict[AlarmFlag, int]:
    """The alarms of this moment and their levels, in the order of their bits. What is not known is no alarm."""
    found = {flag: level for flag, level in readings.vehicle_alarms.items() if level}

    def tell(flag: AlarmFlag, level: int) -> None:
        if level > found.get(flag, 0):
            found[flag] = level

    cells = [value for value in pack.cell_voltages_v if value is not None]
    if cells:
        _judge_cells(cells, pack, readings, limits, tell)
    probes = [value for value in pack.temperatures_c if value is not None]
    if probes:
        hottest = max(probes)
        tell(AlarmFlag.BATTERY_TEMPERATURE_HIGH, _above(hottest, limits.temperature_max_c, _TENTHS))
        tell(AlarmFlag.TEMPERATURE_DIFFERENCE, _above(hottest - min(probes), limits.temperature_spread_c, _TENTHS))
        if hottest > limits.thermal_event_c:
            tell(AlarmFlag.THERMAL_EVENT, THERMAL_EVENT_LEVEL)
    if not math.isnan(readings.soc_pct):
        soc = round(readings.soc_pct)
        tell(AlarmFlag.SOC_LOW, _below(soc, limits.soc_min_pct))
        tell(AlarmFlag.SOC_HIGH, _above(soc, limits.soc_max_pct))
    voltage = (
        pack.voltage_v if readings.insulation_kohm is not None and readings.insulation_kohm < _INSULATION_KOHM else None
    )
    if voltage is not None and readings.insulation_kohm is not None:
        low, middle, high = (None if limit is None else limit * voltage for limit in limits.insulation_min_kohm_per_v)
        tell(AlarmFlag.INSULATION, _below(readings.insulation_kohm, (low, middle, high), _TENTHS))
    for motor in readings.motors:
        tell(
            AlarmFlag.MOTOR_CONTROLLER_TEMPERATURE,
            _above(motor.controller_temperature_c, limits.motor_controller_temperature_max_c),
        )
        tell(AlarmFlag.MOTOR_TEMPERATURE, _above(motor.motor_temperature_c, limits.motor_temperature_max_c))
        tell(AlarmFlag.MOTOR_OVER_SPEED, _above(abs(motor.speed_rpm), limits.motor_speed_max_rpm))
        if motor.power_w and abs(readings.current_a) > _CURRENT_A:
            tell(AlarmFlag.MOTOR_OVER_CURRENT, _above(abs(readings.current_a), limits.motor_current_max_a, _TENTHS))
    return dict(sorted(found.items()))


# No limit is reached below these, whatever the pack: the sum of its cells is dear, and not asked for in vain.
_INSULATION_KOHM = 3_000.0
_CURRENT_A = 100.0


def _judge_cells(
    cells: list[float],
    pack: PackValues,
    readings: MasterReadings,
    limits: AlarmLimits,
    tell: Callable[[AlarmFlag, int], None],
) -> None:
    highest, lowest = max(cells), min(cells)
    over = _above(highest, limits.cell_voltage_max_v, _MV)
    tell(AlarmFlag.CELL_OVER_VOLTAGE, over)
    tell(AlarmFlag.CELL_UNDER_VOLTAGE, _below(lowest, limits.cell_voltage_min_v, _MV))
    tell(AlarmFlag.CELL_CONSISTENCY_POOR, _above(highest - lowest, limits.cell_spread_v, _MV))
    if over >= 2 and readings.current_a < 0:
        # Still charging where it should have stopped.
        tell(AlarmFlag.STORAGE_OVER_CHARGE, over)
    may_be = _above(highest, limits.mean_voltage_max_v, _MV) or _below(lowest, limits.mean_voltage_min_v, _MV)
    if may_be and len(cells) == len(pack.cell_voltages_v):
        # The mean in millivolts, without a division: sum and limit times the number of cells.
        total, count = sum(round(value * _MV) for value in cells), len(cells)
        tell(AlarmFlag.STORAGE_OVER_VOLTAGE, _above(total, _times(limits.mean_voltage_max_v, count)))
        tell(AlarmFlag.STORAGE_UNDER_VOLTAGE, _below(total, _times(limits.mean_voltage_min_v, count)))


def _times(limits: Levels, count: int) -> Levels:
    low, middle, high = (None if limit is None else round(limit * _MV) * count for limit in limits)
    return low, middle, high


def alarms_body(
    levels: Mapping[AlarmFlag, int], faults: Iterable[tuple[int, SlaveFault]], edition: Edition
) -> Alarms | Alarms2025:
    """The alarm body of a report. *faults* are those of slaves, told by their codes; each has a level of its own."""
    if edition is not Edition.GBT2025:
        levels = {flag: min(level, LEVEL_MAX_2016) for flag, level in levels.items() if flag in _OF_2016}
    faults = tuple(faults)
    level_max = max([*levels.values(), *(fault.level for _, fault in faults)], default=0)
    flags = sum(int(flag) for flag in levels)
    codes = tuple(fault.code(position) for position, fault in faults)
    if edition is not Edition.GBT2025:
        return Alarms(level_max=level_max, flags=flags, ress_faults=codes)
    told = tuple(AlarmLevel(bit=flag.bit_length() - 1, level=level) for flag, level in levels.items())
    return Alarms2025(level_max=level_max, flags=flags, ress_faults=codes, general_levels=told)


_OF_2016 = AlarmFlag((1 << 19) - 1)
"""Bits 0 to 18; the others are reserved there."""


@dataclass(slots=True)
class _Diagnosis:
    level: int = 0
    pending: list[int] = field(default_factory=list)
    """The levels of the last looks, all above `level` or all below it."""


class AlarmWatch:
    """The alarms of one pack over time."""

    def __init__(self, limits: AlarmLimits) -> None:
        self._limits = limits
        self._diagnoses: dict[AlarmFlag, _Diagnosis] = {}
        self._soc: tuple[int, float] | None = None
        self._probes: deque[tuple[int, Sequence[float | None]]] = deque(maxlen=_RISE_LOOKS)
        self.levels: dict[AlarmFlag, int] = {}
        """The alarms that are present, and their levels."""

    @property
    def level_max(self) -> int:
        return max(self.levels.values(), default=0)

    @property
    def is_quiet(self) -> bool:
        """No alarm is present, and none is about to come or go."""
        return not self._diagnoses

    def look(self, pack: PackValues, readings: MasterReadings, now_ns: int) -> bool:
        """Judge what is known now; True if an alarm has come, gone or changed its level. Call it once a measuring period."""
        found = alarms_of_moment(pack, readings, self._limits)
        self._judge_changes(pack, readings, now_ns, found)
        if not found and not self._diagnoses:
            return False
        for flag in found:
            self._diagnoses.setdefault(flag, _Diagnosis())
        before = self.levels
        for flag, diagnosis in list(self._diagnoses.items()):
            self._advance(flag, diagnosis, found.get(flag, 0))
            if not diagnosis.level and not diagnosis.pending:
                del self._diagnoses[flag]
        self.levels = {flag: each.level for flag, each in sorted(self._diagnoses.items()) if each.level}
        return self.levels != before

    @staticmethod
    def _advance(flag: AlarmFlag, diagnosis: _Diagnosis, level: int) -> None:
        pending = diagnosis.pending
        if pending and (level > diagnosis.level) is not (pending[0] > diagnosis.level):
            pending.clear()
        if level == diagnosis.level or (level < diagnosis.level and flag in _STAYS):
            pending.clear()
            return
        pending.append(level)
        if level > diagnosis.level and len(pending) >= _LOOKS_TO_COME.get(flag, _LOOKS_USUAL):
            diagnosis.level = min(pending)
            pending.clear()
        elif level < diagnosis.level and len(pending) >= _LOOKS_TO_GO.get(flag, _LOOKS_TO_GO_USUAL):
            diagnosis.level = max(pending)
            pending.clear()

    def _judge_changes(
        self, pack: PackValues, readings: MasterReadings, now_ns: int, found: dict[AlarmFlag, int]
    ) -> None:
        """What one moment does not show: a state of charge that jumps, a probe that rises fast."""
        limits = self._limits
        is_known = not math.isnan(readings.soc_pct)
        if is_known and self._soc is not None and now_ns - self._soc[0] <= _JUMP_GAP_NS:
            jump = _above(abs(readings.soc_pct - self._soc[1]), limits.soc_jump_pct, _TENTHS)
            if jump:
                found[AlarmFlag.SOC_JUMP] = jump
        if is_known:
            self._soc = (now_ns, readings.soc_pct)
        self._probes.append((now_ns, pack.temperatures_c))
        hot = limits.temperature_max_c[2]
        if hot is None or found.get(AlarmFlag.BATTERY_TEMPERATURE_HIGH, 0) < LEVEL_MAX_2016:
            return
        for at_ns, probes in self._probes:
            if at_ns <= now_ns - _RISE_NS:
                seconds = (now_ns - at_ns) / SECOND
                rises = any(
                    new is not None
                    and old is not None
                    and new > hot
                    and new - old >= limits.thermal_rise_c_per_s * seconds
                    for new, old in zip(pack.temperatures_c, probes, strict=True)
                )
                if rises:
                    found[AlarmFlag.THERMAL_EVENT] = THERMAL_EVENT_LEVEL
