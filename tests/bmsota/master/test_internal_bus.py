"""The internal bus from both ends: what a slave sends is what the master knows."""

from __future__ import annotations

import math
from random import Random

import pytest

from bmsota.adapters.files import packaged_database
from bmsota.canframe import CanFrame
from bmsota.errors import ConfigurationError
from bmsota.image import ImageVersion
from bmsota.master import MeasurementTable, PackLayout, SlaveFault, SlaveMessages

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
    return packaged_database("bms_internal")


def values(layout, position):
    random = Random(f"{layout}/{position}")
    cells = [round(random.uniform(2.5, 4.3), 3) for _ in range(layout.cells_per_slave)]
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
    assert [name["AliveCounter"] for name in names] == [300 % 15] * 5, "one round, one count"
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


@pytest.mark.parametrize(("cell_v", "probe_c"), [(0.0, -60.0), (6.553, 200.0)])
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
    send_round(database, ODD, table, 1, NOW + 2000, alive=2)
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


# ---- message protection


SECOND = 1_000_000_000
SMALL = PackLayout(slave_count=2, cells_per_slave=5, probes_per_slave=1)
SILENT_NS = 3 * SECOND


@pytest.fixture(scope="module")
def old_database():
    return packaged_database("bms_internal_unprotected")


class Bus:
    """Two slaves that send a round every second, and the master's table; a test disturbs what is on the wire."""

    def __init__(self, database, old=None, *, is_old=False):
        self.table = MeasurementTable(database, SMALL, unprotected=old)
        self.slaves = [SlaveMessages(old if is_old else database, position, SMALL) for position in (1, 2)]
        self.now_ns, self.alive = NOW, 0
        self.voltage_v = 3.5

    def round(self, disturb=lambda frames: frames, positions=(1, 2)):
        """One round of each slave; *disturb* gets that of slave 1. What has come and gone by it, in words."""
        self.alive += 1
        self.voltage_v += 0.01
        self.now_ns += SECOND
        for position in positions:
            cells = [self.voltage_v + position / 10] * SMALL.cells_per_slave
            frames = self.slaves[position - 1].measurements(cells, [20.0], alive=self.alive)
            for frame in disturb(frames) if position == 1 else frames:
                assert self.table.receive(frame, self.now_ns)
        self.table.forget_silent(self.now_ns - 3 * SECOND)
        changes = [
            f"{'+' if each.is_present else '-'}{each.fault.name} {each.position} {each.detail}"
            for each in self.table.faults.changes
        ]
        self.table.faults.changes.clear()
        return changes

    def cells(self, position=1):
        begin = (position - 1) * SMALL.cells_per_slave
        return self.table.cell_voltages_v[begin : begin + SMALL.cells_per_slave]


def flipped(frames, index, bit):
    data = (int.from_bytes(frames[index].data, "big") ^ 1 << bit).to_bytes(8, "big")
    return [*frames[:index], CanFrame(frames[index].can_id, data), *frames[index + 1 :]]


def test_no_flipped_bit_of_any_frame_reaches_a_value(database):
    """Each bit of each frame of a round: what was known stays, the fault is told, and the frame behind it counts again."""
    for index in range(4):
        for bit in range(0, 64, 5):
            bus = Bus(database)
            assert bus.round() == []
            before = (list(bus.table.cell_voltages_v), list(bus.table.temperatures_c), dict(bus.table.heard_ns))
            said = bus.round(lambda frames, index=index, bit=bit: flipped(frames, index, bit)[index : index + 1], (1,))
            name = ("Slave01_Status", "Slave01_Cells_1", "Slave01_Cells_2", "Slave01_Temperatures_1")[index]
            assert said == [f"+CORRUPTED 1 {name}: wrong CRC"]
            assert (bus.table.cell_voltages_v, bus.table.temperatures_c, bus.table.heard_ns) == before
            bus.round()
            assert bus.cells() == pytest.approx([bus.voltage_v + 0.1] * 5)


