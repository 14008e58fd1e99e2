"""The internal bus from both ends: what a slave sends is what the master knows."""

from __future__ import annotations

import math
from random import Random

import pytest

from bmsota.adapters.files import packaged_dbc
from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError
from bmsota.image import ImageVersion
from bmsota.master import MeasurementTable, PackLayout, SlaveMessages
from bmsota.signals import loads

F7 = PackLayout(slave_count=8, cells_per_slave=12, probes_per_slave=4)
E7 = PackLayout(slave_count=3, cells_per_slave=12, probes_per_slave=4)
# Neither cells nor probes fill their last frame.
ODD = PackLayout(slave_count=2, cells_per_slave=5, probes_per_slave=6)
# The most a position of the DBC can carry, and almost the most a report can.
LARGE = PackLayout(slave_count=6, cells_per_slave=32, probes_per_slave=8)
NOW = 1_000_000_000_000
HWID = "S000102ABCDEF012"


@pytest.fixture(scope="module")
def database():
    return loads(packaged_dbc("bms_internal"))


def values(layout, position):
    random = Random(f"{layout}/{position}")
    cells = [round(random.uniform(2.5, 4.3), 4) for _ in range(layout.cells_per_slave)]
    return cells, [round(random.uniform(-30, 60), 1) for _ in range(layout.probes_per_slave)]


def send_round(database, layout, table, position, now_ns, alive=1):
    frames = SlaveMessages(database, position, layout).measurements(*values(layout, position), alive=alive)
    for frame in frames:
        assert table.receive(frame, now_ns)
    return frames


@pytest.mark.slow
@pytest.mark.parametrize("layout", [F7, E7, ODD, LARGE], ids=["F7", "E7", "odd", "large"])
def test_the_master_knows_what_every_slave_measured(database, layout):
    table = MeasurementTable(database, layout)
    for position in range(1, layout.slave_count + 1):
        send_round(database, layout, table, position, NOW + position)
    expected = [values(layout, position) for position in range(1, layout.slave_count + 1)]
    assert table.cell_voltages_v == pytest.approx([cell for cells, _ in expected for cell in cells], abs=1e-9)
    assert table.temperatures_c == pytest.approx([probe for _, probes in expected for probe in probes], abs=1e-9)
    assert table.heard_ns == {position: NOW + position for position in range(1, layout.slave_count + 1)}


@pytest.mark.slow
def test_a_round_is_status_then_cells_then_probes(database):
    frames = SlaveMessages(database, 2, F7).measurements(*values(F7, 2), alive=300)
    names = [database.decode(frame) for frame in frames]
    assert len(frames) == 1 + 3 + 1
    assert names[0]["AliveCounter"] == 300 & 0xFF
    assert names[0]["State"] == "Measuring"
    assert all(frame.can_id < 0x600 for frame in frames)


def test_places_without_a_cell_are_invalid_on_the_wire(database):
    frames = SlaveMessages(database, 1, ODD).measurements(*values(ODD, 1), alive=0)
    last_cells, last_probes = database.decode(frames[2]), database.decode(frames[4])
    assert [last_cells[f"Cell_{number:02d}"] for number in (6, 7, 8)] == ["Invalid"] * 3
    assert [last_probes[f"Probe_{number}"] for number in (7, 8)] == ["Invalid"] * 2


@pytest.mark.parametrize(
    ("cell_v", "probe_c"),
    [(6.6, 20.0), (-0.2, 20.0), (math.nan, 20.0), (math.inf, 20.0), (3.7, 200.1), (3.7, -60.1), (3.7, math.nan)],
)
def test_a_broken_sensor_is_abnormal_on_the_wire_and_unknown_to_the_master(database, cell_v, probe_c):
    """A cell beyond its range must not silence the slave: the others' values still count."""
    cells, probes = values(F7, 1)
    cells[1], probes[1] = cell_v, probe_c
    table = MeasurementTable(database, F7)
    for frame in SlaveMessages(database, 1, F7).measurements(cells, probes, alive=0):
        table.receive(frame, NOW)
    is_cell = cell_v != 3.7
    assert (table.cell_voltages_v[1] is None) is is_cell
    assert (table.temperatures_c[1] is None) is not is_cell
    assert None not in (table.cell_voltages_v[0], table.cell_voltages_v[2], table.temperatures_c[0])


@pytest.mark.parametrize(("cell_v", "probe_c"), [(0.0, -60.0), (6.5533, 200.0)])
def test_the_ends_of_the_ranges_are_values(database, cell_v, probe_c):
    table = MeasurementTable(database, F7)
    for frame in SlaveMessages(database, 1, F7).measurements([cell_v] * 12, [probe_c] * 4, alive=0):
        table.receive(frame, NOW)
    assert table.cell_voltages_v[:12] == pytest.approx([cell_v] * 12)
    assert table.temperatures_c[:4] == pytest.approx([probe_c] * 4)


def test_frames_of_others_are_not_taken(database):
    table = MeasurementTable(database, ODD)
    stranger = SlaveMessages(database, 3, ODD).measurements(*values(ODD, 3), alive=0)
    assert not any(table.receive(frame, NOW) for frame in stranger)
    assert not table.receive(CanFrame(0x7FF, b"\x00" * 8), NOW)
    assert table.cell_voltages_v == [None] * 10
    assert stranger[0].can_id not in table.accepts


