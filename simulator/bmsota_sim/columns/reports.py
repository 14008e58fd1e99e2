"""Reports of many vehicles of one series at once, byte for byte those of their masters (GB/T 32960.3, both editions).

Strategy. What a report says of gear, switches and motors depends on five bits: ignition, driving, charging, ready, charged. These fields are taken
from the reports of these states that `master_readings` and `report_bodies` make, once for a series: whole frames, of which each report begins
as a copy. Only what changes from report to report is computed here and written over it: cells, probes and what follows from them, current,
charge, distance and place, all of it integers of the wire.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from bmsota.gbt32960 import (
    AlarmFlag,
    Command,
    Edition,
    Frame,
    MotorState,
    Report,
    VehicleState,
    beijing_time,
    decode_batch,
    encode,
)
from bmsota.gbt32960._walk import TIME, VIN, VIN_SIZE, Walk
from bmsota.master import PackValues, alarms_of_moment, report_bodies
from bmsota_sim.columns.quantise import (
    MISSING,
    current_on_bus,
    degrees_in_report,
    percent_in_report,
    rounded,
    soc_on_bus,
)
from bmsota_sim.devices.readings import PEDAL_W, RPM_PER_KMH, TORQUE_MAX_NM, master_readings
from bmsota_sim.devices.vehicle import Motion, VirtualVehicle
from bmsota_sim.habits import NO_HABITS, ReportHabits

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from bmsota.master import AlarmLimits, MasterReadings
    from bmsota_sim.profiles import SeriesProfile

    Array = NDArray[Any]

__all__ = [
    "CHARGED",
    "CHARGING",
    "DRIVING",
    "IGNITION_ON",
    "NOT_READY",
    "ReportColumns",
    "VehicleRows",
    "pack_values_of",
    "report_frame",
    "vehicle_state",
]

IGNITION_ON: Final = 1
DRIVING: Final = 2
"""It moves."""
CHARGING: Final = 4
NOT_READY: Final = 8
"""Its BMS is awake, and nobody has switched it on."""
CHARGED: Final = 16
"""Its charge is over."""
_STATES: Final = 32

_WORD: Final = 8
_CHINA_S: Final = 8 * 3600
_ANY_TIME_NS: Final = 2**60
_ABNORMAL: Final = 0xFFFE
_INVALID: Final = 0xFFFF
_CURRENT_OFFSET: Final = 10_000
_CURRENT_STEPS_MAX: Final = 10_000
# Tables 9 and 11 of 2016.
_SPEED_KMH_MAX: Final = 220.0
_LEVEL_MAX: Final = 3
# Below these, in amperes and steps of 0.1 degrees, nothing is wrong with a motor or on fire.
_MOTOR_A: Final = 100.0
_HOT: Final = 550
_RESERVED_IN_2016: Final = 1 << 19
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
    """float32; > 0 discharges. NaN: its sensor has not said anything lately."""
    soc: Array
    """float32: of the emptiest cell, 1 is full. NaN as of the current."""
    state: Array
    """uint8, as `vehicle_state` says."""
    odometer_km: Array
    longitude_deg: Array
    latitude_deg: Array
    power_w: Array
    """float64: what the motor takes; 0 while it does not drive."""
    speed_kmh: Array | None = None
    """float64: how fast it drives by a cycle; NaN: it stands, or drives at the one speed of all. None: nobody drives by a cycle."""
    alarms: Mapping[int, Mapping[AlarmFlag, int]] | None = None
    """The rows with alarms, and the levels of these; None: the alarms that each row's values make at this moment."""


def vehicle_state(vehicle: VirtualVehicle) -> int:
    """The state of *vehicle* in `VehicleRows`."""
    return (
        IGNITION_ON * vehicle.ignition_on
        | DRIVING * (vehicle.speed_kmh > 0)
        | CHARGING * vehicle.is_charging
        | NOT_READY * (vehicle.ignition_on and not vehicle.is_ready)
        | CHARGED * (vehicle.is_full and not vehicle.is_charging)
    )


