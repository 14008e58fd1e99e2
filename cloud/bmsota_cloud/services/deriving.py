"""From stored frames to the newest state and the events of each vehicle (design decision 13). Pure: no store, no clock.

*Newest state*: of reports in real time the last to arrive; a backfilled one never replaces one heard later than its own
time; a report whose time is not plausible is shown with a mark when it is the last to arrive, and its time orders nothing.
The state is a short list of frames: a new frame pushes out the older ones that say nothing that is not said again since
(`report_facts.Coverage`). So a pack whose cells come in two frames, or whose subsystems report apart, is whole.

*Events*: changes from report to report in the order of the reports' own times; what a unit marks as abnormal or invalid is
no change. A report older than the newest one derived (a backfill, a clock that was put back) can't be put in between: its
vehicle is returned in `Derived.again`, and its day is derived again from its frames (`EventReplay`). The result is that of
all reports in order, because each day begins with a CHECKPOINT event that has what was known then.

What deriving remembers of a vehicle is in its `StateRow` (`frames` and `memory`): a process that starts goes on as if it had
never stopped.
"""

from __future__ import annotations

import hashlib
import json
import struct
from collections import OrderedDict
from dataclasses import dataclass, field
from struct import Struct
from typing import TYPE_CHECKING

from bmsota.gbt32960 import AlarmFlag, FaultState, Sentinel
from bmsota_cloud.domain.telemetry import EventKind, StateRow, VehicleEvent
from bmsota_cloud.services.report_facts import FAULT_LISTS, Facts, ReportReader, left_of
from bmsota_cloud.services.run_tracking import RUN_GAP_S, RunKind, RunTracker, TrackTracker, VehicleRun, run_kind
from bmsota_cloud.services.values import frames_in

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence

    from bmsota.gbt32960 import BmsConfiguration, FaultChange, Layouts
    from bmsota_cloud.domain.telemetry import StoredFrame
    from bmsota_cloud.services.report_facts import Coverage

__all__ = ["DAY_S", "Derived", "Deriver", "EventReplay", "UnderivedFrame", "day_of", "run_under_way"]

DAY_S = 86_400
_SECOND_NS = 1_000_000_000

# Frames that may make up one state: a subsystem of 2,000 cells comes in ten, and bodies that are sent once stay.
_PIECES_MAX = 24
# One frame can have 64 KiB; a vehicle that needs more than two of these for its newest state loses the oldest.
_STATE_SIZE_BYTES_MAX = 128 * 1024
# What the cache of vehicles may hold: some 100,000 vehicles of one ordinary frame, fewer of bigger ones.
_CACHE_SIZE_BYTES_MAX = 64 * 1024 * 1024
_VEHICLE_SIZE_BYTES = 400


def day_of(at_s: int) -> int:
    """When the day (UTC) of *at_s* begins."""
    return at_s - at_s % DAY_S


@dataclass(frozen=True, slots=True)
class UnderivedFrame:
    """A frame that could not be looked at: it is kept, and counts for nothing."""

    frame: StoredFrame
    error: Exception


@dataclass(frozen=True, slots=True)
class Derived:
    """What a batch of frames makes."""

    states: Sequence[StateRow]
    """Of every vehicle that the batch has changed."""
    events: Sequence[VehicleEvent]
    again: Mapping[str, tuple[int, int]]
    """By VIN: the first and the last report time for which events have to be derived again (`EventReplay`)."""
    failures: Sequence[UnderivedFrame] = ()


# -- what is known between two reports ---------------------------------------------------------------------------------

_LAYOUT = 3
"""Of `StateRow.memory` and of a checkpoint. Layout 1 had no count of a second's events, layout 2 no runs and tracks. Any other is of a
newer version: it is forgotten, and counted by the caller."""
_LAYOUT_WITHOUT_RUNS = 2
_HEAD = Struct(">BqqqhhhIHI")
_HEAD_OF_1 = Struct(">BqqqhhhIH")
_CODE = Struct(">BI")
_DIGEST_SIZE_BYTES = 8
_HAS_RUN, _HAS_TRACK, _HAS_CONFIGURATION = 1, 2, 4
"""Which parts are behind the codes, in this order."""
_TAIL_FLAGS = tuple(bytes([flags]) for flags in range(8))
_RUN_KINDS = {RunKind.CHARGING: EventKind.CHARGING_RUN, RunKind.DRIVING: EventKind.DRIVING_RUN}
_TIME = slice(24, 30)
"""Of a frame: year, month, day, hour, minute, second (GB/T 32960.3 table 4)."""


