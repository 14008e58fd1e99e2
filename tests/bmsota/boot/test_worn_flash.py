"""Worn cells and power cuts anywhere in a node's flash: an intact image boots, and what the journal said stays said.

Method: random lives of one node on a small flash, drawn from a seed. Each life has one worn cell, in one of the areas, from some
moment on; cuts leave cells that read differently each time. A model beside it knows what has been promised: what a method
returned counts, what it raised did not happen, what a cut interrupted may be either, until it has been read once.
"""

from __future__ import annotations

import copy
import hashlib
from random import Random

import pytest
from bmsota_sim.devices.flash import CellFault, PowerCut
from long_run import LONG, phases_at, seeds, thinned

from bmsota.boot import BootReason, SlotState
from bmsota.errors import FlashError, FlashWornError, ImageError, LocalProtocolError, TrustError

LIVES = 2000 if LONG else 60
PHASES = ("before", "inside", "after")
REFUSALS = (FlashError, ImageError, TrustError, LocalProtocolError)


class Life:
    """One node, what befalls it, and what it has promised."""

    def __init__(self, parts, seed):
        self.random = Random(f"worn {seed}")
        self.parts = parts
        self.device = parts.Device(
            seed=seed, cuts_are_unstable=True, write_unit_bytes=self.random.choice((8, 8, 32)), journal_bytes=1024
        )
        self.flash = self.device.flash
        self.images = [parts.make_image(f"2.{number}.0", number + 1) for number in range(8)]
        self.fault = ""
        self.value = None  # of the record, as promised
        self.maybe = []  # what an interrupted write may have left
        self.has_image_store = self.random.randrange(2) == 0
        self.power_on()

    # -- the flash

    def wear(self):
        """One worn cell, where it matters: journal heads and records, the images."""
        layout, random = self.device.layout, self.random
        fault = random.choice(list(CellFault))
        area = random.choice(("journal 0", "journal 1", "slot 0", "slot 1"))
        kind, index = area.split()
        if kind == "journal":
            offset = layout.journal_offsets[int(index)] + random.choice((random.randrange(16), random.randrange(400)))
        else:
            offset = layout.slot_offsets[int(index)] + random.randrange(2400)
        bit = random.randrange(8)
        self.flash.wear(fault, offset, bit)
        self.fault = f"{area}: {fault.value} at {offset}.{bit}"

    def plan_cut(self):
        self.flash.clear_cuts()
        if self.random.randrange(3) == 0:
            operation = self.flash.operations + self.random.randint(1, 12)
            self.flash.cut_at(operation, self.random.choice(("before", "inside", "inside", "after")))

    # -- the node

    def power_on(self):
        self.store, self.result = self.device.power_on()
        self.check()

    def check(self):
        """An intact image boots; the record is one of those it may be, and from now on that one."""
        assert self.result.slot is not None or not self.intact_images(), "an intact image does not boot"
        found = self.store.get_record("kept")
        assert found in [self.value, *self.maybe], (found, self.value, self.maybe)
        self.value, self.maybe = found, []

    def intact_images(self):
        """Genuine images in the slots that the counter allows and no worn cell touches, by the cells themselves."""
        if self.device.spare_images:
            return True
        cells, _ = self.flash.dump()
        worn = {*self.flash._unstable, *self.flash._torn}
        worn |= {place + index for place in self.flash._unreadable for index in range(self.flash.write_unit_bytes)}
        return [
            image
            for image in (self.parts.OLD, *self.images)
            for start in self.device.layout.slot_offsets
            if cells[start : start + len(image)] == image
            and not worn & set(range(start, start + len(image)))
            and self.device.verify(image).security_counter >= self.store.security_counter
        ]

    def guarded(self, call, *arguments):
        """What the node is asked to do: done (true), refused (false), or interrupted by a cut (None) and restarted."""
        try:
            call(*arguments)
        except PowerCut:
            self.power_on()
            return None
        except REFUSALS:
            return False
        return True

    def put(self):
        value = b"%d" % self.random.randrange(10**6) * self.random.randint(1, 20)
        self.maybe = [value]
        if self.guarded(self.store.put_record, "kept", value) is None:
            return
        assert self.store.get_record("kept") == value
        if self.store.worn:
            # It counts until the power goes; later either may be read.
            self.maybe = [value, self.value]
        else:
            self.value, self.maybe = value, []

    def upgrade(self):
        image = self.images[self.random.randrange(len(self.images))]
        if self.has_image_store and self.device.verify(image).security_counter >= self.store.security_counter:
            self.device.spare_images = [image]
        if not self.guarded(self.parts.stage, self.store, image):
            return
        if not self.guarded(self.store.request_test):
            return
        self.power_on()
        if self.result.reason is not BootReason.TEST:
            return
        assert self.store.slots[self.result.slot].sha256 == hashlib.sha256(image).digest()
        if self.random.randrange(4) == 0:
            self.power_on()  # It hangs.
            assert self.result.reason is not BootReason.TEST
            return
        counter = self.store.security_counter
        done = self.guarded(self.store.confirm)
        if done:
            assert self.store.security_counter >= counter
            self.power_on()
            assert self.result.slot == self.store.active_slot
            if not self.fault.startswith("slot"):
                assert str(self.result.facts.version) == str(self.device.verify(image).version)

    def back_up(self):
        for _ in range(10):
            done = self.guarded(self.store.back_up_block)
            if done is None or not self.store.wants_back_up:
                return

    def live(self):
        steps = [self.put, self.put, self.upgrade, self.upgrade, self.back_up, self.power_on]
        worn_at = self.random.randrange(12)
        for step in range(16):
            if step == worn_at:
                self.wear()
            self.plan_cut()
            self.random.choice(steps)()
        self.flash.clear_cuts()
        self.power_on()
        if self.result.slot is None:
            return
        counter = self.store.security_counter
        # The next upgrade is good, or refused with a name.
        if self.guarded(self.parts.stage, self.store, self.parts.make_image("2.9.0", 9)):
            if self.guarded(self.store.request_test):
                self.power_on()
            if self.result.reason is BootReason.TEST:
                self.guarded(self.store.confirm)
        self.power_on()
        assert self.store.security_counter >= counter
        if not self.fault.startswith("slot"):
            assert self.result.facts.security_counter >= self.store.security_counter