def _vehicle(state: int, motion: Motion | None = None) -> VirtualVehicle:
    """A vehicle in that state, somewhere."""
    return VirtualVehicle(
        longitude_deg=0.0,
        latitude_deg=0.0,
        heading_rad=0.0,
        odometer_km=0.0,
        ignition_on=bool(state & IGNITION_ON),
        is_driving=bool(state & DRIVING),
        is_charging=bool(state & CHARGING),
        motion=motion,
        has_life=bool(state & NOT_READY),
        is_full=bool(state & CHARGED),
    )


def pack_values_of(cells: Array, probes: Array) -> PackValues:
    """One row of `VehicleRows.cells` and `VehicleRows.probes` as a master has it from its slaves."""
    return PackValues(
        [None if value == MISSING else value * 0.001 for value in cells.tolist()],
        [None if value == MISSING else value * 0.1 for value in probes.tolist()],
    )


@dataclass(frozen=True, slots=True)
class _Layout:
    """The states whose reports have the same bodies in the same order, and these reports."""

    size: int
    """Of a frame, in bytes."""
    frames: Array
    """uint8 (states, bytes): the report of each state, in whole words, so that the check byte is that of words. Behind the frames, and where
    their check bytes come, it is 0."""
    places: dict[str, tuple[slice, str]]
    """Column of the wire -> the bytes it has in a frame, and its type there."""
    of_state: dict[str, Array]
    """Column of the wire, unless it is a list -> its number in each state."""

    @classmethod
    def of(cls, made: dict[int, bytes]) -> _Layout:
        """Of the states and their reports in *made*."""
        first = next(iter(made.values()))
        size = len(first)
        frames = np.zeros((_STATES, -(-size // _WORD) * _WORD), np.uint8)
        for state, frame in made.items():
            frames[state, : size - 1] = list(frame[:-1])
        places, of_state = {}, {}
        for slot in Walk(first).slots:
            bytes_each = slot.row.size_bytes
            if slot.count != 0:
                place = slice(slot.at, slot.at + (slot.count or 1) * bytes_each)
                places[slot.name] = place, f">u{bytes_each}"
            if slot.count is None:
                column = np.zeros(_STATES, f"u{bytes_each}")
                for state, frame in made.items():
                    column[state] = int.from_bytes(frame[slot.at : slot.at + bytes_each], "big")
                of_state[slot.name] = column
        return cls(size, frames, places, of_state)

    def filled(self, rows: VehicleRows, values: _Values) -> list[bytes]:
        """The report of each row's state, with the *values* written over it."""
        count = len(rows.vin)
        frames = self.frames[rows.state]
        frames[:, VIN] = np.asarray(rows.vin, "S17").view(np.uint8).reshape(count, VIN_SIZE)
        seconds, which = np.unique(rows.time_s, return_inverse=True)
        frames[:, TIME] = np.array([_time_bytes(second) for second in seconds.tolist()], np.uint8)[which]
        for name, column in values.items():
            place = self.places.get(name)
            if place is not None:  # 2025 has fewer fields, and a vehicle that is off may have no motors.
                frames[:, place[0]] = column.astype(place[1]).view(np.uint8).reshape(count, -1)
        # The two start bytes are equal, and cancel each other.
        check = np.bitwise_xor.reduce(frames.view(np.uint64), axis=1)
        for bits in (32, 16, 8):
            check ^= check >> np.uint64(bits)
        frames[:, self.size - 1] = check.astype(np.uint8)
        made: list[bytes] = np.ascontiguousarray(frames[:, : self.size]).view(f"V{self.size}")[:, 0].tolist()
        return made


class ReportColumns:
    """The reports of one series in one edition."""

    def __init__(self, profile: SeriesProfile, edition: Edition = Edition.GBT2016) -> None:
        self._profile = profile
        self._edition = edition
        made = [_frame(profile, state, edition) for state in range(_STATES)]
        self._layouts: list[_Layout] = []
        self._layout_of = np.zeros(_STATES, np.intp)
        """State -> which layout."""
        for number, group in enumerate(decode_batch(made).groups):
            self._layouts.append(_Layout.of({state: made[state] for state in group.index.tolist()}))
            self._layout_of[group.index] = number
        started = self._layouts[self._layout_of[IGNITION_ON]]
        self._zero_a = int(started.of_state["vehicle_data.total_current_a"][IGNITION_ON])
        """No current, on the wire."""
        self._is_off = np.array(
            [
                self._layouts[number].of_state["vehicle_data.vehicle_state"][state] == VehicleState.OFF
                for state, number in enumerate(self._layout_of)
            ]
        )
        self._has_positioning = profile.has_positioning
        self._limits = profile.alarm_limits

    def frames(self, rows: VehicleRows) -> list[bytes]:
        """The frame 0x02 of each row."""
        layout_of = self._layout_of[rows.state]
        made = [b""] * len(rows.vin)
        for number, layout in enumerate(self._layouts):
            places = np.flatnonzero(layout_of == number)
            if len(places) == len(made):
                return self._frames_of(layout, rows)
            if len(places):
                for place, frame in zip(places.tolist(), self._frames_of(layout, _taken(rows, places)), strict=True):
                    made[place] = frame
        return made

    def _frames_of(self, layout: _Layout, rows: VehicleRows) -> list[bytes]:
        habits = self._profile.habits
        values = _Values(layout.of_state, rows.state)
        cells, probes = rows.cells, rows.probes
        charge = percent_in_report(soc_on_bus(rows.soc))
        if self._edition is Edition.GBT2016:  # 2025 has no body for them.
            _put_extremes(values, cells, probes)
        volts = _put_voltage(values, cells)
        if rows.alarms is None:
            _put_alarms(values, cells, probes, charge, rows.current_a, self._limits)
        else:
            _put_known_alarms(values, rows.alarms)
        current = current_on_bus(rows.current_a)
        amperes = np.where(np.abs(current) <= _CURRENT_STEPS_MAX, current + self._zero_a, _ABNORMAL).astype(np.uint16)
        if habits.parked_current_a is not None:
            amperes = np.where(self._is_off[rows.state], values["vehicle_data.total_current_a"], amperes)
        values["vehicle_data.total_current_a"] = values["cell_voltages.1.current_a"] = amperes
        values["vehicle_data.soc_pct"] = charge
        odometer = rounded(rows.odometer_km, 1)
        odometer[odometer > _ODOMETER_STEPS_MAX] = 0xFFFFFFFE
        values["vehicle_data.odometer_km"] = odometer
        values["drive_motors.1.controller_current_a"] = _motor_current(rows.power_w, volts)
        volts_told, degrees_told = (
            np.where(cells == MISSING, _INVALID, cells).astype(np.uint16),
            degrees_in_report(probes),
        )
        volts_told[:, [number - 1 for number in habits.unwired_cells]] = _ABNORMAL
        degrees_told[:, [number - 1 for number in habits.unwired_probes]] = _INVALID & 0xFF
        values["cell_voltages.1.cell_voltages_v"] = volts_told
        values["probe_temperatures.1.temperatures_c"] = degrees_told
        if rows.speed_kmh is not None:
            _put_motion(values, layout.of_state, rows.speed_kmh, rows.power_w)
        if self._has_positioning:
            longitude, latitude = rounded(rows.longitude_deg, 6), rounded(rows.latitude_deg, 6)
            # Table 15: bit 1 south, bit 2 west.
            values["position.status"] = ((latitude < 0) << 1 | (longitude < 0) << 2).astype(np.uint8)
            values["position.longitude_deg"], values["position.latitude_deg"] = np.abs(longitude), np.abs(latitude)
        frames = layout.filled(rows, values)
        if self._edition is Edition.GBT2025:
            # It tells the level of each alarm, in a list: such reports are made one by one.
            if rows.alarms is None:
                # And it has alarms that 2016 does not know: of the motors' current and of a thermal event.
                may_be_new = (np.abs(rows.current_a) > _MOTOR_A) | (probes.max(axis=1) > _HOT)
                with_alarms = np.flatnonzero((values["alarms.flags"] != 0) | may_be_new).tolist()
            else:
                with_alarms = [row for row, levels in rows.alarms.items() if levels]
            for row in with_alarms:
                frames[row] = self._frame_of(rows, row)
        return frames

    def _frame_of(self, rows: VehicleRows, row: int) -> bytes:
        """One frame, as a master makes it."""
        speed_kmh = math.nan if rows.speed_kmh is None else float(rows.speed_kmh[row])
        motion = None if math.isnan(speed_kmh) else Motion(speed_kmh, float(rows.power_w[row]), 0.0)
        vehicle = _vehicle(int(rows.state[row]), motion)
        vehicle.longitude_deg, vehicle.latitude_deg = float(rows.longitude_deg[row]), float(rows.latitude_deg[row])
        vehicle.odometer_km = float(rows.odometer_km[row])
        pack = pack_values_of(rows.cells[row], rows.probes[row])
        return _encoded(
            self._profile,
            self._edition,
            vehicle,
            pack,
            vin=str(rows.vin[row]),
            time_ns=int(rows.time_s[row]) * 1_000_000_000,
            current_a=float(current_on_bus(rows.current_a[row : row + 1])[0]) * 0.1,
            soc_pct=float(soc_on_bus(rows.soc[row : row + 1])[0]) * 0.1,
            alarms=None if rows.alarms is None else rows.alarms.get(row, {}),
        )


def _taken(rows: VehicleRows, places: Array) -> VehicleRows:
    """Some of the *rows*, in their order."""
    columns = {
        each.name: column[places]
        for each in fields(rows)
        if each.name != "alarms" and (column := getattr(rows, each.name)) is not None
    }
    alarms = rows.alarms
    if alarms is not None:
        alarms = {row: alarms[place] for row, place in enumerate(places.tolist()) if place in alarms}
    return VehicleRows(**columns, alarms=alarms)


class _Values(dict[str, Any]):
    """The columns that were computed, by name; what is asked for before is that of the states."""

    def __init__(self, of_state: dict[str, Array], state: Array) -> None:
        super().__init__()
        self._of_state, self._state = of_state, state

    def __missing__(self, name: str) -> Array:
        column: Array = self._of_state[name][self._state]
        return column

    def has_place(self, name: str) -> bool:
        """Whether the edition has such a field."""
        return name in self._of_state


@lru_cache(maxsize=128)
def _time_bytes(second: int) -> tuple[int, ...]:
    """Second since the Unix epoch -> the time of the wire (table 5)."""
    time = datetime.fromtimestamp(second + _CHINA_S, UTC)
    return time.year - 2000, time.month, time.day, time.hour, time.minute, time.second


def _put_extremes(values: _Values, cells: Array, probes: Array) -> None:
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


def _put_voltage(values: _Values, cells: Array) -> Array:
    """The sum of the cells where all are known; return it in volts, NaN where it is not."""
    volts: Array = cells.sum(axis=1, dtype=np.int64) / 1_000.0
    is_part = cells.min(axis=1) == MISSING
    steps = rounded(np.where(is_part, 0.0, volts), 1)
    steps[steps > _VOLTAGE_STEPS_MAX] = _ABNORMAL
    steps[is_part] = _INVALID
    volts[is_part] = np.nan
    for name in ("vehicle_data.total_voltage_v", "drive_motors.1.controller_voltage_v", "cell_voltages.1.voltage_v"):
        values[name] = steps
    return volts


def _put_known_alarms(values: _Values, alarms: Mapping[int, Mapping[AlarmFlag, int]]) -> None:
    """Of a watch; the templates have none."""
    if not alarms:
        return
    flags, level_max = values["alarms.flags"].copy(), values["alarms.level_max"].copy()
    for row, levels in alarms.items():
        known = {flag: min(level, _LEVEL_MAX) for flag, level in levels.items() if flag < _RESERVED_IN_2016}
        flags[row], level_max[row] = sum(int(flag) for flag in known), max(known.values(), default=0)
    values["alarms.level_max"], values["alarms.flags"] = level_max, flags


def _put_alarms(
    values: _Values, cells: Array, probes: Array, charge: Array, current_a: Array, limits: AlarmLimits
) -> None:
    """Alarms of the moment, by what is known (`bmsota.master`, `alarms_of_moment`): a master's watch lets them come and go a few seconds later."""
    highest, lowest = cells.max(axis=1).astype(np.int64), cells.min(axis=1).astype(np.int64)
    hottest, coldest = probes.max(axis=1).astype(np.int64), probes.min(axis=1).astype(np.int64)
    total = cells.sum(axis=1, dtype=np.int64)
    is_part = lowest == MISSING
    if is_part.any():
        lowest[is_part] = np.where(cells == MISSING, np.int16(-MISSING - 1), cells)[is_part].min(axis=1)
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
        (AlarmFlag.SOC_LOW, np.where(charge > 100, 0, _below(charge.astype(np.int64), limits.soc_min_pct, 1))),
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


def _put_motion(values: _Values, of_state: dict[str, Array], speed_kmh: Array, power_w: Array) -> None:
    """What `master_readings` says of a vehicle that drives by a cycle. Offsets differ by edition: one that stands has them."""
    rows = np.flatnonzero(speed_kmh > 0)  # Written so that NaN is not.
    if not len(rows):
        return
    speed, power = speed_kmh[rows], power_w[rows]
    torque_nm = rounded(power / (speed * RPM_PER_KMH * math.tau / 60), 1)
    torque = np.clip(torque_nm, -round(TORQUE_MAX_NM * 10), round(TORQUE_MAX_NM * 10))
    steps = rounded(speed, 1)
    steps[speed > _SPEED_KMH_MAX] = _ABNORMAL
    changed = {
        "vehicle_data.speed_kmh": steps,
        "vehicle_data.accelerator_pct": np.clip(np.rint(power / PEDAL_W), 0, 100),
        "vehicle_data.brake_pct": np.clip(np.rint(-power / PEDAL_W), 0, 100),
        "drive_motors.1.state": np.where(power < 0, int(MotorState.GENERATING), int(MotorState.CONSUMING)),
        "drive_motors.1.speed_rpm": np.rint(speed * RPM_PER_KMH) + of_state["drive_motors.1.speed_rpm"][IGNITION_ON],
        "drive_motors.1.torque_nm": torque + of_state["drive_motors.1.torque_nm"][IGNITION_ON],
    }
    for name, column in changed.items():
        if values.has_place(name):  # 2025 has no pedals.
            whole = values[name].copy()
            whole[rows] = column
            values[name] = whole


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


def _frame(profile: SeriesProfile, state: int, edition: Edition) -> bytes:
    pack = PackValues([3.5] * profile.cell_count, [20.0] * profile.probe_count)
    return _encoded(
        profile,
        edition,
        _vehicle(state),
        pack,
        vin="0" * 17,
        time_ns=_ANY_TIME_NS,
        current_a=0.0,
        soc_pct=0.0,
        alarms={},
    )


def _encoded(
    profile: SeriesProfile,
    edition: Edition,
    vehicle: VirtualVehicle,
    pack: PackValues,
    *,
    vin: str,
    time_ns: int,
    current_a: float,
    soc_pct: float,
    alarms: Mapping[AlarmFlag, int] | None,
) -> bytes:
    """The frame 0x02 that a master makes."""
    readings = master_readings(vehicle, current_a=current_a, soc_pct=soc_pct, has_positioning=profile.has_positioning)
    if alarms is None:
        alarms = alarms_of_moment(pack, readings, profile.alarm_limits)
    return report_frame(edition, vin, time_ns, pack, readings, alarms, profile.habits)


def report_frame(
    edition: Edition,
    vin: str,
    time_ns: int,
    pack: PackValues,
    readings: MasterReadings,
    alarms: Mapping[AlarmFlag, int],
    habits: ReportHabits = NO_HABITS,
) -> bytes:
    """One frame 0x02, as a master with these *habits* makes it, that knows this and has these alarms."""
    bodies = habits.shaped(report_bodies(pack, readings, alarms=alarms, edition=edition))
    report = Report(beijing_time(time_ns), bodies)
    return encode(Frame(command=Command.REALTIME_REPORT, vin=vin, message=report, edition=edition))
