"""Runs, tracks, configuration and the values at the onset of a fault, as reports make them: exact, and the same whatever the order."""

import json
import math
import random
from datetime import UTC, datetime, timedelta
from itertools import pairwise

import pytest
from bmsota_cloud.domain.paging import PageRequest
from bmsota_cloud.domain.telemetry import EventKind, StoredFrame, is_plausible_time
from bmsota_cloud.services.counters import Counters
from bmsota_cloud.services.derivation import Derivation
from bmsota_cloud.services.deriving import DAY_S, run_under_way
from bmsota_cloud.services.run_tracking import Measures, RunKind, RunTracker, TrackTracker, VehicleRun, run_kind
from memory_telemetry import MemoryTelemetry

from bmsota.gbt32960 import (
    Alarms,
    BmsConfiguration,
    CellVoltages2025,
    Command,
    ConfigurationItem,
    Edition,
    Extremes,
    FaultChange,
    FaultChanges,
    FaultState,
    Frame,
    PackTemperatures,
    PackVoltages,
    Position,
    ProbeTemperatures2025,
    Report,
    Sentinel,
    VehicleData,
    VehicleData2025,
    encode,
)

VIN = "TESTVEHICLE000001"
T0 = datetime(2026, 11, 22, 0, 0, tzinfo=UTC)
T0_S = int(T0.timestamp())
PARKED, CHARGING, DRIVING = (2, 3), (2, 1), (1, 3)
RUNS = (EventKind.CHARGING_RUN, EventKind.DRIVING_RUN)


def vehicle(what=PARKED, *, volts=350.0, amps=0.0, soc=50, km=1000.0, speed=0.0):
    return VehicleData(what[0], what[1], 1, speed, km, volts, amps, soc, 1, 14, 5000, 0, 0)


def extremes(high=3.4, low=3.3, hot=25, cold=20):
    return Extremes(1, 1, high, 1, 2, low, 1, 1, hot, 1, 2, cold)


def frame(at, *bodies, arrived=None, is_backfill=False, edition=Edition.GBT2016):
    command = Command.BACKFILL_REPORT if is_backfill else Command.REALTIME_REPORT
    raw = encode(Frame(command=command, vin=VIN, message=Report(T0 + timedelta(seconds=at), bodies), edition=edition))
    arrived_at_ns = (T0_S + (at if arrived is None else arrived)) * 10**9
    plausible = is_plausible_time(T0_S + at, arrived_at_ns)
    return StoredFrame(
        vin=VIN,
        frame=raw,
        clear=raw,
        reported_at_s=T0_S + at,
        arrived_at_ns=arrived_at_ns,
        is_backfill=is_backfill,
        is_time_plausible=plausible,
    )


class Platform:
    def __init__(self, run_gap_s=300):
        self.telemetry = MemoryTelemetry()
        self.run_gap_s = run_gap_s
        self.restart()

    def restart(self):
        self.derivation = Derivation(self.telemetry, Counters(), keep_s=10 * DAY_S, run_gap_s=self.run_gap_s)

    def put(self, *frames):
        new = [each for each, is_new in zip(frames, self.telemetry.append(frames), strict=True) if is_new]
        self.derivation.take(new)

    def events(self, *kinds):
        return list(reversed(self.telemetry.events(VIN, PageRequest(1, 5000), kinds=kinds).items))

    def runs(self):
        return [VehicleRun.from_json(event.detail) for event in self.events(*RUNS)]

    def open_run(self):
        return run_under_way(self.telemetry.rows[VIN])


PageRequest = type("AnyPage", (PageRequest,), {"__post_init__": lambda self: None})


@pytest.fixture
def platform():
    return Platform()


# -- runs --------------------------------------------------------------------------------------------------------------