class _Known:
    """What the reports up to one have said about the things whose changes are events."""

    __slots__ = (
        "alarm_flags",
        "alarm_level",
        "charging_state",
        "configuration",
        "count",
        "counted_s",
        "faults",
        "run",
        "run_kind",
        "track",
        "vehicle_state",
    )

    def __init__(self) -> None:
        self.vehicle_state = -1
        self.charging_state = -1
        self.alarm_level = 0
        self.alarm_flags = 0
        self.faults: tuple[tuple[int, ...], ...] = ((),) * len(FAULT_LISTS)
        self.counted_s = -1
        self.count = 0
        """How many events the second `counted_s` has."""
        self.run_kind = 0
        self.run = RunTracker()
        self.track = TrackTracker()
        self.configuration = b""
        """The digest of the calibration values that came last."""

    def to_bytes(self, newest_s: int = -1, again: tuple[int, int] | None = None) -> bytes:
        codes = [(place, code) for place, each in enumerate(self.faults) for code in each] if any(self.faults) else []
        since_s, until_s = again or (-1, -1)
        head = _HEAD.pack(
            _LAYOUT,
            newest_s,
            since_s,
            until_s,
            self.vehicle_state,
            self.charging_state,
            self.alarm_level,
            self.alarm_flags,
            len(codes),
            self.count if self.counted_s == newest_s else 0,
        )
        if codes:
            head += b"".join(_CODE.pack(*each) for each in codes)
        run, track, configuration = self.run.to_bytes(), self.track.to_bytes(), self.configuration
        flags = _TAIL_FLAGS[bool(run) + 2 * bool(track) + 4 * bool(configuration)]
        return head + flags + run + track + configuration

    @classmethod
    def from_bytes(cls, data: bytes) -> tuple[_Known, int, tuple[int, int] | None] | None:
        """With the newest report time and what to derive again; None for bytes of another version."""
        known = cls()
        head = _HEAD_OF_1 if data[:1] == b"\x01" else _HEAD
        try:
            layout, newest_s, since_s, until_s, state, charging, level, flags, codes, *count = head.unpack_from(data)
            if not 0 < layout <= _LAYOUT:
                return None
            faults: list[list[int]] = [[] for _ in FAULT_LISTS]
            for place in range(codes):
                which, code = _CODE.unpack_from(data, head.size + place * _CODE.size)
                faults[which].append(code)
            if layout > _LAYOUT_WITHOUT_RUNS:
                known._take_tail(data[head.size + codes * _CODE.size :])
        except (struct.error, IndexError):
            return None
        known.vehicle_state, known.charging_state = state, charging
        known.alarm_level, known.alarm_flags = level, flags
        known.faults = tuple(map(tuple, faults))
        known.counted_s, known.count = newest_s, sum(count)
        known.run_kind = run_kind(state, charging)
        return known, newest_s, None if since_s < 0 else (since_s, until_s)

    def _take_tail(self, tail: bytes) -> None:
        flags, at = tail[0], 1
        if flags & _HAS_RUN:
            self.run = RunTracker.from_bytes(tail[at : at + RunTracker.SIZE_BYTES])
            at += RunTracker.SIZE_BYTES
        if flags & _HAS_TRACK:
            self.track = TrackTracker.from_bytes(tail[at : at + TrackTracker.SIZE_BYTES])
            at += TrackTracker.SIZE_BYTES
        if flags & _HAS_CONFIGURATION:
            self.configuration = tail[at : at + _DIGEST_SIZE_BYTES]

    def take(self, vin: str, at_s: int, facts: Facts, events: list[VehicleEvent], run_gap_s: int) -> None:
        """Go on to the next report; what it changes is added to *events*."""
        before = len(events)
        state, charging = facts.vehicle_state, facts.charging_state
        if state is not None and state != self.vehicle_state:
            self.vehicle_state = state
            self.run_kind = run_kind(state, self.charging_state)
            events.append(VehicleEvent(vin=vin, at_s=at_s, kind=EventKind.VEHICLE_STATE, value=str(state)))
        if charging is not None and charging != self.charging_state:
            self.charging_state = charging
            self.run_kind = run_kind(self.vehicle_state, charging)
            events.append(VehicleEvent(vin=vin, at_s=at_s, kind=EventKind.CHARGING_STATE, value=str(charging)))
        if facts.has_alarms:
            level, flags, faults = facts.alarm_level, facts.alarm_flags, facts.faults
            if level is not None and level != self.alarm_level:
                self.alarm_level = level
                events.append(VehicleEvent(vin=vin, at_s=at_s, kind=EventKind.ALARM_LEVEL, value=str(level)))
            if flags != self.alarm_flags:
                self._take_flags(vin, at_s, facts, events)
            if faults is not None and faults != self.faults:
                self._take_faults(vin, at_s, facts, events)
        if facts.changes:
            events += [_told(vin, at_s, change, facts) for change in facts.changes]
        if facts.configuration:
            self._take_configuration(vin, at_s, facts.configuration, events)
        measures = facts.measures
        if self.run_kind or self.run.is_in_run:
            if not facts.has_vehicle:
                self.run.see(at_s, measures, run_gap_s)
            elif ended := self.run.take(at_s, self.run_kind, facts.soc_pct, measures, run_gap_s):
                events.append(_run_event(vin, at_s, ended))
        position = facts.position
        if position is not None and position[2] and (kept := self.track.take(at_s, position[0], position[1])):
            detail = json.dumps([*kept, facts.speed_kmh], separators=(",", ":"))
            events.append(VehicleEvent(vin=vin, at_s=at_s, kind=EventKind.POSITION, detail=detail))
        if len(events) > before:
            if at_s != self.counted_s:
                self.counted_s, self.count = at_s, 0
            for place in range(before, len(events)):
                self.count += 1
                events[place] = _numbered(events[place], self.count)

    def _take_flags(self, vin: str, at_s: int, facts: Facts, events: list[VehicleEvent]) -> None:
        flags = facts.alarm_flags
        changed = flags ^ self.alarm_flags
        self.alarm_flags = flags
        onset = _onset(facts)
        for bit in range(changed.bit_length()):
            if changed >> bit & 1:
                value = str(flags >> bit & 1)
                events.append(
                    VehicleEvent(
                        vin=vin,
                        at_s=at_s,
                        kind=EventKind.ALARM,
                        subject=_flag_name(bit),
                        value=value,
                        detail=onset if value == "1" else "",
                    )
                )

    def _take_faults(self, vin: str, at_s: int, facts: Facts, events: list[VehicleEvent]) -> None:
        faults = facts.faults
        assert faults is not None
        newest = list(self.faults)
        onset = _onset(facts)
        for place, (name, codes) in enumerate(zip(FAULT_LISTS, faults, strict=True)):
            if codes is None or codes == newest[place]:
                continue
            before, now = set(newest[place]), set(codes)
            newest[place] = codes
            events += [
                VehicleEvent(
                    vin=vin,
                    at_s=at_s,
                    kind=EventKind.FAULT_CODE,
                    subject=f"{name} {code:#010x}",
                    value=str(int(code in now)),
                    detail=onset if code in now else "",
                )
                for code in sorted(before ^ now)
            ]
        self.faults = tuple(newest)

    def _take_configuration(
        self, vin: str, at_s: int, bodies: Sequence[BmsConfiguration], events: list[VehicleEvent]
    ) -> None:
        items = [[item.position, item.parameter, item.value.hex()] for body in bodies for item in body.items]
        revision = bodies[-1].revision
        detail = json.dumps(items, separators=(",", ":"))
        digest = hashlib.blake2b(f"{revision} {detail}".encode(), digest_size=_DIGEST_SIZE_BYTES).digest()
        if digest != self.configuration:
            self.configuration = digest
            events.append(
                VehicleEvent(
                    vin=vin,
                    at_s=at_s,
                    kind=EventKind.CONFIGURATION,
                    subject=str(revision),
                    value=digest.hex(),
                    detail=detail,
                )
            )


