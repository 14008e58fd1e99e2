"""What a vehicle has sent, frame by frame; its newest state; what happened to it.

The record is the frame, byte for byte. State and events are derived from frames and can be derived again.

Values are kept as plain numbers, words and lists under the names of the cloud link's message fields, body by body, so
that a page or an export needs no codec. A value the unit marked as abnormal or invalid is the word "abnormal" or
"invalid": never zero, never left out.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, NamedTuple, TypeAlias

from bmsota_cloud.domain.paging import Page

if TYPE_CHECKING:
    from datetime import datetime

__all__ = [
    "TIME_AHEAD_MAX_S",
    "TIME_MIN_S",
    "Compacted",
    "EventKind",
    "FleetMark",
    "FramePage",
    "HotPartition",
    "JsonValue",
    "Mark",
    "StateRow",
    "StoredFrame",
    "Unread",
    "VehicleEvent",
    "VehicleSnapshot",
    "is_plausible_time",
]

JsonValue: TypeAlias = "int | float | bool | str | list[JsonValue] | dict[str, JsonValue] | None"

TIME_AHEAD_MAX_S = 300
"""How far a vehicle's clock may be ahead of the platform's. A report from further ahead would stay the newest for as long."""
TIME_MIN_S = 1_262_304_000
"""2010-01-01T00:00:00Z. A clock that has lost its time says 2000; no vehicle of GB/T 32960.3 is older than this."""


def is_plausible_time(reported_at_s: int, arrived_at_ns: int) -> bool:
    """Whether a report's own time can be right: not before 2010, at most 5 minutes ahead of its arrival."""
    return TIME_MIN_S <= reported_at_s <= arrived_at_ns // 1_000_000_000 + TIME_AHEAD_MAX_S


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleSnapshot:
    """One row a vehicle; lists, maps and the real-time page read only this."""

    vin: str
    is_online: bool = False
    last_seen_at: datetime | None = None
    """When any frame last came, by the platform's clock. Staleness is judged by this, not by changes of a value."""
    reported_at: datetime | None = None
    """The collection time inside the newest report, by the vehicle's clock."""
    heard_at: datetime | None = None
    """How new the newest report is: when a real-time one arrived; the own time of a backfilled one."""
    is_time_plausible: bool = True
    """False: the vehicle's clock is wrong, and `reported_at` means nothing."""
    login_serial: int = 0
    soc_pct: float | None = None
    """None while unknown, also when the unit itself reported it as abnormal or invalid."""
    speed_kmh: float | None = None
    alarm_level: int | None = None
    latitude_deg: float | None = None
    """> 0: north, as the unit tells it (WGS-84); of the last valid position. None before the first."""
    longitude_deg: float | None = None
    """> 0: east."""
    is_position_valid: bool | None = None
    """False: the unit has lost the fix since."""
    values: dict[str, JsonValue] = field(default_factory=dict)
    """All newest values by body: vehicle, drive_motors, position, extremes, alarms, cells, temperatures, ..."""


# Made for every report, and a frozen dataclass takes a microsecond to set its fields: not frozen, and not changed by anybody.
@dataclass(slots=True, kw_only=True, unsafe_hash=True)
class StoredFrame:
    """One report as the platform keeps it: 0x02 or 0x03, byte for byte (GB/T 32960.3, clause 7.2).

    Unique by vehicle, report time and digest of the data unit in the clear, so a repetition, also as a backfill, is one.
    """

    vin: str
    frame: bytes
    """As received, enciphered or not."""
    clear: bytes
    """The whole frame in the clear, with the right check byte; the same object as `frame` if that was in the clear."""
    reported_at_s: int
    """The report's own time, Unix seconds."""
    arrived_at_ns: int
    """The platform's clock when it came, Unix nanoseconds."""
    is_backfill: bool
    fault: str = ""
    """Why its tail could not be decoded; empty if it could."""
    is_time_plausible: bool = True
    """False: more than 5 minutes ahead of its arrival, or before 2010. Such a frame orders nothing."""
    is_check_right: bool = field(default=False, compare=False)
    """The check byte of `clear` is known to be right: the session has looked. Else who stores it looks."""


