"""Recorded traffic, read and sent again: every byte but time, VIN and check byte stays."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from bmsota_sim.recordings.recording import read_recording, recorded_fleet, without_gaps

from bmsota.adapters.frame_sources import FoundFrame
from bmsota.errors import ConfigurationError
from bmsota.gbt32960 import (
    BEIJING,
    Command,
    Edition,
    Frame,
    Heartbeat,
    Report,
    UserDefined,
    VehicleLogin,
    VehicleLogout,
    decode,
    encode,
    nanoseconds,
)

FIRST, SECOND_VIN = "LBMREC00000000001", "LBMREC00000000002"
DAY = datetime(2026, 3, 4, 12, 0, tzinfo=BEIJING)
S = 1_000_000_000
START = nanoseconds(datetime(2026, 11, 30, tzinfo=UTC))


def found(message, command, *, vin=FIRST, at=None, edition=Edition.GBT2016):
    data = encode(Frame(edition=edition, command=command, vin=vin, message=message))
    return FoundFrame("here", data, decode(data), time_ns=at)


def report(seconds, *, vin=FIRST, command=Command.REALTIME_REPORT, at=None, value=b"abc", edition=Edition.GBT2016):
    time = DAY + timedelta(seconds=seconds)
    return found(Report(time, (UserDefined(0x80, value),)), command, vin=vin, at=at, edition=edition)


def sent(vehicle, start=START, **options):
    return [(each.sent_ns - start, each.collected_ns - start) for each in vehicle.pieces(start, **options)]


def test_reports_are_sent_as_far_apart_as_they_were_with_the_times_of_now():
    vehicle = read_recording([report(0), report(30, value=b"xyz"), report(65)]).vehicles[0]
    assert sent(vehicle) == [(0, 0), (30 * S, 30 * S), (65 * S, 65 * S)]
    frames = [decode(piece.frame) for piece in vehicle.pieces(START)]
    assert [frame.message.time for frame in frames] == [
        datetime(2026, 11, 30, 8, 0, second, tzinfo=BEIJING) + timedelta(minutes=minute)
        for minute, second in ((0, 0), (0, 30), (1, 5))
    ]
    assert [frame.message.bodies[0].data for frame in frames] == [b"abc", b"xyz", b"abc"]
    assert (vehicle.vin, vehicle.period_ns) == (FIRST, 30 * S)


def test_times_inside_may_stay():
    frames = [report(0), report(30)]
    vehicle = read_recording(frames).vehicles[0]
    assert [piece.frame for piece in vehicle.pieces(START, shift=False)] == [each.data for each in frames]


def test_a_backfilled_report_is_sent_as_one_when_it_was_sent():
    """Collected in a tunnel, sent behind the next real-time report."""
    rows = [report(0), report(120), report(60, command=Command.BACKFILL_REPORT), report(150)]
    vehicle = read_recording(rows).vehicles[0]
    assert sent(vehicle) == [(0, 0), (120 * S, 120 * S), (120 * S, 60 * S), (150 * S, 150 * S)]
    pieces = list(vehicle.pieces(START))
    assert [piece.is_backfill for piece in pieces] == [False, False, True, False]
    # As a session keeps it; it makes a backfilled report of it again.
    assert decode(pieces[2].frame).command == Command.REALTIME_REPORT


def test_the_times_of_a_capture_count_where_there_are_some():
    base = nanoseconds(DAY)
    rows = [report(0, at=base + S // 2), report(30, at=base + 31 * S), report(7, at=base + 31 * S + 5)]
    vehicle = read_recording(rows).vehicles[0]
    assert [time for time, _ in sent(vehicle)] == [0, 30 * S + S // 2, 30 * S + S // 2 + 5]


def test_an_export_with_the_newest_first_is_turned_round():
    rows = [report(60), report(30), report(0)]
    assert [time for time, _ in sent(read_recording(rows).vehicles[0])] == [0, 30 * S, 60 * S]


def test_a_loop_goes_on_where_the_recording_ended():
    vehicle = read_recording([report(0), report(10), report(20)]).vehicles[0]
    assert [time // S for time, _ in sent(vehicle, loops=2)] == [0, 10, 20, 30, 40, 50]


def test_logins_are_the_sessions_and_a_logout_ends_a_drive():
    login = found(VehicleLogin(DAY, 7, "8986001234567890123A", ("AB12", "CD34")), Command.VEHICLE_LOGIN)
    logout = found(VehicleLogout(DAY + timedelta(seconds=40), 7), Command.VEHICLE_LOGOUT)
    recording = read_recording([login, report(0), found(Heartbeat(), Command.HEARTBEAT), report(30), logout])
    (vehicle,) = recording.vehicles
    assert (vehicle.iccid, vehicle.login.subsystem_codes) == ("8986001234567890123A", ("AB12", "CD34"))
    pieces = [(bool(piece.frame), piece.is_login) for piece in vehicle.pieces(START)]
    assert pieces == [(False, True), (True, False), (True, False), (False, False)]
    assert recording.skipped == {}


def test_what_is_not_sent_again_is_counted():
    other = report(5, edition=Edition.GBT2025)
    enciphered = replace(report(6).frame, encryption=3)
    rows = [
        report(0),
        FoundFrame("there", b"\x00", None, "garbage"),
        FoundFrame("there", b"", enciphered),
        FoundFrame("there", b"", replace(report(7).frame, reply_flag=1)),
        other,
    ]
    assert read_recording(rows).skipped == {
        "bytes that are no frame": 1,
        "enciphered frames: their times cannot be moved": 1,
        "answers": 1,
        "frames in another edition than the first of their vehicle": 1,
    }


def test_an_identifier_that_was_filled_with_blanks_is_sent_as_the_standard_has_it():
    data = encode(replace(report(0, vin="LBM1").frame, vin_padding=" " * 13))
    (vehicle,) = read_recording([FoundFrame("here", data, decode(data))]).vehicles
    frame = next(vehicle.pieces(START)).frame
    assert (frame[4:21], decode(frame).vin) == (b"LBM1" + bytes(13), "LBM1")


def test_a_recording_without_a_report_is_refused():
    with pytest.raises(ConfigurationError, match="expected reports of vehicles, got none: 1 bytes that are no frame"):
        read_recording([FoundFrame("there", b"\x00", None, "garbage")])
    with pytest.raises(ConfigurationError, match="it is empty"):
        read_recording([])


def test_copies_have_vins_of_their_own_and_begin_elsewhere():
    recording = read_recording([report(each) for each in range(0, 600, 30)] + [report(0, vin=SECOND_VIN), report(30, vin=SECOND_VIN)])  # fmt: skip
    fleet = recorded_fleet(recording, count=6, seed=1)
    assert len({vehicle.vin for vehicle in fleet}) == 6
    assert recorded_fleet(recording, count=7, seed=1)[:6] == fleet
    assert recorded_fleet(recording, count=1) == recording.vehicles[:1]
    copy = fleet[2]
    pieces = list(copy.pieces(START))
    assert {decode(piece.frame).vin for piece in pieces} == {copy.vin}
    assert 0 <= pieces[0].sent_ns - START < 30 * S
    assert [later.sent_ns - earlier.sent_ns for earlier, later in pairwise(pieces)] == [30 * S] * 19
    assert copy.ahead_ns > 0
    with pytest.raises(ConfigurationError, match="expected 1 vehicle or more, got 0"):
        recorded_fleet(recording, count=0)


def test_a_clock_at_the_year_2000_does_not_make_a_recording_of_26_years():
    wrong = report((datetime(2000, 1, 1, tzinfo=BEIJING) - DAY).total_seconds())
    recording = without_gaps(read_recording([report(0), wrong, report(30)]), 60)
    (vehicle,) = recording.vehicles
    assert [time for time, _ in sent(vehicle)] == [0, 60 * S, 90 * S]
    assert recording.duration_ns == 90 * S
    assert decode(next(vehicle.pieces(START)).frame).message.time == datetime(2026, 11, 30, 8, tzinfo=BEIJING)
    with pytest.raises(ConfigurationError, match="1 s or more, got 0"):
        without_gaps(recording, 0)
