"""A unit of fleet fidelity and a full one send the same bytes in the same nanoseconds, whatever happens to them."""

from __future__ import annotations

import numpy as np
import pytest
from bmsota_sim._commands import app
from bmsota_sim.columns.units import FleetUnit
from bmsota_sim.devices.frame_faults import FrameFaultKind
from bmsota_sim.devices.unit import FullUnit
from fidelities import Played, assert_equal
from typer.testing import CliRunner

from bmsota.errors import LocalProtocolError
from bmsota.gbt32960 import ChargingState, Command, ReportReceived

# A boot, trips, a lost link, power off and on, an outage with backfill, a dead spot, frames twice and out of order.
EVERYTHING = """
  - { at: 20s, do: storm }
  - { at: 30.2s, do: driving, who: f/2-3, for: 65s }
  - { at: 30s, do: duplicate_frames, who: f/1, for: 20s }
  - { at: 40s, do: restart, who: f/1, off: 3s }
  - { at: 41.3s, do: restart, who: f/2, off: 5s }
  - { at: 60s, do: platform_outage, for: 4s }
  - { at: 80s, do: out_of_order, who: f/3, for: 40s }
  - { at: 85s, do: offline, who: f/4, for: 25s }
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("profile", "edition", "network"),
    [
        ("F7", 2016, {}),
        # With no latency heartbeats and reports are due in the same nanosecond.
        ("E7", 2025, {"latency": "0s"}),
        ("E7", 2016, {"latency": "30ms", "jitter": "80ms", "split": "30%"}),
    ],
)
def test_both_fidelities_send_the_same(profile, edition, network):
    """Over everything that can happen to a unit of columns, in both editions and over a bad network."""
    full, fleet = (
        Played(each, timeline=EVERYTHING, profile=profile, edition=edition, **network) for each in ("full", "fleet")
    )
    assert_equal(full, fleet)
    reports = [event for _, event in fleet.events if isinstance(event, ReportReceived)]
    speeds = {body.speed_kmh for event in reports for body in event.report.bodies if hasattr(body, "speed_kmh")}
    assert speeds == {0.0, 48.0}
    assert fleet.totals["backfilled"] > 2
    assert fleet.totals["logins"] >= 4 + 4 + 2 + 4 + 1  # Boot, storm, restarts, outage, dead spot.


@pytest.mark.slow
@pytest.mark.parametrize("edition", [2016, 2025])
def test_both_live_the_same_day(edition):
    """Trips by a cycle, a charge by order, and one by habit."""
    given = {
        "profile": "E7",
        "edition": edition,
        "count": 3,
        "duration": "1300s",
        "report": "5s",
        "life": ', trips: udds, trips_per_day: 30, ambient: 5..25C, charge: { from: "08:01", power_kw: 3 }',
        "timeline": "  - { at: 1000s, do: charging, who: f/2, for: 60s, power_kw: 7 }",
    }
    full, fleet = (Played(each, **given) for each in ("full", "fleet"))
    assert_equal(full, fleet)
    shown = [body for _, event in fleet.events if isinstance(event, ReportReceived) for body in event.report.bodies if hasattr(body, "speed_kmh")]  # fmt: skip
    assert len({body.speed_kmh for body in shown}) > 10
    assert {body.charging_state for body in shown} >= {ChargingState.PARKED_CHARGING, ChargingState.NOT_CHARGING}


@pytest.mark.slow
@pytest.mark.parametrize("edition", [2016, 2025])
def test_both_have_the_same_alarms(edition):
    """Packs that are nearly empty: low charge and low cells, that come with the third look and go with a charge."""
    given = {
        "profile": "E7",
        "edition": edition,
        "count": 2,
        "duration": "60s",
        "report": "1s",
        "soc": "soc: 6, soc_spread: 1",
        "timeline": "  - { at: 10s, do: driving, who: f/1-2, for: 20s }\n  - { at: 30s, do: charging, who: f/2, for: 25s, power_kw: 9 }",
    }
    full, fleet = (Played(each, **given) for each in ("full", "fleet"))
    assert [each.outcome for each in fleet.result.events if each.planned.entry.do == "charging"] == ["happened"]
    assert_equal(full, fleet)
    levels = [body.level_max for _, event in fleet.events if isinstance(event, ReportReceived) for body in event.report.bodies if hasattr(body, "level_max")]  # fmt: skip
    assert 0 in levels
    assert max(levels) > 0


@pytest.mark.slow
def test_both_know_their_slaves_from_the_same_report_on():
    """Boots anywhere in a second, also inside the slaves' round; slow slaves, so that early reports have cells that nobody has sent."""
    given = {
        "start": "start: { over: 2s }",
        "profile": "E7",
        "count": 14,
        "report": "1s",
        "measure": "5s",
        "duration": "12s",
    }
    full, fleet = (Played(each, **given) for each in ("full", "fleet"))
    assert_equal(full, fleet)
    invalid = b"\xff\xff" * 12
    first = [event for _, event in fleet.events if isinstance(event, ReportReceived) and invalid in event.clear]
    assert 14 < len(first) < 14 * 8


