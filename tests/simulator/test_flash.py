"""The flash model: what it forbids, and what a power cut leaves."""

from __future__ import annotations

import pytest
from bmsota_sim.defaults import factory_images
from bmsota_sim.devices.flash import CutPhase, FlashMisuseError, FlashModel, PowerCut, share_pages
from bmsota_sim.kernel import Kernel
from bmsota_sim.run.runner import Run
from bmsota_sim.run.scenario import parse_scenario
from bmsota_sim.session_platform import SessionPlatform
from bmsota_sim.virtual import VIRTUAL_START_NS, MemoryUplink
from hypothesis import given
from hypothesis import strategies as st

from bmsota.errors import ConfigurationError, FlashError

UNIT, BLOCK = 8, 256
DATA = bytes(range(64))


@pytest.fixture
def flash():
    return FlashModel(1024, erase_block_bytes=BLOCK, write_unit_bytes=UNIT, seed=1)


def test_a_new_flash_is_erased_and_keeps_what_is_written(flash):
    assert flash.read(0, 1024) == b"\xff" * 1024
    flash.write(8, DATA)
    assert flash.read(0, 80) == b"\xff" * 8 + DATA + b"\xff" * 8
    assert flash.operations == 1


def test_a_cell_can_be_written_once_per_erase(flash):
    flash.write(0, DATA)
    with pytest.raises(FlashMisuseError, match=r"offset 56"):
        flash.write(56, bytes(16))
    flash.erase(0)
    flash.write(56, bytes(16))
    assert flash.read(0, 72) == b"\xff" * 56 + bytes(16)


def test_writing_erased_bytes_spends_the_cells_too(flash):
    flash.write(0, b"\xff" * 8)
    with pytest.raises(FlashMisuseError):
        flash.write(0, b"\xff" * 8)


@pytest.mark.parametrize(
    ("operation", "arguments"),
    [
        ("write", (4, bytes(8))),
        ("write", (0, bytes(7))),
        ("write", (0, b"")),
        ("erase", (8,)),
        ("read", (1020, 8)),
        ("read", (-1, 4)),
    ],
)
def test_unaligned_and_outside_accesses_are_refused(flash, operation, arguments):
    with pytest.raises(FlashMisuseError):
        getattr(flash, operation)(*arguments)


def test_a_geometry_that_does_not_divide_is_refused():
    with pytest.raises(ConfigurationError):
        FlashModel(1000, erase_block_bytes=256)


def test_a_cut_before_leaves_everything_as_it_was_and_a_cut_after_everything_done():
    for phase, expected in ((CutPhase.BEFORE, b"\xff" * 64), (CutPhase.AFTER, DATA)):
        flash = FlashModel(1024, erase_block_bytes=BLOCK)
        flash.cut_at(1, phase)
        with pytest.raises(PowerCut) as cut:
            flash.write(0, DATA)
        assert (cut.value.operation, cut.value.phase) == (1, phase)
        flash.power_on()
        assert flash.read(0, 64) == expected
        if phase is CutPhase.BEFORE:
            flash.write(0, DATA)


def test_a_cut_inside_a_write_leaves_a_prefix_a_torn_unit_and_untouched_cells():
    """The torn unit has only bits that the data clear; what follows may still be written; all seeds differ and replay."""
    results = []
    invisible = 0
    for seed in range(60):
        contents = []
        for _ in range(2):
            flash = FlashModel(1024, erase_block_bytes=BLOCK, seed=seed)
            flash.cut_at(1, "inside")
            with pytest.raises(PowerCut):
                flash.write(0, DATA)
            flash.power_on()
            contents.append(flash.read(0, 64))
        assert contents[0] == contents[1]
        units = [contents[0][i : i + UNIT] for i in range(0, 64, UNIT)]
        whole = next(i for i in range(8) if units[i] != DATA[i * UNIT : (i + 1) * UNIT])
        torn = units[whole]
        assert all(a & b == b for a, b in zip(torn, DATA[whole * UNIT :], strict=False))
        assert all(unit == b"\xff" * UNIT for unit in units[whole + 1 :])
        invisible += torn == b"\xff" * UNIT
        with pytest.raises(FlashMisuseError):
            flash.write(whole * UNIT, bytes(UNIT))
        if whole < 7:
            flash.write((whole + 1) * UNIT, bytes(UNIT))
        results.append(contents[0])
    assert len(set(results)) > 30
    assert invisible  # a unit that reads as erased and is spent all the same


