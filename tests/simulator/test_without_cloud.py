"""Units, fleets and their drivers without the extra `cloud`; and what is said where the packages of an extra are missing."""

from __future__ import annotations

import subprocess
import sys

import bmsota_sim
import pytest
from bmsota_sim import SessionPlatform, packaged_scenario, parse_scenario, virtual_fleet

from bmsota.gbt32960 import LoginRequested, ReportReceived

pytestmark = pytest.mark.slow

# A finder in front of all others, so that what is blocked is as missing as without its extra.
BLOCKED = """
import sys

class Missing:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {blocked!r}:
            raise ModuleNotFoundError(f"No module named {{name!r}}", name=name)

sys.meta_path.insert(0, Missing())
"""
CLOUD = {"fastapi", "starlette", "sqlalchemy", "alembic", "argon2", "uvicorn", "aiosmtplib", "aiosmtpd"}


def run(code, blocked, *arguments):
    return subprocess.run(
        [sys.executable, "-c", BLOCKED.format(blocked=blocked) + code, *arguments],
        capture_output=True, text=True, timeout=600, check=False,
    )  # fmt: skip


COMMAND = "from bmsota_sim.cli import main\nmain()\n"
FLEET = """
from bmsota_sim import SessionPlatform, packaged_scenario, parse_scenario, virtual_fleet

platform = SessionPlatform()
fleet = virtual_fleet(parse_scenario(packaged_scenario("reports")), 1, platform)
fleet.run(100.0)
print(sum(traffic.reports for traffic in platform.vehicles.values()))
"""


def test_a_fleet_runs_in_virtual_time_against_the_library_s_own_platform_end():
    """Every report arrives, those of the outage afterwards; the same seed is the same run."""

    def play():
        events = []
        platform = SessionPlatform(lambda event, now_ns: events.append((event, now_ns)))
        fleet = virtual_fleet(parse_scenario(packaged_scenario("reports")), 1, platform)
        fleet.run(600.0)
        return fleet, platform, events

    fleet, platform, events = play()
    assert sorted(platform.vehicles) == sorted(unit.identity.vin for unit in fleet.units)
    for unit in fleet.units:
        traffic = platform.vehicles[unit.identity.vin]
        is_offline = unit.name == "V02"
        assert traffic.logins == unit.figures.logins == 1 + is_offline
        assert traffic.reports + traffic.backfilled == unit.figures.reports == 19
        assert (traffic.backfilled > 0) is is_offline
        assert unit.figures.can_frames > 500
    times = [now_ns for _, now_ns in events]
    assert times == sorted(times)
    assert sum(isinstance(event, LoginRequested) for event, _ in events) == 5
    again, _, _ = play()
    assert again.trace.digest() == fleet.trace.digest()


def test_a_report_shows_the_pack_as_the_unit_s_view_has_it():
    """`PackView`: 1 mV and 0.1 degrees inside the unit, 1 mV and 1 degree in the report, current and charge likewise."""
    seen = []

    def received(event, _now_ns):
        if isinstance(event, ReportReceived):
            unit = next(unit for unit in fleet.units if unit.identity.vin == event.vin)
            seen.append((unit, event.report))

    scenario = parse_scenario(packaged_scenario("reports"))
    # Parked, and measured more seldom than a report takes: nothing changes between the view and its report.
    fleet = virtual_fleet(
        scenario.model_copy(update={"vehicles": {}, "link_delay_ms": 0}), 1, SessionPlatform(received)
    )
    fleet.run(40.0)
    assert {unit.name for unit, _ in seen} == {"V01", "V02", "V03", "V04"}
    for unit, report in seen:
        view = unit.pack_view
        bodies = {type(body).__name__: body for body in report.bodies}
        cells = view.cell_voltages_v()
        assert len(cells) == unit.profile.cell_count
        assert all(abs(cell * 1_000 - round(cell * 1_000)) < 1e-6 for cell in cells)
        assert bodies["CellVoltages"].subsystems[0].cell_voltages_v == tuple(round(cell, 3) for cell in cells)
        probes = bodies["ProbeTemperatures"].subsystems[0].temperatures_c
        assert probes == tuple(round(probe) for probe in view.temperatures_c())
        assert bodies["VehicleData"].soc_pct == round(view.soc_pct())


def test_a_fleet_needs_nothing_of_the_cloud():
    done = run(FLEET, CLOUD | {"bmsota_cloud"})
    assert (done.returncode, done.stdout, done.stderr) == (0, "12\n", "")


@pytest.mark.parametrize(
    ("code", "blocked", "arguments", "ending", "said"),
    [
        (COMMAND, CLOUD, ("demo", "--virtual"), 2, "bmsota-sim: the embedded cloud needs "),
        (COMMAND, {"jinja2"}, ("demo",), 2, "bmsota-sim: the embedded cloud needs jinja2: pip install 'bmsota[cloud]'"),
        (COMMAND, CLOUD, ("bench", "--run-for", "0", "--channel", "virtual:extras"), 0, ""),
        (
            COMMAND,
            {"yaml"},
            ("bench", "--run-for", "0"),
            2,
            "bmsota-sim: the simulator needs yaml: pip install 'bmsota[sim]'",
        ),
        (COMMAND, {"typer"}, ("--help",), 2, "bmsota-sim: the simulator needs typer: pip install 'bmsota[sim]'"),
        (COMMAND, {"typer"}, ("--version",), 0, ""),
        (COMMAND, {"httpx"}, ("demo",), 2, "bmsota-sim: the simulator needs httpx: pip install 'bmsota[sim]'"),
        (FLEET, {"pydantic"}, (), 1, "MissingExtraError: bmsota_sim needs pydantic: pip install 'bmsota[sim]'"),
    ],
)
def test_what_lacks_an_extra_names_it(code, blocked, arguments, ending, said):
    done = run(code, blocked, *arguments)
    assert done.returncode == ending, done.stdout + done.stderr
    if ending == 2:
        assert done.stderr.count("\n") == 1, done.stderr
        assert done.stderr.startswith(said)
        assert "pip install 'bmsota[" in done.stderr
    else:
        assert said in done.stderr


def test_the_face_has_what_it_says():
    assert sorted(bmsota_sim.__all__) == sorted(bmsota_sim._MODULE_OF)
    for name in bmsota_sim.__all__:
        assert getattr(bmsota_sim, name).__module__ == f"bmsota_sim.{bmsota_sim._MODULE_OF[name]}"
    with pytest.raises(AttributeError, match="no attribute 'fleets'"):
        bmsota_sim.fleets  # noqa: B018