# Made for nearly every report, and written as it is: a tuple.
class StateRow(NamedTuple):
    """The derived newest state of one vehicle; presence is not in it."""

    vin: str
    last_seen_at_ns: int
    """When a frame last came, Unix nanoseconds by the platform's clock."""
    reported_at_s: int | None = None
    """The report time of the newest report, Unix seconds."""
    heard_at_ns: int | None = None
    """How new the newest report is, Unix nanoseconds: when a real-time one arrived; the own time of a backfilled one."""
    is_time_plausible: bool = True
    """Whether `reported_at_s` may be believed."""
    soc_pct: float | None = None
    speed_kmh: float | None = None
    alarm_level: int | None = None
    frames: bytes = b""
    """The clear frames that make up the newest state, one behind the other, oldest first; normally one."""
    memory: bytes = b""
    """What deriving has to remember of this vehicle beside its frames (`services.deriving`): opaque, seldom above 40 bytes, at most
    some kB."""
    latitude_deg: float | None = None
    """Of the last position, as in `VehicleSnapshot`."""
    longitude_deg: float | None = None
    is_position_valid: bool | None = None


# Of thousands at once: a tuple.
class FleetMark(NamedTuple):
    """What an overview shows of a vehicle's newest state."""

    last_seen_at_ns: int
    soc_pct: float | None
    alarm_level: int | None
    latitude_deg: float | None
    longitude_deg: float | None
    is_position_valid: bool | None


@dataclass(frozen=True, slots=True, kw_only=True)
class FramePage(Page[StoredFrame]):
    """A page of a vehicle's frames."""

    unreadable: int = 0
    """As many frames are in blocks that could not be read on the way to this page: counted in `total`, and not listed."""


class EventKind(StrEnum):
    """What has changed."""

    VEHICLE_STATE = "vehicle state"
    """`value`: the code of table 9 (1 started, 2 off, 3 other)."""
    CHARGING_STATE = "charging state"
    """`value`: the code of table 9 (1 charging and parked, 2 charging and driving, 3 not charging, 4 complete)."""
    ALARM_LEVEL = "alarm level"
    """`value`: the highest level, 0 for no alarm."""
    ALARM = "alarm"
    """`subject`: the flag by its name; `value`: 1 onset, 0 clear; `detail`: at the onset JSON with the report's level and values."""
    FAULT_CODE = "fault code"
    """`subject`: list and code, "ress 0x00000012"; `value`: 1 onset, 0 clear; `detail`: as of an alarm."""
    FAULT_CHANGE = "fault change"
    """What body 0xB2 says itself. `subject`: node and code, "2 0x00000012"; `value`: 1 onset, 0 clear; `detail`: JSON with time, level and detail, and
    at the onset the report's values."""
    CHARGING_RUN = "charging run"
    """A run that has ended (decision 87), at the report that showed it. `value`: when it began, Unix seconds; `detail`: JSON."""
    DRIVING_RUN = "driving run"
    """Likewise."""
    POSITION = "position"
    """A point of the thinned track (decision 88). `detail`: JSON, longitude and latitude in 0.000001 deg, and the speed in km/h."""
    CONFIGURATION = "configuration"
    """Calibration values that a report has (body 0xB1), if they are not those of the one before. `subject`: the revision;
    `value`: a digest; `detail`: JSON, by node, parameter and value in hexadecimal digits."""
    CHECKPOINT = "checkpoint"
    """What was known when a day of reports began, for deriving it again: opaque, in `detail`, up to some kB. Not for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class VehicleEvent:
    """Something that began, ended or changed, by the vehicle's own clock. All fields but `detail` together are the key."""

    vin: str
    at_s: int
    """The own time of the report that showed it, Unix seconds."""
    sequence: int = 0
    """Counts the events of a vehicle's second from 1, in their order; 0: one that an older version has kept, or a checkpoint."""
    kind: EventKind
    subject: str = ""
    value: str = ""
    detail: str = ""
    """More about it; may be long."""


@dataclass(frozen=True, slots=True)
class Mark:
    """How far frames have been appended, for `TelemetryStore.save_derived`. Only a store looks inside."""

    places: tuple[tuple[str, int, int], ...] = ()
    """Partition, last position in it, newest arrival in it (Unix nanoseconds)."""
    writer: int | None = None
    """Whose frames they are; None: those of the store's own process."""


@dataclass(frozen=True, slots=True)
class Unread:
    """Frames that were stored and not derived, in the order of their arrival, and the mark behind them."""

    frames: tuple[StoredFrame, ...]
    mark: Mark


@dataclass(frozen=True, slots=True)
class HotPartition:
    """A partition that has frames which are not in blocks yet."""

    name: str
    until_s: int
    """The end of its report times, Unix seconds."""
    oldest_arrival_ns: int
    """Of those frames, or of one that came about then; Unix nanoseconds."""
    is_derived: bool
    """Whether all of them have been derived."""


@dataclass(frozen=True, slots=True)
class Compacted:
    """What one slice of compacting has done."""

    hours: int
    """Hours of a vehicle that were put into blocks."""
    is_done: bool
    """The partition has no more frames that can go into blocks."""
