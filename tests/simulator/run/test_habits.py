"""Vehicles with the habits of real fleets: both fidelities send the same, and our own platform keeps all of it."""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter

import pytest
from bmsota_sim.campaign import PASSWORD
from bmsota_sim.embedded_cloud import MemoryCloud, unit_keys
from bmsota_sim.kernel import Kernel
from bmsota_sim.profiles import PROFILES
from bmsota_sim.run import runner
from bmsota_sim.run.api_access import ApiAccount, ApiAccounts
from bmsota_sim.run.keys import RunKeys
from bmsota_sim.run.runner import Run
from bmsota_sim.run.scenario import packaged_text, parse_scenario
from bmsota_sim.run.scenario_task import ScenarioTask
from bmsota_sim.run.selection import UnitId
from bmsota_sim.run.silences import silences
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink, run_virtual
from fidelities import Played, assert_equal

from bmsota.gbt32960 import Command, Edition, FrameReader, ReportReceived, Sentinel, decode

SECOND = 1_000_000_000
# Each unit is silent once, from 60 s to 100 s; parked ones at once, the others when they have parked.
SILENT = (60 * SECOND, 100 * SECOND)
NAMES_2016 = {
    "F7-144": ["VehicleData", "DriveMotors", "Position", "Extremes", "Alarms", "ProbeTemperatures", "CellVoltages"],
    "E7-22": ["Alarms", "VehicleData", "Extremes", "Position", "DriveMotors", "CellVoltages", "ProbeTemperatures"],
}


@pytest.fixture
def silent(monkeypatch):
    """Silence, at a known time."""
    monkeypatch.setattr(runner, "silences", lambda *_args, **_kwargs: [SILENT])


def reports_of(played):
    return [(at, event) for at, event in played.events if isinstance(event, ReportReceived)]


def names_of(event):
    return [type(body).__name__.removesuffix("2025") for body in event.report.bodies]


@pytest.mark.slow
@pytest.mark.parametrize(("profile", "edition"), [("F7-144", 2016), ("F7-144", 2025), ("E7-22", 2016), ("E7-22", 2025)])
def test_both_fidelities_have_the_habits(profile, edition, silent):
    """Order, missing motors, placeholders, silence and the report behind the logout, over trips, parking and charging."""
    given = {
        "profile": profile,
        "edition": edition,
        "count": 2,
        "duration": "300s",
        "report": "5s",
        "measure": "5s",
        "life": ", trips: udds, trips_per_day: 30",
        "timeline": """
  - { at: 40s, do: restart, who: f/1, off: 3s }
  - { at: 150s, do: driving, who: f, for: 60s }
  - { at: 240s, do: charging, who: f/2, for: 40s, power_kw: 3 }
""",
    }
    full, fleet = (Played(each, **given) for each in ("full", "fleet"))
    assert_equal(full, fleet)
    habits, reports = PROFILES[profile].habits, reports_of(fleet)
    vehicles = [next(body for body in event.report.bodies if hasattr(body, "vehicle_state")) for _, event in reports]
    states = Counter(vehicle.vehicle_state.name for vehicle in vehicles)
    assert states.keys() == {"STARTED", "OFF"}
    expected = [name for name in NAMES_2016[profile] if edition == 2016 or name != "Extremes"]
    for (_, event), vehicle in zip(reports, vehicles, strict=True):
        is_off = vehicle.vehicle_state.name == "OFF"
        assert names_of(event) == [
            name for name in expected if name != "DriveMotors" or not (is_off and habits.motors_only_when_started)
        ]
        if profile == "E7-22":
            assert (vehicle.total_current_a == -1000.0) is is_off
            assert (vehicle.insulation_kohm is Sentinel.ABNORMAL) is is_off
            (cells,) = (body for body in event.report.bodies if hasattr(body, "voltage_v") or "CellV" in type(body).__name__)  # fmt: skip
            (pack,) = cells.subsystems if edition == 2016 else cells.packs
            assert [place for place, value in enumerate(pack.cell_voltages_v, 1) if value is Sentinel.ABNORMAL] == [21, 22]  # fmt: skip
    if profile == "F7-144" and edition == 2016:
        # Of the vehicle in the public export: 464 bytes, 478 with a motor.
        assert {len(event.clear) for _, event in reports} == {464, 478}
    # Both units were silent once, and one restarted: 2 + 2 + 1 logins.
    assert fleet.totals["logins"] == 5
    behind = [event for _, event in reports if event.is_after_logout]
    assert len(behind) == (3 if habits.reports_behind_logout else 0)
    gone, back = (fleet.run.start_ns + at for at in SILENT)
    assert not [event for at, event in reports if gone + SECOND < at < back]


# Everything that the ready scenario has, in six minutes, with full units and ones of columns, and no frame cut off by a dead spot.
SMALL = (
    packaged_text("real-habits")
    .replace("duration: 4h", "duration: 6min")
    .replace("over: 3min", "over: 10s")
    .replace("faults_off: 30min", "faults_off: 60s")
    .replace("report: 30s", "report: 30s, measure: 5s")
    .replace("report: 25s", "report: 25s, measure: 5s")
    .replace("report: 10s", "report: 10s, measure: 5s")
)


