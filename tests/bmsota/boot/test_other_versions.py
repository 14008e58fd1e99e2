"""A boot journal of another version: read, or refused by name and replaced by what the slots themselves say.

The older flash is of commit 231c49c, see tests/data/records/README.md.
"""

from __future__ import annotations

import lzma
from contextlib import suppress
from pathlib import Path
from zlib import crc32

import cbor2
import pytest
from bmsota_sim.devices.flash import FlashModel, PowerCut

from bmsota.boot import BootReason, BootStore, SlotLayout, SlotState
from bmsota.boot._journal import HEAD_BYTES, Record, RecordKind
from bmsota.errors import LocalProtocolError

DATA = Path(__file__).parents[2] / "data" / "records"


def seal(flash, offset, version):
    """Give the area at *offset* a head of another layout, as a later version would write it."""
    cells, touched = flash.dump()
    head = cells[offset : offset + HEAD_BYTES]
    head = head[:4] + version.to_bytes(4, "little") + head[8:12]
    head += crc32(head).to_bytes(4, "little")
    flash.load(cells[:offset] + head + cells[offset + HEAD_BYTES :], touched)


def seal_both(flash, store, version):
    """The same for both areas, which are copies of each other."""
    for offset in store._layout.journal_offsets:
        seal(flash, offset, version)


def test_a_slave_goes_on_receiving_where_an_older_version_was_switched_off():
    flash = FlashModel(64 * 1024, seed="slave")
    flash.load(*cbor2.loads(lzma.decompress((DATA / "flashes.cbor.xz").read_bytes()))["slave"])
    layout = SlotLayout.divide(flash, journal_size_bytes=8 * 1024)
    store = BootStore(flash, layout, verify=lambda _data: None)
    assert store.journal_problem == ""
    info = store.slots[store.spare_slot]
    assert (info.state, info.progress_bytes) == (SlotState.STAGING, 4096)
    assert store.begin_staging(info.size_bytes, info.sha256) == 4096


class Updated:
    """A device that has confirmed a second image; `power_on` restarts it."""

    def __init__(self, parts):
        self.device = parts.Device()
        self.flash = self.device.flash
        store = self.power_on()
        parts.stage(store, parts.NEW)
        store.request_test()
        store = self.power_on()
        store.confirm(raise_counter=False)
        store.put_record("kept", b"value")

    def power_on(self):
        self.store, self.result = self.device.power_on()
        return self.store


@pytest.fixture
def updated(parts):
    return Updated(parts)


def test_a_newer_journal_is_refused_by_name_and_the_newest_image_boots(updated, parts):
    """It is the one most likely to have written it. The unit says so, and takes the next image."""
    seal_both(updated.flash, updated.store, 2)
    store = updated.power_on()
    assert store.journal_problem == (
        "boot journal: layout 2 is newer than this version reads (1); the slots were read instead"
    )
    assert (parts.version(updated.result), updated.result.reason) == ("2.1.0", BootReason.NORMAL)
    assert store.security_counter == 2
    assert store.get_record("kept") is None
    parts.stage(store, parts.NEXT)
    store.request_test()
    store = updated.power_on()
    assert (store.journal_problem, parts.version(updated.result)) == ("", "2.2.0")
    store.confirm()


def test_a_newer_journal_is_not_the_first_to_be_erased(updated):
    """One copy stays, and the newer version finds it again, as long as this one has written little."""
    seal_both(updated.flash, updated.store, 2)
    newer = updated.store._layout.journal_offsets[1 - updated.store._journal._oldest()]
    before = updated.flash.dump()[0][newer : newer + updated.store._layout.journal_size_bytes]
    store = updated.power_on()
    store.put_record("ours", b"1")
    assert updated.flash.dump()[0][newer : newer + store._layout.journal_size_bytes] == before
    assert updated.power_on().get_record("ours") == b"1"


def test_a_power_cut_at_any_write_behind_a_newer_journal_is_survived(updated, parts):
    """Ours is complete, or the newer one is still the newest and the slots are read again."""
    seal_both(updated.flash, updated.store, 2)
    kept = updated.flash.dump()
    operation = 0
    while True:
        operation += 1
        updated.flash.clear_cuts()
        updated.flash.load(*kept)
        store = updated.power_on()
        first = updated.flash.operations
        updated.flash.cut_at(first + operation, "inside")
        try:
            store.put_record("ours", b"1")
        except PowerCut:
            store = updated.power_on()
            assert parts.version(updated.result) == "2.1.0"
            assert store.get_record("ours") in {None, b"1"}
            continue
        break
    assert operation > 3


def test_nothing_genuine_in_the_slots_of_a_newer_journal(updated):
    """Then no image can run, as always; nothing is written."""
    seal_both(updated.flash, updated.store, 2)
    for offset in updated.store._layout.slot_offsets:
        updated.flash.flip_bit(offset + 100, 1)
    operations = updated.flash.operations
    updated.power_on()
    assert updated.result.reason is BootReason.NOTHING
    assert updated.flash.operations == operations


def append(store, kind, payload):
    store.put_record("padding", b"1")
    assert store._journal.append(Record(kind, payload))


@pytest.mark.parametrize("cut", [1, 10, 40])
def test_a_boot_state_one_field_short_is_replaced_by_what_the_slots_say(updated, parts, cut):
    payload = updated.store._state.serialize()
    append(updated.store, RecordKind.STATE, payload[:-cut])
    store = updated.power_on()
    assert store.journal_problem.startswith("boot journal: the boot state cannot be read (")
    assert parts.version(updated.result) == "2.1.0"
    assert store.get_record("kept") == b"value"
    parts.stage(store, parts.NEXT)


@pytest.mark.parametrize("payload", [b"\x07" + bytes(4), b"\x00" + bytes(4) + b"\x63"])
def test_a_boot_state_with_unknown_values_is_replaced_by_what_the_slots_say(updated, parts, payload):
    """An active slot 7; a slot in a state of a later version."""
    whole = updated.store._state.serialize()
    append(updated.store, RecordKind.STATE, payload + whole[len(payload) :])
    store = updated.power_on()
    assert "boot journal: the boot state cannot be read" in store.journal_problem
    assert parts.version(updated.result) == "2.1.0"


def test_what_a_later_version_adds_to_the_boot_state_is_kept(updated):
    append(updated.store, RecordKind.STATE, updated.store._state.serialize() + b"later")
    store = updated.power_on()
    assert store.journal_problem == ""
    store.raise_counter(2)
    store = updated.power_on()
    assert (store.security_counter, store._state.unknown) == (2, b"later")


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x09\x00\x00\x00\x00"])
def test_a_progress_record_that_cannot_be_read_costs_only_progress(updated, parts, payload):
    append(updated.store, RecordKind.PROGRESS, payload)
    store = updated.power_on()
    assert parts.version(updated.result) == "2.1.0"
    parts.stage(store, parts.NEXT)


def test_records_of_an_unknown_kind_are_kept_while_there_is_room(updated):
    """They are not ours to drop; our own records come first."""
    append(updated.store, 99, b"of a later version")
    for _ in range(3):
        store = updated.power_on()
        store.put_record("ours", store.journal_sequence.to_bytes(4, "big"))
        assert [record.payload for record in store._journal.foreign] == [b"of a later version"]
    size = store._layout.journal_size_bytes
    while store.get_record("large") is None:
        size -= 8
        with suppress(LocalProtocolError):
            store.put_record("large", bytes(size))
    store = updated.power_on()
    assert store.get_record("large") == bytes(size)
    assert store._journal.foreign == []