def _onset(facts: Facts) -> str:
    """The level and the values of a report in which a fault begins, as JSON."""
    level = {} if facts.alarm_level is None else {"level": facts.alarm_level}
    return json.dumps({**level, "values": _values_at(facts)})


def _values_at(facts: Facts) -> dict[str, int | float]:
    measures = facts.measures
    values = {
        "soc_pct": facts.soc_pct,
        "voltage_v": None if measures.voltage_dv is None else measures.voltage_dv / 10,
        "current_a": None if measures.current_da is None else measures.current_da / 10,
        "speed_kmh": facts.speed_kmh,
        "cell_voltage_mv_max": measures.cell_voltage_mv_max,
        "cell_voltage_mv_min": measures.cell_voltage_mv_min,
        "temperature_c_max": measures.temperature_c_max,
        "temperature_c_min": measures.temperature_c_min,
    }
    return {name: value for name, value in values.items() if value is not None}


def _run_event(vin: str, at_s: int, run: VehicleRun) -> VehicleEvent:
    return VehicleEvent(vin=vin, at_s=at_s, kind=_RUN_KINDS[run.kind], value=str(run.started_s), detail=run.to_json())


def run_under_way(row: StateRow) -> VehicleRun | None:
    """The vehicle's run that had not ended with its newest report; whether more than the gap has passed since, the caller knows."""
    restored = _Known.from_bytes(row.memory)
    return None if restored is None else restored[0].run.run()


