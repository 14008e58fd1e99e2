"""Frames, states and events: one contract, on SQLite in memory, on SQLite in files and on PostgreSQL."""

import asyncio
import random
import sqlite3
import threading
from contextlib import closing
from dataclasses import replace
from datetime import UTC, datetime, timedelta

import pytest
from bmsota_cloud.domain.errors import StorageUnavailableError
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import EventKind, Mark, StateRow, StoredFrame, VehicleEvent
from bmsota_cloud.domain.vehicle_history import FAULT_KINDS, FaultFilter, FaultOrder
from bmsota_cloud.storage.migrate import migrate
from bmsota_cloud.storage.sql import SqlTelemetryStore
from bmsota_cloud.storage.sql._packing import pack, unpack
from hypothesis import given
from hypothesis import strategies as st
from postgresql import some_database
from sqlalchemy import create_engine
from stored_frames import DAY_S, LAYOUT_1, NOON_S, VIN, everything, stored, wire_frame, with_retry

from bmsota.errors import ConfigurationError


def take_over(telemetry, limit=1000):
    """All that processes which are gone have left underived."""
    found = []
    while True:
        with telemetry.taking_over(limit) as unread:
            if not unread.frames:
                return found
            found += unread.frames
            telemetry.save_derived([], [], unread.mark)


def take_unread(telemetry, limit=1000):
    found = []
    while (unread := telemetry.unread(limit)).frames:
        found += unread.frames
        telemetry.save_derived([], [], unread.mark)
    return found


def came_in_doubt():
    """A report as it came while the platform's clock was a day behind, and as it comes again."""

    def ahead(at_s):
        at_s += NOON_S + 3600
        return stored(at_s, bodies=b"doubted", arrived_s=at_s - DAY_S, is_time_plausible=False)

    def back(at_s):
        at_s += NOON_S + 3600
        return stored(at_s, bodies=b"doubted", arrived_s=at_s + 1, command=3)

    return ahead, back


def by_key(frame):
    return frame.vin, frame.reported_at_s, frame.clear