def test_a_cut_inside_an_erase_leaves_cells_that_must_be_erased_again():
    flash = FlashModel(1024, erase_block_bytes=BLOCK, seed=3)
    flash.write(0, bytes(BLOCK))
    flash.write(BLOCK, bytes(8))
    flash.cut_at(3, "inside")
    with pytest.raises(PowerCut):
        flash.erase(0)
    flash.power_on()
    content = flash.read(0, BLOCK)
    assert content not in {bytes(BLOCK), b"\xff" * BLOCK}
    for offset in range(0, BLOCK, UNIT):
        with pytest.raises(FlashMisuseError):
            flash.write(offset, bytes(UNIT))
    flash.erase(0)
    flash.write(0, bytes(BLOCK))
    assert flash.read(BLOCK, 8) == bytes(8)


def test_without_power_nothing_works_until_it_is_back(flash):
    flash.write(0, DATA)
    flash.power_off()
    for access in (lambda: flash.read(0, 8), lambda: flash.write(512, bytes(8)), lambda: flash.erase(0)):
        with pytest.raises(PowerCut, match="while off"):
            access()
    flash.power_on()
    assert flash.read(0, 64) == DATA
    assert flash.operations == 1


def test_a_cut_in_the_past_is_refused_and_planned_cuts_can_be_dropped(flash):
    flash.write(0, DATA)
    with pytest.raises(ConfigurationError, match="after 1, got 1"):
        flash.cut_at(1, "before")
    flash.cut_at(2, "before")
    flash.clear_cuts()
    flash.erase(0)


def test_a_flipped_bit_is_seen_by_reading(flash):
    flash.write(0, DATA)
    flash.flip_bit(3, 0)
    assert flash.read(3, 1) == bytes((DATA[3] ^ 1,))


# -- worn cells


def test_a_bit_that_is_not_programmed_keeps_its_value_until_it_is_erased(flash):
    flash.wear("not programmed", 3, 4)
    flash.write(0, bytes(8))
    assert flash.read(0, 8) == bytes([0, 0, 0, 16, 0, 0, 0, 0])
    flash.erase(0)
    flash.write(0, bytes([255] * 8))
    assert flash.read(0, 8) == b"\xff" * 8


def test_a_bit_that_is_not_erased_keeps_its_value(flash):
    flash.write(0, bytes(8))
    flash.wear("not erased", 3, 4)
    assert flash.read(0, 8) == bytes(8)
    flash.erase(0)
    assert flash.read(0, 8) == bytes([255, 255, 255, 255 - 16, 255, 255, 255, 255])
    assert flash.read(8, 8) == b"\xff" * 8


def test_an_unstable_bit_reads_as_either_and_the_same_in_every_run():
    def readings():
        flash = FlashModel(1024, erase_block_bytes=BLOCK, write_unit_bytes=UNIT, seed=1)
        flash.write(0, DATA)
        flash.wear("unstable", 5, 1)
        return [flash.read(0, 64) for _ in range(40)]

    first = readings()
    assert {reading[5] for reading in first} == {5, 7}
    assert {reading[:5] + reading[6:] for reading in first} == {DATA[:5] + DATA[6:]}
    assert readings() == first


def test_an_unreadable_unit_is_an_error_of_every_read_of_it(flash):
    flash.write(0, DATA)
    flash.wear("unreadable", 19)
    for offset, size in ((16, 8), (0, 64), (23, 1), (0, 17)):
        with pytest.raises(FlashError, match="offset 16"):
            flash.read(offset, size)
    flash.erase(0)
    flash.write(0, DATA)
    assert flash.read(0, 16) + flash.read(24, 40) == DATA[:16] + DATA[24:]


def test_what_a_cut_leaves_in_between_is_unstable_until_it_is_erased():
    """Without the option it reads the same each time (above)."""
    unstable = 0
    for seed in range(40):
        flash = FlashModel(1024, erase_block_bytes=BLOCK, write_unit_bytes=UNIT, seed=seed, cuts_are_unstable=True)
        flash.cut_at(1, "inside")
        with pytest.raises(PowerCut):
            flash.write(0, DATA)
        flash.power_on()
        contents = {flash.read(0, 64) for _ in range(20)}
        unstable += len(contents) > 1
        flash.cut_at(2, "inside")
        with pytest.raises(PowerCut):
            flash.erase(0)
        flash.power_on()
        flash.erase(0)
        assert {flash.read(0, BLOCK) for _ in range(20)} == {b"\xff" * BLOCK}
    assert unstable > 20