def _numbered(event: VehicleEvent, sequence: int) -> VehicleEvent:
    # `dataclasses.replace` takes five times as long, and a vehicle's first report brings several events.
    return VehicleEvent(
        vin=event.vin,
        at_s=event.at_s,
        sequence=sequence,
        kind=event.kind,
        subject=event.subject,
        value=event.value,
        detail=event.detail,
    )


def _flag_name(bit: int) -> str:
    try:
        return AlarmFlag(1 << bit).name or f"bit {bit}"
    except ValueError:
        return f"bit {bit}"


def _told(vin: str, at_s: int, change: FaultChange, facts: Facts) -> VehicleEvent:
    detail: dict[str, object] = {"time": change.time.isoformat()}
    if not isinstance(change.level, Sentinel):
        detail["level"] = int(change.level)
    if change.detail:
        detail["detail"] = change.detail
    if change.state == FaultState.ONSET and (values := _values_at(facts)):
        detail["values"] = values
    return VehicleEvent(
        vin=vin,
        at_s=at_s,
        kind=EventKind.FAULT_CHANGE,
        subject=f"{change.position} {change.code:#010x}",
        value=str(int(change.state)) if change.state in set(FaultState) else f"state {change.state}",
        detail=json.dumps(detail, ensure_ascii=False),
    )


def _checkpoint(vin: str, at_s: int, known: _Known) -> VehicleEvent:
    return VehicleEvent(vin=vin, at_s=at_s, kind=EventKind.CHECKPOINT, detail=known.to_bytes().hex())


# -- one vehicle -------------------------------------------------------------------------------------------------------


