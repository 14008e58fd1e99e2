"""The whole demo in virtual time: the same seed is the same run, every planned fault is reached, and no socket is opened."""

from __future__ import annotations

import socket
from dataclasses import replace

import pytest
from bmsota_sim.demo import run_virtual_demo
from bmsota_sim.links.canbus import CanBus
from bmsota_sim.profiles import PROFILES
from bmsota_sim.scenario import (
    CorruptByte,
    DownloadCut,
    SlavePowerCut,
    SlaveReplaced,
    packaged_scenario,
    parse_scenario,
)

from bmsota.ota import Updater

pytestmark = pytest.mark.slow

# The scenario of two vehicles for the run with another seed: what differs must differ there too, in a fifth of the time.
SMALL = """
name: small
duration_s: 60
report_period_s: 5
link_rate_bytes_per_s: 20000
fleet:
  - { series: E7, count: 2 }
faults:
  - { kind: download_cut, vehicle: 2, after_bytes: 9000 }
"""
TAIL = """
power_cycle: { after_download_s: 1, off_s: 1 }
campaign: { project: p, reason: r, software_version: 2.1.0, create_at_s: 3 }
"""
SMALL += TAIL


@pytest.fixture(scope="module")
def sealed():
    """Any attempt at the network ends the test."""

    def refuse(self, address, *_):
        if self.family in {socket.AF_INET, socket.AF_INET6}:
            raise AssertionError(f"virtual time opened a socket: {address}")

    patch = pytest.MonkeyPatch()
    for name in ("connect", "connect_ex", "bind"):
        patch.setattr(socket.socket, name, refuse)
    yield
    patch.undo()


@pytest.fixture(scope="module")
def demo(sealed):
    return run_virtual_demo(parse_scenario(packaged_scenario("demo")), 1)


def test_it_ends_as_the_scenario_plans(demo):
    assert demo.problems == []
    plan = parse_scenario(packaged_scenario("demo"))
    assert {vehicle.name: vehicle.row.status for vehicle in demo.vehicles} == {
        f"V{number:02d}": plan.expected_status(number) for number in range(1, plan.vehicle_count + 1)
    }
    assert demo.wrong_code_refused


def test_every_pack_is_wholly_old_or_wholly_new(demo):
    for vehicle in demo.vehicles:
        versions = {version for _, version in vehicle.row.after}
        expected = "2.1.0" if vehicle.row.status == "Upgrade succeeded" else "2.0.0"
        assert versions == {expected}, vehicle.name
        assert len(vehicle.row.after) in {4, 9}
        # The platform knows nothing of a vehicle that was never online when the task was made.
        if vehicle.name != "V03":
            assert {version for _, version in vehicle.row.before} == {"2.0.0"}, vehicle.name
            assert len(vehicle.row.before) == len(vehicle.row.after)


def test_every_vehicle_passes_the_platform_s_own_statuses_in_their_order(demo):
    for vehicle in demo.vehicles:
        path = [status for status, _ in vehicle.row.transitions]
        assert path == [
            "Unapproved", "Approved", "To be downloaded", "Downloading", "Download Complete", vehicle.row.status,
        ], vehicle.name  # fmt: skip


def test_every_planned_fault_is_reached(demo):
    """Looked for in what the units did, not only in the demo's own bookkeeping."""
    plan = parse_scenario(packaged_scenario("demo"))
    stories = {vehicle.name: " / ".join(vehicle.story) for vehicle in demo.vehicles}
    kinds = set()
    for fault in plan.faults:
        story = stories[f"V{fault.vehicle:02d}"]
        vehicle = demo.vehicles[fault.vehicle - 1]
        kinds.add(type(fault).__name__)
        match fault:
            case DownloadCut():
                assert "download broke off" in story
                assert "download goes on at byte" in story
            case CorruptByte():
                assert "arrived wrong and is fetched again" in story
            case SlavePowerCut(slave=slave):
                assert f"slave {slave} lost power inside a flash operation and was resumed" in story
            case SlaveReplaced(slave=slave):
                assert [position for position, _, _ in vehicle.changes] == [slave]
            case _:
                assert vehicle.row.status == "Rolled back"
                assert vehicle.row.reason == fault.reason
    assert kinds == {"DownloadCut", "CorruptByte", "SlavePowerCut", "SlaveReplaced", "SelfTestFails"}
    assert any("offline from" in story for story in stories.values())
    assert any("driving from" in story for story in stories.values())


def test_the_vehicles_that_nothing_befell_have_no_story(demo):
    plan = parse_scenario(packaged_scenario("demo"))
    troubled = {fault.vehicle for fault in plan.faults} | set(plan.vehicles)
    for number, vehicle in enumerate(demo.vehicles, start=1):
        if number not in troubled:
            assert vehicle.story == ()


def test_the_same_seed_is_the_same_run(demo, sealed):
    again = run_virtual_demo(parse_scenario(packaged_scenario("demo")), 1)
    assert again.trace_hash == demo.trace_hash
    assert again.vehicles == demo.vehicles


def test_another_seed_is_another_run_that_ends_as_well(sealed):
    small = parse_scenario(SMALL)
    first, other = (run_virtual_demo(small, seed) for seed in (1, 2))
    assert first.problems == other.problems == []
    assert first.trace_hash != other.trace_hash


def test_a_planned_fault_that_does_not_happen_is_a_problem(sealed):
    """Else the demo would prove nothing: here the link breaks behind the last byte that is ever sent."""
    result = run_virtual_demo(parse_scenario(SMALL.replace("9000", "9000000")), 1)
    assert result.problems == ["V02: the planned download_cut did not happen"]
    assert not result.ok


def test_an_order_whose_work_is_taken_for_a_local_upgrade_is_a_problem(sealed, monkeypatch):
    """The history must tell the two apart: here the units do not know what their orders have changed."""
    monkeypatch.setattr(Updater, "scope", None)
    result = run_virtual_demo(parse_scenario(SMALL), 1)
    assert len(result.problems) == 2
    for number, problem in enumerate(result.problems, start=1):
        assert problem.startswith(f"V{number:02d}: expected one OTA upgrade in the history, got OTA, CAN, ")


def test_a_vehicle_that_ends_otherwise_is_a_problem(sealed):
    result = run_virtual_demo(parse_scenario(SMALL + "expect: { 1: Rolled back }\n"), 1)
    assert result.problems == ["V01: expected 'Rolled back', got 'Upgrade succeeded' (no reason)"]


def test_the_seal_holds(sealed):
    with pytest.raises(AssertionError, match="opened a socket"):
        socket.create_connection(("127.0.0.1", 9), timeout=0.1)


def test_a_series_with_can_fd_and_long_identifiers_is_upgraded_too(sealed, monkeypatch):
    """Only its profile says so: the fleet, the buses and the masters follow."""
    profile = replace(PROFILES["E7"], bootloader_dbc="bms_bootloader_fd_29bit", data_bitrate_bps=2_000_000)
    monkeypatch.setitem(PROFILES, "E7", profile)
    fd_frames = []
    check = CanBus.check

    def counted(bus, frame):
        check(bus, frame)
        fd_frames.extend([frame] * frame.is_fd)

    monkeypatch.setattr(CanBus, "check", counted)
    report = run_virtual_demo(parse_scenario(SMALL.replace("count: 2", "count: 1").split("faults:")[0] + TAIL), 1)
    assert report.problems == []
    assert {vehicle.row.status for vehicle in report.vehicles} == {"Upgrade succeeded"}
    assert {len(frame.data) for frame in fd_frames} == {64}
    assert all(frame.is_extended_id for frame in fd_frames)
