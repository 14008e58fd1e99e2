"""The journal's records, areas and what it survives. Layout locks are written out by hand from docs/bootloader.md."""

from __future__ import annotations

from zlib import crc32

import pytest
from bmsota_sim.devices.flash import FlashModel, PowerCut

from bmsota.boot import RECORD_NAME_BYTES_MAX, SlotLayout
from bmsota.boot._journal import HEAD_BYTES, HEADER_BYTES, Journal, Record, RecordKind
from bmsota.errors import ConfigurationError, FlashWornError, LocalProtocolError

APPLICATION = RecordKind.APPLICATION


class Desk:
    """A journal whose snapshot is the newest record alone."""

    def __init__(self, **options):
        self.flash = FlashModel(4096, erase_block_bytes=512, **options)
        self.layout = SlotLayout.divide(self.flash)
        self.newest = []
        self.open()

    def open(self):
        self.flash.power_on()
        self.journal = Journal(self.flash, self.layout, snapshot=lambda: self.newest)
        return self.journal

    def put(self, payload, kind=APPLICATION):
        self.newest = [Record(kind, payload)]
        if not self.journal.append(self.newest[0]):
            self.journal.compact()

    def put_often(self, payload):
        for _ in range(6):
            self.put(payload)

    def found(self):
        return [record.payload for record in self.open().records]


def record_bytes(kind, sequence, payload, unit=8):
    facts = b"\xa7\xb0" + bytes([kind]) + len(payload).to_bytes(2, "little") + sequence.to_bytes(4, "little")
    raw = b"\xa7\xb0" + bytes([kind, 0xFF]) + len(payload).to_bytes(2, "little")
    raw += (crc32(facts) & 0xFFFF).to_bytes(2, "little") + sequence.to_bytes(4, "little")
    raw += crc32(payload).to_bytes(4, "little") + payload
    return raw + b"\xff" * (-len(raw) % unit)


def test_the_bytes_of_an_area_are_these():
    """Byte lock: head with generation 1, then two records, padded to write units."""
    desk = Desk()
    desk.put(b"first")
    desk.put(b"second!!!")
    head = b"bmsj" + (1).to_bytes(4, "little") + (1).to_bytes(4, "little")
    expected = head + crc32(head).to_bytes(4, "little")
    expected += record_bytes(3, 1, b"first") + record_bytes(3, 2, b"second!!!")
    for start in desk.layout.journal_offsets:
        assert desk.flash.read(start, len(expected) + 8) == expected + b"\xff" * 8
    assert (HEAD_BYTES, HEADER_BYTES) == (16, 16)


def test_a_new_flash_has_no_records():
    assert Desk().found() == []


@pytest.mark.parametrize("unit", [1, 4, 8, 16, 32])
def test_records_are_found_again_in_order(unit):
    desk = Desk(write_unit_bytes=unit)
    desk.put(b"a")
    desk.put(b"bb" * 20)
    desk.put(b"")
    desk.put(b"\xff" * 40)  # reads as erased, except for its header
    assert desk.found() == [b"a", b"bb" * 20, b"", b"\xff" * 40]
    desk.put(b"later")
    assert desk.found()[-1] == b"later"


def test_areas_are_used_in_turn_and_the_newer_one_counts():
    desk = Desk()
    generations = set()
    for index in range(60):
        desk.put(b"%02d" % index * 10)
        generations.add((desk.journal._oldest(), max(desk.journal._generations)))
        assert desk.found()[-1] == b"%02d" % index * 10
    assert {area for area, _ in generations} == {0, 1}
    assert max(generation for _, generation in generations) > 4


def test_a_torn_record_is_skipped_and_the_older_one_wins():
    for seed in range(40):
        desk = Desk(seed=seed)
        desk.put(b"old")
        desk.flash.cut_at(desk.flash.operations + 1, "inside")
        with pytest.raises(PowerCut):
            desk.put(b"new" * 30)
        assert desk.found() == [b"old"]
        desk.put(b"newer")  # the model raises if a spent cell is written
        assert desk.found() == [b"newer"]


@pytest.mark.slow
def test_any_number_of_cuts_in_a_row_leaves_the_older_record_and_no_spent_cell_is_written():
    """Each of them in the first writes after a power-up, where one time in eight nothing of it can be seen."""
    for seed in range(60):
        desk = Desk(seed=seed)
        desk.put(b"old")
        for cut in range(12):
            desk.open()
            desk.flash.cut_at(desk.flash.operations + 1 + (seed + cut) % 4, "inside")
            with pytest.raises(PowerCut):
                desk.put_often(b"new" * 30)
            found = desk.found()
            assert found
            assert found[-1] in {b"old", b"new" * 30}
            desk.flash.clear_cuts()
        desk.put(b"newest")
        assert desk.found() == [b"newest"]