def test_flashes_share_what_they_hold_until_one_writes():
    """Copy on write, page by page: what one does changes no other, and costs one page."""
    first = FlashModel(8192, erase_block_bytes=1024, seed="a")
    for offset in range(0, 3072, 512):
        first.write(offset, bytes([offset >> 8 | 1]) * 512)
    contents = first.contents()
    others = [FlashModel(8192, erase_block_bytes=1024, seed=seed) for seed in "bc"]
    for other in others:
        other.hold(contents)
        assert other.dump() == first.dump()
        assert (other.operations, other.own_bytes) == (first.operations, 0)
    before = first.dump()
    others[0].write(3072, b"\x55" * 8)
    assert others[0].own_bytes == 1024 + 128
    others[0].erase(1024)
    others[0].flip_bit(0, 3)
    assert others[0].read(0, 1) == bytes([1 ^ 8])
    assert others[0].read(1020, 12) == before[0][1020:1024] + b"\xff" * 8
    assert first.dump() == others[1].dump() == before
    with pytest.raises(FlashMisuseError):
        others[1].write(0, b"\x00" * 8)
    others[0].write(1024, b"\x00" * 8)
    with pytest.raises(ConfigurationError, match="expected contents of 4096 bytes, got 8192 bytes"):
        FlashModel(4096, erase_block_bytes=1024).hold(contents)


def test_an_erased_flash_holds_no_page_and_a_written_copy_of_a_shared_page_is_shared():
    flash = FlashModel(8192, erase_block_bytes=1024)
    assert flash.own_bytes == 0
    assert flash.read(0, 8192) == b"\xff" * 8192
    page = bytes(range(256)) * 4
    flash.write(0, page)
    share_pages(flash.contents())
    other = FlashModel(8192, erase_block_bytes=1024)
    other.write(2048, page[:512])
    assert other.own_bytes == 1024 + 128
    other.write(2560, page[512:])
    assert other.own_bytes == 0
    assert other.read(2048, 1024) == page
    with pytest.raises(FlashMisuseError):
        other.write(2048, page[:8])
    other.erase(2048)
    assert other.read(2048, 1024) == b"\xff" * 1024
    assert flash.read(0, 1024) == page


@given(
    st.lists(st.tuples(st.sampled_from(["write", "erase", "cut"]), st.integers(0, 63), st.integers(1, 40)), max_size=30)
)
def test_pages_are_what_one_array_of_bytes_is(steps):
    """A flash that begins with shared contents and one that was written to by itself go through the same life alike."""
    made = FlashModel(4096, erase_block_bytes=512, seed=1)
    made.write(500 // 8 * 8, bytes(1024))
    held = FlashModel(4096, erase_block_bytes=512, seed=1)
    held.hold(made.contents())
    for what, place, count in steps:
        results = []
        for flash in (made, held):
            flash.power_on()
            try:
                if what == "cut":
                    flash.cut_at(flash.operations + 1, CutPhase.INSIDE)
                if what == "erase":
                    flash.erase(place % 8 * 512)
                else:
                    flash.write(place * 64, bytes([count]) * 8 * min(count, (4096 - place * 64) // 8))
                results.append("")
            except (PowerCut, FlashMisuseError) as error:
                results.append(str(error))
                flash.clear_cuts()
        assert results[0] == results[1]
        assert made.dump() == held.dump()


def test_new_nodes_share_what_the_production_line_writes():
    """Master and slaves of all units hold one copy of the image, and the bytes that each would have written by itself."""
    kernel = Kernel(VIRTUAL_START_NS)
    scenario = parse_scenario("name: x\nduration: 1s\ngroups: { f: { profile: E7, count: 2, fidelity: full } }\n")
    platform = SessionPlatform(received=lambda _event, _now_ns: None)
    run = Run(scenario, 1, kernel=kernel, uplink=lambda _index: MemoryUplink(kernel, platform, delay_ns=0))
    units = [each.unit for each in run.units.values()]
    slaves = [slave.node for unit in units for slave in unit.slaves]
    assert {node.flash.own_bytes for node in (*slaves, *(unit.master.node for unit in units))} == {0}
    node = slaves[0]
    shared, operations = node.flash.dump(), node.flash.operations
    node.flash = FlashModel(node.flash.size_bytes, seed="by itself")
    node.new_store().install_factory(factory_images("E7").slave)
    assert (node.flash.dump(), node.flash.operations) == (shared, operations)
    assert {other.flash.dump() for other in slaves} == {shared}