@dataclass(slots=True, eq=False)
class _Vehicle:
    """What the cache holds of a vehicle."""

    vin: str
    pieces: list[tuple[Coverage, bytes]] = field(default_factory=list)
    """The frames of the newest state, oldest first."""
    size_bytes: int = _VEHICLE_SIZE_BYTES
    last_seen_at_ns: int = 0
    reported_at_s: int | None = None
    heard_at_ns: int | None = None
    is_time_plausible: bool = True
    soc_pct: float | None = None
    speed_kmh: float | None = None
    alarm_level: int | None = None
    position: tuple[float | None, float | None, bool | None] = (None, None, None)
    """Latitude, longitude, whether it was valid when it was last told."""
    known: _Known = field(default_factory=_Known)
    newest_s: int = -1
    """Report time of the newest report that `known` has."""
    again: tuple[int, int] | None = None
    """The first and the last report time for which events have to be derived again."""
    waiting: list[tuple[int, Facts]] = field(default_factory=list)
    """Of the batch under way."""

    def row(self) -> StateRow:
        pieces = self.pieces
        # By place: by name it takes twice as long.
        return StateRow(
            self.vin,
            self.last_seen_at_ns,
            self.reported_at_s,
            self.heard_at_ns,
            self.is_time_plausible,
            self.soc_pct,
            self.speed_kmh,
            self.alarm_level,
            pieces[0][1] if len(pieces) == 1 else b"".join([frame for _, frame in pieces]),
            self.known.to_bytes(self.newest_s, self.again),
            *self.position,
        )

    def show(self, frame: StoredFrame, facts: Facts, *, is_late: bool) -> None:
        """Take a frame into the newest state if it belongs there; with *is_late* behind what has arrived after it."""
        if frame.is_backfill:
            own_ns = frame.reported_at_s * _SECOND_NS
            if not frame.is_time_plausible or (self.heard_at_ns is not None and own_ns < self.heard_at_ns):
                return
            self.heard_at_ns = own_ns
        elif is_late and self.heard_at_ns is not None and frame.arrived_at_ns < self.heard_at_ns:
            if frame.is_time_plausible:
                own_time = frame.clear[_TIME]
                place = sum(clear[_TIME] <= own_time for _, clear in self.pieces[:-1])
                self._put(facts.coverage, frame.clear, place)
            return
        else:
            self.heard_at_ns = frame.arrived_at_ns
        self.reported_at_s = frame.reported_at_s
        self.is_time_plausible = frame.is_time_plausible
        if facts.has_vehicle:
            self.soc_pct, self.speed_kmh = facts.soc_pct, facts.speed_kmh
        if facts.has_alarms:
            self.alarm_level = facts.alarm_level
        if facts.position is not None:
            # Where it was when the fix was lost is worth more than what a unit without a fix says.
            is_lost = not facts.position[2] and self.position[0] is not None
            self.position = (*self.position[:2], False) if is_lost else facts.position
        pieces = self.pieces
        coverage, clear = facts[0], frame.clear
        if len(pieces) == 1 and pieces[0][0] is coverage:
            self.size_bytes += len(clear) - len(pieces[0][1])
            pieces[0] = (coverage, clear)
        else:
            self._put(coverage, clear, len(pieces))

    def _put(self, coverage: Coverage, clear: bytes, place: int) -> None:
        """Put a frame in front of the *place*-th, and leave away what is said again behind it."""
        older: list[tuple[Coverage, bytes]] = [*self.pieces[:place], (coverage, clear), *self.pieces[place:]]
        newest = older.pop()
        newer = [newest[0]]
        kept = [newest]
        size = len(newest[1])
        for piece in reversed(older):
            if not left_of(piece[0], newer):
                continue
            size += len(piece[1])
            if len(kept) >= _PIECES_MAX or size > _STATE_SIZE_BYTES_MAX:
                break
            newer.append(piece[0])
            kept.append(piece)
        self.pieces = kept[::-1]
        self.size_bytes = _VEHICLE_SIZE_BYTES + sum(len(frame) for _, frame in kept)

    def settle(self, events: list[VehicleEvent], run_gap_s: int) -> None:
        """Turn what the batch brought into events, in the order of the reports' own times."""
        waiting = self.waiting
        if len(waiting) > 1:
            waiting.sort(key=_time_of)
        for at_s, facts in waiting:
            if at_s < self.newest_s:
                since_s, until_s = self.again or (at_s, at_s)
                self.again = (min(since_s, at_s), max(until_s, at_s))
                continue
            if self.newest_s < 0 or at_s // DAY_S != self.newest_s // DAY_S:
                events.append(_checkpoint(self.vin, at_s, self.known))
            self.newest_s = at_s
            self.known.take(self.vin, at_s, facts, events, run_gap_s)
        waiting.clear()


def _makes_events(frame: StoredFrame, keep_s: int) -> bool:
    """Whether a report counts for events. An implausible time orders nothing; of a day past retention the other reports are gone."""
    return frame.is_time_plausible and frame.arrived_at_ns // _SECOND_NS - frame.reported_at_s <= keep_s


def _time_of(item: tuple[int, Facts]) -> int:
    return item[0]


# -- all vehicles ------------------------------------------------------------------------------------------------------


