"""What the entries of a timeline on clock, position, pack and upgrade do to a unit."""

from __future__ import annotations

from math import cos, pi, radians, sin
from typing import TYPE_CHECKING

from bmsota_sim.run.base import NS_PER_S
from bmsota_sim.run.verbs import (
    CellFailure,
    ClockJump,
    ClockSkew,
    CorruptByteEntry,
    DownloadCutEntry,
    PositionFrozen,
    PositionJump,
    SelfTestFailsEntry,
    SensorBroken,
    SlavePowerCutEntry,
    ThermalEvent,
)

if TYPE_CHECKING:
    from random import Random

    from bmsota_sim.devices.unit import FullUnit
    from bmsota_sim.run.link import RunUplink
    from bmsota_sim.run.verbs import Verb

__all__ = ["begin_entry", "end_entry", "missing_effect"]

KM_PER_DEGREE = 111.32
# Where a degree of longitude would be too short; no vehicle drives there.
LATITUDE_MAX = 85.0


def begin_entry(
    entry: Verb, full: FullUnit, link: RunUplink, *, version: str, random: Random, now_ns: int, is_on: bool
) -> bool:
    """Begin *entry* on a unit, if it is one of these, and can be. *version*: what a new image is called; *random*: for this entry and unit; *is_on*: it was switched on."""
    match entry:
        case ClockJump(by_s=by_s):
            link.clock.jump(round(by_s * NS_PER_S))
        case ClockSkew(ppm=ppm):
            link.clock.skew(ppm, now_ns)
        case PositionFrozen():
            held = (full.vehicle.longitude_deg, full.vehicle.latitude_deg)
            full.shown_position = lambda _position: held
        case PositionJump(by_km=by_km):
            heading = random.uniform(0.0, 2 * pi)
            full.shown_position = lambda position: _moved(position, by_km, heading)
        case DownloadCutEntry(after_bytes=after_bytes):
            full.cut_download(after_bytes)
        case CorruptByteEntry(at_byte=at_byte):
            full.corrupt_download(at_byte)
        case SlavePowerCutEntry(slave=slave, at_progress=at_progress, off_s=off_s):
            full.cut_slave_power(slave, at_progress, round(off_s * NS_PER_S))
        case SelfTestFailsEntry(reason=reason):
            full.fail_self_test(version, reason)
        case _ if not is_on:
            return False
        case CellFailure(slave=slave, cell=cell, mode=mode):
            full.fail_cell(slave, cell, mode, is_failing=True)
        case ThermalEvent(slave=slave, rise_c_per_min=rise_c_per_min, to_c=to_c):
            full.heat_slave(slave, rise_c_per_s=rise_c_per_min / 60, to_c=to_c)
        case SensorBroken(slave=slave, probe=probe, mode=mode):
            full.break_probe(slave, probe, mode, is_broken=True)
        case _:
            return False
    return True


def end_entry(entry: Verb, full: FullUnit, link: RunUplink, *, now_ns: int) -> None:
    """End what `begin_entry` began; nothing for others."""
    match entry:
        case ClockSkew():
            link.clock.skew(0.0, now_ns)
        case PositionFrozen() | PositionJump():
            full.shown_position = lambda position: position
        case CellFailure(slave=slave, cell=cell, mode=mode):
            full.fail_cell(slave, cell, mode, is_failing=False)
        case ThermalEvent(slave=slave):
            full.heat_slave(slave, rise_c_per_s=0.0, to_c=0.0)
        case SensorBroken(slave=slave, probe=probe, mode=mode):
            full.break_probe(slave, probe, mode, is_broken=False)
        case _:
            pass


def missing_effect(entry: Verb, full: FullUnit, link: RunUplink) -> str:
    """Why *entry*, which was begun, had no effect; nothing if it had, or it is not one of these."""
    match entry:
        case ClockJump() | ClockSkew():
            return "" if link.clock.shifted else "no frame was sent with a wrong time"
        case DownloadCutEntry() | CorruptByteEntry() | SelfTestFailsEntry():
            return "" if (entry.do, 0) in full.figures.faults else "no upgrade reached it"
        case SlavePowerCutEntry(slave=slave):
            return "" if (entry.do, slave) in full.figures.faults else "no upgrade reached it"
        case _:
            return ""


def _moved(position: tuple[float, float], by_km: float, heading: float) -> tuple[float, float]:
    """Longitude and latitude of a place that far away; far enough off for a test, at a distance no sailor would steer by."""
    longitude, latitude = position
    north = by_km * cos(heading) / KM_PER_DEGREE
    moved = max(-LATITUDE_MAX, min(LATITUDE_MAX, latitude + north))
    east = by_km * sin(heading) / (KM_PER_DEGREE * cos(radians(latitude)))
    return (longitude + east + 180.0) % 360.0 - 180.0, moved
