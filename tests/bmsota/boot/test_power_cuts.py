"""A power cut at any flash operation leaves a device that boots the old image or the new one, and can be updated again.

Method (MCUboot's simulator, made stricter): count the flash operations of one undisturbed run; repeat it, cut before,
inside and after operation 1, 2, ... n; power up again; ask which image runs; then do another update completely. Pairs of
cuts are drawn from seeds: the second one often hits the recovery from the first.
"""

from __future__ import annotations

import copy
from random import Random

import pytest
from bmsota_sim.devices.flash import PowerCut
from long_run import phases_at

from bmsota.boot import BootReason, SlotState
from bmsota.errors import LocalProtocolError

pytestmark = pytest.mark.slow

PHASES = ("before", "inside", "after")


def confirm_plan(device, parts):
    """The master's switch: stage, test, confirm, run on."""
    store, _ = device.power_on_once()
    parts.stage(store, parts.NEW)
    store.request_test()
    store, result = device.power_on_once()
    assert result.reason is BootReason.TEST
    store.confirm()
    return device.power_on_once()


def abandoned_plan(device, parts):
    """The new image never confirms: it hangs, or the watchdog bites."""
    store, _ = device.power_on_once()
    parts.stage(store, parts.NEW)
    store.request_test()
    device.power_on_once()
    return device.power_on_once()


def revert_in_test_plan(device, parts):
    """The self-test fails and the updater takes the new image back."""
    store, _ = device.power_on_once()
    parts.stage(store, parts.NEW)
    store.request_test()
    store, _ = device.power_on_once()
    store.revert()
    return device.power_on_once()


def revert_after_confirm_plan(device, parts):
    """The pack goes back together: this node had confirmed already, its counter had not risen yet."""
    store, _ = device.power_on_once()
    parts.stage(store, parts.NEW)
    store.request_test()
    store, _ = device.power_on_once()
    store.confirm(raise_counter=False)
    store.revert()
    return device.power_on_once()


def pack_confirm_plan(device, parts):
    """Confirm first, raise the counter when the whole pack has confirmed; the updater notes its state each time."""
    store, _ = device.power_on_once()
    store.put_record("updater", b"staging")
    parts.stage(store, parts.NEW)
    store.put_record("updater", b"testing" * 20)
    store.request_test()
    store, _ = device.power_on_once()
    store.confirm(raise_counter=False)
    store.put_record("updater", b"confirmed" * 20)
    store.raise_counter(2)
    store.delete_record("updater")
    return device.power_on_once()


PLANS = {
    confirm_plan: "2.1.0",
    abandoned_plan: "2.0.0",
    revert_in_test_plan: "2.0.0",
    revert_after_confirm_plan: "2.0.0",
    pack_confirm_plan: "2.1.0",
}


def prepared(parts, **options):
    device = parts.Device(**options)

    def power_on_once():
        device.flash.power_on()
        store = device.store()
        return store, store.boot()

    device.power_on_once = power_on_once
    return device


def cut_device(parts, snapshot, operation, phase, later=()):
    """A copy of the prepared device that will lose its power at these operations."""
    device = prepared(parts, factory=None)
    device.flash = snapshot.twin_flash()
    device.flash.cut_at(operation, phase)
    for more, its_phase in later:
        device.flash.cut_at(more, its_phase)
    return device


def check_after_cuts(device, parts):
    """The device boots one of the two images, and the next update succeeds."""
    store, result = device.power_on()
    assert result.slot is not None, "neither image boots"
    assert parts.version(result) in {"2.0.0", "2.1.0"}
    for _ in range(6):  # Planned cuts may still hit.
        try:
            if store.is_test_pending:
                store.revert()
                store, result = device.power_on()
            parts.stage(store, parts.NEXT)
            store.request_test()
            store, result = device.power_on()
            if result.reason is BootReason.TEST:
                store.confirm()
                break
        except PowerCut:
            store, result = device.power_on()
            assert parts.version(result) in {"2.0.0", "2.1.0", "2.2.0"}
            if parts.version(result) == "2.2.0" and result.reason is BootReason.NORMAL:
                break
    device.flash.clear_cuts()
    store, result = device.power_on()
    assert (parts.version(result), result.reason) == ("2.2.0", BootReason.NORMAL)
    assert store.slots[result.slot].state is SlotState.CONFIRMED
    assert store.security_counter == 3
    return store


