"""Worn cells and power cuts anywhere in a node's flash: an intact image boots, and what the journal said stays said.

Method: random lives of one node on a small flash, drawn from a seed. Each life has one worn cell, in one of the areas, from some
moment on; cuts leave cells that read differently each time. A model beside it knows what has been promised: what a method
returned counts, what it raised did not happen, what a cut interrupted may be either, until it has been read once.
"""

from __future__ import annotations

import hashlib
from random import Random

import pytest
from bmsota_sim.devices.flash import CellFault, PowerCut
from long_run import LONG, seeds

from bmsota.boot import BootReason
from bmsota.errors import FlashError, ImageError, LocalProtocolError, TrustError

LIVES = 2000 if LONG else 150
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
        try:
            self.parts.stage(self.store, self.parts.make_image("2.9.0", 9))
            self.store.request_test()
            self.power_on()
            if self.result.reason is BootReason.TEST:
                self.store.confirm()
        except REFUSALS as refusal:
            assert self.fault, refusal
        self.power_on()
        assert self.store.security_counter >= counter
        if not self.fault.startswith("slot"):
            assert self.result.facts.security_counter >= self.store.security_counter


@pytest.mark.long
@pytest.mark.parametrize("block", seeds(), ids="seed{}".format)
def test_random_lives_with_a_worn_cell(parts, block):
    for seed in range(block * LIVES, (block + 1) * LIVES):
        life = Life(parts, seed)
        try:
            life.live()
        except BaseException as error:
            error.add_note(f"life {seed}: {life.fault}")
            raise