def test_a_frozen_frame_is_told_and_its_values_grow_old(database):
    """The rest of the slave goes on: only the group that is frozen becomes unknown, after three rounds, and comes back."""
    bus, held = Bus(database), []

    def freeze(frames):
        held[:] = held or [frames[1]]
        return [frames[0], held[0], *frames[2:]]

    assert bus.round(freeze) == []
    assert bus.round(freeze) == ["+REPEATED 1 Slave01_Cells_1: repeated"]
    assert [bus.round(freeze) for _ in range(2)] == [[], []]
    assert bus.cells()[:4] == pytest.approx([3.51 + 0.1] * 4), "three rounds old"
    for _ in range(5):
        assert bus.round(freeze) == [], "told once"
        assert bus.cells()[:4] == [None] * 4
        assert bus.cells()[4] == pytest.approx(bus.voltage_v + 0.1)
        assert bus.table.unheard(bus.now_ns - 1) == [1]
    assert bus.table.faults.present == ((1, SlaveFault.REPEATED),)
    # Nine rounds on, the counter has jumped; then it goes on.
    assert bus.round() == ["+OUT_OF_SEQUENCE 1 Slave01_Cells_1: out of sequence"]
    assert [bus.round() for _ in range(2)] == [[], []]
    assert bus.cells() == pytest.approx([bus.voltage_v + 0.1] * 5)
    assert bus.round() == [
        "-REPEATED 1 Slave01_Cells_1: good 3 times",
        "-OUT_OF_SEQUENCE 1 Slave01_Cells_1: good 3 times",
    ]
    assert bus.table.faults.present == ()


def test_a_frozen_frame_that_comes_slowly_is_told_too(database):
    """Each silence lets the counter continue anywhere, but not with the same frame again and again."""
    table = MeasurementTable(database, SMALL)
    slave = SlaveMessages(database, 1, SMALL)
    pause_ns = 2 * SILENT_NS
    frames = slave.measurements([3.5] * 5, [25.0], alive=3)
    for at_ns in range(pause_ns, 3 * pause_ns, pause_ns):
        for frame in frames:
            table.receive(frame, at_ns)
        assert table.faults.present == (), "once may be chance"
        table.forget_silent(at_ns)
        assert (table.cell_voltages_v[0] is None) is (at_ns > pause_ns), "but an old value is no new one"
    for frame in frames:
        table.receive(frame, 3 * pause_ns)
    assert table.faults.present == ((1, SlaveFault.REPEATED),)
    # It goes on, and is believed again.
    for alive in range(4, 8):
        for frame in slave.measurements([3.6] * 5, [25.0], alive=alive):
            table.receive(frame, 3 * pause_ns + alive)
    assert table.faults.present == ()
    assert table.cell_voltages_v[0] == pytest.approx(3.6)


def test_a_slave_that_starts_again_may_begin_with_the_same_frame(database):
    table = MeasurementTable(database, SMALL)
    slave = SlaveMessages(database, 1, SMALL)
    for number in range(4):
        at_ns = (number + 1) * 2 * SILENT_NS
        pages = slave.identity(hwid="A", version=ImageVersion(1, 0, 0), security_counter=1, transmission=0)
        for frame in [*pages, *slave.measurements([3.5] * 5, [25.0], alive=0)]:
            table.receive(frame, at_ns)
        table.forget_silent(at_ns)
        assert table.cell_voltages_v[0] == pytest.approx(3.5)
    assert table.faults.present == ()