class Snapshot:
    def __init__(self, device):
        self._device = device

    def twin_flash(self):
        return copy.deepcopy(self._device.flash)


@pytest.mark.long
@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.__name__)
@pytest.mark.parametrize("write_unit_bytes", [8, 32])
def test_power_may_fail_at_any_flash_operation(parts, plan, write_unit_bytes):
    """Every operation of the plan, before, inside and after; in `make test` one of them, another one for each write unit."""
    device = prepared(parts, write_unit_bytes=write_unit_bytes)
    snapshot = Snapshot(device)
    undisturbed = prepared(parts, factory=None)
    undisturbed.flash = snapshot.twin_flash()
    first = undisturbed.flash.operations + 1
    _, result = plan(undisturbed, parts)
    assert parts.version(result) == PLANS[plan]
    last = undisturbed.flash.operations
    assert last - first >= 12
    for operation in range(first, last + 1):
        for phase in phases_at(operation + write_unit_bytes // 32, PHASES):
            device = cut_device(parts, snapshot, operation, phase)
            with pytest.raises(PowerCut):
                plan(device, parts)
            check_after_cuts(device, parts)


@pytest.mark.parametrize("plan", PLANS, ids=lambda plan: plan.__name__)
def test_power_may_fail_twice(parts, plan):
    """Pairs of cuts, drawn from the seed: the second one comes up to 25 operations after the first."""
    device = prepared(parts)
    snapshot = Snapshot(device)
    undisturbed = prepared(parts, factory=None)
    undisturbed.flash = snapshot.twin_flash()
    first = undisturbed.flash.operations + 1
    plan(undisturbed, parts)
    last = undisturbed.flash.operations
    rng = Random(f"pairs/{plan.__name__}")
    for _ in range(60):
        operation = rng.randint(first, last)
        second = operation + rng.randint(1, 25)
        device = cut_device(parts, snapshot, operation, rng.choice(PHASES), [(second, rng.choice(PHASES))])
        with pytest.raises(PowerCut):
            plan(device, parts)
        check_after_cuts(device, parts)


def test_power_may_fail_while_the_factory_installs(parts):
    """A device that never had an image can be installed again after any cut."""
    undisturbed = prepared(parts)
    for operation in range(1, undisturbed.flash.operations + 1):
        for phase in PHASES:
            device = prepared(parts, factory=None)
            device.flash.cut_at(operation, phase)
            with pytest.raises(PowerCut):
                device.store().install_factory(parts.OLD)
            device.flash.power_on()
            store = device.store()
            if store.active_slot is None:
                store.install_factory(parts.OLD)
            else:
                with pytest.raises(LocalProtocolError):
                    store.install_factory(parts.OLD)
            _, result = device.power_on()
            assert (parts.version(result), result.reason) == ("2.0.0", BootReason.NORMAL)


@pytest.mark.long
def test_records_keep_the_old_value_or_the_new_one(parts):
    """Fifty values through several changes of the journal's area, cut at every operation: never a third value."""

    def write_all(device):
        store = device.store()
        for index in range(50):
            store.put_record("state", b"%03d" % index * 30)
        return store

    undisturbed = prepared(parts)
    first = undisturbed.flash.operations + 1
    write_all(undisturbed)
    last = undisturbed.flash.operations
    for operation in range(first, last + 1):
        for phase in phases_at(operation, PHASES):
            device = prepared(parts)
            device.flash.cut_at(operation, phase)
            store = device.store()
            done = None
            try:
                for index in range(50):
                    store.put_record("state", b"%03d" % index * 30)
                    done = index
            except PowerCut:
                device.flash.power_on()
            attempted = 0 if done is None else done + 1
            found = device.store().get_record("state")
            allowed = {b"%03d" % attempted * 30, None if done is None else b"%03d" % done * 30}
            assert found in allowed
            _, result = device.power_on()
            assert parts.version(result) == "2.0.0"
            device.store().put_record("state", b"after")
            assert device.store().get_record("state") == b"after"