def test_a_power_up_without_a_change_writes_nothing():
    desk = Desk()
    desk.put(b"one")
    operations = desk.flash.operations
    for _ in range(3):
        assert desk.found() == [b"one"]
    assert desk.flash.operations == operations


def test_a_record_inside_a_torn_record_is_never_believed():
    """A value may hold bytes that are a valid record; a torn write of it must not bring it to life."""
    inner = record_bytes(3, 77, b"smuggled")
    for seed in range(60):
        desk = Desk(seed=seed)
        desk.put(b"old")
        desk.flash.cut_at(desk.flash.operations + 1, "inside")
        with pytest.raises(PowerCut):
            desk.put(inner * 3 + bytes(8))
        assert desk.found() == [b"old"]


def test_a_damaged_record_costs_only_itself():
    desk = Desk()
    for payload in (b"one", b"two", b"three"):
        desk.put(payload)
    for start in desk.layout.journal_offsets:  # Damage in one area costs nothing.
        assert desk.found() == [b"one", b"two", b"three"]
        desk.flash.flip_bit(start + 16 + 24 + 17, 0)  # the payload of the second record
    assert desk.found() == [b"one", b"three"]
    for start in desk.layout.journal_offsets:
        assert desk.found() == [b"one", b"three"]
        desk.flash.flip_bit(start + 16 + 4, 0)  # the first record's length: its header is not believed
    assert desk.found() == [b"three"]


def test_an_area_with_a_damaged_or_foreign_head_does_not_count():
    desk = Desk()
    for index in range(40):
        desk.put(b"%02d" % index * 10)
    whole = desk.found()
    for offset in (0, 5, 9, 13):  # magic, version, generation, CRC
        for start in desk.layout.journal_offsets:
            desk.flash.flip_bit(start + offset, 1)
            is_other_left = start == desk.layout.journal_offsets[0]
            assert desk.found() == (whole if is_other_left else [])
            assert desk.journal.is_settled is not is_other_left
        for start in desk.layout.journal_offsets:
            desk.flash.flip_bit(start + offset, 1)
    assert desk.found() == whole


def test_a_record_kind_of_a_later_version_is_skipped():
    desk = Desk()
    desk.put(b"known")
    for start in desk.layout.journal_offsets:
        desk.flash.write(start + 16 + 24, record_bytes(99, 2, b"unknown"))
    assert desk.found() == [b"known"]
    desk.put(b"next")
    assert desk.found() == [b"next"]


def test_a_snapshot_larger_than_an_area_is_refused_and_nothing_is_written():
    desk = Desk()
    desk.put(b"small")
    operations = desk.flash.operations
    with pytest.raises(LocalProtocolError, match="expected at most 512 bytes of live records, got 632"):
        desk.put(bytes(600))
    assert desk.flash.operations == operations
    assert desk.found() == [b"small"]


def test_flash_time_is_counted():
    desk = Desk(erase_ns=1_000_000, program_ns=10)
    desk.put(b"")
    assert desk.journal.busy_ns == 2 * (
        1_000_000 + 10 * (2 + 2)
    )  # two areas: an erase, a record of two units, a head of two


def test_a_layout_must_fit_its_flash():
    flash = FlashModel(8192, erase_block_bytes=1024)
    good = {
        "slot_offsets": (0, 2048),
        "slot_size_bytes": 2048,
        "journal_offsets": (4096, 5120),
        "journal_size_bytes": 1024,
    }
    SlotLayout(**good).check(flash)
    for change in (
        {"slot_offsets": (0, 1024)},
        {"slot_offsets": (0, 2000)},
        {"journal_size_bytes": 1000},
        {"journal_offsets": (4096, 8192)},
        {"slot_size_bytes": 0},
    ):
        with pytest.raises(ConfigurationError):
            SlotLayout(**{**good, **change}).check(flash)
    with pytest.raises(ConfigurationError, match="expected more than"):
        SlotLayout.divide(FlashModel(2048, erase_block_bytes=1024))


def test_divide_gives_the_journal_what_it_asks_for():
    layout = SlotLayout.divide(FlashModel(65536, erase_block_bytes=2048), journal_size_bytes=5000)
    assert layout == SlotLayout(
        slot_offsets=(0, 26624), slot_size_bytes=26624, journal_offsets=(53248, 59392), journal_size_bytes=6144
    )
    assert RECORD_NAME_BYTES_MAX == 32


# -- two copies, worn cells


def wear(desk, fault, area, offset, bit=0):
    desk.flash.wear(fault, desk.layout.journal_offsets[area] + offset, bit)


@pytest.mark.parametrize("area", [0, 1])
@pytest.mark.parametrize("offset", [16, 20, 24, 30, 36])
@pytest.mark.parametrize("fault", ["not programmed", "unreadable"])
def test_a_record_whose_cells_do_not_keep_it_is_written_again_behind_them(area, offset, fault):
    """In the header, in the payload; nothing is lost and nothing is worn yet."""
    desk = Desk()
    for bit in range(8):
        wear(desk, fault, area, offset, bit)
    desk.put(b"\x00" * 9)
    desk.put(b"\x00" * 8)
    assert desk.journal.problem == ""
    assert desk.found() == [b"\x00" * 9, b"\x00" * 8]
    assert desk.journal.is_settled