def small():
    """That scenario."""
    text = SMALL
    for count in (400, 200, 100):
        text = text.replace(f"count: {count}", f"count: {2 if count > 100 else 1}")
    head, _, rest = text.partition("timeline:")
    expect = rest[rest.index("faults_off") :].partition("expect:")[0]
    timeline = """timeline:
  - { at: 60s, do: clock_skew, who: every-30s/1, ppm: 20000 }
  - { at: 90s, do: position_frozen, who: every-25s/1, for: 60s }
  - { at: 100s, do: offline, who: [every-10s/1, poor-network/1], for: 90s }
  - { at: 200s, do: duplicate_frames, who: every-10s/2, for: 60s, share: 50% }
  - { at: 250s, do: restart, who: [every-30s/2, newer/1, every-25s/2], off: 5s }
"""
    return head + timeline + expect


class Kept:
    """A cloud, and every report that has reached it."""

    def __init__(self, kernel, seed):
        self.cloud = MemoryCloud(kernel, seed)
        self.reached = []

    def open_link(self, wake):
        link, reader = self.cloud.open_link(wake), FrameReader()
        receive = link.receive_data

        class Watched:
            """The link, with an eye on what it receives."""

            def __getattr__(self, name):
                return getattr(link, name)

            @staticmethod
            def receive_data(data, now_ns):
                reader.receive_data(data)
                while (event := reader.next_event()) is not None:
                    if event.frame.command in {Command.REALTIME_REPORT, Command.BACKFILL_REPORT}:
                        reached.append(event.raw)
                receive(data, now_ns)

        reached = self.reached
        return Watched()

    def respond(self, request):
        return self.cloud.respond(request)


@pytest.mark.slow
def test_our_platform_keeps_all_of_real_habits():
    """Each report that reaches the embedded `bmsota_cloud` is kept byte for byte, and none is refused."""
    kernel = Kernel(VIRTUAL_START_NS)
    kept = Kept(kernel, 1)
    scenario = parse_scenario(small())
    run = Run(
        scenario,
        1,
        kernel=kernel,
        uplink=lambda _index: MemoryUplink(kernel, kept, delay_ns=0),
        keys=RunKeys(unit_keys(1)),
        origins=[kept.cloud.http_url],
    )
    client = kept.cloud.http_client()
    accounts = ApiAccounts(ApiAccount("operator", PASSWORD), ApiAccount("administrator", PASSWORD))
    task = ScenarioTask(run, client, accounts, None, say=lambda _text: None)
    with asyncio.Runner() as asyncio_runner, contextlib.closing(kept.cloud):
        asyncio_runner.run(task.prepare())
        run.start()
        until_ns = run.start_ns + run.duration_ns
        run_virtual(kernel, lambda: run.is_over, until_ns=until_ns, tick=kept.cloud.work)
        result = run.end()
        store = kept.cloud._cloud.telemetry
        frames = {
            (vin, frame.clear[24:-1])
            for vin in (each.vin for each in run.ledger.units.values())
            for frame in store.read(vin, 0, 2**33)
        }
        refused = {name: n for name, n in kept.cloud._cloud.services.counters.snapshot().items() if "refused" in name}
        asyncio_runner.run(client.aclose())
    assert {case.name: case.failing for case in result.cases if case.passed is not True} == {}
    reached = [(decode(raw).vin, raw[24:-1]) for raw in kept.reached]
    distinct = set(reached)
    assert 100 < len(distinct) < len(reached)  # Some came twice.
    assert not distinct ^ frames
    assert not any(refused.values()), refused
    assert {decode(raw).edition for raw in kept.reached} == set(Edition)


def test_silences_are_once_a_day_and_end_before_the_end():
    unit = UnitId("f", 1)
    begin_s, until_s = 8 * 3600, 10 * 86_400
    found = list(silences(7, unit, (1.0, 7.3), begin_s=begin_s, until_s=until_s))
    assert found == list(silences(7, unit, (1.0, 7.3), begin_s=begin_s, until_s=until_s))
    days = [(begin_s + from_ns / SECOND) // 86_400 for from_ns, _ in found]
    assert days == sorted(set(days))
    assert len(days) >= 9  # The first day's may have been before the start.
    assert all((begin_s + to_ns / SECOND - 1) // 86_400 == day for day, (_, to_ns) in zip(days, found, strict=True))
    hours = [(to_ns - from_ns) / SECOND / 3600 for from_ns, to_ns in found[:-1]]
    assert all(1 <= each <= 7.3 for each in hours)
    assert max(hours) - min(hours) > 1
    # Another run length changes none but the one it cuts.
    shorter = list(silences(7, unit, (1.0, 7.3), begin_s=begin_s, until_s=found[4][0] / SECOND + 600))
    assert shorter[:4] == found[:4]
    assert (shorter[4][1] - shorter[4][0]) / SECOND == pytest.approx(600, abs=1)
