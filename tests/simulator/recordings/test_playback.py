"""A recording played by a run: the platform gets what it got once, and its answers are heard."""

from __future__ import annotations

import json
from datetime import datetime, timedelta

import pytest
from bmsota_sim._commands import app
from bmsota_sim.kernel import Kernel
from bmsota_sim.recordings.reading import read_recorded
from bmsota_sim.run.check import check
from bmsota_sim.run.runner import Run
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink, run_virtual
from typer.testing import CliRunner

from bmsota.gbt32960 import (
    BEIJING,
    Command,
    Edition,
    Frame,
    LoginRequested,
    LogoutReceived,
    Report,
    ReportReceived,
    UserDefined,
    VehicleLogin,
    VehicleLogout,
    encode,
)

DAY = datetime(2026, 3, 4, 12, 0, tzinfo=BEIJING)
FIRST, SECOND_VIN = "LBMREC00000000001", "LBMREC00000000002"


def line(message, command, vin=FIRST, edition=Edition.GBT2016):
    return encode(Frame(command=command, vin=vin, message=message, edition=edition)).hex()


def report(seconds, value, vin=FIRST, command=Command.REALTIME_REPORT, edition=Edition.GBT2016):
    body = UserDefined(0x80, bytes([value]))
    return line(Report(DAY + timedelta(seconds=seconds), (body,)), command, vin, edition)


@pytest.fixture
def recorded(tmp_path):
    """Two vehicles of two editions; the first logs out and comes back, with a report from its tunnel."""
    path = tmp_path / "gateway.log"
    lines = [
        line(VehicleLogin(DAY, 4, "8986001234567890123A", ("AB12",)), Command.VEHICLE_LOGIN),
        report(0, 1),
        report(10, 2),
        report(20, 21, SECOND_VIN, edition=Edition.GBT2025),
        line(VehicleLogout(DAY + timedelta(seconds=20), 4), Command.VEHICLE_LOGOUT),
        line(VehicleLogin(DAY + timedelta(seconds=95), 5, "8986001234567890123A", ("AB12",)), Command.VEHICLE_LOGIN),
        report(100, 3),
        report(50, 4, command=Command.BACKFILL_REPORT),
        report(110, 5),
        report(50, 22, SECOND_VIN, edition=Edition.GBT2025),
    ]
    path.write_text("\n".join(lines))
    return path


def played(found, *, timeline="  []"):
    text = found.scenario_text().decode() + f"timeline:\n{timeline}\n"
    scenario = check(text.encode(), "recording", 1).scenario
    kernel, events = Kernel(VIRTUAL_START_NS), []
    platform = SessionPlatform(received=lambda event, now_ns: events.append((now_ns, event)))
    run = Run(
        scenario,
        1,
        kernel=kernel,
        uplink=lambda _index: MemoryUplink(kernel, platform, delay_ns=0),
        played=found.played(shift=True),
    )
    run.start()
    run_virtual(kernel, lambda: run.is_over, until_ns=run.start_ns + run.duration_ns)
    return run, run.end(), [((at - run.start_ns) / 1e9, event) for at, event in events]


def values(events, vin):
    return [
        (event.report.bodies[0].data[0], event.is_backfill)
        for _, event in events
        if isinstance(event, ReportReceived) and event.vin == vin
    ]


def test_the_platform_gets_what_it_got_once(recorded):
    run, result, events = played(read_recorded([str(recorded)]))
    assert result.ok, [case for case in result.cases if case.passed is False]
    assert values(events, FIRST) == [(1, False), (2, False), (3, False), (4, True), (5, False)]
    assert values(events, SECOND_VIN) == [(21, False), (22, False)]
    logins = [(event.vin, event.login.iccid) for _, event in events if isinstance(event, LoginRequested)]
    assert logins.count((FIRST, "8986001234567890123A")) == 2
    assert sum(isinstance(event, LogoutReceived) for _, event in events) == 1
    first = next(event for at, event in events if isinstance(event, ReportReceived) and event.vin == SECOND_VIN)
    assert (first.report.time.timestamp() * 1e9 - run.start_ns) / 1e9 == 30  # As late as it was, by today's clock.
    assert run.ledger.totals()["sent"] == 7


def test_a_lost_link_is_survived_and_what_it_cost_comes_as_backfill(recorded):
    _, result, events = played(
        read_recorded([str(recorded)], loops=2), timeline="  - { at: 115s, do: offline, who: recorded/1, for: 10s }"
    )
    assert [event.outcome for event in result.events] == ["happened"]
    assert sorted(value for value, _ in values(events, FIRST)) == sorted([1, 2, 3, 4, 5] * 2)
    assert (5, True) in values(events, FIRST)


def test_what_a_recorded_vehicle_cannot_do_makes_the_run_red(recorded):
    _, result, _ = played(
        read_recorded([str(recorded)]), timeline="  - { at: 5s, do: restart, who: recorded/1, off: 2s }"
    )
    assert [(event.outcome, event.reason) for event in result.events] == [
        ("failed", "a recorded vehicle cannot do restart")
    ]
    assert not result.ok


def test_from_the_command_line(recorded, tmp_path):
    runner = CliRunner()
    arguments = ["run", "--recording", str(recorded), "--virtual", "--count", "3", "--report", str(tmp_path / "out")]
    done = runner.invoke(app, arguments)
    assert done.exit_code == 0, done.output
    document = json.loads((tmp_path / "out" / "run.json").read_text())
    assert len(document["units"]) == 3
    assert "--recording" in document["given"]["replay"]
    for wrong, message in (
        (["run", "--virtual"], "give a scenario, the name of a ready one, or --recording FILE"),
        (["run", "storm", "--recording", str(recorded), "--virtual"], "not both"),
        (["run", "--recording", str(recorded), "--virtual", "--edition", "2016"], "leave out --edition"),
        (["run", "--recording", str(tmp_path / "none.log"), "--virtual"], "nor a readable file"),
    ):
        refused = runner.invoke(app, wrong)
        assert (refused.exit_code, message in refused.output) == (2, True), refused.output