class FramesContract:
    """`telemetry` is a fixture, `again` opens the same store once more, as a restart does (not in memory)."""

    def test_every_byte_comes_back(self, telemetry):
        frames = [
            stored(0 + NOON_S),
            stored(1 + NOON_S, command=3, start=b"$$", bodies=bytes(range(256)) * 3),
            stored(2 + NOON_S, bodies=b""),
            # Enciphered: both are kept.
            stored(3 + NOON_S, frame=wire_frame(VIN, NOON_S, b"secret", encryption=3)),
            # Not as the standard has it: spaces behind a short VIN, another flag, a wrong check byte, no time at all.
            stored(4 + NOON_S, vin="SHORT"),
            replace(
                stored(5 + NOON_S, vin="SHORT"),
                clear=(other := wire_frame("SHORT", NOON_S + 5, padding=b" ")),
                frame=other,
            ),
            replace(stored(6 + NOON_S), clear=(flag := stored().clear[:3] + b"\x01" + stored().clear[4:]), frame=flag),
            replace(stored(7 + NOON_S), clear=(wrong := stored(7 + NOON_S).clear[:-1] + b"\x00"), frame=wrong),
            replace(stored(8 + NOON_S), clear=b"##\x02\xfe", frame=b"##\x02\xfe"),
            stored(9 + NOON_S, fault="body 0x42: expected 3 more bytes, got 1"),
            stored(10 + NOON_S, bodies=bytes(65000)),
        ]
        assert all(telemetry.append(frames))
        assert everything(telemetry) == [frame for frame in frames if frame.vin == VIN]
        assert everything(telemetry, "SHORT") == [frame for frame in frames if frame.vin == "SHORT"]
        assert telemetry.frames(VIN, PageRequest()).items == tuple(reversed(everything(telemetry)))
        assert telemetry.unread(100).frames == tuple(sorted(frames, key=lambda frame: frame.arrived_at_ns))

    def test_a_repetition_is_one_and_two_frames_of_one_second_are_two(self, telemetry):
        values, alarm = stored(bodies=b"values"), stored(bodies=b"alarm")
        other = stored(vin="LTESTVEHICLE00002", bodies=b"values")
        assert telemetry.append([values, alarm, values, other]) == [True, True, False, True]
        later = replace(values, arrived_at_ns=values.arrived_at_ns + 5)
        backfilled = stored(bodies=b"alarm", command=3, arrived_s=NOON_S + 60)
        assert telemetry.append([later, backfilled, stored(NOON_S + 1)]) == [False, False, True]
        assert telemetry.append([]) == []
        assert everything(telemetry) == [values, alarm, stored(NOON_S + 1)]
        assert everything(telemetry, other.vin) == [other]
        assert everything(telemetry, "NOBODY") == []

    @pytest.mark.parametrize("has_day", [True, False])
    def test_what_is_known_is_found_in_a_batch_of_any_size(self, telemetry, has_day):
        """A batch goes in by statements of many rows, and each of them may have some that are there already."""
        frames = [
            stored(NOON_S + n // 2, bodies=bytes([n]), arrived_s=NOON_S + n, is_time_plausible=has_day)
            for n in range(256)
        ]
        assert all(telemetry.append(frames[1::3]))
        expected = [n % 3 != 1 for n in range(255)]
        # The last is one that is known, and one comes twice in the batch.
        assert telemetry.append([*frames[:255], frames[0], frames[1]]) == [*expected, False, False]
        assert telemetry.append([frames[254], frames[255], frames[253]]) == [False, True, False]
        assert telemetry.append(frames[::-1]) == [False] * 256
        assert everything(telemetry) == frames
        # The mark is behind all of them, also where the last were known.
        telemetry.save_derived([], [], telemetry.mark())
        assert telemetry.unread(1000).frames == ()

    def test_history_is_by_report_time_then_arrival(self, telemetry):
        order = [stored(NOON_S + 10 * n, arrived_s=NOON_S + 1000 + n % 3, bodies=bytes([n])) for n in range(20)]
        same = stored(NOON_S + 50, bodies=b"same second", arrived_s=NOON_S + 9000)
        telemetry.append(random.Random(1).sample([*order, same], 21))
        expected = sorted([*order, same], key=lambda frame: (frame.reported_at_s, frame.arrived_at_ns))
        assert everything(telemetry) == expected
        found = [telemetry.frames(VIN, PageRequest(number, 8)) for number in (1, 2, 3, 4)]
        assert [page.total for page in found] == [21] * 4
        assert [frame for page in found for frame in page.items] == expected[::-1]

    def test_a_time_range_has_its_beginning_and_not_its_end(self, telemetry):
        telemetry.append([stored(NOON_S + n * 6 * 3600) for n in range(12)])
        since, until = NOON_S + 6 * 3600, NOON_S + 5 * 6 * 3600
        expected = [stored(NOON_S + n * 6 * 3600) for n in (1, 2, 3, 4)]
        assert list(telemetry.read(VIN, since, until)) == expected
        page = telemetry.frames(
            VIN, PageRequest(1, 3), since=datetime.fromtimestamp(since, UTC), until=datetime.fromtimestamp(until, UTC)
        )
        assert (page.items, page.total) == (tuple(expected[:0:-1]), 4)
        # Reports know whole seconds.
        late = datetime.fromtimestamp(since, UTC) + timedelta(microseconds=1)
        assert telemetry.frames(VIN, PageRequest(), since=late, until=late).total == 0

    def test_long_histories_are_read_in_pieces(self, telemetry):
        frames = [stored(NOON_S + n // 3, bodies=n.to_bytes(2, "big"), arrived_s=NOON_S + n) for n in range(2500)]
        assert all(telemetry.append(frames))
        assert everything(telemetry) == frames
        assert take_unread(telemetry, 700) == frames

    def test_an_implausible_time_orders_nothing_and_is_there(self, telemetry):
        first, last = stored(NOON_S), stored(NOON_S + 60)
        odd = stored(4_070_908_800, arrived_s=NOON_S + 30, is_time_plausible=False)
        before_2010 = stored(946_684_800, arrived_s=NOON_S + 31, is_time_plausible=False)
        assert telemetry.append([odd, first, last, before_2010, odd]) == [True, True, True, True, False]
        assert everything(telemetry) == [first, odd, before_2010, last]
        assert telemetry.frames(VIN, PageRequest()).items == (last, before_2010, odd, first)
        page = telemetry.frames(VIN, PageRequest(), since=datetime.fromtimestamp(NOON_S + 30, UTC))
        assert page.items == (last, before_2010, odd)

    def test_a_report_is_kept_once_when_its_time_becomes_plausible_or_stops_being(self, telemetry):
        """The first that came stays where it is: at its arrival, or in its day."""
        ahead, back = came_in_doubt()
        times = [0, 3 * DAY_S, -3600, DAY_S, 7200]
        first = [ahead(at_s) for at_s in times]
        assert all(telemetry.append(first))
        # A vehicle that has something else there, and one that has the same time and nothing there.
        others = [stored(NOON_S + 3600, bodies=b"new"), stored(NOON_S + 3600, vin="SHORT")]
        assert telemetry.append([*(back(at_s) for at_s in times), *others]) == [False] * 5 + [True] * 2
        known = [stored(NOON_S + at_s, bodies=b"known") for at_s in times]
        assert all(telemetry.append(known))
        again = [
            replace(frame, arrived_at_ns=frame.arrived_at_ns - 2 * DAY_S * 10**9, is_time_plausible=False)
            for frame in known
        ]
        assert telemetry.append([*again, ahead(60)]) == [False] * 5 + [True]
        assert sorted(everything(telemetry), key=by_key) == sorted([*first, others[0], *known, ahead(60)], key=by_key)
        assert everything(telemetry, "SHORT") == [others[1]]
        # Also when all of it went and some comes again.
        telemetry.save_derived([], [], telemetry.mark())
        for _ in range(2):
            telemetry.prune((NOON_S + 9 * DAY_S) * 10**9)
        assert everything(telemetry) == []
        assert telemetry.append([ahead(0)]) == [True]
        assert telemetry.append([back(0), back(60)]) == [False, True]

    def test_a_batch_over_days_and_hours_is_told_apart(self, telemetry):
        """Also when a frame with an implausible time says an hour that has a partition."""
        days = [NOON_S - DAY_S, NOON_S, NOON_S + 3600]
        first = [stored(at_s, bodies=b"first") for at_s in days]
        assert all(telemetry.append(first))
        odd = stored(NOON_S, bodies=b"odd", is_time_plausible=False, arrived_s=NOON_S - 2 * DAY_S)
        batch = [stored(days[n % 3] + n, bodies=b"second", arrived_s=NOON_S + 7200 + n) for n in range(30)]
        asked = [*batch[:15], odd, first[1], *batch[15:], batch[3]]
        assert telemetry.append(asked) == [True] * 16 + [False] + [True] * 15 + [False]
        assert everything(telemetry)[0] == odd, "it stands at its arrival"
        assert sorted(everything(telemetry), key=lambda frame: frame.clear) == sorted(
            [*first, *batch, odd], key=lambda frame: frame.clear
        )
        again = telemetry.append(asked)
        assert not any(again)

    def test_old_reports_make_no_partition_of_their_own(self, telemetry):
        """A vehicle that dates each report on another day must not make a thousand files or tables."""
        old = [stored(NOON_S - n * DAY_S, arrived_s=NOON_S, command=3) for n in range(1, 1000)]
        assert all(telemetry.append(old))
        assert everything(telemetry) == old[::-1]
        assert not any(telemetry.append(old))
        assert self.partition_count(telemetry) <= 33

    def test_what_was_not_derived_is_found_again(self, telemetry):
        early = [stored(NOON_S + n) for n in range(5)]
        telemetry.append(early)
        assert telemetry.unread(3).frames == tuple(early[:3])
        telemetry.save_derived([], [], telemetry.mark())
        assert telemetry.unread(10).frames == ()
        # Of three partitions, in the order of their arrival.
        late = [
            stored(NOON_S + DAY_S, arrived_s=NOON_S + 10),
            stored(NOON_S - DAY_S, arrived_s=NOON_S + 11, command=3),
            stored(946_684_800, arrived_s=NOON_S + 12, is_time_plausible=False),
            stored(NOON_S + 20, arrived_s=NOON_S + 13),
        ]
        telemetry.append([late[2], *late[:2], late[3]])
        assert sorted(telemetry.unread(10).frames, key=lambda frame: frame.arrived_at_ns) == late
        mark = telemetry.mark()
        # What comes between the mark and its being saved stays unread.
        telemetry.append([stored(NOON_S + 30)])
        telemetry.save_derived([], [], mark)
        assert telemetry.unread(10).frames == (stored(NOON_S + 30),)
        assert take_unread(telemetry, 1) == [stored(NOON_S + 30)]
        assert telemetry.unread(10).frames == ()

    def test_states_are_replaced_and_events_are_kept_once(self, telemetry):
        full = StateRow(
            vin=VIN,
            last_seen_at_ns=NOON_S * 10**9 + 1,
            reported_at_s=NOON_S,
            heard_at_ns=NOON_S * 10**9,
            is_time_plausible=False,
            soc_pct=55.5,
            speed_kmh=0.0,
            alarm_level=3,
            frames=stored().clear,
            memory=b"\0m",
        )
        bare = StateRow(vin="OTHER", last_seen_at_ns=5)
        onset = VehicleEvent(vin=VIN, at_s=NOON_S, kind=EventKind.ALARM, subject="cell voltage", value="1", detail="{}")
        clear = replace(onset, at_s=NOON_S + 5, value="0")
        telemetry.save_derived([bare, full, bare], [onset, onset], telemetry.mark())
        assert telemetry.newest([VIN, "OTHER", "NOBODY"]) == {VIN: full, "OTHER": bare}
        telemetry.save_derived([full._replace(soc_pct=None)], [onset, clear], telemetry.mark())
        assert telemetry.newest([VIN])[VIN] == full._replace(soc_pct=None)
        page = telemetry.events(VIN, PageRequest(1, 1))
        assert (page.items, page.total) == ((clear,), 2)
        at = datetime.fromtimestamp(NOON_S + 5, UTC)
        assert telemetry.events(VIN, PageRequest(), since=at).items == (clear,)
        assert telemetry.events(VIN, PageRequest(), until=at, kinds=["alarm", "vehicle state"]).items == (onset,)
        assert telemetry.events(VIN, PageRequest(), kinds=["vehicle state"]).items == ()
        assert telemetry.events("OTHER", PageRequest()).items == ()

    @pytest.mark.parametrize("count", [9, 99, 100, 232])
    def test_any_number_of_states_is_saved(self, telemetry, count):
        states = [StateRow(vin=f"VIN{n}", last_seen_at_ns=n, frames=bytes([n])) for n in range(count)]
        telemetry.save_derived(states[:40], [], Mark((("2026-11-22", 0, 0),)))
        telemetry.save_derived([state._replace(soc_pct=5.0) for state in states], [], Mark())
        assert telemetry.newest([state.vin for state in states]) == {
            state.vin: state._replace(soc_pct=5.0) for state in states
        }

    def test_events_of_one_second_stay_apart_and_in_order(self, telemetry):
        onset = VehicleEvent(vin=VIN, at_s=NOON_S, sequence=2, kind=EventKind.ALARM, subject="b", value="1")
        events = [onset, replace(onset, sequence=10, value="0"), replace(onset, sequence=11)]
        telemetry.save_derived([], [replace(onset, sequence=1, subject="z"), *events], telemetry.mark())
        telemetry.save_derived([], events, telemetry.mark())
        found = telemetry.events(VIN, PageRequest()).items
        assert [each.sequence for each in found] == [11, 10, 2, 1]
        assert telemetry.events(VIN, PageRequest(2, 2)).items == found[2:]

    def test_onsets_and_clears_are_paired(self, telemetry):
        """Also if told twice, cleared without an onset, or of one name in two kinds; open ones first, and sorted as asked."""

        def event(at, kind, subject, value, level=None, sequence=1):
            detail = "" if level is None else f'{{"level": {level}}}'
            return VehicleEvent(
                vin=VIN, at_s=NOON_S + at, sequence=sequence, kind=kind, subject=subject, value=value, detail=detail
            )

        alarm, code, change = FAULT_KINDS
        telemetry.save_derived(
            [],
            [
                event(0, alarm, "HOT", "0"),
                event(10, alarm, "HOT", "1", 1),
                event(15, code, "HOT", "0"),
                event(20, alarm, "HOT", "0"),
                event(20, alarm, "HOT", "1", 3, sequence=2),
                event(30, change, "2 0x1", "1", 2),
                event(35, change, "2 0x1", "1", 4),
                event(40, change, "2 0x1", "0", 0),
                event(50, code, "ress 0x1", "1"),
                event(60, alarm, "COLD", "1", 0),
                event(70, alarm, "COLD", "0"),
                replace(event(15, alarm, "HOT", "0"), vin="OTHER"),
                replace(event(12, EventKind.ALARM_LEVEL, "", "1"), detail="no JSON"),
            ],
            telemetry.mark(),
        )

        def found(number=1, size=50, **asked):
            page = telemetry.faults(VIN, PageRequest(number, size), FaultFilter(**asked))
            ends = [None if each.cleared_s is None else each.cleared_s - NOON_S for each in page.items]
            return [(each.onset.at_s - NOON_S, end) for each, end in zip(page.items, ends, strict=True)], page.total

        assert found() == ([(50, None), (20, None), (60, 70), (30, 40), (10, 20)], 5)
        assert found(2, 2) == ([(60, 70), (30, 40)], 5)
        assert found(order=FaultOrder.LEVEL) == ([(20, None), (50, None), (30, 40), (10, 20), (60, 70)], 5)
        assert found(order=FaultOrder.TYPE) == ([(20, None), (50, None), (60, 70), (10, 20), (30, 40)], 5)
        assert found(is_open=True) == ([(50, None), (20, None)], 2)
        assert found(is_open=False, level_min=1) == ([(30, 40), (10, 20)], 2)
        assert found(kinds=(change,)) == ([(30, 40)], 1)
        assert found(since_s=NOON_S + 41, until_s=NOON_S + 60) == ([(50, None), (20, None)], 2)
        assert telemetry.faults("NOBODY", PageRequest(), FaultFilter()).total == 0
        period = telemetry.faults(VIN, PageRequest(), FaultFilter(kinds=(change,))).items[0]
        assert (period.onset.subject, period.onset.detail, period.cleared_detail) == (
            "2 0x1",
            '{"level": 2}',
            '{"level": 0}',
        )

    def test_events_of_a_stretch_are_replaced(self, telemetry):
        event = VehicleEvent(vin=VIN, at_s=NOON_S, kind=EventKind.VEHICLE_STATE)
        telemetry.save_derived([], [replace(event, at_s=NOON_S + n) for n in range(4)], telemetry.mark())
        telemetry.replace_events(
            VIN, NOON_S + 1, NOON_S + 3, [replace(event, at_s=NOON_S + 2, kind=EventKind.CHECKPOINT)]
        )
        found = telemetry.events(VIN, PageRequest()).items
        assert [(each.at_s - NOON_S, each.kind) for each in found] == [
            (3, EventKind.VEHICLE_STATE),
            (2, EventKind.CHECKPOINT),
            (0, EventKind.VEHICLE_STATE),
        ]
        telemetry.replace_events(VIN, NOON_S, NOON_S + 9, [])
        assert telemetry.events(VIN, PageRequest()).items == ()

    def test_old_events_go_and_no_other(self, telemetry, monkeypatch):
        """In transactions of a few, vehicle by vehicle; those of one second together."""
        from bmsota_cloud.storage.sql import telemetry as module

        monkeypatch.setattr(module, "_EVENT_VINS", 3)
        monkeypatch.setattr(module, "_DELETE_EVENTS", 4)
        counts, real = [], module._delete_events
        vins = [f"LTESTVEHICLE{number:05}" for number in range(8)]
        events = {
            vin: [
                VehicleEvent(vin=vin, at_s=NOON_S + n // 2, sequence=n % 2 + 1, kind=EventKind.ALARM)
                for n in range(count)
            ]
            for vin, count in zip(vins, (12, 1, 0, 3, 2, 4, 12, 1), strict=True)
        }
        telemetry.save_derived([], [event for each in events.values() for event in each], telemetry.mark())
        assert telemetry.prune_events(NOON_S) == 0
        monkeypatch.setattr(module, "_delete_events", lambda *each: counts.append(real(*each)) or counts[-1])
        assert telemetry.prune_events(NOON_S + 4) == 8 + 1 + 3 + 2 + 4 + 8 + 1
        assert sum(counts) == 27
        assert max(counts) <= 5
        for vin, each in events.items():
            left = telemetry.events(vin, PageRequest()).items
            assert left == tuple(event for event in reversed(each) if event.at_s >= NOON_S + 4)
        assert telemetry.prune_events(2**40) == 8
        assert telemetry.prune_events(2**40) == 0

    def test_a_partition_goes_when_its_newest_arrival_is_too_old(self, telemetry):
        """By arrival, not by the vehicle's time: a backfill that has just come is kept whatever its time."""
        monday = [stored(NOON_S + n) for n in range(3)]
        tuesday = [stored(NOON_S + DAY_S + n) for n in range(3)]
        telemetry.append([*monday, *tuesday])
        late = stored(NOON_S + 9, command=3, arrived_s=NOON_S + 3 * DAY_S)
        odd = [stored(946_684_800, arrived_s=NOON_S + n, is_time_plausible=False, bodies=bytes([n])) for n in range(6)]
        telemetry.append([late, *odd])
        telemetry.save_derived([], [], telemetry.mark())
        cut = (NOON_S + 2 * DAY_S) * 10**9
        telemetry.prune(cut)
        assert everything(telemetry) == [*monday, late]
        # The last of Monday's frames is not in the catalog yet, and keeps Monday all the same.
        last = stored(NOON_S + 10, command=3, arrived_s=NOON_S + 5 * DAY_S)
        telemetry.append([last])
        telemetry.prune((NOON_S + 4 * DAY_S) * 10**9)
        assert everything(telemetry) == [*monday, late, last]
        telemetry.save_derived([], [], telemetry.mark())
        telemetry.prune((NOON_S + 6 * DAY_S) * 10**9)
        assert everything(telemetry) == []
        assert telemetry.unread(10).frames == ()
        # And a day that is gone can begin anew.
        assert telemetry.append([late, odd[0]]) == [True, True]
        assert sorted(take_unread(telemetry), key=lambda frame: frame.arrived_at_ns) == [odd[0], late]

    def test_a_call_that_is_made_again_after_it_failed_says_what_the_first_would_have(self, telemetry, monkeypatch):
        """It may fail behind the commit, as when the connection breaks; the frames are new all the same."""
        old = stored(NOON_S - 5)
        telemetry.append([old])
        batch = [
            stored(NOON_S),
            replace(old, arrived_at_ns=old.arrived_at_ns + 1),
            stored(NOON_S + DAY_S),
            stored(NOON_S),
        ]
        expected = [True, False, True]
        self.fail_behind_commit(telemetry, monkeypatch, batch[:3])
        assert telemetry.append(batch[:3]) == expected
        assert telemetry.append(batch[:3]) == [False] * 3
        assert everything(telemetry) == [old, stored(NOON_S), stored(NOON_S + DAY_S)]
        assert take_unread(telemetry) == [old, stored(NOON_S), stored(NOON_S + DAY_S)]


class DurableContract(FramesContract):
    """What a restart must find."""

    def test_a_restart_finds_everything(self, telemetry, again):
        frames = [stored(NOON_S + n * 3600, bodies=bytes([n])) for n in range(40)]
        telemetry.append(frames[:20])
        telemetry.save_derived([StateRow(vin=VIN, last_seen_at_ns=1)], [], telemetry.mark())
        telemetry.append(frames[20:])
        telemetry.close()
        restarted = again()
        assert everything(restarted) == frames
        assert restarted.unread(100).frames == tuple(frames[20:])
        assert restarted.append(frames) == [False] * 40
        assert restarted.newest([VIN]) == {VIN: StateRow(vin=VIN, last_seen_at_ns=1)}

    def test_a_frame_behind_the_catalog_keeps_its_partition_after_a_restart(self, telemetry, again):
        """The process that took it died before it could say so."""
        telemetry.append([stored(NOON_S)])
        telemetry.save_derived([], [], telemetry.mark())
        late = stored(NOON_S + 1, command=3, arrived_s=NOON_S + 9 * DAY_S)
        telemetry.append([late])
        telemetry.close()
        restarted = again()
        restarted.prune((NOON_S + 5 * DAY_S) * 10**9)
        assert everything(restarted) == [stored(NOON_S), late]
        restarted.prune((NOON_S + 10 * DAY_S) * 10**9)
        assert everything(restarted) == []

    def test_each_writer_has_a_mark_of_its_own(self, telemetry, again):
        """Their rows stand between each other in the same partition."""
        other = again(writer="b")
        mine = [stored(NOON_S + n) for n in range(0, 20, 2)]
        theirs = [stored(NOON_S + n) for n in range(1, 21, 2)]
        for one, two in zip(mine, theirs, strict=True):
            telemetry.append([one])
            other.append([two])
        other.save_derived([], [], other.mark())
        assert take_over(telemetry) == []
        telemetry.close()
        other.close()
        # The same name again, whatever was saved last.
        mine_again, other_again = again(), again(writer="b")
        assert (take_unread(mine_again, 3), take_unread(other_again)) == (mine, [])
        assert take_unread(mine_again) == []

    def test_what_a_process_has_left_is_taken_over_once(self, telemetry, again):
        gone = again(writer="gone")
        left = [stored(NOON_S + n * 7200) for n in range(20)]
        gone.append(left)
        telemetry.append([stored(NOON_S + 1)])
        # As long as it lives, nobody does.
        assert take_over(telemetry) == []
        gone.close()
        assert take_over(telemetry, 7) == left
        assert take_over(telemetry) == []
        # Its name is struck, and that of the versions before; it may come back, with nothing to derive.
        back = again(writer="gone")
        assert back.unread(10).frames == ()
        back.append([stored(NOON_S + 3)])
        assert back.unread(10).frames == (stored(NOON_S + 3),)
        assert telemetry.unread(10).frames == (stored(NOON_S + 1),)

    def test_who_derives_for_another_makes_all_others_read_again(self, telemetry, again):
        """A state that another process may have changed since is not written over."""
        living, gone = again(writer="living"), again(writer="gone")
        gone.append([stored(NOON_S)])
        living.append([stored(NOON_S + 1)])
        gone.close()
        row = StateRow(vin=VIN, last_seen_at_ns=5)
        living.save_derived([], [], Mark())
        with telemetry.taking_over(10) as unread:
            telemetry.save_derived([row], [], unread.mark)
        with pytest.raises(StorageUnavailableError, match="derived again"):
            living.save_derived([row._replace(last_seen_at_ns=6)], [], living.mark())
        assert telemetry.newest([VIN]) == {VIN: row}
        assert take_unread(living) == [stored(NOON_S + 1)]
        living.save_derived([row._replace(last_seen_at_ns=7)], [], living.mark())
        assert telemetry.newest([VIN])[VIN].last_seen_at_ns == 7
        telemetry.save_derived([row], [], telemetry.mark())

    def test_nobody_saves_while_another_derives_for_one_that_is_gone(self, telemetry, again, monkeypatch):
        monkeypatch.setattr("bmsota_cloud.storage.sql.telemetry._DERIVED_LOCK_TIMEOUT_S", 0.1)
        living, gone = again(writer="living"), again(writer="gone")
        gone.append([stored(NOON_S)])
        living.append([stored(NOON_S + 1)])
        gone.close()
        row = StateRow(vin=VIN, last_seen_at_ns=5)
        refused = []

        def save():
            try:
                living.save_derived([row], [], living.mark())
            except StorageUnavailableError as error:
                refused.append(error)

        with telemetry.taking_over(10):
            other = threading.Thread(target=save)
            other.start()
            other.join(0.3)
            assert telemetry.newest([VIN]) == {}
        other.join(120)
        assert len(refused) == 1
        # What failed within the block is still there for the next.
        assert take_over(telemetry) == [stored(NOON_S)]

    def test_a_name_that_another_process_has_is_refused_or_gets_a_number(self, telemetry, again, monkeypatch):
        for module in ("telemetry", "telemetry_postgresql"):
            monkeypatch.setattr(f"bmsota_cloud.storage.sql.{module}.OWN_NAME_TIMEOUT_S", 0.3)
        first = again(writer="a", is_writer_fixed=True)
        first.append([stored(NOON_S)])
        with pytest.raises(ConfigurationError, match="gateway name 'a': another process"):
            again(writer="a", is_writer_fixed=True).append([stored(NOON_S + 1)])
        second = again(writer="a")
        second.append([stored(NOON_S + 2)])
        assert (first.unread(9).frames, second.unread(9).frames) == ((stored(NOON_S),), (stored(NOON_S + 2),))
        second.close()
        first.close()
        # Each finds its mark under its name, and the numbers are those of before.
        assert again(writer="a", is_writer_fixed=True).unread(9).frames == (stored(NOON_S),)
        assert again(writer="a").unread(9).frames == (stored(NOON_S + 2),)

    def test_two_processes_on_the_same_data(self, telemetry, again):
        """Both write the same days, one drops what the other has open, and nothing is lost or doubled."""
        other = again()
        mine = [stored(NOON_S + n, bodies=b"mine") for n in range(5)]
        theirs = [stored(NOON_S + n, vin="LTESTVEHICLE00002") for n in range(5)]
        for one, two in zip(mine, theirs, strict=True):
            assert telemetry.append([one]) == [True]
            assert other.append([two, one]) == [True, False]
        assert everything(other) == everything(telemetry) == mine
        for each in (telemetry, other):
            each.save_derived([], [], each.mark())
        # Two looks: what is not written to is closed by the first.
        for each in (telemetry, other, telemetry):
            each.prune((NOON_S + 10 * DAY_S) * 10**9)
        assert everything(other) == []
        for each in (other, telemetry):
            with_retry(each, mine)
        assert everything(other) == everything(telemetry) == mine

    def test_two_processes_whose_clocks_differ_keep_a_report_once(self, telemetry, again):
        ahead, back = came_in_doubt()
        other = again()
        assert other.append([back(0)]) == [True]
        assert telemetry.append([ahead(60)]) == [True]
        assert telemetry.append([ahead(0), back(60)]) == [False, False]
        assert other.append([ahead(0), back(60), ahead(60), back(0)]) == [False] * 4
        assert other.append([ahead(120)]) == [True]
        assert telemetry.append([back(120), back(180)]) == [False, True]
        assert other.append([ahead(180)]) == [False]
        for each in (telemetry, other):
            assert sorted(everything(each), key=by_key) == [back(0), ahead(60), ahead(120), back(180)]


class SqliteParts:
    def partition_count(self, telemetry):
        return len(telemetry._on_sqlite._names)

    def fail_behind_commit(self, telemetry, monkeypatch, batch):
        part = telemetry._on_sqlite
        append_to, calls = part._append_to, []

        def fails(*arguments):
            calls.append(1)
            append_to(*arguments)
            raise sqlite3.OperationalError("disk I/O error")

        monkeypatch.setattr(part, "_append_to", fails)
        with pytest.raises(StorageUnavailableError, match="disk I/O error"):
            telemetry.append(batch)
        monkeypatch.setattr(part, "_append_to", append_to)
        assert calls == [1]


class TestMemory(SqliteParts, FramesContract):
    @pytest.fixture
    def telemetry(self):
        made = SqlTelemetryStore()
        yield made
        made.close()


class TestFile(SqliteParts, DurableContract):
    @pytest.fixture
    def telemetry(self, again):
        return again()

    @pytest.fixture
    def again(self, tmp_path):
        made = []

        def again(**options):
            made.append(SqlTelemetryStore(f"sqlite:///{tmp_path / 'telemetry.sqlite'}", **options))
            return made[-1]

        yield again
        for each in made:
            each.close()

    def test_what_an_older_version_has_not_derived_is_taken_over(self, again, tmp_path):
        """A file of layout 1, without writers, and the one mark that all processes had: two frames are behind it."""
        frames = [stored(NOON_S + n) for n in range(4)]
        with create_engine(f"sqlite:///{tmp_path / 'telemetry.sqlite'}").connect() as connection, connection.begin():
            migrate(connection, "telemetry", revision="telemetry_0004")
            connection.exec_driver_sql("INSERT INTO report_partition VALUES ('2026-11-22', 2, 0)")
        path = tmp_path / "reports" / "2026-11-22.sqlite"
        path.parent.mkdir()
        with closing(sqlite3.connect(path, isolation_level=None)) as connection:
            connection.executescript(LAYOUT_1)
            connection.execute("INSERT INTO vehicle (vin) VALUES (?)", (VIN,))
            columns = "vehicle, reported_at_s, digest, arrived_at_ns, form, clear, received, fault"
            sql = f"INSERT INTO frame ({columns}) VALUES (1, ?, ?, ?, ?, ?, ?, ?)"
            connection.executemany(sql, [pack(frame) for frame in frames])
        for is_written_first in (False, True):
            telemetry = again(writer=f"new {is_written_first}")
            assert telemetry.unread(10).frames == ()
            if is_written_first:
                telemetry.append([frames[1], stored(NOON_S + 9)])
            assert take_over(telemetry) == ([] if is_written_first else frames[2:])
        assert everything(telemetry) == [*frames, stored(NOON_S + 9)]
        with closing(sqlite3.connect(path)) as connection:
            assert connection.execute("PRAGMA user_version").fetchone() == (2,)
            assert connection.execute("SELECT writer FROM frame ORDER BY position").fetchall() == [(0,)] * 4 + [(2,)]

    def test_a_day_is_a_file(self, telemetry, tmp_path):
        telemetry.append(
            [stored(NOON_S), stored(NOON_S + DAY_S), stored(946_684_800, arrived_s=NOON_S, is_time_plausible=False)]
        )
        files = {path.name for path in (tmp_path / "reports").glob("*.sqlite")}
        assert files == {"2026-11-22.sqlite", "2026-11-23.sqlite", "other.sqlite"}
        telemetry.close()
        locks = {"writer-1.lock", "derived.lock", "partitions.lock", "starts"}
        assert {path.name for path in (tmp_path / "reports").iterdir()} == files | locks

    def test_days_and_hours_side_by_side(self, telemetry, again, tmp_path):
        """The setting can change at any time, and a repetition is found all the same."""
        frames = [stored(NOON_S + n * 1800, bodies=bytes([n])) for n in range(60)]
        hourly = again(is_hourly=True)
        assert all(hourly.append(frames[:3] + frames[40:43]))
        assert all(telemetry.append(frames[20:40]))
        last = again(is_hourly=True)
        assert last.append(frames) == [3 <= n < 20 or n >= 43 for n in range(60)]
        assert everything(last) == frames
        assert last.frames(VIN, PageRequest(2, 25)).items == tuple(frames[34:9:-1])
        assert len(list((tmp_path / "reports").glob("*T*.sqlite"))) > 2

    def test_without_the_catalog_everything_is_read_again(self, telemetry, again, tmp_path):
        frames = [stored(NOON_S + n * 3600) for n in range(30)]
        telemetry.append(frames)
        telemetry.save_derived([], [], telemetry.mark())
        telemetry.close()
        for path in tmp_path.glob("telemetry.sqlite*"):
            path.unlink()
        rebuilt = again()
        assert take_unread(rebuilt) == []
        assert take_over(rebuilt, 7) == frames
        assert everything(rebuilt) == frames

    @pytest.mark.slow
    def test_more_partitions_than_may_be_open(self, telemetry):
        frames = [stored(NOON_S + n * DAY_S, arrived_s=NOON_S + 25 * DAY_S) for n in range(25)]
        for frame in frames + frames:
            telemetry.append([frame])
        assert everything(telemetry) == frames
        assert len(telemetry._on_sqlite._open) <= 16

    def test_a_file_of_a_newer_layout_is_refused_by_name(self, telemetry, tmp_path):
        telemetry.append([stored(NOON_S)])
        telemetry.close()
        with closing(sqlite3.connect(tmp_path / "reports" / "2026-11-22.sqlite")) as connection:
            connection.execute("PRAGMA user_version = 9")
        with pytest.raises(
            StorageUnavailableError, match=r"reports/2026-11-22\.sqlite: expected layout 3 or older, got 9"
        ):
            telemetry.append([stored(NOON_S + 1)])
        assert telemetry.append([stored(NOON_S + DAY_S)]) == [True]

    def test_a_locked_or_damaged_file_is_said_and_survived(self, telemetry, tmp_path, monkeypatch):
        monkeypatch.setattr("bmsota_cloud.storage.sql.telemetry_sqlite._BUSY_TIMEOUT_S", 0.01)
        telemetry.append([stored(NOON_S)])
        path = tmp_path / "reports" / "2026-11-22.sqlite"
        with closing(sqlite3.connect(path, isolation_level=None)) as other:
            other.execute("BEGIN IMMEDIATE")
            telemetry._on_sqlite._forget("2026-11-22")
            with pytest.raises(StorageUnavailableError, match=r"2026-11-22\.sqlite: database is locked"):
                telemetry.append([stored(NOON_S + DAY_S), stored(NOON_S + 1)])
            # A reader does not wait for a writer.
            assert stored(NOON_S) in everything(telemetry)
            other.execute("ROLLBACK")
        assert telemetry.append([stored(NOON_S + DAY_S), stored(NOON_S + 1)]) == [True, True]
        telemetry.close()
        path.write_bytes(b"not a database at all" * 100)
        with pytest.raises(StorageUnavailableError, match=r"2026-11-22\.sqlite: file is not a database"):
            telemetry.append([stored(NOON_S + 2)])

    def test_a_damaged_file_of_frames_without_a_day_stops_no_other(self, again, tmp_path):
        ahead, back = came_in_doubt()
        first = again()
        first.append([ahead(0)])
        first.close()
        (tmp_path / "reports" / "other.sqlite").write_bytes(b"no database" * 1000)
        for wal in (tmp_path / "reports").glob("other.sqlite-*"):
            wal.unlink()
        telemetry = again()
        assert telemetry.append([back(0), back(60)]) == [True, True]
        with pytest.raises(StorageUnavailableError, match="file is not a database"):
            telemetry.append([ahead(120)])

    def test_a_file_that_is_gone_is_made_anew_and_not_written_to_blindly(self, telemetry, again, tmp_path):
        """Removed by hand, or by another process in the moment between opening and writing."""
        telemetry.append([stored(NOON_S)])
        for path in (tmp_path / "reports").glob("2026-11-22*"):
            path.unlink()
        assert telemetry.append([stored(NOON_S + 1)]) == [True]
        assert everything(again()) == [stored(NOON_S + 1)]

    def test_files_of_others_in_the_folder_are_left_alone(self, telemetry, again, tmp_path):
        for name in ("notes.sqlite", "2026-13-45.sqlite", "2026-11-22T99.sqlite", "2026-11-22 copy.sqlite"):
            (tmp_path / "reports" / name).write_bytes(b"mine")
        telemetry.append([stored(NOON_S)])
        assert everything(again()) == [stored(NOON_S)]
        telemetry.close()
        assert again().prune(2**62) == 1
        assert len(list((tmp_path / "reports").glob("*.sqlite"))) == 4


@pytest.fixture(scope="module")
def postgresql_url():
    with some_database() as url:
        yield url


class TestPostgresql(DurableContract):
    @pytest.fixture
    def telemetry(self, again):
        return again()

    @pytest.fixture
    def again(self, postgresql_url):
        import psycopg

        made = []

        def again(**options):
            made.append(SqlTelemetryStore(postgresql_url, **options))
            return made[-1]

        yield again
        for each in made:
            each.close()
        with psycopg.connect(postgresql_url, autocommit=True) as connection:
            connection.execute("DROP SCHEMA public CASCADE")
            connection.execute("CREATE SCHEMA public")

    def test_what_an_older_version_has_not_derived_is_taken_over(self, again, postgresql_url):
        frames = [stored(NOON_S + n) for n in range(4)]
        engine = create_engine(postgresql_url.replace("postgresql:", "postgresql+psycopg:"))
        with engine.connect() as connection, connection.begin():
            migrate(connection, "telemetry", revision="telemetry_0004")
            connection.exec_driver_sql("INSERT INTO frame_vehicle (vin) VALUES (%s)", (VIN,))
            connection.exec_driver_sql(
                "CREATE TABLE frame_20261122 PARTITION OF frame FOR VALUES FROM (848620800) TO (848707200)"
            )
            for position, frame in enumerate(frames, 1):
                at_s, digest, arrived_at_ns, form, clear, _, _ = pack(frame)
                connection.exec_driver_sql(
                    "INSERT INTO frame VALUES (%s, %s, %s, 1, %s, %s, '', '', %s)",
                    (digest, position, arrived_at_ns, at_s - 946_684_800, form, clear),
                )
            connection.exec_driver_sql("INSERT INTO frame_mark VALUES ('', 2)")
        engine.dispose()
        telemetry = again()
        assert telemetry.append([frames[1], stored(NOON_S + 9)]) == [False, True]
        assert take_over(telemetry) == frames[2:]
        assert take_over(telemetry) == []
        assert take_unread(telemetry) == [stored(NOON_S + 9)]
        assert everything(telemetry) == [*frames, stored(NOON_S + 9)]

    def test_a_connection_that_is_lost_has_its_name_again_and_reads_again_what_was_taken(self, telemetry, again):
        """Meanwhile another process has taken it for gone."""
        other = again(writer="b")
        telemetry.append([stored(NOON_S), stored(NOON_S + 1)])
        mark = telemetry.mark()
        telemetry._on_postgresql._abandon()
        found = []
        while not found:
            found = take_over(other)
        assert found == [stored(NOON_S), stored(NOON_S + 1)]
        with pytest.raises(StorageUnavailableError, match="derived again"):
            telemetry.save_derived([StateRow(vin=VIN, last_seen_at_ns=1)], [], mark)
        assert telemetry.unread(10).frames == ()
        telemetry.append([stored(NOON_S + 2)])
        assert take_over(other) == []
        assert telemetry.unread(10).frames == (stored(NOON_S + 2),)
        telemetry.save_derived([], [], telemetry.mark())
        assert telemetry.unread(10).frames == ()

    def partition_count(self, telemetry):
        return len(telemetry._on_postgresql._days)

    def fail_behind_commit(self, telemetry, monkeypatch, batch):
        part = telemetry._on_postgresql
        append = part._append

        async def fails(frames):
            await append(frames)
            raise ConnectionResetError("connection lost")

        monkeypatch.setattr(part, "_append", fails)
        with pytest.raises(StorageUnavailableError, match="connection lost"):
            telemetry.append(batch)
        monkeypatch.setattr(part, "_append", append)

    def test_a_value_that_no_column_takes_is_no_outage(self, telemetry):
        import asyncpg

        with pytest.raises(asyncpg.DataError, match="int64"):
            telemetry.append([replace(stored(), arrived_at_ns=2**70)])
        assert telemetry.append([stored()]) == [True]

    def test_it_can_be_called_in_the_middle_of_an_event_loop(self, telemetry):
        async def play():
            assert telemetry.append([stored()]) == [True]
            telemetry.close()

        asyncio.run(play())


@st.composite
def any_frame(draw):
    """Good frames, and frames that are wrong in one place."""
    vin = draw(st.text("ABC123 ", max_size=17))
    at_s = draw(st.integers(946_684_800, 4_102_416_000))
    clear = wire_frame(
        vin,
        at_s,
        draw(st.binary(max_size=600)),
        command=draw(st.sampled_from([2, 3, 7])),
        start=draw(st.sampled_from([b"##", b"$$", b"#$"])),
        encryption=draw(st.sampled_from([1, 1, 1, 3, 0xFE])),
        padding=draw(st.sampled_from([b"\0", b" "])),
    )
    if draw(st.booleans()):
        place = draw(st.integers(0, len(clear) - 1))
        clear = clear[:place] + draw(st.binary(max_size=2)) + clear[place + 1 :]
    return StoredFrame(
        vin=vin,
        frame=draw(st.one_of(st.just(clear), st.binary(min_size=1, max_size=50))),
        clear=clear,
        reported_at_s=draw(st.one_of(st.just(at_s), st.integers(-(2**40), 2**40))),
        arrived_at_ns=draw(st.integers(0, 2**63 - 1)),
        is_backfill=draw(st.booleans()),
        fault=draw(st.text(max_size=5)),
        is_time_plausible=draw(st.booleans()),
    )


@pytest.mark.slow
@given(any_frame())
def test_what_is_packed_is_unpacked_to_the_same_bytes(frame):
    at_s, _, arrived, form, clear, received, fault = pack(frame)
    assert unpack(frame.vin, (at_s, arrived, form, clear, received, fault)) == frame


def test_a_frame_with_a_wrong_check_byte_is_kept_whole():
    right = stored(bodies=bytes(311))
    wrong = replace(right, clear=right.clear[:-1] + bytes((right.clear[-1] ^ 1,)))
    assert len(pack(wrong)[4]) == 342
    at_s, _, arrived, form, clear, received, fault = pack(wrong)
    assert unpack(VIN, (at_s, arrived, form, clear, received, fault)) == wrong


def test_a_usual_frame_is_kept_without_its_31_bytes():
    frame = stored(bodies=bytes(311))
    assert len(frame.clear) == 342
    assert len(pack(frame)[4]) == 311
    assert pack(frame)[5] is None
