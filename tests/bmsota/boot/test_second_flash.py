"""The flash model that all tests of the boot store rest on is compared, byte by byte, with a second one written without it."""

from __future__ import annotations

import hashlib
from random import Random

import pytest
from bmsota_sim.devices.flash import CutPhase, FlashModel, PowerCut
from second_flash import TwinFlash

from bmsota.boot import SlotState
from bmsota.errors import LocalProtocolError


def twin_device(parts, seed, model=FlashModel):
    device = parts.Device(factory=None)
    device.flash = TwinFlash(model(16 * 1024, erase_block_bytes=1024, seed=seed))
    device.store().install_factory(parts.OLD)
    return device


def live(device, parts, seed, acts=30):
    """A life of a boot store: images, tests, records, copies, and the power that fails in between."""
    random = Random(f"second flash {seed}")
    store, result = device.power_on()
    cuts = 0
    for _ in range(acts):
        if random.random() < 0.3:
            device.flash.cut_at(device.flash.operations + random.randint(1, 12), random.choice(list(CutPhase)))
        try:
            act(store, parts, random)
            if random.random() < 0.4:
                store, result = device.power_on()
        except LocalProtocolError:
            pass  # Not now: an image is in test, or there is nothing to test.
        except PowerCut:
            cuts += 1
            store, result = device.power_on()
        assert result.facts is not None, "the device is dead"
    device.flash.clear_cuts()
    device.flash.compare_all()
    return cuts


def act(store, parts, random):
    what = random.randrange(7)
    if what < 2:
        image = random.choice([parts.NEW, parts.NEXT])
        offset = store.begin_staging(len(image), hashlib.sha256(image).digest())
        store.write_staged(offset, image[offset : offset + 512]) if offset < len(image) else store.finish_staging()
    elif what == 2:
        store.request_test()
    elif what == 3:
        store.confirm(raise_counter=False)
    elif what == 4:
        store.back_up_block()
    else:
        store.put_record(random.choice(["updater", "trust"]), random.randbytes(random.randrange(1, 200)))


@pytest.mark.parametrize("seed", range(6))
def test_both_models_hold_the_same_bytes_through_a_life_with_power_cuts(parts, seed):
    device = twin_device(parts, seed)
    assert live(device, parts, seed) > 0
    assert device.flash.compared_bytes > 500_000


def test_a_whole_upgrade_is_the_same_on_both(parts):
    device = twin_device(parts, 0)
    store, _ = device.power_on()
    parts.stage(store, parts.NEW)
    store.request_test()
    store, _ = device.power_on()
    store.confirm()
    while store.back_up_block():
        pass
    device.flash.compare_all()
    store, result = device.power_on()
    assert parts.version(result) == "2.1.0"
    assert [slot.state for slot in store.slots] == [SlotState.STAGED, SlotState.CONFIRMED]


class WritesTooLittle(FlashModel):
    def write(self, offset, data):
        super().write(offset, data)
        self._cells[offset + len(data) - 1] = 0xFF


class ErasesTooMuch(FlashModel):
    def erase(self, offset):
        super().erase(offset)
        if offset:
            self._cells[offset - 1] = 0xFF


class TearsUpwards(FlashModel):
    def _write_partially(self, offset, data):
        super()._write_partially(offset, data)
        self._cells.write(offset, bytes(len(data)))


class ErasesToZero(FlashModel):
    def _erase_partially(self, offset):
        super()._erase_partially(offset)
        self._cells[offset] = 0


@pytest.mark.parametrize("model", [WritesTooLittle, ErasesTooMuch, TearsUpwards, ErasesToZero])
def test_a_model_that_is_wrong_is_found_out(parts, model):
    def some_lives():
        for seed in range(20):
            live(twin_device(parts, seed, model), parts, seed)

    with pytest.raises(AssertionError, match=r"differs|other bytes|a zero|behind the place"):
        some_lives()