# -- one case each


def updated(device, parts):
    """The new image is confirmed, and the counter refuses the old one. The store of a further power-on."""
    store, _ = device.power_on()
    parts.stage(store, parts.NEW)
    store.request_test()
    store, _ = device.power_on()
    store.confirm()
    return device.power_on()[0]


def back_up(store):
    """Copy until there is nothing more to do; the number of blocks."""
    assert store.wants_back_up
    blocks = 1
    while store.back_up_block():
        blocks += 1
    assert not store.wants_back_up
    return blocks


def rot(device, slot, *, fault="unreadable"):
    device.flash.wear(fault, device.layout.slot_offsets[slot] + 1000)


def test_an_image_that_rots_is_replaced_by_its_copy(device, parts):
    store = updated(device, parts)
    active, size = store.active_slot, len(parts.NEW)
    assert back_up(store) == -(-size // device.flash.erase_block_bytes)
    rot(device, active)
    store, result = device.power_on()
    assert (result.slot, result.reason, parts.version(result)) == (1 - active, BootReason.FALLBACK, "2.1.0")
    assert store.slots[active].state is SlotState.BAD
    _, result = device.power_on()
    assert (result.slot, result.reason) == (1 - active, BootReason.NORMAL)


@pytest.mark.parametrize("fault", ["unreadable", "not programmed"])
def test_a_new_device_copies_its_factory_image_and_outlives_its_rot(device, parts, fault):
    """One slot write, once; before it, the first cell that rots would be the end."""
    store, _ = device.power_on()
    active = store.active_slot
    assert back_up(store) == -(-store.slots[active].size_bytes // device.flash.erase_block_bytes)
    assert not device.power_on()[0].wants_back_up
    rot(device, active)
    if fault != "unreadable":
        device.flash.flip_bit(device.layout.slot_offsets[active] + 500, 3)
    store, result = device.power_on()
    assert (result.slot, result.reason, parts.version(result)) == (1 - active, BootReason.FALLBACK, "2.0.0")


def test_an_upgrade_that_comes_before_the_first_copy_is_done_takes_its_place(device, parts):
    store, _ = device.power_on()
    assert store.back_up_block()
    parts.stage(store, parts.NEW)
    assert not store.wants_back_up
    store.request_test()
    _, result = device.power_on()
    assert (parts.version(result), result.reason) == ("2.1.0", BootReason.TEST)


@pytest.mark.slow
def test_power_may_fail_at_any_operation_of_the_copy(parts):
    first = parts.Device()
    updated(first, parts)
    count = first.flash.operations
    back_up(first.power_on()[0])
    for operation in range(count + 1, first.flash.operations + 1):
        for phase in ("before", "inside", "after"):
            device = parts.Device(cuts_are_unstable=True)
            store = updated(device, parts)
            device.flash.cut_at(operation, phase)
            with pytest.raises(PowerCut):
                back_up(store)
            store, result = device.power_on()
            assert (parts.version(result), result.reason) == ("2.1.0", BootReason.NORMAL)
            if store.wants_back_up:
                back_up(store)
            rot(device, result.slot)
            assert parts.version(device.power_on()[1]) == "2.1.0"


def test_a_copy_never_replaces_what_could_still_run(device, parts):
    """The old image before the counter rises; an image being staged, staged, or in test."""
    store, _ = device.power_on()
    parts.stage(store, parts.NEW)
    assert not store.wants_back_up
    store.request_test()
    assert not store.wants_back_up
    store, _ = device.power_on()
    assert not store.wants_back_up
    store.confirm(raise_counter=False)
    assert not store.wants_back_up
    store, _ = device.power_on()
    assert not store.wants_back_up
    assert not store.back_up_block()
    store.raise_counter(2)
    assert store.wants_back_up
    store.begin_staging(len(parts.NEXT), hashlib.sha256(parts.NEXT).digest())
    assert not store.wants_back_up


def test_a_slot_that_does_not_keep_the_copy_is_tried_once(device, parts):
    store = updated(device, parts)
    rot(device, store.spare_slot)
    assert store.wants_back_up
    while store.back_up_block():
        pass
    assert store.slots[store.spare_slot].state is SlotState.BAD
    store, result = device.power_on()
    assert not store.wants_back_up
    assert parts.version(result) == "2.1.0"


def test_an_image_from_outside_is_restored_if_no_slot_has_one(device, parts):
    """Only one that the counter allows; its slot is the one that keeps it."""
    store = updated(device, parts)
    active = store.active_slot
    rot(device, active)
    device.spare_images = [b"no image", parts.OLD, parts.NEW[:-1], parts.NEW]
    store, result = device.power_on()
    assert (result.slot, result.reason, parts.version(result)) == (1 - active, BootReason.FALLBACK, "2.1.0")
    assert store.security_counter == 2
    assert device.power_on()[1].reason is BootReason.NORMAL


def test_an_image_from_outside_with_a_lower_counter_is_not(device, parts):
    store = updated(device, parts)
    rot(device, store.active_slot)
    device.spare_images = [parts.OLD]
    assert device.power_on()[1].reason is BootReason.NOTHING


@pytest.mark.slow
@pytest.mark.parametrize("phase", ["before", "inside", "after"])
def test_power_may_fail_while_an_image_is_restored(parts, phase):
    operation = 0
    while True:
        operation += 1
        device = parts.Device(cuts_are_unstable=True)
        rot(device, updated(device, parts).active_slot)
        device.spare_images = [parts.NEW]
        device.flash.cut_at(device.flash.operations + operation, phase)
        _, result = device.power_on()  # as often as it takes
        assert parts.version(result) == "2.1.0"
        if device.flash._cuts:
            break
    assert operation > 5


def test_an_image_the_journal_does_not_know_runs_if_nothing_else_can(device, parts):
    """The power went while it was staged, its last byte was there: genuine is genuine."""
    store, _ = device.power_on()
    store.begin_staging(len(parts.NEW), hashlib.sha256(parts.NEW).digest())
    store.write_staged(0, parts.NEW)
    rot(device, store.active_slot)
    _, result = device.power_on()
    assert (parts.version(result), result.reason) == ("2.1.0", BootReason.FALLBACK)


def test_a_node_boots_when_both_heads_of_its_journal_are_lost(device, parts):
    store = updated(device, parts)
    for start in device.layout.journal_offsets:
        device.flash.wear("unreadable", start)
    store, result = device.power_on()
    assert store.journal_problem == "boot journal: no boot state can be read; the slots were read instead"
    assert parts.version(result) == "2.1.0"
    assert store.security_counter == 2


def wear_out(device, *areas):
    """No unit of these journal areas keeps anything any more; what stands there stays until it is erased."""
    for area in areas:
        start = device.layout.journal_offsets[area]
        for offset in range(start, start + device.layout.journal_size_bytes):
            for bit in range(8):
                device.flash.wear("not programmed", offset, bit)


def test_a_worn_journal_refuses_a_test_and_boots_what_it_booted_before(device, parts):
    store, _ = device.power_on()
    parts.stage(store, parts.NEW)
    wear_out(device, 0, 1)
    with pytest.raises(FlashWornError, match=r"flash worn: journal area \d does not keep what is written to it"):
        store.request_test()
    assert store.worn
    for _ in range(3):
        store, result = device.power_on()
        assert (parts.version(result), result.reason) == ("2.0.0", BootReason.NORMAL)


def test_a_test_that_cannot_be_recorded_does_not_begin(device, parts):
    """It might never end: the next boot would not know of it."""
    store, _ = device.power_on()
    parts.stage(store, parts.NEW)
    store.request_test()
    wear_out(device, 0, 1)
    for _ in range(3):
        store, result = device.power_on()
        assert (parts.version(result), result.reason) == ("2.0.0", BootReason.NORMAL)
        assert store.worn


def test_a_test_whose_end_cannot_be_recorded_ends_all_the_same(device, parts):
    store, _ = device.power_on()
    parts.stage(store, parts.NEW)
    store.request_test()
    store, result = device.power_on()
    assert result.reason is BootReason.TEST
    wear_out(device, 0, 1)
    with pytest.raises(FlashWornError):
        store.confirm(raise_counter=False)
    for _ in range(3):
        _, result = device.power_on()
        assert (parts.version(result), result.reason) == ("2.0.0", BootReason.REVERTED)


def test_an_application_record_that_cannot_be_written_lasts_until_the_power_goes(device):
    store, _ = device.power_on()
    store.put_record("kept", b"old")
    wear_out(device, 0, 1)
    store, _ = device.power_on()
    store.put_record("kept", b"new")
    assert (store.get_record("kept"), bool(store.worn)) == (b"new", True)
    assert device.power_on()[0].get_record("kept") == b"old"


def test_a_staged_image_that_reads_differently_each_time_is_refused(device, parts):
    store, _ = device.power_on()
    rot(device, store.spare_slot, fault="unstable")
    refused = 0
    for _ in range(4):
        try:
            parts.stage(store, parts.NEW)
        except FlashError as error:
            assert str(error).startswith("flash worn: slot 1")  # noqa: PT017 - it may pass, one time in eight
            refused += 1
    assert refused


def test_a_piece_that_the_slot_does_not_keep_is_refused_and_its_block_written_again(device, parts):
    store, _ = device.power_on()
    start = device.layout.slot_offsets[store.spare_slot]
    for bit in range(8):
        device.flash.wear("not programmed", start + 700, bit)
    store.begin_staging(len(parts.NEW), hashlib.sha256(parts.NEW).digest())
    store.write_staged(0, parts.NEW[:512])
    with pytest.raises(FlashError, match=r"flash worn: slot 1 does not keep what is written \(offset 512\)"):
        store.write_staged(512, parts.NEW[512:1024])
    assert store.staging_offset == 0
    store.write_staged(0, parts.NEW[:512])


def dead_with_a_worn_spare_slot(parts, fault="unreadable"):
    """The active image has rotted, and the other slot does not keep one."""
    device = parts.Device(cuts_are_unstable=True)
    store = updated(device, parts)
    device.flash.flip_bit(device.layout.slot_offsets[store.active_slot] + 700, 3)
    rot(device, store.spare_slot, fault=fault)
    for bit in range(8):
        device.flash.wear("not programmed", device.layout.slot_offsets[store.spare_slot] + 900, bit)
    store, result = device.power_on()
    assert result.reason is BootReason.NOTHING
    return device, store


@pytest.mark.parametrize("fault", ["unreadable", "not programmed"])
def test_where_nothing_runs_and_the_spare_slot_is_worn_the_damaged_image_makes_way(parts, fault):
    device, store = dead_with_a_worn_spare_slot(parts, fault)
    worn, damaged = store.spare_slot, store.active_slot
    with pytest.raises(FlashError, match=f"flash worn: slot {worn}"):
        parts.stage(store, parts.NEW)
    assert (store.active_slot, store.spare_slot) == (damaged, worn)
    parts.stage(store, parts.NEW)
    assert (store.active_slot, store.spare_slot) == (worn, damaged)
    store.request_test()
    store, result = device.power_on()
    assert (result.slot, result.reason, parts.version(result)) == (damaged, BootReason.TEST, "2.1.0")
    store.confirm()
    store, result = device.power_on()
    assert (result.slot, result.reason) == (damaged, BootReason.NORMAL)
    assert store.security_counter == 2


def test_an_image_that_runs_never_makes_way_for_a_worn_spare_slot(device, parts):
    store, _ = device.power_on()
    active = store.active_slot
    rot(device, store.spare_slot)
    for _ in range(3):
        with pytest.raises(FlashError, match="flash worn: slot 1"):
            parts.stage(store, parts.NEW)
    assert store.active_slot == active
    assert parts.version(device.power_on()[1]) == "2.0.0"


def test_where_both_slots_are_worn_none_is_changed_for_the_other_again(parts):
    device, store = dead_with_a_worn_spare_slot(parts)
    rot(device, store.active_slot)
    slots = []
    for _ in range(4):
        with pytest.raises(FlashError, match="flash worn: slot"):
            parts.stage(store, parts.NEW)
        slots.append(store.spare_slot)
    assert slots == [slots[0], *[1 - slots[0]] * 3]
    assert device.power_on()[1].reason is BootReason.NOTHING


@pytest.mark.slow
@pytest.mark.parametrize("phase", PHASES)
def test_power_may_fail_while_the_damaged_image_makes_way(parts, phase):
    """It is tried again at the next power-on, twice, as a master does."""
    operation = 0
    while True:
        operation += 1 if LONG else 3
        device, store = dead_with_a_worn_spare_slot(parts)
        device.flash.cut_at(device.flash.operations + operation, phase)
        try:
            restore(device, parts, store)
        except PowerCut:
            store, result = device.power_on()
            if result.slot is None:
                restore(device, parts, store)
        store, result = device.power_on()
        assert parts.version(result) == "2.1.0", operation
        store, result = device.power_on()
        assert (parts.version(result), result.reason, store.security_counter) == ("2.1.0", BootReason.NORMAL, 2)
        if device.flash._cuts:
            break
    assert operation > 20


def restore(device, parts, store):
    """As a master does: staged twice, tested, confirmed."""
    try:
        parts.stage(store, parts.NEW)
    except FlashError:
        parts.stage(store, parts.NEW)
    store.request_test()
    device.power_on()[0].confirm()


@pytest.mark.parametrize("area", [0, 1])
def test_what_a_boot_has_read_as_new_is_never_read_as_old(device, area):
    """The power went between the two copies; then the area that had the record is lost."""
    store, _ = device.power_on()
    store.put_record("kept", b"old")
    device.flash.cut_at(device.flash.operations + 1, "after")
    with pytest.raises(PowerCut):
        store.put_record("kept", b"new")
    assert device.power_on()[0].get_record("kept") == b"new"
    device.flash.wear("unreadable", device.layout.journal_offsets[area])
    assert device.power_on()[0].get_record("kept") == b"new"


# -- one worn cell and one power cut


def with_records(parts):
    device = parts.Device(cuts_are_unstable=True, journal_bytes=1024)
    store = updated(device, parts)
    store.put_record("other", b"other" * 8)
    store.put_record("kept", b"old" * 8)
    return device, store


def behind_a_power_up(parts):
    """The first change renews both areas."""
    device, _ = with_records(parts)
    return device, device.power_on()[0]


def with_room_for_no_more(parts):
    """The areas were filled since power-up; the next change renews them."""
    device, store = with_records(parts)
    while True:
        twin, its_store = copy.deepcopy((device, store))
        put_new(twin, its_store)
        if twin.flash.operations > device.flash.operations + 2:
            return device, store
        store.put_record("kept", b"%d" % device.flash.operations * 8)
        store.put_record("kept", b"old" * 8)


def behind_a_cut_between_two_copies(parts):
    """The record stands in one area; the next boot renews both."""
    device, store = with_records(parts)
    device.flash.cut_at(device.flash.operations + 1, "after")
    with pytest.raises(PowerCut):
        put_new(device, store)
    device.flash.power_on()
    return device, None


def put_new(device, store):
    if store is None:
        store = device.store()
        store.boot()
    store.put_record("kept", b"new" * 8)


@pytest.mark.slow
@pytest.mark.parametrize("fault", ["unreadable", "unstable"])
@pytest.mark.parametrize("ready", [behind_a_power_up, with_room_for_no_more, behind_a_cut_between_two_copies])
def test_one_cell_wears_out_and_the_power_fails_in_the_next_change(parts, ready, fault):
    """Any used unit of the journal, any operation of the change: nothing else is lost, and the change is there or not."""
    device, store = ready(parts)
    twin, its_store = copy.deepcopy((device, store))
    put_new(twin, its_store)
    count = twin.flash.operations - device.flash.operations
    assert count >= 10
    unit = device.flash.write_unit_bytes
    _, touched = device.flash.dump()
    places = [
        offset
        for start in device.layout.journal_offsets
        for offset in range(start, start + device.layout.journal_size_bytes, unit)
        if touched[offset // unit]
    ]
    assert len(places) > 40
    cuts = 0
    for index, place in enumerate(thinned(places, len(places) // 20)):
        for operation in range(1, count + 1):
            for phase in phases_at(index + operation, PHASES):
                twin, its_store = copy.deepcopy((device, store))
                twin.flash.wear(fault, place + index % unit, operation % 8)
                twin.flash.cut_at(twin.flash.operations + operation, phase)
                where = (place, operation, phase)
                try:
                    put_new(twin, its_store)
                except PowerCut:
                    cuts += 1
                except FlashWornError as error:
                    raise AssertionError(where) from error
                twin.flash.clear_cuts()
                after, result = twin.power_on()
                assert (parts.version(result), after.security_counter) == ("2.1.0", 2), where
                assert after.get_record("other") == b"other" * 8, where
                value = after.get_record("kept")
                assert value in {b"old" * 8, b"new" * 8}, where
                after, _ = twin.power_on()
                assert after.get_record("kept") == value, where
                after.put_record("kept", b"next" * 8)
                assert after.worn or twin.power_on()[0].get_record("kept") == b"next" * 8, where
    assert cuts > 100


# -- random lives


def live(parts, seed):
    life = Life(parts, seed)
    try:
        life.live()
    except BaseException as error:
        error.add_note(f"life {seed}: {life.fault}")
        raise


@pytest.mark.parametrize("seed", [1324, 5608, 6653])
def test_lives_that_once_lost_their_journal(parts, seed):
    """The head of the area that was to stay had worn out since power-up, and the power failed behind the other's erase."""
    live(parts, seed)


@pytest.mark.long
@pytest.mark.parametrize("block", seeds(), ids="seed{}".format)
def test_random_lives_with_a_worn_cell(parts, block):
    for seed in range(block * LIVES, (block + 1) * LIVES):
        live(parts, seed)