@pytest.mark.slow
def test_another_unit_and_another_group_change_nobody_elses_hash():
    alone = Played("fleet", count=3, timeline="  - { at: 20s, do: driving, who: f/2, for: 30s }", duration="60s")
    more = Played(
        "fleet",
        count=5,
        groups="  g: { profile: F7, count: 2 }",
        timeline="  - { at: 20s, do: driving, who: f/2, for: 30s }\n  - { at: 30s, do: restart, who: f/5, off: 2s }",
        duration="60s",
        start="start: { over: 70ms }",  # Units are switched on as before.
    )
    assert len(set(alone.result.hashes.values())) == 3
    assert {name: more.result.hashes[name] for name in alone.result.hashes} == alone.result.hashes
    assert Played("fleet", count=3, duration="60s", seed=2).result.fold != alone.result.fold


@pytest.mark.slow
def test_what_columns_cannot_do_makes_a_unit_full_and_changes_no_other():
    """Nor its own bytes, until it happens."""
    timeline = "  - { at: 40s, do: slave_silent, who: f/2, slave: 3, for: 15s }"
    with_fault, without = Played("fleet", timeline=timeline, duration="60s"), Played("fleet", duration="60s")
    kinds = {str(name): type(unit.unit) for name, unit in with_fault.run.units.items()}
    assert kinds == {"f/1": FleetUnit, "f/2": FullUnit, "f/3": FleetUnit, "f/4": FleetUnit}
    assert [event.outcome for event in with_fault.result.events] == ["happened"]
    others = {"f/1", "f/3", "f/4"}
    assert {name: with_fault.result.hashes[name] for name in others} == {
        name: without.result.hashes[name] for name in others
    }
    early = [line for line in without.sent["f/2"] if float(line.split()[0]) < 40]
    assert with_fault.sent["f/2"][: len(early)] == early
    assert with_fault.sent["f/2"] != without.sent["f/2"]


def test_slaves_that_measure_in_parts_of_a_second_need_full_units():
    played = Played("fleet", count=1, measure="500ms", duration="5s")
    assert isinstance(next(iter(played.run.units.values())).unit, FullUnit)


def test_the_face_of_a_fleet_unit():
    """What it shows is what it reports; what needs a bus says so."""
    played = Played("fleet", count=2, duration="25s")
    unit = played.run.units[next(iter(played.run.units))].unit
    (_, last) = [
        each for each in played.events if isinstance(each[1], ReportReceived) and each[1].vin == unit.identity.vin
    ][-1]
    (cells,) = (body for body in last.report.bodies if type(body).__name__ == "CellVoltages")
    assert np.allclose(cells.subsystems[0].cell_voltages_v, unit.pack_view.cell_voltages_v(), atol=0.0021)
    assert len(unit.pack_view.temperatures_c()) == 32
    assert unit.pack_view.current_a() > 0
    assert 60 < unit.pack_view.soc_pct() < 100
    figures = unit.figures
    assert (figures.logins, figures.reports, figures.can_frames) == (1, 2, 0)
    assert figures.bytes_up > 2 * 342
    assert figures.bytes_down > 0
    unit.cycle_power_after_download(1, 1)
    for call in (
        lambda: unit.cut_download(1),
        lambda: unit.corrupt_download(1),
        lambda: unit.cut_slave_power(1, 0.5, 1),
        lambda: unit.set_slave_power(1, is_on=False),
        lambda: unit.disturb_frames(1, FrameFaultKind("frame_frozen"), 1),
        lambda: unit.fail_self_test("2.1.0", "why"),
        lambda: unit.replace_slave(1, "S", 1),
    ):
        with pytest.raises(LocalProtocolError, match="needs a unit of full fidelity"):
            call()


def test_the_signed_identity_goes_once_and_again_only_if_it_was_not_taken():
    """Over a lost link and a restart the platform has it already."""
    played = Played(
        "fleet",
        count=1,
        duration="60s",
        timeline="  - { at: 20s, do: storm }\n  - { at: 40s, do: restart, who: all, off: 2s }",
    )
    signed = [
        at
        for at, event in played.events
        if getattr(getattr(event, "frame", None), "command", 0) == Command.SIGNED_REPORT
    ]
    plain = [
        at
        for at, event in played.events
        if getattr(getattr(event, "frame", None), "command", 0) == Command.UNIT_IDENTITY
    ]
    assert (len(signed), len(plain)) == (1, 3)


def test_check_says_which_units_are_full(tmp_path):
    path = tmp_path / "both.yaml"
    path.write_text(
        "name: both\nduration: 60s\ngroups:\n  f: { profile: E7, count: 1200 }\n  g: { profile: E7, count: 3 }\ntimeline:\n"
        "  - { at: 10s, do: slave_silent, who: f/2-3, slave: 1, for: 5s }\n  - { at: 10s, do: offline, who: g, for: 5s }\n"
    )
    result = CliRunner().invoke(app, ["check", str(path)])
    assert result.exit_code == 0, result.output
    assert "f: 2 of 1,200 units are full" in result.output
    assert "g: " not in result.output