@pytest.mark.slow
def test_unprotected_software_is_believed_when_protected_frames_have_ended(database, old_database):
    """Its identity pages were lost: the master does not know of the restart."""
    table = MeasurementTable(database, SMALL, unprotected=old_database)
    new_slave, old_slave = SlaveMessages(database, 1, SMALL), SlaveMessages(old_database, 1, SMALL)
    for frame in new_slave.measurements([3.5] * 5, [25.0], alive=0):
        table.receive(frame, 0)
    for at_ns, believed in ((1, 3.5), (SILENT_NS, 3.5), (SILENT_NS + 1, 3.6)):
        for frame in old_slave.measurements([3.6] * 5, [25.0], alive=0):
            table.receive(frame, at_ns)
        assert table.cell_voltages_v[0] == pytest.approx(believed)
        assert table.faults.present == ((1, SlaveFault.UNPROTECTED),)


def test_a_replayed_frame_is_told_and_not_used(database):
    bus, history = Bus(database), []

    def record(frames):
        history.append(frames[1])
        return frames

    for _ in range(6):
        assert bus.round(record) == []
    said = bus.round(lambda frames: [*frames, history[1]])
    assert said == ["+OUT_OF_SEQUENCE 1 Slave01_Cells_1: out of sequence"]
    assert bus.cells() == pytest.approx([bus.voltage_v + 0.1] * 5), "the old value was not taken"
    for _ in range(4):
        # However often: the right frames are used all the while.
        assert bus.round(lambda frames: [*frames, history[1]]) == []
        assert bus.cells() == pytest.approx([bus.voltage_v + 0.1] * 5)
    assert [bus.round() for _ in range(2)] == [[], []]
    assert bus.round() == ["-OUT_OF_SEQUENCE 1 Slave01_Cells_1: good 3 times"]


def test_lost_frames_are_no_fault_up_to_two_in_a_row(database):
    bus = Bus(database)
    for lost in (0, 1, 2):
        bus.alive += lost
        assert bus.round() == []
    bus.alive += 3
    assert bus.round()[0] == "+OUT_OF_SEQUENCE 1 Slave01_Status: out of sequence"


def test_a_slave_that_was_silent_for_long_may_count_on_from_anywhere(database):
    bus = Bus(database)
    bus.round()
    bus.now_ns += 3 * SECOND
    bus.alive += 5
    assert bus.round() == []
    assert None not in bus.table.cell_voltages_v


def test_a_slave_that_restarts_says_so_and_begins_anew(database):
    bus = Bus(database)
    for _ in range(7):
        bus.round()
    for frame in identity(database, 1, HWID, 1, SMALL) + identity(database, 2, HWID, 1, SMALL):
        bus.table.receive(frame, bus.now_ns)
    bus.alive = 0
    assert bus.round() == []


def test_a_fault_does_not_end_by_silence_nor_by_other_messages(database):
    bus = Bus(database)
    bus.round()
    assert len(bus.round(lambda frames: flipped(frames, 2, 9))) == 1
    for _ in range(9):
        assert bus.round(lambda frames: [frames[0], frames[1]]) == []
    assert bus.table.faults.present == ((1, SlaveFault.CORRUPTED),)
    assert bus.cells()[4] is None
    assert [bus.round() for _ in range(3)] == [[], [], ["-CORRUPTED 1 Slave01_Cells_2: good 3 times"]]


def test_a_frame_that_is_too_short_is_a_corrupted_one(database):
    bus = Bus(database)
    bus.round()
    said = bus.round(lambda frames: [*frames[:3], CanFrame(frames[3].can_id, frames[3].data[:5])])
    assert said == ["+CORRUPTED 1 Slave01_Temperatures_1: too short"]
    assert bus.table.malformed == 1