class Deriver:
    """Derives in batches; remembers the vehicles that came last. Called by one thread at a time.

    Args:
        load: gives the rows of vehicles that the deriver does not remember; called once a batch.
        keep_s: how long frames are kept. A report that was collected earlier than that before it arrived makes no events: the
            others of its day are gone.
        layouts: bodies of the vehicles' makers.
        run_gap_s: a run ends when so long no report of its kind has come.
    """

    def __init__(
        self,
        load: Callable[[Sequence[str]], Mapping[str, StateRow]],
        *,
        keep_s: int,
        layouts: Layouts | None = None,
        run_gap_s: int = RUN_GAP_S,
    ) -> None:
        self._load = load
        self._keep_s = keep_s
        self._run_gap_s = run_gap_s
        self._reader = ReportReader(layouts)
        self._vehicles: OrderedDict[str, _Vehicle] = OrderedDict()
        self._size_bytes = 0
        self.forgotten_versions = 0
        """How many rows had a memory of another version, and so begin anew. The caller may set it back."""

    def take(
        self, frames: Sequence[StoredFrame], *, seen: Mapping[str, int] | None = None, is_late: bool = False
    ) -> Derived:
        """Derive from *frames*, in the order of their arrival, each once.

        *seen*: by VIN, when a vehicle was last heard of without a report (nanoseconds); it may also go back. *is_late*: another
        process may have derived for these vehicles from what arrived after them.
        """
        seen = {} if seen is None else seen
        touched = self._touch([*(frame.vin for frame in frames), *seen])
        failures: list[UnderivedFrame] = []
        events: list[VehicleEvent] = []
        again: dict[str, tuple[int, int]] = {}
        keep_s = self._keep_s
        for frame, facts in zip(frames, self._reader.facts([frame.clear for frame in frames]), strict=True):
            vehicle = touched[frame.vin]
            if not is_late or frame.arrived_at_ns > vehicle.last_seen_at_ns:
                vehicle.last_seen_at_ns = frame.arrived_at_ns
            if isinstance(facts, Exception):
                failures.append(UnderivedFrame(frame, facts))
                continue
            vehicle.show(frame, facts, is_late=is_late)
            if _makes_events(frame, keep_s):
                vehicle.waiting.append((frame.reported_at_s, facts))
        for vin, at_ns in seen.items():
            touched[vin].last_seen_at_ns = at_ns
        states = []
        for vin, vehicle in touched.items():
            if vehicle.waiting:
                vehicle.settle(events, self._run_gap_s)
            if vehicle.again is not None:
                again[vin] = vehicle.again
            states.append(vehicle.row())
        self._trim(touched)
        return Derived(states, events, again, failures)

    def replayed(self, replay: EventReplay) -> StateRow:
        """Take over what a replay came to; the vehicle's row, to be saved after the events."""
        vehicle = self._touch([replay.vin])[replay.vin]
        vehicle.again = None
        if replay.known is not None:
            vehicle.known = replay.known
            vehicle.newest_s = max(vehicle.newest_s, replay.newest_s)
        row = vehicle.row()
        self._trim({replay.vin: vehicle})
        return row

    def replay(self, vin: str, again: tuple[int, int], checkpoints: Iterable[VehicleEvent]) -> EventReplay:
        """Begin to derive a vehicle's events again, as `Derived.again` asks for.

        *checkpoints*: the vehicle's CHECKPOINT events from that day on, in any order.
        """
        return EventReplay(vin, again, checkpoints, self._reader, self._keep_s, self._run_gap_s)

    def forget(self) -> None:
        """Forget what is cached: the store has not taken it, and the next batch has to begin from what the store has."""
        self._vehicles.clear()
        self._size_bytes = 0

    def forget_vehicles(self, vins: Iterable[str]) -> None:
        """Forget what is cached of these: another process may have written their rows meanwhile."""
        for vin in vins:
            vehicle = self._vehicles.pop(vin, None)
            if vehicle is not None:
                self._size_bytes -= vehicle.size_bytes

    # -- the cache -----------------------------------------------------------------------------------------------------

    def _touch(self, vins: Sequence[str]) -> dict[str, _Vehicle]:
        """The vehicles of *vins*, each once, moved to the young end of the cache."""
        cache = self._vehicles
        touched: dict[str, _Vehicle] = {}
        missing: list[str] = []
        for vin in vins:
            if vin in touched:
                continue
            vehicle = cache.get(vin)
            if vehicle is None:
                missing.append(vin)
                vehicle = cache[vin] = _Vehicle(vin)
            else:
                cache.move_to_end(vin)
                self._size_bytes -= vehicle.size_bytes
            touched[vin] = vehicle
        if missing:
            try:
                self._restore([(touched[vin], row) for vin, row in self._load(missing).items()])
            except BaseException:
                # Vehicles that were not loaded must not be taken for new ones.
                self.forget()
                raise
        return touched

    def _restore(self, rows: Sequence[tuple[_Vehicle, StateRow]]) -> None:
        """From what the store has. The frames of all of them are looked at together, which costs a fifth."""
        pieces = [(vehicle, clear) for vehicle, row in rows for clear in frames_in(row.frames)]
        for (vehicle, clear), facts in zip(pieces, self._reader.facts([clear for _, clear in pieces]), strict=True):
            if isinstance(facts, Facts):
                vehicle.pieces.append((facts.coverage, clear))
                vehicle.size_bytes += len(clear)
        for vehicle, row in rows:
            self._restore_row(vehicle, row)

    def _restore_row(self, vehicle: _Vehicle, row: StateRow) -> None:
        vehicle.last_seen_at_ns = row.last_seen_at_ns
        vehicle.reported_at_s, vehicle.heard_at_ns = row.reported_at_s, row.heard_at_ns
        vehicle.is_time_plausible = row.is_time_plausible
        vehicle.soc_pct, vehicle.speed_kmh, vehicle.alarm_level = row.soc_pct, row.speed_kmh, row.alarm_level
        vehicle.position = (row.latitude_deg, row.longitude_deg, row.is_position_valid)
        if row.memory:
            restored = _Known.from_bytes(row.memory)
            if restored is None:
                self.forgotten_versions += 1
            else:
                vehicle.known, vehicle.newest_s, vehicle.again = restored

    def _trim(self, touched: Mapping[str, _Vehicle]) -> None:
        self._size_bytes += sum(vehicle.size_bytes for vehicle in touched.values())
        while self._size_bytes > _CACHE_SIZE_BYTES_MAX and self._vehicles:
            _, vehicle = self._vehicles.popitem(last=False)
            self._size_bytes -= vehicle.size_bytes


