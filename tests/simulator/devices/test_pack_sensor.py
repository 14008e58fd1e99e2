"""Current and state of charge come by CAN, as cells and temperatures do: what the bus says is reported, and nothing else."""

from __future__ import annotations

import pytest
from bmsota_sim.defaults import database
from bmsota_sim.devices.frame_faults import FrameFaultKind
from fidelities import Played

from bmsota.gbt32960 import ReportReceived, Sentinel
from bmsota.master import SensorMessages, SlaveFault

GIVEN = {"profile": "E7", "count": 1, "report": "1s", "measure": "1s", "life": "", "duration": "20s"}
# Of `Slave02_Cells_2` and `Slave03_Temperatures_1`: the frame with all four values alike.
FAKED_V, FAKED_C = 3.123, 51.0


def unit_of(run):
    (unit,) = (each.unit for each in run.units.values())
    return unit


def shown(played):
    """Second from the start -> the bodies that say something of the pack, by name."""
    found = {}
    for at_ns, event in played.events:
        if isinstance(event, ReportReceived):
            second = (at_ns - played.run.start_ns) // 10**9
            found[second] = {type(body).__name__: body for body in event.report.bodies}
    return found


def pack_of(bodies):
    """Current, charge, cells, temperatures."""
    vehicle = bodies["VehicleData"]
    (voltages,), (degrees,) = bodies["CellVoltages"].subsystems, bodies["ProbeTemperatures"].subsystems
    assert voltages.current_a == vehicle.total_current_a
    return vehicle.total_current_a, vehicle.soc_pct, list(voltages.cell_voltages_v), list(degrees.temperatures_c)


class Rewriting:
    """A port that sends what *rewritten* makes of the frames, which may be nothing."""

    def __init__(self, port, rewritten):
        self._port, self._rewritten = port, rewritten

    def __getattr__(self, name):
        return getattr(self._port, name)

    def send(self, frame):
        frame = self._rewritten(frame)
        if frame is not None:
            self._port.send(frame)


def rewrite(device, rewritten):
    device._port = Rewriting(device._port, rewritten)


def faked(name, **values):
    """Frames of the message *name* with other values, and a CRC that is right."""
    message = database("bms_internal")[name]

    def rewritten(frame):
        if frame.can_id != message.can_id:
            return frame
        told = {key: value for key, value in message.decode(frame.data).items() if key != "Crc"}
        return message.frame({**told, **values})

    return rewritten


def test_what_a_report_shows_came_by_can():
    """Other values in a frame of any kind, in a frame that is right otherwise, are those of the report; the physics has them not."""

    def prepared(run):
        unit = unit_of(run)
        rewrite(unit.pack_sensor, faked("PackSensor", Current=-321.4, StateOfCharge=41.6))
        cells = {f"Cell_{number:02d}": FAKED_V for number in range(5, 9)}
        rewrite(unit.slaves[1], faked("Slave02_Cells_2", **cells))
        probes = {f"Probe_{number}": FAKED_C for number in range(1, 5)}
        rewrite(unit.slaves[2], faked("Slave03_Temperatures_1", **probes))

    honest, other = Played("full", **GIVEN), Played("full", prepared=prepared, **GIVEN)
    was, now = pack_of(shown(honest)[15]), pack_of(shown(other)[15])
    assert now[:2] == (-321.4, 42)
    assert 0 < was[0] < 10
    assert now[2] == [*was[2][:16], *[FAKED_V] * 4, *was[2][20:]]
    assert now[3] == [*was[3][:8], *[51] * 4]
    assert FAKED_V not in was[2]
    assert 51 not in was[3]
    unit = unit_of(other.run)
    assert unit._packs.current_a[0] > 0
    assert unit.pack_view.current_a() == pytest.approx(-321.4)
    assert unit.pack_view.soc_pct() == pytest.approx(41.6)


def test_a_pack_without_frames_has_no_values():
    """Nothing comes to the master by a way beside the bus."""

    def prepared(run):
        unit = unit_of(run)
        for device in (unit.pack_sensor, *unit.slaves):
            rewrite(device, lambda _frame: None)

    current, charge, cells, degrees = pack_of(shown(Played("full", prepared=prepared, **GIVEN))[15])
    assert (current, charge) == (Sentinel.ABNORMAL, Sentinel.ABNORMAL)
    assert set(cells) == set(degrees) == {Sentinel.INVALID}


def test_a_wrong_frame_of_the_sensor_is_a_fault_and_its_values_are_not_used():
    """Values of before stay until they are as old as those of a silent slave; then there are none; then they are there again."""

    def prepared(run):
        run.kernel.call_at(run.start_ns + 5_500_000_000, unit_of(run).disturb_frames, 0, FrameFaultKind.CORRUPTED, 6)

    played = Played("full", prepared=prepared, **GIVEN)
    reports = shown(played)
    code = SlaveFault.CORRUPTED.code(0)
    has_fault = {second for second, bodies in reports.items() if code in bodies["Alarms"].ress_faults}
    unknown = {second for second, bodies in reports.items() if pack_of(bodies)[0] is Sentinel.ABNORMAL}
    assert has_fault == set(range(min(has_fault), max(has_fault) + 1))
    assert 6 <= len(has_fault) <= 9  # And until three frames were good.
    assert unknown < has_fault
    # Three rounds after the last good one, until one that follows a good one: over so many the counter may not jump.
    assert 3 <= len(unknown) <= 6
    assert max(unknown) < max(has_fault)
    assert all(pack_of(bodies)[1] is Sentinel.ABNORMAL for second, bodies in reports.items() if second in unknown)
    assert ("frame_corrupted", 0) in unit_of(played.run).figures.faults


def test_a_silent_sensor_is_told_as_a_silent_slave_is():
    def prepared(run):
        run.kernel.call_at(run.start_ns + 5_500_000_000, unit_of(run).pack_sensor.power_off)

    reports = shown(Played("full", prepared=prepared, **GIVEN))
    code = SlaveFault.SILENT.code(0)
    assert code not in reports[5]["Alarms"].ress_faults
    assert code in reports[15]["Alarms"].ress_faults
    assert pack_of(reports[15])[:2] == (Sentinel.ABNORMAL, Sentinel.ABNORMAL)


@pytest.mark.parametrize(
    ("current_a", "soc_pct", "told"),
    [
        (12.34, 50.04, {"Current": 12.3, "StateOfCharge": 50.0}),
        (-0.25, 0.0, {"Current": -0.2, "StateOfCharge": 0.0}),
        (3276.5, 100.0, {"Current": 3276.5, "StateOfCharge": 100.0}),
        (3276.6, 100.1, {"Current": "Abnormal", "StateOfCharge": "Abnormal"}),
        (-3276.9, -0.1, {"Current": "Abnormal", "StateOfCharge": "Abnormal"}),
        (float("nan"), float("nan"), {"Current": "Abnormal", "StateOfCharge": "Abnormal"}),
    ],
)
def test_what_the_sensor_says_on_the_bus(current_a, soc_pct, told):
    frame = SensorMessages(database("bms_internal")).measurement(current_a, soc_pct, alive=32)
    decoded = database("bms_internal").decode(frame)
    assert {name: decoded[name] for name in told} == told
    assert decoded["AliveCounter"] == 32 % 15