def test_a_silent_slave_is_forgotten_and_the_others_stay(database):
    table = MeasurementTable(database, ODD)
    send_round(database, ODD, table, 1, NOW)
    send_round(database, ODD, table, 2, NOW + 1000)
    table.forget_silent(NOW)
    assert None not in table.cell_voltages_v
    table.forget_silent(NOW + 1)
    assert table.cell_voltages_v[:5] == [None] * 5
    assert table.temperatures_c[:6] == [None] * 6
    assert None not in table.cell_voltages_v[5:]
    assert None not in table.temperatures_c[6:]
    send_round(database, ODD, table, 1, NOW + 2000)
    assert None not in table.cell_voltages_v


def identity(database, position, hwid, transmission, layout=F7):
    return SlaveMessages(database, position, layout).identity(
        hwid=hwid, version=ImageVersion(2, 1, 0, 5), security_counter=7, transmission=transmission
    )


@pytest.mark.parametrize("hwid", [HWID, "S", "S" * 24])
def test_the_identity_pages_bring_the_hwid(database, hwid):
    table = MeasurementTable(database, F7)
    for frame in identity(database, 3, hwid, 1):
        assert table.hwids == {}
        table.receive(frame, NOW)
    assert table.hwids == {3: hwid}


def test_the_pages_may_come_in_any_order(database):
    table = MeasurementTable(database, F7)
    frames = identity(database, 3, HWID, 1)
    Random(1).shuffle(frames)
    for frame in frames:
        table.receive(frame, NOW)
    assert table.hwids == {3: HWID}


def test_a_missing_page_leaves_the_hwid_unknown_until_the_next_transmission(database):
    table = MeasurementTable(database, F7)
    for frame in identity(database, 3, HWID, 1)[:-1]:
        table.receive(frame, NOW)
    assert table.hwids == {}
    for frame in identity(database, 3, HWID, 2):
        table.receive(frame, NOW)
    assert table.hwids == {3: HWID}


def test_pages_of_two_slaves_at_one_place_are_not_mixed(database):
    """A slave is replaced in the middle of its transmission: no id that belongs to neither."""
    table = MeasurementTable(database, F7)
    old, new = identity(database, 3, HWID, 1), identity(database, 3, "S999999999999999", 2)
    for frame in (*old[:6], *new[6:]):
        table.receive(frame, NOW)
    assert table.hwids == {}
    for frame in new:
        table.receive(frame, NOW)
    assert table.hwids == {3: "S999999999999999"}


def test_what_is_kept_of_half_received_identities_is_bounded(database):
    table = MeasurementTable(database, F7)
    for transmission in range(300):
        for frame in identity(database, 1, HWID, transmission)[:-1]:
            table.receive(frame, NOW)
    assert len(table._serials) == 1


def test_the_transmission_number_wraps(database):
    table = MeasurementTable(database, F7)
    for frame in identity(database, 1, HWID, 256 + 4):
        table.receive(frame, NOW)
    assert table.hwids == {1: HWID}


def test_the_identity_pages_bring_the_version(database):
    table = MeasurementTable(database, F7)
    frames = identity(database, 3, HWID, 1)
    table.receive(frames[0], NOW)
    assert table.versions == {}
    table.receive(frames[1], NOW)
    assert table.versions == {3: ImageVersion(2, 1, 0, 5)}


def test_halves_of_two_versions_are_not_mixed(database):
    """A slave restarts into another version in the middle of its transmission."""
    table = MeasurementTable(database, F7)
    table.receive(identity(database, 3, HWID, 1)[0], NOW)
    table.receive(identity(database, 3, HWID, 2)[1], NOW)
    assert table.versions == {}


@pytest.mark.parametrize("slaves", [0, -1, 26])
def test_a_pack_has_cells_and_no_more_than_a_report_carries(slaves):
    assert PackLayout(slave_count=25, cells_per_slave=8, probes_per_slave=1).cell_count == 200
    with pytest.raises(ConfigurationError, match=f"pack: expected 1 to 200 cells, got {8 * slaves}"):
        PackLayout(slave_count=slaves, cells_per_slave=8, probes_per_slave=1)


def test_a_frame_that_is_too_short_is_counted_and_costs_only_its_own_values(database):
    """A bus with a faulty slave must not stop the master."""
    table = MeasurementTable(database, F7)
    frames = SlaveMessages(database, 1, F7).measurements(*values(F7, 1), alive=0)
    short = frames[1]
    for frame in (*frames[:1], CanFrame(short.can_id, short.data[:3]), *frames[2:]):
        assert table.receive(frame, NOW)
    assert table.malformed == 1
    assert table.cell_voltages_v[:4] == [None] * 4
    assert None not in table.cell_voltages_v[4:12]


def test_an_extended_id_of_the_same_number_is_another_message(database):
    table = MeasurementTable(database, F7)
    frame = SlaveMessages(database, 1, F7).measurements(*values(F7, 1), alive=0)[0]
    assert not table.receive(CanFrame(frame.can_id, frame.data, is_extended_id=True), NOW)