def test_a_slave_without_protection_is_measured_and_told(database, old_database):
    """The setting of mixed versions. Without it the master understands none of its frames."""
    bus = Bus(database, old_database, is_old=True)
    bus.slaves[1] = SlaveMessages(database, 2, SMALL)
    said = bus.round()
    assert said == ["+UNPROTECTED 1 Slave01_Status: no CRC and no counter"]
    assert bus.cells() == pytest.approx([bus.voltage_v + 0.1] * 5)
    assert bus.cells(2) == pytest.approx([bus.voltage_v + 0.2] * 5)
    assert bus.table.unheard(bus.now_ns - 1) == []
    assert [bus.round() for _ in range(5)] == [[]] * 5
    # It is upgraded, restarts and is protected from now on.
    bus.slaves[0] = SlaveMessages(database, 1, SMALL)
    for frame in identity(database, 1, HWID, 1, SMALL):
        bus.table.receive(frame, bus.now_ns)
    assert [bus.round() for _ in range(3)] == [[], [], ["-UNPROTECTED 1 Slave01_Temperatures_1: good 3 times"]]
    strict = Bus(database)
    frames = SlaveMessages(old_database, 1, SMALL).measurements([3.7] * 5, [20.0], alive=1)
    assert not any(strict.table.receive(frame, NOW) for frame in frames)


def test_who_has_sent_protected_frames_is_not_believed_without_protection(database, old_database):
    """Or whoever can put frames on the bus could leave the protection away. A slave that restarts may have gone back."""
    bus = Bus(database, old_database)
    bus.round()
    forged = SlaveMessages(old_database, 1, SMALL).measurements([4.5] * 5, [20.0], alive=1)
    assert bus.round(lambda frames: [*frames, *forged]) == ["+UNPROTECTED 1 Slave01_Status: no CRC and no counter"]
    assert bus.cells() == pytest.approx([bus.voltage_v + 0.1] * 5)
    for frame in identity(database, 1, HWID, 1, SMALL):
        bus.table.receive(frame, bus.now_ns)
    bus.round(lambda _frames: forged)
    assert bus.cells() == pytest.approx([4.5] * 5)


def test_a_dbc_without_protection_works_as_it_did(old_database):
    """A bus of one's own need not be protected: nothing is judged and nothing told."""
    table = MeasurementTable(old_database, SMALL)
    for _ in range(3):
        for frame in SlaveMessages(old_database, 1, SMALL).measurements([3.7123] * 5, [20.0], alive=300):
            assert table.receive(frame, NOW)
    assert table.cell_voltages_v[:5] == pytest.approx([3.7123] * 5)
    assert not table.faults.changes
    assert (
        old_database.decode(SlaveMessages(old_database, 1, SMALL).measurements([3.7] * 5, [20.0], alive=300)[0])[
            "AliveCounter"
        ]
        == 300 & 0xFF
    )


@pytest.mark.parametrize("layout", [F7, ODD, LARGE])
def test_frames_put_together_are_those_made_by_name(database, layout):
    """Also of values on ties, beyond every range and of no number, and of cells that there are not."""
    random = Random(7)
    wild = (
        math.nan,
        math.inf,
        -math.inf,
        -0.001,
        -0.0004,
        0.0,
        6.553,
        6.5534,
        6.5536,
        250.0,
        200.04,
        200.06,
        -60.04,
        -60.06,
    )
    quick, by_name = (SlaveMessages(database, 2, layout) for _ in range(2))
    assert all(group._plan is not None for group, _ in quick._groups)
    for group, _ in by_name._groups:
        group._plan = None
    for alive in range(40):
        cells = [
            random.choice((random.uniform(0, 6.6), random.randrange(13_200) / 2000))
            for _ in range(layout.cells_per_slave)
        ]
        probes = [
            random.choice((random.uniform(-70, 210), random.randrange(-1200, 4000) / 20))
            for _ in range(layout.probes_per_slave)
        ]
        if alive % 3 == 0:
            cells[random.randrange(len(cells))] = random.choice(wild)
            probes[random.randrange(len(probes))] = random.choice(wild)
        assert quick.measurements(cells, probes, alive=alive) == by_name.measurements(cells, probes, alive=alive)


def test_a_message_unlike_the_usual_one_is_made_by_name():
    """Without counter and CRC, as slaves from before message protection send it."""
    old = SlaveMessages(packaged_database("bms_internal_unprotected"), 1, F7)
    assert all(group._plan is None for group, _ in old._groups)
