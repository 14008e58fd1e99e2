"""A telemetry store in dictionaries, for tests of what derives from it: everything `TelemetryStore` says about frames, states and
events, and nothing about disks."""

from __future__ import annotations

from contextlib import contextmanager

from bmsota_cloud.domain.paging import Page
from bmsota_cloud.domain.telemetry import Compacted, FleetMark, HotPartition, Mark, Unread

DAY_S = 86_400


class MemoryTelemetry:
    def __init__(self):
        self.stored = []
        self.known = set()
        self.rows = {}
        self.kept_events = {}
        self.derived_to = 0
        self.in_blocks = set()

    def append(self, frames):
        new = []
        for frame in frames:
            new.append(_key(frame) not in self.known)
            if new[-1]:
                self.known.add(_key(frame))
                self.stored.append(frame)
        return new

    def mark(self):
        return Mark((("all", len(self.stored), 0),))

    def save_derived(self, states, events, mark):
        self.rows.update((row.vin, row) for row in states)
        for event in events:
            self.kept_events.setdefault(_event_key(event), event)
        if mark.places:
            self.derived_to = mark.places[0][1]

    def unread(self, limit):
        frames = tuple(self.stored[self.derived_to : self.derived_to + limit])
        return Unread(frames, Mark((("all", self.derived_to + len(frames), 0),)))

    @contextmanager
    def taking_over(self, limit):
        yield Unread((), Mark())

    def read(self, vin, since_s, until_s):
        found = [frame for frame in self.stored if frame.vin == vin and since_s <= frame.reported_at_s < until_s]
        yield from sorted(found, key=lambda frame: frame.reported_at_s)

    def hot(self):
        days = {}
        for position, frame in enumerate(self.stored, 1):
            if frame.is_time_plausible and _key(frame) not in self.in_blocks:
                until_s = frame.reported_at_s - frame.reported_at_s % DAY_S + DAY_S
                days.setdefault(until_s, []).append((position, frame.arrived_at_ns))
        return [
            HotPartition(str(until_s), until_s, rows[0][1], rows[-1][0] <= self.derived_to)
            for until_s, rows in sorted(days.items())
        ]

    def compact(self, name, hours):
        until_s = int(name)
        left = {}
        for frame in self.stored:
            if until_s - DAY_S <= frame.reported_at_s < until_s and _key(frame) not in self.in_blocks:
                left.setdefault((frame.vin, frame.reported_at_s // 3600), []).append(_key(frame))
        for hour in sorted(left)[:hours]:
            self.in_blocks.update(left[hour])
        return Compacted(min(hours, len(left)), is_done=not left)

    def newest(self, vins):
        return {vin: self.rows[vin] for vin in vins if vin in self.rows}

    def fleet_marks(self, vins=None):
        return {
            vin: FleetMark(*(getattr(row, name) for name in FleetMark._fields))
            for vin, row in self.rows.items()
            if vins is None or vin in vins
        }

    def alarm_levels(self):
        return {vin: row.alarm_level for vin, row in self.rows.items() if row.alarm_level}

    def newest_values(self, name):
        return {vin: getattr(row, name) for vin, row in self.rows.items()}

    def events(self, vin, request, *, since=None, until=None, kinds=()):
        found = [
            event
            for event in self.kept_events.values()
            if event.vin == vin
            and (since is None or event.at_s >= since.timestamp())
            and (until is None or event.at_s < until.timestamp())
            and (not kinds or event.kind in kinds)
        ]
        found.sort(key=lambda event: (-event.at_s, -event.sequence, event.kind, event.subject, event.value))
        items = tuple(found[request.offset : request.offset + request.size])
        return Page(items=items, total=len(found), number=request.number, size=request.size)

    def replace_events(self, vin, since_s, until_s, events):
        for key, event in list(self.kept_events.items()):
            if event.vin == vin and since_s <= event.at_s < until_s:
                del self.kept_events[key]
        for event in events:
            self.kept_events.setdefault(_event_key(event), event)


def _key(frame):
    return frame.vin, frame.reported_at_s, frame.clear[24:-1]


def _event_key(event):
    return event.vin, event.at_s, event.sequence, event.kind, event.subject, event.value