def test_a_charging_run_has_all_that_its_reports_say(platform):
    """An hour at 350 V and 20 A is 7 kWh, exactly."""
    platform.put(frame(0, vehicle()))
    for place in range(121):
        at = 30 + 30 * place
        body = vehicle(CHARGING, amps=-20.0, soc=40 + place // 12, km=1000.5)
        platform.put(frame(at, body, extremes(3.3 + place / 1000, 3.2, 25 + place // 60, 19)))
    assert platform.runs() == []
    open_run = platform.open_run()
    platform.put(frame(3660, vehicle()))
    assert platform.open_run() == open_run
    platform.put(frame(4000, vehicle()))
    assert platform.open_run() is None
    (event,) = platform.events(*RUNS)
    assert (event.kind, event.at_s, event.value) == (EventKind.CHARGING_RUN, T0_S + 4000, str(T0_S + 30))
    assert VehicleRun.from_json(event.detail) == open_run
    assert open_run == VehicleRun(
        kind=RunKind.CHARGING,
        started_s=T0_S + 30,
        ended_s=T0_S + 3630,
        reports=121,
        gap_s=0,
        energy_out_wh=0.0,
        energy_in_wh=7000.0,
        soc_pct_start=40,
        soc_pct_end=50,
        odometer_km_start=1000.5,
        odometer_km_end=1000.5,
        cell_voltage_v_max=3.42,
        cell_voltage_v_min=3.2,
        temperature_c_max=27,
        temperature_c_min=19,
        current_a_max=-20.0,
        current_a_min=-20.0,
    )


def test_a_driving_run_tells_what_it_took_from_what_it_recovered(platform):
    amps = [100.0, 100.0, -50.0, -50.0, 100.0]
    for place, each in enumerate(amps):
        platform.put(frame(10 * place, vehicle(DRIVING, amps=each, km=1000 + place / 10), extremes()))
    platform.put(frame(50, vehicle(CHARGING, amps=-20.0)))
    (run,) = platform.runs()
    # Two intervals of the same sign, two that cross over: their mean is 25 A.
    assert run.energy_out_wh == round(350 * (100 + 25 + 25) * 10 / 3600, 3)
    assert run.energy_in_wh == round(350 * 50 * 10 / 3600, 3)
    assert (run.kind, run.odometer_km_start, run.odometer_km_end) == (RunKind.DRIVING, 1000.0, 1000.4)
    assert (run.current_a_max, run.current_a_min, run.reports) == (100.0, -50.0, 5)
    assert platform.open_run().kind is RunKind.CHARGING


def test_what_makes_which_run():
    table = {(1, 1): 1, (2, 1): 1, (2, 2): 1, (1, 2): 2, (1, 3): 2, (1, 4): 2, (2, 3): 0, (2, 4): 0, (-1, -1): 0}
    assert {states: run_kind(*states) for states in table} == table


@pytest.mark.parametrize(("pause_s", "count"), [(240, 1), (300, 1), (301, 2), (3600, 2)])
@pytest.mark.parametrize("is_silent", [False, True])
def test_a_short_interruption_ends_no_run(pause_s, count, is_silent, platform):
    """Whether the vehicle parks or is silent (a logout): and what it did meanwhile is not in the energy, or told as a gap."""
    for at in (0, 30, 60):
        platform.put(frame(at, vehicle(CHARGING, amps=-20.0)))
    if not is_silent:
        for at in range(90, 60 + pause_s, 30):
            platform.put(frame(at, vehicle(PARKED, amps=-20.0)))
    for at in (0, 30):
        platform.put(frame(60 + pause_s + at, vehicle(CHARGING, amps=-20.0)))
    platform.put(frame(10_000, vehicle()))
    runs = platform.runs()
    assert len(runs) == count
    energy_s = 90 + (pause_s if is_silent and count == 1 else 0)
    assert sum(run.energy_in_wh for run in runs) == pytest.approx(7000 * energy_s / 3600, abs=0.002)
    assert sum(run.gap_s for run in runs) == (pause_s if count == 1 else 0)
    assert (runs[-1].ended_s, runs[0].started_s) == (T0_S + 90 + pause_s, T0_S)


def test_the_gap_is_a_setting():
    platform = Platform(run_gap_s=60)
    for at in (0, 30, 91, 121, 500):
        platform.put(frame(at, vehicle(DRIVING)))
    assert [(run.started_s - T0_S, run.ended_s - T0_S) for run in platform.runs()] == [(0, 30), (91, 121)]


def test_what_the_unit_does_not_know_is_left_out_and_told(platform):
    unknown = Sentinel.INVALID
    platform.put(frame(0, vehicle(CHARGING, amps=-10.0, soc=unknown, km=unknown)))
    platform.put(frame(30, vehicle(CHARGING, volts=unknown, amps=-10.0, soc=41)))
    platform.put(frame(60, vehicle(CHARGING, amps=unknown, soc=42)))
    platform.put(frame(90, vehicle(CHARGING, amps=-10.0, soc=unknown)))
    platform.put(frame(120, vehicle((unknown, unknown), amps=-10.0)))
    run = platform.open_run()
    assert (run.gap_s, run.energy_in_wh, run.reports) == (90, round(3500 * 30 / 3600, 3), 5)
    assert (run.soc_pct_start, run.soc_pct_end, run.odometer_km_start) == (41, 50, 1000.0)
    assert (run.cell_voltage_v_max, run.temperature_c_min) == (None, None)


def test_cells_in_frames_of_their_own_count_and_late_ones_do_not(platform):
    platform.put(frame(0, vehicle(CHARGING)), frame(0, extremes(3.5, 3.1, 30, 10)), frame(20, extremes(3.6, 3.2)))
    platform.put(frame(1000, extremes(4.2, 2.5)))
    run = platform.open_run()
    assert (run.cell_voltage_v_max, run.cell_voltage_v_min, run.temperature_c_max) == (3.6, 3.1, 30)
    assert (run.reports, run.ended_s) == (1, T0_S)


def test_without_extremes_the_cells_themselves_are_looked_at():
    """The edition of 2025 has no extremes body; in columns as one by one."""
    abnormal = Sentinel.ABNORMAL
    bodies = (
        VehicleData2025(2, 1, 1, 0.0, 1000.0, 350.0, -20.0, 50, 1, 14, 5000),
        CellVoltages2025(
            (PackVoltages(1, 350.0, -20.0, (3.301, abnormal, 3.5)), PackVoltages(2, 350.0, -20.0, (abnormal,) * 3))
        ),
        ProbeTemperatures2025((PackTemperatures(1, (20, abnormal)), PackTemperatures(2, (31, 12)))),
    )
    frames = [frame(10 * place, *bodies, edition=Edition.GBT2025) for place in range(12)]
    for size in (1, 12):
        platform = Platform()
        for at in range(0, len(frames), size):
            platform.put(*frames[at : at + size])
        run = platform.open_run()
        assert (run.cell_voltage_v_max, run.cell_voltage_v_min) == (3.5, 3.301)
        assert (run.temperature_c_max, run.temperature_c_min) == (31, 12)


def test_a_repeated_report_counts_once(platform):
    first, second = frame(0, vehicle(CHARGING, amps=-20.0)), frame(30, vehicle(CHARGING, amps=-20.0))
    platform.put(first, second)
    expected = platform.open_run()
    platform.put(frame(0, vehicle(CHARGING, amps=-20.0), arrived=100, is_backfill=True), second)
    platform.derivation.derive_again()
    assert platform.open_run() == expected


def test_a_wrong_clock_ends_no_run(platform):
    platform.put(frame(0, vehicle(CHARGING)))
    platform.put(frame(900_000, vehicle(DRIVING), arrived=30))
    platform.put(frame(60, vehicle(CHARGING)))
    assert platform.runs() == []
    assert platform.open_run().ended_s == T0_S + 60


def days(seed):
    """Two days of a vehicle that drives, parks, charges, with positions and faults; a run across midnight."""
    draw = random.Random(seed)
    frames = []
    at, longitude, latitude, soc, km = 3600 * 20, 116.3, 39.9, 80.0, 1000.0
    for what, minutes in ((DRIVING, 50), (PARKED, 40), (CHARGING, 170), (PARKED, 3), (CHARGING, 20), (DRIVING, 30)):
        for _ in range(minutes * 2):
            amps = {DRIVING: draw.uniform(-80, 200), CHARGING: -20.0, PARKED: 0.5}[what]
            speed = draw.uniform(20, 60) if what == DRIVING else 0.0
            km += speed * 30 / 3600
            longitude += speed * 30 / 3600 / 85
            volts = Sentinel.ABNORMAL if draw.random() < 0.01 else round(350 + draw.uniform(-3, 3), 1)
            codes = (0x11,) if draw.random() < 0.02 else ()
            bodies = (
                vehicle(what, volts=volts, amps=round(amps, 1), soc=int(soc), km=round(km, 1), speed=round(speed, 1)),
                Position(draw.random() < 0.98, round(longitude, 6), round(latitude, 6)),
                extremes(round(3.4 + draw.uniform(0, 0.1), 3), round(3.3 + draw.uniform(0, 0.1), 3)),
                Alarms(len(codes), 1 if codes else 0, codes),
            )
            if draw.random() < 0.02:
                items = (ConfigurationItem(1, 7, bytes([draw.randrange(3)])),)
                bodies += (BmsConfiguration(1, items),)
            frames.append(frame(at, *bodies, arrived=3600 * 40))
            at += 30
    return frames


@pytest.mark.parametrize("seed", range(3))
def test_any_order_any_batches_any_restarts_give_the_same_runs(seed):
    """Byte for byte: runs, points, configurations, values at onsets and what is remembered."""
    frames = days(seed)
    in_order = Platform()
    in_order.put(*frames)
    expected = in_order.events()
    assert [run.kind for run in in_order.runs()] == [RunKind.DRIVING, RunKind.CHARGING]
    assert sum(event.kind is EventKind.POSITION for event in expected) > 20
    assert sum(event.kind is EventKind.CONFIGURATION for event in expected) > 2
    draw = random.Random(seed)
    arriving = draw.sample(frames, len(frames))
    platform = Platform()
    while arriving:
        size = draw.choice((1, 3, 200))
        platform.put(*arriving[:size])
        arriving = arriving[size:]
        if draw.random() < 0.02:
            platform.restart()
    platform.derivation.take((), seen={VIN: 0})
    platform.derivation.derive_again()
    assert platform.events() == expected
    assert platform.telemetry.rows[VIN].memory == in_order.telemetry.rows[VIN].memory


def test_the_largest_numbers_fit_into_what_is_remembered():
    tracker = RunTracker()
    most = Measures(65_535, 65_535, 2**32, 65_535, -65_535, 250, -40)
    for at in range(0, 90_000, 300):
        tracker.take(at, 2, 250, most, 300)
    again = RunTracker.from_bytes(tracker.to_bytes())
    assert again.run() == tracker.run()
    assert again.to_bytes() == tracker.to_bytes()


# -- tracks ------------------------------------------------------------------------------------------------------------


def metres(east, north):
    """Latitude and longitude near the equator."""
    return round(north / 111_319.49, 6), round(east / 111_319.49, 6)


def kept(points):
    tracker = TrackTracker()
    found = []
    for at, east, north in points:
        if tracker.take(at, *metres(east, north)):
            found.append((at, east, north))
        tracker = TrackTracker.from_bytes(tracker.to_bytes())
    return found


def test_a_vehicle_that_stands_is_one_point():
    draw = random.Random(1)
    points = [(10 * place, draw.uniform(-7, 7), draw.uniform(-7, 7)) for place in range(2000)]
    assert len(kept(points)) == 1


@pytest.mark.parametrize("period_s", [1, 10, 30])
@pytest.mark.parametrize("seed", range(3))
def test_points_are_thinned_and_the_way_is_kept(seed, period_s):
    """At most one in 30 s or 200 m; no report is further from the track than the rule allows."""
    draw = random.Random(seed)
    points, east, north, heading, speed = [], 0.0, 0.0, 0.0, 10.0
    for place in range(3600 // period_s):
        if draw.random() < 0.1:
            heading += draw.choice((-90, -20, 20, 90))
            speed = draw.uniform(0, 33)
        east += math.sin(math.radians(heading)) * speed * period_s
        north += math.cos(math.radians(heading)) * speed * period_s
        points.append((period_s * place, east, north))
    found = kept(points)
    assert found[0] == points[0]
    for (at, east, north), (later, to_east, to_north) in pairwise(found):
        assert later - at >= 30 or math.hypot(to_east - east, to_north - north) >= 199
    # Every report has a kept point within 1 km and a report's way.
    for _, east, north in points:
        assert min(math.hypot(east - x, north - y) for _, x, y in found) <= 1000 + 33 * 30 + 1
    assert len(found) < len(points) or period_s == 30


def test_a_straight_has_a_point_a_kilometre_or_two_minutes_and_a_turn_one_at_once():
    straight = [(10 * place, 0.0, 260.0 * place) for place in range(41)]
    assert [at for at, _, _ in kept(straight)] == [0, 10, 50, 90, 130, 170, 210, 250, 290, 330, 370]
    slow = [(10 * place, 0.0, 50.0 * place) for place in range(60)]
    assert [at for at, _, _ in kept(slow)][:4] == [0, 30, 150, 270]
    turn = [*straight, *((400 + 10 * place, 260.0 * place, 10_400.0) for place in range(1, 4))]
    assert [at for at, _, _ in kept(turn)][10:] == [370, 410, 420]


def test_a_position_is_kept_with_its_speed_and_never_without_a_fix(platform):
    place = Position(valid=True, longitude_deg=116.3, latitude_deg=39.9)
    lost = Position(valid=False, longitude_deg=10.0, latitude_deg=10.0)
    unknown = Position(valid=True, longitude_deg=Sentinel.INVALID, latitude_deg=39.9)
    platform.put(frame(0, lost), frame(10, unknown), frame(20, place, vehicle(DRIVING, speed=33.3)), frame(60, lost))
    (event,) = platform.events(EventKind.POSITION)
    assert (event.at_s, json.loads(event.detail)) == (T0_S + 20, [116_300_000, 39_900_000, 33.3])


# -- configuration, faults ---------------------------------------------------------------------------------------------


def test_calibration_values_are_kept_when_they_change(platform):
    def body(value, revision=7):
        return BmsConfiguration(revision, (ConfigurationItem(1, 0x102, value), ConfigurationItem(0, 3, b"")))

    platform.put(frame(0, body(b"\x0e\x74")), frame(30, body(b"\x0e\x74")), frame(60, vehicle()))
    platform.restart()
    platform.put(frame(90, body(b"\x0e\x74")), frame(120, body(b"\x0e\x75")), frame(150, body(b"\x0e\x75", 8)))
    events = platform.events(EventKind.CONFIGURATION)
    assert [(event.at_s - T0_S, event.subject) for event in events] == [(0, "7"), (120, "7"), (150, "8")]
    assert json.loads(events[0].detail) == [[1, 0x102, "0e74"], [0, 3, ""]]


def test_an_onset_has_the_values_of_its_report_and_a_clear_has_none(platform):
    change = FaultChange(T0, 2, 0x12, FaultState.ONSET, 2, "cell 7")
    data = (vehicle(DRIVING, amps=12.5, speed=33.3), extremes())
    platform.put(frame(0, *data, Alarms(2, 1 << 4, (0x11,)), FaultChanges((change,))))
    platform.put(frame(30, *data, Alarms(0)))
    values = {
        "soc_pct": 50.0,
        "voltage_v": 350.0,
        "current_a": 12.5,
        "speed_kmh": 33.3,
        "cell_voltage_mv_max": 3400,
        "cell_voltage_mv_min": 3300,
        "temperature_c_max": 25,
        "temperature_c_min": 20,
    }
    alarm, code = (platform.events(kind) for kind in (EventKind.ALARM, EventKind.FAULT_CODE))
    for onset, clear in (alarm, code):
        assert json.loads(onset.detail) == {"level": 2, "values": values}
        assert clear.detail == ""
    (told,) = platform.events(EventKind.FAULT_CHANGE)
    assert json.loads(told.detail)["values"] == values