class EventReplay:
    """A vehicle's events derived again, day by day, until a day begins with what was known before.

    Feed with all its frames from `since_s` on, oldest first (of one second as they arrived), until `take` returns
    False or there are none left; then put `events` in the place of those from `since_s` to `until_s`.
    """

    def __init__(
        self,
        vin: str,
        again: tuple[int, int],
        checkpoints: Iterable[VehicleEvent],
        reader: ReportReader,
        keep_s: int,
        run_gap_s: int,
    ) -> None:
        self.vin = vin
        self._run_gap_s = run_gap_s
        self.since_s = day_of(again[0])
        self.events: list[VehicleEvent] = []
        self.newest_s = -1
        self._reader = reader
        self._keep_s = keep_s
        self._last_day_s = day_of(again[1])
        self._known = _Known()
        self._before: dict[int, str] = {}
        for event in sorted(checkpoints, key=lambda event: event.at_s):
            if event.at_s >= self.since_s:
                self._before.setdefault(day_of(event.at_s), event.detail)
        if self._before:
            # What was known at the beginning of the first day that has reports is what was known at the end of the days before.
            self._known = _known_of(self._before[min(self._before)]) or _Known()
        self._is_converged = False
        self._until_s = self.since_s

    @property
    def until_s(self) -> int:
        """The end, not included."""
        return self._until_s

    @property
    def known(self) -> _Known | None:
        """What is known behind the last report; None if a later day began as before, so that nothing changes from there on."""
        return None if self._is_converged else self._known

    def take(self, frames: Sequence[StoredFrame]) -> bool:
        """Go on with these frames. False: the rest is as it was."""
        frames = [frame for frame in frames if _makes_events(frame, self._keep_s)]
        for frame, facts in zip(frames, self._reader.facts([frame.clear for frame in frames]), strict=True):
            if isinstance(facts, Exception):
                continue  # It was told when it came.
            at_s = frame.reported_at_s
            day = day_of(at_s)
            if self.newest_s < 0 or day != day_of(self.newest_s):
                if day > self._last_day_s and self._is_as_before(day):
                    self._is_converged = True
                    self._until_s = day
                    return False
                self.events.append(_checkpoint(self.vin, at_s, self._known))
            self.newest_s = at_s
            self._known.take(self.vin, at_s, facts, self.events, self._run_gap_s)
            self._until_s = at_s + 1
        return True

    def _is_as_before(self, day: int) -> bool:
        before = _known_of(self._before.get(day, ""))
        return before is not None and before.to_bytes() == self._known.to_bytes()


def _known_of(detail: str) -> _Known | None:
    """What a checkpoint says; None for one of a newer version."""
    try:
        restored = _Known.from_bytes(bytes.fromhex(detail))
    except ValueError:
        restored = None
    return None if restored is None else restored[0]