def test_a_head_whose_cells_do_not_keep_it_stands_among_the_records():
    desk = Desk()
    for area in (0, 1):
        wear(desk, "not programmed", area, 0, 0)
    desk.put(b"first")
    assert [desk.flash.read(start, 4) == b"bmsj" for start in desk.layout.journal_offsets] == [False, False]
    assert desk.found() == [b"first"]
    desk.put(b"second")
    assert (desk.found(), desk.journal.problem) == ([b"second"], "")


def dead(desk, area):
    """No unit of the area can be read any more."""
    for offset in range(0, 512, 8):
        wear(desk, "unreadable", area, offset)


def test_with_one_area_left_a_change_counts_and_its_copy_is_missed():
    desk = Desk()
    desk.put(b"one")
    dead(desk, 0)
    assert desk.found() == [b"one"]
    assert not desk.journal.is_settled
    with pytest.raises(FlashWornError, match="flash worn: journal area 0 does not keep what is written to it"):
        desk.put(b"two")
    assert desk.found() == [b"one"]
    desk = Desk()
    dead(desk, 0)
    with pytest.raises(FlashWornError):
        desk.put(b"one")  # nothing was there before, and the first area is the dead one
    desk = Desk()
    dead(desk, 1)
    desk.put(b"one")
    assert desk.journal.problem == "journal area 1 does not keep what is written to it"
    assert desk.found() == [b"one"]


def test_a_change_that_is_refused_is_not_found_later():
    """Whatever the worn area has kept of it: the other one does not have it."""
    for operations in range(3):
        desk = Desk()
        desk.put(b"one")
        desk.put(b"two")
        desk.open()
        for _ in range(operations):
            desk.put(b"two")
        dead(desk, 1)
        try:
            desk.put(b"three")
        except FlashWornError:
            assert b"three" not in desk.found()
        else:
            assert desk.found()[-1] == b"three"


def test_what_stands_in_one_area_only_must_be_settled_before_it_counts():
    """A cut between the two writes of one record: it is found, and may only be believed when it stands twice."""
    desk = Desk()
    desk.put(b"old")
    desk.flash.cut_at(desk.flash.operations + 1, "after")
    with pytest.raises(PowerCut):
        desk.put(b"new")
    assert desk.found() == [b"old", b"new"]
    assert not desk.journal.is_settled
    desk.newest = [Record(APPLICATION, b"new")]
    desk.journal.compact()
    assert desk.found() == [b"new"]
    assert desk.journal.is_settled


@pytest.mark.slow
def test_a_record_once_read_as_new_is_never_read_as_old_afterwards():
    """Cuts that leave cells which read differently each time, at every write; what is settled stays."""
    news = 0
    for seed in range(400):
        desk = Desk(seed=seed, cuts_are_unstable=True)
        desk.put(b"old")
        desk.flash.cut_at(desk.flash.operations + 1 + seed % 10, "inside")
        with pytest.raises(PowerCut):
            desk.put_often(b"new")
        desk.flash.clear_cuts()
        first = desk.found()[-1]
        desk.newest = [Record(APPLICATION, first)]
        if not desk.journal.is_settled:
            desk.journal.compact()
        news += first == b"new"
        for _ in range(5):
            assert desk.found()[-1] == first
        desk.put(b"next")
        assert desk.found()[-1] == b"next"
    assert 100 < news < 400


def test_an_area_that_reads_differently_each_time_is_erased_first():
    """The steady one stays, whatever the generations say."""
    for area in (0, 1):
        desk = Desk()
        for number in range(3):
            desk.put(b"%d" % number)
            desk.open()
        wear(desk, "unstable", area, 14)
        desk.open()
        assert not desk.journal.is_settled
        assert desk.journal._oldest() == area


def test_a_journal_of_one_copy_is_read_and_gets_its_second_at_the_next_change():
    """As versions wrote it that did not keep copies: generation 7 counts, 6 is what was there before."""
    desk = Desk()
    for area, generation, payload in ((0, 6, b"stale"), (1, 7, b"current")):
        head = b"bmsj" + (1).to_bytes(4, "little") + generation.to_bytes(4, "little")
        start = desk.layout.journal_offsets[area]
        desk.flash.write(start, head + crc32(head).to_bytes(4, "little"))
        desk.flash.write(start + 16, record_bytes(3, generation, payload))
    assert desk.found() == [b"current"]
    assert not desk.journal.is_settled
    desk.put(b"next")
    assert desk.found() == [b"next"]
    assert desk.journal.is_settled
    assert desk.journal._generations[0] == desk.journal._generations[1] > 8
