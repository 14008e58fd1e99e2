"""Reports of many vehicles of one series at once, byte for byte those of their masters (GB/T 32960.3-2016).

Strategy. What a report says of gear, switches and motors depends on three bits: ignition, driving, charging. These fields are taken
from eight reports that `master_readings` and `report_bodies` make, once for a series. Only what changes from report to report is
computed here: cells, probes and what follows from them, current, charge, distance and place. All of it are integers of the wire, so
`encode_batch(raw=True)` rounds nothing again.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bmsota.gbt32960 import (
    AlarmFlag,
    Command,
    Edition,
    Frame,
    FrameColumns,
    FrameGroup,
    Report,
    beijing_time,
    decode_batch,
    encode,
    encode_batch,
)
from bmsota.gbt32960._walk import Walk
from bmsota.master import PackValues, report_bodies
from bmsota_sim.columns.quantise import MISSING, degrees_in_report, rounded
from bmsota_sim.devices.readings import master_readings
from bmsota_sim.devices.vehicle import VirtualVehicle

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from bmsota.master import AlarmLimits
    from bmsota_sim.profiles import SeriesProfile

    Array = NDArray[Any]

__all__ = ["CHARGING", "DRIVING", "IGNITION_ON", "ReportColumns", "VehicleRows"]

IGNITION_ON: Final = 1
DRIVING: Final = 2
CHARGING: Final = 4
_STATES: Final = 8

_ANY_TIME_NS: Final = 2**60
_ABNORMAL: Final = 0xFFFE
_INVALID: Final = 0xFFFF
_CURRENT_OFFSET: Final = 10_000
_CURRENT_STEPS_MAX: Final = 10_000
_VOLTAGE_STEPS_MAX: Final = 10_000
_ODOMETER_STEPS_MAX: Final = 9_999_999


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleRows:
    """What the reports of some vehicles are made from; row i of every array belongs to one report."""

    vin: Array
    """str of 17 characters."""
    time_s: Array
    """int64: seconds since the Unix epoch."""
    cells: Array
    """(rows, cells) as `cells_on_bus` gives them."""
    probes: Array
    """(rows, probes) as `probes_on_bus` gives them."""
    current_a: Array
    """float32; > 0 discharges."""
    soc: Array
    """float32: of the emptiest cell, 1 is full."""
    state: Array
    """uint8: `IGNITION_ON`, `DRIVING` and `CHARGING`."""
    odometer_km: Array
    longitude_deg: Array
    latitude_deg: Array
    power_w: Array
    """float64: what the motor takes; 0 while it does not drive."""


class ReportColumns:
    """The reports of one series."""

    def __init__(self, profile: SeriesProfile) -> None:
        made = [_frame(profile, state) for state in range(_STATES)]
        (group,) = decode_batch(made).groups
        self._skeleton = group.skeleton
        self._of_state = {}
        """Column of the wire -> its number in each state, or for a list that is always empty its type."""
        for slot in Walk(made[0]).slots:
            size = slot.row.size_bytes
            numbers = [int.from_bytes(frame[slot.at : slot.at + size], "big") for frame in made]
            self._of_state[slot.name] = np.array([] if slot.count == 0 else numbers, f"u{size}")
        self._has_positioning = profile.has_positioning
        self._limits = profile.alarm_limits

    def frames(self, rows: VehicleRows) -> list[bytes]:
        """The frame 0x02 of each row."""
        count = len(rows.vin)
        values = {
            name: column[rows.state] if len(column) else np.zeros((count, 0), column.dtype)
            for name, column in self._of_state.items()
        }
        cells, probes = rows.cells, rows.probes
        charge = np.rint(np.clip(np.multiply(rows.soc, 100.0, dtype=np.float64), 0, 100))
        _put_extremes(values, cells, probes)
        volts = _put_alarms_and_voltage(values, cells, probes, charge, rows.current_a, self._limits)
        current = np.rint(np.multiply(rows.current_a, 10.0, dtype=np.float64))
        amperes = np.where(np.abs(current) <= _CURRENT_STEPS_MAX, current + _CURRENT_OFFSET, _ABNORMAL).astype(
            np.uint16
        )
        values["vehicle_data.total_current_a"] = values["cell_voltages.1.current_a"] = amperes
        values["vehicle_data.soc_pct"] = charge.astype(np.uint8)
        odometer = rounded(rows.odometer_km, 1)
        odometer[odometer > _ODOMETER_STEPS_MAX] = 0xFFFFFFFE
        values["vehicle_data.odometer_km"] = odometer
        values["drive_motors.1.controller_current_a"] = _motor_current(rows.power_w, volts)
        values["cell_voltages.1.cell_voltages_v"] = np.where(cells == MISSING, _INVALID, cells).astype(np.uint16)
        values["probe_temperatures.1.temperatures_c"] = degrees_in_report(probes)
        if self._has_positioning:
            longitude, latitude = rounded(rows.longitude_deg, 6), rounded(rows.latitude_deg, 6)
            # Table 15: bit 1 south, bit 2 west.
            values["position.status"] = ((latitude < 0) << 1 | (longitude < 0) << 2).astype(np.uint8)
            values["position.longitude_deg"], values["position.latitude_deg"] = np.abs(longitude), np.abs(latitude)
        group = FrameGroup(
            edition=Edition.GBT2016,
            skeleton=self._skeleton,
            index=np.arange(count),
            command=np.full(count, int(Command.REALTIME_REPORT), np.uint8),
            vin=rows.vin,
            time=rows.time_s.view("datetime64[s]"),
            values=values,
        )
        return encode_batch(FrameColumns(groups=(group,)), raw=True)


def _put_extremes(values: dict[str, Array], cells: Array, probes: Array) -> None:
    """The first of the highest and lowest of the bus; all invalid if none is known."""
    every = np.arange(len(cells))
    for kind, what, of_bus, in_report, invalid in (
        ("cell_voltage", "cell", cells, None, _INVALID),
        ("temperature", "probe", probes, degrees_in_report, _INVALID & 0xFF),
    ):
        unit = "v" if what == "cell" else "c"
        highest = of_bus.argmax(axis=1)
        lowest = of_bus.argmin(axis=1)
        is_missing = of_bus[every, lowest] == MISSING
        if is_missing.any():  # Which is below everything, so only the lowest must be looked for again.
            lowest[is_missing] = np.where(of_bus == MISSING, np.int16(-MISSING - 1), of_bus)[is_missing].argmin(axis=1)
        is_unknown = of_bus[every, highest] == MISSING
        for end, place in (("max", highest), ("min", lowest)):
            value = of_bus[every, place]
            value = value.astype(np.uint16) if in_report is None else in_report(value)
            number = (place + 1).astype(np.uint8)
            if is_unknown.any():
                value[is_unknown], number[is_unknown] = invalid, _INVALID & 0xFF
                subsystem = values[f"extremes.{kind}_{end}_subsystem"].copy()
                subsystem[is_unknown] = _INVALID & 0xFF
                values[f"extremes.{kind}_{end}_subsystem"] = subsystem
            values[f"extremes.{kind}_{end}_{what}"] = number
            values[f"extremes.{kind}_{end}_{unit}"] = value


def _put_alarms_and_voltage(
    values: dict[str, Array], cells: Array, probes: Array, charge: Array, current_a: Array, limits: AlarmLimits
) -> Array:
    """Alarms by what is known, and the sum of the cells where all are; return it in volts, NaN where it is not known.

    Alarms are those of the moment (`bmsota.master`, `judged`): a master's watch lets them come and go a few seconds later.
    """
    highest, lowest = cells.max(axis=1).astype(np.int64), cells.min(axis=1).astype(np.int64)
    hottest, coldest = probes.max(axis=1).astype(np.int64), probes.min(axis=1).astype(np.int64)
    total = cells.sum(axis=1, dtype=np.int64)
    volts: Array = total / 1_000.0
    is_part = lowest == MISSING
    if is_part.any():
        lowest[is_part] = np.where(cells == MISSING, np.int16(-MISSING - 1), cells)[is_part].min(axis=1)
        volts[is_part] = np.nan
    if (coldest == MISSING).any():
        coldest = np.where(probes == MISSING, np.int16(-MISSING - 1), probes).min(axis=1).astype(np.int64)
    count = cells.shape[1]
    over = np.where(highest == MISSING, 0, _above(highest, limits.cell_voltage_max_v, 1000))
    has_cells, has_probes, is_whole = highest != MISSING, hottest != MISSING, ~is_part
    alarms = (
        (AlarmFlag.TEMPERATURE_DIFFERENCE, has_probes * _above(hottest - coldest, limits.temperature_spread_c, 10)),
        (AlarmFlag.BATTERY_TEMPERATURE_HIGH, has_probes * _above(hottest, limits.temperature_max_c, 10)),
        (AlarmFlag.STORAGE_OVER_VOLTAGE, is_whole * _above(total, limits.mean_voltage_max_v, 1000, count)),
        (AlarmFlag.STORAGE_UNDER_VOLTAGE, is_whole * _below(total, limits.mean_voltage_min_v, 1000, count)),
        (AlarmFlag.SOC_LOW, _below(charge, limits.soc_min_pct, 1)),
        (AlarmFlag.CELL_OVER_VOLTAGE, over),
        (AlarmFlag.CELL_UNDER_VOLTAGE, has_cells * _below(lowest, limits.cell_voltage_min_v, 1000)),
        (AlarmFlag.CELL_CONSISTENCY_POOR, has_cells * _above(highest - lowest, limits.cell_spread_v, 1000)),
        (AlarmFlag.STORAGE_OVER_CHARGE, np.where((over >= 2) & (current_a < 0), over, 0)),
    )
    flags, level_max = np.zeros(len(cells), np.uint32), np.zeros(len(cells), np.uint8)
    for flag, level in alarms:
        flags |= np.where(level > 0, np.uint32(flag), np.uint32(0))
        np.maximum(level_max, level, out=level_max, casting="unsafe")
    # The drive's own: motors and insulation do not change with the cells.
    values["alarms.level_max"], values["alarms.flags"] = level_max, flags
    steps = rounded(np.where(is_part, 0.0, volts), 1)
    steps[steps > _VOLTAGE_STEPS_MAX] = _ABNORMAL
    steps[is_part] = _INVALID
    for name in ("vehicle_data.total_voltage_v", "drive_motors.1.controller_voltage_v", "cell_voltages.1.voltage_v"):
        values[name] = steps
    return volts


def _above(values: Array, limits: tuple[float | None, ...], steps: int, count: int = 1) -> Array:
    """The level of values, in *steps* of their unit and summed over *count*, that must not be above *limits*."""
    level: Array = np.zeros(len(values), np.int64)
    for number, limit in enumerate(limits, start=1):
        if limit is not None:
            level[values > round(limit * steps) * count] = number
    return level


def _below(values: Array, limits: tuple[float | None, ...], steps: int, count: int = 1) -> Array:
    return _above(-values, tuple(None if limit is None else -limit for limit in limits), steps, count)


def _motor_current(power_w: Array, volts: Array) -> Array:
    """Nothing flows without power, whatever is known of the voltage."""
    is_known = volts > 0  # Written so that NaN is not.
    amperes = np.divide(power_w, volts, out=np.zeros(len(volts)), where=is_known)
    steps = rounded(amperes, 1)
    found: Array = np.where(np.abs(steps) <= _CURRENT_STEPS_MAX, steps + _CURRENT_OFFSET, _ABNORMAL)
    found[~is_known & (power_w != 0)] = _INVALID
    return found


def _frame(profile: SeriesProfile, state: int) -> bytes:
    vehicle = VirtualVehicle(
        longitude_deg=0.0,
        latitude_deg=0.0,
        heading_rad=0.0,
        odometer_km=0.0,
        ignition_on=bool(state & IGNITION_ON),
        is_driving=bool(state & DRIVING),
        is_charging=bool(state & CHARGING),
    )
    readings = master_readings(vehicle, current_a=0.0, soc_pct=0.0, has_positioning=profile.has_positioning)
    pack = PackValues([3.5] * profile.cell_count, [20.0] * profile.probe_count)
    report = Report(beijing_time(_ANY_TIME_NS), report_bodies(pack, readings, alarms={}))
    return encode(Frame(command=Command.REALTIME_REPORT, vin="0" * 17, message=report))
